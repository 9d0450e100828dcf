"""Losses of a solution: of y at the observation times, of y at the end, and of the whole path.

A loss is a triple, like everything that is differentiated, and its second derivative:

    ``value(ys, y1) -> float``                           ys : (n, K), y1 : (n,)
    ``jvp(ys, y1, ys_tan, y1_tan) -> float``
    ``vjp(ys, y1) -> ys_bar (n, K), y1_bar (n,)``
    ``hvp(ys, y1, ys_tan, y1_tan) -> ys_bar_tan (n, K), y1_bar_tan (n,)``, the tangent of vjp,
                                                         which second derivatives need

Losses add: ``sum_of_squares(data) + terminal(phi, phi_grad) + running_cost(g, g_jvp, g_vjp)``. A running
cost has no value of its own here: the solver integrates it as one more state.

A sum over no observation (``ts=[]``) is 0, and so is its gradient. That is right, and seldom meant: `gradient` warns
where a loss that reads observations (``observes``) has none.
"""
import dataclasses

import numpy as np

from refnode.errors import InvalidInputError, InvalidTypeError, MissingDerivativeError


class Loss:
    """Base of every loss: zero until a subclass says otherwise, and closed under ``+``."""

    running = None
    observes = None          # whether it reads ys: True, False, or None where nobody said

    def value(self, ys, y1):
        return 0.0

    def vjp(self, ys, y1):
        return np.zeros(ys.shape), np.zeros(y1.shape)

    def jvp(self, ys, y1, ys_tan, y1_tan):
        """Tangent of the value, from the cotangents: L' = <ys_bar, ys_tan> + <y1_bar, y1_tan>."""
        ys_bar, y1_bar = self.vjp(ys, y1)
        return float(np.sum(ys_bar * ys_tan) + np.dot(y1_bar, y1_tan))

    def alike(self, ys, y1):
        """Values (B,) and ys_bar (B, n, K) of samples ys (B, n, K), y1 (B, n), with the bits of one by one, where y1_bar = 0.

        None where nobody wrote such a form.
        """
        return None

    def hvp(self, ys, y1, ys_tan, y1_tan):
        """Tangent of the cotangents: the second derivative of the value times (ys_tan, y1_tan)."""
        if type(self).vjp is not Loss.vjp:                      # its cotangents are not zero throughout
            raise MissingDerivativeError(
                f"loss {type(self).__name__} has no hvp, which second derivatives need: give it a method "
                "hvp(ys, y1, ys_tan, y1_tan) -> (ys_bar_tan, y1_bar_tan), the tangent of its vjp")
        return np.zeros(ys.shape), np.zeros(y1.shape)

    def __add__(self, other):
        if not isinstance(other, Loss):
            raise InvalidTypeError(f"a loss adds to a loss, found {type(other).__name__}")
        return Sum(self, other)


class Sum(Loss):
    """L = L_1 + L_2."""

    def __init__(self, first, second):
        if first.running is not None and second.running is not None:
            raise InvalidInputError("a loss holds at most one running cost; add them inside g")
        self.first, self.second = first, second
        self.running = first.running or second.running
        told = {first.observes, second.observes}
        self.observes = True if True in told else None if None in told else False

    def value(self, ys, y1):
        return self.first.value(ys, y1) + self.second.value(ys, y1)

    def vjp(self, ys, y1):
        first, second = self.first.vjp(ys, y1), self.second.vjp(ys, y1)
        return first[0] + second[0], first[1] + second[1]

    def hvp(self, ys, y1, ys_tan, y1_tan):
        first, second = (part.hvp(ys, y1, ys_tan, y1_tan) for part in (self.first, self.second))
        return first[0] + second[0], first[1] + second[1]


