"""The transpose of `through`: the derivative of the adaptive program, backwards over its list of attempts.

Every body here transposes the body of the same name in `through`, push for pull, last line first.
"""
import collections

import numpy as np
from numba import types

from refnode.host_device import MATRIX, RHS, RHS_VJP, VECTOR, driver, higher_order, host_device
from refnode.linalg import copy_into, dot
from refnode.sensitivity.attempts import (
    ACCEPTED_AFTER, ATTEMPT, ATTEMPT_TYPES, AUTOMATIC, CUT_BY_FACTOR, ERROR, FREE, GIVEN, HALVED, MEMORY_1,
    MEMORY_2, OUTCOME, REJECTED_BY_ERROR, STOP, Attempts, ControlledSteps)
from refnode.sensitivity.discrete_adjoint import (
    OBSERVATION, RECOMPUTE, SLICE, STEP, STORED_TYPES, stored_step)
from refnode.sensitivity.forward_solve import solved
from refnode.sensitivity.jumps import observation_jump
from refnode.sensitivity.through import attempted_length, larger_of, through_cotangents
from refnode.solve.integrate import ERROR_1, ERROR_2, FINISHED, RUNNING, H, Method, Path, T, Tolerance
from refnode.solve.step_size import (
    ERROR_FLOOR, FACTOR_MIN, error_norm_vjp, first_step_vjp, next_size_slopes, rejection_slopes)
from refnode.steppers.explicit_rk import (
    dense_motion_vjp, dense_output_vjp, explicit_rk_step, explicit_rk_step_vjp, extra_slopes_vjp)
from refnode.steppers.system import Plain

PULL_TYPES = types.Tuple((
    *STORED_TYPES, *ATTEMPT_TYPES,
    MATRIX, VECTOR, VECTOR, VECTOR, VECTOR, VECTOR,      # ys_bar, stop_bars, ts_bar, clock_bar, y_bar, theta_bar
    VECTOR, VECTOR, VECTOR, MATRIX, MATRIX,              # y1_bar, z, z_bar, k_bar, k_extra_bar
    MATRIX, MATRIX, VECTOR, VECTOR, VECTOR, VECTOR))     # k_try, tape_try, y_try, w, t_bar, h_bar

Work = collections.namedtuple("Work", [
    "y1_bar", "z", "z_bar", "k_bar", "k_extra_bar", "k_try", "tape_try", "y_try", "w", "t_bar", "h_bar"])


@driver(RHS, RHS_VJP, PULL_TYPES)
def through_adjoint(f, f_vjp, arguments):
    """Pull one cotangent back through the attempts of a solve; see `pull_through_attempts`."""
    return pull_through_attempts(f, f_vjp, *arguments)


@higher_order
def pull_through_attempts(f, f_vjp, A, b, c, E, P, A_extra, c_extra, times, y, k, k_extra, tape, theta, ts,
                          ys_step, position, control, rtol, atol, blocks, ends, numbers, marks, ys_bar, stop_bars,
                          ts_bar, clock_bar, y_bar, theta_bar, y1_bar, z, z_bar, k_bar, k_extra_bar, k_try,
                          tape_try, y_try, w, t_bar, h_bar):
    """Moves y_bar and clock_bar from the end to t0; adds to theta_bar, ts_bar, stop_bars. Implements (THR-15)."""
    method, path = Method(A, b, c, E, P, A_extra, c_extra), Path(times, y, k, k_extra, tape)
    tolerance, attempts = Tolerance(control, rtol, atol, blocks), Attempts(numbers, marks)
    work = Work(y1_bar, z, z_bar, k_bar, k_extra_bar, k_try, tape_try, y_try, w, t_bar, h_bar)
    for _ in range(position[SLICE]):
        a = position[ATTEMPT] - 1
        if a < 0:
            break
        t_bar[0], h_bar[0], k_bar[:] = 0.0, 0.0, 0.0
        if marks[a, OUTCOME] >= REJECTED_BY_ERROR:
            i, t_next_bar = position[STEP], 0.0
            pull_rejected(f, f_vjp, method, path, tolerance, attempts, a, i, theta, ts, clock_bar, y_bar, theta_bar,
                          work)
        else:
            i, t_next_bar = position[STEP] - 1, clock_bar[T]
            clock_bar[T] = 0.0
            pull_accepted(f, f_vjp, method, path, tolerance, attempts, a, i, theta, ts, ys_step, position, ys_bar,
                          ts_bar, clock_bar, y_bar, theta_bar, work)
            position[STEP] = i
        pull_size(attempts, a, times[i + 1] >= times[i], t_next_bar, t_bar, h_bar, clock_bar, stop_bars)
        position[ATTEMPT] = a
    if position[ATTEMPT] > 0:
        return RUNNING
    if position[AUTOMATIC] and times.shape[0] > 1:
        pull_first_step(f, f_vjp, path, tolerance, theta, ends, clock_bar, stop_bars, y_bar, theta_bar, work)
    return FINISHED


