"""refnode problems, solve and check: what they print, write, and end with; and docs/interchange.md, run as it stands."""
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree

import numpy as np
import pytest

from refnode import cli, cli_check
from refnode.errors import InvalidInputError
from refnode.interchange.answer_file import read_answer, write_answer
from refnode.interchange.problem_file import checked_problem, read_problem, write_problem
from refnode.own_answer import answer_of
from refnode.problems.reference_set import REFERENCE_PROBLEMS

ROOT = pathlib.Path(__file__).resolve().parents[1]
ID = "logistic/hessian"


def run(capsys, *arguments):
    """(exit code, standard output, standard error) of a command."""
    try:
        code = cli.main([str(argument) for argument in arguments])
    except SystemExit as leaving:
        code = leaving.code
    return code, *capsys.readouterr()


@pytest.fixture(scope="module")
def answered():
    return answer_of(checked_problem(REFERENCE_PROBLEMS[ID].to_dict()))


@pytest.fixture
def answer_path(answered, tmp_path):
    write_answer(answered, tmp_path / "answer.json")
    return tmp_path / "answer.json"


def flipped(answer):
    """The same answer with the gradient's sign wrong."""
    return {**answer, "grad": {key: (-np.array(value)).tolist() for key, value in answer["grad"].items()}}


# --- problems and solve ---------------------------------------------------------------------------

def test_list_has_a_line_for_every_problem(capsys):
    code, out, _ = run(capsys, "problems", "list")
    assert code == 0 and [line.split()[0] for line in out.splitlines()[1:]] == list(REFERENCE_PROBLEMS)
    assert len(set(map(len, run(capsys, "problems", "list", "lotka_volterra/*")[1].splitlines()))) <= 2


@pytest.mark.parametrize("id", ["logistic/hessian", "mlp/2_32_32_2", "kink_forcing/ramp", "lotka_volterra/running_cost"])
def test_show_tells_everything(id, capsys):
    code, out, _ = run(capsys, "problems", "show", id)
    flat, record = " ".join(out.split()), REFERENCE_PROBLEMS[id]
    assert code == 0 and max(map(len, out.splitlines())) <= 100
    assert record.to_dict()["sha256"] in flat and " ".join(record.note.split()) in flat
    assert all(name in flat for name in (*record.exposes, *record.names["y"]))


def test_show_prints_certified_figures_with_their_exponents(capsys):
    from refnode.problems.certified import certified
    out = run(capsys, "problems", "show", ID)[1]
    shown = re.search(r"^hvp_theta +(.*)$", out, re.MULTILINE).group(1)
    figures = [float(text.replace("..", "")) for text in shown.split(", ")]
    assert np.allclose(figures, certified(ID).values["hvp_theta"], rtol=1e-15)


@pytest.mark.parametrize("form", ["json", "npz"])
def test_export_writes_files_that_can_be_read(form, capsys, tmp_path):
    code, out, _ = run(capsys, "problems", "export", tmp_path / "out", "--problems", "lotka_volterra/*", "--format", form, "--rtol", "1e-8")
    paths = out.split()
    assert code == 0 and len(paths) == len([id for id in REFERENCE_PROBLEMS if id.startswith("lotka_volterra/")])
    for path in paths:
        problem = read_problem(path)
        assert problem["sha256"] == REFERENCE_PROBLEMS[problem["id"]].to_dict()["sha256"] and problem["solver"]["rtol"] == 1e-8


def test_export_of_given_steps_leaves_switches_out(capsys, tmp_path):
    code, out, err = run(capsys, "problems", "export", tmp_path, "--problems", "k*", "--mode", "fixed", "--steps", "20")
    assert code == 0 and "kink_forcing/ramp: left out" in err
    assert {read_problem(path)["id"] for path in out.split()} == {"kepler/t64", "kepler/periods20"}


def test_solve_answers_a_file_and_an_id(capsys, tmp_path, answered):
    write_problem(REFERENCE_PROBLEMS[ID].to_dict(), tmp_path / "p.json")
    code, out, _ = run(capsys, "solve", tmp_path / "p.json", "-o", tmp_path / "answer.npz")
    assert code == 0 and out.strip() == str(tmp_path / "answer.npz")
    assert read_answer(tmp_path / "answer.npz")["grad"] == answered["grad"]
    code, out, _ = run(capsys, "solve", ID, "--recipe", "interpolating", "--method", "dopri5", "--rtol", "1e-6")
    assert code == 0 and json.loads(out)["truth"] == "exact"
    assert json.loads(out)["grad"]["y0"] == pytest.approx(answered["grad"]["y0"], rel=1e-4)


