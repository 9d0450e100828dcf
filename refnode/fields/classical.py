"""The classical right-hand sides, each with its three derivatives, and the registry `CLASSICAL`.

Here stand the nonlinear fields without a closed-form solution; those with one are in `fields.solvable`.
Every field is four adjacent functions in the kernel form (`fields.field`). The bodies neither branch on
values nor take moduli, so that compiled for complex arrays they serve the complex-step check unchanged.
"""
import numpy as np

from refnode.fields.field import VectorField
from refnode.fields.solvable import (
    cosine_relaxation, exponential_decay, forced_oscillator, linear, logistic, twin_growth)
from refnode.host_device import host_device


# --- Lotka-Volterra -------------------------------------------------------------------------------

@host_device
def lotka_volterra_rhs(t, y, theta, tape, dy):
    """Prey and predator (Lotka 1925; Volterra 1926), theta = (alpha, beta, gamma, delta).

    y_0' = alpha y_0 - beta y_0 y_1,   y_1' = delta y_0 y_1 - gamma y_1
    """
    dy[0] = theta[0] * y[0] - theta[1] * y[0] * y[1]
    dy[1] = theta[3] * y[0] * y[1] - theta[2] * y[1]


@host_device
def lotka_volterra_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
    """Tangent of `lotka_volterra_rhs`."""
    meetings = y[0] * y[1]
    meetings_tan = y_tan[0] * y[1] + y[0] * y_tan[1]
    dy_tan[0] = (theta[0] * y_tan[0] - theta[1] * meetings_tan
                 + theta_tan[0] * y[0] - theta_tan[1] * meetings)
    dy_tan[1] = (theta[3] * meetings_tan - theta[2] * y_tan[1]
                 + theta_tan[3] * meetings - theta_tan[2] * y[1])


@host_device
def lotka_volterra_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    """Transpose of `lotka_volterra_jvp`."""
    # dy[0] = theta[0]*y[0] - theta[1]*y[0]*y[1]
    y_bar[0] += (theta[0] - theta[1] * y[1]) * dy_bar[0]
    y_bar[1] -= theta[1] * y[0] * dy_bar[0]
    theta_bar[0] += y[0] * dy_bar[0]
    theta_bar[1] -= y[0] * y[1] * dy_bar[0]
    # dy[1] = theta[3]*y[0]*y[1] - theta[2]*y[1]
    y_bar[0] += theta[3] * y[1] * dy_bar[1]
    y_bar[1] += (theta[3] * y[0] - theta[2]) * dy_bar[1]
    theta_bar[2] -= y[1] * dy_bar[1]
    theta_bar[3] += y[0] * y[1] * dy_bar[1]


@host_device
def lotka_volterra_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan,
                       theta_bar_tan):
    """Tangent of `lotka_volterra_vjp`."""
    # y_bar[0] += (theta[0] - theta[1]*y[1])*dy_bar[0] + theta[3]*y[1]*dy_bar[1]
    y_bar_tan[0] += (theta_tan[0] - theta_tan[1] * y[1] - theta[1] * y_tan[1]) * dy_bar[0]
    y_bar_tan[0] += (theta_tan[3] * y[1] + theta[3] * y_tan[1]) * dy_bar[1]
    y_bar_tan[0] += (theta[0] - theta[1] * y[1]) * dy_bar_tan[0] + theta[3] * y[1] * dy_bar_tan[1]
    # y_bar[1] += (theta[3]*y[0] - theta[2])*dy_bar[1] - theta[1]*y[0]*dy_bar[0]
    y_bar_tan[1] -= (theta_tan[1] * y[0] + theta[1] * y_tan[0]) * dy_bar[0]
    y_bar_tan[1] += (theta_tan[3] * y[0] + theta[3] * y_tan[0] - theta_tan[2]) * dy_bar[1]
    y_bar_tan[1] += (theta[3] * y[0] - theta[2]) * dy_bar_tan[1] - theta[1] * y[0] * dy_bar_tan[0]
    # theta_bar += (y[0]*dy_bar[0], -y[0]*y[1]*dy_bar[0], -y[1]*dy_bar[1], y[0]*y[1]*dy_bar[1])
    meetings, meetings_tan = y[0] * y[1], y_tan[0] * y[1] + y[0] * y_tan[1]
    theta_bar_tan[0] += y_tan[0] * dy_bar[0] + y[0] * dy_bar_tan[0]
    theta_bar_tan[1] -= meetings_tan * dy_bar[0] + meetings * dy_bar_tan[0]
    theta_bar_tan[2] -= y_tan[1] * dy_bar[1] + y[1] * dy_bar_tan[1]
    theta_bar_tan[3] += meetings_tan * dy_bar[1] + meetings * dy_bar_tan[1]


