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
    reversal : str or None
        How the reverse sweep gets y back.
    quadrature : "augmented", "gauss", "gauss_kronrod", "adaptive" or None
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


def _positive_integer(name, value):
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise InvalidInputError(f"{name} must be a positive integer, the number of states that may be held; "
                                f"found {value!r}")


def _boolean(name, value):
    if not isinstance(value, bool):
        raise InvalidInputError(f"{name} must be True or False, found {value!r}")


def _error_control(name, value):
    if value not in ("simultaneous", "staggered"):
        raise InvalidInputError(f"{name} must be 'simultaneous' or 'staggered', found {value!r}")


OWN_OPTIONS = {          # name -> what checks its value
    "adjoint_rtol": _positive, "adjoint_atol": _positive, "seminorm": _boolean, "checkpoints": _positive_integer,
    "tangent_rtol": _positive, "tangent_atol": _positive, "error_control": _error_control,
    "control": _control, "check_tangent": _check,
}
ADJOINT = ("adjoint_rtol", "adjoint_atol")
AUGMENTED = (*ADJOINT, "seminorm")
TANGENT = ("tangent_rtol", "tangent_atol", "error_control")
CHECKPOINTS = ("checkpoints",)
SEEN = ("control", "check_tangent", "tangent_rtol", "tangent_atol")

RECIPES = {
    #                          equation       reversal        quadrature   truth     needs  options
    "forward":          Recipe("variational", None,           None,        "exact",  "jvp", TANGENT,
                               "Dickinson & Gelinas, J. Comput. Phys. 21 (1976)"),
    "discrete_forward": Recipe("tangent",     "stored",       None,        "frozen", "jvp", SEEN,
                               "Griewank & Walther, Evaluating Derivatives (2008), ch. 3"),
    "discrete":         Recipe("transpose",   "stored",       None,        "frozen", "vjp", SEEN,
                               "Hager, Numer. Math. 87 (2000); Sanz-Serna, SIAM Rev. 58 (2016)"),
    "checkpointed":     Recipe("transpose",   "binomial",     None,        "frozen", "vjp", CHECKPOINTS,
                               "Griewank & Walther, ACM Trans. Math. Softw. 26 (2000)"),
    "online":           Recipe("transpose",   "online",       None,        "frozen", "vjp", CHECKPOINTS,
                               "Wang, Moin & Iaccarino, SIAM J. Sci. Comput. 31 (2009)"),
    "sqrt":             Recipe("transpose",   "uniform",      None,        "frozen", "vjp", (),
                               "Griewank & Walther, Evaluating Derivatives (2008), ch. 12"),
    "symplectic":       Recipe("transpose",   "partner",      None,        "frozen", "vjp", (),
                               "Sanz-Serna, SIAM Rev. 58 (2016); Matsubara et al., NeurIPS 2021"),
    "reversible":       Recipe("transpose",   "inverted",     None,        "frozen", "vjp", (),
                               "Zhuang et al., ICLR 2021; Kidger et al., NeurIPS 2021; McCallum & Foster (2024)"),
    "backsolve_plain":  Recipe("continuous",  "backsolved_plain", "augmented", "exact", "vjp", AUGMENTED,
                               "Chen, Rubanova, Bettencourt & Duvenaud, NeurIPS 2018, algorithm 1"),
    "backsolve_checkpointed":
                        Recipe("continuous",  "backsolved_checkpointed", "augmented", "exact", "vjp",
                               (*AUGMENTED, "checkpoints"), "Rackauckas et al., arXiv:2001.04385 (2020)"),
    "backsolve":        Recipe("continuous",  "backsolved",   "augmented", "exact",  "vjp", AUGMENTED,
                               "Chen, Rubanova, Bettencourt & Duvenaud, NeurIPS 2018, algorithm 2"),
    "interpolating":    Recipe("continuous",  "interpolated", "augmented", "exact",  "vjp", AUGMENTED,
                               "Hindmarsh & Serban, CVODES; Cao et al., SIAM J. Sci. Comput. 24 (2003)"),
    "quadrature":       Recipe("continuous",  "interpolated", "adaptive",  "exact",  "vjp", ADJOINT,
                               "Kim et al., Chaos 31 (2021); Piessens et al., QUADPACK (1983)"),
    "gauss":            Recipe("continuous",  "interpolated", "gauss",     "exact",  "vjp", ADJOINT,
                               "Norcliffe & Deisenroth, TMLR (2023)"),
    "gauss_kronrod":    Recipe("continuous",  "interpolated", "gauss_kronrod", "exact", "vjp", ADJOINT,
                               "Norcliffe & Deisenroth, TMLR (2023); Kronrod (1965)"),
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
