"""Compile every CUDA kernel for three architectures, without a GPU; record registers, stack and spills.

    python validation/cuda/compile_ptx.py [--write validation/results/cuda_ptx.md]

Needs the extra ``cuda13`` or ``cuda12`` (numba-cuda with NVVM); registers and spills need ``ptxas`` as well. The
public functions are run with a stand-in for the device: arrays of zeros in the place of device arrays, and
`Kernel.launch` compiles what it is given and declares all lanes finished.
"""
import argparse
import fnmatch
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import warnings

import numba
import numpy as np
from numba.core.errors import NumbaExperimentalFeatureWarning

import refnode
from refnode import cuda_device
from refnode.cuda_device import Kernel, is_simulated
from refnode.problems.catalogue import CATALOGUE

ARCHITECTURES = ((7, 5), (8, 0), (9, 0))
FINISHED = 0


def missing():
    """Why kernels cannot be compiled here, or None."""
    import importlib.util
    if importlib.util.find_spec("numba_cuda") is None:
        return "the package numba-cuda is not installed"
    if is_simulated():
        return "the simulator compiles nothing"
    try:
        compile_for(lambda: None, (), ARCHITECTURES[0])
    except Exception as error:                  # a missing library of NVIDIA's is found out in many ways
        return f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}"
    return None


def compile_for(function, types, architecture):
    """The PTX of a kernel; whatever asks for the compute capability of the device is told ``architecture``."""
    from numba import cuda
    dispatcher = sys.modules[cuda.jit(lambda: None).__class__.__module__]
    asked, dispatcher.get_current_device = dispatcher.get_current_device, lambda: _Device(architecture)
    try:
        return cuda.compile_ptx(function, types, cc=architecture)[0]
    finally:
        dispatcher.get_current_device = asked


class _Device:
    def __init__(self, compute_capability):
        self.compute_capability = compute_capability


class Record:
    """Every kernel launched while it is in force: {(kernel, sizes, field): (source, argument types)}."""

    def __enter__(self):
        self.found, self._kept = {}, {}
        self._put(Kernel, "launch", lambda kernel, field, sizes, lanes, arguments: self._note(kernel, field, sizes, arguments))
        for module in list(sys.modules.values()):
            if getattr(module, "__name__", "").startswith("refnode"):
                for name, stand_in in STAND_INS.items():
                    if hasattr(module, name):
                        self._put(module, name, stand_in)
        return self

    def _put(self, owner, name, value):
        self._kept[owner, name] = getattr(owner, name)
        setattr(owner, name, value)

    def _note(self, kernel, field, sizes, arguments):
        types = tuple(numba.typeof(argument) for argument in arguments)
        self.found[kernel.__name__, field.name, sizes] = kernel.source(field, sizes), types
        arguments[-1][:] = FINISHED

    def __exit__(self, *_):
        for (owner, name), value in self._kept.items():
            setattr(owner, name, value)


class _HostArray(np.ndarray):
    def copy_to_host(self):
        return np.array(self)


STAND_INS = {
    "missing": lambda: None,
    "to_device": lambda array, dtype=None: np.array(array, dtype=dtype, order="C").view(_HostArray),
    "device_array": lambda shape, dtype: np.zeros(shape, dtype).view(_HostArray),
    "wave_bytes": lambda: 2**20,
    "array_at": lambda interface, owner: owner.array.reshape(interface["shape"]).view(_HostArray),
    "result_array": lambda shape, dtype: np.zeros(shape, dtype).view(_HostArray),
    "zero_result": lambda shape, dtype: np.zeros(shape, dtype).view(_HostArray),
}


class _Lying:
    """A foreign array on the stand-in for the device."""

    def __init__(self, array):
        self.array = array

    @property
    def __cuda_array_interface__(self):
        return {**self.array.__array_interface__, "version": 3}


