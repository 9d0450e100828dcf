"""Right-hand sides whose solution has a closed form (`problems.catalogue.CLOSED_FORMS`), with derivatives.

Every field is four adjacent functions in the kernel form (`fields.field`). The bodies neither branch on
values nor take moduli, so that compiled for complex arrays they serve the complex-step check unchanged.
"""
import numpy as np

from refnode.fields.field import VectorField
from refnode.host_device import host_device


# --- linear ---------------------------------------------------------------------------------------

@host_device
def linear_rhs(t, y, theta, tape, dy):
    """y' = A y, with theta the (n, n) matrix A row by row."""
    n = y.shape[0]
    for i in range(n):
        dy[i] = 0.0
        for j in range(n):
            dy[i] += theta[n * i + j] * y[j]


@host_device
def linear_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
    """dy_tan = A y_tan + A_tan y."""
    n = y.shape[0]
    for i in range(n):
        dy_tan[i] = 0.0
        for j in range(n):
            dy_tan[i] += theta[n * i + j] * y_tan[j] + theta_tan[n * i + j] * y[j]


@host_device
def linear_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    """y_bar += A^T dy_bar, A_bar += dy_bar y^T."""
    n = y.shape[0]
    for i in range(n):
        for j in range(n):
            # dy[i] += theta[n*i + j]*y[j]
            y_bar[j] += theta[n * i + j] * dy_bar[i]
            theta_bar[n * i + j] += y[j] * dy_bar[i]


@host_device
def linear_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan,
               theta_bar_tan):
    """Tangent of `linear_vjp`."""
    n = y.shape[0]
    for i in range(n):
        for j in range(n):
            # y_bar[j] += theta[n*i + j]*dy_bar[i]
            y_bar_tan[j] += theta_tan[n * i + j] * dy_bar[i] + theta[n * i + j] * dy_bar_tan[i]
            # theta_bar[n*i + j] += y[j]*dy_bar[i]
            theta_bar_tan[n * i + j] += y_tan[j] * dy_bar[i] + y[j] * dy_bar_tan[i]


linear = VectorField(linear_rhs, jvp=linear_jvp, vjp=linear_vjp, hvp=linear_hvp, name="linear")


# --- exponential decay ----------------------------------------------------------------------------

@host_device
def exponential_decay_rhs(t, y, theta, tape, dy):
    """y_i' = -k y_i, theta = (k,): independent decays at one rate (Rutherford & Soddy 1902)."""
    for i in range(y.shape[0]):
        dy[i] = -theta[0] * y[i]


@host_device
def exponential_decay_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
    """dy_tan_i = -k y_tan_i - k_tan y_i."""
    for i in range(y.shape[0]):
        dy_tan[i] = -theta[0] * y_tan[i] - theta_tan[0] * y[i]


@host_device
def exponential_decay_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    """Transpose of `exponential_decay_jvp`; every state adds to the one k_bar."""
    for i in range(y.shape[0]):
        # dy[i] = -theta[0]*y[i]
        y_bar[i] -= theta[0] * dy_bar[i]
        theta_bar[0] -= y[i] * dy_bar[i]


@host_device
def exponential_decay_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan,
                          theta_bar_tan):
    """Tangent of `exponential_decay_vjp`."""
    for i in range(y.shape[0]):
        # y_bar[i] -= theta[0]*dy_bar[i]
        y_bar_tan[i] -= theta_tan[0] * dy_bar[i] + theta[0] * dy_bar_tan[i]
        # theta_bar[0] -= y[i]*dy_bar[i]
        theta_bar_tan[0] -= y_tan[i] * dy_bar[i] + y[i] * dy_bar_tan[i]


exponential_decay = VectorField(
    exponential_decay_rhs, jvp=exponential_decay_jvp, vjp=exponential_decay_vjp, hvp=exponential_decay_hvp,
    name="exponential_decay", p=1, parameter_names=("rate",))


# --- logistic growth ------------------------------------------------------------------------------

