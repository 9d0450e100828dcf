"""The truth `through`: the derivative of the adaptive program, against complex steps through an independent one."""
import numpy as np
import pytest

import cases
import gradients
from gradients import block_error, flat, inputs, random_seeds
from refnode import losses
from refnode.errors import InvalidInputError
from refnode.evidence.adaptive_program import AdaptiveProgram, ulp_response
from refnode.fields.field import VectorField
from refnode.fields.neural import mlp_field
from refnode.host_device import Driver, python_form
from refnode.problems.catalogue import CATALOGUE
from refnode.problems.problem import Problem
from refnode.sensitivity import attempts, through, through_adjoint
from refnode.sensitivity.attempts import ControlledSteps
from refnode.sensitivity.forward_solve import solved
from refnode.sensitivity.gradient import gradient, jvp, vjp
from refnode.sensitivity.recipes import NATURAL, RECIPES
from refnode.solve import step_size
from refnode.solve.initial_value import solve
from refnode.solve.options import SolveOptions
from refnode.steppers import explicit_rk
from refnode.steppers.tableaus import TABLEAUS

THROUGH = ["through_forward", "through"]

# What is promised. An error norm is a sum of slopes that cancel: at a relative error estimate of 1e-6 an
# estimate has lost six digits, the next size as many, and so has its derivative; hence 1e-10, not 1e-13.
COMPLEX_STEP = 1e-10

# Loose tolerances, at which the step control weighs; rejections, a bound on the step, tstops, given first steps.
RUNS = {
    "bosh3 PID tstops": {"method": "bosh3", "controller": "PID", "tstops": True, "rtol": 1e-3},
    "bosh3 max_step": {"method": "bosh3", "max_step": 0.3, "rtol": 1e-3},
    "dopri5 I": {},
    "dopri5 PI": {"controller": "PI"},
    "dopri5 first_step": {"first_step": 1.0, "controller": "PID"},
    "dopri5 tstops": {"tstops": True},
    "tsit5 PI": {"method": "tsit5", "controller": "PI"},
    "dop853 first_step": {"method": "dop853", "first_step": 0.75},
}
PROBLEMS = ["forced_oscillator", "van_der_pol", "lotka_volterra"]


def options_of(run):
    return {"rtol": 1e-4, "atol": 1e-6, **RUNS[run]}


def problem_of(name, backwards=False):
    """A catalogue problem without its loss; backwards it begins where it ended."""
    problem = CATALOGUE[name]().replace(loss=None)
    if not backwards:
        return problem
    end = solve(problem, rtol=1e-9, atol=1e-12).y1
    return problem.replace(y0=end, t0=problem.t1, t1=problem.t0, ts=np.append(problem.ts[-2::-1], problem.t0))


def compare(problem, options, seed=0):
    """The errors of adjoint and tangents against complex steps, and the number of rejected steps."""
    seeds = random_seeds(problem, np.random.default_rng(seed))
    program = AdaptiveProgram(problem, **options)
    expected = program.pulled(*seeds)
    errors = [block_error(problem, flat(vjp(problem, *seeds, sensitivity=name, **options)), expected)
              for name in THROUGH]
    return max(errors), program.run(inputs(problem))[3]


# --- the independent program ----------------------------------------------------------------------

@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("run", RUNS)
def test_the_independent_program_takes_the_same_steps(name, run):
    """As many, as many rejected, at the same times and to the same states, up to the rounding of small estimates."""
    problem, options = problem_of(name), options_of(run)
    solution = solve(problem, dense_output=True, **options)
    ys, y1, times, rejections = AdaptiveProgram(problem, **options).run(inputs(problem))
    assert rejections == solution.n_rejected and times.size == solution.t_steps.size
    assert np.max(np.abs(times - solution.t_steps)) < 1e-8 * abs(problem.t1 - problem.t0)
    np.testing.assert_allclose(ys.real.T, solution.y, rtol=0.0, atol=1e-11 * np.max(np.abs(solution.y)))
    np.testing.assert_allclose(y1.real, solution.y1, rtol=0.0, atol=1e-11 * np.max(np.abs(solution.y)))


