"""Numba options, signatures and the disk cache: everything about compilation lives here.

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
import hashlib
import os
import pathlib
import pickle
import re
import shutil
import types as python_types
import uuid
import warnings
import zlib

import numba
from numba import njit, types
from numba.core import caching, cgutils, config
from numba.core.errors import NumbaExperimentalFeatureWarning
from numba.core.datamodel import registry
from numba.experimental import function_type
from numba.extending import NativeValue, unbox

from refnode.errors import CacheWarning
from refnode.linked_bodies import LINKED

OPTIONS = {"error_model": "numpy", "_nrt": False}
INLINED = {**OPTIONS, "forceinline": True}      # of formulas into drivers: halves the time of a small solve
BODY = {**INLINED, **LINKED}                    # of formulas that run in drivers alone

REAL = types.float64
INTEGER = types.int64
VECTOR = types.Array(types.float64, 1, "C")
MATRIX = types.Array(types.float64, 2, "C")
BLOCK = types.Array(types.float64, 3, "C")
INTEGERS = types.Array(types.int64, 1, "C")


# --- the disk cache -------------------------------------------------------------------------------

IMPORT = re.compile(r"^\s*(?:from|import) (refnode\b(?!\.errors)[\w.]*)", re.MULTILINE)    # no body raises an error


@functools.lru_cache(maxsize=1)
def package_root():
    return pathlib.Path(__file__).resolve().parent


@functools.lru_cache(maxsize=None)
def source_hash(file):
    """Hash of a source file and of all files of the package that it imports, directly or not.

    Numba revalidates a cached caller against its own file only, so that an edited callee would be
    served stale; keyed with this hash, an edit invalidates everything that could have compiled it in.
    """
    digest = hashlib.sha256()
    for path in sorted(imported_files(pathlib.Path(file).resolve())):
        digest.update(source_of(path)[0])
    return digest.hexdigest()[:20]


def imported_files(file):
    """A source file and the files of the package reached from it by imports; of a folder, all its files."""
    found, waiting = set(), [str(file)]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += source_of(path)[1]
    return found


@functools.lru_cache(maxsize=None)
def source_of(path):
    """Digest of a file's name and content, and the files of the package that its import statements name."""
    content, root, files = pathlib.Path(path).read_bytes(), str(package_root()), []
    for module in IMPORT.findall(content.decode()):
        place = os.path.join(root, *module.split(".")[1:])
        if os.path.isdir(place):
            files += [os.path.join(place, name) for name in sorted(os.listdir(place)) if name.endswith(".py")]
        elif os.path.isfile(place + ".py"):
            files.append(place + ".py")
    name = os.path.relpath(path, root).encode()
    return hashlib.sha256(name + b"\0" + content).digest(), files


def cache_home():
    """Folder of all of refnode's caches: under NUMBA_CACHE_DIR if set, else the user's cache folder."""
    base = config.CACHE_DIR or os.environ.get("XDG_CACHE_HOME") or os.path.join(
        os.path.expanduser("~"), ".cache")
    return pathlib.Path(base) / "refnode"


class _PackageLocator(caching._CacheLocator):
    """Files a function by the hash of the sources it may depend on, its module and its name.

    The hash is part of the folder and not only of the stamp: Numba writes an index before its data,
    so a second process could otherwise pair a fresh index with stale data.
    """

    def __init__(self, py_func, py_file):
        self._stamp = source_hash(py_file)
        self._path = cache_home() / f"{self._stamp}-numba{numba.__version__}"
        self._lineno = py_func.__code__.co_firstlineno
        self._py_file = py_file

    def get_cache_path(self):
        return str(self._path)

    def get_source_stamp(self):
        return self._stamp

    def get_disambiguator(self):
        return f"{pathlib.Path(self._py_file).stem}-{self._lineno}"

    @classmethod
    def from_function(cls, py_func, py_file):
        return cls(py_func, py_file)


class _PackageCacheImpl(caching.CompileResultCacheImpl):
    _locator_classes = [_PackageLocator]


class _CheckedFiles(caching.IndexDataCacheFile):
    """Index and data files with a checksum: damaged machine code must be noticed before it runs.

    Each entry has a data file of its own, written before the index: two processes that fill the cache at
    once can lose an entry, but not pair one's index with the other's data.
    """

    def save(self, key, data):
        name = self._data_name(uuid.uuid4().int)
        self._save_data(name, data)
        try:
            overloads = self._load_index()
        except Exception:                       # a damaged index is replaced
            overloads = {}
        self._save_index({**overloads, key: name})

    def _dump(self, obj):
        payload = super()._dump(obj)
        return zlib.crc32(payload).to_bytes(4, "big") + payload

    def _load_data(self, name):
        content = pathlib.Path(self._data_path(name)).read_bytes()
        if zlib.crc32(content[4:]).to_bytes(4, "big") != content[:4]:
            raise ValueError(f"{name} is damaged")
        return pickle.loads(content[4:])

    def _save_index(self, overloads):
        self._save_data(self._index_name, overloads)

    def _load_index(self):
        try:
            return self._load_data(self._index_name)
        except FileNotFoundError:
            return {}


