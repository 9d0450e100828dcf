"""Continuous normalising flows: closed forms, quadrature, LU of the variational matrix, gradients, bad input."""
import numpy as np
import pytest
import scipy.linalg

import refnode
from layer_battery import Triple, check_mutants, check_triple
from refnode.errors import InvalidInputError
from refnode.fields.taking_over import taken_over
from refnode.gradcheck import finite_difference_jvp
from refnode.models.cnf import CNF, MeanNegativeLogLikelihood
from refnode.models.likelihood import (
    normal_log_density, normal_log_density_hvp, normal_log_density_jvp, normal_log_density_vjp)

TIGHT = {"rtol": 1e-10, "atol": 1e-10}
MODELS = {
    "concat": dict(widths=(2, 8, 2)), "deep": dict(widths=(2, 6, 5, 2), activation="softplus"),
    "hyper": dict(widths=(2, 6, 2), time="hyper", hidden=(4,)), "3-D": dict(widths=(3, 6, 3), time="none")}
every_model = pytest.mark.parametrize("name", MODELS)


def some_cnf(name, **options):
    model, rng = CNF(**{**MODELS[name], **options}), np.random.default_rng(1)
    model.theta = model.theta + 0.2 * rng.standard_normal(model.theta.size)
    return model, rng.standard_normal((5, model.d))


# --- densities ------------------------------------------------------------------------------------

def test_a_linear_flow_has_the_density_of_a_normal():
    """z' = W z + b from N(0, I): at time 1 normal with mean ∫ exp(W s) b and covariance exp(W) exp(W)ᵀ."""
    model = CNF((2, 2), time="none")
    W, b = np.array([[0.3, -0.8], [0.5, -0.4]]), np.array([0.7, -0.2])
    model.theta = np.concatenate([W.ravel(), b])
    flow = scipy.linalg.expm(np.block([[W, b[:, None]], [np.zeros((1, 3))]]))
    Phi, mean = flow[:2, :2], flow[:2, 2]
    x = np.random.default_rng(0).standard_normal((6, 2))
    z = np.linalg.solve(Phi, (x - mean).T).T
    expected = normal_log_density(z) - np.trace(W)
    np.testing.assert_allclose(model.log_density(x, **TIGHT), expected, rtol=0.0, atol=1e-9)
    found, _ = model.to_base(x, **TIGHT)
    np.testing.assert_allclose(found, z, rtol=0.0, atol=1e-9)


@every_model
def test_log_determinant_is_the_lu_of_the_variational_matrix(name):
    """Φ(T, 0) by the variational equation, sample by sample, and slogdet: within 100 tolerances of 1e-10."""
    model, z = some_cnf(name)
    x, log_p = model.transport(z, [model.t1], **TIGHT)
    for i in range(len(z)):
        problem = refnode.Problem(model.field(1), np.append(z[i], 0.0), model.theta, (0.0, model.t1))
        columns = [refnode.jvp(problem, np.append(e, 0.0), sensitivity="forward", **TIGHT)[:model.d, 0]
                   for e in np.eye(model.d)]
        sign, log_det = np.linalg.slogdet(np.array(columns).T)
        assert sign == 1.0
        assert abs((log_p[0, i] - normal_log_density(z[i:i + 1])[0]) + log_det) <= 1e-8
    np.testing.assert_allclose(model.log_density(x[0], **TIGHT), log_p[0], rtol=0.0, atol=1e-8)


@pytest.mark.parametrize("name", ["concat", "deep", "hyper"])
def test_densities_integrate_to_one(name):
    """By the trapezoidal rule, which for smooth decaying functions converges beyond all orders: to 1e-6, tolerance 1e-8."""
    model, _ = some_cnf(name)
    grid = np.linspace(-9.0, 9.0, 101)
    points = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
    p = np.exp(model.log_density(points, rtol=1e-8, atol=1e-8))
    assert abs(p.sum() * (grid[1] - grid[0])**2 - 1.0) <= 1e-6
    base = np.exp(normal_log_density(points))
    assert np.abs(p - base).max() > 0.02                         # and it is not the base


def test_samples_have_the_densities_that_come_with_them():
    model, _ = some_cnf("concat")
    x, log_p = model.sample(40, seed=2, **TIGHT)
    np.testing.assert_allclose(model.log_density(x, **TIGHT), log_p, rtol=0.0, atol=1e-8)
    path, _ = model.transport(np.random.default_rng(2).standard_normal((40, 2)), [0.0, 0.5, 1.0], **TIGHT)
    np.testing.assert_allclose(path[-1], x, rtol=0.0, atol=1e-9)


# --- the loss -------------------------------------------------------------------------------------

def base_density():
    return Triple(
        form=normal_log_density, jvp=lambda x, x_tan: normal_log_density_jvp(x["z"], x_tan["z"]),
        vjp=lambda x, y_bar: {"z": normal_log_density_vjp(x["z"], y_bar)},
        hvp=lambda x, x_tan, y_bar, y_bar_tan: {"z": normal_log_density_hvp(x["z"], x_tan["z"], y_bar, y_bar_tan)},
        x={"z": np.random.default_rng(3).standard_normal((4, 3))})


def mean_loss():
    loss, ys = MeanNegativeLogLikelihood(4, 3), np.empty((16, 0))
    return Triple(
        form=lambda y1: loss.value(ys, y1), jvp=lambda x, x_tan: loss.jvp(ys, x["y1"], ys, x_tan["y1"]),
        vjp=lambda x, y_bar: {"y1": y_bar * loss.vjp(ys, x["y1"])[1]},
        hvp=lambda x, x_tan, y_bar, y_bar_tan: {"y1": y_bar_tan * loss.vjp(ys, x["y1"])[1]
                                                + y_bar * loss.hvp(ys, x["y1"], ys, x_tan["y1"])[1]},
        x={"y1": np.random.default_rng(4).standard_normal(16)})


