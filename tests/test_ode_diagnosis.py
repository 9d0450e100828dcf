"""The dictionary of mistakes: each is caught and named on a deliberately wrong program, and no right one is."""
import dataclasses
import warnings

import numpy as np
import pytest

import refnode
from refnode.conformance import behaviour
from refnode.conformance.behaviour import TOLERANCES, Sweep, diagnose_by_behaviour
from refnode.conformance.check_ode import QUANTITIES, case_of, checked_quantities
from refnode.conformance.ode_candidates import CHEAP, permutation
from refnode.conformance.ode_diagnosis import MISTAKES, all_singles
from refnode.conformance.wrong_adjoints import ADJOINT_MISTAKES, AFTERWARDS, WRONG_ADJOINTS, adjoint_answer
from refnode.conformance.wrong_steps import WRONG_STEPS, applies
from refnode.problems.reference_set import REFERENCE_PROBLEMS

# One problem that shows each mistake, and tells it from the others.
BY_VALUE = {
    "sign": "pendulum/swing", "factor_two": "pendulum/swing", "factor_half": "pendulum/swing",
    "mean_for_sum": "pendulum/swing", "interior_jumps_missing": "pendulum/swing", "last_jump_missing": "pendulum/swing",
    "last_jump_doubled": "pendulum/swing", "first_jump_missing": "pendulum/swing", "zero_gradient": "pendulum/swing",
    "transposed_jacobian": "pendulum/swing", "loss_time_derivative_missing": "pendulum/swing",
    "t1_gradient_missing": "lotka_volterra/terminal", "t0_gradient_sign": "lotka_volterra/terminal",
    "running_cost_missing": "lotka_volterra/running_cost", "permuted_parameters": "lotka_volterra/terminal",
    "parameter_captured": "forced_oscillator/late_start", "component_term_dropped": "sir/outbreak",
    "stops_at_first_observation": "pendulum/swing", "first_nan": "pendulum/swing",
    "switch_time_ignored": "time_rate/switch", "state_switch_ignored": "state_rate/threshold",
    "one_switch_ignored": "bounce/thrice",
    "time_cast_to_single": "forced_oscillator/time_2p20",
}
BY_BEHAVIOUR = {
    "first_order_quadrature": "logistic/observed", "low_order_interpolation": "logistic/hessian",
    "error_independent_of_tolerance": "pendulum/swing",
}
TOLERANCE = 1e-9


def data_of(id):
    return REFERENCE_PROBLEMS[id].to_dict()


def keys(report):
    return [f.key for f in report.diagnosis]


# --- every mistake is named ---------------------------------------------------------------------------

@pytest.mark.parametrize("mistake, id", BY_VALUE.items())
def test_a_mistake_is_named_by_its_value(mistake, id):
    answer = WRONG_ADJOINTS[mistake](data_of(id), TOLERANCE, TOLERANCE)
    report = refnode.check_ode(id, answer)
    assert report.verdict == "FAIL"
    assert keys(report)[0] == mistake, str(report)
    assert report.diagnosis[0].fix == MISTAKES[mistake].fix


@pytest.mark.parametrize("mistake, id", BY_BEHAVIOUR.items())
def test_a_mistake_is_named_by_its_behaviour(mistake, id):
    report = refnode.check_ode(id, WRONG_ADJOINTS[mistake])
    assert report.verdict == "FAIL"
    assert keys(report)[0] == mistake, str(report)


def test_backsolve_drift_is_named_by_its_behaviour():
    """y solved backwards against a strong attraction: y and the loss are right, and the gradient is not."""
    report = refnode.check_ode("cosine_relaxation/k50", WRONG_ADJOINTS["backsolve_drift"])
    assert report.verdict == "FAIL" and keys(report)[0] == "backsolve_drift", str(report)


def test_single_precision_is_named_where_accuracy_is_asked_for():
    report = refnode.check_ode("pendulum/swing", WRONG_ADJOINTS["single_precision"](data_of("pendulum/swing")), rtol=1e-9)
    assert report.verdict == "FAIL" and keys(report)[0] == "single_precision"


@pytest.mark.slow
def test_an_absolute_tolerance_that_does_not_know_the_loss_is_found_by_scaling_it():
    """Right on the problem itself, wrong on loss × 2^-30."""
    report = refnode.check_ode("lotka_volterra/terminal", WRONG_ADJOINTS["absolute_tolerance_on_adjoint"])
    assert report.verdict == "FAIL" and keys(report)[0] == "absolute_tolerance_on_adjoint"
    assert "loss × 2^-30 disagree" in " ".join(str(report).split())


