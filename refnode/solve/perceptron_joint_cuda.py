"""Perceptrons on a GPU under joint control: one step for all samples, chosen from the error of all, as for the stack of a batch.

The host has the loop, and a trial is a launch: tiles take the step and sum the squares of each sample's errors, the host
adds the sums in the order of the samples and judges by `trial_steps`. When all steps are known every sample is solved with
them as given ones, and differentiated so; the solve is done twice.
"""
import collections
import dataclasses

import numpy as np
from numba import float64, from_dtype

from refnode.cuda_device import Kernel, cuda_module, device_array, device_function, to_device
from refnode.errors import InvalidInputError
from refnode.linalg import first_non_finite
from refnode.solve.integrate import (
    COMPONENT, EVALUATIONS, FINISHED, KEEP, MAX_STEPS, NON_FINITE, REJECTED, RUNNING, SEEN, STEPS, T, T_END,
    non_finite_component)
from refnode.solve.perceptron_cuda import TileSamples, tiles_lack
from refnode.solve.perceptron_tile_cuda import Place, tile_functions
from refnode.solve.trial_steps import (
    ACCEPTED, T_NEXT, aim_trial, choose_first_size, first_guess_of, joint_error, judge_error, squared_errors, wants_first_size)

cuda = cuda_module()           # of this name the simulator puts its own in a kernel's place

FIRST, SECOND, FAILED = range(3)                       # sums

Tile = collections.namedtuple("Tile", ["t", "h", "y", "z", "y1", "k"])
Together = collections.namedtuple("Together", ["times", "count", "status"])


def error_function(on_device, sizes, sync):
    """Sums of squares of each sample's errors, and the component in which its step is not finite."""
    squares, failed, n, s, threads = on_device(squared_errors), on_device(non_finite_component), sizes.n, sizes.s, sizes.threads

    def errors(at, E, h, rtol, atol, tile, sums):
        for i in range(at.thread, at.count, threads):
            j, own = at.first + i, slice(i * n, i * n + n)
            sums[FIRST, j], sums[SECOND, j] = squares(E, h, tile.k[:, own], tile.y[own], tile.y1[own], rtol, atol)
            sums[FAILED, j] = failed(tile.k[s, own], tile.y1[own])
        sync()
    return device_function(errors)


