"""Second derivatives of a solve: exact for the steps taken, symmetric, and converging to those of the solution.

The input vector is (y0, theta, t0, t1, ts), as in `gradients`. The Hessian of the frozen-step program is symmetric
in all of it: a moving time acts through the exact flow at that time.
"""
import functools

import mpmath
import numpy as np
import pytest

import cases
import gradients
import refnode
from gradients import blocks, flat, inputs
from hessians import (
    EXACT, NEAR, PROBLEMS, SYMMETRY, TERMINAL, TIGHT, every_way, hessian, mlp_problem, product, symmetry_error)
from refnode import losses
from refnode.fields.field import VectorField
from refnode.gradcheck import finite_difference_jvp
from refnode.host_device import python_form
from refnode.problems.catalogue import CATALOGUE
from refnode.problems.problem import Problem
from refnode.sensitivity import second_order
from refnode.sensitivity.discrete_adjoint import SLICE, StoredSteps, discrete_adjoint
from refnode.sensitivity.second_order import SECOND_ORDER, gauss_newton, hvp
from refnode.solve.initial_value import flow_tolerances, solve
from refnode.solve.integrate import integrate_field
from refnode.solve.options import SolveOptions
from refnode.solve.run import Trajectory



# --- symmetry -------------------------------------------------------------------------------------

