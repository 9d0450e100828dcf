"""The demonstration of regularised dynamics: the same map, learnt to the same error, at fewer evaluations of the field.

The map is x -> x + x^3 on [-1.2, 1.2] (the example of Kelly et al.). Flows that depend on t can reach it in many ways, straight
or wildly bent, and an adaptive solver pays for the bends. Six flows begin with the same, large, random weights. One is fitted to the
data alone, the others pay for something beside:

    kinetic     integral of |f|^2                               Finlay et al. 2020
    jacobian    integral of |(df/dy) e|^2, e new every time      Finlay et al. 2020
    taylor2     integral of |d2y/dt2|^2                         Kelly et al. 2020
    taylor3     integral of |d3y/dt3|^2                         Kelly et al. 2020
    steer       nothing, but the end time is random              Ghosh et al. 2020

Each fit stops as soon as its mean squared error, at t = 1 and without the costs, is at most `TARGET`. Then evaluations of the plain field are
counted, by a solver that knows of no costs, at three tolerances.

References
----------
Finlay, Jacobsen, Nurbekyan & Oberman, How to train your neural ODE: the world of Jacobian and kinetic regularization, 2020.
Kelly, Bettencourt, Johnson & Duvenaud, Learning differential equations that are easy to solve, 2020.
Ghosh, Behl, Dupont, Torr & Namboodiri, STEER: simple temporal regularization for neural ODEs, 2020.
"""
import dataclasses
import json
import pathlib

import numpy as np

from refnode.demos.gradient_evidence import GradientEvidence, gradient_evidence, smooth_loss_options
from refnode.demos.pictures import COLOURS, GREY, INK, picture
from refnode.errors import InvalidInputError
from refnode.models.augmented_ode import AugmentedODE
from refnode.models.neural_ode import compiled_beside
from refnode.models.training import fit
from refnode.optimisers import Adam

HIDDEN, SAMPLES, RANGE = (24, 24), 40, 1.2
GAIN = 3.0                             # of the initial weights: a flow with many bends to lose
TARGET = 2e-3                          # mean squared error at which all fits stop
RATE, REPEATS, EPOCHS = 0.01, 5, 240   # of Adam; iterations an epoch; epochs at most
STEER_WIDTH = 0.75                     # the end time is uniform in 1 - width .. 1 + width
WEIGHTS = {"none": 0.0, "kinetic": 0.02, "jacobian": 0.01, "taylor2": 0.005, "taylor3": 2e-4, "steer": 0.0}
TITLES = {"none": "data alone", "kinetic": "kinetic energy", "jacobian": "Jacobian norm", "taylor2": "Taylor, order 2",
          "taylor3": "Taylor, order 3", "steer": "random end time"}
MEASURED = ("kinetic", "taylor2", "taylor3")
RTOLS = (1e-3, 1e-5, 1e-7)


def data():
    """x and x + x^3, (samples, 1)."""
    x = np.linspace(-RANGE, RANGE, SAMPLES)[:, None]
    return x, x + x ** 3


# --- the demonstration ----------------------------------------------------------------------------

@dataclasses.dataclass
class Row:
    """One of the flows.

    Attributes
    ----------
    name : str
        In `WEIGHTS`.
    iterations : int
    reason : str
        Why the fit ended.
    error : float
        Mean squared error at t = 1.
    nfe : list of int
        Evaluations of the plain field at the tolerances `RTOLS`.
    costs : dict of float
        The integrals named in `MEASURED`, means over the samples.
    evidence : GradientEvidence
        Of the loss with its cost.
    model : AugmentedODE
    history : History
    """

    name: str
    iterations: int
    reason: str
    error: float
    nfe: list
    costs: dict
    evidence: GradientEvidence
    model: AugmentedODE
    history: object

    def __str__(self):
        costs = "".join(f"{self.costs[name]:10.3g}" for name in MEASURED)
        nfe = "".join(f"{count:8d}" for count in self.nfe)
        return f"  {TITLES[self.name]:<16}{self.iterations:6d}{self.error:10.2e}{nfe}{costs}   {self.evidence.error:.0e}"

    def to_dict(self):
        """The numbers, for JSON."""
        return {"name": self.name, "weight": WEIGHTS[self.name], "iterations": self.iterations, "reason": self.reason,
                "error": self.error, "nfe": dict(zip(map(str, RTOLS), self.nfe)), "costs": self.costs,
                "gradient": self.evidence.to_dict(), "loss": self.history.loss, "training_nfe": self.history.nfe}


