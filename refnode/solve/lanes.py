"""Samples side by side: one step of eight samples at a time, in the lanes of vector instructions.

`integrate` takes the steps of one sample, in which every operation waits for the one before. Here eight samples, one a lane,
take a step together, each from its own time and with its own length, which `trial_steps` accepts or rejects for each by
itself; a lane whose sample is done takes the next. Operations, decisions and counts of a sample are those of `integrate`,
in their order: so are the bits.

What has an entry for each lane is a flat array: entry m of lane l lies at m LANES + l. A row of the log holds a trial of
every lane (`written_out_lanes`). ``owner`` says whose step it became, -1 if of none, and ``mark`` which steps are the first or
the last of a sample, or reach an observation: of these a reverse sweep has to take notice.
"""
import collections

import numpy as np
from numba import types

from refnode.host_device import INTEGER, INTEGERS, MATRIX, RHS, VECTOR, higher_order, host_device
from refnode.linalg import is_finite
from refnode.solve.integrate import (
    COMPONENT, EVALUATIONS, FINISHED, FULL, KEEP, MAX_STEPS, NON_FINITE, RUNNING, SEEN, STEPS, STIFF, T, T_END, Method,
    Tolerance, is_stiff, non_finite_component)
from refnode.solve.lane_control import NONE, aim_lanes, factor_lanes, settle_lanes, watch_lanes
from refnode.solve.run import entry_point, run_slices
from refnode.solve.samples import BUDGET, END, INTEGER_MATRIX, POOL_BYTES, SAMPLE, Samples
from refnode.solve.step_size import error_norm
from refnode.solve.threads import Stopped
from refnode.solve.trial_steps import (
    ACCEPTED, REJECTIONS, T_NEXT, aim_trial, choose_first_size, first_guess_of, judge_error, move_on, next_target,
    reaches_observation, start_solve, wants_first_size)
from refnode.solve.written_out_lanes import LANES, ON, STATE, LanesLoop, row_width, slopes_at
from refnode.steppers.explicit_rk import explicit_rk_step
from refnode.steppers.system import Plain

ROW, ADMIT = 5, 6           # position: the next row of the log, and the row from which on no sample begins
LOG_BYTES = 4 * POOL_BYTES  # beyond a core's own cache: what is read back comes in order, and Python is between fewer parts
MOST_PARAMETERS = 32        # beyond, they do not fit into registers by far, and the text takes long to compile

Batch = collections.namedtuple("Batch", [
    "grids", "limits", "thetas", "clocks", "counts", "y0s", "y1s", "ts", "ys", "ys_step", "ts_first", "status"])
Log = collections.namedtuple("Log", ["rows", "owner", "mark"])
Lanes = collections.namedtuple("Lanes", [
    "sample", "last", "attend", "counts",                                                # of each lane, integers
    "clock", "trial", "target", "next_ts", "y", "slope", "theta", "y1", "slope_1", "error", "stiff", "factor",
    "one_y", "one_y1", "one_k", "w"])                                                    # of one sample

LOG_TYPES = (VECTOR, INTEGERS, INTEGERS)
LANES_TYPES = (*[INTEGERS] * 4, *[VECTOR] * 12, VECTOR, VECTOR, MATRIX, VECTOR)

INTEGRATE_LANES_TYPES = types.Tuple((
    MATRIX, VECTOR, VECTOR, MATRIX, MATRIX, MATRIX, VECTOR,      # A, b, c, E, P, A_extra, c_extra
    VECTOR, VECTOR, VECTOR, INTEGERS,                            # control, rtol, atol, blocks
    MATRIX, INTEGERS, MATRIX,                                    # grids, limits, thetas
    MATRIX, INTEGER_MATRIX, MATRIX, MATRIX,                      # clocks, counts, y0s, y1s
    VECTOR, MATRIX, INTEGERS, INTEGERS, INTEGERS,                # ts, ys, ys_step, ts_first, status
    INTEGERS, VECTOR, *LOG_TYPES, *LANES_TYPES))                 # position, tape


def integrate_lanes(f, arguments):
    """Integrate samples of dy/dt = f(t, y, theta) side by side; see `run_lanes`."""
    return run_lanes(f, *arguments)


INTEGRATE_LANES = LanesLoop(integrate_lanes, INTEGER(RHS, INTEGRATE_LANES_TYPES))


