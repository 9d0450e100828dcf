"""W5: the gradient of a million steps of Lorenz from 100 checkpoints: what is held, what is taken again, how long.

Prints the bytes held beside those of 100 states, the steps taken again beside the binomial count, and the time
beside that of the forward solve, of the steps taken again and of the transposes. Solve and gradients take turns, and the
median of their ratios in processor time is printed. The gradient itself means nothing on a horizon this long, of
which refnode warns; over the first part of it, it is held against the one with all steps stored.

    python validation/performance/long_horizon.py [--steps 1000000] [--checkpoints 100] [--rounds 7]
"""
import os

os.environ.setdefault("REFNODE_PATIENCE", "0")      # what is timed is compiled

import argparse
import time
import warnings

import numpy as np

import refnode
from refnode.problems.catalogue import CATALOGUE
from refnode.sensitivity.checkpoint_schedule import recomputed_steps

SHORTER = 10                   # of the horizon of the gradient with all steps stored, which would not fit


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--checkpoints", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    warnings.simplefilter("ignore", refnode.GradientWarning)
    problem = CATALOGUE["lorenz"]().replace(t1=1e-3 * options.steps, ts=None, loss=refnode.losses.sum_of_squares())
    same_gradient(problem, options.checkpoints)
    given = {"method": "rk4", "n_steps": options.steps}
    short = problem.replace(t1=problem.t1 / SHORTER)
    shorter = {"method": "rk4", "n_steps": options.steps // SHORTER}
    found = refnode.gradient(problem, "checkpointed", checkpoints=options.checkpoints, **given)
    gradient, stored = ratios(options.rounds, lambda: refnode.solve(problem, **given), {
        1: lambda: refnode.gradient(problem, "checkpointed", checkpoints=options.checkpoints, **given),
        SHORTER: lambda: refnode.gradient(short, "discrete", **shorter)})
    stats = found.stats
    again, least = stats["n_steps_recomputed"] / options.steps, recomputed_steps(options.steps, options.checkpoints)
    print(f"{options.steps} steps of rk4, {options.checkpoints} checkpoints; {options.rounds} rounds")
    print(f"bytes held for the reverse sweep   {stats['history_bytes']}, of which {options.checkpoints} states are "
          f"{options.checkpoints * 8 * problem.y0.size}; times of the steps {stats['times_bytes']}")
    print(f"steps taken again                  {stats['n_steps_recomputed']}, by the binomial formula {least}")
    print(f"time of the gradient               {gradient:.2f} forward solves: forward and the steps taken again "
          f"{1.0 + again:.2f}, transposes {stored - 1.0:.2f}, together {again + stored:.2f}")


def same_gradient(problem, checkpoints):
    """Refuse to time a gradient that is wrong: a shorter solve with every step stored gives the same, bit by bit."""
    short = problem.replace(t1=2.0)
    given = {"method": "rk4", "n_steps": 2000}
    stored, again = (refnode.gradient(short, name, **given, **more)
                     for name, more in (("discrete", {}), ("checkpointed", {"checkpoints": min(checkpoints, 20)})))
    np.testing.assert_array_equal(again.theta, stored.theta)


def ratios(rounds, solve, functions):
    """Medians of the processor times of ``functions``, each times its key, over that of ``solve`` in the same round."""
    for function in (solve, *functions.values()):
        function()
    found = []
    for _ in range(rounds):
        beside = spent(solve)
        found.append([times * spent(function) / beside for times, function in functions.items()])
    return np.median(found, axis=0)


def spent(function):
    started = time.process_time()
    function()
    return time.process_time() - started


if __name__ == "__main__":
    main()
