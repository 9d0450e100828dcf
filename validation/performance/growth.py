"""W6: how the work, the memory and the time of a solve and of its gradients grow with steps, tolerance, parameters and batch.

Work is counted: evaluations of the right-hand side and of its transpose. Memory is what is held of the forward solve, by the
arrays that each recipe used, and the most that a call holds in all, by tracemalloc. Both are the same on every machine, and a
slope of theirs (of logarithms, least squares over the larger half of the sizes) is judged against theory; that of memory in
all, of what is added beyond the smallest size. Time is processor time, the least of several rounds in which all take turns;
its slope is given and not judged.

    python validation/performance/growth.py [--rounds 5] [--output validation/results]
"""
import os

os.environ.setdefault("REFNODE_PATIENCE", "0")      # what is timed is compiled

import argparse
import dataclasses
import json
import pathlib
import time
import tracemalloc
import warnings

import numpy as np

import refnode
from refnode.fields.neural import mlp_field
from refnode.layers.parameters import initial_parameters
from refnode.plot import COLOURS, style
from refnode.sensitivity.checkpoint_schedule import recomputed_steps

NAMES = ("solve", "discrete", "checkpointed", "interpolating", "backsolve", "reversible")
STAGES = {"bosh3": 3, "dopri5": 6, "dop853": 12, "rk4": 4}          # evaluations a step
CHECKPOINTS = 16
MARGIN = 0.03                  # of a slope; a count is not a power to the last bit: begins and ends are in it
QUANTITIES = {"work": "evaluations and transposes", "held": "bytes held of the forward solve", "peak": "bytes in all",
              "time": "processor seconds"}
GIVEN = {"work": dict.fromkeys(NAMES, 0.0)}                         # with given steps


@dataclasses.dataclass(frozen=True)
class Axis:
    """What grows: sizes, the problem and the options of a size, and the slopes that theory expects."""

    title: str
    sizes: tuple
    case: object                # size -> problem, options
    names: tuple
    expected: dict              # quantity -> name -> slope
    why: str


def lotka_volterra():
    return refnode.Problem(refnode.fields.lotka_volterra, [1.0, 1.0], [1.5, 1.0, 3.0, 1.0], (0.0, 2.0),
                           loss=refnode.losses.sum_of_squares())


def perceptron(width, batch):
    widths = (8, width, width, 8)
    y0 = np.random.default_rng(0).normal(size=8 * batch)
    return refnode.Problem(mlp_field(widths, batch=batch), y0, initial_parameters(widths, seed=0), (0.0, 1.0),
                           loss=refnode.losses.mean_of_squares())


def of_steps():
    """Given steps of rk4. Times are 8 bytes a step for all but `checkpointed`, which needs none of equal steps."""
    steps = tuple(2**k for k in range(8, 16))
    by_formula = [2 * 4 * N + 4 * recomputed_steps(N, CHECKPOINTS) for N in steps]
    again = slope(steps, by_formula)
    return Axis("steps", steps, lambda N: (lotka_volterra(), {"method": "rk4", "n_steps": N}), NAMES, {
        "work": {**dict.fromkeys(NAMES, 1.0), "checkpointed": again},
        "held": {"discrete": 1.0, "checkpointed": 0.0, "interpolating": 1.0, "backsolve": 0.0, "reversible": 0.0},
        "peak": {**dict.fromkeys(NAMES, 1.0), "checkpointed": 0.0}},
        f"given steps of rk4; `checkpointed` holds {CHECKPOINTS} states and takes 2 N + t(N, {CHECKPOINTS}) steps, (CKPT-2). In all, "
        "`solve`, `backsolve` and `reversible` hold nothing but times that grow")


def of_tolerance(method, order, names):
    """The error of a step is of size h^p, so steps go as tolerance^(-1/p)."""
    work = {name: -1.0 / order for name in names if name != "checkpointed"}
    held = {"discrete": -1.0 / order, "checkpointed": 0.0, "interpolating": -1.0 / order, "backsolve": 0.0}
    return Axis(f"1 / tolerance, {method}", tuple(10.0**k for k in range(4, 12)),
                lambda inverse: (lotka_volterra().replace(t1=10.0), {"method": method, "rtol": 1.0 / inverse, "atol": 1.0 / inverse}),
                names, {"work": {name: -value for name, value in work.items()},
                        "held": {name: abs(value) for name, value in held.items() if name in names}},
                f"steps of {method} chosen for the tolerance, whose estimate is of order h^{order}: 1 / {order}")


