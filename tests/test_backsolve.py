"""y solved backwards: where it starts afresh, how far it drifts, and that a gradient it spoils is never silent."""
import warnings

import numpy as np
import pytest

import gradients
from gradients import RECIPES, exact, flat, weighted_error
from refnode import losses
from refnode.errors import GradientWarning, IntegrationError, InvalidInputError
from refnode.fields.classical import CLASSICAL
from refnode.fields.field import VectorField
from refnode.problems.catalogue import CATALOGUE
from refnode.problems.problem import Problem
from refnode.sensitivity import continuous_adjoint, reliability
from refnode.sensitivity.gradient import gradient
from refnode.sensitivity.reversal import WITNESSES, Reconstruction, kept_times
from test_continuous_adjoint import lorenz

BACKSOLVES = ["backsolve_plain", "backsolve", "backsolve_checkpointed"]
TOLERANCES = 10.0 ** -np.arange(3.0, 11.0)
every_backsolve = pytest.mark.parametrize("sensitivity", BACKSOLVES)
drift_may_warn = pytest.mark.filterwarnings("ignore::refnode.errors.GradientWarning")


def first_state(n):
    """L = y_0(t1)."""
    return losses.terminal(lambda y1: y1[0], lambda y1: np.eye(n)[0])


UNRELIABLE = {
    "lorenz": lambda: lorenz(2.0),
    "decay_1000": lambda: Problem(CLASSICAL["cosine_relaxation"], [0.0], [1000.0], (0.0, 3.0), loss=first_state(1)),
    "decay_200": lambda: Problem(CLASSICAL["cosine_relaxation"], [0.0], [200.0], (0.0, 3.0), loss=first_state(1)),
    "van_der_pol_100": lambda: Problem(CLASSICAL["van_der_pol"], [2.0, 0.0], [100.0], (0.0, 3.0),
                                       loss=first_state(2)),
}


