"""Forward over adjoint: the tangent of the discrete adjoint, the exact second derivative of the steps taken.

The tangent goes through the stored steps first. The sweep back then carries every cotangent together with its
tangent, and recomputes within each step the tangents of its slopes and the tape.

References
----------
Griewank & Walther, Evaluating Derivatives (2008), ch. 5; Christianson, IMA J. Numer. Anal. 12 (1992).
"""
import numpy as np
from numba import types

from refnode.host_device import MATRIX, RHS, RHS_HVP, RHS_JVP, RHS_VJP, VECTOR, driver, higher_order
from refnode.linalg import copy_into
from refnode.sensitivity.discrete_adjoint import (
    OBSERVATION, RECOMPUTE, SLICE, STEP, STORED_TYPES, StoredSteps, discrete_tangent)
from refnode.sensitivity.forward import Tangents
from refnode.sensitivity.forward_solve import solved
from refnode.sensitivity.jumps import observation_jump
from refnode.solve.integrate import FINISHED, RUNNING, Method, Path
from refnode.solve.run import entry_point, run_slices, where
from refnode.steppers.explicit_rk import explicit_rk_step_jvp, extra_slopes_jvp
from refnode.steppers.explicit_rk_hvp import (
    Dual, dense_output_hvp, explicit_rk_step_hvp, extra_slopes_hvp, row, set_to_zero)

VECTORS, MATRICES = types.UniTuple(VECTOR, 2), types.UniTuple(MATRIX, 2)            # a value and its tangent

HESSIAN_TYPES = types.Tuple((
    *STORED_TYPES,
    MATRIX, VECTOR, MATRICES,                                    # y_tans, theta_tan, ys_bar
    VECTORS, VECTORS, VECTORS, VECTORS, VECTOR,                  # y_bar, y1_bar, z, z_bar, y1_tan
    MATRIX, MATRIX, MATRICES, MATRICES,                          # k_tan, k_extra_tan, k_bar, k_extra_bar
    VECTOR, VECTORS, VECTORS))                                   # w, t_bar, theta_bar


@driver(RHS, RHS_JVP, RHS_VJP, RHS_HVP, HESSIAN_TYPES)
def discrete_adjoint_tangent(f, f_jvp, f_vjp, f_hvp, arguments):
    """Pull one cotangent and its tangent back through stored steps; see `pull_duals`."""
    return pull_duals(f, f_jvp, f_vjp, f_hvp, *arguments)


@higher_order
def pull_duals(f, f_jvp, f_vjp, f_hvp, A, b, c, E, P, A_extra, c_extra, times, y, k, k_extra, tape, theta, ts,
               ys_step, position, y_tans, theta_tan, ys_bars, y_bars, y1_bars, zs, z_bars, y1_tan, k_tan,
               k_extra_tan, k_bars, k_extra_bars, w, t_bars, theta_bars):
    """Moves (y_bar, y_bar_tan) from the last state to the first; adds to theta_bars. Implements (HES-4).

    The pairs are values and tangents; y_tans (N + 1, n) are the tangents of the step starts. ``tape`` has
    rows for one step and one more. position[STEP] counts down; observations at t0 are not touched.
    """
    method, path = Method(A, b, c, E, P, A_extra, c_extra), Path(times, y, k, k_extra, tape)
    s, theta_dual = b.shape[0], Dual(theta, theta_tan)
    y_bar, y1_bar, k_bar = Dual(y_bars[0], y_bars[1]), Dual(y1_bars[0], y1_bars[1]), Dual(k_bars[0], k_bars[1])
    z, z_bar = Dual(zs[0], zs[1]), Dual(z_bars[0], z_bars[1])
    t_bar, theta_bar = Dual(t_bars[0], t_bars[1]), Dual(theta_bars[0], theta_bars[1])
    ys_bar, k_extra_bar = Dual(ys_bars[0], ys_bars[1]), Dual(k_extra_bars[0], k_extra_bars[1])
    for _ in range(position[SLICE]):
        i = position[STEP] - 1
        if i < 0:
            return FINISHED
        t, h, k_i = times[i], times[i + 1] - times[i], Dual(k[i * s:(i + 1) * s + 1], k_tan)
        explicit_rk_step_jvp(f, f_jvp, A, b, c, t, h, y[i], theta, 0.0, 0.0, y_tans[i], theta_tan,
                             position[RECOMPUTE], tape, k_i.value, z.value, z.tan, k_tan, y1_tan)
        copy_into(y_bar.value, y1_bar.value)
        copy_into(y_bar.tan, y1_bar.tan)
        set_to_zero(y_bar)
        set_to_zero(k_bar)
        y_i = Dual(y[i], y_tans[i])
        pull_observed_duals(f, f_jvp, f_vjp, f_hvp, method, path, i, t, h, y_i, theta_dual, k_i, k_extra_tan, ts,
                            ys_step, position, ys_bar, y_bar, y1_bar, z, z_bar, k_bar, k_extra_bar, w, t_bar,
                            theta_bar)
        explicit_rk_step_hvp(f_vjp, f_hvp, A, b, c, t, h, y_i, theta_dual, tape, k_i, Dual(y[i + 1], y1_tan),
                             y1_bar, k_bar, z, z_bar, t_bar, y_bar, theta_bar)
        position[STEP] = i
    return FINISHED if position[STEP] == 0 else RUNNING


