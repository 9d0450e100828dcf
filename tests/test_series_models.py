"""Latent ODE, ODE-RNN, their baseline and the Poisson process: full gradients against differences, limits, fits."""
import functools

import numpy as np
import pytest

import refnode
from layer_battery import ROUNDING, Triple, dot_product_error, vjp_mutants
from refnode.errors import InvalidInputError, ProblemFileError
from refnode.gradcheck import finite_difference_gradient, finite_difference_jvp
from refnode.likelihoods import poisson_process
from refnode.models import latent_ode, ode_rnn
from refnode.models.latent_ode import LatentODE
from refnode.models.ode_rnn import OdeRnn
from refnode.models.poisson_ode import PoissonODE, event_counts
from refnode.models.series import Series, series
from refnode.models.timed_rnn import TimedRNN

FROZEN = {"n_steps": 4}                                 # the loss is then smooth, and its truth the frozen steps
TIGHT = {"rtol": 1e-10, "atol": 1e-12}
BY_RECIPE = [("discrete", FROZEN, 1e-9), ("checkpointed", FROZEN, 1e-9), ("interpolating", TIGHT, 1e-6),
             ("backsolve", TIGHT, 1e-6)]


def random_series(size=3, times=7, seed=0):
    """Two channels, half of everything missing; the last series is never observed, and one time by nobody."""
    rng = np.random.default_rng(seed)
    ts, values = np.sort(rng.uniform(0.0, 2.0, times)), rng.standard_normal((size, times, 2))
    observed = rng.random(values.shape) < 0.6
    observed[-1] = observed[:, 3] = observed[:, -1] = False
    return series(ts, np.where(observed, values, np.nan), observed, t0=0.0)


BATCH, NOISE = random_series(), np.random.default_rng(4).standard_normal((3, 2))


def small_latent(recipe="discrete", **options):
    return LatentODE(2, latent=2, hidden=2, width=2, recipe=recipe, seed=1, **(options or FROZEN))


def small_ode_rnn(recipe="discrete", **options):
    return OdeRnn(2, hidden=2, width=2, recipe=recipe, seed=1, **(options or FROZEN))


LATENT_LOSS = lambda model, theta: model.loss(BATCH, NOISE, theta, 0.7).loss
PREDICTION_LOSS = lambda model, theta: model.loss(BATCH, theta).loss
DIRECTIONS = 3


@functools.lru_cache
def expected(make, loss):
    """The gradient by differences of losses on frozen steps, component by component; no vjp is ever called."""
    model = make()
    return finite_difference_gradient(lambda theta: loss(model, theta), model.theta)


@functools.lru_cache
def expected_along(make, loss):
    """Random directions and the derivatives along them, by differences of losses at tight tolerances."""
    model, rng = make("discrete", **TIGHT), np.random.default_rng(8)
    directions = rng.standard_normal((DIRECTIONS, model.theta.size))
    return directions, [finite_difference_jvp(lambda theta: loss(model, theta), model.theta, v) for v in directions]


def worst_error(grad, make, loss):
    """The largest error in any component, over the largest component; and how large the differences' own may be."""
    found = expected(make, loss)
    scale = np.max(np.abs(found.value))
    return np.max(np.abs(grad - found.value)) / scale, np.max(found.error) / scale


def worst_error_along(grad, make, loss):
    """The same for the derivatives along some directions."""
    directions, found = expected_along(make, loss)
    scale = max(abs(float(one.value)) for one in found)
    errors = [abs(v @ grad - float(one.value)) for v, one in zip(directions, found)]
    return max(errors) / scale, max(float(one.error) for one in found) / scale


def latent_error(recipe="discrete", options=FROZEN):
    grad = small_latent(recipe, **options).gradient(BATCH, NOISE, kl_weight=0.7).theta
    return (worst_error if options is FROZEN else worst_error_along)(grad, small_latent, LATENT_LOSS)


def ode_rnn_error(recipe="discrete", options=FROZEN):
    grad = small_ode_rnn(recipe, **options).gradient(BATCH).theta
    return (worst_error if options is FROZEN else worst_error_along)(grad, small_ode_rnn, PREDICTION_LOSS)


def small_rnn(cell="rnn"):
    return TimedRNN(2, cell, hidden=3, width=4, seed=1)


def small_gru():
    return small_rnn("gru")


# --- gradients ------------------------------------------------------------------------------------

@pytest.mark.parametrize("recipe, options, bound", BY_RECIPE)
def test_gradient_of_the_latent_ode(recipe, options, bound):
    error, uncertain = latent_error(recipe, options)
    assert uncertain <= bound and error <= bound + uncertain


