"""The contestants of the benchmarks: each builds a function that returns (loss, gradient) for theta.

Every builder takes a `Workload` and returns a callable without arguments, or raises ImportError if its
library is not installed. Foreign libraries are imported only here.
"""
import ctypes
import dataclasses
import pathlib
import shutil
import subprocess
import tempfile

import numpy as np

import refnode
from refnode.fields.neural import mlp_field
from refnode.layers.parameters import initial_parameters


@dataclasses.dataclass(frozen=True)
class Workload:
    """One problem, the tolerance it is solved to, and what differs between libraries: its right-hand side."""

    name: str
    title: str
    problem: object
    tolerance: float
    kind: str                       # "lotka_volterra", "mlp", or what a file of its own is about
    widths: tuple = ()
    batch: int = 0
    mean: bool = False
    dtype: str = "float64"          # of states, parameters and gradients
    contestants: object = None      # work -> contestants, by default those below
    exact: object = None            # work -> gradient, by default that of a `Problem`


def w1():
    """W1: Lotka-Volterra, 21 observations, tolerance 1e-8."""
    problem = refnode.Problem(
        refnode.fields.lotka_volterra, y0=[1.0, 1.0], theta=[1.5, 1.0, 3.0, 1.0], t_span=(0.0, 10.0),
        ts=np.linspace(0, 10, 21), loss=refnode.losses.sum_of_squares())
    return Workload("W1", "Lotka-Volterra, 21 observations, tolerance 1e-8", problem, 1e-8, "lotka_volterra")


def w3():
    """W3: an MLP 2-64-64-2 on a batch of 512 samples, tolerance 1e-5, loss mean y(1)^2."""
    return perceptron("W3", (2, 64, 64, 2))


def w3_wide():
    """W3 with matrices that are large: 64-128-128-64, and the rest as in `w3`."""
    return perceptron("W3 wide", (64, 128, 128, 64))


def w3_wide_single():
    """`w3_wide` in float32."""
    return perceptron("W3 wide f32", (64, 128, 128, 64), dtype="float32")


def w3_batch_single():
    """W3 with many samples, in float32: 16-64-64-16 on 4096 of them."""
    return perceptron("W3 4096 f32", (16, 64, 64, 16), batch=4096, dtype="float32")


def perceptron(name, widths, batch=512, tolerance=1e-5, dtype="float64"):
    y0 = np.random.default_rng(0).normal(size=batch * widths[0])
    problem = refnode.Problem(
        mlp_field(widths, batch=batch), y0=y0, theta=initial_parameters(widths, seed=0), t_span=(0.0, 1.0),
        ts=[1.0], loss=refnode.losses.mean_of_squares())
    title = f"MLP {'-'.join(map(str, widths))}, batch {batch}, {dtype}, tolerance {tolerance:.0e}"
    return Workload(name, title, problem, tolerance, "mlp", widths, batch, mean=True, dtype=dtype)


# --- refnode --------------------------------------------------------------------------------------

def refnode_contestant(work, **options):
    def run():
        result = refnode.gradient(work.problem, "discrete", method="dopri5", rtol=work.tolerance,
                                  atol=work.tolerance, dtype=work.dtype, **options)
        return result.loss, result.theta
    return run


def refnode_function_contestant(work, **options):
    """What a loop calls: prepared once, as the other libraries' compiled functions are."""
    evaluate = refnode.GradientFunction(work.problem, "discrete", method="dopri5", rtol=work.tolerance,
                                        atol=work.tolerance, dtype=work.dtype, **options)
    theta = work.problem.theta

    def run():
        result = evaluate(theta=theta)
        return result.loss, result.theta
    return run


# --- the limit: a program in C for this one problem -----------------------------------------------

C_FLAGS = ("-O3", "-march=native", "-fno-tree-vectorize", "-funroll-loops", "-shared", "-fPIC")   # vectorised it is slower


def c_contestant(work):
    """`lotka_volterra.c`, compiled now: the same steps and transposes with every size known, and no checks."""
    if work.kind != "lotka_volterra" or (compiler := shutil.which("cc")) is None:
        raise ImportError("a C compiler, and a program for Lotka-Volterra alone")
    folder = tempfile.mkdtemp()
    library = pathlib.Path(folder) / "lotka_volterra.so"
    source = pathlib.Path(__file__).parent / "lotka_volterra.c"
    subprocess.run([compiler, *C_FLAGS, "-o", library, source, "-lm"], check=True)
    program = ctypes.CDLL(str(library))
    shutil.rmtree(folder)
    problem, real = work.problem, ctypes.c_double
    first_step = refnode.solve(problem, rtol=work.tolerance, atol=work.tolerance, dense_output=True).t_steps[1] - problem.t0
    ys, ys_step = np.empty((problem.ts.size, 2)), np.empty(problem.ts.size, np.int32)
    y_bar, theta_bar, ys_bar = np.empty(2), np.empty(4), np.empty_like(ys)
    at = lambda array: array.ctypes.data_as(ctypes.c_void_p)
    y0, theta, ts = at(problem.y0), at(problem.theta), at(problem.ts)
    outputs = at(ys), at(ys_step), at(ys_bar), at(y_bar), at(theta_bar)

    def run():
        steps = program.forward(y0, theta, real(problem.t0), real(problem.t1), real(first_step), real(work.tolerance),
                                real(work.tolerance), problem.ts.size, ts, *outputs[:2])
        np.multiply(2.0, ys, out=ys_bar)
        program.reverse(steps, theta, problem.ts.size, ts, *outputs[1:])
        return float(np.vdot(ys, ys)), theta_bar.copy()
    return run


