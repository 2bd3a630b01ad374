"""A direct convolution as a call of its kernels: what is specialised, packed weights. Several calls may fill one value:
regions of an output, phases of a transposed convolution.
"""

from __future__ import annotations

from typing import Any

from convc.backends.assemble import Assembler
from convc.backends.binding import SLACK
from convc.backends.cpu import conv, conv_ahead, conv_dot, merge
from convc.backends.cpu.activations import function_of
from convc.backends.cpu.channels import Channels, Taps, bias_of, pack_weights
from convc.backends.cpu.conv_call import ConvCall
from convc.backends.cpu.conv_window import row_of_taps, windowed
from convc.backends.cpu.isa import Isa, host_processor
from convc.backends.program import Ints, Planes
from convc.dims import Size, concrete
from convc.ir.graph import Node
from convc.types import Activation, Array

EXACT_ROWS = 2
"""A tile of 2 rows, or half of it, reads no pixel that is not there: for steps that are long or known at run time."""


def is_exact(step: int, isa: Isa) -> bool:
    """Whether pixels so many bytes apart, or 0 where that is known at run time, take tiles that read no other."""
    return not 0 < step <= SLACK // max(rows for rows, _ in isa.tiles)


def append_direct(
    asm: Assembler, node: Node, isa: Isa, x: Planes, y: Planes, residual: Planes | None,
    channels: Channels, taps: Taps, order: Ints, weights: Array, step: int, stride: tuple[int, int], flat: bool,
    *, size: tuple[Size, ...] | None = None, start: tuple[int, int] = (0, 0), every: tuple[int, int] = (1, 1),
    taps_in_kernel: int | None = None, joins: bool = False, tile: tuple[int, int] | None = None,
    ahead: str | None = None,
) -> None:  # fmt: skip
    """Append the call. `size`, `start`, `every`: where its outputs lie in y; `order`: columns of `weights`; `ahead`:
    see `conv_ahead.py`.
    """
    height, width = size if size is not None else (y.height, y.width)
    nominal = asm.graph.nominal
    lines, pixels = concrete(y.batch * height, nominal), concrete(width, nominal)
    if flat:
        lines, pixels = 1, lines * pixels
    exact = is_exact(max(step, every[1] * isa.lanes * 4) if step else 0, isa)
    if exact:
        tile = (EXACT_ROWS, min(isa.registers // 4, channels.group_blocks))
    elif tile is None:
        tile = conv.choose_tile(isa, channels.group_blocks, max(taps.plane.shape[1], 1), max(pixels, 1), max(lines, 1))
    activation: Activation | None = node.attrs["activation"]
    function, params = function_of(activation) if activation is not None else ("", ())
    rest = channels.group_blocks % tile[1]
    unroll = conv.unroll_of(isa, channels.mode, taps.plane.shape[1])
    soon = channels.mode == "dense" and not taps.dy.any() and not taps.dx.any() and ahead is None
    streams = conv.streams_for(host_processor())
    tiles = lines * -(-pixels // tile[0]) if channels.mode == "dense" else 0
    spec = conv.ConvSpec(
        channels.mode, step, *tile, rest, unroll, residual is not None, function, len(params), soon=soon, ahead=ahead,
        streams=streams, lines=conv.lines_of(unroll * tile[1] * isa.lanes * 4, streams, tiles),
    )
    direct = conv.tile_cycles(isa, (spec.rows, spec.cols), 1, taps.plane.shape[1], pixels, lines)
    needed = direct * taps.plane.shape[1]
    apart = not exact and ahead is None
    vectors = across_vectors(isa, x, channels, taps, lines * pixels, needed) if apart else None
    if vectors is not None:
        spec = conv_dot.across(spec, isa, conv_dot.outputs_of(channels))
    if channels.inputs.shape[1] == 1 and every == (1, 1):
        across, gap = row_of_taps(taps.dy[0], taps.dx[0])
        spec = windowed(spec, isa, across, gap * x.lanes * 4)
    if taps_in_kernel is None:
        taps_in_kernel = weights.shape[1] // channels.inputs.shape[1]
    columns = order[..., 0] * taps_in_kernel + order[..., 1] if order.ndim == 3 else order

    def pack() -> Array:
        if vectors is not None:
            return conv_dot.pack(weights, channels, columns)
        return pack_weights(weights, channels, columns, tile[1])

    count = (spec.outputs or channels.slots.size) * columns.shape[1]
    packed = asm.pack_later(f"{node.name}.w", count, pack)
    call = ConvCall(
        spec, vectors or taps, stride, height, width, start, every, channels.group_blocks, packed,
        asm.pack(f"{node.name}.b", bias_of(asm, node, channels)), params,
        conv_ahead.pack(asm, node, x) if ahead is not None else ("", ""),
    )  # fmt: skip
    reads = (x, residual) if residual is not None else (x,)
    facts: dict[str, Any] = {"call": call}
    if residual is not None and every == (1, 1):
        facts["in_place"] = 1
    asm.step(merge.named(spec, isa), "conv", node.name, reads, (y,), facts, joins=joins)


def across_vectors(isa: Isa, x: Planes, channels: Channels, taps: Taps, pixels: int, cycles: float) -> Taps | None:
    """The taps by whole vectors of channels, where the kernel for few outputs is predicted to take fewer cycles."""
    vectors = conv_dot.whole_vectors(channels, taps, isa.lanes) if x.lanes == isa.lanes else None
    if vectors is None:
        return None
    needed = conv_dot.cycles(isa, conv_dot.outputs_of(channels), vectors.plane.shape[1], pixels)
    return vectors if needed < cycles else None
