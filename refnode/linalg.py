"""Small dense vector operations without allocation, for compiled bodies."""
import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from refnode.host_device import VECTOR, host_device


@host_device
def copy_into(x, out):
    """out = x. (Numba allocates for ``out[:] = x``, since the two might overlap.)"""
    for m in range(out.shape[0]):
        out[m] = x[m]


@host_device
def dot(x, y):
    """sum_m x_m y_m."""
    total = 0.0
    for m in range(x.shape[0]):
        total += x[m] * y[m]
    return total


@host_device
def is_finite(x):
    """Whether a number, real or complex, is neither infinite nor NaN. (CUDA has no ``np.isfinite``.)"""
    return abs(x) < np.inf


@host_device
def first_non_finite(x):
    """Index of the first entry that is not finite, or -1."""
    for m in range(x.shape[0]):
        if not is_finite(x[m]):
            return m
    return -1


@host_device
def has_nonzero(x):
    """Whether any entry differs from zero; a NaN does."""
    for m in range(x.shape[0]):
        if x[m] != 0.0:
            return True
    return False


# --- arrays of a body alone -----------------------------------------------------------------------

@intrinsic(prefer_literal=True)
def local_vector(typingctx, size):
    """An array of ``size`` numbers that no caller sees; ``size`` stands in the text. Its entries lie on the stack, or in
    registers where all indices stand in the text, too; they are not set. Its un-jitted twin is ``np.empty``."""
    if not isinstance(size, types.IntegerLiteral):
        return None
    count = size.literal_value

    def generate(context, builder, signature, args):
        data = cgutils.alloca_once(builder, context.get_value_type(types.float64), size=count)
        length, step = context.get_constant(types.intp, count), context.get_constant(types.intp, 8)
        array = context.make_array(VECTOR)(context, builder)
        context.populate_array(array, data=data, itemsize=step, meminfo=None, shape=cgutils.pack_array(builder, [length]),
                               strides=cgutils.pack_array(builder, [step]))
        return array._getvalue()
    return VECTOR(size), generate


def _new_vector(size):
    return np.empty(size)


local_vector.is_higher_order, local_vector.py_func = True, _new_vector          # what `host_device.python_form` asks for
