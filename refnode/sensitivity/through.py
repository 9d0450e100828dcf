"""The derivative of the adaptive program as it is coded, forwards: its error control is differentiated too.

Step sizes are functions of the inputs here. The error norm of every attempt, the controller with its memory,
rejected attempts, the automatic first step, steps cut at a stop, and moving dense output carry tangents.
Comparisons are not differentiated: the derivative is that of the branches the program took.
"""
import collections
import warnings

import numpy as np
from numba import types

from refnode.errors import GradientWarning
from refnode.host_device import MATRIX, RHS, RHS_JVP, VECTOR, driver, higher_order, host_device
from refnode.linalg import copy_into
from refnode.sensitivity.attempts import (
    ACCEPTED_AFTER, ATTEMPT, ATTEMPT_TYPES, AUTOMATIC, CUT_BY_FACTOR, ERROR, FREE, GIVEN, HALVED, MEMORY_1,
    MEMORY_2, OUTCOME, REJECTED_BY_ERROR, SIZE, STOP, Attempts, ControlledSteps)
from refnode.sensitivity.cotangents import Cotangents, forward_stats, growth_of
from refnode.sensitivity.discrete_adjoint import OBSERVATION, RECOMPUTE, SLICE, STEP, STORED_TYPES, stored_step
from refnode.sensitivity.forward_solve import solved
from refnode.solve.integrate import ERROR_1, ERROR_2, FINISHED, RUNNING, H, Method, Path, T, Tolerance
from refnode.solve.step_size import (
    ERROR_FLOOR, FACTOR_MIN, error_norm_jvp, first_step_jvp, next_size_slopes, rejection_slopes, step_factor)
from refnode.steppers.explicit_rk import (
    dense_motion_jvp, dense_output, explicit_rk_step_jvp, extra_slopes_jvp)

PUSH_TYPES = types.Tuple((
    *STORED_TYPES, *ATTEMPT_TYPES,
    VECTOR, VECTOR, VECTOR, VECTOR, VECTOR,              # stop_tans, ts_tan, clock_tan, theta_tan, y_tan
    VECTOR, VECTOR, VECTOR, MATRIX, MATRIX,              # y1_tan, z, z_tan, k_tan, k_extra_tan
    MATRIX, MATRIX, VECTOR, MATRIX))                     # k_try, tape_try, w, ys_tan

Work = collections.namedtuple("Work", ["y1_tan", "z", "z_tan", "k_tan", "k_extra_tan", "k_try", "tape_try", "w"])


@driver(RHS, RHS_JVP, PUSH_TYPES)
def through_tangent(f, f_jvp, arguments):
    """Push one tangent through the attempts of a solve; see `push_through_attempts`."""
    return push_through_attempts(f, f_jvp, *arguments)


@higher_order
def push_through_attempts(f, f_jvp, A, b, c, E, P, A_extra, c_extra, times, y, k, k_extra, tape, theta, ts,
                          ys_step, position, control, rtol, atol, blocks, ends, numbers, marks, stop_tans,
                          ts_tan, clock_tan, theta_tan, y_tan, y1_tan, z, z_tan, k_tan, k_extra_tan, k_try,
                          tape_try, w, ys_tan):
    """Moves y_tan and clock_tan (of time, size, two errors) from t0 to the end; overwrites ys_tan. Implements (THR-11)."""
    method, path = Method(A, b, c, E, P, A_extra, c_extra), Path(times, y, k, k_extra, tape)
    tolerance, attempts = Tolerance(control, rtol, atol, blocks), Attempts(numbers, marks)
    work = Work(y1_tan, z, z_tan, k_tan, k_extra_tan, k_try, tape_try, w)
    if position[ATTEMPT] == 0 and position[AUTOMATIC]:
        clock_tan[H] = push_first_step(f, f_jvp, path, tolerance, theta, ends, clock_tan, stop_tans, theta_tan,
                                       y_tan, work)
    for _ in range(position[SLICE]):
        a, i = position[ATTEMPT], position[STEP]
        if i == times.shape[0] - 1:
            return FINISHED
        h_tan = push_size(attempts, a, times[i + 1] >= times[i], clock_tan, stop_tans)
        if marks[a, OUTCOME] >= REJECTED_BY_ERROR:
            push_rejected(f, f_jvp, method, path, tolerance, attempts, a, i, theta, ts, h_tan, clock_tan, theta_tan,
                          y_tan, work)
        else:
            push_accepted(f, f_jvp, method, path, tolerance, attempts, a, i, theta, ts, ys_step, position, h_tan,
                          clock_tan, ts_tan, theta_tan, y_tan, work, ys_tan)
            position[STEP] = i + 1
        position[ATTEMPT] = a + 1
    return RUNNING


