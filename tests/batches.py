"""Batches that the tests of batches share: ragged, shared, with a tape, with a running cost; and what it means to be as if alone."""
import numpy as np
import pytest
from numba import njit

from refnode import Batch, VectorField, losses
from refnode.fields.classical import CLASSICAL
from refnode.fields.neural import mlp_field

RNG = np.random.default_rng(12)
LV = CLASSICAL["lotka_volterra"]
PARTS = ("loss", "y0", "theta", "t0", "t1", "ts")


def ragged(counts, spans):
    """Sorted observation times inside each interval; the first of each sample is t0, the last t1."""
    times = []
    for count, (t0, t1) in zip(counts, spans):
        inside = t0 + (t1 - t0) * np.sort(RNG.uniform(0.0, 1.0, count))
        times.append(np.concatenate([[t0], inside, [t1]]) if count > 1 else inside)
    return times


def predators():
    """Own theta, ragged times, an interval backwards in time and one of length zero."""
    spans = np.array([[0.0, 4.0], [0.0, 1.0], [2.0, 0.5], [1.0, 1.0], [0.0, 6.0], [-1.0, 3.0]])
    return Batch(LV, RNG.uniform(0.5, 2.0, (6, 2)), RNG.uniform(0.5, 2.0, (6, 4)), spans,
                 ragged([5, 0, 3, 2, 9, 1], spans), losses.sum_of_squares())


def oscillators():
    """Non-autonomous, theta shared, a loss for each sample."""
    loss = [losses.linear(RNG.standard_normal((2, 3))) for _ in range(5)]
    return Batch(CLASSICAL["forced_oscillator"], RNG.standard_normal((5, 2)), RNG.uniform(0.5, 1.5, 5), (0.25, 3.0),
                 [0.25, 1.0, 2.5], loss)


def networks():
    """A field with a tape; the end of each interval is observed."""
    field = mlp_field((2, 4, 2), "tanh")
    spans = np.column_stack([np.zeros(4), [0.5, 1.0, 2.0, 0.25]])
    return Batch(field, RNG.standard_normal((4, 2)), 0.5 * RNG.standard_normal(field.p), spans,
                 loss=losses.sum_of_squares())


def with_cost():
    """A running cost beside a loss of the observations."""
    @njit
    def g(t, y, theta):
        return theta[0] * y[0] * y[0]

    @njit
    def g_jvp(t, y, theta, t_tan, y_tan, theta_tan):
        return theta_tan[0] * y[0] * y[0] + 2.0 * theta[0] * y[0] * y_tan[0]

    @njit
    def g_vjp(t, y, theta, g_bar, t_bar, y_bar, theta_bar):
        y_bar[0] += 2.0 * theta[0] * y[0] * g_bar
        theta_bar[0] += y[0] * y[0] * g_bar
    loss = losses.sum_of_squares() + losses.running_cost(g, g_jvp, g_vjp)
    return Batch(CLASSICAL["pendulum"], RNG.uniform(-1.0, 1.0, (3, 2)), RNG.uniform(0.5, 1.5, CLASSICAL["pendulum"].p),
                 (0.0, 2.0), [0.5, 2.0], loss)


@njit
def blow_up(t, y, theta, dy):
    dy[0] = theta[0] * y[0] * y[0]


@njit
def blow_up_vjp(t, y, theta, dy_bar, t_bar, y_bar, theta_bar):
    y_bar[0] += 2.0 * theta[0] * y[0] * dy_bar[0]
    theta_bar[0] += y[0] * y[0] * dy_bar[0]


def explosive(y0):
    """y' = theta y^2, which ends at t = 1/(theta y0)."""
    return Batch(VectorField(blow_up, vjp=blow_up_vjp), np.reshape(y0, (-1, 1)), [1.0], (0.0, 1.0), [0.25, 1.0],
                 losses.sum_of_squares())


BATCHES = {"predators": predators(), "oscillators": oscillators(), "networks": networks(), "with_cost": with_cost()}
every_batch = pytest.mark.parametrize("name", BATCHES)


# --- as if alone ----------------------------------------------------------------------------------

def part(found, name, i):
    """What belongs to sample i; theta shared by all is no sample's."""
    value = getattr(found, name)
    return None if name == "theta" and value.ndim == 1 else np.asarray(value[i])


def assert_same_samples(found, expected, order):
    """Sample order[i] of ``expected`` is sample i of ``found``, bit for bit."""
    for i, j in enumerate(order):
        for name in PARTS:
            np.testing.assert_array_equal(part(found, name, i), part(expected, name, j), f"{name} of sample {j}")
        assert all(found.stats[name][i] == expected.stats[name][j] for name in found.stats)


def assert_equals_alone(batch, found, alone):
    """`gradient_batch` is `gradient` of every sample, bit for bit, and a shared theta's the sum in order."""
    for i, one in enumerate(alone):
        for name in PARTS:
            if name != "theta" or batch.own_theta:
                np.testing.assert_array_equal(getattr(found, name)[i], getattr(one, name), f"{name} of sample {i}")
        assert all(counts[i] == one.stats[name] for name, counts in found.stats.items())    # bytes belong to the pool
    if not batch.own_theta:
        total = np.zeros(batch.theta.size)
        for one in alone:
            total += one.theta
        np.testing.assert_array_equal(found.theta, total)
