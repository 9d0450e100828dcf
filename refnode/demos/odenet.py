"""The demonstration: ODE-Net against its twins, the columns of Table 1 of Chen et al. (2018), and their Figure 3.

A multilayer perceptron, a residual network, Euler's method, RK-Net and ODE-Net learn the same digits from the same
beginnings. What the paper reported for MNIST stands beside what is measured here for other, smaller images; reported
numbers are quoted, not reproduced.

References
----------
Chen, Rubanova, Bettencourt & Duvenaud, Neural ordinary differential equations, NeurIPS 2018.
"""
import dataclasses
import json
import pathlib
import time
import warnings

import numpy as np

from refnode.demos.gradient_evidence import gradient_evidence
from refnode.demos.image_files import images_in, shipped_digits
from refnode.demos.odenet_pictures import write_pictures
from refnode.errors import GradientWarning, InvalidInputError
from refnode.models.history import reverse_evaluations
from refnode.models.ode_net import ClassLoss, OdeNet
from refnode.sensitivity.gradient import gradient
from refnode.sensitivity.recipes import recipe_named
from refnode.solve.initial_value import solve
from refnode.solve.options import SolveOptions

TRAIN, TEST = 1397, 400                     # of the 1797 digits that come with refnode
EPOCHS, EPOCHS_OF_FILES, BATCH = 12, 1, 32
RATES, L2 = (0.02, 0.0005), 1e-3             # of Adam, first and last; weight of 1/2 |theta|^2
WIDTH, WIDTH_DENSE = 8, 32                  # channels of convolutional states; numbers of dense ones
ERROR_BATCH = 100                           # test images on which solves are compared
TOLERANCES = 10.0 ** -np.arange(1, 8)
REFERENCE = {"rtol": 1e-10, "atol": 1e-10}

ROWS = {                                    # label: (twin, block)
    "MLP": ("mlp", "dense"), "ResNet": ("resnet", "convolutional"), "ResNet, one θ": ("euler", "convolutional"),
    "RK-Net": ("rk", "convolutional"), "ODE-Net": ("ode", "convolutional"), "ODE-Net, dense": ("ode", "dense")}
REPORTED = {                                # by the paper, of MNIST: test error, parameters, memory
    "MLP": ("1.60 %", "0.24 M", "-"), "ResNet": ("0.41 %", "0.60 M", "O(L)"), "RK-Net": ("0.47 %", "0.22 M", "O(L~)"),
    "ODE-Net": ("0.42 %", "0.22 M", "O(1)")}


# --- what is found ----------------------------------------------------------------------------------

@dataclasses.dataclass
class Row:
    """One row of the table: what was measured of a trained twin.

    Attributes
    ----------
    error : float
        Fraction of the test images classified wrongly after the last epoch.
    parameters : int
    bytes_held : int
        By the block for the reverse sweep of one mini-batch, counted from its arrays, at the end of training.
    seconds : float
        Of training, processor time.
    nfe, nfe_reverse : list of float
        Evaluations a gradient, mean of each epoch.
    errors : list of float
        ``error`` after every epoch.
    loss : list of float
        Mean of each epoch.
    unreliable : int
        Gradients of which the recipe warned.
    """

    label: str
    recipe: str
    error: float
    parameters: int
    bytes_held: int
    seconds: float
    nfe: list
    nfe_reverse: list
    errors: list
    loss: list
    unreliable: int


@dataclasses.dataclass
class Tolerances:
    """What the tolerance does to a trained ODE-Net, one entry a tolerance. Errors are relative to the largest entry."""

    tolerance: np.ndarray
    error: list = dataclasses.field(default_factory=list)              # of y(T)
    gradient_error: list = dataclasses.field(default_factory=list)     # of the block's gradient by the recipe
    nfe: list = dataclasses.field(default_factory=list)
    nfe_reverse: list = dataclasses.field(default_factory=list)
    seconds: list = dataclasses.field(default_factory=list)            # processor time of the forward solve


