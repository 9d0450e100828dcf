"""The command line: exit codes, one clear line for a mistake, and the terminal's table."""
import io
import re
import subprocess
import sys

import pytest

import refnode
from refnode import cli, validate
from refnode.evidence import table
from refnode.evidence.row import Row
from refnode.methods_table import ACCOUNTS
from refnode.sensitivity.recipes import RECIPES

SMALL = ["validate", "--fields", "exponential_decay", "--methods", "dopri5", "--recipes", "discrete,forward", "--no-figures"]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


def run(arguments, capsys):
    """(exit code, standard output, standard error) of a command."""
    try:
        code = cli.main(arguments)
    except SystemExit as leaving:
        code = leaving.code
    return code, *capsys.readouterr()


def row(verdict="PASS", **changes):
    return Row(**{"group": "fields", "subject": "lorenz", "evidence": "jvp = complex step of f", "truth": "formula",
                  "verdict": verdict, "error": 1e-16, "bound": 1e-14, "reason": "rounding", "worst": "dy_tan[0]"} | changes)


def outcome_of(*rows):
    return validate.Outcome(list(rows), validate.select("lorenz"), 2.0, {})


# --- validate --------------------------------------------------------------------------------------

def test_validate_passes_and_ends_with_the_totals(tmp_path, capsys):
    code, out, err = run([*SMALL, "--output", str(tmp_path)], capsys)
    assert code == 0
    last = out.splitlines()[-1]
    assert re.fullmatch(r"\d+ rows: \d+ PASS, 0 INCONCLUSIVE, 0 FAIL, 0 ERROR in \d+\.\d s   .*index\.html", last)
    assert (tmp_path / "index.html").exists() and (tmp_path / "report.json").exists()
    assert "\x1b" not in out + err and re.search(r"\[\s*\d+/\d+\].*rows", err)


def test_quiet_says_only_what_did_not_pass(tmp_path, capsys):
    code, out, err = run([*SMALL, "--quiet", "--output", str(tmp_path)], capsys)
    assert code == 0 and err == "" and len(out.splitlines()) == 1


def test_a_failed_row_is_exit_code_1(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(validate, "run", lambda selection, progress, workers: outcome_of(row(), row("FAIL")))
    code, out, _ = run([*SMALL, "--output", str(tmp_path)], capsys)
    assert code == 1 and "1 FAIL" in out.splitlines()[-1]


@pytest.mark.parametrize("arguments, message", [
    (["validate", "--fields", "lorentz"], "refnode: fields: 'lorentz' is none of linear"),
    (["validate", "--methods", "rk5"], "refnode: methods: 'rk5' is none of euler"),
    (["validate", "--recipes", "magic"], "refnode: recipes: 'magic' is none of forward"),
    (["validate", "--seed", "-1"], "the seed must be a whole number"),
    (["validate", "--seed", "x"], "the seed must be a whole number >= 0, found .x."),
    (["validate", "--colour"], "unrecognized arguments: --colour"),
    (["conjure"], "invalid choice: 'conjure'"),
    ([], "the following arguments are required: COMMAND"),
    (["demo", "spiral", "--recipe", "magic"], "sensitivity must be one of"),
])
def test_a_mistake_in_usage_is_one_line_and_exit_code_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(arguments, capsys)
    assert code == 2 and out == "" and len(err.splitlines()) == 1
    assert re.search(message, err)


def test_an_output_that_cannot_be_a_folder_is_refused_at_once(tmp_path, capsys):
    (tmp_path / "file").touch()
    code, _, err = run([*SMALL, "--output", str(tmp_path / "file")], capsys)
    assert code == 2 and "--output" in err and len(err.splitlines()) == 1


def test_interruption_is_exit_code_130_without_a_traceback(tmp_path, capsys, monkeypatch):
    def interrupted(selection, progress, workers):
        raise KeyboardInterrupt
    monkeypatch.setattr(validate, "run", interrupted)
    code, _, err = run([*SMALL, "--output", str(tmp_path)], capsys)
    assert code == 130 and err.strip() == "refnode: interrupted"
    assert list(tmp_path.iterdir()) == []


# --- the other commands ----------------------------------------------------------------------------

def test_version(capsys):
    code, out, _ = run(["--version"], capsys)
    assert code == 0 and out == f"refnode {refnode.__version__}\n"


def test_the_module_is_the_command():
    result = subprocess.run([sys.executable, "-m", "refnode", "--version"], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (0, f"refnode {refnode.__version__}\n")


def test_doctor_states_facts(capsys):
    code, out, _ = run(["doctor"], capsys)
    assert code == 0
    assert {"refnode", "python", "numpy", "numba", "scipy", "matplotlib", "cache", "threads"} <= {
        line.split()[0] for line in out.splitlines()}


def test_cache_info_and_clear(capsys, monkeypatch, tmp_path):
    from refnode import disk_cache
    monkeypatch.setattr(disk_cache, "cache_home", lambda: tmp_path / "cache")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "a.nbi").write_bytes(b"12345")
    assert "holds 1 files" in run(["cache", "info"], capsys)[1]
    assert "removed 1 files" in run(["cache", "clear"], capsys)[1]
    assert not (tmp_path / "cache").exists()


# --- the terminal ----------------------------------------------------------------------------------

@pytest.mark.parametrize("width", [80, 100, 120])
def test_the_table_fits(width):
    long = row("FAIL", subject="lotka_volterra/running_cost", evidence="discrete_forward = complex step of the steps, dopri5",
               worst="theta[2] angular_velocity", reason="r" * 150, note="n" * 200)
    lines = list(table.table_lines(outcome_of(row(), long, row("INCONCLUSIVE")), width))
    assert max(map(len, lines)) <= width
    verdicts = [line.split()[-1] for line in lines if line.endswith(("PASS", "FAIL", "INCONCLUSIVE"))]
    assert verdicts == ["PASS", "FAIL", "INCONCLUSIVE"]


def test_colour_only_on_a_terminal_and_not_against_no_color(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert table.wants_colour(Terminal()) and not table.wants_colour(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not table.wants_colour(Terminal())


def test_progress_overwrites_on_a_terminal():
    stream = Terminal()
    progress = table.Progress(stream)
    progress(1, 3, "fields: lorenz", [row()])
    progress(3, 3, "done", [row(), row("FAIL")])
    text = stream.getvalue()
    assert "\n" not in text and text.count("\r\x1b[K") == 2 and text.endswith("\r\x1b[K")


def test_progress_elsewhere_is_a_line_now_and_then():
    stream = io.StringIO()
    progress = table.Progress(stream)
    for done in range(4):
        progress(done, 3, "fields: lorenz", [row("FAIL")])
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2 and "(1 failed)" in lines[0] and "[  3/3]" in lines[1]


# --- methods ---------------------------------------------------------------------------------------

def test_methods_tells_everything_about_every_recipe(capsys):
    assert cli.main(["methods"]) == 0
    text = capsys.readouterr().out
    flat = " ".join(text.split())
    assert set(ACCOUNTS) == set(RECIPES)
    for name, recipe in RECIPES.items():
        assert f"\n{name}   [{recipe.equation}" in text and " ".join(recipe.source.split()) in flat
        assert all(" ".join(part.split()) in flat for part in ACCOUNTS[name])
    assert max(map(len, text.splitlines())) <= 100