@host_device
def logistic_rhs(t, y, theta, tape, dy):
    """y' = r y (1 - y/K), theta = (r, K) (Verhulst 1838)."""
    dy[0] = theta[0] * y[0] * (1.0 - y[0] / theta[1])


@host_device
def logistic_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
    """Tangent of `logistic_rhs`."""
    ratio = y[0] / theta[1]
    dy_tan[0] = (theta[0] * (1.0 - 2.0 * ratio) * y_tan[0]
                 + y[0] * (1.0 - ratio) * theta_tan[0]
                 + theta[0] * ratio * ratio * theta_tan[1])


@host_device
def logistic_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    """Transpose of `logistic_jvp`."""
    ratio = y[0] / theta[1]
    # dy[0] = theta[0]*y[0]*(1 - y[0]/theta[1])
    y_bar[0] += theta[0] * (1.0 - 2.0 * ratio) * dy_bar[0]
    theta_bar[0] += y[0] * (1.0 - ratio) * dy_bar[0]
    theta_bar[1] += theta[0] * ratio * ratio * dy_bar[0]


@host_device
def logistic_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan,
                 theta_bar_tan):
    """Tangent of `logistic_vjp`, with ratio = y/K."""
    ratio = y[0] / theta[1]
    ratio_tan = (y_tan[0] - ratio * theta_tan[1]) / theta[1]
    square_tan = theta_tan[0] * ratio * ratio + 2.0 * theta[0] * ratio * ratio_tan
    slope_tan = theta_tan[0] * (1.0 - 2.0 * ratio) - 2.0 * theta[0] * ratio_tan
    # y_bar[0] += theta[0]*(1 - 2*ratio)*dy_bar[0]
    y_bar_tan[0] += slope_tan * dy_bar[0] + theta[0] * (1.0 - 2.0 * ratio) * dy_bar_tan[0]
    # theta_bar[0] += y[0]*(1 - ratio)*dy_bar[0]
    theta_bar_tan[0] += ((y_tan[0] * (1.0 - ratio) - y[0] * ratio_tan) * dy_bar[0]
                         + y[0] * (1.0 - ratio) * dy_bar_tan[0])
    # theta_bar[1] += theta[0]*ratio*ratio*dy_bar[0]
    theta_bar_tan[1] += square_tan * dy_bar[0] + theta[0] * ratio * ratio * dy_bar_tan[0]


logistic = VectorField(
    logistic_rhs, jvp=logistic_jvp, vjp=logistic_vjp, hvp=logistic_hvp, name="logistic", n=1, p=2,
    state_names=("population",), parameter_names=("rate", "capacity"))


# --- relaxation towards a cosine ------------------------------------------------------------------

@host_device
def cosine_relaxation_rhs(t, y, theta, tape, dy):
    """y' = -k (y - cos t), theta = (k,): stiff for large k (after Prothero & Robinson 1974)."""
    dy[0] = -theta[0] * (y[0] - np.cos(t))


@host_device
def cosine_relaxation_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
    """Tangent of `cosine_relaxation_rhs`."""
    dy_tan[0] = -theta[0] * (y_tan[0] + np.sin(t) * t_tan) - theta_tan[0] * (y[0] - np.cos(t))


@host_device
def cosine_relaxation_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    """Transpose of `cosine_relaxation_jvp`."""
    # dy[0] = -theta[0]*(y[0] - cos(t))
    t_bar[0] -= theta[0] * np.sin(t) * dy_bar[0]
    y_bar[0] -= theta[0] * dy_bar[0]
    theta_bar[0] -= (y[0] - np.cos(t)) * dy_bar[0]


@host_device
def cosine_relaxation_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan,
                          theta_bar_tan):
    """Tangent of `cosine_relaxation_vjp`."""
    s, c = np.sin(t), np.cos(t)
    # t_bar[0] -= theta[0]*sin(t)*dy_bar[0]
    t_bar_tan[0] -= (theta_tan[0] * s + theta[0] * c * t_tan) * dy_bar[0] + theta[0] * s * dy_bar_tan[0]
    # y_bar[0] -= theta[0]*dy_bar[0]
    y_bar_tan[0] -= theta_tan[0] * dy_bar[0] + theta[0] * dy_bar_tan[0]
    # theta_bar[0] -= (y[0] - cos(t))*dy_bar[0]
    theta_bar_tan[0] -= (y_tan[0] + s * t_tan) * dy_bar[0] + (y[0] - c) * dy_bar_tan[0]


