"""Claim: the error of every continuous recipe is proportional to the tolerance.

Every recipe and every method with error control, on every problem of the catalogue: the slope of log error against log
tolerance by least squares, and the largest error over tolerance; atol = rtol / 1000. The reference is a closed
form, or SciPy's DOP853 on the variational system at 1e-13. The error is the largest effect of a relative error of
an input's derivative, over the largest effect of all. bosh3 takes hundreds of steps and its constant settles:
1 +- 0.1, but for `backsolve_plain`, whose y drifts on Robertson's problem, and is told. Methods of order 5 and 8
take few steps, whose signed errors cancel or not: 1 +- 0.42.
"""
import warnings

import numpy as np

import sheet
from refnode.errors import GradientWarning
from refnode.problems.catalogue import CATALOGUE
from gradients import ADAPTIVE, CONTINUOUS, exact, slope
from test_continuous_adjoint import TOLERANCES, errors_at


def slope_and_constant(recipe, method, name):
    """The slope, and the largest error over tolerance; bosh3 stops a decade earlier than the others."""
    tolerances = TOLERANCES[:4] if method == "bosh3" else TOLERANCES
    errors = errors_at(CATALOGUE[name](), exact(name), recipe, tolerances, method)
    return slope(tolerances, errors), np.max(errors / tolerances)


def main():
    options = sheet.parser(__doc__).parse_args()
    warnings.simplefilter("ignore", GradientWarning)
    rows = []
    for method in ADAPTIVE:
        for recipe in CONTINUOUS:
            slopes, constants = np.array([slope_and_constant(recipe, method, name) for name in CATALOGUE]).T
            order = np.argsort(slopes)
            low, high, worst = (list(CATALOGUE)[k] for k in (order[0], order[-1], np.argmax(constants)))
            rows.append([method, recipe, f"{slopes.min():.2f} ({low})", f"{slopes.max():.2f} ({high})",
                         f"{constants.max():.3g} ({worst})"])
    note = f"{len(CATALOGUE)} problems, tolerances {TOLERANCES[0]:g} to {TOLERANCES[-1]:g} (bosh3: to {TOLERANCES[3]:g})."
    sheet.publish(__doc__, options, ["method", "recipe", "least slope", "largest slope", "error / tolerance"], rows, note)


main()
