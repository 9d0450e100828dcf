"""The dot-product test: a transpose is a transpose if ⟨w, S v⟩ = ⟨Sᵀ w, v⟩."""
from dataclasses import dataclass

import numpy as np

from refnode.errors import InvalidInputError
from refnode.gradcheck.evaluation import real_array, require_callable

UNIT_ROUNDOFF = 2.0**-53


@dataclass(frozen=True)
class DotProductTest:
    """Both sides of the identity ⟨w, S v⟩ = ⟨Sᵀ w, v⟩.

    Attributes
    ----------
    forward, reverse : float
        ⟨w, S v⟩ and ⟨Sᵀ w, v⟩.
    scale : float
        The larger of Σ|wᵢ (Sv)ᵢ| and Σ|(Sᵀw)ⱼ vⱼ|.
    mismatch : float
        |forward − reverse| / scale.
    bound : float
        Largest mismatch that rounding explains.
    """

    forward: float
    reverse: float
    scale: float
    mismatch: float
    bound: float

    @property
    def passed(self):
        return bool(self.mismatch <= self.bound)


def dot_product_test(jvp, vjp, x_tan, y_bar, *, roundings=None):
    """Check that `vjp` is the transpose of `jvp`, to rounding.

    Each side is a sum of products whose factors went through k roundings, so its error is at most
    γ_k Σ|aᵢ bᵢ| with γ_k = k u/(1 − k u), u = 2⁻⁵³, provided no cancellation inside `jvp` or `vjp` is worse
    than in the sums themselves. Hence |forward − reverse| ≤ 2 γ_k · scale.

    Parameters
    ----------
    jvp : callable
        x_tan -> S x_tan, shaped like y_bar.
    vjp : callable
        y_bar -> Sᵀ y_bar, shaped like x_tan.
    x_tan, y_bar : number, array, or tuple, list or dict of such
        The tangent v and the cotangent w, nested as the functions take and return them.
    roundings : int, optional
        k, the longest chain of roundings in a side. By default 8 (sizes of v and w): enough for a dense
        product and the functions of a layer; for a solve pass (steps × stages × the chain in f).

    Returns
    -------
    DotProductTest

    References
    ----------
    Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed. (2002), §3.1.
    """
    require_callable(jvp, "jvp")
    require_callable(vjp, "vjp")
    v, w = leaves(x_tan, "x_tan"), leaves(y_bar, "y_bar")
    forward = _products(w, leaves(jvp(x_tan), "jvp(x_tan)"), "jvp(x_tan)", "y_bar")
    reverse = _products(v, leaves(vjp(y_bar), "vjp(y_bar)"), "vjp(y_bar)", "x_tan")
    scale = float(max(np.abs(forward).sum(), np.abs(reverse).sum()))
    difference = abs(float(forward.sum() - reverse.sum()))
    chain = 8 * (forward.size + reverse.size) if roundings is None else roundings
    return DotProductTest(forward=float(forward.sum()), reverse=float(reverse.sum()), scale=scale,
                          mismatch=difference / scale if scale else 0.0, bound=2 * _gamma(chain))


def leaves(tree, name):
    """The arrays of a nested tuple, list or dict, in order, each flat and float64."""
    if isinstance(tree, dict):
        tree = [tree[key] for key in sorted(tree)]
    if isinstance(tree, (tuple, list)):
        return [leaf for i, part in enumerate(tree) for leaf in leaves(part, f"{name}[{i}]")]
    return [real_array(tree, name).reshape(-1)]


def _products(model, found, name, model_name):
    """Elementwise products of two lists of leaves of the same sizes, as one vector."""
    expected_sizes, found_sizes = [leaf.size for leaf in model], [leaf.size for leaf in found]
    if expected_sizes != found_sizes:
        raise InvalidInputError(f"{name}: expected leaves of sizes {expected_sizes} like {model_name}, "
                                f"found {found_sizes}")
    return np.concatenate([a * b for a, b in zip(model, found)]) if model else np.empty(0)


def _gamma(k):
    return k * UNIT_ROUNDOFF / (1 - k * UNIT_ROUNDOFF)
