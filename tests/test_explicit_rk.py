"""One step of every tableau: tangent against complex steps, transpose against tangent, and wrong versions."""
import types

import numpy as np
import pytest

import cases
from gradients import H, METHODS, changed_source
from refnode.fields.classical import CLASSICAL
from refnode.fields.neural import mlp_field
from refnode.host_device import python_form
from refnode.steppers import explicit_rk
from refnode.steppers.system import Plain
from refnode.steppers.tableaus import TABLEAUS

FIELDS = {"forced_oscillator": CLASSICAL["forced_oscillator"],
          "mlp": mlp_field((2, 5, 2), "tanh", batch=9, time_input=True)}       # long enough to go slope by slope
SIGMA = 0.375                   # where the dense output is read; held, as sigma is in the adjoint
BODIES = types.SimpleNamespace(**{
    name: python_form(getattr(explicit_rk, name)) for name in (
        "explicit_rk_step", "explicit_rk_step_jvp", "explicit_rk_step_vjp", "extra_slopes",
        "extra_slopes_jvp", "extra_slopes_vjp", "dense_output", "dense_output_vjp")})
every_method = pytest.mark.parametrize("method", METHODS)
every_field = pytest.mark.parametrize("field", FIELDS.values(), ids=FIELDS)

# Rounding: an output of a step is a sum over at most s stages, each of at most s terms behind one call of
# f of some tens of roundings; so the sides of an identity differ by (64 + s^2) eps times the magnitudes.
# Stages of DOP853 have weights of both signs up to 60, which multiply |h df/dy| times a rounding error into
# the next stage: the steps here are short, |h df/dy| well under 1, so that the bound is about rounding.


def bound(table):
    return (64 + (table.s + table.extra) ** 2) * cases.EPS


class Step:
    """One step of a method at a random point: (t, h, y, theta) -> (k, y1) -> (k_extra, y(t + sigma h)).

    The dense output depends on y and theta only; sigma and h are held in it, as in a frozen step.
    """

    def __init__(self, method, field, h=0.125, bodies=BODIES):
        self.table, self.field, self.bodies = TABLEAUS[method], field, bodies
        self.A, self.b, self.c = self.table.A_array, self.table.b_array, self.table.c_array
        self.P, self.A_extra, self.c_extra = self.table.P, self.table.A_extra, self.table.c_extra
        self.s, self.extra = self.table.s, self.table.extra
        n, p = field.n, field.p
        self.point = cases.random_point(np.random.default_rng([n, p, self.s]), n, p)
        self.x = np.concatenate([[self.point.t, h], self.point.y, self.point.theta])
        self.rng = np.random.default_rng(self.s)
        self.h_tan = self.rng.standard_normal()
        self.tape = field.new_tape(self.s + 2)
        self.k, self.y1, self.k_extra, self.out = self.run(self.x)

    def split(self, x):
        return x[0], x[1], x[2:2 + self.field.n].copy(), x[2 + self.field.n:].copy()

    def empty(self, dtype=float):
        return [np.empty((rows, self.field.n), dtype) for rows in (self.s + 1, self.extra)]

    def run(self, x):
        """k, y1, k_extra, out at any input vector, real or complex; fills the tape when real."""
        dtype = x.dtype
        t, h, y, theta = self.split(x)
        f = self.field.f if dtype == float else self.field.complex_form()
        tape = self.tape if dtype == float else self.field.new_tape(self.s + 2, complex)
        (k, k_extra), (z, y1, out) = self.empty(dtype), np.empty((3, y.size), dtype)
        f(t, y, theta, tape[0], k[0])
        self.bodies.explicit_rk_step(Plain(f), self.A, self.b, self.c, t, h, y, theta, tape, k, z, y1)
        t, h = self.x[:2]
        self.bodies.extra_slopes(Plain(f), self.A_extra, self.c_extra, t, h, y, theta, tape[-1], k, z, k_extra)
        self.bodies.dense_output(self.P, SIGMA, h, y, k, k_extra, np.empty(len(self.P)), out)
        return k, y1, k_extra, out

    def jvp(self, t_tan, h_tan, recompute=0, tape=None):
        """k_tan, y1_tan and, if neither t nor h moves, the tangent of the dense output."""
        t, h, y, theta = self.split(self.x)
        tape = self.tape if tape is None else tape
        y_tan, theta_tan, field = self.point.y_tan, self.point.theta_tan, self.field
        (k_tan, k_extra_tan), (z, z_tan, y1_tan, out_tan) = self.empty(), np.empty((4, y.size))
        self.bodies.explicit_rk_step_jvp(
            field.f, field.jvp, self.A, self.b, self.c, t, h, y, theta, t_tan, h_tan, y_tan, theta_tan,
            recompute, tape, self.k.copy(), z, z_tan, k_tan, y1_tan)
        self.bodies.extra_slopes_jvp(
            field.f, field.jvp, self.A_extra, self.c_extra, t, h, y, theta, 0.0, 0.0, y_tan, theta_tan, tape[-1],
            self.k, self.k_extra.copy(), k_tan, z, z_tan, k_extra_tan)
        self.bodies.dense_output(self.P, SIGMA, h, y_tan, k_tan, k_extra_tan, np.empty(len(self.P)), out_tan)
        return k_tan, y1_tan, out_tan

    def vjp(self, k_bar, y1_bar, out_bar, prefill=0.0, recompute=0, tape=None):
        """(t_bar, h_bar, y_bar, theta_bar) as one vector; h_bar without the dense output's part."""
        t, h, y, theta = self.split(self.x)
        tape, field = self.tape if tape is None else tape, self.field
        t_bar, h_bar, y_bar, theta_bar = (np.full(m, prefill) for m in (1, 1, y.size, theta.size))
        k_bar, k_extra_bar, (z, z_bar) = k_bar.copy(), np.zeros((self.extra, y.size)), np.empty((2, y.size))
        if np.any(out_bar):
            self.bodies.dense_output_vjp(self.P, SIGMA, h, out_bar, np.empty(len(self.P)), k_bar, k_extra_bar,
                                         y_bar)
            self.bodies.extra_slopes_vjp(
                field.f, field.vjp, self.A_extra, self.c_extra, t, h, y, theta, tape[-1], self.k,
                self.k_extra.copy(), k_extra_bar, z, z_bar, np.zeros(1), np.zeros(1), k_bar, y_bar, theta_bar)
        self.bodies.explicit_rk_step_vjp(
            field.f, field.vjp, self.A, self.b, self.c, t, h, y, theta, recompute, tape, self.k.copy(),
            self.y1, y1_bar.copy(), k_bar, z, z_bar, t_bar, h_bar, y_bar, theta_bar)
        return np.concatenate([t_bar, h_bar, y_bar, theta_bar])