lotka_volterra = VectorField(
    lotka_volterra_rhs, jvp=lotka_volterra_jvp, vjp=lotka_volterra_vjp, hvp=lotka_volterra_hvp,
    name="lotka_volterra", n=2, p=4,
    state_names=("prey", "predator"), parameter_names=("alpha", "beta", "gamma", "delta"))


# --- Van der Pol ----------------------------------------------------------------------------------

@host_device
def van_der_pol_rhs(t, y, theta, tape, dy):
    """q'' = mu (1 - q^2) q' - q, y = (q, q'), theta = (mu,) (van der Pol 1926)."""
    dy[0] = y[1]
    dy[1] = theta[0] * (1.0 - y[0] * y[0]) * y[1] - y[0]


@host_device
def van_der_pol_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
    """Tangent of `van_der_pol_rhs`."""
    gain = 1.0 - y[0] * y[0]
    dy_tan[0] = y_tan[1]
    dy_tan[1] = (theta_tan[0] * gain * y[1] - 2.0 * theta[0] * y[0] * y[1] * y_tan[0]
                 + theta[0] * gain * y_tan[1] - y_tan[0])


@host_device
def van_der_pol_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    """Transpose of `van_der_pol_jvp`."""
    gain = 1.0 - y[0] * y[0]
    # dy[0] = y[1]
    y_bar[1] += dy_bar[0]
    # dy[1] = theta[0]*(1 - y[0]*y[0])*y[1] - y[0]
    y_bar[0] -= (2.0 * theta[0] * y[0] * y[1] + 1.0) * dy_bar[1]
    y_bar[1] += theta[0] * gain * dy_bar[1]
    theta_bar[0] += gain * y[1] * dy_bar[1]


@host_device
def van_der_pol_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan,
                    theta_bar_tan):
    """Tangent of `van_der_pol_vjp`."""
    gain, gain_tan = 1.0 - y[0] * y[0], -2.0 * y[0] * y_tan[0]
    # y_bar[1] += dy_bar[0] + theta[0]*gain*dy_bar[1]
    y_bar_tan[1] += dy_bar_tan[0] + theta[0] * gain * dy_bar_tan[1]
    y_bar_tan[1] += (theta_tan[0] * gain + theta[0] * gain_tan) * dy_bar[1]
    # y_bar[0] -= (2*theta[0]*y[0]*y[1] + 1)*dy_bar[1]
    product_tan = theta_tan[0] * y[0] * y[1] + theta[0] * (y_tan[0] * y[1] + y[0] * y_tan[1])
    y_bar_tan[0] -= 2.0 * product_tan * dy_bar[1] + (2.0 * theta[0] * y[0] * y[1] + 1.0) * dy_bar_tan[1]
    # theta_bar[0] += gain*y[1]*dy_bar[1]
    theta_bar_tan[0] += (gain_tan * y[1] + gain * y_tan[1]) * dy_bar[1] + gain * y[1] * dy_bar_tan[1]


van_der_pol = VectorField(
    van_der_pol_rhs, jvp=van_der_pol_jvp, vjp=van_der_pol_vjp, hvp=van_der_pol_hvp, name="van_der_pol", n=2, p=1,
    state_names=("position", "velocity"), parameter_names=("mu",))


