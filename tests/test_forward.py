"""The forward recipe: tangents under error control of their own, and `jvp` by both forward recipes."""
import numpy as np
import pytest

import gradients
from gradients import CONTINUOUS, exact, exact_tangents, flat, slope, weighted_error
from refnode.errors import InvalidInputError
from refnode.host_device import python_form
from refnode.problems.catalogue import CATALOGUE
from refnode.sensitivity.equations import Staggered
from refnode.sensitivity.gradient import gradient, jvp, vjp
from refnode.solve.integrate import ATTEMPTS
from refnode.solve.step_size import error_norm
from test_continuous_adjoint import BAND, CONSTANT, RESTING_TWINS, TOLERANCES, errors_at, resting_twins

every_problem = pytest.mark.parametrize("name", CATALOGUE)


@every_problem
def test_error_is_proportional_to_the_tolerance_at_order_three(name):
    """bosh3, 1e-5 .. 1e-8: the constant settles to within 1.35, so the slope to within 0.1."""
    errors = errors_at(CATALOGUE[name](), exact(name), "forward", TOLERANCES[:4], "bosh3")
    assert slope(TOLERANCES[:4], errors) == pytest.approx(1.0, abs=0.1)


@pytest.mark.slow
@every_problem
@pytest.mark.parametrize("method", ["dopri5", "tsit5", "dop853"])
def test_error_falls_with_the_tolerance(name, method):
    errors = errors_at(CATALOGUE[name](), exact(name), "forward", TOLERANCES, method)
    assert np.all(errors <= CONSTANT * TOLERANCES)
    assert slope(TOLERANCES, errors) == pytest.approx(1.0, abs=BAND)


# --- the tangent's own error control --------------------------------------------------------------

@pytest.mark.parametrize("rtol", [1e-3, 1e-6, 1e-9, 1e-12])
def test_tangent_is_controlled_where_the_state_rests(rtol):
    found = gradient(resting_twins(), "forward", rtol=rtol, atol=1e-3 * rtol)
    assert np.max(np.abs(found.y0 / RESTING_TWINS - 1.0)) <= 100.0 * rtol
    tangent = jvp(resting_twins(), y0_tan=[1.0, 0.0], sensitivity="forward", rtol=rtol, atol=1e-3 * rtol)
    assert tangent[0, 0] == pytest.approx(RESTING_TWINS[0], rel=100.0 * rtol)


@pytest.mark.parametrize("sensitivity", gradients.FROZEN)
@pytest.mark.parametrize("rtol", [1e-3, 1e-6, 1e-9, 1e-12])
def test_discrete_recipes_do_not_see_growth_where_the_state_rests(sensitivity, rtol):
    """A documented truth, not a virtue: the steps that a resting state asks for are far too long for the
    tangent, so the exact derivative of these steps is off the exact derivative at every tolerance."""
    problem = resting_twins()
    found = gradient(problem, sensitivity, rtol=rtol, atol=1e-3 * rtol)
    assert np.max(np.abs(found.y0 / RESTING_TWINS - 1.0)) > 0.1
    times = gradients.step_times(problem, {"rtol": rtol, "atol": 1e-3 * rtol})
    frozen = gradients.frozen_gradient(problem, times, "dopri5", np.array([[1.0], [0.0]]), np.zeros(2))
    assert np.max(np.abs(found.y0 - frozen[:2])) <= 1e-12 * np.max(np.abs(frozen[:2]))


def test_steps_short_enough_for_the_tangent_mend_the_discrete_recipes():
    found = gradient(resting_twins(), "discrete", n_steps=400)
    assert np.max(np.abs(found.y0 / RESTING_TWINS - 1.0)) <= 1e-8


