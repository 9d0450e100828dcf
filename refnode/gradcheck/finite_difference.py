"""Central finite differences: a sweep of steps, extrapolated, with an error estimate measured from the data."""
from dataclasses import dataclass

import numpy as np

from refnode.gradcheck.evaluation import (GuardedFunction, gradient_scale, length_along, real_array,
                                          real_direction, require_scalar, typical_size, unit_vector)
from refnode.gradcheck.extrapolation import neville_table, noise_samples, truncation_estimate

FIRST_LEVELS = tuple(range(3, 11))   # steps 2⁻³ … 2⁻¹⁰ of the typical size
FINER = 5                            # levels added when the best estimate lies at the fine end
FINEST_LEVEL = 30
PROBE_LEVELS = tuple(range(17, 22))  # far below the steps in use: is a noisy function smooth at a smaller scale?
PROBE_NOISE = 64.0                   # roundings; noise above this may be structure
MIN_LEVELS = 5                       # fewer leave no difference to measure noise by
FIRST_COST = 2 * len(FIRST_LEVELS)   # evaluations of fun before any refinement
NOISE_FACTOR = 3.0                   # from the root mean square of a few samples to a bound
CONFLICT = 4.0                       # estimates farther apart than this many of their errors contradict each other
KINK = 10.0                          # one-sided slopes farther apart than this many of their errors differ
STEPS = np.logspace(-1, -14, 40)     # of the U-shaped curve


@dataclass(frozen=True)
class FiniteDifference:
    """A derivative by finite differences and what is known of its error.

    Attributes
    ----------
    value : ndarray
        The derivative: the shape of x (gradient), fun.shape + x.shape (vector-valued), or fun.shape (jvp).
    error : ndarray
        Estimated bound of |value − derivative|, of the same shape: truncation + noise/step, and where
        the steps contradict each other, their disagreement. inf where nothing could be evaluated.
    step : ndarray
        The smallest step behind the value, in units of x.
    noise : ndarray
        Measured noise of fun, in units of fun.
    gap : ndarray
        Right-hand minus left-hand derivative: 0 within `gap_error` where fun is smooth.
    gap_error : ndarray
        Estimated bound of the error of `gap`.
    evaluations : int
        Calls of fun.
    """

    value: np.ndarray
    error: np.ndarray
    step: np.ndarray
    noise: np.ndarray
    gap: np.ndarray
    gap_error: np.ndarray
    evaluations: int

    @property
    def one_sided_differ(self):
        """Where the one-sided derivatives differ beyond doubt: fun is not smooth at x."""
        visible = 1e-3 * (np.abs(self.value) + np.abs(self.gap))
        return np.isfinite(self.gap) & (np.abs(self.gap) > np.maximum(KINK * self.gap_error, visible))


@dataclass(frozen=True)
class _Estimate:
    """The best entry of a table for each of m outputs; arrays of shape (m,), `level` its finest sample."""

    value: np.ndarray
    error: np.ndarray
    level: np.ndarray
    noise: np.ndarray
    noise_falling: np.ndarray


def finite_difference_gradient(fun, x, *, scale=None, rtol=1e-9):
    """Gradient of a scalar function, or Jacobian of an array-valued one, by extrapolated central differences.

    For each component D(h) = (f(x + h eᵢ) − f(x − h eᵢ)) / 2h is sampled at h = |xᵢ|·2⁻³ … 2⁻¹⁰ and
    finer where needed, and extrapolated to h = 0 by Neville's scheme in h². Of all entries of the table
    the one with the least

        error = truncation (distance from its neighbours in the table) + noise × amplification

    is taken. The noise of fun is not assumed: it is measured from the finest entries, where the truncation has
    died out. Where levels contradict each other, their disagreement becomes the error.

    Parameters
    ----------
    fun : callable
        x -> number or array.
    x : array_like
        Any shape.
    scale : float or array_like, optional
        Lengths over which fun varies; by default |xᵢ|, and the median of the non-zero |xⱼ| (or 1) where xᵢ = 0.
    rtol : float
        Steps are refined until error ≤ rtol × `gradient_scale`, or the noise forbids more.

    Returns
    -------
    FiniteDifference

    Raises
    ------
    InvalidInputError, InvalidTypeError
        fun is not finite at x, or an argument is not what it should be.

    References
    ----------
    Ridders, Accurate computation of F'(x) and F'(x) F''(x), Adv. Eng. Software 4 (1982) 75-76.
    Moré and Wild, Estimating derivatives of noisy simulations, ACM TOMS 38 (2012): noise from differences.
    """
    guarded = GuardedFunction(fun, x)
    size = typical_size(guarded.x, scale).reshape(-1)
    columns = partial_derivatives(guarded, range(guarded.x.size), size, rtol)
    shape = guarded.shape + guarded.x.shape
    fields = {name: np.array([getattr(column, name) for column in columns]).reshape(-1, guarded.value.size)
              for name in ("value", "error", "noise", "gap", "gap_error", "step")}
    return FiniteDifference(**{name: field.T.reshape(shape) for name, field in fields.items()},
                            evaluations=guarded.count)


