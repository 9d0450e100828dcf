"""Explicit Runge-Kutta tableaus: exact numbers as printed, and the arrays the stepper works with.

A method has s stages and the slope at the end of the step, which is the first slope of the next step:

    k_i = f(t + c_i h, y0 + h Σ_{j<i} a_ij k_j)     i = 0 .. s-1
    y1  = y0 + h Σ b_i k_i,    k_s = f(t + h, y1)
    error estimate = h Σ E_i k_i                    i = 0 .. s
    y(t + σh) = y0 + h Σ k_i w_i(σ),   w_i(σ) = Σ_j P_ij σ^{j+1}

The methods printed with k_s as their last stage (Bogacki-Shampine, Dormand-Prince, Tsitouras) therefore
have one stage fewer here. [HNW] is E. Hairer, S. P. Nørsett, G. Wanner, Solving Ordinary Differential
Equations I, 2nd ed., Springer 1993.
"""
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np

from refnode.errors import InvalidInputError
from refnode.steppers import tableau_dop853 as dop853_digits


@dataclass(frozen=True, eq=False)
class ButcherTableau:
    """One explicit Runge-Kutta method, exact; it refuses to exist if its own identities do not hold.

    Attributes
    ----------
    name, source : str
        Name in `TABLEAUS`, and the publication of the numbers.
    order, error_order, dense_order : int
        Order of y1, of the error estimate (as SciPy's ``error_estimator_order``; 0 without one), and of
        the dense output, whose local error is O(h^{dense_order + 1}).
    A, b, c : tuples of Fraction, shapes (s, s), (s,), (s,)
    E_exact : tuple of Fraction, shape (2, s + 1)
        Error weights. Row 0 is b̂ - b, with b̂ the embedded solution of lower order; for DOP853 row 0 is
        b - b̂ for the solution of order 5 and row 1 that for order 3. The signs are those of SciPy; a
        norm does not see them. Zero without an embedded solution.
    P_exact : tuple of Fraction, shape (s + 1 + extra, q)
        Dense output: coefficients of σ, σ², .., σ^q in w_i(σ).
    A_extra_exact, c_extra_exact : tuples of Fraction, shapes (extra, s + 1 + extra), (extra,)
        Stages that only the dense output needs; column s belongs to the slope at the end.
    printed_precision : Fraction
        How far the identities may be off: zero for rational numbers, the rounding of the last digits
        for numbers printed as decimals.
    A_array, b_array, c_array, E, P, A_extra, c_extra : ndarray of float64, C-contiguous
        The same, correctly rounded. Not to be written to (they are not marked read-only because
        compiled functions take the types of writable arrays).
    """

    name: str
    source: str
    order: int
    error_order: int
    dense_order: int
    A: tuple
    b: tuple
    c: tuple
    E_exact: tuple
    P_exact: tuple
    A_extra_exact: tuple = ()
    c_extra_exact: tuple = ()
    printed_precision: Fraction = Fraction(0)

    def __post_init__(self):
        explicit = [row[i:] for i, row in enumerate(self.A)]
        explicit += [row[self.s + 1 + i:] for i, row in enumerate(self.A_extra_exact)]
        if any(any(part) for part in explicit):
            raise InvalidInputError(f"tableau {self.name}: A must be strictly lower triangular, it is not")
        for identity, residual in identity_residuals(self).items():
            if residual > self.printed_precision:
                raise InvalidInputError(
                    f"tableau {self.name}: {identity} is violated by {float(residual):.3g}, "
                    f"expected at most {float(self.printed_precision):.3g}")

    @cached_property
    def arrays(self):
        """The arrays in the order the compiled drivers take them."""
        return (self.A_array, self.b_array, self.c_array, self.E, self.P, self.A_extra, self.c_extra)

    @property
    def s(self):
        """Number of stages, not counting the slope at the end."""
        return len(self.b)

    @property
    def extra(self):
        """Number of extra stages of the dense output."""
        return len(self.c_extra_exact)

    @property
    def adaptive(self):
        """Whether the method estimates its error."""
        return any(self.E_exact[0])

    @cached_property
    def A_array(self):
        return _float_array(self.A, (self.s, self.s))

    @cached_property
    def b_array(self):
        return _float_array(self.b, (self.s,))

    @cached_property
    def c_array(self):
        return _float_array(self.c, (self.s,))

    @cached_property
    def E(self):
        return _float_array(self.E_exact, (2, self.s + 1))

    @cached_property
    def P(self):
        return _float_array(self.P_exact, (self.s + 1 + self.extra, len(self.P_exact[0])))

    @cached_property
    def A_extra(self):
        return _float_array(self.A_extra_exact, (self.extra, self.s + 1 + self.extra))

    @cached_property
    def c_extra(self):
        return _float_array(self.c_extra_exact, (self.extra,))


