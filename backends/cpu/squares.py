"""The vocabulary of emitted kernels: squares of lanes x lanes floats, turned between channels in lanes and in rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from convc.backends.cpu.primitives import (
    I1,
    I32,
    I64,
    Tile,
    Value,
    function,
    literal,
    pointer,
    splat,
    vector,
)  # fmt: skip
from convc.backends.cpu.tiles import tile_join, tile_parts


def _turned(builder: Any, rows: Sequence[Value]) -> list[Value]:
    """The transposed square: halves of blocks of 1, 2, 4 ... change places (Eklundh 1972)."""
    lanes, found, block = len(rows), list(rows), 1
    while block < lanes:
        low = [lane if not lane & block else lanes + lane - block for lane in range(lanes)]
        high = [lane + block if not lane & block else lanes + lane for lane in range(lanes)]
        for index in (i for i in range(lanes) if not i & block):
            pair = found[index], found[index + block]
            for to, lane in (index, low), (index + block, high):
                found[to] = builder.shuffle_vector(*pair, ir.Constant(ir.VectorType(I32, lanes), lane))
        block *= 2
    return found


def _masks(builder: Any, table: Value, count: Value, lanes: int) -> list[tuple[Value, Value]]:
    """For each entry of the table the offset, 0 where it is negative, and which of `count` elements are meant: none."""
    numbers = ir.Constant(ir.VectorType(I64, lanes), list(range(lanes)))
    first = builder.icmp_signed("<", numbers, splat(builder, count, lanes))
    nothing = ir.Constant(ir.VectorType(I1, lanes), [False] * lanes)
    found = []
    for index in range(lanes):
        offset = builder.load(pointer(builder, table, I64, 8 * index), align=8)
        there = builder.icmp_signed(">=", offset, I64(0))
        found.append((builder.select(there, offset, I64(0)), builder.select(there, first, nothing)))
    return found


@intrinsic(prefer_literal=True)
def square_gather(typingctx: Any, base: Any, table: Any, count: Any, lanes: Any) -> Any:
    """A tile whose row i holds, in lane l, element i of the first `count` floats at base + int64 l of the table.

    Zero where the table is negative; what is not read is not touched.
    """
    width = literal(lanes, "lanes")

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        base, table, count = args[:3]
        kind, mask = vector(width), ir.VectorType(I1, width)
        name = f"llvm.masked.load.v{width}f32.p0v{width}f32"
        load = function(builder, name, kind, [kind.as_pointer(), I32, mask, kind])
        zero = ir.Constant(kind, [0.0] * width)
        rows = [
            builder.call(load, [pointer(builder, builder.add(base, offset), kind), I32(4), which, zero])
            for offset, which in _masks(builder, table, count, width)
        ]
        return tile_join(builder, Tile(width, 1, width), _turned(builder, rows))

    return Tile(width, 1, width)(types.int64, types.int64, types.int64, lanes), codegen


@intrinsic(prefer_literal=True)
def square_phases(
    typingctx: Any, base: Any, table: Any, row: Any, column: Any, height: Any, width: Any, line: Any, apart: Any,
    lanes: Any,
) -> Any:  # fmt: skip
    """A tile whose row i holds, in lane l, float `column` + i * apart + l % apart of a row of floats, 0 beyond it.

    Lanes go by `apart`: the table lists for each of them as int64 the byte offset from base of a map of `height` x
    `width` floats, rows `line` bytes apart, and what is added to `row`; a negative offset is no map.
    """
    size, gap = literal(lanes, "lanes"), literal(apart, "apart")
    assert size % gap == 0

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        base, table, row, column, height, width, line = args[:7]
        least, end = builder.neg(column), builder.sub(width, column)
        nothing = ir.Constant(ir.VectorType(I1, size), [False] * size)
        masks = [_between(builder, least, end, part * size, size) for part in range(gap)]
        rows: list[Value] = []
        for index in range(size // gap):
            offset, down = (builder.load(pointer(builder, table, I64, 8 * (2 * index + i)), align=8) for i in range(2))
            at = builder.add(row, down)
            inside = builder.and_(builder.icmp_signed(">=", at, I64(0)), builder.icmp_signed("<", at, height))
            there = builder.and_(inside, builder.icmp_signed(">=", offset, I64(0)))
            start = builder.add(
                builder.add(base, offset), builder.add(builder.mul(at, line), builder.mul(column, I64(4)))
            )
            parts = [
                _load_some(builder, start, 4 * part * size, builder.select(there, mask, nothing), size)
                for part, mask in enumerate(masks)
            ]
            rows += [_each(builder, parts, first) for first in range(gap)]
        return tile_join(builder, Tile(size, 1, size), _turned(builder, rows))

    return Tile(size, 1, size)(*[types.int64] * 7, apart, lanes), codegen


def _between(builder: Any, least: Value, end: Value, at: int, lanes: int) -> Value:
    """Which of the numbers from `at` on are not less than `least`, and less than `end`."""
    numbers = ir.Constant(ir.VectorType(I64, lanes), [at + lane for lane in range(lanes)])
    return builder.and_(
        builder.icmp_signed(">=", numbers, splat(builder, least, lanes)),
        builder.icmp_signed("<", numbers, splat(builder, end, lanes)),
    )


def _load_some(builder: Any, address: Value, offset: int, which: Value, lanes: int) -> Value:
    """The floats at address + offset bytes that a mask names, 0 for the others, which are not read."""
    kind, mask = vector(lanes), ir.VectorType(I1, lanes)
    name = f"llvm.masked.load.v{lanes}f32.p0v{lanes}f32"
    load = function(builder, name, kind, [kind.as_pointer(), I32, mask, kind])
    return builder.call(
        load, [pointer(builder, address, kind, offset), I32(4), which, ir.Constant(kind, [0.0] * lanes)]
    )


def _each(builder: Any, parts: Sequence[Value], first: int) -> Value:
    """Of as many vectors that follow each other as floats are apart: every such float from the `first` on."""
    found, apart = parts[0], len(parts)
    if apart == 1:
        return found
    size = found.type.count
    for index, part in enumerate(parts[1:], 1):
        picked = []
        for lane in range(size):
            place = first + lane * apart - index * size
            before = first + lane * apart if index == 1 else lane
            picked.append(before if place < 0 else size + min(place, size - 1))
        found = builder.shuffle_vector(found, part, ir.Constant(ir.VectorType(I32, size), picked))
    return found


@intrinsic
def square_scatter(typingctx: Any, tile: Any, base: Any, table: Any, count: Any) -> Any:
    """Write lane l of the first `count` rows of a square tile to base + int64 l of the table, where that is not
    negative, as floats one after another.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        _, base, table, count = args
        kind, mask = vector(tile.lanes), ir.VectorType(I1, tile.lanes)
        name = f"llvm.masked.store.v{tile.lanes}f32.p0v{tile.lanes}f32"
        store = function(builder, name, ir.VoidType(), [kind, kind.as_pointer(), I32, mask])
        rows = _turned(builder, tile_parts(builder, tile, args[0]))
        for row, (offset, which) in zip(rows, _masks(builder, table, count, tile.lanes), strict=True):
            builder.call(store, [row, pointer(builder, builder.add(base, offset), kind), I32(4), which])
        return context.get_dummy_value()

    return types.void(tile, types.int64, types.int64, types.int64), codegen


VOCABULARY: dict[str, Any] = {
    "square_gather": square_gather, "square_phases": square_phases, "square_scatter": square_scatter,
}  # fmt: skip
