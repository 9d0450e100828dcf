"""Perceptrons on a GPU: a tile of samples a block, weights and activations in shared memory, a whole solve a launch.

For `fields.neural.mlp_field` with given steps. Threads of a block share the entries of each product: thread after
thread takes the next unit of the next sample. An entry is a `dot` of a row of weights and a sample's inputs, and its
activation the body of `layers.activations`; what is here says who computes which entry, and where it lies.

The block's shared memory is one array. Weights lie in it with rows one entry longer than they are, so that neighbouring
threads read from different banks whether they go along rows or columns; where they do not fit they are read from theta.
Rows of samples are (B, n) on the device as on the host: a tile's entries stand in a row.
"""
import numpy as np
from numba import from_dtype

from refnode.cuda_device import Kernel, Sizes, cuda_module, device_array, device_function, is_simulated, to_device
from refnode.layers.activations import TANH, activation_jvp_kernel, activation_kernel, activation_vjp_kernel
from refnode.linalg import dot
from refnode.solve.batch_cuda import DeviceSamples, wave_bytes
from refnode.solve.integrate import COMPONENT, EVALUATIONS, FINISHED, NON_FINITE, RUNNING, SEEN, STEPS, T, non_finite_component

cuda = cuda_module()           # of this name the simulator puts its own in a kernel's place

SHARED_BYTES = 48 * 1024       # that a block has without asking
TILES = (16, 8, 4, 2, 1)       # samples of a block
LEAST_TILE = 4                 # below this weights leave shared memory to the samples
THREADS, SIMULATED_THREADS = 128, 2
BLOCKS = 512                   # that take tile after tile, each with sums of its own
WIDEST = 128


