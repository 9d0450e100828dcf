"""How long the next step is: error norm, controllers, and the first step.

References
----------
Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, 2nd ed., II.4.
Gustafsson, ACM TOMS 17 (1991); Soderlind, ACM TOMS 29 (2003); Kennedy & Carpenter, Appl. Numer. Math. 44 (2003).
"""
import numpy as np

from refnode.errors import InvalidInputError
from refnode.host_device import higher_order, host_device
from refnode.linalg import has_nonzero
from refnode.steppers.system import evaluate

SAFETY, FACTOR_MIN, FACTOR_MAX, BETA_1, BETA_2, BETA_3, EXPONENT, H_MAX = range(8)

ERROR_FLOOR = 1e-4              # of the errors a controller remembers

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
def scale_slopes(rtol, y, y1):
    """d scale/dy and d scale/dy1 of one weight, scale = atol + rtol max(|y|, |y1|). Implements (THR-1).

    The derivative of |x| at 0 is taken as 0, and that of a maximum as that of its first argument where both
    are equal: the branch the program takes.
    """
    if abs(y) >= abs(y1):
        return rtol * np.sign(y), 0.0
    return 0.0, rtol * np.sign(y1)


@host_device
def scaled_norm_jvp(x, y, y1, rtol, atol, blocks, x_tan, y_tan, y1_tan):
    """The tangent of `scaled_norm`; 0 where the norm is 0. Implements (THR-2)."""
    norm, block = scaled_norm(x, y, y1, rtol, atol, blocks), 0
    if norm == 0.0:
        return 0.0
    while scaled_norm(x, y, y1, rtol, atol, blocks[block:block + 2]) < norm:
        block += 1
    total = 0.0
    for m in range(blocks[block], blocks[block + 1]):
        scale = atol[m] + rtol[m] * max(abs(y[m]), abs(y1[m]))
        by_y, by_y1 = scale_slopes(rtol[m], y[m], y1[m])
        ratio = x[m] / scale
        total += ratio * (x_tan[m] - ratio * (by_y * y_tan[m] + by_y1 * y1_tan[m])) / scale
    return total / (norm * (blocks[block + 1] - blocks[block]))


@host_device
def scaled_norm_vjp(x, y, y1, rtol, atol, blocks, norm_bar, x_bar, y_bar, y1_bar):
    """The transpose of `scaled_norm_jvp`: adds to x_bar, y_bar, y1_bar, which may be one array."""
    norm, block = scaled_norm(x, y, y1, rtol, atol, blocks), 0
    if norm == 0.0:
        return
    while scaled_norm(x, y, y1, rtol, atol, blocks[block:block + 2]) < norm:
        block += 1
    total_bar = norm_bar / (norm * (blocks[block + 1] - blocks[block]))
    for m in range(blocks[block], blocks[block + 1]):
        scale = atol[m] + rtol[m] * max(abs(y[m]), abs(y1[m]))
        by_y, by_y1 = scale_slopes(rtol[m], y[m], y1[m])
        ratio = x[m] / scale
        # total += ratio * (x_tan - ratio * (by_y * y_tan + by_y1 * y1_tan)) / scale
        part = ratio / scale * total_bar
        x_bar[m] += part
        y_bar[m] -= ratio * by_y * part
        y1_bar[m] -= ratio * by_y1 * part


@host_device
def error_norm(E, h, k, y, y1, rtol, atol, blocks):
    """The local error estimate h sum_i E_0i k_i in the norm of `scaled_norm`.

    With a second row of weights (DOP853) the two estimates combine as in Hairer et al., II.10:
    e5^2 / sqrt(e5^2 + 0.01 e3^2).
    """
    largest, two = 0.0, has_nonzero(E[1])
    for block in range(blocks.shape[0] - 1):
        first, second = 0.0, 0.0
        for m in range(blocks[block], blocks[block + 1]):
            scale = atol[m] + rtol[m] * max(abs(y[m]), abs(y1[m]))
            ratio = h * weighted_slope(E[0], k, m) / scale
            first += ratio * ratio + 0.0 * y1[m]                # ``** 2`` would be a loop; no number where y1 overflowed
            if two:
                ratio = h * weighted_slope(E[1], k, m) / scale
                second += ratio * ratio
        if first != 0.0:
            first = first / np.sqrt((first + 0.01 * second) * (blocks[block + 1] - blocks[block]))
        if first > largest or first != first:                                            # a NaN stays
            largest = first
    return largest


@host_device
def weighted_slope(weights, k, m):
    """Component m of sum_i weights_i k_i."""
    total = 0.0
    for i in range(weights.shape[0]):
        total += weights[i] * k[i, m]
    return total


