"""The recipe that undoes the steps of a reversible method: its gradients, its drift, and the doors."""
import numpy as np
import pytest

import gradients
import stubs
from gradients import COMPLEX_STEP, block_error, flat, inputs, python_field, random_seeds
from refnode import losses
from refnode.errors import GradientWarning, IntegrationError
from refnode.fields.classical import CLASSICAL
from refnode.fields.field import VectorField
from refnode.fields.neural import mlp_field
from refnode.problems.catalogue import CATALOGUE
from refnode.problems.problem import Problem
from refnode.sensitivity.cotangents import Seeds
from refnode.sensitivity.forward_solve import solved
from refnode.sensitivity.gradient import gradient, vjp
from refnode.sensitivity.reversible_adjoint import StateSweep
from refnode.solve import run
from refnode.solve.initial_value import solve
from refnode.solve.options import SolveOptions
from refnode.steppers import reversible
from refnode.steppers.schemes import reversible_method
from steps import Step, mutant_bodies, round_trip_ulp

METHODS = ["alf", "reversible_heun", "mccallum_foster(euler)", "mccallum_foster(bosh3)"]
every_method = pytest.mark.parametrize("method", METHODS)
every_reversal = pytest.mark.parametrize("sensitivity", ["discrete", "reversible"])


# --- gradients ------------------------------------------------------------------------------------

@every_method
@pytest.mark.parametrize("name", ["forced_oscillator", "van_der_pol", "pendulum"])
def test_gradients_are_exact(method, name):
    gradients.assert_exact_steps(CATALOGUE[name](), method)


@pytest.mark.parametrize("method", ["alf", "reversible_heun", "mccallum_foster(rk4, 0.9)"])
def test_backwards_in_time_with_observations_everywhere(method):
    ts = 0.5 - np.array([0.0, 0.0, 0.125, 0.25, 0.25, 0.7, 1.5, 2.0, 2.0])
    gradients.assert_exact_steps(CATALOGUE["forced_oscillator"]().replace(t0=0.5, t1=-1.5, ts=ts, loss=None), method, 8)


@every_method
def test_neural_fields_with_a_tape(method):
    field = mlp_field((2, 5, 2), "tanh", batch=2, time_input=False)
    rng = np.random.default_rng(field.p)
    problem = Problem(field, rng.uniform(-1.0, 1.0, field.n), 0.5 * rng.standard_normal(field.p), (-0.5, 1.0),
                      ts=[0.25, 0.3125, 1.0])
    gradients.assert_exact_steps(problem, method, 6)


@every_method
def test_running_cost(method):
    """One more state; its gradient against complex steps of the same program."""
    cost = losses.running_cost(lambda t, y, theta: y[0] * y[0] * theta[0] + np.cos(t) * y[1],
                               g_jvp=None, g_vjp=_cost_vjp)
    problem = CATALOGUE["pendulum"]()
    problem = problem.replace(field=python_field(problem.field), loss=problem.loss + cost)
    solution = solve(problem.replace(loss=None), method=method, n_steps=16)
    ys_bar, y1_bar = problem.loss.vjp(solution.y, solution.y1)
    flow_bars = np.vstack([ys_bar, np.zeros(ys_bar.shape[1])]), np.append(y1_bar, 1.0)
    expected = gradients.frozen_gradient(problem, np.linspace(problem.t0, problem.t1, 17), method, *flow_bars)
    for sensitivity in ("discrete", "reversible"):
        found = gradient(problem, sensitivity, method=method, n_steps=16)
        assert block_error(problem, flat(found), expected) <= COMPLEX_STEP


def _cost_vjp(t, y, theta, g_bar, t_bar, y_bar, theta_bar):
    # g = y[0]*y[0]*theta[0] + cos(t)*y[1]
    y_bar[0] += 2.0 * y[0] * theta[0] * g_bar
    y_bar[1] += np.cos(t) * g_bar
    theta_bar[0] += y[0] * y[0] * g_bar
    t_bar[0] -= np.sin(t) * y[1] * g_bar


