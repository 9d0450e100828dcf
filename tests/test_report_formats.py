"""Reports in every format: escaped, strict, whole, and the same verdict in each."""
import dataclasses
import html.parser
import json
import math
import os
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from refnode.errors import InvalidInputError, InvalidTypeError
from refnode.gradcheck import check_gradient, write_report
from refnode.gradcheck.report_chart import ROWS, curve_chart, margin_chart
from refnode.gradcheck.report_formats import FORMATS, to_html, to_json, to_junit, to_markdown, to_text
from refnode.gradcheck.report_view import jsonable, shown, views

X = np.array([0.3, -1.2, 0.5, 2.0])
HOSTILE = ['theta[0] "alpha"', "W<1,2> & b|c\n", "x`y` ]]> </script><!--", "\x00\x1b[31m'ω𝄞\ud800"]
VERDICTS = ("ERROR", "FAIL", "INCONCLUSIVE", "PASS")


def fun(x):
    return np.exp(x[0]) + np.sin(x[1] * x[2]) + x[3] ** 3


def grad(x):
    return np.array([np.exp(x[0]), x[2] * np.cos(x[1] * x[2]), x[1] * np.cos(x[1] * x[2]), 3 * x[3] ** 2])


def noisy(x, rng=np.random.default_rng(0)):
    return fun(x) + 1e-7 * rng.standard_normal()


@pytest.fixture(scope="module")
def reports():
    return {"right": check_gradient(fun, X, grad, names=HOSTILE),
            "sign of <one> & |two|": check_gradient(fun, X, lambda x: grad(x) * [1, 1, -1, 1], names=HOSTILE),
            "noisy": check_gradient(noisy, X, grad),
            "broken ]]>": check_gradient(lambda x: 1 / 0, X, grad)}


@dataclasses.dataclass
class Foreign:
    """A report of another kind: only to_dict and str are known of it."""

    content: dict

    def to_dict(self):
        return self.content

    def __str__(self):
        return f"foreign {self.content.get('verdict')}"


# --- every format ---------------------------------------------------------------------------------

@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_names_every_report_and_verdict(reports, suffix, tmp_path):
    path = write_report(tmp_path / f"out{suffix}", reports)
    text = path.read_text(encoding="utf-8")
    for verdict in ("FAIL", "ERROR", "PASS"):
        assert verdict in text
    assert "alpha" in text and "noisy" in text and "ZeroDivisionError" in text
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", FORMATS)
def test_one_report_of_any_verdict_in_any_format(reports, suffix):
    for report in reports.values():
        assert FORMATS[suffix](report) == FORMATS[suffix](report) != ""


@pytest.mark.parametrize("suffix", FORMATS)
def test_no_report_at_all(suffix):
    assert FORMATS[suffix]([]).strip()


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_report_that_says_only_its_verdict(suffix):
    assert FORMATS[suffix](Foreign({"verdict": "PASS"}))
    assert FORMATS[suffix]([Foreign({"verdict": "FAIL", "components": None, "checks": [{}], "diagnosis": "one line"})])


@pytest.mark.parametrize("suffix", FORMATS)
def test_numbers_that_are_none(suffix):
    rows = [{"name": "a", "yours": math.nan, "reference": np.float64(math.inf), "error": math.inf, "bound": 0.0,
             "verdict": "ERROR"}, {"name": "b", "yours": None, "error": "nan", "bound": 1, "verdict": "FAIL"},
            {"name": "c", "yours": [1, 2], "reference": "text", "error": True, "verdict": "odd"}]
    assert FORMATS[suffix](Foreign({"verdict": "FAIL", "components": rows}))


def test_methods_of_a_report_are_the_formats(reports):
    report = reports["noisy"]
    assert report.to_markdown() == to_markdown(report)
    assert report.to_html() == to_html(report, "refnode.check_gradient")
    assert report.to_junit() == to_junit(report, "refnode.check_gradient")


@pytest.mark.parametrize("suffix", FORMATS)
def test_findings_with_a_cure_and_notes_are_shown(suffix):
    """A diagnosis of dicts, as the reports of ODE solves have it; without "facts" what the report says of itself."""
    report = Foreign({"verdict": "FAIL", "problem": "lv/obs10", "tool": "mine 0.3", "reference": "proven to 1e-30", "error": 0.5,
                      "truth": "", "score": math.nan, "notes": ["nothing separates at 1e-3"],
                      "diagnosis": [{"key": "sign", "text": "the sign is flipped", "fix": "negate it", "see": "docs/x",
                                     "residual": 1e-9}, {"key": None, "text": "a remark", "fix": "", "see": ""}]})
    (view,) = views(report)
    assert view.diagnosis == ["nothing separates at 1e-3", "the sign is flipped  Fix: negate it  docs/x", "a remark"]
    assert view.facts == {"reference": "proven to 1e-30", "error": 0.5} and view.title == "lv/obs10 · mine 0.3"
    text = FORMATS[suffix](report)
    if suffix in (".md", ".html"):
        assert all(part in text for part in ("negate it", "nothing separates", "proven to 1e-30", "a remark"))


