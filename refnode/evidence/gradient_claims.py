"""Rows about whole problems: every recipe against exact gradients, losses as functions, and duality."""
import copy
import functools
import warnings

import numpy as np

import refnode
from refnode.evidence.amplification import Amplification, Units
from refnode.evidence.references import Flow, closed_form_reference, scipy_reference
from refnode.evidence.reversible_claims import needs_inverse, undone_rows
from refnode.evidence.row import (
    EPS, Comparison, Row, attempt, block_scale, flat, input_names, input_vector, single, split_inputs)
from refnode.evidence.stepper_claims import FrozenSteps, pushed
from refnode.evidence.subjects import COLUMNS, closed_forms, method_named, problems
from refnode.evidence.through_claims import through_dual, through_rows
from refnode.gradcheck import check_gradient, taylor_test
from refnode.sensitivity.recipes import RECIPES
from refnode.steppers.tableaus import TABLEAUS

RTOL = 1e-9                   # at which healthy and broken gradients are farthest apart
TOLERANCES = (RTOL, 1e-11, 1e-12)     # the next where the bound of the one before is too wide to prove anything
ROUNDINGS = 100              # of a step, at most: ten a slope
FROZEN_RTOL = 1e-4            # of the adaptive solve whose steps are frozen: few, of varied length
MAIN_METHOD = "dopri5"
OTHER_METHODS_PROBLEM = "van_der_pol"

# Absolute over relative tolerances, where unit sizes do not fit: B is 1e-5, its derivative by k2 1e-12.
UNITS = {"robertson": Units(state=1e-5, tangent=1e-12, adjoint=1e-14)}

# What a recipe integrates under error control. Frozen steps have the errors of the tangent, uncontrolled.
SYSTEM = {"interpolated": "interpolating", "backsolved": "backsolve", "backsolved_checkpointed": "backsolve",
          "backsolved_plain": "backsolve_plain"}                # by reversal; the others "forward"


