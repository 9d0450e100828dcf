"""The transpose of steps that were not stored: states at checkpoints, and the steps between taken again.

A step depends on y_i, t_i and t_(i+1) alone. From these it is repeated to the last bit, by the body that took
it first; so every recipe here returns the bits of `discrete`. The forward solve keeps the states that
`checkpoint_schedule` asks for and the times of all steps, 8 bytes each; of equal steps the rule alone (`equal_steps`).

References
----------
Griewank & Walther, ACM Trans. Math. Softw. 26 (2000); Wang, Moin & Iaccarino, SIAM J. Sci. Comput. 31 (2009);
Stumm & Walther, SIAM J. Sci. Comput. 32 (2010); Griewank & Walther, Evaluating Derivatives (2008), ch. 12.
"""
import math

import numpy as np
from numba import types

from refnode.host_device import INTEGERS, MATRIX, RHS, RHS_VJP, VECTOR, driver, higher_order, host_device
from refnode.linalg import copy_into
from refnode.sensitivity.checkpoint_schedule import (
    ADVANCE, CHOOSE, END, EVALUATIONS, EVERY, FIRST, LEAF, LISTED, NOW, ONLINE, PEAK, PHASE, PULL, RECOMPUTED,
    RECORD, RESUME, RULE, SLICE, TOP, choose, first_checkpoints, kept_row, new_plan, pulled, stepped)
from refnode.sensitivity.cotangents import cotangents_of, forward_stats, memory_stats
from refnode.sensitivity.discrete_adjoint import (
    ADJOINT_TYPES, OBSERVATION, OFFSET, RECOMPUTE, STEP, pull_through_steps)
from refnode.sensitivity.forward_solve import check_first_call, require_finished
from refnode.sensitivity.jumps import observation_jump
from refnode.solve import run
from refnode.solve.equal_steps import equal_steps, given_time, is_rule, step_window
from refnode.solve.initial_value import flow_tolerances
from refnode.solve.integrate import FINISHED, FULL, INTEGRATE_TYPES, MAX_STEPS, RUNNING, STEPS, T, integrate
from refnode.solve.integrate import SLICE as SOLVE_SLICE
from refnode.solve.run import Trajectory, entry_point, run_slices, where
from refnode.steppers.explicit_rk import explicit_rk_step, extra_slopes
from refnode.steppers.system import Plain

DEFAULT_CHECKPOINTS = 100

LIMITS, CLOCK, COUNTS, Y = 12, 14, 15, 17                # places in INTEGRATE_TYPES

LOGGED_TYPES = types.Tuple((
    INTEGRATE_TYPES, VECTOR, VECTOR,                             # of the solve; times, y_before
    MATRIX, INTEGERS, INTEGERS, INTEGERS, INTEGERS))             # states, steps, levels, slots, plan

CHECKPOINTED_TYPES = types.Tuple((
    *ADJOINT_TYPES.types, MATRIX, INTEGERS, INTEGERS, INTEGERS))         # states, steps, slots, plan


# --- the forward sweep ----------------------------------------------------------------------------

@driver(RHS, LOGGED_TYPES)
def integrate_with_checkpoints(f, arguments):
    """Integrate dy/dt = f(t, y, theta) and place checkpoints; see `integrate_and_place`."""
    return integrate_and_place(f, *arguments)


@higher_order
def integrate_and_place(f, solve, times, y_before, states, steps, levels, slots, plan):
    """`integrate`, step by step: overwrites times[1:] with the steps' ends (unless it is their rule), y_before with the
    state before the last step, and rows of ``states`` with the checkpoints that the plan's rule asks for."""
    limits, clock, counts, y = solve[LIMITS], solve[CLOCK], solve[COUNTS], solve[Y]
    remaining = limits[SOLVE_SLICE]
    limits[SOLVE_SLICE] = 1
    writes_times = not is_rule(times)
    for _ in range(remaining):
        i = counts[STEPS]
        if writes_times and i + 1 >= times.shape[0]:
            return FULL
        plan[NOW] = i
        row = kept_row(plan, steps, levels, slots) if i > 0 else 0
        if row >= 0:
            copy_into(y[0], states[row])
        copy_into(y[0], y_before)
        status = integrate(Plain(f), *solve)
        if writes_times and counts[STEPS] > i:
            times[i + 1] = clock[T]
        if status != RUNNING:
            return status
    return RUNNING


