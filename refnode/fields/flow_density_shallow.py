"""The exact trace under a perceptron with one hidden layer: a weighted sum of slopes. See `fields.flow_density`.

    z = W1 x + b1,  a = σ(z),  dx = W2 a + b2,  (log p)' = Σ_j σ'(z_j) g_j,  g_j = -Σ_i W1_ji W2_ij

The gains g do not depend on the sample: the density costs one product per hidden unit more than the velocity.
"""
from typing import NamedTuple

from refnode.fields.flow_tape import BLOCK, buffers, mirror_offset
from refnode.fields.neural import ACTIVATION, BATCH, SLOPE_AT, layer_entry, layer_place, with_time, with_time_vjp
from refnode.host_device import host_device
from refnode.layers.activations import TANH, activation_jvp_kernel, activation_kernel
from refnode.layers.dense import dense_hvp_kernel, dense_jvp_kernel, dense_kernel, dense_vjp_kernel, matmul_add
from refnode.layers.pushed import slope_tangent


@host_device
def gains(d, d_in, W1, W2, g):
    """g_j = -Σ_i W1_ji W2_ij over the d inputs that are states. Overwrites g (m,). Implements (FLOW-4)."""
    m = g.shape[0]
    for j in range(m):
        g[j] = 0.0
        for i in range(d):
            g[j] -= W1[j * d_in + i] * W2[i * m + j]


@host_device
def gains_vjp(d, d_in, W1, W2, g_bar, W1_bar, W2_bar):
    """`gains` transposed; adds to both bars."""
    m = g_bar.shape[0]
    for j in range(m):
        for i in range(d):                                      # g[j] -= W1[j, i] * W2[i, j]
            W1_bar[j * d_in + i] -= g_bar[j] * W2[i * m + j]
            W2_bar[i * m + j] -= g_bar[j] * W1[j * d_in + i]


@host_device
def gains_jvp(d, d_in, W1, W2, W1_tan, W2_tan, g_tan):
    """Tangent of `gains`. Overwrites g_tan (m,)."""
    m = g_tan.shape[0]
    for j in range(m):
        g_tan[j] = 0.0
        for i in range(d):
            g_tan[j] -= W1_tan[j * d_in + i] * W2[i * m + j] + W1[j * d_in + i] * W2_tan[i * m + j]


@host_device
def slopes_into(code, a, slope, s):
    """s = σ'(z), from the activation or as the activation kept it."""
    if code == TANH:
        for i in range(a.shape[0]):
            s[i] = 1.0 - a[i] * a[i]
    else:
        for i in range(a.shape[0]):
            s[i] = slope[i]


@host_device
def slope_tangents_into(code, a, slope, z_tan, s_tan):
    """s_tan = σ''(z) z_tan: -2 a σ' z_tan for tanh, σ' (1 - σ') z_tan for softplus."""
    if code == TANH:
        for i in range(a.shape[0]):
            s_tan[i] = -2.0 * a[i] * (1.0 - a[i] * a[i]) * z_tan[i]
    else:
        for i in range(a.shape[0]):
            s_tan[i] = slope[i] * (1.0 - slope[i]) * z_tan[i]


@host_device
def shallow_density(t, y, theta, tape, dy):
    """`flow_density` with one hidden layer and the exact trace."""
    batch, code = int(tape[BATCH]), int(tape[ACTIVATION])
    d_in, m, x, w1, b1, end1 = layer_place(tape, 0)
    _, d, a, w2, b2, end2 = layer_place(tape, 1)
    g, slope, (here, _) = layer_entry(tape, 1, SLOPE_AT), layer_entry(tape, 0, SLOPE_AT), buffers(tape)
    n, kept_m = batch * d, 0 if code == TANH else m             # tanh keeps no slopes
    with_time(t, y[:n], batch, tape[x:x + batch * d_in])
    gains(d, d_in, theta[w1:b1], theta[w2:b2], tape[g:g + m])
    dy[n:] = 0.0
    for i in range(0, batch, BLOCK):
        count = min(BLOCK, batch - i)
        hidden, kept = tape[a + i * m:a + (i + count) * m], tape[slope + i * kept_m:slope + (i + count) * kept_m]
        s = tape[here:here + count * m]
        dense_kernel(count, tape[x + i * d_in:x + (i + count) * d_in], theta[w1:b1], theta[b1:end1], hidden)
        activation_kernel(code, hidden, kept)
        dense_kernel(count, hidden, theta[w2:b2], theta[b2:end2], dy[i * d:(i + count) * d])
        slopes_into(code, hidden, kept, s)
        matmul_add(False, False, count, 1, m, s, tape[g:g + m], dy[n + i:n + i + count])