def outcome(problem, sensitivity, rtol, atol, **options):
    """(what it said: "nothing", "warned" or "raised"; the gradient or None)."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", GradientWarning)
        try:
            found = gradient(problem, sensitivity, rtol=rtol, atol=atol, **options)
        except IntegrationError:
            return "raised", None
    return "warned" if any(issubclass(each.category, GradientWarning) for each in caught) else "nothing", found


# --- never silent, and no false alarm -------------------------------------------------------------

@pytest.mark.parametrize("rtol", TOLERANCES)
@pytest.mark.parametrize("name", UNRELIABLE)
@pytest.mark.parametrize("sensitivity", ["backsolve_plain", "backsolve"])
def test_never_silent_where_y_cannot_be_solved_backwards(sensitivity, name, rtol):
    said, _ = outcome(UNRELIABLE[name](), sensitivity, rtol, rtol)
    assert said != "nothing"


@pytest.mark.parametrize("name", CATALOGUE)
@every_backsolve
def test_says_nothing_where_the_gradient_is_right_and_something_where_it_is_not(sensitivity, name):
    """Right: within 100 times the tolerance, and a warning would be a false alarm. Wrong: 5000 times off or more,
    which drift alone makes of it, since the other recipes stay below 150 (Robertson's condition)."""
    problem = CATALOGUE[name]()
    for rtol in TOLERANCES:
        said, found = outcome(problem, sensitivity, rtol, 1e-3 * rtol)
        if said != "raised":
            error = weighted_error(problem, flat(found), exact(name)) / rtol
            assert said == "nothing" or error > 100.0, (rtol, error)
            assert said == "warned" or error < 5000.0, (rtol, error)


def test_the_warning_has_the_numbers():
    with pytest.warns(GradientWarning, match=r"error of 6\.\d+e\+08 times its tolerance \(6\.\d+ of its size\) at t=0: "
                                             r"backwards, errors of y grow by a factor of 1\.\d+e\+06 or more"):
        found = gradient(lorenz(2.0), "backsolve", rtol=1e-8, atol=1e-8)
    stats = found.stats
    assert stats["drift_growth"] == stats["y_drift"] / (stats["n_steps"] + stats["n_steps_reverse"])


def swelling(rate):
    """y' = -a cos(t) (y - sin t) + cos t from pi/2: errors grow by e^(2 a) to 3 pi/2 and shrink again, both ways."""
    def f(t, y, theta):
        return -theta[0] * np.cos(t) * (y - np.sin(t)) + np.cos(t)

    def f_vjp(t, y, theta, dy_bar):
        t_bar = theta[0] * np.sin(t) * (y[0] - np.sin(t)) + theta[0] * np.cos(t) ** 2 - np.sin(t)
        return t_bar * dy_bar[0], -theta[0] * np.cos(t) * dy_bar, -np.cos(t) * (y - np.sin(t)) * dy_bar[0]
    return Problem(VectorField(f, vjp=f_vjp), [1.0], [rate], (np.pi / 2, 5 * np.pi / 2), loss=losses.linear([[1.0]]))


def test_drift_under_way_is_seen_by_witnesses(monkeypatch):
    """At t0 the reconstructed state is right again: only states kept in between tell."""
    options = {"rtol": 1e-8, "atol": 1e-8}
    with pytest.warns(GradientWarning, match="reconstructed y"):
        seen = gradient(swelling(5.0), "backsolve", **options).stats["y_drift"]
    monkeypatch.setattr(continuous_adjoint, "WITNESSES", 0)
    assert gradient(swelling(5.0), "backsolve", **options).stats["y_drift"] < 0.1 * seen


@drift_may_warn
def test_a_comparison_left_out_is_caught(monkeypatch):
    """Mutant: a reconstruction that compares nothing says nothing, and the grid above would see it."""
    monkeypatch.setattr(Reconstruction, "compare", lambda self, t, y, known: None)
    assert outcome(lorenz(2.0), "backsolve", 1e-8, 1e-8)[0] == "nothing"


# --- where y starts afresh ------------------------------------------------------------------------

@drift_may_warn
def test_checkpoints_mend_the_drift():
    """16 of them bring 47 % down to the tolerance, without an observation."""
    exact_rho = -0.76077904881
    plain, mended = (gradient(lorenz(2.0), name, rtol=1e-8, atol=1e-8).theta[1]
                     for name in ("backsolve_plain", "backsolve_checkpointed"))
    assert abs(plain / exact_rho - 1.0) > 0.1 and mended == pytest.approx(exact_rho, rel=1e-6)


@drift_may_warn
def test_more_checkpoints_drift_less():
    drifts = [gradient(lorenz(2.0), "backsolve_checkpointed", checkpoints=count, rtol=1e-8,
                       atol=1e-8).stats["y_drift"] for count in (1, 3, 8)]
    assert drifts[0] > 10.0 * drifts[1] > 100.0 * drifts[2]


@drift_may_warn
def test_plain_passes_observations_without_a_restart():
    """The same with and without 40 observations of no weight, which mend `backsolve`."""
    observed = lorenz(2.0, ts=np.linspace(0.05, 2.0, 40))
    options = {"rtol": 1e-8, "atol": 1e-8}
    drifts = {name: gradient(observed, name, **options).stats["y_drift"] for name in BACKSOLVES}
    assert drifts["backsolve_plain"] > 1e6 and max(drifts["backsolve"], drifts["backsolve_checkpointed"]) < 100.0


@drift_may_warn
def test_a_restart_left_out_is_caught(monkeypatch):
    monkeypatch.setattr(Reconstruction, "start_afresh", lambda self, where, y, known: None)
    assert gradient(lorenz(2.0), "backsolve_checkpointed", rtol=1e-8, atol=1e-8).stats["y_drift"] > 1e6


@drift_may_warn
def test_checkpoints_at_observations_and_given_steps():
    """Coincident times, and steps fewer than checkpoints."""
    problem = CATALOGUE["pendulum"]()
    problem = problem.replace(ts=np.linspace(problem.t0, problem.t1, 4))
    for options in ({"checkpoints": 2, "rtol": 1e-9}, {"checkpoints": 9, "n_steps": 3}):
        found = gradient(problem, "backsolve_checkpointed", **options)
        del options["checkpoints"]
        reference = gradient(problem, "backsolve", **options)
        near = 1e-6 if "rtol" in options else 1e-13
        assert weighted_error(problem, flat(found), flat(reference)) <= near


def test_kept_times():
    problem = CATALOGUE["pendulum"]()
    np.testing.assert_array_equal(kept_times(np.empty(0), problem.replace(ts=None, t0=1.0, t1=0.0), 3),
                                  [0.75, 0.5, 0.25])
    grid = np.array([1.0, 0.5, 0.25, 0.0])
    np.testing.assert_array_equal(kept_times(grid, problem, 2), [0.5, 0.25])
    np.testing.assert_array_equal(kept_times(grid, problem, 50), [0.5, 0.25])
    assert kept_times(grid, problem, 0).size == 0


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "4", None])
def test_a_number_of_checkpoints_must_be_a_positive_integer(value):
    with pytest.raises(InvalidInputError, match="checkpoints must be a positive integer, .*found"):
        gradient(CATALOGUE["lorenz"](), "backsolve_checkpointed", checkpoints=value)


