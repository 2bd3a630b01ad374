"""Resize on planes: separable, each axis a table of taps (indices and weights)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convc.backends.axes import axis_taps
from convc.backends.cuda.layout import CudaAssembler
from convc.backends.cuda.plan import Argument, Launch, LaunchPlan
from convc.backends.cuda.vectors import keep_channels, load, store
from convc.backends.cuda.writer import VECTOR, Writer
from convc.backends.program import Planes, Step
from convc.backends.shaping import lower_nearest
from convc.errors import TargetError
from convc.ir.graph import Node


def emit_resize(storage: str) -> tuple[str, str]:
    """y[oy, ox] = sum over taps of x[row, column] * weights."""
    width = VECTOR[storage]
    names = ("x_pitch", "y_pitch", "pixels", "groups", "channels", "rows", "columns", "out_rows", "out_columns")
    taps = [f"{axis}_{part}" for axis in ("row", "column") for part in ("index: i32*", "weight: f32*", "taps: i32")]
    out = Writer(
        f"{storage}_resize__cuda",
        [f"x: {storage}*", f"y: {storage}*", *(f"{n}: i32" for n in names), *taps],
        "x, y: planes",
    )
    out.item("item", "pixels * groups")
    out.split("item", "groups", "pixel", "group")
    out.split("pixel", "out_columns", "line", "ox")
    out.split("line", "out_rows", "n", "oy")
    out(f"c = group * {width}", *(f"r{j} = f32(0.0)" for j in range(width)))
    with out.loop("i", "row_taps"):
        out("h = load_i32(ok, row_index, oy * row_taps + i)", "tall = load_f32(ok, row_weight, oy * row_taps + i)")
        out(*(f"s{j} = f32(0.0)" for j in range(width)))
        with out.loop("k", "column_taps"):
            out(
                "at = ox * column_taps + k",
                "w = load_i32(ok, column_index, at)",
                "wide = load_f32(ok, column_weight, at)",
            )
            load(out, storage, "x", "((n * rows + h) * columns + w) * x_pitch + c", "v")
            out(*(f"s{j} = fma(v_{j}, wide, s{j})" for j in range(width)))
        out(*(f"r{j} = fma(s{j}, tall, r{j})" for j in range(width)))
    keep_channels(out, width, "c", "channels")
    store(out, storage, "y", "pixel * y_pitch + c")
    return out.finish()


def lower_resize(asm: CudaAssembler, node: Node) -> None:
    """resize: of height and width on planes, of other axes by index where the mode is nearest."""
    source = asm.graph[str(node.inputs[0])].type
    if node.type.rank != 4 or node.type.shape[:2] != source.shape[:2] or source.dtype.value != "f32":
        if node.attrs["mode"] != "nearest":
            raise TargetError(
                f"{node}: {node.attrs['mode']} over other axes than height and width of float32 [N, C, H, W]",
                hint="use mode nearest, or target='reference'",
            )
        lower_nearest(asm, node)
        return
    x = asm.natural(str(node.inputs[0]))
    y = asm.new_planes(node.name, node.type)
    asm.step(emit_resize(asm.storage), "resize", node.name, (x,), (y,), {"attrs": node.attrs})
    asm.define(y)


def resize_launches(step: Step, bound: LaunchPlan) -> Sequence[Launch]:
    """Launches of `emit_resize`."""
    source, target = step.reads[0], step.writes[0]
    assert isinstance(source, Planes) and isinstance(target, Planes)
    x, y = bound.view(source), bound.view(target)
    groups = -(-y.channels // (16 // bound.program.buffers[target.planes[0][0]].element))
    arguments: list[Argument] = [
        x.pointer, y.pointer, x.pitch, y.pitch, y.pixels, groups, y.channels, x.height, x.width, y.height, y.width,
    ]  # fmt: skip
    for axis, old, new in ((2, x.height, y.height), (3, x.width, y.width)):
        indices, weights = axis_taps(old, new, axis, dict(step.params["attrs"]))
        arguments += [bound.lanes(indices), bound.numbers(weights.astype(np.float32)), indices.shape[1]]
    return bound.items(step, y.pixels * groups, arguments)
