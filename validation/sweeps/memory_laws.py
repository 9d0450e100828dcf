"""Claim: the bytes of forward history that a recipe holds grow with the number of steps as its memory law says.

Lorenz to t = 1 by rk4 with given steps (the reversible recipe by mccallum_foster(rk4)); bytes are those of the arrays
held at the peak for the reverse sweep, as each gradient reports them; step times, 8 bytes a step, are apart. Those
through the step control hold what `discrete` holds, and 56 bytes an attempt; `forward` two states with all tangents.
The slope is that of log(bytes) against log(steps) over the last four numbers of steps. Time is the processor time of
a gradient over that of a solve by rk4 at the largest number of steps: the median of rounds in which all take turns.
"""
import warnings

import numpy as np
from sheet import parser, publish, turns

import refnode
from refnode.plot import COLOURS, style
from refnode.problems.catalogue import CATALOGUE
from refnode.sensitivity.recipes import RECIPES

STEPS = 2 ** np.arange(6, 15)
AN_ATTEMPT = 7 * 8           # four numbers and three marks


def options_of(recipe, steps):
    method = "mccallum_foster(rk4)" if recipe == "reversible" else "rk4"
    own = {"checkpoints": 16} if recipe in ("checkpointed", "online", "backsolve_checkpointed") else {}
    return {"method": method, "n_steps": int(steps), **own}


def history_bytes(problem, recipe, steps):
    """What the gradient reports; of those that report nothing, what they store by their sources."""
    stats = refnode.gradient(problem, recipe, **options_of(recipe, steps)).stats
    if "history_bytes" in stats:
        return stats["history_bytes"]
    if RECIPES[recipe].equation == "variational":
        n = problem.y0.size
        return 2 * 8 * n * (1 + n + problem.theta.size)
    stored = history_bytes(problem, "discrete", steps)
    return stored + (AN_ATTEMPT * int(steps) if RECIPES[recipe].truth == "through" else 0)


def times(problem, rounds):
    """recipe -> time of the gradient over that of a solve by rk4, at the largest number of steps."""
    solves = {"rk4": lambda: refnode.solve(problem, **options_of("discrete", STEPS[-1]))}
    timed = {recipe: ("rk4", lambda recipe=recipe: refnode.gradient(problem, recipe, **options_of(recipe, STEPS[-1])))
             for recipe in RECIPES}
    return {recipe: float(np.median(found)) for recipe, found in turns(solves, timed, rounds)[0].items()}


def draw(curves, ratios, path):
    """Bytes against steps, a line for each recipe, and bytes against time at the largest number of steps."""
    from matplotlib.figure import Figure
    with style():
        figure = Figure(figsize=(14.0, 5.8))
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.25, 1.0))
        for colour, (end, names) in enumerate(neighbours(curves)):
            colour = COLOURS[colour % len(COLOURS)]
            for name in names:
                left.loglog(STEPS, curves[name], marker="o", markersize=4, color=colour)
                right.loglog(ratios[name], curves[name][-1], "o", color=colour)
            words = "\n".join(", ".join(names[k:k + 3]) for k in range(0, len(names), 3))
            left.annotate(words, (STEPS[-1], end), (6, 0), textcoords="offset points", va="center", fontsize=8.5, color=colour)
            for rank, name in enumerate(sorted(names, key=ratios.get)):
                right.annotate(name, (ratios[name], curves[name][-1]), (0, 8 if rank % 2 else -8), textcoords="offset points",
                               rotation=35, va="bottom" if rank % 2 else "top", ha="left" if rank % 2 else "right",
                               rotation_mode="anchor", fontsize=8.5, color=colour)
        left.set(xlabel="steps", ylabel="bytes of forward history held", xlim=(STEPS[0], STEPS[-1] * 60),
                 title="What a recipe holds of the forward solve")
        right.set(xlabel="time of the gradient / time of the solve", title=f"and how long it takes, {STEPS[-1]} steps")
        right.set(ylim=(12, 3e7), xlim=(1.5, 120), xticks=(2, 5, 10, 20, 50, 100))
        right.xaxis.set_major_formatter("{x:g}")
        right.minorticks_off()
        figure.savefig(path, dpi=100)


def neighbours(curves):
    """(last number of bytes, names) of recipes whose last numbers of bytes differ by less than 70 %."""
    groups = []
    for name in sorted(curves, key=lambda name: -curves[name][-1]):
        if groups and groups[-1][0] < 1.7 * curves[name][-1]:
            groups[-1][1].append(name)
        else:
            groups.append((curves[name][-1], [name]))
    return groups


def main():
    options = parser(__doc__, rounds=(5, "rounds in which solve and gradients take turns")).parse_args()
    warnings.simplefilter("ignore", refnode.GradientWarning)
    problem = CATALOGUE["lorenz"]().replace(t1=1.0, ts=None, loss=refnode.losses.sum_of_squares())
    curves = {recipe: [history_bytes(problem, recipe, steps) for steps in STEPS] for recipe in RECIPES}
    ratios = times(problem, options.rounds)
    rows = []
    for recipe, held in curves.items():
        slope = np.polyfit(np.log(STEPS[-4:]), np.log(held[-4:]), 1)[0]
        rows.append((recipe, f"{held[0]:,}", f"{held[-1]:,}", f"{slope:.2f}", f"{ratios[recipe]:.1f}"))
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        draw(curves, ratios, options.output / "memory_laws.png")
    publish(__doc__, options, ("recipe", f"bytes, {STEPS[0]} steps", f"bytes, {STEPS[-1]} steps", "slope", "time / solve"), rows)


if __name__ == "__main__":
    main()
