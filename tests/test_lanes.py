"""Samples side by side: bit for bit what they are one after another, whatever happens to one of them; and that they do go side by side."""
import ast
import inspect
import re
import sys
import textwrap
import types

import numpy as np
import pytest
from numba import config, njit, typeof

from batches import BATCHES, LV, assert_same_samples, explosive
from gradients import python_field
from refnode import Batch, VectorField, gradient_batch, losses, solve, solve_batch
from refnode.errors import IntegrationError
from refnode.host_device import INTEGER, OPTIONS, higher_order, python_form
from refnode.linked_bodies import DISJOINT
from refnode.sensitivity import lanes_adjoint
from refnode.sensitivity.lanes_adjoint import PULL_LANES
from refnode.solve import lanes, written_out_lanes
from refnode.solve.integrate import H, STEPS, T, T_END, Method, Tolerance
from refnode.solve.lane_control import NONE, aim_lanes, factor_lanes, settle_lanes, watch_lanes
from refnode.solve.lanes import INTEGRATE_LANES, LaneSamples, fit_into_lanes
from refnode.solve.options import SolveOptions
from refnode.solve.trial_steps import REJECTIONS, T_NEXT, aim_trial, judge_error
from refnode.solve.written_out_lanes import LANES, function_of, row_width, step_source, step_vjp_source
from refnode.steppers.tableaus import TABLEAUS

RNG = np.random.default_rng(5)
needs_compiler = pytest.mark.skipif(bool(config.DISABLE_JIT), reason="nothing is compiled in")
quiet = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def many(count=37):
    """More samples than lanes, of very different lengths; some end at once, go backwards or are observed at their ends."""
    rng = np.random.default_rng(count)
    spans = np.column_stack([rng.choice([0.0, 1.0], count), rng.uniform(-2.0, 8.0, count)])
    spans[3] = 1.0, 1.0
    ends = lambda span: (span[:rng.integers(0, 2)], span[2 - rng.integers(0, 2):])
    times = [np.sort(np.concatenate([*ends(span), rng.uniform(*np.sort(span), rng.integers(0, 5))])) for span in spans]
    times = [row if span[1] >= span[0] else row[::-1] for row, span in zip(times, spans)]
    return Batch(LV, rng.uniform(0.5, 2.0, (count, 2)), rng.uniform(0.5, 2.0, (count, 4)), spans, times, losses.sum_of_squares())


@pytest.fixture
def one_by_one(monkeypatch):
    """Calls a function with samples kept from going side by side; what is found must have gone so without it."""
    runs = []
    side_by_side = LaneSamples.run_forward
    monkeypatch.setattr(LaneSamples, "run_forward", lambda self, *part: runs.append(part) or side_by_side(self, *part))

    def call(function):
        assert runs
        with monkeypatch.context() as context:
            context.setattr(lanes, "fit_into_lanes", lambda *_: False)
            runs.clear()
            found = function()
            assert not runs
        return found
    return call


def assert_same(found, expected):
    assert_same_samples(found, expected, range(len(expected.loss)))
    np.testing.assert_array_equal(found.theta, expected.theta)
    np.testing.assert_array_equal(found.status, expected.status)


# --- the same bits --------------------------------------------------------------------------------

OPTIONS_OF = {
    "dopri5": {}, "PI": {"controller": "PI", "first_step": 2.0}, "PID, tstops": {"controller": "PID", "tstops": True, "rtol": 1e-4},
    "max_step": {"max_step": 0.125}, "loose": {"rtol": 0.5, "atol": 0.5}, "given": {"n_steps": 7},
}


@needs_compiler
@pytest.mark.parametrize("name", OPTIONS_OF)
def test_a_gradient_has_the_bits_of_samples_one_by_one(name, one_by_one):
    batch, options = many(), {**OPTIONS_OF[name], "specialize": True, "on_failure": "skip"}
    found = gradient_batch(batch, **options)
    assert_same(found, one_by_one(lambda: gradient_batch(batch, **options)))


@needs_compiler
@pytest.mark.parametrize("name, method", [("predators", "dopri5"), ("oscillators", "bosh3"), ("with_cost", "tsit5"), ("oscillators", "rk4")])
def test_other_fields_and_methods(name, method, one_by_one):
    """Shared parameters, a field that depends on time, a running cost, a method without error control."""
    options = {"method": method, "specialize": True, **({"n_steps": 9} if method == "rk4" else {})}
    found = gradient_batch(BATCHES[name], **options)
    assert_same(found, one_by_one(lambda: gradient_batch(BATCHES[name], **options)))


