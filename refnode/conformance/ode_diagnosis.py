"""The dictionary of known mistakes of ODE gradients, and which of them explains a wrong one."""
from dataclasses import dataclass

import numpy as np

from refnode.conformance import ode_candidates as known
from refnode.gradcheck.diagnosis import EXPLAINS, Mismatch, diagnose

SAME = 10.0          # candidates whose residuals differ by less than this factor are not told apart,
CERTAIN = 1e-4       # a candidate that leaves less of the mismatch than this ends the search among cheap ones
NEGLIGIBLE = 1e-3    # nor those that leave less than this part of the mismatch
SMALL = 0.3          # E below which a gradient is inaccurate rather than another one
TINY_LOSS = 1e-6     # cotangents below which an absolute tolerance of lambda is suspected


@dataclass(frozen=True)
class Mistake:
    """A known mistake: what it is, what cures it, and how it is recognised ("value", "behaviour" or "both")."""

    title: str
    fix: str
    by: str = "value"
    see: str = "docs/derivations/continuous_adjoint.md"


MISTAKES = {
    "sign": Mistake("the sign is flipped", "integrate lambda' = -(df/dy)^T lambda from t1 down to t0."),
    "factor_two": Mistake("twice the gradient", "a term is counted twice, or the loss is half of what was differentiated."),
    "factor_half": Mistake("half the gradient", "the derivative of (y - data)**2 is 2*(y - data)."),
    "mean_for_sum": Mistake("a mean in place of a sum", "differentiate the loss as the problem states it."),
    "interior_jumps_missing": Mistake(
        "jumps at interior observations missing",
        "stop the backward solve at every observation and add the cotangent: lambda += dL/dy(t_k)."),
    "last_jump_missing": Mistake("the jump at the last observation missing", "begin with lambda(t1) = dL/dy(t1)."),
    "last_jump_doubled": Mistake(
        "the jump at the last observation doubled",
        "an observation at t1 is the start value of lambda or a jump there, not both."),
    "first_jump_missing": Mistake(
        "the jump at the first observation missing", "add the cotangent of the first observation too, also at t0 itself."),
    "transposed_jacobian": Mistake("df/dy in place of its transpose", "lambda' = -(df/dy)^T lambda: use the vjp, not the jvp."),
    "loss_time_derivative_missing": Mistake(
        "derivatives by observation times missing", "dL/dt_k = dL/dy(t_k) f(t_k, y(t_k)).",
        see="docs/derivations/discrete_adjoint.md"),
    "running_cost_missing": Mistake("the running cost missing", "lambda' = -(df/dy)^T lambda - dg/dy, and dg/dtheta in the "
                                    "parameter integral."),
    "first_order_quadrature": Mistake(
        "the parameter integral by a first-order sum",
        "integrate lambda^T df/dtheta as a state of the backward solve, or by a rule of its order.", "both"),
    "permuted_parameters": Mistake("parameters permuted", "return theta in the order in which the problem has it."),
    "component_term_dropped": Mistake("the term of one component dropped", "sum lambda_i df_i over every equation i."),
    "single_precision": Mistake("a part computed in float32", "set float64 for times, states, parameters and cotangents.",
                                "both"),
    "low_order_interpolation": Mistake(
        "y read by an interpolant of low order",
        "read y(t) by the dense output of the method, or stop at the times asked for.", "both"),
    "backsolve_drift": Mistake(
        "y solved backwards drifts", "store y or checkpoints of it; this problem cannot be solved backwards.", "both"),
    "uncontrolled_tangent": Mistake(
        "steps chosen by the state alone", "let the error norm see the tangents, or the adjoint; a smaller tolerance does "
        "not help where the state is at rest.", "both", "docs/derivations/variational.md"),
    "error_independent_of_tolerance": Mistake(
        "an error that no tolerance cures", "a term is missing or wrong: check df/dy and df/dtheta by finite differences.",
        "behaviour"),
    "first_nan": Mistake("not a number", "look at the first one; rejected steps and 0*inf in a derivative are the usual causes."),
    "t0_gradient_sign": Mistake("the sign of dL/dt0", "dL/dt0 = -lambda(t0)^T f(t0, y0) with y(t0) = y0 held.",
                                see="docs/derivations/discrete_adjoint.md"),
    "t1_gradient_missing": Mistake("dL/dt1 missing", "dL/dt1 = lambda(t1)^T f(t1, y(t1)), plus the running cost at t1.",
                                   see="docs/derivations/discrete_adjoint.md"),
    "differentiated_step_control": Mistake(
        "the derivative goes through the step control", "hold the step sizes: stop the gradient at the controller.",
        "behaviour", "docs/derivations/step_control.md"),
    "step_heuristic_leak": Mistake(
        "the derivative goes through the automatic first step", "stop the gradient at the first step, or give it.",
        "behaviour", "docs/derivations/step_control.md"),
    "quadrature_not_controlled": Mistake(
        "the parameter integral without error control", "let the error norm see the parameter integral.", "both"),
    "switch_time_ignored": Mistake("a switching time ignored", "dL/dtau += lambda^T (f_before - f_after) at the switch tau."),
    "state_switch_ignored": Mistake(
        "a switch by the state ignored", "stop at the switch and add its jump (saltation) to lambda and theta."),
    "one_switch_ignored": Mistake(
        "one of several switches ignored", "add the jump (saltation) at every switch, each with the pieces on its own two sides."),
    "absolute_tolerance_on_adjoint": Mistake(
        "an absolute tolerance that does not know the size of the loss",
        "scale the absolute tolerance of lambda by the largest dL/dy.", "both"),
    "hidden_forcing": Mistake(
        "a forcing that the state's steps do not see", "let the error norm see the tangent or the adjoint of the parameter "
        "that is at zero.", "both", "docs/derivations/variational.md"),
    "batch_dilution": Mistake(
        "one error norm for a batch", "control the error of every sample: a norm over the batch hides the active one.",
        "both", "docs/batches.md"),
    "stops_at_first_observation": Mistake(
        "the backward solve stops at the first observation", "integrate lambda down to t0, past the first observation."),
    "time_cast_to_single": Mistake("times in float32", "keep the time in float64."),
    "zero_gradient": Mistake("zero", "the output does not depend on the inputs in the graph that was differentiated."),
    "parameter_captured": Mistake(
        "a parameter that was never differentiated", "pass it as an argument: what a closure captures has no gradient."),
}


