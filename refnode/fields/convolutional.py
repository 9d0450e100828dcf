"""The convolutional right-hand side of an ODE-Net: convolution, group norm, activation, ..., convolution, group norm.

Layer l of L turns an image x_l (height, width, c_l), at every t the same size, into

    z_l = K_l * (x_l, t) + b_l,   y_l = γ_l û_l + β_l with û_l = (z_l - μ) r,   x_{l+1} = σ(y_l),

and dy/dt = y_L, without σ. Where time is an input it is one more channel of every convolution, as in the ODE-Net of
Chen et al. (2018); their block also begins with a norm and an activation, this one does not.

As with the perceptron (`fields.neural`), one compiled set of kernels serves every architecture: sizes stand in the
header of the tape. Behind it come each layer's input, û, r and, where σ needs it, σ'; then two buffers for tangents and
cotangents, and two workspaces for patches. Only the tape of second derivatives has room for two more buffers,
a third workspace, and a mirror of everything stored that holds its tangents.

References
----------
Chen, Rubanova, Bettencourt & Duvenaud, Neural ordinary differential equations, NeurIPS 2018.
"""
import math

import numpy as np

from refnode.errors import InvalidInputError
from refnode.fields.field import VectorField
from refnode.host_device import host_device
from refnode.layers import single_activations                  # which activations have in single precision
from refnode.layers.activations import (
    ACTIVATIONS, activation_hvp_kernel, activation_jvp_kernel, activation_kernel, activation_tangents_kernel,
    activation_vjp_kernel)
from refnode.layers.convolution import (
    conv2d, conv2d_hvp_kernel, conv2d_jvp_kernel, conv2d_kernel, conv2d_transpose_add, conv2d_vjp_kernel, workspace_size)
from refnode.layers.normalization import (
    EPSILON, affine_tangent_kernel, group_norm, group_norm_hvp_kernel, group_norm_jvp_kernel, group_norm_kernel,
    group_norm_tangents_kernel, group_norm_vjp_kernel)
from refnode.layers.parameters import ParameterLayout
from refnode.linalg import copy_into

# The header of the tape: these entries, then one row for each layer.
LAYERS, BATCH, HEIGHT, WIDTH, SIDE, ACTIVATION, GROUPS, TIMED, BUFFERS_AT, BUFFER_SIZE, SEEN_AT, SEEN_SIZE = range(12)
HEAD = 12
C_IN, C_OUT, K_AT, X_AT, U_AT, R_AT, SLOPE_AT, ROW = range(8)          # K in theta; the others in the tape


# --- the field --------------------------------------------------------------------------------------

def conv_field(channels, height, width, k=3, groups=1, activation="tanh", batch=1, time_input=False):
    """Field of stacked convolutions, applied to each of a batch of images held as one state.

    Parameters
    ----------
    channels : sequence of int
        c, the hidden channels, c. Two are one convolution and its norm.
    height, width : int
        Of the images; the state is the (batch, height, width, c) array of them.
    k : int, odd
        Side of the filters; the image keeps its size.
    groups : int
        Of the group norms; a divisor of every number of channels.
    activation : {"tanh", "softplus", "sine"}
    batch : int
    time_input : bool
        Whether t is one more channel of every convolution, the last.

    Returns
    -------
    field : VectorField
        With n = batch height width c; ``conv_layout(channels, k, time_input)`` names the p parameters.

    Raises
    ------
    InvalidInputError
        If an argument is not as above.
    """
    layout = conv_layout(channels, k, time_input)
    channels = tuple(int(c) for c in channels)
    if channels[0] != channels[-1]:
        raise InvalidInputError(f"channels must begin and end with the state's, found {channels[0]} and {channels[-1]}")
    if activation not in ACTIVATIONS:
        raise InvalidInputError(f"activation must be one of {list(ACTIVATIONS)}, found {activation!r}")
    for name, value in (("height", height), ("width", width), ("groups", groups), ("batch", batch)):
        if int(value) != value or value < 1:
            raise InvalidInputError(f"{name} must be a positive integer, found {value!r}")
    if any(c % groups for c in channels[1:]):
        raise InvalidInputError(f"groups must divide every number of channels {channels}, found {groups}")
    header, tape_size, hvp_tape_size = tape_plan(channels, height, width, k, groups, activation, batch, time_input)
    name = "_".join(["conv", *map(str, channels), f"{height}x{width}", activation] + ["time"] * bool(time_input))
    return VectorField(
        conv_rhs, jvp=conv_jvp, vjp=conv_vjp, hvp=conv_hvp, name=name, n=batch * height * width * channels[0], p=layout.size,
        tape_size=tape_size, tape_header=header, hvp_tape_size=hvp_tape_size,
        numpy_form=conv_numpy(layout, height, width, channels[0], groups, activation, time_input))