# --- tangent and transpose ------------------------------------------------------------------------

@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("run", RUNS)
def test_equals_complex_steps_through_the_adaptive_program(name, run):
    """All inputs at once: y0, theta, t0, t1 and the observation times, most of them off the steps."""
    assert compare(problem_of(name), options_of(run))[0] <= COMPLEX_STEP


@pytest.mark.parametrize("run", ["bosh3 PID tstops", "dopri5 I", "dopri5 tstops", "dop853 first_step"])
def test_backwards_in_time(run):
    assert compare(problem_of("forced_oscillator", backwards=True), options_of(run))[0] <= COMPLEX_STEP


# --- where rounding decides -----------------------------------------------------------------------

def program_and_seeds(name, method):
    problem = problem_of(name)
    options = {"method": method, "rtol": 1e-4, "atol": 1e-9 if name == "robertson" else 1e-6}
    return problem, options, AdaptiveProgram(problem, **options), random_seeds(problem, np.random.default_rng(0))


@pytest.mark.parametrize("method", gradients.ADAPTIVE)
@pytest.mark.parametrize("name", CATALOGUE)
def test_to_the_rounding_of_the_program_itself(name, method):
    """Automatic first steps: to 1e-10, or to what an ulp of y0 and theta moves the complex-step derivative by.

    More than 1e-10 on two problems, by DOP853 alone. There an error estimate is 1e-7 of its terms, has lost seven
    digits to the rounding of the slopes, and the sizes of all later steps with it. The same loss is in the dot product.
    """
    problem, options, program, seeds = program_and_seeds(name, method)
    expected = program.pulled(*seeds)
    response = block_error(problem, expected + ulp_response(problem, lambda x: program.pulled(*seeds, x)), expected)
    error, _ = compare(problem, options)
    assert error <= max(COMPLEX_STEP, response)
    assert error <= COMPLEX_STEP or (method, name) in {("dop853", "linear"), ("dop853", "cosine_relaxation")}
    dot = gradients.dot_product_error(problem, np.random.default_rng(1), "through", "through_forward", **options)
    assert dot <= max(gradients.DOT_PRODUCT, 0.1 * response)


extended = pytest.mark.skipif(np.finfo(np.longdouble).eps > 1e-18, reason="long double has no more digits than double")


@extended
@pytest.mark.parametrize("name", ["linear", "cosine_relaxation"])
def test_as_near_to_the_exact_derivative_as_the_program_in_doubles(name):
    """The program in numbers of 64 bits knows its derivative; both programs of 53 bits miss it alike, by 4e-10 and 1e-9."""
    problem, options, program, seeds = program_and_seeds(name, "dop853")
    exact = AdaptiveProgram(problem, dtype=np.clongdouble, **options).pulled(*seeds)
    doubles = block_error(problem, program.pulled(*seeds), exact)
    found = block_error(problem, flat(vjp(problem, *seeds, sensitivity="through", **options)), exact)
    assert COMPLEX_STEP < doubles and found <= 3.0 * doubles


@extended
def test_no_order_of_summation_helps():
    """Error estimates summed without rounding, from slopes in doubles: the digits are lost in the slopes."""
    problem, options, program, seeds = program_and_seeds("cosine_relaxation", "dop853")
    exact = AdaptiveProgram(problem, dtype=np.clongdouble, **options).pulled(*seeds)
    rounded = program.error
    program.error = lambda h, k, y, y1: rounded(h, k.astype(np.clongdouble), y, y1).astype(complex)
    assert block_error(problem, program.pulled(*seeds), exact) > COMPLEX_STEP


def test_the_runs_reject_steps():
    """Or the tests above would prove nothing about rejected attempts."""
    rejected = {run: solve(problem_of("lotka_volterra"), **options_of(run)).n_rejected for run in RUNS}
    assert sum(count > 0 for count in rejected.values()) >= 6


