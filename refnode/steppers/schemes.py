"""The reversible methods by name, and one step of any of them: a code chooses the body.

One driver a direction so serves all five; see `refnode.steppers.reversible` and `.symplectic` for the
steps themselves. Their state x has ``rows`` rows of n numbers, y in the first.
"""
import collections
import dataclasses
import functools
import numbers
import re

import numpy as np

from refnode.errors import InvalidInputError
from refnode.host_device import higher_order
from refnode.linalg import copy_into
from refnode.steppers.reversible import (
    alf_step, alf_step_inverse, alf_step_jvp, alf_step_vjp, coupled_step, coupled_step_inverse, coupled_step_jvp,
    coupled_step_vjp, reversible_heun_step, reversible_heun_step_inverse, reversible_heun_step_jvp,
    reversible_heun_step_vjp)
from refnode.steppers.symplectic import (
    symplectic_step, symplectic_step_inverse, symplectic_step_jvp, symplectic_step_vjp)
from refnode.steppers.tableaus import tableau

ALF, REVERSIBLE_HEUN, COUPLED, SYMPLECTIC = range(4)                                # code

# code, evaluations a step, and the coefficients: A, b, c of the coupled method, or b = kicks and c = drifts
Scheme = collections.namedtuple("Scheme", ["code", "cost", "coupling", "A", "b", "c"])


# --- one step of any scheme -------------------------------------------------------------------------

@higher_order
def reversible_start(f, scheme, t, y, theta, at, x):
    """The first state: z = y, v = f(t, y), in the rows the scheme has. Implements (REV-16)."""
    f(t, y, theta, at.tape[0], at.k[0])
    copy_into(y, x[0])
    if scheme.code == REVERSIBLE_HEUN or scheme.code == COUPLED:
        copy_into(y, x[1])
    if scheme.code == REVERSIBLE_HEUN or scheme.code == ALF:
        copy_into(at.k[0], x[x.shape[0] - 1])


@higher_order
def reversible_start_jvp(f, f_jvp, scheme, t, y, theta, theta_tan, at, x_tan):
    """The tangent of `reversible_start`: fills the rows of x_tan below the first. Implements (REV-17)."""
    if scheme.code == REVERSIBLE_HEUN or scheme.code == COUPLED:
        copy_into(x_tan[0], x_tan[1])
    if scheme.code == REVERSIBLE_HEUN or scheme.code == ALF:
        f(t, y, theta, at.tape[0], at.k[0])
        f_jvp(t, y, theta, 0.0, x_tan[0], theta_tan, at.tape[0], x_tan[x_tan.shape[0] - 1])


@higher_order
def reversible_start_vjp(f, f_vjp, scheme, t, y, theta, at, t_bar, x_bar, theta_bar):
    """The transpose of `reversible_start`: adds all rows of x_bar to the first, y_bar. Implements (REV-18)."""
    if scheme.code == REVERSIBLE_HEUN or scheme.code == COUPLED:
        for m in range(y.shape[0]):
            x_bar[0, m] += x_bar[1, m]                          # z = y
    if scheme.code == REVERSIBLE_HEUN or scheme.code == ALF:
        f(t, y, theta, at.tape[0], at.k[0])
        f_vjp(t, y, theta, at.tape[0], x_bar[x_bar.shape[0] - 1], t_bar, x_bar[0], theta_bar)     # v = f(t, y)


@higher_order
def reversible_step(f, scheme, t, h, x, theta, at, x1):
    """One step of the scheme: overwrites x1 and ``at``."""
    if scheme.code == ALF:
        alf_step(f, t, h, x, theta, at, x1)
    elif scheme.code == REVERSIBLE_HEUN:
        reversible_heun_step(f, t, h, x, theta, at, x1)
    elif scheme.code == COUPLED:
        coupled_step(f, scheme.coupling, scheme.A, scheme.b, scheme.c, t, h, x, theta, at, x1)
    else:
        symplectic_step(f, scheme.b, scheme.c, t, h, x[0], theta, at, x1[0])


@higher_order
def reversible_step_jvp(f_jvp, scheme, t, h, theta, x_tan, theta_tan, at, z_tan, k_tan, x1_tan):
    """The tangent of the step that left ``at``: overwrites x1_tan."""
    if scheme.code == ALF:
        alf_step_jvp(f_jvp, t, h, theta, x_tan, theta_tan, at, z_tan, k_tan, x1_tan)
    elif scheme.code == REVERSIBLE_HEUN:
        reversible_heun_step_jvp(f_jvp, t, h, theta, x_tan, theta_tan, at, x1_tan)
    elif scheme.code == COUPLED:
        coupled_step_jvp(f_jvp, scheme.coupling, scheme.A, scheme.b, scheme.c, t, h, theta, x_tan, theta_tan, at,
                         z_tan, k_tan, x1_tan)
    else:
        symplectic_step_jvp(f_jvp, scheme.b, scheme.c, t, h, theta, x_tan[0], theta_tan, at, k_tan, x1_tan[0])


