"""The conformance matrix as one HTML page: a map of verdicts, the tools beside each other, and a table that sorts.

Plain HTML, CSS and JavaScript in one file; nothing is loaded. Without JavaScript the map and the summary remain.
"""
import html
import json
import math

from refnode.conformance.cell import JUDGED, VERDICTS

CSS = """
:root{color-scheme:light dark;--ink:#1c2128;--soft:#59636e;--line:#d9dee4;--back:#fff;--card:#f6f8fa;--link:#0550ae;
--PASS:#1a7f37;--FLOOR:#2d7d8a;--DEGRADED:#b7791f;--FAIL:#c9252d;--ERROR:#7d4bc4;--HANG:#9a5fb5;--CRASH:#4c2889;--none:#e4e8ec}
@media (prefers-color-scheme:dark){:root{--ink:#e6edf3;--soft:#9da7b1;--line:#30363d;--back:#0d1117;--card:#161b22;
--link:#79c0ff;--PASS:#2f9e4f;--FLOOR:#3a97a5;--DEGRADED:#bd8b2e;--FAIL:#d9434a;--ERROR:#9368d6;--HANG:#ab74c6;--CRASH:#6f48b3;
--none:#21262d}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:124rem;padding:2rem 1.5rem 4rem;background:var(--back);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
h1{font-size:1.9rem;margin:0 0 .2rem}h2{font-size:1.3rem;margin:2.6rem 0 .6rem}
p{max-width:60rem;margin:.5rem 0}.soft{color:var(--soft)}code{font:.92em ui-monospace,SFMono-Regular,Menlo,monospace}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.84rem}
th{font-weight:600;text-align:left}
.map{border-spacing:2px;border-collapse:separate}
.map{padding-right:7rem}.map thead th{vertical-align:bottom;height:15.5rem;padding:0;position:relative;min-width:2.42rem}
.map thead .way{position:absolute;left:50%;bottom:.35rem;transform-origin:0 100%;transform:rotate(-58deg);white-space:nowrap;z-index:2;
font-weight:400;font-size:.8rem}
.map thead .way b{font-weight:600}
.map tbody th{font-weight:400;white-space:nowrap;padding:0 .8rem 0 0;max-width:18rem;overflow:hidden;text-overflow:ellipsis}
.map tbody th a{color:inherit;text-decoration:none}
.map td{width:2.42rem;height:1.55rem;text-align:center;border-radius:.22rem;color:#fff;padding:0;font-size:.78rem;
font-variant-numeric:tabular-nums;cursor:default}
.map td.first,.map th.first{border-left:.55rem solid var(--back)}
.map tr.subject td,.map tr.subject th{border-top:.45rem solid var(--back)}
.PASS{background:var(--PASS)}.FLOOR{background:var(--FLOOR)}.DEGRADED{background:var(--DEGRADED)}.FAIL{background:var(--FAIL)}
.ERROR{background:var(--ERROR)}.HANG{background:var(--HANG)}.CRASH{background:var(--CRASH)}
.UNTESTABLE,.UNSUPPORTED,.UNAVAILABLE{background:var(--none);color:var(--soft)!important}
.key{display:flex;flex-wrap:wrap;gap:.4rem 1.4rem;margin:.8rem 0 1rem;padding:0;list-style:none;font-size:.86rem}
.key i,.tag{display:inline-block;min-width:1.1rem;border-radius:.22rem;color:#fff;font-style:normal;font-size:.76rem;
padding:.05rem .38rem;margin-right:.4rem;text-align:center}
.plain{width:100%;border-top:1px solid var(--line)}
.plain th,.plain td{padding:.28rem .8rem .28rem 0;border-bottom:1px solid var(--line);vertical-align:top;text-align:left}
.plain .n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.bar{display:flex;height:.85rem;width:15rem;border-radius:.22rem;overflow:hidden;background:var(--none)}
.bar span{display:block}
#cells th{cursor:pointer;user-select:none;white-space:nowrap;position:sticky;top:0;background:var(--back)}
#cells th[aria-sort]::after{content:" \\25B2";color:var(--soft);font-size:.7em}
#cells th[aria-sort=descending]::after{content:" \\25BC"}
#cells td small{color:var(--soft);display:block;max-width:34rem;overflow-wrap:anywhere}
#cells tr:hover td{background:var(--card)}
.controls{display:flex;flex-wrap:wrap;gap:.6rem;align-items:center;margin:.6rem 0}
input,select,button{font:inherit;color:inherit;background:var(--card);border:1px solid var(--line);border-radius:.35rem;padding:.3rem .6rem}
input[type=search]{min-width:22rem}
button[aria-pressed=false]{opacity:.4}button.tag{border:0;cursor:pointer;padding:.2rem .6rem;margin:0}
.plain.facts td:first-child{white-space:nowrap}
@media print{.controls{display:none}}
"""

