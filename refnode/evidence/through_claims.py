"""Rows about the truth `through`: the derivative of the adaptive program, against the program written once more."""
import dataclasses
import functools

import numpy as np

import refnode
from refnode.evidence.adaptive_program import AdaptiveProgram, ulp_response
from refnode.evidence.row import EPS, Comparison, attempt, block_scale, flat, input_vector, single
from refnode.evidence.stepper_claims import pushed
from refnode.evidence.subjects import COLUMNS
from refnode.sensitivity.recipes import RECIPES
from refnode.steppers.tableaus import TABLEAUS

RTOL = 1e-4                   # at which the step control weighs
LEAST = 1e-12                 # of each block's largest entry: rounding where no error estimate cancels
RESPONSES = 10                # an ulp of the inputs is one rounding; the program makes some hundreds
REASON = "1e-12, and ten times what an ulp of y0 and theta moves the block of the reference by"
ESTIMATES_LOSE = 1e5          # a rounding error grows in a small difference of slopes
LOST = "1e5 eps: rounding behind an error estimate of 1e-5 of its terms"
N_STEPS = 12                  # of methods that cannot choose


def program_of(case, method):
    """The independent program, and the options of the solve that it repeats."""
    options = case.options(method, RTOL)
    if not TABLEAUS[method].adaptive:
        options = {"method": method, "n_steps": N_STEPS}
    return AdaptiveProgram(case.problem, columns=COLUMNS.get(case.name), **options), options


def through_rows(case, recipes, methods):
    """The two recipes through the step control, by every method given."""
    return [attempt("recipes", case.name, f"{recipe} = complex step of the program, {method}", "through",
                    functools.partial(_program_row, case), field=case.name, method=method, recipe=recipe)
            for method in methods for recipe in recipes if RECIPES[recipe].truth == "through"]


def _program_row(case, recipe, method, **head):
    program, options = program_of(case, method)
    found = refnode.gradient(case.problem, recipe, **options)
    row = compared_with_program(case, program, flat(found), recipe=recipe, method=method, **head)
    _, _, times, rejections = program.run(input_vector(case.problem))
    taken = found.stats["n_steps"], found.stats["n_rejected"]
    if (len(times) - 1, rejections) != taken:
        return dataclasses.replace(row, verdict="INCONCLUSIVE", note=(
            f"the program takes {len(times) - 1} steps and rejects {rejections}, the solve {taken}: rounding decides "
            "one of them, and the derivatives are of different branches"))
    return row


def compared_with_program(case, program, gradient, **head):
    """A flat gradient against complex steps through the program, component by component."""
    reference = program.gradient()
    scale, response = (block_scale(case.problem, each) for each in (
        reference, ulp_response(case.problem, program.gradient, case.seed)))
    return Comparison(case.names, gradient, reference, LEAST * scale + RESPONSES * response, response, scale).row(
        reason=REASON, note=f"reference moves by {np.max(response / np.where(scale > 0, scale, 1.0)):.1e}", **head)


def through_dual(case, forward, method, recipe, **head):
    """<w, S v> = <S^T w, v> to rounding, of which error estimates, sums that cancel, lose some digits more."""
    problem, options = case.problem.replace(loss=None), case.options(method, RTOL)
    solution = refnode.solve(problem, **options)
    ys_bar, _ = case.problem.loss.vjp(solution.y, solution.y1)
    tangent = np.random.default_rng([case.seed, 3]).standard_normal(len(case.names)) * np.abs(input_vector(problem))
    forward_side = np.sum(ys_bar * pushed(problem, tangent, forward, options))
    pulled = flat(refnode.vjp(problem, ys_bar, sensitivity=recipe, **options))
    scale = np.abs(pulled) @ np.abs(tangent)
    return single(pulled @ tangent, forward_side, ESTIMATES_LOSE * EPS * scale, "<w, S v>", scale=scale).row(
        reason=LOST, recipe=recipe, method=method, **head)