class _PackageCache(caching.FunctionCache):
    """A function cache that a corrupt file or a read-only folder cannot break: it warns and compiles."""

    _impl_class = _PackageCacheImpl

    def __init__(self, py_func):
        super().__init__(py_func)
        self._cache_file = _CheckedFiles(self._cache_path, self._impl.filename_base,
                                         source_hash(py_func.__code__.co_filename))

    def is_filled(self):
        """Whether it holds anything that can be read."""
        try:
            return bool(self._cache_file._load_index())
        except Exception:
            return False

    def load_overload(self, sig, target_context):
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:          # unpickling a damaged file can raise anything
            _warn_about_cache("read", error)
            return None

    def save_overload(self, sig, data):
        try:
            super().save_overload(sig, data)
        except Exception as error:
            _warn_about_cache("written", error)


class _LazyCache:
    """A `_PackageCache` that is made when first needed; the sources are hashed now, as they are compiled."""

    def __init__(self, py_func):
        self.py_func = py_func
        source_hash(py_func.__code__.co_filename)

    @functools.cached_property
    def cache(self):
        return _PackageCache(self.py_func)

    def __getattr__(self, name):
        return getattr(self.cache, name)


def _warn_about_cache(what, error):
    warnings.warn(
        f"the cache of compiled functions in {cache_home()} could not be {what} "
        f"({type(error).__name__}: {error}); compiling in memory instead, results are unaffected. "
        "`refnode cache clear` removes it.", CacheWarning, stacklevel=2)


def cache_info():
    """Path, number of files and bytes of refnode's cache of compiled functions."""
    files = [p for p in cache_home().rglob("*") if p.is_file()] if cache_home().is_dir() else []
    return {"path": str(cache_home()), "files": len(files), "bytes": sum(p.stat().st_size for p in files)}


def cache_clear():
    """Remove refnode's cache of compiled functions; returns what `cache_info` said before."""
    info = cache_info()
    shutil.rmtree(cache_home(), ignore_errors=True)
    return info


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
    compiled = njit(**INLINED)(function)
    if not config.DISABLE_JIT:
        compiled._cache = _LazyCache(function)
    return compiled


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


def inlined(function):
    """Compile a scalar formula of an inner loop that LLVM is to vectorise.

    Declined inlining would leave the loop scalar, at ten times the cost; products fused into sums halve
    the cost of a polynomial, so nothing under this decorator may rely on an unfused product.
    """
    return njit(**INLINED, fastmath={"contract"})(function)


class Driver:
    """A loop around formulas, compiled for one signature when first called, and cached on disk."""

    def __init__(self, function, signature):
        functools.update_wrapper(self, function)
        self.py_func = function
        self.signature = signature
        self.is_higher_order = True
        self._entry = None

    def __call__(self, *args):
        if self._entry is None:
            self.prepare()
        return self._entry(*args)

    def prepare(self):
        """Compile, or load from the disk cache, now rather than at the first call.

        The compiled entry point trusts its arguments to have the types of the signature.
        """
        self._entry = self.py_func if config.DISABLE_JIT else _entry_point(
            self.py_func, self.signature, _PackageCache(self.py_func))

    def is_cached(self):
        """Whether the disk cache holds this driver."""
        return _PackageCache(self.py_func).is_filled()

    def specialized(self, functions):
        """An entry point with ``functions``, the leading arguments, compiled in instead of called by address.

        It takes the dispatchers themselves in their places.
        """
        types_ = (*map(numba.typeof, functions), *self.signature.args[len(functions):])
        return _entry_point(self.py_func, INTEGER(*types_), caching.NullCache())


def _entry_point(function, signature, cache):
    dispatcher = njit(**OPTIONS, no_cfunc_wrapper=True, nogil=True)(function)
    dispatcher._cache = cache
    with warnings.catch_warnings():             # functions as arguments are "experimental" to Numba
        warnings.simplefilter("ignore", NumbaExperimentalFeatureWarning)
        dispatcher.compile(signature)
    (result,) = dispatcher.overloads.values()
    return result.entry_point


def driver(*signature):
    """Decorator: a `Driver` with the given argument types. Drivers return an integer status."""
    return lambda function: Driver(function, INTEGER(*signature))


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


def is_compiled(function):
    """Whether a right-hand side is a Numba dispatcher (else it is plain Python)."""
    return isinstance(function, numba.core.dispatcher.Dispatcher)