class Case:
    """One problem with its references, computed once, when first asked for."""

    def __init__(self, name, seed):
        self.name, self.seed = name, seed
        self.problem = problems()[name]()
        self.names = input_names(self.problem)
        self.units = UNITS.get(name, Units())
        self.flow = Flow(self.problem, COLUMNS.get(name))

    @functools.cached_property
    def scipy(self):
        return scipy_reference(self.flow)

    @functools.cached_property
    def exact(self):
        """The closed form where there is one, else SciPy."""
        solution = closed_forms().get(self.name)
        return self.scipy if solution is None else closed_form_reference(self.problem, solution)

    @functools.cached_property
    def amplification(self):
        return Amplification(self.flow, self.units, self.seed)

    def replaced(self, loss):
        """The same case with another loss."""
        case = copy.copy(self)
        case.problem = self.problem.replace(loss=loss)
        return case

    def options(self, method=MAIN_METHOD, rtol=RTOL):
        return {"method": method, "rtol": rtol, "atol": rtol * self.units.state}

    def recipe_options(self, recipe, method=MAIN_METHOD, rtol=RTOL):
        units = {"tangent_atol": self.units.tangent, "adjoint_atol": self.units.adjoint}
        row = RECIPES[recipe]
        own = {name: rtol * unit for name, unit in units.items() if row.truth == "exact" and name in row.options}
        return {**self.options(method, rtol), **own}

    def gradient(self, recipe, method=MAIN_METHOD, rtol=RTOL):
        """The gradient by a recipe at the tolerance; a drifting backsolve may warn, the row will tell."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", refnode.GradientWarning)
            return refnode.gradient(self.problem, recipe, **self.recipe_options(recipe, method, rtol))

    def bound(self, recipe, found, rtol=RTOL):
        """The bound of `Amplification` for the steps that a gradient took, and rounding."""
        steps = found.stats["n_steps"] + found.stats.get("n_steps_reverse", 0)
        rounding = ROUNDINGS * steps * EPS * block_scale(self.problem, self.exact.gradient)
        return self.amplification.bound(SYSTEM.get(RECIPES[recipe].reversal, "forward"), rtol, steps) + rounding


def problem_rows(name, recipes, methods, seed):
    """Evidence on one problem, by every recipe and adaptive method asked for."""
    case = Case(name, seed)
    undone, recipes = undone_rows(case, recipes), [name for name in recipes if not needs_inverse(name)]
    return (undone + state_rows(case, methods) + recipe_rows(case, recipes, methods)
            + frozen_recipe_rows(case, recipes, methods) + through_rows(case, recipes, methods_for(case, methods, True))
            + scaling_rows(case, recipes, methods) + loss_rows(case) + duality_rows(case, recipes, methods))


def methods_for(case, methods, given_steps=False):
    """For one problem all methods that choose their steps, and if asked those that cannot; the main one for the others."""
    if case.name != OTHER_METHODS_PROBLEM:
        return adaptive(methods)[:1]
    return adaptive(methods) + [name for name in methods if given_steps and name in TABLEAUS and not TABLEAUS[name].adaptive]


def adaptive(methods):
    """The main method if it is asked for, and the others that choose their steps."""
    able = [name for name in methods if method_named(name).adaptive]
    return sorted(able, key=lambda name: name != MAIN_METHOD)


# --- recipes against exact gradients ---------------------------------------------------------------

AMPLIFIED = "tolerance x steps x amplification of local errors, measured by kicks"


def state_rows(case, methods):
    rows = []
    if case.name in closed_forms():
        rows.append(attempt("recipes", case.name, "closed form = SciPy on the variational system", "exact",
                            functools.partial(_references_row, case), field=case.name))
    for method in adaptive(methods)[:1]:
        rows.append(attempt("recipes", case.name, f"y(ts) = SciPy solve_ivp, {method}", "exact",
                            functools.partial(_state_row, case), field=case.name, method=method))
    return rows


def _references_row(case, **head):
    exact, other = case.exact, case.scipy
    scale = block_scale(case.problem, exact.gradient)
    uncertainty = exact.uncertainty + other.uncertainty
    return Comparison(case.names, other.gradient, exact.gradient, uncertainty, 0.0, scale).row(
        reason="change of SciPy's gradient from rtol 1e-10 to 1e-12", **head)


def _state_row(case, method, **head):
    n, solution = case.problem.y0.size, refnode.solve(case.problem, **case.options(method))
    reference = case.scipy
    bound = case.amplification.bound("state", RTOL, solution.n_steps)
    names = [f"y{list(index)}" for index in np.ndindex(*solution.y.shape)]
    parts = [v[:n].ravel() for v in (reference.ys, bound, reference.ys_uncertainty)]
    return Comparison(names, solution.y.ravel(), *parts, np.max(np.abs(reference.ys[:n]))).row(
        reason=AMPLIFIED, method=method, **head)


def recipe_rows(case, recipes, methods):
    """All recipes but those through the step control, whose distance from the exact gradient no amplification bounds."""
    return [attempt("recipes", case.name, f"{recipe} = exact gradient, {method}", "exact",
                    functools.partial(recipe_row, case), field=case.name, method=method, recipe=recipe)
            for method in methods_for(case, methods) for recipe in recipes if RECIPES[recipe].truth != "through"]


def recipe_row(case, recipe, method, **head):
    """One recipe against the exact gradient, all inputs, at the first tolerance whose bound says something."""
    for rtol in TOLERANCES:
        found = case.gradient(recipe, method, rtol)
        row = compared_with_exact(case, flat(found), case.bound(recipe, found, rtol), recipe=recipe, method=method,
                                  note=f"tolerance {rtol:g}, reference: {case.exact.source}", **head)
        if row.verdict != "INCONCLUSIVE":
            break
    return row


def compared_with_exact(case, gradient, bound, **head):
    """A flat gradient against the exact one."""
    exact = case.exact
    return Comparison(case.names, gradient, exact.gradient, bound, exact.uncertainty,
                      block_scale(case.problem, exact.gradient)).row(reason=AMPLIFIED, **head)


def frozen_recipe_rows(case, recipes, methods):
    """The discrete recipes against complex steps through the steps that error control chose."""
    method = (adaptive(methods) or [None])[0]
    frozen = [recipe for recipe in recipes if RECIPES[recipe].truth == "frozen"]
    if method is None or not frozen:
        return []
    options = {**case.options(method, FROZEN_RTOL)}
    steps = FrozenSteps(case.name, method, case.seed, options)
    return [attempt("recipes", case.name, f"{recipe} = complex step of the steps, {method}", "frozen",
                    steps.gradient_row, field=case.name, method=method, recipe=recipe)
            for recipe in frozen]


# --- a scaled loss ---------------------------------------------------------------------------------

SCALES = (2.0**30, 2.0**-30)


class ScaledLoss(refnode.losses.Loss):
    """L times a number."""

    def __init__(self, loss, factor):
        self.loss, self.factor = loss, factor

    def value(self, ys, y1):
        return self.factor * self.loss.value(ys, y1)

    def vjp(self, ys, y1):
        return tuple(self.factor * cotangent for cotangent in self.loss.vjp(ys, y1))


def scaling_rows(case, recipes, methods):
    """2^30 L has 2^30 times the gradient, and 2^-30 L 2^-30: no tolerance may know the scale of a loss."""
    if case.problem.loss.running is not None or not adaptive(methods):
        return []
    method = adaptive(methods)[0]
    return [attempt("recipes", case.name, f"{recipe} of 2^30 L and 2^-30 L, {method}", "exact",
                    functools.partial(_scaling_row, case), field=case.name, method=method, recipe=recipe)
            for recipe in recipes if RECIPES[recipe].needs == "vjp"]


def _scaling_row(case, recipe, method, **head):
    plain = case.gradient(recipe, method)
    scaled = [flat(case.replaced(ScaledLoss(case.problem.loss, factor)).gradient(recipe, method)) / factor
              for factor in SCALES]
    names, scale = list(case.names) * len(SCALES), np.tile(block_scale(case.problem, flat(plain)), len(SCALES))
    return Comparison(names, np.concatenate(scaled), np.tile(flat(plain), len(SCALES)), 4 * EPS * scale, 0.0, scale).row(
        reason="powers of two scale every rounding alike: 4 eps", recipe=recipe, method=method, **head)


# --- losses as functions ---------------------------------------------------------------------------

FIXED = {"method": "dopri5", "n_steps": 32}
TIGHT = 1e-12
TAYLOR_NOISE = 1e-9          # of a loss solved at TIGHT, relative, with a wide margin
DIRECTIONS, LEVELS = 4, 14    # the finest step, 2^-15, shows errors of 1e-4 of the gradient


def loss_rows(case):
    claims = (("finite differences, 32 fixed steps: y0, theta", "frozen", _fixed_step_differences),
              ("finite differences at tolerance 1e-12: all inputs", "exact", _tight_differences),
              ("Taylor remainders have order 2", "exact", _taylor))
    return [attempt("losses", case.name, evidence, truth, functools.partial(claim, case), field=case.name)
            for evidence, truth, claim in claims]


def loss_at(case, x, options):
    """The loss with inputs x: y is observed at times outside [t0, t1] by a solve of its own.

    Moving t0, t1 or a time beyond its neighbour is no obstacle then, and differences are central.
    """
    at, problem = split_inputs(case.problem, x), case.problem
    times = np.array([at["t1"]]) if problem.ts_is_t1 else at["ts"]
    flow = problem.replace(field=problem.flow_field, y0=np.append(at["y0"], problem.flow_y0[problem.y0.size:]),
                           theta=at["theta"], t0=at["t0"], t1=at["t1"], ts=None, loss=None)
    low, high = min(flow.t0, flow.t1), max(flow.t0, flow.t1)
    inside = (times >= low) & (times <= high)
    ys = np.empty((flow.y0.size, times.size))
    main = refnode.solve(flow.replace(ts=times[inside]) if inside.any() else flow, **options)
    if inside.any():
        ys[:, inside] = main.y
    for k in np.flatnonzero(~inside):
        ys[:, k] = refnode.solve(flow.replace(t1=times[k]), **options).y1
    n = problem.y0.size
    return float(problem.loss.value(ys[:n], main.y1[:n]) + main.y1[n:].sum())


def lengths(case):
    """Lengths over which the loss varies: |x|, and for a time a part of the interval."""
    x, m = np.abs(input_vector(case.problem)), case.problem.y0.size + case.problem.theta.size
    x[m:] = 0.25 * abs(case.problem.t1 - case.problem.t0)
    return np.where(x > 0, x, np.median(x[x > 0]))


def _fixed_step_differences(case, **head):
    """y0 and theta, through the very same steps: the difference quotients of the program itself."""
    x, m = input_vector(case.problem), case.problem.y0.size + case.problem.theta.size
    gradient = flat(refnode.gradient(case.problem, "discrete", **FIXED))[:m]
    report = check_gradient(lambda v: loss_at(case, np.concatenate([v, x[m:]]), FIXED), x[:m], gradient,
                            names=case.names[:m], scale=lengths(case)[:m], rtol=1e-9, methods=("fd", "dot"),
                            seed=case.seed)
    return _row_of_report(report, "rtol 1e-9 + 10 x error estimate of the differences", **head)


def _tight_differences(case, **head):
    x, options = input_vector(case.problem), tight_options(case)
    report = check_gradient(lambda v: loss_at(case, v, options), x, tight_gradient(case), names=case.names,
                            scale=lengths(case), rtol=1e-7, methods=("fd", "dot"), seed=case.seed)
    return _row_of_report(report, "rtol 1e-7 + 10 x error estimate of the differences", **head)


def tight_options(case):
    return {"method": "dop853", "rtol": TIGHT, "atol": 1e-2 * TIGHT * case.units.state}


def tight_gradient(case):
    return flat(refnode.gradient(case.problem, "discrete", **tight_options(case)))


def _row_of_report(report, reason, **head):
    """The row of a `GradientReport`: its verdict, and its worst component."""
    worst = report.worst
    if worst is None:
        return Row(verdict=report.verdict, note="; ".join(report.diagnosis), **head)
    scale = max(abs(worst.reference), max((abs(c.reference) for c in report.components), default=0.0)) or 1.0
    return Row(verdict=report.verdict, error=worst.error / scale, bound=worst.bound / scale, reason=reason,
               worst=worst.name, uncertainty=worst.uncertainty / scale, note="; ".join(report.diagnosis), **head)


def _taylor(case, **head):
    return taylor_row(case, tight_gradient(case), **head)


def taylor_row(case, gradient, **head):
    """How far the rate of the finest remainders above the solver's noise is below 2; a wrong gradient has 1.

    The remainder is a root mean square over directions: along one alone it may vanish by accident.
    """
    options, x = tight_options(case), input_vector(case.problem)
    tests = [taylor_test(lambda v: loss_at(case, v, options), x, gradient, scale=lengths(case),
                         seed=[case.seed, k], levels=LEVELS) for k in range(DIRECTIONS)]
    first, second = (np.sqrt(np.mean(np.square([getattr(test, name) for test in tests]), axis=0))
                     for name in ("first", "second"))
    seen = second[second > TAYLOR_NOISE * max(abs(loss_at(case, x, options)), np.max(first))]
    if seen.size < 2:
        return Row(verdict="INCONCLUSIVE", note="all remainders are noise", **head)
    rates = np.log2(seen[:-1] / seen[1:])
    return single(max(2.0 - rates[-1], 0.0), 0.0, 0.5, "rate").row(
        reason="rate lacking; 2 for a right gradient, 1 for a wrong one", **head,
        note="rates " + " ".join(f"{rate:.2f}" for rate in rates))


# --- duality ---------------------------------------------------------------------------------------

PAIRS = (("discrete_forward", "discrete"), ("forward", "interpolating"), ("forward", "backsolve"),
         ("through_forward", "through"))


def duality_rows(case, recipes, methods):
    """<w, S v> = <S^T w, v> for the pairs of forward and reverse recipes asked for; w is the loss's cotangent."""
    rows = []
    for forward, reverse in PAIRS:
        if forward in recipes and reverse in recipes and adaptive(methods):
            truth = RECIPES[reverse].truth
            rows.append(attempt("duality", case.name, f"jvp {forward} / vjp {reverse}", truth, functools.partial(
                DUALS[truth], case, forward, adaptive(methods)[0]),
                field=case.name, recipe=reverse))
    return rows


