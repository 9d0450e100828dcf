"""The disk cache of compiled functions: never stale, never fatal, shared by processes."""
import functools
import hashlib
import os
import pathlib
import pickle
import re
import shutil
import uuid
import warnings
import zlib

import numba
from numba.core import caching, config, sigutils
from numba.core.runtime import rtsys

from refnode.errors import CacheWarning

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


class PackageCache(caching.FunctionCache):
    """A function cache that a corrupt file or a read-only folder cannot break: it warns and compiles."""

    _impl_class = _PackageCacheImpl

    def __init__(self, py_func):
        super().__init__(py_func)
        self._cache_file = _CheckedFiles(self._cache_path, self._impl.filename_base,
                                         source_hash(py_func.__code__.co_filename))

    def _index_key(self, sig, codegen):
        """Of the types alone: asked for by a call from Python or by its address, a function is the same."""
        return super()._index_key(sigutils.normalize_signature(sig)[0], codegen)

    def is_filled(self):
        """Whether it holds anything that can be read."""
        try:
            return bool(self._cache_file._load_index())
        except Exception:
            return False

    def load_overload(self, sig, target_context):
        """As Numba's own, but for making ready to compile, which takes longer than all loads of a first gradient."""
        rtsys.initialize(target_context)
        try:
            return self._load_overload(sig, target_context)
        except Exception as error:          # unpickling a damaged file can raise anything
            _warn_about_cache("read", error)
            return None

    def save_overload(self, sig, data):
        try:
            super().save_overload(sig, data)
        except Exception as error:
            _warn_about_cache("written", error)


class LazyCache:
    """A `PackageCache` that is made when first needed; the sources are hashed now, as they are compiled."""

    def __init__(self, py_func):
        self.py_func = py_func
        source_hash(py_func.__code__.co_filename)

    @functools.cached_property
    def cache(self):
        return PackageCache(self.py_func)

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
