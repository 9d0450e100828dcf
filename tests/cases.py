"""Generators shared by the tests: points at which a field is checked, the checks, and wrong derivatives."""
import ast
import dataclasses
import inspect
import textwrap

import numpy as np

from refnode.fields.classical import CLASSICAL
from refnode.fields.reference_fields import REFERENCE_FIELDS

EPS = np.finfo(np.float64).eps
COMPLEX_STEP = 1e-30

FIELDS = {**CLASSICAL, **REFERENCE_FIELDS}

# Sizes for the fields that leave n or p open.
OPEN_SIZES = {"linear": [(1, 1), (3, 9)], "exponential_decay": [(1, 1), (4, 1)], "linear_density": [(2, 1), (3, 4)]}
NON_AUTONOMOUS = {"cosine_relaxation", "forced_oscillator", "riccati", "sine_feedback", "sine_forcing", "kink_forcing"}
SIGNED = {"perceptron_density_2_8"}         # weights of one sign would saturate tanh, where 1 - tanh^2 has few digits


def field_cases():
    """(name, n, p) for every field of a registry, several for those of open size."""
    return [(name, n, p) for name, field in FIELDS.items()
            for n, p in OPEN_SIZES.get(name, [(field.n, field.p)])]


@dataclasses.dataclass
class Point:
    """Where derivatives are checked: a point, a tangent of it, and a cotangent of dy."""

    t: float
    y: np.ndarray
    theta: np.ndarray
    t_tan: float
    y_tan: np.ndarray
    theta_tan: np.ndarray
    dy_bar: np.ndarray

    @property
    def tangent(self):
        return np.concatenate(([self.t_tan], self.y_tan, self.theta_tan))


def random_point(rng, n, p):
    """y and theta away from zero, t of either sign."""
    return Point(rng.uniform(-2.0, 2.0), rng.uniform(0.5, 1.5, n), rng.uniform(0.5, 1.5, p),
                 rng.standard_normal(), rng.standard_normal(n), rng.standard_normal(p),
                 rng.standard_normal(n))


def random_points(name, n, p, count=5):
    rng = np.random.default_rng([len(name), n, p])
    sample = [random_point(rng, n, p) for _ in range(count)]
    for point in sample if name in SIGNED else []:
        point.theta = 0.7 * rng.standard_normal(p)
    for point in sample[1::2] if name in ("bounce", "bounces") else []:     # behind the bounce
        point.y = -point.y
    for k, point in enumerate(sample if name == "bounces" else []):         # before and behind the marks in time
        point.t = 0.5 + 2.5 * (k % 4 >= 2)
    return sample


# --- evaluating the three functions ---------------------------------------------------------------

def evaluate_f(field, t, y, theta):
    """dy; for complex arguments the field's complex form."""
    is_complex = any(np.iscomplexobj(x) for x in (t, y, theta))
    dtype = np.complex128 if is_complex else np.float64
    f = field.complex_form() if is_complex else field.f
    dy = np.full(len(y), np.nan, dtype=dtype)
    f(dtype(t), np.array(y, dtype=dtype), np.array(theta, dtype=dtype), field.new_tape(1, dtype)[0], dy)
    return dy


def evaluate_jvp(field, point):
    dy_tan = np.full(len(point.y), np.nan)
    field.jvp(point.t, point.y, point.theta, point.t_tan, point.y_tan, point.theta_tan,
              field.new_tape(1)[0], dy_tan)
    return dy_tan


def evaluate_vjp(field, point, vjp=None, prefill=0.0):
    """(t_bar, y_bar, theta_bar) in one vector, begun at ``prefill``; f fills the tape first."""
    tape = field.new_tape(1)[0]
    field.f(point.t, point.y, point.theta, tape, np.empty_like(point.y))
    bars = [np.full(size, prefill) for size in (1, len(point.y), len(point.theta))]
    (field.vjp if vjp is None else vjp)(point.t, point.y, point.theta, tape, point.dy_bar, *bars)
    return np.concatenate(bars)


def evaluate_hvp(field, point, x_tan, dy_bar_tan, hvp=None, prefill=0.0):
    """Tangents of (t_bar, y_bar, theta_bar) in one vector, begun at ``prefill``, along x_tan and dy_bar_tan."""
    n, tape = len(point.y), field.new_hvp_tape(1)[0]
    tape[field.tape_header.size:] = np.nan
    field.f(point.t, point.y, point.theta, tape, np.empty_like(point.y))
    bars = [np.full(size, prefill) for size in (1, n, len(point.theta))]
    (field.hvp if hvp is None else hvp)(
        point.t, point.y, point.theta, x_tan[0], x_tan[1:1 + n].copy(), x_tan[1 + n:].copy(), tape,
        point.dy_bar, dy_bar_tan, *bars)
    return np.concatenate(bars)


def complex_step_hvp(vjp, point, x_tan, dy_bar_tan):
    """The same by a complex step through the plain Python form of the vjp: exact to rounding."""
    n, step = len(point.y), 1j * COMPLEX_STEP
    bars = [np.zeros(size, complex) for size in (1, n, len(point.theta))]
    python_body(vjp)(point.t + step * x_tan[0], point.y + step * x_tan[1:1 + n],
                     point.theta + step * x_tan[1 + n:], np.empty(0, complex),
                     point.dy_bar + step * dy_bar_tan, *bars)
    return np.concatenate(bars).imag / COMPLEX_STEP


def complex_step_jac(field, point):
    """d dy/d(t, y, theta), shape (n, 1 + n + p), by complex steps: exact to rounding."""
    n, x = len(point.y), np.concatenate(([point.t], point.y, point.theta))
    columns = []
    for k in range(x.size):
        z = x.astype(np.complex128)
        z[k] += 1j * COMPLEX_STEP
        columns.append(evaluate_f(field, z[0], z[1:1 + n], z[1 + n:]).imag / COMPLEX_STEP)
    return np.array(columns).T