@pytest.mark.parametrize("recipe, options, bound", BY_RECIPE)
def test_gradient_of_the_ode_rnn(recipe, options, bound):
    error, uncertain = ode_rnn_error(recipe, options)
    assert uncertain <= bound and error <= bound + uncertain


@pytest.mark.parametrize("make", [small_rnn, small_gru])
def test_gradient_of_the_baseline(make):
    error, uncertain = worst_error(make().gradient(BATCH).theta, make, PREDICTION_LOSS)
    assert uncertain <= 1e-9 and error <= 1e-9 + uncertain


def test_gradient_of_the_poisson_process():
    ts, counts = event_counts([[[0.1, 0.6], [0.3]], [[0.9], [0.2, 0.5, 1.9]]], (0.0, 2.0))
    model = PoissonODE(2, latent=2, width=3, seed=1, n_steps=6)
    _, grad = model.gradient((0.0, 2.0), ts, counts)
    found = finite_difference_gradient(lambda x: model.loss((0.0, 2.0), ts, counts, x), model.x)
    scale = np.max(np.abs(found.value))
    assert np.max(found.error) <= 1e-9 * scale and np.max(np.abs(grad - found.value)) <= 2e-9 * scale
    from_events = refnode.gradient(model.problem((0.0, 2.0), ts, None, counts).replace(
        loss=poisson_process(counts, 2).first), n_steps=6).theta                  # the integral forgotten
    assert np.max(np.abs(from_events - found.value[:from_events.size])) > 1e-3 * scale


def zeroed(function, *which):
    """A vjp that forgets some of its cotangents."""
    def forgetful(*arguments, **options):
        found = list(function(*arguments, **options))
        return [zeros_like(part) if k in which else part for k, part in enumerate(found)]
    return forgetful


def zeros_like(nested):
    """Zeros in the place of every array of nested lists and tuples."""
    return [zeros_like(part) for part in nested] if isinstance(nested, (list, tuple)) else np.zeros_like(nested)


@pytest.mark.parametrize("name, which", [
    ("gaussian_kl_vjp", (0, 1)), ("gaussian_kl_vjp", (1,)),     # the divergence, or its part for the deviation
    ("reparameterise_vjp", (0,)), ("reparameterise_vjp", (1,)), # the way of the reconstruction to the encoder
    ("gru_sequence_vjp", (2,)),                                 # the encoder's path cut
    ("perceptron_vjp", (0,)), ("perceptron_vjp", (1,)),         # into the solve, and the decoder
    ("gaussian_log_likelihood_vjp", (2,))])                     # the learnt noise
def test_a_latent_ode_with_a_dropped_term_is_caught(name, which, monkeypatch):
    monkeypatch.setattr(latent_ode, name, zeroed(getattr(latent_ode, name), *which))
    error, uncertain = latent_error()
    assert error > 1e3 * (1e-9 + uncertain)


@pytest.mark.parametrize("name, which", [
    ("gru_vjp", (1,)), ("gru_vjp", (3,)),                       # through the jump, and to its U
    ("perceptron_vjp", (0,)), ("masked_mean_square_vjp", (0,))])
def test_an_ode_rnn_with_a_dropped_term_is_caught(name, which, monkeypatch):
    monkeypatch.setattr(ode_rnn, name, zeroed(getattr(ode_rnn, name), *which))
    error, uncertain = ode_rnn_error()
    assert error > 1e3 * (1e-9 + uncertain)


def test_an_ode_rnn_whose_solves_are_not_joined_is_caught(monkeypatch):
    """The cotangent of a solve's start does not go on to the jump before."""
    def unjoined(problem, **arguments):
        found = refnode.vjp(problem, **arguments)
        found.y0 = 0.0 * found.y0
        return found

    monkeypatch.setattr(ode_rnn, "vjp", unjoined)
    error, uncertain = ode_rnn_error()
    assert error > 1e3 * (1e-9 + uncertain)


def test_a_baseline_whose_states_are_not_carried_back_is_caught(monkeypatch):
    model = small_rnn()
    model.cell = model.cell._replace(sequence_vjp=zeroed(model.cell.sequence_vjp, 2))
    error, uncertain = worst_error(model.gradient(BATCH).theta, small_rnn, PREDICTION_LOSS)
    assert error > 1e3 * (1e-9 + uncertain)