def test_an_uncontrolled_tangent_is_named():
    """The derivative of the steps that serve a state at rest: refnode's own, with its warning off, at every tolerance."""
    problem = REFERENCE_PROBLEMS["twin_growth/uncontrolled_tangent"].problem

    def program(data, rtol, atol):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", refnode.GradientWarning)
            g = refnode.gradient(problem, "discrete", rtol=rtol, atol=atol, check_tangent=False)
        return {"y": g.solution.y, "loss": g.loss, "grad": {"y0": g.y0, "theta": g.theta}}

    report = refnode.check_ode("twin_growth/uncontrolled_tangent", program)
    assert report.verdict == "FAIL" and keys(report)[0] == "uncontrolled_tangent"


@pytest.mark.parametrize("mistake, id", [("uncontrolled_tangent", "twin_growth/uncontrolled_tangent"),
                                         ("hidden_forcing", "sine_forcing/hidden")])
def test_steps_that_see_the_state_alone_are_named(mistake, id):
    """A Dormand-Prince loop of another hand, differentiated along its steps."""
    report = refnode.check_ode(id, WRONG_STEPS[mistake])
    assert report.verdict == "FAIL" and keys(report)[0] == mistake, str(report)


def test_a_differentiated_step_control_is_among_the_causes_of_a_nan():
    """At rest the estimated error is 0, and its root has no derivative."""
    report = refnode.check_ode("mlp/zero_last_layer", WRONG_STEPS["differentiated_step_control"](data_of("mlp/zero_last_layer")))
    assert report.verdict == "FAIL" and set(keys(report)) == {"first_nan", "differentiated_step_control", "step_heuristic_leak"}


@pytest.mark.parametrize("mistake", ["uncontrolled_tangent", "step_heuristic_leak", "differentiated_step_control"])
def test_programs_that_differentiate_their_steps_are_right_where_steps_serve_the_tangent(mistake):
    """They are wrong in one thing each: on a pendulum at 1e-9 the derivative of the steps is that of the solution."""
    answer = WRONG_STEPS[mistake](data_of("pendulum/swing"), TOLERANCE, TOLERANCE)
    report = refnode.check_ode("pendulum/swing", answer)
    assert report.verdict == "PASS" and report.error < 1e-7


def test_the_leak_through_the_first_step_is_that_of_the_first_step():
    """At a loose tolerance the three derivatives differ, and the differences are of the size of the error of the steps."""
    found = {m: WRONG_STEPS[m](data_of("sine_feedback/three_truths"), 1e-3, 1e-3)["grad"]["theta"] for m in WRONG_STEPS}
    frozen, first, control = (np.array(found[m]) for m in ("uncontrolled_tangent", "step_heuristic_leak",
                                                           "differentiated_step_control"))
    assert np.max(np.abs(first - frozen)) > 1e-6 and np.max(np.abs(control - first)) > 1e-6


def test_programs_that_differentiate_their_steps_apply_where_that_is_their_only_mistake():
    assert applies(data_of("kink_forcing/ramp"), "uncontrolled_tangent")
    assert not applies(data_of("step_forcing/dose"), "uncontrolled_tangent")         # f jumps: the switch would be ignored, too
    assert not applies(data_of("pendulum/swing"), "hidden_forcing") and applies(data_of("sine_forcing/hidden"), "hidden_forcing")
    assert not applies(data_of("mlp/2_32_32_2"), "uncontrolled_tangent")


def test_rounding_to_float32_is_seen_below_the_tolerance():
    """Every number a float32: no accident, whatever the error."""
    assert all_singles(np.array([0.1, 0.7], dtype=np.float32).astype(float))
    assert not all_singles(np.array([0.1, 0.7])) and not all_singles(np.array([3.0, -2.0, 0.5]))
    assert not all_singles(np.float32([0.1]).astype(float))


def test_every_mistake_of_the_programs_is_in_the_dictionary():
    assert set(AFTERWARDS) | set(ADJOINT_MISTAKES) == set(WRONG_ADJOINTS) <= set(MISTAKES)
    assert set(WRONG_ADJOINTS) | set(WRONG_STEPS) == set(MISTAKES)
    exposed = {key for record in REFERENCE_PROBLEMS.values() for key in record.exposes}
    assert exposed <= set(MISTAKES)
    assert all(mistake.title and mistake.fix for mistake in MISTAKES.values())


