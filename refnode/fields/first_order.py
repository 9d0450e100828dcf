"""Scalar right-hand sides, nonlinear or forced, on which step control and gradients are put to the test.

Every field is four adjacent functions in the kernel form (`fields.field`). The bodies neither branch on
values nor take moduli, so that compiled for complex arrays they serve the complex-step check unchanged.
"""
import numpy as np

from refnode.fields.field import VectorField
from refnode.host_device import host_device


# --- a nonlinear equation with a time of its own -----------------------------------------------------

@host_device
def riccati_rhs(t, y, theta, tape, dy):
    """y' = y cos t + c y^2, theta = (c,): nonlinear and non-autonomous, which an order test must be."""
    dy[0] = y[0] * np.cos(t) + theta[0] * y[0] * y[0]


@host_device
def riccati_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
    """Tangent of `riccati_rhs`."""
    dy_tan[0] = ((np.cos(t) + 2.0 * theta[0] * y[0]) * y_tan[0] - y[0] * np.sin(t) * t_tan
                 + y[0] * y[0] * theta_tan[0])


@host_device
def riccati_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    """Transpose of `riccati_jvp`."""
    # dy[0] = y[0]*cos(t) + theta[0]*y[0]*y[0]
    t_bar[0] -= y[0] * np.sin(t) * dy_bar[0]
    y_bar[0] += (np.cos(t) + 2.0 * theta[0] * y[0]) * dy_bar[0]
    theta_bar[0] += y[0] * y[0] * dy_bar[0]


@host_device
def riccati_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan,
                theta_bar_tan):
    """Tangent of `riccati_vjp`."""
    s, c = np.sin(t), np.cos(t)
    # t_bar[0] -= y[0]*sin(t)*dy_bar[0]
    t_bar_tan[0] -= (y_tan[0] * s + y[0] * c * t_tan) * dy_bar[0] + y[0] * s * dy_bar_tan[0]
    # y_bar[0] += (cos(t) + 2*theta[0]*y[0])*dy_bar[0]
    slope_tan = -s * t_tan + 2.0 * (theta_tan[0] * y[0] + theta[0] * y_tan[0])
    y_bar_tan[0] += slope_tan * dy_bar[0] + (c + 2.0 * theta[0] * y[0]) * dy_bar_tan[0]
    # theta_bar[0] += y[0]*y[0]*dy_bar[0]
    theta_bar_tan[0] += 2.0 * y[0] * y_tan[0] * dy_bar[0] + y[0] * y[0] * dy_bar_tan[0]


riccati = VectorField(riccati_rhs, jvp=riccati_jvp, vjp=riccati_vjp, hvp=riccati_hvp, name="riccati", n=1, p=1,
                      parameter_names=("c",))


# --- the value function of a linear regulator ---------------------------------------------------------

@host_device
def regulator_rhs(t, y, theta, tape, dy):
    """P' = b P^2 - 2 a P - q, theta = (a, b, q): cost-to-go P x^2 of x' = a x + u under q x^2 + u^2/b.

    Solved from the end of the horizon to its beginning (Kalman 1960).
    """
    dy[0] = theta[1] * y[0] * y[0] - 2.0 * theta[0] * y[0] - theta[2]


@host_device
def regulator_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
    """Tangent of `regulator_rhs`."""
    dy_tan[0] = (2.0 * (theta[1] * y[0] - theta[0]) * y_tan[0] - 2.0 * y[0] * theta_tan[0]
                 + y[0] * y[0] * theta_tan[1] - theta_tan[2])


@host_device
def regulator_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    """Transpose of `regulator_jvp`."""
    # dy[0] = theta[1]*y[0]*y[0] - 2*theta[0]*y[0] - theta[2]
    y_bar[0] += 2.0 * (theta[1] * y[0] - theta[0]) * dy_bar[0]
    theta_bar[0] -= 2.0 * y[0] * dy_bar[0]
    theta_bar[1] += y[0] * y[0] * dy_bar[0]
    theta_bar[2] -= dy_bar[0]


@host_device
def regulator_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan,
                  theta_bar_tan):
    """Tangent of `regulator_vjp`."""
    # y_bar[0] += 2*(theta[1]*y[0] - theta[0])*dy_bar[0]
    slope_tan = 2.0 * (theta_tan[1] * y[0] + theta[1] * y_tan[0] - theta_tan[0])
    y_bar_tan[0] += slope_tan * dy_bar[0] + 2.0 * (theta[1] * y[0] - theta[0]) * dy_bar_tan[0]
    # theta_bar += (-2*y[0]*dy_bar[0], y[0]*y[0]*dy_bar[0], -dy_bar[0])
    theta_bar_tan[0] -= 2.0 * (y_tan[0] * dy_bar[0] + y[0] * dy_bar_tan[0])
    theta_bar_tan[1] += 2.0 * y[0] * y_tan[0] * dy_bar[0] + y[0] * y[0] * dy_bar_tan[0]
    theta_bar_tan[2] -= dy_bar_tan[0]