@higher_order
def push_first_step(f, f_jvp, path, tolerance, theta, ends, clock_tan, stop_tans, theta_tan, y_tan, work):
    """The tangent of the automatic first step."""
    f0_tan, t1_tan = work.k_tan[0], stop_tans[stop_tans.shape[0] - 1]
    f(ends[0], path.y[0], theta, work.tape_try[0], work.k_try[0])
    f_jvp(ends[0], path.y[0], theta, clock_tan[T], y_tan, theta_tan, work.tape_try[0], f0_tan)
    return first_step_jvp(
        f, f_jvp, ends[0], ends[1], path.y[0], theta, work.tape_try[0], path.k[0], tolerance.control,
        tolerance.rtol, tolerance.atol, tolerance.blocks, clock_tan[T], t1_tan, y_tan, theta_tan, f0_tan,
        work.z, work.k_try[0], work.z_tan, work.y1_tan)


@host_device
def push_size(attempts, a, ascending, clock_tan, stop_tans):
    """h_tan of attempt a: the size to try moves it, unless a bound or a stop holds it. Implements (THR-12)."""
    if not attempts.marks[a, FREE]:
        clock_tan[H] = 0.0                                      # size = min(max(H, smallest), H_MAX)
    stop = attempts.marks[a, STOP]
    if stop >= 0:
        return stop_tans[stop] - clock_tan[T]                   # h = stop - t
    return clock_tan[H] if ascending else -clock_tan[H]         # h = direction size


@host_device
def attempted_length(attempts, a, path, i, ts):
    """h of attempt a of step i: to the stop that cut it, or of the size tried."""
    t, stop = path.times[i], attempts.marks[a, STOP]
    if stop >= 0:
        return (ts[stop] if stop < ts.shape[0] else path.times[path.times.shape[0] - 1]) - t
    direction = 1.0 if path.times[i + 1] >= t else -1.0
    return (t + direction * attempts.numbers[a, SIZE]) - t


@higher_order
def push_rejected(f, f_jvp, method, path, tolerance, attempts, a, i, theta, ts, h_tan, clock_tan, theta_tan, y_tan,
                  work):
    """The size after a rejected attempt, |h| factor(error)."""
    h = attempted_length(attempts, a, path, i, ts)
    taken_tan = h_tan if h >= 0.0 else -h_tan
    outcome, error = attempts.marks[a, OUTCOME], attempts.numbers[a, ERROR]
    if outcome == HALVED:
        clock_tan[H] = 0.5 * taken_tan
        return
    by_taken, by_error = tolerance.control[FACTOR_MIN], 0.0
    if outcome == REJECTED_BY_ERROR:
        by_taken, by_error = rejection_slopes(tolerance.control, error, abs(h))
    clock_tan[H] = by_taken * taken_tan
    if by_error != 0.0:
        explicit_rk_step_jvp(
            f, f_jvp, method.A, method.b, method.c, path.times[i], h, path.y[i], theta, clock_tan[T], h_tan, y_tan,
            theta_tan, True, work.tape_try, work.k_try, work.z, work.z_tan, work.k_tan, work.y1_tan)
        clock_tan[H] += by_error * error_norm_jvp(
            method.E, h, work.k_try, path.y[i], work.z, tolerance.rtol, tolerance.atol, tolerance.blocks, h_tan,
            work.k_tan, y_tan, work.y1_tan)                     # z is y1: the last state of the step


