"""Kernels that move elements: between layouts, by index tables, and zeros into halos."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convc.backends.assemble import Assembler, Conversions, Tables
from convc.backends.axes import RANK, merge_tables
from convc.backends.binding import Binding, Word
from convc.backends.cpu.isa import Isa
from convc.backends.cpu.pack import append_pack, append_unpack
from convc.backends.cpu.writer import Writer
from convc.backends.memory import strides_of
from convc.backends.program import Buffer, Plain, Planes, Step, Turned
from convc.dims import Size
from convc.types import Array

Kernel = tuple[str, str]

# ---- emitters ------------------------------------------------------------------------------------------------------


def emit_relayout(isa: Isa, lanes: int) -> Kernel:
    """Planes to planes with the channels elsewhere. `places` holds the offset for every [plane, lane], -1 for none."""
    arguments = [
        "x",
        "y",
        "planes",
        "places",
        "count",
        "images",
        "rows",
        "width",
        "x_image",
        "x_row",
        "y_image",
        "y_row",
    ]
    out = Writer(f"f32_relayout_{lanes}lanes__{isa.name}", arguments, "x, y: base of planes")
    with out.share_lines():
        out(
            "to = y + load_i64(planes, plane) + image * y_image + row * y_row",
            "source = x + image * x_image + row * x_row",
        )
        with out.block(f"for lane in range({lanes})"):
            out(f"at = load_i64(places, plane * {lanes} + lane)")
            with out.block("if at >= 0"), out.block("for i in range(width)"):
                out(f"put_f32(to + i * {lanes * 4} + lane * 4, get_f32(source + at + i * {lanes * 4}))")
            with out.block("else"), out.block("for i in range(width)"):
                out(f"put_f32(to + i * {lanes * 4} + lane * 4, zero)")
    return _with_zero(out)


def _with_zero(out: Writer) -> Kernel:
    name, source = out.finish()
    head, _, body = source.partition("\n")
    return name, f"{head}\n    zero = vec_lane(vec_load_first(a, 0, 4), 0)\n{body}"


def emit_clear_halo(isa: Isa) -> Kernel:
    """Zero what is ahead of the first plane of a buffer, and between rows, images and planes."""
    arguments = ["y", "planes", "count", "images", "rows", "row_bytes", "image", "width_bytes", "plane", "ahead"]
    out = Writer(f"f32_clear_halo__{isa.name}", arguments, "y: base of planes; planes: offsets of pixels; bytes")
    with out.share_lines("rows", "n", "row", plane="index"):
        out("start = y + load_i64(planes, index)", "end = start + (n + 1) * image")
        with out.block("if n == images - 1"):
            out("end = start + plane")
        with out.block("if row < rows - 1"):
            out("end = start + n * image + (row + 1) * row_bytes")
        out("at = start + n * image + row * row_bytes + width_bytes", "zero_bytes(at, end - at)")
        with out.block("if index + n + row == 0"):
            out("zero_bytes(start - ahead, ahead)")
    return out.finish()


def emit_index_copy(isa: Isa, size: int) -> Kernel:
    """y[i...] = x[t0[i0] + t1[i1] + ...] for elements of `size` bytes; a negative table entry gives the fill value."""
    letters = [f"n{i}" for i in range(RANK)] + [f"t{i}" for i in range(RANK)]
    out = Writer(
        f"b{size * 8}_index_copy__{isa.name}",
        ["x", "y", "fill", "run", "y_step", *letters],
        "n: sizes; t: byte offsets by axis",
    )
    kind, last, before = f"u{size * 8}", RANK - 1, range(RANK - 1)
    total = " * ".join(f"n{axis}" for axis in before)
    out(f"j = {total} * thread // threads")
    for axis in reversed(before):  # where this thread's first item lies; the others' places are found by counting
        out(f"size = n{axis} if n{axis} > 0 else 1", "q = j // size", f"i{axis} = j - q * size", "j = q")
    out("at = 0", "hole = 0", "moved = 1")
    with out.share(total, "item"):
        with out.block("if moved == 1"):
            out("at = 0", "hole = 0", "moved = 0")
            for axis in range(RANK - 2):
                out(f"o = load_i64(t{axis}, i{axis})", "at += o", "if o < 0: hole = 1")
        out(f"o = load_i64(t{RANK - 2}, i{RANK - 2})", "source = x + at + o", "to = y + item * y_step")
        with out.block("if hole == 1 or o < 0"), out.block(f"for i in range(n{last})"):
            out(f"put_{kind}(to + i * {size}, get_{kind}(fill))")
        with out.block("elif run == 1"):
            out(f"source += load_i64(t{last}, 0)", f"end = to + n{last} * {size}")
            for step in (64, 16):  # of constant size: moves without a call
                with out.block(f"while to + {step} <= end"):
                    out(f"copy_bytes(to, source, {step})", f"to += {step}", f"source += {step}")
            with out.block("while to < end"):
                out(f"put_{kind}(to, get_{kind}(source))", f"to += {size}", f"source += {size}")
        with out.block("else"), out.block(f"for i in range(n{last})"):
            out(f"o = load_i64(t{last}, i)", f"put_{kind}(to + i * {size}, get_{kind}(fill if o < 0 else source + o))")
        _count(out, RANK - 2)
    return out.finish()


def _count(out: Writer, axis: int) -> None:
    """The next item's indices: the last one counts first."""
    out(f"i{axis} += 1")
    with out.block(f"if i{axis} == n{axis}"):
        out(f"i{axis} = 0", "moved = 1")
        if axis:
            _count(out, axis - 1)


