"""A derivative that is known by what it does: `push` v ↦ J v, or `pull` w ↦ Jᵀw, on flat vectors."""
from dataclasses import replace

import numpy as np

from refnode.gradcheck.evaluation import length_along, typical_size
from refnode.gradcheck.jacobian import check_jacobian
from refnode.gradcheck.taylor_test import random_direction
from refnode.gradcheck.verdict import check_gradient

ROUNDINGS = 64    # of the largest output's derivative: what cancellation among its terms may leave in a small one


def check_push(value, x, push, names, row_names, **options):
    """J, column by column from `push`, entry by entry; options as in `check_jacobian`."""
    m, n = len(row_names), len(names)
    columns = np.array([push(unit) for unit in np.eye(n)]).reshape(n, m)
    return replace(check_jacobian(value, x, columns.T, names=names, row_names=row_names, **options), title="jvp")


def check_pull(value, x, pull, names, row_names, **options):
    """J, row by row from `pull`, entry by entry; options as in `check_jacobian`."""
    m, n = len(row_names), len(names)
    rows = np.array([pull(unit) for unit in np.eye(m)]).reshape(m, n)
    return replace(check_jacobian(value, x, rows, names=names, row_names=row_names, **options), title="vjp")


def check_push_along(value, x, push, row_names, *, seed=0, atol=0.0, rtol, eps):
    """J v along one random v, every output judged by its own size.

    Implemented as the derivative of τ ↦ value(x + τ v) at τ = 0. `eps` is the spacing of numbers in value: a
    small output of a sum whose terms cancel is forgiven ROUNDINGS·eps of the largest.
    """
    x = np.asarray(x, dtype=np.float64)
    size = typical_size(x)
    v = random_direction(size, seed)
    yours = np.asarray(push(v), dtype=np.float64).reshape(-1)
    atol = atol + ROUNDINGS * eps * float(np.abs(yours).max(initial=0.0, where=np.isfinite(yours)))
    report = check_jacobian(lambda tau: value(x + tau[0] * v), [0.0], yours[:, None], names=["v, v random"],
                            row_names=row_names, scale=length_along(v, size), rtol=rtol, atol=atol, seed=seed)
    return replace(report, title="jvp")


def check_pull_of(value, x, pull, names, m, *, dtype, seed=0, **options):
    """Jᵀw for one random w, as the gradient of x ↦ ⟨w, value(x)⟩; options as in `check_gradient`.

    The sum is handed on in the type of `value`, so that its rounding is known.
    """
    w = random_direction(np.ones(m), [seed, 3]).astype(dtype).astype(np.float64)
    report = check_gradient(lambda x: dtype.type(w @ value(x)), x, pull(w), names=names, seed=seed, **options)
    return replace(report, title="vjp")
