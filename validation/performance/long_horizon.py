"""W5: the gradient of a million steps of Lorenz from 100 checkpoints: what is held, what is taken again, how long.

Prints the bytes held beside those of 100 states, the steps taken again beside the binomial count, and the time
beside that of the forward solve and of the steps taken again. The gradient itself means nothing on a horizon this
long, of which refnode warns; over the last part of it, it is held against the one with all steps stored.

    python validation/performance/long_horizon.py [--steps 1000000] [--checkpoints 100]
"""
import argparse
import time
import warnings

import numpy as np

import refnode
from refnode.problems.catalogue import CATALOGUE
from refnode.sensitivity.checkpoint_schedule import recomputed_steps


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--checkpoints", type=int, default=100)
    options = parser.parse_args()
    warnings.simplefilter("ignore", refnode.GradientWarning)
    problem = CATALOGUE["lorenz"]().replace(t1=1e-3 * options.steps, ts=None, loss=refnode.losses.sum_of_squares())
    same_gradient(problem, options.checkpoints)
    given = {"method": "rk4", "n_steps": options.steps}
    forward = best_time(lambda: refnode.solve(problem, **given))
    found, seconds = timed(lambda: refnode.gradient(problem, "checkpointed", checkpoints=options.checkpoints, **given))
    stats = found.stats
    again, least = stats["n_steps_recomputed"] / options.steps, recomputed_steps(options.steps, options.checkpoints)
    print(f"{options.steps} steps of rk4, {options.checkpoints} checkpoints")
    print(f"bytes held for the reverse sweep   {stats['history_bytes']}, of which {options.checkpoints} states are "
          f"{options.checkpoints * 8 * problem.y0.size}; times of the steps {stats['times_bytes']}")
    print(f"steps taken again                  {stats['n_steps_recomputed']}, by the binomial formula {least}")
    print(f"time of the gradient               {seconds / forward:.2f} forward solves; forward and the steps taken again "
          f"alone would be {1.0 + again:.2f}")


def same_gradient(problem, checkpoints):
    """Refuse to time a gradient that is wrong: a shorter solve with every step stored gives the same, bit by bit."""
    short = problem.replace(t1=2.0)
    given = {"method": "rk4", "n_steps": 2000}
    stored, again = (refnode.gradient(short, name, **given, **more)
                     for name, more in (("discrete", {}), ("checkpointed", {"checkpoints": min(checkpoints, 20)})))
    np.testing.assert_array_equal(again.theta, stored.theta)


def best_time(function, repeats=3):
    return min(timed(function)[1] for _ in range(repeats))


def timed(function):
    started = time.perf_counter()
    found = function()
    return found, time.perf_counter() - started


if __name__ == "__main__":
    main()
