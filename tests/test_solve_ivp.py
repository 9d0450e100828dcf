"""`solve_ivp` beside SciPy's: the same states, steps, evaluations, events and result fields.

Both run the same method, error norm, controller and first step, so the numbers differ by roundings. An
error estimate of the size tol is a difference of numbers of the size 1, so its relative rounding is
eps / tol, and 1e-7 at the tightest tolerance here; step times differ by that much, states at equal times by
far less than the tolerance. Evaluations are found equal; 10 % is what is promised on other platforms.
"""
import numpy as np
import pytest
import scipy.integrate
from numba import config, njit

import stubs
from refnode import InvalidInputError, InvalidTypeError, solve_ivp
from refnode.solve.solve_ivp import _field

SCIPY_METHODS = ["RK23", "RK45", "DOP853"]


def lotka_volterra(t, y):
    return np.array([1.5 * y[0] - y[0] * y[1], y[0] * y[1] - 3.0 * y[1]])


def van_der_pol(t, y):
    return np.array([y[1], (1.0 - y[0] ** 2) * y[1] - y[0]])


def lorenz(t, y):
    return np.array([10.0 * (y[1] - y[0]), y[0] * (28.0 - y[2]) - y[1], y[0] * y[1] - 8.0 / 3.0 * y[2]])


def orbit(t, y):
    r3 = np.hypot(y[0], y[1]) ** 3
    return np.array([y[2], y[3], -y[0] / r3, -y[1] / r3])


def forced(t, y):
    return np.array([y[1], np.cos(1.3 * t) - 0.2 * y[1] - y[0]])


PROBLEMS = {
    "lotka_volterra": (lotka_volterra, (0.0, 6.0), [1.0, 1.0]),
    "van_der_pol": (van_der_pol, (0.0, 8.0), [2.0, 0.0]),
    "lorenz": (lorenz, (0.0, 1.5), [1.0, 0.5, 0.25]),
    "kepler": (orbit, (0.0, 7.0), [0.5, 0.0, 0.0, 3.0 ** 0.5]),
    "forced": (forced, (1.0, 12.0), [0.5, -0.5]),
    "backwards": (forced, (6.0, 0.0), [0.5, -0.5]),
}


def both(fun, span, y0, **options):
    return (solver(fun, span, y0, **options) for solver in (solve_ivp, scipy.integrate.solve_ivp))


def assert_alike(ours, scipys, rtol=1e-5, atol=1e-8):
    """Equal to a hundredth of the default tolerances, which is what most tests run with."""
    assert ours.status == scipys.status and ours.success == scipys.success
    assert ours.t.shape == scipys.t.shape and ours.y.shape == scipys.y.shape
    np.testing.assert_allclose(ours.t, scipys.t, rtol=0, atol=1e-6)
    np.testing.assert_allclose(ours.y, scipys.y, rtol=rtol, atol=atol)


# --- states and evaluations -----------------------------------------------------------------------

