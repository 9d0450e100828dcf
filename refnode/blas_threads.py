"""How many threads BLAS takes: one, for programs of many small products.

OpenBLAS gives a product of some hundred rows by 32 columns to all processors. Its threads wait for each other by spinning:
on a machine whose processors have other work a fit took twelve times as long so, and twelve times the processor time.
The libraries are those that come with NumPy's and SciPy's wheels, SciPy's being the one that compiled functions call.
Where BLAS is another one, nothing is done.
"""
import contextlib
import ctypes
import functools
import pathlib

import numpy
import scipy

SUFFIXES = ("", "64_")                    # of the functions' names, by the size of BLAS's integers


@functools.cache
def libraries():
    """(get, set) for each OpenBLAS that came with NumPy or SciPy: functions that read and change its number of threads."""
    found = []
    for package in (numpy, scipy):
        folder = pathlib.Path(package.__file__).parents[1] / f"{package.__name__}.libs"
        for path in sorted(folder.glob("*openblas*")):
            found += functions_of(path)
    return found


def functions_of(path):
    """[(get, set)] of one library, or [] if it has no such functions."""
    try:
        library = ctypes.CDLL(str(path))
    except OSError:
        return []
    names = ("scipy_openblas_get_num_threads", "scipy_openblas_set_num_threads")
    return [tuple(getattr(library, name + suffix) for name in names)
            for suffix in SUFFIXES if all(hasattr(library, name + suffix) for name in names)]


@contextlib.contextmanager
def one_blas_thread():
    """Within it BLAS has one thread; afterwards as many as before."""
    before = [(set_threads, get_threads()) for get_threads, set_threads in libraries()]
    try:
        for set_threads, _ in before:
            set_threads(1)
        yield
    finally:
        for set_threads, count in before:
            set_threads(count)
