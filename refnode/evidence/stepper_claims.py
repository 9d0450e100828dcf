"""Rows about steppers: the order of accuracy, and the derivatives of given steps."""
import functools

import numpy as np

import refnode
from refnode.evidence.references import Replayed, closed_form_reference
from refnode.evidence.row import EPS, Comparison, attempt, block_scale, flat, input_names, single
from refnode.evidence.subjects import closed_forms, method_named, problems, separable_problems
from refnode.sensitivity.recipes import RECIPES
from refnode.steppers.tableaus import TABLEAUS

STEPS = 12                # of the solves whose steps are frozen
CHECKPOINTS = 3           # fewer than steps, so that steps are taken again
STEPPER_PROBLEMS = ("forced_oscillator", "lotka_volterra")
SEPARABLE_PROBLEMS = ("forced_oscillator/undamped", "kepler")      # for kicks and drifts
CALM_PROBLEMS = ("forced_oscillator", "pendulum")                  # where no parasitic root grows far


def stepper_rows(name, seed, recipes=tuple(RECIPES)):
    """Evidence on one method."""
    method, base = method_named(name), order_base(name)
    claims = [("order of y(t1)", "exact", _state_order), ("order of the dense output", "exact", _dense_order),
              ("order of the gradient", "exact", _gradient_order)]
    rows = [attempt("steppers", name, f"{evidence}, {base}", truth, claim, method=name, field=base.split("/")[0])
            for evidence, truth, claim in claims if name in TABLEAUS or claim is not _dense_order]
    rows += [attempt("steppers", name, f"order of the gradient by {recipe}, {base}", "exact", _recipe_order, method=name,
                     field=base, recipe=recipe)
             for recipe in recipes if RECIPES[recipe].truth == "exact" and name in TABLEAUS and not method.adaptive]
    for problem in stepper_problems(name):
        rows += frozen_rows(problem, name, seed, recipes)
    return rows


def stepper_problems(method):
    """The problems on which a method's steps are held against complex numbers."""
    if method in TABLEAUS:
        return STEPPER_PROBLEMS
    return SEPARABLE_PROBLEMS if method_named(method).separable else CALM_PROBLEMS


def frozen_rows(problem_name, method, seed, recipes):
    """The tangent and the transpose of given steps, by every recipe, against complex steps of the very program."""
    case = FrozenSteps(problem_name, method, seed)
    labels = {"method": method, "field": problem_name.split("/")[0]}
    rows = [attempt("steppers", method, f"{recipe} = complex step, {problem_name}", "frozen", case.gradient_row,
                    recipe=recipe, **labels) for recipe in recipes if differentiates_steps(recipe, method)]
    evidence = f"<w, S v> = <S^T w, v>, {problem_name}"
    return rows + [attempt("steppers", method, evidence, "frozen", case.dot_row, **labels)]


def differentiates_steps(recipe, method):
    """Whether a recipe gives the derivative of a method's steps."""
    reversals = set(row.reversal for row in RECIPES.values()) - {"inverted"} if method in TABLEAUS else {"stored", "inverted"}
    return RECIPES[recipe].truth == "frozen" and RECIPES[recipe].reversal in reversals


class FrozenSteps:
    """A problem solved by STEPS equal steps, and the derivatives of these steps by complex numbers."""

    def __init__(self, problem_name, method, seed, options=None):
        self.problem, self.method = {**problems(), **separable_problems()}[problem_name](), method
        self.options = options or {"method": method, "n_steps": STEPS}
        self.rng = np.random.default_rng([seed, 2])

    @functools.cached_property
    def t_steps(self):
        """Of a method with an inverse the given times: it adds the observations itself."""
        if self.method not in TABLEAUS:
            return np.linspace(self.problem.t0, self.problem.t1, self.options["n_steps"] + 1)
        return refnode.gradient(self.problem, "discrete", **self.options).solution.t_steps

    @functools.cached_property
    def replayed(self):
        return Replayed(self.problem, self.t_steps, self.method)

    def rounding(self):
        """Ten roundings for every slope: the terms of f, and the sum over the stages before."""
        method, steps = method_named(self.method), self.t_steps.size
        slopes = method.s + 1 if self.method in TABLEAUS else method.cost
        return 10 * (steps if self.method in TABLEAUS else steps + self.problem.ts.size) * slopes * EPS

    reason = "rounding: 10 eps for each of the N (s + 1) slopes"

    def gradient_row(self, recipe, **head):
        """A whole gradient: y0, theta and all times."""
        exact = self.replayed.gradient
        own = {"checkpoints": CHECKPOINTS} if "checkpoints" in RECIPES[recipe].options else {}
        found = refnode.gradient(self.problem, recipe, **own, **self.options)
        scale = np.maximum(block_scale(self.problem, exact), self._magnitude(found))
        return Comparison(input_names(self.problem), flat(found), exact, self.rounding() * scale, 0.0,
                          scale).row(reason=self.reason, recipe=recipe, **head)

    def _magnitude(self, found):
        """Sum of the magnitudes of the terms that make up each component."""
        solution = found.solution
        ys_bar, y1_bar = self.problem.loss.vjp(solution.y, solution.y1)
        return self.replayed.magnitude(ys_bar) + np.abs(y1_bar) @ np.abs(self.replayed.y1_tans.T)

    def dot_row(self, **head):
        tangent = self.rng.standard_normal(self.replayed.gradient.size)
        ys_bar = self.rng.standard_normal(self.replayed.ys_tans.shape[1:])
        forward = np.sum(ys_bar * pushed(self.problem, tangent, "discrete_forward", self.options))
        reverse = flat(refnode.vjp(self.problem, ys_bar, sensitivity="discrete", **self.options)) @ tangent
        scale = self.replayed.magnitude(ys_bar) @ np.abs(tangent)
        return single(reverse, forward, self.rounding() * scale, "<w, S v>", scale=scale).row(
            reason=self.reason, **head)


