"""The ODE-RNN: an ODE for the hidden state between observations, a gated recurrent unit at them.

    dh/dt = MLP(h) between observations,  x̂(t) = head(h(t⁻)),  h(t⁺) = GRU((x, what of it is observed), h(t⁻)),

and the loss is the mean of (x̂(t_k) - x_k)² over what was observed, the first observation of each series aside. A series
of the batch that has no observation at a time flows through it, and a time at which no series has one
ends no solve: without observations the model is the pure ODE.

References
----------
Rubanova, Chen & Duvenaud, Latent ODEs for irregularly-sampled time series, 2019.
De Brouwer, Simm, Arany & Moreau, GRU-ODE-Bayes, 2019.
"""
import dataclasses

import numpy as np

from refnode.errors import InvalidInputError
from refnode.fields.neural import mlp_field
from refnode.layers.perceptron import perceptron, perceptron_vjp
from refnode.layers.recurrent import gru, gru_shapes, gru_vjp
from refnode.likelihoods import masked_mean_square, masked_mean_square_vjp
from refnode.models.history import History
from refnode.models.neural_ode import require_affordable
from refnode.models.parts import Parts, perceptron_shapes
from refnode.models.series import Series, fitted, increasing_times, require_channels
from refnode.models.solved import solved
from refnode.models.timed_rnn import PredictionError
from refnode.problems.problem import Problem
from refnode.sensitivity.gradient import vjp


@dataclasses.dataclass
class Path:
    """The states of a batch along its times.

    ``before`` (K, batch, hidden): h(t_k⁻). ``pieces``: of each solve the initial-value problem and the slice of the times
    within it; at the last of them some series is observed, but for the last piece perhaps. ``nfev``: evaluations.
    """

    before: np.ndarray
    pieces: list
    nfev: int


