"""Shared by the tests of sensitivities: inputs as one vector, references, wrong programs, one comparison.

The input vector of a problem is (y0, theta, t0, t1, ts). A cotangent of it is what `gradient` and `vjp`
return, in the same order; ``ts`` is left out where the problem observes t1 itself.
"""
import functools
import inspect

import numpy as np
from scipy.integrate import solve_ivp

import cases
from refnode import losses
from refnode.fields.field import VectorField
from refnode.problems.catalogue import CATALOGUE, CLOSED_FORMS
from refnode.sensitivity.gradient import jvp, vjp
from refnode.sensitivity import recipes
from refnode.sensitivity.replay import replay
from refnode.solve.initial_value import solve
from refnode.steppers.tableaus import TABLEAUS

H = cases.COMPLEX_STEP
METHODS = list(TABLEAUS)
ADAPTIVE = [name for name, method in TABLEAUS.items() if method.adaptive]
# The recipes for any method, with steps of its own choice. `reversible` needs given steps of a method with an
# inverse: tests/test_reversible.py asks of it what the others are asked elsewhere.
RECIPES = {name: recipe for name, recipe in recipes.RECIPES.items() if recipe.reversal != "inverted"}
CONTINUOUS = [name for name, recipe in RECIPES.items() if recipe.truth == "exact"]
FROZEN = [name for name, recipe in RECIPES.items() if recipe.truth == "frozen"]

DOT_PRODUCT = 1e-13        # of the sum of the magnitudes of both sides' terms
COMPLEX_STEP = 1e-12       # of each block's largest entry


# --- inputs and cotangents as vectors -------------------------------------------------------------

def flat(cotangents):
    """(y0, theta, t0, t1, ts) of a `Cotangents`."""
    return np.concatenate([cotangents.y0, cotangents.theta, [cotangents.t0, cotangents.t1], cotangents.ts])


def blocks(problem):
    """The slices of y0, theta, (t0, t1) and ts in an input vector."""
    n, p, times = problem.y0.size, problem.theta.size, 0 if problem.ts_is_t1 else problem.ts.size
    ends = np.cumsum([0, n, p, 2, times])
    return [slice(start, end) for start, end in zip(ends[:-1], ends[1:])]


def sizes(problem):
    """What a change of each input is measured in: its own size, or 1; the interval for times."""
    own = np.abs(np.concatenate([problem.y0, problem.theta]))
    duration = abs(problem.t1 - problem.t0) or 1.0
    times = np.full(2 + (0 if problem.ts_is_t1 else problem.ts.size), duration)
    return np.concatenate([np.where(own > 0.0, own, 1.0), times])


def block_error(problem, found, expected):
    """max over blocks of max |found - expected| / max |expected|; NaN counts as infinite."""
    worst = 0.0
    for block in blocks(problem):
        difference = np.max(np.abs(found[block] - expected[block]), initial=0.0)
        scale = np.max(np.abs(expected[block]), initial=0.0)
        ratio = 0.0 if difference == 0.0 else difference / scale if scale > 0.0 else np.inf
        worst = max(worst, np.inf if np.isnan(ratio) else ratio)
    return worst


def weighted_error(problem, found, expected):
    """max_j |x_j| |found_j - expected_j| over max_j |x_j expected_j|: what a relative change of x_j does."""
    weight = sizes(problem)
    return np.max(np.abs(found - expected) * weight) / np.max(np.abs(expected) * weight)


# --- problems -------------------------------------------------------------------------------------

def python_field(field):
    """The same field as plain Python functions, for the un-jitted drivers."""
    f, f_jvp, f_vjp, f_hvp = (cases.python_body(function) for function in (field.f, field.jvp, field.vjp, field.hvp))
    return VectorField(f, f_jvp, f_vjp, f_hvp, name=field.name, n=field.n, p=field.p, tape_size=field.tape_size,
                       tape_header=field.tape_header, hvp_tape_size=field.hvp_tape_size, numpy_form=field.numpy_form)


class Scaled(losses.Loss):
    """factor times another loss."""

    def __init__(self, loss, factor):
        self.loss, self.factor = loss, factor

    def value(self, ys, y1):
        return self.factor * self.loss.value(ys, y1)

    def vjp(self, ys, y1):
        return tuple(self.factor * bar for bar in self.loss.vjp(ys, y1))


