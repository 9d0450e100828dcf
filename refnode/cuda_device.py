"""CUDA: whether it can be used, and the compilation of bodies for it. The one file that imports it.

A formula has one body. `device_form` compiles it for the GPU, with every body that it calls, as `host_device`
does for the CPU. A `Kernel` is a launcher: it gives each thread its views of arrays, and calls bodies.

Without a GPU the simulator of Numba runs every kernel (``NUMBA_ENABLE_CUDASIM=1 NUMBA_DISABLE_JIT=1``), and
`validation/cuda/compile_ptx.py` compiles it.
"""
import functools
import importlib.util
import math
import types as python_types
import warnings

import numpy as np
from numba import njit
from numba.core import config
from numba.core.dispatcher import Dispatcher
from numba.core.errors import NumbaError

from refnode.errors import BackendError, InvalidInputError
from refnode.precision import narrowing, rebound

DEVICES = ("cpu", "cuda", "auto")
REALS = ("float64", "float32")
SINGLE_DOORS = "float32 is for solve, and for gradient, vjp and GradientFunction by 'discrete', with Runge-Kutta methods"
THREADS = 128                              # of a block
INSTALL = 'pip install "refnode[cuda13]" (or "refnode[cuda12]", for the driver at hand)'


# --- whether it can be used -----------------------------------------------------------------------

def is_simulated():
    """Whether kernels run in Numba's simulator."""
    return bool(config.ENABLE_CUDASIM)


def missing():
    """Why no CUDA device can be used, or None if one can."""
    if is_simulated():
        return None if config.DISABLE_JIT else "the CUDA simulator needs NUMBA_DISABLE_JIT=1 too"
    if importlib.util.find_spec("numba_cuda") is None:
        return f"the package numba-cuda is not installed: {INSTALL}"
    if config.DISABLE_JIT:
        return "NUMBA_DISABLE_JIT=1 is set, and kernels are always compiled"
    return _missing_device()


@functools.lru_cache(maxsize=1)
def _missing_device():
    """Why the driver offers no device, or None. Asked once: the driver does not come back within a process."""
    cuda = cuda_module()
    try:
        if not cuda.is_available():
            return " ".join(f"no CUDA device can be reached: {cuda.cuda_error() or 'none found'}".split())
    except Exception as error:                  # a driver that is broken can raise anything
        return " ".join(f"no CUDA device can be reached: {type(error).__name__}: {error}".split())
    return None


def cuda_module():
    """``numba.cuda``: of numba-cuda, or the simulator."""
    from numba import cuda
    return cuda


def chosen_device(device):
    """``"cpu"`` or ``"cuda"``; ``"auto"`` is the latter where it can be used.

    Raises
    ------
    InvalidInputError
        If there is no such device.
    BackendError
        If it is ``"cuda"`` and cannot be used: names what is missing.
    """
    if device not in DEVICES:
        raise InvalidInputError(f"device must be one of {list(DEVICES)}, found {device!r}")
    if device == "cpu":
        return device
    why = missing()
    if why is None:
        return "cuda"
    if device == "auto":
        return "cpu"
    raise BackendError(f'device="cuda" cannot be used: {why}. device="cpu" works; device="auto" takes what there is')


def device_and_real(device, dtype, single_on_cpu=False):
    """Where to compute, as `chosen_device`, and in which numbers: ``"float64"`` or ``"float32"``, which few doors
    have on the CPU (``single_on_cpu``)."""
    device, real = chosen_device(device), real_named(dtype)
    if device == "cpu" and real != "float64" and not single_on_cpu:
        raise InvalidInputError(f'device="cpu" computes in float64 here, found dtype={real!r}; on the CPU, {SINGLE_DOORS}')
    return device, real


def real_named(dtype):
    """``"float64"`` or ``"float32"``, from whatever NumPy takes for it."""
    try:
        real = np.dtype(dtype).name
    except TypeError:
        real = dtype
    if real not in REALS:
        raise InvalidInputError(f"dtype must be one of {list(REALS)}, found {real!r}")
    return real


def facts():
    """What `refnode doctor` says: one line."""
    why = missing()
    if why is not None:
        return f"not usable: {why}"
    if is_simulated():
        return "simulated: kernels run in Python, for tests alone"
    device = cuda_module().get_current_device()
    name = device.name.decode() if isinstance(device.name, bytes) else device.name
    return f"{name}, compute capability {'.'.join(map(str, device.compute_capability))}"


# --- bodies on the device -------------------------------------------------------------------------

@njit
def _sign(x):
    """-1, 0 or 1."""
    return math.copysign(1.0, x) if x != 0.0 else x


# CUDA has the functions of ``math``. A body that says ``np.sqrt`` gets ``math.sqrt``.
NUMPY_FUNCTIONS = {
    **{name: getattr(math, name) for name in ("sqrt exp expm1 log log1p log2 log10 sin cos tan sinh cosh tanh floor "
                                             "ceil trunc hypot copysign isfinite isnan isinf nextafter").split()},
    "abs": math.fabs, "absolute": math.fabs, "fabs": math.fabs, "power": math.pow, "arcsin": math.asin,
    "arccos": math.acos, "arctan": math.atan, "arctan2": math.atan2, "arcsinh": math.asinh, "arccosh": math.acosh,
    "arctanh": math.atanh, "sign": _sign}

