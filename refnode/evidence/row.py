"""A row of evidence: one derivative, one independent witness, an error, the bound on it, and a verdict."""
import dataclasses

import numpy as np

from refnode.gradcheck.judgement import judge

EPS = float(np.finfo(float).eps)
POWER = 0.01       # a bound above this part of the quantity itself could let a wrong one pass

GROUPS = {
    "fields": "Right-hand sides: the hand-written jvp, vjp and hvp of every field",
    "steppers": "Steppers: order of accuracy, and the tangent and transpose of the steps",
    "recipes": "Sensitivity recipes: gradients of whole problems, with respect to y0, theta, t0, t1 and ts",
    "second": "Second derivatives: Hessian-vector products of whole problems, on frozen steps",
    "losses": "Losses as plain functions: finite differences and Taylor remainders",
    "duality": "Public jvp and vjp: <w, S v> = <S^T w, v> over all inputs",
    "device": "GPU: gradients beside the CPU's, and tangents beside adjoints",
    "checkers": "The checkers themselves: derivatives wrong on purpose; PASS means caught, by the evidence named",
}
VERDICTS = ("FAIL", "ERROR", "INCONCLUSIVE", "PASS")        # the gravest first


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes
    ----------
    group : str
        A key of `GROUPS`.
    subject, evidence : str
        What is checked, and by what.
    truth : "exact", "frozen", "through" or "formula"
        The derivative of the exact solution; of the steps taken, held fixed; of the program that chooses them; or of
        a formula alone.
    verdict : str
        One of `VERDICTS`.
    error, bound : float
        Of the worst component, in units of the scale of that component.
    reason : str
        Where the bound comes from.
    worst : str
        Name of the worst component: the one with the largest error / bound.
    uncertainty : float
        Of the reference, in the same units.
    field, method, recipe : str
        Names for filters and figures; empty where they do not apply.
    note : str
    """

    group: str
    subject: str
    evidence: str
    truth: str
    verdict: str
    error: float = np.nan
    bound: float = np.nan
    reason: str = ""
    worst: str = ""
    uncertainty: float = 0.0
    field: str = ""
    method: str = ""
    recipe: str = ""
    note: str = ""

    @property
    def ratio(self):
        """error / bound: at most 1 where the derivative is right."""
        if self.bound > 0:
            return self.error / self.bound
        return 0.0 if self.error == 0 else np.inf


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two vectors that should agree, component by component.

    Attributes
    ----------
    names : sequence of str
    yours, reference : ndarray, shape (k,)
    bound : ndarray, shape (k,)
        Largest |yours - reference| that a right derivative explains.
    uncertainty : ndarray or float
        Of the reference.
    scale : ndarray or float, optional
        The unit of the numbers shown; without one they are shown as they are. A bound that is a large part
        of the scale proves nothing, and the row is INCONCLUSIVE.
    """

    names: list
    yours: np.ndarray
    reference: np.ndarray
    bound: np.ndarray
    uncertainty: object = 0.0
    scale: object = None

    def verdicts(self):
        parts = np.broadcast_arrays(self.yours, self.reference, self.uncertainty, self.bound)
        return [verdict_of(*map(float, part)) for part in zip(*map(np.ravel, parts))]

    def worst(self):
        """Index of the component that decides: the gravest verdict, then the largest error / bound."""
        error = np.abs(self.yours - self.reference)
        ratio = np.divide(error, self.bound, out=np.where(error > 0, np.inf, 0.0), where=self.bound > 0)
        gravity = [-VERDICTS.index(verdict) for verdict in self.verdicts()]
        return int(np.lexsort((np.nan_to_num(ratio, nan=np.inf), gravity))[-1])

    def _units(self):
        scale = 1.0 if self.scale is None else self.scale
        return np.broadcast_to(np.where(np.asarray(scale) > 0, scale, 1.0), np.shape(self.yours))

    def _weak(self):
        """Components with a bound so wide that a wrong number could pass."""
        if self.scale is None:
            return np.zeros(np.shape(self.yours), dtype=bool)
        return (self.bound > POWER * self._units()) & (np.broadcast_to(self.scale, np.shape(self.yours)) > 0)

    def row(self, group, subject, evidence, truth, reason, **labels):
        """The `Row` that says so."""
        if len(self.names) == 0:
            return Row(group, subject, evidence, truth, "PASS", 0.0, 0.0, "nothing to compare", **labels)
        i, unit = self.worst(), self._units()
        unit, uncertainty = unit[i], np.broadcast_to(self.uncertainty, np.shape(self.yours))[i]
        verdict, bound = self.verdicts()[i], self.bound[i] / unit
        if verdict == "PASS" and np.any(self._weak()):
            i = int(np.argmax(self._weak()))
            verdict, bound = "INCONCLUSIVE", self.bound[i] / self._units()[i]
            labels["note"] = f"the bound exceeds {POWER:.0%} of the scale: too weak to prove anything"
        return Row(group, subject, evidence, truth, verdict, float(abs(self.yours[i] - self.reference[i]) / unit),
                   float(bound), reason, self.names[i], float(uncertainty / unit), **labels)


