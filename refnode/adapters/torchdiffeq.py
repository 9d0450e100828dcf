"""torchdiffeq: through the solver (`odeint`), and the adjoint of Chen et al. (`odeint_adjoint`)."""
import functools
import time

from refnode.adapters.answer_form import Mode, answer_form, checked_choice, versions_of
from refnode.adapters.translate import Task, array_library

LIBRARY = "torchdiffeq"
METHODS = ("dopri5", "dopri8")
MODES = {
    "odeint": Mode(METHODS, "discrete_frozen", "odeint(f, y0, t), then backward()", default=True),
    "odeint_adjoint": Mode(METHODS[:1], "exact", "odeint_adjoint(f, y0, t), then backward()"),
    "seminorm": Mode(METHODS[:1], "exact", "odeint_adjoint(..., adjoint_options={'norm': 'seminorm'})"),
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
    field, y0 = counted_module(task), torch.tensor(task.y0, requires_grad=True)
    times = torch.tensor(task.grid, requires_grad=True)
    solve = torchdiffeq.odeint if mode == "odeint" else torchdiffeq.odeint_adjoint
    more = {"adjoint_options": {"norm": "seminorm"}} if mode == "seminorm" else {}
    started = time.process_time()
    ys = solve(field, y0, times, rtol=rtol, atol=atol, method=method, **more)
    value = task.loss(torch_library())(ys, field.theta)
    forward_calls = field.calls
    value.backward()
    stats = {"seconds": time.process_time() - started, "nfev": forward_calls, "nfev_backward": field.calls - forward_calls}
    return answer_form(
        task, LIBRARY, versions()["torchdiffeq"], mode, method, choice.truth, ys.detach().numpy(), value.item(),
        gradient_of(y0), gradient_of(field.theta), None if times.grad is None else times.grad.numpy(), stats)
