"""The battery that every layer and loss passes, and what it is tried on: derivatives that are wrong on purpose.

A `Triple` holds a map of named arrays to an array, with its jvp, vjp and hvp in one form:

    ``form(**x) -> y``    ``jvp(x, x_tan) -> y_tan``    ``vjp(x, y_bar) -> {name: bar}``
    ``hvp(x, x_tan, y_bar, y_bar_tan) -> {name: bar_tan}``

and a kernel triple in the same form, which a test adapts (`added` makes it begin at bars that are not zero).
"""
import dataclasses

import numpy as np

from refnode.gradcheck import finite_difference_jvp

EPS = np.finfo(float).eps
STEP = 1e-30
ROUNDING = 1e-13          # relative to the sum of magnitudes that the compared numbers are made of


@dataclasses.dataclass
class Triple:
    """A layer at a point: its functions, its inputs by name, and the generator of its tangents."""

    form: object
    jvp: object
    vjp: object
    x: dict
    hvp: object = None
    seed: int = 0

    def directions(self):
        """x_tan, y_bar, y_bar_tan: standard normal, of the shapes of inputs and output."""
        rng = np.random.default_rng([self.seed, 1])
        y = np.shape(self.form(**self.x))
        normal = lambda shape: rng.standard_normal(shape) if shape else float(rng.standard_normal())
        return {name: normal(np.shape(value)) for name, value in self.x.items()}, normal(y), normal(y)


def moved(x, x_tan, step):
    return {name: value + step * x_tan[name] for name, value in x.items()}


def distance(found, expected):
    """max |found - expected| over the largest magnitude expected (or 1e-3, near a zero), entry by entry of dicts."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        return max(distance(found[name], expected[name]) for name in expected)
    assert np.shape(found) == np.shape(expected)
    return float(np.max(np.abs(np.subtract(found, expected)), initial=0.0) / max(np.max(np.abs(expected), initial=0.0), 1e-3))


def inner(a, b):
    """<a, b> of two dicts, and the sum of the magnitudes of its terms."""
    terms = np.concatenate([np.ravel(a[name] * b[name]) for name in a])
    return terms.sum(), np.abs(terms).sum()


def dot_product_error(triple, vjp=None):
    """|<J v, w> - <v, Jᵀ w>| over the magnitudes of both sums."""
    x_tan, y_bar, _ = triple.directions()
    left, size = inner({"y": np.asarray(triple.jvp(triple.x, x_tan))}, {"y": y_bar})
    right, other = inner((vjp or triple.vjp)(triple.x, y_bar), x_tan)
    return abs(left - right) / max(size, other)


def complex_step_error(triple, jvp=None):
    """The jvp against a complex step of the form."""
    x_tan, _, _ = triple.directions()
    expected = np.imag(triple.form(**moved(triple.x, x_tan, 1j * STEP))) / STEP
    return distance((jvp or triple.jvp)(triple.x, x_tan), expected)


def hvp_error(triple, hvp=None):
    """The hvp against a complex step of the vjp."""
    x_tan, y_bar, y_bar_tan = triple.directions()
    bars = triple.vjp(moved(triple.x, x_tan, 1j * STEP), y_bar + 1j * STEP * y_bar_tan)
    expected = {name: np.imag(bar) / STEP for name, bar in bars.items()}
    return distance((hvp or triple.hvp)(triple.x, x_tan, y_bar, y_bar_tan), expected)


def symmetry_error(triple):
    """|<u, H v> - <v, H u>| over the magnitudes of both sums, H = hvp with y_bar held: the Hessian of <y_bar, y>."""
    v, y_bar, _ = triple.directions()
    u = dataclasses.replace(triple, seed=triple.seed + 100).directions()[0]
    left, size = inner(triple.hvp(triple.x, v, y_bar, 0.0 * y_bar), u)
    right, other = inner(triple.hvp(triple.x, u, y_bar, 0.0 * y_bar), v)
    return abs(left - right) / max(size, other)


def hvp_by_differences_error(triple):
    """The hvp against extrapolated differences of the vjp: the largest ratio of deviation and estimated error.

    The estimate is taken four times, and of an entry where it vanishes a thousand roundings of the largest.
    """
    x_tan, y_bar, y_bar_tan = triple.directions()

    def along(s):
        return np.concatenate([np.ravel(bar) for bar in triple.vjp(moved(triple.x, x_tan, s[0]), y_bar + s[0] * y_bar_tan).values()])
    expected = finite_difference_jvp(along, np.zeros(1), np.ones(1))
    found = np.concatenate([np.ravel(bar) for bar in triple.hvp(triple.x, x_tan, y_bar, y_bar_tan).values()])
    size = np.max(np.abs(found), initial=1e-3)
    assert np.max(expected.error) <= 1e-6 * size                # or nothing would have been compared
    return float(np.max(np.abs(found - expected.value) / (4.0 * expected.error + 1e3 * EPS * size)))


def check_triple(triple):
    """The battery: complex step, dot product and, where there is one, second derivative."""
    assert complex_step_error(triple) <= ROUNDING
    assert dot_product_error(triple) <= ROUNDING
    if triple.hvp is not None:
        assert hvp_error(triple) <= ROUNDING


def check_kernel(triple, kernel, dot=True):
    """A kernel's triple equals the NumPy forms; its own jvp and vjp are transposed to rounding, too."""
    x_tan, y_bar, y_bar_tan = triple.directions()
    assert distance(kernel.form(**triple.x), triple.form(**triple.x)) <= ROUNDING
    assert distance(kernel.jvp(triple.x, x_tan), triple.jvp(triple.x, x_tan)) <= ROUNDING
    assert distance(kernel.vjp(triple.x, y_bar), triple.vjp(triple.x, y_bar)) <= ROUNDING
    if kernel.hvp is not None:
        arguments = (triple.x, x_tan, y_bar, y_bar_tan)
        assert distance(kernel.hvp(*arguments), triple.hvp(*arguments)) <= ROUNDING
    assert not dot or dot_product_error(kernel) <= ROUNDING


