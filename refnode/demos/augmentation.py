"""The demonstration of augmented neural ODEs: what a flow cannot do, and can with one more dimension.

*The crossing.* A map with g(-1) = 1 and g(1) = -1. Paths of one ODE do not cross, so in one dimension y(1; -1) < y(1; 1), and
the mean squared error ((y(1; -1) - 1)^2 + (y(1; 1) + 1)^2)/2 is above 1, its value where both end at 0: with v the
half of their distance and m their mean it is m^2 + (1 + v)^2. A plain flow approaches the bound; one with a second state
goes below any.

*The annuli.* A disc inside a ring, told apart by a linear function of where the flow leads them. The flow is continuous and
invertible: in the plane the image of the ring encloses that of the disc, so no straight line parts them, and what a plain flow
learns is a channel through the ring, ever thinner. In three dimensions the disc is lifted off the plane. Every iteration has new points:
from a fixed few hundred a plain flow would find a gap between them, and an augmented one would not know the border.

References
----------
Dupont, Doucet & Teh, Augmented neural ODEs, NeurIPS 2019: propositions 1 and 2, figures 3 to 6.
"""
import dataclasses
import json
import pathlib

import numpy as np

from refnode.demos.gradient_evidence import GradientEvidence, gradient_evidence, smooth_loss_options
from refnode.demos.pictures import DATA, FIT, GREY, INK, picture
from refnode.errors import InvalidInputError
from refnode.models.augmented_ode import AugmentedODE
from refnode.models.history import History
from refnode.models.neural_ode import compiled_beside, require_affordable
from refnode.models.training import fit
from refnode.optimisers import Adam
from refnode.schedules import CosineDecay
from refnode.sensitivity.recipes import recipe_named

CROSSING = (np.array([[-1.0], [1.0]]), np.array([[1.0], [-1.0]]))
CROSSING_BOUND = 1.0                      # of the mean squared error of a flow of one dimension
RADII = (0.5, 1.0, 1.5)                   # of the disc, and the two of the ring
POINTS, TEST_POINTS = 200, 4000           # of an iteration, new ones each; to count how many are on the wrong side
EPOCHS = {"transpose": 600, "continuous": 200, "tangent": 60, "variational": 60}       # unless given, by the recipe's equation
NAMES = ("plain", "augmented")
FINENESS = 241                            # points along each side of the coloured plane


def annuli(rng, count):
    """Points spread evenly over disc and ring, half in each, and their classes: -1 inside, 1 outside; (count, 2), (count, 1)."""
    inside = count // 2
    squares = np.concatenate([RADII[0] ** 2 * rng.random(inside),
                              RADII[1] ** 2 + (RADII[2] ** 2 - RADII[1] ** 2) * rng.random(count - inside)])
    angle = 2.0 * np.pi * rng.random(count)
    x = np.sqrt(squares)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return x, np.where(np.arange(count) < inside, -1.0, 1.0)[:, None]


# --- the demonstration ----------------------------------------------------------------------------

@dataclasses.dataclass
class Trained:
    """A model after its fit."""

    model: AugmentedODE
    history: History


