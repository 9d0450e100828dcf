"""The public doors `gradient`, `vjp` and `jvp`; and a battery of wrong gradients, every one of them caught."""
import concurrent.futures

import numpy as np
import pytest

import cases
import gradients
from gradients import RECIPES, block_error, exact, flat, inputs, python_field, random_seeds, Scaled
from refnode import losses
from refnode.errors import IntegrationError, InvalidInputError, InvalidTypeError, MissingDerivativeError
from refnode.fields.field import VectorField
from refnode.problems.catalogue import CATALOGUE
from refnode.problems.problem import Problem
from refnode.sensitivity import continuous_adjoint, cotangents, jumps
from refnode.sensitivity.gradient import gradient, jvp, vjp
from refnode.solve.initial_value import solve
from refnode.solve.run import FIRST_CAPACITY

every_recipe = pytest.mark.parametrize("sensitivity", RECIPES)
every_problem = pytest.mark.parametrize("name", CATALOGUE)
pytestmark = pytest.mark.filterwarnings("ignore::refnode.errors.GradientWarning")     # of backsolve's drift


# --- what the doors return ------------------------------------------------------------------------

@every_recipe
def test_shapes_and_contents(sensitivity):
    problem = CATALOGUE["lotka_volterra"]()
    found = gradient(problem, sensitivity)
    assert found.y0.shape == (2,) and found.theta.shape == (4,) and found.ts.shape == (5,)
    assert isinstance(found.t0, float) and isinstance(found.t1, float) and isinstance(found.loss, float)
    assert found.sensitivity == sensitivity and found.stats["nfev"] > 0 and found.stats["n_steps"] > 0
    solution = found.solution
    assert solution.success and solution.y.shape == (2, 5)
    assert found.loss == problem.loss.value(solution.y, solution.y1)


@every_recipe
def test_loss_is_that_of_the_solve(sensitivity):
    """Except for `forward`, whose steps also resolve the tangents: equal to the tolerance."""
    problem = CATALOGUE["pendulum"]()
    solution = solve(problem)
    expected = problem.loss.value(solution.y, solution.y1)
    assert gradient(problem, sensitivity).loss == pytest.approx(expected, rel=1e-4 if sensitivity == "forward" else 0)


@every_recipe
def test_vjp_of_the_losses_cotangents_is_the_gradient(sensitivity):
    problem = CATALOGUE["van_der_pol"]()
    found = gradient(problem, sensitivity)
    bars = vjp(problem, *problem.loss.vjp(found.solution.y, found.solution.y1), sensitivity)
    np.testing.assert_array_equal(flat(bars), flat(found))


@every_recipe
def test_vjp_defaults_to_zero(sensitivity):
    np.testing.assert_array_equal(flat(vjp(CATALOGUE["logistic"](), sensitivity=sensitivity)), 0.0)


def test_default_recipe_is_discrete():
    problem = CATALOGUE["logistic"]()
    assert gradient(problem).sensitivity == "discrete"
    np.testing.assert_array_equal(flat(vjp(problem, y1_bar=[1.0])), flat(vjp(problem, y1_bar=[1.0],
                                                                              sensitivity="discrete")))
    np.testing.assert_array_equal(jvp(problem, [1.0]), jvp(problem, [1.0], sensitivity="discrete_forward"))


@every_problem
def test_jvp_and_vjp_are_dual_over_all_inputs(name):
    """y0, theta, t0, t1 and ts at once, at the default options; with ts=None t1 moves y(ts)."""
    problem = CATALOGUE[name]()
    for each in (problem, problem.replace(ts=None, loss=None)):
        assert gradients.dot_product_error(each, np.random.default_rng(0)) <= gradients.DOT_PRODUCT