@host_device
def shallow_density_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
    """Tangent of `shallow_density`: (log p)'_tan = Σ_j σ''(z_j) z_tan_j g_j + σ'(z_j) g_tan_j."""
    batch, code = int(tape[BATCH]), int(tape[ACTIVATION])
    d_in, m, x, w1, b1, end1 = layer_place(tape, 0)
    _, d, a, w2, b2, end2 = layer_place(tape, 1)
    g, slope, (here, there) = layer_entry(tape, 1, SLOPE_AT), layer_entry(tape, 0, SLOPE_AT), buffers(tape)
    n, kept_m = batch * d, 0 if code == TANH else m
    gains_jvp(d, d_in, theta[w1:b1], theta[w2:b2], theta_tan[w1:b1], theta_tan[w2:b2], tape[g + m:g + 2 * m])
    dy_tan[n:] = 0.0
    for i in range(0, batch, BLOCK):
        count = min(BLOCK, batch - i)
        hidden, kept = tape[a + i * m:a + (i + count) * m], tape[slope + i * kept_m:slope + (i + count) * kept_m]
        z_tan, work, rates_tan = tape[there:there + count * m], tape[here:here + count * m], dy_tan[n + i:n + i + count]
        with_time(t_tan, y_tan[i * d:(i + count) * d], count, tape[here:here + count * d_in])
        dense_jvp_kernel(count, tape[x + i * d_in:x + (i + count) * d_in], theta[w1:b1], tape[here:here + count * d_in],
                         theta_tan[w1:b1], theta_tan[b1:end1], z_tan)
        slope_tangents_into(code, hidden, kept, z_tan, work)
        matmul_add(False, False, count, 1, m, work, tape[g:g + m], rates_tan)
        slopes_into(code, hidden, kept, work)
        matmul_add(False, False, count, 1, m, work, tape[g + m:g + 2 * m], rates_tan)
        activation_jvp_kernel(code, hidden, kept, z_tan)
        dense_jvp_kernel(count, hidden, theta[w2:b2], z_tan, theta_tan[w2:b2], theta_tan[b2:end2],
                         dy_tan[i * d:(i + count) * d])


@host_device
def shallow_density_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    """`shallow_density` transposed: the trace's cotangent reaches z through σ'', the weights through the gains."""
    batch, code = int(tape[BATCH]), int(tape[ACTIVATION])
    d_in, m, x, w1, b1, end1 = layer_place(tape, 0)
    _, d, a, w2, b2, end2 = layer_place(tape, 1)
    g, slope, (here, there) = layer_entry(tape, 1, SLOPE_AT), layer_entry(tape, 0, SLOPE_AT), buffers(tape)
    n, kept_m, g_bar = batch * d, 0 if code == TANH else m, tape[g + m:g + 2 * m]
    g_bar[:] = 0.0
    for i in range(0, batch, BLOCK):
        count = min(BLOCK, batch - i)
        hidden, kept = tape[a + i * m:a + (i + count) * m], tape[slope + i * kept_m:slope + (i + count) * kept_m]
        a_bar, x_bar = tape[here:here + count * m], tape[there:there + count * d_in]
        a_bar[:] = 0.0
        x_bar[:] = 0.0
        dense_vjp_kernel(count, hidden, theta[w2:b2], dy_bar[i * d:(i + count) * d], a_bar, theta_bar[w2:b2],
                         theta_bar[b2:end2])
        hidden_vjp(code, m, hidden, kept, tape[g:g + m], dy_bar[n + i:n + i + count], a_bar, g_bar)
        dense_vjp_kernel(count, tape[x + i * d_in:x + (i + count) * d_in], theta[w1:b1], a_bar, x_bar,
                         theta_bar[w1:b1], theta_bar[b1:end1])
        with_time_vjp(count, x_bar, t_bar, y_bar[i * d:(i + count) * d])
    gains_vjp(d, d_in, theta[w1:b1], theta[w2:b2], g_bar, theta_bar[w1:b1], theta_bar[w2:b2])


@host_device
def hidden_vjp(code, m, a, slope, g, rates_bar, a_bar, g_bar):
    """rate_i = Σ_j σ'(z_ij) g_j and a = σ(z) transposed: a_bar becomes z_bar = σ' a_bar + σ'' g rate_bar; g_bar grows."""
    for i in range(rates_bar.shape[0]):
        q = rates_bar[i]
        if code == TANH:
            for j in range(m):
                a_ij = a[i * m + j]
                s = 1.0 - a_ij * a_ij
                g_bar[j] += s * q
                a_bar[i * m + j] = s * (a_bar[i * m + j] - 2.0 * a_ij * (g[j] * q))
        else:
            for j in range(m):
                s = slope[i * m + j]
                g_bar[j] += s * q
                a_bar[i * m + j] = s * (a_bar[i * m + j] + (1.0 - s) * (g[j] * q))


