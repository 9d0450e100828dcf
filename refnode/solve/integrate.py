"""The loop over steps: one body for adaptive steps and for a given grid, for every kind of system.

A driver returns after at most ``limits[SLICE]`` steps, so that the host can grow the storage, look for
events, and see Ctrl-C; everything it needs to go on lies in ``clock`` and ``counts``.
"""
import collections
import math

import numpy as np
from numba import types
from numba.extending import overload

from refnode.host_device import (
    BLOCK, BODY, INTEGERS, MATRIX, RHS, VECTOR, disjoint_driver, higher_order, host_device, python_form, short)
from refnode.linalg import copy_into, first_non_finite, is_finite
from refnode.precision import SingleDriver, argument_names
from refnode.solve.equal_steps import given_time
from refnode.solve.step_size import (
    ERROR_FLOOR, FACTOR_MIN, H_MAX, error_norm, first_step, rejection_factor, step_factor)
from refnode.steppers.explicit_rk import dense_output, explicit_rk_step, extra_slopes
from refnode.steppers.system import Plain, evaluate

# status, as in SciPy where SciPy has one; RUNNING and FULL never leave this package
FINISHED, EVENT, RUNNING, FULL = 0, 1, 2, 3
STEP_TOO_SMALL, MAX_STEPS_REACHED, NON_FINITE = -1, -2, -3

T, H, ERROR_1, ERROR_2, T_END = range(5)                                            # clock
STEPS, REJECTED, EVALUATIONS, SEEN, STIFF, COMPONENT = range(6)                     # counts
MAX_STEPS, SLICE, KEEP, KEEP_TAPE, DENSE, STOP_AT_TS = range(6)                     # limits

MAX_HALVINGS = 10            # of a step whose slopes are not finite
STIFFNESS_BOUND = 3.25       # |h lambda| on the boundary of stability of order-5 methods (Hairer & Wanner, IV.2)

Method = collections.namedtuple("Method", ["A", "b", "c", "E", "P", "A_extra", "c_extra"])
Tolerance = collections.namedtuple("Tolerance", ["control", "rtol", "atol", "blocks"])
Path = collections.namedtuple("Path", ["times", "y", "k", "k_extra", "tape"])
Outputs = collections.namedtuple("Outputs", ["ts", "ys", "ys_step"])

INTEGRATE_TYPES = types.Tuple((
    MATRIX, VECTOR, VECTOR, MATRIX, MATRIX, MATRIX, VECTOR,      # A, b, c, E, P, A_extra, c_extra
    VECTOR, VECTOR, VECTOR, INTEGERS,                            # control, rtol, atol, blocks
    VECTOR, INTEGERS, VECTOR,                                    # grid, limits, theta
    VECTOR, INTEGERS,                                            # clock, counts
    VECTOR, MATRIX, MATRIX, BLOCK, MATRIX,                       # times, y, k, k_extra, tape
    VECTOR, MATRIX, INTEGERS,                                    # ts, ys, ys_step
    VECTOR, VECTOR))                                             # z, w


@disjoint_driver(RHS, INTEGRATE_TYPES)
def integrate_field(f, arguments):
    """Integrate dy/dt = f(t, y, theta); see `integrate`."""
    return integrate(Plain(f), *arguments)


@higher_order
def integrate(f, A, b, c, E, P, A_extra, c_extra, control, rtol, atol, blocks, grid, limits, theta,
              clock, counts, times, y, k, k_extra, tape, ts, ys, ys_step, z, w):
    """Advance from clock[T] towards clock[T_END] by at most limits[SLICE] steps; returns a status.

    Step i of s stages has its state in y[i], its slopes in k[i s : (i + 1) s + 1] (the last is the first
    of the next step), its further slopes in k_extra[i]; without KEEP only step 0 is stored. Observation
    j of ``ts`` goes to ys[j], and the step it fell into to ys_step[j] (-1: at t0). A non-empty ``grid``
    gives the times of all steps, or their rule (`equal_steps`); otherwise error control chooses them.
    """
    method = Method(A, b, c, E, P, A_extra, c_extra)
    tolerance = Tolerance(control, rtol, atol, blocks)
    path = Path(times, y, k, k_extra, tape)
    outputs = Outputs(ts, ys, ys_step)
    if counts[EVALUATIONS] == 0:
        status = start(f, tolerance, grid, theta, clock, counts, path, outputs)
        if status != RUNNING:
            return status
    for _ in range(limits[SLICE]):
        if clock[T] == clock[T_END]:
            return FINISHED
        if counts[STEPS] >= limits[MAX_STEPS]:
            return MAX_STEPS_REACHED
        if limits[KEEP] and counts[STEPS] + 1 >= times.shape[0]:
            return FULL
        status = advance(f, method, tolerance, grid, limits, theta, clock, counts, path, outputs, z, w)
        if status != RUNNING:
            return status
    return FINISHED if clock[T] == clock[T_END] else RUNNING


