"""The reverse sweeps of a batch: every sample's discrete adjoint in one compiled loop, and the cotangents of all samples."""
import copy
import math
import threading

import numpy as np
from numba import types

from refnode.errors import InvalidInputError
from refnode.host_device import (
    BLOCK, INTEGERS, MATRIX, RHS, RHS_VJP, VECTOR, disjoint_driver, higher_order, host_device)
from refnode.sensitivity.cotangents import fill_slopes, require_finite
from refnode.sensitivity.discrete_adjoint import OBSERVATION, OFFSET, SLICE, STEP, pull_through_steps
from refnode.sensitivity.jumps import time_cotangents_kernel
from refnode.solve.integrate import FINISHED, KEEP_TAPE, RUNNING, STEPS
from refnode.solve.run import entry_point, run_slices, where
from refnode.solve.samples import BEGUN, BUDGET, END, FROM, INTEGER_MATRIX, SAMPLE

KEPT = OFFSET + 1            # walk: the position within one sample (STEP ... OFFSET), and whether the pool has tapes

ADJOINT_SAMPLES_TYPES = types.Tuple((
    MATRIX, VECTOR, VECTOR, MATRIX, MATRIX, MATRIX, VECTOR,      # A, b, c, E, P, A_extra, c_extra
    VECTOR, MATRIX, MATRIX, BLOCK, MATRIX,                       # times, y, k, k_extra, tape
    MATRIX, MATRIX, MATRIX, INTEGER_MATRIX, INTEGERS, INTEGERS,  # spans, y0s, thetas, counts, first, status
    VECTOR, MATRIX, INTEGERS, INTEGERS,                          # ts, ys, ys_step, ts_first
    INTEGERS, INTEGERS,                                          # position, walk
    MATRIX, MATRIX, VECTOR, VECTOR, VECTOR, MATRIX, MATRIX,      # ys_bar, y_bars, y1_bar, z, z_bar, k_bar, k_extra_bar
    VECTOR, VECTOR, VECTOR,                                      # w, t_bar, h_bar
    MATRIX, MATRIX))                                             # theta_bars, slopes


@disjoint_driver(RHS, RHS_VJP, ADJOINT_SAMPLES_TYPES)
def discrete_adjoint_samples(f, f_vjp, arguments):
    """Pull the cotangents of samples back, one after another; see `pull_each`."""
    return pull_each(f, f_vjp, *arguments)


@higher_order
def pull_each(f, f_vjp, A, b, c, E, P, A_extra, c_extra, times, y, k, k_extra, tape, spans, y0s, thetas, counts,
              first, status, ts, ys, ys_step, ts_first, position, walk, ys_bar, y_bars, y1_bar, z, z_bar, k_bar,
              k_extra_bar, w, t_bar, h_bar, theta_bars, slopes):
    """`pull_through_steps` for samples position[SAMPLE] ... position[END] - 1, at most position[BUDGET] steps.

    Moves row i of y_bars from the cotangent of y(t1) to that of y0. Cotangents of theta go to row
    i - position[FROM] of theta_bars. Row ts_first[i] + 2 i and the next of ``slopes`` get f at t0, the observations and t1.
    """
    s, budget = b.shape[0], position[BUDGET]
    while position[SAMPLE] < position[END]:
        i = position[SAMPLE]
        if budget <= 0:
            return RUNNING
        if status[i] == FINISHED:
            own, seen = min(i, thetas.shape[0] - 1), slice(ts_first[i], ts_first[i + 1])
            theta_bar = theta_bars[i - position[FROM]]
            if not position[BEGUN]:
                walk[STEP], walk[OBSERVATION] = counts[i, STEPS], ts_first[i + 1] - ts_first[i]
                theta_bar[:] = 0.0
                t_bar[0] = 0.0
                row = first[i] + counts[i, STEPS]
                fill_slopes(f, spans[i, 0], y0s[i], ts[seen], ys[seen], spans[i, 1], y[row], thetas[own],
                            tape[tape.shape[0] - 1], slopes[ts_first[i] + 2 * i:ts_first[i + 1] + 2 * i + 2])
                position[BEGUN] = 1
            row, before = first[i], walk[STEP]
            walk[SLICE] = budget
            slot = row * s if walk[KEPT] else 0
            ended = pull_through_steps(
                f, f_vjp, A, b, c, E, P, A_extra, c_extra, times[row:], y[row:], k[row * s:], k_extra[row:],
                tape[slot:], thetas[own], ts[seen], ys_step[seen], walk, ys_bar[seen], y_bars[i], y1_bar, z, z_bar,
                k_bar, k_extra_bar, w, t_bar, h_bar, theta_bar)
            budget -= before - walk[STEP]
            if ended == RUNNING:
                return RUNNING
            add_rows(ys_bar[seen], walk[OBSERVATION], y_bars[i])        # what is left was observed at t0
        budget -= 1
        position[SAMPLE], position[BEGUN] = i + 1, 0
    return FINISHED


