"""`check_ode`: is the gradient of an ODE solve right, and if not, which known mistake is it?"""
import math

from refnode.conformance.ode_case import QUANTITIES, Case
from refnode.conformance.ode_reference import certified_reference, difference_reference, own_reference
from refnode.conformance.program_check import check_program
from refnode.errors import InvalidInputError, InvalidTypeError
from refnode.problems.problem import Problem

TIMES = ("grad_t0", "grad_t1", "grad_ts")
TRUTHS = ("auto", "exact", "frozen", "through")


def check_ode(problem, answer, *, quantities=QUANTITIES, truth="auto", rtol=None, diagnose=True, executor=None):
    """Judge the gradient of an ODE solve that another program computed, and name its mistake.

    Parameters
    ----------
    problem : str, ReferenceProblem or Problem
        An id of the reference set such as "lotka_volterra/obs21", or a problem of your own, whose reference is then
        refnode's, with an error estimate.
    answer : dict or callable
        {"y": n rows of K, "loss": number, "grad": {"y0", "theta", "t0", "t1", "ts"}, "tool": {"name"}, "stats": {"rtol",
        "atol"}}, of which anything may be missing but one number; or a program ``answer(problem_as_dict, rtol, atol)``
        that returns such a dict. A program is called at several tolerances, and on problems whose answers follow from
        this one's.
    quantities : sequence of str
        Out of "y", "loss", "grad_y0", "grad_theta", "grad_t" (or "grad_t0", "grad_t1", "grad_ts").
    truth : "auto", "exact", "frozen" or "through"
        Which derivative yours is meant to be. An answer does not hold its steps, so that "frozen" and "through" cannot be
        confirmed from it: every gradient is compared with the derivative of the solution, to which all three tend. One that
        differs, and no mistake of the dictionary, is INCONCLUSIVE instead of FAIL only where refnode's own derivative of that
        kind differs as well; the report says so. To compare derivatives of steps to rounding give the steps
        (``refnode problems export --mode fixed``, docs/interchange.md). An answer's own ``truth`` is reported, and changes
        no verdict.
    rtol : float, optional
        Accuracy asked for, as a part of the gradient's size in its block. Default: what the tolerance allows at which
        the answer was computed, if it says so (``stats``), else 1e-6.
    diagnose : bool
        Whether to look for known mistakes where the verdict is not PASS.
    executor : concurrent.futures.Executor, optional
        Runs the calls of a program beside each other.

    Returns
    -------
    OdeReport

    Raises
    ------
    InvalidInputError, InvalidTypeError
        An argument is wrong, or the problem is unknown.
    ProblemFileError
        The answer is one to another problem, by its ``problem_sha256``.
    """
    case = case_of(problem, checked_quantities(quantities), checked_truth(truth), rtol)
    report = (check_program(case, answer, diagnose, executor) if callable(answer)
              else case.report(case.judged(answer), diagnose))
    report.settings["command"] = call_text(problem, answer)
    return report


def call_text(problem, answer):
    """What repeats a check, by the names that the reader knows."""
    name = problem if isinstance(problem, str) else getattr(problem, "id", None)
    return f"refnode.check_ode({repr(name) if name else 'problem'}, {getattr(answer, '__name__', 'answer')})"


def checked_quantities(quantities):
    """The quantities, "grad_t" written out.

    Raises
    ------
    InvalidInputError
        If one is not known.
    """
    quantities = (quantities,) if isinstance(quantities, str) else tuple(quantities)
    unknown = [q for q in quantities if q not in (*QUANTITIES, *TIMES)]
    if unknown or not quantities:
        raise InvalidInputError(f"quantities must be some of {', '.join((*QUANTITIES, *TIMES))}, found {unknown or quantities}")
    return tuple(q for name in quantities for q in (TIMES if name == "grad_t" else (name,)))


def checked_truth(truth):
    if truth not in TRUTHS:
        raise InvalidInputError(f"truth must be one of {TRUTHS}, found {truth!r}")
    return truth


def case_of(problem, quantities=QUANTITIES, truth="auto", rtol=None):
    """The `Case` of an id, a record or a problem.

    Raises
    ------
    InvalidInputError, InvalidTypeError
        If there is no such problem, or it has no loss.
    """
    if rtol is not None and not (isinstance(rtol, (int, float)) and 0 < rtol < math.inf):
        raise InvalidInputError(f"rtol must be a number > 0, found {rtol!r}")
    if isinstance(problem, str):
        problem = _record(problem)
    if isinstance(problem, Problem):
        if problem.loss is None:
            raise InvalidInputError("check_ode needs a problem with a loss; give Problem(..., loss=...)")
        return Case(problem, own_reference(problem), as_data(problem), None, None, quantities, truth, rtol)
    if not hasattr(problem, "to_dict") or not hasattr(problem, "problem"):
        raise InvalidTypeError("problem must be an id, a ReferenceProblem or a refnode.Problem, found "
                               f"{type(problem).__name__}")
    reference = certified_reference(problem)
    if reference is None:
        make = difference_reference if "pieces" in problem.rhs else own_reference
        reference = make(problem.problem)
    data = problem.to_dict()
    return Case(problem.problem, reference, data, data.get("sha256"), problem.kappa, quantities, truth, rtol)


def _record(id):
    from refnode.problems.reference_set import REFERENCE_PROBLEMS       # late: the set is built when asked for
    if id not in REFERENCE_PROBLEMS:
        close = [name for name in REFERENCE_PROBLEMS if name.split("/")[0] == id.split("/")[0]]
        raise InvalidInputError(f"problem {id!r} is not known; known are {', '.join(close or REFERENCE_PROBLEMS)}")
    return REFERENCE_PROBLEMS[id]


def as_data(problem):
    """A `Problem` in the shape of the interchange format, with its field and loss as they are."""
    return {"format": "refnode.problem", "version": 1, "id": problem.name, "rhs": {"field": problem.field},
            "t0": problem.t0, "t1": problem.t1, "y0": problem.y0.tolist(), "theta": problem.theta.tolist(),
            "ts": None if problem.ts_is_t1 else problem.ts.tolist(), "loss": {"kind": "object", "loss": problem.loss},
            "names": {"y": problem.field.state_names, "theta": problem.field.parameter_names}}
