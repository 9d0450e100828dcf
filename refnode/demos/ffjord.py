"""The demonstration: FFJORD, a flow that learns with Hutchinson's estimate of the trace.

The same deep flow is fitted twice to the same batches: with the exact trace, and with one vector of random signs beside
every sample, drawn anew for every solve and held fixed within it. Shown are the learnt density, what the estimate adds
to the noise of the loss, for random signs and for normal numbers, and what a gradient costs as the dimension grows: the
exact trace pushes d tangents through the layers, Hutchinson's estimate one.

References
----------
Grathwohl, Chen, Bettencourt, Sutskever & Duvenaud, FFJORD, ICLR 2019.
"""
import dataclasses
import json
import pathlib
import time

import numpy as np

from refnode.demos.cnf_densities import BATCH, checked_iterations, drawer, loosened
from refnode.demos.flow_results import (
    CHECKED, FINE, HEADING, draw_density, draw_samples, fitted, flow_evidence, total_mass, training_options)
from refnode.demos.pictures import COLOURS, GREY, INK, picture
from refnode.demos.plane_data import PLANE_DATA, plane_data
from refnode.fields.flow_density import NOISES, random_probes
from refnode.models.cnf import CNF

WIDTHS, ITERATIONS, RATES = (2, 32, 32, 2), 1000, (0.01, 0.0003)
ESTIMATES = 200                          # of the loss, for each kind of noise
DIMENSIONS, COST_WIDTH, COST_BATCH, COST_STEPS = (2, 4, 8, 16, 32), 64, 64, 4
TICKS = [factor * 10.0**power for power in range(-1, 5) for factor in (1, 2, 5)]            # milliseconds


@dataclasses.dataclass
class FFJORDResult:
    """What the demonstration found.

    Attributes
    ----------
    recipe, dataset : str
    seed, iterations : int
    rows : list of Fitted
        Fitted with the exact trace, and with the estimate.
    mass : Mass
        The integral of the density learnt with the estimate, by quadrature with the exact trace.
    exact_loss : float
        On one batch, by the model that was fitted with the estimate.
    estimates : dict of str to ndarray, shape (ESTIMATES,)
        Of the same loss, by kind of noise, at the same batch.
    costs : dict of str to list of float
        Processor time of one gradient, [s], at the dimensions `DIMENSIONS`: "exact" and "hutchinson".
    evidence : GradientEvidence
        For the gradient with fixed noise at the trained parameters.
    """

    recipe: str
    dataset: str
    seed: int
    iterations: int
    rows: list
    mass: float
    exact_loss: float
    estimates: dict
    costs: dict
    evidence: object
    models: dict
    files: list

    def __str__(self):
        lines = [f"ffjord, {PLANE_DATA[self.dataset].title}, recipe {self.recipe!r}, seed {self.seed}, "
                 f"{self.iterations} iterations of {BATCH} samples", HEADING, *map(str, self.rows)]
        for noise, values in self.estimates.items():
            error = (values.mean() - self.exact_loss) / (values.std() / np.sqrt(values.size))
            lines.append(f"loss of one batch, {self.exact_loss:.4f}: by {noise} noise {values.mean():.4f} "
                         f"+- {values.std():.4f}, mean off by {abs(error):.1f} standard errors")
        lines += ["processor seconds a gradient, d = " + ", ".join(map(str, DIMENSIONS)) + ": " + "; ".join(
            f"{name} " + ", ".join(f"{s:.4f}" for s in seconds) for name, seconds in self.costs.items()),
            f"integral of the learnt density: {self.mass}", str(self.evidence)]
        return "\n".join(lines)

    def to_dict(self):
        """The numbers, for JSON."""
        return {"recipe": self.recipe, "dataset": self.dataset, "seed": self.seed, "iterations": self.iterations,
                "batch": BATCH, "widths": list(WIDTHS), "fits": [row.to_dict() for row in self.rows], "mass": self.mass.to_dict(),
                "exact_loss": self.exact_loss, "estimates": {k: list(v) for k, v in self.estimates.items()},
                "dimensions": list(DIMENSIONS), "costs": self.costs, "evidence": self.evidence.to_dict(),
                "loss": {name: model.history.loss for name, model in self.models.items()}}


