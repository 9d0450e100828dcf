"""The printed tableaus satisfy their order conditions in exact arithmetic, and the checks can fail."""
import dataclasses
import re
from fractions import Fraction

import numpy as np
import pytest
from rooted_trees import ElementaryWeights, density, rooted_trees, size
from scipy.integrate._ivp.rk import DOP853, RK23, RK45, Dop853DenseOutput

from refnode.errors import InvalidInputError
from refnode.steppers.tableaus import ALIASES, TABLEAUS, nested_dense_output, printed_tableau, tableau

NAMES = list(TABLEAUS)
RATIONAL = [name for name in NAMES if TABLEAUS[name].printed_precision == 0]
PAIRS = [name for name in NAMES if TABLEAUS[name].adaptive]
# What the rounding of the last printed digit leaves of the dense output's order conditions.
DENSE_PRECISION = {"tsit5": Fraction(1, 10**16), "dop853": Fraction(1, 10**25)}


def all_rows(method):
    """Coefficients of every slope: the stages, the slope at the end (whose row is b), the extra stages."""
    slopes = method.s + 1 + method.extra
    step = [row + (Fraction(0),) * (slopes - method.s) for row in method.A + (method.b,)]
    return step + list(method.A_extra_exact)


@pytest.fixture(scope="module")
def weights_of():
    return {name: ElementaryWeights(all_rows(TABLEAUS[name])) for name in NAMES}


def changed(rows, i, j, delta):
    """The same rows with delta added to entry (i, j)."""
    row = rows[i][:j] + (rows[i][j] + delta,) + rows[i][j + 1:]
    return rows[:i] + (row,) + rows[i + 1:]


def last_digit(value):
    """The fraction whose printed numerator is one more, less the fraction."""
    return Fraction(1, value.denominator)


# --- trees ----------------------------------------------------------------------------------------

def test_number_of_rooted_trees():
    assert [len(rooted_trees(order)) for order in range(1, 10)] == [1, 1, 2, 4, 9, 20, 48, 115, 286]
    assert all(size(tree) == order for order in range(1, 8) for tree in rooted_trees(order))


def test_density_of_known_trees():
    tall, bushy = ((((),),),), ((), (), ())
    assert density(tall) == 24                # n! for the tree without branches
    assert density(bushy) == 4                # n for the tree of height one
    assert density(((), ((),))) == 8


def test_elementary_weights_written_out():
    method = tableau("dopri5")
    A, c = np.array(method.A), np.array(method.c)
    weights = ElementaryWeights(method.A)
    for tree, stages in [(((), (), ()), c**3), ((((),),), A @ c), (((), ((),)), c * (A @ c)),
                         ((((), ()),), A @ c**2), (((((),),),), A @ (A @ c))]:
        assert weights.stage_weights(tree) == list(stages)
        assert weights.weight(method.b, tree) == np.array(method.b) @ stages


# --- order ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", NAMES)
def test_order_is_as_claimed(name, weights_of):
    method = TABLEAUS[name]
    residuals = [weights_of[name].order_residual(method.b, order) for order in range(1, method.order + 2)]
    assert max(residuals[:-1]) <= method.printed_precision
    assert residuals[-1] > 1e-5


@pytest.mark.parametrize("name, row, order", [
    ("bosh3", 0, 2), ("dopri5", 0, 4), ("tsit5", 0, 4), ("dop853", 0, 5), ("dop853", 1, 3)])
def test_order_of_the_embedded_solution(name, row, order, weights_of):
    method, weights = TABLEAUS[name], weights_of[name]
    sign = 1 if name == "dop853" else -1                     # E is b - b̂ for DOP853, b̂ - b for the others
    b_hat = [b - sign * e for b, e in zip(method.b + (Fraction(0),), method.E_exact[row])]
    residuals = [weights.order_residual(b_hat, p) for p in range(1, order + 2)]
    assert max(residuals[:-1]) <= method.printed_precision
    assert residuals[-1] > 1e-5


def test_error_order_of_dop853_is_that_of_the_combined_estimate():
    # e5 = O(h^6) and e3 = O(h^4) give e5² / sqrt(e5² + 0.01 e3²) = O(h^8), a seventh-order estimate.
    assert tableau("dop853").error_order == 2 * 6 - 4 - 1 == DOP853.error_estimator_order


