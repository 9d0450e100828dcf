"""The transpose of steps that were not stored, on a GPU: every lane has checkpoints of its own and takes steps again.

The bodies are those of `checkpointing`; see `solve.batch_cuda` for lanes and waves. A lane keeps the times of its
steps, 8 bytes each, and the states its plan asks for.
"""
import numpy as np

from refnode.cuda_device import Kernel, cuda_module, device_array, to_device
from refnode.linalg import copy_into
from refnode.sensitivity.checkpoint_schedule import CHOOSE, END, NOW, PHASE, SLICE, new_plan
from refnode.sensitivity.checkpointing import DEFAULT_CHECKPOINTS, FIRST_SWEEPS, integrate_and_place
from refnode.sensitivity.lane_adjoint_cuda import pull_lanes_placed
from refnode.solve import batch_cuda
from refnode.solve.batch_cuda import DeviceSamples, Wave
from refnode.solve.integrate import FINISHED, KEEP, MAX_STEPS, RUNNING, STEPS, T

cuda = cuda_module()           # of this name the simulator puts its own in a kernel's place


# --- kernels --------------------------------------------------------------------------------------

@Kernel
def integrate_lanes_placed(on_device, field, sizes):
    """`integrate_and_place` for every lane that is RUNNING."""
    loop, f, copy = on_device(integrate_and_place), on_device(field.f), on_device(copy_into)
    A, b, c, E, P, real = sizes.A, sizes.b, sizes.c, sizes.E, sizes.P, sizes.dtype
    states_of_step, slopes, n, weights = (2, sizes.n), (sizes.s + 1, sizes.n), sizes.n, sizes.weights

    def lanes(A_extra, c_extra, control, rtol, atol, blocks, grids, limits, thetas, clocks, counts, y1s, slopes1, log, states,
              steps, levels, slots, plans, k_extra, tape, ts, seen, ys, ys_step, status):
        i = cuda.grid(1)
        if i < status.shape[0] and status[i] == RUNNING:
            y, k, times = cuda.local.array(states_of_step, real), cuda.local.array(slopes, real), cuda.local.array(1, np.float64)
            z, w, y_before = cuda.local.array(n, real), cuda.local.array(weights, real), cuda.local.array(n, real)
            clock, count, limit = cuda.local.array(5, np.float64), cuda.local.array(6, np.int64), cuda.local.array(6, np.int64)
            copy(limits, limit)
            copy(clocks[:, i], clock)
            copy(counts[:, i], count)
            copy(y1s[:, i], y[0])
            copy(slopes1[:, i], k[0])
            own, step = min(i, thetas.shape[1] - 1), min(i, grids.shape[1] - 1)
            log[0, i] = clock[T] if count[STEPS] == 0 else log[0, i]
            status[i] = loop(
                f, (cuda.const.array_like(A), cuda.const.array_like(b), cuda.const.array_like(c), cuda.const.array_like(E),
                    cuda.const.array_like(P), A_extra, c_extra, control, rtol, atol, blocks, grids[:, step], limit,
                    thetas[:, own], clock, count, times, y, k, k_extra[:, :, :, i], tape[:, :, i], ts[:seen[i], i],
                    ys[:seen[i], :, i], ys_step[:seen[i], i], z, w),
                log[:, i], y_before, states[:, :, i], steps[:, i], levels[:, i], slots[:, i], plans[:, i])
            copy(clock, clocks[:, i])
            copy(count, counts[:, i])
            copy(y[0], y1s[:, i])
            copy(k[0], slopes1[:, i])
    return lanes


# --- the host's side ------------------------------------------------------------------------------

class PlacedSamples(DeviceSamples):
    """Samples that keep the times of their steps and some states."""

    def __init__(self, batch, field, y0s, options, *, real, reversal, checkpoints=DEFAULT_CHECKPOINTS):
        super().__init__(batch, field, y0s, options, keep=True, real=real)
        self.known = max(self.grids.shape[1] - 1, 0)
        slots = min(checkpoints, int(self.limits[MAX_STEPS]))
        self.plan, self.stack = new_plan(*FIRST_SWEEPS[reversal](slots, self.known))
        self.wave_of = PlacedWave
        self.limits[KEEP] = False

    def row_bytes(self):
        return 8

    def lane_bytes(self):
        """Bytes of a lane's checkpoints and of the step that it takes again."""
        real = self.sizes.A.itemsize
        return real * self.n * (len(self.stack[0]) + self.s + self.extra + 4) + 8 * (3 * len(self.stack[0]) + len(self.plan))


class PlacedWave(Wave):
    """Lanes with their checkpoints."""

    kernel = integrate_lanes_placed

    def make_history(self):
        samples, lanes, real = self.samples, self.lanes, self.samples.real
        repeated = lambda array: to_device(np.repeat(array[:, None], lanes, axis=1))
        self.slopes1 = to_device(np.zeros((samples.n, lanes)), real)
        self.log = device_array((samples.room + 1, lanes), np.float64)
        self.states = device_array((len(samples.stack[0]), samples.n, lanes), real)
        self.steps, self.levels, self.slots = map(repeated, samples.stack)
        plan = samples.plan.copy()
        plan[SLICE] = batch_cuda.STEPS_OF_A_LAUNCH
        self.plans = repeated(plan)
        self.y, self.k = device_array((2, samples.n, lanes), real), device_array((samples.s + 1, samples.n, lanes), real)
        self.k_extra = device_array((1, samples.extra, samples.n, lanes), real)
        return self.slopes1, self.log, self.states, self.steps, self.levels, self.slots, self.plans

    def plans_of_reverse(self):
        """The plans where the reverse sweep begins: behind the last step, with nothing recorded."""
        plans = self.plans.copy_to_host()
        plans[END], plans[NOW], plans[PHASE] = self.counts.copy_to_host()[STEPS], -1, CHOOSE
        return to_device(plans)


def pull_placed_wave(sweep, wave):
    """`DeviceSweep.pull_wave` from checkpoints."""
    def arguments(positions, ys_bar, y_bars, theta_bars):
        return (*wave.extra_method, wave.counts, wave.log, wave.y, wave.k, wave.k_extra, wave.tape, wave.thetas, wave.ts,
                wave.seen_there, wave.ys_step, positions, ys_bar, y_bars, theta_bars, wave.states, wave.steps, wave.slots,
                wave.plans_of_reverse())
    sweep.pull_by(wave, pull_lanes_placed, arguments, sweep.positions(wave, 0, wave.seen, recompute=False))
