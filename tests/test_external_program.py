"""Programs in other languages: they answer to rounding; those that hang, crash, or print junk are survived (fault 41)."""
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from refnode.errors import InvalidInputError
from refnode.given_steps import rounding_bound, with_given_steps
from refnode.interchange import external_program
from refnode.interchange.external_program import ExternalProgram
from refnode.interchange.problem_file import checked_problem
from refnode.own_answer import answer_of
from refnode.problems.reference_set import REFERENCE_PROBLEMS

CLIENTS = pathlib.Path(__file__).resolve().parents[1] / "docs" / "clients"
LOTKA = "lotka_volterra/obs21"
KAPPA = 106.0                       # of Lotka-Volterra
ANSWERS = ("import json, sys; problem = json.load(sys.stdin); print(json.dumps({'format': 'refnode.answer', 'version': 1, "
           "'problem_sha256': problem['sha256'], 'loss': problem.get('solver', {}).get('rtol')}))")


def data_of(id):
    return checked_problem(REFERENCE_PROBLEMS[id].to_dict())


def python(script):
    return [sys.executable, "-c", script]


def ask(command, seconds=20.0):
    """The answer of a program to a small problem."""
    return ExternalProgram(command, seconds)(data_of("logistic/hessian"), 1e-7, 1e-8)


# --- the clients ----------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def cpp(tmp_path_factory):
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    program = tmp_path_factory.mktemp("cpp") / "lotka_volterra"
    subprocess.run(["g++", "-O2", "-Wall", "-Wextra", "-Werror", "-o", program, CLIENTS / "lotka_volterra.cpp"], check=True, timeout=120)
    return [str(program)]


@pytest.fixture(scope="module")
def octave():
    if shutil.which("octave-cli") is None:
        pytest.skip("octave-cli is not installed")
    return ["octave-cli", str(CLIENTS / "lotka_volterra.m")]


@pytest.fixture(params=["cpp", "octave"])
def client(request):
    return request.getfixturevalue(request.param)


def differences(yours, reference):
    """The largest difference of each part, in units of its largest number."""
    for mine, right in ((yours["y"], reference["y"]), (yours["loss"], reference["loss"]),
                        *((yours["grad"][key], reference["grad"][key]) for key in ("y0", "theta"))):
        yield np.max(np.abs(np.array(mine) - right)) / np.max(np.abs(right))


def test_clients_agree_to_1e14_with_given_steps(client):
    """320 steps of the classical method: the same numbers but for rounding, y, loss and gradient."""
    data = with_given_steps(data_of(LOTKA), "rk4", 200)
    assert max(differences(ExternalProgram(client)(data), answer_of(data))) <= 1e-14


@pytest.mark.parametrize("method", ["dopri5", "dop853"])
def test_clients_agree_to_rounding_with_any_tableau(client, method):
    data = with_given_steps(data_of(LOTKA), method, 200)
    assert max(differences(ExternalProgram(client)(data), answer_of(data))) <= rounding_bound(len(data["solver"]["steps"]), KAPPA)


def test_clients_solve_to_a_tolerance(client):
    """RK4 with h = 2.5e-3 or less on this orbit: 1e-8 of the gradient."""
    data = data_of(LOTKA)
    assert max(differences(ExternalProgram(client)(data), answer_of(data, rtol=1e-12, atol=1e-13))) <= 1e-8


@pytest.mark.parametrize("id", ["lotka_volterra/running_cost", "pendulum/swing", "kink_forcing/ramp", "mlp/2_16_2"])
def test_clients_refuse_what_they_do_not_know(client, id):
    assert "only Lotka-Volterra with squares for a loss" in ExternalProgram(client)(data_of(id))["error"]


def test_clients_know_the_scale_of_a_loss(client):
    data = with_given_steps(data_of("lotka_volterra/loss_2m30"), "rk4", 50)
    assert max(differences(ExternalProgram(client)(data), answer_of(data))) <= 1e-13


@pytest.mark.parametrize("name", ["lotka_volterra.cpp", "lotka_volterra.m", "lotka_volterra.jl"])
def test_clients_are_short(name):
    assert len((CLIENTS / name).read_text().splitlines()) < 60


# --- programs that answer -------------------------------------------------------------------------

def test_a_program_is_asked_and_answers():
    answer = ask(python(ANSWERS))
    assert answer["loss"] == 1e-7 and "error" not in answer           # the tolerance reached it
    assert answer["problem_sha256"] == data_of("logistic/hessian")["sha256"]


def test_a_command_is_split_into_words_and_no_shell_runs(tmp_path):
    script = tmp_path / "a program.py"
    script.write_text(ANSWERS)
    assert ask(f"{sys.executable} '{script}' ; touch {tmp_path}/no")["loss"] == 1e-7
    assert not (tmp_path / "no").exists()


def test_a_program_need_not_read():
    """The problem is larger than a pipe holds, and the program ends without reading it."""
    data = data_of("mlp/2_32_32_2")
    answer = ExternalProgram(python(f"print('{{\"format\": \"refnode.answer\", \"version\": 1, \"problem_sha256\": \"{data['sha256']}\"}}')"))(data)
    assert "error" not in answer


