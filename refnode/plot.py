"""Figures of a validation report. Matplotlib is imported when one is drawn, so that refnode starts fast.

Every function takes numbers and returns a figure; `refnode.evidence.exhibits` computes the numbers.
"""
import contextlib

import numpy as np

# Okabe & Ito's colours, which the colour-blind tell apart; the order is fixed, so a recipe keeps its colour.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D", "#8C6D1F", "#882255")
GREY = "#6B6B6B"
# Of curves that may coincide: the later is drawn smaller than the earlier, or hollow.
MARKERS = tuple({"marker": shape, "markersize": size, "markerfacecolor": face} for shape, size, face in (
    ("o", 5, None), ("s", 9, "none"), ("o", 4.5, None), ("D", 7.5, "none"), ("^", 4.5, None)))
STYLE = {
    "font.family": "DejaVu Sans", "font.size": 11, "axes.titlesize": 12, "axes.labelsize": 11,
    "axes.titlelocation": "left", "axes.titleweight": "bold", "axes.titlepad": 10,
    "xtick.labelsize": 10, "ytick.labelsize": 10, "legend.fontsize": 10, "legend.frameon": False,
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#444444",
    "axes.grid": True, "axes.grid.which": "major", "grid.color": "#E3E3E3", "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "lines.linewidth": 1.8, "lines.markersize": 4.5, "figure.facecolor": "white", "axes.facecolor": "white",
    "figure.constrained_layout.use": True, "svg.fonttype": "path", "svg.hashsalt": "refnode",
    "axes.prop_cycle": None,
}


@contextlib.contextmanager
def style():
    """The style of all figures, drawn without a display."""
    import matplotlib
    matplotlib.use("Agg")
    with matplotlib.rc_context({**STYLE, "axes.prop_cycle": matplotlib.cycler(color=COLOURS)}):
        yield


def _axes(rows=1, columns=1, size=(7.6, 4.4), **kwargs):
    from matplotlib.figure import Figure
    figure = Figure(figsize=size)
    return figure, figure.subplots(rows, columns, **kwargs)


def _log_log(axes, x_label, y_label, title):
    axes.set(xscale="log", yscale="log", xlabel=x_label, ylabel=y_label, title=title)
    axes.minorticks_off()


def _label_ends(axes, labels, at="right", log=True):
    """Names beside the ends of their curves, moved apart where they would overlap.

    labels : list of (text, x, y, colour).
    """
    forth, back = (np.log10, lambda v: 10.0**v) if log else (lambda v: np.asarray(v, dtype=float), lambda v: v)
    low, high = forth(axes.get_ylim())
    pixels = axes.get_window_extent().height * 72.0 / axes.figure.dpi
    order = sorted(range(len(labels)), key=lambda i: labels[i][2])
    heights = spread(forth([labels[i][2] for i in order]), 14.0 / pixels * (high - low))
    side, shift = ("left", 9) if at == "right" else ("right", -9)
    for i, height in zip(order, heights):
        text, x, _, colour = labels[i]
        axes.annotate(text, (x, back(height)), (shift, 0), textcoords="offset points", ha=side, va="center",
                      color=colour, fontsize=10, annotation_clip=False)


def spread(heights, gap):
    """Sorted heights moved as little as needed for neighbours to be ``gap`` apart."""
    heights = np.array(heights, dtype=float)
    for _ in range(200):
        close = np.diff(heights) < gap - 1e-12
        if not close.any():
            break
        for i in np.flatnonzero(close):
            middle = (heights[i] + heights[i + 1]) / 2
            heights[i], heights[i + 1] = middle - gap / 2, middle + gap / 2
    return heights


def _slope_line(axes, x, y, order, text):
    """A dashed line y ~ x^order through the first point, labelled at its end."""
    line = y * (x / x[0]) ** order
    axes.plot(x, line, "--", color=GREY, linewidth=1.0, zorder=1)
    axes.annotate(text, (x[-1], line[-1]), (6, 0), textcoords="offset points", color=GREY, fontsize=10, ha="left",
                  va="center")


# --- the figures -----------------------------------------------------------------------------------

