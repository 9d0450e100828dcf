"""Scalar forms of tanh, softplus and sine in single precision, for a GPU.

Those of `activations` count bits of doubles. A device has its own of the functions they are made of; what is here
replaces them there, as the attribute ``single`` says, see `cuda_device.device_form`.
"""
import math

from refnode.host_device import host_device
from refnode.layers.activations import any_sine_cosine, fast_sine_cosine, fast_softplus_sigmoid, fast_tanh


@host_device
def single_tanh(x):
    """tanh x."""
    return math.tanh(x)


@host_device
def single_softplus_sigmoid(x):
    """(log(1 + exp x), 1 / (1 + exp(-x))), as `fast_softplus_sigmoid`."""
    u = math.exp(-abs(x))
    positive = x > 0.0
    return math.log1p(u) + (x if positive else 0.0), (1.0 if positive else u) / (1.0 + u)


@host_device
def single_sine_cosine(x):
    """(sin x, cos x)."""
    return math.sin(x), math.cos(x)


fast_tanh.single, fast_softplus_sigmoid.single = single_tanh, single_softplus_sigmoid
fast_sine_cosine.single = any_sine_cosine.single = single_sine_cosine
