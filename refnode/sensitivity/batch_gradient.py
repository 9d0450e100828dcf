"""The derivative of a batch: by every sample's discrete adjoint in one compiled loop, or any recipe sample by sample."""
import dataclasses

import numpy as np

from refnode.checks import require_place
from refnode.cuda_device import device_and_real
from refnode.errors import IntegrationError, InvalidInputError
from refnode.sensitivity.batch_parts import sweep_parts
from refnode.sensitivity.batch_sweep import sweep_over
from refnode.sensitivity.forward_solve import check_first_call
from refnode.sensitivity.gradient import checked_call, gradient
from refnode.solve.batch import joint_options, require_control, split_solution
from refnode.solve.integrate import EVALUATIONS, FINISHED, REJECTED, STEP_TOO_SMALL, STEPS
from refnode.solve.samples import rows_at_a_time, samples_on_cpu
from refnode.solve.threads import thread_count


@dataclasses.dataclass
class BatchGradient:
    """Derivatives of the sum of a batch's losses.

    Attributes
    ----------
    loss : ndarray, shape (B,)
        Loss of each sample; that of the batch is their sum, `total`.
    y0 : ndarray, shape (B, n), [loss/state]
    theta : ndarray, shape (p,) or (B, p), [loss/parameter]
        The sum over samples, in their order, where they share theta; else of each.
    t0, t1 : ndarray, shape (B,), [loss/time]
        Of each sample, whether or not they share an interval. Under joint control, where the interval is one
        input, one number each: the sum.
    ts : ndarray, shape (B, K), or list of B ndarrays, [loss/time]
        Of each sample; no columns if the samples observe t1 itself. Under joint control (K,): the sum.
    stats : dict of ndarray, shape (B,)
        Counts of evaluations, steps and rejected steps; under joint control those of the one solve.
    status : ndarray of int, shape (B,)
        Of the solve of each sample; the rows of a failed one are NaN.
    sensitivity, step_control : str
    """

    loss: np.ndarray
    y0: np.ndarray
    theta: np.ndarray
    t0: np.ndarray
    t1: np.ndarray
    ts: object
    stats: dict
    status: np.ndarray
    sensitivity: str
    step_control: str
    solution: object = dataclasses.field(default=None, repr=False)

    @property
    def total(self):
        """The loss of the batch: the sum over the samples that finished, in their order."""
        loss = self.loss.copy_to_host() if hasattr(self.loss, "copy_to_host") else self.loss
        return float(np.add.accumulate(np.append(0.0, loss[self.status == FINISHED]))[-1])


def gradient_batch(batch, sensitivity="discrete", step_control="per_sample", on_failure="raise", device="cpu",
                   dtype="float64", threads=1, **options):
    """The derivative of the sum of a batch's losses with respect to all inputs of all samples.

    Parameters
    ----------
    batch : Batch
        With a loss, or one for each sample. The mean is the sum times 1/B, and so is its gradient.
    sensitivity : str
        A recipe, as for `gradient`. ``"discrete"`` under per-sample control runs in one compiled loop.
    step_control : "per_sample" or "joint"
        As for `solve_batch`.
    on_failure : "raise" or "skip"
        What to do about samples whose solve fails. ``"skip"`` makes their rows NaN and leaves them out of
        sums over samples; `BatchGradient.status` says which.
    device, dtype
        As for `solve_batch`. On a GPU there are the recipes ``"discrete"`` and ``"discrete_forward"``.
    threads
        As for `solve_batch`. Of ``"discrete"``; one thread does all other recipes. Losses are evaluated one at a
        time, but perhaps in another thread than the calling one.
    **options
        As for `gradient`.

    Returns
    -------
    BatchGradient
        Under per-sample control every sample's part equals `gradient` of ``batch[i]`` bit for bit.

    Raises
    ------
    IntegrationError
        Naming the samples that failed, unless they are to be skipped; its ``solution`` is the `BatchSolution`
        (of recipes other than ``"discrete"`` a dictionary of the failed samples' solutions).
    MissingDerivativeError, InvalidInputError
        As for `gradient`, naming the sample.
    BackendError
        If ``device="cuda"`` cannot be used; it names what is missing.
    """
    device, real = device_and_real(device, dtype)
    threads = thread_count(threads)
    require_control(step_control)
    if on_failure not in ("raise", "skip"):
        raise InvalidInputError(f"on_failure must be 'raise' or 'skip', found {on_failure!r}")
    if batch.losses[0] is None:
        raise InvalidInputError("gradient_batch needs a batch with a loss; give Batch(..., loss=...)")
    require_place(batch, device, real)
    check_first_call(batch.first)                               # the field of a stack is the package's own
    if step_control == "joint" and device == "cpu":
        return _joint_gradient(batch, sensitivity, options)
    recipe, own, solve_options = checked_call(batch, sensitivity, dict(options))
    if device == "cuda":
        from refnode.sensitivity.batch_gradient_cuda import gradient_on_device
        return gradient_on_device(batch, sensitivity, recipe, own, solve_options, on_failure, real, step_control)
    if (recipe.equation, recipe.reversal) == ("transpose", "stored") and not own:
        return _discrete_gradient(batch, sensitivity, solve_options, on_failure, threads)
    return _gradient_by_samples(batch, sensitivity, options, on_failure)


