"""Likelihoods, divergences and samples: the battery of every triple, values known otherwise, the Poisson process."""
import math

import numpy as np
import pytest

import refnode
from refnode import likelihoods
from refnode.errors import InvalidInputError
from refnode.fields.field import VectorField
from refnode.gradcheck import finite_difference_gradient
from refnode.host_device import host_device
from refnode.likelihoods import (
    bernoulli_log_likelihood, gaussian_kl, gaussian_log_likelihood, masked_mean_square, poisson_process, reparameterise)
from refnode.problems.problem import Problem

EPS = np.finfo(float).eps
FULL, ROW, COLUMN, NUMBER = (4, 3), (3,), (4, 1), ()
TRIPLES = [                                                    # name, shapes of the arguments: broadcast in all ways
    ("gaussian_log_likelihood", [FULL, FULL, FULL]), ("gaussian_log_likelihood", [FULL, FULL, NUMBER]),
    ("gaussian_log_likelihood", [FULL, ROW, COLUMN]), ("gaussian_log_likelihood", [NUMBER, FULL, ROW]),
    ("bernoulli_log_likelihood", [FULL, FULL]), ("bernoulli_log_likelihood", [FULL, COLUMN]),
    ("gaussian_kl", [FULL, FULL, NUMBER, NUMBER]), ("gaussian_kl", [FULL, ROW, COLUMN, FULL]),
    ("reparameterise", [FULL, FULL, FULL]), ("reparameterise", [ROW, COLUMN, FULL])]
every_triple = pytest.mark.parametrize("name, shapes", TRIPLES)


def parts_of(name):
    return [getattr(likelihoods, name + suffix) for suffix in ("", "_jvp", "_vjp")]


def drawn(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape) for shape in shapes]


def check_transpose(tangent, bar, tangents, bars):
    """<jvp(tangents), bar> = <tangents, vjp(bar)> to 1e-13 of the sizes of the factors."""
    forward, backward = np.sum(tangent * bar), sum(np.sum(t * b) for t, b in zip(tangents, bars, strict=True))
    assert abs(forward - backward) <= 1e-13 * np.linalg.norm(tangent) * np.linalg.norm(bar)


@every_triple
def test_jvp_is_the_complex_step_and_vjp_its_transpose(name, shapes):
    form, jvp, vjp = parts_of(name)
    values, tangents, bar = drawn(shapes), drawn(shapes, seed=1), drawn([FULL], seed=2)[0]
    tangent = jvp(*values, *tangents)
    moved = form(*(value + 1e-30j * tan for value, tan in zip(values, tangents)))
    assert tangent.shape == form(*values).shape == FULL
    np.testing.assert_allclose(tangent, moved.imag / 1e-30, rtol=1e-13, atol=1e-13)
    bars = vjp(*values, bar)
    assert [np.shape(part) for part in bars] == shapes
    check_transpose(tangent, bar, tangents, bars)


@every_triple
def test_a_wrong_vjp_is_caught(name, shapes):
    _, jvp, vjp = parts_of(name)
    values, tangents, bar = drawn(shapes), drawn(shapes, seed=1), drawn([FULL], seed=2)[0]
    for wrong in range(len(shapes)):                           # the sign of one cotangent after the other
        bars = [-part if k == wrong else part for k, part in enumerate(vjp(*values, bar))]
        with pytest.raises(AssertionError):
            check_transpose(jvp(*values, *tangents), bar, tangents, bars)


# --- values ---------------------------------------------------------------------------------------

def test_gaussian_log_likelihood_is_the_logarithm_of_a_density():
    """The trapezoidal rule on a smooth function that vanishes at both ends: exact to rounding."""
    x = np.linspace(-12.0, 12.0, 4001)
    density = np.exp(gaussian_log_likelihood(x, 0.3, math.log(0.7)))
    assert np.sum(density) * (x[1] - x[0]) == pytest.approx(1.0, rel=1e-13)
    assert np.sum(density * (x - 0.3) ** 2) * (x[1] - x[0]) == pytest.approx(0.49, rel=1e-13)


