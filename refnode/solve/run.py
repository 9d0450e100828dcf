"""Run a driver to its end: storage that grows, Ctrl-C, and the place where an exception happened."""
import functools
import threading
import time

import numpy as np
from numba.core.errors import NumbaError

from refnode.errors import InvalidInputError
from refnode.host_device import python_form
from refnode.precision import SingleDriver
from refnode.solve.integrate import (
    DENSE, FULL, KEEP, KEEP_TAPE, MAX_STEPS, RUNNING, SLICE, STEPS, STOP_AT_TS, T, integrate_field)
from refnode.solve.written_out import written_out_driver

LONGEST_SLICE = 0.05               # seconds in compiled code before Python looks for Ctrl-C
FIRST_CAPACITY = 256               # steps
STORAGE_AT_FIRST = 64 * 2**20      # bytes, where 256 steps would need more
TAPE_BUDGET = 2**30                # bytes of tape kept; beyond, the reverse sweep recomputes
ONE_COMPILES = threading.RLock()   # what several threads need


class Storage:
    """Room for the steps of one solve. A field lends it to one solve after another.

    Fresh memory costs as much to allocate and touch as a field of moderate size costs to evaluate.
    """

    def __init__(self, options, field, n, limits, steps, dtype):
        self.s, self.extra, self.n, self.dtype = options.tableau.s, options.tableau.extra, n, dtype
        self.field, self.keep_tape = field, limits[KEEP_TAPE] != 0
        self.z = np.empty(n, dtype)
        self.w = np.empty(options.tableau.P.shape[0], np.float32 if dtype is np.float32 else np.float64)
        self._allocate(steps)

    def _allocate(self, steps):
        self.steps = steps
        self.y = np.empty((steps + 1, self.n), self.dtype)
        self.k = np.empty((steps * self.s + 1, self.n), self.dtype)
        self.k_extra = np.empty((steps, self.extra, self.n), self.dtype)
        rows = steps * self.s + 2
        if not self.keep_tape or self.y.itemsize * rows * self.field.tape_size > TAPE_BUDGET:
            self.keep_tape, rows = False, self.s + 2
        self.tape = self.field.take_tape(rows, self.dtype)

    def grow(self):
        """Double the room for steps, keeping what is there."""
        y, k, k_extra, tape, tape_was_kept = self.y, self.k, self.k_extra, self.tape, self.keep_tape
        self._allocate(2 * self.steps)
        for before, after in ((y, self.y), (k, self.k), (k_extra, self.k_extra)):
            after[:before.shape[0]] = before
        if tape_was_kept and self.keep_tape:
            self.tape[:tape.shape[0] - 1] = tape[:-1]

    @functools.cached_property
    def sweep(self):
        """Workspace of a discrete sweep over the steps: three states, and slopes for one step."""
        vectors = [np.empty(self.n, self.dtype) for _ in range(3)]
        return vectors, [np.empty((rows, self.n), self.dtype) for rows in (self.s + 1, self.extra)]


