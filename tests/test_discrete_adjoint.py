"""The discrete recipes are the exact derivative of the steps taken: transpose, tangent and complex steps agree."""
import numpy as np
import pytest

import cases
import gradients
from gradients import ADAPTIVE, COMPLEX_STEP, DOT_PRODUCT, METHODS, flat, random_seeds, step_times
from refnode.fields.neural import mlp_field
from refnode.problems.catalogue import CATALOGUE
from refnode.problems.problem import Problem
from refnode.sensitivity.discrete_adjoint import pull_cotangents, push_tangents
from refnode.sensitivity.gradient import gradient, jvp, vjp
from refnode.sensitivity.cotangents import Seeds
from refnode.sensitivity.forward_solve import solved
from refnode.sensitivity.replay import replay
from refnode.solve import run
from refnode.solve.initial_value import solve
from refnode.solve.options import SolveOptions
from refnode.solve.step_size import CONTROLLERS

every_problem = pytest.mark.parametrize("name", CATALOGUE)
MLPS = {"tanh": mlp_field((2, 6, 2), "tanh", batch=4), "softplus": mlp_field((2, 3, 5, 2), "softplus", batch=3),
        "sine": mlp_field((1, 4, 1), "sine", batch=2, time_input=True)}


def mlp_problem(activation, ts=(0.25, 0.3125, 1.0)):
    field = MLPS[activation]
    rng = np.random.default_rng(field.p)
    return Problem(field, rng.uniform(-1.0, 1.0, field.n), 0.5 * rng.standard_normal(field.p),
                   t_span=(-0.5, 1.0), ts=ts)


def assert_exact(problem, seed=0, **options):
    """Both identities, to the promised 1e-13 and 1e-12, for random cotangents of y(ts) and y(t1)."""
    rng = np.random.default_rng(seed)
    assert gradients.dot_product_error(problem, rng, **options) <= DOT_PRODUCT
    assert gradients.complex_step_error(problem, random_seeds(problem, rng), **options) <= COMPLEX_STEP


# --- every method on every problem ----------------------------------------------------------------

@every_problem
@pytest.mark.parametrize("method", METHODS)
def test_equal_steps(name, method):
    """24 steps; three or more observations, inside steps and at the end."""
    assert_exact(CATALOGUE[name](), method=method, n_steps=24)


@pytest.mark.slow
@every_problem
@pytest.mark.parametrize("method", ADAPTIVE)
@pytest.mark.parametrize("tstops", [False, True])
def test_chosen_steps(name, method, tstops):
    """Steps chosen by error control, rejections among them; with tstops every observation ends a step."""
    assert_exact(CATALOGUE[name](), method=method, rtol=1e-5, atol=1e-8, tstops=tstops)


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_every_controller(controller):
    assert_exact(CATALOGUE["pendulum"](), rtol=1e-4, controller=controller)


@pytest.mark.parametrize("method", ["rk4", "dopri5", "dop853"])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_observations_at_ends_on_the_grid_off_it_and_twice(method, sign):
    """Eight steps of 1/4; observations at t0 (twice), at step ends, inside steps (twice in one), at t1 (twice)."""
    ts = 0.5 + sign * np.array([0.0, 0.0, 0.125, 0.1875, 0.25, 0.25, 0.7, 1.5, 1.9, 1.9, 2.0, 2.0])
    problem = CATALOGUE["forced_oscillator"]().replace(t0=0.5, t1=0.5 + sign * 2.0, ts=ts, loss=None)
    assert_exact(problem, method=method, n_steps=8)


@pytest.mark.parametrize("method", ["euler", "tsit5"])
def test_given_steps(method):
    assert_exact(CATALOGUE["lotka_volterra"](), method=method, steps=4.0 * np.arange(1, 33) / 528.0)


def test_observation_of_the_moving_end():
    assert_exact(CATALOGUE["cosine_relaxation"]().replace(ts=None, loss=None), rtol=1e-6)