@pytest.mark.parametrize("name", NAMES)
def test_dense_output_order(name, weights_of):
    method = TABLEAUS[name]
    residuals = [weights_of[name].dense_residual(method.P_exact, order)
                 for order in range(1, method.dense_order + 2)]
    assert max(residuals[:-1]) <= DENSE_PRECISION.get(name, 0)
    assert residuals[-1] > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_dense_output_is_continuously_differentiable(name):
    method = TABLEAUS[name]
    for i, w in enumerate(method.P_exact):
        assert sum(w) == (method.b[i] if i < method.s else 0)
        assert w[0] == (i == 0)                                                   # w'(0): slope k_0
        assert sum(power * p for power, p in enumerate(w, start=1)) == (i == method.s)  # w'(1): slope k_s


@pytest.mark.parametrize("name, columns", [
    ("rk4", range(4)), ("rk38", range(4)), ("dopri5", range(6)), ("tsit5", range(6)), ("dop853", range(12)),
    ("bosh3", [])])
def test_first_simplifying_assumption(name, columns):
    # D(1): Σ_i b_i a_ij = b_j (1 - c_j)
    method = TABLEAUS[name]
    satisfied = []
    for j in range(method.s):
        column = sum(method.b[i] * method.A[i][j] for i in range(method.s))
        if abs(column - method.b[j] * (1 - method.c[j])) <= method.printed_precision:
            satisfied.append(j)
    assert satisfied == list(columns)


@pytest.mark.parametrize("name, stage_order", [("dopri5", 2), ("dop853", 2), ("dop853", 3)])
def test_stage_order(name, stage_order):
    # C(q): Σ_j a_ij c_j^{q-1} = c_i^q / q for every stage but the second, which no explicit method can have
    method = TABLEAUS[name]
    for i in range(method.s):
        moment = sum(a * c**(stage_order - 1) for a, c in zip(method.A[i], method.c))
        close = abs(moment - method.c[i]**stage_order / stage_order) <= method.printed_precision
        assert close == (i != 1)


def test_tsit5_satisfies_only_the_column_assumption():
    # the point of the paper: Σ_j a_ij c_j = c_i² / 2, which Dormand and Prince assume, holds at no stage
    method = tableau("tsit5")
    for i in range(1, method.s):
        assert abs(sum(a * c for a, c in zip(method.A[i], method.c)) - method.c[i]**2 / 2) > 1e-4


# --- a wrong digit is caught ----------------------------------------------------------------------

@pytest.mark.parametrize("name", RATIONAL)
def test_one_changed_digit_is_refused_at_construction(name):
    method = TABLEAUS[name]
    for i, row in enumerate(method.A):
        for j, a in enumerate(row[:i]):
            with pytest.raises(InvalidInputError, match="A·1 = c"):
                dataclasses.replace(method, A=changed(method.A, i, j, last_digit(a)))
    for i, b in enumerate(method.b):
        with pytest.raises(InvalidInputError, match="Σ b = 1"):
            dataclasses.replace(method, b=changed((method.b,), 0, i, last_digit(b))[0])
    for i, row in enumerate(method.P_exact):
        with pytest.raises(InvalidInputError, match=re.escape("w(1) = b")):
            dataclasses.replace(method, P_exact=changed(method.P_exact, i, 0, last_digit(row[1])))
    with pytest.raises(InvalidInputError, match="Σ E = 0"):
        dataclasses.replace(method, E_exact=changed(method.E_exact, 0, 0, Fraction(1, 10**9)))
    with pytest.raises(InvalidInputError, match="strictly lower triangular"):
        dataclasses.replace(method, A=changed(method.A, 0, 0, Fraction(1)))


@pytest.mark.parametrize("name", ["rk4", "rk38", "bosh3", "dopri5"])
def test_a_changed_digit_that_keeps_the_row_sums_fails_the_order_conditions(name):
    method = TABLEAUS[name]
    for i, row in enumerate(method.A + (method.b,)):
        for j in range(1, min(i, method.s)):
            delta = last_digit(row[j])
            rows = changed(changed(method.A + (method.b,), i, j, delta), i, 0, -delta)
            wrong = dataclasses.replace(method, A=rows[:-1], b=rows[-1], P_exact=nested_dense_output(rows[-1]))
            weights = ElementaryWeights(wrong.A)
            assert max(weights.order_residual(wrong.b, order) for order in range(1, method.order + 1)) > 0


