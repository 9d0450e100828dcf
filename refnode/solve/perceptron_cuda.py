"""Perceptrons on a GPU: a tile of samples a block, weights and activations in shared memory, a whole solve a launch.

Every sample of a tile has its own time, length of step and error control, as on the CPU: the block evaluates the slopes of
all, then one thread for each sample judges its trial (`trial_steps`). The block goes on until its last sample is done; a
sample that is done idles, and its slopes are computed for nobody.
"""
import collections

import numpy as np
from numba import float64, from_dtype, int64

from refnode.cuda_device import Kernel, cuda_module, device_array, device_function, to_device
from refnode.linalg import has_nonzero
from refnode.solve.batch_cuda import DeviceSamples, Wave
from refnode.solve.integrate import EVALUATIONS, KEEP, RUNNING, SLICE, STEPS, T
from refnode.solve.perceptron_tile_cuda import IDLE, Place, TileSizes, tile_functions
from refnode.solve.trial_steps import (
    ACCEPTED, T_NEXT, aim_trial, choose_first_size, first_guess_of, judge_trial, record_step, start_solve, wants_first_size)

cuda = cuda_module()           # of this name the simulator puts its own in a kernel's place

TRIES, STEPPED = 1, 2                                  # what a sample does if it is not IDLE

Rule = collections.namedtuple("Rule", ["control", "rtol", "atol", "blocks", "grids", "limits"])
Lanes = collections.namedtuple("Lanes", ["clocks", "counts", "trials", "status"])
Kept = collections.namedtuple("Kept", ["times", "states"])
Observed = collections.namedtuple("Observed", ["ts", "seen", "ys", "ys_step"])
Tile = collections.namedtuple("Tile", ["t", "h", "does", "y", "z", "y1", "k"])


# --- kernels --------------------------------------------------------------------------------------

