"""The discrete adjoint of a perceptron's steps on a GPU, a tile of samples a block; see `solve.perceptron_cuda`.

The forward solve leaves times and states of the steps of every sample in global memory. A block takes a step of each of
its samples again from there, stage by stage, and transposes it from the last stage to the first. A sample with fewer steps
than its neighbours idles, with a state of zeros and slopes whose cotangents are zero, which add nothing.
"""
import collections

import numpy as np
from numba import float64, from_dtype, int64

from refnode.cuda_device import Kernel, cuda_module, device_function
from refnode.linalg import has_nonzero
from refnode.sensitivity.discrete_adjoint import OBSERVATION, SLICE, STEP
from refnode.solve.integrate import FINISHED, RUNNING
from refnode.solve.perceptron_tile_cuda import IDLE, STEPS_ON, Place, Stored, pull_function, tile_functions
from refnode.steppers.explicit_rk import dense_output_vjp, stage_state_vjp

cuda = cuda_module()           # of this name the simulator puts its own in a kernel's place

LOOKS_INSIDE = 2                                       # a sample that steps on, and has observations inside its step

Tile = collections.namedtuple("Tile", ["t", "h", "does", "y", "z", "y_bar", "y1_bar", "k", "k_bar"])


def pull_parts(on_device, sizes, sync):
    """(aim, seed, leave): what a block does before and after it transposes one step of each of its samples."""
    dense_vjp, any_of = on_device(dense_output_vjp), on_device(has_nonzero)
    n, threads, weights, slopes, real = sizes.n, sizes.threads, sizes.weights, sizes.s + 1, sizes.dtype

    def aim(at, stored, status, tile):
        """The step before the one transposed last; returns whether any sample has one."""
        for i in range(at.thread, at.count, threads):
            j = at.first + i
            tile.t[i], tile.h[i], tile.does[i], step = 0.0, 0.0, IDLE, stored.positions[STEP, j] - 1
            if status[j] == RUNNING and step >= 0:
                t_next, seen = stored.times[step + 1, j], stored.positions[OBSERVATION, j] - 1
                tile.t[i], tile.h[i], tile.does[i] = stored.times[step, j], real(t_next - stored.times[step, j]), STEPS_ON
                while seen >= 0 and stored.ys_step[seen, j] == step:
                    if stored.ts[seen, j] != t_next:
                        tile.does[i] = LOOKS_INSIDE
                    seen -= 1
        sync()
        return any_of(tile.does[:at.count])

    def seed(at, P, stored, ys_bar, tile):
        """y and z from both ends of the step, and what its observations hand to its state and slopes: `pull_observations`."""
        w = cuda.local.array(weights, real)
        for e in range(at.thread, at.count * n, threads):
            m, j = e % n, at.first + e // n
            tile.y1_bar[e], tile.y[e], tile.z[e] = 0.0, 0.0, 0.0
            for row in range(slopes):
                tile.k_bar[row, e] = 0.0
            if tile.does[e // n] != IDLE:
                step, seen = stored.positions[STEP, j] - 1, stored.positions[OBSERVATION, j] - 1
                tile.y1_bar[e], tile.y_bar[e] = tile.y_bar[e], 0.0
                t, t_next = stored.times[step, j], stored.times[step + 1, j]
                tile.y[e], tile.z[e] = stored.states[step, m, j], stored.states[step + 1, m, j]
                while seen >= 0 and stored.ys_step[seen, j] == step:
                    if stored.ts[seen, j] == t_next:
                        tile.y1_bar[e] += ys_bar[seen, m, j]                        # ys[j] = y[i + 1]
                    else:
                        dense_vjp(P, (stored.ts[seen, j] - t) / (t_next - t), t_next - t, ys_bar[seen, m:m + 1, j], w,
                                  tile.k_bar[:, e:e + 1], tile.k_bar[:0, e:e + 1], tile.y_bar[e:e + 1])
                    seen -= 1
        sync()

    def leave(at, stored, tile):
        """On to the step before."""
        for i in range(at.thread, at.count, threads):
            j = at.first + i
            if tile.does[i] != IDLE:
                stored.positions[STEP, j] -= 1
                while stored.positions[OBSERVATION, j] > 0 and (
                        stored.ys_step[stored.positions[OBSERVATION, j] - 1, j] == stored.positions[STEP, j]):
                    stored.positions[OBSERVATION, j] -= 1
        sync()
    return device_function(aim), device_function(seed), device_function(leave)


def step_transpose(on_device, sizes, sync, stage, evaluate):
    """`explicit_rk_step_vjp` for a step of each sample of a tile, after `seed`."""
    pull, stage_vjp = pull_function(on_device, sizes, sync), on_device(stage_state_vjp)
    s, n, d, threads, width = sizes.s, sizes.n, sizes.d, sizes.threads, int(sizes.d_in[0])

    def transpose(at, a_rows, b_row, nodes, inside, w, shared, tile, theta_bar):
        t, h, y, z, k, k_bar, y_bar, y1_bar = tile.t, tile.h, tile.y, tile.z, tile.k, tile.k_bar, tile.y_bar, tile.y1_bar
        if inside:                                                                  # an interpolant reads f(t + h, y1)
            evaluate(at, 1.0, t, h, z, w, shared, k[s])
            x_bar = pull(at, w, k_bar[s], shared, theta_bar)
            for e in range(at.thread, at.count * d, threads):
                y1_bar[e // d * n + e % d] += shared[x_bar + e // d * width + e % d]
            sync()
        for e in range(at.thread, at.count * n, threads):
            z[e] = y[e]
            stage_vjp(b_row, s, h[e // n], y1_bar[e:e + 1], k_bar[:, e:e + 1], y_bar[e:e + 1])
        sync()
        for i in range(s):
            if i > 0:
                stage(at, a_rows[i], i, h, y, k, z)
            evaluate(at, nodes[i], t, h, z, w, shared, k[i])
        for i in range(s - 1, -1, -1):
            if i < s - 1:                                                           # whose activations are still there
                stage(at, a_rows[i], i, h, y, k, z)
                evaluate(at, nodes[i], t, h, z, w, shared, k[i])
            x_bar = pull(at, w, k_bar[i], shared, theta_bar)
            for entry in range(at.thread, at.count * d, threads):                   # a log-density acts on no slope
                x, e = x_bar + entry // d * width + entry % d, entry // d * n + entry % d
                stage_vjp(a_rows[i], i, h[e // n], shared[x:x + 1], k_bar[:, e:e + 1], y_bar[e:e + 1])
            sync()
    return device_function(transpose)


@Kernel
def pull_tiles(on_device, field, sizes):
    """`pull_through_steps` for every sample that is RUNNING: moves its column of y_bars.

    ys_bar (K, n, samples) are cotangents of observations. Cotangents of theta go to row (first_row + block) of theta_bars,
    counted round about.
    """
    def barrier():
        cuda.syncthreads()
    sync, streamed = device_function(barrier), sizes.streamed
    load, stage, evaluate = tile_functions(on_device, sizes, sync)
    aim, seed, leave = pull_parts(on_device, sizes, sync)
    transpose, any_inside = step_transpose(on_device, sizes, sync, stage, evaluate), inside_function()
    A, b, c, P, n, threads, resident = sizes.A, sizes.b, sizes.c, sizes.P, sizes.n, sizes.threads, sizes.resident
    size, entries, states_of_tile, slopes_of_tile, number = (
        sizes.tile, *sizes.shared, from_dtype(np.dtype(sizes.dtype)))

    def tiles(theta, times, states, ts, ys_step, positions, ys_bar, y_bars, first_row, theta_bars, room, state_room, slope_room, status):
        block = cuda.blockIdx.x
        shared = cuda.shared.array(entries, number)            # one a line: the simulator knows them by their lines
        t = cuda.shared.array(size, float64)
        h = cuda.shared.array(size, number)
        does = cuda.shared.array(size, int64)
        y = cuda.shared.array(states_of_tile, number)
        z = cuda.shared.array(states_of_tile, number)
        y_bar = cuda.shared.array(states_of_tile, number)
        y1_bar = cuda.shared.array(states_of_tile, number)
        k = cuda.shared.array(slopes_of_tile, number)
        k_bar = cuda.shared.array(slopes_of_tile, number)
        if streamed:                                           # in global memory instead
            shared, y, z, y_bar, y1_bar = room[block], state_room[block, 0], state_room[block, 1], state_room[block, 2], state_room[block, 3]
            k, k_bar = slope_room[block, 0], slope_room[block, 1]
        a_rows, b_row, nodes, dense = (
            cuda.const.array_like(A), cuda.const.array_like(b), cuda.const.array_like(c), cuda.const.array_like(P))
        stored, tile = Stored(times, states, ts, ys_step, positions), Tile(t, h, does, y, z, y_bar, y1_bar, k, k_bar)
        thread, w, theta_bar = cuda.threadIdx.x, shared if resident else theta, theta_bars[
            (first_row + block) % theta_bars.shape[0]]
        load(thread, theta, shared)
        for first in range(block * size, status.shape[0], cuda.gridDim.x * size):
            at = Place(thread, first, min(size, status.shape[0] - first))
            for e in range(thread, at.count * n, threads):
                y_bar[e] = y_bars[e % n, first + e // n] if status[first + e // n] == RUNNING else 0.0
            sync()
            for _ in range(positions[SLICE, 0]):
                if not aim(at, stored, status, tile):
                    break
                seed(at, dense, stored, ys_bar, tile)
                transpose(at, a_rows, b_row, nodes, any_inside(at, tile.does), w, shared, tile, theta_bar)
                leave(at, stored, tile)
            for e in range(thread, at.count * n, threads):
                i, m, j = e // n, e % n, first + e // n
                if status[j] == RUNNING:
                    for seen in range(positions[OBSERVATION, j] if positions[STEP, j] == 0 else 0):
                        y_bar[e] += ys_bar[seen, m, j]         # what is left was observed at t0
                    y_bars[m, j] = y_bar[e]
            sync()
            for i in range(thread, at.count, threads):
                if status[first + i] == RUNNING and positions[STEP, first + i] == 0:
                    status[first + i] = FINISHED
            sync()
    return tiles


def inside_function():
    """Whether any sample of a tile has an observation between the ends of its step."""
    def any_inside(at, does):
        for i in range(at.count):
            if does[i] == LOOKS_INSIDE:
                return True
        return False
    return device_function(any_inside)