@dataclasses.dataclass
class AugmentedResult:
    """What the demonstration found; the dicts have an entry for "plain" and one for "augmented".

    Attributes
    ----------
    recipe : str
    seed, epochs : int
    crossing, annuli : dict of Trained
    crossing_loss : dict of float
        Mean squared error at the end.
    annuli_loss : dict of float
        Mean squared error on the test points of the annuli.
    wrong : dict of float
        Share of the test points of the annuli on the wrong side.
    nfe : dict of (int, int)
        Evaluations of the forward solve of the annuli, in the first iteration and after the fit.
    evidence : GradientEvidence
        Of the augmented model of the annuli.
    files : list of pathlib.Path
    """

    recipe: str
    seed: int
    epochs: int
    crossing: dict
    annuli: dict
    crossing_loss: dict
    annuli_loss: dict
    wrong: dict
    nfe: dict
    evidence: GradientEvidence
    files: list = dataclasses.field(default_factory=list)

    def __str__(self):
        lines = [f"augmented, recipe {self.recipe!r}, seed {self.seed}, {self.epochs} epochs for each model",
                 f"{'':26}{'crossing':>14}{'annuli':>12}{'wrong of ' + str(TEST_POINTS):>15}{'NFE before':>12}{'after':>8}"]
        lines += [f"  {name + ' flow':<24}{shown(self.crossing_loss[name]):>14}{shown(self.annuli_loss[name]):>12}{self.wrong[name]:14.2%} "
                  f"{self.nfe[name][0]:12d}{self.nfe[name][1]:8d}" for name in NAMES]
        lines.append(f"  proved: in one dimension the crossing has an error above {CROSSING_BOUND:.0f}; "
                     "in two, some points of the annuli are wrong")
        return "\n".join([*lines, str(self.evidence)])

    def to_dict(self):
        """The numbers, for JSON."""
        return {"recipe": self.recipe, "seed": self.seed, "epochs": self.epochs, "crossing_loss": self.crossing_loss,
                "crossing_bound": CROSSING_BOUND, "annuli_loss": self.annuli_loss, "wrong": self.wrong, "nfe": self.nfe,
                "gradient": self.evidence.to_dict(),
                "histories": {f"{task} {name}": {"loss": trained[name].history.loss, "nfe": trained[name].history.nfe,
                                                 "nfe_reverse": trained[name].history.nfe_reverse}
                              for task, trained in (("crossing", self.crossing), ("annuli", self.annuli)) for name in NAMES}}


def run_demo(output="augmented", recipe="discrete", seed=0, progress=None, epochs=None, method="dopri5", rtol=1e-5,
             atol=1e-7):
    """Fit plain and augmented flows to the crossing and to the annuli; write two pictures and the numbers.

    Parameters
    ----------
    output : str or path
        Folder for ``crossing.png``, ``annuli.png`` and ``augmented.json``; made if it is not there.
    recipe : str
        A name in `refnode.sensitivity.recipes.RECIPES`.
    seed : int
        Of data and initial parameters. The same seed gives the same numbers.
    progress : callable, optional
        Handed lines of text.
    epochs : int, optional
        Iterations for each of the four models: on both points of the crossing, on new points of the annuli.
    method, rtol, atol
        Of the solves.

    Returns
    -------
    AugmentedResult

    Raises
    ------
    InvalidInputError
        If an argument is wrong.
    """
    epochs = EPOCHS[recipe_named(recipe).equation] if epochs is None else epochs
    if int(epochs) != epochs or epochs < 1:
        raise InvalidInputError(f"epochs must be a positive integer, found {epochs!r}")
    tell, options = progress or (lambda line: None), {"method": method, "rtol": rtol, "atol": atol}
    rng = np.random.default_rng([seed, 2])
    test = annuli(rng, TEST_POINTS)
    with compiled_beside(recipe, progress):
        models = {name: (AugmentedODE(1, extra, (16,), time_input=True, recipe=recipe, seed=seed, **options),
                         AugmentedODE(2, extra, (32,), outputs=1, recipe=recipe, seed=seed, **options))
                  for extra, name in enumerate(NAMES)}
        models["augmented"][0].predict(CROSSING[0])
    crossing, rings = {}, {}
    for name in NAMES:
        require_affordable(recipe, models[name][1].theta.size)
        tell(f"the crossing, {name} flow: {models[name][0]!r}")
        crossing[name] = trained(models[name][0], [CROSSING], epochs, 0.03, seed, progress)
        tell(f"the annuli, {name} flow: {models[name][1]!r}")
        rings[name] = trained(models[name][1], lambda rng: [annuli(rng, POINTS)], epochs, 0.02, seed, progress)
    some = annuli(rng, POINTS)
    result = measured(crossing, rings, some, test, recipe, seed, epochs)
    result.files = write(result, some, pathlib.Path(output))
    tell(str(result))
    return result


