"""From numbers to verdicts: one component, one direction, the whole."""
import numpy as np

from refnode.gradcheck.evaluation import gradient_scale
from refnode.gradcheck.gradient_report import Judgement

MARGIN = 10.0      # FAIL only beyond this many estimated errors of the reference
NOISE_SHARE = 0.01 # of an error, from which on noise is its cause: extrapolation amplifies noise / step by up to 100
FLAT = 1e-12       # a slope that changes fun by less than this part of itself over the size of x counts as zero
EPS = float(np.finfo(float).eps)


def judge(yours, reference, uncertainty, tolerance):
    """The verdict on one number.

    The uncertainty is an estimate that true errors exceed rarely and by small factors, so that ten times it is a safe
    margin for a FAIL, and it must be below the tolerance asked for a PASS.
    """
    error = abs(yours - reference)
    if error > tolerance + MARGIN * uncertainty:
        return "FAIL"
    if uncertainty <= tolerance and error <= tolerance + uncertainty:
        return "PASS"
    return "INCONCLUSIVE"


def tolerances(guarded, reference, yours, size, rtol, atol):
    """rtol·scale + atol for each component, shape (n,)."""
    known = np.isfinite(reference.value)
    scale = gradient_scale(np.where(known, reference.value, yours), size)
    tolerance = rtol * scale + atol
    if known.any() and (np.abs(reference.value[known]) <= 3 * reference.error[known]).all():
        return np.maximum(tolerance, FLAT * guarded.largest / size)
    return tolerance


def judge_component(reference, tolerance, yours, i, name, index, failures):
    """The `Judgement` of component i."""
    gap = abs(reference.gap[i]) if abs(reference.gap[i]) > tolerance[i] else 0.0
    uncertainty = reference.error[i] + gap / 2
    verdict, note = judge(yours[i], reference.value[i], uncertainty, tolerance[i]), ""
    if gap and verdict == "PASS":
        verdict = "INCONCLUSIVE"
    if gap:
        left, right = reference.value[i] - reference.gap[i] / 2, reference.value[i] + reference.gap[i] / 2
        note = f"fun is not smooth at x along {name}: slope {left:.6g} on the left, {right:.6g} on the right"
    elif not np.isfinite(reference.value[i]):
        verdict, note = "ERROR", f"fun has no finite values around x along {name}" + _first(failures)
    elif verdict == "INCONCLUSIVE":
        note = (f"the reference of {name} is uncertain by {uncertainty:.1e}, the tolerance is "
                f"{tolerance[i]:.1e} (step {reference.step[i]:.1e}, noise of fun {reference.noise:.1e}"
                f"{_longer_step(reference, i, tolerance[i])})")
    return _judgement(name, index, yours[i], reference.value[i], uncertainty, tolerance[i], verdict, note,
                      reference.difference[i], reference.difference_error[i])


def _longer_step(reference, i, tolerance):
    """The step at which the noise would be below the tolerance, where noise it is that makes the error."""
    step, error = reference.step[i], reference.difference_error[i]
    if not (tolerance > 0 and step > 0 and np.isfinite(error) and reference.noise / step > NOISE_SHARE * error):
        return ""
    return f"; steps from {step * error / tolerance:.0e} would do where fun is smooth over them"


def judge_direction(direction, slope, tolerance, yours):
    """The `Judgement` of ⟨yours, v⟩ against the slope along v.

    Components within their tolerances give a sum within Σ|vᵢ| toleranceᵢ; the products ⟨yours, v⟩ round, too.
    """
    asked = float(np.abs(direction) @ tolerance)
    rounding = EPS * direction.size * float(np.abs(direction) @ np.abs(yours))
    along, value = float(yours @ direction), float(slope.value[0])
    gap = abs(float(slope.gap[0])) if slope.one_sided_differ[0] else 0.0
    uncertainty = float(slope.error[0]) + gap / 2 + rounding
    asked = max(asked, 2 * rounding)
    verdict = judge(along, value, uncertainty, asked)
    return _judgement("<yours, v>, v random", None, along, value, uncertainty, asked, verdict, "", value,
                      float(slope.error[0]))


def overall_verdict(components, direction, size):
    """(verdict, remarks) from the components compared and the random direction, which sees the others."""
    found = {component.verdict for component in components}
    for gravest in ("FAIL", "ERROR", "INCONCLUSIVE"):
        if gravest in found:
            return gravest, []
    along = direction.verdict if direction else None
    if len(components) == size:
        return _all_compared(along)
    rest = f"{size - len(components)} of {size} components were not compared one by one"
    if along is None:
        return "INCONCLUSIVE", [f"{rest}: ask for \"fd\", \"complex\" or \"dot\", or allow more evaluations"]
    return along, [f"{rest}; they were seen through the random direction only"]


def advice(components, settings):
    """What to do about an uncertain reference: the tolerance it can decide, and how to have a better one."""
    uncertain = [c.finite_difference_error / c.tolerance for c in components
                 if c.verdict == "INCONCLUSIVE" and c.finite_difference_error > c.tolerance > 0]
    if not uncertain or settings["rtol"] == 0:
        return []
    possible = 2 * max(uncertain) * settings["rtol"]
    if possible < 1:
        best = f"can decide rtol {possible:.0e}, not {settings['rtol']:g}"
    else:
        best = "cannot decide this gradient"
    return [f"these finite differences {best}; for more lower the noise of fun (tighter solver tolerances, fixed "
            "steps) or pass scale= for longer steps"]


def _all_compared(along):
    if along != "FAIL":
        return "PASS", []
    return "INCONCLUSIVE", ["every partial derivative agrees, the slope along a random direction does not: "
                            "fun is not differentiable at x, or not deterministic"]


def _judgement(name, index, yours, reference, uncertainty, tolerance, verdict, note, difference, difference_error):
    return Judgement(name=name, index=index, yours=float(yours), reference=float(reference),
                     uncertainty=float(uncertainty), finite_difference=float(difference),
                     finite_difference_error=float(difference_error), error=float(abs(yours - reference)),
                     tolerance=float(tolerance), bound=float(tolerance + MARGIN * uncertainty),
                     verdict=verdict, note=note)


def _first(failures):
    return f" (first failure: {failures[0]})" if failures else ""
