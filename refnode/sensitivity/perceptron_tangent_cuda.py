"""Tangents of a perceptron's steps on a GPU, a tile of samples a block; see `perceptron_adjoint_cuda`."""
import collections

import numpy as np
from numba import float64, from_dtype, int64

from refnode.cuda_device import Kernel, cuda_module, device_function
from refnode.linalg import has_nonzero
from refnode.sensitivity.discrete_adjoint import OBSERVATION, SLICE, STEP
from refnode.solve.integrate import FINISHED, RUNNING, STEPS
from refnode.solve.perceptron_tile_cuda import IDLE, STEPS_ON, Place, Stored, tangent_function, tile_functions
from refnode.steppers.explicit_rk import dense_output

cuda = cuda_module()           # of this name the simulator puts its own in a kernel's place

Tile = collections.namedtuple("Tile", ["t", "h", "does", "y", "z", "y_tan", "z_tan", "k", "k_tan"])


def push_parts(on_device, sizes, sync):
    """(aim, leave): what a block does before and after it pushes tangents through one step of each of its samples."""
    dense, any_of = on_device(dense_output), on_device(has_nonzero)
    n, threads, weights, real = sizes.n, sizes.threads, sizes.weights, sizes.dtype

    def aim(at, stored, counts, status, tile):
        """The next step, and the state at its start; returns whether any sample has one."""
        for i in range(at.thread, at.count, threads):
            j = at.first + i
            tile.t[i], tile.h[i], tile.does[i], step = 0.0, 0.0, IDLE, stored.positions[STEP, j]
            if status[j] == RUNNING and step < counts[STEPS, j]:
                tile.t[i], tile.does[i] = stored.times[step, j], STEPS_ON
                tile.h[i] = real(stored.times[step + 1, j] - stored.times[step, j])
        sync()
        for e in range(at.thread, at.count * n, threads):
            j = at.first + e // n
            tile.y[e] = 0.0 if tile.does[e // n] == IDLE else stored.states[stored.positions[STEP, j], e % n, j]
        sync()
        return any_of(tile.does[:at.count])

    def leave(at, P, stored, seen, ys_tans, tile):
        """Tangents of the step's observations, and of its last state, z_tan: `push_observations`."""
        w = cuda.local.array(weights, real)
        for e in range(at.thread, at.count * n, threads):
            m, j = e % n, at.first + e // n
            if tile.does[e // n] != IDLE:
                step, row = stored.positions[STEP, j], stored.positions[OBSERVATION, j]
                t, t_next = stored.times[step, j], stored.times[step + 1, j]
                while row < seen[j] and stored.ys_step[row, j] == step:
                    if stored.ts[row, j] == t_next:
                        ys_tans[row, m, j] = tile.z_tan[e]
                    else:
                        dense(P, (stored.ts[row, j] - t) / (t_next - t), t_next - t, tile.y_tan[e:e + 1],
                              tile.k_tan[:, e:e + 1], tile.k_tan[:0, e:e + 1], w, ys_tans[row, m:m + 1, j])
                    row += 1
                tile.y_tan[e] = tile.z_tan[e]
        sync()
        for i in range(at.thread, at.count, threads):
            j = at.first + i
            if tile.does[i] != IDLE:
                while stored.positions[OBSERVATION, j] < seen[j] and (
                        stored.ys_step[stored.positions[OBSERVATION, j], j] == stored.positions[STEP, j]):
                    stored.positions[OBSERVATION, j] += 1
                stored.positions[STEP, j] += 1
        sync()
    return device_function(aim), device_function(leave)


def slope_tangent(on_device, sizes, sync):
    """One slope of a step and its tangent, from those before: a turn of the loop of `explicit_rk_step_jvp`."""
    _, stage, evaluate = tile_functions(on_device, sizes, sync)
    push = tangent_function(on_device, sizes, sync)

    def slope(at, weights, node, i, w, theta_tan, shared, tile):
        stage(at, weights, i, tile.h, tile.y, tile.k, tile.z)
        stage(at, weights, i, tile.h, tile.y_tan, tile.k_tan, tile.z_tan)
        evaluate(at, node, tile.t, tile.h, tile.z, w, shared, tile.k[i])
        push(at, tile.z_tan, w, theta_tan, shared, tile.k_tan[i])
    return device_function(slope)


@Kernel
def push_tiles(on_device, field, sizes):
    """`push_through_steps` in one direction for every sample that is RUNNING: moves its column of y_tans.

    Tangents of observations go to ys_tans (K, n, samples).
    """
    def barrier():
        cuda.syncthreads()
    sync, streamed = device_function(barrier), sizes.streamed
    load = tile_functions(on_device, sizes, sync)[0]
    slope, (aim, leave) = slope_tangent(on_device, sizes, sync), push_parts(on_device, sizes, sync)
    A, b, c, P, s, n, threads, resident = (
        sizes.A, sizes.b, sizes.c, sizes.P, sizes.s, sizes.n, sizes.threads, sizes.resident)
    size, entries, states_of_tile, slopes_of_tile, number, one = (
        sizes.tile, *sizes.shared, from_dtype(np.dtype(sizes.dtype)), sizes.dtype(1))

    def tiles(theta, counts, times, states, ts, seen, ys_step, positions, theta_tan, y_tans, ys_tans, room, state_room, slope_room, status):
        block = cuda.blockIdx.x
        shared = cuda.shared.array(entries, number)            # one a line: the simulator knows them by their lines
        t = cuda.shared.array(size, float64)
        h = cuda.shared.array(size, number)
        does = cuda.shared.array(size, int64)
        y = cuda.shared.array(states_of_tile, number)
        z = cuda.shared.array(states_of_tile, number)
        y_tan = cuda.shared.array(states_of_tile, number)
        z_tan = cuda.shared.array(states_of_tile, number)
        k = cuda.shared.array(slopes_of_tile, number)
        k_tan = cuda.shared.array(slopes_of_tile, number)
        if streamed:                                           # in global memory instead
            shared, y, z, y_tan, z_tan = room[block], state_room[block, 0], state_room[block, 1], state_room[block, 2], state_room[block, 3]
            k, k_tan = slope_room[block, 0], slope_room[block, 1]
        a_rows, b_row, nodes, dense = (
            cuda.const.array_like(A), cuda.const.array_like(b), cuda.const.array_like(c), cuda.const.array_like(P))
        stored, tile = Stored(times, states, ts, ys_step, positions), Tile(t, h, does, y, z, y_tan, z_tan, k, k_tan)
        thread, w = cuda.threadIdx.x, shared if resident else theta
        load(thread, theta, shared)
        for first in range(block * size, status.shape[0], cuda.gridDim.x * size):
            at = Place(thread, first, min(size, status.shape[0] - first))
            for e in range(thread, at.count * n, threads):
                y_tan[e] = y_tans[e % n, first + e // n]
            sync()
            for _ in range(positions[SLICE, 0]):
                if not aim(at, stored, counts, status, tile):
                    break
                for i in range(s):
                    slope(at, a_rows[i], nodes[i], i, w, theta_tan, shared, tile)
                slope(at, b_row, one, s, w, theta_tan, shared, tile)
                leave(at, dense, stored, seen, ys_tans, tile)
            for e in range(thread, at.count * n, threads):
                y_tans[e % n, first + e // n] = y_tan[e]
            sync()
            for i in range(thread, at.count, threads):
                if status[first + i] == RUNNING and positions[STEP, first + i] == counts[STEPS, first + i]:
                    status[first + i] = FINISHED
            sync()
    return tiles
