"""What every CUDA kernel is held to: programs that run on any device and return arrays.

In the simulator this file is a program, since the simulator needs a process of its own, and its threads take turns
(`cuda_turns`); `test_cuda.py` compares what it writes with the compiled CPU. On a GPU the same programs run in the tests'
own process.

    NUMBA_ENABLE_CUDASIM=1 NUMBA_DISABLE_JIT=1 python tests/cuda_battery.py FILE.npz
"""
import contextlib
import inspect
import sys
import warnings

import numpy as np

from batches import BATCHES as ON_CPU
from batches import LV, explosive
from cuda_perceptrons import (
    TILE_MUTANTS, TILE_PROGRAMS, tile_dot_products, tile_single_precision, tile_witness, tiles_do_not_depend)
from cuda_resident import RESIDENT_MUTANTS, RESIDENT_PROGRAMS, resident_witness
from refnode import Batch, gradient_batch, losses, solve_batch
from refnode.cuda_device import Kernel
from refnode.problems.catalogue import CATALOGUE

OPTIONS = {"dopri5": {}, "dop853": {"method": "dop853", "rtol": 1e-4},
           "tsit5": {"method": "tsit5", "tstops": True, "controller": "PID"}, "rk4": {"method": "rk4", "n_steps": 7}}
SHORT = {"n_steps": 4}
PERCEPTRONS = ON_CPU["networks"]          # with parameters of their own: of shared ones a tile is a block's, see `cuda_perceptrons`
BATCHES = {**ON_CPU, "networks": PERCEPTRONS.replace(theta=np.linspace(0.5, 1.0, len(PERCEPTRONS))[:, None] * PERCEPTRONS.theta)}


def flat(values):
    """Arrays of one entry a sample, ragged or not, as one array."""
    return np.concatenate([np.ravel(value) for value in values]) if isinstance(values, list) else np.asarray(values)


def of_solution(solution):
    return {"y": flat(solution.y), "y1": solution.y1, "status": solution.status, "n_steps": solution.n_steps,
            "n_rejected": solution.n_rejected, "nfev": solution.nfev}


def of_gradient(found):
    return {**{name: flat(getattr(found, name)) for name in ("loss", "y0", "theta", "t0", "t1", "ts", "status")},
            "n_steps": found.stats["n_steps"]}


def catalogue_pair(name):
    """A problem of the catalogue on a short interval and a neighbour, with parameters of their own."""
    problem = CATALOGUE[name]()
    span, shrink = problem.t1 - problem.t0, 2.0**-6
    return Batch(problem.field, np.stack([problem.y0, 1.0625 * problem.y0]),
                 np.stack([problem.theta, 0.96875 * problem.theta]), (problem.t0, problem.t0 + shrink * span),
                 problem.t0 + shrink * (problem.ts - problem.t0), losses.sum_of_squares())


def solves(name, options):
    return lambda device: of_solution(solve_batch(BATCHES[name], device=device, **OPTIONS[options]))


def gradients(name, options, sensitivity="discrete"):
    return lambda device: of_gradient(gradient_batch(BATCHES[name], sensitivity, device=device, **OPTIONS[options]))


def from_checkpoints(name, options, sensitivity, checkpoints):
    return lambda device: of_gradient(gradient_batch(BATCHES[name], sensitivity, device=device, checkpoints=checkpoints,
                                                     **OPTIONS[options]))


def undone(name, method):
    batch = catalogue_pair("kepler") if name == "kepler" else BATCHES[name]
    return lambda device: of_gradient(gradient_batch(batch, "reversible", device=device, method=method, n_steps=12))


def catalogue_gradient(name):
    return lambda device: of_gradient(gradient_batch(catalogue_pair(name), device=device, **SHORT))


