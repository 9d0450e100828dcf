"""The parameter integral summed along the steps of lambda: rules, panels, and the recipes that use them."""
import warnings

import numpy as np
import pytest

import gradients
from gradients import block_error, exact, exact_gradient, flat, weighted_error
from refnode import losses
from refnode.errors import GradientWarning, IntegrationError
from refnode.fields.field import VectorField
from refnode.fields.neural import mlp_field
from refnode.problems.catalogue import CATALOGUE
from refnode.problems.problem import Problem
from refnode.sensitivity import continuous_adjoint, quadrature
from refnode.sensitivity.gradient import gradient
from refnode.sensitivity.quadrature import gauss_and_null, gauss_kronrod, gauss_legendre, halves, panel_error, rule_named

SUMMED = ["quadrature", "gauss", "gauss_kronrod"]
REVERSE = [name for name in gradients.CONTINUOUS if name != "forward"]
every_problem = pytest.mark.parametrize("name", CATALOGUE)
every_summed = pytest.mark.parametrize("sensitivity", SUMMED)
every_reverse = pytest.mark.parametrize("sensitivity", REVERSE)
drift_may_warn = pytest.mark.filterwarnings("ignore::refnode.errors.GradientWarning")


# --- rules ----------------------------------------------------------------------------------------

def degree(nodes, weights):
    """The largest d so that x^0 .. x^d are integrated over (-1, 1) to 1e-14, in the Legendre basis."""
    x = 2.0 * nodes - 1.0
    for d in range(60):
        polynomial = np.polynomial.legendre.Legendre.basis(d)
        if abs(weights @ polynomial(x) - (d == 0)) > 1e-14:
            return d - 1
    return 60


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7])
def test_degree_of_gauss(count):
    nodes, weights = gauss_legendre(count)
    assert degree(nodes, weights[0]) == 2 * count - 1
    np.testing.assert_array_equal(*weights)


def test_degrees_of_gauss_kronrod():
    """Gauss's 7 nodes to 13; Kronrod's 15 to 3 * 7 + 1 = 22, and by symmetry 23."""
    nodes, weights = gauss_kronrod()
    assert [degree(nodes, each) for each in weights] == [23, 13]
    assert np.all(np.diff(nodes) > 0.0) and np.count_nonzero(weights[1]) == 7
    np.testing.assert_allclose(nodes[weights[1] > 0.0], gauss_legendre(7)[0], atol=1e-15)


@pytest.mark.parametrize("node", range(15))
def test_a_wrong_node_or_weight_is_seen(node):
    """Every digit of the table counts: an error of 1e-12 in any number of it lowers the degree to below 2."""
    nodes, weights = gauss_kronrod()
    off = 1e-12 * (np.arange(15) == node)
    assert degree(nodes, weights[0] + off) < 2
    assert degree(nodes + off, weights[0]) < 23
    assert degree(np.delete(nodes, node), np.delete(weights[0], node)) < 2


@pytest.mark.parametrize("order", range(1, 9))
def test_rule_is_of_higher_order_than_the_method(order):
    nodes, weights = rule_named("gauss", order)
    assert degree(nodes, weights[0]) >= order


def test_halves_cover_their_panels():
    panels = np.array([[2.0, -1.0], [1.0, -0.5]])
    np.testing.assert_array_equal(halves(panels), [[2.0, -0.5], [1.0, -0.25], [1.5, -0.5], [0.75, -0.25]])


def test_panel_error_is_in_units_of_the_tolerance():
    sums, grad = np.array([[3.0, -1.0], [2.0, -1.0]]), np.array([1.0, 0.0])
    assert panel_error(sums, grad, np.array([0.5, 1.0])) == np.sqrt(0.5 * (1.0 / 3.0) ** 2)
    assert panel_error(np.zeros((2, 0)), np.zeros(0), np.array([0.5, 1.0])) == 0.0


# --- the recipes ----------------------------------------------------------------------------------

@every_problem
def test_the_three_sums_agree_far_below_the_tolerance(name):
    """They differ by the error of the quadrature alone, since lambda takes the same steps in all of them."""
    problem, rtol = CATALOGUE[name](), 1e-6
    found = [flat(gradient(problem, sensitivity, rtol=rtol, atol=1e-9)) for sensitivity in SUMMED]
    for each in found[:2]:
        assert weighted_error(problem, each, found[2]) <= 0.3 * rtol
    np.testing.assert_array_equal(found[0][:problem.y0.size], found[2][:problem.y0.size])


