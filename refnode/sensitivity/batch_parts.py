"""The discrete adjoints of a batch in parts, side by side in threads, with the bits of one sample after another."""
import numpy as np

from refnode.solve.integrate import FINISHED
from refnode.solve.threads import in_parts


def sweep_parts(samples, sweep, on_failure, threads, most):
    """Both sweeps of parts of at most ``most`` samples; the cotangents of a shared theta are added up in order.

    What a loss raises counts only if no earlier sample failed, unless failed ones are to be skipped: those are
    reported then. One thread finds it so, and so it is for all.
    """
    def take(part, found):
        wrong, raised, rows = found
        if wrong is not None and (on_failure == "skip" or np.all(samples.status[:part[0]] == FINISHED)):
            raise wrong
        if raised is not None:
            raise raised
        sweep.add_to_theta(rows)
    in_parts(samples, threads, lambda worker, part: sweep_part(worker, sweep, part, on_failure), take, most)


def sweep_part(samples, sweep, part, on_failure):
    """Forward and reverse sweep of as many samples at a time as fit into the pool.

    Returns what a loss or a reverse sweep raised, what the forward sweep raised, and the cotangents of theta.
    """
    (start, end), wrong, sweep = part, None, sweep.of_part(samples, *part)
    samples.first[start] = 0
    while start < end:
        try:
            stop = samples.run_forward(start, end)
        except Exception as raised:
            return wrong, raised, None
        if wrong is None and (on_failure == "skip" or np.all(samples.status[part[0]:stop] == FINISHED)):
            try:
                sweep.seed(start, stop)
                sweep.pull(start, stop)
            except Exception as raised:
                wrong = raised
                if on_failure == "skip" or part[0] == 0:        # no earlier part to wait for
                    return wrong, None, None
        samples.empty(stop, end)
        start = stop
    return wrong, None, sweep.theta_bars
