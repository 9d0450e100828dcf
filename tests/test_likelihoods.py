"""Likelihoods, divergences and samples: the battery of every triple, values known otherwise, the Poisson process."""
import inspect
import math

import numpy as np
import pytest

import refnode
from layer_battery import (
    EPS, ROUNDING, Triple, check_hvp_mutants, check_mutants, check_triple, complex_step_error, dot_product_error,
    hvp_by_differences_error, hvp_error, symmetry_error)
from refnode import likelihoods
from refnode.errors import InvalidInputError
from refnode.fields.field import VectorField
from refnode.gradcheck import finite_difference_gradient
from refnode.host_device import host_device
from refnode.likelihoods import (
    bernoulli_log_likelihood, gaussian_kl, gaussian_log_likelihood, masked_mean_square, poisson_process, reparameterise)
from refnode.problems.problem import Problem

FULL, ROW, COLUMN, NUMBER = (4, 3), (3,), (4, 1), ()
TRIPLES = [                                                    # name, shapes of the arguments: broadcast in all ways
    ("gaussian_log_likelihood", [FULL, FULL, FULL]), ("gaussian_log_likelihood", [FULL, FULL, NUMBER]),
    ("gaussian_log_likelihood", [FULL, ROW, COLUMN]), ("gaussian_log_likelihood", [NUMBER, FULL, ROW]),
    ("bernoulli_log_likelihood", [FULL, FULL]), ("bernoulli_log_likelihood", [FULL, COLUMN]),
    ("gaussian_kl", [FULL, FULL, NUMBER, NUMBER]), ("gaussian_kl", [FULL, ROW, COLUMN, FULL]),
    ("reparameterise", [FULL, FULL, FULL]), ("reparameterise", [ROW, COLUMN, FULL])]
every_triple = pytest.mark.parametrize("name, shapes", TRIPLES)


def drawn(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape) for shape in shapes]


def triple_of(name, shapes):
    """A likelihood, divergence or sample at a random point, its arguments named as they are."""
    form, jvp, vjp, hvp = (getattr(likelihoods, name + suffix) for suffix in ("", "_jvp", "_vjp", "_hvp"))
    return Triple(form, lambda x, x_tan: jvp(*x.values(), *x_tan.values()),
                  lambda x, bar: dict(zip(x, vjp(*x.values(), bar), strict=True)),
                  dict(zip(inspect.signature(form).parameters, drawn(shapes), strict=True)),
                  lambda x, x_tan, *bars: dict(zip(x, hvp(*x.values(), *x_tan.values(), *bars), strict=True)), seed=1)


@every_triple
def test_triples(name, shapes):
    triple = triple_of(name, shapes)
    check_triple(triple)
    assert symmetry_error(triple) <= ROUNDING and hvp_by_differences_error(triple) <= 1.0
    x_tan, bar, bar_tan = triple.directions()
    assert [np.shape(part) for part in triple.vjp(triple.x, bar).values()] == shapes
    assert [np.shape(part) for part in triple.hvp(triple.x, x_tan, bar, bar_tan).values()] == shapes


@every_triple
def test_wrong_derivatives_are_caught(name, shapes):
    check_mutants(triple_of(name, shapes))
    check_hvp_mutants(triple_of(name, shapes))


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
    x, data = drawn([FULL] * 2, seed=3)
    observed = np.arange(12).reshape(FULL) % 3 > 0
    missing = np.where(observed, data, np.nan)                 # what is missing takes no part
    assert masked_mean_square(x, missing, observed) == pytest.approx(np.mean((x - data)[observed] ** 2), rel=4 * EPS)
    assert not likelihoods.masked_mean_square_vjp(x, missing, observed, 0.7)[0][~observed].any()
    assert masked_mean_square(x, data, np.zeros(FULL, bool)) == 0.0
    triple = Triple(
        lambda x, data: masked_mean_square(x, data, observed),
        lambda x, x_tan: likelihoods.masked_mean_square_jvp(x["x"], x["data"], observed, x_tan["x"], x_tan["data"]),
        lambda x, bar: dict(zip(x, likelihoods.masked_mean_square_vjp(x["x"], x["data"], observed, bar), strict=True)),
        {"x": x, "data": data},
        lambda x, x_tan, *bars: dict(zip(x, likelihoods.masked_mean_square_hvp(
            x["x"], x["data"], observed, x_tan["x"], x_tan["data"], *bars), strict=True)))
    check_triple(triple)
    check_hvp_mutants(triple)


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
    """In plain Python; bars begin at 2 and 3, to which is added."""
    g, g_jvp, g_vjp, g_hvp = (getattr(likelihoods, "intensity" + suffix)(2) for suffix in ("", "_jvp", "_vjp", "_hvp"))

    def vjp(x, g_bar):
        y_bar = np.full(6, 2.0, np.result_type(x["y"], g_bar))
        g_vjp(0.0, x["y"], None, g_bar, None, y_bar, None)
        return {"y": y_bar - 2.0}

    def hvp(x, x_tan, g_bar, g_bar_tan):
        y_bar_tan = np.full(6, 3.0)
        g_hvp(0.0, x["y"], None, 0.0, x_tan["y"], None, g_bar, g_bar_tan, None, y_bar_tan, None)
        return {"y": y_bar_tan - 3.0}

    triple = Triple(lambda y: g(0.0, y, None), lambda x, x_tan: g_jvp(0.0, x["y"], None, 0.0, x_tan["y"], None), vjp,
                    {"y": drawn([(6,)], seed=5)[0]}, hvp)
    assert triple.form(**triple.x) == pytest.approx(np.sum(np.exp(triple.x["y"][::2])), rel=4 * EPS)
    assert complex_step_error(triple) <= ROUNDING and dot_product_error(triple) <= ROUNDING
    assert hvp_error(Triple(triple.form, triple.jvp, zero_based(g_vjp), triple.x, hvp)) <= ROUNDING
    assert dot_product_error(triple, lambda x, bar: {"y": vjp(x, bar)["y"][::-1]}) > ROUNDING


def zero_based(g_vjp):
    """The vjp of the intensity with bars that begin at 0, as a complex step needs, which a 2 would drown."""
    def vjp(x, g_bar):
        y_bar = np.zeros(6, np.result_type(x["y"], g_bar))
        g_vjp(0.0, x["y"], None, g_bar, None, y_bar, None)
        return {"y": y_bar}
    return vjp


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
