"""Reference problems whose solution has a closed form; the forms are kept in `reference_solutions`."""
from refnode.fields import classical
from refnode.fields.density import linear_density
from refnode.fields.first_order import outflow, regulator, riccati
from refnode.fields.oscillators import damped_rotation
from refnode.fields.reactions import exchange
from refnode.problems.mistake_groups import OBSERVED, TERMINAL, TIMED
from refnode.problems.reference_problem import expr, final, linear, reference, running, sumsq

TWIN_GROWTH = expr("theta[0]*(y[0] - y[1])", "theta[1]*(y[1] - y[0])")
DECAY = expr("-theta[0]*y[0]")
LOGISTIC = expr("theta[0]*y[0]*(1 - y[0]/theta[1])")
RELAXATION = expr("-theta[0]*(y[0] - cos(t))")
ROTATION = expr("-theta[0]*y[0] - theta[1]*y[1]", "theta[1]*y[0] - theta[0]*y[1]")
OSCILLATOR = expr("y[1]", "-theta[0]*y[0] - theta[1]*y[1] + theta[2]*cos(theta[3]*t + theta[4])")


# --- a tangent that the state does not show -------------------------------------------------------

def twin_growth(id, y0, **kwargs):
    return reference(id, classical.twin_growth, TWIN_GROWTH, y0=y0, theta=[1.0, 1.0], span=(0.0, 5.0),
                     loss=linear([[1.0], [0.0]]), exposes=("uncontrolled_tangent",), **kwargs)


GAP = "Two states that differ by {} at first and part as exp(2 t): the smaller the gap, the later step control sees it."

TWINS = (
    twin_growth("twin_growth/uncontrolled_tangent", [1.0, 1.0], zero=("theta", "t0", "t1"),
                note="The solution is constant, so a step control that sees only the state takes huge steps, while the "
                     "gradient for y0[0] is (1 + exp(10))/2; the other gradients vanish with the field."),
    twin_growth("twin_growth/gap_2m10", [1.0, 1.0 + 2.0 ** -10], note=GAP.format("2^-10")),
    twin_growth("twin_growth/gap_2m20", [1.0, 1.0 + 2.0 ** -20], note=GAP.format("2^-20")),
    twin_growth("twin_growth/gap_2m30", [2.0 ** -7, 2.0 ** -7 + 2.0 ** -30], note=GAP.format("2^-30")),
)


# --- decays, and what a loss may look at ----------------------------------------------------------

DECAYS = (
    reference(
        "exponential_decay/mixed_loss", classical.exponential_decay, DECAY,
        y0=[1.5], theta=[0.625], span=(0.25, 3.0), ts=[0.75, 1.625],
        loss={"kind": "sum", "terms": [running("y[0]**2"), sumsq([[0.5, 1.0]]), final("y[0]**2")]},
        exposes=("running_cost_missing", "quadrature_not_controlled", "interior_jumps_missing", "last_jump_missing") + TIMED,
        note="A running cost, two interior observations and a final cost at once; the end time has the gradient "
             "y^2 + 2 y y' at t1, the observations keep theirs."),
    reference(
        "exponential_decay/observed_at_start", classical.exponential_decay, DECAY,
        y0=[1.5], theta=[0.625], span=(0.25, 3.0), ts=[0.25, 1.625], loss=sumsq(),
        exposes=("first_jump_missing",) + OBSERVED,
        note="The first observation is the initial value itself: its term 2 y0 belongs to the gradient for y0."),
    reference(
        "exponential_decay/single_output", classical.exponential_decay, DECAY,
        y0=[1.5], theta=[0.625], span=(0.25, 3.0), ts=[1.625], loss=sumsq(), zero=("t1",),
        exposes=("first_jump_missing", "last_jump_missing", "loss_time_derivative_missing", "zero_gradient"),
        note="The only observation is before the end, so that nothing of the loss is known at t1."),
    reference(
        "exchange/steady_state", exchange, expr("-theta[0]*y[0] + theta[1]*y[1]", "theta[0]*y[0] - theta[1]*y[1]"),
        y0=[1.0, 0.5], theta=[0.5, 0.25], span=(0.0, 16.0), loss=linear([[1.0], [0.25]]), exposes=TERMINAL,
        note="Two species that exchange until they are nearly at rest; what stays is the conserved total."),
    reference(
        "outflow/first_step", outflow, expr("-theta[0]*sqrt(y[0])"),
        y0=[1.0], theta=[1.0], span=(0.0, 1.75), loss=linear([[1.0]]), exposes=("first_nan",) + TERMINAL,
        note="The level is 1/64 at the end: a step that tries to go beyond 2 meets the root of a negative number."),
    reference(
        "logistic/hessian", classical.logistic, LOGISTIC,
        y0=[0.5], theta=[1.25, 2.0], span=(0.0, 2.5), loss=linear([[1.0]]),
        exposes=TERMINAL, hvp_direction={"y0": [1.0], "theta": [-0.5, 0.75]},
        note="All first and second derivatives in y0, rate, capacity and end time are known and differ from zero."),
    reference(
        "logistic/observed", classical.logistic, LOGISTIC,
        y0=[0.5], theta=[1.25, 2.0], span=(-0.5, 2.5), ts=[-0.5, 0.171875, 0.984375, 1.703125, 2.5],
        loss=sumsq([[0.25, 1.0, 1.25, 1.5, 2.125]]), exposes=("first_jump_missing",) + OBSERVED,
        note="Growth towards the capacity, observed at the start, at the end and between."),
)


