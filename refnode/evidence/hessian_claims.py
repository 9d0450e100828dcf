"""Rows about second derivatives of whole problems: Hessian-vector products."""
import functools

import numpy as np

import refnode
from refnode.evidence.references import closed_form_gradient
from refnode.evidence.row import EPS, Comparison, attempt, block_scale, flat, input_names, input_vector, single
from refnode.evidence.stepper_claims import order_row, root_mean_square
from refnode.evidence.subjects import closed_forms, problems
from refnode.gradcheck import finite_difference_jvp
from refnode.steppers.tableaus import TABLEAUS

MAIN_METHOD = "dopri5"
OTHER_METHODS_PROBLEM, OTHER_EXACT_PROBLEM = "van_der_pol", "riccati"
EXACT_PROBLEMS = ("logistic", "cosine_relaxation", "twin_growth", "riccati")      # with a closed form that is quick
RTOL = 1e-4                  # of the adaptive solve whose steps are frozen: few, of varied length
N_STEPS = 12                 # of methods that cannot choose
ROUNDINGS = 100              # of a step, at most: some ten a slope, forward and back
REACH = 0.1                  # of differences, in units of each input: Kepler's centre lies half a unit away
DIFFERENCES = 1e-8           # of each block's scale, where the differences are certain to that
TIGHT = 1e-11                # the tolerance of the continuous second-order adjoint
TIGHT_ERROR = 1e-8           # a thousand tolerances
MOST_STEPS = 128


def hessian_rows(name, seed, methods=(MAIN_METHOD,)):
    """Evidence on the Hessian of one problem; none where its field has no second derivative."""
    if problems()[name]().flow_field.hvp is None:
        return []
    methods = [method for method in methods if method in TABLEAUS]
    rows = []
    for method in chosen(methods, name == OTHER_METHODS_PROBLEM):
        case = FrozenHessian(name, method, seed)
        rows += [attempt("second", name, f"{evidence}, {method}", "frozen", functools.partial(claim, case), field=name,
                         method=method)
                 for evidence, claim in (("H v = finite differences of gradient", _differences),
                                         ("<u, H v> = <v, H u>", _symmetric))]
    if name in EXACT_PROBLEMS:
        rows += [attempt("second", name, f"adjoint over adjoint = differences of the closed form, {method}", "exact",
                         functools.partial(_exact, name, seed), field=name, method=method)
                 for method in chosen(methods, name == OTHER_EXACT_PROBLEM)]
    return rows


def chosen(methods, all_of_them):
    """All methods, or the main one if it is among them, else the first."""
    if all_of_them:
        return methods
    return [MAIN_METHOD] if MAIN_METHOD in methods else methods[:1]


def random_directions(problem, seed):
    """Two directions of all inputs, each input in units of its own size."""
    size = units(problem)
    return np.random.default_rng([seed, 4]).standard_normal((2, size.size)) * size


def units(problem):
    """The size of each input, 1 for those that are 0."""
    x = input_vector(problem)
    return np.where(x == 0.0, 1.0, np.abs(x))


def product(problem, x_tan, **options):
    """The public hvp along a tangent of all inputs, in the order of `flat`."""
    n, end = problem.y0.size, problem.y0.size + problem.theta.size
    moved = {} if problem.ts_is_t1 else {"ts_tan": x_tan[end + 2:]}
    return flat(refnode.hvp(problem, x_tan[:n], x_tan[n:end], x_tan[end], x_tan[end + 1], **moved, **options))


# --- the tangent of the discrete adjoint -----------------------------------------------------------

class FrozenHessian:
    """Hessian-vector products of a problem on the steps that an adaptive solve took, or on equal ones."""

    def __init__(self, name, method, seed):
        self.problem = problem = problems()[name]()
        self.names, self.n = input_names(problem), problem.y0.size
        self.size = self.n + problem.theta.size
        times = np.linspace(problem.t0, problem.t1, N_STEPS + 1)
        if TABLEAUS[method].adaptive:
            times = refnode.solve(problem.replace(loss=None), dense_output=True, method=method, rtol=RTOL,
                                  atol=1e-3 * RTOL).t_steps
        self.steps = len(times) - 1
        self.options = {"method": method, "steps": np.diff(times), "atol": 1e-9}
        self.u, self.v = random_directions(problem, seed)

    def product(self, x_tan):
        return product(self.problem, x_tan, **self.options)

    def gradient_at(self, x):
        problem = self.problem.replace(y0=x[:self.n], theta=x[self.n:])
        return flat(refnode.gradient(problem, **self.options))


def _differences(case, **head):
    """Every entry of the gradient, along a random change of y0 and theta: the given steps do not move."""
    along = np.where(np.arange(case.v.size) < case.size, case.v, 0.0)
    found = case.product(along)
    differences = finite_difference_jvp(case.gradient_at, input_vector(case.problem)[:case.size], along[:case.size],
                                        scale=REACH * units(case.problem)[:case.size])
    scale = block_scale(case.problem, found)
    return Comparison(case.names, found, differences.value, DIFFERENCES * scale, differences.error, scale).row(
        reason=f"{DIFFERENCES:g} of each block's largest entry", **head)


def _symmetric(case, **head):
    """In all inputs, the times among them."""
    left, right = case.u * case.product(case.v), case.v * case.product(case.u)
    scale = np.sum(np.abs(left)) + np.sum(np.abs(right))
    return single(left.sum(), right.sum(), ROUNDINGS * case.steps * EPS * scale, "<u, H v>", scale=scale).row(
        reason=f"rounding: {ROUNDINGS} eps a step", **head)


# --- the continuous second-order adjoint -----------------------------------------------------------

@functools.lru_cache(maxsize=1)
def closed_form_products(name, seed):
    """The problem, two directions of all its inputs, and differences of the closed form's gradient along them."""
    problem, solution = problems()[name](), closed_forms()[name]
    directions = random_directions(problem, seed)
    return problem, directions, [finite_difference_jvp(lambda x: closed_form_gradient(problem, solution, x),
                                                       input_vector(problem), direction) for direction in directions]


def _exact(name, seed, method, **head):
    """In all inputs, the times among them; of a method that cannot choose its steps the order."""
    problem, directions, references = closed_form_products(name, seed)
    over = {"sensitivity": "adjoint_over_adjoint", "method": method}
    if not TABLEAUS[method].adaptive:
        def error_of(n_steps):
            return root_mean_square(np.concatenate([product(problem, direction, n_steps=n_steps, **over) - reference.value
                                                    for direction, reference in zip(directions, references)]))
        return order_row(error_of, TABLEAUS[method].order, "H v", MOST_STEPS, method=method, **head)
    found, reference = product(problem, directions[0], rtol=TIGHT, atol=TIGHT, **over), references[0]
    scale = block_scale(problem, reference.value)
    return Comparison(input_names(problem), found, reference.value, TIGHT_ERROR * scale, reference.error, scale).row(
        reason=f"{TIGHT_ERROR:g} of each block at tolerance {TIGHT:g}", method=method, **head)
