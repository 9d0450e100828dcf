"""The registry `REFERENCE_FIELDS`: fields of the reference problems beside the classical ones."""
from refnode.fields.bouncing import bounces
from refnode.fields.density import linear_density, perceptron_density
from refnode.fields.first_order import outflow, regulator, riccati, sine_decay, sine_feedback, sine_forcing
from refnode.fields.oscillators import damped_rotation, fitzhugh_nagumo, henon_heiles
from refnode.fields.reactions import brusselator, exchange, pharmacokinetics, sir
from refnode.fields.switched import (
    bounce, dose_decay, kink_forcing, state_rate, step_forcing, time_rate, timed_decay, timed_fall)

SMOOTH = {field.name: field for field in (
    riccati, regulator, outflow, sine_decay, sine_feedback, sine_forcing,
    exchange, brusselator, sir, pharmacokinetics,
    damped_rotation, fitzhugh_nagumo, henon_heiles,
    linear_density, perceptron_density(2, 8))}

SWITCHED = {field.name: field for field in (
    kink_forcing, step_forcing, dose_decay, time_rate, state_rate, timed_fall, timed_decay, bounce, bounces)}

REFERENCE_FIELDS = {**SMOOTH, **SWITCHED}
