"""The demonstration of the ODE-RNN: oscillations at irregular times, with missing values, each predicted from its past.

Every series has two channels, A sin(ω t + φ) and A cos(ω t + φ), with frequency, phase and amplitude of its own. It is seen at
12 of 30 irregular times, and each value there is missing with probability 0.3. The baseline is a gated recurrent network
that is told the time since the last observation, and may learn for four times as many epochs.

References
----------
Rubanova, Chen & Duvenaud, Latent ODEs for irregularly-sampled time series, 2019.
"""
import dataclasses
import pathlib

import numpy as np

from refnode.demos.gradient_evidence import GradientEvidence, gradient_evidence
from refnode.demos.numbers import positive_count, require_reverse_sweep, rms, write_result
from refnode.demos.pictures import DATA, FIT, GREY, INK
from refnode.models.neural_ode import compiled_beside
from refnode.models.ode_rnn import OdeRnn
from refnode.models.series import Series, series
from refnode.models.timed_rnn import TimedRNN
from refnode.sensitivity.recipes import recipe_named

SAMPLES, TESTS, NOISE = 500, 100, 0.05             # noise: standard deviation in each channel
T_END, TIMES, VISITS, MISSING = 6.0, 30, 12, 0.3   # times altogether, of each series, and how likely a value is missing
FREQUENCIES, AMPLITUDES = (1.0, 2.0), (0.7, 1.3)
EPOCHS, SIZE, BASELINE_EPOCHS = 30, 32, 4          # the last: times those of the ODE-RNN
RATES = (0.02, 0.001)
FROZEN, TIGHT = {"n_steps": 4}, {"rtol": 1e-9, "atol": 1e-11}


# --- data -----------------------------------------------------------------------------------------

def shared_times(seed):
    """The irregular times of all series, (TIMES,)."""
    return np.sort(np.random.default_rng([seed, 1]).uniform(0.0, T_END, TIMES))


def oscillations(rng, count):
    """A function of times (K,) that gives noise-free series, (count, K, 2)."""
    frequency, amplitude = rng.uniform(*FREQUENCIES, count)[:, None], rng.uniform(*AMPLITUDES, count)[:, None]
    phase = rng.uniform(0.0, 2.0 * np.pi, count)[:, None]

    def curves(ts):
        angle = frequency * ts + phase
        return np.stack([amplitude * np.sin(angle), amplitude * np.cos(angle)], axis=2)

    return curves


def observations(rng, curves, ts, count):
    """`Series` of noisy values at some of the times, some of them missing."""
    visited = np.zeros((count, ts.size), dtype=bool)
    for own in visited:
        own[rng.choice(ts.size, VISITS, replace=False)] = True
    observed = visited[:, :, None] & (rng.random((count, ts.size, 2)) >= MISSING)
    noisy = curves(ts) + NOISE * rng.standard_normal((count, ts.size, 2))
    return series(ts, np.where(observed, noisy, np.nan), observed, t0=0.0)


# --- the demonstration ----------------------------------------------------------------------------

@dataclasses.dataclass
class OdeRnnResult:
    """What the demonstration found.

    ``rms_ode_rnn``, ``rms_rnn``: root mean square errors of predictions against noise-free unseen series, at 121 times, each from
    the observations before it; times before a series' first observation aside. ``rms_last`` is that of the last value seen.
    """

    recipe: str
    seed: int
    epochs: int
    rms_ode_rnn: float
    rms_rnn: float
    rms_last: float
    evidence: GradientEvidence
    ode_rnn: OdeRnn
    rnn: TimedRNN
    tests: Series
    curves: object
    files: list = dataclasses.field(default_factory=list)

    @property
    def seconds(self):
        """Of both trainings."""
        return self.ode_rnn.history.seconds[-1] + self.rnn.history.seconds[-1]

    def __str__(self):
        return "\n".join([
            f"ode_rnn, recipe {self.recipe!r}, seed {self.seed}: {self.epochs} epochs, "
            f"{BASELINE_EPOCHS * self.epochs} of the baseline, trainings {self.seconds:.1f} s",
            "  rms error of predictions from the past against noise-free unseen series",
            f"    ODE-RNN                                          {self.rms_ode_rnn:.3f}",
            f"    recurrent network told the time since the last   {self.rms_rnn:.3f}",
            f"    the last value seen                              {self.rms_last:.3f}",
            f"  {self.evidence}"])

    def to_dict(self):
        """The numbers, for JSON."""
        names = ("recipe", "seed", "epochs", "rms_ode_rnn", "rms_rnn", "rms_last", "seconds")
        return {**{name: getattr(self, name) for name in names}, "noise": NOISE,
                "gradient_evidence": self.evidence.to_dict(),
                "loss": {"ode_rnn": self.ode_rnn.history.loss, "rnn": self.rnn.history.loss}}


