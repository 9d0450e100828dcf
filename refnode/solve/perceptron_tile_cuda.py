"""What the threads of a block do together for a tile of samples under one perceptron: stages, slopes, and their derivatives.

For `fields.neural.mlp_field`, and for `fields.flow_density` with one hidden layer and the exact trace: a sample's last state is
then its log-density, whose slope is the sum of its hidden units' slopes times gains that all samples share. Threads share the entries of each product: thread after thread takes the next unit of the
next sample. An entry is a `dot` of a row of weights and a sample's inputs, its activation the body of `layers.activations`,
a stage that of `steppers.explicit_rk`; what is here says who computes which entry, and where it lies.

Weights, activations and the buffers of a sweep are one array in shared memory. Weights lie in it with rows one entry longer
than they are, so that neighbouring threads read from different banks whether they go along rows or columns; where they do
not fit they are read from theta. States and slopes of a tile are arrays of their own, (samples n,) and (stages, samples n).
Where not even one sample fits, all of these lie in global memory, in a row for each block, and weights are streamed: each
row of them is read for all samples of the tile by neighbouring threads.
Every sample has its own time and its own length of step: t and h, (samples,).
"""
import collections

import numpy as np

from refnode.cuda_device import Sizes, device_array, device_function, is_simulated
from refnode.layers.activations import TANH, activation_jvp_kernel, activation_kernel, activation_vjp_kernel
from refnode.linalg import dot
from refnode.steppers.explicit_rk import stage_state

SHARED_BYTES = 48 * 1024       # that a block has without asking
TILES = (16, 8, 4, 2, 1)       # samples of a block
LEAST_TILE = 4                 # below this weights leave shared memory to the samples
THREADS, SIMULATED_THREADS = 128, 2
BLOCKS = 512                   # that take tile after tile, each with sums of its own
BLOCK_BYTES = 2**31            # of global memory that all blocks may have for tiles and for these sums, beside one's own
STATES_OF_A_BLOCK, SLOPES_OF_A_BLOCK = 4, 2           # arrays that the sweep with the most has
SAMPLE_BYTES = 24              # time, length of the step, and what the sample does

IDLE, STEPS_ON = range(2)      # what a sample does

Place = collections.namedtuple("Place", ["thread", "first", "count"])      # the caller, the tile's first sample, how many it has
Stored = collections.namedtuple("Stored", ["times", "states", "ts", "ys_step", "positions"])     # what a sweep reads back


