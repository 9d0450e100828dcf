"""Dropout: entries are set to zero at random and the others scaled, so that the mean stays. One mask for a solve.

Inside a vector field the mask is a constant of the solve. Were it drawn anew at every evaluation, the stages of a step
would see different right-hand sides, there would be no solution to converge to, and no order.

Dropping the hidden units of a perceptron is scaling the columns of the weight matrices behind them, W (m a) = (W diag m) a.
So a field with dropout is the same field with other parameters, and its gradient is scaled alike; see `dropout_scale`.

References
----------
Srivastava, Hinton, Krizhevsky, Sutskever & Salakhutdinov, Dropout: a simple way to prevent neural networks from overfitting, 2014.
"""
import numpy as np

from refnode.errors import InvalidInputError
from refnode.host_device import host_device


def dropout_mask(rng, shape, rate):
    """0 with probability ``rate``, else 1/(1 - rate).

    Raises
    ------
    InvalidInputError
        If ``rate`` is not in [0, 1).
    """
    if not 0.0 <= rate < 1.0:
        raise InvalidInputError(f"rate must lie in [0, 1), found {rate!r}")
    return (rng.random(shape) >= rate) / (1.0 - rate)


# --- the layer ------------------------------------------------------------------------------------

def dropout(x, mask):
    """z = mask x, entry by entry; both of one shape, or mask (d,) for x (batch, d)."""
    return mask * x


@host_device
def dropout_kernel(x, mask, z):
    """z_i = mask_i x_i; a shorter mask repeats. Overwrites z."""
    for i in range(x.shape[0]):
        z[i] = mask[i % mask.shape[0]] * x[i]


def dropout_jvp(mask, x_tan):
    """Tangent of `dropout`: z_tan = mask x_tan."""
    return mask * x_tan


@host_device
def dropout_jvp_kernel(mask, x_tan, z_tan):
    """z_tan_i = mask_i x_tan_i; see `dropout_jvp`. Overwrites z_tan."""
    dropout_kernel(x_tan, mask, z_tan)


def dropout_vjp(mask, z_bar):
    """Cotangent of `dropout`: x_bar = mask z_bar."""
    return mask * z_bar


@host_device
def dropout_vjp_kernel(mask, z_bar, x_bar):
    """x_bar_i += mask_i z_bar_i; see `dropout_vjp`. Adds to x_bar."""
    for i in range(z_bar.shape[0]):
        x_bar[i] += mask[i % mask.shape[0]] * z_bar[i]                  # z[i] = mask[i]*x[i]


# --- in a perceptron, as a scaling of its parameters ----------------------------------------------

def dropout_scale(layout, rate, rng):
    """Factors (p,) of theta that drop hidden units of a perceptron, each unit with probability ``rate``.

    With ``dropped = scale * theta`` and the gradient ``bar`` at ``dropped``, the gradient at theta is ``scale * bar``:
    a diagonal matrix is its own transpose. One draw serves one solve.

    Parameters
    ----------
    layout : ParameterLayout
        Of `mlp_layout`.
    rate : float in [0, 1)
    rng : numpy.random.Generator
    """
    scale = np.ones(layout.size)
    arrays = layout.unpack(scale)
    for number in range(2, len(arrays) // 2 + 1):
        W = arrays[f"W{number}"]
        W *= dropout_mask(rng, W.shape[1], rate)                        # a column for each unit of the layer below
    return scale
