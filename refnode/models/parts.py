"""The parameters of a model made of several layers: one flat theta, in which every part has its arrays."""
import math

import numpy as np

from refnode.layers.parameters import ParameterLayout, mlp_layout


class Parts:
    """Where the arrays of each part lie in theta.

    Parameters
    ----------
    **parts : dict of str to tuple of int
        The named shapes of each part, in their order, such as ``decoder=mlp_layout((4, 20, 2)).shapes``.

    Attributes
    ----------
    layout : ParameterLayout
        Of all, with names such as "decoder.W1".
    slices : dict of str to slice
        Of each part within theta.
    """

    def __init__(self, **parts):
        self.layout = ParameterLayout({f"{part}.{name}": shape for part, shapes in parts.items()
                                       for name, shape in shapes.items()})
        self.slices, start = {}, 0
        for part, shapes in parts.items():
            end = start + sum(math.prod(shape) for shape in shapes.values())
            self.slices[part], start = slice(start, end), end
        self.size = self.layout.size

    def flat(self, theta, part):
        """The parameters of one part as a vector of its own."""
        return np.ascontiguousarray(theta[self.slices[part]])

    def arrays(self, theta, part):
        """The arrays of one part, in their order, as views into theta."""
        return [array for name, array in self.layout.unpack(theta).items() if name.split(".")[0] == part]

    def layers(self, theta, part):
        """The arrays of a perceptron as pairs (W, b)."""
        arrays = self.arrays(theta, part)
        return list(zip(arrays[::2], arrays[1::2]))

    def joined(self, bars):
        """The flat cotangent of theta from those of the parts: each a flat vector, or nested lists of arrays."""
        theta_bar = np.empty(self.size)
        for part, where in self.slices.items():
            theta_bar[where] = np.concatenate([np.ravel(array) for array in flattened(bars[part])])
        return theta_bar

    def initial(self, seed):
        """Random parameters: normal matrices of variance 1 / (number of columns), zero vectors."""
        rng, theta = np.random.default_rng(seed), np.zeros(self.size)
        for array in self.layout.unpack(theta).values():
            if array.ndim == 2:
                array[:] = rng.standard_normal(array.shape) / math.sqrt(array.shape[1])
        return theta


def perceptron_shapes(*widths):
    """Named shapes of a perceptron, for `Parts`."""
    return mlp_layout(widths).shapes


def flattened(nested):
    """The arrays in nested lists and tuples, in their order."""
    if isinstance(nested, (list, tuple)):
        return [array for inner in nested for array in flattened(inner)]
    return [nested]
