"""The set in which a state is known: midpoint + basis · box, which follows a linear map without wrapping (Lohner 1987).

A box of balls put through a rotation grows at every step, and through a strong contraction along one direction it does not
shrink. Here the box is turned with the map: from A = matrix · basis a QR factorisation, columns scaled and sorted by the width
they carry, gives the next basis, and what is left over is bounded in it. The factorisation is one of floats and need not be
exact: whatever invertible basis it returns, the inclusion is computed in balls with the inverse of that very basis.
"""
import numpy as np
from flint import arb, arb_mat, ctx

from taylor_step import log2

SET_BITS = 128


class Parallelepiped:
    """{midpoint + basis w : |w_j| <= widths_j}."""

    def __init__(self, midpoint, basis, widths):
        self.midpoint, self.basis, self.widths = midpoint, basis, widths

    @classmethod
    def of(cls, balls):
        """The box of some balls."""
        count = len(balls)
        return cls([x.mid() for x in balls], identity(count), [x.rad() for x in balls])

    def hull(self):
        """Balls around the set."""
        with ctx.workprec(SET_BITS):
            deviation = self.deviation()
        return [x + d for x, d in zip(self.midpoint, deviation)]

    def deviation(self):
        """Balls around basis · box."""
        return column(self.basis * vector([arb(0, width) for width in self.widths]))

    def is_point(self):
        return all(width == 0 for width in self.widths)

    def mapped(self, image, matrix, sizes):
        """A set around {x + matrix d}, x in the balls ``image`` of the midpoint, d in the deviation; ``sizes``: scale of each
        component."""
        midpoint = [x.mid() for x in image]
        with ctx.workprec(SET_BITS):
            moved = matrix * self.basis
            scales = [arb(2) ** int(max(-3000.0, log2(size))) for size in sizes]
            turned = _orthogonal(moved, self.widths, scales)
            count = len(image)
            basis = arb_mat(count, count, [scales[i] * arb(turned[i, j]) for i in range(count) for j in range(count)])
            back = arb_mat(turned.tolist()).inv() * arb_mat(
                count, count, [1 / scales[i] if i == j else arb(0) for i in range(count) for j in range(count)])
            inside = column(back * moved * vector([arb(0, width) for width in self.widths])
                            + back * vector([arb(0, x.rad()) for x in image]))
            return Parallelepiped(midpoint, basis, [x.abs_upper() for x in inside])


def _orthogonal(moved, widths, scales):
    """An orthogonal matrix, nearly, whose first columns follow the widest edges of the moved box; floats."""
    count = len(widths)
    edges = np.zeros((count, count))
    lengths = np.full(count, -np.inf)
    for j, width in enumerate(widths):
        edge = [moved[i, j].mid() / scales[i] for i in range(count)]
        top = max(log2(x) for x in edge)
        if np.isfinite(top):
            edges[:, j] = [float(x * arb(2) ** -int(top)) for x in edge]
            lengths[j] = top + max(log2(width), -1e6)
    edges = edges[:, np.argsort(-lengths, kind="stable")]
    turned, _ = np.linalg.qr(edges)
    return turned


def identity(count):
    return arb_mat(count, count, [int(i == j) for i in range(count) for j in range(count)])


def vector(entries):
    return arb_mat(len(entries), 1, entries)


def column(matrix):
    return [matrix[i, 0] for i in range(matrix.nrows())]
