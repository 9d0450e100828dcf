"""Parts of a batch in threads: a compiled loop lets go of the interpreter, so that other threads run beside it.

No number depends on which thread takes which part, or when: a part writes to places of its own, and what is
added up over parts is added by the calling thread, in their order.
"""
import collections
import copy
import contextvars
import os
import threading

import numpy as np

from refnode.errors import InvalidInputError

PARTS_A_THREAD = 8           # so that no thread waits long for the last one
AHEAD = 4                    # parts of each thread that may wait for an earlier part
LOOK_UP = 0.05               # seconds after which a waiting thread looks for a signal that another one received


class Stopped(Exception):
    """Raised in a thread whose result nobody waits for any longer."""


class StopSign:
    """Seen by threads between two slices; `check` raises `Stopped` once it is set."""

    def __init__(self):
        self._event = threading.Event()
        self.set = self._event.set

    def check(self):
        if self._event.is_set():
            raise Stopped


def thread_count(threads):
    """How many threads ``threads`` means; None is one for each processor that this process may use.

    Raises
    ------
    InvalidInputError
        Unless it is None or an integer of at least 1.
    """
    if threads is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if isinstance(threads, (bool, np.bool_)) or not isinstance(threads, (int, np.integer)) or threads < 1:
        raise InvalidInputError("threads must be an integer of at least 1, or None for one for each usable processor, "
                                f"found {threads!r}")
    return int(threads)


def parts_of(count, threads, most):
    """0 ... count - 1 in parts (begin, end) of at most ``most``, several for each of several threads."""
    size = min(most, count if threads == 1 else -(-count // (PARTS_A_THREAD * threads)))
    return [(begin, min(begin + size, count)) for begin in range(0, count, size)]


def in_parts(samples, threads, work, take, most):
    """`in_order` for parts of a batch; the workers are ``samples`` and twins that share its results.

    What is plain Python would not run side by side, and is left to one.
    """
    threads = threads if samples.field.compiled else 1
    parts, stop = parts_of(len(samples.batch), threads, most), StopSign()
    workers = [samples] + [copy.copy(samples) for _ in range(min(threads, len(parts)) - 1)]
    for twin in workers[1:]:
        twin.make_workspace()
    for worker in workers:
        worker.stop = stop
    in_order(work, parts, workers, take, stop)


def in_order(work, parts, workers, take, stop):
    """take(part, work(worker, part)) for every part, in their order and in this thread.

    Each worker does one part at a time, each in a thread if there are several. What ``work`` raises is raised
    here when the part's turn comes; then, as at Ctrl-C, ``stop`` is set and the threads are waited for.
    """
    if len(workers) == 1:
        for part in parts:
            take(part, work(workers[0], part))
        return
    from concurrent.futures import ThreadPoolExecutor, wait     # not for those who need no threads
    idle, waiting, context = list(workers), collections.deque(), contextvars.copy_context()

    def work_of_idle(part):
        worker = idle.pop()
        try:
            return work(worker, part)
        finally:
            idle.append(worker)

    def take_first():
        part, future = waiting.popleft()
        while not wait([future], LOOK_UP).done:
            pass
        take(part, future.result())

    with ThreadPoolExecutor(len(workers)) as pool:
        try:
            for part in parts:
                waiting.append((part, pool.submit(context.copy().run, work_of_idle, part)))   # NumPy's errstate comes along
                while waiting and (waiting[0][1].done() or len(waiting) > AHEAD * len(workers)):
                    take_first()
            while waiting:
                take_first()
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