regulator = VectorField(
    regulator_rhs, jvp=regulator_jvp, vjp=regulator_vjp, hvp=regulator_hvp, name="regulator", n=1, p=3,
    state_names=("cost_to_go",), parameter_names=("a", "b", "q"))


# --- outflow through a hole -----------------------------------------------------------------------------

@host_device
def outflow_rhs(t, y, theta, tape, dy):
    """y' = -c sqrt(y), theta = (c,): the level above a hole (Torricelli 1644); not defined for y < 0."""
    dy[0] = -theta[0] * np.sqrt(y[0])


@host_device
def outflow_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
    """Tangent of `outflow_rhs`."""
    root = np.sqrt(y[0])
    dy_tan[0] = -theta_tan[0] * root - theta[0] * y_tan[0] / (2.0 * root)


@host_device
def outflow_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    """Transpose of `outflow_jvp`."""
    # dy[0] = -theta[0]*sqrt(y[0])
    root = np.sqrt(y[0])
    y_bar[0] -= theta[0] / (2.0 * root) * dy_bar[0]
    theta_bar[0] -= root * dy_bar[0]


@host_device
def outflow_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan,
                theta_bar_tan):
    """Tangent of `outflow_vjp`."""
    root = np.sqrt(y[0])
    root_tan = y_tan[0] / (2.0 * root)
    # y_bar[0] -= theta[0]/(2*root)*dy_bar[0]
    slope, slope_tan = theta[0] / (2.0 * root), (theta_tan[0] - theta[0] * root_tan / root) / (2.0 * root)
    y_bar_tan[0] -= slope_tan * dy_bar[0] + slope * dy_bar_tan[0]
    # theta_bar[0] -= root*dy_bar[0]
    theta_bar_tan[0] -= root_tan * dy_bar[0] + root * dy_bar_tan[0]


outflow = VectorField(
    outflow_rhs, jvp=outflow_jvp, vjp=outflow_vjp, hvp=outflow_hvp, name="outflow", n=1, p=1,
    state_names=("level",), parameter_names=("c",))


# --- a decay that forgets where it began ------------------------------------------------------------------

@host_device
def sine_decay_rhs(t, y, theta, tape, dy):
    """y' = -a y + b sin y, theta = (a, b)."""
    dy[0] = -theta[0] * y[0] + theta[1] * np.sin(y[0])


@host_device
def sine_decay_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
    """Tangent of `sine_decay_rhs`."""
    dy_tan[0] = ((theta[1] * np.cos(y[0]) - theta[0]) * y_tan[0] - y[0] * theta_tan[0]
                 + np.sin(y[0]) * theta_tan[1])


@host_device
def sine_decay_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    """Transpose of `sine_decay_jvp`."""
    # dy[0] = -theta[0]*y[0] + theta[1]*sin(y[0])
    y_bar[0] += (theta[1] * np.cos(y[0]) - theta[0]) * dy_bar[0]
    theta_bar[0] -= y[0] * dy_bar[0]
    theta_bar[1] += np.sin(y[0]) * dy_bar[0]


@host_device
def sine_decay_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan,
                   theta_bar_tan):
    """Tangent of `sine_decay_vjp`."""
    s, c = np.sin(y[0]), np.cos(y[0])
    # y_bar[0] += (theta[1]*cos(y[0]) - theta[0])*dy_bar[0]
    y_bar_tan[0] += ((theta_tan[1] * c - theta[1] * s * y_tan[0] - theta_tan[0]) * dy_bar[0]
                     + (theta[1] * c - theta[0]) * dy_bar_tan[0])
    # theta_bar[0] -= y[0]*dy_bar[0]; theta_bar[1] += sin(y[0])*dy_bar[0]
    theta_bar_tan[0] -= y_tan[0] * dy_bar[0] + y[0] * dy_bar_tan[0]
    theta_bar_tan[1] += c * y_tan[0] * dy_bar[0] + s * dy_bar_tan[0]


sine_decay = VectorField(
    sine_decay_rhs, jvp=sine_decay_jvp, vjp=sine_decay_vjp, hvp=sine_decay_hvp, name="sine_decay", n=1, p=2,
    parameter_names=("a", "b"))


# --- several wells under a forcing --------------------------------------------------------------------------

@host_device
def sine_feedback_rhs(t, y, theta, tape, dy):
    """y' = sin(a y) - b y + cos t, theta = (a, b)."""
    dy[0] = np.sin(theta[0] * y[0]) - theta[1] * y[0] + np.cos(t)


@host_device
def sine_feedback_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
    """Tangent of `sine_feedback_rhs`."""
    dy_tan[0] = (np.cos(theta[0] * y[0]) * (theta_tan[0] * y[0] + theta[0] * y_tan[0])
                 - theta_tan[1] * y[0] - theta[1] * y_tan[0] - np.sin(t) * t_tan)


