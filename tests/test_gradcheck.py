"""check_gradient: its four verdicts, what it refuses, and what its report says."""
import json
import math

import numpy as np
import pytest

from refnode import errors
from refnode.gradcheck import check_gradient

X = np.array([1.0, 2.0, 0.3, 0.0])


def fun(x):
    return np.sin(x[0] * x[1]) + np.exp(x[2]) + x[3] ** 2


def gradient(x):
    cosine = np.cos(x[0] * x[1])
    return np.array([x[1] * cosine, x[0] * cosine, np.exp(x[2]), 2 * x[3]])


# --- PASS -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("methods", [("fd",), ("complex",), ("dot",), ("fd", "complex"), ("fd", "taylor", "dot")])
def test_right_gradient_passes_by_every_method(methods):
    report = check_gradient(fun, X, gradient, methods=methods)
    assert report and report.verdict == "PASS"
    assert report.worst.error <= report.worst.bound


def test_gradient_may_be_an_array_a_list_or_a_function():
    for given in (gradient, gradient(X), gradient(X).tolist()):
        assert check_gradient(fun, X.tolist(), given)
    assert check_gradient(lambda x: x @ x, [1, 2], [2, 4])
    assert check_gradient(lambda x: x * x, 3, 6)
    assert check_gradient(lambda x: (x**2).sum(), np.eye(2, dtype=np.float32), 2 * np.eye(2))


def test_empty_point_passes():
    report = check_gradient(lambda x: 3.0, [], np.zeros(0))
    assert report and report.size == 0 and report.worst is None
    assert "empty" in str(report)


@pytest.mark.parametrize("value", [0.0, 3.0, -1e200, 1e-200])
def test_constant_function_has_gradient_zero(value):
    # The slopes are zero to 2e-16 |f| / (|x|/8); the tolerance of a vanishing gradient is 1e-12 max|f| / |x|.
    assert check_gradient(lambda x: value, [0.0, 2.0], [0.0, 0.0]).verdict == "PASS"
    assert check_gradient(lambda x: value, [0.0, 2.0], [0.0, 1.0 + abs(value)]).verdict == "FAIL"


def test_minimum_has_gradient_zero():
    assert check_gradient(lambda x: x @ x, np.zeros(3), np.zeros(3))


def test_true_zero_component_is_judged_by_the_others():
    # rtol 1e-6 of the largest component, 2: an error of 1e-7 passes where the truth is zero, one of 1e-5 does not.
    def two(x):
        return 2 * x[0] + 0 * x[1]
    assert check_gradient(two, [1.0, 1.0], [2.0, 1e-7]).verdict == "PASS"
    assert check_gradient(two, [1.0, 1.0], [2.0, 1e-5]).verdict == "FAIL"
    assert check_gradient(two, [1.0, 1.0], [2.0, 1e-5], atol=1e-4).verdict == "PASS"


def test_components_of_unlike_units_are_each_judged_in_theirs():
    # x0 of 1e30 with slope 1e-30 beside x1 of 1e-30 with slope 1e30: both matter equally to f.
    unit = np.array([1e30, 1e-30])
    right = np.cos([0.5, 0.5]) / unit
    assert check_gradient(lambda x: np.sin(x / unit).sum(), 0.5 * unit, right)
    for i in range(2):
        wrong = right.copy()
        wrong[i] *= 1.001
        report = check_gradient(lambda x: np.sin(x / unit).sum(), 0.5 * unit, wrong)
        assert report.verdict == "FAIL" and report.worst.index == (i,)


def test_function_of_float32_is_not_blamed():
    # fun returns float32: noise of 6e-8, slopes uncertain by about 1e-6; undecidable at 1e-6, decidable at 1e-3.
    def single(x):
        return np.float32(np.exp(x[0]))
    assert check_gradient(single, [1.0], [np.e]).verdict == "INCONCLUSIVE"
    assert check_gradient(single, [1.0], [np.e], rtol=1e-3).verdict == "PASS"
    assert check_gradient(single, [1.0], [-np.e]).verdict == "FAIL"


# --- INCONCLUSIVE ---------------------------------------------------------------------------------

def test_noise_above_the_tolerance_is_inconclusive_and_says_what_to_do():
    rng = np.random.default_rng(0)
    report = check_gradient(lambda x: fun(x) * (1 + 1e-8 * rng.standard_normal()), X, gradient)
    assert report.verdict == "INCONCLUSIVE" and not report
    text = " ".join(report.diagnosis)
    assert "noise of fun" in text and "step" in text and "can decide rtol" in text


