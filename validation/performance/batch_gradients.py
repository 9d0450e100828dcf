"""Time of one gradient in a batch over that of one call of `gradient`, in one run.

    python validation/performance/batch_gradients.py
"""
import time

import numpy as np

from refnode import Batch, fields, gradient, gradient_batch, losses

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


if __name__ == "__main__":
    main()
