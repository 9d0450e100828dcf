"""One cell of the conformance matrix: what a library answered, held against the reference, as data."""
import math
from dataclasses import dataclass, field

import numpy as np

from refnode.adapters.answer_form import numbers
from refnode.conformance.score import NOT_TESTABLE, block_units, level_of, scaled_error, tolerance_floor

# A verdict, the gravest last; each with what it means.
VERDICTS = {
    "PASS": "q ≤ 1e3: as good as its tolerance allows",
    "FLOOR": "the truth is smaller than the absolute tolerance resolves; what is left of the error is right",
    "UNTESTABLE": "κ·tol > 0.1, or the reference is too uncertain: nothing can be said at this tolerance",
    "UNSUPPORTED": "not applicable: the library, or this way of it, cannot say this problem; the cell says why",
    "UNAVAILABLE": "the library could not be imported",
    "DEGRADED": "1e3 < q ≤ 1e5: worse than healthy methods",
    "ERROR": "an exception: no gradient, and the user knows",
    "HANG": "no answer within the time limit",
    "CRASH": "the process died",
    "FAIL": "q > 1e5, or not finite, or of the wrong shape: a wrong gradient was returned",
}
ABSENT = ("UNSUPPORTED", "UNAVAILABLE", "UNTESTABLE")
JUDGED = ("PASS", "FLOOR", "DEGRADED", "FAIL")         # a gradient came, and something can be said of it
UNANSWERED = {"raised": "ERROR", "hung": "HANG", "crashed": "CRASH", "unsupported": "UNSUPPORTED",
              "unavailable": "UNAVAILABLE"}
MOST_DIGITS = 16.0


@dataclass
class Cell:
    """One row of the table; numbers that do not exist are None.

    Attributes
    ----------
    error : float
        E of (y0, theta), see `score`.
    score : float
        q = E/(kappa tol).
    digits, digits_y, digits_loss, digits_times : float
        -log10 of the errors of the gradient, the states, the loss, and the gradient in the times.
    silent : bool
        Whether a wrong gradient came without any warning.
    """

    problem: str
    tool: str
    mode: str
    method: str
    rtol: float
    verdict: str
    truth: str = "unknown"
    error: float | None = None
    score: float | None = None
    kappa: float | None = None
    digits: float | None = None
    digits_y: float | None = None
    digits_loss: float | None = None
    digits_times: float | None = None
    worst: str = ""
    nfev: int | None = None
    nfev_backward: int | None = None
    seconds: float | None = None
    warned: list = field(default_factory=list)
    said: str = ""
    message: str = ""
    silent: bool = False


@dataclass(frozen=True)
class Truth:
    """What a cell is held against: the record, its `Inputs`, its `OdeReference`."""

    record: object
    inputs: object
    reference: object


def judge(request, outcome, truth):
    """The `Cell` of a request and its outcome; ``truth`` may be None where no reference could be had."""
    cell = Cell(request.problem_id, request.tool, request.mode, request.method, request.rtol,
                UNANSWERED.get(outcome.status, "UNTESTABLE"), message=outcome.message, warned=list(outcome.warned),
                seconds=outcome.seconds,
                said=_last_lines(outcome.printed) if outcome.status == "answered" else "")
    if outcome.answer is None:
        return cell
    stats = outcome.answer.get("stats", {})
    cell.seconds, cell.nfev = stats.get("seconds", outcome.seconds), _count(stats, "nfev", "nfevals")
    cell.nfev_backward = _count(stats, "nfev_backward", "nfev_reverse", "nfev_adjoint")
    cell.said = "; ".join(part for part in (stats.get("said", ""), cell.said) if part)
    cell.truth = outcome.answer.get("truth", "unknown")
    if truth is None:
        cell.message = "no reference"
    else:
        _judge_numbers(cell, request, outcome.answer, truth)
    cell.silent = cell.verdict == "FAIL" and not cell.warned and not cell.said
    return cell


