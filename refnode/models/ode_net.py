"""The ODE-Net classifier: down-sampling, an ODE block, a linear head; and its twins, which differ in the block alone.

    y0 = stem(x),    dy/dt = f(t, y; θ) on [0, T],    logits = head(y(T)),    loss = cross-entropy

============= =====================================================================================
``"ode"``     an adaptive solve, the gradient by a continuous adjoint: ODE-Net
``"rk"``      the same solve, the gradient by a transpose of its steps: RK-Net
``"euler"``   Euler's steps of the same field: a residual network whose blocks share one θ
``"resnet"``  Euler's steps of length 1, each with a θ of its own: the residual network of the paper
``"mlp"``     no block at all
============= =====================================================================================

All begin with the same stem and head for one seed, and the first three with the same θ. The model holds no
adjoint: derivatives of the block are those of `refnode.gradient`; stem and head are triples, composed by hand.

References
----------
Chen, Rubanova, Bettencourt & Duvenaud, Neural ordinary differential equations, NeurIPS 2018, section 3.
"""
import dataclasses
import math
import warnings

import numpy as np

from refnode.errors import GradientWarning, InvalidInputError
from refnode.fields.convolutional import conv_field, conv_layout, initial_conv_parameters
from refnode.fields.neural import mlp_field
from refnode.fields.residual import residual_field
from refnode.layers.activations import tanh, tanh_jvp, tanh_vjp
from refnode.layers.convolution import conv2d, conv2d_jvp, conv2d_vjp
from refnode.layers.dense import dense, dense_jvp, dense_vjp
from refnode.layers.embedding import checked_indices
from refnode.layers.normalization import group_norm, group_norm_jvp, group_norm_vjp
from refnode.layers.parameters import ParameterLayout, initial_parameters
from refnode.layers.softmax import cross_entropy, cross_entropy_hvp, cross_entropy_vjp
from refnode.losses import Loss
from refnode.models import training
from refnode.models.fit_settings import identity_of
from refnode.models.solved import solved
from refnode.optimisers import Adam
from refnode.problems.problem import Problem
from refnode.schedules import ExponentialDecay
from refnode.sensitivity.gradient import gradient
from refnode.sensitivity.recipes import recipe_named

TWINS = ("mlp", "resnet", "euler", "rk", "ode")
SMALLEST = 8                      # images above this many pixels a side are halved until they are not; once at least


# --- stems ------------------------------------------------------------------------------------------

def dense_stem(x, parts):
    """y0 = tanh(W x + b) of the flattened image."""
    return tanh(dense(x.reshape(len(x), -1), parts["stem.W"], parts["stem.b"]))


def dense_stem_jvp(x, parts, parts_tan):
    """Its tangent in the parameters."""
    flat, W, b = x.reshape(len(x), -1), parts["stem.W"], parts["stem.b"]
    z_tan = dense_jvp(flat, W, np.zeros_like(flat), parts_tan["stem.W"], parts_tan["stem.b"])
    return tanh_jvp(dense(flat, W, b), z_tan)


def dense_stem_vjp(x, parts, y0_bar):
    """Its cotangents in the parameters, by name."""
    flat, W, b = x.reshape(len(x), -1), parts["stem.W"], parts["stem.b"]
    z_bar = tanh_vjp(dense(flat, W, b), y0_bar)                     # y0 = tanh(z)
    _, W_bar, b_bar = dense_vjp(flat, W, z_bar)                     # z = W x + b
    return {"stem.W": W_bar, "stem.b": b_bar}


def conv_stem(x, parts, groups, keep=None):
    """y0: convolution of stride 2, group norm, tanh; as often as there are filters. ``keep`` collects (x, z, u)."""
    for number in range(1, 1 + sum(name.startswith("stem.K") for name in parts)):
        K, b, gamma, beta = stem_layer(parts, number)
        z = conv2d(x, K, b, stride=2, padding=1)
        u = group_norm(z, groups, gamma, beta)
        if keep is not None:
            keep.append((x, z, u))
        x = tanh(u)
    return x


def conv_stem_jvp(x, parts, parts_tan, groups):
    """Its tangent in the parameters."""
    kept = []
    conv_stem(x, parts, groups, kept)
    x_tan = np.zeros_like(x)
    for number, (x, z, u) in enumerate(kept, start=1):
        K, _, gamma, _ = stem_layer(parts, number)
        K_tan, b_tan, gamma_tan, beta_tan = stem_layer(parts_tan, number)
        z_tan = conv2d_jvp(x, K, x_tan, K_tan, b_tan, stride=2, padding=1)
        x_tan = tanh_jvp(u, group_norm_jvp(z, groups, gamma, z_tan, gamma_tan, beta_tan))
    return x_tan