SCRIPT = """
const data = JSON.parse(document.getElementById("data").textContent);
const body = document.querySelector("#cells tbody"), shown = document.getElementById("shown");
const filter = document.getElementById("filter"), tolerance = document.getElementById("tolerance");
let column = "verdict", direction = -1;
const hidden = new Set(), order = data.order;
const text = value => String(value).replace(/[&<>"]/g, c => "&#" + c.charCodeAt(0) + ";");
const number = (value, digits) => value === null ? "" : typeof value === "string" ? value :
  value.toExponential(digits).replace("e+", "e");
const fixed = value => value === null ? "" : value.toFixed(1);
const seconds = value => value === null ? "" : value < 0.1 ? value.toFixed(3) : value.toFixed(1);
function comparable(cell) {
  if (column === "verdict") return order[cell.verdict] * 100 + (cell.silent ? 1 : 0);
  const value = cell[column];
  return value === "inf" ? Infinity : value;
}
function compare(a, b) {
  const x = comparable(a), y = comparable(b), none = v => v === null || v === "";
  if (none(x) || none(y)) return none(x) - none(y);
  return direction * (x < y ? -1 : x > y ? 1 : 0);
}
function row(cell) {
  const notes = [cell.worst, cell.message, cell.said, ...cell.warned].filter(Boolean).map(text).join("<br>");
  const count = [cell.nfev, cell.nfev_backward].filter(v => v !== null).join(" + ");
  return `<tr><td>${text(cell.problem)}</td><td>${text(cell.tool)}</td><td>${text(cell.mode)}</td><td>${text(cell.method)}</td>
<td class="n">${number(cell.rtol, 0)}</td><td><span class="tag ${cell.verdict}">${cell.verdict}</span>${cell.silent ? "silent" : ""}</td>
<td class="n">${fixed(cell.digits)}</td><td class="n">${number(cell.score, 1)}</td><td class="n">${fixed(cell.digits_y)}</td>
<td class="n">${fixed(cell.digits_loss)}</td><td class="n">${fixed(cell.digits_times)}</td><td class="n">${count}</td>
<td class="n">${seconds(cell.seconds)}</td><td><small>${notes}</small></td></tr>`;
}
function draw() {
  const words = filter.value.toLowerCase().split(/\\s+/).filter(Boolean), chosen = tolerance.value;
  const rows = data.cells.filter(cell => !hidden.has(cell.verdict) && (chosen === "" || String(cell.rtol) === chosen)
    && words.every(word => cell.haystack.includes(word)));
  rows.sort(compare);
  shown.textContent = rows.length + " of " + data.cells.length + " cells";
  body.innerHTML = rows.map(row).join("");
}
for (const cell of data.cells)
  cell.haystack = [cell.problem, cell.tool, cell.mode, cell.method, cell.verdict, cell.silent ? "silent" : "", cell.message,
                   cell.said, ...cell.warned].join(" ").toLowerCase();
for (const head of document.querySelectorAll("#cells th[data-key]"))
  head.addEventListener("click", () => {
    direction = column === head.dataset.key ? -direction : 1;
    column = head.dataset.key;
    for (const other of document.querySelectorAll("#cells th")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
    draw();
  });
for (const button of document.querySelectorAll("button[data-verdict]"))
  button.addEventListener("click", () => {
    const name = button.dataset.verdict;
    hidden.has(name) ? hidden.delete(name) : hidden.add(name);
    button.setAttribute("aria-pressed", String(!hidden.has(name)));
    draw();
  });
for (const square of document.querySelectorAll(".map td[data-find]"))
  square.addEventListener("click", () => {
    filter.value = square.dataset.find;
    tolerance.value = "";
    draw();
    document.getElementById("all").scrollIntoView({behavior: "smooth"});
  });
filter.addEventListener("input", draw);
tolerance.addEventListener("change", draw);
draw();
"""

COLUMNS = (("problem", "problem", ""), ("tool", "tool", ""), ("mode", "way", ""), ("method", "method", ""), ("rtol", "tol", "n"),
           ("verdict", "verdict", ""), ("digits", "digits", "n"), ("score", "q", "n"), ("digits_y", "digits y", "n"),
           ("digits_loss", "digits loss", "n"), ("digits_times", "digits times", "n"), ("nfev", "f evaluations", "n"),
           ("seconds", "seconds", "n"), ("", "what was said", ""))
MARKS = {"ERROR": "err", "HANG": "∞", "CRASH": "†", "UNSUPPORTED": "–", "UNAVAILABLE": "–", "UNTESTABLE": "·"}


