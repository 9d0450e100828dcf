"""Softmax, and the cross-entropy of class labels under it: L = mean_i (log Σ_j exp z_ij - z_i,label_i).

A sum of exponentials is computed from z - max z, which no finite logit overflows. The maximum is a constant of the
derivatives: it cancels.

    softmax   p = exp(z - max z) / Σ ...        p_tan = p (z_tan - <p, z_tan>), symmetric, so p_bar goes the same way
    loss      L_tan = mean_i <p_i - e_label, z_tan_i>,    z_bar = (p - e_label) L_bar / batch
"""
import numpy as np

from refnode.errors import InvalidInputError
from refnode.layers.embedding import checked_indices


# --- softmax ----------------------------------------------------------------------------------------

def softmax(z):
    """p = exp z / Σ exp z along the last axis."""
    exponential = np.exp(z - np.real(z).max(axis=-1, keepdims=True))
    return exponential / exponential.sum(axis=-1, keepdims=True)


def softmax_jvp(z, z_tan):
    """p_tan = p (z_tan - <p, z_tan>)."""
    p = softmax(z)
    return p * (z_tan - (p * z_tan).sum(axis=-1, keepdims=True))


def softmax_vjp(z, p_bar):
    """z_bar = p (p_bar - <p, p_bar>): the Jacobian diag p - p pᵀ is symmetric."""
    return softmax_jvp(z, p_bar)


def softmax_hvp(z, z_tan, p_bar, p_bar_tan):
    """Tangent of `softmax_vjp`."""
    p, p_tan = softmax(z), softmax_jvp(z, z_tan)
    inner = (p * p_bar).sum(axis=-1, keepdims=True)
    inner_tan = (p_tan * p_bar + p * p_bar_tan).sum(axis=-1, keepdims=True)
    return p_tan * (p_bar - inner) + p * (p_bar_tan - inner_tan)


# --- cross-entropy ----------------------------------------------------------------------------------

def cross_entropy(z, labels):
    """Mean over a batch of -log softmax(z)[label], [nats].

    Parameters
    ----------
    z : ndarray, shape (batch, classes)
        Logits.
    labels : ndarray of int, shape (batch,)
        The true classes, each in 0 ... classes - 1.

    Returns
    -------
    float

    Raises
    ------
    InvalidInputError
        If the batch is empty, the shapes do not fit, or a label is none of the classes: its index and value are named.
    """
    labels = checked_labels(labels, z)
    top = np.real(z).max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(z - top).sum(axis=1)) + top[:, 0]
    return (log_sum - z[np.arange(len(z)), labels]).sum() / len(z)


def cross_entropy_jvp(z, labels, z_tan):
    """L_tan = mean_i <softmax(z_i) - e_label, z_tan_i>."""
    return (cross_entropy_vjp(z, labels) * z_tan).sum()


def cross_entropy_vjp(z, labels, loss_bar=1.0):
    """z_bar = (softmax(z) - e_label) loss_bar / batch."""
    labels = checked_labels(labels, z)
    z_bar = softmax(z)
    z_bar[np.arange(len(z)), labels] -= 1.0                     # L = log Σ exp z - z_label
    return z_bar * (loss_bar / len(z))


def cross_entropy_hvp(z, labels, z_tan, loss_bar=1.0, loss_bar_tan=0.0):
    """Tangent of `cross_entropy_vjp`: that of softmax, and the cotangent's own."""
    return softmax_jvp(z, z_tan) * (loss_bar / len(z)) + cross_entropy_vjp(z, labels, loss_bar_tan)


def checked_labels(labels, z):
    """Labels that fit the logits, as int64; see `cross_entropy` for what is raised."""
    if np.ndim(z) != 2 or z.shape[0] == 0 or z.shape[1] == 0:
        raise InvalidInputError(f"z must have shape (batch, classes), neither 0, found {np.shape(z)}")
    if np.shape(labels) != z.shape[:1]:
        raise InvalidInputError(f"labels must have shape {z.shape[:1]}, found {np.shape(labels)}")
    return checked_indices(labels, z.shape[1], "labels")
