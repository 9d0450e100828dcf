"""A neural ODE: a multilayer perceptron as vector field, a solve, a recipe for its gradient, a fit by Adam.

The data are pieces of trajectories, `Segments`, which one solve integrates together as one state. The
field does not depend on t, so that each piece counts its time from its own beginning.
"""
import contextlib
import dataclasses
import warnings

import numpy as np

from refnode.beforehand import cache_takes_files, compiling, missing_drivers
from refnode.errors import InvalidInputError
from refnode.fields.neural import mlp_field
from refnode.layers.parameters import initial_parameters
from refnode.losses import Loss
from refnode.models import training
from refnode.models.history import History
from refnode.models.series import increasing_times
from refnode.models.solved import solved
from refnode.optimisers import Adam
from refnode.problems.problem import Problem
from refnode.schedules import ExponentialDecay
from refnode.sensitivity.gradient import gradient
from refnode.sensitivity.recipes import recipe_named

SLOW_TANGENTS = 100        # parameters beyond which a forward recipe is worth a warning
MOST_TANGENTS = 2000       # and beyond which it is refused


# --- data and loss --------------------------------------------------------------------------------

@dataclasses.dataclass(frozen=True)
class Segments:
    """Pieces of trajectories that are solved together.

    Attributes
    ----------
    y0 : ndarray, shape (batch, d)
        State at the beginning of each piece.
    ts : ndarray, shape (K,)
        Every time, since its piece began, at which some piece was observed; increasing.
    data : ndarray, shape (batch, d, K)
        What was observed, NaN where a piece was not observed at that time.
    """

    y0: np.ndarray
    ts: np.ndarray
    data: np.ndarray

    def starting_at(self, y0):
        """The same observations with other initial values, given in any shape."""
        return dataclasses.replace(self, y0=np.reshape(y0, self.y0.shape))


def whole(ts, ys):
    """One trajectory, observed as ``ys`` (d, K) at ``ts`` (K,), as one piece that begins at the first observation."""
    ts, ys = checked_trajectory(ts, ys)
    return Segments(ys[:, :1].T.copy(), ts - ts[0], ys[None].copy())


def cut(ts, ys, starts, length):
    """Pieces of one trajectory: each begins at an observation and has the next ``length`` as its data.

    Parameters
    ----------
    ts : ndarray, shape (K,)
        Increasing, at any distances.
    ys : ndarray, shape (d, K)
    starts : sequence of int
        Observations at which a piece begins; below K - length.
    length : int

    Returns
    -------
    Segments
        On the union of the pieces' times.

    Raises
    ------
    InvalidInputError
        If a number is wrong: its place and value are named.
    """
    ts, ys = checked_trajectory(ts, ys)
    if int(length) != length or not 1 <= length < ts.size:
        raise InvalidInputError(f"length must be an integer in 1 .. {ts.size - 1}, found {length!r}")
    bad = [start for start in starts if int(start) != start or not 0 <= start < ts.size - length]
    if bad or not len(starts):
        raise InvalidInputError(f"starts must hold integers in 0 .. {ts.size - length - 1}, at least one, found "
                                f"{bad[0] if bad else 'none'}")
    windows = [slice(start + 1, start + 1 + length) for start in starts]
    times = [ts[window] - ts[start] for start, window in zip(starts, windows)]
    union = np.unique(np.concatenate(times))
    data = np.full((len(windows), len(ys), union.size), np.nan)
    for piece, own, window in zip(data, times, windows):
        piece[:, np.searchsorted(union, own)] = ys[:, window]
    return Segments(ys[:, starts].T.copy(), union, data)


def checked_trajectory(ts, ys):
    """Increasing times (K,) and what was observed at them (d, K), which is NaN where it is missing.

    Raises
    ------
    InvalidInputError
        Naming the index and the value: times that do not increase, another shape, an infinite observation.
    """
    ts, ys = increasing_times("ts", ts), np.asarray(ys, dtype=np.float64)
    if ys.ndim != 2 or ys.shape[1] != ts.size or not len(ys):
        raise InvalidInputError(f"ys must have shape (d, {ts.size}), a column for each of ts, found {ys.shape}")
    if np.isinf(ys).any():
        bad = np.argwhere(np.isinf(ys))[0].tolist()
        raise InvalidInputError(f"ys must be finite, or NaN where nothing was observed, found ys{bad} = {ys[tuple(bad)]}")
    return ts, ys


