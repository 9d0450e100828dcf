"""A problem with its reference, what is asked of an answer, and the judgement of one."""
import functools
import math
from dataclasses import dataclass, replace

import numpy as np

from refnode.conformance.claims import of_a_claim
from refnode.conformance.evidence_of_failure import difference_evidence, differences_of, other_evidence
from refnode.conformance.ode_answer import read_answer
from refnode.conformance.ode_candidates import Suspects
from refnode.conformance.ode_diagnosis import MISTAKES, Finding, all_singles, diagnose_by_value, finding, norm_at_zero
from refnode.conformance.ode_reference import Inputs
from refnode.conformance.ode_report import OdeReport
from refnode.conformance.score import block_units, level_of, scaled_error, tolerance_floor
from refnode.errors import ProblemFileError
from refnode.gradcheck.gradient_report import Check, Judgement
from refnode.gradcheck.judgement import MARGIN, judge
from refnode.problems.problem import Problem

QUANTITIES = ("y", "loss", "grad_y0", "grad_theta", "grad_t")
SHOWN_DIFFERENCES = 3            # components of a failure that are confirmed by finite differences
GRAVITY = ("ERROR", "FAIL", "INCONCLUSIVE", "PASS")


@dataclass(frozen=True)
class Judged:
    """An answer and what was found: its verdict, every number's `Judgement`, E and q."""

    answer: object
    level: object
    components: list
    verdict: str
    error: float
    score: float
    notes: list
    wrong: np.ndarray
    state_right: bool


@dataclass(frozen=True)
class Comparison:
    """What a diagnosis looks at; see `diagnose_by_value`."""

    problem: Problem
    reference: object
    inputs: Inputs
    rhs: dict
    yours: np.ndarray
    units: np.ndarray
    wrong: np.ndarray
    state_right: bool
    suspects: Suspects


