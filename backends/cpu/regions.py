"""Convolutions whose taps reach far beyond the image, cut into regions of outputs that read the same taps.

A 3x3 convolution of dilation 12 on a map of 16x16 multiplies zeros in three quarters of its time, around which the
halo takes ten times the map's memory. Cut where taps enter and leave the image, each part sums what there is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from convc.backends.cpu import conv
from convc.backends.cpu.isa import TYPICAL, Isa, Speed
from convc.ir.graph import Node

GAIN = 0.8
"""Of the cycles of the whole, which the regions must not exceed: what is predicted is only that precise."""
REGION_CYCLES = 2000.0
"""Of a call."""
HALO_BYTES_A_CYCLE = 8.0


@dataclass(frozen=True, slots=True)
class Run:
    """Outputs of one axis from `start` on, and the taps that meet the image for all of them, for none of the others."""

    start: int
    count: int
    taps: tuple[int, ...]


def runs_of(size: int, count: int, taps: int, stride: int, dilation: int, before: int) -> Sequence[Run]:
    """An axis of `count` outputs over `size` inputs in runs, in order."""
    found: list[Run] = []
    for at in range(count):
        first = at * stride - before
        inside = tuple(tap for tap in range(taps) if 0 <= first + tap * dilation < size)
        if found and found[-1].taps == inside:
            found[-1] = Run(found[-1].start, found[-1].count + 1, inside)
        else:
            found.append(Run(at, 1, inside))
    return found


def regions_of(
    isa: Isa, node: Node, shape: Sequence[object], kernel: tuple[int, int], planes: int, groups: int, terms: int,
    blocks: int, cycles: float, speed: Speed = TYPICAL,
) -> Sequence[tuple[Run, Run]]:  # fmt: skip
    """The regions of a conv2d on an input [N, C, H, W] that are predicted to take fewer cycles than the whole; none
    where they are not, or where a size is not known.

    `groups` of `blocks` output channels sum `terms` products a tap; `cycles`: what the whole takes on the processor,
    without its halo.
    """
    sizes = [size for size in (*shape[2:], *node.type.shape[2:]) if isinstance(size, int)]
    (top, left, bottom, right), stride, dilation = (node.attrs[name] for name in ("padding", "stride", "dilation"))
    if len(sizes) < 4 or not any(node.attrs["padding"]):
        return ()
    height, width, rows, columns = sizes
    down = runs_of(height, rows, kernel[0], stride[0], dilation[0], top)
    along = runs_of(width, columns, kernel[1], stride[1], dilation[1], left)
    meet = sum(run.count * len(run.taps) for run in down) * sum(run.count * len(run.taps) for run in along)
    images = shape[0] if isinstance(shape[0], int) else 1
    around = (height + top + bottom) * (width + left + right) - height * width
    if meet > GAIN * rows * columns * kernel[0] * kernel[1] and around < height * width:
        return ()  # as of most networks' paddings: nothing to predict
    whole = cycles + planes * images * around * isa.lanes * 4 / HALO_BYTES_A_CYCLE
    regions = [(a, b) for a in down for b in along]
    needed = 0.0
    for a, b in regions:
        count = terms * len(a.taps) * len(b.taps)
        tile = conv.choose_tile(isa, blocks, max(count, 1), b.count, images * a.count)
        lines = images * a.count
        needed += groups * count * conv.tile_cycles(isa, tile, blocks, max(count, 1), b.count, lines, speed)
        needed += groups * count * blocks * isa.lanes * 4 / speed.weights + REGION_CYCLES
    return regions if needed < GAIN * whole else ()
