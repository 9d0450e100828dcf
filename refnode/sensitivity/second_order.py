"""The public doors to second derivatives of a solve: `hvp` and `gauss_newton`."""
import dataclasses
import typing

import numpy as np

from refnode.errors import InvalidInputError
from refnode.sensitivity.cotangents import Cotangents, Seeds, cotangents_of, forward_stats
from refnode.sensitivity.discrete_adjoint import pull_cotangents, push_tangents
from refnode.sensitivity.forward_solve import check_first_call, solved
from refnode.sensitivity.gradient import (
    LossSeeds, array_of, check_if_asked, require_cost_weight, require_derivative, split_options)
from refnode.sensitivity.jumps import initial_tangent, observation_tangent
from refnode.sensitivity.second_order_adjoint import PathTangents
from refnode.sensitivity.second_order_steps import StepTangents


class SecondOrderRecipe(typing.NamedTuple):
    """One way to a Hessian-vector product: what solves it, its truth, its own options, its source."""

    tangents: object
    truth: str
    options: tuple
    source: str


SECOND_ORDER = {
    "forward_over_adjoint": SecondOrderRecipe(
        StepTangents, "frozen", (), "Griewank & Walther, Evaluating Derivatives (2008), ch. 5"),
    "adjoint_over_adjoint": SecondOrderRecipe(
        PathTangents, "exact", ("adjoint_rtol", "adjoint_atol", "tangent_rtol", "tangent_atol"),
        "Ozyurt & Barton, SIAM J. Sci. Comput. 26 (2005)"),
}


@dataclasses.dataclass
class HessianProduct(Cotangents):
    """The Hessian of a loss times a direction, in the shapes of the gradient.

    Attributes
    ----------
    y0, theta, t0, t1, ts, stats
        As in `Cotangents`: the directional derivative of each entry of the gradient.
    loss : float
    gradient : Cotangents
        The gradient itself, which the product needs anyway.
    sensitivity : str
    """

    loss: float = np.nan
    gradient: object = None
    sensitivity: str = ""


def hvp(problem, y0_tan=None, theta_tan=None, t0_tan=0.0, t1_tan=0.0, ts_tan=None,
        sensitivity="forward_over_adjoint", **options):
    """The Hessian of a problem's loss, with respect to all its inputs, times a direction.

    Parameters
    ----------
    problem : Problem
        With a loss that has a second derivative ``hvp``, and a field with jvp, vjp and hvp.
    y0_tan, theta_tan, ts_tan : array_like, shapes (n,), (p,), (K,), optional
    t0_tan, t1_tan : float
        The direction. ``ts_tan`` must be left out if the problem observes t1 itself (``ts=None``).
    sensitivity : "forward_over_adjoint" or "adjoint_over_adjoint"
        The tangent of the discrete adjoint, exact for the steps taken; or the continuous second-order
        adjoint, which approaches the derivative of the exact solution as the tolerance falls.
    **options
        Those of `solve`, and ``tangent_rtol, tangent_atol, adjoint_rtol, adjoint_atol`` for
        "adjoint_over_adjoint". ``check_derivatives=True`` holds the field's jvp, vjp and hvp against finite
        differences first.

    Returns
    -------
    HessianProduct
        ``y0, theta, t0, t1, ts, stats``, and ``loss``, ``gradient`` and ``sensitivity``. The Hessian is
        symmetric in all inputs together; a moving time acts through f at that time.

    Raises
    ------
    MissingDerivativeError
        If the field lacks jvp, vjp or hvp, or the loss its second derivative.
    IntegrationError
        If a solve fails.
    InvalidInputError
        If an argument is wrong.
    """
    if sensitivity not in SECOND_ORDER:
        raise InvalidInputError(f"sensitivity must be one of {list(SECOND_ORDER)}, found {sensitivity!r}")
    _require_loss(problem, "hvp")
    recipe = SECOND_ORDER[sensitivity]
    check_if_asked(problem, options)
    own, options = split_options(sensitivity, recipe, options)
    _require_tableau(options, "hvp")
    for which in ("jvp", "vjp", "hvp"):
        require_derivative(problem, which)
    require_cost_weight(problem, options)
    problem.field.check_derivatives(problem.t0, problem.y0, problem.theta, second=True)
    direction = Direction.of(problem, y0_tan, theta_tan, t0_tan, t1_tan, ts_tan)
    tangents = recipe.tangents(problem, options, own, direction.start, direction.theta)
    return _product(problem, options, own, direction, tangents, sensitivity)