@host_device
def pull_size(attempts, a, ascending, t_next_bar, t_bar, h_bar, clock_bar, stop_bars):
    """The transpose of `push_size`, and of t_next = t + h. Implements (THR-16)."""
    length_bar = h_bar[0] + t_next_bar                          # t_next_tan = t_tan + h_tan
    clock_bar[T] += t_bar[0] + t_next_bar
    stop = attempts.marks[a, STOP]
    if stop >= 0:
        stop_bars[stop] += length_bar                           # h_tan = stop_tan - t_tan
        clock_bar[T] -= length_bar
    else:
        clock_bar[H] += length_bar if ascending else -length_bar        # h_tan = direction H_tan
    if not attempts.marks[a, FREE]:
        clock_bar[H] = 0.0


@higher_order
def pull_rejected(f, f_vjp, method, path, tolerance, attempts, a, i, theta, ts, clock_bar, y_bar, theta_bar, work):
    """The transpose of `push_rejected`: from the size of the next attempt to this one's h, y and theta."""
    h = attempted_length(attempts, a, path, i, ts)
    t, outcome, error = path.times[i], attempts.marks[a, OUTCOME], attempts.numbers[a, ERROR]
    size_bar = clock_bar[H]
    clock_bar[H] = 0.0
    by_taken, by_error = 0.5, 0.0
    if outcome == CUT_BY_FACTOR:
        by_taken = tolerance.control[FACTOR_MIN]
    elif outcome == REJECTED_BY_ERROR:
        by_taken, by_error = rejection_slopes(tolerance.control, error, abs(h))
    work.h_bar[0] = by_taken * (size_bar if h >= 0.0 else -size_bar)
    if by_error * size_bar == 0.0:
        return
    f(t, path.y[i], theta, work.tape_try[0], work.k_try[0])     # again the slopes of the attempt, with their tape
    explicit_rk_step(Plain(f), method.A, method.b, method.c, t, h, path.y[i], theta, work.tape_try, work.k_try,
                     work.z, work.y_try)
    work.y1_bar[:] = 0.0
    work.h_bar[0] += error_norm_vjp(
        method.E, h, work.k_try, path.y[i], work.y_try, tolerance.rtol, tolerance.atol, tolerance.blocks,
        by_error * size_bar, work.k_bar, y_bar, work.y1_bar)
    explicit_rk_step_vjp(f, f_vjp, method.A, method.b, method.c, t, h, path.y[i], theta, False, work.tape_try,
                         work.k_try, work.y_try, work.y1_bar, work.k_bar, work.z, work.z_bar, work.t_bar, work.h_bar,
                         y_bar, theta_bar)


