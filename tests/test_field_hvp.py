"""The second derivative of every shipped field: against complex steps of its vjp, symmetric, added, and against mutants.

``hvp`` is the tangent of ``vjp``. With H the matrix of second derivatives of dy_bar . f it is H v + J^T dy_bar_tan.
"""
import dataclasses

import numpy as np
import pytest

import cases
from refnode.errors import InvalidInputError, MissingDerivativeError
from refnode.evidence.subjects import fields
from refnode.fields.augmented import with_running_cost
from refnode.fields.classical import CLASSICAL
from refnode.fields.field import VectorField
from refnode.fields.neural import mlp_field
from refnode.fields.reference_fields import SWITCHED
from refnode.layers.activations import ACTIVATIONS
from refnode.layers.dense import dense, dense_hvp, dense_vjp
from refnode.layers.parameters import mlp_layout
from refnode.losses import running_cost

FIELDS = [pytest.param(*case, id=f"{case[0]}-{case[1]}") for case in cases.field_cases()]
PERCEPTRONS = [   # widths, activation, batch, time_input: no hidden layer, one, several; widths of 1
    ((2, 2), "tanh", 3, True), ((1, 1, 1), "softplus", 1, True), ((2, 5, 2), "tanh", 1, False),
    ((2, 5, 2), "sine", 4, True), ((3, 1, 7, 3), "softplus", 5, False), ((2, 16, 16, 2), "tanh", 33, True),
    ((2, 4, 4, 4, 2), "sine", 3, False), ((2, 3, 5, 4, 3, 2), "softplus", 2, True),
    ((2, 9, 2), "softplus", 70, True)]                          # more than one block of samples
every_perceptron = pytest.mark.parametrize("case", PERCEPTRONS, ids=lambda case: "-".join(map(str, case)))

ROUNDING = 1e-13          # of each component's sum of magnitudes


def directions(point, seed=0):
    """Two tangents of (t, y, theta) and one of dy_bar."""
    rng = np.random.default_rng(seed)
    return (*rng.standard_normal((2, point.tangent.size)), rng.standard_normal(len(point.y)))


def hessian(field, point, hvp=None):
    """d^2 (dy_bar . f), column by column."""
    zero = np.zeros(len(point.y))
    return np.array([cases.evaluate_hvp(field, point, e, zero, hvp) for e in np.eye(point.tangent.size)]).T


def hvp_error(field, point, vjp, hvp=None):
    """The largest difference from the complex step of ``vjp``, over 1e-13 of the sum of magnitudes."""
    x_tan, _, dy_bar_tan = directions(point)
    found = cases.evaluate_hvp(field, point, x_tan, dy_bar_tan, hvp)
    expected = cases.complex_step_hvp(vjp, point, x_tan, dy_bar_tan)
    magnitude = (np.abs(hessian(field, point)) @ np.abs(x_tan)
                 + np.abs(cases.complex_step_jac(field, point)).T @ np.abs(dy_bar_tan))
    return np.max(np.abs(found - expected) / (ROUNDING * (magnitude + np.max(magnitude) * 1e-3)))


def symmetry_error(field, point, hvp=None):
    """|<u, H v> - <v, H u>| over 1e-13 of |u| |H| |v|; 0/0 is 0."""
    v, u, _ = directions(point, 1)
    zero = np.zeros(len(point.y))
    difference = abs(u @ cases.evaluate_hvp(field, point, v, zero, hvp) - v @ cases.evaluate_hvp(field, point, u, zero, hvp))
    magnitude = np.abs(u) @ np.abs(hessian(field, point)) @ np.abs(v)
    return difference / (ROUNDING * magnitude) if magnitude > 0.0 else difference


def addition_error(field, point, hvp=None):
    """How far bars that begin at 2^k end from 2^k plus bars that begin at 0, in roundings."""
    x_tan, _, dy_bar_tan = directions(point)
    alone, worst = cases.evaluate_hvp(field, point, x_tan, dy_bar_tan), 0.0
    for prefill in (1.0, -1024.0):
        bound = 16 * cases.EPS * (abs(prefill) + np.max(np.abs(alone)) * x_tan.size)
        added = cases.evaluate_hvp(field, point, x_tan, dy_bar_tan, hvp, prefill)
        worst = max(worst, np.max(np.abs(added - (prefill + alone))) / bound)
    return worst


