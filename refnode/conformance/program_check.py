"""A program judged: its answers at several tolerances, and on problems whose answers follow from this one's."""
import math

import numpy as np

from refnode.conformance.behaviour import TOLERANCES, Sweep, diagnose_by_behaviour
from refnode.conformance.metamorphic import TRANSFORMATIONS
from refnode.conformance.ode_case import named_beyond_doubt
from refnode.conformance.ode_diagnosis import MISTAKES, finding
from refnode.conformance.score import FAIL_SCORE
from refnode.gradcheck.gradient_report import Check

JUDGED_AT = 1e-9                 # tolerance at which the answers of a program are judged: nothing separates at 1e-3
BUILT_IN = 1e-2                  # a loss farther off than this part shows that a program did not read the problem


def check_program(case, program, diagnose, executor):
    """The answers of a program at several tolerances and on transformed problems, judged together."""
    unit = min(1.0, case.reference.state_size)
    answers = _called(program, [(case.data, t, t * unit) for t in TOLERANCES], executor)
    judged = [case.judged(a, t, t * unit) for a, t in zip(answers, TOLERANCES)]
    base = judged[TOLERANCES.index(JUDGED_AT)]
    if base.verdict == "ERROR":
        return case.report(base, diagnose)
    sweep = sweep_of(case, judged)
    checks = [Check("convergence", sweep.kind, sweep.summary(), {"tolerances": TOLERANCES, "errors": sweep.errors})]
    verdict, notes = base.verdict, []
    if sweep.flat_and_wrong and verdict != "FAIL":
        verdict = "FAIL" if sweep.excess > FAIL_SCORE else "INCONCLUSIVE"
        notes = ["the error of the gradient no longer falls with the tolerance, while that of y does: at "
                 f"{sweep.tolerances[-1]:g} it is {sweep.excess:.0e} kappa tol"]
    if verdict == "PASS":
        return _transformed(case, program, base, checks, diagnose, executor, sweep)
    findings = _findings_of_program(case, base, sweep) if diagnose else []
    if verdict == "INCONCLUSIVE" and (named_beyond_doubt(findings, base) or (
            sweep.kind in ("independent", "grows") and base.state_right and sweep.errors[-1] > 10 * base.level.accepted)):
        verdict = "FAIL"
    return case.report(base, diagnose, checks, findings, verdict, notes, truth_of(sweep, verdict))


def _findings_of_program(case, base, sweep):
    """Values first: a gradient that equals a wrong one. Then the behaviour, which knows what values cannot."""
    by_value = case.diagnosed(base)
    limited = base.verdict == "INCONCLUSIVE" and not base.wrong.any()           # by absolute tolerances: nobody is to blame
    if limited or base.answer.faults or by_value and by_value[0].residual is not None:
        return by_value
    times = by_value and not base.wrong[:case.inputs.blocks["grad_theta"].stop].any() and base.wrong.any()
    by_behaviour = [] if times else diagnose_by_behaviour(sweep, case.comparison(base))
    kept = {f.key for f in by_behaviour if f.key}
    remarks = [f for f in by_value if f.key not in kept | {"error_independent_of_tolerance"}]
    return by_behaviour + remarks if by_behaviour else by_value


def truth_of(sweep, verdict):
    """Which of the three derivatives a program's behaviour shows."""
    if sweep.kind in ("proportional", "exact", "slow") and verdict != "FAIL":
        return "exact"
    return "through" if sweep.kind == "grows" else "none"


def sweep_of(case, judged):
    """The `Sweep` of answers at `TOLERANCES`."""
    inputs, units, reference = case.inputs, case.units, case.reference
    blocks = inputs.blocks

    def error(item, members):
        yours = item.answer.gradient[members]
        known = ~np.isnan(yours)
        if not known.any():
            return math.inf
        return float(np.linalg.norm((yours - reference.gradient[members])[known] / units[members][known]))

    core = slice(0, blocks["grad_theta"].stop)
    return Sweep(TOLERANCES, np.array([error(j, core) for j in judged]),
                 np.array([error(j, blocks["grad_y0"]) for j in judged]),
                 np.array([error(j, blocks["grad_theta"]) for j in judged]),
                 np.array([_state_error(case, j) for j in judged]), judged[0].level.kappa)