# --- the checks -----------------------------------------------------------------------------------

def tangent_error(step):
    """|jvp - complex step| over the largest entry: of slopes and y1 moving all inputs, of out moving y, theta."""
    worst = 0.0
    for t_tan, h_tan in ((step.point.t_tan, step.h_tan), (0.0, 0.0)):
        x_tan = np.concatenate([[t_tan, h_tan], step.point.y_tan, step.point.theta_tan])
        k, y1, _, out = step.run(step.x + 1j * H * x_tan)
        expected = [k.imag / H, y1.imag / H, out.imag / H][:3 if t_tan == 0.0 else 2]
        for found, right in zip(step.jvp(t_tan, h_tan), expected):
            worst = max(worst, np.max(np.abs(found - right)) / np.max(np.abs(right)))
    return worst


def transpose_error(step):
    """The dot-product identity over its terms' magnitudes, of (k, y1) in all inputs and of out in y, theta."""
    rng, n = np.random.default_rng(1), step.field.n
    k_bar, y1_bar, out_bar = rng.standard_normal((step.s + 1, n)), *rng.standard_normal((2, n))
    worst = 0.0
    for moving in (1.0, 0.0):
        t_tan, h_tan = moving * step.point.t_tan, moving * step.h_tan
        bars = (k_bar, y1_bar, out_bar * (1.0 - moving))
        x_tan = np.concatenate([[t_tan, h_tan], step.point.y_tan, step.point.theta_tan])
        left = np.concatenate([np.ravel(bar * tan) for bar, tan in zip(bars, step.jvp(t_tan, h_tan))])
        right = step.vjp(*bars) * x_tan
        worst = max(worst, abs(left.sum() - right.sum()) / (np.abs(left).sum() + np.abs(right).sum()))
    return worst


@every_field
@every_method
@pytest.mark.parametrize("h", [0.125, -0.0625])
def test_tangent_equals_complex_step(method, field, h):
    assert tangent_error(Step(method, field, h)) <= 1e-13


