"""The planar layer z = x + û tanh(wᵀx + b), with its log-determinant, and its inverse by one monotone equation.

    s = wᵀu,  m = log(1 + exp s) - 1 > -1,  û = u + (m - s) w / wᵀw          so that wᵀû = m
    p = wᵀx + b,  a = tanh p,  z = x + û a,  log|det dz/dx| = log(1 + (1 - a²) m)

NumPy forms, valid for complex arrays; `arrays` has "w" (d,), "u" (d,) and "b" (1,).

References
----------
Rezende & Mohamed, Variational inference with normalizing flows, ICML 2015; appendix A for û.
"""
import numpy as np

from refnode.layers.activations import sigmoid, softplus


def planar_shapes(d):
    """Shapes of the parameters."""
    return {"w": (d,), "u": (d,), "b": (1,)}


def planar_parts(x, arrays):
    """û, m, s, and a = tanh(wᵀx + b) (batch,)."""
    w, u = arrays["w"], arrays["u"]
    s = w @ u
    m = softplus(s) - 1.0
    return u + (m - s) / (w @ w) * w, m, s, np.tanh(x @ w + arrays["b"][0])


def planar(x, arrays):
    """z (batch, d) and log|det dz/dx| (batch,) of x (batch, d)."""
    u_hat, m, _, a = planar_parts(x, arrays)
    return x + a[:, None] * u_hat, np.log(1.0 + (1.0 - a**2) * m)


def planar_jvp(x, arrays, x_tan, arrays_tan):
    """Tangent of `planar`: (z_tan, log_det_tan)."""
    w, u, w_tan, u_tan = arrays["w"], arrays["u"], arrays_tan["w"], arrays_tan["u"]
    u_hat, m, s, a = planar_parts(x, arrays)
    n = w @ w
    s_tan = w_tan @ u + w @ u_tan
    m_tan = sigmoid(s) * s_tan
    c, c_tan = (m - s) / n, (m_tan - s_tan) / n - (m - s) / n**2 * 2.0 * (w @ w_tan)
    u_hat_tan = u_tan + c_tan * w + c * w_tan
    a_tan = (1.0 - a**2) * (x_tan @ w + x @ w_tan + arrays_tan["b"][0])
    log_det_tan = ((1.0 - a**2) * m_tan - 2.0 * a * a_tan * m) / (1.0 + (1.0 - a**2) * m)
    return x_tan + a_tan[:, None] * u_hat + a[:, None] * u_hat_tan, log_det_tan


def planar_vjp(x, arrays, z_bar, log_det_bar):
    """Transpose of `planar_jvp`: (x_bar, the cotangents of ``arrays`` by name)."""
    w, u = arrays["w"], arrays["u"]
    u_hat, m, s, a = planar_parts(x, arrays)
    n, slope = w @ w, 1.0 - a**2
    q = log_det_bar / (1.0 + slope * m)
    a_bar = z_bar @ u_hat - 2.0 * a * m * q                     # z = x + a û; log_det = log(1 + (1 - a²) m)
    u_hat_bar, m_bar = a @ z_bar, slope @ q
    p_bar = slope * a_bar                                       # a = tanh(p)
    x_bar, w_bar = z_bar + p_bar[:, None] * w, p_bar @ x        # p = x w + b
    c, c_bar = (m - s) / n, u_hat_bar @ w                       # û = u + c w
    w_bar += c * u_hat_bar - 2.0 * c * c_bar / n * w            # c = (m - s) / wᵀw
    m_bar += c_bar / n
    s_bar = sigmoid(s) * m_bar - c_bar / n                      # m = softplus(s) - 1
    return x_bar, {"w": w_bar + s_bar * u, "u": u_hat_bar + s_bar * w, "b": np.array([p_bar.sum()])}     # s = w u


def planar_inverse(z, arrays):
    """x (batch, d) with `planar` (x) = z, to rounding: p + m tanh p = wᵀz + b increases with p, and is bisected."""
    u_hat, m, _, _ = planar_parts(z, arrays)
    target = z @ arrays["w"] + arrays["b"][0]
    low, high = target - abs(m) - 1e-300, target + abs(m) + 1e-300
    for _ in range(64):
        middle = 0.5 * (low + high)
        below = middle + m * np.tanh(middle) < target
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return z - np.tanh(0.5 * (low + high))[:, None] * u_hat
