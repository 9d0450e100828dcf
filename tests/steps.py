"""Shared by the tests of reversible steps: one step as a function of numbers, and the checks of its four bodies.

The bodies run un-jitted, around plain Python fields, with real or complex arrays; a mutant takes their place.
"""
import numpy as np

import cases
from refnode.host_device import python_form
from refnode.steppers import schemes
from refnode.steppers.reversible import Evaluations

BODIES = ("reversible_step", "reversible_step_jvp", "reversible_step_vjp", "reversible_step_inverse",
          "reversible_start", "reversible_start_jvp", "reversible_start_vjp")
RIGHT = {name: python_form(getattr(schemes, name)) for name in BODIES}


class Step:
    """One step of a method on a field, from time t by h."""

    def __init__(self, method, field, n, t=0.375, h=-0.25, bodies=RIGHT):
        self.method, self.field, self.n, self.t, self.h = schemes.reversible_method(method), field, n, t, h
        self.scheme = schemes.Scheme(*self.method.coefficients(n))
        self.bodies, self.shape = bodies, (self.method.rows, n)
        self.f = cases.python_body(field.f)

    def evaluations(self, dtype=float):
        rows = self.method.evaluations(self.n)
        return Evaluations(np.zeros((rows, self.n), dtype), np.zeros((rows, self.n), dtype),
                           self.field.new_tape(rows, dtype))

    def step(self, x, theta):
        """x1, and what the step left."""
        x, theta = np.ascontiguousarray(x), np.ascontiguousarray(theta)
        dtype = np.result_type(x, theta)
        f, at, x1 = self.field.complex_form() if dtype == complex else self.f, self.evaluations(dtype), np.zeros(
            self.shape, dtype)
        self.bodies["reversible_step"](f, self.scheme, self.t, self.h, x, theta, at, x1)
        return x1, at

    def inverse(self, x1, theta):
        """x, and what the undone step left."""
        at, x = self.evaluations(), np.zeros(self.shape)
        self.bodies["reversible_step_inverse"](self.f, self.scheme, self.t, self.h, x1, theta, at, x)
        return x, at

    def jvp(self, x, theta, x_tan, theta_tan):
        _, at = self.step(x, theta)
        x1_tan = np.zeros(self.shape)
        self.bodies["reversible_step_jvp"](
            cases.python_body(self.field.jvp), self.scheme, self.t, self.h, theta, x_tan, theta_tan, at,
            np.zeros(self.n), np.zeros_like(at.k), x1_tan)
        return x1_tan

    def vjp(self, x, theta, x1_bar, undone=False):
        """(x_bar, theta_bar), from what the step left, or from what undoing it left."""
        x1, at = self.step(x, theta)
        if undone:
            _, at = self.inverse(x1, theta)
        x_bar, theta_bar = x1_bar.copy(), np.zeros(theta.size)
        self.bodies["reversible_step_vjp"](
            cases.python_body(self.field.vjp), self.scheme, self.t, self.h, theta, at, np.zeros(self.n),
            np.zeros_like(at.k), np.zeros(1), x_bar, theta_bar)
        return x_bar, theta_bar

    def reachable(self, x, theta):
        """x, with the slope of reversible Heun's state that of its z: no other state has a step that leads to it."""
        if self.method.code != schemes.REVERSIBLE_HEUN:
            return x
        x = x.copy()
        self.f(self.t, x[1], theta, self.field.new_tape(1)[0], x[2])
        return x

    def point(self, seed=0, p=None):
        """A state, parameters, their tangents, and a cotangent of the next state."""
        rng = np.random.default_rng(seed)
        p = self.field.p if p is None else p
        return (rng.uniform(0.5, 1.5, self.shape), rng.uniform(0.5, 1.5, p), rng.standard_normal(self.shape),
                rng.standard_normal(p), rng.standard_normal(self.shape))


def round_trip_ulp(step, x, theta):
    """How far a step and its inverse lead away from x, in ULP of the largest number of x and x1."""
    x = step.reachable(x, theta)
    x1, _ = step.step(x, theta)
    back, _ = step.inverse(x1, theta)
    return np.max(np.abs(back - x)) / np.spacing(max(np.max(np.abs(x)), np.max(np.abs(x1))))


def duality_error(step, x, theta, x_tan, theta_tan, x1_bar, undone=False):
    """|<x1_bar, J v> - <J^T x1_bar, v>| over the sum of the magnitudes of all terms."""
    left = x1_bar * step.jvp(x, theta, x_tan, theta_tan)
    x_bar, theta_bar = step.vjp(x, theta, x1_bar, undone)
    right = np.concatenate([(x_bar * x_tan).ravel(), theta_bar * theta_tan])
    return abs(left.sum() - right.sum()) / (np.abs(left).sum() + np.abs(right).sum())


def tangent_error(step, x, theta, x_tan, theta_tan):
    """The tangent against a complex step of the same body, over its largest entry."""
    eps = cases.COMPLEX_STEP
    x1, _ = step.step(x + 1j * eps * x_tan, theta + 1j * eps * theta_tan)
    expected = x1.imag / eps
    return np.max(np.abs(step.jvp(x, theta, x_tan, theta_tan) - expected)) / np.max(np.abs(expected))


def evaluations_error(step, x, theta):
    """How far the arguments that undoing a step leaves are from those the step left; and the slopes, where read."""
    x1, left = step.step(x, theta)
    _, found = step.inverse(x1, theta)
    pairs = [(found.z, left.z)] + ([] if step.method.separable else [(found.k, left.k)])
    return max(np.max(np.abs(a - b)) / np.max(np.abs(b), initial=1.0) for a, b in pairs)


def mutant_bodies(module, *replacements):
    """The bodies of `BODIES` with lines of ``module`` changed; the module is that of a stepper, or schemes."""
    from gradients import changed_source
    wrong = changed_source(module, *replacements)
    namespace = wrong if module is schemes else changed_source(schemes)
    for name, value in wrong.items():
        if callable(value) and name in namespace and getattr(value, "__module__", "") == "mutant":
            namespace[name] = value
    for name, value in namespace.items():                       # what was not changed, un-jitted, too
        if getattr(value, "is_higher_order", False):
            namespace[name] = python_form(value)
    return {name: namespace[name] for name in BODIES}
