"""Reversible methods: their steps, inverses, tangents and transposes; solves; and the recipe that undoes steps."""
import numpy as np
import pytest

import gradients
import stubs
from gradients import COMPLEX_STEP, DOT_PRODUCT, block_error, flat, inputs, python_field, random_seeds
from refnode import losses
from refnode.errors import GradientWarning, IntegrationError, InvalidInputError, MissingDerivativeError
from refnode.fields.classical import CLASSICAL
from refnode.fields.field import VectorField
from refnode.fields.neural import mlp_field
from refnode.problems.catalogue import CATALOGUE
from refnode.problems.problem import Problem
from refnode.sensitivity.cotangents import Seeds
from refnode.sensitivity.forward_solve import solved
from refnode.sensitivity.gradient import gradient, jvp, vjp
from refnode.sensitivity.recipes import RECIPES
from refnode.sensitivity.reversible_adjoint import StateSweep
from refnode.solve import run
from refnode.solve.initial_value import solve
from refnode.solve.options import SolveOptions
from refnode.solve.reversible_path import refined_grid
from refnode.solve.solve_ivp import solve_ivp
from refnode.steppers import reversible, schemes
from refnode.steppers.schemes import ReversibleMethod, mccallum_foster, reversible_method
from refnode.steppers.tableaus import TABLEAUS
from steps import (
    Step, duality_error, evaluations_error, mutant_bodies, round_trip_ulp, tangent_error)

METHODS = ["alf", "reversible_heun", "mccallum_foster(euler)", "mccallum_foster(bosh3)"]
FEW_ULP = 8          # a round trip of one step is some ten sums of numbers of the state's size
every_method = pytest.mark.parametrize("method", METHODS)
every_reversal = pytest.mark.parametrize("sensitivity", ["discrete", "reversible"])


def field_and_size(name):
    return CLASSICAL[name], CLASSICAL[name].n


# --- one step -------------------------------------------------------------------------------------

@every_method
@pytest.mark.parametrize("name", ["forced_oscillator", "lorenz"])
def test_one_step_and_its_inverse_tangent_and_transpose(method, name):
    step = Step(method, *field_and_size(name))
    for seed in range(3):
        x, theta, *directions = step.point(seed)
        assert round_trip_ulp(step, x, theta) <= FEW_ULP
        assert evaluations_error(step, x, theta) <= 1e-14
        assert tangent_error(step, x, theta, *directions[:2]) <= COMPLEX_STEP
        assert duality_error(step, x, theta, *directions) <= DOT_PRODUCT
        assert duality_error(step, x, theta, *directions, undone=True) <= DOT_PRODUCT


MUTANTS = [
    ("alf", "blend(1.0, x1[0], -0.5 * h, x1[1], z)", "blend(1.0, x1[0], 0.5 * h, x1[1], z)"),
    ("alf", "blend(1.0, z, -0.5 * h, x[1], x[0])", "blend(1.0, z, 0.5 * h, x[1], x[0])"),
    ("alf", "v_bar[m] += 0.5 * h * y_bar[m]                          # y1 = z + h/2 v1", "pass"),
    ("alf", "v_bar[m] += 0.5 * h * y_bar[m]                          # z = y + h/2 v",
     "v_bar[m] -= 0.5 * h * y_bar[m]"),
    ("alf", "k_bar[0, m] = 2.0 * v_bar[m]", "k_bar[0, m] = v_bar[m]"),
    ("alf", "blend(2.0, k_tan[0], -1.0, x_tan[1], x1_tan[1])", "blend(2.0, k_tan[0], 1.0, x_tan[1], x1_tan[1])"),
    ("reversible_heun", "x[1, m] -= h * x1[2, m]", "x[1, m] += h * x1[2, m]"),
    ("reversible_heun", "f(t, x[1], theta, at.tape[0], x[2])", "f(t + h, x[1], theta, at.tape[0], x[2])"),
    ("reversible_heun", "z_bar[m] = -z_bar[m]", "pass"),
    ("reversible_heun", "v_bar[m] = 0.5 * h * y_bar[m] + h * z_bar[m]", "v_bar[m] = 0.5 * h * y_bar[m] - h * z_bar[m]"),
    ("reversible_heun", "y_bar[m] += 2.0 * z_bar[m]", "y_bar[m] += z_bar[m]"),
    ("mccallum_foster(bosh3)", "add_slopes(b, s, -h, at.k[s:], x[1])", "add_slopes(b, s, h, at.k[s:], x[1])"),
    ("mccallum_foster(bosh3)", "blend(1.0, x1[0], coupling - 1.0, x[1], x[0])",
     "blend(1.0, x1[0], 1.0 - coupling, x[1], x[0])"),
    ("mccallum_foster(bosh3)", "x_bar[1, m] += (1.0 - coupling) * x_bar[0, m]", "pass"),
    ("mccallum_foster(bosh3)", "weighted(b, h, x_bar[1], k_bar[s:])", "weighted(b, -h, x_bar[1], k_bar[s:])"),
    ("mccallum_foster(bosh3)", "x[0, m] /= coupling", "x[0, m] *= coupling"),
]


