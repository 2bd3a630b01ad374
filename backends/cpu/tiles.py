"""The vocabulary of emitted kernels, part two: register tiles of pixels by blocks of channels.

One call a tile and step keeps Numba's share of the compile time near 0.1 s a kernel; one a multiply-add took 0.4 s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from convc.backends.cpu.primitives import (
    F32,
    I8,
    I32,
    I64,
    Tile,
    Value,
    fma,
    function,
    literal,
    load_first,
    load_vector,
    pointer,
    splat,
    store_first,
    store_vector,
    vector,
)  # fmt: skip


def tile_parts(builder: Any, kind: Tile, tile: Value) -> list[Value]:
    """The vectors of a tile, row by row."""
    return [builder.extract_value(tile, i) for i in range(kind.rows * kind.cols)]


def tile_join(builder: Any, kind: Tile, parts: Sequence[Value]) -> Value:
    """A tile of the given vectors, row by row."""
    tile = ir.Constant(ir.ArrayType(vector(kind.lanes), len(parts)), ir.Undefined)
    for index, part in enumerate(parts):
        tile = builder.insert_value(tile, part, index)
    return tile


@intrinsic(prefer_literal=True)
def tile_bias(typingctx: Any, address: Any, rows: Any, cols: Any, lanes: Any) -> Any:
    """A tile whose every row holds the cols * lanes floats at `address`."""
    kind = Tile(literal(rows, "rows"), literal(cols, "cols"), literal(lanes, "lanes"))

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        row = [load_vector(builder, args[0], kind.lanes, q * kind.lanes * 4) for q in range(kind.cols)]
        return tile_join(builder, kind, row * kind.rows)

    return kind(types.int64, rows, cols, lanes), codegen


def prefetch(builder: Any, address: Value, offset: int, level: int = 3) -> None:
    """Ask for a line that will be read soon, into the first-level cache (3) or the second (2, or 1: processors that
    tell them apart give it up sooner, which is 1 to 3 % where weights come from memory).
    """
    where = pointer(builder, address, I8, offset)
    fetch = function(builder, "llvm.prefetch.p0i8", ir.VoidType(), [I8.as_pointer(), I32, I32, I32])
    builder.call(fetch, [where, I32(0), I32(level), I32(1)])


def _weights(builder: Any, kind: Tile, address: Value) -> list[Value]:
    return [load_vector(builder, address, kind.lanes, q * kind.lanes * 4) for q in range(kind.cols)]


def _multiply_add(builder: Any, kind: Tile, tile: Value, pixels: Sequence[Value], weights: Sequence[Value]) -> Value:
    parts = tile_parts(builder, kind, tile)
    for index in range(len(parts)):
        p, q = divmod(index, kind.cols)
        parts[index] = fma(builder, pixels[p], weights[q], parts[index])
    if len(parts) + kind.cols + 1 >= FEWEST_REGISTERS[kind.lanes]:
        _fence(builder)
    return tile_join(builder, kind, parts)


FEWEST_REGISTERS = {16: 32, 8: 16, 4: 16}
"""By lanes: vectors that every processor with such vectors holds."""


def _fence(builder: Any) -> None:
    """Nothing is loaded earlier than this. It is no instruction; but the next step's weights, loaded early, would
    drive sums of a tile that fills the registers into memory: half the speed of some loops.
    """
    builder.asm(ir.FunctionType(ir.VoidType(), []), "", "~{memory}", [], side_effect=True)


def _pixels(builder: Any, kind: Tile, x: Value, step: Any, value: Value) -> list[Value]:
    """The float of each row, in all lanes."""
    rows = (_row_pointer(builder, x, F32, p, step, value) for p in range(kind.rows))
    return [splat(builder, builder.load(row, align=4), kind.lanes) for row in rows]


@intrinsic(prefer_literal=True)
def tile_fma(typingctx: Any, tile: Any, x: Any, step: Any, w: Any, later: Any, soon: Any) -> Any:
    """tile[p, q] += float at (x + p * step) * vector q at w. `step` is in bytes; the lines at `later` (weights) and
    `soon` (pixels) are fetched; either may be None.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        weights = _weights(builder, tile, args[3])
        if later != types.none:
            prefetch(builder, args[4], 0, 1)
        if soon != types.none:
            prefetch(builder, args[5], 0, 2)
        pixels = _pixels(builder, tile, args[1], step, args[2])
        return _multiply_add(builder, tile, args[0], pixels, weights)

    return tile(tile, types.int64, step, types.int64, later, soon), codegen


