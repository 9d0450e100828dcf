"""Numba's CUDA simulator with threads that take turns, so that what it finds is the same every time.

There the threads of a block are Python's, and a race between them is found by chance. Here one runs at a time, up to its
next barrier, behind which the last goes on first: where a barrier is missing a thread reads what others have yet to write,
in one order of turns or in the other. Memory that nobody has written to holds NaN, and integers that are no index. Threads
that meet at different barriers, that end while others wait, or that meet too often, are errors.
"""
import sys
import threading

import numpy as np
from numba import cuda
from numba.core import types
from numba.cuda.simulator import kernel, kernelapi
from numba.cuda.simulator.cudadrv import devicearray
from numba.np.numpy_support import as_dtype

BARRIERS = 100_000             # of a block: more are taken for a loop without end
UNWRITTEN = -2**40             # an integer


class Parted(RuntimeError):
    """Threads of a block that do not meet at one barrier, or never end."""


class Turns:
    """A block, in the place of the simulator's ``BlockManager``."""

    reverse = False            # whether the last thread begins

    def __init__(self, function, grid_dim, block_dim, debug):
        self.function, self.block_dim = function, block_dim

    def run(self, block, *arguments):
        kernel._get_kernel_context().shared._allocations.clear()       # a block's own, which the simulator gives to all blocks
        self.error, self.met, self.ended, self.place = None, 0, 0, None
        self.done, self.arrived = threading.Lock(), []
        self.done.acquire()
        self.waiting = [Thread(self, block, point, arguments) for point in np.ndindex(*self.block_dim)]
        if not Turns.reverse:
            self.waiting.reverse()
        for thread in self.waiting:
            thread.start()
        self.pass_on()
        self.done.acquire()
        if self.error is not None:
            raise self.error

    def pass_on(self):
        """The next turn: of one that waits, else a new round of all that have arrived at the barrier."""
        if not self.waiting:
            self.waiting, self.arrived, self.place = self.arrived, [], None
        if self.waiting:
            self.waiting.pop().turn.release()
        else:
            self.done.release()

    def meet(self, thread, place):
        """A thread at a barrier: waits until all are there."""
        self.met += 1
        if self.error is None and (self.ended or self.place not in (None, place) or self.met > BARRIERS * len(self.block_dim)):
            self.error = Parted(f"threads of a block do not meet: barrier {self.met}, {self.ended} ended, at {place[0]}")
        if self.error is None:
            self.place = place
            self.arrived.append(thread)
            self.pass_on()
            thread.turn.acquire()
        if self.error is not None:
            raise Parted("another thread failed")

    def end(self, error):
        """A thread that ends, or fails."""
        self.ended += 1
        if self.error is None:
            self.error = error or (Parted("a thread ends while others wait") if self.arrived else None)
        self.pass_on()


class Thread(threading.Thread):
    """A thread of a block, as the simulator's modules look for it."""

    def __init__(self, block, block_point, point, arguments):
        super().__init__(daemon=True)
        self.block, self.arguments, self.turn = block, arguments, threading.Lock()
        self.blockIdx, self.threadIdx = kernelapi.Dim3(*block_point), kernelapi.Dim3(*point)
        self.turn.acquire()

    def run(self):
        self.turn.acquire()
        error = None
        try:
            if self.block.error is None:
                self.block.function(*self.arguments)
        except Exception as failure:
            error = failure
        self.block.end(error)

    def syncthreads(self):
        self.block.meet(self, where())


def where():
    """The lines from the barrier up to the kernel."""
    frame, lines = sys._getframe(3), []
    while frame.f_code is not Thread.run.__code__:
        lines.append((frame.f_code.co_name, frame.f_lineno))
        frame = frame.f_back
    return lines


def unwritten(shape, dtype):
    """An array that nobody has written to."""
    dtype = as_dtype(dtype) if isinstance(dtype, types.Type) else np.dtype(dtype)
    return np.full(shape, np.nan if dtype.kind == "f" else UNWRITTEN, dtype)


def shared_array(self, shape, dtype):
    """``cuda.shared.array``, of the line that calls it."""
    caller = sys._getframe(1)
    place = caller.f_code, caller.f_lineno
    if place not in self._allocations:
        self._allocations[place] = unwritten(shape, dtype)
    return self._allocations[place]


def take_turns():
    """From now on, in this process. Kernels then receive NumPy's arrays, not the simulator's slow ones around them."""
    kernel.BlockManager = Turns
    kernel.FakeWithinKernelCUDAArray = lambda array: array._ary
    kernelapi.FakeCUDALocal.array = staticmethod(unwritten)
    kernelapi.FakeCUDAShared.array = shared_array
    cuda.device_array = lambda shape, dtype: devicearray.FakeCUDAArray(unwritten(shape, dtype))