def conv_stem_vjp(x, parts, groups, y0_bar):
    """Its cotangents in the parameters, by name, last layer first."""
    kept, bars, x_bar = [], {}, y0_bar
    conv_stem(x, parts, groups, kept)
    for number in range(len(kept), 0, -1):
        x, z, u = kept[number - 1]
        K, _, gamma, _ = stem_layer(parts, number)
        u_bar = tanh_vjp(u, x_bar)                                              # x = tanh(u)
        z_bar, gamma_bar, beta_bar = group_norm_vjp(z, groups, gamma, u_bar)    # u = group_norm(z, γ, β)
        x_bar, K_bar, b_bar = conv2d_vjp(x, K, z_bar, stride=2, padding=1)      # z = K * x + b
        bars.update(zip(stem_names(number), (K_bar, b_bar, gamma_bar, beta_bar)))
    return bars


def stem_names(number):
    return [f"stem.{name}{number}" for name in ("K", "b", "gamma", "beta")]


def stem_layer(parts, number):
    return [parts[name] for name in stem_names(number)]


# --- head and loss ----------------------------------------------------------------------------------

class ClassLoss(Loss):
    """L = cross-entropy(W y(t1) + b, labels), a batch's mean, for states stacked in y(t1).

    ``vjp`` leaves the cotangents of W and b in ``bars``.
    """

    observes = False

    def __init__(self, W, b, labels):
        self.W, self.b, self.labels = W, b, labels
        self.bars = None

    def logits(self, y1):
        return dense(y1.reshape(-1, self.W.shape[1]), self.W, self.b)

    def value(self, ys, y1):
        return cross_entropy(self.logits(y1), self.labels)

    def vjp(self, ys, y1):
        z_bar = cross_entropy_vjp(self.logits(y1), self.labels)                 # L = cross-entropy(z, labels)
        y1_bar, W_bar, b_bar = dense_vjp(y1.reshape(-1, self.W.shape[1]), self.W, z_bar)       # z = W y1 + b
        self.bars = {"head.W": W_bar, "head.b": b_bar}
        return np.zeros(ys.shape), y1_bar.reshape(y1.shape)

    def hvp(self, ys, y1, ys_tan, y1_tan):
        z_tan = dense_jvp(y1.reshape(-1, self.W.shape[1]), self.W, y1_tan.reshape(-1, self.W.shape[1]),
                          np.zeros_like(self.W), np.zeros_like(self.b))
        z_bar_tan = cross_entropy_hvp(self.logits(y1), self.labels, z_tan)      # z_bar = softmax(z) - e_label
        return np.zeros(ys.shape), (z_bar_tan @ self.W).reshape(y1.shape)       # y1_bar = z_bar W


# --- the model --------------------------------------------------------------------------------------

@dataclasses.dataclass
class Evaluation:
    """Loss and gradient of a batch, and the counts of the block's gradient (none for "mlp").

    ``unreliable`` says whether the recipe warned of its own gradient (a backsolve that drifts off).
    """

    loss: float
    theta: np.ndarray
    stats: dict
    unreliable: bool = False

    @property
    def bytes_held(self):
        """Bytes of the arrays that the block holds for its reverse sweep, at the peak."""
        return self.stats.get("history_bytes", 0) + self.stats.get("times_bytes", 0)


