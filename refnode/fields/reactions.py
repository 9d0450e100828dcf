"""Right-hand sides of chemistry, epidemics and pharmacology: amounts that react and move between compartments.

Every field is four adjacent functions in the kernel form (`fields.field`). The bodies neither branch on
values nor take moduli, so that compiled for complex arrays they serve the complex-step check unchanged.
"""
from refnode.fields.field import VectorField
from refnode.host_device import host_device


# --- a reversible reaction ------------------------------------------------------------------------

@host_device
def exchange_rhs(t, y, theta, tape, dy):
    """A' = -k1 A + k2 B, B' = k1 A - k2 B, theta = (k1, k2); A + B is conserved."""
    dy[0] = -theta[0] * y[0] + theta[1] * y[1]
    dy[1] = theta[0] * y[0] - theta[1] * y[1]


@host_device
def exchange_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
    """Tangent of `exchange_rhs`."""
    flow_tan = theta_tan[0] * y[0] + theta[0] * y_tan[0] - theta_tan[1] * y[1] - theta[1] * y_tan[1]
    dy_tan[0] = -flow_tan
    dy_tan[1] = flow_tan


@host_device
def exchange_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    """Transpose of `exchange_jvp`."""
    # dy[0] -= flow; dy[1] += flow, with flow = theta[0]*y[0] - theta[1]*y[1]
    flow_bar = dy_bar[1] - dy_bar[0]
    y_bar[0] += theta[0] * flow_bar
    y_bar[1] -= theta[1] * flow_bar
    theta_bar[0] += y[0] * flow_bar
    theta_bar[1] -= y[1] * flow_bar


@host_device
def exchange_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan,
                 theta_bar_tan):
    """Tangent of `exchange_vjp`."""
    flow_bar, flow_bar_tan = dy_bar[1] - dy_bar[0], dy_bar_tan[1] - dy_bar_tan[0]
    # y_bar[0] += theta[0]*flow_bar; y_bar[1] -= theta[1]*flow_bar
    y_bar_tan[0] += theta_tan[0] * flow_bar + theta[0] * flow_bar_tan
    y_bar_tan[1] -= theta_tan[1] * flow_bar + theta[1] * flow_bar_tan
    # theta_bar[0] += y[0]*flow_bar; theta_bar[1] -= y[1]*flow_bar
    theta_bar_tan[0] += y_tan[0] * flow_bar + y[0] * flow_bar_tan
    theta_bar_tan[1] -= y_tan[1] * flow_bar + y[1] * flow_bar_tan


exchange = VectorField(
    exchange_rhs, jvp=exchange_jvp, vjp=exchange_vjp, hvp=exchange_hvp, name="exchange", n=2, p=2,
    state_names=("A", "B"), parameter_names=("k1", "k2"))


# --- the Brusselator ------------------------------------------------------------------------------

@host_device
def brusselator_rhs(t, y, theta, tape, dy):
    """x' = a + x^2 y - (b + 1) x, y' = b x - x^2 y, theta = (a, b) (Prigogine & Lefever 1968)."""
    dy[0] = theta[0] + y[0] * y[0] * y[1] - (theta[1] + 1.0) * y[0]
    dy[1] = theta[1] * y[0] - y[0] * y[0] * y[1]


@host_device
def brusselator_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
    """Tangent of `brusselator_rhs`."""
    cubic_tan = 2.0 * y[0] * y[1] * y_tan[0] + y[0] * y[0] * y_tan[1]
    source_tan = theta_tan[1] * y[0] + theta[1] * y_tan[0]
    dy_tan[0] = theta_tan[0] + cubic_tan - source_tan - y_tan[0]
    dy_tan[1] = source_tan - cubic_tan


@host_device
def brusselator_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    """Transpose of `brusselator_jvp`."""
    # dy[0] += theta[0] - y[0]
    theta_bar[0] += dy_bar[0]
    y_bar[0] -= dy_bar[0]
    # dy[0] += cubic - source; dy[1] += source - cubic, with cubic = y[0]*y[0]*y[1], source = theta[1]*y[0]
    cubic_bar = dy_bar[0] - dy_bar[1]
    y_bar[0] += (2.0 * y[0] * y[1] - theta[1]) * cubic_bar
    y_bar[1] += y[0] * y[0] * cubic_bar
    theta_bar[1] -= y[0] * cubic_bar


