"""Two-dimensional convolution with stride and zero padding, and its transpose; each with its jvp, vjp and hvp.

Images are stored channels last, (batch, height, width, channels), and filters as (c_out, k_h, k_w, c_in). A
convolution is then a gather followed by a dense layer: row r of the *patches* holds the entries of x under the
filter at output pixel r, and z = patches Kᵀ + b. The gather is linear; its transpose adds every entry of a patch
back to where it was read. (As everywhere in this field, "convolution" does not mirror the filter.)

    z[i, r, s, o] = b[o] + Σ_uvc K[o, u, v, c] x[i, stride r + u - padding, stride s + v - padding, c]

`conv2d_transpose` is the same map read backwards, ⟨conv2d(x), y⟩ = ⟨x, conv2d_transpose(y)⟩ with b = 0, and enlarges
an image where a strided convolution shrinks it.

The kernels take flat C-contiguous arrays, a *geometry* (batch, height, width, c_in, k_h, k_w, stride, padding) of
the convolution, and a workspace for the patches of some samples at a time; with ``timed`` they convolve x
with one more channel, the last, that is t everywhere inside the image.

References
----------
Dumoulin & Visin, A guide to convolution arithmetic for deep learning, arXiv:1603.07285 (2016).
"""
import numpy as np

from refnode.errors import InvalidInputError
from refnode.host_device import host_device
from refnode.layers.dense import dense, dense_hvp_kernel, dense_jvp_kernel, dense_kernel, dense_vjp, dense_vjp_kernel
from refnode.layers.dense import matmul_add
from refnode.linalg import copy_into

BATCH, HEIGHT, WIDTH, CHANNELS, K_HEIGHT, K_WIDTH, STRIDE, PADDING = range(8)          # of a geometry
WORKSPACE_ROWS = 256                  # patches in a workspace: enough for BLAS, few enough for the cache


# --- sizes ----------------------------------------------------------------------------------------

def output_size(size, k, stride=1, padding=0):
    """Pixels along one axis of a convolution's output: floor((size + 2 padding - k) / stride) + 1.

    Raises
    ------
    InvalidInputError
        If the filter does not fit into the padded image, or an argument is not an integer of the right sign.
    """
    for name, value, least in (("size", size, 1), ("k", k, 1), ("stride", stride, 1), ("padding", padding, 0)):
        if int(value) != value or value < least:
            raise InvalidInputError(f"{name} must be an integer of at least {least}, found {value!r}")
    if size + 2 * padding < k:
        raise InvalidInputError(f"k must be at most size + 2 padding = {size + 2 * padding}, found {k}")
    return (int(size) + 2 * int(padding) - int(k)) // int(stride) + 1


def _check(x, K, b):
    if x.ndim != 4 or K.ndim != 4 or x.shape[3] != K.shape[3]:
        raise InvalidInputError("x must have shape (batch, height, width, c_in) and K (c_out, k_h, k_w, c_in), "
                                f"found {x.shape} and {K.shape}")
    if b.shape != K.shape[:1]:
        raise InvalidInputError(f"b must have shape {K.shape[:1]}, found {b.shape}")