def test_jvp_is_linear_and_adds_over_inputs():
    problem = CATALOGUE["forced_oscillator"]()
    rng = np.random.default_rng(1)
    parts = {"y0_tan": rng.standard_normal(2), "theta_tan": rng.standard_normal(5), "t0_tan": 0.5, "t1_tan": 2.0,
             "ts_tan": rng.standard_normal(4)}
    together = jvp(problem, **parts)
    apart = sum(jvp(problem, **{name: value}) for name, value in parts.items())
    assert np.max(np.abs(together - apart)) <= 1e-13 * np.max(np.abs(together))


@every_recipe
def test_inputs_are_not_changed(sensitivity):
    problem = CATALOGUE["lorenz"]()
    before, weights = inputs(problem).copy(), problem.loss.weights.copy()
    gradient(problem, sensitivity)
    np.testing.assert_array_equal(inputs(problem), before)
    np.testing.assert_array_equal(problem.loss.weights, weights)


def fresh(problem):
    """The same problem with a field that no solve has used."""
    field = problem.field
    return problem.replace(field=VectorField(field.f, jvp=field.jvp, vjp=field.vjp, name=field.name))


def test_solves_that_lend_each_other_storage_do_not_see_each_other():
    """One field, one after the other and at once: bit for bit what a fresh field gives, and results stay."""
    short, long = (CATALOGUE["lotka_volterra"]().replace(t1=t1, ts=np.linspace(0.0, t1, 5)) for t1 in (2.0, 40.0))
    known = {problem.t1: gradient(fresh(problem)) for problem in (short, long)}
    assert known[2.0].stats["n_steps"] < FIRST_CAPACITY < known[40.0].stats["n_steps"]
    first = gradient(short)                                     # the second outgrows its storage
    found = [first, gradient(long), gradient(short)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found += pool.map(gradient, [short, long] * 20)
    for result in found:
        expected = known[result.solution.t[-1]]
        np.testing.assert_array_equal(flat(result), flat(expected))
        for name in ("y", "y1", "t_steps"):
            np.testing.assert_array_equal(getattr(result.solution, name), getattr(expected.solution, name))


@every_recipe
def test_many_states_without_observations(sensitivity):
    """K = 0: only y(t1) is seen."""
    problem = CATALOGUE["linear"]().replace(ts=[], loss=losses.terminal(np.sum, np.ones_like))
    found = gradient(problem, sensitivity, rtol=1e-9, atol=1e-12)
    expected = gradient(problem.replace(ts=[2.0], loss=losses.linear(np.ones((3, 1)))), sensitivity, rtol=1e-9,
                        atol=1e-12)
    np.testing.assert_allclose(found.y0, expected.y0, rtol=1e-8)
    assert found.t1 == pytest.approx(expected.ts[0], rel=1e-8) and found.ts.shape == (0,)


# --- what they refuse -----------------------------------------------------------------------------

def test_no_loss():
    with pytest.raises(InvalidInputError, match="needs a problem with a loss"):
        gradient(CATALOGUE["lorenz"]().replace(loss=None))


@pytest.mark.parametrize("door", [gradient, vjp, jvp, solve])
def test_a_field_is_no_problem(door):
    with pytest.raises(InvalidTypeError, match="problem must be a refnode.Problem, found VectorField"):
        door(CATALOGUE["lorenz"]().field)


@pytest.mark.parametrize("door", [gradient, vjp, jvp])
def test_unknown_recipe(door):
    with pytest.raises(InvalidInputError, match=r"sensitivity must be one of \['forward', .*found 'adjoint'"):
        door(CATALOGUE["lorenz"](), sensitivity="adjoint")


@pytest.mark.parametrize("door, name, value, expected", [
    (vjp, "ys_bar", np.zeros((4, 3)), r"\(3, 4\), found \(4, 3\)"), (vjp, "y1_bar", np.zeros(4), r"\(3,\), found \(4,\)"),
    (jvp, "y0_tan", np.zeros((3, 1)), r"\(3,\), found \(3, 1\)"), (jvp, "theta_tan", 1.0, r"\(3,\), found \(\)"),
    (jvp, "ts_tan", np.zeros(1), r"\(4,\), found \(1,\)")])
def test_wrong_shapes(door, name, value, expected):
    with pytest.raises(InvalidInputError, match=f"{name} must have shape {expected}"):
        door(CATALOGUE["lorenz"](), **{name: value})


@pytest.mark.parametrize("door, name", [(vjp, "y1_bar"), (jvp, "y0_tan")])
def test_tangents_and_cotangents_must_be_finite(door, name):
    with pytest.raises(InvalidInputError, match=rf"{name} must be finite, found {name}\[1\] = nan"):
        door(CATALOGUE["lorenz"](), **{name: [0.0, np.nan, 1.0]})


@every_recipe
def test_missing_derivative_of_the_field(sensitivity):
    problem = Problem(lambda t, y, theta: -y, [1.0], loss=losses.sum_of_squares())
    with pytest.raises(MissingDerivativeError, match=f"has no {RECIPES[sensitivity].needs}"):
        gradient(problem, sensitivity)


TOLERANCES = [(sensitivity, name) for sensitivity, recipe in RECIPES.items() for name in recipe.options
              if name.endswith("tol")]


@pytest.mark.parametrize("sensitivity, name", TOLERANCES)
@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, [1e-6]])
def test_own_tolerances_must_be_positive_numbers(sensitivity, name, value):
    with pytest.raises(InvalidInputError, match=f"{name} must be a positive number, found"):
        gradient(CATALOGUE["lorenz"](), sensitivity, **{name: value})