NON_STIFF = [name for name in CATALOGUE if name != "robertson"]
AMPLIFIED = {("backsolve_plain", "lorenz"): 1e5, ("backsolve_plain", "kepler"): 1e4}     # of tolerance: it drifts


@drift_may_warn
@every_reverse
@pytest.mark.parametrize("name", NON_STIFF)
def test_ten_digits_at_tolerance_twelve(sensitivity, name):
    problem = CATALOGUE[name]()
    found = gradient(problem, sensitivity, method="dop853", rtol=1e-12, atol=1e-14)
    assert weighted_error(problem, flat(found), exact(name)) <= AMPLIFIED.get((sensitivity, name), 1e2) * 1e-12


def neural_problem(t0, t1):
    rng = np.random.default_rng(0)
    field = mlp_field((2, 4, 2), "tanh", batch=2)
    ts = t0 + (t1 - t0) * np.array([0.0, 0.3, 0.3, 0.8, 1.0])           # at both ends, and one twice
    return Problem(field, rng.standard_normal(4), 0.7 * rng.standard_normal(field.p), (t0, t1), ts,
                   loss=losses.sum_of_squares(rng.standard_normal((4, 5))))


@every_reverse
@pytest.mark.parametrize("t0, t1", [(0.25, 1.5), (1.5, 0.25)])
def test_neural_field_with_a_tape(sensitivity, t0, t1):
    problem = neural_problem(t0, t1)
    found = gradient(problem, sensitivity, method="dop853", rtol=1e-11, atol=1e-13)
    assert block_error(problem, flat(found), exact_gradient(problem)) <= 1e-9


@every_summed
@pytest.mark.parametrize("method, n_steps", [("euler", 40), ("bosh3", 100), ("dop853", 50)])
def test_given_steps_longer_than_the_storage(sensitivity, method, n_steps, monkeypatch):
    """However many steps of lambda are held at once, the sum is the same to the bit."""
    problem = CATALOGUE["pendulum"]().replace(ts=None, loss=losses.linear([[1.0], [0.5]]))
    found = []
    for capacity in (1, 7, 1000):
        monkeypatch.setattr(quadrature, "CAPACITY", capacity)
        found.append(gradient(problem, sensitivity, method=method, n_steps=n_steps))
    for each in found[1:]:
        np.testing.assert_array_equal(flat(each), flat(found[0]))
        assert each.stats["n_steps_reverse"] == n_steps == found[0].stats["n_steps_reverse"]
    if sensitivity != "quadrature":
        assert found[0].stats["adjoint_bytes"] < found[1].stats["adjoint_bytes"] < found[2].stats["adjoint_bytes"]


@every_summed
def test_free_steps_longer_than_the_storage(sensitivity, monkeypatch):
    problem = CATALOGUE["lotka_volterra"]()
    found = []
    for capacity in (1, 1000):
        monkeypatch.setattr(quadrature, "CAPACITY", capacity)
        found.append(gradient(problem, sensitivity, method="bosh3", rtol=1e-7))
    np.testing.assert_array_equal(flat(found[0]), flat(found[1]))
    assert found[0].stats["n_steps_reverse"] == found[1].stats["n_steps_reverse"] > 200


def test_counts_of_a_sum():
    """3 nodes and 2 ends a step for dopri5, 15 a panel for Kronrod."""
    for sensitivity, nodes in (("gauss", 5), ("gauss_kronrod", 15), ("quadrature", 15)):
        stats = gradient(CATALOGUE["lotka_volterra"](), sensitivity).stats
        assert stats["nfev_quadrature"] >= nodes * stats["n_panels"]
        assert 0.0 < stats["quadrature_error"] < 100.0
        if sensitivity != "quadrature":
            assert stats["n_panels"] >= stats["n_steps_reverse"]
            assert sensitivity != "gauss" or stats["nfev_quadrature"] == 5 * stats["n_steps_reverse"]


def test_history_is_the_stored_path():
    found = gradient(CATALOGUE["lotka_volterra"](), "gauss", n_steps=64)
    assert found.stats["history_bytes"] == 8 * (65 + 2 * 65 + 2 * (64 * 6 + 1))          # times, y, k


