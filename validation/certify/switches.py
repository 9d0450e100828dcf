"""Right-hand sides in pieces: where each switch happens, and what it does to tangents and to the adjoint.

The switch is the zero of G(t, y, theta). A moved input moves its time by dt = -(G_y dy + G_theta dtheta)/(G_t + G_y f⁻), and
the state behind it by (f⁻ - f⁺) dt. Transposed (saltation), with lam the adjoint behind the switch,

    a = lam·(f⁻ - f⁺)/(G_t + G_y f⁻),    lam⁻ = lam - a G_y,    grad_theta = grad_theta - a G_theta.

A given time tau(theta) is G = t - tau, and gives lam·(f⁻ - f⁺) dtau/dtheta. The state's own switch is found by Newton's method in
balls, which proves that there is one zero; that there is none before, by the sign of G on pieces that cover the steps. A later
switch may start at G = 0, as that of a ball that has just bounced: there G moves away from 0, by the sign of dG/dt on such a piece.
"""
from flint import arb

import dual_numbers as dual
from sweeps import adjoint_rates, flat, forward, is_paired, same, zeros_filled
from taylor_step import StepFailed

FINEST = 12                    # halvings of a step while the sign of G is sought


def located(guard, field, theta, start, stops, settings, number=0):
    """(points behind the start up to switch ``number``, the stops that are left)."""
    if guard.kind == "time":
        t_switch = guard.time(theta)
        onwards = stops[-1][0] - start.t
        if any(same(t, t_switch) for t, _ in stops):
            raise ValueError("an observation at the switching time has no derivative in that time")
        if not (t_switch - start.t) * onwards > 0:
            raise ValueError("the switch must not be where the integration starts")
        before = [stop for stop in stops if (stop[0] - t_switch) * onwards < 0]
        points = forward(field, theta, start, before + [(t_switch, ("switch", number))], settings)
    else:
        points = forward(field, theta, start, stops, settings, Watch(guard, theta, later=number > 0))
        if len([what for point in points for what in point.stops]) == len(stops):
            raise ValueError("the state does not reach its switch")
        points[-1].stops.append(("switch", number))
    met = {what for point in [start, *points] for what in point.stops}
    return points, [stop for stop in stops if stop[1] not in met]


class Watch:
    """Looks for a zero of G in every step; called by `sweeps.forward`."""

    def __init__(self, guard, theta, later=False):
        self.guard, self.theta = guard, flat(theta, False)
        self.sign = -1 if later else None           # a later switch is reached from below, and may be 0 where it starts

    def __call__(self, known, expansion, t, h):
        """(part of h to go, whether the switch is there): a ball that holds the switch, or, where that lies too near the
        end of the step, a part before it. None if the step has no switch."""
        def value(s):
            return self.guard.value(t + s, self._state(known, expansion, s), self.theta)

        if self.sign is None:
            start = value(arb(0))
            self.sign = 1 if start > 0 else -1 if start < 0 else 0
            if self.sign == 0:
                raise ValueError("the switch must not be where the integration starts")
        elif self.sign < 0 and value(arb(0)) > 0:
            raise ValueError("the text of a later switch is above 0 before it")

        def slope(s):
            return self._slope(known, expansion, t, s)

        first = self._first_doubt(value, slope, arb(0), h, 0)
        if first is None:
            return None
        if (abs(first[0]) > 0.875 * abs(h)):
            return 0.75 * h, False
        return self._newton(value, known, expansion, t, *first), True

    def _state(self, known, expansion, s):
        return known.hull_at(expansion, s)[:known.n]

    def _first_doubt(self, value, slope, s, h, depth):
        """The first part [s, s + h] of the finest subdivision on which G may reach 0, or None; it cannot while it moves away."""
        part = s.union(s + h)
        if value(part) * self.sign > 0:
            return None
        if depth == FINEST:
            return None if slope(part) * h * self.sign > 0 else (s, h)
        half = h / 2
        return (self._first_doubt(value, slope, s, half, depth + 1)
                or self._first_doubt(value, slope, s + half, half, depth + 1))

    def _newton(self, value, known, expansion, t, s, piece):
        """S' = m - G(m)/G'(S) inside S proves one zero in S; repeated while it gains."""
        enclosure = (s - piece).union(s + 4 * piece)
        proven = False
        for _ in range(60):
            middle = enclosure.mid()
            step = middle - value(middle) / self._slope(known, expansion, t, enclosure)
            proven = proven or enclosure.contains_interior(step)
            smaller = enclosure.intersection(step)
            if proven and smaller.rad() >= 0.9 * enclosure.rad():
                return smaller
            enclosure = smaller
        raise StepFailed("the switch was not enclosed")

    def _slope(self, known, expansion, t, s):
        y = self._state(known, expansion, s)
        return crossing_speed(self.guard.gradient(t + s, y, self.theta), known.field.rates(t + s, y, self.theta))


