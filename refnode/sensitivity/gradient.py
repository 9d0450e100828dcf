"""The public doors to derivatives of a solve: `gradient`, `vjp` and `jvp`."""
import math

import numpy as np

from refnode.checks import require_problem
from refnode.errors import InvalidInputError, MissingDerivativeError
from refnode.sensitivity.continuous_adjoint import pull_backsolved, pull_interpolated
from refnode.sensitivity.cotangents import (
    Gradient, Seeds, cotangents_of, forward_stats, require_finite, slopes_of)
from refnode.sensitivity.forward import variational_tangents
from refnode.sensitivity.jumps import initial_tangent, observation_tangent
from refnode.sensitivity.recipes import OWN_OPTIONS, RECIPES, recipe_chosen, recipe_named
from refnode.sensitivity.tangent_check import pull_resolved, resolved_tangents
from refnode.sensitivity.through import pull_by_through_tangents, through_tangent_of
from refnode.sensitivity.through_adjoint import pull_through
from refnode.solve.integrate import FINISHED
from refnode.solve.options import SolveOptions
from refnode.solve.solution import solution_of


def gradient(problem, sensitivity=None, *, truth=None, **options):
    """The derivative of a problem's loss with respect to all its inputs.

    Parameters
    ----------
    problem : Problem
        With a loss.
    sensitivity : str, optional
        A name in `refnode.sensitivity.recipes.RECIPES`: "forward", "discrete_forward", "discrete" (the
        default), "backsolve", "interpolating", "through_forward" or "through".
    truth : "exact", "frozen" or "through", optional
        Which derivative: of the exact solution, of the steps taken with their times held, or of the program
        with its step-size control. Alone it chooses "interpolating", "discrete" or "through"; beside
        ``sensitivity`` it must be what that recipe gives.
    **options
        Those of `solve`, and ``adjoint_rtol, adjoint_atol`` (continuous adjoints) or ``tangent_rtol,
        tangent_atol`` (forward), by default those of the solve. The absolute tolerance of an adjoint
        counts in units of the largest cotangent, so that scaling the loss scales the gradient exactly.
        For the discrete recipes ``control="tangent"`` lets tangents enter the step norm beside the state
        (with ``tangent_rtol, tangent_atol``), and ``check_tangent`` says when a probe of the tangent checks
        that the steps resolve it: True, False, or "auto", which spares most solves that repeat an earlier one.

    Warns
    -----
    GradientWarning
        If a computed gradient may be inaccurate: a drift of backsolve, an unresolved tangent.

    Returns
    -------
    Gradient
        ``loss, y0, theta, t0, t1, ts, stats``, and ``solution``, the forward `Solution`.

    Raises
    ------
    MissingDerivativeError
        If the field lacks the jvp or vjp the recipe needs.
    IntegrationError
        If a solve fails; carries the `Solution`.
    InvalidInputError
        If the loss or its cotangents are not finite, or an argument is wrong.
    """
    require_problem(problem)
    if problem.loss is None:
        raise InvalidInputError("gradient needs a problem with a loss; give Problem(..., loss=...)")
    sensitivity = recipe_chosen(sensitivity, truth)
    loss = _LossSeeds(problem)
    cotangents, forward = _pull(problem, sensitivity, options, loss)
    return Gradient(**vars(cotangents), loss=loss.value, sensitivity=sensitivity,
                    forward=lambda: _solution_without_cost(forward, problem))


def vjp(problem, ys_bar=None, y1_bar=None, sensitivity=None, *, truth=None, **options):
    """Pull cotangents of the observed states back to all inputs.

    Parameters
    ----------
    problem : Problem
    ys_bar : array_like, shape (n, K), optional
        Cotangents of y(ts), as `solve` returns them.
    y1_bar : array_like, shape (n,), optional
        Cotangent of y(t1).
    sensitivity, truth, **options
        As for `gradient`.

    Returns
    -------
    Cotangents
        ``y0, theta, t0, t1, ts, stats``.
    """
    require_problem(problem)
    n, count = problem.y0.size, problem.ts.size
    seeds = Seeds(_array("ys_bar", ys_bar, (n, count)).T.copy(), _array("y1_bar", y1_bar, (n,)))
    cotangents, _ = _pull(problem.replace(loss=None), recipe_chosen(sensitivity, truth), options, lambda forward: seeds)
    return cotangents


