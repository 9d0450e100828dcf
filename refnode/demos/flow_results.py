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
FINE = {"method": "dopri5", "rtol": 1e-7, "atol": 1e-7}           # of densities that are integrated
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
    """The integral of a density over a large square; ``uncertainty`` is what a rule and the same on quarters differ by."""

    value: float
    uncertainty: float
    points: int

    def __str__(self):
        return f"1 {self.value - 1.0:+.1e} (quadrature +-{self.uncertainty:.0e}, {self.points} points)"

    def to_dict(self):
        return dataclasses.asdict(self)


def total_mass(log_density, half=6.5, cells=13, tolerance=8e-7, levels=8):
    """`Mass` by Gauss's rule with 8 x 8 nodes on squares, quartered where that changes their share.

    At every level the squares that change least are settled, as long as their changes add up to at most half of what is
    left of ``tolerance``; what is not settled after the last level counts with its change. The error of the result is
    far below that, for the quarters' sum is what is added. What lies outside is left out: of a standard normal 2e-10.

    Parameters
    ----------
    log_density : callable
        ``log_density(x (N, 2)) -> (N,)``.
    half : float
        Half the side of the square around the origin.
    cells : int
        Squares a side in the beginning.
    tolerance : float
    levels : int
        How often squares are quartered at most.

    Returns
    -------
    Mass
    """
    side, edges = 2.0 * half / cells, np.linspace(-half, half, cells, endpoint=False)
    corners = np.stack(np.meshgrid(edges, edges), axis=-1).reshape(-1, 2)
    coarse, value, uncertainty = square_masses(log_density, corners, side), 0.0, 0.0
    points = coarse.size
    for level in range(levels):
        side *= 0.5
        corners = (corners[:, None] + side * QUARTERS).reshape(-1, 2)
        fine = square_masses(log_density, corners, side).reshape(-1, 4)
        points += fine.size
        change = np.abs(fine.sum(axis=1) - coarse)
        order, settled = np.argsort(change), np.zeros(len(change), dtype=bool)
        settled[order[np.cumsum(change[order]) <= 0.5 * (tolerance - uncertainty)]] = True
        settled |= level == levels - 1
        value, uncertainty = value + fine[settled].sum(), uncertainty + change[settled].sum()
        corners, coarse = corners.reshape(-1, 4, 2)[~settled].reshape(-1, 2), fine[~settled].ravel()
        if settled.all():
            break
    return Mass(float(value), float(uncertainty), points * len(NODES))


QUARTERS = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
_roots, _weights = np.polynomial.legendre.leggauss(8)
NODES = 0.5 + 0.5 * np.stack(np.meshgrid(_roots, _roots), axis=-1).reshape(-1, 2)        # in the unit square
WEIGHTS = 0.25 * np.outer(_weights, _weights).ravel()
CHUNK = 1024             # points of a solve: all its points share their steps


def square_masses(log_density, corners, side):
    """Integrals over squares with these lower left corners (M, 2), by one rule each."""
    points = (corners[:, None] + side * NODES).reshape(-1, 2)
    parts = np.array_split(points, -(-len(points) // CHUNK))
    p = np.exp(np.concatenate([log_density(part) for part in parts]))
    return side**2 * (p.reshape(len(corners), -1) @ WEIGHTS)


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
