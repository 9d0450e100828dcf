"""The interchange form of a right-hand side and a loss, in any array library.

Text is parsed and held against the whitelist of `fields.expressions`, and the tree is walked once into
nested functions; nothing is evaluated as Python. What differs between libraries is a `Library`.
"""
import dataclasses
import functools

import numpy as np

from refnode.adapters.answer_form import NotExpressible
from refnode.fields.expressions import (
    EXACT_INTEGER, FUNCTIONS, OPERATORS, SIGNS, checked_tree, constant_value, kind_of, operands_of)
from refnode.problems.reference_problem import switches_of


@dataclasses.dataclass(frozen=True)
class Library:
    """What translation needs of an array library.

    Attributes
    ----------
    functions : dict
        sin, cos, tan, exp, log, sqrt, tanh, sinh, cosh of one array.
    split : callable
        A vector (or a batch of them) -> its components, to be indexed.
    stack : callable
        List of components, some of them plain numbers, and one component to take the shape from -> vector.
    where : callable
        where(condition, a, b), for components.
    affine : callable
        affine(W, b, x) = W x + b, with W of shape (out, in).
    matrix : callable
        matrix(theta, start, out, in): W, row-major in theta.
    array : callable
        A NumPy array -> the library's.
    rows : callable
        rows(ys, list of ints, n): those rows of ys, and their first n columns.
    total : callable
        The sum of all entries.
    """

    functions: dict
    split: object
    stack: object
    where: object
    affine: object
    matrix: object
    array: object
    rows: object
    total: object


def array_library(module, split=lambda y: y, stack=None, array=None, where=None, rows=None):
    """A `Library` of a module with NumPy's names and broadcasting."""
    def stack_components(components, like):
        return module.stack([component + 0.0 * like for component in components], -1)

    return Library(
        functions={name: getattr(module, name) for name in FUNCTIONS},
        split=split, stack=stack or stack_components, where=where or module.where,
        affine=lambda w, b, x: x @ w.T + b,
        matrix=lambda theta, start, d_out, d_in: theta[start:start + d_out * d_in].reshape((d_out, d_in)),
        array=array or module.asarray,
        rows=rows or (lambda ys, at, n: ys[np.array(at), :n]),
        total=lambda x: x.sum())


NUMPY = array_library(np)


# --- expressions ----------------------------------------------------------------------------------

def translated(library, text):
    """(t, y, theta) -> value, for one expression; y and theta are split into components."""
    return _function_of(library, checked_tree(0, text))


def _function_of(library, node):
    kind, value = kind_of(node), constant_value(0, node)
    if value is not None:
        return functools.partial(_constant, _number(node, value))
    if kind == "t":
        return lambda t, y, theta: t
    if kind == "variable":
        i = node.slice.value
        return (lambda t, y, theta: y[i]) if node.value.id == "y" else (lambda t, y, theta: theta[i])
    operands = [_function_of(library, child) for child in operands_of(node)]
    if kind == "call":
        return _call(library.functions[node.func.id], *operands)
    if kind == "unary":
        return _call(SIGNS[type(node.op)], *operands)
    return _binary(OPERATORS[type(node.op)], *operands)


def _constant(value, t, y, theta):
    return value


def _number(node, value):
    """Whole numbers stay integers, so that y**2 is a product and not a logarithm."""
    return int(value) if value.is_integer() and abs(value) <= EXACT_INTEGER else value


def _call(operation, a):
    return lambda t, y, theta: operation(a(t, y, theta))


def _binary(operation, a, b):
    return lambda t, y, theta: operation(a(t, y, theta), b(t, y, theta))


# --- right-hand sides -----------------------------------------------------------------------------

def translated_rhs(library, rhs, n):
    """f(t, y, theta) of one interchange form of n states; y and theta are whole vectors."""
    if "expr" in rhs:
        return _expressions(library, rhs["expr"])
    if "mlp" in rhs:
        return _perceptron(library, rhs["mlp"])
    if "pieces" in rhs:
        return _pieces(library, rhs, n)
    raise NotExpressible(f"no translation of a right-hand side of kind {', '.join(rhs) or 'nothing'}")


