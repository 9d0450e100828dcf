"""Any report as text, JSON, Markdown, a page or JUnit XML, and into a file by its suffix.

A report is an object with `to_dict()` and `str()`; `report_view` lists what is read of it.
"""
import json
import re
from collections import Counter
from pathlib import Path

from refnode.atomic_file import write_atomically
from refnode.errors import InvalidInputError
from refnode.gradcheck.report_view import difference_shown, gravest, ratio_of, shown, views

ROWS = 8                                                      # components in Markdown, unless more are asked for
NOT_IN_XML = "[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"


def write_report(path, reports, *, title="refnode check"):
    """Write one report or several into a file whose suffix says how; an interrupted write leaves the old file.

    Parameters
    ----------
    path : path_like
        Ends in .txt, .json, .md, .html or .xml (JUnit).
    reports : report, sequence of reports, or dict of str to report
        A report has `to_dict()` and `str()`.
    title : str
        Of a page or a test suite.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    InvalidInputError, InvalidTypeError
        Unknown suffix; something among `reports` is no report.
    OSError
        The file cannot be written.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise InvalidInputError(f"path: expected a suffix among {', '.join(FORMATS)}, found {path.name!r}")
    write_atomically(path, FORMATS[path.suffix](reports, title))
    return path


# --- text and JSON --------------------------------------------------------------------------------

def to_text(reports, title="refnode check"):
    """The reports as they print, one under the other; several are led by their number and verdict."""
    found = views(reports)
    if len(found) == 1:
        return found[0].text.rstrip("\n") + "\n"
    blocks = [f"{title}: {totals(found)}", *(f"[{view.name}]\n{view.text.rstrip()}" for view in found)]
    return "\n\n".join(blocks) + "\n"


def totals(found):
    """For example "3 reports: 1 FAIL, 2 PASS", the gravest first."""
    counts = Counter(view.verdict for view in found)
    told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in sorted(counts, key=_position))
    return f"{len(found)} report{'' if len(found) == 1 else 's'}" + (f": {told}" if told else "")


def _position(verdict):
    return ("ERROR", "FAIL", "INCONCLUSIVE", "PASS").index(verdict)


def to_json(reports, title="refnode check"):
    """Strict JSON, non-finite numbers as strings: the dictionary of a single report, or a list of named ones."""
    found = views(reports)
    content = found[0].content if hasattr(reports, "to_dict") else {
        "format": "refnode.reports", "version": 1, "title": title,
        "verdict": gravest(view.verdict for view in found), "counts": Counter(view.verdict for view in found),
        "reports": [{"name": view.name, **view.content} for view in found]}
    return json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


# --- Markdown -------------------------------------------------------------------------------------

def to_markdown(reports, title="refnode check", rows=ROWS):
    """The reports as Markdown with tables; at most `rows` components each."""
    found = views(reports)
    sections = [_markdown_section(view, rows) for view in found]
    if len(found) == 1:
        return sections[0]
    head = [f"## {_inline(title)}: {totals(found)}", "", "| report | verdict | worst error/bound |", "| --- | --- | --- |"]
    return "\n".join(head + [_markdown_line(view) for view in found]) + "\n\n" + "\n".join(sections)


def _markdown_line(view):
    worst = shown(ratio_of(view.ranked()[0]), ".1e") if view.components else "–"
    return f"| {_inline(view.name)} | {view.verdict} | {worst} |"


def _markdown_section(view, rows):
    ranked = view.ranked()
    cells = [["component", "yours", "reference", "finite diff (±)", "error/bound", "verdict"], ["---"] * 6]
    cells += [_markdown_cells(row) for row in ranked[:rows]]
    table = ["| " + " | ".join(row) + " |" for row in cells] if ranked else []
    more = [f"\n{len(ranked) - rows} more components."] if len(ranked) > rows else []
    facts = [f"- **{_inline(key)}**: {_inline(text)}" for key, text in explanations(view)]
    heading = f"### {_inline(view.name)}: {view.verdict}"
    summary = [_inline(view.summary), ""] if view.summary else []
    return "\n".join([heading, "", *summary, *table, *more, "", *facts]) + "\n"


def _markdown_cells(row):
    name = " ".join(str(part) for part in (row.get("quantity"), row.get("name")) if part)
    return [_code(name), shown(row.get("yours")), shown(row.get("reference")), difference_shown(row),
            shown(ratio_of(row), ".1e"), _inline(row.get("verdict", ""))]


def explanations(view):
    """(key, text) of every line under the table: facts, then evidence, then the diagnosis."""
    yield from ((key, text) for key, text in view.facts.items() if key != "reproduce" and text)
    for check in view.checks:
        yield "evidence", check.get("summary") or f"{check.get('method')}: {check.get('outcome')}"
    yield from (("diagnosis", line) for line in view.diagnosis)
    if view.facts.get("reproduce"):
        yield "reproduce", view.facts["reproduce"]


def _inline(text):
    """Text that Markdown must not read as markup, on one line."""
    text = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|~]|(?<!\w)_|_(?!\w))", r"\\\1", text)


def _code(text):
    """A code span, with a fence longer than any run of backticks inside; table cells need their bars escaped."""
    text = " ".join(str(text).split()).replace("|", "\\|")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    space = " " if "`" in text else ""
    return f"{fence}{space}{text}{space}{fence}" if text else ""


# --- the page and JUnit ---------------------------------------------------------------------------

def to_html(reports, title="refnode check"):
    """One page with its style and pictures inside; nothing is loaded, light and dark."""
    from refnode.gradcheck.report_page import page          # late: it takes a fortieth of `import refnode`
    found = views(reports)
    return page(found, title, totals(found), explanations)


def to_junit(reports, title="refnode check"):
    """JUnit XML, a test case for each report. INCONCLUSIVE is a skipped test: nothing was proved wrong, or right."""
    from xml.etree import ElementTree
    found = views(reports)
    counts = Counter(view.verdict for view in found)
    numbers = {"name": _xml(title), "tests": str(len(found)), "failures": str(counts["FAIL"]),
               "errors": str(counts["ERROR"]), "skipped": str(counts["INCONCLUSIVE"])}
    root = ElementTree.Element("testsuites", numbers)
    suite = ElementTree.SubElement(root, "testsuite", numbers)
    for view in found:
        case = ElementTree.SubElement(suite, "testcase", classname=_xml(view.title), name=_xml(view.name))
        if view.verdict in JUNIT:
            told = ElementTree.SubElement(case, JUNIT[view.verdict], message=_xml(_reason(view)), type=view.verdict)
            told.text = _xml(view.text)
        else:
            ElementTree.SubElement(case, "system-out").text = _xml(view.text)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


JUNIT = {"FAIL": "failure", "ERROR": "error", "INCONCLUSIVE": "skipped"}


def _reason(view):
    """One line: the worst component and the diagnosis."""
    ranked = view.ranked()
    worst = f"{ranked[0].get('name')}: yours {shown(ranked[0].get('yours'))}, reference " \
            f"{shown(ranked[0].get('reference'))}" if ranked else ""
    return "; ".join(part for part in (worst, *view.diagnosis[:1]) if part) or view.verdict


def _xml(text):
    """Text without the characters XML 1.0 has no way to write."""
    return re.sub(NOT_IN_XML, "\ufffd", str(text))


FORMATS = {".txt": to_text, ".json": to_json, ".md": to_markdown, ".html": to_html, ".xml": to_junit}
