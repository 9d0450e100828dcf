"""Reference problems without a closed form: the classics of ecology, mechanics, chaos, chemistry and medicine."""
import math

from refnode.fields import classical
from refnode.fields.oscillators import fitzhugh_nagumo, henon_heiles
from refnode.fields.reactions import brusselator, pharmacokinetics, sir
from refnode.problems.mistake_groups import OBSERVED, TERMINAL, TIMED
from refnode.problems.reference_problem import dyadic, expr, final, linear, reference, running, sumsq

LOTKA_VOLTERRA = expr("theta[0]*y[0] - theta[1]*y[0]*y[1]", "theta[3]*y[0]*y[1] - theta[2]*y[1]")
VAN_DER_POL = expr("y[1]", "theta[0]*(1 - y[0]**2)*y[1] - y[0]")
LORENZ = expr("theta[0]*(y[1] - y[0])", "y[0]*(theta[1] - y[2]) - y[1]", "y[0]*y[1] - theta[2]*y[2]")
PENDULUM = expr("y[1]", "-theta[0]*sin(y[0]) - theta[1]*y[1]")
KEPLER = expr("y[2]", "y[3]", "-theta[0]*y[0]/((y[0]**2 + y[1]**2)*sqrt(y[0]**2 + y[1]**2))",
              "-theta[0]*y[1]/((y[0]**2 + y[1]**2)*sqrt(y[0]**2 + y[1]**2))")


# --- Lotka-Volterra -------------------------------------------------------------------------------

# Prey and predators as a coarse drawing of the true curves: no residual vanishes.
OBS21_TIMES = [0.25] + [k / 2 for k in range(1, 21)]
OBS21_DATA = [
    [1.25, 2.5, 4.0, 3.5, 1.0, 0.5, 0.25, 0.5, 0.75, 1.25, 2.0, 3.0, 5.0, 2.5, 1.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.25],
    [0.5, 0.25, 0.75, 3.0, 4.0, 1.5, 0.75, 0.25, 0.5, 0.25, 0.5, 0.5, 2.0, 5.0, 2.0, 1.0, 0.5, 0.25, 0.5, 0.25, 0.5]]

ECOLOGY = (
    reference(
        "lotka_volterra/obs21", classical.lotka_volterra, LOTKA_VOLTERRA,
        y0=[1.0, 1.0], theta=[1.5, 1.0, 3.0, 1.0], span=(0.0, 10.0), ts=OBS21_TIMES, loss=sumsq(OBS21_DATA),
        exposes=OBSERVED + ("loss_time_derivative_missing", "first_order_quadrature", "low_order_interpolation"),
        note="Least squares at 21 times over two cycles and a half; the last observation is at the end."),
    reference(
        "lotka_volterra/terminal", classical.lotka_volterra, LOTKA_VOLTERRA,
        y0=[1.0, 1.0], theta=[1.5, 1.0, 3.0, 1.0], span=(0.0, 10.0), loss=linear([[1.0], [-0.5]]), exposes=TERMINAL,
        note="One observation, at the end, which moves with it: the end time has a gradient and no other time has."),
    reference(
        "lotka_volterra/running_cost", classical.lotka_volterra, LOTKA_VOLTERRA,
        y0=[1.0, 1.0], theta=[1.5, 1.0, 3.0, 1.0], span=(0.25, 6.0), ts=[1.625, 4.0],
        loss={"kind": "sum", "terms": [running("(1 + t)*theta[1]*y[0]*y[1]"), sumsq([[2.0, 0.5], [0.5, 1.0]]),
                                       final("y[0]**2")]},
        exposes=("running_cost_missing", "interior_jumps_missing", "sign", "transposed_jacobian") + TIMED,
        note="The running cost depends on time, parameters and both states, beside observations and a final cost."),
)


# --- oscillators, smooth and stiff ----------------------------------------------------------------

def van_der_pol(mu, y0, t0, t1, ts, data, note, exposes=OBSERVED):
    return reference(f"van_der_pol/mu{mu}", classical.van_der_pol, VAN_DER_POL, y0=y0, theta=[mu], span=(t0, t1), ts=ts,
                     loss=sumsq(data), exposes=exposes, note=note)


