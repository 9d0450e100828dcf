"""W2, and what other libraries make of it: many trajectories of Lotka-Volterra, each with its own parameters and steps."""
import functools

import numpy as np

import refnode
from contestants import Workload

SAMPLES = 10_000
SPAN, OBSERVED = (0.0, 10.0), np.linspace(2.0, 10.0, 5)


def w2(samples=SAMPLES):
    """W2: 10,000 initial values and parameters, tolerance 1e-6; the gradient of each in its parameters."""
    rng = np.random.default_rng(0)
    y0, theta = rng.uniform(0.5, 2.0, (samples, 2)), np.array([1.5, 1.0, 3.0, 1.0]) * rng.uniform(0.8, 1.25, (samples, 4))
    batch = refnode.Batch(refnode.fields.lotka_volterra, y0, theta, SPAN, OBSERVED, refnode.losses.sum_of_squares())
    return Workload("W2", f"{samples} Lotka-Volterra trajectories, own parameters and steps, tolerance 1e-6", batch, 1e-6,
                    "ensemble", batch=samples, contestants=contestants, exact=exact)


def exact(work):
    return refnode.gradient_batch(work.problem, "discrete", method="dop853", rtol=1e-12, atol=1e-12, threads=None).theta


def refnode_contestant(work, **options):
    def run():
        found = refnode.gradient_batch(work.problem, "discrete", method="dopri5", rtol=work.tolerance, atol=work.tolerance,
                                       **options)
        return found.total, found.theta
    return run


def right_hand_side(stack):
    """f(t, y, theta) in any array library, for one sample or many."""
    def lotka_volterra(t, y, theta):
        prey, predators = y[..., 0], y[..., 1]
        eaten = prey * predators
        return stack([theta[..., 0] * prey - theta[..., 1] * eaten, theta[..., 3] * eaten - theta[..., 2] * predators], -1)
    return lotka_volterra


def diffrax_contestant(work, adjoint):
    """One solve, vectorised over the samples by vmap: every sample with its own steps, until the last has ended."""
    import jax
    jax.config.update("jax_enable_x64", True)
    import diffrax
    import jax.numpy as jnp
    controller = diffrax.PIDController(rtol=work.tolerance, atol=work.tolerance)
    adjoints = {"backsolve": diffrax.BacksolveAdjoint(solver=diffrax.Dopri5(), stepsize_controller=controller),
                "default": diffrax.RecursiveCheckpointAdjoint()}
    term = diffrax.ODETerm(right_hand_side(jnp.stack))
    ts = jnp.asarray(OBSERVED)

    def loss(y0, theta):
        solution = diffrax.diffeqsolve(
            term, diffrax.Dopri5(), *SPAN, None, y0, args=theta, saveat=diffrax.SaveAt(ts=ts),
            stepsize_controller=controller, adjoint=adjoints[adjoint], max_steps=512)
        return jnp.sum(solution.ys**2)

    each = jax.jit(jax.vmap(jax.value_and_grad(loss, argnums=1)))
    y0, theta = jnp.asarray(work.problem.y0), jnp.asarray(work.problem.theta)

    def run():
        values, grad = jax.block_until_ready(each(y0, theta))
        return float(values.sum()), np.asarray(grad)
    return run


def torchode_contestant(work, adjoint):
    """Its batches have steps of their own for every sample; ``adjoint`` says whether their choice is differentiated, too."""
    import torch
    import torchode
    torch.set_num_threads(1)
    term = torchode.ODETerm(right_hand_side(torch.stack), with_args=True, with_stats=False)
    solver = torchode.AutoDiffAdjoint(
        torchode.Dopri5(term=term), torchode.IntegralController(atol=work.tolerance, rtol=work.tolerance, term=term),
        backprop_through_step_size_control=adjoint == "default")
    y0, theta = torch.tensor(work.problem.y0), torch.tensor(work.problem.theta, requires_grad=True)
    ones = torch.ones(len(y0), dtype=y0.dtype)
    problem = torchode.InitialValueProblem(y0, t_start=SPAN[0] * ones, t_end=SPAN[1] * ones,
                                           t_eval=torch.tensor(OBSERVED).repeat(len(y0), 1))

    def run():
        theta.grad = None
        value = (solver.solve(problem, args=theta).ys**2).sum()
        value.backward()
        return float(value), theta.grad.numpy().copy()
    return run


def contestants(work):
    """Name -> builder. refnode comes first."""
    return {
        "refnode discrete": lambda: refnode_contestant(work),
        "refnode discrete, 2 threads": lambda: refnode_contestant(work, threads=2),
        "refnode discrete, specialised": lambda: refnode_contestant(work, specialize=True),
        "refnode discrete, specialised, 2 threads": lambda: refnode_contestant(work, specialize=True, threads=2),
        "diffrax vmap, backsolve": functools.partial(diffrax_contestant, work, "backsolve"),
        "diffrax vmap, default": functools.partial(diffrax_contestant, work, "default"),
        "torchode, steps held": functools.partial(torchode_contestant, work, "steps held"),
        "torchode, default": functools.partial(torchode_contestant, work, "default"),
    }
