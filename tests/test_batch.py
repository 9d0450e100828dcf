"""Batches: every sample as if it were alone, bit for bit; what is refused.

Under per-sample control the expected difference is zero: a sample runs the same sums in the same order,
whatever stands beside it. Where two different programs are compared, a test says what may differ.
"""
import ast
import inspect
import textwrap

import numpy as np
import pytest

import gradients
from batches import BATCHES, LV, RNG, assert_equals_alone, assert_same_samples, every_batch, explosive
from gradients import RECIPES, python_field
from refnode import Batch, gradient, gradient_batch, jvp, losses, solve, solve_batch
from refnode.errors import IntegrationError, InvalidInputError, InvalidTypeError
from refnode.host_device import python_form
from refnode.sensitivity import batch_sweep
from refnode.solve import samples as samples_module
from refnode.solve import run

pytestmark = pytest.mark.filterwarnings("ignore::refnode.errors.GradientWarning")      # of backsolve's drift

OPTIONS = [{}, {"method": "dop853", "rtol": 1e-4}, {"method": "tsit5", "tstops": True, "controller": "PID"},
           {"method": "rk4", "n_steps": 7}]
every_option = pytest.mark.parametrize("options", OPTIONS, ids=lambda options: options.get("method", "default"))


# --- per sample: as if alone ----------------------------------------------------------------------

@every_option
@every_batch
def test_gradient_is_that_of_each_sample_alone(name, options):
    batch = BATCHES[name]
    assert_equals_alone(batch, gradient_batch(batch, **options), [gradient(problem, **options) for problem in batch])


@every_option
@every_batch
def test_solution_is_that_of_each_sample_alone(name, options):
    batch = BATCHES[name]
    found = solve_batch(batch, **options)
    for i, problem in enumerate(batch):
        alone = solve(problem, **options)
        for attribute in ("t", "y", "y1", "t_steps", "status", "message", "nfev", "n_steps", "n_rejected"):
            np.testing.assert_array_equal(getattr(found[i], attribute), getattr(alone, attribute), attribute)
        np.testing.assert_array_equal(found.y[i], alone.y)
    assert found.success.all()


@every_batch
def test_neighbours_and_order_do_not_matter(name):
    """Alone in a batch, in reverse, and beside copies of the others."""
    batch = BATCHES[name]
    whole, count = gradient_batch(batch), len(batch)
    for order in ([1], list(range(count))[::-1], [2, 0, 2, 2, 1, 0]):
        assert_same_samples(gradient_batch(batch.take(order)), whole, order)


@pytest.mark.parametrize("storage", ["small pool", "slices of one step", "no tape kept"])
@every_batch
def test_storage_does_not_matter(name, storage, monkeypatch):
    """A pool that is emptied and grows, returns to Python after each step, a tape that is filled again."""
    batch = BATCHES[name]
    expected = gradient_batch(batch)
    if storage == "small pool":
        monkeypatch.setattr(samples_module, "POOL_BYTES", 1)
    elif storage == "slices of one step":
        monkeypatch.setattr(run, "next_slice", lambda steps, elapsed: 1)
        batch.flow_field.pace.clear()
    else:
        monkeypatch.setattr(samples_module, "TAPE_BUDGET", 0)
    found = gradient_batch(batch)
    assert_same_samples(found, expected, range(len(batch)))
    np.testing.assert_array_equal(found.theta, expected.theta)
    batch.flow_field.pace.clear()


def test_pool_is_emptied_many_times(monkeypatch):
    """Thirty samples through a pool for eight steps, some of which need more: it grows, once and for all."""
    batch = Batch(LV, RNG.uniform(0.5, 2.0, (30, 2)), [1.5, 1.0, 3.0, 1.0], (0.0, 1.0), loss=losses.sum_of_squares())
    expected = gradient_batch(batch)
    monkeypatch.setattr(samples_module, "POOL_BYTES", 1)
    calls, forward = [], samples_module.Samples.run_forward
    monkeypatch.setattr(samples_module.Samples, "run_forward", lambda self, start, end: calls.append(start) or forward(self, start, end))
    found = gradient_batch(batch)
    assert len(calls) > 5 and calls == sorted(set(calls))
    assert_same_samples(found, expected, range(30))
    np.testing.assert_array_equal(found.theta, expected.theta)


