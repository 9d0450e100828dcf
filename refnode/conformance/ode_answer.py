"""An answer, read: shapes checked, what is absent known, the first number that is not finite found."""
from dataclasses import dataclass, field

import numpy as np

from refnode.errors import InvalidTypeError

PARTS = {"grad_y0": "y0", "grad_theta": "theta", "grad_t0": "t0", "grad_t1": "t1", "grad_ts": "ts"}
TOLERANCE_HOMES = ("stats", "tool", "solver")


@dataclass
class OdeAnswer:
    """What a program returned.

    Attributes
    ----------
    y : ndarray, shape (n, K), or None
    loss : float or None
    gradient : ndarray, shape (m,)
        NaN for inputs whose derivative was not returned or not asked for.
    absent : list of str
        Quantities that were asked for and not returned.
    faults : list of (key, text)
        "shape" or "first_nan": what makes the answer wrong before any number is compared.
    error : str or None
        What the program said went wrong.
    rtol, atol : float or None
        At which it says it was computed.
    tool : str
    truth : str
    """

    y: np.ndarray | None
    loss: float | None
    gradient: np.ndarray
    absent: list = field(default_factory=list)
    faults: list = field(default_factory=list)
    error: str | None = None
    rtol: float | None = None
    atol: float | None = None
    tool: str = ""
    truth: str = "unknown"


def read_answer(data, problem, inputs, quantities):
    """The `OdeAnswer` of a dict in the format "refnode.answer".

    Raises
    ------
    InvalidTypeError
        If it is not a dict.
    """
    if not isinstance(data, dict):
        raise InvalidTypeError(f"an answer must be a dict {{'y', 'loss', 'grad': {{'y0', 'theta', …}}}}, found "
                               f"{type(data).__name__}")
    answer = OdeAnswer(None, None, np.full(inputs.size.size, np.nan), error=_text(data.get("error")),
                       rtol=_tolerance(data, "rtol"), atol=_tolerance(data, "atol"), tool=_tool(data.get("tool")),
                       truth=str(data.get("truth", "unknown")))
    shape = (problem.y0.size, problem.ts.size)
    if "y" in quantities:
        answer.y = _array(answer, "y", data.get("y"), shape)
    if "loss" in quantities:
        loss = _array(answer, "loss", data.get("loss"), ())
        answer.loss = None if loss is None else float(loss)
    gradient = data.get("grad") or {}
    for block, key in PARTS.items():
        members = inputs.blocks[block]
        if block in quantities and members.stop > members.start:
            size = members.stop - members.start
            part = _array(answer, f"grad {key}", gradient.get(key), (size,) if key in ("y0", "theta", "ts") else ())
            if part is not None:
                answer.gradient[members] = part
    return answer


def _text(error):
    return None if error in (None, "") else str(error)


def _tool(tool):
    if isinstance(tool, dict):
        return " ".join(str(tool[key]) for key in ("name", "version", "method") if tool.get(key))
    return str(tool or "")


def _tolerance(data, name):
    """A tolerance that the answer declares, wherever it does."""
    for home in (data, *(data.get(key) for key in TOLERANCE_HOMES)):
        value = home.get(name) if isinstance(home, dict) else None
        if isinstance(value, (int, float)) and 0 < value < 1:
            return float(value)
    return None


def _array(answer, what, value, shape):
    """The value as an array of that shape, or None with the reason noted."""
    if value is None:
        answer.absent.append(what)
        return None
    try:
        array = np.array(value, dtype=float)
    except (TypeError, ValueError):
        answer.faults.append(("shape", f"{what} is not an array of numbers"))
        return None
    if shape == () and array.size == 1:
        array = array.reshape(())
    if array.shape != shape:
        answer.faults.append(("shape", f"shape: {what} has shape {array.shape}, expected {shape}"
                              + _transposed(array.shape, shape)))
        return None
    if not np.isfinite(array).all():
        first = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0]) if shape else ()
        place = "".join(f"[{i}]" for i in first)
        count = int((~np.isfinite(array)).sum())
        answer.faults.append(("first_nan", f"{what}{place} is {array[first]}" + (f", the first of {count} numbers that "
                              "are not finite" if count > 1 else "")))
        return None
    return array


def _transposed(found, expected):
    return ": it is transposed (rows are states, columns are observation times)" if found == expected[::-1] else ""
