"""What users' functions raise comes out unchanged, with a note where; and what hangs SciPy does not hang here."""
import numpy as np
import pytest
from numba import njit

import stubs
from gradients import RECIPES
from refnode import InvalidInputError, Problem, VectorField, gradient, losses, solve, solve_ivp


class Boom(ZeroDivisionError):
    """An exception refnode has never heard of."""


def plain_fun(t, y, theta):
    if t > 0.5:
        raise Boom("in the middle")
    return -y


@njit
def compiled_fun(t, y, theta):
    if t > 0.5:
        raise ValueError("in the middle")
    return -y


def notes_of(caught):
    return " ".join(getattr(caught.value, "__notes__", []))


# --- fault 23: exceptions -------------------------------------------------------------------------

@pytest.mark.parametrize("fun, error", [(plain_fun, Boom), (compiled_fun, ValueError)], ids=["plain", "njit"])
def test_fault_23_exception_in_fun(fun, error):
    problem = Problem(VectorField(fun), [1.0])
    with pytest.raises(error, match="in the middle") as caught:
        solve(problem, n_steps=8)
    assert type(caught.value) is error and notes_of(caught) == "in fun at t=0.5, step 4"
    assert solve(problem.replace(t1=0.5)).success                   # and leaves nothing behind


@pytest.mark.parametrize("wrap", [lambda fun: fun, njit], ids=["plain", "njit"])
def test_fault_23_exception_at_the_first_call(wrap):
    def fun(t, y):
        raise ValueError("always")

    with pytest.raises(ValueError, match="always") as caught:
        solve_ivp(wrap(fun), (2.0, 3.0), [1.0])
    assert notes_of(caught) == "in fun at t=2, step 0"


def test_fault_23_exception_in_solve_ivp():
    with pytest.raises(Boom) as caught:
        solve_ivp(lambda t, y: plain_fun(t, y, None), (0.0, 1.0), [1.0], max_step=0.25)
    assert notes_of(caught).startswith("in fun at t=0.") and ", step " in notes_of(caught)


def test_fault_23_exception_in_an_event():
    def fails_at_once(t, y):
        raise Boom("event")

    def fails_later(t, y):
        return plain_fun(t, y, None)[0]

    for event, note in ((fails_at_once, "in event 1 at t=0, step 0"), (fails_later, "in event 1 at t=")):
        with pytest.raises(Boom) as caught:
            solve_ivp(lambda t, y: -y, (0.0, 1.0), [1.0], events=[lambda t, y: 1.0, event])
        assert note in notes_of(caught)


def jvp_that_fails(t, y, theta, t_tan, y_tan, theta_tan):
    if t > 0.5:
        raise ValueError("derivative")
    return -y_tan


def vjp_that_fails(t, y, theta, dy_bar):
    if t > 0.5:
        raise ValueError("derivative")
    return 0.0, -dy_bar, 0.0 * theta


@pytest.mark.parametrize("recipe", RECIPES)
def test_fault_23_exception_in_a_derivative(recipe):
    field = VectorField(lambda t, y, theta: -y, jvp=jvp_that_fails, vjp=vjp_that_fails)
    problem = Problem(field, [1.0], loss=losses.sum_of_squares())
    with pytest.raises(ValueError, match="derivative") as caught:
        gradient(problem, recipe, n_steps=4)
    assert ", step " in notes_of(caught) and " at t=" in notes_of(caught)


def test_fault_23_exception_in_a_compiled_derivative():
    def returning(function):
        return njit(function)

    field = VectorField(returning(lambda t, y, theta: -y), vjp=returning(vjp_that_fails))
    with pytest.raises(ValueError, match="derivative") as caught:
        gradient(Problem(field, [1.0], loss=losses.sum_of_squares()), n_steps=4)
    assert notes_of(caught) == "in vjp at t=1, step 4"


# --- fault 26: losses -----------------------------------------------------------------------------

