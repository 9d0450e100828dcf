"""Reports as one HTML page that loads nothing: style and pictures stand inside, light and dark."""
import html

from refnode.gradcheck.report_chart import chart_of, margin_chart
from refnode.gradcheck.report_view import difference_shown, gravest, number, ratio_of, shown

OPEN_ROWS = 40               # longer tables are folded
MOST_ROWS = 1000             # a page with more would not be read

CSS = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#57606a;--line:#d8dee4;--back:#fff;--card:#f6f8fa;--link:#0550ae;
--PASS:#1a7f37;--FAIL:#cf222e;--ERROR:#8250df;--INCONCLUSIVE:#9a6700;--zone:#1a7f3714;--c0:#0550ae;--c1:#bc4c00;
--c2:#1a7f37;--c3:#8250df}
@media (prefers-color-scheme:dark){:root{--ink:#e6edf3;--soft:#9da7b1;--line:#30363d;--back:#0d1117;--card:#161b22;
--link:#79c0ff;--PASS:#3fb950;--FAIL:#ff7b72;--ERROR:#bc8cff;--INCONCLUSIVE:#d29922;--zone:#3fb9501f;--c0:#79c0ff;
--c1:#ffa657;--c2:#3fb950;--c3:#bc8cff}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:72rem;padding:2.2rem 1.5rem 4rem;background:var(--back);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
h1{font-size:1.8rem;line-height:1.25;margin:0 0 .3rem}h2{font-size:1.25rem;margin:0}h3{font-size:1rem;margin:1.6rem 0 .4rem}
p{margin:.3rem 0}.soft{color:var(--soft)}a{color:var(--link)}
.PASS{--tone:var(--PASS)}.FAIL{--tone:var(--FAIL)}.ERROR{--tone:var(--ERROR)}.INCONCLUSIVE{--tone:var(--INCONCLUSIVE)}
.badge{display:inline-block;font-size:.8rem;font-weight:700;letter-spacing:.04em;line-height:1;padding:.36rem .6rem;
border-radius:.4rem;background:var(--tone);color:var(--back);vertical-align:middle;white-space:nowrap}
.head{display:flex;flex-wrap:wrap;gap:.5rem .9rem;align-items:center}
article{border:1px solid var(--line);border-top:.3rem solid var(--tone);border-radius:.6rem;padding:1.2rem 1.4rem 1.4rem;
margin:1.6rem 0}
.said{background:var(--card);border-left:.25rem solid var(--tone);border-radius:.4rem;padding:.6rem 1rem;margin:1rem 0}
.said p+p{margin-top:.5rem}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.875rem}
th,td{text-align:left;padding:.34rem .9rem .34rem 0;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;color:var(--soft)}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
td.v{font-weight:700;color:var(--tone)}td small{color:var(--soft);display:block}
code,pre,td.n{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:.84rem}
pre{overflow-x:auto;background:var(--card);border-radius:.4rem;padding:.8rem 1rem;line-height:1.45}
ul.evidence{list-style:none;margin:0;padding:0}ul.evidence li{padding:.2rem 0 .2rem 1.7rem;position:relative}
ul.evidence li::before{content:attr(data-mark);position:absolute;left:.2rem;font-weight:700;color:var(--tone)}
:where(ul.evidence li){--tone:var(--soft)}.both{display:flex;flex-wrap:wrap;gap:0 2.5rem}.both ul{flex:1 1 24rem}
details{margin:.7rem 0}summary{cursor:pointer;font-weight:600;color:var(--soft)}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1.2rem;margin:0;font-size:.9rem}dt{color:var(--soft)}dd{margin:0;
overflow-wrap:anywhere}
figure{margin:1rem 0}figcaption{color:var(--soft);font-size:.875rem}
.pictures{flex:0 1 27.5rem}
svg{display:block;width:100%;height:auto;font:12px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
svg text{fill:var(--ink)}svg .tick{fill:var(--soft);text-anchor:middle;font-size:11px}svg .end{text-anchor:end}
svg .start{text-anchor:start}svg .up{font-size:8.5px}
svg .name{text-anchor:end}svg .value{fill:var(--soft);font-size:11px}svg .zone{fill:var(--zone)}
svg .bound{stroke:var(--soft);stroke-width:1.5;stroke-dasharray:3 3}svg .grid{stroke:var(--line)}
svg .stem{stroke:var(--tone);stroke-width:2;opacity:.55}svg .dot{fill:var(--tone)}
svg .curve polyline{fill:none;stroke:var(--tone);stroke-width:2}svg .curve circle,svg .curve text{fill:var(--tone)}
svg .c0{--tone:var(--c0)}svg .c1{--tone:var(--c1)}svg .c2{--tone:var(--c2)}svg .c3{--tone:var(--c3)}
svg line.guide{stroke:var(--soft);stroke-dasharray:5 4}svg text.guide{fill:var(--soft);font-size:11px}
@media print{body{max-width:none;padding:0}article{break-inside:avoid}}
"""

HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}: {verdict}</title><style>{css}</style></head><body>
"""
MARGIN_CAPTION = ("Left of the dashed line the component agrees with its reference, right of it the difference is beyond "
                  "tolerance and uncertainty.")
MARKS = {"agree": ("PASS", "✓"), "disagree": ("FAIL", "✗"), "error": ("ERROR", "!"), "inconclusive": ("INCONCLUSIVE", "?"),
         "pass": ("PASS", "✓"), "fail": ("FAIL", "✗")}


def page(found, title, totals, explanations):
    """The page of `ReportView`s under a title; `totals` is its subtitle, `explanations` gives a report's further lines."""
    verdict = gravest(view.verdict for view in found)
    subtitle = f'<p class="soft">{_escape(totals)}</p>' if len(found) != 1 else ""
    badge = _badge(verdict) if len(found) != 1 else ""
    header = f'<header><div class="head"><h1>{_escape(title)}</h1>{badge}</div>{subtitle}</header>'
    index = _index(found) if len(found) > 1 else ""
    articles = [_article(view, f"r{k}", explanations) for k, view in enumerate(found)]
    head = HEAD.format(title=_escape(title), verdict=verdict, css=CSS)
    return head + "\n".join([header, "<main>", index, *articles, "</main>"]) + "\n</body></html>\n"


def _escape(value):
    return html.escape(" ".join(str(value).split()))


def _badge(verdict):
    return f'<span class="badge {verdict}">{verdict}</span>'


def _index(found):
    """One row for each report."""
    rows = []
    for k, view in enumerate(found):
        worst = view.ranked()[0] if view.components else {}
        said = view.diagnosis[0] if view.diagnosis else ""
        rows.append(f'<tr><td><a href="#r{k}">{_escape(view.name)}</a></td><td class="v {view.verdict}">{view.verdict}</td>'
                    f'<td>{_name(worst)}</td><td class="n">{_ratio(worst)}</td><td>{_escape(said)}</td></tr>')
    return _table([("report", ""), ("verdict", ""), ("worst component", ""), ("error/bound", "n"), ("diagnosis", "")], rows)


def _table(head, rows):
    cells = "".join(f'<th scope="col"{_class(kind)}>{text}</th>' for text, kind in head)
    body = "\n".join(rows)
    return f'<div class="scroll"><table><thead><tr>{cells}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def _class(kind):
    return f' class="{kind}"' if kind else ""


# --- one report -----------------------------------------------------------------------------------

def _article(view, anchor, explanations):
    ranked = view.ranked()
    summary = f'<p class="soft">{_escape(view.summary)}</p>' if view.summary else ""
    picture = margin_chart(ranked)
    figure = f"<figure>{picture}<figcaption>{MARGIN_CAPTION}</figcaption></figure>" if picture else ""
    parts = [f'<article id="{anchor}" class="{view.verdict}"><div class="head"><h2>{_escape(view.name)}</h2>'
             f"{_badge(view.verdict)}</div>{summary}", _diagnosis(view), figure, _components(ranked), _evidence(view),
             _facts(view, explanations), f"<details><summary>As text</summary><pre>{html.escape(view.text)}</pre></details>",
             "</article>"]
    return "\n".join(part for part in parts if part)


def _diagnosis(view):
    said = "".join(f"<p>{_escape(line)}</p>" for line in view.diagnosis)
    return f'<div class="said">{said}</div>' if said else ""


def _components(ranked):
    if not ranked:
        return ""
    head = [("component", ""), ("yours", "n"), ("reference", "n"), ("± reference", "n"), ("finite difference (±)", "n"),
            ("|error|", "n"), ("bound", "n"), ("error/bound", "n"), ("verdict", "")]
    table = _table(head, [_component(row) for row in ranked[:MOST_ROWS]])
    left_out = len(ranked) - MOST_ROWS
    more = f'<p class="soft">{left_out} more components are in the JSON report.</p>' if left_out > 0 else ""
    fold = "" if len(ranked) > OPEN_ROWS else " open"
    return f"<details{fold}><summary>Components, the gravest first ({len(ranked)})</summary>{table}{more}</details>"


def _component(row):
    note = f"<small>{_escape(row['note'])}</small>" if row.get("note") else ""
    verdict = _escape(row.get("verdict", ""))
    numbers = [shown(row.get("yours")), shown(row.get("reference")), shown(row.get("uncertainty"), ".0e"),
               difference_shown(row), shown(row.get("error"), ".1e"), shown(row.get("bound"), ".1e"), _ratio(row)]
    cells = "".join(f'<td class="n">{_escape(text)}</td>' for text in numbers)
    return f'<tr><td>{_name(row)}{note}</td>{cells}<td class="v {verdict}">{verdict}</td></tr>'


def _name(row):
    parts = [str(part) for part in (row.get("quantity"), row.get("name")) if part]
    return f"<code>{_escape(' '.join(parts))}</code>" if parts else "–"


def _ratio(row):
    ratio = ratio_of(row)
    return "–" if ratio != ratio else f"{ratio:.1e}"


def _evidence(view):
    """What each method says, and the pictures some of them have."""
    lines, pictures = [], []
    for check in view.checks:
        kind, mark = MARKS.get(str(check.get("outcome", "")).lower(), ("", "·"))
        said = check.get("summary") or f"{check.get('method')}: {check.get('outcome')}"
        lines.append(f'<li{_class(kind)} data-mark="{mark}">{_escape(said)}</li>')
        picture = chart_of(check)
        if picture:
            pictures.append(f"<figure>{picture}<figcaption>{_escape(said)}</figcaption></figure>")
    drawn = f'<div class="pictures">{"".join(pictures)}</div>' if pictures else ""
    listed = f'<div class="both"><ul class="evidence">{"".join(lines)}</ul>{drawn}</div>'
    return f"<h3>Evidence</h3>{listed}" if lines else ""


def _facts(view, explanations):
    """The lines under the table that were not shown above, and the settings."""
    lines = [(key, text) for key, text in explanations(view) if key not in ("evidence", "diagnosis")]
    lines += [(key, value) for key, value in view.settings.items() if value is not None]
    entries = "".join(f"<dt>{_escape(key)}</dt><dd>{_escape(_plain(value))}</dd>" for key, value in lines)
    return f"<h3>Facts</h3><dl>{entries}</dl>" if entries else ""


def _plain(value):
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{number(value):g}" if isinstance(value, float) else value