@host_device
def add_rows(rows, count, total):
    """total += rows_0 + ... + rows_(count - 1), in this order."""
    for j in range(count):
        for m in range(total.shape[0]):
            total[m] += rows[j, m]


@host_device
def each_time_cotangents(ts_first, y0_bars, ys_bar, y1_bars, slopes, times_bar):
    """`time_cotangents_kernel` for every sample: row ts_first[i] + 2 i and the next of slopes, into times_bar."""
    for i in range(y0_bars.shape[0]):
        seen, rows = slice(ts_first[i], ts_first[i + 1]), slice(ts_first[i] + 2 * i, ts_first[i + 1] + 2 * i + 2)
        time_cotangents_kernel(y0_bars[i], ys_bar[seen], y1_bars[i], slopes[rows], times_bar[rows])


# --- the host's side ------------------------------------------------------------------------------

class BatchSweep:
    """Cotangents of all samples, and the workspace of their reverse sweep."""

    def __init__(self, samples):
        batch, self.samples = samples.batch, samples
        (count, size), p = samples.y0s.shape, samples.thetas.shape[1]
        self.loss = np.full(count, np.nan)
        self.ys_bar, self.y1_bars = np.zeros(samples.ys.shape), np.zeros((count, size))
        self.y1_bars[:, batch.y0.shape[1]:] = 1.0               # of a running cost: dL/dq = 1
        self.y_bars = np.full((count, size), np.nan)
        self.theta_bars = np.full((count if batch.own_theta else 1, p), np.nan)
        self.theta_sum = np.zeros(p)
        self.slopes = np.full((batch.ts.size + 2 * count, size), np.nan)
        self.one_at_a_time = threading.Lock()

    def of_part(self, samples, begin, end):
        """The same cotangents, and workspace for a sweep of samples ``begin`` ... ``end - 1``."""
        twin, size = copy.copy(self), samples.n
        twin.samples, twin.theta_row = samples, 0
        twin.workspace = (*np.empty((3, size)), np.empty((samples.s + 1, size)), np.empty((samples.extra, size)),
                          np.empty_like(samples.w), np.zeros(1), np.empty(0))     # frozen: h_bar is not asked for
        if not samples.batch.own_theta:
            twin.theta_row, twin.theta_bars = begin, np.zeros((end - begin, samples.thetas.shape[1]))
        return twin

    def add_to_theta(self, rows):
        """Add rows of a shared theta's cotangents up, in their order; samples that failed have zeros."""
        if not self.samples.batch.own_theta:
            add_rows(rows, len(rows), self.theta_sum)

    def seed(self, start, stop):
        """Evaluate the losses of finished samples ``start`` ... ``stop - 1``."""
        samples, batch, n = self.samples, self.samples.batch, self.samples.batch.y0.shape[1]
        done = np.flatnonzero(samples.status[start:stop] == FINISHED) + start
        alike = len(done) == stop - start and self._seed_alike(start, stop)
        for i in () if alike else done.tolist():
            seen, loss = batch.observations(i), batch.losses[i]
            ys, y1 = samples.ys[seen, :n].T, samples.y1s[i, :n]
            with self.one_at_a_time:                            # nobody writes losses for several threads
                self.loss[i] = loss.value(ys, y1)
                ys_bar, y1_bar = loss.vjp(ys, y1)
            if np.shape(ys_bar) != ys.shape or np.shape(y1_bar) != y1.shape:
                raise InvalidInputError(f"ys_bar and y1_bar of sample {i} must have shapes {ys.shape} and {y1.shape}, "
                                        f"found {np.shape(ys_bar)} and {np.shape(y1_bar)}")
            self.ys_bar[seen, :n].T[:], self.y1_bars[i, :n] = ys_bar, y1_bar
        if samples.n > n:
            self.loss[done] += samples.y1s[done, n]
        self._require_finite(start, stop, done)
        self.y_bars[done] = self.y1_bars[done]

    def _seed_alike(self, start, stop):
        """All seeds in one go where the samples share a loss that has such a form; tells whether it had."""
        samples, batch, n = self.samples, self.samples.batch, self.samples.batch.y0.shape[1]
        loss, seen = batch.losses[start], slice(batch.ts_first[start], batch.ts_first[stop])
        if seen.start == seen.stop or not (batch.same_count and batch.same_loss):
            return False
        found = loss.alike(samples.ys[seen, :n].reshape(stop - start, -1, n).transpose(0, 2, 1), samples.y1s[start:stop, :n])
        if found is None:
            return False
        self.loss[start:stop] = found[0]
        self.ys_bar[seen, :n] = found[1].transpose(0, 2, 1).reshape(-1, n)
        return True

    def _require_finite(self, start, stop, done):
        """Raise InvalidInputError for the first sample whose loss or cotangents are not finite."""
        batch = self.samples.batch
        bars = self.ys_bar[batch.ts_first[start]:batch.ts_first[stop]]
        sums = (np.add.reduce(part, axis=None) for part in (self.loss[done], bars, self.y1_bars[done]))
        if not math.isfinite(sum(sums)):                        # quick, and finite only if all entries are
            for i in done:
                require_finite(f"loss of sample {i}", self.loss[i:i + 1].reshape(()))
                require_finite(f"ys_bar of sample {i}", self.ys_bar[batch.observations(i)].T)
                require_finite(f"y1_bar of sample {i}", self.y1_bars[i])

    def pull(self, start, stop):
        """Run the reverse sweeps of samples ``start`` ... ``stop - 1``, whose steps are in the pool."""
        samples, batch = self.samples, self.samples.batch
        kept = int(samples.limits[KEEP_TAPE])
        position = np.array([start, stop, 1, 0, self.theta_row])
        walk = np.array([0, 0, 0, int(samples.field.tape_size > 0 and not kept), 0, kept])
        arguments = (
            *samples.options.tableau.arrays, *samples.pool(), batch.spans, samples.y0s, samples.thetas, samples.counts,
            samples.first, samples.status, batch.ts, samples.ys, samples.ys_step, batch.ts_first, position, walk,
            self.ys_bar, self.y_bars, *self.workspace, self.theta_bars, self.slopes)
        specialize = samples.options.specialized_to(samples.y0s.shape[1])
        entry, functions = entry_point(discrete_adjoint_samples, samples.field, specialize, "f", "vjp")
        try:
            run_slices(entry, (*functions, arguments), position, BUDGET, samples.field.pace, stop=samples.stop)
        except Exception as error:
            i, step = position[SAMPLE], walk[STEP]
            error.add_note(f"{where('vjp', samples.times[samples.first[i] + step], step)} of sample {i}")
            raise

    def time_cotangents(self):
        """(t0_bar (B,), t1_bar (B,), ts_bar in a row), through f with the steps held."""
        batch, count = self.samples.batch, len(self.loss)
        starts = batch.ts_first[:-1] + 2 * np.arange(count)
        ends = batch.ts_first[1:] + 2 * np.arange(count) + 1
        times_bar = self.all_time_cotangents()
        return times_bar[starts], times_bar[ends], np.delete(times_bar, np.concatenate([starts, ends]))

    def all_time_cotangents(self):
        """Of t0, the observations and t1 of each sample in a row."""
        times_bar = np.empty(len(self.slopes))
        each_time_cotangents(self.samples.batch.ts_first, self.y_bars, self.ys_bar, self.y1_bars, self.slopes, times_bar)
        return times_bar


def sweep_over(samples):
    """The `BatchSweep` over samples that are solved one after another, or side by side."""
    if samples.side_by_side:
        from refnode.sensitivity.lanes_adjoint import LaneSweep         # not for those who specialise nothing
        return LaneSweep(samples)
    return BatchSweep(samples)
