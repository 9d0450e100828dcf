"""Gradient descent with momentum, and Adam: from scratch, in plain NumPy.

``optimiser.step(theta, grad)`` **returns a new array** and leaves ``theta`` and ``grad`` untouched; what
changes in place is the optimiser's own memory. One optimiser therefore belongs to one parameter vector.
``learning_rate`` may be assigned between steps, which is how a schedule is made.
"""
import numpy as np

from refnode.errors import InvalidInputError


class SGD:
    """Gradient descent with heavy-ball momentum.

    v_k = momentum v_{k-1} + grad_k,   theta_k = theta_{k-1} - learning_rate v_k

    Parameters
    ----------
    learning_rate : float, positive
    momentum : float in [0, 1)
        0 is plain gradient descent.

    References
    ----------
    Polyak, Some methods of speeding up the convergence of iteration methods, 1964.
    """

    def __init__(self, learning_rate=1e-2, momentum=0.0):
        self.learning_rate = _positive("learning_rate", learning_rate)
        self.momentum = _decay("momentum", momentum)
        self.velocity = None

    def step(self, theta, grad):
        """The next parameters, shape of ``theta``; see the module for what is changed in place."""
        theta, grad = _checked(theta, grad, self.velocity)
        if self.velocity is None:
            self.velocity = np.zeros_like(theta)
        self.velocity = self.momentum * self.velocity + grad
        return theta - self.learning_rate * self.velocity


class Adam:
    """Adam: steps scaled by running means of the gradient and of its square, both bias-corrected.

    m_k = beta1 m_{k-1} + (1 - beta1) grad_k,    v_k = beta2 v_{k-1} + (1 - beta2) grad_k^2
    theta_k = theta_{k-1} - learning_rate (m_k / (1 - beta1^k)) / (sqrt(v_k / (1 - beta2^k)) + epsilon)

    Parameters
    ----------
    learning_rate : float, positive
        Also the length of the first step in every component.
    beta1, beta2 : float in [0, 1)
        How long the two means remember.
    epsilon : float, not negative
        Added to the root, in units of the gradient. With 0 a component whose gradient has always been
        zero is left where it is.

    References
    ----------
    Kingma & Ba, Adam: a method for stochastic optimization, 2015, Algorithm 1.
    """

    def __init__(self, learning_rate=1e-3, beta1=0.9, beta2=0.999, epsilon=1e-8):
        self.learning_rate = _positive("learning_rate", learning_rate)
        self.beta1 = _decay("beta1", beta1)
        self.beta2 = _decay("beta2", beta2)
        if not 0.0 <= epsilon < np.inf:
            raise InvalidInputError(f"epsilon must be finite and not negative, found {epsilon!r}")
        self.epsilon = float(epsilon)
        self.steps = 0
        self.mean = self.mean_square = None

    def step(self, theta, grad):
        """The next parameters, shape of ``theta``; see the module for what is changed in place."""
        theta, grad = _checked(theta, grad, self.mean)
        if self.mean is None:
            self.mean, self.mean_square = np.zeros_like(theta), np.zeros_like(theta)
        self.steps += 1
        self.mean = self.beta1 * self.mean + (1.0 - self.beta1) * grad
        self.mean_square = self.beta2 * self.mean_square + (1.0 - self.beta2) * grad * grad
        return theta - self.learning_rate * self._direction()

    def _direction(self):
        """The bias-corrected mean over the bias-corrected root mean square; 0/0 counts as 0."""
        numerator = self.mean / (1.0 - self.beta1 ** self.steps)
        denominator = np.sqrt(self.mean_square / (1.0 - self.beta2 ** self.steps)) + self.epsilon
        return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0.0)


def _positive(name, value):
    if not 0.0 < value < np.inf:
        raise InvalidInputError(f"{name} must be finite and positive, found {value!r}")
    return float(value)


def _decay(name, value):
    if not 0.0 <= value < 1.0:
        raise InvalidInputError(f"{name} must lie in [0, 1), found {value!r}")
    return float(value)


def _checked(theta, grad, memory):
    """Both as float64 arrays; a gradient that would poison the optimiser's memory is refused."""
    theta, grad = np.asarray(theta, dtype=np.float64), np.asarray(grad, dtype=np.float64)
    expected = theta.shape if memory is None else memory.shape
    for name, array in (("theta", theta), ("grad", grad)):
        if array.shape != expected:
            raise InvalidInputError(f"{name} must have shape {expected}, found {array.shape}")
    if not np.all(np.isfinite(grad)):
        bad = tuple(int(i) for i in np.argwhere(~np.isfinite(grad))[0])
        raise InvalidInputError(f"grad must be finite, found {grad[bad]} at index {bad}")
    return theta, grad