@pytest.mark.parametrize("sensitivity", RECIPES)
def test_every_recipe_is_its_own_sample_by_sample(sensitivity):
    for name in ("oscillators", "predators"):
        batch = BATCHES[name].take([1, 0, 2])
        assert_equals_alone(batch, gradient_batch(batch, sensitivity), [gradient(p, sensitivity) for p in batch])


@pytest.mark.slow
def test_specialised_drivers_find_the_same():
    """Compiled for one field the compiler may order the same products differently: equal to rounding."""
    batch = BATCHES["predators"].take([0, 2])
    found, expected = gradient_batch(batch, specialize=True), gradient_batch(batch)
    np.testing.assert_allclose(found.theta, expected.theta, rtol=1e-12)


def test_plain_python_field_runs_the_twin():
    batch = BATCHES["predators"].take([1, 2, 3])
    plain = Batch(python_field(LV), batch.y0, batch.theta, batch.spans,
                  [batch.ts[batch.observations(i)] for i in range(3)], losses.sum_of_squares())
    assert_equals_alone(plain, gradient_batch(plain, rtol=1e-3), [gradient(problem, rtol=1e-3) for problem in plain])


# --- the derivative itself ------------------------------------------------------------------------

def test_dot_product_of_every_sample():
    """<w_i, J_i x_tan> = <J_i^T w_i, x_tan> in y0 and theta, to 1e-13 of the terms' magnitudes."""
    batch = BATCHES["oscillators"]
    batch = Batch(batch.field, batch.y0, RNG.uniform(0.5, 1.5, (5, 5)), (0.25, 3.0), [0.25, 1.0, 2.5], batch.losses)
    found = gradient_batch(batch)
    for i, problem in enumerate(batch):
        y0_tan, theta_tan, ts_tan = RNG.standard_normal(2), RNG.standard_normal(5), RNG.standard_normal(3)
        left = problem.loss.weights * jvp(problem, y0_tan, theta_tan, 0.5, ts_tan=ts_tan)
        right = np.concatenate([found.y0[i] * y0_tan, found.theta[i] * theta_tan, [0.5 * found.t0[i]],
                                found.ts[i] * ts_tan])
        magnitude = np.abs(left).sum() + np.abs(right).sum()
        assert abs(left.sum() - right.sum()) <= gradients.DOT_PRODUCT * magnitude


def test_a_batch_is_a_sequence():
    batch = BATCHES["predators"]
    assert len(batch) == 6 and len(list(batch)) == 6 and len(batch[1:4]) == 3
    np.testing.assert_array_equal(batch[-1].y0, batch.y0[5])
    np.testing.assert_array_equal(batch[::-2].y0, batch.y0[[5, 3, 1]])
    np.testing.assert_array_equal(batch[2:][0].ts, batch[2].ts)
    with pytest.raises(IndexError):
        batch[6]
    with pytest.raises(InvalidInputError, match="at least one sample"):
        batch.take([])


def test_shapes_and_the_sum_of_losses():
    batch = BATCHES["oscillators"]
    found = gradient_batch(batch)
    assert found.loss.shape == (5,) and found.y0.shape == (5, 2) and found.theta.shape == (5,)
    assert found.t0.shape == found.t1.shape == (5,) and found.ts.shape == (5, 3)
    assert found.total == sum(gradient(problem).loss for problem in batch)
    assert found.solution.y.shape == (5, 2, 3) and len(found.solution) == 5
    own = gradient_batch(BATCHES["predators"])
    assert own.theta.shape == (6, 4) and [len(ts) for ts in own.ts] == [7, 0, 5, 4, 11, 1]


# --- failures -------------------------------------------------------------------------------------

def test_a_failed_sample_disturbs_nobody():
    with np.errstate(all="ignore"):
        batch, survivors = explosive([0.5, 4.0, 0.25, 2.0]), [0, 2]
        found = gradient_batch(batch, on_failure="skip")
        alone = gradient_batch(explosive([0.5, 0.25]))
    np.testing.assert_array_equal(found.status, [0, -1, 0, -1])
    for name in ("loss", "y0", "t0", "t1", "ts"):
        np.testing.assert_array_equal(getattr(found, name)[survivors], getattr(alone, name))
        assert np.isnan(getattr(found, name)[[1, 3]]).all()
    np.testing.assert_array_equal(found.theta, alone.theta)
    assert found.total == alone.total


