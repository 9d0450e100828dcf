"""L-BFGS with a strong Wolfe line search, and `minimise`, the loop around it.

``optimiser.step(theta, evaluate)`` returns new parameters; ``evaluate(theta) -> value, grad`` must be the same
function at every step, since curvature is read from differences of gradients. It may return a value that is not
finite: the line search then goes less far. State and settings are kept as in `refnode.optimisers`.
"""
import dataclasses
import math

import numpy as np

from refnode.errors import InvalidInputError
from refnode.line_search import LineSearch, strong_wolfe


class LBFGS:
    """The limited-memory BFGS method.

    theta_{k+1} = theta_k - alpha_k H_k grad_k, with H_k built from the last few pairs
    s_k = theta_{k+1} - theta_k and r_k = grad_{k+1} - grad_k, and alpha_k from `line_search.strong_wolfe`.

    Parameters
    ----------
    memory : int, positive
        Pairs that are kept.
    c1, c2 : float
        Of the Wolfe conditions, 0 < c1 < c2 < 1.
    most_trials : int
        Evaluations in one line search.

    Attributes
    ----------
    value, grad : float, ndarray
        At the parameters that the last step returned.
    search : LineSearch or None
        The last line search.
    evaluations : int
        Calls of ``evaluate`` by the last step.
    finished : str or None
        Why no further step is possible; the last ``step`` then returned its own argument's values.

    References
    ----------
    Nocedal & Wright, Numerical optimization, 2nd edition, 2006, algorithms 7.4 and 7.5.
    """

    needs_values = True

    def __init__(self, memory=10, c1=1e-4, c2=0.9, most_trials=30):
        if int(memory) != memory or memory < 1:
            raise InvalidInputError(f"memory must be a positive integer, found {memory!r}")
        if not 0.0 < c1 < c2 < 1.0:
            raise InvalidInputError(f"c1 and c2 must satisfy 0 < c1 < c2 < 1, found {c1!r}, {c2!r}")
        if int(most_trials) != most_trials or most_trials < 2:
            raise InvalidInputError(f"most_trials must be an integer of at least 2, found {most_trials!r}")
        self.memory, self.c1, self.c2, self.most_trials = int(memory), float(c1), float(c2), int(most_trials)
        self.pairs = []
        self.theta = self.grad = self.search = self.finished = None
        self.value, self.evaluations = math.nan, 0

    def __repr__(self):
        return f"LBFGS(memory={self.memory}, c1={self.c1!r}, c2={self.c2!r}, most_trials={self.most_trials})"

    def step(self, theta, evaluate):
        """The next parameters, a new array of the shape of ``theta``.

        Raises
        ------
        InvalidInputError
            If value or gradient at ``theta`` is not finite.
        """
        self.evaluations, self.finished = 0, None
        self._begin(np.array(theta, dtype=np.float64), evaluate)
        self.search = self._search(evaluate) if np.any(self.grad) else None
        if self.search is None:
            self.finished = "the gradient is zero"
        elif self.search.end.alpha == 0.0:
            self.finished = "the line search found no lower point: rounding, or a gradient that is not the value's"
        else:
            self._accept(*self.search.end.found)
        return self.theta.copy()

    def _begin(self, theta, evaluate):
        """Value and gradient at theta, from the last step if it ended there."""
        if self.theta is not None and np.array_equal(theta, self.theta):
            return
        if self.theta is not None and theta.shape != self.theta.shape:
            raise InvalidInputError(f"theta must have shape {self.theta.shape}, found {theta.shape}")
        value, grad = self._evaluated(theta, evaluate)
        if not (math.isfinite(value) and np.all(np.isfinite(grad))):
            raise InvalidInputError("value and gradient must be finite where L-BFGS begins, found value "
                                    f"{value} and a gradient {'finite' if np.all(np.isfinite(grad)) else 'that is not'}")
        self.theta, self.value, self.grad = theta, value, grad

    def _evaluated(self, theta, evaluate):
        self.evaluations += 1
        value, grad = evaluate(theta.copy())
        grad = np.array(grad, dtype=np.float64)
        if grad.shape != theta.shape:
            raise InvalidInputError(f"grad must have shape {theta.shape}, found {grad.shape}")
        return float(value), grad

    def _search(self, evaluate):
        """A line search along -H grad; if that fails, once more along -grad with the pairs forgotten."""
        search = None
        for pairs in [self.pairs, []] if self.pairs else [[]]:
            self.pairs = pairs
            direction = -inverse_hessian_times(self.grad, pairs)
            first = 1.0 if pairs else min(1.0, 1.0 / np.sum(np.abs(self.grad)))

            def phi(alpha):
                theta = self.theta + alpha * direction
                value, grad = self._evaluated(theta, evaluate)
                return value, float(grad @ direction), (theta, value, grad)

            search = strong_wolfe(phi, self.value, float(self.grad @ direction), first, self.c1, self.c2,
                                  self.most_trials)
            if search.end.alpha > 0.0:
                break
        return search

    def _accept(self, theta, value, grad):
        """Move, and remember the pair unless its curvature is not safely positive."""
        s, r = theta - self.theta, grad - self.grad
        if s @ r > np.finfo(np.float64).eps * np.linalg.norm(s) * np.linalg.norm(r):
            self.pairs = [*self.pairs, (s, r)][-self.memory:]
        self.theta, self.value, self.grad = theta, value, grad

    def state(self):
        """The memory, as a dict of plain arrays."""
        if self.theta is None:
            return {}
        shape = (len(self.pairs), *self.theta.shape)
        s, r = (np.array([pair[k] for pair in self.pairs]).reshape(shape) for k in range(2))
        return {"s": s, "r": r, "theta": self.theta.copy(), "value": np.array(self.value), "grad": self.grad.copy()}

    def restore(self, state):
        """Put back what `state` returned."""
        if state and set(state) != {"s", "r", "theta", "value", "grad"}:
            raise InvalidInputError(f"state of LBFGS must have grad, r, s, theta, value, found {sorted(state)}")
        self.search = self.finished = None
        self.pairs = [(s.copy(), r.copy()) for s, r in zip(state["s"], state["r"])] if state else []
        self.theta, self.grad = ((np.array(state[key]) for key in ("theta", "grad")) if state else (None, None))
        self.value = float(state["value"]) if state else math.nan


