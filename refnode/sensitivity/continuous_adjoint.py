"""The continuous adjoint: lambda and the parameter gradient, integrated backwards between observations."""
import warnings

import numpy as np
from numba import types

from refnode.errors import GradientWarning
from refnode.host_device import BLOCK, INTEGER, MATRIX, RHS, RHS_VJP, VECTOR, driver
from refnode.sensitivity.cotangents import adjoint_unit, cotangents_of, forward_stats, own_tolerances
from refnode.sensitivity.equations import Backsolve, Interpolated
from refnode.sensitivity.forward_solve import require_finished, solved
from refnode.sensitivity.jumps import observation_jump
from refnode.solve.initial_value import flow_tolerances
from refnode.solve.integrate import EVALUATIONS, INTEGRATE_TYPES, REJECTED, STEPS, H, integrate
from refnode.solve.run import Trajectory, entry_point

PATH_TYPES = types.Tuple((MATRIX, VECTOR, MATRIX, MATRIX, BLOCK))                   # P, times, y, k, k_extra
SCRATCH_TYPES = types.Tuple((VECTOR, VECTOR, VECTOR, VECTOR))                       # w, y_now, slope, t_rate

DRIFT_WARNING = 1e3        # reconstruction error of y, in units of its error weight, worth a warning


@driver(RHS, RHS_VJP, VECTOR, INTEGER, INTEGRATE_TYPES)
def integrate_backsolve(f, f_vjp, t_rate, n, arguments):
    """Integrate (y, lam, grad); see `refnode.solve.integrate.integrate`."""
    return integrate(Backsolve(f, f_vjp, t_rate, n), *arguments)


@driver(RHS, RHS_VJP, PATH_TYPES, SCRATCH_TYPES, INTEGRATE_TYPES)
def integrate_interpolated(f, f_vjp, path, scratch, arguments):
    """Integrate (lam, grad) along a stored path; see `refnode.solve.integrate.integrate`."""
    P, times, y, k, k_extra = path
    w, y_now, slope, t_rate = scratch
    return integrate(Interpolated(f, f_vjp, P, times, y, k, k_extra, w, y_now, slope, t_rate), *arguments)


class ReverseSweep:
    """The backward integration of a continuous adjoint, from one observation to the one before.

    ``head`` is what stands before (lam, grad) in the state: y for backsolve, nothing otherwise.
    """

    def __init__(self, problem, options, extra, forward, seeds, driver_, leading, head):
        self.problem, self.forward, self.seeds = problem, forward, seeds
        field, specialize = forward.field, options.specialize
        self.options = options.replace(first_step=None, tstops=False)
        self.entry, functions = entry_point(driver_, field, specialize, "f", "vjp")
        self.leading = (*functions, *leading)
        n, p, start = forward.n, forward.theta.size, head.size
        self.lam = slice(start, start + n)
        self.state = np.concatenate([head, seeds.y1_bar, np.zeros(p)])
        self.blocks = np.array(([0] if start else []) + [start, start + n, start + n + p])
        rtol, atol = flow_tolerances(options, problem, problem.flow_y0)
        own_rtol, own_atol = own_tolerances(extra, "adjoint", options)
        self.rtol = np.concatenate([rtol[:start], np.full(n + p, own_rtol)])
        self.atol = np.concatenate([atol[:start], np.full(n + p, own_atol * adjoint_unit(problem, forward, seeds))])
        self.t, self.h = problem.t1, None
        self.stats = {"nfev_reverse": 0, "n_steps_reverse": 0, "n_rejected_reverse": 0}

    def run(self):
        """From t1 to t0, with the jump of lambda at every observation; its state is then that at t0. Implements (ADJ-1)."""
        for k in range(self.problem.ts.size - 1, -1, -1):
            self._go_to(self.problem.ts[k])
            self._restart_at(self.forward.ys[k])
            observation_jump(self.state[self.lam], self.seeds.ys_bar[k])
        self._go_to(self.problem.t0)
        self._restart_at(self.forward.y_start)

    def cotangents(self):
        """What the sweep found, with the derivatives of the times."""
        stats = {**forward_stats(self.forward), **self.stats}
        return cotangents_of(self.problem, self.forward, self.seeds, self.state[self.lam],
                             self.state[self.lam.stop:], stats)

    def _restart_at(self, y):
        """Replace a reconstructed state by the one known there, keeping the largest drift in its weight."""
        head = self.state[:self.lam.start]
        if head.size == 0:
            return
        n = self.problem.y0.size                                # a running cost has no part in lambda
        weight = self.atol[:n] + self.rtol[:n] * np.abs(y[:n])
        drift = np.abs(head - y)[:n] / np.where(weight > 0.0, weight, np.finfo(float).tiny)
        self.stats["y_drift"] = max(self.stats.get("y_drift", 0.0), float(np.max(drift, initial=0.0)))
        head[:] = y

    def _go_to(self, t):
        if t == self.t:
            return
        trajectory = Trajectory(
            self.options, self.forward.field, self.state, self.forward.theta, self.t, t, np.empty(0),
            keep=False, rtol=self.rtol, atol=self.atol, blocks=self.blocks,
            grid=reversed_grid(self.forward.grid, self.t, t), first_step=self.h)
        status = trajectory.run(self.entry, self.leading)
        require_finished(trajectory, status, "the adjoint solve")
        self.state, self.t, self.h = trajectory.y1.copy(), t, float(trajectory.clock[H])
        for name, count in zip(self.stats, trajectory.counts[[EVALUATIONS, STEPS, REJECTED]]):
            self.stats[name] += int(count)


def reversed_grid(grid, start, end):
    """The times of a given forward grid from ``start`` back to ``end``; empty if steps are free."""
    if grid.size == 0:
        return grid
    inside = (grid - end) * np.sign(start - end) > 0
    inside &= (start - grid) * np.sign(start - end) > 0
    return np.concatenate([[start], grid[inside][::-1], [end]])


def pull_backsolved(problem, recipe, options, own, seeds_of):
    """y, lambda and the gradient integrated back together (Chen et al. 2018): no memory, but y drifts.

    At every observation y is known from the forward solve and starts afresh.
    """
    forward = solved(problem, options, keep=False)
    seeds = seeds_of(forward)
    sweep = ReverseSweep(problem, options, own, forward, seeds, integrate_backsolve,
                         (np.zeros(1), forward.n), head=forward.y1.copy())
    sweep.run()
    drift = sweep.stats.setdefault("y_drift", 0.0)             # none where there is no state
    if not options.fixed:                                      # given steps know no tolerance
        _warn_of_drift(drift)
    return sweep.cotangents(), forward


def _warn_of_drift(drift):
    if drift > DRIFT_WARNING:
        warnings.warn(
            f"backsolve reconstructed y with an error of {drift:.3g} times its tolerance: the gradient "
            "is unreliable; use 'discrete' or 'interpolating'", GradientWarning, stacklevel=6)


def pull_interpolated(problem, recipe, options, own, seeds_of):
    """lambda and the gradient along the stored dense output of y (CVODES)."""
    forward = solved(problem, options, keep=True, dense=True)
    seeds = seeds_of(forward)
    times, y, k, k_extra, _ = forward.stored()
    path = (options.tableau.P, times, y, k, k_extra)
    scratch = (np.empty_like(forward.storage.w), np.empty(forward.n), np.empty(forward.n), np.zeros(1))
    sweep = ReverseSweep(problem, options, own, forward, seeds, integrate_interpolated,
                         (path, scratch), head=np.empty(0))
    sweep.run()
    return sweep.cotangents(), forward
