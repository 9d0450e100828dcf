"""The report of a validation: one HTML page that needs nothing else, its numbers as JSON, its figures as PNG."""
import dataclasses
import html
import io
import json
import math
import re
from pathlib import Path

from refnode import plot
from refnode.atomic_file import write_atomically
from refnode.evidence import exhibits
from refnode.evidence.row import GROUPS, VERDICTS

PNG_DPI, SCREEN_DPI = 150, 92
OPEN_ROWS = 24               # longer tables are folded unless something in them did not pass


# --- figures ---------------------------------------------------------------------------------------

FIGURES = {   # file name -> (heading, caption: what is drawn, and what a right derivative looks like in it)
    "margins": (
        "Every verdict and its reserve",
        "Each cell is the worst error of one kind of evidence on one problem, in units of its derived bound, as a "
        "power of ten. A right derivative stays below 0 everywhere; a missing term or a wrong sign is at +3 or above."),
    "work_precision": (
        "Gradient error against tolerance and work",
        "Each recipe's largest error in (y0, theta, t0, t1, ts) on Lotka–Volterra, relative to the largest entry of "
        "its block, against a SciPy solve of the variational system. Right gradients fall like the dashed line; one "
        "that levels off above the grey band misses a term. The two discrete recipes differentiate the same steps, "
        "and coincide; `through` differentiates the choice of steps as well, which adds noise."),
    "finite_difference_u_curve": (
        "Finite differences: the U-curve",
        "Distance of central differences from the discrete gradient along one direction, against the step. Through "
        "fixed steps they agree with a right gradient down to rounding, and extrapolation goes further; where error "
        "control chooses the steps anew they level off at the tolerance, for the derivative through the step control "
        "is another number."),
    "taylor_remainders": (
        "Taylor remainders",
        "What remains of the change of the loss after subtracting h g·d, against h. With the right gradient the "
        "remainder falls with slope 2 throughout; with one component 1 % wrong it bends to slope 1, but only where h "
        "is small, which is why a Taylor test alone proves little."),
    "adjoint_beside_state": (
        "The adjoint beside the state",
        "λ(t) by its definition: the gradient with respect to a state put in at time t, computed anew for every t. It "
        "must be smooth between observations and jump by ∂L/∂y(tₖ) at each; filled points are limits from the left, hollow ones "
        "from the right."),
    "order_observed": (
        "Order of every stepper",
        "Error of y(t1) against the step on a nonlinear, non-autonomous equation with a closed form, root mean square "
        "over six starting points. The slope of a right method is its order; no check of derivatives can see a wrong "
        "method."),
}


def figures(outcome):
    """(name, figure) for every name in `FIGURES`, one after the other."""
    selection = outcome.selection
    makers = {
        "margins": lambda: plot.margin_map(*exhibits.margins(outcome.rows)),
        "work_precision": lambda: plot.work_precision(*exhibits.work_precision(selection.recipes, selection.seed)),
        "finite_difference_u_curve": lambda: plot.finite_difference_u_curve(*exhibits.u_curve(selection.seed)),
        "taylor_remainders": lambda: plot.taylor_remainders(*exhibits.taylor(selection.seed)),
        "adjoint_beside_state": lambda: plot.adjoint_beside_state(exhibits.adjoint_beside_state()),
        "order_observed": lambda: plot.order_observed(exhibits.orders(selection.methods)),
    }
    for name in FIGURES:
        yield name, makers[name]()


def svg_of(figure, prefix):
    """The figure as SVG to stand inside a page: no header, no metadata, names of its own."""
    stream = io.StringIO()
    with plot.style():
        figure.savefig(stream, format="svg", metadata={"Date": None})
    text = stream.getvalue()
    text = text[text.index("<svg"):]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text)
    width = f'style="max-width:{SCREEN_DPI * figure.get_figwidth():.0f}px"'
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', rf"\1 {width}", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", text)


def png_of(figure):
    stream = io.BytesIO()
    with plot.style():
        figure.savefig(stream, format="png", dpi=PNG_DPI)
    return stream.getvalue()


# --- files -----------------------------------------------------------------------------------------