# --- Lorenz ---------------------------------------------------------------------------------------

@host_device
def lorenz_rhs(t, y, theta, tape, dy):
    """Convection in three modes (Lorenz 1963), theta = (sigma, rho, beta).

    x' = sigma (y - x),   y' = x (rho - z) - y,   z' = x y - beta z
    """
    dy[0] = theta[0] * (y[1] - y[0])
    dy[1] = y[0] * (theta[1] - y[2]) - y[1]
    dy[2] = y[0] * y[1] - theta[2] * y[2]


@host_device
def lorenz_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
    """Tangent of `lorenz_rhs`."""
    dy_tan[0] = theta_tan[0] * (y[1] - y[0]) + theta[0] * (y_tan[1] - y_tan[0])
    dy_tan[1] = y_tan[0] * (theta[1] - y[2]) + y[0] * (theta_tan[1] - y_tan[2]) - y_tan[1]
    dy_tan[2] = y_tan[0] * y[1] + y[0] * y_tan[1] - theta_tan[2] * y[2] - theta[2] * y_tan[2]


@host_device
def lorenz_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    """Transpose of `lorenz_jvp`."""
    # dy[0] = theta[0]*(y[1] - y[0])
    y_bar[0] -= theta[0] * dy_bar[0]
    y_bar[1] += theta[0] * dy_bar[0]
    theta_bar[0] += (y[1] - y[0]) * dy_bar[0]
    # dy[1] = y[0]*(theta[1] - y[2]) - y[1]
    y_bar[0] += (theta[1] - y[2]) * dy_bar[1]
    y_bar[1] -= dy_bar[1]
    y_bar[2] -= y[0] * dy_bar[1]
    theta_bar[1] += y[0] * dy_bar[1]
    # dy[2] = y[0]*y[1] - theta[2]*y[2]
    y_bar[0] += y[1] * dy_bar[2]
    y_bar[1] += y[0] * dy_bar[2]
    y_bar[2] -= theta[2] * dy_bar[2]
    theta_bar[2] -= y[2] * dy_bar[2]


@host_device
def lorenz_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan,
               theta_bar_tan):
    """Tangent of `lorenz_vjp`."""
    # y_bar[0] += -theta[0]*dy_bar[0] + (theta[1] - y[2])*dy_bar[1] + y[1]*dy_bar[2]
    y_bar_tan[0] += -theta_tan[0] * dy_bar[0] + (theta_tan[1] - y_tan[2]) * dy_bar[1] + y_tan[1] * dy_bar[2]
    y_bar_tan[0] += -theta[0] * dy_bar_tan[0] + (theta[1] - y[2]) * dy_bar_tan[1] + y[1] * dy_bar_tan[2]
    # y_bar[1] += theta[0]*dy_bar[0] - dy_bar[1] + y[0]*dy_bar[2]
    y_bar_tan[1] += theta_tan[0] * dy_bar[0] + y_tan[0] * dy_bar[2]
    y_bar_tan[1] += theta[0] * dy_bar_tan[0] - dy_bar_tan[1] + y[0] * dy_bar_tan[2]
    # y_bar[2] -= y[0]*dy_bar[1] + theta[2]*dy_bar[2]
    y_bar_tan[2] -= y_tan[0] * dy_bar[1] + theta_tan[2] * dy_bar[2]
    y_bar_tan[2] -= y[0] * dy_bar_tan[1] + theta[2] * dy_bar_tan[2]
    # theta_bar += ((y[1] - y[0])*dy_bar[0], y[0]*dy_bar[1], -y[2]*dy_bar[2])
    theta_bar_tan[0] += (y_tan[1] - y_tan[0]) * dy_bar[0] + (y[1] - y[0]) * dy_bar_tan[0]
    theta_bar_tan[1] += y_tan[0] * dy_bar[1] + y[0] * dy_bar_tan[1]
    theta_bar_tan[2] -= y_tan[2] * dy_bar[2] + y[2] * dy_bar_tan[2]


