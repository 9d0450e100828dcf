"""Event times from a latent ODE: dz/dt = MLP(z), and events happen at the rate λ(t) = exp(z_0(t)).

Several processes have the same field and starts of their own; all are one state. The loss is minus the log-likelihood
of an inhomogeneous Poisson process, -Σ log λ(t_k) + ∫ λ dt, the mean over the records of each process.

References
----------
Chen, Rubanova, Bettencourt & Duvenaud, Neural ordinary differential equations, 2018, section 5.
"""
import functools

import numpy as np

from refnode.checks import time_span
from refnode.errors import InvalidInputError
from refnode.fields.neural import mlp_field
from refnode.layers.parameters import initial_parameters
from refnode.likelihoods import poisson_process
from refnode.models import training
from refnode.models.history import History
from refnode.models.neural_ode import require_affordable
from refnode.models.solved import solved
from refnode.optimisers import Adam
from refnode.problems.problem import Problem
from refnode.schedules import ExponentialDecay
from refnode.sensitivity.gradient import gradient


def event_counts(records, t_span):
    """The times of all events, and how many of each process's records, as a fraction, have one there.

    Parameters
    ----------
    records : sequence of sequences of array_like
        ``records[i][r]`` holds the event times of the r-th record of the i-th process, increasing; it may be empty.
    t_span : (float, float)
        When the records begin and end.

    Returns
    -------
    ts, counts : ndarray, shapes (K,), (processes, K)

    Raises
    ------
    InvalidInputError
        Naming the record and the entry: times that do not increase, are not finite or lie outside; no record, no event.
    """
    t_span = time_span(t_span)
    if not t_span[0] < t_span[1]:
        raise InvalidInputError(f"t_span must begin before it ends, found {t_span}")
    if not len(records) or not all(len(process) for process in records):
        raise InvalidInputError("records must hold at least one record for each of one or more processes")
    times = [[checked_events(f"records[{i}][{r}]", events, t_span) for r, events in enumerate(process)]
             for i, process in enumerate(records)]
    ts = np.unique(np.concatenate([events for process in times for events in process]))
    if not ts.size:
        raise InvalidInputError("records must hold at least one event, found none")
    counts = np.zeros((len(times), ts.size))
    for row, process in zip(counts, times):
        for events in process:
            row[np.searchsorted(ts, events)] += 1.0 / len(process)
    return ts, counts


def checked_events(name, events, t_span):
    """Increasing times within ``t_span``, as float64."""
    events = np.asarray(events, dtype=np.float64)
    if events.ndim != 1:
        raise InvalidInputError(f"{name} must be one-dimensional, found shape {events.shape}")
    inside = (events >= t_span[0]) & (events <= t_span[1])
    if not inside.all():
        k = int(np.argmin(inside))
        raise InvalidInputError(f"{name} must lie in [{t_span[0]:g}, {t_span[1]:g}], found {name}[{k}] = {events[k]}")
    bad = np.flatnonzero(np.diff(events) <= 0.0)
    if bad.size:
        k = int(bad[0]) + 1
        raise InvalidInputError(f"{name} must increase, found {name}[{k}] = {events[k]:g} after {events[k - 1]:g}")
    return events


@functools.lru_cache(maxsize=16)            # or every model would compile its field with the running cost anew
def field_of(widths, processes):
    """The field of all processes as one state."""
    return mlp_field(widths, batch=processes)


class PoissonODE:
    """Processes whose log-intensity is the first entry of a latent state, with the gradient of their loss, and their fit.

    Parameters
    ----------
    processes : int
    latent, width : int
        Entries of the latent state of one process, and of the hidden layer of the field.
    recipe : str
        A name in `refnode.sensitivity.recipes.RECIPES`.
    seed : int
        Of the initial parameters and starts.
    **options
        Those of `refnode.gradient`; by default rtol 1e-4, atol 1e-6.

    Attributes
    ----------
    x : ndarray, shape (p + processes latent,)
        The parameters of the field, and behind them the starts.
    history : History
    """

    def __init__(self, processes, latent=3, width=32, recipe="discrete", seed=0, **options):
        self.latent, self.recipe, self.options = latent, recipe, {"rtol": 1e-4, "atol": 1e-6, **options}
        widths = (latent, width, latent)
        self.field = field_of(widths, processes)
        require_affordable(recipe, self.field.p)
        starts = 0.5 * np.random.default_rng([seed, 1]).standard_normal(self.field.n)
        self.x = np.concatenate([initial_parameters(widths, seed, "lecun"), starts])
        self.history = History()

    def problem(self, t_span, ts, x=None, counts=None):
        """The solve of all processes, with the loss of ``counts`` (processes, K) at ``ts``."""
        x = self.x if x is None else x
        expected = (self.field.n // self.latent, np.size(ts))
        if counts is not None and np.shape(counts) != expected:
            raise InvalidInputError(f"counts must have shape {expected}, (processes, times), found {np.shape(counts)}")
        loss = None if counts is None else poisson_process(counts, self.latent)
        return Problem(self.field, x[self.field.p:], x[:self.field.p], t_span, ts=ts, loss=loss)

    def loss(self, t_span, ts, counts, x=None):
        """The loss from a solve alone."""
        problem = self.problem(t_span, ts, x, counts)
        n = problem.y0.size
        flow = solved(Problem(problem.flow_field, problem.flow_y0, problem.theta, t_span, ts=ts), self.options)
        return float(problem.loss.value(flow.y[:n], flow.y1[:n]) + flow.y1[n])

    def gradient(self, t_span, ts, counts, x=None):
        """`refnode.gradient` of the loss, and the gradient with respect to x."""
        found = gradient(self.problem(t_span, ts, x, counts), self.recipe, **self.options)
        return found, np.concatenate([found.theta, found.y0])

    def log_intensity(self, ts, t0=0.0):
        """log λ of every process at ``ts``, (processes, K)."""
        problem = self.problem((t0, ts[-1]), ts)
        return solved(problem, self.options).y.reshape(-1, self.latent, len(ts))[:, 0]

    def fit(self, t_span, ts, counts, iterations, learning_rates=(0.03, 0.003), progress=None, every=100):
        """Move field and starts down the gradient on all events, by Adam; itself."""
        if int(iterations) != iterations or iterations < 1:
            raise InvalidInputError(f"iterations must be a positive integer, found {iterations!r}")

        def loss_and_gradient(x, batch):
            found, grad = self.gradient(t_span, ts, counts, x)
            return found.loss, grad, found.stats

        schedule = ExponentialDecay(*learning_rates, max(iterations, 1))
        self.x = training.fit(self.x, loss_and_gradient, [None], Adam(learning_rates[0]), schedule, epochs=iterations,
                              history=self.history, progress=progress, every=every).theta
        return self