@dataclasses.dataclass
class RegularisedResult:
    """What the demonstration found: a `Row` for each flow, and the files written."""

    recipe: str
    seed: int
    rows: list
    files: list = dataclasses.field(default_factory=list)

    @property
    def evidence(self):
        """The worst of the checks of the gradients."""
        order = {"PASS": 0, "INCONCLUSIVE": 1, "FAIL": 2}
        return max((row.evidence for row in self.rows), key=lambda evidence: (order[evidence.verdict], evidence.error))

    def __str__(self):
        head = (f"regularised, recipe {self.recipe!r}, seed {self.seed}: all stop at a mean squared error of {TARGET:g}\n"
                f"  {'':<16}{'':6}{'':10}{'NFE at rtol':>24}{'integrals of squares of':>30}   gradient\n"
                f"  {'':<16}{'iter':>6}{'error':>10}" + "".join(f"{rtol:8.0e}" for rtol in RTOLS)
                + f"{'f':>10}{'d2y/dt2':>10}{'d3y/dt3':>10}   off by")
        return "\n".join([head, *map(str, self.rows), f"the worst of the six: {self.evidence}"])

    def to_dict(self):
        """The numbers, for JSON."""
        return {"recipe": self.recipe, "seed": self.seed, "target": TARGET, "rows": [row.to_dict() for row in self.rows]}


def run_demo(output="regularised", recipe="discrete", seed=0, progress=None, epochs=None, method="dopri5", rtol=1e-5,
             atol=1e-7):
    """Fit the six flows, count evaluations, write a picture and the numbers.

    Parameters
    ----------
    output : str or path
        Folder for ``regularised.png`` and ``regularised.json``; made if it is not there.
    recipe : str
        A name in `refnode.sensitivity.recipes.RECIPES`.
    seed : int
        Of initial parameters, noise vectors and end times.
    progress : callable, optional
        Handed lines of text.
    epochs : int, optional
        At most, of five iterations each.
    method, rtol, atol
        Of the solves while training; ``method`` also of those that are counted.

    Returns
    -------
    RegularisedResult

    Raises
    ------
    InvalidInputError
        If an argument is wrong.
    """
    epochs = EPOCHS if epochs is None else epochs
    if int(epochs) != epochs or epochs < 1:
        raise InvalidInputError(f"epochs must be a positive integer, found {epochs!r}")
    options = {"method": method, "rtol": rtol, "atol": atol}
    tell, rows = progress or (lambda line: None), []
    with compiled_beside(recipe, progress):
        flow("none", recipe, seed, options).predict(data()[0])
    for name in WEIGHTS:
        tell(f"{TITLES[name]}, weight {WEIGHTS[name]:g}")
        rows.append(fitted(name, flow(name, recipe, seed, options), seed, epochs, progress))
    result = RegularisedResult(recipe, seed, rows)
    result.files = write(result, pathlib.Path(output))
    tell(str(result))
    return result


def flow(name, recipe, seed, options):
    """The model of one row, with its large initial weights."""
    model = AugmentedODE(1, 0, HIDDEN, cost=name if WEIGHTS[name] else None, weight=WEIGHTS[name], time_input=True,
                         recipe=recipe, seed=seed, **options)
    model.theta = GAIN * model.theta
    return model


def batches_of(name):
    """``batches(rng)``: all data, five times, each with a noise vector or an end time of its own where the row has one."""
    def batches(rng):
        for _ in range(REPEATS):
            t1 = 1.0 + (rng.uniform(-STEER_WIDTH, STEER_WIDTH) if name == "steer" else 0.0)
            noise = rng.choice([-1.0, 1.0], SAMPLES) if name == "jacobian" else None
            yield (*data(), t1, noise)

    return batches


