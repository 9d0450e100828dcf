"""A residual network as a field: block k, y + f(0, y; θ_k), is Euler's step of length 1 from t = k.

θ holds the parameters of all blocks, one after the other, and block k is in force for k <= t < k + 1. Between blocks the
right-hand side jumps, so only given steps that end there make sense: ``method="euler", n_steps=blocks`` on (0, blocks).
With one θ for all blocks the network is Euler's method for one ODE, and needs no field of its own.

References
----------
Haber & Ruthotto, Stable architectures for deep neural networks, Inverse Problems 34 (2017).
E, A proposal on machine learning via dynamical systems, Commun. Math. Stat. 5 (2017).
"""
from refnode.errors import InvalidInputError
from refnode.fields.convolutional import conv_field, conv_hvp, conv_jvp, conv_rhs, conv_vjp, in_theta, LAYERS
from refnode.fields.field import VectorField
from refnode.host_device import host_device


def residual_field(channels, height, width, blocks, **options):
    """Field of ``blocks`` residual blocks of the form of `conv_field`, whose other arguments are ``options``.

    Returns
    -------
    field : VectorField
        With p = blocks times that of `conv_field`; inside block k the time is t - k.

    Raises
    ------
    InvalidInputError
        If ``blocks`` is no positive integer, or as for `conv_field`.
    """
    if int(blocks) != blocks or blocks < 1:
        raise InvalidInputError(f"blocks must be a positive integer, found {blocks!r}")
    one = conv_field(channels, height, width, **options)

    def numpy_form(t, y, theta):
        k = min(max(int(t.real), 0), blocks - 1)
        return one.numpy_form(t - k, y, theta[k * one.p:(k + 1) * one.p])
    return VectorField(
        residual_rhs, jvp=residual_jvp, vjp=residual_vjp, hvp=residual_hvp, name=f"residual_{blocks}x{one.name}", n=one.n,
        p=blocks * one.p, tape_size=one.tape_size, tape_header=one.tape_header, hvp_tape_size=one.hvp_tape_size,
        numpy_form=numpy_form)


@host_device
def block_at(t, theta, tape):
    """The block in force at t, and where its parameters begin and end in theta."""
    _, _, _, _, p = in_theta(tape, int(tape[LAYERS]) - 1)
    k = min(max(int(t), 0), theta.shape[0] // p - 1)
    return k, k * p, (k + 1) * p


@host_device
def residual_rhs(t, y, theta, tape, dy):
    """dy = f(t - k, y; θ_k); see `residual_field`."""
    k, own, end = block_at(t, theta, tape)
    conv_rhs(t - k, y, theta[own:end], tape, dy)


@host_device
def residual_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
    """Tangent of `residual_rhs`, within a block."""
    k, own, end = block_at(t, theta, tape)
    conv_jvp(t - k, y, theta[own:end], t_tan, y_tan, theta_tan[own:end], tape, dy_tan)


@host_device
def residual_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
    """Transpose of `residual_jvp`: only θ_k gets a share."""
    k, own, end = block_at(t, theta, tape)
    conv_vjp(t - k, y, theta[own:end], tape, dy_bar, t_bar, y_bar, theta_bar[own:end])


@host_device
def residual_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan, theta_bar_tan):
    """Tangent of `residual_vjp`."""
    k, own, end = block_at(t, theta, tape)
    conv_hvp(t - k, y, theta[own:end], t_tan, y_tan, theta_tan[own:end], tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan,
             theta_bar_tan[own:end])
