"""Recurrent cells h1 = cell(x, h): the gated recurrent unit and the plain one; and a cell unrolled over a sequence.

NumPy forms with jvp and vjp, for a batch of samples held as rows; kernels on flat arrays, for cells inside a vector
field. A vjp takes no record of the forward pass: it computes the gates again from x and h, so that a sequence
keeps nothing but its states. Second derivatives are in `recurrent_hvp`.

References
----------
Cho et al., Learning phrase representations using RNN encoder-decoder for statistical machine translation, 2014.
The reset gate acts on U h here and not on h, so that all products with U are one.
"""
from typing import NamedTuple

import numpy as np

from refnode.host_device import host_device
from refnode.layers.activations import fast_tanh
from refnode.layers.dense import dense_kernel, dense_vjp_kernel, matmul_add


# --- the gated recurrent unit ---------------------------------------------------------------------

def gru_shapes(d, m):
    """Shapes of W, U, b, e for d inputs and m states; their rows stand in the order r, u, c."""
    return {"W": (3 * m, d), "U": (3 * m, m), "b": (3 * m,), "e": (m,)}


def gru(x, h, W, U, b, e):
    """Gated recurrent unit: h1 = u h + (1 - u) c, entry by entry.

    With a = x Wᵀ + b and g = h Uᵀ, each in three parts: r = σ(a_r + g_r), u = σ(a_u + g_u), s = g_c + e,
    c = tanh(a_c + r s).

    Parameters
    ----------
    x : ndarray, shape (batch, d)
    h : ndarray, shape (batch, m)
    W, U, b, e : ndarray, shapes (3 m, d), (3 m, m), (3 m,), (m,)

    Returns
    -------
    h1 : ndarray, shape (batch, m)
    """
    r, u, s, c = gru_gates(x, h, W, U, b, e)
    return c + u * (h - c)


def gru_gates(x, h, W, U, b, e):
    """r, u, s, c of `gru`."""
    m = h.shape[1]
    a, g = x @ W.T + b, h @ U.T
    ru, s = gate(a[:, :2 * m] + g[:, :2 * m]), g[:, 2 * m:] + e
    r, u = ru[:, :m], ru[:, m:]
    return r, u, s, np.tanh(a[:, 2 * m:] + r * s)


def gate(z):
    """σ(z) = 1 / (1 + exp(-z)), as (1 + tanh(z/2)) / 2: accurate to an ulp of 1, and quick."""
    return 0.5 + 0.5 * np.tanh(0.5 * z)


def thirds(rows):
    """The parts r, u, c of rows of length 3 m."""
    m = rows.shape[-1] // 3
    return rows[:, :m], rows[:, m:2 * m], rows[:, 2 * m:]


def gru_jvp(x, h, W, U, b, e, x_tan, h_tan, W_tan, U_tan, b_tan, e_tan):
    """Tangent of `gru`. Shapes as the values'."""
    gates = r, u, s, c = gru_gates(x, h, W, U, b, e)
    _, u_tan, _, c_tan = gru_gates_jvp(gates, x, h, W, U, x_tan, h_tan, W_tan, U_tan, b_tan, e_tan)
    return u_tan * (h - c) + u * h_tan + (1.0 - u) * c_tan


def gru_gates_jvp(gates, x, h, W, U, x_tan, h_tan, W_tan, U_tan, b_tan, e_tan):
    """Tangents of the r, u, s, c of `gru_gates`."""
    r, u, s, c = gates
    a_r_tan, a_u_tan, a_c_tan = thirds(x_tan @ W.T + x @ W_tan.T + b_tan)
    g_r_tan, g_u_tan, g_c_tan = thirds(h_tan @ U.T + h @ U_tan.T)
    r_tan, s_tan = r * (1.0 - r) * (a_r_tan + g_r_tan), g_c_tan + e_tan
    return r_tan, u * (1.0 - u) * (a_u_tan + g_u_tan), s_tan, (1.0 - c * c) * (a_c_tan + r_tan * s + r * s_tan)


