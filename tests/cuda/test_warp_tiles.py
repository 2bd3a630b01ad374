"""Tiles of a warp against the PTX manual: which lane's register holds which element in mma.m16n8k8 and m16n8k16."""

from __future__ import annotations

import numpy as np
import pytest

from convc.backends.cuda.conv_launch import to_storage
from convc.backends.cuda.lockstep import execute
from convc.types import Array

PITCH = 48
KERNEL = """def tile(x: "i32*", w: "i32*", y: "f32*") -> "32 threads":
    t = thread()
    s = shared()
    r = i32(0)
    while r < 4:
        row = r * 4 + (t >> 3)
        store_shared_i32(s + row * 48 + (t & 7) * 4, load_i32(True, x, r * 32 + t))
        store_shared_i32(s + 768 + row * 48 + (t & 7) * 4, load_i32(True, w, r * 32 + t))
        r = r + 1
    barrier()
    a = s + (t & 15) * 48 + (t >> 4) * 16
    b = s + 768 + ((t & 7) + (t >> 4) * 8) * 48 + ((t >> 3) & 1) * 16
    sums = multiply_KIND(zeros(8), a, b, 1, 2, 48)
    barrier()
    lay_fragments(sums, s + (t >> 2) * 96 + (t & 3) * 8, 1, 2, 96)
    barrier()
    r = i32(0)
    while r < 8:
        store_f32(True, y, r * 32 + t, load_shared_f32(s + (r * 2 + (t >> 4)) * 96 + (t & 15) * 4))
        r = r + 1
"""
LANE = np.arange(32)
GROUP, IN_GROUP = LANE // 4, LANE % 4


def ldmatrix(rows: Array, lane_rows: Array, lane_bytes: Array) -> Array:
    """[register, lane] words: lane 8 m + r gives row r of matrix m; lane l gets word l % 4 of row l // 4 of each."""
    found = np.empty((4, 32), np.uint32)
    for m in range(4):
        for lane in range(32):
            giver = 8 * m + lane // 4
            found[m, lane] = rows[lane_rows[giver], lane_bytes[giver] // 4 + lane % 4]
    return found


def elements(words: Array, kind: str) -> Array:
    """[element, lane] in float64 of registers [register, lane]."""
    if kind == "tf32":
        return words.view(np.float32).astype(np.float64)
    halves = np.stack([words & 0xFFFF, words >> 16], axis=1).reshape(-1, 32).astype(np.uint16)
    if kind == "f16":
        return halves.view(np.float16).astype(np.float64)
    return (halves.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def places_of_a(kind: str, i: int) -> tuple[Array, Array]:
    """Row and column of A that element i of a lane holds."""
    if kind == "tf32":
        return GROUP + 8 * (i % 2), IN_GROUP + 4 * (i // 2)
    return GROUP + 8 * (i // 2 % 2), IN_GROUP * 2 + i % 2 + 8 * (i // 4)


def places_of_b(kind: str, i: int) -> tuple[Array, Array]:
    """Row (k) and column of B that element i of a lane holds."""
    return (IN_GROUP + 4 * i if kind == "tf32" else IN_GROUP * 2 + i % 2 + 8 * (i // 2)), GROUP


@pytest.mark.parametrize("kind", ["tf32", "f16", "bf16"])
def test_fragments_are_those_of_the_manual(kind: str) -> None:
    depth = 8 if kind == "tf32" else 16
    rng = np.random.default_rng(0)
    x, w = (to_storage(rng.standard_normal((16, depth)).astype(np.float32), kind) for _ in range(2))
    rows_x, rows_w = x.view(np.uint32), w.view(np.uint32)
    a = elements(ldmatrix(rows_x, LANE % 16, LANE // 16 * 16), kind)
    b = elements(ldmatrix(rows_w, LANE % 8 + LANE // 16 * 8, LANE // 8 % 2 * 16), kind)
    whole_a, want = np.empty((16, depth)), np.empty((16, 16))
    for i, held in enumerate(a):
        whole_a[places_of_a(kind, i)] = held
    for j, part in enumerate(np.split(b, 2)):
        whole_b = np.empty((depth, 8))
        for i, held in enumerate(part):
            whole_b[places_of_b(kind, i)] = held
        want[:, 8 * j : 8 * j + 8] = whole_a @ whole_b
    y = np.full((16, 16), np.nan, np.float32)
    ran = execute(KERNEL.replace("KIND", kind), (1, 1, 1), 1536, [rows_x.view(np.int32), rows_w.view(np.int32), y])
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)
    assert ran.unwritten["y"] == 0 and ran.conflicts["load_matrix"] == 1
