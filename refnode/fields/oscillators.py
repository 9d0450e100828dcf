"""Right-hand sides that turn, spike and wander: a damped rotation, FitzHugh-Nagumo, Hénon-Heiles.

Every field is four adjacent functions in the kernel form (`fields.field`). The bodies neither branch on
values nor take moduli, so that compiled for complex arrays they serve the complex-step check unchanged.
"""
from refnode.fields.field import VectorField
from refnode.host_device import host_device


# --- a damped rotation ----------------------------------------------------------------------------

@host_device
def damped_rotation_rhs(t, y, theta, tape, dy):
    """z' = (i w - a) z as a real system, z = y_0 + i y_1, theta = (a, w)."""
    dy[0] = -theta[0] * y[0] - theta[1] * y[1]
    dy[1] = theta[1] * y[0] - theta[0] * y[1]


@host_device
def damped_rotation_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
    """Tangent of `damped_rotation_rhs`."""
    dy_tan[0] = -theta[0] * y_tan[0] - theta[1] * y_tan[1] - theta_tan[0] * y[0] - theta_tan[1] * y[1]
    dy_tan[1] = theta[1] * y_tan[0] - theta[0] * y_tan[1] + theta_tan[1] * y[0] - theta_tan[0] * y[1]


@host_device
def damped_rotation_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    """Transpose of `damped_rotation_jvp`."""
    # dy[0] = -theta[0]*y[0] - theta[1]*y[1]
    y_bar[0] -= theta[0] * dy_bar[0]
    y_bar[1] -= theta[1] * dy_bar[0]
    theta_bar[0] -= y[0] * dy_bar[0]
    theta_bar[1] -= y[1] * dy_bar[0]
    # dy[1] = theta[1]*y[0] - theta[0]*y[1]
    y_bar[0] += theta[1] * dy_bar[1]
    y_bar[1] -= theta[0] * dy_bar[1]
    theta_bar[1] += y[0] * dy_bar[1]
    theta_bar[0] -= y[1] * dy_bar[1]


@host_device
def damped_rotation_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan,
                        theta_bar_tan):
    """Tangent of `damped_rotation_vjp`."""
    # y_bar[0] += theta[1]*dy_bar[1] - theta[0]*dy_bar[0]
    y_bar_tan[0] += theta_tan[1] * dy_bar[1] + theta[1] * dy_bar_tan[1]
    y_bar_tan[0] -= theta_tan[0] * dy_bar[0] + theta[0] * dy_bar_tan[0]
    # y_bar[1] -= theta[1]*dy_bar[0] + theta[0]*dy_bar[1]
    y_bar_tan[1] -= theta_tan[1] * dy_bar[0] + theta[1] * dy_bar_tan[0]
    y_bar_tan[1] -= theta_tan[0] * dy_bar[1] + theta[0] * dy_bar_tan[1]
    # theta_bar[0] -= y[0]*dy_bar[0] + y[1]*dy_bar[1]
    theta_bar_tan[0] -= y_tan[0] * dy_bar[0] + y[0] * dy_bar_tan[0]
    theta_bar_tan[0] -= y_tan[1] * dy_bar[1] + y[1] * dy_bar_tan[1]
    # theta_bar[1] += y[0]*dy_bar[1] - y[1]*dy_bar[0]
    theta_bar_tan[1] += y_tan[0] * dy_bar[1] + y[0] * dy_bar_tan[1]
    theta_bar_tan[1] -= y_tan[1] * dy_bar[0] + y[1] * dy_bar_tan[0]


damped_rotation = VectorField(
    damped_rotation_rhs, jvp=damped_rotation_jvp, vjp=damped_rotation_vjp, hvp=damped_rotation_hvp,
    name="damped_rotation", n=2, p=2, state_names=("real", "imaginary"), parameter_names=("a", "w"))


# --- a nerve --------------------------------------------------------------------------------------

@host_device
def fitzhugh_nagumo_rhs(t, y, theta, tape, dy):
    """v' = v - v^3/3 - w + I, w' = eps (v + a - b w), theta = (I, eps, a, b) (FitzHugh 1961; Nagumo 1962)."""
    dy[0] = y[0] - y[0] * y[0] * y[0] / 3.0 - y[1] + theta[0]
    dy[1] = theta[1] * (y[0] + theta[2] - theta[3] * y[1])


