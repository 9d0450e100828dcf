"""Learning rates that decay: ``schedule(done)`` is the rate after ``done`` steps, and nothing is remembered.

So a fit that is resumed has the same rates without storing any. ``repr(schedule)`` shows the settings.
"""
import dataclasses
import math

from refnode.errors import InvalidInputError


@dataclasses.dataclass(frozen=True)
class StepDecay:
    """rate factor^floor(done / every): constant for ``every`` steps, then ``factor`` times as much.

    Attributes
    ----------
    rate : float, positive
        The first.
    factor : float in (0, 1]
    every : int, positive
    """

    rate: float
    factor: float
    every: int

    def __post_init__(self):
        _require_positive(rate=self.rate, every=self.every)
        if not 0.0 < self.factor <= 1.0:
            raise InvalidInputError(f"factor must lie in (0, 1], found {self.factor!r}")

    def __call__(self, done):
        return self.rate * self.factor ** (done // self.every)


@dataclasses.dataclass(frozen=True)
class ExponentialDecay:
    """Geometric from ``rate`` to ``last`` in ``steps`` steps, then constant: rate (last/rate)^(done/(steps - 1)).

    Attributes
    ----------
    rate, last : float, positive
        Of the first and of the last step.
    steps : int, positive
    """

    rate: float
    last: float
    steps: int

    def __post_init__(self):
        _require_positive(rate=self.rate, last=self.last, steps=self.steps)

    def __call__(self, done):
        return self.rate * (self.last / self.rate) ** _share(done, self.steps)


@dataclasses.dataclass(frozen=True)
class CosineDecay:
    """Half a cosine from ``rate`` to ``last`` in ``steps`` steps, then constant.

    last + (rate - last) (1 + cos(pi done/(steps - 1)))/2

    Attributes
    ----------
    rate : float, positive
    last : float, not negative
    steps : int, positive

    References
    ----------
    Loshchilov & Hutter, SGDR: stochastic gradient descent with warm restarts, 2017, equation 5.
    """

    rate: float
    last: float
    steps: int

    def __post_init__(self):
        _require_positive(rate=self.rate, steps=self.steps)
        if not 0.0 <= self.last < math.inf:
            raise InvalidInputError(f"last must be finite and not negative, found {self.last!r}")

    def __call__(self, done):
        return self.last + (self.rate - self.last) * 0.5 * (1.0 + math.cos(math.pi * _share(done, self.steps)))


def _share(done, steps):
    """How far the decay has come, 0 at the first step and 1 from the last on."""
    return min(done / max(steps - 1, 1), 1.0)


def _require_positive(**values):
    for name, value in values.items():
        if not 0.0 < value < math.inf:
            raise InvalidInputError(f"{name} must be finite and positive, found {value!r}")
