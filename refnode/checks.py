"""Checks of users' input, made once, at the public door."""
import numpy as np

from refnode.errors import InvalidInputError, InvalidTypeError


def real_vector(name, value):
    """``value`` as a finite, contiguous float64 vector of its own.

    Raises
    ------
    InvalidTypeError
        If it does not consist of numbers.
    InvalidInputError
        If it is complex, not one-dimensional, or not finite.
    """
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InvalidTypeError(f"{name} must be an array of real numbers: {error}") from error
    if array.dtype.kind == "c":
        raise InvalidInputError(f"{name} must be real, found {array.dtype}; stack real and imaginary parts")
    if array.size == 0:
        array = array.astype(np.float64)
    if array.dtype.kind not in "fiub":
        raise InvalidTypeError(f"{name} must be an array of real numbers, found dtype {array.dtype}")
    array = np.array(array, dtype=np.float64, order="C", ndmin=1)
    if array.ndim != 1:
        raise InvalidInputError(f"{name} must be one-dimensional, found shape {array.shape}")
    if not np.all(np.isfinite(array)):
        bad = int(np.flatnonzero(~np.isfinite(array))[0])
        raise InvalidInputError(f"{name} must be finite, found {name}[{bad}] = {array[bad]}")
    return array


def time_span(t_span):
    """(t0, t1) as finite floats."""
    try:
        values = np.asarray(t_span, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"t_span must be two finite times, found {t_span!r}") from error
    if values.shape != (2,) or not np.all(np.isfinite(values)):
        raise InvalidInputError(f"t_span must be two finite times, found {t_span!r}")
    return float(values[0]), float(values[1])


def observation_times(ts, t0, t1, name="ts"):
    """``ts`` as float64, checked to run from t0 to t1 in the order of integration."""
    ts = real_vector(name, ts)
    direction = 1.0 if t1 >= t0 else -1.0
    if np.any(direction * np.diff(ts) < 0):
        raise InvalidInputError(f"{name} must be sorted in the order of integration, found "
                                f"{ts[:-1][direction * np.diff(ts) < 0][0]:g} before a time it should follow")
    outside = (direction * (ts - t0) < 0) | (direction * (ts - t1) > 0)
    if np.any(outside):
        raise InvalidInputError(f"{name} must lie inside t_span [{t0:g}, {t1:g}], found {ts[outside][0]:g}")
    return ts


def require_problem(problem, device="cpu"):
    """Raise InvalidTypeError unless it is a `Problem`, known by what solvers read of it, whose arrays the device can read."""
    if not hasattr(problem, "flow_field"):
        raise InvalidTypeError(f"problem must be a refnode.Problem, found {type(problem).__name__}")
    if device == "cpu":
        require_on_host(problem)


def require_on_host(problem):
    """Raise InvalidInputError if an array of a `Problem` or a `Batch` lies on a GPU."""
    for array in (problem.y0, problem.theta):
        if getattr(array, "on_device", False):
            raise InvalidInputError(f'{array.name} lies on a GPU, and device="cpu" takes arrays on the host: ask for '
                                    'device="cuda", or copy it to NumPy')


def require_place(batch, device, real):
    """Raise InvalidInputError unless the arrays of a batch can be read where it is to run, in these numbers."""
    if device == "cpu":
        require_on_host(batch)
    for array in (batch.y0, batch.theta):
        if getattr(array, "on_device", False) and array.dtype.name != real:
            raise InvalidInputError(f"{array.name} on the GPU has dtype {array.dtype}, and the call asks for dtype={real!r}: "
                                    f"give dtype={array.dtype.name!r}, or convert it")
