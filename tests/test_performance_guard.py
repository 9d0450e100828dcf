"""What a gradient may cost, counted and not timed: evaluations, bytes, Python calls, and that nothing is compiled twice.

Counts are the same on every machine, however busy. Each has its reason beside it, and each is tried on a program
that does one thing too many.
"""
import pathlib
import sys
import tracemalloc

import numba
import numba.core.compiler
import numpy as np
import pytest

import refnode
from refnode import Batch, GradientFunction, fields, gradient, gradient_batch, host_device, losses
from refnode.fields.field import VectorField
from refnode.problems.problem import Problem
from refnode.sensitivity.checkpoint_schedule import recomputed_steps

PACKAGE = str(pathlib.Path(refnode.__file__).parent)
OPTIONS = {"rtol": 1e-8, "atol": 1e-8}
COUNTED = {             # of a warm W1: at most so many calls of refnode's functions, and bytes beside those that steps need
    "gradient": (82, 9_000),
    "GradientFunction": (45, 6_000)}
BYTES_A_STEP = 24       # the times, in the solve and in its result; states, slopes and tapes are taken over


@pytest.fixture(autouse=True)
def compiled_at_once(monkeypatch):
    """Whatever the cache holds, no driver runs un-jitted."""
    monkeypatch.setattr(host_device, "PATIENCE", 0.0)


def w1(field=fields.lotka_volterra):
    """The workload W1 of docs/performance.md."""
    return Problem(field, [1.0, 1.0], [1.5, 1.0, 3.0, 1.0], (0.0, 10.0), np.linspace(0.0, 10.0, 21), losses.sum_of_squares())


def warm(problem, function):
    """The function after two calls: compiled, looked up, its storage grown. Whatever the machine's pace, one slice is enough."""
    function(), function()
    problem.field.pace.update(dict.fromkeys(problem.field.pace, 1_000_000))
    function()
    return function


def subject(name, **options):
    """A warm gradient of W1. `check_tangent="auto"` would probe now and then."""
    problem, given = w1(), {**OPTIONS, "check_tangent": False, **options}
    if name == "gradient":
        return warm(problem, lambda: gradient(problem, **given))
    evaluate = GradientFunction(problem, **given)
    return warm(evaluate.problem, evaluate)


# --- what counts ----------------------------------------------------------------------------------

def python_calls(function):
    """How many Python functions of refnode a call calls. Comprehensions, which Python 3.12 inlines, do not count."""
    count = 0

    def notice(frame, event, argument):
        nonlocal count
        code = frame.f_code
        count += event == "call" and code.co_filename.startswith(PACKAGE) and not code.co_name.startswith("<")
    before = sys.getprofile()
    sys.setprofile(notice)
    try:
        function()
    finally:
        sys.setprofile(before)
    return count