lorenz = VectorField(
    lorenz_rhs, jvp=lorenz_jvp, vjp=lorenz_vjp, hvp=lorenz_hvp, name="lorenz", n=3, p=3,
    state_names=("x", "y", "z"), parameter_names=("sigma", "rho", "beta"))


# --- Robertson ------------------------------------------------------------------------------------

@host_device
def robertson_rhs(t, y, theta, tape, dy):
    """Autocatalytic kinetics (Robertson 1966), theta = (k1, k2, k3); y_0 + y_1 + y_2 is conserved.

    A' = -k1 A + k3 B C,   B' = k1 A - k2 B^2 - k3 B C,   C' = k2 B^2
    """
    dy[0] = -theta[0] * y[0] + theta[2] * y[1] * y[2]
    dy[1] = theta[0] * y[0] - theta[1] * y[1] * y[1] - theta[2] * y[1] * y[2]
    dy[2] = theta[1] * y[1] * y[1]


@host_device
def robertson_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
    """Tangent of `robertson_rhs`."""
    first_tan = theta_tan[0] * y[0] + theta[0] * y_tan[0]
    second_tan = theta_tan[1] * y[1] * y[1] + 2.0 * theta[1] * y[1] * y_tan[1]
    third_tan = theta_tan[2] * y[1] * y[2] + theta[2] * (y_tan[1] * y[2] + y[1] * y_tan[2])
    dy_tan[0] = -first_tan + third_tan
    dy_tan[1] = first_tan - second_tan - third_tan
    dy_tan[2] = second_tan


@host_device
def robertson_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    """Transpose of `robertson_jvp`, one reaction after the other."""
    # dy[0] -= first; dy[1] += first, with first = theta[0]*y[0]
    first_bar = dy_bar[1] - dy_bar[0]
    y_bar[0] += theta[0] * first_bar
    theta_bar[0] += y[0] * first_bar
    # dy[1] -= second; dy[2] += second, with second = theta[1]*y[1]*y[1]
    second_bar = dy_bar[2] - dy_bar[1]
    y_bar[1] += 2.0 * theta[1] * y[1] * second_bar
    theta_bar[1] += y[1] * y[1] * second_bar
    # dy[0] += third; dy[1] -= third, with third = theta[2]*y[1]*y[2]
    third_bar = dy_bar[0] - dy_bar[1]
    y_bar[1] += theta[2] * y[2] * third_bar
    y_bar[2] += theta[2] * y[1] * third_bar
    theta_bar[2] += y[1] * y[2] * third_bar


@host_device
def robertson_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan,
                  theta_bar_tan):
    """Tangent of `robertson_vjp`, one reaction after the other."""
    # y_bar[0] += theta[0]*first_bar; theta_bar[0] += y[0]*first_bar
    first_bar, first_bar_tan = dy_bar[1] - dy_bar[0], dy_bar_tan[1] - dy_bar_tan[0]
    y_bar_tan[0] += theta_tan[0] * first_bar + theta[0] * first_bar_tan
    theta_bar_tan[0] += y_tan[0] * first_bar + y[0] * first_bar_tan
    # y_bar[1] += 2*theta[1]*y[1]*second_bar; theta_bar[1] += y[1]*y[1]*second_bar
    second_bar, second_bar_tan = dy_bar[2] - dy_bar[1], dy_bar_tan[2] - dy_bar_tan[1]
    y_bar_tan[1] += 2.0 * (theta_tan[1] * y[1] + theta[1] * y_tan[1]) * second_bar
    y_bar_tan[1] += 2.0 * theta[1] * y[1] * second_bar_tan
    theta_bar_tan[1] += 2.0 * y[1] * y_tan[1] * second_bar + y[1] * y[1] * second_bar_tan
    # y_bar[1] += theta[2]*y[2]*third_bar; y_bar[2] += theta[2]*y[1]*third_bar; theta_bar[2] += y[1]*y[2]*third_bar
    third_bar, third_bar_tan = dy_bar[0] - dy_bar[1], dy_bar_tan[0] - dy_bar_tan[1]
    y_bar_tan[1] += (theta_tan[2] * y[2] + theta[2] * y_tan[2]) * third_bar + theta[2] * y[2] * third_bar_tan
    y_bar_tan[2] += (theta_tan[2] * y[1] + theta[2] * y_tan[1]) * third_bar + theta[2] * y[1] * third_bar_tan
    theta_bar_tan[2] += (y_tan[1] * y[2] + y[1] * y_tan[2]) * third_bar + y[1] * y[2] * third_bar_tan


