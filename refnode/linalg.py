"""Small dense vector operations without allocation, for compiled bodies."""
import numpy as np

from refnode.host_device import host_device


@host_device
def copy_into(x, out):
    """out = x. (Numba allocates for ``out[:] = x``, since the two might overlap.)"""
    for m in range(out.shape[0]):
        out[m] = x[m]


@host_device
def dot(x, y):
    """sum_m x_m y_m."""
    total = 0.0
    for m in range(x.shape[0]):
        total += x[m] * y[m]
    return total


@host_device
def is_finite(x):
    """Whether a number, real or complex, is neither infinite nor NaN. (CUDA has no ``np.isfinite``.)"""
    return abs(x) < np.inf


@host_device
def first_non_finite(x):
    """Index of the first entry that is not finite, or -1."""
    for m in range(x.shape[0]):
        if not is_finite(x[m]):
            return m
    return -1


@host_device
def has_nonzero(x):
    """Whether any entry differs from zero; a NaN does."""
    for m in range(x.shape[0]):
        if x[m] != 0.0:
            return True
    return False
