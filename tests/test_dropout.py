"""Dropout: the triple, its form as scaled parameters, and what becomes of the order when the mask is not held."""
import numpy as np
import pytest

import refnode
from refnode.errors import InvalidInputError
from refnode.fields.neural import mlp_field
from refnode.gradcheck import check_gradient
from refnode.layers.activations import ACTIVATIONS
from refnode.layers.dense import dense
from refnode.layers.dropout import (
    dropout, dropout_jvp, dropout_jvp_kernel, dropout_kernel, dropout_mask, dropout_scale, dropout_vjp,
    dropout_vjp_kernel)
from refnode.layers.parameters import initial_parameters, mlp_layout

WIDTHS = (2, 8, 6, 2)


@pytest.mark.parametrize("mask_shape", [(4, 3), (3,)])
def test_the_triple(mask_shape):
    rng = np.random.default_rng(0)
    mask = dropout_mask(rng, mask_shape, 0.4)
    x, x_tan, z_bar = rng.standard_normal((3, 4, 3))
    z_tan, x_bar = dropout_jvp(mask, x_tan), dropout_vjp(mask, z_bar)
    np.testing.assert_allclose(dropout(x + 1e-30j * x_tan, mask).imag / 1e-30, z_tan, rtol=1e-15)
    assert np.sum(z_tan * z_bar) == pytest.approx(np.sum(x_tan * x_bar), rel=1e-14)
    kernel, kernel_tan, kernel_bar = (np.full(12, np.nan), np.full(12, np.nan), np.ones(12))
    dropout_kernel(x.ravel(), mask.ravel(), kernel)
    dropout_jvp_kernel(mask.ravel(), x_tan.ravel(), kernel_tan)
    dropout_vjp_kernel(mask.ravel(), z_bar.ravel(), kernel_bar)                     # adds
    assert np.array_equal(kernel, dropout(x, mask).ravel()) and np.array_equal(kernel_tan, z_tan.ravel())
    assert np.array_equal(kernel_bar, 1.0 + x_bar.ravel())


def test_a_transpose_without_the_scaling_is_caught():
    rng = np.random.default_rng(0)
    mask = dropout_mask(rng, 50, 0.4)
    x_tan, z_bar = rng.standard_normal((2, 50))
    wrong = (mask > 0.0) * z_bar
    assert abs(np.dot(dropout_jvp(mask, x_tan), z_bar) - np.dot(x_tan, wrong)) > 1e-3


def test_masks():
    mask = dropout_mask(np.random.default_rng(1), 100_000, 0.2)
    assert set(mask) == {0.0, 1.25}
    assert np.mean(mask) == pytest.approx(1.0, abs=4 * 0.5 / np.sqrt(100_000))      # four standard errors: variance 1/4
    assert np.all(dropout_mask(np.random.default_rng(1), 10, 0.0) == 1.0)
    with pytest.raises(InvalidInputError, match=r"rate must lie in \[0, 1\), found 1.0"):
        dropout_mask(np.random.default_rng(1), 3, 1.0)


def test_scaled_parameters_drop_units():
    """The perceptron with its hidden activations masked, written out, and the field with scaled parameters."""
    layout, theta = mlp_layout(WIDTHS), initial_parameters(WIDTHS, 0)
    y, sigma = np.array([0.3, -1.1]), ACTIVATIONS["tanh"].form
    scale = dropout_scale(layout, 0.5, np.random.default_rng(3))
    rng, arrays, a = np.random.default_rng(3), layout.unpack(theta), y
    for number in (1, 2):
        a = sigma(dense(a, arrays[f"W{number}"], arrays[f"b{number}"]))
        a = dropout(a, dropout_mask(rng, a.size, 0.5))
    np.testing.assert_allclose(mlp_field(WIDTHS)(0.0, y, scale * theta), dense(a, arrays["W3"], arrays["b3"]), rtol=1e-14)


def test_gradient_with_a_mask():
    """The loss of a solve with dropout as a function of theta, against finite differences."""
    layout, theta = mlp_layout((2, 4, 2)), initial_parameters((2, 4, 2), 0)
    scale, field = dropout_scale(layout, 0.4, np.random.default_rng(1)), mlp_field((2, 4, 2))
    loss = refnode.losses.sum_of_squares()

    def problem(theta):
        return refnode.Problem(field, [1.0, 0.5], scale * theta, loss=loss)
    grad = scale * refnode.gradient(problem(theta), n_steps=8).theta
    check_gradient(lambda theta: loss.value(refnode.solve(problem(theta), n_steps=8).y, None), theta, grad,
                   rtol=1e-8).raise_for_verdict()
    assert 0 < np.count_nonzero(grad == 0.0) < grad.size


# --- one mask a solve, or the order is lost -------------------------------------------------------

STEPS = (4, 8, 16, 32)


def differences(mask_at):
    """Root mean square over 12 draws of the distance between solutions with N and 2N steps of Kutta's method of order 4."""
    layout, theta = mlp_layout((2, 6, 2)), 1.5 * initial_parameters((2, 6, 2), 5)
    plain = mlp_field((2, 6, 2)).numpy_form

    def end(draw, steps):
        scale_at = mask_at(layout, np.random.default_rng([draw, steps]), np.random.default_rng(draw))
        field = refnode.VectorField(lambda t, y, theta: plain(t, y, scale_at() * theta))
        return refnode.solve(refnode.Problem(field, [1.0, -0.5], theta), method="rk4", n_steps=steps).y1

    squares = [[np.sum((end(draw, steps) - end(draw, 2 * steps)) ** 2) for steps in STEPS] for draw in range(12)]
    return np.sqrt(np.mean(squares, axis=0))


def held(layout, rng, rng_of_the_draw):
    scale = dropout_scale(layout, 0.3, rng_of_the_draw)
    return lambda: scale


def resampled(layout, rng, rng_of_the_draw):
    return lambda: dropout_scale(layout, 0.3, rng)


def test_one_mask_a_solve_keeps_the_order_and_a_mask_a_stage_breaks_it():
    """Halving the step: with one mask the error falls by 2^4. With a new mask at every evaluation what is left is the noise of
    a mean over N draws, which falls by 2^(1/2), and the method has no order."""
    kept, broken = (np.polyfit(np.log2(STEPS), -np.log2(differences(mask_at)), 1)[0] for mask_at in (held, resampled))
    assert 3.7 < kept < 4.6
    assert 0.1 < broken < 1.0
