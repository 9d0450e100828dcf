"""The continuous adjoint: lambda and the parameter gradient, integrated backwards between observations."""
import numpy as np

from refnode.sensitivity.cotangents import adjoint_unit, cotangents_of, forward_stats, own_tolerances
from refnode.sensitivity.equations import integrate_backsolve, integrate_interpolated, integrate_lam
from refnode.sensitivity.forward_solve import require_finished, solved
from refnode.sensitivity.jumps import observation_jump
from refnode.sensitivity.quadrature import DrainedTrajectory, ParameterIntegral
from refnode.sensitivity.reliability import drift_stats, solved_tolerance, warn_of_drift
from refnode.sensitivity.reversal import (
    CHECKPOINTS, WITNESSES, Reconstruction, dense_path, path_bytes, solved_with_states)
from refnode.solve.initial_value import flow_tolerances
from refnode.solve.integrate import EVALUATIONS, REJECTED, STEPS, H
from refnode.solve.run import Trajectory, entry_point


class ReverseSweep:
    """The backward integration of a continuous adjoint, from one observation to the one before.

    The state is (y, lam, grad), with y where there is a ``reconstruction`` of it, and grad unless an
    ``integral`` sums it along the steps of lam.
    """

    def __init__(self, problem, options, own, forward, seeds, driver_, leading, *,
                 reconstruction=None, integral=None):
        self.problem, self.forward, self.seeds = problem, forward, seeds
        self.reconstruction, self.integral = reconstruction, integral
        field, specialize = forward.field, options.specialize
        self.options = options.replace(first_step=None, tstops=False)
        self.entry, functions = entry_point(driver_, field, specialize, "f", "vjp")
        self.leading = (*functions, *leading)
        head = np.empty(0) if reconstruction is None else forward.y1
        n, p, start = forward.n, 0 if integral else forward.theta.size, head.size
        self.lam = slice(start, start + n)
        self.state = np.concatenate([head, seeds.y1_bar, np.zeros(p)])
        self.blocks = np.array([0, *([start] if start else []), start + n, *([] if integral else [start + n + p])])
        if own.get("seminorm", False):
            self.blocks = self.blocks[:-1].copy()
        rtol, atol = flow_tolerances(options, problem, problem.flow_y0)
        own_rtol, own_atol = adjoint_tolerances(problem, options, own, forward, seeds)
        self.rtol = np.concatenate([rtol[:start], np.full(n + p, own_rtol)])
        self.atol = np.concatenate([atol[:start], np.full(n + p, own_atol)])
        self.t, self.h = problem.t1, None
        self.stats = {"nfev_reverse": 0, "n_steps_reverse": 0, "n_rejected_reverse": 0}

    def run(self):
        """From t1 to t0, with the jump of lambda at every observation; its state is then that at t0. Implements (ADJ-1)."""
        for t, y, k in self._stops():
            self._go_to(t)
            if self.reconstruction:
                self._look_at(t, y, "checkpoints" if k < 0 else "observations")
            if k >= 0:
                observation_jump(self.state[self.lam], self.seeds.ys_bar[k])
        self._go_to(self.problem.t0)
        if self.reconstruction:
            self._look_at(self.problem.t0, self.forward.y_start, "observations")

    def cotangents(self, stats):
        """What the sweep found, with the derivatives of the times."""
        grad = self.state[self.lam.stop:] if self.integral is None else self.integral.grad
        stats = {**forward_stats(self.forward), **self.stats, **stats}
        return cotangents_of(self.problem, self.forward, self.seeds, self.state[self.lam], grad, stats)

    def _stops(self):
        """(t, y, index of the observation or -1), in the order of the sweep."""
        stops = [(t, self.forward.ys[k], k) for k, t in enumerate(self.problem.ts)]
        if self.reconstruction:
            stops += [(t, y, -1) for t, y in zip(*self.reconstruction.stops())]
        return sorted(stops, key=lambda stop: stop[0], reverse=bool(self.problem.t1 >= self.problem.t0))

    def _look_at(self, t, y, where):
        """Compare the reconstructed state with the one known there, and perhaps go on from that."""
        head = self.state[:self.lam.start]
        self.reconstruction.compare(t, head, y)
        self.reconstruction.start_afresh(where, head, y)

    def _go_to(self, t):
        if t == self.t:
            return
        trajectory, witnesses = self._trajectory(t)
        status = trajectory.run(self.entry, self.leading)
        require_finished(trajectory, status, "the adjoint solve")
        for at, y, known in zip(trajectory.ts, trajectory.ys, witnesses):
            self.reconstruction.compare(at, y, known)
        steps, *others = trajectory.counts[[STEPS, EVALUATIONS, REJECTED]]
        if self.integral:
            self.integral.add(trajectory)
            steps += getattr(trajectory, "used", 0)
        self.state, self.t, self.h = trajectory.y1.copy(), t, float(trajectory.clock[H])
        for name, count in zip(("n_steps_reverse", "nfev_reverse", "n_rejected_reverse"), (steps, *others)):
            self.stats[name] += int(count)

    def _trajectory(self, t):
        """The solve from where the sweep is to t, and the states known at the times it puts out."""
        ts, witnesses = np.empty(0), ()
        if self.reconstruction:
            ts, witnesses = self.reconstruction.witnesses(self.t, t)
        make, summed = Trajectory, {}
        if self.integral:
            summed = {"keep": True, "dense": True}
            if self.integral.drained:
                make, summed["use"] = DrainedTrajectory, self.integral.add
        return make(
            self.options, self.forward.field, self.state, self.forward.theta, self.t, t, np.ascontiguousarray(ts),
            rtol=self.rtol, atol=self.atol, blocks=self.blocks, grid=reversed_grid(self.forward.grid, self.t, t),
            first_step=self.h, **{"keep": False, **summed}), witnesses


