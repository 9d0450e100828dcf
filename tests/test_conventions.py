"""docs/conventions.md and the code agree; and a lint of the package's style, on its syntax trees."""
import ast
import collections
import dataclasses
import inspect
import pathlib
import re
import statistics

import pytest

import refnode
from refnode import errors
from refnode.sensitivity.recipes import RECIPES
from refnode.solve import integrate
from refnode.solve.options import SolveOptions
from refnode.steppers.tableaus import TABLEAUS

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "refnode"
PAGE = (ROOT / "docs" / "conventions.md").read_text(encoding="utf-8")
FILES = sorted(PACKAGE.rglob("*.py"))

# Names from the "not" column. Single letters that mean something else elsewhere (x, z, a, u) are left to readers.
NOT_ARGUMENTS = {"dt", "dt0", "params", "N", "func", "grad_f", "x_dot", "y_dot", "dx", "adj", "tab", "tol"}
NOT_SUFFIXES = ("_fwd", "_bwd", "_backward", "_gpu", "_fast")
NOT_MODULES = {"utils", "util", "misc", "common", "base", "core", "helpers"}
DISCRETE = {"steppers/explicit_rk.py", "steppers/reversible.py", "steppers/symplectic.py", "steppers/schemes.py",
            "steppers/explicit_rk_hvp.py", "sensitivity/second_order_steps.py", "sensitivity/reversible_adjoint.py",
            "sensitivity/discrete_adjoint.py", "sensitivity/replay.py"}      # never lam

FOREIGN_ARGUMENTS = {                    # signatures that are another library's
    ("testing.py", "check_grad"): {"func"},
    ("testing.py", "gradcheck"): {"func"},
}

LINES_MEDIAN, LINES_MOST, LINES_EVER, LINES_FILE = 8, 35, 60, 400
ORDER = ("t", "h", "y", "theta")

CLOSED_FORM = "asks for y at t: the argument of a solution stands last"
STORAGE = "y is a row of the storage, and storage stands together at the end"
UNDONE = "y is the output of an inverse, and outputs stand last"
ORDER_EXCEPTIONS = {
    ("steppers/symplectic.py", "symplectic_step_inverse"): UNDONE,
    ("problems/catalogue.py", "linear_solution"): CLOSED_FORM,
    ("problems/catalogue.py", "exponential_decay_solution"): CLOSED_FORM,
    ("problems/catalogue.py", "logistic_solution"): CLOSED_FORM,
    ("problems/catalogue.py", "cosine_relaxation_solution"): CLOSED_FORM,
    ("problems/catalogue.py", "twin_growth_solution"): CLOSED_FORM,
    ("problems/catalogue.py", "forced_oscillator_solution"): CLOSED_FORM,
    ("sensitivity/equations.py", "read_path"): CLOSED_FORM,
    ("solve/integrate.py", "integrate"): STORAGE,
    ("solve/integrate.py", "given_step"): STORAGE,
    ("solve/integrate.py", "controlled_step"): STORAGE,
}


# --- what the lint looks at -----------------------------------------------------------------------

Function = collections.namedtuple("Function", ["file", "name", "line", "arguments", "length"])


def functions_of(source, file):
    """Every function of a source text."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            spec = node.args
            arguments = [a.arg for a in spec.posonlyargs + spec.args + spec.kwonlyargs]
            yield Function(file, node.name, node.lineno, arguments, body_length(node, lines))


def body_length(node, lines):
    """Lines of a body, without docstring, blank lines and comments."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    if not body:
        return 0
    code = (line.strip() for line in lines[body[0].lineno - 1:node.end_lineno])
    return sum(1 for line in code if line and not line.startswith("#"))


def name_faults(function):
    """What the naming table forbids: names, suffixes, and arguments out of order."""
    forbidden = NOT_ARGUMENTS - FOREIGN_ARGUMENTS.get((function.file, function.name), set())
    found = [f"argument {name}" for name in function.arguments if name in forbidden]
    if function.file in DISCRETE and "lam" in function.arguments:
        found.append("argument lam of a discrete transpose")
    if function.name.endswith(NOT_SUFFIXES):
        found.append("suffix")
    places = [function.arguments.index(name) for name in ORDER if name in function.arguments]
    if places != sorted(places) and (function.file, function.name) not in ORDER_EXCEPTIONS:
        found.append(f"order of {[name for name in ORDER if name in function.arguments]}")
    return found


FUNCTIONS = [function for path in FILES for function in
             functions_of(path.read_text(encoding="utf-8"), path.relative_to(PACKAGE).as_posix())]


# --- the lint -------------------------------------------------------------------------------------

def test_names_and_order_of_arguments():
    faults = [f"refnode/{f.file}:{f.line} {f.name}: {fault}" for f in FUNCTIONS for fault in name_faults(f)]
    assert faults == []


def test_exceptions_are_needed():
    """An exception for a function that is gone, or that follows the rule by now, is taken off the list."""
    found = {(f.file, f.name): [f.arguments.index(name) for name in ORDER if name in f.arguments] for f in FUNCTIONS}
    for key in ORDER_EXCEPTIONS:
        assert key in found and found[key] != sorted(found[key]), key


