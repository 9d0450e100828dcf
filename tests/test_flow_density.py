"""Fields that carry log-densities of a batch: against NumPy, complex steps, transposes, other fields and all sign vectors."""
import copy
import dataclasses
import itertools
import types

import numpy as np
import pytest

from refnode.errors import InvalidInputError
from refnode.evidence.field_claims import rows_of_field
from refnode.evidence.subjects import fields, flows
from refnode.fields.density import perceptron_density
from refnode.fields.flow_density import flow_density_field, random_probes
from refnode.fields.flow_tape import BLOCK
from refnode.fields.hyper_flow import hyper_flow_field, hyper_layout, initial_hyper_parameters
from refnode.gradcheck import finite_difference_jvp
from refnode.layers.activations import ACTIVATIONS
from refnode.layers.parameters import mlp_layout
from refnode.layers.pushed import pushed_activation, pushed_activation_kernel

STEP = 1e-30j
BATCH = 3
CASES = [   # widths, activation, time, probes: 0 for the exact trace, which has a form of its own with one hidden layer
    ((2, 2), "tanh", "none", 0), ((2, 2), "tanh", "concat", 2),
    ((2, 5, 2), "tanh", "concat", 0), ((2, 5, 2), "softplus", "none", 0), ((1, 4, 1), "softplus", "concat", 0),
    ((2, 5, 2), "softplus", "concat", 1), ((2, 5, 2), "tanh", "none", 3),
    ((3, 6, 4, 3), "tanh", "concat", 0), ((3, 6, 4, 3), "softplus", "none", 2),
    ((2, 4, 3, 5, 2), "softplus", "concat", 0), ((2, 4, 3, 5, 2), "tanh", "concat", 1),
    ((2, 5, 2), "tanh", "hyper", 0), ((2, 5, 2), "softplus", "hyper", 0), ((2, 4, 3, 2), "tanh", "hyper", 0),
    ((2, 4, 3, 2), "softplus", "hyper", 1)]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))


def field_of(case, batch=BATCH, seed=0):
    widths, activation, time, count = case
    probes = random_probes("gaussian", np.random.default_rng(seed), count, batch, widths[0]) if count else None
    if time == "hyper":
        return hyper_flow_field(widths, (4, 3), activation, batch, probes)
    return flow_density_field(widths, activation, batch, time == "concat", probes)


class Point:
    """A field, a random point x = (t, y, theta), tangents u and v of it, cotangents, and the tape after ``f``."""

    def __init__(self, case, seed=0):
        self.field = field = field_of(case)
        rng = np.random.default_rng([seed, field.n, field.p])
        self.x, self.u, self.v = rng.standard_normal((3, 1 + field.n + field.p))
        self.x[1 + field.n:] *= 0.7
        self.dy_bar, self.dy_bar_tan = rng.standard_normal((2, field.n))
        self.tape = field.new_hvp_tape(1)[0]
        self.tape[field.tape_header.size:] = np.nan
        self.dy = np.full(field.n, np.nan)
        field.f(*self.split(self.x), self.tape, self.dy)

    def split(self, x):
        n = self.field.n
        return x[0], x[1:1 + n].copy(), x[1 + n:].copy()

    def numpy_form(self, x):
        return self.field.numpy_form(*self.split(x))

    def jvp(self, tangent):
        dy_tan = np.full(self.field.n, np.nan)
        self.field.jvp(*self.split(self.x), *self.split(tangent), self.tape, dy_tan)
        return dy_tan

    def vjp(self, vjp=None, before=0.0, x=None, dy_bar=None):
        """What is added to the bars of (t, y, theta) that hold ``before``."""
        tape, n = self.tape, self.field.n
        if x is not None:
            tape = self.field.new_tape(1)[0]
            self.field.f(*self.split(x), tape, np.empty(n))
        bars = [np.full(size, before) for size in (1, n, self.field.p)]
        (vjp or self.field.vjp)(*self.split(self.x if x is None else x), tape,
                                self.dy_bar if dy_bar is None else dy_bar, *bars)
        return np.concatenate(bars) - before

    def hvp(self, tangent, dy_bar_tan, before=0.0):
        bars = [np.full(size, before) for size in (1, self.field.n, self.field.p)]
        self.field.hvp(*self.split(self.x), *self.split(tangent), self.tape, self.dy_bar, dy_bar_tan, *bars)
        return np.concatenate(bars) - before