def run_demo(output="ffjord", recipe="discrete", seed=0, progress=None, iterations=None, method="dopri5", rtol=1e-3,
             atol=1e-3, dataset="moons"):
    """Fit with the exact trace and with Hutchinson's estimate, measure what the estimate costs and saves, draw both.

    Parameters
    ----------
    output : str or path
        Folder for ``ffjord.png``, ``estimate.png`` and ``ffjord.json``.
    recipe : str
        A name in `refnode.sensitivity.recipes.RECIPES`; forward ones are slow.
    seed : int
    progress : callable, optional
    iterations : int, optional
        Of each fit; 1000 unless given.
    method, rtol, atol
        Of the solves in the fits.
    dataset : str
        "moons", "circles", "gaussians" or "checkerboard".

    Returns
    -------
    FFJORDResult
    """
    tell, data, count = progress or (lambda line: None), plane_data(dataset), checked_iterations(iterations, ITERATIONS)
    options = training_options(recipe, {"method": method, "rtol": rtol, "atol": atol})
    models = {}
    for trace in ("exact", "hutchinson"):
        model = CNF(WIDTHS, trace=trace, recipe=recipe, seed=seed, **options)
        tell(f"{data.title}: {model!r}")
        models[trace] = model.fit(drawer(data), count, RATES, [seed, 1], progress, max(count // 4, 1))
        loosened(model)
    flow = models["hutchinson"]
    x = data.sample(np.random.default_rng([seed, 8]), BATCH)
    checked = x[:CHECKED]
    probes = flow.draw_probes(len(checked), np.random.default_rng([seed, 9]))
    result = FFJORDResult(
        recipe, dataset, seed, count, [fitted(f"trace {name}", model, data, seed) for name, model in models.items()],
        total_mass(lambda points: flow.log_density(points, **FINE)),
        float(-np.mean(flow.log_density(x))), estimates(flow, x, seed), costs(seed),
        flow_evidence(flow, checked, seed, probes), models, [])
    result.files = write(result, pathlib.Path(output), seed)
    tell(str(result))
    return result


def estimates(model, x, seed):
    """Hutchinson's estimates of the mean negative log-likelihood of x, by kind of noise."""
    rng = np.random.default_rng([seed, 10])
    return {noise: np.array([-np.mean(model.to_base(x, random_probes(noise, rng, 1, *x.shape), rtol=1e-4, atol=1e-4)[1])
                             for _ in range(ESTIMATES)]) for noise in NOISES}


def costs(seed):
    """Processor time [s] of one gradient of a flow of two hidden layers, in `COST_STEPS` steps, by dimension: the least of five."""
    found = {"exact": [], "hutchinson": []}
    for d in DIMENSIONS:
        x = np.random.default_rng([seed, d]).standard_normal((COST_BATCH, d))
        for trace, seconds in found.items():
            model = CNF((d, COST_WIDTH, COST_WIDTH, d), trace=trace, seed=seed)
            model.options = {"n_steps": COST_STEPS}
            probes, times = model.draw_probes(COST_BATCH, np.random.default_rng(seed)), []
            for _ in range(5):
                started = time.process_time()
                model.gradient(x, probes)
                times.append(time.process_time() - started)
            seconds.append(min(times))
    return found


# --- pictures -------------------------------------------------------------------------------------

def write(result, folder, seed):
    """Write the pictures and the numbers; the files written."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / name for name in ("ffjord.png", "estimate.png", "ffjord.json")]
    draw_densities(result, files[0], seed)
    draw_estimate(result, files[1])
    files[2].write_text(json.dumps(result.to_dict(), indent=1) + "\n", encoding="utf-8")
    return files


def draw_densities(result, file, seed):
    """Data, the densities learnt with either trace, and samples of the second."""
    data = PLANE_DATA[result.dataset]
    with picture((13.0, 3.7), [file]) as figure:
        axes = figure.subplots(1, 4)
        draw_samples(axes[0], data.sample(np.random.default_rng([seed, 98]), 3000))
        axes[0].set_title("data", loc="center")
        for panel, (name, model), row in zip(axes[1:3], result.models.items(), result.rows):
            draw_density(panel, model.log_density)
            panel.set_title({"exact": "exact trace", "hutchinson": "Hutchinson's estimate"}[name], loc="center")
            panel.set_xlabel(f"{row.gap:.3f} nats from the truth", color=GREY)
        draw_samples(axes[3], result.models["hutchinson"].sample(3000, [seed, 97])[0])
        axes[3].set_title("samples of the latter", loc="center")
        figure.subplots_adjust(0.01, 0.1, 0.99, 0.9, 0.05)


def draw_estimate(result, file):
    """Left the scatter of the estimated loss, right the cost of a gradient against the dimension."""
    with picture((12.0, 4.4), [file]) as figure:
        left, right = figure.subplots(1, 2)
        values = np.concatenate(list(result.estimates.values()))
        bins = np.linspace(values.min(), values.max(), 32)
        for (noise, found), colour, name in zip(result.estimates.items(), COLOURS, ("random signs", "normal numbers")):
            left.hist(found, bins, color=colour, alpha=0.6, label=f"{name}: standard deviation {found.std():.4f}")
        left.axvline(result.exact_loss, ymax=0.68, color=INK, linewidth=1.4, label="exact trace")
        left.set(xlabel="mean negative log-likelihood of one batch", ylabel="estimates",
                 title=f"{ESTIMATES} estimates of one loss")
        left.set_ylim(top=left.get_ylim()[1] * 1.45)
        left.legend(loc="upper center")
        for (name, seconds), colour, marker in zip(result.costs.items(), (COLOURS[4], COLOURS[0]), "os"):
            right.plot(DIMENSIONS, 1e3 * np.array(seconds), marker=marker, color=colour,
                       label={"exact": "exact trace", "hutchinson": "Hutchinson's estimate"}[name])
        right.set(xscale="log", yscale="log", xlabel="dimension", ylabel="milliseconds a gradient, processor time",
                  title=f"{COST_STEPS} steps, {COST_BATCH} samples, two layers of {COST_WIDTH}")
        right.set_xticks(DIMENSIONS, DIMENSIONS)
        least, most = (1e3 * f(map(f, result.costs.values())) for f in (min, max))
        ticks = [tick for tick in TICKS if 0.5 * least < tick < 2.0 * most]
        right.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        right.minorticks_off()
        right.legend()
        figure.subplots_adjust(0.07, 0.14, 0.98, 0.88, 0.22)
