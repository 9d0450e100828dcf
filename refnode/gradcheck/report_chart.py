"""The pictures of a report as SVG text: how far each component is from its bound, and curves on logarithmic axes."""
import html
import math

from refnode.gradcheck.report_view import number, ratio_of

ROWS = 24                         # components in the chart of margins
LEFT, RIGHT, PLOT, ROW = 190, 84, 486, 21
LOWEST = -12.0                    # errors below 1e-12 bounds are drawn there
WIDTH, HEIGHT, EDGE = 440, 280, 52
MARKS = 6                         # at most so many powers of ten along an axis


# --- margins --------------------------------------------------------------------------------------

def margin_chart(ranked):
    """log₁₀(error / bound) of each component; the line at 0 is the bound. "" where there is nothing to draw."""
    rows = [row for row in ranked if not math.isnan(ratio_of(row))][:ROWS]
    if not rows:
        return ""
    positions = [_decades(ratio_of(row)) for row in rows]
    low = min(-1.0, math.floor(min(positions)))
    high = max(1.0, math.ceil(max(positions)))
    place = lambda decade: LEFT + PLOT * (decade - low) / (high - low)
    bottom = ROW * len(rows) + 8
    parts = [_zone(place, low, bottom), _margin_axis(place, low, high, bottom)]
    parts += [_margin_row(row, place, place(decade), ROW * i + 18) for i, (row, decade) in enumerate(zip(rows, positions))]
    note = f" (the {ROWS} gravest of {len(ranked)})" if len(ranked) > ROWS else ""
    label = f"Error in units of the bound, component by component{note}"
    return _svg(LEFT + PLOT + RIGHT, bottom + 44, label, parts)


def _decades(ratio):
    """log₁₀ of a ratio, kept where it can be drawn."""
    if ratio <= 0:
        return LOWEST
    return min(max(math.log10(ratio), LOWEST), 18.0) if math.isfinite(ratio) else 18.0


def _zone(place, low, bottom):
    width = place(0.0) - place(low)
    return (f'<rect class="zone" x="{place(low):.1f}" y="2" width="{width:.1f}" height="{bottom - 2}" rx="4"/>'
            f'<line class="bound" x1="{place(0.0):.1f}" x2="{place(0.0):.1f}" y1="2" y2="{bottom + 5}"/>')


def _margin_axis(place, low, high, bottom):
    ticks = "".join(f'<text class="tick" x="{place(k):.1f}" y="{bottom + 18}">{_power(k)}</text>'
                    for k in _marks(low, high))
    return ticks + f'<text class="tick" x="{LEFT + PLOT / 2}" y="{bottom + 36}">error / bound</text>'


def _margin_row(row, place, x, y):
    kind = html.escape(str(row.get("verdict", "")))
    name = html.escape(_short(row.get("name", ""), 26))
    return (f'<g class="{kind}"><title>{html.escape(str(row.get("name", "")))}</title>'
            f'<text class="name" x="{LEFT - 12}" y="{y + 4}">{name}</text>'
            f'<line class="stem" x1="{place(0.0):.1f}" x2="{x:.1f}" y1="{y}" y2="{y}"/>'
            f'<circle class="dot" cx="{x:.1f}" cy="{y}" r="5"/>'
            f'<text class="value" x="{LEFT + PLOT + 14}" y="{y + 4}">{ratio_of(row):.1e}</text></g>')


def _short(text, length):
    text = " ".join(str(text).split())
    return text if len(text) <= length else text[:length - 1] + "…"


# --- curves ---------------------------------------------------------------------------------------

def chart_of(check):
    """The picture of a check: its own "chart", or the remainders of a Taylor test; "" where it has none."""
    data = check.get("data") or {}
    if isinstance(data.get("chart"), dict):
        return curve_chart(data["chart"])
    if check.get("method") == "taylor" and data.get("steps"):
        return curve_chart({"x_label": "step h", "y_label": "|f(x + h d) − f(x) − h g·d|", "slopes": [2, 1],
                            "curves": [{"label": "yours", "x": data["steps"], "y": data["second"]}]})
    return ""