class OdeRnn:
    """An ODE-RNN for series of d channels, with the gradient of its loss by a recipe, and its fit.

    Parameters
    ----------
    d : int
        Channels of the series.
    hidden, width : int
        Entries of the state, and of the hidden layers of field and head.
    recipe : str
        A name in `refnode.sensitivity.recipes.RECIPES`.
    seed : int
        Of the initial parameters.
    **options
        Those of `refnode.vjp`; by default rtol 1e-3, atol 1e-4.

    Attributes
    ----------
    theta : ndarray, shape (p,)
    history : History
    """

    def __init__(self, d, hidden=16, width=24, recipe="discrete", seed=0, **options):
        self.d, self.hidden, self.recipe = d, hidden, recipe
        self.widths = (hidden, width, hidden)
        self.parts = Parts(field=perceptron_shapes(*self.widths), jump=gru_shapes(2 * d, hidden),
                           head=perceptron_shapes(hidden, width, d))
        require_affordable(recipe, self.parts.size)
        self.theta, self.history = self.parts.initial(seed), History()
        self.options = {"rtol": 1e-3, "atol": 1e-4, **options}
        self._fields = {}

    # --- the lines of the model, first to last

    def problem(self, t, ts, h, theta):
        """The solve of all states of a batch from t to the last of ``ts``."""
        if len(h) not in self._fields:
            self._fields[len(h)] = mlp_field(self.widths, batch=len(h))
        return Problem(self._fields[len(h)], h.ravel(), self.parts.flat(theta, "field"), (t, ts[-1]), ts=ts)

    def inputs(self, batch, k):
        """What the jump at the k-th time is told, (batch, 2 d), and which series have it, (batch, 1)."""
        observed = batch.observed[:, k]
        return np.concatenate([batch.values[:, k], observed], axis=1), observed.any(axis=1)[:, None]

    def path(self, batch, theta):
        """The states of a batch: flow, jump, flow, jump, ..."""
        require_channels(batch, self.d)
        size = len(batch.values)
        before, pieces, nfev = np.empty((batch.ts.size, size, self.hidden)), [], 0
        h, t = np.zeros((size, self.hidden)), batch.t0
        for piece in pieces_of(batch):
            problem = self.problem(t, batch.ts[piece], h, theta)
            solution = solved(problem, self.options)
            before[piece] = solution.y.T.reshape(-1, size, self.hidden)
            x, seen = self.inputs(batch, piece.stop - 1)
            h, t = before[piece.stop - 1], batch.ts[piece.stop - 1]
            h = np.where(seen, gru(x, h, *self.parts.arrays(theta, "jump")), h)
            pieces.append((problem, piece))
            nfev += solution.nfev
        return Path(before, pieces, nfev)

    def head(self, h, theta):
        """x̂ (K, batch, d) of states (K, batch, hidden)."""
        x = perceptron(h.reshape(-1, self.hidden), self.parts.layers(theta, "head"))
        return x.reshape(*h.shape[:2], self.d)

    def loss(self, batch, theta=None):
        """`PredictionError` without gradient."""
        theta = self.theta if theta is None else theta
        x = self.head(self.path(batch, theta).before, theta)
        return PredictionError(float(masked_mean_square(x, *predictions(batch))))

    def gradient(self, batch, theta=None):
        """`PredictionError` with its gradient: the lines of `path` and `loss`, transposed, last first."""
        theta = self.theta if theta is None else theta
        path = self.path(batch, theta)
        x = self.head(path.before, theta)
        data, predicted = predictions(batch)
        x_bar, _ = masked_mean_square_vjp(x, data, predicted, 1.0)
        rows_bar, head_bar = perceptron_vjp(path.before.reshape(-1, self.hidden), self.parts.layers(theta, "head"),
                                            x_bar.reshape(-1, self.d))
        before_bar = rows_bar.reshape(path.before.shape)
        field_bar, jump_bar, nfev = self.pulled_back(batch, path, before_bar, theta)
        return PredictionError(float(masked_mean_square(x, data, predicted)),
                               self.parts.joined({"field": field_bar, "jump": jump_bar, "head": head_bar}),
                               {"nfev": path.nfev, "nfev_reverse": nfev})

    def pulled_back(self, batch, path, before_bar, theta):
        """`path` transposed: cotangents of the field's and the jump's parameters, and evaluations on the way.

        Adds to before_bar what comes back through the jumps.
        """
        jump = self.parts.arrays(theta, "jump")
        jump_bar, field_bar, nfev = [np.zeros_like(array) for array in jump], 0.0, 0
        h_bar = np.zeros(before_bar.shape[1:])
        for problem, piece in reversed(path.pieces):
            k = piece.stop - 1
            x, seen = self.inputs(batch, k)                         # h = where(seen, gru(x, before[k]), before[k])
            _, through_jump, *bars = gru_vjp(x, path.before[k], *jump, np.where(seen, h_bar, 0.0))
            before_bar[k] += through_jump + np.where(seen, 0.0, h_bar)
            for total, bar in zip(jump_bar, bars):
                total += bar
            ys_bar = before_bar[piece].reshape(piece.stop - piece.start, -1).T      # before[piece] = y(ts)
            found = vjp(problem, ys_bar=ys_bar, sensitivity=self.recipe, **self.options)
            field_bar, h_bar = field_bar + found.theta, found.y0.reshape(h_bar.shape)
            nfev += found.stats["nfev"]
        return field_bar, jump_bar, nfev

    # --- use

    def predicted(self, batch, ts):
        """x̂ at times ``ts`` from the observations before them, (batch, K, d)."""
        require_channels(batch, self.d)
        asked = with_times(batch, ts)
        x = self.head(self.path(asked, self.theta).before, self.theta)
        return x[np.searchsorted(asked.ts, ts)].transpose(1, 0, 2)

    def fit(self, data, epochs, size=16, learning_rates=(0.01, 0.001), seed=0, progress=None, every=100,
            **options):
        """Move theta down the gradient on mini-batches of the series in ``data``, by Adam; itself.

        ``options`` are further ones of `refnode.models.training.fit`, such as clip, validate, checkpoint, resume.
        """
        def loss_and_gradient(theta, batch, _):
            found = self.gradient(batch, theta)
            return found.loss, found.theta, found.stats

        self.theta = fitted(self, loss_and_gradient, data, lambda rng, count: None, epochs, size, learning_rates, seed,
                            progress, every, options)
        return self


def pieces_of(batch):
    """Slices of the times, each up to and with one at which some series is observed; the last to the end."""
    ends = np.flatnonzero(batch.visited.any(axis=0)) + 1
    ends = np.unique(np.append(ends, batch.ts.size))
    return [slice(int(start), int(end)) for start, end in zip([0, *ends[:-1]], ends)]


def predictions(batch):
    """Values (K, batch, d) and which of them are predicted: those observed, but for each series' first."""
    earlier = np.cumsum(batch.visited, axis=1) > 1
    return batch.values.transpose(1, 0, 2), (batch.observed & earlier[:, :, None]).transpose(1, 0, 2)


def with_times(batch, ts):
    """The same series on more times, at which nothing is observed."""
    ts = increasing_times("ts", ts)
    if ts[0] < batch.t0:
        raise InvalidInputError(f"ts must not begin before t0 = {batch.t0:g}, found {ts[0]:g}")
    union = np.union1d(batch.ts, ts)
    shape = (len(batch.values), union.size, batch.values.shape[2])
    values, observed, at = np.zeros(shape), np.zeros(shape, dtype=bool), np.searchsorted(union, batch.ts)
    values[:, at], observed[:, at] = batch.values, batch.observed
    return Series(batch.t0, union, values, observed)
