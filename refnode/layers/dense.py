"""The dense layer z = W x + b, for a batch of samples held as the rows of x; with its jvp, vjp and hvp.

The NumPy forms hold matrices, the kernels one-dimensional C-contiguous arrays in the same row-major
order. Their products go to BLAS in the accumulating form c += op(a) op(b), which ``np.dot`` lacks.
"""
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic, overload

from refnode.host_device import host_device
from refnode.layers.tiles import USABLE as TILED, pack, product

THIN = 8                 # inputs or outputs below which packing x costs more than the product it is for


# --- z = W x + b ----------------------------------------------------------------------------------

def dense(x, W, b):
    """Dense layer: z = x Wᵀ + b, sample by sample z = W x + b.

    Parameters
    ----------
    x : ndarray, shape (batch, d_in)
    W : ndarray, shape (d_out, d_in)
    b : ndarray, shape (d_out,)

    Returns
    -------
    z : ndarray, shape (batch, d_out)
    """
    return x @ W.T + b


@host_device
def dense_kernel(batch, x, W, b, z):
    """z = x Wᵀ + b; see `dense`. Overwrites z (batch d_out,)."""
    d_out = b.shape[0]
    for i in range(batch):
        for j in range(d_out):
            z[i * d_out + j] = b[j]
    matmul_add(False, True, batch, d_out, W.shape[0] // d_out, x, W, z)


def dense_jvp(x, W, x_tan, W_tan, b_tan):
    """Tangent of `dense`: z_tan = x_tan Wᵀ + x W_tanᵀ + b_tan. Shapes as the values'."""
    return x_tan @ W.T + x @ W_tan.T + b_tan


@host_device
def dense_jvp_kernel(batch, x, W, x_tan, W_tan, b_tan, z_tan):
    """z_tan = x_tan Wᵀ + x W_tanᵀ + b_tan; see `dense_jvp`. Overwrites z_tan (batch d_out,)."""
    d_out = b_tan.shape[0]
    dense_kernel(batch, x, W_tan, b_tan, z_tan)
    matmul_add(False, True, batch, d_out, W.shape[0] // d_out, x_tan, W, z_tan)


def dense_vjp(x, W, z_bar):
    """Cotangents of `dense`: x_bar = z_bar W, W_bar = z_barᵀ x, b_bar = Σᵢ z_barᵢ.

    Parameters
    ----------
    x : ndarray, shape (batch, d_in)
    W : ndarray, shape (d_out, d_in)
    z_bar : ndarray, shape (batch, d_out)

    Returns
    -------
    x_bar, W_bar, b_bar : ndarray, shapes (batch, d_in), (d_out, d_in), (d_out,)
    """
    return z_bar @ W, z_bar.T @ x, z_bar.sum(axis=0)


@host_device
def dense_vjp_kernel(batch, x, W, z_bar, x_bar, W_bar, b_bar):
    """z = x Wᵀ + b transposed; see `dense_vjp`. Adds to x_bar, W_bar and b_bar."""
    d_out = b_bar.shape[0]
    d_in = W.shape[0] // d_out
    matmul_add(False, False, batch, d_in, d_out, z_bar, W, x_bar)
    matmul_add(True, False, d_out, d_in, batch, z_bar, x, W_bar)
    add_rows(batch, z_bar, b_bar)


@host_device
def add_rows(rows, z_bar, b_bar):
    """b_bar += Σᵢ z_barᵢ."""
    d = b_bar.shape[0]
    whole = rows // 4 * 4
    for i in range(0, whole, 4):                                # four at a time: sums go through memory
        first, second, third, fourth = z_bar[i * d:], z_bar[(i + 1) * d:], z_bar[(i + 2) * d:], z_bar[(i + 3) * d:]
        for j in range(d):
            b_bar[j] += (first[j] + second[j]) + (third[j] + fourth[j])
    for i in range(whole, rows):
        z = z_bar[i * d:]
        for j in range(d):
            b_bar[j] += z[j]


def dense_hvp(x, W, x_tan, W_tan, z_bar, z_bar_tan):
    """Tangent of `dense_vjp`: (x_bar_tan, W_bar_tan, b_bar_tan). Shapes as the values'."""
    return (z_bar_tan @ W + z_bar @ W_tan, z_bar_tan.T @ x + z_bar.T @ x_tan, z_bar_tan.sum(axis=0))


@host_device
def dense_hvp_kernel(batch, x, W, x_tan, W_tan, z_bar, z_bar_tan, x_bar_tan, W_bar_tan, b_bar_tan):
    """The tangent of `dense_vjp_kernel`; see `dense_hvp`. Adds to its three outputs."""
    d_out = b_bar_tan.shape[0]
    d_in = W.shape[0] // d_out
    dense_vjp_kernel(batch, x, W, z_bar_tan, x_bar_tan, W_bar_tan, b_bar_tan)
    matmul_add(False, False, batch, d_in, d_out, z_bar, W_tan, x_bar_tan)       # x_bar = z_bar W
    matmul_add(True, False, d_out, d_in, batch, z_bar, x_tan, W_bar_tan)        # W_bar = z_barᵀ x


# --- the same for a block of the rows of x, with weights packed once for all of them -----------------

@host_device
def pack_dense(W, b, packed):
    """Packs Wᵀ and b for `dense_packed`, where ``packed`` has room; see `layers.tiles`."""
    if TILED and packed.shape[0] > 0:
        d_out = b.shape[0]
        d_in = W.shape[0] // d_out
        pack(d_in, d_out, W, 1, d_in, b, packed)


@host_device
def dense_packed(rows, x, W, b, packed, z):
    """`dense_kernel` by what `pack_dense` made, if it made something."""
    if TILED and packed.shape[0] > 0:
        d_out = b.shape[0]
        d_in = W.shape[0] // d_out
        product(rows, d_out, d_in, x, d_in, 1, packed, False, z)
    else:
        dense_kernel(rows, x, W, b, z)


@host_device
def pack_dense_vjp(d_out, W, packed):
    """Packs W for `dense_packed_vjp`, where ``packed`` has room."""
    if TILED and packed.shape[0] > 0:
        d_in = W.shape[0] // d_out
        pack(d_out, d_in, W, d_in, 1, W[:0], packed)


@host_device
def dense_packed_vjp(rows, x, W, packed, room, z_bar, x_bar, W_bar, b_bar):
    """`dense_vjp_kernel` by what `pack_dense_vjp` made, but overwrites x_bar; packs x into ``room``."""
    if TILED and packed.shape[0] > 0:
        d_out = b_bar.shape[0]
        d_in = W.shape[0] // d_out
        product(rows, d_in, d_out, z_bar, d_out, 1, packed, False, x_bar)       # x_bar = z_bar W
        if min(d_in, d_out) < THIN:
            matmul_add(True, False, d_out, d_in, rows, z_bar, x, W_bar)
        else:
            pack(rows, d_in, x, d_in, 1, x[:0], room)
            product(d_out, d_in, rows, z_bar, 1, d_out, room, True, W_bar)      # W_bar += z_barᵀ x
        add_rows(rows, z_bar, b_bar)
    else:
        x_bar[:] = 0.0
        dense_vjp_kernel(rows, x, W, z_bar, x_bar, W_bar, b_bar)


@host_device
def nothing_packed(W, b, packed):
    """On a GPU rows have no blocks."""


@host_device
def dense_plain(rows, x, W, b, packed, z):
    """`dense_packed` where nothing is packed."""
    dense_kernel(rows, x, W, b, z)


@host_device
def dense_plain_vjp(rows, x, W, packed, room, z_bar, x_bar, W_bar, b_bar):
    """`dense_packed_vjp` where nothing is packed."""
    x_bar[:] = 0.0
    dense_vjp_kernel(rows, x, W, z_bar, x_bar, W_bar, b_bar)


pack_dense.on_device = pack_dense_vjp.on_device = nothing_packed
dense_packed.on_device, dense_packed_vjp.on_device = dense_plain, dense_plain_vjp


# --- c += op(a) op(b) -----------------------------------------------------------------------------

def matmul_add(a_transposed, b_transposed, m, n, k, a, b, c):
    """c += op(a) op(b) of row-major matrices; op(a) is (m, k), op(b) (k, n), c (m, n).

    A matrix marked transposed is stored as (k, m), or (n, k). This is what plain Python runs; compiled
    code gets BLAS on the CPU, and `matmul_add_loops` elsewhere.
    """
    left = a.reshape(k, m).T if a_transposed else a.reshape(m, k)
    right = b.reshape(n, k).T if b_transposed else b.reshape(k, n)
    c.reshape(m, n)[...] += left @ right


@host_device
def matmul_add_loops(a_transposed, b_transposed, m, n, k, a, b, c):
    """c_ij += Σ_l a_il b_lj; see `matmul_add`."""
    a_i, a_l = (1, m) if a_transposed else (k, 1)
    b_l, b_j = (1, k) if b_transposed else (n, 1)
    for i in range(m):
        for j in range(n):
            total = 0.0
            for l in range(k):
                total += a[i * a_i + l * a_l] * b[l * b_l + j * b_j]
            c[i * n + j] += total


@host_device
def matmul_add_blas(a_transposed, b_transposed, m, n, k, a, b, c):
    """`matmul_add` by BLAS; all NaN if BLAS cannot be loaded, for a kernel cannot raise."""
    status = call_gemm(a_transposed, b_transposed, m, n, k, a, b, c)
    if status != 0:
        for i in range(c.shape[0]):
            c[i] = np.nan


matmul_add.on_device = matmul_add_loops
GEMM = {types.float64: "d", types.float32: "s"}


@overload(matmul_add, target="generic")
def _matmul_add_anywhere(a_transposed, b_transposed, m, n, k, a, b, c):
    return lambda a_transposed, b_transposed, m, n, k, a, b, c: matmul_add_loops(
        a_transposed, b_transposed, m, n, k, a, b, c)


@overload(matmul_add, target="cpu")
def _matmul_add_on_cpu(a_transposed, b_transposed, m, n, k, a, b, c):
    return lambda a_transposed, b_transposed, m, n, k, a, b, c: matmul_add_blas(
        a_transposed, b_transposed, m, n, k, a, b, c)


@intrinsic
def call_gemm(typingctx, a_transposed, b_transposed, m, n, k, a, b, c):
    """c += op(a) op(b) by the ``gemm`` to which Numba links ``np.dot``; returns 0 on success.

    BLAS is column-major and sees every matrix here transposed: cᵀ += op(b)ᵀ op(a)ᵀ.
    """
    if a.dtype not in GEMM or not a.dtype == b.dtype == c.dtype:
        raise TypingError(f"matmul_add: expected arrays of one type, float64 or float32, found {a}, {b} and {c}")
    pointer, size, char = cgutils.voidptr_t, cgutils.intp_t, ir.IntType(8)
    gemm_type = ir.FunctionType(ir.IntType(32), [
        char, char, char, size, size, size,          # kind, transa, transb, m, n, k
        pointer, pointer, size, pointer, size,       # alpha, a, lda, b, ldb
        pointer, pointer, size])                     # beta, c, ldc

    def generate(context, builder, signature, args):
        a_flag, b_flag, m, n, k = args[:5]
        a_data, b_data, c_data = (
            builder.bitcast(context.make_array(type_)(context, builder, array).data, pointer)
            for type_, array in zip(signature.args[5:], args[5:]))
        one = builder.bitcast(
            cgutils.alloca_once_value(builder, context.get_constant(a.dtype, 1.0)), pointer)
        yes, no, kind = (ir.Constant(char, ord(letter)) for letter in ("t", "n", GEMM[a.dtype]))
        gemm = cgutils.get_or_insert_function(builder.module, gemm_type, "numba_xxgemm")
        return builder.call(gemm, (
            kind, builder.select(b_flag, yes, no), builder.select(a_flag, yes, no), n, m, k,
            one, b_data, builder.select(b_flag, k, n), a_data, builder.select(a_flag, m, k),
            one, c_data, n))

    flag, count = types.boolean, types.intp
    return types.int32(flag, flag, count, count, count, a, b, c), generate
