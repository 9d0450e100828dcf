"""Checkpointing: schedules against brute force, the bits of `discrete`, steps counted, bytes measured."""
import functools
import math

import numpy as np
import pytest

import gradients
from gradients import ADAPTIVE, METHODS, flat, python_field, random_seeds
from refnode import losses
from refnode.errors import InvalidInputError
from refnode.fields.field import VectorField
from refnode.fields.neural import mlp_field
from refnode.host_device import python_form
from refnode.problems.catalogue import CATALOGUE
from refnode.problems.problem import Problem
from refnode.sensitivity import checkpoint_schedule, checkpointing
from refnode.sensitivity.checkpoint_schedule import (
    ADVANCE, CHOOSE, END, FIRST, LISTED, NOW, ONLINE, PEAK, PHASE, PULL, RECOMPUTED, RECORD, TOP, binomial_split,
    choose, first_checkpoints, kept_row, new_plan, pulled, recomputed_steps, repetitions, stepped)
from refnode.sensitivity.checkpointing import uniform_plan
from refnode.sensitivity.gradient import gradient, vjp
from refnode.solve import run
from refnode.solve.equal_steps import equal_steps, given_time, is_rule, step_window
from refnode.solve.options import SolveOptions

BIT_IDENTICAL = ["checkpointed", "online", "sqrt"]


def same_bits(found, expected):
    np.testing.assert_array_equal(flat(found), flat(expected))


# --- schedules, without a solver ------------------------------------------------------------------

@functools.lru_cache(maxsize=None)
def least(steps, slots):
    """t(l, c) by trying every split."""
    if steps <= 1:
        return 0
    if slots == 1:
        return steps * (steps - 1) // 2
    return min(m + least(steps - m, slots - 1) + least(m, slots) for m in range(1, steps))


def dry_run(steps, rule, slots, placed, leaf=1):
    """How often every step is taken again, and the most states held, by the drivers' own rules.

    The states are their numbers, so that a wrong checkpoint shows; the steps must come out last first.
    """
    plan, (places, levels, rows) = new_plan(rule, slots, placed, leaf)
    held, taken, pulled_back, now = {0: 0}, np.zeros(steps, dtype=int), [], None
    for i in range(1, steps):
        plan[NOW] = i
        row = kept_row(plan, places, levels, rows)
        if row >= 0:
            held[int(row)] = i
    plan[END], plan[NOW], plan[PHASE] = steps, -1, CHOOSE
    if leaf == 1:
        plan[PHASE], plan[FIRST] = PULL, steps - 1
    while plan[END] > 0:
        if plan[PHASE] == CHOOSE:
            choose(plan, places)
            if plan[NOW] != places[plan[TOP]]:
                plan[NOW] = places[plan[TOP]]
                now = held[int(rows[plan[TOP]])]
                assert now == plan[NOW]
        elif plan[PHASE] in (ADVANCE, RECORD):
            taken[now] += 1
            now += 1
            if stepped(plan, places):
                held[int(rows[plan[TOP]])] = now
        else:
            pulled_back.append(int(plan[END]) - 1)
            pulled(plan, places)
    assert pulled_back == list(range(steps))[::-1] and taken.sum() == plan[RECOMPUTED] and len(held) <= slots
    return taken, int(plan[PEAK])


def test_binomial_formula_equals_brute_force():
    for slots in range(1, 9):
        for steps in range(1, 61):
            assert recomputed_steps(steps, slots) == least(steps, slots), (steps, slots)


def test_binomial_split_is_optimal():
    for slots in range(2, 9):
        for steps in range(2, 61):
            m = int(binomial_split(steps, slots))
            assert 0 < m < steps
            assert m + least(steps - m, slots - 1) + least(m, slots) == least(steps, slots), (steps, slots)


def test_binomial_split_of_large_numbers_is_exact():
    """Against Python's integers, where the binomials are far beyond 2^53 / slots."""
    for steps, slots in [(10**9, 100), (10**9, 3), (10**12, 1000), (5151, 100), (5152, 100), (10**6, 10**6)]:
        r = repetitions(steps, slots)
        expected = min(math.comb(slots + r - 1, slots), steps - math.comb(slots + r - 2, slots - 1))
        assert binomial_split(steps, slots) == expected


