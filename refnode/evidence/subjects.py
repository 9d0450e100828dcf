"""What `refnode validate` validates: every registered field, and the problems on which gradients are judged."""
import dataclasses
import functools
import types

import numpy as np

from refnode import losses
from refnode.fields import classical
from refnode.fields.convolutional import conv_field
from refnode.fields.field import VectorField
from refnode.fields.first_order import riccati
from refnode.fields.flow_density import flow_density_field
from refnode.fields.hyper_flow import hyper_flow_field
from refnode.fields.neural import mlp_field
from refnode.fields.reference_fields import SMOOTH
from refnode.fields.regularised import COSTS, regularised_mlp
from refnode.layers.parameters import initial_parameters
from refnode.problems import catalogue
from refnode.problems.problem import Problem
from refnode.steppers.schemes import REVERSIBLE, reversible_method
from refnode.steppers.tableaus import TABLEAUS

MLP_WIDTHS = (2, 4, 2)


# --- a nonlinear equation with a time of its own and a closed form ----------------------------------

def riccati_solution(y0, theta, t0, t1):
    """y(t1) = e^{sin t1} / (e^{sin t0}/y0 - c I), I = integral of e^{sin s} over [t0, t1], by Gauss's rule."""
    nodes, weights = gauss_rule()
    middle, half = (t0 + t1) / 2.0, (t1 - t0) / 2.0
    integral = half * np.sum(weights * np.exp(np.sin(middle + half * nodes)))
    return np.exp(np.sin(t1)) / (np.exp(np.sin(t0)) / np.asarray(y0) - theta[0] * integral)


@functools.lru_cache(maxsize=1)
def gauss_rule():
    """Nodes and weights on [-1, 1], exact to rounding for the integral above."""
    return np.polynomial.legendre.leggauss(40)


def riccati_problem():
    """A rise and a fall, on an interval of half a period."""
    return Problem(riccati, y0=[0.75], theta=[-0.5], t_span=(0.25, 3.25), ts=[0.84375, 1.578125, 2.421875, 3.25],
                   loss=losses.sum_of_squares([[1.0, 0.5, 1.5, 0.25]]))


# --- problems beyond the catalogue -----------------------------------------------------------------

def mlp_problem():
    """A batch of two samples through a perceptron with time input: the neural ODE proper."""
    field = mlp_field(MLP_WIDTHS, "tanh", batch=2, time_input=True)
    rng = np.random.default_rng(7)
    theta = initial_parameters(MLP_WIDTHS, 7, time_input=True) + 0.25 * rng.standard_normal(field.p)
    return Problem(field, y0=[0.75, -0.5, 0.25, 1.0], theta=theta, t_span=(0.25, 2.25), ts=[0.65625, 1.421875, 2.25],
                   loss=losses.mean_of_squares(rng.standard_normal((4, 3))))


def plain_form(field, n, p):
    """The field with its functions in plain Python, all the way down: nothing is compiled when they run."""
    bodies = [uncompiled(function) for function in (field.f, field.jvp, field.vjp, field.hvp)]
    return VectorField(*bodies, name=field.name, n=n, p=p, state_names=field.state_names,
                       parameter_names=field.parameter_names, tape_size=field.tape_size, tape_header=field.tape_header,
                       hvp_tape_size=field.hvp_tape_size, numpy_form=field.numpy_form)


@functools.lru_cache(maxsize=None)
def uncompiled(function):
    """The Python body of a compiled formula, in which the formulas that it calls are such bodies too; itself if it is none."""
    body = getattr(function, "py_func", None)
    if body is None:
        return function
    called = {name: uncompiled(body.__globals__[name]) for name in body.__code__.co_names
              if hasattr(body.__globals__.get(name), "py_func")}
    return types.FunctionType(body.__code__, {**body.__globals__, **called}, body.__name__, body.__defaults__, body.__closure__)