def conv_layout(channels, k=3, time_input=False):
    """Layout K1, b1, gamma1, beta1, K2, ... of a convolutional field; K of a layer is (c_out, k, k, c_in or c_in + 1)."""
    channels = tuple(channels)
    if len(channels) < 2 or any(int(c) != c or c < 1 for c in channels):
        raise InvalidInputError(f"channels must be two or more positive integers, found {channels}")
    if int(k) != k or k < 1 or k % 2 == 0:
        raise InvalidInputError(f"k must be a positive odd integer, found {k!r}")
    shapes = {}
    for number, (c_in, c_out) in enumerate(zip(channels, channels[1:]), start=1):
        shapes[f"K{number}"] = (int(c_out), int(k), int(k), int(c_in) + bool(time_input))
        shapes.update({f"{name}{number}": (int(c_out),) for name in ("b", "gamma", "beta")})
    return ParameterLayout(shapes)


def initial_conv_parameters(layout, rng):
    """Random initial theta of a layout: normal filters of variance 1 / fan-in, γ = 1, the rest 0."""
    theta = np.zeros(layout.size)
    for name, array in layout.unpack(theta).items():
        if name.startswith("K"):
            array[:] = rng.standard_normal(array.shape) / math.sqrt(array[0].size)
        elif name.startswith("gamma"):
            array[:] = 1.0
    return theta


def tape_plan(channels, height, width, k, groups, activation, batch, time_input):
    """The header of the tape, which says where everything is, and the tape's size without and with hvp."""
    pixels, keeps_slope = batch * height * width, ACTIVATIONS[activation].keeps_slope
    layers = len(channels) - 1
    at = start = HEAD + ROW * layers
    rows, k_at = [], 0
    for number, (c_in, c_out) in enumerate(zip(channels, channels[1:])):
        u_at = at + pixels * c_in
        r_at = u_at + pixels * c_out
        slope_at = r_at + batch * groups
        rows.append((c_in, c_out, k_at, at, u_at, r_at, slope_at))
        at = slope_at + (pixels * c_out if keeps_slope and number < layers - 1 else 0)
        k_at += c_out * (k * k * (c_in + bool(time_input)) + 3)
    buffer_size = pixels * max(channels)
    seen_size = max(workspace_size(geometry_of(batch, height, width, c, k), time_input) for c in channels[:-1])
    head = (layers, batch, height, width, k, ACTIVATIONS[activation].code, groups, bool(time_input), at, buffer_size,
            at + 2 * buffer_size, seen_size)
    header = np.concatenate([head, np.ravel(rows)]).astype(np.float64)
    tape_size = at + 2 * buffer_size + 2 * seen_size
    return header, tape_size, tape_size + 2 * buffer_size + seen_size + at - start


