"""y' = 2 if t < theta else 1/2, y(1) = 2 theta + (1 - theta)/2: dy(1)/dtheta = 3/2, and the solvers say 0 or nothing."""
import casadi
import diffrax
import jax
import torch
import torchdiffeq

jax.config.update("jax_enable_x64", True)
theta = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
two, half = torch.tensor([2.0], dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64)
y = torchdiffeq.odeint(lambda t, y: torch.where(t < theta, two, half), torch.zeros(1, dtype=torch.float64),
                       torch.tensor([0.0, 1.0], dtype=torch.float64), rtol=1e-9, atol=1e-9)
print("right 1.5")
print(f"torchdiffeq: y(1) {y[-1, 0]:.9f}, depends on theta: {y.requires_grad}")


def y_at_1(theta, controller):
    term = diffrax.ODETerm(lambda t, y, theta: jax.numpy.where(t < theta, 2.0, 0.5))
    return diffrax.diffeqsolve(term, diffrax.Dopri5(), 0.0, 1.0, None, 0.0, args=theta, stepsize_controller=controller).ys[-1]


plain = diffrax.PIDController(rtol=1e-9, atol=1e-9)
print("diffrax: y(1), gradient", *(f"{float(v):.9f}" for v in jax.value_and_grad(lambda theta: y_at_1(theta, plain))(0.5)))

t, y, p = casadi.SX.sym("t"), casadi.SX.sym("y"), casadi.SX.sym("p")
solve = casadi.integrator("solve", "cvodes", {"t": t, "x": y, "p": p, "ode": casadi.if_else(t < p, 2, 0.5)}, 0.0, 1.0,
                          {"reltol": 1e-9, "abstol": 1e-9})
x = casadi.MX.sym("x")
state = solve(x0=0.0, p=x)["xf"]
print("CVODES: y(1), gradient", *(f"{float(v):.9f}" for v in casadi.Function("g", [x], [state, casadi.gradient(state, x)])(0.5)))