def running_cost_problem():
    """Lotka-Volterra with a running cost, a terminal cost and observations; plain Python throughout."""
    plain = plain_form(classical.CLASSICAL["lotka_volterra"], 2, 4)
    cost = losses.running_cost(_effort, _effort_jvp, _effort_vjp, _effort_hvp)
    final = losses.terminal(lambda y: y[0] * y[1], lambda y: np.array([y[1], y[0]]),
                            lambda y, y_tan: np.array([y_tan[1], y_tan[0]]))
    return catalogue.lotka_volterra_problem().replace(
        field=plain, t1=2.0, ts=[0.703125, 1.390625],
        loss=losses.sum_of_squares([[2.0, 4.0], [0.5, 0.75]]) + final + cost)


def _effort(t, y, theta):
    return theta[0] * y[0] * y[0] * np.cos(t)


def _effort_jvp(t, y, theta, t_tan, y_tan, theta_tan):
    return (theta_tan[0] * y[0] * y[0] * np.cos(t) + 2.0 * theta[0] * y[0] * y_tan[0] * np.cos(t)
            - theta[0] * y[0] * y[0] * np.sin(t) * t_tan)


def _effort_vjp(t, y, theta, g_bar, t_bar, y_bar, theta_bar):
    t_bar[0] -= theta[0] * y[0] * y[0] * np.sin(t) * g_bar
    y_bar[0] += 2.0 * theta[0] * y[0] * np.cos(t) * g_bar
    theta_bar[0] += y[0] * y[0] * np.cos(t) * g_bar


def _effort_hvp(t, y, theta, t_tan, y_tan, theta_tan, g_bar, g_bar_tan, t_bar_tan, y_bar_tan, theta_bar_tan):
    s, c, square, square_tan = np.sin(t), np.cos(t), y[0] * y[0], 2.0 * y[0] * y_tan[0]
    weight, weight_tan = theta[0] * g_bar, theta_tan[0] * g_bar + theta[0] * g_bar_tan
    t_bar_tan[0] -= weight_tan * square * s + weight * (square_tan * s + square * c * t_tan)
    y_bar_tan[0] += 2.0 * (weight_tan * y[0] * c + weight * (y_tan[0] * c - y[0] * s * t_tan))
    theta_bar_tan[0] += g_bar_tan * square * c + g_bar * (square_tan * c - square * s * t_tan)


def backwards_problem():
    """A pendulum from its end to its beginning, observed at t1 alone."""
    return Problem(classical.pendulum, y0=[1.25, 0.5], theta=[4.0, 0.25], t_span=(1.5, -0.5),
                   loss=losses.sum_of_squares([[0.25], [-0.5]]))


def undamped_problem():
    """q'' = -k q + a cos(w t + phi): separable, as kicks and drifts ask, and f depends on t."""
    problem = catalogue.forced_oscillator_problem()
    theta = problem.theta.copy()
    theta[1] = 0.0
    return problem.replace(theta=theta)


# --- the lists -------------------------------------------------------------------------------------

PLAIN_PYTHON = ("lotka_volterra/running_cost",)         # problems whose solves run un-jitted


def problems():
    """name -> function that makes the `Problem`; what stands before a slash is the field's name."""
    return {**catalogue.CATALOGUE, "riccati": riccati_problem, "mlp": mlp_problem,
            "lotka_volterra/running_cost": running_cost_problem, "pendulum/backwards": backwards_problem}


def separable_problems():
    """Name -> function that makes a problem for the methods of kicks and drifts."""
    return {"forced_oscillator/undamped": undamped_problem}


def closed_forms():
    """Problem name -> solution(y0, theta, t0, t), valid for complex arguments."""
    return {**catalogue.CLOSED_FORMS, "riccati": riccati_solution}


def methods():
    """Names of all methods: explicit Runge-Kutta, and those with an inverse step."""
    return [*TABLEAUS, *REVERSIBLE, "mccallum_foster(rk4)"]


