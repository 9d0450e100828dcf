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
from refnode.fields.path_jets import HEAD, ROW, regularised, regularised_jvp, regularised_vjp
from refnode.fields.path_jets_hvp import regularised_hvp
from refnode.layers.parameters import mlp_layout

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
    header, tape_size, hvp_tape_size = tape_plan(layout, cost, int(batch), n)
    return VectorField(
        regularised, jvp=regularised_jvp, vjp=regularised_vjp, hvp=regularised_hvp, name="_".join([cost, *map(str, widths)]),
        n=n + 1, p=layout.size + (n if cost == "jacobian" else 0), tape_size=tape_size, tape_header=header,
        hvp_tape_size=hvp_tape_size, numpy_form=regularised_numpy(layout, cost, time_input))


def tape_plan(layout, cost, batch, n):
    """The header, which says where everything is, and the sizes of the tape without and with hvp.

    The tape has values, a mirror of them for tangents or cotangents, and a buffer; that of hvp all this and behind it two more
    mirrors and a buffer.
    """
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
    buffer_size = batch * max(d_out for d_out, _ in shapes)
    header = np.concatenate([(len(shapes), batch, sweeps, cost == "jacobian", layout.size, out_at, mirror, buffer_at,
                              buffer_size), np.ravel(rows)]).astype(np.float64)
    return header, buffer_at + buffer_size, buffer_at + 2 * buffer_size + 2 * mirror


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
