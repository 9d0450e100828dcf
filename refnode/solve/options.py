"""The options of a solve, checked once."""
import dataclasses
import functools
import numbers
import warnings

import numpy as np

from refnode.errors import InvalidInputError, InvalidTypeError
from refnode.solve.step_size import CONTROLLERS, control_values
from refnode.solve.written_out import MOST_STATES
from refnode.steppers.schemes import REVERSIBLE_NAMES, reversible_method
from refnode.steppers.tableaus import tableau

MIN_RTOL = 100 * np.finfo(float).eps
MIN_RTOL_SINGLE = 64 * float(np.finfo(np.float32).eps)      # 7.6e-6: rounding is 2 % of what a step may err by


@dataclasses.dataclass(frozen=True, eq=False)
class SolveOptions:
    """How to integrate: method, tolerances, and how steps are chosen.

    Parameters
    ----------
    method : str, ButcherTableau or ReversibleMethod
        An explicit Runge-Kutta method, or its name in `refnode.steppers.tableaus`; or a reversible method, for
        given steps, or its name in `refnode.steppers.schemes`: "alf", "reversible_heun", "leapfrog",
        "semi_implicit_euler", "mccallum_foster(rk4)".
    rtol, atol : float or array_like (n,)
        A step is accepted when the RMS over components of its error estimate divided by
        ``atol + rtol * |y|`` is below 1. Relative tolerances below 100 eps are raised to it, with a warning.
    controller : "I", "PI" or "PID"
        What sets the next step size from the errors of the last one, two or three steps.
    first_step : float, optional
        Size of the first step (> 0); chosen automatically by default.
    max_step : float
        Bound on the size of a step.
    max_steps : int
        A solve that needs more accepted steps fails with status -2.
    n_steps : int, optional
        Take this many equal steps, without error control.
    steps : array_like, optional
        Take steps of these lengths (signed as t1 - t0), without error control.
    tstops : bool
        End a step at every observation time, instead of reading y there from the dense output.
    specialize : bool
        Compile the solver for this field, instead of calling the field by address; and for this method and number of
        states, if these are few. Some ten seconds once a process, for half the time of every small solve.

    Raises
    ------
    InvalidInputError, InvalidTypeError
    """

    method: str = "dopri5"
    rtol: object = 1e-6
    atol: object = 1e-9
    controller: str = "I"
    first_step: float | None = None
    max_step: float = np.inf
    max_steps: int = 100_000
    n_steps: int | None = None
    steps: object = None
    tstops: bool = False
    specialize: bool = False

    def __post_init__(self):
        put = lambda name, value: object.__setattr__(self, name, value)
        put("scheme", reversible_method(self.method))
        put("tableau", _tableau(self.method) if self.scheme is None else None)
        put("rtol", _relative_tolerance(self.rtol))
        put("atol", _tolerance("atol", self.atol))
        if self.controller not in CONTROLLERS:
            raise InvalidInputError(
                f"controller must be one of {list(CONTROLLERS)}, found {self.controller!r}")
        for name in ("first_step", "max_step"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, numbers.Real) and value > 0):
                raise InvalidInputError(f"{name} must be a positive number, found {value!r}")
        for name in ("max_steps", "n_steps"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, (int, np.integer)) or value < 1):
                raise InvalidInputError(f"{name} must be a positive integer, found {value!r}")
        if self.n_steps is not None and self.steps is not None:
            raise InvalidInputError("give n_steps or steps, not both")
        if self.fixed and self.tstops:
            raise InvalidInputError("tstops chooses where steps end, n_steps and steps do so too: give one")
        if not self.fixed and not (self.tableau or self.scheme).adaptive:
            raise InvalidInputError(
                f"method {(self.tableau or self.scheme).name!r} has no error estimate, so it cannot choose its steps: "
                "give n_steps= or steps=, or take an adaptive method such as 'dopri5'")

    @property
    def fixed(self):
        """Whether the steps are given rather than chosen by error control."""
        return self.n_steps is not None or self.steps is not None

    def specialized_to(self, n):
        """What `run.entry_point` compiles into a driver of solves of n states: True is the field alone."""
        if self.specialize and self.scheme is None and n <= MOST_STATES:
            return self.tableau, n
        return self.specialize

    @classmethod
    def of(cls, **options):
        """The options, from a cache where they are hashable: checking them costs more than a small solve."""
        try:
            return _cached_options(**options)
        except TypeError as error:
            unknown = sorted(set(options) - OPTION_NAMES)
            if unknown:
                raise InvalidInputError(f"unknown option {', '.join(unknown)}; there are "
                                        f"{', '.join(sorted(OPTION_NAMES))}") from None
            if "unhashable" not in str(error):
                raise
            return cls(**options)

    @functools.cached_property
    def control(self):
        return control_values(self.controller, self.tableau.error_order, self.max_step)

    @functools.cached_property
    def smallest_rtol(self):
        return float(self.rtol.min(initial=1.0))

    @functools.cached_property
    def vectors(self):
        """Tolerances as vectors, by their length; see `tolerance_vectors`."""
        return {}

    @functools.cached_property
    def weighs_zero(self):
        """Whether a component that is 0 has a positive error weight."""
        return self.atol.ndim == 0 and self.atol > 0

    def grid(self, t0, t1):
        """The times of all steps if they are given, else an empty array."""
        if not self.fixed or t0 == t1:
            return np.empty(0)
        if self.n_steps is not None:
            return np.linspace(t0, t1, self.n_steps + 1)
        steps = np.asarray(self.steps, dtype=np.float64)
        grid = t0 + np.concatenate([[0.0], np.cumsum(steps)])
        if steps.ndim != 1 or not np.all(steps * np.sign(t1 - t0) > 0):
            raise InvalidInputError("steps must be a sequence of step sizes with the sign of t1 - t0")
        if abs(grid[-1] - t1) > 1e-12 * max(abs(t0), abs(t1), abs(t1 - t0)):
            raise InvalidInputError(f"steps must lead from t0 to t1 = {t1:.16g}, they end at {grid[-1]:.16g}")
        grid[-1] = t1
        return grid

    dtype = np.float64          # of states, slopes and parameters

    @functools.cached_property
    def single(self):
        """The same for a solve in single precision.

        Raises
        ------
        InvalidInputError
            For what is not there in it: methods with an inverse step, and ``specialize``.
        """
        if self.scheme is not None or self.specialize:
            what = "specialize=True" if self.specialize else f"method {self.scheme.name!r}"
            raise InvalidInputError(f'dtype="float32" goes without {what} on the CPU; it takes explicit Runge-Kutta methods, '
                                    'by address')
        rtol, atol = self.rtol, self.atol
        if np.any(rtol < MIN_RTOL_SINGLE) and not self.fixed:
            warnings.warn(f"rtol below 64 eps of float32 cannot be met; raised to {MIN_RTOL_SINGLE:.3g}", stacklevel=5)
            rtol = np.maximum(rtol, MIN_RTOL_SINGLE)
        single = self.replace(rtol=rtol, atol=np.asarray(atol.astype(np.float32), np.float64))
        object.__setattr__(single, "dtype", np.float32)
        return single

    def replace(self, **changes):
        return dataclasses.replace(self, **changes)


