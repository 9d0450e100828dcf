"""What the pytest plugin does once a test asks for it; pytest itself loads `pytest_refnode`, which is quick to import."""
import fnmatch
import importlib
from pathlib import Path

import pytest

from refnode.errors import InvalidInputError
from refnode.gradcheck.report_formats import totals, write_report
from refnode.gradcheck.report_view import jsonable, ratio_of, shown, views
from refnode.gradcheck.verdict import check_gradient

FILES = ("index.html", "report.json", "report.md", "report.txt", "junit.xml")
INCONCLUSIVE = ("fail", "skip", "pass")


class RefnodeCheck:
    """The fixture `refnode_check` of one test: checks, remembers the report, and raises unless it passes.

    Options of the marker ``@pytest.mark.refnode(...)`` are those of every check; arguments of a call go before.
    ``inconclusive`` says what a verdict INCONCLUSIVE does to the test: "fail" (the default), "skip" or "pass".

    Attributes
    ----------
    problem : str or None
        Id of the reference problem this run of the test is for, where the marker has ``problems=``.
    reports : list
        Of the checks made so far.
    """

    def __init__(self, node, problem, stored):
        self.node, self.problem, self.stored, self.reports = node, problem, stored, []
        marker = node.get_closest_marker("refnode")
        self.options = {key: value for key, value in (marker.kwargs if marker else {}).items() if key != "problems"}

    def __call__(self, *arguments, **options):
        """`gradient(fun, x, grad)`, or with one argument `ode(problem, answer)` of the test's own problem."""
        __tracebackhide__ = True
        if len(arguments) != 1:
            return self.gradient(*arguments, **options)
        if self.problem is None:
            raise InvalidInputError('refnode_check: expected fun, x and grad, or the marker @pytest.mark.refnode(problems="…"), '
                                    "which gives an answer its problem")
        return self.ode(self.problem, *arguments, **options)

    def gradient(self, fun, x, grad, **options):
        """`refnode.check_gradient`; returns its report."""
        __tracebackhide__ = True
        return self._judged(check_gradient, (fun, x, grad), options)

    def ode(self, problem, answer, **options):
        """`refnode.check_ode`; returns its report."""
        __tracebackhide__ = True
        conformance = importlib.import_module("refnode.conformance.check_ode")
        return self._judged(conformance.check_ode, (problem, answer), options)

    def report(self, report, inconclusive="fail"):
        """Record a report that was made elsewhere, and raise unless it passes."""
        __tracebackhide__ = True
        if inconclusive not in INCONCLUSIVE:
            raise InvalidInputError(f"inconclusive: expected one of {INCONCLUSIVE}, found {inconclusive!r}")
        self._record(report)
        if report.verdict == "INCONCLUSIVE" and inconclusive == "skip":
            pytest.skip(f"{self.node.user_properties[-1][1]}")
        report.raise_for_verdict(allow_inconclusive=inconclusive == "pass")
        return report

    def _judged(self, check, arguments, options):
        __tracebackhide__ = True
        options = {**self.options, **options}
        inconclusive = options.pop("inconclusive", "fail")
        return self.report(check(*arguments, **options), inconclusive)

    def _record(self, report):
        """In the fixture, for the files, and as a property of the test."""
        self.reports.append(report)
        name = self.node.nodeid + (f" #{len(self.reports)}" if len(self.reports) > 1 else "")
        self.stored.append([name, jsonable(report.to_dict()), str(report)])
        self.node.user_properties.append(("refnode", summary(report)))


def summary(report):
    """One line: the verdict, the worst component, the first line of the diagnosis."""
    (view,) = views(report)
    ranked = view.ranked()
    worst = f"worst {ranked[0].get('name')}: yours {shown(ranked[0].get('yours'))}, reference " \
            f"{shown(ranked[0].get('reference'))}, error/bound {shown(ratio_of(ranked[0]), '.1e')}" if ranked else ""
    return "; ".join(part for part in (view.verdict, worst, *view.diagnosis[:1]) if part)


def problem_ids(patterns):
    """Ids of the reference problems that match a pattern, or one of several.

    Raises
    ------
    pytest.UsageError
        A pattern matches none.
    """
    known = importlib.import_module("refnode.problems.reference_set").REFERENCE_PROBLEMS
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    for pattern in patterns:
        if not fnmatch.filter(known, pattern):
            raise pytest.UsageError(f"@pytest.mark.refnode(problems={pattern!r}): no reference problem matches; there are "
                                    f"{', '.join(sorted(known))}")
    return [name for name in known if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]


class StoredReport:
    """A report that came from another process: its dictionary and its text."""

    def __init__(self, content, text):
        self.content, self.text = content, text

    def to_dict(self):
        return self.content

    def __str__(self):
        return self.text


def write_all(folder, stored, start):
    """Write all formats into a folder, relative to `start`; returns a line that says so."""
    folder = Path(start, folder)
    reports = {name: StoredReport(content, text) for name, content, text in stored}
    for name in FILES:
        write_report(folder / name, reports, title="refnode check")
    return f"refnode: {totals(views(reports))}, in {folder / FILES[0]}"
