"""The fit: what it computes, what it records, and that a run which was stopped goes on to the same bits."""
import os
import signal
import subprocess
import sys
import zipfile

import numpy as np
import pytest

import refnode
from refnode.errors import IntegrationError, InvalidInputError, ProblemFileError
from refnode.models import checkpoint_file, training
from refnode.models.checkpoint_file import read_checkpoint, write_checkpoint
from refnode.models.history import History
from refnode.models.training import TrainingError, fit, mini_batches
from refnode.optimisers import SGD, Adam, AdamW
from refnode.quasi_newton import LBFGS
from refnode.schedules import CosineDecay, ExponentialDecay, StepDecay

DATA = np.random.default_rng(5).standard_normal((40, 3))
TARGET = np.tanh(DATA @ [0.5, -1.0, 2.0])


def regression(theta, batch):
    """Mean squared error of tanh(x theta) on the samples ``batch``."""
    a = np.tanh(DATA[batch] @ theta)
    residual = a - TARGET[batch]
    return float(np.mean(residual ** 2)), (2.0 / residual.size) * DATA[batch].T @ (residual * (1.0 - a * a))


def noisy(rng):
    """Batches with noise of their own, as dropout masks or random end times would be drawn."""
    return [(batch, rng.standard_normal(3)) for batch in mini_batches(40, 15)(rng)]


def noisy_regression(theta, batch):
    loss, grad = regression(theta, batch[0])
    return loss + 0.01 * batch[1] @ theta, grad + 0.01 * batch[1]


def straight(epochs=6, **options):
    return fit(np.zeros(3), noisy_regression, noisy, **{"optimiser": Adam(0.05), "seed": 7, **options}, epochs=epochs)


# --- what it computes -----------------------------------------------------------------------------

def test_one_epoch_by_hand():
    """Two batches of one number each, gradient theta - batch, rate 1/2, penalty 1/4, norm at most 2; all exact.

    theta 8, batch 4:  grad 4 + 2 = 6, clipped to 2, theta 7;   batch 10: grad -3 + 7/4 = -5/4, theta 7 + 5/8.
    """
    found = fit([8.0], lambda theta, batch: (0.5 * float((theta - batch) @ (theta - batch)), theta - batch), [4.0, 10.0],
                SGD(0.5), l2=0.25, clip=2.0)
    assert found.theta.tolist() == [7.625] and found.history.loss == [8.0, 4.5]
    assert found.history.grad_norm == [6.0, 1.25] and found.reason == "all epochs done"
    assert (found.epochs, found.iterations) == (1, 2)


def test_it_is_the_optimiser_in_a_loop():
    rng, optimiser, theta = np.random.default_rng([7, 0]), Adam(0.05), np.zeros(3)
    for batch in noisy(rng):
        theta = optimiser.step(theta, noisy_regression(theta, batch)[1])
    assert straight(epochs=1).theta.tobytes() == theta.tobytes()


def test_mini_batches_cover_every_sample_once():
    batches = mini_batches(10, 4)(np.random.default_rng(0))
    assert [batch.size for batch in batches] == [4, 4, 2] and sorted(np.concatenate(batches)) == list(range(10))


def test_epochs_have_streams_of_their_own_and_seeds_decide():
    seen = []

    def record(theta, batch):
        seen.append(batch.tolist())
        return regression(theta, batch)
    for seed in (1, 1, 2):
        fit(np.zeros(3), record, mini_batches(40, 40), SGD(), epochs=2, seed=seed)
    assert seen[0:2] == seen[2:4] and len({tuple(order) for order in seen}) == 4


def test_schedule_is_asked_for_every_iteration():
    """Unit gradients: theta is the sum of the rates."""
    found = fit([0.0], lambda theta, batch: (0.0, [-1.0]), [0, 0], SGD(), StepDecay(1.0, 0.5, 2), epochs=3)
    assert found.theta.tolist() == [1.0 + 1.0 + 0.5 + 0.5 + 0.25 + 0.25]


def test_a_penalty_on_some_parameters_leaves_the_others():
    found = fit(np.ones(2), lambda theta, batch: (0.0, np.zeros(2)), [0], SGD(0.5), l2=np.array([1.0, 0.0]), epochs=3)
    assert found.theta.tolist() == [0.125, 1.0] and found.history.loss == [0.0] * 3