def conv_numpy(layout, height, width, c, groups, activation, time_input):
    """The same field as ``fun(t, y, theta) -> dy`` in plain NumPy, valid for complex arrays too."""
    sigma, layers = ACTIVATIONS[activation].form, len(layout.shapes) // 4
    padding = layout.shapes["K1"][1] // 2

    def conv_of_arrays(t, y, theta):
        arrays, x = layout.unpack(theta), y.reshape(-1, height, width, c)
        for number in range(1, layers + 1):
            K, b, gamma, beta = (arrays[f"{name}{number}"] for name in ("K", "b", "gamma", "beta"))
            if time_input:
                x = np.concatenate([x, np.full((*x.shape[:3], 1), t)], axis=3)
            x = group_norm(conv2d(x, K, b, 1, padding), groups, gamma, beta)
            x = x if number == layers else sigma(x)
        return x.ravel()

    return conv_of_arrays


# --- where everything is ----------------------------------------------------------------------------

@host_device
def geometry_of(batch, height, width, c_in, k):
    """The geometry of a convolution that keeps the size of the image."""
    return batch, height, width, c_in, k, k, 1, k // 2


@host_device
def sizes(tape):
    """Number of layers, batch, groups, whether time is an input, and the activation's code."""
    return int(tape[LAYERS]), int(tape[BATCH]), int(tape[GROUPS]), tape[TIMED] != 0.0, int(tape[ACTIVATION])


@host_device
def entry(tape, layer, column):
    """An entry of the header's row for one layer."""
    return int(tape[HEAD + ROW * layer + column])


@host_device
def layer_geometry(tape, layer):
    """The geometry of a layer's convolution."""
    return geometry_of(int(tape[BATCH]), int(tape[HEIGHT]), int(tape[WIDTH]), entry(tape, layer, C_IN), int(tape[SIDE]))


@host_device
def in_theta(tape, layer):
    """Where K, b, γ and β of a layer begin in theta, and where they end."""
    side, c_out = int(tape[SIDE]), entry(tape, layer, C_OUT)
    K = entry(tape, layer, K_AT)
    b = K + c_out * side * side * (entry(tape, layer, C_IN) + int(tape[TIMED]))
    return K, b, b + c_out, b + 2 * c_out, b + 3 * c_out


@host_device
def in_tape(tape, layer):
    """Where a layer's x, û, r and slope begin in the tape."""
    return entry(tape, layer, X_AT), entry(tape, layer, U_AT), entry(tape, layer, R_AT), entry(tape, layer, SLOPE_AT)


@host_device
def activated(tape, layer):
    """Where the activations of a layer, the next one's input, begin and end; and the end of its slopes."""
    a = entry(tape, layer + 1, X_AT)
    return a, entry(tape, layer + 1, U_AT), a


@host_device
def workspaces(tape):
    """Where the two buffers and the two workspaces begin, and where the latter end."""
    one, size, seen, seen_size = int(tape[BUFFERS_AT]), int(tape[BUFFER_SIZE]), int(tape[SEEN_AT]), int(tape[SEEN_SIZE])
    return one, one + size, seen, seen + seen_size, seen + 2 * seen_size


# --- f, its tangent and its transpose ---------------------------------------------------------------

@host_device
def conv_rhs(t, y, theta, tape, dy):
    """z = K * (x, t) + b, y = γ û + β, x = σ(y), layer by layer, the last without σ; see `conv_field`."""
    layers, batch, groups, timed, code = sizes(tape)
    _, _, seen, seen_end, _ = workspaces(tape)
    first = entry(tape, 0, X_AT)
    copy_into(y, tape[first:first + y.shape[0]])
    for layer in range(layers):
        K, b, gamma, beta, end = in_theta(tape, layer)
        x, u, r, slope = in_tape(tape, layer)
        conv2d_kernel(layer_geometry(tape, layer), tape[x:u], timed, t, theta[K:b], theta[b:gamma], tape[seen:seen_end],
                      tape[u:r])
        if layer == layers - 1:
            group_norm_kernel(batch, groups, EPSILON, tape[u:r], theta[gamma:beta], theta[beta:end], tape[u:r], tape[r:slope],
                              dy)
        else:
            a, a_end, slope_end = activated(tape, layer)
            group_norm_kernel(batch, groups, EPSILON, tape[u:r], theta[gamma:beta], theta[beta:end], tape[u:r], tape[r:slope],
                              tape[a:a_end])
            activation_kernel(code, tape[a:a_end], tape[slope:slope_end])


