"""Kernels compile for a GPU without one: `validation/cuda/compile_ptx.py`, where numba-cuda and NVVM are installed."""
import importlib.util
import pathlib
import sys

import pytest

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


@pytest.mark.slow
def test_every_kernel_compiles():
    """For Lorenz and a perceptron, in double precision, for the oldest architecture; the script has all."""
    from cuda_battery import every_kernel
    compile_ptx = script()
    why = compile_ptx.missing()
    if why is not None:
        pytest.skip(f"kernels cannot be compiled here: {why}")
    compiled = set()
    for kernel, _, sizes, source, types, architectures in compile_ptx.cases(quick=True):
        if sizes.real == "float64":
            ptx = compile_ptx.compile_for(source, types, architectures[0])
            assert ".target sm_75" in ptx and ".entry" in ptx
            found = compile_ptx.figures(ptx, architectures[0])
            assert all(found[name] <= most for name, most in FIGURES.items() if name in found), (kernel, found)
            compiled.add(kernel)
    assert compiled == set(every_kernel())