def test_a_failed_sample_is_named():
    batch = explosive([0.5, 4.0, 0.25, 2.0])
    with pytest.raises(IntegrationError, match=r"^2 of 4 samples failed: sample 1: step size .*; sample 3: step") as caught:
        gradient_batch(batch)
    solution = caught.value.solution
    assert list(solution.success) == [True, False, True, False]
    alone = solve(batch[3])
    assert solution.message(3) == alone.message
    np.testing.assert_array_equal(solution[3].y, alone.y)
    assert np.isnan(solution.y[3][:, 1]).all() and np.isfinite(solution.y[3][:, 0]).all()


def test_samples_of_other_recipes_fail_alone_too():
    batch = explosive([0.5, 4.0, 0.25])
    found = gradient_batch(batch, "interpolating", on_failure="skip")
    assert list(found.status) == [0, -1, 0] and np.isnan(found.y0[1]).all()
    np.testing.assert_array_equal(found.theta, gradient(batch[0], "interpolating").theta
                                  + gradient(batch[2], "interpolating").theta)
    with pytest.raises(IntegrationError, match="^1 of 3 samples failed: sample 1"):
        gradient_batch(batch, "interpolating")


def test_initial_failure_has_its_message():
    def root(t, y, theta):
        return np.sqrt(y) if y[0] > 0 else np.full(1, np.nan)
    batch = Batch(root, [[1.0], [-1.0]], t_span=(0.0, 1.0))
    assert solve_batch(batch).message(1) == solve(batch[1]).message
    assert "component 0 at t=0 (initial point)" in solve_batch(batch).message(1)


def test_exceptions_of_a_users_function_say_which_sample():
    def fragile(t, y, theta):
        if y[0] > 2.0:
            raise ZeroDivisionError("mine")
        return y
    with pytest.raises(ZeroDivisionError) as caught:
        solve_batch(Batch(fragile, [[0.1], [1.0]], t_span=(0.0, 1.0)))
    assert any("of sample 1" in note for note in caught.value.__notes__)


# --- what is refused ------------------------------------------------------------------------------

ONES = np.ones((3, 2))


@pytest.mark.parametrize("arguments, message", [
    ({"y0": [1.0, 1.0]}, r"y0 must have shape \(B, n\), one row a sample, found \(2,\)"),
    ({"y0": np.ones((2, 2, 2))}, r"y0 must have shape \(B, n\), one row a sample, found \(2, 2, 2\)"),
    ({"y0": np.ones((0, 2))}, "y0 has no rows: a batch needs at least one sample"),
    ({"y0": [[1, 1], [np.nan, 1], [1, 1]]}, r"y0 of sample 1 must be finite, found y0\[1, 0\] = nan"),
    ({"y0": np.ones((3, 3))}, "y0 must have 2 entries a sample for field .*, found 3"),
    ({"theta": np.ones((2, 4))}, r"theta must have one row for each of the 3 samples of y0, found shape \(2, 4\)"),
    ({"theta": [[1] * 4, [1] * 4, [1, 1, 1, np.inf]]}, r"theta of sample 2 must be finite, found theta\[2, 3\] = inf"),
    ({"theta": np.ones(5)}, "theta must have 4 entries a sample for field .*, found 5"),
    ({"t_span": np.ones((2, 2))}, r"t_span must have one row for each of the 3 samples of y0, found shape \(2, 2\)"),
    ({"t_span": [[0, 1], [0, np.nan], [0, 1]]}, r"t_span of sample 1 must be finite, found t_span\[1, 1\] = nan"),
    ({"t_span": np.ones((3, 3))}, r"t_span must be \(t0, t1\) or have shape \(3, 2\), found \(3, 3\)"),
    ({"ts": [[0.5], [0.5, 1.0]]}, "ts must be shared or have one entry for each of the 3 samples of y0, found 2"),
    ({"ts": [[0.5], [0.5, 0.25], []]}, "ts of sample 1 must be sorted in the order of integration, found 0.5"),
    ({"ts": [[0.5], [0.5], [0.25, 1.5]]}, r"ts of sample 2 must lie inside t_span \[0, 1\], found 1.5"),
    ({"ts": [[0.5], [np.nan], []]}, r"ts of sample 1 must be finite, found ts of sample 1\[0\] = nan"),
    ({"ts": [0.5], "t_span": [[0, 1], [1, 0], [0, 0.25]]}, r"ts of sample 2 must lie inside t_span \[0, 0.25\], found 0.5"),
    ({"ts": [0.5, 0.25]}, "ts must be sorted"),
    ({"loss": [losses.sum_of_squares()] * 2}, "loss must be shared or have one entry for each of the 3 samples of y0, found 2"),
    ({"loss": [losses.running_cost(len), losses.running_cost(max), losses.running_cost(len)]},
     "the running cost must be the same for all samples, that of sample 1 differs"),
])
def test_wrong_batches(arguments, message):
    with pytest.raises(InvalidInputError, match=message):
        Batch(**{"field": LV, "y0": ONES, "theta": np.ones(4), **arguments})


