"""Flows of discrete layers, the comparators of a continuous one: planar, affine coupling (RealNVP), residual.

Data go through the layers to the base, x = x_0 -> x_1 -> .. -> x_L = z, and every layer adds its log-determinant:
log p(x) = log N(z) + Σ_l log|det dx_l/dx_{l-1}|. Samples go back through the inverses, last layer first.
"""
import dataclasses
import functools

import numpy as np

from refnode.errors import InvalidInputError
from refnode.layers.coupling import coupling, coupling_inverse, coupling_jvp, coupling_shapes, coupling_vjp
from refnode.layers.log_determinants import roulette_series, roulette_terms
from refnode.layers.parameters import ParameterLayout
from refnode.layers.planar import planar, planar_inverse, planar_jvp, planar_shapes, planar_vjp
from refnode.layers.invertible_residual import residual, residual_inverse, residual_jvp, residual_shapes, residual_vjp
from refnode.models.likelihood import (
    base_samples, checked_samples, minimised, normal_log_density, normal_log_density_jvp, normal_log_density_vjp)


@dataclasses.dataclass(frozen=True)
class FlowLayer:
    """An invertible layer: the shapes of its parameters, and its triple and inverse as functions of (x, arrays).

    Attributes
    ----------
    shapes : dict of str to tuple
    forward : ``forward(x, arrays) -> z, log_det``
    jvp : ``jvp(x, arrays, x_tan, arrays_tan) -> z_tan, log_det_tan``
    vjp : ``vjp(x, arrays, z_bar, log_det_bar) -> x_bar, arrays_bar``
    inverse : ``inverse(z, arrays) -> x``
    estimated : whether a series takes the place of the exact log-determinant in a fit
    """

    shapes: dict
    forward: object
    jvp: object
    vjp: object
    inverse: object
    estimated: bool = False


def planar_layer(d):
    """See `layers.planar`."""
    return FlowLayer(planar_shapes(d), planar, planar_jvp, planar_vjp, planar_inverse)


def coupling_layer(keep, width):
    """See `layers.coupling`; ``keep`` (d,) says which components pass."""
    keep = np.asarray(keep, dtype=bool)
    if keep.all() or not keep.any():
        raise InvalidInputError(f"keep must let some components pass and change some, found {keep.tolist()}")
    return FlowLayer(coupling_shapes(keep, width), *(
        functools.partial(function, keep) for function in (coupling, coupling_jvp, coupling_vjp, coupling_inverse)))


def residual_layer(d, width, estimated=False):
    """See `layers.residual`, here with the exact log-determinant."""
    return FlowLayer(residual_shapes(d, width), *with_series(None), residual_inverse, estimated)


def with_series(series):
    """The triple of a residual layer with a series, or None for the exact log-determinant."""
    return [functools.partial(function, series) for function in (residual, residual_jvp, residual_vjp)]


