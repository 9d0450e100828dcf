"""check_ode: its verdicts on answers as data and on programs, what it reads, and how its report prints."""
import copy
import json
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import refnode
from refnode.conformance import score
from refnode.conformance.behaviour import TOLERANCES
from refnode.conformance.check_ode import QUANTITIES, call_text, case_of, checked_quantities
from refnode.conformance.metamorphic import TRANSFORMATIONS, renamed
from refnode.conformance.ode_reference import Inputs, certified_reference, own_reference
from refnode.conformance.wrong_adjoints import WRONG_ADJOINTS, adjoint_answer
from refnode.errors import GradientMismatch, InvalidInputError, InvalidTypeError, ProblemFileError
from refnode.problems.catalogue import CATALOGUE
from refnode.problems.certified import certified
from refnode.problems.reference_set import REFERENCE_PROBLEMS

LOTKA_VOLTERRA, PENDULUM, LOGISTIC, FLOOR, LINEAR = (
    "lotka_volterra/obs21", "pendulum/swing", "logistic/hessian", "sine_decay/floor", "damped_rotation/complex")


def record(id):
    return REFERENCE_PROBLEMS[id]


@pytest.fixture(scope="module")
def right():
    """A right answer to the pendulum."""
    return adjoint_answer(record(PENDULUM).to_dict(), 1e-10, 1e-10)


def changed(answer, **parts):
    """A copy with some parts of its gradient, or of itself, replaced."""
    answer = copy.deepcopy(answer)
    for key, value in parts.items():
        (answer["grad"] if key in ("y0", "theta", "t0", "t1", "ts") else answer)[key] = value
    return answer


# --- right answers ----------------------------------------------------------------------------------

def test_a_right_answer_passes(right):
    report = refnode.check_ode(PENDULUM, right)
    assert report.verdict == "PASS" and bool(report) and report.truth == "exact"
    assert report.diagnosis == [] and report.error < 1e-7 and report.score < score.PASS_SCORE
    assert report.reference.startswith("certified")
    assert report.raise_for_verdict() is None


@pytest.mark.parametrize("name", ["discrete", "interpolating", "forward", "backsolve", "gauss"])
def test_recipes_of_refnode_pass(name):
    problem = record(PENDULUM).problem
    g = refnode.gradient(problem, name, method="dop853", rtol=1e-9, atol=1e-9)
    answer = {"y": g.solution.y, "loss": g.loss, "stats": {"rtol": 1e-9, "atol": 1e-9},
              "grad": {"y0": g.y0, "theta": g.theta, "t0": g.t0, "t1": g.t1, "ts": g.ts}}
    assert refnode.check_ode(PENDULUM, answer).verdict == "PASS"


def test_a_problem_of_ones_own():
    """The reference is refnode's, with an error estimate; the program shares nothing with it."""
    problem = CATALOGUE["lotka_volterra"]()
    answer = adjoint_answer({"rhs": {"field": problem.field}, "t0": problem.t0, "t1": problem.t1, "y0": problem.y0,
                             "theta": problem.theta, "ts": problem.ts, "loss": {"kind": "object", "loss": problem.loss}})
    report = refnode.check_ode(problem, answer)
    assert report.verdict == "PASS" and report.reference.startswith("refnode forward against discrete")
    answer["grad"]["theta"][2] *= 1.001
    report = refnode.check_ode(problem, answer, rtol=1e-6)
    assert report.verdict == "FAIL" and report.worst.name == "theta[2] gamma"


@pytest.mark.parametrize("id", [LOTKA_VOLTERRA, PENDULUM, LOGISTIC])
def test_refnodes_own_reference_agrees_with_the_certified_one(id):
    """Within ten of its estimated errors, in every component: what `MARGIN` promises."""
    problem = record(id).problem
    own, proved = own_reference(problem), certified_reference(record(id))
    assert (np.abs(own.gradient - proved.gradient) <= 10 * own.uncertainty).all()
    assert (np.abs(own.y - proved.y) <= 10 * own.y_uncertainty).all()


