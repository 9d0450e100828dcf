"""Gradients on a GPU beside jitted diffrax and torchdiffeq on the same GPU: G1 ensembles, G2 perceptrons, G3 small batches.

    python validation/performance/gpu.py [--only G1] [--output validation/results/cuda_performance.md]

G1: 1,000,000 trajectories of Lotka-Volterra and of Lorenz with parameters of their own, adaptive, tolerance 1e-6.
G2: perceptrons, 65,536 samples with theta shared, dopri5 from 0 to 1, adaptive, tolerance 1e-5: refnode and diffrax give every sample
steps of its own, torchdiffeq gives all the same. Beside the time stands the fraction of the device's FMA peak, measured here, that the
products of the samples' steps amount to (one pass forward, three back), on refnode's counts. G3: a batch of 256, where the time to launch counts. Contestants take turns in
one run; every one must first return the gradient that refnode's CPU finds for 64 of the samples. In the simulator
(``--smoke``) sizes are tiny and times mean nothing: it shows that the script runs.
"""
import argparse
import functools
import pathlib
import platform
import sys
import time

import numpy as np

import refnode
from refnode import cuda_device
from refnode.atomic_file import write_atomically

cuda = cuda_device.cuda_module()           # of this name the simulator puts its own in a kernel's place

TOLERANCES, CHECKED = {"G1": 1e-6, "G2": 1e-5, "G3": 1e-6}, 64
AGREE = {"float64": 1e-3, "float32": 3e-2}       # of gradients at this tolerance, beside the CPU at a much smaller one


def lotka_volterra(count):
    rng = np.random.default_rng(0)
    return refnode.Batch(refnode.fields.lotka_volterra, rng.uniform(0.75, 1.5, (count, 2)),
                         rng.uniform(0.9, 1.1, (count, 4)) * [1.5, 1.0, 3.0, 1.0], (0.0, 5.0), loss=refnode.losses.sum_of_squares())


def lorenz(count):
    rng = np.random.default_rng(1)
    return refnode.Batch(refnode.fields.lorenz, rng.uniform(0.9, 1.1, (count, 3)) * [1.0, 1.0, 20.0],
                         rng.uniform(0.95, 1.05, (count, 3)) * [10.0, 28.0, 8.0 / 3.0], (0.0, 1.0),
                         loss=refnode.losses.sum_of_squares())


def network(*widths):
    """A function of the number of samples that gives a batch of them, with theta shared."""
    def batch(count):
        rng, field = np.random.default_rng(2), refnode.fields.mlp_field(widths, "tanh")
        return refnode.Batch(field, rng.standard_normal((count, widths[0])), rng.standard_normal(field.p) / np.sqrt(max(widths)),
                             (0.0, 1.0), loss=refnode.losses.sum_of_squares())
    return batch


CLASSICAL = {"lotka_volterra": lotka_volterra, "lorenz": lorenz}
FIELDS = {"G1": CLASSICAL, "G3": CLASSICAL,
          "G2": {"2-64-64-2": network(2, 64, 64, 2), "16-128-128-16": network(16, 128, 128, 16)}}
SMALL_FIELDS = {**FIELDS, "G2": {"2-3-2": network(2, 3, 2)}}         # for the simulator
EXACT = {"rtol": 1e-10, "atol": 1e-10}


# --- contestants: batch, dtype, tolerance -> function that returns (y0_bar, theta_bar) ----------------

def of_refnode(batch, dtype, tolerance):
    def run():
        found = refnode.gradient_batch(batch, device="cuda", dtype=dtype, rtol=tolerance, atol=tolerance)
        run.stats = found.stats
        return found.y0, found.theta
    return run


def layers_of(batch, theta):
    """(W, b) of each layer, views of theta in whatever library."""
    at, widths = 0, batch.field.perceptron.widths
    for d_in, d_out in zip(widths[:-1], widths[1:]):
        end = at + d_in * d_out
        yield theta[at:end].reshape(d_out, d_in), theta[end:end + d_out]
        at = end + d_out


def perceptron_of(batch, y, theta, tanh):
    """The perceptron of rows y (..., d), in whatever library."""
    *hidden, (w, b) = layers_of(batch, theta)
    for inner, shift in hidden:
        y = tanh(y @ inner.T + shift)
    return y @ w.T + b


def of_diffrax_network(batch, dtype, tolerance):
    """The sum of all losses, differentiated in all initial values and the shared theta."""
    import diffrax
    import jax
    import jax.numpy as jnp
    jax.config.update("jax_enable_x64", True)
    term = diffrax.ODETerm(lambda t, y, theta: perceptron_of(batch, y, theta, jnp.tanh))

    def loss(y0, theta):
        found = diffrax.diffeqsolve(term, diffrax.Dopri5(), 0.0, 1.0, None, y0, theta, max_steps=256,
                                    stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance))
        return jnp.sum(found.ys[-1] ** 2)
    grad = jax.jit(jax.grad(lambda y0s, theta: jnp.sum(jax.vmap(loss, (0, None))(y0s, theta)), (0, 1)))
    arguments = jnp.asarray(batch.y0, dtype), jnp.asarray(batch.theta, dtype)
    return lambda: tuple(map(np.asarray, jax.block_until_ready(grad(*arguments))))


