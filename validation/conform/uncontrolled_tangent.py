"""x' = x - y, y' = y - x from (1, 1): a state at rest, whose tangent grows like exp(2t). Right: dx(5)/dx0 = (e^10 + 1)/2."""
import math

import diffrax
import jax
import torch
import torchdiffeq
import torchode

jax.config.update("jax_enable_x64", True)
print(f"right {(math.exp(10) + 1) / 2:.6f}")
for tol in (1e-3, 1e-6, 1e-9, 1e-12):
    y0 = torch.ones(2, dtype=torch.float64, requires_grad=True)
    y = torchdiffeq.odeint(lambda t, y: y - y.flip(0), y0, torch.tensor([0.0, 5.0], dtype=torch.float64), rtol=tol, atol=tol)
    (by_torchdiffeq,) = torch.autograd.grad(y[-1, 0], y0)

    def x_at_5(y0, tol=tol):
        return diffrax.diffeqsolve(diffrax.ODETerm(lambda t, y, args: y - y[::-1]), diffrax.Dopri5(), 0.0, 5.0, None, y0,
                                   stepsize_controller=diffrax.PIDController(rtol=tol, atol=tol)).ys[-1, 0]
    by_diffrax = jax.grad(x_at_5)(jax.numpy.ones(2))

    y0 = torch.ones(1, 2, dtype=torch.float64, requires_grad=True)
    term = torchode.ODETerm(lambda t, y: y - y.flip(1))
    solver = torchode.AutoDiffAdjoint(torchode.Dopri5(term), torchode.IntegralController(atol=tol, rtol=tol, term=term))
    y = solver.solve(torchode.InitialValueProblem(y0, t_eval=torch.tensor([[0.0, 5.0]], dtype=torch.float64)), term=term).ys
    (by_torchode,) = torch.autograd.grad(y[0, -1, 0], y0)
    print(f"tol {tol:g}: torchdiffeq {by_torchdiffeq[0]:.6g}, diffrax {by_diffrax[0]:.6g}, torchode {by_torchode[0, 0]:.6g}")
