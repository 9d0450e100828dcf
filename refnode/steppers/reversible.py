"""Steps that can be undone: asynchronous leapfrog, reversible Heun, and the McCallum-Foster coupling.

A reversible step maps a state x of several rows, of which the first is y, to the next, and its inverse
maps back in closed form. Wherever it evaluates f it leaves an `Evaluations`: the argument in a row of
``z``, the slope in that row of ``k``, what f keeps for its transpose in that row of ``tape``. A step and
its inverse leave the same rows, and the tangent and the transpose read them; neither calls f. Times and
lengths of steps are held.

References
----------
Mutze, arXiv:1311.6602 (2013), and Zhuang, Dvornek, Tatikonda, Duncan, MALI, ICLR 2021: asynchronous leapfrog.
Kidger, Foster, Li, Lyons, NeurIPS 2021: reversible Heun, here for ordinary differential equations.
McCallum, Foster, arXiv:2410.11648 (2024): the coupling of any explicit Runge-Kutta method.
"""
import collections

from refnode.host_device import host_device, outlined
from refnode.linalg import copy_into
from refnode.steppers.explicit_rk import add_slopes, stage_state, stage_state_vjp

Evaluations = collections.namedtuple("Evaluations", ["z", "k", "tape"])


@host_device
def blend(first, y, second, z, out):
    """out = first y + second z."""
    for m in range(out.shape[0]):
        out[m] = first * y[m] + second * z[m]


# --- asynchronous leapfrog: x = (y, v) --------------------------------------------------------------

@outlined
def alf_step(f, t, h, x, theta, at, x1):
    """z = y + h/2 v, k = f(t + h/2, z), v1 = 2 k - v, y1 = z + h/2 v1. Implements (REV-1)."""
    z, k = at.z[0], at.k[0]
    blend(1.0, x[0], 0.5 * h, x[1], z)
    f(t + 0.5 * h, z, theta, at.tape[0], k)
    blend(2.0, k, -1.0, x[1], x1[1])
    blend(1.0, z, 0.5 * h, x1[1], x1[0])


@outlined
def alf_step_jvp(f_jvp, t, h, theta, x_tan, theta_tan, at, z_tan, k_tan, x1_tan):
    """The tangent of `alf_step`: the same lines, with the tangent of f. Implements (REV-2)."""
    blend(1.0, x_tan[0], 0.5 * h, x_tan[1], z_tan)
    f_jvp(t + 0.5 * h, at.z[0], theta, 0.0, z_tan, theta_tan, at.tape[0], k_tan[0])
    blend(2.0, k_tan[0], -1.0, x_tan[1], x1_tan[1])
    blend(1.0, z_tan, 0.5 * h, x1_tan[1], x1_tan[0])


@outlined
def alf_step_vjp(f_vjp, t, h, theta, at, k_bar, t_bar, x_bar, theta_bar):
    """The transpose of `alf_step`; x_bar (2, n) is that of x1 on entry and of x on return. Implements (REV-3)."""
    y_bar, v_bar = x_bar[0], x_bar[1]
    for m in range(y_bar.shape[0]):
        v_bar[m] += 0.5 * h * y_bar[m]                          # y1 = z + h/2 v1
        k_bar[0, m] = 2.0 * v_bar[m]                            # v1 = 2 k - v
        v_bar[m] = -v_bar[m]
    f_vjp(t + 0.5 * h, at.z[0], theta, at.tape[0], k_bar[0], t_bar, y_bar, theta_bar)      # k = f(t + h/2, z)
    for m in range(y_bar.shape[0]):
        v_bar[m] += 0.5 * h * y_bar[m]                          # z = y + h/2 v


@outlined
def alf_step_inverse(f, t, h, x1, theta, at, x):
    """z = y1 - h/2 v1, k = f(t + h/2, z), v = 2 k - v1, y = z - h/2 v. Implements (REV-4)."""
    z, k = at.z[0], at.k[0]
    blend(1.0, x1[0], -0.5 * h, x1[1], z)
    f(t + 0.5 * h, z, theta, at.tape[0], k)
    blend(2.0, k, -1.0, x1[1], x[1])
    blend(1.0, z, -0.5 * h, x[1], x[0])


# --- reversible Heun: x = (y, z, v) with v = f(t, z) ------------------------------------------------

