"""Reversible methods: their steps, inverses, tangents and transposes; solves; and what they refuse."""
import numpy as np
import pytest

import stubs
from gradients import COMPLEX_STEP, DOT_PRODUCT, python_field
from refnode import losses
from refnode.errors import InvalidInputError, MissingDerivativeError
from refnode.fields.classical import CLASSICAL
from refnode.problems.catalogue import CATALOGUE
from refnode.problems.problem import Problem
from refnode.sensitivity.gradient import gradient, jvp
from refnode.sensitivity.recipes import RECIPES
from refnode.solve.initial_value import solve
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