def test_noisy_function_is_decided_at_the_tolerance_it_can_bear():
    rng = np.random.default_rng(0)
    report = check_gradient(lambda x: fun(x) * (1 + 1e-8 * rng.standard_normal()), X, gradient, rtol=1e-3)
    assert report.verdict == "PASS"


@pytest.mark.parametrize("kinked, x, yours", [
    (lambda x: abs(x[0]) + x[1], [0.0, 1.0], [0.0, 1.0]), (lambda x: abs(x[0]) + x[1], [0.0, 1.0], [1.0, 1.0]),
    (lambda x: max(x[0], 0.0) * x[1], [0.0, 1.0], [0.5, 0.0]),
    (lambda x: max(x[0] - 2 * x[1], 0.0), [2.0, 1.0], [1.0, -2.0])])
def test_kink_at_the_point_is_inconclusive(kinked, x, yours):
    report = check_gradient(kinked, x, yours)
    assert report.verdict == "INCONCLUSIVE"
    assert "not smooth at x along x[0]: slope" in report.diagnosis[0]


def test_wrong_component_beside_a_kink_fails():
    report = check_gradient(lambda x: abs(x[0]) + x[1], [0.0, 1.0], [0.0, -1.0])
    assert report.verdict == "FAIL" and report.worst.name == "x[1]"


def test_partial_derivatives_without_a_derivative_are_inconclusive():
    # f = x²y/(x² + y²) has both partial derivatives zero at the origin, but slope a²b/(a² + b²) along (a, b).
    def fun(x):
        return x[0] ** 2 * x[1] / (x @ x) if x.any() else 0.0
    report = check_gradient(fun, [0.0, 0.0], [0.0, 0.0])
    assert report.verdict == "INCONCLUSIVE"
    assert "not differentiable" in report.diagnosis[0]


def test_jump_at_the_point_never_fails():
    for yours in (0.0, 1.0, 100.0):
        assert check_gradient(lambda x: float(x[0] >= 1.0), [1.0], [yours]).verdict == "INCONCLUSIVE"


def test_taylor_test_alone_decides_nothing():
    for yours in (gradient, lambda x: -gradient(x)):
        report = check_gradient(fun, X, yours, methods=("taylor",))
        assert report.verdict == "INCONCLUSIVE"
        assert "were not compared" in report.diagnosis[0]


def test_references_that_disagree_are_inconclusive():
    # Conjugation makes the complex step see −x[1]; finite differences see the truth, which is yours.
    def conjugating(x):
        return x[0] ** 2 + np.conj(x[1])
    report = check_gradient(conjugating, [1.0, 2.0], [2.0, 1.0], methods=("fd", "complex"))
    assert report.verdict == "INCONCLUSIVE"
    assert {check.method: check.outcome for check in report.checks}["complex"] == "disagree"


# --- ERROR ----------------------------------------------------------------------------------------

def raising(x):
    raise ZeroDivisionError("no such thing")


@pytest.mark.parametrize("fun, grad, message", [
    (raising, [0.0, 0.0], "fun raised ZeroDivisionError at x: no such thing"),
    (lambda x: np.nan, [0.0, 0.0], "fun(x): expected finite values, found nan"),
    (lambda x: None, [0.0, 0.0], "forgot return?"),
    (lambda x: x, [0.0, 0.0], "expected a scalar, found an array of shape (2,)"),
    (lambda x: "three", [0.0, 0.0], "expected an array of numbers, found str"),
    (lambda x: 1j, [0.0, 0.0], "expected a real value"),
    (lambda x: 1.0, [0.0, np.nan], "found nan first in x[1] (1 of 2 components)"),
    (lambda x: 1.0, raising, "grad raised ZeroDivisionError at x: no such thing"),
    (lambda x: 1.0, lambda x: None, "grad raised InvalidTypeError")])
def test_unusable_functions_and_gradients_are_errors(fun, grad, message):
    report = check_gradient(fun, [1.0, 2.0], grad)
    assert report.verdict == "ERROR" and not report
    assert message in report.diagnosis[0]
    json.dumps(report.to_dict(), allow_nan=False)


def test_point_at_the_end_of_the_domain_is_an_error():
    report = check_gradient(lambda x: math.sqrt(x[0]) + x[1], [0.0, 1.0], [1.0, 1.0])
    assert report.verdict == "ERROR"
    assert "no finite values around x along x[0]" in report.diagnosis[0] and "ValueError" in report.diagnosis[0]


def test_errors_of_fun_at_some_displaced_points_do_no_harm():
    def fun(x):
        if abs(x[0] - 1) > 0.1:
            raise FloatingPointError
        return x[0] ** 2
    assert check_gradient(fun, [1.0], [2.0])