def _float_array(exact, shape):
    return np.ascontiguousarray(np.array(exact, dtype=np.float64).reshape(shape))


def identity_residuals(method):
    """Largest violation of each identity every tableau obeys, as exact fractions.

    Σ b = 1, A·1 = c, Σ E = 0, and w(1) = (b, 0): the dense output ends at y1.
    """
    b_padded = method.b + (Fraction(0),) * (1 + method.extra)
    rows = method.A + method.A_extra_exact
    nodes = method.c + method.c_extra_exact
    return {
        "Σ b = 1": abs(sum(method.b) - 1),
        "A·1 = c": max(abs(sum(row) - node) for row, node in zip(rows, nodes, strict=True)),
        "Σ E = 0": max(abs(sum(row)) for row in method.E_exact),
        "w(1) = b": max(abs(sum(row) - weight) for row, weight in zip(method.P_exact, b_padded, strict=True)),
    }


# --- construction ---------------------------------------------------------------------------------

def nested_dense_output(b, D=(), extra=0):
    """Weights w_i(σ) of Hairer's nested dense output, multiplied out to powers of σ, exactly.

        y(t + σh) = y0 + σ(F0 + (1-σ)(F1 + σ(F2 + (1-σ)(F3 + σ(F4 + ...)))))
        F0 = y1 - y0,  F1 = h k_0 - F0,  F2 = 2 F0 - h (k_0 + k_s),  F_{3+r} = h Σ D_ri k_i

    Without D it is the cubic Hermite interpolant of y0, k_0, y1 and k_s. Any D keeps these four values,
    so that every interpolant of this form is continuously differentiable from step to step.

    Parameters
    ----------
    b : tuple of Fraction, shape (s,)
    D : sequence of tuples of Fraction, shape (r, s + 1 + extra)
    extra : int

    Returns
    -------
    tuple of Fraction, shape (s + 1 + extra, 3 + r)

    References
    ----------
    [HNW], Sect. II.6, and functions contd5 and contd8 of Hairer's codes dopri5.f and dop853.f.
    """
    s = len(b)
    weights = []
    for i in range(s + 1 + extra):
        b_i = b[i] if i < s else Fraction(0)
        F = [b_i, (i == 0) - b_i, 2 * b_i - (i == 0) - (i == s)] + [row[i] for row in D]
        w = [Fraction(0)]
        for level in reversed(range(len(F))):
            w[0] += F[level]
            w = _times_sigma(w) if level % 2 == 0 else _times_one_minus_sigma(w)
        weights.append(tuple(w[1:]))
    return tuple(weights)


def _times_sigma(polynomial):
    return [Fraction(0)] + polynomial


def _times_one_minus_sigma(polynomial):
    return [p - q for p, q in zip(polynomial + [Fraction(0)], [Fraction(0)] + polynomial)]


def printed_tableau(name, source, order, table, *, error_order=0, dense_order=None, D=()):
    """A tableau from the usual printed form, one row a line.

    ``c | a a a`` is a stage; the first line without c is b, the second, if any, b̂ over s + 1 slopes. A
    row may end early: zeros follow. D is as in `nested_dense_output`.
    """
    stages, solutions = [], []
    for line in table.strip().splitlines():
        node, _, weights = line.partition("|")
        row = tuple(Fraction(word) for word in weights.split())
        if node.strip():
            stages.append((Fraction(node.strip()), row))
        else:
            solutions.append(row)
    s = len(stages)
    b = _pad(solutions[0], s)
    b_hat = _pad(solutions[1] if len(solutions) > 1 else b, s + 1)
    error_weights = tuple(low - high for low, high in zip(b_hat, b + (Fraction(0),)))
    return ButcherTableau(
        name=name, source=source, order=order, error_order=error_order,
        dense_order=dense_order or min(order, 3),       # the Hermite cubic is of order 3 at best
        A=tuple(_pad(row, s) for _, row in stages), b=b, c=tuple(node for node, _ in stages),
        E_exact=(error_weights, _pad((), s + 1)), P_exact=nested_dense_output(b, D))


