"""The exact derivative of the steps a solver took: their tangent, and their transpose.

The steps are frozen. Both loops read the stored slopes of the forward solve, so that a field without a
tape is not evaluated again; a tape that was not kept is refilled (``recompute``).

References
----------
Hager, Numer. Math. 87 (2000); Sanz-Serna, SIAM Review 58 (2016); Griewank & Walther, Evaluating
Derivatives (2008), ch. 4.
"""
import numpy as np
from numba import types

from refnode.host_device import (
    BLOCK, INTEGERS, MATRIX, RHS, RHS_JVP, RHS_VJP, VECTOR, disjoint_driver, driver, higher_order, short)
from refnode.linalg import copy_into
from refnode.precision import SingleDriver, argument_names
from refnode.sensitivity.cotangents import cotangents_of, forward_stats
from refnode.sensitivity.forward_solve import solved
from refnode.sensitivity.jumps import observation_jump
from refnode.solve.integrate import FINISHED, KEEP_TAPE, RUNNING, Method, Path
from refnode.solve.run import entry_point, run_slices, where
from refnode.steppers.explicit_rk import (
    dense_output, dense_output_vjp, explicit_rk_step_jvp, explicit_rk_step_vjp, extra_slopes_jvp,
    extra_slopes_vjp)

STEP, OBSERVATION, SLICE, RECOMPUTE, OFFSET = range(5)                              # position

STORED_TYPES = (
    MATRIX, VECTOR, VECTOR, MATRIX, MATRIX, MATRIX, VECTOR,      # A, b, c, E, P, A_extra, c_extra
    VECTOR, MATRIX, MATRIX, BLOCK, MATRIX,                       # times, y, k, k_extra, tape
    VECTOR, VECTOR, INTEGERS, INTEGERS)                          # theta, ts, ys_step, position

TANGENT_TYPES = types.Tuple((
    *STORED_TYPES,
    VECTOR, VECTOR, VECTOR, VECTOR, VECTOR, MATRIX, MATRIX,      # theta_tan, y_tan, y1_tan, z, z_tan, k_tan, k_extra_tan
    VECTOR, MATRIX))                                             # w, ys_tan

ADJOINT_TYPES = types.Tuple((
    *STORED_TYPES,
    MATRIX, VECTOR, VECTOR, VECTOR, VECTOR, MATRIX, MATRIX,      # ys_bar, y_bar, y1_bar, z, z_bar, k_bar, k_extra_bar
    VECTOR, VECTOR, VECTOR, VECTOR))                             # w, t_bar, h_bar, theta_bar


@higher_order
def stored_step(method, path, i, recompute):
    """Start, length, slopes and tape of step i."""
    s = method.b.shape[0]
    t = path.times[i]
    kept = path.tape.shape[1] > 0 and not recompute
    tape = path.tape[i * s:] if kept else path.tape
    return t, path.times[i + 1] - t, path.k[i * s:(i + 1) * s + 1], tape


# --- tangent --------------------------------------------------------------------------------------

@driver(RHS, RHS_JVP, TANGENT_TYPES)
def discrete_tangent(f, f_jvp, arguments):
    """Push one tangent through stored steps; see `push_through_steps`."""
    return push_through_steps(f, f_jvp, *arguments)


@higher_order
def push_through_steps(f, f_jvp, A, b, c, E, P, A_extra, c_extra, times, y, k, k_extra, tape, theta, ts,
                       ys_step, position, theta_tan, y_tan, y1_tan, z, z_tan, k_tan, k_extra_tan, w,
                       ys_tan):
    """Moves y_tan (n,) from the first state to the last; overwrites ys_tan (K, n). Implements (DISC-1).

    position[STEP] counts up; observations at the first state are not touched.
    """
    method, path = Method(A, b, c, E, P, A_extra, c_extra), Path(times, y, k, k_extra, tape)
    for _ in range(position[SLICE]):
        i = position[STEP]
        if i == times.shape[0] - 1:
            return FINISHED
        t, h, k_i, tape_i = stored_step(method, path, i, position[RECOMPUTE])
        explicit_rk_step_jvp(f, f_jvp, A, b, c, t, h, y[i], theta, 0.0, 0.0, y_tan, theta_tan,
                             position[RECOMPUTE], tape_i, k_i, z, z_tan, k_tan, y1_tan)
        push_observations(f, f_jvp, method, path, i, t, h, k_i, theta, ts, ys_step, position, theta_tan,
                          y_tan, y1_tan, z, z_tan, k_tan, k_extra_tan, w, ys_tan)
        copy_into(y1_tan, y_tan)
        position[STEP] = i + 1
    return RUNNING


