"""Claim: backsolve warns or fails wherever y cannot be solved backwards, and says nothing of a gradient right to 10 tolerances.

First the problems on which it must never be silent (Lorenz to T = 2, relaxation at rates 200 and 1000, Van der Pol at
100), then the catalogue, by every method with error control, tolerances 1e-3 to 1e-10 (bosh3: to 1e-8) and atol = rtol / 1000.
A false alarm is a warning about a gradient within 10, 30 or 100 times the tolerance. What it misses are gradients
off by more than 5000 times the tolerance.
"""
import warnings

import numpy as np

import sheet
from refnode.problems.catalogue import CATALOGUE
from gradients import ADAPTIVE, exact, flat, weighted_error
from test_backsolve import BACKSOLVES, TOLERANCES, UNRELIABLE, outcome


def unreliable_row(name, recipe):
    said = [outcome(UNRELIABLE[name](), recipe, rtol, rtol)[0] for rtol in TOLERANCES]
    return [name, recipe, "", len(said), said.count("warned"), said.count("raised"), said.count("nothing"), "", "", "", ""]


def catalogue_row(method, recipe):
    said, errors = [], []
    for name in CATALOGUE:
        for rtol in TOLERANCES[:6] if method == "bosh3" else TOLERANCES:
            each, found = outcome(CATALOGUE[name](), recipe, rtol, 1e-3 * rtol, method=method)
            said.append(each)
            errors.append(np.nan if found is None else weighted_error(CATALOGUE[name](), flat(found), exact(name)) / rtol)
    warned, errors = np.array(said) == "warned", np.array(errors)
    false = [int(np.sum(warned & (errors <= bound))) for bound in (10.0, 30.0, 100.0)]
    missed = int(np.sum((np.array(said) == "nothing") & (errors > 5000.0)))
    return ["catalogue", recipe, method, len(said), int(np.sum(warned)), said.count("raised"), said.count("nothing"), *false, missed]


def main():
    options = sheet.parser(__doc__).parse_args()
    warnings.simplefilter("ignore")
    rows = [unreliable_row(name, recipe) for name in UNRELIABLE for recipe in ("backsolve_plain", "backsolve")]
    rows += [catalogue_row(method, recipe) for method in ADAPTIVE for recipe in BACKSOLVES]
    sheet.publish(__doc__, options, ["problem", "recipe", "method", "runs", "warned", "raised", "silent", "false alarms at 10",
                                     "at 30", "at 100", "missed"], rows)


main()
