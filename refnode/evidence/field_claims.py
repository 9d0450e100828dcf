"""Rows about right-hand sides: f, jvp, vjp and hvp of every field against complex steps and finite differences."""
import functools

import numpy as np

from refnode.evidence.references import columns_form
from refnode.evidence.row import EPS, Comparison, attempt
from refnode.evidence.subjects import fields
from refnode.gradcheck import finite_difference_jvp

POINTS = 4                # random points at which a field is checked


class FieldPoint:
    """A field at a random point, with a tangent, a cotangent, and the Jacobian by complex steps of f.

    ``size`` is the largest magnitude of each entry of the Jacobian over all points: an entry that happens to
    be small where its terms cancel is rounded like its terms.
    """

    def __init__(self, subject, rng):
        field, n, p = subject.field, subject.n, subject.p
        self.field = field
        self.t, self.y, self.theta = rng.uniform(-2.0, 2.0), rng.uniform(0.5, 1.5, n), rng.uniform(0.5, 1.5, p)
        if subject.signed:                    # of either sign, so that no activation saturates
            self.y, self.theta = rng.standard_normal(n), 0.5 * rng.standard_normal(p)
        self.dy_bar, self.tangent = rng.standard_normal(n), rng.standard_normal(1 + n + p)
        self.dy_bar_tan, self.other = rng.standard_normal(n), rng.standard_normal(1 + n + p)
        self.x = np.concatenate([[self.t], self.y, self.theta])
        self.tape, self.dy = field.new_tape(1)[0], np.full(n, np.nan)
        field.f(self.t, self.y, self.theta, self.tape, self.dy)
        self.dy_plain, self.jac = self._by_complex_steps(1e-30)

    def _by_complex_steps(self, step):
        columns, n = columns_form(self.field), self.y.size
        inputs = self.x[:, None] + 1j * step * np.eye(self.x.size)
        values = np.empty((n, self.x.size), dtype=complex)
        for j, point in enumerate(inputs.T):          # one after the other, since t is a number
            values[:, j] = columns(point[0], point[1:1 + n, None], point[1 + n:, None])[:, 0]
        return values[:, 0].real, values.imag / step

    def jvp(self):
        n, dy_tan = self.y.size, np.full(self.y.size, np.nan)
        self.field.jvp(self.t, self.y, self.theta, self.tangent[0], self.tangent[1:1 + n].copy(),
                       self.tangent[1 + n:].copy(), self.tape, dy_tan)
        return dy_tan

    def vjp(self, times=1):
        """(t_bar, y_bar, theta_bar) after that many calls into the same bars."""
        bars = [np.zeros(size) for size in (1, self.y.size, self.theta.size)]
        for _ in range(times):
            self.field.f(self.t, self.y, self.theta, self.tape, np.empty_like(self.dy))
            self.field.vjp(self.t, self.y, self.theta, self.tape, self.dy_bar, *bars)
        return np.concatenate(bars)

    def hvp(self, tangent, dy_bar_tan):
        """Tangent of (t_bar, y_bar, theta_bar), after a call of f into a tape long enough."""
        n, tape = self.y.size, self.field.new_hvp_tape(1)[0]
        bars = [np.zeros(size) for size in (1, n, self.theta.size)]
        self.field.f(self.t, self.y, self.theta, tape, np.empty_like(self.dy))
        self.field.hvp(self.t, self.y, self.theta, tangent[0], tangent[1:1 + n].copy(), tangent[1 + n:].copy(),
                       tape, self.dy_bar, dy_bar_tan, *bars)
        return np.concatenate(bars)

    def hvp_along(self):
        return self.hvp(self.tangent, self.dy_bar_tan)

    @functools.cached_property
    def hvp_size(self):
        """What the entries of `hvp_along` are sums of, in magnitude."""
        zero, units = np.zeros(self.y.size), np.eye(self.tangent.size)
        return np.abs([self.hvp(unit, zero) for unit in units]) @ np.abs(self.tangent) + np.abs(self.dy_bar_tan) @ self.size

    def vjp_at(self, z):
        """(t_bar, y_bar, theta_bar) at inputs and a cotangent in one vector."""
        n, m = self.y.size, self.x.size
        t, y, theta, dy_bar = z[0], z[1:1 + n].copy(), z[1 + n:m].copy(), z[m:].copy()
        tape, bars = self.field.new_tape(1)[0], [np.zeros(size) for size in (1, n, self.theta.size)]
        self.field.f(t, y, theta, tape, np.empty_like(self.dy))
        self.field.vjp(t, y, theta, tape, dy_bar, *bars)
        return np.concatenate(bars)

    def f_along(self, x):
        n = self.y.size
        return self.field(x[0], x[1:1 + n], x[1 + n:])

    @property
    def roundings(self):
        """A term of f costs some tens of roundings, the sums over n outputs and all inputs one a term."""
        return (32 + self.jac.size) * EPS


