"""Series with missing values: what is refused, how they are arranged for a recurrence."""
import numpy as np
import pytest

from refnode.errors import InvalidInputError
from refnode.models.ode_rnn import pieces_of, predictions, with_times
from refnode.models.poisson_ode import event_counts
from refnode.models.series import backwards, series, series_of, steps_of

TS, VALUES = np.array([0.5, 1.0, 2.0]), np.arange(12.0).reshape(2, 3, 2)
SEEN = np.array([[[1, 1], [0, 0], [0, 1]], [[0, 0], [1, 0], [0, 0]]], dtype=bool)


def with_nan(index):
    values = VALUES.copy()
    values[index] = np.nan
    return values


@pytest.mark.parametrize("arguments, message", [
    (([0.5, 2.0, 1.0], VALUES), r"ts must increase, found ts\[2\] = 1 after 2"),
    (([0.5, 1.0, 1.0], VALUES), r"ts must increase, found ts\[2\] = 1 after 1"),
    (([0.5, np.nan, 1.0], VALUES), r"ts must be finite, found ts\[1\] = nan"),
    (([], VALUES[:, :0]), "ts must hold at least one time, found none"),
    ((TS, VALUES[:, :2]), r"values must have shape \(batch, 3, d\).*found \(2, 2, 2\)"),
    ((TS, VALUES[0]), r"values must have shape \(batch, 3, d\).*found \(3, 2\)"),
    ((TS, VALUES[:0]), r"batch and d > 0.*found \(0, 3, 2\)"),
    ((TS, with_nan((1, 2, 0))), r"values\[1, 2, 0\] = nan, not marked as missing"),
    ((TS, with_nan((0, 0, 1)), SEEN), r"values\[0, 0, 1\] = nan, not marked as missing"),
    ((TS, VALUES, SEEN.astype(int)), "observed must be boolean"),
    ((TS, VALUES, SEEN[:1]), r"of the shape of values, \(2, 3, 2\), found bool of shape \(1, 3, 2\)"),
    ((TS, VALUES, SEEN, 0.6), "t0 must not come after the first time 0.5, found 0.6")])
def test_bad_series_are_refused(arguments, message):
    with pytest.raises(InvalidInputError, match=message):
        series(*arguments)


@pytest.mark.parametrize("samples, message", [
    ([], "at least one series"),
    ([(TS, VALUES[0]), (TS[::-1], VALUES[1])], r"times of sample 1 must increase, found times of sample 1\[1\] = 1 after 2"),
    ([(TS, VALUES[0]), (TS, VALUES[1, :2])], r"values of sample 1 must have shape \(3, 2\), found \(2, 2\)"),
    ([(TS, VALUES[0]), (TS, VALUES[1, :, :1])], r"values of sample 1 must have shape \(3, 2\), found \(3, 1\)")])
def test_bad_samples_are_refused(samples, message):
    with pytest.raises(InvalidInputError, match=message):
        series_of(samples)


def test_an_empty_batch_is_refused():
    with pytest.raises(InvalidInputError, match="an empty batch of series"):
        series(TS, VALUES).take([])


def test_what_is_missing_is_held_as_zero():
    found = series(TS, with_nan((0, 1, 0)), SEEN)
    np.testing.assert_array_equal(found.values, np.where(SEEN, VALUES, 0.0))


def test_samples_with_times_of_their_own_lie_on_the_union():
    found = series_of([([0.0, 2.0], [[1.0], [2.0]]), ([1.0, 2.0], [[3.0], [np.nan]])])
    np.testing.assert_array_equal(found.ts, [0.0, 1.0, 2.0])
    np.testing.assert_array_equal(found.values[:, :, 0], [[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]])
    np.testing.assert_array_equal(found.observed[:, :, 0], [[True, False, True], [False, True, False]])


def test_taken_series_keep_only_their_times():
    found = series(TS, VALUES, SEEN, t0=0.0).take([1])
    assert found.t0 == 0.0
    np.testing.assert_array_equal(found.ts, [1.0])
    np.testing.assert_array_equal(found.values, [[[8.0, 0.0]]])


def test_a_series_without_observations_keeps_its_times():
    np.testing.assert_array_equal(series(TS, VALUES, np.zeros_like(SEEN)).take([0]).ts, TS)


def test_predictions_before_the_beginning_are_refused():
    with pytest.raises(InvalidInputError, match="ts must not begin before t0 = 0.5, found 0.2"):
        with_times(series(TS, VALUES, SEEN), [0.2, 0.7])


def test_steps_by_hand():
    steps = steps_of(series(TS, VALUES, SEEN, t0=0.0))
    np.testing.assert_array_equal(steps.present, [[True, True], [True, False]])
    np.testing.assert_array_equal(np.where(steps.present, steps.at, -1), [[0, 1], [2, -1]])
    np.testing.assert_array_equal(steps.gap, [[0.5, 1.0], [1.5, 0.0]])
    np.testing.assert_array_equal(steps.inputs[:, 0], [[0.0, 1.0, 1.0, 1.0, 0.5], [0.0, 5.0, 0.0, 1.0, 1.5]])
    np.testing.assert_array_equal(steps.inputs[:, 1], [[8.0, 0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(backwards(steps).inputs, steps.inputs[::-1])


def test_a_time_without_observation_ends_no_piece():
    batch = with_times(series(TS, VALUES, SEEN, t0=0.0), [0.7, 1.5, 3.0, 4.0])
    np.testing.assert_array_equal(batch.ts, [0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0])
    assert pieces_of(batch) == [slice(0, 1), slice(1, 3), slice(3, 5), slice(5, 7)]


def test_the_first_observation_of_a_series_is_not_predicted():
    _, predicted = predictions(series(TS, VALUES, SEEN))
    np.testing.assert_array_equal(predicted.transpose(1, 0, 2), [[[0, 0], [0, 0], [0, 1]], [[0, 0], [0, 0], [0, 0]]])


# --- events ---------------------------------------------------------------------------------------

def test_events_are_counted_as_the_mean_of_records():
    ts, counts = event_counts([[[0.5, 1.0], [1.0]], [[], [0.2]]], (0.0, 2.0))
    np.testing.assert_array_equal(ts, [0.2, 0.5, 1.0])
    np.testing.assert_array_equal(counts, [[0.0, 0.5, 1.0], [0.5, 0.0, 0.0]])


@pytest.mark.parametrize("records, message", [
    ([], "at least one record"), ([[[0.5]], []], "at least one record"), ([[[], []]], "at least one event"),
    ([[[0.5], [1.0, 0.9]]], r"records\[0\]\[1\] must increase, found records\[0\]\[1\]\[1\] = 0.9 after 1"),
    ([[[0.5, 2.5]]], r"records\[0\]\[0\] must lie in \[0, 2\], found records\[0\]\[0\]\[1\] = 2.5"),
    ([[[np.nan]]], r"found records\[0\]\[0\]\[0\] = nan"), ([[0.5]], "must be one-dimensional")])
def test_bad_events_are_refused(records, message):
    with pytest.raises(InvalidInputError, match=message):
        event_counts(records, (0.0, 2.0))
