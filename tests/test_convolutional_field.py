"""The convolutional field: NumPy form, complex steps, transpose, second derivative, tape, mutants; and a solve through it."""
import os
import subprocess
import sys

import numpy as np
import pytest

import cases
from layer_battery import ROUNDING, distance
from refnode import Problem, gradient, hvp, jvp
from refnode.errors import InvalidInputError
from refnode.evidence.field_claims import field_rows
from refnode.fields.convolutional import conv_field, conv_layout, initial_conv_parameters
from refnode.losses import sum_of_squares

CASES = [   # channels, height, width, k, groups, activation, batch, time_input
    ((2, 2), 3, 3, 3, 1, "tanh", 2, False),
    ((1, 3, 1), 4, 2, 3, 1, "tanh", 1, True),
    ((2, 4, 2), 3, 4, 3, 2, "softplus", 3, True),
    ((2, 2, 4, 2), 3, 3, 1, 2, "sine", 2, False),
    ((2, 4, 2), 5, 5, 5, 2, "tanh", 12, True),
]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))


def point_of(case, seed=0):
    """The field, and a point: states of size 1, filters that keep it, γ and β about 1 and 0."""
    field, rng = conv_field(*case), np.random.default_rng(seed)
    point = cases.random_point(rng, field.n, field.p)
    point.y = rng.standard_normal(field.n)
    layout = conv_layout(case[0], case[3], case[7])
    point.theta = initial_conv_parameters(layout, rng) + 0.1 * rng.standard_normal(field.p)
    return field, point


def complex_jvp(field, point):
    step = 1e-30j
    return field.numpy_form(point.t + step * point.t_tan, point.y + step * point.y_tan,
                            point.theta + step * point.theta_tan).imag / 1e-30


def transpose_error(field, point, vjp=None):
    left = point.dy_bar @ cases_jvp(field, point)
    terms = cases.evaluate_vjp(field, point, vjp) * point.tangent
    return abs(left - terms.sum()) / np.abs(terms).sum()


def cases_jvp(field, point):
    """The jvp in a tape that f has filled."""
    tape, dy = field.new_tape(1)[0], np.full(field.n, np.nan)
    tape[field.tape_header.size:] = np.nan
    field.f(point.t, point.y, point.theta, tape, dy)
    field.jvp(point.t, point.y, point.theta, point.t_tan, point.y_tan, point.theta_tan, tape, dy)
    return dy


@every_case
def test_f_equals_the_numpy_form(case):
    field, point = point_of(case)
    assert distance(field(point.t, point.y, point.theta), field.numpy_form(point.t, point.y, point.theta)) <= ROUNDING


@every_case
def test_jvp_is_the_complex_step(case):
    field, point = point_of(case)
    assert distance(cases_jvp(field, point), complex_jvp(field, point)) <= ROUNDING


@every_case
def test_vjp_is_the_transpose_and_adds(case):
    field, point = point_of(case)
    assert transpose_error(field, point) <= ROUNDING
    assert cases.accumulation_error(field, point) <= 1.0
    assert (cases.evaluate_vjp(field, point)[0] != 0.0) == case[7]


@every_case
def test_hvp_is_the_derivative_of_the_vjp(case):
    """Along a line: Richardson's two central differences of the vjp, error h^4 of about 1e-11; and symmetric to rounding."""
    field, point = point_of(case)
    rng = np.random.default_rng(9)
    (v, u), dy_bar_tan = rng.standard_normal((2, point.tangent.size)), rng.standard_normal(field.n)

    def vjp_at(step):
        n = field.n
        moved = cases.Point(point.t + step * v[0], point.y + step * v[1:1 + n], point.theta + step * v[1 + n:], 0.0,
                            point.y_tan, point.theta_tan, point.dy_bar + step * dy_bar_tan)
        return cases.evaluate_vjp(field, moved)
    slope = lambda h: (vjp_at(h) - vjp_at(-h)) / (2.0 * h)
    h = 2.0**-11
    expected = (64.0 * slope(h / 4) - 20.0 * slope(h / 2) + slope(h)) / 45.0
    assert distance(cases.evaluate_hvp(field, point, v, dy_bar_tan), expected) <= 3e-9
    zero = 0.0 * dy_bar_tan
    left, right = u * cases.evaluate_hvp(field, point, v, zero), v * cases.evaluate_hvp(field, point, u, zero)
    assert abs(left.sum() - right.sum()) <= ROUNDING * np.abs(left).sum()
    added = cases.evaluate_hvp(field, point, v, dy_bar_tan, prefill=1.0) - 1.0
    assert distance(added, cases.evaluate_hvp(field, point, v, dy_bar_tan)) <= ROUNDING


@every_case
def test_derivatives_do_not_disturb_each_other(case):
    """hvp, vjp, jvp and hvp again in one tape: the same bits."""
    field, point = point_of(case)
    tape, n, found = field.new_hvp_tape(1)[0], field.n, []
    field.f(point.t, point.y, point.theta, tape, np.empty(n))
    for _ in range(2):
        bars, first = ([np.zeros(size) for size in (1, n, field.p)] for _ in range(2))
        field.hvp(point.t, point.y, point.theta, point.t_tan, point.y_tan, point.theta_tan, tape, point.dy_bar, point.y_tan, *bars)
        field.vjp(point.t, point.y, point.theta, tape, point.dy_bar, *first)
        np.testing.assert_array_equal(np.concatenate(first), cases.evaluate_vjp(field, point))
        field.jvp(point.t, point.y, point.theta, point.t_tan, point.y_tan, point.theta_tan, tape, np.empty(n))
        found.append(np.concatenate(bars))
    np.testing.assert_array_equal(*found)