def _expressions(library, texts):
    rates = [translated(library, text) for text in texts]

    def f(t, y, theta):
        parts, parameters = library.split(y), library.split(theta)
        return library.stack([rate(t, parts, parameters) for rate in rates], parts[0])
    return f


def _perceptron(library, mlp):
    if mlp.get("act", "tanh") not in library.functions and mlp.get("act") != "softplus":
        raise NotExpressible(f"no translation of the activation {mlp['act']!r}")
    activation, widths = _activation(library, mlp.get("act", "tanh")), list(mlp["layers"])
    if mlp.get("time_input"):
        widths[0] += widths[0] == widths[-1]

    def f(t, y, theta):
        x, at = y, 0
        if mlp.get("time_input"):
            parts = library.split(y)
            x = library.stack([*(parts[i] for i in range(widths[-1])), t], parts[0])
        for k, (d_in, d_out) in enumerate(zip(widths[:-1], widths[1:])):
            w = library.matrix(theta, at, d_out, d_in)
            x = library.affine(w, theta[at + d_out * d_in:at + d_out * d_in + d_out], x)
            x = activation(x) if k < len(widths) - 2 else x
            at += d_out * d_in + d_out
        return x
    return f


def _activation(library, name):
    if name == "softplus":
        return lambda x: library.functions["log"](1.0 + library.functions["exp"](x))
    return library.functions[name]


def _pieces(library, rhs, n):
    """One right-hand side before the switch and one after it, chosen by `where`, as a user would write it.

    The first holds until t reaches the switch's time, or while its text of the state is below 0. With several switches the piece
    that holds is a memory, and no function of (t, y, theta).
    """
    if len(switches_of(rhs)) > 1:
        raise NotExpressible(f"with {len(switches_of(rhs))} switches, which piece holds is no function of t, y and theta")
    (before, after), kind, surface = switched_rhs(library, rhs, n)

    def f(t, y, theta):
        parts = library.split(y)
        value = surface(t, parts, library.split(theta))
        is_before = t < value if kind == "time" else value < 0.0
        first, second = library.split(before(t, y, theta)), library.split(after(t, y, theta))
        return library.stack([library.where(is_before, first[i], second[i]) for i in range(n)], parts[0])
    return f


def switched_rhs(library, rhs, n):
    """(the right-hand sides before and after the switch, "time" or "state", its text as (t, y, theta) -> value).

    Raises
    ------
    NotExpressible
        If there is no switch, or more than one.
    """
    pieces, switches = all_pieces(library, rhs, n)
    if len(switches) > 1:
        raise NotExpressible(f"this way knows one switch, and there are {len(switches)}, each of which begins where the last one ended")
    return pieces, *switches[0]


def all_pieces(library, rhs, n):
    """(the right-hand sides of every piece, [("time" or "state", text as (t, y, theta) -> value) of every switch between them]).

    Raises
    ------
    NotExpressible
        If there is no switch.
    """
    if "pieces" not in rhs:
        raise NotExpressible("this way is for right-hand sides with a switch, and there is none")
    switches = [(kind, translated(library, text)) for switch in switches_of(rhs) for kind, text in switch.items()]
    return [translated_rhs(library, piece, n) for piece in rhs["pieces"]], switches


# --- a whole problem ------------------------------------------------------------------------------

