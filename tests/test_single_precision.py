"""float32 on the CPU: the same bodies, right to single rounding, with times in double precision.

u is the unit roundoff of single precision, 2^-24. A path from an input to an output passes through some number m of
roundings, counted by `roundings`; errors of many of them are taken as independent, so that they add up to a few
sqrt(m) u of what goes along the path. That is at most what stands at its ends, times `cancelling`: a stage state is y
and a sum of h a_ij k_j that may cancel.
"""
import mpmath
import numpy as np
import pytest
from numba import config, float64, njit

import gradients

from cases import mutants
from gradients import flat
from refnode import GradientFunction, GradientWarning, InvalidInputError, gradient, solve, vjp
from refnode.fields.convolutional import conv_field
from refnode.fields.field import VectorField
from refnode.fields.flow_density import flow_density_field
from refnode.fields.neural import mlp_field
from refnode.host_device import OPTIONS
from refnode.layers.activations import ACTIVATIONS, activation_kernel, tanh_kernel
from refnode.layers.dense import matmul_add_blas
from refnode.losses import running_cost, sum_of_squares
from refnode.precision import DOUBLE, single_form
from refnode.problems.catalogue import CATALOGUE
from refnode.problems.certified import certified
from refnode.problems.problem import Problem
from refnode.sensitivity.cotangents import Seeds
from refnode.sensitivity.discrete_adjoint import discrete_adjoint, pull_cotangents, push_tangents
from refnode.sensitivity.forward_solve import solved
from refnode.sensitivity.recipes import RECIPES
from refnode.solve import run
from refnode.solve.integrate import integrate_field
from refnode.solve.options import MIN_RTOL_SINGLE, SolveOptions
from refnode.steppers.tableaus import tableau
from test_tangent_check import TWIN, twin

U = 2.0**-24
SINGLE = {"dtype": "float32"}
MLPS = {"tanh": mlp_field((2, 6, 2), "tanh", batch=4), "softplus": mlp_field((2, 3, 5, 2), "softplus", batch=3),
        "sine": mlp_field((1, 4, 1), "sine", batch=2, time_input=True)}


def mlp_problem(activation):
    """Inputs that single precision holds, so that what differs is the computation."""
    field, rng = MLPS[activation], np.random.default_rng(3)
    held = lambda x: x.astype(np.float32).astype(np.float64)
    return Problem(field, held(rng.uniform(-1.0, 1.0, field.n)), held(0.5 * rng.standard_normal(field.p)), (-0.5, 1.0),
                   ts=(0.25, 0.3125, 1.0), loss=sum_of_squares())


def problem_named(name):
    return mlp_problem(name) if name in MLPS else CATALOGUE[name]()


NAMES = [*MLPS, "lotka_volterra", "forced_oscillator", "pendulum"]
every_problem = pytest.mark.parametrize("name", NAMES)


def roundings(problem, steps, method="dopri5"):
    """m: in each stage a sum over slopes, its product with h and its addition to y, and at most two roundings a
    parameter in f and in its transpose."""
    s = tableau(method).s
    return steps * (s + 1) * (s + 3 + 4 * problem.theta.size)


def cancelling(problem, steps, method):
    """1 + |h| max_i sum_j |a_ij| max |f| / max |y|, with f and y where the problem is observed."""
    A, b = tableau(method).arrays[:2]
    y = solve(problem, rtol=1e-6).y.T
    rate = max(np.max(np.abs(problem.field(t, state, problem.theta))) for t, state in zip(problem.ts, y)) / np.max(np.abs(y))
    return 1.0 + abs(problem.t1 - problem.t0) / steps * max(np.abs(A).sum(axis=1).max(), np.abs(b).sum()) * rate


def bound(problem, steps, method="dopri5"):
    return 4.0 * np.sqrt(roundings(problem, steps, method)) * U * cancelling(problem, steps, method)


