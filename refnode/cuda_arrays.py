"""Arrays that lie on a GPU: those of users, taken as they are, and those that are given back.

A user's array is known by ``__cuda_array_interface__`` or by DLPack. It is read where it lies, and never written: a
read-only one is welcome. What is given back is an array of Numba's, which has the interface too, so that
``torch.as_tensor``, ``cupy.asarray`` and their like take it without a copy.
"""
import ctypes
import functools

import numpy as np

from refnode.cuda_device import REALS, cuda_module, device_array, is_simulated, to_device
from refnode.errors import InvalidInputError, InvalidTypeError

HOST_MEMORY, GPU_MEMORY = (1, 3), (2, 13)       # DLPack: of the CPU, pinned; of a CUDA device, managed


class DeviceRows:
    """A user's array on a GPU, (n,) or (B, n), in the place of a NumPy array. Nothing on the host may read it."""

    on_device = True

    def __init__(self, name, interface, owner, number):
        self.name, self._found = name, (interface, owner, number)
        self.shape, self.dtype = tuple(interface["shape"]), np.dtype(interface["typestr"])
        self.ndim, self.size = len(self.shape), int(np.prod(self.shape))

    @functools.cached_property
    def view(self):
        """The array as kernels take it: the same memory. InvalidInputError if it lies on another GPU than the current one."""
        interface, owner, number = self._found
        here = 0 if number is None or is_simulated() else cuda_module().get_current_device().id
        if number not in (None, here):
            raise InvalidInputError(f"{self.name} lies on CUDA device {number}, and the current one is {here}; choose it with "
                                    "numba.cuda.select_device, or move the array")
        return array_at(interface, owner)

    def __len__(self):
        return self.shape[0]

    def __repr__(self):
        return f"<{self.name} on a GPU: {self.dtype} {self.shape}>"

    def __getitem__(self, index):
        """``rows[None]``, one row of a vector; nothing else."""
        if index is None:
            interface, owner, number = self._found
            return DeviceRows(self.name, {**interface, "shape": (1, *self.shape), "strides": None}, owner, number)
        self.__array__()

    def __array__(self, *_, **__):
        raise InvalidInputError(f'{self.name} lies on a GPU, and this needs it on the host: device="cuda" computes with it '
                                "where it lies (solve, gradient, solve_batch and gradient_batch); else copy it to NumPy")

    ravel = __array__

    def first_on_host(self):
        """A copy of the first row, or of the only one, to try functions on: with 1 in the place of what is not finite."""
        row = (self.view[0] if self.ndim == 2 else self.view).copy_to_host().astype(np.float64)
        return np.where(np.isfinite(row), row, 1.0)


def taken(name, value):
    """A `DeviceRows` of what lies on a GPU, a NumPy array of what has DLPack alone, anything else as it is.

    Raises
    ------
    InvalidTypeError
        If its numbers or its memory are of another kind.
    InvalidInputError
        If it is not contiguous, or masked.
    """
    if isinstance(value, (np.ndarray, DeviceRows, list, tuple)) or np.isscalar(value):
        return value
    kind, number = _memory(name, value)
    interface = _interface(name, value)
    if interface is not None and kind in (None, *GPU_MEMORY):
        owner = value
    elif kind in GPU_MEMORY:
        interface, owner = _of_dlpack(value)
    elif kind is None or hasattr(value, "__array__"):
        return value
    elif kind in HOST_MEMORY:
        return np.from_dlpack(value)
    else:
        raise InvalidTypeError(f"{name} must lie in the memory of the CPU or of a CUDA device, found a "
                               f"{type(value).__name__} on a device of DLPack's kind {kind}")
    _require_readable(name, interface)
    return DeviceRows(name, interface, owner, number)


def _memory(name, value):
    """DLPack's kind of an array's memory, and the number of its device; (None, None) without DLPack."""
    if not hasattr(value, "__dlpack_device__"):
        return None, None
    kind, number = value.__dlpack_device__()
    return int(kind), int(number)


def _interface(name, value):
    """Its ``__cuda_array_interface__``, or None."""
    try:
        return getattr(value, "__cuda_array_interface__", None)
    except Exception as error:                  # PyTorch: of a tensor that requires its gradient
        raise InvalidTypeError(f"{name} does not give its memory away: {type(error).__name__}: {error}") from error


