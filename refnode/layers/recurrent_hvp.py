"""Second derivatives of the recurrent cells: the tangents of the transposes in `layers.recurrent`.

``cell_hvp(x, h, *parameters, x_tan, h_tan, *parameters_tan, h1_bar, h1_bar_tan)`` gives the tangents of what
``cell_vjp(x, h, *parameters, h1_bar)`` gives: NumPy forms for a batch held as rows, kernels on flat arrays. Comments quote
the line of the transpose that is differentiated.
"""
import numpy as np

from refnode.host_device import host_device
from refnode.layers.dense import dense_hvp, dense_hvp_kernel, matmul_add
from refnode.layers.recurrent import CELLS, gru_gates, gru_gates_jvp, gru_jvp_kernel, rnn, rnn_jvp, rnn_jvp_kernel


# --- the gated recurrent unit ---------------------------------------------------------------------

def gru_hvp(x, h, W, U, b, e, x_tan, h_tan, W_tan, U_tan, b_tan, e_tan, h1_bar, h1_bar_tan):
    """Tangent of `gru_vjp`: (x_bar_tan, h_bar_tan, W_bar_tan, U_bar_tan, b_bar_tan, e_bar_tan).

    Parameters
    ----------
    x, h, W, U, b, e : ndarray
        As in `gru`.
    x_tan, h_tan, W_tan, U_tan, b_tan, e_tan : ndarray
        Their tangents, of their shapes.
    h1_bar, h1_bar_tan : ndarray, shape (batch, m)
        The cotangent of h1, and its tangent.
    """
    gates = gru_gates(x, h, W, U, b, e)
    gates_tan = gru_gates_jvp(gates, x, h, W, U, x_tan, h_tan, W_tan, U_tan, b_tan, e_tan)
    a_bar, g_bar, a_bar_tan, g_bar_tan = gru_gates_hvp(gates, gates_tan, h, h_tan, h1_bar, h1_bar_tan)
    x_bar_tan, W_bar_tan, b_bar_tan = dense_hvp(x, W, x_tan, W_tan, a_bar, a_bar_tan)       # a = x Wᵀ + b
    h_bar_tan, U_bar_tan, sums = dense_hvp(h, U, h_tan, U_tan, g_bar, g_bar_tan)            # g = h Uᵀ
    h_bar_tan += gates_tan[1] * h1_bar + gates[1] * h1_bar_tan                              # h_bar = u h1_bar + g_bar U
    return x_bar_tan, h_bar_tan, W_bar_tan, U_bar_tan, b_bar_tan, sums[2 * h.shape[1]:]     # e_bar = Σ s_bar


def gru_gates_hvp(gates, gates_tan, h, h_tan, h1_bar, h1_bar_tan):
    """a_bar and g_bar of `gru_vjp`, and their tangents, (batch, 3 m) each."""
    (r, u, s, c), (r_tan, u_tan, s_tan, c_tan) = gates, gates_tan
    u_bar, u_bar_tan = (h - c) * h1_bar, (h_tan - c_tan) * h1_bar + (h - c) * h1_bar_tan
    c_bar, c_bar_tan = (1.0 - u) * h1_bar, (1.0 - u) * h1_bar_tan - u_tan * h1_bar
    v_bar, v_bar_tan = (1.0 - c * c) * c_bar, (1.0 - c * c) * c_bar_tan - 2.0 * c * c_tan * c_bar
    r_bar, r_bar_tan = s * v_bar, s_tan * v_bar + s * v_bar_tan
    s_bar, s_bar_tan = r * v_bar, r_tan * v_bar + r * v_bar_tan
    a_r, a_u = r * (1.0 - r) * r_bar, u * (1.0 - u) * u_bar
    a_r_tan = (1.0 - 2.0 * r) * r_tan * r_bar + r * (1.0 - r) * r_bar_tan
    a_u_tan = (1.0 - 2.0 * u) * u_tan * u_bar + u * (1.0 - u) * u_bar_tan
    return (np.hstack([a_r, a_u, v_bar]), np.hstack([a_r, a_u, s_bar]),
            np.hstack([a_r_tan, a_u_tan, v_bar_tan]), np.hstack([a_r_tan, a_u_tan, s_bar_tan]))


GRU_HVP_TAPE = 18        # entries of the tape for each sample and state: those of `GRU_TAPE`, and tangents of bars


