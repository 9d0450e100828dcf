"""The conformance matrix: problem x tool x way to differentiate x tolerance, every cell answered in another process.

A run can be taken up again: outcomes are kept, one line of JSON each, and a cell whose problem, versions and
tolerances are the same is not computed twice. Verdicts are made from outcomes, so that better references need no
new run.
"""
import collections
import dataclasses
import fnmatch
import json
import os
import threading
import warnings

import numpy as np

from refnode.conformance.cell import ABSENT, VERDICTS, Truth, judge
from refnode.conformance.cell_process import CellProcess, Outcome, Request
from refnode.conformance.ode_reference import (
    Inputs, certified_reference, difference_reference, own_reference)
from refnode.errors import GradientWarning, InvalidInputError, ProblemFileError, RefnodeError

TOLERANCES = (1e-6, 1e-9)
JUDGED_AT = 1e-9
LIMIT = 30.0            # seconds for one cell


@dataclasses.dataclass
class Matrix:
    """A filled matrix.

    Attributes
    ----------
    cells : list of Cell
    problems : dict
        id -> {"note", "kappa", "reference", "exposes"}.
    tools : dict
        name -> {"versions", "modes", "reason"}.
    tolerances : list of float
    limit : float
        Seconds a cell was given.
    """

    cells: list
    problems: dict
    tools: dict
    tolerances: list
    limit: float

    @property
    def judged_at(self):
        """The tolerance the summary looks at: 1e-9 where it was run, else the tightest."""
        return JUDGED_AT if JUDGED_AT in self.tolerances else min(self.tolerances)

    def columns(self):
        """(tool, mode, method), in the order of the tools."""
        return list(dict.fromkeys((cell.tool, cell.mode, cell.method) for cell in self.cells))

    def summary(self):
        """(tool, mode, method) -> counts of verdicts, silent failures and the median score, at `judged_at`."""
        rows = {}
        for column in self.columns():
            cells = [c for c in self.cells if (c.tool, c.mode, c.method) == column and c.rtol == self.judged_at]
            counts = collections.Counter(cell.verdict for cell in cells)
            scores = [c.score for c in cells if c.score is not None and c.verdict not in ABSENT]
            rows[column] = {**{verdict: counts[verdict] for verdict in VERDICTS}, "cells": len(cells),
                            "silent": sum(cell.silent for cell in cells),
                            "median": float(np.median(scores)) if scores else None}
        return rows

    def to_dict(self):
        """Plain data, format "refnode.conformance" version 1."""
        return {"format": "refnode.conformance", "version": 1, "judged_at": self.judged_at,
                "tolerances": list(self.tolerances), "limit": self.limit, "verdicts": VERDICTS, "tools": self.tools,
                "problems": self.problems, "cells": [dataclasses.asdict(cell) for cell in self.cells]}


# --- what is asked --------------------------------------------------------------------------------

def problems_named(patterns):
    """The reference problems whose ids match one of some comma-separated patterns."""
    from refnode.problems.reference_set import REFERENCE_PROBLEMS
    wanted = [pattern.strip() for pattern in patterns.split(",")]
    found = [record for id, record in REFERENCE_PROBLEMS.items() if any(fnmatch.fnmatch(id, w) for w in wanted)]
    if not found:
        raise InvalidInputError(f"no reference problem matches {patterns!r}; there are {', '.join(REFERENCE_PROBLEMS)}")
    return found


def requests_of(record, tool, modes, tolerances, choice="*"):
    """The requests of one problem to one tool, loose tolerances first."""
    sha256, wanted = record.to_dict()["sha256"], [part.strip() for part in choice.split(",")]
    unit = min(1.0, max((abs(y) for y in record.y0), default=1.0) or 1.0)
    return [Request(record.id, sha256, tool, mode, method, rtol, rtol * unit)
            for mode, spec in modes.items() for method in spec["methods"]
            if any(fnmatch.fnmatch(f"{tool}:{mode}:{method}", f"{w}*") for w in wanted)
            for rtol in sorted(tolerances, reverse=True)]