def _judge_numbers(cell, request, answer, truth):
    inputs, reference, grad = truth.inputs, truth.reference, answer["grad"]
    level = level_of(None, truth.record.kappa, request.rtol, request.atol)
    members = slice(0, inputs.blocks["grad_theta"].stop)
    try:
        yours = np.concatenate([numbers(grad["y0"]), numbers(grad["theta"])])
        if yours.shape != reference.gradient[members].shape:
            raise ValueError(f"shape {yours.shape}")
    except (KeyError, ValueError, TypeError) as error:
        cell.verdict, cell.message = "FAIL", f"the gradient has not the shape asked for: {error}"
        return
    blocks = inputs.unit_blocks()
    units = block_units(reference.gradient, inputs.size, blocks, reference.loss_size)
    floor = tolerance_floor(inputs.size, inputs.n, members.stop - inputs.n, reference.cotangent_size, reference.state_size,
                            request.atol)
    _judge_gradient(cell, level, truth.record.kappa or 0.0, yours, reference, members, units, floor, inputs)
    cell.digits_y = _digits(_relative(answer.get("y"), reference.y))
    cell.digits_loss = _digits(_relative(answer.get("loss"), reference.loss))
    cell.digits_times = _digits(_times_error(grad, reference.gradient, units, inputs))


def _judge_gradient(cell, level, kappa, yours, reference, members, units, floor, inputs):
    right, blocks = reference.gradient[members], [b for b in inputs.unit_blocks() if b.stop <= members.stop]
    units, floor = units[members], floor[members]
    if not np.all(np.isfinite(yours)):
        first = int(np.flatnonzero(~np.isfinite(yours))[0])
        cell.verdict, cell.message = "FAIL", f"not finite, first at {inputs.names[first]}"
        cell.error, cell.score, cell.digits, cell.kappa = math.inf, math.inf, 0.0, level.kappa
        return
    error = scaled_error(yours, right, units, blocks)
    excused = scaled_error(np.where(np.abs(yours - right) <= floor, right, yours), right, units, blocks)
    doubt = scaled_error(np.where(np.isfinite(reference.uncertainty[members]), reference.uncertainty[members], 0.0) + right,
                         right, units, blocks)
    cell.error, cell.score, cell.kappa, cell.digits = error, level.score(error), level.kappa, _digits(error)
    cell.worst = _worst(yours, right, units, inputs.names)
    cell.verdict = verdict_of(error, excused, doubt, level, known=level.testable and kappa * level.tolerance <= NOT_TESTABLE)


def verdict_of(error, excused, doubt, level, known=True):
    """The verdict of a scaled error, of what is left of it above the floor, and of the reference's own.

    ``known`` says whether the problem is conditioned well enough for its tolerance to say anything.
    """
    if error <= level.accepted:
        return "PASS"
    if excused <= level.accepted:
        return "FLOOR"
    if not known or doubt > level.accepted:
        return "UNTESTABLE"
    return "FAIL" if excused > level.refused else "DEGRADED"


def _worst(yours, right, units, names):
    ratio = np.divide(np.abs(yours - right), units, out=np.zeros(yours.size), where=units > 0)
    if not ratio.size:
        return ""
    i = int(np.argmax(ratio))
    return f"{names[i]}: {yours[i]:.6g}, right is {right[i]:.6g}"


def _times_error(grad, right, units, inputs):
    """The largest error of a derivative in a time that the library gave, in units of the block of times."""
    errors = [np.abs(numbers(grad[key]) - right[block]) / units[block]
              for key, block in (("t0", inputs.blocks["grad_t0"]), ("t1", inputs.blocks["grad_t1"]),
                                 ("ts", inputs.blocks["grad_ts"])) if grad.get(key) is not None]
    return max((float(np.max(error, initial=0.0)) for error in errors), default=None)


def _relative(yours, right):
    try:
        yours, right = numbers(yours), np.asarray(right)
        return float(np.max(np.abs(yours - right)) / (np.max(np.abs(right)) or 1.0)) if right.size else 0.0
    except (TypeError, ValueError):
        return math.inf


def _digits(error):
    """-log10 of a relative error, between 0 and 16; None for None."""
    if error is None:
        return None
    if not error < 1.0:
        return 0.0
    return MOST_DIGITS if error <= 10.0 ** -MOST_DIGITS else -math.log10(error)


def _count(stats, *names):
    found = [stats[name] for name in names if isinstance(stats.get(name), (int, float))]
    return int(found[0]) if found else None


def _last_lines(text):
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines[-2:])[-300:]
