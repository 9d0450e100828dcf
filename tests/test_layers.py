"""Layers and parameters: the dense triple, the products under it, layouts and initial values."""
import itertools

import numpy as np
import pytest

from refnode.errors import InvalidInputError
from refnode.layers.dense import (dense, dense_jvp, dense_jvp_kernel, dense_kernel, dense_vjp,
                                  dense_vjp_kernel, matmul_add, matmul_add_blas, matmul_add_loops)
from refnode.layers.parameters import ParameterLayout, initial_parameters, mlp_layout

EPS = np.finfo(float).eps
SIZES = [(1, 1, 1), (1, 3, 2), (4, 1, 1), (4, 1, 5), (3, 5, 1), (7, 4, 4), (33, 16, 9)]   # batch, d_in, d_out


def random_layer(batch, d_in, d_out, seed=0):
    """x, W, b, tangents of the three, and a cotangent of z."""
    rng = np.random.default_rng(seed)
    shapes = [(batch, d_in), (d_out, d_in), (d_out,)]
    return [rng.standard_normal(shape) for shape in shapes + shapes + [(batch, d_out)]]


def check_dense_vjp(vjp, batch, d_in, d_out):
    """<jvp(tangents), z_bar> = <tangents, vjp(z_bar)>, to the rounding of sums of that many terms."""
    x, W, b, x_tan, W_tan, b_tan, z_bar = random_layer(batch, d_in, d_out)
    bars = vjp(x, W, z_bar)
    forward = np.sum(dense_jvp(x, W, x_tan, W_tan, b_tan) * z_bar)
    backward = sum(np.sum(tan * bar) for tan, bar in zip((x_tan, W_tan, b_tan), bars))
    magnitude = np.sum(dense_jvp(*map(np.abs, (x, W, x_tan, W_tan, b_tan))) * np.abs(z_bar))
    assert abs(forward - backward) <= EPS * (batch + d_in + d_out + 4) * magnitude


def vjp_by_kernel(x, W, z_bar):
    """`dense_vjp` out of `dense_vjp_kernel`, through bars that are not zero beforehand."""
    bars = [np.full(x.size, 1.0), np.full(W.size, 2.0), np.full(W.shape[0], 3.0)]
    dense_vjp_kernel(x.shape[0], x.ravel(), W.ravel(), z_bar.ravel(), *bars)
    return (bars[0] - 1.0).reshape(x.shape), (bars[1] - 2.0).reshape(W.shape), bars[2] - 3.0


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("vjp", [dense_vjp, vjp_by_kernel])
def test_dense_vjp_is_the_transpose_of_its_jvp(vjp, sizes):
    check_dense_vjp(vjp, *sizes)


def vjp_without_bias(x, W, z_bar):
    return z_bar @ W, z_bar.T @ x, np.zeros(W.shape[0])


def vjp_with_W_for_its_transpose(x, W, z_bar):
    return z_bar @ W.T, z_bar.T @ x, z_bar.sum(axis=0)


def vjp_of_the_mean_over_the_batch(x, W, z_bar):
    return z_bar @ W, z_bar.T @ x / len(x), z_bar.sum(axis=0)


@pytest.mark.parametrize(
    "wrong", [vjp_without_bias, vjp_with_W_for_its_transpose, vjp_of_the_mean_over_the_batch])
def test_a_wrong_dense_vjp_is_caught(wrong):
    with pytest.raises(AssertionError):
        check_dense_vjp(wrong, 7, 4, 4)


