"""What is shown beside a FAIL: finite differences, Taylor rates and the angle between yours and the reference."""
from dataclasses import asdict

import numpy as np

from refnode.conformance.ode_reference import differences, loss_of
from refnode.errors import RefnodeError
from refnode.evidence.row import input_vector
from refnode.gradcheck.gradient_report import Check
from refnode.gradcheck.judgement import MARGIN
from refnode.gradcheck.taylor_test import taylor_test

SHOWN_RATES = 4


def differences_of(problem, members, known):
    """Finite differences of the loss in some inputs, and their errors; `known` keeps them. None if a solve fails."""
    missing = np.array([i for i in members if int(i) not in known], dtype=int)
    if missing.size:
        try:
            value, error = differences(problem, missing)
        except (RefnodeError, ArithmeticError):
            return None
        known.update({int(i): (float(v), float(e)) for i, v, e in zip(missing, value, error)})
    return np.transpose([known[int(i)] for i in members])


def difference_evidence(case, members, value, error):
    """Whether finite differences confirm the reference."""
    reference, units = case.reference.gradient[members], case.units[members]
    gap = float(np.max(np.abs(value - reference) / units))
    agree = (np.abs(value - reference) <= MARGIN * (error + case.reference.uncertainty[members]) + 1e-6 * units).all()
    return Check("fd", "agree" if agree else "disagree",
                 f"reference vs finite differences {gap:.1e} {'agree' if agree else 'DISAGREE'}", {"gap": gap})


def other_evidence(case, yours):
    """Taylor rates of your gradient over (y0, theta), where it is whole, and its cosine to the reference."""
    core = slice(0, case.inputs.blocks["grad_theta"].stop)
    g, size = yours[core], case.inputs.size[core]
    if np.isnan(g).any() or g.size < 2:
        return []
    return [*_taylor(case, g, size), _cosine(size * g, size * case.reference.gradient[core])]


def _taylor(case, gradient, size):
    x, loss = input_vector(case.problem), loss_of(case.problem)

    def part(values):
        return loss(np.append(values, x[gradient.size:]))

    try:
        found = taylor_test(part, x[:gradient.size], gradient, scale=size)
    except (RefnodeError, ArithmeticError):
        return []
    shown = " ".join(f"{rate:.2f}" for rate in found.rates[np.isfinite(found.rates)][-SHOWN_RATES:]) or "none above rounding"
    outcome = {True: "agree", False: "disagree", None: "inconclusive"}[found.passed]
    return [Check("taylor", outcome, f"Taylor rates, yours {shown} (correct: 2.00)", asdict(found))]


def _cosine(yours, right):
    """In units of the inputs, and by largest entries, so that nothing overflows."""
    a, b = (v / (np.max(np.abs(v)) or 1.0) for v in (yours, right))
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    cosine = float(a @ b) / length if length > 0 else 0.0
    return Check("cosine", "evidence", f"cos(yours, reference) = {cosine:+.3f}", {"cosine": cosine})