def _pad(row, length):
    return tuple(row) + (Fraction(0),) * (length - len(row))


def _from_digits(digits, length):
    """Row of fractions from {index from 1: printed decimal}; what is not listed is zero."""
    return tuple(Fraction(digits.get(i + 1, 0)) for i in range(length))


# --- methods of rational numbers ------------------------------------------------------------------

EULER = printed_tableau("euler", "L. Euler, Institutionum calculi integralis I (1768)", 1, """
    0 |
      | 1
""")

MIDPOINT = printed_tableau("midpoint", "C. Runge, Math. Ann. 46 (1895) 167-178; [HNW] II.1", 2, """
    0   |
    1/2 | 1/2
        | 0    1
""")

HEUN = printed_tableau(
    "heun", "C. Runge, Math. Ann. 46 (1895) 167-178; K. Heun, Z. Math. Phys. 45 (1900) 23-38", 2, """
    0   |
    1   | 1
        | 1/2  1/2
""")

RK4 = printed_tableau("rk4", "W. Kutta, Z. Math. Phys. 46 (1901) 435-453; [HNW] Table II.1.2", 4, """
    0   |
    1/2 | 1/2
    1/2 | 0    1/2
    1   | 0    0    1
        | 1/6  2/6  2/6  1/6
""")

RK38 = printed_tableau("rk38", "W. Kutta, Z. Math. Phys. 46 (1901) 435-453; [HNW] Table II.1.2", 4, """
    0   |
    1/3 |  1/3
    2/3 | -1/3   1
    1   |  1    -1    1
        |  1/8   3/8  3/8  1/8
""")

BOSH3 = printed_tableau(
    "bosh3", "P. Bogacki, L. F. Shampine, Appl. Math. Lett. 2 (1989) 321-325", 3, """
    0   |
    1/2 | 1/2
    3/4 | 0     3/4
        | 2/9   1/3  4/9
        | 7/24  1/4  1/3  1/8
""", error_order=2)

# The quartic dense output has the optimal c6 of L. F. Shampine, Math. Comp. 46 (1986) 135-150, in the
# form of Hairer's contd5: one row D.
DOPRI5 = printed_tableau(
    "dopri5", "J. R. Dormand, P. J. Prince, J. Comput. Appl. Math. 6 (1980) 19-26; [HNW] Table II.5.2", 5, """
    0    |
    1/5  | 1/5
    3/10 | 3/40         9/40
    4/5  | 44/45       -56/15       32/9
    8/9  | 19372/6561  -25360/2187  64448/6561  -212/729
    1    | 9017/3168   -355/33      46732/5247   49/176   -5103/18656
         | 35/384       0           500/1113     125/192  -2187/6784     11/84
         | 5179/57600   0           7571/16695   393/640  -92097/339200  187/2100  1/40
""", error_order=4, dense_order=4, D=[tuple(map(Fraction, (
        "-12715105075/11282082432", 0, "87487479700/32700410799", "-10690763975/1880347072",
        "701980252875/199316789632", "-1453857185/822651844", "69997945/29380423")))])


# --- Tsitouras 5(4) -------------------------------------------------------------------------------

# The paper prints 16 digits of c, b, b̂ - b and a_ij for j >= 2, and has a_i1 = c_i - Σ_{j>=2} a_ij. These
# are the same numbers to 32 digits (P. Stone's tables), indices from 1 as in the paper.
TSIT5_C = {2: "0.161", 3: "0.327", 4: "0.9", 5: "0.98002554090450968572981028628702", 6: "1"}
TSIT5_A = {
    3: {2: "0.33548065549235698854442687425023"},
    4: {2: "-6.3594484899750748431481599123838", 3: "4.3622954328695814110177273181909"},
    5: {2: "-11.748883564062827877747170339786", 3: "7.4955393428898362083046047845644",
        4: "-0.092495066361755249256502079332072"},
    6: {2: "-12.920969317847109291706118681783", 3: "8.1593678985761586431804007945393",
        4: "-0.071584973281400997224530542525830", 5: "-0.028269050394068382909003057212712"},
}
TSIT5_B = {1: "0.096460766818065229518167313165129", 2: "0.01", 3: "0.47988965041449957477524953229060",
           4: "1.3790085741037418931922748218569", 5: "-3.2900695154360806799010475857114",
           6: "2.3247105240997739824153559183988"}
