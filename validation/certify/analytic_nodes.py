"""Reciprocals, exponentials, sines, roots, logarithms and tanh of functions of time: a recurrence and a tail for each.

Every tail is in two parts: what the function of the known part P has beyond N, and what e, the part of the operand beyond N, adds.
"""
from flint import arb

from series_graph import FUNCTIONS, ZERO, Unary, beyond, convolution


class Inverse(Unary):
    """u = 1/b. With û the known part, r = 1 - b û has no coefficient up to N, and u = û (1 + r + r² + ...)."""

    def coefficient(self, k):
        b = self.a.c
        if k == 0:
            return 1 / b[0]
        return -self.c[0] * convolution(b[1:], self.c, k - 1)

    def prepare(self):
        self.high = beyond(self.a, self, self.graph.order + 1)

    def tail_bound(self):
        r = self.high + self.a.tail * self.size
        return self.size * geometric(r)


def geometric(r):
    """r / (1 - r), infinite unless r < 1."""
    return r / (1 - r) if r < 1 else arb.pos_inf()


class Exponential(Unary):
    """u' = a' u. For the known part P of a:  k u_k = sum_j j p_j u_{k-j}, summed over k > N, bounds the tail of exp(P);
    and exp(P + e) = exp(P) exp(e), ||exp(e) - 1|| <= e^||e|| - 1."""

    def coefficient(self, k):
        if k == 0:
            self.slopes = []
            return self.a.c[0].exp()
        self.slopes.append(k * self.a.c[k])
        return convolution(self.slopes, self.c, k - 1) / k

    def prepare(self):
        self.own = linear_tail(self.a, (self,), self.graph.order)

    def tail_bound(self):
        return self.own + (self.size + self.own) * self.a.tail.expm1()


def linear_tail(a, parts, order):
    """Sum of the tails of functions u with k |u_k| <= sum_j j |p_j| |v_{k-j}|, v running through the same ``parts``.

    Summed over k > N:  W <= (K + ||s p'|| W) / (N + 1), where K collects the terms with known coefficients of v. The tails
    are finite beforehand, because the functions are entire in s.
    """
    slope = a.slope_size()
    if not slope < order + 1:
        return arb.pos_inf()
    known = sum((j * m * part.rest[max(order + 1 - j, 0)] for part in parts for j, m in enumerate(a.m) if j), ZERO)
    return known / (order + 1 - slope)


class Sine(Unary):
    """sin' = a' cos, with its partner cos' = -a' sin."""

    def __init__(self, a):
        super().__init__(a)
        self.partner = Cosine(a, self)

    def coefficient(self, k):
        if k == 0:
            self.slopes = []
            return self.a.c[0].sin()
        self.slopes.append(k * self.a.c[k])
        return convolution(self.slopes, self.partner.c, k - 1) / k

    def own_tail(self):
        return linear_tail(self.a, (self, self.partner), self.graph.order)

    def tail_bound(self):
        own, e = self.partner.own, self.a.tail           # sin(P + e) = sin P cos e + cos P sin e,
        # and cosh(x) - 1 = 2 sinh(x/2)^2 where few bits are kept
        return own + (self.size + own) * 2 * (e / 2).sinh() ** 2 + (self.partner.size + own) * e.sinh()


class Cosine(Unary):
    def __init__(self, a, partner):
        super().__init__(a)
        self.partner = partner

    def coefficient(self, k):
        if k == 0:
            return self.a.c[0].cos()
        return -convolution(self.partner.slopes, self.partner.c, k - 1) / k

    def prepare(self):
        self.own = self.partner.own_tail()               # bounds the tails of both together

    def tail_bound(self):
        own, e = self.own, self.a.tail
        return own + (self.size + own) * 2 * (e / 2).sinh() ** 2 + (self.partner.size + own) * e.sinh()