@host_device
def error_estimates(E, h, k, scale, m):
    """Component m of the two scaled error estimates, h sum_i E_0i k_i / scale and h sum_i E_1i k_i / scale."""
    return h * weighted_slope(E[0], k, m) / scale, h * weighted_slope(E[1], k, m) / scale


@host_device
def error_norm_slopes(E, h, k, y, y1, rtol, atol, blocks):
    """The block that is the largest in `error_norm`, and d norm/d(sum r5^2), d norm/d(sum r3^2) there.

    norm = first / sqrt((first + 0.01 second) count). Implements (THR-3). The block is -1 where the norm is 0.
    """
    norm, block = error_norm(E, h, k, y, y1, rtol, atol, blocks), 0
    if norm == 0.0:
        return -1, 0.0, 0.0
    while error_norm(E, h, k, y, y1, rtol, atol, blocks[block:block + 2]) < norm:
        block += 1
    first, second = 0.0, 0.0
    for m in range(blocks[block], blocks[block + 1]):
        r5, r3 = error_estimates(E, h, k, atol[m] + rtol[m] * max(abs(y[m]), abs(y1[m])), m)
        first += r5 * r5
        second += r3 * r3
    joint = first + 0.01 * second
    by_joint = -0.5 * norm / joint
    return block, norm / first + by_joint, 0.01 * by_joint


@host_device
def error_norm_jvp(E, h, k, y, y1, rtol, atol, blocks, h_tan, k_tan, y_tan, y1_tan):
    """The tangent of `error_norm`; 0 where the norm is 0. Implements (THR-4)."""
    block, by_first, by_second = error_norm_slopes(E, h, k, y, y1, rtol, atol, blocks)
    if block < 0:
        return 0.0
    norm_tan = 0.0
    for m in range(blocks[block], blocks[block + 1]):
        scale = atol[m] + rtol[m] * max(abs(y[m]), abs(y1[m]))
        by_y, by_y1 = scale_slopes(rtol[m], y[m], y1[m])
        r5, r3 = error_estimates(E, h, k, scale, m)
        moved5, moved3 = error_estimates(E, h, k_tan, scale, m)
        shrink = h_tan / h - (by_y * y_tan[m] + by_y1 * y1_tan[m]) / scale       # r = h e / scale
        norm_tan += 2.0 * by_first * r5 * (moved5 + r5 * shrink) + 2.0 * by_second * r3 * (moved3 + r3 * shrink)
    return norm_tan


@host_device
def error_norm_vjp(E, h, k, y, y1, rtol, atol, blocks, norm_bar, k_bar, y_bar, y1_bar):
    """The transpose of `error_norm_jvp`: adds to k_bar, y_bar, y1_bar and returns h_bar. Implements (THR-5)."""
    block, by_first, by_second = error_norm_slopes(E, h, k, y, y1, rtol, atol, blocks)
    h_bar = 0.0
    if block < 0:
        return h_bar
    for m in range(blocks[block], blocks[block + 1]):
        scale = atol[m] + rtol[m] * max(abs(y[m]), abs(y1[m]))
        by_y, by_y1 = scale_slopes(rtol[m], y[m], y1[m])
        r5, r3 = error_estimates(E, h, k, scale, m)
        # norm_tan += 2 by_first r5 (moved5 + r5 shrink) + 2 by_second r3 (moved3 + r3 shrink)
        r5_bar, r3_bar = 2.0 * by_first * r5 * norm_bar, 2.0 * by_second * r3 * norm_bar
        for i in range(E.shape[1]):
            k_bar[i, m] += h * (E[0, i] * r5_bar + E[1, i] * r3_bar) / scale
        shrink_bar = r5 * r5_bar + r3 * r3_bar
        h_bar += shrink_bar / h
        y_bar[m] -= by_y * shrink_bar / scale
        y1_bar[m] -= by_y1 * shrink_bar / scale
    return h_bar


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


@host_device
def next_size_slopes(control, error, error_1, error_2, taken, rejected):
    """Of the size after an accepted step: its derivatives with respect to taken, error, error_1, error_2.

    0 where a bound holds the factor: the derivative of the branch. Implements (THR-6).
    """
    factor = step_factor(control, error, error_1, error_2)
    if rejected and factor >= 1.0:                              # factor = min(1, factor)
        return 1.0, 0.0, 0.0, 0.0
    if error == 0.0 or factor <= control[FACTOR_MIN] or factor >= control[FACTOR_MAX]:
        return factor, 0.0, 0.0, 0.0
    size = taken * factor                                       # taken safety error^-beta1 error_1^-beta2 ...
    return (factor, -control[BETA_1] * size / error, -control[BETA_2] * size / error_1,
            -control[BETA_3] * size / error_2)


