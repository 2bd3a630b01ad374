"""The prologue of a 1x1 convolution, activation(x scale + shift), on a panel of pixels in memory of the thread's own.

Each layer of DenseNet reads all channels before it through a norm and a relu of its own. As a step that is written and
read back out of the third-level cache; of a panel, it stays in the second.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convc.backends.assemble import Assembler
from convc.backends.binding import Binding, Geometry, Word
from convc.backends.cpu import conv
from convc.backends.cpu.activations import function_of
from convc.backends.cpu.isa import Isa
from convc.backends.cpu.prologue import channel_constant
from convc.backends.cpu.writer import Writer
from convc.backends.program import Planes
from convc.ir.graph import Node
from convc.ops.base import Attrs
from convc.ops.conv import has_prologue
from convc.types import Activation

PANEL_BYTES = 256 << 10
"""Of the second-level cache: the pixels of a panel."""


def fits(attrs: Attrs, kernel: Sequence[int], isa: Isa) -> bool:
    """Whether a kernel [out, in, R, S] applies the prologue: 1x1, dense, of several blocks, and an activation without
    numbers of its own.
    """
    window = (*kernel[2:], *attrs["stride"], *attrs["padding"], attrs["groups"])
    return window == (1, 1, 1, 1, 0, 0, 0, 0, 1) and kernel[0] > isa.lanes <= kernel[1] and not _function(attrs)[1]


def _function(attrs: Attrs) -> tuple[str, tuple[float, ...]]:
    prologue: Activation | None = attrs["prologue"]
    return function_of(prologue) if prologue is not None else ("", ())


def ahead_of(node: Node, kernel: Sequence[int], isa: Isa) -> str | None:
    """The activation ahead of a conv2d that its kernel applies ("" for none, scale and shift alone); None where it has
    no prologue, or one that takes a step.
    """
    applies = has_prologue(node.inputs, node.attrs) and fits(node.attrs, kernel, isa)
    return _function(node.attrs)[0] if applies else None


def pack(asm: Assembler, node: Node, x: Planes) -> tuple[str, str]:
    """Scale and shift by plane and lane, packed."""
    return (
        channel_constant(asm, node, "scale", 1.0, x).packed, channel_constant(asm, node, "shift", 0.0, x).packed,
    )  # fmt: skip


def emit(spec: conv.ConvSpec, isa: Isa) -> tuple[str, str]:
    """Name and source of the kernel."""
    return conv.emit(spec, isa, stage=_stage)


def _stage(out: Writer, spec: conv.ConvSpec, isa: Isa) -> None:
    vector = isa.lanes * 4
    with out.block("for plane in range(x_count)"):
        out("from_plane = load_i64(x_planes, plane)", "to = stage + plane * stage_plane")
        out(f"scale_at = scale + plane * {vector}", f"shift_at = shift + plane * {vector}")
        conv.begin_tiles(out, spec, isa)
        with out.block("for i in range(first, end)"):
            out(f"mapped = tile_bias(shift_at, {spec.rows}, 1, {isa.lanes})")
            out(f"mapped = tile_fma_lanes(mapped, xp + from_plane, {spec.step}, scale_at, None)")
            if spec.ahead:
                out(f"mapped = v_{spec.ahead}(mapped)")
            out(f"points_store(mapped, to, {spec.rows * vector})", f"to += {spec.rows * vector}")
            conv.next_tile(out, spec)


def arguments(
    bound: Binding, x: Geometry, constants: tuple[str, str], stage_at: int, stage_plane: int
) -> Sequence[Word]:
    """What the kernel takes beside `conv.ARGUMENTS`, in the order of `conv.AHEAD`."""
    scale, shift = (bound.constant(name) for name in constants)
    return [bound.table(np.asarray(x.planes, np.int64)), len(x.planes), scale, shift, stage_at, stage_plane]
