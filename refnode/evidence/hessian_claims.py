"""Rows about second derivatives of whole problems: Hessian-vector products on frozen steps."""
import numpy as np

import refnode
from refnode.evidence.row import EPS, Comparison, attempt, block_scale, flat, input_names, input_vector, single
from refnode.evidence.subjects import problems
from refnode.gradcheck import finite_difference_jvp

METHOD = "dopri5"
RTOL = 1e-4                  # of the adaptive solve whose steps are frozen: few, of varied length
ROUNDINGS = 100              # of a step, at most: some ten a slope, forward and back
DIFFERENCES = 1e-8           # of each block's scale, where the differences are certain to that


class FrozenHessian:
    """Hessian-vector products of a problem on the steps that an adaptive solve took."""

    def __init__(self, name, seed):
        self.problem = problem = problems()[name]()
        self.names, self.n = input_names(problem), problem.y0.size
        self.size = self.n + problem.theta.size
        solution = refnode.solve(problem.replace(loss=None), dense_output=True, method=METHOD, rtol=RTOL, atol=1e-3 * RTOL)
        self.steps = len(solution.t_steps) - 1
        self.options = {"method": METHOD, "steps": np.diff(solution.t_steps), "atol": 1e-9}
        rng, x = np.random.default_rng([seed, 4]), input_vector(problem)
        self.u, self.v = rng.standard_normal((2, x.size)) * np.where(x == 0.0, 1.0, np.abs(x))

    def product(self, x_tan):
        n, end = self.n, self.size
        moved = {} if self.problem.ts_is_t1 else {"ts_tan": x_tan[end + 2:]}
        return flat(refnode.hvp(self.problem, x_tan[:n], x_tan[n:end], x_tan[end], x_tan[end + 1], **moved, **self.options))

    def gradient_at(self, x):
        problem = self.problem.replace(y0=x[:self.n], theta=x[self.n:])
        return flat(refnode.gradient(problem, **self.options))


def hessian_rows(name, seed):
    """Evidence on the Hessian of one problem; none where its field has no second derivative."""
    if problems()[name]().flow_field.hvp is None:
        return []
    case = FrozenHessian(name, seed)
    return [attempt("second", name, evidence, "frozen", lambda claim=claim, **head: claim(case, **head), field=name,
                    method=METHOD)
            for evidence, claim in (("H v = finite differences of gradient", _differences), ("<u, H v> = <v, H u>", _symmetric))]


def _differences(case, **head):
    """Every entry of the gradient, along a random change of y0 and theta: the given steps do not move."""
    along = np.where(np.arange(case.v.size) < case.size, case.v, 0.0)
    found = case.product(along)
    differences = finite_difference_jvp(case.gradient_at, input_vector(case.problem)[:case.size], along[:case.size])
    scale = block_scale(case.problem, found)
    return Comparison(case.names, found, differences.value, DIFFERENCES * scale, differences.error, scale).row(
        reason=f"{DIFFERENCES:g} of each block's largest entry", **head)


def _symmetric(case, **head):
    """In all inputs, the times among them."""
    left, right = case.u * case.product(case.v), case.v * case.product(case.u)
    scale = np.sum(np.abs(left)) + np.sum(np.abs(right))
    return single(left.sum(), right.sum(), ROUNDINGS * case.steps * EPS * scale, "<u, H v>", scale=scale).row(
        reason=f"rounding: {ROUNDINGS} eps a step", **head)