def inverse_hessian_times(grad, pairs):
    """H grad by the two-loop recursion, H_0 = (s r)/(r r) of the last pair, or 1.

    Parameters
    ----------
    grad : ndarray, shape (p,)
    pairs : list of (s, r)
        Displacements and differences of gradients, oldest first.
    """
    q, shares = grad.copy(), []
    for s, r in reversed(pairs):
        share = (s @ q) / (s @ r)
        q -= share * r
        shares.append(share)
    if pairs:
        s, r = pairs[-1]
        q *= (s @ r) / (r @ r)
    for (s, r), share in zip(pairs, reversed(shares)):
        q += (share - (r @ q) / (s @ r)) * s
    return q


@dataclasses.dataclass
class Minimum:
    """What `minimise` found.

    Attributes
    ----------
    theta : ndarray, shape (p,)
    value : float
    grad : ndarray, shape (p,)
    iterations, evaluations : int
    reason : str
        Why it ended.
    searches : list of LineSearch
        One an iteration.
    """

    theta: np.ndarray
    value: float
    grad: np.ndarray
    iterations: int
    evaluations: int
    reason: str
    searches: list[LineSearch] = dataclasses.field(default_factory=list, repr=False)


def minimise(evaluate, theta, iterations=200, gradient_tolerance=1e-8, optimiser=None):
    """L-BFGS until the largest entry of the gradient is at most ``gradient_tolerance``.

    Parameters
    ----------
    evaluate : callable
        ``evaluate(theta) -> value, grad``.
    theta : array_like, shape (p,)
        Where to begin.
    iterations : int
        At most.
    gradient_tolerance : float
    optimiser : LBFGS, optional
        A new one by default; one that has made steps goes on with its memory.

    Returns
    -------
    Minimum
    """
    optimiser = optimiser or LBFGS()
    theta, evaluations, searches, reason = np.array(theta, dtype=np.float64), 0, [], "all iterations done"
    for _ in range(iterations):
        theta = optimiser.step(theta, evaluate)
        evaluations += optimiser.evaluations
        if optimiser.finished:
            reason = optimiser.finished
            break
        searches.append(optimiser.search)
        if np.max(np.abs(optimiser.grad), initial=0.0) <= gradient_tolerance:
            reason = "the gradient is small enough"
            break
    return Minimum(theta, optimiser.value, optimiser.grad, len(searches), evaluations, reason, searches)
