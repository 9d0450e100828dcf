"""Claim: every shipped field's jvp and vjp are right to a few roundings, at random points by the thousand.

Both are held against complex steps of the right-hand side, component by component: the error is measured
in |J| |tangent| and in |J|^T |cotangent|. |J| is the largest magnitude of each entry over all points, since an
entry in which terms cancel is rounded like its terms.
"""
import numpy as np

import sheet
from refnode.evidence.field_claims import FieldPoint
from refnode.evidence.subjects import fields


def relative(error, scale):
    """max error / scale, where 0 / 0 is 0."""
    return np.max(np.divide(error, scale, out=np.where(error > 0.0, np.inf, 0.0), where=scale > 0.0), initial=0.0)


def errors(point, size):
    """(jvp, vjp) at one point; f has filled the tape for both."""
    jvp, vjp = point.jvp(), point.vjp()
    return (relative(np.abs(jvp - point.jac @ point.tangent), size @ np.abs(point.tangent)),
            relative(np.abs(vjp - point.dy_bar @ point.jac), np.abs(point.dy_bar) @ size))


def worst_errors(subject, count, rng):
    """The largest errors of a field's jvp and vjp over random points."""
    points = [FieldPoint(subject, rng) for _ in range(count)]
    size = np.max([np.abs(point.jac) for point in points], axis=0)
    return np.max([errors(point, size) for point in points], axis=0)


def main():
    options = sheet.parser(__doc__, points=(2000, "random points of each field")).parse_args()
    rows = [[name, subject.n, subject.p,
             *map(float, worst_errors(subject, options.points, np.random.default_rng([options.seed, 1])))]
            for name, subject in fields().items()]
    sheet.publish(__doc__, options, ["field", "n", "p", "jvp", "vjp"], rows)


main()
