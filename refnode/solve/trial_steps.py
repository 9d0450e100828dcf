"""One sample's solve, decision by decision: `integrate` without its calls of f, for samples whose slopes are evaluated together.

`integrate` calls f in the middle of its loop. Where many samples are evaluated at once (`perceptron_cuda`) somebody else
has that loop: it asks every sample where its next trial ends, evaluates the slopes of all, and tells every sample to judge
its own. The norms and the factors are those of `step_size`, the order of the decisions is that of `integrate`.
"""
import math

import numpy as np

from refnode.host_device import host_device
from refnode.linalg import copy_into, first_non_finite, is_finite
from refnode.solve.equal_steps import given_time
from refnode.solve.integrate import (
    COMPONENT, EVALUATIONS, FINISHED, FULL, H, KEEP, MAX_HALVINGS, MAX_STEPS, MAX_STEPS_REACHED, NON_FINITE, REJECTED, RUNNING,
    SEEN, STEP_TOO_SMALL, STEPS, STIFF, STOP_AT_TS, T, T_END, is_stiff, next_size, non_finite_component)
from refnode.solve.step_size import (
    FACTOR_MIN, H_MAX, error_estimates, error_norm, first_guess, first_size, rejection_factor, scaled_norm)
from refnode.steppers.explicit_rk import dense_output

SIZE, T_NEXT, REJECTIONS, HALVINGS = range(4)      # trial: of the step at hand
ACCEPTED = 4                                       # what a trial can be, beside a status


# --- the start ------------------------------------------------------------------------------------

@host_device
def start_solve(y, slope, ts, clock, count, ys, ys_step):
    """`start` after the first slope: the observations at t0, and a status."""
    count[EVALUATIONS] = 1
    while count[SEEN] < ts.shape[0] and ts[count[SEEN]] == clock[T]:
        copy_into(y, ys[count[SEEN]])
        ys_step[count[SEEN]] = -1
        count[SEEN] += 1
    count[COMPONENT] = first_non_finite(slope)
    return NON_FINITE if count[COMPONENT] >= 0 else RUNNING


@host_device
def wants_first_size(grid, clock):
    """Whether somebody must choose the first step."""
    return clock[T_END] != clock[T] and grid.shape[0] == 0 and clock[H] == 0.0


@host_device
def first_guess_of(rtol, atol, blocks, y, slope, clock):
    """The signed step, h0 of `first_guess`, after which `first_step` takes its second slope."""
    _, _, size = first_guess(abs(clock[T_END] - clock[T]), y, slope, rtol, atol, blocks)
    return size if clock[T_END] >= clock[T] else -size


@host_device
def choose_first_size(control, rtol, atol, blocks, y, slope, slope_1, clock, count):
    """`first_step` after its second slope, which is overwritten: clock[H]."""
    count[EVALUATIONS] += 1
    length = abs(clock[T_END] - clock[T])
    _, d1, size = first_guess(length, y, slope, rtol, atol, blocks)
    if size > 0.0:
        for m in range(slope.shape[0]):
            slope_1[m] -= slope[m]
        clock[H] = first_size(control, length, size, d1, scaled_norm(slope_1, y, y, rtol, atol, blocks) / size)


# --- a step ---------------------------------------------------------------------------------------

@host_device
def aim_trial(control, grid, limits, room, ts, clock, count, trial):
    """Where the next trial ends: trial[T_NEXT]. Returns RUNNING, or the status that ends the solve.

    ``room`` is the number of steps that can be kept.
    """
    begins = trial[REJECTIONS] == 0.0
    if begins:
        if clock[T] == clock[T_END]:
            return FINISHED
        if count[STEPS] >= limits[MAX_STEPS]:
            return MAX_STEPS_REACHED
        if limits[KEEP] and count[STEPS] >= room:
            return FULL
    if grid.shape[0] > 0:
        trial[T_NEXT] = given_time(grid, count[STEPS] + 1)
        return RUNNING
    t, target = clock[T], next_target(limits, ts, clock, count)
    direction = 1.0 if target >= t else -1.0
    smallest = 10.0 * abs(math.nextafter(t, direction * np.inf) - t)
    if begins:
        trial[SIZE], trial[HALVINGS] = min(max(clock[H], smallest), control[H_MAX]), 0.0
    if trial[SIZE] < smallest:
        clock[H] = trial[SIZE]
        return NON_FINITE if trial[HALVINGS] > 0.0 else STEP_TOO_SMALL
    trial[T_NEXT] = target if passes(t, trial[SIZE], target) else t + direction * trial[SIZE]
    return RUNNING


