"""Optimisers against traces worked out by hand in exact fractions, and against what is known of them."""
from fractions import Fraction

import numpy as np
import pytest

from refnode.errors import InvalidInputError
from refnode.optimisers import (
    SGD, Adam, AdamW, clipped_to_norm, clipped_to_range, l2_penalty, l2_penalty_jvp, l2_penalty_vjp)
from refnode.schedules import CosineDecay, ExponentialDecay, StepDecay

EPS = np.finfo(np.float64).eps


def trace(optimiser, theta, grads):
    """theta after every step."""
    thetas = []
    for grad in grads:
        theta = optimiser.step(theta, grad)
        thetas.append(theta)
    return np.array(thetas)


def test_adam_by_hand_in_fractions():
    """beta1 = 1/2, beta2 = 3/4 and gradients for which every root is a fraction.

    First component, gradients 3, 5/3:
        m1 = 3/2, m1/(1 - 1/2) = 3;     v1 = 9/4, v1/(1 - 3/4) = 9, root 3;        step 3/(3 + 1/3) = 9/10
        m2 = 19/12, m2/(1 - 1/4) = 19/9; v2 = 343/144, v2/(1 - 9/16) = 49/9, root 7/3; step 19/24
    Second component, gradients 3, -3: step 9/10, then m2 = -3/4, -1; v2 hat = 9; step -3/10.
    """
    thetas = trace(Adam(learning_rate=0.125, beta1=0.5, beta2=0.75, epsilon=1 / 3), np.array([1.0, 2.0]),
                   [[3.0, 3.0], [5.0 / 3.0, -3.0]])
    rate = Fraction(1, 8)
    first = [1 - rate * Fraction(9, 10), 2 - rate * Fraction(9, 10)]
    second = [first[0] - rate * Fraction(19, 24), first[1] + rate * Fraction(3, 10)]
    np.testing.assert_allclose(thetas, np.array([first, second], dtype=np.float64), rtol=4 * EPS)


def test_adam_equals_its_algorithm_in_mpmath():
    """Algorithm 1 of Kingma & Ba, transcribed in 40 digits, with the paper's default settings."""
    mpmath = pytest.importorskip("mpmath")
    grads = np.random.default_rng(0).standard_normal((50, 3))
    theta = np.array([0.5, -1.25, 2.0])
    with mpmath.workdps(40):
        rate, b1, b2, eps = (mpmath.mpf(x) for x in (0.001, 0.9, 0.999, 1e-8))
        expected = []
        for i in range(3):
            x, m, v = mpmath.mpf(theta[i]), 0, 0
            for k, g in enumerate(grads[:, i], start=1):
                g = mpmath.mpf(g)
                m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g ** 2
                x -= rate * (m / (1 - b1 ** k)) / (mpmath.sqrt(v / (1 - b2 ** k)) + eps)
            expected.append(float(x))
    # 50 subtractions from a theta of size 2 round by at most eps each
    np.testing.assert_allclose(trace(Adam(), theta, grads)[-1], expected, rtol=0.0, atol=50 * EPS)


def test_adam_under_a_constant_gradient_moves_by_the_learning_rate():
    """Bias correction makes both means exact from the first step on; without it the first would be 3.2 times."""
    thetas = trace(Adam(learning_rate=0.25, epsilon=0.0), np.zeros(2), [[1e-3, -1e3]] * 20)
    steps = np.diff(thetas, axis=0, prepend=0.0)
    np.testing.assert_allclose(steps, np.tile([-0.25, 0.25], (20, 1)), rtol=1e-12)


@pytest.mark.parametrize("exponent", [-30, 30])
def test_adam_is_blind_to_the_scale_of_the_loss(exponent):
    grads = np.random.default_rng(1).standard_normal((10, 4))
    plain = trace(Adam(epsilon=0.0), np.ones(4), grads)
    scaled = trace(Adam(epsilon=0.0), np.ones(4), grads * 2.0 ** exponent)
    np.testing.assert_array_equal(plain, scaled)


def test_adam_leaves_a_component_without_gradient():
    theta = trace(Adam(learning_rate=0.5, epsilon=0.0), np.array([1.0, 1.0]), [[0.0, 1.0]] * 3)[-1]
    assert theta[0] == 1.0 and theta[1] < 0.0


