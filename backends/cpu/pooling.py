"""Pooling on planes: windows clipped at the borders, and whole maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from convc.backends.assemble import Assembler
from convc.backends.binding import Binding, Word
from convc.backends.cpu.isa import Isa
from convc.backends.cpu.writer import Writer
from convc.backends.program import Planes, Step
from convc.ir.graph import Node

LEAST = "-1e999"
"""Minus infinity as a literal."""
MOST_COLUMNS = 16
"""Of a window whose columns are written out in the kernel, and stay in registers from one window to the next."""
MOST_TAPS = 64
"""Of a window whose rows are written out, too."""
ARGUMENTS = [
    "x", "y", "x_planes", "y_planes", "count", "images", "rows", "width", "out_rows", "out_width", "x_image", "x_row",
    "y_image", "y_row", "kh", "kw", "sh", "sw", "dh", "dw", "top", "left", "bottom", "right",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Window:
    """What a kernel knows of its windows: rows and columns, pixels from one to the next, and between their taps."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]

    @staticmethod
    def of(attrs: Mapping[str, Any]) -> Window | None:
        """Of a pooling's attributes; None where it has more columns than are written out."""
        kernel, stride, dilation = (attrs[name] for name in ("kernel", "stride", "dilation"))
        return Window(kernel, stride, dilation) if kernel[1] <= MOST_COLUMNS else None

    def __str__(self) -> str:
        facts = "x".join(map(str, self.kernel)) + "_s" + "x".join(map(str, self.stride))
        return facts + ("_d" + "x".join(map(str, self.dilation)) if self.dilation != (1, 1) else "")


def emit_pool(isa: Isa, kind: str, window: Window | None) -> tuple[str, str]:
    """Max or average over windows. `average_padded` counts the padding (but nothing beyond it) as zeros.

    Windows that reach beyond the sides take tap by tap what lies inside. Between them, where `window` is given, a
    column is reduced once for all windows of a row that it lies in, and windows are columns reduced.
    """
    name = f"f32_pool_{kind}" + (f"_{window}" if window else "")
    out = Writer(f"{name}__{isa.name}", ARGUMENTS, "x, y: bases of planes; sizes; byte strides; window")
    out(f"none = vec_of({LEAST if kind == 'max' else '0.0'}, {isa.lanes})", "first = inside = out_width")
    if window is not None:
        for names, values in (("kh, kw", window.kernel), ("sh, sw", window.stride), ("dh, dw", window.dilation)):
            out(f"{names} = {values[0]}, {values[1]}")
        out("first = (left + sw - 1) // sw", "inside = (width + left - (kw - 1) * dw - 1) // sw + 1")
        out("if first > out_width: first = out_width", "if inside > out_width: inside = out_width")
        out("if inside < first: inside = first")
    with out.share_lines("out_rows", "n", "oy"):
        out("top_y = oy * sh - top")
        out(
            "r0 = 0 if top_y >= 0 else (dh - 1 - top_y) // dh",
            "r1 = (rows - top_y + dh - 1) // dh",
            "if r1 > kh: r1 = kh",
        )
        out(
            "source = x + load_i64(x_planes, plane) + n * x_image + (top_y + r0 * dh) * x_row",
            "to = y + load_i64(y_planes, plane) + n * y_image + oy * y_row",
        )
        if kind == "average_padded":
            out("h = (rows + bottom - top_y + dh - 1) // dh", "if h > kh: h = kh")
        with out.block("for side in range(2)"):
            out("begin, end = (inside, out_width) if side else (0, first)")
            with out.block("for ox in range(begin, end)"):
                _by_taps(out, isa, kind)
        if window is not None:
            cells = {"average": "(r1 - r0) * kw", "average_padded": "h * kw"}
            if kind in cells:
                out(f"share = vec_of(1.0 / ({cells[kind]}), {isa.lanes})")
            if window.kernel[0] * window.kernel[1] > MOST_TAPS:
                _by_columns(out, isa, kind, window, all_rows=False)
                return out.finish()
            with out.block("if r1 - r0 == kh"):
                _by_columns(out, isa, kind, window, all_rows=True)
            with out.block("else"):
                _by_columns(out, isa, kind, window, all_rows=False)
    return out.finish()


def _by_taps(out: Writer, isa: Isa, kind: str) -> None:
    """The output at ox: every tap by itself, clipped."""
    pixel = isa.lanes * 4
    out(
        "left_x = ox * sw - left",
        "s0 = 0 if left_x >= 0 else (dw - 1 - left_x) // dw",
        "s1 = (width - left_x + dw - 1) // dw",
        "if s1 > kw: s1 = kw",
        "acc = none",
    )
    with out.block("for r in range(r0, r1)"):
        out(f"at = source + (r - r0) * dh * x_row + (left_x + s0 * dw) * {pixel}")
        with out.block("for s in range(s0, s1)"):
            out(f"acc = {'v_max' if kind == 'max' else 'v_add'}(acc, vec_load(at, {isa.lanes}))", f"at += dw * {pixel}")
    if kind == "average":
        out("cells = (r1 - r0) * (s1 - s0)")
    elif kind == "average_padded":
        out("v = (width + right - left_x + dw - 1) // dw", "if v > kw: v = kw", "cells = h * v")
    if kind != "max":
        out(f"acc = v_mul(acc, vec_of(1.0 / cells, {isa.lanes}))")
    out(f"vec_store(to + ox * {pixel}, acc)")


