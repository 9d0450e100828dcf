"""W4, and what other libraries make of it: the gradient of the likelihood of points under a continuous normalising flow.

The exact trace of the Jacobian comes in two forms, and the faster one counts: by its definition, one product with a
unit vector for each dimension, as the examples of these libraries have it; and, as the velocity has one hidden
layer, written out by hand: tr df/dz = sum_j (1 - a_j^2) sum_i W1_ji W2_ij with a = tanh(W1 (z, t) + b1).
"""
import functools
import math

import numpy as np

import refnode
from contestants import Workload
from refnode.models.cnf import CNF

WIDTH, DIMENSION = 64, 2
TRACES = ("by products", "by hand")


def w4(samples=512):
    """W4: 512 points in the plane, a velocity 3-64-2 with tanh, exact trace, tolerance 1e-5."""
    x = np.random.default_rng(0).normal(size=(samples, DIMENSION))
    problem = CNF(widths=(DIMENSION, WIDTH, DIMENSION), seed=0).problem(x)
    return Workload("W4", f"CNF in the plane, exact trace, batch {samples}, width {WIDTH}, tolerance 1e-5", problem, 1e-5,
                    "flow", batch=samples, contestants=contestants)


def refnode_contestant(work, **options):
    def run():
        found = refnode.gradient(work.problem, "discrete", method="dopri5", rtol=work.tolerance, atol=work.tolerance, **options)
        return found.loss, found.theta
    return run


def refnode_function_contestant(work):
    evaluate = refnode.GradientFunction(work.problem, "discrete", method="dopri5", rtol=work.tolerance, atol=work.tolerance)

    def run():
        found = evaluate(theta=work.problem.theta)
        return found.loss, found.theta
    return run


def weights(theta):
    """W1 (64, 3), b1, W2 (2, 64), b2 of the flat theta, in any array library."""
    ends = np.cumsum([0, WIDTH * (DIMENSION + 1), WIDTH, DIMENSION * WIDTH, DIMENSION])
    w1, b1, w2, b2 = (theta[begin:end] for begin, end in zip(ends[:-1], ends[1:]))
    return w1.reshape(WIDTH, DIMENSION + 1), b1, w2.reshape(DIMENSION, WIDTH), b2


def points(work):
    return work.problem.y0[:DIMENSION * work.batch].reshape(work.batch, DIMENSION)


def mean_negative_log_likelihood(z, integral):
    """-mean (log N(z) - l): -log N(z) = |z|^2 / 2 + (d / 2) log 2 pi."""
    return (0.5 * (z**2).sum(-1) + integral).mean() + 0.5 * DIMENSION * math.log(2.0 * math.pi)


def velocity_and_trace(t, z, theta, tanh):
    """The trace written out, in any array library."""
    w1, b1, w2, b2 = weights(theta)
    a = tanh(z @ w1[:, :DIMENSION].T + (w1[:, DIMENSION] * t + b1))
    return a @ w2.T + b2, (1.0 - a**2) @ (w1[:, :DIMENSION] * w2.T).sum(-1)


# --- diffrax --------------------------------------------------------------------------------------

def diffrax_contestant(work, adjoint, trace):
    import jax
    jax.config.update("jax_enable_x64", True)
    import diffrax
    import jax.numpy as jnp
    controller = diffrax.PIDController(rtol=work.tolerance, atol=work.tolerance)
    adjoints = {"backsolve": diffrax.BacksolveAdjoint(solver=diffrax.Dopri5(), stepsize_controller=controller),
                "default": diffrax.RecursiveCheckpointAdjoint()}

    def by_products(t, z, theta):
        w1, b1, w2, b2 = weights(theta)

        def velocity(one):
            return w2 @ jnp.tanh(w1[:, :DIMENSION] @ one + (w1[:, DIMENSION] * t + b1)) + b2

        def with_trace(one):
            value, push = jax.linearize(velocity, one)
            return value, jnp.trace(jax.vmap(push)(jnp.eye(DIMENSION)))
        return jax.vmap(with_trace)(z)

    def slope(t, state, theta):
        value, divergence = (by_products(t, state[0], theta) if trace == "by products"
                             else velocity_and_trace(t, state[0], theta, jnp.tanh))
        return value, -divergence

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=1)
    def loss(y0, theta):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(slope), diffrax.Dopri5(), work.problem.t0, work.problem.t1, None, y0, args=theta,
            saveat=diffrax.SaveAt(t1=True), stepsize_controller=controller, adjoint=adjoints[adjoint], max_steps=256)
        return mean_negative_log_likelihood(solution.ys[0][0], solution.ys[1][0])

    y0, theta = (jnp.asarray(points(work)), jnp.zeros(work.batch)), jnp.asarray(work.problem.theta)

    def run():
        value, grad = jax.block_until_ready(loss(y0, theta))
        return float(value), np.asarray(grad)
    return run


# --- torchdiffeq ----------------------------------------------------------------------------------

def torchdiffeq_contestant(work, adjoint, trace):
    import torch
    import torchdiffeq
    torch.set_num_threads(1)

    class Flow(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.theta = torch.nn.Parameter(torch.tensor(work.problem.theta))

        def forward(self, t, state):
            if trace == "by hand":
                value, divergence = velocity_and_trace(t, state[0], self.theta, torch.tanh)
                return value, -divergence
            with torch.enable_grad():
                z = state[0] if state[0].requires_grad else state[0].requires_grad_(True)
                value, _ = velocity_and_trace(t, z, self.theta, torch.tanh)
                rows = (torch.autograd.grad(value[:, i].sum(), z, create_graph=True)[0][:, i] for i in range(DIMENSION))
                return value, -sum(rows)

    flow, solve = Flow(), torchdiffeq.odeint_adjoint if adjoint == "adjoint" else torchdiffeq.odeint
    x, ts = torch.tensor(points(work)), torch.tensor([work.problem.t0, work.problem.t1], dtype=torch.float64)

    def run():
        flow.theta.grad = None
        z, integral = solve(flow, (x.clone(), torch.zeros(len(x), dtype=x.dtype)), ts, method="dopri5",
                            rtol=work.tolerance, atol=work.tolerance)
        value = mean_negative_log_likelihood(z[-1], integral[-1])
        value.backward()
        return float(value), flow.theta.grad.numpy().copy()
    return run


def contestants(work):
    """Name -> builder. refnode comes first."""
    built = {
        "refnode discrete": lambda: refnode_contestant(work),
        "refnode GradientFunction": lambda: refnode_function_contestant(work),
    }
    for trace in TRACES:
        for adjoint in ("backsolve", "default"):
            built[f"diffrax {adjoint}, trace {trace}"] = functools.partial(diffrax_contestant, work, adjoint, trace)
        for adjoint in ("through the solver", "adjoint"):
            built[f"torchdiffeq {adjoint}, trace {trace}"] = functools.partial(torchdiffeq_contestant, work, adjoint, trace)
    return built