def start_function(on_device, sizes, sync, evaluate):
    """The first slope of every sample of a tile, its observations at t0, and its first step size."""
    begin, wants, guess, choose = (on_device(body) for body in (start_solve, wants_first_size, first_guess_of, choose_first_size))
    threads, n, real = sizes.threads, sizes.n, sizes.dtype

    def start(at, rule, lanes, observed, tile, w, shared):
        for i in range(at.thread, at.count, threads):
            tile.t[i], tile.h[i] = lanes.clocks[T, at.first + i], 0.0
        sync()
        evaluate(at, 0.0, tile.t, tile.h, tile.y, w, shared, tile.k[0])
        for i in range(at.thread, at.count, threads):
            j, own = at.first + i, slice(i * n, i * n + n)
            if lanes.status[j] == RUNNING:
                lanes.status[j] = begin(tile.y[own], tile.k[0, own], observed.ts[:observed.seen[j], j], lanes.clocks[:, j],
                                        lanes.counts[:, j], observed.ys[:, :, j], observed.ys_step[:, j])
            if lanes.status[j] == RUNNING and wants(rule.grids[:, 0], lanes.clocks[:, j]):
                tile.h[i] = real(guess(rule.rtol, rule.atol, rule.blocks, tile.y[own], tile.k[0, own], lanes.clocks[:, j]))
        sync()
        if rule.grids.shape[0] == 0:
            for e in range(at.thread, at.count * n, threads):
                tile.z[e] = tile.y[e] + tile.h[e // n] * tile.k[0, e]
            sync()
            evaluate(at, 1.0, tile.t, tile.h, tile.z, w, shared, tile.k[1])
        for i in range(at.thread, at.count, threads):
            j, own = at.first + i, slice(i * n, i * n + n)
            if lanes.status[j] == RUNNING and wants(rule.grids[:, 0], lanes.clocks[:, j]):
                choose(rule.control, rule.rtol, rule.atol, rule.blocks, tile.y[own], tile.k[0, own], tile.k[1, own],
                       lanes.clocks[:, j], lanes.counts[:, j])
        sync()
    return device_function(start)


def step_functions(on_device, sizes, sync):
    """(aim, settle): what a block does before and after a trial step. ``aim`` returns whether any sample tries one."""
    aim_one, judge, record, any_of = (on_device(body) for body in (aim_trial, judge_trial, record_step, has_nonzero))
    threads, n, s, weights, real = sizes.threads, sizes.n, sizes.s, sizes.weights, sizes.dtype

    def aim(at, rule, lanes, kept, observed, tile):
        for i in range(at.thread, at.count, threads):
            j = at.first + i
            tile.t[i], tile.h[i], tile.does[i] = lanes.clocks[T, j], 0.0, IDLE
            if lanes.status[j] == RUNNING:
                grid = rule.grids[:, min(j, rule.grids.shape[1] - 1)]
                lanes.status[j] = aim_one(rule.control, grid, rule.limits, kept.times.shape[0] - 1,
                                          observed.ts[:observed.seen[j], j], lanes.clocks[:, j], lanes.counts[:, j],
                                          lanes.trials[:, j])
                if lanes.status[j] == RUNNING:
                    tile.h[i], tile.does[i] = real(lanes.trials[T_NEXT, j] - lanes.clocks[T, j]), TRIES
        sync()
        return any_of(tile.does[:at.count])

    def settle(at, rule, E, P, c, lanes, kept, observed, tile):
        w = cuda.local.array(weights, real)
        for i in range(at.thread, at.count, threads):
            j, own = at.first + i, slice(i * n, i * n + n)
            if tile.does[i] == TRIES:
                grid, ts = rule.grids[:, min(j, rule.grids.shape[1] - 1)], observed.ts[:observed.seen[j], j]
                clock, count, trial = lanes.clocks[:, j], lanes.counts[:, j], lanes.trials[:, j]
                y, y1, k = tile.y[own], tile.y1[own], tile.k[:, own]
                found = judge(rule.control, E, rule.rtol, rule.atol, rule.blocks, grid, rule.limits, ts, y, y1, k, clock,
                              count, trial)
                if found == ACCEPTED:
                    record(c, P, ts, y, y1, tile.z[own], k, w, clock, count, trial, observed.ys[:, :, j], observed.ys_step[:, j])
                    tile.does[i] = STEPPED
                else:
                    lanes.status[j] = found
        sync()
        for e in range(at.thread, at.count * n, threads):
            if tile.does[e // n] == STEPPED:
                tile.y[e], tile.k[0, e] = tile.y1[e], tile.k[s, e]
        sync()
    return device_function(aim), device_function(settle)


def keep_function(sizes, sync):
    """States reached, and their times, to global memory: those of samples that do what is asked for."""
    threads, n = sizes.threads, sizes.n

    def keep(at, limits, lanes, kept, tile, what):
        for e in range(at.thread, at.count * n if limits[KEEP] else 0, threads):
            j = at.first + e // n
            if tile.does[e // n] == what:
                kept.states[lanes.counts[STEPS, j], e % n, j] = tile.y[e]
                kept.times[lanes.counts[STEPS, j], j] = lanes.clocks[T, j]
        sync()
    return device_function(keep)


@Kernel
def solve_tiles(on_device, field, sizes):
    """`integrate` for every sample that is RUNNING, tile by tile; with KEEP, times and states of its steps are kept."""
    def barrier():
        cuda.syncthreads()
    sync, streamed = device_function(barrier), sizes.streamed
    load, stage, evaluate = tile_functions(on_device, sizes, sync)
    start, keep = start_function(on_device, sizes, sync, evaluate), keep_function(sizes, sync)
    aim, settle = step_functions(on_device, sizes, sync)
    A, b, c, E, P, s, n, threads, resident = (
        sizes.A, sizes.b, sizes.c, sizes.E, sizes.P, sizes.s, sizes.n, sizes.threads, sizes.resident)
    size, entries, states_of_tile, slopes_of_tile, number = (
        sizes.tile, *sizes.shared, from_dtype(np.dtype(sizes.dtype)))

    def tiles(control, rtol, atol, blocks, grids, limits, theta, clocks, counts, trials, y1s, slopes1, times, states,
              ts, seen, ys, ys_step, room, state_room, slope_room, status):
        block = cuda.blockIdx.x
        shared = cuda.shared.array(entries, number)            # one a line: the simulator knows them by their lines
        t = cuda.shared.array(size, float64)
        h = cuda.shared.array(size, number)
        does = cuda.shared.array(size, int64)
        y = cuda.shared.array(states_of_tile, number)
        z = cuda.shared.array(states_of_tile, number)
        y1 = cuda.shared.array(states_of_tile, number)
        k = cuda.shared.array(slopes_of_tile, number)
        if streamed:                                           # in global memory instead
            shared, y, z, y1 = room[block], state_room[block, 0], state_room[block, 1], state_room[block, 2]
            k = slope_room[block, 0]
        a_rows, b_row, nodes = cuda.const.array_like(A), cuda.const.array_like(b), cuda.const.array_like(c)
        errors, dense = cuda.const.array_like(E), cuda.const.array_like(P)
        rule, lanes = Rule(control, rtol, atol, blocks, grids, limits), Lanes(clocks, counts, trials, status)
        kept, observed, tile = Kept(times, states), Observed(ts, seen, ys, ys_step), Tile(t, h, does, y, z, y1, k)
        thread, w = cuda.threadIdx.x, shared if resident else theta
        load(thread, theta, shared)
        for first in range(block * size, status.shape[0], cuda.gridDim.x * size):
            at = Place(thread, first, min(size, status.shape[0] - first))
            fresh = counts[EVALUATIONS, first] == 0            # then they all are
            for e in range(thread, at.count * n, threads):
                y[e], k[0, e], does[e // n] = y1s[e % n, first + e // n], slopes1[e % n, first + e // n], IDLE
            sync()
            if fresh:
                keep(at, limits, lanes, kept, tile, IDLE)
                start(at, rule, lanes, observed, tile, w, shared)
            for _ in range(limits[SLICE]):
                if not aim(at, rule, lanes, kept, observed, tile):
                    break
                for i in range(1, s):
                    stage(at, a_rows[i], i, h, y, k, z)
                    evaluate(at, nodes[i], t, h, z, w, shared, k[i])
                stage(at, b_row, s, h, y, k, y1)
                evaluate(at, 1.0, t, h, y1, w, shared, k[s])
                settle(at, rule, errors, dense, nodes, lanes, kept, observed, tile)
                keep(at, limits, lanes, kept, tile, STEPPED)
            for e in range(thread, at.count * n, threads):
                y1s[e % n, first + e // n], slopes1[e % n, first + e // n] = y[e], k[0, e]
            sync()
    return tiles


# --- the host's side ------------------------------------------------------------------------------

class TileWave(Wave):
    """Samples ``start`` ... ``stop - 1`` on the device, without slopes and tapes: sweeps evaluate them again."""

    kernel = solve_tiles

    def make_history(self):
        samples = self.samples
        rows = samples.room + 1 if samples.keep else 0
        self.theta = to_device(samples.thetas[0], samples.real)
        self.trials = to_device(np.zeros((4, self.lanes)))
        self.slopes1 = to_device(np.zeros((samples.n, self.lanes)), samples.real)
        self.times = device_array((rows, self.lanes), np.float64)
        self.y = device_array((rows, samples.n, self.lanes), samples.real)
        self.rooms = samples.sizes.rooms(self.lanes)
        return self.slopes1, self.times, self.y

    def _tape(self):
        return None

    def arguments(self):
        return (*self.tolerance, self.grids, self.limits, self.theta, self.clocks, self.counts, self.trials, self.y1s,
                *self.history, self.ts, self.seen_there, self.ys, self.ys_step, *self.rooms, self.status)


class TileSamples(DeviceSamples):
    """Samples of a perceptron, where `tiles_serve`."""

    def __init__(self, batch, field, y0s, options, *, keep, real="float64"):
        super().__init__(batch, field, y0s, options, keep=keep, real=real)
        self.lane_sizes, self.wave_of = self.sizes, TileWave
        self.sizes, self.sweep_sizes = (
            TileSizes(options.tableau, field.perceptron, self.n, real, sweep=sweep) for sweep in (False, True))

    def row_bytes(self):
        return 8 + self.sizes.A.itemsize * self.n

    def lane_bytes(self):
        return 0

    def lanes_that_fit(self):
        """Full tiles, so that sums over tiles do not depend on the memory."""
        tile = self.sweep_sizes.tile
        return max(tile, super().lanes_that_fit() // tile * tile)


def samples_of(batch, field, y0s, options, *, keep, real):
    """`TileSamples` where they serve, else `DeviceSamples`."""
    serve = tiles_serve(batch, field, options)
    return (TileSamples if serve else DeviceSamples)(batch, field, y0s, options, keep=keep, real=real)


def tiles_serve(batch, field, options):
    """Whether `TileSamples` can integrate a batch."""
    return tiles_lack(batch, field, options) is None


def tiles_lack(batch, field, options):
    """What `TileSamples` would need to integrate a batch, or None if it can."""
    perceptron, what = getattr(field, "perceptron", None), field.name
    if perceptron is None:
        return f"a field of mlp_field, or of flow_density_field with one hidden layer and the exact trace, found {what!r}"
    if options.scheme is not None:
        return f"a Runge-Kutta method, found {options.scheme.name!r}"
    if batch.on_device or batch.own_theta:
        return "arrays from the host, found some that lie on a GPU" if batch.on_device else "a theta that all samples share"
    if options.tableau.extra and not options.tstops and not observed_at_ends(batch):
        return f"tstops=True, since the interpolant of {options.tableau.name!r} takes further slopes"
    return None


def observed_at_ends(batch):
    """Whether no sample observes a time between t0 and t1."""
    ends = np.repeat(batch.spans, np.diff(batch.ts_first), axis=0)
    return bool(np.all((batch.ts == ends[:, 0]) | (batch.ts == ends[:, 1])))
