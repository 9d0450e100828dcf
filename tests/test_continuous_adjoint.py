"""The continuous adjoints: proportional to the tolerance, and what happens where they are known to fail."""
import numpy as np
import pytest

import cases
from gradients import RECIPES, exact, flat, Scaled, slope, weighted_error
from refnode import losses
from refnode.errors import GradientWarning, IntegrationError
from refnode.fields.classical import CLASSICAL
from refnode.fields.field import VectorField
from refnode.host_device import python_form
from refnode.problems.catalogue import CATALOGUE
from refnode.problems.problem import Problem
from refnode.sensitivity.continuous_adjoint import reversed_grid
from refnode.sensitivity.equations import adjoint_rhs, adjoint_rhs_kernel, read_path, step_at
from refnode.sensitivity.gradient import gradient
from refnode.solve.initial_value import solve, solve_forward
from refnode.solve.options import SolveOptions

ADJOINTS = [name for name, recipe in RECIPES.items() if recipe.equation == "continuous"]
every_problem = pytest.mark.parametrize("name", CATALOGUE)
every_adjoint = pytest.mark.parametrize("sensitivity", ADJOINTS)
drift_may_warn = pytest.mark.filterwarnings("ignore::refnode.errors.GradientWarning")

# If every error is kappa_i tol with kappa_i within a factor K of their mean, a least-squares slope over five
# decades is off 1 by at most (2 + 1 + 0 + 1 + 2)/10 log10 K = 0.6 log10 K, over four by 0.8 log10 K.
# Methods of order 5 and 8 take few steps whose signed errors cancel or not, K = 5: 0.42. At order 3 there are
# hundreds, the constant settles, K = 1.35: 0.1. The constant itself stays below 1e3 for methods of order 5 and
# 8: the condition of the problems (Robertson's, at 245, is the largest).
TOLERANCES = 10.0 ** -np.arange(5.0, 10.0)
BAND, CONSTANT = 0.42, 1e3


# Where y is solved backwards from t1 to t0 through a flow that contracts by e^14, no constant is small; see test_backsolve.
DRIFTING = {("backsolve_plain", "lorenz"), ("backsolve_plain", "kepler"), ("backsolve_plain", "robertson")}


def errors_at(problem, reference, sensitivity, tolerances, method, atol_over_rtol=1e-3):
    return np.array([
        weighted_error(problem, flat(gradient(problem, sensitivity, method=method, rtol=rtol,
                                              atol=atol_over_rtol * rtol)), reference)
        for rtol in tolerances])


# --- proportional to the tolerance ----------------------------------------------------------------

@drift_may_warn
@every_problem
@every_adjoint
def test_error_is_proportional_to_the_tolerance_at_order_three(sensitivity, name):
    """bosh3, 1e-5 .. 1e-8, all inputs."""
    if (sensitivity, name) in DRIFTING:
        pytest.skip("y drifts")
    errors = errors_at(CATALOGUE[name](), exact(name), sensitivity, TOLERANCES[:4], "bosh3")
    assert slope(TOLERANCES[:4], errors) == pytest.approx(1.0, abs=0.1)


@pytest.mark.slow
@drift_may_warn
@every_problem
@every_adjoint
@pytest.mark.parametrize("method", ["dopri5", "tsit5", "dop853"])
def test_error_falls_with_the_tolerance(sensitivity, name, method):
    if (sensitivity, name) in DRIFTING:
        pytest.skip("y drifts")
    errors = errors_at(CATALOGUE[name](), exact(name), sensitivity, TOLERANCES, method)
    assert np.all(errors <= CONSTANT * TOLERANCES)
    assert slope(TOLERANCES, errors) == pytest.approx(1.0, abs=BAND)


@drift_may_warn
@pytest.mark.parametrize("sensitivity", [*ADJOINTS, "forward"])
@pytest.mark.parametrize("method, order", [("midpoint", 2), ("heun", 2), ("bosh3", 3), ("rk4", 4), ("dopri5", 5)])
def test_order_on_given_steps(sensitivity, method, order):
    """Equal steps forward, the same backwards: the full order, since the local error of the dense output is
    of the method's order. Where observations fall in their steps moves the fit by less than 0.35."""
    counts = np.array([48, 96, 192, 384])
    errors = [weighted_error(CATALOGUE["pendulum"](), flat(gradient(
        CATALOGUE["pendulum"](), sensitivity, method=method, n_steps=int(n))), exact("pendulum")) for n in counts]
    assert slope(1.0 / counts, errors) >= order - 0.35


# --- tolerances of its own ------------------------------------------------------------------------

