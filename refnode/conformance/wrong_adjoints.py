"""A continuous adjoint in SciPy with a switch for every known mistake: what the checker is tested on.

    lambda(t1) = dL/dy(t1),   lambda' = -(df/dy)ᵀ lambda,   lambda(tₖ⁻) = lambda(tₖ⁺) + dL/dy(tₖ)
    dL/dy0 = lambda(t0),      dL/dtheta = integral of (df/dtheta)ᵀ lambda over [t0, t1]

Without a mistake it is right to its tolerance. It shares no equation and no solver with refnode: the right-hand side
is read from the problem's text, and differentiated by complex steps. A running cost is one more state.
"""
import functools

import numpy as np
from scipy.integrate import solve_ivp

from refnode.conformance.problem_functions import STEP, LossFunctions, field_of, function_of
from refnode.problems.reference_problem import switches_of


MOST_CALLS = 100_000         # of the right-hand side or of its transpose: an explicit method on a stiff problem ends
SECOND = (1,)                # the switch that "one_switch_ignored" leaves out, counted from 0


def adjoint_answer(data, rtol=1e-10, atol=1e-10, mistake=None, solved=None, left_out=SECOND):
    """The answer to a problem as data (format "refnode.answer"), right or with one of `ADJOINT_MISTAKES`.

    `solved` is a dict in which forward solves are kept, for a caller who makes several mistakes on one problem; `left_out` are
    the numbers of the switches at which "one_switch_ignored" forgets the jump.
    """
    program = _Program(data, rtol, atol, mistake, left_out)
    ys, y1 = program.forward() if solved is None else program.forward_once(solved, data.get("sha256"))
    gradient = program.backward(*program.seeds(ys, y1))
    loss = program.loss.value(ys, y1[:program.n]) + y1[program.n:].sum()
    return answer_of(data, ys, loss, gradient, rtol, atol, f"scipy_adjoint[{mistake or 'right'}]")


def answer_of(data, ys, loss, gradient, rtol, atol, name):
    """An answer as data."""
    return {"format": "refnode.answer", "version": 1, "problem_sha256": data.get("sha256"), "tool": {"name": name},
            "truth": "exact", "y": np.asarray(ys).tolist(), "loss": float(loss),
            "grad": {key: np.asarray(value).tolist() for key, value in gradient.items()},
            "stats": {"rtol": rtol, "atol": atol}, "error": None}