@higher_order
def push_accepted(f, f_jvp, method, path, tolerance, attempts, a, i, theta, ts, ys_step, position, h_tan, clock_tan,
                  ts_tan, theta_tan, y_tan, work, ys_tan):
    """An accepted step, its observations, and what its error does to the controller."""
    t, h, k_i, tape_i = stored_step(method, path, i, position[RECOMPUTE])
    explicit_rk_step_jvp(
        f, f_jvp, method.A, method.b, method.c, t, h, path.y[i], theta, clock_tan[T], h_tan, y_tan, theta_tan,
        position[RECOMPUTE], tape_i, k_i, work.z, work.z_tan, work.k_tan, work.y1_tan)
    push_moving_observations(f, f_jvp, method, path, i, t, h, k_i, theta, ts, ys_step, position, clock_tan[T], h_tan,
                             ts_tan, theta_tan, y_tan, work, ys_tan)
    if attempts.marks[a, OUTCOME] != GIVEN:
        error_tan = error_norm_jvp(method.E, h, k_i, path.y[i], path.y[i + 1], tolerance.rtol, tolerance.atol,
                                   tolerance.blocks, h_tan, work.k_tan, y_tan, work.y1_tan)
        push_controller(tolerance.control, attempts, a, h, h_tan, error_tan, clock_tan)
    clock_tan[T] += h_tan
    copy_into(work.y1_tan, y_tan)


@host_device
def larger_of(control, attempts, a, taken):
    """Whether the size after an accepted attempt is the controller's, and not the one cut short to hit a stop."""
    numbers = attempts.numbers[a]
    factor = step_factor(control, numbers[ERROR], numbers[MEMORY_1], numbers[MEMORY_2])
    if attempts.marks[a, OUTCOME] == ACCEPTED_AFTER:
        factor = min(1.0, factor)
    return attempts.marks[a, STOP] < 0 or taken * factor >= numbers[SIZE]


@host_device
def push_controller(control, attempts, a, h, h_tan, error_tan, clock_tan):
    """The next size and the remembered errors. Implements (THR-13)."""
    numbers, taken = attempts.numbers[a], abs(h)
    if larger_of(control, attempts, a, taken):                  # H = max(next, size) where a stop cut the step
        by_taken, by_error, by_1, by_2 = next_size_slopes(
            control, numbers[ERROR], numbers[MEMORY_1], numbers[MEMORY_2], taken,
            attempts.marks[a, OUTCOME] == ACCEPTED_AFTER)
        clock_tan[H] = by_taken * (h_tan if h >= 0.0 else -h_tan) + by_1 * clock_tan[ERROR_1] + by_2 * clock_tan[ERROR_2]
        if by_error != 0.0:
            clock_tan[H] += by_error * error_tan
    clock_tan[ERROR_2] = clock_tan[ERROR_1]
    clock_tan[ERROR_1] = error_tan if numbers[ERROR] > ERROR_FLOOR else 0.0


@higher_order
def push_moving_observations(f, f_jvp, method, path, i, t, h, k, theta, ts, ys_step, position, t_tan, h_tan, ts_tan,
                             theta_tan, y_tan, work, ys_tan):
    """Tangents of the observations inside step i, whose place sigma = (ts - t) / h moves. Implements (THR-14)."""
    scratch, s = path.tape[path.tape.shape[0] - 1], method.b.shape[0]
    have_extra = False
    while position[OBSERVATION] < ts.shape[0] and ys_step[position[OBSERVATION]] == i:
        j = position[OBSERVATION]
        if ts[j] == path.times[i + 1]:
            for m in range(y_tan.shape[0]):                     # the limit of dense output at sigma = 1
                ys_tan[j, m] = work.y1_tan[m] + (ts_tan[j] - t_tan - h_tan) * k[s, m]
        else:
            if not have_extra:
                extra_slopes_jvp(f, f_jvp, method.A_extra, method.c_extra, t, h, path.y[i], theta, t_tan, h_tan, y_tan,
                                 theta_tan, scratch, k, path.k_extra[i], work.k_tan, work.z, work.z_tan,
                                 work.k_extra_tan)
                have_extra = True
            sigma = (ts[j] - t) / h
            dense_output(method.P, sigma, h, y_tan, work.k_tan, work.k_extra_tan, work.w, ys_tan[j])
            dense_motion_jvp(method.P, sigma, h, (ts_tan[j] - t_tan - sigma * h_tan) / h, h_tan, k,
                             path.k_extra[i], work.w, work.z, ys_tan[j])
        position[OBSERVATION] += 1


