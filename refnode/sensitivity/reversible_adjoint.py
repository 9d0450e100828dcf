"""The exact derivative of a reversible method's steps; the transpose gets its states stored, or by undoing steps.

Undone, the memory for states does not grow with their number; they come back with rounding errors, the
drift, which the sweep measures wherever y is known: at the observations and at t0.

References
----------
Zhuang et al., ICLR 2021; Kidger, Foster, Li, Lyons, NeurIPS 2021; McCallum, Foster, arXiv:2410.11648 (2024).
"""
import warnings

import numpy as np
from numba import types

from refnode.errors import GradientWarning, IntegrationError
from refnode.host_device import BLOCK, INTEGERS, MATRIX, RHS, RHS_JVP, RHS_VJP, VECTOR, driver, higher_order, host_device
from refnode.linalg import copy_into
from refnode.sensitivity.cotangents import cotangents_of, forward_stats
from refnode.sensitivity.forward import Tangents
from refnode.sensitivity.forward_solve import solved
from refnode.sensitivity.jumps import observation_jump
from refnode.solve.integrate import FINISHED, RUNNING
from refnode.solve.reversible_path import EVALUATION_TYPES, SCHEME_TYPES, copy_rows
from refnode.solve.run import entry_point, run_slices, where
from refnode.solve.solution import solution_of
from refnode.steppers.reversible import Evaluations
from refnode.steppers.schemes import (
    ALF, REVERSIBLE_HEUN, Scheme, reversible_start_jvp, reversible_start_vjp, reversible_step, reversible_step_inverse,
    reversible_step_jvp, reversible_step_vjp)

STEP, OBSERVATION, SLICE, INVERTED = range(4)                                       # position

STATE_TYPES = (
    *SCHEME_TYPES, VECTOR, BLOCK, *EVALUATION_TYPES,             # times, x, z, k, tape
    VECTOR, VECTOR, INTEGERS, INTEGERS)                          # theta, y0, ys_step, position

TANGENT_TYPES = types.Tuple((
    *STATE_TYPES,
    VECTOR, MATRIX, MATRIX, VECTOR, MATRIX, MATRIX, MATRIX))     # theta_tan, x_tan, x1_tan, z_tan, k_tan, x1, ys_tan

ADJOINT_TYPES = types.Tuple((
    *STATE_TYPES,
    MATRIX, MATRIX, VECTOR, MATRIX, VECTOR, MATRIX, MATRIX,      # ys_bar, x_bar, z_bar, k_bar, t_bar, x1, ys
    VECTOR, VECTOR))                                             # drift, theta_bar

HALF_THE_DIGITS = 2.0**26      # ULP of drift worth a warning: half of the 53 bits of a state are lost


# --- tangent ----------------------------------------------------------------------------------------

@driver(RHS, RHS_JVP, TANGENT_TYPES)
def reversible_tangent(f, f_jvp, arguments):
    """Push one tangent through the steps of a reversible method; see `push_through_states`."""
    return push_through_states(f, f_jvp, *arguments)


@higher_order
def push_through_states(f, f_jvp, code, cost, coupling, A, b, c, times, x, z, k, tape, theta, y0, ys_step,
                        position, theta_tan, x_tan, x1_tan, z_tan, k_tan, x1, ys_tan):
    """Moves x_tan (rows, n), of which the first row is given, from the start to the last state.

    Overwrites ys_tan (K, n), but for observations at the start. Every step is taken again from its stored
    state, for what its tangent reads. Implements (REV-19).
    """
    scheme, at = Scheme(code, cost, coupling, A, b, c), Evaluations(z, k, tape)
    for _ in range(position[SLICE]):
        i = position[STEP]
        if i == times.shape[0] - 1:
            return FINISHED
        if i == 0:
            reversible_start_jvp(f, f_jvp, scheme, times[0], y0, theta, theta_tan, at, x_tan)
        t, h = times[i], times[i + 1] - times[i]
        reversible_step(f, scheme, t, h, x[i], theta, at, x1)
        reversible_step_jvp(f_jvp, scheme, t, h, theta, x_tan, theta_tan, at, z_tan, k_tan, x1_tan)
        copy_rows(x1_tan, x_tan)
        while position[OBSERVATION] < ys_step.shape[0] and ys_step[position[OBSERVATION]] == i:
            copy_into(x_tan[0], ys_tan[position[OBSERVATION]])
            position[OBSERVATION] += 1
        position[STEP] = i + 1
    return RUNNING


