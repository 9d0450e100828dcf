"""What the demonstrations of flows measure and draw: likelihoods against the best there is, densities, evidence."""
import dataclasses

import numpy as np

from refnode.demos.pictures import GREY, INK
from refnode.gradcheck import finite_difference_jvp

HALF = 3.2               # half the side of a drawn square, [x]
PIXELS = 120             # of a drawn square
HELD_OUT = 4000          # samples for a likelihood
TIGHT = {"rtol": 1e-9, "atol": 1e-9}
FINE = {"method": "dopri5", "rtol": 1e-6, "atol": 1e-6}           # of densities that are integrated
CHECKED = 48             # samples in the check of the gradient
PLAIN = ("discrete", "discrete_forward")    # recipes with a probe of the tangent


@dataclasses.dataclass(frozen=True)
class Fitted:
    """How well a model fits: nats per sample.

    Attributes
    ----------
    name : str
    nll, least : float
        Mean negative log-likelihood of held-out samples, of the model and of the true density.
    parameters : int
    seconds : float
        Of the fit.
    """

    name: str
    nll: float
    least: float
    parameters: int
    seconds: float

    @property
    def gap(self):
        """An estimate of the Kullback-Leibler divergence from the truth to the model."""
        return self.nll - self.least

    def __str__(self):
        return (f"{self.name:<16} {self.nll:8.4f} {self.least:8.4f} {self.gap:8.4f} {self.parameters:8d} "
                f"{self.seconds:8.1f}")

    def to_dict(self):
        return {**dataclasses.asdict(self), "gap": self.gap}


HEADING = f"{'':<16} {'nll':>8} {'least':>8} {'gap':>8} {'params':>8} {'seconds':>8}      (nats per sample)"


def fitted(name, model, data, seed):
    """`Fitted` on held-out samples that depend on nothing but the seed."""
    x = data.sample(np.random.default_rng([seed, 99]), HELD_OUT)
    return Fitted(name, float(-np.mean(model.log_density(x))), float(-np.mean(data.log_density(x))), model.theta.size,
                  model.history.seconds[-1])


def training_options(recipe, options):
    """Options of a solve in a fit. The probe of the tangent is left out: the evidence at the end takes its place."""
    return {**options, **({"check_tangent": False} if recipe in PLAIN else {})}


def square(half=HALF, count=None):
    """Points of a grid (count², 2) on the square of that half side, and the distance between neighbours."""
    grid = np.linspace(-half, half, count or PIXELS)
    return np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2), grid[1] - grid[0]


def total_mass(log_density, half=5.5, count=221):
    """The integral of a density over a large square, by the trapezoidal rule."""
    points, distance = square(half, count)
    return float(sum(np.exp(log_density(part)).sum() for part in np.array_split(points, 96)) * distance**2)


# --- the evidence ---------------------------------------------------------------------------------

@dataclasses.dataclass(frozen=True)
class Evidence:
    """A gradient along random directions, and the same by extrapolated finite differences of the loss.

    Attributes
    ----------
    difference : float
        The largest |gradient - difference quotient| over the largest derivative among the directions.
    uncertainty : float
        The largest error estimate of the difference quotients, over the same.
    directions : int
    """

    difference: float
    uncertainty: float
    directions: int

    @property
    def agrees(self):
        """Within 1e-6, and four error estimates."""
        return self.difference <= 1e-6 + 4.0 * self.uncertainty and self.uncertainty <= 1e-4

    def __str__(self):
        verdict = "agrees with" if self.agrees else "DISAGREES with"
        return (f"gradient of the whole model {verdict} finite differences along {self.directions} random directions: "
                f"{self.difference:.1e} relative (uncertainty {self.uncertainty:.1e})")


def gradient_evidence(gradient, loss, theta, seed, directions=3):
    """Hold a gradient (p,) at theta against Richardson-extrapolated differences of ``loss(theta)``."""
    rng = np.random.default_rng([seed, 7])
    scale = np.sqrt(np.mean(theta**2))
    rows = []
    for _ in range(directions):
        v = rng.standard_normal(theta.size) / np.sqrt(theta.size)
        found = finite_difference_jvp(loss, theta, v, scale=0.1 * scale)
        rows.append((gradient @ v, float(found.value), float(found.error)))
    found, expected, error = np.array(rows).T
    size = np.abs(expected).max()
    return Evidence(float(np.abs(found - expected).max() / size), float(error.max() / size), directions)


def flow_evidence(model, x, seed, probes=None):
    """The evidence for a CNF's gradient at its parameters, at a tight tolerance."""
    model.options, kept = {**model.options, **TIGHT}, model.options
    try:
        found = model.gradient(x, probes).theta
        loss = lambda theta: -np.mean(type(model).to_base(_at(model, theta), x, probes)[1])
        return gradient_evidence(found, loss, model.theta, seed)
    finally:
        model.options = kept


def _at(model, theta):
    """The model with other parameters, its solve without the options of a recipe."""
    import copy
    other = copy.copy(model)
    other.theta = theta
    other.options = {name: value for name, value in model.options.items() if name != "check_tangent"}
    return other


# --- drawing --------------------------------------------------------------------------------------

def draw_density(axes, log_density, half=HALF, largest=None, count=None):
    """A density as an image of ``count`` by ``count`` pixels."""
    points, _ = square(half, count)
    p = np.exp(log_density(points)).reshape(-1, count or PIXELS)
    axes.imshow(p, extent=(-half, half, -half, half), origin="lower", cmap="magma", vmin=0.0,
                vmax=largest or np.quantile(p, 0.999), interpolation="bilinear")
    bare(axes, half)


def draw_samples(axes, x, half=HALF, colour=INK):
    """Samples as dots."""
    axes.plot(*x.T, ".", color=colour, markersize=1.6, alpha=0.55, markeredgewidth=0.0)
    bare(axes, half)


def bare(axes, half=HALF):
    """A square without ticks, in a thin frame."""
    axes.set(xlim=(-half, half), ylim=(-half, half), aspect="equal", xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=True, color=GREY, linewidth=0.6)
