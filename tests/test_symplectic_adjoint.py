"""The symplectic adjoint: `discrete` by another sum, and lambda . delta conserved from step to step."""
import numpy as np
import pytest

import gradients
from gradients import ADAPTIVE, METHODS, block_error, flat, python_field, random_seeds, weighted_error
from refnode import losses
from refnode.fields.neural import mlp_field
from refnode.host_device import python_form
from refnode.problems.catalogue import CATALOGUE
from refnode.problems.problem import Problem
from refnode.sensitivity import symplectic_adjoint
from refnode.sensitivity.cotangents import Seeds
from refnode.sensitivity.gradient import gradient, jvp, vjp
from refnode.sensitivity.symplectic_adjoint import PartnerSweep, logged_forward, partner_method
from refnode.solve.options import SolveOptions
from refnode.steppers.tableaus import TABLEAUS

# A Lambda is divided by a weight where `discrete` has its slope's cotangent: two roundings more a stage, over
# tens of steps of up to 12 stages, in unfavourable signs some 1e3 eps.
ROUNDING = 1e-13
CONSERVED = 1e-14            # of sum |lambda_i delta_i|, at its largest over the steps


def difference(problem, **options):
    """Of `symplectic` from `discrete`, by block."""
    found, expected = (flat(gradient(problem, name, **options)) for name in ("symplectic", "discrete"))
    return block_error(problem, found, expected)


# --- equal to the transpose -----------------------------------------------------------------------

@pytest.mark.parametrize("method", METHODS)
def test_equals_the_transpose_for_every_method(method):
    """Observations at t0, inside steps (two in one), at a step's end, at t1; methods with zero weights among them."""
    problem = CATALOGUE["forced_oscillator"]()
    problem = problem.replace(t1=problem.t0 + 3.0, ts=problem.t0 + np.array([0.0, 0.31, 0.35, 0.375, 1.7, 3.0, 3.0]),
                              loss=losses.sum_of_squares())
    assert difference(problem, method=method, n_steps=24) <= ROUNDING


@pytest.mark.slow
@pytest.mark.parametrize("name", CATALOGUE)
def test_equals_the_transpose_on_every_problem(name):
    """Each entry in units of its input: in lorenz and kepler small ones are differences of large ones, and there
    `discrete` itself is 1.4e-12 and 2.8e-13 of its block from complex steps."""
    problem = CATALOGUE[name]()
    for options in [{"method": method, "n_steps": 24} for method in METHODS] + [
            {"method": method, "rtol": 1e-5, "atol": 1e-8} for method in ADAPTIVE]:
        found, expected = (flat(gradient(problem, each, **options)) for each in ("symplectic", "discrete"))
        assert weighted_error(problem, found, expected) <= ROUNDING


@pytest.mark.parametrize("options", [{"method": "dop853", "n_steps": 7}, {"method": "dopri5", "rtol": 1e-7}],
                         ids=lambda options: options["method"])
def test_equals_the_transpose_with_a_tape(options):
    field = mlp_field((2, 5, 2), "tanh", batch=2, time_input=True)
    rng = np.random.default_rng(1)
    problem = Problem(field, rng.uniform(-1.0, 1.0, field.n), 0.5 * rng.standard_normal(field.p), t_span=(0.1, 1.3),
                      ts=[0.25, 0.3125, 1.3])
    seeds = random_seeds(problem, rng)
    found, expected = (flat(vjp(problem, *seeds, sensitivity=name, **options)) for name in ("symplectic", "discrete"))
    assert block_error(problem, found, expected) <= ROUNDING


@pytest.mark.parametrize("method", ["midpoint", "dopri5", "dop853"])
def test_equals_complex_steps_through_the_frozen_steps(method):
    """A second witness, that knows of no transpose."""
    problem = CATALOGUE["lotka_volterra"]().replace(loss=None)
    seeds = random_seeds(problem, np.random.default_rng(2))
    times = np.linspace(problem.t0, problem.t1, 25)
    expected = gradients.frozen_gradient(problem, times, method, *seeds)
    found = flat(vjp(problem, *seeds, sensitivity="symplectic", method=method, n_steps=24))
    assert block_error(problem, found, expected) <= gradients.COMPLEX_STEP


# --- the partner ----------------------------------------------------------------------------------

@pytest.mark.parametrize("method", METHODS)
def test_the_pair_is_symplectic(method):
    """b_i a^_ij + b_j a_ji = b_i b_j, where a^_ij = b_j - b_j a_ji / b_i belongs to the direction of time."""
    table = TABLEAUS[method]
    A, b, s = table.A_array, table.b_array, table.s
    stages, weights = partner_method(A, b)
    assert np.array_equal(weights[:s][b != 0.0], b[b != 0.0]) and np.all(weights != 0.0)
    for i in np.flatnonzero(b):
        partner = np.where(b != 0.0, b - stages[i, :s], -stages[i, :s])
        zero = b == 0.0
        np.testing.assert_allclose((b[i] * partner + b * A[:, i])[~zero], (b[i] * b)[~zero], rtol=0.0,
                                   atol=1e-15 * np.max(np.abs(b)) * max(1.0, np.max(np.abs(A))))
        np.testing.assert_allclose(stages[i, :s][zero], (A[:, i] / b[i])[zero], rtol=1e-15)