@outlined
def reversible_heun_step(f, t, h, x, theta, at, x1):
    """z1 = 2 y - z + h v, v1 = f(t + h, z1), y1 = y + h/2 (v + v1). Implements (REV-5)."""
    blend(2.0, x[0], -1.0, x[1], x1[1])
    for m in range(x.shape[1]):
        x1[1, m] += h * x[2, m]
    copy_into(x1[1], at.z[0])
    f(t + h, at.z[0], theta, at.tape[0], x1[2])
    for m in range(x.shape[1]):
        x1[0, m] = x[0, m] + 0.5 * h * (x[2, m] + x1[2, m])


@outlined
def reversible_heun_step_jvp(f_jvp, t, h, theta, x_tan, theta_tan, at, x1_tan):
    """The tangent of `reversible_heun_step`. Implements (REV-6)."""
    blend(2.0, x_tan[0], -1.0, x_tan[1], x1_tan[1])
    for m in range(x_tan.shape[1]):
        x1_tan[1, m] += h * x_tan[2, m]
    f_jvp(t + h, at.z[0], theta, 0.0, x1_tan[1], theta_tan, at.tape[0], x1_tan[2])
    for m in range(x_tan.shape[1]):
        x1_tan[0, m] = x_tan[0, m] + 0.5 * h * (x_tan[2, m] + x1_tan[2, m])


@outlined
def reversible_heun_step_vjp(f_vjp, t, h, theta, at, t_bar, x_bar, theta_bar):
    """The transpose of `reversible_heun_step`; x_bar (3, n) is that of x1, then of x. Implements (REV-7)."""
    y_bar, z_bar, v_bar = x_bar[0], x_bar[1], x_bar[2]
    for m in range(y_bar.shape[0]):
        v_bar[m] += 0.5 * h * y_bar[m]                          # y1 = y + h/2 (v + v1)
    f_vjp(t + h, at.z[0], theta, at.tape[0], v_bar, t_bar, z_bar, theta_bar)               # v1 = f(t + h, z1)
    for m in range(y_bar.shape[0]):
        v_bar[m] = 0.5 * h * y_bar[m] + h * z_bar[m]            # y1 = y + h/2 (v + v1), z1 = 2 y - z + h v
        y_bar[m] += 2.0 * z_bar[m]
        z_bar[m] = -z_bar[m]


@outlined
def reversible_heun_step_inverse(f, t, h, x1, theta, at, x):
    """z = 2 y1 - z1 - h v1, v = f(t, z), y = y1 - h/2 (v + v1). Implements (REV-8).

    The transpose wants the tape of v1 = f(t + h, z1), which a field that keeps one refills.
    """
    blend(2.0, x1[0], -1.0, x1[1], x[1])
    for m in range(x.shape[1]):
        x[1, m] -= h * x1[2, m]
    f(t, x[1], theta, at.tape[0], x[2])
    for m in range(x.shape[1]):
        x[0, m] = x1[0, m] - 0.5 * h * (x[2, m] + x1[2, m])
    copy_into(x1[1], at.z[0])
    if at.tape.shape[1] > 0:
        f(t + h, at.z[0], theta, at.tape[0], at.k[0])


# --- McCallum-Foster: x = (y, z), coupled by the increments of an explicit Runge-Kutta method -------

@outlined
def increment_slopes(f, A, c, t, h, y, theta, at, first):
    """The slopes k_i of Psi_h(t, y) = h sum_i b_i k_i, into rows ``first`` and on of ``at``. Implements (REV-9)."""
    for i in range(c.shape[0]):
        stage_state(A[i], i, h, y, at.k[first:], at.z[first + i])
        f(t + c[i] * h, at.z[first + i], theta, at.tape[first + i], at.k[first + i])


@outlined
def increment_slopes_jvp(f_jvp, A, c, t, h, theta, y_tan, theta_tan, at, first, z_tan, k_tan):
    """The tangent of `increment_slopes`; overwrites its rows of k_tan. Implements (REV-10)."""
    for i in range(c.shape[0]):
        stage_state(A[i], i, h, y_tan, k_tan[first:], z_tan)
        f_jvp(t + c[i] * h, at.z[first + i], theta, 0.0, z_tan, theta_tan, at.tape[first + i], k_tan[first + i])


