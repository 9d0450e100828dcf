"""The fields of both registries: every jvp against complex steps, every vjp against its jvp, and both against mutants."""
import numpy as np
import pytest
from numba import config

import cases
from refnode.fields.classical import CLASSICAL
from refnode.fields.field import VectorField
from refnode.fields.reference_fields import REFERENCE_FIELDS, SWITCHED

FIELDS = [pytest.param(*case, id=f"{case[0]}-{case[1]}") for case in cases.field_cases()]
EVERY_POINT = 5


def points(name, n, p):
    return cases.random_points(name, n, p, EVERY_POINT)


def test_registry_is_keyed_by_name_and_complete():
    assert {name: field.name for name, field in cases.FIELDS.items()} == {name: name for name in cases.FIELDS}
    assert not set(CLASSICAL) & set(REFERENCE_FIELDS)
    for field in cases.FIELDS.values():
        assert field.compiled != bool(config.DISABLE_JIT)
        assert field.jvp is not None and field.vjp is not None


@pytest.mark.parametrize("name", cases.FIELDS)
def test_names_match_sizes(name):
    field = cases.FIELDS[name]
    for size, names in ((field.n, field.state_names), (field.p, field.parameter_names)):
        assert names is None or len(names) == len(set(names)) == size


@pytest.mark.parametrize("name, n, p", FIELDS)
def test_jvp_equals_complex_step(name, n, p):
    for point in points(name, n, p):
        assert cases.jvp_error(cases.FIELDS[name], point) <= 1e-13


@pytest.mark.parametrize("name, n, p", FIELDS)
def test_vjp_is_the_transpose_of_jvp(name, n, p):
    for point in points(name, n, p):
        assert cases.dot_product_error(cases.FIELDS[name], point) <= 1.0


@pytest.mark.parametrize("name, n, p", FIELDS)
def test_vjp_equals_complex_step_in_every_component(name, n, p):
    """The dot product sees one number; this sees each bar."""
    for point in points(name, n, p):
        jac = cases.complex_step_jac(cases.FIELDS[name], point)
        error = np.abs(cases.evaluate_vjp(cases.FIELDS[name], point) - jac.T @ point.dy_bar)
        assert np.all(error <= 1e-13 * (np.abs(jac).T @ np.abs(point.dy_bar)))


@pytest.mark.parametrize("name, n, p", FIELDS)
def test_vjp_accumulates(name, n, p):
    for point in points(name, n, p):
        assert cases.accumulation_error(cases.FIELDS[name], point) <= 1.0


@pytest.mark.parametrize("name, n, p", FIELDS)
def test_time_derivative_is_there_exactly_where_the_field_depends_on_time(name, n, p):
    for point in points(name, n, p):
        derivative = cases.complex_step_jac(cases.FIELDS[name], point)[:, 0]
        t_bar = cases.evaluate_vjp(cases.FIELDS[name], point)[0]
        assert np.any(derivative != 0.0) == (name in cases.NON_AUTONOMOUS) == (t_bar != 0.0)


@pytest.mark.parametrize("name, n, p", FIELDS)
def test_outputs_only_are_written(name, n, p):
    point = points(name, n, p)[0]
    before = [x.copy() for x in (point.y, point.theta, point.y_tan, point.theta_tan, point.dy_bar)]
    cases.evaluate_f(cases.FIELDS[name], point.t, point.y, point.theta)
    cases.evaluate_jvp(cases.FIELDS[name], point)
    cases.evaluate_vjp(cases.FIELDS[name], point)
    after = (point.y, point.theta, point.y_tan, point.theta_tan, point.dy_bar)
    assert all(np.array_equal(x, y) for x, y in zip(before, after))


@pytest.mark.parametrize("name, n, p", FIELDS)
def test_every_mutant_of_the_vjp_is_caught(name, n, p):
    """The checks above fail for every vjp with one statement flipped, dropped, doubled or overwriting."""
    field, survivors, count = cases.FIELDS[name], [], 0
    sample = points(name, n, p)[:None if name in SWITCHED else 2]         # both pieces are met
    for label, mutant in cases.mutants(field.vjp):
        count += 1
        caught = max(max(cases.dot_product_error(field, point, mutant),
                         cases.accumulation_error(field, point, mutant)) for point in sample) > 1.0
        if not caught:
            survivors.append(label)
    assert count >= 8 and not survivors