@pytest.mark.parametrize("method, old, new", MUTANTS)
def test_wrong_steps_are_caught(method, old, new):
    """By the same three checks and bounds, a thousandfold at least."""
    step = Step(method, *field_and_size("forced_oscillator"), bodies=mutant_bodies(reversible, (old, new)))
    x, theta, *directions = step.point()
    assert (round_trip_ulp(step, x, theta) > 1e3 * FEW_ULP
            or tangent_error(step, x, theta, *directions[:2]) > 1e3 * COMPLEX_STEP
            or duality_error(step, x, theta, *directions) > 1e3 * DOT_PRODUCT)


def test_mutants_begin_from_right_bodies():
    step = Step("alf", *field_and_size("forced_oscillator"), bodies=mutant_bodies(reversible))
    x, theta, *directions = step.point()
    assert round_trip_ulp(step, x, theta) <= FEW_ULP and duality_error(step, x, theta, *directions) <= DOT_PRODUCT


@pytest.mark.parametrize("old, new", [
    ("x_bar[0, m] += x_bar[1, m] ", "pass"), ("f_vjp(t, y, theta, at.tape[0], x_bar[x_bar.shape[0] - 1], t_bar, x_bar[0], "
                                              "theta_bar)", "pass")])
def test_a_start_that_is_not_transposed_is_caught(old, new):
    """v0 = f(t0, y0) and z0 = y0 have a share in the gradient."""
    found = []
    for bodies in (mutant_bodies(schemes), mutant_bodies(schemes, (old, new))):
        step = Step("reversible_heun", *field_and_size("forced_oscillator"), bodies=bodies)
        x, theta, x_tan, theta_tan, x_bar = step.point()
        x_tan = np.vstack([x_tan[0], np.zeros((2, 2))])
        at, field, y_bar = step.evaluations(), python_field(step.field), x_bar.copy()
        theta_bar = np.zeros(theta.size)
        bodies["reversible_start_jvp"](field.f, field.jvp, step.scheme, 0.5, x[0], theta, theta_tan, at, x_tan)
        bodies["reversible_start_vjp"](field.f, field.vjp, step.scheme, 0.5, x[0], theta, at, np.zeros(1), y_bar, theta_bar)
        left, right = np.sum(x_bar * x_tan), y_bar[0] @ x_tan[0] + theta_bar @ theta_tan
        found.append(abs(left - right))
    assert found[0] <= 1e-14 < 1e-3 < found[1]


# --- solves ---------------------------------------------------------------------------------------

def observed_order(known, method, coarsest):
    errors = [np.max(np.abs(solve(known.problem(), method=method, n_steps=coarsest * 2 ** j).y1
                            - known.solution(known.span[1]))) for j in (1, 2)]
    assert errors[1] > 1e-14
    return np.log2(errors[0] / errors[1])


@pytest.mark.parametrize("method, coarsest", [
    ("alf", 64), ("reversible_heun", 64), ("mccallum_foster(euler, 0.5)", 256), ("mccallum_foster(midpoint)", 64),
    ("mccallum_foster(bosh3, 0.5)", 256), ("mccallum_foster(rk4)", 32), ("mccallum_foster(tsit5)", 16)])