@every_adjoint
def test_adjoint_tolerances_have_effect(sensitivity):
    """Loose ones err more, near their own size; tight ones cannot mend a loose forward solve.

    Backsolve has y in the same steps, under the tolerances of the solve: they hold the error down.
    """
    problem = CATALOGUE["pendulum"]()
    error = {}
    for rtol, own in ((1e-9, 1e-9), (1e-9, 1e-5), (1e-5, 1e-9)):
        found = gradient(problem, sensitivity, rtol=rtol, atol=1e-3 * rtol, adjoint_rtol=own,
                         adjoint_atol=1e-3 * own)
        error[rtol, own] = weighted_error(problem, flat(found), exact("pendulum"))
    assert error[1e-9, 1e-9] <= 1e-8
    assert error[1e-9, 1e-5] <= 1e-4 and 1e-7 <= error[1e-5, 1e-9] <= 1e-4
    assert error[1e-9, 1e-5] >= (1e-7 if not sensitivity.startswith("backsolve") else error[1e-9, 1e-9])


@every_adjoint
def test_each_adjoint_tolerance_alone_has_effect(sensitivity):
    steps = [gradient(CATALOGUE["logistic"](), sensitivity, **own).stats["n_steps_reverse"]
             for own in ({}, {"adjoint_rtol": 1e-9}, {"adjoint_atol": 1e-13, "adjoint_rtol": 1e-9})]
    assert steps[0] < steps[1] < steps[2]


@drift_may_warn
@every_problem
@pytest.mark.parametrize("sensitivity", RECIPES)
def test_scaled_loss_scales_the_gradient_exactly(sensitivity, name):
    """2^-30 and 2^30 times the loss: the same gradient to the bit, times the factor (an absolute tolerance on
    lambda that does not know the loss's unit made CVODES err by half)."""
    problem = CATALOGUE[name]()
    once = flat(gradient(problem, sensitivity))
    for factor in (2.0 ** -30, 2.0 ** 30):
        scaled = gradient(problem.replace(loss=Scaled(problem.loss, factor)), sensitivity)
        np.testing.assert_array_equal(flat(scaled), factor * once)


# --- known traps ----------------------------------------------------------------------------------

def resting_twins():
    """x' = x - y, y' = y - x from (1, 1): the solution rests, dx(5)/dx0 = (e^10 + 1)/2."""
    return Problem(CLASSICAL["twin_growth"], [1.0, 1.0], [1.0, 1.0], t_span=(0.0, 5.0),
                   loss=losses.linear([[1.0], [0.0]]))


RESTING_TWINS = np.array([1.0 + np.exp(10.0), 1.0 - np.exp(10.0)]) / 2.0


@every_adjoint
@pytest.mark.parametrize("rtol", [1e-3, 1e-6, 1e-9, 1e-12])
def test_adjoint_sees_growth_where_the_state_rests(sensitivity, rtol):
    found = gradient(resting_twins(), sensitivity, rtol=rtol, atol=1e-3 * rtol)
    assert np.max(np.abs(found.y0 / RESTING_TWINS - 1.0)) <= 100.0 * rtol


def lorenz(t1, **changes):
    """dx(t1)/drho from (1, 0, 0), a double-precision record: chaos amplifies every error of y."""
    loss = losses.terminal(lambda y1: y1[0], lambda y1: np.array([1.0, 0.0, 0.0]))
    return Problem(CLASSICAL["lorenz"], [1.0, 0.0, 0.0], [10.0, 28.0, 8.0 / 3.0], (0.0, t1), loss=loss, **changes)


@pytest.mark.parametrize("t1, recorded", [(1.0, 0.23383729166), (1.5, -0.30153806441), (2.0, -0.76077904881)])
def test_backsolve_warns_where_it_drifts_and_interpolating_does_not_drift(t1, recorded):
    options = {"rtol": 1e-8, "atol": 1e-8}
    assert gradient(lorenz(t1), "interpolating", **options).theta[1] == pytest.approx(recorded, rel=1e-5)
    with pytest.warns(GradientWarning, match="reconstructed y with an error of"):
        found = gradient(lorenz(t1), "backsolve", **options)
    assert abs(found.theta[1] / recorded - 1.0) > 1e-4 and found.stats["y_drift"] > 1e3


@drift_may_warn
def test_observations_mend_the_drift_of_backsolve():
    """At an observation y is known and starts afresh: 40 of them bring 47 % down to the tolerance."""
    found = gradient(lorenz(2.0, ts=np.linspace(0.05, 2.0, 40)), "backsolve", rtol=1e-8, atol=1e-8)
    assert found.theta[1] == pytest.approx(-0.76077904881, rel=1e-5)


