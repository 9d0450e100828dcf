"""A flow whose weights are generated from the time: z' = f(z; φ(t)), where φ(t) is the output of a second perceptron.

The second one is the hyper-network, and theta are its parameters. With ``flow`` for the four functions of
`fields.flow_density` and ``mlp`` for those of `fields.neural`, the chain rule is all there is here:

    φ = mlp(t; θ),  dy = flow(y; φ)         φ_bar = flow_vjp(dy_bar),  (t_bar, θ_bar) += mlp_vjp(φ_bar)

The tape holds some offsets, the tape of the hyper-network, φ with its tangent and cotangents, and the flow's tape.

References
----------
Chen, Rubanova, Bettencourt & Duvenaud, Neural ordinary differential equations, NeurIPS 2018, section 4: the
time-dependent flow with gates and a hyper-network; here the hyper-network's last layer takes the gates' place.
Ha, Dai & Le, HyperNetworks, ICLR 2017.
"""
import numpy as np

from refnode.errors import InvalidInputError
from refnode.fields.field import VectorField
from refnode.fields.flow_density import (
    checked_flow, checked_probes, flow_density, flow_density_hvp, flow_density_jvp, flow_density_vjp)
from refnode.fields.flow_tape import flow_numpy, flow_tape_plan
from refnode.fields.neural import mlp, mlp_hvp, mlp_jvp, mlp_numpy, mlp_vjp, tape_plan
from refnode.host_device import host_device
from refnode.layers.parameters import checked_widths, initial_parameters, mlp_layout

# Offsets, then numbers: the time, its tangent, cotangent and the tangent of that, and a place for what is not wanted.
HYPER_AT, PHI_AT, PHI_SIZE, STATE_AT, FLOW_AT, TIME, TIME_TAN, TIME_BAR, TIME_BAR_TAN, UNUSED, OWN = range(11)
GATE = 0.1               # of the initial weights that let φ depend on t


def hyper_flow_field(widths, hidden, activation="tanh", batch=1, probes=None):
    """Field of (z, log p) for a batch of samples under a perceptron whose parameters another makes of t.

    Parameters
    ----------
    widths : sequence of int
        d, the hidden widths, d of the flow.
    hidden : sequence of int
        The hidden widths of the hyper-network, which is a tanh perceptron; its input is t, its output the parameters
        of the flow.
    activation, batch, probes
        Of the flow; see `fields.flow_density.flow_density_field`.

    Returns
    -------
    field : VectorField
        With n = batch (d + 1); ``hyper_layout(widths, hidden)`` names the p parameters.
    """
    layout, hyper = checked_flow(widths, activation, batch, False), hyper_layout(widths, hidden)
    batch, d = int(batch), int(widths[0])
    probes = None if probes is None else checked_probes(probes, batch, d)
    header, tape_size, hvp_tape_size = hyper_tape_plan(layout, hyper, activation, batch, probes, d)
    name = "_".join(["hyper", *map(str, widths), activation, "by", *map(str, hidden)]
                    + ["hutchinson"] * (probes is not None))
    make_phi, flow = mlp_numpy(hyper, "tanh", False), flow_numpy(layout, activation, False, probes)
    return VectorField(
        hyper_flow, jvp=hyper_flow_jvp, vjp=hyper_flow_vjp, hvp=hyper_flow_hvp, name=name, n=batch * (d + 1),
        p=hyper.size, tape_size=tape_size, tape_header=header, hvp_tape_size=hvp_tape_size,
        numpy_form=lambda t, y, theta: flow(t, y, make_phi(0.0, np.array([t]), theta)))


def hyper_layout(widths, hidden):
    """Layout of the hyper-network: 1 input, ``hidden``, and as many outputs as the flow has parameters."""
    if len(tuple(hidden)) < 1:
        raise InvalidInputError("hidden must be one or more widths of the hyper-network, found none")
    return mlp_layout((1, *checked_widths((1, *hidden))[1:], mlp_layout(widths).size))


def initial_hyper_parameters(widths, hidden, seed, scaling="lecun"):
    """Random initial theta: at time 0 the flow's parameters are such as `initial_parameters` gives, later near them."""
    rng, layout = np.random.default_rng(seed), hyper_layout(widths, hidden)
    theta = initial_parameters((1, *hidden, mlp_layout(widths).size), rng, scaling)
    arrays, last = layout.unpack(theta), len(layout.shapes) // 2
    arrays[f"W{last}"][:] *= GATE
    arrays[f"b{last}"][:] = initial_parameters(widths, rng, scaling)
    return theta


