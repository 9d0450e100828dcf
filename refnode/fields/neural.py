"""Neural right-hand sides: the multilayer perceptron, dy/dt = W_L a_{L-1} + b_L, a_l = σ(W_l a_{l-1} + b_l).

One set of kernels, compiled once, serves every architecture: it reads the widths from the header of
its tape, which the host writes. The tape continues with the input (y, or (y, t)) and the activations of
every hidden layer, the slopes σ' where they cannot be had from the activations, and two buffers between
which tangents and cotangents pass to and fro. So `mlp_vjp` does no forward work.

Samples go through all layers in blocks of `BLOCK`, which stay in the cache; the buffers have room for one. From
`TILED_FROM` samples on there is room before the inputs, too, for the weights of all layers, packed once for all blocks
(`layers.tiles`), and for the rows of a block.

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
    dense, dense_hvp_kernel, dense_jvp_kernel, dense_packed, dense_packed_vjp, matmul_add, pack_dense, pack_dense_vjp)
from refnode.layers.parameters import mlp_layout
from refnode.layers.tiles import TILED_FROM, WIDEST, packed_size
from refnode.layers import single_activations                  # which activations have in single precision
from refnode.linalg import copy_into

# The header of the tape: these entries, then one row for each layer.
LAYERS, BATCH, ACTIVATION, BUFFERS_AT, BUFFER_SIZE, ROOM_AT, HEAD = 0, 1, 2, 3, 4, 5, 6
D_IN, D_OUT, W_AT, X_AT, SLOPE_AT, PACKED_AT, ROW = 0, 1, 2, 3, 4, 5, 6   # W in theta; input x, slope and packed W in the tape
BLOCK = 64               # samples that go through all layers before the next ones do


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
    packed, room_at, at = packed_plan(shapes, batch, HEAD + ROW * len(shapes))
    rows, w_at, start = [], 0, at
    for (d_out, d_in), packed_at in zip(shapes, packed):
        slope_at = at + batch * d_in
        rows.append((d_in, d_out, w_at, at, slope_at, packed_at))
        at = slope_at + (batch * d_out if keeps_slope and len(rows) < len(shapes) else 0)
        w_at += d_out * d_in + d_out
    buffer_size = min(batch, BLOCK) * max(d_in for _, d_in in shapes)
    head = (len(shapes), batch, ACTIVATIONS[activation].code, at, buffer_size, room_at)
    header = np.concatenate([head, np.ravel(rows)]).astype(np.float64)
    return header, -(-(at + 2 * buffer_size) // WIDEST) * WIDEST, at + 4 * buffer_size + (at - start)


def packed_plan(shapes, batch, at):
    """Where the packed weights of every layer lie, where a block of samples is packed, and where both end; 0 for too
    few samples. They begin on cache lines."""
    if batch < TILED_FROM:
        return [0] * len(shapes), 0, at
    at, places = -(-at // WIDEST) * WIDEST, []
    for d_out, d_in in shapes:
        places.append(at)
        at += max(packed_size(d_in, d_out), packed_size(d_out, d_in))           # for f, and for its transpose
    return places, at, at + max(packed_size(min(batch, BLOCK), d_in) for _, d_in in shapes)


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
def packed_place(tape, layer):
    """Where the packed weights of a layer begin and end; nowhere if there are none."""
    last = layer == int(tape[LAYERS]) - 1
    return layer_entry(tape, layer, PACKED_AT), int(tape[ROOM_AT]) if last else layer_entry(tape, layer + 1, PACKED_AT)


@host_device
def room_for_rows(tape):
    """Where a block of samples is packed."""
    at = int(tape[ROOM_AT])
    return at, layer_entry(tape, 0, X_AT) if at > 0 else 0


@host_device
def hidden_place(tape, layer, d_out, i, count):
    """Where the activations of a hidden layer for ``count`` samples from the i-th on begin and end, and their slopes."""
    a, slope = layer_entry(tape, layer + 1, X_AT), layer_entry(tape, layer, SLOPE_AT)
    kept = d_out if a > slope else 0                            # tanh keeps no slopes
    return a + i * d_out, a + (i + count) * d_out, slope + i * kept, slope + (i + count) * kept


@host_device
def mlp(t, y, theta, tape, dy):
    """dy = W_L a_{L-1} + b_L, a_l = σ(W_l a_{l-1} + b_l), a_0 = y or (y, t); see `mlp_field`."""
    n_layers, batch, code = int(tape[LAYERS]), int(tape[BATCH]), int(tape[ACTIVATION])
    first = layer_entry(tape, 0, X_AT)
    with_time(t, y, batch, tape[first:first + batch * layer_entry(tape, 0, D_IN)])
    for layer in range(n_layers):
        _, _, _, w, b, end = layer_place(tape, layer)
        packed, packed_end = packed_place(tape, layer)
        pack_dense(theta[w:b], theta[b:end], tape[packed:packed_end])
    for i in range(0, batch, BLOCK):
        mlp_rows(n_layers, code, i, min(BLOCK, batch - i), theta, tape, dy)


@host_device
def mlp_rows(n_layers, code, i, count, theta, tape, dy):
    """`mlp` for ``count`` samples from the i-th on."""
    for layer in range(n_layers):
        d_in, d_out, x, w, b, end = layer_place(tape, layer)
        packed, packed_end = packed_place(tape, layer)
        last = layer == n_layers - 1
        a, a_end, slope, slope_end = hidden_place(tape, layer, d_out, i, count) if not last else (0, 0, 0, 0)
        z = dy[i * d_out:(i + count) * d_out] if last else tape[a:a_end]
        dense_packed(count, tape[x + i * d_in:x + (i + count) * d_in], theta[w:b], theta[b:end], tape[packed:packed_end], z)
        if not last:
            activation_kernel(code, z, tape[slope:slope_end])


@host_device
def mlp_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
    """z_tan = W a_tan + W_tan a + b_tan, a_tan = σ'(z) z_tan, layer by layer; see `mlp`."""
    batch = int(tape[BATCH])
    d = y.shape[0] // batch
    for i in range(0, batch, BLOCK):
        count = min(BLOCK, batch - i)
        mlp_jvp_rows(t_tan, y_tan[i * d:(i + count) * d], i, count, theta, theta_tan, tape, dy_tan)