def test_large_questions_and_answers_pass():
    data = data_of("mlp/2_32_32_2")
    answer = ExternalProgram(python("import json, sys; p = json.load(sys.stdin); print(json.dumps({'format': 'refnode.answer', 'version': 1, "
                                    "'problem_sha256': p['sha256'], 'grad': {'theta': [0.1]*200000}}))"))(data)
    assert len(answer["grad"]["theta"]) == 200_000


# --- programs that do not -------------------------------------------------------------------------

@pytest.mark.parametrize("script, says", [
    ("import sys; sys.exit(3)", "ended with exit code 3"),
    ("import os; os.kill(os.getpid(), 9)", "was ended by signal 9 (SIGKILL)"),
    ("", "printed nothing"),
    ("print('hello')", "printed no answer: standard output: not JSON: Expecting value at line 1 column 1; it begins 'hello"),
    ("print('[' * 10000)", "10000 deep"),
    ("print('{\"loss\": NaN}')", "at /loss: NaN is not JSON"),
    ("import sys; sys.stdout.buffer.write(bytes(range(256)))", "not UTF-8"),
    ("print('{\"format\": \"refnode.answer\", \"version\": 1, \"problem_sha256\": \"' + '0'*64 + '\"}')", "an answer to another problem"),
    ("import os; os.write(1, b'x' * 10**8)", "printed more than 16 MiB"),
])
def test_what_is_no_answer_is_an_error(script, says):
    answer = ask(python(script))
    assert says in answer["error"] and len(answer["error"]) < 1000


@pytest.mark.parametrize("command, says", [
    ("no_such_program_at_all", "could not be started: No such file or directory"), ("/dev/null", "could not be started: Permission denied")])
def test_what_is_no_program(command, says):
    assert says in ask(command)["error"]


@pytest.mark.parametrize("command", ["", "  ", "'open"])
def test_what_is_no_command(command):
    with pytest.raises(InvalidInputError, match="command"):
        ExternalProgram(command)


def test_the_last_twenty_lines_of_standard_error_are_kept():
    answer = ask(python("import sys\nfor i in range(1000): print('line', i, file=sys.stderr)\nsys.exit(1)"))
    lines = answer["error"].splitlines()
    assert lines[:2] == ["ended with exit code 1", "standard error ends:"] and lines[2:] == [f"line {i}" for i in range(980, 1000)]


def test_a_flood_on_standard_error_is_no_failure_and_takes_no_memory():
    answer = ask(python("import os; os.write(2, b'x' * 10**8); " + ANSWERS), 60.0)
    assert "error" not in answer
    outcome = external_program.run(python("import os; os.write(2, b'x' * 10**8)"), b"", 60.0)
    assert len(outcome.errors) == external_program.ERROR_BYTES


def still_there(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat", encoding="utf-8") as stream:
        return stream.read().rpartition(")")[2].split()[0] != "Z"     # ended, and not yet collected by its parent


def gone(pid, seconds=10.0):
    """Whether a process ends within some seconds."""
    end = time.monotonic() + seconds
    while still_there(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return not still_there(pid)


FAMILY = """
import os, signal, subprocess, sys, time
{ignore}
child = subprocess.Popen([sys.executable, "-c", "import signal, time; {ignore}; time.sleep(600)"])
open({path!r} + ".part", "w").write(f"{{os.getpid()}} {{child.pid}}")
os.rename({path!r} + ".part", {path!r})
{then}
"""


@pytest.mark.parametrize("ignore", ["pass", "signal.signal(signal.SIGTERM, signal.SIG_IGN)"])
@pytest.mark.parametrize("then", ["time.sleep(600)", "print('{}')"])
def test_the_whole_group_is_ended(tmp_path, ignore, then):
    """A program that hangs, or leaves a child behind that holds its output open; with and without deaf ears."""
    path = tmp_path / "pids"
    answer = ask(python(FAMILY.format(path=str(path), then=then, ignore=ignore)), 3.0)
    assert "took longer than 3 s" in answer["error"] or "expected 'refnode.answer'" in answer["error"]
    assert all(gone(int(pid)) for pid in path.read_text().split())


def test_ctrl_c_ends_the_group_too(tmp_path):
    path = tmp_path / "pids"
    program = FAMILY.format(path=str(path), then="time.sleep(600)", ignore="pass")
    command = [sys.executable, "-m", "refnode", "check", "--problem", "logistic/hessian", "--cmd", f"{sys.executable} {tmp_path / 'p.py'}"]
    (tmp_path / "p.py").write_text(program)
    root = str(pathlib.Path(__file__).resolve().parents[1])
    running = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 300
    while not path.exists() and running.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    assert path.exists(), running.communicate()
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130 and errors.strip() == "refnode: interrupted"
    assert all(gone(int(pid)) for pid in path.read_text().split())


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_the_time_limit_is_positive(seconds):
    with pytest.raises(InvalidInputError, match="time limit"):
        ExternalProgram("true", seconds)