def dot_product_error(point, vjp=None):
    """|<J u, dy_bar> - <u, Jᵀ dy_bar>| over the magnitudes of both sums."""
    left, right = point.jvp(point.u) * point.dy_bar, point.u * point.vjp(vjp)
    return abs(left.sum() - right.sum()) / max(np.abs(left).sum(), np.abs(right).sum())


# --- the battery ----------------------------------------------------------------------------------

@every_case
def test_f_equals_the_numpy_form(case):
    point = Point(case)
    expected = point.numpy_form(point.x)
    np.testing.assert_allclose(point.dy, expected, rtol=0.0, atol=1e-13 * np.abs(expected).max())


@every_case
def test_jvp_is_the_complex_step_derivative(case):
    point = Point(case)
    expected = point.numpy_form(point.x + STEP * point.u).imag / STEP.imag
    np.testing.assert_allclose(point.jvp(point.u), expected, rtol=0.0, atol=1e-13 * np.abs(expected).max())


@every_case
def test_vjp_is_the_transpose_adds_and_leaves_the_tape_usable(case):
    point = Point(case)
    assert dot_product_error(point) <= 1e-13
    first = point.vjp()
    np.testing.assert_array_equal(point.vjp(), first)
    np.testing.assert_allclose(point.vjp(before=1.0), first, rtol=0.0, atol=1e-13 * (1.0 + np.abs(first).max()))


@every_case
def test_hvp_is_the_derivative_of_vjp_symmetric_and_adds(case):
    """Finite differences to their own error estimate, which must be small; symmetry to rounding."""
    point = Point(case)
    found = point.hvp(point.u, point.dy_bar_tan)
    along = lambda s: point.vjp(x=point.x + s[0] * point.u, dy_bar=point.dy_bar + s[0] * point.dy_bar_tan)
    expected = finite_difference_jvp(along, np.zeros(1), np.ones(1), scale=0.05)
    scale = np.abs(found).max()
    assert expected.error.max() <= 1e-7 * scale
    assert np.all(np.abs(found - expected.value) <= 4.0 * expected.error + 1e-11 * scale)
    zero = np.zeros(point.field.n)
    left, right = point.v * point.hvp(point.u, zero), point.u * point.hvp(point.v, zero)
    assert abs(left.sum() - right.sum()) <= 1e-13 * max(np.abs(left).sum(), np.abs(right).sum())
    np.testing.assert_allclose(point.hvp(point.u, point.dy_bar_tan, 1.0), found, rtol=0.0, atol=1e-13 * (1.0 + scale))


@pytest.mark.parametrize("activation", ["tanh", "softplus"])
def test_pushed_activation_kernel_equals_the_numpy_form(activation):
    z, U = np.split(np.random.default_rng(0).standard_normal((3, 4, 5)), [1])
    x, slope = np.concatenate([z, U]).ravel(), np.empty(z.size)
    pushed_activation_kernel(ACTIVATIONS[activation].code, z.size, x, slope)
    a, P = pushed_activation(activation, z[0], U)
    np.testing.assert_allclose(x, np.concatenate([a[None], P]).ravel(), rtol=1e-14, atol=1e-15)


# --- against other fields -------------------------------------------------------------------------

def test_one_sample_is_the_field_by_components():
    ours, theirs = flow_density_field((2, 7, 2)), perceptron_density(2, 7)
    rng = np.random.default_rng(1)
    y, theta = rng.standard_normal(3), rng.standard_normal(ours.p)
    np.testing.assert_allclose(ours(0.0, y, theta), theirs(0.0, y, theta), rtol=1e-14, atol=1e-14)


def test_the_samples_of_a_batch_do_not_meet():
    for case in (CASES[2], CASES[7]):
        joint, alone, (widths, *_) = field_of(case), field_of(case, batch=1), case
        rng, d = np.random.default_rng(2), case[0][0]
        z, theta = rng.standard_normal((BATCH, d)), 0.7 * rng.standard_normal(joint.p)
        dy = joint(0.3, np.append(z.ravel(), np.zeros(BATCH)), theta)
        for i in range(BATCH):
            single = alone(0.3, np.append(z[i], 0.0), theta)
            np.testing.assert_allclose(np.append(dy[i * d:(i + 1) * d], dy[BATCH * d + i]), single, rtol=1e-13, atol=1e-14)


