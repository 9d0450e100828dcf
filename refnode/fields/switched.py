"""Right-hand sides of two pieces: forcings with a kink or a step at a time, and rates that change at a state.

Their derivatives are those within the pieces. That is the whole derivative of a solve where the right-hand side
is continuous (`kink_forcing`); where it jumps, a solve has further terms at the switch, which no field can carry.
A piece is weighed by a real comparison, w = 1 before the switch and 0 after it, so that complex steps pass through.
"""
from refnode.fields.field import VectorField
from refnode.host_device import host_device


# --- a forcing with a kink ------------------------------------------------------------------------

@host_device
def kink_forcing_rhs(t, y, theta, tape, dy):
    """y' = -k y + u(t), theta = (s, k, a, b): u = a t before t = s, u = a s + b (t - s) from there on."""
    w = 1.0 * ((t - theta[0]).real < 0.0)
    dy[0] = -theta[1] * y[0] + w * theta[2] * t + (1.0 - w) * (theta[2] * theta[0] + theta[3] * (t - theta[0]))


@host_device
def kink_forcing_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
    """Tangent of `kink_forcing_rhs`."""
    w, late = 1.0 * ((t - theta[0]).real < 0.0), t - theta[0]
    early_tan = theta_tan[2] * t + theta[2] * t_tan
    late_tan = (theta_tan[2] * theta[0] + theta[2] * theta_tan[0] + theta_tan[3] * late
                + theta[3] * (t_tan - theta_tan[0]))
    dy_tan[0] = -theta_tan[1] * y[0] - theta[1] * y_tan[0] + w * early_tan + (1.0 - w) * late_tan


@host_device
def kink_forcing_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    """Transpose of `kink_forcing_jvp`."""
    w = 1.0 * ((t - theta[0]).real < 0.0)
    # dy[0] = -theta[1]*y[0] + w*early + (1 - w)*late
    y_bar[0] -= theta[1] * dy_bar[0]
    theta_bar[1] -= y[0] * dy_bar[0]
    early_bar, late_bar = w * dy_bar[0], (1.0 - w) * dy_bar[0]
    # early = theta[2]*t
    theta_bar[2] += t * early_bar
    t_bar[0] += theta[2] * early_bar
    # late = theta[2]*theta[0] + theta[3]*(t - theta[0])
    theta_bar[2] += theta[0] * late_bar
    theta_bar[0] += (theta[2] - theta[3]) * late_bar
    theta_bar[3] += (t - theta[0]) * late_bar
    t_bar[0] += theta[3] * late_bar


@host_device
def kink_forcing_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan,
                     theta_bar_tan):
    """Tangent of `kink_forcing_vjp` within the pieces."""
    w = 1.0 * ((t - theta[0]).real < 0.0)
    # y_bar[0] -= theta[1]*dy_bar[0]; theta_bar[1] -= y[0]*dy_bar[0]
    y_bar_tan[0] -= theta_tan[1] * dy_bar[0] + theta[1] * dy_bar_tan[0]
    theta_bar_tan[1] -= y_tan[0] * dy_bar[0] + y[0] * dy_bar_tan[0]
    early_bar, late_bar = w * dy_bar[0], (1.0 - w) * dy_bar[0]
    early_bar_tan, late_bar_tan = w * dy_bar_tan[0], (1.0 - w) * dy_bar_tan[0]
    # theta_bar[2] += t*early_bar + theta[0]*late_bar; t_bar[0] += theta[2]*early_bar + theta[3]*late_bar
    theta_bar_tan[2] += t_tan * early_bar + t * early_bar_tan + theta_tan[0] * late_bar + theta[0] * late_bar_tan
    t_bar_tan[0] += theta_tan[2] * early_bar + theta[2] * early_bar_tan
    t_bar_tan[0] += theta_tan[3] * late_bar + theta[3] * late_bar_tan
    # theta_bar[0] += (theta[2] - theta[3])*late_bar; theta_bar[3] += (t - theta[0])*late_bar
    theta_bar_tan[0] += (theta_tan[2] - theta_tan[3]) * late_bar + (theta[2] - theta[3]) * late_bar_tan
    theta_bar_tan[3] += (t_tan - theta_tan[0]) * late_bar + (t - theta[0]) * late_bar_tan


kink_forcing = VectorField(
    kink_forcing_rhs, jvp=kink_forcing_jvp, vjp=kink_forcing_vjp, hvp=kink_forcing_hvp, name="kink_forcing", n=1, p=4,
    parameter_names=("switch_time", "rate", "slope_before", "slope_after"))


# --- a forcing with a step ------------------------------------------------------------------------

