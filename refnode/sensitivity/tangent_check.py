"""Error control that sees the derivative: probes that choose the steps, and a probe that warns.

Step control looks at the state alone. Where the state is at rest, or a parameter is at zero, its steps may be
too long for the tangent, at every tolerance. With ``control="tangent"`` tangents enter the step norm. Without,
one probe is pushed through the steps taken, and the method's error estimate is applied to it, as error control
applies it to the state: where the tangent is resolved like the state, the estimate is a small part of it.
"""
import warnings

import numpy as np
from numba import types

from refnode.errors import GradientWarning, InvalidInputError
from refnode.host_device import INTEGERS, MATRIX, RHS, RHS_JVP, VECTOR, driver, higher_order, short
from refnode.linalg import copy_into
from refnode.precision import argument_names
from refnode.sensitivity.discrete_adjoint import (
    RECOMPUTE, SLICE, STEP, STORED_TYPES, StoredSteps, pull_stored, stored_step)
from refnode.sensitivity.forward import discrete_tangents, tangent_grid
from refnode.solve.integrate import FINISHED, RUNNING, Method, Path
from refnode.solve.step_size import error_norm, scaled_norm
from refnode.steppers.explicit_rk import explicit_rk_step_jvp

UNRESOLVED = 0.1           # error of one step, as a part of the tangent, that is always worth a warning
EXCESS = 1e4               # the same in units of the state's relative tolerance
GOLDEN = 0.6180339887498949
EVERY, FEWER = 64, 0.8     # solves between two probes by "auto", unless one takes that much fewer steps
REMEMBERED = 64            # kinds of solve remembered for a field

WORST, WORST_STEP, LARGEST = range(3)                    # found

CHECK_TYPES = types.Tuple((
    *STORED_TYPES, VECTOR, VECTOR, INTEGERS,             # rtol, weight, blocks
    VECTOR, VECTOR, VECTOR, VECTOR, VECTOR, MATRIX,      # theta_tan, y_tan, y1_tan, z, z_tan, k_tan
    VECTOR))                                             # found


@driver(RHS, RHS_JVP, CHECK_TYPES)
def check_tangent(f, f_jvp, arguments):
    """Push a probe through stored steps and estimate its errors; see `probe_steps`."""
    return probe_steps(f, f_jvp, *arguments)


@higher_order
def probe_steps(f, f_jvp, A, b, c, E, P, A_extra, c_extra, times, y, k, k_extra, tape, theta, ts, ys_step,
                position, rtol, weight, blocks, theta_tan, y_tan, y1_tan, z, z_tan, k_tan, found):
    """The largest ratio of a step's error estimate, h sum_i E_i k_tan_i, to the size the tangent has had before.

    Implements (THR-19). Norms are weighted by ``weight``, with rtol = 0. ``found`` holds the ratio, its step,
    and the largest norm of the tangent so far.
    """
    method, path = Method(A, b, c, E, P, A_extra, c_extra), Path(times, y, k, k_extra, tape)
    for _ in range(position[SLICE]):
        i = position[STEP]
        if i == times.shape[0] - 1:
            return FINISHED
        t, h, k_i, tape_i = stored_step(method, path, i, position[RECOMPUTE])
        explicit_rk_step_jvp(f, f_jvp, A, b, c, t, h, y[i], theta, 0.0, 0.0, y_tan, theta_tan,
                             position[RECOMPUTE], tape_i, k_i, z, z_tan, k_tan, y1_tan)
        found[LARGEST] = max(found[LARGEST], scaled_norm(y_tan, y_tan, y_tan, rtol, weight, blocks))
        error = error_norm(E, h, k_tan, y_tan, y1_tan, rtol, weight, blocks)
        if not error <= found[WORST] * found[LARGEST]:          # a NaN is the worst
            found[WORST], found[WORST_STEP] = error / found[LARGEST], i
        copy_into(y1_tan, y_tan)
        position[STEP] = i + 1
    return RUNNING


check_tangent.is_short = short(argument_names(probe_steps, 2), "y", "ts")


# --- directions -----------------------------------------------------------------------------------

def direction(size, first):
    """Parts of the sizes with signs, no two alike: no coincidence in a problem annihilates it."""
    parts = np.modf((first + np.arange(size.size)) * GOLDEN)[0] + 0.5
    return size * np.where(parts < 1.0, -parts, parts)


def entry_sizes(x):
    """|x|; an entry that is 0 moves too, by the largest or by 1: what is switched off may be asked for."""
    size = np.abs(x)
    return np.where(size > 0.0, size, np.max(size, initial=0.0) or 1.0)


