"""The discrete adjoints of samples that step side by side: the log of `solve.lanes` read back, row by row.

A row has steps of several samples, and each lane pulls its own back: operations of a sample are those of
`discrete_adjoint.pull_through_steps`, in their order.
"""
import collections

import numpy as np
from numba import types

from refnode.host_device import (
    INTEGER, INTEGERS, MATRIX, RHS, RHS_VJP, VECTOR, higher_order, host_device)
from refnode.sensitivity.batch_parts import sweep_part
from refnode.sensitivity.batch_sweep import BatchSweep, add_rows
from refnode.sensitivity.cotangents import fill_slopes
from refnode.solve.integrate import FINISHED, RUNNING, STEPS, Method
from refnode.solve.lanes import LOG_TYPES, NONE, ROW, Log, from_lane, into_lane, row_of
from refnode.solve.run import run_slices
from refnode.solve.samples import BEGUN, BUDGET, END, FROM, INTEGER_MATRIX, SAMPLE
from refnode.solve.threads import Stopped
from refnode.solve.written_out_lanes import LANES, ON, START, STOP, LanesLoop
from refnode.steppers.explicit_rk import dense_output_vjp, explicit_rk_step_vjp, stage_state

Batch = collections.namedtuple("Batch", [
    "spans", "y0s", "y1s", "thetas", "counts", "ts", "ys", "ys_step", "ts_first", "ys_bar", "y_bars", "theta_bars", "slopes"])
Lanes = collections.namedtuple("Lanes", [
    "sample", "unseen",                                     # of each lane: its sample, and its observations to come
    "theta", "k_bar", "y_more", "y_bar", "theta_bar",
    "one_y", "one_k", "w"])                                 # of one sample

LANES_TYPES = (INTEGERS, INTEGERS, *[VECTOR] * 5, VECTOR, MATRIX, VECTOR)

ADJOINT_LANES_TYPES = types.Tuple((
    MATRIX, VECTOR, VECTOR, MATRIX, MATRIX, MATRIX, VECTOR,      # A, b, c, E, P, A_extra, c_extra
    MATRIX, MATRIX, MATRIX, MATRIX, INTEGER_MATRIX,              # spans, y0s, y1s, thetas, counts
    VECTOR, MATRIX, INTEGERS, INTEGERS,                          # ts, ys, ys_step, ts_first
    MATRIX, MATRIX, MATRIX, MATRIX,                              # ys_bar, y_bars, theta_bars, slopes
    INTEGERS, INTEGERS, VECTOR, *LOG_TYPES, *LANES_TYPES))       # status, position, tape


def pull_lanes(f, f_vjp, arguments):
    """Pull the cotangents of samples back side by side; see `pull_logged`."""
    return pull_logged(f, f_vjp, *arguments)


PULL_LANES = LanesLoop(pull_lanes, INTEGER(RHS, RHS_VJP, ADJOINT_LANES_TYPES))


@higher_order
def pull_logged(f, f_vjp, A, b, c, E, P, A_extra, c_extra, spans, y0s, y1s, thetas, counts, ts, ys, ys_step, ts_first, ys_bar,
                y_bars, theta_bars, slopes, status, position, tape, rows, owner, mark, sample, unseen, theta, k_bar, y_more,
                y_bar, theta_bar, one_y, one_k, w):
    """`pull_through_steps` for samples position[SAMPLE] ... position[END] - 1, whose steps are in position[ROW] rows of the log.

    Takes at most position[BUDGET] rows. Moves row i of y_bars from the cotangent of y(t1) to that of y0. Cotangents of
    theta go to row i - position[FROM] of theta_bars. Row ts_first[i] + 2 i and the next of ``slopes`` get f at t0, the
    observations and t1.
    """
    method = Method(A, b, c, E, P, A_extra, c_extra)
    batch = Batch(spans, y0s, y1s, thetas, counts, ts, ys, ys_step, ts_first, ys_bar, y_bars, theta_bars, slopes)
    lanes = Lanes(sample, unseen, theta, k_bar, y_more, y_bar, theta_bar, one_y, one_k, w)
    width = rows.shape[0] * LANES // owner.shape[0]
    if not position[BEGUN]:
        prepare(f, batch, position, status, Log(rows, owner, mark), width, tape, lanes)
        position[BEGUN] = 1
    for _ in range(position[BUDGET]):
        at = position[ROW] - 1
        if at < 0:
            return FINISHED
        row, first = rows[at * width:(at + 1) * width], at * LANES
        for l in range(LANES):
            if mark[first + l]:
                attend(f, method, batch, owner[first + l], row, tape, lanes, l)
        pull_step_lanes(f, f_vjp, method, row, theta, tape, k_bar, y_more, y_bar, theta_bar)
        for l in range(LANES):
            if mark[first + l]:
                clear(lanes, l)
                if row[START * LANES + l] == spans[owner[first + l], 0]:
                    end_lane(batch, position[FROM], lanes, l)
        position[ROW] = at
    return RUNNING if position[ROW] > 0 else FINISHED


