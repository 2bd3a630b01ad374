"""Which tile a convolution gets, and in how many parts its K is split: by blocks, waves and work a block, not measured."""

from __future__ import annotations

from collections.abc import Sequence

from convc.backends.cuda.spec import Math, Tile

PROCESSORS = 132
"""Multiprocessors of an H100 or H200; an A100 has 108."""
TILES: dict[Math, Sequence[Tile]] = {
    "f32": (Tile(128, 128, 16, 64, 32, 3), Tile(128, 64, 16, 32, 32, 3), Tile(64, 64, 16, 32, 32, 3), Tile(32, 32, 16, 16, 16, 3)),
    "tf32": (Tile(128, 128, 32, 64, 32, 3), Tile(128, 64, 32, 32, 32, 3), Tile(64, 64, 32, 32, 32, 3), Tile(32, 32, 32, 16, 16, 3)),
    "f16": (Tile(128, 128, 64, 64, 32, 3), Tile(128, 64, 64, 32, 32, 3), Tile(64, 64, 64, 32, 32, 3), Tile(32, 32, 64, 16, 16, 3)),
    "bf16": (Tile(128, 128, 64, 64, 32, 3), Tile(128, 64, 64, 32, 32, 3), Tile(64, 64, 64, 32, 32, 3), Tile(32, 32, 64, 16, 16, 3)),
}  # fmt: skip
LEAST_STEPS = 4
"""Steps of K that a part must have."""
MOST_SPLITS = 8


def choose(math: Math, pixels: int, outputs: int, depth: int, groups: int) -> tuple[Tile, int]:
    """The tile with the least estimated time, and the parts of K."""

    def cost(tile: Tile) -> tuple[float, int]:
        blocks = -(-pixels // tile.bm) * -(-outputs // tile.bn) * groups
        steps = max(-(-depth // tile.bk), 1)
        splits = 1
        if blocks * 2 <= PROCESSORS:
            splits = max(1, min(PROCESSORS // max(blocks, 1), steps // LEAST_STEPS, MOST_SPLITS))
        at_once = PROCESSORS * max(1, min(2048 // tile.threads, 65536 // (tile.bm * tile.bn * 2)))
        waves = max(-(-blocks * splits // at_once), blocks * splits / at_once)
        # loads of a step go as bm + bn, products as bm * bn; a product tile of 128 x 128 keeps the units busy
        work = (tile.bm * tile.bn + 24 * (tile.bm + tile.bn)) * -(-steps // splits) + 4 * tile.bm * tile.bn
        share = min(blocks * splits / PROCESSORS, at_once / PROCESSORS)
        return waves * work * max(share, 1.0), splits

    best = min(TILES[math], key=lambda tile: cost(tile)[0])
    return best, cost(best)[1]
