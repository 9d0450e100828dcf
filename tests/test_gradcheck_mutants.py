"""check_gradient proved on gradients that are wrong on purpose, and on right ones."""
from collections import Counter

import numpy as np
import pytest
from scipy.linalg import expm

from refnode.gradcheck import check_gradient, complex_step_gradient, dot_product_test, taylor_test

# --- a linear ODE with observations, its gradient by the adjoint method in closed form -------------
#
# dy/dt = −a y + b,  y(t) = b/a + (y0 − b/a) exp(−a (t − t0)),  L = ½ Σₖ (y(tₖ) − dₖ)²,  x = (y0, a, b, t0).
# dλ/dt = a λ, λ(tₖ⁻) = λ(tₖ⁺) + (y(tₖ) − dₖ);  ∂L/∂y0 = λ(t0), ∂L/∂a = −∫ λ y dt, ∂L/∂b = ∫ λ dt,
# ∂L/∂t0 = −λ(t0) (−a y0 + b).

TIMES = np.array([0.6, 1.1, 1.9, 2.5])
DATA = np.array([1.0, 0.2, 0.9, -0.4])
NAMES = ["y0", "a", "b", "t0"]
POINT = np.array([1.7, 0.8, 0.5, 0.1])


def trajectory(x, t):
    y0, a, b, t0 = x
    return b / a + (y0 - b / a) * np.exp(-a * (t - t0))


def loss(x):
    return 0.5 * np.sum((trajectory(x, TIMES) - DATA) ** 2)


def adjoint_gradient(x, *, jump_weights=(1, 1, 1, 1), drift_integral=1.0, t0_sign=-1.0, t0_term=1.0):
    """The gradient; the keywords are 1 (and −1) for the right one and break it otherwise."""
    y0, a, b, t0 = x
    lam, grad_a, grad_b = 0.0, 0.0, 0.0
    starts = np.concatenate([[t0], TIMES[:-1]])
    for start, stop, datum, weight in reversed(list(zip(starts, TIMES, DATA, jump_weights))):
        lam += weight * (trajectory(x, stop) - datum)
        decay = np.exp(-a * (stop - start))
        # ∫ λ dt and ∫ λ y dt over one segment, λ(t) = λ(stop) exp(−a (stop − t))
        lam_integral = lam * (1 - decay) / a
        transient = lam * (y0 - b / a) * np.exp(-a * (stop - t0)) * (stop - start)
        grad_a -= drift_integral * lam_integral * b / a + transient
        grad_b += lam_integral
        lam *= decay
    return np.array([lam, grad_a, grad_b, t0_sign * t0_term * lam * (-a * y0 + b)])


def without_interior_jumps(x):
    return adjoint_gradient(x, jump_weights=(0, 0, 0, 1))


ODE_MUTANTS = {
    "without interior jumps": without_interior_jumps,
    "without the last jump": lambda x: adjoint_gradient(x, jump_weights=(1, 1, 1, 0)),
    "with the last jump doubled": lambda x: adjoint_gradient(x, jump_weights=(1, 1, 1, 2)),
    "with one jump missing": lambda x: adjoint_gradient(x, jump_weights=(1, 0, 1, 1)),
    "with a term of ∂L/∂a dropped": lambda x: adjoint_gradient(x, drift_integral=0.0),
    "with the sign of ∂L/∂t0 flipped": lambda x: adjoint_gradient(x, t0_sign=1.0),
    "without ∂L/∂t0": lambda x: adjoint_gradient(x, t0_term=0.0),
    "times 2": lambda x: 2 * adjoint_gradient(x),
    "times 1/2": lambda x: adjoint_gradient(x) / 2,
    "times −1": lambda x: -adjoint_gradient(x),
    "a mean in place of the sum": lambda x: adjoint_gradient(x) / 7,
    "a sum in place of the mean": lambda x: 50 * adjoint_gradient(x),
    "permuted": lambda x: adjoint_gradient(x)[[0, 2, 1, 3]],
    "off by 1e-5 in one component": lambda x: adjoint_gradient(x) * [1, 1, 1 + 1e-5, 1],
}


def test_the_right_gradient_passes():
    report = check_gradient(loss, POINT, adjoint_gradient, names=NAMES)
    assert report.verdict == "PASS" and report
    # Finite differences of order 14 on a smooth function: rounding, 2e-16 · L / step.
    assert max(c.error for c in report.components) < 1e-11