robertson = VectorField(
    robertson_rhs, jvp=robertson_jvp, vjp=robertson_vjp, hvp=robertson_hvp, name="robertson", n=3, p=3,
    state_names=("A", "B", "C"), parameter_names=("k1", "k2", "k3"))


# --- pendulum -------------------------------------------------------------------------------------

@host_device
def pendulum_rhs(t, y, theta, tape, dy):
    """q'' = -(g/l) sin q - c q', y = (q, q'), theta = (g/l, c) (Huygens 1673)."""
    dy[0] = y[1]
    dy[1] = -theta[0] * np.sin(y[0]) - theta[1] * y[1]


@host_device
def pendulum_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
    """Tangent of `pendulum_rhs`."""
    dy_tan[0] = y_tan[1]
    dy_tan[1] = (-theta_tan[0] * np.sin(y[0]) - theta[0] * np.cos(y[0]) * y_tan[0]
                 - theta_tan[1] * y[1] - theta[1] * y_tan[1])


@host_device
def pendulum_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    """Transpose of `pendulum_jvp`."""
    # dy[0] = y[1]
    y_bar[1] += dy_bar[0]
    # dy[1] = -theta[0]*sin(y[0]) - theta[1]*y[1]
    y_bar[0] -= theta[0] * np.cos(y[0]) * dy_bar[1]
    y_bar[1] -= theta[1] * dy_bar[1]
    theta_bar[0] -= np.sin(y[0]) * dy_bar[1]
    theta_bar[1] -= y[1] * dy_bar[1]


@host_device
def pendulum_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan,
                 theta_bar_tan):
    """Tangent of `pendulum_vjp`."""
    s, c = np.sin(y[0]), np.cos(y[0])
    # y_bar[0] -= theta[0]*cos(y[0])*dy_bar[1]
    y_bar_tan[0] -= (theta_tan[0] * c - theta[0] * s * y_tan[0]) * dy_bar[1] + theta[0] * c * dy_bar_tan[1]
    # y_bar[1] += dy_bar[0] - theta[1]*dy_bar[1]
    y_bar_tan[1] += dy_bar_tan[0] - theta_tan[1] * dy_bar[1] - theta[1] * dy_bar_tan[1]
    # theta_bar[0] -= sin(y[0])*dy_bar[1]; theta_bar[1] -= y[1]*dy_bar[1]
    theta_bar_tan[0] -= c * y_tan[0] * dy_bar[1] + s * dy_bar_tan[1]
    theta_bar_tan[1] -= y_tan[1] * dy_bar[1] + y[1] * dy_bar_tan[1]


pendulum = VectorField(
    pendulum_rhs, jvp=pendulum_jvp, vjp=pendulum_vjp, hvp=pendulum_hvp, name="pendulum", n=2, p=2,
    state_names=("angle", "angular_velocity"), parameter_names=("g_over_l", "damping"))


# --- Kepler ---------------------------------------------------------------------------------------

@host_device
def kepler_rhs(t, y, theta, tape, dy):
    """q'' = -mu q / |q|^3 in the plane, y = (q_0, q_1, q_0', q_1'), theta = (mu,) (Newton 1687)."""
    r2 = y[0] * y[0] + y[1] * y[1]
    pull = theta[0] / (r2 * np.sqrt(r2))
    dy[0] = y[2]
    dy[1] = y[3]
    dy[2] = -pull * y[0]
    dy[3] = -pull * y[1]


