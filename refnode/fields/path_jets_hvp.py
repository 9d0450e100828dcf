"""The second derivative of the jets: the tangent of `path_jets.regularised_vjp`.

Behind the tape of first derivatives lie two more mirrors, for the tangents of the values and for those of the cotangents, and a buffer.
"""
from refnode.fields.neural import with_time_vjp
from refnode.fields.path_jets import (
    BATCH, BUFFER_AT, BUFFER_SIZE, D_IN, D_OUT, HEAD, LAYERS, MIRROR, NOISE, OUT_AT, ROW, SWEEPS, W_AT, WEIGHTS,
    activation_jet_vjp, input_place, jets_jvp, preactivation_place, row_entry)
from refnode.host_device import host_device
from refnode.layers.dense import matmul_add


@host_device
def tangent_mirror(tape):
    """How far behind a value its tangent lies. The tangent of its cotangent lies tape[MIRROR] behind that."""
    start = HEAD + ROW * int(tape[LAYERS])
    return int(tape[BUFFER_AT]) + int(tape[BUFFER_SIZE]) - start


@host_device
def regularised_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan, theta_bar_tan):
    """Tangent of `regularised_vjp`: first the tangents of all jets, then cotangents and their tangents, last sweep first."""
    n, sweeps, batch, mirror = y.shape[0] - 1, int(tape[SWEEPS]), int(tape[BATCH]), int(tape[MIRROR])
    layers, tan = int(tape[LAYERS]), tangent_mirror(tape)
    bar_tan = tan + mirror
    jets_jvp(t_tan, y_tan[:n], theta, theta_tan, tan, tape)
    out, top = int(tape[OUT_AT]), input_place(tape, layers, sweeps - 1)
    tape[mirror + out:mirror + out + sweeps * n] = 0.0
    tape[bar_tan + out:bar_tan + out + sweeps * n] = 0.0
    for i in range(n):
        tape[mirror + out + i] += dy_bar[i]
        tape[mirror + top + i] += 2.0 * tape[top + i] * dy_bar[n] / batch
        tape[bar_tan + out + i] += dy_bar_tan[i]
        tape[bar_tan + top + i] += 2.0 * (tape[tan + top + i] * dy_bar[n] + tape[top + i] * dy_bar_tan[n]) / batch
    for k in range(sweeps - 1, -1, -1):
        sweep_hvp(k, batch, theta, theta_tan, tape, theta_bar_tan)
        size, constant = batch * row_entry(tape, 0, D_IN), tape[int(tape[BUFFER_AT]):int(tape[BUFFER_AT]) + 1]
        first, first_tan = mirror + input_place(tape, 0, k), bar_tan + input_place(tape, 0, k)
        x_bar, x_bar_tan = tape[first:first + size], tape[first_tan:first_tan + size]
        if k == 0:
            with_time_vjp(batch, x_bar_tan, t_bar_tan, y_bar_tan[:n])
        elif tape[NOISE] > 0.0:
            weights = int(tape[WEIGHTS])
            with_time_vjp(batch, x_bar_tan, constant, theta_bar_tan[weights:weights + n])
        else:
            below = input_place(tape, layers, k - 1)
            with_time_vjp(batch, x_bar, constant, tape[mirror + below:mirror + below + n])
            with_time_vjp(batch, x_bar_tan, constant, tape[bar_tan + below:bar_tan + below + n])