@higher_order
def run_lanes(f, A, b, c, E, P, A_extra, c_extra, control, rtol, atol, blocks, grids, limits, thetas, clocks, counts_of_all, y0s,
              y1s, ts, ys, ys_step, ts_first, status, position, tape, rows, owner, mark, sample, last, attend, counts, clock, trial,
              target, next_ts, y, slope, theta, y1, slope_1, error, stiff, factor, one_y, one_y1, one_k, w):
    """`integrate` for samples position[SAMPLE] ... position[END] - 1, at most position[BUDGET] trials of each lane.

    Row i of ``clocks, counts_of_all, y0s, y1s`` is of sample i; a single row of ``grids`` or ``thetas`` is of all.
    Observations stand in a row, those of sample i from ts_first[i]. Without KEEP the log has one row. FULL leaves samples in
    progress; FINISHED leaves none, and position[SAMPLE] is one past the last that was begun.
    """
    method, tolerance = Method(A, b, c, E, P, A_extra, c_extra), Tolerance(control, rtol, atol, blocks)
    batch = Batch(grids, limits, thetas, clocks, counts_of_all, y0s, y1s, ts, ys, ys_step, ts_first, status)
    log, lanes = Log(rows, owner, mark), Lanes(
        sample, last, attend, counts, clock, trial, target, next_ts, y, slope, theta, y1, slope_1, error, stiff, factor, one_y,
        one_y1, one_k, w)
    width, given = rows.shape[0] * LANES // owner.shape[0], grids.shape[1] > 0
    for _ in range(position[BUDGET]):
        aim_lanes(control, limits[MAX_STEPS], sample, clock, counts, trial, target, attend)
        for l in range(LANES):
            if attend[l] or given:
                aim_lane(f, tolerance, batch, position, tape, log, lanes, l)
        if all_idle(sample):
            return FINISHED
        at = position[ROW]
        if at * LANES >= owner.shape[0]:
            return FULL
        row, start, stop = rows[at * width:(at + 1) * width], clock[T * LANES:], trial[T_NEXT * LANES:]
        step_lanes(f, method, tolerance, start, stop, y, slope, theta, tape, row, y1, slope_1, error, stiff)
        watch_lanes(sample, clock, trial, next_ts, error, attend)
        if given:
            attend[:] = 1
        factor_lanes(control, clock, error, attend, factor)
        settle_lanes(b.shape[0], at * LANES, clock, counts, trial, target, error, stiff, attend, factor, sample, last, owner,
                     mark, row, y, slope, y1, slope_1)
        for l in range(LANES):
            if attend[l]:
                settle_lane(method, tolerance, batch, at, row, log, lanes, l)
        if limits[KEEP]:
            position[ROW] = at + 1
    return RUNNING


@host_device
def all_idle(sample):
    """Whether no lane has a sample."""
    for l in range(LANES):
        if sample[l] != NONE:
            return False
    return True


@higher_order
def aim_lane(f, tolerance, batch, position, tape, log, lanes, l):
    """Where the next trial of a lane ends; begins samples until one has a trial to take, if there are any to begin."""
    clock, count, trial = lanes.clock[l::LANES], lanes.counts[l::LANES], lanes.trial[l::LANES]
    while True:
        found = RUNNING
        if lanes.sample[l] == NONE:
            if position[SAMPLE] == position[END] or position[ROW] >= position[ADMIT]:
                clock[T], trial[T_NEXT] = 0.0, 0.0
                return
            lanes.sample[l] = position[SAMPLE]
            position[SAMPLE] += 1
            found = begin_lane(f, tolerance, batch, tape, lanes, l)
        i = lanes.sample[l]
        if found == RUNNING:
            found = aim_trial(tolerance.control, batch.grids[row_of(i, batch.grids)], batch.limits, count[STEPS] + 1,
                              batch.ts[batch.ts_first[i]:batch.ts_first[i + 1]], clock, count, trial)
        if found == RUNNING:
            return
        end_lane(batch, found, log, lanes, l)