# --- wrong answers ----------------------------------------------------------------------------------

def test_the_worst_component_is_named(right):
    wrong = changed(right, theta=[right["grad"]["theta"][0] * 1.01, right["grad"]["theta"][1]])
    report = refnode.check_ode(PENDULUM, wrong, rtol=1e-6)
    assert report.verdict == "FAIL" and not report
    worst = report.worst
    assert worst.name.startswith("theta[0]") and worst.yours == pytest.approx(1.01 * worst.reference, rel=1e-7)
    assert abs(worst.finite_difference - worst.reference) <= 10 * worst.finite_difference_error
    with pytest.raises(GradientMismatch) as caught:
        report.raise_for_verdict()
    assert caught.value.report is report


@pytest.mark.parametrize("key, value, key_of_fault, text", [
    ("y0", [1.0], "shape", r"shape: grad y0 has shape \(1,\), expected \(2,\)"),
    ("theta", [[1.0, 2.0]], "shape", r"shape: grad theta has shape \(1, 2\), expected \(2,\)"),
    ("theta", ["a", "b"], "shape", "grad theta is not an array of numbers"),
    ("y0", [1.0, [2.0]], "shape", "grad y0 is not an array of numbers"),
    ("ts", [1.0, 2.0, float("nan"), float("inf")], "first_nan", r"grad ts\[2\] is nan, the first of 2 numbers that are not finite"),
    ("theta", [1.0, "inf"], "first_nan", r"grad theta\[1\] is inf"),
    ("loss", float("nan"), "first_nan", "loss is nan"),
])
def test_a_wrong_shape_or_a_nan_is_a_fail(right, key, value, key_of_fault, text):
    report = refnode.check_ode(PENDULUM, changed(right, **{key: value}))
    assert report.verdict == "FAIL" and re.search(text, str(report))
    assert report.diagnosis[0].key == key_of_fault


def test_y_transposed_is_said(right):
    report = refnode.check_ode(PENDULUM, changed(right, y=np.transpose(right["y"]).tolist()))
    assert report.verdict == "FAIL" and "transposed" in str(report)


def test_a_wrong_state_is_no_wrong_gradient(right):
    """Who solved another problem is told so, whatever the gradient."""
    wrong = changed(right, y=(np.array(right["y"]) + 0.1).tolist())
    report = refnode.check_ode(PENDULUM, wrong)
    assert report.verdict == "FAIL" and report.worst.name.startswith("y[") and " at t=" in report.worst.name
    assert "another problem" in report.diagnosis[0].text


def test_permuted_parameters(right):
    reverse = right["grad"]["theta"][::-1]
    report = refnode.check_ode(PENDULUM, changed(right, theta=reverse))
    assert report.verdict == "FAIL"
    assert report.diagnosis[0].key == "permuted_parameters" and "matches after permutation [1, 0]" in str(report)


# --- neither ------------------------------------------------------------------------------------------

def test_at_the_tolerance_floor_nobody_is_blamed():
    """y' = -3 y + sin(y)/2 on [0, 15]: the truth is 1e-15, every method returns its absolute tolerance."""
    data = record(FLOOR).to_dict()
    right = certified_reference(record(FLOOR)).gradient
    answer = {"grad": {"y0": [right[0] + 1e-8], "theta": (right[1:3] - 1e-8).tolist()}, "stats": {"rtol": 1e-6, "atol": 1e-8}}
    report = refnode.check_ode(FLOOR, answer)
    assert report.verdict == "INCONCLUSIVE" and "tolerance-limited" in str(report) and report.diagnosis == []
    assert refnode.check_ode(FLOOR, adjoint_answer(data, 1e-8, 1e-8)).verdict == "INCONCLUSIVE"