def curve_chart(chart):
    """Curves on logarithmic axes, from a dict {x_label, y_label, curves: [{label, x, y}], slopes: [2, 1]}.

    Points that are not positive and finite are left out. `slopes` are drawn dashed through the rightmost point of
    the first curve.
    """
    curves = [(str(curve.get("label", "")), _points(curve)) for curve in chart.get("curves") or []]
    drawn = [point for _, points in curves for point in points]
    if len(drawn) < 2:
        return ""
    (x_low, x_high), (y_low, y_high) = (_span([point[axis] for point in drawn]) for axis in (0, 1))
    place = lambda x, y: (EDGE + (WIDTH - EDGE - 64) * (x - x_low) / (x_high - x_low),
                          16 + (HEIGHT - 16 - EDGE) * (y_high - y) / (y_high - y_low))
    frame = (x_low, x_high, y_low, y_high)
    parts = [_axes(place, frame, chart)]
    parts += [_guide(place, frame, curves, number(slope)) for slope in chart.get("slopes") or []]
    parts += [_curve(place, points, label, k) for k, (label, points) in enumerate(curves) if points]
    return _svg(WIDTH, HEIGHT, f"{chart.get('y_label', '')} against {chart.get('x_label', '')}", parts)


def _points(curve):
    pairs = ((number(x), number(y)) for x, y in zip(curve.get("x") or [], curve.get("y") or []))
    return [(math.log10(x), math.log10(y)) for x, y in pairs if 0 < x < math.inf and 0 < y < math.inf]


def _span(values):
    low, high = math.floor(min(values) + 1e-9), math.ceil(max(values) - 1e-9)
    return (low, high) if high > low else (low - 1, high + 1)


def _axes(place, frame, chart):
    x_low, x_high, y_low, y_high = frame
    (left, bottom), (right, top) = place(x_low, y_low), place(x_high, y_high)
    rows = [f'<line class="grid" x1="{left:.1f}" x2="{right:.1f}" y1="{place(x_low, k)[1]:.1f}" '
            f'y2="{place(x_low, k)[1]:.1f}"/><text class="tick end" x="{left - 8:.1f}" y="{place(x_low, k)[1] + 4:.1f}">'
            f'{_power(k)}</text>' for k in _marks(y_low, y_high)]
    columns = [f'<line class="grid" x1="{place(k, y_low)[0]:.1f}" x2="{place(k, y_low)[0]:.1f}" y1="{top:.1f}" '
               f'y2="{bottom:.1f}"/><text class="tick" x="{place(k, y_low)[0]:.1f}" y="{bottom + 18:.1f}">{_power(k)}'
               '</text>' for k in _marks(x_low, x_high)]
    labels = (f'<text class="tick" x="{(left + right) / 2:.1f}" y="{bottom + 38:.1f}">'
              f'{html.escape(str(chart.get("x_label", "")))}</text><text class="tick start" x="{left:.1f}" '
              f'y="{top - 5:.1f}">{html.escape(str(chart.get("y_label", "")))}</text>')
    return "".join(rows + columns) + labels


def _curve(place, points, label, k):
    corners = [place(*point) for point in points]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.2"/>' for x, y in corners)
    x, y = max(corners)
    return (f'<g class="curve c{k % 4}"><polyline points="{line}"/>{dots}'
            f'<text x="{x + 8:.1f}" y="{y + 4:.1f}">{html.escape(_short(label, 10))}</text></g>')


def _guide(place, frame, curves, slope):
    """A dashed line of the given slope through the rightmost point, as far as the frame goes."""
    x_low, x_high, y_low, y_high = frame
    x1, y1 = max(next(points for _, points in curves if points))
    x0 = x_low
    if slope > 0:
        x0 = max(x_low, x1 - (y1 - y_low) / slope)
    y0 = y1 - slope * (x1 - x0)
    if not (math.isfinite(slope) and y_low - 1e-9 <= y0 <= y_high + 1e-9 and x0 < x1):
        return ""
    (a, b), (c, d) = place(x0, y0), place(x1, y1)
    return (f'<line class="guide" x1="{a:.1f}" y1="{b:.1f}" x2="{c:.1f}" y2="{d:.1f}"/>'
            f'<text class="guide end" x="{0.6 * a + 0.4 * c - 4:.1f}" y="{0.6 * b + 0.4 * d - 5:.1f}">slope {slope:g}</text>')


# --- both -----------------------------------------------------------------------------------------

def _marks(low, high):
    """Whole decades with an even spacing, 0 among them where it lies inside."""
    spacing = max(1, math.ceil((high - low) / MARKS))
    return [k for k in range(int(math.ceil(low)), int(math.floor(high)) + 1) if k % spacing == 0]


def _power(k):
    return "1" if k == 0 else f'10<tspan class="up" dy="-5">{k}</tspan>'


def _svg(width, height, label, parts):
    return (f'<svg viewBox="0 0 {width} {height}" style="max-width:{width}px" role="img" '
            f'aria-label="{html.escape(label)}">' + "".join(parts) + "</svg>")
