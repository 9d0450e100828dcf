"""Neville's extrapolation to zero, with the amplification of noise carried along."""
import numpy as np

MAX_COLUMNS = 7   # beyond order 14 the columns only amplify noise


def neville_table(z, base, base_noise):
    """Extrapolate `base`, sampled at abscissae `z`, to z = 0.

    T[k, 0] = base[k],   T[k, j] = (z[k-j] T[k, j-1] − z[k] T[k-1, j-1]) / (z[k-j] − z[k]):

    T[k, j] is at 0 the value of the polynomial of degree j through the samples k-j … k. The weights
    alternate in sign, so the same recursion with a plus bounds what errors of size `base_noise` become.

    Parameters
    ----------
    z : ndarray, shape (levels,)
        Positive, decreasing; the square of the step for a central difference.
    base : ndarray, shape (levels, m)
    base_noise : ndarray, shape (levels,)
        Error of base[k] for a noise of 1 in the function.

    Returns
    -------
    table : ndarray, shape (levels, columns, m)
        NaN above the diagonal.
    gain : ndarray, shape (levels, columns)

    References
    ----------
    Ridders, Accurate computation of F'(x) and F'(x) F''(x), Adv. Eng. Software 4 (1982) 75-76.
    """
    columns = min(len(z), MAX_COLUMNS)
    table = np.full((len(z), columns, base.shape[1]), np.nan)
    gain = np.full((len(z), columns), np.nan)
    table[:, 0], gain[:, 0] = base, base_noise
    for j in range(1, columns):
        far, near = z[:-j], z[j:]
        near_weight, far_weight = far / (far - near), near / (far - near)
        table[j:, j] = near_weight[:, None] * table[j:, j - 1] - far_weight[:, None] * table[j - 1:-1, j - 1]
        gain[j:, j] = near_weight * gain[j:, j - 1] + far_weight * gain[j - 1:-1, j - 1]
    return table, gain


def truncation_estimate(table):
    """|T[k, j] − its two neighbours of the column before|, the larger; shape of `table`.

    Each neighbour is less accurate than T[k, j], so where the table converges this overestimates. Columns 0
    and 1 are left NaN: two samples of an oscillation that the steps do not resolve agree by chance now and
    then, three hardly ever.
    """
    estimate = np.full(table.shape, np.nan)
    left = np.abs(table[2:, 2:] - table[2:, 1:-1])
    above_left = np.abs(table[2:, 2:] - table[1:-1, 1:-1])
    estimate[2:, 2:] = np.maximum(left, above_left)
    return estimate


def noise_samples(table, gain, column, count):
    """Noise of the function seen in the `count` finest differences along one column, shape (≤ count, m).

    There the truncation, of order z^(column+1), has died out; what is left, divided by its gain, is noise.
    """
    difference = np.abs(np.diff(table[column:, column], axis=0))
    amplification = gain[column + 1:, column] + gain[column:-1, column]
    return (difference / amplification[:, None])[-count:]