# The last weight is printed with the wrong sign relative to the others in the table of the paper.
TSIT5_B_HAT = {1: "0.094680755765839458074788762557589", 2: "0.0091835655403432530967763639366453",
               3: "0.48777052842476157078556425996312", 4: "1.2342975669304789856551096738842",
               5: "-2.7077123499835254548811099750593", 6: "1.8666284181705870357537193995662", 7: "1/66"}
# Leading coefficients of the seven quartic weights b_i(θ) of the dense output, as printed in the paper.
TSIT5_D = {1: "-1.0530884977290216", 2: "0.1017", 3: "2.490627285651252793", 4: "-16.54810288924490272",
           5: "47.37952196281928122", 6: "-34.87065786149660974", 7: "2.5"}


def tsitouras_54():
    """Tsitouras' 5(4) pair with its free interpolant of order 4.

    The printed weights b_i(θ) are quartics with the values and slopes of the Hermite interpolant at both
    ends, so their leading coefficients alone determine them. The order conditions hold to the 32 digits
    of the tableau, those of the dense output to the digits printed for it.
    """
    c = _from_digits(TSIT5_C, 6)
    b, b_hat = _from_digits(TSIT5_B, 6), _from_digits(TSIT5_B_HAT, 7)
    A = []
    for i in range(6):
        row = list(_from_digits(TSIT5_A.get(i + 1, {}), 6))
        row[0] = c[i] - sum(row)
        A.append(tuple(row))
    return ButcherTableau(
        name="tsit5", source="Ch. Tsitouras, Comput. Math. Appl. 62 (2011) 770-775", order=5, error_order=4,
        dense_order=4, A=tuple(A), b=b, c=c,
        E_exact=(tuple(low - high for low, high in zip(b_hat, _pad(b, 7))), _pad((), 7)),
        P_exact=nested_dense_output(b, [_from_digits(TSIT5_D, 7)]), printed_precision=Fraction(1, 10**29))


TSIT5 = tsitouras_54()


# --- DOP853 ---------------------------------------------------------------------------------------

def dormand_prince_853():
    """Dormand and Prince's method of order 8 with Hairer's estimates (5 and 3) and dense output (7).

    The coefficients in P reach 545, so that w_i(σ) in powers of σ is rounded by up to 1e-13.
    """
    s, extra = 12, 3
    slopes = s + 1 + extra
    b = _from_digits(dop853_digits.B, s)
    b_hat_3 = _from_digits(dop853_digits.BHH, s)
    return ButcherTableau(
        name="dop853", source="[HNW] II.5 and II.6, code dop853.f", order=8, error_order=7, dense_order=7,
        A=tuple(_from_digits(dop853_digits.A.get(i + 1, {}), s) for i in range(s)), b=b,
        c=_from_digits(dop853_digits.C, s),
        E_exact=(_from_digits(dop853_digits.ER, s + 1),
                 tuple(high - low for high, low in zip(b, b_hat_3)) + (Fraction(0),)),
        P_exact=nested_dense_output(b, [_from_digits(row, slopes) for row in dop853_digits.D.values()], extra),
        A_extra_exact=tuple(_from_digits(row, slopes) for row in dop853_digits.A_EXTRA.values()),
        c_extra_exact=_from_digits(dop853_digits.C, slopes)[s + 1:], printed_precision=Fraction(1, 10**27))


DOP853 = dormand_prince_853()


# --- by name --------------------------------------------------------------------------------------

TABLEAUS = {method.name: method for method in (
    EULER, MIDPOINT, HEUN, RK4, RK38, BOSH3, DOPRI5, TSIT5, DOP853)}

ALIASES = {"rk23": "bosh3", "rk45": "dopri5", "bogacki_shampine": "bosh3", "dormand_prince": "dopri5"}


def tableau(name):
    """The tableau called `name`, in either case; SciPy's ``RK23``, ``RK45`` and ``DOP853`` are known too.

    A `ButcherTableau` is its own answer, so that a method need not be registered to be used.

    Raises
    ------
    InvalidInputError
        If there is none; the message lists the names.
    """
    if isinstance(name, ButcherTableau):
        return name
    key = str(name).lower()
    key = ALIASES.get(key, key)
    if key not in TABLEAUS:
        known = ", ".join(list(TABLEAUS) + list(ALIASES))
        raise InvalidInputError(f"method must be one of {known}; found {name!r}")
    return TABLEAUS[key]
