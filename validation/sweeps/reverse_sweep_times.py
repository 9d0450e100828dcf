"""Claim: on a perceptron 2-64-64-2 with 512 samples the reverse sweep of `discrete` takes at most 3 times the forward solve.

By dopri5 at tolerance 1e-5 over t in [0, 2], four observations, 4482 parameters; `reversible` by mccallum_foster(dopri5)
with as many given steps, beside its own solve. All times are processor time of one process, one thread. In every
round solve and recipes take turns; a ratio is that of one round, the table has medians over the rounds and the range
of their middle half. The sweep is the gradient without its forward solve; of a forward recipe it is one tangent of
y(ts), and there are 5506 to a gradient.
"""
import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")      # before NumPy is imported
os.environ.setdefault("MKL_NUM_THREADS", "1")
import warnings

import numpy as np
from sheet import parser, publish, turns

import refnode
from refnode.evidence.reversible_claims import needs_inverse
from refnode.fields.neural import mlp_field
from refnode.layers.parameters import initial_parameters
from refnode.sensitivity.recipes import RECIPES

WIDTHS, BATCH = (2, 64, 64, 2), 512
CONTROLLED = {"method": "dopri5", "rtol": 1e-5, "atol": 1e-5}
TARGET = 3.0


def problem_of(seed):
    """Weights as a network begins with, twofold, so that the flow turns."""
    field, rng = mlp_field(WIDTHS, "tanh", batch=BATCH), np.random.default_rng(seed)
    ts = [0.5, 1.0, 1.5, 2.0]
    return refnode.Problem(field, rng.uniform(-2.0, 2.0, field.n), 2.0 * initial_parameters(WIDTHS, seed), (0.0, 2.0), ts=ts,
                           loss=refnode.losses.mean_of_squares(rng.standard_normal((field.n, len(ts)))))


def works(problem, rng):
    """name -> (which solve it is beside, what is timed)."""
    steps = refnode.solve(problem, **CONTROLLED).n_steps
    given = {"method": "mccallum_foster(dopri5)", "n_steps": steps}
    y0_tan, theta_tan = rng.standard_normal(problem.y0.size), rng.standard_normal(problem.theta.size)
    solves = {"chosen": lambda: refnode.solve(problem, **CONTROLLED), "given": lambda: refnode.solve(problem, **given)}
    timed = {}
    for name, recipe in RECIPES.items():
        beside, options = ("given", given) if needs_inverse(name) else ("chosen", CONTROLLED)
        if recipe.needs == "jvp":
            timed[name] = beside, lambda name=name: refnode.jvp(problem, y0_tan, theta_tan, sensitivity=name, **CONTROLLED)
        else:
            timed[name] = beside, lambda name=name, options=options: refnode.gradient(problem, name, **options)
    return solves, timed, steps


def main():
    options = parser(__doc__, rounds=(9, "rounds in which solve and recipes take turns")).parse_args()
    warnings.simplefilter("ignore", refnode.GradientWarning)
    solves, timed, steps = works(problem_of(options.seed), np.random.default_rng(options.seed))
    ratios, seconds = turns(solves, timed, options.rounds)
    rows = []
    for name in timed:
        low, middle, high = np.percentile(ratios[name] - 1.0, [25, 50, 75])
        rows.append((name, "one tangent" if RECIPES[name].needs == "jvp" else "reverse sweep", f"{middle:.2f}",
                     f"{low:.2f} to {high:.2f}"))
    reached = np.median(ratios["discrete"]) - 1.0
    publish(__doc__, options, ("recipe", "what", "sweep / solve", "middle half"), rows,
            f"`discrete`: {reached:.2f}, the target is at most {TARGET:g}: {'reached' if reached <= TARGET else 'NOT reached'}. "
            f"A solve of {steps} steps takes {1e3 * np.median(seconds):.0f} ms of processor time on this machine.")


if __name__ == "__main__":
    main()
