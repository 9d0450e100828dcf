"""Optimisers against traces worked out by hand in exact fractions, and against what is known of them."""
from fractions import Fraction

import numpy as np
import pytest

from refnode.errors import InvalidInputError
from refnode.optimisers import SGD, Adam

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
    (lambda: SGD(learning_rate=np.inf), "learning_rate"),
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
