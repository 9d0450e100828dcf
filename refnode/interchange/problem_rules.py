"""What a schema cannot say of a problem: lengths that belong together, indices inside them, times in order."""
import ast
import itertools

import numpy as np

from refnode.checks import observation_times
from refnode.errors import InvalidInputError
from refnode.fields.expressions import checked_tree
from refnode.interchange.schema_check import Fault

MAX_TEXT = 40_000            # characters of all expressions of a right-hand side together


def require_consistent(problem):
    """Raise the `Fault` of a problem that fits the schema and yet is none."""
    sizes = {"t": 1, "y": len(problem["y0"]), "theta": len(problem["theta"])}
    _require_field(problem["rhs"], "/rhs", sizes)
    times = _times(problem)
    _require_loss(problem["loss"], "/loss", sizes, len(times))
    for key, names in problem.get("names", {}).items():
        _require_length(names, sizes[key], f"/names/{key}")
    _require_directions(problem, sizes, len(times))
    solver = problem.get("solver", {})
    if solver.get("mode") == "fixed":
        _require_tableau(solver["tableau"])
        _require_steps(solver["steps"], problem, times)


def _require_length(values, expected, pointer):
    if len(values) != expected:
        raise Fault(pointer, f"expected {expected} entries, found {len(values)}")


# --- right-hand side ------------------------------------------------------------------------------

def _require_field(rhs, pointer, sizes):
    if "expr" in rhs:
        _require_texts(rhs["expr"], f"{pointer}/expr", sizes)
    elif "pieces" in rhs:
        for i, piece in enumerate(rhs["pieces"]):
            _require_texts(piece["expr"], f"{pointer}/pieces/{i}/expr", sizes)
        _require_switches(rhs, pointer, sizes)
    else:
        _require_perceptron(rhs["mlp"], f"{pointer}/mlp", sizes)


def _require_switches(rhs, pointer, sizes):
    """One switch, or a list of several: one fewer than there are pieces."""
    switches = {f"{pointer}/switch": rhs["switch"]}
    if isinstance(rhs["switch"], list):
        switches = {f"{pointer}/switch/{k}": switch for k, switch in enumerate(rhs["switch"])}
    _require_length(rhs["pieces"], len(switches) + 1, f"{pointer}/pieces")
    for place, switch in switches.items():
        for kind, text in switch.items():
            require_text(text, f"{place}/{kind}", sizes)


def _require_texts(texts, pointer, sizes):
    _require_length(texts, sizes["y"], pointer)
    total = sum(map(len, texts))
    if total > MAX_TEXT:
        raise Fault(pointer, f"{total} characters, at most {MAX_TEXT} are taken")
    for i, text in enumerate(texts):
        require_text(text, f"{pointer}/{i}", sizes)


def require_text(text, pointer, sizes):
    """An expression of the whitelist that uses no more than ``sizes``, such as {"t": 1, "y": n, "theta": p}."""
    try:
        tree = checked_tree(0, text)
    except InvalidInputError as error:
        raise Fault(pointer, str(error).removeprefix("expressions[0] is ")) from error
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and node.slice.value >= sizes.get(node.value.id, 0):
            raise Fault(pointer, f"{node.value.id}[{node.slice.value}], where there are {sizes.get(node.value.id, 0)}")
        if isinstance(node, ast.Name) and node.id == "t" and "t" not in sizes:
            raise Fault(pointer, "t may not stand here")


def _require_perceptron(mlp, pointer, sizes):
    """theta holds W1, b1, ...; the state is ``batch`` samples."""
    layers = mlp["layers"]
    if layers[0] != layers[-1]:
        raise Fault(f"{pointer}/layers", f"a field leads from d to d, found {layers[0]} and {layers[-1]}")
    inputs = [layers[0] + bool(mlp.get("time_input")), *layers[1:-1]]
    for what, key, expected in (("parameters", "theta", sum((d + 1) * k for d, k in zip(inputs, layers[1:]))),
                                ("states", "y", layers[0] * mlp.get("batch", 1))):
        if sizes[key] != expected:
            raise Fault(pointer, f"such a network has {expected} {what}, found {sizes[key]}")


