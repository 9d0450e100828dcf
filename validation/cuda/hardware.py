"""Every check and benchmark that needs a GPU, to the end, and a record of what ran on which hardware (`make test-gpu`).

    python validation/cuda/hardware.py [--only 'tests*'] [--limit 3600] [--output validation/results/cuda.md]

Each check is a process with a time limit, since an error on a device spoils all that its process does there later: the
tests that are marked ``gpu``, a process a kind; `refnode validate --device cuda`, a process a problem; compute-sanitizer
where it is installed, a process a tool; and the benchmarks, a process a target. What fails, hangs or is killed ends its own
check alone. The record is written anew, as a whole, after every check; logs lie in ``--folder``. The exit status is 0 if all
that could run passed, 1 if anything failed, was killed or ran no test, 2 if there is no device, which leaves the record as
it is, and 130 after Ctrl-C. In the simulator sizes are small, and the record is not the committed one.
"""
import argparse
import dataclasses
import datetime
import fnmatch
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
RECORD = ROOT / "validation" / "results" / "cuda.md"
BEGIN, END = "<!-- begin: written by validation/cuda/hardware.py -->", "<!-- end -->"
PASSED, FAILED, KILLED, NOT_RUN, TO_COME = "passed", "**FAILED**", "**KILLED**", "did not run", "to come"
SANITIZERS = ("memcheck", "racecheck", "initcheck", "synccheck")
BENCHMARKS = ("G1", "G2", "G3")
MINUTE = 60.0
PROBE = """
import json, sys
sys.path.insert(0, "tests")
from importlib.metadata import PackageNotFoundError, version
from refnode import cuda_device
from refnode.evidence.subjects import problems
def of(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
import cuda_battery
names, covered = [], set()
for name, (kernels, _) in sorted(cuda_battery.PROGRAMS.items(), key=lambda each: -len(each[1][0])):
    if not kernels <= covered:
        names.append(name)
        covered |= kernels
print(json.dumps({"missing": cuda_device.missing(), "device": cuda_device.facts(), "simulated": cuda_device.is_simulated(),
                  "problems": list(problems()), "cover": names,
                  "versions": ", ".join(name + " " + of(name) for name in ("refnode", "numba", "numba-cuda", "numpy"))}))
"""


@dataclasses.dataclass
class Check:
    """One process, and what became of it. ``tests`` are the identifiers of the tests it runs, if it runs any."""

    name: str
    command: list
    limit: float
    tests: tuple = ()
    verdict: str = TO_COME
    note: str = ""
    seconds: float = 0.0

    @property
    def bad(self):
        return self.verdict in (FAILED, KILLED) or (self.verdict == NOT_RUN and bool(self.command))


# --- one check ------------------------------------------------------------------------------------

def run_check(check, log):
    """Run a check to its end or its limit, with all that it started; its output goes to the file ``log``."""
    if not check.command:
        check.verdict = NOT_RUN
        return
    started, environment = time.monotonic(), {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}
    with open(log, "wb") as stream:
        try:
            process = subprocess.Popen(check.command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=stream,
                                       stderr=subprocess.STDOUT, start_new_session=True)
        except OSError as error:
            check.verdict, check.note = FAILED, f"cannot be started: {error}"
            return
        try:
            status = process.wait(check.limit)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            end_group(process)
    check.seconds = time.monotonic() - started
    judge(check, status, log.read_text(encoding="utf-8", errors="replace"))


def end_group(process):
    """Kill a process and whatever it has started and left running."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def judge(check, status, text):
    """Verdict and note, from the exit status (None beyond the limit) and the output."""
    note = counted(check, text) if check.tests else last_line(text)
    if status is None:
        check.verdict, check.note = KILLED, f"after {check.limit:g} s: {note}"
    elif status < 0:
        check.verdict, check.note = KILLED, f"by {signal.Signals(-status).name}: {note}"
    elif status == 0 and (not check.tests or outcomes(text).count("PASSED") == len(check.tests)):
        check.verdict, check.note = PASSED, note
    elif check.tests and set(outcomes(text)) <= {"SKIPPED"} and status in (0, 5):
        check.verdict, check.note = NOT_RUN, f"{note}; {reason_of_skip(text)}"
    else:
        check.verdict, check.note = FAILED, f"exit status {status}: {note}"


def outcomes(text):
    """What pytest -vv says of each test that has ended."""
    return re.findall(r"^tests/\S.*? (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b", text, re.MULTILINE)


def counted(check, text):
    """How many tests passed, and which did not."""
    found = outcomes(text)
    words = [f"{found.count('PASSED')} of {len(check.tests)} tests passed"]
    words += [f"{found.count(what)} {what}" for what in ("FAILED", "ERROR", "SKIPPED") if what in found]
    words += [f"{len(check.tests) - len(found)} without an end"] if len(found) < len(check.tests) else []
    wrong = re.findall(r"^tests/\S*?::(\S.*?) (?:FAILED|ERROR)\b", text, re.MULTILINE)
    return ", ".join(words) + (": " + ", ".join(f"`{name}`" for name in wrong[:4]) if wrong else "") + (
        ", ..." if len(wrong) > 4 else "")


def reason_of_skip(text):
    found = re.findall(r"^SKIPPED \[\d+\] \S+ (.*)$", text, re.MULTILINE)
    return found[0] if found else "no reason given"


def last_line(text):
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in text.splitlines() if line.strip()]
    return lines[-1].replace("|", "/")[:200] if lines else "no output"


# --- which checks there are -----------------------------------------------------------------------

def kind_of(test):
    """Tests of one kind share a process: a function's, and of its cases those whose names begin with the same word."""
    function, _, case = test.split("::")[-1].partition("[")
    word = re.split(r"[ \]-]", case)[0]
    return function.removeprefix("test_") + (f" {word}" if word not in ("", "gpu") else "")


