"""What models refuse: data of another shape, labels that are no classes, times that do not increase, solves that failed."""
import numpy as np
import pytest

from refnode.errors import IntegrationError, InvalidInputError, InvalidTypeError
from refnode.models.augmented_ode import AugmentedODE
from refnode.models.cnf import CNF
from refnode.models.latent_ode import LatentODE
from refnode.models.neural_ode import NeuralODE, cut, random_segments, whole
from refnode.models.ode_net import OdeNet
from refnode.models.ode_rnn import OdeRnn
from refnode.models.poisson_ode import PoissonODE, event_counts
from refnode.models.series import series
from refnode.models.stacked_flow import planar_flow
from refnode.models.timed_rnn import TimedRNN

RNG = np.random.default_rng(0)
IMAGES, CLASSES = RNG.uniform(size=(20, 8, 8, 1)), np.arange(20) % 10
TS, YS = np.array([0.0, 0.5, 1.0, 2.0]), RNG.standard_normal((2, 4))
SERIES_MODELS = [LatentODE, OdeRnn, TimedRNN]


def changed(array, index, value):
    """A copy of the array, as floats, with one entry changed."""
    copy = np.array(array, dtype=np.float64)
    copy[index] = value
    return copy


# --- the classifier ---------------------------------------------------------------------------------

@pytest.mark.parametrize("x, labels, message", [
    (IMAGES, CLASSES[:15], r"labels must have shape \(20,\), one for each image, found \(15,\)"),
    (IMAGES, changed(CLASSES, 17, 11), r"found labels\[17\] = 11"), (IMAGES, changed(CLASSES, 17, np.nan), r"found labels\[17\] = nan"),
    (changed(IMAGES, (10, 7, 4, 0), np.inf), CLASSES, r"found images\[10, 7, 4, 0\] = inf"),
    (IMAGES[:0], CLASSES[:0], "batch not 0"), (IMAGES[..., 0], CLASSES, r"found \(20, 8, 8\)")])
def test_a_data_set_of_images(x, labels, message):
    """Indices count in the whole set, whatever mini-batch an image falls into; one answer from fit and from error."""
    model = OdeNet((8, 8, 1), 10, "mlp", "dense", width=4)
    before = model.theta.copy()
    for refuse in (lambda: model.fit(x, labels, 1, 5), lambda: model.error(x, labels)):
        with pytest.raises(InvalidInputError, match=message):
            refuse()
    np.testing.assert_array_equal(model.theta, before)


def test_labels_may_be_a_list():
    models = [OdeNet((8, 8, 1), 10, "mlp", "dense", width=4) for _ in range(2)]
    for model, labels in zip(models, (CLASSES, CLASSES.tolist())):
        model.fit(IMAGES, labels, 1, 5)
    np.testing.assert_array_equal(models[0].theta, models[1].theta)


# --- series -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("make", SERIES_MODELS)
def test_series_of_other_channels(make):
    """A compiled recurrence would read past the end of its weights."""
    model, data = make(2), series(TS, RNG.standard_normal((3, 4, 5)))
    noise = [np.zeros((3, 4))] if make is LatentODE else []
    for refuse in (lambda: model.loss(data, *noise), lambda: model.gradient(data, *noise), lambda: model.fit(data, 1)):
        with pytest.raises(InvalidInputError, match="series must have 2 channels, as the model has, found 5"):
            refuse()
    with pytest.raises(InvalidTypeError, match="series must be made by refnode.models.series.series, or series_of, found ndarray"):
        model.fit(np.zeros((3, 4, 2)), 1)


@pytest.mark.parametrize("make", SERIES_MODELS)
@pytest.mark.parametrize("ts, message", [
    ([0.5, 0.2], r"ts must increase, found ts\[1\] = 0.2 after 0.5"), ([0.5, np.nan], r"ts must be finite, found ts\[1\] = nan"),
    ([], "ts must hold at least one time")])
def test_times_that_are_asked_for(make, ts, message):
    model, data = make(2), series(TS, RNG.standard_normal((3, 4, 2)))
    asked = [model.decoded] if make is LatentODE else [model.predicted, *([model.continued] if make is TimedRNN else [])]
    for predict in asked:
        with pytest.raises(InvalidInputError, match=message):
            predict(data, ts)