@every_method
@every_reversal
def test_gradient_equals_finite_differences(method, sensitivity):
    """Central differences of the loss in y0 and theta, h = eps^(1/3): their error is about 1e-10."""
    problem, options = CATALOGUE["pendulum"](), {"method": method, "n_steps": 32}
    found, x = gradient(problem, sensitivity, **options), inputs(problem)[:4]

    def loss(x):
        solution = solve(problem.replace(y0=x[:2], theta=x[2:]), **options)
        return problem.loss.value(solution.y, solution.y1)
    expected = []
    for direction in np.eye(4):
        eps = 6e-6 * (x @ direction)
        expected.append((loss(x + eps * direction) - loss(x - eps * direction)) / (2 * eps))
    np.testing.assert_allclose(flat(found)[:4], expected, rtol=1e-7, atol=1e-8 * np.max(np.abs(expected)))


@pytest.mark.parametrize("method, coarsest", [("alf", 256), ("reversible_heun", 256), ("mccallum_foster(bosh3)", 64)])
def test_all_gradients_converge_to_the_exact_ones(method, coarsest):
    """Times included, with the order of the method: t0, t1 and ts act through f, at any method's y."""
    problem = CATALOGUE["forced_oscillator"]()
    errors = [block_error(problem, flat(gradient(problem, "reversible", method=method, n_steps=n)),
                          gradients.exact("forced_oscillator")) for n in (coarsest, 2 * coarsest)]
    assert np.log2(errors[0] / errors[1]) > reversible_method(method).order - 0.4 and errors[1] < 1e-3


# --- the reversal ---------------------------------------------------------------------------------

@every_method
def test_memory_does_not_grow(method):
    problem = CATALOGUE["lotka_volterra"]()
    bytes_of = {sensitivity: [gradient(problem, sensitivity, method=method, n_steps=n).stats["history_bytes"]
                              for n in (100, 200)] for sensitivity in ("discrete", "reversible")}
    rows = reversible_method(method).rows
    assert bytes_of["reversible"] == [2 * rows * 2 * 8] * 2
    steps = [solve(problem, method=method, n_steps=n).n_steps for n in (100, 200)]
    assert bytes_of["discrete"] == [(n + 1) * rows * 2 * 8 for n in steps]


def perturbed_pull(problem, method, n_steps, size):
    """|change of the gradient|, relative, and the drift, relative, when the last state is moved by ``size``."""
    forward = solved(problem, SolveOptions.of(method=method, n_steps=n_steps), keep=True)
    seeds = gradients.random_seeds(problem, np.random.default_rng(1))
    seeds = Seeds(np.ascontiguousarray(seeds[0].T), seeds[1])
    x = forward.stored()[1]
    exact = np.concatenate(StateSweep(forward, x).pull(seeds, forward.x1.copy(), inverted=False)[:2])
    moved = forward.x1 * (1.0 + size)
    y0_bar, theta_bar, drift = StateSweep(forward, np.zeros_like(x[:1])).pull(seeds, moved, inverted=True)
    drift = np.max(np.maximum(drift, np.abs(moved[0] - forward.y_start)) / np.max(np.abs(forward.ys), axis=0))
    return np.max(np.abs(np.append(y0_bar, theta_bar) - exact)) / np.max(np.abs(exact)), drift


@every_method
def test_the_gradients_error_is_proportional_to_the_drift(method):
    """docs/derivations/reversible.md: error <= C drift, with one C from the roundings of the machine to drifts of a millionth."""
    problem = CATALOGUE["lotka_volterra"]()
    pairs = [perturbed_pull(problem, method, 64, size) for size in (1e-6, 1e-8, 1e-10, 0.0)]
    constants = [error / drift for error, drift in pairs[:3]]
    assert max(constants) < 1.1 * min(constants)
    error, drift = pairs[-1]
    assert error <= 10.0 * constants[0] * drift + 1e-15 * 64


def test_drift_is_seen_at_every_observation():
    """A last state moved by a millionth is that far from the observation at t1, at least."""
    problem = CATALOGUE["lotka_volterra"]()
    assert problem.ts[-1] == problem.t1
    forward = solved(problem, SolveOptions.of(method="alf", n_steps=64), keep=False)
    seeds, moved = Seeds(np.zeros(forward.ys.shape), np.zeros(2)), forward.x1 * (1.0 + 1e-6)
    distance = np.abs(moved[0] - forward.y1)
    *_, drift = StateSweep(forward, np.zeros((1, *moved.shape))).pull(seeds, moved, inverted=True)
    assert np.all(drift >= distance) and np.all(distance > 0.0)