def emit_gather(isa: Isa, kind: str) -> tuple[str, str]:
    """y[o, j] = x[o, index[j]] for runs of `run` bytes; negative indices count from the end, others are clamped."""
    out = Writer(f"gather_{kind}__{isa.name}", ["x", "index", "y", "outer", "axis", "run", "count"], "plain")
    width = {"8": 1, "6": 2, "2": 4, "4": 8}[kind[-1]]
    with out.share("outer * count", "item"):
        out("o = item // count", f"k = whole(get_{kind}(index + (item - o * count) * {width}))", "if k < 0: k += axis")
        out("if k < 0: k = 0", "if k >= axis: k = axis - 1")
        out("copy_bytes(y + item * run, x + (o * axis + k) * run, run)")
    return out.finish()


# ---- steps ---------------------------------------------------------------------------------------------------------


def conversions(isa: Isa) -> Conversions:
    """The conversion steps of the CPU target."""

    def pack(asm: Assembler, name: str, source: Plain, target: Planes) -> None:
        append_pack(asm, isa, name, source, target)

    def unpack(asm: Assembler, name: str, source: Planes | Turned, target: Plain) -> None:
        append_unpack(asm, isa, name, source, target)

    def relayout(asm: Assembler, name: str, source: Planes, target: Planes) -> None:
        asm.step(emit_relayout(isa, target.lanes), "relayout", name, (source,), (target,))

    def index_copy(
        asm: Assembler,
        name: str,
        source: Plain,
        target: Plain,
        tables: Tables | None,
        fill: Array | None,
        part: tuple[Size, Size, Size] | None,
        joins: bool,
    ) -> None:
        append_index_copy(asm, isa, name, source, target, tables, fill=fill, part=part, joins=joins)

    def gather(asm: Assembler, name: str, source: Plain, index: Plain, target: Plain, sizes: tuple[Size, ...]) -> None:
        params = {"sizes": sizes, "bytes": source.type.dtype.bytes}
        asm.step(emit_gather(isa, str(index.type.dtype)), "gather", name, (source, index), (target,), params)

    def clear_halo(asm: Assembler, buffer: Buffer) -> Step:
        kernel = emit_clear_halo(isa)
        asm.kernels[kernel[0]] = kernel[1]
        batch, _, height, width = buffer.type.shape
        planes = tuple((buffer.index, i) for i in range(buffer.count))
        places = np.zeros((0, 2), np.int64)
        layout = Planes(buffer.name, buffer.lanes, batch, height, width, planes, places)
        return Step(kernel[0], "clear_halo", buffer.name, (), (layout,), {}, joins=True)

    return Conversions(pack, unpack, relayout, index_copy, gather, clear_halo)