@host_device
def brusselator_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan,
                    theta_bar_tan):
    """Tangent of `brusselator_vjp`."""
    # theta_bar[0] += dy_bar[0]; y_bar[0] -= dy_bar[0]
    theta_bar_tan[0] += dy_bar_tan[0]
    y_bar_tan[0] -= dy_bar_tan[0]
    # y_bar[0] += (2*y[0]*y[1] - theta[1])*cubic_bar
    cubic_bar, cubic_bar_tan = dy_bar[0] - dy_bar[1], dy_bar_tan[0] - dy_bar_tan[1]
    y_bar_tan[0] += (2.0 * (y_tan[0] * y[1] + y[0] * y_tan[1]) - theta_tan[1]) * cubic_bar
    y_bar_tan[0] += (2.0 * y[0] * y[1] - theta[1]) * cubic_bar_tan
    # y_bar[1] += y[0]*y[0]*cubic_bar; theta_bar[1] -= y[0]*cubic_bar
    y_bar_tan[1] += 2.0 * y[0] * y_tan[0] * cubic_bar + y[0] * y[0] * cubic_bar_tan
    theta_bar_tan[1] -= y_tan[0] * cubic_bar + y[0] * cubic_bar_tan


brusselator = VectorField(
    brusselator_rhs, jvp=brusselator_jvp, vjp=brusselator_vjp, hvp=brusselator_hvp, name="brusselator", n=2, p=2,
    state_names=("X", "Y"), parameter_names=("a", "b"))


# --- an epidemic ----------------------------------------------------------------------------------

@host_device
def sir_rhs(t, y, theta, tape, dy):
    """S' = -beta S I, I' = beta S I - gamma I, R' = gamma I, theta = (beta, gamma) (Kermack & McKendrick 1927)."""
    dy[0] = -theta[0] * y[0] * y[1]
    dy[1] = theta[0] * y[0] * y[1] - theta[1] * y[1]
    dy[2] = theta[1] * y[1]


@host_device
def sir_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
    """Tangent of `sir_rhs`."""
    infected_tan = theta_tan[0] * y[0] * y[1] + theta[0] * (y_tan[0] * y[1] + y[0] * y_tan[1])
    removed_tan = theta_tan[1] * y[1] + theta[1] * y_tan[1]
    dy_tan[0] = -infected_tan
    dy_tan[1] = infected_tan - removed_tan
    dy_tan[2] = removed_tan


@host_device
def sir_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    """Transpose of `sir_jvp`."""
    # dy[0] -= infected; dy[1] += infected, with infected = theta[0]*y[0]*y[1]
    infected_bar = dy_bar[1] - dy_bar[0]
    y_bar[0] += theta[0] * y[1] * infected_bar
    y_bar[1] += theta[0] * y[0] * infected_bar
    theta_bar[0] += y[0] * y[1] * infected_bar
    # dy[1] -= removed; dy[2] += removed, with removed = theta[1]*y[1]
    removed_bar = dy_bar[2] - dy_bar[1]
    y_bar[1] += theta[1] * removed_bar
    theta_bar[1] += y[1] * removed_bar


@host_device
def sir_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan,
            theta_bar_tan):
    """Tangent of `sir_vjp`."""
    # y_bar[0] += theta[0]*y[1]*infected_bar; y_bar[1] += theta[0]*y[0]*infected_bar
    infected_bar, infected_bar_tan = dy_bar[1] - dy_bar[0], dy_bar_tan[1] - dy_bar_tan[0]
    y_bar_tan[0] += (theta_tan[0] * y[1] + theta[0] * y_tan[1]) * infected_bar + theta[0] * y[1] * infected_bar_tan
    y_bar_tan[1] += (theta_tan[0] * y[0] + theta[0] * y_tan[0]) * infected_bar + theta[0] * y[0] * infected_bar_tan
    # theta_bar[0] += y[0]*y[1]*infected_bar
    theta_bar_tan[0] += (y_tan[0] * y[1] + y[0] * y_tan[1]) * infected_bar + y[0] * y[1] * infected_bar_tan
    # y_bar[1] += theta[1]*removed_bar; theta_bar[1] += y[1]*removed_bar
    removed_bar, removed_bar_tan = dy_bar[2] - dy_bar[1], dy_bar_tan[2] - dy_bar_tan[1]
    y_bar_tan[1] += theta_tan[1] * removed_bar + theta[1] * removed_bar_tan
    theta_bar_tan[1] += y_tan[1] * removed_bar + y[1] * removed_bar_tan


sir = VectorField(
    sir_rhs, jvp=sir_jvp, vjp=sir_vjp, hvp=sir_hvp, name="sir", n=3, p=2,
    state_names=("susceptible", "infected", "removed"), parameter_names=("beta", "gamma"))


# --- a dose taken by mouth ------------------------------------------------------------------------

@host_device
def pharmacokinetics_rhs(t, y, theta, tape, dy):
    """Gut, blood and tissue, theta = (ka, vmax, km, k12, k21), with saturable elimination (Michaelis & Menten 1913).

    G' = -ka G,   C' = ka G - vmax C/(km + C) - k12 C + k21 P,   P' = k12 C - k21 P
    """
    absorbed, exchanged = theta[0] * y[0], theta[3] * y[1] - theta[4] * y[2]
    dy[0] = -absorbed
    dy[1] = absorbed - theta[1] * y[1] / (theta[2] + y[1]) - exchanged
    dy[2] = exchanged


