"""The ODE-Net classifier and its twins: gradients, the residual network as Euler's steps, training, bad input."""
import numpy as np
import pytest

import cases
from gradients import RECIPES
from layer_battery import ROUNDING, Triple, check_mutants, check_triple, distance
from refnode import hvp
from refnode.demos.image_files import shipped_digits
from refnode.demos.gradient_evidence import gradient_evidence
from refnode.errors import InvalidInputError, ProblemFileError
from refnode.fields.convolutional import conv_field, conv_layout, initial_conv_parameters
from refnode.fields.residual import residual_field
from refnode.gradcheck import check_gradient
from refnode.models import ode_net
from refnode.models.ode_net import TWINS, ClassLoss, OdeNet, conv_stem, dense_stem
from refnode.problems.problem import Problem
from refnode.solve.initial_value import solve

IMAGE, CLASSES = (6, 5, 2), 3
SMALL = {"width": 4, "groups": 2, "depth": 3, "seed": 2}
FROZEN, TIGHT = {"n_steps": 5}, {"rtol": 1e-9, "atol": 1e-9}


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return rng.uniform(0.0, 1.0, (4, *IMAGE)), np.array([0, 2, 1, 2])


def model_of(twin, block="convolutional", recipe=None, **options):
    model = OdeNet(IMAGE, CLASSES, twin, block, recipe=recipe, **{**SMALL, **options})
    model.theta = model.theta + 0.1 * np.random.default_rng(3).standard_normal(model.theta.size)      # biases are not 0
    return model


# --- stems ------------------------------------------------------------------------------------------

def stem_triple(block, halvings=1):
    model = OdeNet((9 * halvings, 8, 2), CLASSES, "rk", block, **SMALL)
    rng = np.random.default_rng(1)
    x = rng.uniform(0.0, 1.0, (2, *model.image))
    parts = {name: rng.standard_normal(shape) for name, shape in model.layout.shapes.items() if name.startswith("stem")}
    if block == "dense":
        return Triple(lambda **p: dense_stem(x, p), lambda p, d: ode_net.dense_stem_jvp(x, p, d),
                      lambda p, y_bar: ode_net.dense_stem_vjp(x, p, y_bar), parts)
    return Triple(lambda **p: conv_stem(x, p, 2), lambda p, d: ode_net.conv_stem_jvp(x, p, d, 2),
                  lambda p, y_bar: ode_net.conv_stem_vjp(x, p, 2, y_bar), parts)


@pytest.mark.parametrize("block, halvings", [("dense", 1), ("convolutional", 1), ("convolutional", 2)])
def test_stems_pass_the_battery(block, halvings):
    check_triple(stem_triple(block, halvings))


@pytest.mark.parametrize("block", ["dense", "convolutional"])
def test_mutants_of_stems_are_caught(block):
    check_mutants(stem_triple(block))


def test_class_loss_is_a_loss(batch):
    """Its cotangents of the state, of W and of b by complex steps."""
    rng = np.random.default_rng(4)
    y1, W, b, labels = rng.standard_normal(20), rng.standard_normal((3, 5)), rng.standard_normal(3), np.array([0, 2, 1, 1])
    loss = ClassLoss(W, b, labels)
    ys_bar, y1_bar = loss.vjp(np.empty((20, 0)), y1)
    assert ys_bar.shape == (20, 0)
    tans = rng.standard_normal(20), rng.standard_normal((3, 5)), rng.standard_normal(3)
    moved = ClassLoss(W + 1e-30j * tans[1], b + 1e-30j * tans[2], labels).value(None, y1 + 1e-30j * tans[0])
    found = y1_bar @ tans[0] + np.sum(loss.bars["head.W"] * tans[1]) + loss.bars["head.b"] @ tans[2]
    assert abs(found - moved.imag / 1e-30) <= ROUNDING