# name -> (the kernels it is a case of, program)
FORWARD, KEPT = {"integrate_lanes"}, {"integrate_lanes_kept", "time_lanes"}
PROGRAMS = {
    **{f"solve {name} {options}": (FORWARD, solves(name, options)) for name in BATCHES for options in OPTIONS},
    **{f"discrete {name} {options}": (KEPT | {"pull_lanes"}, gradients(name, options)) for name in BATCHES
       for options in OPTIONS},
    **{f"tangents {name} {options}": (KEPT | {"push_lanes"}, gradients(name, options, "discrete_forward"))
       for name, options in (("predators", "dopri5"), ("oscillators", "dop853"), ("with_cost", "tsit5"))},
    **{f"{sensitivity} {name} {options}": ({"integrate_lanes_placed", "pull_lanes_placed", "time_lanes"},
                                           from_checkpoints(name, options, sensitivity, checkpoints))
       for name, options, sensitivity, checkpoints in (
           ("predators", "dopri5", "checkpointed", 3), ("predators", "dop853", "online", 2), ("networks", "rk4", "checkpointed", 2),
           ("with_cost", "tsit5", "checkpointed", 100), ("oscillators", "rk4", "online", 3))},
    **{f"reversible {name} {method}": ({"integrate_lanes_reversibly", "pull_lanes_reversibly", "time_lanes"}, undone(name, method))
       for name, method in (("predators", "mccallum_foster(rk4)"), ("oscillators", "reversible_heun"), ("networks", "alf"),
                            ("with_cost", "mccallum_foster(bosh3)"), ("kepler", "leapfrog"))},
    **{f"catalogue {name}": (KEPT | {"pull_lanes"}, catalogue_gradient(name)) for name in CATALOGUE},
    **RESIDENT_PROGRAMS, **TILE_PROGRAMS,
}


def launched(program):
    """What a program returns on the device, and the names of the kernels it launched."""
    names, launch = set(), Kernel.launch

    def noting(self, *arguments):
        names.add(self.__name__)
        launch(self, *arguments)
    with replaced(Kernel, "launch", noting):
        return program("cuda"), names


@contextlib.contextmanager
def replaced(owner, name, value):
    kept = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, kept)


def differences(found, expected):
    """The largest difference of each array, over its largest finite entry; infinite where NaNs or shapes differ."""
    return {name: difference(np.asarray(found[name]), np.asarray(expected[name])) for name in expected}


def difference(found, expected):
    if found.shape != expected.shape or not np.array_equal(np.isnan(found), np.isnan(expected)):
        return np.inf
    finite = np.isfinite(expected)
    size = np.max(np.abs(expected[finite]), initial=0.0)
    return np.max(np.abs(found[finite] - expected[finite]), initial=0.0) / (size or 1.0)


# --- programs that compare the device with itself -------------------------------------------------

def same(found, expected):
    """Whether all arrays have the same bits."""
    return all(np.array_equal(np.asarray(found[name]), np.asarray(expected[name]), equal_nan=True) for name in expected)


def on_device(batch, **options):
    return of_gradient(gradient_batch(batch, device="cuda", on_failure="skip", **options))


def run_again():
    """Twice the same call."""
    return same(on_device(BATCHES["predators"]), on_device(BATCHES["predators"]))


def small_waves():
    """Lanes in waves of two, whose room for steps must grow."""
    from refnode.solve import batch_cuda
    whole, found = on_device(BATCHES["predators"]), []
    with replaced(batch_cuda, "FIRST_LANES", 2), replaced(batch_cuda, "FIRST_STEPS", 2):
        found.append(on_device(BATCHES["predators"]))
        found.append({**on_device(BATCHES["predators"], sensitivity="checkpointed", checkpoints=2)})
    with replaced(batch_cuda, "WAVE_BYTES", 1):
        found.append(on_device(BATCHES["predators"]))
    return all(same(each, whole) for each in found)


def short_launches():
    """Three steps a launch."""
    from refnode.sensitivity import batch_gradient_cuda
    from refnode.solve import batch_cuda
    programs = (lambda: on_device(BATCHES["predators"]), lambda: on_device(BATCHES["predators"], sensitivity="discrete_forward"),
                lambda: on_device(BATCHES["networks"], sensitivity="checkpointed", checkpoints=2, method="rk4", n_steps=8),
                lambda: on_device(BATCHES["oscillators"], sensitivity="reversible", method="alf", n_steps=8),
                lambda: of_solution(solve_batch(BATCHES["predators"], device="cuda")))
    whole = [program() for program in programs]
    with replaced(batch_cuda, "STEPS_OF_A_LAUNCH", 3), replaced(batch_gradient_cuda, "STEPS_OF_A_LAUNCH", 3):
        return all(same(program(), expected) for program, expected in zip(programs, whole))


