"""The record of a reference problem: the same problem as data for any language, and as a `Problem` for refnode.

Inputs are dyadic rationals of at most 24 bits, exact in float32 and in float64, so that one reference value
serves every precision. A record knows no reference values; those are kept apart, under its hash.
"""
import copy
import dataclasses
import functools
import math

import numpy as np

from refnode.fields.field import VectorField
from refnode.interchange.canonical_json import problem_sha256
from refnode.problems.condition_numbers import CONDITION_NUMBERS
from refnode.problems.problem import Problem
from refnode.problems.reference_losses import loss_of

FORMAT, VERSION = "refnode.problem", 1


@dataclasses.dataclass(frozen=True, eq=False)
class ReferenceProblem:
    """A problem whose gradients are known.

    Attributes
    ----------
    id : str
        Such as "lotka_volterra/obs21": what stands before the slash is the subject.
    rhs : dict
        The right-hand side as data: {"expr": [text, ...]} in t, y[i], theta[j] and pi; {"mlp": {"layers", "act",
        "time_input", "layout"}}; or {"pieces": [{"expr": ...}, {"expr": ...}], "switch": {"time": text} or
        {"state": text}}, where the first piece holds while t is below the time, or while the state's text is below
        0, and the second from there on. A solution goes from the first to the second, once. With a list of switches,
        and one piece more, it goes from each to the next: which piece holds is a memory, and the next switch is where
        its text reaches 0 from below, of which the start of its piece, where it may be 0, is none. See `switches_of`.
    t0, t1 : float, [time]
    y0, theta : tuple of float, [state], [parameter]
    ts : tuple of float or None, [time]
        Observation times; None observes t1, and moves with it.
    loss : dict
        The loss as data; see `reference_losses.loss_of`.
    names : dict
        {"y": [...], "theta": [...]}.
    field : VectorField
        Hand-written, equal to ``rhs``; with jvp, vjp and hvp. With several switches it has no memory to be equal by,
        and is equal near the solution alone.
    exposes : tuple of str
        Keys of the known mistakes that this problem shows.
    note : str
        One sentence: what to know about it.
    kappa : float or None
        Condition number of the gradient: how much relative kicks of the state and its sensitivities move it. A gradient
        computed at a tolerance tol may be expected to err by kappa tol.
    hvp_direction : dict or None
        {"y0": [...], "theta": [...]}, the direction of its one Hessian-vector product.
    zero : tuple of str
        Inputs whose derivative is zero on purpose: "y0", "theta", "t0", "t1", "ts", or some of their entries, as in
        "theta[3]" and "theta[0:48]".
    withheld : tuple of str
        Derivatives of ``field`` that `problem` leaves out ("jvp", "vjp", "hvp"): those of the pieces, where a solve has
        further terms at the switch. refnode then refuses a derivative of the solve instead of returning a wrong one.
    """

    id: str
    rhs: dict
    t0: float
    t1: float
    y0: tuple
    theta: tuple
    ts: tuple | None
    loss: dict
    names: dict
    field: VectorField
    exposes: tuple
    note: str
    kappa: float | None = None
    hvp_direction: dict | None = None
    zero: tuple = ()
    withheld: tuple = ()

    @functools.cached_property
    def problem(self):
        """The `Problem` that refnode solves: the hand-written field, and the loss with its derivatives."""
        field = without(self.field, self.withheld) if self.withheld else self.field
        return Problem(field, self.y0, self.theta, (self.t0, self.t1), self.ts,
                       loss=loss_of(self.loss, len(self.y0), 1 if self.ts is None else len(self.ts)), name=self.id)

    def to_dict(self):
        """The problem as data, format "refnode.problem", version 1; plain lists, strings and numbers.

        ``sha256`` is the hash of all the rest (`problem_sha256`). What refnode says about the problem (notes, mistakes,
        condition number) is no part of it, so that a better note leaves reference values valid.
        """
        content = {
            "format": FORMAT, "version": VERSION, "id": self.id, "rhs": self.rhs, "t0": self.t0, "t1": self.t1,
            "y0": list(self.y0), "theta": list(self.theta), "ts": None if self.ts is None else list(self.ts),
            "loss": self.loss, "names": self.names, "hvp_direction": self.hvp_direction}
        return {**copy.deepcopy(content), "sha256": problem_sha256(content)}