@pytest.mark.parametrize("mutant", ODE_MUTANTS)
@pytest.mark.parametrize("methods", [("fd",), ("complex",), ("fd", "complex", "taylor", "dot")])
def test_every_ode_mutant_fails(mutant, methods):
    report = check_gradient(loss, POINT, ODE_MUTANTS[mutant], names=NAMES, methods=methods)
    assert report.verdict == "FAIL" and not report


@pytest.mark.parametrize("mutant", ODE_MUTANTS)
def test_every_ode_mutant_fails_along_a_random_direction(mutant):
    report = check_gradient(loss, POINT, ODE_MUTANTS[mutant], methods=("dot",))
    assert report.verdict == "FAIL"
    assert report.worst is report.direction


def test_every_ode_mutant_fails_at_random_points():
    rng = np.random.default_rng(7)
    for _ in range(3):
        x = np.array([rng.uniform(-3, 3), rng.uniform(0.2, 2), rng.uniform(-2, 2), rng.uniform(-0.5, 0.5)])
        assert check_gradient(loss, x, adjoint_gradient).verdict == "PASS"
        for mutant in ODE_MUTANTS.values():
            assert check_gradient(loss, x, mutant).verdict == "FAIL"


DIAGNOSES = {
    "with the sign of ∂L/∂t0 flipped": "only the component t0 is wrong: there the sign is flipped",
    "without ∂L/∂t0": "only the component t0 is wrong: there yours is zero",
    "with a term of ∂L/∂a dropped": "only the component a is wrong: a term is missing",
    "times 2": "yours = 2 × reference",
    "times 1/2": "yours = 1/2 × reference",
    "times −1": "the sign is flipped",
    "a mean in place of the sum": "a mean in place of a sum over N = 7",
    "a sum in place of the mean": "a sum in place of a mean over N = 50",
    "permuted": "order = [0, 2, 1, 3]",
    "off by 1e-5 in one component": "only the component b is wrong",
}


@pytest.mark.parametrize("mutant", DIAGNOSES)
def test_diagnosis_names_the_mistake(mutant):
    report = check_gradient(loss, POINT, ODE_MUTANTS[mutant], names=NAMES)
    assert DIAGNOSES[mutant] in report.diagnosis[0]


def test_diagnosis_recognises_a_candidate():
    candidates = {name: mutant(POINT) for name, mutant in ODE_MUTANTS.items()}
    for name, mutant in ODE_MUTANTS.items():
        report = check_gradient(loss, POINT, mutant, names=NAMES, candidates=candidates)
        assert report.diagnosis[0].startswith("yours equals (") and report.diagnosis[0].endswith(name)


# --- J for Jᵀ -------------------------------------------------------------------------------------

A = np.array([[-0.3, 1.4], [-0.2, -0.9]])
C = np.array([0.7, -1.1])


def test_jacobian_in_place_of_its_transpose():
    # y(1) = expm(A) y0, L = c·y(1) + ½ |y(1)|²: ∂L/∂y0 = expm(A)ᵀ (c + y(1)).
    propagator, y0 = expm(A), np.array([0.4, 1.3])

    def linear_loss(y0):
        y1 = propagator @ y0
        return C @ y1 + 0.5 * y1 @ y1
    seed = C + propagator @ y0
    assert check_gradient(linear_loss, y0, propagator.T @ seed).verdict == "PASS"
    assert check_gradient(linear_loss, y0, propagator @ seed, names=["y0[0]", "y0[1]"]).verdict == "FAIL"
    assert dot_product_test(lambda v: propagator @ v, lambda w: propagator.T @ w, y0, C).passed
    assert not dot_product_test(lambda v: propagator @ v, lambda w: propagator @ w, y0, C).passed