@pytest.mark.parametrize("slots", [1, 2, 3, 8])
def test_schedule_takes_the_least_number_of_steps(slots):
    """With the number of steps known, and with it found out by the first sweep; no step more than r times."""
    for steps in range(1, 61):
        taken, held = dry_run(steps, LISTED, min(slots, steps), first_checkpoints(steps, min(slots, steps)))
        assert taken.sum() == least(steps, slots) and held <= slots
        assert taken.max() <= repetitions(steps, slots)
        taken, held = dry_run(steps, LISTED, slots, [0])
        assert taken.sum() == steps - 1 + least(steps - 1, slots) and held <= slots


@pytest.mark.parametrize("slots", [1, 2, 3, 5, 20])
def test_online_takes_no_step_more_often_than_the_optimum(slots):
    """Wang, Moin & Iaccarino: at most r(N, c) times, whatever N; measured: at most 1.31 t(N, c) in all."""
    for steps in [*range(1, 80), 150, 300]:
        taken, held = dry_run(steps, ONLINE, slots, [0])
        assert taken.max() <= repetitions(steps, slots) and held <= slots
        assert recomputed_steps(steps, slots) <= taken.sum() <= 1.31 * recomputed_steps(steps, slots)


def test_online_is_optimal_up_to_one_step_while_two_repetitions_suffice():
    """For N <= C(c + 2, 2). No rule takes fewer than t(N, c) steps again, so another one could save one."""
    excess = [dry_run(steps, ONLINE, slots, [0])[0].sum() - recomputed_steps(steps, slots)
              for slots in range(1, 11) for steps in range(1, math.comb(slots + 2, 2) + 1)]
    assert min(excess) == 0 and max(excess) == 1


def test_uniform_records_every_step_once():
    for steps in range(2, 200):
        taken, held = dry_run(steps, *uniform_plan(None, steps))
        assert np.all(taken == 1) and held == math.ceil(steps / math.ceil(math.sqrt(steps)))


@pytest.mark.parametrize("old, new", [
    ("return min(shorter, length - right)", "return max(1, length // 2)"),
    ("return min(shorter, length - right)", "return shorter"),
    ("right = shorter * slots //", "right = 2 * shorter * slots //")])
def test_another_split_is_caught(old, new, monkeypatch):
    """Bisection instead of binomials, and the two bounds of the split off: not the least number any more."""
    split = gradients.changed_source(checkpoint_schedule, (old, new))["binomial_split"]
    with pytest.raises(AssertionError):
        for slots in range(2, 9):
            for steps in range(2, 61):
                m = split(steps, slots)
                assert 0 < m < steps
                assert m + least(steps - m, slots - 1) + least(m, slots) == least(steps, slots)


# --- the bits of `discrete` -----------------------------------------------------------------------

GIVEN = [{"method": "rk4", "n_steps": 13}, {"method": "dop853", "n_steps": 9}, {"method": "midpoint", "n_steps": 1},
         {"method": "euler", "steps": 4.0 * np.arange(1, 17) / 136.0}]
CHOSEN = [{"method": "dopri5", "rtol": 1e-4}, {"method": "dop853", "rtol": 1e-5},
          {"method": "bosh3", "rtol": 1e-5, "tstops": True}]


@pytest.mark.parametrize("options", GIVEN + CHOSEN, ids=lambda options: options["method"])
@pytest.mark.parametrize("name", ["lotka_volterra", "forced_oscillator"])
def test_same_bits_as_discrete(name, options):
    """y0, theta, t0, t1, ts, with observations inside steps; every budget of checkpoints."""
    problem = CATALOGUE[name]()
    problem = problem.replace(t1=problem.t0 + 4.0, ts=problem.t0 + np.array([0.0, 0.5, 0.5, 1.7, 3.9, 4.0]),
                              loss=losses.sum_of_squares())
    expected = gradient(problem, "discrete", **options)
    for checkpoints in (1, 2, 3, 7, 1000):
        for sensitivity in ("checkpointed", "online"):
            same_bits(gradient(problem, sensitivity, checkpoints=checkpoints, **options), expected)
    same_bits(gradient(problem, "sqrt", **options), expected)