@pytest.mark.parametrize("call, message", [
    (lambda: whole(TS[::-1], YS), r"ts must increase, found ts\[1\] = 1 after 2"),
    (lambda: whole(changed(TS, 2, np.nan), YS), r"ts must be finite, found ts\[2\] = nan"),
    (lambda: whole(TS, YS[:, :3]), r"ys must have shape \(d, 4\), a column for each of ts, found \(2, 3\)"),
    (lambda: whole(TS[:0], YS[:, :0]), "ts must hold at least one time"),
    (lambda: whole(TS, changed(YS, (1, 2), np.inf)), r"ys must be finite, .*found ys\[1, 2\] = inf"),
    (lambda: cut(TS[[0, 2, 1, 3]], YS, [0], 2), r"ts must increase, found ts\[2\] = 0.5 after 1"),
    (lambda: cut(TS, YS, [0, 2], 2), r"starts must hold integers in 0 .. 1, at least one, found 2"),
    (lambda: cut(TS, YS, [], 2), "at least one, found none"), (lambda: cut(TS, YS, [0], 0), "length must be an integer in 1 .. 3"),
    (lambda: random_segments(TS, YS, 9, 1, 0), "length must be an integer in 1 .. 3, found 9"),
    (lambda: random_segments(TS, YS[0], 2, 1, 0), r"ys must have shape \(d, 4\)")])
def test_trajectories(call, message):
    with pytest.raises(InvalidInputError, match=message):
        call()


# --- events and samples -----------------------------------------------------------------------------

@pytest.mark.parametrize("call, message", [
    (lambda: event_counts([[[0.1]]], (0.0, np.nan)), "t_span must be two finite times"),
    (lambda: event_counts([[[0.1]]], (1.0, 0.0)), r"t_span must begin before it ends, found \(1.0, 0.0\)"),
    (lambda: PoissonODE(2).gradient((0.0, 2.0), TS, np.ones((3, 4))), r"counts must have shape \(2, 4\), .*found \(3, 4\)"),
    (lambda: PoissonODE(2).gradient((0.0, 2.0), TS, changed(np.ones((2, 4)), (1, 3), np.nan)), r"found counts\[1, 3\] = nan"),
    (lambda: PoissonODE(2).fit((0.0, 2.0), TS, np.ones((2, 4)), 0), "iterations must be a positive integer, found 0"),
    (lambda: CNF((2, 3, 2)).sample(0), "count must be a positive integer, found 0"),
    (lambda: planar_flow(2, 1).sample(-1), "count must be a positive integer, found -1")])
def test_events_and_samples(call, message):
    with pytest.raises(InvalidInputError, match=message):
        call()


# --- a solve that failed ----------------------------------------------------------------------------

FAILS = {"max_steps": 1, "rtol": 1e-9, "atol": 1e-9}
EARLY = {
    "classes": lambda: OdeNet((8, 8, 1), 10, "rk", "dense", width=4, **FAILS).logits(IMAGES[:2]),
    "error": lambda: OdeNet((8, 8, 1), 10, "rk", "dense", width=4, **FAILS).error(IMAGES[:2], CLASSES[:2]),
    "density": lambda: CNF((2, 3, 2), **FAILS).log_density(np.ones((2, 2))),
    "samples": lambda: CNF((2, 3, 2), **FAILS).sample(2),
    "loss": lambda: AugmentedODE(2, 1, **FAILS).loss(AugmentedODE(2, 1).theta, (np.ones((2, 2)), np.ones((2, 2)))),
    "prediction": lambda: AugmentedODE(2, 1, **FAILS).predict(np.ones((2, 2))),
    "trajectory": lambda: NeuralODE((2, 3, 2), **FAILS).solve([1.0, 0.0], TS)}


@pytest.mark.parametrize("name", EARLY)
def test_no_number_comes_out_of_a_solve_that_ended_early(name):
    """The state where it stopped would be taken for the state at the end: a density, a class, a loss of nothing."""
    with pytest.raises(IntegrationError, match="the solve of the model failed: .*max_steps"):
        EARLY[name]()
