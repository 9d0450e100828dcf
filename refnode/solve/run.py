"""Run a driver to its end: storage that grows, Ctrl-C, and the place where an exception happened."""
import time

import numpy as np

from refnode.host_device import python_form
from refnode.solve.integrate import (
    DENSE, FULL, KEEP, KEEP_TAPE, MAX_STEPS, RUNNING, SLICE, STEPS, STOP_AT_TS, T)

LONGEST_SLICE = 0.05               # seconds in compiled code before Python looks for Ctrl-C
FIRST_CAPACITY = 256               # steps
STORAGE_AT_FIRST = 64 * 2**20      # bytes, where 256 steps would need more
TAPE_BUDGET = 2**30                # bytes of tape kept; beyond, the reverse sweep recomputes


class Trajectory:
    """The arrays of one solve, as the drivers take them; see `refnode.solve.integrate.integrate`."""

    def __init__(self, options, field, y0, theta, t0, t1, ts, *, keep, keep_tape=False, dense=False,
                 rtol, atol, blocks, grid=None, first_step=None, dtype=np.float64):
        table = options.tableau
        self.options, self.field, self.dtype = options, field, dtype
        self.s, self.n = table.s, y0.size
        self.method = table.arrays
        self.tolerance = (options.control, rtol, atol, blocks)
        self.grid = options.grid(t0, t1) if grid is None else grid
        self.theta = theta
        self.t0, self.t1 = t0, t1
        self.clock = np.array([t0, first_step or options.first_step or 0.0, 1.0, 1.0, t1])
        self.counts = np.zeros(6, dtype=np.int64)
        self.limits = np.zeros(6, dtype=np.int64)
        self.limits[MAX_STEPS] = self.grid.size or options.max_steps
        self.limits[KEEP], self.limits[KEEP_TAPE] = keep, keep_tape and field.tape_size > 0
        self.limits[DENSE], self.limits[STOP_AT_TS] = dense, options.tstops
        self.ts = ts
        self.ys = np.empty((ts.size, self.n), dtype)
        self.ys_step = np.empty(ts.size, dtype=np.int64)
        self.z = np.empty(self.n, dtype)
        self.w = np.empty(table.P.shape[0])
        self._allocate(self._first_capacity(table) if keep else 1, table.extra)
        self.y[0] = y0
        self.y_start = y0

    def _first_capacity(self, table):
        """Steps to make room for at first: all of a given grid, else a moderate number."""
        if self.grid.size:
            return self.grid.size - 1
        row = 8 * self.n * (self.s + table.extra + 1) + 8 * self.s * self.field.tape_size
        return int(min(FIRST_CAPACITY, max(8, STORAGE_AT_FIRST // max(row, 1))))

    def _allocate(self, steps, extra):
        self.times = np.empty(steps + 1)
        self.y = np.empty((steps + 1, self.n), self.dtype)
        self.k = np.empty((steps * self.s + 1, self.n), self.dtype)
        self.k_extra = np.empty((steps, extra, self.n), self.dtype)
        self._allocate_tape(steps)

    def _allocate_tape(self, steps):
        rows = steps * self.s + 2 if self.limits[KEEP_TAPE] else self.s + 2
        if 8 * rows * self.field.tape_size > TAPE_BUDGET:
            self.limits[KEEP_TAPE] = 0
            rows = self.s + 2
        self.tape = self.field.take_tape(rows, self.dtype)

    def grow(self):
        """Double the room for steps, keeping what is there."""
        old = (self.times, self.y, self.k, self.k_extra, self.tape)
        kept_tape = self.limits[KEEP_TAPE]
        self._allocate(2 * (self.times.size - 1), self.k_extra.shape[1])
        for before, after in zip(old[:4], (self.times, self.y, self.k, self.k_extra)):
            after[:before.shape[0]] = before
        if kept_tape and self.limits[KEEP_TAPE]:
            self.tape[:old[4].shape[0] - 1] = old[4][:-1]

    def give_back_tape(self):
        """Let the next solve of this field reuse the tape; the steps can no longer be differentiated."""
        tape, self.tape = self.tape, None
        self.field.keep_tape(tape)

    def stored(self):
        """The steps taken, as the drivers that read them back take them: times, y, k, k_extra, tape."""
        steps = self.n_steps
        return (self.times[:steps + 1], self.y[:steps + 1], self.k[:steps * self.s + 1],
                self.k_extra[:steps], self.tape)

    @property
    def n_steps(self):
        return int(self.counts[STEPS])

    @property
    def y1(self):
        """The state at the time reached."""
        return self.y[self.n_steps if self.limits[KEEP] else 0]

    def arguments(self):
        return (*self.method, *self.tolerance, self.grid, self.limits, self.theta, self.clock, self.counts,
                self.times, self.y, self.k, self.k_extra, self.tape, self.ts, self.ys, self.ys_step,
                self.z, self.w)

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


def where(what, t, step):
    """The note an exception of a user's function carries."""
    return f"in {what} at t={t:g}, step {step}"


def run_slices(entry, arguments, controls, slice_index, pace, only_one=False):
    """Call ``entry`` until it no longer answers RUNNING, a slice of steps at a time.

    Ctrl-C is not seen inside compiled code, so a slice is kept short: ``controls[slice_index]`` is the
    number of steps to take, and ``pace[entry]`` remembers how many fit into half of LONGEST_SLICE.
    """
    while True:
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

    They are called by address, or compiled into it (specialize), or plain Python in an un-jitted driver.
    """
    if not field.compiled:
        return python_form(driver), field.functions(*which)
    if not specialize:
        return driver, field.functions(*which)
    functions = [getattr(field, name) for name in which]
    if driver not in field.specialized:
        field.specialized[driver] = driver.specialized(functions)
    return field.specialized[driver], functions
