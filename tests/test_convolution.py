"""Convolution and its transpose: the battery, an independent sum, kernels, ⟨Kx, y⟩ = ⟨x, Kᵀy⟩, and what is refused."""
import numpy as np
import pytest
from scipy.signal import correlate

from layer_battery import EPS, Triple, added, check_kernel, check_mutants, check_triple, distance
from refnode.errors import InvalidInputError
from refnode.layers import convolution as conv
from refnode.layers.convolution import conv2d, conv2d_transpose, output_size

CASES = [   # batch, height, width, c_in, c_out, k_h, k_w, stride, padding
    (1, 1, 1, 1, 1, 1, 1, 1, 0), (2, 5, 4, 1, 2, 3, 3, 1, 1), (3, 6, 7, 2, 3, 3, 2, 2, 1), (2, 8, 8, 3, 2, 4, 4, 2, 1),
    (2, 7, 5, 2, 2, 2, 3, 3, 0), (2, 3, 3, 1, 4, 3, 3, 1, 2), (40, 4, 4, 2, 3, 3, 3, 1, 1)]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))


def triple(case, transposed=False):
    batch, height, width, c_in, c_out, k_h, k_w, stride, padding = case
    rows, columns = output_size(height, k_h, stride, padding), output_size(width, k_w, stride, padding)
    rng, way = np.random.default_rng(list(case)), {"stride": stride, "padding": padding}
    x = {"x": rng.standard_normal((batch, rows, columns, c_out) if transposed else (batch, height, width, c_in)),
         "K": rng.standard_normal((c_out, k_h, k_w, c_in)), "b": rng.standard_normal(c_in if transposed else c_out)}
    name, size = ("conv2d_transpose", {"size": (height, width)}) if transposed else ("conv2d", {})
    form, jvp, vjp, hvp = (getattr(conv, name + suffix) for suffix in ("", "_jvp", "_vjp", "_hvp"))
    return Triple(
        lambda x, K, b: form(x, K, b, **way, **size),
        lambda x, d: jvp(x["x"], x["K"], d["x"], d["K"], d["b"], **way, **size),
        lambda x, y_bar: dict(zip("xKb", vjp(x["x"], x["K"], y_bar, **way))), x,
        lambda x, d, y_bar, y_bar_tan: dict(zip("xKb", hvp(x["x"], x["K"], d["x"], d["K"], y_bar, y_bar_tan, **way))))


def kernels(case, x):
    """The kernels of `conv2d` as a triple, their workspaces full of NaN."""
    geometry = case[:4] + case[5:]
    shape = (case[0], *conv.output_pixels(geometry), case[4])
    seen = np.full((3, conv.workspace_size(geometry)), np.nan)
    shapes = {name: value.shape for name, value in x.items()}
    flat = lambda values: [np.ascontiguousarray(values[name]).ravel() for name in "xKb"]

    def form(**x):
        z, (image, K, b) = np.full(np.prod(shape), np.nan), flat(x)
        conv.conv2d_kernel(geometry, image, False, 0.0, K, b, seen[0], z)
        return z.reshape(shape)

    def jvp(x, d):
        z_tan, (image, K, _), (x_tan, K_tan, b_tan) = np.full(np.prod(shape), np.nan), flat(x), flat(d)
        conv.conv2d_jvp_kernel(geometry, image, False, 0.0, K, 0.0, x_tan, K_tan, b_tan, seen[0], seen[1], z_tan)
        return z_tan.reshape(shape)

    def vjp(x, y_bar):
        image, K, _ = flat(x)
        return added(shapes, lambda *bars: conv.conv2d_vjp_kernel(
            geometry, image, False, 0.0, K, y_bar.ravel(), seen[0], seen[1], np.zeros(1), *bars))

    def hvp(x, d, y_bar, y_bar_tan):
        (image, K, _), (x_tan, K_tan, _) = flat(x), flat(d)
        return added(shapes, lambda *bars: conv.conv2d_hvp_kernel(
            geometry, image, False, 0.0, K, 0.0, x_tan, K_tan, y_bar.ravel(), y_bar_tan.ravel(), *seen, np.zeros(1), *bars))
    return Triple(form, jvp, vjp, x, hvp)