@pytest.mark.parametrize("own", [{"tangent_rtol": 1e-9, "tangent_atol": 1e-12}, {"tangent_rtol": 1e-9}])
def test_tangent_tolerances_have_effect(own):
    """More steps, and tangents better than the tolerance of the solve."""
    problem = CATALOGUE["logistic"]()
    loose, tight = gradient(problem, "forward", rtol=1e-4), gradient(problem, "forward", rtol=1e-4, **own)
    assert tight.stats["n_steps"] > 2 * loose.stats["n_steps"]
    errors = [weighted_error(problem, flat(found), exact("logistic")) for found in (loose, tight)]
    assert errors[1] < 0.01 * errors[0]


# --- one test of a step, or two -------------------------------------------------------------------

def both_controls(problem, **options):
    return [gradient(problem, "forward", error_control=control, **options) for control in ("simultaneous", "staggered")]


@every_problem
def test_staggered_error_is_proportional_to_the_tolerance(name):
    """The steps accepted are those of the simultaneous control, unless a rejection led to another size."""
    problem = CATALOGUE[name]()
    errors = [weighted_error(problem, flat(gradient(problem, "forward", method="bosh3", rtol=rtol, atol=1e-3 * rtol,
                                                    error_control="staggered")), exact(name))
              for rtol in TOLERANCES[:4]]
    assert slope(TOLERANCES[:4], errors) == pytest.approx(1.0, abs=0.1)


@every_problem
@pytest.mark.parametrize("method", ["dopri5", "dop853"])
def test_staggered_is_as_accurate_and_calls_jvp_no_more(name, method):
    problem = CATALOGUE[name]()
    together, staggered = both_controls(problem, method=method, rtol=1e-8, atol=1e-11)
    m = problem.y0.size + problem.theta.size
    assert together.stats["njvp"] == m * together.stats["nfev"]
    assert staggered.stats["njvp"] <= m * staggered.stats["nfev"] and staggered.stats["njvp"] % m == 0
    assert staggered.stats["njvp"] <= 1.1 * together.stats["njvp"]
    errors = [weighted_error(problem, flat(found), exact(name)) for found in (together, staggered)]
    assert errors[1] <= max(2.0 * errors[0], 1e-8)


def test_staggered_saves_the_tangents_of_steps_that_the_state_rejects():
    """Loose tangents: all rejections are the state's, and each spares the jvps of a whole step."""
    options = {"rtol": 1e-8, "atol": 1e-11, "tangent_rtol": 1e-4, "tangent_atol": 1e-7}
    problem = CATALOGUE["kepler"]()
    together, staggered = both_controls(problem, **options)
    rejected, m = together.stats["n_rejected"], 5
    assert rejected > 5 and staggered.stats["n_steps"] == together.stats["n_steps"]
    assert together.stats["njvp"] - staggered.stats["njvp"] == 6 * m * rejected
    np.testing.assert_array_equal(flat(staggered), flat(together))


def test_staggered_on_given_steps_is_simultaneous():
    together, staggered = both_controls(CATALOGUE["pendulum"](), n_steps=20)
    np.testing.assert_array_equal(flat(staggered), flat(together))


@pytest.mark.parametrize("rtol", [1e-3, 1e-9])
def test_staggered_tangents_are_tested(rtol):
    found = gradient(resting_twins(), "forward", rtol=rtol, atol=1e-3 * rtol, error_control="staggered")
    assert np.max(np.abs(found.y0 / RESTING_TWINS - 1.0)) <= 100.0 * rtol


def test_tangents_that_are_not_tested_are_caught(monkeypatch):
    """Mutant: the trial step answers with the error of the state alone."""
    def untested(f, method, tolerance, t, h, y, theta, counts, y1, k, tape, z):
        staggered(f, method, tolerance, t, h, y, theta, counts, y1, k, tape, z)
        return error_norm(method.E, h, k, y, y1, tolerance.rtol, tolerance.atol, tolerance.blocks[:2])
    problem = resting_twins()
    problem = problem.replace(field=gradients.python_field(problem.field))
    staggered = python_form(ATTEMPTS[Staggered])
    errors = []
    for body in (staggered, untested):
        monkeypatch.setitem(ATTEMPTS, Staggered, body)
        found = gradient(problem, "forward", rtol=1e-6, atol=1e-9, error_control="staggered")
        errors.append(np.max(np.abs(found.y0 / RESTING_TWINS - 1.0)))
    assert errors[0] <= 1e-4 and errors[1] > 0.1


