"""The faults refnode survives, one test each, numbered as in docs and FAULTS: what is wrong is said, nothing hangs."""
import warnings

import numpy as np
import pytest
from numba import njit

import stubs
from gradients import RECIPES
from refnode import (
    IntegrationError, InvalidInputError, InvalidTypeError, Problem, VectorField, gradient, losses, solve,
    solve_ivp)
from refnode.fields.classical import CLASSICAL
from refnode.gradcheck import check_gradient
from refnode.problems.catalogue import CATALOGUE

DECAY = CLASSICAL["exponential_decay"]
EPS = 2.0 ** -52


def decay(ts=None, span=(0.0, 2.0), y0=(1.0, 2.0), loss=None):
    return Problem(DECAY, y0, [0.75], span, ts=ts, loss=loss)


def refused(error, message, call, *args, **options):
    with pytest.raises(error, match=message):
        call(*args, **options)


# --- the right-hand side --------------------------------------------------------------------------

@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_fault_01_not_finite_at_the_initial_point(value):
    field = stubs.failing_field(lambda t, y: True, value, component=1)
    for options in ({}, {"n_steps": 5}):
        solution = solve(Problem(field, [1.0, 2.0]), **options)
        assert solution.status == -3 and not solution.success and solution.nfev <= 2
        assert solution.message == f"fun returned {value} for component 1 at t=0 (initial point)"


@pytest.mark.parametrize("fails", [lambda t, y: t > 0.5, lambda t, y: 0.5 < t < 0.6], ids=["from", "window"])
def test_fault_02_not_finite_during_a_step(fails):
    """At most 10 halvings of each step, so the steps close in on t = 0.5: 52 halvings to the last bit there."""
    problem = Problem(stubs.failing_field(fails, component=1), [1.0, 2.0], ts=[0.25, 0.4, 0.9])
    solution = solve(problem, max_step=0.15, first_step=0.15)
    assert solution.status == -3 and solution.n_rejected <= 52 + 11
    assert "non-finite value for component 1 at t=0." in solution.message
    assert all(part in solution.message for part in ("h=", "y=[", f"after step {solution.n_steps}"))
    assert abs(solution.t_steps[-1] - 0.5) < 1e-3
    assert np.array_equal(solution.t, [0.25, 0.4])                  # what was computed is kept
    np.testing.assert_allclose(solution.y, np.outer([1.0, 2.0], np.exp([-0.25, -0.4])), rtol=1e-5)
    with pytest.raises(IntegrationError, match="non-finite value for component 1") as caught:
        gradient(with_loss(problem), "discrete_forward", max_step=0.15)
    assert caught.value.solution.status == -3


def with_loss(problem):
    field = problem.field
    jvp = lambda t, y, theta, t_tan, y_tan, theta_tan: -y_tan
    with_jvp = VectorField(field.user_f, jvp=jvp, n=field.n)
    return problem.replace(field=with_jvp, loss=losses.sum_of_squares())


def test_fault_02_ten_halvings_of_one_step():
    solution = solve(Problem(stubs.failing_field(lambda t, y: t > 0.0), [1.0, 2.0]), first_step=0.125)
    assert solution.status == -3 and solution.n_rejected == 11 and solution.nfev == 1 + 6 * 11
    assert "component 0 at t=0 + h, h=6.1e-05" in solution.message  # 2^-14, after the tenth


def test_fault_02_a_stage_alone_is_not_finite():
    """The slope is finite at powers of two, where the steps end, and nowhere between: y1 is not finite."""
    def fun(t, y, theta):
        return np.full(2, 1.0 if t == 0.0 or np.frexp(t)[0] == 0.5 else np.nan)

    problem = Problem(VectorField(fun), [1.0, 2.0])
    for options, rejected, h in (({"first_step": 0.5}, 11, "0.000244"), ({"n_steps": 1}, 0, "1")):
        solution = solve(problem, **options)
        assert solution.status == -3 and solution.n_rejected == rejected
        assert f"non-finite value for component 0 at t=0 + h, h={h}, after step 0" in solution.message


def test_fault_02_given_steps_are_not_halved():
    problem = Problem(stubs.failing_field(lambda t, y: 0.5 < t < 0.6, component=1), [1.0, 2.0])
    solution = solve(problem, n_steps=4, method="rk4")              # a stage at t = 0.625 is outside
    assert solution.success
    solution = solve(problem, n_steps=9, method="rk4")              # 5/9 is inside
    assert solution.status == -3 and solution.n_steps == 4 and "after step 4" in solution.message


