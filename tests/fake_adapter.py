"""An adapter for the tests of the matrix: one way that is right, and one for everything that can go wrong."""
import os
import time
import warnings

import numpy as np

from refnode.adapters.answer_form import Mode, NotExpressible, answer_form
from refnode.adapters.translate import Task

LIBRARY = "fake"
NAMES = ("right", "wrong", "warns", "nan", "shape", "raises", "hangs", "spins", "dies", "unsupported", "prints")
MODES = {name: Mode(("exact",), "exact", name, default=name == "right") for name in NAMES}


def versions():
    if os.environ.get("REFNODE_FAKE_BROKEN"):
        raise ImportError("no module named fake")
    return {"fake": "1.0"}


def decay(task):
    """Loss y(t1)^2 of y' = -theta y, and its derivatives."""
    span = task.t1 - task.t0
    y1 = task.y0[0] * np.exp(-task.theta[0] * span)
    return y1, y1 ** 2, np.array([2.0 * y1 * np.exp(-task.theta[0] * span)]), np.array([-2.0 * span * y1 ** 2])


def answer(problem, mode, method, rtol, atol):
    task = Task(problem)
    y1, loss, y0_bar, theta_bar = decay(task)
    if mode == "wrong":
        theta_bar = -theta_bar
    elif mode == "warns":
        theta_bar = -theta_bar
        warnings.warn("this may be wrong", UserWarning, stacklevel=1)
    elif mode == "nan":
        theta_bar = np.array([np.nan])
    elif mode == "shape":
        theta_bar = np.zeros(2)
    elif mode == "raises":
        raise ValueError("no gradient today\nsecond line")
    elif mode == "hangs":
        time.sleep(600.0)
    elif mode == "spins":
        while True:
            pass
    elif mode == "dies":
        os.write(2, b"last words\n")
        os.abort()
    elif mode == "unsupported":
        raise NotExpressible("no such right-hand side")
    elif mode == "prints":
        os.write(2, b"CVODE warning: mxhnil\n")
    return answer_form(task, LIBRARY, "1.0", mode, method, "exact", [[task.y0[0]], [y1]], loss, y0_bar, theta_bar,
                       np.array([0.0, 0.0]), {"nfev": 7, "nfev_backward": 3, "seconds": 0.25})
