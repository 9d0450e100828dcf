"""torchode differentiates its step control by default. y' = -3y/2 + u(t), u piecewise linear, as read from a table: dy(2)/dy0 = e^-3."""
import math

import torch
import torchode


def rhs(t, y):
    return -1.5 * y + torch.abs(torch.remainder(2.0 * t, 1.0) - 0.5)[:, None]


print(f"right {math.exp(-3):.9f}")
for tol in (1e-3, 1e-6, 1e-9, 1e-12):
    found = []
    for through in (True, False):
        y0 = torch.ones(1, 1, dtype=torch.float64, requires_grad=True)
        term = torchode.ODETerm(rhs)
        solver = torchode.AutoDiffAdjoint(torchode.Dopri5(term), torchode.IntegralController(atol=tol, rtol=tol, term=term),
                                          backprop_through_step_size_control=through)
        y = solver.solve(torchode.InitialValueProblem(y0, t_eval=torch.tensor([[0.0, 2.0]], dtype=torch.float64)), term=term).ys
        (bar,) = torch.autograd.grad(y[0, -1, 0], y0)
        found.append(bar.item())
    print(f"tol {tol:g}: default {found[0]:.6g}, backprop_through_step_size_control=False {found[1]:.9f}")
