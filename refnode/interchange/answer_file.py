"""Answer files: what a program found for a problem. See docs/interchange.md."""
import math

import numpy as np

from refnode.atomic_file import write_atomically
from refnode.errors import ProblemFileError
from refnode.interchange import safe_reading, schema_check
from refnode.interchange.problem_file import content_of, packed, require_format

FORMAT, VERSION = "refnode.answer", 1
NUMBERS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
NUMERIC = ("y", "loss", "grad", "hvp", "event_time", "jvp", "vjp")


def read_answer(path, problem=None):
    """The answer in a file, JSON or npz, as a dictionary; non-finite values are floats.

    Parameters
    ----------
    path : path_like
    problem : dict, optional
        The problem it should answer.

    Raises
    ------
    ProblemFileError
        And nothing else; also if the answer is one to another problem.
    """
    return answer_from(safe_reading.read_bytes(path), str(path), problem)


def answer_from(content, source, problem=None):
    """The answer in the bytes of a file, or of a program's output."""
    return checked_answer(content_of(content, source), source, problem)


def write_answer(answer, path):
    """Write an answer, by the suffix of the path: .json or .npz. The old file stays until the new one is whole."""
    answer = checked_answer(plain(answer), "answer")
    write_atomically(path, packed(answer, path))
    return answer


def checked_answer(answer, source="answer", problem=None):
    """The answer after every check that a file undergoes; `problem` must be the one it answers, if given.

    Shapes are not looked at here: an answer of a wrong length is a wrong answer, not a damaged file.
    """
    require_format(answer, FORMAT, VERSION, source)
    schema = schema_check.schema_named("answer")
    try:
        schema_check.require(answer, schema, schema)
    except schema_check.Fault as fault:
        raise ProblemFileError(f"{source}: {fault}") from fault
    if problem is not None and answer["problem_sha256"] != problem["sha256"]:
        raise ProblemFileError(
            f"{source}: at /problem_sha256: an answer to another problem: {answer['problem_sha256'][:12]}..., not "
            f"{problem['sha256'][:12]}... of {problem.get('id', 'this problem')}")
    return {key: _decoded(value) if key in NUMERIC else value for key, value in answer.items()}


def _decoded(value):
    """Strings for non-finite numbers as these numbers."""
    if isinstance(value, dict):
        return {key: _decoded(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return value if set(map(type, value)) <= {int, float} else [_decoded(entry) for entry in value]
    return NUMBERS.get(value, value) if isinstance(value, str) else value


def plain(value):
    """Arrays and NumPy's scalars as lists and numbers."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return [plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value
