"""The translation of interchange problems, in NumPy: against the hand-written fields and losses of the set."""
import json

import numpy as np
import pytest

from refnode.adapters.answer_form import NotExpressible, answer_form, numbers, plain
from refnode.adapters.translate import NUMPY, Task, switched_rhs, translated, translated_rhs
from refnode.adapters.two_pieces import around_switch, solved_in_pieces, solved_to_switch
from refnode.errors import InvalidInputError
from refnode.problems.certified import certified
from refnode.problems.reference_problem import switches_of
from refnode.problems.reference_set import REFERENCE_PROBLEMS

ROUNDING = 1e-13            # of a right-hand side or a loss, in units of the sum of its magnitudes


def as_read(record):
    """The problem after a journey through JSON."""
    return json.loads(json.dumps(record.to_dict()))


@pytest.mark.parametrize("id", [id for id, record in REFERENCE_PROBLEMS.items() if len(switches_of(record.rhs)) < 2])
def test_right_hand_sides_equal_the_hand_written_fields(id):
    record, task = REFERENCE_PROBLEMS[id], Task(as_read(REFERENCE_PROBLEMS[id]))
    f, rng = task.rhs(NUMPY), np.random.default_rng(0)
    for _ in range(3):
        y = np.array(record.y0) * (1.0 + 0.125 * rng.random(len(record.y0))) + 0.0625 * rng.random(len(record.y0))
        theta = np.array(record.theta) * (1.0 + 0.125 * rng.random(len(record.theta)))
        t = record.t0 + rng.random() * (record.t1 - record.t0)
        expected = record.field(t, y, theta)
        found = f(t, np.append(y, 0.0) if task.running else y, theta)[:task.n]
        scale = max(np.max(np.abs(expected)), np.max(np.abs(y)) * max(1.0, np.max(np.abs(theta), initial=0.0)))
        assert np.max(np.abs(found - expected)) <= ROUNDING * scale


@pytest.mark.parametrize("id", REFERENCE_PROBLEMS)
def test_losses_equal_refnodes(id):
    record, task = REFERENCE_PROBLEMS[id], Task(as_read(REFERENCE_PROBLEMS[id]))
    rng = np.random.default_rng(1)
    ys = rng.standard_normal((task.grid.size, task.y0.size))
    problem = record.problem
    at = [int(np.flatnonzero(task.grid == t)[0]) for t in problem.ts]
    expected = problem.loss.value(ys[at, :task.n].T, ys[-1, :task.n])
    expected += ys[-1, -1] if task.running else 0.0
    assert task.loss(NUMPY)(ys, task.theta) == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("text, value", [
    ("t + y[0]*theta[1]", 0.5 + 2.0 * 5.0), ("-y[1]**2", -9.0), ("sin(pi*t) + 1/4", 1.25), ("2**-1 * y[0]", 1.0),
    ("+exp(0) + sqrt(theta[0]*theta[0])", 5.0), ("tanh(y[0])/cosh(1)", np.tanh(2.0) / np.cosh(1.0))])
def test_expressions(text, value):
    assert translated(NUMPY, text)(0.5, np.array([2.0, 3.0]), np.array([4.0, 5.0])) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize("text", ["__import__('os')", "y.shape", "theta[-1]", "open(t)", "y[0] if t else 1", "lambda: 0"])
def test_what_is_not_on_the_whitelist_is_refused(text):
    with pytest.raises(InvalidInputError):
        translated(NUMPY, text)


def test_constant_rates_have_the_shape_of_the_state():
    f = translated_rhs(NUMPY, {"expr": ["2", "theta[0]"]}, 2)
    assert f(0.0, np.zeros(2), np.array([3.0])).tolist() == [2.0, 3.0]


def test_time_switch_and_state_switch():
    pieces = [{"expr": ["2"]}, {"expr": ["theta[1]"]}]
    theta = np.array([1.0, 0.5])
    by_time = translated_rhs(NUMPY, {"pieces": pieces, "switch": {"time": "theta[0]"}}, 1)
    assert [by_time(t, np.zeros(1), theta)[0] for t in (0.5, 1.5)] == [2.0, 0.5]
    by_state = translated_rhs(NUMPY, {"pieces": pieces, "switch": {"state": "y[0]-theta[0]"}}, 1)
    assert [by_state(0.0, np.array([y]), theta)[0] for y in (0.5, 1.0, 1.5)] == [2.0, 0.5, 0.5]


IN_PIECES = [id for id, record in REFERENCE_PROBLEMS.items() if "pieces" in record.rhs]


@pytest.mark.parametrize("id", IN_PIECES)
def test_solved_to_the_switch_and_from_there(id):
    """The states of the proven solution, by SciPy at 1e-10; the switch is where the certificate has it."""
    task, truth = Task(as_read(REFERENCE_PROBLEMS[id])), certified(id).values
    ys, _ = solved_in_pieces(task, task.y0, task.theta)
    rows = [int(np.flatnonzero(task.grid == t)[0]) for t in task.ts]
    np.testing.assert_allclose(ys[rows].T, truth["y"], rtol=1e-8, atol=1e-8)
    t_switch, _, _ = solved_to_switch(task, task.y0, task.theta)
    assert t_switch == pytest.approx(np.ravel(truth["event_time"])[0], rel=1e-9)
    early, late = around_switch(task, t_switch)
    assert early[0] == 0 and [*early, *late] == list(range(len(task.grid)))
    assert all(task.grid[row] < t_switch for row in early) and all(task.grid[row] > t_switch for row in late)