integrate_field.single = SingleDriver(integrate_field, argument_names(integrate, 1))
integrate_field.is_short = short(argument_names(integrate, 1), "y", "ts")


@higher_order
def start(f, tolerance, grid, theta, clock, counts, path, outputs):
    """The first slope, the observations at t0, and the first step size unless clock[H] gives one."""
    t = clock[T]
    evaluate(f, t, path.y[0], theta, path.tape[0], path.k[0])
    path.times[0] = t
    counts[EVALUATIONS] = 1
    while counts[SEEN] < outputs.ts.shape[0] and outputs.ts[counts[SEEN]] == t:
        copy_into(path.y[0], outputs.ys[counts[SEEN]])
        outputs.ys_step[counts[SEEN]] = -1
        counts[SEEN] += 1
    counts[COMPONENT] = first_non_finite(path.k[0])
    if counts[COMPONENT] >= 0:
        return NON_FINITE
    if clock[T_END] != t and grid.shape[0] == 0 and clock[H] == 0.0:
        clock[H] = first_step(
            f, t, clock[T_END], path.y[0], theta, path.tape[1], path.k[0], tolerance.control,
            tolerance.rtol, tolerance.atol, tolerance.blocks, path.y[1], path.k[1])
        counts[EVALUATIONS] += 1
    return RUNNING


@higher_order
def advance(f, method, tolerance, grid, limits, theta, clock, counts, path, outputs, z, w):
    """One accepted step, or the status that prevents it."""
    i = counts[STEPS] if limits[KEEP] else 0
    first = i * method.b.shape[0]
    k = path.k[first:first + method.b.shape[0] + 1]
    tape = path.tape[first:] if limits[KEEP_TAPE] else path.tape
    t = clock[T]
    if grid.shape[0] > 0:
        t_next = given_time(grid, counts[STEPS] + 1)
        status = given_step(f, method, t, t_next - t, theta, counts, path.y[i], path.y[i + 1], k, tape, z)
    else:
        target = clock[T_END]
        if limits[STOP_AT_TS] and counts[SEEN] < outputs.ts.shape[0]:
            target = outputs.ts[counts[SEEN]]
        status, t_next = controlled_step(f, method, tolerance, t, target, theta, clock, counts,
                                         path.y[i], path.y[i + 1], k, tape, z)
    if status != RUNNING:
        return status
    if is_stiff(method.c, t_next - t, path.y[i + 1], z, k):
        counts[STIFF] += 1
    accept(f, method, i, t, t_next, limits, theta, clock, counts, path, k, tape, outputs, z, w)
    return RUNNING


@higher_order
def given_step(f, method, t, h, theta, counts, y, y1, k, tape, z):
    """A step of given length h."""
    explicit_rk_step(f, method.A, method.b, method.c, t, h, y, theta, tape, k, z, y1)
    counts[EVALUATIONS] += method.b.shape[0]
    counts[COMPONENT] = non_finite_component(k[method.b.shape[0]], y1)
    return NON_FINITE if counts[COMPONENT] >= 0 else RUNNING


@host_device
def non_finite_component(slope, y1):
    """The component in which a step failed, or -1: a NaN in an inner stage may reach y1 alone."""
    component = first_non_finite(slope)
    return component if component >= 0 else first_non_finite(y1)


@higher_order
def controlled_step(f, method, tolerance, t, target, theta, clock, counts, y, y1, k, tape, z):
    """Try steps from t towards ``target``, shortening them, until the error norm is below 1.

    Returns the status and the time reached. clock[H] is the size (> 0) to try, and afterwards the size
    to try next; a step cut short to hit ``target`` does not lower it.
    """
    control = tolerance.control
    direction = 1.0 if target >= t else -1.0
    smallest = 10.0 * abs(math.nextafter(t, direction * np.inf) - t)
    size = min(max(clock[H], smallest), control[H_MAX])
    rejected, halvings = False, 0
    while True:
        if size < smallest:
            clock[H] = size
            return NON_FINITE if halvings > 0 else STEP_TOO_SMALL, t
        t_next = t + direction * size
        cut = direction * (t_next - target) > 0.0
        if cut:
            t_next = target
        h = t_next - t
        error = attempt(f, method, tolerance, t, h, y, theta, counts, y1, k, tape, z)
        if error < 1.0:
            size_next = next_size(control, clock, error, abs(h), rejected)
            clock[H] = max(size_next, size) if cut else size_next
            return RUNNING, t_next
        rejected = True
        counts[REJECTED] += 1
        if is_finite(error):
            size = abs(h) * rejection_factor(control, error)
            continue
        counts[COMPONENT] = non_finite_component(k[method.b.shape[0]], y1)
        if counts[COMPONENT] < 0:                       # the norm overflowed, the slopes did not
            size = abs(h) * control[FACTOR_MIN]
            continue
        halvings += 1
        size = 0.5 * abs(h)
        if halvings > MAX_HALVINGS:
            clock[H] = size
            return NON_FINITE, t


