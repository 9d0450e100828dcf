"""The invertible residual layer z = x + g(x), g(x) = W2 tanh(W1 x + b1) + b2, whose g is a contraction.

The two matrices are normalised: W = V min(1, c / |V|₂) with c < 1, so that |dg/dx| <= c² < 1. The inverse is the limit
of x <- z - g(x), and log det(I + J) = Σ_k (-1)^{k+1} tr(Jᵏ) / k converges. It is computed from the Jacobian J itself,
or estimated by a random number of terms of the series along random probes (see `log_determinants`).

NumPy forms; `arrays` has "V1" (m, d), "b1" (m,), "V2" (d, m) and "b2" (d,).

References
----------
Behrmann, Grathwohl, Chen, Duvenaud & Jacobsen, Invertible residual networks, ICML 2019.
Chen, Behrmann, Duvenaud & Jacobsen, Residual flows for invertible generative modeling, NeurIPS 2019.
"""
import numpy as np

from refnode.errors import IntegrationError
from refnode.layers.dense import dense, dense_jvp, dense_vjp
from refnode.layers.log_determinants import (
    log_determinant, log_determinant_jvp, log_determinant_vjp, series_log_determinant, series_log_determinant_jvp,
    series_log_determinant_vjp)

LIPSCHITZ = 0.97         # c of each matrix


# --- spectral normalisation -----------------------------------------------------------------------

def normalised(V, c=LIPSCHITZ):
    """W = V min(1, c / |V|₂), with the largest singular value from an SVD."""
    return V * min(1.0, c / np.linalg.norm(V, 2))


def leading_pair(V):
    """The largest singular value of V, and the matrix u vᵀ of its singular vectors: its derivative."""
    left, values, right = np.linalg.svd(V, full_matrices=False)
    return values[0], np.outer(left[:, 0], right[0])


def normalised_jvp(V, V_tan, c=LIPSCHITZ):
    """W_tan = (c / σ) (V_tan - V <u vᵀ, V_tan> / σ) where σ > c, else V_tan."""
    sigma, pair = leading_pair(V)
    return V_tan if sigma <= c else (c / sigma) * (V_tan - V * (np.sum(pair * V_tan) / sigma))


def normalised_vjp(V, W_bar, c=LIPSCHITZ):
    """V_bar = (c / σ) (W_bar - u vᵀ <V, W_bar> / σ) where σ > c, else W_bar."""
    sigma, pair = leading_pair(V)
    return W_bar if sigma <= c else (c / sigma) * (W_bar - pair * (np.sum(V * W_bar) / sigma))


# --- the layer ------------------------------------------------------------------------------------

def residual_shapes(d, width):
    """Shapes of the parameters."""
    return {"V1": (width, d), "b1": (width,), "V2": (d, width), "b2": (d,)}


def residual_parts(x, arrays):
    """W1, W2, a = tanh(W1 x + b1), and the Jacobians J = W2 diag(1 - a²) W1 of g, (batch, d, d)."""
    W1, W2 = normalised(arrays["V1"]), normalised(arrays["V2"])
    a = np.tanh(dense(x, W1, arrays["b1"]))
    return W1, W2, a, product(W2, 1.0 - a**2, W1)


def product(W2, slope, W1):
    """W2 diag(slope) W1 for every sample, (batch, d, d)."""
    return (W2 * slope[:, None]) @ W1


def residual(series, x, arrays):
    """z (batch, d) and log det dz/dx (batch,), the latter estimated where a ``series`` is given, else exact."""
    _, W2, a, J = residual_parts(x, arrays)
    log_det = log_determinant(J) if series is None else series_log_determinant(J, *series)
    return x + dense(a, W2, arrays["b2"]), log_det


def residual_jvp(series, x, arrays, x_tan, arrays_tan):
    """Tangent of `residual`: (z_tan, log_det_tan)."""
    W1, W2, a, J = residual_parts(x, arrays)
    W1_tan, W2_tan = (normalised_jvp(arrays[name], arrays_tan[name]) for name in ("V1", "V2"))
    slope = 1.0 - a**2
    a_tan = slope * dense_jvp(x, W1, x_tan, W1_tan, arrays_tan["b1"])
    J_tan = product(W2_tan, slope, W1) + product(W2, -2.0 * a * a_tan, W1) + product(W2, slope, W1_tan)
    log_det_tan = (log_determinant_jvp(J, J_tan) if series is None
                   else series_log_determinant_jvp(J, *series, J_tan))
    return x_tan + dense_jvp(a, W2, a_tan, W2_tan, arrays_tan["b2"]), log_det_tan


def residual_vjp(series, x, arrays, z_bar, log_det_bar):
    """Transpose of `residual_jvp`: (x_bar, the cotangents of ``arrays`` by name)."""
    W1, W2, a, J = residual_parts(x, arrays)
    J_bar = log_determinant_vjp(J, log_det_bar) if series is None else series_log_determinant_vjp(J, *series, log_det_bar)
    slope = 1.0 - a**2
    a_bar, W2_bar, b2_bar = dense_vjp(a, W2, z_bar)                                     # z = x + a W2ᵀ + b2
    J_bar_W1 = J_bar @ W1.T                                                             # J = W2 diag(slope) W1
    slope_bar = np.sum(W2 * J_bar_W1, axis=1)
    W2_bar = W2_bar + np.sum(J_bar_W1 * slope[:, None], axis=0)
    W1_bar = np.sum(slope[:, :, None] * (W2.T @ J_bar), axis=0)
    p_bar = slope * (a_bar - 2.0 * a * slope_bar)                                       # a = tanh p, slope = 1 - a²
    x_bar, W1_from_p, b1_bar = dense_vjp(x, W1, p_bar)                                  # p = x W1ᵀ + b1
    return z_bar + x_bar, {"V1": normalised_vjp(arrays["V1"], W1_bar + W1_from_p), "b1": b1_bar,
                           "V2": normalised_vjp(arrays["V2"], W2_bar), "b2": b2_bar}


def residual_inverse(z, arrays, tolerance=1e-14, most=2000):
    """x (batch, d) with x + g(x) = z, by x <- z - g(x): the error shrinks at least by c² each time.

    Raises
    ------
    IntegrationError
        If the iterates have not settled after ``most`` of them.
    """
    W1, W2, x = normalised(arrays["V1"]), normalised(arrays["V2"]), z
    for _ in range(most):
        new = z - dense(np.tanh(dense(x, W1, arrays["b1"])), W2, arrays["b2"])
        change, x = np.max(np.abs(new - x), initial=0.0), new
        if change <= tolerance * (1.0 + np.max(np.abs(x), initial=0.0)):
            return x
    raise IntegrationError(f"the inverse of a residual layer has not settled after {most} iterations: change {change:g}")