@intrinsic(prefer_literal=True)
def tile_fma_lanes(typingctx: Any, tile: Any, x: Any, step: Any, w: Any, later: Any) -> Any:
    """tile[p, q] += vector at (x + p * step) * vector q at w: every lane keeps to itself. The rest as in tile_fma."""

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        weights = _weights(builder, tile, args[3])
        if later != types.none:
            prefetch(builder, args[4], 0, 1)
        kind = vector(tile.lanes)
        pixels = [
            builder.load(_row_pointer(builder, args[1], kind, p, step, args[2]), align=4) for p in range(tile.rows)
        ]
        return _multiply_add(builder, tile, args[0], pixels, weights)

    return tile(tile, types.int64, step, types.int64, later), codegen


@intrinsic
def tile_fma_first(typingctx: Any, tile: Any, x: Any, step: Any, w: Any, count: Any) -> Any:
    """tile_fma for one column of weights, of which `count` floats are there; the others count as 0."""

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        weights = [load_first(builder, args[3], args[4], tile.lanes)]
        return _multiply_add(builder, tile, args[0], _pixels(builder, tile, args[1], step, args[2]), weights)

    return tile(tile, *[types.int64] * 4), codegen


@intrinsic
def tile_rows_store(typingctx: Any, tile: Any, to: Any, step: Any, count: Any) -> Any:
    """Write row p of a tile to `to` + p * step bytes: whole vectors, or the first `count` floats of its one column."""

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        for index, part in enumerate(tile_parts(builder, tile, args[0])):
            p, q = divmod(index, tile.cols)
            at = builder.add(args[1], builder.add(builder.mul(args[2], I64(p)), I64(q * tile.lanes * 4)))
            if count == types.none:
                store_vector(builder, part, at)
            else:
                store_first(builder, part, at, args[3], tile.lanes)
        return context.get_dummy_value()

    return types.void(tile, types.int64, types.int64, count), codegen


@intrinsic(prefer_literal=True)
def tile_fma_window(typingctx: Any, tile: Any, x: Any, step: Any, w: Any, across: Any, gap: Any) -> Any:
    """tile[p, q] += sum over taps c of the vector at (x + p * step + c * gap) * the vector at w + (c * cols + q).

    Lane by lane; `step` and `gap` are in bytes. Every vector of pixels is loaded once.
    """
    taps, apart, stride = literal(across, "across"), literal(gap, "gap"), literal(step, "step")

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        width = tile.lanes * 4
        weights = [load_vector(builder, args[3], tile.lanes, i * width) for i in range(taps * tile.cols)]
        parts = tile_parts(builder, tile, args[0])
        reached: dict[int, list[tuple[int, int]]] = {}
        for p in range(tile.rows):
            for c in range(taps):
                reached.setdefault(p * stride + c * apart, []).append((p, c))
        for offset in sorted(reached):
            pixel = load_vector(builder, args[1], tile.lanes, offset)
            for p, c in reached[offset]:
                for q in range(tile.cols):
                    at = p * tile.cols + q
                    parts[at] = fma(builder, pixel, weights[c * tile.cols + q], parts[at])
        return tile_join(builder, tile, parts)

    return tile(tile, types.int64, step, types.int64, across, gap), codegen


def _row_pointer(builder: Any, x: Value, kind: Any, row: int, step: Any, value: Value) -> Value:
    if isinstance(step, types.IntegerLiteral):
        return pointer(builder, x, kind, row * int(step.literal_value))
    return pointer(builder, builder.add(x, builder.mul(value, I64(row))) if row else x, kind)


def _walk(builder: Any, rows: int, offset: Value, step: Value, turns: Sequence[Value] | None) -> list[Value]:
    """Byte offset of each pixel: `step` apart, and with `turns` = (column, wrap, gap) `gap` more each time the column
    reaches `wrap`.
    """
    if turns is None:
        return [builder.add(offset, builder.mul(step, I64(p))) if p else offset for p in range(rows)]
    col, wrap, gap = turns
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


