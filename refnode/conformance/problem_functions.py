"""A problem as data, as NumPy functions: its right-hand side, its loss, and their derivatives by complex steps.

Nothing here uses a hand-written derivative of refnode, unless the right-hand side has no text (a network, or a
`refnode.Problem` that was never data): then the field's own functions serve.
"""
import ast

import numpy as np

from refnode.errors import InvalidInputError
from refnode.fields.expressions import OPERATORS, SIGNS, checked_tree, kind_of

STEP = 1e-30                       # of complex steps: its square is nothing beside rounding
FUNCTIONS = {name: getattr(np, name) for name in ("sin", "cos", "tan", "exp", "log", "sqrt", "tanh", "sinh", "cosh")}


# --- text -----------------------------------------------------------------------------------------

def function_of(text):
    """``value(t, y, theta)`` of a text that passes the whitelist: closures of its syntax tree, nothing is evaluated."""
    return _closure(checked_tree(0, text))


def _closure(node):
    kind = kind_of(node)
    if kind == "number":
        return lambda t, y, theta, value=float(node.value): value
    if kind == "pi":
        return lambda t, y, theta: np.pi
    if kind == "t":
        return lambda t, y, theta: t
    if kind == "variable":
        index = node.slice.value
        return (lambda t, y, theta: y[index]) if node.value.id == "y" else (lambda t, y, theta: theta[index])
    if kind == "unary":
        sign, operand = SIGNS[type(node.op)], _closure(node.operand)
        return lambda t, y, theta: sign(operand(t, y, theta))
    if kind == "binary":
        return _binary(node)
    function, operand = FUNCTIONS[node.func.id], _closure(node.args[0])
    return lambda t, y, theta: function(operand(t, y, theta))


def _binary(node):
    left, right = _closure(node.left), _closure(node.right)
    if isinstance(node.op, ast.Pow) and isinstance(node.right, ast.Constant) and float(node.right.value).is_integer():
        exponent = int(node.right.value)             # a whole power of a complex number keeps its imaginary part exact
        return lambda t, y, theta: left(t, y, theta) ** exponent
    operation = OPERATORS[type(node.op)]
    return lambda t, y, theta: operation(left(t, y, theta), right(t, y, theta))


class TextField:
    """f, and its derivatives by complex steps in all inputs at once, from one text a state."""

    def __init__(self, texts, n, p):
        self.parts, self.n, self.p = [function_of(text) for text in texts], n, p
        self.shift = STEP * 1j * np.eye(n + p)

    def f(self, t, y, theta):
        return np.array([np.real(part(t, y, theta)) for part in self.parts], dtype=float)

    def jacobian(self, t, y, theta):
        """df/d(y, theta), shape (rows, n + p)."""
        points = np.concatenate([y[:self.n], theta])[:, None] + self.shift
        rows = np.zeros((len(self.parts), self.n + self.p), dtype=complex)
        for i, part in enumerate(self.parts):
            rows[i] = part(t, points[:self.n], points[self.n:])
        return rows.imag / STEP

    def pull(self, t, y, theta, w):
        """wᵀ ∂f/∂y and wᵀ ∂f/∂θ."""
        both = w @ self.jacobian(t, y, theta)
        return both[:self.n], both[self.n:]

    def push(self, t, y, theta, w):
        """∂f/∂y w."""
        return self.jacobian(t, y, theta)[:, :self.n] @ w


class OwnField:
    """The same from a `VectorField`."""

    def __init__(self, field, n, p):
        self.field, self.n, self.p = field, n, p
        self.tape = field.new_tape(1)[0]

    def f(self, t, y, theta):
        return self.field(t, y, theta)

    def pull(self, t, y, theta, w):
        y, theta = np.ascontiguousarray(y), np.ascontiguousarray(theta)
        scratch, t_bar, y_bar, theta_bar = np.empty(self.n), np.zeros(1), np.zeros(self.n), np.zeros(self.p)
        self.field.f(t, y, theta, self.tape, scratch)
        self.field.vjp(t, y, theta, self.tape, np.ascontiguousarray(w), t_bar, y_bar, theta_bar)
        return y_bar, theta_bar

    def push(self, t, y, theta, w):
        y, scratch, out = np.ascontiguousarray(y), np.empty(self.n), np.empty(self.n)
        self.field.f(t, y, theta, self.tape, scratch)
        self.field.jvp(t, y, theta, 0.0, np.ascontiguousarray(w), np.zeros(self.p), self.tape, out)
        return out


