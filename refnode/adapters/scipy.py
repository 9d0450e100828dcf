"""SciPy: `solve_ivp` with finite differences, as many programs do without an adjoint."""
import time

import numpy as np

from refnode.adapters.answer_form import Mode, answer_form, checked_choice, versions_of
from refnode.adapters.translate import NUMPY, Task
from refnode.adapters.two_pieces import solved_in_pieces

LIBRARY = "scipy"
METHODS = ("RK45", "LSODA")
MODES = {
    "approx_fprime": Mode(METHODS[:1], "unknown", "scipy.optimize.approx_fprime, its own step 1.5e-8", default=True),
    "central": Mode(METHODS, "unknown", "central differences, step eps^(1/3) max(1, |x|)"),
    "central_event": Mode(METHODS[:1], "unknown", "the same, stopped at the switch (by an event, where the state decides) and "
                          "started again; at every switch, where there are several"),
}

STEP = float(np.cbrt(np.finfo(float).eps))


def versions():
    """Imports the library."""
    import scipy.integrate  # noqa: F401
    import scipy.optimize  # noqa: F401
    return versions_of("scipy", "numpy")


class Solves:
    """The loss as a function of (y0, theta): one solve an evaluation, counted."""

    def __init__(self, task, method, rtol, atol, in_pieces=False):
        self.task, self.options, self.in_pieces = task, {"method": method, "rtol": rtol, "atol": atol}, in_pieces
        self.f, self.of_states, self.nfev = None if in_pieces else task.rhs(NUMPY), task.loss(NUMPY), 0
        self.first = None

    def __call__(self, inputs):
        n = self.task.y0.size
        y0, theta = inputs[:n], inputs[n:]
        ys, nfev = solved_in_pieces(self.task, y0, theta, **self.options) if self.in_pieces else self._at_once(y0, theta)
        self.nfev += nfev
        self.first = ys if self.first is None else self.first
        return float(self.of_states(ys, theta))

    def _at_once(self, y0, theta):
        from scipy.integrate import solve_ivp
        times = self.task.grid
        result = solve_ivp(lambda t, y: self.f(t, y, theta), (times[0], times[-1]), y0, t_eval=times, **self.options)
        if not result.success:
            raise RuntimeError(f"solve_ivp: {result.message}")
        return result.y.T, result.nfev


def answer(problem, mode, method, rtol, atol):
    """The answer of SciPy; see `refnode.adapters`."""
    from scipy.optimize import approx_fprime
    choice, task = checked_choice(LIBRARY, MODES, mode, method), Task(problem)
    loss, inputs = Solves(task, method, rtol, atol, mode == "central_event"), np.concatenate([task.y0, task.theta])
    started = time.process_time()
    value = loss(inputs)
    alone = loss.nfev
    bars = approx_fprime(inputs, loss) if mode == "approx_fprime" else _central(loss, inputs)
    stats = {"seconds": time.process_time() - started, "nfev": alone, "nfev_backward": loss.nfev - alone}
    n = task.y0.size
    return answer_form(task, LIBRARY, versions()["scipy"], mode, method, choice.truth, loss.first, value,
                       bars[:n], bars[n:], stats=stats)


def _central(loss, inputs):
    bars = np.empty(inputs.size)
    for i, step in enumerate(STEP * np.maximum(1.0, np.abs(inputs))):
        ahead, behind = inputs.copy(), inputs.copy()
        ahead[i] += step
        behind[i] -= step
        bars[i] = (loss(ahead) - loss(behind)) / (ahead[i] - behind[i])
    return bars
