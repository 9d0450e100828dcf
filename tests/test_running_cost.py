"""Running costs: the integral of g(t, y, theta) as one more state, by every recipe, compiled and not."""
import numpy as np
import pytest
from numba import njit

import cases
import gradients
from gradients import RECIPES, block_error, exact_gradient, flat, python_field, slope, weighted_error
from refnode import losses
from refnode.errors import InvalidInputError, MissingDerivativeError
from refnode.fields.augmented import with_running_cost
from refnode.fields.neural import mlp_field
from refnode.problems.catalogue import CATALOGUE
from refnode.problems.problem import Problem
from refnode.sensitivity.gradient import gradient
from refnode.solve.initial_value import solve

every_recipe = pytest.mark.parametrize("sensitivity", RECIPES)
TIGHT = {"method": "dop853", "rtol": 1e-12, "atol": 1e-14}
NEAR = 1e-9        # 1e3 times rtol, as in test_time_gradients


# --- two costs with their derivatives -------------------------------------------------------------

def energy(t, y, theta):
    """g = y_0^2"""
    return y[0] * y[0]


def energy_jvp(t, y, theta, t_tan, y_tan, theta_tan):
    return 2.0 * y[0] * y_tan[0]


def energy_vjp(t, y, theta, g_bar, t_bar, y_bar, theta_bar):
    y_bar[0] += 2.0 * y[0] * g_bar


def weighted(t, y, theta):
    """g = t y_0^2 + theta_1 sin(y_1): every argument counts."""
    return t * y[0] * y[0] + theta[1] * np.sin(y[1])


def weighted_jvp(t, y, theta, t_tan, y_tan, theta_tan):
    return (t_tan * y[0] * y[0] + 2.0 * t * y[0] * y_tan[0] + theta_tan[1] * np.sin(y[1])
            + theta[1] * np.cos(y[1]) * y_tan[1])


def weighted_vjp(t, y, theta, g_bar, t_bar, y_bar, theta_bar):
    t_bar[0] += y[0] * y[0] * g_bar
    y_bar[0] += 2.0 * t * y[0] * g_bar
    y_bar[1] += theta[1] * np.cos(y[1]) * g_bar
    theta_bar[1] += np.sin(y[1]) * g_bar


ENERGY = (energy, energy_jvp, energy_vjp)
WEIGHTED = (weighted, weighted_jvp, weighted_vjp)
COMPILED = {functions: tuple(njit(error_model="numpy")(function) for function in functions)
            for functions in (ENERGY, WEIGHTED)}


def cost(functions, compiled=True):
    return losses.running_cost(*(COMPILED[functions] if compiled else functions))


def weighted_problem(compiled=True, loss=None):
    """Lotka-Volterra with the weighted cost, beside observations unless another loss is given."""
    problem = CATALOGUE["lotka_volterra"]()
    loss = cost(WEIGHTED, compiled) if loss is None else loss + cost(WEIGHTED, compiled)
    return problem.replace(loss=loss)


# --- closed form ----------------------------------------------------------------------------------

K, Y0, T0, T1 = 0.75, 1.5, 0.5, 2.5
SIDES = {"alone": losses.Loss(), "terminal": losses.terminal(lambda y1: y1[0] ** 3, lambda y1: 3.0 * y1 ** 2),
         "observations": losses.linear([[1.0, -2.0, 0.5]])}


def closed_form(side, x, ts):
    """(integral of y^2) + side terms for y' = -k y; x = (y0, k, t0, t1, *ts), perhaps complex."""
    y0, k, t0, t1, *times = x
    integral = y0 ** 2 * (1.0 - np.exp(-2.0 * k * (t1 - t0))) / (2.0 * k)
    if side == "terminal":
        return integral + (y0 * np.exp(-k * (t1 - t0))) ** 3
    if side == "observations":
        return integral + y0 * np.exp(-k * (np.array(times) - t0)) @ SIDES[side].weights[0]
    return integral


