"""A Jacobian, entry by entry, against finite differences of its function; one sweep of x serves all its rows."""
from dataclasses import replace

import numpy as np

from refnode.gradcheck.arguments import real_numbers, validated
from refnode.gradcheck.diagnosis import Mismatch, diagnose
from refnode.gradcheck.evaluation import GuardedFunction, UnusableFunction, gradient_scale
from refnode.gradcheck.finite_difference import (FIRST_COST, FiniteDifference, directional_derivative,
                                                 partial_derivatives)
from refnode.gradcheck.gradient_report import Check, GradientReport
from refnode.gradcheck.judgement import advice, judge_component, judge_direction, overall_verdict, tolerances
from refnode.gradcheck.reference import Reference
from refnode.gradcheck.taylor_test import random_direction

TITLE = "check_jacobian"
NOTES = 4   # entries whose trouble is told in words


def check_jacobian(fun, x, jac, *, names=None, row_names=None, rtol=1e-6, atol=0.0, seed=0, scale=None,
                   max_evals=None):
    """Compare a Jacobian with finite differences; verdicts as in `check_gradient`.

    Each row is judged by its own scale, as the gradient of that output would be. Entries are named
    "d row / d column".

    Parameters
    ----------
    fun : callable
        x -> array of any shape, flattened in row-major order to m numbers.
    x : array_like
        n numbers, of any shape.
    jac : array_like
        m × n numbers, rows in the order of the outputs.
    names, row_names : sequence of str, optional
        Of the components of x, and of the outputs; by default x[i] and fun[k].
    rtol, atol, seed, scale
        As in `check_gradient`.
    max_evals : int, optional
        Most evaluations of fun. Columns that it does not pay for, chosen at random, are covered by the derivative
        of all outputs along a random direction only.

    Returns
    -------
    GradientReport
        Its `components` are the entries compared, with the index (k, i).
    """
    request = validated(fun, x, np.zeros(np.shape(x)), names, rtol, atol, ("fd",), seed, max_evals, scale, None, None)
    try:
        guarded = _guard(request, max_evals)
        return _examine(request, guarded, _jacobian(jac, guarded, request), row_names)
    except UnusableFunction as fault:
        return GradientReport("ERROR", diagnosis=[str(fault)], size=np.size(jac), settings=request.settings, title=TITLE)


def _guard(request, max_evals):
    try:
        return GuardedFunction(request.fun, request.x, max_evals)
    except UnusableFunction:
        raise
    except Exception as fault:
        raise UnusableFunction(f"fun raised {type(fault).__name__} at x: {fault}") from fault


def _jacobian(jac, guarded, request):
    """The Jacobian under test, (m, n) and finite."""
    jac, shape = real_numbers(jac, "jac"), (guarded.value.size, request.x.size)
    if jac.size != shape[0] * shape[1]:
        raise UnusableFunction(f"jac: expected {shape[0]} × {shape[1]} numbers, found the shape {jac.shape}")
    jac = jac.reshape(shape)
    bad = np.argwhere(~np.isfinite(jac))
    if bad.size:
        raise UnusableFunction(f"jac: expected finite numbers, found {jac[tuple(bad[0])]} first at "
                               f"{tuple(map(int, bad[0]))} ({len(bad)} of {jac.size} entries)")
    return jac


def _examine(request, guarded, jac, row_names):
    m, n = jac.shape
    if not jac.size:
        return GradientReport("PASS", reference="nothing to compare: the Jacobian is empty", title=TITLE,
                              evaluations=guarded.count, settings=request.settings)
    rows = [f"fun[{','.join(map(str, index))}]" if index else "fun" for index in np.ndindex(*guarded.shape)]
    rows = rows if row_names is None else list(map(str, row_names))
    chosen = _columns(guarded, n, request.settings["seed"])
    v, slope = _along(guarded, request) if len(chosen) < n else (None, None)
    found = partial_derivatives(guarded, chosen, request.size, 1e-3 * request.settings["rtol"])
    components, value, scales = [], np.full((m, n), np.nan), np.zeros((m, n))
    for k in range(m):
        reference = _row(found, chosen, k, n)
        tolerance = tolerances(guarded, reference, jac[k], request.size, request.settings["rtol"], request.settings["atol"])
        value[k], scales[k] = reference.value, gradient_scale(np.nan_to_num(reference.value), request.size)
        components += [judge_component(reference, tolerance, jac[k], i, f"d {rows[k]} / d {request.names[i]}", (k, int(i)),
                                       guarded.failures) for i in chosen]
        if v is not None:
            judged = judge_direction(v, _of_output(slope, k), tolerance, jac[k])
            components.append(replace(judged, name=f"d {rows[k]} along v, v random"))
    return _report(request, guarded, components, _Entries(jac, value, scales, rows))


