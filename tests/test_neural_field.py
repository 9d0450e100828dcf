"""The MLP field: f against NumPy, jvp against the complex step, vjp against jvp, and the use of the tape."""
import os
import subprocess
import sys

import numpy as np
import pytest

from refnode.errors import InvalidInputError
from refnode.fields.neural import mlp_field
from refnode.layers.activations import ACTIVATIONS, tanh
from refnode.layers.dense import dense_jvp
from refnode.layers.parameters import initial_parameters, mlp_layout

EPS = np.finfo(float).eps
CASES = [   # widths, activation, batch, time_input: depths 1 to 4, widths of 1
    ((2, 2), "tanh", 3, False),
    ((2, 2), "tanh", 1, True),
    ((1, 1, 1), "softplus", 1, True),
    ((2, 5, 2), "tanh", 1, False),
    ((2, 5, 2), "sine", 4, True),
    ((3, 1, 7, 3), "softplus", 5, False),
    ((2, 16, 16, 2), "tanh", 33, True),
    ((2, 4, 4, 4, 2), "sine", 3, False),
    ((1, 6, 1, 6, 1), "softplus", 2, True),
    ((3, 33, 70, 3), "tanh", 150, False),                       # two blocks and a piece, by tiles of every width
    ((2, 9, 2), "softplus", 77, True),
]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))


class Point:
    """A field, a random point, tangents and a cotangent at it, and the tape after ``f`` there."""

    def __init__(self, case, seed=0):
        self.case = case
        self.field = field = mlp_field(*case)
        rng = np.random.default_rng(seed)
        self.t, self.t_tan = rng.standard_normal(2)
        self.y, self.y_tan, self.dy_bar = rng.standard_normal((3, field.n))
        self.theta, self.theta_tan = rng.standard_normal((2, field.p))
        self.tape, self.dy = field.new_tape(1)[0], np.full(field.n, np.nan)
        field.f(self.t, self.y, self.theta, self.tape, self.dy)

    def jvp(self):
        dy_tan = np.full(self.field.n, np.nan)
        self.field.jvp(self.t, self.y, self.theta, self.t_tan, self.y_tan, self.theta_tan, self.tape, dy_tan)
        return dy_tan

    def vjp(self, vjp=None, before=0.0):
        """t_bar, y_bar, theta_bar: what is added to bars that hold ``before``."""
        bars = [np.full(size, before) for size in (1, self.field.n, self.field.p)]
        (vjp or self.field.vjp)(self.t, self.y, self.theta, self.tape, self.dy_bar, *bars)
        return [bar - before for bar in bars]

    def jvp_of_magnitudes(self):
        """The jvp with every number replaced by its magnitude: a bound on the sums of rounding errors."""
        widths, activation, batch, time_input = self.case
        theta, theta_tan = (mlp_layout(widths, time_input).unpack(v) for v in (self.theta, self.theta_tan))
        x, x_tan = self.y.reshape(batch, -1), self.y_tan.reshape(batch, -1)
        if time_input:
            x, x_tan = (np.column_stack([v, np.full(batch, s)])
                        for v, s in ((x, self.t), (x_tan, self.t_tan)))
        for number in range(1, len(widths)):
            W, b, W_tan, b_tan = (v[k + str(number)] for v in (theta, theta_tan) for k in "Wb")
            z = x @ W.T + b
            x_tan = dense_jvp(*map(np.abs, (x, W, x_tan, W_tan, b_tan)))
            x = ACTIVATIONS[activation].form(z)     # and |σ'| <= 1 for all three activations
        return x_tan.ravel()


def check_vjp(point, vjp=None):
    """<jvp(tangents), dy_bar> = <tangents, vjp(dy_bar)>, to eps times the lengths of the sums in between."""
    bars = point.vjp(vjp)
    forward = point.jvp() @ point.dy_bar
    tangents = ([point.t_tan], point.y_tan, point.theta_tan)
    backward = sum(np.dot(tan, bar) for tan, bar in zip(tangents, bars))
    widths, _, batch, _ = point.case
    terms = 2 * sum(widths) + len(widths) * (batch + 4)
    magnitude = point.jvp_of_magnitudes() @ np.abs(point.dy_bar)
    assert abs(forward - backward) <= EPS * terms * magnitude


