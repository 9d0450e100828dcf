"""How demonstrations end: by the verdict on their gradient, which a spoiled gradient turns, and by the status that says so."""
import importlib
import pathlib
import types

import numpy as np
import pytest

from refnode import demos
from refnode.cli import main
from refnode.demos import augmentation, cnf_densities, easy_dynamics, event_times, ffjord, flow_results, latent_spirals
from refnode.demos import missing_values, odenet
from refnode.demos.gradient_evidence import GradientEvidence, gradient_evidence
from refnode.errors import InvalidInputError

TINY = {
    augmentation: {"FINENESS": 21, "POINTS": 20, "TEST_POINTS": 40}, easy_dynamics: {"SAMPLES": 10, "HIDDEN": (6, 6)},
    latent_spirals: {"SPIRALS": 12, "TESTS": 8, "COUNTS": (30,)}, event_times: {"RECORDS": 2, "HELD_OUT": 3},
    missing_values: {"SAMPLES": 8, "TESTS": 6, "TIMES": 14, "VISITS": 5, "SIZE": 4},
    odenet: {"TRAIN": 64, "TEST": 24, "ERROR_BATCH": 8, "WIDTH": 4, "TOLERANCES": np.array([1e-2, 1e-4])},
    cnf_densities: {"WIDTHS": (2, 6, 2), "HIDDEN": (3,), "BATCH": 16, "FRAMES": 2, "PARTICLES": 20, "COARSE": 8,
                    "COMPARED_ITERATIONS": 2},
    flow_results: {"PIXELS": 12, "HELD_OUT": 100, "CHECKED": 6},
    ffjord: {"WIDTHS": (2, 4, 4, 2), "BATCH": 16, "ESTIMATES": 3, "DIMENSIONS": (2, 3), "CHECKED": 6}}
DERIVATIVES = {                     # where a demonstration's gradient comes from, and the name that its evidence calls
    "spiral": ("refnode.demos.spiral", "gradient"), "augmented": ("refnode.models.augmented_ode", "gradient"),
    "regularised": ("refnode.models.augmented_ode", "gradient"), "odenet": ("refnode.models.ode_net", "gradient"),
    "latent_ode": ("refnode.models.latent_ode", "gradient"), "ode_rnn": ("refnode.models.ode_rnn", "vjp"),
    "poisson": ("refnode.models.poisson_ode", "gradient"), "cnf": ("refnode.demos.flow_results", "gradient"),
    "ffjord": ("refnode.demos.flow_results", "gradient")}
GALLERY = pathlib.Path(__file__).parents[1] / "docs" / "gallery.md"
IN_GALLERY = {"comparison.png": "flows_compared.png", "estimate.png": "ffjord_estimate.png"}
SHORT = {"spiral": 20, "augmented": 3, "regularised": 2, "odenet": 1, "latent_ode": 1, "ode_rnn": 1, "poisson": 3, "cnf": 3, "ffjord": 3}


@pytest.fixture
def tiny(monkeypatch):
    """Little data and small models: what they learn is worth nothing, and their gradients must be right all the same."""
    for module, settings in TINY.items():
        for name, value in settings.items():
            monkeypatch.setattr(module, name, value)


def spoilt(derivative):
    """The same with the gradient of the field's parameters off by one part in a thousand."""
    def wrong(*arguments, **options):
        found = derivative(*arguments, **options)
        found.theta = 1.001 * found.theta
        return found
    return wrong


def test_every_demonstration_is_here():
    assert set(DERIVATIVES) == set(SHORT) == set(demos.DEMOS)


