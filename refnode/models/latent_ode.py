"""The latent ODE: a recurrent encoder backwards in time, a random start, an ODE in the latent space, a decoder.

    h_0 = encoder(x_K, ..., x_1),  (mean, log_std) = W h_0 + b,  z_0 = mean + exp(log_std) noise,
    dz/dt = MLP(z),  x(t) = decoder(z(t)),
    L = 1/batch Σ ( -Σ_observed log N(x_k; x(t_k), exp(s)²) + kl_weight KL(N(mean, exp(log_std)²) ‖ N(0, 1)) ).

The gradient of L is composed by hand of the transposes of these lines, in reverse order; that of the solve is
`refnode.gradient` by any recipe. All series of a batch are one state, on the union of their times.

References
----------
Chen, Rubanova, Bettencourt & Duvenaud, Neural ordinary differential equations, 2018, section 5.
Kingma & Welling, Auto-encoding variational Bayes, 2014.
"""
import dataclasses

import numpy as np

from refnode.errors import InvalidInputError
from refnode.fields.neural import mlp_field
from refnode.layers.dense import dense, dense_vjp
from refnode.layers.perceptron import perceptron, perceptron_hvp, perceptron_jvp, perceptron_vjp
from refnode.layers.recurrent import gru_sequence, gru_sequence_vjp, gru_shapes
from refnode.likelihoods import (
    gaussian_kl, gaussian_kl_vjp, gaussian_log_likelihood, gaussian_log_likelihood_hvp, gaussian_log_likelihood_vjp,
    reparameterise, reparameterise_vjp)
from refnode.losses import Loss
from refnode.models.history import History
from refnode.models.neural_ode import require_affordable
from refnode.models.parts import Parts, perceptron_shapes
from refnode.models.series import backwards, fitted, increasing_times, require_channels, steps_of
from refnode.models.solved import solved
from refnode.problems.problem import Problem
from refnode.sensitivity.gradient import gradient

INITIAL_LOG_STD = -1.0          # of the observations, before it is learnt


@dataclasses.dataclass
class Elbo:
    """The loss on a batch, per series, its two terms, its gradient, and what the solve counted."""

    loss: float
    log_likelihood: float
    divergence: float
    theta: np.ndarray | None = None
    stats: dict = dataclasses.field(default_factory=dict)


