"""The embedding layer: y_i = E[index_i], a row of a table for every index; with its jvp, vjp and hvp.

It is the dense layer of one-hot rows, without the zeros. The indices are no differentiable input.
"""
import numpy as np

from refnode.errors import InvalidInputError


def embedding(indices, E):
    """Rows of a table.

    Parameters
    ----------
    indices : ndarray of int, any shape
        Each in 0 ... rows - 1.
    E : ndarray, shape (rows, d)

    Returns
    -------
    y : ndarray, shape (*indices.shape, d)

    Raises
    ------
    InvalidInputError
        Naming the first index that is no integer, or outside the table.
    """
    return E[checked_indices(indices, len(E))]


def embedding_jvp(indices, E_tan):
    """y_tan_i = E_tan[index_i]: the layer is linear in its table."""
    return embedding(indices, E_tan)


def embedding_vjp(indices, rows, y_bar):
    """E_bar (rows, d): y_bar_i is added to row index_i, as often as that row was read."""
    indices = checked_indices(indices, rows)
    E_bar = np.zeros((rows, y_bar.shape[-1]), y_bar.dtype)
    np.add.at(E_bar, indices.ravel(), y_bar.reshape(-1, y_bar.shape[-1]))           # y_i = E[index_i]
    return E_bar


def embedding_hvp(indices, rows, y_bar_tan):
    """Tangent of `embedding_vjp`, which is linear: the same map of y_bar_tan."""
    return embedding_vjp(indices, rows, y_bar_tan)


def checked_indices(indices, count, name="indices"):
    """``indices`` as int64, each in 0 ... count - 1.

    Raises
    ------
    InvalidInputError
        Naming the first that is not, and where it stands.
    """
    found = np.asarray(indices)
    if found.dtype.kind not in "iuf":
        raise InvalidInputError(f"{name} must be integers, found dtype {found.dtype}")
    wrong = ~((found >= 0) & (found < count) & (found == np.floor(found)))          # a NaN is wrong, too
    if np.any(wrong):
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise InvalidInputError(f"{name} must be integers in 0 .. {count - 1}, found {name}{list(place)} = {found[place]}")
    return found.astype(np.int64)
