"""A field from strings: SymPy derives the derivatives, and what is kept is readable Python source.

    field = from_expressions(["theta[0]*y[0] - theta[1]*y[0]*y[1]", "theta[3]*y[0]*y[1] - theta[2]*y[1]"])
    print(field.source)

The text is never evaluated. It is parsed, every node of the tree is held against a whitelist, and the tree
is rebuilt in SymPy node by node; only source that this module printed itself is ever compiled.
"""
import ast
import itertools
import linecache
import math

from numba import njit

from refnode.errors import InvalidInputError
from refnode.fields.expressions import (
    EXACT_INTEGER, OPERATORS, SIGNS, checked_sizes, checked_texts, checked_tree, constant_value, kind_of,
    operands_of, refused)
from refnode.fields.field import VectorField
from refnode.host_device import OPTIONS, host_device

_serial = itertools.count()


def from_expressions(expressions, n=None, p=None, name=None):
    """A compiled `VectorField` whose four functions are derived from strings.

    Parameters
    ----------
    expressions : sequence of str
        dy[i]/dt for i = 0, 1, ..., in ``t``, ``y[i]``, ``theta[j]``, numbers, ``pi``, ``+ - * / **`` and
        sin, cos, tan, exp, log, sqrt, tanh, sinh, cosh.
    n : int, optional
        Number of states; must be the number of expressions.
    p : int, optional
        Number of parameters; default one more than the largest index of ``theta``.
    name : str, optional
        A Python identifier; the functions are called ``name_rhs``, ``name_jvp``, ``name_vjp``,
        ``name_hvp``.

    Returns
    -------
    VectorField
        With the derived source in ``field.source`` and the expressions in ``field.expressions``.

    Raises
    ------
    ImportError
        If SymPy is not installed.
    InvalidInputError
        If an expression does not parse, uses anything outside the list above, is too large, is not finite,
        or if ``n``, ``p`` or ``name`` do not fit.
    InvalidTypeError
        If ``expressions`` is not a sequence of strings.

    References
    ----------
    Meurer et al., SymPy: symbolic computing in Python, 2017.
    """
    sympy = _import_sympy()
    name = "expressions_field" if name is None else name
    if not isinstance(name, str) or not name.isidentifier():
        raise InvalidInputError(f"name must be a Python identifier, found {name!r}")
    expressions = checked_texts(expressions)
    trees = [checked_tree(i, text) for i, text in enumerate(expressions)]
    n, p = checked_sizes(trees, n, p)
    try:
        source = _source(sympy, name, [_rate(sympy, i, tree) for i, tree in enumerate(trees)], n, p)
    except RecursionError as error:
        raise InvalidInputError("expressions are refused: too deeply nested for SymPy") from error
    f, f_jvp, f_vjp, f_hvp = _compile(source, name)
    field = VectorField(f, jvp=f_jvp, vjp=f_vjp, hvp=f_hvp, name=name, n=n, p=p)
    field.source = source
    field.expressions = expressions
    return field


def _import_sympy():
    try:
        import sympy
    except ImportError as error:
        raise ImportError("a field from expressions needs SymPy, which is not installed: "
                          "pip install sympy, or refnode with its extra `symbolic`") from error
    return sympy


@host_device
def integer_power(x, k):
    """x**k for k >= 1 by repeated squaring: also for complex x, where ** goes through the logarithm and
    loses a complex step on the negative axis."""
    result, square = x, x
    k -= 1
    while k > 0:
        if k & 1:
            result = result * square
        k >>= 1
        if k > 0:
            square = square * square
    return result


# --- from the tree to SymPy -----------------------------------------------------------------------

def _rate(sympy, i, tree):
    rate = sympy.sympify(_symbolic(sympy, i, tree))
    if rate.has(sympy.zoo, sympy.nan, sympy.oo, -sympy.oo, sympy.I):
        raise refused(i, f"it simplifies to {rate}, which is not finite and real")
    return rate


def _symbolic(sympy, i, node):
    kind = kind_of(node)
    if kind == "number":
        return _number(sympy, node.value)
    if kind == "pi":
        return sympy.pi
    if kind in ("t", "variable"):
        return sympy.Symbol(ast.unparse(node))      # the name of a symbol is its text: "y[0]"
    operands = [_symbolic(sympy, i, child) for child in operands_of(node)]
    if kind == "call":
        return getattr(sympy, node.func.id)(*operands)
    if kind == "unary":
        return SIGNS[type(node.op)](operands[0])
    if isinstance(node.op, ast.Pow):
        return operands[0] ** _exponent(sympy, i, node.right, operands[1])
    return OPERATORS[type(node.op)](*operands)


def _number(sympy, value):
    """Integers are exact; a float stays the float64 it is, to the last bit."""
    if type(value) is int and abs(value) <= EXACT_INTEGER:
        return sympy.Integer(value)
    return sympy.Float(float(value), precision=53)


def _exponent(sympy, i, node, symbolic):
    """y**2.0 is y**2, and y**0.5 is sqrt(y)."""
    value = constant_value(i, node)
    if value is not None and float(2.0 * value).is_integer():
        return sympy.Rational(int(2.0 * value), 2)
    return symbolic


# --- from SymPy to source -------------------------------------------------------------------------

