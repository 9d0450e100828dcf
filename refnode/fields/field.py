"""The contract of a right-hand side dy/dt = f(t, y, theta), and the one place that wraps users' forms."""
import inspect

import numpy as np
from numba import njit
from numba.core.errors import TypingError

from refnode.errors import InvalidInputError, InvalidTypeError, MissingDerivativeError
from refnode.host_device import RHS, RHS_HVP, RHS_JVP, RHS_VJP, FunctionPointer, is_compiled

JVP_HINT = ("write it by hand and pass {which}=, or let SymPy derive it: "
            'VectorField.from_expressions(["theta[0]*y[0]", ...]) (optional extra `symbolic`)')


class VectorField:
    """A right-hand side with its hand-written derivatives.

    Every function is accepted in three forms and kept in the first, the kernel contract:

    ======== ===================================================================== =====================
    kernel   ``f(t, y, theta, tape, dy)``                                          overwrites ``dy``
             ``jvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_tan)``           overwrites ``dy_tan``
             ``vjp(t, y, theta, tape, dy_bar, t_bar, y_bar, theta_bar)``           adds to the bars
             ``hvp(t, y, theta, t_tan, y_tan, theta_tan, tape, dy_bar, dy_bar_tan,
             t_bar_tan, y_bar_tan, theta_bar_tan)``                                adds to the last three
    short    the same without ``tape``
    SciPy    ``f(t, y, theta) -> dy``,
             ``jvp(t, y, theta, t_tan, y_tan, theta_tan) -> dy_tan``,
             ``vjp(t, y, theta, dy_bar) -> (t_bar, y_bar, theta_bar)``
             ``hvp(t, y, theta, t_tan, y_tan, theta_tan, dy_bar, dy_bar_tan)
             -> (t_bar_tan, y_bar_tan, theta_bar_tan)``
    ======== ===================================================================== =====================

    ``hvp`` is the directional derivative of ``vjp``: the tangents of the bars when (t, y, theta) move by
    their tangents and ``dy_bar`` by ``dy_bar_tan``. Second derivatives of a solve need it, and nothing else.

    Shapes: ``y, dy`` (n,), ``theta`` (p,), ``t_bar`` (1,), ``tape`` (tape_size,). Functions compiled by
    ``numba.njit`` run inside compiled drivers; plain Python functions run in the same drivers, un-jitted.

    Parameters
    ----------
    f, jvp, vjp, hvp : callable
        The right-hand side, its tangent, its cotangent, and the tangent of its cotangent.
    name : str, optional
    n, p : int, optional
        Number of states and parameters, where the field fixes them.
    tape_size : int
        Length of the scratch in which ``f`` leaves what ``vjp`` needs.
    hvp_tape_size : int, optional
        Length of the tape where ``hvp`` is to run: it may need scratch of its own behind that of the
        others. Default: ``tape_size``.
    tape_header : array_like
        Constants that stand at the beginning of every tape.
    state_names, parameter_names : sequence of str, optional
        Names for reports.
    numpy_form : callable, optional
        ``fun(t, y, theta) -> dy`` valid for complex arrays, for the complex-step check, where ``f``
        itself is not.

    Raises
    ------
    InvalidTypeError
        If a function is not callable.
    InvalidInputError
        If a function has a number of arguments that fits none of the forms.
    """

    def __init__(self, f, jvp=None, vjp=None, hvp=None, *, name=None, n=None, p=None, tape_size=0,
                 tape_header=(), hvp_tape_size=None, state_names=None, parameter_names=None, numpy_form=None):
        self.user_f = f
        self.f = _kernel_form(f, "f", _F_FORMS)
        self.user_jvp, self.user_vjp = jvp, vjp
        self.jvp = None if jvp is None else _kernel_form(jvp, "jvp", _JVP_FORMS)
        self.vjp = None if vjp is None else _kernel_form(vjp, "vjp", _VJP_FORMS)
        self.hvp = None if hvp is None else _kernel_form(hvp, "hvp", _HVP_FORMS)
        self.name = name or getattr(f, "__name__", "field")
        self.n, self.p = n, p
        self.tape_size = int(tape_size)
        self.hvp_tape_size = self.tape_size if hvp_tape_size is None else int(hvp_tape_size)
        self.tape_header = np.ascontiguousarray(tape_header, dtype=np.float64)
        self.state_names, self.parameter_names = state_names, parameter_names
        self.numpy_form = numpy_form
        self.compiled = all(is_compiled(g) for g in (self.f, self.jvp, self.vjp, self.hvp) if g is not None)
        self.checked_sizes = set()       # (n, p) for which check_first_call has passed
        self.pace = {}                   # steps a compiled solver may take between looks for Ctrl-C
        self.entries = {}                # how a driver is called with this field's functions
        self.idle_storage = []           # what a solve that is over leaves to the next one
        self.probed = {}                 # kind of solve: solves since its tangent was probed, and the steps taken then
        self._tapes = []
        self._pointers = {}

    def __repr__(self):
        return f"<VectorField {self.name}>"

    @classmethod
    def from_expressions(cls, expressions, *, n=None, p=None, name=None, show=True):
        """A field whose four functions SymPy derives from strings; see `fields.symbolic`.

        Prints the derived source unless ``show`` is false; it stays in ``field.source``.
        """
        from refnode.fields.symbolic import from_expressions
        field = from_expressions(expressions, n=n, p=p, name=name)
        if show:
            print(field.source)
        return field

    def require(self, *derivatives):
        """Raise MissingDerivativeError unless the field has each of ``"jvp"``, ``"vjp"``, ``"hvp"`` asked for."""
        for which in derivatives:
            if getattr(self, which) is None:
                raise MissingDerivativeError(
                    f"field {self.name!r} has no {which}, which this computation needs; "
                    + JVP_HINT.format(which=which))

    def functions(self, *which):
        """The functions named (``"f"``, ``"jvp"``, ``"vjp"``, ``"hvp"``) as a driver takes them.

        Addresses of compiled functions, or the plain Python functions of an un-jitted field.
        """
        if not self.compiled:
            return [getattr(self, name) for name in which]
        return [self._pointer(name) for name in which]

    def _pointer(self, name):
        if name not in self._pointers:
            signature = {"f": RHS, "jvp": RHS_JVP, "vjp": RHS_VJP, "hvp": RHS_HVP}[name]
            self._pointers[name] = FunctionPointer(getattr(self, name), signature)
        return self._pointers[name]

    def new_tape(self, rows, dtype=np.float64):
        """Scratch for ``rows`` evaluations, shape (rows, tape_size), with the header in place."""
        tape = np.empty((rows, self.tape_size), dtype=dtype)
        if self.tape_header.size:
            tape[:, :self.tape_header.size] = self.tape_header
        return tape

    def new_hvp_tape(self, rows):
        """Scratch for ``rows`` evaluations followed by ``hvp``, shape (rows, hvp_tape_size)."""
        tape = np.empty((rows, self.hvp_tape_size))
        tape[:, :self.tape_header.size] = self.tape_header
        return tape

    def take_tape(self, rows, dtype=np.float64):
        """A tape of at least that many rows: one given back earlier, or a new one.

        Fresh pages of memory cost as much to touch as a field of moderate size costs to evaluate.
        """
        while self._tapes and dtype == np.float64:
            tape = self._tapes.pop()
            if tape.shape[0] >= rows:
                return tape
        return self.new_tape(rows, dtype)

    def keep_tape(self, tape):
        """Keep a tape for `take_tape`; at most one, so that memory does not grow."""
        if tape.size and not self._tapes:
            self._tapes.append(tape)

    def __call__(self, t, y, theta):
        """dy/dt at one point, shape (n,): for reading and plotting, not for inner loops."""
        y = np.ascontiguousarray(y, dtype=np.float64)
        dy = np.empty_like(y)
        self.f(float(t), y, np.ascontiguousarray(theta, dtype=np.float64), self.new_tape(1)[0], dy)
        return dy

    def complex_form(self):
        """The field in the kernel form, valid for complex arrays."""
        return self.f if self.numpy_form is None else _from_returning(self.numpy_form)

    def check_first_call(self, t, y, theta):
        """Call the user's function once with guards; what it does wrong is raised here, not found later.

        Raises
        ------
        InvalidInputError
            If it returns or writes a wrong shape, returns None, or changes ``y`` or ``theta``.
        """
        sizes = (y.size, theta.size)
        if sizes in self.checked_sizes or self._is_shipped():
            return
        y_copy, theta_copy = y.copy(), theta.copy()
        try:
            _FIRST_CALL[_argument_count(self.user_f)](self, t, y_copy, theta_copy)
        except InvalidInputError:
            raise
        except Exception as error:
            error.add_note(f"in fun at t={t:g}, step 0")
            raise
        if not np.array_equal(y_copy, y, equal_nan=True) or not np.array_equal(
                theta_copy, theta, equal_nan=True):
            raise InvalidInputError("fun changed y or theta in place; they are inputs, write to dy only")
        self.checked_sizes.add(sizes)

    def check_derivatives(self, t, y, theta):
        """The same for its jvp and vjp: compiled ones stay within bounds, and a vjp adds to its bars.

        Raises
        ------
        InvalidInputError
            If a compiled one uses an index outside its arguments, or returns another number of parts, or if
            the vjp overwrites its bars.
        """
        sizes = ("derivatives", y.size, theta.size)
        if sizes in self.checked_sizes or self._is_shipped():
            return
        tape = self.new_tape(1)[0]
        self.f(t, y, theta, tape, np.empty_like(y))
        if self.jvp is not None:
            _check_jvp(self, t, y, theta, tape)
        if self.vjp is not None:
            _check_vjp(self, t, y, theta, tape)
        self.checked_sizes.add(sizes)

    def _is_shipped(self):
        return getattr(self.user_f, "__module__", "").startswith("refnode.")


