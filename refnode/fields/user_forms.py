"""From the three forms in which users write a right-hand side and its derivatives to the kernel form."""
import inspect

from numba import njit

from refnode.errors import InvalidInputError, InvalidTypeError
from refnode.host_device import is_compiled


def argument_count(function):
    return len(inspect.signature(getattr(function, "py_func", function)).parameters)


def kernel_form(function, which):
    """``function`` in the kernel form, compiled if ``function`` is.

    Raises
    ------
    InvalidTypeError, InvalidInputError
        It is not callable, or takes a number of arguments that fits no form.
    """
    forms = FORMS[which]
    if not callable(function):
        raise InvalidTypeError(f"{which} must be callable, found {type(function).__name__}")
    count = argument_count(function)
    if count not in forms:
        raise InvalidInputError(f"{which} must take one of {sorted(forms)} arguments "
                                f"(see VectorField), found {count}")
    wrap = forms[count]
    if wrap is None:
        return function
    wrapped = wrap(function)
    return njit(error_model="numpy")(wrapped) if is_compiled(function) else wrapped


def _from_short(rhs):
    def f(t, y, theta, tape, dy):
        rhs(t, y, theta, dy)
    return f


def from_returning(fun):
    def f(t, y, theta, tape, dy):
        dy[:] = fun(t, y, theta)
    return f


def _jvp_from_short(rhs_jvp):
    def f_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
        rhs_jvp(t, y, theta, t_tan, y_tan, theta_tan, dy_tan)
    return f_jvp


def _jvp_from_returning(fun_jvp):
    def f_jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan):
        dy_tan[:] = fun_jvp(t, y, theta, t_tan, y_tan, theta_tan)
    return f_jvp


def _vjp_from_short(rhs_vjp):
    def f_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
        rhs_vjp(t, y, theta, dy_bar, t_bar, y_bar, theta_bar)
    return f_vjp


def _vjp_from_returning(fun_vjp):
    def f_vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar):
        t_part, y_part, theta_part = fun_vjp(t, y, theta, dy_bar)
        t_bar[0] += t_part
        y_bar[:] += y_part
        theta_bar[:] += theta_part
    return f_vjp


def _hvp_from_short(rhs_hvp):
    def f_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan,
              theta_bar_tan):
        rhs_hvp(t, y, theta, t_tan, y_tan, theta_tan, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan, theta_bar_tan)
    return f_hvp


def _hvp_from_returning(fun_hvp):
    def f_hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan, t_bar_tan, y_bar_tan,
              theta_bar_tan):
        t_part, y_part, theta_part = fun_hvp(t, y, theta, t_tan, y_tan, theta_tan, dy_bar, dy_bar_tan)
        t_bar_tan[0] += t_part
        y_bar_tan[:] += y_part
        theta_bar_tan[:] += theta_part
    return f_hvp


F_FORMS = {3: from_returning, 4: _from_short, 5: None}
JVP_FORMS = {6: _jvp_from_returning, 7: _jvp_from_short, 8: None}
VJP_FORMS = {4: _vjp_from_returning, 7: _vjp_from_short, 8: None}
HVP_FORMS = {8: _hvp_from_returning, 11: _hvp_from_short, 12: None}
FORMS = {"f": F_FORMS, "jvp": JVP_FORMS, "vjp": VJP_FORMS, "hvp": HVP_FORMS}
RETURNING = {name: min(forms) for name, forms in FORMS.items()}      # arguments of the SciPy form
