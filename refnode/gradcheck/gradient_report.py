"""The report of a gradient check, for people (text, Markdown) and for programs (dict)."""
import math
import platform
from dataclasses import asdict, dataclass, field

import numpy as np

from refnode.errors import GradientMismatch
from refnode.gradcheck.report_formats import ROWS, to_html, to_junit, to_markdown
from refnode.gradcheck.report_view import jsonable

TITLE = "check_gradient"
FACTS = ("bound", "reference", "reproduce")   # lines under the table that are neither evidence nor diagnosis


@dataclass(frozen=True)
class Judgement:
    """One number of yours against its reference.

    Attributes
    ----------
    name : str
    index : tuple of int, or None for a directional derivative
    yours, reference : float
    uncertainty : float
        Estimated error of the reference.
    finite_difference, finite_difference_error : float
        NaN where finite differences were not asked for.
    error : float
        |yours − reference|.
    tolerance : float
        rtol × scale + atol.
    bound : float
        tolerance + margin × uncertainty; FAIL beyond.
    verdict : str
    note : str
        Why, where it is not evident from the numbers.
    """

    name: str
    index: tuple | None
    yours: float
    reference: float
    uncertainty: float
    finite_difference: float
    finite_difference_error: float
    error: float
    tolerance: float
    bound: float
    verdict: str
    note: str = ""

    @property
    def ratio(self):
        """error / bound; inf for a positive error against a bound of zero."""
        if self.bound > 0:
            return self.error / self.bound
        return math.inf if self.error > 0 else 0.0


@dataclass(frozen=True)
class Check:
    """One piece of evidence: the method, whether it agrees with yours, a line of text and the numbers."""

    method: str
    outcome: str
    summary: str
    data: dict = field(default_factory=dict)


@dataclass(frozen=True)
class GradientReport:
    """What `check_gradient` found. True in a boolean context only for the verdict PASS.

    Attributes
    ----------
    verdict : {"PASS", "FAIL", "INCONCLUSIVE", "ERROR"}
    components : list of Judgement
        Those that were compared, in the order of x.
    direction : Judgement or None
        The derivative along a random direction.
    checks : list of Check
    diagnosis : list of str
    reference : str
        Where the reference comes from and which derivative it is.
    size : int
        Number of components of x.
    evaluations : int
        Calls of fun.
    settings : dict
        Everything needed to repeat the check.
    title : str
        What was checked, where it is more than a gradient.
    """

    verdict: str
    components: list = field(default_factory=list)
    direction: Judgement | None = None
    checks: list = field(default_factory=list)
    diagnosis: list = field(default_factory=list)
    reference: str = ""
    size: int = 0
    evaluations: int = 0
    settings: dict = field(default_factory=dict)
    title: str = TITLE

    def __bool__(self):
        return self.verdict == "PASS"

    def __str__(self):
        return self.to_text()

    @property
    def worst(self):
        """The judgement that decided: the largest error/bound among those of the gravest verdict, or None."""
        ranked = self.ranked() or ([self.direction] if self.direction else [])
        failed_along_direction = self.direction and self.direction.verdict == "FAIL" == self.verdict
        if failed_along_direction and not (ranked and ranked[0].verdict == "FAIL"):
            return self.direction
        return ranked[0] if ranked else None

    def ranked(self):
        """The components, gravest verdict and largest error/bound first."""
        gravity = ("FAIL", "ERROR", "INCONCLUSIVE", "PASS")
        return sorted(self.components, key=lambda c: (gravity.index(c.verdict), -_rankable(c.ratio)))

    def _rows(self):
        """What the table shows: the components, led by the random direction where that decided."""
        return [self.direction, *self.ranked()] if self.direction and self.worst is self.direction else self.ranked()

    def to_text(self, rows=ROWS):
        """The report as plain text, with at most `rows` components."""
        lines = [self._headline()]
        lines += _table(self._rows(), rows)
        lines += [f"  {key:<12}{text}" for key, text in self._explanations()]
        return "\n".join(lines)

    def to_markdown(self, rows=ROWS):
        """The report as Markdown."""
        return to_markdown(self, rows=rows)

    def to_html(self):
        """The report as one page that loads nothing, with its pictures inside."""
        return to_html(self, "refnode.check_gradient")

    def to_junit(self):
        """The report as JUnit XML with one test case; INCONCLUSIVE is a skipped test."""
        return to_junit(self, "refnode.check_gradient")

    def to_dict(self):
        """The report as numbers, strings, lists and dicts; non-finite numbers as strings."""
        return jsonable({"format": "refnode.gradient_report", "version": 1, "verdict": self.verdict,
                         "title": "Gradient check" if self.title == TITLE else self.title,
                         "summary": self._summary(), "reference": self.reference,
                         "size": self.size, "evaluations": self.evaluations,
                         "components": [asdict(c) for c in self.components],
                         "direction": asdict(self.direction) if self.direction else None,
                         "worst": asdict(self.worst) if self.worst else None,
                         "checks": [asdict(c) for c in self.checks], "diagnosis": list(self.diagnosis),
                         "facts": {key: text for key, text in self._explanations() if key in FACTS},
                         "settings": self.settings})

    def raise_for_verdict(self, *, allow_inconclusive=False):
        """Raise unless the verdict is PASS (or INCONCLUSIVE, where that is allowed).

        Raises
        ------
        GradientMismatch
            With this report as its `report`.
        """
        if not (self or (allow_inconclusive and self.verdict == "INCONCLUSIVE")):
            raise GradientMismatch(self.to_text(), report=self)

    def _summary(self):
        return f"{len(self.components)} of {self.size} components compared, {self.evaluations} evaluations of fun"

    def _headline(self):
        return f"{self.title}  {self._summary()}".ljust(72) + f"  {self.verdict}"

    def _explanations(self):
        """(key, text) of every line under the table."""
        if self.worst is not None:
            yield "bound", _bound_text(self.worst, self.settings)
        if self.reference:
            yield "reference", self.reference
        if self.checks:
            yield "evidence", " · ".join(check.summary for check in self.checks)
        for line in self.diagnosis:
            yield "diagnosis", line
        yield "reproduce", f"seed {self.settings.get('seed')}, {versions()}"


def versions():
    return f"numpy {np.__version__}, Python {platform.python_version()}, {platform.machine()}"


def _bound_text(worst, settings):
    margin = settings["margin"]
    return (f"{worst.bound:.1e} = tolerance {worst.tolerance:.1e} (rtol {settings['rtol']:g} × scale + atol "
            f"{settings['atol']:g}) + {margin:g} × reference uncertainty {worst.uncertainty:.1e}")


def _table(ranked, rows):
    if not ranked:
        return []
    shown = [_cells(c) for c in ranked[:rows]]
    head = ("component", "yours", "reference", "finite diff (±)", "|err|/bound")
    width = [max(len(row[k]) for row in [head, *shown]) + 3 for k in range(len(head))]
    lines = ["  " + "".join(cell.ljust(w) for cell, w in zip(row, width)).rstrip() for row in [head, *shown]]
    lines[1] += "   <- worst"
    if len(ranked) > rows:
        lines.append(f"  ({len(ranked) - rows} more: report.to_text(rows=…))")
    return lines


def _cells(c):
    difference = f"{c.finite_difference:+.6e} ({c.finite_difference_error:.0e})"
    return (c.name, f"{c.yours:+.6e}", f"{c.reference:+.6e}",
            "-" if math.isnan(c.finite_difference_error) else difference, f"{c.ratio:.1e}")


def _rankable(ratio):
    return math.inf if math.isnan(ratio) else ratio