@host_device
def rejection_slopes(control, error, taken):
    """Of the size after a rejected step: its derivatives with respect to taken and error."""
    factor = rejection_factor(control, error)
    if factor <= control[FACTOR_MIN]:
        return factor, 0.0
    return factor, -control[EXPONENT] * taken * factor / error


@host_device
def first_guess(length, y0, f0, rtol, atol, blocks):
    """The norms d0, d1 of y0 and f0, and the size h0 at which `first_step` takes its second slope."""
    d0 = scaled_norm(y0, y0, y0, rtol, atol, blocks)
    d1 = scaled_norm(f0, y0, y0, rtol, atol, blocks)
    h0 = 1e-6 if d0 < 1e-5 or d1 < 1e-5 else 0.01 * d0 / d1
    return d0, d1, min(h0, length)


@host_device
def first_size(control, length, h0, d1, d2):
    """`first_step`'s size, from the norms d1 of f at the start and d2 of its difference quotient over h0."""
    if d1 <= 1e-15 and d2 <= 1e-15:
        h1 = max(1e-6, h0 * 1e-3)
    else:
        h1 = (0.01 / max(d1, d2)) ** control[EXPONENT]
    size = min(min(100.0 * h0, h1), min(length, control[H_MAX]))
    return size if size > 0.0 else h0              # a NaN slope at y1 must not become a NaN step


@higher_order
def first_step(f, t0, t1, y0, theta, tape, f0, control, rtol, atol, blocks, y1, f1):
    """The first step size, h > 0, from two slopes; costs one evaluation. y1, f1 (n,) are workspace.

    Hairer et al., II.4, "Starting Step Size"; the details as in SciPy.
    """
    length = abs(t1 - t0)
    direction = 1.0 if t1 >= t0 else -1.0
    d0, d1, h0 = first_guess(length, y0, f0, rtol, atol, blocks)
    if not h0 > 0.0:                               # d0 / d1 over- or underflowed: take the smallest step
        return 0.0
    for m in range(y0.shape[0]):
        y1[m] = y0[m] + h0 * direction * f0[m]
    evaluate(f, t0 + h0 * direction, y1, theta, tape, f1)
    for m in range(y0.shape[0]):
        f1[m] -= f0[m]
    d2 = scaled_norm(f1, y0, y0, rtol, atol, blocks) / h0
    return first_size(control, length, h0, d1, d2)


@host_device
def first_guess_slopes(length, d0, d1):
    """Derivatives of `first_guess`'s h0 with respect to length, d0, d1."""
    small = d0 < 1e-5 or d1 < 1e-5
    h0 = 1e-6 if small else 0.01 * d0 / d1
    if h0 > length:
        return 1.0, 0.0, 0.0
    return (0.0, 0.0, 0.0) if small else (0.0, 0.01 / d1, -h0 / d1)


@host_device
def first_size_slopes(control, length, h0, d1, d2):
    """Derivatives of `first_size` with respect to length, h0, d1, d2."""
    by_h0, by_d1, by_d2 = 0.0, 0.0, 0.0
    if d1 <= 1e-15 and d2 <= 1e-15:
        h1 = max(1e-6, h0 * 1e-3)
        by_h0 = 1e-3 if h0 * 1e-3 > 1e-6 else 0.0
    else:
        h1 = (0.01 / max(d1, d2)) ** control[EXPONENT]
        slope = -control[EXPONENT] * h1 / max(d1, d2)
        by_d1, by_d2 = (slope, 0.0) if d1 >= d2 else (0.0, slope)
    h = min(min(100.0 * h0, h1), min(length, control[H_MAX]))
    if not h > 0.0:
        return 0.0, 1.0, 0.0, 0.0
    if h == 100.0 * h0:
        return 0.0, 100.0, 0.0, 0.0
    if h == h1:
        return 0.0, by_h0, by_d1, by_d2
    return (1.0 if h == length else 0.0), 0.0, 0.0, 0.0