@host_device
def sweep_hvp(k, batch, theta, theta_tan, tape, theta_bar_tan):
    """Tangent of `sweep_vjp`, beside what it computes: x_bar_tan = W' z_bar_tan + W_tan' z_bar, and so on."""
    mirror, sweeps, layers, tan = int(tape[MIRROR]), int(tape[SWEEPS]), int(tape[LAYERS]), tangent_mirror(tape)
    bar_tan = tan + mirror
    for layer in range(layers - 1, -1, -1):
        d_in, d_out = row_entry(tape, layer, D_IN), row_entry(tape, layer, D_OUT)
        w, size = row_entry(tape, layer, W_AT), batch * d_out
        b = w + d_in * d_out
        x, a = input_place(tape, layer, k), input_place(tape, layer + 1, k)
        z_at, z_tan_at = mirror + a, bar_tan + a
        if layer < layers - 1:
            z_at, z_tan_at = int(tape[BUFFER_AT]), tan + mirror + mirror + HEAD + ROW * layers
            a_0, z_1 = input_place(tape, layer + 1, 0), preactivation_place(tape, layer, 1)
            activation_jet_vjp(k, sweeps, size, a_0, z_1, mirror, tape, tape[z_at:z_at + size])
            activation_jet_hvp(k, sweeps, size, a_0, z_1, mirror, tan, tape, tape[z_tan_at:z_tan_at + size])
        z_bar, z_bar_tan = tape[z_at:z_at + size], tape[z_tan_at:z_tan_at + size]
        x_bar, x_bar_tan = tape[mirror + x:mirror + x + batch * d_in], tape[bar_tan + x:bar_tan + x + batch * d_in]
        x_bar[:] = 0.0
        x_bar_tan[:] = 0.0
        matmul_add(False, False, batch, d_in, d_out, z_bar, theta[w:b], x_bar)
        matmul_add(False, False, batch, d_in, d_out, z_bar_tan, theta[w:b], x_bar_tan)                # x_bar = z_bar W
        matmul_add(False, False, batch, d_in, d_out, z_bar, theta_tan[w:b], x_bar_tan)
        matmul_add(True, False, d_out, d_in, batch, z_bar_tan, tape[x:x + batch * d_in], theta_bar_tan[w:b])     # W_bar += z_bar' x
        matmul_add(True, False, d_out, d_in, batch, z_bar, tape[tan + x:tan + x + batch * d_in], theta_bar_tan[w:b])
        if k == 0:
            for i in range(size):
                theta_bar_tan[b + i % d_out] += z_bar_tan[i]


@host_device
def activation_jet_hvp(k, sweeps, size, a_0, z_1, mirror, tan, tape, z_bar_tan):
    """Tangent of `activation_jet_vjp`, line by line. Overwrites z_bar_tan."""
    bar_tan = tan + mirror
    for i in range(size):
        a, a_tan = tape[a_0 + i], tape[tan + a_0 + i]
        s, s_tan = 1.0 - a * a, -2.0 * a * a_tan
        a_k_bar, a_k_bar_tan = tape[mirror + a_0 + k * size + i], tape[bar_tan + a_0 + k * size + i]
        z = z_tan = above = above_tan = 0.0
        if sweeps > 1:
            z, z_tan = tape[z_1 + i], tape[tan + z_1 + i]
        if sweeps > 2 and k < 2:
            above, above_tan = tape[mirror + a_0 + 2 * size + i], tape[bar_tan + a_0 + 2 * size + i]
        if k > 0:
            # z_bar = s a_k_bar - 4 a s z above, the latter in sweep 1 alone
            z_bar_tan[i] = (s_tan * a_k_bar + s * a_k_bar_tan - 4.0 * ((1.0 - 3.0 * a * a) * a_tan * z * above
                            + a * s * (z_tan * above + z * above_tan)))
            continue
        a_bar, a_bar_tan = a_k_bar, a_k_bar_tan
        if sweeps > 1:
            # a_bar -= 2 a z a_1_bar
            a_1_bar, a_1_bar_tan = tape[mirror + a_0 + size + i], tape[bar_tan + a_0 + size + i]
            a_bar -= 2.0 * a * z * a_1_bar
            a_bar_tan -= 2.0 * ((a_tan * z + a * z_tan) * a_1_bar + a * z * a_1_bar_tan)
        if sweeps > 2:
            # a_bar += (-2 a z_2 + (6 a^2 - 2) z^2) above
            z_2, z_2_tan, curve = tape[z_1 + size + i], tape[tan + z_1 + size + i], 6.0 * a * a - 2.0
            a_bar += (-2.0 * a * z_2 + curve * z * z) * above
            a_bar_tan += (-2.0 * (a_tan * z_2 + a * z_2_tan) + 12.0 * a * a_tan * z * z + 2.0 * curve * z * z_tan) * above
            a_bar_tan += (-2.0 * a * z_2 + curve * z * z) * above_tan
        z_bar_tan[i] = s_tan * a_bar + s * a_bar_tan                            # z_bar = s a_bar
