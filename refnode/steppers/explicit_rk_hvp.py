"""The tangent of the transpose of an explicit Runge-Kutta step: the second derivative of a step.

What moves is a `Dual`: a quantity and its tangent. The times and lengths of the steps are held. The transpose
of a stage state is linear, so that its tangent is the same function again; a slope's is `slope_hvp`.
"""
import collections

from refnode.host_device import higher_order, host_device
from refnode.linalg import has_nonzero
from refnode.steppers.explicit_rk import add_slopes, dense_output_vjp, stage_state, stage_state_vjp

Dual = collections.namedtuple("Dual", ["value", "tan"])


@higher_order
def row(dual, i):
    """Row i of a `Dual` of matrices. (Not a formula of its own: those cannot return arrays to Python.)"""
    return Dual(dual.value[i], dual.tan[i])


@host_device
def set_to_zero(dual):
    """dual = 0."""
    dual.value[:] = 0.0
    dual.tan[:] = 0.0


@host_device
def stage_state_dual(weights, count, h, y, k, z):
    """z = y + h sum_j w_j k_j, and the same of the tangents."""
    stage_state(weights, count, h, y.value, k.value, z.value)
    stage_state(weights, count, h, y.tan, k.tan, z.tan)


@host_device
def stage_state_hvp(weights, count, h, z_bar, k, k_bar, y_bar):
    """The tangent of `stage_state_vjp` with h held, beside it."""
    stage_state_vjp(weights, count, h, z_bar.value, k_bar.value, y_bar.value)
    stage_state_vjp(weights, count, h, z_bar.tan, k_bar.tan, y_bar.tan)


@higher_order
def slope_hvp(f_vjp, f_hvp, t, z, theta, tape, k_bar, t_bar, z_bar, theta_bar):
    """The tangent of the transpose of k = f(t, z, theta), beside it. Implements (HES-1).

    f has filled the tape at this point. Adds to t_bar, z_bar and theta_bar.
    """
    f_hvp(t, z.value, theta.value, 0.0, z.tan, theta.tan, tape, k_bar.value, k_bar.tan,
          t_bar.tan, z_bar.tan, theta_bar.tan)
    f_vjp(t, z.value, theta.value, tape, k_bar.value, t_bar.value, z_bar.value, theta_bar.value)


@higher_order
def explicit_rk_step_hvp(f_vjp, f_hvp, A, b, c, t, h, y, theta, tape, k, y1, y1_bar, k_bar, z, z_bar, t_bar,
                         y_bar, theta_bar):
    """The tangent of `explicit_rk_step_vjp` with t and h held, beside it. Implements (HES-2).

    The rows of ``tape`` are those `explicit_rk_step_jvp` left. y1_bar and k_bar are used up; adds to t_bar,
    y_bar and theta_bar.
    """
    s = b.shape[0]
    if has_nonzero(k_bar.value[s]) or has_nonzero(k_bar.tan[s]):
        slope_hvp(f_vjp, f_hvp, t + h, y1, theta, tape[s], row(k_bar, s), t_bar, y1_bar, theta_bar)
    stage_state_hvp(b, s, h, y1_bar, k, k_bar, y_bar)
    for i in range(s - 1, 0, -1):
        stage_state_dual(A[i], i, h, y, k, z)
        set_to_zero(z_bar)
        slope_hvp(f_vjp, f_hvp, t + c[i] * h, z, theta, tape[i], row(k_bar, i), t_bar, z_bar, theta_bar)
        stage_state_hvp(A[i], i, h, z_bar, k, k_bar, y_bar)
    slope_hvp(f_vjp, f_hvp, t, y, theta, tape[0], row(k_bar, 0), t_bar, y_bar, theta_bar)


# --- dense output ---------------------------------------------------------------------------------

@host_device
def dense_output_hvp(P, sigma, h, out_bar, w, k_bar, k_extra_bar, y_bar):
    """The tangent of `dense_output_vjp`, beside it: linear, so the same again."""
    dense_output_vjp(P, sigma, h, out_bar.value, w, k_bar.value, k_extra_bar.value, y_bar.value)
    dense_output_vjp(P, sigma, h, out_bar.tan, w, k_bar.tan, k_extra_bar.tan, y_bar.tan)


@higher_order
def extra_slopes_hvp(f, f_vjp, f_hvp, A_extra, c_extra, t, h, y, theta, tape, k, k_extra, k_extra_bar, z,
                     z_bar, t_bar, k_bar, y_bar, theta_bar):
    """The tangent of `extra_slopes_vjp` with t and h held, beside it. Implements (HES-3).

    Adds to t_bar, k_bar, y_bar and theta_bar; uses up k_extra_bar.
    """
    own = k.value.shape[0]
    for e in range(A_extra.shape[0] - 1, -1, -1):
        stage_state_dual(A_extra[e], own, h, y, k, z)
        if e > 0:
            add_slopes(A_extra[e, own:], e, h, k_extra.value, z.value)
            add_slopes(A_extra[e, own:], e, h, k_extra.tan, z.tan)
        f(t + c_extra[e] * h, z.value, theta.value, tape, k_extra.value[e])
        set_to_zero(z_bar)
        slope_hvp(f_vjp, f_hvp, t + c_extra[e] * h, z, theta, tape, row(k_extra_bar, e), t_bar, z_bar, theta_bar)
        if e > 0:
            extra_slopes_bar(A_extra[e, own:], e, h, z_bar.value, k_extra_bar.value)
            extra_slopes_bar(A_extra[e, own:], e, h, z_bar.tan, k_extra_bar.tan)
        stage_state_hvp(A_extra[e], own, h, z_bar, k, k_bar, y_bar)


@host_device
def extra_slopes_bar(weights, count, h, z_bar, k_extra_bar):
    """z += h sum_{j < count} weights_j k_extra_j (`add_slopes`) transposed, with h held."""
    for m in range(z_bar.shape[0]):
        for j in range(count):
            k_extra_bar[j, m] += h * weights[j] * z_bar[m]
