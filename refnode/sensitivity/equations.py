"""The differential equations of sensitivity analysis. Every -(df/dy)^T lambda is here.

Tags such as (ADJ-2) refer to docs/derivations. Each system is a named tuple of what its right-hand side
needs (see `refnode.steppers.system`), and its state is one flat vector.
"""
import collections

from numba import types

from refnode.host_device import (
    BLOCK, INTEGER, MATRIX, RHS, RHS_VJP, VECTOR, driver, higher_order, host_device)
from refnode.linalg import copy_into
from refnode.solve.integrate import EVALUATIONS, INTEGRATE_TYPES, attempt_of, integrate
from refnode.solve.step_size import error_norm
from refnode.steppers.explicit_rk import dense_output, explicit_rk_step
from refnode.steppers.system import right_hand_side_of

# --- tangents: state (y, S_1 ... S_m) -------------------------------------------------------------

Variational = collections.namedtuple("Variational", ["f", "f_jvp", "theta_tans", "n", "njvp"])
Staggered = collections.namedtuple("Staggered", Variational._fields)      # its trial steps test y first
StateRows = collections.namedtuple("StateRows", ["f", "n"])               # y alone, and S alone, in one layout
TangentRows = collections.namedtuple("TangentRows", ["f_jvp", "theta_tans", "n", "njvp"])


@right_hand_side_of(StateRows)
def state_rows_rhs(system, t, state, theta, tape, rate):
    """dy/dt = f, leaving in tape what the tangents need."""
    system.f(t, state[:system.n], theta, tape, rate[:system.n])


@right_hand_side_of(TangentRows)
def tangent_rows_rhs(system, t, state, theta, tape, rate):
    """dS_j/dt = (df/dy) S_j + (df/dtheta) theta_tan_j, where f has run before at y. Implements (VAR-1).

    state : (n + m n,) holding y and m tangents;  theta_tans : (m, p);  njvp (1,) counts the calls.
    """
    n = system.n
    for j in range(system.theta_tans.shape[0]):
        rows = slice((j + 1) * n, (j + 2) * n)
        system.f_jvp(t, state[:n], theta, 0.0, state[rows], system.theta_tans[j], tape, rate[rows])
        system.njvp[0] += 1


@right_hand_side_of(Variational, Staggered)
def variational_rhs(system, t, state, theta, tape, rate):
    """The tangents beside the state."""
    state_rows_rhs(system, t, state, theta, tape, rate)
    tangent_rows_rhs(system, t, state, theta, tape, rate)


@attempt_of(Staggered)
def staggered_attempt(f, method, tolerance, t, h, y, theta, counts, y1, k, tape, z):
    """A step of y; only if it passes, the same step of the tangents; returns the larger error norm. Implements (VAR-3).

    The tangents read y's stages again from its slopes, which are kept, and what f left in the tape.
    """
    n = f.n
    explicit_rk_step(StateRows(f.f, n), method.A, method.b, method.c, t, h, y[:n], theta, tape, k, z[:n], y1[:n])
    counts[EVALUATIONS] += method.b.shape[0]
    error = error_norm(method.E, h, k, y, y1, tolerance.rtol, tolerance.atol, tolerance.blocks[:2])
    if not error < 1.0:
        return error
    tangents = TangentRows(f.f_jvp, f.theta_tans, n, f.njvp)
    explicit_rk_step(tangents, method.A, method.b, method.c, t, h, y, theta, tape, k, z, y1)
    return max(error, error_norm(method.E, h, k, y, y1, tolerance.rtol, tolerance.atol, tolerance.blocks[1:]))


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


@driver(RHS, RHS_VJP, VECTOR, INTEGER, INTEGRATE_TYPES)
def integrate_backsolve(f, f_vjp, t_rate, n, arguments):
    """Integrate (y, lam, grad); see `refnode.solve.integrate.integrate`."""
    return integrate(Backsolve(f, f_vjp, t_rate, n), *arguments)


# --- cotangents along a stored path ---------------------------------------------------------------

PATH_TYPES = types.Tuple((MATRIX, VECTOR, MATRIX, MATRIX, BLOCK))                   # P, times, y, k, k_extra
SCRATCH_TYPES = types.Tuple((VECTOR, VECTOR, VECTOR, VECTOR))                       # w, y_now, slope, t_rate

Interpolated = collections.namedtuple(
    "Interpolated", ["f", "f_vjp", "P", "times", "y", "k", "k_extra", "w", "y_now", "slope", "t_rate"])


@right_hand_side_of(Interpolated)
def interpolated_rhs(system, t, state, theta, tape, rate):
    """The adjoint with y read from the forward solve's dense output: state (lam, grad), shape (n + p,).

    Implements (ADJ-5). Hindmarsh & Serban, CVODES (2005), section 2.7.
    """
    n = system.y_now.shape[0]
    adjoint_along_path(system, t, state[:n], theta, tape, rate[:n], rate[n:])


