"""Problem files: a question that a program in any language can answer. See docs/interchange.md."""
from refnode.atomic_file import write_atomically
from refnode.errors import InvalidInputError, ProblemFileError
from refnode.interchange import problem_rules, safe_reading, schema_check
from refnode.interchange.canonical_json import problem_sha256
from refnode.interchange.json_text import json_text
from refnode.interchange.key_paths import arrays_from, nested_from
from refnode.interchange.npz_members import archive_of, arrays_of

FORMAT, VERSION = "refnode.problem", 1


def read_problem(path):
    """The problem in a file, JSON or npz, as a dictionary that is known to be whole.

    Raises
    ------
    ProblemFileError
        And nothing else, whatever the file holds.
    """
    return checked_problem(content_of(safe_reading.read_bytes(path), str(path)), str(path))


def write_problem(problem, path):
    """Write a problem, by the suffix of the path: .json or .npz. The old file stays until the new one is whole."""
    problem = checked_problem(problem, "problem")
    write_atomically(path, packed(problem, path))
    return problem


def checked_problem(problem, source="problem"):
    """The problem with its ``sha256``, after every check that a file undergoes; the argument is left as it is.

    Raises
    ------
    ProblemFileError
        With the place as a JSON pointer, and what was expected there.
    """
    require_format(problem, FORMAT, VERSION, source)
    try:
        schema = schema_check.schema_named("problem")
        schema_check.require(problem, schema, schema)
        problem_rules.require_consistent(problem)
        found = problem_sha256(problem)
    except (schema_check.Fault, InvalidInputError) as fault:
        raise ProblemFileError(f"{source}: {fault}") from fault
    if problem.get("sha256", found) != found:
        raise ProblemFileError(f"{source}: at /sha256: the file says {problem['sha256'][:12]}..., its content has {found[:12]}"
                               "...: it was changed; for a problem of your own leave sha256 out")
    return {**problem, "sha256": found}


# --- what problem and answer files share ----------------------------------------------------------

def content_of(content, source):
    """The nested values in the bytes of a JSON text or an npz archive; the first bytes say which."""
    if content[:2] == b"PK":
        return nested_from(arrays_of(content, source), source)
    return safe_reading.parse_json(content, source)


def packed(content, path):
    """The bytes of a file with the suffix of ``path``."""
    suffix = str(path).rpartition(".")[2]
    if suffix == "json":
        return json_text(content).encode()
    if suffix == "npz":
        return archive_of(arrays_from(content))
    raise InvalidInputError(f"a problem or an answer is written as .json or .npz, found {str(path)!r}")


def require_format(content, name, version, source):
    """The two keys that say how to read the others."""
    if not isinstance(content, dict):
        raise ProblemFileError(f"{source}: at /: expected an object, found {safe_reading.shown(content)}")
    if content.get("format") != name:
        raise ProblemFileError(f"{source}: at /format: expected {name!r}, found {safe_reading.shown(content.get('format'))}")
    if type(content.get("version")) is not int or content["version"] != version:
        raise ProblemFileError(f"{source}: at /version: this refnode reads version {version}, found "
                               f"{safe_reading.shown(content.get('version'))}")
