"""The same body in single precision: its constants, the bodies it calls, and the types a driver takes.

A body is one text for every precision. `rebound` copies it with other constants and other callees; `single_form`
does so all the way down, for the CPU; `cuda_device.device_form` does it for a GPU. Where the text is right for
doubles alone, as it is where bits are counted, the body names another in its attribute ``single``; one that names
itself stays as it is, and its results are rounded when they are stored.

States, slopes, parameters, tapes and cotangents are single. What times are made of stays double (`DOUBLE`): clock,
grid, observations, step control and the nodes c_i, so that the steps of a solve know their times to 1e-16 wherever
on the axis they lie; and so do the coefficients of the dense output, polynomials in time whose terms cancel. A step
length is a difference of times, and a formula on states takes it single.
"""
import functools
import types as python_types

import numpy as np
from numba import jit, types
from numba.core import config
from numba.core.dispatcher import Dispatcher

from refnode.host_device import Driver, FunctionPointerType, higher_order, host_device, inlined, outlined

DOUBLE = {"P", "c", "c_extra", "control", "grid", "clock", "times", "ts", "times_bar", "growth"}      # arrays of a driver


def rebound(body, value_of):
    """A copy of a Python function in which each constant, global and captured value x is ``value_of(x)``."""
    own = {name: value_of(body.__globals__[name]) for name in body.__code__.co_names if name in body.__globals__}
    cells = tuple(python_types.CellType(value_of(cell.cell_contents)) for cell in body.__closure__ or ())
    code = body.__code__.replace(co_consts=tuple(map(value_of, body.__code__.co_consts)))
    return python_types.FunctionType(code, {**body.__globals__, **own}, body.__name__, body.__defaults__, cells)


def narrowing(formula, names, narrowed):
    """A Python function that calls ``formula``, whose arguments have these names, with those in ``narrowed`` rounded to
    single; None if there are none."""
    if not narrowed & set(names):
        return None
    passed = ", ".join(f"single({name})" if name in narrowed else name for name in names)
    return eval(f"lambda {', '.join(names)}: formula({passed})", {"formula": formula, "single": np.float32})


# --- bodies for the CPU ---------------------------------------------------------------------------

@functools.lru_cache(maxsize=None)
def single_form(function):
    """A compiled body in single precision, compiled as the body itself is: formula, body of a driver, or a user's.

    Without Numba it is the body: NumPy lets Python's constants take the precision of the arrays.
    """
    chosen = getattr(function, "single", function)
    if config.DISABLE_JIT or chosen is function is getattr(function, "single", None):
        return function
    twin = rebound(chosen.py_func, _in_single)
    twin.__name__ = twin.__qualname__ = f"{twin.__name__}_single"
    if getattr(chosen, "is_higher_order", False):
        return (higher_order if chosen.targetoptions["forceinline"] else outlined)(twin)
    options = getattr(chosen, "options", None)
    if options is None:
        return jit(**chosen.targetoptions)(twin)
    formula = (inlined if "fastmath" in options else host_device)(twin)
    narrow = narrowing(formula, twin.__code__.co_varnames[:twin.__code__.co_argcount], {"h"})
    return formula if narrow is None else higher_order(narrow)


def _in_single(value):
    """What takes the place of a constant, a global or a captured value of a body."""
    if type(value) is float:
        return np.float32(value)
    if type(value) is tuple:
        return tuple(map(_in_single, value))
    if isinstance(value, python_types.FunctionType):            # one that chooses its body by what it is given
        value = getattr(value, "single", value)
    return single_form(value) if isinstance(value, Dispatcher) else value


# --- drivers --------------------------------------------------------------------------------------

def single_type(type_):
    """A type of a driver's argument, with single arrays; a function of them still takes its time double."""
    if isinstance(type_, FunctionPointerType):
        signature = type_.signature
        return FunctionPointerType(signature.return_type(*map(single_type, signature.args)))
    if isinstance(type_, types.Array) and type_.dtype == types.float64:
        return types.Array(types.float32, type_.ndim, type_.layout)
    return type_


class SingleDriver(Driver):
    """A driver for single arrays, compiled when first called, and cached on disk, as every driver.

    Parameters
    ----------
    driver : Driver
        Whose last argument is a tuple of arrays.
    names : sequence of str
        Those of the entries of this tuple; what is in DOUBLE stays double.
    """

    def __init__(self, driver, names):
        functools.update_wrapper(self, driver.py_func)
        self.__name__ += "_single"
        self.driver, self.names = driver, tuple(names)
        self.is_higher_order, self.disjoint, self._entry = True, False, None

    @functools.cached_property
    def py_func(self):
        if config.DISABLE_JIT:
            return self.driver.py_func
        twin = rebound(self.driver.py_func, _in_single)
        twin.__name__ = twin.__qualname__ = self.__name__
        return twin

    @functools.cached_property
    def signature(self):
        *functions, arguments = self.driver.signature.args
        entries = (type_ if name in DOUBLE else single_type(type_) for name, type_ in zip(self.names, arguments, strict=True))
        return self.driver.signature.return_type(*map(single_type, functions), types.Tuple(tuple(entries)))


def argument_names(body, functions):
    """The names of a body's arguments behind its functions."""
    code = getattr(body, "py_func", body).__code__
    return code.co_varnames[functions:code.co_argcount]