def random_segments(ts, ys, length, batch, seed):
    """A function that returns a new mini-batch of ``batch`` different `cut` pieces at every call."""
    (ts, ys), rng = checked_trajectory(ts, ys), np.random.default_rng(seed)
    beginnings = ts.size - length
    if int(length) != length or not 1 <= length < ts.size:
        raise InvalidInputError(f"length must be an integer in 1 .. {ts.size - 1}, found {length!r}")
    if not 1 <= batch <= beginnings:
        raise InvalidInputError(f"batch must lie in 1 .. {beginnings} for {ts.size} observations and pieces "
                                f"of {length}, found {batch}")
    return lambda: cut(ts, ys, np.sort(rng.choice(beginnings, batch, replace=False)), length)


class MeanOfObservedSquares(Loss):
    """L = 1/M sum of (y_i(t_k) - data_ik)^2 over the M entries of data (n, K) that are not NaN."""

    def __init__(self, data):
        self.data = np.array(data, dtype=np.float64)
        self.observed = ~np.isnan(self.data)
        self.count = max(int(np.count_nonzero(self.observed)), 1)

    def _residual(self, ys):
        return np.where(self.observed, ys - self.data, 0.0)

    def value(self, ys, y1):
        return float(np.sum(self._residual(ys) ** 2)) / self.count

    def vjp(self, ys, y1):
        return (2.0 / self.count) * self._residual(ys), np.zeros(y1.shape)


# --- the model ------------------------------------------------------------------------------------

class NeuralODE:
    """dy/dt = MLP(y; theta), with its loss on `Segments`, the gradient of that by a recipe, and its fit.

    Parameters
    ----------
    widths : sequence of int
        d, the hidden widths, d.
    activation : {"tanh", "softplus", "sine"}
    recipe : str
        A name in `refnode.sensitivity.recipes.RECIPES`.
    seed : int
        Of the initial parameters.
    scaling : {"lecun", "glorot"}
        Of the initial weights. With few states and a wide hidden layer "glorot" begins nearly linear.
    **options
        Those of `refnode.gradient`; by default rtol 1e-4, atol 1e-6.

    Attributes
    ----------
    theta : ndarray, shape (p,)
        The parameters; changed by `fit`.
    history : History
        Of all the fits so far.

    Raises
    ------
    InvalidInputError
        If an argument is unknown, or a forward recipe would push more than 2000 tangents.
    """

    def __init__(self, widths, activation="tanh", recipe="discrete", seed=0, scaling="lecun", **options):
        self.widths, self.activation, self.recipe = tuple(widths), activation, recipe
        self.theta = initial_parameters(widths, seed, scaling)
        require_affordable(recipe, self.theta.size)
        self.options = {"rtol": 1e-4, "atol": 1e-6, **options}
        self.history = History()
        self._fields = {}

    def __repr__(self):
        widths = "-".join(map(str, self.widths))
        return f"<NeuralODE {widths} {self.activation}, p={self.theta.size}, recipe {self.recipe!r}>"

    def field(self, batch=1):
        """The vector field for ``batch`` states side by side; made once for every batch size."""
        if batch not in self._fields:
            self._fields[batch] = mlp_field(self.widths, self.activation, batch)
        return self._fields[batch]

    def problem(self, segments, theta=None):
        """The initial-value problem of a batch, its state the (batch, d) array row after row, with its loss."""
        batch, d = segments.y0.shape
        return Problem(self.field(batch), segments.y0.ravel(), self.theta if theta is None else theta,
                       (0.0, segments.ts[-1]), ts=segments.ts,
                       loss=MeanOfObservedSquares(segments.data.reshape(batch * d, -1)))

    def gradient(self, segments, theta=None):
        """`refnode.gradient` of the mean squared error on a batch, by the model's recipe."""
        return gradient(self.problem(segments, theta), self.recipe, **self.options)

    def solve(self, y0, ts, **options):
        """The learnt trajectory from y0 (d,) at time 0, shape (d, K) at the times ``ts``."""
        problem = Problem(self.field(), y0, self.theta, (0.0, ts[-1]), ts=ts)
        return solved(problem, {**self.options, **options}).y

    def fit(self, draw, iterations, learning_rates=(0.02, 0.002), progress=None, every=100):
        """Move theta down the gradient of batch after batch, by Adam.

        Parameters
        ----------
        draw : callable
            Returns the next batch, `Segments`.
        iterations : int
        learning_rates : (float, float)
            Of the first and of the last iteration; geometric between.
        progress : callable, optional
            Handed a line of text every ``every`` iterations.

        Returns
        -------
        NeuralODE
            Itself.
        """
        def loss_and_gradient(theta, segments):
            found = self.gradient(segments, theta)
            return found.loss, found.theta, found.stats

        self.theta = self._descend(self.theta, loss_and_gradient, lambda rng: [draw()], iterations, learning_rates,
                                   progress, every)
        return self

    def fit_with_starts(self, segments, iterations, learning_rates=(0.01, 0.001), progress=None, every=100):
        """`fit` to one batch, with the initial values of its pieces learnt too; returns it with these."""
        p = self.theta.size

        def loss_and_gradient(x, segments):
            found = self.gradient(segments.starting_at(x[p:]), x[:p])
            return found.loss, np.concatenate([found.theta, found.y0]), found.stats

        x = np.concatenate([self.theta, segments.y0.ravel()])
        x = self._descend(x, loss_and_gradient, [segments], iterations, learning_rates, progress, every)
        self.theta = x[:p].copy()
        return segments.starting_at(x[p:])

    def _descend(self, x, loss_and_gradient, batches, iterations, learning_rates, progress, every):
        """x after so many steps of Adam, an epoch each, recorded in the history."""
        schedule = ExponentialDecay(*learning_rates, iterations)
        found = training.fit(x, loss_and_gradient, batches, Adam(learning_rates[0]), schedule, epochs=iterations,
                             history=self.history, progress=progress, every=every)
        return found.theta


