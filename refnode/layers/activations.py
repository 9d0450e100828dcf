"""Activations a = σ(z): tanh, softplus and sine, each with its jvp, vjp and hvp.

The NumPy forms take arrays of any shape, complex ones too. The ``..._kernel`` forms work in place: ``a``
holds z on entry and σ(z) on return; softplus and sine leave σ'(z) in ``slope``, for tanh it is a
function of a. The transpose of "z is replaced by σ(z)" is "a_bar is replaced by σ'(z) a_bar".

The scalar forms (`fast_tanh`, ...) have no branch, so that LLVM vectorises the loops around them. Their
polynomials are Taylor series, long enough for the truncation to stay below a tenth of an ulp: no
constant in this file is fitted. Largest errors found, in units in the last place: tanh 2.6, softplus 2.1,
its slope 2.4, sine and cosine 0.8. The slope 1 - a² of tanh is accurate to an ulp of 1, not of itself.
"""
import math
from typing import NamedTuple

import numpy as np

from refnode.host_device import host_device, inlined

ROUND = 1.5 * 2.0**52          # x + ROUND holds x, rounded to an integer, in its low bits
LOG2_E = 1.4426950408889634
LN2_HIGH = float.fromhex("0x1.62e42fef00000p-1")   # 33 bits: times an exponent it is exact
LN2_LOW = float.fromhex("0x1.473de6af278edp-34")   # LN2_HIGH + LN2_LOW = ln 2 to 89 bits
SQRT2_MINUS_1 = 0.41421356237309503
TANH_IS_ONE = 22.0             # 1 - tanh(22) < 2^-62
EXP_IS_ZERO = -760.0           # exp(-760) < 2^-1075, half the smallest subnormal

TWO_OVER_PI = 0.6366197723675814
HALF_PI_1 = float.fromhex("0x1.921fb54442800p+0")    # 42 bits: times an integer below 2^11 it is exact
HALF_PI_2 = float.fromhex("0x1.4611a62633000p-42")   # the next 42
HALF_PI_3 = float.fromhex("0x1.45c06e0e68948p-86")   # together π/2 to 141 bits
SINE_LIMIT = 1608.0            # about 2^10 π/2; beyond, the reduction modulo π/2 is left to libm


# --- tanh -----------------------------------------------------------------------------------------

def tanh(z):
    """a = tanh z."""
    return np.tanh(z)


def tanh_jvp(z, z_tan):
    """a_tan = (1 - a²) z_tan."""
    return (1.0 - np.tanh(z)**2) * z_tan


def tanh_vjp(z, a_bar):
    """z_bar = (1 - a²) a_bar."""
    return (1.0 - np.tanh(z)**2) * a_bar


def tanh_hvp(z, z_tan, a_bar, a_bar_tan):
    """z_bar_tan = (1 - a²) a_bar_tan + σ'' z_tan a_bar, σ'' = -2 a (1 - a²)."""
    a = np.tanh(z)
    return (1.0 - a**2) * (a_bar_tan - 2.0 * a * z_tan * a_bar)


@host_device
def tanh_kernel(a):
    """a = tanh z, in place."""
    for i in range(a.shape[0]):
        a[i] = fast_tanh(a[i])


@host_device
def tanh_jvp_kernel(a, a_tan):
    """a_tan = (1 - a²) z_tan, in place. Transposed, it is itself: z_bar = (1 - a²) a_bar."""
    for i in range(a.shape[0]):
        a_tan[i] *= 1.0 - a[i] * a[i]


@host_device
def tanh_hvp_kernel(a, a_tan, a_bar, a_bar_tan):
    """z_bar_tan = (1 - a²) a_bar_tan - 2 a a_tan a_bar and z_bar = (1 - a²) a_bar, both in place."""
    for i in range(a.shape[0]):
        slope = 1.0 - a[i] * a[i]
        a_bar_tan[i] = slope * a_bar_tan[i] - 2.0 * a[i] * a_tan[i] * a_bar[i]
        a_bar[i] *= slope


# --- softplus -------------------------------------------------------------------------------------

def softplus(z):
    """a = log(1 + exp z) = max(z, 0) + log(1 + exp(-|z|))."""
    positive = np.real(z) > 0
    return np.where(positive, z, 0.0) + np.log1p(np.exp(np.where(positive, -z, z)))


