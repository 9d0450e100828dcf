"""Perceptrons that carry the cost of their dynamics: against their definitions, complex steps and their transposes."""
import itertools

import numpy as np
import pytest

import refnode
from refnode.errors import InvalidInputError
from refnode.fields.neural import mlp_field
from refnode.fields.regularised import COSTS, regularised_mlp
from refnode.gradcheck import check_gradient
from refnode.layers.parameters import mlp_layout

EPS, STEP = np.finfo(np.float64).eps, 1e-30
CASES = [(widths, cost, batch, time_input) for cost in COSTS
         for widths, batch, time_input in [((1, 3, 1), 2, True), ((2, 4, 3, 2), 3, True), ((3, 3), 2, False), ((2, 5, 2), 1, False)]]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))


class Point:
    """A field, a random point, tangents and a cotangent at it, and the tape after ``f`` there."""

    def __init__(self, case, seed=0):
        self.field = field = regularised_mlp(*case)
        rng = np.random.default_rng(seed)
        self.t, self.t_tan = rng.standard_normal(2)
        self.y, self.y_tan, self.dy_bar = rng.standard_normal((3, field.n))
        self.theta, self.theta_tan = rng.standard_normal((2, field.p))
        self.tape, self.dy = field.new_tape(1)[0], np.full(field.n, np.nan)
        field.f(self.t, self.y, self.theta, self.tape, self.dy)

    def jvp(self, jvp=None):
        dy_tan = np.full(self.field.n, np.nan)
        (jvp or self.field.jvp)(self.t, self.y, self.theta, self.t_tan, self.y_tan, self.theta_tan, self.tape, dy_tan)
        return dy_tan

    def vjp(self, before=0.0):
        """t_bar, y_bar, theta_bar: what is added to bars that hold ``before``."""
        bars = [np.full(size, before) for size in (1, self.field.n, self.field.p)]
        self.field.vjp(self.t, self.y, self.theta, self.tape, self.dy_bar, *bars)
        return [bar - before for bar in bars]

    def complex_step(self):
        return self.field.numpy_form(self.t + STEP * 1j * self.t_tan, self.y + STEP * 1j * self.y_tan,
                                     self.theta + STEP * 1j * self.theta_tan).imag / STEP

    def mismatch(self):
        """|<jvp, dy_bar> - <tangents, vjp>|, relative to the sum of the magnitudes."""
        tangents = np.concatenate([[self.t_tan], self.y_tan, self.theta_tan])
        forward, reverse = self.jvp() * self.dy_bar, np.concatenate(self.vjp()) * tangents
        return abs(forward.sum() - reverse.sum()) / max(np.abs(forward).sum(), np.abs(reverse).sum())


# --- what it is -----------------------------------------------------------------------------------

def flow(case):
    """f(t, y) of the perceptron without costs, valid for complex numbers, and the weights, at the point of the case."""
    widths, _, batch, time_input = case
    plain, point = mlp_field(widths, batch=batch, time_input=time_input), Point(case)
    return plain, point, point.theta[:plain.p]


@every_case
def test_y_moves_as_without_the_cost(case):
    plain, point, theta = flow(case)
    np.testing.assert_allclose(point.dy[:-1], plain(point.t, point.y[:-1], theta), rtol=1e-13, atol=1e-14)


@every_case
def test_the_cost_is_its_definition(case):
    """d/dt along the path by complex steps: d2y/dt2 = d/dt f(t, y + t f); d3y/dt3 by a central difference of that."""
    widths, cost, batch, time_input = case
    plain, point, theta = flow(case)
    y = point.y[:-1]

    def second(t, y):
        rate = plain.numpy_form(t, y, theta)
        return plain.numpy_form(t + STEP * 1j, y + STEP * 1j * rate, theta).imag / STEP

    if cost == "taylor3":                                           # along the path to second order, which is all it needs
        f, h = plain.numpy_form(point.t, y, theta), 1e-3
        ahead, back = (second(point.t + s, y + s * f + 0.5 * s * s * second(point.t, y)) for s in (h, -h))
        near, nearer = (ahead - back) / (2 * h), None
        ahead, back = (second(point.t + s, y + s * f + 0.5 * s * s * second(point.t, y)) for s in (h / 2, -h / 2))
        nearer = (ahead - back) / h
        vector, rtol = (4.0 * nearer - near) / 3.0, 1e-7
    elif cost == "jacobian":
        noise = point.theta[plain.p:]
        vector, rtol = plain.numpy_form(point.t + 0j, y + STEP * 1j * noise, theta).imag / STEP, 1e-12
    else:
        vector, rtol = (plain.numpy_form(point.t, y, theta) if cost == "kinetic" else second(point.t, y)), 1e-12
    assert point.dy[-1] == pytest.approx(np.sum(vector ** 2) / batch, rel=rtol)