@every_recipe
@pytest.mark.parametrize("side", SIDES)
def test_energy_of_a_decay(side, sensitivity):
    """Value and gradient in y0, k, t0, t1 and observation times, against complex steps through the closed form."""
    ts = [0.75, 1.5, 2.5] if side == "observations" else None
    problem = Problem(CATALOGUE["exponential_decay"]().field, [Y0], [K], (T0, T1), ts,
                      loss=SIDES[side] + cost(ENERGY))
    x = gradients.inputs(problem)
    expected = [closed_form(side, x + 1e-30j * direction, ts).imag / 1e-30 for direction in np.eye(x.size)]
    found = gradient(problem, sensitivity, **TIGHT)
    assert found.loss == pytest.approx(closed_form(side, x, ts), rel=NEAR)
    assert block_error(problem, flat(found), np.array(expected)) <= NEAR


@every_recipe
def test_the_end_adds_g_there(sensitivity):
    """dL/dt1 = g(t1, y(t1)), and with y(t0) = y0 held dL/dt0 = -g(t1, y(t1)) for an autonomous field and cost."""
    problem = Problem(CATALOGUE["exponential_decay"]().field, [Y0], [K], (T0, T1), loss=cost(ENERGY))
    found, y1 = gradient(problem, sensitivity, **TIGHT), Y0 * np.exp(-K * (T1 - T0))
    assert found.t1 == pytest.approx(y1 ** 2, rel=NEAR) and found.t0 == pytest.approx(-y1 ** 2, rel=NEAR)


# --- other references -----------------------------------------------------------------------------

@every_recipe
@pytest.mark.parametrize("observed", [False, True])
def test_cost_of_every_argument(observed, sensitivity):
    """Non-autonomous, parameters in g, two states, alone and beside observations: against SciPy at 1e-13."""
    problem = weighted_problem(loss=CATALOGUE["lotka_volterra"]().loss if observed else None)
    assert block_error(problem, flat(gradient(problem, sensitivity, **TIGHT)), exact_gradient(problem)) <= NEAR


def test_value_is_the_integral():
    """Against Gauss-Legendre with 60 nodes along a solve without the cost."""
    problem = weighted_problem()
    nodes, weights = np.polynomial.legendre.leggauss(60)
    times = 2.0 + 2.0 * nodes
    ys = solve(problem.replace(ts=times, loss=None), **TIGHT).y
    integral = 2.0 * weights @ [weighted(t, y, problem.theta) for t, y in zip(times, ys.T)]
    assert gradient(problem, **TIGHT).loss == pytest.approx(integral, rel=NEAR)


@pytest.mark.parametrize("observed", [False, True])
@pytest.mark.parametrize("method", ["rk4", "tsit5", "dop853"])
def test_discrete_gradient_is_exact_for_the_steps_taken(method, observed):
    """Complex steps through the replay of the augmented flow, whose last state is the cost."""
    problem = weighted_problem(loss=CATALOGUE["lotka_volterra"]().loss if observed else None)
    found = gradient(problem, "discrete", method=method, n_steps=24)
    times = np.linspace(0.0, 4.0, 25)
    ys_bar, y1_bar = problem.loss.vjp(found.solution.y, found.solution.y1)
    ys_bar = np.vstack([ys_bar, np.zeros(problem.ts.size)])
    expected = gradients.frozen_gradient(problem, times, method, ys_bar, np.append(y1_bar, 1.0))
    assert block_error(problem, flat(found), expected) <= gradients.COMPLEX_STEP


def test_neural_field_with_a_cost():
    """The tape passes through the augmented field, and so does the complex form."""
    field = mlp_field((2, 5, 2), "sine", time_input=True)
    theta = 0.5 * np.random.default_rng(0).standard_normal(field.p)
    problem = Problem(field, [0.5, -0.25], theta, (0.0, 1.0), ts=[0.3, 1.0],
                      loss=losses.sum_of_squares() + cost(WEIGHTED))
    found = gradient(problem, "discrete", n_steps=7)
    ys_bar = np.vstack([2.0 * found.solution.y, np.zeros(2)])
    expected = gradients.frozen_gradient(problem, np.linspace(0.0, 1.0, 8), "dopri5", ys_bar, np.eye(3)[2])
    assert block_error(problem, flat(found), expected) <= gradients.COMPLEX_STEP
    for sensitivity in RECIPES:
        near = flat(gradient(problem, sensitivity, rtol=1e-9, atol=1e-12))
        assert block_error(problem, near, exact_gradient(problem)) <= 1e3 * 1e-9