def test_bernoulli_log_likelihood_is_that_of_two_outcomes():
    logit = np.array([-800.0, -3.0, 0.0, 2.5, 800.0])
    one, zero = bernoulli_log_likelihood(1.0, logit), bernoulli_log_likelihood(0.0, logit)
    np.testing.assert_allclose(np.exp(one) + np.exp(zero), 1.0, rtol=4 * EPS)
    np.testing.assert_allclose(one - zero, logit, rtol=4 * EPS)
    assert np.isfinite(one).all() and np.isfinite(zero).all()


def test_divergence_is_the_mean_of_the_difference_of_log_likelihoods():
    x = np.linspace(-14.0, 14.0, 4001)
    own = gaussian_log_likelihood(x, 0.4, -0.5)
    integrand = np.exp(own) * (own - gaussian_log_likelihood(x, -0.2, 0.3))
    assert np.sum(integrand) * (x[1] - x[0]) == pytest.approx(float(gaussian_kl(0.4, -0.5, -0.2, 0.3)), rel=1e-12)
    assert gaussian_kl(0.4, -0.5, 0.4, -0.5) == 0.0


def test_samples_have_the_mean_and_the_deviation():
    noise = np.array([-1.0, 0.0, 2.0])
    np.testing.assert_allclose(reparameterise(0.5, math.log(2.0), noise), [-1.5, 0.5, 4.5], rtol=4 * EPS)


# --- missing entries ------------------------------------------------------------------------------

def test_masked_mean_square():
    x, data, x_tan, data_tan = drawn([FULL] * 4, seed=3)
    observed = np.arange(12).reshape(FULL) % 3 > 0
    data[~observed] = np.nan                                  # what is missing takes no part
    assert masked_mean_square(x, data, observed) == pytest.approx(np.mean((x - data)[observed] ** 2), rel=4 * EPS)
    tangent = likelihoods.masked_mean_square_jvp(x, data, observed, x_tan, data_tan)
    moved = masked_mean_square(x + 1e-30j * x_tan, data + 1e-30j * data_tan, observed).imag / 1e-30
    assert tangent == pytest.approx(moved, rel=1e-13)
    x_bar, data_bar = likelihoods.masked_mean_square_vjp(x, data, observed, 0.7)
    assert np.sum(x_bar * x_tan) + np.sum(data_bar * data_tan) == pytest.approx(0.7 * tangent, rel=1e-13)
    assert not x_bar[~observed].any()
    assert masked_mean_square(x, data, np.zeros(FULL, bool)) == 0.0


# --- Poisson process ------------------------------------------------------------------------------

@host_device
def slope_rate(t, y, theta, tape, dy):
    """y_0' = b, y_1' = 0: the log-intensity a + b t, and a bystander, for each of two processes."""
    dy[0], dy[1], dy[2], dy[3] = theta[0], 0.0, theta[1], 0.0


@host_device
def slope_rate_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
    dy_tan[0], dy_tan[1], dy_tan[2], dy_tan[3] = theta_tan[0], 0.0, theta_tan[1], 0.0


@host_device
def slope_rate_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    theta_bar[0] += dy_bar[0]                                 # dy[0] = theta[0]
    theta_bar[1] += dy_bar[2]                                 # dy[2] = theta[1]


TWO_SLOPES = VectorField(slope_rate, slope_rate_jvp, slope_rate_vjp, name="two slopes", n=4, p=2)
EVENTS, ENDS = np.array([0.2, 0.5, 0.9, 1.7, 1.8]), (0.0, 2.0)
COUNTS = np.array([[1.0, 0.0, 1.0, 2.0, 0.0], [0.0, 0.5, 0.0, 0.5, 1.0]])
START, SLOPES = np.array([0.3, -1.0, -0.2, 4.0]), np.array([0.7, -1.1])