def fitted(name, model, seed, epochs, progress):
    """The row of a model, after its fit."""
    x, targets = data()

    def error(theta):
        model.theta = theta
        return float(np.mean((model.predict(x)[0] - targets) ** 2))

    found = fit(model.theta, model.loss_and_gradient, batches_of(name), Adam(RATE), epochs=epochs, validate=error, target=TARGET,
                seed=seed, progress=progress, every=100)
    model.theta = found.theta
    options, batch = smooth_loss_options(model.recipe), next(batches_of(name)(np.random.default_rng(seed)))
    evidence = gradient_evidence(lambda theta: model.loss(theta, batch, **options), model.theta,
                                 model.loss_and_gradient(model.theta, batch, **options)[1], seed)
    nfe = [model.predict(x, rtol=rtol, atol=1e-2 * rtol)[1] for rtol in RTOLS]
    costs = {cost: cost_of(model, cost) for cost in MEASURED}
    return Row(name, found.iterations, found.reason, error(model.theta), nfe, costs, evidence, model, found.history)


def cost_of(model, cost):
    """The integral of a cost along the paths of the data, at a tight tolerance."""
    carrier = AugmentedODE(1, 0, HIDDEN, cost=cost, weight=1.0, time_input=True)
    carrier.theta = model.theta
    x, targets = data()
    everything = carrier.loss(model.theta, (x, targets), rtol=1e-8, atol=1e-10)
    carrier.weight = 0.0
    return everything - carrier.loss(model.theta, (x, targets), rtol=1e-8, atol=1e-10)


def write(result, folder):
    """Write the picture and the numbers; the files written."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / name for name in ("regularised.png", "regularised.json")]
    with picture((14.0, 7.4), files[:1]) as figure:
        draw(figure, result)
    files[1].write_text(json.dumps(result.to_dict(), indent=1) + "\n", encoding="utf-8")
    return files


# --- the picture ----------------------------------------------------------------------------------

def draw(figure, result):
    """The paths of every flow, and on the right its evaluations against the tolerance."""
    grid = figure.add_gridspec(2, 5, width_ratios=(1, 1, 1, 0.06, 1.5), wspace=0.25, hspace=0.34, left=0.05, right=0.98, top=0.93,
                               bottom=0.115)
    for k, (row, colour) in enumerate(zip(result.rows, COLOURS)):
        draw_paths(figure.add_subplot(grid[k // 3, k % 3]), row, colour, labels=(k % 3 == 0, k >= 3))
    figure.text(0.05, 0.018, f"NFE: evaluations of the field at a relative tolerance of {RTOLS[-1]:g}; bars: where the paths are to end",
                color=GREY)
    axes = figure.add_subplot(grid[:, 4])
    for row, colour in zip(result.rows, COLOURS):
        axes.plot(RTOLS, row.nfe, "o-", color=colour, linewidth=2.0, label=TITLES[row.name])
    axes.set(xscale="log", yscale="log", xlabel="relative tolerance", ylabel="evaluations of the field",
             title=f"Work at equal error ({TARGET:g})")
    axes.invert_xaxis()
    ticks = [20, 30, 50, 100, 200]
    axes.set_yticks(ticks, labels=map(str, ticks))
    axes.minorticks_off()
    axes.legend(loc="upper left")


def draw_paths(axes, row, colour, labels):
    """The paths from x at t = 0 to what is learnt of x + x^3 at t = 1."""
    ts = np.linspace(0.0, 1.0, 201)
    x, targets = data()
    paths = row.model.paths(x[::3], ts, rtol=1e-7, atol=1e-9)[0][:, 0]
    axes.plot(ts, paths.T, color=colour, linewidth=1.0)
    axes.plot(np.ones(targets[::3].size), targets[::3], "_", color=INK, markersize=9, clip_on=False)
    axes.set(xlim=(0.0, 1.0), ylim=(-3.1, 3.1), title=f"{TITLES[row.name]}: NFE {row.nfe[-1]}",
             xlabel="$t$" if labels[1] else "", ylabel="$y$" if labels[0] else "")
    axes.tick_params(colors=GREY)
