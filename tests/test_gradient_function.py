"""`GradientFunction`: the numbers of `gradient`, call after call, from storage that is used again."""
import numpy as np
import pytest

from refnode import GradientFunction, GradientWarning, IntegrationError, InvalidInputError, Problem, gradient
from refnode.fields.neural import mlp_field
from refnode.layers.parameters import initial_parameters
from refnode.losses import running_cost, sum_of_squares
from refnode.problems.catalogue import CATALOGUE
from refnode.sensitivity.recipes import RECIPES

TIGHT = {"rtol": 1e-7, "atol": 1e-9}


def points(problem, count=3, seed=0):
    """Some initial values and parameters near those of a problem; the first are its own."""
    rng = np.random.default_rng(seed)
    near = lambda x: x * (1.0 + 0.1 * rng.standard_normal(x.size))
    return [(problem.y0, problem.theta)] + [(near(problem.y0), near(problem.theta)) for _ in range(count - 1)]


def perceptron():
    """Three samples of a small perceptron: a field with a tape."""
    widths = (2, 5, 2)
    return Problem(mlp_field(widths, batch=3), np.linspace(-1.0, 1.0, 6), initial_parameters(widths, seed=1), (0.0, 1.0),
                   ts=[0.4, 1.0], loss=sum_of_squares())


def assert_equal(found, expected):
    for name in ("y0", "theta", "ts", "t0", "t1", "loss", "sensitivity"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    np.testing.assert_array_equal(found.solution.y, expected.solution.y)


@pytest.mark.parametrize("name", ["lotka_volterra", "forced_oscillator", "mlp", "robertson"])
@pytest.mark.parametrize("options", [{}, {"method": "dop853"}, {"n_steps": 30}], ids=["dopri5", "dop853", "fixed"])
def test_every_call_gives_the_numbers_of_gradient(name, options):
    problem = perceptron() if name == "mlp" else CATALOGUE[name]()
    options = {"check_tangent": False, **TIGHT, **options}
    evaluate = GradientFunction(problem, **options)
    for y0, theta in points(problem) + points(problem)[:1]:
        expected = gradient(problem.replace(y0=y0, theta=theta), **options)
        assert_equal(evaluate(y0, theta), expected)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe(recipe):
    options = dict(TIGHT)
    if RECIPES[recipe].reversal == "inverted":
        options = {"method": "alf", "n_steps": 60}
    problem = CATALOGUE["lotka_volterra"]()
    evaluate = GradientFunction(problem, recipe, **options)
    for y0, theta in points(problem, 2):
        assert_equal(evaluate(y0, theta), gradient(problem.replace(y0=y0, theta=theta), recipe, **options))


def test_a_running_cost():
    cost = running_cost(lambda t, y, theta: y[0] ** 2, g_vjp=running_cost_vjp)
    problem = CATALOGUE["forced_oscillator"]().replace(loss=sum_of_squares() + cost)
    evaluate = GradientFunction(problem, **TIGHT)
    for y0, theta in points(problem):
        assert_equal(evaluate(y0, theta), gradient(problem.replace(y0=y0, theta=theta), **TIGHT))


def running_cost_vjp(t, y, theta, g_bar, t_bar, y_bar, theta_bar):
    y_bar[0] += 2.0 * y[0] * g_bar


def test_what_is_not_given_is_the_problems_own():
    problem = CATALOGUE["lotka_volterra"]()
    evaluate = GradientFunction(problem)
    first = evaluate()
    evaluate(theta=2.0 * problem.theta)
    assert_equal(evaluate(), first)


def test_a_result_outlives_the_next_call():
    problem = CATALOGUE["lotka_volterra"]()
    evaluate = GradientFunction(problem, **TIGHT)
    first, expected = evaluate(), gradient(problem, **TIGHT)
    evaluate(theta=1.1 * problem.theta)
    assert_equal(first, expected)
    np.testing.assert_array_equal(first.solution.y1, expected.solution.y1)
    np.testing.assert_array_equal(first.solution.t_steps, expected.solution.t_steps)


def test_the_callers_arrays_are_left_alone():
    problem = CATALOGUE["lotka_volterra"]()
    y0, theta = problem.y0.copy(), problem.theta.copy()
    evaluate = GradientFunction(problem)
    evaluate(2.0 * y0, 2.0 * theta)
    np.testing.assert_array_equal(problem.y0, y0)
    np.testing.assert_array_equal(problem.theta, theta)


def test_a_long_solve_after_a_short_one_and_again():
    """The storage grows in the second call and stays so."""
    problem = CATALOGUE["lotka_volterra"]()
    evaluate = GradientFunction(problem, rtol=1e-9, atol=1e-11, check_tangent=False)
    for theta in (0.01 * problem.theta, 4.0 * problem.theta, 0.01 * problem.theta, 4.0 * problem.theta):
        expected = gradient(problem.replace(theta=theta), rtol=1e-9, atol=1e-11, check_tangent=False)
        assert_equal(evaluate(theta=theta), expected)
    assert expected.stats["n_steps"] > 256


def test_a_call_after_a_failed_one():
    problem = CATALOGUE["lotka_volterra"]()
    evaluate = GradientFunction(problem, max_steps=60)
    with pytest.raises(IntegrationError, match="the forward solve failed"):
        evaluate(theta=20.0 * problem.theta)
    assert_equal(evaluate(), gradient(problem, max_steps=60))


def test_it_warns_as_gradient_does():
    problem = CATALOGUE["lotka_volterra"]().replace(ts=[], loss=sum_of_squares())
    with pytest.warns(GradientWarning, match="there are none"):
        GradientFunction(problem)()


@pytest.mark.parametrize("arguments, message", [
    ({"y0": [1.0]}, r"y0 must have shape \(2,\), found \(1,\)"),
    ({"theta": [1.0, 2.0, np.nan, 1.0]}, r"theta must be finite, found theta\[2\] = nan")])
def test_bad_input_to_a_call(arguments, message):
    with pytest.raises(InvalidInputError, match=message):
        GradientFunction(CATALOGUE["lotka_volterra"]())(**arguments)


@pytest.mark.parametrize("arguments, message", [
    ({"sensitivity": "magic"}, "sensitivity must be one of"), ({"rtoll": 1.0}, "unknown option rtoll"),
    ({"truth": "exact", "sensitivity": "discrete"}, "truth")])
def test_bad_input_to_the_function(arguments, message):
    with pytest.raises(InvalidInputError, match=message):
        GradientFunction(CATALOGUE["lotka_volterra"](), **arguments)


def test_a_problem_without_loss():
    with pytest.raises(InvalidInputError, match="needs a problem with a loss"):
        GradientFunction(CATALOGUE["lotka_volterra"]().replace(loss=None))