def of_parameters():
    """theta is two matrices of width x width and more, so activations are as its square root."""
    return Axis("parameters", (16, 32, 64, 128, 256), lambda w: (perceptron(w, 16), {"method": "rk4", "n_steps": 16}), NAMES, {
        **GIVEN, "held": {"discrete": 0.5, "checkpointed": 0.5, "interpolating": 0.0, "backsolve": 0.0, "reversible": 0.0}},
        "perceptrons 8-w-w-8 on 16 samples, w = 16 to 256: a tape of activations goes as w, so as the root of the parameters. In all, "
        "an augmented adjoint has the parameters in its state, and tends to 1")


def of_batch():
    """Everything that is held belongs to a sample."""
    return Axis("batch", (16, 32, 64, 128, 256, 512), lambda batch: (perceptron(16, batch), {"method": "rk4", "n_steps": 16}),
                NAMES, {**GIVEN, "held": dict.fromkeys(NAMES[1:], 1.0)},
                "perceptrons 8-16-16-8, so that samples and not parameters fill the memory")


AXES = (of_steps, lambda: of_tolerance("dopri5", 5, NAMES[:-1]), of_parameters, of_batch,
        lambda: of_tolerance("bosh3", 3, ("solve", "discrete")), lambda: of_tolerance("dop853", 8, ("solve", "discrete")))


# --- measuring ------------------------------------------------------------------------------------

def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="turns of every call that is timed")
    parser.add_argument("--output", type=pathlib.Path, help="folder for growth.json, growth.md and growth.png")
    options = parser.parse_args()
    warnings.simplefilter("ignore", refnode.GradientWarning)
    axes = [make() for make in AXES]
    found = [measure(axis, options.rounds) for axis in axes]
    rows = [row for axis, curves in zip(axes, found) for row in slopes(axis, curves)]
    text = page(axes, rows, options)
    print(text)
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "growth.md").write_text(text)
        (options.output / "growth.json").write_text(json.dumps(
            {"slopes": rows, "curves": [{"axis": axis.title, **curves} for axis, curves in zip(axes, found)]}, indent=1))
        draw(axes[:4], found[:4], options.output / "growth.png")


def measure(axis, rounds):
    """x, and quantity -> name -> a number for each size."""
    calls, x = [], []
    curves = {quantity: {name: [] for name in axis.names} for quantity in QUANTITIES}
    for size in axis.sizes:
        problem, options = axis.case(size)
        x.append(problem.theta.size if axis.title == "parameters" else size)
        for name in axis.names:
            call = call_of(problem, name, options)
            stats = call()
            calls.append((name, len(x) - 1, call))
            curves["work"][name].append(work(stats, STAGES.get(options["method"])))
            curves["held"][name].append(stats.get("history_bytes", 0))
            curves["peak"][name].append(peak_bytes(problem, call))
            curves["time"][name].append(np.inf)
    for _ in range(rounds):
        for name, i, call in calls:
            started = time.process_time()
            call()
            curves["time"][name][i] = min(curves["time"][name][i], time.process_time() - started)
    return {"x": x, **curves}


def call_of(problem, name, options):
    """A function without arguments that solves, or differentiates by the recipe, and returns its counts."""
    if name == "solve":
        return lambda: {"nfev": refnode.solve(problem, **options).nfev}
    own = {"checkpoints": CHECKPOINTS} if name == "checkpointed" else {}
    method = "mccallum_foster(rk4)" if name == "reversible" else options["method"]
    return lambda: refnode.gradient(problem, name, **{**options, "method": method}, **own).stats


def work(stats, stages):
    """Evaluations, also those taken again; and those of the adjoint, or a transpose for every stage of a step."""
    reverse = stats.get("nfev_reverse", stages * stats.get("n_steps_reverse", 0))
    return int(stats["nfev"] + stats.get("nfev_recomputed", 0) + reverse)


def peak_bytes(problem, call):
    """The most bytes held during a call, for which nothing of an earlier one is reused."""
    problem.field.idle_storage.clear()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        call()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


# --- slopes ---------------------------------------------------------------------------------------

def slope(x, values):
    """Of log(values) against log(x), over the larger half."""
    half = len(x) // 2
    return float(np.polyfit(np.log(x[half:]), np.log(values[half:]), 1)[0])


def slope_beyond(x, values):
    """Of what is added beyond the smallest size, which is full of Python's own objects; 0 if that is under a twentieth."""
    x, added = np.subtract(x[1:], x[0]), np.subtract(values[1:], values[0])
    return slope(x, added) if min(added) > 0 and added[-1] > 0.05 * values[-1] else 0.0