@pytest.mark.parametrize("name, n, p", FIELDS)
def test_unmutated_python_form_passes(name, n, p):
    """What the mutants are made from is itself right, so it is the mutation that is caught."""
    field = cases.FIELDS[name]
    for point in points(name, n, p)[:2]:
        assert cases.dot_product_error(field, point, cases.python_body(field.vjp)) <= 1.0
        assert cases.accumulation_error(field, point, cases.python_body(field.vjp)) <= 1.0


def test_a_mutated_jvp_is_caught_by_the_complex_step():
    right = CLASSICAL["lorenz"]

    def wrong_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
        right.jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan)
        dy_tan[2] += theta[2] * y_tan[2]

    wrong = VectorField(right.f, jvp=wrong_jvp, vjp=right.vjp, n=3, p=3)
    point = cases.random_points("lorenz", 3, 3)[0]
    assert cases.jvp_error(wrong, point) > 1e-3


# --- values: known numbers and invariants ---------------------------------------------------------

def test_values_of_each_field_by_hand():
    """dy at one point, worked out by hand with small exact numbers."""
    by_hand = {
        "linear": (0.0, [1.0, 2.0], [1.0, 2.0, 3.0, 4.0], [5.0, 11.0]),
        "exponential_decay": (0.0, [2.0, -4.0], [0.5], [-1.0, 2.0]),
        "logistic": (0.0, [1.0], [3.0, 4.0], [2.25]),
        "cosine_relaxation": (0.0, [3.0], [0.5], [-1.0]),
        "twin_growth": (0.0, [3.0, 1.0], [0.5, 0.25], [1.0, -0.5]),
        "forced_oscillator": (2.0, [1.0, 3.0], [2.0, 0.5, 4.0, 0.5, -1.0], [3.0, 0.5]),
        "lotka_volterra": (0.0, [2.0, 3.0], [1.5, 1.0, 3.0, 0.5], [-3.0, -6.0]),
        "van_der_pol": (0.0, [2.0, 3.0], [0.5], [3.0, -6.5]),
        "lorenz": (0.0, [1.0, 2.0, 3.0], [10.0, 28.0, 2.0], [10.0, 23.0, -4.0]),
        "robertson": (0.0, [1.0, 2.0, 3.0], [0.5, 4.0, 0.25], [1.0, -17.0, 16.0]),
        "pendulum": (0.0, [0.0, 2.0], [4.0, 0.5], [2.0, -1.0]),
        "kepler": (0.0, [3.0, 4.0, 1.0, 2.0], [125.0], [1.0, 2.0, -3.0, -4.0]),
    }
    assert by_hand.keys() == CLASSICAL.keys()
    for name, (t, y, theta, expected) in by_hand.items():
        np.testing.assert_array_equal(CLASSICAL[name](t, y, theta), expected, err_msg=name)


def test_robertson_conserves_the_total():
    for point in points("robertson", 3, 3):
        dy = cases.evaluate_f(CLASSICAL["robertson"], point.t, point.y, point.theta)
        assert abs(np.sum(dy)) <= 8 * cases.EPS * np.sum(np.abs(dy))


def test_kepler_conserves_energy_and_angular_momentum():
    for point in points("kepler", 4, 1):
        q, v, mu = point.y[:2], point.y[2:], point.theta[0]
        rate = cases.evaluate_f(CLASSICAL["kepler"], point.t, point.y, point.theta)
        energy_rate = v @ rate[2:] + mu * (q @ rate[:2]) / np.hypot(*q) ** 3
        momentum_rate = q[0] * rate[3] - q[1] * rate[2]
        assert max(abs(energy_rate), abs(momentum_rate)) <= 64 * cases.EPS * (1.0 + np.abs(rate).max()) ** 2


def test_twin_growth_is_at_rest_where_the_twins_are_equal():
    np.testing.assert_array_equal(CLASSICAL["twin_growth"](0.0, [1.25, 1.25], [3.0, 5.0]), [0.0, 0.0])
