"""A tanh perceptron that carries the cost of its own dynamics: how long, bent or expanding its paths are.

The state is (y, q): y a batch of samples, dy/dt = f(t, y), and q the cost, with the rate

    kinetic     |f|^2                       kinetic energy (Finlay et al. 2020)
    taylor2     |d2y/dt2|^2                 total derivatives along the path (Kelly et al. 2020)
    taylor3     |d3y/dt3|^2
    jacobian    |(df/dy) e|^2               e a fixed random vector: in the mean the squared Frobenius norm (Finlay et al.)

as a mean over the samples. Total derivatives are jets: the k-th derivatives of all layers in t are pushed through the
perceptron, sweep after sweep. Sweep 0 is the perceptron itself, and what comes out of sweep k - 1 goes into sweep k, for
d(k)y/dt(k) is the (k-1)-th derivative of f. With a hidden layer a = tanh(z), s = 1 - a^2,

    a_1 = s z_1,    a_2 = s z_2 - 2 a s z_1^2,    z_k = W x_k  (and + b for k = 0).

"jacobian" is sweep 1 with e in the place of f. Its e stands in theta, behind the weights, so that one field serves every
draw, and the gradient has a part for it.

References
----------
Finlay, Jacobsen, Nurbekyan & Oberman, How to train your neural ODE: the world of Jacobian and kinetic regularization, 2020.
Kelly, Bettencourt, Johnson & Duvenaud, Learning differential equations that are easy to solve, 2020.
"""
import numpy as np

from refnode.errors import InvalidInputError
from refnode.fields.field import VectorField
from refnode.fields.neural import with_time, with_time_vjp
from refnode.host_device import host_device
from refnode.layers.dense import dense_kernel, matmul_add
from refnode.layers.parameters import mlp_layout

# The header of the tape: these entries, then one row for each layer.
LAYERS, BATCH, SWEEPS, NOISE, WEIGHTS, OUT_AT, MIRROR, BUFFER_AT, HEAD = 0, 1, 2, 3, 4, 5, 6, 7, 8
D_IN, D_OUT, W_AT, X_AT, Z_AT, ROW = 0, 1, 2, 3, 4, 5     # W in theta; inputs x_k, and z_k from k = 1 on, in the tape

COSTS = {"kinetic": 1, "taylor2": 2, "taylor3": 3, "jacobian": 2}         # cost: sweeps


def regularised_mlp(widths, cost, batch=1, time_input=True):
    """Field of (y, q), y a batch of samples under a tanh perceptron and q the cost of its paths.

    Parameters
    ----------
    widths : sequence of int
        d, the hidden widths, d.
    cost : {"kinetic", "taylor2", "taylor3", "jacobian"}
    batch : int
        Number of samples; y is the (batch, d) array of them, row after row.
    time_input : bool
        Whether t is one more input of the first layer, the last.

    Returns
    -------
    field : VectorField
        With n = batch d + 1; theta as ``mlp_layout(widths, time_input)`` names it, for "jacobian" followed by e, (batch d,).

    Raises
    ------
    InvalidInputError
        If there is no such cost, the widths do not lead from d to d, or ``batch`` is none.
    """
    layout = mlp_layout(widths, time_input)
    if widths[0] != widths[-1]:
        raise InvalidInputError(
            f"widths must begin and end with the state's dimension, found {widths[0]} and {widths[-1]}")
    if cost not in COSTS:
        raise InvalidInputError(f"cost must be one of {list(COSTS)}, found {cost!r}")
    if int(batch) != batch or batch < 1:
        raise InvalidInputError(f"batch must be a positive integer, found {batch!r}")
    n = int(batch) * int(widths[0])
    header, tape_size = tape_plan(layout, cost, int(batch), n)
    return VectorField(
        regularised, jvp=regularised_jvp, vjp=regularised_vjp, name="_".join([cost, *map(str, widths)]), n=n + 1,
        p=layout.size + (n if cost == "jacobian" else 0), tape_size=tape_size, tape_header=header,
        numpy_form=regularised_numpy(layout, cost, time_input))


def tape_plan(layout, cost, batch, n):
    """The header, which says where everything is, and the size of the tape: values, a mirror for tangents or cotangents, a buffer."""
    shapes = [shape for shape in layout.shapes.values() if len(shape) == 2]
    sweeps = COSTS[cost]
    start = at = HEAD + ROW * len(shapes)
    rows, w_at = [], 0
    for number, (d_out, d_in) in enumerate(shapes):
        z_at = at + sweeps * batch * d_in
        rows.append((d_in, d_out, w_at, at, z_at))
        at = z_at + (sweeps - 1) * batch * d_out
        w_at += d_out * d_in + d_out
    out_at, end = at, at + sweeps * n
    mirror, buffer_at = end - start, end + end - start
    header = np.concatenate([(len(shapes), batch, sweeps, cost == "jacobian", layout.size, out_at, mirror, buffer_at),
                             np.ravel(rows)]).astype(np.float64)
    return header, buffer_at + batch * max(d_out for d_out, _ in shapes)


