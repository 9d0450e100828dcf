"""A ball that bounces three times, each flight divided by (-e)^k so that the velocity does not jump (see `switched.bounce`).

Which flight it is cannot be told from the state alone: flights 0 and 2 are above the ground, 1 and 3 below it. The sign of the
height tells which of the two, and the time which of those, by a mark in the middle of the flight between them. So the field needs
no memory, and is that of the ball near every solution whose flight 1 holds the first mark and flight 2 the second. As in
`switched`, the derivatives are those within the flights.
"""
from refnode.fields.field import VectorField
from refnode.host_device import host_device

MARK_1, MARK_2 = 1.25, 2.125       # in the flights of `bounce/thrice`, which meets the ground at 0.79, 1.75 and 2.47


@host_device
def flight(t, y, e):
    """(k, 1/e, 1/(-e)^k), k the number of the flight. w = 1 above the ground, 0 below it; late = 1 in the second flight there."""
    w = 1.0 * ((-y[0]).real < 0.0)
    late = w * (1.0 * (t.real >= MARK_1)) + (1.0 - w) * (1.0 * (t.real >= MARK_2))
    r = 1.0 / e
    return 1.0 - w + 2.0 * late, r, (2.0 * w - 1.0) * (w + (1.0 - w) * r) * (1.0 - late + late * r * r)


@host_device
def bounces_rhs(t, y, theta, tape, dy):
    """height' = v, v' = -g/(-e)^k, theta = (g, e), k = 0, 1, 2, 3 the number of the flight."""
    k, r, power = flight(t, y, theta[1])
    dy[0] = y[1]
    dy[1] = -theta[0] * power


@host_device
def bounces_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
    """Tangent of `bounces_rhs` within the flights: d/de of (-e)^-k is -k/e times itself."""
    k, r, power = flight(t, y, theta[1])
    dy_tan[0] = y_tan[1]
    dy_tan[1] = -power * (theta_tan[0] - k * r * theta[0] * theta_tan[1])


@host_device
def bounces_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    """Transpose of `bounces_jvp`."""
    k, r, power = flight(t, y, theta[1])
    y_bar[1] += dy_bar[0]                                       # dy_tan[0] = y_tan[1]
    theta_bar[0] -= power * dy_bar[1]                           # dy_tan[1] = -power * (theta_tan[0] - ...
    theta_bar[1] += power * k * r * theta[0] * dy_bar[1]        # ... k * r * theta[0] * theta_tan[1])


@host_device
def bounces_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan,
                theta_bar_tan):
    """Tangent of `bounces_vjp` within the flights."""
    k, r, power = flight(t, y, theta[1])
    power_tan = -k * r * power * theta_tan[1]
    # y_bar[1] += dy_bar[0]; theta_bar[0] -= power*dy_bar[1]
    y_bar_tan[1] += dy_bar_tan[0]
    theta_bar_tan[0] -= power_tan * dy_bar[1] + power * dy_bar_tan[1]
    # theta_bar[1] += k*power*r*g*dy_bar[1], of which power*r goes with e^-(k + 1)
    slope_tan = theta_tan[0] - (k + 1.0) * r * theta[0] * theta_tan[1]
    theta_bar_tan[1] += k * power * r * (slope_tan * dy_bar[1] + theta[0] * dy_bar_tan[1])


bounces = VectorField(
    bounces_rhs, jvp=bounces_jvp, vjp=bounces_vjp, hvp=bounces_hvp, name="bounces", n=2, p=2,
    state_names=("height", "velocity"), parameter_names=("gravity", "restitution"))