@pytest.mark.parametrize("arguments, message", [
    ({"y0": [["a", "b"]]}, "y0 must be an array of real numbers"), ({"y0": [[1, 2], [3]]}, "with equal rows"),
    ({"loss": sum}, "loss must be a refnode.losses.Loss or a sequence of them, found builtin"),
    ({"loss": [losses.sum_of_squares(), None, None]}, "loss of sample 1 must be a refnode.losses.Loss, found NoneType"),
])
def test_wrong_types(arguments, message):
    with pytest.raises(InvalidTypeError, match=message):
        Batch(**{"field": LV, "y0": ONES, "theta": np.ones(4), **arguments})


@pytest.mark.parametrize("changes, message", [
    ({"ts": [[0.5], [0.5], [0.25]]}, r"ts must be shared: found \[0.5\] for sample 0 and \[0.25\] for sample 2"),
    ({"ts": [[0.5], [0.5, 0.6], [0.5]]}, "ts must be shared: .* sample 1"),
    ({"t_span": [[0, 1], [0, 1], [0, 2]]}, r"t_span must be shared: found \(0, 1\) for sample 0 and \(0, 2\) for sample 2"),
])
def test_joint_control_needs_shared_times(changes, message):
    batch = Batch(LV, ONES, np.ones(4), loss=losses.sum_of_squares()).replace(**changes)
    for door in (solve_batch, gradient_batch):
        with pytest.raises(InvalidInputError, match=message):
            door(batch, step_control="joint")


def test_wrong_calls():
    batch = Batch(LV, ONES, np.ones(4))
    with pytest.raises(InvalidInputError, match="needs a batch with a loss"):
        gradient_batch(batch)
    batch = batch.replace(loss=losses.sum_of_squares())
    with pytest.raises(InvalidInputError, match=r"step_control must be one of \['per_sample', 'joint'\], found 'own'"):
        solve_batch(batch, "own")
    with pytest.raises(InvalidInputError, match="on_failure must be 'raise' or 'skip', found 'ignore'"):
        gradient_batch(batch, on_failure="ignore")
    with pytest.raises(InvalidInputError, match="sample 1: error weight of component 0 is zero"):
        solve_batch(batch.replace(y0=[[1, 1], [0, 1], [1, 1]]), atol=0.0)
    with pytest.raises(InvalidInputError, match=r"sample 1: steps must lead from t0 to t1 = 2"):
        solve_batch(batch.replace(t_span=[[0, 1], [0, 2], [0, 1]]), steps=[0.5, 0.5])
    wrong = losses.terminal(lambda y: np.inf if y[0] > 10 else 0.0, np.ones_like)
    with pytest.raises(InvalidInputError, match="loss of sample 2 must be finite, found .* inf"):
        gradient_batch(batch.replace(y0=[[1, 1], [1, 1], [50, 0.001]], loss=wrong, t_span=(0, 0.01)))
    with pytest.raises(InvalidInputError, match="of sample 0 must have shapes"):
        gradient_batch(batch.replace(loss=losses.terminal(np.sum, lambda y: np.ones(3))))


# --- wrong programs -------------------------------------------------------------------------------