@higher_order
def begin_lane(f, tolerance, batch, tape, lanes, l):
    """The start of `integrate` for the lane's sample: first slope, observations at t0, first step size; returns a status."""
    i = lanes.sample[l]
    y, theta, clock, count = batch.y0s[i], batch.thetas[row_of(i, batch.thetas)], batch.clocks[i], batch.counts[i]
    slope, slope_1, one_y1 = lanes.one_k[0], lanes.one_k[1], lanes.one_y1
    f(clock[T], y, theta, tape, slope)
    seen = slice(batch.ts_first[i], batch.ts_first[i + 1])
    found = start_solve(y, slope, batch.ts[seen], clock, count, batch.ys[seen], batch.ys_step[seen])
    into_lane(y, lanes.y, l)
    into_lane(slope, lanes.slope, l)
    into_lane(theta, lanes.theta, l)
    if found == RUNNING and wants_first_size(batch.grids[row_of(i, batch.grids)], clock):
        rtol, atol, blocks = tolerance.rtol, tolerance.atol, tolerance.blocks
        size = first_guess_of(rtol, atol, blocks, y, slope, clock)
        if size != 0.0:
            for m in range(y.shape[0]):
                one_y1[m] = y[m] + size * slope[m]
            f(clock[T] + size, one_y1, theta, tape, slope_1)
        choose_first_size(tolerance.control, rtol, atol, blocks, y, slope, slope_1, clock, count)
    into_lane(clock, lanes.clock, l)
    into_lane(count, lanes.counts, l)
    lanes.trial[REJECTIONS * LANES + l] = 0.0
    look_ahead(batch, lanes, l)
    return found


@host_device
def look_ahead(batch, lanes, l):
    """The lane's next observation, and the time that no step is to pass."""
    i, clock, count = lanes.sample[l], lanes.clock[l::LANES], lanes.counts[l::LANES]
    ts = batch.ts[batch.ts_first[i]:batch.ts_first[i + 1]]
    lanes.target[l] = next_target(batch.limits, ts, clock, count)
    if count[SEEN] < ts.shape[0]:
        lanes.next_ts[l] = ts[count[SEEN]]
    else:
        lanes.next_ts[l] = np.inf if clock[T_END] >= clock[T] else -np.inf


@host_device
def settle_lane(method, tolerance, batch, at, row, log, lanes, l):
    """What becomes of a lane's trial."""
    i, n, s = lanes.sample[l], lanes.one_y.shape[0], method.b.shape[0]
    if i == NONE:
        return
    clock, count, trial = lanes.clock[l::LANES], lanes.counts[l::LANES], lanes.trial[l::LANES]
    seen = slice(batch.ts_first[i], batch.ts_first[i + 1])
    ts = batch.ts[seen]
    count[EVALUATIONS] += s
    given, failed = batch.grids.shape[1] > 0, -1
    if given or not is_finite(lanes.error[l]):
        from_lane(lanes.slope_1, l, lanes.one_y)
        from_lane(lanes.y1, l, lanes.one_y1)
        failed = non_finite_component(lanes.one_y, lanes.one_y1)
    if given:
        count[COMPONENT] = failed
        found = NON_FINITE if failed >= 0 else ACCEPTED
    else:
        found = judge_error(tolerance.control, lanes.error[l], failed, batch.limits, ts, clock, count, trial)
    if found != ACCEPTED:
        if found != RUNNING:
            end_lane(batch, found, log, lanes, l)
        return
    if lanes.stiff[l] != 0.0:
        count[STIFF] += 1
    reaches = reaches_observation(ts, clock, count, trial)
    if reaches:
        from_lane(row[STATE * LANES:], l, lanes.one_y)
        from_lane(lanes.y1, l, lanes.one_y1)
        for j in range(s):
            from_lane(row[(slopes_at(n) + j * n) * LANES:], l, lanes.one_k[j])
        from_lane(lanes.slope_1, l, lanes.one_k[s])
    q = at * LANES + l
    log.owner[q], log.mark[q], lanes.last[l], row[ON * LANES + l] = i, reaches or count[STEPS] == 0, q, 1.0
    move_on(method.P, ts, lanes.one_y, lanes.one_y1, lanes.one_k, lanes.w, clock, count, trial, batch.ys[seen],
            batch.ys_step[seen])
    for m in range(n):
        lanes.y[m * LANES + l], lanes.slope[m * LANES + l] = lanes.y1[m * LANES + l], lanes.slope_1[m * LANES + l]
    look_ahead(batch, lanes, l)


@host_device
def end_lane(batch, found, log, lanes, l):
    """The sample of a lane has ended with that status."""
    i = lanes.sample[l]
    batch.status[i] = found
    from_lane(lanes.y, l, batch.y1s[i])
    from_lane(lanes.clock, l, batch.clocks[i])
    from_lane(lanes.counts, l, batch.counts[i])
    if batch.counts[i, STEPS] > 0:
        log.mark[lanes.last[l]] = 1
    lanes.sample[l] = NONE


@host_device
def row_of(i, rows):
    """The row of sample i; a single one is that of all."""
    return min(i, rows.shape[0] - 1)


@host_device
def into_lane(vector, lanes, l):
    """A vector into its places in lane l."""
    for m in range(vector.shape[0]):
        lanes[m * LANES + l] = vector[m]


