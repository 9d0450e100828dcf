"""The decisions of `trial_steps` for all lanes at once, as loops that LLVM makes vectors of.

They take no branch, and so are for lanes to which nothing else happens than that a trial is accepted or rejected: the others
are told from them (``attend``), and left to `trial_steps`. Both have the same bits. Arrays are flat, as in `solve.lanes`.
"""
import numpy as np

from refnode.host_device import host_device
from refnode.solve.integrate import ERROR_1, ERROR_2, EVALUATIONS, H, REJECTED, STEPS, STIFF, T, T_END
from refnode.solve.step_size import ERROR_FLOOR, H_MAX, rejection_factor, step_factor
from refnode.solve.trial_steps import HALVINGS, REJECTIONS, SIZE, T_NEXT, passes
from refnode.solve.written_out_lanes import LANES, ON

NONE = -1                   # in the place of a sample
FAR, FAR_FROM_0 = 1e-14, 1e-300    # a step this much longer than |t|, or than 0, is longer than ten spaces between numbers there


@host_device
def aim_lanes(control, max_steps, sample, clock, counts, trial, target, attend):
    """`aim_trial` under error control. Lanes without a sample, at its end, at the limit or with a tiny step need attention."""
    for l in range(LANES):
        t, before, end, ahead = clock[T * LANES + l], trial[SIZE * LANES + l], clock[T_END * LANES + l], target[l]
        rejections, halvings = trial[REJECTIONS * LANES + l], trial[HALVINGS * LANES + l]
        suggested, steps, i = clock[H * LANES + l], counts[STEPS * LANES + l], sample[l]
        size = min(suggested, control[H_MAX]) if rejections == 0.0 else before
        beyond = t + size if ahead >= t else t - size
        trial[SIZE * LANES + l] = size
        trial[T_NEXT * LANES + l] = ahead if passes(t, size, ahead) else beyond
        trial[HALVINGS * LANES + l] = 0.0 if rejections == 0.0 else halvings
        usual = (i != NONE) & (t != end) & (steps < max_steps) & (size > FAR * abs(t)) & (size > FAR_FROM_0)
        attend[l] = 0 if usual else 1


@host_device
def watch_lanes(sample, clock, trial, next_ts, error, attend):
    """After the step: lanes without a sample, whose error is not finite, or which reach an observation, need attention."""
    for l in range(LANES):
        t, t_next, seen, norm, i = clock[T * LANES + l], trial[T_NEXT * LANES + l], next_ts[l], error[l], sample[l]
        reached = (t_next - seen if t_next >= t else seen - t_next) >= 0.0
        usual = (i != NONE) & (norm < np.inf) & ((norm >= 1.0) | (not reached))
        attend[l] = 0 if usual else 1


@host_device
def factor_lanes(control, clock, error, attend, factor):
    """How much longer the next trial is: the one thing here that is no vector, for a power."""
    for l in range(LANES):
        if not attend[l]:
            if error[l] < 1.0:
                factor[l] = step_factor(control, error[l], clock[ERROR_1 * LANES + l], clock[ERROR_2 * LANES + l])
            else:
                factor[l] = rejection_factor(control, error[l])


@host_device
def settle_lanes(evaluations, first, clock, counts, trial, target, error, stiff, attend, factor, sample, last, owner, mark,
                 row, y, slope, y1, slope_1):
    """`judge_error` and `move_on`, and the log's entries from ``first`` on."""
    for l in range(LANES):
        t, t_next, size, ahead = clock[T * LANES + l], trial[T_NEXT * LANES + l], trial[SIZE * LANES + l], target[l]
        rejections, suggested, norm = trial[REJECTIONS * LANES + l], clock[H * LANES + l], error[l]
        error_1, error_2, grows, i = clock[ERROR_1 * LANES + l], clock[ERROR_2 * LANES + l], factor[l], sample[l]
        steps, rejected, stiffs, before = counts[STEPS * LANES + l], counts[REJECTED * LANES + l], counts[STIFF * LANES + l], last[l]
        usual, is_stiff, calls = attend[l] == 0, stiff[l] != 0.0, counts[EVALUATIONS * LANES + l]
        took, refused, taken = usual & (norm < 1.0), usual & (norm >= 1.0), abs(t_next - t)
        size_next = taken * (min(1.0, grows) if rejections > 0.0 else grows)
        aimed = max(size_next, size) if passes(t, size, ahead) else size_next
        clock[H * LANES + l] = aimed if took else suggested
        clock[ERROR_2 * LANES + l] = error_1 if took else error_2
        clock[ERROR_1 * LANES + l] = max(norm, ERROR_FLOOR) if took else error_1
        clock[T * LANES + l] = t_next if took else t
        trial[SIZE * LANES + l] = taken * grows if refused else size
        trial[REJECTIONS * LANES + l] = 0.0 if took else rejections + 1.0 if refused else rejections
        counts[EVALUATIONS * LANES + l] = calls + evaluations if usual else calls
        counts[STEPS * LANES + l] = steps + 1 if took else steps
        counts[REJECTED * LANES + l] = rejected + 1 if refused else rejected
        counts[STIFF * LANES + l] = stiffs + 1 if took & is_stiff else stiffs
        row[ON * LANES + l] = 1.0 if took else 0.0
        owner[first + l] = i if took else NONE
        mark[first + l] = 1 if took & (steps == 0) else 0
        last[l] = first + l if took else before
    for m in range(y.shape[0] // LANES):
        for l in range(LANES):
            q, took = m * LANES + l, row[ON * LANES + l] != 0.0
            state, old, state_1, new = y[q], slope[q], y1[q], slope_1[q]
            y[q], slope[q] = state_1 if took else state, new if took else old