# --- the classical fields -------------------------------------------------------------------------

def test_every_shipped_field_has_one():
    assert [name for name, field in cases.FIELDS.items() if field.hvp is None] == []
    assert [name for name, subject in fields().items() if subject.field.hvp is None] == []


@pytest.mark.parametrize("name, n, p", FIELDS)
def test_hvp_is_the_complex_step_of_vjp_symmetric_and_added(name, n, p):
    field = cases.FIELDS[name]
    for point in cases.random_points(name, n, p, 3):
        assert hvp_error(field, point, field.vjp) <= 1.0
        assert symmetry_error(field, point) <= 1.0
        assert addition_error(field, point) <= 1.0


@pytest.mark.parametrize("name, n, p", FIELDS)
def test_every_mutant_of_the_hvp_is_caught(name, n, p):
    """By the complex step: one statement flipped, dropped, doubled or overwriting."""
    field, survivors = cases.FIELDS[name], []
    sample = cases.random_points(name, n, p, 5 if name in SWITCHED else 1)        # both pieces are met
    for point in sample:
        assert hvp_error(field, point, field.vjp, cases.python_body(field.hvp)) <= 1.0
    for label, mutant in cases.mutants(field.hvp):
        if max(max(hvp_error(field, point, field.vjp, mutant), addition_error(field, point, mutant))
               for point in sample) <= 1.0:
            survivors.append(label)
    assert not survivors


@pytest.mark.parametrize("name", ["lotka_volterra", "kepler", "forced_oscillator"])
def test_without_the_second_derivative_or_without_dy_bar_tan_it_is_caught(name):
    field = CLASSICAL[name]
    point = cases.random_points(name, field.n, field.p, 1)[0]

    def first_order_only(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, *bars):
        field.vjp(t, y, theta, tape, dy_bar_tan, *bars)

    def second_order_only(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, *bars):
        field.hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, 0.0 * dy_bar_tan, *bars)
    for wrong in (first_order_only, second_order_only):
        assert hvp_error(field, point, field.vjp, wrong) > 1e6


# --- the perceptron -------------------------------------------------------------------------------

def perceptron_vjp(case):
    """The vjp of a perceptron from the NumPy forms of its layers, valid for complex arrays."""
    widths, activation, batch, time_input = case
    layout, sigma = mlp_layout(widths, time_input), ACTIVATIONS[activation]
    count = len(widths) - 1

    def vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
        arrays, bars = layout.unpack(theta), layout.unpack(theta_bar)
        inputs, pre = [y.reshape(batch, -1)], []
        if time_input:
            inputs[0] = np.column_stack([inputs[0], np.full(batch, t)])
        for layer in range(1, count + 1):
            pre.append(dense(inputs[-1], arrays[f"W{layer}"], arrays[f"b{layer}"]))
            inputs.append(sigma.form(pre[-1]))
        z_bar = dy_bar.reshape(batch, -1)
        for layer in range(count, 0, -1):
            x_bar, W_bar, b_bar = dense_vjp(inputs[layer - 1], arrays[f"W{layer}"], z_bar)
            bars[f"W{layer}"] += W_bar
            bars[f"b{layer}"] += b_bar
            z_bar = sigma.vjp(pre[layer - 2], x_bar) if layer > 1 else x_bar
        y_bar += z_bar[:, :widths[0]].ravel()
        if time_input:
            t_bar += z_bar[:, -1].sum()
    return vjp


def perceptron_point(case, seed=0):
    field, rng = mlp_field(*case), np.random.default_rng(seed)
    return field, cases.Point(rng.standard_normal(), rng.standard_normal(field.n), 0.7 * rng.standard_normal(field.p),
                              rng.standard_normal(), rng.standard_normal(field.n), rng.standard_normal(field.p),
                              rng.standard_normal(field.n))


