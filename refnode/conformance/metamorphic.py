"""Problems made from a problem, whose right answers follow from its own: each caught a real defect in some library.

A transformation turns a problem as data into another one and says what becomes of loss and gradient. It returns None
where it does not apply.
"""
import ast
from dataclasses import dataclass

import numpy as np

from refnode.fields.expressions import checked_tree
from refnode.problems.reference_problem import switches_of

SCALE, SHIFT, UNIT, PADDING = 30, 8.0, 10, 64
WEIGHT = 0.5                     # of the observation added at t0


@dataclass(frozen=True)
class Transformation:
    """A test: its name, the mistake it shows, and ``apply(data, gradient, loss) -> (data, gradient, loss) or None``.

    `gradient` holds what is right for "y0" and "theta".
    """

    name: str
    shows: str
    apply: object


def _loss_scaled(power):
    def apply(data, gradient, loss):
        factor = 2.0 ** power
        scaled = {**data["loss"], "scale": factor * float(data["loss"].get("scale", 1.0))}
        return {**data, "loss": scaled}, {key: factor * value for key, value in gradient.items()}, factor * loss
    return apply


def _weightless(data, gradient, loss):
    """One more observation in the middle, of weight zero."""
    if data["loss"]["kind"] != "linear" or data["ts"] is None:
        return None
    ts, middle = list(data["ts"]), 0.5 * (data["t0"] + data["ts"][-1])
    place = int(np.searchsorted(np.array(ts) * np.sign(data["t1"] - data["t0"]), middle * np.sign(data["t1"] - data["t0"])))
    weights = np.insert(np.array(data["loss"]["weights"], dtype=float), place, 0.0, axis=1)
    return ({**data, "ts": ts[:place] + [middle] + ts[place:], "loss": {**data["loss"], "weights": weights.tolist()}},
            gradient, loss)


def _observed_at_t0(data, gradient, loss):
    """One more observation at t0 itself: it adds to the gradient for y0 alone."""
    kind, y0 = data["loss"]["kind"], np.array(data["y0"], dtype=float)
    if kind not in ("linear", "sumsq") or data["ts"] is None or data["loss"].get("scale", 1.0) != 1.0:
        return None
    key = {"linear": "weights", "sumsq": "data"}[kind]
    old = data["loss"][key]
    table = np.zeros((y0.size, len(data["ts"]))) if old is None else np.array(old, dtype=float)
    column = np.full(y0.size, WEIGHT) if kind == "linear" else y0 - WEIGHT / 2
    added = WEIGHT * y0.sum() if kind == "linear" else y0.size * (WEIGHT / 2) ** 2
    changed = {**data["loss"], key: np.column_stack([column, table]).tolist()}
    return ({**data, "ts": [data["t0"], *data["ts"]], "loss": changed}, {**gradient, "y0": gradient["y0"] + WEIGHT},
            loss + added)


def _times(function):
    """All times moved, and the text of f with them."""
    def apply(data, gradient, loss):
        if not _has_texts(data["rhs"]) or _mentions_running(data["loss"]):
            return None
        ts = None if data["ts"] is None else [function.of(t) for t in data["ts"]]
        rhs = _rewritten(data["rhs"], lambda text: function.rate(function.text(text)), function.text)
        return {**data, "rhs": rhs, "t0": function.of(data["t0"]), "t1": function.of(data["t1"]), "ts": ts}, gradient, loss
    return apply


def _has_texts(rhs):
    """Whether f is texts, and switches, if there are any, are by the state: where it is reached does not depend on how time counts."""
    return "expr" in rhs or "pieces" in rhs and all("state" in switch for switch in switches_of(rhs))


def _rewritten(rhs, rate, guard, more=()):
    """f with every text of a rate, and every one of a switch, replaced, and texts of ``more`` states."""
    if "expr" in rhs:
        return {"expr": [*map(rate, rhs["expr"]), *more]}
    switches = [{"state": guard(switch["state"])} for switch in switches_of(rhs)]
    return {"pieces": [_rewritten(piece, rate, guard, more) for piece in rhs["pieces"]],
            "switch": switches if isinstance(rhs["switch"], list) else switches[0]}


