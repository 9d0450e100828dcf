"""Who may import whom: one dictionary, and a walk over the imports."""
import ast
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "refnode"

ANYTHING = "anything"
FOUNDATIONS = {"errors", "host_device", "precision", "linalg"}

# A room is a module or a folder directly under refnode. It may import the rooms, or single modules, on the right.
ALLOWED = {
    "_version": set(),
    "errors": set(),
    "checks": {"errors"},
    "disk_cache": {"errors"},
    "host_device": {"disk_cache", "linked_bodies"},
    "linked_bodies": set(),
    "beforehand": {"disk_cache", "linked_bodies"},
    "drivers": {"beforehand"},
    "shared_work": {"beforehand", "atomic_file"},
    "precision": {"host_device"},
    "cuda_device": {"errors", "precision"},
    "cuda_arrays": {"errors", "cuda_device"},
    "blas_threads": set(),
    "linalg": {"host_device"},
    "atomic_file": set(),
    "gradcheck": {"errors", "atomic_file"},             # knows only callables and arrays
    "losses": {"errors", "host_device"},
    "interchange": {"errors", "checks", "atomic_file", "fields.expressions"},        # formats; knows no problems
    "optimisers": {"errors"},
    "schedules": {"errors"},
    "line_search": set(),
    "quasi_newton": {"errors", "line_search"},
    "layers": FOUNDATIONS,
    "likelihoods": {"errors", "layers", "losses"},
    "when_asked_for": set(),
    "fields": FOUNDATIONS | {"checks", "layers", "when_asked_for"},
    "steppers": FOUNDATIONS,                            # never fields: a stepper is handed f, f_jvp, f_vjp
    "solve": FOUNDATIONS | {"checks", "steppers", "fields.field", "layers.activations", "cuda_device", "cuda_arrays"},
    "field_check": {"errors", "checks", "gradcheck"},
    "sensitivity": FOUNDATIONS | {"checks", "steppers", "solve", "fields.field", "field_check", "cuda_device", "cuda_arrays"},
    "problems": {"errors", "checks", "cuda_arrays", "host_device", "fields", "losses", "interchange"},
    "models": FOUNDATIONS | {"checks", "layers", "fields", "solve", "sensitivity", "problems", "losses",
                             "optimisers", "schedules", "quasi_newton", "beforehand", "atomic_file", "gradcheck",
                             "interchange.npz_members", "likelihoods"},
    "demos": FOUNDATIONS | {"checks", "layers", "fields", "solve", "sensitivity", "problems", "losses", "optimisers",
                            "schedules", "quasi_newton", "beforehand", "atomic_file", "gradcheck", "models", "evidence",
                            "likelihoods", "blas_threads"},
    "adapters": {"errors", "fields", "problems", "sensitivity", "__init__", "_version"},    # refnode is a library among others
    # what stands on top of everything, and is imported by nothing below
    "evidence": ANYTHING,
    "foreign_derivatives": {"errors", "gradcheck"},
    "conformance": ANYTHING,
    "methods_table": ANYTHING,
    "own_answer": ANYTHING,
    "given_steps": ANYTHING,
    "cli_problems": ANYTHING,
    "cli_check": ANYTHING,
    "pytest_plugin": ANYTHING,
    "plot": ANYTHING,
    "report": ANYTHING,
    "testing": {"errors", "gradcheck", "foreign_derivatives"},
    "validate": ANYTHING,
    "cli": ANYTHING,
    "cli_conform": ANYTHING,
    "__main__": ANYTHING,
    "__init__": ANYTHING,
}

# Foreign packages: these everywhere, the others in one file each, and inside functions only where they are slow.
FOREIGN = {"numpy", "numba", "scipy"}
FOREIGN_IN = {
    "llvmlite": {"layers/dense.py", "layers/tiles.py", "linked_bodies.py"},    # the call of BLAS; products; what LLVM is to do. Numba brings it
    "sympy": {"fields/symbolic.py"},                    # an optional extra
    "matplotlib": {"plot.py", "demos/pictures.py"},
    "torch": {"adapters/torchdiffeq.py", "adapters/torchode.py"},
    "torchdiffeq": {"adapters/torchdiffeq.py"},
    "torchode": {"adapters/torchode.py"},
    "jax": {"adapters/diffrax.py"},
    "diffrax": {"adapters/diffrax.py"},
    "optimistix": {"adapters/diffrax.py"},              # the root finder of an event
    "casadi": {"adapters/casadi.py"},
    "autograd": {"adapters/autograd.py"},
    "pytest": {"pytest_plugin.py"},
}
LATE = {"sympy", "matplotlib", "scipy.optimize", "torch", "jax", "casadi", "refnode.adapters", "numba.cuda"}     # not loaded by `import refnode`