def _require_readable(name, interface):
    """Raise unless kernels can read what the interface describes."""
    dtype, shape, strides = np.dtype(interface["typestr"]), tuple(interface["shape"]), interface.get("strides")
    if dtype.name not in REALS or not dtype.isnative:
        raise InvalidTypeError(f"{name} on a GPU must have dtype {' or '.join(REALS)}, found {dtype}")
    if interface.get("mask") is not None:
        raise InvalidInputError(f"{name} must not be masked")
    if not 1 <= len(shape) <= 3:
        raise InvalidInputError(f"{name} must have one dimension or two, found shape {shape}")
    if strides is not None and 0 not in shape:
        packed = dtype.itemsize * np.cumprod((1, *shape[:0:-1]))[::-1]
        if any(size > 1 and found != expected for size, found, expected in zip(shape, strides, packed)):
            raise InvalidInputError(f"{name} must be contiguous, row after row, found shape {shape} with strides "
                                    f"{tuple(strides)} in bytes; make a contiguous copy on its device")


def array_at(interface, owner):
    """The memory that an interface describes as an array for kernels; keeps ``owner`` alive."""
    if not is_simulated():
        return cuda_module().from_cuda_array_interface(interface, owner=owner)
    return type(device_array(0, "float64"))(_host_view(interface, owner))


def _host_view(interface, owner):
    """The same for the simulator, whose device memory is the host's."""
    dtype, shape = np.dtype(interface["typestr"]), tuple(interface["shape"])
    raw = (ctypes.c_char * (dtype.itemsize * int(np.prod(shape)))).from_address(interface["data"][0])
    raw.owner = owner
    return np.frombuffer(raw, dtype).reshape(shape)


# --- what is given back ---------------------------------------------------------------------------

def result_array(shape, dtype):
    """An uninitialised array on the device that other libraries can take, by ``__cuda_array_interface__``."""
    return _with_interface(device_array(shape, dtype))


def zero_result(shape, dtype):
    """The same of zeros."""
    return _with_interface(to_device(np.zeros(shape), dtype))


def _with_interface(array):
    return _simulated_class()(array._ary) if is_simulated() else array


@functools.lru_cache(maxsize=1)
def _simulated_class():
    """The simulator's array, with the interface that a device's has."""
    class SimulatedArray(type(device_array(0, "float64"))):
        @property
        def __cuda_array_interface__(self):
            return {**self._ary.__array_interface__, "version": 3}

        def __getitem__(self, index):
            found = super().__getitem__(index)
            return SimulatedArray(found._ary) if hasattr(found, "_ary") else found

        def reshape(self, *shape):
            return SimulatedArray(self._ary.reshape(*shape))
    return SimulatedArray


# --- DLPack ---------------------------------------------------------------------------------------

class _Tensor(ctypes.Structure):
    """DLTensor, https://dmlc.github.io/dlpack/latest/c_api.html."""

    _fields_ = [("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
                ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
                ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.POINTER(ctypes.c_int64)),
                ("byte_offset", ctypes.c_uint64)]


KINDS = {0: "i", 1: "u", 2: "f", 5: "c", 6: "b"}


def _of_dlpack(value):
    """The interface of a DLPack array, and its capsule, which frees the memory when nothing holds it any more."""
    stream = {} if is_simulated() else {"stream": 1}                   # the default stream, on which kernels run
    capsule = value.__dlpack__(**stream)
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    tensor = _Tensor.from_address(pointer(capsule, b"dltensor"))
    size, dims = tensor.bits * tensor.lanes // 8, range(tensor.ndim)
    typestr = f"={KINDS[tensor.code]}{size}" if tensor.code in KINDS and tensor.lanes == 1 else f"|V{size}"
    return {"shape": tuple(tensor.shape[i] for i in dims), "typestr": typestr, "version": 3,
            "strides": tuple(size * tensor.strides[i] for i in dims) if tensor.strides else None,
            "data": ((tensor.data or 0) + tensor.byte_offset, True)}, capsule
