"""W7: how long an import takes, and the first gradient in a new process, with empty and with full caches.

Every figure is that of a whole process, from its start to its end: interpreter, imports, tracing or compilation, and one
gradient of a sum of squares at 21 times along Lotka-Volterra at tolerance 1e-8, which is checked. Processes take turns; processor
time is that of the process and its children. *Cold* is an empty cache of compiled code (Numba's, JAX's) and *warm* one
filled by a run before; libraries that compile nothing have one row. Python's own byte code is compiled beforehand. With an
empty cache refnode runs short work un-jitted for the first second; *refnode, compiled* has no patience (REFNODE_PATIENCE=0).

    python validation/performance/start_up.py [--rounds 7] [--cold-rounds 3] [--output validation/results]
"""
import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

Y0, THETA, T1, TOLERANCE = [1.0, 1.0], [1.5, 1.0, 3.0, 1.0], 10.0, 1e-8
TS = [0.5 * j for j in range(21)]
CHECKED = 1e-5                  # relative error of a gradient that is timed


# --- one process: nothing is imported but what it needs -------------------------------------------

def refnode_gradient():
    import refnode
    problem = refnode.Problem(refnode.fields.lotka_volterra, Y0, THETA, (0.0, T1), TS, refnode.losses.sum_of_squares())
    return refnode.gradient(problem, rtol=TOLERANCE, atol=TOLERANCE).theta


def refnode_compiled():
    os.environ["REFNODE_PATIENCE"] = "0"
    return refnode_gradient()


def diffrax_gradient(adjoint="default"):
    import jax
    jax.config.update("jax_enable_x64", True)
    import diffrax
    import jax.numpy as jnp
    controller = diffrax.PIDController(rtol=TOLERANCE, atol=TOLERANCE)
    kinds = {"default": diffrax.RecursiveCheckpointAdjoint,
             "backsolve": lambda: diffrax.BacksolveAdjoint(solver=diffrax.Dopri5(), stepsize_controller=controller)}

    def slope(t, y, theta):
        return jnp.stack([theta[0] * y[0] - theta[1] * y[0] * y[1], theta[3] * y[0] * y[1] - theta[2] * y[1]])

    @jax.jit
    @jax.grad
    def of_loss(theta):
        return jnp.sum(diffrax.diffeqsolve(
            diffrax.ODETerm(slope), diffrax.Dopri5(), 0.0, T1, None, jnp.array(Y0), args=theta, max_steps=4096,
            saveat=diffrax.SaveAt(ts=jnp.array(TS)), stepsize_controller=controller, adjoint=kinds[adjoint]()).ys ** 2)
    return of_loss(jnp.array(THETA))


def diffrax_backsolve():
    return diffrax_gradient("backsolve")


def torchdiffeq_gradient():
    import torch
    import torchdiffeq
    theta = torch.tensor(THETA, dtype=torch.float64, requires_grad=True)

    def slope(t, y):
        return torch.stack([theta[0] * y[0] - theta[1] * y[0] * y[1], theta[3] * y[0] * y[1] - theta[2] * y[1]])
    y0, ts = torch.tensor(Y0, dtype=torch.float64), torch.tensor(TS, dtype=torch.float64)
    (torchdiffeq.odeint(slope, y0, ts, method="dopri5", rtol=TOLERANCE, atol=TOLERANCE) ** 2).sum().backward()
    return theta.grad.numpy()


def casadi_gradient():
    import casadi
    y, theta = casadi.SX.sym("y", 2), casadi.SX.sym("theta", 4)
    slope = casadi.vertcat(theta[0] * y[0] - theta[1] * y[0] * y[1], theta[3] * y[0] * y[1] - theta[2] * y[1])
    solve = casadi.integrator("solve", "cvodes", {"x": y, "p": theta, "ode": slope}, 0.0, TS,
                              {"reltol": TOLERANCE, "abstol": TOLERANCE})
    p = casadi.MX.sym("p", 4)
    loss = casadi.sumsqr(solve(x0=Y0, p=p)["xf"])
    return [float(entry) for entry in casadi.Function("of_loss", [p], [casadi.gradient(loss, p)])(THETA).full().ravel()]


def autograd_gradient():
    import autograd.numpy as np
    from autograd import grad
    from autograd.builtins import tuple as traced
    from autograd.scipy.integrate import odeint

    def slope(y, t, theta):
        return np.array([theta[0] * y[0] - theta[1] * y[0] * y[1], theta[3] * y[0] * y[1] - theta[2] * y[1]])

    def loss(theta):
        return np.sum(odeint(slope, np.array(Y0), np.array(TS), traced((theta,)), rtol=TOLERANCE, atol=TOLERANCE) ** 2)
    return grad(loss)(np.array(THETA))


GRADIENTS = {                   # name -> the function, and whether it has a cache of compiled code
    "refnode": (refnode_gradient, True), "refnode, compiled": (refnode_compiled, True), "diffrax": (diffrax_gradient, True), "diffrax backsolve": (diffrax_backsolve, True),
    "torchdiffeq": (torchdiffeq_gradient, False), "CasADi CVODES": (casadi_gradient, False),
    "HIPS autograd": (autograd_gradient, False)}
IMPORTS = ("numpy", "numba", "refnode", "diffrax", "torchdiffeq", "casadi", "autograd.scipy.integrate")


# --- the processes, taking turns ------------------------------------------------------------------