@host_device
def gru_hvp_kernel(batch, x, h, W, U, x_tan, h_tan, W_tan, U_tan, b_tan, e_tan, tape, h1_bar, h1_bar_tan, x_bar_tan,
                   h_bar_tan, W_bar_tan, U_bar_tan, b_bar_tan, e_bar_tan):
    """Tangent of `gru_vjp_kernel`, with the tape of `gru_kernel`, of (18 batch m,); see `gru_hvp`. Adds to the last six."""
    m = e_bar_tan.shape[0]
    size = 3 * batch * m
    g, a_bar, g_bar = tape[size:2 * size], tape[2 * size:3 * size], tape[3 * size:4 * size]
    a_bar_tan, g_bar_tan = tape[4 * size:5 * size], tape[5 * size:6 * size]
    gru_jvp_kernel(batch, x, h, W, U, x_tan, h_tan, W_tan, U_tan, b_tan, e_tan, tape, g_bar_tan[:batch * m])
    for i in range(batch):          # it left a_tan and g_tan where a_bar and g_bar will stand
        for j in range(m):
            k, at_r, at_u, at_c = i * m + j, 3 * m * i + j, 3 * m * i + m + j, 3 * m * i + 2 * m + j
            r, u, s, c = g[at_r], g[at_u], g[at_c], tape[at_c]
            r_tan = r * (1.0 - r) * (a_bar[at_r] + g_bar[at_r])
            u_tan = u * (1.0 - u) * (a_bar[at_u] + g_bar[at_u])
            s_tan = g_bar[at_c] + e_tan[j]
            c_tan = (1.0 - c * c) * (a_bar[at_c] + r_tan * s + r * s_tan)
            c_bar, c_bar_tan = (1.0 - u) * h1_bar[k], (1.0 - u) * h1_bar_tan[k] - u_tan * h1_bar[k]
            v_bar, v_bar_tan = (1.0 - c * c) * c_bar, (1.0 - c * c) * c_bar_tan - 2.0 * c * c_tan * c_bar
            r_bar, r_bar_tan = s * v_bar, s_tan * v_bar + s * v_bar_tan
            u_bar, u_bar_tan = (h[k] - c) * h1_bar[k], (h_tan[k] - c_tan) * h1_bar[k] + (h[k] - c) * h1_bar_tan[k]
            a_bar[at_r], a_bar[at_u], a_bar[at_c] = r * (1.0 - r) * r_bar, u * (1.0 - u) * u_bar, v_bar
            g_bar[at_r], g_bar[at_u], g_bar[at_c] = a_bar[at_r], a_bar[at_u], r * v_bar
            a_bar_tan[at_r] = (1.0 - 2.0 * r) * r_tan * r_bar + r * (1.0 - r) * r_bar_tan
            a_bar_tan[at_u] = (1.0 - 2.0 * u) * u_tan * u_bar + u * (1.0 - u) * u_bar_tan
            a_bar_tan[at_c] = v_bar_tan
            g_bar_tan[at_r], g_bar_tan[at_u] = a_bar_tan[at_r], a_bar_tan[at_u]
            g_bar_tan[at_c] = r_tan * v_bar + r * v_bar_tan                         # s_bar = r v_bar
            e_bar_tan[j] += g_bar_tan[at_c]
            h_bar_tan[k] += u_tan * h1_bar[k] + u * h1_bar_tan[k]                   # h_bar = u h1_bar + g_bar U
    dense_hvp_kernel(batch, x, W, x_tan, W_tan, a_bar, a_bar_tan, x_bar_tan, W_bar_tan, b_bar_tan)
    recurrent_hvp_kernel(batch, h, U, h_tan, U_tan, g_bar, g_bar_tan, h_bar_tan, U_bar_tan)


@host_device
def recurrent_hvp_kernel(batch, h, U, h_tan, U_tan, g_bar, g_bar_tan, h_bar_tan, U_bar_tan):
    """The tangents of h_bar += g_bar U and U_bar += g_barᵀ h, of g = h Uᵀ. Adds to the last two."""
    m = h.shape[0] // batch
    rows = U.shape[0] // m
    matmul_add(False, False, batch, m, rows, g_bar_tan, U, h_bar_tan)
    matmul_add(False, False, batch, m, rows, g_bar, U_tan, h_bar_tan)
    matmul_add(True, False, rows, m, batch, g_bar_tan, h, U_bar_tan)
    matmul_add(True, False, rows, m, batch, g_bar, h_tan, U_bar_tan)


