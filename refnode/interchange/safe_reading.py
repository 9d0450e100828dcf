"""Reading what may be damaged or hostile: limits first, then bytes, then values. Nothing is unpickled or evaluated.

Every function raises `ProblemFileError` and nothing else, with the place as a JSON pointer (RFC 6901) where there is one.
"""
import json
import math
import os
import stat

import numpy as np

from refnode.errors import ProblemFileError

MAX_BYTES = 16 * 2**20          # of a file; larger problems than this should be split
MAX_VALUES = 2**20              # numbers, strings and so on in a file
MAX_CONTAINERS = 20_000         # lists and objects in a file
MAX_KEYS = 10_000               # of all objects in a file together
MAX_DEPTH = 32                  # lists and objects inside each other
MAX_NUMBER = 400                # characters of a number


class Refused:
    """Stands in a parsed value for what is not taken, until its place is known."""

    def __init__(self, reason):
        self.reason = reason


def read_bytes(path, limit=MAX_BYTES):
    """The bytes of a regular file of at most ``limit`` bytes."""
    try:
        with open(path, "rb", opener=_open_at_once) as stream:
            status = os.fstat(stream.fileno())
            content = stream.read(limit + 1) if stat.S_ISREG(status.st_mode) else None
    except (OSError, ValueError) as error:                # ValueError: a name with a null character
        raise ProblemFileError(f"{shown(str(path))[1:-1]}: {getattr(error, 'strerror', None) or error}") from error
    if content is None:
        raise ProblemFileError(f"{path}: not a regular file")
    if len(content) > limit:
        raise ProblemFileError(f"{path}: {max(status.st_size, len(content))} bytes, at most {limit} are read")
    return content


def _open_at_once(path, flags):
    """Without waiting for the other end of a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


# --- JSON -----------------------------------------------------------------------------------------

def parse_json(content, source="JSON"):
    """The value of a JSON text in UTF-8: no more than the limits allow, no number that is none, no key twice.

    Parameters
    ----------
    content : bytes
    source : str
        Of the message: a path, or a name.
    """
    if len(content) > MAX_BYTES:
        raise ProblemFileError(f"{source}: {len(content)} bytes, at most {MAX_BYTES} are read")
    require_moderate(content, source)
    try:
        value = json.loads(content.decode("utf-8-sig"), object_pairs_hook=_object, parse_constant=_not_a_number,
                           parse_int=_integer, parse_float=_real)
    except UnicodeDecodeError as error:
        raise ProblemFileError(f"{source}: not UTF-8 at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise ProblemFileError(f"{source}: not JSON: {error.msg} at line {error.lineno} column {error.colno}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise ProblemFileError(f"{source}: not JSON: {error}") from error
    _require_all_taken(value, "", source)
    return value


def require_moderate(content, source):
    """Count levels, lists, objects and values before anything is built."""
    bare = np.frombuffer(content, dtype=np.uint8)
    bare = bare[~inside_strings(bare)]
    opening = (bare == ord("[")) | (bare == ord("{"))
    closing = (bare == ord("]")) | (bare == ord("}"))
    containers = int(np.count_nonzero(opening))
    if containers > MAX_CONTAINERS:
        raise ProblemFileError(f"{source}: {containers} lists and objects, at most {MAX_CONTAINERS} are read")
    values = containers + int(np.count_nonzero(bare == ord(","))) + 1
    if values > MAX_VALUES:
        raise ProblemFileError(f"{source}: {values} values, at most {MAX_VALUES} are read")
    keys = int(np.count_nonzero(bare == ord(":")))
    if keys > MAX_KEYS:
        raise ProblemFileError(f"{source}: {keys} keys, at most {MAX_KEYS} are read")
    levels = np.cumsum(opening.astype(np.int32) - closing.astype(np.int32))
    if levels.size and levels.max() > MAX_DEPTH:
        raise ProblemFileError(f"{source}: lists and objects {levels.max()} deep, at most {MAX_DEPTH} are read")


def inside_strings(text):
    """Which characters of a JSON text stand in strings: behind an odd number of quotes that no backslash escapes."""
    quotes = text == ord('"')
    backslash = text == ord("\\")
    if backslash.any():
        place = np.arange(text.size, dtype=np.int32)
        other = np.maximum.accumulate(np.where(backslash, -1, place), dtype=np.int32)      # the last that is none
        escaped = np.zeros_like(quotes)
        escaped[1:] = (place[:-1] - other[:-1]) % 2 == 1                                    # behind an odd number of them
        quotes &= ~escaped
    return np.cumsum(quotes, dtype=np.int32) % 2 == 1


def _object(pairs):
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    seen = set()
    twice = next(key for key, _ in pairs if key in seen or seen.add(key))
    return Refused(f"the key {shown(twice)} stands there twice")


def _not_a_number(text):
    return Refused(f'{text} is not JSON; write non-finite values as strings, "{text}"')


def _integer(text):
    if len(text) > MAX_NUMBER:
        return Refused(f"a number of {len(text)} characters, at most {MAX_NUMBER} are read")
    value = int(text)
    return value if abs(value) <= 2**53 else _real(text)


def _real(text):
    if len(text) > MAX_NUMBER:
        return Refused(f"a number of {len(text)} characters, at most {MAX_NUMBER} are read")
    value = float(text)
    return value if math.isfinite(value) else Refused(f"{shown(text)} is beyond the range of float64")


def _require_all_taken(value, pointer, source):
    """Raise for the first `Refused`, with its place."""
    if isinstance(value, Refused):
        raise ProblemFileError(f"{source}: at {pointer or '/'}: {value.reason}")
    if isinstance(value, dict):
        for key, entry in value.items():
            _require_all_taken(entry, f"{pointer}/{pointer_step(key)}", source)
    elif isinstance(value, list) and not set(map(type, value)) <= {int, float, str}:
        for i, entry in enumerate(value):
            _require_all_taken(entry, f"{pointer}/{i}", source)


def pointer_step(key):
    """A key as it stands in a JSON pointer, shortened and free of what terminals obey."""
    return shown(str(key).replace("~", "~0").replace("/", "~1"))[1:-1]


def shown(value):
    """The beginning of a value in printable ASCII, for messages."""
    text = ascii(value if not isinstance(value, (list, dict)) else type(value).__name__)
    return text if len(text) <= 60 else text[:57] + "..." + text[:1]
