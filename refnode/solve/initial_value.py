"""Solve a `Problem`: the public door to forward integration."""
import functools

import numpy as np

from refnode.checks import require_on_host, require_problem
from refnode.cuda_device import device_and_real
from refnode.errors import InvalidInputError
from refnode.solve.options import SolveOptions, tolerance_vectors
from refnode.solve.reversible_path import ReversibleTrajectory, require_separable
from refnode.solve.run import Trajectory, entry_point
from refnode.solve.solution import solution_of


def solve(problem, *, dense_output=False, device="cpu", dtype="float64", **options):
    """Integrate a problem from t0 to t1.

    Parameters
    ----------
    problem : Problem
    dense_output : bool
        Whether to return y(t) everywhere, as ``solution.sol``.
    device, dtype
        Where to run, as for `solve_batch`, of which this is a batch of one on a GPU; and in which numbers, "float64" or
        "float32": states, slopes and parameters, with times and step control in double precision. What a problem
        holds is rounded then, and float32 holds relative tolerances of 7.6e-6 and more.
    **options
        See `SolveOptions`: ``method, rtol, atol, controller, first_step, max_step, max_steps, n_steps,
        steps, tstops, specialize``.

    Returns
    -------
    Solution
        With ``t`` = the problem's observation times and ``y`` (n, K). A failed integration returns
        ``success=False`` with a status, a message and what was computed until then.
    """
    require_problem(problem, device)
    real = "float64"
    if device != "cpu" or dtype != "float64":
        device, real = device_and_real(device, dtype, single_on_cpu=True)
        if device == "cuda":
            return _solve_on_device(problem, dense_output, real, options)
        require_on_host(problem)
    options = SolveOptions.of(**options)
    if real == "float32":
        options = options.single
    problem.field.check_first_call(problem.t0, problem.y0, problem.theta)
    trajectory, status = solve_forward(problem.field, problem.y0, problem, options,
                                       keep=dense_output, dense=dense_output)
    return solution_of(trajectory, status, dense_output)


def _solve_on_device(problem, dense_output, dtype, options):
    """`solve` as a batch of one on a GPU."""
    if dense_output:
        raise InvalidInputError('device="cuda" keeps no dense output: give the times you want as ts')
    from refnode.solve.batch import solve_batch                 # which solves stacked problems through `solve`
    return solve_batch(problem.as_batch(), device="cuda", dtype=dtype, **options)[0]


def solve_forward(field, y0, problem, options, *, keep, keep_tape=False, dense=False, grid=None):
    """The trajectory of ``field`` from ``y0`` with the times and parameters of ``problem``, and its status."""
    trajectory = forward_trajectory(field, y0, problem, options, keep, keep_tape, dense, grid)
    entry, functions = entry_point(trajectory.driver, field, options.specialized_to(y0.size), "f")
    return trajectory, trajectory.run(entry, functions)


def forward_trajectory(field, y0, problem, options, keep, keep_tape=False, dense=False, grid=None):
    """A `Trajectory` ready to run; a ``grid`` replaces the steps that the options would choose."""
    if options.scheme is not None:
        return _reversible_trajectory(field, y0, problem, options, keep, dense)
    rtol, atol = flow_tolerances(options, problem, y0)
    if options.dtype is np.float32:
        require_range(y0=y0, theta=problem.theta)
    return Trajectory(
        options, field, y0, problem.theta, problem.t0, problem.t1, problem.ts, keep=keep, keep_tape=keep_tape,
        dense=dense, rtol=rtol, atol=atol, blocks=one_block(y0.size), grid=grid,
        dtype=options.dtype)


def require_range(**arrays):
    """Raise InvalidInputError for a number that single precision cannot hold."""
    largest = float(np.finfo(np.float32).max)
    for name, array in arrays.items():
        beyond = np.flatnonzero(np.abs(array) > largest)
        if beyond.size:
            raise InvalidInputError(f"{name} must stay within {largest:.3g} for dtype=\"float32\", found {name}[{beyond[0]}] = "
                                    f"{array[beyond[0]]:.3g}")


def _reversible_trajectory(field, y0, problem, options, keep, dense):
    if dense:
        raise InvalidInputError(f"method {options.scheme.name!r} has no dense output: give the times you want as ts")
    require_separable(problem, options.scheme)
    return ReversibleTrajectory(options, field, y0, problem.theta, problem.t0, problem.t1, problem.ts, keep=keep)


@functools.lru_cache(maxsize=64)
def one_block(n):
    """The blocks of an error norm over n entries together; not to be changed."""
    return np.array([0, n])


def flow_tolerances(options, problem, y0):
    """Tolerances for y0; a running cost beyond the problem's states takes those of the last state."""
    rtol, atol = tolerance_vectors(options, problem.y0)
    missing = y0.size - problem.y0.size
    if missing == 0:
        return rtol, atol
    return [np.append(v, v[-1:] if v.size else 1e-6).astype(options.dtype) for v in (rtol, atol)]