def test_an_option_of_another_recipe_is_refused():
    """Silently ignored, it would let one believe that it did something."""
    with pytest.raises(InvalidInputError, match=r"not an option of 'discrete', .*'backsolve', 'interpolating'"):
        gradient(CATALOGUE["lorenz"](), "discrete", adjoint_rtol=1e-9)


@pytest.mark.parametrize("sensitivity, kind", [("forward", "tangent"), ("backsolve", "adjoint"),
                                               ("interpolating", "adjoint")])
def test_purely_relative_solves_need_an_absolute_tolerance_for_the_sensitivity(sensitivity, kind):
    """Tangents and gradient integrals begin at 0."""
    problem = CATALOGUE["exponential_decay"]()
    with pytest.raises(InvalidInputError, match=f"give {kind}_atol > 0"):
        gradient(problem, sensitivity, atol=0.0)
    found = gradient(problem, sensitivity, atol=0.0, **{f"{kind}_atol": 1e-9})
    assert block_error(problem, flat(found), exact("exponential_decay")) <= 1e3 * 1e-6
    assert block_error(problem, flat(gradient(problem, atol=0.0)), exact("exponential_decay")) <= 1e3 * 1e-6


@every_recipe
def test_failed_forward_solve_raises_with_the_solution(sensitivity):
    with pytest.raises(IntegrationError, match="max_steps=3") as caught:
        gradient(CATALOGUE["kepler"](), sensitivity, max_steps=3)
    assert caught.value.solution.n_steps == 3 and not caught.value.solution.success


# --- wrong gradients ------------------------------------------------------------------------------

MUTATED = ["lotka_volterra", "forced_oscillator"]
RIGHT = {"discrete": gradients.COMPLEX_STEP, "backsolve": 1e-6, "interpolating": 1e-6}
OPTIONS = {"rtol": 1e-9, "atol": 1e-12}


def error_of(problem, sensitivity, reference):
    """The comparison of all tests here: block_error against complex steps of the same steps, or the exact gradient."""
    options = {"n_steps": 24} if sensitivity == "discrete" else OPTIONS
    return block_error(problem, flat(gradient(problem, sensitivity, **options)), reference)


def reference_of(name, sensitivity):
    if sensitivity != "discrete":
        return exact(name)
    problem = CATALOGUE[name]()
    solution = gradient(problem, n_steps=24).solution
    bars = problem.loss.vjp(solution.y, solution.y1)
    return gradients.frozen_gradient(problem, np.linspace(problem.t0, problem.t1, 25), "dopri5", *bars)