@pytest.mark.parametrize("known", [stubs.AUTONOMOUS, stubs.NON_AUTONOMOUS], ids=["autonomous", "non-autonomous"])
def test_order(method, coarsest, known):
    """As in test_orders.py: the slope of the finer halving lies within 0.4 of the order.

    With l near 1 and an odd base, the coupling is nearly symmetric and gains an order where h > 1 - l: hence l = 1/2.
    """
    assert abs(observed_order(known, method, coarsest) - reversible_method(method).order) < 0.4


def linear_map(method, mu):
    """The map of one step with f = mu y and h = 1, on the rows of x: from its definition in the derivation."""
    scheme = reversible_method(method)
    if scheme.code == schemes.ALF:
        return np.array([[1 + mu, mu / 2], [2 * mu, mu - 1]])
    if scheme.code == schemes.REVERSIBLE_HEUN:
        return np.array([[1 + mu, 0.5 * mu * mu], [2.0, mu - 1]])
    table, l = (scheme.A, scheme.b), scheme.coupling
    psi = [x * table[1] @ np.linalg.solve(np.eye(table[1].size) - x * table[0], np.ones(table[1].size)) for x in (mu, -mu)]
    first = np.array([l, 1 - l + psi[0]])
    return np.array([first, np.array([0.0, 1.0]) - psi[1] * first])


@every_method
def test_exponential_decay_in_closed_form(method):
    """y' = -k y: N steps are the N-th power of a 2 x 2 matrix; only reversible Heun's v is a function of z."""
    steps, mu, start = 20, -0.05, [1.5, 1.5]
    if method == "alf":
        start[1] = -0.05 * 1.5                                   # v0 = f(y0), with h = 1
    expected = np.linalg.matrix_power(linear_map(method, mu), steps) @ start
    problem = Problem(CLASSICAL["exponential_decay"], [1.5], [0.05], (0.0, 20.0))
    assert solve(problem, method=method, n_steps=steps).y1[0] == pytest.approx(expected[0], rel=1e-13)


def spectral_radius(method, mu):
    return np.max(np.abs(np.linalg.eigvals(linear_map(method, mu))))


@pytest.mark.parametrize("method", ["alf", "reversible_heun"])
def test_stability_is_the_imaginary_interval(method):
    """|roots| of r^2 - 2 mu r - 1: both are 1 on i(-1, 1), and one is larger everywhere else."""
    for y in (0.1, 0.5, 0.99):
        assert spectral_radius(method, 1j * y) == pytest.approx(1.0, abs=1e-13)
    for mu in (-1e-3, -0.5, 1.01j, -0.1 + 0.5j):
        assert spectral_radius(method, mu) == pytest.approx(max(abs(mu + s * np.sqrt(mu * mu + 1)) for s in (1, -1)))
        assert spectral_radius(method, mu) > 1.0 + 1e-4


@pytest.mark.parametrize("method", ["alf", "reversible_heun"])
def test_the_parasitic_root_overtakes_a_decay(method):
    """At t = 2 ln(2 / (h k)) / k both are equally large: a unit of time earlier or later, e^2 apart."""
    h = 2.0 ** -4
    overtaken = 2.0 * np.log(2.0 / h)
    for t, ratio in ((overtaken - 1.0, np.exp(-2.0)), (overtaken + 1.0, np.exp(2.0))):
        steps = round(t / h)
        problem = Problem(CLASSICAL["exponential_decay"], [1.0], [1.0], (0.0, steps * h))
        error = abs(solve(problem, method=method, n_steps=steps).y1[0] - np.exp(-steps * h))
        assert error == pytest.approx(ratio * np.exp(-steps * h), rel=0.2)