def worst(found, expected):
    """The largest difference of y0's, theta's, and all times' cotangents, over the largest entry of each."""
    pairs = [(found.y0, expected.y0), (found.theta, expected.theta),
             *(([[x.t0, x.t1, *x.ts] for x in (found, expected)],))]
    return max(np.max(np.abs(np.subtract(a, b)), initial=0.0) / np.max(np.abs(b), initial=1e-300) for a, b in pairs)


# --- bodies ---------------------------------------------------------------------------------------

def ulps(found, exact):
    """Largest error in spacings of singles at the exact value."""
    spacing = np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)
    return np.max(np.abs(found - exact) / spacing)


# tanh: 2.498 is the largest error of all singles from 2^-30 on, each tried against NumPy's tanh of the double, whose own
# error is 2^-29 of a spacing; below 2^-30 it is x. The others are rounded from doubles that are right to 2.6 ulp.
ULPS = {"tanh": 2.5, "softplus": 0.501, "sine": 0.501}


@pytest.mark.skipif(bool(config.DISABLE_JIT), reason="without Numba the bodies compute in double precision")
@pytest.mark.parametrize("name", ULPS)
def test_activations_in_ulps(name):
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.uniform(-12.0, 12.0, 4000), np.exp(rng.uniform(-60.0, 3.0, 4000)), [4.5050907, 0.0, -0.0]])
    x = x.astype(np.float32)
    a, slope = x.copy(), np.zeros_like(x)
    single_form(activation_kernel)(ACTIVATIONS[name].code, a, slope)
    double, double_slope = x.astype(np.float64), np.zeros(x.size)
    activation_kernel(ACTIVATIONS[name].code, double, double_slope)
    assert ulps(a, double) <= ULPS[name]
    if ACTIVATIONS[name].keeps_slope:
        assert ulps(slope, double_slope) <= 0.501
    for place in range(0, x.size, 97):
        exact = {"tanh": mpmath.tanh, "softplus": lambda v: mpmath.log1p(mpmath.exp(v)), "sine": mpmath.sin}[name](
            mpmath.mpf(float(x[place])))
        assert ulps(a[place:place + 1].astype(np.float64), np.array([float(exact)])) <= ULPS[name] + 1e-6


@pytest.mark.skipif(bool(config.DISABLE_JIT), reason="without Numba the bodies compute in double precision")
def test_special_values_of_tanh():
    z = np.array([0.0, -0.0, np.inf, -np.inf, 1e38, -9.5, np.nan, 1e-45, -1e-40], np.float32)
    expected = np.tanh(z.astype(np.float64)).astype(np.float32)
    single_form(tanh_kernel)(z)
    np.testing.assert_array_equal(z, expected)
    np.testing.assert_array_equal(np.signbit(z[:2]), [False, True])


@pytest.mark.skipif(bool(config.DISABLE_JIT), reason="needs the compiler")
def test_the_loop_of_tanh_is_vectorised():
    """In singles, twice as many at once, and in nothing else."""
    compiled = njit(**OPTIONS)(single_form(tanh_kernel).py_func)
    compiled(np.zeros(8, np.float32))
    (code,) = compiled.inspect_llvm().values()
    assert any("x float>" in line for line in code.splitlines() if "fmul" in line) and "double" not in code


@pytest.mark.skipif(bool(config.DISABLE_JIT), reason="without Numba it is NumPy's product")
def test_products_go_to_blas_in_singles():
    rng = np.random.default_rng(1)
    for m, n, k in [(1, 5, 3), (5, 3, 1), (17, 9, 33)]:
        a, b, c = (rng.standard_normal(shape).astype(np.float32) for shape in ((m, k), (k, n), (m, n)))
        exact = c + a.astype(np.float64) @ b
        for a_transposed in (False, True):
            for b_transposed in (False, True):
                found = c.copy().ravel()
                matmul_add_blas(a_transposed, b_transposed, m, n, k, np.ravel(a.T if a_transposed else a),
                                np.ravel(b.T if b_transposed else b), found)
                magnitude = np.abs(c) + np.abs(a) @ np.abs(b)
                assert np.all(np.abs(found.reshape(m, n) - exact) <= (k + 1) * U * magnitude)       # Higham (2002), 3.5
    with pytest.raises(Exception, match="expected arrays of one type, float64 or float32"):
        matmul_add_blas(False, False, 2, 2, 2, np.ones(4, np.float32), np.ones(4), np.ones(4, np.float32))