def is_seen_to_be_wrong(problem, id):
    """Whether a changed problem does not reach its switches, or ends far from the proven state."""
    task = Task(problem)
    try:
        ys, _ = solved_in_pieces(task, task.y0, task.theta)
    except RuntimeError as error:
        return "was not reached" in str(error)
    return np.max(np.abs(ys[-1] - certified(id).values["y"][:, -1])) > 1e-2


@pytest.mark.parametrize("id", ["bounce/once", "step_forcing/dose"])
def test_pieces_in_the_wrong_order_are_seen(id):
    problem = as_read(REFERENCE_PROBLEMS[id])
    problem["rhs"]["pieces"].reverse()
    assert is_seen_to_be_wrong(problem, id)


@pytest.mark.parametrize("k", range(3))
def test_a_wrong_piece_among_several_is_seen(k):
    """The flight behind bounce k + 1 falls as the one before it; observed behind that bounce."""
    problem = as_read(REFERENCE_PROBLEMS["bounce/thrice"])
    problem["rhs"]["pieces"][k + 1]["expr"][1] = problem["rhs"]["pieces"][k]["expr"][1]
    assert is_seen_to_be_wrong(problem, "bounce/thrice")


def test_ways_that_know_one_switch_say_so():
    """Which of four pieces holds is a memory, and no function of (t, y, theta)."""
    rhs = as_read(REFERENCE_PROBLEMS["bounce/thrice"])["rhs"]
    with pytest.raises(NotExpressible, match="with 3 switches, which piece holds is no function"):
        translated_rhs(NUMPY, rhs, 2)
    with pytest.raises(NotExpressible, match="knows one switch, and there are 3"):
        switched_rhs(NUMPY, rhs, 2)


def test_switches_that_are_not_there_are_told():
    with pytest.raises(NotExpressible, match="there is none"):
        solved_in_pieces(Task(as_read(REFERENCE_PROBLEMS["pendulum/swing"])), np.zeros(2), np.ones(2))
    task = Task(as_read(REFERENCE_PROBLEMS["state_rate/threshold"]))
    with pytest.raises(RuntimeError, match="was not reached"):
        solved_to_switch(task, task.y0, np.array([99.0, 1.0, 3.0]))


def test_grids_hold_every_time_once_in_order():
    problem = {"rhs": {"expr": ["y[0]"]}, "t0": 1.0, "t1": 0.0, "y0": [1.0], "theta": [], "ts": [0.75, 0.5, 0.5],
               "loss": {"kind": "sum", "terms": [{"kind": "sumsq", "data": None}, {"kind": "final", "expr": "y[0]", "scale": 0.5}]}}
    task = Task(problem)
    assert task.grid.tolist() == [1.0, 0.75, 0.5, 0.0]
    assert task.loss(NUMPY)(np.array([[4.0], [3.0], [2.0], [1.0]]), np.empty(0)) == 9.0 + 4.0 + 4.0 + 0.5
    assert "ts" not in task.time_gradients(task.grid, np.arange(4.0))         # two of them are one number
    assert task.time_gradients(task.grid, np.arange(4.0)) == {"t0": 0.0, "t1": 3.0}


def test_running_costs_are_one_more_state():
    problem = {"rhs": {"expr": ["-y[0]"]}, "t0": 0.0, "t1": 1.0, "y0": [2.0], "theta": [3.0], "ts": None,
               "loss": {"kind": "sum", "scale": 0.5, "terms": [{"kind": "running", "expr": "y[0]**2"},
                                                               {"kind": "running", "expr": "theta[0]", "scale": 4.0}]}}
    task = Task(problem)
    assert task.y0.tolist() == [2.0, 0.0]
    assert task.rhs(NUMPY)(0.0, np.array([2.0, 7.0]), task.theta).tolist() == [-2.0, 0.5 * 4.0 + 2.0 * 3.0]
    assert task.loss(NUMPY)(np.array([[2.0, 0.0], [1.0, 5.0]]), task.theta) == 5.0


def test_what_cannot_be_said_is_told():
    with pytest.raises(NotExpressible, match="no translation of a right-hand side of kind cnf"):
        translated_rhs(NUMPY, {"cnf": {}}, 1)
    with pytest.raises(NotExpressible, match="loss of kind 'entropy'"):
        Task({"rhs": {}, "t0": 0, "t1": 1, "y0": [1.0], "theta": [], "ts": None, "loss": {"kind": "entropy"}})


def test_answers_have_the_interchange_form():
    task = Task(as_read(REFERENCE_PROBLEMS["lotka_volterra/running_cost"]))
    ys = np.arange(task.grid.size * task.y0.size, dtype=float).reshape(task.grid.size, -1)
    form = answer_form(task, "tool", "1", "mode", "method", "exact", ys, np.float64(2.0), np.ones(3), np.ones(4))
    assert json.loads(json.dumps(form, allow_nan=False)) == form
    assert np.shape(form["y"]) == (2, task.ts.size) and len(form["grad"]["y0"]) == 2


def test_numbers_that_are_not_finite_travel_as_text():
    assert plain([1.0, np.nan, -np.inf]) == [1.0, "nan", "-inf"]
    assert np.array_equal(numbers(plain([[1.0, np.nan], [np.inf, 2.0]])), [[1.0, np.nan], [np.inf, 2.0]], equal_nan=True)