class Scaled(Loss):
    """L = weight times another loss, none of whose terms is a running cost."""

    def __init__(self, loss, weight):
        if loss.running is not None:
            raise InvalidInputError("a running cost cannot be scaled from outside; multiply inside g")
        self.loss, self.weight = loss, float(weight)

    def value(self, ys, y1):
        return self.weight * self.loss.value(ys, y1)

    def vjp(self, ys, y1):
        ys_bar, y1_bar = self.loss.vjp(ys, y1)
        return self.weight * ys_bar, self.weight * y1_bar

    def hvp(self, ys, y1, ys_tan, y1_tan):
        ys_bar_tan, y1_bar_tan = self.loss.hvp(ys, y1, ys_tan, y1_tan)
        return self.weight * ys_bar_tan, self.weight * y1_bar_tan


class SumOfSquares(Loss):
    """L = w sum_ik (y_i(t_k) - data_ik)^2, with w = 1, or 1/(nK) for the mean."""

    observes = True

    def __init__(self, data=None, mean=False):
        self.data = None if data is None else np.array(data, dtype=np.float64)
        self.mean = mean

    def _residual(self, ys):
        return ys if self.data is None else ys - self._data_for(ys)

    def _data_for(self, ys):
        if self.data.shape != ys.shape:
            raise InvalidInputError(f"data must have the shape of ys, {ys.shape}, found {self.data.shape}")
        return self.data

    def _weight(self, ys):
        return 1.0 / max(ys.size, 1) if self.mean else 1.0

    def value(self, ys, y1):
        residual = self._residual(ys)
        flat = residual.ravel("K")
        return self._weight(ys) * flat.dot(flat)              # half of the time of flat @ flat, and the same bits

    def vjp(self, ys, y1):
        return (2.0 * self._weight(ys)) * self._residual(ys), np.zeros(y1.shape)

    def hvp(self, ys, y1, ys_tan, y1_tan):
        return (2.0 * self._weight(ys)) * ys_tan, np.zeros(y1.shape)

    def alike(self, ys, y1):
        if self.data is not None or type(self) is not SumOfSquares:
            return None
        rows = ys.transpose(0, 2, 1).reshape(len(ys), 1, -1)     # as `value` reads the states of a solve, time after time
        weight = self._weight(ys[0])
        return weight * (rows @ rows.transpose(0, 2, 1))[:, 0, 0], (2.0 * weight) * ys

    def batched(self, ys, y1):
        """Value (B,) and cotangents for B samples, ys (B, n, K) and y1 (B, n), up to the order of sums as one by one."""
        residual = ys if self.data is None else ys - self._data_for(ys[0])
        weight = self._weight(ys[0])
        return weight * np.einsum("bnk,bnk->b", residual, residual), (2.0 * weight) * residual, np.zeros(y1.shape)


    def coefficients(self, shape):
        """(a, c, g) of L = sum_ik a (y - c_ik)^2 + g_ik y, for ys of that shape: what a GPU needs to know."""
        ys = np.zeros(shape)
        return self._weight(ys), np.array(np.broadcast_to(0.0 if self.data is None else self._data_for(ys), shape)), ys


class Linear(Loss):
    """L = sum_ik w_ik y_i(t_k)."""

    observes = True

    def __init__(self, weights):
        self.weights = np.array(weights, dtype=np.float64)

    def _weights_for(self, ys):
        if self.weights.shape != ys.shape:
            raise InvalidInputError(
                f"weights must have the shape of ys, {ys.shape}, found {self.weights.shape}")
        return self.weights

    def value(self, ys, y1):
        return np.sum(self._weights_for(ys) * ys)

    def vjp(self, ys, y1):
        return self._weights_for(ys).copy(), np.zeros_like(y1)

    def hvp(self, ys, y1, ys_tan, y1_tan):
        return np.zeros(ys.shape), np.zeros(y1.shape)

    def batched(self, ys, y1):
        """Value (B,) and cotangents for B samples; see `SumOfSquares.batched`."""
        weights = self._weights_for(ys[0])
        return np.einsum("nk,bnk->b", weights, ys), np.broadcast_to(weights, ys.shape), np.zeros(y1.shape)


    def coefficients(self, shape):
        """See `SumOfSquares.coefficients`."""
        ys = np.zeros(shape)
        return 0.0, ys, self._weights_for(ys)


