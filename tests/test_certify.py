"""Proofs in ball arithmetic: the arithmetic against mpmath, enclosures against closed forms, and that wrong ones are caught.

Skipped without python-flint, which only the makers of certified values need.
"""
import json
import pathlib
import sys

import mpmath
import pytest

flint = pytest.importorskip("flint")
ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "validation" / "certify"))

import certify                                                  # noqa: E402
import closed_forms                                             # noqa: E402
import decimal_balls                                            # noqa: E402
import dual_numbers as dual                                     # noqa: E402
import parallelepiped                                           # noqa: E402
import proof                                                    # noqa: E402
import series_graph                                             # noqa: E402
import sweeps                                                   # noqa: E402
import taylor_step                                              # noqa: E402
from fields import TextField                                    # noqa: E402
from flint import arb, arb_mat, ctx                             # noqa: E402
from refnode.problems.certified import path_of                  # noqa: E402
from refnode.problems.reference_set import REFERENCE_PROBLEMS   # noqa: E402

BITS, ORDER = 200, 24


@pytest.fixture(autouse=True)
def precision():
    with ctx.workprec(BITS), mpmath.workprec(BITS + 40):
        yield


def ball_contains(ball, number):
    """Whether a ball contains an mpmath number, computed with 40 bits more; the number's own error is allowed for."""
    exact = arb(mpmath.nstr(number, 70))
    return (ball - exact - arb(0, arb(2) ** -(BITS + 10) * (1 + abs(exact)))).contains(0)


# --- the arithmetic ---------------------------------------------------------------------------------

POLYNOMIAL = (0.75, 0.5, -0.25, 0.125)          # of the inner function, positive near 0

NODES = {
    "product": (lambda x: x * x, lambda x: x * x),
    "inverse": (dual.inverse, lambda x: 1 / x),
    "exp": (dual.exp, mpmath.exp),
    "sin": (dual.sin, mpmath.sin),
    "cos": (dual.cos, mpmath.cos),
    "tan": (dual.tan, mpmath.tan),
    "sqrt": (dual.sqrt, mpmath.sqrt),
    "log": (dual.log, mpmath.log),
    "tanh": (dual.tanh, mpmath.tanh),
    "cosh": (dual.cosh, mpmath.cosh),
    "power 5/2": (lambda x: dual.power(x, 2.5), lambda x: x ** 2.5),
    "power -3": (lambda x: dual.power(x, -3), lambda x: x ** -3),
    "power 0.3": (lambda x: dual.power(x, 0.3), lambda x: x ** mpmath.mpf(0.3)),
    "difference": (lambda x: 2 - x * 0.25, lambda x: 2 - x / 4),
}


def inner(s):
    return sum(c * s ** k for k, c in enumerate(POLYNOMIAL))


def graph_of(function, rho, tail=0.0):
    """The node of function(polynomial + e), ||e|| <= tail, with its tail for the radius rho."""
    graph = series_graph.Graph(ORDER)
    x = series_graph.Unknown(graph, POLYNOMIAL[0])
    node = function(x)
    for k in range(ORDER + 1):
        x.next = arb(POLYNOMIAL[k]) if k < len(POLYNOMIAL) else arb(0)
        graph.advance(k)
    graph.measure(arb(rho))
    x.tail = arb(tail)
    graph.bound()
    return node


@pytest.mark.parametrize("name", NODES)
def test_coefficients_contain_those_of_mpmath(name):
    ours, theirs = NODES[name]
    with mpmath.workprec(3 * BITS):
        expected = mpmath.taylor(lambda s: theirs(inner(s)), 0, 12)
    node = graph_of(ours, 0.25)
    assert all(ball_contains(ball, number) for ball, number in zip(node.c, expected))
    assert all(ball.rad() <= 1e-45 * max(1, abs(float(ball))) for ball in node.c)


def missed(node, theirs, rho, bump=lambda s: 0.0):
    """How far the function leaves polynomial + tail, at points of the circle |s| = rho; positive is wrong."""
    worst = -1.0
    for k in range(8):
        s = rho * mpmath.expjpi(mpmath.mpf(k) / 4)
        known = sum(mpmath.mpf(c.mid().str(70, radius=False)) * s ** j for j, c in enumerate(node.c))
        excess = abs(theirs(inner(s) + bump(s)) - known) - mpmath.mpf(node.tail.upper().str(20, radius=False)) - 1e-50
        worst = max(worst, float(excess))
    return worst