@higher_order
def push_observations(f, f_jvp, method, path, i, t, h, k, theta, ts, ys_step, position, theta_tan, y_tan,
                      y1_tan, z, z_tan, k_tan, k_extra_tan, w, ys_tan):
    """Tangents of the observations inside step i: dense output is linear in the state and the slopes."""
    scratch = path.tape[path.tape.shape[0] - 1]
    have_extra = False
    while position[OBSERVATION] < ts.shape[0] and ys_step[position[OBSERVATION]] == i:
        j = position[OBSERVATION]
        if ts[j] == path.times[i + 1]:
            copy_into(y1_tan, ys_tan[j])
        else:
            if not have_extra:
                extra_slopes_jvp(f, f_jvp, method.A_extra, method.c_extra, t, h, path.y[i], theta, 0.0, 0.0,
                                 y_tan, theta_tan, scratch, k, path.k_extra[i], k_tan, z, z_tan, k_extra_tan)
                have_extra = True
            dense_output(method.P, (ts[j] - t) / h, h, y_tan, k_tan, k_extra_tan, w, ys_tan[j])
        position[OBSERVATION] += 1


# --- transpose ------------------------------------------------------------------------------------

@disjoint_driver(RHS, RHS_VJP, ADJOINT_TYPES)
def discrete_adjoint(f, f_vjp, arguments):
    """Pull one cotangent back through stored steps; see `pull_through_steps`."""
    return pull_through_steps(f, f_vjp, *arguments)


@higher_order
def pull_through_steps(f, f_vjp, A, b, c, E, P, A_extra, c_extra, times, y, k, k_extra, tape, theta, ts,
                       ys_step, position, ys_bar, y_bar, y1_bar, z, z_bar, k_bar, k_extra_bar, w, t_bar,
                       h_bar, theta_bar):
    """Moves y_bar (n,) from the last state to the first; adds to theta_bar (p,). Implements (DISC-2).

    position[STEP] counts down; observations at the first state are not touched. position[OFFSET] steps of
    the solve lie before those stored.
    """
    method, path = Method(A, b, c, E, P, A_extra, c_extra), Path(times, y, k, k_extra, tape)
    for _ in range(position[SLICE]):
        i = position[STEP] - 1
        if i < 0:
            return FINISHED
        t, h, k_i, tape_i = stored_step(method, path, i, position[RECOMPUTE])
        copy_into(y_bar, y1_bar)
        y_bar[:] = 0.0
        k_bar[:] = 0.0
        pull_observations(f, f_vjp, method, path, i, t, h, k_i, theta, ts, ys_step, position, ys_bar, y_bar,
                          y1_bar, z, z_bar, k_bar, k_extra_bar, w, t_bar, theta_bar)
        explicit_rk_step_vjp(f, f_vjp, A, b, c, t, h, y[i], theta, position[RECOMPUTE], tape_i, k_i,
                             y[i + 1], y1_bar, k_bar, z, z_bar, t_bar, h_bar, y_bar, theta_bar)
        position[STEP] = i
    return FINISHED if position[STEP] == 0 else RUNNING


discrete_adjoint.single = SingleDriver(discrete_adjoint, argument_names(pull_through_steps, 2))
discrete_adjoint.is_short = short(argument_names(pull_through_steps, 2), "y", "ts")


@higher_order
def pull_observations(f, f_vjp, method, path, i, t, h, k, theta, ts, ys_step, position, ys_bar, y_bar,
                      y1_bar, z, z_bar, k_bar, k_extra_bar, w, t_bar, theta_bar):
    """Cotangents of the observations inside step i, handed to its state and slopes."""
    inside = False
    while position[OBSERVATION] > 0 and ys_step[position[OBSERVATION] - 1] == position[OFFSET] + i:
        j = position[OBSERVATION] - 1
        if ts[j] == path.times[i + 1]:
            for m in range(y1_bar.shape[0]):
                y1_bar[m] += ys_bar[j, m]                       # ys[j] = y[i + 1]
        else:
            if not inside:
                k_extra_bar[:] = 0.0
                inside = True
            dense_output_vjp(method.P, (ts[j] - t) / h, h, ys_bar[j], w, k_bar, k_extra_bar, y_bar)
        position[OBSERVATION] = j
    if inside:
        extra_slopes_vjp(f, f_vjp, method.A_extra, method.c_extra, t, h, path.y[i], theta,
                         path.tape[path.tape.shape[0] - 1], k, path.k_extra[i], k_extra_bar, z, z_bar,
                         t_bar, t_bar, k_bar, y_bar, theta_bar)     # frozen: neither t_bar nor h_bar is read


# --- the host's side ------------------------------------------------------------------------------