class TileSizes(Sizes):
    """What a kernel for tiles is compiled for: a perceptron, how many samples a block has, and where everything lies.

    ``sweep`` is for tangents and transposes, which need more room than a solve.
    """

    def __init__(self, tableau, perceptron, n, real, sweep):
        super().__init__(tableau, n, real)
        self.threads = SIMULATED_THREADS if is_simulated() else THREADS
        self.widths, self.activation = perceptron.widths, perceptron.code
        self.keeps_slope = self.activation != TANH
        self.d_in, self.d_out = np.array(self.widths[:-1]), np.array(self.widths[1:])
        self.sweep, self.bodies, self.trace, self.d = sweep, perceptron.trace, perceptron.trace is not None, self.widths[-1]
        self.tile, self.resident, self.streamed = self._tile()
        self.key = (*self.key, perceptron, self.threads, self.tile, self.resident, self.streamed, sweep)
        self.states, self.slopes = self.tile * n, (self.s + 1, self.tile * n)
        self._place_weights()
        self._place_inputs()
        self.shared = (1, 1, (1, 1)) if self.streamed else (self.entries, self.states, self.slopes)    # in shared memory
        self.blocks = self._blocks()

    def _tile(self):
        """The most samples that fit beside the weights, whether these stay in shared memory, and whether nothing does."""
        weights, sample = self.b.itemsize * self.weight_entries(), self.bytes_of_sample()
        gains = 2 * self.b.itemsize * self.widths[1] * self.trace
        for resident in (True, False):
            for tile in TILES:
                if weights * resident + gains + tile * sample <= SHARED_BYTES and (tile >= LEAST_TILE or not resident):
                    return tile, resident, False
        return TILES[0], False, True

    def _blocks(self):
        """How many blocks there may be: never a matter of the memory at hand, so that sums have one order."""
        tile = self.streamed * (self.entries + STATES_OF_A_BLOCK * self.states + SLOPES_OF_A_BLOCK * (self.s + 1) * self.states)
        sums = self.sweep * int(np.sum(self.d_out * (self.d_in + 1)))
        return max(1, min(BLOCKS, BLOCK_BYTES // max(1, self.b.itemsize * (tile + sums))))

    def weight_entries(self):
        return int(np.sum(self.d_out * (self.d_in + 2)))

    def bytes_of_sample(self):
        """Inputs of all layers; states and slopes; for a sweep the latters' derivatives, and two buffers of the widest layer."""
        hidden = int(np.sum(self.d_out[:-1])) * (self.keeps_slope + self.trace)
        rows, buffers = (2 * (self.s + 1) + 4, 2 * max(self.widths)) if self.sweep else (self.s + 1 + 3, 0)
        return self.b.itemsize * (int(np.sum(self.d_in)) + hidden + rows * self.n + buffers) + SAMPLE_BYTES

    def _place_weights(self):
        """Where W and b of each layer begin in theta, and where, and in which rows, kernels read them."""
        sizes = self.d_out * (self.d_in + 1)
        self.theta_w = np.cumsum(sizes) - sizes
        self.theta_b = self.theta_w + self.d_out * self.d_in
        if not self.resident:
            self.w_at, self.b_at, self.row, self.inputs_at = self.theta_w, self.theta_b, self.d_in, 0
            return
        sizes = self.d_out * (self.d_in + 2)
        self.row, self.w_at = self.d_in + 1, np.cumsum(sizes) - sizes
        self.b_at, self.inputs_at = self.w_at + self.d_out * self.row, self.weight_entries()

    def _place_inputs(self):
        """Where a tile's inputs of each layer, slopes of activations and buffers begin in shared memory, and where it ends."""
        x_at, slope_at, at = [], [], self.inputs_at
        for layer, d_in in enumerate(self.d_in.tolist()):
            x_at.append(at)
            at += self.tile * d_in
            slope_at.append(at)
            at += self.tile * int(self.d_out[layer]) if self.keeps_slope and layer < len(self.d_in) - 1 else 0
        self.x_at, self.slope_at, widest = np.array(x_at), np.array(slope_at), self.tile * max(self.widths)
        self.gain_at, self.gain_tan_at, self.part_at = at, at + self.widths[1], at + 2 * self.widths[1]
        at += self.trace * (self.tile + 2) * self.widths[1]                # gains, their tangents, parts of a trace
        self.buffer_at, self.other_buffer_at = at, at + widest
        self.entries = at + 2 * widest if self.sweep else at

    def configuration(self, lanes):
        return min(self.blocks, -(-lanes // self.tile)), self.threads

    def rooms(self, lanes):
        """Global memory for the tiles of all blocks, as kernels take it: arrays of one entry unless ``streamed``.

        A kernel says itself which of its arrays lie there: a device function cannot hand out a part of an array.
        """
        blocks = self.configuration(lanes)[0] if self.streamed else 1
        shapes = ((self.entries,), (STATES_OF_A_BLOCK, self.states), (SLOPES_OF_A_BLOCK, *self.slopes)) if self.streamed else (
            (1,), (1, 1), (1, 1, 1))
        return tuple(device_array((blocks, *shape), self.dtype) for shape in shapes)


def turn_function(sizes):
    """Which entry of (count, units) a thread takes in its q-th turn: neighbours another sample, where weights are streamed."""
    if sizes.streamed:
        def entry(q, units, count):
            return q % count * units + q // count
    else:
        def entry(q, units, count):
            return q
    return device_function(entry)


def body_of_trace(on_device, sizes, name):
    """A body of a flow's trace, which others do not have: nobody calls it for them."""
    return on_device(getattr(sizes.bodies, name)) if sizes.trace else None


def tile_functions(on_device, sizes, sync):
    """(load, stage, evaluate) for the threads of a block; each ends behind a barrier. ``at`` is a `Place`."""
    product, activate, code, keeps_slope = on_device(dot), on_device(activation_kernel), sizes.activation, int(sizes.keeps_slope)
    state_of, threads, layers, n, width = on_device(stage_state), sizes.threads, len(sizes.d_in), sizes.n, int(sizes.d_in[0])
    d_ins, d_outs, w_at, b_at, row, x_at, slope_at = (
        sizes.d_in, sizes.d_out, sizes.w_at, sizes.b_at, sizes.row, sizes.x_at, sizes.slope_at)
    theta_w, theta_b, resident, d, m, trace, slopes = (
        sizes.theta_w, sizes.theta_b, sizes.resident, sizes.d, sizes.widths[1], sizes.trace, body_of_trace(on_device, sizes, "slopes"))
    gain_at, part_at, entry = sizes.gain_at, sizes.part_at, turn_function(sizes)

    def load(thread, theta, shared):
        """Weights to shared memory."""
        for layer in range(layers if resident else 0):
            d_in = d_ins[layer]
            for e in range(thread, d_outs[layer] * d_in, threads):
                shared[w_at[layer] + e // d_in * row[layer] + e % d_in] = theta[theta_w[layer] + e]
            for u in range(thread, d_outs[layer], threads):
                shared[b_at[layer] + u] = theta[theta_b[layer] + u]
        for u in range(thread, m if trace else 0, threads):                # g_u = -sum_i W1_ui W2_iu, see `gains`
            inner, outer = theta_w[0] + u * d_ins[0], theta_w[layers - 1] + u
            shared[gain_at + u] = -product(theta[inner:inner + d], theta[outer:outer + (d - 1) * m + 1:m])
        sync()

    def stage(at, weights, stages, h, y, k, z):
        """z = y + h sum_{j < stages} weights_j k_j: `stage_state` of every entry."""
        for e in range(at.thread, at.count * n, threads):
            state_of(weights, stages, h[e // n], y[e:e + 1], k[:, e:e + 1], z[e:e + 1])
        sync()

    def evaluate(at, node, t, h, z, w, shared, out):
        """out = f(t + node h, z), entry by entry of each layer, whose inputs stay where the transpose looks for them."""
        for e in range(at.thread, at.count * width, threads):
            sample, unit = e // width, e % width
            shared[x_at[0] + e] = z[sample * n + unit] if unit < d else t[sample] + node * h[sample]
        sync()
        for layer in range(layers):
            d_in, d_out = d_ins[layer], d_outs[layer]
            for q in range(at.thread, at.count * d_out, threads):
                e = entry(q, d_out, at.count)
                x, weights = x_at[layer] + e // d_out * d_in, w_at[layer] + e % d_out * row[layer]
                value = w[b_at[layer] + e % d_out] + product(shared[x:x + d_in], w[weights:weights + d_in])
                if layer == layers - 1:
                    out[e // d_out * n + e % d_out] = value
                else:
                    a, slope = x_at[layer + 1] + e, slope_at[layer] + e
                    shared[a] = value
                    activate(code, shared[a:a + 1], shared[slope:slope + keeps_slope])
                    if trace:
                        slopes(code, shared[a:a + 1], shared[slope:slope + keeps_slope], shared[part_at + e:part_at + e + 1])
            sync()
        for i in range(at.thread, at.count if trace else 0, threads):      # (log p)' = sum_j slope_j g_j
            part = part_at + i * m
            out[i * n + d] = product(shared[part:part + m], shared[gain_at:gain_at + m])
        if trace:
            sync()
    return device_function(load), device_function(stage), device_function(evaluate)


def pull_function(on_device, sizes, sync):
    """`evaluate` transposed, for the threads of a block, as `mlp_vjp`."""
    product, activate = on_device(dot), on_device(activation_vjp_kernel)
    code, keeps_slope, threads, layers, n = sizes.activation, int(sizes.keeps_slope), sizes.threads, len(sizes.d_in), sizes.n
    d_ins, d_outs, w_at, row, x_at, slope_at = sizes.d_in, sizes.d_out, sizes.w_at, sizes.row, sizes.x_at, sizes.slope_at
    theta_w, theta_b, buffer_at, other_at = sizes.theta_w, sizes.theta_b, sizes.buffer_at, sizes.other_buffer_at
    d, m, trace, gain_at, part_at = sizes.d, sizes.widths[1], sizes.trace, sizes.gain_at, sizes.part_at
    hidden, entry = body_of_trace(on_device, sizes, "hidden_vjp"), turn_function(sizes)

    def pull_gains(at, w, shared, theta_bar):
        """`gains` transposed, from the parts that the samples' cotangents make up."""
        for u in range(at.thread, m, threads):
            g_bar = shared[part_at + u]
            for sample in range(1, at.count):
                g_bar += shared[part_at + sample * m + u]
            for i in range(d):                                              # g[u] -= W1[u, i] * W2[i, u]
                inner, outer = u * d_ins[0] + i, i * m + u
                theta_bar[theta_w[0] + inner] -= g_bar * w[w_at[1] + i * row[1] + u]
                theta_bar[theta_w[1] + outer] -= g_bar * w[w_at[0] + u * row[0] + i]
        sync()
    add_gains = device_function(pull_gains)

    def pull(at, w, k_bar, shared, theta_bar):
        """Cotangents of the inputs (count, d_in) from those of dy, (count n,); returns where in ``shared`` they begin.

        Adds to theta_bar. An entry has one thread, which sums over the samples in their order.
        """
        z_bar, x_bar, thread, count = other_at, buffer_at, at.thread, at.count
        for e in range(thread, count * d, threads):
            shared[z_bar + e] = k_bar[e // d * n + e % d]
        sync()
        for layer in range(layers - 1, -1, -1):
            d_in, d_out = d_ins[layer], d_outs[layer]
            if layer < layers - 1:
                for e in range(thread, count * d_out, threads):             # a = σ(z)
                    a, slope = x_at[layer + 1] + e, slope_at[layer] + e
                    if trace:
                        g, part, rate = gain_at + e % m, part_at + e, e // m * n + d
                        shared[part] = 0.0
                        hidden(code, 1, shared[a:a + 1], shared[slope:slope + keeps_slope], shared[g:g + 1], k_bar[rate:rate + 1],
                               shared[z_bar + e:z_bar + e + 1], shared[part:part + 1])
                    else:
                        activate(code, shared[a:a + 1], shared[slope:slope + keeps_slope], shared[z_bar + e:z_bar + e + 1])
                sync()
                if trace:
                    add_gains(at, w, shared, theta_bar)
            for e in range(thread, d_out * d_in, threads):                  # z = W x + b
                u, x = z_bar + e // d_in, x_at[layer] + e % d_in
                theta_bar[theta_w[layer] + e] += product(shared[u:u + count * d_out:d_out], shared[x:x + count * d_in:d_in])
            for u in range(thread, d_out, threads):
                total = shared[z_bar + u]
                for sample in range(1, count):
                    total += shared[z_bar + sample * d_out + u]
                theta_bar[theta_b[layer] + u] += total
            for q in range(thread, count * d_in, threads):
                e = entry(q, d_in, count)
                u, column = z_bar + e // d_in * d_out, w_at[layer] + e % d_in
                shared[x_bar + e] = product(shared[u:u + d_out], w[column:column + (d_out - 1) * row[layer] + 1:row[layer]])
            sync()
            z_bar, x_bar = x_bar, z_bar
        return z_bar
    return device_function(pull)


def trace_tangents(on_device, sizes, sync):
    """(push_gains, put_part): tangents of the gains, and a hidden unit's part of the trace's tangent."""
    slopes, slope_tangents = body_of_trace(on_device, sizes, "slopes"), body_of_trace(on_device, sizes, "slope_tangents")
    code, keeps_slope, threads, d, m = sizes.activation, int(sizes.keeps_slope), sizes.threads, sizes.d, sizes.widths[1]
    d_ins, w_at, row, theta_w, gain_at, gain_tan_at, part_at = (
        sizes.d_in, sizes.w_at, sizes.row, sizes.theta_w, sizes.gain_at, sizes.gain_tan_at, sizes.part_at)

    def push_gains(thread, w, theta_tan, shared):
        """Tangent of `gains`."""
        for u in range(thread, m, threads):
            total = 0.0 * shared[gain_at + u]
            for i in range(d):                                              # g[u] -= W1[u, i] * W2[i, u]
                inner, outer = u * d_ins[0] + i, i * m + u
                total -= (theta_tan[theta_w[0] + inner] * w[w_at[1] + i * row[1] + u]
                          + w[w_at[0] + u * row[0] + i] * theta_tan[theta_w[1] + outer])
            shared[gain_tan_at + u] = total
        sync()

    def put_part(e, a, slope, z_tan, shared):
        """s_tan_j g_j + s_j g_tan_j of one sample's hidden unit."""
        part, u = part_at + e, e % m
        slopes(code, shared[a:a + 1], shared[slope:slope + keeps_slope], shared[part:part + 1])
        value = shared[part] * shared[gain_tan_at + u]
        slope_tangents(code, shared[a:a + 1], shared[slope:slope + keeps_slope], shared[z_tan:z_tan + 1], shared[part:part + 1])
        shared[part] = shared[part] * shared[gain_at + u] + value
    return device_function(push_gains), device_function(put_part)


def tangent_function(on_device, sizes, sync):
    """The tangent of `evaluate`, whose activations it reads, for the threads of a block, as `mlp_jvp`."""
    product, activate = on_device(dot), on_device(activation_jvp_kernel)
    code, keeps_slope, threads, layers = sizes.activation, int(sizes.keeps_slope), sizes.threads, len(sizes.d_in)
    d_ins, d_outs, w_at, row, x_at, slope_at = sizes.d_in, sizes.d_out, sizes.w_at, sizes.row, sizes.x_at, sizes.slope_at
    theta_w, theta_b, buffer_at, other_at = sizes.theta_w, sizes.theta_b, sizes.buffer_at, sizes.other_buffer_at
    n, width, d, m, trace, part_at = sizes.n, int(sizes.d_in[0]), sizes.d, sizes.widths[1], sizes.trace, sizes.part_at
    (push_gains, put_part), entry = trace_tangents(on_device, sizes, sync), turn_function(sizes)

    def push(at, z_tan, w, theta_tan, shared, out):
        """out (count n,) = the tangent of f(t, z, theta) with t held."""
        x_tan, a_tan = buffer_at, other_at
        for e in range(at.thread, at.count * width, threads):
            sample, unit = e // width, e % width
            shared[x_tan + e] = z_tan[sample * n + unit] if unit < d else 0.0
        sync()
        if trace:
            push_gains(at.thread, w, theta_tan, shared)
        for layer in range(layers):
            d_in, d_out = d_ins[layer], d_outs[layer]
            for q in range(at.thread, at.count * d_out, threads):
                e = entry(q, d_out, at.count)
                sample, unit = e // d_out, e % d_out                       # z = W x + b
                x, weights = x_at[layer] + sample * d_in, theta_w[layer] + unit * d_in
                value = theta_tan[theta_b[layer] + unit] + product(shared[x:x + d_in], theta_tan[weights:weights + d_in])
                x, weights = x_tan + sample * d_in, w_at[layer] + unit * row[layer]
                value += product(shared[x:x + d_in], w[weights:weights + d_in])
                if layer == layers - 1:
                    out[sample * n + unit] = value
                else:                                                       # a = σ(z)
                    a, slope = x_at[layer + 1] + e, slope_at[layer] + e
                    shared[a_tan + e] = value
                    if trace:
                        put_part(e, a, slope, a_tan + e, shared)
                    activate(code, shared[a:a + 1], shared[slope:slope + keeps_slope], shared[a_tan + e:a_tan + e + 1])
            sync()
            x_tan, a_tan = a_tan, x_tan
        for i in range(at.thread, at.count if trace else 0, threads):
            total = shared[part_at + i * m]
            for u in range(1, m):
                total += shared[part_at + i * m + u]
            out[i * n + d] = total
        if trace:
            sync()
    return device_function(push)
