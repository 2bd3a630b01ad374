"""Pooling on planes, 16 bytes of channels a thread: windows clipped at the borders, and whole maps."""

from __future__ import annotations

from collections.abc import Sequence

from convc.backends.cuda.layout import CudaAssembler
from convc.backends.cuda.plan import Argument, Launch, LaunchPlan
from convc.backends.cuda.vectors import keep_channels, load, store
from convc.backends.cuda.writer import VECTOR, Writer
from convc.backends.program import Planes, Step
from convc.ir.graph import Node

LEAST = "bits_float(i32(-8388608))"
"""Minus infinity."""


def emit_pool(storage: str, kind: str) -> tuple[str, str]:
    """Max or average over windows. `average_padded` counts the padding (but nothing beyond it) as zeros."""
    width = VECTOR[storage]
    names = (
        "x_pitch", "y_pitch", "pixels", "groups", "channels", "rows", "columns", "out_rows", "out_columns",
        "kh", "kw", "sh", "sw", "dh", "dw", "top", "left", "bottom", "right",
    )  # fmt: skip
    out = Writer(
        f"{storage}_pool_{kind}__cuda",
        [f"x: {storage}*", f"y: {storage}*", *(f"{n}: i32" for n in names)],
        "x, y: planes",
    )
    out.item("item", "pixels * groups")
    out.split("item", "groups", "pixel", "group")
    out.split("pixel", "out_columns", "line", "ox")
    out.split("line", "out_rows", "n", "oy")
    out(f"c = group * {width}", "y0 = oy * sh - top", "x0 = ox * sw - left")
    neutral = LEAST if kind == "max" else "f32(0.0)"
    out(*(f"r{j} = {neutral}" for j in range(width)))
    if kind != "max":
        out("cells = i32(0)")
    with out.loop("r", "kh"):
        out("h = y0 + r * dh", "row = ok & inside(h, rows)")
        with out.loop("s", "kw"):
            out("w = x0 + s * dw", "live = row & inside(w, columns)")
            load(out, storage, "x", "((n * rows + h) * columns + w) * x_pitch + c", "v", "live")
            for j in range(width):
                taken = f"select(live, maximum(r{j}, v_{j}), r{j})" if kind == "max" else f"r{j} + v_{j}"
                out(f"r{j} = {taken}")
            if kind == "average":
                out("cells = select(live, cells + 1, cells)")
            elif kind == "average_padded":
                out(
                    "counted = (h < rows + bottom) & (w < columns + right)", "cells = select(counted, cells + 1, cells)"
                )
    if kind != "max":
        out("share = 1.0 / to_f32(cells)", *(f"r{j} = r{j} * share" for j in range(width)))
    keep_channels(out, width, "c", "channels")
    store(out, storage, "y", "pixel * y_pitch + c")
    return out.finish()


def emit_global(storage: str, kind: str) -> tuple[str, str]:
    """Max or mean over whole maps, by two interleaved accumulators in a fixed order."""
    width = VECTOR[storage]
    arguments = [f"x: {storage}*", "x_pitch: i32", f"y: {storage}*", "y_pitch: i32", "images: i32", "groups: i32"]
    out = Writer(f"{storage}_global_{kind}__cuda", [*arguments, "channels: i32", "area: i32"], "x, y: planes")
    out.item("item", "images * groups")
    out.split("item", "groups", "n", "group")
    out(f"c = group * {width}")
    neutral = LEAST if kind == "max" else "f32(0.0)"
    out(*(f"{name}{j} = {neutral}" for name in "rs" for j in range(width)))
    out("half = (area + 1) >> 1")
    with out.loop("i", "half"):
        out("at = (n * area + i) * x_pitch + c", "second = ok & (i + half < area)")
        load(out, storage, "x", "at", "u")
        load(out, storage, "x", "at + half * x_pitch", "v", "second")
        for j in range(width):
            if kind == "max":
                out(f"r{j} = maximum(r{j}, u_{j})", f"s{j} = select(second, maximum(s{j}, v_{j}), s{j})")
            else:
                out(f"r{j} = r{j} + u_{j}", f"s{j} = s{j} + v_{j}")
    out("share = 1.0 / to_f32(area)")
    for j in range(width):
        out(f"r{j} = maximum(r{j}, s{j})" if kind == "max" else f"r{j} = (r{j} + s{j}) * share")
    keep_channels(out, width, "c", "channels")
    store(out, storage, "y", "n * y_pitch + c")
    return out.finish()


def lower_pool(asm: CudaAssembler, node: Node) -> None:
    """max_pool2d and avg_pool2d."""
    x = asm.natural(str(node.inputs[0]))
    y = asm.new_planes(node.name, node.type)
    kind = "max" if node.op == "max_pool2d" else "average_padded" if node.attrs["count_include_pad"] else "average"
    asm.step(emit_pool(asm.storage, kind), "pool", node.name, (x,), (y,), {"window": node.attrs})
    asm.define(y)


def lower_global(asm: CudaAssembler, node: Node) -> None:
    """global_avg_pool and global_max_pool; reduce_mean and reduce_max over height and width."""
    x = asm.natural(str(node.inputs[0]))
    y = asm.new_planes(node.name, node.type)
    kind = "max" if node.op in {"global_max_pool", "reduce_max"} else "mean"
    asm.step(emit_global(asm.storage, kind), "global_pool", node.name, (x,), (y,))
    asm.define(y)


def pool_launches(step: Step, bound: LaunchPlan) -> Sequence[Launch]:
    """Launches of `emit_pool`."""
    source, target = step.reads[0], step.writes[0]
    assert isinstance(source, Planes) and isinstance(target, Planes)
    x, y, window = bound.view(source), bound.view(target), step.params["window"]
    groups = -(-y.channels // (16 // bound.program.buffers[target.planes[0][0]].element))
    arguments: list[Argument] = [
        x.pointer, y.pointer, x.pitch, y.pitch, y.pixels, groups, y.channels, x.height, x.width, y.height, y.width,
        *window["kernel"], *window["stride"], *window["dilation"], *window["padding"],
    ]  # fmt: skip
    return bound.items(step, y.pixels * groups, arguments)


def global_launches(step: Step, bound: LaunchPlan) -> Sequence[Launch]:
    """Launches of `emit_global`."""
    source, target = step.reads[0], step.writes[0]
    assert isinstance(source, Planes) and isinstance(target, Planes)
    x, y = bound.view(source), bound.view(target)
    groups = -(-y.channels // (16 // bound.program.buffers[target.planes[0][0]].element))
    arguments: list[Argument] = [x.pointer, x.pitch, y.pointer, y.pitch, x.images, groups, y.channels, x.area]
    return bound.items(step, x.images * groups, arguments)
