"""The transpose of a reversible method's steps on a GPU, each undone: every lane holds two states, however many steps it takes.

The bodies are those of `reversible_path` and `reversible_adjoint`; see `solve.batch_cuda` for lanes and waves. The
times of the steps are given, one row for all lanes or one for each.
"""
import warnings

import numpy as np

from refnode.cuda_device import Kernel, SchemeSizes, cuda_module, to_device
from refnode.errors import GradientWarning, IntegrationError
from refnode.linalg import copy_into
from refnode.sensitivity.reversible_adjoint import HALF_THE_DIGITS, INVERTED, OBSERVATION, SLICE, STEP, pull_through_states
from refnode.solve import batch_cuda
from refnode.solve.batch_cuda import DeviceSamples, Wave, places, require_device_field
from refnode.solve.integrate import FINISHED, MAX_STEPS, RUNNING, STEPS
from refnode.solve.reversible_path import copy_rows, refined_grid, require_separable, take_steps

cuda = cuda_module()           # of this name the simulator puts its own in a kernel's place


# --- kernels --------------------------------------------------------------------------------------

@Kernel
def integrate_lanes_reversibly(on_device, field, sizes):
    """`take_steps` for every lane that is RUNNING, which keeps its last state alone."""
    loop, f, copy, rows_of = on_device(take_steps), on_device(field.f), on_device(copy_into), on_device(copy_rows)
    code, cost, coupling, real = sizes.code, sizes.cost, sizes.dtype(sizes.coupling), sizes.dtype
    states, evaluations = (2, sizes.rows, sizes.n), (sizes.evaluations, sizes.n)

    def lanes(A, b, c, grids, grid_sizes, limits, thetas, clocks, counts, y1s, x1s, tape, ts, seen, ys, ys_step, status):
        i = cuda.grid(1)
        if i < status.shape[0] and status[i] == RUNNING:
            x, times = cuda.local.array(states, real), cuda.local.array(1, np.float64)
            z, k = cuda.local.array(evaluations, real), cuda.local.array(evaluations, real)
            own, step = min(i, thetas.shape[1] - 1), min(i, grids.shape[1] - 1)
            rows_of(x1s[:, :, i], x[0])
            status[i] = loop(f, code, cost, coupling, A, b, c, grids[:grid_sizes[step], step], limits, thetas[:, own],
                             clocks[:, i], counts[:, i], times, x, z, k, tape[:, :, i], ts[:seen[i], i], ys[:seen[i], :, i],
                             ys_step[:seen[i], i])
            rows_of(x[0], x1s[:, :, i])
            copy(x[0, 0], y1s[:, i])
    return lanes


@Kernel
def pull_lanes_reversibly(on_device, field, sizes):
    """`pull_through_states` for every lane that is RUNNING: undoes its steps, and leaves its y0_bar in x_bars[0]."""
    loop, f, f_vjp, rows_of = on_device(pull_through_states), on_device(field.f), on_device(field.vjp), on_device(copy_rows)
    code, cost, coupling, real = sizes.code, sizes.cost, sizes.dtype(sizes.coupling), sizes.dtype
    states, evaluations, n = (1, sizes.rows, sizes.n), (sizes.evaluations, sizes.n), sizes.n

    def lanes(A, b, c, grids, grid_sizes, thetas, y0s, x1s, tape, seen, ys, ys_step, positions, ys_bar, x_bars, drifts,
              theta_bars, status):
        i = cuda.grid(1)
        if i < status.shape[0] and status[i] == RUNNING:
            x, z_bar, t_bar = cuda.local.array(states, real), cuda.local.array(n, real), cuda.local.array(1, real)
            z, k, k_bar = (cuda.local.array(evaluations, real), cuda.local.array(evaluations, real),
                           cuda.local.array(evaluations, real))
            own, step = min(i, thetas.shape[1] - 1), min(i, grids.shape[1] - 1)
            t_bar[0] = 0.0
            status[i] = loop(f, f_vjp, code, cost, coupling, A, b, c, grids[:grid_sizes[step], step], x, z, k, tape[:, :, i],
                             thetas[:, own], y0s[:, i], ys_step[:seen[i], i], positions[:, i], ys_bar[:seen[i], :, i],
                             x_bars[:, :, i], z_bar, k_bar, t_bar, x1s[:, :, i], ys[:seen[i], :, i], drifts[:, i],
                             theta_bars[:, i])
    return lanes


# --- the host's side ------------------------------------------------------------------------------

