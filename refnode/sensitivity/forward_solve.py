"""The forward solve a sensitivity method builds on."""
from refnode.errors import IntegrationError
from refnode.solve.initial_value import solve_forward
from refnode.solve.integrate import FINISHED
from refnode.solve.solution import solution_of


def solved(problem, options, *, keep, keep_tape=False, dense=False, grid=None):
    """The finished trajectory of a problem's flow, or IntegrationError carrying what was computed."""
    check_first_call(problem)
    trajectory, status = solve_forward(problem.flow_field, problem.flow_y0, problem, options,
                                       keep=keep, keep_tape=keep_tape, dense=dense, grid=grid)
    require_finished(trajectory, status, "the forward solve")
    return trajectory


def check_first_call(problem):
    """Check the user's functions; those of a flow with a running cost are the package's own."""
    problem.field.check_first_call(problem.t0, problem.y0, problem.theta)
    problem.field.check_derivatives(problem.t0, problem.y0, problem.theta)


def require_finished(trajectory, status, what):
    """Raise IntegrationError, with the `Solution`, unless the trajectory reached its end."""
    if status != FINISHED:
        solution = solution_of(trajectory, status)
        raise IntegrationError(f"{what} failed: {solution.message}", solution)
