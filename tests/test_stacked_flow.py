"""Planar, coupling and residual layers: log-determinants against slogdet, inverses, derivatives, Russian roulette."""
import functools
import itertools

import numpy as np
import pytest

from refnode.errors import InvalidInputError
from refnode.gradcheck import finite_difference_jvp
from refnode.layers import log_determinants as series_of
from refnode.layers.parameters import ParameterLayout
from refnode.layers.invertible_residual import LIPSCHITZ, normalised, normalised_jvp, normalised_vjp, residual_parts
from refnode.models.stacked_flow import (
    StackedFlow, coupling_layer, planar_flow, planar_layer, real_nvp, residual_flow, residual_layer, with_series)

BATCH = 4



LAYERS = {   # name -> layer, d, scale of its random parameters
    "planar, d=1": (planar_layer(1), 1, 1.0), "planar, d=3": (planar_layer(3), 3, 1.0),
    "coupling, d=2": (coupling_layer([True, False], 6), 2, 1.0),
    "coupling, d=5": (coupling_layer([False, True, False, True, True], 4), 5, 1.0),
    "residual, d=1": (residual_layer(1, 5), 1, 1.0), "residual, d=3": (residual_layer(3, 6), 3, 1.0),
    "residual, small": (residual_layer(3, 5), 3, 0.15),
    "residual, estimated": (residual_layer(2, 5), 2, 1.0)}
every_layer = pytest.mark.parametrize("name", LAYERS)


class Point:
    """A layer at random samples and parameters, with tangents and cotangents."""

    def __init__(self, name, seed=0):
        self.layer, self.d, scale = LAYERS[name]
        rng = np.random.default_rng([seed, self.d])
        if name.endswith("estimated"):
            series = series_of.roulette_series(rng.choice([-1.0, 1.0], (2, BATCH, self.d)), terms=7)
            forward, jvp, vjp = with_series(series)
            self.layer = type(self.layer)(self.layer.shapes, forward, jvp, vjp, self.layer.inverse)
        self.layout = ParameterLayout(self.layer.shapes)
        self.x, self.x_tan, self.z_bar = rng.standard_normal((3, BATCH, self.d))
        self.theta, self.theta_tan = scale * rng.standard_normal(self.layout.size), rng.standard_normal(self.layout.size)
        self.log_det_bar = rng.standard_normal(BATCH)

    def forward(self, x, theta):
        """z and log_det side by side, (batch, d + 1)."""
        return np.column_stack(self.layer.forward(x, self.layout.unpack(theta)))

    def moved(self, s):
        return self.forward(self.x + s * self.x_tan, self.theta + s * self.theta_tan)

    def jvp(self):
        return np.column_stack(self.layer.jvp(
            self.x, self.layout.unpack(self.theta), self.x_tan, self.layout.unpack(self.theta_tan)))

    def vjp(self, vjp=None):
        x_bar, bars = (vjp or self.layer.vjp)(self.x, self.layout.unpack(self.theta), self.z_bar, self.log_det_bar)
        return np.concatenate([x_bar.ravel(), self.layout.pack(bars)])


def dot_product_error(point, vjp=None):
    left = point.jvp() * np.column_stack([point.z_bar, point.log_det_bar])
    right = np.concatenate([point.x_tan.ravel(), point.theta_tan]) * point.vjp(vjp)
    return abs(left.sum() - right.sum()) / max(np.abs(left).sum(), np.abs(right).sum())


# --- every layer ----------------------------------------------------------------------------------

@pytest.mark.parametrize("name", [name for name in LAYERS if not name.endswith("estimated")])
def test_log_determinant_is_that_of_the_jacobian(name):
    """The Jacobian by complex steps, except where a singular value is no analytic function: there it is x's alone."""
    point = Point(name)
    arrays, columns = point.layout.unpack(point.theta), []
    for e in np.eye(point.d):
        z, _ = point.layer.forward(point.x + 1e-30j * e, arrays)
        columns.append(z.imag / 1e-30)
    sign, expected = np.linalg.slogdet(np.stack(columns, axis=2))
    assert np.all(sign == 1.0)
    np.testing.assert_allclose(point.layer.forward(point.x, arrays)[1], expected, rtol=1e-12, atol=1e-13)


@every_layer
def test_jvp_is_the_derivative(name):
    """By a complex step to rounding; by finite differences, to their error estimate, where a matrix is normalised."""
    point = Point(name)
    found, scale = point.jvp(), np.abs(point.jvp()).max()
    if "residual" not in name or name.endswith("small"):
        np.testing.assert_allclose(found, point.moved(1e-30j).imag / 1e-30, rtol=0.0, atol=1e-13 * scale)
    else:
        expected = finite_difference_jvp(lambda s: point.moved(s[0]), np.zeros(1), np.ones(1), scale=0.1)
        assert expected.error.max() <= 1e-7 * scale
        assert np.all(np.abs(found - expected.value) <= 4.0 * expected.error + 1e-12 * scale)


