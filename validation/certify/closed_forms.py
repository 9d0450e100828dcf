"""Closed forms of reference problems in ball arithmetic, with all first derivatives and the Hessian-vector product.

The texts are those of `refnode.problems.reference_solutions`. Derivatives are taken by pairs of balls: of every input at once,
and of those along the direction. No differential equation is solved, so the proven values must overlap these.
"""
import re

from flint import arb, ctx

import dual_numbers as dual
from fields import Loss
from refnode.problems.reference_solutions import RUNNING_FORMS, solution_texts
from texts import Texts


def closed_values(problem, bits=400):
    """{"y", "loss", "grad_y0", ...} of a `ReferenceProblem` in balls; None if it has no closed form."""
    runs = any(term["kind"] == "running" for term in problem.loss.get("terms", [problem.loss]))
    if solution_texts(problem) is None or runs and problem.id not in RUNNING_FORMS:
        return None
    with ctx.workprec(bits):
        return _values(problem)


def _values(problem):
    inputs = Inputs(problem)
    loss = Loss(problem.loss, len(problem.y0))
    ys = [inputs.solution(problem, t) for t in inputs.ts]
    observed, _ = loss.observed(ys)
    final, _ = loss.final(inputs.t1, inputs.solution(problem, inputs.t1))
    total = observed + final
    if problem.id in RUNNING_FORMS:
        total = total + inputs.evaluated([RUNNING_FORMS[problem.id]], inputs.t1)[0] * loss.running[0][1]
    gradient = [0 if bundle is None else bundle for bundle in total.tangent.entries]
    values = {"y": [[_value(y[i]) for y in ys] for i in range(len(problem.y0))], "loss": _value(total)}
    values |= {f"grad_{name}": [_value(x) for x in gradient[part]] for name, part in inputs.parts.items()}
    values |= {name: values[name][0] for name in ("grad_t0", "grad_t1")}
    if problem.hvp_direction is not None:
        values |= {f"hvp_{name}": [_tangent(x) for x in gradient[inputs.parts[name]]] for name in ("y0", "theta")}
    return values


class Inputs:
    """y0, theta, t0, t1 and ts as pairs: tangents in every input, of numbers with tangents along the direction."""

    def __init__(self, problem):
        along = problem.hvp_direction or {"y0": [0.0] * len(problem.y0), "theta": [0.0] * len(problem.theta)}
        ts = [] if problem.ts is None else list(problem.ts)
        groups = {"y0": (problem.y0, along["y0"]), "theta": (problem.theta, along["theta"]), "t0": ([problem.t0], [0.0]),
                  "t1": ([problem.t1], [0.0]), "ts": (ts, [0.0] * len(ts))}
        self.parts, self.count, start = {}, sum(len(values) for values, _ in groups.values()), 0
        for name, (values, _) in groups.items():
            self.parts[name] = slice(start, start + len(values))
            start += len(values)
        made = {name: [self._made(self.parts[name].start + i, x, v) for i, (x, v) in enumerate(zip(*group))]
                for name, group in groups.items()}
        self.y0, self.theta, self.t0, self.t1 = made["y0"], made["theta"], made["t0"][0], made["t1"][0]
        self.ts = made["ts"] if problem.ts is not None else [self.t1]

    def _made(self, number, x, along):
        unit = dual.Bundle([arb(1) if i == number else None for i in range(self.count)])
        return dual.Dual(dual.Dual(arb(x), arb(along)), unit)

    def solution(self, problem, t):
        return self.evaluated(solution_texts(problem, float(_value(t))), t)

    def evaluated(self, texts, t):
        """Texts in t, t0, y0 and theta; t0 becomes one more parameter."""
        p = len(self.theta)
        texts = [re.sub(r"\bt0\b", f"theta[{p}]", text.replace("y0[", "y[")) for text in texts]
        lifted = [x if isinstance(x, dual.Dual) else dual.Dual(dual.Dual(arb(0) + x, None), dual.Bundle([None] * self.count))
                  for x in Texts(texts)(t, self.y0, [*self.theta, self.t0])]
        return lifted


def _value(x):
    while isinstance(x, dual.Dual):
        x = x.value
    return arb(x)


def _tangent(x):
    return arb(0) if not isinstance(x, dual.Dual) or x.tangent is None else x.tangent
