"""Drivers that promise LLVM that their arrays do not overlap are called with arrays that do not, and give the same bits for it.

The calls are seen in the un-jitted twins, which trust nobody.
"""
import numpy as np
import pytest

from refnode import Batch, GradientFunction, gradient, gradient_batch, solve
from refnode.host_device import python_form
from refnode.losses import sum_of_squares
from refnode.problems.catalogue import CATALOGUE
from refnode.sensitivity.batch_sweep import discrete_adjoint_samples
from refnode.sensitivity.discrete_adjoint import discrete_adjoint
from refnode.solve import integrate, options as solve_options, written_out
from refnode.solve.integrate import integrate_field
from refnode.solve.samples import integrate_samples

DISJOINT = [integrate_field, discrete_adjoint, integrate_samples, discrete_adjoint_samples]
OPTIONS = {"rtol": 1e-5, "atol": 1e-7, "specialize": True, "check_tangent": False}


def overlapping(arrays):
    """Pairs of arrays, by position, of which one is written and the other shares its memory."""
    return [(i, j) for i, one in enumerate(arrays) for j, other in enumerate(arrays)
            if i < j and one.size and other.size and np.may_share_memory(one, other)]


def written_overlaps(arrays, call):
    """What overlaps among the arrays that ``call`` changes and all others; and what it returns."""
    before = [array.copy() for array in arrays]
    returned = call()
    written = {i for i, (array, old) in enumerate(zip(arrays, before)) if array.tobytes() != old.tobytes()}
    return [pair for pair in overlapping(arrays) if written & set(pair)], returned


@pytest.fixture
def seen(monkeypatch):
    """Calls of specialised drivers go to their twins, which note the driver, what overlaps, and that it was asked for."""
    calls = []

    def specialized(driver, functions):
        twin = python_form(driver)

        def entry(*arguments):
            arrays = [entry for entry in arguments[-1] if isinstance(entry, np.ndarray)]
            overlaps, status = written_overlaps(arrays, lambda: twin(*arguments))
            calls.append((driver.__name__, driver.disjoint, overlaps))
            return status
        return entry
    monkeypatch.setattr("refnode.host_device.Driver.specialized", specialized)
    return calls


def check(calls, *expected):
    assert {name for name, disjoint, _ in calls if disjoint} == set(expected)
    assert [call for call in calls if call[1] and call[2]] == []


@pytest.mark.parametrize("changes", [{}, {"method": "dop853"}, {"n_steps": 40}, {"tstops": True}], ids=str)
def test_a_gradient(seen, changes):
    problem = CATALOGUE["lotka_volterra"]()
    problem = problem.replace(t_span=(0.0, 2.0), ts=[0.0, 1.0, 2.0], loss=sum_of_squares())
    problem.field.entries.clear()
    gradient(problem, "discrete", **OPTIONS, **changes)
    solve(problem, **{name: value for name, value in {**OPTIONS, **changes}.items() if name != "check_tangent"})
    evaluate = GradientFunction(problem, **OPTIONS, **changes)
    evaluate(), evaluate(theta=problem.theta)
    problem.field.entries.clear()
    check(seen, "integrate_field", "discrete_adjoint")


@pytest.mark.parametrize("own_theta", [False, True])
@pytest.mark.parametrize("method, drivers", [("dopri5", ("integrate_lanes", "pull_lanes")),
                                             ("dop853", ("integrate_samples", "discrete_adjoint_samples"))])
def test_a_batch(seen, own_theta, method, drivers):
    problem = CATALOGUE["lotka_volterra"]()
    theta = np.tile(problem.theta, (3, 1)) if own_theta else problem.theta
    batch = Batch(problem.field, np.tile(problem.y0, (3, 1)), theta, (0.0, 1.0), [0.5, 1.0], sum_of_squares())
    problem.field.entries.clear()
    gradient_batch(batch, method=method, rtol=1e-5, atol=1e-7, specialize=True)
    problem.field.entries.clear()
    check(seen, *drivers)


def test_an_overlap_is_seen():
    y = np.arange(6.0)
    assert written_overlaps([y[:4], y[3:]], lambda: y.__setitem__(5, 0.0))[0] == [(0, 1)]
    assert written_overlaps([y[:3], y[3:]], lambda: y.__setitem__(5, 1.0))[0] == []
    assert written_overlaps([y[:4], y[3:]], lambda: None)[0] == []                  # who only reads may share


def test_the_promise_is_kept_where_steps_are_written_out_and_nowhere_else():
    for driver in DISJOINT:
        assert driver.disjoint and written_out.written_out_driver(driver, solve_options.SolveOptions.of().tableau, 2).disjoint
    assert not integrate.integrate_field.single.disjoint
