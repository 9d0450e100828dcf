"""CUDA kernels: in the simulator here, on a GPU by `make test-gpu`. What they are held to stands in `cuda_battery`.

The simulator runs a kernel's Python. Kernel and compiled CPU do the same sums in the same order; they may differ by
what the compiler's power and the C library's do: 1e-13 of each array's largest entry is promised, a few eps are seen.
On a GPU products are fused into sums, with the same promise.
"""
import functools
import os
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest
from numba import config, float32, njit

import cuda_battery
from batches import BATCHES, LV
from cuda_battery import ITSELF, MUTANTS, PROGRAMS, every_kernel
from refnode import (
    Batch, BackendError, InvalidInputError, Problem, VectorField, cuda_device, gradient, gradient_batch, losses, solve,
    solve_batch)
from refnode.cli import main
from refnode.fields.neural import mlp_field
from refnode.host_device import python_form
from refnode.layers.activations import activation_kernel
from refnode.solve.step_size import error_norm
from refnode.solve import perceptron_tile_cuda
from refnode.solve.perceptron_tile_cuda import TileSizes
from refnode.steppers.explicit_rk import explicit_rk_step, length_cotangent, stage_state_vjp
from refnode.steppers.system import Plain
from refnode.steppers.tableaus import tableau

NEAR = 1e-13
EPS, EPS32 = np.finfo(np.float64).eps, np.finfo(np.float32).eps

gpu = [pytest.mark.gpu, pytest.mark.skipif(cuda_device.missing() is not None, reason=f"no GPU: {cuda_device.missing()}")]
everywhere = pytest.mark.parametrize("where", ["simulator", pytest.param("gpu", marks=gpu)])

pytestmark = [pytest.mark.filterwarnings("ignore::refnode.errors.GradientWarning"),       # of losses that read no observation
              pytest.mark.skipif(bool(config.DISABLE_JIT), reason="the simulator is compared with compiled code")]


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """A function that returns what `cuda_battery` found in the simulator, which needs a process of its own; on a GPU nobody asks."""
    run = functools.cache(lambda: run_simulator(tmp_path_factory.mktemp("cuda") / "battery.npz"))

    def found():
        done, path = run()                      # once, even if it fails
        assert done.returncode == 0, done.stderr
        return arrays(path)
    return found


arrays = functools.cache(np.load)


def run_simulator(path):
    root = pathlib.Path(__file__).resolve().parents[1]
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1", "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": str(root)}
    return subprocess.run([sys.executable, cuda_battery.__file__, str(path)], env=environment, cwd=root,
                          capture_output=True, text=True), path


def found_by(where, simulated, name):
    """Arrays of a program, and the kernels it launched."""
    if where == "gpu":
        return cuda_battery.launched(PROGRAMS[name][1])
    kept = simulated()
    keys = [key for key in kept if key.startswith(f"{name}/") and not key.endswith("/launched")]
    return {key.split("/")[-1]: kept[key] for key in keys}, set(kept[f"{name}/launched"])


# --- kernels against the CPU ----------------------------------------------------------------------

@everywhere
@pytest.mark.parametrize("name", PROGRAMS)
def test_kernels_find_what_the_cpu_finds(name, where, simulated):
    kernels, program = PROGRAMS[name]
    found, launched = found_by(where, simulated, name)
    assert launched == kernels
    errors = cuda_battery.differences(found, program("cpu"))
    assert max(errors.values()) <= NEAR, errors


def test_every_kernel_has_a_program_and_a_mutant():
    assert set(every_kernel()) == set().union(*(kernels for kernels, _ in PROGRAMS.values())) == {
        name.partition(".")[0] for name, *_ in MUTANTS}


@everywhere
@pytest.mark.parametrize("name", ITSELF)
def test_the_device_agrees_with_itself(name, where, simulated):
    """Bits do not depend on waves, on slices, on other lanes; see `cuda_battery`."""
    assert simulated()[f"itself/{name}"] if where == "simulator" else ITSELF[name]()


@everywhere
def test_fault_40_a_lane_that_fails_disturbs_no_other(where, simulated):
    """One blows up, one begins where its slope overflows: a status each, and the others have the same bits."""
    assert simulated()["itself/failing_lanes"] if where == "simulator" else cuda_battery.failing_lanes()


@everywhere
def test_tangent_and_adjoint_are_transposes(where, simulated):
    errors = simulated()["dot_products"] if where == "simulator" else cuda_battery.dot_products()
    assert np.all(errors <= NEAR), errors


@everywhere
def test_single_precision(where, simulated):
    """Sixteen steps round about sixteen times."""
    errors = simulated()["single_precision"] if where == "simulator" else cuda_battery.single_precision()
    assert np.all(errors <= 16 * EPS32) and np.all(errors > EPS), errors


