"""Many trajectories on a GPU: one a thread, with steps of its own, by the loop that integrates one on the CPU.

Threads are called lanes. On the device the lane is the last index of every array, so that neighbouring threads
read neighbouring numbers: states are (n, lanes) there and (lanes, n) on the host. Only the files
``*_cuda.py`` know. No lane reads what another wrote.

Lanes are taken in waves whose steps fit into memory. A kernel returns after a slice of steps, as the drivers do.
"""
import numpy as np

from refnode.cuda_device import (
    Kernel, Sizes, cuda_module, device_array, is_simulated, to_device)
from refnode.errors import InvalidInputError
from refnode.linalg import copy_into
from refnode.solve.samples import Samples
from refnode.solve.integrate import (
    EVALUATIONS, FULL, KEEP, KEEP_TAPE, RUNNING, SEEN, SLICE, STEPS, integrate)
from refnode.steppers.system import Plain

cuda = cuda_module()           # of this name the simulator puts its own in a kernel's place

STEPS_OF_A_LAUNCH = 10_000
FIRST_STEPS = 64               # of room for a lane whose number of steps nobody knows
FIRST_LANES = 4096             # of the wave that finds it out
WAVE_BYTES = 2**32             # of steps kept at one time, if the device has twice as much


# --- kernels --------------------------------------------------------------------------------------

@Kernel
def integrate_lanes(on_device, field, sizes):
    """`integrate` for every lane that is RUNNING, without a history. A lane's state and slope lie in its registers."""
    loop, f, copy, system = on_device(integrate), on_device(field.f), on_device(copy_into), Plain
    A, b, c, E, P, real = sizes.A, sizes.b, sizes.c, sizes.E, sizes.P, sizes.dtype
    states, slopes, n, weights = (2, sizes.n), (sizes.s + 1, sizes.n), sizes.n, sizes.weights

    def lanes(A_extra, c_extra, control, rtol, atol, blocks, grids, limits, thetas, clocks, counts, y1s, slopes1,
              k_extra, tape, ts, seen, ys, ys_step, status):
        i = cuda.grid(1)
        if i < status.shape[0] and status[i] == RUNNING:
            y, k, times = cuda.local.array(states, real), cuda.local.array(slopes, real), cuda.local.array(1, np.float64)
            z, w = cuda.local.array(n, real), cuda.local.array(weights, real)
            clock, count = cuda.local.array(5, np.float64), cuda.local.array(6, np.int64)
            copy(clocks[:, i], clock)
            copy(counts[:, i], count)
            copy(y1s[:, i], y[0])
            copy(slopes1[:, i], k[0])
            own, step = min(i, thetas.shape[1] - 1), min(i, grids.shape[1] - 1)
            status[i] = loop(
                system(f), cuda.const.array_like(A), cuda.const.array_like(b), cuda.const.array_like(c),
                cuda.const.array_like(E), cuda.const.array_like(P), A_extra, c_extra, control, rtol, atol, blocks,
                grids[:, step], limits, thetas[:, own], clock, count, times, y, k, k_extra[:, :, :, i], tape[:, :, i],
                ts[:seen[i], i], ys[:seen[i], :, i], ys_step[:seen[i], i], z, w)
            copy(clock, clocks[:, i])
            copy(count, counts[:, i])
            copy(y[0], y1s[:, i])
            copy(k[0], slopes1[:, i])
    return lanes


@Kernel
def integrate_lanes_kept(on_device, field, sizes):
    """`integrate` for every lane that is RUNNING, with its steps kept in global memory."""
    loop, f, copy, system = on_device(integrate), on_device(field.f), on_device(copy_into), Plain
    A, b, c, E, P, real = sizes.A, sizes.b, sizes.c, sizes.E, sizes.P, sizes.dtype
    n, weights = sizes.n, sizes.weights

    def lanes(A_extra, c_extra, control, rtol, atol, blocks, grids, limits, thetas, clocks, counts, y1s, times, y, k,
              k_extra, tape, ts, seen, ys, ys_step, status):
        i = cuda.grid(1)
        if i < status.shape[0] and status[i] == RUNNING:
            z, w = cuda.local.array(n, real), cuda.local.array(weights, real)
            clock, count = cuda.local.array(5, np.float64), cuda.local.array(6, np.int64)
            copy(clocks[:, i], clock)
            copy(counts[:, i], count)
            if count[EVALUATIONS] == 0:
                copy(y1s[:, i], y[0, :, i])
            own, step = min(i, thetas.shape[1] - 1), min(i, grids.shape[1] - 1)
            status[i] = loop(
                system(f), cuda.const.array_like(A), cuda.const.array_like(b), cuda.const.array_like(c),
                cuda.const.array_like(E), cuda.const.array_like(P), A_extra, c_extra, control, rtol, atol, blocks,
                grids[:, step], limits, thetas[:, own], clock, count, times[:, i], y[:, :, i], k[:, :, i],
                k_extra[:, :, :, i], tape[:, :, i], ts[:seen[i], i], ys[:seen[i], :, i], ys_step[:seen[i], i], z, w)
            copy(clock, clocks[:, i])
            copy(count, counts[:, i])
            copy(y[count[STEPS], :, i], y1s[:, i])
    return lanes


