"""Gradients with respect to t0, t1 and the observation times, by every recipe, against closed forms."""
import numpy as np
import pytest

from gradients import RECIPES, block_error, closed_form_gradient, exact_gradient, flat
from refnode import losses
from refnode.problems.catalogue import CATALOGUE, CLOSED_FORMS
from refnode.problems.problem import Problem
from refnode.sensitivity.gradient import gradient, jvp, vjp
from refnode.solve.initial_value import solve

every_recipe = pytest.mark.parametrize("sensitivity", RECIPES)
every_closed_form = pytest.mark.parametrize("name", CLOSED_FORMS)
TIGHT = {"method": "dop853", "rtol": 1e-12, "atol": 1e-15}
NEAR = 1e-9        # 1e3 times rtol: the condition of the catalogue's problems (test_continuous_adjoint)


def squares():
    """L = |y(t1)|^2 of the last state, which t1 moves even when observation times are given."""
    return losses.terminal(lambda y1: y1 @ y1, lambda y1: 2.0 * y1)


def assert_gradient(problem, sensitivity, expected):
    assert block_error(problem, flat(gradient(problem, sensitivity, **TIGHT)), expected) <= near(sensitivity)


def near(sensitivity):
    """Ten times as far for the derivative through the step control: that of the error is added."""
    return 10.0 * NEAR if RECIPES[sensitivity].truth == "through" else NEAR


# --- closed forms ---------------------------------------------------------------------------------

@every_recipe
@every_closed_form
def test_forward_in_time(name, sensitivity):
    """Observations and the end: t0, t1 and every t_k."""
    problem = CATALOGUE[name]()
    problem = problem.replace(loss=problem.loss + squares())
    assert_gradient(problem, sensitivity, closed_form_gradient(problem, CLOSED_FORMS[name]))


@every_recipe
@pytest.mark.parametrize("name", ["forced_oscillator", "cosine_relaxation", "logistic", "linear"])
def test_backward_in_time(name, sensitivity):
    """From the end of the interval to its begin, observations in that order."""
    forward = CATALOGUE[name]()
    ts = forward.t0 + (forward.t1 - forward.t0) * np.array([0.875, 0.5, 0.25, 0.0])
    loss = losses.sum_of_squares() + squares()
    problem = forward.replace(t0=forward.t1, t1=forward.t0, ts=ts, loss=loss)
    assert_gradient(problem, sensitivity, closed_form_gradient(problem, CLOSED_FORMS[name]))


@every_recipe
@every_closed_form
def test_observation_that_moves_with_the_end(name, sensitivity):
    """ts=None: the one observation is y(t1), its time gradient is in t1, and there is none for ts."""
    problem = CATALOGUE[name]().replace(ts=None, loss=losses.sum_of_squares() + squares())
    found = gradient(problem, sensitivity, **TIGHT)
    assert found.ts.shape == (0,)
    assert block_error(problem, flat(found), closed_form_gradient(problem, CLOSED_FORMS[name])) <= NEAR


@every_recipe
def test_given_times_leave_only_terminal_terms_to_the_end(sensitivity):
    """ts=[t1] is an input of its own: it has what ts=None gives to t1."""
    problem = CATALOGUE["cosine_relaxation"]().replace(ts=None, loss=losses.sum_of_squares())
    moving = gradient(problem, sensitivity, **TIGHT)
    given = gradient(problem.replace(ts=[problem.t1]), sensitivity, **TIGHT)
    if RECIPES[sensitivity].truth == "through":     # t1 stretches the last step, in which ts is interpolated
        assert abs(given.t1) <= NEAR and given.t1 + given.ts[0] == pytest.approx(moving.t1, rel=1e-13)
        return
    assert given.t1 == 0.0 and given.ts[0] == moving.t1 != 0.0
    assert given.t0 == moving.t0


