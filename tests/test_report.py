"""The report: JSON that any reader takes, a page that needs nothing else, figures, and files whole or not at all."""
import html.parser
import json
import os

import numpy as np
import pytest

from refnode import plot, report, validate
from refnode.evidence import exhibits
from refnode.evidence.row import Row

VOID = {"meta", "br", "hr", "img", "input", "link"}


def small_outcome():
    rows = [Row("fields", "lorenz", "jvp = complex step of f", "formula", "PASS", 1e-16, 1e-14, "rounding", "dy_tan[0] x"),
            Row("recipes", "kepler", "discrete = exact gradient, dopri5", "exact", "PASS", 1e-9, 1e-7, "tolerance", "y0[0]",
                field="kepler", method="dopri5", recipe="discrete"),
            Row("recipes", "kepler", "state <&> of y", "exact", "FAIL", np.inf, 1e-7, "tolerance", "y0[0]"),
            Row("losses", "kepler", "finite differences", "exact", "ERROR", note="ValueError: <b>x</b>")]
    selection = validate.select("kepler", "rk4,dopri5", "discrete")
    return validate.Outcome(rows, selection, 1.5, validate.facts(selection))


class Page(html.parser.HTMLParser):
    """Checks the nesting, and collects tags, ids, text and references."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.references, self.text = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.references += [attributes[name] for name in ("href", "src", "xlink:href", "data", "action") if name in attributes]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, (tag, self.open)
        self.open.pop()

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A report with figures."""
    folder = tmp_path_factory.mktemp("report")
    report.write_report(small_outcome(), folder)
    return folder


def test_the_folder_holds_page_numbers_and_figures(folder):
    names = {path.name for path in folder.iterdir()}
    assert names == {"index.html", "report.json", *(f"{name}.png" for name in report.FIGURES)}
    for name in report.FIGURES:
        content = (folder / f"{name}.png").read_bytes()
        assert content.startswith(b"\x89PNG") and len(content) > 10_000


def test_the_page_is_well_formed_and_needs_nothing_else(folder):
    text = (folder / "index.html").read_text(encoding="utf-8")
    page = Page(text)
    assert all(reference.startswith("#") for reference in page.references)
    assert {reference[1:] for reference in page.references} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert "http:" not in text and "https:" not in text and "@import" not in text
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)


def test_the_page_can_be_read_without_eyes(folder):
    page = Page((folder / "index.html").read_text(encoding="utf-8"))
    assert page.tags.count("h1") == 1 and page.tags.count("caption") == page.tags.count("table")
    assert page.tags.count("figure") == page.tags.count("figcaption") == len(report.FIGURES)
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert text.count('role="img" aria-label=') == len(report.FIGURES) and '<html lang="en">' in text


def test_failures_come_first_and_nothing_is_markup():
    text = report.page(small_outcome(), {})
    assert text.index("What did not pass") < text.index("Evidence, row by row")
    assert "state &lt;&amp;&gt; of y" in text and "&lt;b&gt;x&lt;/b&gt;" in text
    assert "Some evidence contradicts a derivative" in text
    recipes = text[text.index('<details id="recipes"'):]
    assert recipes.index("state &lt;&amp;&gt;") < recipes.index("discrete = exact gradient")


def test_json_is_strict_and_complete():
    outcome = small_outcome()
    content = json.loads(report.json_text(outcome), parse_constant=lambda name: pytest.fail(name))
    assert (content["format"], content["version"], content["exit_code"]) == ("refnode.report", 1, 1)
    assert content["totals"] == {"rows": 4, "PASS": 2, "FAIL": 1, "INCONCLUSIVE": 0, "ERROR": 1}
    assert [row["error"] for row in content["rows"]] == [1e-16, 1e-9, "inf", "nan"]
    assert content["environment"]["seed"] == 0 and content["selection"]["recipes"] == ["discrete"]


def test_json_round_trips():
    content = json.loads(report.json_text(small_outcome()))
    rows = [Row(**{name: float(value) if name in ("error", "bound", "uncertainty") else value for name, value in row.items()})
            for row in content["rows"]]
    assert rows[:3] == small_outcome().rows[:3]


# --- files -----------------------------------------------------------------------------------------

def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "report.json"
    report.write_atomically(target, "old")

    def full_disk(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError):
        report.write_atomically(target, "new")
    assert target.read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_an_interrupted_replacement_leaves_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "report.json"
    report.write_atomically(target, "old")

    def interrupted(source, destination):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        report.write_atomically(target, b"new")
    assert target.read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_without_figures(tmp_path):
    assert report.write_report(small_outcome(), tmp_path / "new" / "folder", with_figures=False).name == "index.html"
    assert {path.name for path in (tmp_path / "new" / "folder").iterdir()} == {"index.html", "report.json"}


# --- figures ---------------------------------------------------------------------------------------

def test_labels_are_moved_apart_as_little_as_needed():
    assert np.array_equal(plot.spread([0.0, 5.0], 1.0), [0.0, 5.0])
    moved = plot.spread([0.0, 0.0, 0.1, 9.0], 1.0)
    assert np.all(np.diff(moved) > 0.99) and abs(np.mean(moved[:3]) - 0.1 / 3) < 0.05


def test_the_u_curve_has_a_floor_and_two_sides():
    curves, error, claimed = exhibits.u_curve(0)
    steps, distance = curves["32 fixed steps"]
    best = np.argmin(distance)
    assert 0 < best < steps.size - 1 and distance[best] < 1e-9 < 1e-3 < distance[[0, -2]].min()
    assert error <= claimed < distance[best]


def test_taylor_remainders_have_their_slopes():
    steps, remainders = exhibits.taylor(0)
    slopes = {name: np.log2(values[-3] / values[-1]) / 2 for name, values in remainders.items()}
    nothing, wrong, right = slopes.values()
    assert abs(nothing - 1) < 0.1 and abs(wrong - 1) < 0.3 and abs(right - 2) < 0.1


def test_lambda_jumps_by_the_derivative_of_the_loss():
    data = exhibits.adjoint_beside_state(0)
    problem = exhibits.Case(exhibits.PROBLEM, 0).problem
    for k, (before, after) in enumerate(zip(data["pieces"][:-1], data["pieces"][1:])):
        jump = before[2][:, -1] - after[2][:, 0]
        expected = 2.0 * (before[1][:, -1] - problem.loss.data[:, k])
        assert np.allclose(jump, expected, rtol=1e-7, atol=1e-8)


def test_the_map_of_margins_shows_the_worst():
    rows = small_outcome().rows
    names, columns, ratio, verdicts = exhibits.margins(rows)
    assert names == ["kepler"] and ratio[0, columns.index("discrete")] == pytest.approx(1e-2)
    assert verdicts[0, columns.index("discrete")] == "PASS" and np.isnan(ratio[0, columns.index("state")])
