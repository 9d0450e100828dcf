"""What happens to lambda at one instant: observations, and the ends of the interval.

The same few lines serve every recipe, forward and reverse, continuous and discrete: the steps of a solve
are held fixed, and a moving time acts through the velocity f at that time.
"""
import numpy as np

from refnode.host_device import host_device
from refnode.linalg import dot


def observation_jump(lam, y_bar):
    """lam(t_k-) = lam(t_k+) + dL/dy(t_k), going backwards. Implements (JUMP-1).

    Parameters
    ----------
    lam : ndarray, shape (n,), [loss/state]
        The cotangent after the observation; changed in place.
    y_bar : ndarray, shape (n,), [loss/state]
        Cotangent of the observed state.
    """
    lam += y_bar


def time_cotangent(y_bar, slope):
    """dL/dt_k = dL/dy(t_k) . f(t_k, y(t_k)), for an observation or the end t1. Implements (JUMP-2)."""
    return np.vecdot(y_bar, slope)


def initial_time_cotangent(lam0, slope0):
    """dL/dt0 = -lam(t0) . f(t0, y0), with y(t0) = y0 held, of one row or of each. Implements (JUMP-3)."""
    return -np.vecdot(lam0, slope0)


@host_device
def time_cotangents_kernel(y0_bar, ys_bar, y1_bar, slopes, times_bar):
    """`initial_time_cotangent`, and `time_cotangent` for each observation and t1, into times_bar (K + 2,).

    Row j of ``slopes`` (K + 2, n) is f at that time.
    """
    last = ys_bar.shape[0] + 1
    times_bar[0] = -dot(y0_bar, slopes[0])
    for j in range(1, last):
        times_bar[j] = dot(ys_bar[j - 1], slopes[j])
    times_bar[last] = dot(y1_bar, slopes[last])


def observation_tangent(y_tan, t_tan, slope):
    """Tangent of y(t_k) when t_k moves too: S + t_tan f. Implements (JUMP-4), whose transpose is (JUMP-2)."""
    return y_tan + t_tan * slope


def initial_tangent(y0_tan, t0_tan, slope0):
    """Tangent of the state at the old t0 when t0 moves: y0_tan - t0_tan f. Implements (JUMP-5), transpose (JUMP-3)."""
    return y0_tan - t0_tan * slope0
