"""`validation/cuda/hardware.py` goes on to the end, whatever its checks do, and records what they did."""
import importlib.util
import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).resolve().parents[1] / "validation" / "cuda" / "hardware.py"
FACTS = {"device": "a device", "simulated": False, "versions": "numba 0"}
PYTHON = [sys.executable, "-S", "-E", "-c"]
SLEEPS = "import time; time.sleep(600)"
HALF = "print('tests/a.py::test_a[x y] PASSED [ 50%]'); print('tests/a.py::test_b[z] FAILED [100%]'); raise SystemExit(1)"
HANGS = f"print('tests/a.py::test_a[x y] PASSED [ 50%]', flush=True); {SLEEPS}"
SKIPS = "print('tests/a.py::test_a SKIPPED (no GPU) [100%]\\nSKIPPED [1] tests/a.py:1: no GPU: none at all')"
GRANDCHILD = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-S', '-c', {SLEEPS!r}]).pid, flush=True); {SLEEPS}"


@pytest.fixture(scope="module")
def hardware():
    spec = importlib.util.spec_from_file_location("hardware", SCRIPT)
    module = sys.modules["hardware"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(hardware, folder, checks):
    """Exit status, checks and the record after them."""
    (folder / "logs").mkdir()
    record = folder / "cuda.md"
    record.write_text(f"# what ran\n\nby hand\n\n{hardware.BEGIN}\nold\n{hardware.END}\n\nby hand, too\n")
    status = hardware.run_all(checks, FACTS, folder, record, say=lambda *_, **__: None)
    return status, checks, record.read_text()


def test_all_checks_run_whatever_the_others_do(hardware, tmp_path):
    """One passes, one fails, one has no program, one dies by a signal, two hang; two have tests; the last passes again."""
    check, tests = hardware.Check, ("tests/a.py::test_a[x y]", "tests/a.py::test_b[z]")
    status, checks, record = run(hardware, tmp_path, [
        check("passes", [*PYTHON, "print('all is well')"], 60), check("fails", [*PYTHON, "raise SystemExit('on purpose')"], 60),
        check("absent", [str(tmp_path / "nowhere")], 60), check("dies", [*PYTHON, "import os; os.kill(os.getpid(), 11)"], 60),
        check("hangs", [*PYTHON, SLEEPS], 0.25), check("has children", [*PYTHON, GRANDCHILD], 0.75),
        check("half", [*PYTHON, HALF], 60, tests), check("half and hangs", [*PYTHON, HANGS], 0.75, tests),
        check("skips", [*PYTHON, SKIPS], 60, tests[:1]), check("tool", [], 60, note="it is not installed"),
        check("benchmark: G1", [*PYTHON, f"open({str(tmp_path / 'G1.md')!r}, 'w').write('# G1\\n\\n| a |')"], 60)])
    verdicts = [each.verdict.strip("*") for each in checks]
    assert status == 1
    assert verdicts == ["passed", "FAILED", "FAILED", "KILLED", "KILLED", "KILLED", "FAILED", "KILLED", "did not run", "did not run", "passed"]
    for text in ("| passes | passed | 0 | all is well |", "exit status 1: on purpose", "cannot be started", "by SIGSEGV", "after 0.25 s",
                 "1 of 2 tests passed, 1 FAILED: `test_b[z]`", "1 of 2 tests passed, 1 without an end", "no GPU: none at all",
                 "it is not installed", "11 checks: 2 passed, 3 failed, 4 killed, 2 did not run.", "### G1\n\n| a |"):
        assert text in record, (text, record)
    assert record.startswith("# what ran\n\nby hand\n\n") and record.endswith("\n\nby hand, too\n") and "\nold\n" not in record
    grandchild = pathlib.Path("/proc") / (tmp_path / "logs" / "005_has_children.log").read_text().strip()
    assert not grandchild.exists() or "Z (" in (grandchild / "status").read_text()


def test_a_record_is_whole_at_any_time(hardware, tmp_path):
    """Each check sees its own row as one to come; what is missing at the end does not fail, what cannot run does."""
    look = [*PYTHON, f"text = open({str(tmp_path / 'cuda.md')!r}).read(); raise SystemExit('| looks | to come |' not in text or "
                     f"{hardware.END!r} not in text)"]
    status, (seen, _), record = run(hardware, tmp_path, [hardware.Check("looks", look, 60), hardware.Check("tool", [], 60, note="absent")])
    assert status == 0 and seen.verdict == "passed" and "| looks | passed |" in record
    hardware.put_section(tmp_path / "cuda.md", f"{hardware.BEGIN}\nnew\n{hardware.END}")
    assert (tmp_path / "cuda.md").read_text().count(hardware.BEGIN) == 1


def test_tests_that_all_skip_are_no_success(hardware, tmp_path):
    status, (check,), _ = run(hardware, tmp_path, [hardware.Check("skips", [*PYTHON, SKIPS], 60, ("tests/a.py::test_a",))])
    assert status == 1 and check.verdict == "did not run"


def test_interrupted(hardware, tmp_path, monkeypatch):
    """What was to come did not run, and the record says so."""
    def interrupt(check, log):
        raise KeyboardInterrupt
    monkeypatch.setattr(hardware, "run_check", interrupt)
    status, checks, record = run(hardware, tmp_path, [hardware.Check("first", PYTHON, 60), hardware.Check("second", PYTHON, 60)])
    assert status == 130 and "| first | **KILLED** |" in record and "| second | did not run | 0 | Ctrl-C before its turn |" in record


def test_without_a_device_the_record_stays(hardware, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(hardware, "probe", lambda python: {"missing": "no CUDA device can be reached"})
    assert hardware.main(["--folder", str(tmp_path), "--output", str(tmp_path / "cuda.md")]) == 2
    assert not list(tmp_path.iterdir()) and "no CUDA device" in capsys.readouterr().err


@pytest.mark.slow
def test_in_the_simulator_every_kind_of_check_runs(tmp_path):
    """The command itself: the tests of a GPU skip, since the simulator is compared with compiled code; the others pass."""
    import os
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1", "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": str(SCRIPT.parents[2])}
    done = subprocess.run([sys.executable, str(SCRIPT), "--folder", str(tmp_path)], env=environment, capture_output=True, text=True)
    record = (tmp_path / "cuda.md").read_text()
    assert done.returncode == 1 and "nothing below ran on a GPU" in record, done.stderr
    rows = [line for line in record.partition("## On hardware")[2].splitlines() if line.startswith(("| doctor", "| tests", "| validate", "| bench"))]
    assert len(rows) > 30
    for row in rows:
        assert ("did not run" if row.startswith("| tests") else "| passed |") in row, row
    assert "compute-sanitizer watches no simulator" in record
