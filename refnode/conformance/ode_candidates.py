"""The gradients that known mistakes give, computed by refnode for the problem at hand.

Each candidate is a vector over (y0, theta); times follow from lambda and are looked at apart. They are made when
asked for, the cheap ones first.
"""
import functools
import warnings
from dataclasses import dataclass

import numpy as np
from scipy.integrate import solve_ivp

from refnode.conformance.problem_functions import OwnField, field_of
from refnode.errors import GradientWarning, RefnodeError
from refnode.evidence.row import flat
from refnode.fields.field import VectorField
from refnode.problems.reference_problem import switches_of
from refnode.sensitivity.gradient import gradient, vjp
from refnode.solve.initial_value import solve

OPTIONS = {"method": "dop853", "rtol": 1e-10, "atol": 1e-12, "tstops": True}
ADJOINT = "interpolating"
SLOW = {"rtol": 1e-9, "atol": 1e-11}      # of fields in plain Python: 1 % of the mismatch is enough, and orbits may part
COMPONENTS = 8                            # more states are not tried one by one,
STATES = 64                               # nor more states at all
OBSERVATIONS = 64                         # nor more observations


@dataclass(frozen=True)
class Candidate:
    """A wrong gradient over (y0, theta), the key of its mistake, and what it is: "the gradient …"."""

    key: str
    what: str
    gradient: np.ndarray


class Suspects:
    """What may be wrong on one problem; everything is made once, when it is first asked for.

    Attributes
    ----------
    problem, reference : Problem, OdeReference
    rhs : dict
        The right-hand side as data.
    """

    def __init__(self, problem, reference, rhs):
        self.problem, self.reference, self.rhs, self._made = problem, reference, rhs, {}

    def candidates(self, explained):
        """Every `Candidate`, in the order in which they are tried; a family that cannot be computed is left out.

        Those that need another solve in plain Python are made only while ``explained()`` is false.
        """
        for family in CHEAP + DEAR:
            if family in DEAR and explained():
                return
            if family in SMOOTH and "pieces" in self.rhs:
                continue
            if family not in self._made:
                self._made[family] = self._family(family)
            yield from self._made[family]

    def _family(self, family):
        problem, found = self.problem, []
        right, n = self.reference.gradient[:problem.y0.size + problem.theta.size], problem.y0.size
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GradientWarning)
            try:
                found += family(problem, self.reference, right, n, self.rhs)
            except (RefnodeError, ArithmeticError):
                pass
        return found

    @functools.cached_property
    def tangent_is_unresolved(self):
        """Whether steps chosen by the state alone do not resolve the tangent."""
        return "pieces" not in self.rhs and _warns(self.problem, "discrete", check_tangent=True)

    @functools.cached_property
    def backsolve_drifts(self):
        """Whether y cannot be solved backwards."""
        return "pieces" not in self.rhs and _warns(self.problem, "backsolve_plain")

    @functools.cached_property
    def is_linear(self):
        """Whether df/dy does not depend on y: lambda is then right however y is read."""
        problem, n, p = self.problem, self.problem.y0.size, self.problem.theta.size
        w = np.linspace(1.0, 2.0, n)
        pieces = field_of({"rhs": self.rhs}, n, p) if "pieces" in self.rhs else [OwnField(problem.field, n, p)]
        slopes = [[piece.pull(problem.t0, at, problem.theta, w)[0] for at in (problem.y0, 1.25 * problem.y0 + 0.125)]
                  for piece in pieces]
        return all(np.allclose(*both, rtol=1e-12, atol=0.0) for both in slopes)


# --- multiples and orders of the right gradient ------------------------------------------------------

def multiples(problem, reference, right, n, rhs):
    """Zero, the sign, factors; of all and of a block."""
    yield Candidate("zero_gradient", "zero: nothing was differentiated", 0.0 * right)
    for part, members in (("", slice(0, None)), (" of y0", slice(0, n)), (" of theta", slice(n, None))):
        whole = part == ""
        if not right[members].size or (not whole and right[members].size == right.size):
            continue
        for key, factor, what in (("sign", -1.0, "with the opposite sign"), ("factor_two", 2.0, "times 2"),
                                  ("factor_half", 0.5, "times 1/2")):
            wrong = right.copy()
            wrong[members] *= factor
            yield Candidate(key, what + (part and f" in the block{part}"), wrong)
    if right[n:].size:
        yield Candidate("parameter_captured", "with zero for theta, which was never differentiated",
                        np.append(right[:n], np.zeros(right.size - n)))
        if n == 1:
            yield Candidate("component_term_dropped", "WITHOUT what theta does through the only equation",
                            np.append(right[:n], np.zeros(right.size - n)))
    for count in sorted({problem.ts.size * n, problem.ts.size, n} - {1}):
        yield Candidate("mean_for_sum", f"of the mean over {count} terms, where the loss is their sum", right / count)
        yield Candidate("mean_for_sum", f"of the sum over {count} terms, where the loss is their mean", right * count)


