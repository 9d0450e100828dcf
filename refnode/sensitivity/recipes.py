"""The published ways to differentiate a solve, as data: name -> (equation, reversal, quadrature)."""
import dataclasses
import numbers

from refnode.errors import InvalidInputError


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One way to differentiate a solve.

    Attributes
    ----------
    equation : "variational", "tangent", "transpose", "continuous", "through tangent" or "through transpose"
        What is integrated or summed: (VAR-1), (DISC-1), (DISC-2), (ADJ-2) with (ADJ-3), (THR-11) or (THR-15).
    reversal : "stored", "interpolated", "backsolved" or None
        How the reverse sweep gets y back.
    quadrature : "augmented" or None
        How the integral of lam^T df/dtheta is summed.
    truth : "exact", "frozen" or "through"
        The derivative it converges to, or equals: of the exact solution, of the steps taken with their
        times held, or of the whole program, through its choice of steps.
    needs : "jvp" or "vjp"
        The derivative of the field it uses.
    options : tuple of str
        The options it takes beside those of the solve, from `OWN_OPTIONS`.
    source : str
    """

    equation: str
    reversal: str | None
    quadrature: str | None
    truth: str
    needs: str
    options: tuple
    source: str


def _control(name, value):
    if value not in ("state", "tangent"):
        raise InvalidInputError(f"{name} must be 'state' or 'tangent', found {value!r}")


def _check(name, value):
    if not (value is True or value is False or value == "auto"):
        raise InvalidInputError(f"{name} must be True, False or 'auto', found {value!r}")


def _positive(name, value):
    if not (isinstance(value, numbers.Real) and value > 0):
        raise InvalidInputError(f"{name} must be a positive number, found {value!r}")


OWN_OPTIONS = {          # name -> what checks its value
    "adjoint_rtol": _positive, "adjoint_atol": _positive,
    "tangent_rtol": _positive, "tangent_atol": _positive,
    "control": _control, "check_tangent": _check,
}
ADJOINT = ("adjoint_rtol", "adjoint_atol")
TANGENT = ("tangent_rtol", "tangent_atol")
SEEN = ("control", "check_tangent", *TANGENT)

RECIPES = {
    #                          equation       reversal        quadrature   truth     needs  options
    "forward":          Recipe("variational", None,           None,        "exact",  "jvp", TANGENT,
                               "Dickinson & Gelinas, J. Comput. Phys. 21 (1976)"),
    "discrete_forward": Recipe("tangent",     "stored",       None,        "frozen", "jvp", SEEN,
                               "Griewank & Walther, Evaluating Derivatives (2008), ch. 3"),
    "discrete":         Recipe("transpose",   "stored",       None,        "frozen", "vjp", SEEN,
                               "Hager, Numer. Math. 87 (2000); Sanz-Serna, SIAM Rev. 58 (2016)"),
    "backsolve":        Recipe("continuous",  "backsolved",   "augmented", "exact",  "vjp", ADJOINT,
                               "Chen, Rubanova, Bettencourt & Duvenaud, NeurIPS 2018"),
    "interpolating":    Recipe("continuous",  "interpolated", "augmented", "exact",  "vjp", ADJOINT,
                               "Hindmarsh & Serban, CVODES; Cao et al., SIAM J. Sci. Comput. 24 (2003)"),
    "through_forward":  Recipe("through tangent", "stored",   None,        "through", "jvp", (),
                               "Griewank & Walther, Evaluating Derivatives (2008), ch. 3"),
    "through":          Recipe("through transpose", "stored", None,        "through", "vjp", (),
                               "Eberhard & Bischof, SIAM J. Sci. Comput. 21 (1999); Griewank & Walther (2008), ch. 3"),
}

NATURAL = {              # truth -> the recipe of a reverse door, and of jvp
    "exact": ("interpolating", "forward"),
    "frozen": ("discrete", "discrete_forward"),
    "through": ("through", "through_forward"),
}


def recipe_named(name):
    """The recipe of that name, or InvalidInputError listing the names there are."""
    if name not in RECIPES:
        raise InvalidInputError(f"sensitivity must be one of {list(RECIPES)}, found {name!r}")
    return RECIPES[name]


def recipe_chosen(sensitivity, truth, forward=False):
    """The name of the recipe asked for by name, by truth, or by both; by neither, the steps are frozen.

    Raises
    ------
    InvalidInputError
        If there is no such truth, or the recipe does not give it.
    """
    if truth is None:
        return NATURAL["frozen"][forward] if sensitivity is None else sensitivity
    if truth not in NATURAL:
        raise InvalidInputError(f"truth must be one of {list(NATURAL)}, found {truth!r}")
    if sensitivity is None:
        return NATURAL[truth][forward]
    if recipe_named(sensitivity).truth != truth:
        raise InvalidInputError(
            f"{sensitivity!r} gives the truth {RECIPES[sensitivity].truth!r}, not truth={truth!r}, which is given by "
            f"{[name for name, row in RECIPES.items() if row.truth == truth]}")
    return sensitivity