def test_drift_of_a_running_cost_does_not_count():
    """Its state has no part in lambda, and q(t0) = 0 would weigh any drift by atol alone."""
    cost = losses.running_cost(
        lambda t, y, theta: 1e6 * y[0], None,
        lambda t, y, theta, g_bar, t_bar, y_bar, theta_bar: np.add.at(y_bar, 0, 1e6 * g_bar))
    problem = CATALOGUE["exponential_decay"]()
    assert gradient(problem.replace(loss=cost), "backsolve").stats["y_drift"] < 100.0


@drift_may_warn
def test_tolerance_floor_is_not_an_error():
    """y' = -3y + sin(y)/2, T = 15: the truth is -1.46e-15, below atol 1e-8. Every recipe is within the floor."""
    def f(t, y, theta):
        return -3.0 * y + theta[0] * np.sin(y)

    def f_vjp(t, y, theta, dy_bar):
        return 0.0, (-3.0 + theta[0] * np.cos(y)) * dy_bar, np.sin(y) * dy_bar
    problem = Problem(VectorField(f, vjp=f_vjp), [1.0], [0.5], (0.0, 15.0), loss=losses.linear([[1.0]]))
    for sensitivity in (*ADJOINTS, "discrete"):
        assert np.abs(gradient(problem, sensitivity, rtol=1e-8, atol=1e-8).y0[0]) <= 1e-7


@every_adjoint
def test_failed_adjoint_solve_raises(sensitivity):
    """max_steps that suffice forwards and not backwards, where they count from one restart to the next."""
    problem = resting_twins()
    steps = solve(problem).n_steps
    few = {"checkpoints": 1} if sensitivity == "backsolve_checkpointed" else {}
    with pytest.raises(IntegrationError, match=f"the adjoint solve failed: max_steps={steps} steps"):
        gradient(problem, sensitivity, max_steps=steps, **few)


def test_seeds_of_zero_give_a_gradient_of_zero():
    problem = CATALOGUE["lotka_volterra"]()
    zero = problem.replace(loss=losses.linear(np.zeros((2, 5))))
    for sensitivity in RECIPES:
        np.testing.assert_array_equal(flat(gradient(zero, sensitivity)), 0.0)


# --- the parts ------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["forced_oscillator", "lorenz", "kepler"])
def test_kernel_equals_the_matrix_form(name):
    field = CLASSICAL[name]
    point = cases.random_points(name, field.n, field.p, count=1)[0]
    jac = cases.complex_step_jac(field, point)
    rates = [np.empty(field.n), np.empty(field.p)]
    python_form(adjoint_rhs_kernel)(field.vjp, point.t, point.y, point.theta, field.new_tape(1)[0], point.dy_bar,
                                    np.zeros(1), *rates)
    for found, matrix in zip(rates, adjoint_rhs(jac[:, 1:1 + field.n], jac[:, 1 + field.n:], point.dy_bar)):
        assert np.max(np.abs(found - matrix)) <= 100 * cases.EPS * np.max(np.abs(jac))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_step_of_a_time(sign):
    """Each step owns its start; the end steps own what lies beyond the ends."""
    times = sign * np.array([0.0, 1.0, 2.5, 3.0])
    for t, step in ((-1.0, 0), (0.0, 0), (0.5, 0), (2.0, 1), (2.6, 2), (3.0, 2), (4.0, 2)):
        assert step_at(times, sign * t) == step


@pytest.mark.parametrize("t1", [2.0, -1.0])
@pytest.mark.parametrize("method", ["rk4", "dopri5", "dop853"])
def test_path_is_the_dense_output_of_the_solve(method, t1):
    """By Horner's rule here, by powers there: equal to rounding times DOP853's coefficients of up to 1e3."""
    problem = CATALOGUE["kepler"]().replace(ts=None, t1=t1)
    options = SolveOptions.of(method=method, n_steps=9)
    forward, _ = solve_forward(problem.field, problem.y0, problem, options, keep=True, dense=True)
    dense = solve(problem, dense_output=True, method=method, n_steps=9).sol
    times, y, k, k_extra, _ = forward.stored()
    out = np.empty(4)
    for t in [*np.linspace(0.0, t1, 23), *times]:
        read_path(options.tableau.P, times, y, k, k_extra, t, forward.storage.w, out)
        np.testing.assert_allclose(out, dense(t), rtol=0.0, atol=1e-12)


def test_reversed_grid():
    grid = np.array([0.0, 0.5, 1.0, 1.5])
    np.testing.assert_array_equal(reversed_grid(grid, 1.5, 0.25), [1.5, 1.0, 0.5, 0.25])
    np.testing.assert_array_equal(reversed_grid(grid, 1.25, 1.0), [1.25, 1.0])
    np.testing.assert_array_equal(reversed_grid(-grid, -1.0, 0.0), [-1.0, -0.5, 0.0])
    assert reversed_grid(np.empty(0), 1.0, 0.0).size == 0