@host_device
def fitzhugh_nagumo_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
    """Tangent of `fitzhugh_nagumo_rhs`."""
    lag = y[0] + theta[2] - theta[3] * y[1]
    lag_tan = y_tan[0] + theta_tan[2] - theta_tan[3] * y[1] - theta[3] * y_tan[1]
    dy_tan[0] = (1.0 - y[0] * y[0]) * y_tan[0] - y_tan[1] + theta_tan[0]
    dy_tan[1] = theta_tan[1] * lag + theta[1] * lag_tan


@host_device
def fitzhugh_nagumo_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    """Transpose of `fitzhugh_nagumo_jvp`."""
    # dy[0] = y[0] - y[0]*y[0]*y[0]/3 - y[1] + theta[0]
    y_bar[0] += (1.0 - y[0] * y[0]) * dy_bar[0]
    y_bar[1] -= dy_bar[0]
    theta_bar[0] += dy_bar[0]
    # dy[1] = theta[1]*lag
    lag_bar = theta[1] * dy_bar[1]
    theta_bar[1] += (y[0] + theta[2] - theta[3] * y[1]) * dy_bar[1]
    # lag = y[0] + theta[2] - theta[3]*y[1]
    y_bar[0] += lag_bar
    theta_bar[2] += lag_bar
    theta_bar[3] -= y[1] * lag_bar
    y_bar[1] -= theta[3] * lag_bar


@host_device
def fitzhugh_nagumo_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan,
                        theta_bar_tan):
    """Tangent of `fitzhugh_nagumo_vjp`."""
    # y_bar[0] += (1 - y[0]*y[0])*dy_bar[0]; y_bar[1] -= dy_bar[0]; theta_bar[0] += dy_bar[0]
    y_bar_tan[0] += (1.0 - y[0] * y[0]) * dy_bar_tan[0] - 2.0 * y[0] * y_tan[0] * dy_bar[0]
    y_bar_tan[1] -= dy_bar_tan[0]
    theta_bar_tan[0] += dy_bar_tan[0]
    # theta_bar[1] += lag*dy_bar[1]
    lag = y[0] + theta[2] - theta[3] * y[1]
    lag_tan = y_tan[0] + theta_tan[2] - theta_tan[3] * y[1] - theta[3] * y_tan[1]
    theta_bar_tan[1] += lag_tan * dy_bar[1] + lag * dy_bar_tan[1]
    # y_bar[0] += lag_bar; theta_bar[2] += lag_bar
    lag_bar, lag_bar_tan = theta[1] * dy_bar[1], theta_tan[1] * dy_bar[1] + theta[1] * dy_bar_tan[1]
    y_bar_tan[0] += lag_bar_tan
    theta_bar_tan[2] += lag_bar_tan
    # theta_bar[3] -= y[1]*lag_bar; y_bar[1] -= theta[3]*lag_bar
    theta_bar_tan[3] -= y_tan[1] * lag_bar + y[1] * lag_bar_tan
    y_bar_tan[1] -= theta_tan[3] * lag_bar + theta[3] * lag_bar_tan


fitzhugh_nagumo = VectorField(
    fitzhugh_nagumo_rhs, jvp=fitzhugh_nagumo_jvp, vjp=fitzhugh_nagumo_vjp, hvp=fitzhugh_nagumo_hvp,
    name="fitzhugh_nagumo", n=2, p=4, state_names=("voltage", "recovery"), parameter_names=("I", "eps", "a", "b"))


# --- a star in a galaxy ---------------------------------------------------------------------------

@host_device
def henon_heiles_rhs(t, y, theta, tape, dy):
    """q_0'' = -q_0 - 2 c q_0 q_1, q_1'' = -q_1 - c (q_0^2 - q_1^2), theta = (c,) (Hénon & Heiles 1964).

    y = (q_0, q_1, q_0', q_1').
    """
    dy[0] = y[2]
    dy[1] = y[3]
    dy[2] = -y[0] - 2.0 * theta[0] * y[0] * y[1]
    dy[3] = -y[1] - theta[0] * (y[0] * y[0] - y[1] * y[1])