def cases(quick=False, only="*"):
    """[(kernel, field, sizes, source, types, architectures)].

    Every kernel for Lorenz, or for perceptrons and a flow, and all architectures, tiles also in single precision; for one of these
    lanes in single precision, by DOP853, for a field with a tape and for one of closures, and every other classical field in the
    kernels that call all of its functions. ``quick`` has every kernel for a scalar field and a step of three stages, tiles also streamed.
    """
    import refnode.sensitivity.batch_gradient_cuda                       # so that their names are replaced too
    import refnode.sensitivity.perceptron_gradient_cuda
    import refnode.sensitivity.resident_gradient_cuda
    found = []

    def add(batch, method, dtype, architectures, kernels=None, run=run_all):
        with Record() as record:
            run(batch, method, dtype)
        found.extend((*key, *value, architectures) for key, value in record.found.items()
                     if (kernels is None or key[0] in kernels) and fnmatch.fnmatchcase(key[0], only))
    if quick:
        add(batch_of(CATALOGUE["logistic"]()), "bosh3", "float64", ARCHITECTURES)
        for widths in ((1, 1), (1, 6200, 1)):                           # resident, streamed
            add(perceptron(widths), "bosh3", "float64", ARCHITECTURES, TILES, run_tiles)
    else:
        one, lorenz = ARCHITECTURES[1:2], batch_of(CATALOGUE["lorenz"]())
        add(lorenz, "dopri5", "float64", ARCHITECTURES)
        add(lorenz, "dopri5", "float32", one)
        for field in (perceptron((2, 64, 64, 2)), perceptron((16, 128, 128, 16)), flow((2, 64, 2))):
            add(field, "dopri5", "float64", ARCHITECTURES, TILES, run_tiles)
            add(field, "dopri5", "float32", ARCHITECTURES, TILES, run_tiles)
        add(perceptron((2, 3200, 3200, 2)), "dopri5", "float64", ARCHITECTURES, TILES, run_tiles)              # streamed
        add(lorenz, "dop853", "float64", one)
        with_tape = perceptron()
        for batch in (with_tape.replace(theta=with_tape.theta[None]), with_cost()):         # with a theta of its own: not in tiles
            add(batch, "dopri5", "float64", one)
        for name in sorted(set(CATALOGUE) - {"lorenz"}):
            add(batch_of(CATALOGUE[name]()), "dopri5", "float64", one, ("integrate_lanes", "push_lanes", "pull_lanes"))
    return found


def batch_of(problem, loss=refnode.losses.terminal(np.sum, np.ones_like)):
    return refnode.Batch(problem.field, problem.y0[None], problem.theta, (problem.t0, problem.t1), problem.ts, loss)


TILES = ("solve_tiles", "pull_tiles", "push_tiles", "slope_tiles", "try_tiles")


def perceptron(widths=(2, 8, 2)):
    """A field with a tape."""
    field = refnode.fields.mlp_field(widths, "tanh")
    return batch_of(refnode.Problem(field, np.zeros(widths[0]), np.zeros(field.p), ts=[0.5]))


def flow(widths):
    """A log-density carried along, with the exact trace."""
    from refnode.fields.flow_density import flow_density_field
    field = flow_density_field(widths, "tanh")
    return batch_of(refnode.Problem(field, np.zeros(field.n), np.zeros(field.p), ts=[0.5]))


def with_cost():
    """A user's functions in the short form, and a running cost: closures around functions."""
    @numba.njit
    def rhs(t, y, theta, dy):
        dy[0] = theta[0] * np.sqrt(y[0])

    @numba.njit
    def rhs_jvp(t, y, theta, t_tan, y_tan, theta_tan, dy_tan):
        dy_tan[0] = theta_tan[0] * np.sqrt(y[0]) + 0.5 * theta[0] * y_tan[0] / np.sqrt(y[0])

    @numba.njit
    def rhs_vjp(t, y, theta, dy_bar, t_bar, y_bar, theta_bar):
        y_bar[0] += 0.5 * theta[0] / np.sqrt(y[0]) * dy_bar[0]
        theta_bar[0] += np.sqrt(y[0]) * dy_bar[0]

    @numba.njit
    def g(t, y, theta):
        return np.exp(-t) * y[0]

    @numba.njit
    def g_jvp(t, y, theta, t_tan, y_tan, theta_tan):
        return np.exp(-t) * (y_tan[0] - t_tan * y[0])

    @numba.njit
    def g_vjp(t, y, theta, g_bar, t_bar, y_bar, theta_bar):
        t_bar[0] -= np.exp(-t) * y[0] * g_bar
        y_bar[0] += np.exp(-t) * g_bar
    field = refnode.VectorField(rhs, jvp=rhs_jvp, vjp=rhs_vjp, name="root")
    return batch_of(refnode.Problem(field, [1.0], [1.0], ts=[0.5]), refnode.losses.running_cost(g, g_jvp, g_vjp))


def run_all(batch, method, dtype):
    """Forward solve, tangents and adjoint of one problem on the stand-in."""
    options = {"method": method, "device": "cuda", "dtype": dtype}
    refnode.solve_batch(batch, **options)
    for sensitivity in ("discrete", "discrete_forward", "checkpointed"):
        refnode.gradient_batch(batch, sensitivity, **options)
    if method != "dop853" and batch.losses[0].running is None:
        arrays = {"y0": _Lying(batch.y0.astype(dtype)), "theta": _Lying(batch.theta.astype(dtype))}
        refnode.gradient_batch(batch.replace(**arrays, loss=refnode.losses.sum_of_squares()), **options)
    if method != "dop853":
        refnode.gradient_batch(batch, "reversible", **{**options, "method": "mccallum_foster(rk4)" if method == "dopri5" else "alf"}, n_steps=4)