def gru_vjp(x, h, W, U, b, e, h1_bar):
    """Cotangents of `gru`, last line first: (x_bar, h_bar, W_bar, U_bar, b_bar, e_bar)."""
    r, u, s, c = gru_gates(x, h, W, U, b, e)
    u_bar, c_bar = (h - c) * h1_bar, (1.0 - u) * h1_bar             # h1 = u h + (1 - u) c
    v_bar = (1.0 - c * c) * c_bar                                   # c = tanh(v), v = a_c + r s
    r_bar, s_bar = s * v_bar, r * v_bar
    a_bar, m = np.empty((len(x), len(W)), u_bar.dtype), h.shape[1]
    a_bar[:, :m], a_bar[:, m:2 * m] = r * (1.0 - r) * r_bar, u * (1.0 - u) * u_bar      # r = σ(a_r + g_r), u = ...
    g_bar = a_bar.copy()
    a_bar[:, 2 * m:], g_bar[:, 2 * m:] = v_bar, s_bar               # s = g_c + e
    h_bar = u * h1_bar + g_bar @ U                                  # g = h Uᵀ
    return a_bar @ W, h_bar, a_bar.T @ x, g_bar.T @ h, a_bar.sum(axis=0), s_bar.sum(axis=0)     # a = x Wᵀ + b


GRU_TAPE = 12        # entries of the tape for each sample and state: a then c, g then (r, u, s), and scratch for bars


@host_device
def gru_kernel(batch, x, h, W, U, b, e, tape, h1):
    """h1 = u h + (1 - u) c; see `gru`. Overwrites h1 (batch m,), leaves c and (r, u, s) in tape (12 batch m,)."""
    m = e.shape[0]
    g_at = 3 * batch * m
    g = tape[g_at:2 * g_at]
    dense_kernel(batch, x, W, b, tape[:g_at])
    g[:] = 0.0
    matmul_add(False, True, batch, 3 * m, m, h, U, g)
    for i in range(batch):
        for j in range(m):
            r, u, c = 3 * m * i + j, 3 * m * i + m + j, 3 * m * i + 2 * m + j
            g[r] = 0.5 + 0.5 * fast_tanh(0.5 * (tape[r] + g[r]))
            g[u] = 0.5 + 0.5 * fast_tanh(0.5 * (tape[u] + g[u]))
            g[c] += e[j]
            tape[c] = fast_tanh(tape[c] + g[r] * g[c])
            h1[i * m + j] = g[u] * h[i * m + j] + (1.0 - g[u]) * tape[c]


