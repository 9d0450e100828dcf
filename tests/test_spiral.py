"""The neural ODE and its demonstration: the loss's gradient by every recipe, the fit, the files it writes."""
import contextlib
import json
import signal

import numpy as np
import pytest

import refnode
from gradients import RECIPES
from refnode import beforehand
from refnode.drivers import FIRST_ORDER_DRIVERS
from refnode.errors import InvalidInputError
from refnode.gradcheck import check_gradient
from refnode.models import neural_ode
from refnode.models.history import reverse_evaluations
from refnode.models.neural_ode import MeanOfObservedSquares, NeuralODE, cut, random_segments, whole
from refnode.demos.spiral import WIDTHS, fit_in_two_stages, measured, noisy_spiral, run_demo, running_mean, true_spiral

TINY = (2, 3, 2)
FROZEN_STEPS = {"n_steps": 12}                          # the loss is then smooth, and its truth the frozen steps
TIGHT = {"rtol": 1e-10, "atol": 1e-12}
ACCURACY = {"frozen": (FROZEN_STEPS, 1e-8), "through": (FROZEN_STEPS, 1e-8), "exact": (TIGHT, 1e-6)}


@pytest.fixture(scope="module")
def data():
    return noisy_spiral(seed=3, count=40)


class Uphill(NeuralODE):
    """A model whose gradient has the wrong sign."""

    def gradient(self, segments, theta=None):
        found = super().gradient(segments, theta)
        found.theta = -found.theta
        return found


def loss_of(model, segments, theta):
    """The loss from a solve alone, no derivative anywhere."""
    problem = model.problem(segments, theta)
    solution = refnode.solve(problem, **model.options)
    return problem.loss.value(solution.y, solution.y1)


# --- the gradient ---------------------------------------------------------------------------------

def gradient_report(recipe, data, sign=1.0):
    """`check_gradient` of the loss of three pieces, in theta and in the pieces' initial values."""
    options, rtol = ACCURACY[RECIPES[recipe].truth]
    model = NeuralODE(TINY, recipe=recipe, seed=1, **options)
    segments, p = cut(*data, starts=[0, 7, 20], length=4), model.theta.size

    def loss(x):
        return loss_of(model, segments.starting_at(x[p:]), x[:p])

    x = np.concatenate([model.theta, segments.y0.ravel()])
    found = model.gradient(segments)
    return check_gradient(loss, x, sign * np.concatenate([found.theta, found.y0]), rtol=rtol)


@pytest.mark.parametrize("recipe", RECIPES)
def test_gradient_by_every_recipe(recipe, data):
    gradient_report(recipe, data).raise_for_verdict()


def test_a_wrong_gradient_is_noticed(data):
    assert gradient_report("discrete", data, sign=-1.0).verdict == "FAIL"


def test_unobserved_entries_do_not_count():
    ys, data = np.array([[1.0, 2.0], [3.0, 5.0]]), np.array([[0.0, np.nan], [np.nan, 2.0]])
    loss = MeanOfObservedSquares(data)
    assert loss.value(ys, ys[:, 1]) == (1.0 + 9.0) / 2
    ys_bar, y1_bar = loss.vjp(ys, ys[:, 1])
    assert ys_bar.tolist() == [[1.0, 0.0], [0.0, 3.0]] and y1_bar.tolist() == [0.0, 0.0]


# --- the batch ------------------------------------------------------------------------------------

def test_cut_puts_every_observation_at_its_own_time(data):
    ts, ys = data
    starts, length = [2, 5, 30], 6
    segments = cut(ts, ys, starts, length)
    assert segments.y0.shape == (3, 2) and segments.data.shape == (3, 2, segments.ts.size)
    assert np.all(np.diff(segments.ts) > 0)
    for start, y0, piece in zip(starts, segments.y0, segments.data):
        observed = ~np.isnan(piece[0])
        assert np.array_equal(y0, ys[:, start])
        assert np.array_equal(piece[:, observed], ys[:, start + 1:start + 1 + length])
        assert np.array_equal(segments.ts[observed], ts[start + 1:start + 1 + length] - ts[start])


