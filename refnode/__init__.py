"""refnode: Neural ODEs from scratch in NumPy and Numba, every derivative written by hand and proved."""
from refnode import fields, gradcheck, losses, optimisers, problems
from refnode._version import __version__
from refnode.errors import (
    CacheWarning, GradientMismatch, GradientWarning, IntegrationError, InvalidInputError, InvalidTypeError,
    MissingDerivativeError, RefnodeError)

# a problem
from refnode.fields.field import VectorField
from refnode.problems.batch_problem import Batch
from refnode.problems.problem import Problem

# its solution
from refnode.solve.initial_value import solve
from refnode.solve.batch import solve_batch
from refnode.solve.solve_ivp import solve_ivp

# the derivatives of its solution
from refnode.sensitivity.gradient import gradient, jvp, vjp
from refnode.sensitivity.batch_gradient import gradient_batch
from refnode.sensitivity.second_order import gauss_newton, hvp

# and their proof
from refnode.gradcheck.verdict import check_gradient


def __getattr__(name):
    """Of fields and of the gradients of others, too: `check_field`, `check_ode`, imported when first asked for."""
    if name == "check_ode":
        from refnode.conformance.check_ode import check_ode
        return check_ode
    if name == "check_field":
        from refnode.field_check import check_field
        return check_field
    raise AttributeError(f"module 'refnode' has no attribute {name!r}")
