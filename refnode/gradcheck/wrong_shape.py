"""A gradient of another shape than x cannot be right; what its numbers say about the reason."""
import numpy as np

from refnode.gradcheck.gradient_report import Check, GradientReport
from refnode.gradcheck.judgement import MARGIN, tolerances
from refnode.gradcheck.reference import gather_reference

SHOWN = 6     # components named of those missing or too many


def report_wrong_shape(request, guarded, found):
    """FAIL, with the arrangement in which the numbers agree with the reference, if there is one."""
    said = f"shape: expected the shape of x {request.x.shape}, found {found.shape}"
    reason = _reason(request, guarded, found) if {"fd", "complex"} & set(request.methods) else None
    return GradientReport("FAIL", diagnosis=[said + (f"; {reason}" if reason else "")], size=request.x.size,
                          checks=[Check("shape", "disagree", said)], evaluations=guarded.count, settings=request.settings)


def _reason(request, guarded, found):
    reference = gather_reference(guarded, request.methods, request.size, request.settings["rtol"], request.settings["seed"])
    if not (np.isfinite(reference.value).all() and np.isfinite(found).all() and found.size and request.x.size):
        return None
    zero = np.zeros(request.x.size)
    bound = tolerances(guarded, reference, zero, request.size, request.settings["rtol"], request.settings["atol"])
    agree = np.abs(found.reshape(-1)[:, None] - reference.value) <= bound + MARGIN * reference.error    # (yours, reference)
    if found.size == request.x.size:
        return _rearranged(request, found, agree)
    if found.size < request.x.size:
        missing = _left_out(agree.T)
        return missing and f"the components {_named(request.names, missing)} are missing, the others agree"
    extra = _left_out(agree)
    return extra and f"the entries {_named(list(map(str, range(found.size))), extra)} are too many, the others agree"


def _rearranged(request, found, agree):
    """As many numbers as x has, in another shape."""
    n = found.size
    if agree[np.arange(n), np.arange(n)].all():
        return "the numbers agree once they are reshaped"
    column_major = np.arange(n).reshape(request.x.shape).ravel(order="F")
    if agree[np.arange(n), column_major].all():
        return "the numbers agree in column-major order (transposed)"
    return None


def _left_out(agree):
    """Rows of `agree` to leave out so that the others agree with the columns in their order; None if that cannot be."""
    rows, columns = agree.shape
    left_out, k = [], 0
    for i in range(rows):
        if k < columns and agree[i, k]:
            k += 1
        else:
            left_out.append(i)
    return left_out if k == columns else None


def _named(names, members):
    return ", ".join(names[i] for i in members[:SHOWN]) + (", …" if len(members) > SHOWN else "")
