"""How long steps are: error norms against NumPy, controllers, the first step, and what tolerances buy."""
import numpy as np
import pytest
import scipy.integrate

import stubs
from refnode import Problem, VectorField, solve
from refnode.fields.classical import CLASSICAL
from refnode.host_device import python_form
from refnode.solve.integrate import ERROR_1, ERROR_2, next_size
from refnode.solve.step_size import (
    CONTROLLERS, control_values, error_norm, first_step, rejection_factor, scaled_norm, step_factor)
from refnode.steppers.system import Plain
from refnode.steppers.tableaus import TABLEAUS

ADAPTIVE = [name for name, table in TABLEAUS.items() if table.adaptive]
SCIPY = {"bosh3": scipy.integrate.RK23, "dopri5": scipy.integrate.RK45, "dop853": scipy.integrate.DOP853}
BLOCKS = [np.array([0, 7]), np.array([0, 2, 7]), np.array([0, 1, 3, 4, 7])]


def random_state(seed, n=7):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(n), rng.standard_normal(n), rng.uniform(1e-6, 1e-3, n),
            rng.uniform(1e-9, 1e-6, n))


# --- norms ----------------------------------------------------------------------------------------

def block_means(values, blocks):
    return [np.mean(values[a:b]) for a, b in zip(blocks[:-1], blocks[1:])]


@pytest.mark.parametrize("blocks", BLOCKS, ids=len)
def test_scaled_norm_is_the_largest_rms_of_a_block(blocks):
    """Two sums of at most 7 squares in different orders: 16 eps relative."""
    y, y1, rtol, atol = random_state(1)
    x = np.random.default_rng(2).standard_normal(7)
    scale = atol + rtol * np.maximum(np.abs(y), np.abs(y1))
    expected = np.sqrt(max(block_means((x / scale) ** 2, blocks)))
    np.testing.assert_allclose(scaled_norm(x, y, y1, rtol, atol, blocks), expected, rtol=16 * 2.0 ** -52)


@pytest.mark.parametrize("blocks", BLOCKS, ids=len)
@pytest.mark.parametrize("method", ADAPTIVE)
def test_error_norm_is_the_formula_of_the_books(method, blocks):
    """RMS of h E k / scale; for DOP853 e5^2 / sqrt(e5^2 + 0.01 e3^2). E k cancels: 1e-12 relative."""
    y, y1, rtol, atol = random_state(3)
    E = TABLEAUS[method].E
    k, h = np.random.default_rng(4).standard_normal((E.shape[1], 7)), 0.37
    scale = atol + rtol * np.maximum(np.abs(y), np.abs(y1))
    e5, e3 = (np.array(block_means((h * (row @ k) / scale) ** 2, blocks)) for row in E)
    expected = np.max(e5 / np.sqrt(e5 + 0.01 * e3))
    np.testing.assert_allclose(error_norm(E, h, k, y, y1, rtol, atol, blocks), expected, rtol=1e-12)


def test_error_norm_of_dop853_is_scipys():
    y, y1, rtol, atol = random_state(5)
    K = np.random.default_rng(6).standard_normal((13, 7))
    solver = scipy.integrate.DOP853(lambda t, y: -y, 0.0, y, 1.0)
    expected = solver._estimate_error_norm(K, 0.2, atol + rtol * np.maximum(np.abs(y), np.abs(y1)))
    found = error_norm(TABLEAUS["dop853"].E, 0.2, K, y, y1, rtol, atol, np.array([0, 7]))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_small_block_is_not_averaged_away():
    """One bad component of 1000: in one block its error is divided by sqrt(1000), as a block it is not."""
    x, one = np.zeros(1000), np.ones(1000)
    x[0] = 1.0
    norms = [scaled_norm(x, one, one, 0 * one, one, np.array(blocks)) for blocks in ([0, 1000], [0, 1, 1000])]
    np.testing.assert_allclose(norms, [1000 ** -0.5, 1.0], rtol=1e-15)


