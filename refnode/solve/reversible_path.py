"""Given steps of a reversible method: the loop, and the arrays of one solve.

Every observation ends a step: the grid is refined by the observation times. There is no interpolant.
"""
import numpy as np
from numba import types

from refnode.errors import InvalidInputError
from refnode.host_device import BLOCK, INTEGER, INTEGERS, MATRIX, REAL, RHS, VECTOR, driver, higher_order, host_device
from refnode.linalg import copy_into, first_non_finite
from refnode.solve.integrate import (
    COMPONENT, EVALUATIONS, FINISHED, KEEP, MAX_STEPS, NON_FINITE, RUNNING, SEEN, SLICE, STEPS, T, T_END)
from refnode.solve.run import run_slices, where
from refnode.steppers.reversible import Evaluations
from refnode.steppers.schemes import Scheme, reversible_start, reversible_step

SCHEME_TYPES = (INTEGER, INTEGER, REAL, MATRIX, VECTOR, VECTOR)                     # the fields of Scheme
EVALUATION_TYPES = (MATRIX, MATRIX, MATRIX)                                         # z, k, tape

REVERSIBLE_TYPES = types.Tuple((
    *SCHEME_TYPES,
    VECTOR, INTEGERS, VECTOR, VECTOR, INTEGERS,                  # grid, limits, theta, clock, counts
    VECTOR, BLOCK, *EVALUATION_TYPES,                            # times, x, z, k, tape
    VECTOR, MATRIX, INTEGERS))                                   # ts, ys, ys_step

SNAP = 1e-9          # of the shortest step: a time of the grid so near an observation gives way to it
PROBES = 3           # of a field that should be separable
SEPARABLE = 1e-12    # by how much of itself a slope may change with what it should not depend on


@driver(RHS, REVERSIBLE_TYPES)
def integrate_reversible(f, arguments):
    """Take given steps of a reversible method; see `take_steps`."""
    return take_steps(f, *arguments)


@higher_order
def take_steps(f, code, cost, coupling, A, b, c, grid, limits, theta, clock, counts, times, x, z, k, tape,
               ts, ys, ys_step):
    """Advance along ``grid`` by at most limits[SLICE] steps; returns a status.

    With KEEP the state after step i lies in x[i + 1], else the last state in x[0]. Observation j goes to
    ys[j], and the step that ended there to ys_step[j] (-1: at t0).
    """
    scheme, at = Scheme(code, cost, coupling, A, b, c), Evaluations(z, k, tape)
    if counts[EVALUATIONS] == 0:
        times[0] = clock[T]
        reversible_start(f, scheme, clock[T], x[0, 0], theta, at, x[0])
        counts[EVALUATIONS] = 1
        observe(clock[T], -1, x[0, 0], counts, ts, ys, ys_step)
        counts[COMPONENT] = first_non_finite(k[0])
        if counts[COMPONENT] >= 0:
            return NON_FINITE
    for _ in range(limits[SLICE]):
        if clock[T] == clock[T_END]:
            return FINISHED
        i = counts[STEPS] if limits[KEEP] else 0
        t, t_next = clock[T], grid[counts[STEPS] + 1]
        reversible_step(f, scheme, t, t_next - t, x[i], theta, at, x[i + 1])
        counts[EVALUATIONS] += cost
        counts[COMPONENT] = non_finite_column(x[i + 1])
        if counts[COMPONENT] >= 0:
            return NON_FINITE
        observe(t_next, counts[STEPS], x[i + 1, 0], counts, ts, ys, ys_step)
        clock[T] = t_next
        counts[STEPS] += 1
        times[i + 1 if limits[KEEP] else 0] = t_next
        if not limits[KEEP]:
            copy_rows(x[1], x[0])
    return FINISHED if clock[T] == clock[T_END] else RUNNING


@host_device
def observe(t, step, y, counts, ts, ys, ys_step):
    """Write the observations at time t."""
    while counts[SEEN] < ts.shape[0] and ts[counts[SEEN]] == t:
        copy_into(y, ys[counts[SEEN]])
        ys_step[counts[SEEN]] = step
        counts[SEEN] += 1


@host_device
def copy_rows(x, out):
    """out = x, row by row."""
    for row in range(out.shape[0]):
        copy_into(x[row], out[row])


@host_device
def non_finite_column(x):
    """The first column of x that holds a number that is not finite, row by row, or -1."""
    for row in range(x.shape[0]):
        column = first_non_finite(x[row])
        if column >= 0:
            return column
    return -1


