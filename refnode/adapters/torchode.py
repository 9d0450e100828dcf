"""torchode: through the solver, with and without the derivative of its step control, and its backsolve."""
import time

import numpy as np

from refnode.adapters.answer_form import Mode, answer_form, checked_choice, versions_of
from refnode.adapters.torchdiffeq import counted_module, gradient_of, torch_library
from refnode.adapters.translate import Task

LIBRARY = "torchode"
METHODS = ("Dopri5",)
MODES = {
    "AutoDiff": Mode(METHODS, "discrete_through", "AutoDiffAdjoint(step_method, controller), the default", default=True),
    "AutoDiffFrozen": Mode(METHODS, "discrete_frozen", "AutoDiffAdjoint(..., backprop_through_step_size_control=False)"),
    "Backsolve": Mode(METHODS, "exact", "BacksolveAdjoint, with t_eval the observation times and t_start = t0"),
    "BacksolveFromT0": Mode(METHODS, "exact", "BacksolveAdjoint, with t0 put in front of t_eval"),
}
STATUS = {0: "success", 1: "general error", 2: "dt became too small", 3: "non-finite", 4: "reached max steps"}


def versions():
    """Imports the library."""
    import torch
    import torchode  # noqa: F401
    torch.set_num_threads(1)
    return versions_of("torchode", "torch")


def answer(problem, mode, method, rtol, atol):
    """The answer of torchode, a batch of one; see `refnode.adapters`."""
    import torch
    choice, task = checked_choice(LIBRARY, MODES, mode, method), Task(problem)
    asked = task.grid if mode == "BacksolveFromT0" or task.t0 in task.ts else task.grid[1:]
    field, y0 = counted_module(task), torch.tensor(task.y0[None], requires_grad=True)
    started = time.process_time()
    solution = _solved(task, mode, method, field, y0, asked, rtol, atol)
    value = task.loss(torch_library(), asked)(solution.ys[0], field.theta)
    calls = field.calls
    value.backward()
    stats = {"seconds": time.process_time() - started, "nfev": calls, "nfev_backward": field.calls - calls,
             "status": int(solution.status[0])}
    if stats["status"]:
        stats["said"] = f"status {stats['status']}: {STATUS.get(stats['status'], 'not a success')}"
    return answer_form(
        task, LIBRARY, versions()["torchode"], mode, method, choice.truth, solution.ys[0].detach().numpy(),
        value.item(), gradient_of(y0)[0], gradient_of(field.theta), stats=stats, asked=asked)


def _solved(task, mode, method, field, y0, asked, rtol, atol):
    import torch
    import torchode
    term = torchode.ODETerm(field, with_stats=False)
    step_method = getattr(torchode, method)(term=term)
    controller = torchode.IntegralController(atol=atol, rtol=rtol, term=term)
    if mode.startswith("Backsolve"):
        adjoint = torchode.BacksolveAdjoint(term, step_method, controller)
    else:
        adjoint = torchode.AutoDiffAdjoint(step_method, controller,
                                           backprop_through_step_size_control=mode == "AutoDiff")
    times = torch.from_numpy(np.array(asked)[None])
    start, end = torch.tensor([task.t0], dtype=y0.dtype), torch.tensor([float(asked[-1])], dtype=y0.dtype)
    problem = torchode.InitialValueProblem(y0, t_start=start, t_end=end, t_eval=times)
    return adjoint.solve(problem) if mode.startswith("Backsolve") else adjoint.solve(problem, term=term)
