"""Kernels between the caller's layout and planes: plain [N, C, H, W] to channels in lanes, and back.

Squares of lanes x lanes are turned in registers. Where a map is one pixel, channels lie in lanes already, and runs of
them are copied: rows of a matrix that a linear layer multiplies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from convc.backends.assemble import Assembler
from convc.backends.binding import Binding, Geometry, Word
from convc.backends.cpu.isa import Isa
from convc.backends.cpu.writer import Writer
from convc.backends.program import Ints, Plain, Planes, Step
from convc.errors import TargetError
from convc.types import DType

ARGUMENTS = [
    "x", "y", "planes", "channels", "count", "images", "rows", "width", "x_image", "x_row", "y_image", "y_row",
]  # fmt: skip
RUN_ARGUMENTS = ["x", "y", "planes", "starts", "counts", "count", "images", "x_image", "y_image"]
IMAGES = 16
"""One-pixel maps of which a plane's are copied before the next plane's: streams of few lines at a time are slow."""


def append_pack(asm: Assembler, isa: Isa, name: str, source: Plain, target: Planes) -> None:
    """Append the step from plain to planes."""
    if source.type.dtype is not DType.F32:
        raise TargetError(f"%{name} is {source.type}, expected float32", hint="cast it to float32 in the model")
    runs = _in_runs(target)
    kernel = emit_pack_runs(isa) if runs else emit_pack(isa, target.lanes)
    asm.step(kernel, "pack", name, (source,), (target,), {"runs": runs})


def append_unpack(asm: Assembler, isa: Isa, name: str, source: Planes, target: Plain) -> None:
    """Append the step from planes to plain."""
    runs = _in_runs(source)
    kernel = emit_unpack_runs(isa) if runs else emit_unpack(isa)
    asm.step(kernel, "unpack", name, (source,), (target,), {"runs": runs})


def _in_runs(value: Planes) -> bool:
    """Whether maps are one pixel, and each plane holds channels that follow each other from its first lane on."""
    slots = value.slots()
    steps = np.diff(slots, axis=1)
    in_turn = ((steps == 1) | (slots[:, 1:] < 0)).all() and (slots[:, 0] >= 0).all()
    each_once = int((slots >= 0).sum()) == value.channels
    return bool(value.height == value.width == 1 and value.lanes > 1 and in_turn and each_once)


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
    """`starts`, `counts`: byte offset and number of the channels of each plane."""
    out = Writer(f"f32_pack_runs__{isa.name}", RUN_ARGUMENTS, "x: plain; y: base of planes")
    with _runs(out):
        value = f"vec_load_first(x + image * x_image + load_i64(starts, plane), load_i64(counts, plane), {isa.lanes})"
        out(f"vec_store(y + load_i64(planes, plane) + image * y_image, {value})")
    return out.finish()


def emit_unpack_runs(isa: Isa) -> tuple[str, str]:
    """`starts`, `counts`: byte offset and number of the channels of each plane."""
    out = Writer(f"f32_unpack_runs__{isa.name}", RUN_ARGUMENTS, "x: base of planes; y: plain")
    with _runs(out):
        out(f"value = vec_load(x + load_i64(planes, plane) + image * x_image, {isa.lanes})")
        out("vec_store_first(y + image * y_image + load_i64(starts, plane), value, load_i64(counts, plane))")
    return out.finish()


@contextmanager
def _runs(out: Writer) -> Iterator[None]:
    """Loop over this thread's share of the images, some at a time, over `plane` and `image`."""
    with out.share(f"((images + {IMAGES - 1}) // {IMAGES})", "some"):
        out(f"first = some * {IMAGES}", f"stop = first + {IMAGES}", "if stop > images: stop = images")
        with out.block("for plane in range(count)"), out.block("for image in range(first, stop)"):
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
        return _run_words(bound, bound.address(x), bound.arena, g.planes, slots, g, y.channels * 4, g.image)
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
        return _run_words(bound, bound.arena, bound.address(y), g.planes, x.slots(), g, g.image, x.channels * 4)
    planes, slots = _listed(x)
    images, rows, width, image, row = _long_rows(g)
    return [
        bound.arena, bound.address(y), bound.table(g.planes[planes]),
        bound.table(np.where(slots >= 0, slots * plane, -1)), len(planes), images, rows, width, image, row,
        x.channels * plane, width * 4,
    ]  # fmt: skip


def _run_words(
    bound: Binding, x: Word, y: Word, planes: Ints, slots: Ints, g: Geometry, x_image: int, y_image: int
) -> Sequence[Word]:
    counts = (slots >= 0).sum(axis=1)
    tables = bound.table(planes), bound.table(slots[:, 0] * 4), bound.table(counts)
    return [x, y, *tables, len(planes), g.images, x_image, y_image]


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