def test_class_loss_has_a_second_derivative():
    """Its hvp is the complex step of its vjp; and the Hessian of an ODE-Net's loss in the block's θ is symmetric."""
    rng = np.random.default_rng(4)
    y1, y1_tan, W, b = rng.standard_normal(20), rng.standard_normal(20), rng.standard_normal((3, 5)), rng.standard_normal(3)
    loss, none = ClassLoss(W, b, np.array([0, 2, 1, 1])), np.empty((20, 0))
    expected = loss.vjp(none, y1 + 1e-30j * y1_tan)[1].imag / 1e-30
    assert distance(loss.hvp(none, y1, none, y1_tan)[1], expected) <= ROUNDING
    field = conv_field((1, 2, 1), 5, 1, k=1, batch=4)
    problem = Problem(field, y1, rng.standard_normal(field.p), (0.0, 1.0), ts=[], loss=loss)
    u, v = rng.standard_normal((2, field.p))
    left, right = (a * hvp(problem, theta_tan=b, n_steps=3).theta for a, b in ((u, v), (v, u)))
    assert abs(left.sum() - right.sum()) <= 1e-12 * np.abs(left).sum()


# --- the whole gradient -----------------------------------------------------------------------------

@pytest.mark.parametrize("twin, block", [(twin, "convolutional") for twin in TWINS] + [("ode", "dense"), ("rk", "dense")])
def test_gradient_against_differences(twin, block, batch):
    """Along three directions; frozen steps to 1e-8, a continuous adjoint at tight tolerances to 1e-6."""
    options = {} if twin in ("mlp", "euler", "resnet") else TIGHT if twin == "ode" else FROZEN
    model = model_of(twin, block, **options)
    found = gradient_evidence(lambda theta: model.loss(*batch, theta), model.theta, model.gradient(*batch).theta)
    assert found.verdict == "PASS" and found.error <= (1e-6 if twin == "ode" else 1e-8)


def test_every_component_of_a_small_gradient(batch):
    model = OdeNet(IMAGE, CLASSES, "rk", "dense", width=2, seed=1, n_steps=3)
    report = check_gradient(lambda theta: model.loss(*batch, theta), model.theta, model.gradient(*batch).theta, rtol=1e-7)
    report.raise_for_verdict()


@pytest.mark.parametrize("recipe", [name for name, row in RECIPES.items() if row.needs == "vjp" and row.reversal != "inverted"])
def test_every_recipe_gives_the_same_gradient(recipe, batch):
    """To the solve's tolerance of 1e-8, times what the system makes of it."""
    one, other = (model_of("rk", recipe=name, rtol=1e-8, atol=1e-8) for name in (recipe, "discrete"))
    assert distance(one.gradient(*batch).theta, other.gradient(*batch).theta) <= 1e-5


def test_a_model_without_a_part_of_its_gradient_is_noticed(batch):
    """Each part dropped in turn: stem, block, head."""
    model = model_of("rk", **FROZEN)
    grad = model.gradient(*batch).theta
    for name in model.layout.shapes:
        wrong = grad.copy()
        model.layout.unpack(wrong)[name][...] = 0.0
        found = gradient_evidence(lambda theta: model.loss(*batch, theta), model.theta, wrong)
        assert found.verdict == "FAIL" or not grad[model.layout.slices[name]].any(), name


# --- twins ------------------------------------------------------------------------------------------

def test_twins_begin_alike():
    ode, rk, euler, resnet = (OdeNet(IMAGE, CLASSES, twin, **SMALL) for twin in ("ode", "rk", "euler", "resnet"))
    np.testing.assert_array_equal(ode.theta, rk.theta)
    np.testing.assert_array_equal(ode.theta, euler.theta)
    p = ode.layout.shapes["block"][0]
    assert resnet.layout.shapes["block"] == (3 * p,)
    for name in ode.layout.shapes:
        np.testing.assert_array_equal(ode.layout.unpack(ode.theta)[name].ravel()[:p],
                                      resnet.layout.unpack(resnet.theta)[name].ravel()[:p])


