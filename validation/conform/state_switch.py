"""y' = 1 if y < s else 3, y(0) = 0, s = 1/2: y(1) = s + 3 (1 - s). Right: dy(1)/dy0 = 3, dy(1)/ds = -2."""
import diffrax
import jax
import torch
import torchdiffeq

jax.config.update("jax_enable_x64", True)
y0, s = (torch.tensor([v], dtype=torch.float64, requires_grad=True) for v in (0.0, 0.5))
y = torchdiffeq.odeint(lambda t, y: torch.where(y < s, 1.0, 3.0) + 0.0 * y, y0, torch.tensor([0.0, 1.0], dtype=torch.float64),
                       rtol=1e-9, atol=1e-9)
bars = torch.autograd.grad(y[-1, 0], (y0, s), allow_unused=True)
print("right: y(1) 2.0, dy/dy0 3, dy/ds -2")
print(f"torchdiffeq: y(1) {y[-1, 0]:.9f}, dy/dy0 {bars[0].item()}, dy/ds {bars[1]}")


def y_at_1(y0, s):
    term = diffrax.ODETerm(lambda t, y, s: jax.numpy.where(y < s, 1.0, 3.0))
    return diffrax.diffeqsolve(term, diffrax.Dopri5(), 0.0, 1.0, None, y0, args=s, max_steps=100_000,
                               stepsize_controller=diffrax.PIDController(rtol=1e-9, atol=1e-9)).ys[-1]


value, bars = jax.value_and_grad(y_at_1, argnums=(0, 1))(0.0, 0.5)
print(f"diffrax: y(1) {value:.9f}, dy/dy0 {bars[0]}, dy/ds {bars[1]}")