# --- compiling, the first time ---------------------------------------------------------------------

TIMES_DRIVER = "refnode.sensitivity.cotangents:slopes_at"
DRIVERS = {         # of a recipe: what it needs beside the forward driver and that of the times
    "discrete": "refnode.sensitivity.discrete_adjoint:discrete_adjoint",
    "discrete_forward": "refnode.sensitivity.discrete_adjoint:discrete_tangent",
    "forward": "refnode.sensitivity.forward:integrate_variational",
    "backsolve": "refnode.sensitivity.equations:integrate_backsolve",
    "interpolating": "refnode.sensitivity.equations:integrate_interpolated",
}


def perceptron_and_transpose():
    """Compile, or load from the disk cache, what serves the perceptrons of all widths."""
    mlp_field((1, 1)).functions("f", "vjp")


@contextlib.contextmanager
def compiled_beside(recipe, tell=None):
    """While the body runs, and compiles the forward driver, another process compiles the rest of a fit.

    It halves the wait before the first iteration ever. Nothing is done where the cache is full already, or
    takes no files.
    """
    rest = DRIVERS.get(recipe)
    if rest is None or not missing_drivers([rest]) or not cache_takes_files():
        yield
        return
    if tell is not None:
        tell("compiling the solvers, the first time only: about half a minute")
    with compiling([(rest, TIMES_DRIVER, "refnode.models.neural_ode:perceptron_and_transpose")]) as (children, _):
        yield
        for child in children:
            child.wait()


# --- costs ------------------------------------------------------------------------------------------

def require_affordable(recipe, p):
    """Warn of, or refuse, a recipe that costs a tangent for every parameter."""
    if recipe_named(recipe).needs != "jvp":
        return
    cost = f"recipe {recipe!r} pushes a tangent for each of {p} parameters"
    if p > MOST_TANGENTS:
        raise InvalidInputError(f"{cost}, at most {MOST_TANGENTS} are allowed: take recipe 'discrete'")
    if p > SLOW_TANGENTS:
        warnings.warn(f"{cost} and is slow; recipe 'discrete' gives the gradient in one reverse sweep",
                      stacklevel=3)