@pytest.mark.parametrize("ts", [None, [0.25], [0.25, 0.25, 3.75], [0.25, 1.0, 1.0, 1.5]])
@pytest.mark.parametrize("tstops", [False, True])
def test_observations_at_the_ends_and_twice(ts, tstops):
    """At t0, at t1, twice at one time, and t1 itself."""
    problem = problem_of("forced_oscillator").replace(ts=ts)
    assert compare(problem, {"rtol": 1e-4, "atol": 1e-6, "tstops": tstops})[0] <= COMPLEX_STEP


@pytest.mark.parametrize("name", ["forced_oscillator", "lotka_volterra"])
@pytest.mark.parametrize("run", ["bosh3 PID tstops", "dopri5 I", "dopri5 first_step", "dopri5 tstops"])
def test_tangent_and_transpose_are_dual(name, run):
    error = gradients.dot_product_error(problem_of(name), np.random.default_rng(1), "through", "through_forward",
                                        **options_of(run))
    assert error <= gradients.DOT_PRODUCT


@pytest.mark.parametrize("options", [{"n_steps": 7}, {"method": "rk4", "n_steps": 6},
                                     {"steps": [0.5, 1.0, 0.75, 1.25]}])
def test_given_steps(options):
    """Frozen in y0 and theta; an equal grid stretches with t0 and t1, which finite differences confirm."""
    problem = problem_of("forced_oscillator")
    seeds = random_seeds(problem, np.random.default_rng(2))
    found, tangents = (vjp(problem, *seeds, sensitivity=name, **options) for name in ("through", "through_forward"))
    frozen = vjp(problem, *seeds, **options)
    assert block_error(problem, flat(found), flat(tangents)) <= 1e-13
    np.testing.assert_allclose(found.y0, frozen.y0, rtol=1e-13)
    np.testing.assert_allclose(found.theta, frozen.theta, rtol=1e-12)
    if "steps" in options:
        return

    def value(t0):
        solution = solve(problem.replace(t0=t0), **options)
        return np.sum(seeds[0] * solution.y) + seeds[1] @ solution.y1
    eps = 1e-5                                                  # error eps^2 ~ 1e-10, rounding 1e-16 / eps ~ 1e-11
    difference = (value(problem.t0 + eps) - value(problem.t0 - eps)) / (2.0 * eps)
    assert found.t0 == pytest.approx(difference, rel=1e-7)
    assert abs(found.t0 - frozen.t0) > 1e-4 * abs(found.t0)


def test_equals_finite_differences_of_the_adaptive_solve():
    """The solver itself, no other program: differences of eps = 1e-5 around a point where no decision flips.

    Noise of the solver (its sizes jump in their last digits) 1e-14 over eps, and eps^2 curvature: 1e-7.
    """
    problem, options = problem_of("van_der_pol"), options_of("dopri5 first_step")
    x_tan = np.array([1.0, -0.5])
    eps = 1e-5
    moved = [solve(problem.replace(y0=problem.y0 + sign * eps * x_tan), **options).y for sign in (1, -1)]
    found = jvp(problem, y0_tan=x_tan, truth="through", **options)
    difference = (moved[0] - moved[1]) / (2.0 * eps)
    assert np.max(np.abs(found - difference)) <= 1e-7 * np.max(np.abs(difference))
    frozen = jvp(problem, y0_tan=x_tan, **options)
    assert np.max(np.abs(frozen - difference)) > 1e-4 * np.max(np.abs(difference))


def test_a_field_with_a_tape():
    """The perceptron: rejected attempts have a tape of their own; against complex steps, and recomputed."""
    field = mlp_field((2, 5, 2), "tanh", batch=3, time_input=True)
    rng = np.random.default_rng(3)
    problem = Problem(field, rng.uniform(-1.0, 1.0, field.n), rng.standard_normal(field.p), (-0.5, 2.0),
                      ts=[0.1, 0.2, 2.0])
    error, rejections = compare(problem, {"rtol": 1e-3, "atol": 1e-5, "first_step": 1.5})
    assert error <= COMPLEX_STEP and rejections > 0