def test_early_stopping_returns_the_lowest():
    values = iter([3.0, 1.0, 2.0, 1.0, 5.0, 0.0])
    found = fit([0.0], lambda theta, batch: (0.0, [-1.0]), [0], SGD(1.0), epochs=9, validate=lambda theta: next(values),
                patience=3)
    assert found.theta.tolist() == [2.0] and found.last_theta.tolist() == [5.0] and found.epochs == 5
    assert found.history.validation == [3.0, 1.0, 2.0, 1.0, 5.0] and found.reason == "no lower validation for 3 epochs"


def test_it_stops_at_the_target():
    found = fit([0.0], lambda theta, batch: (0.0, [-1.0]), [0], SGD(1.0), epochs=9, validate=lambda theta: 5.0 - theta[0],
                target=2.0)
    assert found.theta.tolist() == [3.0] and found.reason == "validation 2 is at most 2"


def test_evaluations_are_recorded():
    stats = {"nfev": 44, "n_steps": 5, "n_rejected": 2, "n_steps_reverse": 5}
    found = fit([0.0], lambda theta, batch: (1.0, [0.0], stats), [0], SGD(), epochs=2)
    assert found.history.nfe == [44, 44] and found.history.nfe_reverse == [30, 30]


def test_progress_ends_with_the_last_iteration():
    lines = []
    fit(np.zeros(3), regression, mini_batches(40, 20), SGD(), epochs=4, progress=lines.append, every=3, validate=lambda x: 2.0)
    assert [line.split()[1] for line in lines] == ["3", "6", "8"]
    assert "NFE" not in lines[0] and lines[-1].endswith("validation 2.000e+00")


def test_lbfgs_finds_the_lowest_point_and_says_so():
    found = fit(np.zeros(3), regression, [np.arange(40)], LBFGS(), epochs=200)
    np.testing.assert_allclose(found.theta, [0.5, -1.0, 2.0], atol=1e-6)
    assert found.iterations < 60 and found.history.loss[-1] < 1e-15 and found.reason.startswith("the ")
    assert found.history.grad_norm[0] == np.linalg.norm(regression(np.zeros(3), np.arange(40))[1])


def test_lbfgs_treats_a_failed_solve_as_a_step_too_far():
    """Its first trial from 0.9 is 1.9, beyond 1.5, where there is nothing."""
    tried = []

    def walled(theta, batch):
        tried.append(theta[0])
        if theta[0] > 1.5:
            raise IntegrationError("the solution ended at t=0.3")
        return 5.0 * (theta[0] - 1.4) ** 2, 10.0 * (theta - 1.4)
    found = fit([0.9], walled, [0], LBFGS(), epochs=20)
    assert max(tried) == pytest.approx(1.9) and found.theta[0] == pytest.approx(1.4, abs=1e-8)


# --- a number that is not finite ------------------------------------------------------------------

@pytest.mark.parametrize("broken, message", [
    (lambda theta: (np.inf, theta), "not finite first: the loss: inf"),
    (lambda theta: (0.0, np.array([0.0, np.nan, np.inf])), "not finite first: the gradient, entry 1: nan"),
    (lambda theta: (0.0, np.array([0.0, 0.0, -1e308])), "not finite first: the new parameters, entry 2: inf"),
])
@pytest.mark.filterwarnings("ignore:overflow")
def test_the_first_that_is_not_finite_is_named(broken, message, tmp_path):
    """At iteration 4 something overflows: the checkpoint of iteration 4 is still there, and it is the last good theta."""
    calls, path = [], tmp_path / "run.npz"

    def loss_and_gradient(theta, batch):
        calls.append(theta)
        return broken(theta) if len(calls) == 5 else (1.0, np.ones(3))
    with pytest.raises(TrainingError, match=f"iteration 4, epoch 4; {message}") as caught:
        fit(np.zeros(3), loss_and_gradient, [0], SGD(10.0), epochs=9, checkpoint=path, checkpoint_every=1)
    kept = caught.value.fit
    assert kept.theta.tolist() == [-40.0] * 3 and kept.iterations == 4 and kept.history.loss == [1.0] * 4
    resumed = fit(np.zeros(3), lambda theta, batch: (1.0, np.ones(3)), [0], SGD(10.0), epochs=4, checkpoint=path, resume=True)
    assert resumed.theta.tolist() == kept.theta.tolist()