# --- text and JSON --------------------------------------------------------------------------------

def test_text_is_what_the_report_prints(reports):
    assert to_text(reports["noisy"]) == str(reports["noisy"]) + "\n"
    assert all(str(report) in to_text(reports) for report in reports.values())
    assert to_text(reports).startswith("refnode check: 4 reports: 1 ERROR, 1 FAIL, 1 INCONCLUSIVE, 1 PASS\n")


def refuse_constant(name):
    raise AssertionError(f"{name} is not JSON")


def test_json_is_strict_and_keeps_every_number(reports, tmp_path):
    text = write_report(tmp_path / "out.json", reports).read_text(encoding="utf-8")
    content = json.loads(text, parse_constant=refuse_constant)
    assert content["verdict"] == "ERROR" and content["counts"] == dict.fromkeys(VERDICTS, 1)
    for (name, report), found in zip(reports.items(), content["reports"], strict=True):
        assert found.pop("name") == name and found == json.loads(to_json(report))
        for component, row in zip(report.components, found["components"], strict=True):
            assert float(row["yours"]) == component.yours and float(row["error"]) == component.error


def test_json_of_numbers_that_json_lacks():
    value = {"a": np.array([1.0, np.nan]), 3: np.float32(np.inf), "b": {1}, "c": (np.int8(2), np.True_), "d": 1j}
    assert jsonable(value) == {"a": [1.0, "nan"], "3": "inf", "b": [1], "c": [2, True], "d": "1j"}


# --- Markdown -------------------------------------------------------------------------------------

def cells_of(line):
    """Cells as GitHub splits them: at bars without a backslash."""
    return re.split(r"(?<!\\)\|", line)[1:-1]


def test_markdown_tables_have_a_cell_for_every_column(reports):
    for report in reports.values():
        table = [line for line in report.to_markdown().splitlines() if line.startswith("|")]
        assert {len(cells_of(line)) for line in table} <= {6}
        assert len(table) == (len(report.components) + 2 if report.components else 0)


def test_markdown_escapes_what_it_would_read_as_markup(reports):
    text = to_markdown(reports)
    assert "| sign of &lt;one&gt; & \\|two\\| | FAIL |".replace("& ", "&amp; ") in text
    assert "``" in text and r"b\|c" in text
    assert "### sign of &lt;one&gt; &amp; \\|two\\|: FAIL" in text
    said = Foreign({"verdict": "FAIL", "diagnosis": ["a *b* _c_ grad_y0 [d](e) `f` <g>\nh"]})
    assert r"a \*b\* \_c\_ grad_y0 \[d\](e) \`f\` &lt;g&gt; h" in to_markdown(said)


def test_markdown_is_cut_to_the_rows_asked_for():
    report = check_gradient(lambda x: x @ x, np.ones(20), 2 * np.ones(20))
    assert "12 more components." in report.to_markdown() and "more components" not in report.to_markdown(rows=20)


# --- JUnit ----------------------------------------------------------------------------------------

def test_junit_counts_and_kinds(reports):
    root = ElementTree.fromstring(to_junit(reports, "a <suite>"))
    (suite,) = root
    for element in (root, suite):
        assert {key: element.get(key) for key in ("name", "tests", "failures", "errors", "skipped")} == {
            "name": "a <suite>", "tests": "4", "failures": "1", "errors": "1", "skipped": "1"}
    assert [case.get("name") for case in suite] == list(reports)
    assert [case[0].tag for case in suite] == ["system-out", "failure", "skipped", "error"]
    assert suite[1][0].text.replace("\n", "").startswith("check_gradient  4 of 4 components compared")


def test_junit_replaces_characters_that_xml_lacks(reports, tmp_path):
    root = ElementTree.parse(write_report(tmp_path / "out.xml", reports)).getroot()
    text = "".join(root.itertext())
    assert "\ufffd\ufffd[31m'ω𝄞\ufffd" in text and "]]> </script><!--" in text