def test_wrong_kernels_are_caught(simulated):
    """Each of them, and always: threads of the simulator take turns (`cuda_turns`)."""
    assert simulated()["uncaught mutants"].tolist() == []


def test_threads_wait_for_each_other(simulated):
    """Bits do not depend on which thread of a block goes first from barrier to barrier."""
    assert simulated()["other turns"].tolist() == []


# --- the device form of a body --------------------------------------------------------------------

@pytest.fixture
def device_form(monkeypatch):
    """`cuda_device.device_form`, compiled for the CPU: the same rebinding of names, constants and arguments."""
    stand_in = types.SimpleNamespace(jit=lambda device: njit(error_model="numpy", _nrt=False))
    monkeypatch.setattr(cuda_device, "cuda_module", lambda: stand_in)
    for cached in (cuda_device.device_form, cuda_device._module):
        cached.cache_clear()
    yield cuda_device.device_form
    for cached in (cuda_device.device_form, cuda_device._module):
        cached.cache_clear()


def a_step(form, real):
    """One step of bosh3 with ``form`` of each body, what a cotangent of its end makes of its slopes, and its error norm."""
    A, b, c, E = (np.asarray(array, real) for array in tableau("bosh3").arrays[:4])
    y, theta = np.array([1.25, 0.5], real), np.array([1.5, 1.0, 3.0, 1.0], real)
    k, tape, z, y1 = np.zeros((4, 2), real), np.zeros((5, 0), real), np.zeros(2, real), np.zeros(2, real)
    f = form(LV.f)
    f(0.0, y, theta, tape[0], k[0])
    form(explicit_rk_step)(Plain(f), A, b, c, 0.0, 0.125, y, theta, tape, k, z, y1)
    k_bar, y_bar, y1_bar = np.zeros((4, 2), real), np.zeros(2, real), np.array([1.0, -0.5], real)
    form(stage_state_vjp)(b, 3, 0.125, y1_bar, k_bar, y_bar)
    tolerance = np.full(2, 1e-3, real)
    norm = form(error_norm)(E, 0.125, k, y, y1, tolerance, tolerance, np.array([0, 2]))
    return [y1, k, k_bar, y_bar, norm]


def test_device_form_is_the_same_program(device_form):
    """Bit for bit the un-jitted twin."""
    expected = a_step(python_form, "float64")
    for mine, right in zip(a_step(device_form, "float64"), expected):
        np.testing.assert_array_equal(mine, right)


def test_device_form_in_single_precision(device_form):
    """A dozen roundings; an error norm, a difference of slopes, loses some digits more."""
    expected = a_step(python_form, "float64")
    found = a_step(lambda body: device_form(body, "float32"), "float32")
    for mine, right in zip(found[:4], expected):
        np.testing.assert_allclose(mine, right, rtol=0, atol=16 * EPS32 * np.max(np.abs(right)))
    np.testing.assert_allclose(found[4], expected[4], rtol=1e4 * EPS32)
    sums = device_form(length_cotangent, "float32")
    sums(*(np.zeros(shape, np.float32) if shape else 1 for shape in (3, None, (4, 2), 2)))
    assert sums.nopython_signatures[0].return_type == float32          # no constant made it double


@pytest.mark.parametrize("code", range(3))
def test_activations_in_single_precision(device_form, code):
    """The bodies for doubles count bits; a device has others. A few roundings."""
    z = np.linspace(-12.0, 12.0, 97, dtype=np.float32)
    found, expected = (z.copy(), np.zeros(97, np.float32)), (z.astype(np.float64), np.zeros(97))
    device_form(activation_kernel, "float32")(code, *found)
    activation_kernel(code, *expected)
    for mine, right in zip(found, expected):
        np.testing.assert_allclose(mine, right, rtol=4 * EPS32, atol=EPS32)


@njit
def shifted(t, y, theta, dy):
    dy[0] = np.sqrt(theta[0] + 1.5) * np.sign(y[0]) + np.abs(np.pi * y[0])


def test_users_functions_keep_their_constants_and_closures(device_form):
    """NumPy's functions, its constants, and the function inside the wrapper of a short form."""
    field, y, theta = VectorField(shifted), np.array([-1.25]), np.array([0.75])
    for real, near in (("float64", 2 * EPS), ("float32", 2 * EPS32)):
        dy = np.zeros(1, real)
        device_form(field.f, real)(0.0, y.astype(real), theta.astype(real), np.zeros(0, real), dy)
        expected = -np.sqrt(2.25) + 1.25 * np.pi
        assert abs(dy[0] - expected) <= near * abs(expected)


# --- doors ----------------------------------------------------------------------------------------

