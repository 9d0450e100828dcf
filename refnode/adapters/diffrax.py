"""diffrax: its four ways to differentiate `diffeqsolve`, compiled once for all tolerances."""
import functools
import json
import time

import numpy as np

from refnode.adapters.answer_form import Mode, answer_form, checked_choice, versions_of
from refnode.adapters.translate import Task, all_pieces, array_library
from refnode.adapters.two_pieces import rows_of_pieces

LIBRARY = "diffrax"
METHODS = ("Dopri5", "Kvaerno5")
MAX_STEPS = 2 ** 16
MODES = {
    "RecursiveCheckpoint": Mode(METHODS, "discrete_frozen", "RecursiveCheckpointAdjoint(), the default", default=True),
    "Direct": Mode(METHODS[:1], "discrete_frozen", "DirectAdjoint()"),
    "ForwardMode": Mode(METHODS[:1], "discrete_frozen", "ForwardMode(), with jax.jacfwd"),
    "Backsolve": Mode(METHODS, "exact", "BacksolveAdjoint(solver=..., stepsize_controller=...)"),
    "BacksolveSeminorm": Mode(METHODS[:1], "exact", "BacksolveAdjoint with norm=adjoint_rms_seminorm"),
    "Event": Mode(METHODS[:1], "discrete_frozen", "diffeqsolve to the switch, an Event with root_finder=optimistix.Newton where "
                  "the state decides, and another from there"),
}
STAGES = {"Dopri5": 6}          # evaluations a step; implicit methods iterate besides


def versions():
    """Imports the library, in double precision."""
    import jax
    jax.config.update("jax_enable_x64", True)
    import diffrax  # noqa: F401
    return versions_of("diffrax", "jax", "equinox")


@functools.cache
def jax_library():
    """JAX's NumPy."""
    import jax.numpy as jnp
    return array_library(jnp)


def answer(problem, mode, method, rtol, atol):
    """The answer of diffrax; see `refnode.adapters`."""
    import jax
    version, choice, task = versions()["diffrax"], checked_choice(LIBRARY, MODES, mode, method), Task(problem)
    program, compile_seconds = _compiled(json.dumps(problem, sort_keys=True), mode, method)
    started = time.process_time()
    (value, (ys, steps)), bars = jax.block_until_ready(
        program(task.y0, task.theta, task.grid, np.float64(rtol), np.float64(atol)))
    stats = {"seconds": time.process_time() - started, "compile_seconds": compile_seconds, "steps": int(steps)}
    stats.update({"nfev": STAGES[method] * int(steps)} if method in STAGES else {})
    return answer_form(task, LIBRARY, version, mode, method, choice.truth, np.asarray(ys), float(value),
                       *(np.asarray(bar) for bar in bars), stats=stats)


@functools.lru_cache(maxsize=8)
def _compiled(text, mode, method):
    """The compiled program (y0, theta, times, rtol, atol) -> ((loss, (ys, steps)), gradients), and the seconds it took."""
    import jax
    task = Task(json.loads(text))
    loss = _loss_in_two(task, method) if mode == "Event" else _loss_of(task, mode, method)
    inputs = (0, 1) if mode.startswith("Backsolve") else (0, 1, 2)      # backsolve refuses derivatives in times
    if mode == "ForwardMode":
        program = _by_jacfwd(jax, loss, inputs)
    else:
        program = jax.value_and_grad(loss, argnums=inputs, has_aux=True)
    shapes = [jax.ShapeDtypeStruct(np.shape(a), np.float64) for a in (task.y0, task.theta, task.grid, 0.0, 0.0)]
    started = time.process_time()
    return jax.jit(program).lower(*shapes).compile(), time.process_time() - started


def _by_jacfwd(jax, loss, inputs):
    def program(*arguments):
        value_aux = lambda *a: (loss(*a)[0], loss(*a))
        gradients, (value, aux) = jax.jacfwd(value_aux, argnums=inputs, has_aux=True)(*arguments)
        return (value, aux), gradients
    return program


def _loss_of(task, mode, method):
    import diffrax
    solver, term = getattr(diffrax, method)(), diffrax.ODETerm(task.rhs(jax_library()))
    loss_of_states = task.loss(jax_library())

    def adjoint(controller, rtol, atol):
        if mode == "Backsolve":
            return diffrax.BacksolveAdjoint(solver=solver, stepsize_controller=controller)
        if mode == "BacksolveSeminorm":
            return diffrax.BacksolveAdjoint(solver=solver, stepsize_controller=diffrax.PIDController(
                rtol=rtol, atol=atol, norm=diffrax.adjoint_rms_seminorm))
        return {"RecursiveCheckpoint": diffrax.RecursiveCheckpointAdjoint, "Direct": diffrax.DirectAdjoint,
                "ForwardMode": diffrax.ForwardMode}[mode]()

    def loss(y0, theta, times, rtol, atol):
        controller = diffrax.PIDController(rtol=rtol, atol=atol)
        solution = diffrax.diffeqsolve(
            term, solver, times[0], times[-1], None, y0, args=theta, saveat=diffrax.SaveAt(ts=times),
            stepsize_controller=controller, adjoint=adjoint(controller, rtol, atol), max_steps=MAX_STEPS)
        return loss_of_states(solution.ys, theta), (solution.ys, solution.stats["num_steps"])
    return loss


def _loss_in_two(task, method):
    """The loss of a solve to every switch and another from there; a first solve has told which times are before which."""
    import diffrax
    import jax.numpy as jnp
    import optimistix
    pieces, switches = all_pieces(jax_library(), task.problem["rhs"], task.n)
    *earlier, last = map(diffrax.ODETerm, pieces)
    *early, late = rows_of_pieces(task, task.y0, task.theta)
    loss_of_states = task.loss(jax_library())

    def loss(y0, theta, times, rtol, atol):
        def solve(term, start, end, y, saveat, **more):
            return diffrax.diffeqsolve(
                term, getattr(diffrax, method)(), start, end, None, y, args=theta, saveat=saveat, max_steps=MAX_STEPS,
                stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol), **more)

        start, y, rows, steps = times[0], y0, [y0[None]], 0
        for term, (kind, surface), at_rows, direction in zip(earlier, switches, early, [None] + [True] * len(early)):
            if kind == "time":
                at = surface(start, y, theta)
                to_switch = solve(term, start, at, y, diffrax.SaveAt(t1=True))
            else:
                event = diffrax.Event(lambda t, y, args, surface=surface, **_: surface(t, y, args), optimistix.Newton(rtol, atol),
                                      direction)        # from below: behind a bounce the next switch starts at 0
                to_switch = solve(term, start, times[-1], y, diffrax.SaveAt(t1=True), event=event)
                at = to_switch.ts[-1]
            steps = steps + to_switch.stats["num_steps"]
            if at_rows.size:
                before = solve(term, start, times[at_rows[-1]], y, diffrax.SaveAt(ts=times[at_rows]))
                rows, steps = [*rows, before.ys], steps + before.stats["num_steps"]
            start, y = at, to_switch.ys[-1]
        after = solve(last, start, times[-1], y, diffrax.SaveAt(ts=times[late]))
        ys = jnp.concatenate([*rows, after.ys])
        return loss_of_states(ys, theta), (ys, steps + after.stats["num_steps"])
    return loss