@higher_order
def pull_accepted(f, f_vjp, method, path, tolerance, attempts, a, i, theta, ts, ys_step, position, ys_bar, ts_bar,
                  clock_bar, y_bar, theta_bar, work):
    """The transpose of `push_accepted`: controller, observations, step."""
    t, h, k_i, tape_i = stored_step(method, path, i, position[RECOMPUTE])
    copy_into(y_bar, work.y1_bar)
    y_bar[:] = 0.0
    if attempts.marks[a, OUTCOME] != GIVEN:
        error_bar = pull_controller(tolerance.control, attempts, a, h, clock_bar, work.h_bar)
        if error_bar != 0.0:
            work.h_bar[0] += error_norm_vjp(
                method.E, h, k_i, path.y[i], path.y[i + 1], tolerance.rtol, tolerance.atol, tolerance.blocks, error_bar,
                work.k_bar, y_bar, work.y1_bar)
    pull_moving_observations(f, f_vjp, method, path, i, t, h, k_i, theta, ts, ys_step, position, ys_bar, ts_bar, y_bar,
                             theta_bar, work)
    explicit_rk_step_vjp(f, f_vjp, method.A, method.b, method.c, t, h, path.y[i], theta, position[RECOMPUTE], tape_i,
                         k_i, path.y[i + 1], work.y1_bar, work.k_bar, work.z, work.z_bar, work.t_bar, work.h_bar, y_bar,
                         theta_bar)


@host_device
def pull_controller(control, attempts, a, h, clock_bar, h_bar):
    """The transpose of `push_controller`: adds to h_bar and clock_bar, and returns error_bar. Implements (THR-17)."""
    numbers, taken = attempts.numbers[a], abs(h)
    size_bar, error_bar = clock_bar[H], 0.0
    if numbers[ERROR] > ERROR_FLOOR:                            # ERROR_1 = max(error, ERROR_FLOOR)
        error_bar += clock_bar[ERROR_1]
    clock_bar[ERROR_1] = clock_bar[ERROR_2]                     # ERROR_2 = ERROR_1
    clock_bar[ERROR_2] = 0.0
    if larger_of(control, attempts, a, taken):
        by_taken, by_error, by_1, by_2 = next_size_slopes(
            control, numbers[ERROR], numbers[MEMORY_1], numbers[MEMORY_2], taken,
            attempts.marks[a, OUTCOME] == ACCEPTED_AFTER)
        h_bar[0] += by_taken * (size_bar if h >= 0.0 else -size_bar)
        error_bar += by_error * size_bar
        clock_bar[ERROR_1] += by_1 * size_bar
        clock_bar[ERROR_2] += by_2 * size_bar
        clock_bar[H] = 0.0
    return error_bar


@higher_order
def pull_moving_observations(f, f_vjp, method, path, i, t, h, k, theta, ts, ys_step, position, ys_bar, ts_bar, y_bar,
                             theta_bar, work):
    """The transpose of `push_moving_observations`. Implements (THR-18)."""
    inside, s = False, method.b.shape[0]
    while position[OBSERVATION] > 0 and ys_step[position[OBSERVATION] - 1] == i:
        j = position[OBSERVATION] - 1
        if ts[j] == path.times[i + 1]:
            for m in range(y_bar.shape[0]):
                work.y1_bar[m] += ys_bar[j, m]                  # ys_tan = y1_tan + (ts_tan - t_tan - h_tan) k_s
            pull_time(dot(ys_bar[j], k[s]), 1.0, j, ts_bar, work.t_bar, work.h_bar)
        else:
            if not inside:
                work.k_extra_bar[:] = 0.0
                inside = True
            sigma = (ts[j] - t) / h
            dense_output_vjp(method.P, sigma, h, ys_bar[j], work.w, work.k_bar, work.k_extra_bar, y_bar)
            sigma_bar, moved_bar = dense_motion_vjp(method.P, sigma, h, ys_bar[j], k, path.k_extra[i], work.w, work.z)
            work.h_bar[0] += moved_bar
            pull_time(sigma_bar / h, sigma, j, ts_bar, work.t_bar, work.h_bar)
        position[OBSERVATION] = j
    if inside:
        extra_slopes_vjp(f, f_vjp, method.A_extra, method.c_extra, t, h, path.y[i], theta,
                         path.tape[path.tape.shape[0] - 1], k, path.k_extra[i], work.k_extra_bar, work.z, work.z_bar,
                         work.t_bar, work.h_bar, work.k_bar, y_bar, theta_bar)