def output_pixels(geometry):
    """Height and width of the output."""
    return ((geometry[HEIGHT] + 2 * geometry[PADDING] - geometry[K_HEIGHT]) // geometry[STRIDE] + 1,
            (geometry[WIDTH] + 2 * geometry[PADDING] - geometry[K_WIDTH]) // geometry[STRIDE] + 1)


def workspace_size(geometry, timed=False):
    """Length of the workspace of the kernels: the patches of one sample at least."""
    rows, columns = output_pixels(geometry)
    samples = min(max(WORKSPACE_ROWS // (rows * columns), 1), geometry[BATCH])
    return samples * rows * columns * geometry[K_HEIGHT] * geometry[K_WIDTH] * (geometry[CHANNELS] + bool(timed))


# --- patches --------------------------------------------------------------------------------------

def patches(x, k_h, k_w, stride, padding):
    """The entries of x under the filter at every output pixel, shape (batch, rows, columns, k_h k_w c_in)."""
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (k_h, k_w), axis=(1, 2))[:, ::stride, ::stride]
    seen = windows.transpose(0, 1, 2, 4, 5, 3)                      # windows put k_h, k_w last
    return seen.reshape(*seen.shape[:3], -1)


def patches_vjp(seen_bar, x_shape, k_h, k_w, stride, padding):
    """Transpose of `patches`: every entry of a patch is added to where it was read; (batch, height, width, c_in)."""
    batch, height, width, c_in = x_shape
    rows, columns = seen_bar.shape[1:3]
    bar = seen_bar.reshape(batch, rows, columns, k_h, k_w, c_in)
    padded_bar = np.zeros((batch, height + 2 * padding, width + 2 * padding, c_in), seen_bar.dtype)
    for u in range(k_h):
        for v in range(k_w):                                        # patch[r, s, u, v] = padded[stride r + u, stride s + v]
            padded_bar[:, u:u + stride * rows:stride, v:v + stride * columns:stride][:, :rows, :columns] += bar[..., u, v, :]
    return padded_bar[:, padding:padding + height, padding:padding + width]


@host_device
def patches_kernel(geometry, first, count, x, timed, t, seen):
    """`patches` of ``count`` samples from ``first`` on; overwrites seen, with t behind the channels if ``timed``."""
    _, height, width, channels, k_h, k_w, stride, padding = geometry
    rows, columns = (height + 2 * padding - k_h) // stride + 1, (width + 2 * padding - k_w) // stride + 1
    at = 0
    for i in range(first, first + count):
        for pixel in range(rows * columns):
            top, left = pixel // columns * stride - padding, pixel % columns * stride - padding
            for tap in range(k_h * k_w):
                row, column = top + tap // k_w, left + tap % k_w
                inside = 0 <= row < height and 0 <= column < width
                start, length = ((i * height + row) * width + column) * channels, channels + (1 if timed else 0)
                if inside:
                    for c in range(channels):
                        seen[at + c] = x[start + c]
                    if timed:
                        seen[at + channels] = t
                else:
                    for c in range(length):
                        seen[at + c] = 0.0
                at += length


@host_device
def patches_vjp_kernel(geometry, first, count, timed, seen_bar, t_bar, x_bar):
    """`patches_kernel` transposed: adds to x_bar, and to t_bar (1,), or not (0,), if ``timed``."""
    _, height, width, channels, k_h, k_w, stride, padding = geometry
    rows, columns = (height + 2 * padding - k_h) // stride + 1, (width + 2 * padding - k_w) // stride + 1
    at = 0
    for i in range(first, first + count):
        for pixel in range(rows * columns):
            top, left = pixel // columns * stride - padding, pixel % columns * stride - padding
            for tap in range(k_h * k_w):
                row, column = top + tap // k_w, left + tap % k_w
                inside = 0 <= row < height and 0 <= column < width
                start = ((i * height + row) * width + column) * channels
                if inside:
                    for c in range(channels):
                        x_bar[start + c] += seen_bar[at + c]        # seen[at + c] = x[start + c]
                    if timed and t_bar.shape[0] > 0:
                        t_bar[0] += seen_bar[at + channels]         # seen[at + channels] = t
                at += channels + (1 if timed else 0)


# --- conv2d ---------------------------------------------------------------------------------------

def conv2d(x, K, b, stride=1, padding=0):
    """Convolution z = K * x + b of a batch of images, zero outside.

    Parameters
    ----------
    x : ndarray, shape (batch, height, width, c_in)
    K : ndarray, shape (c_out, k_h, k_w, c_in)
    b : ndarray, shape (c_out,)
    stride : int
        Pixels from one output to the next.
    padding : int
        Zeros around the image.

    Returns
    -------
    z : ndarray, shape (batch, rows, columns, c_out)
        See `output_size`.

    Raises
    ------
    InvalidInputError
        If shapes do not fit.
    """
    _check(x, K, b)
    output_size(x.shape[1], K.shape[1], stride, padding), output_size(x.shape[2], K.shape[2], stride, padding)
    return dense(patches(x, *K.shape[1:3], stride, padding), K.reshape(len(K), -1), b)


def conv2d_jvp(x, K, x_tan, K_tan, b_tan, stride=1, padding=0):
    """z_tan = K * x_tan + K_tan * x + b_tan. Shapes as the values'."""
    return conv2d(x_tan, K, b_tan, stride, padding) + conv2d(x, K_tan, np.zeros_like(b_tan), stride, padding)


def conv2d_vjp(x, K, z_bar, stride=1, padding=0):
    """Cotangents (x_bar, K_bar, b_bar) of `conv2d`: those of a dense layer of the patches, gathered back."""
    k_h, k_w = K.shape[1:3]
    seen = patches(x, k_h, k_w, stride, padding)
    seen_bar, K_bar, b_bar = dense_vjp(seen.reshape(-1, seen.shape[-1]), K.reshape(len(K), -1), z_bar.reshape(-1, len(K)))
    x_bar = patches_vjp(seen_bar.reshape(seen.shape), x.shape, k_h, k_w, stride, padding)   # seen = patches(x)
    return x_bar, K_bar.reshape(K.shape), b_bar


def conv2d_hvp(x, K, x_tan, K_tan, z_bar, z_bar_tan, stride=1, padding=0):
    """Tangent of `conv2d_vjp`, which is bilinear in (x, K) and z_bar: (x_bar_tan, K_bar_tan, b_bar_tan)."""
    x_bar_tan, K_bar_tan, b_bar_tan = conv2d_vjp(x, K, z_bar_tan, stride, padding)
    of_K_tan, _, _ = conv2d_vjp(x, K_tan, z_bar, stride, padding)                   # x_bar = Kᵀ z_bar
    _, of_x_tan, _ = conv2d_vjp(x_tan, K, z_bar, stride, padding)                   # K_bar = z_bar patches(x)
    return x_bar_tan + of_K_tan, K_bar_tan + of_x_tan, b_bar_tan


@host_device
def chunk(geometry, timed, seen):
    """How many samples' patches fit into the workspace, the pixels of one sample's output, and a patch's length."""
    _, height, width, channels, k_h, k_w, stride, padding = geometry
    pixels = ((height + 2 * padding - k_h) // stride + 1) * ((width + 2 * padding - k_w) // stride + 1)
    length = k_h * k_w * (channels + (1 if timed else 0))
    return seen.shape[0] // (pixels * length), pixels, length


@host_device
def conv2d_kernel(geometry, x, timed, t, K, b, seen, z):
    """z = K * x + b; see `conv2d`. Overwrites z and the workspace ``seen``."""
    samples, pixels, length = chunk(geometry, timed, seen)
    d = pixels * b.shape[0]
    for first in range(0, geometry[BATCH], samples):
        count = min(samples, geometry[BATCH] - first)
        patches_kernel(geometry, first, count, x, timed, t, seen)
        dense_kernel(count * pixels, seen[:count * pixels * length], K, b, z[first * d:(first + count) * d])


@host_device
def conv2d_jvp_kernel(geometry, x, timed, t, K, t_tan, x_tan, K_tan, b_tan, seen, seen_tan, z_tan):
    """z_tan = K * x_tan + K_tan * x + b_tan; see `conv2d_jvp`. Overwrites z_tan and two workspaces."""
    samples, pixels, length = chunk(geometry, timed, seen)
    d = pixels * b_tan.shape[0]
    for first in range(0, geometry[BATCH], samples):
        count = min(samples, geometry[BATCH] - first)
        end = count * pixels * length
        patches_kernel(geometry, first, count, x, timed, t, seen)
        patches_kernel(geometry, first, count, x_tan, timed, t_tan, seen_tan)
        dense_jvp_kernel(count * pixels, seen[:end], K, seen_tan[:end], K_tan, b_tan, z_tan[first * d:(first + count) * d])


@host_device
def conv2d_vjp_kernel(geometry, x, timed, t, K, z_bar, seen, seen_bar, t_bar, x_bar, K_bar, b_bar):
    """z = K * x + b transposed; see `conv2d_vjp`. Adds to t_bar (1,), x_bar, K_bar, b_bar; two workspaces."""
    samples, pixels, length = chunk(geometry, timed, seen)
    d = pixels * b_bar.shape[0]
    for first in range(0, geometry[BATCH], samples):
        count = min(samples, geometry[BATCH] - first)
        end = count * pixels * length
        patches_kernel(geometry, first, count, x, timed, t, seen)
        seen_bar[:end] = 0.0
        dense_vjp_kernel(count * pixels, seen[:end], K, z_bar[first * d:(first + count) * d], seen_bar[:end], K_bar, b_bar)
        patches_vjp_kernel(geometry, first, count, timed, seen_bar, t_bar, x_bar)   # seen = patches(x, t)


@host_device
def conv2d_hvp_kernel(geometry, x, timed, t, K, t_tan, x_tan, K_tan, z_bar, z_bar_tan, seen, seen_tan, seen_bar_tan,
                      t_bar_tan, x_bar_tan, K_bar_tan, b_bar_tan):
    """The tangent of `conv2d_vjp_kernel`; see `conv2d_hvp`. Adds to its last four outputs; three workspaces."""
    samples, pixels, length = chunk(geometry, timed, seen)
    d = pixels * b_bar_tan.shape[0]
    for first in range(0, geometry[BATCH], samples):
        count = min(samples, geometry[BATCH] - first)
        end, own = count * pixels * length, slice(first * d, (first + count) * d)
        patches_kernel(geometry, first, count, x, timed, t, seen)
        patches_kernel(geometry, first, count, x_tan, timed, t_tan, seen_tan)
        seen_bar_tan[:end] = 0.0
        dense_hvp_kernel(count * pixels, seen[:end], K, seen_tan[:end], K_tan, z_bar[own], z_bar_tan[own],
                         seen_bar_tan[:end], K_bar_tan, b_bar_tan)
        patches_vjp_kernel(geometry, first, count, timed, seen_bar_tan, t_bar_tan, x_bar_tan)


# --- its transpose ----------------------------------------------------------------------------------

def conv2d_transpose(x, K, b, stride=1, padding=0, size=None):
    """Transposed convolution z = Kᵀ x + b: what `conv2d` with the same K, stride and padding reads, is written.

    Parameters
    ----------
    x : ndarray, shape (batch, rows, columns, c_in)
    K : ndarray, shape (c_in, k_h, k_w, c_out)
        The filters of the convolution whose transpose this is, which leads from c_out to c_in channels.
    b : ndarray, shape (c_out,)
    stride, padding : int
    size : (int, int), optional
        Height and width of z. Several sizes are shrunk to the same one by a strided convolution; the
        default is the smallest, (rows - 1) stride + k - 2 padding.

    Returns
    -------
    z : ndarray, shape (batch, height, width, c_out)

    Raises
    ------
    InvalidInputError
        If shapes do not fit, or a convolution does not lead from ``size`` back to the shape of x.
    """
    return _transposed(x, K, stride, padding, _enlarged(x, K, b, stride, padding, size)) + b


def conv2d_transpose_jvp(x, K, x_tan, K_tan, b_tan, stride=1, padding=0, size=None):
    """z_tan = Kᵀ x_tan + K_tanᵀ x + b_tan. Shapes as the values'."""
    shape = _enlarged(x, K, b_tan, stride, padding, size)
    return _transposed(x_tan, K, stride, padding, shape) + _transposed(x, K_tan, stride, padding, shape) + b_tan


def conv2d_transpose_vjp(x, K, z_bar, stride=1, padding=0):
    """Cotangents (x_bar, K_bar, b_bar): x_bar is the convolution of z_bar, K_bar that of `conv2d_vjp` with x for z_bar."""
    x_bar = conv2d(z_bar, K, np.zeros(len(K)), stride, padding)                     # z = Kᵀ x
    _, K_bar, _ = conv2d_vjp(z_bar, K, x, stride, padding)                          # z is linear in K, too
    return x_bar, K_bar, z_bar.sum(axis=(0, 1, 2))


def conv2d_transpose_hvp(x, K, x_tan, K_tan, z_bar, z_bar_tan, stride=1, padding=0):
    """Tangent of `conv2d_transpose_vjp`: (x_bar_tan, K_bar_tan, b_bar_tan)."""
    x_bar_tan, K_bar_tan, b_bar_tan = conv2d_transpose_vjp(x, K, z_bar_tan, stride, padding)
    of_K_tan, _, _ = conv2d_transpose_vjp(x, K_tan, z_bar, stride, padding)
    _, of_x_tan, _ = conv2d_transpose_vjp(x_tan, K, z_bar, stride, padding)
    return x_bar_tan + of_K_tan, K_bar_tan + of_x_tan, b_bar_tan


def _enlarged(x, K, b, stride, padding, size):
    """The shape of the output of `conv2d_transpose`."""
    if x.ndim != 4 or K.ndim != 4 or x.shape[3] != K.shape[0] or b.shape != K.shape[3:]:
        raise InvalidInputError("x must have shape (batch, rows, columns, c_in), K (c_in, k_h, k_w, c_out) and b (c_out,), "
                                f"found {x.shape}, {K.shape} and {b.shape}")
    least = [(pixels - 1) * stride + k - 2 * padding for pixels, k in zip(x.shape[1:3], K.shape[1:3])]
    size = least if size is None else size
    back = [output_size(pixels, k, stride, padding) for pixels, k in zip(size, K.shape[1:3])]
    if back != list(x.shape[1:3]):
        raise InvalidInputError(f"size must be one that a convolution shrinks to {x.shape[1:3]}, such as {tuple(least)}, "
                                f"found {tuple(size)}")
    return (len(x), *size, K.shape[3])


def _transposed(x, K, stride, padding, shape):
    """Kᵀ x: seen_bar = x K of the dense layer, then the patches' transpose."""
    return patches_vjp(x @ K.reshape(len(K), -1), shape, *K.shape[1:3], stride, padding)


@host_device
def conv2d_transpose_add(geometry, timed, K, c_out, x, seen, z):
    """z += Kᵀ x, for the K (c_out, k_h, k_w, c_in) of a convolution from z to x; ``timed``, without its time's entries."""
    samples, pixels, length = chunk(geometry, timed, seen)
    d = pixels * c_out
    for first in range(0, geometry[BATCH], samples):
        count = min(samples, geometry[BATCH] - first)
        end = count * pixels * length
        seen[:end] = 0.0
        matmul_add(False, False, count * pixels, length, c_out, x[first * d:(first + count) * d], K, seen[:end])
        patches_vjp_kernel(geometry, first, count, timed, seen, seen[:0], z)


@host_device
def conv2d_transpose_kernel(geometry, x, K, b, seen, z):
    """z = Kᵀ x + b; see `conv2d_transpose`. The geometry is that of the convolution, from z to x. Overwrites z."""
    for r in range(z.shape[0] // b.shape[0]):
        copy_into(b, z[r * b.shape[0]:(r + 1) * b.shape[0]])
    conv2d_transpose_add(geometry, False, K, filters(geometry, K), x, seen, z)


@host_device
def conv2d_transpose_jvp_kernel(geometry, x, K, x_tan, K_tan, b_tan, seen, z_tan):
    """z_tan = Kᵀ x_tan + K_tanᵀ x + b_tan; see `conv2d_transpose_jvp`. Overwrites z_tan."""
    conv2d_transpose_kernel(geometry, x_tan, K, b_tan, seen, z_tan)
    conv2d_transpose_add(geometry, False, K_tan, filters(geometry, K), x, seen, z_tan)


@host_device
def filters(geometry, K):
    """Number of filters in K."""
    return K.shape[0] // (geometry[K_HEIGHT] * geometry[K_WIDTH] * geometry[CHANNELS])


@host_device
def conv2d_transpose_vjp_kernel(geometry, x, K, z_bar, seen, x_bar, K_bar, b_bar):
    """z = Kᵀ x + b transposed; see `conv2d_transpose_vjp`. Adds to x_bar, K_bar and b_bar."""
    samples, pixels, length = chunk(geometry, False, seen)
    d, c_out = x.shape[0] // geometry[BATCH], b_bar.shape[0]
    for first in range(0, geometry[BATCH], samples):
        count = min(samples, geometry[BATCH] - first)
        own, end = slice(first * d, (first + count) * d), count * pixels * length
        patches_kernel(geometry, first, count, z_bar, False, 0.0, seen)
        matmul_add(False, True, count * pixels, d // pixels, length, seen[:end], K, x_bar[own])
        matmul_add(True, False, d // pixels, length, count * pixels, x[own], seen[:end], K_bar)
    for j in range(z_bar.shape[0]):
        b_bar[j % c_out] += z_bar[j]