def test_a_batch_is_its_pieces_side_by_side(data):
    """The loss of a batch is the mean of the losses of its pieces, and its gradient the mean of theirs."""
    model = NeuralODE(TINY, seed=1, **TIGHT)
    together = model.gradient(cut(*data, starts=[0, 9], length=5))
    alone = [model.gradient(cut(*data, starts=[start], length=5)) for start in (0, 9)]
    assert together.loss == pytest.approx(np.mean([found.loss for found in alone]), rel=1e-7)
    expected = np.mean([found.theta for found in alone], axis=0)
    np.testing.assert_allclose(together.theta, expected, rtol=1e-6, atol=1e-7 * np.max(np.abs(expected)))


def test_mini_batches_are_random_and_repeatable(data):
    first, again = (random_segments(*data, length=4, batch=5, seed=8) for _ in range(2))
    batches = [first() for _ in range(3)]
    assert not np.array_equal(batches[0].y0, batches[1].y0)
    assert all(np.array_equal(batch.y0, again().y0) for batch in batches)
    with pytest.raises(InvalidInputError, match="batch must lie in 1 .. 36"):
        random_segments(*data, length=4, batch=37, seed=8)


# --- the fit --------------------------------------------------------------------------------------

def fitted(data, model_class=NeuralODE, iterations=40, seed=2):
    model = model_class(TINY, seed=seed)
    return model.fit(random_segments(*data, length=5, batch=6, seed=seed), iterations)


def test_a_few_iterations_decrease_the_loss(data):
    loss = fitted(data).history.loss
    assert np.mean(loss[-5:]) < 0.5 * np.mean(loss[:5])


def test_a_flipped_gradient_increases_the_loss(data):
    loss = fitted(data, Uphill).history.loss
    assert np.mean(loss[-5:]) > np.mean(loss[:5])


def test_the_start_is_learnt_too(data):
    ts, ys = data
    far = whole(ts[:10], ys[:, :10]).starting_at([1.0, 1.0])
    model = NeuralODE(TINY, seed=2)
    learnt = model.fit_with_starts(far, 150, (0.05, 0.01))
    truth = true_spiral((2.0, 0.0), ts[:10])[:, 0]
    assert np.linalg.norm(learnt.y0[0] - truth) < 0.5 * np.linalg.norm(far.y0[0] - truth)
    assert np.array_equal(far.y0, [[1.0, 1.0]])
    assert loss_of(model, learnt, model.theta) < 0.2 * model.history.loss[0]


def test_history_and_progress(data):
    lines = []
    model = NeuralODE(TINY, seed=2)
    model.fit(random_segments(*data, length=5, batch=6, seed=2), 7, progress=lines.append, every=3)
    assert [line.split()[1] for line in lines] == ["3", "6", "7"]
    assert len(model.history.loss) == len(model.history.nfe) == len(model.history.nfe_reverse) == 7
    assert all(forward > reverse > 0 for forward, reverse in zip(model.history.nfe, model.history.nfe_reverse))
    assert np.all(np.diff(model.history.seconds) > 0)


@pytest.mark.parametrize("stats, expected", [
    ({"nfev": 44, "n_steps": 5, "n_rejected": 2, "n_steps_reverse": 5}, 30),
    ({"nfev": 25, "n_steps": 4, "n_rejected": 0, "n_steps_reverse": 4}, 24),
    ({"nfev": 44, "n_steps": 5, "n_rejected": 2, "nfev_reverse": 91, "n_steps_reverse": 13}, 91),
    ({"nfev": 44, "n_steps": 5, "n_rejected": 2}, 0),
])
def test_evaluations_of_the_reverse_sweep(stats, expected):
    assert reverse_evaluations(stats) == expected


@pytest.mark.parametrize("recipe", ["forward", "discrete_forward"])
def test_forward_recipes_warn_and_refuse(recipe):
    with pytest.warns(UserWarning, match="162 parameters and is slow"):
        NeuralODE((2, 32, 2), recipe=recipe)
    with pytest.raises(InvalidInputError, match="recipe 'discrete'"):
        NeuralODE((2, 500, 2), recipe=recipe)


