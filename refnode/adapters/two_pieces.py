"""A right-hand side in two pieces, solved to its switch and again from there: what adapters share."""
import numpy as np

from refnode.adapters.translate import NUMPY, switched_rhs


def around_switch(task, t_switch):
    """Which times of ``task.grid`` are before the switch (t0 is the first) and which after it, as two lists of rows."""
    onwards = 1.0 if task.t1 >= task.t0 else -1.0
    early = [row for row, t in enumerate(task.grid) if (t - t_switch) * onwards < 0.0]
    return early, list(range(len(early), len(task.grid)))


def solved_to_switch(task, y0, theta, method="RK45", rtol=1e-10, atol=1e-12):
    """(time of the switch, state there, evaluations), by an event of SciPy's `solve_ivp` where the state decides.

    Raises
    ------
    RuntimeError
        If the state never reaches its switch.
    """
    from scipy.integrate import solve_ivp
    (first, _), kind, surface = switched_rhs(NUMPY, task.problem["rhs"], task.n)
    end = float(surface(task.t0, y0, theta)) if kind == "time" else task.t1

    def guard(t, y):
        return float(surface(t, y, theta))
    guard.terminal = True
    result = solve_ivp(lambda t, y: first(t, y, theta), (task.t0, end), y0, method, rtol=rtol, atol=atol,
                       events=None if kind == "time" else guard)
    if not result.success or (kind == "state" and result.status != 1):
        raise RuntimeError(f"solve_ivp: the switch was not reached: {result.message}")
    return (end if kind == "time" else float(result.t_events[0][0])), result.y[:, -1].copy(), result.nfev


def solved_in_two(task, y0, theta, method="RK45", rtol=1e-10, atol=1e-12):
    """(states at ``task.grid``, one row a time; evaluations) by `solve_ivp`, stopped at the switch and started again."""
    from scipy.integrate import solve_ivp
    pieces, _, _ = switched_rhs(NUMPY, task.problem["rhs"], task.n)
    t_switch, y_switch, nfev = solved_to_switch(task, y0, theta, method, rtol, atol)
    early, late = around_switch(task, t_switch)
    spans = [(pieces[0], task.t0, y0, task.grid[early[1:]]), (pieces[1], t_switch, y_switch, task.grid[late])]
    rows = [np.asarray(y0)[None]]
    for f, start, state, times in spans[len(early) == 1:]:
        result = solve_ivp(lambda t, y, f=f: f(t, y, theta), (start, times[-1]), state, method, t_eval=times,
                           rtol=rtol, atol=atol)
        rows, nfev = [*rows, result.y.T], nfev + result.nfev
        if not result.success:
            raise RuntimeError(f"solve_ivp: {result.message}")
    return np.concatenate(rows), nfev
