"""`solve`: observation times, given and chosen steps, the dense output, both directions, both kinds of field."""
import json

import numpy as np
import pytest

import stubs
from refnode import InvalidInputError, InvalidTypeError, Problem, VectorField, solve
from refnode.fields.classical import CLASSICAL
from refnode.problems.catalogue import CATALOGUE, CLOSED_FORMS
from refnode.solve.options import SolveOptions
from refnode.steppers.tableaus import TABLEAUS

DECAY = CLASSICAL["exponential_decay"]
METHODS = list(TABLEAUS)
EPS = 2.0 ** -52


def orbit(ts=None, span=(2.0, 4.0)):
    return stubs.AUTONOMOUS.problem(span, ts=ts)


def how(method):
    """Options with which every method can run."""
    return {"method": method} if TABLEAUS[method].adaptive else {"method": method, "n_steps": 16}


# --- observation times ----------------------------------------------------------------------------

@pytest.mark.parametrize("method", METHODS)
def test_observations_at_step_ends_are_the_states_of_the_steps(method):
    """Bit by bit, the initial and the end point included: nothing there is interpolated."""
    steps = solve(orbit(), dense_output=True, **how(method))
    again = solve(orbit(ts=steps.t_steps), dense_output=True, **how(method))
    assert np.array_equal(again.t_steps, steps.t_steps)
    assert np.array_equal(again.y, again.sol._y.T)
    assert np.array_equal(again.y[:, 0], orbit().y0) and np.array_equal(again.y[:, -1], steps.y1)


@pytest.mark.parametrize("method", METHODS)
def test_observations_do_not_move_the_steps(method):
    ts = np.linspace(2.0, 4.0, 38)
    with_ts, without = (solve(orbit(ts=t), dense_output=True, **how(method)) for t in (ts, []))
    assert np.array_equal(with_ts.t_steps, without.t_steps) and np.array_equal(with_ts.y1, without.y1)


@pytest.mark.parametrize("method", METHODS)
def test_observations_between_steps_are_the_dense_output(method):
    """The compiled loop and `DenseOutput` sum the same w_i(s) k_i in other orders; P has entries up to 545."""
    ts = np.linspace(2.0, 4.0, 38)
    solution = solve(orbit(ts=ts), dense_output=True, **how(method))
    assert np.setdiff1d(ts, solution.t_steps).size > 10
    np.testing.assert_allclose(solution.y, solution.sol(ts), rtol=0, atol=64 * 545 * EPS)
    for t, y in zip(ts, solution.y.T):
        np.testing.assert_allclose(solution.sol(t), y, rtol=0, atol=64 * 545 * EPS)


def test_duplicates_give_equal_columns():
    y = solve(orbit(ts=[2.0, 2.0, 2.3, 2.3, 2.3, 4.0, 4.0])).y
    assert y.shape == (4, 7)
    assert np.array_equal(y[:, 0], y[:, 1]) and np.array_equal(y[:, 5], y[:, 6])
    assert np.array_equal(y[:, 2], y[:, 3]) and np.array_equal(y[:, 3], y[:, 4])


def test_no_observation_times():
    solution = solve(orbit(ts=[]))
    assert solution.y.shape == (4, 0) and solution.t.shape == (0,)
    assert np.array_equal(solution.y1, solve(orbit()).y1)


def test_default_observes_the_end():
    solution = solve(orbit())
    assert np.array_equal(solution.t, [4.0]) and np.array_equal(solution.y[:, 0], solution.y1)


@pytest.mark.parametrize("span", [(2.0, 4.0), (4.0, 2.0)])
@pytest.mark.parametrize("method", ["bosh3", "dopri5", "tsit5", "dop853"])
def test_tstops_end_steps_at_every_observation(method, span):
    ts = np.array([span[0], 3.25, 3.25, 3.0, 2.8125, 2.5, span[1]])
    ts = np.sort(ts) if span[1] > span[0] else np.sort(ts)[::-1]
    solution = solve(orbit(ts, span), method=method, tstops=True, dense_output=True)
    assert np.all(np.isin(ts, solution.t_steps))
    for t, y in zip(ts, solution.y.T):
        assert np.array_equal(y, solution.sol._y[np.flatnonzero(solution.t_steps == t)[0]])


def test_tstops_hit_times_one_spacing_apart():
    ts = [3.0, np.nextafter(3.0, 4.0), 3.5]
    solution = solve(orbit(ts), tstops=True, dense_output=True)
    assert solution.success and np.all(np.isin(ts, solution.t_steps))


# --- the steps ------------------------------------------------------------------------------------

@pytest.mark.parametrize("method", METHODS)
def test_given_steps_equal_equal_steps(method):
    """16 steps of 1/8 are exact in binary, so both ways to say so agree bit by bit."""
    by_number = solve(orbit(), method=method, n_steps=16)
    by_length = solve(orbit(), method=method, steps=np.full(16, 0.125))
    assert np.array_equal(by_number.y1, by_length.y1)
    assert by_number.nfev == 1 + 16 * TABLEAUS[method].s and by_number.n_steps == 16


