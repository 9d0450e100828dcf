"""Neural right-hand sides: the multilayer perceptron, dy/dt = W_L a_{L-1} + b_L, a_l = σ(W_l a_{l-1} + b_l).

One set of kernels, compiled once, serves every architecture: it reads the widths from the header of
its tape, which the host writes. The tape continues with the input (y, or (y, t)) and the activations of
every hidden layer, the slopes σ' where they cannot be had from the activations, and two buffers between
which tangents and cotangents pass to and fro. So `mlp_vjp` does no forward work.

Behind all this stands the scratch of `mlp_hvp`, which only the tape of second derivatives has room for: two
more buffers, and a mirror of inputs, activations and slopes that holds their tangents.
"""
from typing import NamedTuple

import numpy as np

from refnode.errors import InvalidInputError
from refnode.fields.field import VectorField
from refnode.host_device import host_device
from refnode.layers.activations import (
    ACTIVATIONS, activation_hvp_kernel, activation_jvp_kernel, activation_kernel, activation_tangents_kernel,
    activation_vjp_kernel)
from refnode.layers.dense import (
    dense, dense_hvp_kernel, dense_jvp_kernel, dense_kernel, dense_vjp_kernel, matmul_add)
from refnode.layers.parameters import mlp_layout
from refnode.layers import single_activations                  # which activations have in single precision
from refnode.linalg import copy_into

# The header of the tape: these entries, then one row for each layer.
LAYERS, BATCH, ACTIVATION, BUFFERS_AT, BUFFER_SIZE, HEAD = 0, 1, 2, 3, 4, 5
D_IN, D_OUT, W_AT, X_AT, SLOPE_AT, ROW = 0, 1, 2, 3, 4, 5     # W in theta; input x and slope in the tape


def mlp_field(widths, activation="tanh", batch=1, time_input=False):
    """Field of a multilayer perceptron, applied to each of a batch of samples held as one state.

    Sample by sample, dy/dt = W_L a_{L-1} + b_L with a_l = σ(W_l a_{l-1} + b_l) and a_0 = y, or (y, t).

    Parameters
    ----------
    widths : sequence of int
        d, the hidden widths, d. Two widths are a linear field.
    activation : {"tanh", "softplus", "sine"}
        σ of the hidden layers; the last is linear.
    batch : int
        Number of samples; the state is the (batch, d) array of them, row after row.
    time_input : bool
        Whether t is one more input of the first layer, the last.

    Returns
    -------
    field : VectorField
        With n = batch d; ``mlp_layout(widths, time_input)`` names the p parameters.

    Raises
    ------
    InvalidInputError
        If the widths do not lead from d to d, or ``activation`` or ``batch`` is none.
    """
    layout = mlp_layout(widths, time_input)
    widths = tuple(int(width) for width in widths)
    if widths[0] != widths[-1]:
        raise InvalidInputError(
            f"widths must begin and end with the state's dimension, found {widths[0]} and {widths[-1]}")
    if activation not in ACTIVATIONS:
        raise InvalidInputError(f"activation must be one of {list(ACTIVATIONS)}, found {activation!r}")
    if int(batch) != batch or batch < 1:
        raise InvalidInputError(f"batch must be a positive integer, found {batch!r}")
    header, tape_size, hvp_tape_size = tape_plan(layout, activation, int(batch))
    name = "_".join(["mlp", *map(str, widths), activation] + ["time"] * bool(time_input))
    field = VectorField(
        mlp, jvp=mlp_jvp, vjp=mlp_vjp, hvp=mlp_hvp, name=name, n=int(batch) * widths[0], p=layout.size,
        tape_size=tape_size, tape_header=header, hvp_tape_size=hvp_tape_size,
        numpy_form=mlp_numpy(layout, activation, time_input))
    if batch == 1:
        inputs = (widths[0] + bool(time_input),)
        field.perceptron = Perceptron(inputs + widths[1:], ACTIVATIONS[activation].code)
    return field


class Perceptron(NamedTuple):
    """What launchers for perceptrons need to know of a field: widths, that of the input with the time, and σ's code.

    ``trace`` has the bodies of one that carries a log-density along by the exact trace, its last state
    (`fields.flow_density`); None for others.
    """

    widths: tuple
    code: int
    trace: object = None


def tape_plan(layout, activation, batch):
    """The header of an MLP's tape, which says where everything is, and the tape's size without and with hvp."""
    shapes = [shape for shape in layout.shapes.values() if len(shape) == 2]
    keeps_slope = ACTIVATIONS[activation].keeps_slope
    at = start = HEAD + ROW * len(shapes)
    rows, w_at = [], 0
    for d_out, d_in in shapes:
        slope_at = at + batch * d_in
        rows.append((d_in, d_out, w_at, at, slope_at))
        at = slope_at + (batch * d_out if keeps_slope and len(rows) < len(shapes) else 0)
        w_at += d_out * d_in + d_out
    buffer_size = batch * max(d_in for _, d_in in shapes)
    head = (len(shapes), batch, ACTIVATIONS[activation].code, at, buffer_size)
    header = np.concatenate([head, np.ravel(rows)]).astype(np.float64)
    return header, at + 2 * buffer_size, at + 4 * buffer_size + (at - start)


