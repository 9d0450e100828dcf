"""Rooted trees and the order conditions of Runge-Kutta methods, in exact arithmetic.

A tree is the sorted tuple of its root's subtrees: () is the single node, ((),) the tree of order 2.
Reference: E. Hairer, S. P. Nørsett, G. Wanner, Solving Ordinary Differential Equations I, Sect. II.2.
"""
import functools
import math
from fractions import Fraction


def _with_one_more_leaf(tree):
    yield tuple(sorted(tree + ((),)))
    for i, subtree in enumerate(tree):
        for grown in _with_one_more_leaf(subtree):
            yield tuple(sorted(tree[:i] + (grown,) + tree[i + 1:]))


@functools.cache
def rooted_trees(order):
    """All rooted trees with `order` nodes; there are 1, 1, 2, 4, 9, 20, 48, 115, 286, .."""
    if order == 1:
        return ((),)
    return tuple(sorted({grown for tree in rooted_trees(order - 1) for grown in _with_one_more_leaf(tree)}))


@functools.cache
def size(tree):
    return 1 + sum(size(subtree) for subtree in tree)


@functools.cache
def density(tree):
    """γ(t) = |t| γ(t_1) .. γ(t_m)."""
    return size(tree) * math.prod(density(subtree) for subtree in tree)


class ElementaryWeights:
    """Φ_i(t) = Π_m Σ_j a_ij Φ_j(t_m), with t_m the subtrees of t, for slopes with coefficients `rows`."""

    def __init__(self, rows):
        self.rows = [[(j, a) for j, a in enumerate(row) if a] for row in rows]
        self._stage_weights = {(): [Fraction(1)] * len(rows)}

    def stage_weights(self, tree):
        """Φ_i(t) of every slope i."""
        if tree not in self._stage_weights:
            # removing the first subtree leaves a smaller tree: Φ is a product over the subtrees
            first, rest = self.stage_weights(tree[0]), self.stage_weights(tree[1:])
            self._stage_weights[tree] = [
                sum((a * first[j] for j, a in row), Fraction(0)) * other if other else Fraction(0)
                for row, other in zip(self.rows, rest)]
        return self._stage_weights[tree]

    def weight(self, weights, tree):
        """Φ(t) = Σ_i weights_i Φ_i(t)."""
        return sum((w * phi for w, phi in zip(weights, self.stage_weights(tree)) if w), Fraction(0))

    def order_residual(self, weights, order):
        """max |Φ(t) - 1/γ(t)| over the trees of exactly this order."""
        return max(abs(self.weight(weights, tree) - Fraction(1, density(tree))) for tree in rooted_trees(order))

    def dense_residual(self, polynomials, order):
        """max over trees of this order and powers of σ of |Σ_i w_i(σ) Φ_i(t) - σ^|t| / γ(t)|.

        polynomials[i] holds the coefficients of σ, σ², .. of w_i.
        """
        columns = list(zip(*polynomials))
        columns += [(0,) * len(polynomials)] * (order - len(columns))
        return max(abs(self.weight(column, tree) - (Fraction(1, density(tree)) if power == order else 0))
                   for tree in rooted_trees(order) for power, column in enumerate(columns, start=1))
