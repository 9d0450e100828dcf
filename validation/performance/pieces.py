"""Where the time of workload W1 goes: the two compiled sweeps, by address and compiled in, and what is Python.

Every piece is called in turn, many times, and the shortest time of each is printed: what the machine does beside only
adds. `gradient` and `GradientFunction` contain a forward sweep, a reverse sweep, the slopes at the observations,
and Python.

    python validation/performance/pieces.py [--rounds 3000]
"""
import os

os.environ.setdefault("REFNODE_PATIENCE", "0")      # what is timed is compiled

import argparse
import dataclasses
import time
import warnings

import numpy as np

import refnode
from contestants import c_contestant, w1
from refnode.sensitivity.cotangents import Seeds
from refnode.sensitivity.discrete_adjoint import pull_cotangents
from refnode.solve.initial_value import forward_trajectory
from refnode.solve.options import SolveOptions
from refnode.solve.run import entry_point


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3000)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="First-class function type")
    work = w1()
    pieces = {"C, forward and reverse": c_contestant(work)}
    for name, how in (("by address", {}), ("specialised", {"specialize": True})):
        given = SolveOptions.of(rtol=work.tolerance, atol=work.tolerance, **how)
        pieces |= {f"forward sweep, {name}": Forward(work.problem, given).run,
                   f"reverse sweep, {name}": Reverse(work.problem, given).run,
                   f"gradient, {name}": Call(refnode.gradient, work, how).run,
                   f"GradientFunction, {name}": Call(None, work, how).run}
    for name, seconds in shortest(pieces, options.rounds).items():
        print(f"{name:36} {1e6 * seconds:7.1f} us")


class Forward:
    """The forward sweep of a solve that keeps its steps."""

    def __init__(self, problem, options):
        self.trajectory = forward_trajectory(problem.field, problem.y0, problem, options, keep=True, keep_tape=True)
        self.entry = entry_point(self.trajectory.driver, problem.field, options.specialized_to(problem.y0.size), "f")

    def run(self):
        self.trajectory = self.trajectory.again()
        self.trajectory.run(*self.entry)


class Reverse(Forward):
    """The reverse sweep over its steps."""

    def __init__(self, problem, options):
        super().__init__(problem, options)
        super().run()
        self.seeds = Seeds(2.0 * self.trajectory.ys, np.zeros(problem.y0.size))

    def run(self):
        pull_cotangents(self.trajectory, self.seeds)


@dataclasses.dataclass
class Call:
    """A whole gradient."""

    function: object
    work: object
    options: dict

    def __post_init__(self):
        given = {"rtol": self.work.tolerance, "atol": self.work.tolerance, **self.options}
        self.run = (lambda: self.function(self.work.problem, **given)) if self.function else refnode.GradientFunction(
            self.work.problem, **given)


def shortest(pieces, rounds):
    """The shortest seconds of each of the functions, which take turns."""
    best = dict.fromkeys(pieces, np.inf)
    for _ in range(rounds):
        for name, run in pieces.items():
            started = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - started)
    return best


if __name__ == "__main__":
    main()