def failing_lanes():
    """A lane that blows up, and one whose slope is NaN: the others have the bits they have without them."""
    good, bad = [0.25, 0.5, 0.75], [2.0, np.float64(1e200)]
    without, beside = explosive(good), explosive([bad[0], good[0], bad[1], good[1], good[2]])
    lanes = [1, 3, 4]
    alone, found = on_device(without), on_device(beside)
    whole, mixed = (of_solution(solve_batch(batch, device="cuda")) for batch in (without, beside))
    per_lane = ("loss", "y0", "t0", "t1", "ts", "status", "n_steps")
    return (all(np.array_equal(found[name][lanes], alone[name]) for name in per_lane)
            and np.array_equal(found["theta"], alone["theta"])
            and all(np.array_equal(mixed[name][lanes], whole[name]) for name in whole)
            and all(mixed["status"][[0, 2]] < 0) and np.isnan(found["y0"][[0, 2]]).all())


def a_terminal_loss():
    """The same as on the CPU where the loss looks at the observations and at the end."""
    batch = BATCHES["predators"].replace(loss=at_both())
    expected = of_gradient(gradient_batch(batch))
    return all(max(differences(on_device(batch, sensitivity=name), expected).values()) < 1e-13
               for name in ("discrete", "discrete_forward"))


def late_times():
    """float32 at t = 2^20, where single precision knows eighths alone: the bits of t = 0, since times are double."""
    early = Batch(LV, [[1.0, 0.5], [0.75, 1.25]], [1.5, 1.0, 3.0, 1.0], (0.0, 1.0), [0.40625, 1.0], losses.sum_of_squares())
    late = early.replace(t_span=(2.0**20, 2.0**20 + 1.0), ts=[2.0**20 + 0.40625, 2.0**20 + 1.0])
    return same(*(on_device(batch, dtype="float32", method="dopri5", n_steps=16) for batch in (late, early)))


def other_order():
    """Lanes in another order."""
    order = [4, 2, 0, 5, 1, 3]
    whole, found = on_device(BATCHES["predators"]), on_device(BATCHES["predators"].take(order))
    return all(np.array_equal(found[name], whole[name][order], equal_nan=True)
               for name in ("loss", "y0", "theta", "t0", "t1", "status", "n_steps"))


ITSELF = {program.__name__: program for program in (run_again, small_waves, short_launches, failing_lanes, a_terminal_loss,
                                                late_times, other_order, tiles_do_not_depend)}


def dot_products():
    """|<y_bar, J x_tan> - <J^T y_bar, x_tan>| over the sum of the products' magnitudes, on the device, for each method."""
    from refnode.sensitivity.batch_gradient_cuda import DeviceSweep
    from refnode.solve.batch_cuda import DeviceSamples
    from refnode.solve.options import SolveOptions
    rng, errors = np.random.default_rng(5), []
    for name, options in (("predators", "dopri5"), ("predators", "dop853"), ("predators", "tsit5"), ("oscillators", "rk4")):
        batch = BATCHES[name]
        samples = DeviceSamples(batch, batch.field, batch.y0, SolveOptions.of(**OPTIONS[options]), keep=True)
        sweep = DeviceSweep(samples)
        for wave in samples.waves():
            y0_tans, theta_tan = rng.standard_normal(batch.y0.shape), rng.standard_normal(batch.theta.shape[-1])
            ys_tan, y1_tans = sweep.push(wave, y0_tans, theta_tan)
            sweep.ys_bar[:], sweep.y1_bars[:] = rng.standard_normal(sweep.ys_bar.shape), rng.standard_normal(batch.y0.shape)
            sweep.y_bars[:] = sweep.y1_bars
            sweep.pull_wave(wave)
        theta_bar = sweep.theta_bars.sum(axis=0) if batch.own_theta else sweep.theta_sum
        out = [sweep.ys_bar * ys_tan, sweep.y1_bars * y1_tans]
        back = [sweep.y_bars * y0_tans, theta_bar * theta_tan]
        errors.append(abs(sum(map(np.sum, out)) - sum(map(np.sum, back))) / sum(np.sum(np.abs(part)) for part in out + back))
    return np.concatenate([errors, tile_dot_products()])


def single_precision():
    """Differences of float32 to float64, over the largest entry, with given steps: solve, then gradient by both recipes."""
    batch = BATCHES["oscillators"]
    pairs = []
    for program in (lambda dtype: of_solution(solve_batch(batch, device="cuda", dtype=dtype, n_steps=16)),
                    lambda dtype: on_device(batch, dtype=dtype, n_steps=16),
                    lambda dtype: on_device(batch, dtype=dtype, n_steps=16, sensitivity="discrete_forward")):
        pairs.append(max(differences(program("float32"), program("float64")).values()))
    return np.concatenate([pairs, tile_single_precision()])