@pytest.mark.parametrize("method", ["rk4", "dopri5", "dop853"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_symmetric_in_all_inputs(name, method):
    """In y0, theta and all times together, and in y0 and theta alone, on given steps."""
    problem = PROBLEMS[name]()
    states = slice(0, problem.y0.size + problem.theta.size)
    assert symmetry_error(problem, method=method, n_steps=9) <= SYMMETRY
    assert symmetry_error(problem, only=states, method=method, n_steps=9) <= SYMMETRY


@pytest.mark.parametrize("options", [{"method": "dopri5", "rtol": 1e-4}, {"method": "tsit5", "rtol": 1e-6, "tstops": True},
                                     {"method": "dop853", "rtol": 1e-7}], ids=lambda options: options["method"])
@pytest.mark.parametrize("activation", ["tanh", "softplus", "sine"])
def test_symmetric_on_chosen_steps(activation, options):
    assert symmetry_error(mlp_problem(activation), **options) <= SYMMETRY
    assert symmetry_error(CATALOGUE["van_der_pol"](), **options) <= SYMMETRY


@pytest.mark.slow
@pytest.mark.parametrize("method", gradients.METHODS)
@pytest.mark.parametrize("name", CATALOGUE)
def test_symmetric_for_every_problem_and_method(name, method):
    assert symmetry_error(CATALOGUE[name](), method=method, n_steps=24) <= SYMMETRY


# --- the frozen-step program ----------------------------------------------------------------------

def frozen_gradient(problem, times, method, y0, theta):
    """The gradient in (y0, theta) by the discrete adjoint of given steps, un-jitted, for complex inputs."""
    field = problem.field
    plain = VectorField(cases.python_body(field.f), vjp=cases.python_body(field.vjp))
    options = SolveOptions.of(method=method, n_steps=max(len(times) - 1, 1))
    rtol, atol = flow_tolerances(options, problem, problem.y0)
    forward = Trajectory(options, plain, y0, theta, problem.t0, problem.t1, problem.ts, keep=True, rtol=rtol, atol=atol,
                         blocks=np.array([0, y0.size]), grid=np.asarray(times), dtype=complex)
    forward.run(python_form(integrate_field), [plain.f])
    ys_bar, y1_bar = problem.loss.vjp(forward.ys.T, forward.y1)
    steps = StoredSteps(forward)
    position = steps.position(forward.n_steps, forward.ts.size)
    position[SLICE] = forward.n_steps
    (y1_work, z, z_bar), (k_bar, k_extra_bar) = steps.vectors, steps.matrices
    y_bar, theta_bar = np.array(y1_bar, complex), np.zeros(theta.size, complex)
    python_form(discrete_adjoint)(plain.f, plain.vjp, (
        *steps.shared(position), ys_bar.T, y_bar, y1_work, z, z_bar, k_bar, k_extra_bar, forward.storage.w,
        np.zeros(1, complex), np.zeros(1, complex), theta_bar))
    for j in range(position[1]):
        y_bar += ys_bar.T[j]
    return np.concatenate([y_bar, theta_bar])


def complex_step_product(problem, options, x_tan):
    """H x_tan in (y0, theta), by a complex step through the gradient of the steps that were taken."""
    n, step = problem.y0.size, 1e-30j
    times = gradients.step_times(problem, options)
    return frozen_gradient(problem, times, options["method"], problem.y0 + step * x_tan[:n],
                           problem.theta + step * x_tan[n:]).imag / 1e-30


def exactness_error(problem, seed=0, **options):
    size = problem.y0.size + problem.theta.size
    x_tan = np.random.default_rng(seed).standard_normal(size) * gradients.sizes(problem)[:size]
    expected = complex_step_product(problem, options, x_tan)
    found = product(problem, np.append(x_tan, np.zeros(inputs(problem).size - size)), **options)[:size]
    return np.max(np.abs(found - expected)) / np.max(np.abs(expected))


@pytest.mark.parametrize("options", [{"method": "rk4", "n_steps": 9}, {"method": "dopri5", "rtol": 1e-5},
                                     {"method": "dop853", "rtol": 1e-6}], ids=lambda options: options["method"])
@pytest.mark.parametrize("name", ["terminal", "lotka_volterra", "kepler"])
def test_exact_for_the_steps_taken(name, options):
    """Against complex steps through the gradient itself: dense output, extra stages of DOP853, jumps at t0."""
    assert exactness_error(PROBLEMS[name](), **options) <= EXACT


@pytest.mark.parametrize("name", ["terminal", "mlp", "everything"])
def test_remainder_of_the_quadratic_model_is_of_third_order(name):
    """loss(x + h v) - loss - h g.v - h^2/2 v.Hv = O(h^3), in (y0, theta), on given steps."""
    problem, options = PROBLEMS[name](), {"method": "dopri5", "n_steps": 12}
    n, size = problem.y0.size, problem.y0.size + problem.theta.size
    v = np.random.default_rng(1).standard_normal(size) * gradients.sizes(problem)[:size]
    result = hvp(problem, v[:n], v[n:], **options)
    slope = result.gradient.y0 @ v[:n] + result.gradient.theta @ v[n:]
    curvature = result.y0 @ v[:n] + result.theta @ v[n:]
    steps, remainders = 2.0 ** -np.arange(5, 10), []
    for h in steps:
        moved = problem.replace(y0=problem.y0 + h * v[:n], theta=problem.theta + h * v[n:])
        loss = refnode.gradient(moved, **options).loss
        remainders.append(abs(loss - result.loss - h * slope - h ** 2 / 2 * curvature))
    rates = np.log2(np.divide(remainders[:-1], remainders[1:]))
    assert np.all(np.abs(rates - 3.0) <= 0.35) and abs(rates[-1] - 3.0) <= 0.1


def test_gradient_comes_with_the_product():
    problem = mlp_problem()
    result, expected = hvp(problem, theta_tan=np.ones(problem.theta.size)), refnode.gradient(problem)
    np.testing.assert_allclose(flat(result.gradient), flat(expected), rtol=1e-12, atol=1e-14)
    assert result.loss == expected.loss and result.sensitivity == "forward_over_adjoint"


# --- closed forms ---------------------------------------------------------------------------------

def closed_form_hessian(function, x):
    """All second derivatives of ``function(*x)`` in 40 digits, as float64."""
    size, found = len(x), np.empty((len(x), len(x)))
    with mpmath.workdps(60):
        for i in range(size):
            for j in range(size):
                orders = tuple(int(k == i) + int(k == j) for k in range(size))
                found[i, j] = float(mpmath.diff(function, tuple(map(mpmath.mpf, x)), orders))
    return found


def twin_end(x0, y0, a, b, start, end):
    """A2: x(T) = x0 - eps a (e^{sT} - 1)/s with eps = y0 - x0, s = a + b."""
    return x0 - (y0 - x0) * a * mpmath.expm1((a + b) * (end - start)) / (a + b)


def decay_end(y0, p, start, end):
    """A7 without its event: y0 e^{-pT}."""
    return y0 * mpmath.exp(-p * (end - start))


def logistic_end(y0, r, K, start, end):
    """A16: K / (1 + (K/y0 - 1) e^{-rT})."""
    return K / (1 + (K / y0 - 1) * mpmath.exp(-r * (end - start)))


CLOSED = {
    "A2": ("twin_growth", twin_end, [1.0, 1.0 + 2.0 ** -10], [0.5, 0.25], [[1.0], [0.0]]),
    "A7": ("exponential_decay", decay_end, [1.5], [0.625], [[1.0]]),
    "A16": ("logistic", logistic_end, [0.5], [1.25, 2.0], [[1.0]]),
}


@functools.lru_cache
def closed_form(name):
    """A problem whose loss is the first state at t1, and its Hessian."""
    field, end, y0, theta, weights = CLOSED[name]
    problem = Problem(CATALOGUE[field]().field, y0, theta, (0.25, 1.75), loss=losses.linear(weights))
    return problem, closed_form_hessian(end, [*y0, *theta, 0.25, 1.75])


@pytest.mark.parametrize("sensitivity", SECOND_ORDER)
@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms(name, sensitivity):
    """All second derivatives in y0, theta, t0 and t1 of the last first state, each in units of its inputs' sizes."""
    problem, expected = closed_form(name)
    assert np.all(expected[:, -1] != 0.0) or name == "A2"
    tight = dict(TIGHT, atol=1e-17) if name == "A2" else TIGHT
    found = hessian(problem, sensitivity=sensitivity, **tight)
    assert np.max(np.abs(found - expected)) <= NEAR * np.max(np.abs(expected))
    if name != "A2":
        assert np.all(np.abs(found - expected) <= 10 * NEAR * np.abs(expected) + 1e-11)


def test_logistic_hessian_has_no_zero():
    expected = closed_form_hessian(logistic_end, [0.5, 1.25, 2.0, 0.25, 1.75])
    assert np.min(np.abs(expected)) > 1e-3


# --- two independent ways -------------------------------------------------------------------------

@pytest.mark.parametrize("name", PROBLEMS)
def test_both_ways_agree_at_tight_tolerance(name):
    problem = PROBLEMS[name]()
    x_tan = np.random.default_rng(2).standard_normal(inputs(problem).size) * gradients.sizes(problem)
    tight = TIGHT if name != "everything" else {"method": "dop853", "rtol": 1e-10, "atol": 1e-12}
    first, second = (product(problem, x_tan, sensitivity, **tight) for sensitivity in SECOND_ORDER)
    assert gradients.weighted_error(problem, second, first) <= 1e3 * tight["rtol"]


@pytest.mark.parametrize("name", ["forced_oscillator", "mlp"])
def test_error_of_the_continuous_one_is_proportional_to_the_tolerance(name):
    problem = mlp_problem() if name == "mlp" else CATALOGUE[name]()
    x_tan = np.random.default_rng(2).standard_normal(inputs(problem).size) * gradients.sizes(problem)
    truth = product(problem, x_tan, **TIGHT)
    tolerances = 10.0 ** -np.arange(4, 11, 2)
    errors = [gradients.weighted_error(problem, product(problem, x_tan, "adjoint_over_adjoint", rtol=rtol, atol=1e-3 * rtol), truth)
              for rtol in tolerances]
    assert 0.7 <= gradients.slope(tolerances, errors) <= 1.3 and max(errors / tolerances) <= 1e3


@every_way
@pytest.mark.parametrize("name", ["terminal", "moving_end"])
def test_finite_differences_of_the_gradient(name, sensitivity):
    """In every input, the times among them, at a tolerance where all truths agree."""
    problem = PROBLEMS[name]()
    if name == "terminal":
        problem = problem.replace(ts=[0.25, 0.8, 2.0], loss=losses.sum_of_squares(np.ones((2, 3))) + TERMINAL)
    x_tan = np.random.default_rng(4).standard_normal(inputs(problem).size)
    x_tan[problem.y0.size + problem.theta.size:] *= 1e-2
    tight = {"method": "dop853", "rtol": 1e-13, "atol": 1e-15}

    def gradient_at(x):
        y0, theta, (t0, t1), ts = (x[block] for block in blocks(problem))
        moved = {} if problem.ts_is_t1 else {"ts": np.append(t0, ts[1:])}
        return flat(refnode.gradient(problem.replace(y0=y0, theta=theta, t0=t0, t1=t1, **moved), **tight))
    if not problem.ts_is_t1:
        x_tan[blocks(problem)[3].start] = x_tan[blocks(problem)[2].start]      # ts[0] is t0 and moves with it
    differences = finite_difference_jvp(gradient_at, inputs(problem), x_tan)
    found = product(problem, x_tan, sensitivity, **TIGHT)
    scale = np.max(np.abs(found))
    assert np.max(differences.error) <= 1e-6 * scale
    assert np.all(np.abs(found - differences.value) <= 3 * differences.error + NEAR * scale)


def test_gradient_penalty():
    """The gradient of |dL/dy0|^2 / 2 in theta and y0 is H (dL/dy0, 0): known for a decay, L = y(T)^2.

    dL/dy0 = 2 y0 E with E = e^{-2pT}, so the penalty is 2 y0^2 E^2.
    """
    y0, p, T = 1.5, 0.625, 1.25
    problem = Problem(CATALOGUE["exponential_decay"]().field, [y0], [p], (0.0, T), loss=losses.sum_of_squares())
    for sensitivity in SECOND_ORDER:
        slope = refnode.gradient(problem, **TIGHT).y0
        result = hvp(problem, y0_tan=slope, sensitivity=sensitivity, **TIGHT)
        E = np.exp(-2 * p * T)
        np.testing.assert_allclose(result.theta, [-8 * T * y0 ** 2 * E ** 2], rtol=NEAR)
        np.testing.assert_allclose(result.y0, [4 * y0 * E ** 2], rtol=NEAR)


# --- Gauss-Newton ---------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["terminal", "moving_end", "mlp"])
def test_gauss_newton_is_the_product_of_jacobians(name):
    """J from `refnode.jvp` of the same steps; the loss is a sum of squares, so the middle factor is 2."""
    problem, options = PROBLEMS[name](), {"method": "dopri5", "n_steps": 8}
    mean = 1.0
    if name == "mlp":
        mean = 1.0 / (problem.y0.size * problem.ts.size)
    problem = problem.replace(loss=losses.mean_of_squares() if name == "mlp" else losses.sum_of_squares())
    columns = []
    for e in np.eye(inputs(problem).size):
        y0_tan, theta_tan, (t0_tan, t1_tan), ts_tan = (e[block] for block in blocks(problem))
        moved = {} if problem.ts_is_t1 else {"ts_tan": ts_tan}
        columns.append(refnode.jvp(problem, y0_tan, theta_tan, t0_tan, t1_tan, **moved, **options).ravel())
    J = np.array(columns).T
    v = np.random.default_rng(5).standard_normal(J.shape[1])
    found = product(problem, v, door=gauss_newton, **options)
    assert np.max(np.abs(found - 2 * mean * J.T @ (J @ v))) <= 1e-13 * np.max(np.abs(J).T @ (np.abs(J) @ np.abs(v)))
    assert v @ found >= 0.0


def test_gauss_newton_is_the_hessian_where_the_residual_vanishes():
    problem, options = CATALOGUE["lotka_volterra"](), {"method": "dopri5", "n_steps": 40}
    problem = problem.replace(loss=losses.sum_of_squares(solve(problem, **options).y))
    v = np.random.default_rng(6).standard_normal(inputs(problem).size)
    found, expected = (product(problem, v, door=door, **options) for door in (gauss_newton, hvp))
    assert np.max(np.abs(found - expected)) <= 1e-12 * np.max(np.abs(expected))
    other = problem.replace(loss=losses.sum_of_squares(solve(problem, **options).y + 0.5))
    assert np.max(np.abs(product(other, v, door=hvp, **options) - expected)) > 1e-2 * np.max(np.abs(expected))


# --- wrong on purpose -----------------------------------------------------------------------------

def wrong_field(field, dy_bar, dy_bar_tan):
    """The field with a factor on what its hvp is given."""
    body = cases.python_body(field.hvp)

    def f_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, first, second, t_bar_tan, y_bar_tan, theta_bar_tan):
        body(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar * first, dy_bar_tan * second,
             t_bar_tan, y_bar_tan, theta_bar_tan)
    plain = gradients.python_field(field)
    return VectorField(plain.f, plain.jvp, plain.vjp, f_hvp, n=field.n, p=field.p)


class WithoutCurvature(losses.SumOfSquares):
    def hvp(self, ys, y1, ys_tan, y1_tan):
        return 0.0 * ys_tan, np.zeros(y1.shape)


@pytest.mark.parametrize("what", ["nothing", "f_yy", "dy_bar_tan", "loss"])
def test_a_missing_term_is_caught(what):
    """By the complex step, to which the right program agrees; the missing curvature of f and of the loss leave
    the product symmetric, so symmetry alone would not do."""
    problem, options = CATALOGUE["lotka_volterra"](), {"method": "dopri5", "n_steps": 12}
    factors = {"f_yy": (0.0, 1.0), "dy_bar_tan": (1.0, 0.0)}.get(what, (1.0, 1.0))
    loss = WithoutCurvature(problem.loss.data) if what == "loss" else problem.loss
    wrong = problem.replace(field=wrong_field(problem.field, *factors), loss=loss)
    error = exactness_error(wrong, **options)
    assert error <= EXACT if what == "nothing" else error > 1e-2


@pytest.mark.parametrize("name", ["moved_seeds", "moved_start", "time_cotangent_tangents"])
def test_a_forgotten_time_is_caught(name, monkeypatch):
    """By a closed form: no correction of the seeds, none at t0, none of the velocity. (Without the one at t0 the
    Hessian is that of a start that moves in a straight line, and symmetric too.)"""
    wrong = {
        "moved_seeds": lambda instants, seeds, seeds_tan: (seeds_tan, np.zeros(instants.theta.size)),
        "moved_start": lambda problem, direction, y0_bar, y0_bar_tan: (y0_bar_tan, 0.0, -float(
            y0_bar_tan @ problem.flow_field(problem.t0, problem.flow_y0, problem.theta))),
        "time_cotangent_tangents": lambda instants, seeds, seeds_tan: np.vecdot(
            np.vstack([seeds_tan.ys_bar, seeds_tan.y1_bar]), instants.slopes)}[name]
    monkeypatch.setattr(second_order, name, wrong)
    problem, expected = closed_form("A16")
    assert np.max(np.abs(hessian(problem) - expected)) > 1e-2 * np.max(np.abs(expected))
