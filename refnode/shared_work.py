"""Work shared with other processes: each does what comes next, and leaves the result in a folder."""
import contextlib
import os
import pickle
import sys
import tempfile
from pathlib import Path

from refnode.atomic_file import write_atomically
from refnode.beforehand import named, processes, step_back

RECORD = 8                      # bytes of a number in the pipe that all take their work from
SERVE = "from refnode.shared_work import serve; serve({folder!r})"


@contextlib.contextmanager
def shared(make, argument, numbers, workers):
    """Other processes do numbered work beside the body, which does some of it, too.

    Parameters
    ----------
    make : str
        "module:function"; ``function(argument)[number]()`` is a result. Argument and results are pickled.
    argument : object
    numbers : sequence of int
        In the order in which they are taken.
    workers : int
        How many processes, at most.

    Yields
    ------
    take : callable
        ``take()`` is the next number for the body to work on, or None.
    results : callable
        ``results(waiting=False)`` is a dict of what the others have done since it was last called; waiting, of all
        that they will do. What a process that dies leaves undone is missing.
    """
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "work").write_bytes(pickle.dumps((make, argument)))
        records = [number.to_bytes(RECORD, "little") for number in numbers]
        with processes(SERVE.format(folder=folder), records, workers) as (children, source):
            def results(waiting=False):
                for child in children if waiting else ():
                    child.wait()
                return {int(path.stem): taken_from(path) for path in Path(folder).glob("*.result")}
            yield lambda: next_number(source), results


def taken_from(path):
    """What a file holds, which is removed."""
    content = pickle.loads(path.read_bytes())
    path.unlink()
    return content


def next_number(source):
    """The next number of a pipe, or None."""
    record = os.read(source, RECORD)
    return int.from_bytes(record, "little") if record else None


def serve(folder):
    """Do the work of `shared` that standard input numbers, until there is none left."""
    step_back()
    make, argument = pickle.loads(Path(folder, "work").read_bytes())
    work = named(make)(argument)
    while (number := next_number(sys.stdin.fileno())) is not None:
        write_atomically(Path(folder, f"{number}.result"), pickle.dumps(work[number]()))