def test_over_all_signs_the_jacobian_cost_is_the_squared_frobenius_norm():
    """The mean over all Rademacher vectors of |J e|^2 is sum of J_ij^2, to rounding."""
    widths, d = (3, 5, 3), 3
    field, plain = regularised_mlp(widths, "jacobian"), mlp_field(widths, time_input=True)
    rng = np.random.default_rng(1)
    y, theta = rng.standard_normal(d), rng.standard_normal(plain.p)
    jac = np.array([plain.numpy_form(0.3 + 0j, y + STEP * 1j * e, theta).imag / STEP for e in np.eye(d)])
    costs = [field(0.3, np.append(y, 0.0), np.append(theta, signs))[-1] for signs in itertools.product([-1.0, 1.0], repeat=d)]
    assert np.mean(costs) == pytest.approx(np.sum(jac ** 2), rel=1e-13)


# --- its derivatives ------------------------------------------------------------------------------

@every_case
def test_f_equals_the_numpy_form(case):
    point = Point(case)
    np.testing.assert_allclose(point.dy, point.field.numpy_form(point.t, point.y, point.theta), rtol=1e-13, atol=1e-13)


@every_case
def test_jvp_is_the_complex_step_derivative(case):
    point = Point(case)
    expected = point.complex_step()
    np.testing.assert_allclose(point.jvp(), expected, rtol=1e-12, atol=1e-13 * np.abs(expected).max())


@every_case
def test_vjp_is_the_transpose_of_jvp(case):
    for seed in range(3):
        assert Point(case, seed).mismatch() < 1e-13


@every_case
def test_vjp_adds_to_its_bars_and_leaves_the_tape_usable(case):
    point = Point(case)
    first = point.vjp()
    point.jvp()
    for bar, again, added in zip(first, point.vjp(), point.vjp(before=1.0)):
        np.testing.assert_array_equal(again, bar)
        np.testing.assert_allclose(added, bar, rtol=1e-13, atol=1e-13 * np.abs(bar).max(initial=1.0))


@pytest.mark.parametrize("cost", ["taylor2", "taylor3"])
def test_a_derivative_that_forgets_the_last_sweep_is_caught(cost):
    """The triple of the next lower cost transposes itself, and the complex step says that it is of another function."""
    lower = {"taylor2": "kinetic", "taylor3": "taylor2"}[cost]
    right, wrong = Point(((2, 4, 2), cost, 2, True)), Point(((2, 4, 2), lower, 2, True))
    assert wrong.mismatch() < 1e-13
    assert abs(wrong.jvp() - right.complex_step())[-1] > 1e-3 * abs(right.complex_step()[-1])


def test_a_transpose_with_a_wrong_sign_of_one_weight_is_caught():
    point = Point(((2, 4, 2), "taylor3", 2, True))
    bars = point.vjp()
    bars[2][0] = -bars[2][0]
    point.vjp = lambda: bars
    assert point.mismatch() > 1e-6


@pytest.mark.parametrize("recipe", ["discrete", "interpolating"])
@pytest.mark.parametrize("cost", COSTS)
def test_gradient_of_a_solve_with_the_cost_in_its_loss(cost, recipe):
    """y and q together in the loss; against finite differences, with frozen steps or at tight tolerances."""
    widths, batch = (2, 4, 2), 3
    field = regularised_mlp(widths, cost, batch)
    rng = np.random.default_rng(2)
    options = {"n_steps": 8} if recipe == "discrete" else {"rtol": 1e-11, "atol": 1e-13}
    y0, theta = np.append(rng.standard_normal(6), 0.0), 0.7 * rng.standard_normal(field.p)
    weights = np.append(rng.standard_normal(6), 0.5)
    loss = refnode.losses.terminal(lambda y1: float(weights @ y1), lambda y1: weights)

    def value(theta):
        return loss.value(None, refnode.solve(refnode.Problem(field, y0, theta, loss=loss), **options).y1)
    found = refnode.gradient(refnode.Problem(field, y0, theta, loss=loss), recipe, **options)
    check_gradient(value, theta, found.theta, rtol=1e-7).raise_for_verdict()


def test_parameters_are_those_of_the_perceptron():
    assert regularised_mlp((2, 4, 2), "taylor2").p == mlp_layout((2, 4, 2), True).size
    assert regularised_mlp((2, 4, 2), "jacobian", batch=3).p == mlp_layout((2, 4, 2), True).size + 6


@pytest.mark.parametrize("arguments, message", [
    (((2, 4, 3), "kinetic"), "found 2 and 3"), (((2, 4, 2), "energy"), "cost must be one of"),
    (((2, 4, 2), "kinetic", 0), "batch must be a positive integer"),
])
def test_the_constructor_checks_its_arguments(arguments, message):
    with pytest.raises(InvalidInputError, match=message):
        regularised_mlp(*arguments)
