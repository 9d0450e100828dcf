"""The demonstration: a neural ODE learns a nonlinear spiral from noisy observations at irregular times.

The truth is dy/dt = A (y + y³/4), A = [[-a, b], [-b, -a]], the cube taken entry by entry: the cubic spiral
of Chen et al., dy/dt = A y³, with a linear part, without which it hardly turns any more near the centre.

The fit has two stages. First theta is fitted to mini-batches of short pieces, each beginning at a noisy
observation, which is robust but biased by the noise of the beginnings. Then theta and the initial
value are fitted to the whole trajectory.

References
----------
Chen, Rubanova, Bettencourt & Duvenaud, Neural ordinary differential equations, NeurIPS 2018.
"""
import dataclasses
import functools
import json
import pathlib

import numpy as np

from refnode.demos.gradient_evidence import GradientEvidence, gradient_evidence, smooth_loss_options
from refnode.demos.numbers import rms
from refnode.demos.pictures import DATA, FIT, GREY, INK, STREAM, picture
from refnode.errors import InvalidInputError
from refnode.fields.field import VectorField
from refnode.host_device import host_device
from refnode.models.neural_ode import NeuralODE, Segments, compiled_beside, random_segments, whole
from refnode.problems.problem import Problem
from refnode.sensitivity.gradient import gradient
from refnode.sensitivity.recipes import recipe_named
from refnode.solve.initial_value import solve

RATES = np.array([0.03, 0.5])            # a, b: decay and rotation, [1/time]
START, UNSEEN_START = (2.0, 0.0), (0.0, 1.6)
T_END, T_BEYOND = 20.0, 26.0             # end of the observations; end of the continuation beyond them
OBSERVATIONS, NOISE = 200, 0.1           # noise: standard deviation in each component, [state]

WIDTHS = (2, 32, 2)
LENGTH, BATCH = 12, 12                   # observations in a piece, pieces in a mini-batch
FIT_RATES, REFINE_RATES = (0.02, 0.001), (0.005, 0.0005)        # first and last step of Adam, by stage

# Iterations unless given, by the recipe's equation: what takes some seconds.
ITERATIONS = {"transpose": 3000, "continuous": 1200, "tangent": 300, "variational": 300}


# --- data -----------------------------------------------------------------------------------------

@host_device
def spiral_rate(t, y, theta, tape, dy):
    """dy = A (y + y³/4) with A = [[-a, b], [-b, -a]], theta = (a, b)."""
    z1, z2 = y[0] + 0.25 * y[0] ** 3, y[1] + 0.25 * y[1] ** 3
    dy[0] = -theta[0] * z1 + theta[1] * z2
    dy[1] = -theta[1] * z1 - theta[0] * z2


TRUTH = VectorField(spiral_rate, name="cubic spiral", n=2, p=2)


def true_spiral(y0, ts):
    """The noise-free trajectory from y0 at time 0, shape (2, K), to ten digits."""
    problem = Problem(TRUTH, y0, RATES, (0.0, ts[-1]), ts=ts)
    return solve(problem, rtol=1e-11, atol=1e-12).y


def noisy_spiral(seed, count=OBSERVATIONS, noise=NOISE):
    """Observation times (K,), the first 0, the others uniform in [0, T_END]; and what is observed (2, K)."""
    rng = np.random.default_rng([seed, 1])
    ts = np.concatenate([[0.0], np.sort(rng.uniform(0.0, T_END, count - 1))])
    return ts, true_spiral(START, ts) + noise * rng.standard_normal((2, count))


# --- the demonstration ----------------------------------------------------------------------------

@dataclasses.dataclass
class SpiralResult:
    """What the demonstration found. All errors are root mean squares over both components, [state].

    Attributes
    ----------
    recipe : str
    seed, iterations : int
    rms_fit : float
        Learnt against noise-free trajectory on the observed interval, the learnt from its learnt start.
    rms_unseen : float
        The same from a start between the turns of the spiral that was in no data; both start there.
    rms_beyond : float
        The first trajectory continued beyond the last observation: extrapolation.
    rms_data : float
        Learnt trajectory against the noisy observations; at best about ``noise``.
    noise : float
        Standard deviation of the noise.
    y0 : ndarray, shape (2,)
        The learnt start.
    seconds : float
        Time of the fit.
    evidence : GradientEvidence
        The gradient of the loss on the whole trajectory, in theta and in the start, at the end.
    files : list of pathlib.Path
        What was written.
    model : NeuralODE
    ts, ys : ndarray, shapes (K,), (2, K)
        The data.
    """

    recipe: str
    seed: int
    iterations: int
    rms_fit: float
    rms_unseen: float
    rms_beyond: float
    rms_data: float
    noise: float
    y0: np.ndarray
    seconds: float
    evidence: GradientEvidence
    files: list
    model: NeuralODE
    ts: np.ndarray
    ys: np.ndarray

    def __str__(self):
        return "\n".join([
            f"spiral, recipe {self.recipe!r}, seed {self.seed}: {self.iterations} iterations in {self.seconds:.1f} s",
            f"  noise of the data, standard deviation            {self.noise:.3f}",
            f"  learnt curve - data, rms                         {self.rms_data:.3f}",
            f"  learnt curve - noise-free truth, rms             {self.rms_fit:.3f}",
            f"  the same from a start that was not in the data   {self.rms_unseen:.3f}",
            f"  the same continued beyond the data               {self.rms_beyond:.3f}",
            str(self.evidence)])

    def to_dict(self):
        """The numbers, for JSON."""
        names = ("recipe", "seed", "iterations", "noise", "rms_data", "rms_fit", "rms_unseen", "rms_beyond", "seconds")
        history = self.model.history
        return {**{name: getattr(self, name) for name in names}, "y0": list(self.y0), "widths": list(WIDTHS),
                "theta": list(self.model.theta), "loss": history.loss, "nfe": history.nfe,
                "nfe_reverse": history.nfe_reverse, "gradient": self.evidence.to_dict()}


