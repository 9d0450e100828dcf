"""The demonstration of the latent ODE: spirals in both directions of rotation, seen at a few irregular times, with noise.

A thousand pieces of one spiral, half of them turning left and half right, each from its own point; 30, 50 or 100 of the
100 times of a window are observed. The latent ODE is held against a recurrent network that is told the time since its
last observation. Both are asked for the noise-free curve within the window, and for another 100 times beyond it.
It is the experiment of Chen et al., Table 2; spirals, sizes and training differ, and so do the numbers.

References
----------
Chen, Rubanova, Bettencourt & Duvenaud, Neural ordinary differential equations, 2018, section 5.1.
"""
import dataclasses
import pathlib

import numpy as np

from refnode.demos.gradient_evidence import GradientEvidence, gradient_evidence
from refnode.demos.numbers import positive_count, require_reverse_sweep, rms, write_result
from refnode.demos.pictures import DATA, FIT, GREY, INK
from refnode.models.latent_ode import LatentODE
from refnode.models.neural_ode import compiled_beside
from refnode.models.series import Series, series
from refnode.models.timed_rnn import TimedRNN
from refnode.sensitivity.recipes import recipe_named

SPIRALS, TESTS, NOISE = 1000, 100, 0.1             # noise: standard deviation in each coordinate
TIMES, WINDOW = 100, 2.0 * np.pi                   # in the window, and as many behind it
INNER, GROWTH, LATEST = 0.3, 0.1, 3.0 * np.pi      # radius INNER + GROWTH angle; largest angle at the start
COUNTS = (30, 50, 100)
EPOCHS, SIZE = 24, 16
REPORTED = {"rnn": (0.3937, 0.3202, 0.1813), "latent_ode": (0.1642, 0.1502, 0.1346)}    # by Chen et al., Table 2
FROZEN, TIGHT = {"n_steps": 30}, {"rtol": 1e-9, "atol": 1e-11}


# --- data -----------------------------------------------------------------------------------------

def grid():
    """The times of the window and those behind it, (2 TIMES,)."""
    return np.linspace(0.0, 2.0 * WINDOW, 2 * TIMES)


def spirals(rng, count):
    """Noise-free curves at `grid`, (count, 2 TIMES, 2); the even ones turn left, the odd ones right."""
    angle = rng.uniform(0.0, LATEST, count)[:, None] + grid()
    turn = np.where(np.arange(count) % 2 == 0, 1.0, -1.0)[:, None]
    radius = INNER + GROWTH * angle
    return np.stack([radius * np.cos(angle), turn * radius * np.sin(angle)], axis=2)


def observations(rng, curves, count):
    """`Series` of ``count`` of the times of the window, drawn for each curve, with noise."""
    noisy = curves[:, :TIMES] + NOISE * rng.standard_normal((len(curves), TIMES, 2))
    observed = np.zeros((len(curves), TIMES, 2), dtype=bool)
    for own in observed:
        own[rng.choice(TIMES, count, replace=False)] = True
    return series(grid()[:TIMES], np.where(observed, noisy, np.nan), observed)


# --- the demonstration ----------------------------------------------------------------------------

@dataclasses.dataclass
class Trained:
    """Both models for one number of observations, and what they were tested on."""

    count: int
    latent_ode: LatentODE
    rnn: TimedRNN
    curves: np.ndarray
    tests: Series
    errors: dict


