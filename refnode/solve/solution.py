"""What a solve returns, and y(t) between the steps."""
import dataclasses

import numpy as np

from refnode.solve.equal_steps import given_time
from refnode.solve.integrate import (
    COMPONENT, EVALUATIONS, EVENT, FINISHED, H, KEEP, MAX_STEPS_REACHED, NON_FINITE, REJECTED, SEEN,
    STEP_TOO_SMALL, STEPS, STIFF, T)


class DenseOutput:
    """y(t) by the method's own interpolant, as SciPy's ``OdeSolution``: call with a time or times.

    Attributes
    ----------
    ts : ndarray, shape (N + 1,)
        Times of the steps.
    """

    def __init__(self, trajectory, t_end=None):
        steps = trajectory.n_steps
        self.ts = trajectory.times[:steps + 1].copy()
        self._h = np.diff(self.ts)
        if t_end is not None:
            self.ts[-1] = t_end
        self._y = trajectory.y[:steps + 1].copy()
        self._k = trajectory.k[:steps * trajectory.s + 1].copy()
        self._k_extra = trajectory.k_extra[:steps].copy()
        self._P = trajectory.options.tableau.P
        self._s = trajectory.s

    @property
    def t_min(self):
        return min(self.ts[0], self.ts[-1])

    @property
    def t_max(self):
        return max(self.ts[0], self.ts[-1])

    def __call__(self, t):
        """y(t), shape (n,) for a number t, (n, len(t)) for an array. Step ends are exact."""
        t = np.asarray(t, dtype=np.float64)
        times = np.atleast_1d(t)
        if self._h.size == 0:
            out = np.repeat(self._y[:1], times.size, axis=0)
        else:
            out = self._interpolate(times)
        return out[0] if t.ndim == 0 else out.T

    def _interpolate(self, times):
        forward = self._h[0] > 0
        ends = self.ts[1:-1] if forward else -self.ts[1:-1]
        step = np.searchsorted(ends, times if forward else -times, side="left")
        sigma = (times - self.ts[step]) / self._h[step]
        powers = sigma[:, None] ** np.arange(1, self._P.shape[1] + 1)
        weights = self._h[step][:, None] * (powers @ self._P.T)
        own = self._s + 1
        k = self._k[step[:, None] * self._s + np.arange(own)]
        out = self._y[step] + np.einsum("ti,tin->tn", weights[:, :own], k)
        out += np.einsum("ti,tin->tn", weights[:, own:], self._k_extra[step])
        at_end = times == self.ts[step] + self._h[step]
        out[at_end] = self._y[step[at_end] + 1]
        return out


@dataclasses.dataclass
class Solution:
    """The result of a solve, with SciPy's names.

    Attributes
    ----------
    t : ndarray, shape (K,)
        Times of the output.
    y : ndarray, shape (n, K)
        States at these times.
    y1 : ndarray, shape (n,)
        State at the last time reached, ``t_steps[-1]``.
    sol : DenseOutput or None
        y(t) everywhere, if asked for.
    t_steps : ndarray
        Times of the accepted steps if they were kept, else the time reached alone.
    status : int
        0 reached the end, 1 a terminal event, -1 step size too small, -2 max_steps, -3 non-finite f.
    message : str
    nfev, n_steps, n_rejected : int
        Evaluations of f, accepted and rejected steps.
    t_events, y_events : list of ndarray, or None
    njev, nlu : int
        Always 0 for explicit methods; SciPy's result has them.
    """

    t: np.ndarray
    y: np.ndarray
    y1: np.ndarray
    status: int
    message: str
    nfev: int
    n_steps: int
    n_rejected: int
    t_steps: np.ndarray
    sol: DenseOutput | None = None
    t_events: list | None = None
    y_events: list | None = None
    njev: int = 0
    nlu: int = 0

    @property
    def success(self):
        return self.status >= 0


def solution_of(trajectory, status, dense_output=False):
    """The `Solution` of a trajectory that ended with ``status``."""
    seen, steps = trajectory.counts[SEEN], trajectory.n_steps
    kept = trajectory.limits[KEEP]
    return Solution(
        t=trajectory.ts[:seen].copy(), y=trajectory.ys[:seen].T.copy(), y1=trajectory.y1.copy(),
        status=status, message=message_of(trajectory, status), nfev=int(trajectory.counts[EVALUATIONS]),
        n_steps=steps, n_rejected=int(trajectory.counts[REJECTED]),
        t_steps=(trajectory.times[:steps + 1] if kept else trajectory.times[:1]).copy(),
        sol=DenseOutput(trajectory) if dense_output else None)


def message_of(trajectory, status):
    """What happened, with t, h and the component where they matter."""
    t, h = trajectory.clock[T], trajectory.clock[H]
    if status == FINISHED:
        return "reached the end of the interval"
    if status == EVENT:
        return "a terminal event occurred"
    if status == STEP_TOO_SMALL:
        return f"step size h={h:.3g} below spacing at t={t:.10g}" + _growth(trajectory)
    if status == MAX_STEPS_REACHED:
        return f"max_steps={trajectory.limits[0]} steps taken at t={t:.10g}, h={h:.3g}" + _stiffness(trajectory)
    if status == NON_FINITE:
        return _non_finite(trajectory, t, h)
    raise ValueError(f"unknown status {status}")


def _growth(trajectory):
    """A finite-time singularity shows as a state far above its initial size where the step vanishes."""
    before, now = np.abs(trajectory.y_start), np.abs(trajectory.y1)
    if np.any(now > 1e3 * (1.0 + before)):
        return f"; |y[{int(np.argmax(now))}]| = {now.max():.3g} and growing: likely a singularity"
    return ""


def _stiffness(trajectory):
    if trajectory.counts[STIFF] > 0.2 * trajectory.counts[STEPS]:
        return ("; the problem looks stiff (|h lambda| on the stability boundary in "
                f"{trajectory.counts[STIFF]} steps): an explicit method is the wrong tool")
    return ""


def _non_finite(trajectory, t, h):
    component, steps, grid = int(trajectory.counts[COMPONENT]), trajectory.n_steps, trajectory.grid
    if trajectory.counts[EVALUATIONS] == 1:
        return f"fun returned {trajectory.k[0][component]} for component {component} at t={t:g} (initial point)"
    if grid.size:
        h = given_time(grid, steps + 1) - given_time(grid, steps)
    return (f"fun returned a non-finite value for component {component} at t={t:.10g} + h, h={h:.3g}, "
            f"after step {steps}, y={trajectory.y1}")
