"""A batch: many problems of one field, with their own initial values, parameters, times and losses."""
import functools

import numpy as np

from refnode.checks import observation_times, real_vector, time_span
from refnode.cuda_arrays import taken
from refnode.errors import InvalidInputError, InvalidTypeError
from refnode.fields.augmented import with_running_cost
from refnode.fields.field import VectorField
from refnode.fields.joint import joint_field
from refnode.losses import Loss
from refnode.problems.problem import Problem


class Batch:
    """B initial-value problems of one field, whose losses add.

    Parameters
    ----------
    field : VectorField or callable
        dy/dt = f(t, y, theta), of one sample.
    y0 : array_like, shape (B, n)
        One initial state a row. It and theta may be arrays on a GPU, which stay there; see ``docs/cuda.md``.
    theta : array_like, shape (p,) or (B, p)
        Parameters of all samples, or of each.
    t_span : (float, float) or array_like, shape (B, 2)
        Initial and end time of all samples, or of each; any direction.
    ts : array_like, shape (K,); or a sequence of B array_likes; optional
        Observation times of all samples, or of each: their numbers may differ. Default: every sample
        observes its own t1.
    loss : Loss or sequence of B losses, optional
        Loss of every sample, or of each. The loss of the batch is their sum; a mean is a factor 1/B
        that the caller applies. A running cost must be the same for all.
    name : str, optional

    Raises
    ------
    InvalidInputError, InvalidTypeError
        Naming the argument, the sample and the value.

    Notes
    -----
    ``len(batch)`` is B, ``batch[i]`` is sample i as a `Problem`, ``batch[i:j]`` a `Batch` of some, and
    ``batch.joint()`` the stacked problem.
    """

    def __init__(self, field, y0, theta=(), t_span=(0.0, 1.0), ts=None, loss=None, name=None):
        self.field = field if isinstance(field, VectorField) else VectorField(field)
        self.y0 = _rows("y0", y0)
        if self.y0.ndim != 2:
            raise InvalidInputError(f"y0 must have shape (B, n), one row a sample, found {self.y0.shape}")
        if len(self.y0) == 0:
            raise InvalidInputError("y0 has no rows: a batch needs at least one sample")
        self.theta = _rows("theta", theta, len(self.y0))
        self.spans = _spans(t_span, len(self.y0))
        self.ts_is_t1 = ts is None
        self.ts, self.ts_first = _observations(ts, self.spans)
        self.losses = _losses(loss, len(self.y0))
        self.name = name or self.field.name
        self._given = {"field": field, "y0": y0, "theta": theta, "t_span": t_span, "ts": ts, "loss": loss,
                       "name": name}
        for what, declared, found in (("y0", self.field.n, self.y0.shape[1]),
                                      ("theta", self.field.p, self.theta.shape[-1])):
            if declared is not None and declared != found:
                raise InvalidInputError(f"{what} must have {declared} entries a sample for field "
                                        f"{self.field.name!r}, found {found}")

    def __len__(self):
        return len(self.y0)

    def __repr__(self):
        return (f"<Batch {self.name}: {len(self)} samples, n={self.y0.shape[1]}, p={self.theta.shape[-1]}, "
                f"{'own' if self.own_theta else 'shared'} theta, {self.ts.size} observations>")

    def __getitem__(self, i):
        """Sample i as a `Problem`; of a slice, its samples as a `Batch`."""
        i = range(len(self))[i]
        if isinstance(i, range):
            return self.take(i)
        ts = None if self.ts_is_t1 else self.ts[self.observations(i)]
        return Problem(self.field, self.y0[i], self.theta[i] if self.own_theta else self.theta,
                       tuple(self.spans[i]), ts, self.losses[i], f"{self.name}[{i}]")

    def replace(self, **changes):
        """A copy with some of field, y0, theta, t_span, ts, loss, name changed."""
        return Batch(**{**self._given, **changes})

    def take(self, samples):
        """The `Batch` of the samples with these indices, in this order; a minibatch, say."""
        samples = [range(len(self))[i] for i in samples]
        if not samples:
            raise InvalidInputError("a batch needs at least one sample, found no indices")
        theta = self.theta[samples] if self.own_theta else self.theta
        ts = None if self.ts_is_t1 else [self.ts[self.observations(i)] for i in samples]
        loss = None if self.losses[0] is None else [self.losses[i] for i in samples]
        return Batch(self.field, self.y0[samples], theta, self.spans[samples], ts, loss, self.name)

    def observations(self, i):
        """The slice of ``ts``, all observation times in a row, that belongs to sample i."""
        return slice(self.ts_first[i], self.ts_first[i + 1])

    @property
    def own_theta(self):
        """Whether every sample has parameters of its own."""
        return self.theta.ndim == 2

    @property
    def on_device(self):
        """Whether y0 or theta lies on a GPU, so that results stay there."""
        return any(getattr(array, "on_device", False) for array in (self.y0, self.theta))

    @functools.cached_property
    def first(self):
        """Sample 0 as a `Problem` on the host, for checks of the field's functions."""
        first = lambda array, many: (array.first_on_host() if getattr(array, "on_device", False)
                                     else array[0] if many else array)
        return Problem(self.field, first(self.y0, True), first(self.theta, self.own_theta), tuple(self.spans[0]))

    @functools.cached_property
    def same_count(self):
        """Whether all samples have as many observations as the first."""
        return bool(np.all(np.diff(self.ts_first) == self.ts_first[1]))

    @functools.cached_property
    def same_loss(self):
        """Whether all samples have the loss of the first: the very object."""
        return all(loss is self.losses[0] for loss in self.losses)

    @functools.cached_property
    def flow_field(self):
        """The field of one sample that is integrated, with the running cost as one more state if there is one."""
        running = None if self.losses[0] is None else self.losses[0].running
        return self.field if running is None else with_running_cost(self.field, running)

    @functools.cached_property
    def flow_y0(self):
        """The initial values of `flow_field`, shape (B, n) or (B, n + 1)."""
        if self.flow_field is self.field:
            return self.y0
        return np.column_stack([self.y0, np.zeros(len(self))])

    def joint(self):
        """The samples stacked to one `Problem` of B n states, which any solver takes with one step size.

        Raises
        ------
        InvalidInputError
            If the samples differ in their interval or their observation times.
        """
        for i in range(1, len(self)):
            if not np.array_equal(self.spans[i], self.spans[0]):
                raise InvalidInputError(
                    "step_control='joint' takes the same steps for all samples, so t_span must be shared: found "
                    f"{_pair(self.spans[0])} for sample 0 and {_pair(self.spans[i])} for sample {i}")
            if not np.array_equal(self.ts[self.observations(i)], self.ts[self.observations(0)]):
                raise InvalidInputError(
                    "step_control='joint' takes the same steps for all samples, so ts must be shared: found "
                    f"{self.ts[self.observations(0)]} for sample 0 and {self.ts[self.observations(i)]} for sample {i}")
        field = joint_field(self.flow_field, len(self), self.flow_y0.shape[1], self.theta.shape[-1],
                            self.own_theta)
        ts = None if self.ts_is_t1 else self.ts[self.observations(0)]
        loss = None if self.losses[0] is None else StackedLoss(self)
        return Problem(field, self.flow_y0.ravel(), self.theta.ravel(), tuple(self.spans[0]), ts, loss,
                       f"joint {self.name}")