def test_the_reconstruction_as_a_triple():
    """Of the states, the decoder's layers and log_std; two of its three series were observed."""
    def loss_of(x):
        return latent_ode.Reconstruction(BATCH, [(x["W1"], x["b1"]), (x["W2"], x["b2"])], x["log_std"])

    def vjp(x, bar):
        loss = loss_of(x)
        ys_bar, _ = loss.vjp(x["ys"], np.zeros(6))
        (W1_bar, b1_bar), (W2_bar, b2_bar) = loss.layers_bar
        bars = [ys_bar, W1_bar, b1_bar, W2_bar, b2_bar, loss.log_std_bar]
        return {name: bar * part for name, part in zip(x, bars, strict=True)}

    def jvp(x, x_tan):
        moved = {name: value + 1e-30j * x_tan[name] for name, value in x.items()}
        return loss_of(moved).value(moved["ys"], None).imag / 1e-30

    rng = np.random.default_rng(6)
    shapes = {"ys": (6, BATCH.ts.size), "W1": (4, 2), "b1": (4,), "W2": (2, 4), "b2": (2,), "log_std": ()}
    triple = Triple(lambda **x: loss_of(x).value(x["ys"], None), jvp, vjp,
                    {name: rng.standard_normal(shape) for name, shape in shapes.items()})
    assert dot_product_error(triple) <= ROUNDING
    for label, wrong in vjp_mutants(triple):
        assert "one entry" in label or dot_product_error(triple, wrong) > 1e3 * ROUNDING, label


def reconstruction_errors():
    """Of its hvp: against complex steps of its vjp; symmetry. And of the Hessian of a solve with it: against differences of gradients."""
    model, rng = small_latent(), np.random.default_rng(7)
    loss = model.reconstruction(BATCH, model.theta + 0.3)
    ys, v, w = rng.standard_normal((3, 6, BATCH.ts.size))
    y1 = np.zeros(6)
    found, expected = loss.hvp(ys, y1, v, y1)[0], loss.vjp(ys + 1e-30j * v, y1)[0].imag / 1e-30
    left, right = w * found, v * loss.hvp(ys, y1, w, y1)[0]
    problem = model.problem(BATCH, rng.standard_normal((3, 2)), model.theta + 0.3, loss=loss)
    u = rng.standard_normal(problem.theta.size)
    hessian = refnode.hvp(problem, theta_tan=u, n_steps=4).theta
    gradients = finite_difference_jvp(lambda theta: refnode.gradient(problem.replace(theta=theta), n_steps=4).theta, problem.theta, u)
    size = np.max(np.abs(hessian))
    assert np.max(gradients.error) <= 1e-8 * size
    return (np.max(np.abs(found - expected)) / np.max(np.abs(expected)), abs(left.sum() - right.sum()) / max(np.abs(left).sum(), 1e-3),
            np.max(np.abs(hessian - gradients.value) / (4.0 * gradients.error + 1e-11 * size)))


def test_the_reconstruction_has_a_second_derivative():
    by_steps, symmetry, by_differences = reconstruction_errors()
    assert by_steps <= ROUNDING and symmetry <= ROUNDING and by_differences <= 1.0


@pytest.mark.parametrize("name", ["perceptron_hvp", "gaussian_log_likelihood_hvp"])
def test_a_reconstruction_without_part_of_its_curvature_is_caught(name, monkeypatch):
    """Zeros for the decoder's tangent of the transpose, or for that of the likelihood."""
    monkeypatch.setattr(latent_ode, name, zeroed(getattr(latent_ode, name), 0, 1, 2))
    by_steps, _, by_differences = reconstruction_errors()
    assert by_steps > 1e-3 and by_differences > 1e3


# --- limits and symmetries ------------------------------------------------------------------------