@pytest.mark.slow
@pytest.mark.parametrize("sensitivity", BIT_IDENTICAL)
@pytest.mark.parametrize("name", CATALOGUE)
def test_same_bits_for_every_method(name, sensitivity):
    problem = CATALOGUE[name]()
    own = {} if sensitivity == "sqrt" else {"checkpoints": 4}
    for options in [{"method": method, "n_steps": 24} for method in METHODS] + [
            {"method": method, "rtol": 1e-5, "atol": 1e-8} for method in ADAPTIVE]:
        same_bits(gradient(problem, sensitivity, **own, **options), gradient(problem, "discrete", **options))


@pytest.mark.parametrize("sensitivity", BIT_IDENTICAL)
def test_same_bits_with_a_running_cost_and_backwards(sensitivity):
    def g_vjp(t, y, theta, g_bar, t_bar, y_bar, theta_bar):
        y_bar[0] += 2.0 * y[0] * g_bar
    cost = losses.running_cost(lambda t, y, theta: y[0] ** 2, g_vjp=g_vjp)
    problem = CATALOGUE["forced_oscillator"]()
    problem = problem.replace(t0=problem.t1, t1=problem.t0, ts=problem.ts[::-1], loss=problem.loss + cost)
    options = {"rtol": 1e-5}
    same_bits(gradient(problem, sensitivity, **options), gradient(problem, "discrete", **options))


def mlp_problem(activation="sine"):
    """A field that reads t, whose tape holds it: the last bit of a slope's time counts."""
    field = mlp_field((2, 5, 2), activation, batch=2, time_input=True)
    rng = np.random.default_rng(field.p)
    return Problem(field, rng.uniform(-1.0, 1.0, field.n), 0.5 * rng.standard_normal(field.p), t_span=(0.1, 1.3),
                   ts=[0.25, 0.3125, 0.9, 1.3])


@pytest.mark.parametrize("options", [{"method": "dop853", "n_steps": 7}, {"method": "tsit5", "n_steps": 11},
                                     {"method": "dopri5", "rtol": 1e-7}], ids=lambda options: options["method"])
@pytest.mark.parametrize("sensitivity", BIT_IDENTICAL)
def test_same_bits_with_a_tape(sensitivity, options, monkeypatch):
    """Tapes are filled again; `sqrt` without room for a segment's tape fills it step by step."""
    problem = mlp_problem()
    seeds = random_seeds(problem, np.random.default_rng(0))
    expected = vjp(problem, *seeds, **options)
    own = {} if sensitivity == "sqrt" else {"checkpoints": 3}
    same_bits(vjp(problem, *seeds, sensitivity=sensitivity, **own, **options), expected)
    monkeypatch.setattr(run, "TAPE_BUDGET", 0)
    same_bits(vjp(problem, *seeds, sensitivity=sensitivity, **own, **options), expected)


@pytest.mark.parametrize("sensitivity", BIT_IDENTICAL)
def test_slices_of_one_step_and_a_log_that_grows(sensitivity, monkeypatch):
    problem, options = CATALOGUE["lorenz"](), {"method": "bosh3", "rtol": 1e-6}
    expected = gradient(problem, "discrete", **options)
    monkeypatch.setattr(run, "FIRST_CAPACITY", 2)
    monkeypatch.setattr(run, "next_slice", lambda steps, elapsed: 1)
    problem.field.pace.clear()
    own = {} if sensitivity == "sqrt" else {"checkpoints": 5}
    same_bits(gradient(problem, sensitivity, **own, **options), expected)


@pytest.mark.parametrize("sensitivity", BIT_IDENTICAL)
def test_plain_python_fields(sensitivity):
    problem = CATALOGUE["forced_oscillator"]()
    plain = problem.replace(field=python_field(problem.field))
    same_bits(gradient(plain, sensitivity, n_steps=9), gradient(plain, "discrete", n_steps=9))