def _state_error(case, judged):
    """The largest relative error of y, else of the loss, else 0."""
    answer, reference = judged.answer, case.reference
    if answer.y is not None:
        return float(np.max(np.abs(answer.y - reference.y), initial=0.0) / reference.state_size)
    return abs(answer.loss - reference.loss) / (reference.loss_size or 1.0) if answer.loss is not None else 0.0


def _called(program, calls, executor):
    """The answers of a program; one that raises becomes an answer with an error."""
    if executor is None:
        return [_call(program, *call) for call in calls]
    futures = [executor.submit(_call, program, *call) for call in calls]
    return [future.result() for future in futures]


def _call(program, data, rtol, atol):
    try:
        return program(data, rtol, atol)
    except Exception as fault:
        return {"error": f"{type(fault).__name__}: {fault}".splitlines()[0]}


def _transformed(case, program, base, checks, diagnose, executor, sweep):
    """The report of a program that is right on the problem itself: on the transformed ones, too?"""
    inputs, right = case.inputs, case.reference
    gradient = {"y0": right.gradient[inputs.blocks["grad_y0"]], "theta": right.gradient[inputs.blocks["grad_theta"]]}
    variants = [(t, t.apply(_without_hash(case.data), gradient, right.loss)) for t in TRANSFORMATIONS]
    variants = [(t, v) for t, v in variants if v is not None]
    unit = min(1.0, right.state_size)
    answers = _called(program, [(v[0], JUDGED_AT, JUDGED_AT * unit) for _, v in variants], executor)
    failed, findings = [], []
    for (test, (_, expected, loss)), answer in zip(variants, answers):
        error, refused = _transformed_error(case, expected, loss, answer)
        outcome = _outcome(error, base.level)
        checks.append(Check("metamorphic", outcome, f"{test.name} {outcome if outcome != 'agree' else f'{error:.0e}'}",
                            {"test": test.name, "error": error, "message": refused}))
        if outcome in ("disagree", "degraded"):
            failed.append((outcome, test.name))
            findings.append(finding(test.shows, f"right here, but wrong (E = {error:.1e}) on the same problem with "
                                    f"{test.name}: {MISTAKES[test.shows].title}."))
    if not failed:
        return case.report(base, diagnose, checks, [], truth=truth_of(sweep, "PASS"))
    notes = [f"right on the problem itself, {how} on: {', '.join(name for found, name in failed if found == outcome)}"
             for outcome, how in (("disagree", "wrong"), ("degraded", "less accurate than a healthy program"))
             if any(found == outcome for found, _ in failed)]
    verdict = "FAIL" if any(found == "disagree" for found, _ in failed) else "INCONCLUSIVE"
    return case.report(base, diagnose, checks, findings if diagnose else [], verdict, notes)


def _outcome(error, level):
    """As the problem itself is judged: within what its tolerance allows, beyond what any healthy program may err, or between."""
    if math.isnan(error):
        return "not supported"
    return "agree" if error <= max(level.accepted, 1e-6) else "degraded" if error <= max(level.refused, 1e-6) else "disagree"


def _without_hash(data):
    return {key: value for key, value in data.items() if key != "sha256"}


def _transformed_error(case, expected, loss, answer):
    """E of an answer to a transformed problem, in the units of the problem itself; NaN where it was not answered.

    A program with its own right-hand side or loss built in solves another problem than it is handed: its loss says so.
    """
    gradient = answer.get("grad") or {} if isinstance(answer, dict) else {}
    if not gradient or answer.get("error"):
        return math.nan, str(answer.get("error") if isinstance(answer, dict) else "no answer")
    inputs, largest, reference = case.inputs, 0.0, case.reference
    size = reference.loss_size * abs(loss) / (abs(reference.loss) or 1.0)
    if answer.get("loss") is not None and abs(float(answer["loss"]) - loss) > BUILT_IN * size:
        return math.nan, "its loss is that of another problem"
    for key, block in (("y0", "grad_y0"), ("theta", "grad_theta")):
        members, right = inputs.blocks[block], expected[key]
        if gradient.get(key) is None or not right.size:
            continue
        yours = np.array(gradient[key], dtype=float).ravel()[:right.size]
        size = np.linalg.norm(right * inputs.size[members])
        base = np.linalg.norm(case.reference.gradient[members] * inputs.size[members])
        units = case.units[members] * (size / base if base > 0 else 1.0)
        error = np.linalg.norm((yours - right) / units) if yours.shape == right.shape else math.inf
        largest = max(largest, float(error) if np.isfinite(error) else math.inf)
    return largest, ""