@every_perceptron
def test_perceptron(case):
    field, point = perceptron_point(case)
    x_tan, v, dy_bar_tan = directions(point)
    vjp = perceptron_vjp(case)
    found = cases.evaluate_hvp(field, point, x_tan, dy_bar_tan)
    expected = cases.complex_step_hvp(vjp, point, x_tan, dy_bar_tan)
    assert np.max(np.abs(found - expected)) <= ROUNDING * np.max(np.abs(expected))
    zero = np.zeros(field.n)
    sides = [x_tan * cases.evaluate_hvp(field, point, v, zero), v * cases.evaluate_hvp(field, point, x_tan, zero)]
    assert abs(sides[0].sum() - sides[1].sum()) <= ROUNDING * sum(np.abs(side).sum() for side in sides)
    assert addition_error(field, point) <= 8.0


def test_perceptron_without_one_of_its_terms_is_caught():
    """The first-order part alone, and the second-order part alone."""
    case = PERCEPTRONS[2]
    field, point = perceptron_point(case)
    x_tan, _, dy_bar_tan = directions(point)
    expected = cases.complex_step_hvp(perceptron_vjp(case), point, x_tan, dy_bar_tan)
    for missing in ("second derivative", "dy_bar_tan"):
        wrong = (cases.evaluate_vjp(field, dataclasses.replace(point, dy_bar=dy_bar_tan))
                 if missing == "second derivative" else cases.evaluate_hvp(field, point, x_tan, np.zeros(field.n)))
        assert np.max(np.abs(wrong - expected)) > 1e-2 * np.max(np.abs(expected))


@every_perceptron
def test_perceptron_derivatives_do_not_disturb_each_other(case):
    """f, then hvp, vjp, jvp, hvp in one tape: the same bits again; and a tape of first order is shorter."""
    field, point = perceptron_point(case)
    x_tan, _, dy_bar_tan = directions(point)
    tape = field.new_hvp_tape(1)[0]
    field.f(point.t, point.y, point.theta, tape, np.empty(field.n))
    n, results = field.n, []
    for _ in range(2):
        bars = [np.zeros(size) for size in (1, n, field.p)]
        field.hvp(point.t, point.y, point.theta, x_tan[0], x_tan[1:1 + n].copy(), x_tan[1 + n:].copy(), tape,
                  point.dy_bar, dy_bar_tan, *bars)
        results.append(np.concatenate(bars))
        first = [np.zeros(size) for size in (1, n, field.p)]
        field.vjp(point.t, point.y, point.theta, tape, point.dy_bar, *first)
        np.testing.assert_array_equal(np.concatenate(first), cases.evaluate_vjp(field, point))
        dy_tan = np.empty(n)
        field.jvp(point.t, point.y, point.theta, point.t_tan, point.y_tan, point.theta_tan, tape, dy_tan)
    np.testing.assert_array_equal(*results)
    assert field.hvp_tape_size > field.tape_size == field.new_tape(1).shape[1]


# --- layers ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_hvp_is_the_complex_step_of_its_vjp(name):
    rng = np.random.default_rng(0)
    z, z_tan, a_bar, a_bar_tan = 2.0 * rng.standard_normal((4, 300))
    step = 1e-30j
    expected = ACTIVATIONS[name].vjp(z + step * z_tan, a_bar + step * a_bar_tan).imag / 1e-30
    np.testing.assert_allclose(ACTIVATIONS[name].hvp(z, z_tan, a_bar, a_bar_tan), expected, rtol=1e-13, atol=1e-13)


def test_dense_hvp_is_the_complex_step_of_its_vjp():
    rng = np.random.default_rng(0)
    x, x_tan, W, W_tan = rng.standard_normal((2, 5, 3))[0], *rng.standard_normal((1, 5, 3)), *rng.standard_normal((2, 4, 3))
    z_bar, z_bar_tan = rng.standard_normal((2, 5, 4))
    step = 1e-30j
    moved = dense_vjp(x + step * x_tan, W + step * W_tan, z_bar + step * z_bar_tan)
    for found, expected in zip(dense_hvp(x, W, x_tan, W_tan, z_bar, z_bar_tan), moved):
        np.testing.assert_allclose(found, expected.imag / 1e-30, rtol=1e-13, atol=1e-14)


# --- running costs, users' forms, errors ----------------------------------------------------------