def layouts(problem, reference, right, n, rhs):
    """Parameters of a network in another order."""
    if "mlp" not in rhs:
        return
    widths = rhs["mlp"]["layers"]
    rows = [widths[i] + bool(i == 0 and rhs["mlp"].get("time_input")) for i in range(len(widths) - 1)]
    shapes = list(zip(widths[1:], rows))
    if sum(a * b + a for a, b in shapes) != right.size - n:
        return
    parts, start = [], n
    for a, b in shapes:
        parts.append((right[start:start + a * b].reshape(a, b), right[start + a * b:start + a * b + a]))
        start += a * b + a
    columns = [np.concatenate([W.ravel(order="F"), bias]) for W, bias in parts]
    swapped = [np.concatenate([bias, W.ravel()]) for W, bias in parts]
    yield Candidate("permuted_parameters", "with the weights laid out column by column (order F)",
                    np.concatenate([right[:n], *columns]))
    yield Candidate("permuted_parameters", "with every bias before its weights", np.concatenate([right[:n], *swapped]))
    yield Candidate("permuted_parameters", "with all weights before all biases",
                    np.concatenate([right[:n], *[W.ravel() for W, _ in parts], *[bias for _, bias in parts]]))


def permutation(yours, right):
    """order with yours[k] = right[order[k]], found by sorting both."""
    order = np.empty(yours.size, dtype=int)
    order[np.argsort(yours, kind="stable")] = np.argsort(right, kind="stable")
    return order


# --- jumps of lambda ---------------------------------------------------------------------------------

def jumps(problem, reference, right, n, rhs):
    """Observations forgotten, or counted twice."""
    count = problem.ts.size
    if count > OBSERVATIONS or problem.ts_is_t1 and not reference.seeds[0].any():
        return
    parts = [pulled(problem, reference, [k]) for k in range(count)]
    named = [k for k in range(count) if np.any(parts[k])]
    for k in (named[-1:] if named else []):
        yield Candidate("last_jump_missing", f"WITHOUT the jump lambda += dL/dy(t_k) at the last observation, "
                        f"t = {problem.ts[k]:g}", right - parts[k])
        yield Candidate("last_jump_doubled", f"with the jump at the last observation, t = {problem.ts[k]:g}, added TWICE",
                        right + parts[k])
    if len(named) == 1 and count == 1:
        yield Candidate("first_jump_missing", "WITHOUT the jump at the only observation", right - parts[named[0]])
    if len(named) > 1:
        yield Candidate("interior_jumps_missing", "WITHOUT the jumps lambda(t_k) += dL/dy(t_k) at the "
                        f"{len(named) - 1} interior observation times", right - sum(parts[k] for k in named[:-1]))
        yield Candidate("first_jump_missing", f"WITHOUT the jump at the first observation, t = {problem.ts[named[0]]:g}",
                        right - parts[named[0]])
    for k in named[1:-1]:
        yield Candidate("interior_jumps_missing", f"WITHOUT the jump at observation {k}, t = {problem.ts[k]:g}",
                        right - parts[k])


def pulled(problem, reference, observations):
    """What some observations contribute to the gradient over (y0, theta)."""
    ys_bar = np.zeros_like(reference.seeds[0])
    ys_bar[:, observations] = reference.seeds[0][:, observations]
    return flat(vjp(problem, ys_bar, sensitivity=ADJOINT, **options_of(problem)))[:problem.y0.size + problem.theta.size]



def cost(problem, reference, right, n, rhs):
    """The loss without its running part, and without its terminal part."""
    ys_bar, y1_bar = reference.seeds
    if problem.loss.running is not None:
        seen = flat(vjp(problem, ys_bar, y1_bar, sensitivity=ADJOINT, **options_of(problem)))[:right.size]
        yield Candidate("running_cost_missing", "WITHOUT the running cost", seen)
    if y1_bar.any() and (ys_bar.any() or problem.loss.running is not None):
        end = flat(vjp(problem, None, y1_bar, sensitivity=ADJOINT, **options_of(problem)))[:right.size]
        yield Candidate("last_jump_missing", "WITHOUT the terminal cost at t1", right - end)


# --- other equations -----------------------------------------------------------------------------------

