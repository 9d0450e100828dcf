"""Faults 24, 25 and 27 to 29: an interruption, a wrong derivative of the user's, and what a check must not misjudge."""
import signal
import time

import numpy as np
import pytest
from numba import config

from refnode import Problem, check_gradient, gradient, losses, solve
from refnode.fields.classical import CLASSICAL

X = np.array([0.3, -1.2, 0.5, 2.0])
NAMES = ["alpha", "beta", "gamma", "delta"]


def fun(x):
    return np.exp(x[0]) + np.sin(x[1] * x[2]) + x[3] ** 3


def grad(x):
    return np.array([np.exp(x[0]), x[2] * np.cos(x[1] * x[2]), x[1] * np.cos(x[1] * x[2]), 3 * x[3] ** 2])


# --- 24: Ctrl-C -----------------------------------------------------------------------------------

needs_compiler = pytest.mark.skipif(bool(config.DISABLE_JIT), reason="plain Python sees Ctrl-C after every instruction")
LATENCY = 0.1                  # seconds of the process's own time, so that a busy machine does not count
INTERRUPTED = ("discrete", "discrete_forward", "interpolating", "gauss", "checkpointed", "forward", "through")


def predator_prey(t1):
    return Problem(CLASSICAL["lotka_volterra"], [1.0, 1.5], [1.1, 0.4, 0.4, 0.1], (0.0, t1), loss=losses.sum_of_squares())


def interrupted(call, after):
    """Seconds from Ctrl-C, sent that much processor time into the call, to KeyboardInterrupt; None if the call had ended."""
    def ctrl_c(number, frame):
        raise KeyboardInterrupt
    before = signal.signal(signal.SIGVTALRM, ctrl_c)
    started = time.process_time()
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, after)
        call()
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
    except KeyboardInterrupt:
        return time.process_time() - started - after
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
        signal.signal(signal.SIGVTALRM, before)
    return None


@needs_compiler
def test_fault_24_ctrl_c_in_a_solve():
    """Millions of steps were asked for; the next solve with the same field gives the same bits as before."""
    short, long = predator_prey(20.0), predator_prey(1e6)
    expected = solve(short, rtol=1e-8).y1
    for method, options in (("dopri5", {"rtol": 1e-9, "max_steps": 10 ** 9}), ("rk4", {"n_steps": 4_000_000})):
        solve(short, method=method, n_steps=5)
        for after in (0.03, 0.2):
            latency = interrupted(lambda: solve(long, method=method, **options), after)
            assert latency is not None and latency < LATENCY
            assert np.array_equal(solve(short, rtol=1e-8).y1, expected)


@needs_compiler
@pytest.mark.filterwarnings("ignore::refnode.errors.GradientWarning")      # nobody needs the numbers of the long ones
@pytest.mark.parametrize("sensitivity", INTERRUPTED)
def test_fault_24_ctrl_c_in_a_gradient(sensitivity):
    """Early and late, so that forward and reverse sweeps are hit."""
    short, options = predator_prey(5.0), {"sensitivity": sensitivity, "rtol": 1e-6, "atol": 1e-6, "max_steps": 10 ** 7}
    expected = gradient(short, **options)
    long, spent = predator_prey(200.0), 0.0
    while spent < 0.15:
        long = long.replace(t1=4.0 * long.t1)
        started = time.process_time()
        gradient(long, **options)
        spent = time.process_time() - started
    for part in (0.3, 0.8):
        latency = interrupted(lambda: gradient(long, **options), part * spent)
        assert latency is None or latency < LATENCY
        again = gradient(short, **options)
        for name in ("y0", "theta", "loss", "t0", "t1"):
            assert np.array_equal(getattr(again, name), getattr(expected, name)), name


def test_fault_24_the_positive_control():
    """A call that does not look for Ctrl-C, a product of large matrices, is late; and one that ends is told apart."""
    large = np.ones((1500, 1500))
    assert interrupted(lambda: [large @ large for _ in range(3)] and time.sleep(0), 1e-3) > 0.0
    assert interrupted(lambda: None, 10.0) is None


# --- 27: not smooth at the point ------------------------------------------------------------------

@pytest.mark.parametrize("yours", [-1.0, 0.0, 0.3, 1.0])
def test_fault_27_one_sided_derivatives_differ(yours):
    """Whatever subgradient is given, it is not blamed; the slopes of both sides are told."""
    report = check_gradient(lambda x: fun(x) + 2 * abs(x[0] - X[0]), X, lambda x: grad(x) + [yours, 0, 0, 0], names=NAMES)
    assert report.verdict == "INCONCLUSIVE"
    slopes = f"slope {np.exp(0.3) - 2:.6g} on the left, {np.exp(0.3) + 2:.6g} on the right"
    assert report.diagnosis[0] == f"fun is not smooth at x along alpha: {slopes}"