def test_undone_steps_give_the_gradient_of_a_linear_field_whatever_the_drift():
    """Where df/dy is constant, what drifts has no part in dL/dy0: equal to the bit."""
    problem = CATALOGUE["forced_oscillator"]()
    seeds = random_seeds(problem, np.random.default_rng(2))
    stored, undone = (vjp(problem, *seeds, sensitivity=s, method="alf", n_steps=50) for s in ("discrete", "reversible"))
    np.testing.assert_array_equal(stored.y0, undone.y0)
    assert undone.stats["drift_ulp"] > 0.0


def test_drift_is_measured_and_warned_of():
    """What decays forwards grows backwards, and with it the roundings: here by up to exp(4 * 8)."""
    problem = Problem(CLASSICAL["logistic"], [0.25], [4.0, 1.0], (0.0, 8.0), loss=losses.sum_of_squares())
    with pytest.warns(GradientWarning, match=r"400 undone steps of 'mccallum_foster.*missed the known states by .* ULP"):
        found = gradient(problem, "reversible", method="mccallum_foster(rk4)", n_steps=400)
    assert found.stats["drift_ulp"] > 2.0 ** 26


def test_undone_states_that_overflow_raise():
    """ALF on Lorenz with steps far too long: the solve is finite, its undoing is not."""
    with pytest.raises(IntegrationError, match="undoing the steps of 'alf' overflowed"), np.errstate(all="ignore"):
        gradient(CATALOGUE["lorenz"](), "reversible", method="alf", n_steps=200)


def test_no_warning_without_drift(recwarn):
    found = gradient(CATALOGUE["lotka_volterra"](), "reversible", method="reversible_heun", n_steps=100)
    assert 0.0 < found.stats["drift_ulp"] < 1e4 and not recwarn.list


def test_a_wrong_inverse_shows_as_drift():
    """t + h for t in an undone step, on a field that depends on t."""
    step = Step("reversible_heun", CLASSICAL["forced_oscillator"], 2,
                bodies=mutant_bodies(reversible, ("f(t, x[1], theta, at.tape[0], x[2])",
                                                  "f(t + h, x[1], theta, at.tape[0], x[2])")))
    x, theta, *_ = step.point()
    assert round_trip_ulp(step, x, theta) > 1e10


# --- the doors, as every recipe is asked elsewhere ------------------------------------------------

@every_method
@every_reversal
def test_contents(method, sensitivity):
    problem = CATALOGUE["lotka_volterra"]()
    before, options = inputs(problem).copy(), {"method": method, "n_steps": 40}
    found, solution = gradient(problem, sensitivity, **options), solve(problem, **options)
    assert found.loss == problem.loss.value(solution.y, solution.y1) and found.sensitivity == sensitivity
    np.testing.assert_array_equal(found.solution.y, solution.y)
    bars = vjp(problem, *problem.loss.vjp(solution.y, solution.y1), sensitivity, **options)
    np.testing.assert_array_equal(flat(bars), flat(found))
    np.testing.assert_array_equal(flat(vjp(problem, sensitivity=sensitivity, **options)), 0.0)
    np.testing.assert_array_equal(inputs(problem), before)
    for factor in (2.0 ** -30, 2.0 ** 30):
        scaled = gradient(problem.replace(loss=gradients.Scaled(problem.loss, factor)), sensitivity, **options)
        np.testing.assert_array_equal(flat(scaled), factor * flat(found))


@every_method
def test_slices_of_one_step_give_the_same_bits(method, monkeypatch):
    """However often a sweep returns to Python to look for Ctrl-C."""
    problem = CATALOGUE["van_der_pol"]()
    recipes = ("discrete_forward", "discrete", "reversible")
    long = [flat(gradient(problem, sensitivity, method=method, n_steps=60)) for sensitivity in recipes]
    monkeypatch.setattr(run, "next_slice", lambda steps, elapsed: 1)
    problem.field.pace.clear()
    for expected, sensitivity in zip(long, recipes):
        np.testing.assert_array_equal(flat(gradient(problem, sensitivity, method=method, n_steps=60)), expected)


