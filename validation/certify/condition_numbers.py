"""Condition numbers of the reference gradients, written to refnode/problems/condition_numbers.py.

    python validation/certify/condition_numbers.py [ID ...]

How much a local error of relative size eps moves the gradient g of the loss for x = (y0, theta): the state y and every
sensitivity column dy/dx_j |x_j| are kicked at 32 equispaced times from t0 to t1, each entry by eps (u + |entry|) with a
random sign, and

    kappa = max over draws, and over the blocks y0 and theta, of |D (g_kicked - g)| / (eps |D g|),

with D = diag |x_j|, 1 where x_j = 0; a block whose |D g| is less than a thousandth of the whole is judged by that share,
and one whose gradient is zero on purpose is left out. A method whose local errors meet a tolerance tol can be expected
to err by kappa tol; where that is more than 0.1 the problem cannot be tested at this tolerance. The unit u of a state is
1, or a power of two near its initial value where this is more than 2^10 off. Sensitivities jump where the right-hand
side does (saltation).
"""
import ast
import pathlib
import sys

import numpy as np
from scipy.integrate import solve_ivp

from refnode.problems.reference_problem import switches_of
from refnode.problems.reference_set import REFERENCE_PROBLEMS

KICKS, DRAWS, EPS = 32, 8, 1e-8
RTOL = 1e-12
NAMESPACE = {name: getattr(np, name) for name in ("sin", "cos", "tan", "exp", "log", "sqrt", "tanh", "sinh", "cosh", "pi")}
TABLE = pathlib.Path(__file__).resolve().parents[2] / "refnode" / "problems" / "condition_numbers.py"


# --- the right-hand side and its tangents ----------------------------------------------------------

class Flow:
    """y and S = dy/d(y0, theta) as one vector; of one piece where the right-hand side has several."""

    def __init__(self, record, piece=None):
        self.problem, self.piece = record.problem, piece
        self.theta = self.problem.theta
        self.n, self.p = self.problem.flow_y0.size, self.theta.size
        self.columns = self.n + self.p
        self.units = np.eye(self.columns)[:, self.n:].copy()
        self.field, self.tape = self.problem.flow_field, self.problem.flow_field.new_tape(1)[0]
        self.texts = None if piece is None else [compile(text, "text", "eval") for text in record.rhs["pieces"][piece]["expr"]]

    def start(self):
        return np.vstack([self.problem.flow_y0, np.eye(self.columns)[:, :self.n]])

    def rate(self, t, x):
        """d(y, S)/dt, shape (1 + columns, n): S a column of dy/dx in a row."""
        x = x.reshape(1 + self.columns, self.n)
        out = np.empty_like(x)
        if self.texts is not None:
            out[0] = self.f(t, x[0], self.theta)
            for j in range(self.columns):
                out[1 + j] = self.f(t, x[0] + 1e-30j * x[1 + j], self.theta + 1e-30j * self.units[j]).imag / 1e-30
            return out.ravel()
        y = np.ascontiguousarray(x[0])
        self.field.f(t, y, self.theta, self.tape, out[0])
        for j in range(self.columns):
            self.field.jvp(t, y, self.theta, 0.0, x[1 + j], self.units[j], self.tape, out[1 + j])
        return out.ravel()

    def f(self, t, y, theta):
        return np.array([eval(text, NAMESPACE, {"t": t, "y": y, "theta": theta}) + 0.0 * y[0] for text in self.texts])


# --- one integration, with kicks --------------------------------------------------------------------

def gradient_of(record, weights, signs):
    """dL/d(y0, theta), with kicks of EPS signs (weights + |entry|) at `KICKS` times; without, where signs is None."""
    problem = record.problem
    flow = Flow(record, 0 if "pieces" in record.rhs else None)
    kick_times = np.linspace(problem.t0, problem.t1, KICKS)
    stops = np.unique(np.concatenate([kick_times, problem.ts, [problem.t1]]))
    stops = stops if problem.t1 > problem.t0 else stops[::-1]
    x, t, seen = flow.start(), problem.t0, {}
    for stop in stops:
        flow, x = advance(record, flow, t, stop, x, weights)
        t = stop
        if signs is not None and stop in kick_times:
            k = int(np.flatnonzero(kick_times == stop)[0])
            x = x + EPS * signs[k] * (weights + np.abs(x))
        seen[stop] = x.copy()
    return contracted(problem, [seen[time] for time in problem.ts], seen[problem.t1])


