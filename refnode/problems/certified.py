"""Proven values and gradients of the reference problems, read from the files they are kept in.

The files were made in ball arithmetic by ``validation/certify``; to read them needs nothing but Python. A file says of every
quantity "mid" and "rad", decimal numbers: the true value is at most rad from mid.
"""
import dataclasses
import fractions
import functools
import json
import math
import pathlib

import numpy as np

from refnode.errors import InvalidInputError, ProblemFileError
from refnode.interchange.canonical_json import problem_sha256
from refnode.problems.reference_problem import ReferenceProblem, switches_of
from refnode.problems.reference_set import REFERENCE_PROBLEMS

FORMAT, VERSION = "refnode.reference", 1
CERTIFIED = pathlib.Path(__file__).resolve().parent / "certified"
QUANTITIES = ("y", "loss", "grad_y0", "grad_theta", "grad_t0", "grad_t1", "grad_ts", "hvp_y0", "hvp_theta",
              "event_time")
MAX_BYTES = 8 * 2 ** 20
MAX_FIGURES = 200               # of one decimal number


@dataclasses.dataclass(frozen=True, eq=False)
class Certified:
    """Proven values of one problem.

    Attributes
    ----------
    problem : ReferenceProblem
    values : dict of str to ndarray
        Midpoints, rounded to float64: "y" (n, K), "loss" (), "grad_y0" (n,), "grad_theta" (p,), "grad_t0" (), "grad_t1" (),
        "grad_ts" (K,) or (0,), and, where there are any, "hvp_y0" (n,), "hvp_theta" (p,), "event_time" (),
        of several switches (S,).
    radius : dict of str to ndarray
        Of the same shapes: upper bounds of the distance from the true values, with the rounding to float64.
    provenance : dict
        Method, bits, order, steps, software, and how a second way of computing agrees.
    """

    problem: ReferenceProblem
    values: dict
    radius: dict
    provenance: dict
    entries: dict = dataclasses.field(repr=False)

    def digits(self, quantity, index=()):
        """The decimal figures of one entry, as "mid ± rad".

        Parameters
        ----------
        quantity : str
            Such as "grad_theta".
        index : int or tuple of int
        """
        entry = self.entries[quantity]
        for i in (index if isinstance(index, tuple) else (index,)):
            entry = entry[i]
        return f"{entry['mid']} ± {entry['rad']}"


@functools.lru_cache(maxsize=None)
def certified(id):
    """The proven values of a reference problem.

    Parameters
    ----------
    id : str
        A key of `REFERENCE_PROBLEMS`, such as "lotka_volterra/obs21".

    Returns
    -------
    Certified

    Raises
    ------
    InvalidInputError
        If there is no such problem, or none of its values is proven.
    ProblemFileError
        If the file is damaged, or belongs to another version of the problem.
    """
    if id not in REFERENCE_PROBLEMS:
        raise InvalidInputError(f"id must be that of a reference problem, found {id!r}")
    path = path_of(id)
    if not path.exists():
        raise InvalidInputError(f"problem {id!r} has no certified values; see `certified_ids`")
    return read_certified(path, REFERENCE_PROBLEMS[id])


def certified_ids():
    """The ids of the reference problems whose values are proven."""
    return [id for id in REFERENCE_PROBLEMS if path_of(id).exists()]


def path_of(id):
    """Where the values of a problem are kept."""
    return CERTIFIED / f"{id.replace('/', '__')}.json"


def read_certified(path, problem):
    """`Certified` from a file, which must belong to the `ReferenceProblem`.

    Raises
    ------
    ProblemFileError
        If it does not, or is damaged.
    """
    path = pathlib.Path(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ProblemFileError(f"{path.name} is larger than {MAX_BYTES} bytes")
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refused)
        _check(content, problem, path.name)
        values, radius = {}, {}
        for name, entries in content["values"].items():
            balls = np.array(_nested(entries) or np.empty((0, 2)), dtype=np.float64)
            values[name], radius[name] = balls[..., 0].copy(), balls[..., 1].copy()
        _check_shapes(values, problem, path.name)
    except ProblemFileError:
        raise
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ProblemFileError(f"{path.name} is not a file of certified values: {error}") from error
    for array in (*values.values(), *radius.values()):
        array.flags.writeable = False
    return Certified(problem, values, radius, content["provenance"], content["values"])


def _refused(text):
    raise ValueError(f"the number {text}")


def _check(content, problem, name):
    """Format, version, and both hashes."""
    if content["format"] != FORMAT or content["version"] != VERSION:
        raise ProblemFileError(f"{name} must have format {FORMAT!r}, version {VERSION}, found {content['format']!r}, "
                               f"{content['version']!r}")
    if content["sha256"] != problem_sha256(content):
        raise ProblemFileError(f"{name} is damaged: its hash does not match its content")
    expected = problem.to_dict()["sha256"]
    if content["id"] != problem.id or content["problem_sha256"] != expected:
        raise ProblemFileError(f"{name} belongs to another problem than {problem.id!r} with hash {expected[:12]}: to "
                               f"{str(content['id'])[:60]!r} with hash {str(content['problem_sha256'])[:12]}")


def _check_shapes(values, problem, name):
    n, p, count = len(problem.y0), len(problem.theta), 1 if problem.ts is None else len(problem.ts)
    shapes = {"y": (n, count), "loss": (), "grad_y0": (n,), "grad_theta": (p,), "grad_t0": (), "grad_t1": (),
              "grad_ts": (0,) if problem.ts is None else (count,)}
    if problem.hvp_direction is not None:
        shapes |= {"hvp_y0": (n,), "hvp_theta": (p,)}
    if "switch" in problem.rhs:
        shapes |= {"event_time": (len(switches_of(problem.rhs)),) if isinstance(problem.rhs["switch"], list) else ()}
    found = {quantity: value.shape for quantity, value in values.items()}
    if found != shapes:
        raise ProblemFileError(f"{name} must have values of shapes {shapes}, found {found}")


def _nested(entries):
    return [_nested(entry) for entry in entries] if isinstance(entries, list) else _rounded(entries)


def _rounded(entry):
    """(midpoint as float64, upper bound of the distance from the true value)."""
    mid, rad = (_exact(entry[key]) for key in ("mid", "rad"))
    nearest = float(entry["mid"])
    if rad < 0 or not math.isfinite(nearest):
        raise ValueError(f"the ball {entry['mid']} ± {entry['rad']}")
    bound = abs(fractions.Fraction(nearest) - mid) + rad
    radius = float(bound)
    return nearest, radius if fractions.Fraction(radius) >= bound else math.nextafter(radius, math.inf)


def _exact(text):
    """A decimal number as a fraction."""
    if not isinstance(text, str) or len(text) > MAX_FIGURES:
        raise ValueError(f"numbers must be strings of at most {MAX_FIGURES} figures")
    _, _, exponent = text.lower().partition("e")
    if exponent and abs(int(exponent)) > 4000:
        raise ValueError(f"the exponent {exponent}")
    return fractions.Fraction(text)