cosine_relaxation = VectorField(
    cosine_relaxation_rhs, jvp=cosine_relaxation_jvp, vjp=cosine_relaxation_vjp, hvp=cosine_relaxation_hvp,
    name="cosine_relaxation", n=1, p=1, parameter_names=("rate",))


# --- twin growth ----------------------------------------------------------------------------------

@host_device
def twin_growth_rhs(t, y, theta, tape, dy):
    """x' = a (x - y), y' = b (y - x), theta = (a, b).

    From x = y the solution is constant while its sensitivities grow as exp((a + b) t): a step control
    that sees only the state takes steps that are far too long for the tangent.
    """
    dy[0] = theta[0] * (y[0] - y[1])
    dy[1] = theta[1] * (y[1] - y[0])


@host_device
def twin_growth_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
    """Tangent of `twin_growth_rhs`."""
    dy_tan[0] = theta[0] * (y_tan[0] - y_tan[1]) + theta_tan[0] * (y[0] - y[1])
    dy_tan[1] = theta[1] * (y_tan[1] - y_tan[0]) + theta_tan[1] * (y[1] - y[0])


@host_device
def twin_growth_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    """Transpose of `twin_growth_jvp`."""
    # dy[0] = theta[0]*(y[0] - y[1])
    y_bar[0] += theta[0] * dy_bar[0]
    y_bar[1] -= theta[0] * dy_bar[0]
    theta_bar[0] += (y[0] - y[1]) * dy_bar[0]
    # dy[1] = theta[1]*(y[1] - y[0])
    y_bar[1] += theta[1] * dy_bar[1]
    y_bar[0] -= theta[1] * dy_bar[1]
    theta_bar[1] += (y[1] - y[0]) * dy_bar[1]


@host_device
def twin_growth_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan,
                    theta_bar_tan):
    """Tangent of `twin_growth_vjp`."""
    # y_bar[0] += theta[0]*dy_bar[0]; y_bar[1] -= theta[0]*dy_bar[0]
    first_tan = theta_tan[0] * dy_bar[0] + theta[0] * dy_bar_tan[0]
    y_bar_tan[0] += first_tan
    y_bar_tan[1] -= first_tan
    # theta_bar[0] += (y[0] - y[1])*dy_bar[0]
    theta_bar_tan[0] += (y_tan[0] - y_tan[1]) * dy_bar[0] + (y[0] - y[1]) * dy_bar_tan[0]
    # y_bar[1] += theta[1]*dy_bar[1]; y_bar[0] -= theta[1]*dy_bar[1]
    second_tan = theta_tan[1] * dy_bar[1] + theta[1] * dy_bar_tan[1]
    y_bar_tan[1] += second_tan
    y_bar_tan[0] -= second_tan
    # theta_bar[1] += (y[1] - y[0])*dy_bar[1]
    theta_bar_tan[1] += (y_tan[1] - y_tan[0]) * dy_bar[1] + (y[1] - y[0]) * dy_bar_tan[1]


twin_growth = VectorField(
    twin_growth_rhs, jvp=twin_growth_jvp, vjp=twin_growth_vjp, hvp=twin_growth_hvp, name="twin_growth", n=2, p=2,
    state_names=("x", "y"), parameter_names=("a", "b"))


# --- forced oscillator ----------------------------------------------------------------------------

@host_device
def forced_oscillator_rhs(t, y, theta, tape, dy):
    """q'' = -k q - c q' + a cos(w t + phi), y = (q, q'), theta = (k, c, a, w, phi) (Rayleigh 1877)."""
    dy[0] = y[1]
    dy[1] = -theta[0] * y[0] - theta[1] * y[1] + theta[2] * np.cos(theta[3] * t + theta[4])