# --- diffrax --------------------------------------------------------------------------------------

def _layers(work, theta):
    """(W, b) of every layer, as slices of theta."""
    at, layers = 0, []
    for d_in, d_out in zip(work.widths[:-1], work.widths[1:]):
        w = theta[at:at + d_in * d_out].reshape(d_out, d_in)
        layers.append((w, theta[at + d_in * d_out:at + d_in * d_out + d_out]))
        at += d_in * d_out + d_out
    return layers


def _rhs(work, stack, tanh):
    """f(t, y, theta) in any array library."""
    def lotka_volterra(t, y, theta):
        return stack([theta[0] * y[0] - theta[1] * y[0] * y[1], theta[3] * y[0] * y[1] - theta[2] * y[1]])

    def mlp(t, y, theta):
        layers = _layers(work, theta)
        for w, b in layers[:-1]:
            y = tanh(y @ w.T + b)
        return y @ layers[-1][0].T + layers[-1][1]
    return lotka_volterra if work.kind == "lotka_volterra" else mlp


def _shaped(work, y0):
    return y0.reshape(work.batch, -1) if work.kind == "mlp" else y0


FEW_PARAMETERS = 16


def diffrax_contestant(work, adjoint):
    import jax
    jax.config.update("jax_enable_x64", True)
    import diffrax
    import jax.numpy as jnp
    controller = diffrax.PIDController(rtol=work.tolerance, atol=work.tolerance)
    adjoints = {
        "backsolve": diffrax.BacksolveAdjoint(solver=diffrax.Dopri5(), stepsize_controller=controller),
        "default": diffrax.RecursiveCheckpointAdjoint()}
    adjoints["forward mode"] = diffrax.ForwardMode()
    term = diffrax.ODETerm(_rhs(work, jnp.stack, jnp.tanh))
    ts = jnp.asarray(work.problem.ts, work.dtype)

    def loss(y0, theta):
        solution = diffrax.diffeqsolve(
            term, diffrax.Dopri5(), work.problem.t0, work.problem.t1, None, y0, args=theta,
            saveat=diffrax.SaveAt(ts=ts), stepsize_controller=controller, adjoint=adjoints[adjoint],
            max_steps=4096)
        return jnp.mean(solution.ys**2) if work.mean else jnp.sum(solution.ys**2)

    def forward_mode(y0, theta):
        value, push = jax.linearize(lambda parameters: loss(y0, parameters), theta)
        return value, jax.vmap(push)(jnp.eye(theta.size))

    if adjoint == "forward mode" and work.problem.theta.size > FEW_PARAMETERS:
        raise ImportError("a tangent for each parameter: for few alone")
    derivative = jax.jit(forward_mode if adjoint == "forward mode" else jax.value_and_grad(loss, argnums=1))
    y0, theta = jnp.asarray(_shaped(work, work.problem.y0), work.dtype), jnp.asarray(work.problem.theta, work.dtype)

    def run():
        value, grad = jax.block_until_ready(derivative(y0, theta))
        return float(value), np.asarray(grad)
    return run


# --- torchdiffeq ----------------------------------------------------------------------------------

def torchdiffeq_contestant(work, adjoint):
    import torch
    import torchdiffeq
    torch.set_num_threads(1)
    right_hand_side, dtype = _rhs(work, torch.stack, torch.tanh), getattr(torch, work.dtype)

    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.theta = torch.nn.Parameter(torch.tensor(work.problem.theta, dtype=dtype))

        def forward(self, t, y):
            return right_hand_side(t, y, self.theta)

    module, y0 = Module(), torch.tensor(_shaped(work, work.problem.y0), dtype=dtype)
    ts = torch.tensor(np.union1d([work.problem.t0], work.problem.ts), dtype=dtype)
    observed = slice(ts.numel() - work.problem.ts.size, None)
    solve = torchdiffeq.odeint_adjoint if adjoint == "adjoint" else torchdiffeq.odeint

    def run():
        module.theta.grad = None
        ys = solve(module, y0, ts, method="dopri5", rtol=work.tolerance, atol=work.tolerance)[observed]
        value = (ys**2).mean() if work.mean else (ys**2).sum()
        value.backward()
        return float(value), module.theta.grad.numpy().copy()
    return run