def test_between_accuracy_and_error_stands_inconclusive(right):
    """Nobody said at which tolerance: an error that a healthy program at 1e-9 may make is no FAIL."""
    slightly = changed(right, theta=[v * (1 + 2e-6) for v in right["grad"]["theta"]], stats={})
    report = refnode.check_ode(PENDULUM, slightly)
    assert report.verdict == "INCONCLUSIVE" and "healthy" in str(report)
    assert refnode.check_ode(PENDULUM, slightly, rtol=1e-4).verdict == "PASS"
    assert refnode.check_ode(PENDULUM, slightly, rtol=1e-7).verdict == "FAIL"


def test_not_testable_at_a_loose_tolerance():
    id = "kepler/periods20"
    right = case_of(id).reference.gradient
    answer = {"grad": {"y0": (right[:4] * [1.3, 0.8, 1.1, 0.9]).tolist(), "theta": [right[4]]}, "stats": {"rtol": 1e-3}}
    report = refnode.check_ode(id, answer, diagnose=False)
    assert report.verdict == "INCONCLUSIVE" and "not testable" in str(report)


def test_an_error_is_no_fail():
    assert refnode.check_ode(PENDULUM, {"error": "diverged"}).verdict == "ERROR"
    report = refnode.check_ode(PENDULUM, {"grad": {}})
    assert report.verdict == "ERROR" and report.worst is None and "nothing to judge" in str(report)

    def broken(problem, rtol, atol):
        raise RuntimeError("no such solver")
    report = refnode.check_ode(PENDULUM, broken)
    assert report.verdict == "ERROR" and "RuntimeError: no such solver" in str(report)


# --- arguments ----------------------------------------------------------------------------------------

def test_what_is_not_in_the_answer_is_not_judged(right):
    only = {"grad": {"theta": right["grad"]["theta"]}}
    report = refnode.check_ode(PENDULUM, only, rtol=1e-5)
    assert report.verdict == "PASS" and {c.name.split("[")[0] for c in report.components} == {"theta"}
    assert "not in the answer: grad y0" in str(report)
    report = refnode.check_ode(PENDULUM, changed(right, theta=[0.0, 0.0]), quantities=("grad_y0", "loss"))
    assert report.verdict == "PASS" and {c.name.split("[")[0] for c in report.components} == {"y0", "loss"}


@pytest.mark.parametrize("arguments, error, text", [
    ({"problem": "lotka_volterra/nothing"}, InvalidInputError, "known are lotka_volterra/obs21"),
    ({"problem": 3}, InvalidTypeError, "an id, a ReferenceProblem or a refnode.Problem"),
    ({"quantities": ("grad_y1",)}, InvalidInputError, "grad_y1"),
    ({"truth": "true"}, InvalidInputError, "truth must be one of"),
    ({"rtol": -1.0}, InvalidInputError, "rtol must be a number > 0"),
    ({"answer": [1.0]}, InvalidTypeError, "an answer must be a dict"),
])
def test_bad_arguments(right, arguments, error, text):
    arguments = {"problem": PENDULUM, "answer": right, **arguments}
    with pytest.raises(error, match=re.escape(text)):
        refnode.check_ode(arguments.pop("problem"), arguments.pop("answer"), **arguments)


def test_a_problem_without_a_loss_is_refused():
    with pytest.raises(InvalidInputError, match="a problem with a loss"):
        refnode.check_ode(CATALOGUE["logistic"]().replace(loss=None), {})


def test_an_answer_to_another_problem_is_refused(right):
    with pytest.raises(ProblemFileError, match="another problem"):
        refnode.check_ode(PENDULUM, changed(right, problem_sha256="0" * 64))


# --- programs -------------------------------------------------------------------------------------------

def test_a_right_program_passes_and_converges():
    report = refnode.check_ode(LOGISTIC, adjoint_answer)
    assert report.verdict == "PASS" and report.truth == "exact" and report.diagnosis == []
    convergence, *tests = report.checks
    assert convergence.method == "convergence" and convergence.outcome in ("proportional", "exact")
    assert len(tests) >= 5 and {check.outcome for check in tests} == {"agree"}


