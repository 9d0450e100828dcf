"""The documents: their Python runs as it stands, their links lead somewhere, and their tables equal the code."""
import os
import pathlib
import re
import subprocess
import sys

import pytest

from refnode import __version__
from refnode.sensitivity.recipes import RECIPES

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ARCHITECTURE = ROOT / "docs" / "architecture.md"
SECONDS = 300            # for one document, once the solvers are compiled

WARM_UP = """
import refnode
from refnode.problems.catalogue import CATALOGUE
from refnode.sensitivity.recipes import RECIPES
from refnode.sensitivity.second_order import SECOND_ORDER
for name, recipe in RECIPES.items():
    options = {"method": "alf", "n_steps": 4} if recipe.reversal == "inverted" else {}
    refnode.gradient(CATALOGUE["exponential_decay"](), name, **options)
batch = refnode.Batch(refnode.fields.exponential_decay, [[1.0]], [1.0], loss=refnode.losses.sum_of_squares())
refnode.solve_batch(batch), refnode.gradient_batch(batch)
for name in SECOND_ORDER:
    refnode.hvp(CATALOGUE["exponential_decay"](), theta_tan=[1.0], sensitivity=name)
"""


def blocks(text, language):
    """(first line, text) of every fenced block of a language."""
    fence = re.compile(rf"^```{language}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, match.start(1)) + 1, match.group(1)) for match in fence.finditer(text)]


def script_of(text):
    """All Python blocks as one script, on the lines they have in the document."""
    script = ""
    for line, block in blocks(text, "python"):
        script += "\n" * (line - 1 - script.count("\n")) + block
    return script


def document_id(path):
    return path.relative_to(ROOT).as_posix()


def run_script(script, name, folder, seconds):
    path = folder / name
    path.write_text(script, encoding="utf-8")
    environment = {**os.environ, "MPLBACKEND": "Agg", "PYTHONIOENCODING": "utf-8"}
    return subprocess.run([sys.executable, str(path)], cwd=folder, env=environment, capture_output=True,
                          text=True, timeout=seconds, encoding="utf-8")


# --- Python blocks --------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def compiled_solvers(tmp_path_factory):
    """Compiling is not the documents' time: it is done once, before, and stays on disk."""
    result = run_script(WARM_UP, "warm_up.py", tmp_path_factory.mktemp("warm_up"), 900)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("document", DOCUMENTS, ids=document_id)
def test_python_blocks_run(document, tmp_path, compiled_solvers):
    """In order, in one namespace, in an empty folder; line numbers in a traceback are the document's."""
    script = script_of(document.read_text(encoding="utf-8"))
    if script:
        result = run_script(script, f"{document.stem}.py", tmp_path, SECONDS)
        assert result.returncode == 0, f"{document_id(document)}\n{result.stderr}"


def test_blocks_keep_their_lines(tmp_path):
    text = "# title\n\n```python\na = 1\n```\n\ntext\n\n```python\nassert a == 2\n```\n\n```\nnot python\n```\n"
    assert script_of(text).splitlines() == ["", "", "", "a = 1", "", "", "", "", "", "assert a == 2"]
    result = run_script(script_of(text), "text.py", tmp_path, SECONDS)
    assert result.returncode == 1 and "line 10" in result.stderr


@pytest.mark.parametrize("document", DOCUMENTS, ids=document_id)
def test_every_fence_is_closed_and_no_python_is_missed(document):
    text = document.read_text(encoding="utf-8")
    fences = re.findall(r"^\s*```.*$", text, re.MULTILINE)
    assert len(fences) % 2 == 0
    assert len([fence for fence in fences if re.fullmatch(r"\s*```\s*(python|py|python3|pycon)\b.*", fence)]) == len(
        blocks(text, "python"))


# --- text -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("document", DOCUMENTS, ids=document_id)
def test_links_lead_somewhere(document):
    text = re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:|#", target):
            assert (document.parent / target.split("#")[0]).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=document_id)
def test_math_is_balanced(document):
    text = re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"`[^`\n]*`", "", text)
    displays = re.findall(r"^\$\$.*\$\$$", text, re.MULTILINE)
    assert text.count("$$") == 2 * len(displays)
    for line in text.replace("$$", "").splitlines():
        assert line.count("$") % 2 == 0, line
    for display in displays:
        assert display.count("{") == display.count("}"), display
        assert display.count(r"\left") == display.count(r"\right"), display


# --- architecture.md ------------------------------------------------------------------------------

def files_of_tree(tree):
    """{path: description} from a tree by indentation, four spaces a level."""
    files, folders = {}, []
    for line in tree.splitlines():
        level = (len(line) - len(line.lstrip())) // 4
        name, _, description = line.strip().partition(" ")
        folders = folders[:level]
        if name.endswith("/"):
            folders.append(name)
        else:
            files["".join(folders) + name] = description.strip()
    return files


def test_tree_of_files():
    (tree,) = [block for _, block in blocks(ARCHITECTURE.read_text(encoding="utf-8"), "") if block.startswith("refnode/")]
    described = files_of_tree(tree)
    actual = {path.relative_to(ROOT).as_posix() for path in (ROOT / "refnode").rglob("*.py") if path.stat().st_size}
    assert set(described) == actual
    assert all(described.values())


def test_table_of_recipes():
    text = ARCHITECTURE.read_text(encoding="utf-8").split("## The recipes\n", 1)[1].split("\n## ")[0]
    rows = [[cell.strip().strip("`") for cell in line.strip("|").split("|")]
            for line in text.splitlines() if line.startswith("| `")]
    expected = [[name, r.equation, r.reversal or "-", r.quadrature or "-", r.truth, r.needs]
                for name, r in RECIPES.items()]
    assert [row[:6] for row in rows] == expected


# --- the files beside -----------------------------------------------------------------------------

def test_version_is_everywhere_the_same():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^cff-version: 1\.2\.0$", citation, re.MULTILINE)
    assert re.search(rf"^version: {re.escape(__version__)}$", citation, re.MULTILINE)
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_licence_is_bsd_3():
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert licence.startswith("BSD 3-Clause License") and "the refnode authors" in licence
    assert "license: BSD-3-Clause" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


# --- validation/ ----------------------------------------------------------------------------------

SWEEPS = sorted((ROOT / "validation" / "sweeps").glob("*.py"))


@pytest.mark.parametrize("sweep", [path for path in SWEEPS if path.stem != "sheet"], ids=lambda path: path.stem)
def test_every_sweep_states_its_claim_and_has_a_result(sweep):
    """Its name stands in the table of claims, and its last table among the results, made by itself."""
    page = (ROOT / "validation" / "README.md").read_text(encoding="utf-8")
    result = (ROOT / "validation" / "results" / f"{sweep.stem}.md").read_text(encoding="utf-8")
    claim = sweep.read_text(encoding="utf-8").split('"""')[1].strip()
    assert f"`sweeps/{sweep.name}`" in page and f"(results/{sweep.stem}.md)" in page
    assert claim.startswith("Claim: ") and claim in result
    assert f"`python validation/sweeps/{sweep.name} " in result


def test_every_sweep_named_is_there():
    page = (ROOT / "validation" / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`sweeps/(\w+\.py)", page)) <= {path.name for path in SWEEPS}
