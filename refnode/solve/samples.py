"""Many trajectories, sample after sample with steps of its own, in one compiled loop.

Every sample is integrated by the very loop that integrates it alone, and nothing passes from one to the next:
its result is the same bit for bit alone and in any batch.
"""
import dataclasses

import numpy as np
from numba import types

from refnode.errors import InvalidInputError
from refnode.host_device import (
    BLOCK, INTEGERS, MATRIX, RHS, VECTOR, disjoint_driver, higher_order)
from refnode.linalg import copy_into
from refnode.solve.initial_value import flow_tolerances
from refnode.solve.integrate import (
    DENSE, EVALUATIONS, FINISHED, FULL, KEEP, KEEP_TAPE, MAX_STEPS, REJECTED, RUNNING, SLICE, STEPS,
    STOP_AT_TS, T, T_END, integrate)
from refnode.solve.options import tolerance_vectors
from refnode.solve.run import TAPE_BUDGET, entry_point, run_slices, where
from refnode.solve.solution import solution_of
from refnode.steppers.system import Plain

SAMPLE, END, BUDGET, BEGUN, FROM = range(5)    # position: the sample in progress, one past the last, steps to take
POOL_BYTES = 2**20                         # of steps kept between forward and reverse sweep: about a cache's size

INTEGER_MATRIX = types.Array(types.int64, 2, "C")

INTEGRATE_SAMPLES_TYPES = types.Tuple((
    MATRIX, VECTOR, VECTOR, MATRIX, MATRIX, MATRIX, VECTOR,      # A, b, c, E, P, A_extra, c_extra
    VECTOR, VECTOR, VECTOR, INTEGERS,                            # control, rtol, atol, blocks
    MATRIX, INTEGERS, MATRIX,                                    # grids, limits, thetas
    MATRIX, INTEGER_MATRIX, MATRIX, MATRIX,                      # clocks, counts, y0s, y1s
    VECTOR, MATRIX, MATRIX, BLOCK, MATRIX,                       # times, y, k, k_extra, tape
    VECTOR, MATRIX, INTEGERS, INTEGERS,                          # ts, ys, ys_step, ts_first
    INTEGERS, INTEGERS, INTEGERS, VECTOR, VECTOR))               # first, status, position, z, w


@disjoint_driver(RHS, INTEGRATE_SAMPLES_TYPES)
def integrate_samples(f, arguments):
    """Integrate samples of dy/dt = f(t, y, theta) one after another; see `integrate_each`."""
    return integrate_each(Plain(f), *arguments)


@higher_order
def integrate_each(f, A, b, c, E, P, A_extra, c_extra, control, rtol, atol, blocks, grids, limits, thetas,
                   clocks, counts, y0s, y1s, times, y, k, k_extra, tape, ts, ys, ys_step, ts_first, first,
                   status, position, z, w):
    """`integrate` for samples position[SAMPLE] ... position[END] - 1, at most position[BUDGET] steps.

    Row i of ``clocks, counts, y0s, y1s`` is of sample i; a single row of ``grids`` or ``thetas`` is of all.
    Observations stand in a row, those of sample i from ts_first[i]. With KEEP the steps of sample i begin in
    row first[i] of times and y, in row first[i] s of k and tape; FULL leaves the sample in progress.
    """
    s, budget = b.shape[0], position[BUDGET]
    while position[SAMPLE] < position[END]:
        i = position[SAMPLE]
        row = first[i] if limits[KEEP] else 0
        slot = row * s if limits[KEEP_TAPE] else 0
        if budget <= 0:
            return RUNNING
        if row + 2 > times.shape[0]:
            return FULL
        if counts[i, EVALUATIONS] == 0:
            copy_into(y0s[i], y[row])
        limits[SLICE] = budget
        before = counts[i, STEPS]
        seen = slice(ts_first[i], ts_first[i + 1])
        status[i] = integrate(
            f, A, b, c, E, P, A_extra, c_extra, control, rtol, atol, blocks, grids[min(i, grids.shape[0] - 1)],
            limits, thetas[min(i, thetas.shape[0] - 1)], clocks[i], counts[i], times[row:], y[row:], k[row * s:],
            k_extra[row:], tape[slot:], ts[seen], ys[seen], ys_step[seen], z, w)
        budget -= 1 + counts[i, STEPS] - before
        if status[i] == RUNNING or status[i] == FULL:
            return status[i]
        row += counts[i, STEPS] if limits[KEEP] else 0
        copy_into(y[row], y1s[i])
        first[i + 1] = row + 1
        position[SAMPLE] = i + 1
    return FINISHED


