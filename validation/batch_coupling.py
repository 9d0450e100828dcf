"""What one step size for a whole batch does to a sample, measured: coupling, leaks, and dilution.

    python validation/batch_coupling.py

prints the tables of docs/batches.md. Derivatives of the exact solution come from SciPy's DOP853 at 1e-13.
"""
import numpy as np
from numba import njit
from scipy.integrate import solve_ivp

from refnode import Batch, VectorField, gradient_batch, losses, solve_batch

MATES = (1, 7, 63)


@njit
def wave(t, y, theta, dy):
    dy[0] = theta[0] * np.sin(3.0 * y[0]) - y[0] + np.cos(t)


@njit
def wave_jvp(t, y, theta, t_tan, y_tan, theta_tan, dy_tan):
    dy_tan[0] = (theta_tan[0] * np.sin(3.0 * y[0]) + (3.0 * theta[0] * np.cos(3.0 * y[0]) - 1.0) * y_tan[0]
                 - np.sin(t) * t_tan)


@njit
def wave_vjp(t, y, theta, dy_bar, t_bar, y_bar, theta_bar):
    t_bar[0] -= np.sin(t) * dy_bar[0]
    y_bar[0] += (3.0 * theta[0] * np.cos(3.0 * y[0]) - 1.0) * dy_bar[0]
    theta_bar[0] += np.sin(3.0 * y[0]) * dy_bar[0]


@njit
def decay(t, y, theta, dy):
    dy[0] = -theta[0] * y[0] * (1.0 + y[0] * y[0])


@njit
def decay_jvp(t, y, theta, t_tan, y_tan, theta_tan, dy_tan):
    dy_tan[0] = (-theta_tan[0] * y[0] * (1.0 + y[0] * y[0])
                 - theta[0] * (1.0 + 3.0 * y[0] * y[0]) * y_tan[0])


@njit
def decay_vjp(t, y, theta, dy_bar, t_bar, y_bar, theta_bar):
    y_bar[0] -= theta[0] * (1.0 + 3.0 * y[0] * y[0]) * dy_bar[0]
    theta_bar[0] -= y[0] * (1.0 + y[0] * y[0]) * dy_bar[0]


WAVE = VectorField(wave, wave_jvp, wave_vjp, n=1, p=1)       # y' = a sin 3y - y + cos t
DECAY = VectorField(decay, decay_jvp, decay_vjp, n=1, p=1)   # y' = -k (y + y^3): 0 is an equilibrium
FIRST_ONLY = losses.terminal(lambda y: float(y[0]), lambda y: np.ones(1))
NOTHING = losses.terminal(lambda y: 0.0, lambda y: np.zeros(1))


def exact(field, y0, theta, t1):
    """y(t1) and its derivatives in y0 and theta."""
    def rhs(t, state):
        rate, zero, one = np.empty(1), np.zeros(1), np.ones(1)
        y, theta_ = state[:1], np.array([theta])
        field.f(t, y, theta_, field.new_tape(1)[0], rate)
        out = [rate[0]]
        for k, direction in ((1, zero), (2, one)):
            field.jvp(t, y, theta_, 0.0, state[k:k + 1].copy(), direction, field.new_tape(1)[0], rate)
            out.append(rate[0])
        return out
    return solve_ivp(rhs, (0.0, t1), [y0, 1.0, 0.0], method="DOP853", rtol=1e-13, atol=1e-16).y[:, -1]


def loss_of_first(batch):
    """L = y_0(t1), the first sample's alone."""
    return [FIRST_ONLY, *[NOTHING] * (batch - 1)]


# --- coupling (trap 12) ---------------------------------------------------------------------------

