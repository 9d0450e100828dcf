"""How a demonstration ends: the gradient of its whole model, at the trained parameters, against finite differences.

The differences know nothing of the gradient: they take losses alone, along random directions, extrapolated, with an
estimate of their own error. Give losses on frozen steps (``n_steps``) or at tight tolerances, or their noise is all one sees.
"""
import dataclasses

import numpy as np

from refnode.gradcheck.finite_difference import finite_difference_jvp
from refnode.sensitivity.recipes import recipe_named

RTOL = 1e-6          # of the largest directional derivative: what PASS means


@dataclasses.dataclass(frozen=True)
class GradientEvidence:
    """Directional derivatives from a gradient and from differences of losses.

    Attributes
    ----------
    ours, theirs, uncertainty : ndarray, shape (directions,)
        <gradient, direction>; the same by differences; the estimated error of the differences.
    """

    ours: np.ndarray
    theirs: np.ndarray
    uncertainty: np.ndarray

    @property
    def scale(self):
        """The largest directional derivative, to which errors are relative."""
        return float(np.max(np.abs(self.theirs))) or 1.0

    @property
    def error(self):
        """The largest difference, relative."""
        return float(np.max(np.abs(self.ours - self.theirs))) / self.scale

    @property
    def verdict(self):
        """PASS, FAIL, or INCONCLUSIVE where the differences are too uncertain to say."""
        if not np.all(np.isfinite(self.ours)):
            return "FAIL"
        uncertain = float(np.max(self.uncertainty)) / self.scale
        if self.error <= RTOL + uncertain:
            return "PASS" if uncertain <= RTOL else "INCONCLUSIVE"
        return "FAIL" if self.error > RTOL + 10.0 * uncertain else "INCONCLUSIVE"

    def __str__(self):
        return (f"gradient at the end against Richardson differences along {self.ours.size} random directions: "
                f"{self.verdict}, largest error {self.error:.1e} relative "
                f"(the differences' own estimate {np.max(self.uncertainty) / self.scale:.1e})")

    def to_dict(self):
        """The numbers, for JSON."""
        return {"verdict": self.verdict, "error": self.error, "ours": self.ours.tolist(), "theirs": self.theirs.tolist(),
                "uncertainty": self.uncertainty.tolist()}


def gradient_evidence(loss, theta, grad, seed=0, directions=3):
    """Hold ``grad`` at ``theta`` against differences of ``loss(theta) -> float`` along random directions.

    Returns
    -------
    GradientEvidence
    """
    rng = np.random.default_rng([seed, 36])
    ours, theirs, uncertainty = np.empty((3, directions))
    for k in range(directions):
        direction = rng.standard_normal(theta.size)
        direction /= np.linalg.norm(direction)
        found = finite_difference_jvp(loss, theta, direction)
        ours[k], theirs[k], uncertainty[k] = float(np.dot(grad, direction)), float(found.value), float(found.error)
    return GradientEvidence(ours, theirs, uncertainty)


def smooth_loss_options(recipe):
    """Options of a solve under which losses are smooth in theta, and have the derivative that the recipe gives.

    Frozen steps for the recipes that differentiate steps; for those of the exact solution, tolerances far below `RTOL`.
    """
    return {"rtol": 1e-10, "atol": 1e-12} if recipe_named(recipe).truth == "exact" else {"n_steps": 24}