# --- the first call -------------------------------------------------------------------------------

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
    if is_compiled(function):
        function = njit(boundscheck=True)(function.py_func)
    dy = np.empty_like(y)
    arguments = (t, y, theta, dy) if _argument_count(function) == 4 else (
        t, y, theta, field.new_tape(1)[0], dy)
    try:
        returned = function(*arguments)
    except IndexError as error:
        raise InvalidInputError(
            f"fun uses an index outside y {y.shape}, theta {theta.shape} or dy {dy.shape}: {error}"
        ) from error
    if returned is not None:
        raise InvalidInputError(
            "fun takes dy as its last argument, so it must write to dy and return nothing; "
            f"it returned {type(returned).__name__}")


def _check_jvp(field, t, y, theta, tape):
    """A jvp with bounds checks."""
    y_tan, theta_tan = np.ones_like(y), np.ones_like(theta)
    _call_guarded(field, "jvp", t, y.copy(), theta.copy(), 1.0, y_tan, theta_tan, tape.copy(), np.empty_like(y))


def _check_vjp(field, t, y, theta, tape):
    """A vjp with bounds checks, twice: into bars that begin at 0, and at 1."""
    ends = []
    for start in (0.0, 1.0):
        bars = [np.full(size, start) for size in (1, y.size, theta.size)]
        if not _call_guarded(field, "vjp", t, y.copy(), theta.copy(), tape.copy(), np.ones_like(y), *bars):
            return
        ends.append(np.concatenate(bars))
    _require_accumulation(field, *ends)