@needs_compiler
@quiet
def test_samples_that_fail_do_not_disturb_the_others(one_by_one):
    """A pole, an overflow at the start, and too many steps, between samples that end well."""
    batch = explosive([0.5, 2.0, 0.1, 1e200, 0.3, 3.0, -1.0, 1e-3, 0.9, 0.2, 1.5, -2.0])
    options = {"specialize": True, "on_failure": "skip", "max_steps": 60}
    found = gradient_batch(batch, **options)
    assert len(set(found.status)) >= 3
    assert_same(found, one_by_one(lambda: gradient_batch(batch, **options)))
    with pytest.raises(IntegrationError) as raised:
        gradient_batch(batch, specialize=True, max_steps=60)
    with pytest.raises(IntegrationError) as expected:
        one_by_one(lambda: gradient_batch(batch, specialize=True, max_steps=60))
    assert str(raised.value) == str(expected.value)


@needs_compiler
def test_a_solution_has_the_bits_of_samples_one_by_one(one_by_one):
    batch = many()
    found = solve_batch(batch, specialize=True)
    expected = one_by_one(lambda: solve_batch(batch, specialize=True))
    for name in ("y1", "status", "nfev", "n_steps", "n_rejected"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    for i in range(len(batch)):
        np.testing.assert_array_equal(found.y[i], expected.y[i])


@needs_compiler
def test_the_log_may_be_short(monkeypatch):
    """It grows in the middle of samples, and is filled again and again."""
    batch = many()
    expected = gradient_batch(batch, specialize=True)
    for rows in (1, 9, 40):
        monkeypatch.setattr(LaneSamples, "_first_capacity", lambda self: rows)
        assert_same(gradient_batch(batch, specialize=True), expected)


@needs_compiler
@pytest.mark.parametrize("count", [2, 3])
def test_threads(count):
    batch = many(61)
    assert_same(gradient_batch(batch, specialize=True, threads=count), gradient_batch(batch, specialize=True))


@needs_compiler
@pytest.mark.parametrize("count", [1, 7, 8, 9])
def test_any_number_of_samples(count, one_by_one):
    batch = many(20).take(range(count))
    found = gradient_batch(batch, specialize=True)
    assert_same(found, one_by_one(lambda: gradient_batch(batch, specialize=True)))


@njit
def overflows(t, y, theta, dy):
    dy[0] = theta[0]


@njit
def overflows_vjp(t, y, theta, dy_bar, t_bar, y_bar, theta_bar):
    theta_bar[0] += dy_bar[0]


@needs_compiler
@quiet
@pytest.mark.parametrize("options", [{}, {"method": "dop853"}, {"specialize": True}, {"specialize": True, "method": "dop853"}], ids=str)
def test_a_state_that_overflows_is_not_accepted(options):
    """Its error weight is infinite where its slopes are not, which would make any error 0."""
    field = VectorField(overflows, vjp=overflows_vjp, name="overflows")
    batch = Batch(field, [[0.0], [0.0]], [[1e308], [1.0]], (0.0, 3.0), [3.0], losses.terminal(np.sum, np.ones_like))
    found = solve_batch(batch, **options)
    assert list(found.status) == [-3, 0] and np.isfinite(found.y1).all()
    assert solve(batch[0], **options).status == -3
    unweighted = solve(batch[1], atol=np.inf, **options)                        # which is how a component is left out
    assert unweighted.status == 0 and unweighted.y1[0] == pytest.approx(3.0, rel=1e-12)


# --- what a user's functions raise ----------------------------------------------------------------

@njit
def refuses(t, y, theta, dy):
    if y[0] > theta[0]:
        raise ValueError("too large")
    dy[0] = y[0]


@njit
def refuses_vjp(t, y, theta, dy_bar, t_bar, y_bar, theta_bar):
    if y[0] < theta[1]:
        raise ValueError("too small")
    y_bar[0] += dy_bar[0]


@needs_compiler
@pytest.mark.parametrize("theta, message, note", [((2.0, 0.0), "too large", "in fun"), ((9.0, 0.5), "too small", "in vjp")])
def test_an_exception_names_the_sample(theta, message, note):
    field = VectorField(refuses, vjp=refuses_vjp, name="refuses")
    batch = Batch(field, np.array([[0.6], [0.7], [0.55], [1.0 if theta[0] == 2.0 else 0.4], [0.6]]), np.array(theta), (0.0, 1.0),
                  [1.0], losses.sum_of_squares())
    with pytest.raises(ValueError, match=message) as raised:
        gradient_batch(batch, specialize=True)
    assert note in raised.value.__notes__[0] and "sample 3" in raised.value.__notes__[0]


# --- what does not go side by side ----------------------------------------------------------------

@needs_compiler
def test_what_fits_into_lanes():
    def fits(batch, **options):
        return fit_into_lanes(batch, batch.flow_field, batch.flow_y0.shape[1], SolveOptions.of(**{"specialize": True, **options}))
    assert fits(many())
    assert not fits(many(), specialize=False)
    assert not fits(many(), method="dop853")                                    # whose interpolant needs slopes of its own
    assert not fits(BATCHES["networks"])                                        # whose field keeps a tape
    assert not fits(Batch(python_field(LV), np.ones((2, 2)), np.ones(4), (0.0, 1.0)))         # plain Python
    crowded = VectorField(refuses, vjp=refuses_vjp, name="crowded")
    assert fits(Batch(crowded, np.ones((2, 1)), np.ones(32), (0.0, 1.0)))
    assert not fits(Batch(crowded, np.ones((2, 1)), np.ones(33), (0.0, 1.0)))                 # many parameters


# --- the text, and its plain form -----------------------------------------------------------------

def forced(t, y, theta, tape, dy):
    for m in range(y.size):
        dy[m] = np.sin(t + theta[0] * y[m]) + theta[1] * y[m - 1] * y[m]


def forced_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    for m in range(y.size):
        slope = np.cos(t + theta[0] * y[m]) * dy_bar[m]
        y_bar[m] += theta[0] * slope + theta[1] * y[m - 1] * dy_bar[m]
        y_bar[m - 1] += theta[1] * y[m] * dy_bar[m]
        theta_bar[0] += y[m] * slope
        theta_bar[1] += y[m - 1] * y[m] * dy_bar[m]


class Round:
    """Arrays for one step of every lane, and what a body makes of them."""

    def __init__(self, method, n):
        rng, tableau = np.random.default_rng(n), TABLEAUS[method]
        self.n, self.s, self.method = n, tableau.s, Method(*tableau.arrays)
        numbers = lambda entries: rng.standard_normal(entries * LANES)
        self.start, self.y, self.theta, self.slope = numbers(1), numbers(n), numbers(2), numbers(n)
        self.stop = self.start + rng.choice([-0.2, 0.3, 0.01], LANES)
        self.k_bar, self.y_more, self.y_bar, self.theta_bar = numbers((self.s + 1) * n), numbers(n), numbers(n), numbers(2)
        self.k_bar.reshape(-1, LANES)[self.s * n:, ::3] = 0.0                   # lanes in which nothing reads the last slope
        self.on = rng.choice([0.0, 1.0], LANES)

    def forward(self, body):
        row, y1, slope_1, error, stiff = (np.full(size, np.nan) for size in (
            row_width(self.s, self.n), self.n * LANES, self.n * LANES, LANES, LANES))
        tolerance = Tolerance(None, np.full(self.n, 1e-2), np.full(self.n, 1e-3), np.array([0, self.n]))
        body(forced, self.method, tolerance, self.start, self.stop, self.y, self.slope, self.theta, np.zeros(0), row, y1, slope_1,
             error, stiff)
        row[written_out_lanes.ON * LANES:][:LANES] = self.on
        self.row = row
        return np.concatenate([row, y1, slope_1, error, stiff])

    def reverse(self, body):
        y_bar, theta_bar = self.y_bar.copy(), self.theta_bar.copy()
        body(forced, forced_vjp, self.method, self.row, self.theta, np.zeros(0), self.k_bar.copy(), self.y_more, y_bar, theta_bar)
        return np.concatenate([y_bar, theta_bar])


def in_python(source):
    """The function of a text."""
    return python_form(higher_order(function_of(source)))


@pytest.mark.parametrize("method", [name for name, tableau in TABLEAUS.items() if tableau.extra == 0])
@pytest.mark.parametrize("n", [1, 3])
def test_the_text_equals_the_plain_form_bit_by_bit(method, n):
    plain, text = Round(method, n), Round(method, n)
    np.testing.assert_array_equal(text.forward(in_python(step_source(TABLEAUS[method], n, 2))), plain.forward(lanes.step_lanes))
    np.testing.assert_array_equal(
        text.reverse(in_python(step_vjp_source(TABLEAUS[method], n, 2))), plain.reverse(lanes_adjoint.pull_step_lanes))


@pytest.mark.parametrize("source, old, new", [
    (step_source, "0.075", "0.07500001"), (step_source, "t + 0.8 * h", "t + 0.81 * h"), (step_source, "k3_1", "k3_0"),
    (step_source, "slope_1[8 + l]", "slope_1[0 + l]"), (step_source, "3.25", "0.25"),
    (step_vjp_source, "own_bar[1] if on", "own_bar[0] if on"), (step_vjp_source, "z_bar[1] if on", "z_bar[1] if True"),
    (step_vjp_source, "z_bar[0] if moved", "z_bar[0] if True"), (step_vjp_source, "1.0 * h, z", "0.9 * h, z"),
    (step_vjp_source, "y_more[8 + l]", "y_more[0 + l]")])
def test_a_wrong_text_is_seen(source, old, new):
    right, tableau = source(TABLEAUS["dopri5"], 3, 2), TABLEAUS["dopri5"]
    assert old in right
    text, plain = Round("dopri5", 3), Round("dopri5", 3)
    if source is step_source:
        assert np.any(text.forward(in_python(right.replace(old, new))) != plain.forward(lanes.step_lanes))
    else:
        text.forward(in_python(step_source(tableau, 3, 2))), plain.forward(lanes.step_lanes)
        assert np.any(text.reverse(in_python(right.replace(old, new))) != plain.reverse(lanes_adjoint.pull_step_lanes))


# --- the decisions --------------------------------------------------------------------------------

def test_decisions_are_those_of_trial_steps():
    """Lane by lane, for random states of a solve: clocks, trials and counts after aiming and judging have the same bits."""
    seen = set()
    for seed in range(300):
        rng = np.random.default_rng(seed)
        control = SolveOptions.of(controller=rng.choice(["I", "PI", "PID"]), max_step=rng.choice([0.3, np.inf])).control
        clock = np.concatenate([rng.uniform(0.0, 1.0, LANES), rng.uniform(0.1, 0.6, LANES), rng.uniform(0.01, 1.0, 2 * LANES),
                                rng.choice([2.0, -1.0, 1.2], LANES)])
        trial = np.concatenate([rng.uniform(0.1, 0.4, LANES), np.zeros(LANES), rng.choice([0.0, 0.0, 2.0], LANES), np.zeros(LANES)])
        counts, target, sample = rng.integers(0, 5, 6 * LANES), clock[T_END * LANES:].copy(), np.arange(LANES)
        error = 10.0 ** rng.uniform(-3.0, 1.0, LANES) * rng.choice([1.0, 1.0, 1.0, 0.0], LANES)
        alone = [array.copy() for array in (clock, counts, trial)]
        attend, factor, last = np.ones(LANES, np.int64), np.zeros(LANES), np.zeros(LANES, np.int64)
        aim_lanes(control, 1000, sample, clock, counts, trial, target, attend)
        assert not attend.any()
        watch_lanes(sample, clock, trial, np.where(target > clock[:LANES], np.inf, -np.inf), error, attend)
        assert not attend.any()
        factor_lanes(control, clock, error, attend, factor)
        y, slope, y1, slope_1 = rng.standard_normal((4, 2 * LANES))
        before, row, owner, mark = y.copy(), np.zeros(8 * LANES), np.zeros(LANES, np.int64), np.zeros(LANES, np.int64)
        settle_lanes(6, 0, clock, counts, trial, target, error, np.zeros(LANES), attend, factor, sample, last, owner, mark, row, y,
                     slope, y1, slope_1)
        limits, ts = np.array([1000, 1, 0, 0, 0, 0]), np.empty(0)
        for l in range(LANES):
            own_clock, own_counts, own_trial = (array[l::LANES].copy() for array in alone)
            aim_trial(control, np.empty(0), limits, 1000, ts, own_clock, own_counts, own_trial)
            own_counts[2] += 6
            first = own_counts[STEPS] == 0
            found = judge_error(control, error[l], -1, limits, ts, own_clock, own_counts, own_trial)
            took = found != 2
            if took:
                own_clock[T], own_counts[STEPS] = own_trial[T_NEXT], own_counts[STEPS] + 1
            else:
                own_trial[T_NEXT] = trial[T_NEXT * LANES + l]
            for mine, theirs in zip((clock, counts, trial), (own_clock, own_counts, own_trial)):
                np.testing.assert_array_equal(mine[l::LANES], theirs)
            assert owner[l] == (l if took else NONE) and mark[l] == (took and first)
            np.testing.assert_array_equal(y[l::LANES], (y1 if took else before)[l::LANES])
            seen.add((took, bool(alone[2][REJECTIONS * LANES + l]), clock[T * LANES + l] == target[l]))
    assert len(seen) == 6                                   # accepted or not, again or not, and cut short where accepted


def test_lanes_that_need_attention_are_told():
    """Without a sample, at the end, at the limit of steps, too short a step; an observation reached, an error that is no number."""
    control, clock, trial = SolveOptions.of().control, np.zeros(5 * LANES), np.zeros(4 * LANES)
    clock[T * LANES:], clock[H * LANES:], clock[T_END * LANES:] = 1.0, 0.25, 2.0
    counts, sample, attend, target = np.zeros(6 * LANES, np.int64), np.arange(LANES), np.zeros(LANES, np.int64), np.full(LANES, 2.0)
    sample[1], clock[T * LANES + 2], counts[STEPS * LANES + 3], clock[H * LANES + 4] = NONE, 2.0, 10, 1e-15
    clock[H * LANES + 5] = np.nan
    aim_lanes(control, 10, sample, clock, counts, trial, target, attend)
    np.testing.assert_array_equal(np.flatnonzero(attend), [1, 2, 3, 4, 5])
    error, next_ts = np.full(LANES, 0.5), np.full(LANES, np.inf)
    error[6], error[7], next_ts[0] = np.inf, np.nan, 1.25
    watch_lanes(np.arange(LANES), clock, trial, next_ts, error, attend)
    assert {0, 6, 7} <= set(np.flatnonzero(attend)) and not attend[3]
    next_ts[0] = np.nextafter(1.25, 2.0)
    watch_lanes(np.arange(LANES), clock, trial, next_ts, error, attend)
    assert not attend[0]


# --- wrong programs -------------------------------------------------------------------------------

MUTANTS = [    # (function, line, what stands there instead)
    (lanes.begin_lane, "into_lane(theta, lanes.theta, l)", "pass"),                  # the parameters of the sample before
    (lanes.begin_lane, "lanes.trial[REJECTIONS * LANES + l] = 0.0", "lanes.trial[REJECTIONS * LANES + l] = 1.0"),
    (lanes.begin_lane, "look_ahead(batch, lanes, l)", "pass"),
    (lanes.settle_lane, "count[EVALUATIONS] += s", "pass"),
    (lanes.settle_lane, "reaches or count[STEPS] == 0", "reaches"),                  # the first step does not end its sample
    (lanes.settle_lane, "    look_ahead(batch, lanes, l)", "    pass"),
    (lanes.settle_lane, "from_lane(lanes.slope_1, l, lanes.one_k[s])", "pass"),      # an old slope in the interpolant
    (lanes.end_lane, "log.mark[lanes.last[l]] = 1", "pass"),                         # nobody sees the last step
    (lanes.end_lane, "from_lane(lanes.y, l, batch.y1s[i])", "from_lane(lanes.y1, l, batch.y1s[i])"),
    (lanes_adjoint.begin_lane, "lanes.theta_bar[j * LANES + l] = 0.0", "pass"),      # theta_bar of the sample before
    (lanes_adjoint.end_lane, "batch.theta_bars[i - begin]", "batch.theta_bars[0]"),
    (lanes_adjoint.end_lane, "lanes.unseen[l], batch.y_bars[i])", "0, batch.y_bars[i])"),     # observed at t0
    (lanes_adjoint.clear, "lanes.k_bar[q * LANES + l] = 0.0", "pass"),               # one observation acts on all steps before
    (lanes_adjoint.pull_lane_observations, "- t) > 0.0", "- t) >= 0.0"),
    (lanes_adjoint.prepare, "batch.counts[i, STEPS] == 0", "False"),                 # samples without a step
    (lanes_adjoint.prepare, "status[log.owner[q]] != FINISHED", "False"),            # samples that failed
]


def few():
    """More samples than lanes, observed at both ends and inside, one without a step, one that fails."""
    spans = np.array([[0.0, end] for end in (0.5, 1.0, 0.0, 0.75, 0.6, 0.9, 0.4, 0.8, 1.0, 0.7, 0.3, 0.5)])
    y0 = np.linspace(0.4, 0.8, 12)[:, None]
    y0[5] = 2.0                                                                      # a pole at t = 1/2
    theta = np.linspace(0.5, 1.25, 12)[:, None]
    ts = [np.sort(np.concatenate([[0.0], end * np.array([0.3, 0.35, 0.9][:i % 4]), [end] * (i % 2)])) for i, (_, end) in enumerate(spans)]
    field = explosive([1.0]).field
    return Batch(field, y0, theta, spans, ts, losses.sum_of_squares() + losses.terminal(np.sum, np.ones_like))


ADAPTIVE = {"rtol": 1e-6, "atol": 1e-9, "max_steps": 40, "on_failure": "skip", "specialize": True}
WAYS = [ADAPTIVE, {**ADAPTIVE, "tstops": True}, {**ADAPTIVE, "n_steps": 7}]


def all_of(batch):
    """Gradients and solutions in all of these ways."""
    found = [gradient_batch(batch, **options) for options in WAYS]
    return [np.asarray(part) for each in found for part in (
        each.loss, each.y0, each.theta, each.t0, each.t1, each.status, each.solution.y1, *each.ts, *each.stats.values())]


def is_seen_to_be_wrong(monkeypatch, body, line, instead):
    """Whether gradients differ from those of samples one by one, with one line of the un-jitted lanes changed."""
    batch = few()
    with monkeypatch.context() as context:
        context.setattr(lanes, "fit_into_lanes", lambda *_: False)
        expected = all_of(batch)
    function = getattr(body, "py_func", body)
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(line) == 1
    tree = ast.parse(source.replace(line, instead))
    tree.body[0].decorator_list = []
    exec(compile(tree, "<mutant>", "exec"), function.__globals__ | (changed := {}), changed)
    home = sys.modules[function.__module__]
    with monkeypatch.context() as context:
        context.setattr(home, function.__name__, types.FunctionType(
            changed[function.__name__].__code__, function.__globals__, function.__name__))
        context.setattr(LaneSamples, "entry", lambda self, loop, *which: (loop.function, [getattr(self.field, name) for name in which]))
        python_form.cache_clear()
        found = all_of(batch)
    python_form.cache_clear()
    return not all(np.array_equal(one, other, equal_nan=True) for one, other in zip(found, expected, strict=True))


@needs_compiler
@quiet
@pytest.mark.parametrize("body, line, instead", MUTANTS, ids=[f"{body.__name__}-{i}" for i, (body, *_) in enumerate(MUTANTS)])
def test_a_wrong_program_is_caught(monkeypatch, body, line, instead):
    assert is_seen_to_be_wrong(monkeypatch, body, line, instead)


@needs_compiler
@quiet
def test_the_right_program_is_not(monkeypatch):
    """The un-jitted twin of the lanes, in which steps stand as loops around the bodies for one sample."""
    assert not is_seen_to_be_wrong(monkeypatch, lanes.begin_lane, "into_lane(y, lanes.y, l)", "into_lane(y, lanes.y, l)")


# --- vectors --------------------------------------------------------------------------------------

def vector_operations(loop, functions, tableau=TABLEAUS["dopri5"]):
    """How many multiplications of the driver's code take several lanes at once, and how many one."""
    driver = loop.driver(tableau, 2, 4)
    compiled = njit(**OPTIONS, **DISJOINT, nogil=True)(driver.py_func)
    compiled.compile(INTEGER(*map(typeof, functions), *driver.signature.args[len(functions):]))
    (code,) = compiled.inspect_llvm().values()
    return len(re.findall(r"fmul <\d+ x double>", code)), len(re.findall(r"fmul double", code))


@needs_compiler
@pytest.mark.filterwarnings("ignore::numba.core.errors.NumbaExperimentalFeatureWarning")
@pytest.mark.parametrize("loop, which", [(INTEGRATE_LANES, ("f",)), (PULL_LANES, ("f", "vjp"))])
def test_lanes_are_vectors(loop, which):
    """A step has 21 sums over slopes of two components: without vectors all of these multiplications were single ones."""
    vectors, _ = vector_operations(loop, [getattr(LV, name) for name in which])
    assert vectors >= 100