def test_a_residual_network_is_eulers_method(batch):
    """y + f(0, y; θ_k), block after block by the field alone, and its solve: the same bits."""
    rng, layout = np.random.default_rng(5), conv_layout((2, 4, 2), 3, True)
    field, one = residual_field((2, 4, 2), 3, 3, 3, time_input=True, batch=2), conv_field((2, 4, 2), 3, 3, time_input=True, batch=2)
    theta = np.concatenate([initial_conv_parameters(layout, rng) for _ in range(3)])
    y = rng.standard_normal(field.n)
    solution = solve(Problem(field, y, theta, (0.0, 3.0), ts=[]), method="euler", n_steps=3)
    for k in range(3):
        y = y + one(0.0, y, theta[k * one.p:(k + 1) * one.p])
    np.testing.assert_array_equal(solution.y1, y)


def test_residual_field_derivatives():
    """In every block: jvp by complex steps, vjp transposed, hvp symmetric; only its own parameters have a derivative."""
    field, rng = residual_field((2, 2), 3, 3, 2, activation="softplus", time_input=True), np.random.default_rng(6)
    for t, own in ((0.25, 0), (1.5, 1), (7.0, 1)):
        point = cases.random_point(rng, field.n, field.p)
        point.t = t
        point.y, point.theta = rng.standard_normal(field.n), rng.standard_normal(field.p)
        tape, dy_tan = field.new_tape(1)[0], np.empty(field.n)
        field.f(t, point.y, point.theta, tape, dy_tan)
        field.jvp(t, point.y, point.theta, point.t_tan, point.y_tan, point.theta_tan, tape, dy_tan)
        step = 1e-30j
        expected = field.numpy_form(t + step * point.t_tan, point.y + step * point.y_tan,
                                    point.theta + step * point.theta_tan).imag / 1e-30
        assert distance(dy_tan, expected) <= ROUNDING
        bars = cases.evaluate_vjp(field, point)
        assert abs(bars @ point.tangent - dy_tan @ point.dy_bar) <= ROUNDING * np.abs(bars) @ np.abs(point.tangent)
        of_blocks = bars[1 + field.n:].reshape(2, -1)
        assert of_blocks[own].any() and not of_blocks[1 - own].any()
        u, v = rng.standard_normal((2, point.tangent.size))
        left, right = (a * cases.evaluate_hvp(field, point, b, np.zeros(field.n)) for a, b in ((u, v), (v, u)))
        assert abs(left.sum() - right.sum()) <= ROUNDING * np.abs(left).sum()


def test_memory_is_counted(batch):
    """The transpose of N steps holds O(N); backsolve the same whatever the steps; a residual network O(depth)."""
    held = lambda twin, **options: model_of(twin, **options).gradient(*batch).bytes_held
    assert 1.8 < held("rk", n_steps=20) / held("rk", n_steps=10) < 2.1
    assert held("ode", rtol=1e-3) == held("ode", rtol=1e-7) < held("rk", n_steps=10)
    assert 1.5 < held("resnet", depth=6) / held("resnet", depth=3) < 2.1
    assert model_of("mlp").gradient(*batch).bytes_held == 0


# --- training ---------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def digits():
    found = shipped_digits(240, 1, 7)
    return found.x, found.labels


@pytest.mark.parametrize("twin, block", [("mlp", "dense"), ("rk", "dense"), ("ode", "dense"), ("resnet", "convolutional")])
def test_it_learns(twin, block, digits):
    """From 90 % wrong to below 60 % within 60 steps; the same seed gives the same bits."""
    def fitted():
        model = OdeNet((8, 8, 1), 10, twin, block, width=16 if block == "dense" else 4, depth=2, seed=1)
        return model, model.fit(*digits, 10, batch=40, validate=lambda model: model.error(*digits))[0]
    model, found = fitted()
    assert found.history.validation[-1] < 0.6 and len(found.history.loss) == 60
    assert np.mean(found.history.loss[-6:]) < 0.75 * np.mean(found.history.loss[:6])
    assert (found.history.nfe[-1] > 0) == (twin != "mlp")
    np.testing.assert_array_equal(fitted()[0].theta, model.theta)