@pytest.mark.parametrize("name", NODES)
def test_tail_covers_the_rest_on_the_complex_disc(name):
    """Of a polynomial, and of a polynomial with something beyond the order; the bound is not empty: it is above, and
    within a factor of 1e6 of what is there."""
    ours, theirs = NODES[name]
    assert missed(graph_of(ours, 0.25), theirs, 0.25) <= 0
    tail = 2.0 ** -30
    bent = graph_of(ours, 0.25, tail)
    assert missed(bent, theirs, 0.25, lambda s: tail * (s / 0.25) ** (ORDER + 1)) <= 0
    assert bent.tail < 1e6 * tail


@pytest.mark.parametrize("name", [name for name in NODES if name not in ("product", "difference")])
def test_a_smaller_tail_is_caught(name):
    """A thousandth of the bound is wrong somewhere on the circle: the test above can fail."""
    ours, theirs = NODES[name]
    node = graph_of(ours, 0.25, 2.0 ** -30)
    node.tail = node.tail / 1000
    assert missed(node, theirs, 0.25, lambda s: 2.0 ** -30 * (s / 0.25) ** (ORDER + 1)) > 0


def test_pairs_differentiate():
    """Nested pairs give the second derivatives of mpmath."""
    for ours, theirs in NODES.values():
        x = dual.Dual(dual.Dual(arb(0.75), arb(1)), dual.Dual(arb(1), None))
        second = ours(x).tangent.tangent
        expected = mpmath.diff(theirs, mpmath.mpf(0.75), 2)
        assert abs(float((arb(0) if second is None else second).mid()) - float(expected)) <= 1e-14 * max(1, abs(expected))


# --- steps ------------------------------------------------------------------------------------------

def pole_system(t, y):
    """y' = y^2, y(0) = 1: 1/(1 - t), with the pole at 1."""
    return [y[0] * y[0]], []


def step_at(rho, order=ORDER, system=pole_system):
    expansion = taylor_step.Expansion(order, arb(0), [arb(1)], system)
    return expansion, expansion.validate(arb(rho))


def test_step_contains_the_solution_and_knows_the_pole():
    for rho in (0.125, 0.25, 0.5):
        expansion, valid = step_at(rho)
        assert valid and expansion.at(arb(rho))[0].contains(1 / (1 - arb(rho)))
        tail, rest = expansion.unknowns[0].tail, arb(rho) ** (ORDER + 1) / (1 - arb(rho))
        assert rest <= tail <= 100 * rest
    assert not step_at(1.0)[1] and not step_at(1.5)[1]


@pytest.mark.parametrize("wrong", ["omitted", "halved"])
def test_a_wrong_tail_is_caught_by_the_closed_form(wrong):
    """All coefficients of 1/(1 - t) are positive: half of what is beyond the order does not cover it."""
    expansion, _ = step_at(0.5)
    rest = arb(0.5) ** (ORDER + 1) / arb(0.5)
    expansion.unknowns[0].tail = rest * (0 if wrong == "omitted" else 0.5)
    assert not expansion.at(arb(0.5))[0].contains(arb(2))


def test_a_wrong_recurrence_is_caught_by_the_closed_form(monkeypatch):
    monkeypatch.setattr(series_graph.Product, "coefficient",
                        lambda self, k: series_graph.convolution(self.a.c, self.b.c, k) * (1 if k < 5 else 0.999))
    assert not step_at(0.5)[0].at(arb(0.5))[0].contains(arb(2))


def test_long_steps_of_a_linear_equation_are_validated():
    """y' = -y over a step of 8: a first-order enclosure would end at 1."""
    expansion, valid = step_at(8.0, 60, lambda t, y: ([-y[0]], []))
    assert valid and expansion.at(arb(8))[0].contains(arb(-8).exp()) and expansion.unknowns[0].tail < 1e-25


def test_sets_do_not_wrap():
    """A rotation by 1 rad, 200 times, leaves a square as it is; boxes would grow by (cos 1 + sin 1)^200 = 1e28."""
    c, s = arb(1).cos(), arb(1).sin()
    known = parallelepiped.Parallelepiped.of([arb(1, 2.0 ** -60), arb(0, 2.0 ** -60)])
    for _ in range(200):
        x, y = known.midpoint
        known = known.mapped([c * x - s * y, s * x + c * y], arb_mat([[c, -s], [s, c]]), [arb(1), arb(1)])
    hull = known.hull()
    assert hull[0].contains(arb(200).cos()) and hull[1].contains(arb(200).sin())
    assert all(2.0 ** -60 < x.rad() < 2.0 ** -57 for x in hull)


# --- whole problems ---------------------------------------------------------------------------------

