"""The discrete adjoint of a trajectory on a GPU, one a thread: of steps that were stored, and of steps taken again from checkpoints.

The bodies are those of `discrete_adjoint` and `checkpointing`; see `solve.batch_cuda` for lanes and waves.
"""
from refnode.cuda_device import Kernel, cuda_module, device_function
from refnode.linalg import copy_into
from refnode.sensitivity.batch_sweep import add_rows
from refnode.sensitivity.checkpointing import pull_with_checkpoints
from refnode.sensitivity.discrete_adjoint import OBSERVATION, pull_through_steps
from refnode.solve.integrate import FINISHED, RUNNING, STEPS

cuda = cuda_module()           # of this name the simulator puts its own in a kernel's place


def pull_function(on_device, field, sizes, body):
    """What a lane does, with ``body`` one of `pull_through_steps` and `pull_with_checkpoints`, which takes ``more`` arrays."""
    loop, f, f_vjp, copy = on_device(body), on_device(field.f), on_device(field.vjp), on_device(copy_into)
    add = on_device(add_rows)
    A, b, c, E, P, real = sizes.A, sizes.b, sizes.c, sizes.E, sizes.P, sizes.dtype
    n, slopes, extra, extras, weights = sizes.n, (sizes.s + 1, sizes.n), sizes.extra, (max(sizes.extra, 1), sizes.n), sizes.weights

    def pull(i, A_extra, c_extra, counts, times, y, k, k_extra, tape, thetas, ts, seen, ys_step, positions, ys_bar, y_bars,
             theta_bars, more, status):
        y_bar, y1_bar = cuda.local.array(n, real), cuda.local.array(n, real)
        z, z_bar, k_bar = cuda.local.array(n, real), cuda.local.array(n, real), cuda.local.array(slopes, real)
        k_extra_bar, w = cuda.local.array(extras, real), cuda.local.array(weights, real)
        t_bar = cuda.local.array(1, real)
        t_bar[0] = 0.0
        copy(y_bars[:, i], y_bar)
        own, position = min(i, thetas.shape[1] - 1), positions[:, i]
        status[i] = loop(
            f, f_vjp, cuda.const.array_like(A), cuda.const.array_like(b), cuda.const.array_like(c),
            cuda.const.array_like(E), cuda.const.array_like(P), A_extra, c_extra, times[:counts[STEPS, i] + 1, i],
            y[:, :, i], k[:, :, i], k_extra[:, :, :, i], tape[:, :, i], thetas[:, own], ts[:seen[i], i],
            ys_step[:seen[i], i], position, ys_bar[:seen[i], :, i], y_bar, y1_bar, z, z_bar, k_bar, k_extra_bar[:extra],
            w, t_bar, t_bar[:0], theta_bars[:, i], *more)
        if status[i] == FINISHED:
            add(ys_bar[:, :, i], position[OBSERVATION], y_bar)      # what is left was observed at t0
        copy(y_bar, y_bars[:, i])
    return device_function(pull)


@Kernel
def pull_lanes(on_device, field, sizes):
    """`pull_through_steps` for every lane that is RUNNING: moves its column of y_bars, adds to that of theta_bars."""
    pull = pull_function(on_device, field, sizes, pull_through_steps)

    def lanes(A_extra, c_extra, counts, times, y, k, k_extra, tape, thetas, ts, seen, ys_step, positions, ys_bar, y_bars,
              theta_bars, status):
        i = cuda.grid(1)
        if i < status.shape[0] and status[i] == RUNNING:
            pull(i, A_extra, c_extra, counts, times, y, k, k_extra, tape, thetas, ts, seen, ys_step, positions, ys_bar,
                 y_bars, theta_bars, (), status)
    return lanes


@Kernel
def pull_lanes_placed(on_device, field, sizes):
    """`pull_with_checkpoints` for every lane that is RUNNING: moves its column of y_bars, adds to that of theta_bars."""
    pull = pull_function(on_device, field, sizes, pull_with_checkpoints)

    def lanes(A_extra, c_extra, counts, log, y, k, k_extra, tape, thetas, ts, seen, ys_step, positions, ys_bar, y_bars,
              theta_bars, states, steps, slots, plans, status):
        i = cuda.grid(1)
        if i < status.shape[0] and status[i] == RUNNING:
            pull(i, A_extra, c_extra, counts, log, y, k, k_extra, tape, thetas, ts, seen, ys_step, positions, ys_bar,
                 y_bars, theta_bars, (states[:, :, i], steps[:, i], slots[:, i], plans[:, i]), status)
    return lanes
