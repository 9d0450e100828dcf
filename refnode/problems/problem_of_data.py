"""A `Problem` from its form as data: the hand-written one of the reference set, or one whose derivatives SymPy derives."""
import copy
import functools

import numpy as np

from refnode import losses
from refnode.errors import InvalidInputError
from refnode.fields.field import VectorField
from refnode.fields.neural import mlp_field
from refnode.interchange.canonical_json import problem_sha256
from refnode.interchange.problem_file import checked_problem
from refnode.problems.problem import Problem
from refnode.problems.reference_losses import FINAL, RUNNING, loss_of


def reference_of(data):
    """The `ReferenceProblem` that this is, by the hash of its content; None if it is none."""
    from refnode.problems.reference_set import REFERENCE_PROBLEMS        # late: the set is built when asked for
    same = REFERENCE_PROBLEMS.get(data.get("id"))
    asked = problem_sha256({key: value for key, value in data.items() if key not in ("solver", "want")})
    return same if same is not None and problem_sha256(same.to_dict()) == asked else None


def problem_of(data):
    """The `Problem` that the data of a problem file describe.

    Parameters
    ----------
    data : dict
        As `interchange.problem_file.read_problem` returns it.

    Returns
    -------
    Problem
        With derivatives written by hand where the problem is of the reference set, or its right-hand side a network;
        else derived by SymPy (optional extra ``symbolic``).

    Raises
    ------
    InvalidInputError
        If the right-hand side has a switch, and the problem is not of the reference set.
    ImportError
        If SymPy is needed and not installed.
    """
    same = reference_of(data)
    if same is not None:
        return same.problem
    n, p = len(data["y0"]), len(data["theta"])
    count = 1 if data.get("ts") is None else len(data["ts"])
    return Problem(_field(data["rhs"], n, p), data["y0"], data["theta"], (data["t0"], data["t1"]), data.get("ts"),
                   loss=_loss(data["loss"], n, p, count), name=data.get("id"))


class DataProblem:
    """A problem as data, with what a checker asks of a `ReferenceProblem`.

    Attributes
    ----------
    id : str
    rhs : dict
    record : ReferenceProblem or None
        The same problem in the reference set.
    kappa : float or None
        Its condition number, known of reference problems.
    fixed : bool
        Whether the steps are given.
    """

    def __init__(self, data):
        self._data, self.record = checked_problem(data), reference_of(data)
        self.id, self.rhs = self._data.get("id", "problem"), self._data["rhs"]
        if self.record is None:                  # it may have kept the id of the reference problem it was made from
            self.id = f"{self.id} (of your own)"
        self.kappa = None if self.record is None else self.record.kappa
        self.fixed = self._data.get("solver", {}).get("mode") == "fixed"

    def to_dict(self):
        """The problem as data."""
        return copy.deepcopy(self._data)

    @functools.cached_property
    def problem(self):
        """The `Problem` that refnode solves."""
        return problem_of(self._data)


@functools.lru_cache(maxsize=32)
def derived_field(texts, n, p):
    """A field from texts; kept, since deriving and compiling one takes seconds."""
    return VectorField.from_expressions(texts, n=n, p=p, show=False)


def _field(rhs, n, p):
    if "expr" in rhs:
        return derived_field(tuple(rhs["expr"]), n, p)
    if "mlp" in rhs:
        mlp = rhs["mlp"]
        return mlp_field(tuple(mlp["layers"]), mlp["act"], mlp.get("batch", 1), mlp.get("time_input", False))
    raise InvalidInputError("rhs: refnode solves a problem of your own with {\"expr\"} or {\"mlp\"}; one with a switch must be a "
                            "reference problem, unchanged")


# --- losses ---------------------------------------------------------------------------------------

def _loss(data, n, p, count):
    """The hand-written loss where there is one, else with derivatives from SymPy."""
    if data["kind"] == "sum":
        total, *others = [_loss({**term, "scale": term.get("scale", 1.0) * data.get("scale", 1.0)}, n, p, count)
                          for term in data["terms"]]
        for other in others:
            total = total + other
        return total
    scale = float(data.get("scale", 1.0))
    if data["kind"] == "running" and (data["expr"] not in RUNNING or scale != 1.0):
        return losses.running_cost(*derived_cost(f"({data['expr']})*{scale!r}", n, p))
    if data["kind"] == "final" and data["expr"] not in FINAL:
        loss = losses.terminal(*derived_terminal(data["expr"], n))
        return loss if scale == 1.0 else losses.scaled(loss, scale)
    return loss_of({"data": None, **data}, n, count)


def _one_text(text, n, p):
    """A field whose first component is the text, so that its derivatives are the text's."""
    return derived_field((text,) + ("0",) * (n - 1), n, p)


def derived_terminal(text, n):
    """phi, phi_grad and phi_hvp of a function of y(t1)."""
    field, theta = _one_text(text, n, 0), np.empty(0)
    tape, unit = field.new_tape(1)[0], np.eye(n)[0]

    def phi(y1):
        return float(field(0.0, y1, theta)[0])

    def phi_grad(y1):
        y_bar = np.zeros(n)
        field.vjp(0.0, np.ascontiguousarray(y1), theta, tape, unit, np.zeros(1), y_bar, np.zeros(0))
        return y_bar

    def phi_hvp(y1, y1_tan):
        y_bar_tan = np.zeros(n)
        field.hvp(0.0, np.ascontiguousarray(y1), theta, 0.0, np.ascontiguousarray(y1_tan), theta, tape, unit, np.zeros(n),
                  np.zeros(1), y_bar_tan, np.zeros(0))
        return y_bar_tan

    return phi, phi_grad, phi_hvp


def derived_cost(text, n, p):
    """g, g_jvp, g_vjp and g_hvp of a running cost, plain Python around compiled functions."""
    field = _one_text(text, n, p)
    tape, rest = field.new_tape(1)[0], np.zeros(n - 1)

    def g(t, y, theta):
        return field(t, y, theta)[0]

    def g_jvp(t, y, theta, t_tan, y_tan, theta_tan):
        dy_tan = np.empty(n)
        field.jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan)
        return dy_tan[0]

    def g_vjp(t, y, theta, g_bar, t_bar, y_bar, theta_bar):
        field.vjp(t, y, theta, tape, np.append(g_bar, rest), t_bar, y_bar, theta_bar)

    def g_hvp(t, y, theta, t_tan, y_tan, theta_tan, g_bar, g_bar_tan, t_bar_tan, y_bar_tan, theta_bar_tan):
        field.hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, np.append(g_bar, rest), np.append(g_bar_tan, rest),
                  t_bar_tan, y_bar_tan, theta_bar_tan)

    return g, g_jvp, g_vjp, g_hvp