OSCILLATORS = (
    van_der_pol(1, [1.25, 0.5], -1.0, 3.0, [-0.328125, 0.609375, 1.890625, 3.0],
                [[1.0, 0.5, -2.0, -1.0], [0.0, -1.5, -0.25, 1.0]], "A mild limit cycle, begun inside it and before t = 0."),
    van_der_pol(10, [2.0, 0.0], 0.0, 17.5, [4.5, 11.0, 14.5, 17.5],
                [[1.5, 1.0, -1.5, 1.0], [-0.5, 0.5, 0.25, -0.25]],
                "Relaxation: half a cycle creeps, then jumps, then creeps on.", OBSERVED + ("backsolve_drift",)),
    van_der_pol(100, [2.0, 0.0], 0.0, 2.0, [2.0 ** -8, 0.5, 2.0],
                [[1.5, 1.5, 1.5], [-0.5, 0.25, 0.25]],
                "Stiff: what stabilises y in an explicit method, its rejected steps, is not in the tangent of the steps taken, "
                "which may grow; and the velocity's initial value matters for a hundredth only.",
                ("backsolve_drift", "uncontrolled_tangent", "interior_jumps_missing", "sign", "factor_two")),
    reference(
        "brusselator/cycle", brusselator,
        expr("theta[0] + y[0]**2*y[1] - (theta[1] + 1)*y[0]", "theta[1]*y[0] - y[0]**2*y[1]"),
        y0=[1.5, 3.0], theta=[1.0, 3.0], span=(0.0, 10.0), ts=[1.8125, 4.40625, 7.09375, 10.0],
        loss=sumsq([[1.0, 0.5, 2.0, 0.25], [2.0, 4.0, 1.0, 3.0]]), exposes=OBSERVED,
        note="A chemical clock, for one period and a half."),
    reference(
        "fitzhugh_nagumo/spikes", fitzhugh_nagumo,
        expr("y[0] - y[0]**3/3 - y[1] + theta[0]", "theta[1]*(y[0] + theta[2] - theta[3]*y[1])"),
        y0=[-1.0, 1.0], theta=[0.5, 0.078125, 0.6875, 0.8125], span=(0.0, 48.0), ts=[7.25, 18.5, 31.125, 48.0],
        loss=sumsq([[1.0, -1.0, 0.5, -2.0], [0.5, 0.25, 1.0, 0.5]]), exposes=OBSERVED + ("low_order_interpolation",),
        note="A nerve that fires under a constant current: slow drifts between fast spikes."),
)


# --- mechanics ------------------------------------------------------------------------------------

# Eccentricity 1/2 and semi-axis 1, from the pericentre.
ORBIT = {"y0": [0.5, 0.0, 0.0, dyadic(math.sqrt(3.0))], "theta": [1.0]}

MECHANICS = (
    reference(
        "pendulum/swing", classical.pendulum, PENDULUM,
        y0=[1.25, 0.5], theta=[4.0, 0.25], span=(0.0, 3.5), ts=[0.578125, 1.265625, 2.390625, 3.5],
        loss=sumsq([[1.0, -0.5, -1.0, 1.0], [-1.5, -2.0, 1.0, 0.25]]), exposes=OBSERVED,
        note="A wide, lightly damped swing of about one period."),
    reference(
        "kepler/t64", classical.kepler, KEPLER, **ORBIT, span=(0.0, 64.0),
        loss=linear([[1.0], [0.25], [-0.25], [0.5]]), exposes=("single_precision", "first_order_quadrature") + TERMINAL,
        note="Ten orbits of eccentricity 1/2: errors grow with the square of the time, so the gradient is ill-conditioned."),
    reference(
        "kepler/periods20", classical.kepler, KEPLER, **ORBIT, span=(0.0, 125.625), ts=[31.375, 62.8125, 94.25, 125.625],
        loss=linear([[1.0, -0.5, 0.25, 0.75], [0.25, 0.5, -1.0, 0.5], [-0.25, 0.75, 0.5, 1.0], [0.5, 0.25, 0.75, -0.5]]),
        exposes=("backsolve_drift", "single_precision", "interior_jumps_missing"),
        note="Twenty orbits, observed near the pericentre, where the satellite is fastest."),
    reference(
        "henon_heiles/bounded", henon_heiles,
        expr("y[2]", "y[3]", "-y[0] - 2*theta[0]*y[0]*y[1]", "-y[1] - theta[0]*(y[0]**2 - y[1]**2)"),
        y0=[0.25, 0.125, 0.25, -0.125], theta=[1.0], span=(0.0, 20.0), ts=[4.5625, 9.1875, 14.4375, 20.0],
        loss=sumsq([[0.25, 0.0, -0.25, 0.5], [0.0, 0.25, 0.25, -0.25], [0.5, 0.25, 0.0, -0.25], [0.25, 0.0, 0.5, 0.25]]),
        exposes=OBSERVED, note="A star that wanders in a galaxy's plane, on a bounded orbit."),
)