class LoggedTrajectory(Trajectory):
    """A forward solve that keeps the times of its steps, and the states that a plan asks for.

    Attributes
    ----------
    log : ndarray, shape (at least N + 1,)
        Times of the steps, or the rule of equal ones.
    states : ndarray
        A checkpoint a row.
    y_before : ndarray, shape (n,)
        The state before the last step.
    """

    def __init__(self, problem, options, keep_times=False):
        y0 = problem.flow_y0
        rtol, atol = flow_tolerances(options, problem, y0)
        equal = options.n_steps is not None and not keep_times and problem.t0 != problem.t1
        grid = None if not equal else equal_steps(problem.t0, problem.t1, options.n_steps)
        super().__init__(options, problem.flow_field, y0, problem.theta, problem.t0, problem.t1, problem.ts,
                         keep=False, rtol=rtol, atol=atol, blocks=np.array([0, y0.size]), grid=grid)
        self.known_steps = max(self.grid.size - 1, 0)
        self.log = self.grid
        if self.grid.size and is_rule(self.grid):
            self.known_steps = options.n_steps
            self.limits[MAX_STEPS] = options.n_steps + 1
        elif not self.grid.size:
            self.log = np.empty(run.FIRST_CAPACITY + 1)
            self.log[0] = self.t0
        self.y_before = y0.copy()

    def place(self, rule, slots, steps, leaf=1):
        """Set the plan; see `checkpoint_schedule`."""
        self.plan, self.stack = new_plan(rule, slots, steps, leaf)
        self.states = np.empty((self.log.size if rule == EVERY else slots, self.n))
        self.states[0] = self.y_start

    def grow(self):
        """Double the room for times, and for states if all are kept."""
        self.log = np.concatenate([self.log, np.empty_like(self.log)])
        if self.plan[RULE] == EVERY:
            self.states = np.concatenate([self.states, np.empty_like(self.states)])

    def arguments(self):
        return (super().arguments(), self.log, self.y_before, self.states, *self.stack, self.plan)

    def solve(self):
        """Run to the end, or IntegrationError."""
        entry, functions = entry_point(integrate_with_checkpoints, self.field, self.options.specialized_to(self.n), "f")
        require_finished(self, self.run(entry, functions), "the forward solve")
        if not self.known_steps:
            self.log = self.log[:self.n_steps + 1]


# --- the reverse sweep ----------------------------------------------------------------------------

@driver(RHS, RHS_VJP, CHECKPOINTED_TYPES)
def checkpointed_adjoint(f, f_vjp, arguments):
    """Pull one cotangent back through steps taken again; see `pull_with_checkpoints`."""
    return pull_with_checkpoints(f, f_vjp, *arguments)


