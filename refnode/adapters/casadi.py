"""CasADi with SUNDIALS' CVODES: forward sensitivities, and the adjoint with its interpolants."""
import functools
import time

import numpy as np

from refnode.adapters.answer_form import Mode, NotExpressible, answer_form, checked_choice, versions_of
from refnode.adapters.translate import FUNCTIONS, Library, Task

LIBRARY = "casadi"
METHODS = ("bdf", "adams")
MODES = {
    "forward": Mode(METHODS, "exact", "integrator('cvodes'), forward directional derivatives"),
    "adjoint": Mode(METHODS, "exact", "integrator('cvodes'), reverse mode, the default of gradient()", default=True),
    "adjoint_quad_err_con": Mode(METHODS[:1], "exact", "the same with quad_err_con=True"),
    "adjoint_polynomial": Mode(METHODS[:1], "exact", "the same with interpolation_type='polynomial'"),
}
OPTIONS = {"adjoint_quad_err_con": {"quad_err_con": True}, "adjoint_polynomial": {"interpolation_type": "polynomial"}}


def versions():
    """Imports the library."""
    import casadi  # noqa: F401
    return versions_of("casadi")


@functools.cache
def casadi_library():
    """CasADi's expressions; its matrices lie column by column."""
    import casadi
    return Library(
        functions={name: getattr(casadi, name) for name in FUNCTIONS},
        split=lambda y: y, stack=lambda components, like: casadi.vertcat(*components), where=casadi.if_else,
        affine=lambda w, b, x: casadi.mtimes(w, x) + b,
        matrix=lambda theta, start, d_out, d_in: casadi.reshape(theta[start:start + d_out * d_in], d_in, d_out).T,
        array=casadi.DM, rows=lambda ys, at, n: ys[list(at), :n],
        total=lambda x: casadi.sum1(casadi.sum2(x)))


def answer(problem, mode, method, rtol, atol):
    """The answer of CVODES through CasADi; see `refnode.adapters`."""
    choice, task = checked_choice(LIBRARY, MODES, mode, method), Task(problem)
    if task.t1 < task.t0:
        raise NotExpressible("CasADi's integrator does not go backwards in time")
    started = time.process_time()
    program = _program(task, mode, method, rtol, atol)
    compiled = time.process_time()
    ys, value, bars = program(np.concatenate([task.y0, task.theta]))
    stats = {"seconds": time.process_time() - compiled, "compile_seconds": compiled - started}
    bars, n = np.ravel(np.array(bars)), task.y0.size
    return answer_form(task, LIBRARY, versions()["casadi"], mode, method, choice.truth, np.array(ys), float(value),
                       bars[:n], bars[n:], stats=stats)


def _program(task, mode, method, rtol, atol):
    """(y0, theta) -> states, loss, gradient."""
    import casadi
    n, p, library = task.y0.size, task.theta.size, casadi_library()
    t, y, theta = casadi.SX.sym("t"), casadi.SX.sym("y", n), casadi.SX.sym("theta", p)
    options = {"reltol": rtol, "abstol": atol, "linear_multistep_method": method, "max_num_steps": 100_000,
               **OPTIONS.get(mode, {})}
    equations = {"t": t, "x": y, "p": theta, "ode": task.rhs(library)(t, y, theta)}
    solver = casadi.integrator("solver", "cvodes", equations, task.t0, [float(time) for time in task.grid], options)
    inputs = casadi.MX.sym("inputs", n + p)
    ys = solver(x0=inputs[:n], p=inputs[n:])["xf"].T
    value = task.loss(library)(ys, inputs[n:])
    if mode == "forward":
        bars = casadi.jtimes(value, inputs, casadi.MX(casadi.DM.eye(n + p)))
    else:
        bars = casadi.jtimes(value, inputs, casadi.MX(1.0), True)
    return casadi.Function("program", [inputs], [ys, value, bars])
