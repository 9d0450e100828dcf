"""The demonstration of a Poisson process: three intensities recovered from event times alone.

The truth is λ_i(t) = exp(a + c sin(ω t + φ_i)), for three phases. One field is learnt for all, and a start for each;
nothing but the times of events is seen, no rate is ever observed. Beyond the records the learnt field runs on.
"""
import dataclasses
import pathlib

import numpy as np

from refnode.demos.gradient_evidence import GradientEvidence, gradient_evidence
from refnode.demos.numbers import positive_count, rms, write_result
from refnode.demos.pictures import DATA, FIT, GREY, INK
from refnode.models.neural_ode import compiled_beside
from refnode.models.poisson_ode import PoissonODE, event_counts
from refnode.sensitivity.recipes import recipe_named

LEVEL, SWING, FREQUENCY = 0.7, 1.0, 1.2            # a, c, ω
PHASES = np.array([0.0, 2.0, 4.2])                 # φ of the processes
T_END, T_BEYOND = 10.0, 14.0                       # end of the records; end of the continuation
RECORDS, HELD_OUT = 25, 200                        # of each process
ITERATIONS = {"transpose": 1500, "continuous": 300, "tangent": 60, "variational": 60}
FROZEN, TIGHT = {"n_steps": 60}, {"rtol": 1e-9, "atol": 1e-11}


# --- data -----------------------------------------------------------------------------------------

def true_log_intensity(ts):
    """log λ of every process at ``ts``, (processes, K)."""
    return LEVEL + SWING * np.sin(FREQUENCY * np.asarray(ts) + PHASES[:, None])


def drawn_records(seed, count):
    """Event times of ``count`` records of each process: uniform points under a bound, kept with probability λ/bound."""
    rng, bound = np.random.default_rng(seed), np.exp(LEVEL + SWING)
    return [[thinned(rng, bound, process) for _ in range(count)] for process in range(PHASES.size)]


def thinned(rng, bound, process):
    """The events of one record."""
    ts = np.sort(rng.uniform(0.0, T_END, rng.poisson(bound * T_END)))
    return ts[rng.uniform(0.0, bound, ts.size) < np.exp(true_log_intensity(ts)[process])]


def mean_negative_log_likelihood(log_rates, ts, log_at_events, counts):
    """-Σ log λ + ∫ λ dt, the mean over records, summed over processes; the integral by the trapezoidal rule on ``ts``."""
    return float(np.sum(np.trapezoid(np.exp(log_rates), ts)) - np.sum(counts * log_at_events))


# --- the demonstration ----------------------------------------------------------------------------

@dataclasses.dataclass
class PoissonResult:
    """What the demonstration found; likelihoods are minus the mean log-likelihood of a held-out record, summed over processes.

    ``rms_fit`` and ``rms_beyond`` are root mean squares of log λ, learnt against true, within and beyond the records.
    """

    recipe: str
    seed: int
    iterations: int
    events: int
    rms_fit: float
    rms_beyond: float
    learnt: float
    true: float
    constant: float
    evidence: GradientEvidence
    seconds: float
    model: PoissonODE
    records: list
    files: list = dataclasses.field(default_factory=list)

    def __str__(self):
        return "\n".join([
            f"poisson, recipe {self.recipe!r}, seed {self.seed}: {self.iterations} iterations in {self.seconds:.1f} s, "
            f"{self.events} events",
            f"  log-intensity, learnt - true, rms within the records   {self.rms_fit:.3f}",
            f"  the same beyond them, t in [{T_END:g}, {T_BEYOND:g}]               {self.rms_beyond:.3f}",
            f"  minus log-likelihood of held-out records: learnt {self.learnt:.2f}, true intensity {self.true:.2f}, "
            f"constant {self.constant:.2f}",
            f"  {self.evidence}"])

    def to_dict(self):
        """The numbers, for JSON."""
        names = ("recipe", "seed", "iterations", "events", "rms_fit", "rms_beyond", "learnt", "true", "constant", "seconds")
        return {**{name: getattr(self, name) for name in names}, "x": self.model.x.tolist(),
                "gradient_evidence": self.evidence.to_dict(), "loss": self.model.history.loss}


