"""The numerical derivatives of gradcheck: are their values right and their error estimates honest?"""
import math

import numpy as np
import pytest

from refnode.errors import InvalidInputError, InvalidTypeError
from refnode.gradcheck import (complex_step_gradient, complex_step_jvp, dot_product_test, finite_difference_gradient,
                               finite_difference_jvp, finite_difference_sweep, taylor_test)


def random_curve(rng):
    """(f, x, f'(x)): a smooth function of one number, with units of 1e-20 … 1e20 in x and in f."""
    x_unit, f_unit = 10 ** rng.uniform(-20, 20, 2)
    rate, phase, offset = 10 ** rng.uniform(-2, 2), rng.uniform(0, 6), 10 ** rng.uniform(-3, 3)
    curves = [(lambda u: np.sin(rate * u + phase), lambda u: rate * np.cos(rate * u + phase)),
              (lambda u: np.exp(min(rate, 8) * u), lambda u: min(rate, 8) * np.exp(min(rate, 8) * u)),
              (lambda u: 1 / (1 + (rate * u) ** 2), lambda u: -2 * rate**2 * u / (1 + (rate * u) ** 2) ** 2),
              (lambda u: u**3 - 2 * u + offset, lambda u: 3 * u**2 - 2),
              (lambda u: np.log(1 + u**2) + offset, lambda u: 2 * u / (1 + u**2)),
              (lambda u: offset + rate * u, lambda u: rate)]
    value, slope = curves[rng.integers(len(curves))]
    u = rng.uniform(0.2, 3) * rng.choice([-1, 1])
    return (lambda x: f_unit * value(x / x_unit)), x_unit * u, f_unit * slope(u) / x_unit


# --- finite differences ---------------------------------------------------------------------------

@pytest.mark.parametrize("noise", [0.0, 1e-10, 1e-6, 1e-3])
def test_error_estimate_is_honest(noise):
    # The estimate is three root mean squares of measured noise plus neighbour distances in the table. Each
    # noise level is taken from four samples, so a few errors exceed it slightly: at most 2 % may, and none
    # by the factor 10 that a FAIL allows.
    rng = np.random.default_rng(1)
    quotient = []
    for _ in range(200):
        f, x, slope = random_curve(rng)
        found = finite_difference_gradient(lambda x: f(x) * (1 + noise * rng.standard_normal()), x)
        quotient.append(abs(found.value - slope) / found.error)
    assert np.mean(np.array(quotient) <= 1) >= 0.98
    assert max(quotient) < 10


def test_error_is_small_without_noise():
    # Order up to 12 in steps of 1/8 … 1/1024 of x: nine in ten curves, those which turn up to 100 times over
    # |x| among them, within 1e-8 relative; a typical one loses three or four digits of 16 to the steps.
    rng = np.random.default_rng(2)
    relative = []
    for _ in range(150):
        f, x, slope = random_curve(rng)
        found = finite_difference_gradient(f, x)
        relative.append(abs(found.value / slope - 1))
    assert np.median(relative) < 1e-12
    assert np.quantile(relative, 0.9) < 1e-8


def test_noise_level_is_measured():
    # Three root mean squares of four samples, each divided by a bound of its gain: a factor 10 either way.
    rng = np.random.default_rng(3)
    for level in (1e-12, 1e-8, 1e-4):
        found = finite_difference_gradient(lambda x: np.sin(x) + level * rng.standard_normal(), 1.0)
        assert 0.1 * level < found.noise < 10 * level


def test_jacobian_and_jvp_of_an_array_valued_function():
    A = np.arange(6.0).reshape(2, 3)
    x = np.array([1.0, -2.0, 0.5])
    jacobian = finite_difference_gradient(lambda x: A @ x**2, x)
    assert jacobian.value.shape == (2, 3)
    np.testing.assert_allclose(jacobian.value, A * 2 * x, atol=1e-11)
    along = finite_difference_jvp(lambda x: A @ x**2, x, [1.0, 2.0, 3.0])
    np.testing.assert_allclose(along.value, A @ (2 * x * [1, 2, 3]), atol=1e-10)
    assert (np.abs(along.value - A @ (2 * x * [1, 2, 3])) <= along.error).all()


def test_gradient_has_the_shape_of_x():
    x = np.arange(1.0, 7.0).reshape(2, 3)
    assert finite_difference_gradient(lambda x: (x**2).sum(), x).value.shape == (2, 3)
    assert finite_difference_gradient(lambda x: x**2, 3.0).value.shape == ()
    assert finite_difference_gradient(lambda x: 1.0, []).value.shape == (0,)


def test_wide_range_of_units_in_one_point():
    unit = np.array([1e-30, 1.0, 1e30])
    found = finite_difference_gradient(lambda x: np.sin(x / unit).sum(), unit)
    np.testing.assert_allclose(found.value * unit, np.cos(1.0), rtol=1e-11)