def test_a_state_that_overflows_is_named():
    """y' = theta y^2 from 1 has no solution at t = 1 when theta is 1 or more: the solve is what failed first."""
    field = refnode.VectorField(lambda t, y, theta: theta * y * y, vjp=lambda t, y, theta, dy_bar: (
        0.0, 2.0 * theta * y * dy_bar, np.array([float(y[0] * y[0] * dy_bar[0])])))
    loss = refnode.losses.terminal(lambda y1: -float(y1[0]), lambda y1: np.array([-1.0]))

    def loss_and_gradient(theta, batch):
        found = refnode.gradient(refnode.Problem(field, [1.0], theta, loss=loss))
        return found.loss, found.theta, found.stats
    with pytest.raises(TrainingError, match=r"iteration \d+, epoch \d+; not finite first: the solve: .*t=") as caught:
        fit([0.5], loss_and_gradient, [0], SGD(0.2), epochs=50)
    assert 0.5 < caught.value.fit.theta[0] and isinstance(caught.value.__cause__, IntegrationError)


def test_a_loss_that_overflows_inside_the_gradient_is_named():
    def loss_and_gradient(theta, batch):
        if theta[0] < -1.0:
            raise InvalidInputError("loss must be finite, found inf")
        return 1.0, np.ones(1)
    with pytest.raises(TrainingError, match="not finite first: loss must be finite, found inf"):
        fit([0.0], loss_and_gradient, [0], SGD(0.5), epochs=9)


def test_bad_data_at_the_beginning_are_bad_input():
    def loss_and_gradient(theta, batch):
        raise InvalidInputError("y0 must be finite, found y0[3] = nan")
    with pytest.raises(InvalidInputError, match=r"y0\[3\] = nan"):
        fit([0.0], loss_and_gradient, [0], SGD())


# --- going on -------------------------------------------------------------------------------------

class Stop(Exception):
    """The run is interrupted."""


RUNS = {
    "sgd": {"optimiser": lambda: SGD(0.1, momentum=0.9, nesterov=True), "schedule": StepDecay(0.1, 0.5, 4)},
    "adam": {"optimiser": lambda: Adam(0.05), "l2": 1e-3, "clip": 0.5},
    "adamw": {"optimiser": lambda: AdamW(0.05), "schedule": CosineDecay(0.05, 0.001, 18)},
    "validated": {"optimiser": lambda: Adam(0.05), "validate": lambda theta: regression(theta, np.arange(40))[0],
                  "patience": 3, "schedule": ExponentialDecay(0.05, 0.01, 18)},
}


@pytest.mark.parametrize("stopped_at", [0, 1, 3, 7, 17])
@pytest.mark.parametrize("name", RUNS)
def test_a_resumed_run_has_the_bits_of_one_that_was_not_stopped(name, stopped_at, tmp_path):
    options = {**RUNS[name], "checkpoint": tmp_path / "run.npz", "checkpoint_every": 1}
    make, count = options.pop("optimiser"), [0]
    expected = straight(optimiser=make(), **{**options, "checkpoint": None})

    def interrupted(theta, batch):
        if count[0] == stopped_at:
            raise Stop
        count[0] += 1
        return noisy_regression(theta, batch)
    with pytest.raises(Stop):
        fit(np.zeros(3), interrupted, noisy, make(), epochs=6, seed=7, **options)
    found = straight(optimiser=make(), resume=True, **options)
    assert_same(found, expected)


def assert_same(found, expected):
    """Parameters, histories (without seconds) and counts, to the last bit."""
    assert found.theta.tobytes() == expected.theta.tobytes() and found.last_theta.tobytes() == expected.last_theta.tobytes()
    for name in ("loss", "grad_norm", "nfe", "nfe_reverse", "validation"):
        assert getattr(found.history, name) == getattr(expected.history, name), name
    assert (found.epochs, found.iterations, found.reason) == (expected.epochs, expected.iterations, expected.reason)
    assert np.all(np.diff(found.history.seconds) > 0.0)