def transposed_kernels(case, x):
    """Those of `conv2d_transpose`."""
    geometry, shape = case[:4] + case[5:], case[:4]
    seen = np.full(conv.workspace_size(geometry), np.nan)
    shapes = {name: value.shape for name, value in x.items()}
    flat = lambda values: [values[name].ravel() for name in "xKb"]

    def form(**x):
        z = np.full(np.prod(shape), np.nan)
        conv.conv2d_transpose_kernel(geometry, *flat(x), seen, z)
        return z.reshape(shape)

    def jvp(x, d):
        z_tan = np.full(np.prod(shape), np.nan)
        conv.conv2d_transpose_jvp_kernel(geometry, *flat(x)[:2], *flat(d), seen, z_tan)
        return z_tan.reshape(shape)

    def vjp(x, y_bar):
        return added(shapes, lambda *bars: conv.conv2d_transpose_vjp_kernel(
            geometry, *flat(x)[:2], y_bar.ravel(), seen, *bars))
    return Triple(form, jvp, vjp, x)


@every_case
@pytest.mark.parametrize("transposed", [False, True])
def test_battery(case, transposed):
    check_triple(triple(case, transposed))


@pytest.mark.parametrize("transposed", [False, True])
def test_battery_catches_mutants(transposed):
    check_mutants(triple(CASES[2], transposed))


@every_case
def test_kernels(case):
    numpy = triple(case)
    check_kernel(numpy, kernels(case, numpy.x))


@every_case
def test_transposed_kernels(case):
    numpy = triple(case, transposed=True)
    check_kernel(numpy, transposed_kernels(case, numpy.x))


@every_case
def test_against_scipy(case):
    """Every channel's plane correlated with its filter by SciPy, then every stride-th pixel of the sum."""
    *_, stride, padding = case
    x, K, b = triple(case).x.values()
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    planes = [[sum(correlate(image[..., c], kernel[..., c], mode="valid", method="direct") for c in range(case[3]))[
        ::stride, ::stride] for kernel in K] for image in padded]
    assert distance(conv2d(x, K, b, stride, padding), np.moveaxis(planes, 1, -1) + b) <= 1e-13


@every_case
def test_conv2d_transpose_is_the_transpose(case):
    """⟨Kx, y⟩ = ⟨x, Kᵀy⟩, to eps times the number of terms of each sum of magnitudes."""
    stride, padding = case[7:]
    x, K, b = triple(case).x.values()
    y = np.random.default_rng(5).standard_normal(conv2d(x, K, b, stride, padding).shape)
    left = np.sum(conv2d(x, K, 0.0 * b, stride, padding) * y)
    right = np.sum(x * conv2d_transpose(y, K, np.zeros(case[3]), stride, padding, x.shape[1:3]))
    magnitude = np.sum(conv2d(abs(x), abs(K), 0.0 * b, stride, padding) * abs(y))
    assert abs(left - right) <= EPS * (K[0].size + 4 + np.log2(y.size + x.size)) * magnitude


def test_transposed_by_a_mirrored_filter_is_not_the_transpose():
    """Where the filter is not symmetric, forgetting that Kᵀ reads it backwards is seen at once."""
    x, K, b = triple(CASES[1]).x.values()
    y = np.random.default_rng(5).standard_normal(conv2d(x, K, b, 1, 1).shape)
    mirrored = K[:, ::-1, ::-1]
    left, right = np.sum(conv2d(x, K, 0.0 * b, 1, 1) * y), np.sum(x * conv2d_transpose(y, mirrored, np.zeros(1), 1, 1))
    assert abs(left - right) > 1e-3 * np.sum(conv2d(abs(x), abs(K), 0.0 * b, 1, 1) * abs(y))


def test_heat_equation_modes():
    """Under the five-point Laplacian with zero boundary, sin sin is multiplied by 2 cos(a) + 2 cos(b) - 4."""
    n, (j, k) = 9, (2, 3)
    i = np.arange(1, n + 1)
    mode = np.outer(np.sin(j * np.pi * i / (n + 1)), np.sin(k * np.pi * i / (n + 1)))[None, :, :, None]
    laplacian = np.array([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])[None, :, :, None]
    eigenvalue = 2.0 * np.cos(j * np.pi / (n + 1)) + 2.0 * np.cos(k * np.pi / (n + 1)) - 4.0
    np.testing.assert_allclose(conv2d(mode, laplacian, np.zeros(1), 1, 1), eigenvalue * mode, rtol=0.0, atol=16 * EPS)