class StackedFlow:
    """Layers from the data to a standard normal base.

    Parameters
    ----------
    layers : sequence of FlowLayer
    d : int
    seed : int
        Of the initial parameters.

    Attributes
    ----------
    theta : ndarray, shape (p,)
        The parameters of layer after layer.
    history : History or None
    """

    def __init__(self, layers, d, seed=0):
        if not layers:
            raise InvalidInputError("layers must hold at least one layer, found none")
        self.layers, self.d, self.history = list(layers), int(d), None
        self.layouts = [ParameterLayout(layer.shapes) for layer in self.layers]
        ends = np.cumsum([0] + [layout.size for layout in self.layouts])
        self.slices = [slice(start, end) for start, end in zip(ends[:-1], ends[1:])]
        rng = np.random.default_rng(seed)
        self.theta = np.concatenate([initial(layout, rng) for layout in self.layouts])

    def arrays(self, theta):
        """The named arrays of every layer, as views into theta."""
        return [layout.unpack(theta[part]) for layout, part in zip(self.layouts, self.slices)]

    def to_base(self, x, theta=None, layers=None):
        """Every layer's input and at last z, a list of (batch, d) arrays; and the log-determinants' sum (batch,)."""
        states, total = [x], 0.0
        for layer, arrays in zip(layers or self.layers, self.arrays(self.theta if theta is None else theta)):
            z, log_det = layer.forward(states[-1], arrays)
            states.append(z)
            total = total + log_det
        return states, total

    def log_density(self, x, theta=None):
        """log p(x) (batch,)."""
        states, total = self.to_base(checked_samples(x, self.d), theta)
        return normal_log_density(states[-1]) + total

    def loss(self, x, theta=None, layers=None):
        """The mean negative log-likelihood of x (batch, d)."""
        states, total = self.to_base(x, theta, layers)
        return -np.mean(normal_log_density(states[-1]) + total)

    def loss_jvp(self, x, theta_tan, theta=None):
        """Its tangent when theta moves by theta_tan."""
        state, state_tan, total_tan = x, np.zeros(x.shape), 0.0
        theta = self.theta if theta is None else theta
        for layer, arrays, arrays_tan in zip(self.layers, self.arrays(theta), self.arrays(theta_tan)):
            state_tan, log_det_tan = layer.jvp(state, arrays, state_tan, arrays_tan)
            state, _ = layer.forward(state, arrays)
            total_tan = total_tan + log_det_tan
        return -np.mean(normal_log_density_jvp(state, state_tan) + total_tan)

    def loss_and_gradient(self, x, theta=None, layers=None):
        """The loss and its gradient (p,), layer after layer in reverse order."""
        theta, layers = self.theta if theta is None else theta, layers or self.layers
        states, total = self.to_base(x, theta, layers)
        weight = np.full(len(x), -1.0 / len(x))                 # loss = Σ weight (log N(z) + Σ_l log_det_l)
        state_bar, theta_bar = normal_log_density_vjp(states[-1], weight), np.zeros(theta.shape)
        parts = list(zip(layers, self.arrays(theta), self.layouts, self.slices, states))
        for layer, arrays, layout, part, state in reversed(parts):
            state_bar, arrays_bar = layer.vjp(state, arrays, state_bar, weight)             # state, log_det = layer(state)
            theta_bar[part] = layout.pack(arrays_bar)
        return -np.mean(normal_log_density(states[-1]) + total), theta_bar

    def from_base(self, z):
        """x (batch, d) of z: the inverses, last layer first."""
        for layer, arrays in reversed(list(zip(self.layers, self.arrays(self.theta)))):
            z = layer.inverse(z, arrays)
        return z

    def sample(self, count, seed=0):
        """``count`` samples (count, d), and their log-densities (count,)."""
        x = self.from_base(base_samples(count, self.d, seed))
        return x, self.log_density(x)

    def with_roulette(self, batch, rng):
        """The layers, each estimated one with random probes and a random number of terms of its series."""
        def drawn(layer):
            if not layer.estimated:
                return layer
            probes = rng.choice([-1.0, 1.0], size=(1, batch, self.d))
            forward, jvp, vjp = with_series(roulette_series(probes, roulette_terms(rng)))
            return dataclasses.replace(layer, forward=forward, jvp=jvp, vjp=vjp)

        return [drawn(layer) for layer in self.layers]

    def fit(self, draw, iterations, learning_rates=(1e-2, 1e-3), seed=0, progress=None, every=100):
        """Maximise the likelihood of batches ``draw(rng)`` (batch, d); returns itself."""
        def draw_with_noise(rng):
            x = checked_samples(draw(rng), self.d)
            return x, self.with_roulette(len(x), rng)

        def loss_and_gradient(theta, batch):
            return *self.loss_and_gradient(batch[0], theta, batch[1]), {}

        self.theta, self.history = minimised(self.theta, loss_and_gradient, draw_with_noise, iterations,
                                             learning_rates, seed, progress, every)
        return self


def initial(layout, rng):
    """Normal weights over the root of their last dimension, vectors too; offsets named b, b1, b2 zero."""
    theta = np.zeros(layout.size)
    for name, array in layout.unpack(theta).items():
        if not name.startswith("b"):
            array[:] = rng.standard_normal(array.shape) / np.sqrt(array.shape[-1])
    return theta


def planar_flow(d, depth, seed=0):
    """A flow of ``depth`` planar layers."""
    return StackedFlow([planar_layer(d)] * depth, d, seed)


def real_nvp(d, depth, width, seed=0):
    """A flow of ``depth`` coupling layers, of which the components that pass alternate."""
    return StackedFlow([coupling_layer(np.arange(d) % 2 == number % 2, width) for number in range(depth)], d, seed)


def residual_flow(d, depth, width, seed=0, estimated=False):
    """A flow of ``depth`` residual layers; ``estimated`` fits it with Russian roulette, else with exact determinants."""
    return StackedFlow([residual_layer(d, width, estimated)] * depth, d, seed)