def test_history_is_the_kept_states():
    """Eight bytes a number: n numbers for every observation, y(t1) and every kept state, whatever the steps."""
    problem = CATALOGUE["lotka_volterra"]()
    for rtol in (1e-4, 1e-10):
        found = [gradient(problem, name, rtol=rtol).stats["history_bytes"] for name in BACKSOLVES]
        assert found == [16 * (5 + 1 + WITNESSES)] * 2 + [16 * (5 + 1 + 16)]
    found = gradient(problem, "backsolve_checkpointed", checkpoints=5).stats["history_bytes"]
    assert found == 16 * (5 + 1 + 5)


# --- the seminorm ---------------------------------------------------------------------------------

@pytest.mark.parametrize("name", CATALOGUE)
@pytest.mark.parametrize("sensitivity", [name for name, row in RECIPES.items() if "seminorm" in row.options])
@drift_may_warn
def test_seminorm_takes_no_more_evaluations(sensitivity, name):
    """And is as good on the catalogue, whose integrals are as smooth as lambda; only it is not promised."""
    problem = CATALOGUE[name]()
    full, semi = (gradient(problem, sensitivity, rtol=1e-7, atol=1e-10, seminorm=seminorm) for seminorm in (False, True))
    assert semi.stats["nfev_reverse"] <= 1.1 * full.stats["nfev_reverse"]
    if sensitivity != "backsolve_plain":
        assert weighted_error(problem, flat(semi), exact(name)) <= 1e3 * 1e-7


@pytest.mark.parametrize("value", [1, "yes", None])
def test_seminorm_is_yes_or_no(value):
    with pytest.raises(InvalidInputError, match="seminorm must be True or False, found"):
        gradient(CATALOGUE["lorenz"](), "backsolve", seminorm=value)


# --- horizons -------------------------------------------------------------------------------------

@pytest.mark.parametrize("sensitivity", [name for name in RECIPES if not name.startswith("backsolve")])
def test_a_chaotic_horizon_warns_with_the_growth(sensitivity):
    """Lorenz to T = 40: errors grow like e^(0.9 T), some 1e15."""
    with pytest.warns(GradientWarning, match=r"grows by a factor of .*e\+1[0-9] until it is observed"):
        found = gradient(lorenz(40.0), sensitivity, rtol=1e-6, atol=1e-6)
    assert found.stats["growth"] > 1e10


@pytest.mark.parametrize("name", CATALOGUE)
@pytest.mark.parametrize("sensitivity", [name for name in RECIPES if not name.startswith("backsolve")])
def test_no_horizon_of_the_catalogue_warns(sensitivity, name):
    for rtol in TOLERANCES[::2]:
        assert outcome(CATALOGUE[name](), sensitivity, rtol, 1e-3 * rtol)[0] == "nothing"


def test_growth_is_that_of_the_exponential():
    """y(T) = y0 e^3 seen with weight 2: a relative change of y0 is one of y(T), but sizes are the largest on the way."""
    end = np.exp(3.0)
    growth = reliability.sensitivity_growth(np.array([1.0]), np.empty((0, 1)), np.array([end]), np.empty((0, 1)),
                                            np.array([2.0]), np.array([2.0 * end]))
    assert growth == pytest.approx(end)


def test_growth_weighs_states_by_their_sizes():
    ys, ys_bar = np.array([[3.0, 0.5]]), np.array([[1.0, -8.0]])
    growth = reliability.sensitivity_growth(np.array([-2.0, 0.25]), ys, np.array([1.0, 0.125]), ys_bar, np.zeros(2),
                                            np.array([4.0, -20.0]))
    assert growth == 12.0 / 4.0
    assert reliability.sensitivity_growth(np.zeros(2), ys, np.zeros(2), 0.0 * ys_bar, np.zeros(2), np.zeros(2)) == 0.0
