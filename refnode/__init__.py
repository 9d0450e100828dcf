"""refnode: Neural ODEs from scratch in NumPy and Numba, every derivative written by hand and proved."""
from refnode import fields, losses, optimisers, problems
from refnode._version import __version__
from refnode.errors import (
    BackendError, CacheWarning, GradientMismatch, GradientWarning, IntegrationError, InvalidInputError, InvalidTypeError,
    MissingDerivativeError, ProblemFileError, RefnodeError)

# a problem, its solution, the derivatives of its solution, and their proof
from refnode.fields.field import VectorField
from refnode.problems.problem import Problem
from refnode.solve.initial_value import solve
from refnode.solve.solve_ivp import solve_ivp
from refnode.sensitivity.gradient import gradient, jvp, vjp
from refnode.when_asked_for import importer

__getattr__, __dir__ = importer(globals(), {
    "GradientFunction": "refnode.sensitivity.gradient_function",        # gradients in a loop
    "Batch": "refnode.problems.batch_problem",                  # many problems at once
    "solve_batch": "refnode.solve.batch",
    "gradient_batch": "refnode.sensitivity.batch_gradient",
    "hvp": "refnode.sensitivity.second_order",                  # second derivatives
    "gauss_newton": "refnode.sensitivity.second_order",
    "check_field": "refnode.field_check",                       # of a field's jvp, vjp and hvp
    "check_gradient": "refnode.gradcheck.verdict",              # of any gradient of any function
    "check_ode": "refnode.conformance.check_ode",               # of another program's gradients
    "gradcheck": "refnode.gradcheck",
})
