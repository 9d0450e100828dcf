"""The demonstration: continuous normalising flows learn four densities in the plane by maximum likelihood.

The flow is that of Chen et al.: one hidden layer of tanh units, whose weights a second perceptron makes of the time, the
trace exact. The same data are given to three flows of discrete layers with exact Jacobians: planar, affine coupling
(RealNVP), residual. Since the true densities are known, every likelihood is told beside the best there is.

References
----------
Chen, Rubanova, Bettencourt & Duvenaud, Neural ordinary differential equations, NeurIPS 2018, section 4.
"""
import dataclasses
import json
import pathlib

import numpy as np

from refnode.demos.flow_results import (
    CHECKED, FINE, HEADING, Fitted, bare, draw_density, draw_samples, fitted, flow_evidence, square, total_mass,
    training_options)
from refnode.demos.pictures import GREY, animation, picture
from refnode.demos.plane_data import PLANE_DATA, plane_data
from refnode.errors import InvalidInputError
from refnode.models.cnf import CNF
from refnode.models.stacked_flow import planar_flow, real_nvp, residual_flow

WIDTHS, HIDDEN = (2, 64, 2), (16,)
BATCH, ITERATIONS, RATES = 256, 1000, (0.015, 0.0005)
COMPARED_ITERATIONS = 1000
FRAMES, PARTICLES, COARSE = 20, 1200, 48


@dataclasses.dataclass
class CNFResult:
    """What the demonstration found.

    Attributes
    ----------
    recipe : str
    seed, iterations : int
    rows : dict of str to Fitted
        By data set.
    masses : dict of str to Mass
        The integral of the learnt density, by quadrature: 1 if trace and solve are right.
    compared : list of Fitted
        The flows of discrete layers and the continuous one, on the data set ``compared_on``.
    evidence : GradientEvidence
        For the gradient at the trained parameters.
    files : list of pathlib.Path
    models : dict of str to CNF
    nfe : dict of str to float
        Mean number of evaluations by a forward solve, over the last hundred iterations.
    """

    recipe: str
    seed: int
    iterations: int
    rows: dict
    masses: dict
    compared: list
    compared_on: str
    evidence: object
    nfe: dict
    files: list
    models: dict

    def __str__(self):
        lines = [f"cnf, recipe {self.recipe!r}, seed {self.seed}, {self.iterations} iterations of {BATCH} samples", HEADING]
        lines += [f"{row}" for row in self.rows.values()]
        lines += [f"flows compared on {PLANE_DATA[self.compared_on].title}", *map(str, self.compared)]
        lines += [f"integral of the learnt density, {PLANE_DATA[name].title}: {mass}" for name, mass in self.masses.items()]
        lines.append(str(self.evidence))
        return "\n".join(lines)

    def to_dict(self):
        """The numbers, for JSON."""
        return {"recipe": self.recipe, "seed": self.seed, "iterations": self.iterations, "batch": BATCH,
                "widths": list(WIDTHS), "hidden": list(HIDDEN),
                "fits": {name: row.to_dict() for name, row in self.rows.items()},
                "masses": {name: mass.to_dict() for name, mass in self.masses.items()},
                "nfe": self.nfe, "compared_on": self.compared_on, "compared": [row.to_dict() for row in self.compared],
                "evidence": self.evidence.to_dict(),
                "loss": {name: model.history.loss for name, model in self.models.items()}}


