"""torchdiffeq: through the solver (`odeint`), and the adjoint of Chen et al. (`odeint_adjoint`)."""
import functools
import time

from refnode.adapters.answer_form import Mode, NotExpressible, answer_form, checked_choice, versions_of
from refnode.adapters.translate import Task, array_library, switched_rhs
from refnode.adapters.two_pieces import around_switch
from refnode.problems.reference_problem import switches_of

LIBRARY = "torchdiffeq"
METHODS = ("dopri5", "dopri8")
MODES = {
    "odeint": Mode(METHODS, "discrete_frozen", "odeint(f, y0, t), then backward()", default=True),
    "odeint_adjoint": Mode(METHODS[:1], "exact", "odeint_adjoint(f, y0, t), then backward()"),
    "seminorm": Mode(METHODS[:1], "exact", "odeint_adjoint(..., adjoint_options={'norm': 'seminorm'})"),
    "event": Mode(METHODS[:1], "discrete_frozen", "odeint_event to the switch (odeint to it, where its time is given), then "
                  "odeint from there; parameters where the field has them"),
    "event_of_states": Mode(METHODS[:1], "discrete_frozen", "the same, with the parameters as further states that do not move"),
}


def versions():
    """Imports the library."""
    import torch
    import torchdiffeq  # noqa: F401
    torch.set_num_threads(1)
    return versions_of("torchdiffeq", "torch")


@functools.cache
def torch_library():
    """PyTorch's names, for vectors and batches of vectors."""
    import torch

    def stack(components, like):
        return torch.stack([torch.broadcast_to(torch.as_tensor(c, dtype=like.dtype), like.shape) for c in components], -1)

    return array_library(
        torch, split=lambda y: y.unbind(-1), stack=stack, array=torch.from_numpy, rows=lambda ys, at, n: ys[at, :n],
        where=lambda condition, a, b: torch.where(condition, a, b))


def counted_module(task):
    """The right-hand side as a module with the parameter theta; counts its calls."""
    import torch
    f = task.rhs(torch_library())

    class Field(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.theta, self.calls = torch.nn.Parameter(torch.from_numpy(task.theta.copy())), 0

        def forward(self, t, y):
            self.calls += 1
            return f(t, y, self.theta)
    return Field()


def gradient_of(tensor):
    """Its gradient as an array; zeros where there is none, as a user of an optimiser would have."""
    return (tensor.grad if tensor.grad is not None else 0.0 * tensor.detach()).numpy()


def answer(problem, mode, method, rtol, atol):
    """The answer of torchdiffeq; see `refnode.adapters`."""
    import torch
    import torchdiffeq
    choice, task = checked_choice(LIBRARY, MODES, mode, method), Task(problem)
    if mode.startswith("event"):
        _require_one_switch(task.problem["rhs"])
    field, y0 = counted_module(task), torch.tensor(task.y0, requires_grad=True)
    times = torch.tensor(task.grid, requires_grad=True)
    options = {"rtol": rtol, "atol": atol, "method": method}
    started = time.process_time()
    if mode.startswith("event"):
        ys = _solved_in_two(task, field, y0, times, mode == "event_of_states", options)
    else:
        solve = torchdiffeq.odeint if mode == "odeint" else torchdiffeq.odeint_adjoint
        more = {"adjoint_options": {"norm": "seminorm"}} if mode == "seminorm" else {}
        ys = solve(field, y0, times, **options, **more)
    value = task.loss(torch_library())(ys, field.theta)
    forward_calls = field.calls
    value.backward()
    stats = {"seconds": time.process_time() - started, "nfev": forward_calls, "nfev_backward": field.calls - forward_calls}
    return answer_form(
        task, LIBRARY, versions()["torchdiffeq"], mode, method, choice.truth, ys.detach().numpy(), value.item(),
        gradient_of(y0), gradient_of(field.theta), None if times.grad is None else times.grad.numpy(), stats)


def _require_one_switch(rhs):
    """`odeint_event` finds a change of sign in either direction: behind a located switch the next may be 0, or either sign of its rounding."""
    if len(switches_of(rhs)) > 1:
        raise NotExpressible(f"odeint_event knows no direction, and there are {len(switches_of(rhs))} switches: where the next is 0 at "
                             "its start but for rounding, the search ends at once for one sign of that rounding")


def _solved_in_two(task, field, y0, times, lifted, options):
    """The states at the times, of a solve to the switch and another from there; lifted: theta beside y in the state."""
    import torch
    import torchdiffeq
    library, n = torch_library(), task.n
    pieces, kind, surface = switched_rhs(library, task.problem["rhs"], n)
    halves = (lambda x: (x[:n], x[n:])) if lifted else (lambda x: (x, field.theta))
    still = torch.zeros(task.theta.size * lifted, dtype=y0.dtype)
    state, solve = torch.cat([y0, field.theta]) if lifted else y0, functools.partial(torchdiffeq.odeint, **options)

    def rates(f, t, x):
        field.calls += 1
        return torch.cat([f(t, *halves(x)), still])

    def guard(t, x):
        return surface(t, *(library.split(half) for half in halves(x)))

    first, second = (functools.partial(rates, f) for f in pieces)
    if kind == "time":
        at = guard(times[0], state)
        state_there = solve(first, state, torch.stack([times[0], at]))[-1]
    else:
        at, path = torchdiffeq.odeint_event(first, state, times[0], event_fn=guard, **options)
        state_there = path[-1]
    early, late = around_switch(task, at.item())
    rows = [solve(first, state, times[early])] if len(early) > 1 else [state[None]]
    rows.append(solve(second, state_there, torch.cat([at.reshape(1), times[late]]))[1:])
    return torch.cat(rows)[:, :n]
