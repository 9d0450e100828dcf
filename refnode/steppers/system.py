"""What a stepper steps: a named tuple of everything a right-hand side needs, and the body that evaluates it.

A driver cannot be handed a compiled body as an argument and still be cached on disk, so the body is
chosen by the *type* of the tuple, when the driver is compiled. `Plain` is a user's field; the variational
and adjoint systems in `sensitivity.equations` are others.
"""
import collections

from numba.extending import overload

from refnode.host_device import BODY, higher_order, outlined, python_form

Plain = collections.namedtuple("Plain", ["f"])

RIGHT_HAND_SIDES = {}


def right_hand_side_of(*systems):
    """Decorator: register a body ``(system, t, y, theta, tape, dy)`` for one or more named-tuple types.

    A driver evaluates its system in seven places; all but a user's field are long enough to be worth one copy.
    """
    def register(body):
        compiled = (higher_order if Plain in systems else outlined)(body)
        RIGHT_HAND_SIDES.update(dict.fromkeys(systems, compiled))
        return compiled
    return register


def evaluate(system, t, y, theta, tape, dy):
    """dy = f(t, y, theta), for whatever kind of system it is."""
    python_form(RIGHT_HAND_SIDES[type(system)])(system, t, y, theta, tape, dy)


@overload(evaluate, jit_options=BODY)
def _evaluate(system, t, y, theta, tape, dy):
    body = RIGHT_HAND_SIDES[system.instance_class]

    def implementation(system, t, y, theta, tape, dy):
        body(system, t, y, theta, tape, dy)
    return implementation


@right_hand_side_of(Plain)
def plain_rhs(system, t, y, theta, tape, dy):
    system.f(t, y, theta, tape, dy)


evaluate.on_device = plain_rhs                  # the one system that is stepped on a GPU