OPTION_NAMES = frozenset(field.name for field in dataclasses.fields(SolveOptions))


@functools.lru_cache(maxsize=64, typed=True)
def _cached_options(**options):
    return SolveOptions(**options)


def _tableau(method):
    try:
        return tableau(method)
    except InvalidInputError as error:
        raise InvalidInputError(f"{error} (with given steps also: {', '.join(REVERSIBLE_NAMES)})") from None


def _vector(name, value, shape):
    if value.ndim == 1 and value.shape != shape:
        raise InvalidInputError(f"{name} must be a number or have shape {shape}, found {value.shape}")
    vector = np.empty(shape)
    vector.fill(value) if value.ndim == 0 else np.copyto(vector, value)
    return vector


def _tolerance(name, value):
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InvalidTypeError(f"{name} must be a number or an array of numbers, found {value!r}") from error
    if array.dtype.kind not in "fiu":                     # NumPy would read a string as a number
        raise InvalidTypeError(f"{name} must be a number or an array of numbers, found {value!r}")
    array = array.astype(np.float64)
    if array.ndim > 1 or not np.all(array >= 0):          # NaN fails the comparison too
        raise InvalidInputError(f"{name} must be >= 0, found {value!r}")
    return array


def _relative_tolerance(value):
    rtol = _tolerance("rtol", value)
    if not np.all(np.isfinite(rtol)):
        raise InvalidInputError(f"rtol must be finite, found {value!r}")
    if np.any(rtol < MIN_RTOL):
        warnings.warn(f"rtol below 100 eps cannot be met; raised to {MIN_RTOL:.3g}", stacklevel=4)
        rtol = np.maximum(rtol, MIN_RTOL)
    return rtol


def tolerance_vectors(options, y0):
    """rtol and atol as (n,) vectors, which belong to the options: not to be changed.

    Raises
    ------
    InvalidInputError
        If a length does not fit, or an error weight atol_i + rtol_i |y_i| is zero at the start.
    """
    vectors = options.vectors.get(y0.size)
    if vectors is None:
        vectors = [_vector(name, getattr(options, name), y0.shape).astype(options.dtype, copy=False) for name in ("rtol", "atol")]
        options.vectors[y0.size] = vectors
    if options.weighs_zero:
        return vectors
    weight = vectors[1] + vectors[0] * np.abs(y0)
    if not weight.all():
        zero = int(np.flatnonzero(weight == 0.0)[0])
        raise InvalidInputError(
            f"error weight of component {zero} is zero: atol is 0 and y0[{zero}] is 0; give an atol > 0")
    return vectors
