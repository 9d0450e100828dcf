"""Time one gradient, refnode beside its peers, interleaved in one run: `make benchmark`.

Each workload first checks that every contestant returns the same gradient, and prints its error beside
its time. Absolute times depend on the machine and its load; the ratios are the result.

    python validation/performance/run.py [--only W1] [--rounds 20] [--clock processor] [--output validation/results]
"""
import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
os.environ.setdefault("REFNODE_PATIENCE", "0")          # what is timed is compiled

import argparse
import json
import pathlib
import platform
import time
import warnings

import numpy as np

import refnode
from contestants import contestants_for, w1, w3, w3_batch_single, w3_wide, w3_wide_single
from ensemble import w2
from flow import w4
from refnode.plot import COLOURS, GREY, style

SECONDS_A_TURN = 0.02          # each contestant runs about this long before the next one's turn
SAME_GRADIENT = 1e3            # tolerances that a gradient may be off by and still count as the same
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
WORKLOADS = {"W1": w1, "W2": w2, "W3": w3, "W3 wide": w3_wide, "W3 wide f32": w3_wide_single, "W3 4096 f32": w3_batch_single,
             "W4": w4}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=list(WORKLOADS), help="one workload instead of all")
    parser.add_argument("--rounds", type=int, default=20, help="turns of every contestant")
    parser.add_argument("--output", type=pathlib.Path, help="folder for performance.json, .md and .png")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="processor: fairer on a busy machine, whose "
                        "scheduler lets a thread that was asleep, such as XLA's, go before one that computes all the time")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="First-class function type")
    results = [measure(make(), options.rounds, CLOCKS[options.clock]) for name, make in WORKLOADS.items() if options.only in (None, name)]
    text = "\n".join(table(result) for result in results)
    print(text)
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "performance.json").write_text(json.dumps(results, indent=1))
        (options.output / "performance.md").write_text(heading(options) + text)
        draw(results, options.output / "performance.png")


def heading(options):
    return f"""# Time of one gradient

Made by `python validation/performance/run.py --rounds {options.rounds} --clock {options.clock}`: one thread unless the row says otherwise, contestants
interleaved in one run, medians with 10 and 90 %, {options.clock} time. The ratios are the result; absolute times depend on the machine. [As a picture](performance.png).

"""


def measure(work, rounds, clock):
    """Build, check and time every contestant of a workload."""
    exact = reference_gradient(work)
    runs, rows = {}, {}
    for name, build in contestants_for(work).items():
        try:
            run = build()
            _, grad = run()
        except ImportError as error:
            print(f"{work.name} {name}: left out ({error})")
            continue
        error = float(np.max(np.abs(grad - exact)) / np.max(np.abs(exact)))
        if not error <= SAME_GRADIENT * work.tolerance:
            print(f"{work.name} {name}: left out (another gradient: relative error {error:.1e})")
            continue
        runs[name], rows[name] = run, {"error": error}
    if work.kind == "mlp":
        runs[LIMIT], evaluations = products_and_activations(work)
    times = interleaved_times(runs, rounds, clock)
    limit = times.pop(LIMIT, None)
    fastest = min((np.median(t) for name, t in times.items() if not name.startswith(("refnode", "C,"))), default=np.nan)
    for name, seconds in times.items():
        ratio = seconds / times["refnode discrete"]
        rows[name] |= {"seconds": float(np.median(seconds)), "ratio": float(np.median(ratio)),
                       "ratio_range": [float(np.quantile(ratio, q)) for q in (0.1, 0.9)]}
    result = {"name": work.name, "title": work.title, "rows": rows, "machine": machine(),
              "fastest_peer_seconds": float(fastest)}
    if limit is not None:
        of_limit = {name: float(np.median(seconds / limit)) for name, seconds in times.items() if name.startswith("refnode")}
        result["lower_bound"] = {"seconds": float(np.median(limit)), "ratios": of_limit, **evaluations}
    return result


def reference_gradient(work):
    """The gradient by refnode's variational or discrete recipe at a much smaller tolerance."""
    if work.exact:
        return work.exact(work)
    recipe = "forward" if work.problem.theta.size < 50 else "discrete"
    return refnode.gradient(work.problem, recipe, method="dop853", rtol=1e-12, atol=1e-12).theta


def interleaved_times(runs, rounds, clock):
    """Median seconds of a call in each round, contestants taking turns."""
    repeats = {}
    for name, run in runs.items():
        run()
        started = time.perf_counter()
        run()
        repeats[name] = max(1, int(SECONDS_A_TURN / (time.perf_counter() - started)))
    times = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(_turn(run, repeats[name], clock))
    return {name: np.array(values) for name, values in times.items()}


def _turn(run, repeats, clock):
    durations = []
    for _ in range(repeats):
        started = clock()
        run()
        durations.append(clock() - started)
    return np.median(durations)


LIMIT = "the limit"


