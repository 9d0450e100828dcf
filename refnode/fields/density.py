"""Flows that carry their log-density along: z' = f(z), (log p)' = -tr df/dz, with the exact trace.

The state is (z, log p): d log p/dt along a path is minus the divergence of the velocity (Liouville; Chen et al.
2018), see (FLOW-1). For batches of samples see `fields.flow_density`. Every field is four adjacent functions in the
kernel form (`fields.field`), valid for complex arrays.
"""
import numpy as np

from refnode.errors import InvalidInputError
from refnode.fields.field import VectorField
from refnode.host_device import host_device


# --- a linear flow --------------------------------------------------------------------------------

@host_device
def linear_density_rhs(t, y, theta, tape, dy):
    """z' = A z, (log p)' = -tr A, with theta the (d, d) matrix A row by row and y = (z, log p)."""
    d = y.shape[0] - 1
    dy[d] = 0.0
    for i in range(d):
        dy[i] = 0.0
        for j in range(d):
            dy[i] += theta[d * i + j] * y[j]
        dy[d] -= theta[d * i + i]


@host_device
def linear_density_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
    """Tangent of `linear_density_rhs`."""
    d = y.shape[0] - 1
    dy_tan[d] = 0.0
    for i in range(d):
        dy_tan[i] = 0.0
        for j in range(d):
            dy_tan[i] += theta[d * i + j] * y_tan[j] + theta_tan[d * i + j] * y[j]
        dy_tan[d] -= theta_tan[d * i + i]


@host_device
def linear_density_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    """Transpose of `linear_density_jvp`."""
    d = y.shape[0] - 1
    for i in range(d):
        for j in range(d):
            # dy[i] += theta[d*i + j]*y[j]
            y_bar[j] += theta[d * i + j] * dy_bar[i]
            theta_bar[d * i + j] += y[j] * dy_bar[i]
        # dy[d] -= theta[d*i + i]
        theta_bar[d * i + i] -= dy_bar[d]


@host_device
def linear_density_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan,
                       theta_bar_tan):
    """Tangent of `linear_density_vjp`."""
    d = y.shape[0] - 1
    for i in range(d):
        for j in range(d):
            # y_bar[j] += theta[d*i + j]*dy_bar[i]; theta_bar[d*i + j] += y[j]*dy_bar[i]
            y_bar_tan[j] += theta_tan[d * i + j] * dy_bar[i] + theta[d * i + j] * dy_bar_tan[i]
            theta_bar_tan[d * i + j] += y_tan[j] * dy_bar[i] + y[j] * dy_bar_tan[i]
        # theta_bar[d*i + i] -= dy_bar[d]
        theta_bar_tan[d * i + i] -= dy_bar_tan[d]


linear_density = VectorField(linear_density_rhs, jvp=linear_density_jvp, vjp=linear_density_vjp,
                             hvp=linear_density_hvp, name="linear_density")


# --- a perceptron with one hidden layer -----------------------------------------------------------

@host_device
def hidden_width(y, theta):
    """m of theta = (W1 (m, d), b1 (m,), W2 (d, m), b2 (d,)), where y = (z, log p) has d + 1 entries."""
    d = y.shape[0] - 1
    return (theta.shape[0] - d) // (2 * d + 1)


@host_device
def perceptron_density_rhs(t, y, theta, tape, dy):
    """z' = W2 a + b2, a = tanh(W1 z + b1), (log p)' = -tr(W2 diag(1 - a^2) W1) (Chen et al. 2018)."""
    d, m = y.shape[0] - 1, hidden_width(y, theta)
    b1, W2, b2 = m * d, m * d + m, 2 * m * d + m
    dy[d] = 0.0
    for i in range(d):
        dy[i] = theta[b2 + i]
    for k in range(m):
        pre, gain = theta[b1 + k], 0.0 * theta[b1 + k]
        for i in range(d):
            pre += theta[d * k + i] * y[i]
            gain += theta[W2 + m * i + k] * theta[d * k + i]
        a = np.tanh(pre)
        for i in range(d):
            dy[i] += theta[W2 + m * i + k] * a
        dy[d] -= (1.0 - a * a) * gain


@host_device
def perceptron_density_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
    """Tangent of `perceptron_density_rhs`, hidden unit by hidden unit."""
    d, m = y.shape[0] - 1, hidden_width(y, theta)
    b1, W2, b2 = m * d, m * d + m, 2 * m * d + m
    dy_tan[d] = 0.0
    for i in range(d):
        dy_tan[i] = theta_tan[b2 + i]
    for k in range(m):
        pre, pre_tan, gain, gain_tan = theta[b1 + k], theta_tan[b1 + k], 0.0, 0.0
        for i in range(d):
            inner, outer = d * k + i, W2 + m * i + k
            pre += theta[inner] * y[i]
            pre_tan += theta_tan[inner] * y[i] + theta[inner] * y_tan[i]
            gain += theta[outer] * theta[inner]
            gain_tan += theta_tan[outer] * theta[inner] + theta[outer] * theta_tan[inner]
        a = np.tanh(pre)
        slope = 1.0 - a * a
        a_tan = slope * pre_tan
        for i in range(d):
            dy_tan[i] += theta_tan[W2 + m * i + k] * a + theta[W2 + m * i + k] * a_tan
        dy_tan[d] -= slope * gain_tan - 2.0 * a * a_tan * gain


