"""The reference problems as data: their inputs, their hash, what they say about themselves, and field = rhs.

Their gradients are in test_reference_gradients.py.
"""
import fractions
import json
import re
import subprocess
import sys

import numpy as np
import pytest

import cases
from refnode.errors import InvalidInputError, MissingDerivativeError
from refnode.fields import bouncing
from refnode.fields.classical import CLASSICAL
from refnode.fields.expressions import checked_tree
from refnode.fields.reference_fields import REFERENCE_FIELDS
from refnode.interchange.canonical_json import problem_sha256
from refnode.losses import scaled, sum_of_squares
from refnode.problems.certified import certified
from refnode.problems.reference_losses import FINAL, RUNNING, loss_of
from refnode.problems.reference_problem import direction, reference, switches_of, without
from refnode.problems.reference_set import MODULES, REFERENCE_PROBLEMS
from refnode.problems.reference_set_networks import congruence, density_texts, integer_weights
from refnode.problems.reference_solutions import RUNNING_FORMS, solution_texts
from refnode.sensitivity.gradient import gradient

NAMESPACE = {name: getattr(np, name) for name in ("sin", "cos", "tan", "exp", "log", "sqrt", "tanh", "sinh", "cosh", "pi")}
RECORDS = list(REFERENCE_PROBLEMS.values())
every_record = pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.id)

# The keys of the table of known mistakes.
MISTAKES = set("""sign factor_two factor_half mean_for_sum interior_jumps_missing last_jump_missing last_jump_doubled
    first_jump_missing transposed_jacobian loss_time_derivative_missing running_cost_missing first_order_quadrature
    permuted_parameters component_term_dropped single_precision low_order_interpolation backsolve_drift
    uncontrolled_tangent error_independent_of_tolerance first_nan t0_gradient_sign t1_gradient_missing
    differentiated_step_control step_heuristic_leak quadrature_not_controlled switch_time_ignored state_switch_ignored
    one_switch_ignored absolute_tolerance_on_adjoint hidden_forcing batch_dilution stops_at_first_observation time_cast_to_single
    zero_gradient parameter_captured""".split())
ANTI_TRAPS = {"sine_decay/floor"}


