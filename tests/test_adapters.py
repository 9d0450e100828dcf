"""Each adapter on Lotka-Volterra, against refnode: run by `make test-peers`, where the libraries are installed.

Ways that a library has wrong are told so here: a release that mends them makes a test fail, and the page of
findings is to be changed.
"""
import json

import numpy as np
import pytest

import refnode
from refnode.adapters import ADAPTERS, adapter_named
from refnode.adapters.answer_form import NotExpressible, numbers
from refnode.errors import InvalidInputError
from refnode.problems.certified import certified
from refnode.problems.reference_set import REFERENCE_PROBLEMS

LIBRARIES = {"torchdiffeq": "torchdiffeq", "diffrax": "diffrax", "torchode": "torchode", "casadi": "casadi", "autograd": "autograd",
             "scipy": "scipy", "refnode": "numba"}
WAYS = {                            # default method of every way
    "torchdiffeq": ("odeint", "odeint_adjoint", "seminorm", "event", "event_of_states"),
    "diffrax": ("RecursiveCheckpoint", "Direct", "ForwardMode", "Backsolve", "BacksolveSeminorm", "Event"),
    "torchode": ("AutoDiff", "AutoDiffFrozen", "Backsolve", "BacksolveFromT0"),
    "casadi": ("forward", "adjoint", "adjoint_quad_err_con", "adjoint_polynomial"),
    "autograd": ("odeint", "odeint_twice"), "scipy": ("approx_fprime", "central", "central_event"),
    "refnode": ("discrete", "forward", "interpolating", "backsolve", "quadrature", "gauss", "checkpointed", "through"),
}
WRONG = {("torchode", "Backsolve")}             # stops at the first observation and never reaches t0
OF_SWITCHES = {("torchdiffeq", "event"), ("torchdiffeq", "event_of_states"), ("diffrax", "Event"), ("autograd", "odeint_twice"),
               ("scipy", "central_event")}      # for right-hand sides in two pieces alone
RTOL = 1e-6
ERROR = 1e3 * RTOL                              # 1000 tolerances, as for refnode's own adjoints; healthy ones have 1 to 150


@pytest.fixture(scope="module")
def record():
    return REFERENCE_PROBLEMS["lotka_volterra/obs21"]


@pytest.fixture(scope="module")
def right(record):
    return refnode.gradient(record.problem, "forward", method="dop853", rtol=1e-12, atol=1e-12)


def error_of(yours, right):
    return np.max(np.abs(numbers(yours) - right)) / np.max(np.abs(right))


@pytest.mark.peers
@pytest.mark.parametrize("library, mode", [(library, mode) for library, modes in WAYS.items() for mode in modes
                                           if (library, mode) not in OF_SWITCHES])
def test_gradients_on_lotka_volterra(library, mode, record, right):
    pytest.importorskip(LIBRARIES[library])
    adapter = adapter_named(library)
    assert adapter.versions()
    problem = json.loads(json.dumps(record.to_dict()))
    answer = adapter.answer(problem, mode, adapter.MODES[mode].methods[0], RTOL, RTOL)
    assert json.loads(json.dumps(answer, allow_nan=False)) == answer
    assert answer["problem_sha256"] == problem["sha256"] and answer["tool"]["name"] == library
    assert error_of(answer["loss"], right.loss) <= ERROR and error_of(answer["y"], right.solution.y) <= ERROR
    error = max(error_of(answer["grad"]["y0"], right.y0), error_of(answer["grad"]["theta"], right.theta))
    assert (error > 1e-2) if (library, mode) in WRONG else (error <= ERROR)


@pytest.mark.peers
@pytest.mark.parametrize("library", [name for name in ADAPTERS if name not in ("refnode", "scipy", "autograd")])
@pytest.mark.parametrize("id", ["lotka_volterra/running_cost", "mlp/time_2_16_2", "exponential_decay/mixed_loss"])
def test_losses_and_networks(library, id):
    """A running cost, a network with the time as input, a sum of losses: the loss is right, so the translation is."""
    pytest.importorskip(LIBRARIES[library])
    adapter, record = adapter_named(library), REFERENCE_PROBLEMS[id]
    (mode,) = [name for name, mode in adapter.MODES.items() if mode.default]
    answer = adapter.answer(json.loads(json.dumps(record.to_dict())), mode, adapter.MODES[mode].methods[0], RTOL, RTOL)
    assert error_of(answer["loss"], refnode.gradient(record.problem, rtol=1e-10, atol=1e-12).loss) <= ERROR


