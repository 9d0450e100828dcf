"""Group normalisation: the battery, with and without affine parameters; its kernels; means, variances, what is refused."""
import numpy as np
import pytest

from layer_battery import Triple, added, check_kernel, check_mutants, check_triple, distance
from refnode.errors import InvalidInputError
from refnode.layers import normalization as norm
from refnode.layers.normalization import group_norm

# Of two entries û is +-1 whatever x is, and the derivative nothing but cancellation: no group here is so small.
CASES = [((2, 3, 3, 4), 2), ((3, 1, 2, 6), 3), ((2, 4, 3, 3), 1), ((2, 4, 3, 3), 3), ((5, 8), 2)]     # shape, groups
every_case = pytest.mark.parametrize("shape, groups", CASES)


def triple(shape, groups, affine=True):
    rng = np.random.default_rng([*shape, groups])
    x = {"x": 3.0 + 2.0 * rng.standard_normal(shape)}
    if affine:
        x.update(gamma=rng.standard_normal(shape[-1]), beta=rng.standard_normal(shape[-1]))
    names, get = tuple(x), lambda d, name: d.get(name)
    return Triple(
        lambda **x: group_norm(x["x"], groups, get(x, "gamma"), get(x, "beta")),
        lambda x, d: norm.group_norm_jvp(x["x"], groups, get(x, "gamma"), d["x"], get(d, "gamma"), get(d, "beta")),
        lambda x, y_bar: dict(zip(names, norm.group_norm_vjp(x["x"], groups, get(x, "gamma"), y_bar))), x,
        lambda x, d, y_bar, y_bar_tan: dict(zip(names, norm.group_norm_hvp(
            x["x"], groups, get(x, "gamma"), d["x"], get(d, "gamma"), y_bar, y_bar_tan))))


def kernels(shape, groups, x):
    batch = shape[0]
    shapes = {name: value.shape for name, value in x.items()}
    u, y, r, r_tan = np.full(np.prod(shape), np.nan), np.full(np.prod(shape), np.nan), *np.full((2, batch * groups), np.nan)

    def form(x, gamma, beta):
        norm.group_norm_kernel(batch, groups, norm.EPSILON, x.ravel(), gamma, beta, u, r, y)
        return y.reshape(shape).copy()

    def jvp(x, d):
        form(**x)
        norm.group_norm_jvp_kernel(batch, groups, u, r, x["gamma"], d["x"].ravel(), d["gamma"], d["beta"], y)
        return y.reshape(shape).copy()

    def vjp(x, y_bar):
        form(**x)
        in_place = y_bar.ravel().copy()
        return added(shapes, lambda *bars: norm.group_norm_vjp_kernel(batch, groups, u, r, x["gamma"], in_place, in_place, *bars))

    def hvp(x, d, y_bar, y_bar_tan):
        form(**x)
        u_tan, bar, bar_tan = d["x"].ravel().copy(), y_bar.ravel().copy(), y_bar_tan.ravel().copy()
        norm.group_norm_tangents_kernel(batch, groups, shape[-1], u, r, u_tan, u_tan, r_tan)
        found = added({name: shapes[name] for name in ("gamma", "beta")}, lambda *bars: norm.group_norm_hvp_kernel(
            batch, groups, u, r, x["gamma"], u_tan, r_tan, d["gamma"], bar, bar_tan, *bars))
        assert distance(bar.reshape(shape), norm.group_norm_vjp(x["x"], groups, x["gamma"], y_bar)[0]) <= 1e-13
        norm.affine_tangent_kernel(u, x["gamma"], u_tan, d["gamma"], d["beta"], y)
        assert distance(y.reshape(shape), norm.group_norm_jvp(
            x["x"], groups, x["gamma"], d["x"], d["gamma"], d["beta"])) <= 1e-13
        return {"x": bar_tan.reshape(shape), **found}
    return Triple(form, jvp, vjp, x, hvp)


@every_case
@pytest.mark.parametrize("affine", [True, False])
def test_battery(shape, groups, affine):
    check_triple(triple(shape, groups, affine))


@pytest.mark.parametrize("affine", [True, False])
def test_battery_catches_mutants(affine):
    check_mutants(triple(*CASES[0], affine))


def test_without_the_mean_of_the_projection_it_is_caught():
    """The usual mistake: r (g - û mean(û g)), the variance's share without the mean's."""
    right = triple(*CASES[0], affine=False)

    def wrong(x, y_bar):
        u, r = norm.normalised(x["x"], 2)
        v, g = norm.by_groups(u, 2), norm.by_groups(y_bar, 2)
        return {"x": norm.of_groups(r * (g - v * norm.mean(v * g)), u.shape)}
    right.vjp = wrong
    with pytest.raises(AssertionError):
        check_triple(right)


@every_case
def test_kernels(shape, groups):
    numpy = triple(shape, groups)
    check_kernel(numpy, kernels(shape, groups, numpy.x))


@every_case
def test_mean_zero_variance_one(shape, groups):
    """The variance falls short of 1 by ε / (v + ε), with v about 4."""
    u = norm.by_groups(group_norm(triple(shape, groups).x["x"], groups), groups)
    assert np.max(np.abs(norm.mean(u))) <= 1e-14
    assert np.max(np.abs(norm.mean(u * u) - 1.0)) <= 1e-3


def test_constant_groups_are_zero_with_a_finite_derivative():
    x = np.full((1, 2, 2, 2), 7.0)
    assert not group_norm(x, 1).any()
    assert np.all(np.isfinite(norm.group_norm_vjp(x, 1, None, np.arange(8.0).reshape(x.shape))[0]))


def test_samples_do_not_meet():
    x = triple((4, 3, 3, 4), 2).x["x"]
    together = group_norm(x, 2)
    np.testing.assert_array_equal(together[1:2], group_norm(x[1:2], 2))


@pytest.mark.parametrize("groups, affine, message", [
    (3, (), "groups must divide the 4 channels, found 3"), (0, (), "found 0"),
    (2, (np.ones(4), None), r"gamma and beta must be two arrays of shape \(4,\), or both None"),
    (2, (np.ones(3), np.ones(4)), r"found \(3,\) and \(4,\)")])
def test_refused(groups, affine, message):
    with pytest.raises(InvalidInputError, match=message):
        group_norm(np.ones((2, 2, 2, 4)), groups, *affine)