def gauss_newton(problem, y0_tan=None, theta_tan=None, t0_tan=0.0, t1_tan=0.0, ts_tan=None, **options):
    """The Gauss-Newton matrix of a problem's loss times a direction: J^T (d^2 L / dy^2) J v. Implements (HES-9).

    J is the derivative of the observed states and of y(t1) with respect to all inputs, with the steps frozen.
    One tangent and one adjoint of the same steps; no second derivative of the field. The matrix is symmetric,
    and positive semidefinite if the loss is convex in the states.

    Parameters
    ----------
    problem, y0_tan, theta_tan, t0_tan, t1_tan, ts_tan, **options
        As for `hvp`; the field needs no hvp.

    Returns
    -------
    Cotangents
        ``y0, theta, t0, t1, ts, stats``.

    Raises
    ------
    MissingDerivativeError
        If the field lacks jvp or vjp, or the loss its second derivative.
    InvalidInputError
        If the loss has a running cost, which is no function of observed states.
    """
    _require_loss(problem, "gauss_newton")
    if problem.flow_field is not problem.field:
        raise InvalidInputError("gauss_newton needs a loss of the observed states; a running cost is an integral "
                                "over the whole path: observe the path at ts instead, or use hvp")
    own, options = split_options("gauss_newton", SecondOrderRecipe(None, "frozen", (), ""), options)
    _require_tableau(options, "gauss_newton")
    problem.field.require("jvp", "vjp")
    direction = Direction.of(problem, y0_tan, theta_tan, t0_tan, t1_tan, ts_tan)
    forward = solved(problem, options, keep=True, keep_tape=True)
    ys_tans, y1_tans = push_tangents(forward, direction.start[None], direction.theta[None])
    instants = Instants(problem, forward.ys, forward.y1, ys_tans[:, 0], y1_tans[0], direction)
    seeds = loss_tangent(problem, instants)
    y0_bar, theta_bar = pull_cotangents(forward, seeds)
    stats = {**forward_stats(forward), "n_steps_reverse": forward.n_steps}
    cotangents = cotangents_of(problem, forward, seeds, y0_bar, theta_bar, stats)
    forward.give_back()
    return cotangents


def _require_tableau(options, which):
    if options.scheme is not None:
        raise InvalidInputError(f"{which} needs an explicit Runge-Kutta method, such as 'dopri5'; "
                                f"found {options.scheme.name!r}, whose steps have no second derivative here")


def _require_loss(problem, what):
    if problem.loss is None:
        raise InvalidInputError(f"{what} needs a problem with a loss; give Problem(..., loss=...)")


# --- the direction, and what it does to the states at the instants that count ---------------------

class Direction(typing.NamedTuple):
    """A direction in the space of inputs; ``start`` is the tangent of the flow's state at the old t0."""

    y0: np.ndarray
    theta: np.ndarray
    t0: float
    t1: float
    ts: np.ndarray
    start: np.ndarray

    @classmethod
    def of(cls, problem, y0_tan, theta_tan, t0_tan, t1_tan, ts_tan):
        t0_tan, t1_tan = float(array_of("t0_tan", t0_tan, ())), float(array_of("t1_tan", t1_tan, ()))
        if problem.ts_is_t1 and ts_tan is not None:
            raise InvalidInputError("ts_tan: the problem observes t1 itself (ts=None), which t1_tan moves; "
                                    "leave ts_tan out")
        ts_tan = np.array([t1_tan]) if problem.ts_is_t1 else array_of("ts_tan", ts_tan, problem.ts.shape)
        y0_tan = array_of("y0_tan", y0_tan, problem.y0.shape)
        y0_tan = np.append(y0_tan, np.zeros(problem.flow_y0.size - y0_tan.size))
        theta_tan = np.ascontiguousarray(array_of("theta_tan", theta_tan, problem.theta.shape))
        check_first_call(problem)
        slope0 = problem.flow_field(problem.t0, problem.flow_y0, problem.theta)
        return cls(y0_tan, theta_tan, t0_tan, t1_tan, ts_tan, initial_tangent(y0_tan, t0_tan, slope0))


class Instants:
    """The flow at the observations and at t1: states, their tangents with the times moving, slopes and theirs."""

    def __init__(self, problem, ys, y1, ys_tan, y1_tan, direction):
        self.field, self.theta, self.direction = problem.flow_field, problem.theta, direction
        self.times, self.times_tan = [*problem.ts, problem.t1], np.append(direction.ts, direction.t1)
        self.states = np.vstack([ys, y1])
        self.slopes = np.array([self.field(t, y, self.theta) for t, y in zip(self.times, self.states)])
        self.states_tan = observation_tangent(np.vstack([ys_tan, y1_tan]), self.times_tan[:, None], self.slopes)

    def slope_tangents(self):
        """Tangents of f at every instant, shape (K + 1, n)."""
        return np.array([slope_tangent(self.field, t, y, self.theta, t_tan, y_tan, self.direction.theta)
                         for t, y, t_tan, y_tan in zip(self.times, self.states, self.times_tan, self.states_tan)])


def slope_tangent(field, t, y, theta, t_tan, y_tan, theta_tan):
    """The tangent of f(t, y, theta)."""
    tape, dy_tan = field.new_tape(1)[0], np.empty(y.size)
    field.f(t, y, theta, tape, np.empty(y.size))
    field.jvp(t, y, theta, float(t_tan), y_tan, theta_tan, tape, dy_tan)
    return dy_tan


