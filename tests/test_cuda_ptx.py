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
    """The script, all (kernel, whether streamed), and a function that compiles such a kernel for an architecture, once."""
    compile_ptx = script()
    why = compile_ptx.missing()
    if why is not None:
        pytest.skip(f"kernels cannot be compiled here: {why}")
    cases = {(kernel, getattr(sizes, "streamed", False)): (source, types)
             for kernel, _, sizes, source, types, _ in compile_ptx.cases(quick=True)}

    @functools.cache
    def ptx(kernel, streamed, architecture):
        return compile_ptx.compile_for(*cases[kernel, streamed], architecture)
    return compile_ptx, sorted(cases), ptx


def require_compiled(compile_ptx, kernel, ptx, architecture):
    """Code for that architecture, within the figures above."""
    assert f".target sm_{architecture[0]}{architecture[1]}" in ptx and ".entry" in ptx, (kernel, architecture)
    found = compile_ptx.figures(ptx, architecture)
    assert all(found[name] <= most for name, most in FIGURES.items() if name in found), (kernel, architecture, found)


def test_every_kernel_compiles(compiled):
    """Each for one architecture, in turn. One to two minutes of processor time where numba-cuda is installed, which it is not by default."""
    compile_ptx, cases, ptx = compiled
    kernels = [kernel for kernel, streamed in cases if not streamed]
    for number, kernel in enumerate(kernels):
        architecture = compile_ptx.ARCHITECTURES[number % len(compile_ptx.ARCHITECTURES)]
        require_compiled(compile_ptx, kernel, ptx(kernel, False, architecture), architecture)
    assert set(kernels) == set(every_kernel())


@pytest.mark.slow
def test_every_kernel_compiles_for_every_architecture(compiled):
    """For a scalar field and perceptrons, resident and streamed, in double precision; the script has more fields, methods and single precision."""
    compile_ptx, cases, ptx = compiled
    assert {kernel for kernel, streamed in cases if streamed} == set(compile_ptx.TILES)
    for kernel, streamed in cases:
        for architecture in compile_ptx.ARCHITECTURES:
            require_compiled(compile_ptx, kernel, ptx(kernel, streamed, architecture), architecture)