@dataclass(frozen=True)
class Finding:
    """A line of a diagnosis.

    Attributes
    ----------
    key : str or None
        Of `MISTAKES`; None for a remark.
    text, fix, see : str
    residual : float or None
        What the mistake leaves unexplained, as E; None where no value was compared.
    """

    key: str | None
    text: str
    fix: str = ""
    see: str = ""
    residual: float | None = None

    def __str__(self):
        return self.text


def finding(key, text, residual=None):
    """A `Finding` with the cure of its mistake."""
    return Finding(key, text, MISTAKES[key].fix, MISTAKES[key].see, residual)


# --- by value -------------------------------------------------------------------------------------

def diagnose_by_value(comparison):
    """Findings that explain a gradient that is off in (y0, theta) or in the times; the best first.

    `comparison` has suspects, problem, reference, inputs, rhs, yours (NaN where absent), units and wrong.
    """
    core = np.arange(comparison.inputs.blocks["grad_theta"].stop)
    core = core[~np.isnan(comparison.yours[core])]
    if comparison.wrong[core].any():
        return _of_core(comparison, core)
    return _of_times(comparison)


def _of_core(comparison, core):
    mismatch = Mismatch(comparison.yours[core], comparison.reference.gradient[core], comparison.units[core],
                        comparison.wrong[core], [comparison.inputs.names[i] for i in core])
    zeros = _not_moving(comparison, core)
    moving = "pieces" in comparison.rhs            # where a zero may be that of a switch, before that of a closure
    found = _of_candidates(comparison, mismatch, core, [] if moving else zeros)
    found = _grouped(found + zeros if moving else found, mismatch.size)
    return found or _permuted(mismatch, comparison) or _by_signature(comparison, mismatch, core)