def crossing_speed(gradient, rates):
    """G_t + G_y f."""
    g_t, g_y, _ = gradient
    return g_t + sum((a * b for a, b in zip(g_y, rates)), arb(0))


# --- what it does -----------------------------------------------------------------------------------

def cross(guard, fields, t, y, theta):
    """The state behind the switch: its values go on, its tangents jump by (f⁻ - f⁺) dt."""
    if not is_paired(y):
        return y
    t_tan, before, after = _moved(guard, fields, t, y, theta)
    return [dual.Dual(x.value, x.tangent + (f - g) * t_tan) for x, f, g in zip(y, before, after)]


def _moved(guard, fields, t, y, theta):
    """Tangent of the switching time, and the rates before and after."""
    y_values, theta_values = flat(y, False), flat(theta, False)
    before, after = (zeros_filled(field.rates(t, y_values, theta_values)) for field in fields)
    gradient = guard.gradient(t, y_values, theta_values)
    tangents = zeros_filled(flat(y, True)[len(y):] + flat(theta, True)[len(theta):])
    pushed = sum((a * b for a, b in zip(gradient[1] + gradient[2], tangents)), arb(0))
    return -pushed / crossing_speed(gradient, before), before, after


def pull_across(guard, fields, loss, t, y, theta, lam, grad):
    """(lam, grad) before the switch from those behind; y is the state before it."""
    if not is_paired(y):
        return _salted(guard, fields, t, y, theta, lam, grad)
    t_tan, before, _ = _moved(guard, fields, t, y, theta)
    values = [flat(x, False) for x in (y, theta, lam)]
    _, lam_rates, theta_bars = _adjoint_at(fields[1], loss, t, *values)
    moving_y = [dual.Dual(x.value, x.tangent + f * t_tan) for x, f in zip(y, before)]
    moving_lam = [dual.Dual(x.value, x.tangent + rate * t_tan) for x, rate in zip(lam, lam_rates)]
    lam, grad = _salted(guard, fields, dual.Dual(t, t_tan), moving_y, theta, moving_lam, grad)
    _, lam_rates, theta_bars_before = _adjoint_at(fields[0], loss, t, values[0], values[1], flat(lam, False))
    lam = [dual.Dual(x.value, x.tangent - rate * t_tan) for x, rate in zip(lam, lam_rates)]
    grad = [dual.Dual(x.value, x.tangent + (a - b) * t_tan) for x, a, b in zip(grad, theta_bars_before, theta_bars)]
    return lam, grad


def _adjoint_at(field, loss, t, y, theta, lam):
    rates, lam_rates, theta_bars, _ = adjoint_rates(field, loss, t, y, theta, lam)
    return zeros_filled(rates), zeros_filled(lam_rates), zeros_filled(theta_bars)


def _salted(guard, fields, t, y, theta, lam, grad):
    before, after = (zeros_filled(field.rates(t, y, theta)) for field in fields)
    gradient = guard.gradient(t, y, theta)
    a = sum((x * (f - g) for x, f, g in zip(lam, before, after)), arb(0)) * dual.inverse(crossing_speed(gradient, before))
    return [x - a * g for x, g in zip(lam, gradient[1])], [x - a * g for x, g in zip(grad, gradient[2])]