MUTANTS = [    # (body, line, what stands there instead)
    (batch_sweep.pull_each, "theta_bar[:] = 0.0", "pass"),                           # workspace not reset
    (batch_sweep.pull_each, "theta_bars[i - position[FROM]]", "theta_bars[i - position[SAMPLE]]"),    # all in one row
    (batch_sweep.pull_each, "add_rows(ys_bar[seen], walk[OBSERVATION], y_bars[i])", "pass"),
    (batch_sweep.pull_each, "ys_step[seen], walk", "ys_step[ts_first[0]:], walk"),
    (batch_sweep.pull_each, "position[BEGUN] = i + 1, 0", "position[BEGUN] = i + 1, 1"),     # the next never begins
    (batch_sweep.pull_each, "own, seen = min(i, thetas.shape[0] - 1)", "own, seen = 0"),
    (batch_sweep.pull_each, "row, before = first[i], walk[STEP]", "row, before = 0, walk[STEP]"),
    (batch_sweep.pull_each, "y[row], thetas[own],", "y[first[i]], thetas[own],"),    # slope at t1 from y0
    (samples_module.integrate_each, "copy_into(y0s[i], y[row])", "copy_into(y0s[0], y[row])"),
    (samples_module.integrate_each, "copy_into(y0s[i], y[row])", "pass"),
    (samples_module.integrate_each, "thetas[min(i, thetas.shape[0] - 1)]", "thetas[0]"),
    (samples_module.integrate_each, "first[i + 1] = row + 1", "first[i + 1] = row"),      # samples share a row
    (samples_module.integrate_each, "if counts[i, EVALUATIONS] == 0", "if True"),         # restarts its state
    (samples_module.integrate_each, "copy_into(y[row], y1s[i])", "copy_into(y[row - 1], y1s[i])"),
]


def mutant_of(body, line, instead):
    """``driver(f, .., arguments)`` around the un-jitted body, changed in one place."""
    twin = python_form(body)
    source = textwrap.dedent(inspect.getsource(getattr(body, "py_func", body)))
    assert source.count(line) == 1
    tree = ast.parse(source.replace(line, instead))
    tree.body[0].decorator_list = []
    namespace = {**twin.__globals__, "copy_into": samples_module.copy_into}
    exec(compile(tree, "<mutant>", "exec"), namespace)
    changed = namespace[twin.__name__]
    if body is samples_module.integrate_each:
        return lambda f, arguments: changed(samples_module.Plain(f), *arguments)
    return lambda f, f_vjp, arguments: changed(f, f_vjp, *arguments)


def batch_of_mutants():
    """Plain Python; theta shared and own; observations at t0, inside and at t1."""
    ts = [[0.0, 0.3, 1.0], [0.5], [0.0, 0.25, 0.75, 1.0]]
    arguments = (python_field(LV), [[1.0, 1.25], [0.5, 2.0], [1.5, 0.75]])
    for theta in ([1.5, 1.0, 3.0, 1.0], [[1.5, 1.0, 3.0, 1.0], [1.0, 0.5, 2.0, 1.0], [0.75, 1.0, 1.0, 2.0]]):
        yield Batch(*arguments, theta, (0.0, 1.0), ts, losses.sum_of_squares() + losses.terminal(np.sum, np.ones_like))


LOOSE = {"rtol": 1e-3, "max_steps": 60}


def error_of_mutant_batches():
    """The largest difference to every sample alone, over each part's largest entry; of solutions any at all."""
    worst = 0.0
    for batch in batch_of_mutants():
        batch.field.pace.clear()
        found, alone = gradient_batch(batch, **LOOSE), [gradient(problem, **LOOSE) for problem in batch]
        solutions = solve_batch(batch, **LOOSE)
        if not all(np.array_equal(solutions[i].y, one.solution.y) for i, one in enumerate(alone)):
            return np.inf
        for name in ("loss", "y0", "t0", "t1", "ts", "theta"):
            expected = [getattr(one, name) for one in alone]
            if name == "theta" and not batch.own_theta:
                expected = [np.sum(expected, axis=0)]
            got = [found.theta] if len(expected) == 1 else getattr(found, name)
            error = max(np.max(np.abs(a - b)) for a, b in zip(got, expected))
            worst = max(worst, error / max(np.max(np.abs(each)) for each in expected) if error == error else np.inf)
    return worst


def test_the_unchanged_program_passes():
    assert error_of_mutant_batches() <= 1e-15


@pytest.mark.parametrize("body, line, instead", MUTANTS, ids=[f"{m[0].__name__}-{i}" for i, m in enumerate(MUTANTS)])
def test_a_wrong_program_is_caught(body, line, instead, monkeypatch):
    mutant = mutant_of(body, line, instead)
    if body is samples_module.integrate_each:
        monkeypatch.setattr(samples_module, "integrate_samples", mutant)
    else:
        monkeypatch.setattr(batch_sweep, "discrete_adjoint_samples", mutant)
    monkeypatch.setattr(run, "next_slice", lambda steps, elapsed: 1)
    try:
        with np.errstate(all="ignore"):
            error = error_of_mutant_batches()
    except (InvalidInputError, IntegrationError):               # it did not even end
        error = np.inf
    assert error > 1e-6