def test_with_one_hidden_layer_both_ways_to_the_trace_agree():
    """The weighted sum of slopes, and rows pushed along unit vectors, whose mean is tr J / d."""
    rng, d = np.random.default_rng(3), 3
    exact = flow_density_field((d, 8, d), batch=BATCH, time_input=True)
    pushed = flow_density_field((d, 8, d), batch=BATCH, time_input=True,
                                probes=np.tile(np.eye(d)[:, None], (1, BATCH, 1)))
    y, theta = rng.standard_normal(exact.n), rng.standard_normal(exact.p)
    np.testing.assert_allclose(exact(0.2, y, theta)[-BATCH:], d * pushed(0.2, y, theta)[-BATCH:], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("widths, time", [((2, 6, 2), "none"), ((4, 5, 3, 4), "concat"), ((3, 4, 3), "hyper")])
def test_the_mean_over_all_sign_vectors_is_the_exact_trace(widths, time):
    """To rounding: tr J = 2^-d Σ_v vᵀ J v over v in {-1, 1}^d."""
    d = widths[0]
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=d)))
    probes = np.tile(signs[:, None], (1, BATCH, 1))
    if time == "hyper":
        exact, all_signs = hyper_flow_field(widths, (5,), batch=BATCH), hyper_flow_field(widths, (5,), batch=BATCH, probes=probes)
    else:
        exact, all_signs = (flow_density_field(widths, "tanh", BATCH, time == "concat", p) for p in (None, probes))
    rng = np.random.default_rng(4)
    y, theta = rng.standard_normal(exact.n), 0.7 * rng.standard_normal(exact.p)
    rates = exact(0.4, y, theta)[-BATCH:]
    np.testing.assert_allclose(all_signs(0.4, y, theta)[-BATCH:], rates, rtol=0.0, atol=1e-13 * (1.0 + np.abs(rates).max()))


@pytest.mark.parametrize("noise", ["rademacher", "gaussian"])
def test_the_noise_has_mean_zero_and_covariance_one(noise):
    """Within four standard errors of 20000 vectors; without that Hutchinson's estimate is biased."""
    v = random_probes(noise, np.random.default_rng(5), 20000, 1, 2)[:, 0]
    assert np.all(np.abs(v.mean(axis=0)) <= 4.0 / np.sqrt(20000))
    assert np.all(np.abs(v.T @ v / 20000 - np.eye(2)) <= 4.0 * np.sqrt(2.0 / 20000))


def test_more_samples_than_one_block():
    """One hidden layer takes its samples in blocks: every one as alone, and the transpose over all of them."""
    batch = 2 * BLOCK + 3
    joint, rng = flow_density_field((2, 5, 2), batch=batch, time_input=True), np.random.default_rng(8)
    y, theta = rng.standard_normal(joint.n), rng.standard_normal(joint.p)
    expected = joint.numpy_form(0.3, y, theta)
    np.testing.assert_allclose(joint(0.3, y, theta), expected, rtol=0.0, atol=1e-13 * np.abs(expected).max())
    tape, (y_tan, dy_bar), theta_tan = joint.new_tape(1)[0], rng.standard_normal((2, joint.n)), rng.standard_normal(joint.p)
    dy_tan, bars = np.empty(joint.n), [np.zeros(size) for size in (1, joint.n, joint.p)]
    joint.f(0.3, y, theta, tape, dy_tan)
    joint.jvp(0.3, y, theta, 0.7, y_tan, theta_tan, tape, dy_tan)
    joint.vjp(0.3, y, theta, tape, dy_bar, *bars)
    terms = dy_tan * dy_bar
    assert abs(terms.sum() - (0.7 * bars[0][0] + y_tan @ bars[1] + theta_tan @ bars[2])) <= 1e-13 * np.abs(terms).sum()


def test_hyper_network_at_time_zero_begins_as_a_plain_flow_and_moves():
    widths, hidden, layout = (2, 6, 2), (4,), hyper_layout((2, 6, 2), (4,))
    theta, field = initial_hyper_parameters(widths, hidden, 0), hyper_flow_field(widths, hidden)
    y = np.array([0.3, -0.8, 0.0])
    plain = flow_density_field(widths)(0.0, y, layout.unpack(theta)["b2"])
    np.testing.assert_array_equal(field(0.0, y, theta), plain)
    assert np.abs(field(1.0, y, theta) - plain).max() > 1e-3
    assert field.p == layout.size and layout.shapes["W2"] == (mlp_layout(widths).size, 4)


# --- wrong on purpose -----------------------------------------------------------------------------

def wrong_without_the_second_derivative(field, point):
    """The trace's cotangent ignored where it reaches the velocity: dy_bar of the densities set to 0."""
    return lambda t, y, theta, tape, dy_bar, *bars: field.vjp(
        t, y, theta, tape, np.where(np.arange(field.n) < field.n - BATCH, dy_bar, 0.0), *bars)


