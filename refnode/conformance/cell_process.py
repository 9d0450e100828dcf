"""A process that answers one cell after another: kept alive, so that a library is imported once, and killed on time-out.

The child is spawned, never forked: it shares no lock and no thread with the parent. What it prints, also from C, goes
to a file that the parent can still read when the child has died.
"""
import multiprocessing
import os
import resource
import signal
import tempfile
import time
import traceback
import warnings
from dataclasses import asdict, dataclass, field

START_LIMIT = 300.0         # seconds for the import of a library
MOST_TEXT = 4000            # characters kept of what a cell printed
PATIENCE = 8.0              # a cell may take so many times its processor time on the clock: machines are shared
MOST_MEMORY = 8 * 2 ** 30   # bytes of data a child may hold: running out is a cell too


@dataclass(frozen=True)
class Request:
    """One cell to fill."""

    problem_id: str
    sha256: str
    tool: str
    mode: str
    method: str
    rtol: float
    atol: float

    @property
    def key(self):
        return (self.sha256, self.tool, self.mode, self.method, self.rtol, self.atol)


@dataclass
class Outcome:
    """What became of a request.

    Attributes
    ----------
    status : "answered", "raised", "hung", "crashed", "unsupported" or "unavailable"
    answer : dict or None
        The interchange form, if there is one.
    message : str
        The exception, the signal, the limit.
    warned : list of str
        Python warnings, each once.
    printed : str
        What went to the standard outputs, also from C.
    seconds : float
        Time of the whole cell by the clock.
    versions : dict
    limit : float
        The seconds it was given.
    """

    status: str
    answer: dict | None = None
    message: str = ""
    warned: list = field(default_factory=list)
    printed: str = ""
    seconds: float = 0.0
    versions: dict = field(default_factory=dict)
    limit: float = 0.0


# --- the child ------------------------------------------------------------------------------------

def serve(connection, tool, log):
    """Answer requests until the connection closes; every exception becomes an `Outcome`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)                # the parent decides when this ends
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, MOST_MEMORY))
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    try:
        from refnode.adapters import adapter_named
        adapter = adapter_named(tool)
        versions, modes = adapter.versions(), {name: asdict(mode) for name, mode in adapter.MODES.items()}
    except Exception as error:
        connection.send(({}, {}, _first_line(error)))
        return
    connection.send((versions, modes, ""))
    while True:
        try:
            problem, request = connection.recv()
        except (EOFError, OSError):
            return
        connection.send(answered(adapter, problem, request))


def answered(adapter, problem, request):
    """The `Outcome` of one request in this process."""
    from refnode.adapters.answer_form import NotExpressible
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            answer = adapter.answer(problem, request.mode, request.method, request.rtol, request.atol)
            outcome = Outcome("answered", answer)
        except NotExpressible as error:
            outcome = Outcome("unsupported", message=str(error))
        except Exception as error:
            outcome = Outcome("raised", message=_first_line(error), printed=traceback.format_exc()[-MOST_TEXT:])
    outcome.warned = list(dict.fromkeys(f"{w.category.__name__}: {' '.join(str(w.message).split())}"[:400] for w in caught))
    return outcome


def _first_line(error):
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines)[:400]}" if lines else type(error).__name__


def processor_seconds(pid):
    """Processor time of a process so far; nan where the system does not tell, so that only the clock counts."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stream:
            fields = stream.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return float("nan")


# --- the parent -----------------------------------------------------------------------------------

class CellProcess:
    """The parent's end. ``ask`` never raises for what the child does, and never waits longer than its limit."""

    def __init__(self, tool, start_limit=START_LIMIT, patience=PATIENCE):
        self.tool, self.start_limit, self.patience, self.process = tool, start_limit, patience, None
        self.versions, self.modes, self.reason = {}, {}, ""
        self.folder = tempfile.TemporaryDirectory(prefix="refnode-conform-")
        self.log, self.read_to = os.path.join(self.folder.name, "printed.txt"), 0
        self.start()

    def start(self):
        """Spawn the child and wait for its import; leaves ``reason`` if that fails."""
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, self.tool, self.log), daemon=True)
        self.process.start()
        theirs.close()
        self.reason = f"no import within {self.start_limit:g} s"
        try:
            if self.connection.poll(self.start_limit):
                self.versions, self.modes, self.reason = self.connection.recv()
        except (EOFError, OSError):
            self.reason = f"the process ended during the import{self._exit()}"
        if self.reason:
            self.stop()
        self._printed()

    def ask(self, problem, request, limit):
        """The `Outcome` of a request, within ``limit`` seconds of processor time and ``patience`` as long by the clock."""
        if self.process is None and not self.reason:
            self.start()
        if self.reason:
            return Outcome("unavailable", message=self.reason)
        started = time.perf_counter()
        try:
            self.connection.send((problem, request))
            if self._answers_within(limit):
                outcome = self.connection.recv()
            else:
                outcome = Outcome("hung", message=f"no answer within {limit:g} s; the process was ended")
                self.stop()
        except (EOFError, OSError):
            outcome = Outcome("crashed", message=f"the process ended{self._exit()}")
            self.stop()
        outcome.seconds = time.perf_counter() - started
        outcome.limit = limit
        outcome.versions, outcome.printed = self.versions, outcome.printed or self._printed()
        return outcome

    def _answers_within(self, limit):
        spent, end = processor_seconds(self.process.pid), time.perf_counter() + self.patience * limit
        while not self.connection.poll(0.05):
            if time.perf_counter() > end or processor_seconds(self.process.pid) - spent > limit:
                return False
        return True

    def _exit(self):
        self.process.join(5.0)
        code = self.process.exitcode
        if code is None or code >= 0:
            return f" with exit code {code}"
        return f" by {signal.Signals(-code).name}"

    def _printed(self):
        """What was printed since the last call."""
        if not os.path.exists(self.log):
            return ""
        with open(self.log, errors="replace") as stream:
            stream.seek(self.read_to)
            text = stream.read()
            self.read_to = stream.tell()
        return text[-MOST_TEXT:]

    def stop(self):
        """End the child; the next request starts another."""
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.connection.close()
            self.process = None

    def close(self):
        self.stop()
        self.folder.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()
