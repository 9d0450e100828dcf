"""What reverse sweeps return, and the parts every recipe shares: seeds, and moving times."""
import dataclasses

import numpy as np
from numba import types

from refnode.errors import InvalidInputError
from refnode.host_device import MATRIX, RHS, VECTOR, driver
from refnode.sensitivity.jumps import initial_time_cotangent, time_cotangent


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
        Counts of evaluations, steps and rejected steps, forward and reverse.
    """

    y0: np.ndarray
    theta: np.ndarray
    t0: float
    t1: float
    ts: np.ndarray
    stats: dict


@dataclasses.dataclass
class Gradient(Cotangents):
    """`Cotangents` of a loss, with its value, the recipe's name and the forward solution."""

    loss: float = np.nan
    sensitivity: str = ""
    solution: object = None


@dataclasses.dataclass
class Seeds:
    """Cotangents of what a solve puts out: of the observations (K, n) and of the last state (n,)."""

    ys_bar: np.ndarray
    y1_bar: np.ndarray

    @property
    def scale(self):
        """The largest cotangent: the unit in which absolute tolerances on lambda count."""
        largest = max(np.max(np.abs(self.ys_bar), initial=0.0), np.max(np.abs(self.y1_bar), initial=0.0))
        return largest if largest > 0.0 else 1.0


def require_finite(name, array):
    """Raise InvalidInputError naming the first entry that is not finite."""
    finite = np.isfinite(array)
    if not finite.all():
        bad = np.argwhere(~finite)
        index = tuple(int(i) for i in bad[0])
        raise InvalidInputError(f"{name} must be finite, found {name}{list(index)} = {array[index]}")


SLOPE_TYPES = types.Tuple((VECTOR, MATRIX, VECTOR, VECTOR, MATRIX))


@driver(RHS, SLOPE_TYPES)
def slopes_at(f, arguments):
    """slopes[j] = f(ts[j], ys[j], theta), for arguments (ts, ys, theta, tape, slopes)."""
    ts, ys, theta, tape, slopes = arguments
    for j in range(ts.shape[0]):
        f(ts[j], ys[j], theta, tape, slopes[j])
    return 0


def with_times(problem, seeds, y0_bar, theta_bar, slopes, stats):
    """`Cotangents` from those of y0 and theta: adds those of the times, and drops a running cost's state.

    slopes : (K + 2, n), f at t0, at the observations and at t1.
    """
    ts_bar = time_cotangent(seeds.ys_bar, slopes[1:-1])
    t1_bar = float(time_cotangent(seeds.y1_bar, slopes[-1]))
    if problem.ts_is_t1:
        t1_bar, ts_bar = t1_bar + float(ts_bar[0]), np.empty(0)
    return Cotangents(y0=y0_bar[:problem.y0.size].copy(), theta=theta_bar,
                      t0=float(initial_time_cotangent(y0_bar, slopes[0])), t1=t1_bar, ts=ts_bar, stats=stats)