class Task:
    """A problem of the interchange form, ready for a library: augmented, with one grid of times, and a loss of its states.

    A running cost is integrated as one more state. ``grid`` holds t0, every observation time, and t1 where
    the loss needs it, each once and in the order of integration.
    """

    def __init__(self, problem):
        self.problem = problem
        self.t0, self.t1 = float(problem["t0"]), float(problem["t1"])
        self.theta = np.array(problem["theta"], dtype=np.float64)
        self.n = len(problem["y0"])
        given = problem.get("ts")
        self.ts_is_t1 = given is None
        self.ts = np.array([self.t1] if given is None else given, dtype=np.float64)
        self.terms = list(_flat_terms(problem["loss"]))
        self.running = [(scale, term["expr"]) for scale, term in self.terms if term["kind"] == "running"]
        self.y0 = np.array([*problem["y0"], *[0.0] * bool(self.running)], dtype=np.float64)
        self.needs_end = any(term["kind"] in ("final", "running") for _, term in self.terms)
        times = np.unique(np.array([self.t0, *self.ts, *[self.t1] * self.needs_end]))
        self.grid = times if self.t1 >= self.t0 else times[::-1].copy()

    def rows_in(self, asked, times):
        """Where each of some times stands among those asked for."""
        return [int(np.flatnonzero(asked == t)[0]) for t in times]

    def rhs(self, library):
        """f(t, y, theta), with the rate of a running cost as its last component."""
        f = translated_rhs(library, self.problem["rhs"], self.n)
        if not self.running:
            return f
        costs = [(scale, translated(library, text)) for scale, text in self.running]

        def with_cost(t, y, theta):
            parts, parameters = library.split(y), library.split(theta)
            rates = library.split(f(t, y[..., :self.n] if hasattr(y, "ndim") else y[:self.n], theta))
            cost = sum(scale * g(t, parts, parameters) for scale, g in costs)
            return library.stack([*(rates[i] for i in range(self.n)), cost], parts[0])
        return with_cost

    def loss(self, library, asked=None):
        """loss(ys, theta) of the states at the times asked for, one row a time."""
        asked = self.grid if asked is None else np.asarray(asked)
        at = self.rows_in(asked, self.ts)
        end = self.rows_in(asked, [self.t1])[0] if self.needs_end else None
        terms = [_loss_term(library, scale, term, at, end, self.n, self.t1)
                 for scale, term in self.terms if term["kind"] != "running"]

        def loss(ys, theta):
            values = [term(ys, theta) for term in terms]
            if self.running:
                values.append(library.total(library.rows(ys, [end], self.n + 1)) -
                              library.total(library.rows(ys, [end], self.n)))
            return sum(values[1:], values[0])
        return loss

    def time_gradients(self, asked, grid_bar):
        """t0, t1 and ts of an answer, from derivatives in the times asked for.

        Where two of the times are one number, the library has one derivative for both: those are left out.
        """
        found, counts = {}, [int(np.sum(self.ts == t)) for t in asked]
        if asked[0] == self.t0 and counts[0] == 0:
            found["t0"] = float(grid_bar[0])
        if self.ts_is_t1 or (self.needs_end and counts[-1] == 0):
            found["t1"] = float(grid_bar[-1])
        rows = self.rows_in(asked, self.ts)
        single = all(counts[row] == 1 for row in rows) and self.t0 not in self.ts
        if not self.ts_is_t1 and single and not (self.needs_end and self.t1 in self.ts):
            found["ts"] = [float(grid_bar[row]) for row in rows]
        return found


def _flat_terms(loss, scale=1.0):
    """(scale, term) of a loss that may be a sum of sums."""
    scale = scale * float(loss.get("scale", 1.0))
    if loss["kind"] == "sum":
        for term in loss["terms"]:
            yield from _flat_terms(term, scale)
    elif loss["kind"] in ("sumsq", "linear", "final", "running"):
        yield scale, loss
    else:
        raise NotExpressible(f"no translation of a loss of kind {loss['kind']!r}")


def _loss_term(library, scale, term, at, end, n, t1):
    if term["kind"] == "sumsq":
        data = None if term.get("data") is None else library.array(np.array(term["data"], dtype=np.float64).T.copy())
        return lambda ys, theta: scale * _squares(library, library.rows(ys, at, n), data)
    if term["kind"] == "linear":
        weights = library.array(np.array(term["weights"], dtype=np.float64).T.copy())
        return lambda ys, theta: scale * library.total(library.rows(ys, at, n) * weights)
    value = translated(library, term["expr"])
    return lambda ys, theta: scale * value(t1, library.split(ys[end, :]), library.split(theta))


def _squares(library, ys, data):
    difference = ys if data is None else ys - data
    return library.total(difference * difference)
