"""The vocabulary of emitted kernels, part four: the transforms of Winograd's convolution F(m x n, r x s).

Y = A^T [(G g G^T) * (B^T d B)] A for an m x n tile of outputs from (m + r - 1) x (n + s - 1) inputs; every step works
on vectors of channels. The axes have their own matrices. Source: Lavin & Gray 2016.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from convc.backends.cpu.primitives import F32, I64, Tile, Value, fma, literal, load_vector, pointer, splat, store_vector
from convc.backends.cpu.tiles import prefetch, tile_join, tile_parts
from convc.backends.cpu.vecexp import const
from convc.backends.cpu.vecmath import maximum
from convc.backends.cpu.winograd_points import PAIR, Matrix, input_matrix, output_matrix, places, whole_matrix


def _combine(builder: Any, row: Sequence[float], vectors: Sequence[Value]) -> Value:
    """The sum of row[i] * vectors[i], by additions where factors are one or two: some processors make them beside
    multiply-adds (Zen: 1.09 times as fast on 512 channels of 7x7), others in their place.
    """
    total: Value = None
    for factor, value in sorted(zip(row, vectors, strict=True), key=lambda term: term[0] != 1.0):
        if factor == 0.0:
            continue
        if total is None:
            total = value if factor == 1.0 else builder.fmul(value, const(value, factor))
        elif factor == 1.0:
            total = builder.fadd(total, value)
        elif factor == -1.0:
            total = builder.fsub(total, value)
        elif abs(factor) == 2.0:
            twice = builder.fadd(value, value)
            total = builder.fadd(total, twice) if factor > 0 else builder.fsub(total, twice)
        else:
            total = fma(builder, value, const(value, factor), total)
    return total


def _times(builder: Any, matrix: Matrix, vectors: Sequence[Value]) -> list[Value]:
    """Matrix @ vectors. Points p and -p make mirrored rows (of B^T) or columns (of A^T), which share sums."""
    signs = (-1.0) ** np.arange(max(matrix.shape))
    done: dict[int, Value] = {}
    mirrored_columns = [
        (a, b)
        for a in range(matrix.shape[1])
        for b in range(a)
        if (matrix[:, a] == matrix[:, b] * signs[: len(matrix)]).all() and (matrix[1::2, a] != 0).any()
    ]
    if mirrored_columns:
        sums, differences = list(vectors), list(vectors)
        even, odd = matrix.copy(), matrix.copy()
        for a, b in mirrored_columns:
            sums[b], differences[b] = builder.fadd(vectors[b], vectors[a]), builder.fsub(vectors[b], vectors[a])
            even[:, a] = odd[:, a] = 0.0
        return [
            _combine(builder, odd[i] if i % 2 else even[i], differences if i % 2 else sums) for i in range(len(matrix))
        ]
    for i, row in enumerate(matrix):
        mirror = next((j for j in range(i) if (matrix[j] == row * signs[: len(row)]).all()), None)
        parts = [np.where(np.arange(len(row)) % 2 == parity, row, 0.0) for parity in (0, 1)]
        if mirror is None or not all(part.any() for part in parts):
            continue
        factors = [1.0 if 1.0 in part else float(part[np.flatnonzero(part)[-1]]) for part in parts]
        halves = [_combine(builder, list(part / factor), vectors) for part, factor in zip(parts, factors, strict=True)]
        for index, sign in ((i, 1.0), (mirror, -1.0)):
            done[index] = _combine(builder, [factors[0], sign * factors[1]], halves)
    return [done[i] if i in done else _combine(builder, row, vectors) for i, row in enumerate(matrix)]


def _both_sides(builder: Any, down: Matrix, across: Matrix, grid: Sequence[Sequence[Value]]) -> list[list[Value]]:
    """Down @ grid @ across.T, columns first."""
    columns = [_times(builder, down, [line[j] for line in grid]) for j in range(len(grid[0]))]
    return [_times(builder, across, [c[i] for c in columns]) for i in range(len(down))]


@intrinsic(prefer_literal=True)
def winograd_input(
    typingctx: Any, x: Any, row: Any, v: Any, line: Any, point: Any, rows: Any, columns: Any, apart: Any, lanes: Any
) -> Any:
    """Transform `rows` x `columns` inputs at x (rows `row` bytes, columns `apart` pixels apart); write the points to v,
    their rows `line` bytes, the points of a row `point` bytes apart.
    """
    down, across = literal(rows, "rows"), literal(columns, "columns")
    gap, width = literal(apart, "apart"), literal(lanes, "lanes")

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        lines = [builder.add(args[0], builder.mul(args[1], I64(i))) for i in range(down)]
        grid = [[load_vector(builder, line, width, j * gap * width * 4) for j in range(across)] for line in lines]
        done = _both_sides(builder, input_matrix(down), input_matrix(across), grid)
        steps = [builder.mul(args[4], I64(j)) for j in places(across)]
        for i, place in enumerate(places(down)):
            start = builder.add(args[2], builder.mul(args[3], I64(place)))
            for j in range(across):
                store_vector(builder, done[i][j], builder.add(start, steps[j]))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5, rows, columns, apart, lanes), codegen


@intrinsic(prefer_literal=True)
def points_fma(typingctx: Any, tile: Any, x: Any, w: Any, line: Any, mixed: Any) -> Any:
    """tile[j, t] += float at (x + (j * tiles + t) vectors) * point j of row `line` of the points of the 3 x 3 kernels
    at w: nine vectors that `weigh_kernels` has weighed. `mixed`: tiles lie as PAIR says, and what is no point of a
    smaller one is 0.
    """
    row, pairs = literal(line, "line"), bool(mixed.literal_value)
    left_out = {
        (j, t)
        for j in range(tile.rows)
        for t, (fewer, narrower) in enumerate(PAIR if pairs else ())
        if (fewer and row == tile.rows - 2) or (narrower and j == tile.rows - 2)
    }

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        tile_value, x, w, *_ = args
        width, whole = tile.lanes * 4, whole_matrix(3, tile.rows)
        g = [[load_vector(builder, w, tile.lanes, (3 * a + b) * width) for a in range(3)] for b in range(3)]
        points = _times(builder, whole, [_combine(builder, whole[row], column) for column in g])
        parts = tile_parts(builder, tile, tile_value)
        for index in range(len(parts)):
            if divmod(index, tile.cols) in left_out:
                parts[index] = const(parts[index], 0.0)
                continue
            at = pointer(builder, x, F32, index * width)
            factor = splat(builder, builder.load(at, align=4), tile.lanes)
            parts[index] = fma(builder, factor, points[index // tile.cols], parts[index])
        return tile_join(builder, tile, parts)

    return tile(tile, types.int64, types.int64, line, mixed), codegen


@intrinsic(prefer_literal=True)
def winograd_output(
    typingctx: Any, source: Any, line: Any, point: Any, bias: Any, height: Any, width: Any, rows: Any, columns: Any,
    lanes: Any,
) -> Any:  # fmt: skip
    """The `height` x `width` outputs of a tile, row by row, plus the vector at `bias`, from `rows` x `columns` points
    whose rows are `line` bytes apart, the points of a row `point` bytes.
    """
    outputs = literal(height, "height"), literal(width, "width")
    points, size = (literal(rows, "rows"), literal(columns, "columns")), literal(lanes, "lanes")
    kind = Tile(outputs[0] * outputs[1], 1, size)

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        lines = [builder.add(args[0], builder.mul(args[1], I64(i))) for i in places(points[0])]
        steps = [builder.mul(args[2], I64(j)) for j in places(points[1])]
        grid = [[load_vector(builder, builder.add(line, step), size) for step in steps] for line in lines]
        shift = load_vector(builder, args[3], size)
        down, across = (output_matrix(m, n) for m, n in zip(outputs, points, strict=True))
        done = _both_sides(builder, down, across, grid)
        return tile_join(builder, kind, [builder.fadd(value, shift) for line in done for value in line])

    return kind(*[types.int64] * 4, height, width, rows, columns, lanes), codegen


@intrinsic(prefer_literal=True)
def grid_fetch(typingctx: Any, at: Any, row: Any, rows: Any, columns: Any, step: Any) -> Any:
    """Ask for the lines at `at`, `rows` x `columns` of them: rows `row` bytes, columns `step` bytes apart."""
    down, across, gap = literal(rows, "rows"), literal(columns, "columns"), literal(step, "step")

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        line = args[0]
        for i in range(down):
            line = builder.add(line, args[1]) if i else line
            for j in range(across):
                prefetch(builder, builder.add(line, I64(j * gap)), 0, 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, rows, columns, step), codegen


@intrinsic(prefer_literal=True)
def grid_store(typingctx: Any, tile: Any, y: Any, row: Any, across: Any, apart: Any, rows: Any, cols: Any) -> Any:
    """Write the first `rows` x `cols` of a grid of pixels, `across` a row, to y: rows `row` bytes, columns `apart`
    pixels apart.
    """
    size, gap = literal(across, "across"), literal(apart, "apart")

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        _, y, row, _, _, rows, cols = args
        parts = tile_parts(builder, tile, args[0])
        for index, part in enumerate(parts):
            i, j = divmod(index, size)
            inside = builder.and_(builder.icmp_signed(">", rows, I64(i)), builder.icmp_signed(">", cols, I64(j)))
            with builder.if_then(inside):
                at = builder.add(y, builder.add(builder.mul(row, I64(i)), I64(j * gap * tile.lanes * 4)))
                store_vector(builder, part, at)
        return context.get_dummy_value()

    return types.void(tile, types.int64, types.int64, across, apart, types.int64, types.int64), codegen


@intrinsic(prefer_literal=True)
def grid_pool(typingctx: Any, tile: Any, largest: Any) -> Any:
    """The largest, or else the mean, of each 2 x 2 of a square of pixels."""
    size, most = int(np.sqrt(tile.rows)), bool(largest.literal_value)
    kind = Tile((size // 2) ** 2, 1, tile.lanes)

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        parts = tile_parts(builder, tile, args[0])
        pooled = []
        for i in range(0, size, 2):
            for j in range(0, size, 2):
                columns = [[parts[(i + a) * size + j + b] for a in (0, 1)] for b in (0, 1)]
                both = [maximum(builder, *c) if most else builder.fadd(*c) for c in columns]
                value = maximum(builder, *both) if most else builder.fadd(*both)
                pooled.append(value if most else builder.fmul(value, const(value, 0.25)))
        return tile_join(builder, kind, pooled)

    return kind(tile, largest), codegen


@intrinsic(prefer_literal=True)
def grid_add(typingctx: Any, tile: Any, r: Any, row: Any, across: Any, apart: Any) -> Any:
    """Add the grid of pixels at r, `across` a row: rows `row` bytes, columns `apart` pixels apart."""
    size, gap = literal(across, "across"), literal(apart, "apart")

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        parts = tile_parts(builder, tile, args[0])
        for index, part in enumerate(parts):
            i, j = divmod(index, size)
            at = builder.add(args[1], builder.add(builder.mul(args[2], I64(i)), I64(j * gap * tile.lanes * 4)))
            parts[index] = builder.fadd(part, load_vector(builder, at, tile.lanes))
        return tile_join(builder, tile, parts)

    return tile(tile, types.int64, types.int64, across, apart), codegen


@intrinsic
def points_store(typingctx: Any, tile: Any, to: Any, column: Any) -> Any:
    """Write a tile column by column: row p of column q to `to` + q * column + p vectors."""

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        parts = tile_parts(builder, tile, args[0])
        for index, part in enumerate(parts):
            p, q = divmod(index, tile.cols)
            at = builder.add(args[1], builder.add(builder.mul(args[2], I64(q)), I64(p * tile.lanes * 4)))
            store_vector(builder, part, at)
        return context.get_dummy_value()

    return types.void(tile, types.int64, types.int64), codegen


@intrinsic
def store_i64(typingctx: Any, address: Any, index: Any, value: Any) -> Any:
    """Write an int64 to address + 8 * index."""

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        builder.store(args[2], builder.gep(pointer(builder, args[0], I64), [args[1]]), align=8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic(prefer_literal=True)
def tile_zero(typingctx: Any, rows: Any, cols: Any, lanes: Any) -> Any:
    """A tile of zeros."""
    kind = Tile(literal(rows, "rows"), literal(cols, "cols"), literal(lanes, "lanes"))

    def codegen(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        return context.get_constant_null(kind)

    return kind(rows, cols, lanes), codegen


VOCABULARY: dict[str, Any] = {
    "winograd_input": winograd_input, "points_fma": points_fma, "winograd_output": winograd_output,
    "grid_fetch": grid_fetch, "grid_store": grid_store, "grid_add": grid_add, "grid_pool": grid_pool,
    "points_store": points_store, "store_i64": store_i64, "tile_zero": tile_zero,
}  # fmt: skip
