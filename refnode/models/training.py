"""The fit of a model: mini-batches, penalty, clipping, schedule, early stopping, checkpoints, exact resume.

Everything random is drawn by ``batches(rng)`` and handed on as part of the batch: indices, noise, dropout masks, end
times. So ``loss_and_gradient(theta, batch)`` is a function of its arguments alone, whose gradient can be checked, and
a run that is resumed repeats the numbers of one that was not, bit for bit. The stream of an epoch is
``numpy.random.default_rng([seed, epoch])``: no state of a generator needs to be kept.
"""
import dataclasses
import math
import os
import time

import numpy as np

from refnode.checks import real_vector
from refnode.errors import IntegrationError, InvalidInputError, RefnodeError
from refnode.models.checkpoint_file import read_checkpoint, write_checkpoint
from refnode.models.fit_settings import Settings
from refnode.models.history import History, reverse_evaluations
from refnode.optimisers import clipped_to_norm, l2_penalty, l2_penalty_vjp

SECONDS_BETWEEN_CHECKPOINTS = 10.0


class TrainingError(RefnodeError, RuntimeError):
    """A training stopped because a number became non-finite; ``fit`` holds what there was before, with the last good theta."""

    def __init__(self, message, fit=None):
        super().__init__(message)
        self.fit = fit


# --- what is found --------------------------------------------------------------------------------

@dataclasses.dataclass
class Fit:
    """What a fit found.

    Attributes
    ----------
    theta : ndarray, shape (p,)
        Where ``validate`` was given, those after the epoch with the lowest value; else the last.
    last_theta : ndarray, shape (p,)
        After the last iteration.
    history : History
    epochs, iterations : int
        Done, with those of a run that was resumed.
    reason : str
        Why it ended.
    """

    theta: np.ndarray
    last_theta: np.ndarray
    history: History
    epochs: int
    iterations: int
    reason: str


# --- batches --------------------------------------------------------------------------------------

def mini_batches(count, size):
    """``batches`` for `fit`: every epoch a new order of range(count), cut into arrays of ``size`` indices; the last may be shorter."""
    if int(count) != count or count < 1:
        raise InvalidInputError(f"count must be a positive integer, found {count!r}: there are no data")
    if int(size) != size or not 1 <= size <= count:
        raise InvalidInputError(f"size must be an integer in 1 .. {count}, found {size!r}")

    def batches(rng):
        order = rng.permutation(count)
        return [order[start:start + size] for start in range(0, count, size)]

    return batches


# --- the fit --------------------------------------------------------------------------------------

def fit(theta, loss_and_gradient, batches, optimiser, schedule=None, *, epochs=1, l2=0.0, clip=None, validate=None,
        patience=None, target=None, checkpoint=None, checkpoint_every=None, resume=False, progress=None, every=100, seed=0,
        history=None, identity=""):
    """Move theta down the gradient of batch after batch.

    Parameters
    ----------
    theta : array_like, shape (p,)
        Where to begin.
    loss_and_gradient : callable
        ``loss_and_gradient(theta, batch) -> loss, grad`` or ``-> loss, grad, stats``, the last as `refnode.Gradient`
        has them, for the histories of evaluations. Not random itself: see the module.
    batches : callable or sequence
        ``batches(rng)`` gives the batches of one epoch, such as `mini_batches`; a sequence is the same for every epoch.
    optimiser : SGD, Adam, AdamW, LBFGS
        Belongs to this fit. `LBFGS` needs one and the same batch an epoch, and neither schedule nor clipping.
    schedule : callable, optional
        ``schedule(iteration)`` is the learning rate; see `refnode.schedules`.
    epochs : int
        Altogether, with those of the run that is resumed.
    l2 : float or ndarray, shape (p,)
        Weight of the penalty 1/2 l2 |theta|^2, for all parameters or for each.
    clip : float, optional
        Largest norm of the gradient, the penalty's included.
    validate : callable, optional
        ``validate(theta) -> float`` after every epoch, the lower the better.
    patience : int, optional
        Epochs without a lower value after which the fit stops early.
    target : float, optional
        Value at or below which it stops.
    checkpoint : path, optional
        File that keeps the run: at the end, and between as ``checkpoint_every`` says.
    checkpoint_every : int, optional
        Iterations from one to the next; by default the end of an epoch that is ten seconds or more after the last.
    resume : bool
        Go on from ``checkpoint`` where that is there: to the numbers of a run that was never stopped.
    progress : callable, optional
        Handed a line of text every ``every`` iterations, and one for the last.
    seed : int or sequence of int
    history : History, optional
        To be continued.
    identity : str
        Of data and model, to tell this run's checkpoint from another's.

    Returns
    -------
    Fit

    Raises
    ------
    InvalidInputError
        If an argument is wrong, or an epoch has no batch.
    TrainingError
        If a number became non-finite: it names the first, and carries the `Fit` before; the checkpoint stays as it was.
    ProblemFileError
        If the checkpoint is damaged, or of another run.
    """
    settings = Settings(schedule, epochs, l2, clip, validate, patience, target, checkpoint, checkpoint_every, progress,
                        every, seed, identity)
    run = Run(theta, loss_and_gradient, batches, optimiser, settings, History() if history is None else history)
    if resume and checkpoint is not None and os.path.exists(checkpoint):
        run.restore()
    return run.to_the_end()


