"""Likelihoods and divergences as triples, with hvp: Gaussian, Bernoulli, Poisson process; KL; reparameterisation; masked squares.

The densities are functions of arrays, entry by entry, that broadcast as NumPy does: their value is an array of
log-densities, which its user adds up, over the observed entries only where some are missing. A vjp takes
the cotangent of that array and returns one cotangent for each argument, of the argument's shape; an hvp their tangents.
"""
import functools
import math

import numpy as np
from numba import njit

from refnode.errors import InvalidInputError
from refnode.layers.activations import sigmoid, softplus
from refnode.losses import Linear, running_cost

HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


def summed_to(bar, value):
    """Broadcasting transposed: ``bar`` summed over the axes along which ``value`` was repeated, in its shape."""
    shape = np.shape(value)
    bar = np.sum(bar, axis=tuple(range(np.ndim(bar) - len(shape))))
    repeated = tuple(axis for axis, size in enumerate(shape) if size == 1 and bar.shape[axis] != 1)
    return np.sum(bar, axis=repeated, keepdims=True)


# --- Gaussian -------------------------------------------------------------------------------------

def gaussian_log_likelihood(x, mean, log_std):
    """log N(x; mean, exp(log_std)²) = -log(2π)/2 - log_std - q²/2, q = (x - mean) exp(-log_std), entry by entry."""
    q = (x - mean) * np.exp(-log_std)
    return -HALF_LOG_TWO_PI - log_std - 0.5 * q * q


def gaussian_log_likelihood_jvp(x, mean, log_std, x_tan, mean_tan, log_std_tan):
    """Tangent of `gaussian_log_likelihood`: (q² - 1) log_std_tan - q exp(-log_std) (x_tan - mean_tan)."""
    q = (x - mean) * np.exp(-log_std)
    return (q * q - 1.0) * log_std_tan - q * np.exp(-log_std) * (x_tan - mean_tan)


def gaussian_log_likelihood_vjp(x, mean, log_std, value_bar):
    """Cotangents of `gaussian_log_likelihood`: (x_bar, mean_bar, log_std_bar)."""
    q = (x - mean) * np.exp(-log_std)
    mean_bar = q * np.exp(-log_std) * value_bar                     # q = (x - mean) exp(-log_std), value = ... - q²/2
    return summed_to(-mean_bar, x), summed_to(mean_bar, mean), summed_to((q * q - 1.0) * value_bar, log_std)


def gaussian_log_likelihood_hvp(x, mean, log_std, x_tan, mean_tan, log_std_tan, value_bar, value_bar_tan):
    """Tangent of `gaussian_log_likelihood_vjp`: (x_bar_tan, mean_bar_tan, log_std_bar_tan)."""
    w = np.exp(-log_std)
    q = (x - mean) * w
    q_tan = (x_tan - mean_tan) * w - q * log_std_tan
    mean_bar_tan = w * ((q_tan - q * log_std_tan) * value_bar + q * value_bar_tan)          # mean_bar = q w value_bar
    log_std_bar_tan = 2.0 * q * q_tan * value_bar + (q * q - 1.0) * value_bar_tan           # log_std_bar = (q² - 1) value_bar
    return summed_to(-mean_bar_tan, x), summed_to(mean_bar_tan, mean), summed_to(log_std_bar_tan, log_std)


# --- Bernoulli ------------------------------------------------------------------------------------

def bernoulli_log_likelihood(x, logit):
    """log p(x) = x logit - log(1 + exp logit), for x in {0, 1} with p(1) = σ(logit), entry by entry."""
    return x * logit - softplus(logit)


def bernoulli_log_likelihood_jvp(x, logit, x_tan, logit_tan):
    """Tangent of `bernoulli_log_likelihood`: x_tan logit + (x - σ(logit)) logit_tan."""
    return x_tan * logit + (x - sigmoid(logit)) * logit_tan


def bernoulli_log_likelihood_vjp(x, logit, value_bar):
    """Cotangents of `bernoulli_log_likelihood`: (x_bar, logit_bar)."""
    return summed_to(logit * value_bar, x), summed_to((x - sigmoid(logit)) * value_bar, logit)


def bernoulli_log_likelihood_hvp(x, logit, x_tan, logit_tan, value_bar, value_bar_tan):
    """Tangent of `bernoulli_log_likelihood_vjp`: (x_bar_tan, logit_bar_tan)."""
    p = sigmoid(logit)
    x_bar_tan = logit_tan * value_bar + logit * value_bar_tan                               # x_bar = logit value_bar
    logit_bar_tan = (x_tan - p * (1.0 - p) * logit_tan) * value_bar + (x - p) * value_bar_tan   # logit_bar = (x - p) value_bar
    return summed_to(x_bar_tan, x), summed_to(logit_bar_tan, logit)


# --- divergence of Gaussians, and samples of one ---------------------------------------------------

