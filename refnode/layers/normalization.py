"""Group normalisation: û = (x - μ) r with r = 1/√(v + ε), y = γ û + β; with its jvp, vjp and hvp.

Mean μ and variance v are taken over the pixels and the channels of a group, sample by sample, so that samples do not
meet. Arrays are channels last, (batch, ..., channels); group g has the consecutive channels g C/G, ..., (g + 1) C/G - 1.
One group is layer normalisation, C groups instance normalisation.

With P(g) = g - mean(g) - û mean(û g) the derivative of û is r P, and P is symmetric: jvp and vjp are one map.

References
----------
Wu & He, Group normalization, ECCV 2018.
"""
import math

import numpy as np

from refnode.errors import InvalidInputError
from refnode.host_device import host_device

EPSILON = 1e-5


# --- the NumPy forms --------------------------------------------------------------------------------

def group_norm(x, groups, gamma=None, beta=None, epsilon=EPSILON):
    """Group normalisation of a batch.

    Parameters
    ----------
    x : ndarray, shape (batch, ..., channels)
    groups : int
        A divisor of the number of channels.
    gamma, beta : ndarray, shape (channels,), optional
        Scale and offset of each channel; without both, û itself.
    epsilon : float, positive
        Added to the variance, in its units.

    Returns
    -------
    y : ndarray, shape of x

    Raises
    ------
    InvalidInputError
        If the groups do not divide the channels, or gamma and beta are not two arrays of that length.
    """
    u, _ = normalised(x, groups, epsilon)
    if (gamma is None) != (beta is None) or (gamma is not None and not gamma.shape == beta.shape == x.shape[-1:]):
        raise InvalidInputError(f"gamma and beta must be two arrays of shape {x.shape[-1:]}, or both None, found "
                                f"{np.shape(gamma) or gamma} and {np.shape(beta) or beta}")
    return u if gamma is None else gamma * u + beta


def group_norm_jvp(x, groups, gamma, x_tan, gamma_tan=None, beta_tan=None, epsilon=EPSILON):
    """y_tan = γ_tan û + γ û_tan + β_tan, û_tan = r P(x_tan); without γ (None) û_tan itself."""
    u, r = normalised(x, groups, epsilon)
    u_tan = of_groups(r * projected(by_groups(u, groups), by_groups(x_tan, groups)), x.shape)
    return u_tan if gamma is None else gamma_tan * u + gamma * u_tan + beta_tan


def group_norm_vjp(x, groups, gamma, y_bar, epsilon=EPSILON):
    """Cotangents (x_bar, gamma_bar, beta_bar); without gamma (None) the last two are None."""
    u, r = normalised(x, groups, epsilon)
    u_bar = y_bar if gamma is None else gamma * y_bar                               # y = γ û + β
    x_bar = of_groups(r * projected(by_groups(u, groups), by_groups(u_bar, groups)), x.shape)
    if gamma is None:
        return x_bar, None, None
    return x_bar, over_pixels(y_bar * u), over_pixels(y_bar)


def group_norm_hvp(x, groups, gamma, x_tan, gamma_tan, y_bar, y_bar_tan, epsilon=EPSILON):
    """Tangent of `group_norm_vjp`: r_tan P(u_bar) + r (P(u_bar_tan) - û_tan mean(û u_bar) - û mean(û_tan u_bar))."""
    u, r = normalised(x, groups, epsilon)
    plain = gamma is None
    u_bar = by_groups(y_bar if plain else gamma * y_bar, groups)
    u_bar_tan = by_groups(y_bar_tan if plain else gamma_tan * y_bar + gamma * y_bar_tan, groups)
    v, v_tan = by_groups(u, groups), by_groups(x_tan, groups)
    r_tan = -r**2 * mean(v * v_tan)                                                 # r = (v + ε)^(-1/2)
    v_tan = r * projected(v, v_tan)
    change = projected(v, u_bar_tan) - v_tan * mean(v * u_bar) - v * mean(v_tan * u_bar)
    x_bar_tan = of_groups(r_tan * projected(v, u_bar) + r * change, x.shape)
    if plain:
        return x_bar_tan, None, None
    return x_bar_tan, over_pixels(y_bar_tan * u + y_bar * of_groups(v_tan, x.shape)), over_pixels(y_bar_tan)