def run_demo(output="ode_rnn", recipe="discrete", seed=0, epochs=None, progress=None, method="dopri5", rtol=1e-3, atol=1e-4):
    """Train the ODE-RNN and its baseline, test them, and write the picture and the numbers.

    Parameters
    ----------
    output : str or path
        Folder for ``ode_rnn.png`` and ``ode_rnn.json``; made if it is not there.
    recipe : str
        A name in `refnode.sensitivity.recipes.RECIPES` with a reverse sweep.
    seed : int
        Of data, parameters and mini-batches.
    epochs : int, optional
        How often every series is seen; 30 by default.
    progress : callable, optional
        Handed lines of text.
    method, rtol, atol
        Of the solves.

    Returns
    -------
    OdeRnnResult
    """
    epochs = positive_count("epochs", EPOCHS if epochs is None else epochs)
    require_reverse_sweep(recipe, 2900)
    tell, epochs, ts = progress or (lambda line: None), epochs, shared_times(seed)
    rng = np.random.default_rng([seed, 2])
    data = observations(rng, oscillations(rng, SAMPLES), ts, SAMPLES)
    curves = oscillations(rng, TESTS)
    tests, every = observations(rng, curves, ts, TESTS), max(epochs * -(-SAMPLES // SIZE) // 6, 1)
    model = OdeRnn(2, recipe=recipe, seed=seed + 1, method=method, rtol=rtol, atol=atol)
    with compiled_beside(recipe, progress):
        model.loss(tests.take([0, 1]))
    tell("the ODE-RNN")
    model.fit(data, epochs, SIZE, RATES, seed, progress, every)
    tell("the recurrent network")
    rnn = TimedRNN(2, "gru", hidden=model.hidden, width=24, seed=seed + 1)
    rnn.fit(data, BASELINE_EPOCHS * epochs, SIZE, RATES, seed, progress, BASELINE_EPOCHS * every)
    result = measured(model, rnn, tests, curves, epochs, seed)
    result.files = write_result(result, pathlib.Path(output), "ode_rnn", (12.5, 6.6), lambda figure: draw(figure, result))
    tell(str(result))
    return result


def measured(model, rnn, tests, curves, epochs, seed):
    """The errors on unseen series, and the evidence for the gradient."""
    ts = np.linspace(0.0, T_END, 121)
    said, known = rnn.predicted(tests, ts), last_values(tests, ts)
    told = ~np.isnan(said)
    error = {name: rms((path - curves(ts))[told]) for name, path in (
        ("ode_rnn", model.predicted(tests, ts)), ("rnn", said), ("last", known))}
    return OdeRnnResult(
        recipe=model.recipe, seed=seed, epochs=epochs, rms_ode_rnn=error["ode_rnn"], rms_rnn=error["rnn"],
        rms_last=error["last"], evidence=evidence_of(model, tests.take(np.arange(4)), seed), ode_rnn=model, rnn=rnn,
        tests=tests, curves=curves)


def last_values(batch, ts):
    """The last value of each channel seen before ``ts``, 0 before the first, (batch, K, d)."""
    found = np.zeros((len(batch.values), len(ts), batch.values.shape[2]))
    for k, t in enumerate(batch.ts):
        later = np.asarray(ts) > t
        found[:, later] = np.where(batch.observed[:, k, None], batch.values[:, k, None], found[:, later])
    return found


def evidence_of(model, batch, seed):
    """The gradient of the whole model on a batch, on steps for which the recipe's own truth is that of the differences."""
    options = model.options
    frozen = recipe_named(model.recipe).truth != "exact"
    model.options = {**options, **(FROZEN if frozen else TIGHT)}
    try:
        grad = model.gradient(batch).theta
        return gradient_evidence(lambda theta: model.loss(batch, theta).loss, model.theta, grad, seed)
    finally:
        model.options = options


# --- the picture ----------------------------------------------------------------------------------

def draw(figure, result):
    """Both channels of three unseen series: what was observed, the truth, and what both models predicted from the past."""
    ts = np.linspace(0.0, T_END, 241)
    network = result.rnn.predicted(result.tests, ts)                # NaN before a series' first observation
    paths = np.where(np.isnan(network), np.nan, result.ode_rnn.predicted(result.tests, ts)), network
    for column in range(3):
        for channel in range(2):
            axes = figure.add_axes((0.05 + 0.32 * column, 0.57 - 0.42 * channel, 0.29, 0.355))
            draw_channel(axes, result, ts, column, channel, [path[column, :, channel] for path in paths])
            axes.set_title(f"unseen series {column + 1}" if channel == 0 else "")
            if column == 0:
                axes.set_ylabel(f"channel {channel + 1}")
            if channel == 1:
                axes.set_xlabel("time")
    axes.legend(loc="upper center", bbox_to_anchor=(-0.68, -0.17), ncols=4, columnspacing=1.8)


def draw_channel(axes, result, ts, row, channel, paths):
    """One channel of one series."""
    seen = result.tests.observed[row, :, channel]
    axes.plot(ts, result.curves(ts)[row, :, channel], color=INK, linewidth=1.2, dashes=(4, 2), label="truth")
    axes.plot(ts, paths[1], color=GREY, linewidth=1.4, label="recurrent network")
    axes.plot(ts, paths[0], color=FIT, linewidth=2.2, label="ODE-RNN")
    axes.plot(result.tests.ts[seen], result.tests.values[row, seen, channel], "o", color=DATA, markersize=6,
              markeredgecolor="white", markeredgewidth=0.6, label="observed")
    axes.set(xlim=(0.0, T_END), ylim=(-1.75, 1.75), yticks=[-1, 0, 1])