class StackedLoss(Loss):
    """The sum of the samples' losses as a loss of the stacked state; q_i(t1) is the running cost of sample i."""

    def __init__(self, batch):
        self.losses, self.n, self.size = batch.losses, batch.y0.shape[1], batch.flow_y0.shape[1]

    def values(self, ys, y1):
        """Loss of each sample, shape (B,), from the stacked states ys (B n, K) and y1 (B n,)."""
        ys, y1 = ys.reshape(len(self.losses), self.size, -1), y1.reshape(len(self.losses), self.size)
        own = [float(loss.value(ys[i, :self.n], y1[i, :self.n])) for i, loss in enumerate(self.losses)]
        return np.array(own) + np.sum(y1[:, self.n:], axis=1)

    def value(self, ys, y1):
        return float(np.cumsum(self.values(ys, y1))[-1])        # in the order of the samples

    def vjp(self, ys, y1):
        ys, y1 = ys.reshape(len(self.losses), self.size, -1), y1.reshape(len(self.losses), self.size)
        ys_bar, y1_bar = np.zeros_like(ys), np.zeros_like(y1)
        y1_bar[:, self.n:] = 1.0                                # L_i = loss_i(ys_i, y1_i) + q_i(t1)
        for i, loss in enumerate(self.losses):
            ys_bar[i, :self.n], y1_bar[i, :self.n] = loss.vjp(ys[i, :self.n], y1[i, :self.n])
        return ys_bar.reshape(-1, ys.shape[2]), y1_bar.ravel()


# --- checks, made once ----------------------------------------------------------------------------

