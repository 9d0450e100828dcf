"""The augmented neural ODE: its parts, the gradient of the whole, what a plain flow cannot do; and the two demonstrations."""
import json

import numpy as np
import pytest

from refnode.demos import augmentation, easy_dynamics
from refnode.demos.gradient_evidence import gradient_evidence, smooth_loss_options
from refnode.errors import InvalidInputError
from refnode.gradcheck import check_gradient
from refnode.models.augmented_ode import AugmentedODE, ReadoutLoss, augmented, augmented_jvp, augmented_vjp
from refnode.models.training import fit
from refnode.optimisers import Adam

STEP = 1e-30


# --- the parts ------------------------------------------------------------------------------------

def test_augmenting_is_a_triple():
    rng = np.random.default_rng(0)
    x, x_tan, z_bar = rng.standard_normal((3, 2)), rng.standard_normal((3, 2)), rng.standard_normal((3, 5))
    assert np.array_equal(augmented(x, 3), np.column_stack([x, np.zeros((3, 3))]))
    np.testing.assert_allclose(augmented(x + STEP * 1j * x_tan, 3).imag / STEP, augmented_jvp(x_tan, 3), rtol=1e-15)
    assert np.sum(augmented_jvp(x_tan, 3) * z_bar) == pytest.approx(np.sum(x_tan * augmented_vjp(z_bar, 3)), rel=1e-15)
    assert np.array_equal(augmented(x, 0), x) and np.array_equal(augmented_vjp(z_bar, 0), z_bar)


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_readout_loss(weight):
    """Every cotangent by complex steps, and L' = <cotangents, tangents>; the same with a term left out is caught."""
    rng = np.random.default_rng(1)
    W, b, targets = rng.standard_normal((2, 3)), rng.standard_normal(2), rng.standard_normal((4, 2))
    y1, y1_tan = rng.standard_normal((2, 12 + (weight > 0.0)))
    W_tan, b_tan = rng.standard_normal((2, 3)), rng.standard_normal(2)

    def slope(y1_tan, W_tan, b_tan):
        loss = ReadoutLoss(W + STEP * 1j * W_tan, b + STEP * 1j * b_tan, targets, weight)
        return loss.value(None, y1 + STEP * 1j * y1_tan).imag / STEP

    loss = ReadoutLoss(W, b, targets, weight)
    y1_bar, (_, W_bar, b_bar) = loss.vjp(np.zeros((12, 1)), y1)[1], loss.cotangents(y1)
    parts = [y1_bar @ y1_tan, np.sum(W_bar * W_tan), b_bar @ b_tan]
    expected = [slope(y1_tan, 0.0, 0.0), slope(0.0, W_tan, 0.0), slope(0.0, 0.0, b_tan)]
    np.testing.assert_allclose(parts, expected, rtol=1e-13)
    assert slope(y1_tan, W_tan, b_tan) == pytest.approx(sum(parts), rel=1e-13)
    shifted = loss.vjp(np.zeros((12, 1)), y1 + STEP * 1j * y1_tan)[1].imag / STEP
    np.testing.assert_allclose(loss.hvp(np.zeros((12, 1)), y1, np.zeros((12, 1)), y1_tan)[1], shifted, rtol=1e-13, atol=1e-15)
    assert abs(0.5 * parts[0] - expected[0]) > 1e-3                                   # the factor 2 of the square forgotten


CASES = [{"extra": 1}, {"outputs": 2, "extra": 2, "hidden": (4, 3)}, {"outputs": 1, "cost": "taylor3", "weight": 0.1},
         {"cost": "jacobian", "weight": 0.2, "extra": 1}, {"time_input": True, "cost": "kinetic", "weight": 0.1, "outputs": 1}]