def collected(python):
    """The identifiers of all tests that are marked ``gpu``, and what pytest said if it could not read some file."""
    files = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "tests").glob("test_*.py"))
             if "mark.gpu" in path.read_text(encoding="utf-8")]
    done = subprocess.run([*python, "-m", "pytest", *files, "--collect-only", "-q", "-m", "gpu", "-p", "no:cacheprovider",
                           "-o", "addopts=", "--continue-on-collection-errors"], cwd=ROOT, capture_output=True, text=True)
    tests = [line for line in done.stdout.splitlines() if line.startswith("tests/") and "::" in line]
    return tests, "" if done.returncode == 0 and tests else last_line(done.stdout + done.stderr)


def all_checks(python, facts, folder, limit):
    """Every `Check`, in the order in which they run. One without a command says why it does not run."""
    tests, said = collected(python)
    pytest = [*python, "-m", "pytest", "-o", "addopts=", "-vv", "-rs", "--color=no", "-p", "no:cacheprovider"]
    kinds = {}
    for test in tests:
        kinds.setdefault(kind_of(test), []).append(test)
    checks = [Check("doctor", [*python, "-m", "refnode", "doctor"], MINUTE)]
    checks += [Check(f"tests: {kind}", [*pytest, *own], limit, tuple(own)) for kind, own in kinds.items()]
    if said:
        checks.append(Check("tests: all collected", [*python, "-c", f"raise SystemExit({said!r})"], limit))
    checks += [Check(f"validate: {name}", [*python, "-m", "refnode", "validate", "--device", "cuda", "--fields", name, "--quiet",
                                           "--no-figures", "--output", str(folder / "validate" / name)], limit)
               for name in facts["problems"]]
    return checks + sanitizer_checks(pytest, facts, tests, limit) + benchmark_checks(python, facts, folder, limit)


def sanitizer_checks(pytest, facts, tests, limit):
    """A few programs that launch every kernel between them, under each tool of compute-sanitizer."""
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None or facts["simulated"]:
        why = "compute-sanitizer watches no simulator" if facts["simulated"] else "compute-sanitizer is not installed"
        return [Check("compute-sanitizer", [], limit, note=why)]
    own = tuple(test for test in tests if any(f"[{name}-gpu]" in test or f"[gpu-{name}]" in test for name in facts["cover"]))
    return [Check(f"compute-sanitizer: {tool}", [sanitizer, "--tool", tool, "--error-exitcode", "1", "--target-processes", "all",
                                                 *pytest, *own], 3 * limit, own) for tool in SANITIZERS]


def benchmark_checks(python, facts, folder, limit):
    small = ["--smoke", "--rounds", "1"] if facts["simulated"] else []
    return [Check(f"benchmark: {work}", [*python, "validation/performance/gpu.py", "--only", work, *small,
                                         "--output", str(folder / f"{work}.md")], 2 * limit) for work in BENCHMARKS]


# --- the record -----------------------------------------------------------------------------------