def problem():
    return Problem(LV, [1.0, 0.5], [1.5, 1.0, 3.0, 1.0], (0.0, 1.0), ts=[0.5, 1.0], loss=losses.sum_of_squares())


def doors():
    return [lambda **how: solve(problem(), **how), lambda **how: gradient(problem(), **how),
            lambda **how: solve_batch(BATCHES["predators"], **how), lambda **how: gradient_batch(BATCHES["predators"], **how)]


@pytest.mark.parametrize("door", range(4))
def test_fault_39_no_usable_gpu_is_said_and_auto_takes_the_cpu(door, monkeypatch, recwarn):
    call = doors()[door]
    for why in ("the package numba-cuda is not installed: pip install \"refnode[cuda13]\"", "no CUDA device can be reached"):
        monkeypatch.setattr(cuda_device, "missing", lambda: why)
        with pytest.raises(BackendError, match=why.split(":")[0]) as caught:
            call(device="cuda")
        assert 'device="auto"' in str(caught.value) and isinstance(caught.value, InvalidInputError)
        found, expected = call(device="auto"), call()
        for name in ("y1",) if door % 2 == 0 else ("y0", "theta"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert not [each for each in recwarn if "cuda" in str(each.message).lower()]


def test_what_is_missing_has_a_reason():
    why = cuda_device.missing()
    assert why is None or "numba-cuda" in why or "device" in why


def test_doctor_says_what_is_usable(monkeypatch, capsys):
    monkeypatch.setattr(cuda_device, "missing", lambda: "because of the weather")
    assert main(["doctor"]) == 0
    assert "not usable: because of the weather" in capsys.readouterr().out


def wide_batch(width):
    field = mlp_field((1, width, 1), "tanh")
    return Batch(field, [[1.0]], np.zeros(field.p), (0.0, 1.0), [0.5])


@pytest.mark.parametrize("width, tile, resident, streamed, blocks", [
    (64, 4, True, False, 512), (128, 8, False, False, 512), (1400, 1, False, False, 136), (1600, 16, False, True, 100)])
def test_where_tiles_lie(width, tile, resident, streamed, blocks):
    """Weights in shared memory; in the caches; a tile in shared memory or beyond; blocks whose sums fit into 2 GiB."""
    sizes = TileSizes(tableau("dopri5"), mlp_field((2, width, width, 2), "tanh").perceptron, 2, "float64", sweep=True)
    assert (sizes.tile, sizes.resident, sizes.streamed, sizes.configuration(10**6)[0]) == (tile, resident, streamed, blocks)


def test_room_beyond_shared_memory(monkeypatch):
    """A part for each block of each array, for no more blocks than there are tiles."""
    monkeypatch.setattr(perceptron_tile_cuda, "device_array", np.zeros)
    small, large = (TileSizes(tableau("dopri5"), mlp_field((2, width, 2), "tanh").perceptron, 2, "float64", sweep=True)
                    for width in (64, 3000))
    assert [array.size for array in small.rooms(10**6)] == [1, 1, 1]
    assert [array.shape for array in large.rooms(33)] == [(3, large.entries), (3, 4, 32), (3, 2, 7, 32)]


def test_what_a_gpu_cannot_do_is_refused(monkeypatch):
    monkeypatch.setattr(cuda_device, "missing", lambda: None)
    batch = BATCHES["predators"]
    plain = Batch(lambda t, y, theta, dy: None, [[1.0]])
    returning = Batch(njit(lambda t, y, theta: -y), [[1.0]])
    for call, message in (
            (lambda: solve_batch(batch, "joint", device="cuda"), '"joint" on device="cuda" needs a field of mlp_field'),
            (lambda: gradient_batch(BATCHES["networks"].replace(theta=np.ones((len(BATCHES["networks"]), 1)) * BATCHES["networks"].theta),
                                    step_control="joint", device="cuda"), "a theta that all samples share"),
            (lambda: solve_batch(wide_batch(8), "joint", method="dop853", device="cuda"), "tstops=True"),
            (lambda: solve_batch(batch, dtype="float32"), "computes in float64"),
            (lambda: solve_batch(batch, device="cuda", dtype="float16"), "float16"),
            (lambda: solve_batch(batch, device="tpu"), "'tpu'"),
            (lambda: solve(problem(), device="cuda", dense_output=True), "dense output"),
            (lambda: gradient_batch(batch, "forward", device="cuda"), "'discrete_forward'"),
            (lambda: gradient_batch(batch, device="cuda", check_tangent=True), "check_tangent"),
            (lambda: solve_batch(plain, device="cuda"), "plain Python"),
            (lambda: solve_batch(returning, device="cuda", n_steps=3, method="rk4"), "returns a new array")):
        with pytest.raises(InvalidInputError, match=message):
            call()
