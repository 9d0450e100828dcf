"""Where a flow's tape holds what, and the same field in plain NumPy. See `fields.flow_density`.

The header is that of a perceptron (`fields.neural`), then the number of probes K, their weight w and the distance of
the mirror, then room for the samples and the probes themselves: together the rows that enter the first layer. Behind it
follow the rows of every hidden layer, with their slopes where the activation keeps them, and two buffers. With one
hidden layer and the exact trace (K = 0) there are no pushed rows, room for the gains g stands behind the hidden layer,
and the samples are taken in blocks of `BLOCK`, so that the buffers stay in the cache and out of what a solve stores.

Second derivatives have two more buffers, each for all samples, and a mirror of the rows that holds their tangents.
"""
import numpy as np

from refnode.fields.neural import BATCH, BUFFER_SIZE, BUFFERS_AT, D_IN, HEAD, LAYERS, ROW, X_AT, layer_entry
from refnode.host_device import host_device
from refnode.layers.activations import ACTIVATIONS
from refnode.layers.dense import dense
from refnode.layers.pushed import pushed_activation

PROBES, WEIGHT, MIRROR, OWN = 0, 1, 2, 3   # behind the rows of the layers
BLOCK = 64               # samples that one hidden layer takes at a time


def flow_tape_plan(layout, activation, batch, probes, d):
    """The header of a flow's tape, and the tape's size without and with hvp."""
    shapes = [shape for shape in layout.shapes.values() if len(shape) == 2]
    shallow = probes is None and len(shapes) == 2
    if probes is None:
        probes, weight = np.tile(np.eye(d)[:, None], (1, batch, 1)), 1.0        # (K, batch, d): each sample has all e_i
    else:
        weight = 1.0 / len(probes)
    count = 0 if shallow else len(probes)
    n_rows, keeps_slope = batch * (1 + count), ACTIVATIONS[activation].keeps_slope
    at = start = HEAD + ROW * len(shapes) + OWN
    rows, w_at = [], 0
    for d_out, d_in in shapes:
        slope_at = at + n_rows * d_in
        rows.append((d_in, d_out, w_at, at, slope_at, 0))
        at = slope_at + (batch * d_out if keeps_slope and len(rows) < len(shapes) else 0)
        w_at += d_out * d_in + d_out
    at += 4 * shapes[0][0] if shallow else 0                                    # the gains and what belongs to them
    widest = max(max(shape) for shape in shapes)
    buffer_size = (min(n_rows, BLOCK) if shallow else n_rows) * widest
    head = [len(shapes), batch, ACTIVATIONS[activation].code, at, buffer_size, 0]
    first_rows = np.zeros((1 + count, batch, shapes[0][1]))
    if count:
        first_rows[1:, :, :d] = probes                                          # whose time is 0: t is the same for all
    mirror = at + 2 * buffer_size + (3 if shallow else 2) * n_rows * widest
    header = np.concatenate([head, np.ravel(rows), [count, weight, mirror - start], first_rows.ravel()])
    return header, at + 2 * buffer_size, mirror + (at - start)


@host_device
def flow_entry(tape, column):
    """The number of probes, their weight, or the distance of the mirror."""
    return tape[HEAD + ROW * int(tape[LAYERS]) + column]


@host_device
def probe_place(tape):
    """Where the probes begin, and the width of their rows."""
    d_in = layer_entry(tape, 0, D_IN)
    return layer_entry(tape, 0, X_AT) + int(tape[BATCH]) * d_in, d_in


@host_device
def buffers(tape):
    """Where the two buffers begin."""
    return int(tape[BUFFERS_AT]), int(tape[BUFFERS_AT]) + int(tape[BUFFER_SIZE])


@host_device
def mirror_offset(tape):
    """How far behind a row its tangent lies in the tape of second derivatives."""
    return int(flow_entry(tape, MIRROR))


def flow_numpy(layout, activation, time_input, probes):
    """The field as ``fun(t, y, theta) -> dy`` in plain NumPy, valid for complex arrays too."""
    n_layers = len(layout.shapes) // 2
    d = layout.shapes["W1"][1] - bool(time_input)

    def flow_of_matrices(t, y, theta):
        arrays = layout.unpack(theta)
        batch = y.shape[0] // (d + 1)
        a = y[:batch * d].reshape(batch, d)
        V = np.tile(np.eye(d)[:, None], (1, batch, 1)) if probes is None else probes
        if time_input:
            a = np.column_stack([a, np.full(batch, t)])
        P = np.concatenate([V, np.zeros((*V.shape[:2], a.shape[1] - d))], axis=2)
        for number in range(1, n_layers + 1):
            W = arrays[f"W{number}"]
            a, P = dense(a, W, arrays[f"b{number}"]), P @ W.T
            if number < n_layers:
                a, P = pushed_activation(activation, a, P)
        traces = np.einsum("kbi,kbi->b", V, P) / (1 if probes is None else len(V))
        return np.concatenate([a.ravel(), -traces])

    return flow_of_matrices