def coupling(tolerance, t1=5.0, y_a=0.3):
    """Rows (control, mates, steps, error of y_A(t1), errors of its derivatives, derivative in a mate's y0)."""
    mates = np.random.default_rng(0).uniform(-2.0, 2.0, max(MATES))
    truth = exact(WAVE, y_a, 1.0, t1)
    rows = []
    for control, count in [("alone", 0), *[("joint", m) for m in MATES], *[("per_sample", m) for m in MATES]]:
        y0 = np.concatenate([[y_a], mates[:count]])[:, None]
        batch = Batch(WAVE, y0, np.ones((1 + count, 1)), (0.0, t1), loss=loss_of_first(1 + count))
        found = gradient_batch(batch, step_control="joint" if control == "joint" else "per_sample", rtol=tolerance,
                               atol=tolerance)
        errors = np.array([found.loss[0], found.y0[0, 0], found.theta[0, 0]]) - truth
        rows.append((control, count, int(found.stats["n_steps"][0]), *errors, np.max(np.abs(found.y0[1:]), initial=0.0)))
    return truth, rows


def leak(tolerance, t1=5.0, y_a=0.3, eps=1e-6):
    """d y_A(t1) / d y0 of one mate, by central differences of the adaptive program: through its step control."""
    mate = np.random.default_rng(0).uniform(-2.0, 2.0)
    ends = {}
    for control in ("joint", "per_sample"):
        values = [solve_batch(Batch(WAVE, [[y_a], [mate + sign * eps]], [1.0], (0.0, t1)), control, rtol=tolerance,
                              atol=tolerance).y1[0, 0] for sign in (1.0, -1.0)]
        ends[control] = (values[0] - values[1]) / (2.0 * eps)
    return ends


# --- dilution (trap 24) ---------------------------------------------------------------------------

def dilution(tolerance, sizes=(1, 16, 256, 4096), rate=50.0, y_a=1.0, t1=20.0):
    """Rows (control, B, steps of A, error of y_A(t1), errors of its derivatives) with B - 1 samples at rest."""
    truth = exact(DECAY, y_a, rate, t1)
    rows = []
    for size in sizes:
        for control in ("joint", "per_sample"):
            y0 = np.zeros((size, 1))
            y0[0] = y_a
            batch = Batch(DECAY, y0, np.full((size, 1), rate), (0.0, t1), loss=loss_of_first(size))
            found = gradient_batch(batch, step_control=control, rtol=tolerance, atol=tolerance)
            errors = np.array([found.loss[0], found.y0[0, 0], found.theta[0, 0]]) - truth
            rows.append((control, size, int(found.stats["n_steps"][0]), *errors))
    return truth, rows


def main():
    for tolerance in (1e-2, 1e-4, 1e-6):
        truth, rows = coupling(tolerance)
        print(f"\ncoupling, y' = a sin 3y - y + cos t, tolerance {tolerance:g}: y_A(5), its derivatives in y0, a = "
              f"{truth[0]:.6f}, {truth[1]:.6e}, {truth[2]:.6f}")
        print(f"{'control':>12} {'mates':>6} {'steps':>6} {'err y_A':>11} {'err d/dy0':>11} {'err d/da':>11} {'d/d mates':>10}")
        for control, count, steps, *errors, mates in rows:
            print(f"{control:>12} {count:6d} {steps:6d} " + " ".join(f"{e:11.2e}" for e in errors) + f" {mates:10.1e}")
        print("through the step control, d y_A / d y0 of one mate:", {k: f"{v:.2e}" for k, v in leak(tolerance).items()})
    for tolerance in (1e-3, 1e-6):
        truth, rows = dilution(tolerance)
        print(f"\ndilution, y' = -k (y + y^3), all but A at rest, tolerance {tolerance:g}: truth "
              f"{truth[0]:.2e}, {truth[1]:.2e}, {truth[2]:.2e}")
        print(f"{'control':>12} {'B':>6} {'steps':>6} {'err y_A':>11} {'err d/dy0':>11} {'err d/dk':>11}")
        for control, size, steps, *errors in rows:
            print(f"{control:>12} {size:6d} {steps:6d} " + " ".join(f"{e:11.2e}" for e in errors))


if __name__ == "__main__":
    main()
