"""A user's functions are called once with guards: what they do wrong in form is said then, not found later.

Compiled code would otherwise write a stray index into memory that belongs to somebody else, and NumPy stretch a
number over an array. Whether a derivative is right is another question; see `refnode.check_field`.
"""
import functools
import re

import numpy as np
from numba import njit
from numba.core.errors import TypingError

from refnode.errors import InvalidInputError
from refnode.fields.user_forms import FORMS, RETURNING, argument_count
from refnode.host_device import compiled_by_calling, is_compiled

PARTS = {"vjp": ("t_bar", "y_bar", "theta_bar"), "hvp": ("t_bar_tan", "y_bar_tan", "theta_bar_tan")}
OUTPUTS = {"jvp": 1, "vjp": 3, "hvp": 3}
MISFIT = re.compile("out of bounds for axis|broadcast|setting an array element|cannot assign slice")     # in NumPy's words


# --- the right-hand side --------------------------------------------------------------------------

def check_right_hand_side(field, t, y, theta):
    """Call ``f`` on copies.

    Raises
    ------
    InvalidInputError
        If it returns or writes a wrong shape, returns None, or changes ``y`` or ``theta``.
    """
    y_copy, theta_copy = y.copy(), theta.copy()
    returning = argument_count(field.user_f) == RETURNING["f"]
    try:
        (_check_returned if returning else _check_written)(field, t, y_copy, theta_copy)
    except InvalidInputError:
        raise
    except Exception as error:
        error.add_note(f"in fun at t={t:g}, step 0")
        raise
    if not np.array_equal(y_copy, y, equal_nan=True) or not np.array_equal(theta_copy, theta, equal_nan=True):
        raise InvalidInputError("fun changed y or theta in place; they are inputs, write to dy only")


def _check_returned(field, t, y, theta):
    dy = field.user_f(t, y, theta)
    if dy is None:
        raise InvalidInputError("fun returned None (forgot return?)")
    if np.shape(dy) != y.shape:
        raise InvalidInputError(f"fun returned shape {np.shape(dy)}, expected {y.shape}")
    if np.iscomplexobj(dy):
        raise InvalidInputError("fun returned complex values; stack real and imaginary parts into y")


def _check_written(field, t, y, theta):
    """The in-place forms, compiled with bounds checks: Numba otherwise lets a stray index write anywhere."""
    function = field.user_f
    dy = np.empty_like(y)
    arguments = (t, y, theta, dy) if argument_count(function) == 4 else (t, y, theta, field.new_tape(1)[0], dy)
    try:
        returned = _guarded_call(function, arguments)
    except IndexError as error:
        raise InvalidInputError(
            f"fun uses an index outside y {y.shape}, theta {theta.shape} or dy {dy.shape}: {error}"
        ) from error
    if returned is not None:
        raise InvalidInputError(
            "fun takes dy as its last argument, so it must write to dy and return nothing; "
            f"it returned {type(returned).__name__}")


def _guarded_call(function, arguments):
    """What a function returns: a compiled one with bounds checks, a plain one as it is."""
    return compiled_by_calling(_with_bounds_checks(function), arguments) if is_compiled(function) else function(*arguments)


@functools.lru_cache(maxsize=4)              # a vjp is called twice
def _with_bounds_checks(dispatcher):
    return njit(boundscheck=True)(dispatcher.py_func)


# --- derivatives ----------------------------------------------------------------------------------

def check_form(field, names, t, y, theta):
    """Call those of the field's derivatives that it has, on copies and with unit tangents and cotangents.

    Raises
    ------
    InvalidInputError
        See `VectorField.check_derivatives`.
    """
    tape = field.new_hvp_tape(1)[0]
    field.f(t, y, theta, tape, np.empty_like(y))
    for which in names:
        if getattr(field, which) is not None:
            _CHECKS[which](field, t, y, theta, tape)


def _check_jvp(field, t, y, theta, tape):
    returned, written = _call(field, "jvp", (t, y.copy(), theta.copy(), 1.0, np.ones_like(y), np.ones_like(theta)), tape,
                              [np.empty_like(y)])
    if written is None and returned is not _FAILED:
        _require_parts(field, "jvp", y, theta, ("dy_tan",), (returned,), (y.shape,))


