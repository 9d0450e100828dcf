"""The contract of a right-hand side dy/dt = f(t, y, theta), and the one place that wraps users' forms."""
import numpy as np

from refnode.errors import InvalidInputError, MissingDerivativeError
from refnode.fields.first_call import check_form, check_right_hand_side
from refnode.fields.user_forms import RETURNING, argument_count, from_returning, kernel_form
from refnode.host_device import RHS, RHS_HVP, RHS_JVP, RHS_VJP, FunctionPointer, is_compiled
from refnode.precision import single_form, single_type

JVP_HINT = ("write it by hand and pass {which}=, or let SymPy derive it: "
            'VectorField.from_expressions(["theta[0]*y[0]", ...]) (optional extra `symbolic`)')

CACHE_LINE = 64          # bytes


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
        self.is_shipped = (getattr(f, "__module__", None) or "").startswith("refnode.")       # None: defined by exec
        self.f = kernel_form(f, "f")
        self.user_jvp, self.user_vjp, self.user_hvp = jvp, vjp, hvp
        self.jvp = None if jvp is None else kernel_form(jvp, "jvp")
        self.vjp = None if vjp is None else kernel_form(vjp, "vjp")
        self.hvp = None if hvp is None else kernel_form(hvp, "hvp")
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

    def functions(self, *which, single=False):
        """The functions named (``"f"``, ``"jvp"``, ``"vjp"``, ``"hvp"``) as a driver takes them.

        Addresses of compiled functions, ``single`` for arrays of float32, or the plain Python functions of an
        un-jitted field.
        """
        if not self.compiled:
            return [getattr(self, name) for name in which]
        return [self._pointer(name, single) for name in which]

    def _pointer(self, name, single):
        if (name, single) not in self._pointers:
            function, signature = getattr(self, name), {"f": RHS, "jvp": RHS_JVP, "vjp": RHS_VJP, "hvp": RHS_HVP}[name]
            if single:
                function, signature = single_form(function), single_type(signature)
            self._pointers[name, single] = FunctionPointer(function, signature)
        return self._pointers[name, single]

    def new_tape(self, rows, dtype=np.float64):
        """Scratch for ``rows`` evaluations, shape (rows, tape_size), with the header in place."""
        tape = on_cache_lines(rows, self.tape_size, dtype) if self.tape_size else np.empty((rows, 0), dtype)
        if self.tape_header.size:
            tape[:, :self.tape_header.size] = self.tape_header
            if dtype == np.float32 and rows and np.any(tape[0, :self.tape_header.size] != self.tape_header):
                raise InvalidInputError(
                    f"field {self.name!r} is too large for float32: the integers in the header of its tape go up to "
                    f"{self.tape_header.max():.0f}, and float32 holds those up to 2^24; dtype='float64' works")
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
        while self._tapes and dtype == self._tapes[0].dtype:
            tape = self._tapes.pop()
            if tape.shape[0] >= rows:
                return tape
        return self.new_tape(rows, dtype)

    def keep_tape(self, tape):
        """Keep a tape for `take_tape`; one, so that memory does not grow."""
        if tape.size:
            self._tapes[:] = [tape]

    def __call__(self, t, y, theta):
        """dy/dt at one point, shape (n,): for reading and plotting, not for inner loops."""
        y = np.ascontiguousarray(y, dtype=np.float64)
        dy = np.empty_like(y)
        self.f(float(t), y, np.ascontiguousarray(theta, dtype=np.float64), self.new_tape(1)[0], dy)
        return dy

    def complex_form(self):
        """The field in the kernel form, valid for complex arrays."""
        return self.f if self.numpy_form is None else from_returning(self.numpy_form)

    def check_first_call(self, t, y, theta):
        """Call the user's function once with guards; what it does wrong is raised here, not found later.

        Raises
        ------
        InvalidInputError
            If it returns or writes a wrong shape, returns None, or changes ``y`` or ``theta``.
        """
        sizes = (y.size, theta.size)
        if self.is_shipped or sizes in self.checked_sizes:
            return
        check_right_hand_side(self, t, y, theta)
        self.checked_sizes.add(sizes)

    def check_derivatives(self, t, y, theta, *, second=False):
        """The same for its jvp and vjp, and with ``second`` for its hvp: what they return or write has the right form.

        Whether it is the right derivative is for `refnode.check_field` to say.

        Raises
        ------
        InvalidInputError
            If one returns None or another number of parts, or writes or returns another shape, or uses an index outside
            its arguments; if a vjp or hvp overwrites its bars.
        """
        sizes = ("second" if second else "derivatives", y.size, theta.size)
        if self.is_shipped or sizes in self.checked_sizes:
            return
        check_form(self, ("hvp",) if second else ("jvp", "vjp"), t, y, theta)
        self.checked_sizes.add(sizes)

    @property
    def returns_arrays(self):
        """Whether f is in the SciPy form, which makes a new array at every call."""
        return argument_count(self.user_f) == RETURNING["f"]


def on_cache_lines(rows, size, dtype):
    """An array (rows, size) that begins on a cache line, of which what vectors are loaded from had better not lie across two."""
    length = rows * size * np.dtype(dtype).itemsize
    room = np.empty(length + CACHE_LINE, np.uint8)
    first = -room.ctypes.data % CACHE_LINE
    return room[first:first + length].view(dtype).reshape(rows, size)
