"""Continuous normalising flows: the density of data through an ODE, exact or with Hutchinson's estimate (FFJORD).

Time 0 is the base, a standard normal, and time T the data. Data are taken backwards from T to 0 with log-density 0
beside them; what they arrive with is the integral ∫₀ᵀ tr df/dz dt, so that

    log p(x) = log N(z(0)) - ℓ(0),    z' = f(t, z),  ℓ' = -tr df/dz,  z(T) = x,  ℓ(T) = 0.

Samples go the other way. The gradient of the mean log-likelihood is `refnode.gradient` of that solve.

References
----------
Chen, Rubanova, Bettencourt & Duvenaud, Neural ordinary differential equations, NeurIPS 2018, section 4.
Grathwohl, Chen, Bettencourt, Sutskever & Duvenaud, FFJORD, ICLR 2019.
"""
import numpy as np

from refnode.checks import observation_times
from refnode.errors import InvalidInputError
from refnode.fields.flow_density import flow_density_field, random_probes
from refnode.fields.hyper_flow import hyper_flow_field, hyper_layout, initial_hyper_parameters
from refnode.fields.taking_over import taken_over
from refnode.layers.parameters import initial_parameters, mlp_layout
from refnode.losses import Loss
from refnode.models.likelihood import (
    base_samples, checked_samples, minimised, normal_log_density, normal_log_density_hvp, normal_log_density_jvp,
    normal_log_density_vjp)
from refnode.models.neural_ode import require_affordable
from refnode.models.solved import solved
from refnode.problems.problem import Problem
from refnode.sensitivity.gradient import gradient

TIMES, TRACES = ("concat", "hyper", "none"), ("exact", "hutchinson")


class MeanNegativeLogLikelihood(Loss):
    """L = -mean_i (log N(z_i) - ℓ_i) of the state y1 = (z (batch, d), ℓ (batch,)) at the base."""

    observes = False

    def __init__(self, batch, d):
        self.batch, self.split = batch, batch * d

    def _parts(self, y1):
        return y1[:self.split].reshape(self.batch, -1), y1[self.split:]

    def value(self, ys, y1):
        z, log_p = self._parts(y1)
        return -np.mean(normal_log_density(z) - log_p)

    def jvp(self, ys, y1, ys_tan, y1_tan):
        (z, _), (z_tan, log_p_tan) = self._parts(y1), self._parts(y1_tan)
        return float(-np.mean(normal_log_density_jvp(z, z_tan) - log_p_tan))

    def vjp(self, ys, y1):
        z, _ = self._parts(y1)
        weight = np.full(self.batch, -1.0 / self.batch)         # value = Σ weight (log N(z) - ℓ)
        return np.zeros(ys.shape), np.concatenate([normal_log_density_vjp(z, weight).ravel(), -weight])

    def hvp(self, ys, y1, ys_tan, y1_tan):
        (z, _), (z_tan, _) = self._parts(y1), self._parts(y1_tan)
        weight, zero = np.full(self.batch, -1.0 / self.batch), np.zeros(self.batch)
        return np.zeros(ys.shape), np.concatenate([normal_log_density_hvp(z, z_tan, weight, zero).ravel(), zero])