def run_tiles(batch, method, dtype):
    """The kernels that take a tile of samples a block; tangents in one direction."""
    from refnode.sensitivity.perceptron_gradient_cuda import TileSweep
    from refnode.solve.options import SolveOptions
    from refnode.solve.perceptron_cuda import TileSamples
    from refnode.solve.perceptron_joint_cuda import solve_jointly
    samples = TileSamples(batch, batch.field, batch.y0, SolveOptions.of(method=method), keep=True, real=dtype)
    sweep = TileSweep(samples)
    for wave in samples.waves():
        sweep.push(wave, batch.y0, batch.theta)
        sweep.pull_wave(wave)
    solve_jointly(batch, SolveOptions.of(method=method), dtype)


# --- what ptxas says ------------------------------------------------------------------------------

FIGURES = {"registers": r"Used (\d+) registers", "stack": r"(\d+) bytes stack frame",
           "spill stores": r"(\d+) bytes spill stores", "spill loads": r"(\d+) bytes spill loads"}


def figures(ptx, architecture):
    """Registers, stack frame and spills of a kernel, or {} without ptxas."""
    ptxas = shutil.which("ptxas")
    if ptxas is None:
        return {}
    supported = re.search(r"release (\d+\.\d+)", subprocess.run([ptxas, "--version"], capture_output=True, text=True).stdout)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "kernel.ptx"
        path.write_text(at_most_version(ptx, supported[1]))
        told = subprocess.run([ptxas, f"-arch=sm_{''.join(map(str, architecture))}", "-v", "-o", str(path) + ".bin", str(path)],
                              capture_output=True, text=True)
    if told.returncode:
        raise RuntimeError(told.stderr)
    return {name: max(int(number) for number in re.findall(pattern, told.stderr)) for name, pattern in FIGURES.items()}


def at_most_version(ptx, release):
    """PTX whose version an older ptxas accepts: the kernels use no instruction newer than PTX 6."""
    major, minor = map(int, release.split("."))
    newest = f"{major - 4}.{minor}"                              # PTX 9.0 came with CUDA 13.0, 8.0 with 12.0
    return re.sub(r"^\.version .*$", f".version {newest}", ptx, count=1, flags=re.MULTILINE)


HEADER = """# Every CUDA kernel, compiled without a GPU

Made by `python validation/cuda/compile_ptx.py` in one run. Nothing here has run: it says that the kernels compile, and what the compiler makes of them.
Samples of 2-3200-3200-2 do not fit into shared memory: their tiles lie in global memory, and weights are streamed. *Stack* is local memory of a thread in bytes (states and slopes lie there), *spills* are
registers that did not fit. {tools}

| kernel | field | method | numbers | architecture | PTX bytes | registers | stack | spill stores | spill loads |
|---|---|---|---|---|---|---|---|---|---|
"""


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", metavar="FILE", type=pathlib.Path)
    parser.add_argument("--quick", action="store_true", help="every kernel once")
    parser.add_argument("--architectures", default="75,80,90", help="default: 75,80,90")
    parser.add_argument("--kernels", default="*", help="those whose names match, with * and ?")
    options = parser.parse_args(arguments)
    why = missing()
    if why:
        sys.exit(f"kernels cannot be compiled here: {why}")
    warnings.simplefilter("ignore", NumbaExperimentalFeatureWarning)
    wanted = [each for each in ARCHITECTURES if f"{each[0]}{each[1]}" in options.architectures.split(",")]
    rows = []
    for kernel, field, sizes, source, types, architectures in cases(options.quick, options.kernels):
        for architecture in [each for each in architectures if each in wanted]:
            started = time.perf_counter()
            ptx = compile_for(source, types, architecture)
            seen = figures(ptx, architecture)
            cells = [kernel, field, sizes.name, sizes.real, f"sm_{architecture[0]}{architecture[1]}", len(ptx),
                     *(seen.get(name, "-") for name in FIGURES)]
            rows.append("| " + " | ".join(map(str, cells)) + " |")
            print(rows[-1], f"{time.perf_counter() - started:.1f} s", flush=True)
    if options.write:
        from importlib.metadata import version
        tools = f"numba {numba.__version__}, numba-cuda {version('numba-cuda')}, " + (
            "ptxas of " + subprocess.run(["ptxas", "--version"], capture_output=True, text=True).stdout.splitlines()[-1]
            if shutil.which("ptxas") else "no ptxas") + "."
        options.write.write_text(HEADER.format(tools=tools) + "\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