@dataclasses.dataclass
class OdeNetResult:
    """The table, the figure's numbers, and the evidence for the gradients of RK-Net and ODE-Net."""

    data: str
    seed: int
    epochs: int
    rows: list
    figure: Tolerances
    evidence: dict
    files: list = dataclasses.field(default_factory=list)

    def __str__(self):
        head = (f"{self.data}; {self.epochs} epochs, seed {self.seed}\n"
                f"{'':16}{'recipe':14}{'error':>8}{'parameters':>12}{'memory held':>14}{'NFE':>10}{'time':>9}    reported, MNIST")
        lines = [head]
        for row in self.rows:
            nfe = f"{row.nfe[-1]:.0f}+{row.nfe_reverse[-1]:.0f}" if row.nfe[-1] else "-"
            reported = "  ".join(REPORTED.get(row.label, ("-",)))
            lines.append(f"{row.label:16}{row.recipe if row.nfe[-1] else '-':14}{100 * row.error:6.2f} %{row.parameters:12d}"
                         f"{row.bytes_held / 1e3:11.1f} kB{nfe:>10}{row.seconds:7.1f} s    {reported}")
            if row.unreliable:
                lines.append(f"{'':16}{row.unreliable} of its gradients came with a GradientWarning")
        lines.append(f"NFE of the forward solve grows as tolerance^{self.slope():.2f} (order 5: -0.20)")
        lines += [f"{label}: {found}" for label, found in self.evidence.items()]
        return "\n".join(lines)

    def slope(self):
        """d log NFE / d log tolerance, over the smaller half of the tolerances."""
        half = slice(-max((len(self.figure.nfe) + 1) // 2, 2), None)
        return float(np.polyfit(np.log(self.figure.tolerance[half]), np.log(self.figure.nfe[half]), 1)[0])

    def to_dict(self):
        """The numbers, for JSON."""
        figure = {name: np.asarray(values).tolist() for name, values in vars(self.figure).items()}
        return {"data": self.data, "seed": self.seed, "epochs": self.epochs, "rows": [vars(row) for row in self.rows],
                "figure": figure, "evidence": {label: found.to_dict() for label, found in self.evidence.items()},
                "reported": REPORTED}


# --- the demonstration ------------------------------------------------------------------------------

def run_demo(output="odenet", recipe="discrete", seed=0, epochs=None, method="dopri5", rtol=1e-3, atol=1e-3, data=None,
             progress=None):
    """Train the twins, print the table, measure what tolerances do, and write pictures and numbers.

    Parameters
    ----------
    output : str or path
        Folder for ``odenet.png``, ``odenet_training.png`` and ``odenet.json``.
    recipe : str
        Of RK-Net if it gives the derivative of the steps taken; else of ODE-Net, which by default is trained by "backsolve",
        and RK-Net by "discrete".
    seed : int
        Of the division into training and test images, of parameters and mini-batches.
    epochs : int, optional
        12, or 1 for images from files.
    method, rtol, atol
        Of the solves of RK-Net and ODE-Net in training.
    data : str or path, optional
        Folder with MNIST's IDX files or the UCI digits; by default the digits that come with refnode.
    progress : callable, optional

    Returns
    -------
    OdeNetResult

    Raises
    ------
    InvalidInputError
        If there is no such recipe, an option is wrong, or a file is not what it should be.
    """
    tell = progress or (lambda line: None)
    images = images_of(data, seed)
    epochs = checked_epochs(epochs, data)
    tell(str(images))
    models, rows = twins_of(images, recipes_of(recipe), seed, {"method": method, "rtol": rtol, "atol": atol}), []
    for label, model in models.items():
        rows.append(trained(label, model, images, epochs, seed))
        tell(f"{label}: test error {100 * rows[-1].error:.2f} % after {epochs} epochs, {rows[-1].seconds:.1f} s")
    figure = over_tolerances(models["ODE-Net"], images)
    evidence = {label: evidence_of(models[label], images, seed) for label in ("RK-Net", "ODE-Net")}
    result = OdeNetResult(str(images), seed, epochs, rows, figure, evidence)
    result.files = write(result, images, pathlib.Path(output))
    tell(str(result))
    return result


def images_of(data, seed):
    """What is in the folder, or the digits that come with refnode."""
    return shipped_digits(TRAIN, TEST, [seed, 5]) if data is None else images_in(data)


def checked_epochs(epochs, data):
    """The number of epochs, by default that of the data."""
    if epochs is None:
        return EPOCHS if data is None else EPOCHS_OF_FILES
    if int(epochs) != epochs or epochs < 1:
        raise InvalidInputError(f"epochs must be a positive integer, found {epochs!r}")
    return int(epochs)


def recipes_of(recipe):
    """{twin: recipe}: the one asked for goes to the twin whose kind of derivative it gives."""
    own = {"rk": "discrete", "ode": "backsolve"}
    own["ode" if recipe_named(recipe).truth == "exact" else "rk"] = recipe
    return own


def twins_of(images, recipes, seed, options):
    """{label: model}, all untrained; what is wrong with recipes or options is found here."""
    SolveOptions.of(**options)
    models = {}
    for label, (twin, block) in ROWS.items():
        own = options if twin in ("rk", "ode") else {}
        models[label] = OdeNet(images.x.shape[1:], 10, twin, block, WIDTH_DENSE if block == "dense" else WIDTH,
                               recipe=recipes.get(twin), seed=seed, **own)
    return models


def trained(label, model, images, epochs, seed):
    """Train one twin; its `Row`."""
    begin = time.process_time()
    watched = 0.0

    def test_error(model):
        nonlocal watched
        start = time.process_time()
        error = model.error(images.test_x, images.test_labels)
        watched += time.process_time() - start
        return error
    found, unreliable = model.fit(images.x, images.labels, epochs, BATCH, RATES, seed, test_error, l2=L2)
    seconds, history = time.process_time() - begin - watched, found.history
    by_epoch = lambda values: [float(np.mean(part)) for part in np.array_split(values, epochs)]
    last = model.gradient(images.x[:BATCH], images.labels[:BATCH])
    return Row(label, model.recipe, history.validation[-1], model.theta.size, last.bytes_held, seconds, by_epoch(history.nfe),
               by_epoch(history.nfe_reverse), list(history.validation), by_epoch(history.loss), unreliable)


# --- Figure 3 ---------------------------------------------------------------------------------------

def over_tolerances(model, images):
    """Errors, evaluations and times of the trained block on test images, at tolerance after tolerance."""
    x, labels = images.test_x[:ERROR_BATCH], images.test_labels[:ERROR_BATCH]
    parts = model.layout.unpack(model.theta)
    loss = ClassLoss(parts["head.W"], parts["head.b"], labels)
    problem, found = model.problem(model.stem(x, parts), parts, loss), Tolerances(TOLERANCES)
    method = {"method": model.options.get("method", "dopri5")}
    exact = gradient(problem, "discrete", **method, **REFERENCE)
    y1 = exact.solution.y1
    for tolerance in TOLERANCES:
        options = {**method, "rtol": float(tolerance), "atol": float(tolerance)}
        seconds, solution = min((timed(problem, options) for _ in range(3)), key=lambda pair: pair[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GradientWarning)                # how wrong it is, is what is measured
            pulled = gradient(problem, model.recipe, **options)
        found.error.append(float(np.max(np.abs(solution.y1 - y1)) / np.max(np.abs(y1))))
        found.gradient_error.append(float(np.max(np.abs(pulled.theta - exact.theta)) / np.max(np.abs(exact.theta))))
        found.nfe.append(pulled.stats["nfev"])
        found.nfe_reverse.append(reverse_evaluations(pulled.stats))
        found.seconds.append(seconds)
    return found


def timed(problem, options):
    """Processor time of a forward solve, [s], and its solution."""
    begin = time.process_time()
    solution = solve(problem, **options)
    return time.process_time() - begin, solution


# --- the evidence -----------------------------------------------------------------------------------

def evidence_of(model, images, seed, batch=16):
    """The whole model's gradient at the trained parameters against differences of losses.

    Of the steps' transpose the steps are frozen, eight of the method's; of a continuous adjoint both solves are tight.
    """
    x, labels = images.test_x[:batch], images.test_labels[:batch]
    frozen = recipe_named(model.recipe).truth != "exact"
    options = {"n_steps": 8} if frozen else {"rtol": 1e-9, "atol": 1e-9}
    kept, model.options = model.options, {"method": model.options.get("method", "dopri5"), **options}
    try:
        found = model.gradient(x, labels)
        return gradient_evidence(lambda theta: model.loss(x, labels, theta), model.theta, found.theta, seed)
    finally:
        model.options = kept


def write(result, images, folder):
    """Write the pictures and the numbers; the files written."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / name for name in ("odenet.png", "odenet_training.png", "odenet.json")]
    write_pictures(result, images, *files[:2])
    files[2].write_text(json.dumps(result.to_dict(), indent=1) + "\n", encoding="utf-8")
    return files