# --- the checks -----------------------------------------------------------------------------------

def jvp_error(field, point):
    """max_i |jvp_i - (J v)_i| / (|J| |v|)_i with J by complex steps; 0/0 is 0."""
    jac = complex_step_jac(field, point)
    error = np.abs(evaluate_jvp(field, point) - jac @ point.tangent)
    scale = np.abs(jac) @ np.abs(point.tangent)
    return np.max(np.divide(error, scale, out=np.where(error > 0.0, np.inf, 0.0), where=scale > 0.0),
                  initial=0.0)


def dot_product_error(field, point, vjp=None):
    """|<w, J v> - <J^T w, v>| over its rounding bound: at most 1 for a right pair of jvp and vjp.

    Both sides are sums of products w_i J_ij v_j. Each entry of J costs a field some tens of roundings, the
    sums at most n (1 + n + p) more; so the sides differ by at most that many eps |w|^T |J| |v|.
    """
    n, inputs = len(point.y), point.tangent.size
    magnitude = np.abs(point.dy_bar) @ np.abs(complex_step_jac(field, point)) @ np.abs(point.tangent)
    left = point.dy_bar @ evaluate_jvp(field, point)
    right = evaluate_vjp(field, point, vjp) @ point.tangent
    bound = (32 + n * inputs) * EPS * magnitude
    return abs(left - right) / bound if bound > 0.0 else float(left != right)


def accumulation_error(field, point, vjp=None):
    """How far bars that begin at 2^k end from 2^k plus bars that begin at 0, over its rounding bound."""
    error = 0.0
    alone = evaluate_vjp(field, point, vjp)
    for prefill in (1.0, -1024.0):
        bound = 16 * EPS * (abs(prefill) + np.max(np.abs(alone)) * point.tangent.size)
        error = max(error, np.max(np.abs(evaluate_vjp(field, point, vjp, prefill) - (prefill + alone))) / bound)
    return error


# --- derivatives that are wrong on purpose --------------------------------------------------------

class _Mutate(ast.NodeTransformer):
    """Changes the ``target``-th accumulating statement of a function."""

    def __init__(self, target, change):
        self.target, self.change, self.count = target, change, 0

    def visit_AugAssign(self, node):
        self.count += 1
        return self.change(node) if self.count - 1 == self.target else node


def _flip(node):
    node.op = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
    return node


def _drop(node):
    return ast.copy_location(ast.Pass(), node)


def _overwrite(node):
    value = node.value if isinstance(node.op, ast.Add) else ast.UnaryOp(ast.USub(), node.value)
    return ast.copy_location(ast.Assign([node.target], value), node)


def _double(node):
    node.value = ast.BinOp(ast.Constant(2.0), ast.Mult(), node.value)
    return node


MUTATIONS = {"flip": _flip, "drop": _drop, "overwrite": _overwrite, "double": _double}


def python_body(function):
    """The Python function under a dispatcher; itself where Numba is switched off."""
    return getattr(function, "py_func", function)


def mutants(function):
    """(label, plain Python function) for every mutation of every ``+=`` and ``-=`` of a kernel."""
    body = python_body(function)
    source = textwrap.dedent(inspect.getsource(body))
    accumulations = sum(isinstance(node, ast.AugAssign) for node in ast.walk(ast.parse(source)))
    for target in range(accumulations):
        for label, change in MUTATIONS.items():
            tree = _Mutate(target, change).visit(ast.parse(source))
            tree.body[0].decorator_list = []
            namespace = dict(body.__globals__)
            exec(compile(ast.fix_missing_locations(tree), "<mutant>", "exec"), namespace)
            yield f"{label} {target}", namespace[body.__name__]


# --- a running cost that depends on everything ------------------------------------------------------

def effort(t, y, theta):
    return theta[0] * y[0] * y[1] * np.sin(t)


def effort_jvp(t, y, theta, t_tan, y_tan, theta_tan):
    area, area_tan = y[0] * y[1], y_tan[0] * y[1] + y[0] * y_tan[1]
    return (theta_tan[0] * area + theta[0] * area_tan) * np.sin(t) + theta[0] * area * np.cos(t) * t_tan


def effort_vjp(t, y, theta, g_bar, t_bar, y_bar, theta_bar):
    t_bar[0] += theta[0] * y[0] * y[1] * np.cos(t) * g_bar
    y_bar[0] += theta[0] * y[1] * np.sin(t) * g_bar
    y_bar[1] += theta[0] * y[0] * np.sin(t) * g_bar
    theta_bar[0] += y[0] * y[1] * np.sin(t) * g_bar


def effort_hvp(t, y, theta, t_tan, y_tan, theta_tan, g_bar, g_bar_tan, t_bar_tan, y_bar_tan, theta_bar_tan):
    s, c, area = np.sin(t), np.cos(t), y[0] * y[1]
    area_tan = y_tan[0] * y[1] + y[0] * y_tan[1]
    weight, weight_tan = theta[0] * g_bar, theta_tan[0] * g_bar + theta[0] * g_bar_tan
    t_bar_tan[0] += weight_tan * area * c + weight * (area_tan * c - area * s * t_tan)
    y_bar_tan[0] += weight_tan * y[1] * s + weight * (y_tan[1] * s + y[1] * c * t_tan)
    y_bar_tan[1] += weight_tan * y[0] * s + weight * (y_tan[0] * s + y[0] * c * t_tan)
    theta_bar_tan[0] += g_bar_tan * area * s + g_bar * (area_tan * s + area * c * t_tan)
