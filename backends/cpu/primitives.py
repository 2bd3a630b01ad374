"""The vocabulary of emitted kernels, part one: addresses, vectors of `lanes` float32, and register tiles of them.

Numba sees opaque types (`Vec`, `Tile`); llvmlite lowers them to <lanes x float>, which LLVM keeps in registers. Addresses
are int64 byte addresses: no array structs, no bounds checks, no wraparound. `lanes`, `rows`, `cols` and byte strides
inside a tile are literals, so they become immediates. One call a register tile keeps Numba's share of the compile
time near 0.1 s a kernel; one call a multiply-add took 0.4 s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models, register_default
from numba.core.errors import TypingError
from numba.extending import intrinsic

PREFETCH_BYTES = 1024
"""How far ahead of their use weights are fetched."""

F32 = ir.FloatType()
I1, I8, I32, I64 = ir.IntType(1), ir.IntType(8), ir.IntType(32), ir.IntType(64)
Value = Any


class Vec(types.Type):  # type: ignore[misc]
    """`lanes` float32 in one register."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(name=f"f32x{lanes}")


class Tile(types.Type):  # type: ignore[misc]
    """rows x cols vectors: rows are pixels, columns are blocks of `lanes` channels."""

    def __init__(self, rows: int, cols: int, lanes: int) -> None:
        self.rows, self.cols, self.lanes = rows, cols, lanes
        super().__init__(name=f"tile{rows}x{cols}x{lanes}")


@register_default(Vec)
class VecModel(models.PrimitiveModel):  # type: ignore[misc]
    """A Vec is an LLVM vector."""

    def __init__(self, dmm: Any, fe_type: Vec) -> None:
        super().__init__(dmm, fe_type, vector(fe_type.lanes))


@register_default(Tile)
class TileModel(models.PrimitiveModel):  # type: ignore[misc]
    """A Tile is an LLVM array of vectors, which SROA takes apart into registers."""

    def __init__(self, dmm: Any, fe_type: Tile) -> None:
        count = fe_type.rows * fe_type.cols
        super().__init__(dmm, fe_type, ir.ArrayType(vector(fe_type.lanes), count))


def vector(lanes: int) -> Any:
    """The LLVM type of a Vec."""
    return ir.VectorType(F32, lanes)


def literal(value: Any, what: str) -> int:
    """The int behind a Numba literal type. Raises TypingError for anything else."""
    if not isinstance(value, types.IntegerLiteral):
        raise TypingError(f"{what} must be a literal int, got {value}")
    return int(value.literal_value)


def pointer(builder: Any, address: Value, kind: Any, offset: int = 0) -> Value:
    """`address + offset` as a pointer to `kind`."""
    if offset:
        address = builder.add(address, I64(offset))
    return builder.inttoptr(address, kind.as_pointer())


def function(builder: Any, name: str, result: Any, arguments: Sequence[Any]) -> Value:
    """An LLVM function declared by name: `declare_intrinsic` rejects vector types."""
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), name)


def splat(builder: Any, scalar: Value, lanes: int) -> Value:
    """A vector with `scalar` in every lane."""
    kind = ir.VectorType(scalar.type, lanes)
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, I32(0))
    zeros = ir.Constant(ir.VectorType(I32, lanes), [0] * lanes)
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), zeros)


def fma(builder: Any, a: Value, b: Value, c: Value) -> Value:
    """A * b + c: one instruction where the target has it, multiply then add where it has not."""
    name = f"llvm.fmuladd.v{a.type.count}f32"
    return builder.call(function(builder, name, a.type, [a.type] * 3), [a, b, c])


def _load(builder: Any, address: Value, lanes: int, offset: int = 0) -> Value:
    return builder.load(pointer(builder, address, vector(lanes), offset), align=4)


def _store(builder: Any, value: Value, address: Value, offset: int = 0) -> None:
    builder.store(value, pointer(builder, address, value.type, offset), align=4)


# ---- scalars -------------------------------------------------------------------------------------------------------