def peak_bytes(function):
    """The most bytes that are held during a call, beyond those before it."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        function()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def compilations(function):
    """How many functions Numba compiles during a call."""
    found, compile_extra = [], numba.core.compiler.compile_extra

    def counted(*args, **kwargs):
        found.append(args)
        return compile_extra(*args, **kwargs)
    numba.core.compiler.compile_extra = counted
    try:
        function()
    finally:
        numba.core.compiler.compile_extra = compile_extra
    return len(found)


def counting_field(counts, wasteful=False):
    """Lotka-Volterra in plain Python, which counts its evaluations and transposes."""
    def f(t, y, theta, dy):
        counts["f"] += 2 if wasteful else 1
        dy[0], dy[1] = theta[0] * y[0] - theta[1] * y[0] * y[1], theta[3] * y[0] * y[1] - theta[2] * y[1]

    def f_vjp(t, y, theta, dy_bar, t_bar, y_bar, theta_bar):
        counts["f_vjp"] += 1
        y_bar[0] += (theta[0] - theta[1] * y[1]) * dy_bar[0] + theta[3] * y[1] * dy_bar[1]
        y_bar[1] += -theta[1] * y[0] * dy_bar[0] + (theta[3] * y[0] - theta[2]) * dy_bar[1]
    return VectorField(f, vjp=f_vjp)


# --- calls, bytes, compilations -------------------------------------------------------------------

@pytest.mark.parametrize("name", COUNTED)
def test_calls_of_a_warm_gradient(name):
    """The same at every call, and not above what was reached."""
    run = subject(name)
    counts = [python_calls(run) for _ in range(3)]
    assert len(set(counts)) == 1 and counts[0] <= COUNTED[name][0]

    def one_more():
        run()
        losses.sum_of_squares()
    assert python_calls(one_more) > counts[0]


@pytest.mark.parametrize("name", COUNTED)
def test_bytes_of_a_warm_gradient(name):
    """Its results, and 8 bytes a step for each array of times; not the states (16 a step) and slopes (96) again."""
    steps, held = [], []
    for tolerance in (1e-8, 1e-12):
        run = subject(name, rtol=tolerance, atol=tolerance)
        steps.append(run().stats["n_steps"])
        held.append(peak_bytes(run))
    assert held[0] <= COUNTED[name][1] and steps[1] > 5 * steps[0]
    assert held[1] - held[0] <= BYTES_A_STEP * (steps[1] - steps[0])

    def with_states():
        return np.empty((steps[1], 2)), run()
    assert peak_bytes(with_states) >= held[1] + 16 * steps[1] - 1000


@pytest.mark.parametrize("name", COUNTED)
def test_a_warm_gradient_compiles_nothing(name):
    run = subject(name)
    assert compilations(run) == 0
    assert compilations(lambda: (run(), numba.njit(lambda x: x)(1.0))) > 0


def test_calls_of_a_batch():
    """Seven a sample, for its loss, its cotangents and its result; none a step."""
    counts = []
    for samples in (4, 64):
        batch = Batch(fields.lotka_volterra, np.linspace(0.8, 1.2, 2 * samples).reshape(samples, 2), [1.5, 1.0, 3.0, 1.0],
                      (0.0, 4.0), [2.0, 4.0], losses.sum_of_squares())
        counts.append(python_calls(warm(batch, lambda: gradient_batch(batch))))
    assert counts[1] - counts[0] <= 7 * 60


# --- evaluations ----------------------------------------------------------------------------------

@pytest.mark.parametrize("wasteful", [False, True])
def test_evaluations_of_discrete(wasteful):
    """dopri5: six an attempt, one for the first slope, one for the first step, and the slopes at each observation,
    t0 and t1 among them, for the cotangents of the times. Six transposes a step: none for the slope at its end,
    which is the next one's first, but where an observation inside the step reads it."""
    counts = {"f": 0, "f_vjp": 0}
    problem = w1(counting_field(counts, wasteful))
    gradient(problem, **OPTIONS)                              # checks the field, once
    counts.update(f=0, f_vjp=0)
    stats = gradient(problem, **OPTIONS).stats
    attempts = stats["n_steps"] + stats["n_rejected"]
    assert stats["nfev"] == 6 * attempts + 2
    assert (counts["f"] == stats["nfev"] + problem.ts.size) is not wasteful
    assert 6 * stats["n_steps"] <= counts["f_vjp"] <= 6 * stats["n_steps"] + problem.ts.size


def test_evaluations_of_other_recipes():
    """Of the adjoint, six an attempt and two for each begin; of steps taken again, four and one for each state read."""
    found = gradient(w1(), "interpolating", **OPTIONS).stats
    assert found["nfev_reverse"] <= 6 * (found["n_steps_reverse"] + found["n_rejected_reverse"]) + 2 * 21
    found = gradient(w1().replace(ts=None), "checkpointed", checkpoints=10, method="rk4", n_steps=1000).stats
    again = recomputed_steps(1000, 10)
    assert found["nfev"] == 4 * 1000 + 1 and found["n_steps_recomputed"] == again
    assert found["nfev_recomputed"] <= 4 * again + 1000
