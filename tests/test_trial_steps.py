"""`trial_steps`, the decisions of `integrate` taken apart, driven here by a loop around them: clock, counts, observations and
states are bit for bit those of `integrate`, whatever ends a solve. On a GPU tiles of perceptrons are that loop."""
import numpy as np
import pytest

from batches import BATCHES, explosive
from refnode.solve.integrate import EVALUATIONS, REJECTED, RUNNING, STEPS, STIFF, T
from refnode.solve.options import SolveOptions
from refnode.solve.samples import Samples
from refnode.solve.trial_steps import (
    ACCEPTED, T_NEXT, aim_trial, choose_first_size, first_guess_of, judge_trial, record_step, start_solve, wants_first_size)
from refnode.steppers.explicit_rk import stage_state

OPTIONS = {
    "dopri5": {}, "PI": {"method": "bosh3", "controller": "PI", "first_step": 2.0}, "max_step": {"method": "tsit5", "max_step": 0.125},
    "PID": {"method": "tsit5", "controller": "PID", "tstops": True, "rtol": 1e-4}, "loose": {"rtol": 0.5, "atol": 0.5},
    "max_steps": {"max_steps": 3}, "given": {"method": "rk4", "n_steps": 6}, "coarse": {"method": "bosh3", "rtol": 1e-2, "atol": 1e-2},
}
CASES = [("predators", name) for name in OPTIONS] + [("oscillators", "PID"), ("explosive", "dopri5"), ("explosive", "coarse"),
                                                    ("explosive", "given")]


def samples_of(batch, options):
    return Samples(batch, batch.field, batch.y0, SolveOptions.of(**options), keep=False)


def solve_by_trials(samples, i):
    """Sample i of `Samples` that have not run, step by step; returns its status and the state it reached."""
    A, b, c, E, P, *_ = samples.options.tableau.arrays
    control, rtol, atol, blocks = samples.tolerance
    seen, clock, count, trial = samples.batch.observations(i), samples.clocks[i], samples.counts[i], np.zeros(4)
    ts, ys, ys_step = samples.batch.ts[seen], samples.ys[seen], samples.ys_step[seen]
    grid, theta = samples.grids[min(i, len(samples.grids) - 1)], samples.thetas[min(i, len(samples.thetas) - 1)]
    y, k, z, y1 = samples.y0s[i].copy(), np.zeros((samples.s + 1, samples.n)), np.zeros(samples.n), np.zeros(samples.n)
    f = lambda t, state, slope: samples.field.f(t, state, theta, np.zeros(0), slope)
    f(clock[T], y, k[0])
    status = start_solve(y, k[0], ts, clock, count, ys, ys_step)
    if status == RUNNING and wants_first_size(grid, clock):
        h = first_guess_of(rtol, atol, blocks, y, k[0], clock)
        f(clock[T] + h, y + h * k[0], k[1])
        choose_first_size(control, rtol, atol, blocks, y, k[0], k[1], clock, count)
    while status == RUNNING:
        status = aim_trial(control, grid, samples.limits, 0, ts, clock, count, trial)
        if status != RUNNING:
            break
        t, h = clock[T], trial[T_NEXT] - clock[T]
        for stage in range(1, samples.s):
            stage_state(A[stage], stage, h, y, k, z)
            f(t + c[stage] * h, z, k[stage])
        stage_state(b, samples.s, h, y, k, y1)
        f(t + h, y1, k[samples.s])
        status = judge_trial(control, E, rtol, atol, blocks, grid, samples.limits, ts, y, y1, k, clock, count, trial)
        if status == ACCEPTED:
            record_step(c, P, ts, y, y1, z, k, samples.w, clock, count, trial, ys, ys_step)
            y[:], k[0], status = y1, k[samples.s], RUNNING
    return status, y


@pytest.mark.parametrize("name, options", CASES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_decisions_are_those_of_integrate(name, options):
    """Some samples fail: a pole, an overflow at the start, too many steps."""
    batch = explosive([0.5, 2.0, 1e200, 1e-3]) if name == "explosive" else BATCHES[name]
    whole, apart = samples_of(batch, OPTIONS[options]), samples_of(batch, OPTIONS[options])
    whole.run_forward(0, len(batch))
    for i in range(len(batch)):
        status, y1 = solve_by_trials(apart, i)
        assert status == whole.status[i]
        np.testing.assert_array_equal(y1, whole.y1s[i])
        np.testing.assert_array_equal(apart.clocks[i], whole.clocks[i])
        np.testing.assert_array_equal(apart.counts[i], whole.counts[i])
    np.testing.assert_array_equal(apart.ys, whole.ys)


def test_cases_reach_every_decision():
    """Rejections, stiffness, and all the ways a solve ends."""
    ended, counts = set(), np.zeros(6, dtype=int)
    for name, options in CASES:
        samples = samples_of(explosive([0.5, 2.0, 1e200, 1e-3]) if name == "explosive" else BATCHES[name], OPTIONS[options])
        samples.run_forward(0, len(samples.batch))
        ended |= set(samples.status.tolist())
        counts += samples.counts.max(axis=0)
    assert ended == {0, -1, -2, -3}
    assert all(counts[[STEPS, REJECTED, EVALUATIONS, STIFF]] > 0)