def test_fault_03_blow_up_in_finite_time():
    """y' = y^2 from 1 ends at t = 1: y reaches 1e4 where 1 - t is 1e-4."""
    solution = solve(Problem(VectorField(lambda t, y, theta: y * y, n=1), [1.0], t_span=(0.0, 2.0)))
    assert solution.status == -1 and abs(solution.t_steps[-1] - 1.0) < 1e-4
    for part in ("step size h=", "below spacing at t=", "growing: likely a singularity"):
        assert part in solution.message
    kink = solve(Problem(VectorField(lambda t, y, theta: np.where(t < 0.3, y, 1e30 * np.sin(1e30 * t)), n=1), [1.0]))
    assert kink.status == -1 and "singularity" not in kink.message  # the hint needs a reason


def test_fault_04_too_many_steps():
    solution = solve(decay(), max_steps=3)
    assert solution.status == -2 and solution.n_steps == 3
    assert f"max_steps=3 steps taken at t={solution.t_steps[-1]:.10g}" in solution.message


@pytest.mark.parametrize("method", ["dopri5", "tsit5", "dop853"])
def test_fault_05_stiff_problem_and_explicit_method(method):
    stiff = Problem(CLASSICAL["cosine_relaxation"], [0.0], [1e5], (0.0, 10.0))
    solution = solve(stiff, method=method, rtol=1e-4, max_steps=500)
    assert solution.status == -2 and "looks stiff" in solution.message
    assert "an explicit method is the wrong tool" in solution.message
    easy = solve(stiff.replace(theta=[1.0], t1=1000.0), method=method, rtol=1e-4, max_steps=100)
    assert easy.status == -2 and "stiff" not in easy.message


# --- tolerances -----------------------------------------------------------------------------------

