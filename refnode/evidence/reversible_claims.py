"""Rows about the recipe that undoes steps: on every problem, against the transpose of the states as they were."""
import functools

import refnode
from refnode.evidence.row import EPS, Comparison, attempt, block_scale, flat
from refnode.sensitivity.recipes import RECIPES

N_STEPS = 512
CONDITION = 1e3       # of a gradient in the states it is taken at; the largest seen is 360, on Lorenz
LARGEST = 1e-6        # a wrong inverse drifts by 1
ROUNDINGS = 10        # in units of drift
METHOD = "mccallum_foster(rk4)"
UNSTABLE = ("alf", "reversible_heun")          # with given steps: where no parasitic root can grow far
CALM = ("linear", "forced_oscillator", "pendulum", "mlp")
SYMPLECTIC = ("leapfrog", "semi_implicit_euler")
SEPARABLE = ("kepler",)


def needs_inverse(recipe):
    """Whether a recipe needs given steps of a reversible method."""
    return RECIPES[recipe].reversal == "inverted"


def undone_rows(case, recipes):
    """One row a method for every recipe that undoes steps."""
    methods = (METHOD, *(UNSTABLE if case.name in CALM else ()), *(SYMPLECTIC if case.name in SEPARABLE else ()))
    return [attempt("recipes", case.name, f"{recipe} = transpose of stored states, {method}", "frozen",
                    functools.partial(_undone_row, case), field=case.name, method=method, recipe=recipe)
            for recipe in recipes if needs_inverse(recipe) for method in methods]


def _undone_row(case, recipe, method, **head):
    found, stored = (refnode.gradient(case.problem, name, method=method, n_steps=N_STEPS) for name in (recipe, "discrete"))
    scale, drift = block_scale(case.problem, flat(stored)), found.stats["drift_ulp"]
    bound = min(CONDITION * (drift + ROUNDINGS) * EPS, LARGEST)
    return Comparison(case.names, flat(found), flat(stored), bound * scale, 0.0, scale).row(
        reason=f"1e3 x the drift of {N_STEPS} undone steps, at most 1e-6", recipe=recipe, method=method,
        note=f"drift {drift:.3g} ULP", **head)