@host_device
def conv_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
    """z_tan = K * (x_tan, t_tan) + K_tan * (x, t) + b_tan, then the tangents of norm and σ, layer by layer."""
    layers, batch, groups, timed, code = sizes(tape)
    here, there, seen, seen_tan, seen_end = workspaces(tape)
    copy_into(y_tan, tape[here:here + y_tan.shape[0]])
    for layer in range(layers):
        K, b, gamma, beta, end = in_theta(tape, layer)
        x, u, r, slope = in_tape(tape, layer)
        z_tan = dy_tan if layer == layers - 1 else tape[there:there + r - u]
        conv2d_jvp_kernel(layer_geometry(tape, layer), tape[x:u], timed, t, theta[K:b], t_tan, tape[here:here + u - x],
                          theta_tan[K:b], theta_tan[b:gamma], tape[seen:seen_tan], tape[seen_tan:seen_end], z_tan)
        group_norm_jvp_kernel(batch, groups, tape[u:r], tape[r:slope], theta[gamma:beta], z_tan, theta_tan[gamma:beta],
                              theta_tan[beta:end], z_tan)
        if layer < layers - 1:
            a, a_end, slope_end = activated(tape, layer)
            activation_jvp_kernel(code, tape[a:a_end], tape[slope:slope_end], z_tan)
        here, there = there, here


@host_device
def conv_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    """`conv_rhs` transposed, last layer first: y_bar = σ' x_bar, z_bar = r P(γ y_bar), x_bar = Kᵀ z_bar."""
    layers, batch, groups, timed, code = sizes(tape)
    here, there, seen, seen_bar, seen_end = workspaces(tape)
    copy_into(dy_bar, tape[here:here + dy_bar.shape[0]])
    for layer in range(layers - 1, -1, -1):
        K, b, gamma, beta, end = in_theta(tape, layer)
        x, u, r, slope = in_tape(tape, layer)
        out_bar, z_bar, x_bar = tape[here:here + r - u], tape[there:there + r - u], tape[here:here + u - x]
        if layer < layers - 1:                                  # x = σ(y)
            a, a_end, slope_end = activated(tape, layer)
            activation_vjp_kernel(code, tape[a:a_end], tape[slope:slope_end], out_bar)
        z_bar[:] = 0.0                                          # y = γ û + β
        group_norm_vjp_kernel(batch, groups, tape[u:r], tape[r:slope], theta[gamma:beta], out_bar, out_bar, z_bar,
                              theta_bar[gamma:beta], theta_bar[beta:end])
        x_bar[:] = 0.0                                          # z = K * (x, t) + b
        conv2d_vjp_kernel(layer_geometry(tape, layer), tape[x:u], timed, t, theta[K:b], z_bar, tape[seen:seen_bar],
                          tape[seen_bar:seen_end], t_bar, x_bar, theta_bar[K:b], theta_bar[b:gamma])
    for m in range(y_bar.shape[0]):
        y_bar[m] += tape[here + m]


# --- the tangent of the transpose -------------------------------------------------------------------

@host_device
def behind(tape):
    """Where the scratch of `conv_hvp` begins: the buffers' tangents, the third workspace; and the mirror's offset."""
    _, _, _, _, end = workspaces(tape)
    third = end + 2 * int(tape[BUFFER_SIZE])
    mirror = third + int(tape[SEEN_SIZE])
    return end, third, mirror, mirror - (HEAD + ROW * int(tape[LAYERS]))


