"""Programs that differentiate their own steps, wrongly: a Dormand-Prince loop in complex numbers.

Every input is moved by i·1e-30 of its size in a column of its own, all columns take the same steps, and the imaginary part of what
comes out is the derivative of what the program did:

    frozen     h is real:              the derivative of the steps taken, under error control of y alone
    first      the first h is complex: the derivative leaks through the automatic first step
    control    every h is complex:     the derivative goes through the step-size control

The first is right where the steps that serve y serve the tangent, too. Real programs do all three; see docs/findings.md.
"""
import functools

import numpy as np
from scipy.integrate import RK45

from refnode.conformance.problem_functions import STEP, LossFunctions, function_of
from refnode.conformance.wrong_adjoints import MOST_CALLS, adjoint_answer, answer_of

WAYS = {"uncontrolled_tangent": "frozen", "hidden_forcing": "frozen", "step_heuristic_leak": "first",
        "differentiated_step_control": "control"}
COLUMNS = 128                           # more inputs are not tried: each is a column
BATCH = 4096                            # samples at rest of which a diluted norm is the mean
A, B, C, E = RK45.A, RK45.B, RK45.C, RK45.E
SAFETY, SMALLEST, LARGEST = 0.9, 0.2, 10.0
TRIES = 60                              # rejections one after the other


def applies(data, mistake):
    """Whether the mistake can be made on this problem, and no other with it."""
    if mistake == "batch_dilution":
        return True
    if len(data["y0"]) + len(data["theta"]) > COLUMNS or "field" in data["rhs"]:
        return False
    if mistake == "hidden_forcing" and all(data["theta"]):
        return False
    return "pieces" not in data["rhs"] or _is_continuous(data)


def _is_continuous(data):
    """Whether a switch by time leaves f without a jump: a program that does not see it is not wrong for that."""
    if "time" not in data["rhs"]["switch"]:
        return False
    theta, y = np.array(data["theta"], dtype=float), 1.0 + np.array(data["y0"], dtype=float)
    tau = function_of(data["rhs"]["switch"]["time"])(0.0, y, theta)
    before, after = ([function_of(text)(tau, y, theta) for text in piece["expr"]] for piece in data["rhs"]["pieces"])
    return bool(np.allclose(before, after, rtol=1e-14, atol=0.0))


def wrong_step_answer(data, rtol=1e-10, atol=1e-10, *, mistake):
    """The answer of a program with one of these mistakes, as data."""
    name = f"complex_dopri5[{mistake}]"
    if mistake == "batch_dilution":
        weaker = np.sqrt(BATCH / len(data["y0"]))           # the root of the mean over a batch of which one sample moves
        answer = adjoint_answer(data, max(1.0, weaker) * rtol, max(1.0, weaker) * atol)
        return {**answer, "tool": {"name": name}, "stats": {"rtol": rtol, "atol": atol}}
    loop = _ComplexSteps(data, rtol, atol, WAYS[mistake])
    ys, z1 = loop.solved()
    n, loss = loop.n, loop.loss
    seen, end = np.real(ys[..., 0]), np.real(z1[:n, 0])
    ys_bar, y1_bar = loss.cotangents(seen, end)
    both = (np.einsum("nk,nkm->m", ys_bar, ys.imag) + y1_bar @ z1[:n].imag + z1[n:].imag.sum(axis=0)) / loop.shift
    both = both + np.nan if loop.singular else both
    value = loss.value(seen, end) + float(np.real(z1[n:, 0]).sum())
    return answer_of(data, seen, value, {"y0": both[:n], "theta": both[n:]}, rtol, atol, name)


