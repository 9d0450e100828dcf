"""The demonstrations of latent ODE, ODE-RNN and Poisson process, with tiny settings: what they write, say and refuse."""
import json

import numpy as np
import pytest

from refnode import demos
from refnode.demos import event_times, latent_spirals, missing_values
from refnode.errors import InvalidInputError


@pytest.fixture
def tiny(monkeypatch):
    """Few and small data; the trained models are worth nothing, their gradients must be right all the same."""
    for module, settings in ((latent_spirals, {"SPIRALS": 12, "TESTS": 8, "COUNTS": (30,)}),
                             (missing_values, {"SAMPLES": 8, "TESTS": 6, "TIMES": 14, "VISITS": 5, "SIZE": 4}),
                             (event_times, {"RECORDS": 2, "HELD_OUT": 3})):
        for name, value in settings.items():
            monkeypatch.setattr(module, name, value)


SHORT = {"latent_ode": {"epochs": 1}, "ode_rnn": {"epochs": 1}, "poisson": {"iterations": 3}}


@pytest.mark.parametrize("name", SHORT)
def test_demonstration(name, tiny, tmp_path):
    lines = []
    result = demos.run(name, tmp_path, progress=lines.append, **SHORT[name])
    assert [path.name for path in result.files] == [f"{name}.png", f"{name}.json"]
    assert result.files[0].read_bytes().startswith(b"\x89PNG")
    numbers = json.loads(result.files[1].read_text(encoding="utf-8"))
    assert numbers["gradient_evidence"]["verdict"] == result.evidence.verdict == "PASS"
    assert lines[-1] == str(result) and "PASS" in lines[-1]
    again = demos.run(name, tmp_path / "again", **SHORT[name])
    assert result.files[0].read_bytes() == again.files[0].read_bytes()
    numbers_again = json.loads(again.files[1].read_text(encoding="utf-8"))
    assert {**numbers, "seconds": 0.0} == {**numbers_again, "seconds": 0.0}


@pytest.mark.parametrize("name", SHORT)
def test_a_continuous_recipe_is_held_against_the_exact_solution(name, tiny, tmp_path):
    result = demos.run(name, tmp_path, recipe="interpolating", **SHORT[name])
    assert result.evidence.verdict == "PASS"


@pytest.mark.parametrize("name, options, message", [
    ("latent_ode", {"epochs": 0}, "epochs must be a positive integer, found 0"),
    ("latent_ode", {"recipe": "forward"}, "take 'discrete', or another with a reverse sweep"),
    ("latent_ode", {"iterations": 5}, "demo latent_ode takes no 'iterations'"),
    ("ode_rnn", {"epochs": -1}, "epochs must be a positive integer, found -1"),
    ("ode_rnn", {"recipe": "through_forward"}, "take 'discrete'"),
    ("poisson", {"iterations": 0}, "iterations must be a positive integer, found 0")])
def test_refused(name, options, message, tmp_path):
    with pytest.raises(InvalidInputError, match=message):
        demos.run(name, tmp_path, **options)


# --- data -----------------------------------------------------------------------------------------

def test_spirals_turn_both_ways():
    curves = latent_spirals.spirals(np.random.default_rng(0), 6)
    x, y = curves[:, :-1].transpose(2, 0, 1)
    x1, y1 = curves[:, 1:].transpose(2, 0, 1)
    turning = np.sign(x * y1 - y * x1)
    np.testing.assert_array_equal(turning, np.broadcast_to([[1.0], [-1.0]] * 3, turning.shape))


def test_events_are_as_many_as_the_intensity_says():
    """The mean count of 400 records lies within four standard deviations of ∫λ."""
    ts = np.linspace(0.0, event_times.T_END, 2001)
    expected = np.trapezoid(np.exp(event_times.true_log_intensity(ts)), ts)
    for process, mean in zip(event_times.drawn_records(3, 400), expected):
        counts = [events.size for events in process]
        assert abs(np.mean(counts) - mean) <= 4.0 * np.sqrt(mean / 400)


def test_last_values_seen():
    tests = missing_values.series([0.0, 1.0, 2.0], [[[5.0], [0.0], [7.0]]], np.array([[[True], [False], [True]]]))
    np.testing.assert_array_equal(missing_values.last_values(tests, [0.0, 0.5, 1.5, 2.5])[0, :, 0], [0.0, 5.0, 5.0, 7.0])