def slopes(axis, curves):
    """A row for each name and quantity: the slope, the one expected, and the verdict."""
    rows = []
    for quantity in QUANTITIES:
        for name in axis.names:
            if not any(curves[quantity][name]):
                continue
            expected = axis.expected.get(quantity, {}).get(name)
            of = slope if expected is None or quantity != "peak" else slope_beyond
            seen = of(curves["x"], curves[quantity][name])
            verdict = "" if expected is None else "PASS" if abs(seen - expected) <= MARGIN else "FAIL"
            rows.append({"axis": axis.title, "quantity": quantity, "name": name, "slope": round(seen, 4) + 0.0, "expected": expected,
                         "verdict": verdict})
    return rows


def page(axes, rows, options):
    judged = [row["verdict"] for row in rows if row["verdict"]]
    lines = ["# Growth", "", " ".join(__doc__.split("\n\n")[1].split()), "",
             f"Made by `python validation/performance/growth.py --rounds {options.rounds}`, on cores that other work shared. Of {len(judged)} "
             f"slopes that are judged {judged.count('PASS')} are within {MARGIN} of theory. A number in brackets is what theory "
             "expects; *time* is not judged.", "", "![Work, memory and time against four sizes](growth.png)", ""]
    for axis in axes:
        lines += [f"## Against {axis.title}", "", f"{axis.why[0].upper()}{axis.why[1:]}.", "",
                  "| | " + " | ".join(QUANTITIES.values()) + " |", "|---|" + "---|" * len(QUANTITIES)]
        for name in axis.names:
            cells = [cell(rows, axis, quantity, name) for quantity in QUANTITIES]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def cell(rows, axis, quantity, name):
    for row in rows:
        if (row["axis"], row["quantity"], row["name"]) == (axis.title, quantity, name):
            expected = "" if row["expected"] is None else f" ({row['expected'] + 0.0:.3g}) {row['verdict']}"
            return f"{row['slope'] + 0.0:.3f}{expected}"
    return "-"


# --- the picture ----------------------------------------------------------------------------------

def draw(axes, found, path):
    """A row for work, memory in all and time, a column for each axis; a reference slope in each."""
    from matplotlib.figure import Figure
    shown = ("work", "held", "time")
    references = {"work": (1.0, 0.2, None, None), "held": (1.0, 0.2, 0.5, 1.0), "time": (1.0, 0.2, 1.0, 1.0)}
    with style():
        figure = Figure(figsize=(15.0, 10.0))
        plots = figure.subplots(3, len(axes), sharex="col")
        for row, quantity in zip(plots, shown):
            for j, (plot, axis, curves) in enumerate(zip(row, axes, found)):
                drawn = draw_curves(plot, axis, curves, quantity)
                if references[quantity][j] is not None:
                    draw_reference(plot, curves["x"], drawn, references[quantity][j])
                low, high = plot.get_ylim()
                plot.set_ylim(low / 1.6, high * 1.6)
                plot.minorticks_off()
            row[0].set_ylabel(QUANTITIES[quantity])
        for plot, last, axis in zip(plots[0], plots[-1], axes):
            plot.set_title(f"against {axis.title}")
            last.set_xlabel(axis.title)
        handles, labels = plots[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        figure.savefig(path, dpi=90)


def draw_curves(plot, axis, curves, quantity):
    """The curves of a plot; those that are not zero."""
    drawn = []
    for name in axis.names:
        values = curves[quantity][name]
        if min(values) > 0:
            rank = NAMES.index(name)
            plot.loglog(curves["x"], values, color=COLOURS[rank], label=name, marker="osD^vP"[rank], markersize=9 - rank,
                        markerfacecolor="none" if rank % 2 else COLOURS[rank])
            drawn.append(values)
    plot.set_xscale("log")
    return drawn


def draw_reference(plot, x, drawn, power):
    """A dashed line of a slope below the curves."""
    x = np.asarray(x, dtype=float)[len(x) // 2:]
    lowest = min(min(values) for values in drawn)
    last = min(values[-1] for values in drawn if values[-1] > 1.5 * values[0]) if power else lowest
    line = 0.45 * last * (x / x[-1]) ** power
    plot.loglog(x, line, "--", color="#555555", linewidth=1.4)
    text = {0.2: "1/5", 0.5: "1/2"}.get(power, f"{power:g}")
    plot.annotate(f"slope {text}", (x[1], line[1]), (7, -7), textcoords="offset points", va="top", color="#555555",
                  fontsize=10)


if __name__ == "__main__":
    main()
