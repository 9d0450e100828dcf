"""What is wrong with a user's jvp or vjp in form is said at the first gradient, not found later."""
import numpy as np
import pytest
from numba import config, njit

import refnode
from refnode.errors import InvalidInputError

needs_compiler = pytest.mark.skipif(bool(config.DISABLE_JIT), reason="plain Python checks its indices itself")


@njit
def decay(t, y, theta, dy):
    dy[0] = -theta[0] * y[0]


@njit
def right(t, y, theta, dy_bar, t_bar, y_bar, theta_bar):
    y_bar[0] -= theta[0] * dy_bar[0]
    theta_bar[0] -= y[0] * dy_bar[0]


@njit
def index_beyond(t, y, theta, dy_bar, t_bar, y_bar, theta_bar):
    y_bar[0] -= theta[0] * dy_bar[0]
    theta_bar[1] -= y[0] * dy_bar[0]


@njit
def overwriting(t, y, theta, dy_bar, t_bar, y_bar, theta_bar):
    y_bar[0] = -theta[0] * dy_bar[0]
    theta_bar[0] -= y[0] * dy_bar[0]


@njit
def two_parts(t, y, theta, dy_bar):
    return -theta[0] * dy_bar, -y * dy_bar


@njit
def jvp_beyond(t, y, theta, t_tan, y_tan, theta_tan, dy_tan):
    dy_tan[1] = -theta[0] * y_tan[0] - theta_tan[0] * y[0]


def gradient(plain=False, **derivatives):
    take = (lambda function: getattr(function, "py_func", function)) if plain else (lambda function: function)
    field = refnode.VectorField(take(decay), **{name: take(value) for name, value in derivatives.items()})
    problem = refnode.Problem(field, [1.0], [1.0], (0.0, 1.0), loss=refnode.losses.sum_of_squares())
    return refnode.gradient(problem, "discrete" if "vjp" in derivatives else "discrete_forward", n_steps=20)


@pytest.mark.parametrize("plain", [False, True])
def test_a_right_vjp_passes(plain):
    """L = y(1)², y = exp(-theta): dL/dtheta = -2 exp(-2); 20 steps of order 5 leave 1e-9."""
    assert gradient(plain, vjp=right).theta[0] == pytest.approx(-2.0 * np.exp(-2.0), rel=1e-8)


@needs_compiler
@pytest.mark.parametrize("derivatives", [{"vjp": index_beyond}, {"vjp": two_parts}, {"jvp": jvp_beyond}], ids=str)
def test_a_stray_index_or_another_number_of_parts_is_refused(derivatives):
    """Compiled code would write it into memory that belongs to somebody else, and return 0."""
    with pytest.raises(InvalidInputError, match=r"[jv]+p of field 'decay' does not fit y \(1,\) and theta \(1,\)"):
        gradient(**derivatives)


@pytest.mark.parametrize("plain", [False, True])
def test_a_vjp_that_overwrites_is_refused(plain):
    with pytest.raises(InvalidInputError, match="overwrites entry 1 of .t_bar, y_bar, theta_bar.; it must add"):
        gradient(plain, vjp=overwriting)


@pytest.mark.parametrize("factor, named", [(1.0 / 23.0, True), (0.0435218, False), (50.0, True), (50.05, False)])
def test_a_number_near_a_fraction_is_no_mean(factor, named):
    """Every small factor is near some 1/N: 0.0435218 is 1/22.98."""
    report = refnode.check_gradient(lambda x: x[0] ** 2, [1.5], [3.0 * factor])
    assert ("mean" in report.diagnosis[0]) == named
