"""Forward mode: tangents of a solve, from the variational equation or from the steps themselves."""
import numpy as np

from refnode.errors import InvalidInputError
from refnode.host_device import INTEGER, INTEGERS, MATRIX, RHS, RHS_JVP, driver
from refnode.sensitivity.cotangents import own_tolerances
from refnode.sensitivity.discrete_adjoint import push_tangents
from refnode.sensitivity.equations import Staggered, Variational
from refnode.sensitivity.forward_solve import check_first_call, require_finished, solved
from refnode.solve.integrate import INTEGRATE_TYPES, RUNNING, T, integrate
from refnode.solve.initial_value import flow_tolerances
from refnode.solve.run import Trajectory, entry_point


@driver(RHS, RHS_JVP, MATRIX, INTEGER, INTEGERS, INTEGRATE_TYPES)
def integrate_variational(f, f_jvp, theta_tans, n, njvp, arguments):
    """Integrate (y, S_1 ... S_m) together; see `refnode.solve.integrate.integrate`."""
    return integrate(Variational(f, f_jvp, theta_tans, n, njvp), *arguments)


@driver(RHS, RHS_JVP, MATRIX, INTEGER, INTEGERS, INTEGRATE_TYPES)
def integrate_staggered(f, f_jvp, theta_tans, n, njvp, arguments):
    """The same, each step tested for y before the tangents are advanced."""
    return integrate(Staggered(f, f_jvp, theta_tans, n, njvp), *arguments)


ERROR_CONTROLS = {"simultaneous": integrate_variational, "staggered": integrate_staggered}


class Tangents:
    """Tangents of a solve in m directions.

    Attributes
    ----------
    forward : Trajectory
        The solve they belong to.
    ys : ndarray, shape (K, n);  y1 : ndarray, shape (n,)
        Observations and last state.
    ys_tans : ndarray, shape (K, m, n);  y1_tans : ndarray, shape (m, n)
    stats : dict
        What was counted besides the forward solve.
    """

    def __init__(self, forward, ys, y1, ys_tans, y1_tans, stats=()):
        self.forward, self.ys, self.y1, self.stats = forward, ys, y1, dict(stats)
        self.ys_tans, self.y1_tans = ys_tans, y1_tans


def variational_tangents(problem, options, extra, y0_tans, theta_tans):
    """Tangents by the variational equation (VAR-1), under error control of its own.

    State and tangents are one system; each is a block of the error norm, so the step resolves the worst
    of them. ``extra`` may hold ``tangent_rtol`` and ``tangent_atol``; the absolute tolerance counts in
    units of each direction's largest entry. And ``error_control``: "simultaneous" steps and tests all at
    once, "staggered" advances the tangents only over steps that passed the test of the state.
    """
    trajectory, entry, leading = variational_trajectory(problem, options, extra, y0_tans, theta_tans)
    status = trajectory.run(entry, leading)
    require_finished(trajectory, status, "the variational solve")
    n, m = problem.flow_y0.size, len(y0_tans)
    states = trajectory.ys.reshape(problem.ts.size, m + 1, n)
    last = trajectory.y1.reshape(m + 1, n)
    return Tangents(trajectory, states[:, 0], last[0], states[:, 1:], last[1:], {"njvp": int(leading[-1][0])})


def variational_trajectory(problem, options, extra, y0_tans, theta_tans):
    """The solve of (y, S_1 ... S_m), ready to run, with its entry point and that one's leading arguments."""
    field, y0 = problem.flow_field, problem.flow_y0
    field.require("jvp")
    n, m = y0.size, len(y0_tans)
    scales = np.maximum(np.max(np.abs(y0_tans), axis=1, initial=0.0),
                        np.max(np.abs(theta_tans), axis=1, initial=0.0))
    scales[scales == 0.0] = 1.0
    rtol, atol = flow_tolerances(options, problem, y0)
    tangent_rtol, tangent_atol = own_tolerances(extra, "tangent", options)
    trajectory = Trajectory(
        options, field, np.concatenate([y0, np.ravel(y0_tans)]), problem.theta, problem.t0, problem.t1,
        problem.ts, keep=False, rtol=np.concatenate([rtol, np.full(m * n, tangent_rtol)]),
        atol=np.concatenate([atol, np.repeat(tangent_atol * scales, n)]),
        blocks=np.arange(0, (m + 1) * n + 1, n) if n else np.zeros(1, dtype=np.int64))
    check_first_call(problem)
    entry, functions = entry_point(ERROR_CONTROLS[extra.get("error_control", "simultaneous")], field,
                                   options.specialize, "f", "jvp")
    njvp = np.zeros(1, dtype=np.int64)
    return trajectory, entry, (*functions, np.ascontiguousarray(theta_tans), n, njvp)


def tangent_grid(problem, options, extra, y0_tans, theta_tans):
    """The times of the steps that error control takes when it sees the tangents beside the state.

    One step at a time, so that nothing but the times is stored.
    """
    if options.fixed:
        raise InvalidInputError("control='tangent' chooses the steps, and n_steps and steps give them: give one")
    trajectory, entry, leading = variational_trajectory(problem, options, extra, y0_tans, theta_tans)
    times, status = [problem.t0], RUNNING
    while status == RUNNING:
        status = trajectory.run(entry, leading, one_step=True)
        if trajectory.clock[T] != times[-1]:
            times.append(float(trajectory.clock[T]))
    require_finished(trajectory, status, "the variational solve")
    return np.array(times) if len(times) > 1 else np.empty(0)


def discrete_tangents(problem, options, extra, y0_tans, theta_tans):
    """Tangents of the frozen steps (DISC-1): the exact derivative of the numbers the solver returns."""
    problem.flow_field.require("jvp")
    sees_tangent = extra.get("control") == "tangent"
    grid = tangent_grid(problem, options, extra, y0_tans, theta_tans) if sees_tangent else None
    forward = solved(problem, options, keep=True, grid=grid)
    return Tangents(forward, forward.ys, forward.y1, *push_tangents(forward, y0_tans, theta_tans))