def gaussian_kl(mean, log_std, prior_mean, prior_log_std):
    """KL(N(mean, std²) ‖ N(prior_mean, prior_std²)) = l + (exp(-2 l) + q²)/2 - 1/2, entry by entry.

    l = prior_log_std - log_std, q = (mean - prior_mean) exp(-prior_log_std). Of diagonal Gaussians it is the sum.
    """
    l, q = prior_log_std - log_std, (mean - prior_mean) * np.exp(-prior_log_std)
    return l + 0.5 * (np.exp(-2.0 * l) + q * q) - 0.5


def gaussian_kl_jvp(mean, log_std, prior_mean, prior_log_std, mean_tan, log_std_tan, prior_mean_tan, prior_log_std_tan):
    """Tangent of `gaussian_kl`: (1 - exp(-2 l)) l_tan + q q_tan."""
    l, q = prior_log_std - log_std, (mean - prior_mean) * np.exp(-prior_log_std)
    l_tan = prior_log_std_tan - log_std_tan
    q_tan = (mean_tan - prior_mean_tan) * np.exp(-prior_log_std) - q * prior_log_std_tan
    return (1.0 - np.exp(-2.0 * l)) * l_tan + q * q_tan


def gaussian_kl_vjp(mean, log_std, prior_mean, prior_log_std, value_bar):
    """Cotangents of `gaussian_kl`: (mean_bar, log_std_bar, prior_mean_bar, prior_log_std_bar)."""
    l, q = prior_log_std - log_std, (mean - prior_mean) * np.exp(-prior_log_std)
    l_bar, q_bar = (1.0 - np.exp(-2.0 * l)) * value_bar, q * value_bar      # value = l + (exp(-2 l) + q²)/2 - 1/2
    mean_bar = q_bar * np.exp(-prior_log_std)                           # q = (mean - prior_mean) exp(-prior_log_std)
    return (summed_to(mean_bar, mean), summed_to(-l_bar, log_std), summed_to(-mean_bar, prior_mean),
            summed_to(l_bar - q * q_bar, prior_log_std))


def gaussian_kl_hvp(mean, log_std, prior_mean, prior_log_std, mean_tan, log_std_tan, prior_mean_tan, prior_log_std_tan,
                    value_bar, value_bar_tan):
    """Tangent of `gaussian_kl_vjp`: (mean_bar_tan, log_std_bar_tan, prior_mean_bar_tan, prior_log_std_bar_tan)."""
    w, ratio = np.exp(-prior_log_std), np.exp(-2.0 * (prior_log_std - log_std))
    q = (mean - prior_mean) * w
    q_tan = (mean_tan - prior_mean_tan) * w - q * prior_log_std_tan
    l_bar_tan = 2.0 * ratio * (prior_log_std_tan - log_std_tan) * value_bar + (1.0 - ratio) * value_bar_tan
    q_bar, q_bar_tan = q * value_bar, q_tan * value_bar + q * value_bar_tan
    mean_bar_tan = (q_bar_tan - q_bar * prior_log_std_tan) * w                              # mean_bar = q_bar w
    prior_log_std_bar_tan = l_bar_tan - q_tan * q_bar - q * q_bar_tan                       # ... = l_bar - q q_bar
    return (summed_to(mean_bar_tan, mean), summed_to(-l_bar_tan, log_std), summed_to(-mean_bar_tan, prior_mean),
            summed_to(prior_log_std_bar_tan, prior_log_std))


def reparameterise(mean, log_std, noise):
    """A sample of N(mean, exp(log_std)²) as a function of its parameters: mean + exp(log_std) noise."""
    return mean + np.exp(log_std) * noise


def reparameterise_jvp(mean, log_std, noise, mean_tan, log_std_tan, noise_tan):
    """Tangent of `reparameterise`."""
    return mean_tan + np.exp(log_std) * (noise * log_std_tan + noise_tan)


def reparameterise_vjp(mean, log_std, noise, sample_bar):
    """Cotangents of `reparameterise`: (mean_bar, log_std_bar, noise_bar)."""
    noise_bar = np.exp(log_std) * sample_bar                        # sample = mean + exp(log_std) noise
    return summed_to(sample_bar, mean), summed_to(noise * noise_bar, log_std), summed_to(noise_bar, noise)


def reparameterise_hvp(mean, log_std, noise, mean_tan, log_std_tan, noise_tan, sample_bar, sample_bar_tan):
    """Tangent of `reparameterise_vjp`: (mean_bar_tan, log_std_bar_tan, noise_bar_tan)."""
    noise_bar = np.exp(log_std) * sample_bar
    noise_bar_tan = noise_bar * log_std_tan + np.exp(log_std) * sample_bar_tan
    log_std_bar_tan = noise_tan * noise_bar + noise * noise_bar_tan                         # log_std_bar = noise noise_bar
    return summed_to(sample_bar_tan, mean), summed_to(log_std_bar_tan, log_std), summed_to(noise_bar_tan, noise)


