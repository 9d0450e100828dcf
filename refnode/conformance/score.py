"""How far a gradient is off, in numbers that mean the same on every problem: E, q, and the tolerance floor.

    E = |D (g - g*)| / |D g*|     over a block (y0, theta, the times), D = diag |x_j|
    q = E / (kappa tol)           kappa the condition number of the gradient, tol the tolerance it was computed at

Blocks whose share of the gradient is less than `BLOCK_FLOOR` are judged by that share: a relative error of a block of
size exp(-200) means nothing. Healthy methods have q = 0.2 in the median and at most 460, 150, 47, 120 at tolerances
1e-3, 1e-6, 1e-9, 1e-12; broken ones have q > 3e5 at 1e-9 (2624 runs of four libraries).
"""
from dataclasses import dataclass

import numpy as np

BLOCK_FLOOR = 1e-3
PASS_SCORE, FAIL_SCORE = 1e3, 1e5   # q up to which an answer passes, and beyond which it fails
NOT_TESTABLE = 0.1                  # kappa tol beyond which nothing can be said
LARGEST_KAPPA = 1e6                 # more was measured by kicks larger than some component, and excuses everything
ASSUMED_KAPPA = 100.0               # of a problem whose condition number nobody has measured
ASSUMED_TOLERANCE = 1e-9            # of an answer that does not say at which it was computed
ASSUMED_ATOL = 1e-8
DEFAULT_RTOL = 1e-6                 # asked of such an answer
LARGEST_PASS, LARGEST_FAIL = 1e-2, 0.5   # E beyond which nothing passes; beyond which what no tolerance excuses fails
FLOOR = 10.0                        # errors of a gradient below this many absolute tolerances are tolerance-limited


@dataclass(frozen=True)
class Level:
    """What is asked of an answer.

    Attributes
    ----------
    accepted, refused : float
        E up to which it passes, and beyond which it fails. Between them it is degraded: INCONCLUSIVE.
    tolerance : float
        At which the answer was computed, said or assumed.
    atol : float
    kappa : float
    reason : str
        Where `accepted` comes from, for the report.
    """

    accepted: float
    refused: float
    tolerance: float
    atol: float
    kappa: float
    reason: str

    @property
    def testable(self):
        """Whether a right program is told from a wrong one at this tolerance."""
        return self.kappa * self.tolerance <= NOT_TESTABLE or self.accepted == self.refused

    def score(self, error):
        """q of a scaled error E."""
        return error / (self.kappa * self.tolerance)


def level_of(rtol, kappa, tolerance, atol):
    """The `Level` for an rtol the caller asks for, else for the tolerance the answer was computed at, else assumed."""
    said, known = tolerance is not None, ASSUMED_KAPPA if kappa is None else min(max(float(kappa), 1.0), LARGEST_KAPPA)
    tolerance = float(tolerance) if said else ASSUMED_TOLERANCE
    rest = {"tolerance": tolerance, "kappa": known,
            "atol": atol if atol is not None else (tolerance if said else ASSUMED_ATOL)}
    healthy = PASS_SCORE * known * tolerance
    if rtol is not None:
        return Level(rtol, rtol, reason=f"rtol {rtol:g}", **rest)
    if not said:
        return Level(DEFAULT_RTOL, max(DEFAULT_RTOL, min(healthy, LARGEST_FAIL)), reason=f"rtol {DEFAULT_RTOL:g}", **rest)
    refused = min(FAIL_SCORE * known * tolerance, max(LARGEST_FAIL, healthy))
    reason = f"{PASS_SCORE:g}·kappa·tol (kappa {known:.3g}, tol {tolerance:g})"
    return Level(min(healthy, LARGEST_PASS), refused, reason=reason if healthy <= LARGEST_PASS else "rtol 0.01", **rest)


def block_units(reference, size, blocks, loss_size):
    """The unit of E for each component: the size of D g* in its block, in the units of the component, shape (m,).

    `loss_size` is the size of the loss: beneath rounding of it a gradient of zeros is zero.
    """
    weighted, units = np.abs(reference) * size, np.empty(reference.size)
    whole = max(BLOCK_FLOOR * np.linalg.norm(weighted), 1e-14 * loss_size)
    for members in blocks:
        units[members] = max(np.linalg.norm(weighted[members]), whole)
    return units / size


def scaled_error(yours, reference, units, blocks):
    """The largest E of a block."""
    ratio = np.divide(np.abs(yours - reference), units, out=np.zeros(yours.size), where=units > 0)
    return max((float(np.linalg.norm(ratio[members])) for members in blocks), default=0.0)


def tolerance_floor(size, n, p, cotangent_size, state_size, atol):
    """|error| that absolute tolerances excuse, shape (m,): sensitivities beneath them are resolved by nobody.

    A column dy/dx_j is known to atol, for a parameter to atol / |x_j|; the loss sums its entries with its cotangents. A solution below 1 in size is taken to be solved with an atol smaller in proportion.
    """
    parameter = (np.arange(size.size) >= n) & (np.arange(size.size) < n + p)
    units = np.where(parameter, size, 1.0)
    return FLOOR * atol * min(1.0, state_size) * cotangent_size / units