def truth_of(record):
    """What is right: certified values, else refnode's own with an error estimate; None where neither can be had."""
    try:
        found = certified_reference(record)
    except ProblemFileError as error:
        warnings.warn(f"{record.id}: certified values are not used: {error}", RuntimeWarning, stacklevel=2)
        found = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GradientWarning)
            found = found or _uncertified(record)
        return Truth(record, Inputs.of(record.problem), found)
    except (RefnodeError, ArithmeticError) as error:
        warnings.warn(f"{record.id}: no reference: {error}", RuntimeWarning, stacklevel=2)
        return None


def _uncertified(record):
    return difference_reference(record.problem) if "pieces" in record.rhs else own_reference(record.problem)


# --- filling --------------------------------------------------------------------------------------

class OutcomeFile:
    """Outcomes by the key of their request, each appended to a file as it comes."""

    def __init__(self, path=None):
        self.path, self.found, self.lock = path, {}, threading.Lock()
        if path and os.path.exists(path):
            with open(path, encoding="utf-8") as stream:
                for line in stream:
                    entry = json.loads(line)
                    self.found[tuple(entry["key"])] = Outcome(**entry["outcome"])

    def get(self, request, versions, limit):
        """The outcome of this request by these versions, or None; one that hung counts if it had as long as now."""
        outcome = self.found.get(request.key)
        if outcome is None or outcome.versions != versions or (outcome.status == "hung" and outcome.limit < limit):
            return None
        return outcome

    def put(self, request, outcome):
        with self.lock:
            self.found[request.key] = outcome
            if self.path:
                with open(self.path, "a", encoding="utf-8") as stream:
                    stream.write(json.dumps({"key": request.key, "outcome": dataclasses.asdict(outcome)}) + "\n")


def fill(records, tools, tolerances=TOLERANCES, *, limit=LIMIT, jobs=1, choice="*", outcomes=None,
         progress=lambda request, outcome: None):
    """Ask every tool for every problem; returns the requests by tool, what is known of the tools, and the
    outcomes.

    Parameters
    ----------
    records : list of ReferenceProblem
    tools : list of str
        Names of `refnode.adapters.ADAPTERS`, or dotted paths of adapters.
    limit : float
        Seconds for one cell; a library that hangs at one tolerance is not asked for tighter ones.
    jobs : int
        Tools that work at once.
    choice : str
        Comma-separated patterns of "tool:mode:method".
    outcomes : OutcomeFile
    """
    outcomes, queue, lock = outcomes or OutcomeFile(), list(tools), threading.Lock()
    asked, known = {tool: [] for tool in tools}, {}

    def work():
        while True:
            with lock:
                if not queue:
                    return
                tool = queue.pop(0)
            with CellProcess(tool) as process:
                known[tool] = {"versions": process.versions, "modes": process.modes, "reason": process.reason}
                for record in records:
                    asked[tool] += _ask(process, record, tool, tolerances, limit, choice, outcomes, progress)

    _in_threads(work, jobs)
    return asked, known, outcomes