def jvp(problem, y0_tan=None, theta_tan=None, t0_tan=0.0, t1_tan=0.0, ts_tan=None,
        sensitivity=None, *, truth=None, **options):
    """Push tangents of the inputs forward to the observed states.

    Parameters
    ----------
    problem : Problem
    y0_tan, theta_tan, ts_tan : array_like, shapes (n,), (p,), (K,), optional
    t0_tan, t1_tan : float
        t1_tan moves y(ts) only if the problem observes t1 itself (``ts=None``).
    sensitivity : "discrete_forward" (the default), "forward" or "through_forward", optional
    truth, **options
        As for `gradient`.

    Returns
    -------
    ndarray, shape (n, K)
        The tangent of y(ts).
    """
    require_problem(problem)
    problem = problem.replace(loss=None)
    sensitivity = recipe_chosen(sensitivity, truth, forward=True)
    recipe = recipe_named(sensitivity)
    if recipe.needs != "jvp":
        raise InvalidInputError(f"jvp needs a forward recipe ('discrete_forward', 'forward', 'through_forward'), "
                                f"found {sensitivity!r}")
    problem.field.require("jvp")
    own, options = _split_options(sensitivity, recipe, options)
    ts_tan = np.array([t1_tan]) if problem.ts_is_t1 else _array("ts_tan", ts_tan, problem.ts.shape)
    if recipe.truth == "through":
        return through_tangent_of(problem, options, _array("y0_tan", y0_tan, problem.y0.shape),
                                  _array("theta_tan", theta_tan, problem.theta.shape), t0_tan, t1_tan, ts_tan).T
    slope0 = problem.field(problem.t0, problem.y0, problem.theta)
    y0_tans = initial_tangent(_array("y0_tan", y0_tan, problem.y0.shape), t0_tan, slope0)[None]
    theta_tans = np.ascontiguousarray(_array("theta_tan", theta_tan, problem.theta.shape)[None])
    tangents = TANGENTS[recipe.equation](problem, options, own, y0_tans, theta_tans)
    slopes = slopes_of(problem.field, problem, problem.y0, tangents.ys, tangents.y1)
    return observation_tangent(tangents.ys_tans[:, 0], ts_tan[:, None], slopes[1:-1]).T


# --- one sweep, by recipe -------------------------------------------------------------------------

TANGENTS = {"variational": variational_tangents, "tangent": resolved_tangents}


def _pull_by_tangents(problem, recipe, options, own, seeds_of):
    """Cotangents: the tangents in every direction of y0 and theta, contracted with the seeds. Implements (VAR-2)."""
    n, p = problem.flow_y0.size, problem.theta.size
    y0_tans, theta_tans = np.eye(n + p)[:, :n], np.eye(n + p)[:, n:]
    tangents = TANGENTS[recipe.equation](problem, options, own, np.ascontiguousarray(y0_tans),
                                         np.ascontiguousarray(theta_tans))
    seeds = seeds_of(tangents)
    bars = np.einsum("kn,kmn->m", seeds.ys_bar, tangents.ys_tans) + tangents.y1_tans @ seeds.y1_bar
    return cotangents_of(problem, tangents, seeds, bars[:n], bars[n:], forward_stats(tangents.forward)), tangents


PULLS = {                # (equation, reversal) -> pull(problem, recipe, options, own, seeds_of) -> Cotangents, forward
    ("variational", None): _pull_by_tangents,
    ("tangent", "stored"): _pull_by_tangents,
    ("transpose", "stored"): pull_resolved,
    ("continuous", "backsolved"): pull_backsolved,
    ("continuous", "interpolated"): pull_interpolated,
    ("through tangent", "stored"): pull_by_through_tangents,
    ("through transpose", "stored"): pull_through,
}