# --- times and loss -------------------------------------------------------------------------------

def _times(problem):
    """The observation times, checked."""
    if problem.get("ts") is None:
        return [problem["t1"]]
    try:
        observation_times(problem["ts"], problem["t0"], problem["t1"])
    except InvalidInputError as error:
        raise Fault("/ts", str(error)) from error
    return problem["ts"]


def _require_loss(loss, pointer, sizes, count):
    kind = loss["kind"]
    if kind == "sum":
        for i, term in enumerate(loss["terms"]):
            _require_loss(term, f"{pointer}/terms/{i}", sizes, count)
    elif kind == "final":
        require_text(loss["expr"], f"{pointer}/expr", {"y": sizes["y"]})
    elif kind == "running":
        require_text(loss["expr"], f"{pointer}/expr", sizes)
    else:
        key = "data" if kind == "sumsq" else "weights"
        if loss.get(key) is not None:
            _require_rows(loss[key], f"{pointer}/{key}", sizes["y"], count)


def _require_rows(rows, pointer, n, count):
    if len(rows) != n:
        raise Fault(pointer, f"expected {n} rows, one for each state, found {len(rows)}")
    for i, row in enumerate(rows):
        if len(row) != count:
            raise Fault(f"{pointer}/{i}", f"expected {count} numbers, one for each observation time, found {len(row)}")


def _require_directions(problem, sizes, count):
    """hvp_direction and seeds have the shapes of what they move."""
    direction = problem.get("hvp_direction") or {}
    for key, vector in direction.items():
        _require_length(vector, sizes["y" if key == "y0" else key], f"/hvp_direction/{key}")
    seeds = problem.get("seeds", {})
    for key, what in (("tangent_y0", "y"), ("tangent_theta", "theta")):
        if key in seeds:
            _require_length(seeds[key], sizes[what], f"/seeds/{key}")
    if "cotangent" in seeds:
        _require_rows(seeds["cotangent"], "/seeds/cotangent", sizes["y"], count)


# --- given steps ----------------------------------------------------------------------------------

def _require_tableau(tableau):
    """Of an explicit method: A strictly lower triangular, A 1 = c, sum b = 1."""
    A, b, c = tableau["A"], tableau["b"], tableau["c"]
    _require_length(A, len(b), "/solver/tableau/A")
    _require_length(c, len(b), "/solver/tableau/c")
    for i, row in enumerate(A):
        _require_length(row, len(b), f"/solver/tableau/A/{i}")
        if any(row[i:]):
            raise Fault(f"/solver/tableau/A/{i}", "not strictly lower triangular: only explicit methods are known")
        if not abs(sum(row) - c[i]) <= 1e-12 * max(1.0, sum(map(abs, row))):
            raise Fault(f"/solver/tableau/A/{i}", f"its sum is {sum(row):.15g}, and c[{i}] is {c[i]:.15g}")
    if not abs(sum(b) - 1.0) <= 1e-12 * sum(map(abs, b)):
        raise Fault("/solver/tableau/b", f"its sum is {sum(b):.15g}, not 1")


def _require_steps(steps, problem, times):
    """Steps in one direction, from t0 to t1, that end at every observation time."""
    t0, t1 = problem["t0"], problem["t1"]
    direction = np.sign(t1 - t0)
    if not all(h * direction > 0 for h in steps):
        raise Fault("/solver/steps", "expected steps with the sign of t1 - t0")
    ends = np.array(list(itertools.accumulate(steps, initial=t0)))
    near = 1e-12 * max(abs(t0), abs(t1), abs(t1 - t0))
    if not abs(ends[-1] - t1) <= near:
        raise Fault("/solver/steps", f"they lead to {ends[-1]:.16g}, not to t1 = {t1:.16g}")
    place = np.searchsorted(direction * ends, direction * np.array(times, dtype=np.float64) - near)
    missed = [t for t, i in zip(times, place) if not (i < ends.size and abs(ends[i] - t) <= near)]
    if missed:
        raise Fault("/solver/steps", f"no step ends at the observation time {missed[0]:.16g}")