# --- one run --------------------------------------------------------------------------------------

class Run:
    """A fit as it goes on: everything that a checkpoint keeps, and the steps that change it."""

    def __init__(self, theta, loss_and_gradient, batches, optimiser, settings, history):
        self.theta = real_vector("theta", theta)
        self.loss_and_gradient, self.optimiser, self.settings, self.history = (
            loss_and_gradient, optimiser, settings, history)
        if np.shape(settings.l2) not in ((), self.theta.shape):
            raise InvalidInputError(f"l2 must be a number, or of shape {self.theta.shape}, found shape {np.shape(settings.l2)}")
        self.batches = batches if callable(batches) else lambda rng: batches
        self.searches = getattr(optimiser, "needs_values", False)
        if self.searches and (settings.clip is not None or settings.schedule is not None):
            raise InvalidInputError(f"{type(optimiser).__name__} searches along its direction: it takes neither clip nor schedule")
        self.text = settings.text(optimiser, self.theta.size) if settings.checkpoint is not None else None
        self.epoch = self.position = self.iteration = self.since_lowest = self.told = 0
        self.lowest, self.lowest_theta = math.inf, self.theta
        self.reason, self.written = "", time.perf_counter()

    def to_the_end(self):
        """All epochs, or until something ends the fit."""
        self.history.begin()
        while self.epoch < self.settings.epochs and not self.reason:
            self.one_epoch()
        self.reason = self.reason or "all epochs done"
        self.tell(last=True)
        if self.settings.checkpoint is not None:
            self.save()
        return self.result()

    def result(self):
        """The `Fit` so far."""
        theta = self.theta if self.settings.validate is None or not self.history.validation else self.lowest_theta
        return Fit(theta, self.theta, self.history, self.epoch, self.iteration, self.reason)

    def one_epoch(self):
        """The batches of an epoch that are not done yet, and its validation."""
        rng = np.random.default_rng([*np.ravel(self.settings.seed).tolist(), self.epoch])
        done = 0
        for batch in self.batches(rng):
            done += 1
            if done > self.position:
                self.one_iteration(batch, done)
            if self.reason:
                return
        if done == 0:
            raise InvalidInputError(f"batches gave no batch in epoch {self.epoch}; an iterator is empty after one epoch, "
                                    "give a sequence or a function of rng")
        self.validated()
        self.epoch, self.position = self.epoch + 1, 0
        if self.settings.checkpoint_every is None:
            self.save(SECONDS_BETWEEN_CHECKPOINTS)

    def one_iteration(self, batch, done):
        """One step of the optimiser."""
        if self.settings.schedule is not None:
            self.optimiser.learning_rate = rate = float(self.settings.schedule(self.iteration))
            if not 0.0 <= rate < math.inf:
                raise InvalidInputError(f"schedule must give rates that are finite and not negative, found {rate} "
                                        f"in iteration {self.iteration}")
        if self.searches and done > 1:
            raise InvalidInputError(f"{type(self.optimiser).__name__} needs one and the same batch in every iteration, "
                                    f"found a second one in epoch {self.epoch}")
        evaluate = Evaluation(self, batch)
        self.theta, loss, grad_norm = (searched if self.searches else stepped)(self, evaluate)
        self.history.add(loss, grad_norm, evaluate.nfe, evaluate.nfe_reverse)
        self.iteration, self.position = self.iteration + 1, done
        self.tell()
        every = self.settings.checkpoint_every
        if every is not None and self.iteration % every == 0:
            self.save()

    def validated(self):
        """Remember the parameters with the lowest value; say when there was none for too long."""
        if self.settings.validate is None:
            return
        value = float(self.settings.validate(self.theta))
        if not math.isfinite(value):
            self.stop(f"the validation of epoch {self.epoch}: {value}")
        self.history.validation.append(value)
        self.since_lowest += 1
        if value < self.lowest:
            self.lowest, self.lowest_theta, self.since_lowest = value, self.theta, 0
        if self.settings.patience is not None and self.since_lowest >= self.settings.patience:
            self.reason = f"no lower validation for {self.since_lowest} epochs"
        if self.settings.target is not None and value <= self.settings.target:
            self.reason = f"validation {value:.3g} is at most {self.settings.target:g}"

    def stop(self, what, error=None):
        """Raise: ``what`` was the first number that is not finite."""
        self.reason = f"training stopped in iteration {self.iteration}, epoch {self.epoch}; not finite first: {what}"
        raise TrainingError(self.reason, self.result()) from error

    def tell(self, last=False):
        """A line of progress, where one is due."""
        progress, count = self.settings.progress, len(self.history.loss)
        if progress is None or count == self.told or not (last or count % self.settings.every == 0):
            return
        self.told = count
        validation = f"   validation {self.history.validation[-1]:.3e}" if self.history.validation else ""
        progress(self.history.line() + validation)

    # what a checkpoint keeps

    def save(self, seconds=0.0):
        """Write the checkpoint, if there is to be one and the last is at least so many seconds old."""
        if self.settings.checkpoint is None or time.perf_counter() - self.written < seconds:
            return
        counts = [self.epoch, self.position, self.iteration, self.since_lowest]
        write_checkpoint(self.settings.checkpoint, self.text, {
            "theta": self.theta, "counts": np.array(counts), "lowest": np.array(self.lowest),
            "lowest_theta": self.lowest_theta, "reason": np.array("" if self.reason == "all epochs done" else self.reason),
            **self.history.arrays(),
            **{f"optimiser/{name}": array for name, array in self.optimiser.state().items()}})
        self.written = time.perf_counter()

    def restore(self):
        """Everything as the checkpoint has it."""
        arrays = read_checkpoint(self.settings.checkpoint, self.text)
        self.theta, self.lowest_theta = arrays["theta"], arrays["lowest_theta"]
        self.epoch, self.position, self.iteration, self.since_lowest = map(int, arrays["counts"])
        self.lowest, self.reason = float(arrays["lowest"]), str(arrays["reason"])
        self.history.restore(arrays)
        self.told = len(self.history.loss)
        self.optimiser.restore({name.removeprefix("optimiser/"): array for name, array in arrays.items()
                                if name.startswith("optimiser/")})


