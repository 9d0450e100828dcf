"""One step of an explicit Runge-Kutta method, its dense output, and the tangent and transpose of both.

Every method has s stages and the slope at the end, k[s] = f(t + h, y1), which is the first slope of the
next step. Slopes lie in rows: ``k`` has shape (s + 1, n). Interpolants that need more slopes (DOP853)
keep them in ``k_extra``. Row i of ``tape`` is what f left behind for its transpose at slope i.

References
----------
Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, 2nd ed., II.1, II.4, II.6.
Sanz-Serna, SIAM Review 58 (2016), for the transpose.
"""
from refnode.host_device import higher_order, host_device, outlined
from refnode.linalg import copy_into, dot, has_nonzero
from refnode.steppers.system import evaluate

LONG, STRIP = 16, 1024          # states from this length on go slope by slope, in strips that stay in the nearest cache


@host_device
def add_slopes(weights, count, h, k, z):
    """z += h sum_{j < count} weights_j k_j."""
    for m in range(z.shape[0]):
        total = 0.0
        for j in range(count):
            total += weights[j] * k[j, m]
        z[m] += h * total


@host_device
def stage_state_by_entries(weights, count, h, y, k, z):
    """z = y + h sum_{j < count} weights_j k_j. Implements (ERK-1)."""
    for m in range(z.shape[0]):
        total = 0.0
        for j in range(count):
            total += weights[j] * k[j, m]
        z[m] = y[m] + h * total


@outlined
def stage_state_by_slopes(weights, count, h, y, k, z):
    """The same sums in the same order, slope by slope, which vectorises. z is none of the other arrays."""
    for first in range(0, z.shape[0], STRIP):
        strip = slice(first, min(first + STRIP, z.shape[0]))
        y_part, z_part = y[strip], z[strip]
        for m in range(z_part.shape[0]):
            z_part[m] = 0.0
        for j in range(count):
            add_multiple(weights[j], 1.0, k[j, strip], z_part)
        for m in range(z_part.shape[0]):
            z_part[m] = y_part[m] + h * z_part[m]


@host_device
def stage_state(weights, count, h, y, k, z):
    """z = y + h sum_{j < count} weights_j k_j, in the way that is fast for its length, with the same bits."""
    if z.shape[0] < LONG:
        stage_state_by_entries(weights, count, h, y, k, z)
    else:
        stage_state_by_slopes(weights, count, h, y, k, z)


@host_device
def stage_state_vjp_by_entries(weights, count, h, z_bar, k_bar, y_bar):
    """The transpose of `stage_state` with h held; see `length_cotangent`. Implements (ERK-4)."""
    for m in range(z_bar.shape[0]):
        y_bar[m] += z_bar[m]                                    # z = y + h sum_j w_j k_j
        scaled = h * z_bar[m]
        for j in range(count):
            k_bar[j, m] += weights[j] * scaled


@outlined
def stage_state_vjp_by_slopes(weights, count, h, z_bar, k_bar, y_bar):
    """The same, slope by slope."""
    for first in range(0, z_bar.shape[0], STRIP):
        strip = slice(first, min(first + STRIP, z_bar.shape[0]))
        add_multiple(1.0, 1.0, z_bar[strip], y_bar[strip])      # z = y + h sum_j w_j k_j
        for j in range(count):
            add_multiple(weights[j], h, z_bar[strip], k_bar[j, strip])


@host_device
def stage_state_vjp(weights, count, h, z_bar, k_bar, y_bar):
    """The transpose of `stage_state` with h held, in the way that is fast for its length, with the same bits."""
    if z_bar.shape[0] < LONG:
        stage_state_vjp_by_entries(weights, count, h, z_bar, k_bar, y_bar)
    else:
        stage_state_vjp_by_slopes(weights, count, h, z_bar, k_bar, y_bar)


@host_device
def add_multiple(weight, h, x, out):
    """out += weight (h x)."""
    for m in range(out.shape[0]):
        out[m] += weight * (h * x[m])


