"""Tangents and the discrete adjoint of a perceptron's steps on a GPU, a tile of samples a block; see `solve.perceptron_cuda`.

The forward solve leaves the state of every step in global memory. A block takes a step again from there, stage by
stage, and transposes it from the last stage to the first. Cotangents of theta go to a row of the block's own, entry by
entry in a fixed order, and the rows are added up in their order.
"""
import numpy as np
from numba import from_dtype

from refnode.cuda_device import Kernel, cuda_module, device_function, to_device
from refnode.linalg import dot
from refnode.sensitivity.batch_gradient import BatchSweep, gradient_of_samples
from refnode.sensitivity.resident_gradient_cuda import total_of_chunks
from refnode.solve.integrate import FINISHED
from refnode.solve.perceptron_cuda import TileSamples, pull_function, tangent_function, tile_functions

cuda = cuda_module()           # of this name the simulator puts its own in a kernel's place


def pull_parts(sizes, sync):
    """(add_observed, seed_slopes, add_stage): what a block does between evaluations in `pull_tiles`; each ends behind a barrier."""
    s, n, threads, y_at, z_at = sizes.s, sizes.n, sizes.threads, sizes.y_at, sizes.z_at
    k_bar_at, y_bar_at = sizes.k_bar_at, sizes.y_bar_at
    width, states_of_tile = int(sizes.d_in[0]), sizes.tile * sizes.n

    def add_observed(thread, first, count, j, left, seen_at, ys_bar, status, shared):
        """Cotangents of the states observed at point j; returns how many observations are left."""
        while left > 0 and seen_at[left - 1] == j:
            left -= 1
            for e in range(thread, count * n, threads):
                if status[first + e // n] == FINISHED:
                    shared[y_bar_at + e] += ys_bar[left, first * n + e]
        sync()
        return left

    def seed_slopes(thread, first, count, h, weights, y0s, status, shared):
        """The state before the step, and k_bar_i = h b_i y1_bar."""
        for e in range(thread, count * n, threads):
            shared[y_at + e] = shared[z_at + e] = y0s[first * n + e] if status[first + e // n] == FINISHED else 0.0
            for i in range(s):
                shared[k_bar_at + i * states_of_tile + e] = weights[i] * (h * shared[y_bar_at + e])
        sync()

    def add_stage(thread, count, i, h, weights, x_bar, shared):
        """`stage_state` transposed: z_i = y + h sum_{j < i} a_ij k_j."""
        for e in range(thread, count * n, threads):
            z_bar = shared[x_bar + e // n * width + e % n]
            shared[y_bar_at + e] += z_bar
            for j in range(i):
                shared[k_bar_at + j * states_of_tile + e] += weights[j] * (h * z_bar)
        sync()
    return device_function(add_observed), device_function(seed_slopes), device_function(add_stage)


@Kernel
def pull_tiles(on_device, field, sizes):
    """The transpose of `solve_tiles`: moves y_bars from the cotangents of y(t1) to those of y0.

    ys_bar (K, B n) are those of the observed states, at the points seen_at. Row b of theta_bars belongs to block b. A
    sample that failed is pulled back from a state of zeros, with cotangents of zero: it adds nothing.
    """
    def barrier():
        cuda.syncthreads()
    sync = device_function(barrier)
    load, stage, evaluate = tile_functions(on_device, sizes, sync)
    pull = pull_function(on_device, sizes, sync)
    A, b, c, s, n, tile, threads, resident = sizes.A, sizes.b, sizes.c, sizes.s, sizes.n, sizes.tile, sizes.threads, sizes.resident
    k_at, k_bar_at, y_bar_at, real = sizes.k_at, sizes.k_bar_at, sizes.y_bar_at, sizes.dtype
    states_of_tile = sizes.tile * sizes.n
    observed, seed, stage_vjp = pull_parts(sizes, sync)
    number = from_dtype(np.dtype(real))

    def tiles(theta, times, states, seen_at, ys_bar, status, y_bars, theta_bars):
        shared, thread = cuda.shared.array(0, number), cuda.threadIdx.x
        a_rows, b_row, nodes = cuda.const.array_like(A), cuda.const.array_like(b), cuda.const.array_like(c)
        w, theta_bar = shared if resident else theta, theta_bars[cuda.blockIdx.x]
        load(thread, theta, shared)
        for first in range(cuda.blockIdx.x * tile, status.shape[0], cuda.gridDim.x * tile):
            count, left = min(tile, status.shape[0] - first), seen_at.shape[0]
            for e in range(thread, count * n, threads):
                shared[y_bar_at + e] = y_bars[first * n + e] if status[first + e // n] == FINISHED else 0.0
            sync()
            for j in range(times.shape[0] - 1, 0, -1):
                left = observed(thread, first, count, j, left, seen_at, ys_bar, status, shared)
                t, h = times[j - 1], real(times[j] - times[j - 1])
                seed(thread, first, count, h, b_row, states[j - 1], status, shared)
                for i in range(s):
                    if i > 0:
                        stage(thread, count, a_rows[i], i, h, shared)
                    k = k_at + i * tile * n
                    evaluate(thread, count, t + nodes[i] * h, w, shared, shared[k:k + count * n])
                for i in range(s - 1, -1, -1):
                    if i < s - 1:                               # whose activations are still there
                        stage(thread, count, a_rows[i], i, h, shared)
                        k = k_at + i * tile * n
                        evaluate(thread, count, t + nodes[i] * h, w, shared, shared[k:k + count * n])
                    x_bar = pull(thread, count, w, shared, k_bar_at + i * states_of_tile, theta_bar)
                    stage_vjp(thread, count, i, h, a_rows[i], x_bar, shared)
            left = observed(thread, first, count, 0, left, seen_at, ys_bar, status, shared)
            for e in range(thread, count * n, threads):
                y_bars[first * n + e] = shared[y_bar_at + e]
            sync()
    return tiles


@Kernel
def push_tiles(on_device, field, sizes):
    """Tangents of `solve_tiles` in one direction for each sample: moves y_tans from y0's to those of y(t1).

    Those of the observed states go to ys_tans (K, B n).
    """
    def barrier():
        cuda.syncthreads()
    sync = device_function(barrier)
    load, stage, evaluate = tile_functions(on_device, sizes, sync)
    push, product, number = tangent_function(on_device, sizes, sync), on_device(dot), from_dtype(np.dtype(sizes.dtype))
    A, b, c, s, n, tile, threads, resident = sizes.A, sizes.b, sizes.c, sizes.s, sizes.n, sizes.tile, sizes.threads, sizes.resident
    y_at, z_at, k_at, k_tan_at, y_tan_at, z_tan_at, real = (
        sizes.y_at, sizes.z_at, sizes.k_at, sizes.k_bar_at, sizes.y_bar_at, sizes.z_tan_at, sizes.dtype)
    states_of_tile = sizes.tile * sizes.n

    def put_observed(thread, first, count, j, seen, seen_at, shared, ys_tans):
        """Tangents of the states observed at point j; returns how many observations there were."""
        while seen < seen_at.shape[0] and seen_at[seen] == j:
            for e in range(thread, count * n, threads):
                ys_tans[seen, first * n + e] = shared[y_tan_at + e]
            seen += 1
        return seen
    observe = device_function(put_observed)

    def stage_tangent(thread, count, weights, stages, h, shared, at):
        """y_tan + h sum_{j < stages} weights_j k_tan_j: the tangent of `stage_state`."""
        for e in range(thread, count * n, threads):
            k_tan = shared[k_tan_at + e:k_tan_at + e + stages * states_of_tile:states_of_tile]
            shared[at + e] = shared[y_tan_at + e] + h * product(k_tan, weights[:stages])
        sync()
    stage_jvp = device_function(stage_tangent)

    def tiles(theta, theta_tan, times, states, seen_at, y_tans, ys_tans, status):
        shared, thread = cuda.shared.array(0, number), cuda.threadIdx.x
        a_rows, b_row, nodes = cuda.const.array_like(A), cuda.const.array_like(b), cuda.const.array_like(c)
        w = shared if resident else theta
        load(thread, theta, shared)
        for first in range(cuda.blockIdx.x * tile, status.shape[0], cuda.gridDim.x * tile):
            count, seen = min(tile, status.shape[0] - first), 0
            for e in range(thread, count * n, threads):
                shared[y_tan_at + e] = y_tans[first * n + e]
            sync()
            for j in range(times.shape[0] - 1):
                seen = observe(thread, first, count, j, seen, seen_at, shared, ys_tans)
                t, h = times[j], real(times[j + 1] - times[j])
                for e in range(thread, count * n, threads):
                    shared[y_at + e] = shared[z_at + e] = states[j, first * n + e]
                    shared[z_tan_at + e] = shared[y_tan_at + e]
                sync()
                for i in range(s):
                    if i > 0:
                        stage(thread, count, a_rows[i], i, h, shared)
                        stage_jvp(thread, count, a_rows[i], i, h, shared, z_tan_at)
                    k, k_tan = k_at + i * states_of_tile, k_tan_at + i * states_of_tile
                    evaluate(thread, count, t + nodes[i] * h, w, shared, shared[k:k + count * n])
                    push(thread, count, w, theta_tan, shared, shared[k_tan:k_tan + count * n])
                stage_jvp(thread, count, b_row, s, h, shared, y_tan_at)
            observe(thread, first, count, times.shape[0] - 1, seen, seen_at, shared, ys_tans)
            for e in range(thread, count * n, threads):
                y_tans[first * n + e] = shared[y_tan_at + e]
            sync()
    return tiles


class TileSweep(BatchSweep):
    """Cotangents of all samples of `TileSamples`."""

    def pull_all(self):
        """From the seeds of all samples to the cotangents of their inputs."""
        samples, real, (count, n) = self.samples, self.samples.real, self.samples.y0s.shape
        ys_bar = self.ys_bar.reshape(count, -1, n).transpose(1, 0, 2).reshape(-1, count * n)
        y_bars = to_device(self.y1_bars.ravel(), real)
        blocks = samples.sizes.configuration(count)[0]
        theta_bars = to_device(np.zeros((blocks, samples.theta.shape[0])), real)
        pull_tiles.launch(samples.field, samples.sizes, count, (
            samples.theta, samples.times, samples.states, to_device(samples.seen_at), to_device(ys_bar, real), samples.ended,
            y_bars, theta_bars))
        done = samples.status == FINISHED
        self.y_bars[done] = y_bars.copy_to_host().reshape(count, n)[done]
        self.theta_sum = total_of_chunks(samples.field, samples.lane_sizes, theta_bars, real).copy_to_host().astype(np.float64)
        self.slopes[:] = samples.slopes.transpose(1, 0, 2).reshape(-1, n)


    def push(self, y0_tans, theta_tan):
        """Tangents in one direction for each sample, (B, n), and theta's (p,): (K, B, n) and (B, n)."""
        samples, real, (count, n) = self.samples, self.samples.real, self.samples.y0s.shape
        y_tans = to_device(y0_tans.ravel(), real)
        ys_tans = to_device(np.zeros((samples.seen_at.size, count * n)), real)
        push_tiles.launch(samples.field, samples.sizes, count, (
            samples.theta, to_device(theta_tan, real), samples.times, samples.states, to_device(samples.seen_at), y_tans,
            ys_tans, samples.ended))
        return ys_tans.copy_to_host().reshape(-1, count, n), y_tans.copy_to_host().reshape(count, n)

    def contract_all(self):
        """The same cotangents by tangents in every direction, contracted with the seeds. Implements nothing new: (VAR-2)."""
        samples, (count, n) = self.samples, self.samples.y0s.shape
        done, p = samples.status == FINISHED, samples.thetas.shape[1]
        ys_bar = self.ys_bar.reshape(count, -1, n).transpose(1, 0, 2)
        bars = np.empty((count, n + p))
        for j, direction in enumerate(np.eye(n + p)):
            ys_tans, y1_tans = self.push(np.tile(direction[:n], (count, 1)), direction[n:])
            bars[:, j] = np.einsum("kbn,kbn->b", ys_bar, ys_tans) + np.einsum("bn,bn->b", self.y1_bars, y1_tans)
        self.y_bars[done] = bars[done, :n]
        self.theta_sum = np.add.reduce(bars[done, n:], axis=0)
        self.slopes[:] = samples.slopes.transpose(1, 0, 2).reshape(-1, n)


def tile_gradient(batch, sensitivity, recipe, options, on_failure, real):
    """`gradient_batch` by `solve_tiles` and `pull_tiles` or `push_tiles`, where `tiles_serve`."""
    samples = TileSamples(batch, batch.field, batch.y0, options, keep=True, real=real)
    samples.run_forward()
    sweep = TileSweep(samples)
    if on_failure == "skip" or np.all(samples.status == FINISHED):
        sweep.seed(0, len(batch))
        sweep.pull_all() if recipe.equation == "transpose" else sweep.contract_all()
    return gradient_of_samples(samples, sweep, sensitivity, on_failure)