class Evaluation:
    """Value and gradient on one batch, the penalty's included; it counts, and finds what is not finite first."""

    def __init__(self, run, batch):
        self.run, self.batch = run, batch
        self.nfe = self.nfe_reverse = self.calls = 0
        self.loss = self.grad = None                    # of the first call, the gradient with the penalty's

    def loss_and_gradient(self, theta):
        """What the model says, the gradient as an array; stops the run where a solve failed or a number is not finite."""
        try:
            loss, grad, *stats = self.run.loss_and_gradient(theta, self.batch)
        except IntegrationError as error:
            self.run.stop(f"the solve: {error}", error)
        except InvalidInputError as error:
            if "finite" not in str(error) or not self.run.iteration:      # a wrong argument, and not what training made
                raise
            self.run.stop(str(error), error)
        for counts in stats:
            self.nfe += counts.get("nfev", 0)
            self.nfe_reverse += reverse_evaluations(counts)
        loss, grad = float(loss), np.asarray(grad, dtype=np.float64)
        if grad.shape != theta.shape:
            raise InvalidInputError(f"loss_and_gradient must return a gradient of shape {theta.shape}, found {grad.shape}")
        self.require_finite("the loss", np.array(loss))
        self.require_finite("the gradient", grad)
        return loss, grad

    def require_finite(self, name, array):
        """Stop the run if an entry of the array is not finite."""
        if not np.all(np.isfinite(array)):
            bad = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
            place = f", entry {bad[0]}" if bad else ""
            self.run.stop(f"{name}{place}: {array[bad]}")

    def with_penalty(self, theta):
        """Objective and its gradient."""
        loss, grad = self.loss_and_gradient(theta)
        l2 = self.run.settings.l2
        penalty = float(l2_penalty(theta, l2))
        self.require_finite("the penalty", np.array(penalty))
        grad = grad + l2_penalty_vjp(theta, l2)
        if self.grad is None:
            self.loss, self.grad = loss, grad
        return loss + penalty, grad

    def or_infinite(self, theta):
        """`with_penalty` for a line search, to which a failure is a step too far, unless nothing came before."""
        self.calls += 1
        try:
            return self.with_penalty(theta)
        except TrainingError:
            if self.run.iteration == 0 and self.calls == 1:
                raise
            self.run.reason = ""
            return math.inf, np.full(theta.shape, np.nan)


def stepped(run, evaluate):
    """New parameters, loss and norm of the gradient, by an optimiser that needs gradients alone."""
    _, grad = evaluate.with_penalty(run.theta)
    shortened, norm = clipped_to_norm(grad, math.inf if run.settings.clip is None else run.settings.clip)
    theta = run.optimiser.step(run.theta, shortened)
    evaluate.require_finite("the new parameters", theta)
    return theta, evaluate.loss, norm


def searched(run, evaluate):
    """The same by an optimiser that searches along a line; it may end the run."""
    optimiser, before = run.optimiser, run.theta
    value, grad = optimiser.value, optimiser.grad                   # at ``before``, from the last step if there was one
    theta = optimiser.step(before, evaluate.or_infinite)
    if grad is None:
        value, grad = evaluate.loss + float(l2_penalty(before, run.settings.l2)), evaluate.grad
    run.reason = optimiser.finished or ""
    return theta, value - float(l2_penalty(before, run.settings.l2)), float(np.linalg.norm(grad))
