"""Activations: units in the last place against mpmath, special values, derivatives, vectorisation."""
import mpmath
import numpy as np
import pytest
from numba import config, njit

from refnode.host_device import OPTIONS
from refnode.layers.activations import (
    ACTIVATIONS, SINE_LIMIT, activation_jvp_kernel, activation_kernel, activation_vjp_kernel, sigmoid,
    sine_kernel, softplus_kernel, tanh_kernel)

NAMES = sorted(ACTIVATIONS)
TINY = 5e-324


def value_and_slope(name, z):
    """σ(z) and what the kernel leaves in ``slope`` (NaN for tanh, which leaves nothing)."""
    a = np.array(z, dtype=np.float64)
    slope = np.full_like(a, np.nan)
    activation_kernel(ACTIVATIONS[name].code, a, slope)
    return a, slope


def ulps(found, exact):
    """Largest error, in units of the spacing of doubles at the exact value."""
    spacings = [mpmath.mpf(float(np.spacing(abs(float(e))))) for e in exact]
    return np.max([float(abs(mpmath.mpf(float(f)) - e) / s) for f, e, s in zip(found, exact, spacings)])


def samples(low, high, rng, n=400):
    """Points in [low, high], both uniform and uniform in the logarithm, of both signs."""
    magnitudes = np.concatenate([
        rng.uniform(low, high, n), np.exp(rng.uniform(np.log(max(low, 1e-310)), np.log(high), n))])
    return magnitudes * rng.choice([-1.0, 1.0], magnitudes.size)


# Largest errors seen among 4·10^6 points in each of 5 to 8 subintervals, against an 80-bit reference:
# tanh 2.56, softplus 2.07, sigmoid 2.38, sine 0.78, cosine 0.78. Where they come from, for tanh: half an
# ulp each in exp(r) - 1, in e, in 2 + e and in the quotient, the first two weighted by up to 1.5.
EXACT = {
    "tanh": (mpmath.tanh, 2.8),
    "softplus": (lambda x: mpmath.log1p(mpmath.exp(x)), 2.3),
    "sigmoid": (lambda x: 1 / (1 + mpmath.exp(-x)), 2.6),
    "sine": (mpmath.sin, 0.9),
    "cosine": (mpmath.cos, 0.9),
}


def assert_ulps(which, found, x):
    exact, bound = EXACT[which]
    with mpmath.workprec(260):
        assert ulps(found, [exact(mpmath.mpf(float(v))) for v in x]) <= bound


@pytest.mark.parametrize("low, high", [(1e-300, 1e-3), (1e-3, 0.6), (0.3, 3.0), (3.0, 25.0)])
def test_tanh_ulps(low, high):
    x = samples(low, high, np.random.default_rng(1))
    assert_ulps("tanh", value_and_slope("tanh", x)[0], x)


@pytest.mark.parametrize("low, high", [(1e-300, 1e-3), (1e-3, 3.0), (3.0, 40.0), (40.0, 745.0)])
def test_softplus_and_sigmoid_ulps(low, high):
    """Down to z = -745, where both are subnormal: one spacing there is a large relative error."""
    x = samples(low, high, np.random.default_rng(2))
    value, slope = value_and_slope("softplus", x)
    assert_ulps("softplus", value, x)
    assert_ulps("sigmoid", slope, x)


@pytest.mark.parametrize("low, high", [(1e-300, 1e-3), (1e-3, 3.0), (3.0, SINE_LIMIT), (SINE_LIMIT, 1e9)])
def test_sine_and_cosine_ulps(low, high):
    x = samples(low, high, np.random.default_rng(3))
    value, slope = value_and_slope("sine", x)
    assert_ulps("sine", value, x)
    assert_ulps("cosine", slope, x)


def test_sine_at_the_doubles_next_to_multiples_of_half_pi():
    """Where all but the last bits of x cancel in the range reduction."""
    multiples = np.append(np.arange(1, 1100), 7 ** np.arange(4, 12)) * (np.pi / 2)
    x = np.concatenate([multiples, np.nextafter(multiples, 0.0), np.nextafter(multiples, np.inf)])
    value, slope = value_and_slope("sine", x)
    assert_ulps("sine", value, x)
    assert_ulps("cosine", slope, x)


