"""Rows and columns of planes by index: what pads by reflection, by the edge or by a value, and what crops."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from convc.backends import shaping
from convc.backends.assemble import Assembler
from convc.backends.binding import Binding, Geometry, Word
from convc.backends.cpu.activations import float_word
from convc.backends.cpu.isa import Isa
from convc.backends.cpu.writer import Writer
from convc.backends.program import Ints, Planes, Step
from convc.ir.graph import Node

ARGUMENTS = [
    "x", "y", "x_planes", "y_planes", "count", "images", "out_rows", "out_width", "x_image", "y_image", "y_row",
    "rows", "columns", "run_from", "run_to",
]  # fmt: skip
SPATIAL = (2, 3)
Indices = Callable[[Binding, int, int], Ints]
"""Of an axis and its size: which input each output is, -1 for the fill value."""


def emit(isa: Isa) -> tuple[str, str]:
    """y[oy, ox] = x[rows[oy], columns[ox]], tables of byte offsets; a negative one gives the fill value.

    Columns from `run_from` to `run_to` follow each other.
    """
    out = Writer(f"f32_take_planes__{isa.name}", ARGUMENTS, "x, y: bases of planes; the next word: the fill value")
    lanes, pixel = isa.lanes, isa.lanes * 4
    out(f"fill = vec_splat(a + {8 * len(ARGUMENTS)}, {lanes})")

    def columns(first: str, stop: str) -> None:
        with out.block(f"for ox in range({first}, {stop})"):
            out("offset = load_i64(columns, ox)")
            with out.block("if offset < 0"):
                out(f"vec_store(to + ox * {pixel}, fill)")
            with out.block("else"):
                out(f"vec_store(to + ox * {pixel}, vec_load(source + offset, {lanes}))")

    with out.share_lines("out_rows", "n", "oy"):
        out("to = y + load_i64(y_planes, plane) + n * y_image + oy * y_row", "line = load_i64(rows, oy)")
        with out.block("if line < 0"), out.block("for ox in range(out_width)"):
            out(f"vec_store(to + ox * {pixel}, fill)")
        with out.block("else"):
            out("source = x + load_i64(x_planes, plane) + n * x_image + line")
            columns("0", "run_from")
            with out.block("if run_from < run_to"):
                at = f"to + run_from * {pixel}, source + load_i64(columns, run_from)"
                out(f"copy_bytes({at}, (run_to - run_from) * {pixel})")
            columns("run_to", "out_width")
    return out.finish()


def lower_pad(asm: Assembler, node: Node, isa: Isa) -> None:
    """pad: of rows and columns on planes, where the input lies there; else by index on a plain tensor."""
    changed = {axis for axis in range(node.type.rank) if node.attrs["before"][axis] or node.attrs["after"][axis]}
    if not _append(asm, node, isa, changed, lambda bound, axis, size: shaping.padded(node, axis, size)):
        shaping.lower_pad(asm, node)


def lower_slice(asm: Assembler, node: Node, isa: Isa) -> None:
    """slice: of rows or columns on planes, where the input lies there; of channels, planes are picked."""
    taken = node.attrs["axis"] % node.type.rank
    everything = lambda bound, axis, size: shaping.sliced(node, bound) if axis == taken else np.arange(size)  # noqa: E731
    if not _append(asm, node, isa, {taken}, everything):
        shaping.lower_slice(asm, node)


def _append(asm: Assembler, node: Node, isa: Isa, changed: set[int], indices: Indices) -> bool:
    name = str(node.inputs[0])
    if node.type.rank != 4 or not changed <= {*SPATIAL} or not asm.has_planes(name):
        return False
    x = asm.planes(name)
    y = asm.new_planes(node.name, node.type, places=x.places)
    params = {"indices": indices, "fill": node.attrs.get("value", 0.0)}
    asm.step(emit(isa), "take_planes", node.name, (x,), (y,), params)
    asm.define(y)
    return True


def arguments(step: Step, bound: Binding) -> Sequence[Word]:
    """Arguments of `emit`."""
    source, target = step.reads[0], step.writes[0]
    assert isinstance(source, Planes) and isinstance(target, Planes)
    x, y = bound.geometry(source), bound.geometry(target)
    rows, columns = _offsets(step, bound, x)
    ends = np.flatnonzero(np.diff(columns) != x.pixel)  # where the next column is another's
    starts, stops = np.append(0, ends + 1), np.append(ends + 1, len(columns))
    longest = int(np.argmax(stops - starts)) if len(columns) else 0
    run = (int(starts[longest]), int(stops[longest])) if len(columns) else (0, 0)
    if run[0] < run[1] and columns[run[0]] < 0:
        run = (0, 0)
    return [
        bound.arena, bound.arena, bound.table(x.planes), bound.table(y.planes), len(x.planes), x.images, y.height,
        y.width, x.image, y.image, y.row, bound.table(rows), bound.table(columns), *run,
        float_word(float(step.params["fill"])),
    ]  # fmt: skip


def _offsets(step: Step, bound: Binding, x: Geometry) -> tuple[Ints, Ints]:
    found = []
    for axis, size, stride in zip(SPATIAL, (x.height, x.width), (x.row, x.pixel), strict=True):
        index = np.asarray(step.params["indices"](bound, axis, size), np.int64)
        found.append(np.where(index < 0, -1, index * stride))
    return found[0], found[1]
