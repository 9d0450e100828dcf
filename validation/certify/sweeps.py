"""The state forwards, and the adjoint backwards, in validated steps.

Forwards y, and its tangent along the direction of the Hessian-vector product, is enclosed at the end of every step.
Backwards, from t_{k+1} to t_k, the system

    y' = f,   lam' = -(df/dy)ᵀ lam - dr/dy,     and the integrals of  (df/dtheta)ᵀ lam + dr/dtheta  and of  r

is expanded at t_{k+1}, with y(t_{k+1}) from the forward pass: y is made afresh at every step, so that solving it backwards
accumulates nothing. With tangents every quantity is a pair, and the tangents of the gradient are the Hessian-vector product.

Sets (`parallelepiped`) carry what is not known of y from step to step: by the mean value theorem the flow Phi of a step maps
m + d into Phi(m) + DPhi(hull) d. Phi(m) starts at a point; DPhi solves the variational equation from a ball around the set
and needs few digits, because d is tiny. The adjoint is linear, lam(t_k) = DPhiᵀ lam(t_{k+1}) + ..., so the same matrix carries
its deviation. Without sets, balls go through the steps as they are, and more bits pay for it.
"""
import dataclasses
import math

from flint import arb, arb_mat, ctx

import dual_numbers as dual
from parallelepiped import SET_BITS, Parallelepiped, identity
from taylor_step import Expansion, StepFailed

SLACK = 8                      # binary digits by which a tail may miss what was asked
FLOW_TAIL = 2.0 ** -30         # of the derivative of the flow, which multiplies deviations only


@dataclasses.dataclass
class Settings:
    order: int
    bits: int                  # of the arithmetic
    digits: int                # binary digits asked of each step's tail
    sets: bool = True          # whether sets carry what is not known
    report: object = lambda what, t: None
    steps: int = 0


@dataclasses.dataclass
class Point:
    """The state at one time of the grid, the field that led there, and what happens there."""

    t: object
    y: list
    field: object
    stops: list = dataclasses.field(default_factory=list)
    flow: object = None        # matrix of the derivative of the step that led there


def flat(elements, paired):
    """Values, and behind them tangents if there are any; absent ones are zero."""
    values = [dual.parts(x)[0] for x in elements]
    return values + [getattr(x, "tangent", None) for x in elements] if paired else values


def unflat(values, paired):
    """`flat` undone."""
    half = len(values) // 2
    return [dual.Dual(*both) for both in zip(values[:half], values[half:])] if paired else list(values)


def is_paired(elements):
    return any(isinstance(x, dual.Dual) for x in elements)


def zeros_filled(values):
    return [arb(0) if value is None else value for value in values]


# --- the systems ------------------------------------------------------------------------------------

def flow_system(field, theta, paired):
    """y' = f(t, y, theta), of values or of pairs."""
    def system(t, unknowns):
        return flat(field.rates(t, unflat(unknowns, paired), theta), paired), []
    return system


def adjoint_system(field, loss, theta, paired):
    """y and lam; the extras are the rates of the gradient in theta, and of the running cost."""
    def system(t, unknowns):
        half = len(unknowns) // 2
        y, lam = unflat(unknowns[:half], paired), unflat(unknowns[half:], paired)
        rates, lam_rates, theta_bars, cost = adjoint_rates(field, loss, t, y, theta, lam)
        return flat(rates, paired) + flat(lam_rates, paired), flat(theta_bars, paired) + [dual.parts(cost)[0]]
    return system


def adjoint_rates(field, loss, t, y, theta, lam):
    """(y', lam', (df/dtheta)ᵀ lam + dr/dtheta, r)."""
    rates, y_bars, theta_bars = field.pull(t, y, theta, lam)
    cost = loss.pull_running(t, y, theta, y_bars, theta_bars) if loss else None
    return rates, [None if bar is None else -bar for bar in y_bars], theta_bars, cost


def variational_system(field, theta, paired, n):
    """y, and the columns of dy/dy(t_k), which start as unit vectors; with pairs also their tangents."""
    def system(t, unknowns):
        size = len(unknowns) // (n + 1)
        y, *columns = [unflat(unknowns[i:i + size], paired) for i in range(0, len(unknowns), size)]
        states = [dual.Dual(y[i], dual.Bundle([x[i] for x in columns])) for i in range(n)]
        rates = [dual.parts(rate) for rate in field.rates(t, states, [dual.Dual(x, None) for x in theta])]
        tangents = [[None if bundle is None else bundle.entries[j] for _, bundle in rates] for j in range(n)]
        return flat([rate for rate, _ in rates], paired) + sum((flat(x, paired) for x in tangents), []), []
    return system