class Fixed(losses.Loss):
    """A loss with given value and cotangents."""

    def __init__(self, value, ys_bar, y1_bar=0.0):
        self.fixed, self.ys_bar, self.y1_bar = value, np.array(ys_bar), y1_bar

    def value(self, ys, y1):
        return self.fixed

    def vjp(self, ys, y1):
        return self.ys_bar, np.full(y1.shape, self.y1_bar)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("loss, message", [
    (Fixed(np.nan, [[0.0, 0.0]]), "loss must be finite, found nan"),
    (Fixed(np.inf, [[0.0, 0.0]]), "loss must be finite, found inf"),
    (Fixed(1.0, [[0.0, np.nan]]), r"ys_bar must be finite, found ys_bar\[0, 1\] = nan"),
    (Fixed(1.0, [[0.0, 0.0]], np.inf), r"y1_bar must be finite, found y1_bar\[0\] = inf"),
], ids=["nan", "inf", "ys_bar", "y1_bar"])
def test_fault_26_non_finite_loss_or_cotangent(loss, message, recipe):
    """Refused before the backward solve: its vjp would raise here."""
    def never(t, y, theta, dy_bar):
        raise AssertionError("the backward solve began")

    jvp = lambda t, y, theta, t_tan, y_tan, theta_tan: -y_tan
    problem = Problem(VectorField(lambda t, y, theta: -y, jvp=jvp, vjp=never), [1.0], ts=[0.5, 1.0], loss=loss)
    with pytest.raises(InvalidInputError, match=message):
        gradient(problem, recipe)


# --- events, and options nobody knows -------------------------------------------------------------

def test_gradients_through_events_are_refused():
    problem = Problem(stubs.exchange, [1.0, 2.0], loss=losses.sum_of_squares())
    with pytest.raises(InvalidInputError, match="gradients through events are not implemented"):
        gradient(problem, events=lambda t, y: y[0])
    with pytest.raises(InvalidInputError, match="unknown option events"):
        solve(problem, events=lambda t, y: y[0])


def test_an_unknown_option_of_gradient_is_named():
    problem = Problem(stubs.exchange, [1.0, 2.0], loss=losses.sum_of_squares())
    with pytest.raises(InvalidInputError, match="unknown option sensealg; there are"):
        gradient(problem, sensealg="discrete")


# --- nothing hangs --------------------------------------------------------------------------------

HANGS_SCIPY = """
import numpy as np
from refnode import solve_ivp
found = []
def attempt(*arguments, **options):
    try:
        found.append(str(solve_ivp(*arguments, **options).status))
    except Exception as error:
        found.append(type(error).__name__)
attempt(lambda t, y: np.nan * y, (0, 1), [1.0])
attempt(lambda t, y: None, (0, 1), [1.0])
attempt(lambda t, y: -y, (0, np.nan), [1.0])
attempt(lambda t, y: -y, (0, 1), [1.0], rtol=np.nan)
attempt(lambda t, y: -y, (0, 1), [0.0], atol=0.0)
attempt(lambda t, y: -y, (0, 1), [1.0], atol=np.inf)
attempt(lambda t, y: np.inf * y if t > 0.5 else y, (0, 1), [1.0])
attempt(lambda t, y: np.where(t < 0.5, -y, -1e300 * y), (0, 1), [1.0])
attempt(lambda t, y: 1e308 * y, (0, 1), [1e-3])
attempt(lambda t, y: -y, (1e16, 1e16 + 2), [1.0])
print(*found)
"""


def test_what_hangs_scipy_ends():
    """Five problems that SciPy 1.17 never returns from, and five more of their kind; a minute for all."""
    found = stubs.python(HANGS_SCIPY, options=["-W", "ignore"], timeout=60.0).stdout.split()
    error = "InvalidInputError"
    assert found[:5] == ["-3", error, error, error, error]
    assert found[5:] == ["0", "-3", "-3", "-3", "-1"]
