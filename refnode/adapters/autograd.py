"""HIPS autograd: its vjp of `scipy.integrate.odeint`, the adjoint between observations, solved backwards."""
import functools
import time

import numpy as np

from refnode.adapters.answer_form import Mode, NotExpressible, answer_form, checked_choice, versions_of
from refnode.adapters.translate import Task, array_library, switched_rhs
from refnode.adapters.two_pieces import around_switch

LIBRARY = "autograd"
MODES = {
    "odeint": Mode(("lsoda",), "exact", "autograd.scipy.integrate.odeint, then autograd.grad", default=True),
    "odeint_twice": Mode(("lsoda",), "exact", "odeint to a given switching time, and again from there"),
}
MOST_STEPS = 100_000            # between two observations; SciPy's own limit of 500 is too few at tight tolerances


def versions():
    """Imports the library."""
    import autograd.scipy.integrate  # noqa: F401
    return versions_of("autograd", "scipy")


@functools.cache
def autograd_library():
    """autograd's NumPy."""
    import autograd.numpy as anp

    def stack(components, like):
        return anp.stack([component + 0.0 * like for component in components])
    return array_library(anp, stack=stack, array=np.asarray, rows=lambda ys, at, n: ys[np.array(at)][:, :n])


def answer(problem, mode, method, rtol, atol):
    """The answer of autograd; see `refnode.adapters`."""
    import autograd
    from autograd.builtins import tuple as traced_tuple
    from autograd.scipy.integrate import odeint
    choice, task, calls, states = checked_choice(LIBRARY, MODES, mode, method), Task(problem), [0], []
    f = None if mode == "odeint_twice" else task.rhs(autograd_library())
    loss = task.loss(autograd_library())

    def counted(f):
        def rates(*inputs):
            calls[0] += 1
            y, t, theta = inputs
            return f(t, y, theta)
        return rates

    def solve(f, y0, times, theta):
        return odeint(counted(f), y0, times, traced_tuple((theta,)), rtol=rtol, atol=atol, mxstep=MOST_STEPS)

    def loss_of_inputs(y0, theta, times):
        ys = _solved_in_two(task, solve, y0, times, theta) if mode == "odeint_twice" else solve(f, y0, times, theta)
        states.append(ys)
        calls.append(calls[0])
        return loss(ys, theta)

    started = time.process_time()
    value, bars = autograd.value_and_grad(loss_of_inputs, argnum=(0, 1, 2))(task.y0, task.theta, task.grid)
    stats = {"seconds": time.process_time() - started, "nfev": calls[1], "nfev_backward": calls[0] - calls[1]}
    return answer_form(task, LIBRARY, versions()["autograd"], mode, method, choice.truth, _plain_array(states[0]),
                       float(value), *bars, stats=stats)


def _solved_in_two(task, solve, y0, times, theta):
    """The states at the times, of a solve to the switching time and another from there."""
    import autograd.numpy as anp
    (first, second), kind, surface = switched_rhs(autograd_library(), task.problem["rhs"], task.n)
    if kind == "state":
        raise NotExpressible("SciPy's odeint, which autograd differentiates, finds no events")
    at = anp.reshape(surface(times[0], y0, theta), (1,))
    early, late = around_switch(task, float(_plain_array(at)[0]))
    before = solve(first, y0, anp.concatenate([times[np.array(early)], at]), theta)
    return anp.concatenate([before[:-1], solve(second, before[-1], anp.concatenate([at, times[np.array(late)]]), theta)[1:]])


def _plain_array(boxed):
    while hasattr(boxed, "_value"):                             # traced once for each argument
        boxed = boxed._value
    return np.asarray(boxed)
