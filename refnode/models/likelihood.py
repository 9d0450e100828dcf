"""What flows share: the standard normal base density as a triple, samples that are checked, and a fit by Adam."""
import math

import numpy as np

from refnode.errors import InvalidInputError
from refnode.models.training import fit
from refnode.optimisers import Adam
from refnode.schedules import CosineDecay


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


def base_samples(count, d, seed):
    """``count`` samples of the base (count, d), or an InvalidInputError."""
    if int(count) != count or count < 1:
        raise InvalidInputError(f"count must be a positive integer, found {count!r}")
    return np.random.default_rng(seed).standard_normal((int(count), d))


# --- the fit --------------------------------------------------------------------------------------

def minimised(theta, loss_and_gradient, draw, iterations, learning_rates=(1e-2, 1e-3), seed=0, progress=None, every=100):
    """theta after ``iterations`` steps of Adam, and the `History`, by `refnode.models.training.fit`.

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
        If ``iterations`` is not positive.
    TrainingError
        If the loss or its gradient becomes non-finite.
    """
    if int(iterations) != iterations or iterations < 1:
        raise InvalidInputError(f"iterations must be a positive integer, found {iterations!r}")
    iterations = int(iterations)

    def batches(rng):
        return (draw(rng) for _ in range(iterations))

    found = fit(theta, loss_and_gradient, batches, Adam(learning_rates[0]), CosineDecay(*learning_rates, iterations),
                progress=progress, every=every, seed=seed)
    return found.theta, found.history
