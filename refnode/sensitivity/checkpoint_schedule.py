"""Where checkpoints go, and what a reverse sweep does next: integers only, the same in Python and in drivers.

A *checkpoint* is a state y_i before step i. All that a schedule knows lies in the array ``plan``, indexed by
the names below, and in a stack: ``steps[j]`` is the step of checkpoint j, ``slots[j]`` the row that holds its
state, ``levels[j]`` its level (online placement). Checkpoint 0 is the initial state.

References
----------
Griewank & Walther, ACM Trans. Math. Softw. 26 (2000), algorithm 799 (Revolve).
Wang, Moin & Iaccarino, SIAM J. Sci. Comput. 31 (2009); Stumm & Walther, SIAM J. Sci. Comput. 32 (2010).
"""
import math

import numpy as np

from refnode.host_device import host_device

(PHASE, NOW, TARGET, END, FIRST, TOP, SLOTS, LEAF, SLICE, RECOMPUTED, EVALUATIONS, PEAK,
 RULE, PLANNED, LEVEL, SPARE, SPARE_AT) = range(17)                                 # plan

CHOOSE, ADVANCE, RECORD, PULL, RESUME = range(5)                                    # plan[PHASE]
LISTED, ONLINE, EVERY = range(3)                                                    # plan[RULE]

NEVER_SPARE = 2**62          # the level of the initial state


# --- how many steps are taken again ---------------------------------------------------------------

def repetitions(steps, slots):
    """The least r with C(slots + r, r) >= steps: no step is advanced more than r times. Implements (CKPT-1)."""
    r = 0
    while math.comb(slots + r, r) < steps:
        r += 1
    return r


def recomputed_steps(steps, slots):
    """t(l, c) = r l - C(c + r, r - 1): the least number of steps that must be taken again. Implements (CKPT-2).

    Parameters
    ----------
    steps : int
        l, the length of the chain.
    slots : int
        c >= 1, the states that can be held, the initial one among them.

    Returns
    -------
    int
        Steps taken beside the first forward sweep, if that sweep places checkpoints and keeps the slopes of its
        last step. A sweep that cannot, since it does not know l, takes every step but the last once more.

    References
    ----------
    Griewank & Walther (2000), eqs. 3 and 4, where s = c.
    """
    r = repetitions(steps, slots)
    return r * steps - math.comb(slots + r, r - 1) if r > 0 else 0


@host_device
def binomial_split(length, slots):
    """How far to advance before the next checkpoint, for ``length`` steps and ``slots`` states. Implements (CKPT-3).

    The largest m that the optimum allows: C(s + r - 1, s) and length - C(s + r - 2, s - 1), the lesser.
    """
    r, reach, shorter = 0, 1, 1                       # reach = C(slots + r, slots), shorter = the one for r - 1
    while reach < length:
        r += 1
        shorter = reach
        reach = reach * (slots + r) // r
    right = shorter * slots // (slots + r - 1) if r > 0 else 0
    return min(shorter, length - right)


# --- placing checkpoints in the forward sweep -----------------------------------------------------

def first_checkpoints(steps, slots):
    """The steps at which a first sweep of known length places its checkpoints: binomial, from 0 downwards."""
    placed, length = [0], steps
    while length > 1 and slots > 1:
        split = int(binomial_split(length, slots))
        placed.append(placed[-1] + split)
        length, slots = length - split, slots - 1
    return placed


@host_device
def kept_row(plan, steps, levels, slots):
    """The row for the state at step plan[NOW], about to be left; -1 if it is not kept."""
    if plan[RULE] == EVERY:
        return plan[NOW]
    if plan[RULE] == ONLINE:
        kept = place_online(plan, steps, levels, slots)
    else:
        kept = plan[TOP] + 1 < plan[PLANNED] and steps[plan[TOP] + 1] == plan[NOW]
        plan[TOP] += 1 if kept else 0
    plan[PEAK] = max(plan[PEAK], plan[TOP] + 1)
    return slots[plan[TOP]] if kept else -1