@higher_order
def reversible_step_vjp(f_vjp, scheme, t, h, theta, at, z_bar, k_bar, t_bar, x_bar, theta_bar):
    """The transpose of the step, or undone step, that left ``at``: x_bar becomes that of x, theta_bar grows."""
    if scheme.code == ALF:
        alf_step_vjp(f_vjp, t, h, theta, at, k_bar, t_bar, x_bar, theta_bar)
    elif scheme.code == REVERSIBLE_HEUN:
        reversible_heun_step_vjp(f_vjp, t, h, theta, at, t_bar, x_bar, theta_bar)
    elif scheme.code == COUPLED:
        coupled_step_vjp(f_vjp, scheme.coupling, scheme.A, scheme.b, scheme.c, t, h, theta, at, z_bar, k_bar,
                         t_bar, x_bar, theta_bar)
    else:
        symplectic_step_vjp(f_vjp, scheme.b, scheme.c, t, h, theta, at, k_bar[0], t_bar, x_bar[0], theta_bar)


@higher_order
def reversible_step_inverse(f, scheme, t, h, x1, theta, at, x):
    """The step from t to t + h undone: overwrites x, and ``at`` as the step left it."""
    if scheme.code == ALF:
        alf_step_inverse(f, t, h, x1, theta, at, x)
    elif scheme.code == REVERSIBLE_HEUN:
        reversible_heun_step_inverse(f, t, h, x1, theta, at, x)
    elif scheme.code == COUPLED:
        coupled_step_inverse(f, scheme.coupling, scheme.A, scheme.b, scheme.c, t, h, x1, theta, at, x)
    else:
        symplectic_step_inverse(f, scheme.b, scheme.c, t, h, x1[0], theta, at, x[0])


# --- by name ----------------------------------------------------------------------------------------

@dataclasses.dataclass(frozen=True, eq=False)
class ReversibleMethod:
    """A method with an inverse step, for given steps.

    Attributes
    ----------
    name, source : str
    code : int
        Which body of `reversible_step` it is.
    order : int
    rows : int
        Of its state, y in the first.
    cost : int
        Evaluations of f a step, and an undone step.
    separable : bool
        Whether it needs y = (q, p) with dq/dt independent of q and dp/dt of p.
    coupling : float
        Of McCallum and Foster's method; undoing a step divides by it.
    A, b, c : ndarray
        The tableau it couples, or b = kicks and c = drifts.
    """

    name: str
    source: str
    code: int
    order: int
    rows: int
    cost: int
    separable: bool = False
    coupling: float = 1.0
    A: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 0)))
    b: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))
    c: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))

    adaptive = False

    def evaluations(self, n):
        """Rows of `Evaluations` for n states: a symplectic method has one more, for a running cost."""
        return 2 * self.b.size + 1 if self.code == SYMPLECTIC else self.cost

    def coefficients(self, n):
        """The fields of `Scheme`, as the drivers take them, for n states."""
        more = n % 2 if self.code == SYMPLECTIC else 0
        return self.code, self.cost + more, self.coupling, self.A, self.b, self.c


@functools.lru_cache(maxsize=32)
def mccallum_foster(method="rk4", coupling=0.999):
    """The coupling of an explicit Runge-Kutta method with itself, which has its order and an inverse.

    Parameters
    ----------
    method : str or ButcherTableau
    coupling : float
        Above 0 and at most 1. Below 1 it damps the difference of the two copies, which at 1 lives on, and
        undoing N steps enlarges rounding errors up to coupling**-N times.

    Raises
    ------
    InvalidInputError
    """
    if not (isinstance(coupling, numbers.Real) and 0.0 < coupling <= 1.0):
        raise InvalidInputError(f"coupling must be above 0 and at most 1, found {coupling!r}")
    table = tableau(method)
    return ReversibleMethod(
        f"mccallum_foster({table.name}, {coupling:g})", "McCallum & Foster, arXiv:2410.11648 (2024)", COUPLED,
        table.order, 2, 2 * table.s, coupling=float(coupling), A=table.A_array, b=table.b_array, c=table.c_array)


REVERSIBLE = {method.name: method for method in (
    ReversibleMethod("alf", "Mutze, arXiv:1311.6602 (2013); Zhuang et al., ICLR 2021", ALF, 2, 2, 1),
    ReversibleMethod("reversible_heun", "Kidger, Foster, Li & Lyons, NeurIPS 2021", REVERSIBLE_HEUN, 2, 3, 1),
    ReversibleMethod("leapfrog", "Hairer, Lubich & Wanner (2006), I.1.4", SYMPLECTIC, 2, 1, 3, separable=True,
                     b=np.array([0.5, 0.5]), c=np.array([1.0, 0.0])),
    ReversibleMethod("semi_implicit_euler", "Hairer, Lubich & Wanner (2006), I.1.2", SYMPLECTIC, 1, 1, 2,
                     separable=True, b=np.array([1.0]), c=np.array([1.0])))}

COUPLED_NAME = re.compile(r"mccallum_foster(?:\(\s*(\w+)\s*(?:,\s*([^)]+?)\s*)?\))?")
REVERSIBLE_NAMES = (*REVERSIBLE, "mccallum_foster(METHOD) of any explicit Runge-Kutta METHOD")


def reversible_method(name):
    """The `ReversibleMethod` of that name, or None if it is no reversible method's.

    ``"mccallum_foster(bosh3)"`` and ``"mccallum_foster(bosh3, 0.99)"`` couple bosh3, ``"mccallum_foster"`` rk4.
    """
    if isinstance(name, ReversibleMethod):
        return name
    key = str(name).lower()
    match = COUPLED_NAME.fullmatch(key)
    if match is None:
        return REVERSIBLE.get(key)
    return mccallum_foster(match.group(1) or "rk4", 0.999 if match.group(2) is None else _number(match.group(2)))


def _number(text):
    try:
        return float(text)
    except ValueError:
        return text