def test_adam_finds_the_minimum_of_an_ill_conditioned_quadratic():
    curvature, optimiser, theta = np.array([1.0, 1e4]), Adam(learning_rate=0.05), np.array([1.0, -1.0])
    for k in range(2000):
        optimiser.learning_rate = 0.05 * 0.995 ** k
        theta = optimiser.step(theta, curvature * theta)
    assert np.max(np.abs(theta)) < 1e-3


def test_momentum_by_hand_in_fractions():
    """v: 1, 1/2 - 2 = -3/2, -3/4 + 4 = 13/4; theta from 0 by -v/4."""
    thetas = trace(SGD(learning_rate=0.25, momentum=0.5), np.zeros(1), [[1.0], [-2.0], [4.0]])
    np.testing.assert_array_equal(thetas[:, 0], [-0.25, 0.125, -0.6875])


def test_nesterov_by_hand_in_fractions():
    """v as above; grad + v/2: 3/2, -11/4, 45/8; theta from 0 by a quarter of it."""
    thetas = trace(SGD(learning_rate=0.25, momentum=0.5, nesterov=True), np.zeros(1), [[1.0], [-2.0], [4.0]])
    np.testing.assert_array_equal(thetas[:, 0], [-0.375, 0.3125, -1.09375])


def test_nesterov_is_the_method_with_the_gradient_ahead():
    """Nesterov's own form: v = mu v - rate grad(x + mu v), x = x + v; here theta = x + mu v."""
    curvature, mu, rate = np.array([1.0, 30.0]), 0.875, 0.03125
    x, v = np.array([1.0, -2.0]), np.zeros(2)
    optimiser, theta = SGD(rate, mu, nesterov=True), x.copy()
    for _ in range(40):
        v = mu * v - rate * curvature * (x + mu * v)
        x = x + v
        theta = optimiser.step(theta, curvature * theta)
        np.testing.assert_allclose(theta, x + mu * v, rtol=0.0, atol=40 * EPS)


def test_momentum_is_faster_than_none_and_nesterov_damps_it():
    """On curvatures 1 and 100 after 200 steps, each at the same rate."""
    curvature, distance = np.array([1.0, 100.0]), {}
    for name, options in {"none": {}, "heavy ball": {"momentum": 0.9}, "nesterov": {"momentum": 0.9, "nesterov": True}}.items():
        optimiser, theta = SGD(0.005, **options), np.ones(2)
        for _ in range(200):
            theta = optimiser.step(theta, curvature * theta)
        distance[name] = np.linalg.norm(theta)
    assert distance["nesterov"] < distance["heavy ball"] < distance["none"]


def test_adamw_by_hand_in_fractions():
    """The trace of Adam above plus decay 1/2: each step subtracts rate (step + theta/2) of the theta before."""
    thetas = trace(AdamW(learning_rate=0.125, beta1=0.5, beta2=0.75, epsilon=1 / 3, weight_decay=0.5), np.array([1.0]),
                   [[3.0], [5.0 / 3.0]])
    rate = Fraction(1, 8)
    first = 1 - rate * (Fraction(9, 10) + Fraction(1, 2))
    second = first - rate * (Fraction(19, 24) + first / 2)
    np.testing.assert_allclose(thetas[:, 0], [float(first), float(second)], rtol=4 * EPS)


def test_adamw_decays_every_component_alike():
    """Without gradient theta shrinks geometrically; a large gradient does not change how fast, as under an L2 penalty it would."""
    decay = 1.0 - 0.5 * 0.25
    assert trace(AdamW(0.5, epsilon=0.0, weight_decay=0.25), np.ones(1), [[0.0]] * 3)[-1] == decay ** 3
    plain = trace(Adam(0.5), np.ones(2), [[1e6, 1e-2]])[0]
    assert np.array_equal(trace(AdamW(0.5, weight_decay=0.25), np.ones(2), [[1e6, 1e-2]])[0], plain - 0.125)


