"""A program in any language: the problem on its standard input, the answer on its standard output.

The program runs in a process group of its own, which is ended with it: on a time limit, on too much output, on Ctrl-C. It
may fail in any way it likes; what comes back is an answer whose ``error`` says how, with the end of its standard error.
"""
import contextlib
import os
import selectors
import shlex
import signal
import subprocess
import time

from refnode.errors import InvalidInputError, ProblemFileError
from refnode.interchange import answer_file
from refnode.interchange.json_text import json_text
from refnode.interchange.problem_file import checked_problem
from refnode.interchange.safe_reading import MAX_BYTES, shown

ERROR_LINES = 20                # of standard error that a report quotes
LINE = 300                      # characters of each
ERROR_BYTES = 64 * 2**10        # of standard error that are kept
GRACE = 0.5                     # seconds between asking a group to end and ending it
CHUNK = 2**16


class ExternalProgram:
    """A command as a function that answers problems: ``program(problem, rtol, atol) -> answer``.

    Parameters
    ----------
    command : str or sequence of str
        A string is split as a shell would split it; no shell runs.
    seconds : float
        Time limit for one problem.
    """

    def __init__(self, command, seconds=60.0):
        self.arguments = _split(command)
        self.seconds, self.last_failure = float(seconds), None
        if not self.seconds > 0.0:
            raise InvalidInputError(f"the time limit must be a positive number of seconds, found {seconds!r}")

    def __call__(self, problem, rtol=None, atol=None):
        question = problem = checked_problem(problem)
        if problem.get("solver", {}).get("mode") != "fixed" and rtol is not None:
            question = {**problem, "solver": {"mode": "tolerance", "rtol": rtol, "atol": rtol if atol is None else atol}}
        outcome = run(self.arguments, json_text(question).encode(), self.seconds)
        if outcome.failure is None:
            try:
                answer = answer_file.answer_from(bytes(outcome.output), "standard output", problem)
            except ProblemFileError as error:
                begins = f"; it begins {shown(outcome.output[:50].decode('utf-8', 'replace'))}" if outcome.output else ""
                outcome.failure = f"printed no answer: {error}{begins}" if outcome.output else "printed nothing"
            else:
                return answer
        self.last_failure = outcome.text()
        return {"format": answer_file.FORMAT, "version": answer_file.VERSION, "problem_sha256": problem["sha256"],
                "tool": {"name": os.path.basename(self.arguments[0])[:100]}, "error": self.last_failure}


def _split(command):
    try:
        arguments = shlex.split(command) if isinstance(command, str) else [str(word) for word in command]
    except ValueError as error:
        raise InvalidInputError(f"the command {command!r} cannot be split into words: {error}") from error
    if not arguments:
        raise InvalidInputError("the command is empty")
    return arguments


class Outcome:
    """What a program printed, and how it failed, if it did."""

    def __init__(self, failure=None):
        self.failure, self.output, self.errors = failure, bytearray(), b""

    def text(self):
        """The failure and the last lines of standard error."""
        lines = [line[-LINE:] for line in self.errors.decode("utf-8", "replace").splitlines()[-ERROR_LINES:]]
        return "\n".join([self.failure, *(["standard error ends:"] if lines else []), *lines])


def run(arguments, question, seconds):
    """Run a program on the bytes of a question; returns its `Outcome`."""
    try:
        process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   start_new_session=True, bufsize=0)
    except (OSError, ValueError) as error:
        return Outcome(f"could not be started: {getattr(error, 'strerror', None) or error}")
    outcome = Outcome()
    try:
        _converse(process, question, time.monotonic() + seconds, outcome)
        if outcome.failure is None and not has_ended(process):
            outcome.failure = f"took longer than {seconds:g} s"
    finally:
        end_group(process)
    if outcome.failure is None and process.returncode != 0:
        outcome.failure = _how_it_ended(process.returncode)
    return outcome


def _how_it_ended(code):
    if code > 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else "unknown"
    return f"was ended by signal {-code} ({name})"


def _converse(process, question, deadline, outcome):
    """Write the question, read both outputs; ends when the program does, or at the deadline, or at too much output."""
    with selectors.DefaultSelector() as selector:
        for stream, event in ((process.stdin, selectors.EVENT_WRITE), (process.stdout, selectors.EVENT_READ),
                              (process.stderr, selectors.EVENT_READ)):
            os.set_blocking(stream.fileno(), False)
            selector.register(stream, event)
        rest = memoryview(question)
        while selector.get_map() and outcome.failure is None:
            now = time.monotonic()
            if now >= deadline:
                return
            ended = has_ended(process)
            ready = selector.select(0.0 if ended else min(0.05, deadline - now))
            if ended and not ready:
                return                                # what it left running may hold the pipes open
            for key, _ in ready:
                if key.fileobj is process.stdin:
                    rest = _write(selector, process.stdin, rest)
                else:
                    _read(selector, key.fileobj, process, outcome)
        while outcome.failure is None and not has_ended(process) and time.monotonic() < deadline:
            time.sleep(0.005)


def _write(selector, stream, rest):
    try:
        rest = rest[os.write(stream.fileno(), rest[:CHUNK]):]
    except BrokenPipeError:                           # it reads no further: its right
        rest = rest[:0]
    if not rest:
        selector.unregister(stream)
        stream.close()
    return rest


def _read(selector, stream, process, outcome):
    chunk = os.read(stream.fileno(), CHUNK)
    if not chunk:
        selector.unregister(stream)
    elif stream is process.stderr:
        outcome.errors = (outcome.errors + chunk)[-ERROR_BYTES:]
    elif len(outcome.output) + len(chunk) > MAX_BYTES:
        outcome.failure = f"printed more than {MAX_BYTES // 2**20} MiB"
    else:
        outcome.output += chunk


def has_ended(process):
    """Whether a program has ended; its process number, which is that of its group, stays taken until `end_group`."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def end_group(process):
    """End every process of the group that the program started, and close the pipes."""
    for stream in (process.stdin, process.stdout, process.stderr):
        with contextlib.suppress(OSError):
            stream.close()
    for number, wait in ((signal.SIGTERM, GRACE), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(wait)
