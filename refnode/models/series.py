"""Time series observed at irregular times, with missing values: checked once, and arranged for recurrences.

A `Series` holds a batch of them on the union of their times. What was not observed is marked, and holds 0, so that
no NaN enters any arithmetic.
"""
import dataclasses
import math
from typing import NamedTuple

import numpy as np

from refnode.checks import real_vector
from refnode.errors import InvalidInputError, InvalidTypeError
from refnode.models.fit_settings import identity_of
from refnode.models.training import fit, mini_batches
from refnode.optimisers import Adam
from refnode.schedules import ExponentialDecay


@dataclasses.dataclass(frozen=True)
class Series:
    """A batch of time series; make one by `series` or `series_of`, which check it.

    Attributes
    ----------
    t0 : float
        Where every series begins; not after the first observation.
    ts : ndarray, shape (K,)
        Increasing: the times of all of them together.
    values : ndarray, shape (batch, K, d)
        0 where missing.
    observed : ndarray of bool, shape (batch, K, d)
    """

    t0: float
    ts: np.ndarray
    values: np.ndarray
    observed: np.ndarray

    @property
    def visited(self):
        """Where a series has some observation, shape (batch, K)."""
        return self.observed.any(axis=2)

    def take(self, rows):
        """Some of the series, on the times at which one of them was observed; on all if none was."""
        rows = np.asarray(rows)
        if not rows.size:
            raise InvalidInputError("an empty batch of series: rows is empty")
        some = self.observed[rows].any(axis=(0, 2))
        some |= not some.any()
        return Series(self.t0, self.ts[some], self.values[rows][:, some], self.observed[rows][:, some])


def series(ts, values, observed=None, t0=None):
    """A checked `Series`.

    Parameters
    ----------
    ts : array_like, shape (K,)
        Increasing.
    values : array_like, shape (batch, K, d)
        Finite where observed.
    observed : array_like of bool, shape (batch, K, d), optional
        By default everything.
    t0 : float, optional
        By default the first time.

    Raises
    ------
    InvalidInputError
        Naming the array, the index and the value: times that do not increase, another shape, an empty batch, a value
        that is not finite and not marked as missing.
    """
    ts = increasing_times("ts", ts)
    values = np.array(values, dtype=np.float64)
    if values.ndim != 3 or values.shape[1] != ts.size or 0 in values.shape:
        raise InvalidInputError(f"values must have shape (batch, {ts.size}, d) with batch and d > 0, one column for each "
                                f"of ts, found {values.shape}")
    observed = np.ones(values.shape, dtype=bool) if observed is None else np.array(observed)
    if observed.dtype != bool or observed.shape != values.shape:
        raise InvalidInputError(f"observed must be boolean of the shape of values, {values.shape}, found "
                                f"{observed.dtype} of shape {observed.shape}")
    bad = np.argwhere(observed & ~np.isfinite(values))
    if bad.size:
        raise InvalidInputError(f"values must be finite where observed, found values{bad[0].tolist()} = "
                                f"{values[tuple(bad[0])]}, not marked as missing")
    t0 = float(ts[0] if t0 is None else t0)
    if not t0 <= ts[0]:
        raise InvalidInputError(f"t0 must not come after the first time {ts[0]:g}, found {t0:g}")
    return Series(t0, ts, np.where(observed, values, 0.0), observed)


def increasing_times(name, ts):
    """``ts`` as a float64 vector of at least one entry, each larger than the one before."""
    ts = real_vector(name, ts)
    if not ts.size:
        raise InvalidInputError(f"{name} must hold at least one time, found none")
    bad = np.flatnonzero(np.diff(ts) <= 0.0)
    if bad.size:
        k = int(bad[0]) + 1
        raise InvalidInputError(f"{name} must increase, found {name}[{k}] = {ts[k]:g} after {ts[k - 1]:g}")
    return ts