# --- no right gradient is -----------------------------------------------------------------------------

@pytest.mark.parametrize("id", ["twin_growth/uncontrolled_tangent", "lotka_volterra/running_cost", "time_rate/switch",
                                "state_rate/threshold", "bounce/thrice", "lotka_volterra/loss_2m30", "mlp/2_16_2", "lorenz/t5"])
def test_the_right_program_is_never_flagged(id):
    report = refnode.check_ode(id, adjoint_answer(data_of(id), TOLERANCE, TOLERANCE))
    assert report.verdict == "PASS" and report.diagnosis == [], str(report)


@pytest.mark.parametrize("id", ["pendulum/swing", "lotka_volterra/running_cost"])
def test_candidates_are_wrong_or_right_but_not_inaccurate(id):
    """None is a little wrong, as an inaccurate candidate would be; and each is a finite gradient."""
    case = case_of(id, checked_quantities(QUANTITIES))
    core = case.inputs.blocks["grad_theta"].stop
    made = list(case.suspects.candidates(lambda: False))
    assert {c.key for c in made} >= {"sign", "interior_jumps_missing", "transposed_jacobian", "component_term_dropped"}
    for candidate in made:
        assert candidate.gradient.shape == (core,) and np.isfinite(candidate.gradient).all()
        gap = np.abs(candidate.gradient - case.reference.gradient[:core]) / case.units[:core]
        assert np.max(gap) > 1e-4 or np.max(gap) < 1e-5, candidate.what      # some mistakes change nothing here


def test_jump_candidates_add_up():
    """Without the last jump, and without all the others: together the gradient."""
    case = case_of("pendulum/swing", checked_quantities(QUANTITIES))
    core = case.reference.gradient[:case.inputs.blocks["grad_theta"].stop]
    found = {}
    for c in case.suspects.candidates(lambda: True):
        found.setdefault(c.key, c.gradient)
    assert np.allclose(found["last_jump_missing"] + found["interior_jumps_missing"], core, rtol=1e-7)
    assert np.allclose(found["last_jump_doubled"] - core, core - found["last_jump_missing"], rtol=1e-7)


def test_dear_candidates_are_spared():
    case = case_of("pendulum/swing", checked_quantities(QUANTITIES))
    made = {c.key for c in case.suspects.candidates(lambda: True)}
    assert "transposed_jacobian" not in made and "sign" in made and len(CHEAP) > 3


def test_permutation():
    right = np.array([3.0, -1.0, 2.0])
    order = np.array([2, 0, 1])
    assert (permutation(right[order], right) == order).all()


def test_perceptron_layouts_are_known():
    """Weights column by column are named with their order, not as any permutation."""
    id, widths = "mlp/2_16_2", (2, 16, 2)
    answer = adjoint_answer(data_of(id), TOLERANCE, TOLERANCE)
    theta, parts, start = np.array(answer["grad"]["theta"]), [], 0
    for a, b in zip(widths[1:], widths):
        parts += [theta[start:start + a * b].reshape(a, b).ravel(order="F"), theta[start + a * b:start + a * b + a]]
        start += a * b + a
    answer["grad"]["theta"] = np.concatenate(parts).tolist()
    report = refnode.check_ode(id, answer)
    assert report.verdict == "FAIL" and keys(report)[0] == "permuted_parameters" and "order F" in str(report)


# --- behaviour, on errors made up -----------------------------------------------------------------------

def sweep(errors, y0=None, theta=None, state=None, kappa=50.0):
    errors = np.array(errors)
    return Sweep(TOLERANCES, errors, errors if y0 is None else np.array(y0), errors if theta is None else np.array(theta),
                 np.array([1e-5, 1e-7, 1e-9, 1e-11]) if state is None else np.array(state), kappa)


@pytest.mark.parametrize("errors, kind", [
    ([1e-4, 1e-6, 1e-8, 1e-10], "proportional"), ([0.5, 0.5, 0.5, 0.5], "independent"), ([1e-15] * 4, "exact"),
    ([1.0, 1e3, 1e6, 1e9], "grows"), ([1e-2, 1e-3, 1e-4, 1e-5], "slow"), ([1.0, 1e3, 2.0, 5e2], "erratic"),
    ([np.inf, np.inf, np.inf, 1.0], "unknown"), ([3e-4, 1e-6, 5e-9, 1e-10], "proportional")])