@host_device
def next_target(limits, ts, clock, count):
    """The time that no step is to pass."""
    return ts[count[SEEN]] if limits[STOP_AT_TS] and count[SEEN] < ts.shape[0] else clock[T_END]


@host_device
def passes(t, size, target):
    """Whether a step of that size would pass the target, and so is cut short."""
    direction = 1.0 if target >= t else -1.0
    return direction * (t + direction * size - target) > 0.0


@host_device
def judge_trial(control, E, rtol, atol, blocks, grid, limits, ts, y, y1, k, clock, count, trial):
    """What becomes of the trial: ACCEPTED; RUNNING, with a smaller one to follow; or the status that ends the solve."""
    last = k[k.shape[0] - 1]
    count[EVALUATIONS] += k.shape[0] - 1
    if grid.shape[0] > 0:
        count[COMPONENT] = non_finite_component(last, y1)
        return NON_FINITE if count[COMPONENT] >= 0 else ACCEPTED
    error = error_norm(E, trial[T_NEXT] - clock[T], k, y, y1, rtol, atol, blocks)
    failed = -1 if is_finite(error) else non_finite_component(last, y1)
    return judge_error(control, error, failed, limits, ts, clock, count, trial)


@host_device
def judge_error(control, error, failed, limits, ts, clock, count, trial):
    """The same from the error norm; ``failed`` is the component in which the step is not finite, or -1."""
    taken = trial[T_NEXT] - clock[T]
    if error < 1.0:
        size = next_size(control, clock, error, abs(taken), trial[REJECTIONS] > 0.0)
        cut = passes(clock[T], trial[SIZE], next_target(limits, ts, clock, count))
        clock[H] = max(size, trial[SIZE]) if cut else size
        trial[REJECTIONS] = 0.0
        return ACCEPTED
    trial[REJECTIONS] += 1.0
    count[REJECTED] += 1
    if is_finite(error):
        trial[SIZE] = abs(taken) * rejection_factor(control, error)
        return RUNNING
    count[COMPONENT] = failed
    if failed < 0:                                      # the norm overflowed, the slopes did not
        trial[SIZE] = abs(taken) * control[FACTOR_MIN]
        return RUNNING
    trial[HALVINGS] += 1.0
    trial[SIZE] = 0.5 * abs(taken)
    if trial[HALVINGS] > MAX_HALVINGS:
        clock[H] = trial[SIZE]
        return NON_FINITE
    return RUNNING


@host_device
def record_step(c, P, ts, y, y1, z, k, w, clock, count, trial, ys, ys_step):
    """`accept` for methods whose interpolant needs no further slopes: observations, clock and counts. z is the last stage."""
    if is_stiff(c, trial[T_NEXT] - clock[T], y1, z, k):
        count[STIFF] += 1
    move_on(P, ts, y, y1, k, w, clock, count, trial, ys, ys_step)


@host_device
def move_on(P, ts, y, y1, k, w, clock, count, trial, ys, ys_step):
    """The observations inside an accepted step, clock and counts. y, y1 and k are read where `reaches_observation` alone."""
    t, t_next = clock[T], trial[T_NEXT]
    taken = t_next - t
    while reaches_observation(ts, clock, count, trial):
        j = count[SEEN]
        if ts[j] == t_next:
            copy_into(y1, ys[j])
        else:
            dense_output(P, (ts[j] - t) / taken, taken, y, k, k[:0], w, ys[j])
        ys_step[j] = count[STEPS]
        count[SEEN] += 1
    clock[T] = t_next
    count[STEPS] += 1


@host_device
def reaches_observation(ts, clock, count, trial):
    """Whether the next observation lies inside the trial, or at its end."""
    direction = 1.0 if trial[T_NEXT] >= clock[T] else -1.0
    return count[SEEN] < ts.shape[0] and direction * (ts[count[SEEN]] - trial[T_NEXT]) <= 0.0


# --- one step for many samples --------------------------------------------------------------------

@host_device
def squared_errors(E, h, k, y, y1, rtol, atol):
    """Of one sample: the sums over components of the squares of its two error estimates, see `error_norm`."""
    first, second = 0.0 * h, 0.0 * h
    for m in range(y.shape[0]):
        r5, r3 = error_estimates(E, h, k, atol[m] + rtol[m] * max(abs(y[m]), abs(y1[m])), m)
        first += r5 * r5 + 0.0 * y1[m]
        second += r3 * r3
    return first, second


@host_device
def joint_error(first, second, entries):
    """`error_norm` over the entries of all samples, from the sums of theirs."""
    return first / np.sqrt((first + 0.01 * second) * entries) if first != 0.0 else 0.0