def _discrete_gradient(batch, sensitivity, options, on_failure, threads):
    samples = samples_on_cpu(batch, batch.flow_field, batch.flow_y0, options, keep=True)
    sweep = sweep_over(samples)
    most = len(batch) if batch.own_theta else rows_at_a_time(samples.thetas.shape[1])
    sweep_parts(samples, sweep, on_failure, threads, most)
    return gradient_of_samples(samples, sweep, sensitivity, on_failure)


def gradient_of_samples(samples, sweep, sensitivity, on_failure):
    """The `BatchGradient` of samples whose sweeps are done, or IntegrationError."""
    batch = samples.batch
    samples.give_back_tape()
    solution, failed = samples.solution(), np.flatnonzero(samples.status != FINISHED)
    if failed.size and on_failure == "raise":
        raise _failure(len(batch), {int(i): solution.message(i) for i in failed}, solution)
    t0, t1, ts = sweep.time_cotangents()
    if batch.ts_is_t1:
        t1, ts = t1 + ts, np.empty(0)
    stats = {"nfev": samples.counts[:, EVALUATIONS], "n_steps": samples.counts[:, STEPS],
             "n_rejected": samples.counts[:, REJECTED], "n_steps_reverse": samples.counts[:, STEPS]}
    return BatchGradient(
        sweep.loss, sweep.y_bars[:, :batch.y0.shape[1]], sweep.theta_bars if batch.own_theta else sweep.theta_sum,
        t0, t1, _by_sample(batch, ts), stats, samples.status, sensitivity, "per_sample", solution)


def _by_sample(batch, ts):
    """What belongs to all observation times in a row, by samples."""
    if batch.ts_is_t1 or batch.same_count:
        return ts.reshape(len(batch), -1)
    return [ts[batch.observations(i)] for i in range(len(batch))]


def _failure(count, messages, solution):
    """The IntegrationError that names the first samples that failed."""
    named = "; ".join(f"sample {i}: {message}" for i, message in list(messages.items())[:3])
    more = f"; and samples {list(messages)[3:20]}" if len(messages) > 3 else ""
    return IntegrationError(f"{len(messages)} of {count} samples failed: {named}{more}", solution)


# --- other recipes, and joint control -------------------------------------------------------------

def _gradient_by_samples(batch, sensitivity, options, on_failure):
    """`gradient` of sample after sample."""
    found, failed = [None] * len(batch), {}
    for i in range(len(batch)):
        try:
            found[i] = gradient(batch[i], sensitivity, **options)
        except IntegrationError as error:
            failed[i] = error
        except InvalidInputError as error:
            error.add_note(f"in sample {i}")
            raise
    if failed and (on_failure == "raise" or len(failed) == len(batch)):
        raise _failure(len(batch), failed, {i: error.solution for i, error in failed.items()})
    one = next(each for each in found if each is not None)
    put = lambda name: np.array([np.full_like(getattr(one, name), np.nan) if each is None else getattr(each, name)
                                 for each in found])
    theta = put("theta")
    if not batch.own_theta:
        theta = np.cumsum(theta[[each is not None for each in found]], axis=0)[-1]     # in the order of the samples
    ts = [np.full(0 if batch.ts_is_t1 else np.diff(batch.ts_first)[i], np.nan) if each is None else each.ts
          for i, each in enumerate(found)]
    stats = {name: np.array([0 if each is None else each.stats[name] for each in found]) for name in one.stats}
    status = np.array([FINISHED if each is not None else _status_of(failed[i]) for i, each in enumerate(found)])
    return BatchGradient(put("loss"), put("y0"), theta, put("t0"), put("t1"), _by_sample(batch, np.concatenate(ts)),
                         stats, status, sensitivity, "per_sample", found)


def _status_of(error):
    return STEP_TOO_SMALL if error.solution is None else error.solution.status


def _joint_gradient(batch, sensitivity, options):
    """`gradient` of the stacked problem, taken apart."""
    problem, (count, n) = batch.joint(), batch.y0.shape
    found = gradient(problem, sensitivity, **joint_options(batch, batch.flow_y0.shape[1], options))
    theta = found.theta.reshape(count, -1) if batch.own_theta else found.theta
    stats = {name: np.full(count, value) for name, value in found.stats.items()}
    joint = found.solution
    return BatchGradient(
        problem.loss.values(joint.y, joint.y1), found.y0.reshape(count, -1)[:, :n], theta, found.t0, found.t1, found.ts,
        stats, np.full(count, FINISHED), sensitivity, "joint", split_solution(batch, joint))
