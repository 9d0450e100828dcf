"""What the error of a gradient does as the tolerance falls: bug, proportional to the tolerance, or exact."""
from dataclasses import dataclass

import numpy as np

from refnode.conformance import ode_candidates as known
from refnode.conformance.ode_diagnosis import SMALL, finding
from refnode.conformance.score import FAIL_SCORE, PASS_SCORE

TOLERANCES = (1e-5, 1e-7, 1e-9, 1e-11)
ROUNDING = 1e-13       # E, over kappa, below which an error is rounding
FLAT = 0.1             # slopes of log E against log tol below this are independent of the tolerance
PROPORTIONAL = 0.8
GROWS = -0.15
JAGGED = 10.0          # an error that rises by this factor somewhere and falls by it elsewhere is erratic
BROKEN = 1e3           # an error that falls by this factor from one tolerance to the next was that of a solver that broke down
AHEAD = 30.0           # a flat error this many times kappa tol at the tightest tolerance is no rounding


@dataclass(frozen=True)
class Sweep:
    """Errors at several tolerances, from loose to tight.

    Attributes
    ----------
    tolerances : tuple of float
    errors : ndarray
        E of the gradient; inf where there was no answer.
    y0_errors, theta_errors : ndarray
        E of the two blocks.
    state_errors : ndarray
        Largest relative error of y, or of the loss.
    kappa : float
    """

    tolerances: tuple
    errors: np.ndarray
    y0_errors: np.ndarray
    theta_errors: np.ndarray
    state_errors: np.ndarray
    kappa: float

    @property
    def settled(self):
        """Which errors count: finite ones, but for those at loose tolerances at which a solver breaks down."""
        counts = np.isfinite(self.errors)
        for k in range(self.errors.size - 2):
            if counts[k] and self.errors[k] <= BROKEN * self.errors[k + 1]:
                break
            counts[k] = False
        return counts

    @property
    def slope(self):
        """Of log E against log tol, where E is above rounding; NaN where it is nowhere."""
        above = self.settled & (self.errors > ROUNDING * self.kappa)
        if above.sum() < 2:
            return np.nan
        return float(np.polyfit(np.log(np.array(self.tolerances)[above]), np.log(self.errors[above]), 1)[0])

    @property
    def kind(self):
        """"exact", "proportional", "independent", "grows", "erratic", "slow" or "unknown"."""
        if np.isfinite(self.errors).sum() < 2:
            return "unknown"
        errors = self.errors[self.settled]
        if (errors <= ROUNDING * self.kappa).all():
            return "exact"
        steps = np.diff(np.log(np.maximum(errors, ROUNDING)))
        slope = self.slope
        if steps.max() > np.log(JAGGED) and errors[-1] > SMALL and errors[-1] == errors.max():
            return "grows"
        if steps.max() > np.log(JAGGED) and steps.min() < -np.log(JAGGED) and errors[-1] > SMALL * 1e-3:
            return "erratic"
        if np.isnan(slope):
            return "exact"
        if slope < GROWS:
            return "grows"
        return "independent" if slope < FLAT else "slow" if slope < PROPORTIONAL else "proportional"

    @property
    def excess(self):
        """E at the tightest tolerance, in units of kappa tol."""
        return float(self.errors[-1] / (self.kappa * self.tolerances[-1]))

    @property
    def constant(self):
        """Whether the error is the same at the last three tolerances, as that of a missing term is."""
        last = self.errors[-3:]
        return bool(np.isfinite(last).all() and last.max() <= 1.02 * last.min())

    @property
    def flat_and_wrong(self):
        """Whether the gradient's error stops falling while that of y goes on, above what kappa tol explains."""
        last = self.errors[np.isfinite(self.errors)][-2:]
        stuck = last.size == 2 and last[1] > 0.3 * last[0]
        ahead = np.isfinite(self.errors[-1]) and self.excess > AHEAD
        return bool(stuck and ahead and self.state_errors[-1] < 0.1 * self.errors[-1])

    def summary(self):
        """One line."""
        numbers = " ".join(f"{e:.0e}" for e in self.errors)
        tolerances = " ".join(f"{t:.0e}" for t in self.tolerances)
        return f"E {numbers} at tolerances {tolerances}: {WORDS[self.kind]}"


WORDS = {"exact": "exact to rounding at every tolerance", "proportional": "proportional to the tolerance",
         "independent": "independent of the tolerance", "grows": "it grows as the tolerance falls",
         "erratic": "erratic", "slow": "it falls slower than the tolerance", "unknown": "too few answers"}


def diagnose_by_behaviour(sweep, comparison):
    """Findings from how the error depends on the tolerance."""
    rules = {"independent": _independent, "grows": _grows, "erratic": _erratic, "slow": _slow, "proportional": _weak}
    rule = rules.get(sweep.kind)
    return rule(sweep, comparison) if rule else []