def _source(sympy, name, rates, n, p):
    """Source of the four functions, complete with its imports."""
    x, x_tan, x_bar, x_bar_tan = (_names(suffix, n, p) for suffix in ("", "_tan", "_bar", "_bar_tan"))
    jac = [[sympy.diff(rate, sympy.Symbol(variable)) for variable in x] for rate in rates]
    jvp = [sympy.Add(*(jac[i][k] * sympy.Symbol(x_tan[k]) for k in range(len(x)))) for i in range(n)]
    vjp = [sympy.Add(*(jac[i][k] * sympy.Symbol(f"dy_bar[{i}]") for i in range(n))) for k in range(len(x))]
    tangents = [(sympy.Symbol(variable), sympy.Symbol(tangent)) for variable, tangent in zip(x, x_tan)]
    tangents += [(sympy.Symbol(f"dy_bar[{i}]"), sympy.Symbol(f"dy_bar_tan[{i}]")) for i in range(n)]
    hvp = [_tangent(sympy, bar, tangents) for bar in vjp]
    body = "\n\n".join((
        _function(sympy, f"{name}_rhs(t, y, theta, tape, dy)", "dy = f(t, y, theta).",
                  [f"dy[{i}] =" for i in range(n)], rates),
        _function(sympy, f"{name}_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan)",
                  "dy_tan = df/dt t_tan + df/dy y_tan + df/dtheta theta_tan.",
                  [f"dy_tan[{i}] =" for i in range(n)], jvp),
        _function(sympy, f"{name}_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar)",
                  "Adds (df/dt, df/dy, df/dtheta)^T dy_bar to the bars.",
                  [f"{bar} +=" for bar in x_bar], vjp),
        _function(sympy, f"{name}_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, "
                  "t_bar_tan, y_bar_tan, theta_bar_tan)", f"Adds the tangent of {name}_vjp to the last three.",
                  [f"{bar_tan} +=" for bar_tan in x_bar_tan], hvp)))
    imports = "import numpy as np\n"
    if "integer_power(" in body:
        imports += "\nfrom refnode.fields.symbolic import integer_power\n"
    return imports + "\n\n" + body


def _tangent(sympy, value, tangents):
    """The tangent of a value, for pairs (variable, its tangent)."""
    present = value.free_symbols
    return sympy.Add(*(sympy.diff(value, variable) * tangent for variable, tangent in tangents
                       if variable in present))


def _names(suffix, n, p):
    """The texts of (t, y, theta) with a suffix; a bar of t is a vector of one."""
    time = f"t{suffix}[0]" if suffix.startswith("_bar") else f"t{suffix}"
    return [time] + [f"y{suffix}[{k}]" for k in range(n)] + [f"theta{suffix}[{k}]" for k in range(p)]


def _function(sympy, signature, docstring, targets, values):
    """One function: common subexpressions, then an assignment a line; adding zero is left out."""
    kept = [(target, value) for target, value in zip(targets, values)
            if not (target.endswith("+=") and value == 0)]
    shared, values = sympy.cse([value for _, value in kept], symbols=sympy.numbered_symbols("c"))
    text = _printer(sympy)
    lines = [f"def {signature}:", f'    """{docstring}"""']
    lines += [f"    {symbol} = {text(value)}" for symbol, value in shared]
    lines += [f"    {target} {text(value)}" for (target, _), value in zip(kept, values)]
    return "\n".join(lines) + "\n"


def _printer(sympy):
    """SymPy's own printer with NumPy's names, float64's digits, and powers fit for complex numbers."""
    from sympy.printing.precedence import PRECEDENCE
    from sympy.printing.str import StrPrinter

    class SourcePrinter(StrPrinter):
        def _print_Pow(self, expr, rational=False):
            base, exponent = expr.base, expr.exp
            if exponent == sympy.S.Half:
                return f"np.sqrt({self._print(base)})"
            if exponent.is_Rational and exponent < 0:
                return "1/" + self.parenthesize(sympy.Pow(base, -exponent, evaluate=False),
                                                PRECEDENCE["Mul"], strict=False)
            if exponent.is_Integer and exponent > 2:
                return f"integer_power({self._print(base)}, {exponent})"
            return super()._print_Pow(expr, rational=rational)

        def _print_Function(self, expr):
            return f"np.{expr.func.__name__}({self.stringify(expr.args, ', ')})"

        def _print_Float(self, expr):
            return repr(_finite_float(expr))

        def _print_Integer(self, expr):
            return str(int(expr)) if abs(expr) <= EXACT_INTEGER else repr(_finite_float(expr))

        def _print_Rational(self, expr):
            if max(abs(expr.p), expr.q) <= EXACT_INTEGER:
                return f"{expr.p}/{expr.q}"
            return repr(_finite_float(expr))

        def _print_Pi(self, expr):
            return "np.pi"

        def _print_Exp1(self, expr):
            return "np.e"

    return SourcePrinter({"order": "none"}).doprint


def _finite_float(number):
    try:
        value = float(number)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise InvalidInputError("expressions are refused: a constant in them or in their derivatives "
                                "exceeds the range of float64")
    return value


# --- from source to functions ---------------------------------------------------------------------

def _compile(source, name):
    """The four functions, compiled; their lines are in `linecache`, so tracebacks and debuggers show them."""
    filename = f"<refnode expressions {name} {next(_serial)}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    namespace = {"__name__": __name__}
    exec(compile(source, filename, "exec"), namespace)
    return [njit(**OPTIONS)(namespace[f"{name}_{which}"]) for which in ("rhs", "jvp", "vjp", "hvp")]
