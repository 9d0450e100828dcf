"""`check_gradient`: is this the gradient of that function? PASS, FAIL, INCONCLUSIVE or ERROR."""
from dataclasses import asdict

import numpy as np

from refnode.gradcheck.arguments import real_numbers, validated
from refnode.gradcheck.diagnosis import Mismatch, diagnose
from refnode.gradcheck.evaluation import GuardedFunction, UnusableFunction, gradient_scale, require_scalar
from refnode.gradcheck.finite_difference import FIRST_COST, directional_derivative
from refnode.gradcheck.gradient_report import Check, GradientReport
from refnode.gradcheck.judgement import advice, judge_component, judge_direction, overall_verdict, tolerances
from refnode.gradcheck.reference import gather_reference
from refnode.gradcheck.taylor_test import COST as TAYLOR_COST
from refnode.gradcheck.taylor_test import random_direction, taylor_remainders
from refnode.gradcheck.wrong_shape import report_wrong_shape


NOTES = 4   # components whose trouble is told in words


class _UnusableGradient(Exception):
    """The gradient under test cannot be compared at all."""


def check_gradient(fun, x, grad, *, names=None, rtol=1e-6, atol=0.0, methods=("fd", "taylor", "dot"), seed=0,
                   max_evals=None, scale=None, shapes=None, candidates=None):
    """Compare a gradient with independent evidence and say which of four things holds.

    PASS          |yours − reference| ≤ rtol·scale + atol + uncertainty in every component, and the uncertainty of
                  the reference is below rtol·scale + atol.
    FAIL          |yours − reference| > rtol·scale + atol + 10·uncertainty in some component, or another shape than x.
    INCONCLUSIVE  neither: the reference is not certain enough for the tolerance asked, or fun is not smooth
                  at x (the one-sided derivatives differ), or not all components could be covered.
    ERROR         fun or grad raised, or returned what is no number or not finite; fun returned an array.

    The scale of a component is the largest of the reference gradient (`gradient_scale`), so that a component
    whose true value is zero is judged by the others. A gradient that is zero to rounding is judged by
    1e-12 max|fun|/|xᵢ|.

    Parameters
    ----------
    fun : callable
        x -> number. Handed a fresh float64 array of the shape of x at each call.
    x : array_like
        The point; any shape, real.
    grad : array_like or callable
        The gradient at x, of the shape of x, or a function x -> gradient.
    names : sequence of str, optional
        One for each component in row-major order; by default x[0], x[1], …
    rtol, atol : float
        Tolerance asked.
    methods : sequence
        "fd": extrapolated finite differences of each component.
        "complex": complex step of each component (fun must accept complex arrays).
        "dot": ⟨grad, v⟩ against the derivative along a random direction v, which sees all components at once.
        "taylor": remainder rates along another direction; evidence that never decides.
    seed : int
        Of the random directions, and of the choice of components under `max_evals`.
    max_evals : int, optional
        Most evaluations of fun. Components that it does not pay for are covered by the random direction only.
    scale : float or array_like, optional
        Lengths over which fun varies, for the steps; by default |xᵢ| (`typical_size`).
    shapes : dict of str to tuple, optional
        Blocks of x in order, such as {"W": (2, 3), "b": (2,)}, for the diagnosis and the default names.
    candidates : dict of str to array_like, optional
        Gradients with a known mistake, such as {"without interior jumps": g}: recognised if yours equals one.

    Returns
    -------
    GradientReport

    Raises
    ------
    InvalidInputError, InvalidTypeError
        An argument is not what it should be. (What fun and grad do is reported, not raised.)
    """
    request = validated(fun, x, grad, names, rtol, atol, methods, seed, max_evals, scale, shapes, candidates)
    try:
        guarded = _guard(request, max_evals)
        yours = _gradient(request)
        if yours.shape != request.x.shape:
            return report_wrong_shape(request, guarded, yours)
        return _examine(request, guarded, _finite(request, yours))
    except (UnusableFunction, _UnusableGradient) as fault:
        return GradientReport("ERROR", diagnosis=[str(fault)], size=request.x.size, settings=request.settings)


def _guard(request, max_evals):
    try:
        guarded = GuardedFunction(request.fun, request.x, max_evals)
    except UnusableFunction:
        raise
    except Exception as fault:
        raise UnusableFunction(f"fun raised {type(fault).__name__} at x: {fault}") from fault
    require_scalar(guarded)
    return guarded


def _gradient(request):
    """The gradient under test."""
    grad = request.grad
    if callable(grad):
        try:
            grad = real_numbers(grad(request.x.copy()), "grad(x)")
        except Exception as fault:
            raise _UnusableGradient(f"grad raised {type(fault).__name__} at x: {fault}") from fault
    return grad


def _finite(request, grad):
    """The gradient, flat; what is not finite is refused."""
    bad = np.flatnonzero(~np.isfinite(grad))
    if bad.size:
        raise _UnusableGradient(f"grad: expected finite numbers, found {grad.reshape(-1)[bad[0]]} first in "
                                f"{request.names[bad[0]]} ({bad.size} of {grad.size} components)")
    return grad.reshape(-1)


