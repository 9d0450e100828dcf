"""Claim: the bytes of forward history that a recipe holds grow with the number of steps as its memory law says.

Lorenz to t = 1 by rk4 with given steps (the reversible recipe by mccallum_foster(rk4)); bytes are those of the arrays
held at the peak for the reverse sweep, as each gradient reports them; step times, 8 bytes a step, are apart. The
slope is that of log(bytes) against log(steps) over the last four numbers of steps. Time is the processor time of a
gradient over that of a solve, the least of several runs each, at the largest number of steps.
"""
import time

import numpy as np
from sheet import parser, publish

import refnode
from refnode.problems.catalogue import CATALOGUE

STEPS = 2 ** np.arange(6, 15)
RECIPES = ("discrete", "checkpointed", "online", "sqrt", "symplectic", "reversible", "interpolating", "quadrature",
           "gauss", "gauss_kronrod", "backsolve_checkpointed", "backsolve", "backsolve_plain")


def options_of(recipe, steps):
    method = "mccallum_foster(rk4)" if recipe == "reversible" else "rk4"
    own = {"checkpoints": 16} if recipe in ("checkpointed", "online", "backsolve_checkpointed") else {}
    return {"method": method, "n_steps": int(steps), **own}


def best(function, runs):
    times = []
    for _ in range(runs):
        started = time.process_time()
        function()
        times.append(time.process_time() - started)
    return min(times)


def measured(problem, recipe, runs):
    """History bytes at every number of steps, and time of the gradient over that of the solve at the last."""
    held = []
    for steps in STEPS:
        held.append(refnode.gradient(problem, recipe, **options_of(recipe, steps)).stats["history_bytes"])
    options = options_of(recipe, STEPS[-1])
    solve_options = {name: value for name, value in options.items() if name != "checkpoints"}
    solve = best(lambda: refnode.solve(problem, **solve_options), runs)
    return np.array(held), best(lambda: refnode.gradient(problem, recipe, **options), runs) / solve


def draw(curves, path):
    """Bytes against steps, a line for each recipe, and a label for those that lie close together."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    figure, axes = pyplot.subplots(figsize=(8.6, 5.0), layout="constrained")
    for colour, (end, names) in enumerate(neighbours(curves)):
        for name in names:
            axes.loglog(STEPS, curves[name], marker="o", markersize=4, color=f"C{colour}")
        axes.annotate("\n".join([", ".join(names[:3]), ", ".join(names[3:])]).strip(), (STEPS[-1], end), (6, 0),
                      textcoords="offset points", va="center", fontsize=9, color=f"C{colour}")
    axes.set_title("What a reverse sweep holds of the forward solve", loc="left", weight="bold")
    axes.set_xlabel("steps")
    axes.set_ylabel("bytes of forward history held")
    axes.set_xlim(STEPS[0], STEPS[-1] * 40)
    axes.grid(color="0.9")
    figure.savefig(path, dpi=130)


def neighbours(curves):
    """(last number of bytes, names) of recipes whose last numbers of bytes differ by less than half."""
    groups = []
    for name in sorted(curves, key=lambda name: -curves[name][-1]):
        if groups and groups[-1][0] < 1.5 * curves[name][-1]:
            groups[-1][1].append(name)
        else:
            groups.append((curves[name][-1], [name]))
    return groups


def main():
    options = parser(__doc__, runs=(5, "runs a timing is the least of")).parse_args()
    problem = CATALOGUE["lorenz"]().replace(t1=1.0, ts=None, loss=refnode.losses.sum_of_squares())
    rows, curves = [], {}
    for recipe in RECIPES:
        held, ratio = measured(problem, recipe, options.runs)
        slope = np.polyfit(np.log(STEPS[-4:]), np.log(held[-4:]), 1)[0]
        curves[recipe] = held.tolist()
        rows.append((recipe, f"{held[0]:,}", f"{held[-1]:,}", f"{slope:.2f}", f"{ratio:.1f}"))
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        draw(curves, options.output / "memory_laws.png")
    publish(__doc__, options, ("recipe", f"bytes, {STEPS[0]} steps", f"bytes, {STEPS[-1]} steps", "slope", "time / solve"), rows)


if __name__ == "__main__":
    main()
