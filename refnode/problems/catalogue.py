"""The catalogue: one well-behaved problem for every classical field, and the solutions known in closed form.

`CATALOGUE` maps a field's name to a function that returns a fresh `Problem`. Each problem is moderate: not
stiff on its horizon, with every true gradient (y0, theta, t0 and the observation times) non-zero, several
observation times off any grid, and t0 != 0 where the field depends on t. Inputs are dyadic rationals of at
most 24 bits, exact in float32 and in float64, so that one reference value serves every precision.

`CLOSED_FORMS` maps a field's name to ``solution(y0, theta, t0, t) -> y(t)``, valid for complex arguments,
so that a complex step through it gives gradients of the exact solution to rounding.
"""
import numpy as np

from refnode import losses
from refnode.fields import classical
from refnode.problems.problem import Problem


def dyadic(value):
    """The dyadic rational of 24 bits nearest to each value, as float64."""
    return np.asarray(value, dtype=np.float32).astype(np.float64)


# --- problems -------------------------------------------------------------------------------------

def linear_problem():
    """Three coupled, damped states; the nine parameters are the matrix row by row."""
    return Problem(
        classical.linear, y0=[1.0, -0.5, 0.75],
        theta=[-0.5, 1.0, 0.25, -1.0, -0.25, 0.5, 0.125, -0.5, -0.75],
        t_span=(0.0, 2.0), ts=[0.3125, 0.890625, 1.546875, 2.0],
        loss=losses.linear([[1.0, -0.5, 0.25, 0.75], [0.5, 1.0, -0.25, 1.5], [-0.75, 0.5, 1.0, 0.25]]))


def exponential_decay_problem():
    """Two decays at one rate, least squares."""
    return Problem(
        classical.exponential_decay, y0=[1.5, -0.75], theta=[0.625], t_span=(0.0, 3.0),
        ts=[0.328125, 1.171875, 2.453125, 3.0],
        loss=losses.sum_of_squares([[1.0, 0.5, 0.25, 0.0], [-0.5, -0.5, 0.0, -0.25]]))


def logistic_problem():
    """Growth from a quarter of the capacity towards it; the first observation is at t0 itself."""
    return Problem(
        classical.logistic, y0=[0.5], theta=[1.25, 2.0], t_span=(-0.5, 2.5),
        ts=[-0.5, 0.171875, 0.984375, 1.703125, 2.5],
        loss=losses.sum_of_squares([[0.25, 1.0, 1.25, 1.5, 2.125]]))


def cosine_relaxation_problem():
    """Relaxation at a mild rate, from off the slow solution, over half a period of the forcing."""
    return Problem(
        classical.cosine_relaxation, y0=[0.25], theta=[2.0], t_span=(0.5, 2.75),
        ts=[0.796875, 1.421875, 2.078125, 2.75], loss=losses.linear([[0.5, 1.0, -0.75, 1.25]]))


def twin_growth_problem():
    """Two states that part slowly; at equal states the gradients for a and b would vanish."""
    return Problem(
        classical.twin_growth, y0=[1.0, 1.25], theta=[0.5, 0.25], t_span=(0.0, 2.0),
        ts=[0.421875, 1.109375, 1.765625, 2.0],
        loss=losses.sum_of_squares([[0.75, 0.5, 0.5, 0.25], [1.0, 1.5, 1.25, 1.75]]))


def forced_oscillator_problem():
    """A damped oscillator forced below its resonance, for about one period."""
    return Problem(
        classical.forced_oscillator, y0=[0.75, -0.5], theta=[4.0, 0.375, 1.5, 1.25, 0.5],
        t_span=(0.25, 3.75), ts=[0.828125, 1.734375, 2.640625, 3.75],
        loss=losses.sum_of_squares([[0.25, -0.5, 0.25, 0.5], [-1.0, 0.5, 0.25, -0.25]]))


def lotka_volterra_problem():
    """One cycle of prey and predator, least squares."""
    return Problem(
        classical.lotka_volterra, y0=[1.0, 1.0], theta=[1.5, 1.0, 3.0, 1.0], t_span=(0.0, 4.0),
        ts=[0.703125, 1.390625, 2.171875, 3.046875, 4.0],
        loss=losses.sum_of_squares([[2.0, 4.0, 3.0, 0.5, 1.0], [0.5, 0.75, 3.5, 1.0, 0.25]]))


def van_der_pol_problem():
    """A mild limit cycle, begun inside it and before t = 0."""
    return Problem(
        classical.van_der_pol, y0=[1.25, 0.5], theta=[1.0], t_span=(-1.0, 3.0),
        ts=[-0.328125, 0.609375, 1.890625, 3.0],
        loss=losses.sum_of_squares([[1.0, 0.5, -2.0, -1.0], [0.0, -1.5, -0.25, 1.0]]))


def lorenz_problem():
    """The chaotic parameters on a horizon too short for chaos to amplify much."""
    return Problem(
        classical.lorenz, y0=[1.0, 0.5, 0.25], theta=dyadic([10.0, 28.0, 8.0 / 3.0]), t_span=(0.0, 1.0),
        ts=[0.203125, 0.453125, 0.796875, 1.0],
        loss=losses.linear([[1.0, -0.5, 0.25, 0.75], [0.25, 0.5, -1.0, 0.5], [-0.25, 0.75, 0.5, 1.0]]))