def gradient_of(library, mode, id):
    adapter = adapter_named(library)
    adapter.versions()
    answer = adapter.answer(json.loads(json.dumps(REFERENCE_PROBLEMS[id].to_dict())), mode, adapter.MODES[mode].methods[0], RTOL, RTOL)
    return numbers(answer["loss"]), np.concatenate([numbers(answer["grad"]["y0"]), numbers(answer["grad"]["theta"])])


@pytest.mark.peers
@pytest.mark.parametrize("library, mode", sorted(OF_SWITCHES))
@pytest.mark.parametrize("id", ["step_forcing/dose", "state_rate/threshold", "bounce/once", "bounce/thrice"])
def test_switches_solved_in_two(library, mode, id):
    """Right where the library links the time of the switch to what it depends on; torchdiffeq's event knows no parameters."""
    pytest.importorskip(LIBRARIES[library])
    if id == "bounce/thrice" and library not in ("scipy", "diffrax"):
        with pytest.raises(NotExpressible, match="3 switches|there are 3"):
            gradient_of(library, mode, id)
        return
    if (library, id) in {("autograd", "state_rate/threshold"), ("autograd", "bounce/once")}:
        with pytest.raises(NotExpressible, match="finds no events"):
            gradient_of(library, mode, id)
        return
    truth, (loss, found) = certified(id).values, gradient_of(library, mode, id)
    right = np.concatenate([truth["grad_y0"], truth["grad_theta"]])
    assert error_of(loss, truth["loss"]) <= ERROR
    if (library, mode, id) == ("torchdiffeq", "event", "state_rate/threshold"):
        assert found[1] == 0.0 and right[1] == -2.0             # the threshold
        found[1] = right[1]
    assert error_of(found, right) <= ERROR


@pytest.mark.peers
@pytest.mark.parametrize("library, mode", sorted(OF_SWITCHES))
def test_ways_for_switches_need_one(library, mode):
    pytest.importorskip(LIBRARIES[library])
    with pytest.raises(NotExpressible, match="there is none"):
        gradient_of(library, mode, "pendulum/swing")


@pytest.mark.peers
@pytest.mark.parametrize("library", list(ADAPTERS))
def test_every_way_is_tried(library):
    assert set(adapter_named(library).MODES) == set(WAYS[library])


@pytest.mark.parametrize("library", list(ADAPTERS))
def test_adapters_say_what_they_do_without_their_library(library):
    """No foreign import before it is asked for; one way is the default, and unknown names are refused."""
    adapter = adapter_named(library)
    assert adapter.LIBRARY == library and sum(mode.default for mode in adapter.MODES.values()) == 1
    assert all(mode.truth in ("exact", "discrete_frozen", "discrete_through", "unknown") and mode.methods and mode.note
               for mode in adapter.MODES.values())
    for mode, method in (("no such mode", "dopri5"), (next(iter(adapter.MODES)), "no such method")):
        with pytest.raises(InvalidInputError, match=library):
            _chosen(adapter, mode, method)


def _chosen(adapter, mode, method):
    from refnode.adapters.answer_form import checked_choice
    return checked_choice(adapter.LIBRARY, adapter.MODES, mode, method)


def test_two_ways_to_refnodes_problem(record):
    """The hand-written field of the set, and for a problem that is not in it a field derived from its text."""
    from refnode.adapters.recipe_adapter import answer
    problem = json.loads(json.dumps(record.to_dict()))
    known = answer(problem, "discrete", "dopri5", 1e-8, 1e-8)
    pytest.importorskip("sympy")
    derived = answer({**problem, "id": "mine", "sha256": None}, "discrete", "dopri5", 1e-8, 1e-8)
    assert np.allclose(known["grad"]["theta"], derived["grad"]["theta"], rtol=1e-10)
    assert np.allclose(known["grad"]["ts"], derived["grad"]["ts"], rtol=1e-9, atol=1e-9)
