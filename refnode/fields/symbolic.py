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

import numpy as np
from numba import njit

from refnode.errors import InvalidInputError, InvalidTypeError
from refnode.fields.field import VectorField
from refnode.host_device import OPTIONS, host_device

MAX_TEXT = 20_000           # characters of one expression
MAX_NODES = 2_000           # nodes of its syntax tree
MAX_DEPTH = 150             # levels of its syntax tree; a sum of k terms has k levels
MAX_EXPONENT = 64           # of a constant exponent, and of nested constant exponents multiplied together
MAX_INDEX = 10_000          # of y[i] and theta[j]
EXACT_INTEGER = 2 ** 53     # up to here float64 holds every integer

FUNCTIONS = {"sin": math.sin, "cos": math.cos, "tan": math.tan, "exp": math.exp, "log": math.log,
             "sqrt": math.sqrt, "tanh": math.tanh, "sinh": math.sinh, "cosh": math.cosh}
OPERATORS = {ast.Add: lambda a, b: a + b, ast.Sub: lambda a, b: a - b, ast.Mult: lambda a, b: a * b,
             ast.Div: lambda a, b: a / b, ast.Pow: lambda a, b: a ** b}
SIGNS = {ast.UAdd: lambda a: +a, ast.USub: lambda a: -a}

_serial = itertools.count()


def from_expressions(expressions, n=None, p=None, name=None):
    """A compiled `VectorField` whose three functions are derived from strings.

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
        A Python identifier; the functions are called ``name_rhs``, ``name_jvp``, ``name_vjp``.

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
    expressions = _checked_texts(expressions)
    trees = [_checked_tree(i, text) for i, text in enumerate(expressions)]
    n, p = _checked_sizes(trees, n, p)
    try:
        source = _source(sympy, name, [_rate(sympy, i, tree) for i, tree in enumerate(trees)], n, p)
    except RecursionError as error:
        raise InvalidInputError("expressions are refused: too deeply nested for SymPy") from error
    f, f_jvp, f_vjp = _compile(source, name)
    field = VectorField(f, jvp=f_jvp, vjp=f_vjp, name=name, n=n, p=p)
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


# --- from text to a checked tree ------------------------------------------------------------------

def _checked_texts(expressions):
    texts = (None,) if isinstance(expressions, str) or not np.iterable(expressions) else tuple(expressions)
    if not all(isinstance(text, str) for text in texts):
        raise InvalidTypeError("expressions must be a sequence of strings, one for each state, "
                               f"found {type(expressions).__name__}")
    return texts


def _checked_tree(i, text):
    """The syntax tree of one expression; every node is one of those `_symbolic` knows."""
    if len(text) > MAX_TEXT:
        raise _refused(i, f"it has {len(text)} characters, at most {MAX_TEXT} are allowed")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _refused(i, f"it is not an expression: {error}") from error
    nodes, depth = _extent(tree)
    if nodes > MAX_NODES or depth > MAX_DEPTH:
        raise _refused(i, f"it has {nodes} nodes in {depth} levels, at most {MAX_NODES} in {MAX_DEPTH} "
                          "are allowed")
    _check_node(i, tree)
    return tree


def _extent(tree):
    """Number of nodes and of levels, counted without recursion."""
    nodes, depth, level = 0, 0, [tree]
    while level:
        nodes, depth = nodes + len(level), depth + 1
        level = [child for node in level for child in ast.iter_child_nodes(node)]
    return nodes, depth


def _check_node(i, node):
    if _kind(node) is None:
        raise _refused(i, f"{_text(node)} is not allowed; known are t, y[i], theta[j], pi, numbers, "
                          f"+ - * / ** and {', '.join(FUNCTIONS)}")
    for child in _operands(node):
        _check_node(i, child)
    value = _constant_value(i, node)
    if value is not None and not math.isfinite(value):
        raise _refused(i, f"the constant {_text(node)} is {value}")
    nested = _exponent_product(i, node)
    if nested > MAX_EXPONENT:       # SymPy would carry out 9**9**9; and x**(10**9) is a mistake
        raise _refused(i, f"the exponents in {_text(node)} multiply to {nested:g}, at most {MAX_EXPONENT} "
                          "is allowed")


def _text(node):
    """The beginning of a node's text, for messages."""
    try:
        return repr(ast.unparse(node)[:60])
    except RecursionError:
        return f"a deeply nested {type(node).__name__}"


def _kind(node):
    """Which allowed thing a node is; None if it is none."""
    if isinstance(node, ast.Constant):
        return "number" if type(node.value) in (int, float) else None
    if isinstance(node, ast.Name):
        return node.id if node.id in ("t", "pi") else None
    if isinstance(node, ast.Subscript):
        return "variable" if _is_variable(node) else None
    if isinstance(node, ast.UnaryOp):
        return "unary" if type(node.op) in SIGNS else None
    if isinstance(node, ast.BinOp):
        return "binary" if type(node.op) in OPERATORS else None
    if isinstance(node, ast.Call):
        known = isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS
        return "call" if known and len(node.args) == 1 and not node.keywords else None
    return None


def _is_variable(node):
    index = node.slice.value if isinstance(node.slice, ast.Constant) else None
    return (isinstance(node.value, ast.Name) and node.value.id in ("y", "theta")
            and type(index) is int and 0 <= index <= MAX_INDEX)