def append_index_copy(
    asm: Assembler,
    isa: Isa,
    node: str,
    x: Plain,
    y: Plain,
    tables: Tables | None = None,
    *,
    fill: Array | None = None,
    part: tuple[Size, Size, Size] | None = None,
    joins: bool = False,
) -> None:
    """Append an index copy. `tables` gives the byte offsets by output axis once sizes are known; None copies all.

    `part` = (outer, start, step) copies x as `outer` runs, to `start` elements in y and every `step` elements.
    """
    size = x.type.dtype.bytes
    params = {
        "tables": tables,
        "part": part,
        "fill": asm.pack(f"{node}.fill", fill if fill is not None else np.zeros(8, np.uint8)),
    }
    asm.step(emit_index_copy(isa, size), "index_copy", node, (x,), (y,), params, joins=joins)


# ---- arguments -----------------------------------------------------------------------------------------------------


def _pair(step: Step) -> tuple[object, object]:
    return step.reads[0], step.writes[0]


def relayout_arguments(step: Step, bound: Binding) -> Sequence[Word]:
    """Arguments of `emit_relayout`."""
    x, y = _pair(step)
    assert isinstance(x, Planes) and isinstance(y, Planes)
    source, target = bound.geometry(x), bound.geometry(y)
    offsets = source.planes[x.places[:, 0]] + x.places[:, 1] * 4
    slots = y.slots()
    places = np.where(slots >= 0, offsets[np.maximum(slots, 0)], -1)
    return [
        bound.arena, bound.arena, bound.table(target.planes), bound.table(places), len(target.planes), target.images,
        target.height, target.width, source.image, source.row, target.image, target.row,
    ]  # fmt: skip


def clear_halo_arguments(step: Step, bound: Binding) -> Sequence[Word]:
    """Arguments of `emit_clear_halo`."""
    planes = step.writes[0]
    assert isinstance(planes, Planes)
    g = bound.geometry(planes)
    buffer = planes.planes[0][0]
    strides = strides_of(bound.program.buffers[buffer], bound.program.sides(buffer, bound.sizes), bound.sizes)
    count = 0 if bound.is_clean(step) else len(g.planes)
    return [
        bound.arena, bound.table(g.planes), count, g.images, g.height, g.row, g.image, g.width * g.pixel, strides.plane,
        strides.ahead,
    ]  # fmt: skip


def index_copy_arguments(step: Step, bound: Binding) -> Sequence[Word]:
    """Arguments of `emit_index_copy`."""
    x, y = _pair(step)
    assert isinstance(x, Plain) and isinstance(y, Plain)
    element = x.type.dtype.bytes
    make_tables, to = step.params["tables"], bound.address(y)
    if make_tables is None:
        outer, start, every = (bound.size(s) for s in step.params["part"] or (1, 0, 0))
        total = int(np.prod(bound.shape(x), dtype=np.int64))
        length = total // max(outer, 1)
        runs = np.arange(outer, dtype=np.int64) * length * element
        none = np.zeros(1, np.int64)
        sizes, merged, run = [1] * (RANK - 2) + [outer, length], [none] * (RANK - 2) + [runs, none], True
        to, y_step = to + start * element, every * element
    else:
        sizes, merged, run = merge_tables(make_tables(bound), element)
        y_step = sizes[-1] * element
    return [
        bound.address(x), to, bound.constant(step.params["fill"]), int(run), y_step, *sizes,
        *(bound.table(t) for t in merged),
    ]  # fmt: skip


def gather_arguments(step: Step, bound: Binding) -> Sequence[Word]:
    """Arguments of `emit_gather`."""
    (x, index), y = step.reads, step.writes[0]
    assert isinstance(x, Plain) and isinstance(index, Plain) and isinstance(y, Plain)
    outer, axis, inner, count = (bound.size(s) for s in step.params["sizes"])
    return [bound.address(x), bound.address(index), bound.address(y), outer, axis, inner * step.params["bytes"], count]