# A GPU has a thread for each of many short states.
stage_state.on_device, stage_state_vjp.on_device = stage_state_by_entries, stage_state_vjp_by_entries


@host_device
def length_cotangent(weights, count, k, z_bar):
    """What h receives in (ERK-4): z_bar . sum_j w_j k_j."""
    h_bar = 0.0
    for m in range(z_bar.shape[0]):
        total = 0.0
        for j in range(count):
            total += weights[j] * k[j, m]                       # z = y + h sum_j w_j k_j
        h_bar += total * z_bar[m]
    return h_bar


# --- one step -------------------------------------------------------------------------------------

@higher_order
def explicit_rk_step(f, A, b, c, t, h, y, theta, tape, k, z, y1):
    """y1 = y + h sum b_i k_i, k_i = f(t + c_i h, z_i, theta), z_i = y + h sum_j a_ij k_j.

    Implements (ERK-2). ``k[0] = f(t, y)`` is given; overwrites k[1:] and y1; z (n,) is workspace.
    """
    s = b.shape[0]
    for i in range(1, s):
        stage_state(A[i], i, h, y, k, z)
        evaluate(f, t + c[i] * h, z, theta, tape[i], k[i])
    stage_state(b, s, h, y, k, y1)
    evaluate(f, t + h, y1, theta, tape[s], k[s])


@higher_order
def explicit_rk_step_jvp(f, f_jvp, A, b, c, t, h, y, theta, t_tan, h_tan, y_tan, theta_tan,
                         recompute, tape, k, z, z_tan, k_tan, y1_tan):
    """The tangent of `explicit_rk_step`. Implements (ERK-3).

    ``k`` are the slopes of the step; overwrites k_tan (s + 1, n), all rows, and y1_tan (n,).
    ``recompute`` refills the tape by calling f again (into k, with equal values).
    """
    s = b.shape[0]
    for i in range(s + 1):
        weights, node = (A[i], c[i]) if i < s else (b, 1.0)
        stage_state(weights, i, h, y, k, z)
        stage_state(weights, i, h, y_tan, k_tan, z_tan)
        add_slopes(weights, i, h_tan, k, z_tan)
        if recompute:
            f(t + node * h, z, theta, tape[i], k[i])
        f_jvp(t + node * h, z, theta, t_tan + node * h_tan, z_tan, theta_tan, tape[i], k_tan[i])
    copy_into(z_tan, y1_tan)


@higher_order
def explicit_rk_step_vjp(f, f_vjp, A, b, c, t, h, y, theta, recompute, tape, k, y1, y1_bar, k_bar,
                         z, z_bar, t_bar, h_bar, y_bar, theta_bar):
    """The transpose of `explicit_rk_step`: from the last slope to the first. Implements (ERK-5).

        k_bar_i = h (b_i y1_bar + sum_{j > i} a_ji z_bar_j),   z_bar_i = (df/dy)^T k_bar_i

    ``k_bar`` (s + 1, n) holds on entry the cotangents the slopes have from elsewhere (dense output),
    and y1_bar (n,) that of y1; both are used up. Adds to t_bar (1,), h_bar (1,), y_bar (n,), theta_bar.
    An empty h_bar holds the length of the step.
    """
    s, moves = b.shape[0], h_bar.shape[0] > 0
    if has_nonzero(k_bar[s]):
        slope_vjp(f, f_vjp, 1.0, t, h, y1, theta, recompute, tape[s], k[s], k_bar[s],
                  t_bar, h_bar, y1_bar, theta_bar)
    if moves:
        h_bar[0] += length_cotangent(b, s, k, y1_bar)
    stage_state_vjp(b, s, h, y1_bar, k_bar, y_bar)
    for i in range(s - 1, 0, -1):
        stage_state(A[i], i, h, y, k, z)
        z_bar[:] = 0.0
        slope_vjp(f, f_vjp, c[i], t, h, z, theta, recompute, tape[i], k[i], k_bar[i],
                  t_bar, h_bar, z_bar, theta_bar)
        if moves:
            h_bar[0] += length_cotangent(A[i], i, k, z_bar)
        stage_state_vjp(A[i], i, h, z_bar, k_bar, y_bar)
    slope_vjp(f, f_vjp, 0.0, t, h, y, theta, recompute, tape[0], k[0], k_bar[0],
              t_bar, h_bar, y_bar, theta_bar)


