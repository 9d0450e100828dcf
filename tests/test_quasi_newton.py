"""L-BFGS and its line search: the Wolfe conditions at every step, termination on quadratics, SciPy and torch."""
import numpy as np
import pytest
import scipy.optimize

from refnode.errors import InvalidInputError
from refnode.line_search import Trial, between, strong_wolfe
from refnode.quasi_newton import LBFGS, inverse_hessian_times, minimise

EPS = np.finfo(np.float64).eps


def rosenbrock(x):
    """The chained Rosenbrock function, lowest at 1."""
    a, b = x[1:] - x[:-1] ** 2, 1.0 - x[:-1]
    grad = np.zeros_like(x)
    grad[1:] += 200.0 * a
    grad[:-1] += -400.0 * a * x[:-1] - 2.0 * b
    return float(np.sum(100.0 * a * a + b * b)), grad


def quadratic(n, seed=0):
    """Value and gradient of a quadratic with curvatures 1 .. 100, lowest at a known point."""
    rng = np.random.default_rng(seed)
    q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    hessian, lowest = q @ np.diag(np.geomspace(1.0, 100.0, n)) @ q.T, rng.standard_normal(n)
    return lambda x: (0.5 * (x - lowest) @ hessian @ (x - lowest), hessian @ (x - lowest)), lowest


def test_functions_have_their_gradients():
    x = np.array([0.3, -0.7, 1.2])
    grad = scipy.optimize.approx_fprime(x, lambda x: rosenbrock(x)[0], 1e-7)
    np.testing.assert_allclose(rosenbrock(x)[1], grad, rtol=1e-4)


# --- the line search ------------------------------------------------------------------------------

LINES = {           # from the test functions of Moré & Thuente (1994): value and slope
    "rational": lambda a: (-a / (a * a + 2.0), (a * a - 2.0) / (a * a + 2.0) ** 2),
    "quintic": lambda a: ((a + 0.004) ** 5 - 2.0 * (a + 0.004) ** 4, 5.0 * (a + 0.004) ** 4 - 8.0 * (a + 0.004) ** 3),
    "steep wall": lambda a: (np.exp(min(20.0 * a, 700.0)) - 40.0 * a, 20.0 * np.exp(min(20.0 * a, 700.0)) - 40.0),
    "wavy": lambda a: (np.cos(8.0 * a) - 3.0 * a + a * a, -8.0 * np.sin(8.0 * a) - 3.0 + 2.0 * a),
}


@pytest.mark.parametrize("alpha", [1e-3, 0.1, 1.0, 30.0])
@pytest.mark.parametrize("c2", [0.1, 0.9])
@pytest.mark.parametrize("name", LINES)
def test_both_conditions_hold_where_the_search_ends(name, c2, alpha):
    value, slope = LINES[name](0.0)
    search = strong_wolfe(lambda a: (*LINES[name](a), a), value, slope, alpha, c1=1e-4, c2=c2, most=60)
    end = search.end
    assert search.success and search.trials <= 60 and end.found == end.alpha > 0.0
    assert (end.value, end.slope) == LINES[name](end.alpha)
    assert end.value <= value + 1e-4 * end.alpha * slope and abs(end.slope) <= c2 * abs(slope)


def test_interpolation_is_exact_on_a_cubic():
    """phi = a^3 - 3a has its low point at 1, from either end."""
    ends = [Trial(a, a ** 3 - 3.0 * a, 3.0 * a * a - 3.0) for a in (0.25, 2.0)]
    assert between(*ends) == pytest.approx(1.0, rel=4 * EPS) and between(*ends[::-1]) == pytest.approx(1.0, rel=4 * EPS)


def test_a_value_that_is_not_finite_is_too_far():
    """-log(1 - a) - 3a beyond 1 has no value; its low point is 2/3."""
    def phi(a):
        return (-np.log(1.0 - a) - 3.0 * a, 1.0 / (1.0 - a) - 3.0, None) if a < 1.0 else (np.nan, np.nan, None)
    search = strong_wolfe(phi, 0.0, -2.0, alpha=8.0, c2=0.01)
    assert search.success and search.end.alpha == pytest.approx(2.0 / 3.0, abs=0.01)


def test_a_line_that_only_rises_has_no_lower_point():
    search = strong_wolfe(lambda a: (a, 1.0, None), 0.0, -1.0, most=10)          # its slope lies
    assert not search.success and search.end.alpha == 0.0 and search.trials == 10


# --- the method -----------------------------------------------------------------------------------

def test_two_loops_equal_the_matrices():
    """H by the product form of BFGS, equation 7.19, from the same pairs."""
    rng = np.random.default_rng(3)
    pairs = [(s, s * [1.0, 2.0, 3.0, 4.0] + 0.1 * rng.standard_normal(4)) for s in rng.standard_normal((3, 4))]
    s, r = pairs[-1]
    H = np.eye(4) * (s @ r) / (r @ r)
    for s, r in pairs:
        V = np.eye(4) - np.outer(r, s) / (s @ r)
        H = V.T @ H @ V + np.outer(s, s) / (s @ r)
    grad = rng.standard_normal(4)
    np.testing.assert_allclose(inverse_hessian_times(grad, pairs), H @ grad, rtol=1e-13)
    s, r = pairs[-1]
    np.testing.assert_allclose(inverse_hessian_times(r, pairs), s, rtol=1e-13)           # the secant equation


