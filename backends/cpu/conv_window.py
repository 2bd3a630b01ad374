"""Depthwise convolution: the pixels of a row are loaded once for all taps of a row of the kernel.

What `conv.py` does lane by lane with a table, for kernels whose taps lie evenly in rows: a tile of output pixels walks
down the kernel's rows; each input vector of a row is multiplied into every output that it reaches. Fewer loads than
multiply-adds, and a third of the instructions. Sums run over rows, then over columns from left to right.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from convc.backends.cpu import conv
from convc.backends.cpu.isa import Isa
from convc.backends.cpu.writer import Writer
from convc.backends.program import Ints


def row_of_taps(dy: Ints, dx: Ints) -> tuple[int, int]:
    """Taps of each row of a kernel and the pixels between them, given all taps in order; (0, 0) if they are uneven."""
    across = int((dy == dy[0]).sum()) if len(dy) else 0
    if across < 2 or len(dy) % across:
        return 0, 0
    rows, cols = dy.reshape(-1, across), dx.reshape(-1, across)
    gaps = np.diff(cols, axis=1)
    even = (rows == rows[:, :1]).all() and (cols == cols[0]).all() and (gaps == gaps[0, 0]).all() and gaps[0, 0] > 0
    return (across, int(gaps[0, 0])) if even else (0, 0)


def windowed(spec: conv.ConvSpec, isa: Isa, across: int, gap: int) -> conv.ConvSpec:
    """The kernel for rows of `across` taps, `gap` bytes apart, where tile, weights and a pixel fit the registers; else
    `spec`, which multiplies lane by lane.
    """
    needed = (spec.rows + across) * spec.cols + 1
    if not across or spec.mode != "lanes" or spec.step == 0 or needed > isa.registers:
        return spec
    return replace(spec, mode="window", unroll=across, gap=gap)


def emit(spec: conv.ConvSpec, isa: Isa) -> tuple[str, str]:
    """Name and source of the kernel."""
    return conv.emit(spec, isa, _panel)


def _panel(out: Writer, spec: conv.ConvSpec, isa: Isa, cols: int, parameters: str) -> None:
    conv.begin_tiles(out, spec, isa)
    with out.block("for i in range(first, end)"):
        for rows in conv.tile_rows(out, "count", spec.rows, cols == spec.cols):
            _tile(out, spec, isa, rows, cols, parameters)
        conv.next_tile(out, spec)


def _tile(out: Writer, spec: conv.ConvSpec, isa: Isa, rows: int, cols: int, parameters: str) -> None:
    acc = f"acc{rows}x{cols}"
    out(f"{acc} = tile_bias(b, {rows}, {cols}, {isa.lanes})", "wp = weights")
    with out.block(f"for k in range(0, K, {spec.unroll})"):
        at = "xp + load_i32(table, k) * 4"
        out(f"{acc} = tile_fma_window({acc}, {at}, {spec.step}, wp, {spec.unroll}, {spec.gap})")
        out(f"wp += {spec.unroll * cols * isa.lanes * 4}")
    conv.finish_tile(out, spec, isa, acc, rows, parameters)