@host_device
def step_forcing_rhs(t, y, theta, tape, dy):
    """y' = -k y + u, theta = (s, k, a, b): u = a before t = s, u = b from there on."""
    w = 1.0 * ((t - theta[0]).real < 0.0)
    dy[0] = -theta[1] * y[0] + w * theta[2] + (1.0 - w) * theta[3]


@host_device
def step_forcing_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
    """Tangent of `step_forcing_rhs` within the pieces."""
    w = 1.0 * ((t - theta[0]).real < 0.0)
    dy_tan[0] = (-theta_tan[1] * y[0] - theta[1] * y_tan[0]
                 + w * theta_tan[2] + (1.0 - w) * theta_tan[3])


@host_device
def step_forcing_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    """Transpose of `step_forcing_jvp`."""
    w = 1.0 * ((t - theta[0]).real < 0.0)
    # dy[0] = -theta[1]*y[0] + w*theta[2] + (1 - w)*theta[3]
    y_bar[0] -= theta[1] * dy_bar[0]
    theta_bar[1] -= y[0] * dy_bar[0]
    theta_bar[2] += w * dy_bar[0]
    theta_bar[3] += (1.0 - w) * dy_bar[0]


@host_device
def step_forcing_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan,
                     theta_bar_tan):
    """Tangent of `step_forcing_vjp` within the pieces."""
    w = 1.0 * ((t - theta[0]).real < 0.0)
    # y_bar[0] -= theta[1]*dy_bar[0]; theta_bar[1] -= y[0]*dy_bar[0]
    y_bar_tan[0] -= theta_tan[1] * dy_bar[0] + theta[1] * dy_bar_tan[0]
    theta_bar_tan[1] -= y_tan[0] * dy_bar[0] + y[0] * dy_bar_tan[0]
    # theta_bar[2] += w*dy_bar[0]; theta_bar[3] += (1 - w)*dy_bar[0]
    theta_bar_tan[2] += w * dy_bar_tan[0]
    theta_bar_tan[3] += (1.0 - w) * dy_bar_tan[0]


step_forcing = VectorField(
    step_forcing_rhs, jvp=step_forcing_jvp, vjp=step_forcing_vjp, hvp=step_forcing_hvp, name="step_forcing", n=1, p=4,
    parameter_names=("switch_time", "rate", "input_before", "input_after"))


# --- a dose all at once ---------------------------------------------------------------------------

@host_device
def dose_decay_rhs(t, y, theta, tape, dy):
    """A dose D at t = s into a decay: the amount less what was dosed, z' = -k (z + D from s on), theta = (s, k, D).

    The amount z + D jumps at s, and z does not.
    """
    w = 1.0 * ((t - theta[0]).real < 0.0)
    dy[0] = -theta[1] * (y[0] + (1.0 - w) * theta[2])


@host_device
def dose_decay_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
    """Tangent of `dose_decay_rhs` within the pieces."""
    w = 1.0 * ((t - theta[0]).real < 0.0)
    dy_tan[0] = (-theta_tan[1] * (y[0] + (1.0 - w) * theta[2])
                 - theta[1] * (y_tan[0] + (1.0 - w) * theta_tan[2]))


@host_device
def dose_decay_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    """Transpose of `dose_decay_jvp`."""
    w = 1.0 * ((t - theta[0]).real < 0.0)
    # dy[0] = -theta[1]*(y[0] + (1 - w)*theta[2])
    y_bar[0] -= theta[1] * dy_bar[0]
    theta_bar[1] -= (y[0] + (1.0 - w) * theta[2]) * dy_bar[0]
    theta_bar[2] -= theta[1] * (1.0 - w) * dy_bar[0]


@host_device
def dose_decay_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan,
                   theta_bar_tan):
    """Tangent of `dose_decay_vjp` within the pieces."""
    w = 1.0 * ((t - theta[0]).real < 0.0)
    # y_bar[0] -= theta[1]*dy_bar[0]
    y_bar_tan[0] -= theta_tan[1] * dy_bar[0] + theta[1] * dy_bar_tan[0]
    # theta_bar[1] -= (y[0] + (1 - w)*theta[2])*dy_bar[0]
    theta_bar_tan[1] -= (y_tan[0] + (1.0 - w) * theta_tan[2]) * dy_bar[0] + (y[0] + (1.0 - w) * theta[2]) * dy_bar_tan[0]
    # theta_bar[2] -= theta[1]*(1 - w)*dy_bar[0]
    theta_bar_tan[2] -= (1.0 - w) * (theta_tan[1] * dy_bar[0] + theta[1] * dy_bar_tan[0])


dose_decay = VectorField(
    dose_decay_rhs, jvp=dose_decay_jvp, vjp=dose_decay_vjp, hvp=dose_decay_hvp, name="dose_decay", n=1, p=3,
    state_names=("amount_less_dose",), parameter_names=("dose_time", "rate", "dose"))


