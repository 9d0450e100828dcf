"""torchdiffeq's dopri8 reads its output through a quartic interpolant. y' = y cos t, y(0) = 1: y(10) = dy/dy0 = exp(sin 10)."""
import math

import torch
import torchdiffeq

right = math.exp(math.sin(10.0))
for tol in (1e-6, 1e-9, 1e-12):
    errors = []
    for method in ("dopri5", "dopri8"):
        y0 = torch.ones(1, dtype=torch.float64, requires_grad=True)
        y = torchdiffeq.odeint(lambda t, y: y * torch.cos(t), y0, torch.tensor([0.0, 10.0], dtype=torch.float64), rtol=tol, atol=tol,
                               method=method)
        (bar,) = torch.autograd.grad(y[-1, 0], y0)
        errors.append(f"{method}: y off by {abs(y[-1, 0].item() / right - 1):.1e}, dy/dy0 by {abs(bar.item() / right - 1):.1e}")
    print(f"tol {tol:g}: " + "; ".join(errors))
