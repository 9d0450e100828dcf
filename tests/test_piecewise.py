"""Gradients through switches: the proven values, on every reference problem in pieces; and jumps that are wrong on purpose."""
import functools

import numpy as np
import pytest

import refnode
from refnode.conformance.problem_functions import STEP, TextField, function_of
from refnode.errors import IntegrationError, InvalidInputError
from refnode.fields.field import VectorField
from refnode.losses import running_cost
from refnode.problems.certified import certified
from refnode.problems.problem import Problem
from refnode.problems.reference_problem import switches_of
from refnode.problems.reference_set import REFERENCE_PROBLEMS
from refnode.sensitivity import piecewise
from refnode.sensitivity.piecewise import Switch, piecewise_gradient

IN_PIECES = [id for id, record in REFERENCE_PROBLEMS.items() if "pieces" in record.rhs]
OPTIONS = {"method": "dop853", "rtol": 1e-11, "atol": 1e-12, "check_tangent": False}


def field_of_texts(texts, n, p):
    """A field from texts, with derivatives by complex steps: nothing hand-written."""
    text = TextField(texts, n, p)

    def vjp(t, y, theta, w):
        t_bar = sum(a * np.imag(part(t + STEP * 1j, y, theta)) / STEP for a, part in zip(w, text.parts))
        return t_bar, *text.pull(t, y, theta, w)

    return VectorField(text.f, vjp=vjp, n=n, p=p, name="texts")


def switch_of(data):
    """A switch from its form as data."""
    (kind, text), = data.items()
    at = function_of(text)

    def value(t, y, theta):
        return t - at(t, y, theta) if kind == "time" else at(t, y, theta)

    def gradient(t, y, theta):
        x = np.concatenate([[t], y, theta])
        slopes = [np.imag(value(z[0], z[1:1 + y.size], z[1 + y.size:])) / STEP for z in x + STEP * 1j * np.eye(x.size)]
        return slopes[0], np.array(slopes[1:1 + y.size]), np.array(slopes[1 + y.size:])

    return Switch(value, gradient)


def in_pieces(id):
    """(problem, onwards) of a reference problem."""
    record = REFERENCE_PROBLEMS[id]
    first, *others = [field_of_texts(piece["expr"], len(record.y0), len(record.theta)) for piece in record.rhs["pieces"]]
    return record.problem.replace(field=first), list(zip(map(switch_of, switches_of(record.rhs)), others))


@functools.cache
def found(id, sensitivity="discrete"):
    options = {key: value for key, value in OPTIONS.items() if sensitivity == "discrete" or key != "check_tangent"}
    return piecewise_gradient(*in_pieces(id), sensitivity, **options)


def error_of(gradient, id):
    """The largest error, of (y0, theta) in the size of their gradient and of the times in that of the largest."""
    truth, errors = certified(id).values, []
    for keys in (("y0", "theta"), ("t0", "t1", "ts")):
        right = np.concatenate([np.ravel(truth[f"grad_{key}"]) for key in keys])
        yours = np.concatenate([np.ravel(getattr(gradient, key)) for key in keys])
        assert yours.shape == right.shape
        errors.append(np.max(np.abs(yours - right)) / max(np.max(np.abs(right)), np.max(np.abs(truth["grad_y0"]))))
    return max(errors)


# --- the proven values ------------------------------------------------------------------------------

