"""Batches in threads: no bit depends on their number, on what they find, or on who is ready first."""
import signal
import threading
import time

import numpy as np
import pytest
from numba import config, njit

from batches import BATCHES, LV, RNG, assert_same_samples, every_batch, explosive
from gradients import python_field
from refnode import Batch, VectorField, gradient_batch, losses, solve_batch
from refnode.errors import IntegrationError, InvalidInputError
from refnode.solve import samples as samples_module
from refnode.solve import run, threads
from refnode.solve.integrate import NON_FINITE, RUNNING, STEPS
from refnode.solve.options import SolveOptions

needs_compiler = pytest.mark.skipif(bool(config.DISABLE_JIT), reason="what is plain Python is done by one thread")
several = pytest.mark.parametrize("count", [2, 3])


def shared_theta(size):
    """Own initial values, one theta for all: its gradient is a sum over the samples."""
    y0 = np.random.default_rng(size).uniform(0.5, 2.0, (size, 2))
    return Batch(LV, y0, [1.5, 1.0, 3.0, 1.0], (0.0, 3.0), [1.0, 3.0], losses.sum_of_squares())


def assert_same(found, expected):
    assert_same_samples(found, expected, range(len(expected.loss)))
    np.testing.assert_array_equal(found.theta, expected.theta)
    np.testing.assert_array_equal(found.status, expected.status)
    assert found.total == expected.total or np.isnan(expected.total)


# --- the same bits --------------------------------------------------------------------------------

@several
@every_batch
def test_gradient_does_not_depend_on_the_number_of_threads(name, count):
    assert_same(gradient_batch(BATCHES[name], threads=count), gradient_batch(BATCHES[name]))


@pytest.mark.parametrize("size", [1, 2, 7, 41])
def test_any_size(size):
    """Smaller than the number of threads, odd, and more than there are parts."""
    batch = shared_theta(size)
    expected = gradient_batch(batch, threads=1)
    for count in (2, 3, None):
        assert_same(gradient_batch(batch, threads=count), expected)


