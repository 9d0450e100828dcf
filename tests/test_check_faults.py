"""Faults 24, 25 and 27 to 29: an interruption, a wrong derivative of the user's, and what a check must not misjudge."""
import signal
import time

import numpy as np
import pytest
from numba import config

import refnode
from gradients import RECIPES
from refnode import Problem, VectorField, check_field, check_gradient, gradient, losses, solve
from refnode.errors import GradientMismatch, GradientWarning, InvalidInputError
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
    """Seconds from Ctrl-C, sent that much processor time into the call, to KeyboardInterrupt; None if the call had ended.

    The middle one of three calls: a processor that is taken away for a moment charges for it, but not at most calls.
    """
    found = [interrupted_once(call, after) for _ in range(3)]
    return None if None in found else sorted(found)[1]


def interrupted_once(call, after):
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


# --- 25: the user's derivatives -------------------------------------------------------------------

def coupled(t, y, theta):
    """Entry (i, j) of every derivative is another number: none stands in for another."""
    return np.array([theta[0] * y[0] * y[1] + np.sin(t) * theta[1], theta[1] * y[0] ** 2 - theta[2] * y[1] ** 3])


def coupled_jac(t, y, theta):
    return np.array([[np.cos(t) * theta[1], theta[0] * y[1], theta[0] * y[0], y[0] * y[1], np.sin(t), 0.0],
                     [0.0, 2 * theta[1] * y[0], -3 * theta[2] * y[1] ** 2, 0.0, y[0] ** 2, -y[1] ** 3]])


def coupled_second(t, y, theta, w):
    """The Hessian of w·f in (t, y, theta)."""
    hessian = np.zeros((6, 6))
    hessian[0, 0] = -np.sin(t) * theta[1] * w[0]
    hessian[0, 4] = np.cos(t) * w[0]
    hessian[1, 1] = 2 * theta[1] * w[1]
    hessian[1, 2] = theta[0] * w[0]
    hessian[2, 2] = -6 * theta[2] * y[1] * w[1]
    hessian[1, 3], hessian[2, 3], hessian[1, 4], hessian[2, 5] = y[1] * w[0], y[0] * w[0], 2 * y[0] * w[1], -3 * y[1] ** 2 * w[1]
    return hessian + np.triu(hessian, 1).T


def field_with(wrong=None, entry=None, factor=1.01, added=0.01):
    """The field, one entry of one derivative off by a part in 100, or where it is zero by a number."""
    def of(which, matrix):
        matrix = matrix.copy()
        if which == wrong:
            matrix[entry] = factor * matrix[entry] + (added if matrix[entry] == 0 else 0.0)
        return matrix

    def jvp(t, y, theta, t_tan, y_tan, theta_tan):
        return of("jvp", coupled_jac(t, y, theta)) @ np.concatenate([[t_tan], y_tan, theta_tan])

    def parts(bar):
        return bar[0], bar[1:3], bar[3:]

    def vjp(t, y, theta, w):
        return parts(w @ of("vjp", coupled_jac(t, y, theta)))

    def hvp(t, y, theta, t_tan, y_tan, theta_tan, w, w_tan):
        tangent = np.concatenate([[t_tan], y_tan, theta_tan])
        return parts(of("hvp", coupled_second(t, y, theta, w)) @ tangent + w_tan @ coupled_jac(t, y, theta))

    return VectorField(coupled, jvp, vjp, hvp, name="coupled")


INPUTS = ["t", "y[0]", "y[1]", "theta[0]", "theta[1]", "theta[2]"]
POINT = (0.4, [1.5, -0.5], [0.8, 1.2, 0.3])


def test_fault_25_right_derivatives_pass():
    report = check_field(field_with(), *POINT)
    assert report.verdict == "PASS" and report.size == 12 + 12 + 6 * 8
    assert str(report).startswith("check_field coupled")


@pytest.mark.parametrize("which", ["jvp", "vjp"])
@pytest.mark.parametrize("i, j", [(i, j) for i in range(2) for j in range(6)])
def test_fault_25_a_wrong_jvp_or_vjp_is_named_by_its_entry(which, i, j):
    report = check_field(field_with(which, (i, j)), *POINT)
    assert report.verdict == "FAIL"
    assert [c.name for c in report.components if c.verdict == "FAIL"] == [f"{which}: d dy[{i}] / d {INPUTS[j]}"]


@pytest.mark.parametrize("i, j", [(0, 0), (1, 2), (2, 1), (4, 1), (5, 5), (3, 0)])
def test_fault_25_a_wrong_hvp_is_named_by_its_entry(i, j):
    report = check_field(field_with("hvp", (i, j)), *POINT)
    assert report.verdict == "FAIL"
    assert [c.name for c in report.components if c.verdict == "FAIL"] == [f"hvp: d {INPUTS[i]}_bar / d {INPUTS[j]}"]


def problem_of(field, **changes):
    return Problem(field, POINT[1], POINT[2], (POINT[0], 0.9), loss=losses.sum_of_squares()).replace(**changes)


@pytest.mark.parametrize("sensitivity", RECIPES)
def test_fault_25_checked_on_request_before_the_adjoint_runs(sensitivity):
    """Without the request a wrong derivative gives a wrong gradient, silently."""
    needs = refnode.sensitivity.recipes.RECIPES[sensitivity].needs
    wrong = problem_of(field_with(needs, (1, 4)))
    calls = []
    wrong.loss.value = lambda ys, y1: calls.append(1) or 0.0
    with pytest.raises(GradientMismatch, match=rf"a derivative of field 'coupled' is wrong at the initial point") as caught:
        gradient(wrong, sensitivity, check_derivatives=True)
    assert caught.value.report.worst.name == f"{needs}: d dy[1] / d theta[1]" and calls == []


