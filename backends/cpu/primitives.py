"""The vocabulary of emitted kernels, part one: addresses, scalars, and vectors of `lanes` float32.

Numba sees opaque types (`Vec`, `Tile`); llvmlite lowers them to <lanes x float>, which LLVM keeps in registers.
Addresses are int64 byte addresses: no array structs, no bounds checks, no wraparound. `lanes`, `rows`, `cols` and byte
strides inside a tile are literals, so they become immediates.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.core.datamodel.registry import register_default
from numba.core.errors import TypingError
from numba.extending import intrinsic

F32, F64 = ir.FloatType(), ir.DoubleType()
I1, I8, I32, I64 = ir.IntType(1), ir.IntType(8), ir.IntType(32), ir.IntType(64)
Value = Any


class Vec(types.Type):
    """`lanes` float32 in one register."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(name=f"f32x{lanes}")


class Tile(types.Type):
    """rows x cols vectors: rows are pixels, columns are blocks of `lanes` channels."""

    def __init__(self, rows: int, cols: int, lanes: int) -> None:
        self.rows, self.cols, self.lanes = rows, cols, lanes
        super().__init__(name=f"tile{rows}x{cols}x{lanes}")


@register_default(Vec)
class VecModel(models.PrimitiveModel):
    """A Vec is an LLVM vector."""

    def __init__(self, dmm: Any, fe_type: Vec) -> None:
        super().__init__(dmm, fe_type, vector(fe_type.lanes))


@register_default(Tile)
class TileModel(models.PrimitiveModel):
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
    name = f"llvm.fmuladd.v{a.type.count}{a.type.element.intrinsic_name}"
    return builder.call(function(builder, name, a.type, [a.type] * 3), [a, b, c])


def load_vector(builder: Any, address: Value, lanes: int, offset: int = 0) -> Value:
    """The vector at `address + offset`."""
    return builder.load(pointer(builder, address, vector(lanes), offset), align=4)


def store_vector(builder: Any, value: Value, address: Value, offset: int = 0) -> None:
    """Write a vector to `address + offset`."""
    builder.store(value, pointer(builder, address, value.type, offset), align=4)


# ---- scalars -------------------------------------------------------------------------------------------------------


@intrinsic
def load_i64(typingctx: Any, address: Any, index: Any) -> Any:
    """The int64 at address + 8 * index."""

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        return builder.load(builder.gep(pointer(builder, args[0], I64), [args[1]]), align=8)

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def load_i32(typingctx: Any, address: Any, index: Any) -> Any:
    """The int32 at address + 4 * index, as int64."""

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        return builder.sext(builder.load(builder.gep(pointer(builder, args[0], I32), [args[1]]), align=4), I64)

    return types.int64(types.int64, types.int64), codegen


SCALARS: dict[str, tuple[Any, Any, int]] = {
    "f32": (types.float32, F32, 4), "f64": (types.float64, ir.DoubleType(), 8), "i8": (types.int8, I8, 1),
    "i16": (types.int16, ir.IntType(16), 2), "i32": (types.int32, I32, 4), "i64": (types.int64, I64, 8),
    "u8": (types.uint8, I8, 1), "u16": (types.uint16, ir.IntType(16), 2), "u32": (types.uint32, I32, 4),
    "u64": (types.uint64, I64, 8), "f16": (types.float32, ir.HalfType(), 2),
}  # fmt: skip
"""Element types in memory: the Numba type of a value, the LLVM type that is loaded and stored, its bytes."""