def finite_difference_jvp(fun, x, direction, *, scale=None, rtol=1e-9):
    """Directional derivative d/dτ fun(x + τ·direction) at τ = 0, with its error.

    Parameters and method are those of `finite_difference_gradient`.

    Returns
    -------
    FiniteDifference
        Of the shape of fun(x).
    """
    guarded = GuardedFunction(fun, x)
    direction = real_direction(direction, guarded.x)
    found = directional_derivative(guarded, direction, typical_size(guarded.x, scale).reshape(-1), rtol)
    return FiniteDifference(**{name: getattr(found, name).reshape(guarded.shape)
                               for name in ("value", "error", "noise", "gap", "gap_error", "step")},
                            evaluations=guarded.count)


def finite_difference_sweep(fun, x, direction, *, steps=STEPS):
    """Plain central differences over many steps: the U-shaped curve of truncation against rounding.

    Parameters
    ----------
    fun, x, direction
        As in `finite_difference_jvp`; fun must be scalar.
    steps : array_like
        Steps as fractions of the typical size of x along the direction.

    Returns
    -------
    steps : ndarray, shape (k,)
        Multiples τ of `direction`.
    estimates : ndarray, shape (k,)
        (fun(x + τ·direction) − fun(x − τ·direction)) / 2τ, NaN where fun has no finite value.
    """
    guarded = GuardedFunction(fun, x)
    require_scalar(guarded)
    direction = real_direction(direction, guarded.x)
    tau = real_array(steps, "steps") * length_along(direction, typical_size(guarded.x).reshape(-1))
    centre = guarded.x.reshape(-1)
    difference = [guarded(centre + t * direction)[0] - guarded(centre - t * direction)[0] for t in tau]
    return tau, np.array(difference) / (2 * tau)


def partial_derivatives(guarded, components, size, rtol):
    """`FiniteDifference` of arrays (m,) for each of the components; refined in view of the whole gradient."""
    sweeps = [DirectionalSweep(guarded, unit_vector(guarded.x.size, i), size) for i in components]
    if not sweeps:
        return []
    first = np.array([np.nan_to_num(sweep.slope()) for sweep in sweeps])
    target = rtol * gradient_scale(first, size[list(components)])
    for sweep, wanted in zip(sweeps, target):
        sweep.refine(wanted)
        sweep.probe()
    return [_second_opinion(sweep, wanted, size) for sweep, wanted in zip(sweeps, target)]


def directional_derivative(guarded, direction, size, rtol):
    """`FiniteDifference` of arrays (m,) along one direction."""
    sweep = DirectionalSweep(guarded, direction, size)
    sweep.refine(rtol * np.abs(sweep.slope()))
    sweep.probe()
    return sweep.derivative()