@every_layer
def test_vjp_is_the_transpose_of_jvp(name):
    for seed in range(3):
        assert dot_product_error(Point(name, seed)) <= 1e-13


@every_layer
def test_inverse_round_trip(name):
    point = Point(name)
    arrays = point.layout.unpack(point.theta)
    z, _ = point.layer.forward(point.x, arrays)
    np.testing.assert_allclose(point.layer.inverse(z, arrays), point.x, rtol=0.0, atol=2e-13)


@every_layer
@pytest.mark.parametrize("mutant", ["log_det ignored", "log_det negated", "one entry off"])
def test_a_wrong_vjp_is_caught(name, mutant):
    point = Point(name)
    def wrong(x, arrays, z_bar, log_det_bar):
        factor = {"log_det ignored": 0.0, "log_det negated": -1.0}.get(mutant, 1.0)
        x_bar, bars = point.layer.vjp(x, arrays, z_bar, factor * log_det_bar)
        if mutant == "one entry off":
            next(iter(bars.values())).flat[0] += 1e-9
        return x_bar, bars
    assert dot_product_error(point, wrong) > 1e-13


# --- residual layers ------------------------------------------------------------------------------

@pytest.mark.parametrize("scale", [0.05, 3.0])
def test_spectral_normalisation_and_its_derivatives(scale):
    rng = np.random.default_rng(0)
    V, V_tan, W_bar = rng.standard_normal((3, 4, 3))
    V = scale * V
    assert np.linalg.norm(normalised(V), 2) <= LIPSCHITZ * (1.0 + 1e-15)
    found = normalised_jvp(V, V_tan)
    expected = finite_difference_jvp(lambda s: normalised(V + s[0] * V_tan), np.zeros(1), np.ones(1), scale=scale)
    assert np.all(np.abs(found - expected.value) <= 4.0 * expected.error + 1e-13)
    left, right = np.sum(found * W_bar), np.sum(V_tan * normalised_vjp(V, W_bar))
    assert abs(left - right) <= 1e-13 * np.sum(np.abs(found * W_bar))


def contraction(seed=0, d=3, batch=BATCH):
    """Jacobians of a residual layer, whose norms are at most LIPSCHITZ²."""
    rng, layout = np.random.default_rng(seed), ParameterLayout(residual_layer(d, 6).shapes)
    return residual_parts(rng.standard_normal((batch, d)), layout.unpack(rng.standard_normal(layout.size)))[3]


def test_the_exact_series_converges_to_slogdet():
    """At the rate of the largest eigenvalue, at most LIPSCHITZ² = 0.94: 1e-12 after 500 terms."""
    J = contraction()
    exact = np.linalg.slogdet(np.eye(3) + J)[1]
    errors = [np.abs(series_of.series_log_determinant(J, *series_of.exact_series(BATCH, 3, terms)) - exact).max()
              for terms in (5, 20, 500)]
    assert errors[0] > errors[1] > errors[2] and errors[2] <= 1e-12


def all_signs(d, batch):
    return np.tile(np.array(list(itertools.product([-1.0, 1.0], repeat=d)))[:, None], (1, batch, 1))


@pytest.mark.parametrize("stop, exact_terms", [(0.5, 2), (0.3, 0)])
def test_russian_roulette_is_unbiased(stop, exact_terms):
    """The expectation over N and over all sign vectors, summed up, is the series cut off at the largest N: no sampling.

    Of N the first 120 numbers are summed; the terms cut off are below 0.47^120.
    """
    J, d, most = 0.5 * contraction(1, batch=1), 3, 120
    probes, expectation, gradient, weight = all_signs(d, 1), 0.0, 0.0, np.ones(1)
    for n in range(1, most + 1):
        chance = stop * (1.0 - stop) ** (n - 1) if n < most else (1.0 - stop) ** (most - 1)
        series = series_of.roulette_series(probes, exact_terms + n, exact_terms, stop)
        expectation = expectation + chance * series_of.series_log_determinant(J, *series)
        gradient = gradient + chance * series_of.series_log_determinant_vjp(J, *series, weight)
    np.testing.assert_allclose(expectation, series_of.log_determinant(J), rtol=0.0, atol=1e-12)
    np.testing.assert_allclose(gradient, series_of.log_determinant_vjp(J, weight), rtol=0.0, atol=1e-12)


