"""The Taylor test: how fast f(x + h d) leaves its linearisation."""
from dataclasses import dataclass

import numpy as np

from refnode.errors import InvalidInputError
from refnode.gradcheck.evaluation import (GuardedFunction, length_along, real_array, real_direction,
                                          require_scalar, typical_size)

LEVELS = 8
COST = LEVELS + 1
SECOND_ORDER = 1.8   # a wrong gradient tends to rate 1, a right one to rate 2
ROUNDING = 64.0      # remainders below this many roundings of f say nothing


@dataclass(frozen=True)
class TaylorTest:
    """Remainders of a Taylor expansion along one direction. Evidence, not a verdict.

    An error δ of the gradient shows only once h |δ·d| outgrows h² |f''|/2, that is for h below the relative
    error: an error of 6e-5 is invisible to steps above 1e-3.

    Attributes
    ----------
    steps : ndarray, shape (k,)
        h, halved from one to the next.
    first, second : ndarray, shape (k,)
        |f(x + h d) − f(x)|  and  |f(x + h d) − f(x) − h g·d|.
    rates : ndarray, shape (k-1,)
        log₂ of successive quotients of `second`; NaN where a remainder is at rounding level.
    rounding : float
        The level below which a remainder is ignored.
    """

    steps: np.ndarray
    first: np.ndarray
    second: np.ndarray
    rates: np.ndarray
    rounding: float

    @property
    def passed(self):
        """True where the finest observable rate is second order, or f is linear to rounding; None if undecidable."""
        seen = self.rates[np.isfinite(self.rates)]
        if seen.size:
            return bool(seen[-1] >= SECOND_ORDER)
        return True if (self.second <= self.rounding).all() else None


def taylor_test(fun, x, grad, direction=None, *, scale=None, seed=0, levels=LEVELS):
    """Observed order of R(h) = |f(x + h d) − f(x) − h g·d|: 2 for the right gradient g, 1 for a wrong one.

    Parameters
    ----------
    fun : callable
        x -> number.
    x, grad : array_like
        Point and gradient, of one shape.
    direction : array_like, optional
        d; by default random signs times the typical size of x.
    scale : float or array_like, optional
        Lengths over which fun varies, as in `finite_difference_gradient`.
    seed : int
        Of the random direction.
    levels : int
        Number of steps, each half of the one before; the first moves x by a quarter of its size.

    Returns
    -------
    TaylorTest
    """
    guarded = GuardedFunction(fun, x)
    require_scalar(guarded)
    grad = real_array(grad, "grad")
    if grad.shape != guarded.x.shape:
        raise InvalidInputError(f"grad: expected the shape of x {guarded.x.shape}, found {grad.shape}")
    size = typical_size(guarded.x, scale).reshape(-1)
    d = random_direction(size, seed) if direction is None else real_direction(direction, guarded.x)
    return taylor_remainders(guarded, grad.reshape(-1), d, size, levels)


def taylor_remainders(guarded, grad, direction, size, levels=LEVELS):
    """The `TaylorTest` along a flat direction."""
    steps = length_along(direction, size) * 2.0 ** -np.arange(2, 2 + levels) if direction.size else np.zeros(levels)
    values = np.array([guarded(guarded.x.reshape(-1) + h * direction)[0] for h in steps])
    change = values - guarded.value[0]
    linear = steps * (grad @ direction)
    second = np.abs(change - linear)
    rounding = ROUNDING * guarded.eps * float(np.nanmax(np.abs(np.append(values, guarded.value[0]))))
    return TaylorTest(steps, np.abs(change), second, _rates(second, rounding), rounding)


def random_direction(size, seed):
    """sizeᵢ times a random sign times a random number in [1/2, 1]: no component is lost, none cancels for sure."""
    rng = np.random.default_rng(seed)
    return size * rng.choice([-1.0, 1.0], size.shape) * rng.uniform(0.5, 1.0, size.shape)


def _rates(remainder, rounding):
    visible = np.where(remainder > rounding, remainder, np.nan)
    return np.log2(visible[:-1] / visible[1:])
