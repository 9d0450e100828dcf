"""Four distributions in the plane on which flows are shown: samples, and their true log-densities.

Moons and circles are points of curves plus normal noise, so that their density is an integral along the curves, taken
with a fine rule; the eight Gaussians are a mixture, the checkerboard is uniform on eight squares. So the gap between a
flow's likelihood and the best there is, a Kullback-Leibler divergence, can be told.
"""
import dataclasses
import math

import numpy as np

from refnode.errors import InvalidInputError

ARC_POINTS = 200         # of the rule along each curve: the noise is wide against their distance


@dataclasses.dataclass(frozen=True)
class PlaneData:
    """A distribution: ``sample(rng, count) -> (count, 2)``, ``log_density(x) -> (batch,)``, and its name in words."""

    title: str
    sample: object
    log_density: object


# --- points of curves, plus noise -----------------------------------------------------------------

def moons(angle, upper):
    """Two half circles that interlock, angles in (0, 1)."""
    a = math.pi * angle
    x = np.where(upper, np.cos(a), 1.0 - np.cos(a)) - 0.5
    return 1.5 * np.stack([x, np.where(upper, np.sin(a), 0.5 - np.sin(a)) - 0.25], axis=-1)


def circles(angle, outer):
    """Two circles around the origin, of radii 1 and 2."""
    radius, a = np.where(outer, 2.0, 1.0), 2.0 * math.pi * angle
    return np.stack([radius * np.cos(a), radius * np.sin(a)], axis=-1)


def gaussians(angle, _):
    """Eight points on the circle of radius 2."""
    a = 2.0 * math.pi * np.floor(8.0 * angle) / 8.0
    return 2.0 * np.stack([np.cos(a), np.sin(a)], axis=-1)


def curve_sample(curve, noise):
    """A sampler: a point of either half of the curve, at a uniform angle, plus noise."""
    def sample(rng, count):
        points = curve(rng.uniform(size=count), rng.uniform(size=count) < 0.5)
        return points + noise * rng.standard_normal((count, 2))
    return sample


def curve_log_density(curve, noise):
    """log of the mean normal density around the points of both halves, by the midpoint rule."""
    angle = (np.arange(ARC_POINTS) + 0.5) / ARC_POINTS
    points = np.concatenate([curve(angle, np.full(ARC_POINTS, half)) for half in (True, False)])

    def log_density(x):
        values = [_log_mean_exp(-0.5 * ((part[:, None] - points)**2).sum(axis=2) / noise**2)
                  for part in np.array_split(x, max(len(x) // 512, 1))]
        return np.concatenate(values) - math.log(2.0 * math.pi * noise**2)
    return log_density


def _log_mean_exp(values):
    largest = values.max(axis=1)
    return largest + np.log(np.mean(np.exp(values - largest[:, None]), axis=1))


def _curve(title, curve, noise):
    return PlaneData(title, curve_sample(curve, noise), curve_log_density(curve, noise))


# --- squares --------------------------------------------------------------------------------------

def checkerboard_sample(rng, count):
    """Uniform on the eight dark unit squares of [-2, 2]²."""
    column, corner = rng.integers(4, size=count), rng.integers(2, size=count)
    row = 2 * corner + column % 2
    return np.stack([column, row], axis=1) - 2.0 + rng.uniform(size=(count, 2))


def checkerboard_log_density(x):
    """-log 8 on the dark squares, -inf elsewhere."""
    square = np.floor(x).astype(int)
    dark = (np.abs(x) < 2.0).all(axis=1) & ((square[:, 0] + square[:, 1]) % 2 == 0)
    return np.where(dark, -math.log(8.0), -np.inf)


PLANE_DATA = {
    "moons": _curve("two moons", moons, 0.15),
    "circles": _curve("two circles", circles, 0.15),
    "gaussians": _curve("eight Gaussians", gaussians, 0.2),
    "checkerboard": PlaneData("checkerboard", checkerboard_sample, checkerboard_log_density),
}


def plane_data(name):
    """The distribution of that name, or an InvalidInputError."""
    if name not in PLANE_DATA:
        raise InvalidInputError(f"dataset must be one of {', '.join(PLANE_DATA)}, found {name!r}")
    return PLANE_DATA[name]