@intrinsic
def tile_add(
    typingctx: Any, tile: Any, base: Any, table: Any, offset: Any, step: Any, col: Any, wrap: Any, gap: Any
) -> Any:
    """tile[p, q] += vector at base + table[q] + offset of pixel p. col, wrap and gap: None where pixels are even."""

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        _, base, table, offset, step, *turns = args
        planes = _planes(builder, table, base, tile.cols)
        offsets = _walk(builder, tile.rows, offset, step, turns if wrap != types.none else None)
        parts = tile_parts(builder, tile, args[0])
        for index in range(len(parts)):
            p, q = divmod(index, tile.cols)
            other = load_vector(builder, builder.add(planes[q], offsets[p]), tile.lanes)
            parts[index] = builder.fadd(parts[index], other)
        return tile_join(builder, tile, parts)

    return tile(tile, *[types.int64] * 4, col, wrap, gap), codegen


@intrinsic(prefer_literal=True)
def tile_fetch(typingctx: Any, base: Any, table: Any, offset: Any, step: Any, rows: Any, cols: Any) -> Any:
    """Ask for the vectors that tile_add or tile_store will touch, if no row ends among them."""
    height, width = literal(rows, "rows"), literal(cols, "cols")

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        base, table, offset, step = args[:4]
        for plane in _planes(builder, table, base, width):
            for at in _walk(builder, height, offset, step, None):
                prefetch(builder, builder.add(plane, at), 0)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4, rows, cols), codegen


@intrinsic(prefer_literal=True)
def tile_store(
    typingctx: Any, tile: Any, base: Any, table: Any, offset: Any, step: Any, col: Any, wrap: Any, gap: Any, count: Any
) -> Any:
    """Write the first `count` rows of a tile: row p, column q to base + table[q] + offset of pixel p.

    col, wrap and gap may be None, where pixels are even; a literal `count` is all rows.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        _, base, table, offset, step, *turns, count = args
        planes = _planes(builder, table, base, tile.cols)
        offsets = _walk(builder, tile.rows, offset, step, turns if wrap != types.none else None)
        parts = tile_parts(builder, tile, args[0])
        done = builder.append_basic_block("stored")
        for p in range(tile.rows):
            if p and not isinstance(signature.args[-1], types.IntegerLiteral):
                more = builder.append_basic_block(f"row{p}")
                builder.cbranch(builder.icmp_signed(">", count, I64(p)), more, done)
                builder.position_at_end(more)
            for q in range(tile.cols):
                store_vector(builder, parts[p * tile.cols + q], builder.add(planes[q], offsets[p]))
        builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return types.void(tile, *[types.int64] * 4, col, wrap, gap, count), codegen


@intrinsic(prefer_literal=True)
def tile_load(typingctx: Any, address: Any, rows: Any, cols: Any, lanes: Any) -> Any:
    """A tile that `points_store` wrote: column by column, vectors without gaps."""
    kind = Tile(literal(rows, "rows"), literal(cols, "cols"), literal(lanes, "lanes"))

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        at = [(q * kind.rows + p) * kind.lanes * 4 for p in range(kind.rows) for q in range(kind.cols)]
        return tile_join(builder, kind, [load_vector(builder, args[0], kind.lanes, offset) for offset in at])

    return kind(types.int64, rows, cols, lanes), codegen


@intrinsic
def tile_sum(typingctx: Any, a: Any, b: Any) -> Any:
    """The sum of two tiles."""

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        pairs = zip(tile_parts(builder, a, args[0]), tile_parts(builder, b, args[1]), strict=True)
        return tile_join(builder, a, [builder.fadd(left, right) for left, right in pairs])

    return a(a, b), codegen


@intrinsic
def tile_fold(typingctx: Any, tile: Any) -> Any:
    """A tile of one row: the rows of another, a power of two, added in pairs."""
    kind = Tile(1, tile.cols, tile.lanes)

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        parts = tile_parts(builder, tile, args[0])
        rows = [parts[p * tile.cols : (p + 1) * tile.cols] for p in range(tile.rows)]
        while len(rows) > 1:
            rows = [
                [builder.fadd(left, right) for left, right in zip(a, b, strict=True)]
                for a, b in zip(rows[::2], rows[1::2], strict=True)
            ]
        return tile_join(builder, kind, rows[0])

    return kind(tile), codegen


@intrinsic
def tile_across(typingctx: Any, tile: Any, bias: Any) -> Any:
    """A tile of one column: lane q of row p is the sum of the lanes of tile[p, q], in halves, plus lane q at `bias`.

    Lanes beyond the tile's columns hold anything.
    """
    kind = Tile(tile.rows, 1, tile.lanes)

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        parts = tile_parts(builder, tile, args[0])
        offset = load_vector(builder, args[1], tile.lanes)
        rows = [parts[p * tile.cols : (p + 1) * tile.cols] for p in range(tile.rows)]
        return tile_join(builder, kind, [builder.fadd(_across(builder, row, tile.lanes), offset) for row in rows])

    return kind(tile, types.int64), codegen


def _across(builder: Any, vectors: Sequence[Value], lanes: int) -> Value:
    """A vector whose lane q is the sum of vector q's lanes: halves of segments are added until they are one lane."""

    def shuffled(a: Value, b: Value, chosen: Sequence[int]) -> Value:
        return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, lanes), list(chosen)))

    found, segment, apart = list(vectors), lanes, lanes
    while segment > 1:
        half = segment // 2
        starts = range(0, lanes, segment)
        low = [start + i for start in starts for i in range(half)]
        if len(found) > 1:  # two vectors' segments, halved, fill one
            found += [ir.Constant(vector(lanes), [0.0] * lanes)] * (len(found) % 2)
            low += [lanes + one for one in low]
            high = [one + half for one in low]
            pairs = zip(found[::2], found[1::2], strict=True)
            found, apart = [builder.fadd(shuffled(a, b, low), shuffled(a, b, high)) for a, b in pairs], half
        else:
            other = [one ^ half for one in range(lanes)]
            found = [builder.fadd(found[0], shuffled(found[0], found[0], other))]
        segment = half
    return shuffled(found[0], found[0], [one * apart % lanes for one in range(lanes)])