def _examine(request, guarded, yours):
    if request.x.size == 0:
        return GradientReport("PASS", reference="nothing to compare: x is empty", evaluations=guarded.count,
                              settings=request.settings)
    settings = request.settings
    slope = _slope_along_direction(request, guarded)
    taylor = _taylor(request, guarded, yours)
    reference = gather_reference(guarded, request.methods, request.size, settings["rtol"], settings["seed"])
    tolerance = tolerances(guarded, reference, yours, request.size, settings["rtol"], settings["atol"])
    components = [judge_component(reference, tolerance, yours, i, request.names[i],
                                  tuple(map(int, np.unravel_index(i, request.x.shape))), guarded.failures)
                  for i in np.flatnonzero(reference.compared)]
    direction = judge_direction(*slope, tolerance, yours) if slope else None
    verdict, remarks = overall_verdict(components, direction, request.x.size)
    return GradientReport(verdict, components=components, direction=direction,
                          checks=_evidence(request, reference, components, direction, taylor, yours),
                          diagnosis=remarks + _diagnosis(request, reference, tolerance, components, yours),
                          reference=reference.source if components else "the slope of fun along a random direction",
                          size=request.x.size, evaluations=guarded.count, settings=settings)


def _slope_along_direction(request, guarded):
    """(v, slope of fun along v), or None."""
    if "dot" not in request.methods or not guarded.affords(FIRST_COST):
        return None
    v = random_direction(request.size, [request.settings["seed"], 1])
    return v, directional_derivative(guarded, v, request.size, 1e-3 * request.settings["rtol"])


def _taylor(request, guarded, yours):
    if "taylor" not in request.methods or not guarded.affords(TAYLOR_COST):
        return None
    v = random_direction(request.size, request.settings["seed"])
    return taylor_remainders(guarded, yours, v, request.size)


# --- what is said ---------------------------------------------------------------------------------

def _evidence(request, reference, components, direction, taylor, yours):
    checks = []
    if "fd" in request.methods:
        checks.append(_difference_check(reference, components))
    checks += reference.checks
    if taylor is not None:
        checks.append(_taylor_check(taylor))
    if direction is not None:
        checks.append(_direction_check(direction))
    if len(components) > 1:
        checks.append(_cosine_check(reference, yours))
    return checks


def _difference_check(reference, components):
    worst = max((c.error / c.tolerance for c in components if c.tolerance > 0), default=0.0)
    verdicts = {c.verdict for c in components}
    agreed = "disagree" if "FAIL" in verdicts else "agree" if verdicts == {"PASS"} else "inconclusive"
    return Check("fd", agreed, f"finite differences of {len(components)} components {agreed}, worst error "
                 f"{worst:.1e} × tolerance",
                 {"value": reference.difference, "error": reference.difference_error, "noise": reference.noise})


def _taylor_check(taylor):
    outcome = {True: "agree", False: "disagree", None: "inconclusive"}[taylor.passed]
    shown = " ".join(f"{rate:.2f}" for rate in taylor.rates[np.isfinite(taylor.rates)][-4:]) or "none above rounding"
    return Check("taylor", outcome, f"Taylor rates, yours {shown} (correct: 2.00)", asdict(taylor))


def _direction_check(direction):
    outcome = {"PASS": "agree", "FAIL": "disagree"}.get(direction.verdict, "inconclusive")
    return Check("dot", outcome, f"random direction: yours {direction.yours:+.6e}, reference "
                 f"{direction.reference:+.6e} ({direction.uncertainty:.0e}) {outcome}", asdict(direction))


def _cosine_check(reference, yours):
    known = reference.compared & np.isfinite(reference.value)
    a, b = _normalised(yours[known]), _normalised(reference.value[known])
    cosine = float(a @ b)
    return Check("cosine", "evidence", f"cos(yours, reference) = {cosine:+.3f}", {"cosine": cosine})


def _normalised(vector):
    """The vector over its length, through its largest entry so that nothing overflows; zero stays zero."""
    largest = np.abs(vector).max(initial=0.0)
    if largest == 0.0:
        return vector
    return vector / largest / np.linalg.norm(vector / largest)


def _diagnosis(request, reference, tolerance, components, yours):
    """Notes of the components, and the known mistakes where all components are there to be compared."""
    notes = [component.note for component in components if component.note][:NOTES]
    notes += advice(components, request.settings)
    wrong = np.array([component.verdict == "FAIL" for component in components])
    if not wrong.any():
        return notes
    if len(components) < request.x.size or not np.isfinite(reference.value).all():
        return notes + ["the mistake cannot be named: not all components were compared"]
    known = diagnose(Mismatch(yours, reference.value, gradient_scale(reference.value, request.size), wrong,
                              request.names, request.shapes, request.candidates))
    return known + notes
