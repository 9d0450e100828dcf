"""Every numbered equation of docs/derivations is implemented by exactly one function, and that function says so.

An equation is defined by ``\\tag{ADJ-2}``; a docstring claims it with "Implements (ADJ-2)", or "(ADJ-2, ADJ-3)".
"""
import ast
import collections
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
TAG = r"[A-Z]{2,}-\d+"
DEFINITION = re.compile(rf"\\tag\{{({TAG})\}}")
CLAIM = re.compile(rf"Implements\s+\(({TAG}(?:,\s*{TAG})*)\)")
MENTION = re.compile(rf"\b{TAG}\b")


def definitions(folder):
    """The tags the derivations define, each with the files that define it."""
    found = collections.defaultdict(list)
    for path in sorted(folder.rglob("*.md")):
        for tag in DEFINITION.findall(path.read_text(encoding="utf-8")):
            found[tag].append(path.name)
    return found


def docstrings(folder):
    """(where, docstring) of every module, class and function of a package."""
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                where = f"{path.relative_to(folder).as_posix()}::{getattr(node, 'name', '')}"
                yield where, ast.get_docstring(node) or ""


def claims(folder):
    """The tags that docstrings claim, each with its claimants."""
    found = collections.defaultdict(list)
    for where, docstring in docstrings(folder):
        for group in CLAIM.findall(docstring):
            for tag in re.findall(TAG, group):
                found[tag].append(where)
    return found


def faults(derivations, package):
    """What is wrong with the index of formulas, one line each."""
    defined, claimed = definitions(derivations), claims(package)
    lines = [f"({tag}) is defined {len(files)} times: {files}" for tag, files in defined.items() if len(files) > 1]
    lines += [f"({tag}) is claimed by nobody" for tag in defined if tag not in claimed]
    lines += [f"({tag}) is claimed by {users}" for tag, users in claimed.items() if len(users) > 1]
    lines += [f"({tag}) is unknown, claimed by {users}" for tag, users in claimed.items() if tag not in defined]
    families = {tag.split("-")[0] for tag in defined}
    for where, docstring in docstrings(package):
        lines += [f"({tag}) is unknown, mentioned by {where}" for tag in MENTION.findall(docstring)
                  if tag.split("-")[0] in families and tag not in defined and tag not in claimed]
    return lines


def mentions(folder):
    """The tags that the documents mention, each with the files."""
    found = collections.defaultdict(list)
    for path in sorted(folder.rglob("*.md")):
        for tag in re.findall(rf"\(({TAG})\)", path.read_text(encoding="utf-8")):
            found[tag].append(path.name)
    return found


def test_every_equation_is_implemented_by_exactly_one_function():
    assert faults(ROOT / "docs" / "derivations", ROOT / "refnode") == []


def test_there_are_equations():
    families = {tag.split("-")[0] for tag in definitions(ROOT / "docs" / "derivations")}
    assert families == {"VAR", "ADJ", "JUMP", "COST", "ERK", "DISC", "CKPT", "PART", "REV", "SYM", "HES", "THR", "FLOW"}


def test_documents_mention_only_known_equations():
    unknown = set(mentions(ROOT / "docs")) - set(definitions(ROOT / "docs" / "derivations"))
    assert not unknown


@pytest.mark.parametrize("source, expected", [
    ('def f():\n    """Implements (XY-1)."""\n', []),
    ('def f():\n    """Implements (XY-1, XY-2)."""\n', ["(XY-2) is unknown, claimed by"]),
    ('def f():\n    """(XY-1)"""\n', ["(XY-1) is claimed by nobody"]),
    ('def f():\n    """Implements (XY-1)."""\ndef g():\n    """Implements\n    (XY-1)."""\n',
     ["(XY-1) is claimed by ['m.py::f', 'm.py::g']"]),
    ('class C:\n    def f(self):\n        """Implements (XY-1); see (XY-7)."""\n', ["(XY-7) is unknown, mentioned by"]),
])
def test_the_checker_finds_faults(tmp_path, source, expected):
    derivations, package = tmp_path / "derivations", tmp_path / "package"
    derivations.mkdir(), package.mkdir()
    (derivations / "d.md").write_text("$$y = x \\tag{XY-1}$$\n")
    (package / "m.py").write_text(source)
    found = faults(derivations, package)
    assert len(found) == len(expected)
    for line, beginning in zip(found, expected):
        assert line.startswith(beginning)


def test_the_checker_finds_a_tag_defined_twice(tmp_path):
    (tmp_path / "d.md").write_text("$$y = x \\tag{XY-1}$$\n\n$$y = z \\tag{XY-1}$$\n")
    (tmp_path / "m.py").write_text('def f():\n    """Implements (XY-1)."""\n')
    assert faults(tmp_path, tmp_path) == ["(XY-1) is defined 2 times: ['d.md', 'd.md']"]