def page(matrix, command=""):
    """The whole page."""
    parts = [_introduction(matrix), _key(matrix), _map(matrix), _summary(matrix), _table(matrix), _facts(matrix, command)]
    return (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, '
            f'initial-scale=1"><title>refnode conform</title><style>{CSS}</style></head><body>\n' + "\n".join(parts)
            + f'\n<script type="application/json" id="data">{_data(matrix)}</script>\n<script>{SCRIPT}</script>\n</body></html>\n')


def _escape(text):
    return html.escape(str(text), quote=True)


def _introduction(matrix):
    judged = [cell for cell in matrix.cells if cell.rtol == matrix.judged_at and cell.verdict in JUDGED]
    wrong, silent = (sum(cell.verdict == "FAIL" for cell in judged), sum(cell.silent for cell in judged))
    return f"""<header><h1>Conformance matrix</h1>
<p class="soft">{len(matrix.problems)} problems × {len(matrix.columns())} ways to differentiate a solve, in {len(matrix.tools)}
libraries, double precision.</p>
<p>Each square is the gradient of one problem's loss by one library, held against its reference value. The number is its correct
digits, over y₀ and θ; the colour judges the score q = E/(κ·tol) at tolerance {matrix.judged_at:g}, where healthy methods and broken
ones are furthest apart. κ is the problem's own condition number, so that no library is blamed for a hard problem.
Of {len(judged)} gradients that were judged, <b>{wrong} are wrong, {silent} of them without any warning.</b>
Click a square for its numbers at every tolerance.</p></header>"""


def _key(matrix):
    present = {cell.verdict for cell in matrix.cells}
    items = "".join(f'<li><i class="{name}">{MARKS.get(name, "8.1")}</i><b>{name}</b> <span class="soft">{_escape(text)}</span></li>'
                    for name, text in VERDICTS.items() if name in present)
    return f'<ul class="key">{items}</ul>'


def _map(matrix):
    columns = matrix.columns()
    first = [i == 0 or columns[i][0] != columns[i - 1][0] for i in range(len(columns))]
    at = {(c.problem, c.tool, c.mode, c.method): c for c in matrix.cells if c.rtol == matrix.judged_at}
    heads = "".join(f'<th scope="col"{_first(f)}><span class="way"><b>{_escape(tool)}</b> {_escape(mode)} '
                    f'<span class="soft">{_escape(method)}</span></span></th>' for f, (tool, mode, method) in zip(first, columns))
    rows, subject = [], None
    for problem, facts in matrix.problems.items():
        squares = "".join(_square(at.get((problem, *column)), f) for f, column in zip(first, columns))
        new, subject = problem.split("/")[0] != subject, problem.split("/")[0]
        rows.append(f'<tr{" class=subject" if new else ""}><th scope="row" title="{_escape(facts["note"])}">{_escape(problem)}</th>'
                    f"{squares}</tr>")
    return (f'<div class="scroll"><table class="map"><thead><tr><th></th>{heads}</tr></thead><tbody>\n' + "\n".join(rows)
            + "\n</tbody></table></div>")


def _first(is_first):
    return ' class="first"' if is_first else ""


def _square(cell, is_first):
    edge = " first" if is_first else ""
    if cell is None:
        return f'<td class="UNSUPPORTED{edge}"></td>'
    mark = MARKS.get(cell.verdict) or ("" if cell.digits is None else f"{cell.digits:.1f}")
    about = [f"{cell.problem}, {cell.tool} {cell.mode} {cell.method}: {cell.verdict}",
             "" if cell.score is None else f"q = {cell.score:.2g}", cell.worst, cell.message, *cell.warned[:1]]
    return (f'<td class="{cell.verdict}{edge}" title="{_escape(chr(10).join(part for part in about if part))}" '
            f'data-find="{_escape(f"{cell.problem} {cell.tool} {cell.mode} {cell.method}")}">{mark}</td>')