def _pull(problem, sensitivity, options, seeds_of):
    """Cotangents by the named recipe, and the forward trajectory; ``seeds_of(forward) -> Seeds``."""
    recipe, own, options = checked_call(problem, sensitivity, options)
    return PULLS[recipe.equation, recipe.reversal](problem, recipe, options, own, seeds_of)


def checked_call(problem, sensitivity, options):
    """The recipe, its own options and those of the solve, for a problem or a batch that allows them."""
    recipe = recipe_named(sensitivity)
    own, options = _split_options(sensitivity, recipe, options)
    _require_derivative(problem, recipe.needs)
    _require_cost_weight(problem, options)
    return recipe, own, options


class _LossSeeds:
    """Evaluates a problem's loss on a forward solve: keeps its value, returns its cotangents."""

    def __init__(self, problem):
        self.problem, self.value = problem, np.nan

    def __call__(self, forward):
        loss, n, size = self.problem.loss, self.problem.y0.size, self.problem.flow_y0.size
        ys, y1 = forward.ys[:, :n].T, forward.y1[:n]
        self.value = float(loss.value(ys, y1))
        if size > n:
            self.value += float(forward.y1[n])
        if not math.isfinite(self.value):
            raise InvalidInputError(f"loss must be finite, found {self.value}")
        ys_bar, y1_bar = loss.vjp(ys, y1)
        ys_bar, y1_bar = _array("ys_bar", ys_bar, ys.shape).T, _array("y1_bar", y1_bar, y1.shape)
        if size > n:                                            # a running cost: dL/dq = 1
            ys_bar, y1_bar = np.column_stack([ys_bar, np.zeros(len(ys_bar))]), np.append(y1_bar, 1.0)
        return Seeds(np.ascontiguousarray(ys_bar), y1_bar)


# --- small parts ----------------------------------------------------------------------------------

def _split_options(sensitivity, recipe, options):
    """The recipe's own options, and those of the solve."""
    if "events" in options:
        raise InvalidInputError("gradients through events are not implemented: a derivative that ignored "
                                "them would be wrong; `solve_ivp` finds events, without derivatives")
    own = {name: options.pop(name) for name in OWN_OPTIONS.keys() & options.keys()}
    for name, value in own.items():
        if name not in recipe.options:
            raise InvalidInputError(
                f"{name} is not an option of {sensitivity!r}, which has {list(recipe.options) or 'none of its own'}; "
                f"those that have it: {[other for other, row in RECIPES.items() if name in row.options]}")
        OWN_OPTIONS[name](name, value)
    return own, SolveOptions.of(**options)


def _require_derivative(problem, which):
    problem.field.require(which)
    if problem.flow_field is not problem.field and getattr(problem.flow_field, which) is None:
        raise MissingDerivativeError(
            f"the running cost has no g_{which}, which this computation needs; write it by hand and pass "
            f"running_cost(..., g_{which}=)")


def _require_cost_weight(problem, options):
    if problem.flow_field is not problem.field and not options.atol.flat[-1] > 0.0:
        raise InvalidInputError("atol must be > 0 with a running cost, which is an integral that begins at 0 "
                                "and takes the atol of the last state; found atol = 0")


def _array(name, value, shape):
    """``value`` as a float64 array of that shape; zeros for None."""
    if value is None:
        return np.zeros(shape)
    array = np.asarray(value, dtype=np.float64)
    if array.shape != shape:
        raise InvalidInputError(f"{name} must have shape {shape}, found {array.shape}")
    require_finite(name, array)
    return array


def _solution_without_cost(forward, problem):
    """The `Solution` of the forward solve, without the state of a running cost."""
    trajectory = getattr(forward, "forward", forward)
    solution = solution_of(trajectory, FINISHED)
    n = problem.y0.size
    solution.y, solution.y1 = solution.y[:n], solution.y1[:n]
    return solution
