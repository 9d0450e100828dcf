"""Fields derived from strings: right to rounding, and closed to everything that is not arithmetic."""
import linecache
import subprocess
import sys
import traceback

import numpy as np
import pytest

import cases
from refnode.errors import InvalidInputError, InvalidTypeError
from refnode.fields.classical import CLASSICAL
from refnode.fields.field import VectorField
from refnode.fields.symbolic import from_expressions, integer_power

pytest.importorskip("sympy")

LOTKA_VOLTERRA = ("theta[0]*y[0] - theta[1]*y[0]*y[1]", "theta[3]*y[0]*y[1] - theta[2]*y[1]")

# One component for every function and every kind of power, constant and operator.
EVERYTHING = (
    "sin(pi*t)*cos(y[1]) + tan(0.25*y[2])/theta[0]",
    "exp(-theta[1]*t**2)*log(2 + y[0]**2) - 0.1*y[3]**3",
    "sqrt(1 + y[0]**2)*tanh(y[1] - y[2]) + sinh(0.5*t)*cosh(y[3])",
    "-theta[0]*y[0]/(y[0]**2 + y[1]**2)**1.5 + y[2]**-2",
    "(y[4] - 2)**7/(1 + (t - y[4])**2)**-3 + y[3]**2.0 - +y[0]**0.5",
    "2**y[0] + y[1]**theta[2] + 1/3*y[2]**(1/3) + 6.02e23*y[3]/3e23",
    "exp(1)*y[6] + 7/9*theta[2]*pi**2 - 12345678901234567890*theta[1]/1e19",
)
NUMPY_NAMES = {name: getattr(np, name) for name in
               ("sin", "cos", "tan", "exp", "log", "sqrt", "tanh", "sinh", "cosh", "pi")}


@pytest.fixture(scope="module")
def lotka_volterra():
    return from_expressions(LOTKA_VOLTERRA, name="lotka_volterra")


@pytest.fixture(scope="module")
def everything():
    return from_expressions(EVERYTHING, name="everything")


def test_equals_the_hand_written_field(lotka_volterra):
    by_hand = CLASSICAL["lotka_volterra"]
    assert (lotka_volterra.n, lotka_volterra.p) == (2, 4) and lotka_volterra.compiled == by_hand.compiled
    for point in cases.random_points("lotka_volterra", 2, 4):
        arguments = point.t, point.y, point.theta
        scale = 1.0 + np.max(np.abs(point.tangent)) * np.max(np.abs(point.dy_bar))
        for derived, written in (
                (lotka_volterra(*arguments), by_hand(*arguments)),
                (cases.evaluate_jvp(lotka_volterra, point), cases.evaluate_jvp(by_hand, point)),
                (cases.evaluate_vjp(lotka_volterra, point), cases.evaluate_vjp(by_hand, point))):
            np.testing.assert_allclose(derived, written, rtol=0.0, atol=32 * cases.EPS * scale)


def test_value_is_what_the_text_says(everything):
    """Against Python's own reading of the text, with NumPy's functions."""
    for point in cases.random_points("everything", 7, 3):
        names = {**NUMPY_NAMES, "t": point.t, "y": point.y, "theta": point.theta}
        expected = [eval(text, {}, names) for text in EVERYTHING]
        np.testing.assert_allclose(everything(point.t, point.y, point.theta), expected, rtol=1e-13)


def test_derivatives_equal_complex_steps_and_each_other(everything):
    for point in cases.random_points("everything", 7, 3):
        assert cases.jvp_error(everything, point) <= 1e-13
        assert cases.dot_product_error(everything, point) <= 1.0
        assert cases.accumulation_error(everything, point) <= 1.0


def test_time_derivative_is_derived(everything, lotka_volterra):
    point = cases.random_points("everything", 7, 3)[0]
    assert cases.evaluate_vjp(everything, point)[0] != 0.0
    assert "t_bar[0] +=" in everything.source and "t_bar[0] +=" not in lotka_volterra.source


def test_mutants_of_the_derived_vjp_are_caught(lotka_volterra):
    point = cases.random_points("lotka_volterra", 2, 4)[0]
    found = list(cases.mutants(lotka_volterra.vjp))
    assert len(found) == 4 * 6
    for label, mutant in found:
        assert max(cases.dot_product_error(lotka_volterra, point, mutant),
                   cases.accumulation_error(lotka_volterra, point, mutant)) > 1.0, label


@pytest.mark.parametrize("x", [1.75, -1.25, 0.5 - 0.25j])
def test_integer_power(x):
    for k in range(1, 20):
        assert abs(integer_power(x, k) - x ** k) <= 16 * k * cases.EPS * abs(x) ** k


def test_integer_power_takes_complex_steps_on_the_negative_axis():
    for k in range(1, 10):
        slope = integer_power(complex(-2.0, 1e-30), k).imag / 1e-30
        assert slope == k * (-2.0) ** (k - 1)


# --- the source -----------------------------------------------------------------------------------

def test_source_is_complete_and_shares_subexpressions(everything):
    """Pasted into a module of its own it gives the same functions."""
    namespace = {}
    exec(everything.source, namespace)
    pasted = VectorField(namespace["everything_rhs"], jvp=namespace["everything_jvp"],
                         vjp=namespace["everything_vjp"])
    point = cases.random_points("everything", 7, 3)[0]
    np.testing.assert_allclose(cases.evaluate_vjp(pasted, point), cases.evaluate_vjp(everything, point),
                               rtol=1e-14, atol=1e-14)
    assert "c0 = " in everything.source


