"""The symplectic adjoint: lambda by the partner method of the one that took the steps.

The pair (y by a Runge-Kutta method, lambda by its partner) is a partitioned symplectic method, so lambda . delta
is conserved from step to step, for every tangent delta of the steps: lambda is their exact transpose, reached
from the differential equation (ADJ-2) instead of from the program. States are kept at the ends of steps; slopes
and tapes of one step at a time are made again.

References
----------
Sanz-Serna, SIAM Review 58 (2016), theorem 3.1; Hager, Numer. Math. 87 (2000);
Matsubara, Miyatake & Yaguchi, NeurIPS 2021, for weights that are zero.
"""
import numpy as np
from numba import types

from refnode.host_device import BLOCK, INTEGERS, MATRIX, RHS, RHS_VJP, VECTOR, driver, higher_order, host_device
from refnode.linalg import copy_into, has_nonzero
from refnode.sensitivity.checkpoint_schedule import END, EVALUATIONS, EVERY, RECOMPUTED, SLICE
from refnode.sensitivity.checkpointing import LoggedTrajectory, first_slope, observes_inside, sweep
from refnode.sensitivity.cotangents import cotangents_of, forward_stats, memory_stats
from refnode.sensitivity.discrete_adjoint import OBSERVATION, OFFSET, pull_observations
from refnode.sensitivity.equations import adjoint_rhs_kernel
from refnode.sensitivity.forward_solve import check_first_call
from refnode.sensitivity.jumps import observation_jump
from refnode.solve.integrate import FINISHED, RUNNING, Method, Path
from refnode.steppers.explicit_rk import explicit_rk_step, extra_slopes, stage_state
from refnode.steppers.system import Plain

PARTNER_TYPES = types.Tuple((
    MATRIX, VECTOR, VECTOR, MATRIX, MATRIX, MATRIX, VECTOR,      # A, b, c, E, P, A_extra, c_extra
    MATRIX, VECTOR,                                              # A_partner, b_partner
    VECTOR, MATRIX, MATRIX, MATRIX, BLOCK, MATRIX, VECTOR,       # times, states; y, k, k_extra, tape of one step; theta
    VECTOR, INTEGERS, INTEGERS, INTEGERS,                        # ts, ys_step, position, plan
    MATRIX, VECTOR, VECTOR, VECTOR, VECTOR, VECTOR,              # ys_bar, lam, lam1, lam_stage, z, z_bar
    MATRIX, MATRIX, MATRIX,                                      # k_bar, k_extra_bar, lam_rates
    VECTOR, VECTOR, VECTOR, VECTOR))                             # w, t_rate, grad_rate, grad


def partner_method(A, b):
    """The partner's weights: A_partner (s + 1, s + 1) and b_partner (s + 1,). Implements (PART-1).

    b_partner is b, with 1 in place of a zero; any number but zero gives the same lambda. The last row and
    column belong to the slope at the end of the step, of weight 0, which only dense output uses.
    """
    s = b.size
    stages = np.zeros((s + 1, s + 1))
    stages[:s, :s], stages[s, :s] = A, b
    weights = np.append(np.where(b != 0.0, b, 1.0), 1.0)
    return np.ascontiguousarray(stages.T * weights / weights[:, None]), weights


@driver(RHS, RHS_VJP, PARTNER_TYPES)
def symplectic_adjoint(f, f_vjp, arguments):
    """Integrate lambda back over the steps by the partner method; see `pull_by_partner`."""
    return pull_by_partner(f, f_vjp, *arguments)


@higher_order
def pull_by_partner(f, f_vjp, A, b, c, E, P, A_extra, c_extra, A_partner, b_partner, times, states, y, k, k_extra,
                    tape, theta, ts, ys_step, position, plan, ys_bar, lam, lam1, lam_stage, z, z_bar, k_bar,
                    k_extra_bar, lam_rates, w, t_rate, grad_rate, grad):
    """Moves lam (n,) from the last state to the first; adds to grad (p,). plan[END] counts down.

    Observations at the first state are not touched. Those inside a step reach lambda at the stages, through
    the transpose of dense output (ERK-7).
    """
    method = Method(A, b, c, E, P, A_extra, c_extra)
    for _ in range(plan[SLICE]):
        i = plan[END] - 1
        if i < 0:
            return FINISHED
        t, h = times[i], times[i + 1] - times[i]
        path = Path(times[i:i + 2], y, k, k_extra, tape)
        slopes_again(f, method, path, i, t, h, times, states, theta, ts, ys_step, position, z, plan)
        copy_into(lam, lam1)
        lam[:] = 0.0
        k_bar[:] = 0.0
        position[OFFSET] = i
        pull_observations(f, f_vjp, method, path, 0, t, h, k, theta, ts, ys_step, position, ys_bar, lam, lam1,
                          z, z_bar, k_bar, k_extra_bar, w, t_rate, grad)
        partner_step(f_vjp, A, b, c, A_partner, b_partner, t, h, y, theta, tape, k, lam1, k_bar, z, lam_stage,
                     lam_rates, t_rate, grad_rate, lam, grad)
        plan[END] = i
    return FINISHED if plan[END] == 0 else RUNNING