def regularised_numpy(layout, cost, time_input):
    """The same field as ``fun(t, y, theta) -> dy`` in plain NumPy, valid for complex arrays too."""
    n_layers = len(layout.shapes) // 2
    d = layout.shapes["W1"][1] - bool(time_input)

    def input_of(t, y):
        x = y.reshape(-1, d)
        return np.column_stack([x, np.full(x.shape[0], t)]) if time_input else x

    def jets(inputs, arrays):
        """The sweeps through all layers: outputs of the k-th, for the k-th derivatives of the input."""
        for number in range(1, n_layers + 1):
            W, b = arrays[f"W{number}"], arrays[f"b{number}"]
            z = [x @ W.T + (b if k == 0 else 0.0) for k, x in enumerate(inputs)]
            inputs = z if number == n_layers else activation_jets(z)
        return inputs

    def rate(t, y, theta):
        arrays, samples = layout.unpack(theta[:layout.size]), y[:-1]
        inputs = [input_of(t, samples)]
        f = jets(inputs, arrays)[0]
        out = f
        for k in range(1, COSTS[cost]):
            moving = theta[layout.size:] if cost == "jacobian" else out.ravel()
            inputs.append(input_of(1.0 if k == 1 and cost != "jacobian" else 0.0, moving))
            out = jets(inputs, arrays)[-1]
        return np.append(f.ravel(), np.sum(out * out) / out.shape[0])

    return rate


def activation_jets(z):
    """a_0 = tanh z_0 and its first derivatives from those of z: one to three of them."""
    a = np.tanh(z[0])
    s = 1.0 - a * a
    jets = [a] + [s * z_k for z_k in z[1:]]
    if len(z) > 2:
        jets[2] = jets[2] - 2.0 * a * s * z[1] * z[1]
    return jets


# --- where things are -----------------------------------------------------------------------------

@host_device
def row_entry(tape, layer, column):
    """An entry of the header's row for one layer."""
    return int(tape[HEAD + ROW * layer + column])


@host_device
def input_place(tape, layer, k):
    """Where x_k of a layer begins; its mirror lies tape[MIRROR] behind. The inputs of the layer after the last are the outputs."""
    if layer == int(tape[LAYERS]):
        last = layer - 1
        return int(tape[OUT_AT]) + k * int(tape[BATCH]) * row_entry(tape, last, D_OUT)
    return row_entry(tape, layer, X_AT) + k * int(tape[BATCH]) * row_entry(tape, layer, D_IN)


@host_device
def preactivation_place(tape, layer, k):
    """Where z_k of a hidden layer begins, k at least 1."""
    return row_entry(tape, layer, Z_AT) + (k - 1) * int(tape[BATCH]) * row_entry(tape, layer, D_OUT)


# --- the field ------------------------------------------------------------------------------------

@host_device
def regularised(t, y, theta, tape, dy):
    """dy = (f, cost rate); see the module. Leaves all jets in the tape."""
    n, sweeps, batch = y.shape[0] - 1, int(tape[SWEEPS]), int(tape[BATCH])
    for k in range(sweeps):
        first = input_place(tape, 0, k)
        x = tape[first:first + batch * row_entry(tape, 0, D_IN)]
        if k == 0:
            with_time(t, y[:n], batch, x)
        elif tape[NOISE] > 0.0:
            weights = int(tape[WEIGHTS])
            with_time(0.0, theta[weights:weights + n], batch, x)
        else:
            below = input_place(tape, int(tape[LAYERS]), k - 1)
            with_time(1.0 if k == 1 else 0.0, tape[below:below + n], batch, x)
        sweep(k, batch, theta, tape)
    out, top = int(tape[OUT_AT]), input_place(tape, int(tape[LAYERS]), sweeps - 1)
    dy[n] = 0.0
    for i in range(n):
        dy[i] = tape[out + i]
        dy[n] += tape[top + i] * tape[top + i] / batch