@host_device
def kepler_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
    """Tangent of `kepler_rhs`; pull = mu/r^3 has the tangent mu_tan/r^3 - 3 pull (q . q_tan)/r^2."""
    r2 = y[0] * y[0] + y[1] * y[1]
    r3 = r2 * np.sqrt(r2)
    pull = theta[0] / r3
    pull_tan = theta_tan[0] / r3 - 3.0 * pull * (y[0] * y_tan[0] + y[1] * y_tan[1]) / r2
    dy_tan[0] = y_tan[2]
    dy_tan[1] = y_tan[3]
    dy_tan[2] = -pull_tan * y[0] - pull * y_tan[0]
    dy_tan[3] = -pull_tan * y[1] - pull * y_tan[1]


@host_device
def kepler_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    """Transpose of `kepler_jvp`."""
    r2 = y[0] * y[0] + y[1] * y[1]
    r3 = r2 * np.sqrt(r2)
    pull = theta[0] / r3
    # dy[0] = y[2]; dy[1] = y[3]
    y_bar[2] += dy_bar[0]
    y_bar[3] += dy_bar[1]
    # dy[2] = -pull*y[0]; dy[3] = -pull*y[1]
    pull_bar = -(y[0] * dy_bar[2] + y[1] * dy_bar[3])
    y_bar[0] -= pull * dy_bar[2]
    y_bar[1] -= pull * dy_bar[3]
    # pull = theta[0]/(r2*sqrt(r2)), r2 = y[0]*y[0] + y[1]*y[1]
    theta_bar[0] += pull_bar / r3
    y_bar[0] -= 3.0 * pull * y[0] / r2 * pull_bar
    y_bar[1] -= 3.0 * pull * y[1] / r2 * pull_bar


@host_device
def kepler_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan,
               theta_bar_tan):
    """Tangent of `kepler_vjp`, in the same order."""
    r2 = y[0] * y[0] + y[1] * y[1]
    r3 = r2 * np.sqrt(r2)
    shrink = -3.0 * (y[0] * y_tan[0] + y[1] * y_tan[1]) / r2                # tangent of log(1/r3)
    pull = theta[0] / r3
    pull_tan = theta_tan[0] / r3 + pull * shrink
    y_bar_tan[2] += dy_bar_tan[0]
    y_bar_tan[3] += dy_bar_tan[1]
    # pull_bar = -(y[0]*dy_bar[2] + y[1]*dy_bar[3]); theta_bar[0] += pull_bar/r3
    pull_bar = -(y[0] * dy_bar[2] + y[1] * dy_bar[3])
    pull_bar_tan = -(y_tan[0] * dy_bar[2] + y_tan[1] * dy_bar[3] + y[0] * dy_bar_tan[2] + y[1] * dy_bar_tan[3])
    theta_bar_tan[0] += (pull_bar_tan + pull_bar * shrink) / r3
    # y_bar[i] -= pull*dy_bar[2 + i] + fall*y[i]*pull_bar, fall = 3*pull/r2
    fall = 3.0 * pull / r2
    fall_tan = 3.0 * pull_tan / r2 + fall * shrink * 2.0 / 3.0
    for i in range(2):
        y_bar_tan[i] -= pull_tan * dy_bar[2 + i] + pull * dy_bar_tan[2 + i]
        y_bar_tan[i] -= (fall_tan * y[i] + fall * y_tan[i]) * pull_bar + fall * y[i] * pull_bar_tan


kepler = VectorField(
    kepler_rhs, jvp=kepler_jvp, vjp=kepler_vjp, hvp=kepler_hvp, name="kepler", n=4, p=1,
    state_names=("q0", "q1", "v0", "v1"), parameter_names=("mu",))


# --- the registry ---------------------------------------------------------------------------------

CLASSICAL = {field.name: field for field in (
    linear, exponential_decay, logistic, cosine_relaxation, twin_growth, forced_oscillator,
    lotka_volterra, van_der_pol, lorenz, robertson, pendulum, kepler)}