@host_device
def pharmacokinetics_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
    """Tangent of `pharmacokinetics_rhs`; the share C/(km + C) has the tangent (km C_tan - C km_tan)/(km + C)^2."""
    total = theta[2] + y[1]
    share_tan = (theta[2] * y_tan[1] - y[1] * theta_tan[2]) / (total * total)
    absorbed_tan = theta_tan[0] * y[0] + theta[0] * y_tan[0]
    exchanged_tan = theta_tan[3] * y[1] + theta[3] * y_tan[1] - theta_tan[4] * y[2] - theta[4] * y_tan[2]
    dy_tan[0] = -absorbed_tan
    dy_tan[1] = absorbed_tan - theta_tan[1] * y[1] / total - theta[1] * share_tan - exchanged_tan
    dy_tan[2] = exchanged_tan


@host_device
def pharmacokinetics_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    """Transpose of `pharmacokinetics_jvp`."""
    total = theta[2] + y[1]
    # dy[0] -= absorbed; dy[1] += absorbed, with absorbed = theta[0]*y[0]
    absorbed_bar = dy_bar[1] - dy_bar[0]
    y_bar[0] += theta[0] * absorbed_bar
    theta_bar[0] += y[0] * absorbed_bar
    # dy[1] -= theta[1]*share, with share = y[1]/total
    share_bar = -theta[1] * dy_bar[1]
    theta_bar[1] -= y[1] / total * dy_bar[1]
    y_bar[1] += theta[2] / (total * total) * share_bar
    theta_bar[2] -= y[1] / (total * total) * share_bar
    # dy[1] -= exchanged; dy[2] += exchanged, with exchanged = theta[3]*y[1] - theta[4]*y[2]
    exchanged_bar = dy_bar[2] - dy_bar[1]
    y_bar[1] += theta[3] * exchanged_bar
    y_bar[2] -= theta[4] * exchanged_bar
    theta_bar[3] += y[1] * exchanged_bar
    theta_bar[4] -= y[2] * exchanged_bar


@host_device
def pharmacokinetics_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan,
                         theta_bar_tan):
    """Tangent of `pharmacokinetics_vjp`, in the same order."""
    # y_bar[0] += theta[0]*absorbed_bar; theta_bar[0] += y[0]*absorbed_bar
    absorbed_bar, absorbed_bar_tan = dy_bar[1] - dy_bar[0], dy_bar_tan[1] - dy_bar_tan[0]
    y_bar_tan[0] += theta_tan[0] * absorbed_bar + theta[0] * absorbed_bar_tan
    theta_bar_tan[0] += y_tan[0] * absorbed_bar + y[0] * absorbed_bar_tan
    # theta_bar[1] -= share*dy_bar[1]
    total, total_tan = theta[2] + y[1], theta_tan[2] + y_tan[1]
    square = total * total
    share_tan = (theta[2] * y_tan[1] - y[1] * theta_tan[2]) / square
    theta_bar_tan[1] -= share_tan * dy_bar[1] + y[1] / total * dy_bar_tan[1]
    # y_bar[1] += theta[2]/square*share_bar; theta_bar[2] -= y[1]/square*share_bar
    share_bar = -theta[1] * dy_bar[1]
    share_bar_tan = -theta_tan[1] * dy_bar[1] - theta[1] * dy_bar_tan[1]
    half_tan = (theta_tan[2] - 2.0 * theta[2] * total_tan / total) / square
    state_tan = (y_tan[1] - 2.0 * y[1] * total_tan / total) / square
    y_bar_tan[1] += half_tan * share_bar + theta[2] / square * share_bar_tan
    theta_bar_tan[2] -= state_tan * share_bar + y[1] / square * share_bar_tan
    # y_bar[1] += theta[3]*exchanged_bar; y_bar[2] -= theta[4]*exchanged_bar
    exchanged_bar, exchanged_bar_tan = dy_bar[2] - dy_bar[1], dy_bar_tan[2] - dy_bar_tan[1]
    y_bar_tan[1] += theta_tan[3] * exchanged_bar + theta[3] * exchanged_bar_tan
    y_bar_tan[2] -= theta_tan[4] * exchanged_bar + theta[4] * exchanged_bar_tan
    # theta_bar[3] += y[1]*exchanged_bar; theta_bar[4] -= y[2]*exchanged_bar
    theta_bar_tan[3] += y_tan[1] * exchanged_bar + y[1] * exchanged_bar_tan
    theta_bar_tan[4] -= y_tan[2] * exchanged_bar + y[2] * exchanged_bar_tan


pharmacokinetics = VectorField(
    pharmacokinetics_rhs, jvp=pharmacokinetics_jvp, vjp=pharmacokinetics_vjp, hvp=pharmacokinetics_hvp,
    name="pharmacokinetics", n=3, p=5, state_names=("gut", "blood", "tissue"),
    parameter_names=("ka", "vmax", "km", "k12", "k21"))