# --- CasADi / CVODES ------------------------------------------------------------------------------

def casadi_contestant(work):
    import casadi
    if work.kind != "lotka_volterra":
        raise ImportError("only formulas are given to CasADi")
    y, theta = casadi.SX.sym("y", 2), casadi.SX.sym("theta", 4)
    slope = casadi.vertcat(theta[0] * y[0] - theta[1] * y[0] * y[1], theta[3] * y[0] * y[1] - theta[2] * y[1])
    options = {"reltol": work.tolerance, "abstol": work.tolerance}
    grid = [float(t) for t in work.problem.ts]
    solve = casadi.integrator("solve", "cvodes", {"x": y, "p": theta, "ode": slope}, work.problem.t0, grid, options)
    p = casadi.MX.sym("p", 4)
    loss = casadi.sumsqr(solve(x0=work.problem.y0, p=p)["xf"])
    function = casadi.Function("loss", [p], [loss, casadi.gradient(loss, p)])

    def run():
        value, grad = function(work.problem.theta)
        return float(value), np.ravel(grad)
    return run


# --- HIPS autograd, and SciPy ---------------------------------------------------------------------

def autograd_contestant(work):
    """Its adjoint of SciPy's `odeint` (LSODA)."""
    import autograd.numpy
    from autograd import value_and_grad
    from autograd.builtins import tuple as traced
    from autograd.scipy.integrate import odeint
    if work.kind != "lotka_volterra":
        raise ImportError("Lotka-Volterra alone is written for autograd")
    right_hand_side = _rhs(work, autograd.numpy.array, None)
    y0, ts = np.array(work.problem.y0), np.union1d([work.problem.t0], work.problem.ts)

    def loss(theta):
        ys = odeint(lambda y, t, parameters: right_hand_side(t, y, parameters), y0, ts, traced((theta,)),
                    rtol=work.tolerance, atol=work.tolerance)
        return autograd.numpy.sum(ys[len(ts) - work.problem.ts.size:]**2)
    derivative, theta = value_and_grad(loss), work.problem.theta

    def run():
        value, grad = derivative(theta)
        return float(value), grad
    return run


def scipy_contestant(work):
    """`solve_ivp` (RK45) of the state beside its tangents, which somebody wrote by hand: y' = f, S' = f_y S + f_theta."""
    from scipy.integrate import solve_ivp
    if work.kind != "lotka_volterra":
        raise ImportError("tangents by hand for Lotka-Volterra alone")
    problem, (a, b, c, d) = work.problem, work.problem.theta

    def slope(t, state):
        (x, y), s = state[:2], state[2:].reshape(2, 4)
        by_y = np.array([[a - b * y, -b * x], [d * y, d * x - c]])
        by_theta = np.array([[x, -x * y, 0.0, 0.0], [0.0, 0.0, -y, x * y]])
        return np.concatenate([[a * x - b * x * y, d * x * y - c * y], (by_y @ s + by_theta).ravel()])
    start = np.concatenate([problem.y0, np.zeros(8)])

    def run():
        found = solve_ivp(slope, (problem.t0, problem.t1), start, t_eval=problem.ts, rtol=work.tolerance, atol=work.tolerance).y
        ys, tangents = found[:2], found[2:].reshape(2, 4, -1)
        return float(np.sum(ys**2)), np.einsum("ik,ijk->j", 2.0 * ys, tangents)
    return run


def contestants_for(work):
    """Name -> builder. refnode comes first."""
    if work.contestants:
        return work.contestants(work)
    everyone = {
        "refnode discrete": lambda: refnode_contestant(work),
        "refnode discrete, specialised": lambda: refnode_contestant(work, specialize=True),
        "refnode GradientFunction": lambda: refnode_function_contestant(work),
        "refnode GradientFunction, specialised": lambda: refnode_function_contestant(work, specialize=True),
        "C, written for this problem": lambda: c_contestant(work),
        "diffrax backsolve": lambda: diffrax_contestant(work, "backsolve"),
        "diffrax default": lambda: diffrax_contestant(work, "default"),
        "diffrax forward mode": lambda: diffrax_contestant(work, "forward mode"),
        "torchdiffeq": lambda: torchdiffeq_contestant(work, "through the solver"),
        "torchdiffeq adjoint": lambda: torchdiffeq_contestant(work, "adjoint"),
        "CasADi CVODES": lambda: casadi_contestant(work),
        "HIPS autograd": lambda: autograd_contestant(work),
        "SciPy, tangents by hand": lambda: scipy_contestant(work),
    }
    return {name: build for name, build in everyone.items() if work.dtype == "float64" or "specialised" not in name}