@pytest.mark.parametrize("bad", range(7))
def test_a_nan_in_any_block_is_the_norm(bad):
    y, y1, rtol, atol = random_state(7)
    x, k = np.ones(7), np.ones((7, 7))
    x[bad] = k[3, bad] = np.nan
    blocks = np.array([0, 2, 5, 7])
    assert np.isnan(scaled_norm(x, y, y1, rtol, atol, blocks))
    assert np.isnan(error_norm(TABLEAUS["dopri5"].E, 0.1, k, y, y1, rtol, atol, blocks))


# --- controllers ----------------------------------------------------------------------------------

def control_of(controller, max_step=np.inf):
    return control_values(controller, 4, max_step)


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_factor_is_the_product_of_powers_of_the_last_errors(controller):
    control, errors = control_of(controller), (0.3, 0.7, 0.2)
    betas = np.array(CONTROLLERS[controller]) / 5.0                 # error_order + 1 = 5
    expected = 0.9 * np.prod(np.power(errors, -betas))
    np.testing.assert_allclose(step_factor(control, *errors), expected, rtol=1e-15)


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_factor_is_bounded(controller):
    control = control_of(controller)
    assert step_factor(control, 0.0, 1.0, 1.0) == step_factor(control, 1e-300, 1.0, 1.0) == 10.0
    assert rejection_factor(control, 1e300) == 0.2
    assert rejection_factor(control, 1.0) == 0.9


def test_memory_of_errors_moves_on_and_has_a_floor():
    clock = np.array([0.0, 0.0, 0.5, 0.25, 1.0])
    next_size(control_of("PID"), clock, 1e-9, 0.1, False)
    assert clock[ERROR_1] == 1e-4 and clock[ERROR_2] == 0.5


def test_a_step_that_was_rejected_before_does_not_grow_the_next():
    clock = np.array([0.0, 0.0, 1.0, 1.0, 1.0])
    assert next_size(control_of("I"), clock, 1e-9, 0.1, True) == 0.1
    assert next_size(control_of("I"), clock, 1e-9, 0.1, False) == 1.0


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_step_sizes_stay_within_the_factors(controller):
    steps = np.diff(solve(stubs.AUTONOMOUS.problem((0.0, 6.0)), controller=controller,
                          dense_output=True).t_steps)
    ratio = steps[1:-1] / steps[:-2]                                # the last step is cut
    assert steps.size > 20 and ratio.max() <= 10.0 + 1e-12 and ratio.min() >= 0.02


@pytest.mark.parametrize("controller", CONTROLLERS)
@pytest.mark.parametrize("method", ADAPTIVE)
def test_global_error_is_proportional_to_the_tolerance(method, controller):
    """tol ~ h^(q + 1), error ~ h^p, and p = q + 1 for every pair here: a slope of 1.

    The quotient may wander by a factor of 16 as the errors of the steps cancel more or less; over 6
    decades that moves the fitted slope by log10(16) / 6 = 0.2. The orbit amplifies by less than 1e3.
    """
    known, tolerances = stubs.AUTONOMOUS, 10.0 ** -np.arange(4.0, 11.0)
    ts = np.linspace(0.5, 6.0, 23)
    problem, exact = known.problem((0.5, 6.0), ts=ts), np.transpose([known.solution(t) for t in ts])
    errors = [np.max(np.abs(solve(problem, method=method, controller=controller, rtol=tol, atol=tol).y - exact))
              for tol in tolerances]
    slope = np.polyfit(np.log10(tolerances), np.log10(errors), 1)[0]
    assert abs(slope - 1.0) < 0.2 and np.all(errors < 1e3 * tolerances)


# --- the first step -------------------------------------------------------------------------------