def test_the_time_of_the_first_slope_counts(monkeypatch):
    """A step from -0.3 to 0.0123 ends at t + h one bit beside its target, and that is where its last slope is
    computed. The same bits need that time; the target itself, tried here, gives others."""
    def f_vjp(t, y, theta, dy_bar):
        return 0.0, -np.sin(1e6 * t) * theta * np.sin(y) * dy_bar, np.sin(1e6 * t) * np.cos(y) * dy_bar
    field = VectorField(lambda t, y, theta: np.sin(1e6 * t) * theta * np.cos(y), vjp=f_vjp)
    problem = Problem(field, [0.5], [1.0], (-0.3, 0.4), ts=[0.0123, 0.4], loss=losses.sum_of_squares())
    options = {"tstops": True, "first_step": 1.0, "rtol": 1e3, "atol": 1e3}
    t, t_next = gradients.step_times(problem, options)[:2]
    assert t + (t_next - t) != t_next == 0.0123
    expected = gradient(problem, "discrete", **options)
    same_bits(gradient(problem, "checkpointed", checkpoints=1, **options), expected)

    def first_slope(f, times, i, y, theta, tape, slope, plan):
        f(times[i], y, theta, tape, slope)
    twin = python_form(checkpointing.checkpointed_adjoint).__globals__["pull_with_checkpoints"]
    monkeypatch.setitem(twin.__globals__, "first_slope", first_slope)      # un-jitted: nothing wrong is cached
    assert np.any(flat(gradient(problem, "checkpointed", checkpoints=1, **options)) != flat(expected))


# --- steps taken again ----------------------------------------------------------------------------

@pytest.mark.filterwarnings("ignore:a relative error of y0 grows")       # two steps of rk4 for all of Lorenz
@pytest.mark.parametrize("checkpoints", [1, 2, 5, 100])
@pytest.mark.parametrize("n_steps", [1, 2, 37, 500])
def test_number_of_steps_taken_again(n_steps, checkpoints):
    """Given steps: t(N, c). The evaluations: s a step, and one for every checkpoint read."""
    stats = gradient(CATALOGUE["lorenz"](), "checkpointed", method="rk4", n_steps=n_steps,
                     checkpoints=checkpoints).stats
    again = recomputed_steps(n_steps, checkpoints)
    assert stats["n_steps_recomputed"] == again and stats["n_steps_reverse"] == n_steps
    assert 4 * again + 1 <= stats["nfev_recomputed"] <= 4 * again + n_steps


def test_number_of_steps_taken_again_by_adaptive_solves():
    """The first sweep does not know N: checkpointed and sqrt begin with a second one, online need not."""
    problem = CATALOGUE["lorenz"]()
    n = gradient(problem, "discrete").stats["n_steps"]
    again = lambda sensitivity, **own: gradient(problem, sensitivity, **own).stats["n_steps_recomputed"]
    leaf = math.ceil(math.sqrt(n))
    assert again("sqrt") == n + (math.ceil(n / leaf) - 1) * leaf
    for checkpoints in (1, 3, 10):
        assert again("checkpointed", checkpoints=checkpoints) == n - 1 + recomputed_steps(n - 1, checkpoints)
        online = again("online", checkpoints=checkpoints)
        assert online == dry_run(n, ONLINE, checkpoints, [0])[0].sum()
        assert recomputed_steps(n, checkpoints) <= online <= repetitions(n, checkpoints) * n


# --- memory ---------------------------------------------------------------------------------------

