"""Derivatives that are wrong on purpose: a check that lets one of them pass proves nothing."""
import dataclasses
import functools

import numpy as np

import refnode
from refnode.errors import InvalidInputError
from refnode.evidence.field_claims import rows_of_field
from refnode.evidence.gradient_claims import (
    FIXED, Case, compared_with_exact, lengths, loss_at, taylor_row, tight_gradient)
from refnode.evidence.row import Comparison, Row, attempt, block_scale, flat, input_names, input_vector
from refnode.evidence.stepper_claims import FrozenSteps, order_row, state_error
from refnode.evidence.subjects import fields
from refnode.evidence.through_claims import compared_with_program, program_of
from refnode.fields.field import VectorField
from refnode.gradcheck import check_gradient
from refnode.steppers.tableaus import TABLEAUS

CAUGHT = "bound / error of the wrong derivative: caught below 1"


def checker_rows(label, seed):
    """One mistake, and whether it is caught."""
    make = MISTAKES[label]
    return [attempt("checkers", label, "all evidence", "formula", functools.partial(_caught, make, seed))]


def _caught(make, seed, evidence, **head):
    """PASS if one of the rows of a wrong derivative is FAIL; it names the one that sees the mistake best."""
    rows = make(seed)
    failed = [row for row in rows if row.verdict == "FAIL"]
    if not failed:
        best = max(rows, key=lambda row: row.ratio)
        return Row(verdict="FAIL", evidence="nothing noticed", error=_inverse(best.ratio), bound=1.0,
                   reason=CAUGHT, **head)
    best = max(failed, key=lambda row: row.ratio)
    return Row(verdict="PASS", evidence=best.evidence, error=_inverse(best.ratio), bound=1.0,
               reason=CAUGHT, worst=best.worst, note=f"{len(failed)} of {len(rows)} rows FAIL", **head)


def _inverse(ratio):
    return 1.0 / ratio if ratio > 0 else np.inf


# --- wrong fields ----------------------------------------------------------------------------------

def _bodies(name):
    field = fields()[name].field
    return field, [getattr(function, "py_func", function) for function in (field.f, field.jvp, field.vjp)]


def _wrong_field(name, seed, f=None, jvp=None, vjp=None, hvp=None):
    """The rows of a field with some of its functions replaced."""
    field, right = _bodies(name)
    bodies = [new or old for new, old in zip((f, jvp, vjp), right)]
    subject = dataclasses.replace(fields()[name], field=VectorField(
        *bodies, hvp=hvp, name=name, n=field.n, p=field.p))
    return rows_of_field(name, subject, seed)


def flipped_sign(seed):
    """theta_bar[1] of Lotka-Volterra added instead of subtracted."""
    _, (_, _, right) = _bodies("lotka_volterra")

    def vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
        right(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar)
        theta_bar[1] += 2.0 * y[0] * y[1] * dy_bar[0]

    return _wrong_field("lotka_volterra", seed, vjp=vjp)


def curvature_forgotten(seed):
    """The hvp of the pendulum as if its vjp were linear in dy_bar and constant in everything else."""
    _, (_, _, right) = _bodies("pendulum")

    def hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan, theta_bar_tan):
        right(t, y, theta, tape, dy_bar_tan, t_bar_tan, y_bar_tan, theta_bar_tan)

    return _wrong_field("pendulum", seed, hvp=hvp)


def dropped_term(seed):
    """The last term of the pendulum's jvp left out."""
    _, (_, right, _) = _bodies("pendulum")

    def jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
        right(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan)
        dy_tan[1] += theta[1] * y_tan[1]

    return _wrong_field("pendulum", seed, jvp=jvp)


def overwritten_bars(seed):
    """A vjp that overwrites y_bar instead of adding to it."""
    _, (_, _, right) = _bodies("van_der_pol")

    def vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
        y_bar[:] = 0.0
        right(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar)

    return _wrong_field("van_der_pol", seed, vjp=vjp)


def forgotten_time(seed):
    """The forced oscillator's vjp without df/dt."""
    _, (_, _, right) = _bodies("forced_oscillator")

    def vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
        right(t, y, theta, tape, dy_bar, np.zeros(1), y_bar, theta_bar)

    return _wrong_field("forced_oscillator", seed, vjp=vjp)


def jacobian_not_transposed(seed):
    """A for A^T in the linear field's vjp."""
    _, (_, _, right) = _bodies("linear")

    def vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
        n = y.size
        right(t, y, theta, tape, dy_bar, t_bar, np.zeros(n), theta_bar)
        y_bar += theta.reshape(n, n) @ dy_bar

    return _wrong_field("linear", seed, vjp=vjp)


def wrong_alike(seed):
    """jvp and vjp of Van der Pol with the same wrong factor: transposes of each other, so that their test passes."""
    _, (_, right_jvp, right_vjp) = _bodies("van_der_pol")

    def jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
        right_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan)
        dy_tan[1] += theta[0] * y[0] * y[1] * y_tan[0]

    def vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
        right_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar)
        y_bar[0] += theta[0] * y[0] * y[1] * dy_bar[1]

    return _wrong_field("van_der_pol", seed, jvp=jvp, vjp=vjp)


# --- wrong gradients of a problem --------------------------------------------------------------------

@functools.lru_cache(maxsize=2)
def _case(seed):
    return Case("forced_oscillator", seed)


