"""Gradients of a solution in pieces: to a switch, and from there by another right-hand side, as often as there are switches.

Each piece is a problem of its own, from one switch to the next, and is pulled back by any recipe. At a switch a moved input moves
the time of the switch as well, and with it where the next piece begins.
"""
import dataclasses

import numpy as np

from refnode.checks import require_problem
from refnode.errors import IntegrationError, InvalidInputError
from refnode.sensitivity.cotangents import Cotangents
from refnode.sensitivity.gradient import vjp
from refnode.solve.initial_value import solve
from refnode.solve.options import OPTION_NAMES

LOOKS = 4                          # at G in every step: a switch that is reached and left between two looks is not seen
CORRECTIONS = 10                   # of the time of a switch; Newton's method needs two or three
REFUSED = ("steps", "device", "dtype")        # no given steps end at a switch, and pieces are solved in double precision on the host
EPS = np.finfo(float).eps


@dataclasses.dataclass(frozen=True)
class Switch:
    """Where one right-hand side ends and the next begins: where G(t, y, theta) reaches 0 from below.

    Attributes
    ----------
    value : callable
        ``value(t, y, theta) -> float``.
    gradient : callable
        ``gradient(t, y, theta) -> (dG/dt, dG/dy, dG/dtheta)``: a number, (n,) and (p,).
    """

    value: object
    gradient: object


@dataclasses.dataclass
class PiecewiseGradient(Cotangents):
    """`Cotangents` of a loss of a solution in pieces, with its value.

    Attributes
    ----------
    loss : float
    switch_times : ndarray, shape (S,), [time]
    ys : ndarray, shape (n, K), [state]
        The observed states.
    stats : dict
        {"pieces": [...]}: those of the pull through every piece.
    """

    loss: float = np.nan
    switch_times: np.ndarray = None
    ys: np.ndarray = None


def piecewise_gradient(problem, onwards, sensitivity=None, **options):
    """The derivative of a loss of a solution in pieces, by all inputs; the times of the switches move with them.

    Parameters
    ----------
    problem : Problem
        Whose field is the first piece; with a loss of observations and of y(t1).
    onwards : sequence of (Switch, VectorField)
        The switches in the order in which they happen, each with the right-hand side that takes over there. A switch is looked for
        only from the one before it; its G may be 0 there, if it is below 0 next.
    sensitivity, **options
        As for `vjp`: how every piece is solved and pulled back; without ``steps``, ``device`` and ``dtype``.

    Returns
    -------
    PiecewiseGradient

    Raises
    ------
    InvalidInputError
        If the problem has no loss, or one with a running cost, or an observation at a switch, where it has no derivative; or for an
        option that is not taken.
    IntegrationError
        If a solve fails, a switch is not reached, or touched only.
    """
    _require_taken(problem, options)
    forward = {key: value for key, value in options.items() if key in OPTION_NAMES}
    parts = _parts(problem, onwards, forward)
    rows = np.cumsum([part.ts.size for part in parts[:-1]], dtype=int)
    ys, y1 = _states(parts, forward)
    ys_bar, y1_bar = problem.loss.vjp(ys, y1)
    bars, lam, theta_bar, pulls = np.split(ys_bar, rows, axis=1), y1_bar, np.zeros(problem.theta.size), []
    for k in reversed(range(len(parts))):
        pulled = vjp(parts[k], bars[k], lam, sensitivity, **options)
        pulls, theta_bar = [pulled, *pulls], theta_bar + pulled.theta
        if k:
            start = parts[k]
            lam, moved = pulled_across(onwards[k - 1][0], parts[k - 1].field, start.t0, start.y0, start.theta, pulled.y0, pulled.t0)
            theta_bar = theta_bar + moved
    return PiecewiseGradient(
        pulls[0].y0, theta_bar, pulls[0].t0, pulls[-1].t1, np.concatenate([pulled.ts for pulled in pulls]),
        {"pieces": [pulled.stats for pulled in pulls]}, loss=problem.loss.value(ys, y1),
        switch_times=np.array([part.t0 for part in parts[1:]]), ys=ys)