def test_samples_do_not_meet():
    field, point = point_of(CASES[2])
    single, size = conv_field(*CASES[2][:6], 1, True), field.n // 3
    point.y[size] = np.nan
    dy = field(point.t, point.y, point.theta)
    for i in (0, 2):
        alone = single(point.t, point.y[i * size:(i + 1) * size], point.theta)
        assert distance(dy[i * size:(i + 1) * size], alone) <= ROUNDING
    assert np.isnan(dy[size:2 * size]).any()


# --- wrong on purpose -------------------------------------------------------------------------------

def wrong_vjps(case, field):
    layout = conv_layout(case[0], case[3], case[7])

    def without(name):
        def vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
            before = theta_bar.copy()
            field.vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar)
            layout.unpack(theta_bar)[name][:] = layout.unpack(before)[name]
        return vjp

    def without_time(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
        field.vjp(t, y, theta, tape, dy_bar, np.zeros(1), y_bar, theta_bar)

    def mirrored(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
        arrays = {name: array.copy() for name, array in layout.unpack(theta).items()}
        arrays["K1"] = arrays["K1"][:, ::-1, ::-1]
        field.vjp(t, y, layout.pack(arrays), tape, dy_bar, t_bar, y_bar, theta_bar)
    return [without(name) for name in layout.shapes] + [without_time, mirrored]


def test_a_wrong_vjp_is_caught():
    """One group: where every channel is a group of its own, the norm takes b away, and its derivative is 0."""
    case = ((2, 4, 2), 3, 4, 3, 1, "softplus", 3, True)
    field, point = point_of(case)
    for wrong in wrong_vjps(case, field):
        assert transpose_error(field, point, wrong) > 1e-6


@pytest.mark.parametrize("name", ["conv/tanh_time", "conv/softplus"])
def test_evidence_of_every_field(name):
    """The rows that `refnode validate` has of every field: complex steps, transposes, differences, second derivatives."""
    rows = field_rows(name, 0)
    assert len(rows) == 7 and {row.verdict for row in rows} == {"PASS"}, [row for row in rows if row.verdict != "PASS"]


# --- the solve --------------------------------------------------------------------------------------

def test_gradients_through_a_solve():
    """The discrete adjoint is the transpose of the discrete tangent to rounding; the continuous one converges to it."""
    field, point = point_of(CASES[2])
    problem = Problem(field, point.y, point.theta, (0.0, 1.0), loss=sum_of_squares())
    found = gradient(problem, n_steps=6)
    y_tan = jvp(problem, point.y_tan, point.theta_tan, n_steps=6)
    left = np.sum(2.0 * found.solution.y * y_tan)
    terms = np.concatenate([found.y0 * point.y_tan, found.theta * point.theta_tan])
    assert abs(left - terms.sum()) <= 1e-13 * np.abs(terms).sum()
    exact = gradient(problem, "discrete", rtol=1e-11, atol=1e-12).theta
    for rtol in (1e-5, 1e-8):
        error = distance(gradient(problem, "interpolating", rtol=rtol, atol=rtol).theta, exact)
        assert error <= 100.0 * rtol


def test_second_derivatives_through_a_solve():
    """The Hessian of the loss is symmetric: its tangents come from two different directions."""
    field, point = point_of(CASES[0])
    problem = Problem(field, point.y, point.theta, (0.0, 0.5), loss=sum_of_squares())
    u, v = np.random.default_rng(2).standard_normal((2, field.p))
    left, right = (a * hvp(problem, theta_tan=b, n_steps=4).theta for a, b in ((u, v), (v, u)))
    assert abs(left.sum() - right.sum()) <= 1e-12 * np.abs(left).sum()


# --- the constructor, and plain Python --------------------------------------------------------------

def test_the_field_says_what_it_is():
    field = conv_field((8, 8, 8), 4, 4, groups=2, batch=64, time_input=True)
    assert field.name == "conv_8_8_8_4x4_tanh_time" and field.compiled
    assert (field.n, field.p) == (64 * 128, 2 * (8 * 9 * 9 + 24))
    assert field.hvp_tape_size > field.tape_size == field.new_tape(1).shape[1]


@pytest.mark.parametrize("arguments, message", [
    (((2, 3), 4, 4), "channels must begin and end with the state's, found 2 and 3"),
    (((2,), 4, 4), r"channels must be two or more positive integers, found \(2,\)"),
    (((2, 2), 4, 4, 2), "k must be a positive odd integer, found 2"),
    (((2, 3, 2), 4, 4, 3, 2), r"groups must divide every number of channels \(2, 3, 2\), found 2"),
    (((2, 2), 0, 4), "height must be a positive integer, found 0"),
    (((2, 2), 4, 4, 3, 1, "relu"), "activation must be one of"),
    (((2, 2), 4, 4, 3, 1, "tanh", 0), "batch must be a positive integer, found 0")])
def test_refused(arguments, message):
    with pytest.raises(InvalidInputError, match=message):
        conv_field(*arguments)


def test_the_kernels_run_as_plain_python():
    root = os.path.dirname(os.path.dirname(__file__))           # from here, the package beside the tests is the one imported
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__, "-k",
               "(numpy_form or complex or transpose_and or hvp_is) and not 5-5"]
    result = subprocess.run(command, env=os.environ | {"NUMBA_DISABLE_JIT": "1"}, capture_output=True, text=True, cwd=root)
    assert result.returncode == 0, result.stdout[-3000:]