def random_seeds(problem, rng):
    """Cotangents of y(ts) and y(t1), in units of the states' sizes, so that every state weighs alike."""
    size = np.abs(solve(problem, rtol=1e-6, atol=1e-12).y).max(axis=1)
    return rng.standard_normal((problem.ts.size, size.size)).T / size[:, None], \
        rng.standard_normal(size.size) / size


# --- the frozen-step truth ------------------------------------------------------------------------

def step_times(problem, options):
    """The times of the steps a solve with these options takes."""
    return solve(problem.replace(loss=None), dense_output=True, **options).t_steps


def replayed(problem, times, method, x):
    """`replay` at an input vector."""
    y0, theta, (t0, t1), ts = (x[block] for block in blocks(problem))
    moved = {} if problem.ts_is_t1 else {"ts": ts}
    return replay(problem, times, method, y0=y0, theta=theta, t0=t0, t1=t1, **moved)


def inputs(problem):
    """The input vector of a problem."""
    ts = [] if problem.ts_is_t1 else problem.ts
    return np.concatenate([problem.y0, problem.theta, [problem.t0, problem.t1], ts])


def complex_step_tangents(problem, times, method):
    """[(ys_tan, y1_tan) for each input], by complex steps through the replay of frozen steps."""
    x = inputs(problem).astype(complex)
    tangents = []
    for j in range(x.size):
        x[j] += 1j * H
        tangents.append([out.imag / H for out in replayed(problem, times, method, x)])
        x[j] = x[j].real
    return tangents


def frozen_gradient(problem, times, method, ys_bar, y1_bar):
    """The cotangent of all inputs, by complex steps through frozen steps."""
    return np.array([np.sum(ys_bar * ys_tan) + np.sum(y1_bar * y1_tan)
                     for ys_tan, y1_tan in complex_step_tangents(problem, times, method)])


def complex_step_error(problem, seeds, **options):
    """How far the discrete adjoint is from complex steps through its own frozen steps, by `block_error`."""
    method = options.get("method", "dopri5")
    found = flat(vjp(problem, *seeds, sensitivity="discrete", **options))
    return block_error(problem, found, frozen_gradient(problem, step_times(problem, options), method, *seeds))


def dot_product_error(problem, rng, reverse="discrete", forward="discrete_forward", **options):
    """|<ys_bar, J x_tan> - <J^T ys_bar, x_tan>| over the sum of the magnitudes of all terms.

    x_tan is a random tangent of all inputs, each in units of its own size.
    """
    ys_bar, _ = random_seeds(problem, rng)
    x_tan = rng.standard_normal(inputs(problem).size) * sizes(problem)
    y0_tan, theta_tan, (t0_tan, t1_tan), ts_tan = (x_tan[block] for block in blocks(problem))
    moved = {} if problem.ts_is_t1 else {"ts_tan": ts_tan}
    ys_tan = jvp(problem, y0_tan, theta_tan, t0_tan, t1_tan, sensitivity=forward, **moved, **options)
    x_bar = flat(vjp(problem, ys_bar, sensitivity=reverse, **options))
    left, right = ys_bar * ys_tan, x_bar * x_tan
    return abs(left.sum() - right.sum()) / (np.abs(left).sum() + np.abs(right).sum())


# --- the exact truth ------------------------------------------------------------------------------

def exact_tangents(problem):
    """y and its tangents at t0, ts, t1, shape (K + 2, 1 + n + p, n) of the flow, by SciPy's DOP853 at 1e-13."""
    field, y0, theta = problem.flow_field, problem.flow_y0, problem.theta
    n, p = y0.size, theta.size
    tape, directions = field.new_tape(1)[0], np.eye(n + p)

    def rhs(t, state):
        state = state.reshape(1 + n + p, n)
        rate = np.empty_like(state)
        field.f(t, state[0], theta, tape, rate[0])
        for k in range(n + p):
            field.jvp(t, state[0], theta, 0.0, state[1 + k], directions[k, n:], tape, rate[1 + k])
        return rate.ravel()

    states = [np.vstack([y0, np.eye(n), np.zeros((p, n))])]
    for start, end in zip([problem.t0, *problem.ts], [*problem.ts, problem.t1]):
        if start == end:
            states.append(states[-1])
            continue
        result = solve_ivp(rhs, (start, end), states[-1].ravel(), method="DOP853", rtol=1e-13, atol=1e-20)
        assert result.success
        states.append(result.y[:, -1].reshape(1 + n + p, n))
    return np.array(states)


