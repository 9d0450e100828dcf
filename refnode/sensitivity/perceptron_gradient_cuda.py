"""Gradients of batches of perceptrons on a GPU, a tile of samples a block; see `solve.perceptron_cuda`.

A block's cotangents of theta go to a row of its own, entry by entry in a fixed order, and the rows are added up in theirs.
"""
import dataclasses

import numpy as np
from numba import float64, from_dtype

from refnode.cuda_device import Kernel, cuda_module, device_array, device_function, to_device
from refnode.sensitivity.batch_gradient import gradient_of_samples
from refnode.sensitivity.batch_sweep import BatchSweep
from refnode.sensitivity.batch_gradient_cuda import DeviceSweep
from refnode.sensitivity.perceptron_adjoint_cuda import pull_tiles
from refnode.sensitivity.perceptron_tangent_cuda import push_tiles
from refnode.sensitivity.resident_gradient_cuda import total_of_chunks
from refnode.solve.integrate import FINISHED, STEPS
from refnode.solve.perceptron_cuda import TileSamples
from refnode.solve.perceptron_joint_cuda import JointTileSamples
from refnode.solve.perceptron_tile_cuda import Place, tile_functions

cuda = cuda_module()           # of this name the simulator puts its own in a kernel's place


@Kernel
def slope_tiles(on_device, field, sizes):
    """slopes (K, n, samples) = f at the times (K, samples) and states (K, n, samples), for every sample."""
    def barrier():
        cuda.syncthreads()
    sync, streamed = device_function(barrier), sizes.streamed
    load, _, evaluate = tile_functions(on_device, sizes, sync)
    n, threads, resident = sizes.n, sizes.threads, sizes.resident
    size, (entries, states_of_tile, _), number = sizes.tile, sizes.shared, from_dtype(np.dtype(sizes.dtype))

    def tiles(theta, times, states, slopes, room, state_room, slope_room, status):
        block = cuda.blockIdx.x
        shared = cuda.shared.array(entries, number)            # one a line: the simulator knows them by their lines
        t = cuda.shared.array(size, float64)
        h = cuda.shared.array(size, number)
        z = cuda.shared.array(states_of_tile, number)
        k = cuda.shared.array(states_of_tile, number)
        if streamed:                                           # in global memory instead
            shared, z, k = room[block], state_room[block, 0], state_room[block, 1]
        thread, w = cuda.threadIdx.x, shared if resident else theta
        load(thread, theta, shared)
        for first in range(block * size, status.shape[0], cuda.gridDim.x * size):
            at = Place(thread, first, min(size, status.shape[0] - first))
            for row in range(times.shape[0]):
                for e in range(thread, at.count * n, threads):
                    z[e], t[e // n], h[e // n] = states[row, e % n, first + e // n], times[row, first + e // n], 0.0
                sync()
                evaluate(at, 0.0, t, h, z, w, shared, k)
                for e in range(thread, at.count * n, threads):
                    slopes[row, e % n, first + e // n] = k[e]
                sync()
            for i in range(thread, at.count, threads):
                status[first + i] = FINISHED
    return tiles


# --- the host's side ------------------------------------------------------------------------------

class TileSweep(DeviceSweep):
    """Cotangents of all samples of `TileSamples`."""

    push_kernel = push_tiles

    def __init__(self, samples):
        super().__init__(samples)
        self.sizes = samples.sweep_sizes
        blocks = self.sizes.configuration(len(samples.batch))[0]
        self.block_sums = to_device(np.zeros((blocks, samples.thetas.shape[1]), samples.real))
        self.rooms = self.sizes.rooms(len(samples.batch))

    def run(self, kernel, wave, arguments):
        """As for lanes; tiles that do not fit into shared memory have room elsewhere."""
        super().run(kernel, wave, (*arguments, *self.rooms))

    def stored(self, wave):
        """What the tangents' sweep reads."""
        return wave.theta, wave.counts, wave.times, wave.y, wave.ts, wave.seen_there, wave.ys_step

    def pull_wave(self, wave):
        """Cotangents of a wave's inputs, from the seeds of its samples."""
        samples, own, real = self.samples, slice(wave.start, wave.stop), self.samples.real
        ys_bar, y_bars = to_device(wave.place(self.ys_bar), real), to_device(self.y_bars[own].T, real)
        self.run(pull_tiles, wave, (
            wave.theta, wave.times, wave.y, wave.ts, wave.ys_step, self.positions(wave, samples.counts[own, STEPS], wave.seen),
            ys_bar, y_bars, wave.start // self.sizes.tile, self.block_sums))
        self.y_bars[own] = y_bars.copy_to_host().T
        self.time_wave(wave)

    def time_wave(self, wave, *_):
        """Slopes at t0, the observations and t1 of a wave's samples."""
        samples, first = self.samples, self.samples.batch.ts_first
        own, everybody = slice(wave.start, wave.stop), np.arange(wave.lanes)
        times, states = np.zeros((wave.most + 2, wave.lanes)), np.zeros((wave.most + 2, samples.n, wave.lanes))
        times[1:-1], states[1:-1] = wave.place(samples.batch.ts), wave.place(samples.ys)
        times[0], states[0] = samples.batch.spans[own, 0], samples.y0s[own].T
        times[wave.seen + 1, everybody], states[wave.seen + 1, :, everybody] = samples.batch.spans[own, 1], samples.y1s[own]
        slopes = device_array(states.shape, samples.real)
        self.run(slope_tiles, wave, (wave.theta, to_device(times), to_device(states, samples.real), slopes))
        rows = slice(first[wave.start] + 2 * wave.start, first[wave.stop] + 2 * wave.stop)
        done = np.repeat(wave.ended == FINISHED, wave.seen + 2)
        self.slopes[rows][done] = wave.in_a_row(slopes.copy_to_host(), 2)[done]

    def finish(self, summed):
        """The sum over blocks, unless sums of contracted tangents are there already."""
        samples = self.samples
        if not summed:
            total = total_of_chunks(samples.field, samples.lane_sizes, self.block_sums, samples.real)
            self.theta_sum = total.copy_to_host().astype(np.float64)

    all_time_cotangents = BatchSweep.all_time_cotangents


def tile_gradient(batch, sensitivity, recipe, options, on_failure, real, samples_of=TileSamples):
    """`gradient_batch` by tiles, where `tiles_serve`."""
    samples = samples_of(batch, batch.field, batch.y0, options, keep=True, real=real)
    sweep, transposes = TileSweep(samples), recipe.equation == "transpose"
    for wave in samples.waves():
        if on_failure == "skip" or np.all(samples.status[:wave.stop] == FINISHED):
            sweep.seed(wave.start, wave.stop)
            sweep.pull_wave(wave) if transposes else sweep.contract_wave(wave)
    sweep.finish(not transposes)
    return gradient_of_samples(samples, sweep, sensitivity, on_failure)


def joint_tile_gradient(batch, sensitivity, recipe, options, real):
    """The same under joint control, whose times are one input: their derivatives are sums over the samples."""
    found = tile_gradient(batch, sensitivity, recipe, options, "raise", real, JointTileSamples)
    together = lambda bars: np.add.reduce(bars, axis=0)
    return dataclasses.replace(found, t0=together(found.t0), t1=together(found.t1), ts=together(found.ts), step_control="joint",
                               solution=dataclasses.replace(found.solution, step_control="joint"))