def _second_opinion(sweep, target, size):
    """The derivative of `sweep`, or one with steps of the size of the other components where that is better.

    A component of 1e-12 beside others of size 1 (a species that starts almost empty) usually is a small value of a
    quantity whose unit is 1: steps of 1e-12 would drown in rounding. Where the own steps see no slope at all, nothing
    could tell a better estimate from one that steps over all the structure, so that none is sought; nor where the
    noise is more than rounding.
    """
    own, common = sweep.derivative(), np.median(size)
    rounding = 16 * sweep.guarded.eps * sweep.guarded.largest
    improvable = (own.error > target) & (own.error < 0.1 * np.abs(own.value)) & (own.noise < rounding)
    if not (improvable.any() and common > 16 * sweep.length and sweep.guarded.affords(FIRST_COST)):
        return own
    other_sweep = DirectionalSweep(sweep.guarded, sweep.direction, np.full(size.shape, common))
    other_sweep.refine(target)
    other = other_sweep.derivative()
    agree = np.abs(other.value - own.value) <= other.error + own.error
    return other if ((other.error < own.error) & agree).all() else own


class DirectionalSweep:
    """Samples of φ(τ) = fun(x + τ·d), τ = ± length·2⁻ᵏ, and the derivative φ'(0) they imply.

    The length is a power of two, so that steps are exact numbers; the differences are divided by the
    displacement that was really made, (x₊ − x₋), which removes the rounding of x ± h.
    """

    def __init__(self, guarded, direction, size):
        self.guarded, self.direction = guarded, direction
        self.length = _power_of_two(length_along(direction, size))
        self.pivot = int(np.argmax(np.abs(direction)))
        self.samples = {level: self._sample(level) for level in FIRST_LEVELS}
        self.probes = {}

    def refine(self, target):
        """Halve the step further until the error of φ'(0) is ≤ target or the noise floor is reached."""
        wanted = self._estimate().error > target * self.length
        while wanted.any() and self._extend(wanted):
            wanted = self._estimate().error > target * self.length

    def probe(self):
        """Where the noise is more than rounding, sample a window of far smaller steps.

        An adaptive solver is smooth between the points where a step is accepted or rejected anew, and jumps
        there. Steps that span many jumps see the trend, the derivative of the program is that of one piece.
        """
        rounding = PROBE_NOISE * self.guarded.eps * self.guarded.largest
        noisy = (self._estimate().noise > rounding).any()
        if noisy and self.guarded.affords(2 * len(PROBE_LEVELS)):
            self.probes = {level: self._sample(level) for level in PROBE_LEVELS if level not in self.samples}

    def derivative(self):
        """The directional derivative of fun, a `FiniteDifference` of arrays of shape (m,)."""
        best, gap = self._estimate(), self._gap()
        tau = np.append(_arrays(self.samples, self.guarded)[0], np.nan)
        return FiniteDifference(value=best.value / self.length, error=self._cross_examined(best) / self.length,
                                step=tau[best.level] * self.length, noise=best.noise,
                                gap=gap.value / self.length, gap_error=gap.error / self.length,
                                evaluations=self.guarded.count)

    def slope(self):
        """The value of the directional derivative alone, shape (m,)."""
        return self._estimate().value / self.length

    def _cross_examined(self, best):
        """The error of `best`, enlarged to its distance from the slope that the probes see, if they exclude it."""
        fine = self._estimate(self.probes)
        distance = np.abs(fine.value - best.value)
        return np.where(distance > CONFLICT * (fine.error + best.error), distance, best.error)

    def _estimate(self, samples=None):
        """length·φ'(0), in units of fun."""
        tau, plus, minus = _arrays(self.samples if samples is None else samples, self.guarded)
        if len(tau) < MIN_LEVELS:
            return _nothing(self.guarded.value.shape)
        floor = self._rounding(plus, minus)
        table, gain = neville_table(tau**2, (plus - minus) / (2 * tau[:, None]), 1 / tau)
        return _best_entry(table, gain, floor)

    def _gap(self):
        """Right-hand minus left-hand derivative: E(τ)/τ at τ → 0, E = φ(τ) + φ(−τ) − 2φ(0).

        E(τ)/τ = gap + c₁τ + c₂τ² + …, all powers: a kink comes with the odd ones.
        """
        tau, plus, minus = _arrays(self.samples, self.guarded)
        if len(tau) < MIN_LEVELS:
            return _nothing(self.guarded.value.shape)
        even = (plus - self.guarded.value) + (minus - self.guarded.value)
        table, gain = neville_table(tau, even / tau[:, None], 4 / tau)
        return _best_entry(table, gain, self._rounding(plus, minus))

    def _rounding(self, plus, minus):
        largest = np.maximum(np.abs(plus), np.abs(minus)).max(axis=0)
        return 0.5 * self.guarded.eps * np.maximum(largest, np.abs(self.guarded.value))

    def _sample(self, level):
        """(τ, φ(τ), φ(−τ)) with the τ really made, or None where fun has no finite value."""
        step = self.length * 2.0**-level * self.direction
        x_plus, x_minus = self.guarded.x.reshape(-1) + step, self.guarded.x.reshape(-1) - step
        made = (x_plus[self.pivot] - x_minus[self.pivot]) / (2 * self.direction[self.pivot] * self.length)
        usable = made > 0 and np.isfinite(x_plus).all() and np.isfinite(x_minus).all()
        return self._values(made, x_plus, x_minus) if usable else None

    def _values(self, made, x_plus, x_minus):
        plus = self.guarded(x_plus)
        minus = self.guarded(x_minus)
        return (made, plus, minus) if np.isfinite(plus).all() and np.isfinite(minus).all() else None

    def _extend(self, wanted):
        """Sample finer levels if the best estimates lie at that end or the noise floor is not yet in sight."""
        best = self._estimate()
        usable = len(_arrays(self.samples, self.guarded)[0])
        at_the_end = best.level >= usable - 2
        if usable >= MIN_LEVELS and not (wanted & (at_the_end | best.noise_falling)).any():
            return False
        finest = max(self.samples)
        if finest + FINER > FINEST_LEVEL or not self.guarded.affords(2 * FINER):
            return False
        self.samples.update({level: self._sample(level) for level in range(finest + 1, finest + 1 + FINER)})
        return True