@pytest.mark.parametrize("name", ["logistic", "lorenz"])
def test_no_steps_at_all(name):
    """t0 == t1: y(ts) = y0, so the cotangents of all observations add up."""
    problem = CATALOGUE[name]()
    problem = problem.replace(t1=problem.t0, ts=[problem.t0] * 2, loss=None)
    seeds = random_seeds(problem, np.random.default_rng(0))
    bars = vjp(problem, *seeds)
    np.testing.assert_array_equal(bars.y0, seeds[1] + seeds[0][:, 0] + seeds[0][:, 1])
    np.testing.assert_array_equal(bars.theta, 0.0)
    assert_exact(problem, n_steps=3)


def test_field_without_parameters():
    problem = CATALOGUE["twin_growth"]()
    field = gradients.python_field(problem.field)
    theta = problem.theta

    def f(t, y, empty, tape, dy):
        field.f(t, y, theta, tape, dy)

    def f_jvp(t, y, empty, t_tan, y_tan, theta_tan, tape, dy_tan):
        field.jvp(t, y, theta, t_tan, y_tan, np.zeros(2), tape, dy_tan)

    def f_vjp(t, y, empty, tape, dy_bar, t_bar, y_bar, theta_bar):
        field.vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, np.zeros(2))
    problem = Problem(gradients.VectorField(f, f_jvp, f_vjp), problem.y0, ts=[0.25, 1.0])
    assert_exact(problem, n_steps=6)


# --- neural fields and the tape -------------------------------------------------------------------

@pytest.mark.parametrize("activation", MLPS)
@pytest.mark.parametrize("method", ["rk4", "tsit5", "dop853"])
def test_neural_fields(activation, method):
    """Against plain NumPy in complex arithmetic (`numpy_form`), batches and all activations."""
    assert_exact(mlp_problem(activation), method=method, n_steps=7)


@pytest.mark.parametrize("activation", MLPS)
@pytest.mark.parametrize("method", ["dopri5", "dop853"])
def test_kept_tape_and_recomputed_tape_give_the_same_bits(activation, method, monkeypatch):
    """No room for a tape at all, and room for one of 8 steps but not of 16."""
    problem = mlp_problem(activation)
    seeds = random_seeds(problem, np.random.default_rng(3))
    options = {"method": method, "rtol": 1e-9, "atol": 1e-11}
    kept = flat(vjp(problem, *seeds, **options))
    assert solve(problem, **options).n_steps > 8 or method == "dop853"
    monkeypatch.setattr(run, "FIRST_CAPACITY", 8)
    stages = SolveOptions.of(method=method).tableau.s
    for budget in (0, 8 * (12 * stages) * problem.field.tape_size):
        monkeypatch.setattr(run, "TAPE_BUDGET", budget)
        np.testing.assert_array_equal(flat(vjp(problem, *seeds, **options)), kept)


def test_trajectory_longer_than_the_first_storage(monkeypatch):
    """More than 256 steps, and the same bits from storage that began with 2."""
    problem, options = CATALOGUE["lorenz"](), {"method": "bosh3", "rtol": 1e-8, "atol": 1e-10}
    assert solve(problem, **options).n_steps > run.FIRST_CAPACITY
    seeds = random_seeds(problem, np.random.default_rng(4))
    found = flat(vjp(problem, *seeds, **options))
    assert gradients.dot_product_error(problem, np.random.default_rng(4), **options) <= DOT_PRODUCT
    monkeypatch.setattr(run, "FIRST_CAPACITY", 2)
    np.testing.assert_array_equal(flat(vjp(problem, *seeds, **options)), found)


@pytest.mark.parametrize("sensitivity", gradients.RECIPES)
def test_slices_of_one_step_give_the_same_bits(sensitivity, monkeypatch):
    """However often a sweep returns to Python to look for Ctrl-C."""
    problem = CATALOGUE["van_der_pol"]()
    long = flat(gradient(problem, sensitivity))
    monkeypatch.setattr(run, "next_slice", lambda steps, elapsed: 1)
    problem.field.pace.clear()
    np.testing.assert_array_equal(flat(gradient(problem, sensitivity)), long)


# --- one body, several ways to run it -------------------------------------------------------------