def test_small_component_beside_large_ones_gets_their_steps():
    # Steps of 1e-12 would leave an error of 2e-16 / 1e-13 = 2e-3; the steps of the other component leave 1e-14.
    found = finite_difference_gradient(lambda x: np.sin(x[0] + x[1]), [1.0, 1e-12])
    assert found.error[1] < 1e-10
    assert abs(found.value[1] - np.cos(1.0 + 1e-12)) <= found.error[1]


def test_scale_lengthens_the_steps():
    short = finite_difference_gradient(lambda x: np.sin(x), 1e-9)
    long = finite_difference_gradient(lambda x: np.sin(x), 1e-9, scale=1.0)
    assert long.error < 1e-11 < short.error + 1e-11
    assert abs(long.value - 1) < 1e-11


def test_point_outside_the_domain_is_stepped_around():
    # log near the end of its domain: displaced points with x <= 0 are dropped, the others suffice.
    found = finite_difference_gradient(lambda x: np.log(x), 1e-3, scale=0.1)
    np.testing.assert_allclose(found.value, 1e3, rtol=1e-8)


def test_kink_is_seen_in_the_gap_of_the_one_sided_slopes():
    found = finite_difference_gradient(lambda x: abs(x[0]) + 3 * max(x[1], 1.0) + x[2] ** 2, [0.0, 1.0, 1.0])
    np.testing.assert_array_equal(found.one_sided_differ, [True, True, False])
    np.testing.assert_allclose(found.gap[:2], [2.0, 3.0], rtol=1e-10)


def test_function_may_write_into_its_argument():
    def fun(x):
        x *= 2
        return x @ x
    x = np.array([1.0, 2.0])
    np.testing.assert_allclose(finite_difference_gradient(fun, x).value, 8 * x, rtol=1e-11)
    np.testing.assert_array_equal(x, [1.0, 2.0])


@pytest.mark.parametrize("x", [[1, 2], np.array([1, 2], dtype=np.float32), np.array([[1, 0], [2, 0]])[:, 0]])
def test_points_of_other_types_are_cast(x):
    np.testing.assert_allclose(finite_difference_gradient(lambda x: x @ x, x).value, [2.0, 4.0], rtol=1e-12)


@pytest.mark.parametrize("x, error", [("ab", InvalidTypeError), ([1j], InvalidInputError),
                                      ([np.nan], InvalidInputError), ([[1], [1, 2]], InvalidInputError),
                                      (None, InvalidTypeError)])
def test_unusable_points_are_refused(x, error):
    with pytest.raises(error, match="x: expected"):
        finite_difference_gradient(lambda x: 1.0, x)


def test_unusable_functions_are_refused():
    with pytest.raises(InvalidTypeError, match="fun: expected a callable"):
        finite_difference_gradient(3.0, [1.0])
    with pytest.raises(InvalidInputError, match="forgot return"):
        finite_difference_gradient(lambda x: None, [1.0])
    with pytest.raises(InvalidInputError, match="finite"):
        finite_difference_gradient(lambda x: np.nan, [1.0])
    with pytest.raises(InvalidInputError, match="direction"):
        finite_difference_jvp(lambda x: x[0], [1.0], [0.0])
    with pytest.raises(InvalidInputError, match="scale"):
        finite_difference_gradient(lambda x: x[0], [1.0], scale=-1.0)


def test_sweep_is_u_shaped():
    # Truncation h²/6 at the large end (1.7e-3 for h = 0.1), rounding 1e-16/h at the small one, 1e-10 between.
    steps, estimates = finite_difference_sweep(lambda x: np.sin(x[0]), [1.0], [1.0])
    error = np.abs(estimates - np.cos(1.0))
    best = np.argmin(error)
    assert error[best] < 1e-9 and 1e-7 < steps[best] < 1e-3
    assert error[0] > 1e-4 and error[-5:].max() > 1e-5


# --- complex step ---------------------------------------------------------------------------------

def test_complex_step_is_exact_to_rounding():
    def fun(x):
        return np.exp(x[0] * x[1]) / np.sqrt(np.sin(x[0]) ** 3 + np.cos(x[1]) ** 3)

    def gradient(a, b):
        q = np.sin(a) ** 3 + np.cos(b) ** 3
        return np.exp(a * b) / np.sqrt(q) * np.array([b - 1.5 * np.sin(a) ** 2 * np.cos(a) / q,
                                                      a + 1.5 * np.cos(b) ** 2 * np.sin(b) / q])
    # A dozen roundings of 1.1e-16 with condition numbers below ten.
    np.testing.assert_allclose(complex_step_gradient(fun, [1.1, 0.4]), gradient(1.1, 0.4), rtol=1e-14)
    along = complex_step_jvp(fun, [1.1, 0.4], [2.0, -1.0])
    np.testing.assert_allclose(along, gradient(1.1, 0.4) @ [2, -1], rtol=1e-14)


def test_complex_step_of_an_array_valued_function_at_odd_units():
    x = np.array([1e-200, 1e200])
    np.testing.assert_allclose(complex_step_gradient(lambda x: np.array([x[0] ** 1 * 3, x[1] * 5]), x),
                               [[3, 0], [0, 5]], rtol=1e-15)