def advance(record, flow, t, stop, x, weights):
    """The state at ``stop``; through the switches of a right-hand side in pieces, which change the flow."""
    if stop == t:
        return flow, x
    event = switch_event(record, flow) if flow.piece is not None and flow.piece < len(switches_of(record.rhs)) else None
    result = solve_ivp(flow.rate, (t, stop), x.ravel(), method="DOP853", rtol=RTOL, atol=(RTOL * weights).ravel(), events=event)
    assert result.success, (record.id, result.message)
    if result.status == 0:
        return flow, result.y[:, -1].reshape(x.shape)
    at, x = result.t[-1], result.y[:, -1].reshape(x.shape)
    later = Flow(record, flow.piece + 1)
    return advance(record, later, at, stop, salted(record, flow, later, at, x), weights)


def switch_event(record, flow):
    def event(t, x):
        return switch_value(record, flow.piece, t, x[:flow.n], flow.theta)
    event.terminal, event.direction = True, 1.0
    return event


def switch_value(record, number, t, y, theta):
    """What is below 0 before a switch."""
    (kind, text), = switches_of(record.rhs)[number].items()
    value = eval(compile(text, "text", "eval"), NAMESPACE, {"y": y, "theta": theta})
    return t - value if kind == "time" else value


def salted(record, flow, later, t, x):
    """(y, S) after the switch: dy/dx gains (f_before - f_after) dt*/dx, t* the time at which the switch is reached."""
    y, theta = x[0], flow.theta
    f_before, f_after = flow.f(t, y, theta), later.f(t, y, theta)
    step = 1e-30j
    rate = switch_value(record, flow.piece, t + step, y + step * f_before, theta).imag
    out = x.copy()
    for j in range(flow.columns):
        moved = switch_value(record, flow.piece, t, y + step * x[1 + j], theta + step * flow.units[j]).imag
        out[1 + j] -= (f_before - f_after) * moved / rate
    return out


def contracted(problem, observed, end):
    """dL/d(y0, theta) from y and S at the observations and at the end."""
    n, ys = problem.y0.size, np.array([x[0] for x in observed])
    ys_bar, y1_bar = problem.loss.vjp(ys[:, :n].T, end[0, :n])
    grad = end[1:, :n] @ y1_bar + sum(x[1:, :n] @ bar for x, bar in zip(observed, ys_bar.T))
    if problem.flow_y0.size > n:                            # a running cost is the last state
        grad = np.delete(grad + end[1:, n], n)
    return grad


# --- condition numbers -------------------------------------------------------------------------------

def unit(sizes):
    """1, or a power of two near a size that is more than 2^10 off it."""
    exponents = np.round(np.log2(np.where(sizes > 0.0, sizes, 1.0)))
    return np.where(np.abs(exponents) > 10, 2.0 ** exponents, 1.0)


def condition_number(record):
    problem = record.problem
    units, inputs = unit(np.abs(problem.flow_y0)), np.concatenate([problem.flow_y0, problem.theta])
    sizes = np.where(inputs == 0.0, 1.0, np.abs(inputs))
    weights = np.vstack([units, units / sizes[:, None]])
    scale = sizes if problem.flow_y0.size == problem.y0.size else np.delete(sizes, problem.y0.size)
    grad = gradient_of(record, weights, None)
    whole = np.linalg.norm(scale * grad)
    rng, worst = np.random.default_rng(0), 0.0
    for _ in range(DRAWS):
        kicked = gradient_of(record, weights, rng.choice([-1.0, 1.0], (KICKS, *weights.shape)))
        for name, block in zip(("y0", "theta"), np.split(np.arange(scale.size), [problem.y0.size])):
            if name in record.zero:
                continue
            size = max(np.linalg.norm((scale * grad)[block]), 1e-3 * whole)
            worst = max(worst, np.linalg.norm((scale * (kicked - grad))[block]) / (EPS * size))
    return float(f"{worst:.2g}")


def write(table):
    lines = [f'    "{id}": {table[id]!r},' for id in REFERENCE_PROBLEMS if id in table]
    head = '"""Condition numbers of the reference gradients, measured by `validation/certify/condition_numbers.py`."""'
    TABLE.write_text("\n".join([head, "", "CONDITION_NUMBERS = {", *lines, "}", ""]))


def main(ids):
    table = ast.literal_eval(TABLE.read_text().split("CONDITION_NUMBERS = ")[1])
    for id in ids or REFERENCE_PROBLEMS:
        table[id] = condition_number(REFERENCE_PROBLEMS[id])
        print(f"{id:40} {table[id]:.2g}", flush=True)
        write(table)


if __name__ == "__main__":
    main(sys.argv[1:])