@intrinsic  # type: ignore[untyped-decorator]
def load_i64(typingctx: Any, address: Any, index: Any) -> Any:
    """The int64 at address + 8 * index."""

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        return builder.load(builder.gep(pointer(builder, args[0], I64), [args[1]]), align=8)

    return types.int64(types.int64, types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def load_i32(typingctx: Any, address: Any, index: Any) -> Any:
    """The int32 at address + 4 * index, as int64."""

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        return builder.sext(builder.load(builder.gep(pointer(builder, args[0], I32), [args[1]]), align=4), I64)

    return types.int64(types.int64, types.int64), codegen


SCALARS: dict[str, tuple[Any, Any, int]] = {
    "f32": (types.float32, F32, 4), "f64": (types.float64, ir.DoubleType(), 8), "i8": (types.int8, I8, 1),
    "i16": (types.int16, ir.IntType(16), 2), "i32": (types.int32, I32, 4), "i64": (types.int64, I64, 8),
    "u8": (types.uint8, I8, 1), "u16": (types.uint16, ir.IntType(16), 2), "u32": (types.uint32, I32, 4),
    "u64": (types.uint64, I64, 8),
}  # fmt: skip


def _scalar_access(name: str) -> tuple[Any, Any]:
    numba_type, llvm_type, size = SCALARS[name]

    @intrinsic  # type: ignore[untyped-decorator]
    def get(typingctx: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
            return builder.load(pointer(builder, args[0], llvm_type), align=size)

        return numba_type(types.int64), codegen

    @intrinsic  # type: ignore[untyped-decorator]
    def put(typingctx: Any, address: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
            builder.store(args[1], pointer(builder, args[0], llvm_type), align=size)
            return context.get_dummy_value()

        return types.void(types.int64, numba_type), codegen

    return get, put


@intrinsic  # type: ignore[untyped-decorator]
def copy_bytes(typingctx: Any, to: Any, source: Any, count: Any) -> Any:
    """Copy `count` bytes; the ranges do not overlap."""

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        move = function(
            builder, "llvm.memcpy.p0i8.p0i8.i64", ir.VoidType(), [I8.as_pointer(), I8.as_pointer(), I64, I1]
        )
        builder.call(move, [pointer(builder, args[0], I8), pointer(builder, args[1], I8), args[2], I1(0)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def zero_bytes(typingctx: Any, to: Any, count: Any) -> Any:
    """Set `count` bytes to zero."""

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        fill = function(builder, "llvm.memset.p0i8.i64", ir.VoidType(), [I8.as_pointer(), I8, I64, I1])
        builder.call(fill, [pointer(builder, args[0], I8), I8(0), args[1], I1(0)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


# ---- vectors -------------------------------------------------------------------------------------------------------


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def vec_load(typingctx: Any, address: Any, lanes: Any) -> Any:
    """The `lanes` floats at `address`."""
    count = literal(lanes, "lanes")

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        return _load(builder, args[0], count)

    return Vec(count)(types.int64, lanes), codegen


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def vec_splat(typingctx: Any, address: Any, lanes: Any) -> Any:
    """The float at `address` in every lane."""
    count = literal(lanes, "lanes")

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        return splat(builder, builder.load(pointer(builder, args[0], F32), align=4), count)

    return Vec(count)(types.int64, lanes), codegen


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def vec_of(typingctx: Any, scalar: Any, lanes: Any) -> Any:
    """A float32 value in every lane."""
    count = literal(lanes, "lanes")

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        return splat(builder, args[0], count)

    return Vec(count)(types.float32, lanes), codegen


@intrinsic  # type: ignore[untyped-decorator]
def vec_store(typingctx: Any, address: Any, value: Any) -> Any:
    """Write a vector to `address`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        _store(builder, args[1], args[0])
        return context.get_dummy_value()

    return types.void(types.int64, value), codegen


def _first(builder: Any, count: Value, lanes: int) -> Value:
    numbers = ir.Constant(ir.VectorType(I64, lanes), list(range(lanes)))
    return builder.icmp_signed("<", numbers, splat(builder, count, lanes))


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def vec_load_first(typingctx: Any, address: Any, count: Any, lanes: Any) -> Any:
    """The first `count` of `lanes` floats at `address`; the rest is 0 and is not read."""
    width = literal(lanes, "lanes")

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        kind, mask = vector(width), ir.VectorType(I1, width)
        name = f"llvm.masked.load.v{width}f32.p0v{width}f32"
        load = function(builder, name, kind, [kind.as_pointer(), I32, mask, kind])
        where, zero = pointer(builder, args[0], kind), ir.Constant(kind, [0.0] * width)
        return builder.call(load, [where, I32(4), _first(builder, args[1], width), zero])

    return Vec(width)(types.int64, types.int64, lanes), codegen


@intrinsic  # type: ignore[untyped-decorator]
def vec_keep_first(typingctx: Any, value: Any, count: Any, other: Any) -> Any:
    """The first `count` lanes of `value`, the rest from `other`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        return builder.select(_first(builder, args[1], value.lanes), args[0], args[2])

    return value(value, types.int64, value), codegen


@intrinsic  # type: ignore[untyped-decorator]
def vec_store_first(typingctx: Any, address: Any, value: Any, count: Any) -> Any:
    """Write the first `count` lanes of a vector to `address`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        width = value.lanes
        kind, mask = vector(width), ir.VectorType(I1, width)
        name = f"llvm.masked.store.v{width}f32.p0v{width}f32"
        store = function(builder, name, ir.VoidType(), [kind, kind.as_pointer(), I32, mask])
        builder.call(store, [args[1], pointer(builder, args[0], kind), I32(4), _first(builder, args[2], width)])
        return context.get_dummy_value()

    return types.void(types.int64, value, types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def vec_fma(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """A * b + c."""

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        return fma(builder, *args)

    return a(a, a, a), codegen


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def vec_lane(typingctx: Any, value: Any, lane: Any) -> Any:
    """One lane of a vector as float32."""
    index = literal(lane, "lane")

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        return builder.extract_element(args[0], I32(index))

    return types.float32(value, lane), codegen


# ---- tiles ---------------------------------------------------------------------------------------------------------


def tile_parts(builder: Any, kind: Tile, tile: Value) -> list[Value]:
    """The vectors of a tile, row by row."""
    return [builder.extract_value(tile, i) for i in range(kind.rows * kind.cols)]


def tile_join(builder: Any, kind: Tile, parts: Sequence[Value]) -> Value:
    """A tile of the given vectors, row by row."""
    tile = ir.Constant(ir.ArrayType(vector(kind.lanes), len(parts)), ir.Undefined)
    for index, part in enumerate(parts):
        tile = builder.insert_value(tile, part, index)
    return tile


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def tile_bias(typingctx: Any, address: Any, rows: Any, cols: Any, lanes: Any) -> Any:
    """A tile whose every row holds the cols * lanes floats at `address`."""
    kind = Tile(literal(rows, "rows"), literal(cols, "cols"), literal(lanes, "lanes"))

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        row = [_load(builder, args[0], kind.lanes, q * kind.lanes * 4) for q in range(kind.cols)]
        return tile_join(builder, kind, row * kind.rows)

    return kind(types.int64, rows, cols, lanes), codegen


def _prefetch(builder: Any, address: Value, offset: int) -> None:
    """Ask for a line that will be read soon, into the first-level cache."""
    where = pointer(builder, address, I8, offset)
    fetch = function(builder, "llvm.prefetch.p0i8", ir.VoidType(), [I8.as_pointer(), I32, I32, I32])
    builder.call(fetch, [where, I32(0), I32(3), I32(1)])


def _weights(builder: Any, kind: Tile, address: Value) -> list[Value]:
    for offset in range(0, kind.cols * kind.lanes * 4, 64):
        _prefetch(builder, address, PREFETCH_BYTES + offset)
    return [_load(builder, address, kind.lanes, q * kind.lanes * 4) for q in range(kind.cols)]


def _multiply_add(builder: Any, kind: Tile, tile: Value, pixels: Sequence[Value], weights: Sequence[Value]) -> Value:
    parts = tile_parts(builder, kind, tile)
    for index in range(len(parts)):
        p, q = divmod(index, kind.cols)
        parts[index] = fma(builder, pixels[p], weights[q], parts[index])
    return tile_join(builder, kind, parts)


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def tile_fma(typingctx: Any, tile: Any, x: Any, step: Any, w: Any) -> Any:
    """tile[p, q] += float at (x + p * step) * vector q at w. `step` is in bytes."""

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        weights = _weights(builder, tile, args[3])
        pixels = [
            splat(builder, builder.load(_row_pointer(builder, args[1], F32, p, step, args[2]), align=4), tile.lanes)
            for p in range(tile.rows)
        ]
        return _multiply_add(builder, tile, args[0], pixels, weights)

    return tile(tile, types.int64, step, types.int64), codegen


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def tile_fma_lanes(typingctx: Any, tile: Any, x: Any, step: Any, w: Any) -> Any:
    """tile[p, q] += vector at (x + p * step) * vector q at w: every lane keeps to itself. `step` is in bytes."""

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        weights = _weights(builder, tile, args[3])
        kind = vector(tile.lanes)
        pixels = [
            builder.load(_row_pointer(builder, args[1], kind, p, step, args[2]), align=4) for p in range(tile.rows)
        ]
        return _multiply_add(builder, tile, args[0], pixels, weights)

    return tile(tile, types.int64, step, types.int64), codegen


def _row_pointer(builder: Any, x: Value, kind: Any, row: int, step: Any, value: Value) -> Value:
    if isinstance(step, types.IntegerLiteral):
        return pointer(builder, x, kind, row * int(step.literal_value))
    return pointer(builder, builder.add(x, builder.mul(value, I64(row))) if row else x, kind)


def _walk(builder: Any, rows: int, offset: Value, step: Value, col: Value, wrap: Value, gap: Value) -> list[Value]:
    """Byte offset of each pixel: `step` apart, and `gap` more each time the column reaches `wrap`."""
    offsets = [offset]
    for _ in range(rows - 1):
        col = builder.add(col, I64(1))
        turn = builder.icmp_signed("==", col, wrap)
        offset = builder.add(builder.add(offset, step), builder.select(turn, gap, I64(0)))
        col = builder.select(turn, I64(0), col)
        offsets.append(offset)
    return offsets


def _planes(builder: Any, table: Value, base: Value, cols: int) -> list[Value]:
    return [builder.add(builder.load(pointer(builder, table, I64, 8 * q), align=8), base) for q in range(cols)]


@intrinsic  # type: ignore[untyped-decorator]
def tile_add(
    typingctx: Any, tile: Any, base: Any, table: Any, offset: Any, step: Any, col: Any, wrap: Any, gap: Any
) -> Any:
    """tile[p, q] += vector at base + table[q] + offset of pixel p."""

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        _, base, table, offset, step, col, wrap, gap = args
        planes = _planes(builder, table, base, tile.cols)
        offsets = _walk(builder, tile.rows, offset, step, col, wrap, gap)
        parts = tile_parts(builder, tile, args[0])
        for index in range(len(parts)):
            p, q = divmod(index, tile.cols)
            other = _load(builder, builder.add(planes[q], offsets[p]), tile.lanes)
            parts[index] = builder.fadd(parts[index], other)
        return tile_join(builder, tile, parts)

    return tile(tile, *[types.int64] * 7), codegen


@intrinsic  # type: ignore[untyped-decorator]
def tile_store(
    typingctx: Any, tile: Any, base: Any, table: Any, offset: Any, step: Any, col: Any, wrap: Any, gap: Any, count: Any
) -> Any:
    """Write the first `count` rows of a tile: row p, column q to base + table[q] + offset of pixel p."""

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        _, base, table, offset, step, col, wrap, gap, count = args
        planes = _planes(builder, table, base, tile.cols)
        offsets = _walk(builder, tile.rows, offset, step, col, wrap, gap)
        parts = tile_parts(builder, tile, args[0])
        done = builder.append_basic_block("stored")
        for p in range(tile.rows):
            if p:
                more = builder.append_basic_block(f"row{p}")
                builder.cbranch(builder.icmp_signed(">", count, I64(p)), more, done)
                builder.position_at_end(more)
            for q in range(tile.cols):
                _store(builder, parts[p * tile.cols + q], builder.add(planes[q], offsets[p]))
        builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return types.void(tile, *[types.int64] * 8), codegen


VOCABULARY: dict[str, Any] = {
    "load_i64": load_i64, "load_i32": load_i32, "copy_bytes": copy_bytes, "zero_bytes": zero_bytes,
    "vec_load": vec_load, "vec_splat": vec_splat, "vec_of": vec_of, "vec_store": vec_store,
    "vec_load_first": vec_load_first, "vec_store_first": vec_store_first, "vec_keep_first": vec_keep_first, "vec_lane": vec_lane, "vec_fma": vec_fma,
    "tile_bias": tile_bias, "tile_fma": tile_fma, "tile_fma_lanes": tile_fma_lanes, "tile_add": tile_add,
    "tile_store": tile_store,
}  # fmt: skip
for _name in SCALARS:
    VOCABULARY[f"get_{_name}"], VOCABULARY[f"put_{_name}"] = _scalar_access(_name)