@pytest.mark.parametrize("value", ["both", None, True])
def test_error_control_is_one_of_two(value):
    with pytest.raises(InvalidInputError, match="error_control must be 'simultaneous' or 'staggered', found"):
        gradient(CATALOGUE["lorenz"](), "forward", error_control=value)


@every_problem
def test_tangents_scale_exactly_with_their_direction(name):
    """The absolute tolerance counts in units of each direction: J (2^40 v) = 2^40 J v to the bit."""
    problem = CATALOGUE[name]()
    rng = np.random.default_rng(0)
    y0_tan, theta_tan = rng.standard_normal(problem.y0.size), rng.standard_normal(problem.theta.size)
    once = jvp(problem, y0_tan, theta_tan, sensitivity="forward")
    for factor in (2.0 ** -40, 2.0 ** 40):
        scaled = jvp(problem, factor * y0_tan, factor * theta_tan, sensitivity="forward")
        np.testing.assert_array_equal(scaled, factor * once)


# --- jvp ------------------------------------------------------------------------------------------

@every_problem
def test_jvp_of_both_recipes_is_the_exact_tangent(name):
    """Against SciPy, one random tangent of y0 and theta, at the tolerance of the solve times its condition."""
    problem = CATALOGUE[name]()
    rng = np.random.default_rng(1)
    x_tan = rng.standard_normal(problem.y0.size + problem.theta.size)
    x_tan *= gradients.sizes(problem)[:x_tan.size]
    exact_tan = np.einsum("kmn,m->nk", exact_tangents(problem)[1:-1, 1:], x_tan)
    y0_tan, theta_tan = np.split(x_tan, [problem.y0.size])
    for sensitivity in ("forward", "discrete_forward"):
        found = jvp(problem, y0_tan, theta_tan, sensitivity=sensitivity, rtol=1e-9, atol=1e-12)
        error = np.max(np.abs(found - exact_tan), axis=1) / np.max(np.abs(exact_tan), axis=1)
        assert np.max(error) <= CONSTANT * 1e-9


@every_problem
@pytest.mark.parametrize("reverse", [name for name in CONTINUOUS if name != "forward"])
@pytest.mark.filterwarnings("ignore::refnode.errors.GradientWarning")
def test_continuous_recipes_are_dual_to_tolerance(name, reverse):
    """<w, J v> by `forward` against <J^T w, v> by each adjoint, over all inputs: not 1e-13 but the tolerance."""
    error = gradients.dot_product_error(CATALOGUE[name](), np.random.default_rng(2), reverse=reverse,
                                        forward="forward", rtol=1e-9, atol=1e-12)
    assert error <= CONSTANT * 1e-9


def test_zero_directions_give_zero_tangents():
    problem = CATALOGUE["lorenz"]()
    for sensitivity in ("forward", "discrete_forward"):
        np.testing.assert_array_equal(jvp(problem, sensitivity=sensitivity), np.zeros((3, 4)))


def test_jvp_needs_a_forward_recipe():
    with pytest.raises(InvalidInputError, match="needs a forward recipe"):
        jvp(CATALOGUE["lorenz"](), sensitivity="discrete")


def test_vjp_by_tangents_equals_vjp_by_transpose():
    problem = CATALOGUE["pendulum"]()
    seeds = gradients.random_seeds(problem, np.random.default_rng(3))
    by_tangents, by_transpose = (flat(vjp(problem, *seeds, sensitivity=name)) for name in ("discrete_forward", "discrete"))
    assert gradients.block_error(problem, by_tangents, by_transpose) <= gradients.COMPLEX_STEP