def _in_threads(work, jobs):
    """Run it in so many threads; Ctrl-C is seen, and an exception of a thread is raised here."""
    errors = []

    def guarded():
        try:
            work()
        except BaseException as error:                          # raised below
            errors.append(error)

    threads = [threading.Thread(target=guarded, daemon=True) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(0.2)
    if errors:
        raise errors[0]


def _ask(process, record, tool, tolerances, limit, choice, outcomes, progress):
    """Every cell of one problem and one tool; returns the requests."""
    problem, hung = record.to_dict(), set()
    requests = requests_of(record, tool, process.modes, tolerances, choice)
    for request in requests:
        outcome, way = outcomes.get(request, process.versions, limit), (request.mode, request.method)
        if outcome is None:
            if way in hung:
                outcome = Outcome("hung", message="not tried: no answer in time at a looser tolerance",
                                  versions=process.versions, limit=limit)
            else:
                outcome = process.ask(problem, request, limit)
            outcomes.put(request, outcome)
            progress(request, outcome)
        if outcome.status == "hung":
            hung.add(way)
    return requests


def conform(records, tools, tolerances=TOLERANCES, *, truths=None, **options):
    """The `Matrix` of some problems and tools; options as for `fill`.

    Parameters
    ----------
    truths : dict, optional
        id -> `Truth`; default: `truth_of` each record.
    """
    asked, known, outcomes = fill(records, tools, tolerances, **options)
    truths = {record.id: truth_of(record) for record in records} if truths is None else truths
    by_id = {record.id: record for record in records}
    cells = [judge(request, outcomes.found[request.key], truths[request.problem_id])
             for tool in tools for request in asked[tool]]
    return Matrix(cells, {id: described(by_id[id], truths[id]) for id in by_id}, {tool: known[tool] for tool in tools},
                  sorted(tolerances, reverse=True), options.get("limit", LIMIT))


def described(record, truth):
    """What the page says of a problem."""
    return {"note": record.note, "kappa": record.kappa, "exposes": list(record.exposes),
            "reference": "none" if truth is None else truth.reference.source}


# --- texts ----------------------------------------------------------------------------------------

def json_text(matrix):
    """The matrix for programs. Numbers that are not finite are strings."""
    return json.dumps(_finite(matrix.to_dict()), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return repr(float(value))
    return float(f"{value:.6g}") if isinstance(value, float) else value


SYMBOLS = {"PASS": "✓", "FLOOR": "⌊✓⌋", "UNTESTABLE": "·", "UNSUPPORTED": "–", "UNAVAILABLE": "–", "DEGRADED": "~",
           "ERROR": "E", "HANG": "∞", "CRASH": "†", "FAIL": "✗"}


def markdown_text(matrix, command=""):
    """The matrix for readers of text: the summary, then one table a tool at the tolerance that is judged."""
    lines = ["# Conformance matrix", "", f"`{command}`" if command else "", "",
             f"Judged at rtol {matrix.judged_at:g}. " + "; ".join(f"{SYMBOLS[v]} {v}: {text}" for v, text in VERDICTS.items()
                                                                 if v in {c.verdict for c in matrix.cells}) + ".",
             "A number beside a mark is the correct digits of the gradient.", ""]
    lines += ["Versions: " + "; ".join(f"{name}: " + (", ".join(f"{k} {v}" for k, v in tool["versions"].items())
                                                     or tool["reason"]) for name, tool in matrix.tools.items()) + ".", ""]
    lines += _summary_lines(matrix)
    for tool in matrix.tools:
        lines += ["", f"## {tool}", ""] + _tool_lines(matrix, tool)
    return "\n".join(lines) + "\n"


def _summary_lines(matrix):
    shown = [v for v in VERDICTS if any(row[v] for row in matrix.summary().values())]
    lines = ["| tool | way | method | " + " | ".join(shown) + " | silent FAIL | median q |",
             "|---|---|---|" + "---:|" * (len(shown) + 2)]
    for (tool, mode, method), row in matrix.summary().items():
        median = "" if row["median"] is None else f"{row['median']:.2g}"
        lines.append(f"| {tool} | {mode} | {method} | " + " | ".join(str(row[v] or "") for v in shown)
                     + f" | {row['silent'] or ''} | {median} |")
    return lines


def _tool_lines(matrix, tool):
    columns = [column for column in matrix.columns() if column[0] == tool]
    if not columns:
        return [f"not run: {matrix.tools[tool]['reason']}"]
    at = {(c.problem, c.mode, c.method): c for c in matrix.cells if c.tool == tool and c.rtol == matrix.judged_at}
    lines = ["| problem | " + " | ".join(f"{mode} {method}" for _, mode, method in columns) + " |",
             "|---|" + "---:|" * len(columns)]
    for problem in matrix.problems:
        lines.append(f"| {problem} | " + " | ".join(_mark(at.get((problem, mode, method))) for _, mode, method in columns)
                     + " |")
    return lines


def _mark(cell):
    if cell is None:
        return ""
    return SYMBOLS[cell.verdict] + (f" {cell.digits:.1f}" if cell.digits is not None else "")