def _of_candidates(comparison, mismatch, core, found):
    """`found`, and a finding for every candidate that explains the mismatch."""
    def explained():
        return any(f.residual <= CERTAIN * mismatch.size and f.key != "parameter_captured" for f in found)

    found = list(found)
    for candidate in comparison.suspects.candidates(explained):
        gradient = candidate.gradient[core]
        if mismatch.explained_by(gradient):
            residual = mismatch.residual(gradient)
            found.append(finding(candidate.key, f"yours equals ({residual:.1e}) the gradient {candidate.what}.", residual))
    return found


def _grouped(found, size):
    """The best finding, those as good, and those that this problem hardly tells from it; one for each key."""
    if not found:
        return []
    least = min(f.residual for f in found)
    kept, keys = [], set()
    for f in sorted(found, key=lambda f: f.residual > SAME * least):
        if f.residual <= max(SAME * least, NEGLIGIBLE * size) and f.key not in keys:
            keys.add(f.key)
            kept.append(f)
    return kept


def _not_moving(comparison, core):
    """Parameters whose derivative is exactly 0, everything else being right."""
    zeros = (comparison.yours[core] == 0.0) & comparison.wrong[core]
    if not zeros.any() or (comparison.wrong[core] & ~zeros).any() or not comparison.yours[core].any() or not (core[zeros] >= comparison.inputs.n).all():
        return []
    names = ", ".join(comparison.inputs.names[i] for i in core[zeros][:6])
    return [finding("parameter_captured", f"yours is exactly 0 for {names}, and right elsewhere.", 0.0)]


def _permuted(mismatch, comparison):
    """Sorting both finds any permutation, of theta alone too."""
    n = comparison.inputs.n
    theta = slice(n, mismatch.yours.size)
    for members, what in ((theta, "theta"), (slice(0, n), "y0")):
        yours, right = mismatch.yours[members], mismatch.reference[members]
        order = known.permutation(yours, right)
        gradient = mismatch.reference.copy()
        gradient[members] = right[order]
        if len(yours) > 1 and mismatch.explained_by(gradient):
            shown = ", ".join(map(str, order[:12])) + (", …" if order.size > 12 else "")
            return [finding("permuted_parameters", f"yours matches after permutation [{shown}] of {what}: yours[k] = "
                            "reference[order[k]].", mismatch.residual(gradient))]
    return []


# --- by what the numbers look like --------------------------------------------------------------------

def _by_signature(comparison, mismatch, core):
    """Mistakes whose values depend on the steps taken: recognised by where the error is, and by what the problem is."""
    n, theta_at_fault = comparison.inputs.n, not comparison.wrong[core][:comparison.inputs.n].any()
    found = _float32(mismatch)
    if found:
        return found
    tiny = max((np.max(np.abs(seed), initial=0.0) for seed in comparison.reference.seeds)) < TINY_LOSS
    if tiny and comparison.problem.loss.running is None:
        return [finding("absolute_tolerance_on_adjoint", "the cotangents are smaller than the usual absolute tolerances.")]
    found = _of_this_problem(comparison, theta_at_fault)
    if found:
        return found
    if theta_at_fault and mismatch.size < SMALL and comparison.wrong[core][n:].sum() > 0:
        return [finding("first_order_quadrature", "y0 is right and theta is not: the parameter integral is summed by a rule "
                        f"of low order, or outside the error control (E = {mismatch.size:.1e})."),
                finding("quadrature_not_controlled", "or the error norm does not see the parameter integral.")]
    if mismatch.size < SMALL and mismatch.reference.size > 1:
        return [finding("low_order_interpolation", f"every block is inaccurate (E = {mismatch.size:.1e}) and none is "
                        "another gradient: y is read through an interpolant of low order, or the tolerance is loose.")]
    lines = [Finding(None, line + ".") for line in diagnose(mismatch)]
    return [finding("error_independent_of_tolerance", "no known mistake has this value: a term of the derivative is wrong, "
                    "unless the tolerance is loose."), *lines]


def all_singles(yours):
    """A finding if every number is a float32 to the last bit, some with so many digits that it is no accident."""
    numbers = yours[(yours != 0) & ~np.isnan(yours)]
    with np.errstate(over="ignore", under="ignore"):
        singles = numbers.size > 1 and np.array_equal(numbers, numbers.astype(np.float32).astype(float))
        short = np.array_equal(numbers, numbers.astype(np.float16).astype(float))
    return [finding("single_precision", "every number of yours is a float32.")] if singles and not short else []