def series_of(samples, t0=None):
    """A `Series` of samples with times of their own, on the union of these.

    Parameters
    ----------
    samples : sequence of (array_like, array_like)
        Times (K_i,) and values (K_i, d) of each; NaN in values is a missing entry here.
    t0 : float, optional
        By default the first of all times.

    Raises
    ------
    InvalidInputError
        As `series`, naming the sample.
    """
    if not len(samples):
        raise InvalidInputError("samples must hold at least one series, found none")
    times = [increasing_times(f"times of sample {number}", ts) for number, (ts, _) in enumerate(samples)]
    values = [np.array(own, dtype=np.float64) for _, own in samples]
    d = values[0].shape[-1] if values[0].ndim == 2 else 1
    for number, (ts, own) in enumerate(zip(times, values)):
        if own.shape != (ts.size, d):
            raise InvalidInputError(f"values of sample {number} must have shape {(ts.size, d)}, found {own.shape}")
    union = np.unique(np.concatenate(times))
    together = np.full((len(values), union.size, d), np.nan)
    for row, ts, own in zip(together, times, values):
        row[np.searchsorted(union, ts)] = own
    return series(union, together, ~np.isnan(together), t0)


def require_channels(batch, d):
    """Raise unless ``batch`` is a `Series` of d channels: compiled recurrences trust the shape of what they are handed."""
    if not isinstance(batch, Series):
        raise InvalidTypeError(f"series must be made by refnode.models.series.series, or series_of, found {type(batch).__name__}")
    if batch.values.shape[2] != d:
        raise InvalidInputError(f"series must have {d} channels, as the model has, found {batch.values.shape[2]}")


# --- steps of a recurrence ------------------------------------------------------------------------

class Steps(NamedTuple):
    """The observations of every series, its first in the first step, whatever the times of the others.

    ``at`` (n, batch): indices into ts; ``present`` (n, batch): whether the series has so many observations; ``gap``
    (n, batch): the time since its last one, or since t0; ``inputs`` (n, batch, 2 d + 1): values, what of them is
    observed (1 or 0), and the gap.
    """

    at: np.ndarray
    present: np.ndarray
    gap: np.ndarray
    inputs: np.ndarray


def steps_of(batch):
    """`Steps` of a `Series`, in the order of time."""
    visited = batch.visited
    counts = visited.sum(axis=1)
    at = np.argsort(~visited, axis=1, kind="stable")[:, :max(int(counts.max()), 1)]
    present = np.arange(at.shape[1]) < counts[:, None]
    times = np.where(present, batch.ts[at], batch.t0)
    gap = np.where(present, times - np.column_stack([np.full(len(at), batch.t0), times[:, :-1]]), 0.0)
    rows = np.arange(len(at))[:, None]
    inputs = np.concatenate([batch.values[rows, at], batch.observed[rows, at], gap[:, :, None]], axis=2)
    inputs = np.where(present[:, :, None], inputs, 0.0)
    return Steps(at.T, present.T, gap.T, np.ascontiguousarray(inputs.transpose(1, 0, 2)))


def backwards(steps):
    """The same steps, last first: a series with fewer observations joins in later, in time as it were."""
    return Steps(*(np.ascontiguousarray(array[::-1]) for array in steps))


# --- the fit of a model ---------------------------------------------------------------------------

def fitted(model, loss_and_gradient, data, draw, epochs, size, learning_rates, seed, progress, every, options,
           said=""):
    """The parameters after so many epochs of Adam over mini-batches of ``size`` series, recorded in the model's history.

    ``draw(rng, count)`` is what else is random in a batch; ``loss_and_gradient(theta, batch, drawn)`` has it; ``options`` are
    further ones of `refnode.models.training.fit`, and ``said`` is what a checkpoint of the run has to share beside them.
    """
    require_channels(data, model.d)
    size = min(size, len(data.values))
    order = mini_batches(len(data.values), size)

    def batches(rng):
        return [(rows, draw(rng, rows.size)) for rows in order(rng)]

    schedule = ExponentialDecay(*learning_rates, max(epochs * math.ceil(len(data.values) / size), 1))
    found = fit(model.theta, lambda theta, batch: loss_and_gradient(theta, data.take(batch[0]), batch[1]), batches,
                Adam(learning_rates[0]), schedule, epochs=epochs, history=model.history, progress=progress, every=every,
                seed=seed, **({"identity": identity_of(model, data.ts, data.values, data.observed) + said, **options} if options else {}))
    return found.theta