def probes(problem):
    """One direction of y0, and one of theta if there is any, as (y0_tans, theta_tans)."""
    y0, theta = problem.flow_y0, problem.theta
    count = 2 if theta.size else 1
    y0_tans, theta_tans = np.zeros((count, y0.size)), np.zeros((count, theta.size))
    y0_tans[0] = direction(entry_sizes(y0), 1.0)
    theta_tans[1:] = direction(entry_sizes(theta), 1.0 + y0.size)
    return y0_tans, theta_tans


# --- the warning ----------------------------------------------------------------------------------

def tangent_error(forward, rtol, atol):
    """What `probe_steps` finds on a finished solve, and the relative tolerance the state was held to.

    The probe moves every state by about its largest value on the path, and every parameter by its size.
    """
    steps = StoredSteps(forward)
    largest = np.abs(forward.y[:forward.n_steps + 1]).max(axis=0, initial=0.0)
    weight = atol + rtol * largest
    y_tan = direction(weight / rtol, 1.0)
    theta_tan = direction(entry_sizes(forward.theta), 1.0 + forward.n)
    position, found = steps.position(0, 0), np.zeros(3)
    (y1_tan, z, z_tan), (k_tan, _) = steps.vectors, steps.matrices
    steps.sweep(check_tangent, "jvp", (
        *steps.shared(position), np.zeros(forward.n), weight, forward.tolerance[3], theta_tan, y_tan, y1_tan, z,
        z_tan, k_tan, found), position)
    held = np.sqrt(np.mean((largest / weight) ** 2)) if forward.n else 0.0
    return found, 1.0 / held if held > 0.0 else np.inf


def warn_if_unresolved(problem, forward, stacklevel):
    """Warn with the numbers if one step's error in the tangent is far above what the state was held to; returns it."""
    if forward.dtype is np.float32:
        forward = forward.in_double()
    (worst, step, _), held = tangent_error(forward, *forward.tolerance[1:3])
    if not worst <= min(UNRESOLVED, EXCESS * held):
        t, t_next = forward.times[int(step):int(step) + 2]
        warnings.warn(
            f"step control left the tangent unresolved: in the step from t={t:g} to {t_next:g} its estimated error is "
            f"{worst:.2g} of the tangent, where the state was held to {held:.2g}. The gradient is exact for the steps "
            "taken, but not near that of the solution. control='tangent' lets the step control see it, and so does "
            "'forward'; check_tangent=False omits this check", GradientWarning, stacklevel=stacklevel)
    return float(worst)


def check_wanted(problem, options, own):
    """When to probe: False, True or "auto"; only where steps were chosen, for the state alone, and there is a jvp."""
    sees = own.get("control", "state") == "tangent"
    for name in ("tangent_rtol", "tangent_atol"):
        if name in own and not sees:
            raise InvalidInputError(f"{name} needs control='tangent', which lets the step control see the tangent")
    able = problem.flow_field.jvp is not None and not options.fixed and not sees
    return able and own.get("check_tangent", "auto")


def is_due(problem, options, forward):
    """Whether "auto" probes this solve: the first of its kind, every 64th, and any with clearly fewer steps.

    A probe costs about as much as half a gradient or all of it; in a loop of many gradients this makes it some
    percent at most. It decides about the warning only, never about a number.
    """
    kinds = problem.field.probed
    kind = (options, problem.t0, problem.t1, forward.n)
    steps = forward.n_steps
    since = kinds.get(kind)
    if since is not None and since[0] < EVERY and steps >= FEWER * since[1]:
        since[0] += 1
        return False
    if len(kinds) >= REMEMBERED:
        kinds.clear()
    kinds[kind] = [1, steps]
    return True


# --- the recipes ----------------------------------------------------------------------------------

def pull_resolved(problem, recipe, options, own, seeds_of, solve=None):
    """`pull_stored`, with steps that see probes of the tangent (``control="tangent"``), or with the warning."""
    found, check = {}, check_wanted(problem, options, own)

    def seeds_and_check(forward):
        if check is True or (check == "auto" and is_due(problem, options, forward)):
            found["tangent_error"] = warn_if_unresolved(problem, forward, 7)
        return seeds_of(forward)
    grid = None
    if own.get("control") == "tangent":
        grid = tangent_grid(problem, options, own, *probes(problem))
    cotangents, forward = pull_stored(problem, recipe, options, own, seeds_and_check, grid, solve)
    cotangents.stats.update(found)
    return cotangents, forward


def resolved_tangents(problem, options, own, y0_tans, theta_tans):
    """`discrete_tangents`, with steps that see these tangents (``control="tangent"``), or with the warning."""
    check = check_wanted(problem, options, own)
    tangents = discrete_tangents(problem, options, own, y0_tans, theta_tans)
    if check is True or (check == "auto" and is_due(problem, options, tangents.forward)):
        warn_if_unresolved(problem, tangents.forward, 6)
    return tangents
