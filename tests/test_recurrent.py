"""Recurrent cells, sequences of them, and the perceptron outside a field: the battery of every triple."""
import numpy as np
import pytest

from refnode.layers import recurrent
from refnode.layers.parameters import mlp_layout
from refnode.layers.perceptron import perceptron, perceptron_jvp, perceptron_vjp
from refnode.layers.recurrent import CELLS, GRU_TAPE, unroll, unroll_jvp, unroll_vjp

EPS = np.finfo(float).eps
SIZES = [(1, 1, 1), (1, 3, 2), (4, 2, 5), (9, 6, 4)]         # batch, d, m
PRESENT = np.array([[1, 1, 0, 1], [1, 0, 0, 1], [0, 1, 0, 1], [1, 1, 0, 0], [0, 1, 0, 1]], dtype=bool)


def random_arrays(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape) for shape in shapes]


def cell_arrays(name, batch, d, m):
    """x, h and parameters of a cell; tangents of them; a cotangent of h1."""
    shapes = [(batch, d), (batch, m), *CELLS[name].shapes(d, m).values()]
    arrays = random_arrays(shapes + shapes + [(batch, m)])
    return arrays[:len(shapes)], arrays[len(shapes):-1], arrays[-1]


def check_transpose(tangent, bar, tangents, bars):
    """<jvp(tangents), bar> = <tangents, vjp(bar)> to 1e-13 of the sizes of the factors."""
    forward = np.sum(tangent * bar)
    backward = sum(np.sum(tan * part) for tan, part in zip(tangents, bars, strict=True))
    size = np.linalg.norm(tangent) * np.linalg.norm(bar)
    assert abs(forward - backward) <= 1e-13 * size, (forward, backward)


def complex_step(form, arrays, tangents):
    return form(*(array + 1e-30j * tan for array, tan in zip(arrays, tangents))).imag / 1e-30


# --- cells ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("name", CELLS)
def test_cell_jvp_is_the_complex_step_and_vjp_its_transpose(name, sizes):
    cell, (arrays, tangents, h1_bar) = CELLS[name], cell_arrays(name, *sizes)
    h1_tan = cell.jvp(*arrays, *tangents)
    np.testing.assert_allclose(h1_tan, complex_step(cell.form, arrays, tangents), rtol=1e-13, atol=1e-13)
    bars = cell.vjp(*arrays, h1_bar)
    assert [bar.shape for bar in bars] == [array.shape for array in arrays]
    check_transpose(h1_tan, h1_bar, tangents, bars)


@pytest.mark.parametrize("mutate", [
    lambda bars: (*bars[:-1], 0.0 * bars[-1]),                        # the offset within the reset gate forgotten
    lambda bars: (bars[0], bars[1] * 0.5, *bars[2:]),
    lambda bars: (*bars[:3], bars[3][::-1], *bars[4:]),               # rows of U in another order
    lambda bars: (-bars[0], *bars[1:])])
def test_a_wrong_gru_vjp_is_caught(mutate):
    arrays, tangents, h1_bar = cell_arrays("gru", 4, 2, 5)
    bars = mutate(recurrent.gru_vjp(*arrays, h1_bar))
    with pytest.raises(AssertionError):
        check_transpose(recurrent.gru_jvp(*arrays, *tangents), h1_bar, tangents, bars)


def test_gru_by_hand():
    """One sample, one input, one state; the gates worked out with scalars."""
    def sigmoid(z):
        return 1.0 / (1.0 + np.exp(-z))

    x, h, e = 0.7, -0.4, 0.3
    W, U, b = [0.5, -1.0, 2.0], [1.5, 0.25, -0.5], [0.1, 0.2, -0.3]
    r, u = sigmoid(W[0] * x + b[0] + U[0] * h), sigmoid(W[1] * x + b[1] + U[1] * h)
    c = np.tanh(W[2] * x + b[2] + r * (U[2] * h + e))
    column = np.array([W, U]).reshape(2, 3, 1)
    found = recurrent.gru(np.array([[x]]), np.array([[h]]), column[0], column[1], np.array(b), np.array([e]))
    assert found[0, 0] == pytest.approx(u * h + (1.0 - u) * c, rel=4 * EPS)


