"""Right-hand sides dy/dt = f(t, y, theta), each with its tangent and its transpose."""
from refnode.fields.classical import (
    CLASSICAL, cosine_relaxation, exponential_decay, forced_oscillator, kepler, linear, logistic, lorenz,
    lotka_volterra, pendulum, robertson, twin_growth, van_der_pol)
from refnode.fields.field import VectorField
from refnode.fields.neural import mlp_field
from refnode.when_asked_for import importer

__getattr__, __dir__ = importer(globals(), {"conv_field": "refnode.fields.convolutional"})
