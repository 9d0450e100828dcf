"""Steps of a separable Hamiltonian by kicks and drifts: leapfrog (Stoermer-Verlet) and semi-implicit Euler.

The state is y = (q, p), and f = (dT/dp(t, p), -dV/dq(t, q)): the slope of q depends on p alone, that of p on
q alone. A kick moves p by the slope at q, a drift moves q by the slope at p, each is undone by its
negative, so a step is undone by undoing its kicks and drifts, the last first. A state of odd length has one
more entry behind, a running cost, which is no part of the Hamiltonian: it takes the trapezoidal rule.

The i-th kick, of length kicks[i] h, is at time t + h sum of the drifts before; the i-th drift, of length
drifts[i] h, at t + h sum of the kicks up to it. Row 2 i of `Evaluations` belongs to kick i, row 2 i + 1 to
drift i, and the last to the running cost at the end.

References
----------
Hairer, Lubich, Wanner, Geometric Numerical Integration, 2nd ed., I.1.4, II.5, VI.3.
"""
from refnode.host_device import host_device, outlined
from refnode.linalg import copy_into


@host_device
def add_part(first, last, weight, slope, y):
    """y_m += weight slope_m for first <= m < last."""
    for m in range(first, last):
        y[m] += weight * slope[m]


@host_device
def total(weights, count):
    """sum_{i < count} weights_i."""
    result = 0.0
    for i in range(count):
        result += weights[i]
    return result


@outlined
def symplectic_step(f, kicks, drifts, t, h, y, theta, at, y1):
    """p += kicks_i h f_p(q), q += drifts_i h f_q(p), i = 0 ... Implements (SYM-1)."""
    d, n, last = y.shape[0] // 2, y.shape[0], 2 * kicks.shape[0]
    copy_into(y, y1)
    for i in range(kicks.shape[0]):
        copy_into(y1, at.z[2 * i])
        f(t + total(drifts, i) * h, at.z[2 * i], theta, at.tape[2 * i], at.k[2 * i])
        add_part(d, 2 * d, kicks[i] * h, at.k[2 * i], y1)
        if drifts[i] != 0.0:
            copy_into(y1, at.z[2 * i + 1])
            f(t + total(kicks, i + 1) * h, at.z[2 * i + 1], theta, at.tape[2 * i + 1], at.k[2 * i + 1])
            add_part(0, d, drifts[i] * h, at.k[2 * i + 1], y1)
    if n > 2 * d:
        copy_into(y1, at.z[last])
        f(t + h, at.z[last], theta, at.tape[last], at.k[last])
        add_part(2 * d, n, 0.5 * h, at.k[0], y1)
        add_part(2 * d, n, 0.5 * h, at.k[last], y1)


@outlined
def symplectic_step_jvp(f_jvp, kicks, drifts, t, h, theta, y_tan, theta_tan, at, k_tan, y1_tan):
    """The tangent of `symplectic_step`. Implements (SYM-2)."""
    d, n, last = y_tan.shape[0] // 2, y_tan.shape[0], 2 * kicks.shape[0]
    copy_into(y_tan, y1_tan)
    for i in range(kicks.shape[0]):
        f_jvp(t + total(drifts, i) * h, at.z[2 * i], theta, 0.0, y1_tan, theta_tan, at.tape[2 * i], k_tan[2 * i])
        add_part(d, 2 * d, kicks[i] * h, k_tan[2 * i], y1_tan)
        if drifts[i] != 0.0:
            f_jvp(t + total(kicks, i + 1) * h, at.z[2 * i + 1], theta, 0.0, y1_tan, theta_tan,
                  at.tape[2 * i + 1], k_tan[2 * i + 1])
            add_part(0, d, drifts[i] * h, k_tan[2 * i + 1], y1_tan)
    if n > 2 * d:
        f_jvp(t + h, at.z[last], theta, 0.0, y1_tan, theta_tan, at.tape[last], k_tan[last])
        add_part(2 * d, n, 0.5 * h, k_tan[0], y1_tan)
        add_part(2 * d, n, 0.5 * h, k_tan[last], y1_tan)


@outlined
def symplectic_step_vjp(f_vjp, kicks, drifts, t, h, theta, at, k_bar, t_bar, y_bar, theta_bar):
    """The transpose of `symplectic_step`; y_bar (n,) is that of y1 on entry and of y on return. Implements (SYM-3).

    k_bar is one row of workspace: the cotangent of one slope at a time.
    """
    d, n, last = y_bar.shape[0] // 2, y_bar.shape[0], 2 * kicks.shape[0]
    if n > 2 * d:
        k_bar[:] = 0.0
        add_part(2 * d, n, 0.5 * h, y_bar, k_bar)               # c1 = c + h/2 (k_0 + k_last)
        f_vjp(t + h, at.z[last], theta, at.tape[last], k_bar, t_bar, y_bar, theta_bar)
    for i in range(kicks.shape[0] - 1, -1, -1):
        if drifts[i] != 0.0:
            k_bar[:] = 0.0
            add_part(0, d, drifts[i] * h, y_bar, k_bar)         # q += drifts_i h k_q
            f_vjp(t + total(kicks, i + 1) * h, at.z[2 * i + 1], theta, at.tape[2 * i + 1], k_bar, t_bar, y_bar,
                  theta_bar)
        k_bar[:] = 0.0
        add_part(d, 2 * d, kicks[i] * h, y_bar, k_bar)          # p += kicks_i h k_p
        if i == 0:
            add_part(2 * d, n, 0.5 * h, y_bar, k_bar)           # c1 = c + h/2 (k_0 + k_last)
        f_vjp(t + total(drifts, i) * h, at.z[2 * i], theta, at.tape[2 * i], k_bar, t_bar, y_bar, theta_bar)


@outlined
def symplectic_step_inverse(f, kicks, drifts, t, h, y1, theta, at, y):
    """q -= drifts_i h f_q(p), p -= kicks_i h f_p(q), the last i first. Implements (SYM-4).

    A slope is evaluated after what it moves has been moved, which a separable field does not see; the row
    of ``z`` then gets the state before, as a step leaves it.
    """
    d, n, last = y.shape[0] // 2, y.shape[0], 2 * kicks.shape[0]
    copy_into(y1, y)
    if n > 2 * d:
        copy_into(y1, at.z[last])
        f(t + h, at.z[last], theta, at.tape[last], at.k[last])
    for i in range(kicks.shape[0] - 1, -1, -1):
        if drifts[i] != 0.0:
            f(t + total(kicks, i + 1) * h, y, theta, at.tape[2 * i + 1], at.k[2 * i + 1])
            add_part(0, d, -drifts[i] * h, at.k[2 * i + 1], y)
            copy_into(y, at.z[2 * i + 1])
        f(t + total(drifts, i) * h, y, theta, at.tape[2 * i], at.k[2 * i])
        add_part(d, 2 * d, -kicks[i] * h, at.k[2 * i], y)
        copy_into(y, at.z[2 * i])
    if n > 2 * d:
        f(t, at.z[0], theta, at.tape[0], at.k[0])               # the cost depends on p, too
        add_part(2 * d, n, -0.5 * h, at.k[0], y)
        add_part(2 * d, n, -0.5 * h, at.k[last], y)
