"""Drivers in no cache run un-jitted at first, where the work is short: with the bits of the compiled ones, and not for long."""
import contextlib
import time
import warnings

import numpy as np
import pytest
from numba import njit

import stubs
from refnode import GradientFunction, Problem, VectorField, fields, gradient, host_device, losses, solve
from refnode.host_device import Driver
from refnode.problems.catalogue import CATALOGUE
from refnode.sensitivity.cotangents import slopes_at
from refnode.sensitivity.discrete_adjoint import discrete_adjoint
from refnode.sensitivity.tangent_check import check_tangent
from refnode.solve.integrate import integrate_field

DRIVERS = {integrate_field, discrete_adjoint, check_tangent, slopes_at}
VARIANTS = {
    "controlled": {"rtol": 1e-5, "atol": 1e-8}, "tight": {"rtol": 1e-9, "atol": 1e-12, "controller": "PI"},
    "PID": {"rtol": 1e-3, "atol": 1e-3, "controller": "PID"}, "dop853": {"method": "dop853"},
    "bosh3": {"method": "bosh3", "max_step": 0.25}, "tstops": {"method": "tsit5", "tstops": True},
    "equal steps": {"n_steps": 37}, "given steps": {"method": "rk4", "n_steps": 50}, "first step": {"first_step": 100.0}}
SMOOTH = sorted(name for name in CATALOGUE if CATALOGUE[name]().y0.size < host_device.FEW_STATES)


@contextlib.contextmanager
def drivers_as(monkeypatch, patience, cached=False):
    """The four drivers as in a process that has called none of them, whose cache holds none, or what it does hold."""
    with monkeypatch.context() as patch:
        patch.setattr(host_device, "PATIENCE", patience)
        patch.setattr(Driver, "unjitted_seconds", 0.0)
        for driver in DRIVERS:
            patch.setattr(driver, "_entry", None)
            patch.delitem(vars(driver), "_is_missing", raising=False)
            if not cached:
                patch.setitem(vars(driver), "_is_missing", True)
        yield


@pytest.fixture
def run(monkeypatch):
    """(what a function gives un-jitted, with what it warned of; the same compiled), and checks that these were what ran."""
    def both(function):
        found = []
        for patience in (np.inf, 0.0):
            with drivers_as(monkeypatch, patience), warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter("always")
                found.append((function(), [str(warning.message) for warning in seen]))
                assert (Driver.unjitted_seconds > 0.0) == (patience > 0.0)
                assert any(driver._entry for driver in DRIVERS) == (patience == 0.0)
        return found
    return both


def fresh(problem, **changes):
    """The problem with a field that remembers nothing, such as that its tangent was probed."""
    problem.field.probed.clear()
    return problem.replace(**changes) if changes else problem


def everything(problem, **options):
    """All numbers of a gradient, as bytes and counts."""
    found = gradient(fresh(problem), **options)
    numbers = [found.y0, found.theta, found.t0, found.t1, found.ts, found.loss, found.solution.y, found.solution.t]
    return [np.asarray(number).tobytes() for number in numbers], found.stats


# --- the same bits --------------------------------------------------------------------------------

@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_have_the_same_bits(run, name, variant):
    problem = CATALOGUE[name]()
    ts = problem.t0 + (problem.t1 - problem.t0) * np.array([0.0, 0.123, 0.3, 0.31, 0.77, 1.0])
    problem = problem.replace(ts=ts, loss=losses.sum_of_squares())
    unjitted, compiled = run(lambda: everything(problem, **VARIANTS[variant]))
    assert unjitted == compiled


def test_the_same_bits_backwards_in_time_and_without_parameters(run):
    backwards = Problem(fields.lotka_volterra, [1.0, 0.5], [1.5, 1.0, 3.0, 1.0], (2.0, -1.0), [1.5, 0.25, -0.9], losses.sum_of_squares())
    unjitted, compiled = run(lambda: everything(backwards))
    assert unjitted == compiled
    free = stubs.NON_AUTONOMOUS.problem()
    unjitted, compiled = run(lambda: solve(free, rtol=1e-7).y.tobytes())
    assert unjitted == compiled


def test_the_same_bits_again_and_again(run):
    evaluate = GradientFunction(CATALOGUE["lotka_volterra"]())
    thetas = np.array([[1.5, 1.0, 3.0, 1.0], [1.75, 1.0, 2.5, 1.0]])
    unjitted, compiled = run(lambda: [evaluate(theta=theta).theta.tobytes() for theta in thetas])
    assert unjitted == compiled


def test_the_same_bits_through_a_tape(run):
    """A perceptron of one sample, with a tape that is kept, and with one that is refilled."""
    field = fields.mlp_field([2, 5, 2])
    theta = np.linspace(-1.0, 1.0, field.p)
    problem = Problem(field, [0.5, -0.25], theta, (0.0, 2.0), [0.7, 2.0], losses.sum_of_squares())
    unjitted, compiled = run(lambda: everything(problem))
    assert unjitted == compiled