class Trajectory:
    """One solve: its arrays as the drivers take them; see `refnode.solve.integrate.integrate`."""

    driver = integrate_field

    def __init__(self, options, field, y0, theta, t0, t1, ts, *, keep, keep_tape=False, dense=False,
                 rtol, atol, blocks, grid=None, first_step=None, dtype=np.float64):
        self.options, self.field, self.dtype = options, field, dtype
        self.s, self.n = options.tableau.s, y0.size
        self.method = options.tableau.arrays
        self.tolerance = (options.control, rtol, atol, blocks)
        self.grid = options.grid(t0, t1) if grid is None else grid
        self.theta = self.theta_given = theta
        if dtype is np.float32:
            self._take_single()
        self.t0, self.t1 = t0, t1
        self.clock = np.array([t0, first_step or options.first_step or 0.0, 1.0, 1.0, t1])
        self.clock_at_start = self.clock.copy()
        self.counts = np.zeros(6, dtype=np.int64)
        self.limits = np.array([self.grid.size or options.max_steps, 1, keep, keep_tape and field.tape_size > 0,
                                dense, options.tstops])
        self.ts = ts
        self.ys = np.empty((ts.size, self.n), dtype)
        self.ys_step = np.empty(ts.size, dtype=np.int64)
        # solves of one kind can use each other's storage
        self.kind = options.tableau, self.n, dtype, self.grid.size, keep, keep_tape
        self.storage = self._take_storage()
        self.limits[KEEP_TAPE] = self.storage.keep_tape
        self.times = np.empty(self.storage.steps + 1)
        self.y[0] = y0
        self.y_start = y0

    def _take_single(self):
        """Driver, coefficients and parameters of a solve in single precision."""
        self.driver, self.method = self.driver.single, single_arrays(self.options.tableau)
        self.theta = self.theta_given.astype(np.float32)

    def in_double(self):
        """The steps of a finished solve in double arrays and without tapes, for sweeps that are there for doubles alone."""
        twin, (control, rtol, atol, blocks) = self.twin(), self.tolerance
        twin.driver, twin.dtype, twin.method, twin.theta = type(self).driver, np.float64, self.options.tableau.arrays, self.theta_given
        twin.tolerance = control, rtol.astype(np.float64), atol.astype(np.float64), blocks
        twin.limits = self.limits.copy()
        twin.limits[KEEP_TAPE] = 0
        twin.storage = Storage(self.options, self.field, self.n, twin.limits, self.n_steps, np.float64)
        with np.errstate(invalid="ignore"):         # further slopes of a step without observations were never written
            for mine, single in zip(twin.stored()[1:4], self.stored()[1:4]):
                mine[...] = single
        return twin

    # --- storage ----------------------------------------------------------------------------------

    def _take_storage(self):
        """What the field kept of an earlier solve of this kind, or new."""
        try:
            kind, storage = self.field.idle_storage.pop()
        except IndexError:
            kind = None
        if kind == self.kind:
            return storage
        steps = self._first_capacity() if self.limits[KEEP] else 1
        return Storage(self.options, self.field, self.n, self.limits, steps, self.dtype)

    def give_back(self):
        """Let the next solve of this field reuse the storage; the steps can no longer be read."""
        self.last = self.y1.copy()
        self.field.idle_storage[:], self.storage = [(self.kind, self.storage)], None

    def _first_capacity(self):
        """Steps to make room for at first: all of a given grid, else a moderate number."""
        if self.grid.size:
            return self.grid.size - 1
        row = 8 * self.n * (self.s + self.options.tableau.extra + 1) + 8 * self.s * self.field.tape_size
        return int(min(FIRST_CAPACITY, max(8, STORAGE_AT_FIRST // max(row, 1))))

    def grow(self):
        """Double the room for steps, keeping what is there."""
        times = self.times
        self.storage.grow()
        self.limits[KEEP_TAPE] = self.storage.keep_tape
        self.times = np.empty(self.storage.steps + 1)
        self.times[:times.size] = times

    y = property(lambda self: self.storage.y)
    k = property(lambda self: self.storage.k)
    k_extra = property(lambda self: self.storage.k_extra)
    tape = property(lambda self: self.storage.tape)

    def stored(self):
        """The steps taken, as the drivers that read them back take them: times, y, k, k_extra, tape."""
        steps = self.n_steps
        return (self.times[:steps + 1], self.y[:steps + 1], self.k[:steps * self.s + 1],
                self.k_extra[:steps], self.tape)

    def twin(self):
        """A copy that shares all arrays, as `copy.copy` would make it in four times the time."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        return twin

    def again(self):
        """The same solve from what ``y_start`` and ``theta`` hold now, in the same storage: its steps overwrite these."""
        twin = self.twin()
        twin.clock, twin.counts = self.clock_at_start.copy(), np.zeros(6, dtype=np.int64)
        twin.ys, twin.ys_step = np.empty_like(self.ys), np.empty_like(self.ys_step)
        twin.y[0] = self.y_start
        if self.theta is not self.theta_given:
            self.theta[:] = self.theta_given
        return twin

    # --- the run ----------------------------------------------------------------------------------

    @property
    def n_steps(self):
        return int(self.counts[STEPS])

    @property
    def y1(self):
        """The state at the time reached."""
        if self.storage is None:
            return self.last
        return self.storage.y[self.counts[STEPS] if self.limits[KEEP] else 0]

    def arguments(self):
        room = self.storage
        return (*self.method, *self.tolerance, self.grid, self.limits, self.theta, self.clock, self.counts,
                self.times, room.y, room.k, room.k_extra, room.tape, self.ts, self.ys, self.ys_step,
                room.z, room.w)

    def run(self, entry, leading, one_step=False):
        """Call ``entry(*leading, arguments)`` until it ends (or took one step); returns the status."""
        while True:
            try:
                status = run_slices(entry, (*leading, self.arguments()), self.limits, SLICE,
                                    self.field.pace, one_step)
            except Exception as error:
                error.add_note(where("fun", self.clock[T], self.counts[STEPS]))
                raise
            if status != FULL:
                return status
            self.grow()


@functools.lru_cache(maxsize=64)
def single_arrays(tableau):
    """The coefficients of a method as drivers in single precision take them: those that multiply slopes are single."""
    A, b, c, E, P, A_extra, c_extra = tableau.arrays
    A, b, E, A_extra = (np.ascontiguousarray(array, np.float32) for array in (A, b, E, A_extra))
    return A, b, c, E, P, A_extra, c_extra


def where(what, t, step):
    """The note an exception of a user's function carries."""
    return f"in {what} at t={t:g}, step {step}"


def run_slices(entry, arguments, controls, slice_index, pace, only_one=False, stop=None):
    """Call ``entry`` until it no longer answers RUNNING, a slice of steps at a time.

    Ctrl-C is not seen inside compiled code, so a slice is kept short: ``controls[slice_index]`` is the
    number of steps to take, and ``pace[entry]`` remembers how many fit into half of LONGEST_SLICE. Threads
    other than the main one never see Ctrl-C; theirs is a `StopSign`.
    """
    while True:
        if stop is not None:
            stop.check()
        steps = 1 if only_one else pace.get(entry, 1)
        controls[slice_index] = steps
        started = time.perf_counter()
        status = entry(*arguments)
        if status != RUNNING or only_one:
            return int(status)
        pace[entry] = next_slice(steps, time.perf_counter() - started)


def next_slice(steps, elapsed):
    """How many steps to take before returning to Python, from how long the last ``steps`` took."""
    affordable = int(0.5 * LONGEST_SLICE / max(elapsed, 1e-7) * steps)
    return max(1, min(affordable, 8 * steps, 1_000_000))


def entry_point(driver, field, specialize, *which):
    """``driver`` for this field, and the functions named as it takes them.

    They are called by address, or compiled into it (``specialize``), or plain Python in an un-jitted driver. Where
    ``specialize`` is a tableau and a number of states, the driver's steps are written out for these, too.
    """
    key = driver, specialize, which
    found = field.entries.get(key)
    if found is None:
        with ONE_COMPILES:
            found = field.entries[key] = field.entries.get(key) or _entry_point(driver, field, specialize, which)
    return found


def _entry_point(driver, field, specialize, which):
    if isinstance(driver, SingleDriver) and field.compiled:
        return driver, single_functions(field, which)
    if not field.compiled:
        return python_form(driver), field.functions(*which)
    if not specialize:
        return driver, field.functions(*which)
    functions = [getattr(field, name) for name in which]
    if specialize is not True:
        driver = written_out_driver(driver, *specialize)
    return driver.specialized(functions), functions


def single_functions(field, which):
    """A field's functions in single precision, or InvalidInputError if they do not compile for it."""
    try:
        return field.functions(*which, single=True)
    except NumbaError as error:
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InvalidInputError(f"field {field.name!r} cannot be compiled for float32, where y, theta and dy are float32 and t "
                                f"is float64: {first.strip()}; dtype='float64' works") from error
