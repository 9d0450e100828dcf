"""Losses of the reference problems: from their form as data to a `Loss` with hand-written derivatives."""
import numpy as np

import refnode.losses as losses       # not `from refnode`: compiled functions would depend on every file
from refnode.errors import InvalidInputError
from refnode.host_device import host_device


def loss_of(data, n, count):
    """The `Loss` of its form as data.

    Parameters
    ----------
    data : dict
        {"kind": "sumsq", "data": n rows of K numbers, or None}; {"kind": "linear", "weights": n rows of K};
        {"kind": "final", "expr": text}, a key of `FINAL`; {"kind": "running", "expr": text}, a key of `RUNNING`;
        or {"kind": "sum", "terms": [...]}. Any but the last may have a "scale", by which it is multiplied.
    n, count : int
        Number of states, and K of observations.

    Raises
    ------
    InvalidInputError
        If the kind or the text is not known, or if numbers have a wrong shape.
    """
    kind = data.get("kind")
    if kind not in KINDS:
        raise InvalidInputError(f"loss must be of a kind in {sorted(KINDS)}, found {kind!r}")
    loss = KINDS[kind](data, n, count)
    scale = float(data.get("scale", 1.0))
    return loss if scale == 1.0 else losses.scaled(loss, scale)


def _sumsq(data, n, count):
    return losses.sum_of_squares(None if data["data"] is None else _rows("data", data["data"], n, count))


def _linear(data, n, count):
    return losses.linear(_rows("weights", data["weights"], n, count))


def _final(data, n, count):
    return losses.terminal(*_known(FINAL, "final", data["expr"]))


def _running(data, n, count):
    return losses.running_cost(*_known(RUNNING, "running", data["expr"]))


def _sum(data, n, count):
    total, *others = [loss_of(term, n, count) for term in data["terms"]]
    for other in others:
        total = total + other
    return total


KINDS = {"sumsq": _sumsq, "linear": _linear, "final": _final, "running": _running, "sum": _sum}


def _rows(name, rows, n, count):
    array = np.array(rows, dtype=np.float64)
    if array.shape != (n, count):
        raise InvalidInputError(f"{name} of the loss must have {n} rows of {count} numbers, found shape {array.shape}")
    return array


def _known(table, kind, text):
    if text not in table:
        raise InvalidInputError(f"a {kind} loss with hand-written derivatives is one of {sorted(table)}, found {text!r}")
    return table[text]


# --- functions of y(t1), their gradients, and their Hessians times a vector --------------------------

def square(y1):
    return y1[0] ** 2


def square_grad(y1):
    return np.concatenate([2.0 * y1[:1], np.zeros(y1.size - 1)])


def square_hvp(y1, y1_tan):
    return np.concatenate([2.0 * y1_tan[:1], np.zeros(y1.size - 1)])


def normal_log_density(y1):
    """log p(z) of a flow to a standard normal, but for the constant: what it gained, less |z|^2/2."""
    return y1[2] - y1[0] ** 2 / 2.0 - y1[1] ** 2 / 2.0


def normal_log_density_grad(y1):
    return np.array([-y1[0], -y1[1], 1.0])


def normal_log_density_hvp(y1, y1_tan):
    return np.array([-y1_tan[0], -y1_tan[1], 0.0])


FINAL = {
    "y[0]**2": (square, square_grad, square_hvp),
    "y[2] - y[0]**2/2 - y[1]**2/2": (normal_log_density, normal_log_density_grad, normal_log_density_hvp),
}


# --- running costs, each with its three derivatives ---------------------------------------------------

@host_device
def energy(t, y, theta):
    """g = y_0^2."""
    return y[0] * y[0]


@host_device
def energy_jvp(t, y, theta, t_tan, y_tan, theta_tan):
    return 2.0 * y[0] * y_tan[0]


@host_device
def energy_vjp(t, y, theta, g_bar, t_bar, y_bar, theta_bar):
    # g = y[0]*y[0]
    y_bar[0] += 2.0 * y[0] * g_bar


@host_device
def energy_hvp(t, y, theta, t_tan, y_tan, theta_tan, g_bar, g_bar_tan, t_bar_tan, y_bar_tan, theta_bar_tan):
    # y_bar[0] += 2*y[0]*g_bar
    y_bar_tan[0] += 2.0 * (y_tan[0] * g_bar + y[0] * g_bar_tan)


@host_device
def harvest(t, y, theta):
    """g = (1 + t) theta_1 y_0 y_1: what predators take, later takings weighing more."""
    return (1.0 + t) * theta[1] * y[0] * y[1]


@host_device
def harvest_jvp(t, y, theta, t_tan, y_tan, theta_tan):
    meetings_tan = y_tan[0] * y[1] + y[0] * y_tan[1]
    return ((t_tan * theta[1] + (1.0 + t) * theta_tan[1]) * y[0] * y[1]
            + (1.0 + t) * theta[1] * meetings_tan)


@host_device
def harvest_vjp(t, y, theta, g_bar, t_bar, y_bar, theta_bar):
    # g = (1 + t)*theta[1]*y[0]*y[1]
    t_bar[0] += theta[1] * y[0] * y[1] * g_bar
    theta_bar[1] += (1.0 + t) * y[0] * y[1] * g_bar
    y_bar[0] += (1.0 + t) * theta[1] * y[1] * g_bar
    y_bar[1] += (1.0 + t) * theta[1] * y[0] * g_bar


@host_device
def harvest_hvp(t, y, theta, t_tan, y_tan, theta_tan, g_bar, g_bar_tan, t_bar_tan, y_bar_tan, theta_bar_tan):
    meetings, meetings_tan = y[0] * y[1], y_tan[0] * y[1] + y[0] * y_tan[1]
    rate, rate_tan = (1.0 + t) * theta[1], t_tan * theta[1] + (1.0 + t) * theta_tan[1]
    # t_bar[0] += theta[1]*meetings*g_bar
    t_bar_tan[0] += (theta_tan[1] * meetings + theta[1] * meetings_tan) * g_bar + theta[1] * meetings * g_bar_tan
    # theta_bar[1] += (1 + t)*meetings*g_bar
    theta_bar_tan[1] += (t_tan * meetings + (1.0 + t) * meetings_tan) * g_bar + (1.0 + t) * meetings * g_bar_tan
    # y_bar[0] += rate*y[1]*g_bar; y_bar[1] += rate*y[0]*g_bar
    y_bar_tan[0] += (rate_tan * y[1] + rate * y_tan[1]) * g_bar + rate * y[1] * g_bar_tan
    y_bar_tan[1] += (rate_tan * y[0] + rate * y_tan[0]) * g_bar + rate * y[0] * g_bar_tan


RUNNING = {
    "y[0]**2": (energy, energy_jvp, energy_vjp, energy_hvp),
    "(1 + t)*theta[1]*y[0]*y[1]": (harvest, harvest_jvp, harvest_vjp, harvest_hvp),
}