@dataclasses.dataclass
class LatentResult:
    """What the demonstration found: root mean square errors against noise-free unseen curves, and evidence for the gradient."""

    recipe: str
    seed: int
    epochs: int
    trained: list
    evidence: GradientEvidence
    files: list = dataclasses.field(default_factory=list)

    @property
    def seconds(self):
        """Of all trainings."""
        return sum(model.history.seconds[-1] for one in self.trained for model in (one.latent_ode, one.rnn))

    def __str__(self):
        lines = [f"latent_ode, recipe {self.recipe!r}, seed {self.seed}: {self.epochs} epochs each, "
                 f"trainings {self.seconds:.1f} s; errors against the noise-free curve, noise {NOISE}",
                 "  observations   within the window: latent ODE, RNN   beyond it: latent ODE, RNN"]
        lines += [f"  {one.count:12d}   {one.errors['latent_ode'][0]:29.3f}{one.errors['rnn'][0]:7.3f}"
                  f"{one.errors['latent_ode'][1]:23.3f}{one.errors['rnn'][1]:7.3f}" for one in self.trained]
        return "\n".join([*lines, f"  {self.evidence}"])

    def to_dict(self):
        """The numbers, for JSON; those reported by Chen et al. are of other data."""
        rows = [{"observations": one.count, "rms_within_and_beyond": one.errors,
                 "loss": {"latent_ode": one.latent_ode.history.loss, "rnn": one.rnn.history.loss}} for one in self.trained]
        return {"recipe": self.recipe, "seed": self.seed, "epochs": self.epochs, "noise": NOISE, "seconds": self.seconds,
                "results": rows, "reported_by_chen_et_al_2018": {"observations": COUNTS, "predictive_rmse": REPORTED},
                "gradient_evidence": self.evidence.to_dict()}


def run_demo(output="latent_ode", recipe="discrete", seed=0, epochs=None, progress=None, method="dopri5", rtol=1e-3,
             atol=1e-5):
    """Train both models on 30, 50 and 100 observations, test them, and write the picture and the numbers.

    Parameters
    ----------
    output : str or path
        Folder for ``latent_ode.png`` and ``latent_ode.json``; made if it is not there.
    recipe : str
        A name in `refnode.sensitivity.recipes.RECIPES` with a reverse sweep.
    seed : int
        Of data, noise, parameters and mini-batches.
    epochs : int, optional
        How often every spiral is seen by each model; 24 by default, and the longer the better.
    progress : callable, optional
        Handed lines of text.
    method, rtol, atol
        Of the solves.

    Returns
    -------
    LatentResult
    """
    epochs = positive_count("epochs", EPOCHS if epochs is None else epochs)
    require_reverse_sweep(recipe, 3000)
    options = {"method": method, "rtol": rtol, "atol": atol}
    with compiled_beside(recipe, progress):
        compile_forward(seed, options)
    trained = [one_count(count, recipe, seed, epochs, progress, options) for count in COUNTS]
    result = LatentResult(recipe, seed, epochs, trained, evidence_of(trained[0], seed))
    result.files = write_result(result, pathlib.Path(output), "latent_ode", (12.5, 7.0), lambda figure: draw(figure, result.trained[0]))
    if progress is not None:
        progress(str(result))
    return result


def compile_forward(seed, options):
    """One solve of a small batch."""
    rng = np.random.default_rng(seed)
    LatentODE(2, **options).decoded(observations(rng, spirals(rng, 2), COUNTS[0]), grid())


