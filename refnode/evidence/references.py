"""Gradients from elsewhere: closed forms, SciPy on the variational system, frozen steps in complex numbers.

Nothing here uses a hand-written derivative. Where a Jacobian is needed it is taken by complex steps of the
right-hand side in plain Python; the derivative of a loss, by complex steps of its value.
"""
import dataclasses

import numpy as np
from scipy.integrate import solve_ivp

from refnode.evidence.row import EPS, block_scale, input_vector, split_inputs
from refnode.sensitivity.replay import replay

STEP = 1e-30         # of complex steps: its square is nothing beside rounding


# --- the right-hand side in plain Python, at many points at once ------------------------------------

class Flow:
    """The flow of a problem (with its running cost, if any), and its Jacobian by complex steps."""

    def __init__(self, problem, columns=None):
        self.problem, self.theta, self.y0 = problem, problem.theta, problem.flow_y0
        self.n, self.m = self.y0.size, self.y0.size + problem.theta.size
        self.columns = columns or columns_form(problem.flow_field)
        self._shift = STEP * 1j * np.eye(self.m)

    def linearised(self, t, y):
        """f(t, y), shape (n,), and df/d(y, theta), shape (n, n + p)."""
        points = np.concatenate([y, self.theta])[:, None] + self._shift
        values = self.columns(t, points[:self.n], points[self.n:])
        return values[:, 0].real, values.imag / STEP

    def slope(self, t, y):
        return self.columns(t, y[:, None].astype(complex), self.theta[:, None].astype(complex))[:, 0].real

    def variational(self, t, x):
        """d/dt of (y, S), x of shape (n, 1 + m): S' = (df/dy) S + (df/dtheta) theta'."""
        f, jac = self.linearised(t, x[:, 0])
        rate = np.empty_like(x)
        rate[:, 0] = f
        rate[:, 1:] = jac[:, :self.n] @ x[:, 1:]
        rate[:, 1 + self.n:] += jac[:, self.n:]
        return rate

    def adjoint(self, t, x):
        """d/dt of (y, lam, grad), x of shape (n + m,): lam' = -(df/dy)^T lam, grad' = -(df/dtheta)^T lam."""
        f, jac = self.linearised(t, x[:self.n])
        return np.concatenate([f, -jac.T @ x[self.n:2 * self.n]])

    def start(self):
        return np.hstack([self.y0[:, None], np.eye(self.n, self.m)])


def columns_form(field):
    """``f(t, y (n, M), theta (p, M)) -> (n, M)`` of a field, in plain Python, for complex numbers; t is one or M."""
    form = field.complex_form()
    body = getattr(form, "py_func", form)

    def all_at_once(t, y, theta):
        dy = np.empty_like(y)
        body(t, y, theta, field.new_tape(1, complex)[0], dy)
        return dy

    def one_by_one(t, y, theta):
        dy, t = np.empty_like(y), np.broadcast_to(t, y.shape[1:])
        for j in range(y.shape[1]):
            column = np.empty(y.shape[0], dtype=complex)
            body(t[j], np.ascontiguousarray(y[:, j]), np.ascontiguousarray(theta[:, j]),
                 field.new_tape(1, complex)[0], column)
            dy[:, j] = column
        return dy

    return one_by_one if field.tape_size else all_at_once


# --- from states and tangents to a gradient --------------------------------------------------------

def loss_cotangents(problem, ys, y1):
    """dL/d ys (n, K) and dL/d y1 (n,) of the whole flow, by complex steps of the loss's value."""
    n = problem.y0.size
    x = np.concatenate([ys[:n].ravel(), y1[:n]])

    def value(z):
        return problem.loss.value(z[:-n].reshape(n, -1), z[-n:])

    gradient = complex_gradient(value, x)
    ys_bar, y1_bar = np.zeros(ys.shape), np.ones(y1.shape)      # a running cost enters the loss as it is
    ys_bar[:n], y1_bar[:n] = gradient[:-n].reshape(n, -1), gradient[-n:]
    return ys_bar, y1_bar


def complex_gradient(value, x):
    """Im value(x + i h e_j) / h for every j."""
    gradient = np.empty(x.size)
    for j in range(x.size):
        z = x.astype(complex)
        z[j] += 1j * STEP
        gradient[j] = np.imag(value(z)) / STEP
    return gradient


def assembled(flow, initial_bar, theta_bar, ys, y1, ys_bar, y1_bar):
    """The flat gradient: a moving time acts through f at that time."""
    problem = flow.problem
    t0_bar = -initial_bar @ flow.slope(problem.t0, flow.y0)
    t1_bar = y1_bar @ flow.slope(problem.t1, y1)
    ts_bar = np.array([ys_bar[:, k] @ flow.slope(t, ys[:, k]) for k, t in enumerate(problem.ts)])
    if problem.ts_is_t1:
        t1_bar, ts_bar = t1_bar + ts_bar[0], np.empty(0)
    return np.concatenate([initial_bar[:problem.y0.size], theta_bar, [t0_bar, t1_bar], ts_bar])