class _Program:
    """One forward and one backward solve, interval by interval between observation times and switches."""

    def __init__(self, data, rtol, atol, mistake, left_out):
        self.y0, self.theta = np.array(data["y0"], dtype=float), np.array(data["theta"], dtype=float)
        self.n, self.p = self.y0.size, self.theta.size
        self.t0, self.t1 = float(data["t0"]), float(data["t1"])
        self.moving = data["ts"] is None
        self.ts = np.array([self.t1] if self.moving else data["ts"], dtype=float)
        self.pieces, self.loss = field_of(data, self.n, self.p), LossFunctions(data["loss"], self.n, self.p)
        self.switches, self.left_out = switches_of(data["rhs"]), left_out if mistake == "one_switch_ignored" else ()
        self.rtol, self.atol, self.mistake, self.intervals, self.calls = rtol, atol, mistake, [], 0

    # --- the right-hand side, with the running cost as last state ---

    def f(self, t, z, piece):
        if self.mistake == "time_cast_to_single":
            t = float(np.float32(t))
        dy = self.pieces[piece].f(t, z[:self.n], self.theta)
        return np.append(dy, self.loss.rate(t, z[:self.n], self.theta)) if self.loss.running else dy

    def pull(self, t, z, w, piece):
        """(df/dy)ᵀ w and (df/dtheta)ᵀ w."""
        if self.mistake == "time_cast_to_single":
            t = float(np.float32(t))
        y, v = z[:self.n], w[:self.n]
        y_bar, theta_bar = self.pieces[piece].pull(t, y, self.theta, v)
        if self.mistake == "component_term_dropped":
            theta_bar = self.pieces[piece].pull(t, y, self.theta, np.append(v[:-1], 0.0))[1]
        if self.mistake == "transposed_jacobian":
            y_bar = self.pieces[piece].push(t, y, self.theta, v)
        if self.mistake == "error_independent_of_tolerance":
            y_bar = 0.875 * y_bar
        if not self.loss.running:
            return y_bar, theta_bar
        y_cost, theta_cost = self.loss.rate_pull(t, y, self.theta)
        return np.append(y_bar + w[self.n] * y_cost, 0.0), theta_bar + w[self.n] * theta_cost

    # --- forward ---

    def forward(self):
        """y at the observation times (n, K), and (y, q) at t1; the intervals keep their dense output."""
        z = np.append(self.y0, 0.0) if self.loss.running else self.y0
        direction = 1.0 if self.t1 >= self.t0 else -1.0
        knots = np.unique(direction * np.concatenate([[self.t0, self.t1], self.ts])) * direction
        seen, piece, self.start = {self.t0: z}, 0, z
        for a, b in zip(knots[:-1], knots[1:]):
            while a != b:
                a, z, piece = self._advance(a, b, z, piece)
            seen[b] = z
        self.end = z
        return np.array([seen[t][:self.n] for t in self.ts]).T.reshape(self.n, -1), z

    def forward_once(self, solved, sha256):
        """`forward`, looked up where this problem, with the same right-hand side, was solved before."""
        key = sha256, self.rtol, self.atol, self.mistake == "time_cast_to_single"
        if sha256 is None or key not in solved:
            found = self.forward()
            solved[key] = found, self.intervals, self.start, self.end
        found, self.intervals, self.start, self.end = solved[key]
        return found

    def _advance(self, a, b, z, piece):
        """From a to b, or to the next switch if it comes first; the piece of the right-hand side changes there."""
        stop, event = b, None
        switch = self.switches[piece] if piece < len(self.switches) else {}
        if "time" in switch:
            tau = function_of(switch["time"])(a, z, self.theta)
            if tau <= a:
                return a, z, piece + 1
            stop = min(b, tau)
        if "state" in switch:
            g = function_of(switch["state"])
            event = lambda t, y: g(t, y, self.theta)       # noqa: E731
            event.terminal, event.direction = True, 1.0    # from below: behind a bounce the next switch starts at 0
        solved = self._solve(lambda t, y: self.f(t, y, piece), a, stop, z, self.atol,
                             dense_output=True, events=event)
        end, switched = solved.t[-1], solved.status == 1 or ("time" in switch and stop == tau)
        self.intervals.append((a, end, solved, piece, switched))
        return end, solved.y[:, -1], piece + switched

    def _solve(self, rate, a, b, start, atol, **options):
        def counted(t, x):
            self.calls += 1
            if self.calls > MOST_CALLS:
                raise ArithmeticError(f"more than {MOST_CALLS} evaluations, at t = {t:g}")
            return rate(t, x)

        solved = solve_ivp(counted, (a, b), start, method="DOP853", rtol=max(self.rtol, 3e-14), atol=atol, **options)
        if not solved.success:
            raise ArithmeticError(solved.message)
        return solved

    def seeds(self, ys, z1):
        """The jumps of lambda: one row for each observation, and its value at t1."""
        ys_bar, y1_bar = self.loss.cotangents(ys, z1[:self.n])
        self.right_seeds = ys_bar.T.copy(), y1_bar
        jumps, last = ys_bar.T.copy(), len(self.ts) - 1
        if self.mistake == "interior_jumps_missing":
            jumps[:-1] = 0.0
        if self.mistake in ("last_jump_missing", "last_jump_doubled"):
            jumps[last] *= 0.0 if self.mistake == "last_jump_missing" else 2.0
        if self.mistake == "first_jump_missing":
            jumps[0] = 0.0
        if self.mistake == "single_precision":
            jumps = jumps.astype(np.float32).astype(float)
        cost = 0.0 if self.mistake == "running_cost_missing" else 1.0
        return jumps, np.append(y1_bar, cost) if self.loss.running else y1_bar

    # --- backward ---

    def backward(self, jumps, lam):
        """The gradient from the jumps and lambda(t1)."""
        lam, theta_bar, t1_bar = lam.copy(), np.zeros(self.p), lam @ self.f(self.t1, self.end, self._last_piece())
        unit = self._cotangent_size(jumps, lam)
        atol = self.atol * (1.0 if self.mistake == "absolute_tolerance_on_adjoint" else unit)
        lam = self._jump(lam, jumps, self.t1)
        z_back = self.end
        for a, b, solved, piece, switched in reversed(self.intervals):
            if self.mistake == "stops_at_first_observation" and b == self.ts[0]:
                break
            if switched and self._is_seen(piece):
                lam, theta_bar = self._saltation(b, solved.y[:, -1], lam, theta_bar, piece)
            lam, part, z_back = self._pull_interval(a, b, solved, piece, lam, z_back, atol)
            theta_bar = theta_bar + part
            lam = self._jump(lam, jumps, a) if a in self.ts or a == self.t0 else lam
        return self._gradient(lam, theta_bar, t1_bar)

    def _cotangent_size(self, jumps, lam):
        """The largest dL/dy there is: of observations, of y(t1), and of a running cost at both ends."""
        seeds = [jumps, lam[:self.n]]
        if self.loss.running:
            seeds += [self.loss.rate_pull(t, z[:self.n], self.theta)[0] for t, z in ((self.t0, self.start), (self.t1, self.end))]
        return max(np.max(np.abs(seed), initial=0.0) for seed in seeds) or 1.0

    def _last_piece(self):
        return self.intervals[-1][3] + self.intervals[-1][4] if self.intervals else 0

    def _is_seen(self, number):
        """Whether the adjoint jumps at a switch."""
        ignored = "switch_time_ignored" if "time" in self.switches[number] else "state_switch_ignored"
        return self.mistake != ignored and number not in self.left_out

    def _jump(self, lam, jumps, t):
        """lambda += dL/dy(tₖ) for the observations at t."""
        lam = lam.copy()
        lam[:self.n] += jumps[self.ts == t].sum(axis=0)
        return lam

    def _pull_interval(self, a, b, solved, piece, lam, z_back, atol):
        """lambda and the parameter integral from b back to a."""
        m = lam.size
        if a == b:
            return lam, np.zeros(self.p), z_back
        path = solved.sol
        if self.mistake == "low_order_interpolation":
            def path(t):
                order = np.argsort(solved.t)
                return np.array([np.interp(t, solved.t[order], row[order]) for row in solved.y])

        def rate(t, x):
            z = x[m + self.p:] if self.mistake == "backsolve_drift" else path(t)
            y_bar, theta_bar = self.pull(t, z, x[:m], piece)
            rates = [-y_bar, -theta_bar]
            return np.concatenate(rates + [self.f(t, z, piece)] if self.mistake == "backsolve_drift" else rates)

        start, weights = [lam, np.zeros(self.p)], [np.full(m, atol), np.full(self.p, atol)]
        if self.mistake == "backsolve_drift":
            start, weights = start + [z_back], weights + [np.full(m, self.atol)]
        if self.mistake in ("quadrature_not_controlled", "first_order_quadrature"):
            weights[1] = np.full(self.p, 1e300)
        back = self._solve(rate, b, a, np.concatenate(start), np.concatenate(weights))
        x = back.y[:, -1]
        if self.mistake == "first_order_quadrature":
            rates = np.array([-self.pull(t, path(t), column[:m], piece)[1] for t, column in zip(back.t, back.y.T)])
            x[m:m + self.p] = np.diff(back.t) @ rates[:-1]
        return x[:m], x[m:m + self.p], x[m + self.p:]

    def _saltation(self, tau, z, lam, theta_bar, number):
        """The jump of lambda at a switch: what a shift of the switching time does, and what shifts it."""
        (kind, text), = self.switches[number].items()
        before, after = self.f(tau, z, number), self.f(tau, z, number + 1)
        step = STEP * 1j
        points = np.concatenate([z[:self.n], self.theta])[:, None] + step * np.eye(self.n + self.p)
        slopes = np.imag(function_of(text)(tau, points[:self.n], points[self.n:]) + np.zeros(self.n + self.p)) / STEP
        shift = lam @ (before - after)                       # d loss / d switching time
        if kind == "state":
            shift = -shift / (slopes[:self.n] @ before[:self.n])
        lam = lam.copy()
        lam[:self.n] += shift * slopes[:self.n]
        return lam, theta_bar + shift * slopes[self.n:]

    def _gradient(self, lam, theta_bar, t1_bar):
        """All derivatives; a moving time acts through f at that time."""
        ys_bar, _ = self.right_seeds
        times = [seed @ self._slope_at(t) for seed, t in zip(ys_bar, self.ts)]
        gradient = {"y0": lam[:self.n], "theta": theta_bar, "t0": float(-lam @ self.f(self.t0, self.start, 0)),
                    "t1": float(t1_bar + (times[0] if self.moving else 0.0))}
        if not self.moving:
            gradient["ts"] = np.array(times)
        return gradient

    def _slope_at(self, t):
        for a, b, solved, piece, switched in self.intervals:
            if min(a, b) <= t <= max(a, b):
                return self.f(t, solved.y[:, 0] if t == a else solved.y[:, -1], piece)[:self.n]
        return self.f(t, self.start, 0)[:self.n]