@higher_order
def step_and_test(f, method, tolerance, t, h, y, theta, counts, y1, k, tape, z):
    """A step of length h of the whole state at once; returns its error norm."""
    explicit_rk_step(f, method.A, method.b, method.c, t, h, y, theta, tape, k, z, y1)
    counts[EVALUATIONS] += method.b.shape[0]
    return error_norm(method.E, h, k, y, y1, tolerance.rtol, tolerance.atol, tolerance.blocks)


ATTEMPTS = {}                # type of a system -> its own body for a trial step, in place of `step_and_test`


def attempt_of(system):
    """Decorator: register a body for a trial step of a named-tuple type, as `right_hand_side_of` does for its slope."""
    def register(body):
        ATTEMPTS[system] = higher_order(body)
        return ATTEMPTS[system]
    return register


def attempt(f, method, tolerance, t, h, y, theta, counts, y1, k, tape, z):
    """A trial step from y to y1: returns its error norm, at least 1 if it is to be rejected."""
    body = python_form(ATTEMPTS.get(type(f), step_and_test))
    return body(f, method, tolerance, t, h, y, theta, counts, y1, k, tape, z)


attempt.on_device = attempt.single = step_and_test      # neither a GPU nor single precision steps another system


@overload(attempt, jit_options=BODY)
def _attempt(f, method, tolerance, t, h, y, theta, counts, y1, k, tape, z):
    body = ATTEMPTS.get(f.instance_class, step_and_test)

    def implementation(f, method, tolerance, t, h, y, theta, counts, y1, k, tape, z):
        return body(f, method, tolerance, t, h, y, theta, counts, y1, k, tape, z)
    return implementation


@host_device
def next_size(control, clock, error, taken, rejected):
    """The size of the step after an accepted one; updates the controller's memory."""
    factor = step_factor(control, error, clock[ERROR_1], clock[ERROR_2])
    if rejected:
        factor = min(1.0, factor)
    clock[ERROR_2] = clock[ERROR_1]
    clock[ERROR_1] = max(error, ERROR_FLOOR)            # Hairer's floor: no memory of a lucky step
    return taken * factor


@host_device
def is_stiff(c, h, y1, z, k):
    """Whether |h| ||k_s - k_(s-1)|| / ||y1 - z_(s-1)|| exceeds STIFFNESS_BOUND, where c_(s-1) = 1.

    Hairer & Wanner, Solving ODEs II, IV.2: an estimate of |h lambda| from two slopes at the same time.
    In the maximum norm, which no scale of y overflows.
    """
    s = c.shape[0]
    if c[s - 1] != 1.0:
        return False
    slopes, states = 0.0, 0.0
    for m in range(z.shape[0]):
        slopes = max(slopes, abs(k[s, m] - k[s - 1, m]))
        states = max(states, abs(y1[m] - z[m]))
    return abs(h) * slopes > STIFFNESS_BOUND * states


@higher_order
def accept(f, method, i, t, t_next, limits, theta, clock, counts, path, k, tape, outputs, z, w):
    """Record a step, write the observations that fall into it, and move on."""
    h = t_next - t
    direction = 1.0 if h >= 0.0 else -1.0
    ts, ys = outputs.ts, outputs.ys
    inside = counts[SEEN] < ts.shape[0] and direction * (ts[counts[SEEN]] - t_next) < 0.0
    if limits[DENSE] or inside:
        scratch = path.tape[path.tape.shape[0] - 1]
        extra_slopes(f, method.A_extra, method.c_extra, t, h, path.y[i], theta, scratch, k, z,
                     path.k_extra[i])
        counts[EVALUATIONS] += method.A_extra.shape[0]
    while counts[SEEN] < ts.shape[0] and direction * (ts[counts[SEEN]] - t_next) <= 0.0:
        j = counts[SEEN]
        if ts[j] == t_next:
            copy_into(path.y[i + 1], ys[j])
        else:
            dense_output(method.P, (ts[j] - t) / h, h, path.y[i], k, path.k_extra[i], w, ys[j])
        outputs.ys_step[j] = counts[STEPS]
        counts[SEEN] += 1
    clock[T] = t_next
    counts[STEPS] += 1
    if limits[KEEP]:
        path.times[i + 1] = t_next
    else:
        path.times[0] = t_next
        copy_into(path.y[1], path.y[0])
        copy_into(k[method.b.shape[0]], k[0])