def numbers_in(value):
    """All numbers in nested lists and dictionaries."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [number for entry in value for number in numbers_in(entry)]
    return [value] if isinstance(value, float) else []


def significant_bits(x):
    numerator = abs(fractions.Fraction(x).numerator)
    return 0 if numerator == 0 else numerator.bit_length() - ((numerator & -numerator).bit_length() - 1)


# --- inputs and names -----------------------------------------------------------------------------

def test_there_are_enough_and_ids_are_unique():
    assert len(RECORDS) == sum(len(module.PROBLEMS) for module in MODULES) >= 60
    assert all(record.id == key and re.fullmatch(r"[a-z0-9_]+/[a-z0-9_]+", key) for key, record in REFERENCE_PROBLEMS.items())


@every_record
def test_every_input_is_a_dyadic_rational_of_24_bits_in_the_range_of_float32(record):
    inputs = numbers_in([record.t0, record.t1, record.y0, record.theta, record.ts, record.loss, record.hvp_direction])
    assert len(inputs) >= 4 and all(np.isfinite(inputs))
    for x in inputs:
        assert significant_bits(x) <= 24 and float(np.float32(x)) == x


def test_the_count_of_bits_itself():
    assert [significant_bits(x) for x in (0.0, 1.0, -6.0, 0.1, 1.0 + 2.0 ** -23, 1.0 + 2.0 ** -24, 2.0 ** -100)] == [
        0, 1, 2, 52, 24, 25, 1]


@every_record
def test_what_a_problem_says_about_itself(record):
    assert set(record.exposes) <= MISTAKES and len(set(record.exposes)) == len(record.exposes)
    assert record.exposes or record.id in ANTI_TRAPS
    assert re.fullmatch(r"[^.]([^.]|\.\d)*\.", record.note), "one sentence"
    assert [len(record.names[which]) for which in ("y", "theta")] == [len(record.y0), len(record.theta)]
    assert all(len(set(names)) == len(names) for names in record.names.values())
    if record.hvp_direction is not None:
        assert [len(record.hvp_direction[which]) for which in ("y0", "theta")] == [len(record.y0), len(record.theta)]
    else:
        assert "hvp" in record.withheld or record.field.hvp is None


def test_every_known_mistake_is_exposed_by_a_problem():
    assert MISTAKES - {key for record in RECORDS for key in record.exposes} == set()


def test_every_field_that_is_not_classical_serves_a_problem():
    used = {record.field.name for record in RECORDS}
    assert {name for name in REFERENCE_FIELDS if name not in used} == set()
    assert used - set(REFERENCE_FIELDS) - set(CLASSICAL) == {
        "mlp_2_16_2_tanh", "mlp_2_32_32_2_tanh", "mlp_8_32_8_tanh", "mlp_2_16_2_tanh_time", "16xvan_der_pol"}


def test_condition_numbers_are_known_and_plausible():
    assert [record.id for record in RECORDS if record.kappa is None] == []
    large = {record.id for record in RECORDS if not 1.0 < record.kappa < 1e4}
    assert large == {
        "twin_growth/gap_2m20", "twin_growth/gap_2m30",                 # theta has a part of 1e-5 and less in the gradient
        "cosine_relaxation/k10", "cosine_relaxation/k100", "cosine_relaxation/k1000",        # as y0 has here
        "lorenz/t20", *ANTI_TRAPS}


# --- as a dictionary ------------------------------------------------------------------------------

@every_record
def test_to_dict_is_json_with_its_hash(record):
    content = record.to_dict()
    text = json.dumps(content, allow_nan=False)
    assert json.loads(text) == content and content["sha256"] == problem_sha256(content)
    assert (content["format"], content["version"], content["id"]) == ("refnode.problem", 1, record.id)
    content["loss"].clear()
    content["y0"][0] = 5.0
    assert json.dumps(record.to_dict(), allow_nan=False) == text          # nothing is shared


def test_hashes_differ_and_depend_on_the_inputs_alone():
    assert len({record.to_dict()["sha256"] for record in RECORDS}) == len(RECORDS)
    arguments = dict(y0=[1, 0.5], theta=[0.5, 2], span=(0, 1), loss={"kind": "sumsq", "data": None})
    field, rhs = CLASSICAL["pendulum"], REFERENCE_PROBLEMS["pendulum/swing"].rhs
    hashes = [reference("a/b", field, rhs, exposes=exposes, note=note, **{**arguments, **changed}).to_dict()["sha256"]
              for exposes, note, changed in (
                  ((), "One.", {}), (("sign",), "Two.", {"y0": (1.0, 0.5)}), ((), "One.", {"theta": [0.5, 2.5]}))]
    assert hashes[0] == hashes[1] != hashes[2]


def test_the_set_is_loaded_late():
    script = "import refnode, sys; print([name for name in sys.modules if 'reference_set' in name])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert result.stdout.strip() == "[]", result.stdout + result.stderr


def texts_in(value):
    """All texts of expressions in a right-hand side or a loss."""
    if isinstance(value, dict):
        return [text for key, entry in value.items() if key not in ("kind", "mlp") for text in texts_in(entry)]
    if isinstance(value, list):
        return [text for entry in value for text in texts_in(entry)]
    return [value] if isinstance(value, str) else []


@every_record
def test_texts_are_in_the_whitelisted_grammar(record):
    for i, text in enumerate(texts_in([record.rhs, record.loss])):
        checked_tree(i, text)
    assert texts_in(record.rhs) or "mlp" in record.rhs


# --- field = rhs ----------------------------------------------------------------------------------

def evaluate_texts(texts, t, y, theta):
    return np.array([eval(text, NAMESPACE, {"t": t, "y": y, "theta": theta}) for text in texts])


def evaluate_rhs(rhs, t, y, theta):
    """dy/dt from the right-hand side as data, apart from refnode's own code."""
    if "mlp" in rhs:
        return evaluate_mlp(rhs["mlp"], t, y, theta)
    if "pieces" in rhs:
        first, second = rhs["pieces"]
        (kind, text), = rhs["switch"].items()
        value, = evaluate_texts([text], t, y, theta)
        rhs = first if (t < value if kind == "time" else value < 0.0) else second
    return evaluate_texts(rhs["expr"], t, y, theta)


