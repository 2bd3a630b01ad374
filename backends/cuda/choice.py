"""Which tile, and whether to split K: candidates, what rules them out, and a model that orders the rest.

Without a GPU a candidate is ruled out by spills, shared memory and registers; the model then counts, in clock cycles,
the waves of blocks over the multiprocessors and, for each, the slower of arithmetic and copies, with what starting and
ending a block costs. Its constants come from the machines' data sheets and have not been fitted on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from convc.backends.cuda.compile import compile_kernel
from convc.backends.cuda.conv import emit, resident, shared_bytes
from convc.backends.cuda.machines import Machine, machine
from convc.backends.cuda.spec import ELEMENT, ConvSpec, Math, Tile

__all__ = ["CANDIDATES", "Choice", "Compiled", "choices", "choose", "clocks", "examine", "machine", "survivors"]

SPLITS = (1, 2, 3, 4, 6, 8, 12, 16)
"""Parts of K that may be."""
LEAST_STEPS = 4
"""Steps of K that a block must have after a split."""


def _tiles(bk: int, shapes: Iterable[tuple[int, int, int, int, int]]) -> tuple[Tile, ...]:
    return tuple(Tile(bm, bn, bk, wm, wn, stages) for bm, bn, wm, wn, stages in shapes)


TENSOR_SHAPES = (
    (128, 128, 64, 32, 3), (128, 64, 32, 32, 3), (64, 128, 32, 32, 3), (64, 64, 32, 32, 4), (128, 32, 32, 32, 4),
    (64, 32, 32, 16, 4), (32, 64, 16, 32, 4), (32, 32, 16, 16, 4), (256, 64, 64, 32, 3), (32, 128, 16, 64, 4),
    (128, 16, 32, 16, 4),
)  # fmt: skip
PLAIN_SHAPES = (
    (128, 128, 64, 32, 2), (128, 64, 64, 32, 3), (64, 128, 32, 64, 3), (64, 64, 32, 32, 3), (128, 32, 32, 32, 3),
    (64, 32, 32, 16, 3), (32, 64, 16, 32, 3), (32, 32, 16, 16, 3), (128, 16, 32, 16, 3),
)  # fmt: skip
CANDIDATES: dict[str, tuple[Tile, ...]] = {
    "f32": _tiles(32, PLAIN_SHAPES),
    "tf32": _tiles(32, TENSOR_SHAPES),
    "f16": _tiles(64, TENSOR_SHAPES),
    "bf16": _tiles(64, TENSOR_SHAPES),
}
"""Tiles that are worth timing, by math; none spills on sm_80 or sm_90a, which a test holds."""


@dataclass(frozen=True)
class Choice:
    """A tile, into how many parts K is split, and the model's clocks."""

    tile: Tile
    splits: int
    clocks: float


def clocks(
    tile: Tile, math: Math, pixels: int, outputs: int, depth: int, groups: int, splits: int, where: Machine
) -> float:
    """The model's time of a layer."""
    together = resident(ConvSpec(math, tile), where)
    if not together:
        return float("inf")
    blocks = -(-pixels // tile.bm) * -(-outputs // tile.bn) * groups * splits
    whole = -(-depth // tile.bk)
    steps = -(-whole // splits)
    size = ELEMENT[math]
    arithmetic = max(tile.bm * tile.bn * tile.bk / where.multiplies[math], _issue(tile, math))
    copies = (tile.bm + tile.bn) * tile.bk * size / where.bytes_l2
    full, rest = divmod(blocks, where.processors * together)
    waves = full * together + -(-rest // where.processors)
    idle = 1.0 + 0.25 / min(together, max(blocks / where.processors, 1))
    time = waves * steps * max(arithmetic, copies) * idle + (full + (rest > 0)) * where.block
    traffic = (pixels * min(depth, 4 * outputs) + pixels * outputs + depth * outputs) * groups * size
    floor = traffic / where.bytes_memory / where.processors
    if splits > 1:
        parts = splits * pixels * outputs * groups * 8
        time += where.launch + parts / (where.bytes_l2 * where.processors)
    return max(time, floor)


def _issue(tile: Tile, math: Math) -> float:
    """Clocks of a step that shared memory takes (128 bytes each), or, in float32, the issue of all instructions."""
    warps = tile.threads // 32
    if math != "f32":
        return warps * (tile.wm + tile.wn) * tile.bk * ELEMENT[math] / 128
    rows, columns = tile.wm // 8, tile.wn // 4
    issued = 4 * rows * columns + rows + columns + 6
    return warps * tile.bk / 4 * max(issued / 4, 2 * (rows + columns))


def choices(
    math: Math, pixels: int, outputs: int, depth: int, groups: int = 1, arch: str = "sm_90a", *, split: bool = True
) -> list[Choice]:
    """All that fit, fastest first by the model."""
    where = machine(arch)
    found = []
    for tile in CANDIDATES[math]:
        for splits in splits_of(tile, depth) if split else (1,):
            time = clocks(tile, math, pixels, outputs, depth, groups, splits, where)
            if time != float("inf"):
                found.append(Choice(tile, splits, time))
    return sorted(found, key=lambda c: (c.clocks, c.splits, -c.tile.bm * c.tile.bn))


def splits_of(tile: Tile, depth: int) -> list[int]:
    """Into how many parts K may be split, so that each keeps a few steps."""
    most = -(-depth // tile.bk) // LEAST_STEPS
    return [splits for splits in SPLITS if splits <= max(most, 1)]


def choose(
    math: Math, pixels: int, outputs: int, depth: int, groups: int = 1, arch: str = "sm_90a", *, split: bool = True
) -> Choice:
    """The fastest by the model. `outputs` and `depth` (taps x lanes) are those of one group."""
    return choices(math, pixels, outputs, depth, groups, arch, split=split)[0]


@dataclass(frozen=True)
class Compiled:
    """What the assembler says of a candidate."""

    spec: ConvSpec
    registers: int
    spilled: int
    shared: int
    blocks: int
    """Blocks that a multiprocessor holds at once."""


def examine(spec: ConvSpec, tiles: Iterable[Tile], arch: str) -> list[Compiled]:
    """Compile a layer with each tile: registers, spills, shared memory, blocks a multiprocessor."""
    where, found = machine(arch), []
    for tile in tiles:
        one = replace(spec, tile=tile)
        made = compile_kernel(emit(one, arch)[1], arch)
        shared = shared_bytes(one)
        blocks = where.resident(tile.threads, made.registers, shared)
        found.append(Compiled(one, made.registers, made.spills, shared, blocks))
    return found


def survivors(spec: ConvSpec, tiles: Iterable[Tile], arch: str) -> list[Compiled]:
    """Those that do not spill and fit: worth timing on a GPU."""
    return [one for one in examine(spec, tiles, arch) if one.spilled == 0 and one.blocks > 0]