def test_time_is_one_more_channel():
    """Inside the image it is t, outside 0: as if the channel had been appended to x. And so its derivatives."""
    rng = np.random.default_rng(3)
    batch, height, width, c_in, c_out, t, t_tan = 3, 4, 5, 2, 3, 0.7, -1.3
    geometry = (batch, height, width, c_in, 3, 3, 2, 1)
    x, x_tan = rng.standard_normal((2, batch, height, width, c_in))
    (K, K_tan), (b, b_tan) = rng.standard_normal((2, c_out, 3, 3, c_in + 1)), rng.standard_normal((2, c_out))
    timed = lambda x, t: np.concatenate([x, np.full(x.shape[:3] + (1,), t)], axis=-1)
    expected = conv2d(timed(x, t), K, b, 2, 1)
    seen, z = np.full((3, conv.workspace_size(geometry, True)), np.nan), np.full(expected.size, np.nan)
    conv.conv2d_kernel(geometry, x.ravel(), True, t, K.ravel(), b, seen[0], z)
    assert distance(z.reshape(expected.shape), expected) <= 1e-13
    conv.conv2d_jvp_kernel(geometry, x.ravel(), True, t, K.ravel(), t_tan, x_tan.ravel(), K_tan.ravel(), b_tan,
                           seen[0], seen[1], z)
    tangent = conv.conv2d_jvp(timed(x, t), K, timed(x_tan, t_tan), K_tan, b_tan, 2, 1)
    assert distance(z.reshape(expected.shape), tangent) <= 1e-13
    z_bar, z_bar_tan = rng.standard_normal((2, *expected.shape))
    shapes = {"t": (1,), "x": x.shape, "K": K.shape, "b": b.shape}
    for expected_bars, call in (
            (conv.conv2d_vjp(timed(x, t), K, z_bar, 2, 1), lambda *bars: conv.conv2d_vjp_kernel(
                geometry, x.ravel(), True, t, K.ravel(), z_bar.ravel(), seen[0], seen[1], *bars)),
            (conv.conv2d_hvp(timed(x, t), K, timed(x_tan, t_tan), K_tan, z_bar, z_bar_tan, 2, 1),
             lambda *bars: conv.conv2d_hvp_kernel(
                 geometry, x.ravel(), True, t, K.ravel(), t_tan, x_tan.ravel(), K_tan.ravel(), z_bar.ravel(),
                 z_bar_tan.ravel(), *seen, *bars))):
        timed_bar, K_bar, b_bar = expected_bars
        wanted = {"t": timed_bar[..., -1].sum(keepdims=True).reshape(1), "x": timed_bar[..., :-1], "K": K_bar, "b": b_bar}
        assert distance(added(shapes, call), wanted) <= 1e-13


def test_a_nan_stays_in_its_sample():
    x, K, b = triple(CASES[1]).x.values()
    x[1, 2, 2, 0] = np.nan
    assert np.isnan(conv2d(x, K, b, 1, 1)).any(axis=(1, 2, 3)).tolist() == [False, True]


@pytest.mark.parametrize("call, message", [
    (lambda: conv2d(np.zeros((2, 4, 4)), np.zeros((1, 3, 3, 1)), np.zeros(1)), r"x must have shape .*found \(2, 4, 4\)"),
    (lambda: conv2d(np.zeros((2, 4, 4, 3)), np.zeros((1, 3, 3, 1)), np.zeros(1)), r"\(2, 4, 4, 3\) and \(1, 3, 3, 1\)"),
    (lambda: conv2d(np.zeros((2, 4, 4, 1)), np.zeros((2, 3, 3, 1)), np.zeros(1)), r"b must have shape \(2,\), found \(1,\)"),
    (lambda: conv2d(np.zeros((2, 2, 4, 1)), np.zeros((1, 3, 3, 1)), np.zeros(1)), r"k must be at most .* = 2, found 3"),
    (lambda: output_size(4, 3, 0), "stride must be an integer of at least 1, found 0"),
    (lambda: output_size(4, 3, 1, -1), "padding must be an integer of at least 0, found -1"),
    (lambda: conv2d_transpose(np.zeros((1, 2, 2, 1)), np.zeros((1, 3, 3, 1)), np.zeros(1), 2, 1, (9, 4)),
     r"such as \(3, 3\), found \(9, 4\)"),
    (lambda: conv2d_transpose(np.zeros((1, 2, 2, 2)), np.zeros((1, 3, 3, 1)), np.zeros(1)), r"found \(1, 2, 2, 2\)"),
])
def test_refused(call, message):
    with pytest.raises(InvalidInputError, match=message):
        call()