def gradient_of_tangents(flow, observed, last):
    """The flat gradient from (y, S) at the observation times and at t1."""
    ys = np.array([x[:, 0] for x in observed]).T.reshape(flow.n, -1)
    ys_bar, y1_bar = loss_cotangents(flow.problem, ys, last[:, 0])
    bars = y1_bar @ last[:, 1:]
    for k, x in enumerate(observed):
        bars = bars + ys_bar[:, k] @ x[:, 1:]
    return assembled(flow, bars[:flow.n], bars[flow.n:], ys, last[:, 0], ys_bar, y1_bar)


# --- the references --------------------------------------------------------------------------------

@dataclasses.dataclass(frozen=True)
class Reference:
    """A gradient from elsewhere, the states it belongs to, and how far either may be off."""

    gradient: np.ndarray
    uncertainty: np.ndarray
    ys: np.ndarray
    ys_uncertainty: np.ndarray
    source: str


def closed_form_reference(problem, solution):
    """Complex steps through the closed form of y(t; y0, theta, t0)."""
    x = input_vector(problem)
    gradient, ys = closed_form_gradient(problem, solution, x), np.real(_closed_form_states(problem, solution, x)[0])
    return Reference(gradient, 1e3 * EPS * block_scale(problem, gradient), ys, 1e-14 * (1.0 + np.abs(ys)),
                     "closed form, complex step")


def closed_form_gradient(problem, solution, x):
    """The gradient of the loss at inputs x, in whatever order their times lie."""
    return complex_gradient(lambda z: problem.loss.value(*_closed_form_states(problem, solution, z)), x)


def _closed_form_states(problem, solution, x):
    at = split_inputs(problem, x)
    times = [at["t1"]] if problem.ts_is_t1 else at["ts"]
    ys = np.array([solution(at["y0"], at["theta"], at["t0"], t) for t in times]).T
    return ys, solution(at["y0"], at["theta"], at["t0"], at["t1"])


def scipy_reference(flow):
    """SciPy's DOP853 on the variational system; the uncertainty is the distance from a looser solve."""
    loose, tight = (_scipy_solve(flow, rtol) for rtol in (1e-10, 1e-12))
    gradients = [gradient_of_tangents(flow, *solved) for solved in (loose, tight)]
    ys = [np.array([x[:, 0] for x in observed]).T.reshape(flow.n, -1) for observed, _ in (loose, tight)]
    return Reference(gradients[1], np.abs(gradients[1] - gradients[0]), ys[1], np.abs(ys[1] - ys[0]),
                     "SciPy DOP853, variational system")


def _scipy_solve(flow, rtol):
    """(y, S) at the observation times and at t1, each the end of a solve: no interpolation."""
    problem, x, t = flow.problem, flow.start(), flow.problem.t0
    shape, observed = x.shape, []
    atol = 1e-3 * rtol * typical_rows(flow)

    def go(x, t, t_next):
        if t_next == t:
            return x
        solved = solve_ivp(lambda t, v: flow.variational(t, v.reshape(shape)).ravel(), (t, t_next), x.ravel(),
                           method="DOP853", rtol=rtol, atol=atol.ravel())
        if not solved.success:
            raise ArithmeticError(f"SciPy's solve_ivp failed: {solved.message}")
        return solved.y[:, -1].reshape(shape)

    for t_next in problem.ts:
        x, t = go(x, t, t_next), t_next
        observed.append(x)
    return observed, go(x, t, problem.t1)


def typical_rows(flow):
    """Sizes of y and S for absolute tolerances: |y| and, for a parameter, |y| / |theta|."""
    y = np.maximum(np.abs(flow.y0), 1e-4)
    inputs = np.concatenate([y, np.maximum(np.abs(flow.theta), 1e-4)])
    return np.hstack([y[:, None], y[:, None] / inputs])


class Replayed:
    """Derivatives of the program whose steps are frozen, by complex steps through every input."""

    def __init__(self, problem, times, method):
        self.problem = problem
        x, n = input_vector(problem), problem.y0.size
        self.ys_tans, self.y1_tans, self.gradient = [], [], np.empty(x.size)
        for j in range(x.size):
            z = x.astype(complex)
            z[j] += 1j * STEP
            ys, y1 = replay(problem, times, method, **split_inputs(problem, z))
            if problem.ts_is_t1:                       # y(ts) is then y(t1), and moves with t1
                y1 = ys[:, 0]
            self.ys_tans.append(ys[:n].imag / STEP)
            self.y1_tans.append(y1[:n].imag / STEP)
            loss = problem.loss.value(ys[:n], y1[:n]) + y1[n:].sum()
            self.gradient[j] = np.imag(loss) / STEP
        self.ys_tans, self.y1_tans = np.array(self.ys_tans), np.array(self.y1_tans)

    def pulled(self, ys_bar):
        """The cotangents of all inputs: ys_bar (n, K) times the Jacobian."""
        return np.einsum("nk,jnk->j", ys_bar, self.ys_tans)

    def magnitude(self, ys_bar):
        """The same with magnitudes: the size of the numbers whose sum a cotangent is."""
        return np.einsum("nk,jnk->j", np.abs(ys_bar), np.abs(self.ys_tans))