@host_device
def forced_oscillator_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
    """Tangent of `forced_oscillator_rhs`."""
    angle = theta[3] * t + theta[4]
    angle_tan = theta_tan[3] * t + theta[3] * t_tan + theta_tan[4]
    dy_tan[0] = y_tan[1]
    dy_tan[1] = (-theta_tan[0] * y[0] - theta[0] * y_tan[0]
                 - theta_tan[1] * y[1] - theta[1] * y_tan[1]
                 + theta_tan[2] * np.cos(angle) - theta[2] * np.sin(angle) * angle_tan)


@host_device
def forced_oscillator_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    """Transpose of `forced_oscillator_jvp`."""
    angle = theta[3] * t + theta[4]
    angle_bar = -theta[2] * np.sin(angle) * dy_bar[1]
    # dy[0] = y[1]
    y_bar[1] += dy_bar[0]
    # dy[1] = -theta[0]*y[0] - theta[1]*y[1] + theta[2]*cos(angle)
    y_bar[0] -= theta[0] * dy_bar[1]
    y_bar[1] -= theta[1] * dy_bar[1]
    theta_bar[0] -= y[0] * dy_bar[1]
    theta_bar[1] -= y[1] * dy_bar[1]
    theta_bar[2] += np.cos(angle) * dy_bar[1]
    # angle = theta[3]*t + theta[4]
    t_bar[0] += theta[3] * angle_bar
    theta_bar[3] += t * angle_bar
    theta_bar[4] += angle_bar


@host_device
def forced_oscillator_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan,
                          theta_bar_tan):
    """Tangent of `forced_oscillator_vjp`, with angle = w t + phi."""
    angle = theta[3] * t + theta[4]
    angle_tan = theta_tan[3] * t + theta[3] * t_tan + theta_tan[4]
    s, c = np.sin(angle), np.cos(angle)
    angle_bar = -theta[2] * s * dy_bar[1]
    angle_bar_tan = (-theta_tan[2] * s * dy_bar[1] - theta[2] * c * angle_tan * dy_bar[1]
                     - theta[2] * s * dy_bar_tan[1])
    # y_bar[1] += dy_bar[0]
    y_bar_tan[1] += dy_bar_tan[0]
    # y_bar[0] -= theta[0]*dy_bar[1]; y_bar[1] -= theta[1]*dy_bar[1]
    y_bar_tan[0] -= theta_tan[0] * dy_bar[1] + theta[0] * dy_bar_tan[1]
    y_bar_tan[1] -= theta_tan[1] * dy_bar[1] + theta[1] * dy_bar_tan[1]
    # theta_bar[0] -= y[0]*dy_bar[1]; theta_bar[1] -= y[1]*dy_bar[1]; theta_bar[2] += cos(angle)*dy_bar[1]
    theta_bar_tan[0] -= y_tan[0] * dy_bar[1] + y[0] * dy_bar_tan[1]
    theta_bar_tan[1] -= y_tan[1] * dy_bar[1] + y[1] * dy_bar_tan[1]
    theta_bar_tan[2] += c * dy_bar_tan[1] - s * angle_tan * dy_bar[1]
    # t_bar[0] += theta[3]*angle_bar; theta_bar[3] += t*angle_bar; theta_bar[4] += angle_bar
    t_bar_tan[0] += theta_tan[3] * angle_bar + theta[3] * angle_bar_tan
    theta_bar_tan[3] += t_tan * angle_bar + t * angle_bar_tan
    theta_bar_tan[4] += angle_bar_tan


forced_oscillator = VectorField(
    forced_oscillator_rhs, jvp=forced_oscillator_jvp, vjp=forced_oscillator_vjp, hvp=forced_oscillator_hvp,
    name="forced_oscillator", n=2, p=5, state_names=("position", "velocity"),
    parameter_names=("stiffness", "damping", "amplitude", "omega", "phase"))
