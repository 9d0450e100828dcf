"""The program whose derivative the discrete recipes return: a solve with its steps frozen."""
import numpy as np

from refnode.fields.field import VectorField
from refnode.host_device import python_form
from refnode.sensitivity.jumps import initial_tangent, observation_tangent
from refnode.solve.initial_value import flow_tolerances
from refnode.solve.options import SolveOptions
from refnode.solve.reversible_path import ReversibleTrajectory
from refnode.solve.run import Trajectory


def replay(problem, times, method="dopri5", *, y0=None, theta=None, t0=None, t1=None, ts=None):
    """y(ts) and y(t1) by the steps ``times``, as a function of all inputs, which may be complex.

    This is the very loop the solver runs, un-jitted, so that complex-step differentiation of it confirms
    the hand-written tangent and transpose to rounding. The steps stay where they are; a moved t0, t1 or
    observation time acts through f at that time, as in (JUMP-2) and (JUMP-3).

    Parameters
    ----------
    problem : Problem
    times : ndarray, shape (N + 1,)
        Times of the steps, as in ``Solution.t_steps`` of a solve with ``dense_output=True``.
    method : str
        The method that takes them.
    y0, theta, ts : ndarray, optional;  t0, t1 : number, optional
        Inputs that differ from the problem's.

    Returns
    -------
    ys : ndarray, shape (n, K)
    y1 : ndarray, shape (n,)
    """
    options = SolveOptions.of(method=method, n_steps=max(len(times) - 1, 1))
    field = _complex_field(problem.flow_field)
    start = np.array(problem.flow_y0, dtype=complex)
    if y0 is not None:
        start[:problem.y0.size] = y0
    theta = np.array(problem.theta if theta is None else theta, dtype=complex)
    if t0 is not None:
        start = initial_tangent(start, t0 - problem.t0, _slope(field, problem.t0, start, theta))
    trajectory = _complex_trajectory(problem, options, field, start, theta, np.asarray(times))
    trajectory.run(python_form(trajectory.driver), [field.f])
    ys, y1 = trajectory.ys.copy(), trajectory.y1.copy()
    if problem.ts_is_t1:
        ts = None if t1 is None else [t1]
    for k, t in enumerate([] if ts is None else ts):
        slope = _slope(field, problem.ts[k], ys[k], theta)
        ys[k] = observation_tangent(ys[k], t - problem.ts[k], slope)
    if t1 is not None:
        y1 = observation_tangent(y1, t1 - problem.t1, _slope(field, problem.t1, y1, theta))
    return ys.T, y1


def _complex_trajectory(problem, options, field, start, theta, times):
    inputs = (options, field, start, theta, problem.t0, problem.t1, problem.ts)
    if options.scheme is not None:
        return ReversibleTrajectory(*inputs, keep=True, grid=times, dtype=complex)
    rtol, atol = flow_tolerances(options, problem, problem.flow_y0)
    return Trajectory(*inputs, keep=True, rtol=rtol, atol=atol, blocks=np.array([0, start.size]), grid=times,
                      dtype=complex)


def _complex_field(field):
    """The field as plain functions valid for complex arrays."""
    f = field.complex_form()
    return VectorField(lambda t, y, theta, tape, dy: f(t, y, theta, tape, dy), name=field.name,
                       tape_size=field.tape_size, tape_header=field.tape_header)


def _slope(field, t, y, theta):
    slope = np.empty_like(y)
    field.f(t, y, theta, field.new_tape(1, complex)[0], slope)
    return slope
