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


def test_a_function_that_belongs_to_no_module_is_a_users_function():
    names = {}
    exec("def f(t, y, theta, dy):\n    dy[0] = y[5]", names)
    assert names["f"].__module__ is None
    with pytest.raises(InvalidInputError, match="index 5"):
        refnode.solve(refnode.Problem(names["f"], [1.0]))


@needs_compiler
@pytest.mark.parametrize("derivatives", [{"vjp": index_beyond}, {"vjp": two_parts}, {"jvp": jvp_beyond}], ids=["index", "parts", "jvp"])
def test_a_stray_index_or_another_number_of_parts_is_refused(derivatives):
    """Compiled code would write it into memory that belongs to somebody else, and return 0."""
    with pytest.raises(InvalidInputError, match=r"[jv]+p of field 'decay' does not fit y \(1,\) and theta \(1,\)"):
        gradient(**derivatives)


@pytest.mark.parametrize("plain", [False, True])
def test_a_vjp_that_overwrites_is_refused(plain):
    with pytest.raises(InvalidInputError, match="overwrites entry 1 of .t_bar, y_bar, theta_bar.; it must add"):
        gradient(plain, vjp=overwriting)


# --- plain Python, in every form ------------------------------------------------------------------

def f(t, y, theta):
    return -theta[0] * y


def returned(parts):
    return lambda t, y, theta, dy_bar: parts(y, theta, dy_bar)


def stretched(t, y, theta, dy_bar, t_bar, y_bar, theta_bar):
    y_bar += np.zeros(3)


def beyond(t, y, theta, dy_bar, t_bar, y_bar, theta_bar):
    theta_bar[1] += 1.0


def written_and_returned(t, y, theta, dy_bar, t_bar, y_bar, theta_bar):
    return 0.0, -theta[0] * dy_bar, np.array([-y @ dy_bar])


FORM = r"vjp of field 'f' does not fit y \(2,\) and theta \(1,\), or its form \(see VectorField\): "


@pytest.mark.parametrize("vjp, said", [
    (returned(lambda y, theta, w: None), r"it returned None \(forgot return\?\), expected three: \(t_bar, y_bar, theta_bar\)"),
    (returned(lambda y, theta, w: (0.0, -theta * w)), "it returned 2 parts, expected three"),
    (returned(lambda y, theta, w: -theta * w), "it returned ndarray, expected three"),
    (returned(lambda y, theta, w: (0.0, None, [0.0])), r"it returned None \(forgot return\?\) for y_bar, expected shape \(2,\)"),
    (returned(lambda y, theta, w: (0.0, -theta * w, -y * w)), r"it returned shape \(2,\) for theta_bar, expected shape \(1,\)"),
    (returned(lambda y, theta, w: (0.0, 1.0, [0.0])), r"it returned shape \(\) for y_bar, expected shape \(2,\)"),
    (returned(lambda y, theta, w: (y, -theta * w, [0.0])), r"it returned shape \(2,\) for t_bar, expected shape \(1,\)"),
    (returned(lambda y, theta, w: (0.0, "text", [0.0])), r"for y_bar, expected shape \(2,\)"),
    (stretched, "broadcast"),
    (beyond, "index 1 is out of bounds for axis 0 with size 1"),
    (written_and_returned, "the form with 7 arguments writes to its last, and returns nothing; it returned tuple"),
])
def test_a_plain_vjp_of_wrong_form_is_named(vjp, said):
    problem = refnode.Problem(refnode.VectorField(f, vjp=vjp), [1.0, 2.0], [0.5], loss=refnode.losses.sum_of_squares())
    for recipe in ("discrete", "interpolating"):
        with pytest.raises(InvalidInputError, match=FORM + ".*" + said):
            refnode.gradient(problem, recipe)


@pytest.mark.parametrize("jvp, said", [
    (lambda t, y, theta, t_tan, y_tan, theta_tan: None, r"it returned None \(forgot return\?\) for dy_tan"),
    (lambda t, y, theta, t_tan, y_tan, theta_tan: y_tan[:1], r"it returned shape \(1,\) for dy_tan, expected shape \(2,\)"),
    (lambda t, y, theta, t_tan, y_tan, theta_tan, dy_tan: -y_tan, "writes to its last, and returns nothing"),
])
def test_a_plain_jvp_of_wrong_form_is_named(jvp, said):
    problem = refnode.Problem(refnode.VectorField(f, jvp=jvp), [1.0, 2.0], [0.5], loss=refnode.losses.sum_of_squares())
    for recipe in ("discrete_forward", "forward"):
        with pytest.raises(InvalidInputError, match=FORM.replace("vjp", "jvp") + ".*" + said):
            refnode.gradient(problem, recipe)