def _rows(name, value, batch=None):
    """``value`` as float64, (p,) or (B, p), finite; the message names the sample. What lies on a GPU stays there."""
    value = taken(name, value)
    if getattr(value, "on_device", False):
        if value.ndim > 2:
            raise InvalidInputError(f"{name} must have one row a sample, found shape {value.shape}")
        if batch is not None and value.ndim == 2 and len(value) != batch:
            raise InvalidInputError(f"{name} must have one row for each of the {batch} samples of y0, found shape {value.shape}")
        return value
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InvalidTypeError(f"{name} must be an array of real numbers with equal rows: {error}") from error
    if array.ndim < 2:
        return real_vector(name, array)
    if array.dtype.kind not in "fiub" and array.size:
        raise InvalidTypeError(f"{name} must be an array of real numbers, found dtype {array.dtype}")
    array = np.array(array, dtype=np.float64, order="C")
    if array.ndim > 2 or (batch is not None and len(array) != batch):
        raise InvalidInputError(f"{name} must have one row for each of the {batch} samples of y0, "
                                f"found shape {array.shape}" if batch is not None else
                                f"{name} must have shape (B, n), one row a sample, found {array.shape}")
    if not np.all(np.isfinite(array)):
        i, m = (int(index) for index in np.argwhere(~np.isfinite(array))[0])
        raise InvalidInputError(f"{name} of sample {i} must be finite, found {name}[{i}, {m}] = {array[i, m]}")
    return array


def _spans(t_span, batch):
    """(t0, t1) of every sample, shape (B, 2)."""
    if np.ndim(t_span) < 2:
        return np.tile(time_span(t_span), (batch, 1))
    spans = _rows("t_span", t_span, batch)
    if spans.shape[1] != 2:
        raise InvalidInputError(f"t_span must be (t0, t1) or have shape ({batch}, 2), found {spans.shape}")
    return spans


def _observations(ts, spans):
    """All observation times in a row, and where those of each sample begin, shape (B + 1,)."""
    batch = len(spans)
    if ts is None:
        return spans[:, 1].copy(), np.arange(batch + 1)
    if isinstance(ts, (list, tuple)) and any(np.ndim(each) > 0 for each in ts) or np.ndim(ts) == 2:
        if len(ts) != batch:
            raise InvalidInputError(f"ts must be shared or have one entry for each of the {batch} samples of y0, "
                                    f"found {len(ts)}")
        rows = [real_vector(f"ts of sample {i}", each) for i, each in enumerate(ts)]
    else:
        shared = real_vector("ts", ts)
        if np.all(spans == spans[0]):
            observation_times(shared, *spans[0])
            return np.tile(shared, batch), shared.size * np.arange(batch + 1)
        rows = [shared] * batch
    first = np.concatenate([[0], np.cumsum([row.size for row in rows])])
    times = np.concatenate(rows)
    _require_ordered(times, first, spans)
    return times, first


def _require_ordered(times, first, spans):
    """Every sample's times inside its interval, in the order of integration."""
    of = np.repeat(np.arange(len(spans)), np.diff(first))
    direction = np.where(spans[:, 1] >= spans[:, 0], 1.0, -1.0)[of]
    back = (direction[1:] * np.diff(times) < 0) & (of[1:] == of[:-1])
    outside = (direction * (times - spans[of, 0]) < 0) | (direction * (times - spans[of, 1]) > 0)
    for i in of[np.concatenate([[False], back])[:of.size] | outside][:1]:
        observation_times(times[first[i]:first[i + 1]], *spans[i], name=f"ts of sample {i}")


def _losses(loss, batch):
    """The loss of every sample."""
    losses = [loss] * batch if loss is None or isinstance(loss, Loss) else list(_sequence_of_losses(loss))
    if len(losses) != batch:
        raise InvalidInputError(f"loss must be shared or have one entry for each of the {batch} samples of y0, "
                                f"found {len(losses)}")
    for i, each in enumerate(losses):
        if each is None and loss is None:
            break
        if not isinstance(each, Loss):
            raise InvalidTypeError(f"loss of sample {i} must be a refnode.losses.Loss, found {type(each).__name__}")
        if each.running != losses[0].running:
            raise InvalidInputError(f"the running cost must be the same for all samples, that of sample {i} "
                                    "differs from that of sample 0; let g depend on theta instead")
    return losses


def _sequence_of_losses(loss):
    try:
        return iter(loss)
    except TypeError:
        raise InvalidTypeError("loss must be a refnode.losses.Loss or a sequence of them, found "
                               f"{type(loss).__name__}") from None


def _pair(span):
    return f"({span[0]:g}, {span[1]:g})"