def pushed(problem, tangent, recipe, options):
    """The public jvp along a tangent of all inputs, in the order of `flat`."""
    n, end = problem.y0.size, problem.y0.size + problem.theta.size
    ts_tan = None if problem.ts_is_t1 else tangent[end + 2:]
    return refnode.jvp(problem, tangent[:n], tangent[n:end], tangent[end], tangent[end + 1], ts_tan,
                       sensitivity=recipe, **options)


# --- orders ----------------------------------------------------------------------------------------

ORDER = "order lacking; orders are whole numbers, so less than 1/2"
FLOOR = 1e3 * EPS            # errors below this, relative, are rounding as much as truncation
LARGEST = 512                # steps
SAMPLES = 6                  # starting points: an error may vanish by accident at one of them
FEWER, SMALLER = 3, 64       # of both, for every recipe by every method


def order_base(method):
    """The name of the equation on which orders are observed."""
    return "forced_oscillator/undamped" if getattr(method_named(method), "separable", False) else "riccati"


def order_problems(base="riccati"):
    """Problems from several points, observed in the middle and at the end, which every even number of steps hits."""
    problem, rng = {**problems(), **separable_problems()}[base](), np.random.default_rng(11)
    ts, problems_made = [(problem.t0 + problem.t1) / 2, problem.t1], []
    for _ in range(SAMPLES):
        y0, theta = rng.uniform(0.5, 1.5, problem.y0.size), problem.theta
        if base == "riccati":
            theta = rng.uniform(-1.0, -0.25, 1)
        problems_made.append(problem.replace(y0=y0, theta=theta, ts=ts, loss=refnode.losses.sum_of_squares()))
    return problems_made


def errors_over_steps(error_of, largest=LARGEST):
    """(numbers of steps, errors), doubling the steps until rounding shows."""
    counts, errors, n_steps = [], [], 4
    while n_steps <= largest:
        error = error_of(n_steps)
        if error < FLOOR:
            break
        counts.append(n_steps)
        errors.append(error)
        n_steps *= 2
    return np.array(counts), np.array(errors)


def order_row(error_of, expected, name, largest=LARGEST, **head):
    """How far the slope of the last two errors is below the order; the slope before tells how certain that is."""
    _, errors = errors_over_steps(error_of, largest)
    slopes = np.log2(errors[:-1] / errors[1:])
    if slopes.size < 2:
        raise ArithmeticError("fewer than three errors above rounding: no order can be observed")
    before, last = np.maximum(expected - slopes[-2:], 0.0)
    return single(last, 0.0, 0.5, name, uncertainty=abs(last - before)).row(
        reason=ORDER, **head, note=f"observed {slopes[-1]:.3f}, before {slopes[-2]:.3f}")


def root_mean_square(errors):
    return float(np.sqrt(np.mean(np.square(errors))))


def state_error(method):
    """n_steps -> error of y(t1)."""
    base = order_base(method)
    cases = [(problem, _exact_at(base, problem, problem.t1)) for problem in order_problems(base)]
    return lambda n_steps: root_mean_square(np.concatenate(
        [refnode.solve(problem, method=method, n_steps=n_steps).y1 - exact for problem, exact in cases]))


def dense_error(method, sigma=0.4):
    """n_steps -> error of y(t_i + sigma h), over four steps."""
    def error_of(n_steps):
        errors = []
        for problem in order_problems():
            grid = np.linspace(problem.t0, problem.t1, n_steps + 1)
            ts = (grid[:-1] + sigma * np.diff(grid))[::n_steps // 4]
            found = refnode.solve(problem.replace(ts=ts, loss=None), method=method, n_steps=n_steps)
            errors.append(found.y - np.array([_exact_at("riccati", problem, t) for t in ts]).T)
        return root_mean_square(errors)
    return error_of


def gradient_error(method, recipe="discrete", samples=SAMPLES):
    """n_steps -> error of the gradient, relative, against the closed form."""
    base = order_base(method)
    free = slice(None) if base == "riccati" else [0, 1, 2, 4, 5, 6]      # damping would make it another kind of equation
    cases = [(problem, closed_form_reference(problem, closed_forms()[base.split("/")[0]]).gradient)
             for problem in order_problems(base)[:samples]]

    def error_of(n_steps):
        errors = []
        for problem, exact in cases:
            found = refnode.gradient(problem, recipe, method=method, n_steps=n_steps)
            errors.append((flat(found) - exact)[free] / np.max(np.abs(exact)))
        return root_mean_square(np.concatenate(errors))
    return error_of


def _exact_at(base, problem, t):
    return closed_forms()[base.split("/")[0]](problem.y0, problem.theta, problem.t0, t)


def _state_order(**head):
    return order_row(state_error(head["method"]), method_named(head["method"]).order, "y(t1)", **head)


def _dense_order(**head):
    table = TABLEAUS[head["method"]]
    return order_row(dense_error(table.name), min(table.order, table.dense_order + 1), "y(t)", **head)


def _gradient_order(**head):
    return order_row(gradient_error(head["method"]), method_named(head["method"]).order, "gradient", **head)


def _recipe_order(recipe, **head):
    return order_row(gradient_error(head["method"], recipe, FEWER), method_named(head["method"]).order, "gradient",
                     SMALLER, recipe=recipe, **head)
