"""What is recorded of a training: losses, norms of gradients, evaluations, seconds."""
import dataclasses
import time

import numpy as np


@dataclasses.dataclass
class History:
    """What happened in every iteration of a fit, and in every epoch.

    Attributes
    ----------
    loss : list of float
        Before the iteration's step, without the penalty.
    grad_norm : list of float
        Euclidean norm of the gradient, with the penalty's, before clipping.
    nfe, nfe_reverse : list of int
        Evaluations of the field by the forward solves, and by the reverse sweeps (there each with its vjp).
        The forward recipes have no reverse sweep. A line search has several of both in an iteration.
    seconds : list of float
        Since the first iteration began.
    validation : list of float
        After every epoch, where there is something to validate by.
    """

    loss: list = dataclasses.field(default_factory=list)
    grad_norm: list = dataclasses.field(default_factory=list)
    nfe: list = dataclasses.field(default_factory=list)
    nfe_reverse: list = dataclasses.field(default_factory=list)
    seconds: list = dataclasses.field(default_factory=list)
    validation: list = dataclasses.field(default_factory=list)
    started: float | None = None

    def begin(self):
        """Start the clock, or go on where a resumed one stopped."""
        if self.started is None:
            self.started = time.perf_counter() - (self.seconds[-1] if self.seconds else 0.0)

    def add(self, loss, grad_norm, nfe, nfe_reverse):
        """Append one iteration."""
        for name, value in (("loss", loss), ("grad_norm", grad_norm), ("nfe", nfe), ("nfe_reverse", nfe_reverse),
                            ("seconds", time.perf_counter() - self.started)):
            getattr(self, name).append(value)

    def line(self):
        """The last iteration as a line of text."""
        nfe = f"NFE {self.nfe[-1]:4d} forward, {self.nfe_reverse[-1]:4d} reverse   " if self.nfe[-1] else ""
        return f"iteration {len(self.loss):5d}   loss {self.loss[-1]:.3e}   {nfe}{self.seconds[-1]:6.1f} s"

    def arrays(self):
        """As a dict of arrays, for a checkpoint."""
        return {f"history_{name}": np.array(getattr(self, name), dtype=np.int64 if name.startswith("nfe") else np.float64)
                for name in HISTORIES}

    def restore(self, arrays):
        """Put back what `arrays` returned."""
        for name in HISTORIES:
            getattr(self, name)[:] = arrays[f"history_{name}"].tolist()
        self.started = None


HISTORIES = [field.name for field in dataclasses.fields(History) if field.name != "started"]


def reverse_evaluations(stats):
    """Evaluations by the reverse sweep; a discrete one has those of the steps that were accepted."""
    if "nfev_reverse" in stats or "n_steps_reverse" not in stats:
        return stats.get("nfev_reverse", 0)
    tried = stats["n_steps"] + stats["n_rejected"]
    stages = (stats["nfev"] - 1) // max(tried, 1)          # one or two evaluations to begin, then so many a step
    return stages * stats["n_steps_reverse"]