def test_fault_27_an_event_at_the_point():
    """A switch at x[0] = 0.3 that bends the function, and one that jumps; beside it the function is judged."""
    bend = lambda x: fun(x) + (5 * (x[0] - 0.3) if x[0] > 0.3 else 0.0)
    jump = lambda x: fun(x) + (1.0 if x[0] > 0.3 else 0.0)
    for switched in (bend, jump):
        assert check_gradient(switched, X, grad).verdict == "INCONCLUSIVE"
        assert check_gradient(switched, X + 0.2, grad(X + 0.2) + ([5, 0, 0, 0] if switched is bend else 0.0)).verdict == "PASS"
        wrong = check_gradient(switched, X, lambda x: grad(x) + [0, 0, 0, 1.0])
        assert wrong.verdict == "FAIL" and wrong.worst.name == "x[3]"


# --- 28: noise ------------------------------------------------------------------------------------

def noisy(size, seed=0):
    rng = np.random.default_rng(seed)
    return lambda x: fun(x) + size * rng.standard_normal()


@pytest.mark.parametrize("size", [1e-9, 1e-7, 1e-5])
@pytest.mark.parametrize("off", [0.0, 0.3, 3.0])
def test_fault_28_noise_above_the_tolerance(size, off):
    """A gradient off by some tolerances that the noise hides is not blamed; the rtol suggested can be decided."""
    report = check_gradient(noisy(size), X, grad(X) * (1 + off * size), rtol=size)
    assert report.verdict == "INCONCLUSIVE"
    text = " ".join(report.diagnosis)
    assert "noise of fun" in text and "steps from" in text
    suggested = float(text.split("can decide rtol ")[1].split(",")[0])
    assert suggested > size
    assert check_gradient(noisy(size, 1), X, grad, rtol=10 * suggested).verdict == "PASS"


def test_fault_28_the_step_suggested_would_do():
    """A linear function is smooth over any step: with the step told, the gradient is decided."""
    rng = np.random.default_rng(0)
    linear = lambda x: 3.0 * x[0] + 1e-6 * rng.standard_normal()
    report = check_gradient(linear, [1.0], [3.0], rtol=1e-7)
    assert report.verdict == "INCONCLUSIVE"
    step = float(report.diagnosis[0].split("steps from ")[1].split()[0])
    assert check_gradient(linear, [1.0], [3.0], rtol=1e-7, scale=2 ** 10 * step).verdict == "PASS"
    assert check_gradient(linear, [1.0], [3.001], rtol=1e-7, scale=2 ** 10 * step).verdict == "FAIL"


# --- 29: shape and order --------------------------------------------------------------------------

@pytest.mark.parametrize("yours, said", [
    (grad(X)[[0, 1, 3]], "found (3,); the components gamma are missing, the others agree"),
    (grad(X)[:1], "found (1,); the components beta, gamma, delta are missing, the others agree"),
    (np.insert(grad(X), 2, 7.0), "found (5,); the entries 2 are too many, the others agree"),
    (grad(X)[:, None], "found (4, 1); the numbers agree once they are reshaped"),
    (-grad(X)[:, None], "found (4, 1)"),
    (2 * grad(X)[:3], "found (3,)"),
    (np.full(3, np.nan), "found (3,)"),
    (np.zeros(0), "found (0,)"),
    (1.0, "found ()"),
])
def test_fault_29_wrong_length(yours, said):
    for candidate in (yours, lambda x: yours):
        report = check_gradient(fun, X, candidate, names=NAMES)
        assert report.verdict == "FAIL" and report.worst is None and not report
        assert report.diagnosis == [f"shape: expected the shape of x (4,), {said}"]
        assert "shape: expected" in str(report) and "shape: expected" in report.to_html()
    assert check_gradient(fun, X, yours, methods=("taylor",)).verdict == "FAIL"


def test_fault_29_wrong_layout_of_a_matrix():
    matrix = np.arange(1.0, 7.0).reshape(2, 3)
    report = check_gradient(lambda x: (x ** 3).sum(), matrix, 3 * matrix.T ** 2)
    assert report.diagnosis == ["shape: expected the shape of x (2, 3), found (3, 2); the numbers agree in column-major order "
                                "(transposed)"]


@pytest.mark.parametrize("order", [[1, 0, 2, 3], [3, 2, 1, 0], [1, 2, 3, 0]])
def test_fault_29_permuted(order):
    report = check_gradient(fun, X, grad(X)[order], names=NAMES)
    assert report.verdict == "FAIL"
    assert any(f"matches after permutation: yours[k] = reference[order[k]], order = {order}" in line
               for line in report.diagnosis)
