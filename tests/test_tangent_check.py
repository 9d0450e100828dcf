"""Error control that sees the derivative: steps that probes choose, and the warning where steps were too long for it."""
import warnings

import numpy as np
import pytest
from numba import njit

import cases
import gradients
from gradients import ADAPTIVE, H, block_error, flat, slope
from refnode import losses
from refnode.errors import GradientWarning, InvalidInputError, MissingDerivativeError
from refnode.fields.classical import CLASSICAL
from refnode.fields.field import VectorField
from refnode.problems.catalogue import CATALOGUE
from refnode.problems.problem import Problem
from refnode.sensitivity import tangent_check
from refnode.sensitivity.forward import tangent_grid
from refnode.sensitivity.forward_solve import solved
from refnode.sensitivity.gradient import gradient, jvp, vjp
from refnode.sensitivity.recipes import RECIPES
from refnode.sensitivity.tangent_check import probes, tangent_error
from refnode.solve.initial_value import solve
from refnode.solve.options import SolveOptions
from refnode.steppers.tableaus import TABLEAUS

DISCRETE = ["discrete", "discrete_forward"]
every_method = pytest.mark.parametrize("method", ADAPTIVE)
every_discrete = pytest.mark.parametrize("sensitivity", DISCRETE)


# --- where the state hides the tangent ------------------------------------------------------------

def twin():
    """x' = x - y, y' = y - x from (1, 1): at rest, while dx(5)/dx(0) = (e^10 + 1) / 2."""
    return Problem(CLASSICAL["twin_growth"], [1.0, 1.0], [1.0, 1.0], (0.0, 5.0), loss=losses.linear([[1.0], [0.0]]))


TWIN = (np.exp(10.0) + 1.0) / 2.0


@njit
def hidden_rhs(t, y, theta, dy):
    dy[0] = -theta[0] * y[0] + theta[1] * np.sin(theta[2] * t)


@njit
def hidden_jvp(t, y, theta, t_tan, y_tan, theta_tan, dy_tan):
    angle, angle_tan = theta[2] * t, theta_tan[2] * t + theta[2] * t_tan
    dy_tan[0] = (-theta_tan[0] * y[0] - theta[0] * y_tan[0] + theta_tan[1] * np.sin(angle)
                 + theta[1] * np.cos(angle) * angle_tan)


@njit
def hidden_vjp(t, y, theta, dy_bar, t_bar, y_bar, theta_bar):
    angle = theta[2] * t
    angle_bar = theta[1] * np.cos(angle) * dy_bar[0]
    theta_bar[0] -= y[0] * dy_bar[0]
    y_bar[0] -= theta[0] * dy_bar[0]
    theta_bar[1] += np.sin(angle) * dy_bar[0]
    theta_bar[2] += t * angle_bar
    t_bar[0] += theta[2] * angle_bar


HIDDEN = VectorField(hidden_rhs, hidden_jvp, hidden_vjp, name="hidden_forcing", n=1, p=3)


def hidden():
    """y' = -a y + b sin(w t) with b = 0, w = 64: the forcing is switched off, and dy(2)/db is asked for."""
    return Problem(HIDDEN, [1.0], [0.5, 0.0, 64.0], (0.0, 2.0),
                   loss=losses.linear([[1.0]]))


def hidden_truth(a=0.5, w=64.0, t=2.0):
    return (a * np.sin(w * t) - w * np.cos(w * t) + w * np.exp(-a * t)) / (a * a + w * w)


# --- steps that see the tangent -------------------------------------------------------------------

@every_method
@every_discrete
def test_error_is_proportional_to_tolerance_where_the_state_is_at_rest(sensitivity, method):
    """Slope 1 over seven decades, within 0.25 for errors that cancel; amplified locally by less than 100."""
    tolerances = 10.0 ** -np.arange(3.0, 10.5, 1.0)
    errors = np.array([abs(gradient(twin(), sensitivity, method=method, rtol=tol, atol=tol, control="tangent").y0[0]
                           / TWIN - 1.0) for tol in tolerances])
    assert abs(slope(tolerances, errors) - 1.0) < 0.25 and np.all(errors < 100.0 * tolerances)
    blind = gradient(twin(), sensitivity, method=method, rtol=1e-10, atol=1e-10, check_tangent=False)
    assert abs(blind.y0[0] / TWIN - 1.0) > 0.1


@every_discrete
def test_a_forcing_that_is_switched_off_is_seen(sensitivity):
    """dy/db oscillates 20 times while y decays; the probe in theta resolves it, to the tolerance times 1e3."""
    options = {"rtol": 1e-8, "atol": 1e-8}
    seen = gradient(hidden(), sensitivity, control="tangent", **options)
    assert seen.theta[1] == pytest.approx(hidden_truth(), rel=1e-5)
    blind = gradient(hidden(), sensitivity, check_tangent=False, **options)
    assert abs(blind.theta[1] / hidden_truth() - 1.0) > 0.1