def evaluate_mlp(mlp, t, y, theta):
    layers, at = list(mlp["layers"]), 0
    a = np.append(y, t) if mlp["time_input"] else y
    for number, d_out in enumerate(layers[1:], start=1):
        W = [[theta[at + i * a.size + j] for j in range(a.size)] for i in range(d_out)]
        b = theta[at + d_out * a.size:at + d_out * (a.size + 1)]
        at += d_out * (a.size + 1)
        z = np.sum(np.multiply(W, a), axis=1) + b
        a = z if number == len(layers) - 1 else np.tanh(z)
    assert at == len(theta)
    return a


def points_of(record, count=12):
    """Random (t, y, theta): inputs of the problem times factors about 1, and numbers about 1 where they are 0."""
    rng = np.random.default_rng(len(record.id))
    for _ in range(count):
        t = rng.uniform(*sorted((record.t0, record.t1)))
        y, theta = (np.where(np.array(x) == 0.0, 1.0, x) * rng.uniform(0.5, 1.5, len(x)) for x in (record.y0, record.theta))
        y = y * rng.choice([-1.0, 0.0625, 1.0]) if "pieces" in record.rhs else y                    # both pieces are met
        yield t, y if is_in_piece(record, t, y, theta) else -y, theta


def piece_at(record, t):
    """The number of the piece at a time of the solution, by the proven times of several switches."""
    return int(np.searchsorted(certified(record.id).values["event_time"], t))


def is_in_piece(record, t, y, theta):
    """Whether y is on the side of the switches on which the solution is at t, where there are several."""
    if len(switches_of(record.rhs)) < 2:
        return True
    k, last = piece_at(record, t), len(record.rhs["switch"]) - 1
    value, = evaluate_texts([record.rhs["switch"][min(k, last)]["state"]], t, y, theta)
    return (value < 0.0) == (k <= last)


def rhs_at(record, t):
    """The right-hand side, or its piece at a time of the solution: which of more than two holds, no point tells."""
    return record.rhs["pieces"][piece_at(record, t)] if len(switches_of(record.rhs)) > 1 else record.rhs


@every_record
def test_field_equals_rhs(record):
    """To the roundings of some tens of operations, of each component's own terms or of the largest component."""
    for t, y, theta in points_of(record):
        expected = evaluate_rhs(rhs_at(record, t), t, y, theta)
        found = record.field(t, y, theta)
        sizes = np.abs(expected) + 16.0 * np.abs(y) * np.max(np.abs(expected / np.where(y == 0.0, 1.0, y)))
        assert np.all(np.abs(found - expected) <= 64 * cases.EPS * np.maximum(sizes, 1e-300))


@every_record
def test_a_field_with_another_sign_or_index_is_told_from_its_rhs(record):
    """The test above sees a permutation of theta, and a part of the right-hand side that is 1e-10 off."""
    t, y, theta = next(points_of(record))
    expected = evaluate_rhs(rhs_at(record, t), t, y, theta)
    assert np.any(np.abs(record.field(t, y, theta * (1.0 + 1e-10)) - expected) > 1e-13 * np.abs(expected))
    if theta.size > 1:
        assert np.any(record.field(t, y, np.roll(theta, 1)) != expected)


def test_both_pieces_are_met():
    for record in RECORDS:
        if len(switches_of(record.rhs)) > 1:
            assert {piece_at(record, t) for t, _, _ in points_of(record)} == set(range(len(record.rhs["pieces"])))
        elif "pieces" in record.rhs:
            kind, text = next(iter(record.rhs["switch"].items()))
            values = [(evaluate_texts([text], t, y, theta)[0], t) for t, y, theta in points_of(record)]
            assert len({t < value if kind == "time" else value < 0.0 for value, t in values}) == 2, record.id


# --- losses ---------------------------------------------------------------------------------------

def loss_value(loss, ys, y1):
    """The value of a loss as data without its running cost."""
    kind, scale = loss["kind"], loss.get("scale", 1.0)
    if kind == "sum":
        return sum(loss_value(term, ys, y1) for term in loss["terms"])
    if kind == "sumsq":
        return scale * np.sum((ys - (0.0 if loss["data"] is None else np.array(loss["data"]))) ** 2)
    if kind == "linear":
        return scale * np.sum(np.array(loss["weights"]) * ys)
    return scale * eval(loss["expr"], NAMESPACE, {"y": y1}) if kind == "final" else 0.0


