"""Kernels compile for a GPU without one: `validation/cuda/compile_ptx.py`, where numba-cuda and NVVM are installed."""
import functools
import importlib.util
import pathlib
import sys

import pytest

from cuda_battery import every_kernel

SCRIPT = pathlib.Path(__file__).resolve().parents[1] / "validation" / "cuda" / "compile_ptx.py"
FIGURES = {"registers": 255, "spill stores": 512, "spill loads": 512}       # at most; a kernel has 255 registers


def script():
    spec = importlib.util.spec_from_file_location("compile_ptx", SCRIPT)
    module = sys.modules["compile_ptx"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_missing_is_said():
    """The reason for which the test below is skipped, if it is."""
    why = script().missing()
    assert why is None or "numba-cuda" in why or ":" in why


@pytest.fixture(scope="module")
def compiled():
    """(kernel, types of numbers, architecture) -> PTX, for every kernel; nothing is compiled twice."""
    compile_ptx = script()
    why = compile_ptx.missing()
    if why is not None:
        pytest.skip(f"kernels cannot be compiled here: {why}")
    cases = {(kernel, sizes.real): (source, types) for kernel, _, sizes, source, types, _ in compile_ptx.cases(quick=True)}

    @functools.cache
    def ptx(kernel, real, architecture):
        return compile_ptx.compile_for(*cases[kernel, real], architecture)
    return compile_ptx, sorted(cases), ptx


def require_compiled(compile_ptx, kernel, ptx, architecture):
    """Code for that architecture, within the figures above."""
    assert f".target sm_{architecture[0]}{architecture[1]}" in ptx and ".entry" in ptx, (kernel, architecture)
    found = compile_ptx.figures(ptx, architecture)
    assert all(found[name] <= most for name, most in FIGURES.items() if name in found), (kernel, architecture, found)


def test_every_kernel_compiles(compiled):
    """Each for one architecture, in turn. Some 70 s of processor time where numba-cuda is installed, which is not by default."""
    compile_ptx, cases, ptx = compiled
    for number, (kernel, real) in enumerate(cases):
        architecture = compile_ptx.ARCHITECTURES[number % len(compile_ptx.ARCHITECTURES)]
        require_compiled(compile_ptx, kernel, ptx(kernel, real, architecture), architecture)
    assert {kernel for kernel, _ in cases} == set(every_kernel())


@pytest.mark.slow
def test_every_kernel_compiles_for_every_architecture(compiled):
    """For a scalar field and a perceptron, in double precision; the script has more fields, methods and single precision."""
    compile_ptx, cases, ptx = compiled
    for kernel, real in cases:
        for architecture in compile_ptx.ARCHITECTURES:
            require_compiled(compile_ptx, kernel, ptx(kernel, real, architecture), architecture)