QUICK = sweeps.Settings(order=20, bits=120, digits=60)
SHOWN = ("logistic/hessian", "exponential_decay/mixed_loss", "exponential_decay/observed_at_start", "outflow/first_step",
         "linear_density/liouville", "twin_growth/gap_2m10", "regulator/backwards", "kink_forcing/ramp", "step_forcing/dose",
         "state_rate/threshold", "timed_fall/event_time", "timed_decay/observed_at_event", "bounce/once",
         "bounce/thrice")


def proven(id):
    return proof.enclosures(REFERENCE_PROBLEMS[id].to_dict(), QUICK)


@pytest.mark.parametrize("id", SHOWN)
def test_enclosures_contain_the_closed_forms(id):
    values, expected = proven(id), closed_forms.closed_values(REFERENCE_PROBLEMS[id], 300)
    for name, closed in expected.items():
        for ball, truth in zip(decimal_balls.leaves(values[name]), decimal_balls.leaves(closed), strict=True):
            assert ball.contains(truth), (name, ball.str(20), truth.str(20))
            assert ball.rad() <= 1e-9 * max(1, abs(float(truth)))


def wrong_tail(monkeypatch):
    """A tenth of every tail."""
    validate = taylor_step.Expansion.validate

    def validated(self, rho):
        valid = validate(self, rho)
        for node in self.graph.nodes:
            node.tail = node.tail / 10
        return valid
    monkeypatch.setattr(taylor_step.Expansion, "validate", validated)


def wrong_sign_of_adjoint(monkeypatch):
    rates = sweeps.adjoint_rates
    monkeypatch.setattr(sweeps, "adjoint_rates", lambda *a: (lambda r: (r[0], [x if x is None else -x for x in r[1]], *r[2:]))(rates(*a)))


def wrong_deviation(monkeypatch):
    """What is not known of the state does not move on."""
    monkeypatch.setattr(parallelepiped.Parallelepiped, "mapped", lambda self, image, matrix, sizes: parallelepiped.Parallelepiped(
        [x.mid() for x in image], parallelepiped.identity(len(image)), [arb(0)] * len(image)))


@pytest.mark.parametrize("mutation", [wrong_tail, wrong_sign_of_adjoint, wrong_deviation])
def test_wrong_proofs_are_caught(mutation, monkeypatch):
    mutation(monkeypatch)
    missed = []
    for id in ("logistic/hessian", "linear_density/liouville"):
        values, expected = proven(id), closed_forms.closed_values(REFERENCE_PROBLEMS[id], 300)
        missed += [name for name in expected for ball, truth in zip(
            decimal_balls.leaves(values[name]), decimal_balls.leaves(expected[name])) if not ball.contains(truth)]
    assert missed


def test_remake_overlaps_what_is_kept():
    id = "logistic/hessian"
    kept = json.loads(path_of(id).read_text(encoding="utf-8"))
    made = certify.remake(id)
    assert made["problem_sha256"] == kept["problem_sha256"] and certify.overlaps(made, kept) == []
    kept["values"]["grad_theta"][1]["mid"] = "0.7463"
    assert certify.overlaps(made, kept) == ["grad_theta"]


@pytest.mark.parametrize("ball", ["0.1", "-1e-40", "123456.789", "0", "1e30"])
@pytest.mark.parametrize("rad", ["0", "1e-30", "3e-45"])
def test_decimal_text_contains_the_ball(ball, rad):
    ball = arb(ball) + arb(0, rad)
    back = decimal_balls.ball_of(decimal_balls.text_of(ball))
    assert back.contains(ball) and back.rad() <= 1.01 * ball.rad() + abs(ball).upper() * 1e-50


def test_texts_transpose_their_derivative():
    """<w, J v> = <J^T w, v> for a text with every operation."""
    field = TextField(["sin(y[0])*exp(-y[1])/theta[0] + y[1]**3 - t**2*sqrt(theta[1])", "tanh(y[0]*theta[1])**theta[0] + log(y[1])"])
    t, y, theta, w = arb(0.5), [arb(0.75), arb(1.25)], [arb(1.5), arb(0.5)], [arb(2), arb(-3)]
    v = [arb(1), arb(-2), arb(0.5), arb(0.25)]
    _, y_bars, theta_bars = field.pull(t, y, theta, w)
    moved = field.rates(t, [dual.Dual(*x) for x in zip(y, v)], [dual.Dual(*x) for x in zip(theta, v[2:])])
    left = sum((a * b.tangent for a, b in zip(w, moved)), arb(0))
    right = sum((a * b for a, b in zip(y_bars + theta_bars, v)), arb(0))
    assert left.overlaps(right) and abs(left - right) < 1e-50
