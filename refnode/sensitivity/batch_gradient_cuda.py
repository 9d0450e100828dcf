"""The derivative of many trajectories on a GPU: tangents and discrete adjoints, one trajectory a thread.

The bodies are those of `discrete_adjoint`; see `solve.batch_cuda` for lanes and waves. No lane adds to what
another adds to: cotangents of a shared theta are summed on the host, in an order that never changes.
"""
import functools

import numpy as np

from refnode.cuda_device import Kernel, cuda_module, device_array, to_device
from refnode.errors import InvalidInputError
from refnode.linalg import copy_into
from refnode.sensitivity.batch_gradient import gradient_batch, gradient_of_samples
from refnode.sensitivity.batch_sweep import BatchSweep
from refnode.sensitivity.checkpointing_cuda import PlacedSamples, pull_placed_wave
from refnode.sensitivity.cotangents import Gradient, fill_slopes
from refnode.sensitivity.discrete_adjoint import OBSERVATION, RECOMPUTE, SLICE, STEP, push_through_steps
from refnode.sensitivity.jumps import time_cotangents_kernel
from refnode.sensitivity.lane_adjoint_cuda import pull_lanes
from refnode.sensitivity.recipes import RECIPES
from refnode.sensitivity.reversible_cuda import ReversibleSamples, pull_reversible_wave
from refnode.solve.batch_cuda import STEPS_OF_A_LAUNCH, DeviceSamples
from refnode.solve.integrate import FINISHED, RUNNING, STEPS
from refnode.solve.perceptron_cuda import tiles_serve

cuda = cuda_module()           # of this name the simulator puts its own in a kernel's place


# --- kernels --------------------------------------------------------------------------------------

@Kernel
def push_lanes(on_device, field, sizes):
    """`push_through_steps` for every lane that is RUNNING: moves its column of y_tans."""
    loop, f, f_jvp, copy = on_device(push_through_steps), on_device(field.f), on_device(field.jvp), on_device(copy_into)
    A, b, c, E, P, real = sizes.A, sizes.b, sizes.c, sizes.E, sizes.P, sizes.dtype
    n, slopes, extra, extras, weights = sizes.n, (sizes.s + 1, sizes.n), sizes.extra, (max(sizes.extra, 1), sizes.n), sizes.weights

    def lanes(A_extra, c_extra, counts, times, y, k, k_extra, tape, thetas, ts, seen, ys_step, positions, theta_tan, y_tans,
              ys_tans, status):
        i = cuda.grid(1)
        if i < status.shape[0] and status[i] == RUNNING:
            y_tan, y1_tan = cuda.local.array(n, real), cuda.local.array(n, real)
            z, z_tan, k_tan = cuda.local.array(n, real), cuda.local.array(n, real), cuda.local.array(slopes, real)
            k_extra_tan, w = cuda.local.array(extras, real), cuda.local.array(weights, real)
            copy(y_tans[:, i], y_tan)
            own = min(i, thetas.shape[1] - 1)
            status[i] = loop(
                f, f_jvp, cuda.const.array_like(A), cuda.const.array_like(b), cuda.const.array_like(c),
                cuda.const.array_like(E), cuda.const.array_like(P), A_extra, c_extra, times[:counts[STEPS, i] + 1, i],
                y[:, :, i], k[:, :, i], k_extra[:, :, :, i], tape[:, :, i], thetas[:, own], ts[:seen[i], i],
                ys_step[:seen[i], i], positions[:, i], theta_tan, y_tan, y1_tan, z, z_tan, k_tan, k_extra_tan[:extra], w,
                ys_tans[:seen[i], :, i])
            copy(y_tan, y_tans[:, i])
    return lanes