class _Shifted:
    of = staticmethod(lambda t: t + SHIFT)
    text = staticmethod(lambda text: renamed(text, {"t": f"(t - {SHIFT})"}))
    rate = staticmethod(lambda text: text)


class _Reversed:
    of = staticmethod(lambda t: -t)
    text = staticmethod(lambda text: renamed(text, {"t": "(-t)"}))
    rate = staticmethod(lambda text: f"-({text})")


def _other_unit(data, gradient, loss):
    """The state in a unit 2^10 times smaller."""
    kind, factor = data["loss"]["kind"], 2.0 ** UNIT
    if not _has_texts(data["rhs"]) or kind not in ("linear", "sumsq"):
        return None
    def new(text):
        return renamed(text, {"y": f"(y[%d]/{factor})"})
    if kind == "linear":
        changed = {**data["loss"], "weights": (np.array(data["loss"]["weights"]) / factor).tolist()}
    else:
        old = data["loss"]["data"]
        changed = {**data["loss"], "data": None if old is None else (factor * np.array(old)).tolist(),
                   "scale": data["loss"].get("scale", 1.0) / factor ** 2}
    rhs = _rewritten(data["rhs"], lambda text: f"{factor}*({new(text)})", new)
    return ({**data, "rhs": rhs, "y0": [factor * y for y in data["y0"]], "loss": changed}, {**gradient, "y0": gradient["y0"] / factor}, loss)


def _padded(data, gradient, loss):
    """A batch filled up with samples at rest: more states, that stay at 0 and are not observed."""
    kind, n = data["loss"]["kind"], len(data["y0"])
    if not _has_texts(data["rhs"]) or kind not in ("linear", "sumsq"):
        return None
    count = 1 if data["ts"] is None else len(data["ts"])
    key = {"linear": "weights", "sumsq": "data"}[kind]
    old = data["loss"][key]
    table = np.zeros((n, count)) if old is None else np.array(old, dtype=float)
    rest = [f"-y[{n + i}]" for i in range(PADDING)]
    rhs = _rewritten(data["rhs"], str, str, rest)
    return ({**data, "rhs": rhs, "y0": [*data["y0"], *([0.0] * PADDING)],
             "names": {}, "loss": {**data["loss"], key: np.vstack([table, np.zeros((PADDING, count))]).tolist()}},
            gradient, loss)


def _mentions_running(loss):
    return loss["kind"] == "running" or any(_mentions_running(term) for term in loss.get("terms", ()))


class _Renaming(ast.NodeTransformer):
    """Variables of a checked expression replaced by expressions."""

    def __init__(self, table):
        self.table = table

    def visit_Name(self, node):                                  # noqa: N802
        return ast.parse(self.table["t"], mode="eval").body if node.id == "t" and "t" in self.table else node

    def visit_Subscript(self, node):                             # noqa: N802
        if node.value.id == "y" and "y" in self.table:
            return ast.parse(self.table["y"] % node.slice.value, mode="eval").body
        return node


def renamed(text, table):
    """The text with t, or every y[i], replaced."""
    return ast.unparse(ast.fix_missing_locations(_Renaming(table).visit(checked_tree(0, text))))


TRANSFORMATIONS = (
    Transformation("loss × 2^-30", "absolute_tolerance_on_adjoint", _loss_scaled(-SCALE)),
    Transformation("loss × 2^30", "absolute_tolerance_on_adjoint", _loss_scaled(SCALE)),
    Transformation("an observation of weight 0", "interior_jumps_missing", _weightless),
    Transformation("t0 observed", "first_jump_missing", _observed_at_t0),
    Transformation(f"time + {SHIFT:g}", "time_cast_to_single", _times(_Shifted)),
    Transformation("time reversed", "sign", _times(_Reversed)),
    Transformation(f"state × 2^{UNIT}", "absolute_tolerance_on_adjoint", _other_unit),
    Transformation(f"{PADDING} samples at rest", "batch_dilution", _padded),
)