@host_device
def sine_feedback_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    """Transpose of `sine_feedback_jvp`."""
    # dy[0] = sin(theta[0]*y[0]) - theta[1]*y[0] + cos(t)
    angle_bar = np.cos(theta[0] * y[0]) * dy_bar[0]
    y_bar[0] += theta[0] * angle_bar - theta[1] * dy_bar[0]
    theta_bar[0] += y[0] * angle_bar
    theta_bar[1] -= y[0] * dy_bar[0]
    t_bar[0] -= np.sin(t) * dy_bar[0]


@host_device
def sine_feedback_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan,
                      theta_bar_tan):
    """Tangent of `sine_feedback_vjp`."""
    s, c = np.sin(theta[0] * y[0]), np.cos(theta[0] * y[0])
    angle_tan = theta_tan[0] * y[0] + theta[0] * y_tan[0]
    angle_bar, angle_bar_tan = c * dy_bar[0], c * dy_bar_tan[0] - s * angle_tan * dy_bar[0]
    # y_bar[0] += theta[0]*angle_bar - theta[1]*dy_bar[0]
    y_bar_tan[0] += theta_tan[0] * angle_bar + theta[0] * angle_bar_tan
    y_bar_tan[0] -= theta_tan[1] * dy_bar[0] + theta[1] * dy_bar_tan[0]
    # theta_bar[0] += y[0]*angle_bar; theta_bar[1] -= y[0]*dy_bar[0]
    theta_bar_tan[0] += y_tan[0] * angle_bar + y[0] * angle_bar_tan
    theta_bar_tan[1] -= y_tan[0] * dy_bar[0] + y[0] * dy_bar_tan[0]
    # t_bar[0] -= sin(t)*dy_bar[0]
    t_bar_tan[0] -= np.cos(t) * t_tan * dy_bar[0] + np.sin(t) * dy_bar_tan[0]


sine_feedback = VectorField(
    sine_feedback_rhs, jvp=sine_feedback_jvp, vjp=sine_feedback_vjp, hvp=sine_feedback_hvp, name="sine_feedback",
    n=1, p=2, parameter_names=("a", "b"))


# --- a decay forced by a sine ---------------------------------------------------------------------------------

@host_device
def sine_forcing_rhs(t, y, theta, tape, dy):
    """y' = -k y + a sin(w t), theta = (k, a, w): at a = 0 a step control cannot see w, but d/da does."""
    dy[0] = -theta[0] * y[0] + theta[1] * np.sin(theta[2] * t)


@host_device
def sine_forcing_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
    """Tangent of `sine_forcing_rhs`."""
    angle, angle_tan = theta[2] * t, theta_tan[2] * t + theta[2] * t_tan
    dy_tan[0] = (-theta_tan[0] * y[0] - theta[0] * y_tan[0] + theta_tan[1] * np.sin(angle)
                 + theta[1] * np.cos(angle) * angle_tan)


@host_device
def sine_forcing_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    """Transpose of `sine_forcing_jvp`."""
    # dy[0] = -theta[0]*y[0] + theta[1]*sin(angle)
    angle_bar = theta[1] * np.cos(theta[2] * t) * dy_bar[0]
    y_bar[0] -= theta[0] * dy_bar[0]
    theta_bar[0] -= y[0] * dy_bar[0]
    theta_bar[1] += np.sin(theta[2] * t) * dy_bar[0]
    # angle = theta[2]*t
    theta_bar[2] += t * angle_bar
    t_bar[0] += theta[2] * angle_bar


@host_device
def sine_forcing_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan,
                     theta_bar_tan):
    """Tangent of `sine_forcing_vjp`."""
    s, c = np.sin(theta[2] * t), np.cos(theta[2] * t)
    angle_tan = theta_tan[2] * t + theta[2] * t_tan
    angle_bar = theta[1] * c * dy_bar[0]
    angle_bar_tan = (theta_tan[1] * c - theta[1] * s * angle_tan) * dy_bar[0] + theta[1] * c * dy_bar_tan[0]
    # y_bar[0] -= theta[0]*dy_bar[0]; theta_bar[0] -= y[0]*dy_bar[0]; theta_bar[1] += sin(angle)*dy_bar[0]
    y_bar_tan[0] -= theta_tan[0] * dy_bar[0] + theta[0] * dy_bar_tan[0]
    theta_bar_tan[0] -= y_tan[0] * dy_bar[0] + y[0] * dy_bar_tan[0]
    theta_bar_tan[1] += c * angle_tan * dy_bar[0] + s * dy_bar_tan[0]
    # theta_bar[2] += t*angle_bar; t_bar[0] += theta[2]*angle_bar
    theta_bar_tan[2] += t_tan * angle_bar + t * angle_bar_tan
    t_bar_tan[0] += theta_tan[2] * angle_bar + theta[2] * angle_bar_tan


sine_forcing = VectorField(
    sine_forcing_rhs, jvp=sine_forcing_jvp, vjp=sine_forcing_vjp, hvp=sine_forcing_hvp, name="sine_forcing", n=1, p=3,
    parameter_names=("rate", "amplitude", "omega"))