@every_case
def test_f_equals_the_numpy_form(case):
    point = Point(case)
    np.testing.assert_allclose(
        point.dy, point.field.numpy_form(point.t, point.y, point.theta), rtol=1e-13, atol=1e-13)


@every_case
def test_jvp_is_the_complex_step_derivative(case):
    point = Point(case)
    step = 1e-30j
    complex_step = point.field.numpy_form(
        point.t + step * point.t_tan, point.y + step * point.y_tan,
        point.theta + step * point.theta_tan).imag / 1e-30
    scale = np.abs(complex_step).max()
    np.testing.assert_allclose(point.jvp(), complex_step, rtol=1e-13, atol=1e-13 * scale)


@every_case
def test_vjp_is_the_transpose_of_jvp(case):
    check_vjp(Point(case))


@every_case
def test_vjp_adds_to_its_bars_and_leaves_the_tape_usable(case):
    """Again after a vjp and a jvp: the same bits; and the bars' former content is kept."""
    point = Point(case)
    first = point.vjp()
    point.jvp()
    for bar, again, added in zip(first, point.vjp(), point.vjp(before=1.0)):
        np.testing.assert_array_equal(again, bar)
        np.testing.assert_allclose(added, bar, rtol=1e-13, atol=1e-13 * np.abs(bar).max(initial=1.0))


def test_a_used_tape_serves_the_next_point():
    """Nothing of the former point may leak through the tape; and unused entries may hold NaN."""
    point, other = Point(CASES[6]), Point(CASES[6], seed=1)
    point.tape[point.field.tape_header.size:] = np.nan
    for p in (point, other):
        p.field.f(p.t, p.y, p.theta, point.tape, p.dy)
    other.tape = point.tape
    for bar, expected in zip(other.vjp(), Point(CASES[6], seed=1).vjp()):
        np.testing.assert_array_equal(bar, expected)


def test_time_derivative_by_central_difference():
    """The step of 1e-5 leaves an error of about 1e-10 times the third derivative."""
    point = Point(((2, 5, 2), "tanh", 3, True))
    point.y_tan[:], point.theta_tan[:], point.t_tan = 0.0, 0.0, 1.0
    ahead, behind = (point.field.numpy_form(point.t + s, point.y, point.theta) for s in (1e-5, -1e-5))
    difference = (ahead - behind) / 2e-5
    np.testing.assert_allclose(point.jvp(), difference, rtol=0.0, atol=1e-8)
    np.testing.assert_allclose(point.vjp()[0], [difference @ point.dy_bar], rtol=0.0, atol=1e-7)


def test_without_time_input_the_time_has_no_effect():
    point = Point(CASES[3])
    np.testing.assert_array_equal(point.vjp()[0], [0.0])
    point.y_tan[:], point.theta_tan[:] = 0.0, 0.0
    np.testing.assert_array_equal(point.jvp(), 0.0)


