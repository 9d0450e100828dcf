"""One equation, three gradients: far apart at a loose tolerance, one number at a tight one; each confirmed as what it claims."""
import numpy as np
import pytest

import gradients
from gradients import H, inputs, slope
from refnode import losses
from refnode.evidence.adaptive_program import AdaptiveProgram
from refnode.fields.field import VectorField
from refnode.problems.problem import Problem
from refnode.sensitivity.gradient import gradient
from refnode.sensitivity.recipes import NATURAL
from refnode.sensitivity.replay import replay
from refnode.solve.initial_value import solve

pytestmark = pytest.mark.filterwarnings("ignore::refnode.errors.GradientWarning")     # the loosest steps do not resolve


def contracting():
    """y' = sin(a y) - b y + cos t, whose initial value is almost forgotten at t = 2."""
    def f(t, y, theta, dy):
        dy[0] = np.sin(theta[0] * y[0]) - theta[1] * y[0] + np.cos(t)

    def f_jvp(t, y, theta, t_tan, y_tan, theta_tan, dy_tan):
        slope = np.cos(theta[0] * y[0])
        dy_tan[0] = (slope * (theta[0] * y_tan[0] + y[0] * theta_tan[0]) - theta[1] * y_tan[0] - y[0] * theta_tan[1]
                     - np.sin(t) * t_tan)

    def f_vjp(t, y, theta, dy_bar, t_bar, y_bar, theta_bar):
        slope_bar = np.cos(theta[0] * y[0]) * dy_bar[0]
        y_bar[0] += theta[0] * slope_bar - theta[1] * dy_bar[0]
        theta_bar[0] += y[0] * slope_bar
        theta_bar[1] -= y[0] * dy_bar[0]
        t_bar[0] -= np.sin(t) * dy_bar[0]
    return Problem(VectorField(f, f_jvp, f_vjp, n=1, p=2), [1.0], [3.0, 1.0], (0.0, 2.0),
                   loss=losses.linear([[1.0]]))


LEVELS = np.random.default_rng(0).standard_normal(9)


def polygon():
    """y' = -k y + u(t), u with a kink at every quarter: dy(2)/dy(0) = e^(-2k) whatever u is."""
    def pieces(t):
        i = min(int(np.real(t) * 4.0), 7)
        return LEVELS[i] + (4.0 * t - i) * (LEVELS[i + 1] - LEVELS[i]), 4.0 * (LEVELS[i + 1] - LEVELS[i])

    def f(t, y, theta, dy):
        dy[0] = -theta[0] * y[0] + pieces(t)[0]

    def f_jvp(t, y, theta, t_tan, y_tan, theta_tan, dy_tan):
        dy_tan[0] = -theta[0] * y_tan[0] - theta_tan[0] * y[0] + pieces(t)[1] * t_tan

    def f_vjp(t, y, theta, dy_bar, t_bar, y_bar, theta_bar):
        y_bar[0] -= theta[0] * dy_bar[0]
        theta_bar[0] -= y[0] * dy_bar[0]
        t_bar[0] += pieces(t)[1] * dy_bar[0]
    return Problem(VectorField(f, f_jvp, f_vjp, n=1, p=1), [1.0], [1.5], (0.0, 2.0), loss=losses.linear([[1.0]]))


def by_truth(problem, **options):
    return {truth: gradient(problem, truth=truth, check_tangent=False, **options).y0[0] if truth == "frozen"
            else gradient(problem, truth=truth, **options).y0[0] for truth in NATURAL}


def complex_step(program):
    x = inputs(program.problem).astype(complex)
    x[0] += 1j * H
    return program.run(x)[1][0].imag / H


def test_three_gradients_at_a_loose_tolerance():
    """Through the step control of the wrong sign and 200 times too large, frozen 6 times, exact near 6.0e-4."""
    problem, options = contracting(), {"rtol": 1e-2, "atol": 1e-2}
    found = by_truth(problem, **options)
    assert found["through"] == pytest.approx(-0.120557, rel=1e-5)
    assert found["frozen"] == pytest.approx(0.00388918, rel=1e-5)
    assert found["exact"] == pytest.approx(0.00102054, rel=1e-5)


def test_each_is_what_it_claims():
    """At that tolerance: complex steps through the adaptive program, differences of the solver, the replay of its steps."""
    problem, options = contracting(), {"rtol": 1e-2, "atol": 1e-2}
    found = by_truth(problem, **options)
    assert found["through"] == pytest.approx(complex_step(AdaptiveProgram(problem, **options)), rel=1e-10)
    eps = 1e-6
    ends = [solve(problem.replace(y0=[1.0 + sign * eps]), **options).y1[0] for sign in (1, -1)]
    assert found["through"] == pytest.approx((ends[0] - ends[1]) / (2.0 * eps), rel=1e-6)
    times = gradients.step_times(problem, options)
    frozen = replay(problem, times, y0=np.array([1.0 + 1j * H]))[1][0].imag / H
    assert found["frozen"] == pytest.approx(frozen, rel=1e-12)


def test_they_converge_together():
    """Over five decades; errors that cancel move the fitted slopes. Below 1e-8 all three agree to 2e-4."""
    problem, tolerances = contracting(), 10.0 ** -np.arange(4.0, 9.1, 0.5)
    truth = gradient(problem, "forward", rtol=1e-12, atol=1e-15).y0[0]
    found = [by_truth(problem, rtol=tol, atol=tol) for tol in tolerances]
    errors = {name: np.abs(np.array([each[name] for each in found]) / truth - 1.0) for name in NATURAL}
    for name in NATURAL:
        assert abs(slope(tolerances, errors[name]) - 1.0) < 0.35, (name, errors[name])
    assert max(errors[name][-1] for name in NATURAL) < 2e-4
    assert np.mean(errors["through"] > errors["frozen"]) > 0.5


def test_through_does_not_converge_over_kinks():
    """Each kink multiplies the dependence of the error on where it lies: 120 times the truth already at 1e-4."""
    problem = polygon()
    truth = np.exp(-3.0)
    for tol, size in ((1e-4, 1e2), (1e-5, 1e3)):
        found = by_truth(problem, rtol=tol, atol=tol)
        assert abs(found["through"]) > size * truth
        assert found["frozen"] == pytest.approx(truth, rel=50.0 * tol)


def test_through_over_kinks_is_the_derivative_of_the_program():
    """Amplified by 120, and by as much again in each size on the way: the confirmation loses digits too."""
    problem, options = polygon(), {"rtol": 1e-4, "atol": 1e-4}
    expected = complex_step(AdaptiveProgram(problem, **options))
    assert by_truth(problem, **options)["through"] == pytest.approx(expected, rel=1e-6)


def test_over_kinks_the_last_bit_of_the_input_decides():
    """At 1e-6 the derivative of the program is made of rounding: it differs between neighbouring numbers y0."""
    problem = polygon()
    found = [gradient(problem.replace(y0=[1.0 + k * 2.0 ** -52]), truth="through", rtol=1e-6, atol=1e-6).y0[0]
             for k in range(6)]
    assert np.ptp(found) > 0.5 * np.max(np.abs(found)) > 10.0