@host_device
def conv_tangents(t, theta, t_tan, y_tan, theta_tan, tape):
    """Tangents of x, û, r and the slopes of all layers, into the mirror of the tape."""
    layers, batch, groups, timed, code = sizes(tape)
    here, _, seen, seen_tan, seen_end = workspaces(tape)
    _, _, _, shift = behind(tape)
    first = shift + entry(tape, 0, X_AT)
    copy_into(y_tan, tape[first:first + y_tan.shape[0]])
    for layer in range(layers):
        K, b, gamma, beta, end = in_theta(tape, layer)
        x, u, r, slope = in_tape(tape, layer)
        u_tan = tape[shift + u:shift + r]
        conv2d_jvp_kernel(layer_geometry(tape, layer), tape[x:u], timed, t, theta[K:b], t_tan, tape[shift + x:shift + u],
                          theta_tan[K:b], theta_tan[b:gamma], tape[seen:seen_tan], tape[seen_tan:seen_end], u_tan)
        group_norm_tangents_kernel(batch, groups, gamma - b, tape[u:r], tape[r:slope], u_tan, u_tan,
                                   tape[shift + r:shift + slope])
        if layer < layers - 1:
            a, a_end, slope_end = activated(tape, layer)
            a_tan = tape[shift + a:shift + a_end]
            affine_tangent_kernel(tape[u:r], theta[gamma:beta], u_tan, theta_tan[gamma:beta], theta_tan[beta:end], a_tan)
            activation_tangents_kernel(code, tape[a:a_end], tape[slope:slope_end], a_tan,
                                       tape[shift + slope:shift + slope_end])


@host_device
def conv_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan, theta_bar_tan):
    """Tangent of `conv_vjp`: the tangents of all layers first, then cotangents and their tangents, last layer first."""
    layers, batch, groups, timed, code = sizes(tape)
    conv_tangents(t, theta, t_tan, y_tan, theta_tan, tape)
    bar, _, seen, seen_tan, seen_end = workspaces(tape)
    bar_tan, third, mirror, shift = behind(tape)
    there, there_tan = bar + int(tape[BUFFER_SIZE]), bar_tan + int(tape[BUFFER_SIZE])
    copy_into(dy_bar, tape[bar:bar + dy_bar.shape[0]])
    copy_into(dy_bar_tan, tape[bar_tan:bar_tan + dy_bar.shape[0]])
    for layer in range(layers - 1, -1, -1):
        K, b, gamma, beta, end = in_theta(tape, layer)
        x, u, r, slope = in_tape(tape, layer)
        z_bar, z_bar_tan = tape[bar:bar + r - u], tape[bar_tan:bar_tan + r - u]
        if layer < layers - 1:
            a, a_end, slope_end = activated(tape, layer)
            activation_hvp_kernel(code, tape[a:a_end], tape[slope:slope_end], tape[shift + a:shift + a_end],
                                  tape[shift + slope:shift + slope_end], z_bar, z_bar_tan)
        group_norm_hvp_kernel(batch, groups, tape[u:r], tape[r:slope], theta[gamma:beta], tape[shift + u:shift + r],
                              tape[shift + r:shift + slope], theta_tan[gamma:beta], z_bar, z_bar_tan,
                              theta_bar_tan[gamma:beta], theta_bar_tan[beta:end])
        x_bar, x_bar_tan = tape[there:there + u - x], tape[there_tan:there_tan + u - x]
        x_bar[:] = 0.0
        x_bar_tan[:] = 0.0
        conv2d_hvp_kernel(layer_geometry(tape, layer), tape[x:u], timed, t, theta[K:b], t_tan, tape[shift + x:shift + u],
                          theta_tan[K:b], z_bar, z_bar_tan, tape[seen:seen_tan], tape[seen_tan:seen_end],
                          tape[third:mirror], t_bar_tan, x_bar_tan, theta_bar_tan[K:b], theta_bar_tan[b:gamma])
        if layer > 0:                                           # x_bar = Kᵀ z_bar; the first layer's is not needed
            conv2d_transpose_add(layer_geometry(tape, layer), timed, theta[K:b], gamma - b, z_bar, tape[seen:seen_tan], x_bar)
        bar, there, bar_tan, there_tan = there, bar, there_tan, bar_tan
    for m in range(y_bar_tan.shape[0]):
        y_bar_tan[m] += tape[bar_tan + m]
