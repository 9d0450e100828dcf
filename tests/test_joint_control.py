"""Joint control of a batch: the stacked problem under one step size, and what that couples."""
import numpy as np
import pytest

import gradients
from batches import BATCHES, LV, RNG, assert_equals_alone, explosive
from gradients import RECIPES
from refnode import Batch, Problem, gradient, gradient_batch, losses, solve, solve_batch
from refnode.errors import IntegrationError, InvalidInputError
from refnode.fields.classical import CLASSICAL


pytestmark = pytest.mark.filterwarnings("ignore::refnode.errors.GradientWarning")      # of backsolve's drift


def shared_times(own_theta):
    theta = RNG.uniform(0.5, 2.0, (3, 4) if own_theta else 4)
    return Batch(LV, RNG.uniform(0.5, 2.0, (3, 2)), theta, (0.0, 3.0), [0.5, 2.0, 3.0], losses.sum_of_squares())


@pytest.mark.parametrize("own_theta", [False, True])
def test_joint_is_the_stacked_problem(own_theta):
    """Against the stack written by hand with NumPy: the same steps, states equal up to rounding (1e-12)."""
    batch = shared_times(own_theta)

    def stacked(t, y, theta):
        u, v = y.reshape(3, 2).T
        a, b, c, d = theta.reshape(-1, 4).T
        return np.column_stack([a * u - b * u * v, d * u * v - c * v]).ravel()
    found = solve_batch(batch, "joint")
    expected = solve(Problem(stacked, batch.y0.ravel(), batch.theta.ravel(), (0.0, 3.0), [0.5, 2.0, 3.0]))
    assert (found.n_steps[0], found.n_rejected[0], found.nfev[0]) == (
        expected.n_steps, expected.n_rejected, expected.nfev)
    np.testing.assert_allclose(found.y.reshape(6, 3), expected.y, rtol=1e-12)
    np.testing.assert_array_equal(found[1].y, found.y[1])


@pytest.mark.parametrize("own_theta", [False, True])
def test_joint_field_has_right_derivatives(own_theta):
    """Complex steps through the frozen steps of the stacked problem, and the dot product of jvp and vjp."""
    problem = shared_times(own_theta).joint()
    seeds = gradients.random_seeds(problem, np.random.default_rng(0))
    assert gradients.complex_step_error(problem, seeds, rtol=1e-3) <= gradients.COMPLEX_STEP
    assert gradients.dot_product_error(problem, np.random.default_rng(1)) <= gradients.DOT_PRODUCT


def test_joint_of_one_sample_is_that_sample():
    batch = BATCHES["networks"].take([2])
    assert_equals_alone(batch, gradient_batch(batch, step_control="per_sample"), [gradient(batch[0])])
    joint, alone = gradient_batch(batch, step_control="joint"), gradient(batch[0])
    np.testing.assert_array_equal(joint.theta, alone.theta)
    np.testing.assert_array_equal(joint.y0[0], alone.y0)
    assert (joint.t0, joint.t1, joint.loss[0]) == (alone.t0, alone.t1, alone.loss)


@pytest.mark.parametrize("sensitivity", RECIPES)
def test_joint_and_per_sample_agree_in_the_limit(sensitivity):
    """At 1e-10 both are within some 1e-7 of the exact derivative, by every recipe; with a running cost too."""
    tight = {"rtol": 1e-10, "atol": 1e-12}
    for batch in (shared_times(True), BATCHES["with_cost"]):
        joint = gradient_batch(batch, sensitivity, "joint", **tight)
        alone = gradient_batch(batch, "discrete", **tight)
        for name in ("loss", "y0", "theta"):
            expected = getattr(alone, name)
            np.testing.assert_allclose(getattr(joint, name), expected, rtol=0, atol=1e-7 * np.abs(expected).max())
        np.testing.assert_allclose(joint.t0, alone.t0.sum(), rtol=1e-6)
        np.testing.assert_allclose(joint.ts, alone.ts.sum(axis=0), rtol=0, atol=1e-7 * np.abs(alone.ts).max())


def test_joint_repeats_tolerances_of_states():
    batch = shared_times(False)
    found = solve_batch(batch, "joint", rtol=[1e-4, 1e-7], atol=[1e-6, 1e-9])
    expected = solve(batch.joint(), rtol=[1e-4, 1e-7] * 3, atol=[1e-6, 1e-9] * 3)
    np.testing.assert_array_equal(found.y.reshape(6, 3), expected.y)
    with pytest.raises(InvalidInputError, match="rtol must be a number or have one entry for each of the 2 states"):
        solve_batch(batch, "joint", rtol=[1e-4] * 6)


def test_joint_couples_and_frozen_steps_do_not_leak():
    """A's solution depends on its mates' states; the frozen-step derivative of A's loss in them is zero."""
    only_first = [losses.sum_of_squares(), *[losses.linear(np.zeros((2, 3)))] * 2]
    batch = Batch(LV, RNG.uniform(0.5, 2.0, (3, 2)), [1.5, 1.0, 3.0, 1.0], (0.0, 3.0), [0.5, 2.0, 3.0], only_first)
    found = gradient_batch(batch, step_control="joint", rtol=1e-3)
    np.testing.assert_array_equal(found.y0[1:], 0.0)
    moved = batch.y0.copy()
    moved[1] *= 1.5
    joint = [gradient_batch(each, step_control="joint", rtol=1e-3) for each in (batch, batch.replace(y0=moved))]
    alone = [gradient_batch(each, rtol=1e-3) for each in (batch, batch.replace(y0=moved))]
    assert joint[0].loss[0] != joint[1].loss[0]
    assert alone[0].loss[0] == alone[1].loss[0]


def test_given_steps_leave_nothing_to_couple():
    """The same sums for every sample; a shared theta's are added in another order."""
    batch = shared_times(True)
    joint, alone = (gradient_batch(batch, step_control=control, n_steps=20) for control in ("joint", "per_sample"))
    for name in ("loss", "y0", "theta"):
        np.testing.assert_allclose(getattr(joint, name), getattr(alone, name), rtol=1e-12)


def test_a_tolerance_over_root_b_undoes_dilution():
    """One sample that moves among 15 at rest: the joint norm is its own over 4, in exact numbers."""
    y0 = np.zeros((16, 1))
    y0[0] = 1.0
    batch = Batch(CLASSICAL["exponential_decay"], y0, [2.0], (0.0, 3.0), loss=losses.sum_of_squares())
    alone = gradient_batch(batch.take([0]), rtol=2e-6, atol=2e-6)
    diluted, undone = (gradient_batch(batch, step_control="joint", rtol=tol, atol=tol) for tol in (2e-6, 5e-7))
    assert diluted.stats["n_steps"][0] < alone.stats["n_steps"][0]
    np.testing.assert_allclose(undone.solution.y1[0], alone.solution.y1[0], rtol=1e-12)


def test_joint_fails_as_one():
    batch = explosive([0.5, 4.0])
    found = solve_batch(batch, "joint")
    assert list(found.status) == [-1, -1] and found.y.shape == (2, 1, 2) and np.isnan(found.y[0, 0, 1])
    with pytest.raises(IntegrationError, match="the forward solve failed"):
        gradient_batch(batch, step_control="joint")