@pytest.mark.parametrize("driver", [integrate_field, discrete_adjoint])
def test_times_and_the_control_of_steps_stay_double(driver):
    pairs = zip(driver.single.names, driver.signature.args[-1], driver.single.signature.args[-1], strict=True)
    kept = {name for name, double, single in pairs if single == double and getattr(double, "dtype", None) == float64}
    assert {"P", "c", "times", "ts"} <= kept <= DOUBLE


# --- the gradient ---------------------------------------------------------------------------------

@every_problem
@pytest.mark.parametrize("method, steps", [("dopri5", 12), ("rk4", 24), ("dop853", 6)])
def test_agrees_with_double_precision(name, method, steps):
    """Given steps: states, loss and gradient differ by rounding alone."""
    problem = problem_named(name)
    found, expected = (gradient(problem, method=method, n_steps=steps, dtype=dtype) for dtype in ("float32", "float64"))
    assert worst(found, expected) <= bound(problem, steps, method)
    assert abs(found.loss - expected.loss) <= bound(problem, steps, method) * abs(expected.loss)
    assert found.theta.dtype == np.float64 and found.solution.y.dtype == np.float32
    assert worst(found, expected) > 2.0**-45                             # and it was computed in singles


def test_what_no_step_wrote_raises_no_warning():
    """DOP853's further slopes are written in steps with observations alone; a signalling NaN stands for what memory held."""
    forward = solved(problem_named("tanh"), SolveOptions.of(method="dop853", rtol=1e-4).single, keep=True)
    further, stepped = forward.k_extra.view(np.uint32), np.setdiff1d(np.arange(forward.n_steps), forward.ys_step)
    assert stepped.size
    further[stepped] = 0x7fa00000
    assert np.isnan(forward.in_double().k_extra[stepped]).all()


def adjoint_error(problem, seed=0, **options):
    """|<ys_bar, J x_tan> - <J^T ys_bar, x_tan>| over the magnitudes of all terms: the transpose in single, the tangent in
    double precision through the same steps, which are those of a solve in single."""
    forward = solved(problem, SolveOptions.of(**options).single, keep=True, keep_tape=True)
    rng = np.random.default_rng(seed)
    ys_bar, y1_bar = rng.standard_normal(forward.ys.shape), rng.standard_normal(forward.n)
    y0_tan, theta_tan = rng.standard_normal((1, forward.n)), rng.standard_normal((1, problem.theta.size))
    y0_bar, theta_bar = pull_cotangents(forward, Seeds(ys_bar.astype(np.float32), y1_bar.astype(np.float32)))
    assert y0_bar.dtype == theta_bar.dtype == np.float32
    ys_tans, y1_tans = push_tangents(forward.in_double(), y0_tan, theta_tan)
    left = np.concatenate([(ys_bar * ys_tans[:, 0]).ravel(), y1_bar * y1_tans[0]])
    right = np.concatenate([y0_bar * y0_tan[0], theta_bar * theta_tan[0]])
    return abs(left.sum() - right.sum()) / (np.abs(left).sum() + np.abs(right).sum()), forward.n_steps


@every_problem
@pytest.mark.parametrize("options", [{"n_steps": 10}, {"rtol": 1e-4, "atol": 1e-6}, {"method": "dop853", "rtol": 1e-4}],
                         ids=["given", "dopri5", "dop853"])
