"""What two threads gain over one in `gradient_batch`, and over two processes with half of the batch each.

On a busy machine neither gains two: the processes, which share nothing, say what could be had at that moment. The
three take turns; medians of the ratios of a turn are the result.

    python validation/performance/threads.py [--rounds 40] [--samples 2000] [--specialize]
"""
import argparse
import multiprocessing
import os
import time

import numpy as np

import refnode
from ensemble import w2


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--specialize", action="store_true", help="field and method compiled in: samples side by side")
    options = parser.parse_args()
    batch, special = w2(options.samples).problem, options.specialize
    same_bits(batch, special)
    halves = [Half(options.samples, which, special) for which in (0, 1)]
    runs = {"one thread": lambda: run(batch, 1, special), "two threads": lambda: run(batch, 2, special),
            "two processes": lambda: both(halves)}
    wall, processor = {name: [] for name in runs}, {name: [] for name in runs}
    for _ in range(options.rounds):
        for name, once in runs.items():
            started = time.perf_counter(), time.process_time()
            once()
            wall[name].append(time.perf_counter() - started[0])
            processor[name].append(time.process_time() - started[1])
    for half in halves:
        half.end()
    show(wall, processor, options)


def run(batch, threads, special):
    return refnode.gradient_batch(batch, method="dopri5", rtol=1e-6, atol=1e-6, threads=threads, specialize=special)


def same_bits(batch, special):
    """Refuse to time threads that change the result."""
    one, two = run(batch, 1, special), run(batch, 2, special)
    np.testing.assert_array_equal(one.theta, two.theta)


class Half:
    """A process that holds half of the batch, and differentiates it when told to."""

    def __init__(self, samples, which, special):
        context = multiprocessing.get_context("spawn")
        self.pipe, there = context.Pipe()
        self.process = context.Process(target=serve, args=(there, samples, which, special))
        self.process.start()
        self.pipe.recv()

    def end(self):
        self.pipe.send(False)
        self.process.join()


def serve(pipe, samples, which, special):
    batch = w2(samples).problem[which * samples // 2:(which + 1) * samples // 2]
    run(batch, 1, special)
    pipe.send("ready")
    while pipe.recv():
        run(batch, 1, special)
        pipe.send("done")


def both(halves):
    for half in halves:
        half.pipe.send(True)
    for half in halves:
        half.pipe.recv()


def show(wall, processor, options):
    ratio = lambda times, above, below: np.quantile(np.array(times[above]) / np.array(times[below]), [0.1, 0.5, 0.9])
    print(f"{options.samples} trajectories of W2{', specialised' if options.specialize else ''}, {options.rounds} rounds, load average {os.getloadavg()[0]:.1f} on "
          f"{os.cpu_count()} processors; medians, 10 to 90 %")
    for title, times, above, below in (
            ("time of one thread / two threads        ", wall, "one thread", "two threads"),
            ("time of one thread / two processes      ", wall, "one thread", "two processes"),
            ("time of two processes / two threads     ", wall, "two processes", "two threads"),
            ("processor time of two threads / one     ", processor, "two threads", "one thread")):
        low, middle, high = ratio(times, above, below)
        print(f"{title} {middle:.2f} ({low:.2f}-{high:.2f})")


if __name__ == "__main__":
    main()