@host_device
def pull_time(bar, sigma, j, ts_bar, t_bar, h_bar):
    """The transpose of ts_tan - t_tan - sigma h_tan."""
    ts_bar[j] += bar
    t_bar[0] -= bar
    h_bar[0] -= sigma * bar


@higher_order
def pull_first_step(f, f_vjp, path, tolerance, theta, ends, clock_bar, stop_bars, y_bar, theta_bar, work):
    """The transpose of `push_first_step`."""
    f0_bar, t_bar = work.k_bar[0], work.t_bar
    f0_bar[:] = 0.0
    t_bar[0] = 0.0
    stop_bars[stop_bars.shape[0] - 1] += first_step_vjp(
        f, f_vjp, ends[0], ends[1], path.y[0], theta, work.tape_try[0], path.k[0], tolerance.control,
        tolerance.rtol, tolerance.atol, tolerance.blocks, clock_bar[H], work.y_try, work.k_try[0], work.y1_bar,
        work.z_bar, t_bar, y_bar, theta_bar, f0_bar)
    f(ends[0], path.y[0], theta, work.tape_try[0], work.k_try[0])
    f_vjp(ends[0], path.y[0], theta, work.tape_try[0], f0_bar, t_bar, y_bar, theta_bar)
    clock_bar[T] += t_bar[0]
    clock_bar[H] = 0.0


# --- the host's side ------------------------------------------------------------------------------

def pull_control(steps, seeds):
    """(y0_bar, theta_bar, t0_bar, t1_bar, ts_bar) from `Seeds`, through the control of `ControlledSteps`."""
    forward = steps.forward
    end_bar = float(seeds.y1_bar @ forward.k[forward.n_steps * forward.s])
    clock_bar = np.array([-end_bar, 0.0, 0.0, 0.0])             # y1_tan + (t1_tan - t_tan) k_end
    y_bar, theta_bar = seeds.y1_bar.copy(), np.zeros(forward.theta.size)
    stop_bars, ts_bar = np.zeros(steps.n_stops), np.zeros(forward.ts.size)
    position = steps.position(forward.n_steps, forward.ts.size, steps.n_attempts)
    (y1_bar, z, z_bar), (k_bar, k_extra_bar) = steps.vectors, steps.matrices
    steps.sweep(through_adjoint, "vjp", (
        *steps.shared(position), seeds.ys_bar, stop_bars, ts_bar, clock_bar, y_bar, theta_bar, y1_bar, z, z_bar,
        k_bar, k_extra_bar, steps.k_try, steps.tape_try, steps.y_try, forward.storage.w, np.zeros(1),
        np.zeros(1)), position)
    for j in range(position[OBSERVATION]):                      # what is left was observed at t0
        observation_jump(y_bar, seeds.ys_bar[j])
        ts_bar[j] += seeds.ys_bar[j] @ forward.k[0]
        clock_bar[T] -= seeds.ys_bar[j] @ forward.k[0]
    shares = steps.stop_shares()
    if shares is None:
        return y_bar, theta_bar, clock_bar[T], end_bar + stop_bars[-1], ts_bar + stop_bars[:-1]
    return y_bar, theta_bar, clock_bar[T] + (1.0 - shares) @ stop_bars, end_bar + shares @ stop_bars, ts_bar


def pull_through(problem, recipe, options, own, seeds_of):
    """The transpose of the whole adaptive program: `Cotangents`, and the solve."""
    forward = solved(problem, options, keep=True, keep_tape=True)
    seeds = seeds_of(forward)
    bars = pull_control(ControlledSteps(forward), seeds)
    forward.give_back()
    return through_cotangents(problem, forward, seeds, *bars), forward