def test_fault_25_every_door_checks_on_request():
    right, wrong = problem_of(field_with()), problem_of(field_with("hvp", (1, 1)))
    doors = (refnode.gradient, lambda p, **o: refnode.vjp(p, y1_bar=[1.0, 0.0], **o),
             lambda p, **o: refnode.jvp(p, y0_tan=[1.0, 0.0], **o), lambda p, **o: refnode.hvp(p, theta_tan=[1.0, 0.0, 0.0], **o))
    for door in doors:
        door(right, check_derivatives=True)
        door(wrong, check_derivatives=False)
        with pytest.raises(GradientMismatch, match="hvp: d y.0._bar / d y.0."):
            door(wrong, check_derivatives=True)
        with pytest.raises(InvalidInputError, match="check_derivatives must be True or False, found 'yes'"):
            door(right, check_derivatives="yes")


def test_fault_25_a_special_initial_point_hides_nothing():
    """At y = 0 the wrong term is zero; the second point sees it."""
    with pytest.raises(GradientMismatch, match="is wrong at a point nearby") as caught:
        gradient(problem_of(field_with("vjp", (1, 4), added=0.0), y0=[0.0, 0.0], t0=0.0), check_derivatives=True)
    assert caught.value.report.worst.name == "vjp: d dy[1] / d theta[1]"


def test_fault_25_the_derivatives_of_a_running_cost():
    def g(t, y, theta):
        return y[0] ** 2

    def g_vjp(t, y, theta, g_bar, t_bar, y_bar, theta_bar):
        y_bar[0] += 2.2 * y[0] * g_bar

    wrong = problem_of(field_with(), loss=losses.running_cost(g, g_vjp=g_vjp))
    with pytest.raises(GradientMismatch) as caught:
        gradient(wrong, check_derivatives=True)
    assert caught.value.report.worst.name == "vjp: d dy[2] / d y[0]"


def test_fault_25_what_cannot_be_decided_is_a_warning():
    kinked = VectorField(lambda t, y, theta: np.abs(y - 1.0), vjp=lambda t, y, theta, w: (0.0, w * (y > 1.0), 0.0 * theta))
    problem = Problem(kinked, [1.0], t_span=(0.0, 0.1), loss=losses.sum_of_squares())
    with pytest.warns(GradientWarning, match="could not be decided at the initial point: .*not smooth"):
        gradient(problem, check_derivatives=True)
    with pytest.raises(InvalidInputError, match="has no jvp or vjp to check"):
        check_field(VectorField(coupled), *POINT)


@pytest.mark.parametrize("name", CLASSICAL)
def test_fault_25_no_shipped_field_is_blamed(name):
    rng, field = np.random.default_rng(0), CLASSICAL[name]
    n = field.n or 3
    p = field.p if field.p is not None else n * n                       # of the linear field, a matrix
    report = check_field(field, 0.3, rng.uniform(0.5, 1.5, n), rng.uniform(0.5, 1.5, p))
    assert report.verdict == "PASS", str(report)


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


def test_a_reference_of_zero_explains_nothing():
    """Where every reference is zero, no multiple of it is what yours is."""
    report = check_gradient(lambda x: 1.0, [1.0, 2.0], [0.0, 3.0])
    assert report.verdict == "FAIL"
    assert report.diagnosis[0] == "only the component x[1] is wrong: a term is missing or doubled there"


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


# --- a loss over no observation -------------------------------------------------------------------

class Unsaid(losses.Loss):
    """A user's loss of y(t1), or of nothing, that does not say whether it reads observations."""

    def __init__(self, weight):
        self.weight = weight

    def value(self, ys, y1):
        return self.weight * y1.sum()

    def vjp(self, ys, y1):
        return np.zeros(ys.shape), np.full(y1.shape, self.weight)


TERMINAL = losses.terminal(np.sum, np.ones_like)


@pytest.mark.parametrize("loss, warned", [
    (losses.sum_of_squares(), True), (losses.mean_of_squares(), True), (losses.linear(np.zeros((2, 0))), True),
    (losses.sum_of_squares() + TERMINAL, True), (TERMINAL, False), (TERMINAL + TERMINAL, False),
    (Unsaid(1.0), False), (Unsaid(0.0), True), (TERMINAL + Unsaid(1.0), False)])
def test_a_loss_over_no_observation_is_zero_and_warned_of(loss, warned, recwarn):
    """The empty sum and its gradient are 0, exactly; terminal parts count as ever."""
    problem = predator_prey(1.0).replace(ts=[], loss=loss)
    result = gradient(problem)
    assert [str(w.message).startswith("the loss reads observations") for w in recwarn] == [True] * warned
    alone = problem.replace(ts=None, loss=TERMINAL)
    share = 1.0 if isinstance(loss, Unsaid) and loss.weight else 0.0
    share += sum(part is TERMINAL for part in (loss, getattr(loss, "first", None), getattr(loss, "second", None)))
    share += isinstance(getattr(loss, "second", None), Unsaid)
    np.testing.assert_allclose(result.y0, share * gradient(alone).y0, rtol=1e-13)
    np.testing.assert_allclose(result.theta, share * gradient(alone).theta, rtol=1e-13)