class ReversibleSamples(DeviceSamples):
    """Samples that take given steps of a reversible method, and keep their last state."""

    def __init__(self, batch, field, y0s, options, *, real):
        require_device_field(batch.field)
        for problem in batch:
            require_separable(problem, options.scheme)
        self.batch, self.options, self.field, self.y0s, self.n = batch, options, field, y0s, y0s.shape[1]
        self.keep, self.real, self.wave_of = False, real, ReversibleWave
        self.s, self.extra, self.w = 0, 0, np.empty(0)
        self.sizes = SchemeSizes(options.scheme, self.n, real)
        self.make_results()
        self.grids, self.grid_sizes = self._refined_grids()
        self.limits[MAX_STEPS] = self.grids.shape[1]
        self.tolerance = None, np.atleast_1d(options.rtol)      # a message names it where a step has no length

    def _refined_grids(self):
        """The times of all steps, one row for all samples or one for each, and how many they are."""
        batch = self.batch
        shared = batch.same_count and np.all(batch.spans == batch.spans[0]) and (
            not batch.ts.size or np.all(batch.ts.reshape(len(batch), -1) == batch.ts[:batch.ts_first[1]]))
        samples = range(1 if shared else len(batch))
        grids = [refined_grid(self.options.grid(*batch.spans[i].tolist()), batch.ts[batch.observations(i)]) for i in samples]
        grids = [grid if grid.size else batch.spans[i, :1] for i, grid in zip(samples, grids)]     # t1 = t0
        sizes = np.array([grid.size for grid in grids])
        return np.array([np.pad(grid, (0, sizes.max() - grid.size), mode="edge") for grid in grids]), sizes


class ReversibleWave(Wave):
    """Lanes with the last state of each."""

    kernel = integrate_lanes_reversibly

    def make_method(self):
        samples = self.samples
        self.method = tuple(to_device(array) for array in (samples.sizes.A, samples.sizes.b, samples.sizes.c))
        own = slice(None) if len(samples.grid_sizes) == 1 else slice(self.start, self.stop)
        self.grid_sizes = to_device(samples.grid_sizes[own])

    def make_history(self):
        x1s = np.zeros((self.samples.sizes.rows, self.samples.n, self.lanes))
        x1s[0] = self.samples.y0s[self.start:self.stop].T
        self.x1s = to_device(x1s, self.samples.real)

    def arguments(self):
        return (*self.method, self.grids, self.grid_sizes, self.limits, self.thetas, self.clocks, self.counts, self.y1s, self.x1s,
                self.tape, self.ts, self.seen_there, self.ys, self.ys_step, self.status)


def pull_reversible_wave(sweep, wave):
    """Cotangents of a wave's inputs by undone steps.

    Raises
    ------
    IntegrationError
        If undoing the steps of a sample overflows.

    Warns
    -----
    GradientWarning
        If the states of a sample come back with less than half of their digits.
    """
    samples, real, own = sweep.samples, sweep.samples.real, slice(wave.start, wave.stop)
    x_bars = np.zeros((samples.sizes.rows, samples.n, wave.lanes))
    x_bars[0] = sweep.y_bars[own].T
    x_bars, ys_bar = to_device(x_bars, real), to_device(wave.place(sweep.ys_bar), real)
    drifts = to_device(np.zeros((samples.n, wave.lanes)), real)
    theta_bars = to_device(np.zeros((samples.thetas.shape[1], wave.lanes)), real)
    position = np.zeros((4, wave.lanes), dtype=np.int64)
    position[STEP], position[OBSERVATION] = samples.counts[own, STEPS], wave.seen
    position[SLICE], position[INVERTED] = batch_cuda.STEPS_OF_A_LAUNCH, 1
    positions, y0s = to_device(position), to_device(samples.y0s[own].T, real)
    sweep.run(pull_lanes_reversibly, wave, (
        *wave.method, wave.grids, wave.grid_sizes, wave.thetas, y0s, wave.x1s, wave.tape, wave.seen_there, wave.ys,
        wave.ys_step, positions, ys_bar, x_bars, drifts, theta_bars))
    done = wave.ended == FINISHED
    found = x_bars.copy_to_host()[0].T.astype(np.float64)
    for j, i in zip(*places(positions.copy_to_host()[OBSERVATION])):         # what is left was observed at t0
        found[i] += sweep.ys_bar[samples.batch.ts_first[wave.start + i] + j]
    sweep.y_bars[own][done] = found[done]
    sweep.keep_theta(wave, theta_bars.copy_to_host().T.astype(np.float64))
    sweep.time_wave(wave, ys_bar, to_device(sweep.y_bars[own].T, real))
    judge_drift(samples, wave, drifts.copy_to_host().T, wave.x1s.copy_to_host()[0].T)


def judge_drift(samples, wave, drift, y_back):
    """Raise or warn where undone states missed the known ones."""
    own = slice(wave.start, wave.stop)
    with np.errstate(invalid="ignore"):
        drift = np.maximum(drift, np.abs(y_back - samples.y0s[own]))[wave.ended == FINISHED]
    name = samples.options.scheme.name
    if not np.all(np.isfinite(drift)):
        raise IntegrationError(f"undoing the steps of {name!r} overflowed: backwards they are unstable on this batch; take "
                               "shorter steps, or a method whose steps are kept")
    known = np.maximum(np.abs(samples.y0s[own]), np.abs(samples.y1s[own]))[wave.ended == FINISHED]
    eps = np.finfo(samples.real).eps
    ulp = np.max(drift / (eps * np.where(known > 0.0, known, 1.0)), initial=0.0)
    if ulp > min(HALF_THE_DIGITS, eps**-0.5):
        warnings.warn(f"undone steps of {name!r} missed the known states by {ulp:.3g} ULP, a relative {ulp * eps:.1g}: the "
                      "gradient is uncertain by about that much times the growth of the tangents; take shorter steps, or "
                      "observe more often", GradientWarning, stacklevel=5)
