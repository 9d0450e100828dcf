"""The arguments of `check_gradient`, validated once."""
import numbers
from dataclasses import dataclass

import numpy as np

from refnode.errors import InvalidInputError, InvalidTypeError
from refnode.gradcheck.gradient_report import versions
from refnode.gradcheck.judgement import MARGIN
from refnode.gradcheck.evaluation import number_array, real_array, require_callable, typical_size

METHODS = ("fd", "complex", "taylor", "dot")


@dataclass(frozen=True)
class Request:
    """The validated arguments of `check_gradient`."""

    fun: object
    x: np.ndarray
    grad: object
    names: list
    shapes: dict
    candidates: dict
    size: np.ndarray
    methods: tuple
    settings: dict


def validated(fun, x, grad, names, rtol, atol, methods, seed, max_evals, scale, shapes, candidates):
    require_callable(fun, "fun")
    x = real_array(x, "x")
    settings = {"rtol": _tolerance(rtol, "rtol"), "atol": _tolerance(atol, "atol"), "methods": _methods(methods),
                "seed": _whole(seed, "seed", 0), "margin": MARGIN, "versions": versions(),
                "max_evals": None if max_evals is None else _whole(max_evals, "max_evals", 1)}
    shapes = _shapes(shapes, x)
    candidates = {str(key): _of_size(value, x, f"candidates[{key!r}]") for key, value in (candidates or {}).items()}
    return Request(fun=fun, x=x, grad=grad if callable(grad) else real_numbers(grad, "grad"),
                    names=_names(names, shapes, x), shapes=shapes, candidates=candidates,
                    size=typical_size(x, scale).reshape(-1), methods=settings["methods"], settings=settings)


def real_numbers(value, name):
    """An array that may hold NaN (which is for the verdict to say) but must hold real numbers."""
    array = number_array(value, name)
    if np.iscomplexobj(array):
        raise InvalidInputError(f"{name}: expected real numbers, found complex ones")
    return array.astype(np.float64)


def _tolerance(value, name):
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise InvalidTypeError(f"{name}: expected a number, found {type(value).__name__}")
    if not 0 <= value < np.inf:
        raise InvalidInputError(f"{name}: expected a finite number ≥ 0, found {value}")
    return float(value)


def _whole(value, name, least):
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise InvalidTypeError(f"{name}: expected an integer, found {type(value).__name__}")
    if value < least:
        raise InvalidInputError(f"{name}: expected an integer ≥ {least}, found {value}")
    return int(value)


def _methods(methods):
    if isinstance(methods, str) or not isinstance(methods, (tuple, list, set, frozenset)):
        raise InvalidTypeError(f"methods: expected a sequence of names such as (\"fd\", \"dot\"), found {methods!r}")
    unknown = [method for method in methods if method not in METHODS]
    if unknown or not methods:
        raise InvalidInputError(f"methods: expected some of {METHODS}, found {unknown or 'none'}")
    return tuple(method for method in METHODS if method in methods)


def _names(names, shapes, x):
    if names is None:
        blocks = shapes or {"x": x.shape}
        return [_component_name(block, index) for block, shape in blocks.items() for index in np.ndindex(*shape)]
    names = [str(name) for name in names]
    if len(names) != x.size:
        raise InvalidInputError(f"names: expected {x.size}, one for each component of x, found {len(names)}")
    return names


def _component_name(block, index):
    return f"{block}[{','.join(map(str, index))}]" if index else block


def _shapes(shapes, x):
    if shapes is None:
        return {"x": x.shape} if x.ndim > 1 else {}
    shapes = {str(block): tuple(int(k) for k in shape) for block, shape in shapes.items()}
    total = sum(int(np.prod(shape)) for shape in shapes.values())
    if total != x.size:
        raise InvalidInputError(f"shapes: expected {x.size} numbers like x, found {total}")
    return shapes


def _of_size(value, x, name):
    value = real_array(value, name)
    if value.size != x.size:
        raise InvalidInputError(f"{name}: expected {x.size} numbers like x, found {value.size}")
    return value.reshape(-1)
