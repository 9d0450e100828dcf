"""Rows about steppers: the order of accuracy, and the derivatives of given steps."""
import functools

import numpy as np

import refnode
from refnode.evidence.references import Replayed, closed_form_reference
from refnode.evidence.row import EPS, Comparison, attempt, block_scale, flat, input_names, single
from refnode.evidence.subjects import closed_forms, problems
from refnode.steppers.tableaus import TABLEAUS

STEPS = 12                # of the solves whose steps are frozen
STEPPER_PROBLEMS = ("forced_oscillator", "lotka_volterra")


def stepper_rows(name, seed):
    """Evidence on one method."""
    claims = [("order of y(t1)", "exact", _state_order), ("order of the dense output", "exact", _dense_order),
              ("order of the gradient", "exact", _gradient_order)]
    rows = [attempt("steppers", name, f"{evidence}, riccati", truth, claim,
                    method=name, field="riccati") for evidence, truth, claim in claims]
    for problem in STEPPER_PROBLEMS:
        rows += frozen_rows(problem, name, seed)
    return rows


def frozen_rows(problem_name, method, seed):
    """The tangent and the transpose of given steps against complex steps of the very program."""
    case = FrozenSteps(problem_name, method, seed)
    claims = (("tangent of the steps = complex step", "discrete_forward"),
              ("transpose of the steps = complex step", "discrete"))
    labels = {"method": method, "field": problem_name}
    rows = [attempt("steppers", method, f"{evidence}, {problem_name}", "frozen", case.gradient_row,
                    recipe=recipe, **labels) for evidence, recipe in claims]
    evidence = f"<w, S v> = <S^T w, v>, {problem_name}"
    return rows + [attempt("steppers", method, evidence, "frozen", case.dot_row, **labels)]


class FrozenSteps:
    """A problem solved by STEPS equal steps, and the derivatives of these steps by complex numbers."""

    def __init__(self, problem_name, method, seed, options=None):
        self.problem, self.method = problems()[problem_name](), method
        self.options = options or {"method": method, "n_steps": STEPS}
        self.rng = np.random.default_rng([seed, 2])

    @functools.cached_property
    def t_steps(self):
        return refnode.gradient(self.problem, "discrete", **self.options).solution.t_steps

    @functools.cached_property
    def replayed(self):
        return Replayed(self.problem, self.t_steps, self.method)

    def rounding(self):
        """Ten roundings for every slope: the terms of f, and the sum over the stages before."""
        return 10 * self.t_steps.size * (TABLEAUS[self.method].s + 1) * EPS

    reason = "rounding: 10 eps for each of the N (s + 1) slopes"

    def gradient_row(self, recipe, **head):
        """A whole gradient: y0, theta and all times."""
        exact = self.replayed.gradient
        found = refnode.gradient(self.problem, recipe, **self.options)
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


def order_problems():
    """Riccati problems observed in the middle and at the end, which every even number of steps hits."""
    problem, rng = problems()["riccati"](), np.random.default_rng(11)
    ts = [(problem.t0 + problem.t1) / 2, problem.t1]
    return [problem.replace(y0=rng.uniform(0.5, 1.5, 1), theta=rng.uniform(-1.0, -0.25, 1), ts=ts,
                            loss=refnode.losses.sum_of_squares()) for _ in range(SAMPLES)]


def errors_over_steps(error_of):
    """(numbers of steps, errors), doubling the steps until rounding shows."""
    counts, errors, n_steps = [], [], 4
    while n_steps <= LARGEST:
        error = error_of(n_steps)
        if error < FLOOR:
            break
        counts.append(n_steps)
        errors.append(error)
        n_steps *= 2
    return np.array(counts), np.array(errors)


def order_row(error_of, expected, name, **head):
    """How far the slope of the last two errors is below the order; the slope before tells how certain that is."""
    _, errors = errors_over_steps(error_of)
    slopes = np.log2(errors[:-1] / errors[1:])
    if slopes.size < 2:
        raise ArithmeticError("fewer than three errors above rounding: no order can be observed")
    before, last = np.maximum(expected - slopes[-2:], 0.0)
    return single(last, 0.0, 0.5, name, uncertainty=abs(last - before)).row(
        reason=ORDER, **head, note=f"observed {slopes[-1]:.3f}, before {slopes[-2]:.3f}")


def root_mean_square(errors):
    return float(np.sqrt(np.mean(np.square(errors))))


def state_error(method):
    """n_steps -> error of y(t1) on the Riccati problems."""
    cases = [(problem, _riccati_at(problem, problem.t1)) for problem in order_problems()]
    return lambda n_steps: root_mean_square(
        [refnode.solve(problem, method=method, n_steps=n_steps).y1 - exact for problem, exact in cases])


def dense_error(method, sigma=0.4):
    """n_steps -> error of y(t_i + sigma h), over four steps."""
    def error_of(n_steps):
        errors = []
        for problem in order_problems():
            grid = np.linspace(problem.t0, problem.t1, n_steps + 1)
            ts = (grid[:-1] + sigma * np.diff(grid))[::n_steps // 4]
            found = refnode.solve(problem.replace(ts=ts, loss=None), method=method, n_steps=n_steps)
            errors.append(found.y - np.array([_riccati_at(problem, t) for t in ts]).T)
        return root_mean_square(errors)
    return error_of


def gradient_error(method):
    """n_steps -> error of the discrete gradient, relative, against the closed form."""
    solution = closed_forms()["riccati"]
    cases = [(problem, closed_form_reference(problem, solution).gradient) for problem in order_problems()]
    return lambda n_steps: root_mean_square(
        [(flat(refnode.gradient(problem, "discrete", method=method, n_steps=n_steps)) - exact) / np.max(np.abs(exact))
         for problem, exact in cases])


def _riccati_at(problem, t):
    return closed_forms()["riccati"](problem.y0, problem.theta, problem.t0, t)


def _state_order(**head):
    return order_row(state_error(head["method"]), TABLEAUS[head["method"]].order, "y(t1)", **head)


def _dense_order(**head):
    table = TABLEAUS[head["method"]]
    return order_row(dense_error(table.name), min(table.order, table.dense_order + 1), "y(t)", **head)


def _gradient_order(**head):
    return order_row(gradient_error(head["method"]), TABLEAUS[head["method"]].order, "gradient", **head)
