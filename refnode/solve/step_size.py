"""How long the next step is: error norm, controllers, and the first step.

References
----------
Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, 2nd ed., II.4.
Gustafsson, ACM TOMS 17 (1991); Soderlind, ACM TOMS 29 (2003); Kennedy & Carpenter, Appl. Numer. Math. 44 (2003).
"""
import numpy as np

from refnode.errors import InvalidInputError
from refnode.host_device import higher_order, host_device
from refnode.steppers.system import evaluate

SAFETY, FACTOR_MIN, FACTOR_MAX, BETA_1, BETA_2, BETA_3, EXPONENT, H_MAX = range(8)

CONTROLLERS = {                 # exponents of err_n, err_(n-1), err_(n-2), times 1 / (error_order + 1)
    "I": (1.0, 0.0, 0.0),       # Hairer et al., eq. II.4.13; what SciPy does
    "PI": (0.7, -0.4, 0.0),     # Gustafsson 1991
    "PID": (0.58, -0.21, 0.1),  # Kennedy & Carpenter 2003
}


def control_values(controller, error_order, max_step, safety=0.9, factor_min=0.2, factor_max=10.0):
    """The vector of numbers that steers the step size, indexed by SAFETY ... H_MAX."""
    if controller not in CONTROLLERS:
        raise InvalidInputError(f"controller must be one of {list(CONTROLLERS)}, found {controller!r}")
    exponent = 1.0 / (error_order + 1)
    betas = [beta * exponent for beta in CONTROLLERS[controller]]
    return np.array([safety, factor_min, factor_max, *betas, exponent, max_step])


@host_device
def scaled_norm(x, y, y1, rtol, atol, blocks):
    """max over blocks of sqrt(mean((x_i / (atol_i + rtol_i max(|y_i|, |y1_i|)))^2)).

    One block is SciPy's norm. Several keep a small block of a joint system (the state beside its
    tangents, say) from being averaged away. Block b holds the entries blocks[b] ... blocks[b + 1] - 1.
    """
    largest = 0.0
    for block in range(blocks.shape[0] - 1):
        total = 0.0
        for m in range(blocks[block], blocks[block + 1]):
            ratio = x[m] / (atol[m] + rtol[m] * max(abs(y[m]), abs(y1[m])))
            total += ratio * ratio
        if total > largest * (blocks[block + 1] - blocks[block]) or total != total:      # a NaN stays
            largest = total / (blocks[block + 1] - blocks[block])
    return np.sqrt(largest)


@host_device
def error_norm(E, h, k, y, y1, rtol, atol, blocks):
    """The local error estimate h sum_i E_0i k_i in the norm of `scaled_norm`.

    With a second row of weights (DOP853) the two estimates combine as in Hairer et al., II.10:
    e5^2 / sqrt(e5^2 + 0.01 e3^2).
    """
    largest = 0.0
    for block in range(blocks.shape[0] - 1):
        first, second = 0.0, 0.0
        for m in range(blocks[block], blocks[block + 1]):
            scale = atol[m] + rtol[m] * max(abs(y[m]), abs(y1[m]))
            e5, e3 = 0.0, 0.0
            for i in range(E.shape[1]):
                e5 += E[0, i] * k[i, m]
                e3 += E[1, i] * k[i, m]
            first += (h * e5 / scale) ** 2
            second += (h * e3 / scale) ** 2
        if first != 0.0:
            first = first / np.sqrt((first + 0.01 * second) * (blocks[block + 1] - blocks[block]))
        if first > largest or first != first:                                            # a NaN stays
            largest = first
    return largest


@host_device
def step_factor(control, error, error_1, error_2):
    """h_(n+1) / h_n after an accepted step: safety err_n^-beta1 err_(n-1)^-beta2 err_(n-2)^-beta3."""
    if error == 0.0:
        return control[FACTOR_MAX]
    factor = control[SAFETY] * error ** -control[BETA_1]
    if control[BETA_2] != 0.0:
        factor *= error_1 ** -control[BETA_2]
    if control[BETA_3] != 0.0:
        factor *= error_2 ** -control[BETA_3]
    return min(control[FACTOR_MAX], max(control[FACTOR_MIN], factor))


@host_device
def rejection_factor(control, error):
    """h_new / h_n after a rejected step."""
    return max(control[FACTOR_MIN], control[SAFETY] * error ** -control[EXPONENT])


@higher_order
def first_step(f, t0, t1, y0, theta, tape, f0, control, rtol, atol, blocks, y1, f1):
    """The first step size, h > 0, from two slopes; costs one evaluation. y1, f1 (n,) are workspace.

    Hairer et al., II.4, "Starting Step Size"; the details as in SciPy.
    """
    length = abs(t1 - t0)
    direction = 1.0 if t1 >= t0 else -1.0
    d0 = scaled_norm(y0, y0, y0, rtol, atol, blocks)
    d1 = scaled_norm(f0, y0, y0, rtol, atol, blocks)
    h0 = 1e-6 if d0 < 1e-5 or d1 < 1e-5 else 0.01 * d0 / d1
    h0 = min(h0, length)
    if not h0 > 0.0:                               # d0 / d1 over- or underflowed: take the smallest step
        return 0.0
    for m in range(y0.shape[0]):
        y1[m] = y0[m] + h0 * direction * f0[m]
    evaluate(f, t0 + h0 * direction, y1, theta, tape, f1)
    for m in range(y0.shape[0]):
        f1[m] -= f0[m]
    d2 = scaled_norm(f1, y0, y0, rtol, atol, blocks) / h0
    if d1 <= 1e-15 and d2 <= 1e-15:
        h1 = max(1e-6, h0 * 1e-3)
    else:
        h1 = (0.01 / max(d1, d2)) ** control[EXPONENT]
    h = min(min(100.0 * h0, h1), min(length, control[H_MAX]))
    return h if h > 0.0 else h0                    # a NaN slope at y1 must not become a NaN step
