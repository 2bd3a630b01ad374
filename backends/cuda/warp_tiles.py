"""The vocabulary of emitted kernels, bound to NumPy: the sums of a warp's tile, a matrix [pixels, outputs] a warp.

- zeros(n): the sums of a warp's tile, n a lane, all 0.
- multiply_tf32(c, a, b, rows, columns, pitch), f16, bf16: c plus a step of k of 32 bytes by `mma.sync`. The tile is
  16 rows x 8 columns; a and b are each lane's addresses for `ldmatrix`: lane l gives row l % 16 of x at byte
  l // 16 * 16, and row l % 8 + l // 16 * 8 of w at byte l // 8 % 2 * 16; pitch is the bytes from row to row.
- multiply_f32: a step of 16 bytes by fused multiply-adds. The tile is 8 rows x 4 columns; lane l takes rows
  l % 8 + 8 i and columns l // 8 + 4 j, and a and b are the addresses of its first ones.
- lay_fragments(c, at, rows, columns, pitch), lay_f32: the sums to shared memory. `at` is the address of the lane's
  first sum: row l // 4 and column l % 4 * 2, or row l % 8 and column l // 8.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from convc.backends.cuda.shared_memory import SharedMemory
from convc.backends.cuda.storage_bits import from_bits
from convc.types import Array

LANE = np.arange(32)


def vocabulary(count: int, memory: SharedMemory) -> dict[str, Any]:
    """The names over `count` threads."""
    warps = count // 32

    def spread(at: Any) -> Array:
        return np.broadcast_to(at, (count,))

    def fragments(at: Array, kind: str) -> Array:
        """[warp, matrix, row, k] of four matrices of 8 rows x 16 bytes, as `ldmatrix` finds them."""
        words = memory.load("load_matrix", spread(at), 4)
        rows = np.ascontiguousarray(np.stack(words, axis=-1)).reshape(warps, 4, 8, 4)
        if kind == "tf32":
            kept: Array = rows & np.uint32(0xFFFFE000)
            return kept.view(np.float32)
        halves = np.stack([rows & np.uint32(0xFFFF), rows >> np.uint32(16)], axis=-1).astype(np.uint16)
        return from_bits(kind, halves.reshape(warps, 4, 8, 8))

    def multiply(kind: str) -> Callable[..., Array]:
        def step(c: Array, a: Any, b: Any, rows: int, columns: int, pitch: int) -> Array:
            left = [fragments(a + i * 16 * pitch, kind) for i in range(rows)]
            right = [fragments(b + j * 8 * pitch, kind) for j in range(0, columns, 2)]
            whole_a = np.concatenate(
                [np.concatenate([_join(f[:, 0], f[:, 2]), _join(f[:, 1], f[:, 3])], 1) for f in left], 1
            )
            whole_b = np.concatenate(
                [np.concatenate([_join(f[:, 0], f[:, 1]), _join(f[:, 2], f[:, 3])], 1) for f in right], 1
            )
            made: Array = _shaped(c, warps, rows * 16, columns * 8) + whole_a @ whole_b.transpose(0, 2, 1)
            return made

        return step

    def multiply_f32(c: Array, a: Any, b: Any, rows: int, columns: int, pitch: int) -> Array:
        left, right = np.empty((warps, rows * 8, 4), np.float32), np.empty((warps, columns * 4, 4), np.float32)
        for whole, at, each, own in ((left, a, 8, LANE % 8), (right, b, 4, LANE // 8)):
            for i in range(whole.shape[1] // each):
                words = memory.load("load_shared_f32x4", spread(at + i * each * pitch), 4)
                found = np.stack([w.view(np.float32) for w in words], axis=-1).reshape(warps, 32, 4)
                whole[:, i * each + own] = found
        made: Array = _shaped(c, warps, rows * 8, columns * 4) + left @ right.transpose(0, 2, 1)
        return made

    def lay_fragments(c: Array, at: Any, rows: int, columns: int, pitch: int) -> None:
        c = _shaped(c, warps, rows * 16, columns * 8)
        for i in range(rows * 2):
            for j in range(columns):
                pair = [c[:, i * 8 + LANE // 4, j * 8 + LANE % 4 * 2 + k].reshape(-1) for k in range(2)]
                words = [np.ascontiguousarray(one).view(np.uint32) for one in pair]
                memory.store("lay_fragments", spread(at + i * 8 * pitch + j * 32), words)

    def lay_f32(c: Array, at: Any, rows: int, columns: int, pitch: int) -> None:
        c = _shaped(c, warps, rows * 8, columns * 4)
        for i in range(rows):
            for j in range(columns):
                one = np.ascontiguousarray(c[:, i * 8 + LANE % 8, j * 4 + LANE // 8].reshape(-1))
                memory.store("lay_f32", spread(at + i * 8 * pitch + j * 16), [one.view(np.uint32)])

    found: dict[str, Any] = {f"multiply_{kind}": multiply(kind) for kind in ("tf32", "f16", "bf16")}
    found |= {"multiply_f32": multiply_f32, "lay_fragments": lay_fragments, "lay_f32": lay_f32}
    found["zeros"] = lambda n: np.zeros((warps, n, 32), np.float32)
    return found


def _join(low: Array, high: Array) -> Array:
    return np.concatenate([low, high], axis=2)


def _shaped(c: Array, warps: int, rows: int, columns: int) -> Array:
    """The sums as a matrix a warp; `zeros` knows only how many there are."""
    return c.reshape(warps, rows, columns)