class TileSizes(Sizes):
    """What a kernel for tiles is compiled for: a perceptron, how many samples a block has, and where everything lies."""

    def __init__(self, tableau, perceptron, n, real):
        super().__init__(tableau, n, real)
        self.threads = SIMULATED_THREADS if is_simulated() else THREADS
        self.widths, self.activation = perceptron.widths, perceptron.code
        self.keeps_slope = self.activation != TANH
        self.d_in, self.d_out = np.array(self.widths[:-1]), np.array(self.widths[1:])
        self.tile, self.resident = self._tile()
        self.key = (*self.key, perceptron, self.threads, self.tile, self.resident)
        self._place_weights()
        self._place_samples()

    def _tile(self):
        """The most samples that fit beside the weights, and whether these stay in shared memory."""
        room = SHARED_BYTES // self.b.itemsize
        for resident in (True, False):
            for tile in TILES:
                if (self.weight_entries() if resident else 0) + tile * self.entries_of_sample() <= room and (
                        tile >= LEAST_TILE or not resident):
                    return tile, resident
        raise ValueError(f"widths {self.widths} leave no room for a sample")

    def weight_entries(self):
        return int(np.sum(self.d_out * (self.d_in + 2)))

    def entries_of_sample(self):
        """Inputs of all layers, slopes, states, slopes of a step and their cotangents, and two buffers of the widest layer."""
        hidden = int(np.sum(self.d_out[:-1])) if self.keeps_slope else 0
        return int(np.sum(self.d_in)) + hidden + self.n * (2 * self.s + 5) + 2 * max(self.widths)

    def _place_weights(self):
        """Where W and b of each layer begin in theta, and where, and in which rows, kernels read them."""
        sizes = self.d_out * (self.d_in + 1)
        self.theta_w = np.cumsum(sizes) - sizes
        self.theta_b = self.theta_w + self.d_out * self.d_in
        if not self.resident:
            self.w_at, self.b_at, self.row, self.samples_at = self.theta_w, self.theta_b, self.d_in, 0
            return
        sizes = self.d_out * (self.d_in + 2)
        self.row, self.w_at = self.d_in + 1, np.cumsum(sizes) - sizes
        self.b_at, self.samples_at = self.w_at + self.d_out * self.row, self.weight_entries()

    def _place_samples(self):
        """Where the parts of a tile begin in shared memory."""
        self.x_at, self.slope_at, at = [], [], self.samples_at
        for layer, d_in in enumerate(self.d_in.tolist()):
            self.x_at.append(at)
            at += self.tile * d_in
            self.slope_at.append(at)
            at += self.tile * int(self.d_out[layer]) if self.keeps_slope and layer < len(self.d_in) - 1 else 0
        self.x_at, self.slope_at, states = np.array(self.x_at), np.array(self.slope_at), self.tile * self.n
        self.y_at, self.z_at, self.y_bar_at, self.z_tan_at, self.k_at = (at + states * part for part in range(5))
        self.k_bar_at = self.k_at + (self.s + 1) * states
        self.bars_at = self.k_bar_at + self.s * states
        self.other_bars_at = self.bars_at + self.tile * max(self.widths)
        self.entries = self.other_bars_at + self.tile * max(self.widths)

    def configuration(self, lanes):
        return min(BLOCKS, -(-lanes // self.tile)), self.threads, 0, self.entries * self.b.itemsize


# --- what the threads of a block do together ------------------------------------------------------

def tile_functions(on_device, sizes, sync):
    """(load, stage, evaluate) for the threads of a block; each ends behind a barrier.

    ``thread`` is the number of the caller's, ``count`` how many samples the tile has.
    """
    product, activate, code, keeps_slope = on_device(dot), on_device(activation_kernel), sizes.activation, int(sizes.keeps_slope)
    threads, layers, n, width, states = sizes.threads, len(sizes.d_in), sizes.n, int(sizes.d_in[0]), sizes.tile * sizes.n
    d_ins, d_outs, w_at, b_at, row, x_at, slope_at = (
        sizes.d_in, sizes.d_out, sizes.w_at, sizes.b_at, sizes.row, sizes.x_at, sizes.slope_at)
    theta_w, theta_b, resident, k_at, z_at, y_at = sizes.theta_w, sizes.theta_b, sizes.resident, sizes.k_at, sizes.z_at, sizes.y_at

    def load(thread, theta, shared):
        """Weights to shared memory."""
        for layer in range(layers if resident else 0):
            d_in = d_ins[layer]
            for e in range(thread, d_outs[layer] * d_in, threads):
                shared[w_at[layer] + e // d_in * row[layer] + e % d_in] = theta[theta_w[layer] + e]
            for u in range(thread, d_outs[layer], threads):
                shared[b_at[layer] + u] = theta[theta_b[layer] + u]
        sync()

    def stage(thread, count, weights, stages, h, shared):
        """z = y + h sum_{j < stages} weights_j k_j, as `stage_state`."""
        for e in range(thread, count * n, threads):
            k = shared[k_at + e:k_at + e + stages * states:states]
            shared[z_at + e] = shared[y_at + e] + h * product(k, weights[:stages])
        sync()

    def evaluate(thread, count, t, w, shared, out):
        """out (count n,) = f(t, z), entry by entry of each layer, whose inputs stay where the transpose looks for them."""
        for e in range(thread, count * width, threads):
            sample, unit = e // width, e % width
            shared[x_at[0] + e] = shared[z_at + sample * n + unit] if unit < n else t
        sync()
        for layer in range(layers):
            d_in, d_out = d_ins[layer], d_outs[layer]
            for e in range(thread, count * d_out, threads):
                x, at = x_at[layer] + e // d_out * d_in, w_at[layer] + e % d_out * row[layer]
                value = w[b_at[layer] + e % d_out] + product(shared[x:x + d_in], w[at:at + d_in])
                if layer == layers - 1:
                    out[e] = value
                else:
                    a, slope = x_at[layer + 1] + e, slope_at[layer] + e
                    shared[a] = value
                    activate(code, shared[a:a + 1], shared[slope:slope + keeps_slope])
            sync()
    return device_function(load), device_function(stage), device_function(evaluate)


def pull_function(on_device, sizes, sync):
    """`evaluate` transposed, for the threads of a block, as `mlp_vjp`."""
    product, activate = on_device(dot), on_device(activation_vjp_kernel)
    code, keeps_slope, threads, layers = sizes.activation, int(sizes.keeps_slope), sizes.threads, len(sizes.d_in)
    d_ins, d_outs, w_at, row, x_at, slope_at = sizes.d_in, sizes.d_out, sizes.w_at, sizes.row, sizes.x_at, sizes.slope_at
    theta_w, theta_b, bars_at, other_bars_at = sizes.theta_w, sizes.theta_b, sizes.bars_at, sizes.other_bars_at

    def pull(thread, count, w, shared, k_bar_at, theta_bar):
        """Cotangents of the inputs (count, d_in) from those of dy, (count, n) at k_bar_at; returns where they begin.

        Adds to theta_bar. An entry has one thread, which sums over the samples in their order.
        """
        z_bar, x_bar = k_bar_at, bars_at
        for layer in range(layers - 1, -1, -1):
            d_in, d_out = d_ins[layer], d_outs[layer]
            if layer < layers - 1:
                for e in range(thread, count * d_out, threads):             # a = σ(z)
                    a, slope = x_at[layer + 1] + e, slope_at[layer] + e
                    activate(code, shared[a:a + 1], shared[slope:slope + keeps_slope], shared[z_bar + e:z_bar + e + 1])
                sync()
            for e in range(thread, d_out * d_in, threads):                  # z = W x + b
                u, x = z_bar + e // d_in, x_at[layer] + e % d_in
                theta_bar[theta_w[layer] + e] += product(shared[u:u + count * d_out:d_out], shared[x:x + count * d_in:d_in])
            for u in range(thread, d_out, threads):
                total = shared[z_bar + u]
                for sample in range(1, count):
                    total += shared[z_bar + sample * d_out + u]
                theta_bar[theta_b[layer] + u] += total
            for e in range(thread, count * d_in, threads):
                u, at = z_bar + e // d_in * d_out, w_at[layer] + e % d_in
                shared[x_bar + e] = product(shared[u:u + d_out], w[at:at + (d_out - 1) * row[layer] + 1:row[layer]])
            sync()
            z_bar = x_bar
            x_bar = other_bars_at if z_bar == bars_at else bars_at
        return z_bar
    return device_function(pull)


def tangent_function(on_device, sizes, sync):
    """The tangent of `evaluate`, whose activations it reads, for the threads of a block, as `mlp_jvp`."""
    product, activate = on_device(dot), on_device(activation_jvp_kernel)
    code, keeps_slope, threads, layers = sizes.activation, int(sizes.keeps_slope), sizes.threads, len(sizes.d_in)
    d_ins, d_outs, w_at, row, x_at, slope_at = sizes.d_in, sizes.d_out, sizes.w_at, sizes.row, sizes.x_at, sizes.slope_at
    theta_w, theta_b, bars_at, other_at, z_tan_at = sizes.theta_w, sizes.theta_b, sizes.bars_at, sizes.other_bars_at, sizes.z_tan_at
    n, width = sizes.n, int(sizes.d_in[0])

    def push(thread, count, w, theta_tan, shared, out):
        """out (count n,) = the tangent of f(t, z, theta) with t held."""
        x_tan, z_tan = bars_at, other_at
        for e in range(thread, count * width, threads):
            sample, unit = e // width, e % width
            shared[x_tan + e] = shared[z_tan_at + sample * n + unit] if unit < n else 0.0
        sync()
        for layer in range(layers):
            d_in, d_out = d_ins[layer], d_outs[layer]
            for e in range(thread, count * d_out, threads):
                sample, unit = e // d_out, e % d_out                       # z = W x + b
                x, at = x_at[layer] + sample * d_in, theta_w[layer] + unit * d_in
                value = theta_tan[theta_b[layer] + unit] + product(shared[x:x + d_in], theta_tan[at:at + d_in])
                x, at = x_tan + sample * d_in, w_at[layer] + unit * row[layer]
                value += product(shared[x:x + d_in], w[at:at + d_in])
                if layer == layers - 1:
                    out[e] = value
                else:                                                       # a = σ(z)
                    a, slope = x_at[layer + 1] + e, slope_at[layer] + e
                    shared[z_tan + e] = value
                    activate(code, shared[a:a + 1], shared[slope:slope + keeps_slope], shared[z_tan + e:z_tan + e + 1])
            sync()
            x_tan, z_tan = z_tan, x_tan
    return device_function(push)


# --- the kernel -----------------------------------------------------------------------------------

@Kernel
def solve_tiles(on_device, field, sizes):
    """Explicit Runge-Kutta steps from times[0] to the last of times, for every sample.

    After step j states and slopes go to rows state_rows[j] and slope_rows[j] of their arrays, if these are not negative.
    A sample whose slope is not finite keeps the last state that it reached; the others of its tile go on.
    """
    def barrier():
        cuda.syncthreads()
    sync, failed = device_function(barrier), on_device(non_finite_component)
    load, stage, evaluate = tile_functions(on_device, sizes, sync)
    A, b, c, s, n, tile, threads, resident = sizes.A, sizes.b, sizes.c, sizes.s, sizes.n, sizes.tile, sizes.threads, sizes.resident
    y_at, z_at, k_at, last_at, real = sizes.y_at, sizes.z_at, sizes.k_at, sizes.k_at + sizes.s * sizes.tile * sizes.n, sizes.dtype

    number = from_dtype(np.dtype(real))

    def tiles(theta, times, y0s, state_rows, slope_rows, states, slopes, y1s, components, steps, status):
        shared, thread = cuda.shared.array(0, number), cuda.threadIdx.x
        a_rows, b_row, nodes = cuda.const.array_like(A), cuda.const.array_like(b), cuda.const.array_like(c)
        w = shared if resident else theta
        load(thread, theta, shared)
        for first in range(cuda.blockIdx.x * tile, status.shape[0], cuda.gridDim.x * tile):
            count = min(tile, status.shape[0] - first)
            for e in range(thread, count * n, threads):
                shared[y_at + e] = shared[z_at + e] = y0s[first * n + e]
            sync()
            for j in range(times.shape[0]):
                if j > 0:
                    t, h = times[j - 1], real(times[j] - times[j - 1])
                    for i in range(1, s):
                        stage(thread, count, a_rows[i], i, h, shared)
                        k = k_at + i * tile * n
                        evaluate(thread, count, t + nodes[i] * h, w, shared, shared[k:k + count * n])
                    stage(thread, count, b_row, s, h, shared)
                evaluate(thread, count, times[j], w, shared, shared[last_at:last_at + count * n])
                for e in range(thread, count, threads):
                    k, y1 = last_at + e * n, z_at + e * n
                    component = failed(shared[k:k + n], shared[y1:y1 + n])
                    if status[first + e] == RUNNING:
                        steps[first + e] = j
                        if component >= 0:
                            status[first + e], components[first + e] = NON_FINITE, component
                sync()
                for e in range(thread, count * n, threads):
                    shared[k_at + e] = shared[last_at + e]
                    if j == 0 or status[first + e // n] == RUNNING:
                        shared[y_at + e] = shared[z_at + e]
                        if state_rows[j] >= 0:
                            states[state_rows[j], first * n + e] = shared[y_at + e]
                        if slope_rows[j] >= 0:
                            slopes[slope_rows[j], first * n + e] = shared[k_at + e]
                sync()
            for e in range(thread, count * n, threads):
                y1s[first * n + e] = shared[y_at + e]
            sync()
            for e in range(thread, count, threads):
                if status[first + e] == RUNNING:
                    status[first + e] = FINISHED
    return tiles


# --- the host's side ------------------------------------------------------------------------------

class TileSamples(DeviceSamples):
    """Samples of a perceptron with given steps, all in one launch."""

    def __init__(self, batch, field, y0s, options, *, keep, real="float64"):
        super().__init__(batch, field, y0s, options, keep=keep, real=real)
        self.lane_sizes = self.sizes
        self.sizes = TileSizes(options.tableau, field.perceptron, self.n, real)
        self.points, self.seen_at = grid_points(batch, self.grids[0])

    def run_forward(self, start=0):
        """Integrate all samples; leaves states and slopes on the device."""
        rows, seen = np.arange(self.points.size), np.full(self.points.size, -1)
        stops = np.unique(np.concatenate([[0, self.points.size - 1], self.seen_at]))
        seen[stops] = np.arange(stops.size)
        state_rows = rows if self.keep else seen
        lanes, entries, real = len(self.batch), self.y0s.size, self.real
        self.theta, self.times = to_device(self.thetas[0], real), to_device(self.points)
        self.states = device_array((int(state_rows.max()) + 1, entries), real)
        slopes, y1s = device_array((stops.size, entries), real), device_array(entries, real)
        components, steps = to_device(np.full(lanes, -1)), to_device(np.zeros(lanes, dtype=np.int64))
        self.ended = to_device(np.full(lanes, RUNNING))
        solve_tiles.launch(self.field, self.sizes, lanes, (
            self.theta, self.times, to_device(self.y0s.ravel(), real), to_device(state_rows), to_device(seen), self.states,
            slopes, y1s, components, steps, self.ended))
        self._bring_back(stops, seen, state_rows, slopes, y1s, components, steps)
        return lanes

    def _bring_back(self, stops, seen, state_rows, slopes, y1s, components, steps):
        """Results to the host's arrays."""
        lanes, shape = len(self.batch), self.y0s.shape
        self.status[:], self.y1s[:] = self.ended.copy_to_host(), y1s.copy_to_host().reshape(shape)
        reached, self.counts[:, COMPONENT] = steps.copy_to_host(), components.copy_to_host()
        taken = np.where(self.status == FINISHED, self.points.size - 1, np.maximum(reached - 1, 0))
        self.counts[:, STEPS], self.counts[:, EVALUATIONS] = taken, 1 + self.s * reached
        self.clocks[:, T] = self.points[taken]
        observed = np.array([self.states[int(state_rows[at])].copy_to_host().reshape(shape) for at in self.seen_at])
        self.slopes = slopes.copy_to_host().reshape(stops.size, *shape)[seen[np.concatenate([[0], self.seen_at, [-1]])]]
        got = self.seen_at[:, None] <= taken
        self.counts[:, SEEN] = np.sum(got, axis=0)
        if self.seen_at.size:
            observed[~got] = np.nan
            self.ys[:] = observed.transpose(1, 0, 2).reshape(-1, self.n)
            self.ys_step[:] = np.tile(self.seen_at - 1, lanes)


def samples_of(batch, field, y0s, options, *, keep, real):
    """`TileSamples` where they serve, else `DeviceSamples`."""
    serve = tiles_serve(batch, field, y0s, options, keep, real)
    return (TileSamples if serve else DeviceSamples)(batch, field, y0s, options, keep=keep, real=real)


def grid_points(batch, grid):
    """The times of the steps, and which of them the samples observe; None if some observation lies between steps."""
    points = grid if grid.size and batch.spans[0, 0] != batch.spans[0, 1] else batch.spans[0, :1]
    seen = batch.ts[:batch.ts_first[1]]
    at = np.searchsorted(points if points[-1] >= points[0] else -points, seen if points[-1] >= points[0] else -seen)
    found = at < points.size
    return (points, at) if np.all(found) and np.array_equal(points[at], seen) else None


def tiles_serve(batch, field, y0s, options, keep, real):
    """Whether `TileSamples` can integrate a batch: a perceptron, given steps that all samples share, theta that they share."""
    perceptron = getattr(field, "perceptron", None)
    if perceptron is None or batch.on_device or options.scheme is not None or not options.fixed or batch.own_theta:
        return False
    if max(perceptron.widths) > WIDEST or not batch.same_count or not np.all(batch.spans == batch.spans[0]):
        return False
    if not np.all(batch.ts.reshape(len(batch), -1) == batch.ts[:batch.ts_first[1]]):
        return False
    grid = options.grid(*batch.spans[0].tolist())
    rows = grid.size if keep else 2 + batch.ts_first[1]
    return grid_points(batch, grid) is not None and int(rows) * y0s.size * np.dtype(real).itemsize <= wave_bytes()
