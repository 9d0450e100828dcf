"""The adaptive program once more, in plain NumPy and complex arithmetic, written from its description.

It shares no line with refnode's loop. Comparisons look at real parts, moduli and maxima follow the branch they
are on, so that a complex step through it is the derivative of the program as long as no decision flips.
"""
import numpy as np

import cases
from gradients import H, blocks, inputs
from refnode.solve.step_size import CONTROLLERS
from refnode.steppers.tableaus import TABLEAUS


def modulus(x):
    return np.where(np.real(x) < 0, -x, x)


def larger(x, y):
    return np.where(np.real(x) >= np.real(y), x, y)


def smaller_of(*values):
    return min(values, key=np.real)


def rms(x):
    return np.sqrt(np.sum(x * x) / x.size)


class Program:
    """A solve of a problem by error control, for inputs (y0, theta, t0, t1, ts) in one complex vector."""

    def __init__(self, problem, method="dopri5", rtol=1e-6, atol=1e-9, controller="I", first_step=None,
                 max_step=np.inf, tstops=False):
        self.problem, self.table, self.rtol, self.atol = problem, TABLEAUS[method], rtol, atol
        self.exponent = 1.0 / (self.table.error_order + 1)
        self.betas = self.exponent * np.array(CONTROLLERS[controller])
        self.first_step, self.max_step, self.tstops = first_step, max_step, tstops

    def f(self, t, y):
        return cases.evaluate_f(self.problem.field, complex(t), y, self.theta)

    def weight(self, y, y1):
        return self.atol + self.rtol * larger(modulus(y), modulus(y1))

    def step(self, t, h, y, k0):
        """Slopes (s + 1, n), the new state, and the error norm."""
        A, b, c, E = (np.asarray(x, dtype=float) for x in
                      (self.table.A_array, self.table.b, self.table.c, self.table.E_exact))
        k = [k0]
        for i in range(1, len(b)):
            k.append(self.f(t + c[i] * h, y + h * sum(A[i, j] * k[j] for j in range(i))))
        y1 = y + h * sum(b[j] * k[j] for j in range(len(b)))
        k = np.array([*k, self.f(t + h, y1)])
        first, second = (rms(h * (row @ k) / self.weight(y, y1)) for row in E)
        return k, y1, first if not np.any(E[1]) else first ** 2 / np.sqrt(first ** 2 + 0.01 * second ** 2)

    def automatic_first_step(self, t0, t1, y0, f0):
        sign, length = np.sign((t1 - t0).real), modulus(t1 - t0)
        weight = self.weight(y0, y0)
        d0, d1 = rms(y0 / weight), rms(f0 / weight)
        h0 = 1e-6 if min(d0.real, d1.real) < 1e-5 else 0.01 * d0 / d1
        h0 = smaller_of(h0, length)
        d2 = rms((self.f(t0 + sign * h0, y0 + sign * h0 * f0) - f0) / weight) / h0
        h1 = (0.01 / larger(d1, d2)) ** self.exponent
        return smaller_of(100.0 * h0, h1, length, self.max_step)

    def dense(self, t, h, y, k, at):
        """The interpolant of a step at any time, its further slopes included."""
        A, c, P = (np.asarray(x, dtype=float) for x in
                   (self.table.A_extra_exact, self.table.c_extra_exact, self.table.P_exact))
        for row, node in zip(A, c):
            k = np.vstack([k, self.f(t + node * h, y + h * row[:len(k)] @ k)])
        sigma = (at - t) / h
        return y + h * (P @ sigma ** np.arange(1, P.shape[1] + 1)) @ k

    def run(self, x):
        """y(ts) as rows, y(t1), the times of the steps, and the number of rejections."""
        y, self.theta, (t, t1), ts = (np.array(x[block], dtype=complex) for block in blocks(self.problem))
        if self.problem.ts_is_t1:
            ts = np.array([t1])
        k0 = self.f(t, y)
        size = self.first_step or self.automatic_first_step(t, t1, y, k0)
        ys = [y + (at - t) * k0 for at in ts if at.real == t.real]
        times, errors, rejections, sign = [t], [1.0, 1.0], 0, np.sign((t1 - t).real)
        while times[-1].real != t1.real:
            target = ts[len(ys)] if self.tstops and len(ys) < len(ts) else t1
            tried, rejected = smaller_of(size, self.max_step), False
            while True:
                cut = sign * (t + sign * tried - target).real > 0.0
                h = target - t if cut else sign * tried
                k, y1, error = self.step(t, h, y, k0)
                if error.real < 1.0:
                    break
                rejections, rejected = rejections + 1, True
                tried = modulus(h) * larger(0.2, 0.9 * error ** -self.exponent)
            factor = 0.9 * np.prod(np.array([error, *errors]) ** -self.betas)
            factor = smaller_of(10.0, larger(0.2, factor), *([1.0] if rejected else []))
            size = larger(modulus(h) * factor, tried) if cut else modulus(h) * factor
            errors = [larger(error, 1e-4), errors[0]]
            t_next = target if cut else t + h
            while len(ys) < len(ts) and sign * (ts[len(ys)] - t_next).real <= 0.0:
                ys.append(self.dense(t, h, y, k, ts[len(ys)]))
            t, y, k0 = t_next, y1, k[-1]
            times.append(t)
        return np.array(ys), y + (t1 - t) * k0, np.array(times), rejections

    def tangents(self):
        """[(ys_tan, y1_tan) for each input] by complex steps."""
        x, tangents = inputs(self.problem).astype(complex), []
        for j in range(x.size):
            x[j] += 1j * H
            ys, y1, _, _ = self.run(x)
            tangents.append((ys.imag / H, y1.imag / H))
            x[j] = x[j].real
        return tangents

    def gradient(self, ys_bar, y1_bar):
        """The cotangent of all inputs; ys_bar (n, K)."""
        return np.array([np.sum(ys_bar.T * ys_tan) + y1_bar @ y1_tan for ys_tan, y1_tan in self.tangents()])