def test_a_solve_that_changes_over_midway_has_the_same_bits(monkeypatch, run):
    """Patience for a part of the steps; what takes over goes on from the arrays as they are."""
    problem = Problem(fields.lorenz, [1.0, 1.0, 1.0], [10.0, 28.0, 2.6666259765625], (0.0, 8.0), np.linspace(0.0, 8.0, 9), losses.sum_of_squares())
    _, compiled = run(lambda: everything(problem, rtol=1e-9))
    problem.field.pace.clear()
    with drivers_as(monkeypatch, 0.02):
        changed = everything(problem, rtol=1e-9)
        assert 0.02 <= Driver.unjitted_seconds < 1.0 and integrate_field._entry is not None
    assert changed == compiled[0]


# --- the same failures ----------------------------------------------------------------------------

@njit
def blow_up(t, y, theta, dy):
    dy[0] = y[0] * y[0]
    dy[1] = np.log(1.0 - t)


@njit
def overflow(t, y, theta, dy):
    dy[0] = 1e308
    dy[1] = -y[1]


@pytest.mark.parametrize("rhs, options", [(blow_up, {}), (overflow, {"n_steps": 5})])
def test_solves_that_fail_say_the_same(run, rhs, options):
    """A pole, a NaN and sums that overflow: no warning of NumPy's comes through, and none is lost."""
    problem = Problem(VectorField(rhs), [1.0, 0.0], [], (0.0, 3.0))

    def failed():
        solution = solve(problem, **options)
        return solution.status, solution.message, solution.t.tobytes(), solution.y.tobytes()
    unjitted, compiled = run(failed)
    assert unjitted == compiled and unjitted[0][0] < 0


@njit
def refuses(t, y, theta, dy):
    if t > 0.5:
        raise ValueError("beyond 0.5")
    dy[:] = -y


def test_exceptions_of_a_field_come_through_with_their_place(run):
    problem = Problem(VectorField(refuses), [1.0], [], (0.0, 1.0))

    def failure():
        with pytest.raises(ValueError, match="beyond 0.5") as caught:
            solve(problem, n_steps=10)
        return caught.value.__notes__
    unjitted, compiled = run(failure)
    assert unjitted[0] and "fun" in unjitted[0][0] and "fun" in compiled[0][0]


# --- when -----------------------------------------------------------------------------------------

def test_long_work_is_compiled_at_once(monkeypatch):
    """From 16 states on, or with many observations: a step alone would take long."""
    problem = CATALOGUE["lotka_volterra"]()
    states, times = host_device.FEW_STATES, host_device.FEW_TIMES
    long = (Problem(fields.exponential_decay, np.ones(states), [0.5], (0.0, 1.0), loss=losses.sum_of_squares()),
            problem.replace(ts=np.linspace(problem.t0, problem.t1, times), loss=losses.sum_of_squares()))
    for other in long:
        with drivers_as(monkeypatch, np.inf):
            gradient(other, check_tangent=False)
            assert Driver.unjitted_seconds == 0.0 and integrate_field._entry is not None


def test_patience_is_shared_and_ends(monkeypatch):
    problem = CATALOGUE["lotka_volterra"]().replace(loss=losses.sum_of_squares(), ts=[1.0])
    with drivers_as(monkeypatch, 0.05):
        for _ in range(20):
            gradient(problem, check_tangent=False)
        assert all(driver._entry for driver in DRIVERS - {check_tangent})
        assert Driver.unjitted_seconds < 1.0


def test_what_a_cache_holds_is_not_run_unjitted(monkeypatch):
    for driver in DRIVERS:
        driver.prepare()
    with drivers_as(monkeypatch, np.inf, cached=True):
        gradient(CATALOGUE["lotka_volterra"](), check_tangent=True)
        assert Driver.unjitted_seconds == 0.0


FIRST = """
import refnode, sys
from refnode.problems.catalogue import CATALOGUE
from refnode.host_device import Driver
found = refnode.gradient(CATALOGUE["lotka_volterra"](), rtol=1e-8)
print(found.theta.tobytes().hex(), Driver.unjitted_seconds > 0.0, "scipy.linalg" in sys.modules)
"""


def test_the_first_gradient_with_an_empty_cache_compiles_the_field_alone(tmp_path):
    """And has the bits of one that compiles everything, in a fraction of the time."""
    started = time.perf_counter()
    first, unjitted, needless = stubs.python(FIRST, NUMBA_CACHE_DIR=tmp_path, REFNODE_PATIENCE=None).stdout.split()
    elapsed = time.perf_counter() - started
    compiled = {path.name.split("-")[0] for path in tmp_path.rglob("*.nbi")}
    assert unjitted == "True" and needless == "False" and compiled == {f"classical.lotka_volterra_{which}" for which in ("rhs", "jvp", "vjp")}
    other, unjitted, _ = stubs.python(FIRST, REFNODE_PATIENCE="0", timeout=300.0).stdout.split()
    assert unjitted == "False" and other == first
    print(f"a first gradient with an empty cache: {elapsed:.2f} s")
