"""What demonstrations share beside their looks: errors, checks of what was asked, and the files they write."""
import json

import numpy as np

from refnode.demos.pictures import picture
from refnode.errors import InvalidInputError
from refnode.sensitivity.recipes import recipe_named


def rms(error):
    """Root mean square over all entries."""
    return float(np.sqrt(np.mean(error ** 2)))


def positive_count(name, value):
    """``value`` as a positive integer, or an InvalidInputError."""
    if int(value) != value or value < 1:
        raise InvalidInputError(f"{name} must be a positive integer, found {value!r}")
    return int(value)


def require_reverse_sweep(recipe, p):
    """Refuse a recipe that costs a tangent for each of about p parameters."""
    if recipe_named(recipe).needs != "vjp":
        raise InvalidInputError(f"recipe {recipe!r} pushes a tangent for every parameter, and there are {p}: take "
                                "'discrete', or another with a reverse sweep")


def write_result(result, folder, name, size, draw):
    """Write ``name``.png, by ``draw(figure)``, and ``name``.json, by ``result.to_dict()``; the files written."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{name}.png", folder / f"{name}.json"]
    with picture(size, files[:1]) as figure:
        draw(figure)
    files[1].write_text(json.dumps(result.to_dict(), indent=1) + "\n", encoding="utf-8")
    return files