def mlp_numpy(layout, activation, time_input):
    """The same field as ``fun(t, y, theta) -> dy`` in plain NumPy, valid for complex arrays too."""
    sigma = ACTIVATIONS[activation].form
    n_layers = len(layout.shapes) // 2
    d = layout.shapes["W1"][1] - bool(time_input)

    def mlp_of_matrices(t, y, theta):
        arrays = layout.unpack(theta)
        a = y.reshape(-1, d)
        if time_input:
            a = np.column_stack([a, np.full(a.shape[0], t)])
        for number in range(1, n_layers):
            a = sigma(dense(a, arrays[f"W{number}"], arrays[f"b{number}"]))
        return dense(a, arrays[f"W{n_layers}"], arrays[f"b{n_layers}"]).ravel()

    return mlp_of_matrices


# --- the kernels ----------------------------------------------------------------------------------

@host_device
def layer_entry(tape, layer, column):
    """An entry of the header's row for one layer."""
    return int(tape[HEAD + ROW * layer + column])


@host_device
def layer_place(tape, layer):
    """Widths of a layer, where its input lies in the tape, and its weights w to b and offsets b to end in theta."""
    d_in, d_out = layer_entry(tape, layer, D_IN), layer_entry(tape, layer, D_OUT)
    w = layer_entry(tape, layer, W_AT)
    b = w + d_in * d_out
    return d_in, d_out, layer_entry(tape, layer, X_AT), w, b, b + d_out


@host_device
def mlp(t, y, theta, tape, dy):
    """dy = W_L a_{L-1} + b_L, a_l = σ(W_l a_{l-1} + b_l), a_0 = y or (y, t); see `mlp_field`."""
    n_layers, batch, code = int(tape[LAYERS]), int(tape[BATCH]), int(tape[ACTIVATION])
    first = layer_entry(tape, 0, X_AT)
    with_time(t, y, batch, tape[first:first + batch * layer_entry(tape, 0, D_IN)])
    for layer in range(n_layers):
        d_in, d_out, x, w, b, end = layer_place(tape, layer)
        if layer == n_layers - 1:
            dense_kernel(batch, tape[x:x + batch * d_in], theta[w:b], theta[b:end], dy)
        else:
            a, slope = layer_entry(tape, layer + 1, X_AT), layer_entry(tape, layer, SLOPE_AT)
            z = tape[a:a + batch * d_out]
            dense_kernel(batch, tape[x:x + batch * d_in], theta[w:b], theta[b:end], z)
            activation_kernel(code, z, tape[slope:a])


@host_device
def mlp_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
    """z_tan = W a_tan + W_tan a + b_tan, a_tan = σ'(z) z_tan, layer by layer; see `mlp`."""
    n_layers, batch, code = int(tape[LAYERS]), int(tape[BATCH]), int(tape[ACTIVATION])
    here, there = int(tape[BUFFERS_AT]), int(tape[BUFFERS_AT]) + int(tape[BUFFER_SIZE])
    with_time(t_tan, y_tan, batch, tape[here:here + batch * layer_entry(tape, 0, D_IN)])
    for layer in range(n_layers):
        d_in, d_out, x, w, b, end = layer_place(tape, layer)
        last = layer == n_layers - 1
        z_tan = dy_tan if last else tape[there:there + batch * d_out]
        dense_jvp_kernel(batch, tape[x:x + batch * d_in], theta[w:b], tape[here:here + batch * d_in],
                         theta_tan[w:b], theta_tan[b:end], z_tan)
        if not last:
            a, slope = layer_entry(tape, layer + 1, X_AT), layer_entry(tape, layer, SLOPE_AT)
            activation_jvp_kernel(code, tape[a:a + batch * d_out], tape[slope:a], z_tan)
        here, there = there, here


@host_device
def mlp_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    """`mlp` transposed, last layer first: z_bar = σ'(z) a_bar, a_bar = Wᵀ z_bar, W_bar += z_bar aᵀ."""
    n_layers, batch, code = int(tape[LAYERS]), int(tape[BATCH]), int(tape[ACTIVATION])
    here, there = int(tape[BUFFERS_AT]), int(tape[BUFFERS_AT]) + int(tape[BUFFER_SIZE])
    for layer in range(n_layers - 1, -1, -1):
        d_in, d_out, x, w, b, end = layer_place(tape, layer)
        last = layer == n_layers - 1
        z_bar = dy_bar if last else tape[here:here + batch * d_out]
        if not last:
            a, slope = layer_entry(tape, layer + 1, X_AT), layer_entry(tape, layer, SLOPE_AT)
            activation_vjp_kernel(code, tape[a:a + batch * d_out], tape[slope:a], z_bar)
        x_bar = tape[there:there + batch * d_in]
        x_bar[:] = 0.0
        dense_vjp_kernel(batch, tape[x:x + batch * d_in], theta[w:b], z_bar,
                         x_bar, theta_bar[w:b], theta_bar[b:end])
        here, there = there, here
    with_time_vjp(batch, tape[here:here + batch * layer_entry(tape, 0, D_IN)], t_bar, y_bar)


