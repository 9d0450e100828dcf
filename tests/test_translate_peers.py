"""The translation of the reference problems in the arrays of other libraries, with the derivatives these libraries take of it.

Every right-hand side equals the hand-written field of the set to rounding, and what the library pulls back through it equals
the complex step of that field. So a wrong gradient of a solve is not the translation's. Run by `make test-peers`.
"""
import copy
import json

import numpy as np
import pytest

from refnode.adapters import adapter_named
from refnode.adapters.translate import Task
from refnode.problems.certified import certified
from refnode.problems.reference_problem import switches_of
from refnode.problems.reference_set import REFERENCE_PROBLEMS

pytestmark = pytest.mark.peers
ROUNDING = 1e-12            # in units of the sizes that are summed
WRONG = 1e-4                # what a mutant must differ by, at least
STEP = 1e-30


# --- f and its pullback, in every library -------------------------------------------------------------

def by_torch(task, t, y, theta, dy_bar):
    torch = pytest.importorskip("torch")
    pytest.importorskip("torchdiffeq")
    from refnode.adapters.torchdiffeq import torch_library
    y, theta = (torch.tensor(x, requires_grad=True) for x in (y, theta))
    dy = task.rhs(torch_library())(torch.tensor(t, dtype=torch.float64), y, theta)
    dy.backward(torch.from_numpy(dy_bar))
    return [dy.detach().numpy(), *(np.zeros(x.shape) if x.grad is None else x.grad.numpy() for x in (y, theta))]


def by_jax(task, t, y, theta, dy_bar):
    jax = pytest.importorskip("jax")
    pytest.importorskip("diffrax")
    adapter_named("diffrax").versions()                         # double precision
    from refnode.adapters.diffrax import jax_library
    dy, pull = jax.vjp(lambda y, theta: task.rhs(jax_library())(t, y, theta), jax.numpy.array(y), jax.numpy.array(theta))
    return [np.asarray(x) for x in (dy, *pull(jax.numpy.array(dy_bar)))]


def by_autograd(task, t, y, theta, dy_bar):
    autograd = pytest.importorskip("autograd")
    from refnode.adapters.autograd import autograd_library
    f = task.rhs(autograd_library())
    bars = autograd.grad(lambda y, theta: autograd.numpy.sum(f(t, y, theta) * dy_bar), (0, 1))(y, theta)
    return [f(t, y, theta), *bars]


def by_casadi(task, t, y, theta, dy_bar):
    casadi = pytest.importorskip("casadi")
    from refnode.adapters.casadi import casadi_library
    symbols = [casadi.SX.sym("y", y.size), casadi.SX.sym("theta", theta.size)]
    dy = task.rhs(casadi_library())(t, *symbols)
    bars = [casadi.jtimes(dy, x, casadi.DM(dy_bar), True) for x in symbols]
    return [np.array(x).ravel() for x in casadi.Function("f", symbols, [dy, *bars])(y, theta)]


BY = {"torch": by_torch, "jax": by_jax, "autograd": by_autograd, "casadi": by_casadi}


# --- against the field ------------------------------------------------------------------------------

def points(record):
    """Random points near the start, and near the last observation, which is beyond a switch."""
    rng, last = np.random.default_rng(3), certified(record.id).values["y"][:, -1]
    for t, y in ((record.t0, np.array(record.y0)), (record.problem.ts[-1], last)):
        near = (0.999, 1.0) if "pieces" in record.rhs else (0.75, 1.0)
        yield (t, y * rng.uniform(*near, y.size), np.array(record.theta) * rng.uniform(*near, len(record.theta)),
               rng.standard_normal(y.size))