def _call_guarded(field, which, *arguments):
    """Whether a derivative could be called; what else it raises the sweep will meet, and say at which time."""
    function = getattr(field, f"user_{which}")
    try:
        if is_compiled(function):
            function = njit(boundscheck=True)(function.py_func)
        _kernel_form(function, which, _FORMS[which])(*arguments)
    except (IndexError, TypingError) as error:
        if not field.compiled:
            return False
        sizes = f"y ({arguments[1].size},) and theta ({arguments[2].size},)"
        raise InvalidInputError(f"{which} of field {field.name!r} does not fit {sizes}, or its form "
                                f"(see VectorField): {error}") from error
    except Exception:
        return False
    return True


def _require_accumulation(field, from_zero, from_one):
    """A bar that ends where it ended before, wherever it began, was overwritten."""
    overwritten = (from_zero == from_one) & np.isfinite(from_zero) & (np.abs(from_zero) < 1e15)
    if np.any(overwritten):
        raise InvalidInputError(
            f"vjp of field {field.name!r} overwrites entry {int(np.argmax(overwritten))} of (t_bar, y_bar, theta_bar); "
            "it must add to every bar (+=), which others have written to before")


_FIRST_CALL = {3: _check_returned, 4: _check_written, 5: _check_written}


# --- from the users' forms to the kernel form -----------------------------------------------------

def _argument_count(function):
    return len(inspect.signature(getattr(function, "py_func", function)).parameters)


def _kernel_form(function, which, forms):
    """``function`` in the kernel form, compiled if ``function`` is."""
    if not callable(function):
        raise InvalidTypeError(f"{which} must be callable, found {type(function).__name__}")
    count = _argument_count(function)
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


def _from_returning(fun):
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


_F_FORMS = {3: _from_returning, 4: _from_short, 5: None}
_JVP_FORMS = {6: _jvp_from_returning, 7: _jvp_from_short, 8: None}
_VJP_FORMS = {4: _vjp_from_returning, 7: _vjp_from_short, 8: None}
_FORMS = {"jvp": _JVP_FORMS, "vjp": _VJP_FORMS}
_HVP_FORMS = {8: _hvp_from_returning, 11: _hvp_from_short, 12: None}