def test_fault_07_tolerances():
    with pytest.warns(UserWarning, match="rtol below 100 eps"):
        clamped = solve(decay(), rtol=1.5e-16, atol=1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(clamped.y1, solve(decay(), rtol=100 * EPS, atol=1e-12).y1)
    for name in ("rtol", "atol"):
        for value in (np.nan, -1e-6, [1e-6, np.nan]):
            refused(InvalidInputError, f"{name} must be >= 0", solve, decay(), **{name: value})


def test_fault_08_error_weight_zero():
    refused(InvalidInputError, "error weight of component 1 is zero", solve, decay(y0=[1.0, 0.0]), atol=0.0)
    assert solve(decay(), atol=0.0).success


# --- what the user's function returns -------------------------------------------------------------

@pytest.mark.parametrize("fun, message", [
    (lambda t, y: np.array([1.0, 2.0]), r"fun returned shape \(2,\), expected \(1,\)"),
    (lambda t, y: 0.5, r"fun returned shape \(\), expected \(1,\)"),
    (lambda t, y: y[:, None], r"fun returned shape \(1, 1\), expected \(1,\)"),
    (lambda t, y: None, r"fun returned None \(forgot return\?\)"),
], ids=["too long", "scalar", "column", "None"])
def test_fault_09_wrong_shape_scalar_none(fun, message):
    refused(InvalidInputError, message, solve_ivp, fun, (0.0, 1.0), [1.0])
    refused(InvalidInputError, message, solve, Problem(VectorField(lambda t, y, theta: fun(t, y)), [1.0]))
    if "None" not in message:
        refused(InvalidInputError, message, solve_ivp, njit(fun), (0.0, 1.0), [1.0])


def test_fault_09_in_place_form():
    @njit
    def outside(t, y, theta, dy):
        dy[2] = y[0]

    def returns(t, y, theta, dy):
        return -y

    refused(InvalidInputError, "index outside y", solve, Problem(VectorField(outside), [1.0, 2.0]))
    refused(InvalidInputError, "must write to dy and return nothing", solve, Problem(VectorField(returns), [1.0]))


def test_fault_10_y_changed_in_place():
    def fun(t, y):
        y *= -1.0
        return y

    def rhs(t, y, theta, dy):
        dy[0] = y[0]
        theta[0] = 2.0

    for function in (fun, njit(fun)):
        refused(InvalidInputError, "fun changed y or theta in place", solve_ivp, function, (0.0, 1.0), [1.0])
    refused(InvalidInputError, "fun changed y or theta", solve, Problem(VectorField(njit(rhs)), [1.0], [1.0]))


# --- the initial value ----------------------------------------------------------------------------

@pytest.mark.parametrize("y0, error, message", [
    ([[1.0, 2.0]], InvalidInputError, r"y0 must be one-dimensional, found shape \(1, 2\)"),
    ([1.0, np.nan], InvalidInputError, r"y0 must be finite, found y0\[1\] = nan"),
    ([np.inf, 1.0], InvalidInputError, r"y0 must be finite, found y0\[0\] = inf"),
    ("one", InvalidTypeError, "y0 must be an array of real numbers"),
    (["a", "b"], InvalidTypeError, "y0 must be an array of real numbers"),
    (None, InvalidTypeError, "y0 must be an array of real numbers"),
    ([[1.0], [1.0, 2.0]], InvalidTypeError, "y0 must be an array of real numbers"),
])
def test_fault_11_initial_value_of_wrong_kind(y0, error, message):
    refused(error, message, Problem, VectorField(lambda t, y, theta: -y), y0)
    refused(error, message, solve_ivp, lambda t, y: -y, (0.0, 1.0), y0)


def read_only(array):
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("y0", [
    [1, 2], np.array([1, 2], dtype=np.int8), np.array([1, 2], dtype=np.float32), np.array([1.0, 0.0, 2.0, 0.0])[::2],
    np.asfortranarray([[1.0, 5.0], [2.0, 5.0]])[:, 0], read_only(np.array([1.0, 2.0])), np.array([1, 2], dtype=">f8"),
], ids=["list", "int8", "float32", "strided", "fortran", "read-only", "big-endian"])
def test_fault_12_initial_value_of_other_kinds_is_copied(y0):
    before = np.array(y0)
    problem = decay(y0=y0)
    assert problem.y0.dtype == np.float64 and problem.y0.flags.c_contiguous and problem.y0.flags.writeable
    assert np.array_equal(solve(problem).y1, solve(decay()).y1)
    assert np.array_equal(solve_ivp(lambda t, y: -y, (0.0, 1.0), y0).y[:, 0], [1.0, 2.0])
    assert np.array_equal(y0, before) and not np.shares_memory(problem.y0, np.asarray(y0))


def test_fault_12_number_as_initial_value():
    assert np.array_equal(solve(decay(y0=np.array(1.0))).y1, solve(decay(y0=[1.0])).y1)
    assert solve_ivp(lambda t, y: -y, (0.0, 1.0), 1.0).y.shape[0] == 1


def test_fault_13_complex_initial_value():
    refused(InvalidInputError, "stack real and imaginary parts", solve_ivp, lambda t, y: -y, (0, 1), [1j])
    refused(InvalidInputError, "y0 must be real, found complex128", decay, y0=[1.0 + 0.0j])


@pytest.mark.parametrize("recipe", RECIPES)
def test_fault_14_nothing_to_differentiate(recipe):
    field = VectorField(lambda t, y, theta: -y, jvp=lambda t, y, theta, t_tan, y_tan, theta_tan: -y_tan,
                        vjp=lambda t, y, theta, dy_bar: (0.0, -dy_bar, 0.0 * theta))
    no_theta = gradient(Problem(field, [1.0], loss=losses.linear([[1.0]])), recipe)
    assert no_theta.theta.shape == (0,)
    np.testing.assert_allclose(no_theta.y0, [np.exp(-1.0)], rtol=1e-5)
    no_state = gradient(Problem(field, [], loss=losses.sum_of_squares()), recipe)
    assert no_state.y0.shape == (0,) and no_state.loss == 0.0
    assert solve(Problem(field, [])).y.shape == (0, 1)


# --- times ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("recipe", RECIPES)
def test_fault_15_interval_of_length_zero(recipe):
    problem = decay(span=(1.0, 1.0), loss=losses.linear([[3.0], [-5.0]]))
    result = gradient(problem, recipe)
    assert result.solution.status == 0 and result.loss == 3.0 - 10.0
    assert np.array_equal(result.y0, [3.0, -5.0]) and np.array_equal(result.theta, [0.0])


def mirror(field):
    """dy/ds = -f(-s, y): the same curve run the other way."""
    def f(t, y, theta, tape, dy):
        field.f(-t, y, theta, tape, dy)
        dy *= -1.0

    def jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
        field.jvp(-t, y, theta, -t_tan, y_tan, theta_tan, tape, dy_tan)
        dy_tan *= -1.0

    def vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
        minus_t_bar = np.zeros(1)
        field.vjp(-t, y, theta, tape, -dy_bar, minus_t_bar, y_bar, theta_bar)
        t_bar -= minus_t_bar

    return VectorField(f, jvp=jvp, vjp=vjp)


@pytest.mark.parametrize("recipe", RECIPES)
def test_fault_16_backwards_in_time(recipe):
    """The same roundings up to contraction, over some hundred steps: 1e-11."""
    problem = CATALOGUE["forced_oscillator"]()
    backwards = Problem(problem.field, problem.y0, problem.theta, (problem.t1, problem.t0), ts=problem.ts[::-1],
                        loss=problem.loss)
    mirrored = Problem(mirror(problem.field), problem.y0, problem.theta, (-problem.t1, -problem.t0),
                       ts=-problem.ts[::-1], loss=problem.loss)
    ours, other = gradient(backwards, recipe), gradient(mirrored, recipe)
    assert ours.solution.n_steps == other.solution.n_steps and np.all(ours.theta != 0.0)
    for name, sign in (("y0", 1), ("theta", 1), ("ts", -1), ("t0", -1), ("loss", 1)):
        np.testing.assert_allclose(getattr(ours, name), sign * getattr(other, name), rtol=1e-11, err_msg=name)


@pytest.mark.parametrize("t_span", [(0.0, np.nan), (0.0, np.inf), (0.0, 1.0, 2.0), (0.0,), 1.0, "ab", (None, 1.0)])
def test_fault_17_interval_that_is_none(t_span):
    refused(InvalidInputError, "t_span must be two finite times", Problem, DECAY, [1.0], [1.0], t_span)
    refused(InvalidInputError, "t_span must be two finite times", solve_ivp, lambda t, y: -y, t_span, [1.0])


@pytest.mark.parametrize("ts, span, message", [
    ([0.5, 0.25], (0.0, 1.0), "ts must be sorted in the order of integration, found 0.5 before"),
    ([0.25, 0.5], (1.0, 0.0), "ts must be sorted in the order of integration, found 0.25 before"),
    ([0.5, 1.5], (0.0, 1.0), r"ts must lie inside t_span \[0, 1\], found 1.5"),
    ([-1e-9], (0.0, 1.0), "ts must lie inside t_span"),
    ([0.5, np.nan], (0.0, 1.0), r"ts must be finite, found ts\[1\] = nan"),
])
def test_fault_18_observation_times_out_of_order(ts, span, message):
    refused(InvalidInputError, message, decay, ts=ts, span=span)


@pytest.mark.parametrize("recipe", RECIPES)
def test_fault_19_duplicated_observation_times(recipe):
    """Cotangents of equal times add. Continuous adjoints take other steps, and agree to their tolerance 1e-6."""
    twice = decay(ts=[0.5, 0.5, 2.0, 2.0], loss=losses.linear([[1.0, 2.0, 4.0, 8.0], [3.0, 5.0, 7.0, 9.0]]))
    once = decay(ts=[0.5, 2.0], loss=losses.linear([[3.0, 12.0], [8.0, 16.0]]))
    assert np.array_equal(solve(twice).y[:, [0, 2]], solve(twice).y[:, [1, 3]])
    double, single = gradient(twice, recipe), gradient(once, recipe)
    rtol = 1e-6 if RECIPES[recipe].equation == "continuous" else 1e-12
    for name in ("y0", "theta", "t0", "loss"):
        np.testing.assert_allclose(getattr(double, name), getattr(single, name), rtol=rtol)
    np.testing.assert_allclose(double.ts.reshape(2, 2).sum(axis=1), single.ts, rtol=1e-12)


@pytest.mark.parametrize("recipe", RECIPES)
def test_fault_20_no_observation_times(recipe):
    loss = losses.terminal(lambda y1: y1.sum(), np.ones_like)
    result = gradient(decay(ts=[], loss=loss), recipe)
    assert result.solution.y.shape == (2, 0) and result.ts.shape == (0,)
    np.testing.assert_allclose(result.y0, np.exp([-1.5, -1.5]), rtol=1e-5)


@pytest.mark.parametrize("span", [(0.0, 2.0), (2.0, 0.0)])
@pytest.mark.parametrize("recipe", RECIPES)
def test_fault_21_observations_at_both_ends_and_at_step_ends(recipe, span):
    """L = sum w_k y(t_k), dL/dy0 = sum w_k R^j_k with rk4's R(-k h), dL/dk by its derivative.

    Weights are powers of ten, so that a jump lost or doubled shows in the digits. The discrete recipes are
    exact to rounding; with 64 steps the continuous ones are h^4 / 120 k^5 from it, below 1e-7.
    """
    steps = np.array([0, 0, 16, 32, 32, 48, 64, 64])
    weights = 10.0 ** -np.arange(8.0)
    h, k = (span[1] - span[0]) / 64, 0.75
    result = gradient(Problem(DECAY, [2.0], [k], span, ts=span[0] + steps * h, loss=losses.linear([weights])),
                      recipe, method="rk4", n_steps=64)
    x = -k * h
    R, R_slope = 1 + x + x**2 / 2 + x**3 / 6 + x**4 / 24, -h * (1 + x + x**2 / 2 + x**3 / 6)
    rtol = 1e-13 if RECIPES[recipe].truth == "frozen" else 1e-7
    np.testing.assert_allclose(result.y0, [np.sum(weights * R ** steps)], rtol=rtol)
    slope = np.sum(weights * steps * R ** np.maximum(steps - 1, 0)) * R_slope * 2.0
    np.testing.assert_allclose(result.theta, [slope], rtol=rtol)
    np.testing.assert_allclose(result.ts, -k * 2.0 * weights * R ** steps, rtol=rtol)


# --- scales ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("exponent", [996, -900])     # 6.7e299; 1e-271, with room for errors 1e-10 of it
@pytest.mark.parametrize("method", ["bosh3", "dopri5", "tsit5", "dop853"])
def test_fault_22_powers_of_two_scale_exactly(method, exponent):
    """With tolerances scaled alike no rounding changes: the gradients are equal bit by bit."""
    scale = 2.0 ** exponent
    problem = CATALOGUE["linear"]().replace(loss=None)
    weights = losses.linear(np.arange(1.0, 13.0).reshape(3, 4))
    for recipe in ("discrete", "discrete_forward"):
        plain = gradient(problem.replace(loss=weights), recipe, method=method, atol=2.0 ** -30)
        scaled = gradient(problem.replace(y0=scale * problem.y0, loss=weights), recipe, method=method,
                          atol=scale * 2.0 ** -30)
        assert np.array_equal(scaled.solution.y, scale * plain.solution.y)
        assert np.array_equal(scaled.y0, plain.y0) and np.array_equal(scaled.theta, scale * plain.theta)
        assert np.array_equal(scaled.ts, scale * plain.ts) and scaled.loss == scale * plain.loss


@pytest.mark.parametrize("scale, atol", [(1e300, 1e290), (1e-310, 1e-319)])
@pytest.mark.parametrize("recipe", RECIPES)
def test_fault_22_very_large_and_subnormal_states(recipe, scale, atol):
    """Subnormal numbers near 1e-310 have 14 digits, their tolerance 1e-316 has 8: nothing more is asked."""
    if RECIPES[recipe].truth == "through" and scale < 1.0:
        pytest.skip("the size of a step changes by 1 / y0 per unit of y0: 1e310 is not a float")
    problem = decay(y0=[scale, 2.0 * scale], loss=losses.linear([[1.0], [2.0]]))
    result = gradient(problem, recipe, atol=atol, rtol=1e-6)
    np.testing.assert_allclose(result.y0, np.exp(-1.5) * np.array([1.0, 2.0]), rtol=1e-5)
    np.testing.assert_allclose(result.theta / scale, [-2.0 * np.exp(-1.5) * 5.0], rtol=1e-5)


@pytest.mark.parametrize("recipe", RECIPES)
def test_fault_22_the_scale_of_the_loss_scales_the_gradient_exactly(recipe):
    problem = CATALOGUE["linear"]()
    weights = problem.loss.weights
    plain, tiny = (gradient(problem.replace(loss=losses.linear(s * weights)), recipe) for s in (1.0, 2.0 ** -30))
    assert np.array_equal(tiny.y0, 2.0 ** -30 * plain.y0) and np.array_equal(tiny.theta, 2.0 ** -30 * plain.theta)


# --- randomness -----------------------------------------------------------------------------------

def test_fault_43_equal_seeds_give_equal_numbers():
    """The gradient checks draw directions; everything else is deterministic."""
    problem = decay(loss=losses.sum_of_squares())
    value = lambda theta: gradient(problem.replace(theta=theta)).loss
    grad = gradient(problem).theta
    first, again = (check_gradient(value, problem.theta, grad, seed=7) for _ in range(2))
    assert first.verdict == again.verdict and str(first) == str(again)
    assert np.array_equal(grad, gradient(problem).theta)