@outlined
def increment_slopes_vjp(f_vjp, A, c, t, h, theta, at, first, z_bar, k_bar, t_bar, y_bar, theta_bar):
    """The transpose of `increment_slopes`; uses up its rows of k_bar. Implements (REV-11)."""
    for i in range(c.shape[0] - 1, -1, -1):
        z_bar[:] = 0.0
        f_vjp(t + c[i] * h, at.z[first + i], theta, at.tape[first + i], k_bar[first + i], t_bar, z_bar, theta_bar)
        stage_state_vjp(A[i], i, h, z_bar, k_bar[first:], y_bar)


@outlined
def coupled_step(f, coupling, A, b, c, t, h, x, theta, at, x1):
    """y1 = l y + (1 - l) z + Psi_h(t, z), z1 = z - Psi_(-h)(t + h, y1), l = coupling. Implements (REV-12)."""
    s = b.shape[0]
    increment_slopes(f, A, c, t, h, x[1], theta, at, 0)
    blend(coupling, x[0], 1.0 - coupling, x[1], x1[0])
    add_slopes(b, s, h, at.k, x1[0])
    increment_slopes(f, A, c, t + h, -h, x1[0], theta, at, s)
    copy_into(x[1], x1[1])
    add_slopes(b, s, h, at.k[s:], x1[1])                        # - Psi_(-h) = + h sum_i b_i k_i


@outlined
def coupled_step_jvp(f_jvp, coupling, A, b, c, t, h, theta, x_tan, theta_tan, at, z_tan, k_tan, x1_tan):
    """The tangent of `coupled_step`. Implements (REV-13)."""
    s = b.shape[0]
    increment_slopes_jvp(f_jvp, A, c, t, h, theta, x_tan[1], theta_tan, at, 0, z_tan, k_tan)
    blend(coupling, x_tan[0], 1.0 - coupling, x_tan[1], x1_tan[0])
    add_slopes(b, s, h, k_tan, x1_tan[0])
    increment_slopes_jvp(f_jvp, A, c, t + h, -h, theta, x1_tan[0], theta_tan, at, s, z_tan, k_tan)
    copy_into(x_tan[1], x1_tan[1])
    add_slopes(b, s, h, k_tan[s:], x1_tan[1])


@outlined
def coupled_step_vjp(f_vjp, coupling, A, b, c, t, h, theta, at, z_bar, k_bar, t_bar, x_bar, theta_bar):
    """The transpose of `coupled_step`; x_bar (2, n) is that of x1, then of x. Implements (REV-14)."""
    s = b.shape[0]
    weighted(b, h, x_bar[1], k_bar[s:])                         # z1 = z + h sum_i b_i k_i
    increment_slopes_vjp(f_vjp, A, c, t + h, -h, theta, at, s, z_bar, k_bar, t_bar, x_bar[0], theta_bar)
    weighted(b, h, x_bar[0], k_bar)                             # y1 = l y + (1 - l) z + h sum_i b_i k_i
    for m in range(x_bar.shape[1]):
        x_bar[1, m] += (1.0 - coupling) * x_bar[0, m]
        x_bar[0, m] = coupling * x_bar[0, m]
    increment_slopes_vjp(f_vjp, A, c, t, h, theta, at, 0, z_bar, k_bar, t_bar, x_bar[1], theta_bar)


@host_device
def weighted(b, h, y_bar, k_bar):
    """k_bar_i = h b_i y_bar."""
    for i in range(b.shape[0]):
        for m in range(y_bar.shape[0]):
            k_bar[i, m] = h * b[i] * y_bar[m]


@outlined
def coupled_step_inverse(f, coupling, A, b, c, t, h, x1, theta, at, x):
    """z = z1 + Psi_(-h)(t + h, y1), y = (y1 - (1 - l) z - Psi_h(t, z)) / l. Implements (REV-15)."""
    s = b.shape[0]
    increment_slopes(f, A, c, t + h, -h, x1[0], theta, at, s)
    copy_into(x1[1], x[1])
    add_slopes(b, s, -h, at.k[s:], x[1])
    increment_slopes(f, A, c, t, h, x[1], theta, at, 0)
    blend(1.0, x1[0], coupling - 1.0, x[1], x[0])
    add_slopes(b, s, -h, at.k, x[0])
    for m in range(x.shape[1]):
        x[0, m] /= coupling
