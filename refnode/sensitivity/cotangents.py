"""What reverse sweeps return, and the parts every recipe shares: seeds, and moving times."""
import dataclasses
import functools
import math

import numpy as np
from numba import types

from refnode.errors import InvalidInputError
from refnode.host_device import MATRIX, REAL, RHS, VECTOR, driver, higher_order, short
from refnode.linalg import copy_into
from refnode.precision import SingleDriver
from refnode.sensitivity.jumps import time_cotangents_kernel
from refnode.sensitivity.reliability import sensitivity_growth, solved_tolerance, warn_of_horizon
from refnode.solve.integrate import EVALUATIONS, REJECTED, STEPS
from refnode.solve.run import entry_point


SINGLE = np.dtype(np.float32)


@dataclasses.dataclass
class Cotangents:
    """Derivatives of one number with respect to every input of a problem.

    Attributes
    ----------
    y0 : ndarray, shape (n,), [loss/state]
    theta : ndarray, shape (p,), [loss/parameter]
    t0, t1 : float, [loss/time]
        With respect to the ends: y(t0) = y0 is held, and the observation times are.
    ts : ndarray, shape (K,), [loss/time]
        With respect to each observation time; empty if the problem observes t1 itself, which then has it.
    stats : dict
        Counts of evaluations, steps and rejected steps, forward and reverse; ``growth``, the relative effect
        of a relative change of y0 on what the loss sees; steps taken again, and bytes held for the reverse
        sweep (see `memory_stats`); and what a recipe adds.
    """

    y0: np.ndarray
    theta: np.ndarray
    t0: float
    t1: float
    ts: np.ndarray
    stats: dict

    def times(self, unit):
        """The same in double precision, times a power of two."""
        return Cotangents(self.y0.astype(np.float64) * unit, self.theta.astype(np.float64) * unit, self.t0 * unit,
                          self.t1 * unit, self.ts * unit, self.stats)


@dataclasses.dataclass
class Gradient(Cotangents):
    """`Cotangents` of a loss, with its value, the recipe's name and the forward solution."""

    loss: float = np.nan
    sensitivity: str = ""
    forward: object = dataclasses.field(default=None, repr=False)

    @functools.cached_property
    def solution(self):
        """The forward `Solution`."""
        return self.forward()


@dataclasses.dataclass
class Seeds:
    """Cotangents of what a solve puts out: of the observations (K, n) and of the last state (n,)."""

    ys_bar: np.ndarray
    y1_bar: np.ndarray

    def in_units(self, dtype):
        """Seeds of that type, divided by a power of two that makes the largest 1/2 to 1, and that power: a sweep is linear,
        so its relative error does not depend on the size of the loss, which single precision might not hold."""
        largest = max(np.max(np.abs(self.ys_bar), initial=0.0), np.max(np.abs(self.y1_bar), initial=0.0))
        exponent = min(math.frexp(largest)[1], 1023)
        scaled = (np.ldexp(part, -exponent).astype(dtype) for part in (self.ys_bar, self.y1_bar))
        return Seeds(*scaled), math.ldexp(1.0, exponent)


def own_tolerances(extra, kind, options):
    """``{kind}_rtol`` and ``{kind}_atol``, by default the smallest tolerances of the solve.

    Raises
    ------
    InvalidInputError
        If the absolute one would be zero: sensitivities and gradient integrals begin at zero.
    """
    rtol = extra.get(f"{kind}_rtol", float(np.min(options.rtol)))
    atol = extra.get(f"{kind}_atol", float(np.min(options.atol)))
    if atol == 0.0:
        raise InvalidInputError(f"atol is 0, but what {kind}_atol controls begins at 0: give {kind}_atol > 0")
    return rtol, atol


