"""Matrix products c = first + a B and c += a B in tiles that stay in registers, for B packed beforehand.

B (k, n) is packed once for many rows of a: cut into panels of as many columns as a tile has, each a contiguous
(k + 1, width) array whose first row holds what the sums begin with, a bias or zeros; behind the last column stand
zeros. A tile is some rows of c by one panel: its sums stay in vector registers for the whole of l, entry by entry
c_ij = first_j + Σ_l a_il B_lj in the order of l with products fused into sums. So a row of c has the same bits
whichever rows stand beside it.

BLAS copies what it is given to where its kernels want it, at every call. Here weights are packed once for all blocks
of rows, and it pays where the rows are many: see `TILED_FROM`.
"""
import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import config
from numba.extending import intrinsic

from refnode.host_device import host_device, outlined
from refnode.linalg import copy_into

TILED_FROM = 64          # rows from which packing weights pays, or costs nothing
WIDEST = 16              # numbers in a vector register, at most; packed matrices have room for columns in multiples of it


def vector_bytes():
    """Bytes of a vector register if this processor fuses products into sums, else 0: BLAS then has all products."""
    if config.DISABLE_JIT or config.CPU_NAME or config.CPU_FEATURES:
        return 0
    features = llvmlite.binding.get_host_cpu_features()
    if not features.get("fma"):
        return 0
    return 64 if features.get("avx512f") else 32 if features.get("avx2") else 0


VECTOR_BYTES = vector_bytes()
USABLE = VECTOR_BYTES > 0
LANE_BYTES = VECTOR_BYTES or 16