def test_the_samples_of_a_batch_do_not_meet():
    """Each sample goes its own way, and a NaN stays in its sample."""
    widths, batch = (2, 16, 16, 2), 5
    point = Point((widths, "tanh", batch, False))
    single = mlp_field(widths)
    for i in range(batch):
        alone = single(point.t, point.y[2 * i:2 * i + 2], point.theta)
        np.testing.assert_allclose(point.dy[2 * i:2 * i + 2], alone, rtol=1e-13, atol=1e-13)
    point.y[4] = np.nan
    nan = np.isnan(point.field(point.t, point.y, point.theta))
    np.testing.assert_array_equal(nan, np.arange(10) // 2 == 2)


def test_the_bits_of_a_sample_do_not_depend_on_its_block():
    """Seventy samples, a block and a piece, stand in other places of the blocks among others."""
    widths = (3, 20, 35, 3)
    alone, among = mlp_field(widths, batch=70), mlp_field(widths, batch=150)
    y, theta = np.random.default_rng(0).standard_normal((150, 3)), initial_parameters(widths, seed=0)
    everyone = among(0.0, y.ravel(), theta).reshape(150, 3)
    for first in (0, 41, 80):
        np.testing.assert_array_equal(alone(0.0, y[first:first + 70].ravel(), theta), everyone[first:first + 70].ravel())


# --- derivatives that are wrong on purpose --------------------------------------------------------

WRONG = ((4, 4, 4), "tanh", 3, True)
LAYOUT = mlp_layout((4, 4, 4), time_input=True)


def wrong_vjp_without_bias(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    mlp_field(*WRONG).vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar)
    LAYOUT.unpack(theta_bar)["b1"][:] = 0.0


def wrong_vjp_with_W_for_its_transpose(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    arrays = LAYOUT.unpack(theta.copy())
    theta = LAYOUT.pack(arrays | {"W2": arrays["W2"].T})
    mlp_field(*WRONG).vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar)


def wrong_vjp_without_time(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    mlp_field(*WRONG).vjp(t, y, theta, tape, dy_bar, np.zeros(1), y_bar, theta_bar)


def wrong_vjp_with_slope_one_minus_a(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    """(1 - |a|) for (1 - a²): the activations in the tape replaced by their roots."""
    tape = tape.copy()
    x = np.column_stack([y.reshape(3, 4), np.full(3, t)])
    a = tanh(x @ LAYOUT.unpack(theta)["W1"].T + LAYOUT.unpack(theta)["b1"]).ravel()
    (where,) = np.flatnonzero(np.isclose(tape, a[0], rtol=1e-14, atol=0.0))[:1]
    tape[where:where + a.size] = np.sqrt(np.abs(a))
    mlp_field(*WRONG).vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar)


@pytest.mark.parametrize("wrong", [wrong_vjp_without_bias, wrong_vjp_with_W_for_its_transpose,
                                   wrong_vjp_without_time, wrong_vjp_with_slope_one_minus_a])
def test_a_wrong_vjp_is_caught(wrong):
    point = Point(WRONG)
    check_vjp(point)
    with pytest.raises(AssertionError):
        check_vjp(point, wrong)


# --- the constructor, and plain Python ------------------------------------------------------------

def test_the_field_says_what_it_is():
    field = mlp_field((2, 64, 64, 2), batch=512)
    assert field.name == "mlp_2_64_64_2_tanh"
    assert (field.n, field.p) == (1024, 2 * 64 + 64 + 64 * 64 + 64 + 64 * 2 + 2)
    packed = 2 * 65 * 16 + 2 * 65 * 64                          # 64 by 2 and 2 by 64, or transposed; 64 by 64; 64 samples
    assert field.compiled and field.tape_size == 32 + packed + 512 * (2 + 64 + 64) + 2 * 64 * 64
    assert mlp_field((2, 8, 2), "sine", time_input=True).name == "mlp_2_8_2_sine_time"


@pytest.mark.parametrize("arguments, message", [
    (((2, 8, 3),), "widths must begin and end with the state's dimension, found 2 and 3"),
    (((2, 8, 2), "relu"), "activation must be one of .*, found 'relu'"),
    (((2, 8, 2), "tanh", 0), "batch must be a positive integer, found 0"),
])
def test_the_constructor_checks_its_arguments(arguments, message):
    with pytest.raises(InvalidInputError, match=message):
        mlp_field(*arguments)


def test_the_kernels_run_as_plain_python():
    """Some of the tests above, without the compiler."""
    selected = ("test_f_equals_the_numpy_form or test_vjp_is_the_transpose_of_jvp "
                "or test_jvp_is_the_complex_step_derivative or test_special_values")
    here = os.path.dirname(__file__)
    files = [os.path.join(here, name) for name in ("test_neural_field.py", "test_activations.py")]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files, "-k", selected],
        env=os.environ | {"NUMBA_DISABLE_JIT": "1"}, capture_output=True, text=True, cwd=here)
    assert result.returncode == 0, result.stdout[-3000:]