# --- the host's side ------------------------------------------------------------------------------

def push_control(steps, y0_tan, theta_tan, t0_tan, t1_tan, ts_tan):
    """The tangent of y(ts) (K, n) and of y(t1) (n,), through the control of `ControlledSteps`."""
    forward = steps.forward
    shares = steps.stop_shares()
    stop_tans = np.append(ts_tan, t1_tan) if shares is None else (1.0 - shares) * t0_tan + shares * t1_tan
    clock_tan = np.array([t0_tan, 0.0, 0.0, 0.0])
    y_tan, ys_tan = np.array(y0_tan, dtype=np.float64), np.empty((forward.ts.size, forward.n))
    at_start = int(np.count_nonzero(forward.ys_step == -1))
    ys_tan[:at_start] = y_tan + np.multiply.outer(ts_tan[:at_start] - t0_tan, forward.k[0])
    position = steps.position(0, at_start)
    (y1_tan, z, z_tan), (k_tan, k_extra_tan) = steps.vectors, steps.matrices
    steps.sweep(through_tangent, "jvp", (
        *steps.shared(position), stop_tans, np.ascontiguousarray(ts_tan), clock_tan,
        np.ascontiguousarray(theta_tan), y_tan, y1_tan, z, z_tan, k_tan, k_extra_tan, steps.k_try, steps.tape_try,
        forward.storage.w, ys_tan), position)
    return ys_tan, y_tan + (t1_tan - clock_tan[T]) * forward.k[forward.n_steps * forward.s]


def through_tangent_of(problem, options, y0_tan, theta_tan, t0_tan, t1_tan, ts_tan):
    """The tangent of y(ts), shape (K, n), for one direction of all inputs."""
    steps = ControlledSteps(solved(problem, options, keep=True))
    return push_control(steps, y0_tan, theta_tan, t0_tan, t1_tan, ts_tan)[0]


def pull_by_through_tangents(problem, recipe, options, own, seeds_of):
    """Cotangents from the tangents in every direction of y0, theta, t0, t1 and ts, contracted with the seeds."""
    forward = solved(problem, options, keep=True)
    seeds, steps = seeds_of(forward), ControlledSteps(forward)
    sizes = np.cumsum([problem.flow_y0.size, problem.theta.size, 1, 1])
    bars = []
    for direction in np.eye(sizes[-1] + problem.ts.size):
        y0_tan, theta_tan, t0_tan, t1_tan, ts_tan = np.split(direction, sizes)
        ys_tan, y1_tan = push_control(steps, y0_tan, theta_tan, t0_tan[0], t1_tan[0], ts_tan)
        bars.append(np.sum(seeds.ys_bar * ys_tan) + seeds.y1_bar @ y1_tan)
    y0_bar, theta_bar, t0_bar, t1_bar, ts_bar = np.split(np.array(bars), sizes)
    return through_cotangents(problem, forward, seeds, y0_bar, theta_bar, t0_bar[0], t1_bar[0], ts_bar), forward


def through_cotangents(problem, forward, seeds, y0_bar, theta_bar, t0_bar, t1_bar, ts_bar):
    """`Cotangents` of the whole program: a problem that observes t1 itself gives that observation's share to t1."""
    if not np.all(np.isfinite(np.concatenate([y0_bar, theta_bar, [t0_bar, t1_bar], ts_bar]))):
        warnings.warn("the derivative through the step control is not finite: somewhere a size or an error changes by more "
                      "than floating-point numbers hold; truth='frozen' does not need its slope", GradientWarning,
                      stacklevel=5)
    if problem.ts_is_t1:
        t1_bar, ts_bar = t1_bar + ts_bar[0], np.empty(0)
    return Cotangents(y0=y0_bar[:problem.y0.size].copy(), theta=theta_bar, t0=float(t0_bar), t1=float(t1_bar),
                      ts=ts_bar, stats={**forward_stats(forward), "growth": growth_of(problem, forward, seeds, y0_bar)})