@pytest.mark.peers
@pytest.mark.parametrize("ours, name, options", [
    (SGD(0.01, 0.9), "SGD", {"lr": 0.01, "momentum": 0.9}),
    (SGD(0.01, 0.9, nesterov=True), "SGD", {"lr": 0.01, "momentum": 0.9, "nesterov": True}),
    (Adam(0.01), "Adam", {"lr": 0.01}), (AdamW(0.01, weight_decay=0.1), "AdamW", {"lr": 0.01, "weight_decay": 0.1})])
def test_the_same_steps_as_torch(ours, name, options):
    torch = pytest.importorskip("torch")
    grads = np.random.default_rng(2).standard_normal((60, 4))
    x = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64))
    theirs = getattr(torch.optim, name)([x], **options)
    for grad in grads:
        x.grad = torch.tensor(grad)
        theirs.step()
    np.testing.assert_allclose(trace(ours, np.array([1.0, -2.0, 0.5, 0.0]), grads)[-1], x.detach().numpy(), rtol=1e-12)


# --- memory ---------------------------------------------------------------------------------------

MAKERS = {"sgd": lambda: SGD(0.1, 0.9), "nesterov": lambda: SGD(0.1, 0.5, nesterov=True), "adam": Adam, "adamw": AdamW}


@pytest.mark.parametrize("steps", [0, 1, 5])
@pytest.mark.parametrize("name", MAKERS)
def test_a_restored_optimiser_goes_on_bit_for_bit(name, steps):
    grads = np.random.default_rng(3).standard_normal((steps + 4, 3))
    straight, again = MAKERS[name](), MAKERS[name]()
    theta = np.ones(3) if steps == 0 else trace(straight, np.ones(3), grads[:steps])[-1]
    state = straight.state()
    assert all(type(array) is np.ndarray and array.dtype.kind in "fi" for array in state.values())
    again.restore(state)
    for array in state.values():
        array[...] = 0                                          # what was handed over is no one's memory
    assert trace(straight, theta, grads[steps:]).tobytes() == trace(again, theta, grads[steps:]).tobytes()
    assert repr(straight) == repr(again) and "learning_rate=" in repr(again)


def test_a_foreign_state_is_refused():
    with pytest.raises(InvalidInputError, match=r"state of Adam must have \['mean', 'mean_square', 'steps'\], found \['velocity'\]"):
        Adam().restore({"velocity": np.ones(2)})


# --- schedules, clipping, penalty -----------------------------------------------------------------

def test_schedules_by_hand():
    assert [StepDecay(1.0, 0.5, 3)(k) for k in (0, 2, 3, 5, 6)] == [1.0, 1.0, 0.5, 0.5, 0.25]
    exponential, cosine = ExponentialDecay(0.1, 0.001, 5), CosineDecay(0.75, 0.25, 5)
    assert [exponential(k) for k in (0, 4, 9)] == pytest.approx([0.1, 0.001, 0.001], rel=4 * EPS)
    assert exponential(2) == pytest.approx(0.01) and ExponentialDecay(0.1, 0.001, 1)(0) == 0.1
    assert [cosine(k) for k in (0, 2, 4, 8)] == [0.75, 0.5, 0.25, 0.25]
    assert cosine(1) == pytest.approx(0.5 + 0.25 * np.sqrt(0.5))
    assert "rate=0.75" in repr(cosine)


@pytest.mark.parametrize("make, message", [
    (lambda: StepDecay(0.0, 0.5, 3), "rate"), (lambda: StepDecay(1.0, 1.5, 3), "factor"), (lambda: StepDecay(1.0, 0.5, 0), "every"),
    (lambda: ExponentialDecay(1.0, 0.0, 3), "last"), (lambda: CosineDecay(1.0, -1.0, 3), "last"),
    (lambda: CosineDecay(1.0, 0.0, 0), "steps")])
def test_bad_schedules(make, message):
    with pytest.raises(InvalidInputError, match=message):
        make()