@host_device
def gru_jvp_kernel(batch, x, h, W, U, x_tan, h_tan, W_tan, U_tan, b_tan, e_tan, tape, h1_tan):
    """Tangent of `gru_kernel`, with its tape; see `gru_jvp`. Overwrites h1_tan (batch m,)."""
    m = e_tan.shape[0]
    size = 3 * batch * m
    g, a_tan, g_tan = tape[size:2 * size], tape[2 * size:3 * size], tape[3 * size:4 * size]
    dense_kernel(batch, x, W_tan, b_tan, a_tan)
    matmul_add(False, True, batch, 3 * m, W.shape[0] // (3 * m), x_tan, W, a_tan)
    g_tan[:] = 0.0
    matmul_add(False, True, batch, 3 * m, m, h_tan, U, g_tan)
    matmul_add(False, True, batch, 3 * m, m, h, U_tan, g_tan)
    for i in range(batch):
        for j in range(m):
            k, r, u, c = i * m + j, 3 * m * i + j, 3 * m * i + m + j, 3 * m * i + 2 * m + j
            r_tan = g[r] * (1.0 - g[r]) * (a_tan[r] + g_tan[r])
            u_tan = g[u] * (1.0 - g[u]) * (a_tan[u] + g_tan[u])
            s_tan = g_tan[c] + e_tan[j]
            c_tan = (1.0 - tape[c] * tape[c]) * (a_tan[c] + r_tan * g[c] + g[r] * s_tan)
            h1_tan[k] = u_tan * (h[k] - tape[c]) + g[u] * h_tan[k] + (1.0 - g[u]) * c_tan


@host_device
def gru_vjp_kernel(batch, x, h, W, U, tape, h1_bar, x_bar, h_bar, W_bar, U_bar, b_bar, e_bar):
    """`gru_kernel` transposed, with its tape; see `gru_vjp`. Adds to the last six."""
    m = e_bar.shape[0]
    size = 3 * batch * m
    g, a_bar, g_bar = tape[size:2 * size], tape[2 * size:3 * size], tape[3 * size:4 * size]
    for i in range(batch):
        for j in range(m):
            k, r, u, c = i * m + j, 3 * m * i + j, 3 * m * i + m + j, 3 * m * i + 2 * m + j
            v_bar = (1.0 - tape[c] * tape[c]) * (1.0 - g[u]) * h1_bar[k]      # c = tanh(a_c + r s)
            a_bar[r] = g[r] * (1.0 - g[r]) * g[c] * v_bar                     # r = σ(a_r + g_r)
            a_bar[u] = g[u] * (1.0 - g[u]) * (h[k] - tape[c]) * h1_bar[k]     # h1 = u h + (1 - u) c
            a_bar[c] = v_bar
            g_bar[r], g_bar[u], g_bar[c] = a_bar[r], a_bar[u], g[r] * v_bar   # s = g_c + e
            e_bar[j] += g_bar[c]
            h_bar[k] += g[u] * h1_bar[k]
    dense_vjp_kernel(batch, x, W, a_bar, x_bar, W_bar, b_bar)                 # a = x Wᵀ + b
    matmul_add(False, False, batch, m, 3 * m, g_bar, U, h_bar)                # g = h Uᵀ
    matmul_add(True, False, 3 * m, m, batch, g_bar, h, U_bar)


# --- the plain unit -------------------------------------------------------------------------------

def rnn_shapes(d, m):
    """Shapes of W, U, b for d inputs and m states."""
    return {"W": (m, d), "U": (m, m), "b": (m,)}


def rnn(x, h, W, U, b):
    """Plain recurrent unit: h1 = tanh(x Wᵀ + h Uᵀ + b).

    Parameters
    ----------
    x : ndarray, shape (batch, d)
    h : ndarray, shape (batch, m)
    W, U, b : ndarray, shapes (m, d), (m, m), (m,)

    Returns
    -------
    h1 : ndarray, shape (batch, m)
    """
    return np.tanh(x @ W.T + h @ U.T + b)


def rnn_jvp(x, h, W, U, b, x_tan, h_tan, W_tan, U_tan, b_tan):
    """Tangent of `rnn`. Shapes as the values'."""
    h1 = rnn(x, h, W, U, b)
    return (1.0 - h1 * h1) * (x_tan @ W.T + x @ W_tan.T + h_tan @ U.T + h @ U_tan.T + b_tan)


def rnn_vjp(x, h, W, U, b, h1_bar):
    """Cotangents of `rnn`: (x_bar, h_bar, W_bar, U_bar, b_bar)."""
    h1 = rnn(x, h, W, U, b)
    v_bar = (1.0 - h1 * h1) * h1_bar                                # h1 = tanh(v), v = x Wᵀ + h Uᵀ + b
    return v_bar @ W, v_bar @ U, v_bar.T @ x, v_bar.T @ h, v_bar.sum(axis=0)


@host_device
def rnn_kernel(batch, x, h, W, U, b, h1):
    """h1 = tanh(x Wᵀ + h Uᵀ + b); see `rnn`. Overwrites h1 (batch m,), which is all its derivatives need."""
    m = b.shape[0]
    dense_kernel(batch, x, W, b, h1)
    matmul_add(False, True, batch, m, m, h, U, h1)
    for i in range(h1.shape[0]):
        h1[i] = fast_tanh(h1[i])


@host_device
def rnn_jvp_kernel(batch, x, h, W, U, h1, x_tan, h_tan, W_tan, U_tan, b_tan, h1_tan):
    """Tangent of `rnn_kernel` with its output h1; see `rnn_jvp`. Overwrites h1_tan (batch m,)."""
    m = b_tan.shape[0]
    dense_kernel(batch, x, W_tan, b_tan, h1_tan)
    matmul_add(False, True, batch, m, W.shape[0] // m, x_tan, W, h1_tan)
    matmul_add(False, True, batch, m, m, h_tan, U, h1_tan)
    matmul_add(False, True, batch, m, m, h, U_tan, h1_tan)
    for i in range(h1_tan.shape[0]):
        h1_tan[i] *= 1.0 - h1[i] * h1[i]


@host_device
def rnn_vjp_kernel(batch, x, h, W, U, h1, h1_bar, tape, x_bar, h_bar, W_bar, U_bar, b_bar):
    """`rnn_kernel` transposed; see `rnn_vjp`. ``tape`` (batch m,) is scratch; adds to the last five."""
    m = b_bar.shape[0]
    for i in range(h1.shape[0]):
        tape[i] = (1.0 - h1[i] * h1[i]) * h1_bar[i]                           # h1 = tanh(v)
    dense_vjp_kernel(batch, x, W, tape, x_bar, W_bar, b_bar)                  # v = x Wᵀ + b + h Uᵀ
    matmul_add(False, False, batch, m, m, tape, U, h_bar)
    matmul_add(True, False, m, m, batch, tape, h, U_bar)


# --- a cell over a sequence -----------------------------------------------------------------------

def unroll(cell, x, present, h0, parameters):
    """The states of a cell over a sequence: h_{k+1} = cell(x_k, h_k) where ``present`` says so, else h_k.

    Parameters
    ----------
    cell : Cell
    x : ndarray, shape (K, batch, d)
    present : ndarray of bool, shape (K, batch)
    h0 : ndarray, shape (batch, m)
    parameters : tuple of ndarray

    Returns
    -------
    h : ndarray, shape (K + 1, batch, m)
    """
    h = np.empty((len(x) + 1, *h0.shape), np.result_type(x, h0, *parameters))
    h[0] = h0
    for k in range(len(x)):
        h[k + 1] = np.where(present[k, :, None], cell.form(x[k], h[k], *parameters), h[k])
    return h


def unroll_jvp(cell, x, present, h, parameters, x_tan, h0_tan, parameters_tan):
    """Tangent of `unroll`, with its states h."""
    h_tan = np.empty_like(h)
    h_tan[0] = h0_tan
    for k in range(len(x)):
        moved = cell.jvp(x[k], h[k], *parameters, x_tan[k], h_tan[k], *parameters_tan)
        h_tan[k + 1] = np.where(present[k, :, None], moved, h_tan[k])
    return h_tan


def unroll_vjp(cell, x, present, h, parameters, h_bar):
    """Cotangents of `unroll`, with its states h: (x_bar, h0_bar, parameters_bar); h_bar is (K + 1, batch, m)."""
    x_bar, carried = np.zeros_like(x), h_bar[-1]
    parameters_bar = [np.zeros_like(array) for array in parameters]
    for k in range(len(x) - 1, -1, -1):
        here = present[k, :, None]                                  # h[k + 1] = where(here, cell(x[k], h[k]), h[k])
        x_bar[k], before, *bars = cell.vjp(x[k], h[k], *parameters, np.where(here, carried, 0.0))
        carried = h_bar[k] + np.where(here, 0.0, carried) + before
        for total, bar in zip(parameters_bar, bars):
            total += bar
    return x_bar, carried, parameters_bar


# --- the same, compiled ---------------------------------------------------------------------------

def gru_sequence(x, present, h0, parameters):
    """`unroll` of the gated unit, compiled: its states h (K + 1, batch, m), and the tape that its transpose needs."""
    steps, batch, _ = x.shape
    h, tape = np.empty((steps + 1, *h0.shape)), np.empty(steps * GRU_TAPE * h0.size)
    h[0] = h0
    gru_sequence_kernel(steps, batch, raveled(x), raveled(present), *map(raveled, parameters), tape, raveled(h))
    return h, tape


def gru_sequence_vjp(x, present, h, tape, parameters, h_bar):
    """`unroll_vjp` of the gated unit, compiled: (x_bar, h0_bar, parameters_bar)."""
    steps, batch, _ = x.shape
    W, U, b, e = parameters
    h_bar, x_bar, bars = np.array(h_bar), np.zeros(x.shape), [np.zeros(array.shape) for array in parameters]
    gru_sequence_vjp_kernel(steps, batch, raveled(x), raveled(present), raveled(h), raveled(W), raveled(U), tape,
                            raveled(h_bar), raveled(x_bar), *map(raveled, bars))
    return x_bar, h_bar[0], bars


def raveled(array):
    """A flat C-contiguous view, or copy, of an array."""
    return np.ascontiguousarray(array).reshape(-1)


@host_device
def gru_sequence_kernel(steps, batch, x, present, W, U, b, e, tape, h):
    """h_{k+1} = gru(x_k, h_k) where present, else h_k. Overwrites h, but for its first state, and the tape."""
    d, size, length = x.shape[0] // (steps * batch), batch * e.shape[0], GRU_TAPE * batch * e.shape[0]
    for k in range(steps):
        now, later = k * size, (k + 1) * size
        gru_kernel(batch, x[k * batch * d:(k + 1) * batch * d], h[now:later], W, U, b, e,
                   tape[k * length:(k + 1) * length], h[later:later + size])
        keep_absent(k, batch, present, h[now:later], h[later:later + size])


@host_device
def gru_sequence_vjp_kernel(steps, batch, x, present, h, W, U, tape, h_bar, x_bar, W_bar, U_bar, b_bar, e_bar):
    """`gru_sequence_kernel` transposed, last step first; adds to its outputs, h_bar (K + 1, batch, m) among them."""
    d, size, length = x.shape[0] // (steps * batch), batch * e_bar.shape[0], GRU_TAPE * batch * e_bar.shape[0]
    for k in range(steps - 1, -1, -1):
        now, later = k * size, (k + 1) * size
        keep_absent_vjp(k, batch, present, h_bar[now:later], h_bar[later:later + size])
        gru_vjp_kernel(batch, x[k * batch * d:(k + 1) * batch * d], h[now:later], W, U,
                       tape[k * length:(k + 1) * length], h_bar[later:later + size],
                       x_bar[k * batch * d:(k + 1) * batch * d], h_bar[now:later], W_bar, U_bar, b_bar, e_bar)


def rnn_sequence(x, present, h0, parameters):
    """`unroll` of the plain unit, compiled: its states h (K + 1, batch, m), and an empty tape."""
    steps, batch, _ = x.shape
    h = np.empty((steps + 1, *h0.shape))
    h[0] = h0
    rnn_sequence_kernel(steps, batch, raveled(x), raveled(present), *map(raveled, parameters), raveled(h))
    return h, np.empty(0)


def rnn_sequence_vjp(x, present, h, tape, parameters, h_bar):
    """`unroll_vjp` of the plain unit, compiled: (x_bar, h0_bar, parameters_bar)."""
    steps, batch, _ = x.shape
    h_bar, x_bar, bars = np.array(h_bar), np.zeros(x.shape), [np.zeros(array.shape) for array in parameters]
    rnn_sequence_vjp_kernel(steps, batch, raveled(x), raveled(present), raveled(h), *map(raveled, parameters[:2]),
                            np.empty(h[0].size), raveled(h_bar), raveled(x_bar), *map(raveled, bars))
    return x_bar, h_bar[0], bars


@host_device
def rnn_sequence_kernel(steps, batch, x, present, W, U, b, h):
    """h_{k+1} = rnn(x_k, h_k) where present, else h_k. Overwrites h, but for its first state."""
    d, size = x.shape[0] // (steps * batch), batch * b.shape[0]
    for k in range(steps):
        now, later = k * size, (k + 1) * size
        rnn_kernel(batch, x[k * batch * d:(k + 1) * batch * d], h[now:later], W, U, b, h[later:later + size])
        keep_absent(k, batch, present, h[now:later], h[later:later + size])


@host_device
def rnn_sequence_vjp_kernel(steps, batch, x, present, h, W, U, tape, h_bar, x_bar, W_bar, U_bar, b_bar):
    """`rnn_sequence_kernel` transposed, last step first; adds to its outputs, h_bar (K + 1, batch, m) among them."""
    d, size = x.shape[0] // (steps * batch), batch * b_bar.shape[0]
    for k in range(steps - 1, -1, -1):
        now, later = k * size, (k + 1) * size
        keep_absent_vjp(k, batch, present, h_bar[now:later], h_bar[later:later + size])
        rnn_vjp_kernel(batch, x[k * batch * d:(k + 1) * batch * d], h[now:later], W, U, h[later:later + size],
                       h_bar[later:later + size], tape, x_bar[k * batch * d:(k + 1) * batch * d], h_bar[now:later],
                       W_bar, U_bar, b_bar)


@host_device
def keep_absent(k, batch, present, now, later):
    """later = now for the samples that the k-th step does not have."""
    for i in range(now.shape[0]):
        if not present[k * batch + i * batch // now.shape[0]]:
            later[i] = now[i]


@host_device
def keep_absent_vjp(k, batch, present, now_bar, later_bar):
    """`keep_absent` transposed: their cotangents go to now_bar, and leave later_bar."""
    for i in range(now_bar.shape[0]):
        if not present[k * batch + i * batch // now_bar.shape[0]]:            # later[i] = now[i]
            now_bar[i] += later_bar[i]
            later_bar[i] = 0.0


class Cell(NamedTuple):
    """A recurrent cell: its NumPy forms, ``shapes(d, m)`` of its parameters in their order, and its compiled sequence."""

    form: object
    jvp: object
    vjp: object
    shapes: object
    sequence: object
    sequence_vjp: object


CELLS = {"gru": Cell(gru, gru_jvp, gru_vjp, gru_shapes, gru_sequence, gru_sequence_vjp),
         "rnn": Cell(rnn, rnn_jvp, rnn_vjp, rnn_shapes, rnn_sequence, rnn_sequence_vjp)}