@host_device
def perceptron_density_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    """Transpose of `perceptron_density_jvp`."""
    d, m = y.shape[0] - 1, hidden_width(y, theta)
    b1, W2, b2 = m * d, m * d + m, 2 * m * d + m
    for i in range(d):
        theta_bar[b2 + i] += dy_bar[i]                          # dy[i] = theta[b2 + i]
    for k in range(m):
        pre, gain = theta[b1 + k], 0.0 * theta[b1 + k]
        for i in range(d):
            pre += theta[d * k + i] * y[i]
            gain += theta[W2 + m * i + k] * theta[d * k + i]
        a = np.tanh(pre)
        # dy[d] -= (1 - a*a)*gain
        gain_bar = -(1.0 - a * a) * dy_bar[d]
        a_bar = 2.0 * a * gain * dy_bar[d]
        for i in range(d):                                      # dy[i] += theta[outer]*a
            a_bar += theta[W2 + m * i + k] * dy_bar[i]
        pre_bar = (1.0 - a * a) * a_bar                         # a = tanh(pre)
        theta_bar[b1 + k] += pre_bar
        for i in range(d):
            inner, outer = d * k + i, W2 + m * i + k
            theta_bar[outer] += a * dy_bar[i] + theta[inner] * gain_bar     # gain += theta[outer]*theta[inner]
            theta_bar[inner] += y[i] * pre_bar + theta[outer] * gain_bar    # pre += theta[inner]*y[i]
            y_bar[i] += theta[inner] * pre_bar


@host_device
def perceptron_density_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan,
                           theta_bar_tan):
    """Tangent of `perceptron_density_vjp`, line by line."""
    d, m = y.shape[0] - 1, hidden_width(y, theta)
    b1, W2, b2 = m * d, m * d + m, 2 * m * d + m
    for i in range(d):
        theta_bar_tan[b2 + i] += dy_bar_tan[i]
    for k in range(m):
        pre, pre_tan, gain, gain_tan = theta[b1 + k], theta_tan[b1 + k], 0.0, 0.0
        for i in range(d):
            inner, outer = d * k + i, W2 + m * i + k
            pre += theta[inner] * y[i]
            pre_tan += theta_tan[inner] * y[i] + theta[inner] * y_tan[i]
            gain += theta[outer] * theta[inner]
            gain_tan += theta_tan[outer] * theta[inner] + theta[outer] * theta_tan[inner]
        a = np.tanh(pre)
        slope = 1.0 - a * a
        a_tan = slope * pre_tan
        slope_tan = -2.0 * a * a_tan
        # gain_bar = -slope*dy_bar[d]; a_bar = 2*a*gain*dy_bar[d]
        gain_bar, gain_bar_tan = -slope * dy_bar[d], -slope_tan * dy_bar[d] - slope * dy_bar_tan[d]
        a_bar = 2.0 * a * gain * dy_bar[d]
        a_bar_tan = 2.0 * ((a_tan * gain + a * gain_tan) * dy_bar[d] + a * gain * dy_bar_tan[d])
        for i in range(d):
            # a_bar += theta[outer]*dy_bar[i]
            outer = W2 + m * i + k
            a_bar += theta[outer] * dy_bar[i]
            a_bar_tan += theta_tan[outer] * dy_bar[i] + theta[outer] * dy_bar_tan[i]
        pre_bar, pre_bar_tan = slope * a_bar, slope_tan * a_bar + slope * a_bar_tan
        theta_bar_tan[b1 + k] += pre_bar_tan
        for i in range(d):
            inner, outer = d * k + i, W2 + m * i + k
            # theta_bar[outer] += a*dy_bar[i] + theta[inner]*gain_bar
            theta_bar_tan[outer] += a_tan * dy_bar[i] + a * dy_bar_tan[i]
            theta_bar_tan[outer] += theta_tan[inner] * gain_bar + theta[inner] * gain_bar_tan
            # theta_bar[inner] += y[i]*pre_bar + theta[outer]*gain_bar
            theta_bar_tan[inner] += y_tan[i] * pre_bar + y[i] * pre_bar_tan
            theta_bar_tan[inner] += theta_tan[outer] * gain_bar + theta[outer] * gain_bar_tan
            # y_bar[i] += theta[inner]*pre_bar
            y_bar_tan[i] += theta_tan[inner] * pre_bar + theta[inner] * pre_bar_tan


def perceptron_density(d, m):
    """Field of (z, log p) under a tanh perceptron of d inputs, m hidden units and d outputs.

    Raises
    ------
    InvalidInputError
        If d or m is no positive integer.
    """
    if int(d) != d or int(m) != m or min(d, m) < 1:
        raise InvalidInputError(f"d and m must be positive integers, found {d!r} and {m!r}")
    return VectorField(
        perceptron_density_rhs, jvp=perceptron_density_jvp, vjp=perceptron_density_vjp, hvp=perceptron_density_hvp,
        name=f"perceptron_density_{d}_{m}", n=d + 1, p=2 * d * m + m + d)
