"""How the integral of lam^T df/dtheta is summed where it is no part of the adjoint's state.

The adjoint equation does not depend on the integral. So lambda is solved alone, and the integral is summed
over *panels*, pieces of time, by a rule with nodes inside: (ADJ-7). A pair of rules on the same nodes gives an
error estimate, and a panel whose estimate exceeds the tolerance is halved: (ADJ-8).
"""
import warnings

import numpy as np
from numba import types

from refnode.errors import GradientWarning, IntegrationError
from refnode.host_device import INTEGERS, MATRIX, RHS, RHS_VJP, VECTOR, driver, higher_order, host_device
from refnode.sensitivity.equations import (
    PATH_TYPES, SCRATCH_TYPES, Interpolated, adjoint_along_path, read_path)
from refnode.solve.integrate import FINISHED, MAX_STEPS, RUNNING, STEPS
from refnode.solve.run import Trajectory, entry_point, run_slices

PANEL, SLICE = range(2)                                                             # position

SUM_TYPES = types.Tuple((
    VECTOR, MATRIX, VECTOR, VECTOR, VECTOR,                      # nodes, weights, theta, tape, tolerance
    MATRIX, INTEGERS, VECTOR, VECTOR, VECTOR, MATRIX,            # panels, position, lam, lam_rate, grad_rate, sums
    VECTOR, VECTOR))                                             # errors, grad

CAPACITY = 32              # steps of the adjoint held at once where each is summed as it is taken
STEPS_A_PANEL = 8          # of the adjoint, in the first panels of the adaptive quadrature
UNRESOLVED_WARNING = 100.0 # estimated error of Gauss's sum, in units of the tolerance; at most 10 for smooth integrands


# --- rules ----------------------------------------------------------------------------------------

def gauss_legendre(count):
    """Nodes in (0, 1) and weights (2, count) of Gauss's rule, exact to degree 2 count - 1.

    The second row repeats the first: the rule has no estimate of its error.
    """
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return 0.5 + 0.5 * nodes, np.ascontiguousarray(np.tile(0.5 * weights, (2, 1)))


def gauss_and_null(count):
    """Gauss's rule, beside it the same less a null rule of its nodes and both ends (Berntsen and Espelid 1991).

    The null rule is the divided difference of all count + 2 values: 0 for polynomials of degree count, and of the size of the
    integrand where that is not smooth. Its weights sum up to 1 in magnitude, as Gauss's do.
    """
    inner, weights = gauss_legendre(count)
    nodes, weights = np.concatenate([[0.0], inner, [1.0]]), np.pad(weights, ((0, 0), (1, 1)))
    null = 1.0 / np.prod(nodes[:, None] - nodes + np.eye(nodes.size), axis=1)
    weights[1] -= null / np.sum(np.abs(null))
    return nodes, weights


# Half of the symmetric pair, from the outermost node to the middle: Kronrod's node and weight, Gauss's weight.
# Kronrod, Nodes and Weights of Quadrature Formulas (1965); Piessens et al., QUADPACK (1983), routine qk15.
KRONROD = np.array([
    (0.991455371120812639206854697526329, 0.022935322010529224963732008058970, 0.0),
    (0.949107912342758524526189684047851, 0.063092092629978553290700663189204, 0.129484966168869693270611432679082),
    (0.864864423359769072789712788640926, 0.104790010322250183839876322541518, 0.0),
    (0.741531185599394439863864773280788, 0.140653259715525918745189590510238, 0.279705391489276667901467771423780),
    (0.586087235467691130294144691693013, 0.169004726639267902826583426598550, 0.0),
    (0.405845151377397166906606412076961, 0.190350578064785409913256402421014, 0.381830050505118944950369775488975),
    (0.207784955007898467600689403773245, 0.204432940075298892414161999234649, 0.0),
    (0.000000000000000000000000000000000, 0.209482141084727828012999174891714, 0.417959183673469387755102040816327)])


def gauss_kronrod():
    """Nodes in (0, 1), and in two rows the weights of Kronrod's 15 nodes and of Gauss's 7 among them."""
    left, right = KRONROD * [-1.0, 1.0, 1.0], KRONROD[-2::-1]
    nodes, *weights = np.vstack([left, right]).T
    return 0.5 + 0.5 * nodes, 0.5 * np.array(weights)