@every_recipe
@pytest.mark.parametrize("observed", [False, True])
@pytest.mark.filterwarnings("ignore::refnode.errors.GradientWarning")
def test_plain_python_and_mixed_forms_give_the_same(observed, sensitivity):
    """All compiled; a plain cost on a compiled field; one plain derivative only; all plain: equal to rounding."""
    loss = CATALOGUE["lotka_volterra"]().loss if observed else losses.Loss()
    problem = weighted_problem(loss=loss)
    g, g_jvp, _ = COMPILED[WEIGHTED]
    others = [problem.replace(loss=loss + cost(WEIGHTED, compiled=False)),
              problem.replace(loss=loss + losses.running_cost(g, g_jvp, weighted_vjp))]
    others.append(others[0].replace(field=python_field(problem.field)))
    expected = flat(gradient(problem, sensitivity, n_steps=12))
    for other in others:
        assert block_error(problem, flat(gradient(other, sensitivity, n_steps=12)), expected) <= 1e-12


# --- error control --------------------------------------------------------------------------------

@pytest.mark.parametrize("sensitivity", gradients.CONTINUOUS)
def test_error_is_proportional_to_the_tolerance(sensitivity):
    """bosh3 again, with a cost beside observations; see test_continuous_adjoint for the band."""
    problem = weighted_problem(loss=CATALOGUE["lotka_volterra"]().loss)
    reference, tolerances = exact_gradient(problem), 10.0 ** -np.arange(5.0, 9.0)
    errors = [weighted_error(problem, flat(gradient(problem, sensitivity, method="bosh3", rtol=rtol,
                                                    atol=1e-3 * rtol)), reference) for rtol in tolerances]
    assert slope(tolerances, errors) == pytest.approx(1.0, abs=0.1)


@every_recipe
def test_step_control_sees_the_cost(sensitivity):
    """g = cos(40 t) y_0 oscillates where y does not: the steps must resolve g."""
    def fast(t, y, theta):
        return np.cos(40.0 * t) * y[0]

    def fast_jvp(t, y, theta, t_tan, y_tan, theta_tan):
        return -40.0 * np.sin(40.0 * t) * t_tan * y[0] + np.cos(40.0 * t) * y_tan[0]

    def fast_vjp(t, y, theta, g_bar, t_bar, y_bar, theta_bar):
        t_bar[0] -= 40.0 * np.sin(40.0 * t) * y[0] * g_bar
        y_bar[0] += np.cos(40.0 * t) * g_bar
    field = python_field(CATALOGUE["exponential_decay"]().field)
    problem = Problem(field, [1.0], [0.1], (0.0, 1.0), loss=losses.running_cost(fast, fast_jvp, fast_vjp))
    found = gradient(problem, sensitivity, rtol=1e-6, atol=1e-9)
    exact = ((np.exp((40j - 0.1)) - 1.0) / (40j - 0.1)).real
    assert found.loss == pytest.approx(exact, abs=1e-6)
    assert found.y0[0] == pytest.approx(exact, abs=1e-5)


@pytest.mark.parametrize("factor", [2.0 ** -30, 2.0 ** 30])
@pytest.mark.parametrize("sensitivity", ["backsolve", "interpolating"])
def test_scaled_cost_scales_the_gradient(sensitivity, factor):
    """To the tolerance, not to the bit: atol also holds for the cost itself. Were the unit of lambda that of
    lambda_q = 1, a cost of 2^-30 would leave lambda uncontrolled and the gradient 87 % off."""
    def g(t, y, theta):
        return factor * weighted(t, y, theta)

    def g_vjp(t, y, theta, g_bar, t_bar, y_bar, theta_bar):
        weighted_vjp(t, y, theta, factor * g_bar, t_bar, y_bar, theta_bar)
    problem = CATALOGUE["lotka_volterra"]()
    problem = problem.replace(field=python_field(problem.field))
    scaled = gradient(problem.replace(loss=losses.running_cost(g, None, g_vjp)), sensitivity)
    expected = factor * exact_gradient(weighted_problem())
    assert weighted_error(problem.replace(ts=problem.ts), flat(scaled), expected) <= 1e3 * 1e-6


