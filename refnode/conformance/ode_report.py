"""The report of `check_ode`, for people (text) and for programs (dict)."""
import math
import textwrap
from dataclasses import asdict, dataclass, field

from refnode.gradcheck.gradient_report import GradientReport, versions
from refnode.gradcheck.report_view import jsonable

ROWS = 6         # components shown unless more are asked for
WIDTH = 118
MARK = "   <- worst"


@dataclass(frozen=True)
class OdeReport:
    """What `check_ode` found. True in a boolean context only for the verdict PASS.

    Attributes
    ----------
    verdict : {"PASS", "FAIL", "INCONCLUSIVE", "ERROR"}
    problem : str
    tool : str
    components : list of Judgement
        Every number compared.
    checks : list of Check
        The evidence.
    diagnosis : list of Finding
        Known mistakes that explain a wrong gradient, the best first; each has `key`, `text`, `fix` and `see`.
    truth : str
        "exact", "frozen", "through" or "none": which derivative yours is.
    error : float
        E, the scaled error of the gradient.
    score : float
        q = E / (kappa tol).
    reference : str
        Where the reference comes from.
    notes : list of str
        Why a verdict is not PASS, where it is not evident from the numbers.
    settings : dict
        Everything needed to repeat the check.
    """

    verdict: str
    problem: str = ""
    tool: str = ""
    components: list = field(default_factory=list)
    checks: list = field(default_factory=list)
    diagnosis: list = field(default_factory=list)
    truth: str = "none"
    error: float = math.nan
    score: float = math.nan
    reference: str = ""
    notes: list = field(default_factory=list)
    settings: dict = field(default_factory=dict)

    def __bool__(self):
        return self.verdict == "PASS"

    def __str__(self):
        return self.to_text()

    def ranked(self):
        """The components, gravest verdict and largest error/bound first."""
        gravity = ("FAIL", "ERROR", "INCONCLUSIVE", "PASS")
        return sorted(self.components, key=lambda c: (gravity.index(c.verdict), -c.ratio))

    @property
    def worst(self):
        """The judgement that decided, or None where nothing was compared."""
        ranked = self.ranked()
        return ranked[0] if ranked else None

    def to_text(self, rows=ROWS):
        """The report as plain text, with at most `rows` components."""
        lines = [self._headline(), *_table(self.ranked(), rows)]
        for key, text in self._explanations():
            lines += textwrap.wrap(text, WIDTH, initial_indent=f"  {key:<11}", subsequent_indent=" " * 13,
                                   break_long_words=False, break_on_hyphens=False)
        return "\n".join(lines)

    def to_dict(self):
        """The report as numbers, strings, lists and dicts; non-finite numbers as strings."""
        return jsonable({"format": "refnode.ode_report", "version": 1, "verdict": self.verdict, "problem": self.problem,
                         "tool": self.tool, "truth": self.truth, "error": self.error, "score": self.score,
                         "reference": self.reference, "components": [asdict(c) for c in self.components],
                         "worst": asdict(self.worst) if self.worst else None, "checks": [asdict(c) for c in self.checks],
                         "diagnosis": [line for _, line in self._advice()],
                         "findings": [asdict(f) for f in self.diagnosis], "notes": list(self.notes),
                         "facts": dict(self._facts()), "settings": self.settings})

    raise_for_verdict = GradientReport.raise_for_verdict

    def _headline(self):
        parts = [f"refnode check  {self.problem}"]
        parts += [f"tool: {self.tool}"] if self.tool else []
        parts += [f"quantity: {self._quantities()}"] if self.components else []
        return "   ".join(parts).ljust(100) + f"  {self.verdict}"

    def _quantities(self):
        """grad  (y0[2], theta[4], t0, t1); y and the loss, where they decided or stand alone."""
        counts = {}
        for c in self.components:
            block = c.name.split("[")[0]
            counts[block] = counts.get(block, 0) + 1
        inputs = [f"{block}[{count}]" if block in ("y0", "theta", "ts") else block
                  for block, count in counts.items() if block not in ("y", "loss")]
        others = [block for block in ("y", "loss") if block in counts]
        return " ".join(others + ([f"grad ({', '.join(inputs)})"] if inputs else []))

    def _explanations(self):
        """(key, text) of every line under the table."""
        if self.worst is not None:
            yield "bound", _bound_text(self.worst, self.settings)
        for note in self.notes:
            yield "note", note
        if self.checks:
            yield "evidence", " · ".join(check.summary for check in self.checks)
        yield from self._advice()
        if "command" in self.settings:
            yield "reproduce", self.settings["command"]
        yield "", f"reference: {self.reference}; {versions()}" if self.reference else versions()

    def _advice(self):
        """What a diagnosis says: the mistake, and under it the cure."""
        for finding in self.diagnosis:
            yield "diagnosis", finding.text
            if finding.fix:
                yield "", f"Fix: {finding.fix}   {finding.see}"

    def _facts(self):
        """(key, text) of the lines that are not the diagnosis, for pages."""
        skipped = ("diagnosis", "")
        return [(key, text) for key, text in self._explanations() if key not in skipped]


def _bound_text(worst, settings):
    share = f"{settings.get('reason', '')} × |ref|" if worst.tolerance else "0"
    floor = settings.get("floor_note", "")
    return f"{worst.bound:.1e} = {share} + reference uncertainty {worst.uncertainty:.1e}{floor}"


def _table(ranked, rows):
    if not ranked:
        return []
    shown = [_cells(c) for c in ranked[:rows]]
    differences = any(row[3] for row in shown)
    head = ("component", "yours", "reference", "finite diff (±)", "|err|/bound")
    columns = [k for k in range(5) if differences or k != 3]
    width = {k: max(len(row[k]) for row in [head, *shown]) + 3 for k in columns}
    lines = ["  " + "".join(row[k].ljust(width[k]) for k in columns).rstrip() for row in [head, *shown]]
    lines[1] += MARK
    if len(ranked) > rows:
        lines[-1] += f"   ({len(ranked) - rows} more: --all)"
    return lines


def _cells(c):
    known = not math.isnan(c.finite_difference_error)
    difference = f"{c.finite_difference:+.6e} ({c.finite_difference_error:.0e})" if known else ""
    return c.name, f"{c.yours:+.6e}", f"{c.reference:+.6e}", difference, f"{c.ratio:.1e}"
