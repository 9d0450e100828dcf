"""The complex step: a derivative without a difference, hence without cancellation."""
import warnings

import numpy as np

from refnode.errors import InvalidInputError, InvalidTypeError
from refnode.gradcheck.evaluation import (GuardedFunction, length_along, real_direction, typical_size,
                                          unit_vector)

RELATIVE_STEP = 2.0**-66   # its square is far below rounding, so the truncation O(h²) is nil


def complex_step_gradient(fun, x, *, scale=None):
    """Gradient Im fun(x + i h eⱼ) / h, exact to rounding for a fun that is complex-analytic in its code.

    A fun that takes absolute values, conjugates, or compares complex numbers is not analytic, and the
    result is silently wrong: compare it with finite differences (`check_gradient` does).

    Parameters
    ----------
    fun : callable
        x -> number or array; called with complex arrays.
    x : array_like
        Real, any shape.
    scale : float or array_like, optional
        Lengths over which fun varies, as in `finite_difference_gradient`.

    Returns
    -------
    ndarray
        fun.shape + x.shape.

    Raises
    ------
    InvalidInputError
        fun returned a real value, or discarded an imaginary part, or a non-finite number.
    InvalidTypeError
        fun does not accept complex numbers.

    References
    ----------
    Squire and Trapp, Using complex variables to estimate derivatives of real functions, SIAM Rev. 40 (1998).
    """
    guarded = GuardedFunction(fun, x)
    size = typical_size(guarded.x, scale).reshape(-1)
    columns = [imaginary_derivative(guarded, unit_vector(guarded.x.size, j), size) for j in range(guarded.x.size)]
    columns = np.array(columns).reshape(-1, guarded.value.size)
    return columns.T.reshape(guarded.shape + guarded.x.shape)


def complex_step_jvp(fun, x, direction, *, scale=None):
    """Directional derivative Im fun(x + i h·direction) / h; see `complex_step_gradient`.

    Returns
    -------
    ndarray
        Of the shape of fun(x).
    """
    guarded = GuardedFunction(fun, x)
    direction = real_direction(direction, guarded.x)
    size = typical_size(guarded.x, scale).reshape(-1)
    return imaginary_derivative(guarded, direction, size).reshape(guarded.shape)


def imaginary_derivative(guarded, direction, size, relative_step=RELATIVE_STEP):
    """Im φ(i h)/h for φ(τ) = fun(x + τ·direction), shape (m,)."""
    step = max(relative_step * length_along(direction, size), np.finfo(float).tiny)
    output = _complex_output(guarded, guarded.x.reshape(-1) + 1j * step * direction)
    if output.shape != guarded.shape:
        raise InvalidInputError(f"fun: expected the shape {guarded.shape} it has at x, found {output.shape}")
    if not np.isfinite(output).all():
        raise InvalidInputError("fun: expected a finite value at a complex point, found a non-finite one")
    return output.imag.reshape(-1) / step


def _complex_output(guarded, z):
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("error", np.exceptions.ComplexWarning)
            output = np.asarray(guarded.complex_value(z))
    except np.exceptions.ComplexWarning as cause:
        raise InvalidInputError("fun: expected to propagate complex numbers, found that it discards an "
                                "imaginary part") from cause
    except TypeError as cause:
        raise InvalidTypeError(f"fun: expected to accept complex numbers, found TypeError: {cause}") from cause
    if not np.iscomplexobj(output):
        raise InvalidInputError(f"fun: expected a complex value for a complex argument, found {output.dtype}")
    return output
