"""Convolution to few channels: the channels of a pixel, which fill the lanes, are multiplied as they lie in memory.

A convolution to 3 channels would use 3 of 16 lanes of its weights. Here a step multiplies a whole vector of a pixel's
channels by one of each output's weights; what the lanes have summed is added up across at the end of a tile. The order
of the sum: lane by lane over the table, then the lanes in halves.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from convc.backends.cpu import conv
from convc.backends.cpu.channels import Channels, Taps
from convc.backends.cpu.isa import Isa
from convc.backends.cpu.writer import Writer
from convc.backends.program import Ints
from convc.types import Array

MOST_ROWS = 8
"""Pixels of a tile."""
ACROSS_CYCLES = 4.0
"""Of adding up one accumulator's lanes."""


def outputs_of(channels: Channels) -> int:
    """Lanes that must be computed: up to the last that holds a channel."""
    return int(np.flatnonzero(channels.slots[0] >= 0)[-1]) + 1


def whole_vectors(channels: Channels, taps: Taps, lanes: int) -> Taps | None:
    """The taps of a convolution to one block of channels, one a vector of a pixel's; None unless all are full."""
    if channels.mode != "dense" or len(channels.slots) > 1 or not taps.plane.size or taps.plane.size % lanes:
        return None
    plane, lane, dy, dx = (part.reshape(-1, lanes) for part in (taps.plane, taps.lane, taps.dy, taps.dx))
    alike = all((part == part[:, :1]).all() for part in (plane, dy, dx))
    if not alike or (lane != np.arange(lanes)).any():
        return None
    return Taps(*(part[:, 0][None] for part in (plane, lane, dy, dx)))


def rows_for(isa: Isa, outputs: int) -> int:
    """Pixels of a tile: what the registers hold beside the weights and a pixel."""
    return max(1, min(MOST_ROWS, (isa.registers - outputs - 2) // outputs))


def cycles(isa: Isa, outputs: int, count: int, pixels: int) -> float:
    """Estimated cycles for so many pixels, each a sum of `count` vectors; infinite where weights leave the cache."""
    rows = rows_for(isa, outputs)
    if outputs * 2 > isa.lanes or count * outputs * isa.lanes * 4 > conv.FAR_BYTES:
        return float("inf")
    step = max(rows * outputs / 2, (rows + outputs) / 2, 4.0) + 0.5
    return -(-pixels // rows) * (count * step + rows * outputs * ACROSS_CYCLES)


def across(spec: conv.ConvSpec, isa: Isa, outputs: int) -> conv.ConvSpec:
    """The kernel for so many outputs."""
    return replace(spec, mode="dot", rows=rows_for(isa, outputs), cols=1, rest=0, unroll=1, outputs=outputs, soon=False)


def pack(weights: Array, channels: Channels, columns: Ints) -> Array:
    """Weights [out, inputs * taps] in the kernel's order: [k][output][lane], flat; zero where a lane has no channel."""
    outputs, lanes = outputs_of(channels), channels.slots.shape[1]
    slots = channels.slots[0, :outputs]
    chosen = np.where(slots[:, None] >= 0, weights[np.maximum(slots, 0)][:, columns[0]], np.float32(0))
    by_step = chosen.reshape(outputs, -1, lanes).transpose(1, 0, 2)
    return np.ascontiguousarray(by_step, np.float32).reshape(-1)


def emit(spec: conv.ConvSpec, isa: Isa) -> tuple[str, str]:
    """Name and source of the kernel."""
    return conv.emit(spec, isa, _panel)


def _panel(out: Writer, spec: conv.ConvSpec, isa: Isa, cols: int, parameters: str) -> None:
    conv.begin_tiles(out, spec, isa)
    with out.block("for i in range(first, end)"):
        for rows in conv.tile_rows(out, "count", spec.rows, True):
            _tile(out, spec, isa, rows, parameters)
        conv.next_tile(out, spec)


def _tile(out: Writer, spec: conv.ConvSpec, isa: Isa, rows: int, parameters: str) -> None:
    acc, sums = f"acc{rows}", f"sum{rows}"
    out(f"{acc} = tile_zero({rows}, {spec.outputs}, {isa.lanes})", "wp = weights")
    with out.block("for k in range(K)"):
        out(f"{acc} = tile_fma_lanes({acc}, xp + load_i32(table, k) * 4, {spec.step}, wp, None)")
        out(f"wp += {spec.outputs * isa.lanes * 4}")
    out(f"{sums} = tile_across({acc}, b)")
    conv.finish_tile(out, spec, isa, sums, rows, parameters)
