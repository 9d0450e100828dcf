"""Stand-ins shared by the tests of the solver: problems with known solutions, fields that fail, subprocesses."""
import os
import pathlib
import subprocess
import sys

import numpy as np
from numba import njit

import refnode
from refnode.fields.classical import kepler
from refnode.fields.field import VectorField

PACKAGE = pathlib.Path(refnode.__file__).resolve().parent


# --- problems whose solution is known -------------------------------------------------------------

class Known:
    """A field, its parameters, an interval, and y(t) in closed form."""

    def __init__(self, field, theta, span, solution):
        self.field, self.theta, self.span, self.solution = field, theta, span, solution

    def problem(self, span=None, **options):
        span = self.span if span is None else span
        return refnode.Problem(self.field, self.solution(span[0]), self.theta, span, **options)


def kepler_solution(t, e=0.5):
    """The orbit of eccentricity e, semi-axis 1, mu = 1, from its pericentre at t = 0, by Kepler's equation."""
    anomaly = t
    for _ in range(50):
        anomaly -= (anomaly - e * np.sin(anomaly) - t) / (1.0 - e * np.cos(anomaly))
    width, rate = np.sqrt(1.0 - e * e), 1.0 / (1.0 - e * np.cos(anomaly))
    return np.array([np.cos(anomaly) - e, width * np.sin(anomaly),
                     -np.sin(anomaly) * rate, width * np.cos(anomaly) * rate])


@njit
def exchange_rhs(t, y, theta, dy):
    """y_0' = 2 t y_0 log y_1, y_1' = -2 t y_1 log y_0 (Hairer, Norsett, Wanner I, exercise of II.1)."""
    dy[0] = 2.0 * t * y[0] * np.log(y[1])
    dy[1] = -2.0 * t * y[1] * np.log(y[0])


def exchange_solution(t):
    return np.array([np.exp(np.sin(t * t)), np.exp(np.cos(t * t))])


exchange = VectorField(exchange_rhs, name="exchange", n=2, p=0)

AUTONOMOUS = Known(kepler, [1.0], (2.0, 4.0), kepler_solution)
NON_AUTONOMOUS = Known(exchange, [], (0.5, 1.5), exchange_solution)


# --- fields that fail -----------------------------------------------------------------------------

def failing_field(fails, value=np.nan, component=0, n=2):
    """y' = -y, plain Python, but ``value`` in one component wherever ``fails(t, y)``."""
    def fun(t, y, theta):
        dy = -y
        if fails(t, y):
            dy[component] = value
        return dy
    return VectorField(fun, name="failing", n=n)


class Counted:
    """``fun`` with a count of its calls."""

    def __init__(self, fun):
        self.fun, self.calls = fun, 0

    def __call__(self, t, y):
        self.calls += 1
        return self.fun(t, y)


# --- another process ------------------------------------------------------------------------------

def python(code, *, package=PACKAGE, timeout=120.0, options=(), **environment):
    """Run ``code`` in a fresh interpreter that imports ``package``; the completed process, exit code 0."""
    done = subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True,
                          timeout=timeout, env=clean_environment(package, **environment),
                          cwd=pathlib.Path(package).parent)         # -c puts the folder it runs in first
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def clean_environment(package=PACKAGE, **environment):
    """The environment with ``package`` first on the path; a value of None removes a variable. Drivers are compiled at once."""
    merged = {**os.environ, "PYTHONPATH": str(pathlib.Path(package).parent), "REFNODE_PATIENCE": "0", **environment}
    return {name: str(value) for name, value in merged.items() if value is not None}