@pytest.mark.parametrize("unit", [1e-3, -7.0])
def test_any_unit_for_stages_without_weight(unit, monkeypatch):
    """dopri5 has one weight zero and DOP853 four: what stands in their place cancels."""
    def in_other_units(A, b):
        scale = np.append(np.where(b != 0.0, 1.0, unit), unit)
        stages, weights = partner_method(A, b)
        return np.ascontiguousarray(stages * scale / scale[:, None]), weights * scale
    monkeypatch.setattr(symplectic_adjoint, "partner_method", in_other_units)
    for method in ("midpoint", "dopri5", "dop853"):
        assert difference(CATALOGUE["lotka_volterra"](), method=method, n_steps=24) <= ROUNDING


# --- the invariant (A20) --------------------------------------------------------------------------

def invariant(problem, method, n_steps=48):
    """lambda_n . delta_n and sum |lambda_n delta_n| at the begin of every step, last first, and at t1."""
    grid = np.linspace(problem.t0, problem.t1, n_steps + 1)
    options = {"method": method, "n_steps": n_steps}
    rng = np.random.default_rng(n_steps)
    y0_tan = rng.standard_normal(problem.y0.size)
    delta = jvp(problem.replace(ts=grid, loss=None), y0_tan, **options)
    unseen = problem.replace(ts=[], loss=None)
    forward = logged_forward(unseen, SolveOptions.of(**options))
    partner = PartnerSweep(forward, Seeds(np.empty((0, forward.n)), rng.standard_normal(forward.n)))
    products = [partner.lam * delta[:, -1]]
    for i in range(n_steps - 1, -1, -1):
        partner.run(one_step=True)
        products.append(partner.lam * delta[:, i])
    return np.sum(products, axis=1), np.abs(products).sum(axis=1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["kepler", "forced_oscillator"])
def test_lambda_dot_delta_is_conserved(name, method):
    """To rounding and at every step, though none of these methods is symplectic by itself."""
    product, size = invariant(CATALOGUE[name](), method)
    assert np.max(np.abs(product - product[0])) <= CONSERVED * np.max(size)


# --- partners that are wrong on purpose -----------------------------------------------------------

def mutant_difference(monkeypatch, method="dopri5", **replaced):
    """`difference` with some functions of the module replaced, un-jitted: nothing wrong reaches the cache."""
    twin = python_form(symplectic_adjoint.symplectic_adjoint).__globals__["pull_by_partner"]
    inner = twin.__globals__["partner_step"]
    for name, function in replaced.items():
        if name == "partner_method":
            monkeypatch.setattr(symplectic_adjoint, name, function)
        else:
            monkeypatch.setitem(inner.__globals__, name, function)
    problem = CATALOGUE["forced_oscillator"]()
    problem = problem.replace(field=python_field(problem.field), t1=problem.t0 + 3.0,
                              ts=problem.t0 + np.array([0.31, 1.7, 3.0]), loss=losses.sum_of_squares())
    return difference(problem, method=method, n_steps=12)


def test_right_partner_passes_un_jitted(monkeypatch):
    assert mutant_difference(monkeypatch) <= ROUNDING


@pytest.mark.parametrize("old, new", [
    ("+ impulse", "- impulse"), ("+ impulse", ""), ("lam1[m] if weighs else 0.0", "lam1[m]"), ("- h * total", "+ h * total"),
    ("range(i + 1, count)", "range(i + 2, count)")],
    ids=["impulse: sign", "impulse: none", "zero weight ignored", "slopes: sign", "a stage missing"])
def test_wrong_stages_are_caught(old, new, monkeypatch):
    source = ("lam_stage[m] = (lam1[m] if weighs else 0.0) - h * total + impulse"
              if "range" not in old else "for j in range(i + 1, count):")
    wrong = gradients.changed_source(symplectic_adjoint, (source, source.replace(old, new)))["partner_stage"]
    assert mutant_difference(monkeypatch, partner_stage=wrong) > 1e3 * ROUNDING


def same_method(A, b):
    """The method itself run backwards, instead of its partner. (For Kutta's methods of order 4 the two are one.)"""
    stages, weights = partner_method(A, b)
    stages[:b.size, :b.size] = A[::-1, ::-1]
    return stages, weights


def test_another_method_than_the_partner_is_caught(monkeypatch):
    assert mutant_difference(monkeypatch, method="bosh3", partner_method=same_method) > 1e3 * ROUNDING


def test_the_invariant_catches_another_method(monkeypatch):
    monkeypatch.setattr(symplectic_adjoint, "partner_method", same_method)
    product, size = invariant(CATALOGUE["kepler"](), "bosh3")
    assert np.max(np.abs(product - product[0])) > 1e3 * CONSERVED * np.max(size)