@Kernel
def time_lanes(on_device, field, sizes):
    """Cotangents of t0, the observation times and t1 of every lane that is RUNNING; see `slopes_at`."""
    fill, contract, f = on_device(fill_slopes), on_device(time_cotangents_kernel), on_device(field.f)

    def lanes(spans, y0s, y1s, tape, thetas, ts, seen, ys, ys_bar, y0_bars, y1_bars, slopes, times_bar, status):
        i = cuda.grid(1)
        if i < status.shape[0] and status[i] == RUNNING:
            own, rows = min(i, thetas.shape[1] - 1), seen[i] + 2
            fill(f, spans[0, i], y0s[:, i], ts[:seen[i], i], ys[:seen[i], :, i], spans[1, i], y1s[:, i], thetas[:, own],
                 tape[0, :, i], slopes[:rows, :, i])
            contract(y0_bars[:, i], ys_bar[:seen[i], :, i], y1_bars[:, i], slopes[:rows, :, i], times_bar[:rows, i])
            status[i] = FINISHED
    return lanes


# --- the host's side ------------------------------------------------------------------------------

class DeviceSweep(BatchSweep):
    """Cotangents of all samples, and the sweeps over a wave's steps."""

    push_kernel = push_lanes

    def __init__(self, samples):
        super().__init__(samples)
        self.sizes = samples.sizes
        self.times_bar = np.full(len(self.slopes), np.nan)
        losses = samples.batch.losses
        self.together = (hasattr(losses[0], "batched") and samples.batch.same_count
                         and all(loss is losses[0] for loss in losses))

    def seed(self, start, stop):
        """As for the CPU; all samples at once, if all have finished and share a loss that can be evaluated so."""
        samples, batch = self.samples, self.samples.batch
        own, n = slice(start, stop), batch.y0.shape[1]
        if not self.together or not np.all(samples.status[own] == FINISHED):
            return super().seed(start, stop)
        rows = slice(batch.ts_first[start], batch.ts_first[stop])
        ys = samples.ys[rows, :n].reshape(stop - start, -1, n).transpose(0, 2, 1)
        self.loss[own], ys_bar, self.y1_bars[own, :n] = batch.losses[0].batched(ys, samples.y1s[own, :n])
        self.ys_bar[rows, :n] = ys_bar.transpose(0, 2, 1).reshape(-1, n)
        self.y_bars[own] = self.y1_bars[own]
        self._require_finite(start, stop, np.arange(start, stop))

    def stored(self, wave):
        """What both sweeps read, as their kernels take it."""
        return (*wave.extra_method, wave.counts, wave.times, wave.y, wave.k, wave.k_extra, wave.tape, wave.thetas, wave.ts,
                wave.seen_there, wave.ys_step)

    def positions(self, wave, step, observation, recompute=True):
        """Where a sweep begins, (5, lanes). Tapes are never kept with the steps, but filled again."""
        position = np.zeros((5, wave.lanes), dtype=np.int64)
        position[STEP], position[OBSERVATION], position[SLICE] = step, observation, STEPS_OF_A_LAUNCH
        position[RECOMPUTE] = recompute and self.samples.field.tape_size > 0
        return to_device(position)

    def run(self, kernel, wave, arguments):
        """Launch a kernel until no lane that had finished its solve is RUNNING."""
        status = to_device(np.where(wave.ended == FINISHED, RUNNING, wave.ended))
        while True:
            kernel.launch(self.samples.field, self.sizes, wave.lanes, (*arguments, status))
            if not np.any(status.copy_to_host() == RUNNING):
                return

    def push(self, wave, y0_tans, theta_tan):
        """Tangents of a wave, in one direction for each lane, (lanes, n), or theta's (p,): (ys_tans, y1_tans)."""
        samples, real = self.samples, self.samples.real
        at_start = np.count_nonzero(wave.place(samples.ys_step) == -1, axis=0)
        y_tans = to_device(y0_tans.T, real)
        ys_tans = to_device(np.tile(y0_tans.T, (wave.most, 1, 1)), real)       # those at t0 are y0's
        self.run(self.push_kernel, wave, (*self.stored(wave), self.positions(wave, 0, at_start), to_device(theta_tan, real),
                                          y_tans, ys_tans))
        return wave.in_a_row(ys_tans.copy_to_host()), y_tans.copy_to_host().T

    def pull_wave(self, wave):
        """Cotangents of a wave's inputs, from the seeds of its lanes."""
        own = slice(wave.start, wave.stop)
        self.pull_by(wave, pull_lanes, lambda *bars: (*self.stored(wave), *bars),
                     self.positions(wave, self.samples.counts[own, STEPS], wave.seen))

    def pull_by(self, wave, kernel, arguments, positions):
        """`pull_wave` by a kernel; ``arguments(positions, ys_bar, y_bars, theta_bars)`` is what it takes."""
        samples, real = self.samples, self.samples.real
        own, p = slice(wave.start, wave.stop), samples.thetas.shape[1]
        ys_bar, y_bars = to_device(wave.place(self.ys_bar), real), to_device(self.y_bars[own].T, real)
        theta_bars = to_device(np.zeros((p, wave.lanes)), real)
        self.run(kernel, wave, arguments(positions, ys_bar, y_bars, theta_bars))
        self.y_bars[own] = y_bars.copy_to_host().T
        self.keep_theta(wave, theta_bars.copy_to_host().T.astype(np.float64))
        self.time_wave(wave, ys_bar, y_bars)

    def keep_theta(self, wave, theta_bars):
        """Rows of theta_bars where every lane has parameters of its own, else into the sum."""
        done = wave.ended == FINISHED
        if self.samples.batch.own_theta:
            self.theta_bars[wave.start:wave.stop][done] = theta_bars[done]
        else:
            self.theta_sum += np.add.reduce(theta_bars[done], axis=0)

    def time_wave(self, wave, ys_bar, y_bars):
        """Cotangents of all times of a wave's lanes."""
        samples, own = self.samples, slice(wave.start, wave.stop)
        slopes = device_array((wave.most + 2, samples.n, wave.lanes), samples.real)
        times_bar = device_array((wave.most + 2, wave.lanes), np.float64)
        self.run(time_lanes, wave, (
            to_device(samples.batch.spans[own].T), samples.lanes_of(samples.y0s, own), wave.y1s, wave.tape,
            wave.thetas, wave.ts, wave.seen_there, wave.ys, ys_bar, y_bars, self.y1_lanes(own), slopes, times_bar))
        first = samples.batch.ts_first
        rows = slice(first[wave.start] + 2 * wave.start, first[wave.stop] + 2 * wave.stop)
        self.times_bar[rows] = wave.in_a_row(times_bar.copy_to_host(), 2)

    def y1_lanes(self, own):
        """Cotangents of the last states, (n, lanes)."""
        return to_device(self.y1_bars[own].T, self.samples.real)

    def contract_wave(self, wave):
        """The same cotangents by tangents in every direction, contracted with the seeds. Implements nothing new: (VAR-2)."""
        samples = self.samples
        own, p = slice(wave.start, wave.stop), samples.thetas.shape[1]
        rows = slice(samples.batch.ts_first[wave.start], samples.batch.ts_first[wave.stop])
        bars = np.empty((wave.lanes, samples.n + p))
        for j in range(samples.n + p):
            direction = np.eye(samples.n + p)[j]
            ys_tan, y1_tans = self.push(wave, np.tile(direction[:samples.n], (wave.lanes, 1)), direction[samples.n:])
            observed = np.einsum("kn,kn->k", self.ys_bar[rows], ys_tan)
            bars[:, j] = (np.bincount(np.repeat(np.arange(wave.lanes), wave.seen), observed, wave.lanes)
                          + np.einsum("ln,ln->l", self.y1_bars[own], y1_tans))
        self.y_bars[own] = np.where((wave.ended == FINISHED)[:, None], bars[:, :samples.n], np.nan)
        self.keep_theta(wave, bars[:, samples.n:])
        real = samples.real
        self.time_wave(wave, to_device(wave.place(self.ys_bar), real), to_device(self.y_bars[own].T, real))

    def all_time_cotangents(self):
        return self.times_bar


