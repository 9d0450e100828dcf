"""When a gradient cannot be trusted: a state solved backwards that drifted, and a horizon too long to predict."""
import warnings

import numpy as np

from refnode.errors import GradientWarning
from refnode.host_device import host_device

DRIFT_WARNING = 100.0      # difference of a reconstructed y from the known one, in units of its tolerance,
DRIFT_OF_SIZE = 0.05       # or of its size, where that is less
HORIZON_WARNING = 100.0    # relative effect on the outputs of relative errors of y0 of the size of rtol
EPS, EPS_SINGLE = np.finfo(np.float64).eps, np.finfo(np.float32).eps


# --- y solved backwards ---------------------------------------------------------------------------

def drift_stats(reconstruction, steps):
    """``y_drift``, ``y_drift_relative`` and ``drift_growth``, the least growth of errors that explains the drift.

    Each of ``steps`` steps, forward and backward, may err by one unit of tolerance. Implements (ADJ-10).
    """
    drift = reconstruction.drift
    return {"y_drift": drift, "y_drift_relative": reconstruction.relative,
            "drift_growth": max(1.0, drift / max(steps, 1))}


def warn_of_drift(reconstruction, stats, rtol):
    """Warn if y was reconstructed so badly that lambda was solved along another solution."""
    if not stats["y_drift"] <= min(DRIFT_WARNING, DRIFT_OF_SIZE / rtol):
        warnings.warn(
            f"backsolve reconstructed y with an error of {stats['y_drift']:.3g} times its tolerance "
            f"({stats['y_drift_relative']:.3g} of its size) at t={reconstruction.t:.6g}: backwards, errors of y grow "
            f"by a factor of {stats['drift_growth']:.3g} or more, and the gradient is unreliable; use 'discrete' or "
            "'interpolating', or more checkpoints", GradientWarning, stacklevel=5)


# --- horizons -------------------------------------------------------------------------------------

@host_device
def sensitivity_growth(y0, ys, y1, ys_bar, y1_bar, y0_bar):
    """max_m |lam_m(t0)| Y_m over max_km |y_bar_km| Y_m, with Y_m the largest |y_m| at t0, t1 and observations.

    The relative effect of a relative change of y0 on what the cotangents weigh. Implements (ADJ-11).
    """
    felt, seen = 0.0, 0.0
    for m in range(y0.shape[0]):
        size, weight = max(abs(y0[m]), abs(y1[m])), abs(y1_bar[m])
        for k in range(ys.shape[0]):
            size, weight = max(size, abs(ys[k, m])), max(weight, abs(ys_bar[k, m]))
        felt, seen = max(felt, abs(y0_bar[m]) * size), max(seen, weight * size)
    return felt / seen if seen > 0.0 else 0.0


def warn_of_horizon(growth, rtol, stacklevel=6):
    """Warn if errors of the size of the tolerance grow until nothing of the outputs is right."""
    if not growth * rtol <= HORIZON_WARNING:
        warnings.warn(
            f"a relative error of y0 grows by a factor of {growth:.3g} until it is observed, and the relative "
            f"tolerance is {rtol:.3g}: on a horizon this long the outputs are not determined by y0, and no gradient "
            "of them means anything; shorten it", GradientWarning, stacklevel=stacklevel)


def solved_tolerance(trajectory):
    """The relative tolerance of a solve; rounding, where steps are given."""
    if trajectory.grid.size:
        return EPS if getattr(trajectory, "dtype", None) is not np.float32 else EPS_SINGLE
    return trajectory.options.smallest_rtol