# --- the page -------------------------------------------------------------------------------------

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(html.parser.HTMLParser):
    """Elements, text and attributes; refuses what is not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts, self.targets, self.ids = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        attributes = dict(attrs)
        assert len(attributes) == len(attrs)
        self.targets += [value for key, value in attrs if key in ("href", "src")]
        self.ids += [attributes["id"]] if "id" in attributes else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_page_is_well_formed_and_loads_nothing(reports):
    text = to_html(reports)
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert "@import" not in text and "url(" not in text and "http" not in text
    assert page.targets == [f"#r{k}" for k in range(4)] == [f"#{name}" for name in page.ids]
    assert page.tags.count("article") == 4


def test_page_shows_hostile_names_as_text(reports):
    words = " ".join(Page(to_html(reports)).texts)
    for name in ("W<1,2> & b|c", "x`y` ]]> </script><!--", "sign of <one> & |two|"):
        assert name in words
    title = Page(to_html(reports["right"], "<b>&</b>")).texts
    assert "<b>&</b>: PASS" in title and "<b>&</b>" in title


def test_page_of_several_ranks_by_the_gravest(reports):
    assert "<title>refnode check: ERROR</title>" in to_html(reports)
    assert "<title>refnode check: PASS</title>" in to_html([reports["right"]])


def test_a_failure_along_the_random_direction_alone_is_shown():
    """Of 400 components two are compared; the other errors are seen by the direction alone."""
    x = np.linspace(1.0, 2.0, 400)
    report = check_gradient(lambda x: x @ x, x, np.where(np.arange(400) % 2, 2 * x, 3 * x), max_evals=80, seed=3)
    failed = [row["name"] for row in views(report)[0].components if row["verdict"] == "FAIL"]
    assert report.verdict == "FAIL" and failed
    assert failed == ["<yours, v>, v random"] or "<yours, v>, v random" not in failed
    alone = dataclasses.replace(report, components=[c for c in report.components if c.verdict == "PASS"])
    assert [row["name"] for row in views(alone)[0].ranked()][0] == "<yours, v>, v random"
    assert "&lt;yours, v&gt;" in alone.to_html()


# --- pictures -------------------------------------------------------------------------------------

def circles(svg):
    return [(float(x), float(y)) for x, y in re.findall(r'<circle[^>]*?cx="([-\d.]+)" cy="([-\d.]+)"', svg)]


def test_margins_are_drawn_in_order_on_either_side_of_the_bound():
    rows = [{"name": str(k), "error": error, "bound": 1.0, "verdict": "PASS"}
            for k, error in enumerate([math.inf, 1e3, 1.0, 1e-3, 0.0])]
    svg = margin_chart(rows)
    positions = [x for x, _ in circles(svg)]
    (bound,) = set(re.findall(r'class="bound" x1="([\d.]+)"', svg))
    assert positions == sorted(positions, reverse=True) and positions[2] == float(bound)
    assert np.isclose(positions[1] - positions[2], positions[2] - positions[3], atol=0.2)    # drawn to 0.1


def test_margins_of_many_components_show_the_gravest():
    rows = [{"name": str(k), "ratio": 10.0 ** -k, "verdict": "PASS"} for k in range(60)]
    svg = margin_chart(rows)
    assert len(circles(svg)) == ROWS and f"the {ROWS} gravest of 60" in svg
    assert margin_chart([]) == "" == margin_chart([{"name": "a", "ratio": math.nan}])


def test_curves_keep_points_that_a_logarithm_has():
    chart = {"x_label": "<h>", "y_label": "e", "slopes": [2, 1, math.nan],
             "curves": [{"label": "a&b", "x": [1e-3, 1e-2, 1e-1, 0.0, 1.0], "y": [1e-6, 1e-4, "nan", 1.0, 1.0]}]}
    svg = curve_chart(chart)
    assert len(circles(svg)) == 3 and "slope 2" in svg and "slope nan" not in svg and "<h>" not in svg
    Page(svg)
    assert curve_chart({"curves": [{"x": [1.0], "y": [1.0]}]}) == "" == curve_chart({})


def test_a_check_may_bring_its_own_picture():
    chart = {"x_label": "tolerance", "y_label": "error", "curves": [{"label": "yours", "x": [1, 2], "y": [3, 4]}]}
    report = Foreign({"verdict": "PASS", "checks": [{"method": "m", "outcome": "agree", "data": {"chart": chart}}]})
    assert "tolerance" in to_html(report) and "<polyline" in to_html(report)


# --- input and files ------------------------------------------------------------------------------

def test_names_of_reports(reports):
    report = reports["right"]
    assert [view.name for view in views([report, report])] == ["Gradient check 1", "Gradient check 2"]
    assert [view.name for view in views({7: report})] == ["7"]
    assert views(Foreign({"verdict": "PASS", "problem": "lv/obs10", "tool": "mine 0.3"}))[0].name == "lv/obs10 · mine 0.3"


def test_numbers_for_the_reader():
    assert [shown(value, ".1e") for value in (1.0, "inf", "nan", None, "text", 3)] == [
        "1.0e+00", "inf", "nan", "–", "text", "3.0e+00"]


@pytest.mark.parametrize("wrong, error, message", [
    (3, InvalidTypeError, "expected a report, a sequence of reports or a dict of them, found int"),
    ("text", InvalidTypeError, "found str"),
    ([3], InvalidTypeError, r"expected objects with to_dict\(\), found int"),
    (Foreign({}), InvalidInputError, "expected a verdict among"),
])
def test_what_is_no_report_is_refused(wrong, error, message):
    for form in FORMATS.values():
        with pytest.raises(error, match=message):
            form(wrong)


def test_unknown_suffix_is_refused(reports, tmp_path):
    with pytest.raises(InvalidInputError, match=r"expected a suffix among .txt, .json, .md, .html, .xml, found 'a.pdf'"):
        write_report(tmp_path / "a.pdf", reports)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_fault_24_an_interrupted_write_leaves_no_partial_file(reports, tmp_path, monkeypatch, fault):
    target = write_report(tmp_path / "out.json", reports["right"])
    before = target.read_bytes()

    def interrupted(*arguments):
        raise fault

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, interrupted)
            with pytest.raises((KeyboardInterrupt, OSError)):
                write_report(target, reports)
        assert target.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["out.json"]