def test_a_program_is_called_at_falling_tolerances():
    seen = []

    def program(problem, rtol, atol):
        seen.append(rtol)
        return adjoint_answer(problem, rtol, atol)

    with ThreadPoolExecutor(2) as executor:
        assert refnode.check_ode(LOGISTIC, program, executor=executor).verdict == "PASS"
    assert set(TOLERANCES) <= set(seen)


def test_what_a_program_does_not_support_is_no_fail():
    def only_this(problem, rtol, atol):
        if problem.get("sha256") is None:
            raise NotImplementedError("another problem")
        return adjoint_answer(problem, rtol, atol)
    report = refnode.check_ode(LOGISTIC, only_this)
    assert report.verdict == "PASS" and {c.outcome for c in report.checks[1:]} == {"not supported"}


@pytest.mark.parametrize("test", TRANSFORMATIONS, ids=lambda test: test.name)
def test_transformed_problems_have_the_answers_they_say(test):
    """The right program confirms what each transformation claims; on two kinds of loss."""
    applied = 0
    for id in (PENDULUM, LINEAR, LOGISTIC):
        data, reference = record(id).to_dict(), certified_reference(record(id)) or own_reference(record(id).problem)
        blocks = Inputs.of(record(id).problem).blocks
        found = test.apply(data, {"y0": reference.gradient[blocks["grad_y0"]],
                                  "theta": reference.gradient[blocks["grad_theta"]]}, reference.loss)
        if found is None:
            continue
        applied += 1
        changed_data, gradient, loss = found
        answer = adjoint_answer(changed_data, 1e-9, 1e-9)
        n = len(data["y0"])
        for yours, expected in ((answer["grad"]["y0"][:n], gradient["y0"]), (answer["grad"]["theta"], gradient["theta"])):
            assert np.allclose(yours, expected, rtol=0, atol=3e-6 * np.max(np.abs(expected), initial=0.0) + 1e-300)
        assert answer["loss"] == pytest.approx(loss, rel=1e-6)
    assert applied


def rewritten(id, test):
    """(error of the right program's gradient on the transformed problem, the transformed problem); None where it does not apply."""
    data, truth = record(id).to_dict(), certified(id).values
    found = test.apply(data, {"y0": truth["grad_y0"], "theta": truth["grad_theta"]}, float(truth["loss"]))
    return None if found is None else (error_of(adjoint_answer({**found[0], "sha256": None}, 1e-10, 1e-10), *found[1:]), found[0])


def error_of(answer, gradient, loss):
    """The largest error of the gradient and the loss, each in its size."""
    errors = [np.max(np.abs(np.array(answer["grad"][key])[:len(value)] - value)) / np.max(np.abs(value)) for key, value in gradient.items()]
    return max(*errors, abs(answer["loss"] / loss - 1.0))


@pytest.mark.parametrize("id", ["state_rate/threshold", "timed_fall/event_time", "bounce/once", "bounce/thrice"])
def test_switches_by_the_state_are_rewritten_with_the_rates(id):
    """Each applies; the adjoint at 1e-10 confirms what it claims to 1e-8; and a switch left as it was is seen."""
    for test in TRANSFORMATIONS[-4:]:
        error, data = rewritten(id, test)
        assert error <= 1e-8, test.name
        if test.shows == "absolute_tolerance_on_adjoint" and id in ("state_rate/threshold", "timed_fall/event_time"):
            left = {**data, "rhs": {**data["rhs"], "switch": record(id).rhs["switch"]}}     # a threshold in the old unit
            assert abs(adjoint_answer({**left, "sha256": None}, 1e-10, 1e-10)["loss"] / float(certified(id).values["loss"]) - 1.0) > 1e-3
    assert rewritten("step_forcing/dose", TRANSFORMATIONS[-1]) is None          # by the time


