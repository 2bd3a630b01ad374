"""Kernels between the caller's layout and planes: plain [N, C, H, W] to channels in lanes, and back.

Squares of lanes x lanes are turned in registers. Where channels come last, or a map is one pixel, channels lie as in
lanes, and runs of them are copied: also rows of a matrix that a linear layer multiplies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from convc.backends.assemble import Assembler
from convc.backends.binding import Binding, Geometry, Word
from convc.backends.cpu.isa import Isa
from convc.backends.cpu.writer import Writer
from convc.backends.program import Ints, Plain, Planes, Step, Turned
from convc.errors import TargetError
from convc.types import DType

ARGUMENTS = [
    "x", "y", "planes", "channels", "count", "images", "rows", "width", "x_image", "x_row", "y_image", "y_row",
]  # fmt: skip
RUN_ARGUMENTS = [
    "x", "y", "planes", "starts", "counts", "count", "images", "rows", "width", "plane_image", "plane_row", "pixel",
]  # fmt: skip
PIXELS = 16
"""Pixels of which a plane's are copied before the next plane's: streams of few lines at a time are slow."""


def append_pack(asm: Assembler, isa: Isa, name: str, source: Plain, target: Planes, *, last: bool = False) -> None:
    """Append the step from plain [N, C, H, W], or [N, H, W, C] where channels come `last`, to planes."""
    if source.type.dtype is not DType.F32:
        raise TargetError(f"%{name} is {source.type}, expected float32", hint="cast it to float32 in the model")
    runs = last or _in_runs(target)
    kernel = emit_pack_runs(isa) if runs else emit_pack(isa, target.lanes)
    asm.step(kernel, "pack", name, (source,), (target,), {"runs": runs})


def append_unpack(asm: Assembler, isa: Isa, name: str, source: Planes | Turned, target: Plain) -> None:
    """Append the step from planes to plain."""
    planes = source.planes if isinstance(source, Turned) else source
    runs = planes is not source or _in_runs(planes)
    kernel = emit_unpack_runs(isa) if runs else emit_unpack(isa)
    asm.step(kernel, "unpack", name, (planes,), (target,), {"runs": runs})


def in_turn(value: Planes) -> bool:
    """Whether each plane holds channels that follow each other from its first lane on, each channel once."""
    slots = value.slots()
    steps = np.diff(slots, axis=1)
    follow = ((steps == 1) | (slots[:, 1:] < 0)).all() and (slots[:, 0] >= 0).all()
    return bool(value.lanes > 1 and follow and (slots >= 0).sum() == value.channels)


def _in_runs(value: Planes) -> bool:
    return value.height == value.width == 1 and in_turn(value)


# ---- emitters ------------------------------------------------------------------------------------------------------


def emit_pack(isa: Isa, lanes: int) -> tuple[str, str]:
    """`channels`: the byte offset of the channel in each lane, -1 for none, where zeros go."""
    out = Writer(f"f32_pack_{lanes}lanes__{isa.name}", ARGUMENTS, "x: plain; y: base of planes")
    with out.share_lines():
        out("to = image * y_image + row * y_row", "source = x + image * x_image + row * x_row")
        if lanes == 1:
            to = "y + load_i64(planes, plane) + to"
            out(f"copy_bytes({to}, source + load_i64(channels, plane), width * 4)")
        else:
            with out.block(f"for i in range(0, width, {lanes})"):
                out(f"square = square_gather(source + i * 4, channels + plane * {lanes * 8}, width - i, {lanes})")
                at = f"to + i * {lanes * 4}, {lanes * 4}"
                out(f"tile_store(square, y, planes + plane * 8, {at}, None, None, None, width - i)")
    return out.finish()


def emit_unpack(isa: Isa) -> tuple[str, str]:
    """`channels`: the byte offset of the channel in each lane, -1 where none is wanted."""
    lanes = isa.lanes
    out = Writer(f"f32_unpack__{isa.name}", ARGUMENTS, "x: base of planes; y: plain")
    with out.share_lines():
        out("to = y + image * y_image + row * y_row")
        out("source = x + load_i64(planes, plane) + image * x_image + row * x_row")
        with out.block(f"for i in range(0, width, {lanes})"):
            out(f"square = tile_load(source + i * {lanes * 4}, {lanes}, 1, {lanes})")
            out(f"square_scatter(square, to + i * 4, channels + plane * {lanes * 8}, width - i)")
    return out.finish()


def emit_pack_runs(isa: Isa) -> tuple[str, str]:
    """`starts`, `counts`: byte offset and number of the channels of each plane; `pixel`: bytes of all channels."""
    out = Writer(f"f32_pack_runs__{isa.name}", RUN_ARGUMENTS, "x: plain; y: base of planes")
    with _runs(out, isa, "y", "x"):
        out(f"vec_store(lanes, vec_load_first(channels, load_i64(counts, plane), {isa.lanes}))")
    return out.finish()


def emit_unpack_runs(isa: Isa) -> tuple[str, str]:
    """`starts`, `counts`: byte offset and number of the channels of each plane; `pixel`: bytes of all channels."""
    out = Writer(f"f32_unpack_runs__{isa.name}", RUN_ARGUMENTS, "x: base of planes; y: plain")
    with _runs(out, isa, "x", "y"):
        out(f"vec_store_first(channels, vec_load(lanes, {isa.lanes}), load_i64(counts, plane))")
    return out.finish()


@contextmanager
def _runs(out: Writer, isa: Isa, planes: str, plain: str) -> Iterator[None]:
    """Loop over this thread's share of the pixels, some of a row at a time, and over planes: addresses of a plane's
    `lanes` and of their `channels`.
    """
    out(f"parts = (width + {PIXELS - 1}) // {PIXELS}")
    with out.share("images * rows * parts", "item"):
        out("line = item // parts", "image = line // rows", "row = line - image * rows")
        out(f"first = (item - line * parts) * {PIXELS}", f"stop = first + {PIXELS}", "if stop > width: stop = width")
        with out.block("for plane in range(count)"):
            out(f"source = {planes} + load_i64(planes, plane) + image * plane_image + row * plane_row")
            out(f"to = {plain} + line * width * pixel + load_i64(starts, plane)")
            with out.block("for i in range(first, stop)"):
                out(f"lanes = source + i * {isa.lanes * 4}", "channels = to + i * pixel")
                yield


# ---- arguments -----------------------------------------------------------------------------------------------------


def pack_arguments(step: Step, bound: Binding) -> Sequence[Word]:
    """Arguments of `emit_pack` and `emit_pack_runs`."""
    x, y = step.reads[0], step.writes[0]
    assert isinstance(x, Plain) and isinstance(y, Planes)
    g = bound.geometry(y)
    plane = g.height * g.width * 4
    slots = y.slots()
    if step.params["runs"]:
        return [bound.address(x), bound.arena, *_run_words(bound, y, g)]
    images, rows, width, image, row = _long_rows(g)
    return [
        bound.address(x), bound.arena, bound.table(g.planes), bound.table(np.where(slots >= 0, slots * plane, -1)),
        len(g.planes), images, rows, width, y.channels * plane, width * 4, image, row,
    ]  # fmt: skip


def unpack_arguments(step: Step, bound: Binding) -> Sequence[Word]:
    """Arguments of `emit_unpack` and `emit_unpack_runs`."""
    x, y = step.reads[0], step.writes[0]
    assert isinstance(x, Planes) and isinstance(y, Plain)
    g = bound.geometry(x)
    plane = g.height * g.width * 4
    if step.params["runs"]:
        return [bound.arena, bound.address(y), *_run_words(bound, x, g)]
    planes, slots = _listed(x)
    images, rows, width, image, row = _long_rows(g)
    return [
        bound.arena, bound.address(y), bound.table(g.planes[planes]),
        bound.table(np.where(slots >= 0, slots * plane, -1)), len(planes), images, rows, width, image, row,
        x.channels * plane, width * 4,
    ]  # fmt: skip


def _run_words(bound: Binding, value: Planes, g: Geometry) -> Sequence[Word]:
    slots = value.slots()
    tables = bound.table(g.planes), bound.table(slots[:, 0] * 4), bound.table((slots >= 0).sum(axis=1))
    flat = g.flat_rows and g.flat_images
    size = (1, 1, g.images * g.height * g.width) if flat else (g.images, g.height, g.width)
    return [*tables, len(g.planes), *size, g.image, g.row, value.channels * 4]


def _long_rows(g: Geometry) -> tuple[int, int, int, int, int]:
    """Images, rows, width, bytes from image to image and from row to row: one long row where there are no gaps."""
    if g.flat_rows:
        return g.images, 1, g.height * g.width, g.image, g.height * g.row
    return g.images, g.height, g.width, g.image, g.row


def _listed(x: Planes) -> tuple[Ints, Ints]:
    """Planes, and the channel in each of their lanes, -1 for none; a plane is listed again for channels that lie where
    others do.
    """
    seen: dict[tuple[int, int], int] = {}
    rows: dict[tuple[int, int], int] = {}
    slots: list[Ints] = []
    for channel, (plane, lane) in enumerate(x.places.tolist()):
        turn = seen[plane, lane] = seen.get((plane, lane), -1) + 1
        if (plane, turn) not in rows:
            rows[plane, turn] = len(slots)
            slots.append(np.full(x.lanes, -1, np.int64))
        slots[rows[plane, turn]][lane] = channel
    return np.array([plane for plane, _ in rows], np.int64), np.array(slots, np.int64)
