"""Adjoint over adjoint: the continuous second-order adjoint, integrated backwards between observations.

The state and its tangent are one solve forward; the adjoint and its tangent are one solve backward, along the
stored dense output of the first. Both are under error control of their own.

References
----------
Ozyurt & Barton, SIAM J. Sci. Comput. 26 (2005); Sandu & Zhang, J. Comput. Phys. 227 (2008).
"""
import numpy as np
from numba import types

from refnode.host_device import RHS, RHS_HVP, RHS_VJP, VECTOR, driver
from refnode.sensitivity.continuous_adjoint import reversed_grid
from refnode.sensitivity.cotangents import adjoint_unit, own_tolerances
from refnode.sensitivity.equations import PATH_TYPES, SecondAdjoint
from refnode.sensitivity.forward import Tangents, integrate_variational
from refnode.sensitivity.forward_solve import require_finished
from refnode.sensitivity.jumps import observation_jump
from refnode.solve.initial_value import flow_tolerances
from refnode.solve.integrate import EVALUATIONS, INTEGRATE_TYPES, REJECTED, STEPS, H, integrate
from refnode.solve.run import Trajectory, entry_point

SECOND_SCRATCH_TYPES = types.Tuple((VECTOR, VECTOR, VECTOR, VECTOR, VECTOR))        # w, y_now, slope, t_rate, hvp_tape


@driver(RHS, RHS_VJP, RHS_HVP, VECTOR, PATH_TYPES, SECOND_SCRATCH_TYPES, INTEGRATE_TYPES)
def integrate_second_adjoint(f, f_vjp, f_hvp, theta_tan, path, scratch, arguments):
    """Integrate (lam, lam_tan, grad, grad_tan); see `refnode.solve.integrate.integrate`."""
    P, times, y, k, k_extra = path
    w, y_now, slope, t_rate, hvp_tape = scratch
    return integrate(SecondAdjoint(f, f_vjp, f_hvp, theta_tan, P, times, y, k, k_extra, w, y_now, slope, t_rate,
                                   hvp_tape), *arguments)


class PathTangents(Tangents):
    """One tangent solved together with the state, and the dense output of both."""

    def __init__(self, problem, options, own, y0_tan, theta_tan):
        field, y0 = problem.flow_field, problem.flow_y0
        n, self.theta_tan = y0.size, theta_tan
        self.scale = max(np.max(np.abs(y0_tan), initial=0.0), np.max(np.abs(theta_tan), initial=0.0)) or 1.0
        rtol, atol = flow_tolerances(options, problem, y0)
        tangent_rtol, tangent_atol = own_tolerances(own, "tangent", options)
        trajectory = Trajectory(
            options, field, np.concatenate([y0, y0_tan]), problem.theta, problem.t0, problem.t1, problem.ts,
            keep=True, dense=True, rtol=np.concatenate([rtol, np.full(n, tangent_rtol)]),
            atol=np.concatenate([atol, np.full(n, tangent_atol * self.scale)]), blocks=block_ends(n, n))
        entry, functions = entry_point(integrate_variational, field, options.specialize, "f", "jvp")
        status = trajectory.run(entry, (*functions, np.ascontiguousarray(theta_tan[None]), n, np.zeros(1, dtype=np.int64)))
        require_finished(trajectory, status, "the solve of state and tangent")
        ys, y1 = trajectory.ys, trajectory.y1
        super().__init__(trajectory, ys[:, :n].copy(), y1[:n].copy(), ys[:, None, n:].copy(), y1[None, n:].copy())

    def pull(self, problem, options, own, seeds, seeds_tan):
        """(lam, grad) at t0 and their tangents, as pairs (value, tangent)."""
        n, p = self.y1.size, problem.theta.size
        self._prepare(problem, options, own, seeds, seeds_tan)
        state = np.concatenate([seeds.y1_bar, seeds_tan.y1_bar, np.zeros(2 * p)])
        for k in range(problem.ts.size - 1, -1, -1):
            state = self._go_to(problem.ts[k], state)
            observation_jump(state[:n], seeds.ys_bar[k])
            observation_jump(state[n:2 * n], seeds_tan.ys_bar[k])
        state = self._go_to(problem.t0, state)
        lam, lam_tan, grad, grad_tan = np.split(state, [n, 2 * n, 2 * n + p])
        return (lam, lam_tan), (grad, grad_tan), self.stats

    def _prepare(self, problem, options, own, seeds, seeds_tan):
        """Tolerances in units of the largest cotangents, and everything the driver takes first."""
        n, p, field, forward = self.y1.size, problem.theta.size, problem.flow_field, self.forward
        unit = adjoint_unit(problem, self, seeds)
        largest = [np.max(np.abs(bar[..., :problem.y0.size]), initial=0.0)
                   for bar in (seeds_tan.ys_bar, seeds_tan.y1_bar)]
        unit_tan = max(*largest, unit * self.scale)
        own_rtol, own_atol = own_tolerances(own, "adjoint", options)
        if "adjoint_atol" not in own:
            own_atol = min(own_atol, own_rtol)                  # in units of the seeds 1 is no tolerance
        self.options = options.replace(first_step=None, tstops=False)
        self.rtol = np.full(2 * (n + p), own_rtol)
        self.atol = own_atol * np.repeat([unit, unit_tan, unit, unit_tan], [n, n, p, p])
        self.blocks = block_ends(n, n, p, p)
        self.entry, functions = entry_point(integrate_second_adjoint, field, options.specialize, "f", "vjp", "hvp")
        times, y, k, k_extra, _ = forward.stored()
        scratch = (np.empty_like(forward.storage.w), np.empty(2 * n), np.empty(n), np.zeros(1), field.new_hvp_tape(1)[0])
        self.leading = (*functions, self.theta_tan, (options.tableau.P, times, y, k, k_extra), scratch)
        self.t, self.h = problem.t1, None
        self.stats = {"nfev_reverse": 0, "n_steps_reverse": 0, "n_rejected_reverse": 0}

    def _go_to(self, t, state):
        if t == self.t:
            return state
        trajectory = Trajectory(
            self.options, self.forward.field, state, self.forward.theta, self.t, t, np.empty(0), keep=False,
            rtol=self.rtol, atol=self.atol, blocks=self.blocks, grid=reversed_grid(self.forward.grid, self.t, t),
            first_step=self.h)
        status = trajectory.run(self.entry, self.leading)
        require_finished(trajectory, status, "the second-order adjoint solve")
        self.t, self.h = t, float(trajectory.clock[H])
        for name, count in zip(self.stats, trajectory.counts[[EVALUATIONS, STEPS, REJECTED]]):
            self.stats[name] += int(count)
        return trajectory.y1.copy()


def block_ends(*sizes):
    """The ends of blocks of the error norm; empty blocks are left out."""
    return np.concatenate([[0], np.cumsum([size for size in sizes if size])]).astype(np.int64)
