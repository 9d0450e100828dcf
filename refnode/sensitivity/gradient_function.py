"""Loss and gradient as a function of y0 and theta, for loops: what does not depend on these is done once."""
from refnode.checks import require_problem
from refnode.cuda_device import real_named
from refnode.sensitivity.cotangents import Gradient
from refnode.sensitivity.forward_solve import check_first_call, require_finished
from refnode.sensitivity.gradient import (
    LossSeeds, array_of, check_if_asked, checked_call, gradient, require_loss, solution_without_cost)
from refnode.sensitivity.recipes import recipe_chosen
from refnode.sensitivity.tangent_check import pull_resolved
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
        self.repeats = (self.sensitivity == "discrete" and self.options.scheme is None
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
        loss = LossSeeds(problem)
        cotangents, forward = pull_resolved(problem, self.recipe, self.options, self.own, loss, self.solved)
        loss.warn_if_unread(3)
        forward = detached(forward)
        return Gradient(**vars(cotangents), loss=loss.value, sensitivity=self.sensitivity,
                        forward=lambda: solution_without_cost(forward, problem))

    def solved(self):
        """The finished forward solve, in the arrays of the one before."""
        if self.trajectory is None:
            check_first_call(self.problem)
            self.trajectory = forward_trajectory(self.problem.flow_field, self.problem.flow_y0, self.problem, self.options,
                                                 keep=True, keep_tape=True)
            self.entry = entry_point(self.trajectory.driver, self.problem.flow_field,
                                     self.options.specialized_to(self.problem.flow_y0.size), "f")
        self.trajectory = self.trajectory.again()
        require_finished(self.trajectory, self.trajectory.run(*self.entry), "the forward solve")
        return self.trajectory


def detached(trajectory):
    """A finished solve as its result keeps it, when the next one takes its arrays."""
    kept = trajectory.twin()
    kept.last, kept.times = trajectory.y1.copy(), trajectory.times[:trajectory.n_steps + 1].copy()
    kept.storage = None
    return kept