def switches(problem, reference, right, n, rhs):
    """Every mistake on a problem with a switch, by the SciPy adjoint: such fields have no derivatives in refnode."""
    if "pieces" in rhs:
        from refnode.conformance.wrong_adjoints import adjoint_answer    # late: it is only needed here
        data = {"rhs": rhs, "t0": problem.t0, "t1": problem.t1, "y0": problem.y0, "theta": problem.theta, "sha256": "",
                "ts": None if problem.ts_is_t1 else problem.ts, "loss": {"kind": "object", "loss": problem.loss}}
        solved = {}
        for key, what, left_out in [*ignored_switches(switches_of(rhs)), *((*item, ()) for item in AT_SWITCHES.items())]:
            if key == "transposed_jacobian" and n == 1:
                continue
            found = adjoint_answer(data, OPTIONS["rtol"], OPTIONS["atol"] * unit_of(problem), key, solved, left_out)["grad"]
            yield Candidate(key, what, np.concatenate([found["y0"], found["theta"]]))


def ignored_switches(switches):
    """(key, what the gradient is, numbers left out) of adjoints that forget the jump at all switches, at one, or at all but the first."""
    count = len(switches)
    for kind, key in (("time", "switch_time_ignored"), ("state", "state_switch_ignored")):
        if any(kind in switch for switch in switches):
            passed = "the switch" if count == 1 else f"every switch by the {kind}"
            yield key, f"that passes {passed} as if nothing happened there: no jump of lambda", ()
    if count > 1:
        for k in range(count):
            yield "one_switch_ignored", f"WITHOUT the jump of lambda at switch {k + 1} of {count}", (k,)
    if count > 2:
        yield "one_switch_ignored", f"that sees the first of {count} switches alone", tuple(range(1, count))


def stopped(problem, reference, right, n, rhs):
    """A backward solve that stops at the first observation."""
    first = problem.ts[0]
    if first == problem.t0:
        return
    if first == problem.t1:
        yield Candidate("stops_at_first_observation", "of a backward solve that stops at the first observation, "
                        "where it begins", np.append(reference.seeds[0].sum(axis=1) + reference.seeds[1],
                                                     np.zeros(right.size - n)))
        return
    rest = problem.replace(y0=reference.y[:, 0], t0=first)
    found = flat(gradient(rest, ADJOINT, **options_of(problem)))[:right.size]
    what = f"of a backward solve that stops at the first observation, t = {first:g}, and never reaches t0"
    yield Candidate("stops_at_first_observation", what, found)
    yield Candidate("stops_at_first_observation", what,
                    found - np.append(reference.seeds[0][:, 0], np.zeros(right.size - n)))


def transposed(problem, reference, right, n, rhs):
    """J in place of its transpose."""
    if 1 < n <= STATES:
        lam, theta_bar = adjoint_with(problem, reference, lambda J, lam: J @ lam, lambda J, lam: J.T @ lam)
        yield Candidate("transposed_jacobian", "with df/dy where its transpose belongs, lambda' = -(df/dy) lambda",
                        np.append(lam[:n, 0], theta_bar[:, 0]))


def dropped(problem, reference, right, n, rhs):
    """One row of f forgotten: in the parameter integral (of the right lambda), or in the equation of lambda."""
    if not 1 < n <= COMPONENTS:
        return
    kept, names = 1.0 - np.eye(n), problem.field.state_names or [f"y[{i}]" for i in range(n)]
    lam, theta_bar = adjoint_with(problem, reference, lambda J, lam: J.T @ lam, lambda J, lam: J.T @ (lam * kept), n)
    for i in range(n):
        yield Candidate("component_term_dropped", f"WITHOUT what theta does through the equation of {names[i]}",
                        np.append(lam[:n, i], theta_bar[:, i]))
    lam, theta_bar = adjoint_with(problem, reference, lambda J, lam: J.T @ (lam * kept), lambda J, lam: J.T @ lam, n)
    for i in range(n):
        yield Candidate("component_term_dropped", f"WITHOUT the equation of {names[i]} in (df/dy)^T lambda",
                        np.append(lam[:n, i], theta_bar[:, i]))