# --- the demonstration ----------------------------------------------------------------------------

@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    """The same short demonstration twice, and what the second said."""
    lines = []
    folders = [tmp_path_factory.mktemp("demo") / "new" / "spiral" for _ in range(2)]
    first = run_demo(folders[0], seed=4, iterations=30)
    return first, run_demo(str(folders[1]), seed=4, iterations=30, progress=lines.append), lines


def test_demo_writes_its_files(demos):
    result = demos[0]
    assert [file.name for file in result.files] == ["spiral.png", "spiral.svg", "spiral.json"]
    assert result.files[0].read_bytes().startswith(b"\x89PNG")
    assert b"</svg>" in result.files[1].read_bytes()
    written = json.loads(result.files[2].read_text(encoding="utf-8"))
    assert written["rms_fit"] == result.rms_fit and len(written["loss"]) == 30


def test_demo_says_how_it_goes(demos):
    _, result, lines = demos
    assert sum(line.startswith("iteration ") for line in lines) == 10
    assert any(line.startswith("iteration    30") for line in lines) and lines[-1] == str(result)


def test_same_seed_same_numbers_and_picture(demos):
    first, again, _ = demos
    numbers = [{**result.to_dict(), "seconds": None} for result in (first, again)]
    assert numbers[0] == numbers[1]
    assert first.model.theta.tobytes() == again.model.theta.tobytes()
    for one, other in zip(first.files[:2], again.files[:2]):
        assert one.read_bytes() == other.read_bytes()
    assert not np.array_equal(first.ys, noisy_spiral(seed=5)[1])


def test_the_fit_is_better_than_the_data():
    """With half of the iterations: the learnt curve is nearer to the truth than the observations are."""
    ts, ys = noisy_spiral(seed=0)
    model = NeuralODE(WIDTHS, seed=0)
    result = measured(model, fit_in_two_stages(model, ts, ys, 1500, seed=0), ts, ys, seed=0)
    assert result.rms_fit < result.noise < 1.5 * result.rms_data
    assert result.rms_unseen < 4.0 * result.noise


def test_demo_refuses_what_it_cannot_do(tmp_path):
    with pytest.raises(InvalidInputError, match="sensitivity must be one of"):
        run_demo(tmp_path, recipe="no such recipe")
    with pytest.raises(InvalidInputError, match="iterations must be an integer of at least 2, found 1"):
        run_demo(tmp_path, iterations=1)


def test_running_mean_keeps_a_constant_and_short_ones():
    for size in (1, 3, 60):
        np.testing.assert_allclose(running_mean(np.full(size, 0.3)), 0.3, rtol=1e-12)


# --- compiling beside ------------------------------------------------------------------------------

def test_drivers_compiled_beside_are_drivers():
    assert set(neural_ode.DRIVERS) <= set(RECIPES)
    assert {*neural_ode.DRIVERS.values(), neural_ode.TIMES_DRIVER} <= set(FIRST_ORDER_DRIVERS)


@pytest.mark.parametrize("missing, possible, started", [([], True, 0), (["a driver"], False, 0), (["a driver"], True, 1)])
def test_no_process_for_a_full_cache_or_one_that_takes_no_files(missing, possible, started, monkeypatch):
    calls = []

    @contextlib.contextmanager
    def compiling(names):
        calls.append(names)
        yield [], None
    monkeypatch.setattr(neural_ode, "missing_drivers", lambda names: missing)
    monkeypatch.setattr(neural_ode, "cache_takes_files", lambda: possible)
    monkeypatch.setattr(neural_ode, "compiling", compiling)
    with neural_ode.compiled_beside("discrete"):
        pass
    assert len(calls) == started


@pytest.mark.skipif(not hasattr(signal, "pause"), reason="nothing to wait in")
def test_no_process_outlives_the_body():
    with pytest.raises(KeyboardInterrupt), beforehand.compiling([("signal:pause",)]) as (children, _):
        assert children[0].poll() is None
        raise KeyboardInterrupt
    assert children[0].poll() is not None