def _check_vjp(field, t, y, theta, tape):
    _check_bars(field, "vjp", (t, y.copy(), theta.copy()), (np.ones_like(y),), tape)


def _check_hvp(field, t, y, theta, tape):
    tangents = (1.0, np.ones_like(y), np.ones_like(theta))
    _check_bars(field, "hvp", (t, y.copy(), theta.copy(), *tangents), (np.ones_like(y), np.ones_like(y)), tape)


def _check_bars(field, which, inputs, cotangents, tape):
    """A function that adds to three bars, called twice: into bars that begin at 0, and at 1; or that returns three parts."""
    _, y, theta = inputs[:3]
    shapes = ((1,), y.shape, theta.shape)
    ends = []
    for start in (0.0, 1.0):
        bars = [np.full(shape, start) for shape in shapes]
        returned, written = _call(field, which, inputs, tape, [*cotangents, *bars])
        if returned is _FAILED:
            return
        if written is None:
            _require_three(field, which, y, theta, returned, shapes)
            return
        ends.append(np.concatenate(bars))
    _require_accumulation(field, which, *ends)


_CHECKS = {"jvp": _check_jvp, "vjp": _check_vjp, "hvp": _check_hvp}
_FAILED = object()        # of an exception that is the user's own: the sweep meets it again, and says at which time


def _call(field, which, inputs, tape, rest):
    """(returned, what was written to): the latter None for the form that returns, which is passed no outputs."""
    user = getattr(field, f"user_{which}")
    count, (_, y, theta) = argument_count(user), inputs[:3]
    if count == RETURNING[which]:
        arguments, written = (*inputs, *rest[:-OUTPUTS[which]]), None
    else:
        with_tape = [tape.copy()] if count == max(FORMS[which]) else []
        arguments, written = (*inputs, *with_tape, *rest), rest
    try:
        returned = _guarded_call(user, arguments)
    except (IndexError, TypingError, ValueError) as error:
        if MISFIT.search(str(error)) or (is_compiled(user) and not isinstance(error, ValueError)):
            raise _misfit(field, which, y, theta, error) from error
        return _FAILED, None
    except Exception:
        return _FAILED, None
    if written is not None and returned is not None:
        raise _misfit(field, which, y, theta, f"the form with {count} arguments writes to its last, and returns nothing; it "
                                              f"returned {type(returned).__name__}")
    return returned, written


def _require_three(field, which, y, theta, returned, shapes):
    if not isinstance(returned, (tuple, list)) or len(returned) != 3:
        found = f"{len(returned)} parts" if isinstance(returned, (tuple, list)) else _told(returned)
        raise _misfit(field, which, y, theta, f"it returned {found}, expected three: ({', '.join(PARTS[which])})")
    _require_parts(field, which, y, theta, PARTS[which], returned, shapes)


def _require_parts(field, which, y, theta, names, parts, shapes):
    """Each part has its shape; a zero may be a number, and a time's derivative too."""
    for name, part, shape in zip(names, parts, shapes):
        try:
            found = np.shape(part)
            zero = found == () and part is not None and float(part) == 0.0
        except (TypeError, ValueError):
            found, zero = None, False
        if part is None or not (found == shape or zero or (found == () and shape == (1,))):
            told = _told(part) if part is None or found is None else f"shape {found}"
            raise _misfit(field, which, y, theta, f"it returned {told} for {name}, expected shape {shape}")


def _told(returned):
    return "None (forgot return?)" if returned is None else type(returned).__name__


def _misfit(field, which, y, theta, reason):
    return InvalidInputError(f"{which} of field {field.name!r} does not fit y ({y.size},) and theta ({theta.size},), or its "
                             f"form (see VectorField): {reason}")


def _require_accumulation(field, which, from_zero, from_one):
    """A bar that ends where it ended before, wherever it began, was overwritten."""
    overwritten = (from_zero == from_one) & np.isfinite(from_zero) & (np.abs(from_zero) < 1e15)
    if np.any(overwritten):
        raise InvalidInputError(
            f"{which} of field {field.name!r} overwrites entry {int(np.argmax(overwritten))} of ({', '.join(PARTS[which])}); "
            "it must add to every bar (+=), which others have written to before")
