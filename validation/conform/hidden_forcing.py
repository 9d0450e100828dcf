"""y' = -y + a sin(64 t) at a = 0: the forcing is invisible to step control that watches y only. Loss y(4).

Right: dL/da = (sin 256 - 64 cos 256 + 64 e^-4)/(1 + 64^2).
"""
import math

import diffrax
import jax
import torch
import torchdiffeq

jax.config.update("jax_enable_x64", True)
print(f"right {(math.sin(256) - 64 * math.cos(256) + 64 * math.exp(-4)) / 4097:.9f}")


def y_at_4(a, tol):
    term = diffrax.ODETerm(lambda t, y, a: -y + a * jax.numpy.sin(64 * t))
    return diffrax.diffeqsolve(term, diffrax.Dopri8(), 0.0, 4.0, None, 1.0, args=a, max_steps=100_000,
                               stepsize_controller=diffrax.PIDController(rtol=tol, atol=tol)).ys[-1]


for tol in (1e-3, 1e-6, 1e-9):
    found = []
    for method in ("dopri5", "dopri8"):
        a = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        y = torchdiffeq.odeint(lambda t, y: -y + a * torch.sin(64 * t), torch.ones(1, dtype=torch.float64),
                               torch.tensor([0.0, 4.0], dtype=torch.float64), rtol=tol, atol=tol, method=method)
        (bar,) = torch.autograd.grad(y[-1, 0], a)
        found.append(f"torchdiffeq {method} {bar.item():.6f}")
    print(f"tol {tol:g}: {', '.join(found)}, diffrax Dopri8 {jax.grad(y_at_4)(0.0, tol):.6f}")