@every_recipe
def test_observations_at_the_ends_and_twice(sensitivity):
    """At t0, twice at one time, at t1: each time has its own gradient."""
    problem = CATALOGUE["forced_oscillator"]()
    ts = [problem.t0, 1.0, 1.0, 2.5, problem.t1, problem.t1]
    weights = np.random.default_rng(0).standard_normal((2, 6))
    problem = problem.replace(ts=ts, loss=losses.linear(weights) + squares())
    expected = closed_form_gradient(problem, CLOSED_FORMS["forced_oscillator"])
    assert_gradient(problem, sensitivity, expected)


@every_recipe
def test_interval_of_length_zero(sensitivity):
    """t0 = t1: y(t1) = y0 + (t1 - t0) f, so the ends have opposite gradients and theta none."""
    problem = CATALOGUE["forced_oscillator"]().replace(t1=0.25, ts=None, loss=squares())
    found = gradient(problem, sensitivity)
    rate = 2.0 * problem.y0 @ problem.field(0.25, problem.y0, problem.theta)
    np.testing.assert_array_equal(found.y0, 2.0 * problem.y0)
    np.testing.assert_array_equal(found.theta, 0.0)
    assert (found.t0, found.t1) == pytest.approx((-rate, rate), rel=1e-15)


@every_recipe
def test_observation_of_the_initial_value(sensitivity):
    """L = y(t0)^2: the gradient is 2 y0 for y0, and none for theta; moving t_0 away from t0 counts, both ways."""
    problem = CATALOGUE["exponential_decay"]().replace(ts=[0.0], loss=losses.sum_of_squares())
    found = gradient(problem, sensitivity)
    np.testing.assert_allclose(found.y0, 2.0 * problem.y0, rtol=1e-15)
    np.testing.assert_array_equal(found.theta, 0.0)
    rate = -2.0 * 0.625 * problem.y0 @ problem.y0
    assert (found.t0, found.t1, found.ts[0]) == pytest.approx((-rate, 0.0, rate), rel=1e-15)


# --- signs ----------------------------------------------------------------------------------------

@every_recipe
def test_signs_of_decay(sensitivity):
    """y' = -k y, L = y(t1): a later end lowers it by k y(t1); a later begin raises it by the same; y0 lifts it."""
    problem = Problem(CATALOGUE["exponential_decay"]().field, [2.0], [0.5], (1.0, 3.0),
                      loss=losses.terminal(lambda y1: y1[0], np.ones_like))
    found, y1 = gradient(problem, sensitivity, **TIGHT), 2.0 * np.exp(-1.0)
    assert found.t1 == pytest.approx(-0.5 * y1, rel=NEAR) and found.t0 == pytest.approx(0.5 * y1, rel=NEAR)
    assert found.y0[0] == pytest.approx(y1 / 2.0, rel=NEAR)
    assert found.theta[0] == pytest.approx(-2.0 * y1, rel=NEAR)


@every_recipe
@pytest.mark.filterwarnings("ignore::refnode.errors.GradientWarning")
@pytest.mark.parametrize("name", ["lotka_volterra", "kepler"])
def test_autonomous_fields_know_only_durations(name, sensitivity):
    """Shifting all times changes nothing: dL/dt0 + dL/dt1 + sum dL/dts = 0."""
    problem = CATALOGUE[name]()
    problem = problem.replace(loss=problem.loss + squares())
    found = gradient(problem, sensitivity, **TIGHT)
    parts = np.array([found.t0, found.t1, *found.ts])
    near = 1e2 * NEAR if (name, sensitivity) == ("kepler", "backsolve_plain") else NEAR       # y drifts, and it warns
    assert abs(parts.sum()) <= near * np.max(np.abs(parts))


def time_rate(problem):
    """lam . df/dt at a time of a problem that starts there: lam is its gradient for y0."""
    field, t_bar = problem.field, np.zeros(1)
    lam = gradient(problem, "discrete", **TIGHT).y0
    field.vjp(problem.t0, problem.y0, problem.theta, field.new_tape(1)[0], lam, t_bar, np.zeros_like(lam),
              np.zeros_like(problem.theta))
    return t_bar[0]