@pytest.mark.parametrize("recipe", ["discrete", "interpolating"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case.values())))
def test_gradient_of_the_whole(case, recipe):
    """Field, readout and cost together, to a random end time, against finite differences in all of theta."""
    model = AugmentedODE(2, **{"hidden": (4,), "seed": 3, "recipe": recipe, **case})
    rng = np.random.default_rng(4)
    x, targets = rng.standard_normal((3, 2)), rng.standard_normal((3, model.outputs or 2))
    noise = rng.choice([-1.0, 1.0], 3 * model.widths[0]) if model.cost == "jacobian" else None
    batch, options = (x, targets, 0.8, noise), smooth_loss_options(recipe)
    loss, grad, stats = model.loss_and_gradient(model.theta, batch, **options)
    assert loss == pytest.approx(model.loss(model.theta, batch, **options), rel=1e-12) and stats["nfev"] > 0
    check_gradient(lambda theta: model.loss(theta, batch, **options), model.theta, grad, rtol=1e-6).raise_for_verdict()


def test_the_first_states_are_read_out_and_the_added_ones_begin_at_zero():
    model, x = AugmentedODE(2, 1, hidden=(4,)), np.array([[0.5, -1.0]])
    assert model.problem(x).y0.tolist() == [0.5, -1.0, 0.0]
    paths, nfev = model.paths(x, np.array([0.0, 1.0]))
    assert paths[0, :, 0].tolist() == [0.5, -1.0, 0.0] and nfev > 0
    np.testing.assert_array_equal(model.predict(x)[0], paths[:, :2, -1])


@pytest.mark.parametrize("x, targets, message", [
    (np.zeros((0, 2)), np.zeros((0, 2)), r"x must have shape \(batch, 2\) and at least one row, found \(0, 2\)"),
    (np.zeros(2), np.zeros((1, 2)), r"x must have shape"), (np.zeros((3, 2)), np.zeros((2, 2)), r"targets must have shape \(3, 2\)"),
    (np.array([[0.0, 1.0], [np.nan, 0.0]]), np.zeros((2, 2)), r"x\[1, 0\] = nan"),
    (np.zeros((2, 2)), np.array([[0.0, 1.0], [0.0, np.inf]]), r"targets\[1, 1\] = inf")])
def test_bad_data(x, targets, message):
    with pytest.raises(InvalidInputError, match=message):
        AugmentedODE(2, 1, hidden=(4,)).problem(x, targets)


# --- what cannot be done --------------------------------------------------------------------------

def test_no_plain_flow_crosses():
    """Whatever the parameters, in one dimension the order stays, and so the error is above 1."""
    for seed in range(20):
        model = AugmentedODE(1, 0, (8,), time_input=True, seed=seed)
        model.theta *= 0.25 * (1 + seed)
        ends = model.predict(augmentation.CROSSING[0])[0][:, 0]
        assert ends[0] < ends[1] or np.ptp(ends) < 1e-4                         # to the tolerance of the solve
        assert model.loss(model.theta, augmentation.CROSSING) > augmentation.CROSSING_BOUND - 1e-4


def test_an_augmented_flow_crosses():
    model = AugmentedODE(1, 1, (8,), seed=0)
    found = fit(model.theta, model.loss_and_gradient, [augmentation.CROSSING], Adam(0.03), epochs=150)
    assert found.history.loss[0] > 1.0 and found.history.loss[-1] < 0.01


def test_annuli_are_where_they_are_said_to_be():
    x, classes = augmentation.annuli(np.random.default_rng(0), 400)
    radius = np.hypot(*x.T)
    assert np.all(radius[:200] <= 0.5) and np.all((radius[200:] >= 1.0) & (radius[200:] <= 1.5))
    assert np.array_equal(classes[:, 0], np.repeat([-1.0, 1.0], 200))
    assert np.mean(radius[:200] ** 2) == pytest.approx(0.125, abs=0.02)         # evenly over the disc: half of r^2


# --- how a demonstration ends ---------------------------------------------------------------------