def rhs_of(name, stack):
    """The right-hand side of the last axis, in an array library with that function ``stack``."""
    def lotka_volterra_rhs(y, p):
        return stack([p[..., 0] * y[..., 0] - p[..., 1] * y[..., 0] * y[..., 1],
                      p[..., 3] * y[..., 0] * y[..., 1] - p[..., 2] * y[..., 1]], -1)

    def lorenz_rhs(y, p):
        return stack([p[..., 0] * (y[..., 1] - y[..., 0]), y[..., 0] * (p[..., 1] - y[..., 2]) - y[..., 1],
                      y[..., 0] * y[..., 1] - p[..., 2] * y[..., 2]], -1)
    return {"lotka_volterra": lotka_volterra_rhs, "lorenz": lorenz_rhs}[name]


def of_diffrax(batch, dtype, tolerance):
    import diffrax
    import jax
    import jax.numpy as jnp
    jax.config.update("jax_enable_x64", True)
    rhs = rhs_of(batch.field.name, jnp.stack)
    term, t1 = diffrax.ODETerm(lambda t, y, p: rhs(y, p)), float(batch.spans[0, 1])

    def loss(y0, p):
        found = diffrax.diffeqsolve(term, diffrax.Dopri5(), 0.0, t1, None, y0, p, max_steps=4096,
                                    stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance))
        return jnp.sum(found.ys[-1] ** 2)
    grad = jax.jit(jax.vmap(jax.grad(loss, (0, 1))))
    arguments = jnp.asarray(batch.y0, dtype), jnp.asarray(batch.theta, dtype)
    return lambda: tuple(map(np.asarray, jax.block_until_ready(grad(*arguments))))


def of_torchdiffeq(batch, dtype, tolerance):
    import torch
    import torchdiffeq
    real = getattr(torch, dtype)
    rhs = ((lambda y, p: perceptron_of(batch, y, p, torch.tanh)) if hasattr(batch.field, "perceptron")
           else rhs_of(batch.field.name, torch.stack))
    y0, p = (torch.tensor(array, dtype=real, device="cuda", requires_grad=True) for array in (batch.y0, batch.theta))
    times = torch.tensor(batch.spans[0], dtype=real, device="cuda")

    def run():
        end = torchdiffeq.odeint(lambda t, y: rhs(y, p), y0, times, rtol=tolerance, atol=tolerance, method="dopri5")[-1]
        grads = torch.autograd.grad((end ** 2).sum(), (y0, p))
        return tuple(grad.cpu().numpy() for grad in grads)
    return run


CONTESTANTS = {"G1": {"refnode": of_refnode, "diffrax": of_diffrax},
               "G2": {"refnode": of_refnode, "diffrax": of_diffrax_network, "torchdiffeq": of_torchdiffeq},
               "G3": {"refnode": of_refnode, "diffrax": of_diffrax, "torchdiffeq": of_torchdiffeq}}
TARGETS = {"G1": ({"diffrax"}, 10.0), "G2": ({"diffrax", "torchdiffeq"}, 5.0), "G3": ({"torchdiffeq"}, 20.0)}


# --- the measurement ------------------------------------------------------------------------------

def measure(work, name, build_batch, dtype, count, rounds):
    """One line of the table for every contestant."""
    batch = build_batch(count)
    some = batch.take(range(min(CHECKED, count)))
    few = refnode.gradient_batch(some, **EXACT)
    runs, seconds, errors, notes = {}, {}, {}, {}
    for who, build in CONTESTANTS[work].items():
        try:
            runs[who] = build(batch, dtype, TOLERANCES[work])
            found = runs[who]() if batch.own_theta else build(some, dtype, TOLERANCES[work])()
            runs[who]()
        except Exception as error:              # of whatever kind: a library is missing, or memory is short
            runs.pop(who, None)
            notes[who] = f"did not run: {first_line(error)}"
            continue
        errors[who] = max(np.max(np.abs(part[:len(right)] - right)) / np.max(np.abs(right))
                          for part, right in zip(found, (few.y0, few.theta)))
        seconds[who] = []
    for _ in range(rounds):
        for who, run in list(runs.items()):
            started = time.perf_counter()
            try:
                run()
            except Exception as error:
                notes[who] = f"in a later round {first_line(error)}"
                del runs[who], seconds[who]
                continue
            seconds[who].append(time.perf_counter() - started)
    if work == "G2" and "refnode" in runs:
        notes["peak"] = f"{products(batch, runs['refnode'].stats) / np.median(seconds['refnode']) / fma_peak(dtype):.1%} of the FMA peak"
    return [line(work, name, dtype, count, who, seconds, errors, notes) for who in CONTESTANTS[work]]


