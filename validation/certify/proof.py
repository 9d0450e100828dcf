"""Enclosures of everything that is asked of a reference problem, from its form as data."""
from flint import arb, ctx

import dual_numbers as dual
from fields import Guard, Loss, field_of, filled
from sweeps import Point, backward, flat, forward, is_paired
from refnode.problems.reference_problem import switches_of
from switches import cross, located, pull_across


def enclosures(problem, settings):
    """{"y", "loss", "grad_y0", ...} of a problem as data; balls in nested lists. See `refnode.gradient` for the conventions.

    With "hvp_direction" also "hvp_y0" and "hvp_theta".
    """
    with ctx.workprec(settings.bits):
        return _Gradient(problem, settings).values()


class _Gradient:
    def __init__(self, problem, settings):
        direction = problem.get("hvp_direction") or {"y0": None, "theta": None}
        self.settings, self.y0 = settings, with_direction(problem["y0"], direction["y0"])
        self.theta = with_direction(problem["theta"], direction["theta"])
        self.theta_values = flat(self.theta, False)
        self.t0, self.t1 = arb(problem["t0"]), arb(problem["t1"])
        self.moves_with_end = problem["ts"] is None
        self.ts = [self.t1] if self.moves_with_end else [arb(t) for t in problem["ts"]]
        self.fields = field_of(problem["rhs"])
        self.fields = self.fields if isinstance(self.fields, list) else [self.fields]
        self.guards = [Guard(switch) for switch in switches_of(problem["rhs"])]
        self.several = isinstance(problem["rhs"].get("switch"), list)
        self.loss = Loss(problem["loss"], len(self.y0))

    def values(self):
        points = self._forward()
        at = dict(sorted((k, point) for point in points for what, k in point.stops if what == "observation"))
        ys, end = [at[k].y for k in range(len(self.ts))], points[-1]
        observed, self.ys_bar = self.loss.observed(ys)
        final, self.y1_bar = self.loss.final(self.t1, end.y)
        lam, grad, cost = backward(points, self.loss, self.theta, self._jump, self.settings)
        loss = [dual.parts(x)[0] for x in (observed, final, cost)]
        values = {"y": [list(row) for row in zip(*(flat(y, False) for y in ys))], "loss": loss[0] + loss[1] + loss[2],
                  "grad_y0": flat(lam, False), "grad_theta": flat(grad, False), **self._times(lam, at, end)}
        if is_paired(self.y0):
            values |= {"hvp_y0": filled(flat(lam, True)[len(lam):]), "hvp_theta": filled(flat(grad, True)[len(grad):])}
        if self.guards:
            times = [point.t for point in points for what, _ in point.stops if what == "switch"]
            values["event_time"] = times if self.several else times[0]
        return values

    def _forward(self):
        stops = [(t, ("observation", k)) for k, t in enumerate(self.ts)] + [(self.t1, ("end", 0))]
        points = [Point(self.t0, self.y0, self.fields[0])]
        start = points[0]
        for k, guard in enumerate(self.guards):
            found, stops = located(guard, self.fields[k], self.theta, start, stops, self.settings, k)
            points, switch = points + found, found[-1]
            start = Point(switch.t, cross(guard, self.fields[k:k + 2], switch.t, switch.y, self.theta), None)
        return points + forward(self.fields[-1], self.theta, start, stops, self.settings)

    def _jump(self, point, lam, grad):
        for what, k in point.stops:
            if what == "observation":
                lam = [a + b for a, b in zip(lam, self.ys_bar[k])]
            elif what == "end":
                lam = [a + b for a, b in zip(lam, self.y1_bar)]
            else:
                lam, grad = pull_across(self.guards[k], self.fields[k:k + 2], self.loss, point.t, point.y, self.theta, lam, grad)
        return lam, grad

    def _times(self, lam, at, end):
        """dL/dt0, dL/dt1, dL/dts: (JUMP-2) and (JUMP-3), a running cost as one more state."""
        def slope(field, point, bar):
            y = flat(point.y, False)
            return sum((a * b for a, b in zip(flat(bar, False), field.rates(point.t, y, self.theta_values))), arb(0))

        first = Point(self.t0, self.y0, self.fields[0])
        ends = [self.loss.running_value(point.t, flat(point.y, False), self.theta_values) for point in (first, end)]
        ts = [slope(at[k].field, at[k], bar) for k, bar in enumerate(self.ys_bar)]
        t1 = slope(end.field, end, self.y1_bar) + ends[1]
        return {"grad_t0": -slope(first.field, first, lam) - ends[0],
                "grad_t1": t1 + ts[0] if self.moves_with_end else t1, "grad_ts": [] if self.moves_with_end else ts}


def with_direction(values, direction):
    values = [arb(value) for value in values]
    return values if direction is None else [dual.Dual(x, arb(v)) for x, v in zip(values, direction)]
