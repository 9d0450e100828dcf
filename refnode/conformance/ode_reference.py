"""What is right: certified values, or refnode's own at tight tolerances with an estimate of their error."""
import dataclasses
import warnings
from dataclasses import dataclass

import numpy as np

from refnode.checks import require_problem
from refnode.errors import GradientWarning, IntegrationError, InvalidInputError
from refnode.evidence.row import flat, input_names, input_vector
from refnode.gradcheck.evaluation import typical_size
from refnode.gradcheck.finite_difference import finite_difference_gradient
from refnode.problems.certified import certified
from refnode.sensitivity.forward_solve import solved
from refnode.sensitivity.gradient import LossSeeds, gradient
from refnode.solve.initial_value import solve
from refnode.solve.options import SolveOptions

TIGHT = {"method": "dop853", "rtol": 1e-12, "atol": 1e-14, "tstops": True}
LOOSE = {"method": "dop853", "rtol": 1e-10, "atol": 1e-12, "tstops": True}
LOOSER = {**LOOSE, "rtol": 1e-8, "atol": 1e-10}
MANY = 64            # inputs beyond which tangents in every direction cost more than an adjoint
ROUNDINGS = 1e-13    # of a reference in double precision, in units of its block


@dataclass(frozen=True)
class Inputs:
    """All inputs of a problem as one vector (y0, theta, t0, t1, ts).

    Attributes
    ----------
    names : list of str
    size : ndarray, shape (m,)
        The length over which each input matters: |x|, for a zero the median of its block, for a time the horizon.
    blocks : dict of str to slice
        "grad_y0", "grad_theta", "grad_t0", "grad_t1", "grad_ts".
    n : int
    """

    names: list
    size: np.ndarray
    blocks: dict
    n: int

    @classmethod
    def of(cls, problem):
        n, end = problem.y0.size, problem.y0.size + problem.theta.size
        horizon = abs(problem.t1 - problem.t0) or 1.0
        count = 0 if problem.ts_is_t1 else problem.ts.size
        size = np.concatenate([typical_size(problem.y0), typical_size(problem.theta), np.full(2 + count, horizon)])
        blocks = {"grad_y0": slice(0, n), "grad_theta": slice(n, end), "grad_t0": slice(end, end + 1),
                  "grad_t1": slice(end + 1, end + 2), "grad_ts": slice(end + 2, end + 2 + count)}
        return cls(input_names(problem), size, blocks, n)

    def unit_blocks(self):
        """The blocks in which E is measured: y0, theta, and all times together."""
        n, end = self.n, self.blocks["grad_theta"].stop
        return [members for members in (slice(0, n), slice(n, end), slice(end, self.size.size))
                if members.stop > members.start]


@dataclass(frozen=True)
class OdeReference:
    """The right y, loss and gradient of a problem, and how far they may be off.

    Attributes
    ----------
    y, y_uncertainty : ndarray, shape (n, K)
    loss, loss_uncertainty : float
    gradient, uncertainty : ndarray, shape (m,)
        Over the inputs of `Inputs`.
    seeds : tuple of ndarray
        Cotangents of y(ts) and y(t1): (n, K), (n,).
    source : str
    y0 : ndarray, shape (n,)
    """

    y: np.ndarray
    y_uncertainty: np.ndarray
    loss: float
    loss_uncertainty: float
    gradient: np.ndarray
    uncertainty: np.ndarray
    seeds: tuple
    source: str
    y0: np.ndarray

    @property
    def cotangent_size(self):
        """The sum of |dL/dy| over everything observed: what absolute errors of y are multiplied by."""
        return float(sum(np.abs(seed).sum() for seed in self.seeds)) or 1.0

    @property
    def state_size(self):
        """The largest entry of y, at t0 or observed."""
        return max(float(np.max(np.abs(self.y), initial=0.0)), float(np.max(np.abs(self.y0), initial=0.0))) or 1.0

    @property
    def loss_size(self):
        """The size of the loss before its terms cancel."""
        return abs(self.loss) + float(np.abs(self.seeds[0] * self.y).sum())


# --- certified ------------------------------------------------------------------------------------

