"""Reference problems on which released programs were seen to fail: scales, invisible forcings, tolerance floors."""
from refnode.fields import classical
from refnode.fields.first_order import sine_decay, sine_feedback, sine_forcing
from refnode.fields.joint import joint_field
from refnode.problems.reference_problem import expr, linear, reference, sumsq
from refnode.problems.reference_set_classics import LOTKA_VOLTERRA, OBS21_DATA, OBS21_TIMES

Y0, THETA = (1.0, 1.0), (1.5, 1.0, 3.0, 1.0)


# --- one problem in other units -------------------------------------------------------------------

def with_loss_scaled(power):
    return reference(
        f"lotka_volterra/loss_2{'p' if power > 0 else 'm'}{abs(power)}", classical.lotka_volterra, LOTKA_VOLTERRA,
        y0=Y0, theta=THETA, span=(0.0, 10.0), ts=OBS21_TIMES, loss={**sumsq(OBS21_DATA), "scale": 2.0 ** power},
        exposes=("absolute_tolerance_on_adjoint",),
        note=f"The loss of lotka_volterra/obs21 times 2^{power}: every gradient is scaled by the same power, exactly.")


def in_units(id, prey, predators, note, loss=None, ts=(1.625, 3.1875, 4.4375, 6.0)):
    """Lotka-Volterra with y_0 in units of 2^-prey and y_1 in units of 2^-predators: the same numbers, exactly rescaled."""
    a, b = 2.0 ** prey, 2.0 ** predators
    y0, theta = (Y0[0] * a, Y0[1] * b), (THETA[0], THETA[1] / b, THETA[2], THETA[3] / a)
    weights = [[1.0, -0.5, 0.25, 0.75], [0.5, 1.0, -0.25, 1.5]]
    loss = loss or linear([[weight / a for weight in weights[0]], [weight / b for weight in weights[1]]])
    return reference(id, classical.lotka_volterra, LOTKA_VOLTERRA, y0=y0, theta=theta, span=(0.0, ts[-1]), ts=ts,
                     loss=loss, note=note,
                     exposes=("absolute_tolerance_on_adjoint", "error_independent_of_tolerance", "single_precision"))


RESCALED_DATA = [[2.0 ** 20 * value for value in row] for row in OBS21_DATA]

SCALES = (
    with_loss_scaled(30), with_loss_scaled(-30),
    in_units("lotka_volterra/rescaled_2p20", 20, 20,
             "The pair of lotka_volterra/obs21 with both populations in units of 2^-20: the same loss, and gradients "
             "that differ by powers of two, exactly, if absolute tolerances are rescaled as well.",
             loss={**sumsq(RESCALED_DATA), "scale": 2.0 ** -40}, ts=OBS21_TIMES),
    in_units("lotka_volterra/huge", 100, 100,
             "Both populations of the order of 1e30, with rates of interaction of 1e-30."),
    in_units("lotka_volterra/tiny", -100, -100,
             "Both populations of the order of 1e-30: an absolute tolerance that does not know it is no tolerance."),
    in_units("lotka_volterra/mixed_scales", 50, -50,
             "Prey of the order of 1e15, predators of 1e-15: one norm for both sees the prey only."),
)


# --- what step control does not see ---------------------------------------------------------------

ACTIVE, BATCH = [1.25, 0.5], 16
STATES = [name for i in range(BATCH) for name in (f"position_{i}", f"velocity_{i}")]

UNSEEN = (
    reference(
        "sine_forcing/hidden", sine_forcing, expr("-theta[0]*y[0] + theta[1]*sin(theta[2]*t)"),
        y0=[1.0], theta=[0.5, 0.0, 64.0], span=(0.0, 2.0), loss=linear([[1.0]]), zero=("theta[2]",),
        exposes=("hidden_forcing", "uncontrolled_tangent", "quadrature_not_controlled"),
        note="The amplitude is zero, so that the state shows nothing of the forcing of frequency 64, but the gradient "
             "for the amplitude does."),
    reference(
        "van_der_pol/dilution16", joint_field(classical.van_der_pol, BATCH, 2, 1, False),
        expr(*(text for i in range(BATCH) for text in (
            f"y[{2 * i + 1}]", f"theta[0]*(1 - y[{2 * i}]**2)*y[{2 * i + 1}] - y[{2 * i}]"))),
        y0=ACTIVE + [0.0] * (2 * BATCH - 2), theta=[1.0], span=(0.0, 4.0), ts=[1.828125, 4.0],
        loss=linear([[1.0, -0.5], [0.5, 0.75]] + [[0.25, 0.5], [-0.5, 0.25]] * (BATCH - 1)), hvp_direction=None,
        names={"y": STATES, "theta": ["mu"]}, exposes=("batch_dilution", "uncontrolled_tangent"),
        note="One active sample among sixteen, the others at rest at an unstable equilibrium: a mean over the batch "
             "dilutes its error, and the tangents of the others grow unseen."),
    reference(
        "sine_feedback/three_truths", sine_feedback, expr("sin(theta[0]*y[0]) - theta[1]*y[0] + cos(t)"),
        y0=[0.5], theta=[3.0, 1.0], span=(0.0, 4.0), loss=linear([[1.0]]),
        exposes=("differentiated_step_control", "step_heuristic_leak"),
        note="At loose tolerances the derivatives with frozen steps, through the step control, and of the exact solution "
             "have nothing in common."),
    reference(
        "sine_decay/floor", sine_decay, expr("-theta[0]*y[0] + theta[1]*sin(y[0])"),
        y0=[2.0], theta=[3.0, 0.5], span=(0.0, 15.0), loss=linear([[1.0]]), exposes=(),
        note="An anti-trap: all gradients are of the order of 1e-15, below any usual absolute tolerance, so that a method "
             "which returns 1e-9 is not wrong but limited by its tolerance."),
)

PROBLEMS = SCALES + UNSEEN