def _frozen_dual(case, forward, method, **head):
    """To rounding, with random w and v, on the steps that error control chose."""
    steps = FrozenSteps(case.name, method, case.seed, case.options(method, FROZEN_RTOL))
    return steps.dot_row(**head)


def _exact_dual(case, forward, method, recipe, **head):
    """To the tolerance: both sides approximate one number, <gradient, v>."""
    problem = case.problem.replace(loss=None)
    solution = refnode.solve(problem, **case.options(method))
    ys_bar, _ = case.problem.loss.vjp(solution.y, solution.y1)
    tangent = np.random.default_rng([case.seed, 3]).standard_normal(len(case.names)) * np.abs(input_vector(problem))
    forward_side = np.sum(ys_bar * pushed(problem, tangent, forward, case.recipe_options(forward, method)))
    pulled = refnode.vjp(problem, ys_bar, sensitivity=recipe, **case.recipe_options(recipe, method))
    steps = solution.n_steps + pulled.stats["n_steps_reverse"]
    systems = [SYSTEM.get(RECIPES[name].reversal, "forward") for name in (forward, recipe)]
    bounds = sum(case.amplification.bound(system, RTOL, steps) for system in systems)
    scale = np.abs(flat(pulled)) @ np.abs(tangent)
    return single(flat(pulled) @ tangent, forward_side, bounds @ np.abs(tangent), "<w, S v>", scale=scale).row(
        reason=AMPLIFIED, recipe=recipe, **head)


DUALS = {"frozen": _frozen_dual, "exact": _exact_dual, "through": through_dual}