SWEEPS = {               # (equation, reversal) -> the samples, and what takes a wave's seeds to its cotangents
    ("transpose", "stored"): (functools.partial(DeviceSamples, keep=True), DeviceSweep.pull_wave),
    ("tangent", "stored"): (functools.partial(DeviceSamples, keep=True), DeviceSweep.contract_wave),
    ("transpose", "binomial"): (functools.partial(PlacedSamples, reversal="binomial"), pull_placed_wave),
    ("transpose", "online"): (functools.partial(PlacedSamples, reversal="online"), pull_placed_wave),
}
REVERSIBLE_SWEEPS = {("transpose", "inverted"): (ReversibleSamples, pull_reversible_wave)}         # of methods with an inverse step


def gradient_on_device(batch, sensitivity, recipe, own, options, on_failure, real, step_control="per_sample"):
    """`gradient_batch` on a GPU, wave by wave.

    Raises
    ------
    InvalidInputError
        If the recipe does not run there; lists those that do.
    """
    samples_of, sweep_wave = sweep_on_device(sensitivity, recipe, own, options)
    if step_control == "joint":
        if recipe.reversal != "stored":
            raise InvalidInputError(f"step_control='joint' on device='cuda' has the recipes 'discrete' and 'discrete_forward', found {sensitivity!r}")
        from refnode.sensitivity.perceptron_gradient_cuda import joint_tile_gradient
        return joint_tile_gradient(batch, sensitivity, recipe, options, real)
    if batch.on_device:
        from refnode.sensitivity.resident_gradient_cuda import resident_gradient
        return resident_gradient(batch, sensitivity, recipe, own, options, on_failure, real)
    if recipe.reversal == "stored" and tiles_serve(batch, batch.flow_field, options):
        from refnode.sensitivity.perceptron_gradient_cuda import tile_gradient
        return tile_gradient(batch, sensitivity, recipe, options, on_failure, real)
    samples = samples_of(batch, batch.flow_field, batch.flow_y0, options, real=real, **own)
    sweep = DeviceSweep(samples)
    for wave in samples.waves():
        if on_failure == "skip" or np.all(samples.status[:wave.stop] == FINISHED):
            sweep.seed(wave.start, wave.stop)
            sweep_wave(sweep, wave)
    return gradient_of_samples(samples, sweep, sensitivity, on_failure)