@pytest.mark.parametrize("epochs", [1, 4])
def test_lbfgs_goes_on(epochs, tmp_path):
    options = {"theta": np.zeros(3), "loss_and_gradient": regression, "batches": [np.arange(40)]}
    expected = fit(optimiser=LBFGS(), epochs=9, **options)
    fit(optimiser=LBFGS(), epochs=epochs, checkpoint=tmp_path / "run.npz", **options)
    assert_same(fit(optimiser=LBFGS(), epochs=9, checkpoint=tmp_path / "run.npz", resume=True, **options), expected)


def test_more_epochs_go_on_and_a_finished_run_stays(tmp_path):
    path = tmp_path / "run.npz"
    straight(epochs=2, checkpoint=path)
    assert_same(straight(epochs=6, checkpoint=path, resume=True), straight(epochs=6))
    again = fit(np.zeros(3), None, noisy, Adam(0.05), seed=7, epochs=6, checkpoint=path, resume=True)     # never evaluated
    assert again.theta.tobytes() == straight(epochs=6).theta.tobytes()


def test_without_a_checkpoint_resume_begins(tmp_path):
    assert_same(straight(checkpoint=tmp_path / "none.npz", resume=True), straight())


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from test_training import *
found = straight(epochs=400, checkpoint={path!r}, checkpoint_every=1, resume=True, every=1,
                 progress=lambda line: print(line, flush=True))