@dataclass(frozen=True)
class Case:
    """A problem with its reference, and what is asked."""

    problem: Problem
    reference: object
    data: dict
    sha256: str | None
    kappa: float | None
    quantities: tuple = QUANTITIES
    truth: str = "auto"
    rtol: float | None = None

    @property
    def inputs(self):
        return Inputs.of(self.problem)

    @functools.cached_property
    def suspects(self):
        """Known mistakes on this problem, kept from one diagnosis to the next."""
        return Suspects(self.problem, self.reference, self.data["rhs"])

    @functools.cached_property
    def _differences(self):
        """Finite differences made so far: index -> (value, error)."""
        return {}

    @property
    def units(self):
        inputs = self.inputs
        return block_units(self.reference.gradient, inputs.size, inputs.unit_blocks(), self.reference.loss_size)

    def judged(self, data, tolerance=None, atol=None):
        """An answer as data, judged: a `Judged`."""
        inputs, reference = self.inputs, self.reference
        if isinstance(data, dict) and self.sha256 and data.get("problem_sha256") not in (None, self.sha256):
            raise ProblemFileError(f"the answer is one to another problem: its problem_sha256 is {data['problem_sha256']}, "
                                   f"that of {self.problem.name} is {self.sha256}")
        answer = read_answer(data, self.problem, inputs, self.quantities)
        level = level_of(self.rtol, self.kappa, answer.rtol if tolerance is None else tolerance,
                         answer.atol if atol is None else atol)
        components = self._state(answer, level) + self._loss(answer, level)
        gradient, wrong = self._gradient(answer, level)
        components = components + gradient
        present = ~np.isnan(answer.gradient)
        yours = np.where(present, answer.gradient, reference.gradient)
        error = scaled_error(yours, reference.gradient, self.units, inputs.unit_blocks()) if present.any() else math.nan
        verdict, notes = _overall(answer, level, components)
        state_right = all(c.verdict != "FAIL" for c in components if c.name.startswith(("y[", "loss")))
        return Judged(answer, level, components, verdict, error, level.score(error), notes, wrong, state_right)

    def _state(self, answer, level):
        """The worst observed state of each row: K numbers a state would hide the gradient."""
        if answer.y is None:
            return []
        reference, found = self.reference, []
        names = self.problem.field.state_names or [""] * self.problem.y0.size
        scale = np.max(np.abs(reference.y), axis=1, initial=0.0)
        whole = np.max(scale, initial=0.0)
        for i, row in enumerate(np.abs(answer.y - reference.y)):
            k = int(np.argmax(row))
            unit = max(scale[i], 1e-3 * whole)
            excused = max(level.accepted * unit, level.atol)
            label = f"y[{i}] {names[i]}".rstrip() + f" at t={self.problem.ts[k]:g}"
            found.append(judgement(label, (i, k), answer.y[i, k], reference.y[i, k], reference.y_uncertainty[i, k], excused,
                                   max(level.refused * unit, level.atol)))
        return found

    def _loss(self, answer, level):
        if answer.loss is None:
            return []
        size, reference = self.reference.loss_size, self.reference
        excused = level.atol * self.reference.cotangent_size
        return [judgement("loss", (), answer.loss, reference.loss, reference.loss_uncertainty,
                          max(level.accepted * size, excused), max(level.refused * size, excused))]

    def _gradient(self, answer, level):
        inputs, reference, units = self.inputs, self.reference, self.units
        floor = tolerance_floor(inputs.size, inputs.n, self.problem.theta.size, reference.cotangent_size, reference.state_size, level.atol)
        if self.rtol is not None and answer.atol is None:
            floor = 0.0 * floor
        found, wrong = [], np.zeros(units.size, dtype=bool)
        for i in np.flatnonzero(~np.isnan(answer.gradient)):
            limited = floor[i] > level.accepted * units[i]
            c = judgement(inputs.names[i], (int(i),), answer.gradient[i], reference.gradient[i], reference.uncertainty[i],
                          level.accepted * units[i], max(level.refused * units[i], floor[i] if limited else 0.0))
            limited = limited and c.verdict == "INCONCLUSIVE" and c.error <= floor[i]
            if limited:
                c = replace(c, note=f"tolerance-limited: absolute tolerances of {level.atol:g} leave an error of {floor[i]:.0e} "
                                    "in anybody's gradient here")
            found.append(c)
            wrong[i] = not limited and c.error > level.accepted * units[i] + MARGIN * reference.uncertainty[i]
        return found, wrong

    def comparison(self, judged):
        return Comparison(self.problem, self.reference, self.inputs, self.data["rhs"], judged.answer.gradient, self.units,
                          judged.wrong, judged.state_right, self.suspects)

    # --- from what was found to a report ---

    def report(self, judged, diagnose, checks=(), findings=None, verdict=None, notes=(), truth=None):
        verdict, claimed = of_a_claim(self, judged, verdict or judged.verdict)
        components, checks, notes = judged.components, list(checks), [*notes, *claimed]
        if verdict == "FAIL":
            components, evidence = self._confirmed(components, judged.answer.gradient)
            checks = evidence + checks
        if findings is None:
            findings = self.diagnosed(judged) if diagnose and verdict in ("FAIL", "INCONCLUSIVE") else []
            if verdict == "INCONCLUSIVE" and named_beyond_doubt(findings, judged):
                verdict, notes = "FAIL", [*notes, "an error of this size would be excused, but a known mistake explains it"]
        truth = truth or ("exact" if verdict == "PASS" else "none")
        level = judged.level
        settings = {"rtol": self.rtol, "tolerance": level.tolerance, "atol": level.atol, "kappa": level.kappa,
                    "accepted": level.accepted, "refused": level.refused, "reason": level.reason, "seed": 0}
        return OdeReport(verdict, self.problem.name, judged.answer.tool, components, _unique(checks), list(findings), truth,
                         judged.error, judged.score, self.reference.source, [*judged.notes, *notes], settings)

    def diagnosed(self, judged):
        """Findings on a gradient that is off, or on an answer of a wrong shape."""
        faults = [finding(key, text) if key in MISTAKES else Finding(key, text) for key, text in judged.answer.faults]
        if any(f.key == "first_nan" for f in faults):
            faults += norm_at_zero(self.comparison(judged))
        if not faults and not judged.wrong.any() and judged.verdict == "INCONCLUSIVE":
            return all_singles(judged.answer.gradient)
        if faults or not judged.wrong.any():
            return faults + ([] if judged.state_right or faults else [Finding(
                None, "y or the loss is wrong, so that the gradient belongs to another problem: compare f, y0, the times and "
                "the loss before the gradient.")])
        found = diagnose_by_value(self.comparison(judged))
        if not judged.state_right and not any(f.residual is not None for f in found):
            found = [Finding(None, "y or the loss is wrong as well: compare f, y0, the times and the loss first."), *found]
        return found

    def _confirmed(self, components, yours):
        """The worst components with finite differences beside them, and what that and other evidence says."""
        ranked = sorted((c for c in components if c.verdict == "FAIL" and len(c.index) == 1), key=lambda c: -c.ratio)
        members = np.array([c.index[0] for c in ranked[:SHOWN_DIFFERENCES]], dtype=int)
        found = differences_of(self.problem, members, self._differences) if members.size else None
        if found is None:
            return components, []
        known = dict(zip(members.tolist(), found.T.tolist()))
        shown = [replace(c, finite_difference=known[c.index[0]][0], finite_difference_error=known[c.index[0]][1])
                 if len(c.index) == 1 and c.index[0] in known else c for c in components]
        return shown, [difference_evidence(self, members, *found), *other_evidence(self, yours)]