@every_field
@every_method
@pytest.mark.parametrize("h", [0.125, -0.0625])
def test_transpose_satisfies_the_dot_product_identity(method, field, h):
    step = Step(method, field, h)
    assert transpose_error(step) <= bound(step.table)


@every_field
@every_method
def test_transpose_adds_to_what_is_there(method, field):
    step = Step(method, field)
    bars = np.ones((step.s + 1, field.n)), np.ones(field.n), np.ones(field.n)
    alone = step.vjp(*bars)
    for prefill in (1.0, -1024.0):
        difference = step.vjp(*bars, prefill=prefill) - (prefill + alone)
        assert np.max(np.abs(difference)) <= bound(step.table) * (abs(prefill) + np.max(np.abs(alone)))


@every_method
def test_refilling_the_tape_gives_the_same_bits(method):
    """A kept tape, and one scratch tape that f fills again stage by stage."""
    step = Step(method, FIELDS["mlp"])
    rng = np.random.default_rng(2)
    bars = rng.standard_normal((step.s + 1, step.field.n)), *rng.standard_normal((2, step.field.n))
    scratch = step.field.new_tape(step.s + 2)
    np.testing.assert_array_equal(step.vjp(*bars), step.vjp(*bars, recompute=1, tape=scratch))
    for kept, refilled in zip(step.jvp(0.5, 2.0), step.jvp(0.5, 2.0, recompute=1, tape=scratch)):
        np.testing.assert_array_equal(kept, refilled)


@every_method
def test_slope_at_the_end_without_cotangent_costs_nothing(method):
    """k_bar[s] = 0 skips a transposed evaluation: the same numbers as with one."""
    step = Step(method, FIELDS["forced_oscillator"])
    k_bar = np.zeros((step.s + 1, 2))
    calls = []

    def counting(*arguments):
        calls.append(arguments[0])
        CLASSICAL["forced_oscillator"].vjp(*arguments)
    step.field = types.SimpleNamespace(**{**vars(step.field), "vjp": counting})
    without = step.vjp(k_bar, np.ones(2), np.zeros(2))
    assert len(calls) == step.s
    k_bar[-1] = 1e-300
    np.testing.assert_allclose(step.vjp(k_bar, np.ones(2), np.zeros(2)), without, rtol=4 * cases.EPS)
    assert len(calls) == 2 * step.s + 1


@pytest.mark.parametrize("method", ["euler", "rk4", "dop853"])
def test_dense_output_meets_the_ends_of_the_step(method):
    step = Step(method, FIELDS["forced_oscillator"])
    t, h, y, theta = step.split(step.x)
    out, w = np.empty(2), np.empty(len(step.P))
    step.bodies.dense_output(step.P, 0.0, h, y, step.k, step.k_extra, w, out)
    np.testing.assert_array_equal(out, y)
    step.bodies.dense_output(step.P, 1.0, h, y, step.k, step.k_extra, w, out)
    np.testing.assert_allclose(out, step.y1, rtol=1e-13)


@pytest.mark.parametrize("n", [1, 15, 16, 17, 1024, 1025, 2500])
def test_slope_by_slope_is_the_same_bit_by_bit(n):
    """Also with a weight 0 times a slope that is no number, and a sum that is -0 where its first term is."""
    rng = np.random.default_rng(n)
    weights, k, y, h = rng.standard_normal(6), rng.standard_normal((7, n)), rng.standard_normal(n), 0.3
    weights[1], k[1, 0], k[0, -1], y[-1] = 0.0, np.inf, -0.0, -0.0
    for count in (0, 1, 6):
        z = np.full((3, n), 7.0)
        forms = (explicit_rk.stage_state_by_entries, python_form(explicit_rk.stage_state_by_slopes), explicit_rk.stage_state)
        for form, out in zip(forms, z):
            form(weights, count, h, y, k, out)
        assert z[0].tobytes() == z[1].tobytes() == z[2].tobytes()
        bars = np.repeat(rng.standard_normal((1, 8, n)), 3, axis=0)
        forms = (explicit_rk.stage_state_vjp_by_entries, python_form(explicit_rk.stage_state_vjp_by_slopes),
                 explicit_rk.stage_state_vjp)
        for form, bar in zip(forms, bars):
            form(weights, count, h, y, bar[:7], bar[7])
        assert bars[0].tobytes() == bars[1].tobytes() == bars[2].tobytes()


# --- wrong steps ----------------------------------------------------------------------------------