def _float32(mismatch):
    """Numbers that are float32 to the last bit, or errors of that size."""
    if mismatch.size < 1e-2 and (found := all_singles(mismatch.yours)):
        return found
    nonzero = mismatch.reference != 0
    relative = np.abs(mismatch.yours - mismatch.reference)[nonzero] / np.abs(mismatch.reference[nonzero])
    if relative.size and mismatch.size < 1e-4 and 3e-9 < np.median(relative) < 3e-6:
        return [finding("single_precision", f"the errors are of float32 size (median {np.median(relative):.0e}).")]
    return []


def norm_at_zero(comparison):
    """Causes of a NaN where the state is at rest: the error estimate is 0, and the root of its square has no slope there."""
    if known.resting_states(comparison.problem) < 1.0:
        return []
    why = "the state is at rest, so that the estimated error is exactly 0: the derivative of its norm is 0/0"
    return [finding("differentiated_step_control", f"{why} if it goes through the step-size control."),
            finding("step_heuristic_leak", "or through the automatic first step.")]


def _of_this_problem(comparison, theta_at_fault):
    """Mechanisms that refnode's own probes find on this problem."""
    problem, found = comparison.problem, []
    if known.resting_states(problem) > 0.9 and problem.y0.size >= 32:
        found.append(finding("batch_dilution", "nearly all states are at rest: a norm over all of them does not see the others."))
    if comparison.suspects.tangent_is_unresolved:
        hidden = np.flatnonzero(problem.theta == 0.0).size > 0
        keys = ("hidden_forcing", "uncontrolled_tangent") if hidden else ("uncontrolled_tangent",)
        found += [finding(key, "steps that serve the state do not resolve the tangent on this problem "
                          "(refnode's probe warns, too).") for key in keys]
        if hidden and theta_at_fault:
            found.append(finding("quadrature_not_controlled", "or the error norm does not see the parameter integral."))
    if not found and comparison.state_right and comparison.suspects.backsolve_drifts:
        found.append(finding("backsolve_drift", "y and the loss are right, and y cannot be solved backwards on this problem "
                             "(refnode's own backsolve warns, too)."))
    return found


# --- times ------------------------------------------------------------------------------------------

def _of_times(comparison):
    """y0 and theta are right; some time is not."""
    blocks, found = comparison.inputs.blocks, _float32(_present(comparison))
    if found:
        return found
    for block, key, expected, text in (
            ("grad_t0", "t0_gradient_sign", -1.0, "dL/dt0 has the opposite sign."),
            ("grad_t1", "t1_gradient_missing", 0.0, "dL/dt1 is zero."),
            ("grad_ts", "loss_time_derivative_missing", 0.0, "the derivatives by the observation times are zero.")):
        members = np.arange(comparison.yours.size)[blocks[block]]
        members = members[comparison.wrong[members]]
        if not members.size:
            continue
        right, yours = comparison.reference.gradient[members], comparison.yours[members]
        off = np.abs(yours - expected * right) <= EXPLAINS * np.abs(yours - right)
        other = {1.0: "", -1.0: "has the opposite sign", 0.0: "is zero", 2.0: "is doubled"}
        if off.all():
            found.append(finding(key, text, float(np.max(np.abs(yours - expected * right) / comparison.units[members]))))
            continue
        how = next((word for factor, word in other.items() if word and
                    (np.abs(yours - factor * right) <= EXPLAINS * np.abs(yours - right)).all()), "is wrong")
        text = f"{block.removeprefix('grad_')}: the derivative {how}, while those of y0 and theta are right."
        found.append(Finding(None, text) if how == "is wrong" else finding(key, text))
    return found


def _present(comparison):
    """The mismatch over all inputs whose derivative there is."""
    here = np.flatnonzero(~np.isnan(comparison.yours))
    return Mismatch(comparison.yours[here], comparison.reference.gradient[here], comparison.units[here],
                    comparison.wrong[here], [comparison.inputs.names[i] for i in here])