@host_device
def sweep(k, batch, theta, tape):
    """The k-th derivatives of all layers, from those of the input and the lower ones of the layers."""
    for layer in range(int(tape[LAYERS])):
        d_in, d_out = row_entry(tape, layer, D_IN), row_entry(tape, layer, D_OUT)
        w, size = row_entry(tape, layer, W_AT), batch * d_out
        x, a = input_place(tape, layer, k), input_place(tape, layer + 1, k)
        hidden = layer < int(tape[LAYERS]) - 1
        z = preactivation_place(tape, layer, k) if hidden and k > 0 else a
        if k == 0:
            dense_kernel(batch, tape[x:x + batch * d_in], theta[w:w + d_in * d_out],
                         theta[w + d_in * d_out:w + d_in * d_out + d_out], tape[z:z + size])
        else:
            tape[z:z + size] = 0.0
            matmul_add(False, True, batch, d_out, d_in, tape[x:x + batch * d_in], theta[w:w + d_in * d_out],
                       tape[z:z + size])
        if hidden:
            activation_jet(k, size, a, input_place(tape, layer + 1, 0), preactivation_place(tape, layer, 1), tape)


@host_device
def activation_jet(k, size, a_k, a_0, z_1, tape):
    """a_0 = tanh z_0 in place; a_1 = s z_1; a_2 = s z_2 - 2 a s z_1^2, z_2 right behind z_1; see `activation_jets`."""
    for i in range(size):
        if k == 0:
            tape[a_0 + i] = np.tanh(tape[a_0 + i])
        else:
            a, z = tape[a_0 + i], tape[z_1 + i]
            s = 1.0 - a * a
            tape[a_k + i] = s * z if k == 1 else s * tape[z_1 + size + i] - 2.0 * a * s * z * z


# --- its tangent ----------------------------------------------------------------------------------

@host_device
def regularised_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
    """Tangent of `regularised`, sweep by sweep; the tangents of all jets lie in the mirror."""
    n, sweeps, batch, mirror = y.shape[0] - 1, int(tape[SWEEPS]), int(tape[BATCH]), int(tape[MIRROR])
    for k in range(sweeps):
        first = mirror + input_place(tape, 0, k)
        x_tan = tape[first:first + batch * row_entry(tape, 0, D_IN)]
        if k == 0:
            with_time(t_tan, y_tan[:n], batch, x_tan)
        elif tape[NOISE] > 0.0:
            weights = int(tape[WEIGHTS])
            with_time(0.0, theta_tan[weights:weights + n], batch, x_tan)
        else:
            below = mirror + input_place(tape, int(tape[LAYERS]), k - 1)
            with_time(0.0, tape[below:below + n], batch, x_tan)
        sweep_jvp(k, batch, theta, theta_tan, tape)
    out, top = mirror + int(tape[OUT_AT]), input_place(tape, int(tape[LAYERS]), sweeps - 1)
    dy_tan[n] = 0.0
    for i in range(n):
        dy_tan[i] = tape[out + i]
        dy_tan[n] += 2.0 * tape[top + i] * tape[mirror + top + i] / batch


@host_device
def sweep_jvp(k, batch, theta, theta_tan, tape):
    """Tangent of `sweep`: z_tan = W x_tan + W_tan x (+ b_tan), and that of the activation."""
    mirror = int(tape[MIRROR])
    for layer in range(int(tape[LAYERS])):
        d_in, d_out = row_entry(tape, layer, D_IN), row_entry(tape, layer, D_OUT)
        w, size = row_entry(tape, layer, W_AT), batch * d_out
        b = w + d_in * d_out
        x, a = input_place(tape, layer, k), input_place(tape, layer + 1, k)
        hidden = layer < int(tape[LAYERS]) - 1
        z = mirror + (preactivation_place(tape, layer, k) if hidden and k > 0 else a)
        for i in range(size):
            tape[z + i] = theta_tan[b + i % d_out] if k == 0 else 0.0
        matmul_add(False, True, batch, d_out, d_in, tape[mirror + x:mirror + x + batch * d_in], theta[w:b], tape[z:z + size])
        matmul_add(False, True, batch, d_out, d_in, tape[x:x + batch * d_in], theta_tan[w:b], tape[z:z + size])
        if hidden:
            activation_jet_jvp(k, size, a, input_place(tape, layer + 1, 0), preactivation_place(tape, layer, 1), mirror, tape)


@host_device
def activation_jet_jvp(k, size, a_k, a_0, z_1, mirror, tape):
    """Tangent of `activation_jet`, with s_tan = -2 a a_tan and (-2 a s)_tan = (6 a^2 - 2) a_tan."""
    for i in range(size):
        a = tape[a_0 + i]
        s = 1.0 - a * a
        if k == 0:
            tape[mirror + a_0 + i] = s * tape[mirror + a_0 + i]
            continue
        a_tan, z, z_tan = tape[mirror + a_0 + i], tape[z_1 + i], tape[mirror + z_1 + i]
        if k == 1:
            tape[mirror + a_k + i] = s * z_tan - 2.0 * a * a_tan * z
        else:
            z_2, z_2_tan = tape[z_1 + size + i], tape[mirror + z_1 + size + i]
            tape[mirror + a_k + i] = (s * z_2_tan - 2.0 * a * a_tan * z_2
                                      - 4.0 * a * s * z * z_tan + (6.0 * a * a - 2.0) * a_tan * z * z)


