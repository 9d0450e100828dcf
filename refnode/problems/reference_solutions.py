"""The closed forms of reference problems, as texts: y(t) in t, t0, y0[i] and theta[j].

They are in the grammar of `fields.expressions` (with y0 and t0 beside t, y and theta), so that any arithmetic can
evaluate them: float64, complex steps, balls. Where a problem is of two pieces, the form holds after the switch.
"""
import math

from refnode.problems.reference_problem import expr

S = "(t - t0)"


# --- one form for each field ----------------------------------------------------------------------

def twin_growth():
    growth = f"(y0[0] - y0[1])*(exp((theta[0] + theta[1])*{S}) - 1)/(theta[0] + theta[1])"
    return expr(f"y0[0] + theta[0]*{growth}", f"y0[1] - theta[1]*{growth}")


def exponential_decay():
    return expr(f"y0[0]*exp(-theta[0]*{S})")


def logistic():
    """Verhulst 1838."""
    return expr(f"theta[1]/(1 + (theta[1]/y0[0] - 1)*exp(-theta[0]*{S}))")


def cosine_relaxation():
    """The slow solution (k^2 cos + k sin)/(k^2 + 1), and the decay of what is not on it."""
    slow = "(theta[0]**2*cos({0}) + theta[0]*sin({0}))/(theta[0]**2 + 1)".format
    return expr(f"{slow('t')} + (y0[0] - {slow('t0')})*exp(-theta[0]*{S})")


def exchange():
    """The conserved total S, shared as k2 : k1, and the decay of what is not."""
    rest = "(y0[0] + y0[1])*theta[{}]/(theta[0] + theta[1])".format
    away = f"(y0[0] - {rest(1)})*exp(-(theta[0] + theta[1])*{S})"
    return expr(f"{rest(1)} + {away}", f"{rest(0)} - {away}")


def outflow():
    return expr(f"(sqrt(y0[0]) - theta[0]*{S}/2)**2")


def regulator():
    """(P - P+)/(P - P-) grows as exp(2 r (t - t0)) between the roots P+- = (a +- r)/b, r^2 = a^2 + b q."""
    r = "sqrt(theta[0]**2 + theta[1]*theta[2])"
    upper, lower = f"((theta[0] + {r})/theta[1])", f"((theta[0] - {r})/theta[1])"
    ratio = f"((y0[0] - {upper})/(y0[0] - {lower})*exp(2*{r}*{S}))"
    return expr(f"({upper} - {lower}*{ratio})/(1 - {ratio})")


def sine_forcing():
    """The periodic solution a (k sin - w cos)/(k^2 + w^2), and the decay of what is not on it."""
    periodic = ("theta[1]*(theta[0]*sin(theta[2]*{0}) - theta[2]*cos(theta[2]*{0}))"
                "/(theta[0]**2 + theta[2]**2)").format
    return expr(f"{periodic('t')} + (y0[0] - {periodic('t0')})*exp(-theta[0]*{S})")


def damped_rotation():
    damping = f"exp(-theta[0]*{S})"
    c, s = f"cos(theta[1]*{S})", f"sin(theta[1]*{S})"
    return expr(f"{damping}*({c}*y0[0] - {s}*y0[1])", f"{damping}*({s}*y0[0] + {c}*y0[1])")


def forced_oscillator():
    """The periodic solution and a damped oscillation of frequency sqrt(k - c^2/4) about it."""
    detuning, drag = "(theta[0] - theta[3]**2)", "theta[1]*theta[3]"
    gain = f"theta[2]/({detuning}**2 + ({drag})**2)"
    q = f"{gain}*({detuning}*cos(theta[3]*{{0}} + theta[4]) + {drag}*sin(theta[3]*{{0}} + theta[4]))"
    v = f"theta[3]*{gain}*({drag}*cos(theta[3]*{{0}} + theta[4]) - {detuning}*sin(theta[3]*{{0}} + theta[4]))"
    frequency, half = "sqrt(theta[0] - theta[1]**2/4)", "theta[1]/2"
    q_off, v_off = f"(y0[0] - {q.format('t0')})", f"(y0[1] - {v.format('t0')})"
    c, s = f"cos({frequency}*{S})", f"sin({frequency}*{S})/{frequency}"
    return expr(f"{q.format('t')} + exp(-{half}*{S})*({q_off}*{c} + ({v_off} + {half}*{q_off})*{s})",
                f"{v.format('t')} + exp(-{half}*{S})*({v_off}*{c} - (theta[0]*{q_off} + {half}*{v_off})*{s})")


def linear_density():
    """exp(A t) = exp(m t) (cosh(r t) + sinh(r t)/r (A - m)) for 2 x 2 matrices, m = tr A/2, r^2 = m^2 - det A."""
    m, r = "((theta[0] + theta[3])/2)", "sqrt((theta[0] - theta[3])**2/4 + theta[1]*theta[2])"
    grow, c, s = f"exp({m}*{S})", f"cosh({r}*{S})", f"sinh({r}*{S})/{r}"
    return expr(f"{grow}*({c}*y0[0] + {s}*((theta[0] - {m})*y0[0] + theta[1]*y0[1]))",
                f"{grow}*({c}*y0[1] + {s}*(theta[2]*y0[0] + (theta[3] - {m})*y0[1]))",
                f"y0[2] - (theta[0] + theta[3])*{S}")


# --- after a switch ---------------------------------------------------------------------------------