@host_device
def from_lane(lanes, l, vector):
    """`into_lane` the other way."""
    for m in range(vector.shape[0]):
        vector[m] = lanes[m * LANES + l]


@higher_order
def step_lanes(f, method, tolerance, start, stop, y, slope, theta, tape, row, y1, slope_1, error, stiff):
    """A trial of every lane, its slopes into a row of the log. Drivers have `written_out_lanes.step_source` in its place."""
    A, b, c, s = method.A, method.b, method.c, method.b.size
    for l in range(LANES):
        state, own, h = y[l::LANES].copy(), theta[l::LANES].copy(), stop[l] - start[l]
        k, z, end = np.empty((s + 1, state.size)), np.empty(state.size), np.empty(state.size)
        k[0] = slope[l::LANES]
        explicit_rk_step(Plain(f), A, b, c, start[l], h, state, own, np.empty((s + 1, 0)), k, z, end)
        error[l] = error_norm(method.E, h, k, state, end, tolerance.rtol, tolerance.atol, tolerance.blocks)
        stiff[l] = is_stiff(c, h, end, z, k)
        row[l::LANES] = np.concatenate([[start[l], stop[l], 0.0], state, k[:s].ravel()])
        y1[l::LANES], slope_1[l::LANES] = end, k[s]


# --- the host's side ------------------------------------------------------------------------------

def fit_into_lanes(batch, field, n, options):
    """Whether samples can step side by side: small fields without scratch, by what is compiled for them."""
    specialized = options.specialized_to(n)
    return (isinstance(specialized, tuple) and field.compiled and field.tape_size == 0 and options.tableau.extra == 0
            and batch.theta.shape[-1] <= MOST_PARAMETERS)


class LaneSamples(Samples):
    """`Samples` that step side by side; the pool of steps is the log."""

    side_by_side = True

    def make_workspace(self):
        super().make_workspace()
        s, n, p = self.s, self.n, self.thetas.shape[1]
        self.position = np.zeros(7, dtype=np.int64)
        numbers = [np.zeros(entries * LANES) for entries in (5, 4, 1, 1, n, n, p, n, n, 1, 1, 1)]
        self.lanes = Lanes(np.full(LANES, NONE), *np.zeros((2, LANES), np.int64), np.zeros(6 * LANES, np.int64), *numbers,
                           np.empty(n), np.empty(n), np.empty((s + 1, n)), self.w)

    def _first_capacity(self):
        """Rows of the log: as many as fit into POOL_BYTES."""
        return max(8, LOG_BYTES // (8 * row_width(self.s, self.n)))

    def _allocate(self, rows):
        count, self.tape = rows * LANES, self.field.take_tape(1)
        self.log = Log(np.empty(rows * row_width(self.s, self.n)), np.empty(count, np.int64), np.empty(count, np.int64))

    def arguments(self):
        return (*self.options.tableau.arrays, *self.tolerance, self.grids, self.limits, self.thetas, self.clocks, self.counts,
                self.y0s, self.y1s, self.batch.ts, self.ys, self.ys_step, self.batch.ts_first, self.status, self.position,
                self.tape[0], *self.log, *self.lanes)

    def entry(self, loop, *which):
        """A loop around steps of lanes for these samples, and the functions named as it takes them."""
        return entry_point(loop.driver(self.options.tableau, self.n, self.thetas.shape[1]), self.field, True, *which)

    def run_forward(self, start, end):
        """Integrate samples from ``start`` on until all are done or the log is full; returns one past the last done."""
        entry, functions = self.entry(INTEGRATE_LANES, "f")
        self.position[[SAMPLE, END, ROW, ADMIT]] = start, end, 0, max(1, 3 * len(self.log.owner) // (4 * LANES))
        try:
            while run_slices(entry, (*functions, self.arguments()), self.position, BUDGET, self.field.pace, stop=self.stop) == FULL:
                self._grow()
        except Stopped:
            raise
        except Exception:
            self.one_by_one().run_forward(start, end)           # raises it again, and says in which sample
            raise
        return int(self.position[SAMPLE])

    def one_by_one(self):
        """The same samples, not yet solved, as they are solved one after another."""
        return Samples(self.batch, self.field, self.y0s, self.options, keep=bool(self.limits[KEEP]))

    def _grow(self):
        """Twice the room, keeping what is there."""
        log = self.log
        self._allocate(2 * len(log.owner) // LANES)
        for before, after in zip(log, self.log):
            after[:len(before)] = before

    def empty(self, sample, end):
        """The next run begins with an empty log."""