@higher_order
def prepare(f, batch, position, status, log, width, tape, lanes):
    """Samples without steps, whose t1 is t0; and those that failed take no part."""
    for i in range(position[SAMPLE], position[END]):
        if status[i] == FINISHED and batch.counts[i, STEPS] == 0:
            begin_lane(f, batch, i, tape, lanes, 0)
            end_lane(batch, position[FROM], lanes, 0)
    for q in range(position[ROW] * LANES):
        if log.owner[q] != NONE and status[log.owner[q]] != FINISHED:
            log.mark[q], log.rows[q // LANES * width + ON * LANES + q % LANES] = False, 0.0
    lanes.k_bar[:] = 0.0
    lanes.y_more[:] = 0.0


@higher_order
def attend(f, method, batch, i, row, tape, lanes, l):
    """What sample i needs before its step is pulled back, if it is its last one or reaches observations."""
    if lanes.sample[l] == NONE:
        begin_lane(f, batch, i, tape, lanes, l)
    pull_lane_observations(method, batch, row, lanes, l)


@higher_order
def begin_lane(f, batch, i, tape, lanes, l):
    """A lane begins with the last step of sample i."""
    first, last, theta = batch.ts_first[i], batch.ts_first[i + 1], batch.thetas[row_of(i, batch.thetas)]
    fill_slopes(f, batch.spans[i, 0], batch.y0s[i], batch.ts[first:last], batch.ys[first:last], batch.spans[i, 1], batch.y1s[i],
                theta, tape, batch.slopes[first + 2 * i:last + 2 * i + 2])
    lanes.sample[l], lanes.unseen[l] = i, last - first
    into_lane(theta, lanes.theta, l)
    into_lane(batch.y_bars[i], lanes.y_bar, l)
    for j in range(theta.shape[0]):
        lanes.theta_bar[j * LANES + l] = 0.0


@host_device
def end_lane(batch, begin, lanes, l):
    """A lane has pulled its sample's first step back: what it has found goes to its places."""
    i = lanes.sample[l]
    from_lane(lanes.y_bar, l, batch.y_bars[i])
    add_rows(batch.ys_bar[batch.ts_first[i]:batch.ts_first[i + 1]], lanes.unseen[l], batch.y_bars[i])    # observed at t0
    from_lane(lanes.theta_bar, l, batch.theta_bars[i - begin])
    lanes.sample[l] = NONE


@host_device
def pull_lane_observations(method, batch, row, lanes, l):
    """`pull_observations` of the step a lane is at: those behind its start that are to come."""
    i, n, one_y, one_k = lanes.sample[l], lanes.one_y.shape[0], lanes.one_y, lanes.one_k
    t, t_next, first = row[START * LANES + l], row[STOP * LANES + l], batch.ts_first[i]
    direction = 1.0 if t_next >= t else -1.0
    one_y[:] = 0.0
    one_k[:] = 0.0
    while lanes.unseen[l] > 0 and direction * (batch.ts[first + lanes.unseen[l] - 1] - t) > 0.0:
        j = first + lanes.unseen[l] - 1
        if batch.ts[j] == t_next:
            for m in range(n):
                lanes.y_bar[m * LANES + l] += batch.ys_bar[j, m]            # ys[j] = y[i + 1]
        else:
            dense_output_vjp(method.P, (batch.ts[j] - t) / (t_next - t), t_next - t, batch.ys_bar[j], lanes.w, one_k,
                             one_k[:0], one_y)
        lanes.unseen[l] -= 1
    into_lane(one_y, lanes.y_more, l)
    for j in range(one_k.shape[0]):
        into_lane(one_k[j], lanes.k_bar[j * n * LANES:], l)


@host_device
def clear(lanes, l):
    """No cotangents from observations: so it is for most steps."""
    for m in range(lanes.one_y.shape[0]):
        lanes.y_more[m * LANES + l] = 0.0
    for q in range(lanes.one_k.size):
        lanes.k_bar[q * LANES + l] = 0.0


@higher_order
def pull_step_lanes(f, f_vjp, method, row, theta, tape, k_bar, y_more, y_bar, theta_bar):
    """The transpose of `step_lanes` for lanes whose trial became a step: moves y_bar from its end to its start, where y_more
    and k_bar come in, and adds to theta_bar. Drivers have `written_out_lanes.step_vjp_source` in its place."""
    A, b, c, s, n = method.A, method.b, method.c, method.b.size, y_bar.size // LANES
    for l in np.flatnonzero(row[ON * LANES:(ON + 1) * LANES]):
        t, _, _, *values = row[l::LANES]
        h, y, k = row[STOP * LANES + l] - t, np.array(values[:n]), np.array([*values[n:], *np.zeros(n)]).reshape(s + 1, n)
        found, own_bar, y1 = y_more[l::LANES].copy(), theta_bar[l::LANES].copy(), np.empty(n)
        stage_state(b, s, h, y, k, y1)
        explicit_rk_step_vjp(
            f, f_vjp, A, b, c, t, h, y, theta[l::LANES].copy(), False, np.empty((s + 1, 0)), k, y1, y_bar[l::LANES].copy(),
            k_bar[l::LANES].copy().reshape(s + 1, n), np.empty(n), np.empty(n), np.zeros(1), np.empty(0), found, own_bar)
        y_bar[l::LANES], theta_bar[l::LANES] = found, own_bar


# --- the host's side ------------------------------------------------------------------------------

class LaneSweep(BatchSweep):
    """`BatchSweep` over `LaneSamples`."""

    def of_part(self, samples, begin, end):
        twin = super().of_part(samples, begin, end)
        n, p, s = samples.n, samples.thetas.shape[1], samples.s
        none, per_lane = np.full((2, LANES), NONE), lambda entries: np.zeros(entries * LANES)
        twin.lanes = Lanes(*none, per_lane(p), per_lane((s + 1) * n), per_lane(n), per_lane(n), per_lane(p), np.empty(n),
                           np.empty((s + 1, n)), np.empty_like(samples.w))
        return twin

    def pull(self, start, stop):
        samples, batch = self.samples, self.samples.batch
        entry, functions = samples.entry(PULL_LANES, "f", "vjp")
        position = np.zeros(7, dtype=np.int64)
        position[[SAMPLE, END, FROM, ROW]] = start, stop, self.theta_row, samples.position[ROW]
        arguments = (
            *samples.options.tableau.arrays, batch.spans, samples.y0s, samples.y1s, samples.thetas, samples.counts, batch.ts,
            samples.ys, samples.ys_step, batch.ts_first, self.ys_bar, self.y_bars, self.theta_bars, self.slopes, samples.status,
            position, samples.tape[0], *samples.log, *self.lanes)
        try:
            run_slices(entry, (*functions, arguments), position, BUDGET, samples.field.pace, stop=samples.stop)
        except Stopped:
            raise
        except Exception:
            alone = samples.one_by_one()                        # raises it again, and says in which sample
            for error in sweep_part(alone, BatchSweep(alone), (start, stop), "skip")[:2]:
                if error is not None:
                    raise error from None
            raise