class OdeNet:
    """Image -> class. See the module for the twins.

    Parameters
    ----------
    image : (int, int, int)
        Height, width and channels.
    classes : int
    twin : str
        One of `TWINS`.
    block : "convolutional" or "dense"
        With ``width`` channels of a halved image, or ``width`` numbers. "resnet" is convolutional.
    width, groups : int
        ``groups`` of the group norms.
    depth : int
        Steps of "euler", blocks of "resnet".
    recipe : str
        Of the gradient; by default "backsolve" for "ode", and "discrete".
    seed : int
    **options
        Of `refnode.gradient`, for "rk" and "ode"; by default rtol and atol 1e-3, as in the paper.

    Attributes
    ----------
    theta : ndarray, shape (p,)
        All parameters; ``layout`` names its parts.
    """

    def __init__(self, image, classes, twin="ode", block="convolutional", width=8, groups=2, depth=6, recipe=None, seed=0,
                 **options):
        if twin not in TWINS:
            raise InvalidInputError(f"twin must be one of {', '.join(TWINS)}, found {twin!r}")
        if block not in ("convolutional", "dense") or (twin == "resnet" and block == "dense"):
            raise InvalidInputError(f"block must be 'convolutional', or 'dense' for another twin than 'resnet', found {block!r}")
        self.image, self.classes, self.twin, self.block = tuple(image), int(classes), twin, block
        self.width, self.groups, self.depth = int(width), int(groups), int(depth)
        self.recipe = recipe or ("backsolve" if twin == "ode" else "discrete")
        if recipe_named(self.recipe).needs == "jvp":
            raise InvalidInputError(f"recipe {self.recipe!r} pushes a tangent for every number of a batch's states and for every "
                                    "parameter: thousands; take one that pulls, such as 'discrete'")
        self.options = {"rtol": 1e-3, "atol": 1e-3, **options}
        if twin in ("euler", "resnet"):
            self.options = {"method": "euler", "n_steps": self.depth}
        self.t1 = float(self.depth) if twin == "resnet" else 1.0
        self.halvings = max(1, math.ceil(math.log2(max(self.image[:2]) / SMALLEST)))
        self._fields = {}
        self.theta = self._initial(seed)

    def __repr__(self):
        return f"<OdeNet {self.twin!r}, {self.block}, p={self.theta.size}, recipe {self.recipe!r}>"

    @property
    def state(self):
        """The shape of one sample's state."""
        if self.block == "dense" or self.twin == "mlp":
            return (self.width,)
        sides = self.image[:2]
        for _ in range(self.halvings):
            sides = tuple((side + 1) // 2 for side in sides)
        return (*sides, self.width)

    def _initial(self, seed):
        """Random parameters; the parts have generators of their own, so that twins begin alike."""
        rngs = [np.random.default_rng([seed, part]) for part in range(3)]
        stem, theta_stem = self._initial_stem(rngs[0])
        block = self._initial_block(rngs[1])
        features = math.prod(self.state)
        head = {"head.W": (self.classes, features), "head.b": (self.classes,)}
        shapes = {**stem, **({} if block is None else {"block": (block.size,)}), **head}
        self.layout = ParameterLayout(shapes)
        return np.concatenate([theta_stem, [] if block is None else block, initial_parameters((features, self.classes), rngs[2])])

    def _initial_stem(self, rng):
        if len(self.state) == 1:
            features = math.prod(self.image)
            return ({"stem.W": (self.width, features), "stem.b": (self.width,)},
                    initial_parameters((features, self.width), rng))
        layout = conv_layout((self.image[2],) + (self.width,) * self.halvings)
        return {f"stem.{name}": shape for name, shape in layout.shapes.items()}, initial_conv_parameters(layout, rng)

    def _initial_block(self, rng):
        if self.twin == "mlp":
            return None
        if self.block == "dense":
            return initial_parameters((self.width,) * 3, rng, "lecun", time_input=True)
        layout = conv_layout((self.width,) * 3, 3, True)
        blocks = self.depth if self.twin == "resnet" else 1
        return np.concatenate([initial_conv_parameters(layout, rng) for _ in range(blocks)])

    def field(self, batch):
        """The block's field for a batch; made once for every size."""
        if batch not in self._fields:
            widths, options = (self.width,) * 3, {"groups": self.groups, "batch": batch, "time_input": True}
            if self.block == "dense":
                made = mlp_field(widths, "tanh", batch, time_input=True)
            elif self.twin == "resnet":
                made = residual_field(widths, *self.state[:2], self.depth, **options)
            else:
                made = conv_field(widths, *self.state[:2], **options)
            self._fields[batch] = made
        return self._fields[batch]

    def problem(self, y0, parts, loss=None):
        """The block as a problem: from the batch's y0, stacked, to t1."""
        return Problem(self.field(len(y0)), y0.ravel(), parts["block"], (0.0, self.t1), ts=[], loss=loss)

    def stem(self, x, parts):
        return dense_stem(x, parts) if len(self.state) == 1 else conv_stem(x, parts, self.groups)

    def stem_vjp(self, x, parts, y0_bar):
        return dense_stem_vjp(x, parts, y0_bar) if len(self.state) == 1 else conv_stem_vjp(x, parts, self.groups, y0_bar)

    def gradient(self, x, labels, theta=None):
        """`Evaluation` of the mean cross-entropy of a batch x (batch, height, width, channels)."""
        x, parts = checked_images(x, self.image), self.layout.unpack(self.theta if theta is None else theta)
        y0 = self.stem(x, parts)
        loss = ClassLoss(parts["head.W"], parts["head.b"], labels)
        if self.twin == "mlp":
            value, (_, y0_bar) = loss.value(np.empty((0, 0)), y0), loss.vjp(np.empty((0, 0)), y0)
            bars, found = {}, Evaluation(float(value), self.theta, {})
        else:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", GradientWarning)
                pulled = gradient(self.problem(y0, parts, loss), self.recipe, **self.options)
            bars, y0_bar = {"block": pulled.theta}, pulled.y0.reshape(y0.shape)
            warned = any(issubclass(each.category, GradientWarning) for each in caught)
            found = Evaluation(pulled.loss, self.theta, pulled.stats, warned)
        bars.update(loss.bars)                                      # logits = head(y1)
        bars.update(self.stem_vjp(x, parts, y0_bar))                # y0 = stem(x)
        return dataclasses.replace(found, theta=self.layout.pack(bars))

    def loss(self, x, labels, theta=None, **options):
        """The loss alone, from a solve with other options if given: no derivative anywhere."""
        return float(cross_entropy(self.logits(x, theta, **options), labels))

    def logits(self, x, theta=None, **options):
        """(batch, classes)."""
        x, parts = checked_images(x, self.image), self.layout.unpack(self.theta if theta is None else theta)
        y1 = y0 = self.stem(x, parts)
        if self.twin != "mlp":
            y1 = solved(self.problem(y0, parts), {**self.options, **options}).y1
        return dense(y1.reshape(len(x), -1), parts["head.W"], parts["head.b"])

    def error(self, x, labels, batch=500):
        """The fraction of images that are classified wrongly."""
        x, wrong = checked_images(x, self.image), 0
        labels = checked_labels(labels, len(x), self.classes)
        for first in range(0, len(x), batch):
            own = slice(first, first + batch)
            wrong += int(np.count_nonzero(self.logits(x[own]).argmax(axis=1) != labels[own]))
        return wrong / len(x)

    def fit(self, x, labels, epochs, batch=64, rates=(0.01, 0.0005), seed=0, validate=None, progress=None, l2=0.0,
            **options):
        """Adam with a decaying step and the penalty 1/2 l2 |theta|², on random mini-batches. ``theta`` becomes the last.

        ``validate(model) -> float`` is recorded after every epoch, and chooses nothing. ``options`` are further ones of
        `refnode.models.training.fit`, such as clip, checkpoint, resume. Returns a `Fit`, and the number of gradients that
        were unreliable.
        """
        x, unreliable = checked_images(x, self.image), []
        labels = checked_labels(labels, len(x), self.classes)

        def evaluate(theta, indices):
            found = self.gradient(x[indices], labels[indices], theta)
            unreliable.append(found.unreliable)
            return found.loss, found.theta, found.stats

        def validated(theta):
            self.theta = theta
            return validate(self)
        batches = training.mini_batches(len(x), min(batch, len(x)))
        steps = math.ceil(len(x) / min(batch, len(x)))
        found = training.fit(
            self.theta, evaluate, batches, Adam(rates[0]), ExponentialDecay(*rates, steps * max(epochs, 1)), epochs=epochs,
            validate=None if validate is None else validated, seed=[seed, 4], progress=progress, every=steps,
            l2=l2, **({"identity": identity_of(self, x, labels), **options} if options else {}))
        self.theta = found.last_theta
        return found, sum(unreliable)


def checked_images(x, image):
    """A batch as float64 (batch, height, width, channels).

    Raises
    ------
    InvalidInputError
        If it is empty, has another shape, or an entry that is not finite: its index and value are named.
    """
    x = np.asarray(x, dtype=np.float64)
    if x.ndim != 4 or x.shape[1:] != image or not len(x):
        raise InvalidInputError(f"images must have shape (batch, {', '.join(map(str, image))}), batch not 0, found {x.shape}")
    if not np.all(np.isfinite(x)):
        place = tuple(int(i) for i in np.argwhere(~np.isfinite(x))[0])
        raise InvalidInputError(f"images must be finite, found images{list(place)} = {x[place]}")
    return x


def checked_labels(labels, count, classes):
    """Classes of ``count`` images as int64.

    Raises
    ------
    InvalidInputError
        If there are more or fewer, or one is no class: its index among all images and its value are named.
    """
    if np.shape(labels) != (count,):
        raise InvalidInputError(f"labels must have shape ({count},), one for each image, found {np.shape(labels)}")
    return checked_indices(labels, classes, "labels")
