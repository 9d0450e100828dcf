"""`solve_ivp` with SciPy's signature, defaults and result fields."""
import functools
import warnings

import numpy as np
from numba import njit

from refnode.checks import observation_times, real_vector, time_span
from refnode.errors import InvalidInputError, InvalidTypeError
from refnode.fields.field import VectorField
from refnode.host_device import is_compiled
from refnode.solve.events import Events
from refnode.solve.integrate import EVENT, RUNNING, STEPS, integrate_field
from refnode.solve.options import SolveOptions, tolerance_vectors
from refnode.solve.run import Trajectory, entry_point
from refnode.solve.solution import DenseOutput, solution_of
from refnode.steppers.explicit_rk import dense_output as dense_output_kernel

LATER = {"Radau": "implicit", "BDF": "implicit", "LSODA": "implicit"}
KNOWN_OPTIONS = {"first_step", "max_step", "rtol", "atol", "controller", "max_steps", "n_steps", "steps"}


def solve_ivp(fun, t_span, y0, method="RK45", t_eval=None, dense_output=False, events=None,
              vectorized=False, args=None, **options):
    """Solve an initial value problem; a drop-in for ``scipy.integrate.solve_ivp``.

    Parameters
    ----------
    fun : callable
        ``fun(t, y, *args) -> dy``, plain Python or compiled by njit.
    t_span, y0, method, t_eval, dense_output, events, vectorized, args
        As in SciPy. Methods: "RK23", "RK45", "DOP853" and refnode's own names.
    **options
        ``rtol=1e-3, atol=1e-6, first_step, max_step`` as in SciPy; ``controller, max_steps, n_steps,
        steps`` as in `refnode.solve`.

    Returns
    -------
    Solution
        With SciPy's fields: t, y, sol, t_events, y_events, nfev, njev, nlu, status, message, success.
    """
    if method in LATER:
        raise InvalidInputError(f"method {method!r} is {LATER[method]} and not implemented; "
                                "use 'RK23', 'RK45' or 'DOP853'")
    y0 = real_vector("y0", y0)
    t0, t1 = time_span(t_span)
    options = _checked_options(method, options)
    field = _field(fun, tuple(_checked_args(args)), vectorized, y0.size)
    ts = np.empty(0) if t_eval is None else observation_times(t_eval, t0, t1, "t_eval")
    keep = t_eval is None or dense_output or events is not None
    field.check_first_call(t0, y0, np.empty(0))
    rtol, atol = tolerance_vectors(options, y0)
    trajectory = Trajectory(options, field, y0, np.empty(0), t0, t1, ts, keep=keep,
                            dense=dense_output or events is not None, rtol=rtol, atol=atol,
                            blocks=np.array([0, y0.size]))
    watch = None if events is None else Events(events, args or ())
    status, t_end = _run(trajectory, watch)
    return _result(trajectory, status, t_end, t_eval is None, dense_output, watch)


def _checked_options(method, options):
    unknown = set(options) - KNOWN_OPTIONS
    if unknown:
        warnings.warn(f"options without effect: {sorted(unknown)}", stacklevel=3)
    known = {name: value for name, value in options.items() if name in KNOWN_OPTIONS}
    checked = SolveOptions(method=method, **{"rtol": 1e-3, "atol": 1e-6, **known})
    if checked.tableau is None:
        raise InvalidInputError(f"method {method!r} has no dense output, which solve_ivp needs; use refnode.solve")
    return checked


def _checked_args(args):
    if args is None:
        return ()
    try:
        return (*args,)
    except TypeError as error:
        raise InvalidTypeError(
            f"args must be a tuple such as args=(value,), found {type(args).__name__}") from error


def _field(fun, args, vectorized, n):
    """``fun(t, y, *args)`` as a field without parameters."""
    if not callable(fun):
        raise InvalidTypeError(f"fun must be callable, found {type(fun).__name__}")
    name = getattr(fun, "__name__", "fun")
    if is_compiled(fun) and not args and not vectorized:
        return _compiled_field(fun, name, n)
    if vectorized:
        return VectorField(_users(fun, lambda t, y, theta: np.ravel(fun(t, y[:, None], *args))), name=name, n=n)
    return VectorField(_users(fun, lambda t, y, theta: fun(t, y, *args)), name=name, n=n)


@functools.lru_cache(maxsize=64)
def _compiled_field(fun, name, n):
    """The field of a function compiled by njit, itself compiled once."""
    return VectorField(njit(error_model="numpy")(_users(fun, lambda t, y, theta: fun(t, y))), name=name, n=n)


def _users(fun, wrapper):
    """``wrapper`` as a function of the user's module: fields of refnode's own skip the check of the first call."""
    wrapper.__module__ = getattr(fun, "__module__", None) or "__main__"
    return wrapper


def _run(trajectory, watch):
    """Run to the end or to a terminal event; returns the status and the time of the event, if any."""
    entry, functions = entry_point(integrate_field, trajectory.field, False, "f")
    if watch is None:
        return trajectory.run(entry, functions), None
    watch.start(trajectory.t0, trajectory.y[0].copy())
    while True:
        before = trajectory.n_steps
        status = trajectory.run(entry, functions, one_step=True)
        if trajectory.n_steps > before:
            t_old, t = trajectory.times[before:before + 2]
            t_end = watch.step(_interpolant(trajectory, before), t_old, t, trajectory.y[before + 1].copy())
            if t_end is not None:
                return EVENT, t_end
        if status != RUNNING:
            return status, None


def _interpolant(trajectory, step):
    """y(t) within one step; at its end exactly the state there, whose sign an event has seen."""
    s, t = trajectory.s, trajectory.times
    h = t[step + 1] - t[step]

    def y_of(time):
        if time == t[step + 1]:
            return trajectory.y[step + 1].copy()
        out = np.empty(trajectory.n)
        dense_output_kernel(trajectory.options.tableau.P, (time - t[step]) / h, h, trajectory.y[step],
                            trajectory.k[step * s:(step + 1) * s + 1], trajectory.k_extra[step],
                            trajectory.storage.w, out)
        return out
    return y_of


def _result(trajectory, status, t_end, at_steps, dense_output, watch):
    solution = solution_of(trajectory, status)
    if dense_output:
        solution.sol = DenseOutput(trajectory, t_end)
    if at_steps:
        steps = int(trajectory.counts[STEPS])
        solution.t, solution.y = solution.t_steps.copy(), trajectory.y[:steps + 1].T.copy()
    if watch is not None:
        solution.t_events, solution.y_events = watch.arrays()
    if t_end is not None:
        _end_at(solution, trajectory, t_end, at_steps)
    return solution


def _end_at(solution, trajectory, t_end, at_steps):
    """Cut a solution off at a terminal event."""
    y_end = _interpolant(trajectory, trajectory.n_steps - 1)(t_end)
    if at_steps:
        solution.t[-1], solution.y[:, -1] = t_end, y_end
    else:
        reached = solution.t <= t_end if trajectory.t1 >= trajectory.t0 else solution.t >= t_end
        solution.t, solution.y = solution.t[reached], solution.y[:, reached]
    solution.t_steps[-1], solution.y1 = t_end, y_end