@pytest.mark.parametrize("n", [2, 5, 12])
def test_finite_termination_on_a_quadratic(n):
    """With exact line searches (c2 tiny) and n pairs it is the method of conjugate gradients: n steps."""
    evaluate, lowest = quadratic(n)
    found = minimise(evaluate, np.zeros(n), iterations=n, optimiser=LBFGS(memory=n, c1=1e-12, c2=1e-10, most_trials=60))
    # measured 2e-11 at n = 12: searches that are exact to 1e-10
    np.testing.assert_allclose(found.theta, lowest, rtol=0.0, atol=1e-8)
    assert n == 2 or minimise(evaluate, np.zeros(n), iterations=n - 2).value > 1e-6


@pytest.mark.parametrize("evaluate, theta", [(rosenbrock, np.array([-1.2, 1.0])), (rosenbrock, np.zeros(20)),
                                             (quadratic(30)[0], np.ones(30))])
def test_strong_wolfe_holds_at_every_step(evaluate, theta):
    optimiser = LBFGS()
    for _ in range(300):
        before = evaluate(theta)
        new = optimiser.step(theta, evaluate)
        if optimiser.finished or np.max(np.abs(optimiser.grad)) < 1e-7:
            break
        after, moved = evaluate(new), new - theta
        assert optimiser.search.success
        slope = before[1] @ moved                                   # alpha times that of the line
        assert slope < 0.0 and after[0] <= before[0] + 1e-4 * slope + 4 * EPS * abs(before[0])
        assert abs(after[1] @ moved) <= 0.9 * abs(slope) * (1.0 + 1e-12)
        assert optimiser.value == after[0] and np.array_equal(optimiser.grad, after[1])
        theta = new
    assert np.max(np.abs(optimiser.grad)) < 1e-6


@pytest.mark.parametrize("n", [2, 10, 50])
def test_as_good_as_scipy(n):
    """The same problem from the same start with the same number of pairs: the same point, at a similar cost."""
    start = np.tile([-1.2, 1.0], n // 2)
    ours = minimise(rosenbrock, start, iterations=1000, gradient_tolerance=1e-9)
    theirs = scipy.optimize.minimize(rosenbrock, start, jac=True, method="L-BFGS-B",
                                     options={"maxcor": 10, "gtol": 1e-9, "ftol": 0.0, "maxiter": 1000})
    np.testing.assert_allclose(ours.theta, theirs.x, rtol=1e-7)
    assert ours.reason == "the gradient is small enough" and ours.evaluations <= 1.5 * theirs.nfev + 10


@pytest.mark.peers
def test_as_good_as_torch():
    torch = pytest.importorskip("torch")
    x = torch.tensor([-1.2, 1.0], dtype=torch.float64, requires_grad=True)
    theirs = torch.optim.LBFGS([x], max_iter=200, tolerance_grad=1e-10, tolerance_change=0.0,
                               line_search_fn="strong_wolfe")

    def closure():
        theirs.zero_grad()
        value = 100.0 * (x[1] - x[0] ** 2) ** 2 + (1.0 - x[0]) ** 2
        value.backward()
        return value
    theirs.step(closure)
    ours = minimise(rosenbrock, [-1.2, 1.0], gradient_tolerance=1e-10)
    np.testing.assert_allclose(ours.theta, x.detach().numpy(), rtol=1e-8)


def test_it_says_why_it_stops():
    evaluate, lowest = quadratic(3)
    optimiser = LBFGS()
    np.testing.assert_array_equal(optimiser.step(lowest, evaluate), lowest)
    assert optimiser.finished == "the gradient is zero" and optimiser.evaluations == 1
    optimiser = LBFGS(most_trials=8)
    theta = optimiser.step(np.ones(2), lambda x: (0.5 * x @ x, -x))
    assert "no lower point" in optimiser.finished and np.array_equal(theta, np.ones(2))


@pytest.mark.parametrize("steps", [0, 1, 4, 15])
def test_it_goes_on_bit_for_bit(steps):
    start, straight = np.array([-1.2, 1.0, 0.5]), LBFGS(memory=3)
    theta = start
    for _ in range(steps):
        theta = straight.step(theta, rosenbrock)
    again = LBFGS(memory=3)
    again.restore({name: array.copy() for name, array in straight.state().items()})
    assert all(type(array) is np.ndarray and array.dtype == np.float64 for array in straight.state().values())
    one = other = theta
    for _ in range(5):
        one, other = straight.step(one, rosenbrock), again.step(other, rosenbrock)
        assert one.tobytes() == other.tobytes() and straight.evaluations == again.evaluations


@pytest.mark.parametrize("make, message", [
    (lambda: LBFGS(memory=0), "memory must be a positive integer"), (lambda: LBFGS(c1=0.9, c2=0.5), "0 < c1 < c2 < 1"),
    (lambda: LBFGS(most_trials=1), "most_trials"),
    (lambda: LBFGS().step(np.ones(2), lambda x: (np.inf, x)), "found value inf and a gradient finite"),
    (lambda: LBFGS().step(np.ones(2), lambda x: (1.0, np.ones(3))), r"grad must have shape \(2,\), found \(3,\)"),
    (lambda: LBFGS().restore({"s": np.ones(1)}), "state of LBFGS must have"),
])
def test_bad_input(make, message):
    with pytest.raises(InvalidInputError, match=message):
        make()
