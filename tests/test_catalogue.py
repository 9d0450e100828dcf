"""The catalogue: every field has a problem, its gradients are not zero, and its closed form is a solution."""
import functools

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.linalg import expm_frechet

import cases
from refnode.fields.classical import CLASSICAL
from refnode.problems.catalogue import CATALOGUE, CLOSED_FORMS, dyadic
from refnode.problems.problem import Problem

H = cases.COMPLEX_STEP


@functools.lru_cache(maxsize=None)
def tangent_gradient(name):
    """(dL/d(y0, theta), dL/dt0, dL/dts) from the variational equation, integrated by SciPy."""
    problem = CATALOGUE[name]()
    n, p = problem.y0.size, problem.theta.size
    flow = variational_solution(problem, n, p)
    ys_bar, _ = problem.loss.vjp(flow[0], flow[0][:, -1])
    grad = np.array([np.sum(ys_bar * tangent) for tangent in flow[1:]])
    rates = [problem.field(t, y, problem.theta) for t, y in zip(problem.ts, flow[0].T)]
    grad_ts = np.array([ys_bar[:, k] @ rate for k, rate in enumerate(rates)])
    grad_t0 = -grad[:n] @ problem.field(problem.t0, problem.y0, problem.theta)
    return grad, grad_t0, grad_ts


def variational_solution(problem, n, p):
    """y and its n + p tangents at the observation times, shape (1 + n + p, n, K)."""
    field, tape, directions = problem.field, problem.field.new_tape(1)[0], np.eye(n + p)

    def rhs(t, flat):
        y, *tangents = flat.reshape(1 + n + p, n)
        rate = np.empty((1 + n + p, n))
        field.f(t, y, problem.theta, tape, rate[0])
        for k, tangent in enumerate(tangents):
            field.jvp(t, y, problem.theta, 0.0, tangent, directions[k, n:], tape, rate[1 + k])
        return rate.ravel()

    start = np.vstack([problem.y0, np.eye(n), np.zeros((p, n))])
    result = solve_ivp(rhs, (problem.t0, problem.t1), start.ravel(), method="DOP853", rtol=1e-11, atol=1e-13,
                       t_eval=problem.ts)
    assert result.success
    return result.y.reshape(1 + n + p, n, -1)


def complex_step_gradient(solution, problem, k):
    """d y(ts_k)/d(y0, theta), shape (n + p, n), by complex steps through a closed form."""
    n, x = problem.y0.size, np.concatenate((problem.y0, problem.theta))
    columns = []
    for j in range(x.size):
        z = x.astype(np.complex128)
        z[j] += 1j * H
        columns.append(solution(z[:n], z[n:], problem.t0, problem.ts[k]).imag / H)
    return np.array(columns)


# --- the problems ---------------------------------------------------------------------------------

def test_every_registered_field_has_a_problem():
    assert CATALOGUE.keys() == CLASSICAL.keys()


@pytest.mark.parametrize("name", CATALOGUE)
def test_problem_is_fresh_and_of_its_field(name):
    problem = CATALOGUE[name]()
    assert isinstance(problem, Problem) and problem.name == name and problem.field is CLASSICAL[name]
    problem.y0[:] = np.nan
    assert np.all(np.isfinite(CATALOGUE[name]().y0))


@pytest.mark.parametrize("name", CATALOGUE)
def test_inputs_are_dyadic_rationals_of_24_bits(name):
    problem = CATALOGUE[name]()
    for values in (problem.y0, problem.theta, problem.ts, problem.t0, problem.t1):
        np.testing.assert_array_equal(dyadic(values), values)


@pytest.mark.parametrize("name", CATALOGUE)
def test_observations_are_several_and_off_the_grid(name):
    """Three or more, not all at multiples of the mean spacing; the last is at t1."""
    problem = CATALOGUE[name]()
    assert problem.ts.size >= 3 and problem.ts[-1] == problem.t1
    share = (problem.ts - problem.t0) / (problem.t1 - problem.t0) * problem.ts.size
    assert np.any(np.abs(share - np.round(share)) > 0.01)
    assert problem.loss is not None


@pytest.mark.parametrize("name", sorted(cases.NON_AUTONOMOUS & CLASSICAL.keys()))
def test_non_autonomous_problems_do_not_begin_at_zero(name):
    assert CATALOGUE[name]().t0 != 0.0


@pytest.mark.parametrize("name", CATALOGUE)
def test_no_true_gradient_is_zero(name):
    """Relative to the size of the input: every entry weighs at least 1e-4 of the largest."""
    problem = CATALOGUE[name]()
    grad, grad_t0, grad_ts = tangent_gradient(name)
    x = np.concatenate((problem.y0, problem.theta))
    weight = np.abs(grad) * np.where(x == 0.0, 1.0, np.abs(x))
    assert np.min(weight) >= 1e-4 * np.max(weight)
    rate = np.max(weight) / (problem.t1 - problem.t0)
    assert abs(grad_t0) >= 1e-4 * rate and np.min(np.abs(grad_ts)) >= 1e-4 * rate