# --- transpose --------------------------------------------------------------------------------------

@driver(RHS, RHS_VJP, ADJOINT_TYPES)
def reversible_adjoint(f, f_vjp, arguments):
    """Pull one cotangent back through the steps of a reversible method; see `pull_through_states`."""
    return pull_through_states(f, f_vjp, *arguments)


@higher_order
def pull_through_states(f, f_vjp, code, cost, coupling, A, b, c, times, x, z, k, tape, theta, y0, ys_step,
                        position, ys_bar, x_bar, z_bar, k_bar, t_bar, x1, ys, drift, theta_bar):
    """Moves x_bar (rows, n) from the last state to the first, then to y0: its first row. Adds to theta_bar.

    The step that ends at the state x1 is undone, with INVERTED, or else taken again from the stored state
    x[i]; either leaves what the transpose reads. Undone states lie in x[0], and ``drift`` (n,) becomes the
    largest distance from an observed y. Observations at the start are not touched. Implements (REV-20).
    """
    scheme, at = Scheme(code, cost, coupling, A, b, c), Evaluations(z, k, tape)
    for _ in range(position[SLICE]):
        i = position[STEP] - 1
        if i < 0:
            return FINISHED
        while position[OBSERVATION] > 0 and ys_step[position[OBSERVATION] - 1] == i:
            position[OBSERVATION] -= 1
            for m in range(x_bar.shape[1]):
                x_bar[0, m] += ys_bar[position[OBSERVATION], m]                     # ys[j] = y1
            if position[INVERTED]:
                keep_largest(x1[0], ys[position[OBSERVATION]], drift)
        t, h = times[i], times[i + 1] - times[i]
        if position[INVERTED]:
            reversible_step_inverse(f, scheme, t, h, x1, theta, at, x[0])
            copy_rows(x[0], x1)
        else:
            reversible_step(f, scheme, t, h, x[i], theta, at, x1)
        reversible_step_vjp(f_vjp, scheme, t, h, theta, at, z_bar, k_bar, t_bar, x_bar, theta_bar)
        position[STEP] = i
        if i == 0:
            reversible_start_vjp(f, f_vjp, scheme, times[0], y0, theta, at, t_bar, x_bar, theta_bar)
    return FINISHED if position[STEP] == 0 else RUNNING


@host_device
def keep_largest(y, known, drift):
    """drift_m = max(drift_m, |y_m - known_m|)."""
    for m in range(drift.shape[0]):
        drift[m] = max(drift[m], abs(y[m] - known[m]))


# --- the host's side --------------------------------------------------------------------------------

class StateSweep:
    """A finished forward solve by a reversible method, and a sweep's view of it.

    ``x`` are the states it reads: all of them, or room for one.
    """

    def __init__(self, forward, x):
        self.forward, self.field, self.x = forward, forward.field, x
        self.z, self.k, self.tape = forward.new_evaluations()
        self.times = forward.grid if forward.grid.size else np.array([forward.t0])

    def run(self, driver_, derivative, position, rest):
        """Run a sweep to its end, returning to Python now and then."""
        forward = self.forward
        entry, functions = entry_point(driver_, self.field, forward.options.specialize, "f", derivative)
        arguments = (*forward.coefficients, self.times, self.x, self.z, self.k, self.tape, forward.theta,
                     forward.y_start, forward.ys_step, position, *rest)
        try:
            run_slices(entry, (*functions, arguments), position, SLICE, self.field.pace)
        except Exception as error:
            error.add_note(where(derivative, self.times[position[STEP]], position[STEP]))
            raise

    def pull(self, seeds, x1, inverted):
        """(y0_bar, theta_bar, drift) by the transposed steps, from the last state x1, which is used up."""
        forward = self.forward
        x_bar, theta_bar, drift = np.zeros_like(x1), np.zeros(forward.theta.size), np.zeros(forward.n)
        x_bar[0] = seeds.y1_bar
        position = np.array([forward.n_steps, forward.ts.size, 1, int(inverted)])
        self.run(reversible_adjoint, "vjp", position, (
            seeds.ys_bar, x_bar, np.empty(forward.n), np.empty_like(self.k), np.zeros(1), x1, forward.ys, drift,
            theta_bar))
        for j in range(position[OBSERVATION]):                  # what is left was observed at t0
            observation_jump(x_bar[0], seeds.ys_bar[j])
        return x_bar[0], theta_bar, drift

    def push(self, y0_tans, theta_tans):
        """(ys_tans (K, m, n), y1_tans (m, n)) for m directions."""
        forward, shape = self.forward, self.x.shape[1:]
        ys_tans = np.empty((forward.ts.size, len(y0_tans), forward.n))
        y1_tans = np.empty((len(y0_tans), forward.n))
        at_start = int(np.count_nonzero(forward.ys_step == -1))
        for j, theta_tan in enumerate(theta_tans):
            ys_tan, x_tan = np.empty((forward.ts.size, forward.n)), np.zeros(shape)
            ys_tan[:at_start] = x_tan[0] = y0_tans[j]
            self.run(reversible_tangent, "jvp", np.array([0, at_start, 1, 0]), (
                theta_tan, x_tan, np.empty(shape), np.empty(forward.n), np.empty_like(self.k), np.empty(shape),
                ys_tan))
            ys_tans[:, j], y1_tans[j] = ys_tan, x_tan[0]
        return ys_tans, y1_tans