@every_problem
def test_tangents_and_transpose_give_one_gradient(name):
    """discrete_forward contracts n + p tangents, discrete transposes: equal to rounding."""
    problem = CATALOGUE[name]()
    tangent, transpose = (flat(gradient(problem, sensitivity)) for sensitivity in ("discrete_forward", "discrete"))
    assert gradients.block_error(problem, tangent, transpose) <= COMPLEX_STEP


@pytest.mark.parametrize("sensitivity", gradients.RECIPES)
def test_plain_python_fields_give_the_same_gradient(sensitivity):
    """The drivers un-jitted, around plain Python functions, on the same steps.

    With equal steps the sums are the same up to the order LLVM chooses: equal to rounding, times the growth
    of the tangents (about 1e2 here).
    """
    problem = CATALOGUE["forced_oscillator"]()
    plain = problem.replace(field=gradients.python_field(problem.field))
    compiled, python = (flat(gradient(each, sensitivity, n_steps=9)) for each in (problem, plain))
    assert gradients.block_error(problem, python, compiled) <= 1e-13


@pytest.mark.slow
def test_specialized_drivers_give_the_same_gradient():
    problem = CATALOGUE["logistic"]()
    general, special = (flat(gradient(problem, "discrete", n_steps=9, specialize=flag)) for flag in (False, True))
    assert gradients.block_error(problem, special, general) <= 1e-13


def test_replay_is_the_solver():
    """In real arithmetic the replay returns the solver's numbers, to rounding."""
    problem = CATALOGUE["kepler"]()
    solution = solve(problem, dense_output=True)
    ys, y1 = replay(problem, solution.t_steps)
    np.testing.assert_allclose(ys.real, solution.y, rtol=0.0, atol=1e-13 * np.max(np.abs(solution.y)))
    np.testing.assert_allclose(y1.real, solution.y1, rtol=0.0, atol=1e-13 * np.max(np.abs(solution.y)))


def test_transpose_and_tangent_read_the_trajectory_without_changing_it():
    """Two sweeps over one forward solve agree to the bit."""
    problem = CATALOGUE["robertson"]()
    forward = solved(problem, SolveOptions.of(method="dop853"), keep=True)
    rng = np.random.default_rng(5)
    seeds = Seeds(rng.standard_normal((3, 3)), rng.standard_normal(3))
    first = [pull_cotangents(forward, seeds), push_tangents(forward, np.eye(3), np.zeros((3, 3)))]
    again = [pull_cotangents(forward, seeds), push_tangents(forward, np.eye(3), np.zeros((3, 3)))]
    for before, after in zip(first, again):
        for x, y in zip(before, after):
            np.testing.assert_array_equal(x, y)


def test_cotangents_are_linear_and_scale_exactly():
    """vjp(2^20 w) = 2^20 vjp(w) to the bit, and vjp(w1 + w2) = vjp(w1) + vjp(w2) to rounding."""
    problem = CATALOGUE["linear"]()
    rng = np.random.default_rng(6)
    w1, w2 = random_seeds(problem, rng), random_seeds(problem, rng)
    one, two = flat(vjp(problem, *w1)), flat(vjp(problem, *w2))
    np.testing.assert_array_equal(flat(vjp(problem, *(2.0 ** 20 * w for w in w1))), 2.0 ** 20 * one)
    both = flat(vjp(problem, *(a + b for a, b in zip(w1, w2))))
    assert np.max(np.abs(both - one - two)) <= 100 * cases.EPS * np.max(np.abs(one) + np.abs(two))


def test_steps_are_frozen():
    """Finite differences through the step control see another function; through the frozen steps, this one."""
    problem = CATALOGUE["logistic"]().replace(ts=None, loss=None)
    options, eps = {"rtol": 1e-2, "atol": 1e-4}, 1e-7
    tangent = jvp(problem, y0_tan=[1.0], **options)[0, 0]
    moved = [problem.replace(y0=problem.y0 + sign * eps) for sign in (1, -1)]
    adaptive = np.subtract(*(solve(each, **options).y1[0] for each in moved)) / (2 * eps)
    times = step_times(problem, options)
    frozen = np.subtract(*(replay(each, times)[1][0].real for each in moved)) / (2 * eps)
    assert abs(frozen - tangent) <= 1e-7 * abs(tangent) < 1e-5 * abs(tangent) < abs(adaptive - tangent)