def test_cost_that_depends_on_parameters_alone():
    """g = theta_0^2: lambda is zero throughout, and the gradient 2 theta_0 (t1 - t0)."""
    def g_vjp(t, y, theta, g_bar, t_bar, y_bar, theta_bar):
        theta_bar[0] += 2.0 * theta[0] * g_bar
    loss = losses.running_cost(
        lambda t, y, theta: theta[0] ** 2,
        lambda t, y, theta, t_tan, y_tan, theta_tan: 2.0 * theta[0] * theta_tan[0], g_vjp)
    problem = CATALOGUE["exponential_decay"]().replace(loss=loss)
    for sensitivity in RECIPES:
        found = gradient(problem, sensitivity)
        np.testing.assert_allclose(found.theta, [2.0 * 0.625 * 3.0], rtol=1e-6)
        # y0 chooses steps, and so moves the rounding of the sum through them; elsewhere it has no part at all
        np.testing.assert_allclose(found.y0, 0.0, atol=1e-16 if RECIPES[sensitivity].truth == "through" else 0.0)


# --- the augmented field --------------------------------------------------------------------------

@pytest.mark.parametrize("compiled", [False, True])
def test_augmented_derivatives(compiled):
    """jvp against complex steps, vjp against jvp, and += into the bars."""
    field = CATALOGUE["lotka_volterra"]().field
    augmented = with_running_cost(field if compiled else python_field(field), cost(WEIGHTED, compiled))
    for seed in range(3):
        point = cases.random_point(np.random.default_rng(seed), 3, 4)
        assert cases.jvp_error(augmented, point) <= 1e-13
        assert cases.dot_product_error(augmented, point) <= 1.0
        assert cases.accumulation_error(augmented, point) <= 1.0


@pytest.mark.parametrize("label, g_vjp", list(cases.mutants(weighted_vjp)))
def test_wrong_derivative_of_a_cost_is_caught(label, g_vjp):
    """By the gradient, where the right one errs by 1e-5. Statement 0 is t_bar, which no gradient uses, since
    times act through (JUMP-2) and (JUMP-3): that one the dot-product check of the field catches."""
    problem = CATALOGUE["lotka_volterra"]()
    loss = problem.loss + losses.running_cost(weighted, weighted_jvp, g_vjp)
    problem = problem.replace(field=python_field(problem.field), loss=loss)
    point = cases.random_point(np.random.default_rng(0), 3, 4)
    assert cases.dot_product_error(problem.flow_field, point) > 1e3 or "overwrite" in label
    assert cases.accumulation_error(problem.flow_field, point) > 1e3 or "overwrite" not in label
    if not label.endswith(" 0"):
        assert block_error(problem, flat(gradient(problem, "discrete", rtol=1e-6)), exact_gradient(problem)) > 1e-3


def test_new_parameters_compile_nothing():
    """A fit makes a Problem for each theta: they share one augmented field."""
    problem = weighted_problem()
    other = problem.replace(theta=2.0 * problem.theta, loss=cost(WEIGHTED))
    assert other.flow_field is problem.flow_field


def test_solution_is_without_the_cost():
    problem = weighted_problem(loss=CATALOGUE["lotka_volterra"]().loss)
    for sensitivity in RECIPES:
        found = gradient(problem, sensitivity)
        assert found.solution.y.shape == (2, 5) and found.solution.y1.shape == (2,) and found.y0.shape == (2,)


# --- errors ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("sensitivity, missing", [("discrete", "g_vjp"), ("backsolve", "g_vjp"),
                                                  ("forward", "g_jvp"), ("discrete_forward", "g_jvp")])
def test_missing_derivative(sensitivity, missing):
    problem = CATALOGUE["lotka_volterra"]().replace(loss=losses.running_cost(COMPILED[ENERGY][0]))
    with pytest.raises(MissingDerivativeError, match=f"the running cost has no {missing}"):
        gradient(problem, sensitivity)


@every_recipe
def test_no_absolute_tolerance(sensitivity):
    """The cost begins at 0, where a relative tolerance alone asks for no error at all."""
    with pytest.raises(InvalidInputError, match="atol must be > 0 with a running cost"):
        gradient(weighted_problem(), sensitivity, atol=0.0)


def test_first_call_of_the_users_function_is_checked():
    """Also where the solver only sees the augmented field."""
    problem = Problem(lambda t, y, theta: y[:1], [1.0, 2.0], loss=cost(ENERGY, compiled=False))
    problem.field.vjp = lambda *arguments: None
    with pytest.raises(InvalidInputError, match="fun returned shape"):
        gradient(problem, "discrete")