@higher_order
def first_step_jvp(f, f_jvp, t0, t1, y0, theta, tape, f0, control, rtol, atol, blocks,
                   t0_tan, t1_tan, y0_tan, theta_tan, f0_tan, y1, f1, y1_tan, f1_tan):
    """The tangent of `first_step`. Implements (THR-9). y1, f1, y1_tan, f1_tan (n,) are workspace."""
    direction = 1.0 if t1 >= t0 else -1.0
    length, length_tan = abs(t1 - t0), direction * (t1_tan - t0_tan)
    d0, d1, h0 = first_guess(length, y0, f0, rtol, atol, blocks)
    if not h0 > 0.0:
        return 0.0
    d0_tan = scaled_norm_jvp(y0, y0, y0, rtol, atol, blocks, y0_tan, y0_tan, y0_tan)
    d1_tan = scaled_norm_jvp(f0, y0, y0, rtol, atol, blocks, f0_tan, y0_tan, y0_tan)
    by_length, by_d0, by_d1 = first_guess_slopes(length, d0, d1)
    h0_tan = by_length * length_tan + by_d0 * d0_tan + by_d1 * d1_tan
    h, h_tan = h0 * direction, h0_tan * direction
    for m in range(y0.shape[0]):
        y1[m] = y0[m] + h * f0[m]
        y1_tan[m] = y0_tan[m] + h * f0_tan[m] + h_tan * f0[m]
    f(t0 + h, y1, theta, tape, f1)
    f_jvp(t0 + h, y1, theta, t0_tan + h_tan, y1_tan, theta_tan, tape, f1_tan)
    for m in range(y0.shape[0]):
        f1[m] -= f0[m]
        f1_tan[m] -= f0_tan[m]
    d2 = scaled_norm(f1, y0, y0, rtol, atol, blocks) / h0
    by_length, by_h0, by_d1, by_d2 = first_size_slopes(control, length, h0, d1, d2)
    size_tan = by_length * length_tan + by_h0 * h0_tan + by_d1 * d1_tan
    if by_d2 != 0.0:                                            # d2 may be infinite where it does not count
        moved = scaled_norm_jvp(f1, y0, y0, rtol, atol, blocks, f1_tan, y0_tan, y0_tan)
        size_tan += by_d2 * (moved - d2 * h0_tan) / h0          # d2 = norm / h0
    return size_tan


@higher_order
def first_step_vjp(f, f_vjp, t0, t1, y0, theta, tape, f0, control, rtol, atol, blocks, h_bar,
                   y1, f1, y1_bar, f1_bar, t0_bar, y0_bar, theta_bar, f0_bar):
    """The transpose of `first_step_jvp`, last line first. Implements (THR-10).

    Adds to t0_bar (1,), y0_bar, theta_bar, f0_bar, and returns t1_bar.
    """
    direction = 1.0 if t1 >= t0 else -1.0
    length = abs(t1 - t0)
    d0, d1, h0 = first_guess(length, y0, f0, rtol, atol, blocks)
    if not h0 > 0.0:
        return 0.0
    h = h0 * direction
    for m in range(y0.shape[0]):
        y1[m] = y0[m] + h * f0[m]
    f(t0 + h, y1, theta, tape, f1)
    for m in range(y0.shape[0]):
        f1[m] -= f0[m]
    d2 = scaled_norm(f1, y0, y0, rtol, atol, blocks) / h0
    by_length, by_h0, by_d1, by_d2 = first_size_slopes(control, length, h0, d1, d2)
    length_bar, h0_bar, d1_bar = by_length * h_bar, by_h0 * h_bar, by_d1 * h_bar
    if by_d2 != 0.0:
        f1_bar[:] = 0.0
        y1_bar[:] = 0.0
        h0_bar -= by_d2 * h_bar * d2 / h0                       # d2 = norm / h0
        scaled_norm_vjp(f1, y0, y0, rtol, atol, blocks, by_d2 * h_bar / h0, f1_bar, y0_bar, y0_bar)
        before = t0_bar[0]
        f_vjp(t0 + h, y1, theta, tape, f1_bar, t0_bar, y1_bar, theta_bar)
        step_bar = t0_bar[0] - before                           # f at t0 + h
        for m in range(y0.shape[0]):
            y0_bar[m] += y1_bar[m]                              # y1 = y0 + h f0
            f0_bar[m] += h * y1_bar[m] - f1_bar[m]              # f1 -= f0
            step_bar += f0[m] * y1_bar[m]
        h0_bar += direction * step_bar
    guess_by_length, guess_by_d0, guess_by_d1 = first_guess_slopes(length, d0, d1)
    scaled_norm_vjp(y0, y0, y0, rtol, atol, blocks, guess_by_d0 * h0_bar, y0_bar, y0_bar, y0_bar)
    scaled_norm_vjp(f0, y0, y0, rtol, atol, blocks, d1_bar + guess_by_d1 * h0_bar, f0_bar, y0_bar, y0_bar)
    length_bar += guess_by_length * h0_bar
    t0_bar[0] -= direction * length_bar                         # length = |t1 - t0|
    return direction * length_bar