def one_count(count, recipe, seed, epochs, progress, options):
    """Both models trained on series of ``count`` observations, and tested on unseen ones."""
    tell = progress or (lambda line: None)
    rng = np.random.default_rng([seed, count])
    data, curves = observations(rng, spirals(rng, SPIRALS), count), spirals(rng, TESTS)
    tests = observations(rng, curves, count)
    every = max(epochs * -(-SPIRALS // SIZE) // 4, 1)
    tell(f"{count} observations of each of {SPIRALS} spirals: the latent ODE")
    latent = LatentODE(2, recipe=recipe, seed=seed + 1, **options)
    latent.fit(data, epochs, SIZE, seed=seed, progress=progress, every=every)
    tell(f"{count} observations of each of {SPIRALS} spirals: the recurrent network")
    rnn = TimedRNN(2, "rnn", seed=seed + 1).fit(data, epochs, SIZE, seed=seed, progress=progress, every=every)
    paths = {"latent_ode": latent.decoded(tests, grid()), "rnn": rnn_paths(rnn, tests)}
    known = ~np.isnan(paths["rnn"])                # the network says nothing before its first observation
    errors = {name: [rms((path - curves)[:, part][known[:, part]]) for part in (slice(TIMES), slice(TIMES, None))]
              for name, path in paths.items()}
    return Trained(count, latent, rnn, curves, tests, errors)


def rnn_paths(rnn, tests):
    """What the recurrent network says: within the window from the observations before, beyond it from its own predictions."""
    return np.concatenate([rnn.predicted(tests, grid()[:TIMES]), rnn.continued(tests, grid()[TIMES:])], axis=1)


def evidence_of(one, seed):
    """The gradient of the whole model on a batch, on steps for which the recipe's own truth is that of the differences."""
    model, batch = one.latent_ode, one.tests.take(np.arange(8))
    noise, options = np.random.default_rng([seed, 7]).standard_normal((8, model.latent)), model.options
    frozen = recipe_named(model.recipe).truth != "exact"
    model.options = {**options, **(FROZEN if frozen else TIGHT)}
    try:
        grad = model.gradient(batch, noise).theta
        return gradient_evidence(lambda theta: model.loss(batch, noise, theta).loss, model.theta, grad, seed)
    finally:
        model.options = options


# --- the picture ----------------------------------------------------------------------------------

def draw(figure, one):
    """Two unseen spirals of each direction: what was observed, the latent ODE's path, that of the network, the truth."""
    latent, rnn = one.latent_ode.decoded(one.tests, grid()), rnn_paths(one.rnn, one.tests)
    for place, row in enumerate((0, 2, 1, 3)):
        axes = figure.add_axes((0.035 + 0.245 * place, 0.47, 0.225, 0.46))
        draw_plane(axes, one, row, latent[row], rnn[row])
        axes.set_title("turning left" if row % 2 == 0 else "turning right", loc="center", pad=4)
    axes.legend(loc="upper center", bbox_to_anchor=(-1.15, -0.02), ncols=5, columnspacing=1.4, handlelength=1.8)
    for place, name in enumerate(("latent_ode", "rnn")):
        draw_errors(figure.add_axes((0.07 + 0.49 * place, 0.085, 0.42, 0.25)), one, {"latent_ode": latent, "rnn": rnn}[name],
                    "latent ODE" if name == "latent_ode" else "recurrent network", FIT if name == "latent_ode" else GREY)


def draw_plane(axes, one, row, latent, rnn):
    """One spiral in the plane."""
    curve, seen = one.curves[row], one.tests.visited[row]
    axes.plot(*curve.T, color=INK, linewidth=1.2, dashes=(4, 2), label="true curve")
    axes.plot(*rnn[TIMES - 1:].T, color=GREY, linewidth=1.6, label="network, beyond the window")
    axes.plot(*latent[:TIMES].T, color=FIT, linewidth=2.4, label="latent ODE, in the window")
    axes.plot(*latent[TIMES - 1:].T, color="#56b4e9", linewidth=2.4, label="latent ODE, beyond it")
    axes.plot(*one.tests.values[row][seen].T, "o", color=DATA, markersize=5, markeredgecolor="white", markeredgewidth=0.6,
              label=f"{one.count} observations")
    size = 1.12 * np.max(np.abs(curve))
    axes.set(xlim=(-size, size), ylim=(-size, size), aspect="equal")
    axes.set_axis_off()


def draw_errors(axes, one, paths, name, colour):
    """The distance from the true curve against time: median of the unseen spirals, and half of them."""
    distance = np.linalg.norm(paths - one.curves, axis=2)
    told = ~np.isnan(distance).all(axis=0)
    lower, middle, upper = np.nanquantile(distance[:, told], [0.25, 0.5, 0.75], axis=0)
    axes.axvspan(WINDOW, 2.0 * WINDOW, color="#f1f1f1", linewidth=0)
    axes.fill_between(grid()[told], lower, upper, color=colour, alpha=0.25, linewidth=0)
    axes.plot(grid()[told], middle, color=colour, linewidth=2.0)
    axes.set(yscale="log", ylim=(0.01, 6.0), xlim=(0.0, 2.0 * WINDOW), xlabel="time", ylabel="distance from truth")
    axes.set_title(f"{name}: median and middle half of {TESTS} spirals", fontsize=11, pad=6)
    axes.text(1.01 * WINDOW, 0.013, "no data", color=GREY)