@several
def test_solution_does_not_depend_on_the_number_of_threads(count):
    batch = BATCHES["predators"]
    found, expected = solve_batch(batch, threads=count), solve_batch(batch)
    for name in ("y1", "status", "nfev", "n_steps", "n_rejected"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    for i in range(len(batch)):
        np.testing.assert_array_equal(found.y[i], expected.y[i])
        np.testing.assert_array_equal(found[i].t_steps, expected[i].t_steps)


@pytest.mark.parametrize("storage", ["small pool", "slices of one step", "no tape kept"])
@pytest.mark.parametrize("name", ["networks", "with_cost"])
def test_storage_of_each_thread_does_not_matter(name, storage, monkeypatch):
    """Pools that grow, one row of theta at a time, threads that change at every step, tapes that are filled again."""
    batch = BATCHES[name]
    expected = gradient_batch(batch)
    if storage == "small pool":
        monkeypatch.setattr(samples_module, "POOL_BYTES", 1)
    elif storage == "slices of one step":
        monkeypatch.setattr(run, "next_slice", lambda steps, elapsed: 1)
        batch.flow_field.pace.clear()
    else:
        monkeypatch.setattr(samples_module, "TAPE_BUDGET", 0)
    assert_same(gradient_batch(batch, threads=3), expected)
    batch.flow_field.pace.clear()


@needs_compiler
def test_a_sum_in_another_order_would_be_seen(monkeypatch):
    """The comparison of bits is sharp enough: parts taken last to first give another sum."""
    batch, in_order = shared_theta(41), threads.in_order
    monkeypatch.setattr(threads, "in_order", lambda work, parts, *rest: in_order(work, parts[::-1], *rest))
    found = gradient_batch(batch, threads=2)
    monkeypatch.undo()
    expected = gradient_batch(batch).theta
    assert not np.array_equal(found.theta, expected)
    np.testing.assert_allclose(found.theta, expected, rtol=1e-13)


@pytest.mark.parametrize("loss", [losses.sum_of_squares(), losses.mean_of_squares()], ids=["sum", "mean"])
@pytest.mark.parametrize("n, k, cost", [(1, 1, 0), (2, 5, 0), (3, 7, 1), (16, 40, 0), (1, 1000, 0)])
def test_a_loss_of_all_samples_in_one_go_has_the_bits_of_one_by_one(loss, n, k, cost):
    """States as a solve leaves them, time after time, beside those of a running cost; 35 decades of size."""
    rng = np.random.default_rng(n)
    ys = rng.standard_normal((9 * k, n + cost)) * np.exp(rng.uniform(-40.0, 40.0, (9 * k, 1)))
    y1 = rng.standard_normal((9, n))
    value, ys_bar = loss.alike(ys[:, :n].reshape(9, k, n).transpose(0, 2, 1), y1)
    for i in range(9):
        own = ys[i * k:(i + 1) * k, :n].T
        assert loss.value(own, y1[i]) == value[i]
        np.testing.assert_array_equal(loss.vjp(own, y1[i])[0], ys_bar[i])
        np.testing.assert_array_equal(loss.vjp(own, y1[i])[1], 0.0)


@needs_compiler
def test_threads_compile_once(monkeypatch):
    """A field that is new to both sweeps: what one thread makes, which takes a while, the others wait for."""
    made, make = [], run._entry_point

    def slow(driver, *rest):
        made.append(driver)
        time.sleep(0.02)
        return make(driver, *rest)
    monkeypatch.setattr(run, "_entry_point", slow)
    batch = explosive([0.5] * 8)
    gradient_batch(batch, threads=3)
    assert len(made) == len(set(made)) == 2


# --- threads, indeed ------------------------------------------------------------------------------

@needs_compiler
def test_two_parts_are_under_way_at_once(monkeypatch):
    """Each of the first two waits for the other."""
    forward, meeting, first_two = samples_module.Samples.run_forward, threading.Barrier(2), [True, True]

    def run_forward(self, start, end):
        if first_two and first_two.pop():
            meeting.wait(60.0)
        return forward(self, start, end)
    monkeypatch.setattr(samples_module.Samples, "run_forward", run_forward)
    gradient_batch(shared_theta(7), threads=2)
    assert not meeting.broken and not first_two


@njit
def still(t, y, theta, dy):
    dy[0] = theta[0]


@needs_compiler
def test_compiled_code_lets_go_of_the_interpreter():
    """One call of millions of steps, and a parameter that another thread spoils once it sees the first of them."""
    batch = Batch(VectorField(still), [[1.0]], [0.0], (0.0, 5.0), [])
    samples = samples_module.Samples(batch, batch.field, batch.y0, SolveOptions.of(max_step=1e-6, max_steps=10**8), keep=False)
    entry, _ = run.entry_point(samples_module.integrate_samples, batch.field, False, "f")
    entry.prepare()
    batch.field.pace[entry] = 10**9
    thread = threading.Thread(target=samples.run_forward, args=(0, 1))
    thread.start()
    while samples.counts[0, STEPS] == 0:
        pass
    samples.thetas[0, 0] = np.nan
    thread.join()
    assert samples.status[0] == NON_FINITE


def test_plain_python_stays_in_the_calling_thread():
    seen = set()

    def fun(t, y, theta):
        seen.add(threading.get_ident())
        return -y
    found = solve_batch(Batch(fun, [[1.0], [2.0], [3.0]], t_span=(0.0, 0.1)), threads=3)
    assert found.success.all() and seen == {threading.get_ident()}
    plain = Batch(python_field(LV), RNG.uniform(0.5, 2.0, (2, 2)), np.ones(4), (0.0, 0.5), loss=losses.sum_of_squares())
    assert_same(gradient_batch(plain, threads=2, rtol=1e-3), gradient_batch(plain, rtol=1e-3))


def test_losses_are_evaluated_one_at_a_time():
    """A loss that counts how many evaluations of it are under way."""
    under_way, most = [], []

    def phi(y):
        under_way.append(1)
        most.append(len(under_way))
        time.sleep(1e-3)                                        # in which another thread could begin
        under_way.pop()
        return float(y[0])
    batch = shared_theta(24).replace(loss=losses.terminal(phi, lambda y: np.array([1.0, 0.0])))
    gradient_batch(batch, threads=3)
    assert len(most) == 24 and max(most) == 1


@needs_compiler
def test_ctrl_c_stops_all_threads(monkeypatch):
    """No sample comes to its end, no thread goes on, and the next gradient has the same bits."""
    short, made, make = shared_theta(4), [], samples_module.Samples.make_workspace
    expected, before = gradient_batch(short, threads=2), set(threading.enumerate())
    monkeypatch.setattr(samples_module.Samples, "make_workspace", lambda self: made.append(self) or make(self))

    def ctrl_c(number, frame):
        raise KeyboardInterrupt
    handler = signal.signal(signal.SIGVTALRM, ctrl_c)
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            solve_batch(short.replace(t_span=(0.0, 1e6), ts=[]), threads=2, rtol=1e-9, max_steps=10**9)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
        signal.signal(signal.SIGVTALRM, handler)
    assert len(made) == 2 and (made[0].status == RUNNING).all() and made[0].counts[:, STEPS].any()
    assert set(threading.enumerate()) <= before
    assert_same(gradient_batch(short, threads=2), expected)


# --- failures -------------------------------------------------------------------------------------

def raised_by(batch, **options):
    with pytest.raises(Exception) as caught:
        gradient_batch(batch, **options)
    return type(caught.value), str(caught.value)


@several
def test_a_failed_sample_is_skipped_or_named_as_by_one_thread(count):
    batch = explosive([0.5, 4.0, 0.25, 2.0, 0.125, 0.75, 3.0])
    with np.errstate(all="ignore"):
        found = gradient_batch(batch, on_failure="skip", threads=count)
        assert_same(found, gradient_batch(batch, on_failure="skip"))
        np.testing.assert_array_equal(found.status, [0, -1, 0, -1, 0, 0, -1])
        assert raised_by(batch, threads=count) == raised_by(batch)
    assert raised_by(batch, threads=count)[0] is IntegrationError


@several
def test_a_wrong_loss_is_named_as_by_one_thread(count):
    """Unless a sample before it failed, which is then what is reported."""
    wrong = losses.terminal(lambda y: np.inf if y[0] > 1.5 else 0.0, np.ones_like)
    y0 = [0.1, 0.2, 0.3, 0.1, 0.2, 0.7, 0.1, 0.8]
    for early in (0.1, 4.0):
        batch = explosive([early, *y0]).replace(loss=wrong)
        found = raised_by(batch, threads=count)
        assert found == raised_by(batch)
        assert found[0] is (InvalidInputError if early < 1.0 else IntegrationError)
    assert raised_by(batch, threads=count, on_failure="skip")[0] is InvalidInputError


@njit
def fragile(t, y, theta, dy):
    if y[0] > 2.0:
        raise ZeroDivisionError("mine")
    dy[0] = y[0]


@several
def test_an_exception_of_a_users_function_says_which_sample(count):
    batch = Batch(VectorField(fragile), [[0.1], [0.2], [0.3], [1.0], [0.1]], t_span=(0.0, 1.0))
    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        solve_batch(batch, threads=count)
    assert any("of sample 3" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("value", [0, -1, 1.5, 2.0, "2", True, np.nan, [2]])
def test_wrong_numbers_of_threads(value):
    for door in (solve_batch, gradient_batch):
        with pytest.raises(InvalidInputError, match="threads must be an integer of at least 1, or None for one for each "
                                                    "usable processor, found"):
            door(shared_theta(2), threads=value)


def test_numpy_integers_are_numbers_of_threads():
    assert threads.thread_count(np.int64(3)) == 3 and threads.thread_count(None) >= 1