def adjoint_unit(problem, forward, seeds):
    """The unit of lambda, in which its absolute tolerance counts; proportional to the loss.

    The largest cotangent of a state, or what a running cost makes of one: |dg/dy| |t1 - t0|, at the ends
    and the observations.
    """
    n = problem.y0.size
    largest = max(np.max(np.abs(seeds.ys_bar[:, :n]), initial=0.0),
                  np.max(np.abs(seeds.y1_bar[:n]), initial=0.0))
    if problem.flow_field is not problem.field:
        slopes = cost_slopes(problem, np.vstack([problem.flow_y0, forward.ys, forward.y1]))
        slope = np.max(slopes[:, :n], initial=0.0) or np.max(slopes, initial=0.0)
        largest = max(largest, slope * abs(problem.t1 - problem.t0))
    return largest if largest > 0.0 else 1.0


def cost_slopes(problem, states):
    """|dg/dy|, and behind it |dg/dtheta|, at t0, the observations and t1, shape (K + 2, n + p)."""
    field, n, theta = problem.flow_field, problem.y0.size, problem.theta
    tape, dy = field.new_tape(1)[0], np.empty(n + 1)
    slopes = np.zeros((len(states), n + 1 + theta.size))
    for t, y, row in zip([problem.t0, *problem.ts, problem.t1], states, slopes):
        field.f(t, y, theta, tape, dy)
        dy_bar = np.append(np.zeros(n), 1.0)
        field.vjp(t, y, theta, tape, dy_bar, np.zeros(1), row[:n + 1], row[n + 1:])
    return np.abs(np.delete(slopes, n, axis=1))


def require_finite(name, array):
    """Raise InvalidInputError naming the first entry that is not finite."""
    flat = array.ravel("K")
    if math.isfinite(flat.dot(flat)):                           # quick, and finite only if all entries are
        return
    finite = np.isfinite(array)
    if not finite.all():
        bad = np.argwhere(~finite)
        index = tuple(int(i) for i in bad[0])
        entry = f"{name}{list(index)}" if index else name
        raise InvalidInputError(f"{name} must be finite, found {entry} = {array[index]}")


SLOPE_TYPES = types.Tuple((
    REAL, VECTOR, VECTOR, MATRIX, REAL, VECTOR, VECTOR, VECTOR, MATRIX,      # t0, y0, ts, ys, t1, y1, theta, tape, slopes
    MATRIX, VECTOR, VECTOR, VECTOR, VECTOR))                                 # ys_bar, y1_bar, y0_bar, times_bar, growth


@driver(RHS, SLOPE_TYPES)
def slopes_at(f, arguments):
    """f at t0, at every observation and at t1, into slopes (K + 2, n); the cotangents of these times into
    times_bar (K + 2,), and `sensitivity_growth` into growth (1,)."""
    t0, y0, ts, ys, t1, y1, theta, tape, slopes, ys_bar, y1_bar, y0_bar, times_bar, growth = arguments
    fill_slopes(f, t0, y0, ts, ys, t1, y1, theta, tape, slopes)
    time_cotangents_kernel(y0_bar, ys_bar, y1_bar, slopes, times_bar)
    growth[0] = sensitivity_growth(y0, ys, y1, ys_bar, y1_bar, y0_bar)
    return 0


@higher_order
def fill_slopes(f, t0, y0, ts, ys, t1, y1, theta, tape, slopes):
    """The body of `slopes_at`."""
    f(t0, y0, theta, tape, slopes[0])
    f(t1, y1, theta, tape, slopes[ts.shape[0] + 1])
    for j in range(ts.shape[0]):
        if ts[j] == t0:
            copy_into(slopes[0], slopes[j + 1])
        elif ts[j] == t1:
            copy_into(slopes[ts.shape[0] + 1], slopes[j + 1])
        else:
            f(ts[j], ys[j], theta, tape, slopes[j + 1])