def switches_of(rhs):
    """The switches of a right-hand side as data, in order: [{"time": text} or {"state": text}, ...], empty without pieces."""
    switch = rhs.get("switch", [])
    return list(switch) if isinstance(switch, list) else [switch]


def without(field, derivatives):
    """The field without some of its derivatives."""
    kept = {which: getattr(field, which) for which in ("jvp", "vjp", "hvp") if which not in derivatives}
    return VectorField(field.f, **kept, name=f"{field.name} (switched)", n=field.n, p=field.p, tape_size=field.tape_size,
                       tape_header=field.tape_header, hvp_tape_size=field.hvp_tape_size, state_names=field.state_names,
                       parameter_names=field.parameter_names, numpy_form=field.numpy_form)


# --- how the set is written -----------------------------------------------------------------------

def dyadic(value):
    """The dyadic rational of 24 bits nearest to a number."""
    return float(np.float32(value))


def floats(values):
    """Numbers as nested lists of float, so that the canonical text does not depend on how they were written."""
    return [floats(value) for value in values] if hasattr(values, "__iter__") else float(values)


def expr(*texts):
    """A right-hand side of one text for each state."""
    return {"expr": list(texts)}


def sumsq(data=None):
    """L = sum over states and observations of (y_i(t_k) - data_ik)^2; data of n rows of K, or None for 0."""
    return {"kind": "sumsq", "data": None if data is None else floats(data)}


def linear(weights):
    """L = sum over states and observations of weights_ik y_i(t_k); n rows of K."""
    return {"kind": "linear", "weights": floats(weights)}


def final(text):
    """L = the text's value at y(t1)."""
    return {"kind": "final", "expr": text}


def running(text):
    """L = integral of the text's value over [t0, t1]."""
    return {"kind": "running", "expr": text}


DIRECTION = (1.0, -0.5, 0.25, 0.75, -1.0, 0.5, -0.25)      # a prime number of entries, so that no layout repeats them


def direction(y0, theta):
    """A direction for the Hessian-vector product: `DIRECTION` in turn, in powers of two near inputs far from 1."""
    inputs = (*y0, *theta)
    entries = [DIRECTION[k % len(DIRECTION)] * unit(x) for k, x in enumerate(inputs)]
    return {"y0": entries[:len(y0)], "theta": entries[len(y0):]}


def unit(x):
    """1, or the power of two nearest to |x| where that is 2^5 or more away from it."""
    exponent = round(math.log2(abs(x))) if x else 0
    return 2.0 ** exponent if abs(exponent) >= 5 else 1.0


def sees_end(loss):
    """Whether a loss as data looks at y(t1) or at the whole path, beside the observations."""
    return loss["kind"] in ("final", "running") or any(sees_end(term) for term in loss.get("terms", ()))


def reference(id, field, rhs, *, y0, theta, span, loss, exposes, note, ts=None, names=None, zero=(),
              hvp_direction="default", withheld=()):
    """A `ReferenceProblem`, with names from the field and numbers as float."""
    y0, theta = tuple(floats(y0)), tuple(floats(theta))
    if names is None:
        names = {"y": list(field.state_names or [f"y{i}" for i in range(len(y0))]),
                 "theta": list(field.parameter_names or [f"theta{j}" for j in range(len(theta))])}
    if ts is not None and not sees_end(loss):
        zero = tuple(zero) + ("t1",) * ("t1" not in zero)      # given observation times do not move with the end
    if hvp_direction == "default":
        hvp_direction = direction(y0, theta)
    return ReferenceProblem(
        id=id, rhs=rhs, t0=float(span[0]), t1=float(span[1]), y0=y0, theta=theta,
        ts=None if ts is None else tuple(floats(ts)), loss=loss, names=names, field=field, exposes=tuple(dict.fromkeys(exposes)),
        note=note, kappa=CONDITION_NUMBERS.get(id), hvp_direction=hvp_direction, zero=tuple(zero), withheld=tuple(withheld))
