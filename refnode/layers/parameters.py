"""Parameters: the flat vector theta, the named arrays in it, and their initial values."""
import math

import numpy as np

from refnode.errors import InvalidInputError


class ParameterLayout:
    """Where each named array lies in the flat vector theta: one after the other, each row-major.

    Parameters
    ----------
    shapes : dict of str to tuple of int
        In the order in which they lie in theta.

    Attributes
    ----------
    shapes : dict of str to tuple of int
    slices : dict of str to slice
    size : int
        Length of theta.
    """

    def __init__(self, shapes):
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self.slices = {}
        end = 0
        for name, shape in self.shapes.items():
            start, end = end, end + math.prod(shape)
            self.slices[name] = slice(start, end)
        self.size = end

    def __repr__(self):
        return f"ParameterLayout({self.shapes})"

    def unpack(self, theta):
        """The named arrays, as views into theta: to write into them is to write into it.

        Raises
        ------
        InvalidInputError
            If theta has another size.
        """
        theta = np.asarray(theta)
        if theta.shape != (self.size,):
            raise InvalidInputError(f"theta must have shape ({self.size},), found {theta.shape}")
        return {name: theta[self.slices[name]].reshape(shape) for name, shape in self.shapes.items()}

    def pack(self, arrays):
        """The flat vector theta of a dict of named arrays: the inverse of `unpack`.

        Raises
        ------
        InvalidInputError
            If a name is missing or unknown, or an array has another shape.
        """
        if set(arrays) != set(self.shapes):
            raise InvalidInputError(
                f"arrays must be named {sorted(self.shapes)}, found {sorted(arrays)}")
        arrays = {name: np.asarray(array) for name, array in arrays.items()}
        for name, shape in self.shapes.items():
            if arrays[name].shape != shape:
                raise InvalidInputError(
                    f"{name} must have shape {shape}, found {arrays[name].shape}")
        return np.concatenate([arrays[name].ravel() for name in self.shapes])


def mlp_layout(widths, time_input=False):
    """Layout W1, b1, W2, b2, ... of a multilayer perceptron; W of a layer has shape (d_out, d_in).

    Parameters
    ----------
    widths : sequence of int
        From the input, over the hidden layers, to the output.
    time_input : bool
        Whether the first layer has the time as one more input, the last.
    """
    widths = checked_widths(widths)
    fan_ins = (widths[0] + bool(time_input),) + widths[1:-1]
    shapes = {}
    for number, (d_in, d_out) in enumerate(zip(fan_ins, widths[1:]), start=1):
        shapes[f"W{number}"] = (d_out, d_in)
        shapes[f"b{number}"] = (d_out,)
    return ParameterLayout(shapes)


def checked_widths(widths):
    """``widths`` as a tuple of at least two positive integers, or an InvalidInputError."""
    widths = tuple(widths)
    if len(widths) < 2 or any(int(width) != width or width < 1 for width in widths):
        raise InvalidInputError(f"widths must be two or more positive integers, found {widths}")
    return tuple(int(width) for width in widths)


# Standard deviation of the weights, which keeps the variance of a signal through the layer:
SCALINGS = {
    "glorot": lambda d_in, d_out: math.sqrt(2.0 / (d_in + d_out)),   # forwards and backwards on average
    "lecun": lambda d_in, d_out: math.sqrt(1.0 / d_in),              # forwards
}


def initial_parameters(widths, seed, scaling="glorot", time_input=False):
    """Random initial theta of a multilayer perceptron: normal weights, zero biases.

    Parameters
    ----------
    widths : sequence of int
        From the input, over the hidden layers, to the output.
    seed : int or numpy.random.Generator
        Taken by ``numpy.random.default_rng``.
    scaling : {"glorot", "lecun"}
        Variance of the weights: 2 / (d_in + d_out), or 1 / d_in.
    time_input : bool
        As in `mlp_layout`.

    Returns
    -------
    theta : ndarray, shape (p,)

    References
    ----------
    Glorot & Bengio (2010), Understanding the difficulty of training deep feedforward neural networks.
    LeCun, Bottou, Orr & Müller (1998), Efficient BackProp.
    """
    if scaling not in SCALINGS:
        raise InvalidInputError(f"scaling must be one of {sorted(SCALINGS)}, found {scaling!r}")
    rng = np.random.default_rng(seed)
    layout = mlp_layout(widths, time_input)
    theta = np.zeros(layout.size)
    for name, array in layout.unpack(theta).items():
        if name.startswith("W"):
            d_out, d_in = array.shape
            array[:] = SCALINGS[scaling](d_in, d_out) * rng.standard_normal((d_out, d_in))
    return theta