@Kernel
def try_tiles(on_device, field, sizes):
    """One step from t to t_next for every sample: from states and slopes (n, samples) at t to those at t_next, and `sums`."""
    def barrier():
        cuda.syncthreads()
    sync, streamed = device_function(barrier), sizes.streamed
    load, stage, evaluate = tile_functions(on_device, sizes, sync)
    errors = error_function(on_device, sizes, sync)
    A, b, c, E, s, n, threads, resident, real = (
        sizes.A, sizes.b, sizes.c, sizes.E, sizes.s, sizes.n, sizes.threads, sizes.resident, sizes.dtype)
    size, entries, states_of_tile, slopes_of_tile, number = (
        sizes.tile, *sizes.shared, from_dtype(np.dtype(sizes.dtype)))

    def tiles(t0, t_next, rtol, atol, theta, ys, slopes, y1s, slopes1, sums, room, state_room, slope_room, status):
        block = cuda.blockIdx.x
        shared = cuda.shared.array(entries, number)            # one a line: the simulator knows them by their lines
        t = cuda.shared.array(size, float64)
        h = cuda.shared.array(size, number)
        y = cuda.shared.array(states_of_tile, number)
        z = cuda.shared.array(states_of_tile, number)
        y1 = cuda.shared.array(states_of_tile, number)
        k = cuda.shared.array(slopes_of_tile, number)
        if streamed:                                           # in global memory instead
            shared, y, z, y1 = room[block], state_room[block, 0], state_room[block, 1], state_room[block, 2]
            k = slope_room[block, 0]
        a_rows, b_row, nodes, weights = (
            cuda.const.array_like(A), cuda.const.array_like(b), cuda.const.array_like(c), cuda.const.array_like(E))
        thread, w, tile = cuda.threadIdx.x, shared if resident else theta, Tile(t, h, y, z, y1, k)
        load(thread, theta, shared)
        for first in range(block * size, status.shape[0], cuda.gridDim.x * size):
            at = Place(thread, first, min(size, status.shape[0] - first))
            for e in range(thread, at.count * n, threads):
                y[e], k[0, e] = ys[e % n, first + e // n], slopes[e % n, first + e // n]
                t[e // n], h[e // n] = t0, real(t_next - t0)
            sync()
            for i in range(1, s):
                stage(at, a_rows[i], i, h, y, k, z)
                evaluate(at, nodes[i], t, h, z, w, shared, k[i])
            stage(at, b_row, s, h, y, k, y1)
            evaluate(at, 1.0, t, h, y1, w, shared, k[s])
            errors(at, weights, t_next - t0, rtol, atol, tile, sums)
            for e in range(thread, at.count * n, threads):
                y1s[e % n, first + e // n], slopes1[e % n, first + e // n] = y1[e], k[s, e]
            sync()
            for i in range(thread, at.count, threads):
                status[first + i] = FINISHED
    return tiles


# --- the host's side ------------------------------------------------------------------------------

class Trials:
    """Trial steps of all samples of `TileSamples`."""

    def __init__(self, samples):
        self.samples, self.lanes = samples, len(samples.batch)
        self.theta = to_device(samples.thetas[0], samples.real)
        self.rtol, self.atol = (to_device(vector, samples.real) for vector in samples.tolerance[1:3])
        self.status = to_device(np.full(self.lanes, RUNNING))
        self.rooms = samples.sizes.rooms(self.lanes)

    def step(self, t, t_next, y, slopes):
        """States and slopes at t_next, from those at t, and the sums of errors."""
        samples = self.samples
        y1, slopes1 = (device_array((samples.n, self.lanes), samples.real) for _ in range(2))
        sums = device_array((3, self.lanes), samples.real)
        try_tiles.launch(samples.field, samples.sizes, self.lanes, (
            float(t), float(t_next), self.rtol, self.atol, self.theta, y, slopes, y1, slopes1, sums, *self.rooms, self.status))
        return y1, slopes1, sums.copy_to_host().astype(np.float64)

    def slopes(self, t, y0s):
        """f at one time, on the device and as a vector on the host: the last slope of a step of length zero."""
        rows = np.arange(self.lanes)
        y = self.samples.lanes_of(y0s, rows)
        _, slopes, _ = self.step(t, t, y, to_device(np.zeros((self.samples.n, self.lanes)), self.samples.real))
        return y, slopes, np.ascontiguousarray(slopes.copy_to_host().T, dtype=np.float64).ravel()


def chosen_together(samples):
    """The times of all steps under joint control, the counts of the one solve, and its status; as `integrate`."""
    control, ts, limits = samples.tolerance[0], samples.batch.ts[:samples.batch.ts_first[1]], samples.limits.copy()
    clock, count, trial, grid = samples.clocks[0].copy(), np.zeros(6, dtype=np.int64), np.zeros(4), np.empty(0)
    trials, times, status, limits[KEEP] = Trials(samples), [clock[T]], RUNNING, False
    y, slopes = first_of_all(samples, trials, grid, ts, clock, count)
    if count[COMPONENT] >= 0:
        status = NON_FINITE
    while status == RUNNING:
        status = aim_trial(control, grid, limits, 0, ts, clock, count, trial)
        if status == RUNNING:
            y1, slopes1, sums = trials.step(clock[T], trial[T_NEXT], y, slopes)
            count[EVALUATIONS] += samples.s
            error = joint_error(np.sum(sums[FIRST]), np.sum(sums[SECOND]), samples.y0s.size)
            status = judge_error(control, error, int(np.max(sums[FAILED])), limits, ts, clock, count, trial)
            if status == ACCEPTED:
                y, slopes, clock[T], status = y1, slopes1, trial[T_NEXT], RUNNING
                count[STEPS] += 1
                count[SEEN] = np.count_nonzero((ts - clock[T]) * np.sign(clock[T_END] - times[0]) <= 0.0)
                times.append(clock[T])
    return Together(np.array(times), count, int(status))


def first_of_all(samples, trials, grid, ts, clock, count):
    """`start` and `first_step` for the stack of all samples; returns states and slopes on the device."""
    t, (control, rtol, atol, _) = clock[T], samples.tolerance
    rtol, atol = np.tile(rtol, len(samples.batch)), np.tile(atol, len(samples.batch))
    flat, blocks = np.ascontiguousarray(samples.y0s, dtype=np.float64).ravel(), np.array([0, samples.y0s.size])
    y, slopes, slope = trials.slopes(t, samples.y0s)
    count[EVALUATIONS], count[SEEN], count[COMPONENT] = 1, np.count_nonzero(ts == t), first_non_finite(slope)
    if count[COMPONENT] < 0 and wants_first_size(grid, clock):
        h = first_guess_of(rtol, atol, blocks, flat, slope, clock)
        slope_1 = trials.slopes(t + h, (flat + h * slope).reshape(samples.y0s.shape))[2]
        choose_first_size(control, rtol, atol, blocks, flat, slope, slope_1, clock, count)
    return y, slopes


class JointTileSamples(TileSamples):
    """Samples of a perceptron with the steps that joint control chooses, or that are given."""

    def __init__(self, batch, field, y0s, options, *, keep, real="float64"):
        lack = tiles_lack(batch, field, options)
        if lack is not None:
            raise InvalidInputError(f'step_control="joint" on device="cuda" needs {lack}')
        batch.replace(loss=None).joint()                       # refuses samples that differ in their times
        super().__init__(batch, field, y0s, options, keep=keep, real=real)
        self.together = None if options.fixed else chosen_together(self)
        if self.together is not None:
            times = self.together.times
            self.grids, self.room = times[None], max(times.size - 1, 1)
            self.limits[MAX_STEPS], self.clocks[:, T_END] = times.size, times[-1]

    def first_lanes(self):
        return len(self.batch)

    def waves(self):
        """As with given steps, with counts and status of the one solve."""
        for wave in super().waves():
            if self.together is not None:
                own = slice(wave.start, wave.stop)
                self.status[own] = self.together.status
                for what in (EVALUATIONS, REJECTED, COMPONENT):
                    self.counts[own, what] = self.together.count[what]
            yield wave


def solve_jointly(batch, options, real="float64"):
    """`solve_batch` under joint control on a GPU."""
    samples = JointTileSamples(batch, batch.field, batch.y0, options, keep=False, real=real)
    samples.run_forward()
    return dataclasses.replace(samples.solution(), step_control="joint")
