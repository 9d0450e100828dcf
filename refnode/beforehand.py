"""Compiling beforehand: other processes fill the disk cache while this one goes on."""
import contextlib
import importlib
import os
import subprocess
import sys
import tempfile

from numba.core import config

from refnode.disk_cache import cache_home, package_root
from refnode.linked_bodies import cycles_kept

RECORD = 512                # bytes of a group of names in the pipe that the processes take their work from
COMPILE = "from refnode.beforehand import prepare_all; prepare_all()"


def named(name):
    """What ``module:function`` names."""
    module, function = name.split(":")
    return getattr(importlib.import_module(module), function)


def prepare(name):
    """Compile, or load from the disk cache: a driver, or what a function without arguments compiles when called."""
    thing = named(name)
    getattr(thing, "prepare", thing)()


def prepare_all():
    """`prepare` one group of names after another from standard input, until there is none left."""
    step_back()
    with cycles_kept():
        while prepare_next(sys.stdin.fileno()):
            pass


def step_back():
    """Go behind the process that waits for this one, which has work of its own."""
    if hasattr(os, "nice"):
        os.nice(5)


def prepare_next(source):
    """`prepare` the next group of names of a pipe; False if there is none left."""
    record = os.read(source, RECORD)            # whole: so little is read and written at once
    for name in record.decode().split():
        prepare(name)
    return bool(record)


def missing_drivers(names):
    """Those of the drivers named that the disk cache lacks."""
    return [name for name in names if not named(name).is_cached()]


def cache_takes_files():
    """Whether compiled functions can come from the disk cache: else all would be for nothing."""
    if config.DISABLE_JIT:
        return False
    try:
        cache_home().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache_home()):
            return True
    except OSError:
        return False


@contextlib.contextmanager
def compiling(groups, workers=1):
    """Processes that compile while the body runs, each the next group of names; they are not left behind.

    Yields them, and the pipe that the groups come from: who has nothing else to do takes one by `prepare_next`. What
    they fail to do is done where it is needed.
    """
    with processes(COMPILE, [" ".join(group).encode().ljust(RECORD) for group in groups], workers) as started:
        yield started


@contextlib.contextmanager
def processes(command, records, workers):
    """Python processes that take the records of a pipe, their standard input, between them; they are not left behind.

    Yields them, at most one a record, and the pipe, of which whoever started them may take records as well.
    """
    path = os.pathsep.join([str(package_root().parent), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    source, sink = os.pipe()
    os.write(sink, b"".join(records))
    os.close(sink)
    children = [subprocess.Popen([sys.executable, "-P", "-c", command], stdin=source, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": path})
                for _ in range(min(workers, len(records)))]
    try:
        yield children, source
    finally:
        os.close(source)
        for child in children:
            child.kill()
            child.wait()
