"""The differential equations of sensitivity analysis. Every -(df/dy)^T lambda is here.

Tags such as (ADJ-2) refer to docs/derivations. Each system is a named tuple of what its right-hand side
needs (see `refnode.steppers.system`), and its state is one flat vector.
"""
import collections

from refnode.host_device import higher_order, host_device
from refnode.linalg import copy_into
from refnode.steppers.explicit_rk import dense_output
from refnode.steppers.system import right_hand_side_of

# --- tangents: state (y, S_1 ... S_m) -------------------------------------------------------------

Variational = collections.namedtuple("Variational", ["f", "f_jvp", "theta_tans", "n"])


@right_hand_side_of(Variational)
def variational_rhs(system, t, state, theta, tape, rate):
    """dS_j/dt = (df/dy) S_j + (df/dtheta) theta_tan_j, beside dy/dt = f. Implements (VAR-1).

    state : (n + m n,) holding y and m tangents;  theta_tans : (m, p).
    """
    n = system.n
    y = state[:n]
    system.f(t, y, theta, tape, rate[:n])
    for j in range(system.theta_tans.shape[0]):
        rows = slice((j + 1) * n, (j + 2) * n)
        system.f_jvp(t, y, theta, 0.0, state[rows], system.theta_tans[j], tape, rate[rows])


# --- cotangents -----------------------------------------------------------------------------------

def adjoint_rhs(jac_y, jac_theta, lam):
    """The continuous adjoint in matrix form, for reading: returns (dlam/dt, dgrad/dt).

        dlam/dt  = -(df/dy)^T lam                                            (ADJ-2)
        dgrad/dt = -(df/dtheta)^T lam                                        (ADJ-3)

    Parameters
    ----------
    jac_y : ndarray, shape (n, n), [1/time]
    jac_theta : ndarray, shape (n, p), [state/(time parameter)]
    lam : ndarray, shape (n,), [loss/state]

    References
    ----------
    Pontryagin et al., 1962; Cao, Li, Petzold, Serban, SIAM J. Sci. Comput. 24 (2003), eq. 2.8;
    Chen, Rubanova, Bettencourt, Duvenaud, NeurIPS 2018, eqs. 4 and 5.
    """
    return -jac_y.T @ lam, -jac_theta.T @ lam


@higher_order
def adjoint_rhs_kernel(f_vjp, t, y, theta, tape, lam, t_rate, lam_rate, grad_rate):
    """`adjoint_rhs` without matrices; overwrites lam_rate (n,), grad_rate (p,). Implements (ADJ-2, ADJ-3).

    t_rate (1,) is scratch: it receives lam . df/dt.
    """
    lam_rate[:] = 0.0
    grad_rate[:] = 0.0
    f_vjp(t, y, theta, tape, lam, t_rate, lam_rate, grad_rate)      # += (df/dy)^T lam, += (df/dtheta)^T lam
    for m in range(lam_rate.shape[0]):
        lam_rate[m] = -lam_rate[m]
    for m in range(grad_rate.shape[0]):
        grad_rate[m] = -grad_rate[m]


Backsolve = collections.namedtuple("Backsolve", ["f", "f_vjp", "t_rate", "n"])


@right_hand_side_of(Backsolve)
def backsolve_rhs(system, t, state, theta, tape, rate):
    """The adjoint with y solved again, backwards, beside it: state (y, lam, grad), shape (2 n + p,).

    Implements (ADJ-4). Chen et al. 2018, algorithm 1.
    """
    n = system.n
    y, lam = state[:n], state[n:2 * n]
    system.f(t, y, theta, tape, rate[:n])
    adjoint_rhs_kernel(system.f_vjp, t, y, theta, tape, lam, system.t_rate, rate[n:2 * n], rate[2 * n:])


Interpolated = collections.namedtuple(
    "Interpolated", ["f", "f_vjp", "P", "times", "y", "k", "k_extra", "w", "y_now", "slope", "t_rate"])


@right_hand_side_of(Interpolated)
def interpolated_rhs(system, t, state, theta, tape, rate):
    """The adjoint with y read from the forward solve's dense output: state (lam, grad), shape (n + p,).

    Implements (ADJ-5). Hindmarsh & Serban, CVODES (2005), section 2.7.
    """
    n = system.y_now.shape[0]
    read_path(system.P, system.times, system.y, system.k, system.k_extra, t, system.w, system.y_now)
    if tape.shape[0] > 0:
        system.f(t, system.y_now, theta, tape, system.slope)
    adjoint_rhs_kernel(system.f_vjp, t, system.y_now, theta, tape, state[:n], system.t_rate,
                       rate[:n], rate[n:])


@host_device
def step_at(times, t):
    """Index of the step of a path that contains t, by bisection; the end steps reach beyond the ends."""
    low, high = 0, times.shape[0] - 1
    forward = times[high] > times[low]
    while high - low > 1:
        middle = (low + high) // 2
        if (times[middle] <= t) == forward:
            low = middle
        else:
            high = middle
    return low


@host_device
def read_path(P, times, y, k, k_extra, t, w, out):
    """out = y(t) from the stored steps of a forward solve; step ends are exact."""
    i = step_at(times, t)
    s = (k.shape[0] - 1) // (times.shape[0] - 1)
    h = times[i + 1] - times[i]
    if t == times[i]:
        copy_into(y[i], out)
    elif t == times[i + 1]:
        copy_into(y[i + 1], out)
    else:
        dense_output(P, (t - times[i]) / h, h, y[i], k[i * s:(i + 1) * s + 1], k_extra[i], w, out)