@pytest.mark.parametrize("tol", [(1e-3, 1e-6), (1e-6, 1e-9), (1e-9, 1e-11)], ids=["loose", "middle", "tight"])
@pytest.mark.parametrize("method", SCIPY_METHODS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_states_and_evaluations(name, method, tol):
    """Dense outputs read at equal times from steps 1e-7 apart: a tenth of the tolerances."""
    rtol, atol = (max(tol[0], 1e-6), max(tol[1], 1e-9)) if method == "RK23" else tol
    fun, span, y0 = PROBLEMS[name]
    t_eval = np.linspace(*span, 12)
    assert_alike(*both(fun, span, y0, method=method, rtol=rtol, atol=atol, t_eval=t_eval), rtol / 10, atol / 10)
    ours, scipys = both(fun, span, y0, method=method, rtol=rtol, atol=atol)
    np.testing.assert_allclose(ours.t, scipys.t, rtol=0, atol=1e-6)
    assert abs(ours.nfev - scipys.nfev) <= 0.1 * scipys.nfev
    assert (ours.njev, ours.nlu) == (scipys.njev, scipys.nlu) == (0, 0)


@pytest.mark.parametrize("options", [
    {"first_step": 0.01}, {"max_step": 0.1}, {"first_step": 2.0}, {"rtol": [1e-5, 1e-7], "atol": [1e-6, 1e-9]},
    {"rtol": 1e-4, "atol": 0.0}], ids=str)
@pytest.mark.parametrize("method", SCIPY_METHODS)
def test_step_options(method, options):
    ours, scipys = both(*PROBLEMS["forced"], method=method, **options)
    assert_alike(ours, scipys)
    assert ours.nfev == scipys.nfev


def test_compiled_and_plain_functions_agree():
    fun, span, y0 = PROBLEMS["van_der_pol"]
    plain, compiled = solve_ivp(fun, span, y0), solve_ivp(njit(fun), span, y0)
    assert_alike(compiled, plain)
    assert compiled.nfev == plain.nfev


@pytest.mark.skipif(bool(config.DISABLE_JIT), reason="nothing is compiled")
def test_a_compiled_function_is_compiled_once():
    fun = njit(lambda t, y: -y)
    assert _field(fun, (), False, 1) is _field(fun, (), False, 1)


# --- the result -----------------------------------------------------------------------------------

def test_result_fields():
    ours, scipys = both(*PROBLEMS["forced"])
    missing = [name for name in scipys.keys() if not hasattr(ours, name)]
    assert missing == []
    assert ours.t_events is None and ours.y_events is None and ours.sol is None
    assert ours.message == "reached the end of the interval"
    assert ours.y.shape == (2, ours.t.size) and ours.t[0] == 1.0 and ours.t[-1] == 12.0


@pytest.mark.parametrize("method", SCIPY_METHODS)
@pytest.mark.parametrize("name", ["kepler", "backwards"])
def test_t_eval(name, method):
    fun, span, y0 = PROBLEMS[name]
    t_eval = np.linspace(*span, 41)[3:]
    ours, scipys = both(fun, span, y0, method=method, t_eval=t_eval)
    assert_alike(ours, scipys)
    assert np.array_equal(ours.t, t_eval) and abs(ours.nfev - scipys.nfev) <= 3   # SciPy interpolates at t1 too


def test_t_eval_that_is_empty():
    solution = solve_ivp(*PROBLEMS["forced"], t_eval=[])
    assert solution.success and solution.t.size == 0 and solution.y.shape == (2, 0)


@pytest.mark.parametrize("method", SCIPY_METHODS)
@pytest.mark.parametrize("name", ["kepler", "backwards"])
def test_dense_output(name, method):
    fun, span, y0 = PROBLEMS[name]
    ours, scipys = both(fun, span, y0, method=method, dense_output=True)
    times = np.random.default_rng(3).permutation(np.linspace(*span, 57))
    assert ours.sol(times).shape == (len(y0), 57) and ours.sol(times[0]).shape == (len(y0),)
    np.testing.assert_allclose(ours.sol(times), scipys.sol(times), rtol=1e-5, atol=1e-8)
    assert np.array_equal(ours.sol(ours.t), ours.y)                 # step ends are exact
    assert (ours.sol.t_min, ours.sol.t_max) == (min(span), max(span)) == (scipys.sol.t_min, scipys.sol.t_max)


# --- arguments ------------------------------------------------------------------------------------

def growth(t, y, rate, shift):
    return rate * y + shift


@pytest.mark.parametrize("fun", [growth, njit(growth)], ids=["plain", "njit"])
def test_args(fun):
    ours = solve_ivp(fun, (0.0, 1.0), [1.0], args=(-0.5, 0.25))
    assert_alike(ours, scipy.integrate.solve_ivp(growth, (0.0, 1.0), [1.0], args=(-0.5, 0.25)))


def test_args_that_are_no_tuple():
    with pytest.raises(InvalidTypeError, match=r"args must be a tuple such as args=\(value,\)"):
        solve_ivp(lambda t, y, a: -a * y, (0.0, 1.0), [1.0], args=0.5)


def test_args_reach_the_events():
    def event(t, y, rate, shift):
        return y[0] - shift

    ours, scipys = both(growth, (0.0, 5.0), [2.0], args=(-0.5, 0.75), events=event)
    np.testing.assert_allclose(ours.t_events[0], scipys.t_events[0], rtol=1e-9)
    assert_alike(ours, scipys)


def test_vectorized():
    def fun(t, y):
        assert y.ndim == 2
        return np.vstack([y[1], -y[0]])

    ours, scipys = both(fun, (0.0, 3.0), [1.0, 0.0], vectorized=True)
    assert_alike(ours, scipys)
    assert ours.nfev == scipys.nfev


def test_unknown_options_warn_and_change_nothing():
    plain = solve_ivp(*PROBLEMS["forced"])
    with pytest.warns(UserWarning, match=r"without effect: \['jac', 'min_step'\]"):
        warned = solve_ivp(*PROBLEMS["forced"], min_step=1e-3, jac=None)
    assert np.array_equal(plain.y, warned.y)


@pytest.mark.parametrize("method", ["Radau", "BDF", "LSODA"])
def test_implicit_methods_are_refused(method):
    with pytest.raises(InvalidInputError, match=f"method '{method}' is implicit and not implemented; use 'RK23'"):
        solve_ivp(*PROBLEMS["forced"], method=method)


@pytest.mark.parametrize("arguments, error, message", [
    ((lotka_volterra, (0.0, 1.0), [1.0 + 0j, 1.0]), InvalidInputError, "stack real and imaginary parts"),
    ((lambda t, y: 1j * y, (0.0, 1.0), [1.0]), InvalidInputError, "complex values; stack real and imaginary"),
    (("fun", (0.0, 1.0), [1.0]), InvalidTypeError, "fun must be callable, found str"),
    ((forced, (0.0, 1.0), [[1.0], [2.0]]), InvalidInputError, r"one-dimensional, found shape \(2, 1\)"),
])
def test_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        solve_ivp(*arguments)


def test_t_eval_outside_and_unsorted():
    for t_eval in ([0.5, 2.0], [0.5, 0.25]):
        with pytest.raises(InvalidInputError, match="t_eval must"):
            solve_ivp(forced, (0.0, 1.0), [1.0, 0.0], t_eval=t_eval)


# --- events ---------------------------------------------------------------------------------------

def falling(t, y):
    return np.array([y[1], -9.81])


def event(function, terminal=None, direction=None):
    """A fresh function with SciPy's attributes."""
    def g(t, y):
        return function(t, y)
    if terminal is not None:
        g.terminal = terminal
    if direction is not None:
        g.direction = direction
    return g


def height(t, y):
    return y[0]


def speed(t, y):
    return y[1]


FALL = (falling, (0.0, 10.0), [5.0, 20.0])
SWING = (lambda t, y: np.array([y[1], -y[0]]), (0.0, 20.0), [1.0, 0.3])

EVENT_CASES = {
    "none terminal": (SWING, [event(height), event(speed)]),
    "single function": (SWING, event(height)),
    "empty list": (SWING, []),
    "upwards": (SWING, [event(height, direction=1)]),
    "downwards": (SWING, [event(height, direction=-2.5)]),
    "terminal": (FALL, [event(height, terminal=True), event(speed)]),
    "terminal falling only": (FALL, [event(height, terminal=1, direction=-1), event(speed)]),
    "third occurrence ends": (SWING, [event(height, terminal=3), event(speed, terminal=0)]),
    "two terminal": (SWING, [event(speed, terminal=4), event(height, terminal=2)]),
    "never": (SWING, [event(lambda t, y: 2.0 + y[0], terminal=True)]),
    "of time": (SWING, [event(lambda t, y: np.sin(3.0 * t - 0.1))]),
    "zero at the start": (SWING, [event(lambda t, y: y[0] - 1.0)]),
}


def assert_same_events(ours, scipys):
    assert len(ours.t_events) == len(scipys.t_events) == len(ours.y_events)
    for found, expected in zip(ours.t_events + ours.y_events, scipys.t_events + scipys.y_events):
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("method", SCIPY_METHODS)
@pytest.mark.parametrize("case", EVENT_CASES)
def test_events(case, method, backwards):
    (fun, span, y0), events = EVENT_CASES[case]
    span = (span[1], span[0]) if backwards else span
    ours, scipys = both(fun, span, y0, method=method, events=events, dense_output=True)
    assert_alike(ours, scipys)
    assert_same_events(ours, scipys)
    times = np.linspace(ours.t[0], ours.t[-1], 31)
    np.testing.assert_allclose(ours.sol(times), scipys.sol(times), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dense_output", [False, True])
def test_a_terminal_event_cuts_t_eval_and_the_dense_output(dense_output):
    ours, scipys = both(*FALL, events=event(height, terminal=True), t_eval=np.linspace(0.0, 10.0, 101),
                        dense_output=dense_output)
    assert_alike(ours, scipys)
    assert ours.status == 1 and ours.success and ours.message == "a terminal event occurred"
    landing = (20.0 + np.sqrt(400.0 + 4 * 4.905 * 5.0)) / 9.81      # a parabola: every method is exact
    np.testing.assert_allclose(ours.t_events[0], [landing], rtol=1e-13)
    assert ours.t[-1] < landing < ours.t[-1] + 0.1
    if dense_output:
        assert ours.sol.t_max == ours.t_events[0][0] == pytest.approx(scipys.sol.t_max, rel=1e-13)


def test_several_events_in_one_step_are_in_order_and_stop_at_the_terminal_one():
    """One step of 4 over the zeros of t - 1, t - 2, t - 3: the second ends it, the third is not reported."""
    events = [event(lambda t, y: t - 3.0), event(lambda t, y: t - 2.0, terminal=True), event(lambda t, y: t - 1.0)]
    ours, scipys = both(lambda t, y: 0.0 * y, (0.0, 8.0), [1.0], events=events, first_step=4.0)
    assert_same_events(ours, scipys)
    assert [list(np.round(t, 12)) for t in ours.t_events] == [[], [2.0], [1.0]] and ours.t[-1] == 2.0


@pytest.mark.parametrize("method", SCIPY_METHODS)
def test_an_event_that_is_zero_at_the_end_of_a_step_is_found(method):
    """At a step end the state, not its interpolant, decides: a sign seen there is a sign found there."""
    steps = solve_ivp(*SWING, method=method, dense_output=True, events=[])
    for t, level in zip(steps.t[1:-1], steps.y[0, 1:-1]):
        found = solve_ivp(*SWING, method=method, events=event(lambda s, y: y[0] - level)).t_events[0]
        assert np.min(np.abs(found - t)) < 1e-12


def test_terminal_attribute_that_is_no_count():
    with pytest.raises(InvalidInputError, match="terminal"):
        solve_ivp(*FALL, events=event(height, terminal=-1))
    with pytest.raises(InvalidTypeError, match="events must be callable"):
        solve_ivp(*FALL, events=["height"])


def test_a_compiled_function_with_events():
    fun = njit(falling)
    ours = solve_ivp(fun, FALL[1], FALL[2], events=event(height, terminal=True))
    assert_alike(ours, scipy.integrate.solve_ivp(*FALL, events=event(height, terminal=True)))