def test_a_fit_that_was_stopped_goes_on_to_the_same_bits(digits, tmp_path):
    """Stopped after the second of three epochs; a checkpoint of other images, or of another twin, is refused."""
    x, labels = digits
    options = {"batch": 80, "seed": 1, "checkpoint": tmp_path / "run.npz", "checkpoint_every": 2}
    make = lambda twin="rk": OdeNet((8, 8, 1), 10, twin, "dense", width=8, seed=1, n_steps=4)
    straight = make()
    whole, _ = straight.fit(x, labels, 3, batch=80, seed=1)
    calls = []

    def stop(model):
        calls.append(model)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return 0.0
    with pytest.raises(KeyboardInterrupt):
        make().fit(x, labels, 3, validate=stop, **options)
    resumed = make()
    found, _ = resumed.fit(x, labels, 3, resume=True, **options)
    assert resumed.theta.tobytes() == straight.theta.tobytes() and found.history.loss == whole.history.loss
    for model, images in ((make("ode"), x), (make(), 1.0 - x)):
        with pytest.raises(ProblemFileError, match="another run: identity is"):
            model.fit(images, labels, 3, resume=True, **options)


def test_error_counts_wrong_images(digits):
    model = OdeNet((8, 8, 1), 10, "mlp", "dense", width=4)
    right = model.logits(digits[0]).argmax(axis=1)
    assert model.error(digits[0], right, batch=100) == 0.0
    right[:24] = (right[:24] + 1) % 10
    assert model.error(digits[0], right, batch=100) == 0.1


def test_an_unreliable_gradient_is_counted(batch):
    """Backwards a contracting flow expands: a backsolve that comes back wrong says so, and the model passes it on."""
    assert not model_of("ode", **TIGHT).gradient(*batch).unreliable
    far = model_of("ode", rtol=0.5, atol=0.5, method="bosh3")
    far.theta = far.theta * 6.0
    assert far.gradient(*batch).unreliable


# --- bad input --------------------------------------------------------------------------------------

@pytest.mark.parametrize("arguments, message", [
    ({"twin": "cnn"}, "twin must be one of mlp, resnet, euler, rk, ode, found 'cnn'"),
    ({"block": "attention"}, "block must be 'convolutional', or 'dense'"),
    ({"twin": "resnet", "block": "dense"}, "found 'dense'"),
    ({"width": 3}, None), ({"recipe": "magic"}, "sensitivity must be one of"),
    ({"recipe": "forward"}, "recipe 'forward' pushes a tangent for every number")])
def test_the_constructor_checks(arguments, message, batch):
    with pytest.raises(InvalidInputError, match=message or "groups must divide"):
        OdeNet(IMAGE, CLASSES, **{"twin": "ode", **SMALL, **arguments}).gradient(*batch)


@pytest.mark.parametrize("twin", ["mlp", "rk"])
def test_data_are_checked(twin, batch):
    (x, labels), model = batch, model_of(twin)
    bad = x.copy()
    bad[1, 0, 4, 1] = np.nan
    for arguments, message in (
            ((bad, labels), r"images must be finite, found images\[1, 0, 4, 1\] = nan"),
            ((x[:0], labels[:0]), r"batch not 0, found \(0, 6, 5, 2\)"), ((x[..., 0], labels), r"found \(4, 6, 5\)"),
            ((x, [0, 1, 2, 3]), r"labels must be integers in 0 .. 2, found labels\[3\] = 3"),
            ((x, labels[:3]), r"labels must have shape \(4,\), found \(3,\)")):
        with pytest.raises(InvalidInputError, match=message):
            model.gradient(*arguments)