SLOPE_NAMES = ("t0", "y0", "ts", "ys", "t1", "y1", "theta", "tape", "slopes", "ys_bar", "y1_bar", "y0_bar", "times_bar", "growth")
slopes_at.single = SingleDriver(slopes_at, SLOPE_NAMES)
slopes_at.is_short = short(SLOPE_NAMES, "y0", "ts")


def slopes_of(field, problem, y0, ys, y1):
    """f at t0, at every observation and at t1, for the states there, shape (K + 2, n)."""
    slopes = np.empty((len(ys) + 2, y0.size))
    time_cotangents(field, problem, y0, ys, y1, Seeds(ys, y1), y0, slopes)
    return slopes


def time_cotangents(field, problem, y0, ys, y1, seeds, y0_bar, slopes=None):
    """Cotangents of t0, of every observation time and of t1, shape (K + 2,), and `sensitivity_growth`; overwrites ``slopes``."""
    slopes = np.empty((len(ys) + 2, y0.size), ys.dtype) if slopes is None else slopes
    times_bar, growth = np.empty(len(slopes)), np.empty(1)
    theta, dtype, driver_ = problem.theta, slopes.dtype, slopes_at
    if dtype is SINGLE:
        y0, theta, driver_ = y0.astype(dtype), theta.astype(dtype), slopes_at.single
    entry, functions = entry_point(driver_, field, False, "f")
    tape = field.take_tape(1, dtype)
    entry(*functions, (
        problem.t0, y0, problem.ts, np.ascontiguousarray(ys), problem.t1, np.ascontiguousarray(y1),
        theta, tape[0], slopes, np.ascontiguousarray(seeds.ys_bar), np.ascontiguousarray(seeds.y1_bar),
        np.ascontiguousarray(y0_bar), times_bar, growth))
    field.keep_tape(tape)
    return times_bar, float(growth[0])


def cotangents_of(problem, forward, seeds, y0_bar, theta_bar, stats):
    """`Cotangents` from those of the flow's y0 and of theta: adds those of the times, through f with the
    steps held, and drops a running cost's state. ``forward`` has ``ys`` (K, n) and ``y1``."""
    times_bar, growth = time_cotangents(problem.flow_field, problem, problem.flow_y0, forward.ys, forward.y1, seeds,
                                        y0_bar)
    warn_of_horizon(growth, solved_tolerance(getattr(forward, "forward", forward)))
    t0_bar, t1_bar, ts_bar = ends_and_observations(problem, times_bar)
    return Cotangents(y0=y0_bar[:problem.y0.size].copy(), theta=theta_bar.copy(), t0=t0_bar, t1=t1_bar, ts=ts_bar,
                      stats={**stats, "growth": growth})


def ends_and_observations(problem, times_bar):
    """Cotangents of t0, t1 and the observation times, from those of all in a row."""
    t0_bar, ts_bar, t1_bar = float(times_bar[0]), times_bar[1:-1], float(times_bar[-1])
    if problem.ts_is_t1:
        return t0_bar, t1_bar + float(ts_bar[0]), np.empty(0)
    return t0_bar, t1_bar, ts_bar


def growth_of(problem, forward, seeds, y0_bar):
    """`sensitivity_growth` of a sweep; warns where it leaves nothing of the outputs determined."""
    growth = sensitivity_growth(problem.flow_y0, np.ascontiguousarray(forward.ys), forward.y1, seeds.ys_bar,
                                seeds.y1_bar, y0_bar)
    warn_of_horizon(growth, solved_tolerance(getattr(forward, "forward", forward)))
    return growth


def forward_stats(forward):
    """What a forward solve counted."""
    counts = forward.counts.tolist()
    return {"nfev": counts[EVALUATIONS], "n_steps": counts[STEPS], "n_rejected": counts[REJECTED]}


def memory_stats(times, *history):
    """Bytes of the arrays held for a reverse sweep at its peak: the times of the steps, and all else."""
    return {"history_bytes": sum(array.nbytes for array in history), "times_bytes": times.nbytes}