# --- the host's side ------------------------------------------------------------------------------

class DeviceSamples(Samples):
    """The arrays of many solves on the host, and the waves that fill them; see `Samples`."""

    def __init__(self, batch, field, y0s, options, *, keep, real="float64"):
        super().__init__(batch, field, y0s, options, keep=False)
        require_device_field(batch.field)
        self.keep, self.real, self.wave_of = keep, real, KeptWave if keep else Wave
        self.limits[KEEP], self.limits[KEEP_TAPE] = keep, False
        self.sizes = Sizes(options.tableau, self.n, real)
        self.room = max(self.grids.shape[1] - 1, 1) if options.fixed else FIRST_STEPS      # steps of a lane, if they are kept

    def row_bytes(self):
        """Bytes of one step of one lane."""
        return 8 + self.sizes.A.itemsize * self.n * (1 + self.s + self.extra)

    def lane_bytes(self):
        """Bytes of one lane beside its steps; small, but for fields with a tape."""
        return self.sizes.A.itemsize * (self.s + 2) * self.field.tape_size

    def first_lanes(self):
        """How many lanes the first wave takes."""
        return len(self.batch) if self.options.fixed or not self.keep else FIRST_LANES

    def lanes_that_fit(self):
        """How many lanes' steps fit into memory at one time, at least one."""
        if not self.keep:
            return len(self.batch)
        return max(1, wave_bytes() // (self.lane_bytes() + self.row_bytes() * (self.room + 1)))

    def lanes_of(self, rows, own):
        """Rows ``own`` of an array (B, n) as (n, lanes) on the device."""
        return to_device(rows[own].T, self.real)

    def waves(self):
        """Integrate all lanes, wave by wave; yields each `Wave`, finished, whose steps are then forgotten."""
        start, most = 0, self.first_lanes()
        while start < len(self.batch):
            stop = min(start + min(most, self.lanes_that_fit()), len(self.batch))
            wave = self.wave_of(self, start, stop)
            if wave.run():
                wave.bring_back()
                yield wave
                start, most = stop, len(self.batch)
            else:
                self.room *= 4                                  # some lane needs more room: all begin again
            vars(wave).clear()                                  # gives its memory back, whoever still holds it

    def run_forward(self, start=0):
        """Integrate all lanes and forget their steps."""
        for _ in self.waves():
            pass
        return len(self.batch)

    def keep_states(self, wave):
        """States that a wave has reached, to where results are kept."""
        wave.bring_back_states()

    def give_back_tape(self):
        """Nothing to give back: tapes lie on the device."""


def require_device_field(field):
    """Raise InvalidInputError unless the functions of a field can be compiled for a GPU."""
    if not field.compiled and not is_simulated():
        raise InvalidInputError(f'device="cuda" needs a field whose functions are compiled by numba.njit, found plain '
                                f"Python in {field.name!r}")
    if field.returns_arrays:
        raise InvalidInputError(f'device="cuda" needs functions that write their result, dy[0] = ...: rhs(t, y, theta, dy); '
                                f"{field.name!r} returns a new array, which a GPU cannot make")


def places(counts):
    """Place and lane of what stands in a row, counts_0 of lane 0 first."""
    lane = np.repeat(np.arange(len(counts)), counts)
    return np.arange(lane.size) - np.repeat(np.cumsum(counts) - counts, counts), lane


def wave_bytes():
    """Bytes that a wave may hold: WAVE_BYTES, but no more than half of what is free."""
    if is_simulated():
        return WAVE_BYTES
    return min(WAVE_BYTES, int(cuda.current_context().get_memory_info().free) // 2)


class Wave:
    """Lanes ``start`` ... ``stop - 1`` on the device."""

    kernel = integrate_lanes

    def __init__(self, samples, start, stop):
        self.samples, self.start, self.stop, self.lanes = samples, start, stop, stop - start
        own = slice(start, stop)
        shared_or_own = lambda rows: slice(0, 1) if len(rows) == 1 else own
        real, f64 = samples.real, np.float64
        self.seen = np.diff(samples.batch.ts_first[start:stop + 1])
        self.most = int(self.seen.max(initial=0))
        self.thetas = samples.lanes_of(samples.thetas, shared_or_own(samples.thetas))
        self.grids = to_device(samples.grids[shared_or_own(samples.grids)].T, f64)
        self.clocks, self.counts = to_device(samples.clocks[own].T), to_device(samples.counts[own].T)
        self.y1s = samples.lanes_of(samples.y0s, own)
        self.ts, self.seen_there = to_device(self.place(samples.batch.ts)), to_device(self.seen)
        self.ys = device_array((self.most, samples.n, self.lanes), real)
        self.ys_step = device_array((self.most, self.lanes), np.int64)
        self.status = to_device(np.full(self.lanes, RUNNING))
        self.tape = self._tape()
        self.history = self.make_history()
        self.make_method()
        samples.limits[SLICE] = STEPS_OF_A_LAUNCH
        self.limits = to_device(samples.limits)

    def make_method(self):
        """What a kernel does not have as constants."""
        samples, real = self.samples, self.samples.real
        self.extra_method = to_device(samples.sizes.A_extra), to_device(samples.sizes.c_extra)
        control, rtol, atol, blocks = samples.tolerance
        self.tolerance = (to_device(control, real), to_device(rtol, real), to_device(atol, real), to_device(blocks))

    def make_history(self):
        """What stays from one launch to the next, as the kernel takes it: here the last slope alone."""
        samples = self.samples
        self.k_extra = device_array((1, samples.extra, samples.n, self.lanes), samples.real)
        return (to_device(np.zeros((samples.n, self.lanes)), samples.real),)

    def place(self, rows):
        """(most, lanes) or (most, n, lanes) of what stands in a row, or in rows, for all observations of all samples."""
        first = self.samples.batch.ts_first
        placed = np.zeros((self.most, *rows.shape[1:], self.lanes), rows.dtype)
        place, lane = places(self.seen)
        placed[place, ..., lane] = rows[first[self.start]:first[self.stop]]
        return placed

    def in_a_row(self, placed, more=0):
        """The other way for what has ``more`` rows beside those of the observations."""
        place, lane = places(self.seen + more)
        return placed[place, ..., lane]

    def _tape(self):
        """Scratch for the evaluations of one step, with the field's header; the reverse sweep refills it."""
        field, rows = self.samples.field, self.samples.sizes.tape_rows
        if field.tape_size == 0:
            return device_array((rows, 0, self.lanes), self.samples.real)
        header = np.zeros(field.tape_size)
        header[:field.tape_header.size] = field.tape_header
        return to_device(np.broadcast_to(header[None, :, None], (rows, field.tape_size, self.lanes)), self.samples.real)

    def arguments(self):
        return (*self.extra_method, *self.tolerance, self.grids, self.limits, self.thetas, self.clocks, self.counts,
                self.y1s, *self.history, self.k_extra, self.tape, self.ts, self.seen_there, self.ys, self.ys_step, self.status)

    def run(self):
        """Integrate to the end; False if a lane did not have room for its steps."""
        samples = self.samples
        while True:
            self.kernel.launch(samples.field, samples.sizes, self.lanes, self.arguments())
            self.ended = self.status.copy_to_host()
            if np.any(self.ended == FULL):
                return False
            if not np.any(self.ended == RUNNING):
                return True

    def bring_back(self):
        """Results to the host's arrays."""
        samples, own = self.samples, slice(self.start, self.stop)
        samples.status[own] = self.ended
        samples.clocks[own], samples.counts[own] = self.clocks.copy_to_host().T, self.counts.copy_to_host().T
        samples.keep_states(self)

    def bring_back_states(self):
        """States at the ends and at the observations to the host's arrays."""
        samples, own = self.samples, slice(self.start, self.stop)
        samples.y1s[own] = self.y1s.copy_to_host().T
        if self.most:
            first = samples.batch.ts_first
            rows = slice(first[self.start], first[self.stop])
            place, lane = places(self.seen)
            reached = place < samples.counts[own][lane, SEEN]
            place, lane = place[reached], lane[reached]
            samples.ys[rows][reached] = self.ys.copy_to_host()[place, :, lane]
            samples.ys_step[rows][reached] = self.ys_step.copy_to_host()[place, lane]


class KeptWave(Wave):
    """Lanes that keep all their steps."""

    kernel = integrate_lanes_kept

    def make_history(self):
        samples, steps, real = self.samples, self.samples.room, self.samples.real
        self.times = device_array((steps + 1, self.lanes), np.float64)
        self.y = device_array((steps + 1, samples.n, self.lanes), real)
        self.k = device_array((steps * samples.s + 1, samples.n, self.lanes), real)
        self.k_extra = device_array((steps, samples.extra, samples.n, self.lanes), real)
        return self.times, self.y, self.k