def sigmoid(z):
    """The slope of softplus: 1 / (1 + exp(-z)), computed from exp(-|z|), which does not overflow."""
    positive = np.real(z) > 0
    u = np.exp(np.where(positive, -z, z))
    return np.where(positive, 1.0, u) / (1.0 + u)


def softplus_jvp(z, z_tan):
    """a_tan = sigmoid(z) z_tan."""
    return sigmoid(z) * z_tan


def softplus_vjp(z, a_bar):
    """z_bar = sigmoid(z) a_bar."""
    return sigmoid(z) * a_bar


def softplus_hvp(z, z_tan, a_bar, a_bar_tan):
    """z_bar_tan = s a_bar_tan + σ'' z_tan a_bar, s = sigmoid(z), σ'' = s (1 - s)."""
    s = sigmoid(z)
    return s * (a_bar_tan + (1.0 - s) * z_tan * a_bar)


@host_device
def softplus_kernel(a, slope):
    """a = softplus z, in place; slope = sigmoid z."""
    for i in range(a.shape[0]):
        a[i], slope[i] = fast_softplus_sigmoid(a[i])


# --- sine -----------------------------------------------------------------------------------------

def sine(z):
    """a = sin z."""
    return np.sin(z)


def sine_jvp(z, z_tan):
    """a_tan = cos(z) z_tan."""
    return np.cos(z) * z_tan


def sine_vjp(z, a_bar):
    """z_bar = cos(z) a_bar."""
    return np.cos(z) * a_bar


def sine_hvp(z, z_tan, a_bar, a_bar_tan):
    """z_bar_tan = cos(z) a_bar_tan + σ'' z_tan a_bar, σ'' = -sin z."""
    return np.cos(z) * a_bar_tan - np.sin(z) * z_tan * a_bar


@host_device
def sine_kernel(a, slope):
    """a = sin z, in place; slope = cos z."""
    if largest_is_within(a, SINE_LIMIT):
        for i in range(a.shape[0]):
            a[i], slope[i] = fast_sine_cosine(a[i])
    else:
        for i in range(a.shape[0]):
            a[i], slope[i] = any_sine_cosine(a[i])


@host_device
def slope_jvp_kernel(slope, a_tan):
    """a_tan = σ'(z) z_tan, in place. Transposed, it is itself: z_bar = σ'(z) a_bar."""
    for i in range(slope.shape[0]):
        a_tan[i] *= slope[i]


@host_device
def slope_hvp_kernel(slope, slope_tan, a_bar, a_bar_tan):
    """z_bar_tan = σ'(z) a_bar_tan + slope_tan a_bar and z_bar = σ'(z) a_bar, both in place."""
    for i in range(slope.shape[0]):
        a_bar_tan[i] = slope[i] * a_bar_tan[i] + slope_tan[i] * a_bar[i]
        a_bar[i] *= slope[i]


# --- any of them, by name and by code -------------------------------------------------------------

class Activation(NamedTuple):
    """An activation: the code by which kernels know it, its NumPy forms, and its needs."""

    code: int
    form: object
    jvp: object
    vjp: object
    hvp: object
    keeps_slope: bool


TANH, SOFTPLUS, SINE = 0, 1, 2
ACTIVATIONS = {
    "tanh": Activation(TANH, tanh, tanh_jvp, tanh_vjp, tanh_hvp, keeps_slope=False),
    "softplus": Activation(SOFTPLUS, softplus, softplus_jvp, softplus_vjp, softplus_hvp, keeps_slope=True),
    "sine": Activation(SINE, sine, sine_jvp, sine_vjp, sine_hvp, keeps_slope=True),
}


@host_device
def activation_kernel(code, a, slope):
    """a = σ(z), in place; ``slope`` is not used by tanh."""
    if code == TANH:
        tanh_kernel(a)
    elif code == SOFTPLUS:
        softplus_kernel(a, slope)
    else:
        sine_kernel(a, slope)


