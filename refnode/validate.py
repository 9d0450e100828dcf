"""`refnode validate`: every registered field, stepper and sensitivity recipe against independent evidence."""
import dataclasses
import datetime
import fnmatch
import hashlib
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from refnode import cuda_device, drivers
from refnode._version import __version__
from refnode.beforehand import cache_takes_files
from refnode.errors import InvalidInputError
from refnode.evidence.device_claims import device_rows
from refnode.evidence.field_claims import field_rows
from refnode.evidence.gradient_claims import problem_rows
from refnode.evidence.hessian_claims import hessian_rows
from refnode.evidence.mutants import MISTAKES, checker_rows
from refnode.evidence.row import GROUPS, VERDICTS, Row
from refnode.evidence.stepper_claims import stepper_rows
from refnode.evidence.subjects import PLAIN_PYTHON, fields, methods, problems
from refnode.sensitivity.recipes import RECIPES
from refnode.shared_work import shared
from refnode.steppers.tableaus import TABLEAUS

QUICK_PROBLEMS = ("linear", "forced_oscillator", "lotka_volterra", "mlp")
QUICK_METHODS = ("rk4", "dopri5", "dop853")


# --- what to validate ------------------------------------------------------------------------------

@dataclasses.dataclass(frozen=True)
class Selection:
    """Names of what is validated, and the seed of everything random."""

    fields: tuple
    problems: tuple
    methods: tuple
    recipes: tuple
    checkers: tuple
    seed: int = 0
    device: str = "cpu"


def select(fields_wanted="*", methods_wanted="*", recipes_wanted="*", seed=0, quick=False, device="cpu"):
    """The `Selection` for comma-separated names, in which * and ? stand for any characters.

    A field's name selects the problems with that field, too. The checkers are checked always. On the device
    ``"cuda"`` it is the GPU that is validated, against the CPU.

    Raises
    ------
    InvalidInputError
        For a name that matches nothing; the message lists those there are.
    """
    known_fields, known_problems = list(fields()), list(problems())
    both = list(dict.fromkeys(known_fields + known_problems))
    wanted = _matching("fields", fields_wanted, both)
    chosen_methods = _matching("methods", methods_wanted, methods())
    chosen = [name for name in known_problems if name in wanted]
    if quick:
        chosen = [name for name in chosen if name in QUICK_PROBLEMS] or chosen[:1]
        chosen_methods = [name for name in chosen_methods if name in QUICK_METHODS] or chosen_methods[:1]
    return Selection(tuple(name for name in known_fields if name in wanted), tuple(chosen), tuple(chosen_methods),
                     tuple(_matching("recipes", recipes_wanted, list(RECIPES))), tuple(MISTAKES), seed, device)


def _matching(what, wanted, known):
    """Those of ``known`` that a comma-separated list of patterns names; before a slash stands the field."""
    patterns = [pattern.strip() for pattern in wanted.split(",") if pattern.strip()]
    matches = lambda name, pattern: (fnmatch.fnmatchcase(name, pattern)
                                     or fnmatch.fnmatchcase(name.split("/")[0], pattern))
    for pattern in patterns or [wanted]:
        if not any(matches(name, pattern) for name in known):
            raise InvalidInputError(f"{what}: {pattern!r} is none of {', '.join(known)}")
    return [name for name in known if any(matches(name, pattern) for pattern in patterns)]


@dataclasses.dataclass(frozen=True)
class Task:
    """Evidence on one subject: ``gather()`` returns its rows, and ``needs`` are the drivers it runs."""

    group: str
    name: str
    gather: Callable
    needs: tuple = drivers.ALL_DRIVERS

    def rows(self):
        """The rows; a task that cannot even begin is one ERROR row."""
        try:
            with np.errstate(all="ignore"):
                return self.gather()
        except Exception as error:
            return [Row(self.group, self.name, "all evidence", "exact", "ERROR", note=f"{type(error).__name__}: {error}")]