def run_demo(output="cnf", recipe="discrete", seed=0, progress=None, iterations=None, method="dopri5", rtol=1e-3,
             atol=1e-3, dataset=None):
    """Fit flows, compare them, draw densities, samples and the transport, and hold the gradient against differences.

    Parameters
    ----------
    output : str or path
        Folder for ``cnf.png``, ``comparison.png``, ``transport.gif`` and ``cnf.json``.
    recipe : str
        A name in `refnode.sensitivity.recipes.RECIPES`, not one of the forward ones: there are 5506 parameters.
    seed : int
    progress : callable, optional
    iterations : int, optional
        For every model; 1000 unless given.
    method, rtol, atol
        Of the solves in the fit. Densities and evidence have tolerances of their own.
    dataset : str, optional
        "moons", "circles", "gaussians" or "checkerboard"; by default all four, compared on the first.

    Returns
    -------
    CNFResult
    """
    tell = progress or (lambda line: None)
    count = checked_iterations(iterations, ITERATIONS)
    names = list(PLANE_DATA) if dataset is None else [dataset]
    datasets = {name: plane_data(name) for name in names}
    options = training_options(recipe, {"method": method, "rtol": rtol, "atol": atol})
    models = {}
    for name, data in datasets.items():
        model = CNF(WIDTHS, time="hyper", hidden=HIDDEN, recipe=recipe, seed=seed, **options)
        tell(f"{data.title}: {model!r}")
        models[name] = model.fit(drawer(data), count, RATES, [seed, 1], progress, max(count // 4, 1))
        loosened(model)
    first = names[0]
    compared = compared_flows(datasets[first], seed, count if iterations else COMPARED_ITERATIONS, tell)
    rows = {name: fitted(data.title, models[name], data, seed) for name, data in datasets.items()}
    masses = {name: total_mass(lambda x, m=model: m.log_density(x, **FINE)) for name, model in models.items()}
    x = datasets[first].sample(np.random.default_rng([seed, 8]), CHECKED)
    result = CNFResult(
        recipe, seed, count, rows, masses, [row for row, _ in compared] + [named(rows[first], "continuous")], first,
        flow_evidence(models[first], x, seed), {name: float(np.mean(m.history.nfe[-100:])) for name, m in models.items()},
        [], models)
    result.files = write(result, datasets, [model for _, model in compared], pathlib.Path(output), seed)
    tell(str(result))
    return result


def checked_iterations(iterations, default):
    """The number of iterations, a positive integer."""
    if iterations is None:
        return default
    if int(iterations) != iterations or iterations < 1:
        raise InvalidInputError(f"iterations must be a positive integer, found {iterations!r}")
    return int(iterations)


def drawer(data):
    """``draw(rng)`` for a fit."""
    return lambda rng: data.sample(rng, BATCH)


def loosened(model):
    """After the fit: tolerances for densities and pictures, without the options of a recipe."""
    model.options = {"method": model.options["method"], "rtol": 1e-5, "atol": 1e-5}


def named(row, name):
    return dataclasses.replace(row, name=name)


def compared_flows(data, seed, iterations, tell):
    """(Fitted, model) of each flow of discrete layers."""
    flows = {"planar": planar_flow(2, 16, seed), "RealNVP": real_nvp(2, 8, 32, seed),
             "residual": residual_flow(2, 6, 32, seed)}
    found = []
    for name, flow in flows.items():
        tell(f"{data.title}: {name} flow of {len(flow.layers)} layers, p={flow.theta.size}")
        flow.fit(drawer(data), iterations, (0.01, 0.0005), [seed, 1], tell, iterations)
        found.append((fitted(name, flow, data, seed), flow))
    return found


# --- pictures -------------------------------------------------------------------------------------

def write(result, datasets, flows, folder, seed):
    """Write the pictures, the animation and the numbers; the files written."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / name for name in ("cnf.png", "comparison.png", "transport.gif", "cnf.json")]
    draw_all(result, datasets, files[0], seed)
    draw_comparison(result, datasets[result.compared_on], flows, files[1])
    draw_transport(result.models, files[2], seed)
    files[3].write_text(json.dumps(result.to_dict(), indent=1) + "\n", encoding="utf-8")
    return files


def draw_all(result, datasets, file, seed):
    """For every data set: samples of the data, the learnt density, samples of the flow."""
    columns = len(datasets)
    with picture((2.55 * columns + 0.5, 8.3), [file]) as figure:
        axes = figure.subplots(3, columns, squeeze=False)
        for k, (name, data) in enumerate(datasets.items()):
            model = result.models[name]
            draw_samples(axes[0, k], data.sample(np.random.default_rng([seed, 98]), 3000))
            draw_density(axes[1, k], model.log_density)
            draw_samples(axes[2, k], model.sample(3000, [seed, 97])[0])
            axes[0, k].set_title(data.title, loc="center")
            axes[2, k].set_xlabel(f"{result.rows[name].gap:.3f} nats from the truth", color=GREY)
        for row, text in zip(axes, ("data", "learnt density", "samples of the flow")):
            row[0].set_ylabel(text)
        figure.subplots_adjust(0.25 / columns + 0.02, 0.05, 0.99, 0.95, 0.05, 0.05)


def draw_comparison(result, data, flows, file):
    """The true density and those of all flows, side by side."""
    models = [*flows, result.models[result.compared_on]]
    points, _ = square()
    largest = float(np.quantile(np.exp(data.log_density(points)), 0.999))
    with picture((13.0, 3.4), [file]) as figure:
        axes = figure.subplots(1, 1 + len(models))
        draw_density(axes[0], data.log_density, largest=largest)
        axes[0].set_title("truth", loc="center")
        for panel, model, row in zip(axes[1:], models, result.compared):
            draw_density(panel, model.log_density, largest=largest)
            panel.set_title(row.name, loc="center")
            panel.set_xlabel(f"{row.gap:.3f} nats from the truth\n{row.parameters} parameters", color=GREY)
        figure.subplots_adjust(0.01, 0.12, 0.99, 0.9, 0.05)


def draw_transport(models, file, seed):
    """Samples of the base carried to the data, on the density at every time."""
    ts = np.linspace(0.0, 1.0, FRAMES)
    z = np.random.default_rng([seed, 96]).standard_normal((PARTICLES, 2))
    paths = {name: model.transport(z, ts, rtol=1e-4, atol=1e-4)[0] for name, model in models.items()}

    def draw(figure, number):
        axes = figure.subplots(1, len(models), squeeze=False)[0]
        for panel, (name, model) in zip(axes, models.items()):
            t = ts[number]
            draw_density(panel, lambda x: model.log_density(x, t=t, rtol=1e-3, atol=1e-3), count=COARSE)
            panel.plot(*paths[name][number].T, ".", color="white", markersize=1.3, alpha=0.6, markeredgewidth=0.0)
            bare(panel)
            panel.set_title(PLANE_DATA[name].title, loc="center")
        figure.text(0.5, 0.02, f"t = {ts[number]:.2f}", ha="center")
        figure.subplots_adjust(0.01, 0.1, 0.99, 0.88, 0.05)

    animation((2.4 * len(models), 2.9), file, draw, FRAMES)
