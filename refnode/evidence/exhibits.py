"""The numbers behind the figures of a validation report."""
import numpy as np

import refnode
from refnode.evidence.gradient_claims import Case, lengths, loss_at, tight_gradient, tight_options
from refnode.evidence.row import block_scale, flat, input_vector
from refnode.evidence.stepper_claims import errors_over_steps, order_problems, state_error
from refnode.gradcheck import finite_difference_jvp, finite_difference_sweep
from refnode.sensitivity.recipes import RECIPES
from refnode.steppers.tableaus import TABLEAUS

PROBLEM = "lotka_volterra"
TOLERANCES = 10.0 ** -np.arange(3, 12)
WRONG = 0.01                 # relative error put into one component for comparison


def u_curve(seed):
    """Error of central differences of the loss along one direction, against the step.

    Returns name -> (steps, relative distances from the discrete gradient), once through fixed steps and once
    through steps that error control chooses anew at every evaluation; then the error of the extrapolated
    estimate through fixed steps, and the error it claims.
    """
    case = Case(PROBLEM, seed)
    m = case.problem.y0.size + case.problem.theta.size
    x, tail = input_vector(case.problem)[:m], input_vector(case.problem)[m:]
    direction = lengths(case)[:m] * np.random.default_rng([seed, 4]).choice([-1.0, 1.0], m)
    curves = {}
    for name, options in (("32 fixed steps", {"method": "dopri5", "n_steps": 32}),
                          ("steps by error control, rtol 1e-6", {"method": "dopri5", "rtol": 1e-6, "atol": 1e-9})):
        loss = lambda v, options=options: loss_at(case, np.concatenate([v, tail]), options)
        slope = flat(refnode.gradient(case.problem, "discrete", **options))[:m] @ direction
        steps, estimates = finite_difference_sweep(loss, x, direction)
        curves[name] = (steps, np.abs(estimates - slope) / abs(slope))
        if "n_steps" in options:
            best = finite_difference_jvp(loss, x, direction)
            error, claimed = abs(float(best.value) - slope) / abs(slope), float(best.error) / abs(slope)
    return curves, error, claimed


def taylor(seed):
    """h, and the remainders without a gradient, with the right one, and with one component off by WRONG."""
    case = Case(PROBLEM, seed)
    x, options, gradient = input_vector(case.problem), tight_options(case), tight_gradient(case)
    wrong = gradient.copy()
    wrong[0] *= 1.0 + WRONG
    direction = lengths(case) * np.random.default_rng([seed, 5]).choice([-1.0, 1.0], x.size)
    steps = 2.0 ** -np.arange(3.0, 17.0)
    value = loss_at(case, x, options)
    change = np.array([loss_at(case, x + h * direction, options) for h in steps]) - value
    return steps, {"without a gradient": np.abs(change),
                   f"first component {WRONG:.0%} wrong": np.abs(change - steps * (wrong @ direction)),
                   "right gradient": np.abs(change - steps * (gradient @ direction))}


# Recipes with curves of their own, at most as many as there are colours: the others repeat the bits of
# `discrete`, or lie on the curve of their family.
DISTINCT = ("forward", "discrete_forward", "discrete", "through", "backsolve", "interpolating", "quadrature")


def work_precision(recipes, seed):
    """recipe -> (tolerances, errors of the gradient, evaluations), and the reference's uncertainty."""
    case = Case(PROBLEM, seed)
    exact, scale = case.exact, block_scale(case.problem, case.exact.gradient)
    curves = {}
    for recipe in [name for name in DISTINCT if name in recipes] or ["discrete"]:
        found = [case.gradient(recipe, rtol=rtol) for rtol in TOLERANCES]
        errors = [np.max(np.abs(flat(g) - exact.gradient) / scale) for g in found]
        curves[recipe] = (TOLERANCES, np.array(errors), np.array([evaluations(g, case.problem) for g in found]))
    return curves, float(np.max(exact.uncertainty / scale))