# --- mean squared error with missing entries -------------------------------------------------------

def masked_mean_square(x, data, observed):
    """The mean of (x - data)² over the entries marked in ``observed``; 0 if there are none. A number."""
    residual = np.where(observed, x - data, 0.0)
    return np.sum(residual * residual) / max(np.count_nonzero(observed), 1)


def masked_mean_square_jvp(x, data, observed, x_tan, data_tan):
    """Tangent of `masked_mean_square`."""
    product = np.where(observed, (x - data) * (x_tan - data_tan), 0.0)
    return 2.0 * np.sum(product) / max(np.count_nonzero(observed), 1)


def masked_mean_square_vjp(x, data, observed, value_bar):
    """Cotangents of `masked_mean_square`: (x_bar, data_bar)."""
    x_bar = np.where(observed, x - data, 0.0) * (2.0 * value_bar / max(np.count_nonzero(observed), 1))
    return x_bar, -x_bar


def masked_mean_square_hvp(x, data, observed, x_tan, data_tan, value_bar, value_bar_tan):
    """Tangent of `masked_mean_square_vjp`: (x_bar_tan, data_bar_tan)."""
    changed = np.where(observed, (x_tan - data_tan) * value_bar + (x - data) * value_bar_tan, 0.0)
    x_bar_tan = changed * (2.0 / max(np.count_nonzero(observed), 1))
    return x_bar_tan, -x_bar_tan


# --- Poisson process ------------------------------------------------------------------------------

def poisson_process(counts, width):
    """The loss -Σ_k log λ(t_k) + ∫ λ dt of events at the observation times, λ = exp(y_0), summed over sequences.

    It is minus the log-likelihood of an inhomogeneous Poisson process whose log-intensity is the first entry of the
    state. Several processes may run side by side, each in ``width`` entries of the state. The integral is a
    running cost: one more state, under the solver's error control.

    Parameters
    ----------
    counts : array_like, shape (batch, K)
        How many events of each process happened at each observation time, or, of R records of the process, R-th of
        them: the loss is then the mean over the records.
    width : int
        Entries of the state of one process; the state of the problem is (batch width,).

    Returns
    -------
    refnode.losses.Loss

    Raises
    ------
    InvalidInputError
        If a count is negative or not finite, or the shape is another.

    References
    ----------
    Chen, Rubanova, Bettencourt & Duvenaud, Neural ordinary differential equations, 2018, section 5.
    """
    counts = np.asarray(counts, dtype=np.float64)
    if counts.ndim != 2 or not counts.shape[0]:
        raise InvalidInputError(f"counts must have shape (batch, K) with batch > 0, found {counts.shape}")
    bad = np.argwhere(~(counts >= 0.0) | ~np.isfinite(counts))
    if bad.size:
        raise InvalidInputError(f"counts must be finite and not negative, found counts{bad[0].tolist()} = "
                                f"{counts[tuple(bad[0])]}")
    weights = np.zeros((counts.shape[0], width, counts.shape[1]))
    weights[:, 0] = -counts
    return Linear(weights.reshape(-1, counts.shape[1])) + intensity_cost(width)


@functools.lru_cache(maxsize=16)            # one object for a width, or every problem would compile its own
def intensity_cost(width):
    """∫ Σ_b exp(y_{b width}) dt as a running cost: what `poisson_process` integrates."""
    wrap = njit(error_model="numpy")
    return running_cost(wrap(intensity(width)), wrap(intensity_jvp(width)), wrap(intensity_vjp(width)),
                        wrap(intensity_hvp(width)))


def intensity(width):
    """g = Σ_b exp(y_{b width}): the sum of the intensities."""
    def g(t, y, theta):
        total = 0.0 * y[0]
        for i in range(0, y.shape[0], width):
            total += np.exp(y[i])
        return total
    return g


def intensity_jvp(width):
    """Tangent of `intensity`."""
    def g_jvp(t, y, theta, t_tan, y_tan, theta_tan):
        total = 0.0
        for i in range(0, y.shape[0], width):
            total += np.exp(y[i]) * y_tan[i]
        return total
    return g_jvp


def intensity_vjp(width):
    """Transpose of `intensity_jvp`."""
    def g_vjp(t, y, theta, g_bar, t_bar, y_bar, theta_bar):
        for i in range(0, y.shape[0], width):
            y_bar[i] += np.exp(y[i]) * g_bar                        # total += exp(y[i])
    return g_vjp


def intensity_hvp(width):
    """Tangent of `intensity_vjp`."""
    def g_hvp(t, y, theta, t_tan, y_tan, theta_tan, g_bar, g_bar_tan, t_bar_tan, y_bar_tan, theta_bar_tan):
        for i in range(0, y.shape[0], width):
            y_bar_tan[i] += np.exp(y[i]) * (y_tan[i] * g_bar + g_bar_tan)     # y_bar[i] += exp(y[i]) g_bar
    return g_hvp