# --- hidden forcing -------------------------------------------------------------------------------

DECAY, OMEGA, END = 1.0, 64.0, 3.0
HIDDEN = ((np.exp(1j * OMEGA * END) - np.exp(-DECAY * END)) / (DECAY + 1j * OMEGA)).imag


def hidden_forcing(omega=OMEGA):
    """y' = -theta_0 y + theta_1 sin(theta_2 t) with theta_1 = 0: the steps do not see what theta_1 multiplies."""
    def f(t, y, theta):
        return -theta[0] * y + theta[1] * np.sin(theta[2] * t)

    def f_vjp(t, y, theta, dy_bar):
        phase = theta[2] * t
        return (theta[1] * theta[2] * np.cos(phase) * dy_bar[0], -theta[0] * dy_bar,
                np.array([-y[0], np.sin(phase), theta[1] * t * np.cos(phase)]) * dy_bar[0])
    return Problem(VectorField(f, vjp=f_vjp), [1.0], [DECAY, 0.0, omega], (0.0, END), loss=losses.linear([[1.0]]))


def hidden_error(sensitivity, rtol, **options):
    found = gradient(hidden_forcing(), sensitivity, rtol=rtol, atol=1e-3 * rtol, **options)
    return abs(found.theta[1] / HIDDEN - 1.0)


@drift_may_warn
@pytest.mark.parametrize("rtol", [1e-3, 1e-6, 1e-9])
@pytest.mark.parametrize("sensitivity", [name for name in REVERSE if name != "gauss"])
def test_hidden_forcing_is_seen_by_error_control_of_the_integral(sensitivity, rtol):
    """In the norm as a block of its own, or by the estimate of a pair of rules."""
    assert hidden_error(sensitivity, rtol) <= 1e2 * rtol


@drift_may_warn
@pytest.mark.parametrize("sensitivity, options", [
    ("interpolating", {"seminorm": True}), ("backsolve", {"seminorm": True}), ("gauss", {})])
def test_hidden_forcing_is_missed_without(sensitivity, options):
    """A documented truth: the seminorm leaves out, and Gauss's rule lacks, what could see it."""
    assert hidden_error(sensitivity, 1e-3, **options) > 0.5
    assert hidden_error(sensitivity, 1e-6, **options) > 1e-2


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_null_rule(count):
    """Gauss's rule in the first row; what the second differs by is 0 to degree count, and no further."""
    nodes, weights = gauss_and_null(count)
    assert degree(nodes, weights[0]) == 2 * count - 1 and weights[0, 0] == weights[0, -1] == 0.0
    null, x = weights[0] - weights[1], 2.0 * nodes - 1.0
    of_degree = [abs(null @ x ** d) for d in range(count + 2)]
    assert max(of_degree[:-1]) <= 1e-15 and of_degree[-1] > 1e-2
    assert np.sum(np.abs(null)) == pytest.approx(1.0, rel=1e-14)


def kink(slope=-3.0):
    """y' = -y + u(t) with a kink of the forcing at t = 0.7: lambda does not see it."""
    def f(t, y, theta):
        return -theta[0] * y + np.where(t < theta[1], 2.0 * t, 2.0 * theta[1] + slope * (t - theta[1]))

    def f_vjp(t, y, theta, dy_bar):
        return (np.where(t < theta[1], 2.0, slope) * dy_bar[0], -theta[0] * dy_bar,
                np.array([-y[0], np.where(t < theta[1], 0.0, 2.0 - slope)]) * dy_bar[0])
    return Problem(VectorField(f, vjp=f_vjp), [1.0], [1.0, 0.7], (0.0, 2.0), loss=losses.linear([[1.0]]))