def test_transposed_layout_and_lost_block_are_named():
    rng = np.random.default_rng(8)
    inputs, shapes = rng.standard_normal(3), {"W": (2, 3), "b": (2,)}

    def layer_loss(theta):
        return np.sum(np.tanh(theta[:6].reshape(2, 3) @ inputs + theta[6:]) ** 2)

    def gradient(theta):
        z = np.tanh(theta[:6].reshape(2, 3) @ inputs + theta[6:])
        return 2 * z * (1 - z**2)
    theta = rng.standard_normal(8)
    bias = gradient(theta)
    weight = np.outer(bias, inputs)
    right = np.concatenate([weight.ravel(), bias])
    assert check_gradient(layer_loss, theta, right, shapes=shapes)
    column_major = check_gradient(layer_loss, theta, np.concatenate([weight.ravel(order="F"), bias]), shapes=shapes)
    assert any("the block W (2, 3) is laid out column by column" in line for line in column_major.diagnosis)
    lost = check_gradient(layer_loss, theta, np.concatenate([weight.ravel(), 0 * bias]), shapes=shapes)
    assert lost.diagnosis[0] == "only the block b is wrong: there yours is zero"
    assert lost.worst.name in ("b[0]", "b[1]")


def test_single_precision_is_named():
    gradient = adjoint_gradient(POINT).astype(np.float32)
    report = check_gradient(loss, POINT, gradient, rtol=1e-10)
    assert report.verdict == "FAIL" and "float32" in report.diagnosis[0]


def test_unknown_mistakes_are_not_named():
    report = check_gradient(loss, POINT, adjoint_gradient(POINT) + [1.0, 0.3, -2.0, 0.4])
    assert report.diagnosis == ["no known mistake explains the difference"]


def test_taylor_rate_misses_what_the_verdict_catches():
    # 6e-5 of error in one component: remainder h² against h·6e-5, with steps no shorter than 2e-3.
    wrong = adjoint_gradient(POINT) * [1, 1, 1 + 6e-5, 1]
    assert taylor_test(loss, POINT, wrong).passed
    report = check_gradient(loss, POINT, wrong)
    assert report.verdict == "FAIL"
    assert {check.method: check.outcome for check in report.checks}["taylor"] == "agree"


# --- right gradients are never flagged -------------------------------------------------------------

PROFILES = ((np.sin, np.cos), (np.tanh, lambda u: 1 / np.cosh(u) ** 2), (lambda u: u**3, lambda u: 3 * u**2),
            (lambda u: np.log1p(u**2), lambda u: 2 * u / (1 + u**2)),
            (lambda u: np.exp(-u**2), lambda u: -2 * u * np.exp(-u**2)))


def random_problem(rng):
    """(f, x, ∇f): f = unit · (offset + Σₖ cₖ φₖ(Wₖ·(x/s))), units from 1e-30 to 1e30, zeros, dead components."""
    n, terms = rng.integers(1, 9), rng.integers(1, 5)
    spread = rng.choice([0, 3, 30])
    s, unit, offset = 10 ** rng.uniform(-spread, spread, n), 10 ** rng.uniform(-10, 10), rng.choice([0, 1, 1e3])
    u = rng.standard_normal(n)
    if spread == 0:
        u[rng.random(n) < 0.15] = 0.0
    W = rng.standard_normal((terms, n)) * 10 ** rng.uniform(-1, 0.5)
    W[:, rng.random(n) < 0.1] = 0.0
    c, profiles = rng.standard_normal(terms), [PROFILES[k] for k in rng.integers(len(PROFILES), size=terms)]

    def fun(x):
        z = W @ (x / s)
        return unit * (offset + sum(ck * value(zk) for ck, zk, (value, _) in zip(c, z, profiles)))
    z = W @ u
    slopes = np.array([ck * slope(zk) for ck, zk, (_, slope) in zip(c, z, profiles)])
    return fun, s * u, unit * (W.T @ slopes) / s


def broken(gradient, x, rng):
    """The gradient with its component of largest effect wrong by a random known mistake."""
    mutant = gradient.copy()
    mutant[np.argmax(np.abs(gradient * np.where(x, x, 1)))] *= rng.choice([-1, 0, 0.5, 2, 1 + 1e-4])
    return mutant


def test_200_right_gradients_are_never_flagged_and_200_wrong_ones_always():
    # INCONCLUSIVE is allowed for components of 1e-20 beside others of 1e20 that fun does not depend on (no step
    # is known to be long enough): 3 % over 2000 problems, hence at most 8 % of 200. In the wrong ones the
    # component that is broken is one that is well determined.
    rng = np.random.default_rng(9)
    right, wrong = Counter(), Counter()
    while wrong.total() < 200:
        fun, x, gradient = random_problem(rng)
        right[check_gradient(fun, x, gradient).verdict] += 1
        if gradient.any():
            wrong[check_gradient(fun, x, broken(gradient, x, rng)).verdict] += 1
    assert right["FAIL"] == right["ERROR"] == 0
    assert right["INCONCLUSIVE"] <= 16
    assert wrong["FAIL"] == 200


