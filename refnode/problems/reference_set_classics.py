"""Reference problems without a closed form: the classics of ecology, mechanics, chaos and chemistry."""
from refnode.fields import classical
from refnode.problems.reference_problem import direction, expr, final, linear, reference, running, sumsq

LOTKA_VOLTERRA = expr("theta[0]*y[0] - theta[1]*y[0]*y[1]", "theta[3]*y[0]*y[1] - theta[2]*y[1]")
PENDULUM = expr("y[1]", "-theta[0]*sin(y[0]) - theta[1]*y[1]")

# What a gradient program gets wrong on any smooth problem with several observations.
OBSERVED = ("sign", "factor_two", "factor_half", "mean_for_sum", "interior_jumps_missing", "last_jump_missing",
            "last_jump_doubled", "transposed_jacobian", "stops_at_first_observation", "component_term_dropped",
            "permuted_parameters", "parameter_captured", "single_precision", "zero_gradient")
TERMINAL = ("sign", "factor_two", "factor_half", "transposed_jacobian", "component_term_dropped", "permuted_parameters",
            "parameter_captured", "single_precision", "zero_gradient", "t0_gradient_sign", "t1_gradient_missing")

# Prey and predators as a coarse pencil drawing of the true curves: no residual vanishes.
OBS21_TIMES = [0.25] + [k / 2 for k in range(1, 21)]
OBS21_DATA = [[1.25, 2.5, 4.0, 3.5, 1.0, 0.5, 0.25, 0.5, 0.75, 1.25, 2.0, 3.0, 5.0, 2.5, 1.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.25],
              [0.5, 0.25, 0.75, 3.0, 4.0, 1.5, 0.75, 0.25, 0.5, 0.25, 0.5, 0.5, 2.0, 5.0, 2.0, 1.0, 0.5, 0.25, 0.5, 0.25, 0.5]]

LOTKA_VOLTERRA_PROBLEMS = (
    reference(
        "lotka_volterra/obs21", classical.lotka_volterra, LOTKA_VOLTERRA,
        y0=[1.0, 1.0], theta=[1.5, 1.0, 3.0, 1.0], span=(0.0, 10.0), ts=OBS21_TIMES, loss=sumsq(OBS21_DATA),
        exposes=OBSERVED + ("loss_time_derivative_missing", "first_order_quadrature", "low_order_interpolation"),
        note="Least squares at 21 times over two cycles and a half; the last observation is at the end."),
    reference(
        "lotka_volterra/terminal", classical.lotka_volterra, LOTKA_VOLTERRA,
        y0=[1.0, 1.0], theta=[1.5, 1.0, 3.0, 1.0], span=(0.0, 10.0), loss=linear([[1.0], [-0.5]]),
        exposes=TERMINAL,
        note="One observation, at the end, which moves with it: the end time has a gradient and no other time has."),
    reference(
        "lotka_volterra/running_cost", classical.lotka_volterra, LOTKA_VOLTERRA,
        y0=[1.0, 1.0], theta=[1.5, 1.0, 3.0, 1.0], span=(0.25, 6.0), ts=[1.625, 4.0],
        loss={"kind": "sum", "terms": [running("(1 + t)*theta[1]*y[0]*y[1]"), sumsq([[2.0, 0.5], [0.5, 1.0]]),
                                       final("y[0]**2")]},
        exposes=("running_cost_missing", "interior_jumps_missing", "loss_time_derivative_missing", "t0_gradient_sign",
                 "t1_gradient_missing", "sign", "transposed_jacobian"),
        note="The running cost depends on time, parameters and both states, beside observations and a final cost."),
)

MECHANICS_PROBLEMS = (
    reference(
        "pendulum/swing", classical.pendulum, PENDULUM,
        y0=[1.25, 0.5], theta=[4.0, 0.25], span=(0.0, 3.5), ts=[0.578125, 1.265625, 2.390625, 3.5],
        loss=sumsq([[1.0, -0.5, -1.0, 1.0], [-1.5, -2.0, 1.0, 0.25]]), exposes=OBSERVED,
        note="A wide, lightly damped swing of about one period."),
)

PROBLEMS = LOTKA_VOLTERRA_PROBLEMS + MECHANICS_PROBLEMS
