"""What every format reads of a report, whichever kind it is: a report is anything with `to_dict()` and `str()`.

Of the dictionary these keys are read; all but "verdict" may be missing, and non-finite numbers may be strings.

    verdict      "PASS", "FAIL", "INCONCLUSIVE" or "ERROR"
    title        what was checked, a few words; else "problem" and "tool" are put together
    summary      one line: how much was compared
    components   list of dicts with name, yours, reference, error, bound, verdict, and where they exist quantity,
                 uncertainty, finite_difference, finite_difference_error, ratio (else error / bound), note
    checks       list of dicts with method, outcome ("agree", "disagree", "inconclusive", …), summary, data;
                 data may hold "chart", see `report_chart.curve_chart`
    diagnosis    list of lines
    direction    one such dict, shown where it alone failed: a derivative along a random direction
    facts        dict of further lines under the table (bound, reference, reproduce, …)
    settings     dict: what is needed to repeat the check
"""
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from refnode.errors import InvalidInputError, InvalidTypeError

GRAVITY = ("ERROR", "FAIL", "INCONCLUSIVE", "PASS")
ROW_GRAVITY = ("FAIL", "ERROR", "INCONCLUSIVE", "PASS")      # within a report a wrong number says more than none


@dataclass(frozen=True)
class ReportView:
    """One report as the formats show it; see the module for the meaning of the fields."""

    name: str
    verdict: str
    title: str
    summary: str
    components: list
    checks: list
    diagnosis: list
    facts: dict
    settings: dict
    content: dict
    text: str

    def ranked(self):
        """The components, gravest verdict and largest error/bound first."""
        return sorted(self.components, key=lambda row: (_gravity(row), -_rankable(ratio_of(row))))


def views(reports):
    """A `ReportView` for each report of a single one, a sequence, or a mapping from names.

    Raises
    ------
    InvalidTypeError, InvalidInputError
        Something among them is no report.
    """
    if hasattr(reports, "to_dict"):
        return [_view(None, reports)]
    if isinstance(reports, Mapping):
        return [_view(str(name), report) for name, report in reports.items()]
    if isinstance(reports, Iterable) and not isinstance(reports, (str, bytes)):
        return _with_own_names([_view(None, report) for report in reports])
    raise InvalidTypeError(f"reports: expected a report, a sequence of reports or a dict of them, found "
                           f"{type(reports).__name__}")


def gravest(verdicts):
    """The verdict on many: the gravest of theirs, PASS for none at all."""
    return min(verdicts, key=GRAVITY.index, default="PASS")


def _view(name, report):
    if not callable(getattr(report, "to_dict", None)):
        raise InvalidTypeError(f"reports: expected objects with to_dict(), found {type(report).__name__}")
    content = jsonable(report.to_dict())
    verdict = content.get("verdict")
    if verdict not in GRAVITY:
        raise InvalidInputError(f"reports: expected a verdict among {GRAVITY}, found {verdict!r}")
    title = _title(content)
    return ReportView(name=title if name is None else name, verdict=verdict, title=title,
                      summary=str(content.get("summary") or ""), components=_rows(content),
                      checks=_dicts(content.get("checks")), diagnosis=_lines(content.get("notes")) + _lines(content.get("diagnosis")),
                      facts=content.get("facts") or _known(content), settings=content.get("settings") or {}, content=content,
                      text=str(report))


def _title(content):
    parts = [str(content[key]) for key in ("problem", "tool") if content.get(key)]
    return str(content.get("title") or " · ".join(parts) or "Check")


def _rows(content):
    """The components, led by the derivative along a random direction where that alone failed."""
    direction, rows = content.get("direction"), _dicts(content.get("components"))
    failed = isinstance(direction, dict) and direction.get("verdict") == "FAIL"
    return [direction, *rows] if failed and "FAIL" not in [row.get("verdict") for row in rows] else rows


def _dicts(rows):
    return [row for row in rows or [] if isinstance(row, dict)]


def _lines(lines):
    return [_line(line) for line in ([lines] if isinstance(lines, (str, dict)) else lines or [])]


def _line(line):
    if not isinstance(line, dict):
        return str(line)
    cure = f"Fix: {line['fix']}" if line.get("fix") else ""
    return "  ".join(str(part) for part in (line.get("text"), cure, line.get("see")) if part)


def _known(content):
    """What a report without "facts" says about itself."""
    return {key: content[key] for key in ("reference", "truth", "error", "score") if content.get(key) not in (None, "", "nan")}


def _with_own_names(found):
    """Reports of one title told apart by their number."""
    titles = [view.title for view in found]
    return [ReportView(**{**view.__dict__, "name": f"{view.title} {titles[:k + 1].count(view.title)}"})
            if titles.count(view.title) > 1 else view for k, view in enumerate(found)]


def _gravity(row):
    verdict = row.get("verdict")
    return ROW_GRAVITY.index(verdict) if verdict in ROW_GRAVITY else len(ROW_GRAVITY)


# --- numbers --------------------------------------------------------------------------------------

def jsonable(value):
    """Numbers, strings, lists and dicts with strings for keys; non-finite numbers as strings."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [jsonable(item) for item in value]
    if isinstance(value, np.ndarray):
        return jsonable(value.tolist())
    if isinstance(value, np.generic):
        return jsonable(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def number(value):
    """A number of a report as a float; NaN for what is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan


def ratio_of(row):
    """error / bound; inf for a positive error against a bound of zero."""
    if row.get("ratio") is not None:
        return number(row["ratio"])
    error, bound = number(row.get("error")), number(row.get("bound"))
    if bound > 0:
        return error / bound
    return math.inf if error > 0 else error


def _rankable(ratio):
    return math.inf if math.isnan(ratio) else ratio


def shown(value, form="+.6e"):
    """A number for the reader, "–" where there is none; other values as they are."""
    if value is None or (isinstance(value, str) and math.isnan(number(value)) and value.lower() != "nan"):
        return "–" if value is None else value
    return format(number(value), form) if not isinstance(value, (list, dict, bool)) else str(value)


def difference_shown(row):
    """The finite difference and its error, "–" where none was asked for."""
    if math.isnan(number(row.get("finite_difference_error"))):
        return "–"
    return f"{shown(row.get('finite_difference'))} ({shown(row['finite_difference_error'], '.0e')})"
