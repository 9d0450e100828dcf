"""What an adapter says of itself and what it hands back: `Mode`, and the interchange form of an answer."""
import dataclasses
import importlib.metadata
import math

import numpy as np

from refnode.errors import InvalidInputError


class NotExpressible(InvalidInputError):
    """The library, or its adapter, cannot say this problem; no statement about its gradients."""


@dataclasses.dataclass(frozen=True)
class Mode:
    """One way a library differentiates a solve.

    Attributes
    ----------
    methods : tuple of str
        The integrators it is tried with; the first is the default.
    truth : "exact", "discrete_frozen", "discrete_through" or "unknown"
        What the derivative converges to, or equals; "unknown" where the library does not say.
    note : str
        What a user would write to get it.
    default : bool
        Whether it is what the library does when nothing is said.
    """

    methods: tuple
    truth: str
    note: str
    default: bool = False


def checked_choice(library, modes, mode, method):
    """The `Mode`, if there is one of that name with that method."""
    if mode not in modes:
        raise InvalidInputError(f"{library} has no mode {mode!r}; there are {', '.join(modes)}")
    if method not in modes[mode].methods:
        raise InvalidInputError(f"{library} {mode} is not tried with {method!r}; there are "
                                f"{', '.join(modes[mode].methods)}")
    return modes[mode]


def versions_of(*packages):
    """{package: version} of installed distributions."""
    return {package: importlib.metadata.version(package) for package in packages}


def answer_form(task, library, version, mode, method, truth, ys, loss, y0, theta, grid_bar=None, stats=None,
                asked=None):
    """The interchange form of an answer.

    Parameters
    ----------
    task : refnode.adapters.translate.Task
    ys : array_like, shape (number of times in ``task.grid``, at least n)
        The states at the times the library was asked for, one row a time.
    y0, theta : array_like
        The gradient; ``y0`` may carry the entry of a running cost, which is dropped.
    grid_bar : array_like, optional
        Derivatives of the loss with respect to the times in ``asked``.
    asked : sequence of float, optional
        The times of ``ys`` and ``grid_bar``; default ``task.grid``.
    """
    asked = task.grid if asked is None else np.asarray(asked)
    rows = [int(np.flatnonzero(asked == t)[0]) for t in task.ts]
    observed = np.asarray(ys, dtype=np.float64)[rows, :task.n]
    grad = {"y0": plain(np.asarray(y0)[:task.n]), "theta": plain(theta)}
    if grid_bar is not None:
        grad.update(task.time_gradients(np.asarray(asked), np.asarray(grid_bar, dtype=np.float64)))
    return {"format": "refnode.answer", "version": 1, "problem_sha256": task.problem.get("sha256"),
            "tool": {"name": library, "version": version, "mode": mode, "method": method}, "truth": truth,
            "y": plain(observed.T), "loss": plain(loss), "grad": grad, "stats": stats or {}, "error": None}


def plain(values):
    """Numbers as nested lists of floats; those that are not finite as strings."""
    if isinstance(values, (list, tuple)) or getattr(values, "ndim", 0):
        return [plain(value) for value in values]
    value = float(values)
    return value if math.isfinite(value) else repr(value)


def numbers(values):
    """The inverse of `plain`: an array of float64, with ``nan`` and ``inf`` read from their names."""
    return np.array(values, dtype=object).astype(np.float64)
