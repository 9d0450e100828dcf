"""Recurrent cells, sequences of them, and the perceptron outside a field: the battery of every triple."""
import numpy as np
import pytest

from layer_battery import (
    EPS, ROUNDING, Triple, added, check_hvp_mutants, check_kernel, check_mutants, check_triple, distance, dot_product_error,
    hvp_by_differences_error, hvp_error, symmetry_error)
from refnode.layers import recurrent, recurrent_hvp
from refnode.layers.parameters import mlp_layout
from refnode.layers.perceptron import perceptron, perceptron_hvp, perceptron_jvp, perceptron_vjp
from refnode.layers.recurrent import CELLS, GRU_TAPE, unroll, unroll_jvp, unroll_vjp
from refnode.layers.recurrent_hvp import CELL_HVPS, GRU_HVP_TAPE, unroll_hvp

SIZES = [(1, 1, 1), (1, 3, 2), (4, 2, 5), (9, 6, 4)]         # batch, d, m
PRESENT = np.array([[1, 1, 0, 1], [1, 0, 0, 1], [0, 1, 0, 1], [1, 1, 0, 0], [0, 1, 0, 1]], dtype=bool)


def drawn(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


def cell_triple(name, batch, d, m):
    """A cell at a random point."""
    cell, x = CELLS[name], drawn({"x": (batch, d), "h": (batch, m), **CELLS[name].shapes(d, m)})
    return Triple(cell.form, lambda x, x_tan: cell.jvp(*x.values(), *x_tan.values()),
                  lambda x, h1_bar: dict(zip(x, cell.vjp(*x.values(), h1_bar), strict=True)), x,
                  lambda x, x_tan, *bars: dict(zip(x, CELL_HVPS[name](*x.values(), *x_tan.values(), *bars), strict=True)))


def flat(arrays):
    return [np.ascontiguousarray(array).ravel() for array in arrays.values()]


# --- cells ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("name", CELLS)
def test_cells(name, sizes):
    triple = cell_triple(name, *sizes)
    check_triple(triple)
    assert symmetry_error(triple) <= ROUNDING and hvp_by_differences_error(triple) <= 1.0


@pytest.mark.parametrize("name", CELLS)
def test_wrong_derivatives_of_cells_are_caught(name):
    check_mutants(cell_triple(name, 4, 2, 5))
    check_hvp_mutants(cell_triple(name, 4, 2, 5))


def test_a_gate_whose_curvature_is_forgotten_is_caught(monkeypatch):
    """c_tan left out of the tangent of u_bar = (h - c) h1_bar: each of the three checks of an hvp sees it."""
    right = recurrent_hvp.gru_gates_hvp

    def forgetful(gates, gates_tan, h, h_tan, h1_bar, h1_bar_tan):
        r_tan, u_tan, s_tan, c_tan = gates_tan
        return right(gates, (r_tan, u_tan, s_tan, 0.0 * c_tan), h, h_tan, h1_bar, h1_bar_tan)
    monkeypatch.setattr(recurrent_hvp, "gru_gates_hvp", forgetful)
    wrong = cell_triple("gru", 4, 2, 5)
    assert hvp_error(wrong) > 1e6 * ROUNDING and symmetry_error(wrong) > 1e6 * ROUNDING
    assert hvp_by_differences_error(wrong) > 1e3


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

def gru_kernels(triple):
    """The kernels of the gated unit in the form of the triple."""
    (batch, m), shapes = triple.x["h"].shape, {name: array.shape for name, array in triple.x.items()}

    def forward(arrays):
        tape, h1 = np.full(GRU_TAPE * batch * m, np.nan), np.full(batch * m, np.nan)
        recurrent.gru_kernel(batch, *flat(arrays), tape, h1)
        return tape, h1

    def jvp(x, x_tan):
        h1_tan = np.full(batch * m, np.nan)
        recurrent.gru_jvp_kernel(batch, *flat(x)[:4], *flat(x_tan), forward(x)[0], h1_tan)
        return h1_tan.reshape(batch, m)

    def vjp(x, h1_bar):
        tape = forward(x)[0]
        return added(shapes, lambda *bars: recurrent.gru_vjp_kernel(batch, *flat(x)[:4], tape, h1_bar.ravel(), *bars))

    def hvp(x, x_tan, h1_bar, h1_bar_tan):
        tape = np.concatenate([forward(x)[0], np.full((GRU_HVP_TAPE - GRU_TAPE) * batch * m, np.nan)])
        return added(shapes, lambda *bars: recurrent_hvp.gru_hvp_kernel(
            batch, *flat(x)[:4], *flat(x_tan), tape, h1_bar.ravel(), h1_bar_tan.ravel(), *bars))

    return Triple(lambda **x: forward(x)[1].reshape(batch, m), jvp, vjp, triple.x, hvp)


def rnn_kernels(triple):
    """The kernels of the plain unit in the form of the triple."""
    (batch, m), shapes = triple.x["h"].shape, {name: array.shape for name, array in triple.x.items()}

    def form(**x):
        h1 = np.full(batch * m, np.nan)
        recurrent.rnn_kernel(batch, *flat(x), h1)
        return h1.reshape(batch, m)

    def jvp(x, x_tan):
        h1_tan = np.full(batch * m, np.nan)
        recurrent.rnn_jvp_kernel(batch, *flat(x)[:4], form(**x).ravel(), *flat(x_tan), h1_tan)
        return h1_tan.reshape(batch, m)

    def vjp(x, h1_bar):
        h1, scratch = form(**x).ravel(), np.full(batch * m, np.nan)
        return added(shapes, lambda *bars: recurrent.rnn_vjp_kernel(
            batch, *flat(x)[:4], h1, h1_bar.ravel(), scratch, *bars))

    def hvp(x, x_tan, h1_bar, h1_bar_tan):
        h1, scratch = form(**x).ravel(), np.full(2 * batch * m, np.nan)
        return added(shapes, lambda *bars: recurrent_hvp.rnn_hvp_kernel(
            batch, *flat(x)[:4], h1, *flat(x_tan), h1_bar.ravel(), h1_bar_tan.ravel(), scratch, *bars))

    return Triple(form, jvp, vjp, triple.x, hvp)


@pytest.mark.parametrize("sizes", SIZES[1:])
@pytest.mark.parametrize("name, kernels", [("gru", gru_kernels), ("rnn", rnn_kernels)])
def test_kernels_equal_the_numpy_forms_and_add_to_bars(name, kernels, sizes):
    triple = cell_triple(name, *sizes)
    check_kernel(triple, kernels(triple))


def test_a_wrong_kernel_is_caught():
    """Cotangents that are off by 1e-9."""
    triple = cell_triple("rnn", 4, 2, 5)
    kernel = rnn_kernels(triple)
    kernel.vjp = lambda x, h1_bar: {name: bar + 1e-9 for name, bar in triple.vjp(x, h1_bar).items()}
    with pytest.raises(AssertionError):
        check_kernel(triple, kernel)


# --- sequences ------------------------------------------------------------------------------------

def sequence_triple(name, cell=None, d=2, m=3):
    """The states of a cell over a sequence in which some samples are absent."""
    cell, (steps, batch) = cell or CELLS[name], PRESENT.shape
    x = drawn({"x": (steps, batch, d), "h0": (batch, m), **CELLS[name].shapes(d, m)}, seed=1)

    def states(x):
        inputs, h0, *parameters = x.values()
        return inputs, parameters, unroll(cell, inputs, PRESENT, h0, parameters)

    def jvp(x, x_tan):
        (inputs, parameters, h), (inputs_tan, h0_tan, *parameters_tan) = states(x), x_tan.values()
        return unroll_jvp(cell, inputs, PRESENT, h, parameters, inputs_tan, h0_tan, parameters_tan)

    def vjp(x, h_bar):
        inputs, parameters, h = states(x)
        x_bar, h0_bar, bars = unroll_vjp(cell, inputs, PRESENT, h, parameters, h_bar)
        return dict(zip(x, [x_bar, h0_bar, *bars], strict=True))

    def hvp(x, x_tan, h_bar, h_bar_tan):
        (inputs, parameters, h), (inputs_tan, h0_tan, *parameters_tan) = states(x), x_tan.values()
        h_tan = unroll_jvp(cell, inputs, PRESENT, h, parameters, inputs_tan, h0_tan, parameters_tan)
        x_bar_tan, h0_bar_tan, bars_tan = unroll_hvp(
            name, inputs, PRESENT, h, parameters, inputs_tan, h_tan, parameters_tan, h_bar, h_bar_tan)
        return dict(zip(x, [x_bar_tan, h0_bar_tan, *bars_tan], strict=True))

    return Triple(lambda **x: states(x)[2], jvp, vjp, x, hvp)


@pytest.mark.parametrize("name", CELLS)
def test_sequences(name):
    triple = sequence_triple(name)
    check_triple(triple)
    assert symmetry_error(triple) <= ROUNDING
    check_hvp_mutants(triple)


def test_a_sequence_whose_states_are_not_carried_back_is_caught():
    """The wrong derivative of a cell that forgets how h1 depends on h: backpropagation cut after one step."""
    def short_sighted(x, h, *rest):
        bars = CELLS["gru"].vjp(x, h, *rest)
        return bars[0], np.zeros_like(bars[1]), *bars[2:]

    wrong = sequence_triple("gru", CELLS["gru"]._replace(vjp=short_sighted))
    assert dot_product_error(wrong) > 1e6 * ROUNDING


@pytest.mark.parametrize("name", CELLS)
def test_the_compiled_sequence_equals_the_numpy_form(name):
    triple = sequence_triple(name)
    _, h_bar, _ = triple.directions()
    x, h0, *parameters = triple.x.values()
    h, tape = CELLS[name].sequence(x, PRESENT, h0, parameters)
    assert distance(h, triple.form(**triple.x)) <= ROUNDING
    kept = h_bar.copy()
    found = CELLS[name].sequence_vjp(x, PRESENT, h, tape, parameters, h_bar)
    np.testing.assert_array_equal(h_bar, kept)
    assert distance(dict(zip(triple.x, [*found[:2], *found[2]], strict=True)), triple.vjp(triple.x, h_bar)) <= ROUNDING


def test_a_sample_that_is_never_present_keeps_its_state():
    triple = sequence_triple("gru")
    absent = ~PRESENT.any(axis=0)
    assert absent.any()
    h, h_bar = triple.form(**triple.x), triple.directions()[1]
    np.testing.assert_array_equal(h[:, absent], np.broadcast_to(triple.x["h0"][absent], h[:, absent].shape))
    bars = triple.vjp(triple.x, h_bar)
    assert not bars["x"][:, absent].any()
    np.testing.assert_allclose(bars["h0"][absent], h_bar[:, absent].sum(axis=0), rtol=1e-13)


# --- the perceptron -------------------------------------------------------------------------------

def layers_of(arrays):
    """The pairs (W, b) behind the input."""
    _, *rest = arrays.values()
    return list(zip(rest[::2], rest[1::2]))


@pytest.mark.parametrize("activation", ["tanh", "softplus", "sine"])
@pytest.mark.parametrize("widths", [(3, 2), (2, 5, 1), (4, 3, 6, 2)])
def test_perceptrons(widths, activation):
    def vjp(x, z_bar):
        x_bar, layers_bar = perceptron_vjp(x["x"], layers_of(x), z_bar, activation)
        return dict(zip(x, [x_bar, *(bar for pair in layers_bar for bar in pair)], strict=True))

    def hvp(x, x_tan, z_bar, z_bar_tan):
        x_bar_tan, layers_bar_tan = perceptron_hvp(x["x"], layers_of(x), x_tan["x"], layers_of(x_tan), z_bar, z_bar_tan, activation)
        return dict(zip(x, [x_bar_tan, *(bar for pair in layers_bar_tan for bar in pair)], strict=True))

    triple = Triple(
        lambda **x: perceptron(x["x"], layers_of(x), activation),
        lambda x, x_tan: perceptron_jvp(x["x"], layers_of(x), x_tan["x"], layers_of(x_tan), activation), vjp,
        drawn({"x": (5, widths[0]), **mlp_layout(widths).shapes}, seed=2), hvp)
    check_triple(triple)
    check_mutants(triple)
    assert symmetry_error(triple) <= ROUNDING and hvp_by_differences_error(triple) <= 1.0
    check_hvp_mutants(triple)