def wrong_sign_of_the_trace(field, point):
    return lambda t, y, theta, tape, dy_bar, *bars: field.vjp(
        t, y, theta, tape, np.where(np.arange(field.n) < field.n - BATCH, dy_bar, -dy_bar), *bars)


def wrong_without_time(field, point):
    return lambda t, y, theta, tape, dy_bar, t_bar, *bars: field.vjp(t, y, theta, tape, dy_bar, np.zeros(1), *bars)


def wrong_ratio(field, point):
    """σ''/σ' at another place: the first activation, which lies behind the header of the tape, moved by 1e-9 after f."""
    def vjp(t, y, theta, tape, dy_bar, *bars):
        tape = tape.copy()
        tape[field.tape_header.size] += 1e-9
        field.vjp(t, y, theta, tape, dy_bar, *bars)
    return vjp


@pytest.mark.parametrize("wrong", [wrong_without_the_second_derivative, wrong_sign_of_the_trace, wrong_without_time,
                                   wrong_ratio])
@pytest.mark.parametrize("case", [CASES[2], CASES[7]], ids=["shallow", "pushed"])
def test_a_wrong_vjp_is_caught(case, wrong):
    point = Point(case)
    assert dot_product_error(point) <= 1e-13
    assert dot_product_error(point, wrong(point.field, point)) > 1e-12


# --- among the fields of `refnode validate` ----------------------------------------------------------

def wrong_forms(field):
    """name -> the field with one of its functions off by 1e-6 in one entry, or blind to a second derivative."""
    samples = 2 * field.n // 3               # z of a batch in the plane; behind them stand the log-densities

    def jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
        field.jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan)
        dy_tan[-1] *= 1.0 + 1e-6

    def vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
        velocity_alone = dy_bar.copy()
        velocity_alone[samples:] = 0.0
        field.vjp(t, y, theta, tape, velocity_alone, t_bar, y_bar, theta_bar)

    def hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan, theta_bar_tan):
        field.hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan, theta_bar_tan)
        theta_bar_tan[0] += 1e-6 * y_tan[0]
    for name, wrong in (("jvp", jvp), ("vjp", vjp), ("hvp", hvp)):
        changed = copy.copy(field)
        setattr(changed, name, wrong)
        yield name, changed


def reached(function):
    """What a plain function calls, by the names in its code, and what these call."""
    parts = [function.__globals__.get(name) for name in function.__code__.co_names]
    return parts + [deeper for part in parts if isinstance(part, types.FunctionType) for deeper in reached(part)]


@pytest.mark.parametrize("name", flows())
def test_refnode_validate_judges_it_without_compiling(name):
    """Every row passes; one about a function that is wrong fails."""
    subject = fields()[name]
    for function in (subject.field.user_f, subject.field.user_jvp, subject.field.user_vjp, subject.field.user_hvp):
        assert not [part for part in [function, *reached(function)] if hasattr(part, "py_func")]
    rows = rows_of_field(name, subject, seed=0)
    assert len(rows) == 7 and [row.verdict for row in rows] == ["PASS"] * 7
    for function, wrong in wrong_forms(subject.field):
        rows = rows_of_field(name, dataclasses.replace(subject, field=wrong), seed=0)
        assert any(function in row.evidence for row in rows if row.verdict == "FAIL"), function


# --- bad input ------------------------------------------------------------------------------------

@pytest.mark.parametrize("arguments, message", [
    (((2, 8, 3),), "widths must begin and end with the samples' dimension, found 2 and 3"),
    (((2, 8, 2), "sine"), "activation of a flow must be one of .*, found 'sine'"),
    (((2, 8, 2), "tanh", 0), "batch must be a positive integer, found 0"),
    (((2, 8, 2), "tanh", 3, False, np.ones((1, 2, 2))), r"probes must have shape \(K, 3, 2\) with K >= 1, found \(1, 2, 2\)"),
    (((2, 8, 2), "tanh", 1, False, [[[1.0, np.nan]]]), r"probes must be finite, found nan at index \(0, 0, 1\)"),
])
def test_the_constructor_checks_its_arguments(arguments, message):
    with pytest.raises(InvalidInputError, match=message):
        flow_density_field(*arguments)
    with pytest.raises(InvalidInputError, match="hidden must be one or more"):
        hyper_flow_field((2, 4, 2), ())
    with pytest.raises(InvalidInputError, match="noise must be one of"):
        random_probes("cauchy", np.random.default_rng(0), 1, 1, 2)
