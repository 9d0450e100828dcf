"""One validated Taylor step of a system of differential equations.

For y' = F(t, y), y(t_c) in a ball, the recurrences give balls for c_0 ... c_N of the solution y = P + e, e the part beyond
N. With Q the projection to the part beyond N, e is a fixed point of

    T(e) = Q integral_0^s F(t_c + s, P + e) ds .

T maps functions of norm <= tau into functions of norm <= tau' (`series_graph`: all of F is bounded in the norm with radius
rho = |h|). If tau' <= tau in every component, T maps a closed convex set into itself; T is continuous, and compact because
integration divides coefficient k by k. So it has a fixed point there (Schauder), P + e is analytic in |s| < rho, and solves the
equation because its coefficients up to N do so formally. The solution is unique, hence this is it: |y(t_c + s) - P(s)| <= tau'
for |s| <= rho. The contraction is rho L / (N + 2) and not rho L, which is why a step may be as long as the series allows, and
no first-order enclosure (Moore 1966; Lohner 1987) limits it. A step is taken only if tau' is small enough as a radius.
"""
import math

from flint import arb, arb_mat, ctx

import analytic_nodes  # noqa: F401  (fills the table of functions)
from series_graph import BOUND_BITS, Graph, Node, Time, Unknown, ZERO


class StepFailed(ArithmeticError):
    """No step of any length could be validated."""


class Constant(Node):
    def __init__(self, graph, value):
        super().__init__(graph)
        self.value = arb(value)

    def coefficient(self, k):
        return self.value if k == 0 else ZERO

    def tail_bound(self):
        return ZERO


class Expansion:
    """Taylor expansion at t of the solution of ``rates``, and of quantities along it.

    Parameters
    ----------
    order : int
        N.
    t : arb
        Where to expand.
    starts : list of arb
        Initial values of the unknowns.
    system : callable
        ``system(t, unknowns) -> rates, extras``, of nodes, balls or None (zero).
    """

    def __init__(self, order, t, starts, system):
        self.graph = Graph(order)
        time = Time(self.graph, t)
        self.unknowns = [Unknown(self.graph, start) for start in starts]
        rates, extras = system(time, self.unknowns)
        self.rates, self.extras = [self._node(x) for x in rates], [self._node(x) for x in extras]
        for k in range(order + 1):
            self.graph.advance(k)
            for unknown, rate in zip(self.unknowns, self.rates):
                unknown.next = rate.c[k] / (k + 1)

    def _node(self, x):
        if isinstance(x, Node) or hasattr(x, "pairs"):
            return x
        return Constant(self.graph, 0 if x is None else x)

    # --- the tail -----------------------------------------------------------------------------------

    def validate(self, rho):
        """Whether the solution exists on |s| <= rho with proven tails, which every node then holds."""
        self.rho = rho
        self.graph.measure(rho)
        for unknown in self.unknowns:
            unknown.tail = ZERO
        tails = self._mapped()
        for _ in range(8):
            for unknown, tail in zip(self.unknowns, tails):
                unknown.tail = tail * 2
            mapped = self._mapped()
            if all(new <= unknown.tail for new, unknown in zip(mapped, self.unknowns)):
                for unknown, new in zip(self.unknowns, mapped):
                    unknown.tail = new
                return True
            if not all(new.is_finite() for new in mapped):
                return False
            tails = mapped
        return False

    def _mapped(self):
        """Norm of T(e), from tails of the unknowns: what `rates` has at N goes to N + 1, the rest beyond."""
        self.graph.bound()
        order = self.graph.order
        with ctx.workprec(BOUND_BITS):
            return [(self.rho * (rate.m[order] / (order + 1) + rate.tail / (order + 2))).abs_upper() for rate in self.rates]

    def excess(self):
        """The largest tail of an unknown, relative to its size on the step."""
        worst = 0.0
        for unknown in self.unknowns:
            if not unknown.tail == 0:
                worst = max(worst, 2.0 ** min(900.0, log2(unknown.tail) - log2(unknown.size)))
        return worst

    def step_length(self, digits):
        """A step after which the last coefficients are 2^-digits of the solution."""
        lengths = [_length(u.c, digits) for u in self.unknowns]
        return min(lengths, default=math.inf)

    # --- the values ---------------------------------------------------------------------------------

    def at(self, h):
        """The unknowns at s = h, |h| <= rho."""
        return [horner(u.c, h) + interval(u.tail) for u in self.unknowns]

    def integrals(self, h):
        """Integral of every extra from 0 to h, |h| <= rho."""
        products = self._integrated_products(h)
        return [sum((products[id(a), id(b)] for a, b in extra.pairs), ZERO) if hasattr(extra, "pairs")
                else self._integral(extra, h) for extra in self.extras]

    def _integral(self, extra, h):
        known = horner([c / (k + 1) for k, c in enumerate(extra.c)], h) * h
        return known + interval(self.rho * extra.tail / (self.graph.order + 2))

    def _integrated_products(self, h):
        """Integrals of products a b, all at once: a_i b_j h^(i+j+1)/(i+j+1) as products of matrices, and tails."""
        pairs = [pair for extra in self.extras if hasattr(extra, "pairs") for pair in extra.pairs]
        if not pairs:
            return {}
        lefts, rights = ({id(pair[i]): pair[i] for pair in pairs} for i in (0, 1))
        count = self.graph.order + 1
        powers = [h]
        for _ in range(2 * count):
            powers.append(powers[-1] * h)
        moments = arb_mat(count, count, [powers[i + j] / (i + j + 1) for i in range(count) for j in range(count)])
        table = (arb_mat(len(lefts), count, [c for a in lefts.values() for c in a.c]) * moments
                 * arb_mat(len(rights), count, [c for b in rights.values() for c in b.c]).transpose())
        rows, columns = ({key: i for i, key in enumerate(keys)} for keys in (lefts, rights))
        return {(id(a), id(b)): table[rows[id(a)], columns[id(b)]]
                + interval(self.rho * (a.norm() * b.tail + b.size * a.tail)) for a, b in pairs}


def horner(c, s):
    value = c[-1]
    for coefficient in reversed(c[:-1]):
        value = value * s + coefficient
    return value


def interval(radius):
    """The ball [-radius, radius]."""
    return arb(0, radius.abs_upper())


def log2(x):
    """log2 |x| to about one bit, for steering only; -inf for 0."""
    x = x.abs_upper()
    if x == 0:
        return -math.inf
    if not x.is_finite():
        return math.inf
    mantissa, exponent = x.man_exp()
    return float(int(mantissa).bit_length() + int(exponent))


def _length(c, digits):
    """For steering only: rho with |c_N| rho^N = 2^-digits max(|c_0|, |c_1| rho, |c_2| rho^2)."""
    order, logs = len(c) - 1, [log2(x) for x in c]
    if max(logs) == -math.inf:
        return math.inf
    length = math.inf
    for k in range(max(3, order - 3), order + 1):
        if logs[k] > -math.inf:
            length = min(length, _longest(logs, k, digits))
    return 2.0 ** min(length, 500.0) if length < math.inf else math.inf


def _longest(logs, k, digits):
    """The largest log2 rho that one of the first three terms allows for term k."""
    return max(((logs[i] - digits - logs[k]) / (k - i) for i in range(3) if logs[i] > -math.inf), default=math.inf)