def test_without_observations_the_ode_rnn_is_the_pure_ode():
    """One solve from t0 to the end, and so the same bits; the state at its start is 0."""
    silent = Series(BATCH.t0, BATCH.ts, 0.0 * BATCH.values, np.zeros_like(BATCH.observed))
    model = small_ode_rnn(rtol=1e-5, atol=1e-7)
    path = model.path(silent, model.theta)
    assert len(path.pieces) == 1
    problem = model.problem(silent.t0, silent.ts, np.zeros((3, 2)), model.theta)
    solution = refnode.solve(problem, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(path.before, solution.y.T.reshape(-1, 3, 2))
    assert model.loss(silent).loss == 0.0 and not model.gradient(silent).theta.any()


def test_a_series_without_observations_flows_through_those_of_others():
    """Solved in pieces it differs from one solve by their tolerance."""
    model = small_ode_rnn(rtol=1e-9, atol=1e-11)
    path = model.path(BATCH, model.theta)
    assert len(path.pieces) > 3
    alone = refnode.solve(model.problem(BATCH.t0, BATCH.ts, np.zeros((1, 2)), model.theta), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(path.before[:, -1], alone.y.T, rtol=0.0, atol=1e-7)


def test_what_is_missing_has_no_influence():
    other = series(BATCH.ts, np.where(BATCH.observed, BATCH.values, 1e9), BATCH.observed, t0=0.0)
    assert small_latent().loss(BATCH, NOISE) == small_latent().loss(other, NOISE)
    assert small_ode_rnn().loss(BATCH) == small_ode_rnn().loss(other)
    assert TimedRNN(2, seed=1).loss(BATCH) == TimedRNN(2, seed=1).loss(other)


def test_a_latent_ode_without_observations_has_the_divergence_alone():
    silent = Series(BATCH.t0, BATCH.ts, 0.0 * BATCH.values, np.zeros_like(BATCH.observed))
    found = small_latent().loss(silent, NOISE)
    assert found.log_likelihood == 0.0 and found.loss == found.divergence


def test_the_baseline_predicts_from_what_came_before():
    """Predictions at a time do not change when later observations do; before the first there are none."""
    model, t = TimedRNN(2, seed=1), 0.5 * (BATCH.ts[4] + BATCH.ts[5])
    later = series(BATCH.ts, np.where(BATCH.ts[:, None] > t, BATCH.values + 1.0, BATCH.values), BATCH.observed, t0=0.0)
    np.testing.assert_array_equal(model.predicted(BATCH, [t]), model.predicted(later, [t]))
    assert np.isnan(model.predicted(BATCH, [0.0])).all() and np.isnan(model.predicted(BATCH, [9.0])[-1]).all()


def test_the_baseline_is_asked_what_it_is_trained_on():
    """`predicted` at the observation times equals the predictions in the loss."""
    model = TimedRNN(2, seed=1)
    steps, h, _ = model.states(BATCH, model.theta)
    inside = model.head(h[:-1], steps.gap, model.theta)
    outside = model.predicted(BATCH, BATCH.ts)
    for row, k in zip(*np.nonzero(steps.present.T[:, 1:])):
        np.testing.assert_allclose(inside[k + 1, row], outside[row, steps.at[k + 1, row]], rtol=1e-13, atol=1e-14)


# --- fits and arguments ---------------------------------------------------------------------------

@pytest.mark.parametrize("make", [small_latent, small_ode_rnn, small_rnn])
def test_a_fit_lowers_the_loss_and_repeats_for_a_seed(make):
    """The loss on all the data: of the latent ODE for the mean starts."""
    data = random_series(9, seed=3)
    drawn = [np.zeros((9, 2))] if make is small_latent else []
    first, again = (make().fit(data, 6, 3, (0.01, 0.01), seed=2) for _ in range(2))
    np.testing.assert_array_equal(first.theta, again.theta)
    assert len(first.history.loss) == 18
    assert first.loss(data, *drawn).loss < make().loss(data, *drawn).loss
    assert not np.array_equal(first.theta, make().fit(data, 6, 3, (0.01, 0.01), seed=3).theta)


def test_decoded_paths_have_the_values_of_the_loss():
    """The mean start, decoded at the observation times, has the likelihood that the loss computes without noise."""
    model = small_latent()
    paths = model.decoded(BATCH, BATCH.ts)
    (log_std,) = model.parts.arrays(model.theta, "noise")
    terms = latent_ode.gaussian_log_likelihood(BATCH.values, paths, log_std)[BATCH.observed]
    assert model.loss(BATCH, 0.0 * NOISE).log_likelihood == pytest.approx(np.sum(terms) / 3, rel=1e-12)


def test_wrong_noise_is_refused():
    with pytest.raises(InvalidInputError, match=r"noise must be finite, of shape \(3, 2\), found shape \(2, 2\)"):
        small_latent().gradient(BATCH, NOISE[:2])


def test_recipes_that_push_every_parameter_are_refused():
    with pytest.raises(InvalidInputError, match="at most 2000 are allowed"):
        LatentODE(2, recipe="forward")


@pytest.mark.parametrize("make", [small_latent, small_ode_rnn, small_rnn])
def test_a_fit_that_was_stopped_goes_on_to_the_same_bits(make, tmp_path):
    """Stopped in the second of three epochs, in the middle of its batches; other data are refused."""
    data, options = random_series(9, seed=3), {"checkpoint": tmp_path / "run.npz", "checkpoint_every": 1, "clip": 10.0}
    straight = make().fit(data, 3, 3, seed=2, clip=10.0)
    stopped, lines = make(), []

    def stop(line):
        lines.append(line)
        if len(lines) == 5:
            raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(data, 3, 3, seed=2, progress=stop, every=1, **options)
    resumed = make().fit(data, 3, 3, seed=2, resume=True, **options)
    assert resumed.theta.tobytes() == straight.theta.tobytes() and resumed.history.loss == straight.history.loss
    with pytest.raises(ProblemFileError, match="another run: identity is"):
        make().fit(random_series(9, seed=4), 3, 3, seed=2, resume=True, **options)
    if make is small_latent:
        with pytest.raises(ProblemFileError, match="kl_weight=1.0.*kl_weight=0.5"):
            make().fit(data, 3, 3, seed=2, kl_weight=0.5, resume=True, **options)