# --- a rate that changes at a time ----------------------------------------------------------------

@host_device
def time_rate_rhs(t, y, theta, tape, dy):
    """y' = a while t < s, else b, theta = (s, a, b)."""
    w = 1.0 * ((t - theta[0]).real < 0.0)
    dy[0] = w * theta[1] + (1.0 - w) * theta[2]


@host_device
def time_rate_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
    """Tangent of `time_rate_rhs` within the pieces."""
    w = 1.0 * ((t - theta[0]).real < 0.0)
    dy_tan[0] = w * theta_tan[1] + (1.0 - w) * theta_tan[2]


@host_device
def time_rate_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    """Transpose of `time_rate_jvp`."""
    w = 1.0 * ((t - theta[0]).real < 0.0)
    # dy[0] = w*theta[1] + (1 - w)*theta[2]
    theta_bar[1] += w * dy_bar[0]
    theta_bar[2] += (1.0 - w) * dy_bar[0]


@host_device
def time_rate_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan,
                  theta_bar_tan):
    """Tangent of `time_rate_vjp` within the pieces."""
    w = 1.0 * ((t - theta[0]).real < 0.0)
    # theta_bar[1] += w*dy_bar[0]; theta_bar[2] += (1 - w)*dy_bar[0]
    theta_bar_tan[1] += w * dy_bar_tan[0]
    theta_bar_tan[2] += (1.0 - w) * dy_bar_tan[0]


time_rate = VectorField(
    time_rate_rhs, jvp=time_rate_jvp, vjp=time_rate_vjp, hvp=time_rate_hvp, name="time_rate", n=1, p=3,
    parameter_names=("switch_time", "rate_before", "rate_after"))


# --- a rate that changes at a state ---------------------------------------------------------------

@host_device
def state_rate_rhs(t, y, theta, tape, dy):
    """y' = a while y < s, else b, theta = (s, a, b)."""
    w = 1.0 * ((y[0] - theta[0]).real < 0.0)
    dy[0] = w * theta[1] + (1.0 - w) * theta[2]


@host_device
def state_rate_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
    """Tangent of `state_rate_rhs` within the pieces."""
    w = 1.0 * ((y[0] - theta[0]).real < 0.0)
    dy_tan[0] = w * theta_tan[1] + (1.0 - w) * theta_tan[2]


@host_device
def state_rate_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    """Transpose of `state_rate_jvp`."""
    w = 1.0 * ((y[0] - theta[0]).real < 0.0)
    # dy[0] = w*theta[1] + (1 - w)*theta[2]
    theta_bar[1] += w * dy_bar[0]
    theta_bar[2] += (1.0 - w) * dy_bar[0]


@host_device
def state_rate_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan,
                   theta_bar_tan):
    """Tangent of `state_rate_vjp` within the pieces."""
    w = 1.0 * ((y[0] - theta[0]).real < 0.0)
    # theta_bar[1] += w*dy_bar[0]; theta_bar[2] += (1 - w)*dy_bar[0]
    theta_bar_tan[1] += w * dy_bar_tan[0]
    theta_bar_tan[2] += (1.0 - w) * dy_bar_tan[0]


state_rate = VectorField(
    state_rate_rhs, jvp=state_rate_jvp, vjp=state_rate_vjp, hvp=state_rate_hvp, name="state_rate", n=1, p=3,
    parameter_names=("threshold", "rate_below", "rate_above"))


# --- a fall, timed by a clock ---------------------------------------------------------------------

@host_device
def timed_fall_rhs(t, y, theta, tape, dy):
    """height' = v, v' = -g, clock' = 1 while height > h, else 0; y = (height, v, clock), theta = (g, h).

    The clock shows when the fall came to the height h.
    """
    dy[0] = y[1]
    dy[1] = -theta[0]
    dy[2] = 1.0 * ((theta[1] - y[0]).real < 0.0)


@host_device
def timed_fall_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
    """Tangent of `timed_fall_rhs` within the pieces."""
    dy_tan[0] = y_tan[1]
    dy_tan[1] = -theta_tan[0]
    dy_tan[2] = 0.0


@host_device
def timed_fall_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    """Transpose of `timed_fall_jvp`."""
    # dy[0] = y[1]; dy[1] = -theta[0]
    y_bar[1] += dy_bar[0]
    theta_bar[0] -= dy_bar[1]


@host_device
def timed_fall_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan,
                   theta_bar_tan):
    """Tangent of `timed_fall_vjp` within the pieces."""
    # y_bar[1] += dy_bar[0]; theta_bar[0] -= dy_bar[1]
    y_bar_tan[1] += dy_bar_tan[0]
    theta_bar_tan[0] -= dy_bar_tan[1]