def packed_size(k, n):
    """Room for a packed (k, n) matrix, whatever the processor and the precision."""
    return (k + 1) * (-(-n // WIDEST) * WIDEST)


# --- tiles ----------------------------------------------------------------------------------------

def tile(rows, quarters):
    """An intrinsic for tiles of ``rows`` by ``quarters`` quarters of a vector of numbers; see `product`.

    It takes (k, columns, a, at, a_i, a_l, panels, at, c, at, c_i, add): how long the sums are and how many of the columns
    count, each array with the place of the tile's first entry, and steps from row to row of a and c and along the sums.
    """
    @intrinsic
    def tile_sums(typingctx, k, columns, a, a_at, a_i, a_l, panels, panel_at, c, c_at, c_i, add):
        if not a.dtype == panels.dtype == c.dtype:
            return None

        def generate(context, builder, signature, args):
            width = tile_width(quarters, a.dtype.bitwidth // 8)
            return Tile(context, builder, signature, args, rows, width).generate()
        size = types.intp
        return types.void(size, size, a, size, size, size, panels, size, c, size, size, types.boolean), generate
    return tile_sums


def tile_width(quarters, itemsize):
    """Columns of a tile; a quarter of a vector has at least two."""
    return max(quarters * (LANE_BYTES // itemsize) // 4, 2)


class Tile:
    """The code of one tile: sums begun, a loop over l that adds a_il B_lj to all of them, sums stored."""

    def __init__(self, context, builder, signature, args, rows, width):
        (self.k, self.columns, a, a_at, self.a_i, self.a_l, panels, panel_at, c, c_at, self.c_i, self.add) = args
        self.builder, self.rows, self.width = builder, rows, width
        self.real = context.get_data_type(signature.args[2].dtype)
        self.vector = ir.VectorType(self.real, width)
        self.align = signature.args[2].dtype.bitwidth // 8
        self.a, self.panel, self.c = (
            builder.gep(context.make_array(signature.args[at])(context, builder, array).data, [offset])
            for at, array, offset in ((2, a, a_at), (6, panels, panel_at), (8, c, c_at)))
        self.none = context.get_dummy_value()

    def generate(self):
        builder, begun = self.builder, self.begin()
        a_rows = [builder.gep(self.a, [builder.mul(self.number(i), self.a_i)]) for i in range(self.rows)]
        before, loop, after = builder.block, builder.append_basic_block("sums"), builder.append_basic_block("stored")
        builder.cbranch(builder.icmp_signed(">", self.k, self.number(0)), loop, after)
        builder.position_at_end(loop)
        l, sums = builder.phi(self.k.type), [builder.phi(self.vector) for _ in begun]
        next_l = builder.add(l, self.number(1))
        grown = self.one_more(a_rows, l, next_l, sums)
        join(before, loop, [l, *sums], [self.number(0), *begun], [next_l, *grown])
        builder.cbranch(builder.icmp_signed("<", next_l, self.k), loop, after)
        builder.position_at_end(after)
        totals = [builder.phi(self.vector) for _ in begun]
        join(before, loop, totals, begun, grown)
        self.end(totals)
        return self.none

    def one_more(self, a_rows, l, next_l, sums):
        """sums + a_il B_lj; the first row of a panel is that of beginnings."""
        B_l = self.load(self.builder.gep(self.panel, [self.builder.mul(next_l, self.number(self.width))]))
        along = self.builder.mul(l, self.a_l)
        a_il = [self.builder.load(self.builder.gep(row, [along]), align=self.align) for row in a_rows]
        return [self.add_product(self.spread(x), B_l, total) for x, total in zip(a_il, sums)]

    def number(self, value):
        return ir.Constant(self.k.type, value)

    def begin(self):
        """What the sums begin with: the panel's first row, or c. A branch, for c may lie far away and is not to be waited for."""
        builder, first = self.builder, self.load(self.panel)
        before, grown, begun = builder.block, builder.append_basic_block("grown"), builder.append_basic_block("begun")
        builder.cbranch(self.add, grown, begun)
        builder.position_at_end(grown)
        former = [self.masked("load", row) for row in self.c_rows()]
        builder.branch(begun)
        builder.position_at_end(begun)
        sums = [builder.phi(self.vector) for _ in former]
        join(before, grown, sums, [first] * self.rows, former)
        return sums

    def end(self, sums):
        for row, total in zip(self.c_rows(), sums):
            self.masked("store", row, total)

    def c_rows(self):
        return [self.builder.gep(self.c, [self.builder.mul(self.number(i), self.c_i)]) for i in range(self.rows)]

    def load(self, place):
        return self.builder.load(self.builder.bitcast(place, self.vector.as_pointer()), align=self.align)

    def spread(self, value):
        """A vector of equal numbers."""
        index = ir.IntType(32)
        undefined = ir.Constant(ir.VectorType(value.type, self.width), ir.Undefined)
        one = self.builder.insert_element(undefined, value, ir.Constant(index, 0))
        return self.builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(index, self.width), None))

    def add_product(self, x, y, total):
        """total + x y, fused: with the flag "contract" LLVM makes one instruction of the two."""
        return self.builder.fadd(self.builder.fmul(x, y, flags=["contract"]), total, flags=["contract"])

    def masked(self, what, place, *value):
        """Load or store the columns that count."""
        builder, pointer = self.builder, self.builder.bitcast(place, self.vector.as_pointer())
        lanes, bits = ir.VectorType(self.k.type, self.width), ir.VectorType(ir.IntType(1), self.width)
        mask = builder.icmp_signed("<", ir.Constant(lanes, list(range(self.width))), self.spread(self.columns))
        align = ir.Constant(ir.IntType(32), self.align)
        letter = "f64" if self.align == 8 else "f32"
        name = f"llvm.masked.{what}.v{self.width}{letter}.p0"
        if what == "store":
            kind = ir.FunctionType(ir.VoidType(), [self.vector, pointer.type, align.type, bits])
            arguments = *value, pointer, align, mask
        else:
            kind = ir.FunctionType(self.vector, [pointer.type, align.type, bits, self.vector])
            arguments = pointer, align, mask, ir.Constant(self.vector, None)
        found = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
        return builder.call(found, arguments)


def join(one, other, variables, from_one, from_other):
    """What variables hold when their block is entered from one block, and from the other."""
    for variable, value, other_value in zip(variables, from_one, from_other):
        variable.add_incoming(value, one)
        variable.add_incoming(other_value, other)


WIDE, FULL, NARROW = 16, 4, 1        # quarters of a vector in the columns of a tile
wide_tile, wide_row = tile(4, WIDE), tile(1, WIDE)
full_tile, full_row = tile(8, FULL), tile(1, FULL)
narrow_tile, narrow_row = tile(8, NARROW), tile(1, NARROW)


# --- packing, and products of what is packed ------------------------------------------------------

@host_device
def panel_width(left, itemsize):
    """Columns of the next panel where that many are left."""
    full = LANE_BYTES // itemsize
    if left >= 4 * full:
        return 4 * full
    return full if left > max(full // 4, 2) else max(full // 4, 2)


@outlined
def pack(k, n, B, B_l, B_j, first, panels):
    """Panels of the (k, n) matrix whose entry (l, j) is B[l B_l + j B_j]; ``first`` (n,), or empty for zeros."""
    at, j = 0, 0
    while j < n:
        width = panel_width(n - j, panels.itemsize)
        columns = min(width, n - j)
        panel = panels[at:at + (k + 1) * width]
        if columns < width or first.shape[0] == 0:
            panel[:] = 0.0
        if first.shape[0] > 0:
            copy_into(first[j:j + columns], panel[:columns])
        for l in range(k):
            row = panel[(l + 1) * width:(l + 1) * width + columns]
            if B_j == 1:                                        # a case of its own, which vectorises
                copy_into(B[l * B_l + j:l * B_l + j + columns], row)
            else:
                for column in range(columns):
                    row[column] = B[l * B_l + (j + column) * B_j]
        at += (k + 1) * width
        j += columns


@outlined
def product(m, n, k, a, a_i, a_l, panels, add, c):
    """c = first + a B, or c += a B: c (m, n) row after row, a_il at a[i a_i + l a_l], B packed."""
    at, j, full = 0, 0, LANE_BYTES // c.itemsize
    while j < n:
        width = panel_width(n - j, c.itemsize)
        columns, height = min(width, n - j), 4 if width > full else 8
        whole = m // height * height
        for i in range(0, whole, height):
            if width > full:
                wide_tile(k, columns, a, i * a_i, a_i, a_l, panels, at, c, i * n + j, n, add)
            elif width == full:
                full_tile(k, columns, a, i * a_i, a_i, a_l, panels, at, c, i * n + j, n, add)
            else:
                narrow_tile(k, columns, a, i * a_i, a_i, a_l, panels, at, c, i * n + j, n, add)
        for i in range(whole, m):
            if width > full:
                wide_row(k, columns, a, i * a_i, a_i, a_l, panels, at, c, i * n + j, n, add)
            elif width == full:
                full_row(k, columns, a, i * a_i, a_i, a_l, panels, at, c, i * n + j, n, add)
            else:
                narrow_row(k, columns, a, i * a_i, a_i, a_l, panels, at, c, i * n + j, n, add)
        at += (k + 1) * width
        j += columns