@pytest.mark.parametrize("sizes", SIZES)
def test_dense_jvp_is_the_complex_step_derivative(sizes):
    x, W, b, x_tan, W_tan, b_tan, _ = random_layer(*sizes)
    step = 1e-30j
    complex_step = dense(x + step * x_tan, W + step * W_tan, b + step * b_tan).imag / 1e-30
    np.testing.assert_allclose(dense_jvp(x, W, x_tan, W_tan, b_tan), complex_step, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("sizes", SIZES)
def test_dense_kernels_equal_the_numpy_forms(sizes):
    x, W, b, x_tan, W_tan, b_tan, z_bar = random_layer(*sizes)
    flat = [array.ravel() for array in (x, W, x_tan, W_tan)]
    z, z_tan = np.full((2, z_bar.size), np.nan)
    dense_kernel(sizes[0], flat[0], flat[1], b, z)
    dense_jvp_kernel(sizes[0], *flat, b_tan, z_tan)
    np.testing.assert_allclose(z, dense(x, W, b).ravel(), rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(z_tan, dense_jvp(x, W, x_tan, W_tan, b_tan).ravel(), rtol=1e-13, atol=1e-13)
    for found, expected in zip(vjp_by_kernel(x, W, z_bar), dense_vjp(x, W, z_bar)):
        np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("product", [matmul_add, matmul_add_loops, matmul_add_blas])
def test_products_accumulate_for_every_transposition_and_size(product):
    rng = np.random.default_rng(1)
    for m, n, k in [(1, 1, 1), (1, 5, 3), (5, 1, 3), (5, 3, 1), (4, 4, 4), (17, 9, 33)]:
        a, b, c = (rng.standard_normal(shape) for shape in ((m, k), (k, n), (m, n)))
        for a_transposed, b_transposed in itertools.product((False, True), repeat=2):
            found = c.copy().ravel()
            product(a_transposed, b_transposed, m, n, k,
                    (a.T if a_transposed else a).ravel(), (b.T if b_transposed else b).ravel(), found)
            np.testing.assert_allclose(found, (c + a @ b).ravel(), rtol=0.0, atol=EPS * (k + 2) * 10.0)


def test_a_nan_stays_in_its_sample():
    x, W, b, *_ = random_layer(7, 4, 3)
    x[2, 1] = np.nan
    z = np.zeros(21)
    dense_kernel(7, x.ravel(), W.ravel(), b, z)
    np.testing.assert_array_equal(np.isnan(z.reshape(7, 3)).any(axis=1), np.arange(7) == 2)


# --- parameters -----------------------------------------------------------------------------------

def test_layout_packs_and_unpacks():
    layout = mlp_layout((2, 5, 3), time_input=True)
    assert layout.shapes == {"W1": (5, 3), "b1": (5,), "W2": (3, 5), "b2": (3,)}
    assert layout.size == 38 and layout.slices["W2"] == slice(20, 35)
    theta = np.arange(38.0)
    arrays = layout.unpack(theta)
    np.testing.assert_array_equal(layout.pack(arrays), theta)
    arrays["b1"][0] = -1.0
    assert theta[15] == -1.0                        # a view, row-major, behind the 15 entries of W1


def test_layout_rejects_what_does_not_fit():
    layout = ParameterLayout({"W": (2, 3), "b": (2,)})
    with pytest.raises(InvalidInputError, match=r"theta must have shape \(8,\), found \(7,\)"):
        layout.unpack(np.zeros(7))
    with pytest.raises(InvalidInputError, match=r"named \['W', 'b'\], found \['W'\]"):
        layout.pack({"W": np.zeros((2, 3))})
    with pytest.raises(InvalidInputError, match=r"W must have shape \(2, 3\), found \(3, 2\)"):
        layout.pack({"W": np.zeros((3, 2)), "b": np.zeros(2)})


@pytest.mark.parametrize("widths", [(2,), (), (2, 0, 2), (2, 2.5, 2)])
def test_widths_are_checked(widths):
    with pytest.raises(InvalidInputError, match="two or more positive integers"):
        mlp_layout(widths)


@pytest.mark.parametrize("scaling, variance", [("glorot", 2.0 / 500.0), ("lecun", 1.0 / 200.0)])
def test_initial_parameters(scaling, variance):
    """Zero biases; of 60000 normal weights the sample variance deviates by 0.6 % (one sigma)."""
    theta = initial_parameters((200, 300, 200), 0, scaling)
    arrays = mlp_layout((200, 300, 200)).unpack(theta)
    assert np.var(arrays["W1"]) == pytest.approx(variance, rel=0.03)
    assert not arrays["b1"].any() and not arrays["b2"].any()
    np.testing.assert_array_equal(theta, initial_parameters((200, 300, 200), 0, scaling))
    assert not np.array_equal(theta, initial_parameters((200, 300, 200), 1, scaling))


def test_initial_parameters_rejects_an_unknown_scaling():
    with pytest.raises(InvalidInputError, match="scaling must be one of .*found 'he'"):
        initial_parameters((2, 2), 0, scaling="he")