class _ComplexSteps:
    """One solve of all columns; a running cost is one more state."""

    def __init__(self, data, rtol, atol, way):
        y0, theta = np.array(data["y0"], dtype=float), np.array(data["theta"], dtype=float)
        self.n, m = y0.size, y0.size + theta.size
        x = np.append(y0, theta)
        self.shift = STEP * np.where(x == 0, 1.0, np.abs(x))
        inputs = x[:, None] + 1j * np.diag(self.shift)
        self.y0, self.theta = inputs[:self.n], inputs[self.n:]
        self.t0, self.t1 = float(data["t0"]), float(data["t1"])
        self.ts = [self.t1] if data["ts"] is None else [float(t) for t in data["ts"]]
        self.sign = 1.0 if self.t1 >= self.t0 else -1.0
        self.rate, self.loss = _rate_of(data["rhs"]), LossFunctions(data["loss"], y0.size, theta.size)
        self.rtol, self.atol, self.way, self.calls = rtol, atol, way, 0
        self.singular = False             # whether the derivative of a norm was taken at 0: 0 · inf

    def f(self, t, z):
        self.calls += 1
        if self.calls > MOST_CALLS:
            raise ArithmeticError(f"more than {MOST_CALLS} evaluations, at t = {np.real(t[0]):g}")
        y = z[:self.n]
        rows = list(self.rate(t, y, self.theta))
        for scale, cost in self.loss.running:
            rows.append(scale * cost.parts[0](t, y, self.theta))
        return np.array([np.broadcast_to(row, t.shape) for row in rows])

    def solved(self):
        """y at the observation times (n, K, m), and (y, q) at t1 (·, m)."""
        costs = len(self.loss.running)
        z = np.vstack([self.y0, np.zeros((costs, self.y0.shape[1]))]).astype(complex)
        t, knots = np.full(z.shape[1], self.t0, dtype=complex), sorted({self.t1, *self.ts}, key=lambda t: self.sign * t)
        k1, seen = self.f(t, z), {self.t0: z}
        h = self._detached(self._first_step(t, z, k1), self.way != "frozen")
        for knot in knots:
            while self.sign * (knot - t[0].real) > 0:
                t, z, k1, h = self._step(t, z, k1, h, knot)
            t, seen[knot] = np.full(t.shape, knot, dtype=complex), z
        return np.stack([seen[t][:self.n] for t in self.ts], axis=1), z

    def _detached(self, h, keep):
        return h if keep else h.real.astype(complex)

    def _step(self, t, z, k1, h, knot):
        """One accepted step; the last before a knot ends on it, exactly."""
        for _ in range(TRIES):
            last = self.sign * (t[0].real + 1.000001 * h[0].real - knot) >= 0
            used, k = (knot - t) if last else h, [k1]
            for a, c in zip(A[1:], C[1:]):
                k.append(self.f(t + c * used, z + used * sum(w * q for w, q in zip(a, k))))
            new = z + used * sum(w * q for w, q in zip(B, k))
            k.append(self.f(t + used, new))
            error = used * sum(w * q for w, q in zip(E, k))
            norm, factor = self._factor(z, new, error)
            if norm <= 1.0:
                return t + used, new, k[-1], (h if last and factor[0].real >= 1.0 else used * factor)
            h = used * factor
        raise ArithmeticError(f"{TRIES} rejections at t = {t[0].real:g}")

    def _factor(self, z, new, error):
        """The error norm, and what the step is multiplied by: complex where the control is differentiated."""
        scale = self.atol + self.rtol * _larger(z, new)
        norm = self._norm(error / scale, self.way == "control")
        size = norm[0].real
        factor = float(np.clip(SAFETY * size ** -0.2, SMALLEST, LARGEST)) if size > 0 else LARGEST
        fixed = self.way != "control" or factor in (SMALLEST, LARGEST)
        return size, np.full(norm.shape, factor, dtype=complex) if fixed else SAFETY * norm ** -0.2

    def _first_step(self, t, z, k1):
        """Hairer, Norsett & Wanner, Solving ODEs I, II.4: the automatic first step of an order-5 method."""
        scale = self.atol + self.rtol * _larger(z, z)
        d0, d1 = self._norm(z / scale), self._norm(k1 / scale)
        small = min(d0[0].real, d1[0].real) < 1e-5
        h = np.full(t.shape, 1e-6, dtype=complex) if small else 0.01 * d0 / d1
        moved = self.f(t + self.sign * h, z + self.sign * h * k1)
        d2 = self._norm((moved - k1) / scale) / h
        larger = d2 if d2[0].real > d1[0].real else d1
        other = (0.01 / larger) ** 0.2 if larger[0].real > 1e-15 else np.maximum(1e-6, 1e-3 * h.real).astype(complex)
        return self.sign * (100.0 * h if 100.0 * h[0].real < other[0].real else other)

    def _norm(self, x, differentiated=False):
        """The root of the mean square of each column. At 0 it has no derivative: real programs return NaN from there on."""
        if np.max(np.abs(x.real)) < STEP:
            self.singular = self.singular or differentiated
            return np.zeros(x.shape[1], dtype=complex)
        return np.sqrt(np.mean(x ** 2, axis=0))


def _larger(a, b):
    """max(|a|, |b|), with the derivative of the one it is."""
    a, b = (x * np.where(x.real < 0, -1.0, 1.0) for x in (a, b))
    return np.where(a.real >= b.real, a, b)


def _rate_of(rhs):
    """f(t, y, theta) of all columns, in complex numbers: a list of rows."""
    if "mlp" in rhs:
        return functools.partial(_perceptron, rhs["mlp"])
    pieces = [[function_of(text) for text in piece["expr"]] for piece in rhs.get("pieces", [rhs])]
    if len(pieces) == 1:
        return lambda t, y, theta: [part(t, y, theta) for part in pieces[0]]
    switch = function_of(rhs["switch"]["time"])

    def rate(t, y, theta):
        after = t[0].real >= np.real(switch(t, y, theta))[0]
        return [part(t, y, theta) for part in pieces[int(after)]]
    return rate


def _perceptron(network, t, y, theta):
    widths, start = network["layers"], 0
    x = np.vstack([y, t[None]]) if network.get("time_input") else y
    for i, rows in enumerate(widths[1:]):
        weights = theta[start:start + rows * len(x)].reshape(rows, len(x), -1)
        start += rows * len(x)
        x = np.einsum("oim,im->om", weights, x) + theta[start:start + rows]
        start += rows
        x = np.tanh(x) if i + 2 < len(widths) else x
    return x


WRONG_STEPS = {mistake: functools.partial(wrong_step_answer, mistake=mistake) for mistake in (*WAYS, "batch_dilution")}