class Reconstruction(Loss):
    """L = -1/batch Σ log N(values; decoder(z(t_k)), exp(log_std)²) over what was observed, of latent states z.

    Its `vjp` also leaves the cotangents of the decoder's layers and of log_std, which are no inputs of the solve, in
    ``layers_bar`` and ``log_std_bar``.
    """

    observes = True

    def __init__(self, batch, layers, log_std):
        self.batch, self.layers, self.log_std = batch, layers, log_std
        self.where = np.nonzero(batch.visited)
        self.x, self.observed = batch.values[self.where], batch.observed[self.where]

    def states(self, ys):
        """z of every series where it was observed, shape (M, latent)."""
        return ys.reshape(len(self.batch.values), -1, ys.shape[1]).transpose(0, 2, 1)[self.where]

    def value(self, ys, y1):
        mean = perceptron(self.states(ys), self.layers)
        likelihood = gaussian_log_likelihood(self.x, mean, self.log_std)
        return -np.sum(likelihood[self.observed]) / len(self.batch.values)

    def vjp(self, ys, y1):
        z = self.states(ys)
        mean = perceptron(z, self.layers)
        likelihood_bar = np.where(self.observed, -1.0 / len(self.batch.values), 0.0)
        _, mean_bar, self.log_std_bar = gaussian_log_likelihood_vjp(self.x, mean, self.log_std, likelihood_bar)
        z_bar, self.layers_bar = perceptron_vjp(z, self.layers, mean_bar)          # mean = decoder(z)
        return self.spread(z_bar, ys.shape), np.zeros(y1.shape)                     # z = ys[where]

    def spread(self, z_bar, shape):
        """The transpose of `states`: zeros of the shape of ys, with z_bar (M, latent) where there are observations."""
        batch = len(self.batch.values)
        ys_bar = np.zeros((batch, shape[1], shape[0] // batch), z_bar.dtype)
        ys_bar[self.where] = z_bar
        return ys_bar.transpose(0, 2, 1).reshape(shape)

    def hvp(self, ys, y1, ys_tan, y1_tan):
        z, z_tan, fixed = self.states(ys), self.states(ys_tan), [(0.0 * W, 0.0 * b) for W, b in self.layers]
        mean, mean_tan = perceptron(z, self.layers), perceptron_jvp(z, self.layers, z_tan, fixed)
        likelihood_bar = np.where(self.observed, -1.0 / len(self.batch.values), 0.0)
        _, mean_bar, _ = gaussian_log_likelihood_vjp(self.x, mean, self.log_std, likelihood_bar)
        _, mean_bar_tan, _ = gaussian_log_likelihood_hvp(
            self.x, mean, self.log_std, 0.0 * self.x, mean_tan, 0.0 * self.log_std, likelihood_bar, 0.0 * likelihood_bar)
        z_bar_tan, _ = perceptron_hvp(z, self.layers, z_tan, fixed, mean_bar, mean_bar_tan)    # z_bar of mean = decoder(z)
        return self.spread(z_bar_tan, ys.shape), np.zeros(y1.shape)


class LatentODE:
    """A latent ODE for series of d channels, with its ELBO, the gradient of that by a recipe, and its fit.

    Parameters
    ----------
    d : int
        Channels of the series.
    latent, hidden, width : int
        Entries of the latent state, of the encoder's state, and of the hidden layers of field and decoder.
    recipe : str
        A name in `refnode.sensitivity.recipes.RECIPES`.
    seed : int
        Of the initial parameters.
    **options
        Those of `refnode.gradient`; by default rtol 1e-3, atol 1e-5.

    Attributes
    ----------
    theta : ndarray, shape (p,)
        All parameters; ``parts`` says whose is what.
    history : History
    """

    def __init__(self, d, latent=4, hidden=25, width=20, recipe="discrete", seed=0, **options):
        self.d, self.latent, self.hidden, self.recipe = d, latent, hidden, recipe
        self.widths = (latent, width, latent)
        self.parts = Parts(
            encoder=gru_shapes(2 * d + 1, hidden), posterior={"W": (2 * latent, hidden), "b": (2 * latent,)},
            field=perceptron_shapes(*self.widths), decoder=perceptron_shapes(latent, width, d), noise={"log_std": ()})
        require_affordable(recipe, self.parts.size)
        self.theta = self.parts.initial(seed)
        self.parts.arrays(self.theta, "noise")[0][...] = INITIAL_LOG_STD
        self.options = {"rtol": 1e-3, "atol": 1e-5, **options}
        self.history = History()
        self._fields = {}

    def __repr__(self):
        return f"<LatentODE latent={self.latent}, hidden={self.hidden}, p={self.parts.size}, recipe {self.recipe!r}>"

    # --- the lines of the model, first to last

    def encoded(self, batch, theta):
        """The encoder's steps, states and tape; and (mean, log_std) of the posterior, (batch, latent) each."""
        require_channels(batch, self.d)
        steps = backwards(steps_of(batch))
        h0 = np.zeros((len(batch.values), self.hidden))
        h, tape = gru_sequence(steps.inputs, steps.present, h0, self.parts.arrays(theta, "encoder"))
        mean, log_std = np.split(dense(h[-1], *self.parts.arrays(theta, "posterior")), 2, axis=1)
        return (steps, h, tape), mean, log_std

    def problem(self, batch, z0, theta, ts=None, loss=None):
        """The solve of the latent states of a batch, one state."""
        ts = batch.ts if ts is None else ts
        if len(z0) not in self._fields:
            self._fields[len(z0)] = mlp_field(self.widths, batch=len(z0))
        return Problem(self._fields[len(z0)], z0.ravel(), self.parts.flat(theta, "field"), (batch.t0, ts[-1]), ts=ts, loss=loss)

    def reconstruction(self, batch, theta):
        """The first term of the loss as a loss of the solve."""
        (log_std,) = self.parts.arrays(theta, "noise")
        return Reconstruction(batch, self.parts.layers(theta, "decoder"), log_std)

    def loss(self, batch, noise, theta=None, kl_weight=1.0):
        """`Elbo` without gradient; ``noise`` (batch, latent) draws the starts."""
        theta = self.theta if theta is None else theta
        _, mean, log_std = self.encoded(batch, theta)
        z0 = reparameterise(mean, log_std, checked_noise(noise, mean.shape))
        loss = self.reconstruction(batch, theta)
        solution = solved(self.problem(batch, z0, theta), self.options)
        return elbo(float(loss.value(solution.y, solution.y1)), gaussian_kl(mean, log_std, 0.0, 0.0), kl_weight)

    def gradient(self, batch, noise, theta=None, kl_weight=1.0):
        """`Elbo` with the gradient by the model's recipe: the lines of `loss`, transposed, last first."""
        theta = self.theta if theta is None else theta
        (steps, h, tape), mean, log_std = self.encoded(batch, theta)
        noise = checked_noise(noise, mean.shape)
        z0 = reparameterise(mean, log_std, noise)
        loss = self.reconstruction(batch, theta)
        found = gradient(self.problem(batch, z0, theta, loss=loss), self.recipe, **self.options)
        total = elbo(found.loss, gaussian_kl(mean, log_std, 0.0, 0.0), kl_weight)

        z0_bar = found.y0.reshape(z0.shape)                                     # reconstruction of z(ts), z(t0) = z0
        divergence_bar = np.full(mean.shape, kl_weight / len(mean))             # loss = ... + kl_weight/batch Σ KL
        mean_bar, log_std_bar, *_ = gaussian_kl_vjp(mean, log_std, 0.0, 0.0, divergence_bar)
        by_sample = reparameterise_vjp(mean, log_std, noise, z0_bar)            # z0 = mean + exp(log_std) noise
        q_bar = np.concatenate([mean_bar + by_sample[0], log_std_bar + by_sample[1]], axis=1)
        posterior = self.parts.arrays(theta, "posterior")
        h_bar = np.zeros_like(h)
        h_bar[-1], *posterior_bar = dense_vjp(h[-1], posterior[0], q_bar)       # (mean, log_std) = W h + b
        _, _, encoder_bar = gru_sequence_vjp(                                   # h = encoder(x_K, ..., x_1)
            steps.inputs, steps.present, h, tape, self.parts.arrays(theta, "encoder"), h_bar)
        total.theta = self.parts.joined({
            "encoder": encoder_bar, "posterior": posterior_bar, "field": found.theta, "decoder": loss.layers_bar,
            "noise": loss.log_std_bar})
        total.stats = found.stats
        return total

    # --- use

    def decoded(self, batch, ts, noise=None, **options):
        """The decoded paths at ``ts`` for what the encoder makes of a batch, (batch, K, d); from the mean start unless noise."""
        _, mean, log_std = self.encoded(batch, self.theta)
        z0 = mean if noise is None else reparameterise(mean, log_std, checked_noise(noise, mean.shape))
        problem = self.problem(batch, z0, self.theta, ts=increasing_times("ts", ts))
        ys = solved(problem, {**self.options, **options}).y
        states = ys.reshape(*z0.shape, -1).transpose(0, 2, 1)
        return perceptron(states.reshape(-1, self.latent), self.parts.layers(self.theta, "decoder")).reshape(
            len(z0), states.shape[1], -1)

    def fit(self, data, epochs, size=16, learning_rates=(0.02, 0.001), seed=0, kl_weight=1.0, progress=None, every=100,
            **options):
        """Move theta down the gradient on mini-batches of the series in ``data``, by Adam; itself.

        ``options`` are further ones of `refnode.models.training.fit`, such as clip, validate, checkpoint, resume.
        """
        def loss_and_gradient(theta, batch, noise):
            found = self.gradient(batch, noise, theta, kl_weight)
            return found.loss, found.theta, found.stats

        self.theta = fitted(self, loss_and_gradient, data, lambda rng, count: rng.standard_normal((count, self.latent)),
                            epochs, size, learning_rates, seed, progress, every, options, f" kl_weight={kl_weight!r}")
        return self


def elbo(reconstruction, divergences, kl_weight):
    """`Elbo` of the two terms."""
    divergence = float(np.sum(divergences)) / len(divergences)
    return Elbo(loss=reconstruction + kl_weight * divergence, log_likelihood=-reconstruction, divergence=divergence)


def checked_noise(noise, shape):
    """The standard normal numbers that draw the starts, of the right shape."""
    noise = np.asarray(noise, dtype=np.float64)
    if noise.shape != shape or not np.isfinite(noise).all():
        raise InvalidInputError(f"noise must be finite, of shape {shape}, found shape {noise.shape}")
    return noise