# --- its transpose --------------------------------------------------------------------------------

@host_device
def regularised_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    """Transpose of `regularised_jvp`: the last sweep first, its cotangents in the mirror."""
    n, sweeps, batch, mirror = y.shape[0] - 1, int(tape[SWEEPS]), int(tape[BATCH]), int(tape[MIRROR])
    layers, d_in = int(tape[LAYERS]), row_entry(tape, 0, D_IN)
    out, top = int(tape[OUT_AT]), input_place(tape, layers, sweeps - 1)
    tape[mirror + out:mirror + out + sweeps * n] = 0.0
    for i in range(n):
        tape[mirror + out + i] += dy_bar[i]                                       # dy[i] = tape[out + i]
        tape[mirror + top + i] += 2.0 * tape[top + i] * dy_bar[n] / batch         # dy[n] += tape[top + i]^2 / batch
    for k in range(sweeps - 1, -1, -1):
        sweep_vjp(k, batch, theta, tape, theta_bar)
        first = mirror + input_place(tape, 0, k)
        x_bar = tape[first:first + batch * d_in]
        if k == 0:
            with_time_vjp(batch, x_bar, t_bar, y_bar[:n])                         # with_time(t, y[:n], batch, x)
            continue
        constant = tape[int(tape[BUFFER_AT]):int(tape[BUFFER_AT]) + 1]            # the time's rate, 1 or 0, moves with nothing
        if tape[NOISE] > 0.0:
            weights = int(tape[WEIGHTS])
            with_time_vjp(batch, x_bar, constant, theta_bar[weights:weights + n])
        else:
            below = mirror + input_place(tape, layers, k - 1)
            with_time_vjp(batch, x_bar, constant, tape[below:below + n])          # with_time(1, tape[below:below + n], ...)


@host_device
def sweep_vjp(k, batch, theta, tape, theta_bar):
    """Transpose of `sweep_jvp`, last layer first: x_bar = W' z_bar, W_bar += z_bar x', b_bar += z_bar in sweep 0."""
    mirror, sweeps, layers = int(tape[MIRROR]), int(tape[SWEEPS]), int(tape[LAYERS])
    for layer in range(layers - 1, -1, -1):
        d_in, d_out = row_entry(tape, layer, D_IN), row_entry(tape, layer, D_OUT)
        w, size = row_entry(tape, layer, W_AT), batch * d_out
        b = w + d_in * d_out
        x = input_place(tape, layer, k)
        z_at = mirror + input_place(tape, layer + 1, k)
        if layer < layers - 1:
            z_at = int(tape[BUFFER_AT])
            activation_jet_vjp(k, sweeps, size, input_place(tape, layer + 1, 0), preactivation_place(tape, layer, 1),
                               mirror, tape, tape[z_at:z_at + size])
        z_bar, x_bar = tape[z_at:z_at + size], tape[mirror + x:mirror + x + batch * d_in]
        x_bar[:] = 0.0
        matmul_add(False, False, batch, d_in, d_out, z_bar, theta[w:b], x_bar)                    # z = x W' + b
        matmul_add(True, False, d_out, d_in, batch, z_bar, tape[x:x + batch * d_in], theta_bar[w:b])
        if k == 0:
            for i in range(size):
                theta_bar[b + i % d_out] += z_bar[i]


@host_device
def activation_jet_vjp(k, sweeps, size, a_0, z_1, mirror, tape, z_bar):
    """Cotangent of z_k of a hidden layer from those of a_k and above, which lie one after the other. Overwrites z_bar."""
    for i in range(size):
        a, a_k_bar = tape[a_0 + i], tape[mirror + a_0 + k * size + i]
        s = 1.0 - a * a
        z = tape[z_1 + i] if sweeps > 1 else 0.0
        above = tape[mirror + a_0 + 2 * size + i] if sweeps > 2 and k < 2 else 0.0         # a_2 bar
        if k == 1:
            z_bar[i] = s * a_k_bar - 4.0 * a * s * z * above       # a_1 = s z_1; a_2 = s z_2 - 2 a s z_1^2
        elif k == 2:
            z_bar[i] = s * a_k_bar
        else:
            a_bar = a_k_bar
            if sweeps > 1:
                a_bar -= 2.0 * a * z * tape[mirror + a_0 + size + i]                        # a_1 = (1 - a^2) z_1
            if sweeps > 2:
                a_bar += (-2.0 * a * tape[z_1 + size + i] + (6.0 * a * a - 2.0) * z * z) * above
            z_bar[i] = s * a_bar                                                            # a_0 = tanh z_0