class StoredSteps:
    """A finished forward solve whose steps a discrete sweep reads back, and the sweep's workspace."""

    def __init__(self, forward):
        self.forward, self.field, self.n_steps = forward, forward.field, forward.n_steps
        self.recompute = self.field.tape_size > 0 and not forward.limits[KEEP_TAPE]
        self.vectors, self.matrices = forward.storage.sweep

    def position(self, step, observation):
        return np.array([step, observation, 1, self.recompute, 0])

    def shared(self, position):
        forward = self.forward
        room, times = forward.storage, forward.times[:self.n_steps + 1]
        return (*forward.method, times, room.y, room.k, room.k_extra, room.tape, forward.theta, forward.ts,
                forward.ys_step, position)

    def sweep(self, driver_, derivative, arguments, position):
        """Run a sweep to its end, returning to Python now and then."""
        specialize = self.forward.options.specialized_to(self.forward.n)
        entry, functions = entry_point(driver_, self.field, specialize, "f", derivative)
        try:
            run_slices(entry, (*functions, arguments), position, SLICE, self.field.pace)
        except Exception as error:
            error.add_note(where(derivative, self.forward.times[position[STEP]], position[STEP]))
            raise


def pull_stored(problem, recipe, options, own, seeds_of, grid=None, solve=None):
    """The transpose of all steps of a solve that keeps them: `Cotangents`, and the solve.

    ``solve()`` gives that solve, and keeps its storage; by default it is made here.
    """
    forward = solved(problem, options, keep=True, keep_tape=True, grid=grid) if solve is None else solve()
    seeds, single, unit = seeds_of(forward), forward.dtype is np.float32, 1.0
    if single:
        seeds, unit = seeds.in_units(forward.dtype)
    y0_bar, theta_bar = pull_cotangents(forward, seeds)
    stats = forward_stats(forward)
    stats |= {"n_steps_reverse": stats["n_steps"], **stored_memory(forward)}
    cotangents = cotangents_of(problem, forward, seeds, y0_bar, theta_bar, stats)
    if single:
        cotangents = cotangents.times(unit)
    if solve is None:
        forward.give_back()
    return cotangents, forward


def stored_memory(forward):
    """What a stored solve holds for its reverse sweep. Steps whose tape was not kept are recomputed."""
    room, steps, s, field = forward.storage, forward.n_steps, forward.s, forward.field
    kept = room.keep_tape or field.tape_size == 0
    states = steps + 1 + steps * s + 1 + steps * room.extra             # in y, k, k_extra
    tape = field.tape_size * ((steps * s if kept else s) + 2)
    return {"n_steps_recomputed": 0 if kept else steps,
            "history_bytes": room.y.itemsize * (states * forward.n + tape), "times_bytes": 8 * (steps + 1)}


def pull_cotangents(forward, seeds):
    """Transposed steps: (y0_bar (n,), theta_bar (p,)) from `Seeds`, for a forward solve with KEEP, in its precision."""
    steps, dtype = StoredSteps(forward), forward.dtype
    y_bar, theta_bar = seeds.y1_bar.copy(), np.zeros(forward.theta.size, dtype)
    position = steps.position(steps.n_steps, forward.ts.size)
    (y1_bar, z, z_bar), (k_bar, k_extra_bar) = steps.vectors, steps.matrices
    steps.sweep(discrete_adjoint.single if dtype is np.float32 else discrete_adjoint, "vjp", (
        *steps.shared(position), seeds.ys_bar, y_bar, y1_bar, z, z_bar, k_bar, k_extra_bar,
        forward.storage.w, np.zeros(1, dtype), np.empty(0, dtype), theta_bar), position)
    for j in range(position[OBSERVATION]):                      # what is left was observed at t0
        observation_jump(y_bar, seeds.ys_bar[j])
    return y_bar, theta_bar


def push_tangents(forward, y0_tans, theta_tans):
    """Tangents of the stored steps, for m directions: (ys_tans (K, m, n), y1_tans (m, n))."""
    steps = StoredSteps(forward)
    ys_tans = np.empty((forward.ts.size, len(y0_tans), forward.n))
    y1_tans = np.array(y0_tans, dtype=np.float64)
    at_start = int(np.count_nonzero(forward.ys_step == -1))
    (y1_tan, z, z_tan), (k_tan, k_extra_tan) = steps.vectors, steps.matrices
    for j, theta_tan in enumerate(theta_tans):
        ys_tan = np.empty((forward.ts.size, forward.n))
        ys_tan[:at_start] = y0_tans[j]
        position = steps.position(0, at_start)
        steps.sweep(discrete_tangent, "jvp", (
            *steps.shared(position), theta_tan, y1_tans[j], y1_tan, z, z_tan, k_tan, k_extra_tan,
            forward.storage.w, ys_tan), position)
        ys_tans[:, j] = ys_tan
    return ys_tans, y1_tans