# --- the plain unit -------------------------------------------------------------------------------

def rnn_hvp(x, h, W, U, b, x_tan, h_tan, W_tan, U_tan, b_tan, h1_bar, h1_bar_tan):
    """Tangent of `rnn_vjp`: (x_bar_tan, h_bar_tan, W_bar_tan, U_bar_tan, b_bar_tan). Shapes as the values'."""
    h1, h1_tan = rnn(x, h, W, U, b), rnn_jvp(x, h, W, U, b, x_tan, h_tan, W_tan, U_tan, b_tan)
    v_bar = (1.0 - h1 * h1) * h1_bar
    v_bar_tan = (1.0 - h1 * h1) * h1_bar_tan - 2.0 * h1 * h1_tan * h1_bar
    x_bar_tan, W_bar_tan, b_bar_tan = dense_hvp(x, W, x_tan, W_tan, v_bar, v_bar_tan)       # v = x Wᵀ + h Uᵀ + b
    h_bar_tan, U_bar_tan, _ = dense_hvp(h, U, h_tan, U_tan, v_bar, v_bar_tan)
    return x_bar_tan, h_bar_tan, W_bar_tan, U_bar_tan, b_bar_tan


@host_device
def rnn_hvp_kernel(batch, x, h, W, U, h1, x_tan, h_tan, W_tan, U_tan, b_tan, h1_bar, h1_bar_tan, tape, x_bar_tan, h_bar_tan,
                   W_bar_tan, U_bar_tan, b_bar_tan):
    """Tangent of `rnn_vjp_kernel`; see `rnn_hvp`. ``tape`` (2 batch m,) is scratch; adds to the last five."""
    size = h1.shape[0]
    v_bar, v_bar_tan = tape[:size], tape[size:2 * size]
    rnn_jvp_kernel(batch, x, h, W, U, h1, x_tan, h_tan, W_tan, U_tan, b_tan, v_bar)
    for i in range(size):
        h1_tan = v_bar[i]
        v_bar[i] = (1.0 - h1[i] * h1[i]) * h1_bar[i]
        v_bar_tan[i] = (1.0 - h1[i] * h1[i]) * h1_bar_tan[i] - 2.0 * h1[i] * h1_tan * h1_bar[i]
    dense_hvp_kernel(batch, x, W, x_tan, W_tan, v_bar, v_bar_tan, x_bar_tan, W_bar_tan, b_bar_tan)
    recurrent_hvp_kernel(batch, h, U, h_tan, U_tan, v_bar, v_bar_tan, h_bar_tan, U_bar_tan)


# --- a cell over a sequence -----------------------------------------------------------------------

CELL_HVPS = {"gru": gru_hvp, "rnn": rnn_hvp}


def unroll_hvp(name, x, present, h, parameters, x_tan, h_tan, parameters_tan, h_bar, h_bar_tan):
    """Tangent of `unroll_vjp` for the cell of that name in `CELLS`, with the states h and their tangent: `unroll_jvp`'s.

    Returns
    -------
    x_bar_tan, h0_bar_tan, parameters_bar_tan
    """
    cell, cell_hvp = CELLS[name], CELL_HVPS[name]
    x_bar_tan, carried, carried_tan = np.zeros_like(x), h_bar[-1], h_bar_tan[-1]
    parameters_bar_tan = [np.zeros_like(array) for array in parameters]
    for k in range(len(x) - 1, -1, -1):
        here = present[k, :, None]
        seed, seed_tan = np.where(here, carried, 0.0), np.where(here, carried_tan, 0.0)
        before = cell.vjp(x[k], h[k], *parameters, seed)[1]
        x_bar_tan[k], before_tan, *bars_tan = cell_hvp(
            x[k], h[k], *parameters, x_tan[k], h_tan[k], *parameters_tan, seed, seed_tan)
        carried = h_bar[k] + np.where(here, 0.0, carried) + before          # carried = h_bar[k] + ... + before
        carried_tan = h_bar_tan[k] + np.where(here, 0.0, carried_tan) + before_tan
        for total, bar_tan in zip(parameters_bar_tan, bars_tan):
            total += bar_tan
    return x_bar_tan, carried_tan, parameters_bar_tan