@pytest.mark.parametrize("name", CATALOGUE)
def test_an_explicit_method_copes(name):
    """SciPy's DOP853 at 1e-9 needs fewer than 1500 evaluations: moderate and not stiff."""
    problem = CATALOGUE[name]()
    result = solve_ivp(lambda t, y: problem.field(t, y, problem.theta), (problem.t0, problem.t1), problem.y0,
                       method="DOP853", rtol=1e-9, atol=1e-12)
    assert result.success and result.nfev < 1500


# --- the closed forms -----------------------------------------------------------------------------

@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_closed_form_starts_at_the_initial_value(name):
    problem = CATALOGUE[name]()
    y = CLOSED_FORMS[name](problem.y0, problem.theta, problem.t0, problem.t0)
    np.testing.assert_allclose(y, problem.y0, rtol=4 * cases.EPS)


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_closed_form_satisfies_the_equation(name):
    """dy/dt by a complex step in t equals f, at times on both sides of t0."""
    problem = CATALOGUE[name]()
    for t in np.linspace(problem.t0 - 0.25, problem.t1, 9):
        y = CLOSED_FORMS[name](problem.y0, problem.theta, problem.t0, t)
        rate = CLOSED_FORMS[name](problem.y0, problem.theta, problem.t0, complex(t, H)).imag / H
        dy = problem.field(t, y, problem.theta)
        assert np.max(np.abs(rate - dy)) <= 1e-13 * (np.max(np.abs(dy)) + np.max(np.abs(y)))


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_wrong_closed_form_is_caught(name):
    """The check above, on the solution of the same equation with theta_0 off by 1e-9."""
    problem = CATALOGUE[name]()
    theta = problem.theta.copy()
    theta[0] *= 1.0 + 1e-9
    rate = CLOSED_FORMS[name](problem.y0, theta, problem.t0, complex(problem.ts[1], H)).imag / H
    y = CLOSED_FORMS[name](problem.y0, theta, problem.t0, problem.ts[1])
    dy = problem.field(problem.ts[1], y, problem.theta)
    assert np.max(np.abs(rate - dy)) > 1e-12 * (np.max(np.abs(dy)) + np.max(np.abs(y)))


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_gradient_of_the_closed_form_equals_the_variational_equation(name):
    """Two independent routes to dL/d(y0, theta); SciPy's tolerance decides how near they come."""
    problem = CATALOGUE[name]()
    ys = np.array([CLOSED_FORMS[name](problem.y0, problem.theta, problem.t0, t) for t in problem.ts]).T
    ys_bar, _ = problem.loss.vjp(ys, ys[:, -1])
    grad = sum(complex_step_gradient(CLOSED_FORMS[name], problem, k) @ ys_bar[:, k]
               for k in range(problem.ts.size))
    np.testing.assert_allclose(grad, tangent_gradient(name)[0], rtol=0.0, atol=1e-10 * np.max(np.abs(grad)))


def test_linear_solution_differentiates_like_the_frechet_derivative():
    """Complex steps through expm against the derivative of expm itself (Al-Mohy & Higham 2009)."""
    problem = CATALOGUE["linear"]()
    matrix, duration = problem.theta.reshape(3, 3), problem.ts[-1] - problem.t0
    gradient = complex_step_gradient(CLOSED_FORMS["linear"], problem, problem.ts.size - 1)
    for j in range(9):
        direction = np.zeros(9)
        direction[j] = duration
        expected = expm_frechet(matrix * duration, direction.reshape(3, 3), compute_expm=False) @ problem.y0
        np.testing.assert_allclose(gradient[3 + j], expected, rtol=0.0, atol=1e-13)


@pytest.mark.parametrize("k, recorded", [(10.0, -3.3105e-3), (100.0, -1.60874e-5), (1000.0, -1.43100e-7)])
def test_cosine_relaxation_recorded_values(k, recorded):
    """dy(3)/dk from y(0) = 0, as recorded."""
    y = CLOSED_FORMS["cosine_relaxation"](np.zeros(1), [complex(k, H)], 0.0, 3.0)
    assert y[0].imag / H == pytest.approx(recorded, rel=2e-5)


def test_twin_growth_tangent_explodes_where_the_solution_rests():
    """From (1, 1) with a = b = 1: y constant, dx(5)/dx0 = (e^10 + 1)/2, no gradient for a and b."""
    solution = CLOSED_FORMS["twin_growth"]
    np.testing.assert_array_equal(solution([1.0, 1.0], [1.0, 1.0], 0.0, 5.0), [1.0, 1.0])
    tangent = solution(np.array([1.0 + 1j * H, 1.0]), [1.0, 1.0], 0.0, 5.0).imag / H
    assert tangent[0] == pytest.approx((np.exp(10.0) + 1.0) / 2.0, rel=1e-14)
    assert not np.any(solution(np.ones(2), [1.0 + 1j * H, 1.0], 0.0, 5.0).imag)


def test_logistic_halfway():
    """y = K/2 at t = ln(K/y0 - 1)/r."""
    y = CLOSED_FORMS["logistic"]([0.5], [1.25, 2.0], 0.0, np.log(3.0) / 1.25)
    assert y[0] == pytest.approx(1.0, rel=4 * cases.EPS)