def differences(library, record, problem):
    """The largest errors of the rates, and of the pullback along one direction, over all points."""
    task, rng, worst = Task(problem), np.random.default_rng(4), np.zeros(2)
    for t, y, theta, dy_bar in points(record):
        own = len(task.y0) - task.n                             # a running cost has a rate of its own
        dy, y_bar, theta_bar = BY[library](task, t, np.append(y, np.zeros(own)), theta, np.append(dy_bar, np.zeros(own)))
        y_tan, theta_tan = rng.standard_normal(y.size) * scale(y), rng.standard_normal(theta.size) * scale(theta)
        exact, tangent = complex_step(record.field, t, y, theta, y_tan, theta_tan)
        size = np.max(np.abs(exact)) + np.max(np.abs(y)) * max(1.0, np.max(np.abs(theta), initial=0.0))
        found = y_bar[:task.n] @ y_tan + theta_bar @ theta_tan
        of_pull = np.abs(y_bar[:task.n] * y_tan).sum() + np.abs(theta_bar * theta_tan).sum() + np.abs(dy_bar * tangent).sum()
        worst = np.fmax(worst, [np.max(np.abs(dy[:task.n] - exact)) / size, abs(found - dy_bar @ tangent) / of_pull])
    return worst


def scale(x):
    return np.where(x == 0.0, 1.0, np.abs(x))


def complex_step(field, t, y, theta, y_tan, theta_tan):
    """f and its directional derivative by the hand-written field."""
    dy = np.empty(y.size, dtype=complex)
    field.complex_form()(complex(t), y + 1j * STEP * y_tan, theta + 1j * STEP * theta_tan,
                         field.new_tape(1)[0].astype(complex), dy)
    return dy.real, dy.imag / STEP


def as_read(record):
    return json.loads(json.dumps(record.to_dict()))


@pytest.mark.parametrize("library", BY)
@pytest.mark.parametrize("id", [id for id, record in REFERENCE_PROBLEMS.items() if len(switches_of(record.rhs)) < 2])
def test_right_hand_sides_and_their_derivatives(library, id):
    record = REFERENCE_PROBLEMS[id]
    assert np.all(differences(library, record, as_read(record)) <= ROUNDING)


MUTANTS = {                 # problem -> a change of its right-hand side that a careless translation could make
    "lotka_volterra/obs21": lambda rhs: rhs["expr"].__setitem__(1, rhs["expr"][1].replace("theta[2]", "theta[3]")),
    "kepler/t64": lambda rhs: rhs["expr"].reverse(),
    "forced_oscillator/late_start": lambda rhs: rhs["expr"].__setitem__(1, rhs["expr"][1].replace("cos", "sin")),
    "state_rate/threshold": lambda rhs: rhs["pieces"].reverse(),
    "bounce/once": lambda rhs: rhs["switch"].__setitem__("state", "y[0]"),
    "mlp/time_2_16_2": lambda rhs: rhs["mlp"].__setitem__("time_input", False),
    "mlp/2_16_2": lambda rhs: rhs["mlp"].__setitem__("act", "sin"),
    "cnf/exact_trace": lambda rhs: rhs["expr"].__setitem__(-1, f"-({rhs['expr'][-1]})"),
}


@pytest.mark.parametrize("library", BY)
@pytest.mark.parametrize("id", MUTANTS)
def test_mutants_are_caught(library, id):
    record = REFERENCE_PROBLEMS[id]
    problem = copy.deepcopy(as_read(record))
    MUTANTS[id](problem["rhs"])
    assert problem["rhs"] != record.rhs
    try:
        found = differences(library, record, problem)
    except (ValueError, RuntimeError, TypeError):               # shapes that do not fit are caught too
        return
    assert np.max(found) >= WRONG


@pytest.mark.parametrize("library", BY)
def test_weights_read_column_by_column_are_caught(library, monkeypatch):
    """The matrices of a perceptron are row-major; read the other way they are other matrices."""
    import dataclasses
    from refnode.adapters import translate as module
    perceptron = module._perceptron

    def transposed(arrays, mlp):
        def matrix(theta, start, d_out, d_in):
            return arrays.matrix(theta, start, d_in, d_out).T
        return perceptron(dataclasses.replace(arrays, matrix=matrix), mlp)
    monkeypatch.setattr(module, "_perceptron", transposed)
    record = REFERENCE_PROBLEMS["mlp/2_16_2"]
    assert np.max(differences(library, record, as_read(record))) >= WRONG