class _Module(python_types.ModuleType):
    """``numpy`` or ``math`` as a body on the device sees it: with functions that CUDA has, and its own constants."""

    def __init__(self, module, real):
        super().__init__(module.__name__)
        self._module, self._real = module, real

    def __getattr__(self, name):
        value = NUMPY_FUNCTIONS.get(name) if self._module is np else None
        return _on_device(getattr(self._module, name) if value is None else value, self._real)


@functools.lru_cache(maxsize=None)
def _module(module, real):
    return _Module(module, real)


@functools.lru_cache(maxsize=None)
def device_form(function, real="float64"):
    """A body as a device function: the same code, whose bodies are device functions too.

    For ``real="float32"`` the constants in the code are single, or one of them would make everything double; and a body that
    is right for doubles alone names another in its attribute ``single``, or ``single_on_device`` where a device has
    functions of its own; see `precision`.
    """
    if is_simulated():
        return getattr(function, "py_func", function)
    if real == "float32":
        function = getattr(function, "single_on_device", getattr(function, "single", function))
    twin = rebound(getattr(function, "py_func", function), functools.partial(_on_device, real=real))
    compiled, code = cuda_module().jit(device=True)(twin), twin.__code__
    if real == "float32" and not getattr(function, "is_higher_order", False):
        narrow = narrowing(compiled, code.co_varnames[:code.co_argcount], NARROWED)
        return compiled if narrow is None else cuda_module().jit(device=True)(narrow)
    return compiled


NARROWED = {"h", "sigma"}    # differences of times, which are double: a formula on states takes them single


def device_function(function):
    """A function that launchers share, compiled for the device; it may capture bodies that `device_form` has made."""
    return function if is_simulated() else cuda_module().jit(device=True)(function)


def _on_device(value, real):
    """What stands on the device for a global, a closure's value or a constant of a body."""
    if value is np or value is math:
        return _module(value, real)
    if isinstance(value, (python_types.FunctionType, Dispatcher)):      # one that chooses its body by what it is given
        value = getattr(value, "on_device", value)
    if isinstance(value, Dispatcher):
        return device_form(value, real)
    if type(value) is float and real == "float32":
        return np.float32(value)
    if type(value) is tuple:
        return tuple(_on_device(each, real) for each in value)
    return value


# --- kernels --------------------------------------------------------------------------------------

class Kernel:
    """A launcher, written as a function ``make(on_device, field, sizes)`` that returns the kernel.

    ``on_device`` is `device_form` for the numbers in use; ``sizes`` a `Sizes`.
    """

    def __init__(self, make):
        functools.update_wrapper(self, make)
        self.make = make

    def source(self, field, sizes):
        """The kernel as a Python function, for whoever compiles it."""
        on_device = functools.partial(device_form, real=sizes.real)
        return self.make(on_device, field, sizes)

    def launch(self, field, sizes, lanes, arguments):
        """Run it for that many threads, and wait."""
        compiled = field.entries.get((self, sizes))
        if compiled is None:
            compiled = field.entries[self, sizes] = cuda_module().jit(self.source(field, sizes))
        try:
            with warnings.catch_warnings():     # functions as arguments are "experimental" to Numba, and few lanes are slow
                warnings.filterwarnings("ignore", message="First-class function type|Grid size")
                compiled[sizes.configuration(lanes)](*arguments)
        except NumbaError as error:
            raise InvalidInputError(f"field {field.name!r} cannot be compiled for CUDA, where a function may neither "
                                    f"allocate nor call Python: {_last_line(error)}") from error
        cuda_module().synchronize()


def _last_line(error):
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


class Sizes:
    """What a kernel is compiled for: sizes of arrays, and a method's coefficients as constants."""

    def __init__(self, tableau, n, real):
        self.name, self.key = tableau.name, (tableau, n, real)
        self.tableau, self.n, self.real = tableau, n, real
        self.s, self.extra, self.tape_rows = tableau.s, tableau.extra, tableau.s + 2
        self.A, self.b, self.c, self.E, self.P, self.A_extra, self.c_extra = (
            np.ascontiguousarray(array, dtype=real) for array in tableau.arrays)
        self.weights, self.dtype = self.P.shape[0], np.dtype(real).type

    def configuration(self, lanes):
        """Blocks and threads for that many lanes, one a thread."""
        threads = min(THREADS, lanes)
        return -(-lanes // threads), threads

    def __eq__(self, other):
        return self.key == other.key

    def __hash__(self):
        return hash(self.key)


class SchemeSizes(Sizes):
    """The same for a reversible method."""

    def __init__(self, scheme, n, real):
        self.name, self.key, self.n, self.real = scheme.name, (scheme, n, real), n, real
        self.code, self.cost, self.coupling, *arrays = scheme.coefficients(n)
        self.A, self.b, self.c = (np.ascontiguousarray(array, dtype=real) for array in arrays)
        self.rows, self.evaluations = scheme.rows, scheme.evaluations(n)
        self.tape_rows, self.dtype = self.evaluations, np.dtype(real).type


def to_device(array, dtype=None):
    """A contiguous copy of an array on the device."""
    array = np.ascontiguousarray(array, dtype=dtype)
    return cuda_module().to_device(array) if array.size else device_array(array.shape, array.dtype)


def device_array(shape, dtype):
    """An uninitialised array on the device."""
    return cuda_module().device_array(shape, np.dtype(dtype))
