"""The demonstrations of flows with tiny settings, and the distributions they learn."""
import json
import math

import numpy as np
import pytest

from refnode import demos
from refnode.cli import main
from refnode.demos.flow_results import square, total_mass
from refnode.demos.plane_data import PLANE_DATA, plane_data
from refnode.errors import InvalidInputError


# --- the distributions ----------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["moons", "gaussians"])
def test_true_densities_integrate_to_one(name):
    """Ridges of width 0.15 and peaks of 0.2: to the tolerance that is asked for, here 1e-9."""
    mass = total_mass(PLANE_DATA[name].log_density, half=4.0, tolerance=1e-9)
    assert abs(mass.value - 1.0) <= mass.uncertainty + 1e-13 <= 1e-9


def test_a_density_that_does_not_integrate_to_one_is_seen():
    """Off by 1e-5, or cut off at a square that is too small; a needle of width 0.005 is found and not stepped over."""
    normal = lambda x: -0.5 * (x**2).sum(axis=1) - math.log(2.0 * math.pi)
    assert abs(total_mass(lambda x: normal(x) + 1e-5).value - 1.0 - 1e-5) <= 1e-8
    inside = math.erf(2.0 / math.sqrt(2.0))**2
    assert abs(total_mass(normal, half=2.0).value - inside) <= 1e-8
    needle = total_mass(lambda x: normal((x - 0.01) / 0.005) - 2.0 * math.log(0.005), levels=12)
    assert abs(needle.value - 1.0) <= needle.uncertainty <= 8e-7


def test_what_no_level_settled_is_told():
    """A step across the squares: after two levels the uncertainty covers the error, and is no small number."""
    mass = total_mass(lambda x: np.where(x[:, 0] + 0.3 * x[:, 1] < 0.1, 0.0, -50.0), half=1.0, cells=4, levels=2)
    area = 2.0 + 2.0 * 0.1                                        # left of x = 0.1 - 0.3 y, the y of which cancels
    assert 1e-3 < mass.uncertainty and abs(mass.value - area) <= mass.uncertainty


def test_the_checkerboard_is_uniform_on_eight_squares():
    points, distance = square(2.0, 401)
    points = points + 0.5 * distance                             # midpoints of cells, each within one square
    p = np.exp(PLANE_DATA["checkerboard"].log_density(points))
    assert abs(p.sum() * distance**2 - 1.0) <= 1e-12 and np.isin(np.round(8.0 * p, 12), [0.0, 1.0]).all()
    x = PLANE_DATA["checkerboard"].sample(np.random.default_rng(0), 5000)
    np.testing.assert_array_equal(PLANE_DATA["checkerboard"].log_density(x), -math.log(8.0))


@pytest.mark.parametrize("name", PLANE_DATA)
def test_samples_are_of_the_density(name):
    """How many of 20000 fall left of a line, and above one, within four standard deviations of the integrals."""
    data, count = PLANE_DATA[name], 20000
    x, (points, distance) = data.sample(np.random.default_rng(1), count), square(3.6, 161)
    p = np.exp(np.concatenate([data.log_density(part) for part in np.array_split(points, 8)])) * distance**2
    for side in (lambda x: x[:, 0] < 0.5003, lambda x: x[:, 1] > -0.7003, lambda x: (x**2).sum(axis=1) < 2.2503):
        expected = p[side(points)].sum()
        bound = 4.0 * math.sqrt(expected * (1.0 - expected) / count) + 1e-2      # and the grid at a jump
        assert abs(np.mean(side(x)) - expected) <= bound


def test_an_unknown_data_set_is_refused():
    with pytest.raises(InvalidInputError, match="dataset must be one of moons, circles, gaussians, checkerboard, found 'x'"):
        plane_data("x")


# --- the demonstrations ---------------------------------------------------------------------------

@pytest.fixture
def small(monkeypatch):
    """Small models, few particles, coarse pictures."""
    from refnode.demos import cnf_densities as cnf, ffjord, flow_results
    for module, settings in ((cnf, dict(WIDTHS=(2, 6, 2), HIDDEN=(3,), BATCH=16, FRAMES=2, PARTICLES=20, COARSE=8, CHECKED=6)),
                             (flow_results, dict(PIXELS=12, HELD_OUT=100)),
                             (ffjord, dict(WIDTHS=(2, 4, 4, 2), BATCH=16, ESTIMATES=3, DIMENSIONS=(2, 3), CHECKED=6))):
        for name, value in settings.items():
            monkeypatch.setattr(module, name, value)


def check_files(folder, names):
    for name, magic in names.items():
        assert (folder / name).read_bytes().startswith(magic), name


def test_cnf(small, tmp_path, capsys):
    assert main(["demo", "cnf", "--output", str(tmp_path), "--dataset", "gaussians", "--iterations", "3"]) == 0
    text = capsys.readouterr().out
    assert "gradient at the end against Richardson differences along 3 random directions: PASS" in text
    check_files(tmp_path, {"cnf.png": b"\x89PNG", "comparison.png": b"\x89PNG", "transport.gif": b"GIF8", "cnf.json": b"{"})
    numbers = json.loads((tmp_path / "cnf.json").read_text())
    assert list(numbers["fits"]) == ["gaussians"] and len(numbers["compared"]) == 4
    assert abs(numbers["masses"]["gaussians"]["value"] - 1.0) <= 1e-6
    assert numbers["evidence"]["verdict"] == "PASS"


def test_ffjord(small, tmp_path):
    first, second = (demos.run("ffjord", tmp_path / str(k), iterations=3) for k in range(2))
    assert first.evidence.verdict == "PASS" and abs(first.mass.value - 1.0) <= 1e-6
    np.testing.assert_array_equal(first.models["hutchinson"].theta, second.models["hutchinson"].theta)
    check_files(tmp_path / "0", {"ffjord.png": b"\x89PNG", "estimate.png": b"\x89PNG", "ffjord.json": b"{"})
    assert first.costs["exact"][0] > 0.0 and len(first.estimates["rademacher"]) == 3


@pytest.mark.parametrize("recipe", ["interpolating", "checkpointed"])
def test_another_recipe(small, tmp_path, recipe):
    result = demos.run("cnf", tmp_path, recipe=recipe, dataset="moons", iterations=2)
    assert result.evidence.verdict == "PASS" and result.recipe == recipe


@pytest.mark.parametrize("name, options, message", [
    ("cnf", {"dataset": "stars"}, "dataset must be one of"), ("cnf", {"iterations": 0}, "iterations must be a positive"),
    ("ffjord", {"dataset": "stars"}, "dataset must be one of"), ("ffjord", {"epochs": 3, "iterations": 3}, "demo ffjord takes no 'epochs'"),
    ("ffjord", {"epochs": 0}, "iterations must be a positive"),
    ("cnf", {"recipe": "forward"}, "pushes a tangent for each of 5506 parameters")])
def test_refused(name, options, message, tmp_path):
    with pytest.raises(InvalidInputError, match=message):
        demos.run(name, tmp_path, **options)
