"""A batch of samples and their log-densities under the velocity of a perceptron: z' = f(t, z), (log p)' = -tr df/dz.

The state holds the samples z, (batch, d) row after row, and behind them their (batch,) log-densities. The trace is
exact, or Hutchinson's estimate from probes that stay the same for the whole solve. Both are one computation: with
probes v_1 .. v_K beside every sample, tr J is replaced by w Σ_k v_kᵀ J v_k, where the unit vectors and w = 1 give the
trace itself, and random signs or normal numbers and w = 1/K an unbiased estimate of it.

To have J v_k, the tangents along the probes go through the layers as further rows of the batch: the *pushed rows*.
With z = W x + b and U = W P, an activation makes a = σ(z) and P = σ'(z) U of them. Its transpose is a second
derivative of f: z_bar = σ' a_bar + σ'' U P_bar. Only tanh and softplus are allowed, where σ'' U = r P with the ratio
r = σ''/σ' = -2 a, or 1 - σ', so that the rows after the activation are all the tape has to keep.

With one hidden layer the exact trace is a weighted sum of the slopes, Σ_j σ'(z_j) Σ_i W1_ji W2_ij, and no
rows need pushing: `fields.flow_density_shallow`. The header of the tape is that of `fields.neural`, which says where
the layers are, followed by the number of probes, 0 for the weighted sum, and the weight w.

References
----------
Chen, Rubanova, Bettencourt & Duvenaud, Neural ordinary differential equations, NeurIPS 2018, section 4.
Grathwohl, Chen, Bettencourt, Sutskever & Duvenaud, FFJORD, ICLR 2019.
Hutchinson, A stochastic estimator of the trace of the influence matrix, Commun. Stat. 19 (1990).
"""
import numpy as np

from refnode.errors import InvalidInputError
from refnode.fields.field import VectorField
from refnode.fields.flow_density_shallow import (
    Trace, shallow_density, shallow_density_hvp, shallow_density_jvp, shallow_density_vjp)
from refnode.fields.flow_tape import (
    PROBES, WEIGHT, buffers, flow_entry, flow_numpy, flow_tape_plan, mirror_offset, probe_place)
from refnode.fields.neural import (
    ACTIVATION, BATCH, D_IN, LAYERS, SLOPE_AT, X_AT, Perceptron, layer_entry, layer_place, with_time, with_time_vjp)
from refnode.host_device import host_device
from refnode.layers.activations import ACTIVATIONS
from refnode.layers.dense import matmul_add
from refnode.layers.parameters import mlp_layout
from refnode.layers.pushed import (
    pushed_activation_hvp_kernel, pushed_activation_jvp_kernel, pushed_activation_kernel, pushed_activation_vjp_kernel,
    pushed_dense_kernel, pushed_dense_vjp_kernel)

FLOW_ACTIVATIONS = ("tanh", "softplus")


def flow_density_field(widths, activation="tanh", batch=1, time_input=False, probes=None):
    """Field of (z, log p) for a batch of samples under a perceptron.

    Parameters
    ----------
    widths : sequence of int
        d, the hidden widths, d.
    activation : {"tanh", "softplus"}
    batch : int
        Number of samples.
    time_input : bool
        Whether t is one more input of the first layer, the last.
    probes : ndarray, shape (K, batch, d), optional
        Noise for Hutchinson's estimate of the trace; by default the trace is exact.

    Returns
    -------
    field : VectorField
        With n = batch (d + 1); ``mlp_layout(widths, time_input)`` names the p parameters.

    Raises
    ------
    InvalidInputError
        If the widths do not lead from d to d, the activation is none of these, or the probes have another shape.
    """
    layout, d = checked_flow(widths, activation, batch, time_input), int(widths[0])
    probes = None if probes is None else checked_probes(probes, batch, d)
    header, tape_size, hvp_tape_size = flow_tape_plan(layout, activation, int(batch), probes, d)
    name = "_".join(["flow", *map(str, map(int, widths)), activation] + ["time"] * bool(time_input)
                    + ["hutchinson"] * (probes is not None))
    field = VectorField(
        flow_density, jvp=flow_density_jvp, vjp=flow_density_vjp, hvp=flow_density_hvp, name=name,
        n=int(batch) * (d + 1), p=layout.size, tape_size=tape_size, tape_header=header, hvp_tape_size=hvp_tape_size,
        numpy_form=flow_numpy(layout, activation, time_input, probes))
    if batch == 1 and probes is None and len(widths) == 3:
        field.perceptron = Perceptron((d + bool(time_input), int(widths[1]), d), ACTIVATIONS[activation].code, Trace())
    return field