class CNF:
    """A continuous normalising flow from a standard normal, under a perceptron.

    Parameters
    ----------
    widths : sequence of int
        d, the hidden widths, d. One hidden layer with the exact trace is the fast case.
    activation : {"tanh", "softplus"}
    time : {"concat", "hyper", "none"}
        How the velocity depends on t: as one more input, by a perceptron that makes its weights, or not.
    hidden : sequence of int
        Hidden widths of that perceptron.
    trace : {"exact", "hutchinson"}
        In the gradient. Densities are computed with the exact trace, unless asked otherwise.
    noise, probes : {"rademacher", "gaussian"}, int
        Of Hutchinson's estimate: the same ``probes`` vectors beside every sample for the whole solve.
    t1 : float
        The time T of the data.
    recipe : str
        A name in `refnode.sensitivity.recipes.RECIPES`.
    seed : int
        Of the initial parameters.
    **options
        Those of `refnode.gradient`; by default rtol 1e-5, atol 1e-5.

    Attributes
    ----------
    theta : ndarray, shape (p,)
    history : History or None
        Of the last fit.

    Raises
    ------
    InvalidInputError
        If an argument is unknown.
    """

    def __init__(self, widths=(2, 64, 2), activation="tanh", time="concat", hidden=(16,), trace="exact",
                 noise="rademacher", probes=1, t1=1.0, recipe="discrete", seed=0, **options):
        for name, value, known in (("time", time, TIMES), ("trace", trace, TRACES)):
            if value not in known:
                raise InvalidInputError(f"{name} must be one of {list(known)}, found {value!r}")
        if int(probes) != probes or probes < 1:
            raise InvalidInputError(f"probes must be a positive integer, found {probes!r}")
        self.widths, self.activation, self.time, self.hidden = tuple(widths), activation, time, tuple(hidden)
        self.trace, self.noise, self.probes, self.t1, self.recipe = trace, noise, int(probes), float(t1), recipe
        self.options = {"rtol": 1e-5, "atol": 1e-5, **options}
        self.layout = hyper_layout(widths, hidden) if time == "hyper" else mlp_layout(widths, time == "concat")
        self.theta = (initial_hyper_parameters(widths, hidden, seed) if time == "hyper"
                      else initial_parameters(widths, seed, "lecun", time == "concat"))
        require_affordable(recipe, self.theta.size)
        self.history, self._fields, self._noisy = None, {}, {}
        self.field(1)

    def __repr__(self):
        widths = "-".join(map(str, self.widths))
        return (f"<CNF {widths} {self.activation}, time by {self.time}, trace {self.trace}, p={self.theta.size}, "
                f"recipe {self.recipe!r}>")

    @property
    def d(self):
        return self.widths[0]

    def field(self, batch, probes=None):
        """The field of (z, ℓ) for a batch; made once for every batch size where the trace is exact."""
        if probes is None and batch in self._fields:
            return self._fields[batch]
        if self.time == "hyper":
            field = hyper_flow_field(self.widths, self.hidden, self.activation, batch, probes)
        else:
            field = flow_density_field(self.widths, self.activation, batch, self.time == "concat", probes)
        if probes is None:
            self._fields[batch] = field
        else:
            field = self._noisy[batch] = taken_over(field, self._noisy.get(batch))
        return field

    def draw_probes(self, batch, rng):
        """Noise for one solve (K, batch, d), or None where the trace is exact."""
        return random_probes(self.noise, rng, self.probes, batch, self.d) if self.trace == "hutchinson" else None

    def problem(self, x, probes=None, t=None, theta=None):
        """The solve that takes x (batch, d) from time t, by default T, to the base; its loss is -mean log p."""
        x = checked_samples(x, self.d)
        return Problem(self.field(len(x), probes), np.append(x.ravel(), np.zeros(len(x))),
                       self.theta if theta is None else theta, (self.t1 if t is None else t, 0.0),
                       loss=MeanNegativeLogLikelihood(*x.shape))

    def gradient(self, x, probes=None, theta=None):
        """`refnode.gradient` of the mean negative log-likelihood of x (batch, d), by the model's recipe."""
        return gradient(self.problem(x, probes, theta=theta), self.recipe, **self.options)

    def to_base(self, x, probes=None, t=None, **options):
        """z(0) (batch, d) and log p(x) (batch,) of x at time t; with ``probes`` the latter is Hutchinson's estimate.

        Implements (FLOW-1).
        """
        problem = self.problem(x, probes, t=t)
        y1 = solved(problem, {**self.options, **options}).y1
        z = y1[:-len(x)].reshape(len(x), self.d)
        return z, normal_log_density(z) - y1[-len(x):]

    def log_density(self, x, t=None, **options):
        """log p(x) (batch,) of x (batch, d) at time t, by default that of the data, with the exact trace."""
        return self.to_base(x, t=t, **options)[1]

    def sample(self, count, seed=0, **options):
        """``count`` samples (count, d), and their log-densities (count,)."""
        paths, log_p = self.transport(base_samples(count, self.d, seed), [self.t1], **options)
        return paths[0], log_p[0]

    def transport(self, z, ts, **options):
        """Where the samples z (batch, d) of the base are at times ts (K,), (K, batch, d), and log p there (K, batch)."""
        z, ts = checked_samples(z, self.d, "z"), observation_times(ts, 0.0, self.t1)
        y0 = np.append(z.ravel(), normal_log_density(z))
        problem = Problem(self.field(len(z)), y0, self.theta, (0.0, self.t1), ts=ts)
        ys = solved(problem, {**self.options, **options}).y.T
        return ys[:, :z.size].reshape(len(ts), *z.shape), ys[:, z.size:]

    def fit(self, draw, iterations, learning_rates=(1e-2, 1e-3), seed=0, progress=None, every=100):
        """Maximise the likelihood of batches ``draw(rng)`` (batch, d); returns itself."""
        def draw_with_noise(rng):
            x = draw(rng)
            return x, self.draw_probes(len(x), rng)

        def loss_and_gradient(theta, batch):
            found = self.gradient(*batch, theta)
            return found.loss, found.theta, found.stats

        self.theta, self.history = minimised(self.theta, loss_and_gradient, draw_with_noise, iterations,
                                             learning_rates, seed, progress, every)
        return self