@every_record
def test_loss_equals_its_form_as_data_and_its_vjp_is_its_derivative(record):
    rng, loss = np.random.default_rng(0), record.problem.loss
    n, count = len(record.y0), len(record.problem.ts)
    size = np.abs(np.array(record.y0))[:, None] + (np.min(np.abs(record.y0)) == 0.0)
    ys, y1 = size * rng.uniform(0.5, 1.5, (n, count)), size[:, 0] * rng.uniform(0.5, 1.5, n)
    ys_tan, y1_tan = size * rng.standard_normal((n, count)), size[:, 0] * rng.standard_normal(n)
    value = loss.value(ys, y1)
    assert value == pytest.approx(loss_value(record.loss, ys, y1), rel=1e-13)
    step = 1e-20j
    expected = loss_value(record.loss, ys + step * ys_tan, y1 + step * y1_tan).imag / 1e-20
    assert loss.jvp(ys, y1, ys_tan, y1_tan) == pytest.approx(expected, rel=1e-12, abs=1e-13 * abs(value))
    moved = [loss.vjp(ys + sign * 2.0 ** -3 * ys_tan, y1 + sign * 2.0 ** -3 * y1_tan) for sign in (1.0, -1.0)]
    for bar_tan, plus, minus in zip(loss.hvp(ys, y1, ys_tan, y1_tan), *moved):      # quadratic: differences are exact
        np.testing.assert_allclose(bar_tan, 4.0 * (plus - minus), rtol=0.0, atol=1e-13 * max(np.max(np.abs(plus)), 1e-300))


@pytest.mark.parametrize("text", RUNNING)
def test_running_costs_are_their_texts_with_three_derivatives(text):
    g, g_jvp, g_vjp, g_hvp = RUNNING[text]
    point = cases.random_points(text, 2, 2, 1)[0]
    x, step, zero = np.concatenate([[point.t], point.y, point.theta]), 1e-30j, np.empty(0, complex)

    def value(x):
        return eval(text, NAMESPACE, {"t": x[0], "y": x[1:3], "theta": x[3:]})

    assert g(point.t, point.y, point.theta) == pytest.approx(value(x), rel=1e-14)
    grad = np.array([value(x + step * e).imag / 1e-30 for e in np.eye(5)])
    tangent = point.tangent
    assert g_jvp(point.t, point.y, point.theta, point.t_tan, point.y_tan, point.theta_tan) == pytest.approx(grad @ tangent, rel=1e-13)
    bars = [np.ones(1), np.ones(2), np.ones(2)]
    g_vjp(point.t, point.y, point.theta, 0.75, *bars)
    np.testing.assert_allclose(np.concatenate(bars) - 1.0, 0.75 * grad, rtol=1e-13, atol=1e-15)
    bars = [np.ones(1), np.ones(2), np.ones(2)]
    g_hvp(point.t, point.y, point.theta, point.t_tan, point.y_tan, point.theta_tan, 0.75, -0.5, *bars)
    moved = [np.zeros(1, complex), np.zeros(2, complex), np.zeros(2, complex)]
    z = x + step * tangent
    cases.python_body(g_vjp)(z[0], z[1:3], z[3:], 0.75 - 0.5 * step, *moved)
    np.testing.assert_allclose(np.concatenate(bars) - 1.0, np.concatenate(moved).imag / 1e-30, rtol=1e-13, atol=1e-14)


def test_final_losses_are_in_use():
    used = json.dumps([record.loss for record in RECORDS])
    assert all(json.dumps(text) in used for text in (*FINAL, *RUNNING))


@pytest.mark.parametrize("loss, message", [
    ({"kind": "median"}, r"loss must be of a kind in \['final', .*found 'median'"),
    ({"kind": "sumsq", "data": [[1.0, 2.0]]}, r"data of the loss must have 2 rows of 2 numbers, found shape \(1, 2\)"),
    ({"kind": "final", "expr": "y[1]**3"}, r"final loss with hand-written derivatives is one of .*found 'y\[1\]\*\*3'"),
    ({"kind": "running", "expr": "y[0]**2", "scale": 2.0}, "a running cost cannot be scaled from outside")])
def test_wrong_losses_are_refused(loss, message):
    with pytest.raises(InvalidInputError, match=message):
        loss_of(loss, 2, 2)


