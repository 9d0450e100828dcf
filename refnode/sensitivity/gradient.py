"""The public doors to derivatives of a solve: `gradient`, `vjp` and `jvp`."""
import math
import warnings

import numpy as np

from refnode.checks import require_on_host, require_problem
from refnode.cuda_device import SINGLE_DOORS, device_and_real, real_named
from refnode.errors import GradientWarning, InvalidInputError, MissingDerivativeError
from refnode.sensitivity.checkpointing import pull_checkpointed
from refnode.sensitivity.continuous_adjoint import pull_backsolved, pull_interpolated
from refnode.sensitivity.cotangents import (
    SINGLE, Gradient, Seeds, cotangents_of, forward_stats, require_finite, slopes_of)
from refnode.sensitivity.forward import variational_tangents
from refnode.sensitivity.jumps import initial_tangent, observation_tangent
from refnode.sensitivity.recipes import OWN_OPTIONS, RECIPES, recipe_chosen, recipe_named
from refnode.sensitivity.reversible_adjoint import pull_inverted, pull_stored_states, reversible_tangents
from refnode.sensitivity.symplectic_adjoint import pull_symplectic
from refnode.sensitivity.tangent_check import pull_resolved, resolved_tangents
from refnode.sensitivity.through import pull_by_through_tangents, through_tangent_of
from refnode.sensitivity.through_adjoint import pull_through
from refnode.solve.integrate import FINISHED
from refnode.solve.options import SolveOptions
from refnode.solve.solution import solution_of
from refnode.steppers.schemes import REVERSIBLE_NAMES