# --- the host's side ------------------------------------------------------------------------------

class Samples:
    """The arrays of many solves, as the drivers take them; see `integrate_each`.

    Steps are kept (``keep``) in a pool that fills up: `run_forward` then ends before its last sample, and
    goes on after `empty` has moved what there is of that one to the front.
    """

    side_by_side = False         # `LaneSamples` are

    def __init__(self, batch, field, y0s, options, *, keep):
        if options.scheme is not None:
            raise InvalidInputError(f"method {options.scheme.name!r} does not step batches: solve its problems one by one")
        table, (count, size) = options.tableau, y0s.shape
        self.batch, self.options, self.field, self.y0s = batch, options, field, y0s
        self.s, self.extra, self.n = table.s, table.extra, size
        self.tolerance = (options.control, *_tolerances(batch, y0s, options), np.array([0, size]))
        self.grids = _grids(batch, options)
        self.make_results()
        self.limits[MAX_STEPS] = self.grids.shape[1] or options.max_steps
        self.limits[KEEP], self.limits[KEEP_TAPE] = keep, keep and self.field.tape_size > 0
        self.limits[DENSE], self.limits[STOP_AT_TS] = False, options.tstops
        self.stop = None
        self.make_workspace()

    def make_results(self):
        """Parameters, limits, clocks and counts of all samples, and room for their results."""
        batch, (count, size) = self.batch, self.y0s.shape
        self.thetas = batch.theta if batch.own_theta else batch.theta[None]
        self.limits = np.zeros(6, dtype=np.int64)
        self.clocks = np.tile([0.0, self.options.first_step or 0.0, 1.0, 1.0, 0.0], (count, 1))
        self.clocks[:, [T, T_END]] = batch.spans
        self.counts = np.zeros((count, 6), dtype=np.int64)
        self.y1s = np.full((count, size), np.nan)
        self.ys = np.full((batch.ts.size, size), np.nan)
        self.ys_step = np.empty(batch.ts.size, dtype=np.int64)
        self.status = np.full(count, RUNNING)

    def make_workspace(self):
        """What no two threads can share: pool, limits, position; the results they do share."""
        self.position = np.zeros(5, dtype=np.int64)
        self.limits, self.first = self.limits.copy(), np.zeros(len(self.batch) + 1, dtype=np.int64)
        self.z, self.w = np.empty(self.n), np.empty(self.options.tableau.P.shape[0])
        self._allocate(self._first_capacity() if self.limits[KEEP] else 1)

    def _first_capacity(self):
        """Steps to make room for at first: as many as fit into POOL_BYTES, but some."""
        row = 8 * (2 + self.n * (self.s + self.extra + 1) + self.s * self.field.tape_size)
        return max(8, POOL_BYTES // row)

    def _allocate(self, steps):
        self.times, self.y = np.empty(steps + 1), np.empty((steps + 1, self.n))
        self.k = np.empty((steps * self.s + 1, self.n))
        self.k_extra = np.empty((steps, self.extra, self.n))
        rows = steps * self.s + 2
        if 8 * rows * self.field.tape_size > TAPE_BUDGET:
            self.limits[KEEP_TAPE] = 0                          # the reverse sweep refills it step by step
        self.tape = self.field.take_tape(rows if self.limits[KEEP_TAPE] else self.s + 2)

    def arguments(self):
        return (*self.options.tableau.arrays, *self.tolerance, self.grids, self.limits, self.thetas, self.clocks,
                self.counts, self.y0s, self.y1s, *self.pool(), self.batch.ts, self.ys, self.ys_step,
                self.batch.ts_first, self.first, self.status, self.position, self.z, self.w)

    def pool(self):
        return self.times, self.y, self.k, self.k_extra, self.tape

    def run_forward(self, start, end):
        """Integrate samples ``start`` ... ``end - 1`` until all are done or the pool is full; returns one past the last done."""
        entry, functions = entry_point(integrate_samples, self.field, self.options.specialized_to(self.y0s.shape[1]), "f")
        self.position[[SAMPLE, END]] = start, end
        while True:
            try:
                status = run_slices(entry, (*functions, self.arguments()), self.position, BUDGET, self.field.pace, stop=self.stop)
            except Exception as error:
                i = self.position[SAMPLE]
                error.add_note(f"{where('fun', self.clocks[i, T], self.counts[i, STEPS])} of sample {i}")
                raise
            if status != FULL or self.position[SAMPLE] > start:
                return int(self.position[SAMPLE])
            self._move_to(2 * (self.times.size - 1), start)     # one sample alone fills the pool

    def empty(self, sample, end):
        """Forget the steps of all samples before ``sample``, whose own move to the front of the pool, if it is one of these."""
        if sample < end:
            self._move_to(self.times.size - 1, sample)

    def _move_to(self, capacity, sample):
        """Rows of the sample in progress go to the front of the pool, or of a new, larger one."""
        row, steps = self.first[sample], self.counts[sample, STEPS]
        old, kept_tape = self.pool(), self.limits[KEEP_TAPE]
        if capacity + 1 > self.times.size:
            self._allocate(capacity)
        spans = [(row, steps + 1), (row, steps + 1), (row * self.s, steps * self.s + 1), (row, steps),
                 (row * self.s, steps * self.s + 1)]
        for before, after, (begin, count) in list(zip(old, self.pool(), spans))[:5 if kept_tape else 4]:
            if after is not self.tape or self.limits[KEEP_TAPE]:
                count = max(0, min(count, len(before) - begin))
                after[:count] = before[begin:begin + count]
        self.first[sample] = 0

    def solution(self):
        """The `BatchSolution`, without the state of a running cost."""
        batch, n, counts = self.batch, self.batch.y0.shape[1], self.counts
        rows = self.ys[:, :n]
        y = (rows.reshape(len(batch), -1, n).transpose(0, 2, 1) if batch.same_count else
             [rows[batch.observations(i)].T for i in range(len(batch))])
        return BatchSolution(y, self.y1s[:, :n], self.status, counts[:, EVALUATIONS], counts[:, STEPS],
                             counts[:, REJECTED], "per_sample", None, self.one_solution)

    def one_solution(self, i):
        """The `Solution` of sample i."""
        solution, n = solution_of(_Sample(self, i), int(self.status[i])), self.batch.y0.shape[1]
        solution.y, solution.y1 = solution.y[:n], solution.y1[:n]
        return solution

    def of_sample(self, i):
        """y0, y1, the observed states and theta of sample i, on the host."""
        return (self.y0s[i], self.y1s[i], self.ys[self.batch.observations(i)],
                self.thetas[min(i, len(self.thetas) - 1)])

    def give_back_tape(self):
        """Let the next solve of this field reuse the tape."""
        tape, self.tape = self.tape, None
        self.field.keep_tape(tape)


def samples_on_cpu(batch, field, y0s, options, *, keep):
    """`Samples`, which step side by side where that is compiled for them."""
    if isinstance(options.specialized_to(y0s.shape[1]), tuple):
        from refnode.solve.lanes import LaneSamples, fit_into_lanes     # not for those who specialise nothing
        if fit_into_lanes(batch, field, y0s.shape[1], options):
            return LaneSamples(batch, field, y0s, options, keep=keep)
    return Samples(batch, field, y0s, options, keep=keep)


def rows_at_a_time(size):
    """How many rows of ``size`` numbers fit into a pool, at least one."""
    return max(1, POOL_BYTES // (8 * max(size, 1)))


def _tolerances(batch, y0s, options):
    """rtol and atol of one sample's flow; a sample with a zero error weight is refused by name."""
    if batch.on_device:                                         # whose values nobody here can read
        if not np.all(options.atol > 0.0):
            raise InvalidInputError(f"atol must be > 0 where y0 lies on a GPU, found {options.atol}")
        return tolerance_vectors(options, np.ones(y0s.shape[1]))
    if not np.all(options.atol > 0.0):
        for i, y0 in enumerate(batch.y0):
            try:
                tolerance_vectors(options, y0)
            except InvalidInputError as error:
                raise InvalidInputError(f"sample {i}: {error}") from None
    return flow_tolerances(options, batch[0], y0s[0])


def _grids(batch, options):
    """The times of all steps if they are given, one row for all samples or one for each; else no columns."""
    if not options.fixed:
        return np.empty((1, 0))
    width = options.n_steps or np.size(options.steps)
    spans = batch.spans[:1] if np.all(batch.spans == batch.spans[0]) else batch.spans
    grids = np.tile(spans[:, :1], width + 1)
    for i, span in enumerate(spans):
        try:
            grid = options.grid(*span.tolist())
        except InvalidInputError as error:
            raise InvalidInputError(f"sample {i}: {error}") from None
        if grid.size:                                           # none from t0 to t1 = t0
            grids[i] = grid
    return grids


class _Sample:
    """Sample i of `Samples`, with the attributes of a `Trajectory` that `Solution` and messages read."""

    def __init__(self, samples, i):
        batch = samples.batch
        self.clock, self.counts, self.limits = samples.clocks[i], samples.counts[i], np.zeros(6, dtype=np.int64)
        self.limits[MAX_STEPS] = samples.limits[MAX_STEPS]
        self.grid = samples.grids[min(i, len(samples.grids) - 1)]
        self.y_start, self.y1, self.ys, theta = samples.of_sample(i)
        self.ts = batch.ts[batch.observations(i)]
        self.times, self.n_steps = np.array([self.clock[T]]), int(self.counts[STEPS])
        self.first_slope = lambda: samples.field(batch.spans[i, 0], self.y_start, theta)

    @property
    def k(self):
        """The first slope alone, evaluated again: a message names what was not finite in it."""
        return [self.first_slope()]


@dataclasses.dataclass
class BatchSolution:
    """The solutions of a batch.

    Attributes
    ----------
    y : ndarray, shape (B, n, K), or list of B ndarrays, shapes (n, K_i)
        States at the observation times; a list if the samples differ in their number. NaN where a sample
        that failed did not get.
    y1 : ndarray, shape (B, n)
        State at the last time reached.
    status : ndarray of int, shape (B,)
        As in `Solution`, of each sample.
    nfev, n_steps, n_rejected : ndarray of int, shape (B,)
        Evaluations of f, accepted and rejected steps, of each sample. Under joint control these are the
        counts of the one solve: every step and every evaluation concerns all samples.
    step_control : "per_sample" or "joint"
    joint : Solution or None
        Of the stacked problem, under joint control.
    """

    y: object
    y1: np.ndarray
    status: np.ndarray
    nfev: np.ndarray
    n_steps: np.ndarray
    n_rejected: np.ndarray
    step_control: str
    joint: object = None
    sample: object = dataclasses.field(default=None, repr=False)

    def __len__(self):
        return len(self.status)

    def __getitem__(self, i):
        """The `Solution` of sample i."""
        return self.sample(range(len(self))[i])

    @property
    def success(self):
        """Whether each sample reached its end, shape (B,)."""
        return self.status >= 0

    def message(self, i):
        """What happened to sample i."""
        return self[i].message