def normalised(x, groups, epsilon=EPSILON):
    """û in the shape of x, and r (batch, 1, groups, 1)."""
    if int(groups) != groups or groups < 1 or x.shape[-1] % groups:
        raise InvalidInputError(f"groups must divide the {x.shape[-1]} channels, found {groups!r}")
    parts = by_groups(x, groups)
    centred = parts - mean(parts)
    r = 1.0 / np.sqrt(mean(centred * centred) + epsilon)
    return of_groups(centred * r, x.shape), r


def by_groups(x, groups):
    """x as (batch, pixels, groups, channels of a group)."""
    return x.reshape(len(x), -1, groups, x.shape[-1] // groups)


def of_groups(parts, shape):
    """`by_groups` undone."""
    return parts.reshape(shape)


def mean(parts):
    """Over the pixels and channels of a group."""
    return parts.mean(axis=(1, 3), keepdims=True)


def projected(u, g):
    """P(g) = g - mean(g) - û mean(û g), group by group."""
    return g - mean(g) - u * mean(u * g)


def over_pixels(x):
    """Summed over all but the channels."""
    return x.reshape(-1, x.shape[-1]).sum(axis=0)


# --- the kernels ------------------------------------------------------------------------------------
#
# x (batch pixels channels,) in flat rows of channels; u as x; r (batch groups,). gamma and beta are always given.

@host_device
def group_norm_kernel(batch, groups, epsilon, x, gamma, beta, u, r, y):
    """y = γ û + β; see `group_norm`. Overwrites u, r and y."""
    channels = gamma.shape[0]
    width, size = channels // groups, x.shape[0] // batch
    count = size // groups
    for i in range(batch):
        for g in range(groups):
            mu, variance = 0.0, 0.0
            for row in range(i * size + g * width, (i + 1) * size, channels):
                for c in range(row, row + width):
                    mu += x[c]
            mu /= count
            for row in range(i * size + g * width, (i + 1) * size, channels):
                for c in range(row, row + width):
                    variance += (x[c] - mu) * (x[c] - mu)
            r[i * groups + g] = 1.0 / math.sqrt(variance / count + epsilon)
            for row in range(i * size + g * width, (i + 1) * size, channels):
                for c in range(width):
                    u[row + c] = (x[row + c] - mu) * r[i * groups + g]
                    y[row + c] = gamma[g * width + c] * u[row + c] + beta[g * width + c]


@host_device
def group_norm_jvp_kernel(batch, groups, u, r, gamma, x_tan, gamma_tan, beta_tan, y_tan):
    """y_tan = γ_tan û + γ r P(x_tan) + β_tan; see `group_norm_jvp`. Overwrites y_tan, which may be x_tan."""
    channels = gamma.shape[0]
    width, size = channels // groups, u.shape[0] // batch
    for i in range(batch):
        for g in range(groups):
            m, along = means(i, g, groups, channels, size, u, x_tan)
            for row in range(i * size + g * width, (i + 1) * size, channels):
                for c in range(width):
                    u_tan = r[i * groups + g] * (x_tan[row + c] - m - u[row + c] * along)
                    k = g * width + c
                    y_tan[row + c] = gamma_tan[k] * u[row + c] + gamma[k] * u_tan + beta_tan[k]


@host_device
def group_norm_vjp_kernel(batch, groups, u, r, gamma, y_bar, u_bar, x_bar, gamma_bar, beta_bar):
    """y = γ û + β transposed; see `group_norm_vjp`. Adds to the bars but u_bar, a workspace that may be y_bar."""
    channels = gamma.shape[0]
    width, size = channels // groups, u.shape[0] // batch
    for row in range(0, u.shape[0], channels):
        for c in range(channels):
            gamma_bar[c] += u[row + c] * y_bar[row + c]
            beta_bar[c] += y_bar[row + c]
            u_bar[row + c] = gamma[c] * y_bar[row + c]
    for i in range(batch):
        for g in range(groups):
            m, along = means(i, g, groups, channels, size, u, u_bar)
            for row in range(i * size + g * width, (i + 1) * size, channels):
                for c in range(row, row + width):
                    x_bar[c] += r[i * groups + g] * (u_bar[c] - m - u[c] * along)   # û_tan = r P(x_tan), and P = Pᵀ


@host_device
def means(i, g, groups, channels, size, u, x):
    """mean(x) and mean(û x) over group g of sample i."""
    width, total, along = channels // groups, 0.0, 0.0
    for row in range(i * size + g * width, (i + 1) * size, channels):
        for c in range(row, row + width):
            total += x[c]
            along += u[c] * x[c]
    return total / (size // groups), along / (size // groups)


@host_device
def group_norm_tangents_kernel(batch, groups, channels, u, r, x_tan, u_tan, r_tan):
    """û_tan = r P(x_tan) and r_tan = -r² mean(û x_tan). Overwrites u_tan, which may be x_tan, and r_tan."""
    width, size = channels // groups, u.shape[0] // batch
    for i in range(batch):
        for g in range(groups):
            m, along = means(i, g, groups, channels, size, u, x_tan)
            scale = r[i * groups + g]
            r_tan[i * groups + g] = -scale * scale * along
            for row in range(i * size + g * width, (i + 1) * size, channels):
                for c in range(row, row + width):
                    u_tan[c] = scale * (x_tan[c] - m - u[c] * along)


@host_device
def affine_tangent_kernel(u, gamma, u_tan, gamma_tan, beta_tan, y_tan):
    """y_tan = γ_tan û + γ û_tan + β_tan. Overwrites y_tan."""
    channels = gamma.shape[0]
    for row in range(0, u.shape[0], channels):
        for c in range(channels):
            y_tan[row + c] = gamma_tan[c] * u[row + c] + gamma[c] * u_tan[row + c] + beta_tan[c]


@host_device
def group_norm_hvp_kernel(batch, groups, u, r, gamma, u_tan, r_tan, gamma_tan, y_bar, y_bar_tan, gamma_bar_tan,
                          beta_bar_tan):
    """x_bar = r P(γ y_bar) and its tangent, both in place of y_bar and y_bar_tan; see `group_norm_hvp`. Adds to the rest."""
    channels = gamma.shape[0]
    width, size = channels // groups, u.shape[0] // batch
    for row in range(0, u.shape[0], channels):
        for c in range(channels):
            k = row + c
            # gamma_bar[c] += u[k]*y_bar[k]; beta_bar[c] += y_bar[k]; u_bar[k] = gamma[c]*y_bar[k]
            gamma_bar_tan[c] += u_tan[k] * y_bar[k] + u[k] * y_bar_tan[k]
            beta_bar_tan[c] += y_bar_tan[k]
            y_bar_tan[k] = gamma_tan[c] * y_bar[k] + gamma[c] * y_bar_tan[k]
            y_bar[k] *= gamma[c]
    for i in range(batch):
        for g in range(groups):
            m, along = means(i, g, groups, channels, size, u, y_bar)
            m_tan, first = means(i, g, groups, channels, size, u, y_bar_tan)
            _, second = means(i, g, groups, channels, size, u_tan, y_bar)
            scale, scale_tan = r[i * groups + g], r_tan[i * groups + g]
            for row in range(i * size + g * width, (i + 1) * size, channels):
                for k in range(row, row + width):
                    # x_bar[k] += r*(u_bar[k] - m - u[k]*along)
                    inner = y_bar[k] - m - u[k] * along
                    inner_tan = y_bar_tan[k] - m_tan - u_tan[k] * along - u[k] * (first + second)
                    y_bar[k] = scale * inner
                    y_bar_tan[k] = scale_tan * inner + scale * inner_tan