def products_and_activations(work):
    """The matrix products and activations of refnode's evaluations and transposes alone, by NumPy; and how many."""
    stats = refnode.gradient(work.problem, method="dopri5", rtol=work.tolerance, atol=work.tolerance, dtype=work.dtype).stats
    evaluations = {"forward": stats["nfev"], "reverse": 6 * stats["n_steps"]}
    rng = np.random.default_rng(0)
    layers = [tuple(rng.normal(size=shape).astype(work.dtype) for shape in ((work.batch, d_in), (d_out, d_in), (work.batch, d_out)))
              for d_in, d_out in zip(work.widths[:-1], work.widths[1:])]
    bars = [(np.empty_like(x), np.empty_like(w)) for x, w, _ in layers]

    def run():
        for _ in range(evaluations["forward"]):
            for x, w, out in layers:
                np.dot(x, w.T, out=out)
            for _, _, out in layers[:-1]:
                np.tanh(out, out=out)
        for _ in range(evaluations["reverse"]):
            for (x, w, out), (x_bar, w_bar) in zip(layers, bars):
                np.dot(out, w, out=x_bar)
                np.dot(out.T, x, out=w_bar)
    return run, evaluations


def machine():
    return {"python": platform.python_version(), "machine": platform.machine(), "refnode": refnode.__version__,
            "numpy": np.__version__, "threads": os.environ["OMP_NUM_THREADS"]}


def table(result):
    """One workload as a Markdown table."""
    lines = [f"## {result['name']}: {result['title']}\n",
             "| contestant | ms a gradient | time / refnode (10-90 %) | error of the gradient |", "|---|---|---|---|"]
    for name, row in result["rows"].items():
        low, high = row["ratio_range"]
        lines.append(f"| {name} | {1e3 * row['seconds']:.3f} | {row['ratio']:.2f} ({low:.2f}-{high:.2f}) "
                     f"| {row['error']:.1e} |")
    own = {name: row["seconds"] for name, row in result["rows"].items() if name.startswith("refnode")}
    quickest = min(own, key=own.get)
    lines.append(f"\nThe fastest other library takes {result['fastest_peer_seconds'] / own[quickest]:.1f} times as long as "
                 f"{quickest}, {result['fastest_peer_seconds'] / own['refnode discrete']:.1f} times as long as refnode discrete.")
    if "lower_bound" in result:
        bound = result["lower_bound"]
        best = min(bound["ratios"], key=bound["ratios"].get)
        lines.append(f"\nMatrix products and activations of {bound['forward']} evaluations and {bound['reverse']} "
                     f"transposes alone, in a turn of their own: {1e3 * bound['seconds']:.3f} ms; {best} takes "
                     f"{bound['ratios'][best]:.2f} times that, refnode discrete {bound['ratios']['refnode discrete']:.2f} times.")
    return "\n".join(lines) + "\n"


def draw(results, path):
    """The ratios of all workloads, one below the other."""
    from matplotlib.figure import Figure
    with style():
        heights = [len(result["rows"]) for result in results]
        figure = Figure(figsize=(10.5, 0.6 + sum(0.29 * height + 0.75 for height in heights)))
        plots = figure.subplots(len(results), 1, sharex=True, height_ratios=[height + 1.0 for height in heights], squeeze=False)
        for plot, result in zip(plots[:, 0], results):
            draw_ratios(plot, result)
        plots[-1, 0].set_xlabel("time of a gradient over that of refnode discrete, medians with 10 and 90 %")
        figure.savefig(path, dpi=90)


def draw_ratios(plot, result):
    """A row for each contestant, refnode's in blue, and the time of what cannot be left out as a line."""
    for place, (name, row) in enumerate(result["rows"].items()):
        own = name.startswith("refnode")
        colour = COLOURS[0] if own else COLOURS[2] if name.startswith("C,") else COLOURS[1]
        plot.plot(row["ratio_range"], [place, place], color=colour, linewidth=2.5, alpha=0.5, solid_capstyle="butt")
        plot.plot(row["ratio"], place, "o", color=colour, markersize=6)
        plot.annotate(f"{row['ratio']:,.0f}" if row["ratio"] >= 100.0 else f"{row['ratio']:.3g}", (row["ratio_range"][1], place), (6, 0), textcoords="offset points", va="center", color=colour,
                      fontsize=9)
    if "lower_bound" in result:
        bound = 1.0 / result["lower_bound"]["ratios"]["refnode discrete"]
        plot.axvline(bound, color=COLOURS[2], linestyle="--", linewidth=1.4, label="products and activations alone")
        plot.legend(loc="lower right")
    plot.axvline(1.0, color=GREY, linewidth=0.8)
    plot.set(xscale="log", yticks=range(len(result["rows"])), yticklabels=list(result["rows"]))
    plot.set_title(f"{result['name']}: {result['title']}", x=-0.5)
    plot.set_ylim(len(result["rows"]) - 0.5, -0.5)
    plot.grid(axis="y", visible=False)
    plot.tick_params(axis="y", length=0)
    plot.minorticks_off()
    plot.tick_params(axis="x", labelbottom=True)


if __name__ == "__main__":
    main()