def robertson_problem():
    """The stiff parameters on a horizon of a few fast time scales (1/2500), so that explicit methods cope.

    C starts well away from zero, or k3 would have no part; the weights of B make up for its size.
    """
    return Problem(
        classical.robertson, y0=[0.75, 2.0 ** -16, 0.25], theta=dyadic([0.04, 3.0e7, 1.0e4]),
        t_span=(0.0, 2.0 ** -9), ts=[2.0 ** -12, 5.0 * 2.0 ** -13, 2.0 ** -9],
        loss=losses.linear([[1.0, -0.5, 0.25], [2.0 ** 15, 2.0 ** 14, -(2.0 ** 15)], [-0.75, 0.5, 1.0]]))


def pendulum_problem():
    """A wide, lightly damped swing of about one period."""
    return Problem(
        classical.pendulum, y0=[1.25, 0.5], theta=[4.0, 0.25], t_span=(0.0, 3.5),
        ts=[0.578125, 1.265625, 2.390625, 3.5],
        loss=losses.sum_of_squares([[1.0, -0.5, -1.0, 1.0], [-1.5, -2.0, 1.0, 0.25]]))


def kepler_problem():
    """An orbit of eccentricity 1/2 and semi-axis 1, from its pericentre, for about one period."""
    return Problem(
        classical.kepler, y0=dyadic([0.5, 0.0, 0.0, np.sqrt(3.0)]), theta=[1.0], t_span=(0.0, 6.25),
        ts=[0.859375, 2.390625, 4.453125, 6.25],
        loss=losses.linear([[1.0, -0.5, 0.25, 0.75], [0.25, 0.5, -1.0, 0.5],
                            [-0.25, 0.75, 0.5, 1.0], [0.5, 0.25, 0.75, -0.5]]))


CATALOGUE = {
    "linear": linear_problem,
    "exponential_decay": exponential_decay_problem,
    "logistic": logistic_problem,
    "cosine_relaxation": cosine_relaxation_problem,
    "twin_growth": twin_growth_problem,
    "forced_oscillator": forced_oscillator_problem,
    "lotka_volterra": lotka_volterra_problem,
    "van_der_pol": van_der_pol_problem,
    "lorenz": lorenz_problem,
    "robertson": robertson_problem,
    "pendulum": pendulum_problem,
    "kepler": kepler_problem,
}


# --- closed forms ---------------------------------------------------------------------------------

def linear_solution(y0, theta, t0, t):
    """y(t) = exp(A (t - t0)) y0."""
    from scipy.linalg import expm                       # late: slow to import
    n = len(y0)
    return expm((t - t0) * np.reshape(theta, (n, n))) @ np.asarray(y0)


def exponential_decay_solution(y0, theta, t0, t):
    """y(t) = y0 exp(-k (t - t0))."""
    return np.asarray(y0) * np.exp(-theta[0] * (t - t0))


def logistic_solution(y0, theta, t0, t):
    """y(t) = K / (1 + (K/y0 - 1) exp(-r (t - t0))) (Verhulst 1838)."""
    rate, capacity = theta
    return capacity / (1.0 + (capacity / np.asarray(y0) - 1.0) * np.exp(-rate * (t - t0)))


def cosine_relaxation_solution(y0, theta, t0, t):
    """y(t) = s(t) + (y0 - s(t0)) exp(-k (t - t0)), slow solution s = (k^2 cos + k sin)/(k^2 + 1)."""
    k = theta[0]

    def slow(time):
        return (k * k * np.cos(time) + k * np.sin(time)) / (k * k + 1.0)

    return slow(t) + (np.asarray(y0) - slow(t0)) * np.exp(-k * (t - t0))


def twin_growth_solution(y0, theta, t0, t):
    """x = x0 + a d g, y = y0 - b d g, with d = x0 - y0, s = a + b, g = (exp(s (t - t0)) - 1)/s."""
    a, b = theta
    growth = (y0[0] - y0[1]) * np.expm1((a + b) * (t - t0)) / (a + b)
    return np.array([y0[0] + a * growth, y0[1] - b * growth])


def forced_oscillator_solution(y0, theta, t0, t):
    """The exponential of the linear system in (q, q', cos(w t + phi), sin(w t + phi))."""
    from scipy.linalg import expm                       # late: slow to import
    stiffness, damping, amplitude, omega, phase = theta
    matrix = np.array([[0.0, 1.0, 0.0, 0.0],
                       [-stiffness, -damping, amplitude, 0.0],
                       [0.0, 0.0, 0.0, -omega],
                       [0.0, 0.0, omega, 0.0]])
    angle = omega * t0 + phase
    start = np.array([y0[0], y0[1], np.cos(angle), np.sin(angle)])
    return (expm((t - t0) * matrix) @ start)[:2]


CLOSED_FORMS = {
    "linear": linear_solution,
    "exponential_decay": exponential_decay_solution,
    "logistic": logistic_solution,
    "cosine_relaxation": cosine_relaxation_solution,
    "twin_growth": twin_growth_solution,
    "forced_oscillator": forced_oscillator_solution,
}
