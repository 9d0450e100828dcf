"""The augmented neural ODE: inputs padded with zeros, a flow, a linear readout; and flows whose paths cost something.

Paths of one ODE do not cross, so the end of a flow is a continuous, invertible image of its start, in the order
of the start where there is one dimension only. With p more dimensions, x becomes (x, 0), paths pass each other.

References
----------
Dupont, Doucet & Teh, Augmented neural ODEs, NeurIPS 2019.
"""
import numpy as np

from refnode.errors import InvalidInputError
from refnode.fields.neural import mlp_field
from refnode.fields.regularised import regularised_mlp
from refnode.layers.dense import dense, dense_vjp
from refnode.layers.parameters import ParameterLayout, initial_parameters
from refnode.losses import Loss
from refnode.models.solved import solved
from refnode.problems.problem import Problem
from refnode.sensitivity.gradient import gradient


# --- the readout ----------------------------------------------------------------------------------

def augmented(x, extra):
    """(x, 0): ``extra`` columns of zeros behind x (batch, d)."""
    return np.concatenate([x, np.zeros((x.shape[0], extra), dtype=x.dtype)], axis=1)


def augmented_jvp(x_tan, extra):
    """Tangent of `augmented`: (x_tan, 0)."""
    return augmented(x_tan, extra)


def augmented_vjp(z_bar, extra):
    """Cotangent of `augmented`: z_bar without its last ``extra`` columns."""
    return z_bar[:, :z_bar.shape[1] - extra].copy()


class ReadoutLoss(Loss):
    """L = 1/batch sum over samples of |W y(t1) + b - target|^2, + weight q(t1) where a state q has the cost of the paths.

    Parameters
    ----------
    W, b : ndarray, shapes (k, n), (k,)
    targets : ndarray, shape (batch, k)
    weight : float
        0 for a state that is the batch alone.
    """

    observes = False

    def __init__(self, W, b, targets, weight=0.0):
        self.W, self.b, self.targets, self.weight = W, b, targets, weight

    def states(self, y1):
        """The samples of y1, (batch, n), without the cost."""
        batch, n = self.targets.shape[0], self.W.shape[1]
        return y1[:batch * n].reshape(batch, n)

    def value(self, ys, y1):
        residual = dense(self.states(y1), self.W, self.b) - self.targets
        return np.sum(residual * residual) / self.targets.shape[0] + (self.weight * y1[-1] if self.weight else 0.0)

    def cotangents(self, y1):
        """Of the states (batch, n), of W and of b."""
        states = self.states(y1)
        residual = dense(states, self.W, self.b) - self.targets
        return dense_vjp(states, self.W, (2.0 / self.targets.shape[0]) * residual)       # sum(residual*residual)/batch

    def vjp(self, ys, y1):
        y1_bar = np.zeros(y1.shape, dtype=y1.dtype)
        y1_bar[:self.targets.shape[0] * self.W.shape[1]] = self.cotangents(y1)[0].ravel()
        if self.weight:
            y1_bar[-1] += self.weight                                                     # weight*y1[-1]
        return np.zeros(ys.shape), y1_bar

    def hvp(self, ys, y1, ys_tan, y1_tan):
        y1_bar_tan = np.zeros(y1.shape)
        states_tan = self.states(y1_tan)
        y1_bar_tan[:states_tan.size] = ((2.0 / self.targets.shape[0]) * (states_tan @ self.W.T) @ self.W).ravel()
        return np.zeros(ys.shape), y1_bar_tan


# --- the model ------------------------------------------------------------------------------------