def test_kinds_of_behaviour(errors, kind):
    assert sweep(errors).kind == kind
    assert behaviour.WORDS[kind] in sweep(errors).summary()


def test_a_solver_that_breaks_down_at_a_loose_tolerance_does_not_decide():
    """An explicit method on a stiff problem: the first error is noise, the others stay."""
    assert sweep([1e20, 7e-2, 3e-2, 3e-2]).kind == "independent"
    assert sweep([np.inf, 1e-2, 1e-4, 1e-6]).kind == "proportional"


def test_a_weak_control_is_told_from_a_wrong_derivative():
    """In proportion to the tolerance, and thousands of kappa tol: the norm, not a term."""
    case = case_of("pendulum/swing", checked_quantities(QUANTITIES))
    comparison = case.comparison(case.judged(adjoint_answer(case.data, TOLERANCE, TOLERANCE)))
    (found,) = diagnose_by_behaviour(sweep([5.0, 5e-2, 5e-4, 5e-6]), comparison)
    assert found.key == "batch_dilution"


@pytest.mark.parametrize("error, verdict", [(1e-9, "PASS"), (1e-5, "INCONCLUSIVE"), (1e-4, "FAIL")])
def test_an_error_that_stops_falling_is_judged_by_its_size(error, verdict):
    """Healthy programs may stop at some kappa tol (steps held by stability): up to 1e5 of them are degraded, not wrong."""
    case = case_of("pendulum/swing", checked_quantities(QUANTITIES))

    def program(data, rtol, atol):
        if data.get("sha256") is None:
            raise NotImplementedError("another problem")
        answer = adjoint_answer(data, rtol, atol)
        n, core = len(data["y0"]), case.reference.gradient[:case.inputs.blocks["grad_theta"].stop]
        return {**answer, "grad": {"y0": core[:n] * (1 + error), "theta": core[n:] * (1 + error)}}

    report = refnode.check_ode("pendulum/swing", program)
    assert report.verdict == verdict, str(report)
    assert ("no longer falls" in str(report)) == (verdict != "PASS")


def test_flat_and_wrong_needs_a_state_that_converges():
    flat = [1e-4, 1e-6, 1e-6, 1e-6]
    assert sweep(flat).flat_and_wrong
    assert not sweep(flat, state=[1e-5, 1e-6, 1e-6, 1e-6]).flat_and_wrong        # fixed steps: y is no better
    assert not sweep([1e-4, 1e-6, 1e-8, 1e-10]).flat_and_wrong
    assert not sweep([1e-9, 1e-9, 1e-9, 1e-9]).flat_and_wrong                    # kappa tol explains it


def test_an_error_that_grows_is_differentiated_step_control():
    case = case_of("pendulum/swing", checked_quantities(QUANTITIES))
    judged = case.judged(adjoint_answer(case.data, TOLERANCE, TOLERANCE))
    comparison = case.comparison(dataclasses.replace(judged, wrong=np.ones_like(judged.wrong)))
    (found,) = diagnose_by_behaviour(sweep([1.0, 1e3, 1e6, 1e9]), comparison)
    assert found.key == "differentiated_step_control"
    assert diagnose_by_behaviour(sweep([1e-4, 1e-6, 1e-8, 1e-10]), comparison) == []


def test_rows_of_the_confusion_matrix_are_counted():
    """The script's own arithmetic: see validation/confusion.py."""
    import importlib.util
    import pathlib
    path = pathlib.Path(__file__).parents[1] / "validation" / "confusion.py"
    spec = importlib.util.spec_from_file_location("confusion", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    row = {"id": "a/b", "source": "certified enclosure", "left_out": "",
           "mutants": [["sign", "FAIL", ["sign"]], ["factor_two", "FAIL", ["mean_for_sum", "factor_two"]],
                       ["factor_half", "PASS", []], ["first_nan", "harmless", []]], "rights": [["x", 1e-9, "PASS", "", 1e-9], ["y", 1e-9, "FAIL", "warned", 0.5]]}
    sheet = module.sheet_of([row])
    assert "Caught (not PASS): 66.7 %. FAIL: 66.7 %. Named first: 33.3 %; named first or tied: 66.7 %" in sheet
    assert "| `factor_half` | a/b | PASS | - |" in sheet and "| **all** | 3 | 2 | 0 | 1 | 1 | 1 | 1 | 1 | 0 |" in sheet
    assert "| a/b | y at 1e-09: 5.0e-01 (warned) |" in sheet