@host_device
def mlp_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan,
            theta_bar_tan):
    """Tangent of `mlp_vjp`: z_bar_tan = σ' a_bar_tan + σ'' z_tan a_bar, a_bar_tan = Wᵀ z_bar_tan + W_tanᵀ z_bar.

    First come the tangents of all layers, as in `mlp_jvp`, then cotangents and their tangents, last layer first.
    """
    n_layers, batch, code = int(tape[LAYERS]), int(tape[BATCH]), int(tape[ACTIVATION])
    mirror = mirror_offset(tape)
    mlp_tangents(t_tan, y_tan, theta, theta_tan, mirror, tape)
    here, there = int(tape[BUFFERS_AT]), int(tape[BUFFERS_AT]) + int(tape[BUFFER_SIZE])
    second = 2 * int(tape[BUFFER_SIZE])                         # from a buffer to that of its tangent
    for layer in range(n_layers - 1, -1, -1):
        d_in, d_out, x, w, b, end = layer_place(tape, layer)
        last = layer == n_layers - 1
        z_bar = dy_bar if last else tape[here:here + batch * d_out]
        z_bar_tan = dy_bar_tan if last else tape[here + second:here + second + batch * d_out]
        if not last:
            a, slope = layer_entry(tape, layer + 1, X_AT), layer_entry(tape, layer, SLOPE_AT)
            activation_hvp_kernel(
                code, tape[a:a + batch * d_out], tape[slope:a], tape[mirror + a:mirror + a + batch * d_out],
                tape[mirror + slope:mirror + a], z_bar, z_bar_tan)
        x_bar = tape[there:there + batch * d_in]
        x_bar_tan = tape[there + second:there + second + batch * d_in]
        x_bar[:] = 0.0
        x_bar_tan[:] = 0.0
        matmul_add(False, False, batch, d_in, d_out, z_bar, theta[w:b], x_bar)
        dense_hvp_kernel(
            batch, tape[x:x + batch * d_in], theta[w:b], tape[mirror + x:mirror + x + batch * d_in],
            theta_tan[w:b], z_bar, z_bar_tan, x_bar_tan, theta_bar_tan[w:b], theta_bar_tan[b:end])
        here, there = there, here
    here += second
    with_time_vjp(batch, tape[here:here + batch * layer_entry(tape, 0, D_IN)], t_bar_tan, y_bar_tan)


@host_device
def mirror_offset(tape):
    """How far behind an input, activation or slope its tangent lies in the tape of `mlp_hvp`."""
    start = HEAD + ROW * int(tape[LAYERS])
    return int(tape[BUFFERS_AT]) + 4 * int(tape[BUFFER_SIZE]) - start


@host_device
def mlp_tangents(t_tan, y_tan, theta, theta_tan, mirror, tape):
    """Tangents of the input, the activations and the slopes of all layers, into the mirror of the tape."""
    n_layers, batch, code = int(tape[LAYERS]), int(tape[BATCH]), int(tape[ACTIVATION])
    first = mirror + layer_entry(tape, 0, X_AT)
    with_time(t_tan, y_tan, batch, tape[first:first + batch * layer_entry(tape, 0, D_IN)])
    for layer in range(n_layers - 1):
        d_in, d_out, x, w, b, end = layer_place(tape, layer)
        a, slope = layer_entry(tape, layer + 1, X_AT), layer_entry(tape, layer, SLOPE_AT)
        z_tan = tape[mirror + a:mirror + a + batch * d_out]
        dense_jvp_kernel(batch, tape[x:x + batch * d_in], theta[w:b], tape[mirror + x:mirror + x + batch * d_in],
                         theta_tan[w:b], theta_tan[b:end], z_tan)
        activation_tangents_kernel(code, tape[a:a + batch * d_out], tape[slope:a], z_tan,
                                   tape[mirror + slope:mirror + a])


@host_device
def with_time(t, y, batch, x):
    """x = y, or (y, t) for each sample where x has room for t. Linear, so the tangents go the same way."""
    d, d_in = y.shape[0] // batch, x.shape[0] // batch
    if d_in == d:
        copy_into(y, x)
        return
    for i in range(batch):
        for j in range(d):
            x[i * d_in + j] = y[i * d + j]
        if d_in > d:
            x[i * d_in + d] = t


@host_device
def with_time_vjp(batch, x_bar, t_bar, y_bar):
    """`with_time` transposed: y_bar += x_bar, and t_bar += its last column where it has one."""
    d, d_in = y_bar.shape[0] // batch, x_bar.shape[0] // batch
    for i in range(batch):
        for j in range(d):
            y_bar[i * d + j] += x_bar[i * d_in + j]
        if d_in > d:
            t_bar[0] += x_bar[i * d_in + d]