def checked_flow(widths, activation, batch, time_input):
    """The layout of a flow's perceptron, or an InvalidInputError."""
    layout = mlp_layout(widths, time_input)
    if widths[0] != widths[-1]:
        raise InvalidInputError(f"widths must begin and end with the samples' dimension, found {widths[0]} and {widths[-1]}")
    if activation not in FLOW_ACTIVATIONS:
        raise InvalidInputError(f"activation of a flow must be one of {list(FLOW_ACTIVATIONS)}, found {activation!r}")
    if int(batch) != batch or batch < 1:
        raise InvalidInputError(f"batch must be a positive integer, found {batch!r}")
    return layout


def checked_probes(probes, batch, d):
    """Finite probes of shape (K, batch, d) with K >= 1."""
    probes = np.asarray(probes, dtype=np.float64)
    if probes.ndim != 3 or probes.shape[0] < 1 or probes.shape[1:] != (batch, d):
        raise InvalidInputError(f"probes must have shape (K, {batch}, {d}) with K >= 1, found {probes.shape}")
    if not np.isfinite(probes).all():
        bad = tuple(int(i) for i in np.argwhere(~np.isfinite(probes))[0])
        raise InvalidInputError(f"probes must be finite, found {probes[bad]} at index {bad}")
    return probes


NOISES = {               # of mean 0 and covariance I, so that the expectation of vᵀ J v is tr J
    "rademacher": lambda rng, shape: rng.choice([-1.0, 1.0], size=shape),
    "gaussian": lambda rng, shape: rng.standard_normal(shape),
}


def random_probes(noise, rng, count, batch, d):
    """Probes of shape (count, batch, d) from a NumPy generator; ``noise`` is "rademacher" or "gaussian"."""
    if noise not in NOISES:
        raise InvalidInputError(f"noise must be one of {sorted(NOISES)}, found {noise!r}")
    return NOISES[noise](rng, (int(count), int(batch), int(d)))


# --- the field ------------------------------------------------------------------------------------

@host_device
def flow_density(t, y, theta, tape, dy):
    """dz = f(t, z), dlog p = -w Σ_k v_k . J v_k sample by sample; see `flow_density_field`."""
    if flow_entry(tape, PROBES) == 0:
        shallow_density(t, y, theta, tape, dy)
    else:
        pushed_density(t, y, theta, tape, dy)


@host_device
def flow_density_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
    """Tangent of `flow_density`."""
    if flow_entry(tape, PROBES) == 0:
        shallow_density_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan)
    else:
        pushed_density_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan)


@host_device
def flow_density_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    """Transpose of `flow_density_jvp`."""
    if flow_entry(tape, PROBES) == 0:
        shallow_density_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar)
    else:
        pushed_density_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar)


@host_device
def flow_density_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan,
                     theta_bar_tan):
    """Tangent of `flow_density_vjp`."""
    if flow_entry(tape, PROBES) == 0:
        shallow_density_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan,
                            theta_bar_tan)
    else:
        pushed_density_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan,
                           theta_bar_tan)


# --- by pushed rows -------------------------------------------------------------------------------

@host_device
def pushed_rows(tape):
    """Rows of every layer: the samples, and for each probe their tangents along it."""
    return int(tape[BATCH]) * (1 + int(flow_entry(tape, PROBES)))