@host_device
def mlp_jvp_rows(t_tan, y_tan, i, count, theta, theta_tan, tape, dy_tan):
    """`mlp_jvp` for ``count`` samples from the i-th on, of which y_tan holds the tangents."""
    n_layers, code = int(tape[LAYERS]), int(tape[ACTIVATION])
    here, there = int(tape[BUFFERS_AT]), int(tape[BUFFERS_AT]) + int(tape[BUFFER_SIZE])
    with_time(t_tan, y_tan, count, tape[here:here + count * layer_entry(tape, 0, D_IN)])
    for layer in range(n_layers):
        d_in, d_out, x, w, b, end = layer_place(tape, layer)
        last = layer == n_layers - 1
        z_tan = dy_tan[i * d_out:(i + count) * d_out] if last else tape[there:there + count * d_out]
        dense_jvp_kernel(count, tape[x + i * d_in:x + (i + count) * d_in], theta[w:b], tape[here:here + count * d_in],
                         theta_tan[w:b], theta_tan[b:end], z_tan)
        if not last:
            a, a_end, slope, slope_end = hidden_place(tape, layer, d_out, i, count)
            activation_jvp_kernel(code, tape[a:a_end], tape[slope:slope_end], z_tan)
        here, there = there, here


@host_device
def mlp_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    """`mlp` transposed, last layer first: z_bar = σ'(z) a_bar, a_bar = Wᵀ z_bar, W_bar += z_bar aᵀ."""
    batch = int(tape[BATCH])
    d = y_bar.shape[0] // batch
    for layer in range(int(tape[LAYERS])):
        d_in, d_out, _, w, b, _ = layer_place(tape, layer)
        packed, packed_end = packed_place(tape, layer)
        pack_dense_vjp(d_out, theta[w:b], tape[packed:packed_end])
    for i in range(0, batch, BLOCK):
        count = min(BLOCK, batch - i)
        mlp_vjp_rows(i, count, theta, tape, dy_bar, t_bar, y_bar[i * d:(i + count) * d], theta_bar)