# --- kernels that are wrong on purpose ------------------------------------------------------------

MUTANTS = [              # kernel, a piece of its source, what stands there instead
    ("integrate_lanes", "own, step = min(i, thetas.shape[1] - 1)", "own, step = 0"),
    ("integrate_lanes", "copy(clock, clocks[:, i])", "pass"),
    ("integrate_lanes", "copy(k[0], slopes1[:, i])", "pass"),
    ("integrate_lanes", "copy(clocks[:, i], clock)", "copy(clocks[:, 0], clock)"),
    ("integrate_lanes", "ts[:seen[i], i]", "ts[:seen[0], i]"),
    ("integrate_lanes_kept", "own, step = min(i, thetas.shape[1] - 1)", "own, step = 0"),
    ("integrate_lanes_kept", "if count[EVALUATIONS] == 0:", "if True:"),
    ("integrate_lanes_kept", "k_extra[:, :, :, i]", "k_extra[:, :, :, 0]"),
    ("integrate_lanes_kept", "copy(y[count[STEPS], :, i], y1s[:, i])", "pass"),
    ("push_lanes", "copy(y_tan, y_tans[:, i])", "pass"),
    ("push_lanes", "thetas[:, own]", "thetas[:, 0]"),
    ("push_lanes", "counts[STEPS, i] + 1", "counts[STEPS, i]"),
    ("pull_lanes.pull_function", "add(ys_bar[:, :, i], position[OBSERVATION], y_bar)", "pass"),
    ("pull_lanes.pull_function", "thetas[:, own]", "thetas[:, 0]"),
    ("pull_lanes.pull_function", "theta_bars[:, i], *more", "theta_bars[:, 0], *more"),
    ("pull_lanes.pull_function", "copy(y_bars[:, i], y_bar)", "copy(y_bars[:, 0], y_bar)"),
    ("time_lanes", "y0_bars[:, i]", "y0_bars[:, 0]"),
    ("time_lanes", "y1_bars[:, i]", "y1_bars[:, 0]"),
    ("integrate_lanes_placed", "own, step = min(i, thetas.shape[1] - 1)", "own, step = 0"),
    ("integrate_lanes_placed", "copy(y[0], y1s[:, i])", "pass"),
    ("integrate_lanes_placed", "states[:, :, i]", "states[:, :, 0]"),
    ("pull_lanes_placed.pull_function", "thetas[:, own]", "thetas[:, 0]"),
    ("pull_lanes_placed.pull_function", "k[:, :, i]", "k[:, :, 0]"),
    ("pull_lanes_placed.pull_function", "add(ys_bar[:, :, i], position[OBSERVATION], y_bar)", "pass"),
    ("integrate_lanes_reversibly", "thetas[:, own]", "thetas[:, 0]"),
    ("integrate_lanes_reversibly", "grids[:grid_sizes[step], step]", "grids[:grid_sizes[step], 0]"),
    ("integrate_lanes_reversibly", "rows_of(x[0], x1s[:, :, i])", "pass"),
    ("pull_lanes_reversibly", "thetas[:, own]", "thetas[:, 0]"),
    ("pull_lanes_reversibly", "grids[:grid_sizes[step], step]", "grids[:, 0]"),
    ("pull_lanes_reversibly", "ys_bar[:seen[i], :, i]", "ys_bar[:seen[i], :, 0]"),
    ("time_lanes", "thetas[:, own]", "thetas[:, 0]"),
    *RESIDENT_MUTANTS, *TILE_MUTANTS,
]


def every_kernel():
    """{name: Kernel} of the package."""
    import importlib
    import pkgutil
    import refnode
    found = {}
    for module in pkgutil.walk_packages(refnode.__path__, "refnode."):
        if module.name.endswith("_cuda"):
            found.update({name: value for name, value in vars(importlib.import_module(module.name)).items()
                          if isinstance(value, Kernel) and value.__module__ == module.name})
    return found


def mutant(kernels, name, piece, instead):
    """While in force a `Kernel`, or the function ``kernel.function`` beside it, has a piece of its source replaced."""
    kernel, _, part = name.partition(".")
    module = sys.modules[kernels[kernel].__module__]
    if part:
        return replaced(module, part, mutated(getattr(module, part), piece, instead))
    return replaced(kernels[kernel], "make", mutated(kernels[kernel].make, piece, instead))