def _arrays(samples, guarded):
    """τ of shape (levels,), decreasing, and φ(τ), φ(−τ) of shape (levels, m), of the usable samples."""
    rows = [samples[level] for level in sorted(samples) if samples[level] is not None]
    if not rows:
        return np.empty(0), np.empty((0,) + guarded.value.shape), np.empty((0,) + guarded.value.shape)
    tau, plus, minus = zip(*rows)
    return np.array(tau), np.array(plus), np.array(minus)


def _best_entry(table, gain, rounding):
    """The entry of least claimed error; its error is enlarged to any contradiction among the levels."""
    samples = noise_samples(table, gain, column=2, count=4)
    noise = np.maximum(NOISE_FACTOR * np.sqrt(np.mean(samples**2, axis=0)), rounding)
    truncation = truncation_estimate(table)
    amplified = noise * gain[:, :, None]
    claimed = np.where(np.isnan(truncation), np.inf, truncation + amplified)
    flat = claimed.reshape(-1, claimed.shape[2])
    chosen = np.argmin(flat, axis=0)
    level, column = np.unravel_index(chosen, claimed.shape[:2])
    output = np.arange(claimed.shape[2])
    value, error = table[level, column, output], flat[chosen, output]
    return _Estimate(value=value, error=np.maximum(error, _contradiction(table, claimed, value, error)),
                     level=level, noise=noise, noise_falling=samples[-1] < 0.1 * samples[0])


def _contradiction(table, claimed, value, error):
    """Largest distance from `value` to the best entry of another level that excludes it, shape (m,).

    Two levels whose claimed intervals are far apart cannot both be right: fun then has structure (the
    accepted steps of an adaptive solver, a kink nearby) between the two step sizes, and which slope is
    meant is not for the finite difference to say.
    """
    column = np.argmin(claimed, axis=1)
    level = np.arange(table.shape[0])[:, None]
    output = np.arange(table.shape[2])
    other, doubt = table[level, column, output], claimed[level, column, output]
    distance = np.abs(other - value)
    excluded = np.where(distance > CONFLICT * (doubt + error), distance, 0.0)
    return np.sort(excluded, axis=0)[-2]


def _nothing(shape):
    empty = np.full(shape, np.nan)
    return _Estimate(value=empty, error=np.full(shape, np.inf), level=np.zeros(shape, dtype=int),
                     noise=empty, noise_falling=np.ones(shape, dtype=bool))


def _power_of_two(length):
    return 2.0 ** np.floor(np.log2(length))
