"""The three truths on one equation: the gradient against the tolerance, as a table and as the figure of the documents.

    python validation/three_truths.py

y' = sin(a y) - b y + cos t, y(0) = 1, theta = (3, 1); the gradient is dy(2)/dy(0). Writes docs/three_truths.svg and
validation/results/three_truths.md.
"""
import pathlib
import warnings

import matplotlib
import numpy as np
from numba import njit

import refnode

ROOT = pathlib.Path(__file__).resolve().parents[1]
TOLERANCES = 10.0 ** -np.arange(1.0, 10.01, 0.25)
TABLE = (1e-1, 1e-2, 1e-3, 1e-4, 1e-6, 1e-8, 1e-10)
TRUTHS = {"through": ("through the step control", "#b2182b", "o"), "frozen": ("steps frozen", "#2166ac", "s"),
          "exact": ("of the exact solution", "#1a9850", "^")}


@njit
def rhs(t, y, theta, dy):
    dy[0] = np.sin(theta[0] * y[0]) - theta[1] * y[0] + np.cos(t)


@njit
def rhs_jvp(t, y, theta, t_tan, y_tan, theta_tan, dy_tan):
    slope = np.cos(theta[0] * y[0])
    dy_tan[0] = (slope * (theta[0] * y_tan[0] + y[0] * theta_tan[0]) - theta[1] * y_tan[0] - y[0] * theta_tan[1]
                 - np.sin(t) * t_tan)


@njit
def rhs_vjp(t, y, theta, dy_bar, t_bar, y_bar, theta_bar):
    slope_bar = np.cos(theta[0] * y[0]) * dy_bar[0]
    y_bar[0] += theta[0] * slope_bar - theta[1] * dy_bar[0]
    theta_bar[0] += y[0] * slope_bar
    theta_bar[1] -= y[0] * dy_bar[0]
    t_bar[0] -= np.sin(t) * dy_bar[0]


def problem():
    field = refnode.VectorField(rhs, jvp=rhs_jvp, vjp=rhs_vjp, n=1, p=2)
    return refnode.Problem(field, [1.0], [3.0, 1.0], (0.0, 2.0), loss=refnode.losses.linear([[1.0]]))


def gradients():
    """The reference dy(2)/dy(0), and {truth: one gradient a tolerance}, of one problem: its field is compiled once."""
    at = problem()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", refnode.GradientWarning)
        found = {truth: np.array([refnode.gradient(at, truth=truth, rtol=tol, atol=tol).y0[0]
                                  for tol in TOLERANCES]) for truth in TRUTHS}
    return refnode.gradient(at, "forward", rtol=1e-13, atol=1e-15).y0[0], found


def draw(reference, found, path):
    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "refnode", "font.size": 9})
    from matplotlib import pyplot
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9.0, 3.7), layout="constrained")
    for truth, (label, colour, marker) in TRUTHS.items():
        style = {"color": colour, "marker": marker, "markersize": 3.5, "linewidth": 1.0, "label": label}
        left.plot(TOLERANCES, found[truth], **style)
        right.plot(TOLERANCES, np.abs(found[truth] / reference - 1.0), **style)
    left.axhline(reference, color="black", linewidth=0.8, linestyle="--")
    left.annotate(f"truth {reference:.3g}", (1e-10, reference), xytext=(0, 8), textcoords="offset points", ha="right")
    left.set(xscale="log", xlabel="tolerance", ylabel="gradient dy(2)/dy(0)", title="three derivatives of one solve")
    left.set_yscale("symlog", linthresh=1e-3, linscale=0.8)
    left.set_ylim(-2e2, 2e2)
    right.plot(TOLERANCES, TOLERANCES * 1e2, color="grey", linewidth=0.8, linestyle=":", label="100 tolerance")
    right.set(xscale="log", yscale="log", xlabel="tolerance", title="relative distance from the truth")
    left.invert_xaxis(), right.invert_xaxis()
    right.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


def table(reference, found):
    lines = ["# The gradient against the tolerance, by truth", "",
             f"`python validation/three_truths.py`: dopri5, rtol = atol, the truth is {reference:.6e}.", "",
             "| tolerance | through | frozen | exact |", "|---|---|---|---|"]
    for tol in TABLE:
        k = int(np.argmin(np.abs(np.log10(TOLERANCES / tol))))
        lines.append("| " + " | ".join([f"{tol:.0e}"] + [f"{found[truth][k]:.6g}" for truth in TRUTHS]) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    numbers = gradients()
    draw(*numbers, ROOT / "docs" / "three_truths.svg")
    text = table(*numbers)
    (ROOT / "validation" / "results" / "three_truths.md").write_text(text, encoding="utf-8")
    print(text)