def discards_imaginary_part(x):
    buffer = np.zeros(1)
    buffer[:] = x.real if not np.iscomplexobj(x) else x
    return buffer[0]


@pytest.mark.parametrize("fun, error, message", [
    (lambda x: float(np.real(x[0])), InvalidInputError, "complex value"),
    (lambda x: abs(x[0]), InvalidInputError, "complex value"),
    (discards_imaginary_part, InvalidInputError, "discards an imaginary part"),
    (lambda x: math.sin(x[0]), InvalidInputError, "discards an imaginary part"),
    (lambda x: math.sin(x.tolist()[0]), InvalidTypeError, "accept complex numbers"),
    (lambda x: np.floor(x[0]), InvalidTypeError, "accept complex numbers")])
def test_function_that_does_not_propagate_complex_numbers_is_refused(fun, error, message):
    with pytest.raises(error, match=message):
        complex_step_gradient(fun, [1.5])


# --- Taylor test ----------------------------------------------------------------------------------

def test_taylor_rates():
    def fun(x):
        return np.exp(x[0]) * np.sin(x[1])
    x = np.array([0.3, 1.2])
    gradient = np.array([np.exp(0.3) * np.sin(1.2), np.exp(0.3) * np.cos(1.2)])
    right, wrong = taylor_test(fun, x, gradient), taylor_test(fun, x, 1.1 * gradient)
    assert right.passed and abs(right.rates[-1] - 2) < 0.1      # 2 + O(h), h = 1/512 at the end
    assert wrong.passed is False and abs(wrong.rates[-1] - 1) < 0.1


def test_taylor_rate_alone_misses_an_error_of_6e_5():
    # The remainder is h²·O(1) + h·6e-5: the second term overtakes below h = 1e-4, the steps end at 2e-3.
    def fun(x):
        return np.sum(np.exp(x))
    x = np.array([0.3, 1.2])
    wrong = np.exp(x) * (1 + 6e-5)
    assert taylor_test(fun, x, wrong).passed
    assert np.max(np.abs(finite_difference_gradient(fun, x).value - wrong)) > 1e-5


def test_taylor_ignores_remainders_at_rounding_level():
    linear = taylor_test(lambda x: 3 * x[0] - x[1], [1.0, 2.0], [3.0, -1.0])
    assert linear.passed and np.isnan(linear.rates).all()
    constant = taylor_test(lambda x: 7.0, [1.0, 2.0], [0.0, 0.0])
    assert constant.passed


# --- dot-product test -----------------------------------------------------------------------------

def test_dot_product_accepts_a_transpose_and_refuses_the_rest():
    rng = np.random.default_rng(4)
    J, v, w = rng.standard_normal((3, 3)), rng.standard_normal(3), rng.standard_normal(3)
    assert dot_product_test(lambda v: J @ v, lambda w: J.T @ w, v, w).passed
    assert not dot_product_test(lambda v: J @ v, lambda w: J @ w, v, w).passed
    assert not dot_product_test(lambda v: J @ v, lambda w: J.T @ w * (1 + 1e-12), v, w).passed


def test_dot_product_is_never_fooled_by_rounding():
    # 2 γ_k scale bounds the rounding of both dense sides, so not one of 300 transposes may fail.
    rng = np.random.default_rng(5)
    for _ in range(300):
        m, n = rng.integers(1, 60, 2)
        J = rng.standard_normal((m, n)) * 10 ** rng.uniform(-8, 8, (m, 1)) * 10 ** rng.uniform(-8, 8, n)
        v, w = rng.standard_normal(n), rng.standard_normal(m)
        assert dot_product_test(lambda v: J @ v, lambda w: J.T @ w, v, w).passed


def test_dot_product_of_structured_inputs():
    rng = np.random.default_rng(6)
    A, b, c = rng.standard_normal((2, 3)), rng.standard_normal(2), rng.standard_normal(4)

    def jvp(v):
        y0, t1, inner = v
        return {"end": A @ y0 + b * t1, "loss": c @ inner["theta"]}

    def vjp(w, sign=1.0):
        return A.T @ w["end"], sign * (b @ w["end"]), {"theta": c * w["loss"]}

    v = (rng.standard_normal(3), 0.7, {"theta": rng.standard_normal(4)})
    w = {"end": rng.standard_normal(2), "loss": 1.3}
    assert dot_product_test(jvp, vjp, v, w).passed
    assert not dot_product_test(jvp, lambda w: vjp(w, sign=-1.0), v, w).passed
    with pytest.raises(InvalidInputError, match=r"vjp\(y_bar\): expected leaves of sizes \[3, 1, 4\]"):
        dot_product_test(jvp, lambda w: vjp(w)[:2], v, w)


def test_dot_product_of_nothing():
    assert dot_product_test(lambda v: np.zeros(2), lambda w: np.zeros(0), np.zeros(0), np.ones(2)).passed
