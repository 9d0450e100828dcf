"""Numba options, signatures and functions as arguments: how everything is compiled.

Three kinds of function make up the package:

``@host_device``   a formula. Compiled without a signature, so a CPU driver and a CUDA kernel can both
                   call it. It allocates nothing (Numba's runtime is switched off, which makes an
                   allocation a compile error and a reference count free) and raises nothing.
``@higher_order``  a formula that is handed other functions. The same, but not cached by itself: Numba
                   cannot cache a function whose argument is a dispatcher.
``@driver(...)``   the loop around formulas. Compiled on first use, for one explicit signature in which
                   functions are addresses, and cached on disk.

`python_form` gives the un-jitted twin of any of them, in which right-hand sides may be plain Python.
"""
import functools
import os
import time
import types as python_types
import warnings

import numba
import numpy as np
from numba import njit, types
from numba.core import caching, cgutils, config
from numba.core.errors import NumbaExperimentalFeatureWarning
from numba.core.datamodel import registry
from numba.experimental import function_type
from numba.extending import NativeValue, unbox

from refnode.disk_cache import LazyCache, PackageCache
from refnode.linked_bodies import DISJOINT, LINKED, OF_A_DRIVER, OUTER, cycles_kept, make_ready

OPTIONS = {"error_model": "numpy", "_nrt": False}
INLINED = {**OPTIONS, "forceinline": True}      # of formulas into drivers: halves the time of a small solve
BODY = {**INLINED, **LINKED}                    # of what is compiled into others alone

REAL = types.float64
INTEGER = types.int64
VECTOR = types.Array(types.float64, 1, "C")
MATRIX = types.Array(types.float64, 2, "C")
BLOCK = types.Array(types.float64, 3, "C")
INTEGERS = types.Array(types.int64, 1, "C")

# Seconds of drivers run un-jitted in a process before they are compiled, where they are in no cache and the work is short.
PATIENCE = float(os.environ.get("REFNODE_PATIENCE", "1"))
FEW_STATES, FEW_TIMES = 16, 1000


# --- functions as arguments -----------------------------------------------------------------------

class FunctionPointerType(types.FunctionType):
    """Numba's first-class function type, unboxed from a `FunctionPointer` in nanoseconds.

    Numba looks a dispatcher up afresh at every call, which costs 45 microseconds an argument.
    """


class FunctionPointer:
    """A dispatcher compiled for one signature, with its address at hand. Keeps the dispatcher alive."""

    __slots__ = ("dispatcher", "address")

    def __init__(self, dispatcher, function_type_):
        self.dispatcher = dispatcher
        with cycles_kept():
            result = dispatcher.get_compile_result(function_type_.signature)
        self.address = result.library.get_pointer_to_function(result.fndesc.llvm_func_name)


registry.register_default(FunctionPointerType)(
    registry.default_manager._handlers[types.FunctionType])


@unbox(FunctionPointerType)
def _unbox_function_pointer(typ, obj, c):
    pointer = cgutils.create_struct_proxy(typ)(c.context, c.builder)
    address = c.pyapi.object_getattr_string(obj, "address")
    pointer.jit_addr = c.pyapi.long_as_voidptr(address)
    pointer.c_addr = pointer.jit_addr
    c.pyapi.decref(address)
    return NativeValue(pointer._getvalue())


RHS = FunctionPointerType(types.void(REAL, VECTOR, VECTOR, VECTOR, VECTOR))
RHS_JVP = FunctionPointerType(types.void(REAL, VECTOR, VECTOR, REAL, VECTOR, VECTOR, VECTOR, VECTOR))
RHS_VJP = FunctionPointerType(types.void(REAL, VECTOR, VECTOR, VECTOR, VECTOR, VECTOR, VECTOR, VECTOR))
RHS_HVP = FunctionPointerType(types.void(REAL, VECTOR, VECTOR, REAL, VECTOR, VECTOR, VECTOR, VECTOR, VECTOR,
                                         VECTOR, VECTOR, VECTOR))


# --- the three decorators -------------------------------------------------------------------------

def host_device(function):
    """Compile a formula: no signature, no allocation, no exception; cached on disk."""
    compiled = _formula(function, INLINED)
    if not config.DISABLE_JIT:
        compiled._cache = LazyCache(function)
    return compiled


def inlined(function):
    """Compile a scalar formula of an inner loop that LLVM is to vectorise.

    Declined inlining would leave the loop scalar, at ten times the cost; products fused into sums halve
    the cost of a polynomial, so nothing under this decorator may rely on an unfused product.
    """
    return _formula(function, {**INLINED, "fastmath": {"contract"}})


def _formula(function, options):
    compiled = njit(**options, **OUTER)(function)
    if not config.DISABLE_JIT:
        compiled.__class__, compiled.options = _Formula, options
    return compiled


class _Formula(numba.core.registry.CPUDispatcher):
    """A formula that is compiled by itself when Python calls it, or its address is taken; others link its `inside`."""

    @functools.cached_property
    def inside(self):
        return njit(**self.options, **LINKED)(self.py_func)

    def get_call_template(self, args, kws):
        return self.inside.get_call_template([types.unliteral(arg) for arg in args], kws)   # constants: LLVM's work

    def get_overload(self, sig):
        return self.inside.get_overload(sig)


def higher_order(function):
    """Compile a formula that is handed functions; it runs inside the driver that uses it, and is cached there."""
    return _body(function, BODY)


def outlined(function):
    """Like `higher_order`, but called and not inlined: for large bodies of which one driver holds several.

    LLVM's time grows faster than the length of what it optimises.
    """
    return _body(function, {**BODY, "forceinline": False})


