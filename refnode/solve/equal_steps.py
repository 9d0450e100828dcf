"""Times of given steps: an array of them, or the rule of equal ones, which needs no array.

A million equal steps would take 8 MB to write down. Their rule is seven numbers: NaN, by which it is known; t0, h, t1 and
the number of steps; and room for the two times of the step at hand.
"""
import numpy as np

from refnode.host_device import host_device

BEGIN, LENGTH, FINISH, COUNT, WINDOW = range(1, 6)


def equal_steps(t0, t1, count):
    """The rule of ``count`` equal steps, or all their times, where h is too small for the rule to be that of `np.linspace`."""
    h = (t1 - t0) / count
    return np.array([np.nan, t0, h, t1, count, t0, t0]) if h != 0.0 else np.linspace(t0, t1, count + 1)


@host_device
def is_rule(grid):
    """Whether a grid that is not empty is a rule."""
    return grid[0] != grid[0]


@host_device
def given_time(grid, i):
    """The time at which step i begins, to the bit that of `np.linspace`."""
    if not is_rule(grid):
        return grid[i]
    return i * grid[LENGTH] + grid[BEGIN] if i < grid[COUNT] else grid[FINISH]


@host_device
def step_window(grid, i):
    """Where in ``grid`` the two times of step i stand; a rule writes them there first."""
    if not is_rule(grid):
        return i
    grid[WINDOW], grid[WINDOW + 1] = given_time(grid, i), given_time(grid, i + 1)
    return WINDOW
