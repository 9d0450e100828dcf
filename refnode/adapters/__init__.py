"""Other libraries' gradients of a problem of the reference set: one small file a library.

An adapter is a module with

    LIBRARY                      the name people know it by
    MODES                        name -> `Mode`: the ways the library has to differentiate a solve
    versions()                   {package: version}; the first import of the library
    answer(problem, mode, method, rtol, atol) -> dict

where ``problem`` is the interchange form of a problem and the answer is the interchange form of an answer
("refnode.answer", version 1). The right-hand side and the loss are translated by `translate`; whatever a
library cannot say raises `NotExpressible`. No foreign library is imported before it is asked for.
"""
import importlib

from refnode.errors import InvalidInputError

ADAPTERS = {                # name on the command line -> module
    "torchdiffeq": "refnode.adapters.torchdiffeq",
    "diffrax": "refnode.adapters.diffrax",
    "torchode": "refnode.adapters.torchode",
    "casadi": "refnode.adapters.casadi",
    "autograd": "refnode.adapters.autograd",
    "scipy": "refnode.adapters.scipy",
    "refnode": "refnode.adapters.recipe_adapter",
}


def adapter_named(name):
    """The adapter module of that name, or of a dotted path.

    Raises
    ------
    InvalidInputError
        Listing the names there are.
    """
    if name not in ADAPTERS and "." not in name:
        raise InvalidInputError(f"there is no adapter {name!r}; there are {', '.join(ADAPTERS)}")
    return importlib.import_module(ADAPTERS.get(name, name))
