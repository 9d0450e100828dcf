"""Losses: values, cotangents against complex steps, tangents, sums, and wrong shapes."""
import numpy as np
import pytest

from gradients import RECIPES, Scaled
from refnode import losses
from refnode.errors import InvalidInputError, InvalidTypeError, MissingDerivativeError
from refnode.problems.catalogue import CATALOGUE
from refnode.sensitivity.gradient import gradient

H, EPS = 1e-30, np.finfo(float).eps
RNG = np.random.default_rng(0)
YS, Y1 = RNG.standard_normal((2, 3)), RNG.standard_normal(2)
DATA = RNG.standard_normal((2, 3))


def phi(y1):
    return np.sin(y1[0]) * y1[1] ** 2


def phi_grad(y1):
    return np.array([np.cos(y1[0]) * y1[1] ** 2, 2.0 * np.sin(y1[0]) * y1[1]])


LOSSES = {
    "none": losses.Loss(), "sum_of_squares": losses.sum_of_squares(DATA), "no_data": losses.sum_of_squares(),
    "mean_of_squares": losses.mean_of_squares(DATA), "linear": losses.linear(DATA),
    "terminal": losses.terminal(phi, phi_grad), "running": losses.running_cost(lambda t, y, theta: y[0]),
    "sum": losses.sum_of_squares(DATA) + losses.terminal(phi, phi_grad) + losses.linear(DATA),
    "scaled": Scaled(losses.mean_of_squares(DATA), -3.0),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def complex_step_cotangents(loss):
    """(ys_bar, y1_bar) of a loss by complex steps through its value."""
    bars = []
    for which, array in enumerate((YS, Y1)):
        bar = np.zeros(array.shape)
        for index in np.ndindex(array.shape):
            moved = [YS.astype(complex), Y1.astype(complex)]
            moved[which][index] += 1j * H
            bar[index] = np.imag(loss.value(*moved)) / H
        bars.append(bar)
    return bars


@every_loss
def test_cotangents_equal_complex_steps(loss):
    """Each entry is a product of at most four factors: some ten roundings."""
    for found, expected in zip(loss.vjp(YS, Y1), complex_step_cotangents(loss)):
        assert found.shape == expected.shape
        assert np.max(np.abs(found - expected)) <= 16 * EPS * max(np.max(np.abs(expected)), 1.0)


@every_loss
def test_tangent_is_the_product_with_the_cotangents(loss):
    ys_tan, y1_tan = RNG.standard_normal((2, 3)), RNG.standard_normal(2)
    moved = loss.value(YS + 1j * H * ys_tan, Y1 + 1j * H * y1_tan)
    assert loss.jvp(YS, Y1, ys_tan, y1_tan) == pytest.approx(np.imag(moved) / H, rel=1e-13, abs=1e-15)


@pytest.mark.parametrize("name, mutate", [
    ("sum_of_squares", lambda bars: (-bars[0], bars[1])), ("sum_of_squares", lambda bars: (bars[0] / 2, bars[1])),
    ("mean_of_squares", lambda bars: (6 * bars[0], bars[1])), ("linear", lambda bars: (bars[0][::-1], bars[1])),
    ("terminal", lambda bars: (bars[0], bars[1][::-1])), ("sum", lambda bars: (bars[0], 0 * bars[1]))])
def test_wrong_cotangents_are_caught(name, mutate):
    """Sign, 2, mean for sum, permuted states, a part forgotten: a thousand times the bound above."""
    worst = max(np.max(np.abs(found - expected)) for found, expected in zip(
        mutate(LOSSES[name].vjp(YS, Y1)), complex_step_cotangents(LOSSES[name])))
    assert worst > 1e3 * 16 * EPS * 10.0


# --- second derivatives ---------------------------------------------------------------------------

def phi_hvp(y1, y1_tan):
    s, c, v = np.sin(y1[0]), np.cos(y1[0]), y1_tan
    return np.array([-s * y1[1] ** 2 * v[0] + 2.0 * c * y1[1] * v[1], 2.0 * c * y1[1] * v[0] + 2.0 * s * v[1]])


class Curved(losses.Loss):
    """A loss whose cotangent is nonlinear, and may be complex."""

    def vjp(self, ys, y1):
        return np.cos(ys), phi_grad(y1)

    def hvp(self, ys, y1, ys_tan, y1_tan):
        return -np.sin(ys) * ys_tan, phi_hvp(y1, y1_tan)


def complex_step_tangents(loss, ys_tan, y1_tan):
    return [np.imag(bar) / H for bar in loss.vjp(YS + 1j * H * ys_tan, Y1 + 1j * H * y1_tan)]


@pytest.mark.parametrize("name, loss", [
    *((name, LOSSES[name]) for name in ("none", "sum_of_squares", "no_data", "mean_of_squares", "linear", "running")),
    ("curved", Curved()), ("sum", Curved() + losses.mean_of_squares(DATA) + losses.linear(DATA))])
def test_second_derivatives_equal_complex_steps_of_the_cotangents(name, loss):
    ys_tan, y1_tan = RNG.standard_normal((2, 3)), RNG.standard_normal(2)
    found, expected = loss.hvp(YS, Y1, ys_tan, y1_tan), complex_step_tangents(loss, ys_tan, y1_tan)
    for one, other in zip(found, expected):
        assert one.shape == other.shape and np.max(np.abs(one - other)) <= 16 * EPS * max(np.max(np.abs(other)), 1.0)


def test_second_derivative_of_a_terminal_loss():
    y1_tan = RNG.standard_normal(2)
    ys_bar_tan, y1_bar_tan = losses.terminal(phi, phi_grad, phi_hvp).hvp(YS, Y1, 0.0 * YS, y1_tan)
    np.testing.assert_array_equal(ys_bar_tan, 0.0 * YS)
    np.testing.assert_allclose(y1_bar_tan, phi_grad(Y1 + 1j * H * y1_tan).imag / H, rtol=1e-14)


def test_a_loss_without_second_derivative_says_so():
    for loss, message in ((LOSSES["scaled"], "Scaled has no hvp.*hvp\\(ys, y1, ys_tan, y1_tan\\)"),
                          (LOSSES["terminal"], "phi_hvp"), (LOSSES["sum"], "phi_hvp")):
        with pytest.raises(MissingDerivativeError, match=message):
            loss.hvp(YS, Y1, YS, Y1)


# --- values ---------------------------------------------------------------------------------------

def test_values():
    ys = np.array([[1.0, 2.0, 3.0], [0.0, -1.0, 2.0]])
    data = np.array([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    assert losses.sum_of_squares(data).value(ys, Y1) == 0 + 1 + 4 + 0 + 1 + 4
    assert losses.sum_of_squares().value(ys, Y1) == 1 + 4 + 9 + 0 + 1 + 4
    assert losses.mean_of_squares(data).value(ys, Y1) == pytest.approx(10 / 6, rel=2 * EPS)
    assert losses.linear(data).value(ys, Y1) == 6
    assert losses.terminal(phi, phi_grad).value(ys, Y1) == phi(Y1)


def test_sum_adds_values_and_cotangents():
    first, second = LOSSES["linear"], LOSSES["terminal"]
    both = first + second
    assert both.value(YS, Y1) == first.value(YS, Y1) + second.value(YS, Y1)
    for found, one, two in zip(both.vjp(YS, Y1), first.vjp(YS, Y1), second.vjp(YS, Y1)):
        np.testing.assert_array_equal(found, one + two)


def test_running_cost_survives_sums():
    cost = LOSSES["running"]
    assert (LOSSES["linear"] + cost).running is cost and (cost + LOSSES["linear"]).running is cost
    assert (LOSSES["linear"] + LOSSES["terminal"]).running is None
    with pytest.raises(InvalidInputError, match="at most one running cost"):
        cost + cost


def test_a_loss_adds_to_a_loss():
    with pytest.raises(InvalidTypeError, match="a loss adds to a loss, found float"):
        LOSSES["linear"] + 1.0


def test_cotangents_are_fresh():
    """A caller may change them: the loss keeps its own weights."""
    LOSSES["linear"].vjp(YS, Y1)[0][:] = np.nan
    np.testing.assert_array_equal(LOSSES["linear"].vjp(YS, Y1)[0], DATA)


def test_mean_of_no_observations_is_zero():
    assert losses.mean_of_squares().value(np.empty((2, 0)), Y1) == 0.0


# --- wrong shapes and types, at the door ----------------------------------------------------------

class Custom(losses.Loss):
    """A user's loss with given cotangents."""

    def __init__(self, ys_bar, y1_bar):
        self.bars = ys_bar, y1_bar

    def value(self, ys, y1):
        return 1.0

    def vjp(self, ys, y1):
        return self.bars


@pytest.mark.parametrize("loss, message", [
    (losses.sum_of_squares(np.zeros((2, 4))), r"data must have the shape of ys, \(2, 5\), found \(2, 4\)"),
    (losses.linear(np.zeros((5, 2))), r"weights must have the shape of ys, \(2, 5\), found \(5, 2\)"),
    (losses.terminal(lambda y1: y1[0], lambda y1: 1.0), r"y1_bar must have shape \(2,\), found \(\)"),
    (losses.terminal(lambda y1: y1[0], lambda y1: np.ones(1)), r"y1_bar must have shape \(2,\), found \(1,\)"),
    (losses.terminal(lambda y1: y1[0], lambda y1: np.ones(3)), r"y1_bar must have shape \(2,\), found \(3,\)"),
    (Custom(np.zeros((5, 2)), np.zeros(2)), r"ys_bar must have shape \(2, 5\), found \(5, 2\)"),
    (losses.terminal(lambda y1: np.nan, np.zeros_like), "loss must be finite"),
    (losses.terminal(lambda y1: 0.0, lambda y1: y1 * np.inf), "y1_bar must be finite"),
    (Custom(np.full((2, 5), np.nan), np.zeros(2)), "ys_bar must be finite"),
], ids=lambda value: value if isinstance(value, str) else type(value).__name__)
@pytest.mark.parametrize("sensitivity", ["discrete", "forward"])
def test_wrong_losses_raise(loss, message, sensitivity):
    with pytest.raises(InvalidInputError, match=message):
        gradient(CATALOGUE["lotka_volterra"]().replace(loss=loss), sensitivity)


@pytest.mark.parametrize("sensitivity", RECIPES)
@pytest.mark.parametrize("make", [lambda x: x.astype(int), lambda x: x.astype(np.float32), np.asfortranarray,
                                  lambda x: np.repeat(x, 2, axis=-1)[..., ::2]])
def test_cotangents_of_any_kind_of_array(make, sensitivity):
    """Integers, float32, Fortran order, strides: compiled sweeps trust their arguments, so the door converts."""
    problem = CATALOGUE["lotka_volterra"]()
    ys_bar, y1_bar = np.arange(10.0).reshape(2, 5), np.array([2.0, -3.0])
    found, expected = (gradient(problem.replace(loss=Custom(f(ys_bar), f(y1_bar))), sensitivity)
                       for f in (make, lambda x: x))
    np.testing.assert_array_equal(found.y0, expected.y0)
    np.testing.assert_array_equal(found.theta, expected.theta)
