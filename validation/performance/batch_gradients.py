"""Time of one gradient in a batch over that of one call of `gradient`, in one run; and of its parts, in W2.

    python validation/performance/batch_gradients.py
"""
import functools
import time

import numpy as np

from ensemble import w2
from refnode import Batch, fields, gradient, gradient_batch, losses
from refnode.sensitivity.batch_sweep import BatchSweep
from refnode.sensitivity.lanes_adjoint import LaneSweep
from refnode.solve.lanes import LaneSamples
from refnode.solve.samples import Samples

SAMPLES, RUNS = 1000, 9


def best(function):
    """Least processor time of several runs, per sample in microseconds: a busy machine slows them unequally."""
    times = []
    for _ in range(RUNS):
        started = time.process_time()
        function()
        times.append(time.process_time() - started)
    return 1e6 * min(times) / SAMPLES


def main():
    y0 = np.random.default_rng(0).uniform(0.8, 1.2, (SAMPLES, 2))
    batch = Batch(fields.lotka_volterra, y0, [1.5, 1.0, 3.0, 1.0], (0.0, 4.0), np.linspace(0.8, 4.0, 5),
                  losses.sum_of_squares())
    problems = list(batch)
    gradient_batch(batch)
    alone, together = best(lambda: [gradient(problem) for problem in problems]), best(lambda: gradient_batch(batch))
    steps = gradient_batch(batch).stats["n_steps"].mean()
    print(f"Lotka-Volterra, {SAMPLES} samples of {steps:.0f} steps: {alone:.1f} us a gradient alone, {together:.1f} us in a "
          f"batch, ratio {alone / together:.1f}")
    batch = w2(2 * SAMPLES).problem
    for specialize in (False, True):
        spent = parts(lambda: gradient_batch(batch, method="dopri5", rtol=1e-6, atol=1e-6, specialize=specialize))
        print("W2, specialised:" if specialize else "W2, by address: ", ", ".join(
            f"{name} {1e6 * seconds / len(batch):.1f}" for name, seconds in spent.items()), "us a trajectory")


PARTS = [("forward", Samples, "run_forward"), ("forward", LaneSamples, "run_forward"), ("losses", BatchSweep, "seed"),
         ("reverse", BatchSweep, "pull"), ("reverse", LaneSweep, "pull")]


def parts(function):
    """Processor time of the quickest of several runs, and of its parts."""
    best, spent = None, {}
    for name, owner, method in PARTS:
        setattr(owner, method, timed(getattr(owner, method), name, spent))
    function()
    for _ in range(3 * RUNS):
        spent.update(dict.fromkeys((name for name, _, _ in PARTS), 0.0))
        started = time.process_time()
        function()
        spent["all"] = time.process_time() - started
        if best is None or spent["all"] < best["all"]:
            best = dict(spent)
    for _, owner, method in PARTS:
        setattr(owner, method, getattr(owner, method).__wrapped__)
    return best


def timed(function, name, spent):
    @functools.wraps(function)
    def measured(*arguments):
        started = time.process_time()
        found = function(*arguments)
        spent[name] = spent.get(name, 0.0) + time.process_time() - started
        return found
    return measured


if __name__ == "__main__":
    main()