def mutated(function, piece, instead):
    """A function with a piece of its source replaced."""
    source = inspect.getsource(function).replace("@Kernel\n", "")
    assert piece in source, f"{function.__name__} has no {piece!r}"
    names = function.__globals__                # its own, where the simulator puts its module
    kept = names[function.__name__]
    exec(source.replace(piece, instead), names)
    changed, names[function.__name__] = names[function.__name__], kept
    return changed


def witness(name):
    """What a wrong kernel of that name is to change: three steps a launch, own theta, ragged observations."""
    from refnode.sensitivity import batch_gradient_cuda
    from refnode.solve import batch_cuda
    if name in {kernel for kernel, *_ in RESIDENT_MUTANTS}:
        return resident_witness()
    if name.endswith("_tiles"):
        return tile_witness(name)
    batch, options = BATCHES["predators"].take([2, 1, 5]).replace(loss=at_both()), {"device": "cuda", "rtol": 1e-3}
    with (replaced(batch_cuda, "STEPS_OF_A_LAUNCH", 3), replaced(batch_gradient_cuda, "STEPS_OF_A_LAUNCH", 3),
          replaced(Kernel, "launch", at_most(60, Kernel.launch))):
        if name.endswith("_reversibly"):
            return of_gradient(gradient_batch(batch, "reversible", method="mccallum_foster(rk4)", n_steps=12,
                                              device="cuda"))
        if name.endswith("_placed"):
            return of_gradient(gradient_batch(batch, "checkpointed", checkpoints=3, **options))
        if name == "integrate_lanes":
            return of_solution(solve_batch(batch, **options))
        method = "dop853" if name == "integrate_lanes_kept" else "dopri5"
        sensitivity = "discrete_forward" if name == "push_lanes" else "discrete"
        return of_gradient(gradient_batch(batch, sensitivity, method=method, **options))


def at_both():
    """A loss of the observations and of the end."""
    return losses.sum_of_squares() + losses.terminal(lambda y1: np.sum(y1**3), lambda y1: 3.0 * y1**2)


def at_most(count, launch):
    """A launch that refuses the one after ``count``: with a wrong kernel a solve may never end."""
    left = iter(range(count))

    def counted(*arguments):
        next(left)
        launch(*arguments)
    return counted


def uncaught_mutants():
    """Wrong kernels whose results are within 1e-9 of the right ones; there should be none."""
    kernels, field, uncaught = every_kernel(), BATCHES["predators"].field, []
    expected = {name: witness(name) for name in kernels}
    for name, piece, instead in MUTANTS:
        with mutant(kernels, name, piece, instead):
            field.entries.clear()
            try:
                of_kernel = name.partition(".")[0]
                close = max(differences(witness(of_kernel), expected[of_kernel]).values()) < 1e-9
            except (AttributeError, NameError):             # a mistake of this file
                raise
            except Exception:
                close = False
        if close:
            uncaught.append(f"{name}: {instead} in the place of {piece}")
    field.entries.clear()
    return uncaught


# --- the program ----------------------------------------------------------------------------------

def other_turns(found):
    """Programs that find other bits when the last thread of a block begins: threads that do not wait for each other."""
    from cuda_turns import Turns
    with replaced(Turns, "reverse", True):
        again = {name: program("cuda") for name, (_, program) in PROGRAMS.items()}
    return [name for name, arrays in again.items() if not same(arrays, {key: found[f"{name}/{key}"] for key in arrays})]


def everything():
    """{name/array: values} of all programs in this file."""
    found = {}
    for name, (_, program) in PROGRAMS.items():
        arrays, names = launched(program)
        found.update({f"{name}/{key}": value for key, value in arrays.items()})
        found[f"{name}/launched"] = np.array(sorted(names))
    found.update({f"itself/{name}": np.array(program()) for name, program in ITSELF.items()})
    found["other turns"] = np.array(other_turns(found), dtype=str)
    found["uncaught mutants"] = np.array(uncaught_mutants(), dtype=str)
    found["dot_products"], found["single_precision"] = dot_products(), single_precision()
    return found


if __name__ == "__main__":
    from cuda_turns import take_turns
    take_turns()
    warnings.simplefilter("ignore")             # a lane that fails divides by zero, which Python says aloud
    np.savez(sys.argv[1], **everything())