def certified_reference(record):
    """The `OdeReference` of a ReferenceProblem from its certified file, or None where there is none."""
    try:
        found = certified(record.id)
    except InvalidInputError:
        return None
    problem, values, radius = record.problem, found.values, found.radius
    if not {"y", "loss", "grad_y0", "grad_theta"} <= set(values):
        return None
    inputs = Inputs.of(problem)
    vector, error = np.full(inputs.size.size, np.nan), np.full(inputs.size.size, np.inf)
    for block, members in inputs.blocks.items():
        if values.get(block) is not None and members.stop > members.start:
            vector[members], error[members] = values[block], np.abs(radius[block])
    if np.isnan(vector).any():                            # times that nobody certified
        own = own_reference(problem)
        vector, error = (np.where(np.isnan(vector), a, b) for a, b in ((own.gradient, vector), (own.uncertainty, error)))
    y = np.reshape(values["y"], (problem.y0.size, problem.ts.size))
    return OdeReference(y, np.reshape(radius["y"], y.shape), float(values["loss"]), float(radius["loss"]), vector, error,
                        _seeds(problem, y), "certified enclosure", problem.y0)


def _seeds(problem, y):
    y1 = y[:, -1] if problem.ts[-1] == problem.t1 else solve(problem, **TIGHT).y1
    ys_bar, y1_bar = problem.loss.vjp(y, y1)
    return np.array(ys_bar, dtype=float), np.array(y1_bar, dtype=float)


# --- refnode's own --------------------------------------------------------------------------------

def own_reference(problem):
    """refnode's gradient at rtol 1e-12: two derivations that share no equation, and a looser solve, give its error.

    Tangents of the variational equation (under error control of their own) against the transpose of the steps taken;
    for many inputs the adjoint equation against that transpose.
    """
    require_problem(problem)
    try:
        return _reference_at(problem, TIGHT, LOOSE)
    except IntegrationError:                     # such as steps below the spacing of large times
        return _reference_at(problem, LOOSE, LOOSER)


def _reference_at(problem, tight, loose):
    first = "forward" if problem.y0.size + problem.theta.size <= MANY else "interpolating"
    tight, loose = (_scaled(problem, options) for options in (tight, loose))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GradientWarning)
        best, coarse = gradient(problem, first, **tight), gradient(problem, first, **loose)
        other = gradient(problem, "discrete", **_seen(problem, first, tight))
    values = [flat(g) for g in (best, coarse, other)]
    inputs = Inputs.of(problem)
    rounding = np.concatenate([np.full(values[0][m].size, np.max(np.abs(values[0][m]), initial=0.0))
                               for m in inputs.blocks.values()]) * ROUNDINGS
    error = np.maximum(np.abs(values[0] - values[1]), np.abs(values[0] - values[2])) + rounding
    y = best.solution.y
    y_error = np.abs(y - coarse.solution.y) + ROUNDINGS * np.max(np.abs(y), initial=0.0)
    seeds = tuple(np.array(seed, dtype=float) for seed in problem.loss.vjp(y, best.solution.y1))
    return OdeReference(y, y_error, best.loss, abs(best.loss - coarse.loss) + ROUNDINGS * abs(best.loss), values[0], error,
                        seeds, f"refnode {first} against discrete, rtol {tight['rtol']:g}", problem.y0)


def _scaled(problem, options):
    """The options with an absolute tolerance in units of the state."""
    unit = np.max(np.abs(problem.y0), initial=0.0) or 1.0
    return {**options, "atol": options["atol"] * min(1.0, unit)}


def _seen(problem, first, options):
    """Steps that see the tangent, where tangents are affordable."""
    return {**options, "control": "tangent"} if first == "forward" else {**options, "check_tangent": False}


# --- finite differences of the solution ------------------------------------------------------------

def loss_of(problem):
    """x -> loss, for the vector of inputs (y0, theta, t0, t1, ts), by tight solves."""
    options = SolveOptions.of(**_scaled(problem, TIGHT))
    n, end = problem.y0.size, problem.y0.size + problem.theta.size

    def loss(x):
        moved = problem.replace(y0=x[:n], theta=x[n:end], t0=x[end], t1=x[end + 1],
                                ts=None if problem.ts_is_t1 else x[end + 2:])
        seeds = LossSeeds(moved)
        seeds(solved(moved, options, keep=False))
        return seeds.value

    return loss


def differences(problem, members):
    """Finite differences of the loss in some of the inputs, with their errors: two arrays."""
    loss, x, size = loss_of(problem), input_vector(problem), Inputs.of(problem).size

    def part(values):
        moved = x.copy()
        moved[members] = values
        return loss(moved)

    found = finite_difference_gradient(part, x[members], scale=size[members])
    return found.value, found.error


def difference_reference(problem):
    """The reference of a right-hand side that jumps, where derivatives of the solver itself miss the jump."""
    own, x = own_reference(problem), input_vector(problem)
    gradient, error = differences(problem, np.arange(x.size))
    return dataclasses.replace(own, gradient=gradient, uncertainty=error,
                               source="finite differences of tight solves: no certified value")