def test_functions_are_short():
    lengths = [f.length for f in FUNCTIONS]
    assert statistics.median(lengths) <= LINES_MEDIAN
    assert sum(length <= LINES_MOST for length in lengths) >= 0.9 * len(lengths)
    assert [f for f in FUNCTIONS if f.length > LINES_EVER] == []


def test_files_are_short():
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {name: length for name, length in lengths.items() if length > LINES_FILE} == {}


def test_no_module_has_an_empty_or_a_double_name():
    stems = collections.Counter(path.stem for path in FILES if path.stem not in ("__init__", "__main__"))
    assert not NOT_MODULES & (set(stems) | {path.parent.name for path in FILES})
    assert [stem for stem, count in stems.items() if count > 1] == []


def test_no_folder_inside_a_folder():
    assert {len(path.relative_to(PACKAGE).parts) for path in FILES} <= {1, 2}


def test_every_module_says_what_it_is():
    silent = [path for path in FILES if path.read_text(encoding="utf-8").strip()
              and not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))]
    assert silent == []


@pytest.mark.parametrize("folder", ["refnode", "docs"])
def test_nothing_is_left_to_do_and_no_path_of_a_machine(folder):
    unfinished = re.compile(r"\b(TODO|FIXME|XXX)\b|/home/|/root/|/Users/")
    for path in (ROOT / folder).rglob("*"):
        if path.suffix in (".py", ".md"):
            assert not unfinished.search(path.read_text(encoding="utf-8")), path


def test_the_lint_itself():
    source = '''
def bad_bwd(theta, y, tol, params):
    """Two
    lines."""

    # a comment
    return theta
def good(f, t, h, y, theta, y_bar): return y
'''
    bad, good = functions_of(source, "solve/synthetic.py")
    assert bad.length == 1 and good.length == 1
    assert name_faults(bad) == ["argument tol", "argument params", "suffix", "order of ['y', 'theta']"]
    assert name_faults(good) == []
    assert name_faults(good._replace(arguments=["lam"], file="steppers/explicit_rk.py"))


# --- public docstrings ----------------------------------------------------------------------------

def public_functions():
    return [(name, getattr(refnode, name)) for name in dir(refnode)
            if not name.startswith("_") and inspect.isfunction(getattr(refnode, name))]


def test_there_are_public_functions():
    assert {"solve", "gradient", "jvp", "vjp", "solve_ivp", "hvp", "check_ode"} <= {name for name, _ in public_functions()}


@pytest.mark.parametrize("name, function", public_functions())
def test_public_functions_have_sections(name, function):
    docstring = inspect.getdoc(function) or ""
    assert docstring
    if inspect.signature(function).parameters:
        assert re.search(r"^Parameters\n-+$", docstring, re.MULTILINE)
        assert re.search(r"^Returns\n-+$", docstring, re.MULTILINE)


def test_public_names_are_few():
    public = [name for name in dir(refnode) if not name.startswith("_") and not inspect.ismodule(getattr(refnode, name))]
    assert len(public) <= 40


# --- the page -------------------------------------------------------------------------------------

def table(heading):
    """The rows of the first table under a heading, cells without their backticks."""
    section = PAGE.split(f"## {heading}\n", 1)[1].split("\n## ")[0]
    rows = [[cell.strip().strip("`") for cell in line.strip("|").split("|")]
            for line in re.search(r"(?:^\|.*\n)+", section, re.MULTILINE).group().splitlines()]
    return rows[2:]


def test_table_of_options():
    expected = [[field.name, repr(field.default)] for field in dataclasses.fields(SolveOptions)]
    assert [row[:2] for row in table("Options")] == expected


def test_methods_in_the_table_of_options():
    (row,) = [row for row in table("Options") if row[0] == "method"]
    assert set(TABLEAUS) <= set(re.findall(r"\w+", row[2]))


def test_table_of_statuses():
    for status, name, _ in table("Status of a solve"):
        assert getattr(integrate, name) == int(status)
    assert len(table("Status of a solve")) == 7


def test_table_of_errors():
    classes = {name: value for name, value in vars(errors).items() if inspect.isclass(value)}
    rows = table("Errors and warnings")
    assert {row[0] for row in rows} == set(classes)
    for name, base, _ in rows:
        assert base in [parent.__name__ for parent in classes[name].__mro__[1:]]


def test_table_of_names_forbids_what_the_lint_forbids():
    forbidden = {word for row in table("Names") for word in re.findall(r"\w+", row[2])}
    assert NOT_ARGUMENTS - {"y_dot"} <= forbidden
    assert set(NOT_SUFFIXES) <= forbidden


def test_three_truths_name_every_recipe():
    section = PAGE.split("## Three truths\n", 1)[1]
    lines = {truth: section.split(f"**{truth}**", 1)[1].split("\n2.")[0].split("\n3.")[0]
             for truth in ("exact", "frozen", "through")}
    for name, recipe in RECIPES.items():
        assert f"`{name}`" in lines[recipe.truth]