def test_numbers_for_what_is_zero_or_a_single_time():
    """Scalars that mean one thing only are taken: a zero for any part, any number for the time."""
    problem = refnode.Problem(refnode.VectorField(lambda t, y, theta: -0.5 * y, vjp=lambda t, y, theta, w: (0, -0.5 * w, 0)),
                              [1.0, 2.0], [0.5], loss=refnode.losses.sum_of_squares())
    assert refnode.gradient(problem, n_steps=20).y0 == pytest.approx(2 * np.array([1.0, 2.0]) * np.exp(-1.0), rel=1e-8)


# --- the second derivative ------------------------------------------------------------------------

def f_jvp(t, y, theta, t_tan, y_tan, theta_tan):
    return -theta_tan[0] * y - theta[0] * y_tan


def f_vjp(t, y, theta, w):
    return 0.0, -theta[0] * w, np.array([-y @ w])


def f_hvp(t, y, theta, t_tan, y_tan, theta_tan, w, w_tan):
    return 0.0, -theta_tan[0] * w - theta[0] * w_tan, np.array([-y_tan @ w - y @ w_tan])


@njit
def written_hvp(t, y, theta, t_tan, y_tan, theta_tan, w, w_tan, t_bar_tan, y_bar_tan, theta_bar_tan):
    for i in range(y.shape[0]):
        y_bar_tan[i] -= theta_tan[0] * w[i] + theta[0] * w_tan[i]
        theta_bar_tan[0] -= y_tan[i] * w[i] + y[i] * w_tan[i]


@njit
def overwriting_hvp(t, y, theta, t_tan, y_tan, theta_tan, w, w_tan, t_bar_tan, y_bar_tan, theta_bar_tan):
    for i in range(y.shape[0]):
        y_bar_tan[i] = -theta_tan[0] * w[i] - theta[0] * w_tan[i]
        theta_bar_tan[0] -= y_tan[i] * w[i] + y[i] * w_tan[i]


def product(hvp, theta=0.5, **options):
    field = refnode.VectorField(f, f_jvp, f_vjp, hvp)
    problem = refnode.Problem(field, [1.0, 2.0], [theta], loss=refnode.losses.sum_of_squares())
    return refnode.hvp(problem, theta_tan=[1.0], n_steps=20, **options)


@pytest.mark.parametrize("hvp", [f_hvp, written_hvp.py_func, written_hvp])
def test_a_right_hvp_passes(hvp):
    """L = 5 exp(-2 theta): d²L/dtheta² = 20 exp(-1); 20 steps of order 5 leave 1e-8."""
    assert product(hvp).theta[0] == pytest.approx(20.0 * np.exp(-1.0), rel=1e-7)


@pytest.mark.parametrize("hvp, said", [
    (lambda t, y, theta, t_tan, y_tan, theta_tan, w, w_tan: None, "it returned None"),
    (lambda t, y, theta, t_tan, y_tan, theta_tan, w, w_tan: (0.0, w, w), r"it returned shape \(2,\) for theta_bar_tan"),
    (overwriting_hvp.py_func, r"overwrites entry 1 of \(t_bar_tan, y_bar_tan, theta_bar_tan\)"),
    (overwriting_hvp, r"overwrites entry 1 of \(t_bar_tan, y_bar_tan, theta_bar_tan\)"),
])
def test_an_hvp_of_wrong_form_is_named(hvp, said):
    for sensitivity in ("forward_over_adjoint", "adjoint_over_adjoint"):
        with pytest.raises(InvalidInputError, match="hvp of field 'f' .*" + said):
            product(hvp, sensitivity=sensitivity)


@pytest.mark.parametrize("factor, named", [(1.0 / 23.0, True), (0.0435218, False), (50.0, True), (50.05, False)])
def test_a_number_near_a_fraction_is_no_mean(factor, named):
    """Every small factor is near some 1/N: 0.0435218 is 1/22.98."""
    report = refnode.check_gradient(lambda x: x[0] ** 2, [1.5], [3.0 * factor])
    assert ("mean" in report.diagnosis[0]) == named