def test_complex_step_of_an_unfit_function():
    def fun(x):
        return math.exp(x.tolist()[0])
    only = check_gradient(fun, [1.0], [np.e], methods=("complex",))
    assert only.verdict == "INCONCLUSIVE"
    assert any("accept complex numbers" in check.summary for check in only.checks)
    assert check_gradient(fun, [1.0], [np.e], methods=("fd", "complex"))


# --- what is refused ------------------------------------------------------------------------------

@pytest.mark.parametrize("change, error, message", [
    ({"fun": 3.0}, errors.InvalidTypeError, "fun: expected a callable, found float"),
    ({"x": "abcd"}, errors.InvalidTypeError, "x: expected an array of numbers, found str"),
    ({"x": X + 1j}, errors.InvalidInputError, "stack the real and the imaginary parts"),
    ({"x": [1.0, np.inf, 1.0, 1.0]}, errors.InvalidInputError, "x: expected finite numbers, found inf at index (1,)"),
    ({"grad": "abcd"}, errors.InvalidTypeError, "grad: expected"),
    ({"grad": None}, errors.InvalidTypeError, "grad: expected"),
    ({"grad": 1j * X}, errors.InvalidInputError, "grad: expected real"),
    ({"names": ["a"]}, errors.InvalidInputError, "names: expected 4, one for each component of x, found 1"),
    ({"rtol": -1.0}, errors.InvalidInputError, "rtol: expected a finite number ≥ 0, found -1.0"),
    ({"rtol": np.nan}, errors.InvalidInputError, "rtol: expected"),
    ({"atol": "small"}, errors.InvalidTypeError, "atol: expected a number, found str"),
    ({"methods": "fd"}, errors.InvalidTypeError, "methods: expected a sequence"),
    ({"methods": ("fd", "guess")}, errors.InvalidInputError, "methods: expected some of"),
    ({"methods": ()}, errors.InvalidInputError, "methods: expected some of"),
    ({"seed": 0.5}, errors.InvalidTypeError, "seed: expected an integer, found float"),
    ({"max_evals": 0}, errors.InvalidInputError, "max_evals: expected an integer ≥ 1, found 0"),
    ({"scale": [1.0, 2.0]}, errors.InvalidInputError, "scale: expected a number or the shape of x"),
    ({"shapes": {"W": (3, 3)}}, errors.InvalidInputError, "shapes: expected 4 numbers like x, found 9"),
    ({"candidates": {"wrong": [1.0]}}, errors.InvalidInputError, "candidates['wrong']: expected 4 numbers")])
def test_invalid_arguments_are_refused(change, error, message):
    arguments = {"fun": fun, "x": X, "grad": gradient, **change}
    with pytest.raises(error) as caught:
        check_gradient(**arguments)
    assert message in str(caught.value)


def test_arguments_are_left_untouched():
    def writing(x):
        x[:] = 0
        return 1.0
    x, grad = X.copy(), np.zeros(4)
    check_gradient(writing, x, grad, candidates={"c": grad})
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(grad, np.zeros(4))


# --- the budget -----------------------------------------------------------------------------------

@pytest.mark.parametrize("max_evals", [1, 9, 16, 17, 40, 60, 100, 1000])
def test_max_evals_is_kept_and_wrong_gradients_still_fail(max_evals):
    calls = []

    def counted(x):
        calls.append(x)
        return fun(x)
    right = check_gradient(counted, X, gradient, max_evals=max_evals)
    assert right.evaluations == len(calls) <= max_evals
    wrong = check_gradient(counted, X, lambda x: -gradient(x), max_evals=max_evals)
    assert len(calls) - right.evaluations <= max_evals
    affordable = max_evals >= 17      # fun(x), and eight steps along the random direction
    assert right.verdict == ("PASS" if affordable else "INCONCLUSIVE")
    assert wrong.verdict == ("FAIL" if affordable else "INCONCLUSIVE")


def test_many_components_within_a_budget():
    n = 500
    report = check_gradient(lambda x: np.sum(np.sin(x)), np.ones(n), np.full(n, np.cos(1.0)), max_evals=200)
    assert report.verdict == "PASS" and 0 < len(report.components) < n
    assert "were not compared one by one" in report.diagnosis[0]
    wrong = np.full(n, np.cos(1.0))
    wrong[137] = 0.0
    report = check_gradient(lambda x: np.sum(np.sin(x)), np.ones(n), wrong, max_evals=200)
    assert report.verdict == "FAIL"


