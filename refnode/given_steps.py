"""Questions of given steps: a tableau and a list of steps, so that programs agree to rounding and not to a tolerance."""
from fractions import Fraction

import numpy as np

from refnode.errors import InvalidInputError
from refnode.interchange.answer_file import plain
from refnode.interchange.problem_file import checked_problem
from refnode.steppers.tableaus import ButcherTableau, tableau

ASSUMED_KAPPA = 100.0        # of a problem whose condition number nobody has measured
KICKS = 32                   # by which condition numbers are measured
UNIT = 2.0**-53


def tableau_of(data):
    """The `ButcherTableau` of a file's A, b and c, rounded as they are; its dense output is a straight line, and unused."""
    A, b, c = ([[Fraction(x) for x in row] for row in data["A"]], [Fraction(x) for x in data["b"]],
               [Fraction(x) for x in data["c"]])
    none = (Fraction(0),) * (len(b) + 1)
    return ButcherTableau(
        name=data.get("name", "given"), source="a problem file", order=1, error_order=0, dense_order=1,
        A=tuple(map(tuple, A)), b=tuple(b), c=tuple(c), E_exact=(none, none),
        P_exact=tuple((x,) for x in (*b, Fraction(0))), printed_precision=Fraction(1, 10**10))


def with_given_steps(data, method="rk4", n_steps=200):
    """The problem with a tableau and about ``n_steps`` steps, of which one ends at every observation time.

    Between two observation times the steps are equal, and their number is a power of two: with dyadic times every
    program's clock is then exact.
    """
    if n_steps < 1:
        raise InvalidInputError(f"steps must be a number of steps >= 1, found {n_steps}")
    if "pieces" in data["rhs"]:
        raise InvalidInputError("a right-hand side with a switch has no given steps: they would have to end at the switch")
    times = np.array([data["t0"], *(data.get("ts") or []), data["t1"]])
    horizon = abs(data["t1"] - data["t0"])
    steps = []
    for gap in np.diff(times)[np.diff(times) != 0.0]:
        count = 2 ** max(0, int(np.ceil(np.log2(n_steps * abs(gap) / horizon))))
        steps += [float(gap / count)] * count
    chosen = tableau(method)
    table = {"name": chosen.name, "A": chosen.A_array, "b": chosen.b_array, "c": chosen.c_array}
    return checked_problem(plain({
        **{key: value for key, value in data.items() if key != "sha256"},
        "solver": {"mode": "fixed", "tableau": table, "steps": steps}, "want": ["y", "loss", "grad_y0", "grad_theta"]}))


def rounding_bound(n_steps, kappa):
    """By how much the gradients of two programs may differ that take the same steps, relative to its size.

    kappa is the effect of 32 relative kicks of the state and its sensitivities. Every step rounds, as a kick of random sign
    and a few units in the last place: N steps weigh sqrt(N/32) as much, two programs twice, and four units a step are allowed.
    """
    return 2.0 * 4.0 * UNIT * max(kappa or ASSUMED_KAPPA, 1.0) * max(1.0, np.sqrt(n_steps / KICKS))


def check_given_steps(problem, answer, rtol=None):
    """The report on an answer to a problem of mode "fixed", held against refnode's own with the same steps.

    Parameters
    ----------
    problem : DataProblem
    answer : dict or callable
        As for `conformance.check_ode`.
    rtol : float, optional
        Default: `rounding_bound`.
    """
    from refnode.conformance.ode_report import OdeReport
    from refnode.own_answer import answer_of
    data = problem.to_dict()
    n_steps = len(data["solver"]["steps"])
    rtol = rounding_bound(n_steps, problem.kappa) if rtol is None else rtol
    yours = answer(data, None, None) if callable(answer) else answer
    name = {"problem": problem.id, "tool": (yours.get("tool") or {}).get("name", ""), "truth": "frozen",
            "reference": "refnode discrete, the same steps",
            "settings": {"reason": f"rounding of {n_steps} steps", "rtol": rtol}}
    if yours.get("error"):
        return OdeReport("ERROR", notes=[yours["error"].splitlines()[0]], **name)
    components, notes = compared(yours, answer_of(data), data["names"] if "names" in data else {}, rtol)
    verdicts = [component.verdict for component in components]
    verdict = "FAIL" if "FAIL" in verdicts or notes else "PASS" if verdicts else "ERROR"
    return OdeReport(verdict, components=components, notes=notes, **name)


def compared(yours, reference, names, rtol):
    """A `Judgement` for every number, in units of the largest of its block, and what has a wrong shape."""
    components, notes = [], []
    for label, mine, right in _blocks(yours, reference):
        right = np.asarray(right, dtype=float)
        mine = np.asarray(np.nan if mine is None else mine, dtype=float)
        if mine.shape != right.shape:
            notes.append(f"shape: {label} has shape {mine.shape}, expected {right.shape}")
            continue
        bound = rtol * float(np.max(np.abs(right), initial=0.0))
        components += [_judgement(label, index, names, float(mine[index]), float(right[index]), bound)
                       for index in np.ndindex(right.shape)]
    return components, notes


def _blocks(yours, reference):
    """(label, yours, reference) of what the answer holds; y, loss and the gradients for y0 and theta are expected."""
    yield "y", yours.get("y"), reference["y"]
    yield "loss", yours.get("loss"), reference["loss"]
    for key, right in reference["grad"].items():
        yield key, (yours.get("grad") or {}).get(key), right


def _judgement(label, index, names, yours, reference, bound):
    from refnode.gradcheck.gradient_report import Judgement
    error = abs(yours - reference)
    name = label + "".join(f"[{i}]" for i in index)
    known = names.get({"y0": "y"}.get(label, label), ())
    return Judgement(
        name=f"{name} {known[index[0]]}" if index and known else name, index=index, yours=yours, reference=reference,
        error=error, bound=bound, tolerance=bound, uncertainty=0.0, verdict="PASS" if error <= bound else "FAIL",
        finite_difference=np.nan, finite_difference_error=np.nan)