def _independent(sweep, comparison):
    if comparison.state_right and sweep.errors[-1] > 1e-3 and comparison.suspects.tangent_is_unresolved:
        found = _unresolved(comparison) + [_stays(sweep)]
        return found[::-1] if sweep.constant and known.resting_states(comparison.problem) < 1.0 else found
    if _integral_alone(sweep) and (sweep.errors[-1] < SMALL or not sweep.constant):
        found = _integral(sweep, "stays", comparison) + [_stays(sweep)]
        return found[::-1] if sweep.constant else found
    if sweep.errors[-1] < 1e-4 and sweep.errors[-1] > 1e-9:
        return [finding("single_precision", f"the error stays at {sweep.errors[-1]:.0e} whatever the tolerance: a part is "
                        "computed in float32.")]
    if sweep.constant or sweep.errors[-1] > SMALL:
        return [_stays(sweep)]
    return [_stays(sweep), finding("low_order_interpolation", "or y is read through an interpolant of low order, by a solver "
                                   "whose steps do not shrink with the tolerance.")]


def _stays(sweep):
    return finding("error_independent_of_tolerance", f"the error stays at E = {sweep.errors[-1]:.1e} while the tolerance "
                   f"falls to {sweep.tolerances[-1]:g}: a term is missing or wrong, no matter of accuracy.")


def _integral_alone(sweep):
    return bool(sweep.theta_errors[-1] > 100.0 * max(sweep.y0_errors[-1], ROUNDING))


def _integral(sweep, how, comparison):
    found = [finding("first_order_quadrature", f"y0 is right, and the error of theta {how} (E = {sweep.theta_errors[-1]:.1e}): "
                    "the parameter integral is summed by a rule of low order."),
             finding("quadrature_not_controlled", "or the error norm does not see the parameter integral.")]
    if sweep.y0_errors[-1] > AHEAD * sweep.kappa * sweep.tolerances[-1]:
        return [finding("low_order_interpolation", f"both blocks are off (E = {sweep.y0_errors[-1]:.1e} in y0), theta more: y is "
                        "read through an interpolant of low order."), *found]
    if comparison.suspects.is_linear:
        found.append(finding("low_order_interpolation", "or y is read through an interpolant of low order: on this linear "
                             "problem lambda does not depend on y."))
    return found


def _unresolved(comparison):
    hidden = np.flatnonzero(comparison.problem.theta == 0.0).size > 0
    keys = ("hidden_forcing", "uncontrolled_tangent") if hidden else ("uncontrolled_tangent",)
    return [finding(key, "no tolerance helps, and steps that serve the state do not resolve the tangent on this problem: "
                    "the error control does not see it.") for key in keys]


def _grows(sweep, comparison):
    if comparison.state_right and comparison.suspects.tangent_is_unresolved and sweep.errors[0] > SMALL:
        return _unresolved(comparison)
    if comparison.state_right and sweep.errors[0] > SMALL and comparison.suspects.backsolve_drifts:
        return [_drift()]
    return [finding("differentiated_step_control", f"the error grows from {sweep.errors[0]:.0e} to {sweep.errors[-1]:.0e} as "
                    "the tolerance falls: the derivative goes through the step-size control.")]


def _erratic(sweep, comparison):
    if comparison.state_right and comparison.suspects.tangent_is_unresolved:
        return _unresolved(comparison)
    if comparison.state_right and comparison.suspects.backsolve_drifts:
        return [_drift()]
    return [finding("differentiated_step_control", "the error jumps up and down while y is right: step sizes are "
                    "differentiated, or frozen steps are unstable for the tangent.")]


def _drift():
    return finding("backsolve_drift", "y is right and the gradient erratic, and y cannot be solved backwards on this problem: "
                   "backsolve drift.")


def _weak(sweep, comparison):
    """The error falls as it should and is too large by a factor: the control, not the derivative."""
    excess = sweep.excess
    if excess < PASS_SCORE:
        return []
    found = [finding("batch_dilution", f"the error is proportional to the tolerance, and {excess:.0e} times what the tolerance "
                     "allows: the error control is weaker than it says, as a norm over a whole batch is.")]
    drifts = comparison.state_right and excess > FAIL_SCORE and comparison.suspects.backsolve_drifts
    return [_drift(), *found] if drifts else found


def _slow(sweep, comparison):
    if sweep.excess < AHEAD:
        return []
    hidden = comparison.state_right and sweep.errors[0] > SMALL and comparison.suspects.tangent_is_unresolved
    if hidden:
        return _unresolved(comparison) + (_integral(sweep, f"falls as tol^{sweep.slope:.2f} only", comparison) if _integral_alone(sweep) else [])
    if _integral_alone(sweep):
        return _integral(sweep, f"falls as tol^{sweep.slope:.2f} only", comparison)
    return [finding("low_order_interpolation", f"the error falls as tol^{sweep.slope:.2f} only: y is read through an "
                    "interpolant of low order between the steps.")]
