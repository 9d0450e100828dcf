"""Softmax, cross-entropy and embedding: the battery, known values, large logits, and labels that are refused."""
import numpy as np
import pytest

from layer_battery import Triple, check_mutants, check_triple, distance
from refnode.errors import InvalidInputError
from refnode.layers import embedding as table
from refnode.layers import softmax as soft

RNG = np.random.default_rng(0)
Z, LABELS, INDICES = 2.0 * RNG.standard_normal((5, 4)), np.array([3, 0, 0, 2, 1]), np.array([[2, 0], [2, 2], [4, 1]])

TRIPLES = {
    "softmax": lambda: Triple(
        soft.softmax, lambda x, d: soft.softmax_jvp(x["z"], d["z"]),
        lambda x, y_bar: {"z": soft.softmax_vjp(x["z"], y_bar)}, {"z": Z},
        lambda x, d, y_bar, y_bar_tan: {"z": soft.softmax_hvp(x["z"], d["z"], y_bar, y_bar_tan)}),
    "cross_entropy": lambda: Triple(
        lambda z: soft.cross_entropy(z, LABELS), lambda x, d: soft.cross_entropy_jvp(x["z"], LABELS, d["z"]),
        lambda x, y_bar: {"z": soft.cross_entropy_vjp(x["z"], LABELS, y_bar)}, {"z": Z},
        lambda x, d, y_bar, y_bar_tan: {"z": soft.cross_entropy_hvp(x["z"], LABELS, d["z"], y_bar, y_bar_tan)}),
    "embedding": lambda: Triple(
        lambda E: table.embedding(INDICES, E), lambda x, d: table.embedding_jvp(INDICES, d["E"]),
        lambda x, y_bar: {"E": table.embedding_vjp(INDICES, 5, y_bar)}, {"E": RNG.standard_normal((5, 3))},
        lambda x, d, y_bar, y_bar_tan: {"E": table.embedding_hvp(INDICES, 5, y_bar_tan)}),
}
every_triple = pytest.mark.parametrize("name", TRIPLES)


@every_triple
def test_battery(name):
    check_triple(TRIPLES[name]())


@every_triple
def test_battery_catches_mutants(name):
    check_mutants(TRIPLES[name]())


def test_a_row_that_is_read_twice_gets_both_cotangents():
    """Assigning E_bar[indices] = y_bar instead of adding keeps the last only."""
    y_bar = np.ones((3, 2, 1))
    assert table.embedding_vjp(INDICES, 5, y_bar)[:, 0].tolist() == [1.0, 1.0, 3.0, 0.0, 1.0]
    wrong, right = np.zeros((5, 1)), TRIPLES["embedding"]()
    wrong[INDICES.ravel()] = y_bar.reshape(-1, 1)
    assert distance(wrong, table.embedding_vjp(INDICES, 5, y_bar)) > 0.5
    assert right.form(right.x["E"]).shape == (3, 2, 3)


def test_known_values():
    np.testing.assert_allclose(soft.softmax(np.log([[1.0, 2.0, 5.0]])), [[0.125, 0.25, 0.625]], rtol=1e-15)
    assert soft.cross_entropy(np.zeros((3, 10)), [0, 5, 9]) == pytest.approx(np.log(10.0), rel=1e-15)
    assert soft.cross_entropy(np.log([[1.0, 3.0]]), [1]) == pytest.approx(-np.log(0.75), rel=1e-14)


def test_no_logit_overflows():
    z = np.array([[1e300, -1e300, 0.0], [-1e4, -1e4, -1e4 - 1.0]])
    assert soft.cross_entropy(z, [0, 0]) == pytest.approx(0.5 * np.log(2.0 + np.exp(-1.0)), rel=1e-12)
    assert soft.cross_entropy(z, [1, 0]) == pytest.approx(1e300)
    assert np.all(np.isfinite(soft.cross_entropy_vjp(z, [1, 0])))


def test_the_cotangent_of_a_shift_is_zero():
    """Logits are known up to a constant of each sample; 10 roundings of the row's magnitudes."""
    assert np.max(np.abs(soft.cross_entropy_vjp(Z, LABELS).sum(axis=1))) <= 1e-15


@pytest.mark.parametrize("labels, message", [
    ([0, 1, 2, 3, 4], r"labels must be integers in 0 .. 3, found labels\[4\] = 4"),
    ([0, -1, 2, 3, 3], r"found labels\[1\] = -1"), ([0, 1.5, 2, 3, 3], r"found labels\[1\] = 1.5"),
    ([0, np.nan, 2, 3, 3], r"found labels\[1\] = nan"), ([0, 1], r"labels must have shape \(5,\), found \(2,\)"),
    (list("abcde"), "labels must be integers, found dtype")])
def test_labels_are_checked(labels, message):
    for function in (soft.cross_entropy, soft.cross_entropy_vjp):
        with pytest.raises(InvalidInputError, match=message):
            function(Z, labels)


def test_an_empty_batch_is_refused():
    with pytest.raises(InvalidInputError, match=r"z must have shape \(batch, classes\), neither 0, found \(0, 4\)"):
        soft.cross_entropy(np.zeros((0, 4)), [])


def test_indices_are_checked():
    with pytest.raises(InvalidInputError, match=r"indices must be integers in 0 .. 4, found indices\[1, 0\] = 7"):
        table.embedding([[0, 1], [7, 9]], np.zeros((5, 2)))
