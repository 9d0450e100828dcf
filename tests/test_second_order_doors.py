"""Second derivatives at the public doors: plain fields, slices, scaling, edges of the interval, and what is refused."""
import numpy as np
import pytest

import cases
import gradients
from gradients import flat, inputs
from hessians import (
    SYMMETRY, every_way, everything_problem, mlp_problem, moving_end_problem, product, symmetry_error,
    terminal_problem)
from refnode import losses
from refnode.errors import IntegrationError, InvalidInputError, MissingDerivativeError
from refnode.fields.field import VectorField
from refnode.problems.catalogue import CATALOGUE
from refnode.sensitivity.second_order import gauss_newton, hvp
from refnode.solve import run



# --- one body, several ways to run it -------------------------------------------------------------

@every_way
def test_plain_python_fields_give_the_same_product(sensitivity):
    problem = terminal_problem()
    plain = problem.replace(field=gradients.python_field(problem.field))
    x_tan = np.random.default_rng(7).standard_normal(inputs(problem).size)
    compiled, python = (product(each, x_tan, sensitivity, n_steps=9) for each in (problem, plain))
    assert np.max(np.abs(compiled - python)) <= 1e-13 * np.max(np.abs(compiled))


@pytest.mark.slow
@every_way
def test_specialized_drivers_give_the_same_product(sensitivity):
    problem = terminal_problem()
    x_tan = np.random.default_rng(7).standard_normal(inputs(problem).size)
    general, special = (product(problem, x_tan, sensitivity, n_steps=9, specialize=flag) for flag in (False, True))
    assert np.max(np.abs(general - special)) <= 1e-13 * np.max(np.abs(general))


@every_way
def test_slices_of_one_step_give_the_same_bits(sensitivity, monkeypatch):
    problem = mlp_problem()
    direction = {"theta_tan": np.ones(problem.theta.size), "sensitivity": sensitivity}
    long = flat(hvp(problem, **direction))
    monkeypatch.setattr(run, "next_slice", lambda steps, elapsed: 1)
    problem.field.pace.clear()
    np.testing.assert_array_equal(flat(hvp(problem, **direction)), long)


@every_way
def test_products_scale_exactly(sensitivity):
    """A direction or a loss times 2^20 gives 2^20 times the product, to the bit."""
    problem = CATALOGUE["pendulum"]()
    one = flat(hvp(problem, y0_tan=[1.0, -0.5], theta_tan=[0.25, 1.0], sensitivity=sensitivity))
    longer = flat(hvp(problem, y0_tan=2.0 ** 20 * np.array([1.0, -0.5]), theta_tan=2.0 ** 20 * np.array([0.25, 1.0]),
                      sensitivity=sensitivity))
    np.testing.assert_array_equal(longer, 2.0 ** 20 * one)


@every_way
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_backwards_in_time_and_no_steps_at_all(sensitivity, sign):
    problem = CATALOGUE["pendulum"]().replace(t0=0.0, t1=sign, ts=[0.0, 0.3 * sign, sign])
    bound = SYMMETRY if sensitivity == "forward_over_adjoint" else 1e-8
    options = {"sensitivity": sensitivity, "rtol": 1e-10, "atol": 1e-12}
    problem = problem.replace(loss=losses.sum_of_squares(np.ones((2, 3))))
    assert symmetry_error(problem, **options) <= bound
    still = problem.replace(t1=0.0, ts=[0.0, 0.0, 0.0])
    result = hvp(still, y0_tan=[1.0, 2.0], sensitivity=sensitivity)
    np.testing.assert_allclose(result.y0, [6.0, 12.0], rtol=1e-15)


# --- bad input ------------------------------------------------------------------------------------

def test_missing_derivatives():
    problem = CATALOGUE["pendulum"]()
    bare = VectorField(problem.field.f, problem.field.jvp, problem.field.vjp, name="bare", n=2, p=2)
    with pytest.raises(MissingDerivativeError, match=r"'bare' has no hvp.*VectorField\.from_expressions"):
        hvp(problem.replace(field=bare), y0_tan=[1.0, 0.0])
    cost = losses.running_cost(cases.effort, cases.effort_jvp, cases.effort_vjp)
    plain = gradients.python_field(problem.field)
    with pytest.raises(MissingDerivativeError, match="g_hvp"):
        hvp(problem.replace(field=plain, loss=cost), y0_tan=[1.0, 0.0])
    with pytest.raises(MissingDerivativeError, match="Scaled has no hvp"):
        hvp(problem.replace(loss=gradients.Scaled(problem.loss, 2.0)), y0_tan=[1.0, 0.0])
    with pytest.raises(MissingDerivativeError, match="phi_hvp"):
        hvp(problem.replace(loss=losses.terminal(np.sum, np.ones_like)), y0_tan=[1.0, 0.0])


@pytest.mark.parametrize("arguments, message", [
    ({"sensitivity": "discrete"}, r"sensitivity must be one of \['forward_over_adjoint', 'adjoint_over_adjoint'\]"),
    ({"y0_tan": [1.0]}, r"y0_tan must have shape \(2,\), found \(1,\)"),
    ({"theta_tan": [np.nan, 0.0]}, "theta_tan must be finite"),
    ({"t1_tan": np.inf}, "t1_tan must be finite"),
    ({"ts_tan": [1.0]}, r"ts_tan must have shape \(4,\)"),
    ({"adjoint_rtol": 1e-3}, "adjoint_rtol is not an option of 'forward_over_adjoint'"),
    ({"events": []}, "events are not implemented"),
])
def test_wrong_arguments(arguments, message):
    with pytest.raises(InvalidInputError, match=message):
        hvp(CATALOGUE["pendulum"](), **arguments)


@every_way
def test_failed_solves_and_wrong_functions_are_reported(sensitivity):
    with pytest.raises(IntegrationError, match="max_steps"):
        hvp(CATALOGUE["pendulum"](), y0_tan=[1.0, 0.0], sensitivity=sensitivity, max_steps=3)
    plain = gradients.python_field(CATALOGUE["pendulum"]().field)
    wrong = VectorField(lambda t, y, theta: y[:1], plain.jvp, plain.vjp, plain.hvp)
    with pytest.raises(InvalidInputError, match=r"fun returned shape \(1,\), expected \(2,\)"):
        hvp(CATALOGUE["pendulum"]().replace(field=wrong), y0_tan=[1.0, 0.0], sensitivity=sensitivity)


def test_what_else_is_refused():
    problem = CATALOGUE["pendulum"]()
    for door in (hvp, gauss_newton):
        with pytest.raises(InvalidInputError, match="needs a problem with a loss"):
            door(problem.replace(loss=None))
        with pytest.raises(InvalidInputError, match="observes t1 itself"):
            door(moving_end_problem(), ts_tan=[1.0])
    with pytest.raises(InvalidInputError, match="running cost is an integral"):
        gauss_newton(everything_problem())


@pytest.mark.parametrize("door", [hvp, gauss_newton])
def test_reversible_methods_are_refused(door):
    with pytest.raises(InvalidInputError, match="needs an explicit Runge-Kutta method.*found 'alf'"):
        door(CATALOGUE["lotka_volterra"](), theta_tan=np.ones(4), method="alf", n_steps=8)
