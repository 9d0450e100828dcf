"""What flows share: the standard normal base density as a triple, samples that are checked, and a fit by Adam."""
import dataclasses
import math
import time

import numpy as np

from refnode.errors import InvalidInputError
from refnode.optimisers import Adam


# --- the base density -----------------------------------------------------------------------------

def normal_log_density(z):
    """log N(z; 0, I) = -|z|² / 2 - d log(2π) / 2 (batch,), of z (batch, d)."""
    return -0.5 * np.sum(z * z, axis=1) - 0.5 * z.shape[1] * math.log(2.0 * math.pi)


def normal_log_density_jvp(z, z_tan):
    """Tangent of `normal_log_density`: -z . z_tan."""
    return -np.sum(z * z_tan, axis=1)


def normal_log_density_vjp(z, log_p_bar):
    """z_bar = -z log_p_bar."""
    return -z * log_p_bar[:, None]


def normal_log_density_hvp(z, z_tan, log_p_bar, log_p_bar_tan):
    """Tangent of `normal_log_density_vjp`."""
    return -z_tan * log_p_bar[:, None] - z * log_p_bar_tan[:, None]


# --- samples --------------------------------------------------------------------------------------

def checked_samples(x, d, name="x"):
    """Samples as a float64 array of shape (batch, d).

    Raises
    ------
    InvalidInputError
        If the shape is another, the batch is empty, or an entry is not finite; the message names its index.
    """
    x = np.asarray(x, dtype=np.float64)
    if x.ndim != 2 or x.shape[1] != d:
        raise InvalidInputError(f"{name} must have shape (batch, {d}), found {x.shape}")
    if len(x) == 0:
        raise InvalidInputError(f"{name} must hold at least one sample, found none")
    if not np.isfinite(x).all():
        bad = tuple(int(i) for i in np.argwhere(~np.isfinite(x))[0])
        raise InvalidInputError(f"{name} must be finite, found {x[bad]} at index {bad}")
    return np.ascontiguousarray(x)


# --- the fit --------------------------------------------------------------------------------------

@dataclasses.dataclass
class FitHistory:
    """Iteration by iteration: the loss, evaluations forwards (0 without an ODE), and seconds since the fit began."""

    loss: list = dataclasses.field(default_factory=list)
    nfe: list = dataclasses.field(default_factory=list)
    seconds: list = dataclasses.field(default_factory=list)


def minimised(theta, loss_and_gradient, draw, iterations, learning_rates=(1e-2, 1e-3), seed=0, progress=None, every=100):
    """theta after ``iterations`` steps of Adam, and the `FitHistory`.

    Parameters
    ----------
    theta : ndarray, shape (p,)
    loss_and_gradient : callable
        ``loss_and_gradient(theta, batch) -> loss, grad, stats``; not random itself.
    draw : callable
        ``draw(rng)`` gives the next batch, with all that is random about it.
    learning_rates : (float, float)
        Of the first and of the last step; between them half a cosine.
    progress : callable, optional
        Handed a line of text every ``every`` iterations.

    Raises
    ------
    InvalidInputError
        If ``iterations`` is not positive, or the gradient becomes non-finite.
    """
    if int(iterations) != iterations or iterations < 1:
        raise InvalidInputError(f"iterations must be a positive integer, found {iterations!r}")
    rng, optimiser, history, started = np.random.default_rng(seed), Adam(learning_rates[0]), FitHistory(), time.perf_counter()
    first, last = learning_rates
    for done in range(int(iterations)):
        optimiser.learning_rate = last + 0.5 * (first - last) * (1.0 + math.cos(math.pi * done / iterations))
        loss, grad, stats = loss_and_gradient(theta, draw(rng))
        theta = optimiser.step(theta, grad)
        history.loss.append(float(loss))
        history.nfe.append(stats.get("nfev", 0))
        history.seconds.append(time.perf_counter() - started)
        if progress is not None and ((done + 1) % every == 0 or done + 1 == iterations):
            recent = np.mean(history.loss[-every:])
            progress(f"iteration {done + 1:5d}   mean negative log-likelihood {recent:7.4f}   "
                     f"NFE {history.nfe[-1]:4d}   {history.seconds[-1]:6.1f} s")
    return theta, history
