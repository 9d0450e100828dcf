"""Calling the caller's function: arguments copied, calls counted, values checked."""
import numpy as np

from refnode.errors import InvalidInputError, InvalidTypeError


def real_array(value, name):
    """`value` as a fresh, contiguous float64 array of its own shape.

    Raises
    ------
    InvalidTypeError
        Not numbers.
    InvalidInputError
        Complex, ragged or non-finite.
    """
    array = number_array(value, name)
    if np.iscomplexobj(array):
        raise InvalidInputError(f"{name}: expected real numbers, found complex ones "
                                "(stack the real and the imaginary parts)")
    array = np.array(array, dtype=np.float64, order="C")
    refuse_non_finite(array, name)
    return array


def number_array(value, name):
    try:
        array = np.asarray(value)
    except ValueError as cause:
        raise InvalidInputError(f"{name}: expected an array of numbers, found a ragged sequence") from cause
    if array.dtype.kind not in "buifc":
        found = type(value).__name__ if array.ndim == 0 else f"an array of {array.dtype}"
        raise InvalidTypeError(f"{name}: expected an array of numbers, found {found}")
    return array


def refuse_non_finite(array, name):
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        index = np.unravel_index(bad[0], array.shape)
        raise InvalidInputError(f"{name}: expected finite numbers, found {array[index]} at index "
                                f"{tuple(map(int, index))}")


def require_callable(value, name):
    if not callable(value):
        raise InvalidTypeError(f"{name}: expected a callable, found {type(value).__name__}")


class UnusableFunction(InvalidInputError):
    """The function under test did not return what it should."""


class GuardedFunction:
    """`fun` around a point `x`, with its calls counted and its values checked.

    Every call receives a fresh array, so that a function which writes into its argument harms nobody.
    A displaced point may lie outside the domain of `fun`: there an exception or a non-finite value
    becomes NaN and is remembered in `failures`. At `x` itself both are raised.

    Attributes
    ----------
    x : ndarray
        The point, float64.
    value : ndarray, shape (m,)
        fun(x), flattened.
    shape : tuple
        Shape of fun(x); () for a scalar function.
    eps : float
        Spacing of 1.0 in the type `fun` returns: 2.2e-16, or 1.2e-7 for float32.
    count : int
        Evaluations so far.
    largest : float
        Largest |fun| seen.
    failures : list of str
        What happened at displaced points where `fun` had no finite value.
    """

    def __init__(self, fun, x, max_evals=None):
        require_callable(fun, "fun")
        self.fun = fun
        self.x = real_array(x, "x")
        self.max_evals = max_evals
        self.count = 0
        self.failures = []
        output = self._number(self._call(self.x))
        if not np.isfinite(output).all():
            raise UnusableFunction(f"fun(x): expected finite values, found {output[~np.isfinite(output)][0]}")
        self.shape = output.shape
        self.eps = float(np.finfo(output.dtype).eps) if output.dtype.kind == "f" else float(np.finfo(float).eps)
        self.value = output.astype(np.float64).reshape(-1)
        self.largest = float(np.abs(self.value).max(initial=0.0))

    def __call__(self, x):
        """fun(x) flattened to (m,), NaN where it has no finite value."""
        try:
            with np.errstate(all="ignore"):
                output = self._number(self._call(x))
        except Exception as fault:
            return self._failed(f"{type(fault).__name__}: {fault}")
        if output.shape != self.shape:
            raise UnusableFunction(f"fun: expected the shape {self.shape} it has at x, found {output.shape} nearby")
        if not np.isfinite(output).all():
            return self._failed("fun returned a non-finite value")
        output = output.astype(np.float64).reshape(-1)
        self.largest = max(self.largest, float(np.abs(output).max(initial=0.0)))
        return output

    def complex_value(self, z):
        """fun at a complex point, exactly as it is returned; exceptions propagate."""
        return self._call(z)

    def affords(self, evaluations):
        """Whether the budget `max_evals` still allows this many calls."""
        return self.max_evals is None or self.count + evaluations <= self.max_evals

    @property
    def remaining(self):
        return np.inf if self.max_evals is None else self.max_evals - self.count

    def _call(self, x):
        self.count += 1
        return self.fun(np.array(x).reshape(self.x.shape))

    def _failed(self, reason):
        self.failures.append(reason)
        return np.full(self.value.shape, np.nan)

    @staticmethod
    def _number(output):
        if output is None:
            raise UnusableFunction("fun: expected a number, found None (forgot return?)")
        try:
            output = number_array(output, "fun(x)")
        except (InvalidInputError, InvalidTypeError) as fault:
            raise UnusableFunction(str(fault)) from fault
        if np.iscomplexobj(output):
            raise UnusableFunction("fun(x): expected a real value, found a complex one")
        return output


def require_scalar(guarded):
    if guarded.shape != ():
        raise UnusableFunction(f"fun: expected a scalar, found an array of shape {guarded.shape}")


def typical_size(x, scale=None):
    """Length over which each component of `x` is expected to matter: |xᵢ|, and for zeros a stand-in.

    A zero says nothing about its unit; it borrows the median of the other magnitudes (zero biases among
    non-zero weights), or 1 where there is none. `scale` overrides the guess.
    """
    if scale is not None:
        return _given_scale(scale, x)
    size = np.abs(x)
    if (size > 0).any():
        return np.where(size > 0, size, np.median(size[size > 0]))
    return np.ones(x.shape)


def _given_scale(scale, x):
    scale = real_array(scale, "scale")
    if scale.shape not in ((), x.shape):
        raise InvalidInputError(f"scale: expected a number or the shape of x {x.shape}, found {scale.shape}")
    if not (scale > 0).all():
        raise InvalidInputError(f"scale: expected positive numbers, found {scale.min()}")
    return np.broadcast_to(scale, x.shape).copy()


def gradient_scale(gradient, size):
    """Magnitude against which an error in each component is judged.

    scaleᵢ = min( maxⱼ |gⱼ|,  maxⱼ |gⱼ| sizeⱼ / sizeᵢ )

    A component that is zero, or nearly so, is not judged by its own size but by the largest of the
    gradient, in the units of the components or in those of the function, whichever demands more.

    Parameters
    ----------
    gradient : ndarray, shape (n,) or (n, m)
    size : ndarray, shape (n,)

    Returns
    -------
    scale : ndarray, the shape of gradient
    """
    ratio = np.maximum(size / size.max(), np.finfo(float).tiny).reshape((-1,) + (1,) * (gradient.ndim - 1))
    with np.errstate(over="ignore"):
        in_units_of_fun = (np.abs(gradient) * ratio).max(axis=0) / ratio
    return np.minimum(np.abs(gradient).max(axis=0), in_units_of_fun)


def real_direction(direction, x):
    """The direction as a flat float64 array of the size of x."""
    direction = real_array(direction, "direction")
    if direction.shape != x.shape:
        raise InvalidInputError(f"direction: expected the shape of x {x.shape}, found {direction.shape}")
    if not direction.any():
        raise InvalidInputError("direction: expected a non-zero vector, found zeros")
    return direction.reshape(-1)


def unit_vector(n, i):
    unit = np.zeros(n)
    unit[i] = 1.0
    return unit


def length_along(direction, size):
    """Largest length with |length·dᵢ| ≤ sizeᵢ for every i."""
    moving = direction != 0
    return float(np.min(size[moving] / np.abs(direction[moving])))