def told_by(command):
    """The output of a command, or a line that says that there is none."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=MINUTE)
        return " ".join(done.stdout.split()) or f"{command[0]} says nothing"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{command[0]}: {type(error).__name__}"


def section(checks, facts, folder, started):
    """The part of the record that is written here."""
    card = told_by(["nvidia-smi", "--query-gpu=name,driver_version,memory.total,power.limit", "--format=csv,noheader"])
    state = told_by(["git", "describe", "--always", "--dirty", "--abbrev=12"])
    head = ["## On hardware", ""]
    head += ["**In the simulator: nothing below ran on a GPU, and times mean nothing.**", ""] if facts["simulated"] else []
    head += [f"`make test-gpu`, begun {started}, commit {state}. Device: {facts['device']}; {card}. {facts['versions']}. {totals(checks)}",
             "", "| check | verdict | seconds | what it said |", "|---|---|---|---|"]
    rows = [f"| {check.name} | {check.verdict} | {check.seconds:.0f} | {check.note.replace('|', '/')} |" for check in checks]
    return "\n".join([BEGIN, *head, *rows, *benchmark_tables(folder, checks), END])


def benchmark_tables(folder, checks):
    """The tables of the benchmarks that have one."""
    paths = [folder / f"{check.name.removeprefix('benchmark: ')}.md" for check in checks if check.name.startswith("benchmark: ")]
    texts = [path.read_text(encoding="utf-8").replace("# ", "### ", 1).strip() for path in paths if path.is_file()]
    return [line for text in texts for line in ("", *text.splitlines())]


def totals(checks):
    counts = [(sum(check.verdict == verdict for check in checks), verdict) for verdict in (PASSED, FAILED, KILLED, NOT_RUN, TO_COME)]
    return f"{len(checks)} checks: " + ", ".join(f"{count} {verdict.strip('*').lower()}" for count, verdict in counts if count) + "."


def put_section(path, text):
    """Replace the section between the marks in the record, or add it at the end; the file is the old one or the new one."""
    sys.path.insert(0, str(ROOT))
    from refnode.atomic_file import write_atomically
    source = path if path.is_file() else RECORD
    before, found, rest = source.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2] if found else "\n"
    write_atomically(path, before.rstrip("\n") + "\n\n" + text + after)


# --- all of them ----------------------------------------------------------------------------------

def run_all(checks, facts, folder, path, say=print):
    """Run every check; the record is written before the first and after each. Returns the exit status."""
    started = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="minutes")
    for number, check in enumerate(checks):
        put_section(path, section(checks, facts, folder, started))
        log = folder / "logs" / (re.sub(r"[^A-Za-z0-9_]+", "_", f"{number:03} {check.name}") + ".log")
        say(f"[{number + 1}/{len(checks)}] {check.name}", flush=True)
        try:
            run_check(check, log)
        except KeyboardInterrupt:
            check.verdict, check.note = KILLED, "by Ctrl-C"
            for other in checks[number + 1:]:
                other.verdict, other.note = NOT_RUN, "Ctrl-C before its turn"
            put_section(path, section(checks, facts, folder, started))
            return 130
        say(f"    {check.verdict.strip('*')} in {check.seconds:.0f} s: {check.note}", flush=True)
    put_section(path, section(checks, facts, folder, started))
    return 1 if any(check.bad for check in checks) else 0


def probe(python):
    """What there is to check, found out in a process of its own: a broken driver may hang or crash whoever asks it."""
    try:
        done = subprocess.run([*python, "-c", PROBE], cwd=ROOT, capture_output=True, text=True, timeout=5 * MINUTE)
    except subprocess.TimeoutExpired:
        return {"missing": "the driver does not answer"}
    return json.loads(done.stdout) if done.returncode == 0 else {"missing": last_line(done.stderr)}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="*", help="checks whose names match, with * and ?")
    parser.add_argument("--limit", type=float, default=30 * MINUTE, help="seconds of a process; the sanitizer has 3 times as many, a benchmark twice")
    parser.add_argument("--folder", type=pathlib.Path, default=ROOT / "report-gpu", help="of logs and reports (default: report-gpu)")
    parser.add_argument("--output", type=pathlib.Path, help=f"the record (default: {RECORD.relative_to(ROOT)}; of the simulator: cuda.md in --folder)")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    python, folder = [sys.executable], options.folder.resolve()
    facts = probe(python)
    if facts["missing"] is not None:
        print(f"no check ran, and the record is as it was: {facts['missing']}", file=sys.stderr)
        return 2
    shutil.rmtree(folder / "logs", ignore_errors=True)
    (folder / "logs").mkdir(parents=True)
    for work in BENCHMARKS:
        (folder / f"{work}.md").unlink(missing_ok=True)
    path = options.output or (folder / "cuda.md" if facts["simulated"] else RECORD)
    checks = all_checks(python, facts, folder, options.limit)
    for check in checks:
        if not fnmatch.fnmatchcase(check.name, options.only):
            check.command, check.note = [], f"not among --only {options.only}"
    status = run_all(checks, facts, folder, path)
    print(f"{totals(checks)} {path}")
    return status


if __name__ == "__main__":
    sys.exit(main())