def _by_columns(out: Writer, isa: Isa, kind: str, window: Window, *, all_rows: bool) -> None:
    """The outputs of windows within the sides. Columns that the next window has, too, stay in registers."""
    (height, breadth), across, pixel = window.kernel, window.stride[1], isa.lanes * 4
    kept = max(breadth - across, 0) if window.dilation[1] == 1 else 0
    out(f"at = source + (first * sw - left) * {pixel}")

    def column(index: int) -> None:
        place = f"at + {index} * dw * {pixel}"
        if all_rows:
            loads = [f"vec_load({place} + {r} * dh * x_row, {isa.lanes})" for r in range(height)]
            out(f"c{index} = {_reduced(kind, loads)}")
            return
        out(f"c{index} = none", f"place = {place}")
        with out.block("for r in range(r0, r1)"):
            out(f"c{index} = {_reduced(kind, [f'c{index}', f'vec_load(place, {isa.lanes})'])}", "place += dh * x_row")

    for index in range(kept):
        column(index)
    with out.block("for ox in range(first, inside)"):
        for index in range(kept, breadth):
            column(index)
        found = _reduced(kind, [f"c{index}" for index in range(breadth)])
        out(f"vec_store(to + ox * {pixel}, {found if kind == 'max' else f'v_mul({found}, share)'})")
        out(*(f"c{index} = c{index + across}" for index in range(kept)), f"at += sw * {pixel}")


def _reduced(kind: str, values: Sequence[str]) -> str:
    """The largest, or else the sum, of values in their order."""
    found, rest = values[0], list(values[1:])
    while rest:
        if kind == "max" and len(rest) > 1:
            found, rest = f"v_max_of_three({rest[0]}, {rest[1]}, {found})", rest[2:]
        else:
            found, rest = f"v_{'max' if kind == 'max' else 'add'}({found}, {rest[0]})", rest[1:]
    return found


def emit_global(isa: Isa, kind: str) -> tuple[str, str]:
    """Max or mean over whole maps, by four interleaved accumulators in a fixed order."""
    arguments = ["x", "y", "x_planes", "y_planes", "count", "images", "rows", "width", "x_image", "x_row", "y_image"]
    out = Writer(f"f32_global_{kind}__{isa.name}", arguments, "x, y: bases of planes; sizes; byte strides")
    pixel, lanes = isa.lanes * 4, isa.lanes
    function = "v_max" if kind == "max" else "v_add"
    out(f"none = vec_of({LEAST if kind == 'max' else '0.0'}, {lanes})")
    out("full = width // 4 * 4")
    with out.share("count * images", "item"):
        out(
            "plane = item // images",
            "n = item - plane * images",
            "source = x + load_i64(x_planes, plane) + n * x_image",
        )
        out("a0 = none", "a1 = none", "a2 = none", "a3 = none")
        with out.block("for h in range(rows)"):
            out("at = source + h * x_row")
            with out.block("for w in range(0, full, 4)"):
                for i in range(4):
                    out(f"a{i} = {function}(a{i}, vec_load(at + (w + {i}) * {pixel}, {lanes}))")
            with out.block("for w in range(full, width)"):
                out(f"a0 = {function}(a0, vec_load(at + w * {pixel}, {lanes}))")
        out(f"a0 = {function}({function}(a0, a1), {function}(a2, a3))")
        if kind == "mean":
            out(f"a0 = v_mul(a0, vec_of(1.0 / (rows * width), {lanes}))")
        out("vec_store(y + load_i64(y_planes, plane) + n * y_image, a0)")
    return out.finish()


def lower_pool(asm: Assembler, node: Node, isa: Isa) -> None:
    """max_pool2d and avg_pool2d."""
    x = _with_channels(asm.planes(str(node.inputs[0])))
    y = asm.new_planes(node.name, node.type, places=x.places)
    kind = "max" if node.op == "max_pool2d" else "average_padded" if node.attrs["count_include_pad"] else "average"
    asm.step(emit_pool(isa, kind, Window.of(node.attrs)), "pool", node.name, (x,), (y,), {"window": node.attrs})
    asm.define(y)


def lower_global(asm: Assembler, node: Node, isa: Isa) -> None:
    """global_avg_pool and global_max_pool."""
    x = _with_channels(asm.planes(str(node.inputs[0])))
    y = asm.new_planes(node.name, node.type, places=x.places)
    kind = "max" if node.op in {"global_max_pool", "reduce_max"} else "mean"
    asm.step(emit_global(isa, kind), "global_pool", node.name, (x,), (y,))
    asm.define(y)


def _with_channels(x: Planes) -> Planes:
    """The value without planes that hold none of its channels."""
    return x if len(np.unique(x.places[:, 0])) == len(x.planes) else x.pick(x.name, np.arange(x.channels))


def pool_arguments(step: Step, bound: Binding) -> Sequence[Word]:
    """Arguments of `emit_pool`."""
    source, target = step.reads[0], step.writes[0]
    assert isinstance(source, Planes) and isinstance(target, Planes)
    x, y, window = bound.geometry(source), bound.geometry(target), step.params["window"]
    return [
        bound.arena, bound.arena, bound.table(x.planes), bound.table(y.planes), len(x.planes), x.images, x.height,
        x.width, y.height, y.width, x.image, x.row, y.image, y.row, *window["kernel"], *window["stride"],
        *window["dilation"], *window["padding"],
    ]  # fmt: skip


def global_arguments(step: Step, bound: Binding) -> Sequence[Word]:
    """Arguments of `emit_global`."""
    source, target = step.reads[0], step.writes[0]
    assert isinstance(source, Planes) and isinstance(target, Planes)
    x, y = bound.geometry(source), bound.geometry(target)
    return [
        bound.arena, bound.arena, bound.table(x.planes), bound.table(y.planes), len(x.planes), x.images, x.height,
        x.width, x.image, x.row, y.image,
    ]  # fmt: skip