def run_demo(output="poisson", recipe="discrete", seed=0, iterations=None, progress=None, method="dopri5", rtol=1e-4,
             atol=1e-6):
    """Learn the intensities from synthetic events, and write the picture and the numbers.

    Parameters
    ----------
    output : str or path
        Folder for ``poisson.png`` and ``poisson.json``; made if it is not there.
    recipe : str
        A name in `refnode.sensitivity.recipes.RECIPES`.
    seed : int
        Of events and initial parameters.
    iterations : int, optional
        Of Adam on all events; by default as many as take some seconds.
    progress : callable, optional
        Handed lines of text.
    method, rtol, atol
        Of the solves.

    Returns
    -------
    PoissonResult
    """
    iterations = positive_count("iterations", ITERATIONS.get(recipe_named(recipe).equation, 60) if iterations is None
                                else iterations)
    records = drawn_records([seed, 1], RECORDS)
    ts, counts = event_counts(records, (0.0, T_END))
    model = PoissonODE(PHASES.size, recipe=recipe, seed=seed, method=method, rtol=rtol, atol=atol)
    with compiled_beside(recipe, progress):
        model.log_intensity(ts)
    model.fit((0.0, T_END), ts, counts, iterations, progress=progress, every=max(iterations // 10, 1))
    result = measured(model, records, iterations, seed)
    result.files = write_result(result, pathlib.Path(output), "poisson", (12.5, 4.6), lambda figure: draw(figure, result))
    if progress is not None:
        progress(str(result))
    return result


def measured(model, records, iterations, seed):
    """The errors of the learnt intensities, and the evidence for the last gradient."""
    inside, beyond = np.linspace(0.0, T_END, 401), np.linspace(T_END, T_BEYOND, 161)
    learnt = model.log_intensity(np.concatenate([inside, beyond]))
    error = learnt - true_log_intensity(np.concatenate([inside, beyond]))
    ts, counts = event_counts(records, (0.0, T_END))
    fresh, fresh_counts = event_counts(drawn_records([seed, 2], HELD_OUT), (0.0, T_END))
    constant = np.log(counts.sum(axis=1) / T_END)[:, None]
    nll = lambda rates, at: mean_negative_log_likelihood(rates, inside, at, fresh_counts)
    return PoissonResult(
        recipe=model.recipe, seed=seed, iterations=iterations, events=sum(len(r) for process in records for r in process),
        rms_fit=rms(error[:, :inside.size]), rms_beyond=rms(error[:, inside.size:]),
        learnt=nll(learnt[:, :inside.size], model.log_intensity(fresh)),
        true=nll(true_log_intensity(inside), true_log_intensity(fresh)),
        constant=nll(np.repeat(constant, inside.size, 1), constant), evidence=evidence_of(model, ts, counts, seed),
        seconds=model.history.seconds[-1], model=model, records=records)


def evidence_of(model, ts, counts, seed):
    """The gradient at the end against differences, on steps for which the recipe's own truth is that of the differences."""
    options = model.options
    model.options = {**options, **(TIGHT if recipe_named(model.recipe).truth == "exact" else FROZEN)}
    try:
        _, grad = model.gradient((0.0, T_END), ts, counts)
        return gradient_evidence(lambda x: model.loss((0.0, T_END), ts, counts, x), model.x, grad, seed)
    finally:
        model.options = options


# --- the picture ----------------------------------------------------------------------------------

def draw(figure, result):
    """For each process its intensity, true and learnt, above the events of some records."""
    ts = np.linspace(0.0, T_BEYOND, 561)
    learnt, true = np.exp(result.model.log_intensity(ts)), np.exp(true_log_intensity(ts))
    top = 1.08 * max(np.max(true), np.max(learnt))
    for i, process in enumerate(result.records):
        axes = figure.add_axes((0.055 + 0.318 * i, 0.24, 0.285, 0.64))
        axes.axvspan(T_END, T_BEYOND, color="#f1f1f1", linewidth=0)
        axes.plot(ts, learnt[i], color=FIT, linewidth=2.6, label="learnt intensity")
        axes.plot(ts, true[i], color=INK, linewidth=1.2, dashes=(4, 2), label="true intensity")
        for row, events in enumerate(process[:8]):
            axes.plot(events, np.full(events.size, -0.25 - 0.22 * row), "|", color=DATA, markersize=6,
                      label="events of 8 records" if row == 0 else None)
        axes.axhline(0.0, color=GREY, linewidth=0.8)
        axes.set(xlim=(0.0, T_BEYOND), ylim=(-2.1, top), xlabel="time", title=f"process {i + 1}",
                 yticks=[tick for tick in range(0, int(top) + 1, 2)])
        axes.text(T_END + 0.15, top * 0.985, "no data", color=GREY, va="top")
        if i == 0:
            axes.set_ylabel("events per unit of time")
        if i == 1:
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=3, columnspacing=1.6)