@pytest.mark.parametrize("make", [base_density, mean_loss])
def test_the_base_density_and_the_loss_pass_the_battery_and_mutants_do_not(make):
    check_triple(make())
    check_mutants(make())


# --- gradients ------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, trace", [("concat", "exact"), ("deep", "exact"), ("hyper", "exact"),
                                         ("concat", "hutchinson"), ("hyper", "hutchinson")])
def test_gradient_against_finite_differences(name, trace):
    """With given steps the discrete gradient is exact: within the error estimate of the differences."""
    model, x = some_cnf(name, trace=trace, probes=2)
    probes = model.draw_probes(len(x), np.random.default_rng(4))
    model.options = {"n_steps": 5}
    direction = np.random.default_rng(5).standard_normal(model.theta.size)
    found = model.gradient(x, probes).theta @ direction
    loss = lambda theta: model.gradient(x, probes, theta).loss
    expected = finite_difference_jvp(loss, model.theta, direction, scale=0.3)
    assert expected.error <= 1e-7 * abs(found) and abs(found - expected.value) <= 4.0 * expected.error


@pytest.mark.parametrize("recipe", ["discrete", "interpolating", "backsolve", "checkpointed"])
def test_every_kind_of_recipe_gives_the_same_gradient(recipe):
    model, x = some_cnf("concat", **TIGHT)
    expected = model.gradient(x).theta
    model.recipe = recipe
    np.testing.assert_allclose(model.gradient(x).theta, expected, rtol=0.0, atol=1e-6 * np.abs(expected).max())


def test_hessian_vector_product_is_the_derivative_of_the_gradient():
    model, x = some_cnf("concat")
    direction = np.random.default_rng(6).standard_normal(model.theta.size)
    found = refnode.hvp(model.problem(x), theta_tan=direction, n_steps=4).theta
    model.options = {"n_steps": 4}
    expected = finite_difference_jvp(lambda theta: model.gradient(x, theta=theta).theta, model.theta, direction, scale=0.3)
    scale = np.abs(found).max()
    assert expected.error.max() <= 1e-7 * scale
    assert np.all(np.abs(found - expected.value) <= 4.0 * expected.error + 1e-12 * scale)


def test_noise_is_the_same_for_the_whole_solve_and_another_for_the_next():
    model, x = some_cnf("concat", trace="hutchinson")
    rng = np.random.default_rng(7)
    first, second = (model.draw_probes(len(x), rng) for _ in range(2))
    assert first.shape == (1, 5, 2) and np.any(first != second)
    assert model.gradient(x, first).loss == model.gradient(x, first).loss != model.gradient(x, second).loss


@pytest.mark.parametrize("name", ["concat", "hyper"])
def test_storage_that_was_taken_over_holds_the_new_noise(name):
    """Gradients one after the other, with other noise each, equal those of models that had no other before: bit for bit."""
    model, x = some_cnf(name, trace="hutchinson", probes=2)
    noises = [model.draw_probes(len(x), np.random.default_rng(k)) for k in range(4)]
    found = [model.gradient(x, probes) for probes in noises]
    fields = [model.field(len(x), probes) for probes in noises[:2]]
    assert fields[0].idle_storage == [] and len(fields[1].idle_storage) == 1
    for probes, gradient in zip(noises, found):
        alone = some_cnf(name, trace="hutchinson", probes=2)[0].gradient(x, probes)
        np.testing.assert_array_equal(gradient.theta, alone.theta)
        assert gradient.loss == alone.loss
    assert taken_over(fields[0], model.field(len(x) + 1, np.ones((2, len(x) + 1, model.d)))) is fields[0]
    assert fields[0].idle_storage == []                          # other sizes: nothing was taken


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_it_learns(trace):
    """Data N((1, 0), 1/4): the mean negative log-likelihood falls from 2.6 to about its least, 1.45; the same for a seed."""
    draw = lambda rng: np.array([1.0, 0.0]) + 0.5 * rng.standard_normal((64, 2))
    models = [CNF((2, 8, 2), trace=trace, rtol=1e-4, atol=1e-4).fit(draw, 80, (0.03, 0.003), seed=1) for _ in range(2)]
    losses = models[0].history.loss
    assert losses[0] > 2.2 and np.mean(losses[-10:]) < 1.75
    np.testing.assert_array_equal(models[0].theta, models[1].theta)


# --- bad input ------------------------------------------------------------------------------------

@pytest.mark.parametrize("make, message", [
    (lambda: CNF(time="fourier"), "time must be one of .*, found 'fourier'"),
    (lambda: CNF(trace="stochastic"), "trace must be one of .*, found 'stochastic'"),
    (lambda: CNF(probes=0), "probes must be a positive integer, found 0"),
    (lambda: CNF(recipe="magic"), "sensitivity must be one of"),
    (lambda: CNF((2, 4, 3)), "widths must begin and end"),
    (lambda: CNF(trace="hutchinson", noise="cauchy").draw_probes(1, np.random.default_rng(0)), "noise must be one of"),
    (lambda: CNF().log_density(np.ones((2, 3))), r"x must have shape \(batch, 2\), found \(2, 3\)"),
    (lambda: CNF().gradient(np.empty((0, 2))), "x must hold at least one sample, found none"),
    (lambda: CNF().log_density([[0.0, np.nan]]), r"x must be finite, found nan at index \(0, 1\)"),
    (lambda: CNF().transport(np.ones((1, 2)), [0.0, 2.0]), "ts")])
def test_bad_input(make, message):
    with pytest.raises(InvalidInputError, match=message):
        make()
