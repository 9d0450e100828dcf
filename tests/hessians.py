"""Hessian-vector products as the tests take them, and the problems they share."""
import numpy as np
import pytest

import cases
import gradients
from gradients import blocks, flat, inputs
from refnode import losses
from refnode.fields.neural import mlp_field
from refnode.problems.catalogue import CATALOGUE
from refnode.problems.problem import Problem
from refnode.sensitivity.second_order import SECOND_ORDER, hvp

SYMMETRY = 1e-12           # of the sum of the magnitudes of both sides' terms
EXACT = 1e-12              # of the largest entry: complex steps of the same program
TIGHT = {"method": "dop853", "rtol": 1e-12, "atol": 1e-14}
NEAR = 1e-9                # 1e3 times rtol, as for gradients
every_way = pytest.mark.parametrize("sensitivity", SECOND_ORDER)


def product(problem, x_tan, sensitivity="forward_over_adjoint", door=hvp, **options):
    """H x_tan as a vector, for a tangent of all inputs."""
    y0_tan, theta_tan, (t0_tan, t1_tan), ts_tan = (x_tan[block] for block in blocks(problem))
    moved = {} if problem.ts_is_t1 else {"ts_tan": ts_tan}
    way = {"sensitivity": sensitivity} if door is hvp else {}
    return flat(door(problem, y0_tan, theta_tan, t0_tan, t1_tan, **moved, **way, **options))


def hessian(problem, **options):
    """The whole Hessian, a product a column."""
    return np.array([product(problem, e, **options) for e in np.eye(inputs(problem).size)]).T


def symmetry_error(problem, seed=0, only=slice(None), **options):
    """|u H v - v H u| over the sum of magnitudes, for random u, v in units of the inputs' sizes."""
    directions = np.random.default_rng(seed).standard_normal((2, inputs(problem).size)) * gradients.sizes(problem)
    kept = np.zeros(inputs(problem).size)
    kept[only] = 1.0
    u, v = directions * kept
    sides = u * product(problem, v, **options), v * product(problem, u, **options)
    return abs(sides[0].sum() - sides[1].sum()) / sum(np.abs(side).sum() for side in sides)


class ComplexTerminal(losses.Terminal):
    """A terminal loss whose cotangent may be complex, for complex steps."""

    def vjp(self, ys, y1):
        return np.zeros_like(ys), self.phi_grad(y1)


COST = losses.running_cost(cases.effort, cases.effort_jvp, cases.effort_vjp, cases.effort_hvp)
TERMINAL = ComplexTerminal(lambda y: y[0] ** 2 * y[1], lambda y: np.array([2 * y[0] * y[1], y[0] ** 2]),
                           lambda y, v: np.array([2 * (v[0] * y[1] + y[0] * v[1]), 2 * y[0] * v[0]]))


def everything_problem():
    """Running cost, terminal loss, observations; plain Python throughout, since the cost is."""
    problem = CATALOGUE["lotka_volterra"]()
    return problem.replace(field=gradients.python_field(problem.field), t0=0.125, t1=1.5, ts=[0.125, 0.3, 0.7],
                           loss=losses.sum_of_squares() + TERMINAL + COST)


def terminal_problem():
    """Observations at t0, twice at one time, inside steps; a terminal loss beyond the last of them."""
    return CATALOGUE["forced_oscillator"]().replace(
        ts=[0.25, 0.8, 0.8, 1.125, 2.0], t1=2.25, loss=losses.sum_of_squares(np.ones((2, 5))) + TERMINAL)


def moving_end_problem():
    return CATALOGUE["cosine_relaxation"]().replace(ts=None, loss=losses.sum_of_squares([[0.25]]))


def mlp_problem(activation="tanh"):
    field = mlp_field((2, 4, 3, 2), activation, batch=2, time_input=True)
    rng = np.random.default_rng(3)
    return Problem(field, rng.standard_normal(4), 0.6 * rng.standard_normal(field.p), (0.25, 1.5), ts=[0.5, 0.9, 1.5],
                   loss=losses.mean_of_squares(rng.standard_normal((4, 3))))


PROBLEMS = {"terminal": terminal_problem, "moving_end": moving_end_problem, "everything": everything_problem,
            "mlp": mlp_problem, "lotka_volterra": CATALOGUE["lotka_volterra"], "kepler": CATALOGUE["kepler"]}