@host_device
def shallow_density_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan,
                        theta_bar_tan):
    """Tangent of `shallow_density_vjp`."""
    batch, code = int(tape[BATCH]), int(tape[ACTIVATION])
    d_in, m, x, w1, b1, end1 = layer_place(tape, 0)
    _, d, a, w2, b2, end2 = layer_place(tape, 1)
    slope, (here, there), mirror = layer_entry(tape, 0, SLOPE_AT), buffers(tape), mirror_offset(tape)
    n, size, width = batch * d, batch * m, batch * d_in
    x_tan, a_tan = tape[mirror + x:mirror + x + width], tape[mirror + a:mirror + a + size]
    at = 2 * there - here                                       # behind the two buffers: room for all samples
    a_bar, a_bar_tan = tape[at:at + size], tape[at + size:at + 2 * size]
    x_bar_tan = tape[at + 2 * size:at + 2 * size + width]
    a_bar[:] = 0.0
    a_bar_tan[:] = 0.0
    x_bar_tan[:] = 0.0
    with_time(t_tan, y_tan[:n], batch, x_tan)
    dense_jvp_kernel(batch, tape[x:x + width], theta[w1:b1], x_tan, theta_tan[w1:b1], theta_tan[b1:end1], a_tan)
    activation_jvp_kernel(code, tape[a:a + size], tape[slope:a], a_tan)
    matmul_add(False, False, batch, m, d, dy_bar[:n], theta[w2:b2], a_bar)                  # dx = a W2ᵀ + b2
    dense_hvp_kernel(batch, tape[a:a + size], theta[w2:b2], a_tan, theta_tan[w2:b2], dy_bar[:n], dy_bar_tan[:n],
                     a_bar_tan, theta_bar_tan[w2:b2], theta_bar_tan[b2:end2])
    g = layer_entry(tape, 1, SLOPE_AT)
    hidden_hvp(code, m, tape[a:a + size], tape[slope:a], a_tan, dy_bar[n:], dy_bar_tan[n:], d, d_in, theta[w1:b1],
               theta[w2:b2], theta_tan[w1:b1], theta_tan[w2:b2], tape[g:g + 4 * m], a_bar, a_bar_tan,
               theta_bar_tan[w1:b1], theta_bar_tan[w2:b2])
    dense_hvp_kernel(batch, tape[x:x + width], theta[w1:b1], x_tan, theta_tan[w1:b1], a_bar, a_bar_tan, x_bar_tan,
                     theta_bar_tan[w1:b1], theta_bar_tan[b1:end1])
    with_time_vjp(batch, x_bar_tan, t_bar_tan, y_bar_tan[:n])


@host_device
def hidden_hvp(code, m, a, slope, a_tan, rates_bar, rates_bar_tan, d, d_in, W1, W2, W1_tan, W2_tan, work, a_bar, a_bar_tan,
               W1_bar_tan, W2_bar_tan):
    """Tangent of `hidden_vjp` and of `gains_vjp`; ``work`` holds g, and room for g_tan, g_bar and g_bar_tan."""
    g, g_tan, g_bar, g_bar_tan = work[:m], work[m:2 * m], work[2 * m:3 * m], work[3 * m:]
    gains_jvp(d, d_in, W1, W2, W1_tan, W2_tan, g_tan)
    g_bar[:] = 0.0
    g_bar_tan[:] = 0.0
    for i in range(rates_bar.shape[0]):
        q, q_tan = rates_bar[i], rates_bar_tan[i]
        for j in range(m):
            at = i * m + j
            s, s_tan, ratio, ratio_tan = slope_tangent(code, a[at], slope[at] if code != TANH else 0.0, a_tan[at])
            g_bar[j] += s * q
            g_bar_tan[j] += s_tan * q + s * q_tan
            # z_bar = σ' (a_bar + r g q)
            inner = a_bar[at] + ratio * g[j] * q
            inner_tan = a_bar_tan[at] + ratio_tan * g[j] * q + ratio * (g_tan[j] * q + g[j] * q_tan)
            a_bar[at], a_bar_tan[at] = s * inner, s_tan * inner + s * inner_tan
    gains_vjp(d, d_in, W1, W2, g_bar_tan, W1_bar_tan, W2_bar_tan)
    gains_vjp(d, d_in, W1_tan, W2_tan, g_bar, W1_bar_tan, W2_bar_tan)


class Trace(NamedTuple):
    """The bodies of the trace, for launchers that have the loops over samples and units themselves."""

    slopes: object = slopes_into
    slope_tangents: object = slope_tangents_into
    hidden_vjp: object = hidden_vjp