def _operands(node):
    if isinstance(node, ast.UnaryOp):
        return [node.operand]
    if isinstance(node, ast.BinOp):
        return [node.left, node.right]
    return node.args if isinstance(node, ast.Call) else []


def _constant_value(i, node):
    """The value of a subtree without variables, in float64; None if it has variables."""
    kind = _kind(node)
    if kind in ("t", "variable"):
        return None
    if kind == "pi":
        return math.pi
    try:
        if kind == "number":
            return float(node.value)
        operands = [_constant_value(i, child) for child in _operands(node)]
        if None in operands:
            return None
        operation = FUNCTIONS[node.func.id] if kind == "call" else {**OPERATORS, **SIGNS}[type(node.op)]
        return float(operation(*operands))
    except (ArithmeticError, ValueError, TypeError) as error:
        raise _refused(i, f"the constant {_text(node)} has no finite real value") from error


def _exponent_product(i, node):
    """The largest product of constant exponents along a path of nested powers."""
    product = max((_exponent_product(i, child) for child in _operands(node)), default=1.0)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        exponent = _constant_value(i, node.right)
        product *= 1.0 if exponent is None else max(1.0, abs(exponent))
    return product


def _refused(i, reason):
    return InvalidInputError(f"expressions[{i}] is refused: {reason}")


def _checked_sizes(trees, n, p):
    """(n, p), given or counted; no index may lie outside them."""
    largest = {vector: max(_indices(trees, vector), default=-1) for vector in ("y", "theta")}
    n, p = len(trees) if n is None else n, largest["theta"] + 1 if p is None else p
    if n != len(trees):
        raise InvalidInputError(f"n must be the number of expressions, {len(trees)}, found {n!r}")
    if type(p) is not int or p < 0:
        raise InvalidInputError(f"p must be a number of parameters, found {p!r}")
    for vector, size in (("y", n), ("theta", p)):
        if largest[vector] >= size:
            raise InvalidInputError(
                f"expressions use {vector}[{largest[vector]}], but {vector} has length {size}")
    return n, p


def _indices(trees, vector):
    return [node.slice.value for tree in trees for node in ast.walk(tree)
            if isinstance(node, ast.Subscript) and node.value.id == vector]


# --- from the tree to SymPy -----------------------------------------------------------------------

def _rate(sympy, i, tree):
    rate = sympy.sympify(_symbolic(sympy, i, tree))
    if rate.has(sympy.zoo, sympy.nan, sympy.oo, -sympy.oo, sympy.I):
        raise _refused(i, f"it simplifies to {rate}, which is not finite and real")
    return rate


def _symbolic(sympy, i, node):
    kind = _kind(node)
    if kind == "number":
        return _number(sympy, node.value)
    if kind == "pi":
        return sympy.pi
    if kind in ("t", "variable"):
        return sympy.Symbol(ast.unparse(node))      # the name of a symbol is its text: "y[0]"
    operands = [_symbolic(sympy, i, child) for child in _operands(node)]
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
    value = _constant_value(i, node)
    if value is not None and float(2.0 * value).is_integer():
        return sympy.Rational(int(2.0 * value), 2)
    return symbolic


# --- from SymPy to source -------------------------------------------------------------------------

def _source(sympy, name, rates, n, p):
    """Source of the three functions, complete with its imports."""
    x, x_tan, x_bar = (_names(suffix, n, p) for suffix in ("", "_tan", "_bar"))
    jac = [[sympy.diff(rate, sympy.Symbol(variable)) for variable in x] for rate in rates]
    jvp = [sympy.Add(*(jac[i][k] * sympy.Symbol(x_tan[k]) for k in range(len(x)))) for i in range(n)]
    vjp = [sympy.Add(*(jac[i][k] * sympy.Symbol(f"dy_bar[{i}]") for i in range(n))) for k in range(len(x))]
    body = "\n\n".join((
        _function(sympy, f"{name}_rhs(t, y, theta, tape, dy)", "dy = f(t, y, theta).",
                  [f"dy[{i}] =" for i in range(n)], rates),
        _function(sympy, f"{name}_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan)",
                  "dy_tan = df/dt t_tan + df/dy y_tan + df/dtheta theta_tan.",
                  [f"dy_tan[{i}] =" for i in range(n)], jvp),
        _function(sympy, f"{name}_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar)",
                  "Adds (df/dt, df/dy, df/dtheta)^T dy_bar to the bars.",
                  [f"{bar} +=" for bar in x_bar], vjp)))
    imports = "import numpy as np\n"
    if "integer_power(" in body:
        imports += "\nfrom refnode.fields.symbolic import integer_power\n"
    return imports + "\n\n" + body


def _names(suffix, n, p):
    """The texts of (t, y, theta) with a suffix; a bar of t is a vector of one."""
    time = "t_bar[0]" if suffix == "_bar" else f"t{suffix}"
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
    """The three functions, compiled; their lines are in `linecache`, so tracebacks and debuggers show them."""
    filename = f"<refnode expressions {name} {next(_serial)}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    namespace = {"__name__": __name__}
    exec(compile(source, filename, "exec"), namespace)
    return [njit(**OPTIONS)(namespace[f"{name}_{which}"]) for which in ("rhs", "jvp", "vjp")]