def slope_cotangent(field, t, y, theta, dy_bar):
    """((df/dy)^T dy_bar, (df/dtheta)^T dy_bar)."""
    tape, y_bar, theta_bar = field.new_tape(1)[0], np.zeros(y.size), np.zeros(theta.size)
    field.f(t, y, theta, tape, np.empty(y.size))
    field.vjp(t, y, theta, tape, dy_bar, np.zeros(1), y_bar, theta_bar)
    return y_bar, theta_bar


def loss_tangent(problem, instants):
    """Tangents of the loss's cotangents, as `Seeds`: its second derivative times the tangents of the states."""
    n, size = problem.y0.size, problem.flow_y0.size
    (ys, y1), (ys_tan, y1_tan) = ((rows[:-1, :n].T, rows[-1, :n]) for rows in (instants.states, instants.states_tan))
    ys_bar_tan, y1_bar_tan = problem.loss.hvp(ys, y1, ys_tan, y1_tan)
    ys_bar_tan = array_of("ys_bar_tan", ys_bar_tan, ys.shape).T
    rest = np.zeros(size - n)                                   # a running cost: dL/dq = 1 is constant
    return Seeds(np.ascontiguousarray(np.column_stack([ys_bar_tan, np.zeros((len(ys_bar_tan), size - n))])),
                 np.append(array_of("y1_bar_tan", y1_bar_tan, y1.shape), rest))


# --- the product ----------------------------------------------------------------------------------

def _product(problem, options, own, direction, tangents, sensitivity):
    """The `HessianProduct` from a solve with its tangent: one pair of sweeps back, and the moving times."""
    loss = LossSeeds(problem)
    seeds = loss(tangents)
    instants = Instants(problem, tangents.ys, tangents.y1, tangents.ys_tans[:, 0], tangents.y1_tans[0], direction)
    seeds_tan = loss_tangent(problem, instants)
    moved, theta_part = moved_seeds(instants, seeds, seeds_tan)
    (y0_bar, y0_bar_tan), (theta_bar, theta_bar_tan), stats = tangents.pull(problem, options, own, seeds, moved)
    y0_part, theta_part_0, t0_bar_tan = moved_start(problem, direction, y0_bar, y0_bar_tan)
    stats = {**forward_stats(tangents.forward), **stats}
    times_bar_tan = time_cotangent_tangents(instants, seeds, seeds_tan)
    t1_bar_tan, ts_bar_tan = float(times_bar_tan[-1]), times_bar_tan[:-1]
    if problem.ts_is_t1:
        t1_bar_tan, ts_bar_tan = float(times_bar_tan.sum()), np.empty(0)
    return HessianProduct(
        y0=y0_part[:problem.y0.size], theta=theta_bar_tan + theta_part + theta_part_0, t0=t0_bar_tan, t1=t1_bar_tan,
        ts=ts_bar_tan, stats=stats, loss=loss.value, sensitivity=sensitivity,
        gradient=cotangents_of(problem, tangents, seeds, y0_bar, theta_bar, stats))


def moved_seeds(instants, seeds, seeds_tan):
    """Seeds of the tangent sweep at the old times, and what moving times give theta. Implements (HES-7).

    A state that slides along the solution for a time t_tan is f_y t_tan away from the one at the old time.
    """
    ys_bar, y1_bar = seeds_tan.ys_bar.copy(), seeds_tan.y1_bar.copy()
    theta_bar = np.zeros(instants.theta.size)
    for j, t_tan in enumerate(instants.times_tan):
        if t_tan != 0.0:
            last = j == len(ys_bar)
            y_part, theta_part = slope_cotangent(instants.field, instants.times[j], instants.states[j],
                                                 instants.theta, seeds.y1_bar if last else seeds.ys_bar[j])
            (y1_bar if last else ys_bar[j])[:] += t_tan * y_part
            theta_bar += t_tan * theta_part
    return Seeds(ys_bar, y1_bar), theta_bar


def time_cotangent_tangents(instants, seeds, seeds_tan):
    """Tangent of dL/dt_k = y_bar_k . f, for the observations and t1, shape (K + 1,). Implements (HES-8)."""
    bars, bars_tan = (np.vstack([each.ys_bar, each.y1_bar]) for each in (seeds, seeds_tan))
    return np.vecdot(bars_tan, instants.slopes) + np.vecdot(bars, instants.slope_tangents())


def moved_start(problem, direction, y0_bar, y0_bar_tan):
    """Tangents of dL/dy0, of what theta gets at t0, and of dL/dt0 = -dL/dy0 . f(t0, y0). Implements (HES-10)."""
    field, t0, y0, theta = problem.flow_field, problem.t0, problem.flow_y0, problem.theta
    y_part, theta_part = slope_cotangent(field, t0, y0, theta, y0_bar)
    y0_bar_tan = y0_bar_tan - direction.t0 * y_part
    slope0_tan = slope_tangent(field, t0, y0, theta, direction.t0, direction.y0, direction.theta)
    t0_bar_tan = -float(y0_bar_tan @ field(t0, y0, theta) + y0_bar @ slope0_tan)
    return y0_bar_tan, -direction.t0 * theta_part, t0_bar_tan