@host_device
def henon_heiles_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
    """Tangent of `henon_heiles_rhs`."""
    dy_tan[0] = y_tan[2]
    dy_tan[1] = y_tan[3]
    dy_tan[2] = (-y_tan[0] - 2.0 * theta_tan[0] * y[0] * y[1]
                 - 2.0 * theta[0] * (y_tan[0] * y[1] + y[0] * y_tan[1]))
    dy_tan[3] = (-y_tan[1] - theta_tan[0] * (y[0] * y[0] - y[1] * y[1])
                 - 2.0 * theta[0] * (y[0] * y_tan[0] - y[1] * y_tan[1]))


@host_device
def henon_heiles_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    """Transpose of `henon_heiles_jvp`."""
    # dy[0] = y[2]; dy[1] = y[3]
    y_bar[2] += dy_bar[0]
    y_bar[3] += dy_bar[1]
    # dy[2] = -y[0] - 2*theta[0]*y[0]*y[1]
    y_bar[0] -= (1.0 + 2.0 * theta[0] * y[1]) * dy_bar[2]
    y_bar[1] -= 2.0 * theta[0] * y[0] * dy_bar[2]
    theta_bar[0] -= 2.0 * y[0] * y[1] * dy_bar[2]
    # dy[3] = -y[1] - theta[0]*(y[0]*y[0] - y[1]*y[1])
    y_bar[0] -= 2.0 * theta[0] * y[0] * dy_bar[3]
    y_bar[1] += (2.0 * theta[0] * y[1] - 1.0) * dy_bar[3]
    theta_bar[0] -= (y[0] * y[0] - y[1] * y[1]) * dy_bar[3]


@host_device
def henon_heiles_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan,
                     theta_bar_tan):
    """Tangent of `henon_heiles_vjp`."""
    first_tan = theta_tan[0] * y[0] + theta[0] * y_tan[0]                   # of theta[0]*y[0]
    second_tan = theta_tan[0] * y[1] + theta[0] * y_tan[1]                  # of theta[0]*y[1]
    # y_bar[2] += dy_bar[0]; y_bar[3] += dy_bar[1]
    y_bar_tan[2] += dy_bar_tan[0]
    y_bar_tan[3] += dy_bar_tan[1]
    # y_bar[0] -= (1 + 2*theta[0]*y[1])*dy_bar[2] + 2*theta[0]*y[0]*dy_bar[3]
    y_bar_tan[0] -= 2.0 * second_tan * dy_bar[2] + (1.0 + 2.0 * theta[0] * y[1]) * dy_bar_tan[2]
    y_bar_tan[0] -= 2.0 * first_tan * dy_bar[3] + 2.0 * theta[0] * y[0] * dy_bar_tan[3]
    # y_bar[1] += (2*theta[0]*y[1] - 1)*dy_bar[3] - 2*theta[0]*y[0]*dy_bar[2]
    y_bar_tan[1] += 2.0 * second_tan * dy_bar[3] + (2.0 * theta[0] * y[1] - 1.0) * dy_bar_tan[3]
    y_bar_tan[1] -= 2.0 * first_tan * dy_bar[2] + 2.0 * theta[0] * y[0] * dy_bar_tan[2]
    # theta_bar[0] -= 2*y[0]*y[1]*dy_bar[2] + (y[0]*y[0] - y[1]*y[1])*dy_bar[3]
    theta_bar_tan[0] -= 2.0 * ((y_tan[0] * y[1] + y[0] * y_tan[1]) * dy_bar[2] + y[0] * y[1] * dy_bar_tan[2])
    theta_bar_tan[0] -= 2.0 * (y[0] * y_tan[0] - y[1] * y_tan[1]) * dy_bar[3]
    theta_bar_tan[0] -= (y[0] * y[0] - y[1] * y[1]) * dy_bar_tan[3]


henon_heiles = VectorField(
    henon_heiles_rhs, jvp=henon_heiles_jvp, vjp=henon_heiles_vjp, hvp=henon_heiles_hvp, name="henon_heiles", n=4, p=1,
    state_names=("q0", "q1", "v0", "v1"), parameter_names=("c",))