@pytest.mark.parametrize("rtol", [1e-6, 1e-9])
@pytest.mark.parametrize("method", ["dopri5", "dop853"])
def test_gauss_says_where_it_steps_over_something(method, rtol):
    """dy(2)/ds is (a - b)(1 - e^-(2 - s)): a kink at s, and the hidden forcing; no word on the smooth problem beside them."""
    options = {"method": method, "rtol": rtol, "atol": rtol}
    with pytest.warns(GradientWarning, match="parameter integral") as caught:
        found = gradient(kink(), "gauss", **options)
    assert caught[0].filename == __file__
    assert abs(found.theta[1] / (5.0 * (1.0 - np.exp(-1.3))) - 1.0) > 1e3 * rtol
    assert found.stats["quadrature_error"] > 100.0
    with pytest.warns(GradientWarning, match="parameter integral"):
        gradient(hidden_forcing(), "gauss", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error", GradientWarning)
        right = gradient(kink(slope=2.0), "gauss", **options)           # no kink
        for recipe in ("quadrature", "gauss_kronrod"):
            cured = gradient(kink(), recipe, **options).theta[1]
            assert abs(cured / (5.0 * (1.0 - np.exp(-1.3))) - 1.0) <= 1e2 * rtol
    assert right.stats["quadrature_error"] < 30.0


def test_panels_are_halved_where_the_estimate_is_too_large():
    stats = gradient(hidden_forcing(500.0), "gauss_kronrod", rtol=1e-6, atol=1e-6).stats
    assert stats["n_panels"] > 4 * stats["n_steps_reverse"]
    assert stats["nfev_quadrature"] > 15 * stats["n_panels"] and stats["quadrature_error"] <= stats["n_panels"]


def test_an_integral_that_needs_too_many_panels_raises():
    """max_steps bounds the panels as it bounds the steps."""
    with pytest.raises(IntegrationError, match="needs more than max_steps=40 panels"):
        gradient(hidden_forcing(2000.0), "quadrature", rtol=1e-4, max_steps=40)


def test_an_integral_that_is_not_finite_raises():
    problem = hidden_forcing()

    def infinite(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
        problem.field.vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar)
        theta_bar[0] = np.inf
    wrong = problem.replace(field=VectorField(problem.field.f, vjp=infinite))
    with pytest.raises(IntegrationError, match="the parameter integral is not finite"):
        gradient(wrong, "gauss")


# --- wrong programs -------------------------------------------------------------------------------

RIGHT, OPTIONS = 1e-6, {"rtol": 1e-9, "atol": 1e-12}


def mutated_error(sensitivity, name="lotka_volterra"):
    problem = CATALOGUE[name]()
    return block_error(problem, flat(gradient(problem, sensitivity, **OPTIONS)), exact(name))


@every_reverse
@pytest.mark.parametrize("wrong", [lambda lam, y_bar: None, lambda lam, y_bar: lam.__isub__(y_bar),
                                   lambda lam, y_bar: lam.__iadd__(2.0 * y_bar)], ids=["none", "minus", "double"])
def test_a_wrong_jump_is_caught(sensitivity, wrong, monkeypatch):
    assert mutated_error(sensitivity) <= RIGHT
    monkeypatch.setattr(continuous_adjoint, "observation_jump", wrong)
    assert mutated_error(sensitivity) > 1e3 * RIGHT


def _without_a_node(rule):
    nodes, weights = rule
    return nodes[1:].copy(), np.ascontiguousarray(weights[:, 1:])


def _with_a_heavy_node(rule):
    nodes, weights = rule
    return nodes, weights + 0.01 * (np.arange(nodes.size) == 1)


@every_summed
@pytest.mark.parametrize("change", [_without_a_node, _with_a_heavy_node], ids=["node dropped", "weight off"])
def test_a_wrong_rule_is_caught(sensitivity, change, monkeypatch):
    monkeypatch.setattr(quadrature, "rule_named", lambda name, order: change(gauss_legendre(order // 2 + 1)))
    assert mutated_error(sensitivity) > 1e3 * RIGHT


@every_summed
def test_a_forgotten_panel_is_caught(sensitivity, monkeypatch):
    add = quadrature.ParameterIntegral._sum
    monkeypatch.setattr(quadrature.ParameterIntegral, "_sum",
                        lambda self, path, panels: add(self, path, panels[1:].copy()))
    assert mutated_error(sensitivity) > 1e3 * RIGHT


@pytest.mark.parametrize("sensitivity", ["gauss", "gauss_kronrod"])
def test_steps_forgotten_before_they_are_summed_are_caught(sensitivity, monkeypatch):
    """Storage of one step, emptied without a sum."""
    monkeypatch.setattr(quadrature, "CAPACITY", 1)
    grow = quadrature.DrainedTrajectory.grow

    def forgetful(self):
        self.use = lambda trajectory: None
        grow(self)
    monkeypatch.setattr(quadrature.DrainedTrajectory, "grow", forgetful)
    assert mutated_error(sensitivity) > 1e3 * RIGHT