def gradient(problem, sensitivity=None, *, truth=None, **options):
    """The derivative of a problem's loss with respect to all its inputs.

    Parameters
    ----------
    problem : Problem
        With a loss.
    sensitivity : str, optional
        A name in `refnode.sensitivity.recipes.RECIPES`, such as "discrete" (the default), "forward" or
        "interpolating".
    truth : "exact", "frozen" or "through", optional
        Which derivative: of the exact solution, of the steps taken with their times held, or of the program
        with its step-size control. Alone it chooses "interpolating", "discrete" or "through"; beside
        ``sensitivity`` it must be what that recipe gives.
    **options
        Those of `solve`; ``checkpoints``, the states that "checkpointed" and "online" may hold (100); and
        ``adjoint_rtol, adjoint_atol`` (continuous adjoints) or ``tangent_rtol, tangent_atol`` (forward), by
        default those of the solve. The absolute tolerance of an adjoint counts in units of the largest cotangent,
        so that scaling the loss scales the gradient exactly.
        ``seminorm=True`` leaves the parameter integral of an augmented adjoint out of its error norm,
        ``checkpoints`` is the number of states "backsolve_checkpointed" starts afresh from, and
        ``error_control="staggered"`` lets "forward" test the state before it advances the tangents.
        For "discrete" and "discrete_forward" ``control="tangent"`` lets tangents enter the step norm beside
        the state (with ``tangent_rtol, tangent_atol``), and ``check_tangent`` says when a probe of the tangent checks
        that the steps resolve it: True, False, or "auto", which spares most solves that repeat an earlier one.
        ``check_derivatives=True`` holds the field's jvp, vjp and hvp against finite differences first.
        ``device`` as for `solve_batch`, and ``dtype`` as for `solve`: on the CPU "discrete" alone goes in "float32". The loss
        and its cotangents are computed in double precision from the single states, and so is the tangent check; the
        gradient is returned in double arrays.

    Warns
    -----
    GradientWarning
        If a computed gradient may be inaccurate: a drift of backsolve, an unresolved tangent, a horizon on
        which the outputs are not determined by y0; or if the loss reads observations and there are none.

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
    GradientMismatch
        If ``check_derivatives`` finds a wrong derivative of the field; the message names its entry.
    """
    require_problem(problem, options.get("device", "cpu"))
    require_loss(problem)
    sensitivity = recipe_chosen(sensitivity, truth)
    check_if_asked(problem, options)
    real = "float64"
    if "device" in options or "dtype" in options:
        device, real = device_and_real(options.pop("device", "cpu"), options.pop("dtype", "float64"), single_on_cpu=True)
        if device == "cuda":
            from refnode.sensitivity.batch_gradient_cuda import gradient_of_one
            return gradient_of_one(problem, sensitivity, real, options)
        require_on_host(problem)
    loss = LossSeeds(problem)
    cotangents, forward = _pull(problem, sensitivity, options, loss, real)
    loss.warn_if_unread(3)
    return Gradient(**vars(cotangents), loss=loss.value, sensitivity=sensitivity,
                    forward=lambda: solution_without_cost(forward, problem))


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
        As for `gradient`, without ``device``.

    Returns
    -------
    Cotangents
        ``y0, theta, t0, t1, ts, stats``.
    """
    require_problem(problem)
    n, count = problem.y0.size, problem.ts.size
    check_if_asked(problem, options)
    real = real_named(options.pop("dtype", "float64"))
    seeds = Seeds(array_of("ys_bar", ys_bar, (n, count)).T.copy(), array_of("y1_bar", y1_bar, (n,)))
    cotangents, _ = _pull(problem.replace(loss=None), recipe_chosen(sensitivity, truth), options, lambda forward: seeds, real)
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
    check_if_asked(problem, options)
    own, options = split_options(sensitivity, recipe, options)
    push = _of_method(recipe, options, own, TANGENTS, REVERSIBLE_TANGENTS)
    y0_tan, theta_tan = array_of("y0_tan", y0_tan, problem.y0.shape), array_of("theta_tan", theta_tan, problem.theta.shape)
    ts_tan = np.array([t1_tan]) if problem.ts_is_t1 else array_of("ts_tan", ts_tan, problem.ts.shape)
    if recipe.truth == "through":
        return push(problem, options, y0_tan, theta_tan, t0_tan, t1_tan, ts_tan).T
    slope0 = problem.field(problem.t0, problem.y0, problem.theta)
    y0_tans = initial_tangent(y0_tan, t0_tan, slope0)[None]
    tangents = push(problem, options, own, y0_tans, np.ascontiguousarray(theta_tan[None]))
    slopes = slopes_of(problem.field, problem, problem.y0, tangents.ys, tangents.y1)
    return observation_tangent(tangents.ys_tans[:, 0], ts_tan[:, None], slopes[1:-1]).T


# --- one sweep, by recipe -------------------------------------------------------------------------

TANGENTS = {             # (equation, reversal) -> push
    ("variational", None): variational_tangents,
    ("tangent", "stored"): resolved_tangents,
    ("through tangent", "stored"): through_tangent_of,          # which moves the times as well
}
REVERSIBLE_TANGENTS = {("tangent", "stored"): reversible_tangents}                  # of methods with an inverse step


def _pull_by_tangents(problem, recipe, options, own, seeds_of):
    """Cotangents: the tangents in every direction of y0 and theta, contracted with the seeds. Implements (VAR-2)."""
    n, p = problem.flow_y0.size, problem.theta.size
    y0_tans, theta_tans = np.eye(n + p)[:, :n], np.eye(n + p)[:, n:]
    push = _of_method(recipe, options, own, TANGENTS, REVERSIBLE_TANGENTS)
    tangents = push(problem, options, own, np.ascontiguousarray(y0_tans), np.ascontiguousarray(theta_tans))
    seeds = seeds_of(tangents)
    bars = np.einsum("kn,kmn->m", seeds.ys_bar, tangents.ys_tans) + tangents.y1_tans @ seeds.y1_bar
    stats = {**forward_stats(tangents.forward), **tangents.stats}
    return cotangents_of(problem, tangents, seeds, bars[:n], bars[n:], stats), tangents


PULLS = {                # (equation, reversal) -> pull(problem, recipe, options, own, seeds_of) -> Cotangents, forward
    ("variational", None): _pull_by_tangents,
    ("tangent", "stored"): _pull_by_tangents,
    ("transpose", "stored"): pull_resolved,
    ("transpose", "binomial"): pull_checkpointed,
    ("transpose", "online"): pull_checkpointed,
    ("transpose", "uniform"): pull_checkpointed,
    ("transpose", "partner"): pull_symplectic,
    ("continuous", "backsolved"): pull_backsolved,
    ("continuous", "backsolved_plain"): pull_backsolved,
    ("continuous", "backsolved_checkpointed"): pull_backsolved,
    ("continuous", "interpolated"): pull_interpolated,
    ("through tangent", "stored"): pull_by_through_tangents,
    ("through transpose", "stored"): pull_through,
}
REVERSIBLE_PULLS = {     # the same for methods with an inverse step
    ("tangent", "stored"): _pull_by_tangents,
    ("transpose", "stored"): pull_stored_states,
    ("transpose", "inverted"): pull_inverted,
}


def _of_method(recipe, options, own, of_tableaus, of_schemes):
    """What computes the recipe for the method asked for.

    Raises
    ------
    InvalidInputError
        If nothing does; the message lists what goes with what.
    """
    key, has_inverse = (recipe.equation, recipe.reversal), options.scheme is not None
    table = of_schemes if has_inverse else of_tableaus
    if key in table and not (own and has_inverse):
        return table[key]
    if key in table:
        raise InvalidInputError(f"{', '.join(own)}: options about chosen steps, and method {options.scheme.name!r} "
                                "takes given ones")
    (name,) = [name for name, row in RECIPES.items() if row is recipe]
    if has_inverse:
        able = [other for other, row in RECIPES.items() if (row.equation, row.reversal) in table]
        raise InvalidInputError(f"sensitivity {name!r} is not available for method {options.scheme.name!r}, whose "
                                f"steps it cannot read; there are {able}, or an explicit Runge-Kutta method")
    raise InvalidInputError(
        f"sensitivity {name!r} needs a method with an inverse step, one of {', '.join(REVERSIBLE_NAMES)}; method "
        f"{options.tableau.name!r} has none: couple it, method='mccallum_foster({options.tableau.name})', "
        "and give n_steps= or steps=")


def _pull(problem, sensitivity, options, seeds_of, real="float64"):
    """Cotangents by the named recipe, and the forward trajectory; ``seeds_of(forward) -> Seeds``."""
    recipe, own, options = checked_call(problem, sensitivity, options, real)
    return _of_method(recipe, options, own, PULLS, REVERSIBLE_PULLS)(problem, recipe, options, own, seeds_of)


def checked_call(problem, sensitivity, options, real="float64"):
    """The recipe, its own options and those of the solve, for a problem or a batch that allows them."""
    recipe = recipe_named(sensitivity)
    own, options = split_options(sensitivity, recipe, options)
    require_derivative(problem, recipe.needs)
    if real == "float32":
        require_single(sensitivity, own)
        options = options.single
    require_cost_weight(problem, options)
    return recipe, own, options


class LossSeeds:
    """Evaluates a problem's loss on a forward solve: keeps its value, returns its cotangents."""

    def __init__(self, problem):
        self.problem, self.value = problem, np.nan
        self.unread = False                                     # whether it reads observations, and there are none

    def __call__(self, forward):
        loss, n, size = self.problem.loss, self.problem.y0.size, self.problem.flow_y0.size
        ys, y1 = forward.ys.T, forward.y1
        if size > n:
            ys, y1 = ys[:n], y1[:n]
        if ys.dtype is SINGLE:
            ys, y1 = ys.astype(np.float64), y1.astype(np.float64)
        self.value = float(loss.value(ys, y1))
        if size > n:
            self.value += float(forward.y1[n])
        if not math.isfinite(self.value):
            raise InvalidInputError(f"loss must be finite, found {self.value}")
        ys_bar, y1_bar = loss.vjp(ys, y1)
        ys_bar, y1_bar = array_of("ys_bar", ys_bar, ys.shape).T, array_of("y1_bar", y1_bar, y1.shape)
        self.unread = not ys.shape[1] and (loss.observes or (loss.observes is None and not y1_bar.any()))
        if size > n:                                            # a running cost: dL/dq = 1
            ys_bar, y1_bar = np.column_stack([ys_bar, np.zeros(len(ys_bar))]), np.append(y1_bar, 1.0)
        return Seeds(np.ascontiguousarray(ys_bar), y1_bar)

    def warn_if_unread(self, stacklevel):
        if self.unread:
            warnings.warn("the loss reads observations, and there are none (ts is empty): that part of it is 0, and so is "
                          "its gradient; leave ts out to observe y(t1)", GradientWarning, stacklevel=stacklevel)