@host_device
def mlp_vjp_rows(i, count, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    """`mlp_vjp` for ``count`` samples from the i-th on, of which y_bar holds the cotangents."""
    n_layers, code = int(tape[LAYERS]), int(tape[ACTIVATION])
    here, there = int(tape[BUFFERS_AT]), int(tape[BUFFERS_AT]) + int(tape[BUFFER_SIZE])
    room, room_end = room_for_rows(tape)
    for layer in range(n_layers - 1, -1, -1):
        d_in, d_out, x, w, b, end = layer_place(tape, layer)
        packed, packed_end = packed_place(tape, layer)
        last = layer == n_layers - 1
        z_bar = dy_bar[i * d_out:(i + count) * d_out] if last else tape[here:here + count * d_out]
        if not last:
            a, a_end, slope, slope_end = hidden_place(tape, layer, d_out, i, count)
            activation_vjp_kernel(code, tape[a:a_end], tape[slope:slope_end], z_bar)
        dense_packed_vjp(count, tape[x + i * d_in:x + (i + count) * d_in], theta[w:b], tape[packed:packed_end],
                         tape[room:room_end], z_bar, tape[there:there + count * d_in], theta_bar[w:b], theta_bar[b:end])
        here, there = there, here
    with_time_vjp(count, tape[here:here + count * layer_entry(tape, 0, D_IN)], t_bar, y_bar)


@host_device
def mlp_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan,
            theta_bar_tan):
    """Tangent of `mlp_vjp`: z_bar_tan = σ' a_bar_tan + σ'' z_tan a_bar, a_bar_tan = Wᵀ z_bar_tan + W_tanᵀ z_bar.

    First come the tangents of all layers, as in `mlp_jvp`, then cotangents and their tangents, last layer first.
    """
    batch = int(tape[BATCH])
    d = y.shape[0] // batch
    mlp_tangents(t_tan, y_tan, theta, theta_tan, mirror_offset(tape), tape)
    for i in range(0, batch, BLOCK):
        count = min(BLOCK, batch - i)
        mlp_hvp_rows(i, count, theta, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan[i * d:(i + count) * d],
                     theta_bar_tan)


@host_device
def mlp_hvp_rows(i, count, theta, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan, theta_bar_tan):
    """What follows the tangents in `mlp_hvp` for ``count`` samples from the i-th on, of which y_bar_tan is a slice."""
    n_layers, code, mirror = int(tape[LAYERS]), int(tape[ACTIVATION]), mirror_offset(tape)
    here, there = int(tape[BUFFERS_AT]), int(tape[BUFFERS_AT]) + int(tape[BUFFER_SIZE])
    second = 2 * int(tape[BUFFER_SIZE])                         # from a buffer to that of its tangent
    for layer in range(n_layers - 1, -1, -1):
        d_in, d_out, x, w, b, end = layer_place(tape, layer)
        last = layer == n_layers - 1
        own, x = slice(i * d_out, (i + count) * d_out), x + i * d_in
        z_bar = dy_bar[own] if last else tape[here:here + count * d_out]
        z_bar_tan = dy_bar_tan[own] if last else tape[here + second:here + second + count * d_out]
        if not last:
            a, a_end, slope, slope_end = hidden_place(tape, layer, d_out, i, count)
            activation_hvp_kernel(code, tape[a:a_end], tape[slope:slope_end], tape[mirror + a:mirror + a_end],
                                  tape[mirror + slope:mirror + slope_end], z_bar, z_bar_tan)
        x_bar = tape[there:there + count * d_in]
        x_bar_tan = tape[there + second:there + second + count * d_in]
        x_bar[:] = 0.0
        x_bar_tan[:] = 0.0
        matmul_add(False, False, count, d_in, d_out, z_bar, theta[w:b], x_bar)
        dense_hvp_kernel(
            count, tape[x:x + count * d_in], theta[w:b], tape[mirror + x:mirror + x + count * d_in],
            theta_tan[w:b], z_bar, z_bar_tan, x_bar_tan, theta_bar_tan[w:b], theta_bar_tan[b:end])
        here, there = there, here
    here += second
    with_time_vjp(count, tape[here:here + count * layer_entry(tape, 0, D_IN)], t_bar_tan, y_bar_tan)


@host_device
def mirror_offset(tape):
    """How far behind an input, activation or slope its tangent lies in the tape of `mlp_hvp`."""
    return int(tape[BUFFERS_AT]) + 4 * int(tape[BUFFER_SIZE]) - layer_entry(tape, 0, X_AT)


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
    if d_in == d:
        for m in range(y_bar.shape[0]):
            y_bar[m] += x_bar[m]
        return
    for i in range(batch):
        for j in range(d):
            y_bar[i * d + j] += x_bar[i * d_in + j]
        if d_in > d:
            t_bar[0] += x_bar[i * d_in + d]