def test_given_steps_are_taken():
    steps = [0.5, 0.25, 0.0625, 0.1875, 1.0]
    times = solve(orbit(), steps=steps, dense_output=True).t_steps
    np.testing.assert_array_equal(times, 2.0 + np.concatenate([[0.0], np.cumsum(steps)]))


def test_steps_taken_again_give_the_same_numbers():
    """The grid of an adaptive solve reproduces it: a step depends on nothing but its length."""
    free = solve(orbit(), dense_output=True)
    again = solve(orbit(), steps=np.diff(free.t_steps), dense_output=True)
    np.testing.assert_allclose(again.t_steps, free.t_steps, rtol=free.n_steps * EPS)
    np.testing.assert_allclose(again.y1, free.y1, rtol=1e-12)      # times differ by roundings


@pytest.mark.parametrize("method", ["bosh3", "dopri5", "tsit5", "dop853"])
def test_evaluations_are_counted(method):
    calls = []

    def fun(t, y, theta):
        calls.append(t)
        return -y

    problem = Problem(VectorField(fun, n=1), [1.0], t_span=(0.0, 3.0))
    solution = solve(problem, method=method, rtol=1e-4)
    assert len(calls) == solution.nfev + 1                          # and the check of the first call
    assert solution.nfev == 2 + TABLEAUS[method].s * (solution.n_steps + solution.n_rejected)


def test_more_steps_than_the_storage_holds_at_first():
    """1000 steps outgrow the 256 there is room for; kept or not, the same numbers."""
    kept = solve(orbit(), rtol=1e-3, max_step=0.002, dense_output=True)
    not_kept = solve(orbit(), rtol=1e-3, max_step=0.002)
    assert kept.n_steps >= 1000 and kept.t_steps.size == kept.n_steps + 1
    assert np.array_equal(kept.y1, not_kept.y1)
    middle = 0.5 * (kept.t_steps[:-1] + kept.t_steps[1:])[::97]
    exact = np.transpose([stubs.kepler_solution(t) for t in middle])
    np.testing.assert_allclose(kept.sol(middle), exact, rtol=0, atol=1e-11)     # (h = 0.002)^5 and roundings


# --- directions and lengths -----------------------------------------------------------------------

@pytest.mark.parametrize("method", METHODS)
def test_backwards_is_the_mirrored_problem(method):
    """Negating t and f changes no rounding, so the numbers are equal."""
    mirrored = VectorField(lambda t, y, theta: -stubs.exchange(-t, y, theta), n=2)
    problem = stubs.NON_AUTONOMOUS.problem((1.5, 0.5), ts=[1.375, 1.0, 0.5])
    mirror = Problem(mirrored, problem.y0, t_span=(-1.5, -0.5), ts=[-1.375, -1.0, -0.5])
    backwards, forwards = (solve(p, dense_output=True, **how(method)) for p in (problem, mirror))
    assert np.array_equal(backwards.t_steps, -forwards.t_steps)
    np.testing.assert_allclose(backwards.y, forwards.y, rtol=1e-13)  # LLVM and NumPy may differ in log


