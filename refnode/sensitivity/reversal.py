"""How a reverse sweep gets y back: read from the forward solve's dense output, or solved backwards.

A state solved backwards drifts: where the forward solve contracts, the backward solve expands. So it is held
against states that are known from the forward solve. It may start afresh from them, or only be compared.
"""
import copy

import numpy as np

from refnode.sensitivity.forward_solve import solved
from refnode.solve.integrate import SEEN

WITNESSES = 15             # equispaced states kept to compare with, where there are no checkpoints
CHECKPOINTS = 16           # equispaced states kept to start afresh from, by default


# --- y read from the forward solve ----------------------------------------------------------------

def dense_path(forward, P):
    """The stored steps of a forward solve and the scratch to read y from them, as drivers take both."""
    times, y, k, k_extra, _ = forward.stored()
    scratch = (np.empty_like(forward.storage.w), np.empty(forward.n), np.empty(forward.n), np.zeros(1))
    return (P, times, y, k, k_extra), scratch


def path_bytes(path):
    """Bytes of forward history that a dense path holds."""
    return sum(array.nbytes for array in path[1:])


# --- y solved backwards ---------------------------------------------------------------------------

def solved_with_states(problem, options, count):
    """The forward solve, storing no steps, and ``count`` states inside the interval: trajectory, times, states.

    The times are equispaced; given steps give the nearest of their ends.
    """
    times = kept_times(options.grid(problem.t0, problem.t1), problem, count)
    direction = 1.0 if problem.t1 >= problem.t0 else -1.0
    order = np.argsort(direction * np.concatenate([problem.ts, times]), kind="stable")
    wider = copy.copy(problem)                              # shares its field, and what is compiled for it
    wider.ts = np.concatenate([problem.ts, times])[order]
    forward = solved(wider, options, keep=False)
    place = np.argsort(order)
    states = forward.ys[place[problem.ts.size:]]
    rows = place[:problem.ts.size]
    forward.ts, forward.ys, forward.ys_step = forward.ts[rows], forward.ys[rows], forward.ys_step[rows]
    forward.counts[SEEN] = problem.ts.size
    return forward, times, states


def kept_times(grid, problem, count):
    """``count`` times inside the interval, in the order of integration; fewer if there are fewer given steps."""
    if problem.t0 == problem.t1:
        return np.empty(0)
    inside = np.linspace(problem.t0, problem.t1, count + 2)[1:-1]
    if grid.size == 0:
        return inside
    steps = np.unique(np.rint(np.linspace(0, grid.size - 1, count + 2)).astype(int))
    return grid[steps[1:-1]]


class Reconstruction:
    """A state solved backwards, held against what is known of it.

    Parameters
    ----------
    problem : Problem
    forward : Trajectory
        Its observations, first and last state are known.
    rtol, atol : ndarray, shape (n,)
        Tolerances of the state.
    times, states : ndarray, shapes (J,), (J, n)
        States known besides, in the order of the forward solve.
    restarts : set of "observations" and "checkpoints"
        From which of them the state starts afresh.

    Attributes
    ----------
    drift : float
        The largest difference from a known state, in units of the tolerance. Implements (ADJ-9).
    relative : float
        The same in units of each component's largest known size.
    t : float
        Where it occurred.
    """

    def __init__(self, problem, forward, rtol, atol, times, states, restarts):
        n = problem.y0.size                                  # a running cost has no part in lambda
        known = np.vstack([forward.y_start, forward.ys, forward.y1, states])[:, :n]
        self.size = np.max(np.abs(known), axis=0, initial=0.0)
        self.weight = atol[:n] + rtol[:n] * self.size
        self.times, self.states, self.restarts = times, states, restarts
        self.drift, self.relative, self.t = 0.0, 0.0, problem.t1
        self.bytes = forward.ys.nbytes + forward.y1.nbytes + states.nbytes

    def stops(self):
        """Times and states at which the sweep stops to start afresh, besides observations."""
        return (self.times, self.states) if "checkpoints" in self.restarts else (self.times[:0], self.states[:0])

    def witnesses(self, start, end):
        """Times and states strictly between, against the direction of the forward solve, that are only compared."""
        if "checkpoints" in self.restarts:
            return self.times[:0], self.states[:0]
        inside = (self.times - end) * np.sign(start - end) > 0
        inside &= (start - self.times) * np.sign(start - end) > 0
        return self.times[inside][::-1], self.states[inside][::-1]

    def compare(self, t, y, known):
        """Note the difference of a reconstructed state from a known one."""
        n = self.size.size
        error = np.abs(y[:n] - known[:n])
        tiny = np.finfo(float).tiny
        drift = float(np.max(error / np.maximum(self.weight, tiny), initial=0.0))
        if drift > self.drift or drift != drift:
            self.drift, self.t = drift, t
            self.relative = float(np.max(error / np.maximum(self.size, tiny), initial=0.0))

    def start_afresh(self, where, y, known):
        if where in self.restarts:
            y[:] = known
