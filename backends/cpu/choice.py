"""What runs a convolution, where there is a choice: the algorithm and the register tile, by predicted cycles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from convc.backends.cpu import conv, winograd_few, winograd_plan
from convc.backends.cpu.isa import Isa
from convc.backends.cpu.split import WEIGHT_BYTES_A_CYCLE
from convc.backends.cpu.winograd_points import POINTS

WORTH = 1.6
"""Times the cycles of the first: what is predicted to take longer is not measured."""
MOST = 5
"""Candidates of one convolution."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Winograd's F(m), or the direct sum where m is 0, in tiles of rows x cols; `few`: as the kernel for few tiles."""

    m: int
    rows: int
    cols: int
    few: bool = False

    def to_json(self) -> list[int]:
        """Plain JSON values: [m, rows, cols], and 1 for the kernel for few tiles."""
        return [self.m, self.rows, self.cols, *([1] if self.few else [])]


def few_tiles(isa: Isa, m: int) -> Choice:
    """The kernel for few tiles, which knows one register tile alone."""
    return Choice(m, winograd_few.together(isa, m), 1, True)


def read_choices(found: Any, isa: Isa) -> dict[str, Choice]:
    """Choices by name out of JSON that may come from anywhere: what does not fit the instruction set is left out."""
    if not isinstance(found, Mapping):
        return {}
    result: dict[str, Choice] = {}
    for name, value in found.items():
        if isinstance(value, list) and len(value) in {3, 4} and all(type(part) is int for part in value):
            m, rows, cols, *few = value
            choice = Choice(m, rows, cols, few == [1])
            if choice in [few_tiles(isa, m) for m in POINTS] if few else _is_known(choice, isa):
                result[str(name)] = choice
    return result


def _is_known(choice: Choice, isa: Isa) -> bool:
    return (choice.rows, choice.cols) in isa.tiles and choice.m in {0, *POINTS}


@dataclass(frozen=True, slots=True)
class Facts:
    """What the prediction depends on, at nominal sizes: output of `height` x `width`, sums of `count` terms over
    `planes`, `blocks` of output channels. `apart` is the dilation where Winograd's form is possible, else 0.
    """

    images: int
    height: int
    width: int
    planes: int
    channels: int
    count: int
    blocks: int
    flat: bool
    apart: int

    @staticmethod
    def of(shape: Sequence[int], planes: int, channels: int, taps: int, blocks: int, flat: bool, apart: int) -> Facts:
        """Of an output [N, K, H, W], and `taps` of each input channel."""
        images, _, height, width = shape
        return Facts(images, height, width, planes, channels, channels * taps, blocks, flat, apart)


@cache
def candidates(isa: Isa, facts: Facts) -> Sequence[tuple[Choice, float]]:
    """Choices and their cycles, the fastest first."""
    lines, pixels = max(facts.images * facts.height, 1), max(facts.width, 1)
    if facts.flat:
        lines, pixels = 1, lines * pixels
    weights = facts.count * facts.blocks * isa.lanes * 4 / WEIGHT_BYTES_A_CYCLE
    tiles = [tile for tile in isa.tiles if tile[1] <= facts.blocks] or [(isa.tiles[-1][0], 1)]
    found: list[tuple[Choice, float]] = []
    for tile in tiles:
        steps = conv.tile_cycles(isa, tile, facts.blocks, max(facts.count, 1), pixels, lines)
        found.append((Choice(0, *tile), facts.count * steps + weights))
    for m in POINTS if facts.apart and facts.count else ():
        total = max(winograd_plan.tiles_in(m, facts.images, facts.height, facts.width, facts.apart), 1)
        for choice in (*(Choice(m, *tile) for tile in tiles), few_tiles(isa, m)):
            plan = winograd_plan.plan_blocks(
                isa, m, (choice.rows, choice.cols), facts.planes, facts.channels, facts.blocks, total, 1,
                few=choice.few,
            )  # fmt: skip
            found.append((choice, plan.cycles))
    found.sort(key=lambda one: (one[1], one[0].rows))
    return tuple(one for one in found if one[1] <= WORTH * found[0][1])[:MOST]
