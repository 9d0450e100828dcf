"""Every compiled driver against its un-jitted twin: one body must not mean two programs.

The drivers are discovered; one without a case here fails the suite.
"""
import importlib
import pkgutil

import numpy as np
import pytest
from numba import config

import refnode
from cuda_battery import PROGRAMS, every_kernel
from gradients import python_field
from refnode.fields.neural import mlp_field
from refnode.host_device import Driver, FunctionPointer, python_form
from refnode.losses import sum_of_squares
from refnode.problems.catalogue import CATALOGUE
from refnode.problems.batch_problem import Batch
from refnode.problems.problem import Problem
from refnode.sensitivity.batch_gradient import gradient_batch
from refnode.sensitivity.gradient import gradient
from refnode.solve.batch import solve_batch
from refnode.sensitivity.second_order import hvp
from refnode.solve.initial_value import solve

# Driver and twin do the same sums in the same order; the compiler may contract or reassociate nothing, but
# may call another exp or power. Over some tens of steps that stays within 1e-12 of each array's largest entry.
NEAR = 1e-12
# In single precision the twin keeps some scalars in double, such as a step's length times a constant, and so rounds elsewhere.
NEAR_SINGLE = 64 * 2.0**-23

pytestmark = [pytest.mark.filterwarnings("ignore::refnode.errors.GradientWarning"),       # of backsolve's drift
              pytest.mark.skipif(bool(config.DISABLE_JIT), reason="without Numba there is one program only")]


def every_driver():
    """{name: Driver} of the package."""
    names = [module.name for module in pkgutil.walk_packages(refnode.__path__, "refnode.")
             if not module.name.endswith("__main__")]
    found = {}
    for module in names:
        for name, value in vars(importlib.import_module(module)).items():
            if isinstance(value, Driver) and value.__module__ == module:
                found[name] = value
                if hasattr(value, "single"):
                    found[value.single.__name__] = value.single
    return found


def catalogue_problem():
    return CATALOGUE["forced_oscillator"]()


def neural_problem():
    field = mlp_field((2, 4, 2), "tanh", batch=2)
    rng = np.random.default_rng(0)
    return Problem(field, rng.standard_normal(4), 0.5 * rng.standard_normal(field.p), (0.0, 1.0),
                   ts=[0.25, 0.4, 1.0], loss=sum_of_squares())


def pair_of(problem):
    """A batch of a problem and a neighbour."""
    return Batch(problem.field, np.stack([problem.y0, 1.0625 * problem.y0]), problem.theta,
                 (problem.t0, problem.t1), problem.ts, problem.loss)


REVERSIBLE = {"rk4": "mccallum_foster(rk4)", "dop853": "alf", "tsit5": "reversible_heun"}


def reversibly(problem, sensitivity, n_steps=6, method="rk4", **options):
    """A reversible method in place of each method of the tests below, with given steps."""
    return gradient(problem, sensitivity, method=REVERSIBLE[method], n_steps=n_steps)


def second_derivative(problem, sensitivity, **options):
    return hvp(problem, np.ones(problem.y0.size), np.ones(problem.theta.size), sensitivity=sensitivity, **options)


def adaptive_options(options):
    """Options under which steps are chosen, for drivers that look at the choice."""
    return options if "rtol" in options else {"rtol": 1e-3}


# What to run so that a driver is called, on a problem.
CASES = {
    "integrate_field": lambda problem, **options: solve(problem, dense_output=True, **options),
    "integrate_variational": lambda problem, **options: gradient(problem, "forward", **options),
    "integrate_staggered": lambda problem, **options: gradient(problem, "forward", error_control="staggered", **options),
    "integrate_lam": lambda problem, **options: gradient(problem, "gauss", **options),
    "sum_panels": lambda problem, **options: gradient(problem, "gauss_kronrod", **options),
    "integrate_backsolve": lambda problem, **options: gradient(problem, "backsolve", **options),
    "integrate_interpolated": lambda problem, **options: gradient(problem, "interpolating", **options),
    "discrete_tangent": lambda problem, **options: gradient(problem, "discrete_forward", **options),
    "discrete_adjoint": lambda problem, **options: gradient(problem, "discrete", **options),
    "integrate_samples": lambda problem, **options: solve_batch(pair_of(problem), **options),
    "discrete_adjoint_samples": lambda problem, **options: gradient_batch(pair_of(problem), **options),
    "integrate_with_checkpoints": lambda problem, **options: gradient(problem, "online", checkpoints=3, **options),
    "checkpointed_adjoint": lambda problem, **options: gradient(problem, "checkpointed", checkpoints=2, **options),
    "symplectic_adjoint": lambda problem, **options: gradient(problem, "symplectic", **options),
    "integrate_reversible": lambda problem, **options: reversibly(problem, "reversible", **options),
    "reversible_tangent": lambda problem, **options: reversibly(problem, "discrete_forward", **options),
    "reversible_adjoint": lambda problem, **options: reversibly(problem, "reversible", **options),
    "discrete_adjoint_tangent": lambda problem, **options: second_derivative(problem, "forward_over_adjoint", **options),
    "integrate_second_adjoint": lambda problem, **options: second_derivative(problem, "adjoint_over_adjoint", **options),
    "record_attempts": lambda problem, **options: gradient(problem, "through", **adaptive_options(options)),
    "through_tangent": lambda problem, **options: gradient(problem, "through_forward", **options),
    "through_adjoint": lambda problem, **options: gradient(problem, "through", **options),
    "check_tangent": lambda problem, **options: gradient(problem, "discrete", check_tangent=True,
                                                         **adaptive_options(options)),
    "slopes_at": lambda problem, **options: gradient(problem, "discrete", **options),
    "integrate_field_single": lambda problem, **options: solve(problem, dense_output=True, dtype="float32", **options),
    "discrete_adjoint_single": lambda problem, **options: gradient(problem, dtype="float32", **options),
    "slopes_at_single": lambda problem, **options: gradient(problem, dtype="float32", **options),
}