def test_renamed_leaves_the_rest():
    assert renamed("sin(t)*y[1] + theta[0]", {"t": "(t - 1)"}) == "sin(t - 1) * y[1] + theta[0]"
    assert renamed("t*y[1]**2", {"y": "(y[%d]/2)"}) == "t * (y[1] / 2) ** 2"


# --- the report -------------------------------------------------------------------------------------------

def test_the_text_of_a_failure():
    """The lines of the pattern in their order; every number with its label."""
    data = record(LOTKA_VOLTERRA).to_dict()
    report = refnode.check_ode(LOTKA_VOLTERRA, WRONG_ADJOINTS["interior_jumps_missing"](data))
    lines = str(report).splitlines()
    assert re.match(r"refnode check  lotka_volterra/obs21   tool: scipy_adjoint\[interior_jumps_missing\]   quantity: .*"
                    r"grad \(y0\[2\], theta\[4\], t0, t1, ts\[21\]\) +FAIL$", lines[0])
    assert lines[1].split("  ")[1:] and lines[1].split() == "component yours reference finite diff (±) |err|/bound".split()
    assert lines[2].endswith("<- worst") and re.search(r"(y0|theta)\[\d\] \w+ +[+-]\d\.\d{6}e", lines[2])
    assert re.search(r"\(\d\de-\d+\)|\(\de[-+]\d+\)", lines[2]) and "more: --all)" in lines[7]
    text = str(report)
    for key in ("bound", "evidence", "diagnosis", "reproduce"):
        assert re.search(rf"^  {key} ", text, re.MULTILINE)
    assert "reference vs finite differences" in text and "WITHOUT the jumps" in text and "20 interior" in text
    assert "Fix: stop the backward solve at every observation" in text
    assert f"reproduce  refnode.check_ode('{LOTKA_VOLTERRA}', answer)" in text


def test_what_repeats_a_check_names_problem_and_program():
    assert call_text(PENDULUM, {"loss": 1.0}) == f"refnode.check_ode('{PENDULUM}', answer)"
    assert call_text(record(PENDULUM), adjoint_answer) == f"refnode.check_ode('{PENDULUM}', adjoint_answer)"
    assert call_text(CATALOGUE["pendulum"], adjoint_answer) == "refnode.check_ode(problem, adjoint_answer)"


def test_the_report_as_data(right):
    report = refnode.check_ode(PENDULUM, changed(right, theta=[-v for v in right["grad"]["theta"]]))
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert data["format"] == "refnode.ode_report" and data["verdict"] == "FAIL" and data["problem"] == PENDULUM
    assert data["worst"]["name"] == report.worst.name and data["findings"][0]["key"] == "sign"
    assert data["diagnosis"][0] == report.diagnosis[0].text
    assert len(data["components"]) == len(report.components)


def test_scaled_error_judges_small_blocks_by_the_whole():
    """A block of size exp(-200) does not decide."""
    reference, size = np.array([1.0, 2.0, 1e-87]), np.ones(3)
    blocks = [slice(0, 2), slice(2, 3)]
    units = score.block_units(reference, size, blocks, 1.0)
    assert score.scaled_error(np.array([1.0, 2.0, 5e-87]), reference, units, blocks) < 1e-80
    assert score.scaled_error(np.array([1.0, 2.0, 1e-3]), reference, units, blocks) == pytest.approx(1 / np.sqrt(5), rel=1e-12)


def test_levels():
    asked = score.level_of(1e-8, 100.0, 1e-9, None)
    assert asked.accepted == asked.refused == 1e-8
    said = score.level_of(None, 10.0, 1e-9, None)
    assert said.accepted == pytest.approx(1e-5) and said.refused == pytest.approx(1e-3)
    silent = score.level_of(None, None, None, None)
    assert silent.accepted == 1e-6 and silent.refused == pytest.approx(1e-4)
    assert not score.level_of(None, 1e5, 1e-3, None).testable
    assert score.level_of(None, 1e12, 1e-9, None).kappa == score.LARGEST_KAPPA


