"""The gradient to compare with: finite differences, the complex step, or both in agreement."""
from dataclasses import dataclass

import numpy as np

from refnode.errors import InvalidInputError, InvalidTypeError
from refnode.gradcheck.complex_step import RELATIVE_STEP, imaginary_derivative
from refnode.gradcheck.evaluation import gradient_scale, unit_vector
from refnode.gradcheck.finite_difference import CONFLICT, FIRST_COST, partial_derivatives
from refnode.gradcheck.gradient_report import Check

EPS = float(np.finfo(float).eps)


@dataclass(frozen=True)
class Reference:
    """A reference gradient, flat; NaN (error inf) in components that were not compared.

    Attributes
    ----------
    value, error : ndarray, shape (n,)
    difference, difference_error : ndarray, shape (n,)
        The finite differences; NaN where there are none.
    gap : ndarray, shape (n,)
        Right-hand minus left-hand derivative where they differ beyond doubt, else 0.
    step : ndarray, shape (n,)
        Smallest step behind each finite difference.
    noise : float
        Largest noise of fun that was measured.
    compared : ndarray of bool, shape (n,)
    source : str
    checks : list of Check
    """

    value: np.ndarray
    error: np.ndarray
    difference: np.ndarray
    difference_error: np.ndarray
    gap: np.ndarray
    step: np.ndarray
    noise: float
    compared: np.ndarray
    source: str
    checks: list


def gather_reference(guarded, methods, size, rtol, seed):
    """The `Reference` by the methods asked for, as far as the budget of evaluations allows."""
    difference = difference_reference(guarded, "fd" in methods, size, rtol, seed)
    if "complex" not in methods:
        return difference
    value, error, summary = _complex_reference(guarded, size)
    if value is None:
        return _with_check(difference, Check("complex", "error", summary))
    return _combined(difference, value, error)


def difference_reference(guarded, wanted, size, rtol, seed):
    """Finite differences of as many components as the budget allows, chosen at random if not all."""
    n = guarded.x.size
    affordable = int(min(n, guarded.remaining // FIRST_COST)) if wanted else 0
    chosen = np.sort(np.random.default_rng([seed, 2]).choice(n, affordable, replace=False))
    found = partial_derivatives(guarded, chosen, size, 1e-3 * rtol)
    value, error, gap, step = np.full(n, np.nan), np.full(n, np.inf), np.zeros(n), np.full(n, np.nan)
    for i, derivative in zip(chosen, found):
        value[i], error[i], step[i] = derivative.value[0], derivative.error[0], derivative.step[0]
        gap[i] = derivative.gap[0] if derivative.one_sided_differ[0] else 0.0
    noise = max((float(np.nan_to_num(derivative.noise[0])) for derivative in found), default=np.nan)
    compared = np.isin(np.arange(n), chosen)
    return Reference(value=value, error=error, difference=value, difference_error=np.where(compared, error, np.nan),
                     gap=gap, step=step, noise=noise, compared=compared, checks=[],
                     source="finite differences of fun, the program as it runs (every branch and step it takes)")


def _complex_reference(guarded, size):
    """(value, error, ""), or (None, None, reason) where fun is not made for complex numbers."""
    n = guarded.x.size
    if not guarded.affords(2 * n):
        return None, None, "complex step: not within max_evals"
    try:
        value, second = [np.array([imaginary_derivative(guarded, unit_vector(n, i), size, step)[0] for i in range(n)])
                         for step in (RELATIVE_STEP, RELATIVE_STEP / 3)]
    except (InvalidInputError, InvalidTypeError) as fault:
        return None, None, f"complex step: {fault}"
    except Exception as fault:
        return None, None, f"complex step: fun raised {type(fault).__name__}: {fault}"
    return value, 4 * np.abs(value - second) + 16 * EPS * gradient_scale(value, size), ""


def _combined(difference, value, error):
    """The complex step where finite differences do not contradict it, else the latter with the distance as error."""
    distance = np.abs(value - difference.value)
    contradicted = difference.compared & (distance > CONFLICT * (error + difference.difference_error))
    outcome = "disagree" if contradicted.any() else "agree"
    relative = np.nanmax(distance, initial=0.0) / max(np.abs(value).max(), np.finfo(float).tiny)
    check = Check("complex", outcome, f"complex step vs finite differences {relative:.1e} {outcome}"
                  if difference.compared.any() else "complex step alone", {"value": value, "error": error})
    return Reference(value=np.where(contradicted, difference.value, value),
                     error=np.where(contradicted, distance, error),
                     difference=difference.difference, difference_error=difference.difference_error,
                     gap=difference.gap, step=difference.step, noise=difference.noise,
                     compared=np.ones(value.shape, dtype=bool),
                     source="complex step of fun, the program as it runs (every branch and step it takes)",
                     checks=[check])


def _with_check(reference, check):
    return Reference(**{**reference.__dict__, "checks": [*reference.checks, check]})