def law(recipe, N, c, n, s, e, T):
    """The table of docs/derivations/checkpointing.md, in bytes."""
    L = math.isqrt(N - 1) + 1
    return 8 * {"discrete": n * (N + 1 + N * s + 1 + N * e) + T * (N * s + 2),
                "symplectic": n * (N + 2 + s + 1 + e) + T * (s + 2),
                "sqrt": n * (-(-N // L) + L + 1 + L * s + 1 + e) + T * (L * s + 2),
                "checkpointed": n * (c + 2 + s + 1 + e) + T * (s + 2),
                "online": n * (c + 2 + s + 1 + e) + T * (s + 2)}[recipe]


@pytest.mark.parametrize("method", ["rk4", "dop853"])
@pytest.mark.parametrize("sensitivity", ["discrete", "symplectic", *BIT_IDENTICAL])
def test_bytes_held_are_those_of_the_law(sensitivity, method):
    """Measured on the arrays, with and without a tape; the growth with N is N, sqrt N or none."""
    table = SolveOptions.of(method=method, n_steps=1).tableau
    own = {"checkpoints": 5} if sensitivity in ("checkpointed", "online") else {}
    for problem in (CATALOGUE["lorenz"](), mlp_problem().replace(loss=losses.sum_of_squares())):
        measured = []
        for N in (100, 400, 1600):
            stats = gradient(problem, sensitivity, method=method, n_steps=N, **own).stats
            assert stats["times_bytes"] == (56 if sensitivity in BIT_IDENTICAL else 8 * (N + 1))     # the rule of equal steps
            assert stats["history_bytes"] == law(sensitivity, N, 5, problem.y0.size, table.s, table.extra,
                                                 problem.field.tape_size)
            measured.append(stats["history_bytes"])
        growth = {"discrete": 4.0, "symplectic": 4.0, "sqrt": 2.0}.get(sensitivity, 1.0)
        assert (measured[2] - measured[1]) == pytest.approx(growth * (measured[1] - measured[0]), rel=0.02)


def test_fewer_checkpoints_than_allowed_are_counted_as_used():
    few = gradient(CATALOGUE["logistic"](), "checkpointed", method="rk4", n_steps=4, checkpoints=50).stats
    assert few["history_bytes"] == law("checkpointed", 4, 4, 1, 4, 0, 0)


@pytest.mark.parametrize("t0, t1", [(0.0, 1.0), (0.1, 1.3), (-3.0, 2.0**20 / 3.0), (1.7, -0.4)])
def test_the_rule_of_equal_steps_gives_the_times_of_linspace(t0, t1):
    """To the bit, and the two times of a step beside each other; 49 (1 / 49) instead of t1 = 1 would be seen."""
    for count in (1, 2, 3, 7, 49, 1000):
        rule, times = equal_steps(t0, t1, count), np.linspace(t0, t1, count + 1)
        assert rule.size == 7 and is_rule(rule) and not is_rule(times)
        assert [given_time(rule, i) for i in range(count + 1)] == list(times)
        window = step_window(rule, count - 1)
        assert list(rule[window:window + 2]) == list(times[-2:]) and step_window(times, count - 1) == count - 1
    assert 49 * equal_steps(0.0, 1.0, 49)[2] != 1.0


def test_steps_too_short_for_a_rule_are_written_out():
    """5e-324 / 4 is 0 in floating-point numbers, and `np.linspace` has another formula for it."""
    np.testing.assert_array_equal(equal_steps(0.0, 5e-324, 4), np.linspace(0.0, 5e-324, 5))


# --- what is refused ------------------------------------------------------------------------------

@pytest.mark.parametrize("value", [0, -1, 2.0, True, "3", None, np.nan, [4]])
@pytest.mark.parametrize("sensitivity", ["checkpointed", "online"])
def test_a_budget_that_is_none(sensitivity, value):
    with pytest.raises(InvalidInputError, match="checkpoints must be a positive integer, the number of states"):
        gradient(CATALOGUE["lorenz"](), sensitivity, checkpoints=value)


def test_budgets_that_are_one():
    problem = CATALOGUE["lorenz"]()
    for value in (np.int64(3), 10**15):
        gradient(problem, "checkpointed", checkpoints=value)
        gradient(problem, "online", checkpoints=value)


@pytest.mark.parametrize("sensitivity", ["discrete", "sqrt", "backsolve"])
def test_a_budget_is_no_option_of_others(sensitivity):
    with pytest.raises(InvalidInputError, match=r"checkpoints is not an option.*'checkpointed', 'online'"):
        gradient(CATALOGUE["lorenz"](), sensitivity, checkpoints=3)
