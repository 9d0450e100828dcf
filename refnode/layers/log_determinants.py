"""log det(I + J) for a batch of small matrices J: exact, and by the series Σ_k (-1)^{k+1} tr(Jᵏ) / k along probes.

A *series* is (probes, coefficients): the value Σ_k c_k mean_v vᵀ Jᵏ v is a function of J that is differentiated as it
stands. With the probes e_1 .. e_d summed (`exact_series`) and c_k = (-1)^{k+1} / k it is the series itself, cut off.
With random probes and a random number N of terms, each divided by the probability P(N >= k) that it is reached
(`roulette_series`), its expectation is the whole series: Russian roulette.

NumPy forms, valid for complex arrays. J has shape (batch, d, d), probes (K, batch, d), coefficients (terms,).
"""
import numpy as np

from refnode.errors import InvalidInputError


# --- exact ----------------------------------------------------------------------------------------

def log_determinant(J):
    """log det(I + J) (batch,) of matrices with det(I + J) > 0."""
    shifted = np.eye(J.shape[-1]) + J
    return np.log(np.linalg.det(shifted)) if np.iscomplexobj(J) else np.linalg.slogdet(shifted)[1]


def log_determinant_jvp(J, J_tan):
    """tr((I + J)⁻¹ J_tan)."""
    return np.trace(np.linalg.solve(np.eye(J.shape[-1]) + J, J_tan), axis1=1, axis2=2)


def log_determinant_vjp(J, log_det_bar):
    """J_bar = (I + J)⁻ᵀ log_det_bar. Implements (FLOW-6)."""
    return log_det_bar[:, None, None] * np.linalg.inv(np.eye(J.shape[-1]) + J).transpose(0, 2, 1)


# --- the series -----------------------------------------------------------------------------------

def exact_series(batch, d, terms):
    """Probes and coefficients of Σ_{k <= terms} (-1)^{k+1} tr(Jᵏ) / k; the mean over probes is undone by a factor d."""
    return np.tile(np.eye(d)[:, None], (1, batch, 1)), d * alternating(terms)


def alternating(terms):
    """(-1)^{k+1} / k for k = 1 .. terms."""
    k = np.arange(1, terms + 1)
    return np.where(k % 2 == 1, 1.0, -1.0) / k


def roulette_series(probes, terms, exact_terms=2, stop=0.5):
    """The series of Russian roulette that was stopped after ``terms`` terms; see `roulette_terms`. Implements (FLOW-7).

    c_k = (-1)^{k+1} / (k P(N >= k)), where P(N >= k) = 1 for k <= exact_terms + 1, then (1 - stop)^{k - exact_terms - 1}.

    Parameters
    ----------
    probes : ndarray, shape (K, batch, d)
        Random signs or normal numbers.
    terms : int
        N, above ``exact_terms``.
    exact_terms : int
        Terms that are always taken.
    stop : float in (0, 1)
        Probability of stopping after each of the others.

    Raises
    ------
    InvalidInputError
        If ``stop`` or ``terms`` cannot be.
    """
    if not 0.0 < stop < 1.0:
        raise InvalidInputError(f"stop must lie in (0, 1), found {stop!r}")
    if terms <= exact_terms:
        raise InvalidInputError(f"terms must exceed exact_terms = {exact_terms}, found {terms!r}")
    beyond = np.maximum(np.arange(terms) - exact_terms, 0)
    return np.asarray(probes, dtype=np.float64), alternating(terms) / (1.0 - stop) ** beyond


def roulette_terms(rng, exact_terms=2, stop=0.5):
    """A random number of terms: N = exact_terms + n with P(n) = stop (1 - stop)^{n - 1}, n >= 1."""
    return exact_terms + int(rng.geometric(stop))


def series_log_determinant(J, probes, coefficients):
    """Σ_k c_k mean_v vᵀ Jᵏ v (batch,), with u_k = J u_{k-1}, u_0 = v."""
    u, total = probes, 0.0
    for c in coefficients:
        u = np.einsum("bij,kbj->kbi", J, u)
        total = total + c * np.mean(np.sum(probes * u, axis=2), axis=0)
    return total


def series_log_determinant_jvp(J, probes, coefficients, J_tan):
    """u_tan_k = J_tan u_{k-1} + J u_tan_{k-1}; probes are constants."""
    u, u_tan, total_tan = probes, np.zeros(probes.shape), 0.0
    for c in coefficients:
        u_tan = np.einsum("bij,kbj->kbi", J_tan, u) + np.einsum("bij,kbj->kbi", J, u_tan)
        u = np.einsum("bij,kbj->kbi", J, u)
        total_tan = total_tan + c * np.mean(np.sum(probes * u_tan, axis=2), axis=0)
    return total_tan


def series_log_determinant_vjp(J, probes, coefficients, log_det_bar):
    """J_bar (batch, d, d) = Σ_k u_bar_k u_{k-1}ᵀ, u_bar_k = c_k v log_det_bar / K + Jᵀ u_bar_{k+1}."""
    states = [probes]
    for _ in coefficients[1:]:
        states.append(np.einsum("bij,kbj->kbi", J, states[-1]))
    J_bar, u_bar = np.zeros(J.shape), np.zeros(probes.shape)
    for c, u in zip(coefficients[::-1], states[::-1]):
        u_bar = u_bar + (c / len(probes)) * probes * log_det_bar[None, :, None]     # total += c mean(v . u_k)
        J_bar = J_bar + np.einsum("kbi,kbj->bij", u_bar, u)                         # u_k = J u_{k-1}
        u_bar = np.einsum("bij,kbi->kbj", J, u_bar)
    return J_bar
