"""A gradient that is claimed to be that of the steps taken, or of the program with its step control.

An answer does not hold its steps, so such a claim cannot be confirmed from it. It is compared with the derivative of the
solution, to which all three tend; where they are far apart on this problem at this tolerance, which refnode's own gradients
of that kind show, nobody is blamed. Steps can be given instead, and are then compared to rounding: docs/interchange.md.
"""
import warnings

import numpy as np

from refnode.conformance.score import scaled_error
from refnode.errors import GradientWarning, RefnodeError
from refnode.evidence.row import flat
from refnode.sensitivity.gradient import gradient

KINDS = {"frozen": "the steps taken, held", "through": "the program with its step control"}
DECLARED = {"discrete_frozen": "frozen", "discrete_through": "through"}
SENSITIVITY = {"frozen": {"sensitivity": "discrete", "check_tangent": False}, "through": {"truth": "through"}}
METHODS = ("dopri5", "dop853")
GIVE_STEPS = "with its steps given it is compared to rounding (refnode problems export --mode fixed)"


def of_a_claim(case, judged, verdict):
    """(verdict, notes) where the gradient is claimed to be a discrete one, by the caller or by the answer."""
    claim = case.truth if case.truth in KINDS else DECLARED.get(judged.answer.truth)
    if claim is None or verdict not in ("PASS", "FAIL"):
        return verdict, []
    what = f"claimed to be the derivative of {KINDS[claim]}; an answer does not hold its steps"
    if verdict == "PASS":
        return verdict, [f"{what}, so that it was compared with the derivative of the solution, and agrees; {GIVE_STEPS}"]
    other = apart(case, claim, judged.level) if case.truth == claim and judged.state_right and not judged.answer.faults else 0.0
    if other <= judged.level.accepted:
        return verdict, [f"{what}; it is not the derivative of the solution; {GIVE_STEPS}"]
    return "INCONCLUSIVE", [f"{what}; it is not the derivative of the solution, and on this problem refnode's own derivative of that "
                            f"kind is off by E = {other:.1e}, too; {GIVE_STEPS}"]


def apart(case, claim, level):
    """How far refnode's derivatives of that kind are from that of the solution, in E, at the answer's tolerance."""
    core = slice(0, case.inputs.blocks["grad_theta"].stop)
    right, largest = case.reference.gradient[core], 0.0
    for method in METHODS if "pieces" not in case.data["rhs"] else ():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", GradientWarning)
                found = flat(gradient(case.problem, method=method, rtol=level.tolerance, atol=level.atol, **SENSITIVITY[claim]))
        except RefnodeError:
            continue
        blocks = [b for b in case.inputs.unit_blocks() if b.stop <= core.stop]
        error = scaled_error(found[core], right, case.units[core], blocks)
        largest = max(largest, error) if np.isfinite(error) else np.inf
    return largest