def kink_forcing():
    """Of y' = -k y + c + d t the slow solution is c/k + d (t - 1/k)/k; once for each piece."""
    slow = "(({0})/theta[1] + ({1})*({2} - 1/theta[1])/theta[1])".format
    at_switch = (f"({slow('0', 'theta[2]', 'theta[0]')} + (y0[0] - {slow('0', 'theta[2]', 't0')})"
                 "*exp(-theta[1]*(theta[0] - t0)))")
    late = ("(theta[2] - theta[3])*theta[0]", "theta[3]")
    return expr(f"{slow(*late, 't')} + ({at_switch} - {slow(*late, 'theta[0]')})*exp(-theta[1]*(t - theta[0]))")


def step_forcing():
    at_switch = "(theta[2]/theta[1] + (y0[0] - theta[2]/theta[1])*exp(-theta[1]*(theta[0] - t0)))"
    return expr(f"theta[3]/theta[1] + ({at_switch} - theta[3]/theta[1])*exp(-theta[1]*(t - theta[0]))")


def dose_decay():
    return expr(f"y0[0]*exp(-theta[1]*{S}) + theta[2]*(exp(-theta[1]*(t - theta[0])) - 1)")


def time_rate():
    return expr("y0[0] + theta[1]*(theta[0] - t0) + theta[2]*(t - theta[0])")


def state_rate():
    return expr("theta[0] + theta[2]*(t - t0 - (theta[0] - y0[0])/theta[1])")


def timed_fall():
    """The clock stops after (v + sqrt(v^2 + 2 g (y - h)))/g."""
    return expr(f"y0[0] + y0[1]*{S} - theta[0]*{S}**2/2", f"y0[1] - theta[0]*{S}",
                "y0[2] + (y0[1] + sqrt(y0[1]**2 + 2*theta[0]*(y0[0] - theta[1])))/theta[0]")


def timed_decay():
    """The clock stops after log(y/c)/k."""
    return expr(f"y0[0]*exp(-theta[0]*{S})", "y0[1] + log(y0[0]/theta[1])/theta[0]")


def timed_decay_before():
    """While the clock runs."""
    return expr(f"y0[0]*exp(-theta[0]*{S})", f"y0[1] + {S}")


def bounce():
    """At the ground after (v + u)/g with the velocity -u, u = sqrt(v^2 + 2 g h); from there a parabola of g/e."""
    u = "sqrt(y0[1]**2 + 2*theta[0]*y0[0])"
    late = f"({S} - (y0[1] + {u})/theta[0])"
    return expr(f"-{u}*{late} + theta[0]/theta[1]*{late}**2/2", f"-{u} + theta[0]/theta[1]*{late}")


IMPACT = "sqrt(y0[1]**2 + 2*theta[0]*y0[0])"       # the speed u at the ground


def bounce_time(k):
    """When a ball meets the ground for the k-th time: t0 + (v + u)/g + 2 u/g (e + ... + e^(k-1))."""
    flights = " + ".join(["0", *(f"theta[1]**{j}" for j in range(1, k))])
    return f"(t0 + (y0[1] + {IMPACT})/theta[0] + 2*{IMPACT}/theta[0]*({flights}))"


def bounced(k):
    """The flight behind bounce k divided by (-e)^k: it begins with the velocity (-1)^k u, and falls with g/(-e)^k."""
    if k == 0:
        return expr(f"y0[0] + y0[1]*{S} - theta[0]*{S}**2/2", f"y0[1] - theta[0]*{S}")
    late, sign = f"(t - {bounce_time(k)})", "-" if k % 2 else ""
    fall = f"({'' if k % 2 else '-'}theta[0]/theta[1]**{k})"
    return expr(f"{sign}{IMPACT}*{late} + {fall}*{late}**2/2", f"{sign}{IMPACT} + {fall}*{late}")


# --- which problem has which ------------------------------------------------------------------------

FORMS = {
    "twin_growth": twin_growth, "exponential_decay": exponential_decay, "logistic": logistic,
    "cosine_relaxation": cosine_relaxation, "exchange": exchange, "outflow": outflow, "regulator": regulator,
    "sine_forcing": sine_forcing, "damped_rotation": damped_rotation, "forced_oscillator": forced_oscillator,
    "linear_density": linear_density, "kink_forcing": kink_forcing, "step_forcing": step_forcing,
    "dose_decay": dose_decay, "time_rate": time_rate, "state_rate": state_rate, "timed_fall": timed_fall, "timed_decay": timed_decay,
    "bounce": bounce,
}

# Integral of the running cost over [t0, t], as text.
RUNNING_FORMS = {
    "exponential_decay/mixed_loss": f"y0[0]**2*(1 - exp(-2*theta[0]*{S}))/(2*theta[0])",
}


def solution_texts(problem, t=None):
    """Texts of y(t), one for each state of a `ReferenceProblem`; None if no closed form is known.

    ``t`` matters to problems of several pieces alone; by default it is the end.
    """
    subject, _, name = problem.id.partition("/")
    if subject not in FORMS:
        return None
    if name == "observed_at_event" and t is not None and t < problem.ts[1]:
        return timed_decay_before()["expr"]
    if problem.id == "bounce/thrice":
        return bounced(bounces_before(problem, problem.t1 if t is None else t))["expr"]
    return FORMS[subject]()["expr"]


def bounces_before(problem, t):
    """How many times the ball of `problem` has met the ground before t."""
    (h, v), (g, e) = problem.y0, problem.theta
    speed = math.sqrt(v ** 2 + 2.0 * g * h)
    times = (problem.t0 + (v + speed) / g + 2.0 * speed / g * sum(e ** j for j in range(1, k)) for k in range(1, 4))
    return sum(t > at for at in times)