def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="of everything but cold gradients")
    parser.add_argument("--cold-rounds", type=int, default=3, help="of gradients with an empty cache")
    parser.add_argument("--output", type=pathlib.Path, help="folder for start_up.json and start_up.md")
    parser.add_argument("--cache", type=pathlib.Path, help="folder of warm caches to use and to fill, else one that is removed")
    parser.add_argument("--gradient", choices=GRADIENTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.gradient:
        print(json.dumps([float(entry) for entry in GRADIENTS[options.gradient][0]()]))
        return
    for rows, left_out in measure(options):                 # after every round, as some take minutes
        text = page(rows, left_out)
        if options.output:
            options.output.mkdir(parents=True, exist_ok=True)
            (options.output / "start_up.md").write_text(text)
            (options.output / "start_up.json").write_text(json.dumps({"rows": rows, "left out": left_out}, indent=1))
    print(text)


def measure(options):
    """Yields rows, of wall and processor seconds of every round so far, and what was left out, and why."""
    script, exact, left_out = str(pathlib.Path(__file__).resolve()), None, {}
    with tempfile.TemporaryDirectory() as folder:
        warm = options.cache or pathlib.Path(folder) / "warm"
        works = [("import", name, "", ["-c", f"import {name}"]) for name in IMPORTS]
        for name, (_, caches) in GRADIENTS.items():
            works += [("first gradient", name, cache, [script, "--gradient", name])
                      for cache in (("cold", "warm") if caches else ("",))]
        for work in list(works):                            # which is there, is right, and fills the warm cache
            what, name, cache, command = work
            if cache == "cold":
                continue
            done = run(command, warm)[2]
            if done.returncode:
                left_out[f"{what}, {name}"] = (done.stderr.strip().splitlines() or ["failed"])[-1]
            elif what == "first gradient":
                found = json.loads(done.stdout)
                exact = exact or found
                error = max(abs(a - b) for a, b in zip(found, exact)) / max(map(abs, exact))
                if error > CHECKED:
                    left_out[f"{what}, {name}"] = f"its gradient is off by {error:.1e}"
        works = [work for work in works if f"{work[0]}, {work[1]}" not in left_out]
        seconds = {work[:3]: [] for work in works}
        turns = [False] * options.rounds + [True] * options.cold_rounds        # warm ones first: they take seconds
        for turn, cold in enumerate(turns):
            for what, name, cache, command in works:
                if cold == (cache == "cold"):
                    place = pathlib.Path(folder) / f"{name}-{turn}" if cold else warm
                    seconds[what, name, cache].append(run(command, place)[:2])
            yield [{"what": what, "name": name, "cache": cache, "wall": [pair[0] for pair in found],
                    "processor": [pair[1] for pair in found]} for (what, name, cache), found in seconds.items() if found], left_out


def run(command, cache):
    """Wall and processor seconds of a Python process whose caches of compiled code are in one folder; and what it printed."""
    cache.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache / "numba"), "JAX_COMPILATION_CACHE_DIR": str(cache / "jax"),
                   "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
                   "JAX_PLATFORMS": "cpu"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done


def page(rows, left_out):
    rounds, cold = (max((len(row["wall"]) for row in rows if (row["cache"] == "cold") is kind), default=0)
                    for kind in (False, True))
    lines = ["# Start-up", "", __doc__.strip().split("\n\n")[1], "",
             f"Made by `python validation/performance/start_up.py --rounds {rounds} --cold-rounds {cold}` on "
             f"{os.cpu_count()} cores that other work shared; medians, with the least and the greatest. Python "
             f"{sys.version.split()[0]}.", ""]
    for what, unit in (("import", "numba"), ("first gradient", "refnode")):
        of = [row for row in rows if row["what"] == what]
        beside = next(row for row in of if row["name"] == unit and row["cache"] in ("", "warm"))
        lines += [f"| {what} | cache | processor seconds | wall seconds | processor time / {unit}{', warm' if beside['cache'] else ''} |",
                  "|---|---|---|---|---|"]
        for row in sorted(of, key=lambda row: middle(row["processor"])):
            ratio = middle(row["processor"]) / middle(beside["processor"])
            lines.append(f"| {row['name']} | {row['cache'] or '-'} | {spread(row['processor'])} | {spread(row['wall'])} | {ratio:.2f} |")
        lines.append("")
    lines += [f"Left out: {what}: {why}." for what, why in left_out.items()]
    lines += [verdict(rows, cache) for cache in (("warm", "cold") if cold else ("warm",))]
    return "\n".join(lines) + "\n"


def verdict(rows, cache):
    """Whether no peer's first gradient is faster; a peer without a cache competes with both."""
    found = {row["name"]: middle(row["processor"]) for row in rows
             if row["what"] == "first gradient" and row["cache"] in ("", cache)}
    own, _ = found.pop("refnode"), found.pop("refnode, compiled")
    faster = sorted((seconds, name) for name, seconds in found.items() if seconds < own)
    if not faster:
        return f"With a {cache} cache no peer's first gradient takes less processor time than refnode's {own:.2f} s.\n"
    return (f"With a {cache} cache refnode's first gradient takes {own:.2f} s of processor time; faster: "
            + ", ".join(f"{name} ({seconds:.2f} s)" for seconds, name in faster) + ".\n")


def middle(values):
    return sorted(values)[len(values) // 2]


def spread(values):
    return f"{middle(values):.2f} ({min(values):.2f}-{max(values):.2f})"


if __name__ == "__main__":
    main()
