"""Gradients of batches whose arrays lie on a GPU: losses are evaluated there, and cotangents stay there."""
import numpy as np

from refnode.cuda_arrays import result_array, taken, zero_result
from refnode.cuda_device import Kernel, cuda_module, device_array, to_device
from refnode.errors import InvalidInputError, InvalidTypeError
from refnode.sensitivity.batch_gradient import gradient_of_samples
from refnode.sensitivity.batch_gradient_cuda import DeviceSweep
from refnode.sensitivity.checkpointing_cuda import PlacedSamples, pull_placed_wave
from refnode.solve.integrate import FINISHED, SEEN
from refnode.solve.resident_cuda import Resident, ResidentSamples

cuda = cuda_module()           # of this name the simulator puts its own in a kernel's place

CHUNK = 256                    # rows whose sum is one thread's


# --- kernels --------------------------------------------------------------------------------------

@Kernel
def seed_lanes(on_device, field, sizes):
    """L = sum_ik square (y - centre_ik)^2 + slope_ik y of every lane, and its cotangents; see `SumOfSquares.coefficients`."""
    def lanes(square, centre, slope, ys, ys_bar, losses):
        i = cuda.grid(1)
        if i < losses.shape[0]:
            total = 0.0
            for k in range(ys.shape[0]):
                for m in range(ys.shape[1]):
                    residual = ys[k, m, i] - centre[k, m]
                    total += square * residual * residual + slope[k, m] * ys[k, m, i]
                    ys_bar[k, m, i] = 2.0 * square * residual + slope[k, m]
            losses[i] = total
    return lanes


@Kernel
def sum_rows(on_device, field, sizes):
    """sums[c] += rows[r] for the rows of chunk c that finished, in their order. Row 0 is the batch's row ``first``."""
    def lanes(first, chunk, ended, rows, sums):
        entry, p = cuda.grid(1), rows.shape[1]
        c, m = entry // p, entry % p
        if c < sums.shape[0]:
            total = sums[c, m]
            for r in range(max(c * chunk - first, 0), min((c + 1) * chunk - first, rows.shape[0])):
                if ended[r] == FINISHED:
                    total += rows[r, m]
            sums[c, m] = total
    return lanes