"""


def test_a_killed_process_is_resumed_exactly(tmp_path):
    """SIGKILL at whatever instant, twice, in the middle of a run that writes a checkpoint every iteration."""
    path = str(tmp_path / "run.npz")
    command = [sys.executable, "-c", SCRIPT.format(tests=os.path.dirname(__file__), path=path)]
    for line_number in (20, 35):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            for _ in range(line_number):
                assert child.stdout.readline().startswith("iteration")
            child.send_signal(signal.SIGKILL)
    done = len(read_checkpoint(path, settings_of_the_run())["history_loss"])
    assert 50 <= done < 1200
    assert_same(straight(epochs=400, checkpoint=path, resume=True), straight(epochs=400))


def settings_of_the_run():
    return training.Settings(None, 400, 0.0, None, None, None, None, "", None, None, 1, 7, "").text(Adam(0.05), 3)


# --- checkpoints that are refused -----------------------------------------------------------------

@pytest.mark.parametrize("options, message", [
    ({"optimiser": SGD(0.05)}, r"another run: optimiser is 'Adam\(learning_rate=0.05.* there and 'SGD"),
    ({"optimiser": Adam(0.06)}, "another run: optimiser is .*0.05.*0.06"), ({"seed": 8}, r"seed is \[7\] there and \[8\] here"),
    ({"l2": 0.1}, "l2 is 0.0 there and 0.1 here"), ({"clip": 1.0}, "clip is None there"),
    ({"identity": "spiral"}, "identity is '' there and 'spiral' here"),
    ({"schedule": StepDecay(0.05, 0.5, 10)}, "schedule is 'None' there"),
])
def test_a_checkpoint_of_another_run_is_refused(options, message, tmp_path):
    path = tmp_path / "run.npz"
    straight(checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(ProblemFileError, match=message):
        straight(checkpoint=path, resume=True, **options)
    assert path.read_bytes() == before


def test_every_damaged_byte_is_noticed(tmp_path):
    path = tmp_path / "run.npz"
    write_checkpoint(path, {"seed": 1}, {"theta": np.arange(3.0), "reason": np.array("done")})
    whole, refused = path.read_bytes(), 0
    expected = read_checkpoint(path, {"seed": 1})
    for place in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        path.write_bytes(damaged)
        try:
            found = read_checkpoint(path, {"seed": 1})          # some bytes of an archive mean nothing: dates, attributes
        except ProblemFileError:
            refused += 1
        else:
            assert {n: a.tolist() for n, a in found.items()} == {n: a.tolist() for n, a in expected.items()}, place
    assert refused > 0.5 * len(whole) / 3


@pytest.mark.parametrize("content", [b"", b"PK", b"not an archive"])
def test_no_archive(content, tmp_path):
    path = tmp_path / "run.npz"
    path.write_bytes(content)
    with pytest.raises(ProblemFileError, match="run.npz: not a whole checkpoint"):
        straight(checkpoint=path, resume=True)


def test_truncated_foreign_and_other_versions(tmp_path, monkeypatch):
    path = tmp_path / "run.npz"
    write_checkpoint(path, {}, {"theta": np.arange(300.0)})
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ProblemFileError, match="not a whole checkpoint"):
        read_checkpoint(path, {})
    np.savez(path, theta=np.ones(3))
    with pytest.raises(ProblemFileError, match="no checkpoint of a training run"):
        read_checkpoint(path, {})
    np.savez(path, theta=np.array([{}], dtype=object))
    with pytest.raises(ProblemFileError, match="never unpickled"):
        read_checkpoint(path, {})
    np.savez_compressed(path, theta=np.zeros(10 ** 6))
    with pytest.raises(ProblemFileError, match="is compressed, and checkpoints are not"):
        read_checkpoint(path, {})
    monkeypatch.setattr(checkpoint_file, "VERSION", 2)
    write_checkpoint(path, {}, {})
    monkeypatch.undo()
    with pytest.raises(ProblemFileError, match="checkpoint of version 2, this is version 1"):
        read_checkpoint(path, {})


def test_a_header_cannot_claim_more_than_there_is(tmp_path):
    path = tmp_path / "run.npz"
    header = b"\x93NUMPY\x01\x00\x46\x00{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("theta.npy", header.ljust(80) + b"12345678")
    with pytest.raises(ProblemFileError, match=r"8 bytes do not make an array of shape \(1000000000000,\)|header"):
        read_checkpoint(path, {})


def test_an_interrupted_write_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "run.npz"
    straight(epochs=2, checkpoint=path)
    before = path.read_bytes()

    def full(*arguments):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        straight(epochs=3, checkpoint=path, resume=True)
    monkeypatch.undo()
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["run.npz"]


# --- bad input ------------------------------------------------------------------------------------

@pytest.mark.parametrize("options, message", [
    ({"theta": [np.nan]}, r"theta\[0\] = nan"), ({"epochs": -1}, "epochs"), ({"patience": 2}, "patience needs validate"), ({"target": 2.0}, "target needs validate"),
    ({"clip": 0.0}, "clip must be finite and positive"), ({"l2": -1.0}, "l2 must be"), ({"every": 0}, "every"),
    ({"epochs": np.nan}, "epochs must be a positive integer, found nan"), ({"seed": [1, -2]}, r"seed must hold integers of at least 0"),
    ({"l2": np.ones(2)}, r"l2 must be a number, or of shape \(1,\), found shape \(2,\)"),
    ({"target": np.nan, "validate": lambda theta: 1.0}, "target must be a number, found nan"),
    ({"checkpoint": "/nowhere/run.npz"}, "checkpoint /nowhere/run.npz: there is no such folder"),
    ({"schedule": lambda done: -0.5}, "schedule must give rates that are finite and not negative, found -0.5 in iteration 0"),
    ({"batches": []}, "no batch in epoch 0"), ({"batches": iter([0]), "epochs": 2}, "no batch in epoch 1"),
    ({"loss_and_gradient": lambda theta, batch: (0.0, np.ones(2))}, r"gradient of shape \(1,\), found \(2,\)"),
    ({"optimiser": LBFGS(), "clip": 1.0}, "neither clip nor schedule"),
    ({"optimiser": LBFGS(), "batches": [0, 1]}, "one and the same batch"),
])
def test_refused(options, message):
    with pytest.raises(InvalidInputError, match=message):
        fit(**{"theta": [1.0], "loss_and_gradient": lambda theta, batch: (0.5 * float(theta @ theta), theta), "batches": [0],
               "optimiser": SGD(), **options})


@pytest.mark.parametrize("count, size, message", [(0, 1, "there are no data"), (5, 0, "1 .. 5"), (5, 6, "1 .. 5")])
def test_empty_batches_are_refused(count, size, message):
    with pytest.raises(InvalidInputError, match=message):
        mini_batches(count, size)


def test_a_history_can_be_continued():
    history = History()
    for _ in range(2):
        fit([1.0], lambda theta, batch: (float(theta[0]), [1.0]), [0], SGD(0.5), epochs=2, history=history)
    assert history.loss == [1.0, 0.5, 1.0, 0.5] and np.all(np.diff(history.seconds) > 0.0)