def test_the_intensity_and_its_derivatives():
    """jvp by complex step, vjp its transpose, hvp by complex step of the vjp; bars are added to."""
    y, y_tan = drawn([(6,), (6,)], seed=5)
    g, g_jvp, g_vjp, g_hvp = (getattr(likelihoods, "intensity" + suffix)(2) for suffix in ("", "_jvp", "_vjp", "_hvp"))
    assert g(0.0, y, None) == pytest.approx(np.sum(np.exp(y[::2])), rel=4 * EPS)
    tangent = g_jvp(0.0, y, None, 0.0, y_tan, None)
    assert tangent == pytest.approx(g(0.0, y + 1e-30j * y_tan, None).imag / 1e-30, rel=1e-13)
    y_bar = np.full(6, 2.0)
    g_vjp(0.0, y, None, 0.7, None, y_bar, None)
    assert (y_bar - 2.0) @ y_tan == pytest.approx(0.7 * tangent, rel=1e-13)
    bar, y_bar_tan = np.zeros(6, complex), np.full(6, 3.0)
    g_vjp(0.0, y + 1e-30j * y_tan, None, 0.7 + 0.2e-30j, None, bar, None)
    g_hvp(0.0, y, None, 0.0, y_tan, None, 0.7, 0.2, None, y_bar_tan, None)
    np.testing.assert_allclose(y_bar_tan - 3.0, bar.imag / 1e-30, rtol=1e-12, atol=1e-14)


def log_linear_answers():
    """Loss, derivatives by (a_1, a_2) and by (b_1, b_2) for λ_i = exp(a_i + b_i t), in closed form."""
    a, b, t1 = START[[0, 2]], SLOPES, ENDS[1]
    integral = np.exp(a) * np.expm1(b * t1) / b
    moment = np.exp(a) * (t1 * np.exp(b * t1) / b - np.expm1(b * t1) / b**2)         # ∫ t λ dt
    loss = np.sum(integral) - np.sum(COUNTS * (a[:, None] + b[:, None] * EVENTS))
    return loss, integral - COUNTS.sum(axis=1), moment - COUNTS @ EVENTS


@pytest.mark.parametrize("recipe", ["discrete", "forward", "interpolating", "backsolve"])
def test_poisson_process_with_log_linear_intensity_in_closed_form(recipe):
    """Two processes side by side. The error is that of solves at rtol 1e-10."""
    problem = Problem(TWO_SLOPES, START, SLOPES, ENDS, ts=EVENTS, loss=poisson_process(COUNTS, width=2))
    found = refnode.gradient(problem, recipe, rtol=1e-10, atol=1e-12)
    loss, a_bar, b_bar = log_linear_answers()
    assert found.loss == pytest.approx(loss, rel=1e-9)
    np.testing.assert_allclose(found.y0, [a_bar[0], 0.0, a_bar[1], 0.0], rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(found.theta, b_bar, rtol=1e-8, atol=1e-9)


def test_an_intensity_whose_integral_is_forgotten_is_caught():
    """The gradient of the events alone against finite differences of the whole loss."""
    loss = poisson_process(COUNTS, width=2)

    def value(theta):
        problem = Problem(TWO_SLOPES, START, theta, ENDS, ts=EVENTS, loss=loss)
        return refnode.gradient(problem, n_steps=40).loss

    expected = finite_difference_gradient(value, SLOPES)
    problem = Problem(TWO_SLOPES, START, SLOPES, ENDS, ts=EVENTS, loss=loss)
    right = refnode.gradient(problem, n_steps=40).theta
    assert np.all(np.abs(right - expected.value) <= expected.error + 1e-12)
    wrong = refnode.gradient(problem.replace(loss=loss.first), n_steps=40).theta
    assert np.all(np.abs(wrong - expected.value) > 1e3 * (expected.error + 1e-12))


@pytest.mark.parametrize("counts, message", [
    (np.zeros(3), r"counts must have shape \(batch, K\) with batch > 0, found \(3,\)"),
    (np.zeros((0, 3)), "batch > 0"),
    ([[1.0, -1.0]], r"found counts\[0, 1\] = -1.0"), ([[np.nan, 1.0]], r"found counts\[0, 0\] = nan")])
def test_counts_are_checked(counts, message):
    with pytest.raises(InvalidInputError, match=message):
        poisson_process(counts, width=2)