@every_recipe
@pytest.mark.parametrize("name", ["forced_oscillator", "cosine_relaxation"])
def test_time_shift_identity(name, sensitivity):
    """dL/dt0 + dL/dt1 + sum dL/dts = integral of lam . df/dt, by Gauss-Legendre between the observations.

    lam is smooth there, and 12 nodes resolve it to rounding; each lam(t) is the gradient of a fresh problem.
    """
    problem = CATALOGUE[name]()
    found = gradient(problem, sensitivity, **TIGHT)
    nodes, weights = np.polynomial.legendre.leggauss(12)
    integral, ends = 0.0, [problem.t0, *problem.ts]
    for k, (start, end) in enumerate(zip(ends[:-1], ends[1:])):
        times = 0.5 * (start + end) + 0.5 * (end - start) * nodes
        ys = solve(problem.replace(ts=times, loss=None), **TIGHT).y
        weights_left = {"ts": problem.ts[k:], "loss": observed_from(problem, k)}
        rates = [time_rate(problem.replace(t0=t, y0=y, **weights_left)) for t, y in zip(times, ys.T)]
        integral += 0.5 * (end - start) * weights @ rates
    assert found.t0 + found.t1 + found.ts.sum() == pytest.approx(integral, rel=NEAR)


def observed_from(problem, k):
    """The loss of the observations k, k + 1, ... of a catalogue problem."""
    loss = problem.loss
    return losses.linear(loss.weights[:, k:]) if isinstance(loss, losses.Linear) else \
        losses.sum_of_squares(loss.data[:, k:])


# --- tangents and cotangents ----------------------------------------------------------------------

@pytest.mark.parametrize("sensitivity", ["forward", "discrete_forward"])
@pytest.mark.parametrize("direction", range(6))
def test_tangents_of_times(sensitivity, direction):
    """jvp along t0, t1 and each t_k against the closed form; t1 does not move given observations."""
    problem = CATALOGUE["forced_oscillator"]().replace(loss=None)
    tangents = np.eye(6)[direction]
    found = jvp(problem, t0_tan=tangents[0], t1_tan=tangents[1], ts_tan=tangents[2:], sensitivity=sensitivity,
                **TIGHT)
    step = 1e-30j
    times = problem.ts + step * tangents[2:]
    expected = np.array([CLOSED_FORMS["forced_oscillator"](
        problem.y0, problem.theta, problem.t0 + step * tangents[0], t).imag / 1e-30 for t in times]).T
    assert np.max(np.abs(found - expected)) <= NEAR * max(np.max(np.abs(expected)), 1e-300)


@pytest.mark.parametrize("sensitivity", ["forward", "discrete_forward"])
def test_tangent_of_the_moving_end(sensitivity):
    problem = CATALOGUE["logistic"]().replace(ts=None, loss=None)
    rate = problem.field(problem.t1, solve(problem).y1, problem.theta)
    np.testing.assert_allclose(jvp(problem, t1_tan=2.0, sensitivity=sensitivity)[:, 0], 2.0 * rate, rtol=1e-5)


@every_recipe
def test_cotangent_of_the_last_state_moves_t1_alone(sensitivity):
    problem = CATALOGUE["lorenz"]()
    bars = vjp(problem, y1_bar=[1.0, 2.0, 3.0], sensitivity=sensitivity)
    np.testing.assert_array_equal(bars.ts, np.zeros(4))
    rate = problem.field(problem.t1, solve(problem).y1, problem.theta)
    assert bars.t1 == pytest.approx(rate @ [1.0, 2.0, 3.0], rel=1e-4)


@every_recipe
def test_times_of_a_problem_without_closed_form(sensitivity):
    problem = CATALOGUE["van_der_pol"]()
    problem = problem.replace(loss=problem.loss + squares())
    assert_gradient(problem, sensitivity, exact_gradient(problem))
