"""Scalar forms of tanh, softplus and sine in single precision: what replaces those of `activations`, which count bits of doubles.

They are their attribute ``single``, see `precision`. On the CPU tanh has a form of its own, whose loop takes twice as many
numbers at once; its constants become single with the rest. Softplus and sine stay double, and are rounded when they are
stored. A GPU has its own of the functions that they are made of, and gets those (``single_on_device``).
"""
import math

import numpy as np

from refnode.host_device import host_device, inlined
from refnode.layers.activations import any_sine_cosine, fast_sine_cosine, fast_softplus_sigmoid, fast_tanh

ROUND = 1.5 * 2.0**23          # x + ROUND holds x, rounded to an integer, in its low bits
LOG2_E = 1.4426950408889634
LN2_HIGH = float.fromhex("0x1.62ep-1")              # 12 bits: times an exponent below 2^12 it is exact
LN2_LOW = float.fromhex("0x1.0bfbe8p-15")           # LN2_HIGH + LN2_LOW = ln 2 to 38 bits
TANH_IS_ONE = 10.0             # 1 - tanh(10) < 2^-27


@inlined
def power_of_two_single(k):
    """2^k for an integer -127 < k < 128, made from its exponent bits."""
    return np.int32((k + np.int32(127)) << np.int32(23)).view(np.float32)


@inlined
def rounded_single(shifted):
    """The integer in the low bits of shifted = x + ROUND."""
    return np.float32(shifted).view(np.int32) - np.float32(ROUND).view(np.int32)


@inlined
def expm1_taylor_single(r):
    """exp(r) - 1 for |r| <= ln(2)/2, by its Taylor series up to r^8/8!."""
    q = 1.0 / 40320.0
    q = q * r + 1.0 / 5040.0
    q = q * r + 1.0 / 720.0
    q = q * r + 1.0 / 120.0
    q = q * r + 1.0 / 24.0
    q = q * r + 1.0 / 6.0
    q = q * r + 0.5
    return r + (r * r) * q


@inlined
def fast_tanh_single(x):
    """tanh x = -e / (2 + e), e = exp(-2|x|) - 1, with the sign of x; as `fast_tanh`."""
    a = abs(x)
    a = TANH_IS_ONE if a > TANH_IS_ONE else a       # a NaN passes
    shifted = (-2.0 * LOG2_E) * a + ROUND
    k = shifted - ROUND
    r = (-2.0 * a - k * LN2_HIGH) - k * LN2_LOW
    scale = power_of_two_single(rounded_single(shifted))
    e = scale * expm1_taylor_single(r) + (scale - 1.0)
    return np.float32(math.copysign(e / (2.0 + e), x))


fast_tanh.single = fast_tanh_single
fast_softplus_sigmoid.single, fast_sine_cosine.single, any_sine_cosine.single = (
    fast_softplus_sigmoid, fast_sine_cosine, any_sine_cosine)


# --- for a GPU ------------------------------------------------------------------------------------

@host_device
def single_tanh(x):
    """tanh x."""
    return math.tanh(x)


@host_device
def single_softplus_sigmoid(x):
    """(log(1 + exp x), 1 / (1 + exp(-x))), as `fast_softplus_sigmoid`."""
    u = math.exp(-abs(x))
    positive = x > 0.0
    return math.log1p(u) + (x if positive else 0.0), (1.0 if positive else u) / (1.0 + u)


@host_device
def single_sine_cosine(x):
    """(sin x, cos x)."""
    return math.sin(x), math.cos(x)


fast_tanh.single_on_device, fast_softplus_sigmoid.single_on_device = single_tanh, single_softplus_sigmoid
fast_sine_cosine.single_on_device = any_sine_cosine.single_on_device = single_sine_cosine
