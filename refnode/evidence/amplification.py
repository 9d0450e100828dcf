"""How much a local error made under way matters in the end: the bound on gradients by integration."""
import dataclasses
import functools

import numpy as np

from refnode.evidence.references import assembled, gradient_of_tangents, loss_cotangents

KICKS, DRAWS, SUBSTEPS, KICK = 16, 4, 3, 1e-7


@dataclasses.dataclass(frozen=True)
class Units:
    """Absolute over relative tolerance of states, tangents and adjoints: the size below which errors are absolute."""

    state: float = 1.0
    tangent: float = 1.0
    adjoint: float = 1.0


class Amplification:
    """The effect on the gradient of local errors of the size of the tolerance, by experiment.

    The system a recipe integrates is solved once as it is, and again with every component kicked at K times
    by KICK (unit + |x|) with random signs: the weight by which the solver measures its local error. The root
    mean square of the responses over several draws, divided by KICK, is `sigma`. For M components that
    is the length of a vector of K M single responses, whose sum, the worst case, is at most sqrt(K M) sigma.
    A solve of N steps makes N / K times as many errors, each at most sqrt(n) in the solver's norm, so that

        |error of the gradient| <= rtol (N / K) sqrt(K M n) sigma.
    """

    def __init__(self, flow, units, seed):
        self.flow, self.units, self.seed = flow, units, seed
        problem = flow.problem
        spread = np.linspace(problem.t0, problem.t1, KICKS + 1)
        self.nodes = np.unique(np.concatenate([spread, problem.ts]))
        if problem.t1 < problem.t0:
            self.nodes = self.nodes[::-1]
        self.kicks = self.nodes.size - 1

    def bound(self, system, rtol, n_steps):
        """The bound above for each input; ``system`` is one of the properties below."""
        n = self.flow.n
        worst_case = np.sqrt(self.kicks * (2 * n + 1) * n)
        return rtol * (n_steps / self.kicks) * worst_case * getattr(self, system)

    @functools.cached_property
    def _forward_runs(self):
        """(ys, gradient) without kicks, and with every draw of them."""
        return [self._forward(rng) for rng in self._draws()]

    @functools.cached_property
    def forward(self):
        return _response([gradient for _, gradient in self._forward_runs])

    @functools.cached_property
    def state(self):
        return _response([ys for ys, _ in self._forward_runs])

    @functools.cached_property
    def interpolating(self):
        return _response([self._reverse(rng, True) for rng in self._draws()])

    @functools.cached_property
    def backsolve(self):
        return _response([self._reverse(rng, False) for rng in self._draws()])

    @functools.cached_property
    def backsolve_plain(self):
        return _response([self._reverse(rng, False, restarted=False) for rng in self._draws()])

    def _draws(self):
        return [None] + [np.random.default_rng([self.seed, draw]) for draw in range(DRAWS)]

    def _forward(self, rng):
        flow, path = self.flow, []
        units = np.full((flow.n, 1 + flow.m), self.units.tangent)
        units[:, 0] = self.units.state
        for x in _kicked_path(flow.variational, flow.start(), self.nodes, units, rng):
            path.append(x)
        observed = [path[self._node(t)] for t in flow.problem.ts]
        gradient = gradient_of_tangents(flow, observed, path[-1])
        return np.array([x[:, 0] for x in observed]).T.reshape(flow.n, -1), gradient

    def _reverse(self, rng, interpolated, restarted=True):
        """The gradient by the adjoint; y is read from the forward path at every node, at observations, or never."""
        flow, problem, n = self.flow, self.flow.problem, self.flow.n
        rate = lambda t, y: flow.slope(t, y)
        path = list(_kicked_path(rate, flow.y0, self.nodes, np.full(n, self.units.state), rng))
        ys = np.array([path[self._node(t)] for t in problem.ts]).T.reshape(n, -1)
        ys_bar, y1_bar = loss_cotangents(problem, ys, path[-1])
        adjoint = self.units.adjoint * self._adjoint_scale(path, ys_bar, y1_bar)
        units = np.concatenate([np.full(n, self.units.state), np.full(flow.m, adjoint)])
        x = np.concatenate([path[-1], y1_bar, np.zeros(flow.m - n)])
        for i in range(self.nodes.size - 1, -1, -1):
            observed = np.flatnonzero(problem.ts == self.nodes[i])
            if interpolated or restarted and observed.size:
                x[:n] = path[i]
            for k in observed:
                x[n:2 * n] += ys_bar[:, k]
            if i > 0:
                x = list(_kicked_path(flow.adjoint, x, self.nodes[i - 1:i + 1][::-1], units, rng))[-1]
        return assembled(flow, x[n:2 * n], x[2 * n:], ys, path[-1], ys_bar, y1_bar)

    def _adjoint_scale(self, path, ys_bar, y1_bar):
        """The unit of lambda: the largest cotangent of a state, or what a running cost makes of one."""
        n, flow = self.flow.problem.y0.size, self.flow
        largest = max(np.max(np.abs(ys_bar[:n]), initial=0.0), np.max(np.abs(y1_bar[:n])))
        if flow.n > n:
            slopes = [flow.linearised(t, y)[1][n, :n] for t, y in zip(self.nodes, path)]
            largest = max(largest, np.max(np.abs(slopes)) * abs(self.nodes[-1] - self.nodes[0]))
        return largest or 1.0

    def _node(self, t):
        return int(np.argmin(np.abs(self.nodes - t)))


def _kicked_path(rate, x, nodes, units, rng):
    """x at every node by Runge-Kutta steps; with ``rng``, kicked at the start of every interval."""
    yield x
    for a, b in zip(nodes[:-1], nodes[1:]):
        if rng is not None:
            x = x + KICK * (units + np.abs(x)) * rng.choice([-1.0, 1.0], x.shape)
        h = (b - a) / SUBSTEPS
        for i in range(SUBSTEPS):
            x = _classical_step(rate, a + i * h, h, x)
        yield x


def _classical_step(rate, t, h, x):
    k1 = rate(t, x)
    k2 = rate(t + h / 2, x + h / 2 * k1)
    k3 = rate(t + h / 2, x + h / 2 * k2)
    k4 = rate(t + h, x + h * k3)
    return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def _response(runs):
    """Root mean square over the draws of the change, per unit of kick."""
    changes = np.array(runs[1:]) - runs[0]
    return np.sqrt(np.mean(changes**2, axis=0)) / KICK