@every_method
def test_tangents_agree_and_plain_python_fields_too(method):
    problem = CATALOGUE["forced_oscillator"]()
    plain = problem.replace(field=python_field(problem.field))
    options = {"method": method, "n_steps": 9}
    expected = flat(gradient(problem, "discrete", **options))
    for each, sensitivity in ((problem, "discrete_forward"), (plain, "discrete_forward"), (plain, "discrete"),
                              (plain, "reversible")):
        assert block_error(problem, flat(gradient(each, sensitivity, **options)), expected) <= 1e-13


@every_method
@every_reversal
def test_no_steps_at_all_and_no_observations(method, sensitivity):
    problem = CATALOGUE["pendulum"]()
    still = problem.replace(t1=problem.t0, ts=[problem.t0] * 2, loss=None)
    seeds = random_seeds(still, np.random.default_rng(0))
    bars = vjp(still, *seeds, sensitivity=sensitivity, method=method, n_steps=3)
    np.testing.assert_array_equal(bars.y0, seeds[1] + seeds[0][:, 0] + seeds[0][:, 1])
    np.testing.assert_array_equal(bars.theta, 0.0)
    unseen = problem.replace(ts=[], loss=losses.terminal(np.sum, np.ones_like))
    seen = problem.replace(ts=None, loss=losses.linear(np.ones((2, 1))))
    found, expected = (gradient(each, sensitivity, method=method, n_steps=16) for each in (unseen, seen))
    np.testing.assert_array_equal(found.y0, expected.y0)
    assert found.t1 == expected.t1


@every_method
def test_a_field_without_states_or_parameters(method):
    def nothing(t, y, theta, *rest):
        pass
    empty = VectorField(lambda t, y, theta, dy: None, vjp=lambda t, y, theta, dy_bar, t_bar, y_bar, theta_bar: None)
    found = gradient(Problem(empty, [], loss=losses.sum_of_squares()), "reversible", method=method, n_steps=2)
    assert found.y0.shape == found.theta.shape == (0,) and found.stats["drift_ulp"] == 0.0


@every_method
def test_failed_solve(method):
    problem = Problem(stubs.failing_field(lambda t, y: t > 0.4), [1.0, 2.0])
    solution = solve(problem, method=method, n_steps=10)
    assert solution.status == -3 and "non-finite value for component 0" in solution.message
    first = solve(Problem(stubs.failing_field(lambda t, y: True), [1.0, 2.0]), method=method, n_steps=10)
    assert first.status == -3 and "initial point" in first.message and first.nfev == 1


@every_method
def test_exceptions_say_where(method):
    def fun(t, y, theta):
        if t > 0.5:
            raise ZeroDivisionError("mine")
        return -y
    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        solve(Problem(fun, [1.0]), method=method, n_steps=10)
    assert any("in fun at t=0." in note for note in caught.value.__notes__)


@pytest.mark.parametrize("name", ["forced_oscillator", "mlp"])
@every_method
def test_evaluations_are_counted(method, name):
    """nfev and nfev_reverse are calls of f; a field with a tape makes reversible Heun's inverse refill one."""
    if name == "mlp":
        inner = mlp_field((2, 3, 2), "tanh")
        problem = Problem(inner, [0.5, -0.5], np.linspace(-1.0, 1.0, inner.p), loss=losses.sum_of_squares())
    else:
        problem = CATALOGUE[name]()
    field, calls = python_field(problem.field), [0]
    f = field.f

    def counted(*arguments):
        calls[0] += 1
        f(*arguments)
    field.f = counted
    solution = solve(problem.replace(field=field, loss=None), method=method, n_steps=7)
    assert calls[0] == solution.nfev
    for sensitivity in ("discrete", "reversible"):
        calls[0] = 0
        stats = gradient(problem.replace(field=field), sensitivity, method=method, n_steps=7).stats
        times = 2 + np.setdiff1d(problem.ts, [problem.t0, problem.t1]).size          # f at t0, ts and t1
        refills = stats["n_steps_reverse"] if (
            method == "reversible_heun" and sensitivity == "reversible" and problem.field.tape_size) else 0
        assert calls[0] == stats["nfev"] + stats["nfev_reverse"] + times + refills


@pytest.mark.slow
def test_specialized_drivers():
    problem = CATALOGUE["logistic"]()
    general, special = (flat(gradient(problem, "reversible", method="alf", n_steps=9, specialize=flag))
                        for flag in (False, True))
    assert block_error(problem, special, general) <= 1e-13
