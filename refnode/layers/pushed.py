"""Dense layers and activations on pushed rows: a batch of inputs, and behind it their tangents along some probes.

Rows x = (a, P_1, .., P_K), each block (batch, width). A dense layer acts on all rows alike, its bias on the first
block only. An activation makes a = σ(z) of the first block and P_k = σ'(z) U_k of the others. With the ratio
r = σ''/σ', which is -2 a for tanh and 1 - σ' for softplus, its derivatives need the rows it made and no others:

    a_tan = σ' z_tan                     P_tan = σ' U_tan + r P z_tan
    z_bar = σ' a_bar + r Σ_k P_k P_bar_k           U_bar = σ' P_bar
"""
import numpy as np

from refnode.host_device import host_device
from refnode.layers.activations import ACTIVATIONS, TANH, activation_jvp_kernel, activation_kernel
from refnode.layers.dense import matmul_add


# --- a dense layer --------------------------------------------------------------------------------

@host_device
def pushed_dense_kernel(batch, x, W, b, z):
    """z = x Wᵀ, + b in the first ``batch`` rows. Overwrites z (rows d_out,)."""
    d_out = b.shape[0]
    rows = z.shape[0] // d_out
    for i in range(batch):
        for j in range(d_out):
            z[i * d_out + j] = b[j]
    z[batch * d_out:] = 0.0
    matmul_add(False, True, rows, d_out, W.shape[0] // d_out, x, W, z)


@host_device
def pushed_dense_vjp_kernel(batch, x, W, z_bar, x_bar, W_bar, b_bar):
    """z = x Wᵀ (+ b) transposed. Adds to x_bar, of as many leading rows as it has, and to W_bar and b_bar."""
    d_out = b_bar.shape[0]
    d_in = W.shape[0] // d_out
    back = x_bar.shape[0] // d_in
    matmul_add(False, False, back, d_in, d_out, z_bar[:back * d_out], W, x_bar)
    matmul_add(True, False, d_out, d_in, z_bar.shape[0] // d_out, z_bar, x, W_bar)
    for i in range(batch):
        for j in range(d_out):
            b_bar[j] += z_bar[i * d_out + j]


# --- an activation --------------------------------------------------------------------------------

def pushed_activation(activation, z, U):
    """a = σ(z) (batch, width) and P = σ'(z) U (K, batch, width): the NumPy form, valid for complex arrays."""
    row = ACTIVATIONS[activation]
    return row.form(z), row.jvp(z, U)


@host_device
def pushed_activation_kernel(code, size, x, slope):
    """(z, U_1, ..) becomes (a, P_1, ..) in place, blocks of ``size``; softplus leaves σ' in ``slope``."""
    activation_kernel(code, x[:size], slope)
    for k in range(1, x.shape[0] // size):
        activation_jvp_kernel(code, x[:size], slope, x[k * size:(k + 1) * size])


@host_device
def bent(code, a, slope, p, q, out):
    """out += r p q with r = σ''/σ': -2 a for tanh, 1 - σ' for softplus."""
    if code == TANH:
        for i in range(a.shape[0]):
            out[i] -= 2.0 * a[i] * (p[i] * q[i])
    else:
        for i in range(a.shape[0]):
            out[i] += (1.0 - slope[i]) * (p[i] * q[i])


@host_device
def pushed_activation_jvp_kernel(code, size, x, slope, x_tan):
    """P_tan = σ' U_tan + r P z_tan, a_tan = σ' z_tan, in place."""
    a = x[:size]
    for k in range(1, x.shape[0] // size):
        p_tan = x_tan[k * size:(k + 1) * size]
        activation_jvp_kernel(code, a, slope, p_tan)
        bent(code, a, slope, x[k * size:(k + 1) * size], x_tan[:size], p_tan)
    activation_jvp_kernel(code, a, slope, x_tan[:size])


@host_device
def pushed_activation_vjp_kernel(code, size, x, slope, x_bar):
    """z_bar = σ' a_bar + r Σ_k P_k P_bar_k, U_bar = σ' P_bar, in place. Implements (FLOW-3)."""
    a = x[:size]
    activation_jvp_kernel(code, a, slope, x_bar[:size])                         # a_tan = σ' z_tan
    for k in range(1, x.shape[0] // size):                                      # P_tan = σ' U_tan + r P z_tan
        p_bar = x_bar[k * size:(k + 1) * size]
        bent(code, a, slope, x[k * size:(k + 1) * size], p_bar, x_bar[:size])
        activation_jvp_kernel(code, a, slope, p_bar)


@host_device
def slope_tangent(code, a, slope, a_tan):
    """(σ', its tangent r a_tan, the ratio r, its tangent) at one entry, from the tangent a_tan = σ' z_tan.

    tanh: r = -2 a, r_tan = -2 a_tan. softplus: r = 1 - σ', r_tan = -r a_tan.
    """
    if code == TANH:
        return 1.0 - a * a, -2.0 * a * a_tan, -2.0 * a, -2.0 * a_tan
    ratio = 1.0 - slope
    return slope, ratio * a_tan, ratio, -ratio * a_tan


@host_device
def pushed_activation_hvp_kernel(code, size, x, slope, x_tan, x_bar, x_bar_tan):
    """`pushed_activation_vjp_kernel` on x_bar and its tangent on x_bar_tan, in place; x_tan after the activation."""
    for i in range(size):
        s, s_tan, ratio, ratio_tan = slope_tangent(code, x[i], slope[i] if code != TANH else 0.0, x_tan[i])
        # z_bar = σ' a_bar + r Σ_k P_k P_bar_k
        total, total_tan = s * x_bar[i], s_tan * x_bar[i] + s * x_bar_tan[i]
        for k in range(1, x.shape[0] // size):
            at = k * size + i
            product = x[at] * x_bar[at]
            total += ratio * product
            total_tan += ratio_tan * product + ratio * (x_tan[at] * x_bar[at] + x[at] * x_bar_tan[at])
            x_bar_tan[at] = s_tan * x_bar[at] + s * x_bar_tan[at]               # U_bar = σ' P_bar
            x_bar[at] *= s
        x_bar[i], x_bar_tan[i] = total, total_tan