def field_of(data, n, p):
    """The right-hand side of a problem as data: one piece, or several with a switch between them."""
    rhs = data["rhs"]
    if "expr" in rhs:
        return [TextField(rhs["expr"], n, p)]
    if "pieces" in rhs:
        return [TextField(piece["expr"], n, p) for piece in rhs["pieces"]]
    if "field" in rhs:
        return [OwnField(rhs["field"], n, p)]
    from refnode.problems.reference_set import REFERENCE_PROBLEMS        # late: the set is built when asked for
    return [OwnField(REFERENCE_PROBLEMS[data["id"]].field, n, p)]


# --- losses ---------------------------------------------------------------------------------------

class LossFunctions:
    """A loss as data: its value, its cotangents of what is observed, and its running part."""

    def __init__(self, data, n, p):
        self.terms, self.n, self.p = list(_terms(data, 1.0)), n, p
        self.running = [(scale, _running_of(term, n, p)) for scale, term in self.terms if _has_running(term)]

    def value(self, ys, y1):
        """Of the observed states (n, K) and y(t1), without the running part."""
        return float(sum(scale * _value(term, ys, y1) for scale, term in self.terms))

    def cotangents(self, ys, y1):
        ys_bar, y1_bar = np.zeros(ys.shape), np.zeros(y1.shape)
        for scale, term in self.terms:
            for total, part in zip((ys_bar, y1_bar), _cotangents(term, ys, y1)):
                total += scale * part
        return ys_bar, y1_bar

    def rate(self, t, y, theta):
        return float(sum(scale * part.f(t, y, theta)[0] for scale, part in self.running))

    def rate_pull(self, t, y, theta):
        """dg/dy, dg/dtheta of the running part."""
        pulled = [part.pull(t, y, theta, np.array([scale])) for scale, part in self.running]
        return sum((y_bar for y_bar, _ in pulled), np.zeros(self.n)), sum((b for _, b in pulled), np.zeros(self.p))


def _terms(data, scale):
    scale = scale * float(data.get("scale", 1.0))
    if data["kind"] == "sum":
        for term in data["terms"]:
            yield from _terms(term, scale)
    else:
        yield scale, data


def _value(term, ys, y1):
    kind = term["kind"]
    if kind == "sumsq":
        return float(np.sum((ys - _data(term, ys)) ** 2))
    if kind == "linear":
        return float(np.sum(np.array(term["weights"]) * ys))
    if kind == "final":
        return float(np.real(function_of(term["expr"])(0.0, y1, ())))
    return float(term["loss"].value(ys, y1)) if kind == "object" else 0.0


def _cotangents(term, ys, y1):
    kind, nothing = term["kind"], (np.zeros(ys.shape), np.zeros(y1.shape))
    if kind == "sumsq":
        return 2.0 * (ys - _data(term, ys)), nothing[1]
    if kind == "linear":
        return np.array(term["weights"], dtype=float), nothing[1]
    if kind == "final":
        return nothing[0], np.imag(function_of(term["expr"])(0.0, y1[:, None] + STEP * 1j * np.eye(y1.size), ())) / STEP
    if kind == "running":
        return nothing
    if kind == "object":
        return term["loss"].vjp(ys, y1)
    raise InvalidInputError(f"loss kind {kind!r} is not known")


def _data(term, ys):
    return np.zeros(ys.shape) if term["data"] is None else np.array(term["data"], dtype=float)


def _has_running(term):
    return term["kind"] == "running" or (term["kind"] == "object" and term["loss"].running is not None)


def _running_of(term, n, p):
    return TextField([term["expr"]], n, p) if term["kind"] == "running" else _OwnCost(term["loss"].running, n, p)


class _OwnCost:
    """The running part of a `Loss`."""

    def __init__(self, cost, n, p):
        self.cost, self.n, self.p = cost, n, p

    def f(self, t, y, theta):
        return [self.cost.g(t, y, theta)]

    def pull(self, t, y, theta, w):
        t_bar, y_bar, theta_bar = np.zeros(1), np.zeros(self.n), np.zeros(self.p)
        self.cost.g_vjp(t, y, theta, float(w[0]), t_bar, y_bar, theta_bar)
        return y_bar, theta_bar
