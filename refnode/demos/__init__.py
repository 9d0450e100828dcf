"""The demonstrations: systems built from the models, trained, drawn, and their gradients checked in the end.

Each is a module with ``run_demo(output, recipe, seed, progress, ...)``, which writes its pictures and its numbers
into the folder ``output``, hands lines of text to ``progress``, and returns a result: ``str(result)`` is what the
reader wants to know, ``result.files`` what was written, ``result.evidence`` how its gradient was held against
differences at the end. Which of `OPTIONS` it takes beyond, its signature says: all take ``method``, ``rtol``, ``atol``, and
``epochs`` or ``iterations``. Where every iteration has new data, or all of them, an epoch is an iteration.
"""
import dataclasses
import importlib
import inspect
import pathlib

from refnode.blas_threads import one_blas_thread
from refnode.errors import InvalidInputError
from refnode.sensitivity.recipes import recipe_named

OPTIONS = ("iterations", "epochs", "method", "rtol", "atol", "data", "dataset")      # that some demonstrations take
VERDICTS = ("PASS", "INCONCLUSIVE", "FAIL")                                            # from best to worst


@dataclasses.dataclass(frozen=True)
class Demo:
    """A demonstration: its module, and what it shows in one line."""

    module: str
    shows: str

    def function(self):
        """Its ``run_demo``."""
        return importlib.import_module(self.module).run_demo


DEMOS = {
    "spiral": Demo("refnode.demos.spiral", "a neural ODE learns a spiral from noisy, irregular observations"),
    "augmented": Demo("refnode.demos.augmentation", "what a flow cannot do, and can with one more dimension: crossing, annuli"),
    "regularised": Demo("refnode.demos.easy_dynamics", "dynamics that are easy to solve: fewer evaluations at equal loss"),
    "odenet": Demo("refnode.demos.odenet", "ODE-Net and its twins classify digits: error, parameters, memory, time"),
    "latent_ode": Demo("refnode.demos.latent_spirals", "spirals from a few noisy points, against a recurrent network"),
    "ode_rnn": Demo("refnode.demos.missing_values", "irregular series with missing values, predicted from their past"),
    "poisson": Demo("refnode.demos.event_times", "intensities of a Poisson process recovered from event times alone"),
    "cnf": Demo("refnode.demos.cnf_densities", "continuous normalising flows learn four densities in the plane"),
    "ffjord": Demo("refnode.demos.ffjord", "a flow learns with Hutchinson's estimate of the trace (FFJORD)"),
}


def run(name, output, recipe="discrete", seed=0, progress=None, **options):
    """Run the demonstration ``name``; ``options`` are those of `OPTIONS` that were given.

    Raises
    ------
    InvalidInputError
        If there is no such demonstration, or it does not take one of the options, or the folder cannot be made.
    IntegrationError, TrainingError
        If a solve fails, or a number becomes non-finite in training.
    """
    if name not in DEMOS:
        raise InvalidInputError(f"demo must be one of {', '.join(DEMOS)}, found {name!r}")
    function = DEMOS[name].function()
    taken = [option for option in OPTIONS if option in inspect.signature(function).parameters]
    if "epochs" in options and "epochs" not in taken and "iterations" not in options:
        options["iterations"] = options.pop("epochs")
    for option in options:
        if option not in taken:
            raise InvalidInputError(f"demo {name} takes no {option!r}; beside output, recipe and seed it takes "
                                    f"{', '.join(taken) or 'nothing'}")
    recipe_named(recipe)
    try:
        pathlib.Path(output).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInputError(f"output {output}: {error.strerror}") from error
    with one_blas_thread():                     # small products: more threads gain little, and wait where processors are busy
        return function(output, recipe=recipe, seed=seed, progress=progress, **options)


def verdict_of(result):
    """The worst of the verdicts on the gradients of a demonstration: one of `VERDICTS`."""
    found = result.evidence.values() if isinstance(result.evidence, dict) else [result.evidence]
    return max((evidence.verdict for evidence in found), key=VERDICTS.index)