@pytest.mark.parametrize("name, delta", [("tsit5", Fraction(1, 10**26)), ("dop853", Fraction(1, 10**26))])
def test_a_changed_decimal_is_caught(name, delta):
    method = TABLEAUS[name]
    for i, row in enumerate(method.A):
        for j in range(i):
            with pytest.raises(InvalidInputError, match="A·1 = c"):
                dataclasses.replace(method, A=changed(method.A, i, j, delta))
    rows = changed(changed(method.A, 5, 4, delta), 5, 0, -delta)
    weights = ElementaryWeights(rows)
    assert max(weights.order_residual(method.b, order) for order in range(1, 6)) > method.printed_precision


@pytest.mark.parametrize("name", ["dopri5", "tsit5", "dop853"])
def test_a_changed_dense_coefficient_is_caught(name, weights_of):
    # added to w_2 and w_3: a multiple of σ²(1-σ)², which keeps the values and slopes at both ends
    method = TABLEAUS[name]
    P = method.P_exact
    for i, sign in (2, 1), (3, -1):
        for power, binomial in (1, 1), (2, -2), (3, 1):
            P = changed(P, i, power, sign * binomial * Fraction(1, 10**14))
    wrong = dataclasses.replace(method, P_exact=P)           # its own identities cannot see it
    assert weights_of[name].dense_residual(wrong.P_exact, 2) > DENSE_PRECISION.get(name, 0)


# --- the numbers of others ------------------------------------------------------------------------

@pytest.mark.parametrize("name, other", [("RK23", RK23), ("RK45", RK45)])
def test_equal_to_scipy(name, other):
    method = tableau(name)
    assert (method.s, method.order, method.error_order) == (
        other.n_stages, other.order, other.error_estimator_order)
    np.testing.assert_array_equal(method.A_array[:, :other.A.shape[1]], other.A)
    np.testing.assert_array_equal(method.b_array, other.B)
    np.testing.assert_array_equal(method.c_array, other.C)
    np.testing.assert_array_equal(method.E, [other.E, 0 * other.E])
    np.testing.assert_array_equal(method.P, other.P)


def test_dop853_equal_to_scipy():
    method = tableau("DOP853")
    for ours, theirs in [(method.A_array, DOP853.A), (method.b_array, DOP853.B), (method.c_array, DOP853.C),
                         (method.E[0], DOP853.E5), (method.A_extra, DOP853.A_EXTRA),
                         (method.c_extra, DOP853.C_EXTRA)]:
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_allclose(method.E[1], DOP853.E3, rtol=0, atol=2e-16)   # SciPy subtracts floats


def test_dop853_dense_output_equal_to_scipy():
    method, n, h = tableau("dop853"), 3, 0.7
    rng = np.random.default_rng(853)
    K, y0 = rng.standard_normal((16, n)), rng.standard_normal(n)
    y1 = y0 + h * method.b_array @ K[:12]
    F = np.vstack([y1 - y0, h * K[0] - (y1 - y0), 2 * (y1 - y0) - h * (K[12] + K[0]), h * DOP853.D @ K])
    theirs = Dop853DenseOutput(1.0, 1.0 + h, y0, F)
    for sigma in np.linspace(0, 1, 23):
        ours = y0 + h * (method.P @ sigma ** np.arange(1, 8)) @ K
        np.testing.assert_allclose(ours, theirs(1.0 + sigma * h), rtol=0, atol=2e-13)


