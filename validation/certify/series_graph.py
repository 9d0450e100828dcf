"""Functions of time as Taylor coefficients with a proven tail: the arithmetic under the validated steps.

A function x(s), analytic around s = 0, is a *node* of a graph. It has

* ``c``, balls that contain its Taylor coefficients c_0 ... c_N exactly, from the recurrence of its operation, and
* ``tail``, a bound of  sum_{k > N} |c_k| rho^k, for one radius rho > 0.

The norm ||x|| = sum_k |c_k| rho^k makes the functions with finite norm a Banach algebra: ||x z|| <= ||x|| ||z||, and
|x(s)| <= ||x|| on the whole complex disc |s| <= rho. Every bound below is an inequality in this norm. A tail is not an
estimate: it covers all coefficients beyond N, cancellation not counted on.

Coefficients are made one order at a time, all nodes together (`Graph.advance`), so that the unknown of a
differential equation can be a node whose coefficient k + 1 comes from the coefficient k of its rate (Moore 1966).
"""
from operator import mul

from flint import arb, ctx

BOUND_BITS = 64                         # magnitudes and tails need few bits; the balls keep them rigorous
ZERO = arb(0)
FUNCTIONS = {}                          # name -> class of nodes; filled by `analytic_nodes`


def convolution(a, b, k):
    """sum_{j=0}^{k} a_j b_{k-j}; each product once if a is b."""
    if a is not b:
        return sum(map(mul, a[:k + 1], b[k::-1]), ZERO)
    twice = 2 * sum(map(mul, a[:(k + 1) // 2], b[k:k // 2:-1]), ZERO)
    return twice if k % 2 else twice + a[k // 2] * a[k // 2]


class Graph:
    """Nodes in the order in which they were made, which is an order of evaluation."""

    def __init__(self, order):
        self.order, self.nodes = order, []

    def advance(self, k):
        """Coefficient k of every node; the unknowns must have theirs already."""
        for node in self.nodes:
            node.c.append(node.coefficient(k))

    def measure(self, rho):
        """Magnitudes |c_k| rho^k of every node, for the radius rho."""
        with ctx.workprec(BOUND_BITS):
            powers = [arb(1)]
            for _ in range(self.order):
                powers.append(powers[-1] * rho)
            for node in self.nodes:
                node.measure(powers)

    def bound(self):
        """Tails of every node, from those of the unknowns."""
        with ctx.workprec(BOUND_BITS):
            for node in self.nodes:
                node.tail = node.tail_bound()


class Node:
    """One function; a subclass knows ``coefficient(k)`` and ``tail_bound()``."""

    def __init__(self, graph):
        self.graph, self.c, self.tail = graph, [], ZERO
        graph.nodes.append(self)

    def measure(self, powers):
        """``m``: |c_k| rho^k;  ``rest``: the sums of m from k on;  ``size``: the norm of the known part."""
        self.m = [c.abs_upper() * power for c, power in zip(self.c, powers)]
        self.rest = [ZERO]
        for m in reversed(self.m):
            self.rest.append(self.rest[-1] + m)
        self.rest.reverse()
        self.size = self.rest[0]
        self.prepare()

    def prepare(self):
        """What a tail needs and does not depend on other tails."""

    def norm(self):
        return self.size + self.tail

    def slope_size(self):
        """Norm of s x'(s), known part: sum_k k |c_k| rho^k."""
        return sum((k * m for k, m in enumerate(self.m)), ZERO)

    def __add__(self, other):
        return _made(other, lambda: Sum(self, other), lambda: Shifted(self, other))

    __radd__ = __add__

    def __neg__(self):
        return Scaled(self, -1)

    def __sub__(self, other):
        return _made(other, lambda: Difference(self, other), lambda: Shifted(self, -other))

    def __rsub__(self, other):
        return _made(other, None, lambda: Shifted(Scaled(self, -1), other))

    def __mul__(self, other):
        return _made(other, lambda: Product(self, other), lambda: Scaled(self, other))

    __rmul__ = __mul__

    def inverse(self):
        return FUNCTIONS["inverse"](self)

    def exp(self):
        return FUNCTIONS["exp"](self)

    def sin_cos(self):
        sine = FUNCTIONS["sin"](self)
        return sine, sine.partner

    def sqrt(self):
        return FUNCTIONS["sqrt"](self)

    def log(self):
        return FUNCTIONS["log"](self)

    def tanh(self):
        return FUNCTIONS["tanh"](self)


def _made(other, of_node, of_constant):
    """The result for another node, or for a constant; pairs of values and tangents know themselves what to do."""
    if isinstance(other, Node):
        return of_node()
    return of_constant() if isinstance(other, (arb, int, float)) else NotImplemented


def beyond(a, b, first):
    """sum over i, j <= N with i + j >= first of |a_i| |b_j| rho^(i+j)."""
    return sum((m * b.rest[max(first - i, 0)] for i, m in enumerate(a.m) if first - i < len(b.m)), ZERO)


# --- what is given ----------------------------------------------------------------------------------

class Unknown(Node):
    """A solution of the differential equation: coefficients and tail are set from outside."""

    def __init__(self, graph, start):
        super().__init__(graph)
        self.next = arb(start)

    def coefficient(self, k):
        return self.next

    def tail_bound(self):
        return self.tail


class Time(Node):
    """t = t_0 + s."""

    def __init__(self, graph, t):
        super().__init__(graph)
        self.t = t

    def coefficient(self, k):
        return self.t if k == 0 else arb(1 if k == 1 else 0)

    def tail_bound(self):
        return ZERO


# --- the algebra ------------------------------------------------------------------------------------

class Unary(Node):
    def __init__(self, a):
        super().__init__(a.graph)
        self.a = a


class Binary(Node):
    def __init__(self, a, b):
        super().__init__(a.graph)
        self.a, self.b = a, b


class Sum(Binary):
    def coefficient(self, k):
        return self.a.c[k] + self.b.c[k]

    def tail_bound(self):
        return self.a.tail + self.b.tail


class Difference(Sum):
    def coefficient(self, k):
        return self.a.c[k] - self.b.c[k]


class Shifted(Unary):
    """x + constant."""

    def __init__(self, a, constant):
        super().__init__(a)
        self.constant = constant

    def coefficient(self, k):
        return self.a.c[k] + self.constant if k == 0 else self.a.c[k]

    def tail_bound(self):
        return self.a.tail


class Scaled(Unary):
    """constant times x."""

    def __init__(self, a, constant):
        super().__init__(a)
        self.constant = arb(constant)

    def coefficient(self, k):
        return self.a.c[k] * self.constant

    def tail_bound(self):
        return self.a.tail * self.constant.abs_upper()


class Combination(Node):
    """sum_j w_j x_j with constant weights."""

    def __init__(self, weights, nodes):
        super().__init__(nodes[0].graph)
        self.weights, self.parts = weights, nodes

    def coefficient(self, k):
        return sum(map(mul, self.weights, [x.c[k] for x in self.parts]), ZERO)

    def tail_bound(self):
        return sum((w.abs_upper() * x.tail for w, x in zip(self.weights, self.parts)), ZERO)


class Product(Binary):
    """(P + e)(Q + d) = PQ + P d + Q e + e d; what PQ has beyond N belongs to the tail."""

    def coefficient(self, k):
        return convolution(self.a.c, self.b.c, k)

    def prepare(self):
        self.high = beyond(self.a, self.b, self.graph.order + 1)

    def tail_bound(self):
        a, b = self.a, self.b
        return self.high + a.size * b.tail + b.size * a.tail + a.tail * b.tail