@pytest.mark.parametrize("name", CLOSED_FORMS)
@pytest.mark.parametrize("backwards", [False, True])
def test_closed_forms_of_the_catalogue(name, backwards):
    """rtol 1e-9 per step, amplified by at most e^4 over these horizons, times some steps: 1e-6."""
    problem = CATALOGUE[name]()
    if backwards:
        y1 = CLOSED_FORMS[name](problem.y0, problem.theta, problem.t0, problem.t1)
        problem = Problem(problem.field, y1, problem.theta, (problem.t1, problem.t0), ts=problem.ts[::-1])
    solution = solve(problem, rtol=1e-9, atol=1e-11)
    expected = [CLOSED_FORMS[name](problem.y0, problem.theta, problem.t0, t) for t in problem.ts]
    np.testing.assert_allclose(solution.y.T, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("method", METHODS)
def test_an_interval_of_length_zero(method):
    solution = solve(Problem(DECAY, [1.0, 2.0], [0.5], (3.0, 3.0), ts=[3.0, 3.0]), dense_output=True, **how(method))
    assert solution.status == 0 and solution.n_steps == 0
    assert np.array_equal(solution.y, [[1.0, 1.0], [2.0, 2.0]])
    assert np.array_equal(solution.sol(3.0), [1.0, 2.0])


# --- kinds of field -------------------------------------------------------------------------------

@pytest.mark.parametrize("method", METHODS)
def test_plain_python_gives_the_numbers_of_the_compiled_loop(method):
    problem = CATALOGUE["lotka_volterra"]()
    body = problem.field.f.py_func if problem.field.compiled else problem.field.f
    plain = problem.replace(field=kernel_form(body))
    for options in (how(method), {"method": method, "n_steps": 50}):
        compiled, python = (solve(p, **options) for p in (problem, plain))
        assert compiled.nfev == python.nfev and compiled.n_rejected == python.n_rejected
        np.testing.assert_allclose(python.y, compiled.y, rtol=1e-11)    # roundings over some hundred steps


def kernel_form(body):
    def f(t, y, theta, tape, dy):
        body(t, y, theta, tape, dy)
    return VectorField(f, n=2)


@pytest.mark.slow
def test_a_specialized_solver_gives_the_same_numbers():
    problem = CATALOGUE["lotka_volterra"]()
    by_address, specialized = (solve(problem, specialize=flag) for flag in (False, True))
    np.testing.assert_allclose(specialized.y, by_address.y, rtol=1e-11)


# --- options --------------------------------------------------------------------------------------

def test_an_unknown_option_is_named_and_the_known_are_listed():
    with pytest.raises(InvalidInputError, match=r"unknown option reltol; there are atol, .*rtol.*tstops"):
        solve(orbit(), reltol=1e-3)


@pytest.mark.parametrize("options, message", [
    ({"method": "rk5"}, "method must be one of euler"),
    ({"method": "rk4"}, "no error estimate"),
    ({"controller": "PD"}, "controller must be one of"),
    ({"n_steps": 0}, "n_steps must be a positive integer"),
    ({"n_steps": 10.0}, "n_steps must be a positive integer"),
    ({"max_steps": -1}, "max_steps must be a positive integer"),
    ({"first_step": 0.0}, "first_step must be a positive number"),
    ({"first_step": "small"}, "first_step must be a positive number"),
    ({"max_step": np.nan}, "max_step must be a positive number"),
    ({"n_steps": 4, "steps": [2.0]}, "n_steps or steps, not both"),
    ({"n_steps": 4, "tstops": True}, "tstops"),
    ({"steps": [1.0, 0.5]}, "steps must lead from t0 to t1"),
    ({"steps": [3.0, -1.0]}, "sign of t1 - t0"),
    ({"rtol": np.inf}, "rtol must be finite"),
    ({"rtol": [1e-3, 1e-3]}, r"rtol must be a number or have shape \(4,\)"),
])
def test_wrong_options_are_refused(options, message):
    solve(orbit(), n_steps=10)                  # 10 == 10.0: the cache of options must tell them apart
    with pytest.raises(InvalidInputError, match=message):
        solve(orbit(), **options)


def test_tolerances_that_are_no_numbers_are_refused():
    with pytest.raises(InvalidTypeError, match="rtol must be a number"):
        solve(orbit(), rtol="tight")


def test_tolerances_by_component():
    """A loose tolerance on three of four components lets the steps grow."""
    tight = solve(orbit(), rtol=1e-9, atol=1e-9)
    loose = solve(orbit(), rtol=[1e-9, 1.0, 1.0, 1.0], atol=[1e-9, 1.0, 1.0, 1.0])
    same = solve(orbit(), rtol=[1e-9] * 4, atol=np.full(4, 1e-9))
    assert np.array_equal(same.y1, tight.y1) and loose.n_steps < tight.n_steps


def test_options_are_checked_once_and_kept():
    assert SolveOptions.of(rtol=1e-5) is SolveOptions.of(rtol=1e-5)
    assert SolveOptions.of(rtol=[1e-5]) is not SolveOptions.of(rtol=[1e-5])     # lists have no hash


# --- without a compiler ---------------------------------------------------------------------------

NO_JIT = """
import json, sys
import numpy as np
from refnode import gradient, solve, solve_ivp
from refnode.problems.catalogue import CATALOGUE
problem, numbers = CATALOGUE["lotka_volterra"](), {}
numbers["solve"] = solve(problem, n_steps=40).y.ravel().tolist()
numbers["adaptive"] = solve(problem, rtol=1e-3).y.ravel().tolist()
numbers["solve_ivp"] = solve_ivp(lambda t, y: problem.field(t, y, problem.theta), (0, 1), problem.y0,
                                 events=lambda t, y: y[0] - 1.2).y.ravel().tolist()
for name in ("discrete", "discrete_forward", "forward", "backsolve", "interpolating"):
    g = gradient(problem, name, n_steps=40)
    numbers[name] = np.concatenate([g.y0, g.theta, g.ts, [g.t0, g.loss]]).tolist()
print(json.dumps(numbers))
"""


def test_the_same_numbers_without_a_compiler():
    """Under NUMBA_DISABLE_JIT: 40 steps of sums in the same order, some of them contracted or not: 1e-12."""
    compiled, python = (json.loads(stubs.python(NO_JIT, NUMBA_DISABLE_JIT=flag, timeout=600.0).stdout) for flag in ("0", "1"))
    assert compiled.keys() == python.keys() and len(compiled) == 8
    for name in compiled:
        np.testing.assert_allclose(python[name], compiled[name], rtol=1e-12, err_msg=name)