def test_scaled_loss():
    data, ys, y1 = np.ones((2, 3)), np.arange(6.0).reshape(2, 3), np.zeros(2)
    loss, twice = sum_of_squares(data), scaled(sum_of_squares(data), 2.0)
    assert twice.value(ys, y1) == 2.0 * loss.value(ys, y1)
    np.testing.assert_array_equal(twice.vjp(ys, y1)[0], 2.0 * loss.vjp(ys, y1)[0])
    np.testing.assert_array_equal(twice.hvp(ys, y1, ys, y1)[0], 2.0 * loss.hvp(ys, y1, ys, y1)[0])
    assert twice.jvp(ys, y1, ys, y1) == 2.0 * loss.jvp(ys, y1, ys, y1)


# --- how the set is written -----------------------------------------------------------------------

def test_integer_weights_are_the_stated_formula():
    numbers = congruence(3)
    r1 = (25173 * 12345 + 13849) % 65536
    r2 = (25173 * r1 + 13849) % 65536
    assert numbers[:2] == [(r1 - 32768) / 32768, (r2 - 32768) / 32768]
    theta = integer_weights((2, 16, 2))
    plain = congruence(82)
    assert len(theta) == 82 and theta[:48] == plain[:48] and theta[48:] == [0.25 * x for x in plain[48:]]
    assert integer_weights((2, 16, 2), time_input=True)[:64] == [0.5 * x for x in congruence(64)]


def test_directions_are_relative_to_inputs_far_from_one():
    assert direction([1.0, 0.0, 31.0], [2.0 ** 20, 3.0]) == {"y0": [1.0, -0.5, 8.0], "theta": [0.75 * 2.0 ** 20, -1.0]}


def test_density_texts_have_the_trace_of_the_velocity():
    *velocity, divergence = density_texts(2, 3)["expr"]
    rng = np.random.default_rng(0)
    y, theta = rng.standard_normal(3), rng.standard_normal(17)
    trace = sum(evaluate_texts([velocity[i]], 0.0, y + 1e-30j * np.eye(3)[i], theta)[0].imag / 1e-30 for i in range(2))
    assert evaluate_texts([divergence], 0.0, y, theta)[0] == pytest.approx(-trace, rel=1e-13)


def test_observations_make_the_end_time_an_input_of_no_loss():
    zeros = {record.id for record in RECORDS if "t1" in record.zero}
    assert "lotka_volterra/obs21" in zeros and "lotka_volterra/terminal" not in zeros
    assert "lotka_volterra/running_cost" not in zeros and "exponential_decay/mixed_loss" not in zeros


def test_a_field_of_several_pieces_is_another_one_in_each():
    """Every pair of neighbouring pieces is told apart: the marks of the field lie where they must."""
    record = REFERENCE_PROBLEMS["bounce/thrice"]
    times, theta = certified(record.id).values["event_time"], np.array(record.theta)
    assert times[0] < bouncing.MARK_1 < times[1] < bouncing.MARK_2 < times[2] < record.t1
    falls = [record.field(t, y, theta)[1] for t, y in zip((0.5, 1.0, 2.0, 2.6), np.array([[1, 0], [-1, 0], [1, 0], [-1, 0]], float))]
    np.testing.assert_allclose(falls, [-theta[0] / (-theta[1]) ** k for k in range(4)], rtol=1e-15)


def test_derivatives_across_a_switch_are_refused_not_wrong():
    withheld = {record.id: record.withheld for record in RECORDS if record.withheld}
    assert set(withheld) == {record.id for record in RECORDS if "pieces" in record.rhs}
    for id, missing in withheld.items():
        record = REFERENCE_PROBLEMS[id]
        assert record.field.vjp is not None and record.problem.field.hvp is None
        if "vjp" in missing:
            with pytest.raises(MissingDerivativeError, match=r"\(switched\)' has no vjp"):
                gradient(record.problem)


def test_without_keeps_everything_else():
    field = REFERENCE_PROBLEMS["mlp/time_2_16_2"].field
    bare = without(field, ("hvp",))
    assert bare.hvp is None and bare.vjp is field.vjp and bare.jvp is field.jvp and bare.tape_size == field.tape_size
    np.testing.assert_array_equal(bare(0.5, [1.0, 2.0], np.ones(98)), field(0.5, [1.0, 2.0], np.ones(98)))


def test_closed_forms_are_those_of_their_field():
    """The running form, and which problems have a form at all."""
    assert set(RUNNING_FORMS) <= set(REFERENCE_PROBLEMS)
    assert sum(solution_texts(record) is not None for record in RECORDS) >= 30
