"""Lorenz's equations solved backwards: off the attractor solutions run away like e^(13 t). Loss x(2), the derivative in rho = 28.

Right: -0.76077... for beta = 8/3; here beta is the 24-bit number nearest to it, as in the problem `lorenz/t2`.
"""
import diffrax
import jax
import torch
import torchdiffeq

jax.config.update("jax_enable_x64", True)
BETA = 2.6666667461395264


class Lorenz(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.rho = torch.nn.Parameter(torch.tensor(28.0, dtype=torch.float64))

    def forward(self, t, y):
        return torch.stack([10 * (y[1] - y[0]), y[0] * (self.rho - y[2]) - y[1], y[0] * y[1] - BETA * y[2]])


def x_at_2(rho, tol):
    term = diffrax.ODETerm(lambda t, y, rho: jax.numpy.stack(
        [10 * (y[1] - y[0]), y[0] * (rho - y[2]) - y[1], y[0] * y[1] - BETA * y[2]]))
    controller = diffrax.PIDController(rtol=tol, atol=tol)
    adjoint = diffrax.BacksolveAdjoint(solver=diffrax.Dopri5(), stepsize_controller=controller)
    return diffrax.diffeqsolve(term, diffrax.Dopri5(), 0.0, 2.0, None, jax.numpy.array([1.0, 0.0, 0.0]), args=rho, adjoint=adjoint,
                               stepsize_controller=controller, max_steps=100_000).ys[-1, 0]


gradient = jax.jit(jax.value_and_grad(x_at_2))
for tol in (1e-6, 1e-9):
    field = Lorenz()
    y = torchdiffeq.odeint_adjoint(field, torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64),
                                   torch.tensor([0.0, 2.0], dtype=torch.float64), rtol=tol, atol=tol, method="dopri5")
    y[-1, 0].backward()
    x, bar = gradient(28.0, tol)
    print(f"tol {tol:g}: torchdiffeq x(2) {y[-1, 0]:.7f}, dx/drho {field.rho.grad.item():.6f}; "
          f"diffrax x(2) {x:.7f}, dx/drho {bar:.6f}")