@higher_order
def pull_with_checkpoints(f, f_vjp, A, b, c, E, P, A_extra, c_extra, times, y, k, k_extra, tape, theta, ts,
                          ys_step, position, ys_bar, y_bar, y1_bar, z, z_bar, k_bar, k_extra_bar, w, t_bar,
                          h_bar, theta_bar, states, steps, slots, plan):
    """`pull_through_steps`, where the steps are taken again from checkpoints. Implements (CKPT-5).

    ``times`` are those of all steps, or their rule. Row 0 of y, k and tape is the state reached, its slope and tape; while
    steps are recorded, from plan[FIRST] on, further rows hold them as a stored solve would.
    """
    for _ in range(plan[SLICE]):
        if plan[END] == 0:
            return FINISHED
        if plan[PHASE] == RESUME:
            first_slope(f, times, plan[END] - 1, y[0], theta, tape[0], k[0], plan)
            plan[PHASE] = PULL
        if plan[PHASE] == CHOOSE:
            choose(plan, steps)
            if plan[NOW] != steps[plan[TOP]]:
                plan[NOW] = steps[plan[TOP]]
                copy_into(states[slots[plan[TOP]]], y[0])
                first_slope(f, times, plan[NOW], y[0], theta, tape[0], k[0], plan)
        if plan[PHASE] == PULL:
            i = plan[END] - 1
            row = i - plan[FIRST]
            k_i, tape_i = recorded(b.shape[0], row, k, tape, position)
            window = step_window(times, i)
            t = times[window:window + 2]
            if observes_inside(i, t[1], ts, ys_step, position):
                extra_slopes(Plain(f), A_extra, c_extra, t[0], t[1] - t[0], y[row], theta,
                             tape_i[tape_i.shape[0] - 1], k_i, z, k_extra[0])
                plan[EVALUATIONS] += A_extra.shape[0]
            position[STEP], position[OFFSET] = 1, i
            pull_through_steps(f, f_vjp, A, b, c, E, P, A_extra, c_extra, t, y[row:row + 2], k_i,
                               k_extra, tape_i, theta, ts, ys_step, position, ys_bar, y_bar, y1_bar, z, z_bar,
                               k_bar, k_extra_bar, w, t_bar, h_bar, theta_bar)
            pulled(plan, steps)
        else:
            take_again(f, A, b, c, times, y, k, tape, theta, position, z, plan)
            if stepped(plan, steps):
                copy_into(y[0], states[slots[plan[TOP]]])
    return FINISHED if plan[END] == 0 else RUNNING


@higher_order
def take_again(f, A, b, c, times, y, k, tape, theta, position, z, plan):
    """Step plan[NOW] from its own row if it is recorded, else from row 0 and back into row 0."""
    s, i = b.shape[0], plan[NOW]
    row = i - plan[FIRST] if plan[PHASE] == RECORD else 0
    k_i, tape_i = recorded(s, row, k, tape, position)
    t = given_time(times, i)
    explicit_rk_step(Plain(f), A, b, c, t, given_time(times, i + 1) - t, y[row], theta, tape_i, k_i, z, y[row + 1])
    plan[EVALUATIONS] += s
    if plan[PHASE] == ADVANCE:
        copy_into(y[1], y[0])
        copy_into(k[s], k[0])
        copy_into(tape[s], tape[0])


@higher_order
def first_slope(f, times, i, y, theta, tape, slope, plan):
    """The slope at the begin of step i, at the very time at which the step before evaluated it: t + h."""
    t = given_time(times, max(i - 1, 0))
    if i > 0:
        t += given_time(times, i) - t
    f(t, y, theta, tape, slope)
    plan[EVALUATIONS] += 1


@higher_order
def recorded(s, row, k, tape, position):
    """Slopes of a recorded step, and its tape, with a row of scratch behind; tapes are kept unless RECOMPUTE."""
    kept = tape.shape[1] > 0 and not position[RECOMPUTE]
    return k[row * s:(row + 1) * s + 1], tape[row * s:(row + 1) * s + 2] if kept else tape


@host_device
def observes_inside(i, t_next, ts, ys_step, position):
    """Whether an observation not yet pulled back lies inside step i, which ends at t_next."""
    j = position[OBSERVATION] - 1
    while j >= 0 and ys_step[j] == i:
        if ts[j] != t_next:
            return True
        j -= 1
    return False


# --- the host's side ------------------------------------------------------------------------------

def pull_checkpointed(problem, recipe, options, own, seeds_of):
    """The transpose of all steps, in the memory that a schedule allows: `Cotangents`, and the solve."""
    check_first_call(problem)
    forward = LoggedTrajectory(problem, options)
    slots = min(own.get("checkpoints", DEFAULT_CHECKPOINTS), int(forward.limits[MAX_STEPS]))
    forward.place(*FIRST_SWEEPS[recipe.reversal](slots, forward.known_steps))
    forward.solve()
    if recipe.reversal == "uniform" and not forward.known_steps:
        forward.place(*uniform_plan(slots, forward.n_steps))     # the first sweep did not know where
    seeds = seeds_of(forward)
    y0_bar, theta_bar, stats = pull_cotangents_again(forward, seeds)
    stats = {**forward_stats(forward), **stats}
    cotangents = cotangents_of(problem, forward, seeds, y0_bar, theta_bar, stats)
    forward.give_back()
    return cotangents, forward