@pytest.mark.parametrize("noise", [1e-12, 1e-9, 1e-6, 1e-3])
def test_noise_is_never_blamed_on_the_gradient(noise):
    # An error of 30 · noise · |f| / (|x|/8) and more is left in each slope: at 1e-12 it seldom matters to
    # rtol 1e-6, at 1e-9 often, from 1e-6 on always but by luck.
    rng = np.random.default_rng(10)
    verdicts = Counter()
    for _ in range(30):
        fun, x, gradient = random_problem(rng)
        amplitude = noise * abs(fun(x))
        verdicts[check_gradient(lambda x: fun(x) + amplitude * rng.standard_normal(), x, gradient).verdict] += 1
    assert verdicts["FAIL"] == verdicts["ERROR"] == 0
    assert verdicts["INCONCLUSIVE"] >= {1e-12: 0, 1e-9: 8, 1e-6: 27, 1e-3: 27}[noise]


def test_structure_between_the_steps_is_never_blamed_on_the_gradient():
    # A ripple of slope 1e-5 and length d beside sin: steps above d see it as noise or not at all, steps below as slope.
    verdicts = Counter()
    for d in np.geomspace(1e-4, 1e-1, 150):
        gradient = np.cos(1.0) + 1e-5 * np.cos(1.0 / d)
        report = check_gradient(lambda x: np.sin(x[0]) + 1e-5 * d * np.sin(x[0] / d), [1.0], [gradient])
        verdicts[report.verdict] += 1
    assert verdicts["FAIL"] == verdicts["ERROR"] == 0
    assert verdicts["PASS"] > 50


def adaptive_solve(x, tol):
    """y(1)² by Heun's method with step control, accepting complex x; branches look at real parts only."""
    a, b, y = x
    t, h = 0.0, 0.1
    while t.real < 1 - 1e-14:
        h = h if (t + h).real < 1 else 1 - t
        k1 = -a * y + b * np.sin(y)
        k2 = -a * (y + h * k1) + b * np.sin(y + h * k1)
        error = np.sqrt((h * (k2 - k1) / 2) ** 2) / (tol * (1 + y))
        if error.real <= 1:
            t, y = t + h, y + h * (k1 + k2) / 2
        factor = 0.9 / np.sqrt(error) if error.real > 1e-10 else 5.0 + 0 * error
        h = h * (0.2 if factor.real < 0.2 else 5.0 if factor.real > 5 else factor)
    return y * y


@pytest.mark.parametrize("tol", [1e-3, 1e-5])
def test_adaptive_program_is_never_blamed_on_its_gradient(tol):
    # Yours is the exact derivative of the program, through its step control. The program jumps by up to tol
    # wherever a step is accepted or rejected anew, and finite differences see slopes off by jump/step:
    # uncertain, but never FAIL. A wrong sign, an error of 200 %, is caught all the same.
    rng = np.random.default_rng(11)
    for _ in range(8):
        x = rng.uniform(0.5, 2, 3)
        gradient = complex_step_gradient(lambda x: adaptive_solve(x, tol), x)
        verdict = check_gradient(lambda x: adaptive_solve(x, tol), x, gradient).verdict
        assert verdict in ("PASS", "INCONCLUSIVE")
        assert check_gradient(lambda x: adaptive_solve(x, tol), x, gradient * [1, -1, 1]).verdict == "FAIL"


def test_derivative_of_another_truth_is_named():
    # At tol 1e-3 the program is 1e-4 to 1e-3 away from the exact solution, and so is its derivative.
    x = np.array([1.8, 0.9, 0.7])
    exact = complex_step_gradient(lambda x: adaptive_solve(x, 1e-8), x)
    report = check_gradient(lambda x: adaptive_solve(x, 1e-3), x, exact)
    assert report.verdict == "FAIL"
    assert "derivative of the exact solution" in report.diagnosis[0]
    assert "the program as it runs" in report.reference