def adjoint_with(problem, reference, state_rate, parameter_rate, columns=1):
    """lambda(t0) (n, columns) and the parameter integral (p, columns) of another adjoint equation, by SciPy.

    -lambda' = state_rate(df/dy, lambda), and the integrand parameter_rate(df/dtheta, lambda), along refnode's y(t).
    """
    n, p, field = problem.y0.size, problem.theta.size, OwnField(problem.field, problem.y0.size, problem.theta.size)
    path, running = solve(problem, dense_output=True, method=OPTIONS["method"], tstops=True, rtol=SLOW["rtol"],
                          atol=SLOW["atol"] * unit_of(problem)).sol, problem.loss.running
    ys_bar, y1_bar = reference.seeds
    lam, theta_bar = np.repeat(y1_bar[:, None], columns, axis=1), np.zeros((p, columns))
    unit = max(np.max(np.abs(ys_bar), initial=0.0), np.max(np.abs(y1_bar), initial=0.0)) or 1.0

    def rate(t, x):
        y, x = path(t), x.reshape(n + p, columns)
        rows = [field.pull(t, y, problem.theta, e) for e in np.eye(n)]
        J, P = np.array([row for row, _ in rows]), np.array([row for _, row in rows])
        rates = np.vstack([state_rate(J, x[:n]), parameter_rate(P, x[:n])])
        if running is not None:
            cost = np.zeros(1), np.zeros(n), np.zeros(p)
            running.g_vjp(t, y, problem.theta, 1.0, *cost)
            rates += np.concatenate(cost[1:])[:, None]
        return -rates.ravel()

    knots = np.unique(np.concatenate([problem.ts, [problem.t0, problem.t1]]))
    knots = knots[::-1] if problem.t1 >= problem.t0 else knots
    for b, a in zip(knots, [*knots[1:], None]):
        lam = lam + ys_bar[:, problem.ts == b].sum(axis=1)[:, None]
        if a is not None:
            x = solve_ivp(rate, (b, a), np.vstack([lam, theta_bar]).ravel(), method="DOP853", rtol=SLOW["rtol"],
                          atol=SLOW["atol"] * unit)
            if not x.success:
                raise ArithmeticError(x.message)
            lam, theta_bar = np.split(x.y[:, -1].reshape(n + p, columns), [n])
    return lam, theta_bar


def single_times(problem, reference, right, n, rhs):
    """Times rounded to float32 inside the right-hand side."""
    if max(abs(problem.t0), abs(problem.t1)) < 1024.0:
        return
    field = problem.field
    rounded = VectorField(lambda t, y, theta: field(float(np.float32(t)), y, theta),
                          vjp=lambda t, y, theta, w: _vjp(field, float(np.float32(t)), y, theta, w), name="single_times")
    found = gradient(problem.replace(field=rounded), ADJOINT, **{**options_of(problem), "rtol": 1e-9})     # the rounding makes kinks
    yield Candidate("time_cast_to_single", "with the time rounded to float32 inside the right-hand side",
                    flat(found)[:right.size])


CHEAP = (multiples, layouts, jumps, cost, switches, stopped)
DEAR = (dropped, transposed, single_times)
SMOOTH = (jumps, cost, stopped, *DEAR)      # those that need the derivatives of f, and that f has no switch
AT_SWITCHES = {
    "interior_jumps_missing": "WITHOUT the jumps at the interior observation times",
    "last_jump_missing": "WITHOUT the jump at the last observation", "last_jump_doubled": "with the last jump added TWICE",
    "first_jump_missing": "WITHOUT the jump at the first observation",
    "stops_at_first_observation": "of a backward solve that stops at the first observation",
    "transposed_jacobian": "with df/dy where its transpose belongs",
    "component_term_dropped": "WITHOUT what theta does through the last equation"}


def unit_of(problem):
    """The smallest state there is at the start, if it is below 1: absolute tolerances count in it."""
    return min(1.0, float(np.min(np.abs(problem.y0[problem.y0 != 0]), initial=1.0)))


def options_of(problem):
    """Of a tight solve and adjoint, for states of any size; those of an adjoint count in units of its cotangents as it is."""
    return {**OPTIONS, "atol": OPTIONS["atol"] * unit_of(problem), "adjoint_atol": OPTIONS["atol"]}


def _vjp(field, t, y, theta, w):
    tape, t_bar, y_bar, theta_bar = field.new_tape(1)[0], np.zeros(1), np.zeros(y.size), np.zeros(theta.size)
    y, theta, w = (np.ascontiguousarray(v, dtype=float) for v in (y, theta, w))
    field.f(t, y, theta, tape, np.empty(y.size))
    field.vjp(t, y, theta, tape, w, t_bar, y_bar, theta_bar)
    return t_bar[0], y_bar, theta_bar


# --- what refnode finds difficult in the problem -------------------------------------------------------

def _warns(problem, recipe, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error", GradientWarning)
        try:
            gradient(problem, recipe, method="dopri5", rtol=1e-7, atol=1e-9 * unit_of(problem), max_steps=20_000, **options)
        except (GradientWarning, RefnodeError):
            return True
    return False


def resting_states(problem):
    """The part of the states that do not move at t0."""
    return float(np.mean(problem.field(problem.t0, problem.y0, problem.theta) == 0.0))