@host_device
def pushed_density(t, y, theta, tape, dy):
    """`flow_density` by pushed rows, which stay in the tape."""
    n_layers, batch, rows = int(tape[LAYERS]), int(tape[BATCH]), pushed_rows(tape)
    here, _ = buffers(tape)
    first, n = layer_entry(tape, 0, X_AT), dy.shape[0] - batch
    with_time(t, y[:n], batch, tape[first:first + batch * layer_entry(tape, 0, D_IN)])
    for layer in range(n_layers):
        d_in, d_out, x, w, b, end = layer_place(tape, layer)
        last = layer == n_layers - 1
        a, slope = here if last else layer_entry(tape, layer + 1, X_AT), layer_entry(tape, layer, SLOPE_AT)
        z = tape[a:a + rows * d_out]
        pushed_dense_kernel(batch, tape[x:x + rows * d_in], theta[w:b], theta[b:end], z)
        if not last:
            pushed_activation_kernel(int(tape[ACTIVATION]), batch * d_out, z, tape[slope:a])
    for i in range(n):
        dy[i] = tape[here + i]
    log_rates(tape, tape[here + n:here + rows * (n // batch)], dy[n:])


@host_device
def log_rates(tape, pushed, rates):
    """rate_i = -w Σ_k v_ki . (J v_k)_i from the rows (K batch, d) of J v_k. Linear: the tangents go the same way.

    Implements (FLOW-2).
    """
    batch, weight = int(tape[BATCH]), flow_entry(tape, WEIGHT)
    d = pushed.shape[0] // (batch * int(flow_entry(tape, PROBES)))
    at, d_in = probe_place(tape)
    rates[:] = 0.0
    for row in range(pushed.shape[0] // d):
        for j in range(d):
            rates[row % batch] -= weight * tape[at + row * d_in + j] * pushed[row * d + j]


@host_device
def log_rates_vjp(tape, rates_bar, pushed_bar):
    """`log_rates` transposed; overwrites pushed_bar."""
    batch, weight = int(tape[BATCH]), flow_entry(tape, WEIGHT)
    d = pushed_bar.shape[0] // (batch * int(flow_entry(tape, PROBES)))
    at, d_in = probe_place(tape)
    for row in range(pushed_bar.shape[0] // d):
        for j in range(d):                # rates[row % batch] -= weight * probe[row, j] * pushed[row, j]
            pushed_bar[row * d + j] = -weight * tape[at + row * d_in + j] * rates_bar[row % batch]


@host_device
def pushed_density_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
    """Tangent of `pushed_density`; the probes are constants."""
    n_layers, batch, rows = int(tape[LAYERS]), int(tape[BATCH]), pushed_rows(tape)
    here, there = buffers(tape)
    n, width = dy_tan.shape[0] - batch, layer_entry(tape, 0, D_IN)
    tape[here:here + rows * width] = 0.0
    with_time(t_tan, y_tan[:n], batch, tape[here:here + batch * width])
    for layer in range(n_layers):
        d_in, d_out, x, w, b, end = layer_place(tape, layer)
        z_tan = tape[there:there + rows * d_out]
        pushed_dense_kernel(batch, tape[x:x + rows * d_in], theta_tan[w:b], theta_tan[b:end], z_tan)
        matmul_add(False, True, rows, d_out, d_in, tape[here:here + rows * d_in], theta[w:b], z_tan)
        if layer < n_layers - 1:
            a, slope = layer_entry(tape, layer + 1, X_AT), layer_entry(tape, layer, SLOPE_AT)
            pushed_activation_jvp_kernel(int(tape[ACTIVATION]), batch * d_out, tape[a:a + rows * d_out], tape[slope:a],
                                         z_tan)
        here, there = there, here
    for i in range(n):
        dy_tan[i] = tape[here + i]
    log_rates(tape, tape[here + n:here + rows * (n // batch)], dy_tan[n:])


@host_device
def pushed_density_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    """`pushed_density` transposed, last layer first. The cotangents of the probes are not computed."""
    n_layers, batch, rows = int(tape[LAYERS]), int(tape[BATCH]), pushed_rows(tape)
    here, there = buffers(tape)
    n = dy_bar.shape[0] - batch
    for i in range(n):
        tape[here + i] = dy_bar[i]
    log_rates_vjp(tape, dy_bar[n:], tape[here + n:here + rows * (n // batch)])
    for layer in range(n_layers - 1, -1, -1):
        d_in, d_out, x, w, b, end = layer_place(tape, layer)
        z_bar = tape[here:here + rows * d_out]
        if layer < n_layers - 1:
            a, slope = layer_entry(tape, layer + 1, X_AT), layer_entry(tape, layer, SLOPE_AT)
            pushed_activation_vjp_kernel(int(tape[ACTIVATION]), batch * d_out, tape[a:a + rows * d_out], tape[slope:a],
                                         z_bar)
        back = rows if layer > 0 else batch
        x_bar = tape[there:there + back * d_in]
        x_bar[:] = 0.0
        pushed_dense_vjp_kernel(batch, tape[x:x + rows * d_in], theta[w:b], z_bar, x_bar, theta_bar[w:b],
                                theta_bar[b:end])
        here, there = there, here
    with_time_vjp(batch, tape[here:here + batch * layer_entry(tape, 0, D_IN)], t_bar, y_bar[:n])


@host_device
def pushed_density_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan,
                       theta_bar_tan):
    """Tangent of `pushed_density_vjp`: first the tangents of all rows, then cotangents and their tangents."""
    n_layers, batch, rows = int(tape[LAYERS]), int(tape[BATCH]), pushed_rows(tape)
    n, mirror = dy_bar.shape[0] - batch, mirror_offset(tape)
    pushed_tangents(t_tan, y_tan[:n], theta, theta_tan, mirror, tape)
    here, there = buffers(tape)
    second = 2 * (there - here)                                 # from a buffer to that of its tangent
    for i in range(n):
        tape[here + i] = dy_bar[i]
        tape[here + second + i] = dy_bar_tan[i]
    end_rows = rows * (n // batch)
    log_rates_vjp(tape, dy_bar[n:], tape[here + n:here + end_rows])
    log_rates_vjp(tape, dy_bar_tan[n:], tape[here + second + n:here + second + end_rows])
    for layer in range(n_layers - 1, -1, -1):
        d_in, d_out, x, w, b, end = layer_place(tape, layer)
        z_bar, z_bar_tan = tape[here:here + rows * d_out], tape[here + second:here + second + rows * d_out]
        if layer < n_layers - 1:
            a, slope = layer_entry(tape, layer + 1, X_AT), layer_entry(tape, layer, SLOPE_AT)
            pushed_activation_hvp_kernel(
                int(tape[ACTIVATION]), batch * d_out, tape[a:a + rows * d_out], tape[slope:a],
                tape[mirror + a:mirror + a + rows * d_out], z_bar, z_bar_tan)
        back = rows if layer > 0 else batch
        x_bar, x_bar_tan = tape[there:there + back * d_in], tape[there + second:there + second + back * d_in]
        x_bar[:] = 0.0
        x_bar_tan[:] = 0.0
        # x_bar += z_bar W; W_bar += z_barᵀ x; b_bar += the sum of its first rows
        matmul_add(False, False, back, d_in, d_out, z_bar[:back * d_out], theta[w:b], x_bar)
        pushed_dense_vjp_kernel(batch, tape[x:x + rows * d_in], theta[w:b], z_bar_tan, x_bar_tan, theta_bar_tan[w:b],
                                theta_bar_tan[b:end])
        matmul_add(False, False, back, d_in, d_out, z_bar[:back * d_out], theta_tan[w:b], x_bar_tan)
        matmul_add(True, False, d_out, d_in, rows, z_bar, tape[mirror + x:mirror + x + rows * d_in], theta_bar_tan[w:b])
        here, there = there, here
    here += second
    with_time_vjp(batch, tape[here:here + batch * layer_entry(tape, 0, D_IN)], t_bar_tan, y_bar_tan[:n])


@host_device
def pushed_tangents(t_tan, z_tan, theta, theta_tan, mirror, tape):
    """Tangents of the rows of all hidden layers, into the mirror of the tape."""
    n_layers, batch, rows = int(tape[LAYERS]), int(tape[BATCH]), pushed_rows(tape)
    first, width = mirror + layer_entry(tape, 0, X_AT), layer_entry(tape, 0, D_IN)
    tape[first:first + rows * width] = 0.0
    with_time(t_tan, z_tan, batch, tape[first:first + batch * width])
    for layer in range(n_layers - 1):
        d_in, d_out, x, w, b, end = layer_place(tape, layer)
        a, slope = layer_entry(tape, layer + 1, X_AT), layer_entry(tape, layer, SLOPE_AT)
        a_tan = tape[mirror + a:mirror + a + rows * d_out]
        pushed_dense_kernel(batch, tape[x:x + rows * d_in], theta_tan[w:b], theta_tan[b:end], a_tan)
        matmul_add(False, True, rows, d_out, d_in, tape[mirror + x:mirror + x + rows * d_in], theta[w:b], a_tan)
        pushed_activation_jvp_kernel(int(tape[ACTIVATION]), batch * d_out, tape[a:a + rows * d_out], tape[slope:a], a_tan)