@higher_order
def slope_vjp(f, f_vjp, node, t, h, z, theta, recompute, tape, k, k_bar, t_bar, h_bar, z_bar, theta_bar):
    """The transpose of k = f(t + node h, z, theta): adds to t_bar, h_bar, z_bar, theta_bar.

    Implements (ERK-8).
    """
    if recompute:
        f(t + node * h, z, theta, tape, k)
    before = t_bar[0]
    f_vjp(t + node * h, z, theta, tape, k_bar, t_bar, z_bar, theta_bar)
    if h_bar.shape[0] > 0:
        h_bar[0] += node * (t_bar[0] - before)


# --- dense output ---------------------------------------------------------------------------------

@higher_order
def extra_slopes(f, A_extra, c_extra, t, h, y, theta, tape, k, z, k_extra):
    """The further slopes an interpolant needs; overwrites k_extra. None for most methods.

    Implements (ERK-9).
    """
    own = k.shape[0]
    for e in range(A_extra.shape[0]):
        stage_state(A_extra[e], own, h, y, k, z)
        if e > 0:
            add_slopes(A_extra[e, own:], e, h, k_extra, z)
        evaluate(f, t + c_extra[e] * h, z, theta, tape, k_extra[e])


@host_device
def dense_weights(P, sigma, w):
    """w_i(sigma) = sum_j P_ij sigma^(j + 1), by Horner's rule."""
    for i in range(P.shape[0]):
        total = 0.0
        for j in range(P.shape[1] - 1, -1, -1):
            total = (total + P[i, j]) * sigma
        w[i] = total


@host_device
def dense_output(P, sigma, h, y, k, k_extra, w, out):
    """out = y(t + sigma h) = y + h sum_i w_i(sigma) k_i; w is workspace. Implements (ERK-6)."""
    own = k.shape[0]
    dense_weights(P, sigma, w)
    stage_state(w, own, h, y, k, out)
    if k_extra.shape[0] > 0:
        add_slopes(w[own:], k_extra.shape[0], h, k_extra, out)


@host_device
def dense_output_vjp(P, sigma, h, out_bar, w, k_bar, k_extra_bar, y_bar):
    """The transpose of `dense_output` with sigma and h held. Implements (ERK-7)."""
    own = k_bar.shape[0]
    dense_weights(P, sigma, w)
    for m in range(out_bar.shape[0]):
        y_bar[m] += out_bar[m]                                  # out = y + h sum_i w_i k_i
        scaled = h * out_bar[m]
        for i in range(own):
            k_bar[i, m] += w[i] * scaled
        for e in range(k_extra_bar.shape[0]):
            k_extra_bar[e, m] += w[own + e] * scaled


@host_device
def dense_weight_rates(P, sigma, w):
    """w_i'(sigma) = sum_j (j + 1) P_ij sigma^j, by Horner's rule."""
    for i in range(P.shape[0]):
        total = 0.0
        for j in range(P.shape[1] - 1, -1, -1):
            total = total * sigma + (j + 1) * P[i, j]
        w[i] = total


@host_device
def weigh_slopes(w, k, k_extra, z):
    """z = sum_i w_i k_i over all slopes of a step."""
    z[:] = 0.0
    add_slopes(w, k.shape[0], 1.0, k, z)
    if k_extra.shape[0] > 0:
        add_slopes(w[k.shape[0]:], k_extra.shape[0], 1.0, k_extra, z)