def write_report(outcome, folder, with_figures=True, progress=lambda name: None):
    """index.html, report.json and the PNG files in ``folder``; returns the path of the page."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {}
    for name, figure in figures(outcome) if with_figures else ():
        progress(name)
        pictures[name] = svg_of(figure, name)
        write_atomically(folder / f"{name}.png", png_of(figure))
    write_atomically(folder / "report.json", json_text(outcome))
    write_atomically(folder / "index.html", page(outcome, pictures))
    return folder / "index.html"


def json_text(outcome):
    """The report for programs. Numbers that are not finite are strings."""
    content = {"format": "refnode.report", "version": 1, "exit_code": outcome.exit_code,
               "totals": {"rows": len(outcome.rows), **{verdict: outcome.count(verdict) for verdict in VERDICTS}},
               "seconds": round(outcome.seconds, 3), "environment": outcome.facts,
               "selection": dataclasses.asdict(outcome.selection), "groups": GROUPS,
               "rows": [dataclasses.asdict(row) for row in outcome.rows]}
    return json.dumps(_finite(content), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return repr(float(value))
    return value


# --- the page --------------------------------------------------------------------------------------

CSS = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#57606a;--line:#d8dee4;--back:#fff;--card:#f6f8fa;
--link:#0550ae;--pass:#1a7f37;--fail:#cf222e;--error:#8250df;--doubt:#9a6700}
@media (prefers-color-scheme:dark){:root{--ink:#e6edf3;--soft:#9da7b1;--line:#30363d;--back:#0d1117;--card:#161b22;
--link:#79c0ff;--pass:#3fb950;--fail:#ff7b72;--error:#bc8cff;--doubt:#d29922}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:76rem;padding:2rem 1.5rem 4rem;background:var(--back);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif}
h1{font-size:1.9rem;margin:0 0 .3rem}h2{font-size:1.35rem;margin:2.6rem 0 .8rem}h3{font-size:1.05rem;margin:0 0 .2rem}
p{max-width:62rem}.soft{color:var(--soft)}
.banner{border:1px solid var(--line);border-left:.5rem solid var(--pass);background:var(--card);
border-radius:.5rem;padding:1rem 1.25rem;margin:1.2rem 0}
.banner.FAIL{border-left-color:var(--fail)}.banner.INCONCLUSIVE{border-left-color:var(--doubt)}
.banner strong{font-size:1.5rem;display:block}
.PASS{color:var(--pass)}.FAIL{color:var(--fail)}.ERROR{color:var(--error)}.INCONCLUSIVE{color:var(--doubt)}
.banner.PASS,.banner.FAIL,.banner.INCONCLUSIVE{color:inherit}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.875rem}
caption{text-align:left;color:var(--soft);padding:.2rem 0 .5rem}
th,td{text-align:left;padding:.28rem .7rem .28rem 0;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
td.v{font-weight:600}td small{color:var(--soft);display:block}
a{color:var(--link)}
code{font:.92em ui-monospace,SFMono-Regular,Menlo,monospace}
details{border:1px solid var(--line);border-radius:.5rem;margin:.8rem 0;padding:.2rem 1rem}
details[open]{padding-bottom:.8rem}
summary{cursor:pointer;padding:.5rem 0;font-weight:600}
figure{margin:1.2rem 0 2.2rem}
.picture{background:#fff;border:1px solid var(--line);border-radius:.5rem;padding:.75rem;overflow-x:auto}
.picture svg{display:block;width:100%;height:auto;margin:0 auto}
figcaption{max-width:62rem;margin-top:.6rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1.2rem;margin:0}dt{color:var(--soft)}dd{margin:0}
@media print{body{max-width:none;padding:0}details{border:0;padding:0}figure{break-inside:avoid}}
"""

INTRODUCTION = """<p>Every derivative in refnode is written by hand. Each row below holds one of them against evidence
that does not use it: complex steps of the function itself, finite differences with a measured error, the identity
⟨w, S v⟩ = ⟨Sᵀw, v⟩, Taylor remainders, SciPy's <code>solve_ivp</code> on the state and on the variational system,
and closed forms. <em>Truth</em> says which derivative is meant: of the <em>exact</em> solution, of the steps taken, held
<em>frozen</em>, or of a <em>formula</em> alone.</p>
<p>PASS: the error is within its derived bound. FAIL: it is beyond bound and uncertainty of the reference.
INCONCLUSIVE: the reference is too uncertain, or the bound too wide, to tell. ERROR: no number could be computed.</p>"""


HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>refnode validate: {verdict}</title><style>{css}</style></head><body>
"""


def page(outcome, pictures):
    """The whole page."""
    verdict = "FAIL" if outcome.exit_code else ("PASS" if not outcome.count("INCONCLUSIVE") else "INCONCLUSIVE")
    headline = {"PASS": "All derivatives agree with their evidence", "FAIL": "Some evidence contradicts a derivative",
                "INCONCLUSIVE": "No contradiction; some rows are inconclusive"}[verdict]
    banner = f'<div class="banner {verdict}" role="status"><strong>{headline}</strong>{_escape(outcome.totals())}</div>'
    parts = [f"<header><h1>refnode validate</h1>{banner}</header><main>", INTRODUCTION, _summary(outcome),
             _not_passed(outcome), _figures(pictures), _evidence(outcome), _environment(outcome), "</main>"]
    return HEAD.format(verdict=verdict, css=CSS) + "\n".join(parts) + "\n</body></html>\n"


def _escape(text):
    return html.escape(str(text))


def _table(caption, head, rows):
    """A table; cells are (html, class)."""
    cells = lambda tag, row: "".join(f'<{tag}{_class(kind)}{_scope(tag)}>{text}</{tag}>' for text, kind in row)
    body = "\n".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return (f'<div class="scroll"><table><caption>{caption}</caption><thead><tr>{cells("th", head)}</tr></thead>'
            f"<tbody>\n{body}\n</tbody></table></div>")


def _class(kind):
    return f' class="{kind}"' if kind else ""


def _scope(tag):
    return ' scope="col"' if tag == "th" else ""


def _summary(outcome):
    head = [("what", "")] + [(name, "n") for name in ("rows", *reversed(VERDICTS), "largest error / bound")]
    rows = []
    for group, title in GROUPS.items():
        chosen = [row for row in outcome.rows if row.group == group]
        if chosen:
            counts = [len(chosen)] + [sum(row.verdict == verdict for row in chosen) for verdict in reversed(VERDICTS)]
            ratio = max(row.ratio if math.isfinite(row.ratio) else math.inf for row in chosen)
            rows.append([(f'<a href="#{group}">{_escape(title)}</a>', "")] + [(str(n), "n") for n in counts]
                        + [(_number(ratio), "n")])
    return "<h2>What was checked</h2>" + _table("Rows by kind of claim", head, rows)


COLUMNS = [("subject", ""), ("evidence", ""), ("truth", ""), ("worst component", ""), ("error", "n"), ("bound", "n"),
        ("bound comes from", ""), ("verdict", "")]


def _row_cells(row):
    note = f"<small>{_escape(row.note)}</small>" if row.note else ""
    names = [(_escape(row.subject), ""), (_escape(row.evidence) + note, ""), (row.truth, ""), (_escape(row.worst), "")]
    return names + [(_number(row.error), "n"), (_number(row.bound), "n"), (_escape(row.reason), ""),
                    (row.verdict, f"v {row.verdict}")]


def _number(value):
    return f"{value:.1e}" if math.isfinite(value) else "–"


def _not_passed(outcome):
    rows = sorted((row for row in outcome.rows if row.verdict != "PASS"), key=lambda row: VERDICTS.index(row.verdict))
    if not rows:
        return ""
    return "<h2>What did not pass</h2>" + _table("The gravest first", COLUMNS, map(_row_cells, rows))


def _figures(pictures):
    parts = ["<h2>Figures</h2>"] if pictures else []
    for name, picture in pictures.items():
        heading, caption = FIGURES[name]
        box = f'<div class="picture" role="img" aria-label="{_escape(heading)}">{picture}</div>'
        parts.append(f'<figure id="figure-{name}"><h3>{heading}</h3>{box}'
                     f"<figcaption>{_escape(caption)}</figcaption></figure>")
    return "\n".join(parts)


def _evidence(outcome):
    parts = ["<h2>Evidence, row by row</h2>"]
    for group, title in GROUPS.items():
        rows = sorted((row for row in outcome.rows if row.group == group), key=lambda row: VERDICTS.index(row.verdict))
        if rows:
            fold = len(rows) > OPEN_ROWS and all(row.verdict == "PASS" for row in rows)
            passed = sum(row.verdict == "PASS" for row in rows)
            summary = f"<summary>{_escape(title)} ({passed} of {len(rows)} PASS)</summary>"
            body = _table("Errors and bounds are relative to the scale of the component", COLUMNS, map(_row_cells, rows))
            parts.append(f'<details id="{group}"{"" if fold else " open"}>{summary}{body}</details>')
    return "\n".join(parts)


def _environment(outcome):
    selection = outcome.selection
    facts = {**outcome.facts, "fields": ", ".join(selection.fields), "problems": ", ".join(selection.problems),
             "methods": ", ".join(selection.methods), "recipes": ", ".join(selection.recipes)}
    entries = "".join(f"<dt>{_escape(key)}</dt><dd>{_escape(value)}</dd>" for key, value in facts.items())
    return (f'<h2>Environment</h2><dl>{entries}</dl><p class="soft">The same numbers for programs are in '
            "<code>report.json</code>; all randomness comes from the seed.</p>")
