"""The kept files of proven values: they load, belong to their problems, refuse damage, and refnode's gradients agree with them."""
import fractions
import json
import math

import numpy as np
import pytest

from refnode.errors import InvalidInputError, ProblemFileError
from refnode.interchange.canonical_json import problem_sha256
from refnode.problems.certified import (
    CERTIFIED, FORMAT, QUANTITIES, certified, certified_ids, path_of, read_certified)
from refnode.problems.reference_set import REFERENCE_PROBLEMS
from test_reference_gradients import HEALTHY, SMOOTH, TOL, refnode_gradient, scaled_error

IDS = certified_ids()
SMOOTH_IDS = {record.id for record in SMOOTH}
NOT_TESTABLE = {                   # kappa TOL > 0.1, or an answer below the tolerance: no solver in float64 can show the digits
    "sine_decay/floor", "forced_oscillator/time_2p20"}
SLOW = {"mlp/2_32_32_2", "mlp/8_32_8", "kepler/periods20", "cnf/exact_trace", "fitzhugh_nagumo/spikes", "lorenz/t20",
        "van_der_pol/dilution16"}
every_file = pytest.mark.parametrize("id", IDS)


def bound_of(id):
    """HEALTHY kappa tol, the limit of a healthy method; 1000 where kappa is not measured."""
    return HEALTHY * max(1.0, REFERENCE_PROBLEMS[id].kappa or 1000.0) * TOL


def is_testable(id):
    return id in SMOOTH_IDS - NOT_TESTABLE and bound_of(id) <= 1e-2


def test_there_are_enough_and_every_file_has_a_problem():
    assert len(IDS) >= 40
    assert {path.name for path in CERTIFIED.glob("*.json")} == {path_of(id).name for id in IDS}


@every_file
def test_file_loads_and_its_balls_are_small(id):
    """1e-30 of every entry; of one around zero, 1e-30 of the largest in sight."""
    values = certified(id)
    assert values.problem is REFERENCE_PROBLEMS[id] and set(values.values) <= set(QUANTITIES)
    everything = max(np.max(np.abs(array), initial=0.0) for array in values.values.values())
    for name, array in values.values.items():
        assert array.shape == values.radius[name].shape and np.all(np.isfinite(array)) and np.all(values.radius[name] >= 0.0)
        for index in np.ndindex(array.shape):
            mid, rad = (fractions.Fraction(text) for text in values.digits(name, index).split(" ± "))
            scale = abs(mid) if abs(mid) > rad else fractions.Fraction(everything)
            assert rad <= scale * fractions.Fraction("1e-30"), (name, index)
            assert abs(fractions.Fraction(array[index]) - mid) + rad <= fractions.Fraction(values.radius[name][index])
            assert float(array[index]) == float(mid)


@every_file
def test_provenance_tells_how(id):
    provenance = certified(id).provenance
    assert {"method", "bits", "order", "steps", "software", "second_route"} <= set(provenance)
    route = provenance["second_route"]
    assert all(route["difference"][name] <= route["own_error"][name] for name in route["difference"])


@pytest.mark.parametrize("id", [pytest.param(id, marks=pytest.mark.slow if id in SLOW else ()) for id in IDS if is_testable(id)])
def test_gradient_of_refnode_agrees(id):
    """(y0, theta) as scaled errors, the loss and all times in their sizes."""
    record, truth, found, bound = REFERENCE_PROBLEMS[id], certified(id).values, refnode_gradient(id), bound_of(id)
    assert scaled_error(record, (found.y0, found.theta), (truth["grad_y0"], truth["grad_theta"])) <= bound
    scale = max(1.0 if record.loss.get("scale", 1.0) == 1.0 else 0.0, abs(truth["loss"]))
    assert abs(found.loss - truth["loss"]) <= bound * scale
    times = np.concatenate([[truth["grad_t0"], truth["grad_t1"]], truth["grad_ts"]])
    mine = np.concatenate([[found.t0, found.t1], found.ts])
    assert np.max(np.abs(mine - times)) <= 10.0 * bound * max(np.max(np.abs(times)), np.max(np.abs(truth["grad_y0"])))


