"""Resize on planes: separable, each axis a table of taps (indices and weights)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convc.backends.assemble import Assembler
from convc.backends.axes import axis_taps
from convc.backends.binding import Binding, Word
from convc.backends.cpu.isa import Isa
from convc.backends.cpu.writer import Writer
from convc.backends.program import Planes, Step
from convc.backends.shaping import lower_nearest
from convc.errors import TargetError
from convc.ir.graph import Node

ARGUMENTS = [
    "x", "y", "x_planes", "y_planes", "count", "images", "out_rows", "out_width", "x_image", "y_image", "y_row",
    "rows", "row_weights", "row_taps", "columns", "column_weights", "column_taps",
]  # fmt: skip


def emit_resize(isa: Isa, weighted: bool) -> tuple[str, str]:
    """y[oy, ox] = sum over taps of x[row, column] * weights. Tables hold byte offsets of rows and columns."""
    out = Writer(f"f32_resize_{'weighted' if weighted else 'copy'}__{isa.name}", ARGUMENTS, "x, y: bases of planes")
    lanes, pixel = isa.lanes, isa.lanes * 4
    with out.share_lines("out_rows", "n", "oy"):
        out(
            "source = x + load_i64(x_planes, plane) + n * x_image",
            "to = y + load_i64(y_planes, plane) + n * y_image + oy * y_row",
        )
        with out.block("for ox in range(out_width)"):
            if not weighted:
                out("at = source + load_i64(rows, oy) + load_i64(columns, ox)")
                out(f"vec_store(to + ox * {pixel}, vec_load(at, {lanes}))")
            else:
                out(f"acc = vec_of(0.0, {lanes})")
                with out.block("for r in range(row_taps)"):
                    out("line = source + load_i64(rows, oy * row_taps + r)", f"part = vec_of(0.0, {lanes})")
                    with out.block("for s in range(column_taps)"):
                        out("k = ox * column_taps + s", f"v = vec_load(line + load_i64(columns, k), {lanes})")
                        out(f"part = vec_fma(v, vec_splat(column_weights + k * 4, {lanes}), part)")
                    out(f"acc = vec_fma(part, vec_splat(row_weights + (oy * row_taps + r) * 4, {lanes}), acc)")
                out(f"vec_store(to + ox * {pixel}, acc)")
    return out.finish()


def lower_resize(asm: Assembler, node: Node, isa: Isa) -> bool:
    """Append a resize of height and width; False where other axes change, or the value is not float32 of rank 4."""
    source = asm.graph[str(node.inputs[0])].type
    if node.type.rank != 4 or node.type.shape[:2] != source.shape[:2] or source.dtype.value != "f32":
        return False
    x = asm.planes(str(node.inputs[0]))
    y = asm.new_planes(node.name, node.type, places=x.places)
    kernel = emit_resize(isa, node.attrs["mode"] != "nearest")
    asm.step(kernel, "resize", node.name, (x,), (y,), {"attrs": node.attrs})
    asm.define(y)
    return True


def lower_resampling(asm: Assembler, node: Node, isa: Isa) -> None:
    """resize: on planes, or by index for nearest over other axes."""
    if lower_resize(asm, node, isa):
        return
    if node.attrs["mode"] != "nearest":
        raise TargetError(
            f"{node}: {node.attrs['mode']} over other axes than height and width of float32 [N, C, H, W]",
            hint="use mode nearest, or target='reference'",
        )
    lower_nearest(asm, node)


def resize_arguments(step: Step, bound: Binding) -> Sequence[Word]:
    """Arguments of `emit_resize`."""
    source, target = step.reads[0], step.writes[0]
    assert isinstance(source, Planes) and isinstance(target, Planes)
    x, y = bound.geometry(source), bound.geometry(target)
    words: list[Word] = [
        bound.arena, bound.arena, bound.table(x.planes), bound.table(y.planes), len(x.planes), x.images, y.height,
        y.width, x.image, y.image, y.row,
    ]  # fmt: skip
    for axis, old, new, stride in ((2, x.height, y.height, x.row), (3, x.width, y.width, x.pixel)):
        indices, weights = axis_taps(old, new, axis, dict(step.params["attrs"]))
        words += [
            bound.table(indices.astype(np.int64) * stride), bound.table(weights.astype(np.float32)), indices.shape[1],
        ]  # fmt: skip
    return words