@intrinsic
def streams_fma(typingctx: Any, tile: Any, x: Any, table: Any, table_step: Any, w: Any, w_step: Any) -> Any:
    """tile[s, q] += float at (x + 4 * int32 at table + s * table_step) * vector q at w + s * w_step. Steps in bytes."""

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        _, x, table, table_step, w, w_step = args
        parts = tile_parts(builder, tile, args[0])
        for s in range(tile.rows):
            offset = builder.load(pointer(builder, builder.add(table, builder.mul(table_step, I64(s))), I32), align=4)
            where = builder.add(x, builder.mul(builder.sext(offset, I64), I64(4)))
            factor = splat(builder, builder.load(pointer(builder, where, F32), align=4), tile.lanes)
            line = builder.add(w, builder.mul(w_step, I64(s)))
            for q in range(tile.cols):
                weights = load_vector(builder, line, tile.lanes, q * tile.lanes * 4)
                parts[s * tile.cols + q] = fma(builder, factor, weights, parts[s * tile.cols + q])
        return tile_join(builder, tile, parts)

    return tile(tile, *[types.int64] * 5), codegen


@intrinsic
def fetch(typingctx: Any, address: Any) -> Any:
    """Ask for the line at `address`, into the second-level cache."""

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        prefetch(builder, args[0], 0, 1)
        return context.get_dummy_value()

    return types.void(types.int64), codegen


VOCABULARY: dict[str, Any] = {
    "tile_bias": tile_bias, "tile_fma": tile_fma, "tile_fma_lanes": tile_fma_lanes,
    "tile_fma_first": tile_fma_first, "tile_rows_store": tile_rows_store,
    "tile_fma_window": tile_fma_window, "tile_add": tile_add, "tile_fetch": tile_fetch,
    "tile_store": tile_store, "tile_load": tile_load, "tile_sum": tile_sum, "tile_fold": tile_fold,
    "tile_across": tile_across, "streams_fma": streams_fma, "fetch": fetch,
}  # fmt: skip