def near(name):
    return NEAR_SINGLE if name.endswith("_single") else NEAR


# --- record what a driver was given and what it made of it ----------------------------------------

def copied(value):
    """A deep copy of a driver's arguments, with functions in place of their addresses."""
    if isinstance(value, tuple):
        return tuple(copied(each) for each in value)
    if isinstance(value, FunctionPointer):
        return value.dispatcher
    return value.copy() if isinstance(value, np.ndarray) else value


def arrays(value):
    """All arrays in nested arguments, in order."""
    if isinstance(value, tuple):
        return [array for each in value for array in arrays(each)]
    return [value] if isinstance(value, np.ndarray) else []


def recorded_calls(monkeypatch, name, problem, **options):
    """(driver, arguments before, arguments after, status) of every call of the driver of that name."""
    calls, call = [], Driver.__call__

    def recording(self, *arguments):
        before = copied(arguments)
        status = call(self, *arguments)
        if self.__name__ == name:
            calls.append((self, before, copied(arguments), status))
        return status
    with monkeypatch.context() as patch:
        patch.setattr(Driver, "__call__", recording)
        CASES[name](problem, **options)
    return calls


def parity_error(calls, change=lambda arguments: arguments):
    """The largest difference between driver and twin, over each array's largest finite entry."""
    worst = 0.0
    for driver, before, after, status in calls:
        before = change(before)
        if python_form(driver)(*before) != status:
            return np.inf
        for found, expected in zip(arrays(before), arrays(after)):
            same = (found == expected) | (np.isnan(found) & np.isnan(expected))
            if not np.all(same):
                size = np.max(np.abs(expected[np.isfinite(expected)]), initial=1e-300)
                worst = max(worst, np.max(np.abs(found - expected)[~same]) / size)
    return worst


# --- the tests ------------------------------------------------------------------------------------

def test_every_driver_has_a_case():
    assert set(every_driver()) == set(CASES)


def test_every_cuda_kernel_has_a_case():
    """Run by `test_cuda`, where the simulator and the GPU are compared with the drivers."""
    assert set(every_kernel()) == set().union(*(kernels for kernels, _ in PROGRAMS.values()))


@pytest.mark.parametrize("options", [{"n_steps": 6, "method": "rk4"}, {"method": "dop853", "rtol": 1e-5},
                                     {"method": "tsit5", "rtol": 1e-4, "tstops": True}],
                         ids=lambda options: options["method"])
@pytest.mark.parametrize("make", [catalogue_problem, neural_problem])
@pytest.mark.parametrize("name", CASES)
def test_compiled_driver_equals_its_twin(name, make, options, monkeypatch):
    calls = recorded_calls(monkeypatch, name, make(), **options)
    assert calls and all(driver is every_driver()[name] for driver, *_ in calls)
    assert parity_error(calls) <= near(name)


@pytest.mark.parametrize("name", CASES)
def test_another_program_is_caught(name, monkeypatch):
    """The same check with the last function of the twin off by 1e-6, or far above rounding of singles."""
    calls = recorded_calls(monkeypatch, name, catalogue_problem(), n_steps=6)

    def change(arguments):
        count = sum(callable(argument) for argument in arguments)
        return (*arguments[:count - 1], scaled(arguments[count - 1], 1e6 * near(name)), *arguments[count:])
    assert parity_error(calls, change) > 1e3 * near(name)


def scaled(function, part):
    """A kernel whose last array comes out 1 + part times what it should."""
    def wrong(*arguments):
        function(*arguments)
        arguments[-1][:] *= 1.0 + part
    return wrong


def test_plain_python_fields_run_the_twin(monkeypatch):
    """No driver is called for them."""
    problem = catalogue_problem()
    plain = problem.replace(field=python_field(problem.field))
    for name in CASES:
        assert recorded_calls(monkeypatch, name, plain, n_steps=3) == []