def sweep_on_device(sensitivity, recipe, own, options):
    """The samples and the sweep of a recipe for the method asked for, or InvalidInputError."""
    table = SWEEPS if options.scheme is None else REVERSIBLE_SWEEPS
    found = table.get((recipe.equation, recipe.reversal))
    if found is None or set(own) - {"checkpoints"}:
        able = [[name for name, row in RECIPES.items() if (row.equation, row.reversal) in sweeps]
                for sweeps in (SWEEPS, REVERSIBLE_SWEEPS)]
        raise InvalidInputError(
            f'device="cuda" has the recipes {able[0]} for Runge-Kutta methods and {able[1]} for reversible ones, with no '
            f"options of their own but checkpoints; found {sensitivity!r} for {(options.scheme or options.tableau).name!r}"
            f"{', ' + ', '.join(own) if own else ''}")
    return found


def gradient_of_one(problem, sensitivity, real, options):
    """`gradient` as a batch of one on a GPU."""
    found = gradient_batch(problem.as_batch(), sensitivity, device="cuda", dtype=real, **options)
    return Gradient(found.y0[0], found.theta, float(found.t0[0]), float(found.t1[0]), found.ts[0],
                    {name: int(counts[0]) for name, counts in found.stats.items()}, float(found.loss[0]), sensitivity,
                    lambda: found.solution[0])
