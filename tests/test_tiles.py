"""Products in tiles, of matrices packed beforehand: against sums in extended precision, at every size, in either precision."""
import itertools

import numpy as np
import pytest
from numba import njit

from refnode.layers import tiles
from refnode.layers.dense import (
    dense_kernel, dense_packed, dense_packed_vjp, dense_plain, dense_plain_vjp, dense_vjp_kernel, pack_dense, pack_dense_vjp)
from refnode.layers.tiles import USABLE, pack, packed_size, product

needs_tiles = pytest.mark.skipif(not USABLE, reason="this processor, or Python alone, leaves products to BLAS")
SIZES = (1, 2, 3, 4, 5, 8, 9, 15, 16, 17, 31, 33, 64, 70)       # around every width and height of a tile


@njit(error_model="numpy")
def pack_now(k, n, B, B_l, B_j, first, panels):
    pack(k, n, B, B_l, B_j, first, panels)


@njit(error_model="numpy")
def product_now(m, n, k, a, a_i, a_l, panels, add, c):
    product(m, n, k, a, a_i, a_l, panels, add, c)


class Case:
    """c = first + a B and c += a B by tiles, with room filled with NaN where nothing may be read."""

    def __init__(self, m, n, k, real, transposed=False):
        rng = np.random.default_rng(m + 100 * n + 10000 * k)
        self.sizes, self.real, self.transposed = (m, n, k), real, transposed
        self.a, self.B, self.first, self.c = (
            rng.standard_normal(shape).astype(real) for shape in ((m, k), (k, n), (n,), (m, n)))

    def found(self, add, first=None):
        m, n, k = self.sizes
        panels = np.full(packed_size(k, n), np.nan, self.real)
        B, steps = (self.B.T.copy(), (1, k)) if self.transposed else (self.B, (n, 1))
        pack_now(k, n, B.ravel(), *steps, self.first if first is None else first, panels)
        a, steps = (self.a.T.copy(), (1, m)) if self.transposed else (self.a, (k, 1))
        c = np.concatenate([self.c.ravel() if add else np.full(m * n, np.nan, self.real), np.full(80, 7.0, self.real)])
        product_now(m, n, k, a.ravel(), *steps, panels, add, c)
        assert np.all(c[m * n:] == 7.0)                         # nothing is written behind the last row
        return c[:m * n].reshape(m, n)

    def error(self, found, begun):
        """The largest error in units of its bound: k fused sums round once each, k unit roundoffs of all magnitudes."""
        a, B, begun = (np.asarray(array, np.float64) for array in (self.a, self.B, begun))
        exact = begun + np.einsum("il,lj->ij", a.astype(np.longdouble), B.astype(np.longdouble))
        bound = (np.abs(begun) + np.abs(a) @ np.abs(B)) * (self.sizes[2] + 1) * np.finfo(self.real).eps / 2
        return np.max(np.abs(found - exact) / bound)


@needs_tiles
@pytest.mark.parametrize("real", [np.float64, np.float32])
@pytest.mark.parametrize("k", [1, 2, 7, 64])
def test_products_are_right_at_every_size(k, real):
    for m, n in itertools.product(SIZES, SIZES):
        case = Case(m, n, k, real, transposed=(m + n) % 2 == 1)
        assert case.error(case.found(add=False), case.first) <= 1.0
        assert case.error(case.found(add=True), case.c) <= 1.0
        assert case.error(case.found(add=False, first=case.first[:0]), np.zeros(n)) <= 1.0


@needs_tiles
def test_a_row_has_the_same_bits_whichever_rows_stand_beside_it():
    case = Case(21, 70, 33, np.float64)
    together = case.found(add=False)
    for m in (1, 3, 5, 8, 13):
        part = Case(21, 70, 33, np.float64)
        part.sizes, part.a, part.c = (m, 70, 33), case.a[21 - m:], case.c[21 - m:]
        np.testing.assert_array_equal(part.found(add=False), together[21 - m:])


@needs_tiles
def test_a_sum_without_terms_is_what_it_begins_with():
    case = Case(9, 20, 0, np.float64)
    np.testing.assert_array_equal(case.found(add=False), np.tile(case.first, (9, 1)))
    np.testing.assert_array_equal(case.found(add=True), case.c)


@needs_tiles
def test_another_product_is_caught():
    """A sum without its last term, and one with the row beside it."""
    case = Case(9, 20, 7, np.float64)
    found = case.found(add=False)
    assert case.error(found - np.outer(case.a[:, -1], case.B[-1]), case.first) > 1e3
    assert case.error(np.roll(found, 1, axis=0), case.first) > 1e3


@pytest.mark.parametrize("bytes_, itemsize", [(64, 8), (64, 4), (32, 8), (32, 4), (16, 8), (16, 4)])
def test_panels_have_room_on_every_processor(bytes_, itemsize, monkeypatch):
    monkeypatch.setattr(tiles, "LANE_BYTES", bytes_)
    width_of = getattr(tiles.panel_width, "py_func", tiles.panel_width)
    for n in range(1, 200):
        left, columns = n, 0
        while left > 0:
            width = width_of(left, itemsize)
            assert width in {tiles.tile_width(quarters, itemsize) for quarters in (tiles.WIDE, tiles.FULL, tiles.NARROW)}
            left, columns = left - min(width, left), columns + width
        assert 4 * columns <= packed_size(3, n)


@pytest.mark.parametrize("sizes", [(64, 64, 64), (17, 2, 33), (40, 33, 3), (16, 5, 5)])
def test_layers_by_tiles_equal_those_by_blas(sizes):
    rows, d_in, d_out = sizes
    rng = np.random.default_rng(3)
    x, W, b, z_bar = (rng.standard_normal(size) for size in (rows * d_in, d_out * d_in, d_out, rows * d_out))
    packed, room = np.full((2, max(packed_size(d_in, d_out), packed_size(d_out, d_in), packed_size(rows, d_in))), np.nan)
    for form, vjp in ((dense_packed, dense_packed_vjp), (dense_plain, dense_plain_vjp)):
        z, expected = np.full((2, rows * d_out), np.nan)
        pack_dense(W, b, packed)
        form(rows, x, W, b, packed, z)
        dense_kernel(rows, x, W, b, expected)
        np.testing.assert_allclose(z, expected, rtol=0.0, atol=1e-13)
        bars = [np.full(rows * d_in, np.nan), np.ones(d_out * d_in), np.ones(d_out)]
        plain = [np.zeros(rows * d_in), np.ones(d_out * d_in), np.ones(d_out)]
        pack_dense_vjp(d_out, W, packed)
        vjp(rows, x, W, packed, room, z_bar, *bars)
        dense_vjp_kernel(rows, x, W, z_bar, *plain)
        for found, expected in zip(bars, plain):
            np.testing.assert_allclose(found, expected, rtol=0.0, atol=1e-13 * rows)