@host_device
def place_online(plan, steps, levels, slots):
    """Whether the state about to be left becomes a checkpoint, when the number of steps is unknown.

    Implements (CKPT-4). A checkpoint is *spare* once a later one has a higher level. While slots are free the
    state is kept; then it takes the place of a spare one; if none is spare it is passed over, and the next
    state is one level higher. Levels do not increase along the stack except behind the spare ones, so these
    lie side by side: plan[SPARE] of them, from plan[SPARE_AT] on.
    """
    top = plan[TOP]
    if top + 1 < plan[SLOTS]:
        top += 1
    elif plan[SPARE] > 0:
        plan[SPARE] -= 1
        remove(plan[SPARE_AT] + plan[SPARE], top, steps, levels, slots)
    else:
        plan[LEVEL] += 1
        plan[SPARE_AT] = top + 1
        while levels[plan[SPARE_AT] - 1] < plan[LEVEL]:
            plan[SPARE_AT] -= 1
        plan[SPARE] = top + 1 - plan[SPARE_AT]
        return False
    plan[TOP], steps[top], levels[top] = top, plan[NOW], plan[LEVEL]
    plan[LEVEL] = 0
    return True


@host_device
def remove(place, top, steps, levels, slots):
    """Take a checkpoint off the stack; the row it held becomes that of the last place."""
    row = slots[place]
    for j in range(place, top):
        steps[j], levels[j], slots[j] = steps[j + 1], levels[j + 1], slots[j + 1]
    slots[top] = row


# --- the reverse sweep ----------------------------------------------------------------------------

@host_device
def choose(plan, steps):
    """What to do from the last checkpoint: record the steps to the end, or advance to the next checkpoint."""
    first = steps[plan[TOP]]
    length = plan[END] - first
    if length <= plan[LEAF]:
        plan[PHASE], plan[FIRST] = RECORD, first
    else:
        split = plan[LEAF] if plan[LEAF] > 1 else binomial_split(length, plan[SLOTS] - plan[TOP])
        plan[PHASE], plan[TARGET] = ADVANCE, first + split


@host_device
def stepped(plan, steps):
    """After a step was taken again: move on. Returns whether the state now reached becomes a checkpoint."""
    plan[NOW] += 1
    plan[RECOMPUTED] += 1
    if plan[PHASE] == RECORD:
        plan[PHASE] = PULL if plan[NOW] == plan[END] else RECORD
        return False
    if plan[NOW] < plan[TARGET]:
        return False
    if plan[TOP] + 1 == plan[SLOTS]:
        plan[PHASE], plan[FIRST] = RECORD, plan[NOW]
        return False
    plan[TOP] += 1
    plan[PEAK] = max(plan[PEAK], plan[TOP] + 1)
    steps[plan[TOP]] = plan[NOW]
    plan[PHASE] = CHOOSE
    return True


@host_device
def pulled(plan, steps):
    """After a step was transposed: the next one, or, where a checkpoint's steps are done, off the stack with it."""
    plan[END] -= 1
    if plan[END] > plan[FIRST]:
        return
    plan[PHASE], plan[NOW] = CHOOSE, -1
    if steps[plan[TOP]] == plan[END]:
        plan[TOP] -= 1


def new_plan(rule, slots, steps, leaf=1):
    """``plan``, and the stack (steps, levels, slots), with the initial state as checkpoint 0."""
    plan = np.zeros(17, dtype=np.int64)
    plan[RULE], plan[SLOTS], plan[LEAF], plan[PLANNED], plan[PEAK] = rule, slots, leaf, len(steps), 1
    stack = [np.zeros(slots, dtype=np.int64) for _ in range(3)]
    stack[0][:len(steps)], stack[1][0], stack[2][:] = steps, NEVER_SPARE, np.arange(slots)
    return plan, stack
