"""The forward solve of a model: with those options of a gradient that a solve takes, and refused where it fails.

A solution that ended early has a state, that of the time it reached. A model that read it would return a loss, a
density or a class which mean nothing.
"""
import dataclasses

from refnode.errors import IntegrationError
from refnode.solve.initial_value import solve
from refnode.solve.options import SolveOptions

NAMES_OF_SOLVES = frozenset(field.name for field in dataclasses.fields(SolveOptions))


def solved(problem, options):
    """`refnode.solve` with those of the options of a gradient that a solve takes.

    Raises
    ------
    IntegrationError
        If the solve fails.
    """
    solution = solve(problem, **{name: value for name, value in options.items() if name in NAMES_OF_SOLVES})
    if not solution.success:
        raise IntegrationError(f"the solve of the model failed: {solution.message}", solution)
    return solution
