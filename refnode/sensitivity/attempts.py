"""What error control tried: every step of a solve, the rejected ones too, as a list that can be differentiated.

The adaptive program is a chain of attempts. Attempt a starts at the state of its step with a size; it is
accepted, or its error sets the size of the next attempt. The list holds the numbers of each, and which
branch the program took; the sweeps of `through` and `through_adjoint` walk it down and up.
"""
import collections

import numpy as np
from numba import types

from refnode.host_device import INTEGERS, MATRIX, RHS, VECTOR, driver, higher_order, host_device
from refnode.linalg import copy_into
from refnode.sensitivity.discrete_adjoint import SLICE, STEP, STORED_TYPES, StoredSteps
from refnode.solve.integrate import (
    ERROR_1, ERROR_2, FINISHED, REJECTED, RUNNING, STEP_TOO_SMALL, STOP_AT_TS, H, Method, Path, Tolerance,
    next_size, non_finite_component)
from refnode.solve.run import entry_point, run_slices
from refnode.solve.step_size import FACTOR_MIN, H_MAX, error_norm, first_step, rejection_factor
from refnode.steppers.explicit_rk import explicit_rk_step
from refnode.steppers.system import Plain

ATTEMPT, AUTOMATIC, AT_TS = 4, 5, 6                      # position, behind those of the discrete sweeps
SIZE, ERROR, MEMORY_1, MEMORY_2 = range(4)               # columns of `numbers`
OUTCOME, STOP, FREE = range(3)                           # columns of `marks`
GIVEN, ACCEPTED, ACCEPTED_AFTER, REJECTED_BY_ERROR, CUT_BY_FACTOR, HALVED = range(6)          # outcomes

MARKS = types.Array(types.int64, 2, "C")
ATTEMPT_TYPES = (VECTOR, VECTOR, VECTOR, INTEGERS,       # control, rtol, atol, blocks
                 VECTOR, MATRIX, MARKS)                  # ends, numbers, marks
RECORD_TYPES = types.Tuple((
    *STORED_TYPES, *ATTEMPT_TYPES,
    VECTOR, VECTOR, MATRIX, MATRIX, VECTOR, VECTOR))     # stops, clock, k_try, tape_try, y_try, z

Attempts = collections.namedtuple("Attempts", ["numbers", "marks"])


@driver(RHS, RECORD_TYPES)
def record_attempts(f, arguments):
    """Repeat the control of a stored solve, and list its attempts; see `record_steps`."""
    return record_steps(f, *arguments)


@higher_order
def record_steps(f, A, b, c, E, P, A_extra, c_extra, times, y, k, k_extra, tape, theta, ts, ys_step, position,
                 control, rtol, atol, blocks, ends, numbers, marks, stops, clock, k_try, tape_try, y_try, z):
    """Fill ``numbers`` and ``marks``, from the same arithmetic as `controlled_step`, hence the same bits.

    Accepted steps are read from the storage; only rejected ones, and the slope behind the automatic first
    step, are evaluated again. ``stops`` are the times at which a step may be cut: the observations, and t1.
    """
    method, path = Method(A, b, c, E, P, A_extra, c_extra), Path(times, y, k, k_extra, tape)
    tolerance, attempts = Tolerance(control, rtol, atol, blocks), Attempts(numbers, marks)
    if position[ATTEMPT] == 0 and position[AUTOMATIC]:
        clock[H] = first_step(Plain(f), ends[0], ends[1], y[0], theta, tape_try[0], k[0], control, rtol, atol,
                              blocks, y_try, k_try[1])
    for _ in range(position[SLICE]):
        i = position[STEP]
        if i == times.shape[0] - 1:
            return FINISHED
        if not record_step(f, method, tolerance, path, i, theta, ts, ys_step, position, attempts, stops, clock,
                           k_try, tape_try, y_try, z):
            return STEP_TOO_SMALL
        position[STEP] = i + 1
    return RUNNING


@host_device
def next_stop(ts, ys_step, position, i):
    """Index of the time that may cut step i: an observation not yet seen, if steps stop there, or t1."""
    j = ts.shape[0]
    if position[AT_TS]:
        while j > 0 and ys_step[j - 1] >= i:
            j -= 1
    return j


@higher_order
def record_step(f, method, tolerance, path, i, theta, ts, ys_step, position, attempts, stops, clock, k_try,
                tape_try, y_try, z):
    """All attempts of step i; False if none of them is the step that was stored."""
    control, t = tolerance.control, path.times[i]
    stop = next_stop(ts, ys_step, position, i)
    direction = 1.0 if stops[stop] >= t else -1.0
    smallest = 10.0 * abs(np.nextafter(t, direction * np.inf) - t)
    size = min(max(clock[H], smallest), control[H_MAX])
    free, rejected = size == clock[H], False
    while position[ATTEMPT] < attempts.numbers.shape[0]:
        numbers, marks = attempts.numbers[position[ATTEMPT]], attempts.marks[position[ATTEMPT]]
        t_next = t + direction * size
        cut = direction * (t_next - stops[stop]) > 0.0
        if cut:
            t_next = stops[stop]
        numbers[SIZE], numbers[MEMORY_1], numbers[MEMORY_2] = size, clock[ERROR_1], clock[ERROR_2]
        marks[STOP], marks[FREE] = stop if cut else -1, free
        position[ATTEMPT] += 1
        if t_next == path.times[i + 1]:
            record_accepted(method, tolerance, path, i, clock, cut, rejected, numbers, marks)
            return True
        size = record_rejected(f, method, tolerance, path, i, t_next - t, theta, numbers, marks, k_try, tape_try,
                               y_try, z)
        free, rejected = True, True
    return False