def test_same_seed_same_report():
    first, second = (check_gradient(fun, X, gradient, seed=3, max_evals=60).to_dict() for _ in range(2))
    assert first == second
    assert first != check_gradient(fun, X, gradient, seed=4, max_evals=60).to_dict()


# --- the report -----------------------------------------------------------------------------------

NAMES = ['theta[0] "alpha"', 'theta[1] "beta"', 'theta[2] "gamma"', 'theta[3] "delta"']


def failing_report():
    return check_gradient(fun, X, lambda x: gradient(x) * [1, 1, -1, 1], names=NAMES,
                          methods=("fd", "complex", "taylor", "dot"))


def test_report_names_the_worst_component_with_its_numbers():
    worst = failing_report().worst
    assert (worst.name, worst.index, worst.verdict) == (NAMES[2], (2,), "FAIL")
    # Reference from the complex step: exact to a few roundings of exp(0.3) = 1.35.
    np.testing.assert_allclose([worst.yours, worst.reference], [-np.exp(0.3), np.exp(0.3)], rtol=1e-14)
    np.testing.assert_allclose(worst.error, 2 * np.exp(0.3), rtol=1e-14)
    assert worst.bound < 2e-6 and worst.ratio == worst.error / worst.bound


def test_text_says_everything():
    text = str(failing_report())
    lines = text.splitlines()
    assert lines[0].startswith("check_gradient  4 of 4 components compared") and lines[0].endswith("FAIL")
    assert lines[1].split() == ["component", "yours", "reference", "finite", "diff", "(±)", "|err|/bound"]
    assert lines[2].startswith('  theta[2] "gamma"   -1.349859e+00   +1.349859e+00') and lines[2].endswith("<- worst")
    for phrase in ("bound       1.3e-06 = tolerance 1.3e-06 (rtol 1e-06 × scale", "reference   complex step of fun",
                   "Taylor rates, yours", "(correct: 2.00)", "cos(yours, reference) = ",
                   "diagnosis   only the component", "there the sign is flipped", "reproduce   seed 0, numpy"):
        assert phrase in text


def test_text_is_cut_to_the_rows_asked_for():
    report = check_gradient(lambda x: x @ x, np.ones(20), 2 * np.ones(20))
    assert "(12 more: report.to_text(rows=…))" in str(report)
    assert len(report.to_text(rows=20).splitlines()) > len(str(report).splitlines())


def test_markdown():
    text = failing_report().to_markdown()
    assert text.startswith("### Gradient check: FAIL\n")
    assert '| `theta[2] "gamma"` | -1.349859e+00 | +1.349859e+00 |' in text
    assert "- **diagnosis**: only the component" in text


def test_dict_is_strict_json_even_with_infinities():
    rng = np.random.default_rng(0)
    for report in (failing_report(), check_gradient(lambda x: math.sqrt(x[0]), [0.0], [1.0]),
                   check_gradient(lambda x: rng.standard_normal(), X, X),
                   check_gradient(fun, X, X, methods=("taylor",))):
        decoded = json.loads(json.dumps(report.to_dict(), allow_nan=False))
        assert decoded["verdict"] == report.verdict
        assert decoded["settings"]["rtol"] == 1e-6 and "numpy" in decoded["settings"]["versions"]
    ended = check_gradient(lambda x: math.sqrt(x[0]), [0.0], [1.0]).to_dict()
    assert ended["components"][0]["uncertainty"] == "inf" and ended["components"][0]["reference"] == "nan"


def test_raise_for_verdict():
    check_gradient(fun, X, gradient).raise_for_verdict()
    report = failing_report()
    with pytest.raises(errors.GradientMismatch, match="theta") as caught:
        report.raise_for_verdict()
    assert caught.value.report is report and isinstance(caught.value, AssertionError)
    undecided = check_gradient(fun, X, gradient, methods=("taylor",))
    undecided.raise_for_verdict(allow_inconclusive=True)
    with pytest.raises(errors.GradientMismatch):
        undecided.raise_for_verdict()


def test_default_names_follow_shapes():
    matrix = check_gradient(lambda x: (x**2).sum(), np.ones((2, 2)), -2 * np.ones((2, 2)))
    assert {c.name for c in matrix.components} == {"x[0,0]", "x[0,1]", "x[1,0]", "x[1,1]"}
    assert matrix.worst.index in {(i, j) for i in range(2) for j in range(2)}
    blocks = check_gradient(lambda x: x @ x, np.ones(4), 2 * np.ones(4), shapes={"y0": (2,), "t0": (), "t1": ()})
    assert [c.name for c in blocks.components] == ["y0[0]", "y0[1]", "t0", "t1"]