def judgement(name, index, yours, reference, uncertainty, accepted, refused):
    """PASS within `accepted`, FAIL beyond `refused`, of which the reference's own uncertainty is allowed for."""
    yours, reference, uncertainty = float(yours), float(reference), float(uncertainty)
    error, verdict = abs(yours - reference), judge(yours, reference, uncertainty, accepted)
    note = ""
    if verdict == "FAIL" and error <= refused + MARGIN * uncertainty:
        verdict, note = "INCONCLUSIVE", "within what a healthy program may err on this problem at its tolerance"
    elif verdict == "INCONCLUSIVE":
        note = f"the reference of {name} is uncertain by {uncertainty:.1e}, the tolerance is {accepted:.1e}"
    return Judgement(name, index, yours, reference, uncertainty, math.nan, math.nan, error, float(accepted),
                     float(accepted + MARGIN * uncertainty), verdict, note)


def _overall(answer, level, components):
    """(verdict, notes) of one answer."""
    if answer.error is not None:
        return "ERROR", [f"the program says: {answer.error}"]
    if answer.faults:
        return "FAIL", [text for _, text in answer.faults]
    if not any(len(c.index) == 1 for c in components):
        return ("ERROR", ["the answer holds no derivative: nothing to judge"]) if not components else (
            min((c.verdict for c in components), key=GRAVITY.index), ["no derivative was compared"])
    verdict = min((c.verdict for c in components), key=GRAVITY.index)
    limited = sorted({c.note for c in components if c.note.startswith("tolerance-limited")})
    if limited and verdict == "INCONCLUSIVE":
        return verdict, limited[:2]
    if not level.testable:
        return "INCONCLUSIVE", [f"not testable at tolerance {level.tolerance:g}: the condition number of the gradient is "
                                f"{level.kappa:.2g}; solve more tightly"]
    notes = sorted({c.note for c in components if c.verdict == verdict and c.note}) if verdict == "INCONCLUSIVE" else []
    absent = [what for what in answer.absent if what in ("grad y0", "grad theta")]
    return verdict, notes[:2] + ([f"not in the answer: {', '.join(absent)}"] if absent else [])


def named_beyond_doubt(findings, judged):
    """Whether a mistake explains an error far better than chance: a value that equals a wrong gradient."""
    best = findings[0] if findings else None
    return (best is not None and best.key not in (None, "single_precision") and best.residual is not None
            and best.residual <= 1e-3 * judged.error and judged.error > 10 * judged.level.accepted)


def _unique(checks):
    return list({check.summary: check for check in checks}.values())