def test_is_the_transpose_of_the_tangent(name, options):
    problem = problem_named(name)
    for seed in range(3):
        error, steps = adjoint_error(problem, seed, **options)
        assert error <= bound(problem, steps, options.get("method", "dopri5"))


@every_problem
def test_complex_steps_through_the_same_steps(name):
    """`replay` in double precision, of the steps that single precision chose."""
    problem = problem_named(name).replace(loss=None)
    options = {"rtol": 1e-4, "atol": 1e-6}
    seeds = gradients.random_seeds(problem, np.random.default_rng(0))
    times = gradients.step_times(problem, {**options, **SINGLE})
    expected = gradients.frozen_gradient(problem, times, "dopri5", *seeds)
    found = flat(vjp(problem, *seeds, **options, **SINGLE))
    assert gradients.block_error(problem, found, expected) <= bound(problem, times.size - 1)


@pytest.mark.parametrize("mutant", range(3))
def test_a_wrong_derivative_is_caught(mutant):
    """One sign, term or factor of the transpose changed: far above rounding."""
    problem = CATALOGUE["lotka_volterra"]()
    found = [wrong for _, wrong in mutants(problem.field.vjp)]
    wrong = found[mutant * len(found) // 3]
    field = VectorField(problem.field.f, problem.field.jvp, wrong if config.DISABLE_JIT else njit(wrong))
    error, steps = adjoint_error(problem.replace(field=field), n_steps=10)
    assert error > 30.0 * bound(problem, steps)


@pytest.mark.parametrize("id", ["lotka_volterra/obs21", "logistic/observed", "pendulum/swing", "mlp/2_16_2"])
def test_agrees_with_proven_gradients(id):
    """One reference serves both precisions: inputs are dyadic. Step error below rounding, at 40 equal steps of dop853."""
    reference = certified(id)
    problem = reference.problem.problem
    found = gradient(problem, method="dop853", n_steps=40, **SINGLE)
    for name in ("y0", "theta"):
        exact = reference.values[f"grad_{name}"]
        assert np.max(np.abs(getattr(found, name) - exact)) <= bound(problem, 40, "dop853") * np.max(np.abs(exact))


# --- times, ranges, storage -----------------------------------------------------------------------

def test_late_times_lose_nothing():
    """At t0 = 2^20, where singles know eighths, the bits of t0 = 0."""
    problem = CATALOGUE["lotka_volterra"]()
    late = problem.replace(t0=problem.t0 + 2.0**20, t1=problem.t1 + 2.0**20, ts=problem.ts + 2.0**20)
    early, later = (gradient(each, method="dopri5", n_steps=64, **SINGLE) for each in (problem, late))
    for name in ("y0", "theta", "ts"):
        np.testing.assert_array_equal(getattr(early, name), getattr(later, name))


@pytest.mark.parametrize("exponent", [-200, -30, 140])
def test_the_scale_of_a_loss_scales_the_gradient_exactly(exponent):
    """By powers of two that single precision does not hold, too: 2^-200 is below its smallest number."""
    problem = CATALOGUE["lotka_volterra"]()
    scaled = problem.replace(loss=gradients.Scaled(problem.loss, 2.0**exponent))
    found, expected = (flat(gradient(each, n_steps=16, **SINGLE)) for each in (scaled, problem))
    np.testing.assert_array_equal(found, expected * 2.0**exponent)


def same(found, expected):
    np.testing.assert_array_equal(flat(found), flat(expected))
    assert found.loss == expected.loss


def test_both_precisions_by_turns_on_one_field():
    """Storage and tapes that one solve leaves to the next are of its own kind."""
    problem = mlp_problem("softplus")
    options = [{"n_steps": 8}, {"n_steps": 8, **SINGLE}]
    fresh = [gradient(problem.replace(field=mlp_field((2, 3, 5, 2), "softplus", batch=3)), **each) for each in options]
    for _ in range(3):
        for each, expected in zip(options, fresh):
            same(gradient(problem, **each), expected)


def test_gradient_function_gives_the_bits_of_gradient():
    problem, rng = mlp_problem("tanh"), np.random.default_rng(0)
    evaluate = GradientFunction(problem, rtol=1e-4, atol=1e-5, check_tangent=False, **SINGLE)
    for _ in range(3):
        theta = problem.theta + 0.1 * rng.standard_normal(problem.theta.size)
        same(evaluate(theta=theta), gradient(problem.replace(theta=theta), rtol=1e-4, atol=1e-5, check_tangent=False, **SINGLE))


def test_many_steps_and_a_tape_that_is_not_kept(monkeypatch):
    """More steps than the first storage holds; and the same bits when the tape is recomputed."""
    problem, options = mlp_problem("tanh"), {"n_steps": 300, **SINGLE}
    kept = gradient(problem, **options)
    monkeypatch.setattr(run, "TAPE_BUDGET", 0)
    problem.field.idle_storage.clear()
    again = gradient(problem, **options)
    assert again.stats["n_steps_recomputed"] == 300 and kept.stats["n_steps_recomputed"] == 0
    same(again, kept)
    chosen = gradient(CATALOGUE["lorenz"]().replace(loss=sum_of_squares()), method="bosh3", rtol=1e-5, atol=1e-6, max_step=0.002, **SINGLE)
    assert chosen.stats["n_steps"] > run.FIRST_CAPACITY


def test_single_input_is_computed_in_double_unless_asked():
    """A problem copies what it is given to float64; `dtype` alone asks for single."""
    problem = CATALOGUE["lotka_volterra"]()
    single = Problem(problem.field, problem.y0.astype(np.float32), problem.theta.astype(np.float32),
                     (problem.t0, problem.t1), problem.ts, problem.loss)
    same(gradient(single, n_steps=8), gradient(problem, n_steps=8))      # whose inputs are dyadic


def test_dense_output_and_observations():
    problem = mlp_problem("tanh")
    found, expected = (solve(problem, dense_output=True, n_steps=12, dtype=dtype) for dtype in ("float32", "float64"))
    t = np.linspace(-0.5, 1.0, 37)
    assert found.y.dtype == np.float32
    assert np.max(np.abs(found.sol(t) - expected.sol(t))) <= bound(problem, 12) * np.max(np.abs(expected.y))


def cost(t, y, theta):
    return y[0] * y[0] + 0.1 * y[1]


def cost_vjp(t, y, theta, g_bar, t_bar, y_bar, theta_bar):
    y_bar[0] += 2.0 * y[0] * g_bar
    y_bar[1] += 0.1 * g_bar


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_running_costs_and_users_fields(compiled):
    """Of plain Python, in the un-jitted program; compiled ones get their constants in single, closures too."""
    wrap = njit if compiled and not config.DISABLE_JIT else lambda function: function
    problem = CATALOGUE["forced_oscillator"]()
    if not compiled:
        problem = problem.replace(field=gradients.python_field(problem.field))
    problem = problem.replace(loss=sum_of_squares() + running_cost(wrap(cost), g_vjp=wrap(cost_vjp)))
    found, expected = (gradient(problem, n_steps=12, dtype=dtype) for dtype in ("float32", "float64"))
    assert worst(found, expected) <= bound(problem, 12)


@pytest.mark.slow
def test_a_flow_density():
    """A field that carries a log-density along, by the exact trace."""
    field, rng = flow_density_field((2, 8, 8, 2), "softplus", batch=3), np.random.default_rng(0)
    problem = Problem(field, rng.standard_normal(field.n), 0.5 * rng.standard_normal(field.p), loss=sum_of_squares())
    found, expected = (gradient(problem, n_steps=4, dtype=dtype) for dtype in ("float32", "float64"))
    assert worst(found, expected) <= bound(problem, 4)


@pytest.mark.slow
def test_a_convolutional_field():
    field, rng = conv_field((2, 4, 2), 4, 4, groups=2, batch=2), np.random.default_rng(0)
    problem = Problem(field, rng.standard_normal(field.n), 0.25 * rng.standard_normal(field.p), loss=sum_of_squares())
    found, expected = (gradient(problem, n_steps=4, dtype=dtype) for dtype in ("float32", "float64"))
    assert worst(found, expected) <= bound(problem, 4)


def test_the_tangent_check_warns():
    """The probe runs in double precision, through the steps that were taken in single."""
    with pytest.warns(GradientWarning, match="left the tangent unresolved"):
        found = gradient(twin(), rtol=1e-5, **SINGLE)
    assert abs(found.y0[0] / TWIN - 1.0) > 0.1


# --- what is refused ------------------------------------------------------------------------------

@pytest.mark.parametrize("name", [name for name in RECIPES if name != "discrete"])
def test_other_recipes_say_what_there_is(name):
    with pytest.raises(InvalidInputError, match="computes in float64 on the CPU.*GradientFunction by 'discrete'"):
        gradient(CATALOGUE["lotka_volterra"](), name, **SINGLE)


@pytest.mark.parametrize("options, message", [
    ({"specialize": True}, "goes without specialize=True"), ({"method": "alf", "n_steps": 8}, "goes without method 'alf'"),
    ({"control": "tangent"}, 'control="tangent" chooses its steps in float64'), ({"dtype": "float16"}, "must be one of"),
    ({"dtype": "single precision"}, "must be one of"), ({"dtype": np.int64}, "must be one of")])
def test_what_is_not_there(options, message):
    for door in (gradient, GradientFunction):
        with pytest.raises(InvalidInputError, match=message):
            door(CATALOGUE["forced_oscillator"](), **{**SINGLE, **options})


def test_tolerances_below_rounding_are_raised():
    problem = CATALOGUE["lotka_volterra"]()
    with pytest.warns(UserWarning, match="rtol below 64 eps of float32"):
        options = SolveOptions(rtol=1e-9).single
    assert options.rtol == MIN_RTOL_SINGLE
    assert SolveOptions(rtol=1e-5).single.rtol == 1e-5
    assert solve(problem, rtol=MIN_RTOL_SINGLE, atol=1e-6, **SINGLE).success
    with pytest.raises(InvalidInputError, match="error weight of component 1 is zero"):      # 1e-50 is 0 in single
        solve(problem.replace(y0=[1.0, 0.0]), rtol=1e-4, atol=1e-50, **SINGLE)


def test_numbers_beyond_the_range():
    problem = CATALOGUE["lotka_volterra"]()
    with pytest.raises(InvalidInputError, match=r"y0 must stay within 3.4e\+38 .* found y0\[1\] = 1e\+39"):
        solve(problem.replace(y0=[1.0, 1e39]), rtol=1e-4, **SINGLE)
    with pytest.raises(InvalidInputError, match=r"theta must stay within"):
        gradient(problem.replace(theta=[1.0, -1e300, 1.0, 1.0]), rtol=1e-4, **SINGLE)


def test_a_tape_header_holds_integers_that_singles_hold():
    field = mlp_field((2, 4, 2))
    large = VectorField(field.f, field.jvp, field.vjp, n=2, p=field.p, tape_size=field.tape_size, tape_header=[2.0**24 + 1.0])
    large.new_tape(2)
    with pytest.raises(InvalidInputError, match="too large for float32"):
        large.new_tape(2, np.float32)


@pytest.mark.skipif(bool(config.DISABLE_JIT), reason="needs the compiler")
def test_a_field_that_does_not_compile_in_single():
    @njit
    def pushed(t, y, theta, dy):
        push = np.zeros(1) if t > 0.5 else y                            # an array of doubles, or of singles
        dy[0] = push[0]
    problem = Problem(VectorField(pushed), [1.0])
    assert solve(problem).success
    with pytest.raises(InvalidInputError, match="'pushed' cannot be compiled for float32"):
        solve(problem, rtol=1e-4, **SINGLE)