def first_line(error):
    """What kind of error, and the first line of what it says."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}".replace("|", "/")


def products(batch, stats):
    """Multiplications that the gradient needs: each evaluation's once, and three times for each stage of a step that is transposed."""
    widths, stages = batch.field.perceptron.widths, 6
    a_slope = sum(d_in * d_out for d_in, d_out in zip(widths[:-1], widths[1:]))
    return a_slope * float(np.sum(stats["nfev"]) + 3 * stages * np.sum(stats["n_steps"]))


@functools.lru_cache(maxsize=None)
def fma_peak(dtype):
    """Fused multiply-adds a second that this device has been seen to do."""
    real, turns, blocks = np.dtype(dtype).type, *((2, 1) if cuda_device.is_simulated() else (20_000, 2048))

    @cuda.jit
    def chains(scale, out):
        a = b = c = d = e = f = g = h = scale
        for _ in range(turns):
            a, b, c, d = a * scale + scale, b * scale + scale, c * scale + scale, d * scale + scale
            e, f, g, h = e * scale + scale, f * scale + scale, g * scale + scale, h * scale + scale
        out[cuda.grid(1)] = a + b + c + d + e + f + g + h
    threads = 2 if cuda_device.is_simulated() else 256
    out, best = cuda.device_array(blocks * threads, dtype), np.inf
    for _ in range(3):
        started = time.perf_counter()
        chains[blocks, threads](real(0.5), out)
        cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 8.0 * turns * blocks * threads / best


def line(work, name, dtype, count, who, seconds, errors, notes):
    start = f"| {work} | {name} | {dtype} | {count} | {who} |"
    if who in notes:
        return f"{start} - | - | - | {notes[who]} |"
    ratio = np.median(seconds[who]) / np.median(seconds["refnode"]) if "refnode" in seconds else np.nan
    peers, target = TARGETS[work]
    note = "" if errors[who] <= AGREE[dtype] else "WRONG GRADIENT"
    if who == "refnode":
        note += f" {notes.get('peak', '')}"
    if who in peers:
        note += f" target {target:g}: {'reached' if ratio >= target else 'not reached'}"
    return f"{start} {np.median(seconds[who]):.4g} | {ratio:.3g} | {errors[who]:.1e} | {note.strip()} |"


HEADING = """# Gradients on a GPU

Made by `python validation/performance/gpu.py --output validation/results/cuda_performance.md`. Seconds of one call that gives the gradient of every
trajectory to the host, medians of {rounds} turns in one run; the ratio is to refnode. The error is of the first {checked} samples, beside the CPU at tolerance 1e-10.
Device: {device}. Host: {host}, {date}.{smoke}

| work | field | numbers | trajectories | who | seconds | ratio | error | note |
|---|---|---|---|---|---|---|---|---|
"""


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=tuple(CONTESTANTS), help="one work instead of all")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, for the simulator")
    parser.add_argument("--output", type=pathlib.Path, metavar="FILE")
    options = parser.parse_args(arguments)
    cuda_device.chosen_device("cuda")
    if cuda_device.is_simulated():
        sys.setswitchinterval(1e-4)         # its threads wait for each other in loops
    counts = {"G1": 8 if options.smoke else 1_000_000, "G2": 3 if options.smoke else 65_536, "G3": 4 if options.smoke else 256}
    smoke = " **In the simulator, with tiny sizes: the times mean nothing.**" if options.smoke else ""
    heading = HEADING.format(rounds=options.rounds, checked=CHECKED, device=cuda_device.facts(), host=platform.platform(),
                             date=time.strftime("%Y-%m-%d"), smoke=smoke)
    lines = []
    for work in CONTESTANTS:
        fields = (SMALL_FIELDS if options.smoke else FIELDS)[work] if options.only in (None, work) else {}
        for name, build_batch in fields.items():
            for dtype in ("float64", "float32"):
                lines += measure(work, name, build_batch, dtype, counts[work], options.rounds)
                print("\n".join(lines[-len(CONTESTANTS[work]):]), flush=True)
                if options.output:              # after each, should a later one be killed
                    write_atomically(options.output, heading + "\n".join(lines) + "\n")
    return report(lines)


def report(lines):
    """The exit status, and a last line: 1 if refnode failed, or if anybody's gradient is wrong."""
    own = [line for line in lines if "| refnode |" in line]
    failed, wrong = sum("| - |" in line for line in own), sum("WRONG GRADIENT" in line for line in lines)
    absent = sorted({line.split("|")[5].strip() for line in lines if "did not run" in line} - {"refnode"})
    print(f"{len(own)} works, refnode failed in {failed}, wrong gradients: {wrong}"
          + (f"; did not run: {', '.join(absent)}" if absent else ""))
    return 1 if failed or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