def _of_output(derivative, k):
    """The part of a `FiniteDifference` of all outputs that is about one."""
    parts = {name: part[k:k + 1] for name, part in vars(derivative).items() if name != "evaluations"}
    return FiniteDifference(**parts, evaluations=derivative.evaluations)


def _columns(guarded, n, seed):
    """The columns that can be afforded, chosen at random where not all can, with a random direction beside them."""
    if guarded.affords(n * FIRST_COST):
        return np.arange(n)
    affordable = int(guarded.remaining // FIRST_COST) - 1
    return np.sort(np.random.default_rng([seed, 2]).choice(n, max(affordable, 0), replace=False))


def _along(guarded, request):
    """A random direction, and the derivative of all outputs along it; (None, None) beyond the budget."""
    if not guarded.affords(FIRST_COST):
        return None, None
    v = random_direction(request.size, [request.settings["seed"], 1])
    return v, directional_derivative(guarded, v, request.size, 1e-3 * request.settings["rtol"])


class _Entries:
    """The matrices compared, and the names of their rows."""

    def __init__(self, yours, reference, scale, rows):
        self.yours, self.reference, self.scale, self.rows = yours, reference, scale, rows


def _row(found, chosen, k, n):
    """The `Reference` of output k."""
    value, error, gap, step = np.full(n, np.nan), np.full(n, np.inf), np.zeros(n), np.full(n, np.nan)
    for i, derivative in zip(chosen, found):
        value[i], error[i], step[i] = derivative.value[k], derivative.error[k], derivative.step[k]
        gap[i] = derivative.gap[k] if derivative.one_sided_differ[k] else 0.0
    noise = max((float(np.nan_to_num(derivative.noise[k])) for derivative in found), default=np.nan)
    compared = np.isin(np.arange(n), chosen)
    return Reference(value=value, error=error, difference=value, difference_error=np.where(compared, error, np.nan), gap=gap,
                     step=step, noise=noise, compared=compared, source="", checks=[])


def _report(request, guarded, components, entries):
    size, compared = entries.yours.size, sum(component.index is not None for component in components)
    verdict, remarks = overall_verdict(components, None, len(components))
    if compared < size:
        remarks = [f"{size - compared} of {size} entries were not compared one by one; " + (
            "they were seen through a random direction only" if len(components) > compared else "allow more evaluations")]
        verdict = "INCONCLUSIVE" if verdict == "PASS" and len(components) == compared else verdict
    worst = max((c.error / c.tolerance for c in components if c.tolerance > 0), default=0.0)
    check = Check("fd", {"PASS": "agree", "FAIL": "disagree"}.get(verdict, "inconclusive"),
                  f"finite differences of {compared} entries of {size}, worst error {worst:.1e} × tolerance")
    return GradientReport(verdict, components=components, checks=[check], size=size, title=TITLE,
                          diagnosis=remarks + _diagnosis(request, components, entries),
                          reference="finite differences of fun, the program as it runs (every branch and step it takes)",
                          evaluations=guarded.count, settings=request.settings)


def _diagnosis(request, components, entries):
    """Notes of the entries, and the known mistakes of the matrix, or of its first wrong rows."""
    notes = [component.note for component in components if component.note][:NOTES] + advice(components, request.settings)
    wrong = {component.index for component in components if component.verdict == "FAIL"} - {None}
    if not wrong or not np.isfinite(entries.reference).all():
        return notes
    m, n = entries.yours.shape
    mask = np.array([(k, i) in wrong for k in range(m) for i in range(n)])
    names = [f"d {row} / d {name}" for row in entries.rows for name in request.names]
    transposed = {"transposed, Jᵀ for J": entries.reference.T.ravel()} if m == n else {}
    return diagnose(Mismatch(entries.yours.ravel(), entries.reference.ravel(), entries.scale.ravel(), mask, names,
                             {"jac": (m, n)}, transposed)) + notes


def combined(reports, title):
    """One report of several on parts of one derivative: {label: report}; the labels lead the names.

    The verdict is the gravest, FAIL before ERROR.
    """
    found = [report.verdict for report in reports.values()]
    verdict = next((v for v in ("FAIL", "ERROR", "INCONCLUSIVE") if v in found), "PASS")
    led = lambda label, text: f"{label}: {text}" if label else text
    rename = lambda label, part: type(part)(**{**part.__dict__, "name": led(label, part.name)})
    directions = [rename(label, r.direction) for label, r in reports.items() if r.direction and r.verdict == verdict]
    first = next(iter(reports.values()))
    return GradientReport(
        verdict, components=[rename(label, part) for label, r in reports.items() for part in r.components],
        direction=directions[0] if directions else None, checks=[
            Check(check.method, check.outcome, led(label, check.summary), check.data)
            for label, r in reports.items() for check in r.checks],
        diagnosis=[led(label, line) for label, r in reports.items() for line in r.diagnosis],
        reference=first.reference, size=sum(r.size for r in reports.values()),
        evaluations=sum(r.evaluations for r in reports.values()), settings=first.settings, title=title)