# --- kernels --------------------------------------------------------------------------------------

def flat(arrays):
    return [np.ascontiguousarray(array).ravel() for array in arrays]


@pytest.mark.parametrize("sizes", SIZES)
def test_gru_kernels_equal_the_numpy_forms_and_add_to_bars(sizes):
    batch, _, m = sizes
    arrays, tangents, h1_bar = cell_arrays("gru", *sizes)
    x, h, W, U, b, e = flat(arrays)
    tape, h1, h1_tan = np.full(GRU_TAPE * batch * m, np.nan), np.full(batch * m, np.nan), np.full(batch * m, np.nan)
    recurrent.gru_kernel(batch, x, h, W, U, b, e, tape, h1)
    np.testing.assert_allclose(h1, recurrent.gru(*arrays).ravel(), rtol=1e-13, atol=1e-14)
    recurrent.gru_jvp_kernel(batch, x, h, W, U, *flat(tangents), tape, h1_tan)
    np.testing.assert_allclose(h1_tan, recurrent.gru_jvp(*arrays, *tangents).ravel(), rtol=1e-12, atol=1e-13)
    bars = [np.full(array.size, 1.0 + k) for k, array in enumerate(arrays)]
    recurrent.gru_vjp_kernel(batch, x, h, W, U, tape, h1_bar.ravel(), *bars)
    for k, (bar, expected) in enumerate(zip(bars, recurrent.gru_vjp(*arrays, h1_bar))):
        np.testing.assert_allclose(bar - (1.0 + k), expected.ravel(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("sizes", SIZES)
def test_rnn_kernels_equal_the_numpy_forms_and_add_to_bars(sizes):
    batch, _, m = sizes
    arrays, tangents, h1_bar = cell_arrays("rnn", *sizes)
    x, h, W, U, b = flat(arrays)
    h1, h1_tan, scratch = np.full((3, batch * m), np.nan)
    recurrent.rnn_kernel(batch, x, h, W, U, b, h1)
    np.testing.assert_allclose(h1, recurrent.rnn(*arrays).ravel(), rtol=1e-13, atol=1e-14)
    recurrent.rnn_jvp_kernel(batch, x, h, W, U, h1, *flat(tangents), h1_tan)
    np.testing.assert_allclose(h1_tan, recurrent.rnn_jvp(*arrays, *tangents).ravel(), rtol=1e-12, atol=1e-13)
    bars = [np.full(array.size, 1.0 + k) for k, array in enumerate(arrays)]
    recurrent.rnn_vjp_kernel(batch, x, h, W, U, h1, h1_bar.ravel(), scratch, *bars)
    for k, (bar, expected) in enumerate(zip(bars, recurrent.rnn_vjp(*arrays, h1_bar))):
        np.testing.assert_allclose(bar - (1.0 + k), expected.ravel(), rtol=1e-12, atol=1e-13)


# --- sequences ------------------------------------------------------------------------------------

def sequence(name, d=2, m=3):
    steps, batch = PRESENT.shape
    shapes = [(steps, batch, d), (batch, m), *CELLS[name].shapes(d, m).values()]
    arrays = random_arrays(shapes + shapes + [(steps + 1, batch, m)], seed=1)
    return arrays[:len(shapes)], arrays[len(shapes):-1], arrays[-1]


def sequence_of(cell):
    return lambda x, h0, *parameters: unroll(cell, x, PRESENT, h0, parameters)


@pytest.mark.parametrize("name", CELLS)
def test_sequence_jvp_is_the_complex_step_and_vjp_its_transpose(name):
    (x, h0, *parameters), tangents, h_bar = sequence(name)
    h = unroll(CELLS[name], x, PRESENT, h0, parameters)
    h_tan = unroll_jvp(CELLS[name], x, PRESENT, h, parameters, tangents[0], tangents[1], tangents[2:])
    expected = complex_step(sequence_of(CELLS[name]), [x, h0, *parameters], tangents)
    np.testing.assert_allclose(h_tan, expected, rtol=1e-12, atol=1e-13)
    x_bar, h0_bar, bars = unroll_vjp(CELLS[name], x, PRESENT, h, parameters, h_bar)
    check_transpose(h_tan, h_bar, tangents, [x_bar, h0_bar, *bars])


@pytest.mark.parametrize("name", CELLS)
def test_the_compiled_sequence_equals_the_numpy_form(name):
    (x, h0, *parameters), _, h_bar = sequence(name)
    h, tape = CELLS[name].sequence(x, PRESENT, h0, parameters)
    expected = unroll(CELLS[name], x, PRESENT, h0, parameters)
    np.testing.assert_allclose(h, expected, rtol=1e-12, atol=1e-13)
    kept = h_bar.copy()
    found = CELLS[name].sequence_vjp(x, PRESENT, h, tape, parameters, h_bar)
    np.testing.assert_array_equal(h_bar, kept)
    x_bar, h0_bar, bars = unroll_vjp(CELLS[name], x, PRESENT, expected, parameters, h_bar)
    for one, other in zip([*found[:2], *found[2]], [x_bar, h0_bar, *bars], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-13)


def test_a_sample_that_is_never_present_keeps_its_state():
    (x, h0, *parameters), _, h_bar = sequence("gru")
    absent = ~PRESENT.any(axis=0)
    assert absent.any()
    h = unroll(CELLS["gru"], x, PRESENT, h0, parameters)
    np.testing.assert_array_equal(h[:, absent], np.broadcast_to(h0[absent], h[:, absent].shape))
    x_bar, h0_bar, _ = unroll_vjp(CELLS["gru"], x, PRESENT, h, parameters, h_bar)
    assert not x_bar[:, absent].any()
    np.testing.assert_allclose(h0_bar[absent], h_bar[:, absent].sum(axis=0), rtol=1e-13)


def test_a_sequence_whose_states_are_not_carried_back_is_caught():
    """The wrong derivative of a cell that forgets how h1 depends on h: backpropagation cut after one step."""
    def short_sighted(x, h, *rest):
        bars = CELLS["gru"].vjp(x, h, *rest)
        return bars[0], np.zeros_like(bars[1]), *bars[2:]

    (x, h0, *parameters), tangents, h_bar = sequence("gru")
    h = unroll(CELLS["gru"], x, PRESENT, h0, parameters)
    h_tan = unroll_jvp(CELLS["gru"], x, PRESENT, h, parameters, tangents[0], tangents[1], tangents[2:])
    wrong = CELLS["gru"]._replace(vjp=short_sighted)
    x_bar, h0_bar, bars = unroll_vjp(wrong, x, PRESENT, h, parameters, h_bar)
    with pytest.raises(AssertionError):
        check_transpose(h_tan, h_bar, tangents, [x_bar, h0_bar, *bars])


# --- the perceptron -------------------------------------------------------------------------------

def layers_of(arrays):
    return list(zip(arrays[::2], arrays[1::2]))


@pytest.mark.parametrize("activation", ["tanh", "softplus", "sine"])
@pytest.mark.parametrize("widths", [(3, 2), (2, 5, 1), (4, 3, 6, 2)])
def test_perceptron_jvp_is_the_complex_step_and_vjp_its_transpose(widths, activation):
    shapes = [(5, widths[0]), *mlp_layout(widths).shapes.values()]
    arrays = random_arrays(shapes + shapes + [(5, widths[-1])], seed=2)
    values, tangents, z_bar = arrays[:len(shapes)], arrays[len(shapes):-1], arrays[-1]
    z_tan = perceptron_jvp(values[0], layers_of(values[1:]), tangents[0], layers_of(tangents[1:]), activation)
    expected = complex_step(lambda x, *rest: perceptron(x, layers_of(rest), activation), values, tangents)
    np.testing.assert_allclose(z_tan, expected, rtol=1e-12, atol=1e-13)
    x_bar, layers_bar = perceptron_vjp(values[0], layers_of(values[1:]), z_bar, activation)
    bars = [x_bar, *(bar for pair in layers_bar for bar in pair)]
    assert [bar.shape for bar in bars] == shapes
    check_transpose(z_tan, z_bar, tangents, bars)
    with pytest.raises(AssertionError):
        check_transpose(z_tan, z_bar, tangents, [*bars[:-1], 0.0 * bars[-1]])
