"""The same content as nested values and as flat arrays: {"loss": {"data": ...}} is the array "loss/data".

A list of numbers or strings is one array, a list of objects has its indices as steps ("rhs/pieces/0/expr"), and null is
an empty array of booleans, of which JSON content has none; one with two dimensions is an object without entries.
"""
import numpy as np

from refnode.errors import ProblemFileError
from refnode.interchange.safe_reading import shown

NULL, NOTHING_INSIDE = np.empty(0, dtype=bool), np.empty((0, 0), dtype=bool)


def arrays_from(content, prefix=""):
    """{key path: array} of nested dicts, lists, numbers, strings, booleans and None."""
    if isinstance(content, dict):
        if not content and prefix:
            return {prefix: NOTHING_INSIDE}
        entries = content.items()
    elif isinstance(content, list) and not _is_array(content):
        entries = enumerate(content)
    else:
        return {prefix: _array_of(content)}
    flat = {}
    for key, entry in entries:
        flat |= arrays_from(entry, f"{prefix}/{key}" if prefix else str(key))
    return flat


def _is_array(values):
    """Whether a list is one array: numbers or strings, or rows of numbers of one length."""
    kinds = set(map(type, values))
    if kinds == {list}:
        return len(set(map(len, values))) == 1 and all(set(map(type, row)) <= {int, float} for row in values)
    return kinds <= {int, float} or kinds == {str}


def _array_of(value):
    """Integers stay integers, so that what is given back is what was written."""
    if value is None:
        return NULL
    array = np.array(value)
    return array.astype(np.float64) if array.size == 0 or array.dtype == object else array


def nested_from(arrays, source):
    """The nested values of {key path: array}; raises ProblemFileError where two paths contradict each other."""
    root = {}
    for path, array in arrays.items():
        *steps, last = path.split("/")
        inner = root
        for step in steps:
            inner = inner.setdefault(step, {})
            if not isinstance(inner, dict):
                raise ProblemFileError(f"{source}: member {path} lies inside another")
        if last in inner:
            raise ProblemFileError(f"{source}: member {path} has others inside")
        inner[last] = _value_of(array, f"{source}: member {path}")
    return _with_lists(root)


def _value_of(array, place):
    if array.dtype == bool and array.size == 0:
        return None if array.ndim == 1 else {}
    try:
        value = array.tolist()
    except (ValueError, SystemError, OverflowError) as error:         # code points that are none
        raise ProblemFileError(f"{place}: {shown(str(error))}") from error
    return value


def _with_lists(content):
    """Objects whose keys are 0, 1, 2, ... are lists."""
    if not isinstance(content, dict):
        return content
    content = {key: _with_lists(entry) for key, entry in content.items()}
    if content and set(content) == {str(i) for i in range(len(content))}:
        return [content[str(i)] for i in range(len(content))]
    return content
