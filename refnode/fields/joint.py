"""Fields made from fields: B samples of one field as one state, under one step size."""
import functools

import numpy as np
from numba import njit

from refnode.fields.field import VectorField

# A joint tape begins with these three numbers; behind them stands the tape of sample after sample.
BATCH, WIDTH, STRIDE = range(3)       # samples, parameters of one, from one sample's parameters to the next's
HEADER = 3


def joint_field(field, batch, n, p, own_theta):
    """The field of Y = (y_1, ..., y_B), y_i' = f(t, y_i, theta_i), as one state of size B n.

    The samples do not act on each other: its Jacobian consists of the B blocks of
    ``field``, and where all share theta the transpose adds their cotangents, in the order of the samples.

    Parameters
    ----------
    field : VectorField
    batch : int
        Number of samples B.
    n, p : int
        States and parameters of one sample.
    own_theta : bool
        Whether theta is (B p,), sample after sample, or (p,) for all.
    """
    f, f_jvp, f_vjp = joint_functions(field)
    one = np.zeros(field.tape_size)
    one[:field.tape_header.size] = field.tape_header
    return VectorField(
        f, f_jvp, f_vjp, name=f"{batch}x{field.name}", n=batch * n, p=batch * p if own_theta else p,
        tape_size=HEADER + batch * field.tape_size,
        tape_header=np.concatenate([[batch, p, p if own_theta else 0], np.tile(one, batch)]),
        numpy_form=None if field.numpy_form is None else _numpy_form(field.numpy_form, batch, p, own_theta))


@functools.lru_cache(maxsize=64)            # compiled once for a field, whatever the sizes: they are in the tape
def joint_functions(field):
    """The three functions of every joint field of ``field``; None for a derivative it lacks."""
    wrap = njit(error_model="numpy") if field.compiled else lambda function: function
    return (wrap(_rhs(field.f)), None if field.jvp is None else wrap(_jvp(field.jvp)),
            None if field.vjp is None else wrap(_vjp(field.vjp)))


def _rhs(f):
    def f_joint(t, y, theta, tape, dy):
        batch, p, stride = int(tape[BATCH].real), int(tape[WIDTH].real), int(tape[STRIDE].real)
        n, size = y.shape[0] // batch, (tape.shape[0] - HEADER) // batch
        for i in range(batch):
            own, a, b = i * n, i * stride, HEADER + i * size
            f(t, y[own:own + n], theta[a:a + p], tape[b:b + size], dy[own:own + n])
    return f_joint


def _jvp(f_jvp):
    def f_joint_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
        batch, p, stride = int(tape[BATCH].real), int(tape[WIDTH].real), int(tape[STRIDE].real)
        n, size = y.shape[0] // batch, (tape.shape[0] - HEADER) // batch
        for i in range(batch):
            own, a, b = i * n, i * stride, HEADER + i * size
            f_jvp(t, y[own:own + n], theta[a:a + p], t_tan, y_tan[own:own + n], theta_tan[a:a + p],
                  tape[b:b + size], dy_tan[own:own + n])
    return f_joint_jvp


def _vjp(f_vjp):
    def f_joint_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
        batch, p, stride = int(tape[BATCH].real), int(tape[WIDTH].real), int(tape[STRIDE].real)
        n, size = y.shape[0] // batch, (tape.shape[0] - HEADER) // batch
        for i in range(batch):                                  # dy[own] = f(t, y[own], theta[a:a + p])
            own, a, b = i * n, i * stride, HEADER + i * size
            f_vjp(t, y[own:own + n], theta[a:a + p], tape[b:b + size], dy_bar[own:own + n], t_bar,
                  y_bar[own:own + n], theta_bar[a:a + p])
    return f_joint_vjp


def _numpy_form(fun, batch, p, own_theta):
    def fun_joint(t, y, theta):
        thetas = theta.reshape(batch, p) if own_theta else [theta] * batch
        return np.concatenate([fun(t, part, each) for part, each in zip(y.reshape(batch, -1), thetas)])
    return fun_joint