def evaluations(gradient, problem):
    """Evaluations of f, of its jvp and of its vjp that a gradient by dopri5 took, one each."""
    stats, recipe, stages = gradient.stats, RECIPES[gradient.sensitivity], TABLEAUS["dopri5"].s
    attempts = stats["n_steps"] + stats["n_rejected"]
    directions = problem.y0.size + problem.theta.size
    if recipe.equation == "variational":
        return stats["nfev"] + stats["njvp"]
    if recipe.equation == "tangent":
        return stats["nfev"] + stages * stats["n_steps"] * directions
    if recipe.equation == "through tangent":
        listed, pushed = stats["n_rejected"], attempts + stats["n_rejected"]      # a rejected step takes f and jvp
        return stats["nfev"] + stages * (listed + pushed * (directions + 2 + problem.ts.size))
    if recipe.equation == "through transpose":
        return stats["nfev"] + stages * (attempts + 2 * stats["n_rejected"])      # rejected steps: listed, taken, pulled
    if recipe.reversal == "inverted":
        return stats["nfev"] + 2 * stats["nfev_reverse"]                          # f to undo a step, vjp to pull it
    if recipe.equation == "transpose":
        return stats["nfev"] + stages * stats["n_steps_reverse"] + stats.get("nfev_recomputed", 0)
    solved_back = 2 if recipe.reversal.startswith("backsolved") else 1            # f beside vjp
    return stats["nfev"] + solved_back * stats["nfev_reverse"] + stats.get("nfev_quadrature", 0)


def adjoint_beside_state(seed=0):
    """Times, y(t) and lam(t) = dL/dy(t) on both sides of every observation, by its definition.

    lam(t) is the gradient of the part of the loss observed after t with respect to a state y(t) put in as
    initial value: a solve of its own for every t, with no adjoint equation.
    """
    case = Case(PROBLEM, seed)
    problem, options = case.problem, {"method": "dop853", "rtol": 1e-10, "atol": 1e-12}
    solution = refnode.solve(problem, dense_output=True, **options)
    ys_bar, _ = problem.loss.vjp(solution.y, solution.y1)
    pieces, start = [], problem.t0
    for end in problem.ts:
        times = np.linspace(start, end, 33)
        after = problem.ts >= end
        rest = (problem.ts[after], ys_bar[:, after], options)
        lam = [_remaining_gradient(problem, t, solution.sol(t), *rest) for t in times]
        pieces.append((times, solution.sol(times), np.array(lam).T))
        start = end
    return {"names": problem.field.state_names, "pieces": pieces, "ts": problem.ts}


def _remaining_gradient(problem, t, y, ts, ys_bar, options):
    rest = problem.replace(y0=y, t0=t, ts=ts, loss=None)
    return refnode.vjp(rest, ys_bar, sensitivity="discrete", **options).y0


def orders(methods):
    """Explicit Runge-Kutta method -> (h, errors of y(t1)) on the Riccati problems, and its order."""
    problem = order_problems()[0]
    curves = {}
    for method in (method for method in methods if method in TABLEAUS):
        counts, errors = errors_over_steps(state_error(method))
        curves[method] = (abs(problem.t1 - problem.t0) / counts, errors, TABLEAUS[method].order)
    return curves


MARGINS = {   # columns of the map of margins: label -> what distinguishes its rows
    "state": lambda row: row.evidence.startswith("y(ts)"),
    "forward": lambda row: row.evidence.startswith("forward ="),
    "backsolve": lambda row: row.evidence.startswith("backsolve ="),
    "interpolating": lambda row: row.evidence.startswith("interpolating ="),
    "discrete": lambda row: row.evidence.startswith("discrete = exact"),
    "discrete\nforward": lambda row: row.evidence.startswith("discrete_forward = exact"),
    "discrete,\nfrozen": lambda row: row.evidence.startswith("discrete = complex"),
    "discrete fwd,\nfrozen": lambda row: row.evidence.startswith("discrete_forward = complex"),
    "differences": lambda row: row.evidence.startswith("finite differences at"),
    "dot product,\nfrozen": lambda row: row.evidence.startswith("jvp discrete_forward"),
    "dot product,\nexact": lambda row: row.evidence.startswith("jvp forward / vjp inter"),
}


def margins(rows):
    """Problems, columns, and the worst error / bound of each cell (NaN where there is none), with verdicts."""
    rows = [row for row in rows if row.group in ("recipes", "losses", "duality")]
    problems = list(dict.fromkeys(row.subject for row in rows))
    ratio = np.full((len(problems), len(MARGINS)), np.nan)
    verdicts = np.full(ratio.shape, "", dtype=object)
    for i, problem in enumerate(problems):
        for j, belongs in enumerate(MARGINS.values()):
            cell = [row for row in rows if row.subject == problem and belongs(row)]
            if cell:
                worst = max(cell, key=lambda row: row.ratio)
                ratio[i, j], verdicts[i, j] = worst.ratio, worst.verdict
    return problems, list(MARGINS), ratio, verdicts