class Root(Unary):
    """u = sqrt(b) = û sqrt(1 + d/û²), d = b - û² without coefficients up to N; ||sqrt(1 + x) - 1|| <= 1 - sqrt(1 - ||x||) <= ||x||."""

    def __init__(self, a):
        super().__init__(a)
        self.reciprocal = Inverse(self)

    def coefficient(self, k):
        b = self.a.c
        if k == 0:
            return b[0].sqrt()
        own = self.c[1:]
        inner = convolution(own, own, k - 2) if k > 1 else ZERO
        return (b[k] - inner) / (2 * self.c[0])

    def tail_bound(self):
        order, v = self.graph.order, self.reciprocal
        inverse = v.size * (1 + geometric(beyond(self, v, order + 1)))       # of ||1/û||
        x = (beyond(self, self, order + 1) + self.a.tail) * inverse * inverse
        return self.size * x if x < 1 else arb.pos_inf()


class Logarithm(Unary):
    """u = log(b) = û + log(b exp(-û)); the known part of exp(-û) is that of 1/b, and ||log(1 + r)|| <= -log(1 - ||r||)
    <= ||r|| / (1 - ||r||)."""

    def __init__(self, a):
        self.reciprocal = Inverse(a)
        super().__init__(a)

    def coefficient(self, k):
        b = self.a.c
        if k == 0:
            self.slopes = []
            return b[0].log()
        inner = convolution(self.slopes, b[1:], k - 2) / k if k > 1 else ZERO
        value = (b[k] - inner) / b[0]
        self.slopes.append(k * value)
        return value

    def tail_bound(self):
        order, b, v = self.graph.order, self.a, self.reciprocal
        own = linear_tail(self, (v,), order)                                  # beyond N of exp(-û)
        r = beyond(b, v, order + 1) + b.size * own + b.tail * (v.size + own)
        return geometric(r)


class HyperbolicTangent(Unary):
    """u' = (1 - u²) a'."""

    def coefficient(self, k):
        if k == 0:
            self.slopes, self.sech2 = [], []
            value = self.a.c[0].tanh()
        else:
            self.slopes.append(k * self.a.c[k])
            value = convolution(self.slopes, self.sech2, k - 1) / k
        inner = self.c[1:]
        squares = 2 * value * self.c[0] + (convolution(inner, inner, k - 2) if k > 1 else 0) if k else value * value
        self.sech2.append((1 if k == 0 else 0) - squares)
        return value

    def tail_bound(self):
        """tanh P = û + w solves a fixed point of its own, w = Q_N integral of (1 - (û + w)²) P'; and
        tanh(P + e) - T = q (1 - T²) / (1 + T q) with T = tanh P, q = tanh e, ||q|| <= tan ||e||."""
        order, e = self.graph.order, self.a.tail
        slope, known = self.a.slope_size(), self._known(order)
        w = known / (order + 1)
        for _ in range(20):
            w = 2 * w
            mapped = (known + slope * w * (2 * self.size + w)) / (order + 1)
            if mapped <= w:
                break
        else:
            return arb.pos_inf()
        if not e < 1:
            return arb.pos_inf()
        q, size = e.tan(), self.size + mapped
        return mapped + q * (1 + size * size) / (1 - q * size) if q * size < 1 else arb.pos_inf()

    def _known(self, order):
        """Norm of what s P' (1 - û²) has beyond N: exactly known coefficients of 1 - û² up to N, products above."""
        parts = [j * m for j, m in enumerate(self.a.m)]
        squares = [sum((x * y for x, y in zip(self.m[:k + 1], self.m[k::-1])), ZERO) for k in range(order + 1)]
        squares[0] = squares[0] + 1
        rest = [beyond(self, self, order + 1)]                # of û² beyond N, all of it
        for m in reversed(squares):
            rest.append(rest[-1] + m)
        rest.reverse()                                        # rest[k]: norm of 1 - û² from k on
        return sum((m * rest[order + 1 - j] for j, m in enumerate(parts) if j), ZERO)


FUNCTIONS.update({"inverse": Inverse, "exp": Exponential, "sin": Sine, "sqrt": Root, "log": Logarithm,
                  "tanh": HyperbolicTangent})