def _require_taken(problem, options):
    if problem.loss is None or problem.loss.running is not None:
        raise InvalidInputError("problem.loss must be a loss of observations or of y(t1); a running cost can be one more state")
    for name in REFUSED:
        if name in options:
            raise InvalidInputError(f"{name} is not taken for a solution in pieces; pieces are solved with steps of their own, in "
                                    "double precision on the host")


def pulled_across(switch, f_before, t, y, theta, lam, t0_bar):
    """(cotangent of the state before a switch, what the switch adds to that of theta).

    ``lam`` and ``t0_bar`` are the derivatives of the loss by the state behind the switch and by the time at which the piece behind
    it begins, t0_bar = -lam . f+. A later switch moves the state along f-, and the beginning of the piece. Implements (JUMP-6).
    """
    rates = f_before(t, y, theta)
    g_t, g_y, g_theta = switch.gradient(t, y, theta)
    a = (lam @ rates + t0_bar) / (g_t + np.dot(g_y, rates))
    return lam - a * np.asarray(g_y), -a * np.asarray(g_theta)


# --- forwards ---------------------------------------------------------------------------------------

def _parts(problem, onwards, options):
    """The problem of every piece, from one switch to the next, each with its own observations."""
    parts, rest = [], problem.replace(loss=None)
    direction = 1.0 if problem.t1 >= problem.t0 else -1.0
    for number, (switch, field) in enumerate(onwards):
        t, y = _located(rest, switch, number, direction, options)
        given = np.empty(0) if rest.ts_is_t1 else rest.ts
        if np.any(given == t):
            raise InvalidInputError(f"ts: an observation at the time of switch {number}, t = {t:.17g}, has no derivative")
        early = direction * (given - t) < 0.0
        parts.append(rest.replace(t1=t, ts=given[early]))
        rest = rest.replace(field=field, y0=y, t0=t, ts=None if rest.ts_is_t1 else given[~early])
    return [*parts, rest]


def _states(parts, options):
    """The observed states (n, K), and y(t1)."""
    *_, last = parts
    columns = [_solved(part, options).y for part in parts[:-1] if part.ts.size]
    if last.ts_is_t1:
        columns.append(_solved(last, options).y)
        return np.hstack(columns), columns[-1][:, -1]
    columns.append(_solved(last.replace(ts=np.append(last.ts, last.t1)), options).y)
    return np.hstack(columns)[:, :-1], columns[-1][:, -1]


def _solved(problem, options, **more):
    solution = solve(problem, **more, **options)
    if not solution.success:
        raise IntegrationError(solution.message, solution)
    return solution


def _located(problem, switch, number, direction, options):
    """(time, state) at the switch: seen on the dense output, and corrected until the state of a solve to it is on it."""
    path, theta = _solved(problem.replace(ts=None), options, dense_output=True).sol, problem.theta
    times = np.concatenate([np.linspace(a, b, LOOKS, endpoint=False) for a, b in zip(path.ts[:-1], path.ts[1:])] + [path.ts[-1:]])
    values = [switch.value(t, path(t), theta) for t in times]
    found = next((j for j in range(len(times) - 1) if values[j] < 0.0 <= values[j + 1]), None)
    if found is None:
        raise IntegrationError(f"switch {number} is not reached between t = {problem.t0:g} and {problem.t1:g}")
    t = _bisected(lambda t: switch.value(t, path(t), theta), times[found], times[found + 1])
    for _ in range(CORRECTIONS):
        y = _solved(problem.replace(t1=t, ts=None), options).y[:, -1]
        g_t, g_y, _ = switch.gradient(t, y, theta)
        speed = g_t + np.dot(g_y, problem.field(t, y, theta))
        if not direction * speed > 0.0:
            raise IntegrationError(f"switch {number} is touched at t = {t:g} and not passed: its time has no derivative")
        correction = -switch.value(t, y, theta) / speed
        if abs(correction) <= 2.0 * EPS * max(abs(t), abs(problem.t1 - problem.t0)):
            break
        t += correction
    return t, y


def _bisected(value, a, b):
    """Where a value goes from below 0 to 0 or more, to a thousandth of what is between a and b: Newton's method goes on from there."""
    for _ in range(10):
        middle = 0.5 * (a + b)
        a, b = (middle, b) if value(middle) < 0.0 else (a, middle)
    return b