@pytest.mark.parametrize("name", DERIVATIVES)
def test_a_spoilt_gradient_fails_the_demonstration(name, tiny, tmp_path, monkeypatch, capsys):
    """Nothing else is wrong: pictures and numbers are written, the verdict is FAIL, the exit status 1. `--epochs` serves all."""
    module = importlib.import_module(DERIVATIVES[name][0])
    monkeypatch.setattr(module, DERIVATIVES[name][1], spoilt(getattr(module, DERIVATIVES[name][1])))
    arguments = ["demo", name, "--output", str(tmp_path), "--epochs", str(SHORT[name]), "--seed", "2"]
    assert main([*arguments, *(["--dataset", "moons"] if name == "cnf" else [])]) == 1
    text = capsys.readouterr().out
    assert "random directions: FAIL, largest error" in text
    assert [file.suffix for file in tmp_path.iterdir()].count(".json") == 1
    for file in tmp_path.iterdir():                                             # and the gallery shows every picture
        if file.suffix in (".png", ".gif"):
            shown = f"pictures/{IN_GALLERY.get(file.name, file.name)}"
            assert f"({shown})" in GALLERY.read_text(encoding="utf-8") and (GALLERY.parent / shown).is_file()


@pytest.mark.parametrize("name", [name if name in ("spiral", "ffjord", "ode_rnn") else pytest.param(name, marks=pytest.mark.slow)
                                  for name in DERIVATIVES])
def test_the_options_that_all_take(name, tiny, tmp_path):
    """Another method, tolerances and a recipe of the other kind; its gradient is right, and the method is the one that ran."""
    methods = []

    def remembering(problem, *arguments, **options):
        methods.append(options.get("method"))
        return derivative(problem, *arguments, **options)
    module = importlib.import_module(DERIVATIVES[name][0])
    derivative = getattr(module, DERIVATIVES[name][1])
    options = {"dataset": "moons"} if name == "cnf" else {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, DERIVATIVES[name][1], remembering)
        result = demos.run(name, tmp_path, recipe="interpolating", seed=1, epochs=SHORT[name], method="tsit5", rtol=1e-4, atol=1e-5,
                           **options)
    assert demos.verdict_of(result) == "PASS"
    assert set(methods) <= {"tsit5", "euler"} and "tsit5" in methods            # a residual network takes Euler's steps


def test_the_worst_verdict_counts():
    found = lambda *verdicts: types.SimpleNamespace(evidence={k: types.SimpleNamespace(verdict=v) for k, v in enumerate(verdicts)})
    assert demos.verdict_of(found("PASS", "PASS")) == "PASS"
    assert demos.verdict_of(found("PASS", "INCONCLUSIVE", "PASS")) == "INCONCLUSIVE"
    assert demos.verdict_of(found("INCONCLUSIVE", "FAIL")) == "FAIL"


@pytest.mark.parametrize("verdict, status", [("PASS", 0), ("INCONCLUSIVE", 3), ("FAIL", 1)])
def test_the_exit_status_is_the_verdict(verdict, status, tmp_path, monkeypatch, capsys):
    result = types.SimpleNamespace(files=["picture.png"], evidence=types.SimpleNamespace(verdict=verdict))
    monkeypatch.setattr(demos, "run", lambda *arguments, **options: result)
    assert main(["demo", "spiral"]) == status and capsys.readouterr().out == "picture.png\n"


@pytest.mark.parametrize("ours, theirs, verdict", [
    ([1.0, np.nan], [1.0, 1.0], "FAIL"), ([1.0, np.inf], [1.0, 1.0], "FAIL"), ([1.0, 1.0], [1.0, np.nan], "INCONCLUSIVE"),
    ([0.0, 0.0], [0.0, 0.0], "PASS"), ([1.0, 0.0], [1.0, 2e-6], "FAIL"), ([1.0, 0.0], [1.0, 5e-7], "PASS")])
def test_numbers_that_are_not_finite_never_pass(ours, theirs, verdict):
    assert GradientEvidence(np.array(ours), np.array(theirs), np.full(2, 1e-9)).verdict == verdict


def test_a_gradient_of_nan_fails():
    assert gradient_evidence(lambda x: float(x @ x), np.ones(3), np.full(3, np.nan)).verdict == "FAIL"


def test_epochs_and_iterations_at_once_are_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="demo spiral takes no 'epochs'; beside output, recipe and seed it takes iterations"):
        demos.run("spiral", tmp_path, epochs=3, iterations=3)