def _wrong_gradient(change):
    """Rows of the exact comparison for a right gradient to which ``change(case, gradient)`` was done."""
    def rows(seed):
        case = _case(seed)
        found = case.gradient("interpolating")
        gradient = change(case, flat(found))
        return [compared_with_exact(case, gradient, case.bound("interpolating", found), group="checkers",
                                    subject=case.name, evidence="the exact gradient", truth="exact")]
    return rows


def _doubled(case, gradient):
    return 2.0 * gradient


def _one_part_in_ten_thousand(case, gradient):
    wrong = gradient.copy()
    wrong[1] *= 1.0 + 1e-4
    return wrong


def _last_observation_only(case, gradient):
    """No jump of lambda at the observations before the last."""
    problem = case.problem
    solution = refnode.solve(problem, **case.options())
    ys_bar, _ = problem.loss.vjp(solution.y, solution.y1)
    ys_bar[:, :-1] = 0.0
    return flat(refnode.vjp(problem, ys_bar, sensitivity="interpolating", **case.recipe_options("interpolating")))


def _no_observation_times(case, gradient):
    wrong = gradient.copy()
    wrong[-case.problem.ts.size:] = 0.0
    return wrong


def _flipped_initial_time(case, gradient):
    wrong = gradient.copy()
    wrong[case.names.index("t0")] *= -1.0
    return wrong


def _permuted_parameters(case, gradient):
    wrong, n = gradient.copy(), case.problem.y0.size
    wrong[[n, n + 1]] = wrong[[n + 1, n]]
    return wrong


def last_bits(seed):
    """A discrete gradient off by one part in 1e11: nothing beside a tolerance, but not rounding."""
    steps = FrozenSteps("forced_oscillator", "dopri5", seed)
    found, exact = flat(refnode.gradient(steps.problem, "discrete", **steps.options)), steps.replayed.gradient
    scale = block_scale(steps.problem, exact)
    comparison = Comparison(input_names(steps.problem), found * (1.0 + 1e-11), exact, steps.rounding() * scale,
                            0.0, scale)
    return [comparison.row("checkers", "forced_oscillator", "complex step of the steps", "frozen", steps.reason)]


def steps_held(seed):
    """The gradient of the steps taken, passed off as that of the program which chooses them."""
    case = Case("van_der_pol", seed)
    program, options = program_of(case, "dopri5")
    gradient = flat(refnode.gradient(case.problem, "discrete", **options))
    return [compared_with_program(case, program, gradient, group="checkers", subject=case.name,
                                  evidence="complex step of the program", truth="through")]


def doubled_for_differences(seed):
    """Half a gradient, as of a mean taken for a sum, against finite differences."""
    case = _case(seed)
    x, m = input_vector(case.problem), case.problem.y0.size + case.problem.theta.size
    gradient = flat(refnode.gradient(case.problem, "discrete", **FIXED))[:m] / 2.0
    report = check_gradient(lambda v: loss_at(case, np.concatenate([v, x[m:]]), FIXED), x[:m], gradient,
                            scale=lengths(case)[:m], names=case.names[:m], seed=seed)
    worst = report.worst
    return [Row("checkers", case.name, "check_gradient: " + report.diagnosis[0], "frozen", report.verdict, worst.error,
                worst.bound, worst=worst.name)]


def off_for_taylor(seed):
    """One per cent of one component, against Taylor remainders."""
    case = _case(seed)
    gradient = tight_gradient(case)
    gradient[0] *= 1.01
    return [taylor_row(case, gradient, group="checkers", subject=case.name, evidence="Taylor remainders",
                       truth="exact")]


# --- wrong methods ---------------------------------------------------------------------------------

def order_claimed_too_high(seed):
    """Heun's method called third-order."""
    return [order_row(state_error("heun"), 3, "y(t1)", group="checkers", subject="heun", evidence="order of y(t1)",
                      truth="exact")]


def nodes_of_another_method(seed):
    """RK4 with a node moved: right on autonomous equations only. The tableau must refuse to exist."""
    rk4 = TABLEAUS["rk4"]
    try:
        dataclasses.replace(rk4, c=(rk4.c[0], rk4.c[1] / 2, *rk4.c[2:]))
    except InvalidInputError:
        verdict, error = "FAIL", float(rk4.c[1] / 2)
    else:
        verdict, error = "PASS", 0.0
    return [Row("checkers", "rk4", "A 1 = c, asserted by the tableau", "formula", verdict, error, 2.0**-52,
                worst="c[1]")]


MISTAKES = {
    "vjp: sign flipped": flipped_sign,
    "vjp: overwrites its bars": overwritten_bars,
    "vjp: df/dt forgotten": forgotten_time,
    "vjp: J in place of its transpose": jacobian_not_transposed,
    "jvp: a term dropped": dropped_term,
    "hvp: second derivatives forgotten": curvature_forgotten,
    "jvp and vjp wrong alike": wrong_alike,
    "gradient: factor 2": _wrong_gradient(_doubled),
    "gradient: 1e-4 of one component": _wrong_gradient(_one_part_in_ten_thousand),
    "gradient: interior jumps missing": _wrong_gradient(_last_observation_only),
    "gradient: dL/dts missing": _wrong_gradient(_no_observation_times),
    "gradient: sign of dL/dt0": _wrong_gradient(_flipped_initial_time),
    "gradient: parameters permuted": _wrong_gradient(_permuted_parameters),
    "gradient: 1e-11 of frozen steps": last_bits,
    "gradient: step control held": steps_held,
    "gradient: half, by differences": doubled_for_differences,
    "gradient: 1e-2 of one component": off_for_taylor,
    "stepper: order claimed too high": order_claimed_too_high,
    "stepper: a node moved": nodes_of_another_method,
}