def test_source_of_lotka_volterra_reads_as_written(lotka_volterra):
    assert ("    dy[0] = theta[0]*y[0] - theta[1]*y[0]*y[1]\n"
            "    dy[1] = -theta[2]*y[1] + theta[3]*y[0]*y[1]\n") in lotka_volterra.source
    assert lotka_volterra.expressions == LOTKA_VOLTERRA


def test_nothing_is_printed_unless_asked(capsys):
    from_expressions(["-y[0]"])
    assert capsys.readouterr().out == ""
    field = VectorField.from_expressions(["-y[0]"])
    assert capsys.readouterr().out.strip() == field.source.strip()


def test_tracebacks_show_the_derived_line(lotka_volterra):
    f = cases.python_body(lotka_volterra.f)
    assert "dy[0]" in "".join(linecache.getlines(f.__code__.co_filename))
    try:
        f(0.0, np.ones(1), np.ones(4), np.empty(0), np.empty(2))
    except IndexError:
        assert "dy[0] = theta[0]*y[0] - theta[1]*y[0]*y[1]" in traceback.format_exc()
    else:
        pytest.fail("an index out of bounds was accepted")


def test_constant_and_empty_fields():
    assert from_expressions([]).n == 0
    constant = from_expressions(["3", "1/4"], p=2)
    np.testing.assert_array_equal(constant(0.0, [1.0, 1.0], [5.0, 6.0]), [3.0, 0.25])
    point = cases.random_points("constant", 2, 2)[0]
    assert not np.any(cases.evaluate_jvp(constant, point)) and not np.any(cases.evaluate_vjp(constant, point))


# --- what is refused ------------------------------------------------------------------------------

MALICIOUS = [
    "__import__('os').system('true')", "eval('1')", "exec('1')", "open('x')", "getattr(t, 'real')",
    "y[0].real", "t.__class__", "().__class__.__bases__", "(lambda: 0)()", "[x for x in (1,)]",
    "f'{t}'", "'text'", "b'text'", "None", "True", "...", "1j", "(t := 1)", "y[0] if t else 1", "t < 1",
    "not t", "t and t", "~1", "1 @ 2", "7 // 2", "7 % 2", "1 << 2", "y", "theta", "sin", "x", "y[-1]",
    "y[True]", "y[t]", "y[0:1]", "y[0][0]", "y[0.0]", "y[100000]", "sin()", "sin(1, 2)", "sin(x=1)", "sin(*y)",
    "abs(t)", "np.sin(t)", "y[0]; t", "t = 1", "", "t t", "t\nt", "\0", "\ud800"]
TOO_LARGE = [
    "9**9**9", "9**9**9**9", "y[0]**1000000000", "y[0]**65", "t**-65", "y[0]**(2**63)", "((2*t)**9)**9",
    "1e999", "10**400", "1" * 400, "1" * 5000, "exp(1000)", "exp(exp(exp(exp(9))))", "1e300*1e300",
    "(99999999999*t)**64*(99999999999*t)**64", "-" * 1900 + "t", "f(" + "-" * 140 + "t)",
    "(" * 5000 + "t" + ")" * 5000, "+".join("t" * 3000), "+".join("t" * 200), "1+" * 11000 + "1",
    "(1+y[0]*" * 70 + "t" + ")" * 70]
NOT_FINITE = ["1/0", "0**-1", "log(0)", "log(-1)", "sqrt(-1)", "(-8)**(1/3)", "1/(t - t)", "log(t - t)"]


@pytest.mark.parametrize("text", MALICIOUS + TOO_LARGE + NOT_FINITE, ids=lambda text: ascii(text[:24]))
def test_refused(text):
    with pytest.raises(InvalidInputError, match="expressions"):
        from_expressions([text])


def test_the_message_names_the_expression_and_what_is_allowed():
    with pytest.raises(InvalidInputError, match=r"expressions\[1\] is refused: 'abs\(t\)'.*y\[i\].*cosh"):
        from_expressions(["t", "1 + abs(t)"])


@pytest.mark.parametrize("arguments, message", [
    ({"expressions": ["y[1]"]}, r"y\[1\], but y has length 1"),
    ({"expressions": ["theta[2]"], "p": 2}, r"theta\[2\], but theta has length 2"),
    ({"expressions": ["t"], "n": 2}, "n must be the number of expressions, 1, found 2"),
    ({"expressions": ["t"], "p": -1}, "p must be"),
    ({"expressions": ["t"], "p": 1.0}, "p must be"),
    ({"expressions": ["t"], "name": "a b"}, "name must be a Python identifier"),
    ({"expressions": ["t"], "name": "f(): pass\nimport os\ndef g"}, "name must be a Python identifier"),
    ({"expressions": ["t"], "name": ""}, "name must be a Python identifier"),
])
def test_sizes_and_names_that_do_not_fit(arguments, message):
    with pytest.raises(InvalidInputError, match=message):
        from_expressions(**arguments)


@pytest.mark.parametrize("expressions", ["-y[0]", ["t", 1], None, 3.0, [None]])
def test_not_a_sequence_of_strings(expressions):
    with pytest.raises(InvalidTypeError, match="sequence of strings"):
        from_expressions(expressions)


def test_declared_parameters_may_exceed_those_used():
    assert from_expressions(["theta[0]*y[0]"], p=3).p == 3


# --- SymPy is optional ----------------------------------------------------------------------------

def test_without_sympy_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sympy", None)
    with pytest.raises(ImportError, match="pip install sympy"):
        from_expressions(["t"])


def test_importing_the_module_does_not_import_sympy():
    program = "import sys, refnode.fields.symbolic; sys.exit('sympy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0