class ReversibleTrajectory:
    """The arrays of one solve by a reversible method; what readers of a `Trajectory` ask for, it has."""

    driver = integrate_reversible

    def __init__(self, options, field, y0, theta, t0, t1, ts, *, keep, grid=None, dtype=np.float64):
        scheme = options.scheme
        self.options, self.field, self.dtype = options, field, dtype
        self.n, self.scheme = y0.size, scheme
        self.coefficients = scheme.coefficients(self.n)
        self.tolerance = None, np.atleast_1d(options.rtol)      # read where there is no grid: t0 == t1
        self.grid = refined_grid(options.grid(t0, t1) if grid is None else grid, ts)
        self.theta, self.t0, self.t1, self.ts = theta, t0, t1, ts
        self.clock = np.array([t0, 0.0, 1.0, 1.0, t1])
        self.counts, self.limits = np.zeros(6, dtype=np.int64), np.zeros(6, dtype=np.int64)
        self.limits[MAX_STEPS], self.limits[KEEP] = self.grid.size, keep
        self.ys, self.ys_step = np.empty((ts.size, self.n), dtype), np.empty(ts.size, dtype=np.int64)
        steps = max(self.grid.size - 1, 1) if keep else 1
        self.times = np.empty(steps + 1)
        self.x = np.zeros((steps + 1, scheme.rows, self.n), dtype)
        self.z, self.k, self.tape = self.new_evaluations()
        self.x[0, 0] = y0
        self.y_start = y0

    def new_evaluations(self):
        """Arrays for the `Evaluations` of one step."""
        rows = self.scheme.evaluations(self.n)
        return (np.zeros((rows, self.n), self.dtype), np.zeros((rows, self.n), self.dtype),
                self.field.new_tape(rows, self.dtype))

    def stored(self):
        """The steps taken: times, and states (N + 1, rows, n)."""
        return self.times[:self.n_steps + 1], self.x[:self.n_steps + 1]

    @property
    def x1(self):
        """All rows of the last state."""
        return self.x[self.n_steps if self.limits[KEEP] else 0]

    @property
    def y1(self):
        """The state at the time reached."""
        return self.x1[0]

    @property
    def n_steps(self):
        return int(self.counts[STEPS])

    def arguments(self):
        return (*self.coefficients, self.grid, self.limits, self.theta, self.clock, self.counts, self.times,
                self.x, self.z, self.k, self.tape, self.ts, self.ys, self.ys_step)

    def run(self, entry, leading):
        """Call ``entry(*leading, arguments)`` until it ends; returns the status."""
        try:
            return run_slices(entry, (*leading, self.arguments()), self.limits, SLICE, self.field.pace)
        except Exception as error:
            error.add_note(where("fun", self.clock[T], self.counts[STEPS]))
            raise


def refined_grid(grid, ts):
    """The times of given steps with every observation time among them."""
    if grid.size < 2 or ts.size == 0:
        return grid
    gaps = np.abs(grid[1:-1, None] - ts)
    free = np.all(gaps > SNAP * np.min(np.abs(np.diff(grid))), axis=1) if grid.size > 2 else np.zeros(0, dtype=bool)
    times = np.unique(np.concatenate([grid[[0, -1]], grid[1:-1][free], ts]))
    return times if grid[-1] > grid[0] else np.ascontiguousarray(times[::-1])


def require_separable(problem, scheme):
    """Raise InvalidInputError unless a method that kicks and drifts fits the problem.

    Raises
    ------
    InvalidInputError
        If n is odd, or if at t0 or t1 the slope of q changes with q, or that of p with p.
    """
    if not scheme.separable:
        return
    n, d = problem.y0.size, problem.y0.size // 2
    if n % 2:
        raise InvalidInputError(f"method {scheme.name!r} needs a state y = (q, p) of even length, found n = {n}")
    rng = np.random.default_rng(0)
    for t in (problem.t0, problem.t1):
        for half, name, other in ((slice(0, d), "q", "p"), (slice(d, n), "p", "q")):
            slope = problem.field(t, problem.y0, problem.theta)[half]
            for _ in range(PROBES):
                y = problem.y0.copy()
                y[half] += rng.uniform(0.1, 0.5, d) * (np.abs(y[half]) + 1.0)
                change = np.abs(problem.field(t, y, problem.theta)[half] - slope)
                if np.any(change > SEPARABLE * np.abs(slope)):
                    raise InvalidInputError(
                        f"method {scheme.name!r} needs a separable Hamiltonian field, y = (q, p) with dq/dt a function "
                        f"of p and dp/dt of q; in {problem.field.name!r} d{name}/dt changes with {name}, not with "
                        f"{other} alone (component {int(np.argmax(change)) + (0 if name == 'q' else d)} by "
                        f"{change.max():.3g} at t={t:g})")