class OnDevice(Loss):
    """L of each sample by a user's function of arrays on the GPU; see `on_device`."""

    observes = True

    def __init__(self, function):
        self.function = function

    def value(self, ys, y1):
        raise InvalidInputError("losses.on_device is for batches whose y0 or theta lies on a GPU")

    vjp = value


class Terminal(Loss):
    """L = phi(y(t1)), with the user's phi, its gradient, and its Hessian times a vector."""

    observes = False

    def __init__(self, phi, phi_grad, phi_hvp=None):
        self.phi, self.phi_grad, self.phi_hvp = phi, phi_grad, phi_hvp

    def value(self, ys, y1):
        return self.phi(y1)

    def vjp(self, ys, y1):
        return np.zeros_like(ys), np.asarray(self.phi_grad(y1), dtype=np.float64)

    def hvp(self, ys, y1, ys_tan, y1_tan):
        if self.phi_hvp is None:
            raise MissingDerivativeError("the terminal loss has no phi_hvp, which second derivatives need; give "
                                         "terminal(phi, phi_grad, phi_hvp), phi_hvp(y1, y1_tan) -> (n,)")
        return np.zeros(ys.shape), np.asarray(self.phi_hvp(y1, y1_tan), dtype=np.float64)


@dataclasses.dataclass(frozen=True)
class RunningCost(Loss):
    """L = integral of g(t, y, theta) over [t0, t1]; see `running_cost`."""

    g: object
    g_jvp: object
    g_vjp: object
    g_hvp: object = None
    observes = False

    @property
    def running(self):
        return self


def sum_of_squares(data=None):
    """L = sum over states and observation times of (y_i(t_k) - data_ik)^2; data (n, K), default 0."""
    return SumOfSquares(data)


def mean_of_squares(data=None):
    """`sum_of_squares` divided by the number of its terms."""
    return SumOfSquares(data, mean=True)


def linear(weights):
    """L = sum of weights_ik y_i(t_k); weights (n, K). Its cotangent is ``weights`` itself."""
    return Linear(weights)


def scaled(loss, weight):
    """L = weight times ``loss``, which has no running cost."""
    return Scaled(loss, weight)


def terminal(phi, phi_grad, phi_hvp=None):
    """L = phi(y(t1)); ``phi(y1) -> float``, ``phi_grad(y1) -> (n,)``, ``phi_hvp(y1, y1_tan) -> (n,)``."""
    return Terminal(phi, phi_grad, phi_hvp)


def running_cost(g, g_jvp=None, g_vjp=None, g_hvp=None):
    """L = integral of g over [t0, t1], integrated as one more state under the solver's error control.

    ``g(t, y, theta) -> float``; ``g_jvp(t, y, theta, t_tan, y_tan, theta_tan) -> float``;
    ``g_vjp(t, y, theta, g_bar, t_bar, y_bar, theta_bar)`` adds g_bar times the derivatives of g to
    ``t_bar`` (1,), ``y_bar`` (n,), ``theta_bar`` (p,); its tangent ``g_hvp(t, y, theta, t_tan, y_tan,
    theta_tan, g_bar, g_bar_tan, t_bar_tan, y_bar_tan, theta_bar_tan)`` adds to the last three. All compiled
    by njit, or all plain Python.
    """
    return RunningCost(g, g_jvp, g_vjp, g_hvp)


def on_device(function):
    """Loss of a batch whose arrays lie on a GPU, by the user's function of such arrays; for `gradient_batch` alone.

    ``function(y, samples) -> loss, y_bar``: y (L, n, K) are the observed states of the samples in the slice ``samples``,
    by ``__cuda_array_interface__``; loss (L,) and its cotangents y_bar (L, n, K) are arrays on the same GPU, of the same
    dtype. Rows of samples that failed are NaN, and what is returned for them is not read.
    """
    return OnDevice(function)
