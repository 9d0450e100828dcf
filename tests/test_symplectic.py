"""Leapfrog and semi-implicit Euler: steps, inverses, transposes; what makes them symplectic; what they refuse."""
import numpy as np
import pytest

import cases
import gradients
import stubs
from gradients import COMPLEX_STEP, DOT_PRODUCT, block_error, flat, python_field
from refnode import losses
from refnode.errors import InvalidInputError
from refnode.fields.classical import CLASSICAL
from refnode.fields.field import VectorField
from refnode.problems.catalogue import CATALOGUE, CLOSED_FORMS
from refnode.problems.problem import Problem
from refnode.sensitivity.gradient import gradient, vjp
from refnode.solve.initial_value import solve
from refnode.steppers import symplectic
from refnode.steppers.schemes import reversible_method
from steps import Step, duality_error, evaluations_error, mutant_bodies, round_trip_ulp, tangent_error

METHODS = ["leapfrog", "semi_implicit_euler"]
FEW_ULP = 8
every_method = pytest.mark.parametrize("method", METHODS)
every_reversal = pytest.mark.parametrize("sensitivity", ["discrete", "reversible"])


def undamped(**changes):
    """q'' = -k q + a cos(w t + phi): separable, and f depends on t."""
    problem = CATALOGUE["forced_oscillator"]()
    theta = problem.theta.copy()
    theta[1] = 0.0
    return problem.replace(theta=theta, **changes)


def pendulum():
    """q'' = -k sin q: the catalogue's, without its damping."""
    problem = CATALOGUE["pendulum"]()
    return problem.replace(theta=[problem.theta[0], 0.0])


# --- one step -------------------------------------------------------------------------------------

@every_method
@pytest.mark.parametrize("name", ["kepler", "forced_oscillator"])
def test_one_step_and_its_inverse_tangent_and_transpose(method, name):
    field = CLASSICAL[name]
    step = Step(method, field, field.n)
    for seed in range(3):
        x, theta, *directions = step.point(seed)
        if name == "forced_oscillator":
            theta[1] = 0.0
        assert round_trip_ulp(step, x, theta) <= FEW_ULP
        assert evaluations_error(step, x, theta) <= 1e-14
        assert tangent_error(step, x, theta, *directions[:2]) <= COMPLEX_STEP
        assert duality_error(step, x, theta, *directions) <= DOT_PRODUCT
        assert duality_error(step, x, theta, *directions, undone=True) <= DOT_PRODUCT


MUTANTS = [
    ("add_part(d, 2 * d, -kicks[i] * h, at.k[2 * i], y)", "add_part(d, 2 * d, kicks[i] * h, at.k[2 * i], y)"),
    ("add_part(0, d, -drifts[i] * h, at.k[2 * i + 1], y)", "add_part(0, d, drifts[i] * h, at.k[2 * i + 1], y)"),
    ("add_part(0, d, drifts[i] * h, y_bar, k_bar)         # q", "add_part(0, d, -drifts[i] * h, y_bar, k_bar)  # q"),
    ("add_part(d, 2 * d, kicks[i] * h, y_bar, k_bar)", "add_part(d, 2 * d, kicks[0] * t, y_bar, k_bar)"),
    ("add_part(0, d, drifts[i] * h, k_tan[2 * i + 1], y1_tan)", "add_part(0, d, h, k_tan[2 * i], y1_tan)"),
    ("for i in range(kicks.shape[0] - 1, -1, -1):\n        if drifts[i] != 0.0:\n            k_bar",
     "for i in range(kicks.shape[0]):\n        if drifts[i] != 0.0:\n            k_bar"),
]


@pytest.mark.parametrize("old, new", MUTANTS)
def test_wrong_steps_are_caught(old, new):
    step = Step("leapfrog", CLASSICAL["kepler"], 4, bodies=mutant_bodies(symplectic, (old, new)))
    x, theta, *directions = step.point()
    assert (round_trip_ulp(step, x, theta) > 1e3 * FEW_ULP
            or tangent_error(step, x, theta, *directions[:2]) > 1e3 * COMPLEX_STEP
            or duality_error(step, x, theta, *directions) > 1e3 * DOT_PRODUCT)


def step_jacobian(step, x, theta):
    """d x1 / d x, column by column from the tangent."""
    columns = [step.jvp(x, theta, direction[None], np.zeros(theta.size))[0] for direction in np.eye(step.n)]
    return np.array(columns).T


def symplectic_defect(phi):
    """max |Phi^T J Phi - J|, J = [[0, I], [-I, 0]]."""
    d = len(phi) // 2
    unit = np.block([[np.zeros((d, d)), np.eye(d)], [-np.eye(d), np.zeros((d, d))]])
    return np.max(np.abs(phi.T @ unit @ phi - unit))