def trained(model, batches, epochs, rate, seed, progress):
    """The model after its fit, an iteration an epoch."""
    found = fit(model.theta, model.loss_and_gradient, batches, Adam(rate), CosineDecay(rate, 0.02 * rate, epochs),
                epochs=epochs, seed=seed, progress=progress, every=max(epochs // 3, 1))
    model.theta = found.theta
    return Trained(model, found.history)


def measured(crossing, rings, data, test, recipe, seed, epochs):
    """The numbers of four trained models; evaluations and gradient on the points ``data``, errors on ``test``."""
    last, options = rings["augmented"].model, smooth_loss_options(recipe)
    _, grad, _ = last.loss_and_gradient(last.theta, data, **options)
    return AugmentedResult(
        recipe, seed, epochs, crossing, rings,
        crossing_loss={name: crossing[name].model.loss(crossing[name].model.theta, CROSSING) for name in NAMES},
        annuli_loss={name: rings[name].model.loss(rings[name].model.theta, test) for name in NAMES},
        wrong={name: float(np.mean(rings[name].model.predict(test[0])[0] * test[1] <= 0.0)) for name in NAMES},
        nfe={name: (rings[name].history.nfe[0], rings[name].model.predict(data[0])[1]) for name in NAMES},
        evidence=gradient_evidence(lambda theta: last.loss(theta, data, **options), last.theta, grad, seed))


def write(result, data, folder):
    """Write the pictures and the numbers; the files written."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / name for name in ("crossing.png", "annuli.png", "augmented.json")]
    with picture((13.0, 4.6), files[:1]) as figure:
        draw_crossing(figure, result)
    with picture((13.0, 8.2), files[1:2]) as figure:
        draw_annuli(figure, result, data)
    files[2].write_text(json.dumps(result.to_dict(), indent=1) + "\n", encoding="utf-8")
    return files


# --- the pictures ---------------------------------------------------------------------------------

def draw_crossing(figure, result):
    """Paths of the plain flow and of the augmented one over time; and those of the latter in the plane."""
    left, middle, right = figure.subplots(1, 3, gridspec_kw={"wspace": 0.32, "left": 0.06, "right": 0.98, "bottom": 0.15})
    ts, between = np.linspace(0.0, 1.0, 101), np.linspace(-0.8, 0.8, 5)[:, None]
    for axes, name in ((left, "plain"), (middle, "augmented")):
        model = result.crossing[name].model
        ends, others = model.paths(CROSSING[0], ts)[0][:, 0], model.paths(between, ts)[0][:, 0]
        axes.plot(ts, others.T, color=GREY, linewidth=0.7, alpha=0.6)
        for path, target, colour in zip(ends, CROSSING[1][:, 0], (FIT, DATA)):
            axes.plot(ts, path, color=colour, linewidth=2.6)
            axes.plot(1.0, target, "o", color=colour, markersize=11, fillstyle="none", markeredgewidth=2.0, clip_on=False)
        axes.set(xlabel="$t$", ylabel="$y$", xlim=(0.0, 1.0), ylim=(-1.5, 1.5),
                 title=f"{name.capitalize()} flow: error {shown(result.crossing_loss[name])}")
    left.text(0.04, 0.03, "rings: where the paths are to end\ngrey: paths from between", transform=left.transAxes, color=GREY)
    paths = result.crossing["augmented"].model.paths(CROSSING[0], ts)[0]
    for path, colour, start in zip(paths, (FIT, DATA), ("-1", "1")):
        right.plot(*path, color=colour, linewidth=2.6, label=f"from ({start}, 0)")
        right.plot(*path[:, 0], "o", color=colour, markersize=8)
        right.plot(*path[:, -1], "o", color=colour, markersize=11, fillstyle="none", markeredgewidth=2.0)
    right.set(xlabel="$y$", ylabel="the added state", title="Augmented paths pass by")
    right.margins(0.12)
    right.legend(loc="best")


def shown(loss):
    """A loss for people: what is below rounding is not shown by its digits."""
    return f"{loss:.4f}" if loss > 1e-3 else f"{loss:.0e}" if loss > 1e-12 else "below 1e-12"


def draw_annuli(figure, result, data):
    """A row for each flow: what is taken for the disc, and where the points end; on the right losses and evaluations."""
    grid = figure.add_gridspec(2, 3, wspace=0.3, hspace=0.42, left=0.06, right=0.98, top=0.93, bottom=0.08)
    for row, name in enumerate(NAMES):
        draw_region(figure.add_subplot(grid[row, 0]), result, name, data)
        draw_ends(figure.add_subplot(grid[row, 1]), result, name, data)
    losses, counts = figure.add_subplot(grid[0, 2]), figure.add_subplot(grid[1, 2])
    for name, colour in zip(NAMES, (DATA, FIT)):
        history = result.annuli[name].history
        steps = np.arange(1, len(history.loss) + 1)
        losses.plot(steps, history.loss, color=colour, linewidth=1.0, label=f"{name} flow")
        counts.plot(steps, history.nfe, color=colour, linewidth=1.0, label=f"{name} flow")
    losses.set(yscale="log", xlabel="iteration", ylabel="mean squared error", title="Loss on new points")
    counts.set(xlabel="iteration", ylabel="evaluations of the field", ylim=(0, None), title="Work of the forward solve")
    losses.legend()
    counts.legend(loc="lower right")


def draw_region(axes, result, name, data):
    """The plane, coloured by what the model takes a point for, with the data on it."""
    side = np.linspace(-1.7, 1.7, FINENESS)
    points = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    taken = result.annuli[name].model.predict(points)[0].reshape(side.size, side.size)
    axes.contourf(side, side, taken, levels=[-np.inf, 0.0, np.inf], colors=[FIT, DATA], alpha=0.25)
    axes.contour(side, side, taken, levels=[0.0], colors=[INK], linewidths=1.2)
    for sign, colour in ((-1.0, FIT), (1.0, DATA)):
        axes.plot(*data[0][data[1][:, 0] == sign].T, "o", color=colour, markersize=3.5, markeredgecolor="white", markeredgewidth=0.3)
    axes.set(aspect="equal", xlabel="$x_1$", ylabel="$x_2$", title=f"{name.capitalize()}: {result.wrong[name]:.2%} wrong")


def draw_ends(axes, result, name, data):
    """Where the flow leads the points: the readout against the widest direction across it."""
    model = result.annuli[name].model
    paths = model.paths(data[0], np.linspace(0.0, 1.0, 21))[0]
    W, b = model.readout(model.theta)
    across = widest_across(paths[:, :, -1], W[0])
    sideways, readout = np.einsum("d,bdk->kb", across, paths), np.einsum("d,bdk->kb", W[0], paths) + b[0]
    for sign, colour in ((-1.0, FIT), (1.0, DATA)):
        own = data[1][:, 0] == sign
        axes.plot(sideways[:, own], readout[:, own], color=colour, linewidth=0.4, alpha=0.5)
        axes.plot(sideways[-1, own], readout[-1, own], "o", color=colour, markersize=3.5)
    axes.axhline(0.0, color=INK, linewidth=1.2)
    axes.set(xlabel="widest direction across", ylabel="readout", title="Paths, dots at their ends")


def widest_across(states, normal):
    """The unit vector orthogonal to ``normal`` along which the states (batch, n) vary most."""
    unit = normal / np.linalg.norm(normal)
    flat = states - states.mean(axis=0)
    flat = flat - np.outer(flat @ unit, unit)
    return np.linalg.svd(flat, full_matrices=False)[2][0]
