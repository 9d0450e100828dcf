"""What the demonstrations of flows measure and draw: likelihoods against the best there is, densities, evidence."""
import dataclasses

import numpy as np

from refnode.demos.gradient_evidence import gradient_evidence, smooth_loss_options
from refnode.demos.pictures import GREY, INK
from refnode.sensitivity.gradient import gradient
from refnode.solve.initial_value import solve

HALF = 3.2               # half the side of a drawn square, [x]
PIXELS = 120             # of a drawn square
HELD_OUT = 4000          # samples for a likelihood
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


@dataclasses.dataclass(frozen=True)
class Mass:
    """The integral of a density: by two trapezoidal rules on grids that interlock, their mean and half their distance."""

    value: float
    uncertainty: float

    def __str__(self):
        return f"1 {self.value - 1.0:+.1e} (quadrature +-{self.uncertainty:.0e})"

    def to_dict(self):
        return dataclasses.asdict(self)


def total_mass(log_density, half=5.5, count=157):
    """`Mass` on a large square; the rule converges beyond all orders for a smooth density that the grids resolve."""
    points, distance = square(half, count)
    sums = [sum(np.exp(log_density(part)).sum() for part in np.array_split(grid, 48)) * distance**2
            for grid in (points, points + 0.5 * distance)]
    return Mass(float(0.5 * (sums[0] + sums[1])), float(0.5 * abs(sums[0] - sums[1])))


# --- the evidence ---------------------------------------------------------------------------------

def flow_evidence(model, x, seed, probes=None):
    """`GradientEvidence` for a CNF at its parameters: the mean negative log-likelihood of x, with the noise held fixed."""
    options = {"method": model.options["method"], **smooth_loss_options(model.recipe)}
    problem = model.problem(x, probes)
    found = gradient(problem, model.recipe, **options)

    def loss(theta):
        y1 = solve(problem.replace(theta=theta), **options).y1
        return problem.loss.value(None, y1)

    return gradient_evidence(loss, model.theta, found.theta, seed)


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
