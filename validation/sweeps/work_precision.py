"""Claim: every recipe reaches the accuracy it promises, and this is the work it takes.

Lotka-Volterra from the catalogue by dopri5, at tolerances 1e-3 to 1e-11; `reversible` by mccallum_foster(dopri5) with
16 to 4096 given steps. Work is the number of evaluations of f, of its jvp and of its vjp, one each. The error is the
largest of the gradient in y0, theta, t0, t1 and ts, in units of the largest entry of its block, against SciPy on the
variational system. Exact recipes are held to an error in proportion to tolerance down to 1e-10 at 1e-12; the slope is
that of log(error) against log(tolerance), for given steps against log(steps). `through` differentiates its own noise.
"""
import warnings

import numpy as np
from sheet import parser, publish

import refnode
from refnode.evidence.exhibits import PROBLEM, TOLERANCES, evaluations
from refnode.evidence.gradient_claims import Case
from refnode.evidence.reversible_claims import needs_inverse
from refnode.evidence.row import block_scale, flat
from refnode.plot import COLOURS, GREY, style
from refnode.sensitivity.recipes import RECIPES

GIVEN = 2 ** np.arange(4, 13)
COUPLED = "mccallum_foster(dopri5)"
TIGHT = 1e-12
FAMILIES = {"exact": COLOURS[0], "frozen": COLOURS[1], "through": COLOURS[3]}


def curve(case, recipe):
    """(tolerances or steps, errors, evaluations), and the error at the tolerance TIGHT."""
    def error_of(found):
        return float(np.max(np.abs(flat(found) - case.exact.gradient) / scale))
    scale = block_scale(case.problem, case.exact.gradient)
    if needs_inverse(recipe):
        found = [refnode.gradient(case.problem, recipe, method=COUPLED, n_steps=int(n)) for n in GIVEN]
        return GIVEN, np.array([error_of(each) for each in found]), [evaluations(each, case.problem) for each in found], \
            error_of(refnode.gradient(case.problem, recipe, method=COUPLED, n_steps=2 * int(GIVEN[-1])))
    found = [case.gradient(recipe, rtol=rtol) for rtol in TOLERANCES]
    return TOLERANCES, np.array([error_of(each) for each in found]), [evaluations(each, case.problem) for each in found], \
        error_of(case.gradient(recipe, rtol=TIGHT))


def draw(curves, path):
    """One panel for each recipe: its own curve in colour, those of all others behind it in grey."""
    from matplotlib.figure import Figure
    with style():
        figure = Figure(figsize=(14.5, 8.2))
        panels = figure.subplots(3, 6, sharex=True, sharey=True).ravel()
        for panel, (recipe, (_, errors, work, _)) in zip(panels, curves.items()):
            for _, others, spent, _ in curves.values():
                panel.plot(spent, others, color="#D9D9D9", linewidth=0.8)
            panel.plot(work, errors, "o-", color=FAMILIES[RECIPES[recipe].truth], markersize=3.5)
            panel.set(xscale="log", yscale="log")
            panel.set_title(recipe, fontsize=10.5)
        for panel in panels[len(curves):]:
            panel.axis("off")
        key = panels[len(curves)]
        for row, (truth, colour) in enumerate(FAMILIES.items()):
            key.text(0.05, 0.8 - 0.16 * row, f"truth: {truth}", color=colour, weight="bold", transform=key.transAxes)
        key.text(0.05, 0.8 - 0.48, "grey: all others", color=GREY, transform=key.transAxes)
        figure.supxlabel("evaluations of f, jvp and vjp")
        figure.supylabel("error of the gradient, relative")
        figure.suptitle("Work and precision of every recipe: Lotka-Volterra, dopri5", x=0.01, ha="left", weight="bold")
        figure.savefig(path, dpi=90)


def main():
    options = parser(__doc__).parse_args()
    warnings.simplefilter("ignore", refnode.GradientWarning)
    case = Case(PROBLEM, options.seed)
    curves = {recipe: curve(case, recipe) for recipe in RECIPES}
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        draw(curves, options.output / "work_precision.png")
    rows = []
    for recipe, (at, errors, work, tight) in curves.items():
        slope = np.polyfit(np.log(at[:7]), np.log(errors[:7]), 1)[0]
        rows.append((recipe, RECIPES[recipe].truth, f"{errors[2]:.1e}", work[2], f"{errors[6]:.1e}", work[6], f"{slope:.2f}",
                     f"{tight:.1e}"))
    uncertainty = np.max(case.exact.uncertainty / block_scale(case.problem, case.exact.gradient))
    publish(__doc__, options, ("recipe", "truth", "error at 1e-5", "evaluations", "error at 1e-9", "evaluations", "slope",
                               "error at 1e-12"), rows,
            f"Of `reversible` the errors are those of {GIVEN[2]}, {GIVEN[6]} and {2 * GIVEN[-1]} steps. The reference is certain to "
            f"{uncertainty:.1e}.")


if __name__ == "__main__":
    main()