def with_vjp(problem, wrong):
    field = python_field(problem.field)
    return problem.replace(field=VectorField(field.f, field.jvp, wrong, name=field.name, n=field.n, p=field.p))


@pytest.mark.parametrize("name", MUTATED)
@pytest.mark.parametrize("sensitivity", RIGHT)
def test_right_gradient_passes(name, sensitivity):
    assert error_of(CATALOGUE[name](), sensitivity, reference_of(name, sensitivity)) <= RIGHT[sensitivity]


@pytest.mark.parametrize("name", MUTATED)
@pytest.mark.parametrize("sensitivity", RIGHT)
def test_wrong_field_derivatives_are_caught(name, sensitivity):
    """Every sign flipped, term dropped, += made =, term doubled, statement by statement.

    t_bar is the one output that no gradient uses. And a continuous adjoint begins every bar at zero, so the
    first += into one may be an =; the transposed steps carry theta_bar on and do notice.
    """
    problem, reference = CATALOGUE[name](), reference_of(name, sensitivity)
    body = cases.python_body(problem.field.vjp)
    caught = 0
    for label, wrong in cases.mutants(body):
        error = error_of(with_vjp(problem, wrong), sensitivity, reference)
        harmless = accumulates_alike(problem, wrong, 1.0 if sensitivity == "discrete" else 0.0)
        assert harmless or error > 1e3 * RIGHT[sensitivity], label
        caught += not harmless
    assert caught >= 20


def accumulates_alike(problem, wrong, prefill):
    """Whether y_bar and theta_bar of a mutant, begun at ``prefill``, are those of the right vjp."""
    bars = [[], []]
    point = cases.random_point(np.random.default_rng(0), problem.y0.size, problem.theta.size)
    for which, vjp_ in enumerate((cases.python_body(problem.field.vjp), wrong)):
        bars[which] = cases.evaluate_vjp(problem.field, point, vjp_, prefill)[1:]
    return np.array_equal(*bars)