# --- norms and first step, block by block ---------------------------------------------------------

BLOCKS = [np.array([0, 7]), np.array([0, 2, 7]), np.array([0, 1, 3, 4, 7])]


def norm_inputs(seed):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((2, 7)) for _ in range(3)], rng.uniform(1e-6, 1e-3, 7), rng.uniform(1e-9, 1e-6, 7)


@pytest.mark.parametrize("blocks", BLOCKS, ids=len)
def test_scaled_norm_jvp_and_vjp(blocks):
    """Against central differences (noise 1e-10) and as a transposed pair, the largest block deciding."""
    ((x, x_tan), (y, y_tan), (y1, y1_tan)), rtol, atol = norm_inputs(4)
    found = step_size.scaled_norm_jvp(x, y, y1, rtol, atol, blocks, x_tan, y_tan, y1_tan)
    eps = 1e-6
    ends = [step_size.scaled_norm(x + d * x_tan, y + d * y_tan, y1 + d * y1_tan, rtol, atol, blocks)
            for d in (eps, -eps)]
    assert found == pytest.approx((ends[0] - ends[1]) / (2 * eps), rel=1e-7)
    bars = np.zeros((3, 7))
    step_size.scaled_norm_vjp(x, y, y1, rtol, atol, blocks, 1.5, *bars)
    assert np.sum(bars * [x_tan, y_tan, y1_tan]) == pytest.approx(1.5 * found, rel=1e-13)


@pytest.mark.parametrize("blocks", BLOCKS, ids=len)
@pytest.mark.parametrize("method", gradients.ADAPTIVE)
def test_error_norm_jvp_and_vjp(method, blocks):
    ((_, _), (y, y_tan), (y1, y1_tan)), rtol, atol = norm_inputs(5)
    E, h, h_tan = TABLEAUS[method].E, 0.37, -0.8
    k, k_tan = np.random.default_rng(6).standard_normal((2, E.shape[1], 7))
    found = step_size.error_norm_jvp(E, h, k, y, y1, rtol, atol, blocks, h_tan, k_tan, y_tan, y1_tan)
    eps = 1e-6
    ends = [step_size.error_norm(E, h + d * h_tan, k + d * k_tan, y + d * y_tan, y1 + d * y1_tan, rtol, atol, blocks)
            for d in (eps, -eps)]
    assert found == pytest.approx((ends[0] - ends[1]) / (2 * eps), rel=1e-6)
    k_bar, y_bar, y1_bar = np.zeros_like(k), np.zeros(7), np.zeros(7)
    h_bar = step_size.error_norm_vjp(E, h, k, y, y1, rtol, atol, blocks, 1.5, k_bar, y_bar, y1_bar)
    pulled = h_bar * h_tan + np.sum(k_bar * k_tan) + y_bar @ y_tan + y1_bar @ y1_tan
    assert pulled == pytest.approx(1.5 * found, rel=1e-12)


def test_norms_of_nothing_have_no_slope():
    """sqrt at 0: the derivative of the branch is 0, not NaN."""
    zero, one, blocks = np.zeros(3), np.ones(3), np.array([0, 3])
    E, k = TABLEAUS["dop853"].E, np.zeros((13, 3))
    assert step_size.scaled_norm_jvp(zero, one, one, one, one, blocks, one, one, one) == 0.0
    assert step_size.error_norm_jvp(E, 0.1, k, one, one, one, one, blocks, 1.0, k + 1.0, one, one) == 0.0
    bars = np.zeros((3, 3))
    step_size.scaled_norm_vjp(zero, one, one, one, one, blocks, 1.0, *bars)
    assert step_size.error_norm_vjp(E, 0.1, k, one, one, one, one, blocks, 1.0, k, *bars[:2]) == 0.0
    assert not np.any(bars) and not np.any(k)