def imports(path, package=PACKAGE):
    """(module, line) of everything a file imports, inside functions too; ``from a import b`` gives a.b where b is a module."""
    here = ("refnode", *path.relative_to(package).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(here[:len(here) - node.level + 1]) if node.level else ""
            base = ".".join(part for part in (base, node.module) if part)
            for alias in node.names:
                yield (f"{base}.{alias.name}" if _is_module(package, base, alias.name) else base), node.lineno


def _is_module(package, base, name):
    if base.split(".")[0] != "refnode":
        return True                                     # unknown, and harmless: only the first part counts
    folder = package.joinpath(*base.split(".")[1:])
    return (folder / f"{name}.py").exists() or (folder / name).is_dir()


def room_of(parts):
    return pathlib.PurePath(parts[0]).stem if parts else "__init__"


def forbidden_imports(package=PACKAGE):
    """Violations of `ALLOWED` and `FOREIGN`, one line each."""
    lines = []
    for path in sorted(package.rglob("*.py")):
        file = path.relative_to(package).as_posix()
        room = room_of(pathlib.PurePath(file).parts)
        if room not in ALLOWED:
            lines.append(f"{file}: the room {room!r} has no row in ALLOWED")
            continue
        for module, line in imports(path, package):
            fault = fault_of(room, file, module.split("."))
            if fault:
                lines.append(f"{file}:{line}: {fault}")
    return lines


def fault_of(room, file, parts):
    """Why ``file`` in ``room`` may not import the module ``parts``, or None."""
    if parts[0] != "refnode":
        return foreign_fault(file, parts[0])
    target, allowed = room_of(parts[1:2]), ALLOWED[room]
    if allowed == ANYTHING or target == room:
        return None
    if target in allowed or any(".".join(parts[1:]).startswith(entry) for entry in allowed if "." in entry):
        return None
    return f"{room} may not import {'.'.join(parts[1:]) or 'refnode itself'}"


def foreign_fault(file, name):
    known = name in FOREIGN or name in sys.stdlib_module_names or file in FOREIGN_IN.get(name, ())
    return None if known else f"foreign import of {name}"


def test_imports_follow_the_rule():
    assert forbidden_imports() == []


def test_the_rule_itself():
    assert ALLOWED["gradcheck"] == {"errors", "atomic_file"}
    assert not {room for room in ALLOWED["steppers"] if room.startswith("fields")}
    assert {room for room in ALLOWED["solve"] | ALLOWED["sensitivity"] if room.startswith("fields")} == {"fields.field"}


def test_the_rule_has_no_cycle():
    below = {room: {entry.split(".")[0] for entry in allowed} for room, allowed in ALLOWED.items()
             if allowed != ANYTHING}
    while below:
        bottom = {room for room, allowed in below.items() if not allowed & below.keys()}
        assert bottom, f"a cycle among {sorted(below)}"
        below = {room: allowed for room, allowed in below.items() if room not in bottom}


@pytest.mark.parametrize("file, source, fault", [
    ("steppers/bad.py", "from refnode.fields.field import VectorField", "steppers may not import fields.field"),
    ("steppers/bad.py", "from refnode import fields", "steppers may not import fields"),
    ("steppers/bad.py", "import refnode.fields.field as field", "steppers may not import fields.field"),
    ("steppers/bad.py", "def f():\n    from ..fields.field import VectorField", "steppers may not import fields.field"),
    ("solve/bad.py", "from refnode.fields.classical import lorenz", "solve may not import fields.classical"),
    ("gradcheck/bad.py", "import refnode.host_device", "gradcheck may not import host_device"),
    ("linalg.py", "import refnode", "linalg may not import refnode itself"),
    ("fields/bad.py", "def f():\n    import torch", "foreign import of torch"),
    ("fields/bad.py", "import sympy", "foreign import of sympy"),
    ("new_room/good.py", "import numpy", "the room 'new_room' has no row in ALLOWED"),
    ("solve/good.py", "from refnode.fields.field import VectorField\nimport numpy.linalg, os.path", None),
    ("fields/good.py", "from . import field\nfrom ..layers import dense", None),
])
def test_a_forbidden_import_is_caught(tmp_path, file, source, fault):
    for name in ("fields/__init__.py", "fields/field.py", "layers/__init__.py", "layers/dense.py", file):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / file).write_text(source + "\n")
    found = forbidden_imports(tmp_path)
    assert len(found) == (fault is not None)
    assert fault is None or found[0].endswith(fault)


def test_slow_packages_are_imported_late():
    script = f"import refnode, sys; print(sorted({LATE!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert result.stdout.strip() == "[]", result.stdout + result.stderr