def test_evidence_knows_a_right_gradient_a_wrong_one_and_one_that_cannot_be_told():
    theta = np.random.default_rng(0).standard_normal(6)
    loss, grad = (lambda theta: float(np.sum(np.sin(theta) * theta))), np.cos(theta) * theta + np.sin(theta)
    right = gradient_evidence(loss, theta, grad)
    assert right.verdict == "PASS" and right.error < 1e-9 and "PASS" in str(right)
    assert gradient_evidence(loss, theta, grad * (1.0 + 1e-4)).verdict == "FAIL"
    dropped = grad.copy()
    dropped[2] = 0.0
    assert gradient_evidence(loss, theta, dropped, seed=1).verdict == "FAIL"
    noise = np.random.default_rng(1)
    assert gradient_evidence(lambda theta: loss(theta) + 1e-3 * noise.standard_normal(), theta, grad).verdict == "INCONCLUSIVE"


# --- the demonstrations ---------------------------------------------------------------------------

DEMOS = pytest.mark.parametrize("module, names", [
    (augmentation, ["crossing.png", "annuli.png", "augmented.json"]),
    (easy_dynamics, ["regularised.png", "regularised.json"])], ids=["augmented", "regularised"])


@DEMOS
def test_demo_writes_its_files_and_ends_with_its_gradient(module, names, tmp_path, monkeypatch):
    monkeypatch.setattr(augmentation, "FINENESS", 31)
    lines = []
    result = module.run_demo(tmp_path / "new" / "folder", seed=1, epochs=3, progress=lines.append)
    assert [file.name for file in result.files] == names and lines[-1] == str(result)
    assert "PASS" in str(result).splitlines()[-1] and result.evidence.verdict == "PASS"
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in result.files[:-1])
    assert json.loads(result.files[-1].read_text(encoding="utf-8")) == json.loads(json.dumps(result.to_dict()))


@pytest.mark.slow
@DEMOS
def test_same_seed_same_numbers_and_pictures(module, names, tmp_path, monkeypatch):
    monkeypatch.setattr(augmentation, "FINENESS", 31)
    first, again = (module.run_demo(tmp_path / which, seed=1, epochs=2) for which in ("first", "again"))
    assert first.to_dict() == again.to_dict()
    for one, other in zip(first.files, again.files):
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("module", [augmentation, easy_dynamics])
def test_demo_refuses_what_it_cannot_do(module, tmp_path):
    with pytest.raises(InvalidInputError, match="epochs must be a positive integer, found 0"):
        module.run_demo(tmp_path, epochs=0)
    with pytest.raises(InvalidInputError, match="sensitivity must be one of"):
        module.run_demo(tmp_path, recipe="no such recipe", epochs=1)


@pytest.mark.slow
def test_regularised_flows_need_fewer_evaluations_at_equal_error(tmp_path):
    """Measured at 1e-7: 164 evaluations without, 116 to 134 with a cost, 152 with random end times."""
    rows = {row.name: row for row in easy_dynamics.run_demo(tmp_path).rows}
    assert all(row.error <= easy_dynamics.TARGET for row in rows.values())
    for name in ("kinetic", "jacobian", "taylor2", "taylor3"):
        assert rows[name].nfe[-1] < 0.9 * rows["none"].nfe[-1]
    assert rows["steer"].nfe[-1] < rows["none"].nfe[-1] and rows["steer"].nfe[1] < 0.9 * rows["none"].nfe[1]
    for name in easy_dynamics.MEASURED:                                          # and each lowers what it is to lower
        assert rows[name].costs[name] < rows["none"].costs[name]


@pytest.mark.slow
def test_plain_flows_cannot_and_augmented_ones_do(tmp_path):
    result = augmentation.run_demo(tmp_path)
    assert 1.0 - 1e-4 < result.crossing_loss["plain"] < 1.01 and result.crossing_loss["augmented"] < 1e-6
    assert result.wrong["plain"] > 0.0 == result.wrong["augmented"]
    assert result.annuli_loss["augmented"] < 0.5 * result.annuli_loss["plain"]
    assert result.nfe["augmented"][1] < result.nfe["plain"][1]