@host_device
def dense_motion_jvp(P, sigma, h, sigma_tan, h_tan, k, k_extra, w, z, out_tan):
    """out_tan += h_tan sum w_i k_i + h sigma_tan sum w_i' k_i: what sigma and h add to `dense_output`'s tangent.

    Implements (THR-7). z (n,) is workspace.
    """
    dense_weights(P, sigma, w)
    weigh_slopes(w, k, k_extra, z)
    for m in range(z.shape[0]):
        out_tan[m] += h_tan * z[m]
    dense_weight_rates(P, sigma, w)
    weigh_slopes(w, k, k_extra, z)
    for m in range(z.shape[0]):
        out_tan[m] += h * sigma_tan * z[m]


@host_device
def dense_motion_vjp(P, sigma, h, out_bar, k, k_extra, w, z):
    """The transpose of `dense_motion_jvp`: returns sigma_bar and h_bar. Implements (THR-8)."""
    dense_weights(P, sigma, w)
    weigh_slopes(w, k, k_extra, z)
    h_bar = dot(z, out_bar)                                     # out_tan += h_tan sum w_i k_i
    dense_weight_rates(P, sigma, w)
    weigh_slopes(w, k, k_extra, z)
    return h * dot(z, out_bar), h_bar                           # out_tan += h sigma_tan sum w_i' k_i


@higher_order
def extra_slopes_jvp(f, f_jvp, A_extra, c_extra, t, h, y, theta, t_tan, h_tan, y_tan, theta_tan, tape, k,
                     k_extra, k_tan, z, z_tan, k_extra_tan):
    """The tangent of `extra_slopes`. Implements (ERK-10)."""
    own = k.shape[0]
    for e in range(A_extra.shape[0]):
        stage_state(A_extra[e], own, h, y, k, z)
        stage_state(A_extra[e], own, h, y_tan, k_tan, z_tan)
        if h_tan != 0.0:
            add_slopes(A_extra[e], own, h_tan, k, z_tan)
        if e > 0:
            add_slopes(A_extra[e, own:], e, h, k_extra, z)
            add_slopes(A_extra[e, own:], e, h, k_extra_tan, z_tan)
            add_slopes(A_extra[e, own:], e, h_tan, k_extra, z_tan)
        f(t + c_extra[e] * h, z, theta, tape, k_extra[e])
        f_jvp(t + c_extra[e] * h, z, theta, t_tan + c_extra[e] * h_tan, z_tan, theta_tan, tape, k_extra_tan[e])


@higher_order
def extra_slopes_vjp(f, f_vjp, A_extra, c_extra, t, h, y, theta, tape, k, k_extra, k_extra_bar,
                     z, z_bar, t_bar, h_bar, k_bar, y_bar, theta_bar):
    """The transpose of `extra_slopes`. Implements (ERK-11).

    Adds to t_bar, h_bar, k_bar, y_bar and theta_bar; uses up k_extra_bar.
    """
    own = k.shape[0]
    for e in range(A_extra.shape[0] - 1, -1, -1):
        z_bar[:] = 0.0
        stage_state(A_extra[e], own, h, y, k, z)
        if e > 0:
            add_slopes(A_extra[e, own:], e, h, k_extra, z)
        slope_vjp(f, f_vjp, c_extra[e], t, h, z, theta, True, tape, k_extra[e], k_extra_bar[e],
                  t_bar, h_bar, z_bar, theta_bar)
        for m in range(z_bar.shape[0]):
            for j in range(e):
                k_extra_bar[j, m] += h * A_extra[e, own + j] * z_bar[m]
                h_bar[0] += A_extra[e, own + j] * k_extra[j, m] * z_bar[m]
        h_bar[0] += length_cotangent(A_extra[e], own, k, z_bar)
        stage_state_vjp(A_extra[e], own, h, z_bar, k_bar, y_bar)
