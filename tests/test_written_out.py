"""Steps written out for a tableau and a size: equal, bit by bit, to the loops they stand for."""
import doctest

import numpy as np
import pytest

from refnode import gradient, solve
from refnode.host_device import python_form
from refnode.problems.catalogue import CATALOGUE
from refnode.solve import written_out
from refnode.solve.integrate import integrate_field
from refnode.solve.options import SolveOptions
from refnode.solve.step_size import error_norm
from refnode.solve.written_out import MOST_STATES, function_of, norm_source, rebuilt, step_source, step_vjp_source
from refnode.steppers.explicit_rk import explicit_rk_step, explicit_rk_step_vjp
from refnode.steppers.system import Plain
from refnode.steppers.tableaus import TABLEAUS

METHODS = pytest.mark.parametrize("method", TABLEAUS)
SIZES = pytest.mark.parametrize("n", [1, 3])


def f(t, y, theta, tape, dy):
    """A field in which every component and parameter counts."""
    for m in range(y.size):
        dy[m] = np.sin(t + theta[0] * y[m]) + theta[1] * y[m - 1] * y[m]
    tape[0] = dy[0]


def f_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    for m in range(y.size):
        slope = np.cos(t + theta[0] * y[m]) * dy_bar[m]
        t_bar[0] += slope + 0.1 * tape[0] * dy_bar[m]           # not its derivative: it shall read the tape
        y_bar[m] += theta[0] * slope + theta[1] * y[m - 1] * dy_bar[m]
        y_bar[m - 1] += theta[1] * y[m] * dy_bar[m]
        theta_bar[0] += y[m] * slope
        theta_bar[1] += y[m - 1] * y[m] * dy_bar[m]


class Step:
    """Arrays for one step of a method, and what a body makes of them."""

    def __init__(self, method, n, seed=0):
        rng = np.random.default_rng([seed, n])
        self.n, self.s = n, TABLEAUS[method].s
        self.arrays = TABLEAUS[method].arrays
        self.y, self.theta = rng.standard_normal(n), rng.standard_normal(2)
        self.k, self.tape = np.zeros((self.s + 1, n)), np.zeros((self.s + 1, 1))
        self.y1_bar, self.k_bar = rng.standard_normal(n), rng.standard_normal((self.s + 1, n))
        f(0.3, self.y, self.theta, self.tape[0], self.k[0])

    def forward(self, body):
        y1 = np.empty(self.n)
        body(Plain(f), *self.arrays[:3], 0.3, 0.2, self.y, self.theta, self.tape, self.k, np.empty(self.n), y1)
        return np.concatenate([y1, self.k.ravel(), self.tape.ravel()])

    def reverse(self, body, y1, moves, recompute):
        out = [np.zeros(1), np.zeros(moves), np.zeros(self.n), np.zeros(2)]
        k_bar, y1_bar = self.k_bar.copy(), self.y1_bar.copy()
        body(f, f_vjp, *self.arrays[:3], 0.3, 0.2, self.y, self.theta, recompute, self.tape, self.k, y1, y1_bar, k_bar,
             np.empty(self.n), np.empty(self.n), *out)
        return np.concatenate([*out, y1_bar, k_bar.ravel()])


def loops_and_text(method, n, source=None):
    """The same step by both bodies."""
    text = function_of(source or step_source(TABLEAUS[method], n))
    return Step(method, n).forward(python_form(explicit_rk_step)), Step(method, n).forward(text)


@METHODS
@SIZES
def test_a_step_equals_the_loops_bit_by_bit(method, n):
    loops, text = loops_and_text(method, n)
    np.testing.assert_array_equal(text, loops)


@METHODS
@SIZES
@pytest.mark.parametrize("moves, recompute", [(0, False), (1, True)])
def test_a_transposed_step_equals_the_loops_bit_by_bit(method, n, moves, recompute):
    step, text = Step(method, n), function_of(step_vjp_source(TABLEAUS[method], n))
    y1 = step.forward(python_form(explicit_rk_step))[:n]
    loops = step.reverse(python_form(explicit_rk_step_vjp), y1, moves, recompute)
    np.testing.assert_array_equal(step.reverse(text, y1, moves, recompute), loops)


@pytest.mark.parametrize("method", [name for name, tableau in TABLEAUS.items() if tableau.adaptive])
@pytest.mark.parametrize("blocks", [(0, 3), (0, 1, 3)])
def test_an_error_norm_equals_the_loops_bit_by_bit(method, blocks):
    tableau, rng = TABLEAUS[method], np.random.default_rng(1)
    text, blocks = function_of(norm_source(tableau, 3)), np.array(blocks)
    for scale in (0.0, 1e-9, 1.0, np.inf, np.nan):
        k = rng.standard_normal((tableau.s + 1, 3))
        k[-1, 1] *= scale
        arguments = (tableau.arrays[3], 0.1, k * (scale or 0.0) if scale == 0.0 else k, rng.standard_normal(3),
                     rng.standard_normal(3), np.full(3, 1e-6), np.full(3, 1e-9), blocks)
        with np.errstate(invalid="ignore"):
            np.testing.assert_array_equal(text(*arguments), error_norm(*arguments))


@pytest.mark.parametrize("source, old, new", [
    (step_source, "0.075", "0.07500001"), (step_source, "k[3, 1]", "k[3, 0]"),
    (step_source, "t + 0.8 * h", "t + 0.81 * h")])
def test_a_wrong_text_is_seen(source, old, new):
    right = source(TABLEAUS["dopri5"], 3)
    assert old in right
    loops, text = loops_and_text("dopri5", 3, right.replace(old, new))
    assert np.any(loops != text)


def test_the_example_in_the_module():
    tests = doctest.DocTestFinder().find(written_out, extraglobs={"TABLEAUS": TABLEAUS})
    (test,) = [test for test in tests if test.examples]
    assert doctest.DocTestRunner().run(test).failed == 0


def test_bodies_are_replaced_however_deep_they_lie_and_nothing_else():
    mark = object()
    body = rebuilt(integrate_field.py_func, {"is_stiff": mark})
    advance = body.__globals__["integrate"].py_func.__globals__["advance"]
    assert advance.py_func.__globals__["is_stiff"] is mark
    assert body.__globals__["Plain"] is Plain
    assert rebuilt(integrate_field.py_func, {"no_such_body": mark}) is integrate_field.py_func


@pytest.mark.parametrize("changes, n, expected", [
    ({}, 2, False), ({"specialize": True}, 2, (TABLEAUS["dopri5"], 2)), ({"specialize": True}, MOST_STATES + 1, True),
    ({"specialize": True, "method": "alf", "n_steps": 4}, 2, True)])
def test_what_is_compiled_in(changes, n, expected):
    assert SolveOptions.of(**changes).specialized_to(n) == expected


@pytest.mark.slow
@pytest.mark.parametrize("method", ["bosh3", "dopri5", "dop853"])
def test_the_compiled_solver_takes_the_same_steps(method):
    """Equal steps, and numbers equal to the rounding of f compiled in; tangents grow by about 10 here."""
    problem = CATALOGUE["lotka_volterra"]()
    options = {"method": method, "rtol": 1e-8, "atol": 1e-8}
    general, special = (gradient(problem, "discrete", **options, specialize=flag) for flag in (False, True))
    assert {**special.stats, "growth": 0.0} == {**general.stats, "growth": 0.0}
    np.testing.assert_allclose(special.theta, general.theta, rtol=1e-11)
    np.testing.assert_allclose(solve(problem, **options, specialize=True).y, solve(problem, **options).y, rtol=1e-11)