def verdict_of(yours, reference, uncertainty, bound):
    """PASS, FAIL or INCONCLUSIVE; a number that is not finite is a FAIL, a reference that is not cannot judge."""
    if not np.isfinite(reference) or not np.isfinite(bound):
        return "INCONCLUSIVE"
    if not np.isfinite(yours):
        return "FAIL"
    return judge(yours, reference, uncertainty, bound)


def single(yours, reference, bound, name="", **more):
    """A `Comparison` of two numbers."""
    return Comparison([name], *(np.array([float(v)]) for v in (yours, reference, bound)), **more)


def attempt(group, subject, evidence, truth, make, **labels):
    """The row that ``make()`` returns; an ERROR row if it raises."""
    try:
        return make(group=group, subject=subject, evidence=evidence, truth=truth, **labels)
    except Exception as error:
        note = f"{type(error).__name__}: {error}".splitlines()[0]
        return Row(group, subject, evidence, truth, "ERROR", note=note, **labels)


# --- all inputs of a problem as one vector --------------------------------------------------------

def flat(cotangents):
    """(y0, theta, t0, t1, ts) of a `Cotangents` in one vector."""
    return np.concatenate([cotangents.y0, cotangents.theta, [cotangents.t0, cotangents.t1], cotangents.ts])


def input_vector(problem):
    """The inputs themselves, in the order of `flat`."""
    ts = np.empty(0) if problem.ts_is_t1 else problem.ts
    return np.concatenate([problem.y0, problem.theta, [problem.t0, problem.t1], ts])


def split_inputs(problem, x):
    """The keywords y0, theta, t0, t1 and ts of `refnode.sensitivity.replay.replay`, from one vector."""
    n, end = problem.y0.size, problem.y0.size + problem.theta.size
    ts = None if problem.ts_is_t1 else x[end + 2:]
    return {"y0": x[:n], "theta": x[n:end], "t0": x[end], "t1": x[end + 1], "ts": ts}


def input_names(problem):
    """A name for every input: y0[0] prey, theta[2] gamma, t0, t1, ts[0] ..."""
    names = _indexed("y0", problem.y0.size, problem.field.state_names)
    names += _indexed("theta", problem.theta.size, problem.field.parameter_names)
    return names + ["t0", "t1"] + ([] if problem.ts_is_t1 else _indexed("ts", problem.ts.size, None))


def _indexed(block, size, labels):
    labels = labels if labels and len(labels) == size else [""] * size
    return [f"{block}[{i}] {label}".rstrip() for i, label in enumerate(labels)]


def block_scale(problem, gradient):
    """For each component the largest magnitude of its block (y0, theta, or the times), the unit of reports."""
    n, end = problem.y0.size, problem.y0.size + problem.theta.size
    scale = np.empty(gradient.size)
    for block in (slice(0, n), slice(n, end), slice(end, None)):
        scale[block] = np.max(np.abs(gradient[block]), initial=0.0)
    return scale