def test_some_gradients_are_compared():
    assert sum(is_testable(id) for id in IDS) >= 0.6 * len(IDS)


# --- damage -----------------------------------------------------------------------------------------

ID = "logistic/hessian"


def content_of(id=ID):
    return json.loads(path_of(id).read_text(encoding="utf-8"))


def hashed(content):
    content["sha256"] = problem_sha256(content)
    return content


def read_back(tmp_path, text, id=ID):
    path = tmp_path / "file.json"
    path.write_text(text, encoding="utf-8")
    return read_certified(path, REFERENCE_PROBLEMS[id])


def test_the_file_itself_is_read_back(tmp_path):
    again = read_back(tmp_path, json.dumps(content_of()))
    assert all(np.array_equal(again.values[name], certified(ID).values[name]) for name in again.values)


def mutate(path, value):
    def mutated(content):
        place = content
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        return content
    return mutated


DAMAGE = {
    "a digit": mutate(("values", "loss", "mid"), "1.76707979678529"),
    "the radius": mutate(("values", "loss", "rad"), "0"),
    "the problem": mutate(("problem_sha256",), "0" * 64),
    "the provenance": mutate(("provenance", "steps"), 1),
}
REHASHED = {
    "another format": mutate(("format",), "refnode.problem"),
    "another version": mutate(("version",), 2),
    "another id": mutate(("id",), "logistic/observed"),
    "another problem": mutate(("problem_sha256",), "0" * 64),
    "no number": mutate(("values", "loss", "mid"), "one"),
    "a float": mutate(("values", "loss", "mid"), 1.5),
    "not finite": mutate(("values", "loss", "mid"), "1e999"),
    "nan": mutate(("values", "loss", "mid"), "nan"),
    "a huge exponent": mutate(("values", "loss", "mid"), "1e-999999999"),
    "a long number": mutate(("values", "loss", "mid"), "1" * 1000),
    "a negative radius": mutate(("values", "loss", "rad"), "-1"),
    "a missing radius": mutate(("values", "loss"), {"mid": "1"}),
    "a missing entry": mutate(("values", "grad_theta"), [{"mid": "1", "rad": "0"}]),
    "ragged rows": mutate(("values", "y"), [[{"mid": "1", "rad": "0"}], []]),
    "values that are a list": mutate(("values",), []),
    "an unknown quantity": mutate(("values", "grad_speed"), {"mid": "1", "rad": "0"}),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_seen_by_the_hash(what, tmp_path):
    with pytest.raises(ProblemFileError):
        read_back(tmp_path, json.dumps(DAMAGE[what](content_of())))


@pytest.mark.parametrize("what", REHASHED)
def test_wrong_content_is_refused_even_with_a_right_hash(what, tmp_path):
    with pytest.raises(ProblemFileError):
        read_back(tmp_path, json.dumps(hashed(REHASHED[what](content_of()))))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "1", '{"format": "%s"}' % FORMAT, '{"version": NaN}', "[" * 100_000])
def test_text_that_is_no_such_file_is_refused(text, tmp_path):
    with pytest.raises(ProblemFileError):
        read_back(tmp_path, text)


def test_file_of_another_problem_is_refused(tmp_path):
    with pytest.raises(ProblemFileError, match="logistic/observed"):
        read_certified(path_of(ID), REFERENCE_PROBLEMS["logistic/observed"])


def test_unknown_and_unproven_ids():
    with pytest.raises(InvalidInputError, match="no_such/problem"):
        certified("no_such/problem")


def test_values_cannot_be_changed():
    with pytest.raises(ValueError):
        certified(ID).values["loss"][...] = 0.0


def test_rounding_is_in_the_radius():
    """A third is no float64: the radius is at least the distance to it, and no more than half an ulp above the ball's."""
    truth = certified(ID)
    assert 0.0 < truth.radius["loss"] <= 0.51 * math.ulp(float(truth.values["loss"]))