def exact_gradient(problem):
    """The gradient of a problem's loss from `exact_tangents`: accurate to some 1e-12 of its largest entry."""
    n, flow_n = problem.y0.size, problem.flow_y0.size
    states = exact_tangents(problem)
    ys, y1 = states[1:-1, 0, :n].T, states[-1, 0, :n]
    ys_bar, y1_bar = problem.loss.vjp(ys, y1)
    bars = np.zeros((len(states), flow_n))
    bars[1:-1, :n], bars[-1, :n], bars[-1, n:] = ys_bar.T, y1_bar, 1.0
    slopes = [problem.flow_field(t, state[0], problem.theta)
              for t, state in zip([problem.t0, *problem.ts, problem.t1], states)]
    gradient = np.einsum("kn,kmn->m", bars, states[:, 1:])
    times = np.einsum("kn,kn->k", bars, slopes)
    t0, t1, ts = -gradient[:flow_n] @ slopes[0], times[-1], times[1:-1]
    if problem.ts_is_t1:
        t1, ts = t1 + ts[0], []
    return np.concatenate([gradient[:n], gradient[flow_n:], [t0, t1], ts])


def closed_form_gradient(problem, solution):
    """The gradient of a loss of the observations by complex steps through the closed-form solution."""
    x = inputs(problem).astype(complex)
    ys = observed(problem, solution, x).real
    ys_bar, y1_bar = problem.loss.vjp(ys[:, :-1], ys[:, -1])
    bars, gradient = np.column_stack([ys_bar, y1_bar]), []
    for j in range(x.size):
        x[j] += 1j * H
        gradient.append(np.sum(bars * observed(problem, solution, x).imag) / H)
        x[j] = x[j].real
    return np.array(gradient)


def observed(problem, solution, x):
    """y(ts) and y(t1) of the closed form, shape (n, K + 1)."""
    y0, theta, (t0, t1), ts = (x[block] for block in blocks(problem))
    times = [t1, t1] if problem.ts_is_t1 else [*ts, t1]
    return np.array([solution(y0, theta, t0, t) for t in times]).T


@functools.lru_cache(maxsize=None)
def exact(name):
    """The exact gradient of a catalogue problem: from its closed form where it has one."""
    problem = CATALOGUE[name]()
    if name in CLOSED_FORMS:
        return closed_form_gradient(problem, CLOSED_FORMS[name])
    return exact_gradient(problem)


def slope(tolerances, errors):
    """The exponent q of error ~ tolerance^q, by least squares."""
    return np.polyfit(np.log10(tolerances), np.log10(errors), 1)[0]


# --- wrong programs -------------------------------------------------------------------------------

def changed_source(module, *replacements):
    """The namespace of a module whose source was changed, un-jitted. Nothing of it reaches a cache."""
    source = inspect.getsource(module).replace("@higher_order", "").replace("@host_device", "")
    for old, new in replacements:
        assert source.count(old) == 1, f"{source.count(old)} places read {old!r}"
        source = source.replace(old, new)
    namespace = {"__name__": "mutant"}
    exec(compile(source, "<mutant>", "exec"), namespace)
    return namespace


def assert_exact_steps(problem, method, n_steps=24, seed=0):
    """A reversible method: tangent, transpose of stored states and of undone ones, and complex steps of the same program."""
    rng = np.random.default_rng(seed)
    options = {"method": method, "n_steps": n_steps}
    seeds = random_seeds(problem, rng)
    expected = frozen_gradient(problem, np.linspace(problem.t0, problem.t1, n_steps + 1), method, *seeds)
    for sensitivity in ("discrete", "reversible"):
        found = vjp(problem, *seeds, sensitivity=sensitivity, **options)
        drift = found.stats.get("drift_ulp", 0.0)
        assert dot_product_error(problem, rng, reverse=sensitivity, **options) <= DOT_PRODUCT * (1 + drift)
        assert block_error(problem, flat(found), expected) <= COMPLEX_STEP * (1 + drift)