def tasks(selection):
    """All tasks, in the order of `GROUPS`."""
    seed, first_order = selection.seed, drivers.FIRST_ORDER_DRIVERS
    if selection.device == "cuda":
        return [Task("device", name, lambda name=name: device_rows(name)) for name in selection.problems]
    plan = [Task("fields", name, lambda name=name: field_rows(name, seed), ()) for name in selection.fields]
    plan += [Task("steppers", name, lambda name=name: stepper_rows(name, seed, selection.recipes), first_order)
             for name in selection.methods]
    plan += [Task("recipes", name, lambda name=name: problem_rows(name, selection.recipes, selection.methods, seed),
                  () if name in PLAIN_PYTHON else first_order) for name in selection.problems]
    plan += [Task("second", name, lambda name=name: hessian_rows(name, seed, selection.methods)) for name in selection.problems]
    return plan + [Task("checkers", name, lambda name=name: checker_rows(name, seed)) for name in selection.checkers]


# --- the run ---------------------------------------------------------------------------------------

@dataclasses.dataclass
class Outcome:
    """All rows of a run, and the circumstances."""

    rows: list
    selection: Selection
    seconds: float
    facts: dict

    def count(self, verdict):
        return sum(row.verdict == verdict for row in self.rows)

    @property
    def exit_code(self):
        """1 with any FAIL or ERROR, else 0: an INCONCLUSIVE row accuses nobody."""
        return 1 if self.count("FAIL") or self.count("ERROR") else 0

    def totals(self, seconds=None):
        """One line; ``seconds`` of the whole command, if not of the evidence alone."""
        counts = ", ".join(f"{self.count(verdict)} {verdict}" for verdict in reversed(VERDICTS) if verdict != "ERROR")
        return f"{len(self.rows)} rows: {counts}, {self.count('ERROR')} ERROR in {seconds or self.seconds:.1f} s"


def run(selection, progress=lambda done, total, what, rows: None, workers=0):
    """Gather all rows; ``progress`` is called before every task and at the end.

    Drivers that are not in the cache are compiled meanwhile; what needs none of those to come is gathered first. When
    all are there, ``workers`` other processes gather, too.
    """
    started, plan, gathered = time.perf_counter(), tasks(selection), {}
    so_far = lambda: [row for number in sorted(gathered) for row in gathered[number]]
    left = lambda: [number for number in range(len(plan)) if number not in gathered]
    tell = lambda what: progress(len(gathered), len(plan), what, so_far())

    def gather(number):
        tell(f"{plan[number].group}: {plan[number].name}")
        gathered[number] = plan[number].rows()

    with drivers.compiled_beside(drivers.GROUPS + drivers.SECOND_ORDER_GROUPS) as (awaited, help_out):
        while left() and (to_come := awaited(drivers.ALL_DRIVERS)):
            ready = next((number for number in left() if not awaited(plan[number].needs)), None)
            if ready is None:
                tell(f"compiling solvers, once: {len(to_come)} to come")
                help_out()
            else:
                gather(ready)
    with shared("refnode.validate:gatherers", selection, left(), workers) as (take, results):
        while (number := take()) is not None:
            gather(number)
            gathered.update(results())
        if left():
            tell("waiting for the last rows")
            gathered.update(results(waiting=True))
    for number in left():
        gather(number)
    tell("done")
    rows = sorted(so_far(), key=lambda row: list(GROUPS).index(row.group))
    return Outcome(rows, selection, time.perf_counter() - started, facts(selection))


def gatherers(selection):
    """What gathers the rows of each of the `tasks`."""
    return [task.rows for task in tasks(selection)]


def workers_for(selection):
    """How many other processes may gather rows: one for each further processor, if they find what is compiled."""
    return drivers.spare_cpus() if selection.device == "cpu" and cache_takes_files() else 0


def facts(selection):
    """Everything needed to repeat the run."""
    import numba
    import scipy
    return {"refnode": __version__, "python": platform.python_version(), "numpy": np.__version__,
            "numba": numba.__version__, "scipy": scipy.__version__, "platform": platform.platform(),
            "cpu": cpu_model(), "cuda": cuda_device.facts() if selection.device == "cuda" else "not asked for", "cpus": drivers.usable_cpus(), "seed": selection.seed, "tableaus": tableau_hash(),
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")}


def cpu_model():
    """The processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def tableau_hash():
    """Hash of the exact coefficients of all methods."""
    numbers = [(name, str(table.A), str(table.b), str(table.c), str(table.E_exact), str(table.P_exact))
               for name, table in TABLEAUS.items()]
    return hashlib.sha256(repr(numbers).encode()).hexdigest()[:16]