@higher_order
def pull_observed_duals(f, f_jvp, f_vjp, f_hvp, method, path, i, t, h, y, theta, k, k_extra_tan, ts, ys_step,
                        position, ys_bar, y_bar, y1_bar, z, z_bar, k_bar, k_extra_bar, w, t_bar, theta_bar):
    """Cotangents of the observations inside step i, and their tangents, handed to its state and slopes."""
    inside = False
    while position[OBSERVATION] > 0 and ys_step[position[OBSERVATION] - 1] == i:
        j = position[OBSERVATION] - 1
        if ts[j] == path.times[i + 1]:
            for m in range(y1_bar.value.shape[0]):
                y1_bar.value[m] += ys_bar.value[j, m]           # ys[j] = y[i + 1]
                y1_bar.tan[m] += ys_bar.tan[j, m]
        else:
            if not inside:
                set_to_zero(k_extra_bar)
                inside = True
            dense_output_hvp(method.P, (ts[j] - t) / h, h, row(ys_bar, j), w, k_bar, k_extra_bar, y_bar)
        position[OBSERVATION] = j
    if inside:
        scratch, k_extra = path.tape[path.tape.shape[0] - 1], Dual(path.k_extra[i], k_extra_tan)
        extra_slopes_jvp(f, f_jvp, method.A_extra, method.c_extra, t, h, y.value, theta.value, 0.0, 0.0,
                         y.tan, theta.tan, scratch, k.value, k_extra.value, k.tan, z.value, z.tan, k_extra.tan)
        extra_slopes_hvp(f, f_vjp, f_hvp, method.A_extra, method.c_extra, t, h, y, theta, scratch, k, k_extra,
                         k_extra_bar, z, z_bar, t_bar, k_bar, y_bar, theta_bar)


# --- the host's side ------------------------------------------------------------------------------

class StepTangents(Tangents):
    """One tangent of a stored solve: of its observations, its last state and, in ``y_tans``, its step starts."""

    def __init__(self, problem, options, own, y0_tan, theta_tan):
        forward = solved(problem, options, keep=True)
        self.theta_tan = theta_tan
        ys_tan, self.y_tans = push_to_step_starts(forward, y0_tan, theta_tan)
        super().__init__(forward, forward.ys, forward.y1, ys_tan[:, None], self.y_tans[-1:])

    def pull(self, problem, options, own, seeds, seeds_tan):
        """(y0_bar, theta_bar) and their tangents, as pairs (value, tangent)."""
        forward, steps = self.forward, StoredSteps(self.forward)
        n, s, extra = forward.n, forward.s, forward.options.tableau.extra
        pair = lambda *shape: (np.zeros(shape), np.zeros(shape))
        position = steps.position(forward.n_steps, forward.ts.size)
        times, y, k, k_extra, _ = forward.stored()
        y_bars, theta_bars = (seeds.y1_bar.copy(), seeds_tan.y1_bar.copy()), pair(forward.theta.size)
        arguments = (
            *forward.method, times, y, k, k_extra, forward.field.new_hvp_tape(s + 2), forward.theta, forward.ts,
            forward.ys_step, position, self.y_tans, self.theta_tan, (seeds.ys_bar, seeds_tan.ys_bar), y_bars,
            pair(n), pair(n), pair(n), np.empty(n), np.empty((s + 1, n)), np.empty((extra, n)), pair(s + 1, n),
            pair(extra, n), forward.storage.w, pair(1), theta_bars)
        self._sweep(arguments, position)
        for j in range(position[OBSERVATION]):                  # what is left was observed at t0
            observation_jump(y_bars[0], seeds.ys_bar[j])
            observation_jump(y_bars[1], seeds_tan.ys_bar[j])
        return y_bars, theta_bars, {"n_steps_reverse": forward.n_steps}

    def _sweep(self, arguments, position):
        forward = self.forward
        entry, functions = entry_point(discrete_adjoint_tangent, forward.field, forward.options.specialize,
                                       "f", "jvp", "vjp", "hvp")
        try:
            run_slices(entry, (*functions, arguments), position, SLICE, forward.field.pace)
        except Exception as error:
            error.add_note(where("hvp", forward.times[position[STEP]], position[STEP]))
            raise


def push_to_step_starts(forward, y0_tan, theta_tan):
    """Tangents of the observations (K, n) and of the step starts and the end (N + 1, n): (DISC-1).

    The ends of the steps are handed to `discrete_tangent` as further observations.
    """
    steps, N, K = StoredSteps(forward), forward.n_steps, forward.ts.size
    step_of = np.concatenate([forward.ys_step, np.arange(N)])
    order = np.argsort(step_of, kind="stable")
    times = np.ascontiguousarray(np.concatenate([forward.ts, forward.times[1:N + 1]])[order])
    at_start = int(np.count_nonzero(step_of == -1))
    found, y_tan = np.empty((K + N, forward.n)), y0_tan.copy()
    found[:at_start] = y0_tan
    position = steps.position(0, at_start)
    (y1_tan, z, z_tan), (k_tan, k_extra_tan) = steps.vectors, steps.matrices
    steps.sweep(discrete_tangent, "jvp", (
        *forward.method, *forward.stored(), forward.theta, times, step_of[order], position, theta_tan, y_tan,
        y1_tan, z, z_tan, k_tan, k_extra_tan, forward.storage.w, found), position)
    tangents = np.empty_like(found)
    tangents[order] = found
    return tangents[:K].copy(), np.concatenate([y0_tan[None], tangents[K:]])