MUTANTS = {
    "flip the sign of y_bar": ("        y_bar[m] += z_bar[m] ", "        y_bar[m] -= z_bar[m] "),
    "flip the sign of k_bar": ("k_bar[j, m] += weights[j] * scaled", "k_bar[j, m] -= weights[j] * scaled"),
    "by slopes: h missing": ("add_multiple(weights[j], h, z_bar", "add_multiple(weights[j], 1.0, z_bar"),
    "by slopes: next weight": ("add_multiple(weights[j], 1.0, k", "add_multiple(weights[j - 1], 1.0, k"),
    "by slopes: y_bar forgotten": ("add_multiple(1.0, 1.0, z_bar", "add_multiple(0.0, 1.0, z_bar"),
    "A for its transpose": ("stage_state_vjp(A[i], i, h, z_bar", "stage_state_vjp(A[:, i].copy(), i, h, z_bar"),
    "next row of A": ("stage_state_vjp(A[i], i, h, z_bar", "stage_state_vjp(A[min(i + 1, s - 1)], i, h, z_bar"),
    "last b missing": ("stage_state_vjp(b, s, h, y1_bar", "stage_state_vjp(b, s - 1, h, y1_bar"),
    "first b only": ("stage_state_vjp(b, s, h, y1_bar", "stage_state_vjp(b, 1, h, y1_bar"),
    "wrong node in vjp": ("slope_vjp(f, f_vjp, c[i], t", "slope_vjp(f, f_vjp, c[i - 1], t"),
    "wrong last node in vjp": ("slope_vjp(f, f_vjp, 1.0, t, h, y1", "slope_vjp(f, f_vjp, 0.5, t, h, y1"),
    "wrong node in jvp": ("else (b, 1.0)", "else (b, 0.5)"),
    "last slope forgotten": ("if has_nonzero(k_bar[s]):", "if False:"),
    "first slope forgotten": ("k_bar[0],\n              t_bar, h_bar, y_bar, theta_bar)",
                              "0.0 * k_bar[0],\n              t_bar, h_bar, y_bar, theta_bar)"),
    "z_bar not reset": ("        z_bar[:] = 0.0\n        slope_vjp", "        slope_vjp"),
    "h_bar without nodes": ("h_bar[0] += node * (t_bar[0] - before)", "h_bar[0] += t_bar[0] - before"),
    "h_bar without slopes": ("h_bar += total * z_bar[m]", "h_bar += 0.0"),
    "h_tan missing in jvp": ("        add_slopes(weights, i, h_tan, k, z_tan)\n", ""),
    "node missing in jvp": ("t_tan + node * h_tan", "t_tan + h_tan"),
    "theta_tan doubled": ("z_tan, theta_tan, tape[i], k_tan[i])", "z_tan, 2 * theta_tan, tape[i], k_tan[i])"),
    "dense: y_bar forgotten": ("        y_bar[m] += out_bar[m]", "        y_bar[m] += 0.0"),
    "dense: h missing": ("scaled = h * out_bar[m]", "scaled = out_bar[m]"),
    "dense: last slope": ("for i in range(own):\n            k_bar[i, m] += w[i]",
                          "for i in range(own - 1):\n            k_bar[i, m] += w[i]"),
    "dense: extra weights": ("w[own + e] * scaled", "w[e] * scaled"),
    "extra: sign": ("k_extra_bar[j, m] += h * A_extra", "k_extra_bar[j, m] -= h * A_extra"),
    "extra: column": ("A_extra[e, own + j] * z_bar", "A_extra[e, j] * z_bar"),
    "extra: tangent of the others": ("            add_slopes(A_extra[e, own:], e, h, k_extra_tan, z_tan)\n", ""),
}


def mutant_step(*change, field="forced_oscillator"):
    return Step("dop853", FIELDS[field],
                bodies=types.SimpleNamespace(**changed_source(explicit_rk, *change)))


@pytest.mark.parametrize("field", FIELDS)
def test_unchanged_source_passes(field):
    step = mutant_step(field=field)
    assert tangent_error(step) <= 1e-13 and transpose_error(step) <= bound(step.table)


@pytest.mark.parametrize("name", MUTANTS)
def test_wrong_step_is_caught(name):
    """By at least a factor 1e6 over the bound of the same check that right steps pass."""
    step = mutant_step(MUTANTS[name], field="mlp" if name.startswith("by slopes") else "forced_oscillator")
    assert max(tangent_error(step), transpose_error(step)) > 1e6 * 1e-13
