"""The baseline of the latent ODE and the ODE-RNN: a recurrent network that is told the time since its last observation.

    x̂_k = head(h_k, Δ_k),  h_{k+1} = cell((x_k, what of it is observed, Δ_k), h_k),  Δ_k = t_k - t_{k-1},

and the loss is the mean of (x̂_k - x_k)² over what was observed, the first observation of each series aside: every
observation is predicted from those before it.

References
----------
Chen, Rubanova, Bettencourt & Duvenaud, Neural ordinary differential equations, 2018, section 5.
Rubanova, Chen & Duvenaud, Latent ODEs for irregularly-sampled time series, 2019: "RNN Δt".
"""
import dataclasses

import numpy as np

from refnode.layers.perceptron import perceptron, perceptron_vjp
from refnode.layers.recurrent import CELLS
from refnode.likelihoods import masked_mean_square, masked_mean_square_vjp
from refnode.models.history import History
from refnode.models.parts import Parts, perceptron_shapes
from refnode.models.series import fitted, increasing_times, require_channels, steps_of


@dataclasses.dataclass
class PredictionError:
    """The mean squared error of the predictions, its gradient, and counts of the solves."""

    loss: float
    theta: np.ndarray | None = None
    stats: dict = dataclasses.field(default_factory=lambda: {"nfev": 0})


def targets(steps, d):
    """Values and which of them are predicted: those observed, but for the first step of each series."""
    predicted = steps.inputs[:, :, d:2 * d] > 0.0
    predicted[0] = False
    return steps.inputs[:, :, :d], predicted


class TimedRNN:
    """A recurrent network for series of d channels, with the gradient of its loss, and its fit.

    Parameters
    ----------
    d : int
        Channels of the series.
    cell : {"rnn", "gru"}
    hidden, width : int
        Entries of the state, and of the hidden layer of the head.
    seed : int
        Of the initial parameters.

    Attributes
    ----------
    theta : ndarray, shape (p,)
    history : History
    """

    def __init__(self, d, cell="rnn", hidden=25, width=20, seed=0):
        self.d, self.cell, self.hidden = d, CELLS[cell], hidden
        self.parts = Parts(cell=self.cell.shapes(2 * d + 1, hidden), head=perceptron_shapes(hidden + 1, width, d))
        self.theta, self.history = self.parts.initial(seed), History()

    def states(self, batch, theta):
        """The steps of a batch; the state before each of them and after the last, and the tape of its transpose."""
        require_channels(batch, self.d)
        steps = steps_of(batch)
        h0 = np.zeros((len(batch.values), self.hidden))
        return steps, *self.cell.sequence(steps.inputs, steps.present, h0, self.parts.arrays(theta, "cell"))

    def head(self, h, gap, theta):
        """x̂ from states (..., hidden) and the time since the last observation (...)."""
        rows = np.concatenate([h, gap[..., None]], axis=-1)
        x = perceptron(rows.reshape(-1, self.hidden + 1), self.parts.layers(theta, "head"))
        return x.reshape(*gap.shape, self.d)

    def loss(self, batch, theta=None):
        """`PredictionError` without gradient."""
        theta = self.theta if theta is None else theta
        steps, h, _ = self.states(batch, theta)
        return PredictionError(float(masked_mean_square(self.head(h[:-1], steps.gap, theta), *targets(steps, self.d))))

    def gradient(self, batch, theta=None):
        """`PredictionError` with its gradient: the lines of `loss`, transposed, last first."""
        theta = self.theta if theta is None else theta
        steps, h, tape = self.states(batch, theta)
        x, predicted = targets(steps, self.d)
        found = self.head(h[:-1], steps.gap, theta)
        x_bar, _ = masked_mean_square_vjp(found, x, predicted, 1.0)
        rows = np.concatenate([h[:-1], steps.gap[..., None]], axis=-1).reshape(-1, self.hidden + 1)
        rows_bar, head_bar = perceptron_vjp(rows, self.parts.layers(theta, "head"), x_bar.reshape(-1, self.d))
        h_bar = np.zeros_like(h)
        h_bar[:-1] = rows_bar[:, :-1].reshape(h[:-1].shape)         # rows = (h, gap)
        _, _, cell_bar = self.cell.sequence_vjp(steps.inputs, steps.present, h, tape, self.parts.arrays(theta, "cell"),
                                                h_bar)
        return PredictionError(float(masked_mean_square(found, x, predicted)),
                               self.parts.joined({"cell": cell_bar, "head": head_bar}))

    # --- use

    def predicted(self, batch, ts):
        """x̂ at times ``ts`` from the observations before them, (batch, K, d); NaN before the first observation."""
        ts, (steps, h, _) = increasing_times("ts", ts), self.states(batch, self.theta)
        times = np.where(steps.present, batch.ts[steps.at], np.inf)
        rows, found = np.arange(h.shape[1]), np.full((h.shape[1], len(ts), self.d), np.nan)
        for column, t in enumerate(ts):
            seen = np.count_nonzero(times < t, axis=0)
            last = np.where(seen > 0, times[np.maximum(seen, 1) - 1, rows], np.nan)
            found[:, column] = np.where(seen[:, None] > 0, self.head(h[seen, rows], t - last, self.theta), np.nan)
        return found

    def continued(self, batch, ts):
        """x̂ at times ``ts`` beyond the data, (batch, K, d), each prediction taken for the next observation."""
        ts, (steps, h, _) = increasing_times("ts", ts), self.states(batch, self.theta)
        state, found = h[-1], np.empty((h.shape[1], len(ts), self.d))
        last = np.max(np.where(steps.present, batch.ts[steps.at], batch.t0), axis=0)
        for column, t in enumerate(ts):
            found[:, column] = self.head(state, t - last, self.theta)
            inputs = np.column_stack([found[:, column], np.ones_like(found[:, column]), t - last])
            state, last = self.cell.form(inputs, state, *self.parts.arrays(self.theta, "cell")), np.full_like(last, t)
        return found

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