def test_running_cost_has_a_second_derivative():
    plain = [cases.python_body(g) for g in (CLASSICAL["pendulum"].f, CLASSICAL["pendulum"].jvp,
                                            CLASSICAL["pendulum"].vjp, CLASSICAL["pendulum"].hvp)]
    field = with_running_cost(VectorField(*plain, n=2, p=2), running_cost(cases.effort, None, cases.effort_vjp, cases.effort_hvp))
    point = cases.random_points("pendulum", 3, 2, 1)[0]
    assert hvp_error(field, point, field.vjp) <= 1.0 and symmetry_error(field, point) <= 1.0


def test_a_cost_without_g_hvp_gives_a_field_without_hvp():
    assert with_running_cost(CLASSICAL["pendulum"], running_cost(cases.effort, None, cases.effort_vjp)).hvp is None


def test_short_and_scipy_forms():
    kernel = [cases.python_body(g) for g in (CLASSICAL["logistic"].f, CLASSICAL["logistic"].hvp)]

    def short(t, y, theta, t_tan, y_tan, theta_tan, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan, theta_bar_tan):
        kernel[1](t, y, theta, t_tan, y_tan, theta_tan, None, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan, theta_bar_tan)

    def returning(t, y, theta, t_tan, y_tan, theta_tan, dy_bar, dy_bar_tan):
        bars = np.zeros(1), np.zeros(1), np.zeros(2)
        short(t, y, theta, t_tan, y_tan, theta_tan, dy_bar, dy_bar_tan, *bars)
        return (bars[0][0], *bars[1:])
    point = cases.random_points("logistic", 1, 2, 1)[0]
    x_tan, _, dy_bar_tan = directions(point)
    expected = cases.evaluate_hvp(VectorField(kernel[0], hvp=kernel[1]), point, x_tan, dy_bar_tan, prefill=1.0)
    for form in (short, returning):
        found = cases.evaluate_hvp(VectorField(kernel[0], hvp=form), point, x_tan, dy_bar_tan, prefill=1.0)
        np.testing.assert_array_equal(found, expected)


def test_errors_name_what_is_missing():
    field = VectorField(lambda t, y, theta: -y, name="bare")
    with pytest.raises(MissingDerivativeError, match=r"'bare' has no hvp.*VectorField\.from_expressions"):
        field.require("hvp")
    with pytest.raises(InvalidInputError, match=r"hvp must take one of \[8, 11, 12\] arguments"):
        VectorField(lambda t, y, theta: -y, hvp=lambda t, y, theta: -y)


# --- fields from expressions ----------------------------------------------------------------------

def test_sympy_derives_and_prints_the_hvp(capsys):
    pytest.importorskip("sympy")
    texts = ["sin(theta[0]*y[0])*y[1]**3 + exp(-t)*y[0]**2", "y[0]/(1 + y[1]**2) - theta[1]*t*y[1]"]
    field = VectorField.from_expressions(texts, name="derived")
    assert "def derived_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan" in capsys.readouterr().out
    for point in cases.random_points("derived", 2, 2, 3):
        assert hvp_error(field, point, field.vjp) <= 1.0
        assert symmetry_error(field, point) <= 1.0 and addition_error(field, point) <= 1.0


@pytest.mark.parametrize("name, texts", [
    ("lotka_volterra", ["theta[0]*y[0] - theta[1]*y[0]*y[1]", "theta[3]*y[0]*y[1] - theta[2]*y[1]"]),
    ("kepler", ["y[2]", "y[3]", "-theta[0]*y[0]/(y[0]**2 + y[1]**2)**1.5",
                "-theta[0]*y[1]/(y[0]**2 + y[1]**2)**1.5"])])
def test_sympy_agrees_with_the_hand_written(name, texts):
    pytest.importorskip("sympy")
    derived, written = VectorField.from_expressions(texts, name=name, show=False), CLASSICAL[name]
    point = cases.random_points(name, written.n, written.p, 1)[0]
    x_tan, _, dy_bar_tan = directions(point)
    found, expected = (cases.evaluate_hvp(field, point, x_tan, dy_bar_tan) for field in (derived, written))
    np.testing.assert_allclose(found, expected, rtol=0.0, atol=1e-14 * (1.0 + np.max(np.abs(hessian(written, point)))) * 10)
