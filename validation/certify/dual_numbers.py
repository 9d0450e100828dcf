"""One tangent beside a value, and elementary functions of balls, of graph nodes and of such pairs.

The pairs nest, and an absent tangent is None: constants cost nothing.
"""
from flint import arb


class Dual:
    """value + δ tangent, δ² = 0."""

    def __init__(self, value, tangent):
        self.value, self.tangent = value, tangent

    def __add__(self, other):
        value, tangent = parts(other)
        return Dual(self.value + value, _sum(self.tangent, tangent))

    __radd__ = __add__

    def __neg__(self):
        return Dual(-self.value, _times(self.tangent, -1))

    def __sub__(self, other):
        return self + (-other)

    def __rsub__(self, other):
        return other + (-self)

    def __mul__(self, other):
        value, tangent = parts(other)
        return Dual(self.value * value, _sum(_times(self.tangent, value), _times(tangent, self.value)))

    __rmul__ = __mul__

    def __truediv__(self, other):
        return self * inverse(other)

    def __rtruediv__(self, other):
        return inverse(self) * other


class Bundle:
    """Tangents in several directions, side by side: the tangent of a `Dual` whose value they share."""

    def __init__(self, entries):
        self.entries = entries

    def __add__(self, other):
        return Bundle([_sum(a, b) for a, b in zip(self.entries, other.entries)])

    def __mul__(self, factor):
        return Bundle([_times(entry, factor) for entry in self.entries])

    __rmul__ = __mul__


def parts(x):
    """(value, tangent or None)."""
    return (x.value, x.tangent) if isinstance(x, Dual) else (x, None)


def paired(value, tangent):
    """The pair, or the value alone if it has no tangent."""
    return value if tangent is None else Dual(value, tangent)


def _sum(a, b):
    return b if a is None else a if b is None else a + b


def _times(tangent, factor):
    return None if tangent is None else tangent * factor


# --- functions --------------------------------------------------------------------------------------

def inverse(x):
    if isinstance(x, Dual):
        value = inverse(x.value)
        return Dual(value, _times(x.tangent, -(value * value)))
    return 1 / x if isinstance(x, arb) else x.inverse()


def exp(x):
    if isinstance(x, Dual):
        value = exp(x.value)
        return Dual(value, _times(x.tangent, value))
    return x.exp()


def sin_cos(x):
    if isinstance(x, Dual):
        sine, cosine = sin_cos(x.value)
        return Dual(sine, _times(x.tangent, cosine)), Dual(cosine, _times(x.tangent, -sine))
    return x.sin_cos()


def sqrt(x):
    if isinstance(x, Dual):
        value = sqrt(x.value)
        return Dual(value, _times(x.tangent, inverse(value) * 0.5))
    return x.sqrt()


def log(x):
    if isinstance(x, Dual):
        return Dual(log(x.value), _times(x.tangent, inverse(x.value)))
    return x.log()


def tanh(x):
    if isinstance(x, Dual):
        value = tanh(x.value)
        return Dual(value, _times(x.tangent, 1 - value * value))
    return x.tanh()


def sin(x):
    return sin_cos(x)[0]


def cos(x):
    return sin_cos(x)[1]


def tan(x):
    sine, cosine = sin_cos(x)
    return sine * inverse(cosine)


def sinh(x):
    return (exp(x) - exp(-x)) * 0.5


def cosh(x):
    return (exp(x) + exp(-x)) * 0.5


def power(x, exponent):
    """x to a constant power: integers by products, halves through the root, others through the logarithm."""
    if exponent == int(exponent):
        n = int(exponent)
        return inverse(_product(x, -n)) if n < 0 else _product(x, n)
    if 2 * exponent == int(2 * exponent):
        return power(sqrt(x), 2 * exponent)
    return exp(log(x) * arb(exponent))


def _product(x, n):
    if n == 0:
        return arb(1)
    half = _product(x, n // 2) if n > 1 else None
    return x if n == 1 else half * half if n % 2 == 0 else half * half * x


FUNCTIONS = {"sin": sin, "cos": cos, "tan": tan, "exp": exp, "log": log, "sqrt": sqrt, "tanh": tanh, "sinh": sinh,
             "cosh": cosh}

# f'(x), from x and the value f(x), of those but sine and cosine
SLOPES = {
    "tan": lambda x, value: 1 + value * value,
    "exp": lambda x, value: value,
    "log": lambda x, value: inverse(x),
    "sqrt": lambda x, value: inverse(value) * 0.5,
    "tanh": lambda x, value: 1 - value * value,
    "sinh": lambda x, value: cosh(x),
    "cosh": lambda x, value: sinh(x),
}