def adjoint_tolerances(problem, options, own, forward, seeds):
    """Relative and absolute tolerance of lambda and of the gradient; the absolute one in units of the seeds.

    In these units a solve's atol of 1 is no tolerance at all, whatever the size of its states: by default it is
    at most rtol.
    """
    rtol, atol = own_tolerances(own, "adjoint", options)
    if "adjoint_atol" not in own:
        atol = min(atol, rtol)
    return rtol, atol * adjoint_unit(problem, forward, seeds)


def reversed_grid(grid, start, end):
    """The times of a given forward grid from ``start`` back to ``end``; empty if steps are free."""
    if grid.size == 0:
        return grid
    inside = (grid - end) * np.sign(start - end) > 0
    inside &= (start - grid) * np.sign(start - end) > 0
    return np.concatenate([[start], grid[inside][::-1], [end]])


RESTARTS = {              # reversal -> from which known states y starts afresh
    "backsolved": {"observations"},
    "backsolved_plain": set(),
    "backsolved_checkpointed": {"observations", "checkpoints"},
}


def pull_backsolved(problem, recipe, options, own, seeds_of):
    """y, lambda and the gradient integrated back together (Chen et al. 2018): little memory, but y drifts.

    By the recipe's reversal y starts afresh at observations, there and at checkpoints, or nowhere.
    """
    restarts = RESTARTS[recipe.reversal]
    count = own.get("checkpoints", CHECKPOINTS) if "checkpoints" in restarts else 0 if options.tstops else WITNESSES
    forward, times, states = solved_with_states(problem, options, count)
    seeds = seeds_of(forward)
    tolerances = flow_tolerances(options, problem, problem.flow_y0)
    reconstruction = Reconstruction(problem, forward, *tolerances, times, states, restarts)
    sweep = ReverseSweep(problem, options, own, forward, seeds, integrate_backsolve, (np.zeros(1), forward.n),
                         reconstruction=reconstruction)
    sweep.run()
    stats = drift_stats(reconstruction, forward.n_steps + sweep.stats["n_steps_reverse"])
    if not options.fixed:                                      # given steps know no tolerance
        warn_of_drift(reconstruction, stats, solved_tolerance(forward))
    return sweep.cotangents({**stats, "history_bytes": reconstruction.bytes}), forward


def pull_interpolated(problem, recipe, options, own, seeds_of):
    """lambda along the stored dense output of y (CVODES); the gradient beside it, or summed along its steps."""
    forward = solved(problem, options, keep=True, dense=True)
    seeds = seeds_of(forward)
    path, scratch = dense_path(forward, options.tableau.P)
    stats = {"history_bytes": path_bytes(path)}
    if recipe.quadrature == "augmented":
        sweep = ReverseSweep(problem, options, own, forward, seeds, integrate_interpolated, (path, scratch))
    else:
        tolerances = adjoint_tolerances(problem, options, own, forward, seeds)
        integral = ParameterIntegral(forward, recipe, options, path, scratch, *tolerances)
        sweep = ReverseSweep(problem, options, own, forward, seeds, integrate_lam,
                             (path, scratch, np.empty(forward.theta.size)), integral=integral)
    sweep.run()
    if sweep.integral:
        sweep.integral.finish(warn=not options.fixed)
        stats.update(sweep.integral.stats)
    return sweep.cotangents(stats), forward
