"""Fields made from fields: a running cost as one more state."""
import functools

import numpy as np
from numba import njit

from refnode.fields.field import VectorField
from refnode.host_device import is_compiled


@functools.lru_cache(maxsize=64)            # or every Problem made with new parameters would compile anew
def with_running_cost(field, cost):
    """The field of (y, q) with q' = g(t, y, theta): the running cost is q(t1) when q(t0) = 0.

    Implements (COST-1). Since lam_q = dL/dq = 1 is constant, the adjoint of this field is the adjoint of
    ``field`` with the source -(dg/dy)^T, so no sensitivity method needs to know of running costs.

    Parameters
    ----------
    field : VectorField
    cost : refnode.losses.RunningCost
    """
    parts = (cost.g, cost.g_jvp, cost.g_vjp, cost.g_hvp)
    compiled = field.compiled and all(is_compiled(part) for part in parts if part is not None)
    wrap = njit(error_model="numpy") if compiled else lambda function: function
    f_jvp = None if field.jvp is None or cost.g_jvp is None else wrap(_jvp(field.jvp, cost.g_jvp))
    f_vjp = None if field.vjp is None or cost.g_vjp is None else wrap(_vjp(field.vjp, cost.g_vjp))
    f_hvp = None if field.hvp is None or cost.g_hvp is None else wrap(_hvp(field.hvp, cost.g_hvp))
    return VectorField(
        wrap(_rhs(field.f, cost.g)), jvp=f_jvp, vjp=f_vjp, hvp=f_hvp, name=f"{field.name}+running_cost",
        n=None if field.n is None else field.n + 1, p=field.p,
        tape_size=field.tape_size, tape_header=field.tape_header, hvp_tape_size=field.hvp_tape_size,
        numpy_form=None if field.numpy_form is None else _numpy_form(field.numpy_form, cost.g))


def _numpy_form(fun, g):
    def fun_and_g(t, y, theta):
        return np.append(fun(t, y[:-1], theta), g(t, y[:-1], theta))
    return fun_and_g


def _rhs(f, g):
    def f_and_g(t, y, theta, tape, dy):
        n = y.shape[0] - 1
        f(t, y[:n], theta, tape, dy[:n])
        dy[n] = g(t, y[:n], theta)
    return f_and_g


def _jvp(f_jvp, g_jvp):
    def f_and_g_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
        n = y.shape[0] - 1
        f_jvp(t, y[:n], theta, t_tan, y_tan[:n], theta_tan, tape, dy_tan[:n])
        dy_tan[n] = g_jvp(t, y[:n], theta, t_tan, y_tan[:n], theta_tan)
    return f_and_g_jvp


def _vjp(f_vjp, g_vjp):
    def f_and_g_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
        n = y.shape[0] - 1
        f_vjp(t, y[:n], theta, tape, dy_bar[:n], t_bar, y_bar[:n], theta_bar)   # dy[:n] = f(t, y[:n])
        g_vjp(t, y[:n], theta, dy_bar[n], t_bar, y_bar[:n], theta_bar)          # dy[n] = g(t, y[:n])
    return f_and_g_vjp


def _hvp(f_hvp, g_hvp):
    def f_and_g_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan,
                    theta_bar_tan):
        n = y.shape[0] - 1
        f_hvp(t, y[:n], theta, t_tan, y_tan[:n], theta_tan, tape, dy_bar[:n], dy_bar_tan[:n], t_bar_tan,
              y_bar_tan[:n], theta_bar_tan)
        g_hvp(t, y[:n], theta, t_tan, y_tan[:n], theta_tan, dy_bar[n], dy_bar_tan[n], t_bar_tan,
              y_bar_tan[:n], theta_bar_tan)
    return f_and_g_hvp