def zero_rows(field, sizes, count, p, real):
    """Sums of chunks of ``count`` rows of p entries, at zero."""
    return to_device(np.zeros((max(1, -(-count // CHUNK)), p)), real)


def add_to_chunks(field, sizes, first, ended, rows, sums):
    """`sum_rows` of an array (lanes, p)."""
    sum_rows.launch(field, sizes, sums.shape[0] * sums.shape[1], (first, CHUNK, ended, rows, sums))


def total_of_chunks(field, sizes, sums, real):
    """The sum of all chunks, (p,): chunks of chunks, until one is left. The order depends on the number of rows alone."""
    count, p = sums.shape
    out = zero_rows(field, sizes, count, p, real) if count > CHUNK else zero_result((1, p), real)
    add_to_chunks(field, sizes, 0, to_device(np.full(count, FINISHED)), sums, out)
    return out[0] if count <= CHUNK else total_of_chunks(field, sizes, out, real)


# --- the host's side ------------------------------------------------------------------------------

class ResidentPlacedSamples(Resident, PlacedSamples):
    """`PlacedSamples` that stay on the device."""


class ResidentSweep(DeviceSweep):
    """Cotangents of all samples, on the device; those of times on the host, where times are."""

    def __init__(self, samples):
        self.samples, self.sizes, real = samples, samples.sizes, samples.real
        (count, n), p = samples.y0s.shape, samples.thetas.shape[1]
        self.loss, self.y_bars = result_array((count, 1), real), result_array((count, n), real)
        self.theta_bars = result_array((count, p), real) if samples.batch.own_theta else None
        self.chunks = zero_rows(samples.field, samples.sizes, count, p, real)
        self.times_bar = np.full(samples.batch.ts.size + 2 * count, np.nan)

    def seed_wave(self, wave):
        """Losses of a wave, and the cotangents of its observations, (K, n, lanes)."""
        samples, loss = self.samples, self.samples.batch.losses[0]
        if hasattr(loss, "function"):
            return self._seed_by_function(wave, loss.function)
        square, centre, slope = loss.coefficients((samples.n, wave.most))
        ys_bar, losses = device_array(wave.ys.shape, samples.real), device_array((1, wave.lanes), samples.real)
        seed_lanes.launch(samples.field, samples.sizes, wave.lanes, (
            square, to_device(centre.T, samples.real), to_device(slope.T, samples.real), wave.ys, ys_bar, losses[0]))
        self.put(losses, wave, self.loss)
        return ys_bar

    def _seed_by_function(self, wave, function):
        """The same by a user's function, which sees a sample a row."""
        samples, own = self.samples, slice(wave.start, wave.stop)
        found = function(samples.ys[own], own)
        if not (isinstance(found, tuple) and len(found) == 2):
            raise InvalidTypeError(f"the function of losses.on_device must return (loss, y_bar), found {type(found).__name__}")
        shapes = (wave.lanes,), (wave.lanes, samples.n, wave.most)
        loss, y_bar = (taken(name, value) for name, value in zip(("loss", "y_bar"), found))
        for name, value, shape in zip(("loss", "y_bar"), (loss, y_bar), shapes):
            if not getattr(value, "on_device", False) or value.shape != shape or value.dtype.name != samples.real:
                raise InvalidInputError(f"{name} must be an array on the GPU of shape {shape} and dtype {samples.real}, found "
                                        f"{value!r}")
        self.put(loss.view.reshape(1, wave.lanes), wave, self.loss)
        return samples.placed(y_bar.view)

    def put(self, placed, wave, rows):
        """(m, lanes) to a wave's rows; NaN for the lanes that failed."""
        self.samples.put_rows(placed, (wave.ended == FINISHED).astype(np.int64), rows[wave.start:wave.stop])

    def pull_by(self, wave, kernel, arguments, positions):
        samples, p = self.samples, self.samples.thetas.shape[1]
        ys_bar = self.seed_wave(wave)
        y_bars, theta_bars = self.y1_lanes(slice(wave.start, wave.stop)), to_device(np.zeros((p, wave.lanes)), samples.real)
        self.run(kernel, wave, arguments(positions, ys_bar, y_bars, theta_bars))
        self.put(y_bars, wave, self.y_bars)
        rows = device_array((wave.lanes, p), samples.real) if self.theta_bars is None else self.theta_bars[wave.start:wave.stop]
        samples.put_rows(theta_bars, (wave.ended == FINISHED).astype(np.int64), rows)
        if self.theta_bars is None and p:
            add_to_chunks(samples.field, samples.sizes, wave.start, wave.status, rows, self.chunks)
        self.time_wave(wave, ys_bar, y_bars)

    def y1_lanes(self, own):
        """The loss is one of observations: y(t1) has no cotangent of its own."""
        return to_device(np.zeros((self.samples.n, own.stop - own.start)), self.samples.real)

    def finish(self):
        """Loss (B,), and the gradient of a shared theta."""
        samples = self.samples
        self.loss = self.loss.reshape(self.loss.shape[0])
        if self.theta_bars is None:
            p = samples.thetas.shape[1]
            self.theta_sum = (total_of_chunks(samples.field, samples.sizes, self.chunks, samples.real) if p
                              else result_array((0,), samples.real))


SWEEPS = {"stored": (ResidentSamples, DeviceSweep.pull_wave), "binomial": (ResidentPlacedSamples, pull_placed_wave),
          "online": (ResidentPlacedSamples, pull_placed_wave)}


def resident_gradient(batch, sensitivity, recipe, own, options, on_failure, real):
    """`gradient_batch` of a batch whose y0 or theta lies on a GPU.

    Raises
    ------
    InvalidInputError
        If the recipe or the loss needs the host.
    """
    if recipe.equation != "transpose" or options.scheme is not None:
        raise InvalidInputError("where y0 or theta lies on a GPU there are the recipes 'discrete', 'checkpointed' and "
                                f"'online', of Runge-Kutta methods; found {sensitivity!r}")
    loss = batch.losses[0]
    if any(each is not loss for each in batch.losses) or not (hasattr(loss, "coefficients") or hasattr(loss, "function")):
        raise InvalidInputError(
            "where y0 or theta lies on a GPU, all samples share a loss that is evaluated there: sum_of_squares, "
            f"mean_of_squares, linear or on_device; found {type(loss).__name__}")
    samples_of, sweep_wave = SWEEPS[recipe.reversal]
    how = {"keep": True} if recipe.reversal == "stored" else {"reversal": recipe.reversal, **own}
    samples = samples_of(batch, batch.field, batch.y0, options, real=real, **how)
    sweep = ResidentSweep(samples)
    for wave in samples.waves():
        if on_failure == "skip" or np.all(samples.status[:wave.stop] == FINISHED):
            sweep_wave(sweep, wave)
    sweep.finish()
    return gradient_of_samples(samples, sweep, sensitivity, on_failure)