def added(shapes, call):
    """What ``call(*bars)`` adds to flat bars that begin at 1, 2, 3, ..., in the shapes of a dict ``shapes``.

    Beginning away from zero, a kernel that overwrites instead of adding is off by as much.
    """
    bars = [np.full(int(np.prod(shape)), 1.0 + k) for k, shape in enumerate(shapes.values())]
    call(*bars)
    return {name: (bar - (1.0 + k)).reshape(shape) for k, (bar, (name, shape)) in enumerate(zip(bars, shapes.items()))}


# --- wrong on purpose -------------------------------------------------------------------------------

def vjp_mutants(triple):
    """(label, vjp) with one of the cotangents negated, dropped, doubled, or taken from another sample."""
    def changed(name, change):
        def vjp(x, y_bar):
            bars = dict(triple.vjp(x, y_bar))
            return {**bars, name: change(bars[name])}
        return vjp
    changes = {"negated": lambda bar: -bar, "dropped": lambda bar: 0.0 * bar, "doubled": lambda bar: 2.0 * bar,
               "one entry off by 1e-9": lambda bar: bar + 1e-9 * (np.arange(np.size(bar)) == 0).reshape(np.shape(bar))}
    for name in triple.x:
        for label, change in changes.items():
            yield f"{name} {label}", changed(name, change)


def check_mutants(triple):
    """Every mutant of the vjp fails the dot product; every scaled jvp the complex step; a wrong hvp its own."""
    for label, wrong in vjp_mutants(triple):
        assert dot_product_error(triple, wrong) > ROUNDING, label
    assert complex_step_error(triple, lambda x, x_tan: (1.0 + 1e-9) * triple.jvp(x, x_tan)) > ROUNDING
    if triple.hvp is not None:
        def first_order(x, x_tan, y_bar, y_bar_tan):
            return triple.vjp(x, y_bar_tan)
        def second_order(x, x_tan, y_bar, y_bar_tan):
            return triple.hvp(x, x_tan, y_bar, 0.0 * y_bar_tan)
        caught = [hvp_error(triple, wrong) > ROUNDING for wrong in (first_order, second_order)]
        assert any(caught)


def check_hvp_mutants(triple):
    """A wrong hvp is caught by the complex step: each of its parts negated, off by 1e-9 of the whole, or of another cotangent."""
    def changed(name, change):
        return lambda *arguments: {key: change(bar) if key == name else bar for key, bar in triple.hvp(*arguments).items()}
    for name, bar in triple.hvp(triple.x, *triple.directions()).items():
        size = max(np.max(np.abs(bar)), 1e-3)
        assert not np.any(bar) or hvp_error(triple, changed(name, lambda bar: -bar)) > ROUNDING, name
        assert hvp_error(triple, changed(name, lambda bar: bar + 1e-9 * size)) > ROUNDING, name
    assert hvp_error(triple, lambda x, x_tan, y_bar, y_bar_tan: triple.vjp(x, y_bar_tan)) > ROUNDING      # no curvature
    assert hvp_error(triple, lambda x, x_tan, y_bar, y_bar_tan: triple.hvp(x, x_tan, y_bar, 0.0 * y_bar_tan)) > ROUNDING