# --- mistakes made after the right gradient -----------------------------------------------------------

def _scaled(factor):
    def change(data, gradient):
        return {key: factor * np.asarray(value) for key, value in gradient.items()}
    return change


def _replaced(key, make):
    def change(data, gradient):
        return {**gradient, key: make(np.array(gradient[key], dtype=float))}
    return change


def _first_zero(theta_bar):
    theta_bar[0] = 0.0
    return theta_bar


def _mean(data, gradient):
    return _scaled(1.0 / (len(data["y0"]) * (1 if data["ts"] is None else len(data["ts"]))))(data, gradient)


def _nan(data, gradient):
    theta_bar = np.array(gradient["theta"], dtype=float)
    theta_bar[-1] = np.nan
    return {**gradient, "theta": theta_bar}


def _single(data, gradient):
    return {key: np.asarray(value, dtype=np.float32).astype(float) for key, value in gradient.items()}


AFTERWARDS = {
    "sign": _scaled(-1.0), "factor_two": _scaled(2.0), "factor_half": _scaled(0.5), "mean_for_sum": _mean,
    "zero_gradient": _scaled(0.0), "first_nan": _nan, "single_precision": _single,
    "permuted_parameters": _replaced("theta", lambda v: np.roll(v, 1)),
    "parameter_captured": _replaced("theta", _first_zero),
    "t0_gradient_sign": _replaced("t0", lambda v: -v),
    "t1_gradient_missing": _replaced("t1", lambda v: 0.0 * v),
    "loss_time_derivative_missing": _replaced("ts", lambda v: 0.0 * v),
}
ADJOINT_MISTAKES = (
    "interior_jumps_missing", "last_jump_missing", "last_jump_doubled", "first_jump_missing", "transposed_jacobian",
    "running_cost_missing", "first_order_quadrature", "component_term_dropped", "low_order_interpolation",
    "backsolve_drift", "error_independent_of_tolerance", "absolute_tolerance_on_adjoint", "quadrature_not_controlled",
    "stops_at_first_observation", "time_cast_to_single", "switch_time_ignored", "state_switch_ignored",
    "one_switch_ignored")


def wrong_answer(data, rtol=1e-10, atol=1e-10, *, mistake, solved=None):
    """The answer of a program with a mistake, as data; `solved` as for `adjoint_answer`."""
    answer = adjoint_answer(data, rtol, atol, mistake if mistake in ADJOINT_MISTAKES else None, solved)
    if mistake in AFTERWARDS:
        changed = AFTERWARDS[mistake](data, answer["grad"])
        answer["grad"] = {key: np.asarray(value).tolist() for key, value in changed.items()}
        answer["tool"] = {"name": f"scipy_adjoint[{mistake}]"}
    return answer


WRONG_ADJOINTS = {mistake: functools.partial(wrong_answer, mistake=mistake)
                  for mistake in (*AFTERWARDS, *ADJOINT_MISTAKES)}