@pytest.mark.parametrize("sensitivity", RIGHT)
def test_jacobian_for_its_transpose_is_caught(sensitivity):
    """On the linear field, whose Jacobian is not symmetric; the gradient for theta is made with the right lambda."""
    def wrong(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
        y_bar += theta.reshape(3, 3) @ dy_bar
        theta_bar += np.outer(dy_bar, y).ravel()
    reference = reference_of("linear", sensitivity)
    assert error_of(with_vjp(CATALOGUE["linear"](), wrong), sensitivity, reference) > 0.01


@pytest.mark.parametrize("sensitivity", RIGHT)
@pytest.mark.parametrize("change", [
    lambda bars: np.where(np.arange(5) < 4, 0.0, bars), lambda bars: np.where(np.arange(5) == 2, 0.0, bars),
    lambda bars: np.where(np.arange(5) == 4, 2.0 * bars, bars), lambda bars: np.where(np.arange(5) == 4, 0.0, bars),
    lambda bars: -bars, lambda bars: 0.5 * bars, lambda bars: bars / 10, lambda bars: bars[::-1]],
    ids=["interior jumps missing", "one jump missing", "last jump doubled", "last jump missing", "sign", "half",
         "mean for sum", "states permuted"])
def test_wrong_jumps_are_caught(sensitivity, change):
    problem = CATALOGUE["lotka_volterra"]()

    class Wrong(Scaled):
        def vjp(self, ys, y1):
            ys_bar, y1_bar = self.loss.vjp(ys, y1)
            return change(ys_bar), y1_bar
    reference = reference_of("lotka_volterra", sensitivity)
    assert error_of(problem.replace(loss=Wrong(problem.loss, 1.0)), sensitivity, reference) > 1e-3


@pytest.mark.parametrize("sensitivity", ["backsolve", "interpolating"])
@pytest.mark.parametrize("wrong", [lambda lam, y_bar: None, lambda lam, y_bar: lam.__isub__(y_bar),
                                   lambda lam, y_bar: lam.__iadd__(2.0 * y_bar),
                                   lambda lam, y_bar: lam.__setitem__(slice(None), y_bar)],
                         ids=["none", "minus", "double", "assigned"])
def test_wrong_jump_function_is_caught(sensitivity, wrong, monkeypatch):
    monkeypatch.setattr(continuous_adjoint, "observation_jump", wrong)
    assert error_of(CATALOGUE["lotka_volterra"](), sensitivity, exact("lotka_volterra")) > 1e-3


@pytest.mark.parametrize("sensitivity", RIGHT)
@pytest.mark.parametrize("part, factor", [(0, -1.0), (0, 0.0), (slice(1, None), -1.0), (slice(1, None), 0.0)],
                         ids=["t0: sign", "t0: none", "ts: sign", "ts: none"])
def test_wrong_time_gradients_are_caught(sensitivity, part, factor, monkeypatch):
    reference = reference_of("forced_oscillator", sensitivity)
    right = cotangents.time_cotangents

    def wrong(*arguments):
        times_bar, growth = right(*arguments)
        times_bar[part] *= factor
        return times_bar, growth
    monkeypatch.setattr(cotangents, "time_cotangents", wrong)
    assert error_of(CATALOGUE["forced_oscillator"](), sensitivity, reference) > 0.5


def test_the_loop_form_of_time_cotangents_is_the_numpy_form():
    """Sums of 3 products in another order: 3 eps of the sum of their magnitudes."""
    rng = np.random.default_rng(3)
    y0_bar, y1_bar, ys_bar, slopes = (rng.standard_normal(shape) for shape in (3, 3, (4, 3), (6, 3)))
    found = np.empty(6)
    jumps.time_cotangents_kernel(y0_bar, ys_bar, y1_bar, slopes, found)
    expected = [jumps.initial_time_cotangent(y0_bar, slopes[0]), *jumps.time_cotangent(ys_bar, slopes[1:-1]),
                jumps.time_cotangent(y1_bar, slopes[-1])]
    sizes = np.sum(np.abs(np.vstack([y0_bar, ys_bar, y1_bar]) * slopes), axis=1)
    assert np.all(np.abs(found - expected) <= 3.0 * np.finfo(float).eps * sizes)


@pytest.mark.parametrize("sensitivity", ["forward", "discrete_forward"])
@pytest.mark.parametrize("y_factor, theta_factor", [(1.0, 0.0), (0.0, 1.0), (1.0, -1.0)])
def test_wrong_tangents_are_caught(sensitivity, y_factor, theta_factor):
    """A term of f_jvp dropped or of the wrong sign, against the exact gradient."""
    problem = CATALOGUE["twin_growth"]()
    field = python_field(problem.field)

    def wrong(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
        field.jvp(t, y, theta, t_tan, y_factor * y_tan, theta_factor * theta_tan, tape, dy_tan)
    changed = VectorField(field.f, wrong, field.vjp, name=field.name, n=2, p=2)
    found = gradient(problem.replace(field=changed), sensitivity, rtol=1e-6, atol=1e-9)
    assert block_error(problem, flat(found), exact("twin_growth")) > 0.1


def test_identities_catch_what_they_should():
    """The dot-product identity sees a wrong vjp through a whole solve; so do complex steps."""
    problem = CATALOGUE["linear"]()
    for label, wrong in cases.mutants(problem.field.vjp):
        changed = with_vjp(problem, wrong)
        rng = np.random.default_rng(0)
        assert gradients.dot_product_error(changed, rng, n_steps=4) > 1e3 * gradients.DOT_PRODUCT, label
        seeds = random_seeds(problem, rng)
        assert gradients.complex_step_error(changed, seeds, n_steps=4) > 1e3 * gradients.COMPLEX_STEP, label