timed_fall = VectorField(
    timed_fall_rhs, jvp=timed_fall_jvp, vjp=timed_fall_vjp, hvp=timed_fall_hvp, name="timed_fall", n=3, p=2,
    state_names=("height", "velocity", "clock"), parameter_names=("gravity", "level"))


# --- a decay, timed by a clock --------------------------------------------------------------------

@host_device
def timed_decay_rhs(t, y, theta, tape, dy):
    """amount' = -k amount, clock' = 1 while amount > c, else 0; y = (amount, clock), theta = (k, c)."""
    dy[0] = -theta[0] * y[0]
    dy[1] = 1.0 * ((theta[1] - y[0]).real < 0.0)


@host_device
def timed_decay_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
    """Tangent of `timed_decay_rhs` within the pieces."""
    dy_tan[0] = -theta_tan[0] * y[0] - theta[0] * y_tan[0]
    dy_tan[1] = 0.0


@host_device
def timed_decay_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    """Transpose of `timed_decay_jvp`."""
    # dy[0] = -theta[0]*y[0]
    y_bar[0] -= theta[0] * dy_bar[0]
    theta_bar[0] -= y[0] * dy_bar[0]


@host_device
def timed_decay_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan,
                    theta_bar_tan):
    """Tangent of `timed_decay_vjp` within the pieces."""
    # y_bar[0] -= theta[0]*dy_bar[0]; theta_bar[0] -= y[0]*dy_bar[0]
    y_bar_tan[0] -= theta_tan[0] * dy_bar[0] + theta[0] * dy_bar_tan[0]
    theta_bar_tan[0] -= y_tan[0] * dy_bar[0] + y[0] * dy_bar_tan[0]


timed_decay = VectorField(
    timed_decay_rhs, jvp=timed_decay_jvp, vjp=timed_decay_vjp, hvp=timed_decay_hvp, name="timed_decay", n=2, p=2,
    state_names=("amount", "clock"), parameter_names=("rate", "level"))


# --- a ball that bounces once ---------------------------------------------------------------------

@host_device
def bounce_rhs(t, y, theta, tape, dy):
    """height' = v, v' = -g before the ball meets the ground, height', v' = v, g/e behind it; theta = (g, e).

    The flight after the bounce, in a mirror that also stretches by 1/e (Ivanov 1993): the height is -e y[0] and the velocity
    -e y[1], so that the velocity, which the bounce makes -e times what it was, does not jump here.
    """
    w = 1.0 * ((-y[0]).real < 0.0)
    dy[0] = y[1]
    dy[1] = -w * theta[0] + (1.0 - w) * theta[0] / theta[1]


@host_device
def bounce_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
    """Tangent of `bounce_rhs` within the pieces."""
    w = 1.0 * ((-y[0]).real < 0.0)
    dy_tan[0] = y_tan[1]
    dy_tan[1] = (-w * theta_tan[0]
                 + (1.0 - w) * (theta_tan[0] - theta[0] / theta[1] * theta_tan[1]) / theta[1])


@host_device
def bounce_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    """Transpose of `bounce_jvp`."""
    w = 1.0 * ((-y[0]).real < 0.0)
    # dy[0] = y[1]; dy[1] = -w*theta[0] + (1 - w)*theta[0]/theta[1]
    y_bar[1] += dy_bar[0]
    theta_bar[0] += -w * dy_bar[1] + (1.0 - w) * dy_bar[1] / theta[1]
    theta_bar[1] -= (1.0 - w) * theta[0] / theta[1] * dy_bar[1] / theta[1]


@host_device
def bounce_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan,
               theta_bar_tan):
    """Tangent of `bounce_vjp` within the pieces."""
    w = 1.0 * ((-y[0]).real < 0.0)
    # y_bar[1] += dy_bar[0]
    y_bar_tan[1] += dy_bar_tan[0]
    # theta_bar[0] += -w*dy_bar[1] + (1 - w)*dy_bar[1]/theta[1]
    late_bar = (1.0 - w) * dy_bar[1] / theta[1]
    late_bar_tan = ((1.0 - w) * dy_bar_tan[1] - late_bar * theta_tan[1]) / theta[1]
    theta_bar_tan[0] += -w * dy_bar_tan[1] + late_bar_tan
    # theta_bar[1] -= theta[0]*late_bar/theta[1]
    ratio = theta[0] / theta[1]
    theta_bar_tan[1] -= (theta_tan[0] - ratio * theta_tan[1]) / theta[1] * late_bar + ratio * late_bar_tan


bounce = VectorField(
    bounce_rhs, jvp=bounce_jvp, vjp=bounce_vjp, hvp=bounce_hvp, name="bounce", n=2, p=2,
    state_names=("height", "velocity"), parameter_names=("gravity", "restitution"))
