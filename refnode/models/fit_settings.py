"""The arguments of `refnode.models.training.fit` that are the same for every iteration: checked, and as text for a checkpoint."""
import dataclasses
import hashlib
import math
import os
import re

import numpy as np

from refnode.errors import InvalidInputError


@dataclasses.dataclass
class Settings:
    """The arguments of `fit` that are the same for every iteration, checked."""

    schedule: object
    epochs: int
    l2: object
    clip: float | None
    validate: object
    patience: int | None
    target: float | None
    checkpoint: object
    checkpoint_every: int | None
    progress: object
    every: int
    seed: object
    identity: str

    def __post_init__(self):
        for name in ("epochs", "patience", "checkpoint_every", "every"):
            value = getattr(self, name)
            if value is not None and (not float(value).is_integer() or value < (name != "epochs")):
                raise InvalidInputError(f"{name} must be a positive integer, found {value!r}")
        if self.clip is not None and not 0.0 < self.clip < math.inf:
            raise InvalidInputError(f"clip must be finite and positive, found {self.clip!r}")
        if not np.all(np.isfinite(self.l2)) or np.any(np.less(self.l2, 0.0)):
            raise InvalidInputError("l2 must be finite and not negative")
        for name in ("patience", "target"):
            if getattr(self, name) is not None and self.validate is None:
                raise InvalidInputError(f"{name} needs validate(theta), by which to stop early")
        if self.target is not None and math.isnan(self.target):
            raise InvalidInputError("target must be a number, found nan")
        if np.any(np.ravel(self.seed) < 0):
            raise InvalidInputError(f"seed must hold integers of at least 0, found {self.seed!r}")
        if self.checkpoint is not None and not os.path.isdir(os.path.dirname(os.path.abspath(self.checkpoint))):
            raise InvalidInputError(f"checkpoint {self.checkpoint}: there is no such folder")

    def text(self, optimiser, p):
        """What a checkpoint must share with the run that goes on from it."""
        weights = np.asarray(self.l2, dtype=np.float64)
        rate = {} if self.schedule is None else {"learning_rate": 1.0}       # moved by the schedule, and by nothing else
        return {"optimiser": described(optimiser, **rate), "schedule": re.sub(" at 0x[0-9a-f]+", "", repr(self.schedule)),
                "l2": float(weights) if weights.ndim == 0 else hashlib.sha256(weights.tobytes()).hexdigest(),
                "clip": self.clip, "patience": self.patience, "target": self.target, "seed": np.ravel(self.seed).tolist(), "parameters": p,
                "identity": self.identity}


def described(optimiser, **changes):
    """``repr`` of an optimiser with some of its settings changed for the moment."""
    kept = {name: getattr(optimiser, name) for name in changes if hasattr(optimiser, name)}
    vars(optimiser).update({name: changes[name] for name in kept})
    try:
        return repr(optimiser)
    finally:
        vars(optimiser).update(kept)


def identity_of(model, *data):
    """Model and data as text, by which a checkpoint of theirs is told from others': kind, size, recipe, options, SHA-256 of the arrays."""
    sha = hashlib.sha256()
    for array in map(np.ascontiguousarray, data):
        sha.update(f"{array.dtype.str} {array.shape}".encode() + array.tobytes())
    return (f"{type(model).__name__} p={model.theta.size} {getattr(model, 'twin', '')} {getattr(model, 'recipe', '')} "
            f"{getattr(model, 'options', {})} {sha.hexdigest()}")