@pytest.mark.parametrize("coupling", [0.9, 0.999])
def test_stability_of_the_coupling_on_the_real_axis(coupling):
    """|trace| < 1 + det: for Euler's increment exactly -(1 - l) < mu < 0."""
    method = mccallum_foster("euler", coupling)
    assert spectral_radius(method, -0.99 * (1 - coupling)) < 1.0 < spectral_radius(method, -1.01 * (1 - coupling))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_observations_end_steps(sign):
    """On the grid, off it, twice, at t0 and t1, and within rounding of the grid: no step of 1e-16 arises."""
    ts = 0.5 + sign * np.array([0.0, 0.0, 0.25, 0.25 * (1 + 4e-16), 0.7, 0.7, 1.1, 2.0, 2.0])
    problem = CATALOGUE["forced_oscillator"]().replace(t0=0.5, t1=0.5 + sign * 2.0, ts=ts, loss=None)
    solution = solve(problem, method="alf", n_steps=8)
    assert solution.success and solution.t.size == 9 and solution.n_steps in (10, 11)
    assert not np.isnan(solution.y).any() and np.array_equal(solution.y[:, 4], solution.y[:, 5])
    refined = refined_grid(np.linspace(0.5, 0.5 + sign * 2.0, 9), ts)
    assert set(ts) <= set(refined) and np.all(np.diff(refined) * sign > 0)
    np.testing.assert_array_equal(refined_grid(refined, ts), refined)


def test_given_steps_and_names():
    problem = CATALOGUE["logistic"]().replace(ts=None, loss=None)
    steps = np.full(16, (problem.t1 - problem.t0) / 16)
    for method in ("ALF", reversible_method("alf")):
        assert solve(problem, method=method, steps=steps).y1 == pytest.approx(
            solve(problem, method="alf", n_steps=16).y1, rel=1e-13)
    assert reversible_method("mccallum_foster").name == reversible_method("mccallum_foster( rk4 )").name
    assert reversible_method("mccallum_foster(bosh3, 0.5)").coupling == 0.5
    assert isinstance(mccallum_foster(TABLEAUS["heun"]), ReversibleMethod) and reversible_method("dopri5") is None


# --- what is refused ------------------------------------------------------------------------------

@pytest.mark.parametrize("options, message", [
    ({"method": "alf"}, "cannot choose its steps: give n_steps= or steps="),
    ({"method": "mccallum_foster(rk5)", "n_steps": 4}, "method must be one of euler"),
    ({"method": "mccallum_foster(rk4, 0)", "n_steps": 4}, "coupling must be above 0 and at most 1, found 0.0"),
    ({"method": "mccallum_foster(rk4, big)", "n_steps": 4}, "coupling must be .*found 'big'"),
    ({"method": "leapfroggy", "n_steps": 4}, "with given steps also: alf, reversible_heun"),
    ({"method": "alf", "n_steps": 4, "dense_output": True}, "has no dense output")])
def test_wrong_options_of_a_solve(options, message):
    with pytest.raises(InvalidInputError, match=message):
        solve(CATALOGUE["logistic"](), **options)


def test_solve_ivp_has_no_use_for_them():
    with pytest.raises(InvalidInputError, match="use refnode.solve"):
        solve_ivp(lambda t, y: -y, (0.0, 1.0), [1.0], method="alf", n_steps=4)


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_a_method_without_inverse_is_refused(method):
    with pytest.raises(InvalidInputError, match=f"one of alf, reversible_heun, .*mccallum_foster\\({method}\\)"):
        gradient(CATALOGUE["logistic"](), "reversible", method=method, n_steps=8)


@pytest.mark.parametrize("sensitivity", ["forward", "backsolve", "interpolating"])
def test_recipes_that_cannot_read_the_steps_are_refused(sensitivity):
    with pytest.raises(InvalidInputError, match=r"not available for method 'alf'.*\['discrete_forward', 'discrete', 'reversible'\]"):
        gradient(CATALOGUE["logistic"](), sensitivity, method="alf", n_steps=8)
    if RECIPES[sensitivity].needs == "jvp":
        with pytest.raises(InvalidInputError, match="not available for method 'alf'"):
            jvp(CATALOGUE["logistic"](), [1.0], sensitivity=sensitivity, method="alf", n_steps=8)


@every_reversal
def test_missing_derivative(sensitivity):
    problem = Problem(lambda t, y, theta: -y, [1.0], loss=losses.sum_of_squares())
    with pytest.raises(MissingDerivativeError, match="has no vjp"):
        gradient(problem, sensitivity, method="alf", n_steps=4)


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
    step = Step("reversible_heun", *field_and_size("forced_oscillator"),
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
