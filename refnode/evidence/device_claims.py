"""Rows about a GPU: its gradients beside those of the CPU, and its tangents beside its adjoints."""
import numpy as np

import refnode
from refnode.cuda_device import is_simulated
from refnode.evidence.row import Comparison, attempt, block_scale, flat, input_names
from refnode.evidence.subjects import problems

PROMISED = 1e-13                               # of rounding, times what a solve makes of it
REVERSIBLE = "mccallum_foster(rk4)"
EASY = ("linear", "forced_oscillator", "lotka_volterra", "pendulum")       # for given steps of a reversible method
BOUND = "1e-13 times the growth of relative changes"


def device_rows(name):
    """A row for every recipe that runs on a GPU, and one for tangents beside adjoints; none for a field of plain Python."""
    problem = problems()[name]()
    if not (problem.flow_field.compiled or is_simulated()):
        return []
    rows = [_row(name, problem, f"{recipe} = CPU, {options.get('method', 'dopri5')}", recipe, options, recipe, {})
            for recipe, options in ways(name)]
    return rows + [_row(name, problem, "tangents = adjoint, both on the GPU", "discrete_forward", {}, "discrete", {"device": "cuda"})]


def ways(name):
    """(recipe, options) for a problem."""
    found = [("discrete", {}), ("discrete", {"method": "dop853"}), ("discrete_forward", {}), ("checkpointed", {"checkpoints": 5})]
    return found + ([("reversible", {"method": REVERSIBLE, "n_steps": 64})] if name in EASY else [])


def _row(name, problem, evidence, recipe, options, other, where):
    """One gradient on the GPU beside another."""
    return attempt("device", name, evidence, "frozen", lambda **head: _compared(problem, options, other, where, **head), field=name,
                   method=options.get("method", "dopri5"), recipe=recipe)


def _compared(problem, options, other, where, **head):
    found = refnode.gradient(problem, head["recipe"], device="cuda", **options)
    expected = refnode.gradient(problem, other, **options, **where)
    growth = max(1.0, refnode.gradient(problem, "discrete").stats["growth"])
    scale = block_scale(problem, flat(expected))
    return Comparison(input_names(problem), flat(found), flat(expected), PROMISED * growth * scale, 0.0, scale).row(
        reason=BOUND, **head)