@every_method
@pytest.mark.parametrize("name", ["kepler", "pendulum"])
def test_a_step_is_symplectic(method, name):
    """To rounding, of the size of |Phi|^2; a step of Heun's method at the same point is not."""
    field = CLASSICAL[name]
    step = Step(method, field, field.n, h=0.25)
    x, theta, *_ = step.point(3)
    theta[1:] = 0.0
    phi = step_jacobian(step, x, theta)
    assert symplectic_defect(phi) <= 16 * cases.EPS * np.max(np.abs(phi)) ** 2
    problem = Problem(field, x[0], theta, (0.0, 0.25))
    heun = np.array([vjp(problem, y1_bar=row, method="heun", n_steps=1).y0 for row in np.eye(field.n)])
    assert symplectic_defect(heun) > 1e-5


def test_the_whole_solve_is_symplectic_by_its_transpose():
    """d y(t1) / d y0 row by row, from undone steps, over an orbit of eccentricity 1/2."""
    problem = CATALOGUE["kepler"]().replace(ts=None, loss=None)
    phi = np.array([vjp(problem, y1_bar=row, sensitivity="reversible", method="leapfrog", n_steps=200).y0
                    for row in np.eye(4)])
    assert symplectic_defect(phi) <= 200 * 16 * cases.EPS * np.max(np.abs(phi)) ** 2


# --- solves ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("method, coarsest", [("leapfrog", 64), ("semi_implicit_euler", 256)])
@pytest.mark.parametrize("which", ["autonomous", "non-autonomous"])
def test_order(method, coarsest, which):
    """Kepler, and a forced oscillator; the slope of one halving lies within 0.2 of the order."""
    errors = []
    for n_steps in (2 * coarsest, 4 * coarsest):
        if which == "autonomous":
            known = stubs.AUTONOMOUS
            problem, expected = known.problem(), known.solution(known.span[1])
        else:
            problem = undamped(ts=None, loss=None)
            expected = CLOSED_FORMS["forced_oscillator"](problem.y0, problem.theta, problem.t0, problem.t1)
        errors.append(np.max(np.abs(solve(problem, method=method, n_steps=n_steps).y1 - expected)))
    assert abs(np.log2(errors[0] / errors[1]) - reversible_method(method).order) < 0.2


def test_a_kick_at_the_wrong_time_loses_an_order():
    """Leapfrog with both kicks at t is right on autonomous problems only."""
    wrong = mutant_bodies(symplectic, ("f(t + total(drifts, i) * h, at.z[2 * i], theta, at.tape[2 * i], at.k[2 * i])\n"
                                       "        add_part(d, 2 * d, kicks[i] * h, at.k[2 * i], y1)",
                                       "f(t, at.z[2 * i], theta, at.tape[2 * i], at.k[2 * i])\n"
                                       "        add_part(d, 2 * d, kicks[i] * h, at.k[2 * i], y1)"))
    problem = undamped()
    for bodies, order in (({}, 3), ({"bodies": wrong}, 2)):
        errors = []
        for h in (0.01, 0.005):                                 # the error of one step is O(h^(order + 1))
            step = Step("leapfrog", problem.field, 2, t=0.5, h=h, **bodies)
            expected = CLOSED_FORMS["forced_oscillator"](problem.y0, problem.theta, 0.5, 0.5 + h)
            errors.append(np.max(np.abs(step.step(problem.y0[None], problem.theta)[0][0] - expected)))
        assert abs(np.log2(errors[0] / errors[1]) - order) < 0.2


def test_harmonic_oscillator_in_closed_form():
    """q'' = -q: leapfrog turns by phi, cos phi = 1 - h^2/2, on an ellipse; stable for h < 2."""
    h, steps = 0.5, 30
    problem = undamped().replace(y0=[1.0, 0.0], theta=[1.0, 0.0, 0.0, 1.0, 0.0], t0=0.0, t1=h * steps, ts=None, loss=None)
    q, p = solve(problem, method="leapfrog", n_steps=steps).y1
    phi = np.arccos(1.0 - 0.5 * h * h)
    assert q == pytest.approx(np.cos(steps * phi), abs=1e-13)
    assert p == pytest.approx(-np.sqrt(1.0 - 0.25 * h * h) * np.sin(steps * phi), abs=1e-13)
    for h, bounded in ((1.99, True), (2.01, False)):
        y1 = solve(problem.replace(t1=200 * h), method="leapfrog", n_steps=200).y1
        assert (np.max(np.abs(y1)) < 100.0) == bounded


@every_method
def test_kepler_energy_does_not_drift(method):
    """100 orbits: the error of the energy stays what it is in the first; Heun's grows."""
    problem = CATALOGUE["kepler"]().replace(loss=None)

    def energy_errors(method):
        ts = np.linspace(0.0, 200.0 * np.pi, 1001)
        q, p = np.split(solve(problem.replace(t1=ts[-1], ts=ts), method=method, n_steps=100_000).y, 2)
        energy = 0.5 * np.sum(p * p, axis=0) - 1.0 / np.sqrt(np.sum(q * q, axis=0))
        return np.abs(energy - energy[0])
    errors = energy_errors(method)
    assert np.max(errors[-100:]) <= 1.5 * np.max(errors[:100])
    heun = energy_errors("heun")
    assert np.max(heun[-100:]) > 3.0 * np.max(heun[:100])


