"""A problem: a field, its initial value, its parameters, its times, and a loss."""
import functools

import numpy as np

from refnode.checks import observation_times, real_vector, time_span
from refnode.cuda_arrays import taken
from refnode.errors import InvalidInputError, InvalidTypeError
from refnode.fields.augmented import with_running_cost
from refnode.fields.field import VectorField
from refnode.losses import Loss


class Problem:
    """An initial-value problem with observation times and a loss.

    Parameters
    ----------
    field : VectorField or callable
        dy/dt = f(t, y, theta); a callable is wrapped in a `VectorField`.
    y0 : array_like, shape (n,)
        State at t0. Any real dtype; copied to float64. Or an array on a GPU, which stays there; see ``docs/cuda.md``.
    theta : array_like, shape (p,)
        Parameters; may be empty.
    t_span : (float, float)
        Initial and end time t0, t1; t1 < t0 and t1 == t0 are allowed.
    ts : array_like, shape (K,), optional
        Observation times, in the order of integration, inside ``t_span``; duplicates are allowed.
        Default: one observation at t1 that moves with t1, so that ``ts`` is no input of its own.
    loss : refnode.losses.Loss, optional
        Needed by `gradient`.
    name : str, optional

    Raises
    ------
    InvalidInputError, InvalidTypeError
        Naming the argument, what was expected and what was found.
    """

    def __init__(self, field, y0, theta=(), t_span=(0.0, 1.0), ts=None, loss=None, name=None):
        self.field = field if isinstance(field, VectorField) else VectorField(field)
        self.y0 = _vector("y0", y0)
        self.theta = _vector("theta", theta)
        self.t0, self.t1 = time_span(t_span)
        self.ts_is_t1 = ts is None
        self.ts = np.array([self.t1]) if ts is None else observation_times(ts, self.t0, self.t1)
        if loss is not None and not isinstance(loss, Loss):
            raise InvalidTypeError(f"loss must be a refnode.losses.Loss, found {type(loss).__name__}")
        self.loss = loss
        self.name = name or self.field.name
        for what, declared, found in (("y0", self.field.n, self.y0.size),
                                      ("theta", self.field.p, self.theta.size)):
            if declared is not None and declared != found:
                raise InvalidInputError(f"{what} must have length {declared} for field "
                                        f"{self.field.name!r}, found {found}")

    def __repr__(self):
        return (f"<Problem {self.name}: n={self.y0.size}, p={self.theta.size}, "
                f"t in [{self.t0:g}, {self.t1:g}], {self.ts.size} observations>")

    def replace(self, **changes):
        """A copy with some of field, y0, theta, t0, t1, ts, loss changed; t0 and t1 move ``t_span``."""
        t_span = (changes.pop("t0", self.t0), changes.pop("t1", self.t1))
        arguments = {"field": self.field, "y0": self.y0, "theta": self.theta, "t_span": t_span,
                     "ts": None if self.ts_is_t1 else self.ts, "loss": self.loss, "name": self.name}
        return Problem(**{**arguments, **changes})

    def as_batch(self):
        """The `Batch` of this problem alone."""
        from refnode.problems.batch_problem import Batch        # which is made of problems
        ts = None if self.ts_is_t1 else self.ts[None]
        return Batch(self.field, self.y0[None], self.theta, (self.t0, self.t1), ts, self.loss, self.name)

    @functools.cached_property
    def flow_field(self):
        """The field that is integrated: ``field``, with the running cost as one more state if there is one."""
        running = None if self.loss is None else self.loss.running
        return self.field if running is None else with_running_cost(self.field, running)

    @functools.cached_property
    def flow_y0(self):
        """The initial value of `flow_field`."""
        return self.y0 if self.flow_field is self.field else np.append(self.y0, 0.0)


def _vector(name, value):
    """``value`` as a vector on the host, or as one that stays on the GPU."""
    value = taken(name, value)
    if not getattr(value, "on_device", False):
        return real_vector(name, value)
    if value.ndim != 1:
        raise InvalidInputError(f"{name} must be one-dimensional, found shape {value.shape}")
    return value