@host_device
def record_accepted(method, tolerance, path, i, clock, cut, rejected, numbers, marks):
    """The error of the stored step, and the controller's next size."""
    s = method.b.shape[0]
    h = path.times[i + 1] - path.times[i]
    error = error_norm(method.E, h, path.k[i * s:(i + 1) * s + 1], path.y[i], path.y[i + 1], tolerance.rtol,
                       tolerance.atol, tolerance.blocks)
    size_next = next_size(tolerance.control, clock, error, abs(h), rejected)
    clock[H] = max(size_next, numbers[SIZE]) if cut else size_next
    numbers[ERROR], marks[OUTCOME] = error, ACCEPTED_AFTER if rejected else ACCEPTED


@higher_order
def record_rejected(f, method, tolerance, path, i, h, theta, numbers, marks, k_try, tape_try, y_try, z):
    """The error of an attempt that was rejected; returns the size of the next."""
    s = method.b.shape[0]
    y, control = path.y[i], tolerance.control
    copy_into(path.k[i * s], k_try[0])
    explicit_rk_step(Plain(f), method.A, method.b, method.c, path.times[i], h, y, theta, tape_try, k_try, z, y_try)
    error = error_norm(method.E, h, k_try, y, y_try, tolerance.rtol, tolerance.atol, tolerance.blocks)
    numbers[ERROR] = error
    if np.isfinite(error):
        marks[OUTCOME] = REJECTED_BY_ERROR
        return abs(h) * rejection_factor(control, error)
    if non_finite_component(k_try[s], y_try) < 0:
        marks[OUTCOME] = CUT_BY_FACTOR
        return abs(h) * control[FACTOR_MIN]
    marks[OUTCOME] = HALVED
    return 0.5 * abs(h)


# --- the host's side ------------------------------------------------------------------------------

class ControlledSteps(StoredSteps):
    """A finished forward solve with the list of its attempts, ready for the sweeps through its control."""

    def __init__(self, forward):
        super().__init__(forward)
        n, s, self.n_steps = forward.n, forward.s, forward.n_steps
        self.k_try, self.tape_try = np.empty((s + 1, n)), self.field.new_tape(s + 1)
        self.y_try, self.z = np.empty(n), np.empty(n)
        self.ends = np.array([forward.t0, forward.t1])
        self.automatic = forward.options.first_step is None and not forward.grid.size
        self.n_attempts = self.n_steps + int(forward.counts[REJECTED])
        self.numbers = np.zeros((self.n_attempts, 4))
        self.marks = np.zeros((self.n_attempts, 3), dtype=np.int64)
        if forward.grid.size:
            self.marks[:, OUTCOME], self.marks[:, STOP] = GIVEN, np.arange(1, self.n_steps + 1)
            self.n_stops = self.n_steps + 1
        else:
            self.n_stops = forward.ts.size + 1
            self._record()

    def position(self, step, observation, attempt=0):
        return np.array([step, observation, 1, self.recompute, attempt, self.automatic,
                         self.forward.limits[STOP_AT_TS]])

    def shared(self, position):
        return (*super().shared(position), *self.forward.tolerance, self.ends, self.numbers, self.marks)

    def _record(self):
        forward = self.forward
        position = self.position(0, 0)
        clock = np.array([forward.t0, forward.options.first_step or 0.0, 1.0, 1.0, forward.t1])
        entry, functions = entry_point(record_attempts, self.field, forward.options.specialize, "f")
        status = run_slices(entry, (*functions, (
            *self.shared(position), np.append(forward.ts, forward.t1), clock, self.k_try, self.tape_try,
            self.y_try, self.z)), position, SLICE, self.field.pace)
        if status != FINISHED or position[ATTEMPT] != self.n_attempts:
            raise RuntimeError("the attempts of the forward solve did not repeat: its right-hand side is not a function "
                               "of (t, y, theta) alone")

    def stop_shares(self):
        """How the times that end steps move: stop = (1 - share) t0 + share t1, or an observation of its own.

        Of a given grid the shares; else None. Equal steps stretch with the interval, given lengths start
        at t0, and the last step ends at t1.
        """
        if not self.forward.grid.size:
            return None
        if self.forward.options.n_steps is not None:
            return np.linspace(0.0, 1.0, self.n_stops)
        return np.append(np.zeros(self.n_stops - 1), 1.0)
