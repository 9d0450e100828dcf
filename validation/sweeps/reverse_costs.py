"""Claim: the seminorm, and sums along the steps of lambda, take no more evaluations of the adjoint at the same order of error.

What every adjoint recipe costs on one trajectory: evaluations forward and reverse, nodes, bytes held, error.
Lotka-Volterra and two perceptrons (2-16-16-2 with 8 samples, 2-64-64-2 with 64), dopri5, atol = rtol / 1000; the error is that
of y0 and theta over the tolerance, against `discrete` by dop853 at 1e-12. A star marks the seminorm. And `forward`
with its two kinds of error control on the catalogue: calls of the jvp.
"""
import warnings

import numpy as np

import sheet
from refnode import losses
from refnode.fields.neural import mlp_field
from refnode.problems.catalogue import CATALOGUE
from refnode.problems.problem import Problem
from refnode.sensitivity.gradient import gradient
from refnode.sensitivity.recipes import RECIPES


def perceptron(width, batch, seed):
    rng = np.random.default_rng(seed)
    field = mlp_field((2, width, width, 2), "tanh", batch=batch)
    theta = rng.standard_normal(field.p) / np.sqrt(width)
    return Problem(field, rng.standard_normal(2 * batch), theta, (0.0, 2.0), [0.5, 1.0, 1.5, 2.0],
                   loss=losses.sum_of_squares(np.zeros((2 * batch, 4))))


def error(found, reference, rtol):
    pairs = ((found.y0, reference.y0), (found.theta, reference.theta))
    return max(np.max(np.abs(x - r)) / np.max(np.abs(r)) for x, r in pairs) / rtol


def adjoint_rows(name, problem):
    reference = gradient(problem, "discrete", method="dop853", rtol=1e-12, atol=1e-14)
    for rtol in (1e-4, 1e-6, 1e-8):
        for recipe, row in RECIPES.items():
            for own in [{}, {"seminorm": True}] if "seminorm" in row.options else [{}] if row.equation == "continuous" else []:
                found = gradient(problem, recipe, rtol=rtol, atol=1e-3 * rtol, **own)
                stats = found.stats
                yield [name, rtol, recipe + " *" * bool(own), stats["nfev"], stats["nfev_reverse"],
                       stats.get("nfev_quadrature", 0), stats["history_bytes"], stats.get("adjoint_bytes", 0),
                       error(found, reference, rtol)]


def forward_note():
    lines = []
    for label, own in (("default", {}), ("tangent_rtol = 1e-4", {"tangent_rtol": 1e-4, "tangent_atol": 1e-7})):
        counts = [[gradient(CATALOGUE[name](), "forward", rtol=1e-8, atol=1e-11, error_control=control, **own).stats["njvp"]
                   for control in ("simultaneous", "staggered")] for name in CATALOGUE]
        saved = 1.0 - np.array(counts) @ [0.0, 1.0] / (np.array(counts) @ [1.0, 0.0])
        lines.append(f"{label}: staggered control calls the jvp {100 * saved.min():.1f} to {100 * saved.max():.1f} % less, "
                     f"{100 * saved.mean():.1f} % on average")
    return "`forward` at 1e-8 on the catalogue. " + "; ".join(lines) + "."


def main():
    options = sheet.parser(__doc__).parse_args()
    warnings.simplefilter("ignore")
    subjects = {"Lotka-Volterra": CATALOGUE["lotka_volterra"](), "perceptron 16": perceptron(16, 8, options.seed),
                "perceptron 64": perceptron(64, 64, options.seed)}
    rows = [row for name, problem in subjects.items() for row in adjoint_rows(name, problem)]
    sheet.publish(__doc__, options, ["problem", "rtol", "recipe", "f", "f, vjp reverse", "vjp at nodes", "history bytes",
                                     "adjoint bytes", "error / rtol"], rows, forward_note())


main()
