"""Gradient descent with momentum, Adam and AdamW: from scratch, in plain NumPy. With clipping and the L2 penalty.

``optimiser.step(theta, grad)`` **returns a new array** and leaves ``theta`` and ``grad`` untouched; what
changes is the optimiser's own memory. One optimiser therefore belongs to one parameter vector.
``learning_rate`` may be assigned between steps, which is how a schedule is made (`refnode.schedules`).

``optimiser.state()`` is that memory as a dict of plain arrays, and ``optimiser.restore(state)`` puts it back: from
there on all steps are the same, bit for bit. Settings are not part of it; ``repr(optimiser)`` shows them.
L-BFGS, which needs values beside gradients, is in `refnode.quasi_newton`.
"""
import numpy as np

from refnode.errors import InvalidInputError


class SGD:
    """Gradient descent, with heavy-ball or with Nesterov momentum.

    v_k = momentum v_{k-1} + grad_k,   theta_k = theta_{k-1} - learning_rate v_k,
    or with ``nesterov``                theta_k = theta_{k-1} - learning_rate (grad_k + momentum v_k)

    The latter is Nesterov's method told at the points where it asks for gradients: these are theta_k, and
    theta_k + learning_rate momentum v_k is what is usually called its iterate.

    Parameters
    ----------
    learning_rate : float, positive
    momentum : float in [0, 1)
        0 is plain gradient descent.
    nesterov : bool
        Needs a momentum.

    References
    ----------
    Polyak, Some methods of speeding up the convergence of iteration methods, 1964.
    Nesterov, A method of solving a convex programming problem with convergence rate O(1/k^2), 1983.
    Sutskever, Martens, Dahl & Hinton, On the importance of initialization and momentum in deep learning, 2013.
    """

    def __init__(self, learning_rate=1e-2, momentum=0.0, nesterov=False):
        self.learning_rate = _positive("learning_rate", learning_rate)
        self.momentum = _decay("momentum", momentum)
        self.nesterov = bool(nesterov)
        if self.nesterov and self.momentum == 0.0:
            raise InvalidInputError("nesterov=True needs a momentum above 0, found 0.0")
        self.velocity = None

    def __repr__(self):
        return f"SGD(learning_rate={self.learning_rate!r}, momentum={self.momentum!r}, nesterov={self.nesterov})"

    def step(self, theta, grad):
        """The next parameters, shape of ``theta``; see the module for what changes."""
        theta, grad = _checked(theta, grad, self.velocity)
        before = np.zeros_like(theta) if self.velocity is None else self.velocity
        self.velocity = self.momentum * before + grad
        direction = grad + self.momentum * self.velocity if self.nesterov else self.velocity
        return theta - self.learning_rate * direction

    def state(self):
        """The memory, as a dict of plain arrays."""
        return {} if self.velocity is None else {"velocity": self.velocity.copy()}

    def restore(self, state):
        """Put back what `state` returned."""
        _require_keys(self, state, {"velocity"})
        self.velocity = _vector(state["velocity"]) if state else None


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
        self.epsilon = _not_negative("epsilon", epsilon)
        self.steps = 0
        self.mean = self.mean_square = None

    def __repr__(self):
        return (f"{type(self).__name__}(learning_rate={self.learning_rate!r}, beta1={self.beta1!r}, "
                f"beta2={self.beta2!r}, epsilon={self.epsilon!r})")

    def step(self, theta, grad):
        """The next parameters, shape of ``theta``; see the module for what changes."""
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

    def state(self):
        """The memory, as a dict of plain arrays."""
        if self.mean is None:
            return {}
        return {"mean": self.mean.copy(), "mean_square": self.mean_square.copy(), "steps": np.array(self.steps)}

    def restore(self, state):
        """Put back what `state` returned."""
        _require_keys(self, state, {"mean", "mean_square", "steps"})
        self.steps = int(state["steps"]) if state else 0
        self.mean, self.mean_square = (_vector(state[key]) if state else None for key in ("mean", "mean_square"))


class AdamW(Adam):
    """Adam with decoupled weight decay: theta shrinks by learning_rate weight_decay theta beside Adam's step.

    The decay does not pass through the running means, so a component with large gradients decays like any other;
    an L2 penalty under `Adam` is divided by their root mean square.

    Parameters
    ----------
    learning_rate, beta1, beta2, epsilon
        Those of `Adam`.
    weight_decay : float, not negative

    References
    ----------
    Loshchilov & Hutter, Decoupled weight decay regularization, 2019, Algorithm 2.
    """

    def __init__(self, learning_rate=1e-3, beta1=0.9, beta2=0.999, epsilon=1e-8, weight_decay=1e-2):
        super().__init__(learning_rate, beta1, beta2, epsilon)
        self.weight_decay = _not_negative("weight_decay", weight_decay)

    def __repr__(self):
        return f"{super().__repr__()[:-1]}, weight_decay={self.weight_decay!r})"

    def step(self, theta, grad):
        """The next parameters, shape of ``theta``; see the module for what changes."""
        moved = super().step(theta, grad)
        return moved - self.learning_rate * self.weight_decay * np.asarray(theta, dtype=np.float64)


# --- clipping, and the L2 penalty -----------------------------------------------------------------

def clipped_to_norm(grad, largest):
    """``grad``, shortened to the Euclidean norm ``largest`` where it is longer; and its norm before.

    References
    ----------
    Pascanu, Mikolov & Bengio, On the difficulty of training recurrent neural networks, 2013.
    """
    grad = np.asarray(grad, dtype=np.float64)
    scale = float(np.max(np.abs(grad), initial=0.0))                # squares of large entries would overflow
    norm = scale * float(np.linalg.norm(grad / scale)) if scale > 0.0 else 0.0
    return (grad * (largest / norm) if norm > largest else grad), norm


def clipped_to_range(grad, largest):
    """``grad`` with every entry cut to [-largest, largest]."""
    return np.clip(np.asarray(grad, dtype=np.float64), -largest, largest)


def l2_penalty(theta, weight):
    """1/2 sum of weight_i theta_i^2; ``weight`` a number, or one for each parameter: 0 for those left free."""
    return 0.5 * np.sum(weight * theta * theta)


def l2_penalty_jvp(theta, weight, theta_tan):
    """Tangent of `l2_penalty`: sum of weight_i theta_i theta_tan_i."""
    return np.sum(weight * theta * theta_tan)


def l2_penalty_vjp(theta, weight, value_bar=1.0):
    """Cotangent of `l2_penalty`, theta_bar_i = value_bar weight_i theta_i."""
    return value_bar * weight * theta                               # 0.5*weight*theta*theta


# --- arguments ------------------------------------------------------------------------------------

def _positive(name, value):
    if not 0.0 < value < np.inf:
        raise InvalidInputError(f"{name} must be finite and positive, found {value!r}")
    return float(value)


def _not_negative(name, value):
    if not 0.0 <= value < np.inf:
        raise InvalidInputError(f"{name} must be finite and not negative, found {value!r}")
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


def _require_keys(optimiser, state, keys):
    """A state is empty, before the first step, or has exactly the arrays that the optimiser remembers."""
    if state and set(state) != keys:
        raise InvalidInputError(f"state of {type(optimiser).__name__} must have {sorted(keys)}, found {sorted(state)}")


def _vector(value):
    return np.array(value, dtype=np.float64)