# --- steps ------------------------------------------------------------------------------------------

def step(system, t, starts, remaining, settings, also=lambda h: True):
    """One validated step towards t + remaining, all of it if the series allows: (expansion, h).

    ``also(h)`` says whether something else can be validated on the same step.
    """
    expansion = Expansion(settings.order, t, starts, system)
    length, whole = expansion.step_length(settings.digits), float(abs(remaining).upper())
    settings.steps += 1
    for _ in range(60):
        h = remaining if length >= whole else arb(_rounded(length)) * (1 if remaining > 0 else -1)
        if (expansion.validate(abs(h).upper()) and expansion.excess() <= 2.0 ** (SLACK - settings.digits) and also(h)):
            return expansion, h
        length = 0.8 * min(length, whole)
    raise StepFailed(f"no step from t = {t.str(10)} could be validated")


def _rounded(length):
    """The length with eight binary digits, so that times stay short."""
    mantissa, exponent = math.frexp(length)
    return math.ldexp(int(mantissa * 256), exponent - 8)


def same(t, t_other):
    return (t - t_other).contains(0)


class StateSet:
    """What is known of the flat state, and how it is carried over a step: by a set, or by balls alone."""

    def __init__(self, field, theta, y, settings):
        self.field, self.theta, self.settings = field, theta, settings
        self.paired, self.n = is_paired(y), len(y)
        self.system = flow_system(field, theta, self.paired)
        self.balls = zeros_filled(flat(y, self.paired))
        self.known = Parallelepiped.of(self.balls) if settings.sets else None
        self.flow = None

    def step(self, t, remaining):
        """(expansion, h) of a step from the midpoint of the set; `move` then takes it."""
        starts = self.known.midpoint if self.known else self.balls
        also = self._flow_matrix(t) if self.known else lambda h: True
        return step(self.system, t, starts, remaining, self.settings, also)

    def move(self, expansion, h):
        image = expansion.at(h)
        if not self.known:
            self.balls = image
            return
        self.flow = self._matrix(h)
        self.known = self.known.mapped(image, self.flow, [unknown.size for unknown in expansion.unknowns])
        self.balls = self.known.hull()

    def state(self):
        return unflat(self.balls, self.paired)

    def hull_at(self, expansion, h):
        """Balls around the state at h, inside a step."""
        image = expansion.at(h)
        if not self.known:
            return image
        with ctx.workprec(SET_BITS):
            moved = self._matrix(h) * column_of(self.known.deviation())
        return [x + moved[i, 0] for i, x in enumerate(image)]

    def _flow_matrix(self, t):
        """Prepares the derivative of the flow from a ball around the set, in few bits: of low order if that serves the whole step,
        else, on a stiff equation, of a higher one. Returns what says whether it is valid."""
        orders = [self.settings.order] if self.n == 1 else [self.settings.order // 3, self.settings.order // 2]
        self.derivative = self._derivative(t, orders.pop(0))

        def also(h):
            if self._holds(h):
                return True
            if orders:
                self.derivative = self._derivative(t, orders.pop(0))
                return self._holds(h)
            return False
        return also

    def _derivative(self, t, order):
        size = len(self.balls)
        with ctx.workprec(SET_BITS):
            columns = [arb(int(i == j)) for j in range(self.n) for i in range(size)]
            return Expansion(order, t, [x + 0 for x in self.balls] + columns,
                             variational_system(self.field, self.theta, self.paired, self.n))

    def _holds(self, h):
        with ctx.workprec(SET_BITS):
            return self.derivative.validate(abs(h).upper()) and self.derivative.excess() <= FLOW_TAIL

    def _matrix(self, h):
        """d(y, y_tan)(t + h) / d(y, y_tan)(t): [[M, 0], [M_tan, M]], or M alone."""
        size, n = len(self.balls), self.n
        with ctx.workprec(SET_BITS):
            values = self.derivative.at(h)[size:]
        entries = [[values[j * size + i] for j in range(n)] for i in range(size)]
        if self.paired:
            entries = [row + [arb(0)] * n for row in entries[:n]] + [entries[n + i] + entries[i] for i in range(n)]
        return arb_mat(entries)


def column_of(entries):
    return arb_mat(len(entries), 1, entries)


def forward(field, theta, start, stops, settings, watch=None):
    """Points of the grid behind ``start`` through ``stops``, a list of (t, what happens there).

    ``watch(known, expansion, t, h)`` may shorten a step: it returns None, or the part of h to go and whether that is the end.
    """
    here, points, known = start, [], StateSet(field, theta, start.y, settings)
    for t_stop, what in stops:
        while not same(here.t, t_stop):
            expansion, h = known.step(here.t, t_stop - here.t)
            part, is_end = (watch(known, expansion, here.t, h) if watch else None) or (h, False)
            known.move(expansion, part)
            t = t_stop if part is h and same(here.t + h, t_stop) else here.t + part
            here = Point(t, known.state(), field, flow=known.flow)
            points.append(here)
            settings.report("forward", t)
            if is_end:
                return points
        here.stops.append(what)
    return points


# --- backwards --------------------------------------------------------------------------------------

class AdjointSet:
    """What is known of lam, the gradient in theta and the running cost."""

    def __init__(self, loss, theta, n, paired, settings):
        self.loss, self.theta, self.n, self.paired, self.settings = loss, theta, n, paired, settings
        zero = dual.Dual(arb(0), arb(0)) if paired else arb(0)
        self.grad, self.cost, self.balls = [zero] * len(theta), arb(0), [arb(0)] * (2 * n if paired else n)
        self.known = Parallelepiped.of(self.balls) if settings.sets else None

    def lam(self):
        return unflat(self.balls, self.paired)

    def jump(self, jumps, point):
        """``jumps(point, lam, grad) -> lam, grad`` at a point: of the set, the midpoint jumps; the deviation only where a
        switch turns it."""
        if not point.stops:
            return
        lam, self.grad = jumps(point, self.lam(), self.grad)
        self.balls = zeros_filled(flat(lam, self.paired))
        if self.known and any(what == "switch" for what, _ in point.stops):
            self.known = Parallelepiped.of(self.balls)
        elif self.known:
            lam, _ = jumps(point, unflat(self.known.midpoint, self.paired), self.grad)
            image = zeros_filled(flat(lam, self.paired))
            self.known = self.known.mapped(image, identity(len(image)), [abs(x).upper() + arb(2) ** -2000 for x in image])
            self.balls = self.known.hull()

    def carry(self, here, to):
        """From the point ``here`` to the earlier ``to``."""
        start = self.known.midpoint if self.known else self.balls
        image, sizes, increments = self._integrated(here, to, start, self.loss, self.settings)
        self._add(increments)
        if not self.known:
            self.balls = image
            return
        if not self.known.is_point():                 # the equations are linear: the deviation goes by itself, without costs
            few = dataclasses.replace(self.settings, order=self.settings.order // 2, digits=40, sets=False)
            with ctx.workprec(SET_BITS):
                _, _, increments = self._integrated(here, to, self.known.deviation(), None, few)
            self._add(increments)
        self.known = self.known.mapped(image, self._matrix(here.flow), sizes)
        self.balls = self.known.hull()

    def _add(self, increments):
        *increments, cost = increments
        self.grad = [g - increment for g, increment in zip(self.grad, unflat(increments, self.paired))]
        self.cost = self.cost - cost

    def _integrated(self, here, to, start, loss, settings):
        """lam at ``to`` from a start at ``here``, its sizes, and the integrals on the way."""
        system, t = adjoint_system(here.field, loss, self.theta, self.paired), here.t
        values, half, total = zeros_filled(flat(here.y, self.paired)) + list(start), len(self.balls), None
        while not same(t, to.t):
            expansion, h = step(system, t, values, to.t - t, settings)
            increments = expansion.integrals(h)
            total = increments if total is None else [a + b for a, b in zip(total, increments)]
            values, t = expansion.at(h), t + h
        return values[half:], [unknown.size for unknown in expansion.unknowns[half:]], total

    def _matrix(self, flow):
        """The transposed flow on (lam, lam_tan): [[Mᵀ, 0], [M_tanᵀ, Mᵀ]]."""
        if not self.paired:
            return flow.transpose()
        n = self.n
        straight = [[flow[j, i] for j in range(n)] for i in range(n)]
        mixed = [[flow[n + j, i] for j in range(n)] for i in range(n)]
        return arb_mat([row + [arb(0)] * n for row in straight] + [mixed[i] + straight[i] for i in range(n)])


def backward(points, loss, theta, jumps, settings):
    """The adjoint from the last point to the first: (lam, gradient in theta, running cost)."""
    adjoint = AdjointSet(loss, theta, len(points[0].y), is_paired(points[0].y), settings)
    for here, to in zip(points[:0:-1], points[-2::-1]):
        adjoint.jump(jumps, here)
        adjoint.carry(here, to)
        settings.report("backward", to.t)
    adjoint.jump(jumps, points[0])
    return adjoint.lam(), adjoint.grad, adjoint.cost