def test_tsit5_is_the_printed_tableau():
    # Table 1 of the paper; its b̂ is the difference to b, and the last sign does not fit the others
    method, ulp = tableau("tsit5"), Fraction(1, 10**15)
    assert abs(method.c[4] - Fraction("0.9800255409045097")) < ulp
    a_printed = {(2, 1): "0.3354806554923570", (3, 1): "-6.359448489975075", (3, 2): "4.362295432869581",
                 (4, 1): "-11.74888356406283", (4, 2): "7.495539342889836", (4, 3): "-0.09249506636175525",
                 (5, 1): "-12.92096931784711", (5, 2): "8.159367898576159", (5, 3): "-0.07158497328140100",
                 (5, 4): "-0.02826905039406838"}
    for (i, j), digits in a_printed.items():
        assert abs(method.A[i][j] - Fraction(digits)) < 5 * ulp
    for b, digits in zip(method.b, ["0.09646076681806523", "0.01", "0.4798896504144996", "1.379008574103742",
                                    "-3.290069515436081", "2.324710524099774"]):
        assert abs(b - Fraction(digits)) < ulp
    difference = [Fraction(digits) for digits in (
        "0.001780011052226", "0.000816434459657", "-0.007880878010262", "0.144711007173263",
        "-0.582357165452555", "0.458082105929187", "1/66")]
    assert sum(difference[:-1]) - difference[-1] < ulp < sum(difference)
    for e, digits in zip(method.E_exact[0], difference[:-1] + [-difference[-1]]):
        assert abs(e + digits) < ulp


def test_tsit5_dense_output_is_the_printed_one():
    # the seven weights b_i(θ) as the paper factors them
    factored = [
        lambda x: -1.0530884977290216 * x * (x - 1.3299890189751412)
        * (x**2 - 1.4364028541716351 * x + 0.7139816917074209),
        lambda x: 0.1017 * x**2 * (x**2 - 2.1966568338249754 * x + 1.2949852507374631),
        lambda x: 2.490627285651252793 * x**2 * (x**2 - 2.38535645472061657 * x + 1.57803468208092486),
        lambda x: -16.54810288924490272 * (x - 1.21712927295533244) * (x - 0.61620406037800089) * x**2,
        lambda x: 47.37952196281928122 * (x - 1.203071208372362603) * (x - 0.658047292653547382) * x**2,
        lambda x: -34.87065786149660974 * (x - 1.2) * (x - 0.666666666666666667) * x**2,
        lambda x: 2.5 * (x - 1) * (x - 0.6) * x**2]
    sigma = np.linspace(0, 1, 21)
    ours = tableau("tsit5").P @ sigma ** np.arange(1, 5)[:, None]
    np.testing.assert_allclose(ours, [w(sigma) for w in factored], rtol=0, atol=5e-14)


# --- the record -----------------------------------------------------------------------------------

@pytest.mark.parametrize("name", NAMES)
def test_arrays(name):
    method = TABLEAUS[name]
    s, extra = method.s, method.extra
    slopes = s + 1 + extra
    shapes = {"A_array": (s, s), "b_array": (s,), "c_array": (s,), "E": (2, s + 1), "A_extra": (extra, slopes),
              "c_extra": (extra,), "P": (slopes, len(method.P_exact[0]))}
    for attribute, shape in shapes.items():
        array = getattr(method, attribute)
        assert array.shape == shape and array.dtype == np.float64 and array.flags.c_contiguous
        assert array is getattr(method, attribute)
    exact = np.array([[float(a) for a in row] for row in method.A]).reshape(s, s)
    np.testing.assert_array_equal(method.A_array, exact)


def test_what_is_adaptive():
    assert PAIRS == ["bosh3", "dopri5", "tsit5", "dop853"]
    for name in set(NAMES) - set(PAIRS):
        assert not TABLEAUS[name].E.any() and TABLEAUS[name].error_order == 0
    assert [TABLEAUS[name].s for name in NAMES] == [1, 2, 2, 4, 4, 3, 6, 6, 12]


def test_names():
    for alias, name in list(ALIASES.items()) + [(name, name) for name in NAMES]:
        assert tableau(alias) is tableau(alias.upper()) is TABLEAUS[name]


@pytest.mark.parametrize("name", ["nonsense", "", None])
def test_unknown_name(name):
    known = "euler, midpoint, heun, rk4, rk38, bosh3, dopri5, tsit5, dop853, rk23, rk45"
    with pytest.raises(InvalidInputError, match=known):
        tableau(name)


def test_a_method_of_order_one_printed_as_order_two_is_not_of_order_two():
    wrong = printed_tableau("wrong", "b of Heun's method with the nodes of the midpoint rule", 2, """
        0   |
        1/2 | 1/2
            | 1/2  1/2
    """)
    assert ElementaryWeights(wrong.A).order_residual(wrong.b, 2) == Fraction(1, 4)