# --- chaos ----------------------------------------------------------------------------------------

def lorenz(t1, exposes, note):
    return reference(
        f"lorenz/t{t1}", classical.lorenz, LORENZ, y0=[1.0, 0.0, 0.0], theta=[10.0, 28.0, dyadic(8.0 / 3.0)],
        span=(0.0, t1), loss=linear([[1.0], [0.0], [0.0]]), exposes=exposes, note=note)


DRIFT = ("backsolve_drift", "single_precision", "sign", "factor_two", "t1_gradient_missing")

CHAOS = (
    lorenz(1, DRIFT, "x(1) from (1, 0, 0), before chaos matters; a backsolve is off already."),
    lorenz(2, DRIFT, "x(2) from (1, 0, 0): a backsolve at a tolerance of 1e-8 is off by half."),
    lorenz(5, DRIFT, "x(5) from (1, 0, 0)."),
    lorenz(10, DRIFT, "x(10) from (1, 0, 0)."),
    lorenz(20, DRIFT, "x(20) from (1, 0, 0): tolerances above 1e-7 cannot test this gradient."),
    reference(
        "lorenz/obs40", classical.lorenz, LORENZ, y0=[1.0, 0.0, 0.0], theta=[10.0, 28.0, dyadic(8.0 / 3.0)],
        span=(0.0, 2.5), ts=[k / 16 for k in range(1, 41)],
        loss=linear([[(-0.5) ** (k % 3) for k in range(40)], [0.25 * (-1) ** (k // 2) for k in range(40)],
                     [0.125 * (1 + k % 4) for k in range(40)]]), exposes=OBSERVED,
        note="Forty observations, at each of which a backsolve that starts afresh from the stored state is set right."),
)


# --- chemistry and medicine -----------------------------------------------------------------------

RATES = (
    reference(
        "robertson/short", classical.robertson,
        expr("-theta[0]*y[0] + theta[2]*y[1]*y[2]", "theta[0]*y[0] - theta[1]*y[1]**2 - theta[2]*y[1]*y[2]",
             "theta[1]*y[1]**2"),
        y0=[0.75, 2.0 ** -16, 0.25], theta=[dyadic(0.04), 3.0e7, 1.0e4], span=(0.0, 2.0 ** -5),
        ts=[2.0 ** -12, 5.0 * 2.0 ** -13, 2.0 ** -9, 2.0 ** -5],
        loss=linear([[1.0, -0.5, 0.25, 1.0], [2.0 ** 15, 2.0 ** 14, -(2.0 ** 15), 2.0 ** 14], [-0.75, 0.5, 1.0, -0.5]]),
        exposes=OBSERVED + ("backsolve_drift", "absolute_tolerance_on_adjoint"),
        note="Stiff kinetics for a hundred of its fast time scales, short enough for explicit methods."),
    reference(
        "sir/outbreak", sir,
        expr("-theta[0]*y[0]*y[1]", "theta[0]*y[0]*y[1] - theta[1]*y[1]", "theta[1]*y[1]"),
        y0=[0.984375, 0.015625, 0.0], theta=[1.5, 0.375], span=(0.0, 12.0), ts=[2.5625, 5.3125, 8.0625, 12.0],
        loss=sumsq([[0.75, 0.5, 0.125, 0.0], [0.25, 0.5, 0.25, 0.125], [0.0, 0.25, 0.5, 0.75]]), exposes=OBSERVED,
        note="An epidemic over its peak; the number of people is conserved."),
    reference(
        "pharmacokinetics/oral", pharmacokinetics,
        expr("-theta[0]*y[0]", "theta[0]*y[0] - theta[1]*y[1]/(theta[2] + y[1]) - theta[3]*y[1] + theta[4]*y[2]",
             "theta[3]*y[1] - theta[4]*y[2]"),
        y0=[4.0, 0.0, 0.0], theta=[1.25, 0.5, 0.75, 0.375, 0.25], span=(0.0, 8.0), ts=[0.5, 1.25, 3.0, 8.0],
        loss=sumsq([[2.0, 1.0, 0.25, 0.125], [1.0, 2.0, 1.5, 0.5], [0.0, 0.25, 0.75, 1.0]]), exposes=OBSERVED,
        note="A dose by mouth through gut, blood and tissue, with an elimination that saturates."),
)

PROBLEMS = ECOLOGY + OSCILLATORS + MECHANICS + CHAOS + RATES
