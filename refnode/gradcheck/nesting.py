"""Nested arguments and results as one vector, and back."""
import numpy as np

from refnode.errors import InvalidInputError
from refnode.gradcheck.evaluation import number_array


class Nest:
    """The numbers of a nested structure as one flat float64 vector, and structures of other numbers.

    Parameters
    ----------
    leaves : list of array_like
        Real numbers; each leaf keeps its shape and its floating-point type.
    rebuild : callable
        list of ndarray, in the order of the leaves -> structure.
    names : list of str
        One for each leaf.

    Raises
    ------
    InvalidInputError, InvalidTypeError
        A leaf holds no real numbers.
    """

    def __init__(self, leaves, rebuild, names):
        arrays = [_real(leaf, name) for leaf, name in zip(leaves, names, strict=True)]
        self.rebuild, self.leaf_names = rebuild, names
        self.shapes, self.types = [a.shape for a in arrays], [a.dtype for a in arrays]
        self.ends = np.cumsum([0, *(a.size for a in arrays)])
        self.vector = np.concatenate([a.reshape(-1) for a in arrays]).astype(np.float64) if arrays else np.empty(0)
        self.type = np.result_type(*self.types) if arrays else np.dtype(float)

    @property
    def names(self):
        """One for each number, such as "args[0][1,2]"."""
        return [name + (f"[{','.join(map(str, index))}]" if index else "")
                for name, shape in zip(self.leaf_names, self.shapes) for index in np.ndindex(*shape)]

    def of(self, vector):
        """The structure with the numbers of `vector`, rounded to the types of the leaves."""
        parts = [vector[start:end] for start, end in zip(self.ends, self.ends[1:])]
        return self.rebuild([part.reshape(shape).astype(kind) for part, shape, kind in zip(parts, self.shapes, self.types)])


def _real(leaf, name):
    array = number_array(leaf, name)
    if np.iscomplexobj(array):
        raise InvalidInputError(f"{name}: expected real numbers, found {array.dtype}; check real and imaginary parts "
                                "as separate real arguments")
    return array if array.dtype.kind == "f" else array.astype(np.float64)


def nest_of(tree, name):
    """The `Nest` of numbers, arrays, and tuples, lists and dicts of such."""
    found = list(_walk(tree, name))
    return Nest([leaf for leaf, _ in found], lambda arrays: _rebuilt(tree, iter(arrays)), [name for _, name in found])


def _walk(tree, name):
    """(leaf, name) in order; keys of a dict in theirs."""
    if tree is None:
        return
    if isinstance(tree, dict):
        for key, part in tree.items():
            yield from _walk(part, f"{name}[{key!r}]")
    elif isinstance(tree, (tuple, list)):
        for i, part in enumerate(tree):
            yield from _walk(part, f"{name}[{i}]")
    else:
        yield tree, name


def _rebuilt(tree, arrays):
    if tree is None:
        return None
    if isinstance(tree, dict):
        return {key: _rebuilt(part, arrays) for key, part in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(_rebuilt(part, arrays) for part in tree))
    if isinstance(tree, (tuple, list)):
        return type(tree)(_rebuilt(part, arrays) for part in tree)
    return next(arrays)