STARTS = {
    "decay": (lambda t, y: -y, 0.0, 5.0, [1.0, 2.0]),
    "backwards": (lambda t, y: np.cos(t) * y, 3.0, -2.0, [1.0, 0.1]),
    "at rest": (lambda t, y: 0.0 * y, 0.0, 1.0, [1.0]),
    "from zero": (lambda t, y: 1.0 + 0.0 * y, 0.0, 1.0, [0.0]),
    "fast": (lambda t, y: -1e6 * y, 0.0, 1.0, [1.0]),
    "short": (lambda t, y: -y, 0.0, 1e-9, [1.0]),
}


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("method", SCIPY)
def test_first_step_is_scipys(method, start):
    fun, t0, t1, y0 = STARTS[start]
    y0 = np.array(y0)
    expected = SCIPY[method](fun, t0, y0, t1, rtol=1e-5, atol=1e-7, max_step=0.5).h_abs

    def f(t, y, theta, tape, dy):
        dy[:] = fun(t, y)

    control = control_values("I", TABLEAUS[method].error_order, 0.5)
    tolerance = (control, np.full(y0.shape, 1e-5), np.full(y0.shape, 1e-7), np.array([0, y0.size]))
    found = python_form(first_step)(Plain(f), t0, t1, y0, np.empty(0), np.empty(0), fun(t0, y0), *tolerance,
                                    np.empty_like(y0), np.empty_like(y0))
    np.testing.assert_allclose(found, expected, rtol=1e-14)         # a square root and a power apart


def test_first_step_that_is_given_is_taken():
    solution = solve(stubs.AUTONOMOUS.problem(), first_step=0.0078125, dense_output=True)
    assert solution.t_steps[1] - solution.t_steps[0] == 0.0078125
    assert solution.nfev == 1 + 6 * (solution.n_steps + solution.n_rejected)


def test_a_first_step_below_the_spacing_of_times_is_raised_to_ten_spacings():
    solution = solve(stubs.AUTONOMOUS.problem(), first_step=1e-300, dense_output=True)
    assert solution.success
    assert solution.t_steps[1] - solution.t_steps[0] == pytest.approx(10 * np.spacing(2.0), rel=0.1)


def test_first_step_of_an_overflowing_slope_is_a_number():
    """d0 / d1 is inf / inf here; the smallest step serves, and grows."""
    field = VectorField(lambda t, y, theta: -y, n=1)
    solution = solve(Problem(field, [1e300]), rtol=1e-6, atol=0.0)
    assert solution.success
    np.testing.assert_allclose(solution.y1 / 1e300, np.exp(-1.0), rtol=1e-5)


# --- bounds ---------------------------------------------------------------------------------------

def test_max_step_bounds_every_step():
    solution = solve(stubs.AUTONOMOUS.problem(), rtol=1e-3, max_step=0.05, dense_output=True)
    assert np.diff(solution.t_steps).max() <= 0.05 + 2 * np.spacing(4.0)
    assert solution.n_steps in (40, 41)                             # 40 roundings may leave a last spacing


def test_max_steps_is_the_number_of_accepted_steps():
    needed = solve(stubs.AUTONOMOUS.problem()).n_steps
    assert solve(stubs.AUTONOMOUS.problem(), max_steps=needed).success
    short = solve(stubs.AUTONOMOUS.problem(), max_steps=needed - 1)
    assert short.status == -2 and short.n_steps == needed - 1


def test_a_step_cut_short_does_not_shorten_the_next():
    """Decay in two pieces: after tstops just behind a step end the sizes go on as before."""
    problem = Problem(CLASSICAL["exponential_decay"], [1.0], [1.0], (0.0, 4.0))
    free = solve(problem, dense_output=True).t_steps
    stop = free[5] + 1e-9
    cut = solve(problem.replace(ts=[stop, 4.0]), tstops=True, dense_output=True).t_steps
    assert stop in cut
    assert cut[7] - stop >= free[6] - free[5]


def test_slopes_that_are_not_finite_halve_the_step():
    """sqrt of a negative number beyond y = 0: a first step of 2.5 is halved until it stays inside."""
    def fun(t, y, theta):
        with np.errstate(invalid="ignore"):
            return -np.sqrt(y)

    solution = solve(Problem(VectorField(fun, n=1), [1.0], t_span=(0.0, 1.5)), first_step=2.5, max_step=2.5)
    assert solution.success and solution.n_rejected > 0
    np.testing.assert_allclose(solution.y1, [(1.0 - 0.75) ** 2], rtol=1e-5)     # rtol 1e-6, amplified by 4