def binomial_plan(slots, known_steps):
    """Checkpoints where the whole schedule wants them, if the number of steps is known; else the first alone."""
    slots = min(slots, known_steps) if known_steps else slots
    return LISTED, slots, first_checkpoints(known_steps, slots) if known_steps else [0]


def online_plan(slots, known_steps):
    """Checkpoints placed without looking at the number of steps."""
    return ONLINE, slots, [0]


def uniform_plan(slots, known_steps):
    """A checkpoint every ceil(sqrt(N)) steps. Implements (CKPT-6)."""
    leaf = math.isqrt(known_steps - 1) + 1 if known_steps else 1
    steps = list(range(0, max(known_steps, 1), leaf))
    return LISTED, len(steps), steps, leaf


FIRST_SWEEPS = {"binomial": binomial_plan, "online": online_plan, "uniform": uniform_plan}


class Segment:
    """Room for the steps that are recorded at one time, as a stored solve would hold them."""

    def __init__(self, forward, length):
        field, s = forward.field, forward.s
        self.y = np.empty((length + 1, forward.n))
        self.k = np.empty((length * s + 1, forward.n))
        self.k_extra = np.empty_like(forward.k_extra)
        rows = length * s + 2
        self.recompute = int(length > 1 and 8 * rows * field.tape_size > run.TAPE_BUDGET)
        self.tape = forward.tape if length == 1 or self.recompute else field.take_tape(rows)
        self.used_tape = self.tape[:s + 2 if self.recompute else rows]


def pull_cotangents_again(forward, seeds):
    """`pull_cotangents` for a `LoggedTrajectory`: y0_bar, theta_bar, and what it took."""
    n, s, plan = forward.n, forward.s, forward.plan
    segment = Segment(forward, int(plan[LEAF]))
    plan[END], plan[NOW], plan[PHASE] = forward.n_steps, -1, CHOOSE
    if plan[LEAF] == 1 and forward.n_steps > 0:                  # the last step's slopes are still there
        plan[PHASE], plan[FIRST] = RESUME, forward.n_steps - 1
        segment.y[0], segment.y[1], segment.k[:] = forward.y_before, forward.y1, forward.k[:s + 1]
    position = np.array([0, forward.ts.size, 1, segment.recompute, 0])
    y_bar, theta_bar = seeds.y1_bar.copy(), np.zeros(forward.theta.size)
    steps, _, slots = forward.stack
    sweep(checkpointed_adjoint, forward, (
        *forward.method, forward.log, segment.y, segment.k, segment.k_extra, segment.tape, forward.theta,
        forward.ts, forward.ys_step, position, seeds.ys_bar, y_bar, *np.empty((3, n)), np.empty((s + 1, n)),
        np.empty((forward.k_extra.shape[1], n)), np.empty_like(forward.storage.w), np.zeros(1), np.zeros(1), theta_bar,
        forward.states, steps, slots, plan), plan)
    for j in range(position[OBSERVATION]):                      # what is left was observed at t0
        observation_jump(y_bar, seeds.ys_bar[j])
    memory = memory_stats(forward.log, forward.states[:plan[PEAK]], segment.y, segment.k, segment.k_extra,
                          segment.used_tape)
    return y_bar, theta_bar, {"n_steps_reverse": forward.n_steps, "n_steps_recomputed": int(plan[RECOMPUTED]),
                              "nfev_recomputed": int(plan[EVALUATIONS]), **memory}


def sweep(driver_, forward, arguments, plan, one_step=False):
    """Run a reverse driver to its end, or for one step, returning to Python now and then; plan[END] steps are left."""
    entry, functions = entry_point(driver_, forward.field, forward.options.specialized_to(forward.n), "f", "vjp")
    try:
        run_slices(entry, (*functions, arguments), plan, SLICE, forward.field.pace, one_step)
    except Exception as error:
        error.add_note(where("vjp", given_time(forward.log, plan[END]), plan[END]))
        raise