@pytest.mark.parametrize("name", ["lotka_volterra", "forced_oscillator"])
@pytest.mark.parametrize("tstops", [False, True])
def test_the_gradient_is_that_of_the_steps_chosen(name, tstops):
    """Exact for its own steps: complex steps through exactly these, to 1e-12."""
    problem = CATALOGUE[name]()
    options = {"rtol": 1e-4, "atol": 1e-6, "tstops": tstops}
    found = gradient(problem, control="tangent", **options)
    times = tangent_grid(problem, SolveOptions.of(**options), {}, *probes(problem))
    assert found.stats["n_steps"] == times.size - 1 > solve(problem, **options).n_steps
    seeds = problem.loss.vjp(found.solution.y, found.solution.y1)
    expected = gradients.frozen_gradient(problem, times, "dopri5", *seeds)
    assert block_error(problem, flat(found), expected) <= gradients.COMPLEX_STEP
    if tstops:
        assert set(problem.ts) <= set(times)


def test_steps_and_gradient_are_the_same_bits_again():
    problem = CATALOGUE["pendulum"]()
    first, again = (flat(gradient(problem, control="tangent")) for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_jvp_sees_the_direction_asked_for():
    """Along (1, -1) the tangent grows, along (1, 1) it is constant and asks for no step more."""
    growing = jvp(twin(), [1.0, -1.0], control="tangent", rtol=1e-8, atol=1e-8)[0, 0]
    assert growing == pytest.approx(np.exp(10.0), rel=1e-5)
    options = SolveOptions.of(rtol=1e-8, atol=1e-8)
    counts = [tangent_grid(twin(), options, {}, np.array([tan]), np.zeros((1, 2))).size
              for tan in ([1.0, -1.0], [1.0, 1.0])]
    assert counts[0] > 5 * counts[1]


def test_an_interval_of_no_length():
    problem = CATALOGUE["logistic"]().replace(t0=0.5, t1=0.5, ts=[0.5], loss=losses.sum_of_squares())
    np.testing.assert_array_equal(flat(gradient(problem, control="tangent")), flat(gradient(problem)))


# --- the warning ----------------------------------------------------------------------------------

def alarms(problem, **options):
    """The messages of `GradientWarning` in one gradient."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gradient(problem, **options)
    return [str(each.message) for each in caught if issubclass(each.category, GradientWarning)]


@every_method
@pytest.mark.parametrize("problem", [twin, hidden])
def test_the_warning_appears_at_every_tolerance(problem, method):
    for tol in 10.0 ** -np.arange(3.0, 12.5, 1.0):
        (message,) = alarms(problem(), method=method, rtol=tol, atol=tol)
        assert "left the tangent unresolved" in message and "control='tangent'" in message


def atol_of(name, rtol):
    """Robertson's second species is 1e-5: an absolute tolerance above that leaves it to itself."""
    return rtol * (1e-8 if name == "robertson" else 1e-3)


@pytest.mark.parametrize("name", CATALOGUE)
@pytest.mark.parametrize("rtol", [1e-3, 1e-6])
def test_no_false_alarm(name, rtol):
    for method in ADAPTIVE:
        assert alarms(CATALOGUE[name](), method=method, rtol=rtol, atol=atol_of(name, rtol), check_tangent=True) == []


@pytest.mark.slow
@every_method
@pytest.mark.parametrize("name", CATALOGUE)
def test_no_false_alarm_at_any_tolerance(name, method):
    for rtol in 10.0 ** -np.arange(3.0, 10.5, 1.0):
        assert alarms(CATALOGUE[name](), method=method, rtol=rtol, atol=atol_of(name, rtol), check_tangent=True) == []


def test_an_absolute_tolerance_that_ignores_a_state_is_told():
    """Robertson at rtol 1e-4 and atol 1e-4, tsit5: four steps of any length for the second species; the gradient is wrong."""
    problem, options = CATALOGUE["robertson"](), {"method": "tsit5", "rtol": 1e-4, "atol": 1e-4}
    assert len(alarms(problem, **options, check_tangent=True)) == 1
    found = gradient(problem, check_tangent=False, **options)
    assert gradients.weighted_error(problem, flat(found), gradients.exact("robertson")) > 0.1


@pytest.mark.parametrize("method", ["dopri5", "dop853"])
def test_the_number_is_that_of_an_independent_estimate(method):
    """The probe by complex steps through each step, in NumPy: E k_tan, weights and running maximum by hand."""
    problem = CATALOGUE["van_der_pol"]()
    options = SolveOptions.of(method=method, rtol=1e-4, atol=1e-6)
    forward = solved(problem, options, keep=True)
    (worst, step, _), held = tangent_error(forward, *forward.tolerance[1:3])
    y = forward.y[:forward.n_steps + 1]
    largest = np.abs(y).max(axis=0)
    weight = 1e-6 + 1e-4 * largest
    norm = lambda x: np.sqrt(np.mean((x / weight) ** 2))
    y_tan = tangent_check.direction(weight / 1e-4, 1.0)
    theta_tan = tangent_check.direction(np.abs(problem.theta), 3.0)
    E, table, sizes, ratios = TABLEAUS[method].E, TABLEAUS[method], 0.0, []
    theta = problem.theta + 1j * H * theta_tan
    for i in range(forward.n_steps):
        t, h, z = forward.times[i], forward.times[i + 1] - forward.times[i], y[i] + 1j * H * y_tan
        k = [cases.evaluate_f(problem.field, t, z, theta)]
        for j in range(1, table.s):
            k.append(cases.evaluate_f(problem.field, t + table.c_array[j] * h, z + h * table.A_array[j, :j] @ np.array(k),
                                      theta))
        y1 = z + h * table.b_array @ np.array(k)
        k = np.array([*k, cases.evaluate_f(problem.field, t + h, y1, theta)]).imag / H
        e5, e3 = norm(h * E[0] @ k), norm(h * E[1] @ k)
        sizes = max(sizes, norm(y_tan))
        ratios.append(e5 ** 2 / np.sqrt(e5 ** 2 + 0.01 * e3 ** 2) / sizes)
        y_tan = y1.imag / H
    assert worst == pytest.approx(max(ratios), rel=1e-9) and int(step) == int(np.argmax(ratios))
    assert held == pytest.approx(1.0 / norm(largest), rel=1e-12)


def test_probes_move_every_input_and_no_two_alike():
    """Equal or zero entries would be annihilated by x - y, or by a parameter that is switched off."""
    y0_tans, theta_tans = probes(hidden())
    assert np.count_nonzero(y0_tans) == 1 and np.count_nonzero(theta_tans) == 3
    (first, _), _ = probes(twin())
    assert 0.1 < abs(first[0] - first[1]) and np.all(np.abs(first) >= 0.5)


def test_without_its_part_in_theta_the_probe_is_blind(monkeypatch):
    """Wrong on purpose: moving y0 alone does not see the forcing that is switched off."""
    monkeypatch.setattr(tangent_check, "entry_sizes", np.zeros_like)
    assert alarms(hidden(), rtol=1e-8, atol=1e-8) == []


def test_with_equal_parts_the_probe_is_blind(monkeypatch):
    """Wrong on purpose: (1, 1) is the one direction that x - y annihilates."""
    monkeypatch.setattr(tangent_check, "direction", lambda size, first: np.array(size))
    assert alarms(twin(), rtol=1e-8, atol=1e-8) == []


# --- when the probe is sent -----------------------------------------------------------------------

def test_auto_spares_solves_that_repeat_and_looks_again_at_fewer_steps():
    """The first, then every 64th; and at once where there are fewer than 0.8 times as many steps."""
    problem = twin().replace(y0=[1.0, 1.5])
    tested = ["tangent_error" in gradient(problem).stats for _ in range(129)]
    assert [k for k, told in enumerate(tested) if told] == [0, 64, 128]
    assert len(alarms(problem.replace(y0=[1.0, 1.0]))) == 1


def test_true_always_and_false_never():
    for flag in (True, False):
        counts = [len(alarms(twin(), check_tangent=flag)) for _ in range(3)]
        assert counts == [flag] * 3


def test_the_probe_changes_no_number():
    problem = CATALOGUE["kepler"]()
    found = [flat(gradient(problem, check_tangent=flag)) for flag in (True, False, "auto")]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_no_probe_where_no_steps_were_chosen_or_no_jvp_is_known():
    problem = twin()
    assert alarms(problem, n_steps=3, check_tangent=True) == []
    field = gradients.python_field(problem.field)
    without = problem.replace(field=VectorField(field.f, vjp=field.vjp))
    assert alarms(without, check_tangent=True) == []


# --- what is refused ------------------------------------------------------------------------------

@every_discrete
@pytest.mark.parametrize("options, message", [
    ({"control": "both"}, "control must be 'state' or 'tangent', found 'both'"),
    ({"check_tangent": 1}, "check_tangent must be True, False or 'auto', found 1"),
    ({"tangent_rtol": 1e-6}, "tangent_rtol needs control='tangent'"),
    ({"control": "tangent", "n_steps": 4}, "control='tangent' chooses the steps, and n_steps and steps give them")])
def test_options_are_validated(sensitivity, options, message):
    with pytest.raises(InvalidInputError, match=message):
        gradient(CATALOGUE["logistic"](), sensitivity, **options)


def test_recipes_that_see_nothing_refuse_the_options():
    assert [name for name, recipe in RECIPES.items() if "control" in recipe.options] == ["discrete_forward", "discrete"]
    with pytest.raises(InvalidInputError, match="control is not an option of 'interpolating'"):
        gradient(CATALOGUE["logistic"](), "interpolating", control="tangent")


def test_control_by_the_tangent_needs_a_jvp():
    problem = twin()
    field = gradients.python_field(problem.field)
    with pytest.raises(MissingDerivativeError, match="has no jvp"):
        vjp(problem.replace(field=VectorField(field.f, vjp=field.vjp), loss=None), y1_bar=[1.0, 0.0], control="tangent")
