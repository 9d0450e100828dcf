"""Claim: `solve_ivp` takes SciPy's steps: as many evaluations, and the same states to a fraction of the tolerance.

Six problems, three tolerances, three methods, SciPy's defaults otherwise. The states are compared at 12 equal times, the
difference over atol + rtol |y|: the steps of both end at times that differ by the roundings of the error estimate.
"""
import numpy as np
import scipy.integrate

import sheet
import refnode
from test_solve_ivp import PROBLEMS, SCIPY_METHODS

TOLERANCES = ((1e-3, 1e-6), (1e-6, 1e-9), (1e-9, 1e-11))


def main():
    options = sheet.parser(__doc__).parse_args()
    rows = []
    for method in SCIPY_METHODS:
        for rtol, atol in TOLERANCES:
            ratios, differences = [], []
            for fun, span, y0 in PROBLEMS.values():
                ours, scipys = (solver(fun, span, y0, method=method, rtol=rtol, atol=atol)
                                for solver in (refnode.solve_ivp, scipy.integrate.solve_ivp))
                ratios.append(ours.nfev / scipys.nfev)
                times = np.linspace(*span, 12)
                y, reference = (solver(fun, span, y0, method=method, rtol=rtol, atol=atol, t_eval=times).y
                                for solver in (refnode.solve_ivp, scipy.integrate.solve_ivp))
                differences.append(np.max(np.abs(y - reference) / (atol + rtol * np.abs(reference))))
            rows.append([method, f"{rtol:g}", f"{min(ratios):.3f}", f"{max(ratios):.3f}", float(max(differences))])
    head = ["method", "rtol", "least ratio of evaluations", "largest", "difference of states"]
    sheet.publish(__doc__, options, head, rows, f"{len(PROBLEMS)} problems: {', '.join(PROBLEMS)}.")


main()