@pytest.mark.parametrize("id", IN_PIECES)
def test_gradients_through_switches_are_the_proven_ones(id):
    """At 1e-11 and condition numbers of 16 to 66; measured: at most 7e-12."""
    gradient, truth = found(id), certified(id).values
    assert error_of(gradient, id) <= REFERENCE_PROBLEMS[id].kappa * 1e-11
    assert gradient.loss == pytest.approx(float(truth["loss"]), rel=1e-10)
    np.testing.assert_allclose(gradient.switch_times, np.ravel(truth["event_time"]), rtol=1e-10)
    np.testing.assert_allclose(gradient.ys, truth["y"], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("sensitivity", ["interpolating", "quadrature", "checkpointed"])
def test_any_recipe_pulls_the_pieces_back(sensitivity):
    assert error_of(found("bounce/thrice", sensitivity), "bounce/thrice") <= 1e-8


def test_flights_solved_exactly_have_exact_gradients():
    """A parabola is no approximation for dopri5: three switches leave rounding, and Newton's 2 eps of each time."""
    gradient = piecewise_gradient(*in_pieces("bounce/thrice"), "discrete", method="dopri5", rtol=1e-6, atol=1e-6, check_tangent=False)
    assert error_of(gradient, "bounce/thrice") <= 1e-13


def test_backwards():
    """From t = 1 to 0: y' = a while t > s, then b, ends at y0 + a (s - 1) + b (0 - s)."""
    fast, slow = (field_of_texts([f"theta[{j}]"], 1, 3) for j in (1, 2))
    problem = Problem(fast, [0.5], [0.25, 2.0, 0.5], (1.0, 0.0), loss=refnode.losses.terminal(
        lambda y: y[0], lambda y: np.ones(1), lambda y, y_tan: np.zeros(1)))
    at = Switch(lambda t, y, theta: theta[0] - t, lambda t, y, theta: (-1.0, np.zeros(1), np.array([1.0, 0.0, 0.0])))
    gradient = piecewise_gradient(problem, [(at, slow)], **OPTIONS)
    assert gradient.loss == pytest.approx(0.5 + 2.0 * (0.25 - 1.0) + 0.5 * (0.0 - 0.25), rel=1e-12)
    np.testing.assert_allclose(gradient.theta, [1.5, -0.75, -0.25], rtol=1e-12)
    assert gradient.t0 == pytest.approx(-2.0, rel=1e-12) and gradient.t1 == pytest.approx(0.5, rel=1e-12)


# --- wrong on purpose ---------------------------------------------------------------------------------

def answer_with(gradient):
    return {"y": gradient.ys, "loss": gradient.loss, "tool": {"name": "piecewise"},
            "grad": {key: getattr(gradient, key) for key in ("y0", "theta", "t0", "t1", "ts")}}


def test_the_right_one_passes_the_check():
    report = refnode.check_ode("bounce/thrice", answer_with(found("bounce/thrice")), rtol=1e-9)
    assert report.verdict == "PASS" and report.diagnosis == []


@pytest.mark.parametrize("left_out", [0, 1, 2])
def test_a_jump_left_out_is_caught_and_named(left_out, monkeypatch):
    """At one bounce of three, lambda passes as if nothing happened there."""
    across, calls = piecewise.pulled_across, iter((2, 1, 0))

    def pulled_across(switch, f, t, y, theta, lam, t0_bar):
        return (lam, np.zeros(2)) if next(calls) == left_out else across(switch, f, t, y, theta, lam, t0_bar)

    monkeypatch.setattr(piecewise, "pulled_across", pulled_across)
    wrong = piecewise_gradient(*in_pieces("bounce/thrice"), **OPTIONS)
    assert error_of(wrong, "bounce/thrice") > 0.1
    report = refnode.check_ode("bounce/thrice", answer_with(wrong), rtol=1e-9)
    assert report.verdict == "FAIL" and report.diagnosis[0].key == "one_switch_ignored"
    assert f"at switch {left_out + 1} of 3" in report.diagnosis[0].text


@pytest.mark.parametrize("wrong", [
    lambda lam, t0_bar, rates, g: (lam - t0_bar / (g @ rates) * g),                     # without lambda . f-
    lambda lam, t0_bar, rates, g: (lam - lam @ rates / (g @ rates) * g),                # without lambda . f+
    lambda lam, t0_bar, rates, g: (lam + (lam @ rates + t0_bar) / (g @ rates) * g),     # the sign
])
def test_other_jumps_are_wrong(wrong, monkeypatch):
    monkeypatch.setattr(piecewise, "pulled_across", lambda switch, f, t, y, theta, lam, t0_bar: (
        wrong(lam, t0_bar, f(t, y, theta), switch.gradient(t, y, theta)[1]), np.zeros(2)))
    assert error_of(piecewise_gradient(*in_pieces("bounce/thrice"), **OPTIONS), "bounce/thrice") > 0.1


# --- refusals ---------------------------------------------------------------------------------------

def test_a_switch_that_is_not_reached_or_only_touched_is_told():
    problem, onwards = in_pieces("state_rate/threshold")
    with pytest.raises(IntegrationError, match="switch 0 is not reached between t = 0 and 1"):
        piecewise_gradient(problem.replace(theta=[9.0, 1.0, 3.0]), onwards, **OPTIONS)
    still = Switch(onwards[0][0].value, lambda t, y, theta: (0.0, np.zeros(1), np.zeros(3)))
    with pytest.raises(IntegrationError, match="touched"):
        piecewise_gradient(problem, [(still, onwards[0][1])], **OPTIONS)


def test_what_has_no_derivative_is_refused():
    problem, onwards = in_pieces("time_rate/switch")
    with pytest.raises(InvalidInputError, match="at the time of switch 0"):
        piecewise_gradient(problem.replace(ts=[0.71875, 1.0]), onwards, **OPTIONS)
    with pytest.raises(InvalidInputError, match="steps is not taken"):
        piecewise_gradient(problem, onwards, steps=[0.5, 0.5])
    with pytest.raises(InvalidInputError, match="loss"):
        piecewise_gradient(problem.replace(loss=None), onwards, **OPTIONS)
    cost = running_cost(lambda t, y, theta: y[0], lambda *a: 0.0, lambda *a: None)
    with pytest.raises(InvalidInputError, match="running cost"):
        piecewise_gradient(problem.replace(loss=cost), onwards, **OPTIONS)