def finite_difference_u_curve(curves, error, claimed):
    """Error of central differences against the step; arguments as `refnode.evidence.exhibits.u_curve` gives them."""
    with style():
        figure, axes = _axes()
        for (name, (steps, errors)), colour in zip(curves.items(), COLOURS):
            axes.plot(steps, np.maximum(errors, 1e-17), "o-", color=colour, label=name)
        steps = next(iter(curves.values()))[0]
        axes.plot(steps, np.full(steps.size, claimed), ":", color=COLOURS[0], linewidth=1.4)
        axes.annotate(f"extrapolated to step 0: bound {claimed:.0e}, true error {error:.0e}", (steps.min(), claimed),
                      (0, 4), textcoords="offset points", color=COLOURS[0], fontsize=10, ha="left", va="bottom")
        _log_log(axes, "step, as a part of the inputs", "relative distance from the gradient",
                 "Central differences of the loss: truncation right, rounding left")
        axes.legend(loc="upper center")
        return figure


def taylor_remainders(steps, remainders):
    """Remainders against h, with slopes 1 and 2; arguments as `refnode.evidence.exhibits.taylor` gives them."""
    with style():
        figure, axes = _axes(size=(7.6, 4.8))
        labels = []
        for (name, values), colour in zip(remainders.items(), (COLOURS[5], COLOURS[1], COLOURS[0])):
            axes.plot(steps, values, "o-", color=colour)
            labels.append((name, steps[-1], values[-1], colour))
        first, *_, right = remainders.values()
        _slope_line(axes, steps[::-1], 3.0 * first[-1], 1, "slope 1")
        _slope_line(axes, steps[::-1], right[-1] / 5.0, 2, "slope 2")
        _log_log(axes, "h", r"$|L(x + h d) - L(x) - h\, g \cdot d|$",
                 "Taylor remainders of the loss, all inputs moved at once")
        axes.set_xlim(steps[-1] / 300, steps[0] * 6)
        _label_ends(axes, labels, "left")
        return figure


def work_precision(curves, floor):
    """Error of the gradient against tolerance and against evaluations, a curve for each recipe."""
    with style():
        figure, (left, right) = _axes(1, 2, size=(11.0, 4.8), sharey=True)
        ends = []
        for (recipe, (tolerances, errors, evaluations)), colour in zip(curves.items(), COLOURS):
            marker = MARKERS[len(ends) % len(MARKERS)]
            for axes, x in ((left, tolerances), (right, evaluations)):
                axes.plot(x, errors, color=colour, **marker)
            ends.append((recipe, colour, marker))
        tolerances = next(iter(curves.values()))[0]
        left.plot(tolerances, tolerances, "--", color=GREY, linewidth=1.0)
        left.annotate("error = tolerance", (tolerances[-2], tolerances[-2]), (4, -14), textcoords="offset points",
                      color=GREY, fontsize=10, ha="left")
        for axes in (left, right):
            axes.axhspan(floor / 1e3, floor, color="#F0F0F0", zorder=0)
        _log_log(left, "tolerance (rtol = atol)", "largest error of the gradient", "Error against tolerance")
        _log_log(right, "evaluations of f, jvp and vjp", "", "Error against work")
        left.set_ylim(floor / 10, None)
        left.annotate("uncertainty of the reference", (tolerances[0], floor), (0, -4), textcoords="offset points",
                      color=GREY, fontsize=9.5, va="top", ha="right")
        _legend_on_top(figure, ends)
        return figure


def _legend_on_top(figure, entries):
    from matplotlib.lines import Line2D
    handles = [Line2D([], [], color=colour, label=name, **marker) for name, colour, marker in entries]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))


