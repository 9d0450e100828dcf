"""Events of `solve_ivp`: zeros of functions of (t, y), located on the dense output as SciPy does."""
import numpy as np

from refnode.errors import InvalidInputError, InvalidTypeError
from refnode.solve.run import where

EPS = np.finfo(float).eps


class Events:
    """A list of event functions and what has happened to them so far."""

    def __init__(self, functions, args):
        functions = [functions] if callable(functions) else list(functions)
        for function in functions:
            if not callable(function):
                raise InvalidTypeError(f"events must be callable, found {type(function).__name__}")
        self.functions = [_guarded(function, args, index, self) for index, function in enumerate(functions)]
        self.steps = 0
        self.max_events = [_max_events(function) for function in functions]
        self.direction = np.array([getattr(function, "direction", 0) for function in functions], dtype=float)
        self.t = [[] for _ in functions]
        self.y = [[] for _ in functions]

    def start(self, t, y):
        self.g = np.array([function(t, y) for function in self.functions], dtype=float)

    def step(self, dense, t_old, t, y):
        """Locate the events of one step; returns the time of a terminal event, or None."""
        self.steps += 1
        g_old, self.g = self.g, np.array([function(t, y) for function in self.functions], dtype=float)
        roots = [(self._root(index, dense, t_old, t), index) for index in self._active(g_old)]
        for root, index in sorted(roots, reverse=bool(t < t_old)):
            self.t[index].append(root)
            self.y[index].append(dense(root))
            if len(self.t[index]) >= self.max_events[index]:
                return root
        return None

    def _active(self, g_old):
        up, down = (g_old <= 0) & (self.g >= 0), (g_old >= 0) & (self.g <= 0)
        either = up | down
        wanted = (up & (self.direction > 0)) | (down & (self.direction < 0)) | (either & (self.direction == 0))
        return np.flatnonzero(wanted)

    def _root(self, index, dense, t_old, t):
        from scipy.optimize import brentq       # late: it takes longer to import than all the rest
        return brentq(lambda s: self.functions[index](s, dense(s)), t_old, t, xtol=4 * EPS, rtol=4 * EPS)

    def arrays(self):
        return [np.asarray(t) for t in self.t], [np.asarray(y) for y in self.y]


def _guarded(function, args, index, events):
    """``g(t, y)`` of an event; an exception in it carries a note where it happened."""
    def g(t, y):
        try:
            return function(t, y, *args)
        except Exception as error:
            error.add_note(where(f"event {index}", t, events.steps))
            raise
    return g


def _max_events(function):
    """How many occurrences end the solve: none by default, one for ``terminal = True``, or a number."""
    terminal = getattr(function, "terminal", None)
    if terminal is None or terminal == 0:
        return np.inf
    if int(terminal) == terminal and terminal > 0:
        return int(terminal)
    raise InvalidInputError("The `terminal` attribute of each event must be a boolean or positive integer")
