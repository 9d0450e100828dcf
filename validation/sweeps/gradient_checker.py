"""Claim: `check_gradient` never calls a right gradient FAIL, and never a wrong one PASS unless its error is below the rounding of f.

Random functions of 1 to 8 inputs, with units from 1e-30 to 1e30, zeros, and inputs that they do not depend
on. The wrong gradients have the component of largest effect times -1, 0, 1/2, 2 or 1 + 1e-4.
An effect |x df/dx| below 1e-9 |f| is hidden: an error of 1e-4 of it is lost in the rounding of f, and no check of
values of f can see it. INCONCLUSIVE accuses nobody; it comes from inputs of 1e-20 beside others of 1e20, where no
step is known to be long enough.
"""
import collections

import numpy as np

import sheet
from refnode.gradcheck import check_gradient
from test_gradcheck_mutants import broken, random_problem

VERDICTS = ("PASS", "INCONCLUSIVE", "FAIL", "ERROR")
HIDDEN = 1e-9
KINDS = ("right", "wrong", "wrong, effect hidden")


def kind_of(fun, x, gradient):
    """Whether the largest effect of an input, the one `broken` takes, is seen in values of fun."""
    effect = np.max(np.abs(gradient * np.where(x, x, 1)))
    return "wrong" if effect >= HIDDEN * abs(fun(x)) else "wrong, effect hidden"


def main():
    options = sheet.parser(__doc__, right=(2000, "right gradients"), wrong=(1000, "wrong ones")).parse_args()
    rng = np.random.default_rng([options.seed, 12])
    counts, tried = {kind: collections.Counter() for kind in KINDS}, 0
    while counts["right"].total() < options.right or tried < options.wrong:
        fun, x, gradient = random_problem(rng)
        if counts["right"].total() < options.right:
            counts["right"][check_gradient(fun, x, gradient).verdict] += 1
        if tried < options.wrong and gradient.any():
            counts[kind_of(fun, x, gradient)][check_gradient(fun, x, broken(gradient, x, rng)).verdict] += 1
            tried += 1
    sheet.publish(__doc__, options, ["gradients", *VERDICTS],
                  [[kind, *(count[verdict] for verdict in VERDICTS)] for kind, count in counts.items()])
    raise SystemExit(int(counts["right"]["FAIL"] + counts["wrong"]["PASS"] + sum(c["ERROR"] for c in counts.values()) > 0))


main()
