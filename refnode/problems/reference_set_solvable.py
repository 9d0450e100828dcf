"""Reference problems with a closed form, kept in `reference_solutions`."""
from refnode.fields import classical
from refnode.problems.reference_problem import expr, linear, reference, sumsq
from refnode.problems.reference_set_classics import OBSERVED, TERMINAL

TWIN_GROWTH = expr("theta[0]*(y[0] - y[1])", "theta[1]*(y[1] - y[0])")
LOGISTIC = expr("theta[0]*y[0]*(1 - y[0]/theta[1])")

PROBLEMS = (
    reference(
        "twin_growth/uncontrolled_tangent", classical.twin_growth, TWIN_GROWTH,
        y0=[1.0, 1.0], theta=[1.0, 1.0], span=(0.0, 5.0), loss=linear([[1.0], [0.0]]),
        exposes=("uncontrolled_tangent",), zero=("theta", "t0", "t1"),
        note="The solution is constant, so a step control that sees only the state takes huge steps, while the gradient "
             "for y0[0] is (1 + exp(10))/2; the other gradients vanish with the field."),
    reference(
        "logistic/hessian", classical.logistic, LOGISTIC,
        y0=[0.5], theta=[1.25, 2.0], span=(0.0, 2.5), loss=linear([[1.0]]),
        exposes=TERMINAL, hvp_direction={"y0": [1.0], "theta": [-0.5, 0.75]},
        note="All first and second derivatives in y0, rate, capacity and end time are known and differ from zero."),
)