def hyper_tape_plan(layout, hyper, activation, batch, probes, d):
    """The header of the tape, and the tape's size without and with hvp."""
    hyper_header, _, hyper_size = tape_plan(hyper, "tanh", 1)
    flow_header, flow_size, flow_hvp_size = flow_tape_plan(layout, activation, batch, probes, d)
    phi_at = OWN + hyper_size
    state_at = phi_at + 4 * layout.size                         # φ, its tangent, its cotangent, the tangent of that
    flow_at = state_at + batch * (d + 1)                        # a cotangent of y that hvp does not ask for
    header = np.zeros(flow_at + flow_header.size)
    header[:FLOW_AT + 1] = OWN, phi_at, layout.size, state_at, flow_at
    header[OWN:OWN + hyper_header.size] = hyper_header
    header[flow_at:] = flow_header
    return header, flow_at + flow_size, flow_at + flow_hvp_size


# --- the kernels ----------------------------------------------------------------------------------

@host_device
def hyper_places(tape):
    """The hyper-network's tape, φ with what belongs to it (4 P,), P, and the flow's tape."""
    size = int(tape[PHI_SIZE])
    phi = int(tape[PHI_AT])
    return tape[int(tape[HYPER_AT]):phi], tape[phi:phi + 4 * size], size, tape[int(tape[FLOW_AT]):]


@host_device
def hyper_flow(t, y, theta, tape, dy):
    """φ = mlp(t; θ), dy = flow(y; φ)."""
    hyper, phi, size, flow = hyper_places(tape)
    tape[TIME] = t
    mlp(0.0, tape[TIME:TIME + 1], theta, hyper, phi[:size])
    flow_density(t, y, phi[:size], flow, dy)


@host_device
def hyper_flow_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
    """Tangent of `hyper_flow`."""
    hyper, phi, size, flow = hyper_places(tape)
    tape[TIME_TAN] = t_tan
    mlp_jvp(0.0, tape[TIME:TIME + 1], theta, 0.0, tape[TIME_TAN:TIME_TAN + 1], theta_tan, hyper, phi[size:2 * size])
    flow_density_jvp(t, y, phi[:size], t_tan, y_tan, phi[size:2 * size], flow, dy_tan)


@host_device
def hyper_flow_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    """Transpose of `hyper_flow_jvp`. Implements (FLOW-5)."""
    hyper, phi, size, flow = hyper_places(tape)
    phi_bar = phi[2 * size:3 * size]
    phi_bar[:] = 0.0
    tape[TIME_BAR] = 0.0
    flow_density_vjp(t, y, phi[:size], flow, dy_bar, t_bar, y_bar, phi_bar)                 # dy = flow(y; φ)
    mlp_vjp(0.0, tape[TIME:TIME + 1], theta, hyper, phi_bar, tape[UNUSED:UNUSED + 1], tape[TIME_BAR:TIME_BAR + 1],
            theta_bar)                                                                      # φ = mlp(t; θ)
    t_bar[0] += tape[TIME_BAR]


@host_device
def hyper_flow_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan, theta_bar_tan):
    """Tangent of `hyper_flow_vjp`: φ_bar and its tangent from the flow, then the hyper-network's hvp."""
    hyper, phi, size, flow = hyper_places(tape)
    at = int(tape[STATE_AT])
    phi_bar, phi_bar_tan, y_bar = phi[2 * size:3 * size], phi[3 * size:], tape[at:at + y.shape[0]]
    phi_bar[:] = 0.0
    phi_bar_tan[:] = 0.0
    tape[TIME_TAN], tape[TIME_BAR_TAN] = t_tan, 0.0
    tape_tan, unused = tape[TIME_TAN:TIME_TAN + 1], tape[UNUSED:UNUSED + 1]
    mlp_jvp(0.0, tape[TIME:TIME + 1], theta, 0.0, tape_tan, theta_tan, hyper, phi[size:2 * size])
    flow_density_vjp(t, y, phi[:size], flow, dy_bar, unused, y_bar, phi_bar)
    flow_density_hvp(t, y, phi[:size], t_tan, y_tan, phi[size:2 * size], flow, dy_bar, dy_bar_tan, t_bar_tan,
                     y_bar_tan, phi_bar_tan)
    mlp_hvp(0.0, tape[TIME:TIME + 1], theta, 0.0, tape_tan, theta_tan, hyper, phi_bar, phi_bar_tan, unused,
            tape[TIME_BAR_TAN:TIME_BAR_TAN + 1], theta_bar_tan)
    t_bar_tan[0] += tape[TIME_BAR_TAN]