def test_quantities():
    assert checked_quantities(("grad_t",)) == ("grad_t0", "grad_t1", "grad_ts")
    assert case_of(PENDULUM, checked_quantities(QUANTITIES)).inputs.names[-4:] == ["ts[0]", "ts[1]", "ts[2]", "ts[3]"]


# --- what a gradient is meant to be -----------------------------------------------------------------------

RESTING = "twin_growth/uncontrolled_tangent"


def frozen_answer(**parts):
    """The derivative of refnode's steps on a state at rest: -66 %, and exactly what the steps say."""
    g = refnode.gradient(record(RESTING).problem, "discrete", rtol=1e-9, atol=1e-9, check_tangent=False)
    return changed({"y": g.solution.y, "loss": g.loss, "grad": {"y0": g.y0, "theta": g.theta},
                    "stats": {"rtol": 1e-9, "atol": 1e-9}}, **parts)


def test_a_derivative_of_steps_is_no_fail_where_steps_have_another_one():
    report = refnode.check_ode(RESTING, frozen_answer(), truth="frozen")
    assert report.verdict == "INCONCLUSIVE" and "does not hold its steps" in str(report) and "--mode fixed" in str(report)
    assert refnode.check_ode(RESTING, frozen_answer()).verdict == "FAIL"
    declared = refnode.check_ode(RESTING, frozen_answer(truth="discrete_frozen"))
    assert declared.verdict == "FAIL" and "claimed" in str(declared)


def test_a_claim_excuses_no_known_mistake(right):
    negative = [-v for v in record_gradient(RESTING)]
    assert refnode.check_ode(RESTING, frozen_answer(y0=negative), truth="frozen").verdict == "FAIL"
    wrong = changed(right, theta=[2 * v for v in right["grad"]["theta"]])
    assert refnode.check_ode(PENDULUM, wrong, truth="through").verdict == "FAIL"
    report = refnode.check_ode(PENDULUM, right, truth="frozen")
    assert report.verdict == "PASS" and "compared with the derivative of the solution" in str(report).replace("\n" + 13 * " ", " ")


def record_gradient(id):
    return certified_reference(record(id)).gradient[:2]


# --- evidence ---------------------------------------------------------------------------------------------

def test_a_failure_shows_taylor_rates_and_the_angle(right):
    theta = right["grad"]["theta"]
    report = refnode.check_ode(PENDULUM, changed(right, theta=[theta[0], -theta[1]]))
    found = {check.method: check for check in report.checks}
    assert found["taylor"].outcome == "disagree" and "(correct: 2.00)" in found["taylor"].summary
    size, core = case_of(PENDULUM).inputs.size[:4], np.array(right["grad"]["y0"] + theta)
    a, b = size * core, size * core * [1, 1, 1, -1]
    assert found["cosine"].data["cosine"] == pytest.approx(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)), abs=1e-6)
    assert "Taylor rates" in str(report) and "cos(yours, reference)" in str(report)


def test_taylor_rates_of_a_right_gradient_are_two(right):
    """Shown beside a FAIL for another reason: here, a derivative by t0 of the wrong sign."""
    report = refnode.check_ode(PENDULUM, changed(right, t0=-right["grad"]["t0"]))
    found = {check.method: check for check in report.checks}
    assert report.verdict == "FAIL" and found["taylor"].outcome == "agree"
    assert found["cosine"].data["cosine"] == pytest.approx(1.0, abs=1e-9)


def test_the_command_is_never_broken_at_a_hyphen():
    from refnode.conformance.ode_report import OdeReport
    command = "refnode check --problem " + "a-very-long-folder/" * 8 + "problem-with-hyphens.json answer.json"
    report = OdeReport("FAIL", settings={"command": command})
    assert any(word == command.split()[3] for line in report.to_text().splitlines() for word in line.split())