@host_device
def activation_jvp_kernel(code, a, slope, a_tan):
    """a_tan = σ'(z) z_tan, in place, with ``a`` and ``slope`` as `activation_kernel` left them."""
    if code == TANH:
        tanh_jvp_kernel(a, a_tan)
    else:
        slope_jvp_kernel(slope, a_tan)


@host_device
def activation_vjp_kernel(code, a, slope, a_bar):
    """z_bar = σ'(z) a_bar, in place: the Jacobian is diagonal, so its transpose is the jvp."""
    activation_jvp_kernel(code, a, slope, a_bar)


@host_device
def activation_tangents_kernel(code, a, slope, a_tan, slope_tan):
    """a_tan = σ'(z) z_tan, in place, and slope_tan = σ''(z) z_tan where the slope is kept.

    σ'' = s (1 - s) for softplus with the slope s, -a for sine.
    """
    if code == TANH:
        tanh_jvp_kernel(a, a_tan)
        return
    for i in range(slope.shape[0]):
        curvature = slope[i] * (1.0 - slope[i]) if code == SOFTPLUS else -a[i]
        slope_tan[i] = curvature * a_tan[i]
        a_tan[i] *= slope[i]


@host_device
def activation_hvp_kernel(code, a, slope, a_tan, slope_tan, a_bar, a_bar_tan):
    """The transpose and its tangent, in place, with the rest as `activation_tangents_kernel` left it."""
    if code == TANH:
        tanh_hvp_kernel(a, a_tan, a_bar, a_bar_tan)
    else:
        slope_hvp_kernel(slope, slope_tan, a_bar, a_bar_tan)


# --- the scalar forms -----------------------------------------------------------------------------

@inlined
def power_of_two(k):
    """2^k for an integer -1023 < k < 1024, made from its exponent bits."""
    return np.int64((k + np.int64(1023)) << np.int64(52)).view(np.float64)


@inlined
def rounded(shifted):
    """The integer in the low bits of shifted = x + ROUND."""
    return np.float64(shifted).view(np.int64) - np.float64(ROUND).view(np.int64)


@inlined
def expm1_taylor(r):
    """exp(r) - 1 for |r| <= ln(2)/2, by its Taylor series up to r^13/13!."""
    q = 1.0 / 6227020800.0
    q = q * r + 1.0 / 479001600.0
    q = q * r + 1.0 / 39916800.0
    q = q * r + 1.0 / 3628800.0
    q = q * r + 1.0 / 362880.0
    q = q * r + 1.0 / 40320.0
    q = q * r + 1.0 / 5040.0
    q = q * r + 1.0 / 720.0
    q = q * r + 1.0 / 120.0
    q = q * r + 1.0 / 24.0
    q = q * r + 1.0 / 6.0
    q = q * r + 0.5
    return r + (r * r) * q


@inlined
def fast_tanh(x):
    """tanh x = -e / (2 + e), e = exp(-2|x|) - 1, with the sign of x."""
    a = abs(float(x))
    a = TANH_IS_ONE if a > TANH_IS_ONE else a       # a NaN passes
    shifted = (-2.0 * LOG2_E) * a + ROUND
    k = shifted - ROUND
    r = (-2.0 * a - k * LN2_HIGH) - k * LN2_LOW
    scale = power_of_two(rounded(shifted))
    e = scale * expm1_taylor(r) + (scale - 1.0)
    return math.copysign(e / (2.0 + e), x)


@inlined
def fast_exp_negative(x):
    """exp x for x <= 0, down to the subnormals."""
    x = EXP_IS_ZERO if x < EXP_IS_ZERO else x
    shifted = LOG2_E * x + ROUND
    k = shifted - ROUND
    r = (x - k * LN2_HIGH) - k * LN2_LOW
    exponent = rounded(shifted)
    half = exponent >> np.int64(1)                  # in two factors: 2^exponent may not be representable
    return (1.0 + expm1_taylor(r)) * power_of_two(half) * power_of_two(exponent - half)


