"""The adaptive program once more, in plain NumPy and complex numbers: the witness of the truth `through`.

Written from its description, it shares no line with refnode's loop, and no hand-written derivative. Comparisons
look at real parts, moduli and maxima follow the branch they are on: a complex step through it is the derivative
of the program, as long as no decision flips.
"""
import numpy as np

from refnode.evidence.references import STEP, columns_form
from refnode.evidence.row import EPS, input_vector, split_inputs
from refnode.solve.step_size import CONTROLLERS
from refnode.steppers.tableaus import TABLEAUS

DRAWS = 6            # of inputs moved by an ulp


def modulus(x):
    """|x|, with the slope 0 at 0, as (THR-1) takes it."""
    return np.sign(np.real(x)) * x


def larger(x, y):
    return np.where(np.real(x) >= np.real(y), x, y)


def smaller(x, y):
    return np.where(np.real(x) <= np.real(y), x, y)


def rms(x):
    """Over the components, column by column."""
    return np.sqrt(np.sum(x * x, axis=0) / x.shape[0])


def first(x):
    """What a decision looks at: the real part, which is the same in every column."""
    return np.real(x[0])


class AdaptiveProgram:
    """A solve of a problem by error control, for M complex inputs side by side, one in a column.

    An input is (y0, theta, t0, t1, ts), as in `input_vector`. The columns may differ in their imaginary parts
    only, so that all take the same decisions.
    """

    def __init__(self, problem, method="dopri5", rtol=1e-6, atol=1e-9, controller="I", first_step=None,
                 max_step=np.inf, tstops=False, n_steps=None, columns=None, dtype=complex):
        self.problem, self.table, self.rtol, self.atol = problem, TABLEAUS[method], rtol, atol
        self.columns, self.dtype = columns or columns_form(problem.flow_field), dtype
        self.exponent = 1.0 / (self.table.error_order + 1)
        self.betas = self.exponent * np.array(CONTROLLERS[controller])
        self.first_step, self.max_step, self.tstops, self.n_steps = first_step, max_step, tstops, n_steps
        self.A, self.b, self.c, self.E = (np.asarray(x, dtype=float) for x in (
            self.table.A_array, self.table.b, self.table.c, self.table.E_exact))
        self.A_extra, self.c_extra, self.P = (np.asarray(x, dtype=float) for x in (
            self.table.A_extra_exact, self.table.c_extra_exact, self.table.P_exact))

    # --- one step: k (s + 1, n, M), y (n, M), t and h (M,)

    def f(self, t, y):
        return self.columns(t if t.size > 1 else t[0], y, self.theta)

    def weight(self, y, y1):
        return self.atol + self.rtol * larger(modulus(y), modulus(y1))

    def step(self, t, h, y, k0):
        """Slopes and the new state."""
        k = [k0]
        for i in range(1, len(self.b)):
            k.append(self.f(t + self.c[i] * h, y + h * sum(self.A[i, j] * k[j] for j in range(i))))
        y1 = y + h * sum(self.b[j] * k[j] for j in range(len(self.b)))
        return np.array([*k, self.f(t + h, y1)]), y1

    def error(self, h, k, y, y1):
        """The norm of the error estimate; of DOP853 that of its two."""
        e5, e3 = (rms(h * np.tensordot(row, k, 1) / self.weight(y, y1)) for row in self.E)
        return e5 if not np.any(self.E[1]) else e5 ** 2 / np.sqrt(e5 ** 2 + 0.01 * e3 ** 2)

    def automatic_first_step(self, t0, t1, y0, f0):
        sign, length = np.sign(first(t1 - t0)), modulus(t1 - t0)
        weight = self.weight(y0, y0)
        d0, d1 = rms(y0 / weight), rms(f0 / weight)
        h0 = 1e-6 + 0.0 * d0 if min(first(d0), first(d1)) < 1e-5 else 0.01 * d0 / d1
        h0 = smaller(h0, length)
        d2 = rms((self.f(t0 + sign * h0, y0 + sign * h0 * f0) - f0) / weight) / h0
        h1 = (0.01 / larger(d1, d2)) ** self.exponent
        return smaller(smaller(100.0 * h0, h1), smaller(length, self.max_step))

    def dense(self, t, h, y, k, at):
        """The interpolant of a step at any time, its further slopes included."""
        for row, node in zip(self.A_extra, self.c_extra):
            k = np.concatenate([k, self.f(t + node * h, y + h * np.tensordot(row[:len(k)], k, 1))[None]])
        sigma = (at - t) / h
        weights = self.P @ sigma ** np.arange(1, self.P.shape[1] + 1)[:, None]
        return y + h * np.einsum("im,inm->nm", weights, k)

    # --- all steps

    def steps(self, t, t1, ts, y, k0):
        """(t, h, k, y, the end of the step, y there, the attempts rejected before), step by step."""
        advance = self._given if self.n_steps else self._controlled
        for t_next, h, k, y1, rejected in advance(t, t1, ts, y, k0):
            yield t, h, k, y, t_next, y1, rejected
            t, y = t_next, y1

    def _given(self, t0, t1, ts, y, k0):
        """Equal steps, whose length moves with the interval."""
        h, t = (t1 - t0) / self.n_steps, t0
        for i in range(self.n_steps):
            t_next = t0 + (i + 1) / self.n_steps * (t1 - t0) if i + 1 < self.n_steps else t1
            k, y1 = self.step(t, t_next - t, y, k0)
            yield t_next, h, k, y1, 0
            t, y, k0 = t_next, y1, k[-1]

    def _controlled(self, t, t1, ts, y, k0):
        """Steps that the controller chooses, the last to t1, and with ``tstops`` to every observation."""
        sign = np.sign(first(t1 - t))
        size = self.automatic_first_step(t, t1, y, k0) if self.first_step is None else self.first_step + 0.0 * t
        errors = [1.0, 1.0]
        while first(t) != first(t1):
            ahead = [at for at in ts if self.tstops and sign * first(at - t) > 0.0]
            target, tried, rejected = ahead[0] if ahead else t1, smaller(size, self.max_step), 0
            while True:
                cut = sign * first(t + sign * tried - target) > 0.0
                h = target - t if cut else sign * tried
                k, y1 = self.step(t, h, y, k0)
                error = self.error(h, k, y, y1)
                if first(error) < 1.0:
                    break
                rejected += 1
                tried = modulus(h) * larger(0.2, 0.9 * error ** -self.exponent)
            size = modulus(h) * self._factor(error, errors, rejected)
            size, errors = larger(size, tried) if cut else size, [larger(error, 1e-4), errors[0]]
            t_next = target if cut else t + h
            yield t_next, h, k, y1, rejected
            t, y, k0 = t_next, y1, k[-1]

    def _factor(self, error, errors, rejected):
        """The controller's: safety err_n^-beta1 err_(n-1)^-beta2 err_(n-2)^-beta3 within its bounds."""
        factor = 0.9
        if first(error) == 0.0:
            return 1.0 if rejected else 10.0
        for each, beta in zip([error, *errors], self.betas):
            factor = factor * each ** -beta
        return smaller(1.0 if rejected else 10.0, larger(0.2, factor))

    def run(self, x):
        """y(ts) (K, n, M), y(t1) (n, M), the times of the steps (N + 1, M), and the number of rejections.

        x is (inputs, M), or one input, whose results then have no M.
        """
        at = split_inputs(self.problem, np.array(x, dtype=self.dtype).reshape(len(x), -1))
        t, t1, self.theta = at["t0"], at["t1"], at["theta"]
        rest = self.problem.flow_y0[self.problem.y0.size:, None] + 0.0 * t           # of a running cost: 0
        y, ts = np.concatenate([at["y0"], rest]), [t1] if at["ts"] is None else at["ts"]
        k0, times, rejections = self.f(t, y), [t], 0
        ys, sign = [y + (at - t) * k0 for at in ts if first(at) == first(t)], np.sign(first(t1 - t))
        for t, h, k, y, t_next, y1, rejected in self.steps(t, t1, ts, y, k0):
            while len(ys) < len(ts) and sign * first(ts[len(ys)] - t_next) <= 0.0:
                ys.append(self.dense(t, h, y, k, ts[len(ys)]))
            times.append(t_next)
            rejections += rejected
            y, k0 = y1, k[-1]
        ys = np.array(ys) if ys else np.empty((0, *y.shape), self.dtype)
        outputs = ys, y + (t1 - times[-1]) * k0, np.array(times)
        return *(out[..., 0] if np.ndim(x) == 1 else out for out in outputs), rejections

    # --- derivatives

    def moved(self, x):
        """The inputs x with a complex step in each, one in a column."""
        return x[:, None] + STEP * 1j * np.eye(x.size)

    def tangents(self, x=None):
        """The tangents of y(ts), (K, n, inputs), and of y(t1), (n, inputs), by complex steps."""
        ys, y1, _, _ = self.run(self.moved(input_vector(self.problem) if x is None else x))
        return np.asarray(ys.imag / STEP, dtype=float), np.asarray(y1.imag / STEP, dtype=float)

    def pulled(self, ys_bar, y1_bar, x=None):
        """The cotangents of all inputs, of ys_bar (n, K) and y1_bar (n,)."""
        ys_tan, y1_tan = self.tangents(x)
        return np.einsum("nk,knj->j", ys_bar, ys_tan) + y1_bar @ y1_tan

    def gradient(self, x=None):
        """Of the problem's loss."""
        loss, n = self.problem.loss, self.problem.y0.size
        ys, y1, _, _ = self.run(self.moved(input_vector(self.problem) if x is None else x))
        values = [loss.value(ys[:, :n, j].T, y1[:n, j]) + y1[n:, j].sum() for j in range(y1.shape[1])]
        return np.imag(values) / STEP


def ulp_response(problem, derivative, seed=0):
    """How far ``derivative(x)`` moves, entry by entry, when y0 and theta move by an ulp: what rounding does to it.

    An error estimate is a small difference of slopes. Where it is 1e-7 of its terms it has lost seven digits
    to the rounding of the slopes themselves, and step sizes and their derivatives as many.
    """
    x, rng = input_vector(problem), np.random.default_rng([seed, 5])
    free, here = problem.y0.size + problem.theta.size, derivative(x)
    largest = np.zeros_like(here)
    for _ in range(DRAWS):
        at = x.copy()
        at[:free] *= 1.0 + EPS * rng.choice([-1.0, 1.0], free)
        largest = np.maximum(largest, np.abs(derivative(at) - here))
    return largest
