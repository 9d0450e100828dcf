"""Reference problems with right-hand sides of two pieces or more: kinks, steps, thresholds, bounces, and the time of an event.

The time of an event is measured without events: a clock is one more state, which runs until the switch.
"""
import math

from refnode.fields.bouncing import bounces
from refnode.fields.switched import (
    bounce, dose_decay, kink_forcing, state_rate, step_forcing, time_rate, timed_decay, timed_fall)
from refnode.problems.reference_problem import dyadic, expr, linear, reference

ALL = ("jvp", "vjp", "hvp")
REFUSED = "; refnode refuses a derivative through such a switch, other than piece by piece (`piecewise_gradient`)."


def pieces(first, second, time=None, state=None):
    """Two lists of texts, and where the second takes over: at a time, or where a text in y and theta reaches 0."""
    switch = {"time": time} if state is None else {"state": state}
    return {"pieces": [expr(*first), expr(*second)], "switch": switch}


def flights(count):
    """The flights of a ball around its bounces: divided by (-e)^k behind bounce k, they are above and below the ground in turn."""
    falls = ["-theta[0]", "theta[0]/theta[1]", *(f"{'-' if k % 2 == 0 else ''}theta[0]/theta[1]**{k}" for k in range(2, count + 1))]
    return {"pieces": [expr("y[1]", fall) for fall in falls],
            "switch": [{"state": "y[0]" if k % 2 else "-y[0]"} for k in range(count)]}


DECAY_PIECES = pieces(["-theta[0]*y[0]", "1"], ["-theta[0]*y[0]", "0"], state="theta[1] - y[0]")
HALF_LIFE = dyadic(math.log(2.0))

PROBLEMS = (
    reference(
        "kink_forcing/ramp", kink_forcing,
        pieces(["-theta[1]*y[0] + theta[2]*t"],
               ["-theta[1]*y[0] + theta[2]*theta[0] + theta[3]*(t - theta[0])"], time="theta[0]"),
        y0=[1.0], theta=[0.71875, 1.5, 2.0, -3.0], span=(0.125, 2.0), ts=[1.0, 1.46875, 2.0],
        loss=linear([[0.5, -0.25, 1.0]]), hvp_direction=None, withheld=("hvp",),
        exposes=("differentiated_step_control", "step_heuristic_leak", "switch_time_ignored", "low_order_interpolation"),
        note="A piecewise-linear forcing, as from interpolated data; its kink is at a parameter: the right-hand "
             "side is continuous, so a gradient needs no term there, but a second derivative would."),
    reference(
        "step_forcing/dose", step_forcing,
        pieces(["-theta[1]*y[0] + theta[2]"], ["-theta[1]*y[0] + theta[3]"], time="theta[0]"),
        y0=[1.0], theta=[0.71875, 1.5, 2.0, -0.5], span=(0.125, 2.0), ts=[1.0, 1.46875, 2.0],
        loss=linear([[0.5, -0.25, 1.0]]), hvp_direction=None, withheld=ALL, exposes=("switch_time_ignored",),
        note="An infusion that is switched at a parameter" + REFUSED),
    reference(
        "dose_decay/instant", dose_decay,
        pieces(["-theta[1]*y[0]"], ["-theta[1]*(y[0] + theta[2])"], time="theta[0]"),
        y0=[1.0], theta=[0.71875, 1.5, 0.75], span=(0.125, 2.0), loss=linear([[1.0]]), hvp_direction=None, withheld=ALL,
        exposes=("switch_time_ignored",),
        note="A dose D given at once at the time s, as the amount less what was dosed: the gradient for s is "
             "k D exp(-k (t1 - s))" + REFUSED),
    reference(
        "time_rate/switch", time_rate, pieces(["theta[1]"], ["theta[2]"], time="theta[0]"),
        y0=[0.0], theta=[0.71875, 2.0, 0.5], span=(0.0, 1.0), loss=linear([[1.0]]), hvp_direction=None, withheld=ALL,
        exposes=("switch_time_ignored",),
        note="A rate of 2 before the switch, of 1/2 after it: the gradient for the switch time is 3/2" + REFUSED),
    reference(
        "state_rate/threshold", state_rate, pieces(["theta[1]"], ["theta[2]"], state="y[0] - theta[0]"),
        y0=[0.0], theta=[0.53125, 1.0, 3.0], span=(0.0, 1.0), loss=linear([[1.0]]), hvp_direction=None, withheld=ALL,
        exposes=("state_switch_ignored",),
        note="A rate of 1 below the threshold, of 3 above it: the gradient for y0 is 3, for the threshold -2" + REFUSED),
    reference(
        "timed_fall/event_time", timed_fall,
        pieces(["y[1]", "-theta[0]", "1"], ["y[1]", "-theta[0]", "0"], state="theta[1] - y[0]"),
        y0=[4.0, 0.0, 0.0], theta=[9.8125, 0.5], span=(0.0, 1.5), loss=linear([[0.0], [0.0], [1.0]]),
        hvp_direction=None, withheld=ALL, zero=("t0", "t1"), exposes=("state_switch_ignored",),
        note="The time of a fall to a height, as a clock that stops there: gradients for both heights, velocity and "
             "gravity" + REFUSED),
    reference(
        "timed_decay/event_time", timed_decay, DECAY_PIECES,
        y0=[2.0, 0.0], theta=[0.75, 0.5], span=(0.0, 3.0), loss=linear([[0.0], [1.0]]), hvp_direction=None, withheld=ALL,
        zero=("t0", "t1"), exposes=("state_switch_ignored",),
        note="The time of a decay to a level, log(y0/level)/rate, as a clock that stops there" + REFUSED),
    reference(
        "timed_decay/observed_at_event", timed_decay, DECAY_PIECES,
        y0=[1.0, 0.0], theta=[1.0, 0.5], span=(0.0, 1.0), ts=[HALF_LIFE - 2.0 ** -20, HALF_LIFE + 2.0 ** -20, 1.0],
        loss=linear([[1.0, 0.5, 0.25], [0.5, 1.0, -0.5]]), hvp_direction=None, withheld=ALL, exposes=("state_switch_ignored",),
        note="Observed 2^-20 before and after the clock stops at log 2" + REFUSED),
    reference(
        "bounce/once", bounce, pieces(["y[1]", "-theta[0]"], ["y[1]", "theta[0]/theta[1]"], state="-y[0]"),
        y0=[2.0, 0.25], theta=[9.8125, 0.75], span=(0.125, 1.5), ts=[1.0, 1.25, 1.5],
        loss=linear([[0.5, -1.0, 1.0], [0.25, 0.125, -0.5]]), hvp_direction=None, withheld=ALL, exposes=("state_switch_ignored",),
        note="A ball falls, and bounces with a restitution e; after the bounce the state shows the flight divided by -e, which is "
             "continuous: the height is -e y[0], the velocity -e y[1]" + REFUSED),
    reference(
        "bounce/thrice", bounces, flights(3),
        y0=[2.0, 0.25], theta=[9.8125, 0.75], span=(0.125, 2.875), ts=[0.5, 1.25, 2.125, 2.5, 2.875],
        loss=linear([[0.25, 0.5, -1.0, 0.75, 1.0], [0.125, 0.25, 0.5, -0.25, -0.5]]), hvp_direction=None, withheld=ALL,
        exposes=("state_switch_ignored", "one_switch_ignored"),
        note="The same ball bounces three times, and is observed in every flight: three switches, each with a jump of the adjoint; "
             "behind bounce k the height is (-e)^k y[0], the velocity (-e)^k y[1]" + REFUSED),
)
