"""Claim: tanh, softplus, sine and their slopes are within 2.8, 2.3, 2.6 and 0.9 units in the last place.

Every octave from 2^-10 to the end of the range is searched at random points of both signs, and all below it at points
uniform in the logarithm. The reference is the C library in extended precision; the worst point of each
octave is judged once more by mpmath with 260 bits.
"""
import mpmath
import numpy as np

import sheet
from refnode.layers.activations import SINE_LIMIT
from test_activations import EXACT, ulps, value_and_slope

LONG = np.longdouble
# name: activation, whether it is the slope, reference in extended precision, largest magnitude
FUNCTIONS = {
    "tanh": ("tanh", False, np.tanh, 25.0),
    "softplus": ("softplus", False, lambda x: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))), 745.0),
    "sigmoid": ("softplus", True, lambda x: np.where(x > 0, 1, np.exp(-np.abs(x))) / (1 + np.exp(-np.abs(x))), 745.0),
    "sine": ("sine", False, np.sin, SINE_LIMIT),
    "cosine": ("sine", True, np.cos, SINE_LIMIT),
}
LOWEST = -10


def octaves(top):
    """(low, high) of intervals that cover [1e-300, top]."""
    edges = [2.0 ** k for k in range(LOWEST, int(np.ceil(np.log2(top))))] + [top]
    return [(1e-300, edges[0]), *zip(edges[:-1], edges[1:])]


def points(low, high, count, rng):
    """Random points of both signs: uniform within an octave, uniform in the logarithm below all octaves."""
    octave = high <= 2.0 * low
    magnitudes = rng.uniform(low, high, count) if octave else np.exp(rng.uniform(np.log(low), np.log(high), count))
    return magnitudes * rng.choice([-1.0, 1.0], count)


def worst_point(name, x):
    """Where the error in units in the last place is largest, and that error by mpmath."""
    activation, is_slope, reference, _ = FUNCTIONS[name]
    found, exact = value_and_slope(activation, x)[int(is_slope)], reference(x.astype(LONG))
    errors = np.abs(found.astype(LONG) - exact) / np.spacing(np.abs(exact.astype(np.float64)))
    worst = int(np.argmax(errors))
    with mpmath.workprec(260):
        error = ulps(found[worst:worst + 1], [EXACT[name][0](mpmath.mpf(float(x[worst])))])
    return float(x[worst]), error


def main():
    options = sheet.parser(__doc__, points=(1_000_000, "points in each octave")).parse_args()
    if np.finfo(LONG).nmant < 63:
        raise SystemExit("this platform has no extended precision")
    rows = []
    for name, (_, _, _, top) in FUNCTIONS.items():
        rng = np.random.default_rng(options.seed)
        found = [worst_point(name, points(low, high, options.points, rng)) for low, high in octaves(top)]
        where, error = max(found, key=lambda pair: pair[1])
        rows.append([name, len(found), f"{error:.3f}", repr(where), EXACT[name][1]])
    sheet.publish(__doc__, options, ["function", "intervals", "largest error, ulp", "at", "asserted by the tests"], rows)


main()