ROUNDING = "rounding: (32 + entries of J) eps |J| |v|, |J| the largest over all points"


def field_rows(name, seed):
    """Evidence on one registered field."""
    return rows_of_field(name, fields()[name], seed)


def rows_of_field(name, subject, seed):
    """Evidence on a `Subject`."""
    rng = np.random.default_rng([seed, 1])
    points = [FieldPoint(subject, rng) for _ in range(POINTS)]
    size = np.max([np.abs(point.jac) for point in points], axis=0)
    for point in points:
        point.size = size
    claims = (("f, compiled = plain Python", _same_f), ("jvp = complex step of f", _jvp_complex),
              ("vjp, twice = complex step of f", _vjp_complex), ("<w, jvp v> = <vjp w, v>", _transposed),
              ("jvp = finite differences of f", _jvp_differences))
    if subject.field.hvp is not None:
        claims += (("hvp = finite differences of vjp", _hvp_differences), ("<u, hvp v> = <v, hvp u>", _symmetric))
    return [attempt("fields", name, evidence, "formula", lambda claim=claim, **head: claim(points, **head), field=name)
            for evidence, claim in claims]


def _stacked(points, yours, reference, magnitude, names, uncertainty=None, bound=None):
    """One `Comparison` of all points; bounds are roundings times magnitudes unless given."""
    bound = bound or (lambda point: point.roundings * magnitude(point))
    uncertainty = uncertainty or (lambda point: 0.0 * magnitude(point))
    columns = [np.concatenate([np.atleast_1d(part(point)) for point in points])
               for part in (yours, reference, bound, uncertainty, magnitude)]
    return Comparison(names * len(points), *columns)


def _same_f(points, **head):
    names = _output_names(points[0], "dy")
    return _stacked(points, lambda p: p.dy, lambda p: p.dy_plain, lambda p: p.size @ np.abs(p.x) + np.abs(p.dy),
                    names).row(reason=ROUNDING, **head)


def _jvp_complex(points, **head):
    return _stacked(points, FieldPoint.jvp, lambda p: p.jac @ p.tangent, lambda p: p.size @ np.abs(p.tangent),
                    _output_names(points[0], "dy_tan")).row(reason=ROUNDING, **head)


def _vjp_complex(points, **head):
    """Called twice into the same bars, a vjp that overwrites instead of adding gives half."""
    return _stacked(points, lambda p: p.vjp(2), lambda p: 2 * p.dy_bar @ p.jac, lambda p: 2 * np.abs(p.dy_bar) @ p.size,
                    _bar_names(points[0])).row(reason=ROUNDING, **head)


def _transposed(points, **head):
    return _stacked(points, lambda p: p.vjp() @ p.tangent, lambda p: p.dy_bar @ p.jvp(),
                    lambda p: np.abs(p.dy_bar) @ p.size @ np.abs(p.tangent), ["<w, J v>"]).row(reason=ROUNDING, **head)


def _jvp_differences(points, **head):
    found = {id(p): finite_difference_jvp(p.f_along, p.x, p.tangent) for p in points}
    magnitude = lambda p: p.size @ np.abs(p.tangent)
    return _stacked(points, FieldPoint.jvp, lambda p: found[id(p)].value, magnitude, _output_names(points[0], "dy_tan"),
                    lambda p: found[id(p)].error, lambda p: 1e-7 * magnitude(p)).row(
        reason="1e-7 |J| |v|, where the differences are certain to that", **head)


def _hvp_differences(points, **head):
    """With every input and dy_bar moving at once."""
    found = {id(p): finite_difference_jvp(p.vjp_at, np.concatenate([p.x, p.dy_bar]),
                                          np.concatenate([p.tangent, p.dy_bar_tan])) for p in points}
    magnitude = lambda p: p.hvp_size + np.max(p.hvp_size)
    return _stacked(points, FieldPoint.hvp_along, lambda p: found[id(p)].value, magnitude, _bar_names(points[0]),
                    lambda p: found[id(p)].error, lambda p: 1e-7 * magnitude(p)).row(
        reason="1e-7 |H| |v|, where the differences are certain to that", **head)


def _symmetric(points, **head):
    zero = lambda p: np.zeros(p.y.size)
    size = lambda p: np.abs(p.other) @ p.hvp_size
    return _stacked(points, lambda p: p.other @ p.hvp(p.tangent, zero(p)), lambda p: p.tangent @ p.hvp(p.other, zero(p)),
                    size, ["<u, H v>"]).row(reason="rounding: (32 + entries of J) eps |u| (|H| |v| + |J| |w|)", **head)


def _output_names(point, block):
    labels = point.field.state_names or [""] * point.y.size
    return [f"{block}[{i}] {labels[i] if i < len(labels) else ''}".rstrip() for i in range(point.y.size)]


def _bar_names(point):
    return (["t_bar"] + [f"y_bar[{i}]" for i in range(point.y.size)]
            + [f"theta_bar[{i}]" for i in range(point.theta.size)])
