"""The solutions of a batch: every sample with steps of its own, or all with the same steps."""
import dataclasses
import functools

import numpy as np

from refnode.checks import require_place
from refnode.cuda_device import device_and_real
from refnode.errors import InvalidInputError
from refnode.solve.initial_value import solve
from refnode.solve.options import SolveOptions
from refnode.solve.samples import BatchSolution, samples_on_cpu
from refnode.solve.threads import in_parts, thread_count

STEP_CONTROLS = ("per_sample", "joint")


def solve_batch(batch, step_control="per_sample", device="cpu", dtype="float64", threads=1, **options):
    """Integrate all samples of a batch.

    Parameters
    ----------
    batch : Batch
    step_control : "per_sample" or "joint"
        ``"per_sample"``: every sample has steps of its own, and the same result, bit for bit, alone and in
        any batch; one that fails does not disturb the others. ``"joint"``: one step for all, chosen by the
        RMS of the error over samples and components together, as libraries do that batch along an axis of
        the state. It couples the samples: see ``docs/batches.md``.
    device : "cpu", "cuda" or "auto"
        On a GPU every sample is a thread, see ``docs/cuda.md``; ``"auto"`` takes one if it can be used.
    dtype : "float64" or "float32"
        Of state and parameters on the GPU; times are double in any case. The CPU knows float64 alone.
    threads : int or None
        How many samples run side by side on the CPU; None is one for each processor that this process may
        use. No bit of the result depends on it. One thread does what is plain Python, or under joint control.
    **options
        As for `solve`. Vectors ``rtol`` and ``atol`` have the length of one sample's state.

    Returns
    -------
    BatchSolution

    Raises
    ------
    InvalidInputError
        If an argument is wrong, or samples under joint control differ in their times.
    BackendError
        If ``device="cuda"`` cannot be used; it names what is missing.
    """
    device, real = device_and_real(device, dtype)
    threads = thread_count(threads)
    require_control(step_control)
    require_place(batch, device, real)
    batch.field.check_first_call(batch.spans[0, 0], batch.first.y0, batch.first.theta)
    if step_control == "joint":
        if device == "cuda":
            from refnode.solve.perceptron_joint_cuda import solve_jointly
            return solve_jointly(batch, SolveOptions.of(**options), real)
        stacked = batch.replace(loss=None).joint()
        return split_solution(batch, solve(stacked, **joint_options(batch, batch.y0.shape[1], options)))
    samples = samples_on(device, real, batch)(batch, batch.field, batch.y0, SolveOptions.of(**options), keep=False)
    if device == "cuda":
        samples.run_forward()
    else:
        in_parts(samples, threads, lambda worker, part: worker.run_forward(*part), lambda part, end: None, len(batch))
    samples.give_back_tape()
    return samples.solution()


def samples_on(device, real, batch):
    """`Samples` for the CPU, or for the GPU, where results may stay."""
    if device == "cpu":
        return samples_on_cpu
    if batch.on_device:
        from refnode.solve.resident_cuda import ResidentSamples
        return functools.partial(ResidentSamples, real=real)
    from refnode.solve.perceptron_cuda import samples_of
    return functools.partial(samples_of, real=real)


def require_control(step_control):
    """Raise InvalidInputError unless there is such a step control."""
    if step_control not in STEP_CONTROLS:
        raise InvalidInputError(f"step_control must be one of {list(STEP_CONTROLS)}, found {step_control!r}")


def joint_options(batch, size, options):
    """Options for the stacked problem: a tolerance for each state is repeated for every sample of ``size`` states."""
    repeated = {}
    for name in ("rtol", "atol"):
        vector = np.asarray(options.get(name, 0.0))
        if vector.ndim == 1:
            if vector.size != batch.y0.shape[1]:
                raise InvalidInputError(f"{name} must be a number or have one entry for each of the "
                                        f"{batch.y0.shape[1]} states of a sample, found shape {vector.shape}")
            repeated[name] = np.tile(np.append(vector, vector[-1:])[:size], len(batch))
    return {**options, **repeated}


def split_solution(batch, joint):
    """The `BatchSolution` of a stacked solve, whose states may hold running costs behind those of a sample."""
    count, n = batch.y0.shape
    y, y1 = joint.y.reshape(count, -1, joint.t.size)[:, :n], joint.y1.reshape(count, -1)[:, :n]
    all_y = np.full((count, n, batch.ts_first[1]), np.nan)
    all_y[:, :, :joint.t.size] = y
    same = lambda value: np.full(count, value)
    return BatchSolution(
        all_y, y1, same(joint.status), same(joint.nfev), same(joint.n_steps), same(joint.n_rejected), "joint", joint,
        lambda i: dataclasses.replace(joint, y=y[i], y1=y1[i]))
