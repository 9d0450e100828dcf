"""`check_field`: are a right-hand side's hand-written derivatives right? Before any adjoint runs on them."""
import warnings
from dataclasses import replace

import numpy as np

from refnode.checks import real_vector
from refnode.errors import GradientMismatch, GradientWarning, InvalidInputError
from refnode.gradcheck.jacobian import combined
from refnode.gradcheck.linear_maps import check_pull, check_push, check_push_along

ENTRIES = 10_000          # of a second derivative, up to which each is compared; beyond, along one random direction
MAX_EVALS = 50_000        # of f, for about 3000 inputs; of more inputs some columns are chosen at random
MOVED = 0.125             # the second point, as a part of the size of the first: no entry of it is special
EPS = float(np.finfo(float).eps)


def check_field(field, t, y, theta=(), *, rtol=1e-6, atol=0.0, seed=0):
    """Compare a field's jvp, vjp and hvp with finite differences of f, and of vjp, at one point.

    jvp is held column by column and vjp row by row against the Jacobian of f in (t, y, theta), so that a wrong one is
    named by its entry. hvp is held against the derivative of vjp in (t, y, theta, dy_bar), every entry of it while these
    are at most 10 000, else every output along one random direction.

    Parameters
    ----------
    field : VectorField
    t : float
    y : array_like, shape (n,)
    theta : array_like, shape (p,)
        The point. Where entries are zero, or equal, a wrong derivative may be right by chance.
    rtol, atol, seed
        As in `check_gradient`.

    Returns
    -------
    GradientReport
        Its components are named "vjp: d dy[i] / d theta[j]".

    Raises
    ------
    InvalidInputError
        The field has neither jvp nor vjp, or one of the wrong form.
    """
    y, theta = real_vector("y", y), real_vector("theta", theta)
    field.check_first_call(float(t), y, theta)
    field.check_derivatives(float(t), y, theta)
    field.check_derivatives(float(t), y, theta, second=True)
    return _checked(FieldMaps(field, y.size, theta.size), np.concatenate([[float(t)], y, theta]), rtol, atol, seed)


def _checked(maps, x, rtol, atol, seed):
    options = {"rtol": rtol, "atol": atol, "seed": seed}
    arguments = (maps.inputs, maps.outputs)
    reports = {}
    if maps.field.jvp is not None:
        reports["jvp"] = check_push(maps.f, x, lambda v: maps.jvp(x, v), *arguments, max_evals=MAX_EVALS, **options)
    if maps.field.vjp is not None:
        reports["vjp"] = check_pull(maps.f, x, lambda w: maps.vjp(np.append(x, w)), *arguments, max_evals=MAX_EVALS, **options)
    wrong = "vjp" in reports and reports["vjp"].verdict == "FAIL"
    if maps.field.vjp is not None and maps.field.hvp is not None and not wrong:
        reports["hvp"] = _second(maps, x, options)
    if not reports:
        raise InvalidInputError(f"field {maps.field.name!r} has no jvp or vjp to check")
    report = combined(reports, f"check_field {maps.field.name}")
    note = ["hvp was not compared: it is held against the derivative of vjp, which is wrong"]
    return replace(report, diagnosis=report.diagnosis + note) if wrong and maps.field.hvp is not None else report


def _second(maps, x, options):
    """hvp as the derivative of vjp in all its arguments, at a cotangent without special entries."""
    z = np.append(x, np.random.default_rng([options["seed"], 4]).uniform(0.5, 1.5, maps.n))
    if x.size * z.size <= ENTRIES:
        return check_push(maps.vjp, z, lambda v: maps.hvp(z, v), maps.inputs + maps.cotangents, maps.bars, **options)
    return check_push_along(maps.vjp, z, lambda v: maps.hvp(z, v), maps.bars, eps=EPS, **options)


class FieldMaps:
    """A field's functions between flat vectors: x = (t, y, theta), and z = (x, dy_bar)."""

    def __init__(self, field, n, p):
        self.field, self.n, self.p = field, n, p
        states, parameters = _names("y", n, field.state_names), _names("theta", p, field.parameter_names)
        self.inputs, self.outputs = ["t", *states, *parameters], _names("dy", n, field.state_names)
        self.cotangents, self.bars = _names("dy_bar", n, None), [f"{name}_bar" for name in self.inputs]

    def _split(self, x):
        n, p = self.n, self.p
        return float(x[0]), x[1:1 + n].copy(), x[1 + n:1 + n + p].copy()

    def _evaluated(self, x, tape):
        """dy, with f's intermediate results left in the tape."""
        dy = np.empty(self.n)
        self.field.f(*self._split(x), tape, dy)
        return dy

    def f(self, x):
        return self._evaluated(x, self.field.new_tape(1)[0])

    def jvp(self, x, v):
        tape, dy_tan = self.field.new_tape(1)[0], np.empty(self.n)
        self._evaluated(x, tape)
        self.field.jvp(*self._split(x), *self._split(v), tape, dy_tan)
        return dy_tan

    def _new_bars(self):
        return [np.zeros(size) for size in (1, self.n, self.p)]

    def vjp(self, z):
        tape, bars = self.field.new_tape(1)[0], self._new_bars()
        self._evaluated(z, tape)
        self.field.vjp(*self._split(z), tape, z[1 + self.n + self.p:].copy(), *bars)
        return np.concatenate(bars)

    def hvp(self, z, v):
        tape, bars, m = self.field.new_hvp_tape(1)[0], self._new_bars(), 1 + self.n + self.p
        self._evaluated(z, tape)
        self.field.hvp(*self._split(z), *self._split(v), tape, z[m:].copy(), v[m:].copy(), *bars)
        return np.concatenate(bars)


def _names(stem, size, own):
    labels = [f'{stem}[{i}]' for i in range(size)]
    return labels if own is None or len(own) != size else [f'{label} "{name}"' for label, name in zip(labels, own)]


# --- before a gradient ----------------------------------------------------------------------------

def require_right_derivatives(problem, seed=0):
    """Check the field that a problem integrates, at its initial point and at one nearby that is not special.

    Raises
    ------
    GradientMismatch
        A derivative is wrong; the message names it and its entry.

    Warns
    -----
    GradientWarning
        Finite differences cannot tell: the field is not smooth there, or noisy.
    """
    field, rng = problem.flow_field, np.random.default_rng([seed, 5])
    problem.field.check_first_call(problem.t0, problem.y0, problem.theta)
    problem.field.check_derivatives(problem.t0, problem.y0, problem.theta)
    maps = FieldMaps(field, problem.flow_y0.size, problem.theta.size)
    x = np.concatenate([[problem.t0], problem.flow_y0, problem.theta])
    sizes = np.where(x != 0.0, np.abs(x), 1.0)
    sizes[0] = problem.t1 - problem.t0
    for point, what in ((x, "the initial point"), (x + MOVED * sizes * rng.uniform(0.5, 1.0, x.size), "a point nearby")):
        report = _checked(maps, point, 1e-6, 0.0, seed)
        report = replace(report, title=f"{report.title} at {what}")
        if report.verdict == "FAIL" or (report.verdict == "ERROR" and point is x):
            raise GradientMismatch(f"a derivative of field {field.name!r} is wrong at {what}\n{report}", report=report)
        if report.verdict == "INCONCLUSIVE":
            warnings.warn(f"whether the derivatives of field {field.name!r} are right could not be decided at {what}: "
                          + "; ".join(report.diagnosis[:2]), GradientWarning, stacklevel=4)