# --- what is refused ------------------------------------------------------------------------------

@every_method
@pytest.mark.parametrize("make, message", [
    (lambda: CATALOGUE["pendulum"](), r"'pendulum' dp/dt changes with p, not with q alone \(component 1 by"),
    (lambda: CATALOGUE["van_der_pol"](), "dp/dt changes with p"),
    (lambda: CATALOGUE["lotka_volterra"](), "dq/dt changes with q"),
    (lambda: CATALOGUE["lorenz"](), "even length, found n = 3")])
def test_fields_that_are_not_separable(method, make, message):
    with pytest.raises(InvalidInputError, match=f"method '{method}' needs .*{message}"):
        solve(make(), method=method, n_steps=10)
    with pytest.raises(InvalidInputError, match=message):
        gradient(make(), "reversible", method=method, n_steps=10)


def test_separable_fields_are_not_refused():
    for problem in (undamped(), pendulum(), CATALOGUE["kepler"]()):
        assert solve(problem, method="leapfrog", n_steps=10).success
    assert solve(Problem(VectorField(lambda t, y, theta: y), []), method="leapfrog", n_steps=2).success


# --- gradients ------------------------------------------------------------------------------------

@every_method
@pytest.mark.parametrize("make", [undamped, pendulum, CATALOGUE["kepler"]])
def test_gradients_are_exact(method, make):
    """In theta the damping is an input, too, at 0: what was undone is evaluated where the step evaluated it."""
    gradients.assert_exact_steps(make(), method)


@every_method
def test_backwards_in_time_with_observations_everywhere(method):
    ts = 0.5 - np.array([0.0, 0.0, 0.125, 0.25, 0.25, 0.7, 1.5, 2.0, 2.0])
    gradients.assert_exact_steps(undamped(t0=0.5, t1=-1.5, ts=ts, loss=None), method, 8)


@every_method
def test_running_cost(method):
    """The trapezoidal rule beside the steps, and its gradient against complex steps of the same program."""
    def g(t, y, theta):
        return y[0] * y[0] + theta[0] * np.cos(t) * y[1] * y[1]

    def g_vjp(t, y, theta, g_bar, t_bar, y_bar, theta_bar):
        y_bar[0] += 2.0 * y[0] * g_bar
        y_bar[1] += 2.0 * theta[0] * np.cos(t) * y[1] * g_bar
        theta_bar[0] += np.cos(t) * y[1] * y[1] * g_bar
        t_bar[0] -= theta[0] * np.sin(t) * y[1] * y[1] * g_bar
    problem = pendulum()
    problem = problem.replace(field=python_field(problem.field), loss=losses.running_cost(g, g_vjp=g_vjp))
    shape = 2, problem.ts.size
    bars = np.zeros((3, shape[1])), np.array([0.0, 0.0, 1.0])
    expected = gradients.frozen_gradient(problem, np.linspace(problem.t0, problem.t1, 17), method, *bars)
    for sensitivity in ("discrete", "reversible"):
        found = gradient(problem, sensitivity, method=method, n_steps=16)
        assert block_error(problem, flat(found)[:4], expected[:4]) <= 20 * COMPLEX_STEP
    states = solve(problem.replace(loss=None, ts=np.linspace(problem.t0, problem.t1, 17)), method=method, n_steps=16)
    costs = [g(t, y, problem.theta) for t, y in zip(states.t, states.y.T)]
    bare = gradient(problem.replace(ts=[]), "reversible", method=method, n_steps=16)
    assert bare.loss == pytest.approx(np.trapezoid(costs, states.t), rel=1e-13)


@every_method
@every_reversal
def test_gradients_converge_to_the_exact_ones(method, sensitivity):
    """All inputs, the times included, against the closed form of the undamped oscillator."""
    problem = undamped()
    expected = gradients.closed_form_gradient(problem, CLOSED_FORMS["forced_oscillator"])
    free = np.delete(np.arange(expected.size), 3)                # the damping's derivative is of no separable field
    errors = [np.max(np.abs(flat(gradient(problem, sensitivity, method=method, n_steps=n)) - expected)[free])
              / np.max(np.abs(expected)) for n in (256, 512)]
    assert np.log2(errors[0] / errors[1]) > reversible_method(method).order - 0.2


@every_method
def test_drift_is_small_over_many_steps(method):
    """A symplectic map neither contracts nor expands volumes: 20 000 steps come back to some 1e5 ULP."""
    problem = CATALOGUE["kepler"]().replace(t1=125.0, ts=None, loss=losses.linear(np.ones((4, 1))))
    found = gradient(problem, "reversible", method=method, n_steps=20_000)
    assert 0.0 < found.stats["drift_ulp"] < 2.0 ** 26 and found.stats["history_bytes"] == 2 * 4 * 8