class AugmentedODE:
    """(x, 0) -> flow of a tanh perceptron over unit time -> linear readout, and its mean squared error.

    Parameters
    ----------
    d, extra : int
        Dimensions of the input, and those that are added.
    hidden : sequence of int
        Widths of the hidden layers.
    outputs : int, optional
        Of a trained readout W y + b. By default the readout is the first d states as they are.
    cost : str, optional
        One of `refnode.fields.regularised.COSTS`; counted in the loss with ``weight``.
    weight : float
    time_input : bool
        Whether the field depends on t.
    recipe : str
    seed : int
    scaling : {"lecun", "glorot"}
        Of the initial weights.
    **options
        Those of `refnode.gradient`; by default rtol 1e-5, atol 1e-7.

    Attributes
    ----------
    theta : ndarray, shape (p,)
        Parameters of the field and behind them those of the readout.
    """

    def __init__(self, d, extra=0, hidden=(32,), outputs=None, cost=None, weight=0.0, time_input=False, recipe="discrete",
                 seed=0, scaling="lecun", **options):
        if int(extra) != extra or extra < 0:
            raise InvalidInputError(f"extra must be an integer of at least 0, found {extra!r}")
        self.d, self.extra, self.outputs = d, int(extra), outputs
        self.widths = (d + self.extra, *hidden, d + self.extra)
        self.cost, self.weight, self.time_input = cost, float(weight), bool(time_input)
        self.recipe, self.options = recipe, {"rtol": 1e-5, "atol": 1e-7, **options}
        flow = initial_parameters(self.widths, seed, scaling, time_input)
        self.flow_size, n = flow.size, d + self.extra
        shapes = {} if outputs is None else {"W": (outputs, n), "b": (outputs,)}
        self.readout_layout = ParameterLayout(shapes)
        W = np.random.default_rng([seed, 1]).standard_normal(self.readout_layout.size) / np.sqrt(n)
        self.theta = np.concatenate([flow, W])
        self._fields = {}

    def __repr__(self):
        return f"<AugmentedODE {self.d}+{self.extra}, {'-'.join(map(str, self.widths))}, cost {self.cost}, p={self.theta.size}>"

    def field(self, batch, cost=None):
        """The field of a batch, made once for every size; with ``cost`` the one that carries it."""
        key = batch, cost
        if key not in self._fields:
            self._fields[key] = (mlp_field(self.widths, "tanh", batch, self.time_input) if cost is None
                                 else regularised_mlp(self.widths, cost, batch, self.time_input))
        return self._fields[key]

    def readout(self, theta):
        """W and b: the trained ones, or those that take the first d states."""
        if self.outputs is None:
            return np.eye(self.d, self.d + self.extra), np.zeros(self.d)
        arrays = self.readout_layout.unpack(theta[self.flow_size:])
        return arrays["W"], arrays["b"]

    def problem(self, x, targets=None, theta=None, t1=1.0, noise=None, ts=None):
        """The flow of a batch from (x, 0); with its loss where there are targets, and its cost where there is one.

        Raises
        ------
        InvalidInputError
            If shapes do not fit, or a number is not finite.
        """
        theta = self.theta if theta is None else theta
        x = checked("x", x, self.d)
        y0, flow = augmented(x, self.extra).ravel(), theta[:self.flow_size]
        if targets is None:
            return Problem(self.field(len(x)), y0, flow, (0.0, t1), ts=ts)
        targets = checked("targets", targets, self.outputs or self.d, len(x))
        loss = ReadoutLoss(*self.readout(theta), targets, 0.0 if self.cost is None else self.weight)
        if self.cost is not None:
            y0 = np.append(y0, 0.0)
            flow = flow if noise is None else np.concatenate([flow, noise])
        return Problem(self.field(len(x), self.cost), y0, flow, (0.0, t1), loss=loss)

    def loss_and_gradient(self, theta, batch, **options):
        """For `refnode.models.training.fit`: ``batch`` is (x, targets), or (x, targets, t1, noise) for random ends and Jacobians."""
        problem = self.problem(batch[0], batch[1], theta, *batch[2:])
        found = gradient(problem, self.recipe, **{**self.options, **options})
        grad = found.theta[:self.flow_size]
        if self.outputs is not None:
            _, W_bar, b_bar = problem.loss.cotangents(found.solution.y1)
            grad = np.concatenate([grad, W_bar.ravel(), b_bar])                           # y1 W' + b
        return found.loss, grad, found.stats

    def loss(self, theta, batch, **options):
        """The loss from a solve alone."""
        problem = self.problem(batch[0], batch[1], theta, *batch[2:])
        return problem.loss.value(None, solved(problem, {**self.options, **options}).y1)

    def paths(self, x, ts, **options):
        """Where the samples are at the times ts (K,): shape (batch, d + extra, K); and evaluations of the field."""
        solution = solved(self.problem(x, ts=ts, t1=ts[-1]), {**self.options, **options})
        return solution.y.reshape(len(x), self.d + self.extra, -1), solution.nfev

    def predict(self, x, **options):
        """The readout at t = 1, shape (batch, k); and evaluations of the field."""
        paths, nfev = self.paths(x, np.array([1.0]), **options)
        return dense(paths[:, :, -1], *self.readout(self.theta)), nfev


def checked(name, array, columns, rows=None):
    """A finite (batch, columns) array of at least one row.

    Raises
    ------
    InvalidInputError
        Naming the array, and the index and value of the first number that is not finite.
    """
    array = np.asarray(array, dtype=np.float64)
    expected = f"({'batch' if rows is None else rows}, {columns})"
    if array.ndim != 2 or array.shape[1] != columns or array.shape[0] == 0 or rows not in (None, array.shape[0]):
        raise InvalidInputError(f"{name} must have shape {expected} and at least one row, found {array.shape}")
    if not np.all(np.isfinite(array)):
        bad = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise InvalidInputError(f"{name} must be finite, found {name}[{bad[0]}, {bad[1]}] = {array[bad]}")
    return array
