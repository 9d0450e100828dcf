"""refnode: Neural ODEs from scratch in NumPy and Numba, every derivative written by hand and proved."""
from refnode import fields, losses, problems
from refnode._version import __version__
from refnode.errors import (
    CacheWarning, GradientMismatch, GradientWarning, IntegrationError, InvalidInputError, InvalidTypeError,
    MissingDerivativeError, RefnodeError)
from refnode.fields.field import VectorField
from refnode.problems.problem import Problem
from refnode.sensitivity.gradient import gradient, jvp, vjp
from refnode.solve.initial_value import solve
from refnode.solve.solve_ivp import solve_ivp