def _summary(matrix):
    rows = []
    for (tool, mode, method), row in matrix.summary().items():
        total = max(row["cells"], 1)
        bar = "".join(f'<span class="{v}" style="width:{100 * row[v] / total:.2f}%" title="{v} {row[v]}"></span>'
                      for v in VERDICTS if row[v])
        note = matrix.tools[tool]["modes"].get(mode, {})
        counts = "".join(f'<td class="n">{row[v] or ""}</td>' for v in ("PASS", "FLOOR", "DEGRADED", "FAIL"))
        failed = row["ERROR"] + row["HANG"] + row["CRASH"]
        median = "" if row["median"] is None else f"{row['median']:.2g}"
        name = f'{_escape(tool)} {_escape(mode)}{" (default)" if note.get("default") else ""}'
        rows.append(f'<tr><td>{name}</td><td>{_escape(method)}</td><td><div class="bar">{bar}</div></td>{counts}'
                    f'<td class="n">{failed or ""}</td><td class="n">{row["silent"] or ""}</td><td class="n">{median}</td>'
                    f'<td class="soft">{_escape(note.get("note", ""))}</td></tr>')
    unavailable = "".join(f"<p>{_escape(name)} did not run: {_escape(tool['reason'])}</p>"
                          for name, tool in matrix.tools.items() if tool["reason"])
    return f"""<h2>Tools beside each other</h2><p class="soft">Counts of verdicts at tolerance {matrix.judged_at:g}. <em>None</em>
counts exceptions, time-outs and crashes: no gradient came, and the user knows. <em>Silent</em> counts wrong gradients without a
warning.</p><div class="scroll"><table class="plain"><thead><tr><th>way</th><th>method</th><th></th><th class="n">pass</th>
<th class="n">floor</th><th class="n">degraded</th><th class="n">fail</th><th class="n">none</th><th class="n">silent</th>
<th class="n">median q</th><th>what a user writes</th></tr></thead><tbody>{"".join(rows)}</tbody></table></div>{unavailable}"""


def _table(matrix):
    present = [name for name in VERDICTS if name in {cell.verdict for cell in matrix.cells}]
    chips = "".join(f'<button class="tag {v}" data-verdict="{v}" aria-pressed="true">{v}</button>' for v in reversed(present))
    choices = "".join(f'<option value="{_script_number(t)}">{t:g}</option>' for t in matrix.tolerances)
    heads = "".join(f'<th scope="col"{f" class={kind}" if kind else ""}{f" data-key={key}" if key else ""}'
                    f'{" aria-sort=descending" if key == "verdict" else ""}>{title}</th>' for key, title, kind in COLUMNS)
    return f"""<h2 id="all">All cells</h2><div class="controls"><input type="search" id="filter" placeholder="words: a problem, \
a tool, a message" aria-label="filter"><select id="tolerance" aria-label="tolerance"><option value="">all tolerances</option>\
{choices}</select>{chips}<span id="shown" class="soft"></span></div>
<noscript><p>This table needs JavaScript; the same numbers are in the JSON file beside this page.</p></noscript>
<div class="scroll"><table class="plain" id="cells"><thead><tr>{heads}</tr></thead><tbody></tbody></table></div>"""


def _script_number(value):
    """A number as JavaScript's String() writes it: 1e-9, and 0.000001."""
    text = f"{value:.0e}".replace("e-0", "e-")
    return f"{value:f}" if value >= 1e-6 else text


def _facts(matrix, command):
    tools = "".join(f"<tr><td>{_escape(name)}</td><td>{_escape(', '.join(f'{k} {v}' for k, v in tool['versions'].items()) or '–')}"
                    f"</td></tr>" for name, tool in matrix.tools.items())
    problems = "".join(f"<tr><td>{_escape(name)}</td><td class='n'>{_kappa(facts['kappa'])}</td><td>{_escape(facts['reference'])}</td>"
                       f"<td class='soft'>{_escape(facts['note'])}</td></tr>" for name, facts in matrix.problems.items())
    line = f"<p>Made by <code>{_escape(command)}</code>.</p>" if command else ""
    return f"""<h2>Problems</h2><div class="scroll"><table class="plain facts"><thead><tr><th>id</th><th class="n">κ</th>
<th>reference</th><th>note</th></tr></thead><tbody>{problems}</tbody></table></div>
<h2>Versions and conditions</h2><div class="scroll"><table class="plain facts"><tbody>{tools}</tbody></table></div>
<p>Relative and absolute tolerance are the same number, the absolute one in units of the initial state where that is smaller than 1.
A cell has {matrix.limit:g} s of processor time in a process of its own; seconds are processor time of the solve and its gradient,
without compiling. Evaluations are counted forwards + backwards where the library lets them be counted.</p>{line}"""


def _kappa(value):
    return "–" if value is None else f"{value:.2g}"


def _data(matrix):
    keep = ("problem", "tool", "mode", "method", "rtol", "verdict", "digits", "score", "digits_y", "digits_loss", "digits_times",
            "worst", "nfev", "nfev_backward", "seconds", "warned", "said", "message", "silent")
    cells = [{key: _short(getattr(cell, key)) for key in keep} for cell in matrix.cells]
    content = {"order": {name: i for i, name in enumerate(VERDICTS)}, "cells": cells}
    return json.dumps(content, ensure_ascii=False, allow_nan=False).replace("</", "<\\/")


def _short(value):
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else str(value)
    return value
