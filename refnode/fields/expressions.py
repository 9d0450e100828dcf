"""The text of a right-hand side, parsed and held against a whitelist; see `fields.symbolic`.

The text is never evaluated. Every node of its syntax tree is one of those that `kind_of` knows.
"""
import ast
import math

import numpy as np

from refnode.errors import InvalidInputError, InvalidTypeError

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


def checked_texts(expressions):
    """The expressions as a tuple of strings."""
    texts = (None,) if isinstance(expressions, str) or not np.iterable(expressions) else tuple(expressions)
    if not all(isinstance(text, str) for text in texts):
        raise InvalidTypeError("expressions must be a sequence of strings, one for each state, "
                               f"found {type(expressions).__name__}")
    return texts


def checked_tree(i, text):
    """The syntax tree of one expression; every node is one of those that `kind_of` knows."""
    if len(text) > MAX_TEXT:
        raise refused(i, f"it has {len(text)} characters, at most {MAX_TEXT} are allowed")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise refused(i, f"it is not an expression: {error}") from error
    nodes, depth = _extent(tree)
    if nodes > MAX_NODES or depth > MAX_DEPTH:
        raise refused(i, f"it has {nodes} nodes in {depth} levels, at most {MAX_NODES} in {MAX_DEPTH} "
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
    """Refuse what is not allowed; returns the node's constant value, if it has one, and its nested exponents multiplied."""
    if kind_of(node) is None:
        raise refused(i, f"{_text(node)} is not allowed; known are t, y[i], theta[j], pi, numbers, "
                          f"+ - * / ** and {', '.join(FUNCTIONS)}")
    parts = [_check_node(i, child) for child in operands_of(node)]
    value = _constant(i, node, [value for value, _ in parts])
    if value is not None and not math.isfinite(value):
        raise refused(i, f"the constant {_text(node)} is {value}")
    nested = max((product for _, product in parts), default=1.0)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        exponent = parts[1][0]
        nested *= 1.0 if exponent is None else max(1.0, abs(exponent))
    if nested > MAX_EXPONENT:       # SymPy would carry out 9**9**9; and x**(10**9) is a mistake
        raise refused(i, f"the exponents in {_text(node)} multiply to {nested:g}, at most {MAX_EXPONENT} "
                         "is allowed")
    return value, nested


def _text(node):
    """The beginning of a node's text, for messages."""
    try:
        return repr(ast.unparse(node)[:60])
    except RecursionError:
        return f"a deeply nested {type(node).__name__}"


def kind_of(node):
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


def operands_of(node):
    """The nodes an operation or a call is applied to."""
    if isinstance(node, ast.UnaryOp):
        return [node.operand]
    if isinstance(node, ast.BinOp):
        return [node.left, node.right]
    return node.args if isinstance(node, ast.Call) else []


def constant_value(i, node):
    """The value of a subtree without variables, in float64; None if it has variables."""
    return _constant(i, node, [constant_value(i, child) for child in operands_of(node)])


def _constant(i, node, operands):
    """The same from the values of its operands."""
    kind = kind_of(node)
    if kind in ("t", "variable") or None in operands:
        return None
    if kind == "pi":
        return math.pi
    try:
        if kind == "number":
            return float(node.value)
        operation = FUNCTIONS[node.func.id] if kind == "call" else {**OPERATORS, **SIGNS}[type(node.op)]
        return float(operation(*operands))
    except (ArithmeticError, ValueError, TypeError) as error:
        raise refused(i, f"the constant {_text(node)} has no finite real value") from error


def refused(i, reason):
    """The error that says why an expression is not taken."""
    return InvalidInputError(f"expressions[{i}] is refused: {reason}")


def checked_sizes(trees, n, p):
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