def run_demo(output="spiral", recipe="discrete", seed=0, iterations=None, progress=None, method="dopri5", rtol=1e-4,
             atol=1e-6):
    """Fit the spiral, measure the fit against the truth, and write the picture and the numbers.

    Parameters
    ----------
    output : str or path
        Folder for ``spiral.png``, ``spiral.svg`` and ``spiral.json``; made if it is not there.
    recipe : str
        A name in `refnode.sensitivity.recipes.RECIPES`. All give the same gradient up to the tolerance of the
        solve, at different cost: the forward ones push at least 164 tangents in every iteration.
    seed : int
        Of data, initial parameters and mini-batches. The same seed gives the same numbers.
    iterations : int, optional
        Half for each of the two stages; by default as many as take some seconds.
    progress : callable, optional
        Handed lines of text as the fit goes on, for example ``print``.
    method, rtol, atol
        Of the solves in the fit.

    Returns
    -------
    SpiralResult

    Raises
    ------
    InvalidInputError
        If there is no such recipe, or ``iterations`` is below 2.
    """
    iterations = checked_iterations(recipe, iterations)
    with compiled_beside(recipe, progress):
        ts, ys = noisy_spiral(seed)
    model = NeuralODE(WIDTHS, recipe=recipe, seed=seed, method=method, rtol=rtol, atol=atol)
    learnt = fit_in_two_stages(model, ts, ys, iterations, seed, progress)
    result = measured(model, learnt, ts, ys, seed)
    result.files = write(result, pathlib.Path(output))
    if progress is not None:
        progress(str(result))
    return result


def checked_iterations(recipe, iterations):
    """The number of iterations, by default that of the recipe."""
    if iterations is None:
        return ITERATIONS[recipe_named(recipe).equation]
    if int(iterations) != iterations or iterations < 2:
        raise InvalidInputError(f"iterations must be an integer of at least 2, found {iterations!r}")
    return int(iterations)