def method_named(name):
    """The `ButcherTableau` or `ReversibleMethod` of that name."""
    return reversible_method(name) or TABLEAUS[name]


@dataclasses.dataclass(frozen=True)
class Subject:
    """A field, its numbers of states and parameters, and whether random ones are of either sign."""

    field: VectorField
    n: int
    p: int
    signed: bool = False


def fields():
    """name -> `Subject`: all classical fields, the perceptron in all its forms, fields with a cost, convolutions, the fields of
    normalising flows, and those of the reference problems that have no switch, over which finite differences would step. The
    last two are in plain Python: their formulas are judged, and nothing need be compiled."""
    sized = {name: Subject(field, *_sizes(name, field)) for name, field in classical.CLASSICAL.items()}
    sized["riccati"] = Subject(riccati, 1, 1)
    for activation in ("tanh", "softplus", "sine"):
        for time_input in (False, True):
            field = mlp_field((2, 5, 3, 2), activation, batch=3, time_input=time_input)
            sized["mlp/" + activation + "_time" * time_input] = Subject(field, field.n, field.p, signed=True)
    for cost in COSTS:
        field = regularised_mlp((2, 4, 3, 2), cost, batch=2)
        sized["regularised/" + cost] = Subject(field, field.n, field.p, signed=True)
    for name, activation, time_input in (("conv/tanh_time", "tanh", True), ("conv/softplus", "softplus", False)):
        field = conv_field((2, 2, 2), 3, 2, activation=activation, batch=2, time_input=time_input)
        sized[name] = Subject(field, field.n, field.p, signed=True)
    for name, field in flows().items():
        sized[name] = Subject(plain_form(field, field.n, field.p), field.n, field.p, signed=True)
    sized["lotka_volterra/running_cost"] = Subject(running_cost_problem().flow_field, 3, 4)
    for name, field in SMOOTH.items():
        n, p = (3, 4) if name == "linear_density" else (field.n, field.p)
        sized.setdefault(name, Subject(plain_form(field, n, p), n, p, signed=name.startswith("perceptron")))
    return sized


def flows():
    """name -> the smallest field of each kind of flow: one hidden layer and two, the exact trace and its estimate, and a
    hyper-network."""
    probes = np.random.default_rng(5).standard_normal((2, 2, 2))
    return {"flow/shallow": flow_density_field((2, 3, 2), "tanh", batch=2, time_input=True),
            "flow/deep": flow_density_field((2, 3, 2, 2), "softplus", batch=2),
            "flow/hutchinson": flow_density_field((2, 3, 2), "tanh", batch=2, time_input=True, probes=probes),
            "flow/hyper": hyper_flow_field((2, 2, 2), (2,), "softplus", batch=2)}


def _sizes(name, field):
    """n and p of a field; of one that leaves them open, those of its problem in the catalogue."""
    if field.n is not None and field.p is not None:
        return field.n, field.p
    problem = catalogue.CATALOGUE[name]()
    return problem.y0.size, problem.theta.size


def perceptron_columns(t, y, theta):
    """f of the perceptron of `mlp_problem` at many points at once: columns of y (n, M) and theta (p, M).

    Written with sums over named indices, apart from the package's layers.
    """
    d_in, hidden, d_out = MLP_WIDTHS
    ends = np.cumsum([hidden * (d_in + 1), hidden, d_out * hidden, d_out])
    W1, b1, W2, b2 = np.split(theta, ends[:-1])
    W1, W2 = W1.reshape(hidden, d_in + 1, -1), W2.reshape(d_out, hidden, -1)
    samples = y.reshape(-1, d_in, y.shape[1])
    z = np.einsum("hdm,bdm->bhm", W1[:, :d_in], samples) + W1[:, d_in] * t + b1
    return (np.einsum("ohm,bhm->bom", W2, np.tanh(z)) + b2).reshape(y.shape)


COLUMNS = {"mlp": perceptron_columns}