def _scalar_access(name: str) -> tuple[Any, Any]:
    numba_type, llvm_type, size = SCALARS[name]

    @intrinsic
    def get(typingctx: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
            value = builder.load(pointer(builder, args[0], llvm_type), align=size)
            return builder.fpext(value, F32) if name == "f16" else value

        return numba_type(types.int64), codegen

    @intrinsic
    def put(typingctx: Any, address: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
            value = builder.fptrunc(args[1], llvm_type) if name == "f16" else args[1]
            builder.store(value, pointer(builder, args[0], llvm_type), align=size)
            return context.get_dummy_value()

        return types.void(types.int64, numba_type), codegen

    return get, put


@intrinsic
def whole(typingctx: Any, value: Any) -> Any:
    """A number as int64, without its fraction; `int` of Numba may raise, for which it calls the interpreter."""

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        if isinstance(value, types.Float):
            return builder.fptosi(args[0], I64)
        return builder.sext(args[0], I64) if value.signed else builder.zext(args[0], I64)

    return types.int64(value), codegen


@intrinsic
def floor_quotient(typingctx: Any, a: Any, b: Any) -> Any:
    """Numba's quotient of two numbers of any sign, rounded down; 0 where b is 0."""
    found = typingctx.resolve_function_type(operator.floordiv, (a, b), {})

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        key = context.typing_context.resolve_value_type(operator.floordiv)
        operands = [
            context.cast(builder, value, *kinds)
            for value, *kinds in zip(args, signature.args, found.args, strict=True)
        ]
        return context.get_function(key, found)(builder, operands)

    return found.return_type(a, b), codegen


@intrinsic
def copy_bytes(typingctx: Any, to: Any, source: Any, count: Any) -> Any:
    """Copy `count` bytes; the ranges do not overlap."""

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        move = function(
            builder, "llvm.memcpy.p0i8.p0i8.i64", ir.VoidType(), [I8.as_pointer(), I8.as_pointer(), I64, I1]
        )
        builder.call(move, [pointer(builder, args[0], I8), pointer(builder, args[1], I8), args[2], I1(0)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def zero_bytes(typingctx: Any, to: Any, count: Any) -> Any:
    """Set `count` bytes to zero."""

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        fill = function(builder, "llvm.memset.p0i8.i64", ir.VoidType(), [I8.as_pointer(), I8, I64, I1])
        builder.call(fill, [pointer(builder, args[0], I8), I8(0), args[1], I1(0)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


# ---- vectors -------------------------------------------------------------------------------------------------------


@intrinsic(prefer_literal=True)
def vec_load(typingctx: Any, address: Any, lanes: Any) -> Any:
    """The `lanes` floats at `address`."""
    count = literal(lanes, "lanes")

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        return load_vector(builder, args[0], count)

    return Vec(count)(types.int64, lanes), codegen


@intrinsic(prefer_literal=True)
def vec_splat(typingctx: Any, address: Any, lanes: Any) -> Any:
    """The float at `address` in every lane."""
    count = literal(lanes, "lanes")

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        return splat(builder, builder.load(pointer(builder, args[0], F32), align=4), count)

    return Vec(count)(types.int64, lanes), codegen


@intrinsic(prefer_literal=True)
def vec_of(typingctx: Any, scalar: Any, lanes: Any) -> Any:
    """A float32 value in every lane."""
    count = literal(lanes, "lanes")

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        return splat(builder, args[0], count)

    return Vec(count)(types.float32, lanes), codegen


@intrinsic
def vec_store(typingctx: Any, address: Any, value: Any) -> Any:
    """Write a vector to `address`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        store_vector(builder, args[1], args[0])
        return context.get_dummy_value()

    return types.void(types.int64, value), codegen


def _first(builder: Any, count: Value, lanes: int) -> Value:
    numbers = ir.Constant(ir.VectorType(I64, lanes), list(range(lanes)))
    return builder.icmp_signed("<", numbers, splat(builder, count, lanes))


def load_first(builder: Any, address: Value, count: Value, lanes: int) -> Value:
    """The first `count` of `lanes` floats at an address; the rest is 0 and is not read."""
    kind, mask = vector(lanes), ir.VectorType(I1, lanes)
    name = f"llvm.masked.load.v{lanes}f32.p0v{lanes}f32"
    load = function(builder, name, kind, [kind.as_pointer(), I32, mask, kind])
    where, zero = pointer(builder, address, kind), ir.Constant(kind, [0.0] * lanes)
    return builder.call(load, [where, I32(4), _first(builder, count, lanes), zero])


def store_first(builder: Any, value: Value, address: Value, count: Value, lanes: int) -> None:
    """Write the first `count` lanes of a vector."""
    kind, mask = vector(lanes), ir.VectorType(I1, lanes)
    name = f"llvm.masked.store.v{lanes}f32.p0v{lanes}f32"
    store = function(builder, name, ir.VoidType(), [kind, kind.as_pointer(), I32, mask])
    builder.call(store, [value, pointer(builder, address, kind), I32(4), _first(builder, count, lanes)])


@intrinsic(prefer_literal=True)
def vec_load_first(typingctx: Any, address: Any, count: Any, lanes: Any) -> Any:
    """The first `count` of `lanes` floats at `address`; the rest is 0 and is not read."""
    width = literal(lanes, "lanes")

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        return load_first(builder, args[0], args[1], width)

    return Vec(width)(types.int64, types.int64, lanes), codegen


@intrinsic
def vec_keep_first(typingctx: Any, value: Any, count: Any, other: Any) -> Any:
    """The first `count` lanes of `value`, the rest from `other`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        return builder.select(_first(builder, args[1], value.lanes), args[0], args[2])

    return value(value, types.int64, value), codegen


@intrinsic
def vec_store_first(typingctx: Any, address: Any, value: Any, count: Any) -> Any:
    """Write the first `count` lanes of a vector to `address`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        store_first(builder, args[1], args[0], args[2], value.lanes)
        return context.get_dummy_value()

    return types.void(types.int64, value, types.int64), codegen


@intrinsic
def vec_fma(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """A * b + c."""

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        return fma(builder, *args)

    return a(a, a, a), codegen


@intrinsic(prefer_literal=True)
def vec_lane(typingctx: Any, value: Any, lane: Any) -> Any:
    """One lane of a vector as float32."""
    index = literal(lane, "lane")

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        return builder.extract_element(args[0], I32(index))

    return types.float32(value, lane), codegen


@intrinsic(prefer_literal=True)
def vec_swapped(typingctx: Any, value: Any, distance: Any) -> Any:
    """Lanes whose number differs in the bit `distance` alone change places."""
    apart = literal(distance, "distance")

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        order = ir.Constant(ir.VectorType(I32, value.lanes), [lane ^ apart for lane in range(value.lanes)])
        return builder.shuffle_vector(args[0], args[0], order)

    return value(value, distance), codegen


VOCABULARY: dict[str, Any] = {
    "load_i64": load_i64, "load_i32": load_i32, "whole": whole, "floor_quotient": floor_quotient,
    "copy_bytes": copy_bytes, "zero_bytes": zero_bytes,
    "vec_load": vec_load, "vec_splat": vec_splat, "vec_of": vec_of, "vec_store": vec_store,
    "vec_load_first": vec_load_first, "vec_store_first": vec_store_first, "vec_keep_first": vec_keep_first,
    "vec_lane": vec_lane, "vec_fma": vec_fma, "vec_swapped": vec_swapped,
}  # fmt: skip
for _name in SCALARS:
    VOCABULARY[f"get_{_name}"], VOCABULARY[f"put_{_name}"] = _scalar_access(_name)