def test_drawn_roulettes_agree_with_the_exact_value_within_their_scatter():
    """Four standard errors of 4000 draws; without the division by P(N >= k) the mean is off by more."""
    rng = np.random.default_rng(3)
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    J = (turn * [0.9, 0.8, 0.7] @ turn.T)[None]
    exact = series_of.log_determinant(J)[0]
    drawn, naive = np.empty(4000), np.empty(4000)
    for i in range(4000):
        probes, terms = rng.choice([-1.0, 1.0], (1, 1, 3)), series_of.roulette_terms(rng)
        drawn[i] = series_of.series_log_determinant(J, *series_of.roulette_series(probes, terms))[0]
        naive[i] = series_of.series_log_determinant(J, probes, series_of.alternating(terms))[0]
    assert abs(drawn.mean() - exact) <= 4.0 * drawn.std() / np.sqrt(4000)
    assert abs(naive.mean() - exact) > 4.0 * naive.std() / np.sqrt(4000)


@pytest.mark.parametrize("arguments, message", [
    ((3, 2, 1.0), "stop must lie in"), ((2, 2, 0.5), "terms must exceed exact_terms = 2, found 2")])
def test_roulette_refuses(arguments, message):
    with pytest.raises(InvalidInputError, match=message):
        series_of.roulette_series(np.ones((1, 1, 1)), *arguments)


# --- stacks ---------------------------------------------------------------------------------------

FLOWS = {"planar": functools.partial(planar_flow, 2, 4), "coupling": functools.partial(real_nvp, 2, 4, 8),
         "residual": functools.partial(residual_flow, 2, 3, 8)}


def some_flow(name):
    flow, rng = FLOWS[name](seed=1), np.random.default_rng(2)
    flow.theta = flow.theta + 0.3 * rng.standard_normal(flow.theta.size)
    return flow, rng.standard_normal((6, 2)), rng.standard_normal(flow.theta.size)


@pytest.mark.parametrize("name", FLOWS)
def test_gradient_of_the_mean_likelihood(name):
    flow, x, direction = some_flow(name)
    loss, grad = flow.loss_and_gradient(x)
    assert loss == flow.loss(x) == -np.mean(flow.log_density(x))
    terms = grad * direction
    assert abs(terms.sum() - flow.loss_jvp(x, direction)) <= 1e-13 * np.abs(terms).sum()
    expected = finite_difference_jvp(lambda theta: flow.loss(x, theta), flow.theta, direction)
    assert expected.error <= 1e-6 * np.abs(terms).sum()
    assert abs(terms.sum() - expected.value) <= 4.0 * expected.error


@pytest.mark.parametrize("name", FLOWS)
def test_densities_integrate_to_one_and_samples_have_them(name):
    """By the trapezoidal rule on a square beyond which the density is below 1e-14; the rule converges beyond all orders."""
    flow, _, _ = some_flow(name)
    flow.theta *= 0.5                                           # a density that the grid resolves
    grid = np.linspace(-12.0, 12.0, 301)
    points = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
    assert abs(np.exp(flow.log_density(points)).sum() * (grid[1] - grid[0])**2 - 1.0) <= 1e-6
    x, log_p = flow.sample(50, seed=3)
    np.testing.assert_allclose(flow.to_base(x)[0][-1], np.random.default_rng(3).standard_normal((50, 2)), atol=1e-11)
    np.testing.assert_array_equal(log_p, flow.log_density(x))


@pytest.mark.parametrize("estimated", [False, True])
def test_a_residual_flow_learns(estimated):
    flow = residual_flow(2, 2, 8, estimated=estimated)
    draw = lambda rng: 0.5 + 0.3 * rng.standard_normal((64, 2))
    flow.fit(draw, 150, (0.02, 0.002))
    assert np.mean(flow.history.loss[-20:]) < np.mean(flow.history.loss[:5]) - 0.5


@pytest.mark.parametrize("make, message", [
    (lambda: StackedFlow([], 2), "at least one layer"), (lambda: coupling_layer([True, True], 3), "keep must let some"),
    (lambda: planar_flow(2, 1).log_density(np.ones((3, 3))), r"x must have shape \(batch, 2\), found \(3, 3\)"),
    (lambda: planar_flow(2, 1).log_density(np.ones((0, 2))), "at least one sample"),
    (lambda: planar_flow(2, 1).log_density([[0.0, 1.0], [np.inf, 0.0]]), r"x must be finite, found inf at index \(1, 0\)"),
    (lambda: planar_flow(2, 1).fit(lambda rng: np.ones((2, 2)), 0), "iterations must be a positive integer, found 0")])
def test_bad_input(make, message):
    with pytest.raises(InvalidInputError, match=message):
        make()