STARTS = {                      # which minimum decides the first step
    "by slopes": ([1.0, -0.5], [2.0, 0.5], 4.0, {}),
    "by the interval": ([1.0, -0.5], [2.0, 0.5], 1e-3, {}),
    "by max_step": ([1.0, -0.5], [2.0, 0.5], 4.0, {"max_step": 1e-2}),
    "from zero": ([0.0, 0.0], [2.0, 0.5], 4.0, {}),
}


@pytest.mark.parametrize("start", STARTS)
def test_first_step_and_what_it_is_decided_by(start):
    y0, theta, length, options = STARTS[start]

    def f(t, y, theta, dy):
        dy[0] = theta[0] * y[1] + np.cos(t)
        dy[1] = -theta[1] * y[0]

    def f_jvp(t, y, theta, t_tan, y_tan, theta_tan, dy_tan):
        dy_tan[0] = theta_tan[0] * y[1] + theta[0] * y_tan[1] - np.sin(t) * t_tan
        dy_tan[1] = -theta_tan[1] * y[0] - theta[1] * y_tan[0]

    def f_vjp(t, y, theta, dy_bar, t_bar, y_bar, theta_bar):
        theta_bar[0] += y[1] * dy_bar[0]
        y_bar[1] += theta[0] * dy_bar[0]
        t_bar[0] -= np.sin(t) * dy_bar[0]
        theta_bar[1] -= y[0] * dy_bar[1]
        y_bar[0] -= theta[1] * dy_bar[1]
    problem = Problem(VectorField(f, f_jvp, f_vjp), y0, theta, (0.25, 0.25 + length), ts=[0.25 + 0.7 * length])
    seeds = np.array([[1.0], [-0.5]]), np.array([0.25, 2.0])
    options = {"rtol": 1e-3, "atol": 1e-5, **options}
    program = AdaptiveProgram(problem, **options)
    found = flat(vjp(problem, *seeds, sensitivity="through", **options))
    tangent = flat(vjp(problem, *seeds, sensitivity="through_forward", **options))
    assert block_error(problem, found, tangent) <= 1e-11
    if start != "from zero":    # there a modulus is at 0, where a complex step has no branch to follow
        assert block_error(problem, found, program.pulled(*seeds)) <= COMPLEX_STEP


# --- where others return NaN ----------------------------------------------------------------------