def rule_named(quadrature, order):
    """The rule of a recipe: Gauss's to one degree more than the method's order needs, or Kronrod's pair."""
    return gauss_and_null(order // 2 + 1) if quadrature == "gauss" else gauss_kronrod()


# --- one panel ------------------------------------------------------------------------------------

@higher_order
def panel_sums(system, adjoint_path, nodes, weights, a, h, theta, tape, lam, lam_rate, grad_rate, sums):
    """sums_r = h sum_i w_ri grad_rate(a + c_i h), for both rows of weights. Implements (ADJ-7).

    ``adjoint_path`` gives lam(t) as ``system`` gives y(t); h < 0 where the sweep goes back in time.
    """
    P, times, lams, k, k_extra = adjoint_path
    sums[:] = 0.0
    for i in range(nodes.shape[0]):
        t = a + nodes[i] * h
        read_path(P, times, lams, k, k_extra, t, system.w, lam)
        adjoint_along_path(system, t, lam, theta, tape, lam_rate, grad_rate)
        for r in range(2):
            if weights[r, i] != 0.0:
                for m in range(grad_rate.shape[0]):
                    sums[r, m] += h * weights[r, i] * grad_rate[m]


@host_device
def panel_error(sums, grad, tolerance):
    """RMS of the difference of two rules over atol + rtol |grad|, as of an error of a step. Implements (ADJ-8)."""
    total = 0.0
    for m in range(grad.shape[0]):
        size = max(abs(grad[m]), abs(grad[m] + sums[0, m]))
        ratio = (sums[0, m] - sums[1, m]) / (tolerance[1] + tolerance[0] * size)
        total += ratio * ratio
    return np.sqrt(total / max(grad.shape[0], 1))


@driver(RHS, RHS_VJP, PATH_TYPES, SCRATCH_TYPES, PATH_TYPES, SUM_TYPES)
def sum_panels(f, f_vjp, path, scratch, adjoint_path, arguments):
    """Sum the parameter integral over panels; see `sum_good_panels`."""
    P, times, y, k, k_extra = path
    w, y_now, slope, t_rate = scratch
    return sum_good_panels(Interpolated(f, f_vjp, P, times, y, k, k_extra, w, y_now, slope, t_rate),
                           adjoint_path, *arguments)


@higher_order
def sum_good_panels(system, adjoint_path, nodes, weights, theta, tape, tolerance, panels, position, lam,
                    lam_rate, grad_rate, sums, errors, grad):
    """Adds to grad (p,) the integral over every panel (start, length) whose error is at most tolerance[2]; fills errors."""
    for _ in range(position[SLICE]):
        j = position[PANEL]
        if j == panels.shape[0]:
            return FINISHED
        panel_sums(system, adjoint_path, nodes, weights, panels[j, 0], panels[j, 1], theta, tape, lam, lam_rate,
                   grad_rate, sums)
        errors[j] = panel_error(sums, grad, tolerance)
        if not errors[j] > tolerance[2]:
            for m in range(grad.shape[0]):
                grad[m] += sums[0, m]
        position[PANEL] = j + 1
    return RUNNING


# --- all panels -----------------------------------------------------------------------------------

class ParameterIntegral:
    """The gradient for theta, summed along the steps that an adjoint solve has taken.

    Attributes
    ----------
    grad : ndarray, shape (p,), [loss/parameter]
    stats : dict
        ``n_panels``; ``nfev_quadrature``, the evaluations of the transposed field at nodes;
        ``quadrature_error``, the sum of all panels' estimates in units of the tolerance; ``adjoint_bytes``, the most
        that was held of lambda's steps.
    """

    def __init__(self, forward, recipe, options, path, scratch, rtol, atol):
        field, n, p = forward.field, forward.n, forward.theta.size
        self.rule = rule_named(recipe.quadrature, options.tableau.order)
        self.drained = recipe.quadrature != "adaptive"
        self.entry, functions = entry_point(sum_panels, field, options.specialize, "f", "vjp")
        self.leading = (*functions, path, scratch)
        self.field, self.theta, self.P = field, forward.theta, options.tableau.P
        self.max_panels = options.max_steps
        self.limit = np.inf if recipe.quadrature == "gauss" else 1.0         # of a panel's estimate; above it, the panel is cut
        self.tolerance = np.array([rtol, atol, self.limit])
        self.estimates = []
        self.workspace = (np.empty(n), np.empty(n), np.empty(p), np.empty((2, p)))
        self.grad = np.zeros(p)
        self.stats = {"n_panels": 0, "nfev_quadrature": 0, "quadrature_error": 0.0, "adjoint_bytes": 0}

    def add(self, trajectory):
        """Add the integral over the steps that an adjoint trajectory holds."""
        if trajectory.n_steps == 0:
            return
        times, lams, k, k_extra, _ = trajectory.stored()
        held = sum(array.nbytes for array in (times, lams, k, k_extra))
        self.stats["adjoint_bytes"] = max(self.stats["adjoint_bytes"], held)
        edges = times if self.drained else np.append(times[:-1:STEPS_A_PANEL], times[-1])
        panels = np.column_stack([edges[:-1], np.diff(edges)])
        while len(panels):
            panels = halves(self._sum((self.P, times, lams, k, k_extra), panels))
        if not np.all(np.isfinite(self.grad)):
            raise IntegrationError(f"the parameter integral is not finite between t={times[-1]:g} and t={times[0]:g}")

    def _sum(self, adjoint_path, panels):
        """Sum the good ones of the panels; returns the others."""
        if len(panels) > self.max_panels:
            raise IntegrationError(f"the parameter integral needs more than max_steps={self.max_panels} panels "
                                   f"near t={panels[0, 0]:g}")
        position, errors = np.zeros(2, dtype=np.int64), np.empty(len(panels))
        tape = self.field.take_tape(1)
        with np.errstate(invalid="ignore"):                     # what is not finite is told by `add`
            run_slices(self.entry, (*self.leading, adjoint_path, (
                *self.rule, self.theta, tape[0], self.tolerance, panels, position, *self.workspace, errors, self.grad)),
                position, SLICE, self.field.pace)
        self.field.keep_tape(tape)
        bad = errors > self.limit
        self.stats["n_panels"] += int(np.sum(~bad))
        self.stats["nfev_quadrature"] += self.rule[0].size * len(panels)
        if self.limit == 1.0:
            self.stats["quadrature_error"] += float(np.sum(errors[~bad]))
        else:
            self.estimates.append(errors)
        return panels[bad]

    def finish(self, warn):
        """The estimated error of Gauss's sum, and with ``warn`` a warning if steps of lambda do not resolve the integrand."""
        if not self.estimates:
            return
        rtol, atol, _ = self.tolerance
        size = np.max(np.abs(self.grad), initial=0.0)
        error = sharpened(np.concatenate(self.estimates), self.rule[0].size - 2, rtol + atol / size if size else 1.0)
        self.stats["quadrature_error"] = error
        if warn and error > UNRESOLVED_WARNING:
            warnings.warn(
                f"the parameter integral was summed by Gauss's rule with an estimated error of {error:.2g} times its tolerance: "
                "df/dtheta has kinks or oscillations that the steps of the adjoint do not see, and the gradient is unreliable; "
                "use 'quadrature', 'gauss_kronrod' or 'interpolating'", GradientWarning, stacklevel=5)


def sharpened(estimates, count, tau):
    """The error of Gauss's sum in units of the tolerance, from those of its null rule over the panels. Implements (ADJ-12)."""
    power = (2.0 * count + 1.0) / (count + 2.0)
    return float(np.sum(np.minimum(estimates, estimates ** power * tau ** (power - 1.0))))


def halves(panels):
    """Every panel (start, length) cut into two."""
    start, length = panels.T
    return np.column_stack([np.concatenate([start, start + 0.5 * length]), np.tile(0.5 * length, 2)])


class DrainedTrajectory(Trajectory):
    """A trajectory that hands its steps to ``use(self)`` when CAPACITY of them are stored, and forgets them."""

    def __init__(self, *arguments, use, **options):
        self.use, self.used = use, 0
        super().__init__(*arguments, **options)

    def run(self, *arguments):
        """As of a `Trajectory`; a failure then tells of the limit that was set."""
        status = super().run(*arguments)
        self.limits[MAX_STEPS] += self.used
        return status

    def _first_capacity(self):
        return min(CAPACITY, super()._first_capacity())

    def grow(self):
        """Instead of making room for more steps, use up those there are."""
        self.use(self)
        steps = self.n_steps
        self.times[0] = self.times[steps]
        self.y[0], self.k[0] = self.y[steps], self.k[steps * self.s]
        self.grid = self.grid[steps:]
        self.limits[MAX_STEPS] -= steps
        self.counts[STEPS] = 0
        self.used += steps
