"""The orders of every method, observed: at the steps, between them, and lost where a node is wrong.

The error of a method of order p is C h^p (1 + a h + ...), so that halving h shows log2 of the ratio of two
errors as p + a h / (2 log 2) + ...; a method of another order is off by a whole 1. BAND lies in between:
the runs are fine enough for the second term to stay below it, and coarse enough for the smallest error to
stay above 1e-14, ten roundings of the solution.
"""
import numpy as np
import pytest

import stubs
from refnode import InvalidInputError, solve
from refnode.steppers import tableaus
from refnode.steppers.tableaus import TABLEAUS, ButcherTableau

BAND = 0.4
FLOOR = 1e-14
PROBLEMS = {"autonomous": stubs.AUTONOMOUS, "non-autonomous": stubs.NON_AUTONOMOUS}
COARSEST = {                    # steps of the coarsest of three runs: autonomous, non-autonomous
    "euler": (128, 128), "midpoint": (32, 32), "heun": (32, 32), "rk4": (32, 32), "rk38": (32, 32),
    "bosh3": (32, 32), "dopri5": (16, 16), "tsit5": (16, 32), "dop853": (2, 5),
}
SINGLE_STEP = {name: 0.05 for name in TABLEAUS} | {"dop853": 0.5}
BETWEEN = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
CASES = [(method, which) for method in TABLEAUS for which in PROBLEMS]


def observed_order(error_of):
    """The slope of the finer of two halvings; ``error_of(2^-j)``."""
    errors = [error_of(2.0 ** -j) for j in range(3)]
    assert errors[-1] > FLOOR, "in the rounding"
    return np.log2(errors[1] / errors[2])


def end_error(known, method, n_steps):
    solution = solve(known.problem(), method=method, n_steps=n_steps)
    return np.max(np.abs(solution.y1 - known.solution(known.span[1])))


def order_at_the_end(known, method, coarsest):
    return observed_order(lambda scale: end_error(known, method, round(coarsest / scale)))


def coarsest(method, which):
    return COARSEST[method][list(PROBLEMS).index(which)]


@pytest.mark.parametrize("method, which", CASES)
def test_order(method, which):
    order = order_at_the_end(PROBLEMS[which], method, coarsest(method, which))
    assert abs(order - TABLEAUS[method].order) < BAND


@pytest.mark.parametrize("method, which", CASES)
def test_order_of_the_dense_output_within_one_step(method, which):
    """From an exact state, the error between the ends of one step is O(h^(dense_order + 1))."""
    known = PROBLEMS[which]

    def error_of(scale):
        h, t0 = SINGLE_STEP[method] * scale, known.span[0]
        sol = solve(known.problem((t0, t0 + h)), method=method, n_steps=1, dense_output=True).sol
        return max(np.max(np.abs(sol(t0 + s * h) - known.solution(t0 + s * h))) for s in BETWEEN)

    assert abs(observed_order(error_of) - (TABLEAUS[method].dense_order + 1)) < BAND


@pytest.mark.parametrize("method, which", CASES)
def test_observations_between_steps_lose_no_order(method, which):
    """Over many steps the errors h^order of the steps and h^(dense_order + 1) between them meet."""
    known = PROBLEMS[which]
    (t0, t1), n_steps = known.span, coarsest(method, which)

    def error_of(scale):
        h = (t1 - t0) / n_steps * scale
        ts = t0 + h * (np.arange(0.0, n_steps / scale)[:, None] + BETWEEN).ravel()
        ys = solve(known.problem(ts=ts), method=method, n_steps=round(n_steps / scale)).y
        return np.max(np.abs(ys - np.transpose([known.solution(t) for t in ts])))

    expected = min(TABLEAUS[method].order, TABLEAUS[method].dense_order + 1)
    assert abs(observed_order(error_of) - expected) < 1.5 * BAND and expected == TABLEAUS[method].order


# --- a wrong node ---------------------------------------------------------------------------------

def mutant_of(method, **changes):
    """The tableau with some numbers changed, past the identities that would refuse it."""
    mutant = object.__new__(ButcherTableau)
    mutant.__dict__.update({name: getattr(TABLEAUS[method], name) for name in TABLEAUS[method].__match_args__})
    mutant.__dict__.update(changes, name="mutant")
    return mutant


def wrong_nodes(method):
    """One node of the method at a time with the wrong sign, as in torchdiffeq's gl4 once."""
    c = TABLEAUS[method].c
    return [c[:i] + (-c[i],) + c[i + 1:] for i in range(1, len(c)) if c[i] != 0]


MUTANTS = [pytest.param(method, c, id=f"{method}-c{i}")
           for method in TABLEAUS for i, c in enumerate(wrong_nodes(method), 1)]


@pytest.mark.parametrize("method, c", MUTANTS)
def test_a_wrong_node_is_seen_on_the_non_autonomous_problem_only(method, c, monkeypatch):
    options = f"mutant {method} {[float(x) for x in c]}"            # a name of its own: options are cached
    monkeypatch.setitem(tableaus.TABLEAUS, options, mutant_of(method, c=c))
    known, steps = stubs.NON_AUTONOMOUS, coarsest(method, "non-autonomous")
    with np.errstate(invalid="ignore"):         # some mutants are wrong enough to take the log of a negative number
        assert order_at_the_end(known, options, steps) < TABLEAUS[method].order - BAND
    same = [end_error(stubs.AUTONOMOUS, name, 8) for name in (method, options)]
    assert same[0] == same[1]


def test_a_tableau_with_a_wrong_node_refuses_to_exist():
    method = TABLEAUS["rk4"]
    arguments = {name: getattr(method, name) for name in method.__match_args__}
    with pytest.raises(InvalidInputError, match="A·1 = c is violated"):
        ButcherTableau(**{**arguments, "c": wrong_nodes("rk4")[0]})


def test_a_wrong_node_of_an_extra_stage_is_seen_between_the_steps(monkeypatch):
    """DOP853 evaluates f three more times for its dense output."""
    c_extra = TABLEAUS["dop853"].c_extra_exact
    monkeypatch.setitem(tableaus.TABLEAUS, "mutant extra",
                        mutant_of("dop853", c_extra_exact=(-c_extra[0],) + c_extra[1:]))
    t0 = stubs.NON_AUTONOMOUS.span[0]
    errors = []
    for method in ("dop853", "mutant extra"):
        sol = solve(stubs.NON_AUTONOMOUS.problem((t0, t0 + 0.125)), method=method, n_steps=1,
                    dense_output=True).sol
        errors.append(np.max(np.abs(sol(t0 + 0.0625) - stubs.exchange_solution(t0 + 0.0625))))
    assert errors[0] < 1e-9 < 1e-6 < errors[1]
