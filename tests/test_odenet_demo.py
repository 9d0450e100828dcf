"""The demonstration of the ODE-Net: its table, figure, files and evidence, with very few images."""
import json

import numpy as np
import pytest

from refnode.demos import odenet
from refnode.demos.gradient_evidence import gradient_evidence
from refnode.demos.odenet import ROWS, recipes_of, run_demo
from refnode.errors import InvalidInputError
from test_image_files import mnist


@pytest.fixture(scope="module")
def small():
    """Fewer images and tolerances, for the whole module."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("TRAIN", 128), ("TEST", 40), ("ERROR_BATCH", 10), ("WIDTH", 4), ("TOLERANCES", 10.0 ** -np.arange(2, 7, 2))):
            patch.setattr(odenet, name, value)
        yield


@pytest.fixture(scope="module")
def result(small, tmp_path_factory):
    lines = []
    found = run_demo(tmp_path_factory.mktemp("demo") / "new", seed=3, epochs=2, progress=lines.append)
    return found, lines


def test_every_twin_has_its_row(result):
    found, lines = result
    assert [row.label for row in found.rows] == list(ROWS)
    rows = {row.label: row for row in found.rows}
    assert rows["RK-Net"].parameters == rows["ODE-Net"].parameters == rows["ResNet, one θ"].parameters
    assert rows["ODE-Net"].bytes_held < rows["RK-Net"].bytes_held and rows["MLP"].bytes_held == 0
    assert all(len(row.errors) == len(row.nfe) == len(row.loss) == 2 and row.seconds > 0.0 for row in found.rows)
    assert lines[0].startswith("1797 UCI digits: 128 images of 8x8 to train, 40 to test") and lines[-1] == str(found)
    assert "reported, MNIST" in lines[-1] and "0.42 %" in lines[-1]


def test_it_ends_with_evidence(result):
    found, lines = result
    assert list(found.evidence) == ["RK-Net", "ODE-Net"]
    assert all(each.verdict == "PASS" for each in found.evidence.values())
    assert found.evidence["RK-Net"].error < 1e-8 and lines[-1].splitlines()[-1].startswith("ODE-Net: gradient at the end")


def test_errors_fall_with_the_tolerance(result):
    figure = result[0].figure
    assert figure.error[0] > 10.0 * figure.error[1] > 100.0 * figure.error[2]
    assert figure.gradient_error[-1] < 1e-3 and np.all(np.diff(figure.nfe) > 0)
    assert len(figure.nfe_reverse) == len(figure.seconds) == 3


def test_files(result):
    found, _ = result
    assert [file.name for file in found.files] == ["odenet.png", "odenet_training.png", "odenet.json"]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in found.files[:2])
    written = json.loads(found.files[2].read_text(encoding="utf-8"))
    assert written["rows"][4]["error"] == found.rows[4].error and written["evidence"]["ODE-Net"]["verdict"] == "PASS"


def test_same_seed_same_numbers(result, small):
    """Of each twin, from new images on."""
    images, options = odenet.images_of(None, 3), {"method": "dopri5", "rtol": 1e-3, "atol": 1e-3}
    models = odenet.twins_of(images, recipes_of("discrete"), 3, options)
    for row in result[0].rows[-2:]:
        again = odenet.trained(row.label, models[row.label], images, 2, 3)
        assert {**vars(again), "seconds": 0} == {**vars(row), "seconds": 0}


@pytest.mark.slow
def test_the_promise_of_the_demonstration(tmp_path):
    """At least 97 % of the digits that were not trained on are classified rightly by ODE-Net and RK-Net."""
    found = {row.label: row for row in run_demo(tmp_path).rows}
    assert max(found["ODE-Net"].error, found["RK-Net"].error) <= 0.03


def test_images_from_files(small, tmp_path, monkeypatch):
    mnist(tmp_path, ".gz", counts=(30, 10))
    monkeypatch.setattr(odenet, "TOLERANCES", np.array([1e-2, 1e-4]))
    parabola = gradient_evidence(lambda x: float(x @ x), np.ones(2), 2.0 * np.ones(2))        # the evidence is tested above
    monkeypatch.setattr(odenet, "evidence_of", lambda model, images, seed: parabola)
    found = run_demo(tmp_path / "out", data=tmp_path, epochs=1, recipe="interpolating")
    assert found.data == "MNIST: 30 images of 28x28 to train, 10 to test"
    assert [row.recipe for row in found.rows if row.label in ("RK-Net", "ODE-Net")] == ["discrete", "interpolating"]


def test_the_recipe_goes_to_the_twin_whose_derivative_it_gives():
    assert recipes_of("discrete") == {"rk": "discrete", "ode": "backsolve"}
    assert recipes_of("checkpointed") == {"rk": "checkpointed", "ode": "backsolve"}
    assert recipes_of("gauss") == {"rk": "discrete", "ode": "gauss"}


@pytest.mark.parametrize("options, message", [
    ({"epochs": 0}, "epochs must be a positive integer, found 0"), ({"recipe": "magic"}, "sensitivity must be one of"),
    ({"recipe": "discrete_forward"}, "pushes a tangent for every number"), ({"rtol": -1.0}, "rtol must"),
    ({"method": "magic"}, "method must be one of"), ({"data": "/nowhere"}, "data /nowhere: expected train-images-idx3-ubyte")])
def test_refused(options, message, small, tmp_path):
    with pytest.raises(InvalidInputError, match=message):
        run_demo(tmp_path, **{"epochs": 1, **options})