@pytest.mark.parametrize("name", THROUGH)
@pytest.mark.parametrize("method", gradients.ADAPTIVE)
def test_a_perceptron_whose_last_layer_is_zero(name, method):
    """y' = 0: every norm and every error is 0. The gradients are finite, and those of the frozen steps."""
    field = mlp_field((2, 4, 2), "tanh", batch=2)
    theta = np.random.default_rng(7).standard_normal(field.p)
    theta[-10:] = 0.0                                           # the last layer, 4 * 2 weights and 2 offsets
    problem = Problem(field, [1.0, -0.5, 0.25, 2.0], theta, ts=[0.3, 1.0], loss=losses.sum_of_squares())
    found, frozen = (flat(gradient(problem, each, method=method)) for each in (name, "discrete"))
    assert np.all(np.isfinite(found)) and np.any(found != 0.0)
    np.testing.assert_allclose(found, frozen, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", THROUGH)
def test_a_first_attempt_that_leaves_the_domain(name):
    """y' = -sqrt(y): NaN beyond y = 0, so the step is halved, and the NaN does not reach the gradient."""
    def f(t, y, theta, dy):
        with np.errstate(invalid="ignore"):
            dy[0] = -theta[0] * np.sqrt(y[0])

    def f_jvp(t, y, theta, t_tan, y_tan, theta_tan, dy_tan):
        dy_tan[0] = -theta_tan[0] * np.sqrt(y[0]) - 0.5 * theta[0] / np.sqrt(y[0]) * y_tan[0]

    def f_vjp(t, y, theta, dy_bar, t_bar, y_bar, theta_bar):
        theta_bar[0] -= np.sqrt(y[0]) * dy_bar[0]
        y_bar[0] -= 0.5 * theta[0] / np.sqrt(y[0]) * dy_bar[0]
    problem = Problem(VectorField(f, f_jvp, f_vjp), [1.0], [1.0], (0.0, 1.5), loss=losses.linear([[1.0]]))
    options = {"first_step": 2.5, "max_step": 2.5}
    found = gradient(problem, name, **options)
    assert found.stats["n_rejected"] > 0 and np.all(np.isfinite(flat(found)))
    assert found.y0[0] == pytest.approx(1.0 - 0.75, rel=1e-4)   # y(T) = (sqrt(y0) - T / 2)^2, at rtol 1e-6
    tangent = gradient(problem, "through_forward", **options)
    assert block_error(problem, flat(found), flat(tangent)) <= 1e-11


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")       # un-jitted, NumPy says so itself
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("name", THROUGH)
def test_a_slope_beyond_floating_point_numbers_is_told(name):
    """Subnormal states: h changes by h / y0 ~ 1e310 per unit of y0. What is not finite is not returned in silence."""
    problem = CATALOGUE["exponential_decay"]().replace(y0=[1e-310, 2e-310], loss=losses.linear(np.ones((2, 4))))
    with pytest.warns(Warning, match="not finite"):
        gradient(problem, name, atol=1e-319, rtol=1e-6)


# --- wrong on purpose -----------------------------------------------------------------------------

MUTANTS = {
    "rejected attempts dropped": ("clock_tan[H] += by_error * error_norm_jvp(",
                                  "clock_tan[H] += 0.0 * by_error * error_norm_jvp("),
    "first step dropped": ("        clock_tan[H] = push_first_step(", "        clock_tan[T] += 0.0 * push_first_step("),
    "sigma held": ("(ts_tan[j] - t_tan - sigma * h_tan) / h", "0.0"),
    "length of the interpolant held": ("sigma * h_tan) / h, h_tan, k,", "sigma * h_tan) / h, 0.0, k,"),
    "error without its tangent": ("clock_tan[H] += by_error * error_tan", "clock_tan[H] += 0.0"),
    "no memory": (" + by_1 * clock_tan[ERROR_1] + by_2 * clock_tan[ERROR_2]", ""),
    "stops held": ("return stop_tans[stop] - clock_tan[T]", "return -clock_tan[T]"),
    "step times held": ("    clock_tan[T] += h_tan\n", "    clock_tan[T] += 0.0\n"),
}


def mutant(module, *replacements):
    """The un-jitted program with one line changed, its calls to other modules un-jitted too."""
    wrong = gradients.changed_source(module, *replacements)
    for name, value in list(wrong.items()):
        if getattr(value, "is_higher_order", False) and not isinstance(value, Driver):
            wrong[name] = python_form(value)
    return wrong


@pytest.mark.parametrize("label", [None, *MUTANTS])
def test_wrong_tangents_are_caught(label, monkeypatch):
    """The comparison with complex steps, on a run with rejections, memory, an automatic first step and dense output."""
    problem = problem_of("lotka_volterra")
    problem = problem.replace(field=gradients.python_field(problem.field))
    options = {"rtol": 1e-4, "atol": 1e-6, "controller": "PI"}
    seeds = random_seeds(problem, np.random.default_rng(8))
    expected = AdaptiveProgram(CATALOGUE["lotka_volterra"]().replace(loss=None), **options)
    assert expected.run(inputs(problem))[3] > 0
    if label is not None:
        monkeypatch.setattr(through, "push_control", mutant(through, MUTANTS[label])["push_control"])
    error = block_error(problem, flat(vjp(problem, *seeds, sensitivity="through_forward", **options)),
                        expected.pulled(*seeds))
    assert error <= COMPLEX_STEP if label is None else error > 1e3 * COMPLEX_STEP


TRANSPOSE_MUTANTS = {
    "rejected attempts dropped": ("    if by_error * size_bar == 0.0:", "    if True:"),
    "first step dropped": ("if position[AUTOMATIC] and times.shape[0] > 1:", "if False:"),
    "sigma held": ("pull_time(sigma_bar / h, sigma, j,", "pull_time(0.0, sigma, j,"),
    "error without its cotangent": ("        error_bar += by_error * size_bar\n", ""),
    "stop sign": ("clock_bar[T] -= length_bar", "clock_bar[T] += length_bar"),
}


@pytest.mark.parametrize("label", TRANSPOSE_MUTANTS)
def test_wrong_transposes_are_caught(label, monkeypatch):
    """By the dot product with the tangent."""
    problem = problem_of("lotka_volterra")
    problem = problem.replace(field=gradients.python_field(problem.field))
    wrong = mutant(through_adjoint, TRANSPOSE_MUTANTS[label])
    monkeypatch.setattr(through_adjoint, "pull_control", wrong["pull_control"])
    error = gradients.dot_product_error(problem, np.random.default_rng(9), "through", "through_forward",
                                        rtol=1e-4, atol=1e-6, controller="PI")
    assert error > 1e3 * gradients.DOT_PRODUCT


# --- the list of attempts -------------------------------------------------------------------------

def test_the_list_holds_every_attempt():
    problem = problem_of("lotka_volterra")
    forward = solved(problem, SolveOptions.of(rtol=1e-4, atol=1e-6), keep=True)
    steps = ControlledSteps(forward)
    outcomes = steps.marks[:, attempts.OUTCOME]
    assert np.sum(outcomes == attempts.REJECTED_BY_ERROR) == forward.counts[1] > 0
    assert np.sum(outcomes <= attempts.ACCEPTED_AFTER) == forward.n_steps
    assert np.all(steps.numbers[outcomes <= attempts.ACCEPTED_AFTER, attempts.ERROR] < 1.0)
    assert np.all(steps.numbers[outcomes > attempts.ACCEPTED_AFTER, attempts.ERROR] >= 1.0)


def test_a_right_hand_side_with_a_memory_is_noticed():
    """What cannot be repeated cannot be differentiated."""
    calls = []

    def f(t, y, theta, dy):
        calls.append(t)
        dy[0] = -y[0] * (1.0 + 1e-3 * len(calls)) + np.sin(20.0 * t)

    def f_jvp(t, y, theta, t_tan, y_tan, theta_tan, dy_tan):
        dy_tan[0] = -y_tan[0]
    problem = Problem(VectorField(f, f_jvp), [1.0], t_span=(0.0, 3.0), loss=losses.sum_of_squares())
    with pytest.raises(RuntimeError, match="did not repeat"):
        gradient(problem, "through_forward", rtol=1e-3, atol=1e-5)


# --- the doors ------------------------------------------------------------------------------------

@pytest.mark.parametrize("truth", NATURAL)
def test_truth_chooses_the_natural_recipe(truth):
    problem = CATALOGUE["logistic"]()
    reverse, forward = NATURAL[truth]
    found = gradient(problem, truth=truth)
    assert found.sensitivity == reverse and RECIPES[reverse].truth == RECIPES[forward].truth == truth
    np.testing.assert_array_equal(flat(found), flat(gradient(problem, reverse)))
    np.testing.assert_array_equal(flat(vjp(problem, y1_bar=[1.0], truth=truth)),
                                  flat(vjp(problem, y1_bar=[1.0], sensitivity=reverse)))
    np.testing.assert_array_equal(jvp(problem, [1.0], truth=truth), jvp(problem, [1.0], sensitivity=forward))


def test_truth_is_validated():
    problem = CATALOGUE["logistic"]()
    with pytest.raises(InvalidInputError, match=r"'discrete' gives the truth 'frozen', not truth='through', which is "
                                                r"given by \['through_forward', 'through'\]"):
        gradient(problem, "discrete", truth="through")
    with pytest.raises(InvalidInputError, match=r"truth must be one of \['exact', 'frozen', 'through'\], found 'real'"):
        vjp(problem, truth="real")
    assert gradient(problem, "backsolve", truth="exact").sensitivity == "backsolve"
    with pytest.raises(InvalidInputError, match="needs a forward recipe"):
        jvp(problem, [1.0], sensitivity="through")