def reversible_tangents(problem, options, own, y0_tans, theta_tans):
    """`Tangents` of the frozen steps of a reversible method."""
    problem.flow_field.require("jvp")
    forward = solved(problem, options, keep=True)
    tangents = StateSweep(forward, forward.stored()[1]).push(y0_tans, theta_tans)
    return Tangents(forward, forward.ys, forward.y1, *tangents)


def pull_stored_states(problem, recipe, options, own, seeds_of):
    """The transpose of all steps, from stored states: `Cotangents`, and the solve."""
    forward = solved(problem, options, keep=True)
    seeds = seeds_of(forward)
    x = forward.stored()[1]
    y0_bar, theta_bar, _ = StateSweep(forward, x).pull(seeds, forward.x1.copy(), inverted=False)
    stats = {**sweep_stats(forward), "history_bytes": x.nbytes}
    return cotangents_of(problem, forward, seeds, y0_bar, theta_bar, stats), forward


def pull_inverted(problem, recipe, options, own, seeds_of):
    """The transpose of all steps, each undone from the state at its end: the memory of two states.

    Raises
    ------
    IntegrationError
        If undoing the steps overflows.

    Warns
    -----
    GradientWarning
        If the states come back with less than half of their digits.
    """
    forward = solved(problem, options, keep=False)
    seeds = seeds_of(forward)
    x, x1 = np.zeros((1, *forward.x1.shape)), forward.x1.copy()
    y0_bar, theta_bar, drift = StateSweep(forward, x).pull(seeds, x1, inverted=True)
    drift = np.maximum(drift, np.abs(x1[0] - forward.y_start))
    require_finite_drift(forward, drift)
    ulp = drift_ulp(forward, drift)
    stats = {**sweep_stats(forward), "history_bytes": x.nbytes + x1.nbytes, "drift_ulp": ulp}
    _warn_of_drift(forward, ulp)
    return cotangents_of(problem, forward, seeds, y0_bar, theta_bar, stats), forward


def sweep_stats(forward):
    """What the solve and the sweep counted: either way the sweep evaluates f as often as the solve."""
    scheme, steps = forward.scheme, forward.n_steps
    cost = forward.coefficients[1]
    starts = int(steps > 0 and scheme.code in (ALF, REVERSIBLE_HEUN))
    return {**forward_stats(forward), "n_steps_reverse": steps, "nfev_reverse": steps * cost + starts}


def drift_ulp(forward, drift):
    """The largest component of a drift, in units in the last place of the largest value known of that component."""
    known = np.vstack([forward.y_start, forward.ys, forward.y1])
    sizes = np.max(np.abs(known), axis=0)
    return float(np.max(drift / np.spacing(np.where(sizes > 0.0, sizes, 1.0)), initial=0.0))


def require_finite_drift(forward, drift):
    """Raise IntegrationError, with the forward `Solution`, if an undone state is not finite."""
    if not np.all(np.isfinite(drift)):
        raise IntegrationError(
            f"undoing the steps of {forward.scheme.name!r} overflowed: backwards they are unstable on this problem; "
            "use 'discrete' or shorter steps", solution_of(forward, FINISHED))


def _warn_of_drift(forward, ulp):
    if ulp > HALF_THE_DIGITS:
        warnings.warn(
            f"{forward.n_steps} undone steps of {forward.scheme.name!r} missed the known states by {ulp:.3g} ULP, "
            f"a relative {ulp * np.finfo(float).eps:.1g}: the gradient is uncertain by about that much times the "
            "growth of the tangents; use 'discrete', shorter steps, or observe more often", GradientWarning,
            stacklevel=5)