@driver(RHS, RHS_VJP, PATH_TYPES, SCRATCH_TYPES, INTEGRATE_TYPES)
def integrate_interpolated(f, f_vjp, path, scratch, arguments):
    """Integrate (lam, grad) along a stored path; see `refnode.solve.integrate.integrate`."""
    P, times, y, k, k_extra = path
    w, y_now, slope, t_rate = scratch
    return integrate(Interpolated(f, f_vjp, P, times, y, k, k_extra, w, y_now, slope, t_rate), *arguments)


InterpolatedLam = collections.namedtuple("InterpolatedLam", [*Interpolated._fields, "grad_rate"])


@right_hand_side_of(InterpolatedLam)
def interpolated_lam_rhs(system, t, lam, theta, tape, lam_rate):
    """(ADJ-5) without its integral, which is summed afterwards: state lam, shape (n,). Implements (ADJ-6)."""
    adjoint_along_path(system, t, lam, theta, tape, lam_rate, system.grad_rate)


@driver(RHS, RHS_VJP, PATH_TYPES, SCRATCH_TYPES, VECTOR, INTEGRATE_TYPES)
def integrate_lam(f, f_vjp, path, scratch, grad_rate, arguments):
    """Integrate lam alone along a stored path; see `refnode.solve.integrate.integrate`."""
    P, times, y, k, k_extra = path
    w, y_now, slope, t_rate = scratch
    return integrate(InterpolatedLam(f, f_vjp, P, times, y, k, k_extra, w, y_now, slope, t_rate, grad_rate),
                     *arguments)


@higher_order
def adjoint_along_path(system, t, lam, theta, tape, lam_rate, grad_rate):
    """`adjoint_rhs_kernel` at the y(t) of a stored path; overwrites lam_rate (n,), grad_rate (p,).

    A tape holds what f left behind at one y, so f runs first where there is one.
    """
    read_path(system.P, system.times, system.y, system.k, system.k_extra, t, system.w, system.y_now)
    if tape.shape[0] > 0:
        system.f(t, system.y_now, theta, tape, system.slope)
    adjoint_rhs_kernel(system.f_vjp, t, system.y_now, theta, tape, lam, system.t_rate, lam_rate, grad_rate)


# --- second derivatives ---------------------------------------------------------------------------

@higher_order
def second_adjoint_rhs_kernel(f_hvp, t, y, theta, y_tan, theta_tan, tape, lam, lam_tan, t_rate_tan, lam_rate_tan,
                              grad_rate_tan):
    """The tangent of `adjoint_rhs_kernel`. Implements (HES-5).

        dlam_tan/dt  = -(df/dy)^T lam_tan - (tangent of (df/dy)^T along (y_tan, theta_tan)) lam
        dgrad_tan/dt = -(df/dtheta)^T lam_tan - (tangent of (df/dtheta)^T) lam

    Overwrites lam_rate_tan (n,) and grad_rate_tan (p,); t_rate_tan (1,) is scratch.
    """
    lam_rate_tan[:] = 0.0
    grad_rate_tan[:] = 0.0
    f_hvp(t, y, theta, 0.0, y_tan, theta_tan, tape, lam, lam_tan, t_rate_tan, lam_rate_tan, grad_rate_tan)
    for m in range(lam_rate_tan.shape[0]):
        lam_rate_tan[m] = -lam_rate_tan[m]
    for m in range(grad_rate_tan.shape[0]):
        grad_rate_tan[m] = -grad_rate_tan[m]


SecondAdjoint = collections.namedtuple("SecondAdjoint", [
    "f", "f_vjp", "f_hvp", "theta_tan", "P", "times", "y", "k", "k_extra", "w", "y_now", "slope", "t_rate",
    "hvp_tape"])


@right_hand_side_of(SecondAdjoint)
def second_adjoint_rhs(system, t, state, theta, tape, rate):
    """The adjoint and its tangent along a stored path of (y, y_tan): state (lam, lam_tan, grad, grad_tan).

    Implements (HES-6). Its own ``hvp_tape`` is longer than the tape of the solver.
    """
    n, p = system.slope.shape[0], theta.shape[0]
    read_path(system.P, system.times, system.y, system.k, system.k_extra, t, system.w, system.y_now)
    y, y_tan = system.y_now[:n], system.y_now[n:]
    lam, lam_tan = state[:n], state[n:2 * n]
    if system.hvp_tape.shape[0] > 0:
        system.f(t, y, theta, system.hvp_tape, system.slope)
    adjoint_rhs_kernel(system.f_vjp, t, y, theta, system.hvp_tape, lam, system.t_rate, rate[:n],
                       rate[2 * n:2 * n + p])
    second_adjoint_rhs_kernel(system.f_hvp, t, y, theta, y_tan, system.theta_tan, system.hvp_tape, lam, lam_tan,
                              system.t_rate, rate[n:2 * n], rate[2 * n + p:])


# --- reading a path -------------------------------------------------------------------------------

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