SPECIAL = {
    "tanh": [(0.0, 0.0), (-0.0, -0.0), (np.inf, 1.0), (-np.inf, -1.0), (1e308, 1.0), (-1e308, -1.0),
             (TINY, TINY), (-TINY, -TINY), (1e-310, 1e-310), (22.0, 1.0), (-40.0, -1.0)],
    "softplus": [(np.inf, np.inf), (-np.inf, 0.0), (1e308, 1e308), (-1e308, 0.0), (0.0, np.log(2.0)),
                 (-0.0, np.log(2.0)), (TINY, np.log(2.0)), (-745.0, TINY), (-746.0, 0.0)],
    "sine": [(0.0, 0.0), (-0.0, -0.0), (TINY, TINY), (-TINY, -TINY), (1e-310, 1e-310),
             (np.inf, np.nan), (-np.inf, np.nan), (1e300, np.sin(1e300)), (-1e22, np.sin(-1e22))],
}


@pytest.mark.parametrize("name", NAMES)
def test_special_values(name):
    z, expected = np.array(SPECIAL[name] + [(np.nan, np.nan)]).T
    found = value_and_slope(name, z)[0]
    np.testing.assert_array_equal(found, expected)
    zero = expected == 0.0
    np.testing.assert_array_equal(np.signbit(found[zero]), np.signbit(expected[zero]))


def test_special_slopes():
    z = np.array([np.inf, -np.inf, np.nan, 0.0, -745.0, -800.0])
    np.testing.assert_array_equal(value_and_slope("softplus", z)[1], [1.0, 0.0, np.nan, 0.5, TINY, 0.0])
    np.testing.assert_array_equal(value_and_slope("sine", z[:4])[1], [np.nan, np.nan, np.nan, 1.0])


@pytest.mark.parametrize("name", NAMES)
def test_a_value_does_not_depend_on_its_place_in_the_array(name):
    """Not on its lane, nor on the scalar remainder of the loop, nor on a huge or NaN neighbour."""
    z = samples(1e-3, 30.0, np.random.default_rng(4), n=51)
    value, slope = value_and_slope(name, z)
    beside = value_and_slope(name, np.append(z, [1e9, np.nan]))
    alone = [value_and_slope(name, [x]) for x in z]
    np.testing.assert_array_equal(value, beside[0][:-2])
    np.testing.assert_array_equal(value, [a[0] for a, _ in alone])
    np.testing.assert_array_equal(slope, [s[0] for _, s in alone])


@pytest.mark.parametrize("name", NAMES)
def test_kernels_equal_the_numpy_forms(name):
    """4 ulp: 3 for a kernel, 1 for NumPy. The slope 1 - a² of tanh has no relative accuracy near a = 1."""
    rng = np.random.default_rng(5)
    z, v = rng.normal(scale=3.0, size=(2, 400))
    code, form, form_jvp, form_vjp, *_ = ACTIVATIONS[name]
    a, slope = value_and_slope(name, z)
    np.testing.assert_allclose(a, form(z), rtol=4 * np.finfo(float).eps, atol=0.0)
    for kernel, numpy_form in ((activation_jvp_kernel, form_jvp), (activation_vjp_kernel, form_vjp)):
        found = v.copy()
        kernel(code, a, slope, found)
        np.testing.assert_allclose(found, numpy_form(z, v), rtol=1e-15, atol=1e-15 * np.abs(v).max())


@pytest.mark.parametrize("name", NAMES)
def test_jvp_is_the_complex_step_derivative(name):
    rng = np.random.default_rng(6)
    z, v = rng.normal(scale=3.0, size=(2, 400))
    complex_step = ACTIVATIONS[name].form(z + 1e-30j * v).imag / 1e-30
    np.testing.assert_allclose(ACTIVATIONS[name].jvp(z, v), complex_step, rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(ACTIVATIONS[name].vjp(z, v), complex_step, rtol=1e-14, atol=1e-14)


def test_sigmoid_and_softplus_do_not_overflow():
    """The suite turns the warnings that an overflow would raise into errors."""
    z = np.array([-1e300, -800.0, 0.0, 800.0, 1e300])
    np.testing.assert_array_equal(sigmoid(z), [0.0, 0.0, 0.5, 1.0, 1.0])
    np.testing.assert_array_equal(ACTIVATIONS["softplus"].form(z), [0.0, 0.0, np.log(2.0), 800.0, 1e300])


@pytest.mark.skipif(bool(config.DISABLE_JIT), reason="needs the compiler")
@pytest.mark.parametrize("kernel, n_arrays", [(tanh_kernel, 1), (softplus_kernel, 2), (sine_kernel, 2)])
def test_the_loops_are_vectorised(kernel, n_arrays):
    """A branch, or a call that LLVM declines to inline, would cost a factor of ten without a trace."""
    compiled = njit(**OPTIONS)(kernel.py_func)
    compiled(*np.zeros((n_arrays, 8)))
    (code,) = compiled.inspect_llvm().values()
    assert any("x double>" in line for line in code.splitlines() if "fmul" in line)