def test_clipping():
    assert clipped_to_norm([3.0, 4.0], 10.0)[0].tolist() == [3.0, 4.0]
    shortened, norm = clipped_to_norm([3.0, 4.0], 2.5)
    assert norm == 5.0 and shortened.tolist() == [1.5, 2.0]
    assert clipped_to_norm([3e200, 4e200], 5.0)[1] == pytest.approx(5e200)                     # no overflow of squares
    np.testing.assert_allclose(clipped_to_norm([3e200, 4e200], 5.0)[0], [3.0, 4.0])
    assert clipped_to_norm(np.zeros(2), 1.0)[1] == 0.0 and clipped_to_norm(np.zeros(0), 1.0)[1] == 0.0
    assert clipped_to_range([3.0, -4.0, 0.5], 1.0).tolist() == [1.0, -1.0, 0.5]


@pytest.mark.parametrize("weight", [0.7, np.array([0.5, 0.0, 2.0])])
def test_penalty_is_a_triple(weight):
    theta, tangent = np.array([0.5, -1.5, 2.0]), np.array([1.0, 0.25, -0.75])
    slope = l2_penalty_jvp(theta, weight, tangent)
    assert np.dot(l2_penalty_vjp(theta, weight), tangent) == pytest.approx(slope, rel=1e-15)
    assert l2_penalty_vjp(theta, weight, 3.0) == pytest.approx(3.0 * l2_penalty_vjp(theta, weight))
    assert l2_penalty(theta + 1e-30j * tangent, weight).imag / 1e-30 == pytest.approx(slope, rel=1e-15)
    assert l2_penalty(theta, 1.0) == 0.5 * (0.25 + 2.25 + 4.0)


def test_gradient_descent_on_a_quadratic_contracts_by_its_rate():
    """theta_k = (1 - rate c)^k theta_0, exact for powers of two."""
    theta, optimiser = np.array([1.0]), SGD(learning_rate=0.25)
    for _ in range(10):
        theta = optimiser.step(theta, 2.0 * theta)
    assert theta[0] == 2.0 ** -10


@pytest.mark.parametrize("optimiser", [SGD(momentum=0.5), Adam()], ids=["sgd", "adam"])
def test_arguments_are_left_alone_and_the_result_is_new(optimiser):
    theta, grad = np.ones(3), np.arange(3.0)
    for _ in range(2):
        new = optimiser.step(theta, grad)
        assert not np.shares_memory(new, theta) and new.shape == theta.shape
    np.testing.assert_array_equal(theta, np.ones(3))
    np.testing.assert_array_equal(grad, np.arange(3.0))


@pytest.mark.parametrize("make, message", [
    (lambda: Adam(learning_rate=0.0), "learning_rate"), (lambda: Adam(learning_rate=np.nan), "learning_rate"),
    (lambda: Adam(beta1=1.0), "beta1"), (lambda: Adam(beta2=-0.1), "beta2"),
    (lambda: Adam(epsilon=-1.0), "epsilon"), (lambda: SGD(momentum=1.0), "momentum"),
    (lambda: SGD(learning_rate=np.inf), "learning_rate"), (lambda: SGD(nesterov=True), "nesterov=True needs a momentum"),
    (lambda: AdamW(weight_decay=-1.0), "weight_decay"),
    (lambda: Adam().step(np.ones(2), np.ones(3)), r"grad must have shape \(2,\), found \(3,\)"),
    (lambda: Adam().step(np.ones(2), [1.0, np.nan]), r"grad must be finite, found nan at index \(1,\)"),
])
def test_bad_input(make, message):
    with pytest.raises(InvalidInputError, match=message):
        make()


@pytest.mark.parametrize("optimiser", [SGD(), Adam()], ids=["sgd", "adam"])
def test_one_optimiser_serves_one_vector(optimiser):
    optimiser.step(np.ones(2), np.ones(2))
    with pytest.raises(InvalidInputError, match=r"theta must have shape \(2,\), found \(3,\)"):
        optimiser.step(np.ones(3), np.ones(3))


def test_a_refused_gradient_leaves_the_memory_as_it_was():
    optimiser, untouched = Adam(), Adam()
    with pytest.raises(InvalidInputError):
        optimiser.step(np.ones(2), [np.inf, 0.0])
    np.testing.assert_array_equal(optimiser.step(np.ones(2), [1.0, 2.0]), untouched.step(np.ones(2), [1.0, 2.0]))
