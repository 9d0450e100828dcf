"""Loss and gradient as a function of y0 and theta, for loops: what does not depend on these is done once."""
import numpy as np

from refnode.checks import require_problem
from refnode.cuda_device import real_named
from refnode.sensitivity.cotangents import Gradient, ends_and_observations, forward_stats, slopes_at
from refnode.sensitivity.discrete_adjoint import pull_cotangents, stored_memory
from refnode.sensitivity.forward_solve import check_first_call, require_finished
from refnode.sensitivity.gradient import (
    LossSeeds, array_of, check_if_asked, checked_call, gradient, require_loss, solution_without_cost)
from refnode.sensitivity.recipes import recipe_chosen
from refnode.sensitivity.reliability import solved_tolerance, warn_of_horizon
from refnode.sensitivity.tangent_check import check_wanted, is_due, warn_if_unresolved
from refnode.solve.initial_value import forward_trajectory
from refnode.solve.run import entry_point


class GradientFunction:
    """`gradient` of one problem as a function of its initial value and its parameters.

    Options, tolerances and times are checked once, and for "discrete" the solves share their arrays. The numbers
    are those of `gradient`, bit by bit. With ``specialize=True``, which compiles the solver for the field and the
    method, this is the quickest way to the gradients of a small system.

    Parameters
    ----------
    problem : Problem
        With a loss. Its y0 and theta are those taken where a call gives none.
    sensitivity, truth, **options
        As for `gradient`, without ``device``.

    Raises
    ------
    As `gradient`. An object belongs to one thread.

    Examples
    --------
    >>> evaluate = refnode.GradientFunction(problem, rtol=1e-8, atol=1e-8, specialize=True)
    >>> found = evaluate(theta=theta)
    >>> found.loss, found.theta
    """

    def __init__(self, problem, sensitivity=None, *, truth=None, **options):
        require_problem(problem)
        require_loss(problem)
        self.start = problem.y0.copy(), problem.theta.copy()
        self.problem = problem.replace(y0=problem.y0.copy(), theta=problem.theta.copy())
        self.sensitivity = recipe_chosen(sensitivity, truth)
        check_if_asked(problem, options)
        self.given = dict(options)
        real = real_named(options.pop("dtype", "float64"))
        self.recipe, self.own, self.options = checked_call(self.problem, self.sensitivity, options, real)
        self.repeats = (self.sensitivity == "discrete" and real == "float64" and self.options.scheme is None
                        and self.own.get("control", "state") == "state")
        self.trajectory = None

    def __repr__(self):
        return f"<GradientFunction of {self.problem!r} by {self.sensitivity!r}>"

    def __call__(self, y0=None, theta=None):
        """The `Gradient` at y0 (n,) and theta (p,).

        Raises
        ------
        InvalidInputError
            If one has another shape, or an entry that is not finite.
        """
        problem = self.problem
        problem.y0[:] = self.start[0] if y0 is None else array_of("y0", y0, problem.y0.shape)
        problem.theta[:] = self.start[1] if theta is None else array_of("theta", theta, problem.theta.shape)
        problem.flow_y0[:problem.y0.size] = problem.y0          # which is an array of its own beside a running cost
        if not self.repeats:
            fresh = problem.replace(y0=problem.y0.copy(), theta=problem.theta.copy())
            return gradient(fresh, self.sensitivity, **self.given)
        forward, stats = self.solved(), {}
        if self.check is True or (self.check and is_due(problem, self.options, forward)):
            stats["tangent_error"] = warn_if_unresolved(problem, forward, 3)
        loss = LossSeeds(problem)
        seeds = loss(forward)
        y0_bar, theta_bar = pull_cotangents(forward, seeds)
        times_bar, growth = self.of_times(forward, seeds, y0_bar)
        warn_of_horizon(growth, solved_tolerance(forward), 3)
        loss.warn_if_unread(3)
        t0_bar, t1_bar, ts_bar = ends_and_observations(problem, times_bar)
        return Gradient(y0_bar[:problem.y0.size], theta_bar, t0_bar, t1_bar, ts_bar, stats_of(forward, growth, stats),
                        loss.value, self.sensitivity, self.result_of(forward))

    def solved(self):
        """The finished forward solve, in the arrays of the one before, but for the observations."""
        solve = self.trajectory or self.prepared()
        solve.clock[:], solve.counts[:] = solve.clock_at_start, 0
        solve.ys = np.empty_like(solve.ys)
        solve.y[0] = solve.y_start
        require_finished(solve, solve.run(*self.entry), "the forward solve")
        return solve

    def prepared(self):
        """Makes the solve, and what its cotangents of times are computed with."""
        problem, field, n = self.problem, self.problem.flow_field, self.problem.flow_y0.size
        check_first_call(problem)
        self.check = check_wanted(problem, self.options, self.own)
        self.entry_of_slopes, self.functions = entry_point(slopes_at, field, False, "f")
        self.slopes, self.growth = np.empty((problem.ts.size + 2, n)), np.empty(1)
        solve = forward_trajectory(field, problem.flow_y0, problem, self.options, keep=True, keep_tape=True)
        self.entry = entry_point(solve.driver, field, self.options.specialized_to(n), "f")
        self.trajectory = solve
        return solve

    def of_times(self, forward, seeds, y0_bar):
        """`time_cotangents`, in the arrays of the call before."""
        problem, times_bar = self.problem, np.empty(len(self.slopes))
        self.entry_of_slopes(*self.functions, (
            problem.t0, problem.flow_y0, problem.ts, forward.ys, problem.t1, forward.y1, problem.theta, forward.tape[-1],
            self.slopes, seeds.ys_bar, seeds.y1_bar, y0_bar, times_bar, self.growth))
        return times_bar, float(self.growth[0])

    def result_of(self, forward):
        """The `Solution` of a solve whose arrays the next one takes, for who asks for it."""
        problem = self.problem
        kept = {"last": forward.y1.copy(), "times": forward.times[:forward.n_steps + 1].copy(), "counts": forward.counts.copy(),
                "ys": forward.ys, "storage": None}

        def solution():
            twin = forward.twin()
            vars(twin).update(kept)
            return solution_without_cost(twin, problem)
        return solution


def stats_of(forward, growth, found):
    """What a repeated solve and its transpose counted."""
    stats = forward_stats(forward)
    return {**stats, "n_steps_reverse": stats["n_steps"], **stored_memory(forward), "growth": growth, **found}
