"""Claim: `discrete` is the exact derivative of the steps taken: dot product to 1e-13, complex steps to 1e-12.

For every method on every problem of the catalogue, with equal steps and, where the method can, with steps
chosen by error control with and without steps that end at observations; all inputs, times among them.
Dot product: |<w, J v> - <J^T w, v>| over the sum of the magnitudes of all terms, J by `discrete_forward`.
Complex step: through the replay of the same steps, the error of each block of inputs over its largest entry.
"""
import numpy as np

import sheet
import gradients
from refnode.problems.catalogue import CATALOGUE
from refnode.steppers.tableaus import TABLEAUS

EQUAL = {"n_steps": 24}
CHOSEN = [{"rtol": 1e-5, "atol": 1e-8, "tstops": tstops} for tstops in (False, True)]


def worst_of(method, name, seeds, first):
    """(dot product, complex step), the largest errors of a method on a problem."""
    problem, found = CATALOGUE[name](), []
    for options in [EQUAL] + CHOSEN * TABLEAUS[method].adaptive:
        for seed in range(first, first + seeds):
            rng = np.random.default_rng(seed)
            dot = gradients.dot_product_error(problem, rng, method=method, **options)
            step = gradients.complex_step_error(problem, gradients.random_seeds(problem, rng), method=method, **options)
            found.append((dot, step))
    return np.max(found, axis=0)


def main():
    options = sheet.parser(__doc__, directions=(3, "random tangents and cotangents of each solve")).parse_args()
    rows = []
    for method in TABLEAUS:
        errors = np.array([worst_of(method, name, options.directions, options.seed) for name in CATALOGUE])
        names = [list(CATALOGUE)[k] for k in np.argmax(errors, axis=0)]
        rows.append([method, float(errors[:, 0].max()), names[0], float(errors[:, 1].max()), names[1]])
    sheet.publish(__doc__, options, ["method", "dot product", "worst on", "complex step", "worst on"], rows,
                  f"{len(CATALOGUE)} problems.")


main()