def _body(function, options):
    compiled = njit(**options)(function)
    compiled.is_higher_order = True
    if not config.DISABLE_JIT:
        compiled.__class__ = _Body
    return compiled


class _Body(numba.core.registry.CPUDispatcher):
    """A body that is compiled in drivers; called from Python, it is its un-jitted twin."""

    def __call__(self, *args):
        return python_form(self)(*args)


class Driver:
    """A loop around formulas, compiled for one signature when first called, and cached on disk.

    ``disjoint`` promises that no array it writes shares memory with another argument. A driver that is in no cache and
    is handed short work (``is_short``, of its arguments) runs as its un-jitted twin, with the same bits, until drivers
    have taken PATIENCE so: what is asked once is not worth seconds of compiling.
    """

    is_short = None
    unjitted_seconds = 0.0                      # of all drivers

    def __init__(self, function, signature, disjoint=False):
        functools.update_wrapper(self, function)
        self.py_func = function
        self.signature, self.disjoint = signature, disjoint
        self.is_higher_order = True
        self._entry = None

    def __call__(self, *args):
        if self._entry is None:
            if self.is_short is not None and self.is_short(args[-1]) and self._can_wait():
                return self._unjitted(*args)
            self.prepare()
        return self._entry(*args)

    def _can_wait(self):
        return Driver.unjitted_seconds < PATIENCE and not config.DISABLE_JIT and self._is_missing

    @functools.cached_property
    def _is_missing(self):
        return not self.is_cached()

    def _unjitted(self, *args):
        """What the compiled driver does to the same arguments, in some hundred times its time."""
        *functions, arguments = args
        started = time.perf_counter()
        with np.errstate(all="ignore"):
            status = plain_form(self)(*(pointer.dispatcher for pointer in functions), arguments)
        Driver.unjitted_seconds += time.perf_counter() - started
        return status

    def prepare(self):
        """Compile, or load from the disk cache, now rather than at the first call.

        The compiled entry point trusts its arguments to have the types of the signature.
        """
        self._entry = self.py_func if config.DISABLE_JIT else _entry_point(
            self.py_func, self.signature, PackageCache(self.py_func))

    def is_cached(self):
        """Whether the disk cache holds this driver."""
        return PackageCache(self.py_func).is_filled()

    def specialized(self, functions):
        """An entry point with ``functions``, the leading arguments, compiled in instead of called by address.

        It takes the dispatchers themselves in their places.
        """
        types_ = (*map(numba.typeof, functions), *self.signature.args[len(functions):])
        return _entry_point(self.py_func, INTEGER(*types_), caching.NullCache(), DISJOINT if self.disjoint else OF_A_DRIVER)


def _entry_point(function, signature, cache, compiler=OF_A_DRIVER):
    dispatcher = njit(**OPTIONS, **compiler, nogil=True)(function)
    dispatcher._cache = cache
    with cycles_kept(), warnings.catch_warnings():          # functions as arguments are "experimental" to Numba
        warnings.simplefilter("ignore", NumbaExperimentalFeatureWarning)
        dispatcher.compile(signature)
    (result,) = dispatcher.overloads.values()
    return result.entry_point


def driver(*signature):
    """Decorator: a `Driver` with the given argument types. Drivers return an integer status."""
    return lambda function: Driver(function, INTEGER(*signature))


def disjoint_driver(*signature):
    """Decorator: a `driver` whose arrays do not overlap, which LLVM may rely on where the driver is specialised."""
    return lambda function: Driver(function, INTEGER(*signature), disjoint=True)


def compiled_by_calling(dispatcher, arguments):
    """What a function of the user's returns, called for the first time."""
    make_ready()
    with cycles_kept():
        return dispatcher(*arguments)


# --- the un-jitted twin ---------------------------------------------------------------------------

@functools.lru_cache(maxsize=None)
def python_form(function):
    """The un-jitted twin of a driver or higher-order body, whose functions may be plain Python.

    Bodies that are handed functions are un-jitted all the way down; plain formulas stay compiled,
    and compile themselves for complex arrays when given them, which is how the complex-step check
    runs the very program it checks.
    """
    if not getattr(function, "is_higher_order", False):
        return function
    body = getattr(function, "py_func", function)
    twin_globals = dict(body.__globals__)
    for name in body.__code__.co_names:
        if getattr(twin_globals.get(name), "is_higher_order", False):
            twin_globals[name] = python_form(twin_globals[name])
    twin = python_types.FunctionType(body.__code__, twin_globals, body.__name__, body.__defaults__)
    return functools.update_wrapper(twin, body)


@functools.lru_cache(maxsize=None)
def plain_form(function):
    """The un-jitted twin of a driver or body down to the last formula, but for the functions it is handed.

    In the form for one system of few states, which is that for a GPU, where a body has one of its own.
    """
    body = getattr(function, "on_device", function).py_func
    twin_globals = dict(body.__globals__)
    for name in body.__code__.co_names:
        value = twin_globals.get(name)
        if is_compiled(value) or hasattr(value, "on_device"):
            twin_globals[name] = plain_form(value)
    return python_types.FunctionType(body.__code__, twin_globals, body.__name__, body.__defaults__)


def short(names, state, times):
    """Whether the arguments of a driver, which have these ``names``, are few states and few observations."""
    state, times = names.index(state), names.index(times)
    return lambda arguments: arguments[state].shape[-1] < FEW_STATES and arguments[times].shape[0] < FEW_TIMES


def is_compiled(function):
    """Whether a right-hand side is a Numba dispatcher (else it is plain Python)."""
    return isinstance(function, numba.core.dispatcher.Dispatcher)