def fit_in_two_stages(model, ts, ys, iterations, seed, progress=None):
    """Fit to pieces, then to the whole trajectory; returns the latter with its learnt start."""
    tell = progress or (lambda line: None)
    every = max(iterations // 10, 1)
    tell(f"{model!r}; {ts.size} observations with noise {NOISE}")
    tell(f"stage 1: mini-batches of {BATCH} pieces of {LENGTH} observations")
    draw = random_segments(ts, ys, LENGTH, BATCH, [seed, 2])
    model.fit(draw, iterations // 2, FIT_RATES, progress, every)
    tell("stage 2: the whole trajectory, its start learnt too")
    return model.fit_with_starts(whole(ts, ys), iterations - iterations // 2, REFINE_RATES, progress, every)


def measured(model, learnt: Segments, ts, ys, seed):
    """The errors of a fitted model, on fine grids of its own."""
    inside, beyond = np.linspace(0.0, T_END, 801), np.linspace(T_END, T_BEYOND, 241)
    y0 = learnt.y0[0]
    to_end = model.solve(y0, np.concatenate([inside, beyond]), rtol=1e-8, atol=1e-9)
    truth = true_spiral(START, np.concatenate([inside, beyond]))
    unseen = model.solve(UNSEEN_START, inside, rtol=1e-8, atol=1e-9) - true_spiral(UNSEEN_START, inside)
    error = to_end - truth
    return SpiralResult(
        recipe=model.recipe, seed=seed, iterations=len(model.history.loss), noise=NOISE,
        rms_fit=rms(error[:, :inside.size]), rms_unseen=rms(unseen), rms_beyond=rms(error[:, inside.size:]),
        rms_data=rms(model.solve(y0, ts) - ys), y0=y0, seconds=model.history.seconds[-1],
        evidence=evidence_of(model, learnt, seed), files=[],
        model=model, ts=ts, ys=ys)


def evidence_of(model, learnt: Segments, seed):
    """The gradient in theta and the start against differences of the loss, both on steps under which that is smooth."""
    options, p = {**model.options, **smooth_loss_options(model.recipe)}, model.theta.size

    def problem(x):
        return model.problem(learnt.starting_at(x[p:]), x[:p])

    def loss(x):
        solution = solve(problem(x), **options)
        return problem(x).loss.value(solution.y, solution.y1)

    x = np.concatenate([model.theta, learnt.y0.ravel()])
    found = gradient(problem(x), model.recipe, **options)
    return gradient_evidence(loss, x, np.concatenate([found.theta, found.y0]), seed)


def write(result, folder):
    """Write the picture twice and the numbers; the files written."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"spiral.{kind}" for kind in ("png", "svg", "json")]
    write_picture(result, files[:2])
    files[2].write_text(json.dumps(result.to_dict(), indent=1) + "\n", encoding="utf-8")
    return files


# --- the picture ----------------------------------------------------------------------------------

PLANE, LOSSES = (0.055, 0.17, 0.385, 0.74), (0.54, 0.17, 0.43, 0.74)      # left, bottom, width, height
SIZE = 2.55                                                                 # half the side of the plane


def write_picture(result, files):
    """Left the plane with data, truth, fit and learnt field; right the loss. Into each of the files."""
    with picture((12.5, 6.5), files) as figure:
        draw_plane(figure.add_axes(PLANE), result)
        draw_losses(figure.add_axes(LOSSES), result)


def draw_plane(axes, result):
    """Data, true and learnt curves, and streamlines of the learnt field."""
    draw_field(axes, result.model)
    ts = np.linspace(0.0, T_END, 801)
    axes.plot(*result.ys, "o", color=DATA, markersize=5, markeredgecolor="white", markeredgewidth=0.6,
              label=f"{result.ts.size} noisy observations")
    learnt = result.model.solve(result.y0, ts, rtol=1e-8)
    axes.plot(*learnt, color=FIT, linewidth=2.8, label="learnt curve")
    axes.plot(*learnt[:, 0], "o", color=FIT, markersize=8, markeredgecolor="white")
    axes.plot(*true_spiral(START, ts), color=INK, linewidth=1.2, dashes=(4, 2), label="true curve")
    axes.set(xlim=(-SIZE, SIZE), ylim=(-SIZE, SIZE), aspect="equal", xlabel="$y_1$", ylabel="$y_2$",
             title="Data, learnt curve and learnt vector field")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3, columnspacing=1.6)


def draw_field(axes, model, count=41):
    """Streamlines of the learnt field."""
    grid = np.linspace(-SIZE, SIZE, count)
    points = np.stack(np.meshgrid(grid, grid), axis=-1)
    slopes = model.field(count * count)(0.0, points.ravel(), model.theta).reshape(points.shape)
    axes.streamplot(grid, grid, slopes[..., 0], slopes[..., 1], color=STREAM, linewidth=0.8, density=1.3,
                    arrowsize=0.9, zorder=0)


def draw_losses(axes, result):
    """The loss of every iteration, its running mean in each stage, and what the noise alone leaves of it."""
    loss = np.array(result.model.history.loss)
    half, steps = loss.size // 2, np.arange(1, loss.size + 1)
    axes.plot(steps, loss, color=FIT, alpha=0.3, linewidth=0.7, label="each iteration")
    for stage in (slice(half), slice(half, None)):
        axes.plot(steps[stage], running_mean(loss[stage]), color=FIT, linewidth=2.2,
                  label="running mean" if stage.stop else None)
    axes.axhline(result.noise ** 2, color=DATA, linewidth=2.0, dashes=(4, 2), label="variance of the noise")
    axes.axvline(half + 0.5, color=GREY, linewidth=0.8)
    note = functools.partial(axes.text, transform=axes.transAxes, ha="center", va="top", linespacing=1.5)
    note(0.25, 0.98, f"stage 1: random pieces\nof {LENGTH} observations", color=GREY)
    note(0.75, 0.98, "stage 2: the whole curve,\nits start learnt too", color=GREY)
    note(0.77, 0.66, f"rms error against\nthe true curve {result.rms_fit:.3f},\nnoise of the data {result.noise:.3f}")
    axes.set(yscale="log", xlim=(0, loss.size), xlabel="iteration", ylabel="mean squared error",
             title=f"Training loss, gradients by “{result.recipe}”")
    axes.set_ylim(top=axes.get_ylim()[1] * 4.0)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3, columnspacing=1.6)


def running_mean(values, width=51):
    """Geometric mean over a window that shrinks at the ends."""
    width = min(width, values.size)
    counts = np.convolve(np.ones(values.size), np.ones(width), mode="same")
    return np.exp(np.convolve(np.log(values), np.ones(width), mode="same") / counts)