def check_if_asked(problem, options):
    """Takes ``check_derivatives`` out of the options, and does what it asks for."""
    wanted = options.pop("check_derivatives", False)
    if not isinstance(wanted, bool):
        raise InvalidInputError(f"check_derivatives must be True or False, found {wanted!r}")
    if wanted:
        from refnode.field_check import require_right_derivatives        # late: a tenth of `import refnode`
        require_right_derivatives(problem)


# --- small parts ----------------------------------------------------------------------------------

def split_options(sensitivity, recipe, options):
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


def require_loss(problem):
    if problem.loss is None:
        raise InvalidInputError("gradient needs a problem with a loss; give Problem(..., loss=...)")


def require_single(sensitivity, own):
    """Raise InvalidInputError for what is not there in single precision."""
    if sensitivity != "discrete":
        raise InvalidInputError(f'sensitivity {sensitivity!r} computes in float64 on the CPU, found dtype="float32"; {SINGLE_DOORS}')
    if own.get("control") == "tangent":
        raise InvalidInputError('control="tangent" chooses its steps in float64, found dtype="float32": leave one out')


def require_derivative(problem, which):
    problem.field.require(which)
    if problem.flow_field is not problem.field and getattr(problem.flow_field, which) is None:
        raise MissingDerivativeError(
            f"the running cost has no g_{which}, which this computation needs; write it by hand and pass "
            f"running_cost(..., g_{which}=)")


def require_cost_weight(problem, options):
    if problem.flow_field is not problem.field and not options.atol.flat[-1] > 0.0:
        raise InvalidInputError("atol must be > 0 with a running cost, which is an integral that begins at 0 "
                                "and takes the atol of the last state; found atol = 0")


def array_of(name, value, shape):
    """``value`` as a float64 array of that shape; zeros for None."""
    if value is None:
        return np.zeros(shape)
    array = np.asarray(value, dtype=np.float64)
    if array.shape != shape:
        raise InvalidInputError(f"{name} must have shape {shape}, found {array.shape}")
    require_finite(name, array)
    return array


def solution_without_cost(forward, problem):
    """The `Solution` of the forward solve, without the state of a running cost."""
    trajectory = getattr(forward, "forward", forward)
    solution = solution_of(trajectory, FINISHED)
    n = problem.y0.size
    solution.y, solution.y1 = solution.y[:n], solution.y1[:n]
    return solution
