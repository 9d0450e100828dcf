"""Names of a package that are imported when first asked for: an import is to take little longer than Numba's."""
import importlib


def importer(package, homes):
    """``__getattr__`` and ``__dir__`` of a package (PEP 562), which bring its late names.

    Parameters
    ----------
    package : dict
        Its ``globals()``.
    homes : dict of str
        The module that holds each late name; of a late module, the module itself.

    Returns
    -------
    tuple of two functions
    """
    def found(name):
        if name not in homes:
            raise AttributeError(f"module {package['__name__']!r} has no attribute {name!r}")
        home = importlib.import_module(homes[name])
        package[name] = getattr(home, name, home)
        return package[name]

    return found, lambda: sorted({*package, *homes})