@inlined
def fast_log1p(u):
    """log(1 + u) for 0 <= u <= 1: 2 atanh(f / (2 + f)), after 1 + u = 2 (1 + f) where u > √2 - 1."""
    large = u > SQRT2_MINUS_1
    f = 0.5 * (u - 1.0) if large else u
    s = f / (2.0 + f)
    z = s * s
    q = 2.0 / 21.0
    q = q * z + 2.0 / 19.0
    q = q * z + 2.0 / 17.0
    q = q * z + 2.0 / 15.0
    q = q * z + 2.0 / 13.0
    q = q * z + 2.0 / 11.0
    q = q * z + 2.0 / 9.0
    q = q * z + 2.0 / 7.0
    q = q * z + 2.0 / 5.0
    q = q * z + 2.0 / 3.0
    half_square = 0.5 * f * f
    log_f = f - (half_square - s * (half_square + z * q))      # 2s = f - s f = f - f²/2 + s f²/2
    return (log_f + LN2_LOW) + LN2_HIGH if large else log_f


@inlined
def quarter_turns(x):
    """(n, r, r_low): x = n π/2 + r + r_low with |r| <= π/4, for |x| <= SINE_LIMIT (Cody and Waite)."""
    shifted = TWO_OVER_PI * x + ROUND
    n = shifted - ROUND
    first = x - n * HALF_PI_1                       # exact, like the product
    product = n * HALF_PI_2
    second = first - product
    low = n * HALF_PI_3 - ((first - second) - product)
    r = second - low                                # in this order -0 stays -0
    return rounded(shifted), r, (second - r) - low


@inlined
def sine_taylor(r, r_low):
    """sin(r + r_low) for |r| <= π/4, up to r^17/17!."""
    z = r * r
    q = 1.0 / 355687428096000.0
    q = q * z - 1.0 / 1307674368000.0
    q = q * z + 1.0 / 6227020800.0
    q = q * z - 1.0 / 39916800.0
    q = q * z + 1.0 / 362880.0
    q = q * z - 1.0 / 5040.0
    q = q * z + 1.0 / 120.0
    cubic = z * r
    return r - ((z * (0.5 * r_low - cubic * q) - r_low) + cubic * (1.0 / 6.0))


@inlined
def cosine_taylor(r, r_low):
    """cos(r + r_low) for |r| <= π/4, up to r^18/18!."""
    z = r * r
    q = -1.0 / 6402373705728000.0
    q = q * z + 1.0 / 20922789888000.0
    q = q * z - 1.0 / 87178291200.0
    q = q * z + 1.0 / 479001600.0
    q = q * z - 1.0 / 3628800.0
    q = q * z + 1.0 / 40320.0
    q = q * z - 1.0 / 720.0
    q = q * z + 1.0 / 24.0
    half = 0.5 * z
    one_minus = 1.0 - half
    return one_minus + (((1.0 - one_minus) - half) + (z * z * q - r * r_low))


@inlined
def fast_sine_cosine(x):
    """(sin x, cos x) for |x| <= SINE_LIMIT."""
    n, r, r_low = quarter_turns(float(x))
    s, c = sine_taylor(r, r_low), cosine_taylor(r, r_low)
    odd = (n & np.int64(1)) != np.int64(0)
    sine_value, cosine_value = (c, s) if odd else (s, c)
    sine_value = -sine_value if (n & np.int64(2)) != np.int64(0) else sine_value
    cosine_value = -cosine_value if ((n + np.int64(1)) & np.int64(2)) != np.int64(0) else cosine_value
    return sine_value, cosine_value


@inlined
def fast_softplus_sigmoid(x):
    """(log(1 + exp x), 1 / (1 + exp(-x))), both from u = exp(-|x|)."""
    u = fast_exp_negative(-abs(float(x)))
    positive = x > 0.0
    value = fast_log1p(u) + (x if positive else 0.0)
    return value, (1.0 if positive else u) / (1.0 + u)


@host_device
def any_sine_cosine(x):
    """(sin x, cos x) for every x; the same as `fast_sine_cosine` where that is valid."""
    if abs(x) <= SINE_LIMIT:
        return fast_sine_cosine(x)
    if abs(x) < np.inf:
        return math.sin(x), math.cos(x)
    return np.nan, np.nan


@host_device
def largest_is_within(x, limit):
    """Whether every |x_i| <= limit; false if one is NaN. Counted, because a count vectorises."""
    beyond = 0
    for i in range(x.shape[0]):
        beyond += 0 if abs(x[i]) <= limit else 1
    return beyond == 0
