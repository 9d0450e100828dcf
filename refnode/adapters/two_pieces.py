"""A right-hand side in pieces, solved to its switch and again from there: what adapters share."""
import numpy as np

from refnode.adapters.translate import NUMPY, all_pieces


def around_switch(task, t_switch):
    """Which times of ``task.grid`` are before the switch (t0 is the first) and which after it, as two lists of rows."""
    onwards = 1.0 if task.t1 >= task.t0 else -1.0
    early = [row for row, t in enumerate(task.grid) if (t - t_switch) * onwards < 0.0]
    return early, list(range(len(early), len(task.grid)))


def solved_to_switch(task, y0, theta, method="RK45", rtol=1e-10, atol=1e-12, number=0, t_start=None):
    """(time of the switch, state there, evaluations), by an event of SciPy's `solve_ivp` where the state decides.

    From y0 at ``t_start``, by default t0, to switch ``number``, by the piece before it.

    Raises
    ------
    RuntimeError
        If the state never reaches its switch.
    """
    from scipy.integrate import solve_ivp
    pieces, switches = all_pieces(NUMPY, task.problem["rhs"], task.n)
    (kind, surface), start = switches[number], task.t0 if t_start is None else t_start
    end = float(surface(start, y0, theta)) if kind == "time" else task.t1

    def guard(t, y):
        return float(surface(t, y, theta))
    guard.terminal, guard.direction = True, 1.0         # from below: behind a bounce the next switch starts at 0
    result = solve_ivp(lambda t, y: pieces[number](t, y, theta), (start, end), y0, method, rtol=rtol, atol=atol,
                       events=None if kind == "time" else guard)
    if not result.success or (kind == "state" and result.status != 1):
        raise RuntimeError(f"solve_ivp: the switch was not reached: {result.message}")
    return (end if kind == "time" else float(result.t_events[0][0])), result.y[:, -1].copy(), result.nfev


def rows_of_pieces(task, y0, theta):
    """Which times of ``task.grid`` behind t0 are in every piece, as arrays of rows; by `solve_ivp`."""
    _, switches = all_pieces(NUMPY, task.problem["rhs"], task.n)
    ends, t, y = [1], None, y0
    for number in range(len(switches)):
        t, y, _ = solved_to_switch(task, y, theta, number=number, t_start=t)
        ends.append(max(1, len(around_switch(task, t)[0])))
    return [np.arange(*span) for span in zip(ends, [*ends[1:], len(task.grid)])]


def solved_in_pieces(task, y0, theta, method="RK45", rtol=1e-10, atol=1e-12):
    """(states at ``task.grid``, one row a time; evaluations) by `solve_ivp`, stopped at every switch and started again."""
    from scipy.integrate import solve_ivp
    pieces, switches = all_pieces(NUMPY, task.problem["rhs"], task.n)
    rows, spans, nfev, (t, y) = [np.asarray(y0)[None]], [], 0, (task.t0, y0)
    for number in range(len(switches)):
        t_switch, y_switch, calls = solved_to_switch(task, y, theta, method, rtol, atol, number, t)
        spans, nfev = [*spans, (pieces[number], t, y, around_switch(task, t_switch)[0])], nfev + calls
        t, y = t_switch, y_switch
    done = 1                                            # of the grid, whose first time is t0
    for f, start, state, before in [*spans, (pieces[-1], t, y, task.grid)]:
        times, done = task.grid[done:len(before)], max(done, len(before))
        if not times.size:
            continue
        result = solve_ivp(lambda t, y, f=f: f(t, y, theta), (start, times[-1]), state, method, t_eval=times,
                           rtol=rtol, atol=atol)
        rows, nfev = [*rows, result.y.T], nfev + result.nfev
        if not result.success:
            raise RuntimeError(f"solve_ivp: {result.message}")
    return np.concatenate(rows), nfev