def adjoint_beside_state(data):
    """y(t) above, lam(t) = dL/dy(t) below, on one time axis with the observations marked."""
    with style():
        figure, (upper, lower) = _axes(2, 1, size=(7.8, 5.8), sharex=True)
        names = data["names"] or [f"y[{i}]" for i in range(data["pieces"][0][1].shape[0])]
        for i, (name, colour) in enumerate(zip(names, COLOURS)):
            for k, (times, y, lam) in enumerate(data["pieces"]):
                upper.plot(times, y[i], color=colour)
                lower.plot(times, lam[i], color=colour)
                if k:
                    before = data["pieces"][k - 1][2][i, -1]
                    lower.plot([times[0]] * 2, [before, lam[i, 0]], ":", color=colour, linewidth=1.2)
                    lower.plot(times[0], before, "o", color=colour)
                    lower.plot(times[0], lam[i, 0], "o", color=colour, markerfacecolor="white")
            _close_last(lower, data["pieces"][-1], i, colour)
        _, y, lam = data["pieces"][-1]
        for axes, values in ((upper, y), (lower, lam)):
            ends = [(name, data["ts"][-1], values[i, -1], COLOURS[i]) for i, name in enumerate(names)]
            _label_ends(axes, ends, log=False)
        for axes in (upper, lower):
            for t in data["ts"]:
                axes.axvline(t, color="#C8C8C8", linewidth=1.0, zorder=0)
        lower.axhline(0.0, color="#444444", linewidth=0.8)
        upper.set(ylabel="y(t)", title="The state, with observation times")
        lower.set(xlabel="t", ylabel="λ(t) = ∂L/∂y(t)",
                  title="The adjoint: it jumps by ∂L/∂y(tₖ) at every observation")
        return figure


def _close_last(axes, piece, i, colour):
    """After the last observation nothing depends on the state: lam falls to zero."""
    times, _, lam = piece
    axes.plot([times[-1]] * 2, [lam[i, -1], 0.0], ":", color=colour, linewidth=1.2)
    axes.plot(times[-1], lam[i, -1], "o", color=colour)
    axes.plot(times[-1], 0.0, "o", color=colour, markerfacecolor="white")


def order_observed(curves):
    """Error of y(t1) against the step for every method; ``curves`` as `refnode.evidence.exhibits.orders` gives them."""
    with style():
        figure, axes = _axes(size=(8.4, 5.6))
        labels = []
        for (method, (h, errors, order)), colour in zip(curves.items(), COLOURS):
            axes.plot(h, errors, "o-", color=colour)
            slope = np.log2(errors[-2] / errors[-1])
            labels.append((f"{method}: {slope:.2f} (claims {order})", h[0], errors[0], colour))
        _log_log(axes, "h", "error of y(t₁)", "Order on a nonlinear, non-autonomous equation")
        _label_ends(axes, labels)
        return figure


def margin_map(problems, columns, ratio, verdicts):
    """Error over bound for every problem and kind of evidence, on a logarithmic scale: the reserve of each verdict."""
    with style():
        from matplotlib.colors import BoundaryNorm, ListedColormap
        figure, axes = _axes(size=(1.9 + 0.95 * len(columns), 1.9 + 0.36 * len(problems)))
        edges = [-20, -6, -4, -3, -2, -1, 0, 20]
        colours = ListedColormap(["#08519C", "#2F7EBC", "#6BAED6", "#9ECAE1", "#C6DBEF", "#EFF3FF", "#D7301F"])
        exponent = np.log10(np.clip(np.where(np.isnan(ratio), np.nan, ratio), 1e-19, 1e19))
        axes.pcolormesh(np.ma.masked_invalid(exponent), cmap=colours, norm=BoundaryNorm(edges, colours.N),
                        edgecolors="white", linewidth=1.0)
        axes.invert_yaxis()
        for i, j in np.ndindex(*ratio.shape):
            axes.text(j + 0.5, i + 0.5, _cell_text(ratio[i, j], verdicts[i, j]), ha="center", va="center", fontsize=9,
                      color="white" if exponent[i, j] < -3 or exponent[i, j] > 0 else "#222222")
        axes.set_xticks(np.arange(len(columns)) + 0.5, columns, fontsize=9)
        axes.set_yticks(np.arange(len(problems)) + 0.5, problems, fontsize=10)
        axes.grid(False)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_title("log₁₀ of error / bound: a right derivative is below 0, a wrong one far above", pad=12)
        return figure


def _cell_text(ratio, verdict):
    if np.isnan(ratio):
        return ""
    if ratio == 0:
        return "exact"
    mark = {"INCONCLUSIVE": " ?", "ERROR": " !"}.get(verdict, "")
    return f"{np.log10(ratio):.1f}".replace("-", "−") + mark