def test_certify_says_what_it_needs(capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, _, err = run(capsys, "problems", "certify", ID)
    assert code == 2 and "python-flint" in err


@pytest.mark.slow
def test_certify_makes_a_value_again(capsys):
    pytest.importorskip("flint", reason="certify needs python-flint")
    assert run(capsys, "problems", "certify", ID)[0] == 0


# --- check: answers in files ----------------------------------------------------------------------

def test_a_right_answer_passes(answer_path, capsys):
    code, out, _ = run(capsys, "check", answer_path)
    assert code == 0 and re.match(rf"refnode check  {ID} .* PASS\n", out)
    assert f"refnodecheck--problem{ID}{answer_path}" in "".join(out.split())         # a long line is folded


def test_a_wrong_sign_fails_and_is_named(answered, capsys, tmp_path):
    write_answer(flipped(answered), tmp_path / "answer.npz")
    code, out, _ = run(capsys, "check", tmp_path / "answer.npz")
    assert code == 1 and "FAIL" in out and "sign" in out


def test_an_answer_to_another_problem_is_bad_input(answer_path, capsys):                        # fault 30
    code, out, err = run(capsys, "check", answer_path, "--problem", "lotka_volterra/obs21")
    assert code == 2 and out == "" and "at /problem_sha256: an answer to another problem" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("grad", [{"y0": [1.0, 2.0]}, {"y0": []}, {"theta": [1.0]}])
def test_an_answer_of_a_wrong_length_fails(grad, answered, capsys, tmp_path):                     # fault 29
    write_answer({**answered, "grad": grad}, tmp_path / "answer.json")
    code, out, _ = run(capsys, "check", tmp_path / "answer.json")
    assert code == 1 and "shape" in out


def test_an_answer_with_an_error_is_an_error(answered, capsys, tmp_path):
    write_answer({"format": "refnode.answer", "version": 1, "problem_sha256": answered["problem_sha256"], "error": "no memory left"},
                 tmp_path / "answer.json")
    code, out, _ = run(capsys, "check", tmp_path / "answer.json")
    assert code == 1 and "ERROR" in out and "no memory left" in out


@pytest.mark.parametrize("suffix", ["txt", "json", "md", "html", "xml"])
def test_reports_are_written(suffix, answer_path, capsys, tmp_path):
    code, _, _ = run(capsys, "check", answer_path, "--report", tmp_path / f"out.{suffix}")
    text = (tmp_path / f"out.{suffix}").read_text()
    assert code == 0 and "PASS" in text or suffix == "xml"
    if suffix == "json":
        assert json.loads(text)
    if suffix == "xml":
        assert xml.etree.ElementTree.fromstring(text).tag in ("testsuites", "testsuite")


def test_all_shows_every_component(answer_path, capsys):
    short, long = (run(capsys, "check", answer_path, *more)[1] for more in ((), ("--all",)))
    assert len(long.splitlines()) >= len(short.splitlines()) and "--all)" not in long


def test_a_problem_of_ones_own_is_judged(capsys, tmp_path):
    problem = write_problem({"format": "refnode.problem", "version": 1, "id": "mine", "rhs": {"expr": ["-theta[0]*y[0]"]}, "t0": 0, "t1": 1,
                             "y0": [1], "theta": [0.5], "loss": {"kind": "final", "expr": "y[0]**2"}}, tmp_path / "p.json")
    right = answer_of(problem)
    write_answer(right, tmp_path / "right.json")
    write_answer(flipped(right), tmp_path / "wrong.json")
    assert run(capsys, "check", tmp_path / "right.json", "--problem", tmp_path / "p.json")[0] == 0
    assert run(capsys, "check", tmp_path / "wrong.json", "--problem", tmp_path / "p.json")[0] == 1
    code, _, err = run(capsys, "check", tmp_path / "right.json")
    assert code == 2 and "give --problem FILE" in err


# --- check: functions -----------------------------------------------------------------------------

MODULE = """
import refnode
from refnode.own_answer import answer_of
from refnode.problems.reference_set import REFERENCE_PROBLEMS

RECORD = REFERENCE_PROBLEMS["logistic/hessian"]

def right(problem, rtol, atol):
    if problem.get("solver", {}).get("mode") == "fixed":
        return answer_of(problem)
    if problem["rhs"] != RECORD.rhs or problem["loss"] != RECORD.loss or problem["ts"]:
        raise NotImplementedError("another problem")
    own = RECORD.problem.replace(y0=problem["y0"], theta=problem["theta"], t0=problem["t0"], t1=problem["t1"])
    found = refnode.gradient(own, "discrete", method="dop853", rtol=rtol, atol=atol)
    return {"grad": {"y0": found.y0.tolist(), "theta": found.theta.tolist(), "t0": found.t0, "t1": found.t1}}

def wrong(problem, rtol, atol):
    answer = right(problem, rtol, atol)
    answer["grad"]["theta"] = [2.0 * x for x in answer["grad"]["theta"]]
    return answer

def raises(problem, rtol, atol):
    raise RuntimeError("no such method")

number = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_gradients", raising=False)
    (tmp_path / "my_gradients.py").write_text(MODULE)


@pytest.mark.parametrize("name, code, says", [("right", 0, "PASS"), ("wrong", 1, "FAIL"), ("raises", 1, "no such method")])
def test_functions_are_judged(name, code, says, module, capsys):
    found, out, _ = run(capsys, "check", "--problem", ID, f"my_gradients:{name}")
    assert found == code and says in out and f"my_gradients:{name}" in out


@pytest.mark.parametrize("name, says", [
    ("my_gradients:none", "AttributeError"), ("my_gradients:number", "must be a function"), ("no_such_module:f", "ModuleNotFoundError")])
def test_what_is_no_function(name, says, module, capsys):
    code, _, err = run(capsys, "check", "--problem", ID, name)
    assert code == 2 and says in err and len(err.splitlines()) == 1


# --- check: programs ------------------------------------------------------------------------------

def test_a_program_that_crashes_is_an_error_with_its_last_words(capsys):                          # fault 41
    command = f"{sys.executable} -c \"import sys\nfor i in range(50): print('line', i, file=sys.stderr)\nsys.exit(7)\""
    code, out, _ = run(capsys, "check", "--problem", ID, "--cmd", command)
    assert code == 1 and "ERROR" in out and "ended with exit code 7" in out
    assert [f"  line {i}" in out.splitlines() for i in (29, 30, 49)] == [False, True, True]


def test_several_problems_end_with_totals(capsys, tmp_path):
    code, out, _ = run(capsys, "check", "--problem", "logistic/*", "--cmd", "false", "--report", tmp_path / "r.json")
    assert code == 1 and out.splitlines()[-1] == "2 problems: 0 PASS, 0 INCONCLUSIVE, 2 ERROR, 0 FAIL"
    assert "logistic/observed" in (tmp_path / "r.json").read_text()


def test_given_steps_are_judged_to_rounding(capsys, tmp_path, module):
    run(capsys, "problems", "export", tmp_path, "--problems", ID, "--mode", "fixed", "--steps", "40")
    path = tmp_path / "logistic__hessian.json"
    code, out, _ = run(capsys, "check", "--problem", path, "my_gradients:right")
    assert code == 0 and "rounding of 64 steps" in out
    answer = answer_of(read_problem(path))
    for change in (1e-15, 1e-10):
        theta = [answer["grad"]["theta"][0] * (1.0 + change), answer["grad"]["theta"][1]]
        write_answer({**answer, "grad": {**answer["grad"], "theta": theta}}, tmp_path / "answer.json")
        assert run(capsys, "check", "--problem", path, tmp_path / "answer.json")[0] == (0 if change < 1e-12 else 1)
    write_answer({**answer, "grad": {"y0": [1.0, 2.0], "theta": answer["grad"]["theta"]}}, tmp_path / "answer.json")
    code, out, _ = run(capsys, "check", "--problem", path, tmp_path / "answer.json")
    assert code == 1 and "shape: y0 has shape (2,), expected (1,)" in out
    assert run(capsys, "check", "--problem", path, "my_gradients:wrong")[0] == 1


# --- exit codes -----------------------------------------------------------------------------------

class Report:
    """A stand-in for the checker's report."""

    def __init__(self, verdict):
        self.verdict, self.settings = verdict, {}

    def __str__(self):
        return self.verdict


@pytest.mark.parametrize("verdicts, code", [
    (["PASS"], 0), (["PASS", "PASS"], 0), (["PASS", "INCONCLUSIVE"], 3), (["INCONCLUSIVE", "FAIL"], 1), (["ERROR", "PASS"], 1)])
def test_the_gravest_verdict_is_the_exit_code(verdicts, code, capsys, monkeypatch):
    remaining = list(verdicts)
    monkeypatch.setattr(cli_check, "judged", lambda problem, answer, rtol: Report(remaining.pop(0)))
    pattern = ID if len(verdicts) == 1 else "logistic/*"
    assert run(capsys, "check", "--problem", pattern, "--cmd", "true")[0] == code


def test_interruption_is_130(capsys, monkeypatch):
    def interrupted(problem, answer, rtol):
        raise KeyboardInterrupt
    monkeypatch.setattr(cli_check, "judged", interrupted)
    code, _, err = run(capsys, "check", "--problem", ID, "--cmd", "true")
    assert code == 130 and err.strip() == "refnode: interrupted"


@pytest.mark.parametrize("arguments, says", [
    (["check"], "check needs an answer file"),
    (["check", "a.json", "--cmd", "true"], "one of them"),
    (["check", "--cmd", "true"], "--problem says which problems"),
    (["check", "a.module:f"], "--problem says which problems"),
    (["check", "nothing.json"], "nothing.json: No such file"),
    (["check", "--problem", "nothing/*", "--cmd", "true"], "no reference problem matches 'nothing/*'"),
    (["check", "--problem", "nothing.json", "--cmd", "true"], "nothing.json: No such file"),
    (["check", "--problem", ID, "--cmd", "true", "--seconds", "0"], "the time limit must be a positive"),
    (["check", "--problem", ID, "--cmd", "true", "--report", "out.pdf"], "--report out.pdf: expected a name that ends in"),
    (["check", "--problem", ID, "--cmd", ""], "the command is empty"),
    (["solve", "nothing/at_all"], "no reference problem matches"),
    (["solve", "logistic/*"], "is 2 problems, one is expected"),
    (["solve", ID, "-o", "answer.pdf"], "is written as .json or .npz"),
    (["solve", ID, "--recipe", "magic"], "sensitivity must be one of"),
    (["problems", "show", "magic"], "no reference problem matches 'magic'"),
    (["problems"], "the following arguments are required: ACTION"),
    (["problems", "export", "out", "--mode", "fixed", "--method", "rk9", "--problems", ID], "method must be one of"),
    (["problems", "export", "out", "--mode", "fixed", "--steps", "0", "--problems", ID], "steps"),
    (["problems", "export", "out", "--rtol", "-1", "--problems", ID], "at /solver/rtol: expected a number above 0"),
])
def test_a_mistake_is_one_line_and_exit_code_2(arguments, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *arguments)
    assert code == 2 and out == "" and len(err.splitlines()) == 1 and says in err


def test_imported_functions_may_be_nested():
    assert cli_check.imported("os:path.join") is os.path.join
    with pytest.raises(InvalidInputError):
        cli_check.imported("os:sep")


# --- docs/interchange.md --------------------------------------------------------------------------

def blocks(language):
    text = (ROOT / "docs" / "interchange.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_every_block_of_the_page_is_run_here_or_with_the_documents():
    text = (ROOT / "docs" / "interchange.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^```(\w+)$", text, re.MULTILINE)) == {"sh", "json", "python"}


@pytest.mark.slow
def test_the_commands_of_the_page(tmp_path):
    """One after another, in an empty folder, stopping at the first that fails."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    script = f"set -e\nrefnode() {{ {sys.executable} -m refnode \"$@\"; }}\n" + "\n".join(blocks("sh"))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
                   "CLIENTS": str(ROOT / "docs" / "clients")}
    result = subprocess.run(["sh", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr
    assert [line.split()[-1] for line in result.stdout.splitlines() if line.startswith("refnode check")] == ["PASS"] * 3


def test_the_examples_of_the_page(tmp_path):
    problem, answer = blocks("json")
    (tmp_path / "p.json").write_text(problem)
    (tmp_path / "a.json").write_text(answer)
    question = read_problem(tmp_path / "p.json")
    said, exact = read_answer(tmp_path / "a.json", question), answer_of(question, rtol=1e-12)
    assert said["y"] == [pytest.approx(exact["y"][0], rel=1e-9)] and said["loss"] == pytest.approx(exact["loss"], rel=1e-9)
    for key in ("y0", "theta"):
        assert said["grad"][key] == pytest.approx(exact["grad"][key], rel=1e-9)
