"""A line search for the strong Wolfe conditions: bracket, then zoom by cubic interpolation.

For phi(alpha) = value at theta + alpha direction, with phi'(0) < 0, it looks for an alpha > 0 with

    phi(alpha) <= phi(0) + c1 alpha phi'(0)         sufficient decrease
    |phi'(alpha)| <= c2 |phi'(0)|                   curvature

Where phi is not finite the trial counts as too far.

References
----------
Nocedal & Wright, Numerical optimization, 2nd edition, 2006, algorithms 3.5 and 3.6, equation 3.59.
"""
import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Trial:
    """A point on the line: ``alpha``, phi and phi' there, and what came with them."""

    alpha: float
    value: float
    slope: float
    found: object = dataclasses.field(default=None, repr=False)


@dataclasses.dataclass(frozen=True)
class LineSearch:
    """The end of a search.

    Attributes
    ----------
    start, end : Trial
        At alpha = 0, and where the search stopped; the start itself if no lower point was found.
    trials : int
        Evaluations of phi.
    success : bool
        Whether ``end`` satisfies both conditions.
    """

    start: Trial
    end: Trial
    trials: int
    success: bool


class Budget:
    """Evaluates phi at most ``most`` times, and remembers the lowest trial that decreases enough."""

    def __init__(self, phi, start, c1, c2, most):
        self.phi, self.start, self.c1, self.c2, self.most = phi, start, c1, c2, most
        self.trials, self.lowest = 0, start

    def __call__(self, alpha):
        """The trial at alpha, non-finite numbers as +inf."""
        self.trials += 1
        value, slope, found = self.phi(alpha)
        if not (math.isfinite(value) and math.isfinite(slope)):
            return Trial(alpha, math.inf, math.inf)
        trial = Trial(alpha, float(value), float(slope), found)
        if self.decreases(trial) and value < self.lowest.value:
            self.lowest = trial
        return trial

    def decreases(self, trial):
        """Whether the decrease suffices."""
        return trial.value <= self.start.value + self.c1 * trial.alpha * self.start.slope

    def is_flat(self, trial):
        """Whether the slope is small enough."""
        return abs(trial.slope) <= -self.c2 * self.start.slope

    def result(self, end=None):
        """The search that ends in ``end``, or without success in the lowest trial."""
        return LineSearch(self.start, end or self.lowest, self.trials, end is not None)


def strong_wolfe(phi, value, slope, alpha=1.0, c1=1e-4, c2=0.9, most=30):
    """Search along a line on which phi falls at first.

    Parameters
    ----------
    phi : callable
        ``phi(alpha) -> value, slope, found``; ``found`` is handed through.
    value, slope : float
        phi(0) and phi'(0) < 0.
    alpha : float
        The first trial.
    c1, c2 : float
        0 < c1 < c2 < 1.
    most : int
        Trials before the search gives up.

    Returns
    -------
    LineSearch
    """
    budget = Budget(phi, Trial(0.0, float(value), float(slope)), c1, c2, most)
    previous = budget.start
    while budget.trials < most:
        trial = budget(alpha)
        if not budget.decreases(trial) or (budget.trials > 1 and trial.value >= previous.value):
            return zoom(budget, previous, trial)
        if budget.is_flat(trial):
            return budget.result(trial)
        if trial.slope >= 0.0:
            return zoom(budget, trial, previous)
        previous, alpha = trial, 2.0 * alpha
    return budget.result()


def zoom(budget, low, high):
    """Shrink a bracket; ``low`` is its lower end and ``high`` the other, on either side of it."""
    while budget.trials < budget.most and low.alpha != high.alpha:
        trial = budget(between(low, high))
        if not budget.decreases(trial) or trial.value >= low.value:
            high = trial
            continue
        if budget.is_flat(trial):
            return budget.result(trial)
        if trial.slope * (high.alpha - low.alpha) >= 0.0:
            high = low
        low = trial
    return budget.result()


def between(low, high):
    """The lowest point of the cubic through both ends, kept off them by a tenth of the bracket; else the middle."""
    width = high.alpha - low.alpha
    middle = low.alpha + 0.5 * width
    if not math.isfinite(high.value):
        return middle
    d1 = low.slope + high.slope - 3.0 * (high.value - low.value) / width
    square = d1 * d1 - low.slope * high.slope
    if not 0.0 <= square < math.inf:
        return middle
    d2 = math.copysign(math.sqrt(square), width)
    bottom = high.slope - low.slope + 2.0 * d2
    if bottom == 0.0:
        return middle
    share = 1.0 - (high.slope + d2 - d1) / bottom               # (3.59), from low towards high
    return low.alpha + width * min(max(share, 0.1), 0.9)