# --- forcings -------------------------------------------------------------------------------------

def relaxation(rate):
    return reference(
        f"cosine_relaxation/k{rate}", classical.cosine_relaxation, RELAXATION,
        y0=[0.0], theta=[rate], span=(0.0, 3.0), loss=linear([[1.0]]), exposes=("backsolve_drift",) + TERMINAL,
        note=f"Observed where exp(-{3 * rate}) is left of the initial value: its gradient is tiny, not zero.")


def relaxation_observed(rate):
    """Also observed within its time scale, or the initial value would have no part in float64; weights balance the two."""
    early, weight = {50: (2.0 ** -8, 2.0 ** -8), 200: (2.0 ** -10, 2.0 ** -10), 1000: (2.0 ** -10, 2.0 ** -12)}[rate]
    return reference(
        f"cosine_relaxation/k{rate}", classical.cosine_relaxation, RELAXATION,
        y0=[0.0], theta=[rate], span=(0.0, 3.0), ts=[early, 3.0],
        loss=linear([[weight, 1.0]]), exposes=("backsolve_drift", "interior_jumps_missing", "sign"),
        note="A dissipative problem, on which a backsolve grows by the exponential of the rate times the horizon.")


def oscillator(id, t0, t1, ts, note, exposes=(), **kwargs):
    return reference(
        id, classical.forced_oscillator, OSCILLATOR, y0=[0.75, -0.5], theta=[4.0, 0.375, 1.5, 1.25, 0.5],
        span=(t0, t1), ts=ts, loss=sumsq([[0.25, -0.5, 0.25, 0.5], [-1.0, 0.5, 0.25, -0.25]]),
        exposes=exposes + TIMED + OBSERVED, note=note, **kwargs)


FORCED = (
    reference(
        "riccati/forced", riccati, expr("y[0]*cos(t) + theta[0]*y[0]**2"),
        y0=[0.75], theta=[-0.5], span=(0.25, 3.25), ts=[0.84375, 1.578125, 2.421875, 3.25],
        loss=sumsq([[1.0, 0.5, 1.5, 0.25]]), exposes=TIMED + OBSERVED,
        note="Nonlinear and non-autonomous: what is wrong in the nodes of a method shows."),
    reference(
        "regulator/backwards", regulator, expr("theta[1]*y[0]**2 - 2*theta[0]*y[0] - theta[2]"),
        y0=[0.25], theta=[0.5, 1.0, 2.0], span=(3.0, 0.0), ts=[2.5, 1.125, 0.0], loss=sumsq([[1.0, 2.0, 2.0]]),
        exposes=("sign", "t0_gradient_sign", "interior_jumps_missing", "stops_at_first_observation"),
        note="The cost-to-go of a linear regulator, from the end of its horizon to the beginning: t1 < t0."),
    relaxation(10), relaxation(100),
    relaxation_observed(50), relaxation_observed(200), relaxation_observed(1000),
    oscillator("forced_oscillator/late_start", 5.25, 8.75, [5.828125, 6.734375, 7.640625, 8.75],
               "Starts at t0 = 5.25: who takes the forcing from zero is wrong.", ("low_order_interpolation",)),
    oscillator("forced_oscillator/time_2p20", 2.0 ** 20, 2.0 ** 20 + 3.5,
               [2.0 ** 20 + k for k in (0.625, 1.5, 2.375, 3.5)],
               "The same at t0 = 2^20, where float32 knows times to 1/8 only.", ("time_cast_to_single",),
               hvp_direction={"y0": [1.0, -0.5], "theta": [0.25, 0.75, -1.0, 2.0 ** -21, -0.25]}),
)


# --- rotations and flows --------------------------------------------------------------------------

FLOWS = (
    reference(
        "damped_rotation/complex", damped_rotation, ROTATION,
        y0=[1.0, 0.5], theta=[0.125, 3.0], span=(0.0, 4.0), ts=[0.578125, 1.765625, 2.890625, 4.0],
        loss=linear([[1.0, -0.5, 0.25, 0.75], [0.5, 1.0, -0.25, 1.5]]),
        exposes=("transposed_jacobian", "permuted_parameters") + OBSERVED,
        note="z' = (i w - a) z as two real states: the Jacobian and its transpose turn in opposite directions."),
    reference(
        "damped_rotation/t64", damped_rotation, ROTATION,
        y0=[1.0, 0.5], theta=[0.0, 1.0], span=(0.0, 64.0), ts=[16.0, 40.5, 64.0],
        loss=linear([[1.0, -0.5, 0.25], [0.5, 1.0, -0.25]]),
        exposes=("transposed_jacobian", "first_order_quadrature", "single_precision"),
        note="A harmonic oscillator over ten turns: a symplectic pair keeps the product of tangent and cotangent."),
    reference(
        "linear_density/liouville", linear_density,
        expr("theta[0]*y[0] + theta[1]*y[1]", "theta[2]*y[0] + theta[3]*y[1]", "-theta[0] - theta[3]"),
        y0=[0.75, -0.5, 0.0], theta=[-0.5, 1.0, 0.25, 0.375], span=(0.0, 2.0),
        loss=final("y[2] - y[0]**2/2 - y[1]**2/2"),
        names={"y": ["z0", "z1", "log_density"], "theta": ["a00", "a01", "a10", "a11"]},
        exposes=("transposed_jacobian", "permuted_parameters", "component_term_dropped", "last_jump_missing"),
        note="A linear flow with its log-density: what the trace adds is known exactly."),
)

PROBLEMS = TWINS + DECAYS + FORCED + FLOWS