@higher_order
def slopes_again(f, method, path, i, t, h, times, states, theta, ts, ys_step, position, z, plan):
    """Step i from its state: y, k, tape of ``path``, and k_extra if dense output was read in it."""
    s = method.b.shape[0]
    copy_into(states[i], path.y[0])
    first_slope(f, times, i, path.y[0], theta, path.tape[0], path.k[0], plan)
    explicit_rk_step(Plain(f), method.A, method.b, method.c, t, h, path.y[0], theta, path.tape, path.k, z, path.y[1])
    plan[EVALUATIONS] += s
    plan[RECOMPUTED] += 1
    if observes_inside(i, times[i + 1], ts, ys_step, position):
        extra_slopes(Plain(f), method.A_extra, method.c_extra, t, h, path.y[0], theta,
                     path.tape[path.tape.shape[0] - 1], path.k, z, path.k_extra[0])
        plan[EVALUATIONS] += method.A_extra.shape[0]


@higher_order
def partner_step(f_vjp, A, b, c, A_partner, b_partner, t, h, y, theta, tape, k, lam1, k_bar, z, lam_stage,
                 lam_rates, t_rate, grad_rate, lam, grad):
    """lam = lam1 - h sum b_i l_i, with l_i = -(df/dy)^T Lam_i, the last stage first. Implements (PART-3).

    ``k_bar`` (s + 1, n) are cotangents that slopes have from dense output. Adds to lam (n,) and grad (p,).
    """
    s = b.shape[0]
    count = s + 1 if has_nonzero(k_bar[s]) else s
    for i in range(count - 1, -1, -1):
        partner_stage(A_partner[i], b_partner[i], i, count, h, i < s and b[i] != 0.0, lam1, k_bar[i], lam_rates,
                      lam_stage)
        node = c[i] if i < s else 1.0
        if i == s:
            copy_into(y[1], z)
        else:
            stage_state(A[i], i, h, y[0], k, z)
        adjoint_rhs_kernel(f_vjp, t + node * h, z, theta, tape[i], lam_stage, t_rate, lam_rates[i], grad_rate)
        for m in range(grad.shape[0]):
            grad[m] -= h * b_partner[i] * grad_rate[m]
    for m in range(lam.shape[0]):
        total = 0.0
        for i in range(count):
            total += b_partner[i] * lam_rates[i, m]
        lam[m] += lam1[m] - h * total


@host_device
def partner_stage(a, weight, i, count, h, weighs, lam1, k_bar, lam_rates, lam_stage):
    """Lam_i = lam1 - h sum_{j > i} a_j l_j + k_bar_i / (h b_i), without lam1 where b_i = 0. Implements (PART-2)."""
    for m in range(lam_stage.shape[0]):
        total = 0.0
        for j in range(i + 1, count):
            total += a[j] * lam_rates[j, m]
        impulse = k_bar[m] / (h * weight)
        lam_stage[m] = (lam1[m] if weighs else 0.0) - h * total + impulse


class PartnerSweep:
    """The backward integration of lambda over the steps of a `LoggedTrajectory` that kept all states."""

    def __init__(self, forward, seeds):
        n, s, extra = forward.n, forward.s, forward.k_extra.shape[1]
        self.forward, self.seeds, self.plan = forward, seeds, forward.plan
        self.plan[END] = forward.n_steps
        self.position = np.array([0, forward.ts.size, 1, 0, 0])
        self.lam, self.grad = seeds.y1_bar.copy(), np.zeros(forward.theta.size)
        self.y, self.k = np.empty((2, n)), np.empty((s + 1, n))
        self.arguments = (
            *forward.method, *partner_method(*forward.method[:2]), forward.log, forward.states, self.y, self.k,
            np.empty_like(forward.k_extra), forward.tape, forward.theta, forward.ts, forward.ys_step, self.position,
            self.plan, seeds.ys_bar, self.lam, *np.empty((4, n)), np.empty((s + 1, n)), np.empty((extra, n)),
            np.zeros((s + 1, n)), np.empty_like(forward.storage.w), np.zeros(1), np.empty_like(self.grad), self.grad)

    def run(self, one_step=False):
        """To t0, or over one step."""
        sweep(symplectic_adjoint, self.forward, self.arguments, self.plan, one_step)
        if self.plan[END] == 0:
            for j in range(self.position[OBSERVATION]):         # what is left was observed at t0
                observation_jump(self.lam, self.seeds.ys_bar[j])
            self.position[OBSERVATION] = 0

    def stats(self):
        """What it took."""
        forward, steps = self.forward, self.forward.n_steps
        memory = memory_stats(forward.log, forward.states[:steps], self.y, self.k, forward.k_extra,
                              forward.tape[:forward.s + 2])
        return {"n_steps_reverse": steps, "n_steps_recomputed": int(self.plan[RECOMPUTED]),
                "nfev_recomputed": int(self.plan[EVALUATIONS]), **memory}


def logged_forward(problem, options):
    """The finished `LoggedTrajectory` of a problem, with the state before every step."""
    check_first_call(problem)
    forward = LoggedTrajectory(problem, options, keep_times=True)
    forward.place(EVERY, 1, [0])
    forward.solve()
    return forward


def pull_symplectic(problem, recipe, options, own, seeds_of):
    """The symplectic adjoint: `Cotangents`, and the solve."""
    forward = logged_forward(problem, options)
    partner = PartnerSweep(forward, seeds_of(forward))
    partner.run()
    stats = {**forward_stats(forward), **partner.stats()}
    cotangents = cotangents_of(problem, forward, partner.seeds, partner.lam, partner.grad, stats)
    forward.give_back()
    return cotangents, forward
