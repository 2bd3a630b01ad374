"""Kernels that move elements: between layouts, and by index tables. Their lowering is shared by all targets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convc.backends.assemble import Assembler, Conversions, Tables
from convc.backends.axes import RANK, merge_tables
from convc.backends.cuda.plan import Argument, Launch, LaunchPlan, elements
from convc.backends.cuda.vectors import store
from convc.backends.cuda.writer import MEMORY, VECTOR, Writer
from convc.backends.program import Buffer, Plain, Planes, Step, Turned
from convc.dims import Size
from convc.errors import TargetError
from convc.types import Array, DType

Kernel = tuple[str, str]

# ---- emitters ------------------------------------------------------------------------------------------------------


def emit_pack(storage: str) -> Kernel:
    """Plain [N, C, H, W] to NHWC."""
    width = VECTOR[storage]
    arguments = [
        "x: f32*",
        f"y: {storage}*",
        "y_pitch: i32",
        "pixels: i32",
        "groups: i32",
        "channels: i32",
        "area: i32",
    ]
    out = Writer(f"{storage}_pack__cuda", arguments, "x: plain; y: planes")
    out.item("item", "pixels * groups")
    out.split("item", "pixels", "group", "pixel")
    out.split("pixel", "area", "n", "at")
    out(f"c = group * {width}", "from_ = (n * channels + c) * area + at")
    for j in range(width):
        out(f"r{j} = load_f32(ok & (c + {j} < channels), x, from_ + area * {j})")
    store(out, storage, "y", "pixel * y_pitch + c")
    return out.finish()


def emit_unpack(storage: str) -> Kernel:
    """Planes to plain [N, C, H, W]. `lanes` holds the lane of each channel."""
    arguments = [f"x: {storage}*", "x_pitch: i32", "y: f32*", "lanes: i32*", "total: i32", "channels: i32", "area: i32"]
    out = Writer(f"{storage}_unpack__cuda", arguments, "x: planes; y: plain")
    out.item("item", "total")
    out.split("item", "area", "row", "at")
    out.split("row", "channels", "n", "c")
    out("lane = load_i32(ok, lanes, c)")
    out(f"value = load_{MEMORY[storage]}(ok, x, (n * area + at) * x_pitch + lane)", "store_f32(ok, y, item, value)")
    return out.finish()


def emit_relayout(storage: str) -> Kernel:
    """Planes to planes. `lanes` holds the lane of x for every lane of y, -1 where y gets a zero."""
    width = VECTOR[storage]
    arguments = [f"x: {storage}*", "x_pitch: i32", f"y: {storage}*", "y_pitch: i32", "lanes: i32*"]
    arguments += ["pixels: i32", "groups: i32"]
    out = Writer(f"{storage}_relayout__cuda", arguments, "x, y: planes")
    out.item("item", "pixels * groups")
    out.split("item", "groups", "pixel", "group")
    out(f"c = group * {width}")
    for j in range(width):
        out(f"lane = load_i32(ok, lanes, c + {j})")
        out(f"r{j} = load_{MEMORY[storage]}(ok & (lane >= 0), x, pixel * x_pitch + lane)")
    store(out, storage, "y", "pixel * y_pitch + c")
    return out.finish()


def emit_index_copy(size: int) -> Kernel:
    """y[i...] = x[t0[i0] + t1[i1] + ...] for elements of `size` bytes; a negative table entry gives the fill value."""
    last = RANK - 1
    arguments = [*(f"{name}: b{size * 8}*" for name in ("x", "y", "fill")), "total: i32", "y_step: i32"]
    arguments += [*(f"n{i}: i32" for i in range(1, RANK)), *(f"t{i}: i32*" for i in range(RANK))]
    out = Writer(
        f"b{size * 8}_index_copy__cuda", arguments, "n: sizes; t: offsets in elements by axis; steps in elements"
    )
    out.item("item", "total")
    out.split("item", f"n{last}", "rest", "i")
    out("to = rest * y_step + i", f"at = load_i32(ok, t{last}, i)", "least = at")
    for axis in reversed(range(1, last)):
        out.split("rest", f"n{axis}", "rest_", "i")
        out("rest = rest_", f"o = load_i32(ok, t{axis}, i)", "at = at + o", "least = select(o < least, o, least)")
    out("o = load_i32(ok, t0, rest)", "at = at + o", "least = select(o < least, o, least)")
    out(f"move_b{size * 8}(ok & (least >= 0), y, to, x, at)", f"move_b{size * 8}(ok & (least < 0), y, to, fill, 0)")
    return out.finish()


def emit_gather(kind: str, size: int) -> Kernel:
    """y[o, j, i] = x[o, index[j], i]; negative indices count from the end, others are clamped."""
    arguments = [f"x: b{size * 8}*", f"index: {kind}*", f"y: b{size * 8}*"]
    arguments += ["total: i32", "axis: i32", "inner: i32", "count: i32"]
    out = Writer(f"b{size * 8}_gather_{kind}__cuda", arguments, "plain")
    out.item("item", "total")
    out.split("item", "inner", "row", "i")
    out.split("row", "count", "o", "j")
    out(f"k = index_{kind}(ok, index, j)", "k = select(k < 0, k + axis, k)", "k = select(k < 0, 0, k)")
    out("k = select(k < axis, k, axis - 1)", f"move_b{size * 8}(ok, y, item, x, (o * axis + k) * inner + i)")
    return out.finish()


# ---- steps ---------------------------------------------------------------------------------------------------------


def conversions(storage: str) -> Conversions:
    """The conversion steps of the CUDA target."""

    def pack(asm: Assembler, name: str, source: Plain, target: Planes) -> None:
        if source.type.dtype is not DType.F32:
            raise TargetError(f"%{name} is {source.type}, expected float32", hint="cast it to float32 in the model")
        asm.step(emit_pack(storage), "pack", name, (source,), (target,))

    def unpack(asm: Assembler, name: str, source: Planes | Turned, target: Plain) -> None:
        assert isinstance(source, Planes)
        asm.step(emit_unpack(storage), "unpack", name, (source,), (target,))

    def relayout(asm: Assembler, name: str, source: Planes, target: Planes) -> None:
        asm.step(emit_relayout(storage), "relayout", name, (source,), (target,))

    def index_copy(
        asm: Assembler, name: str, source: Plain, target: Plain, tables: Tables | None, fill: Array | None,
        part: tuple[Size, Size, Size] | None, joins: bool,
    ) -> None:  # fmt: skip
        value = fill if fill is not None else np.zeros(8, np.uint8)
        params = {"tables": tables, "part": part, "fill": asm.pack(f"{name}.fill", value)}
        kernel = emit_index_copy(source.type.dtype.bytes)
        asm.step(kernel, "index_copy", name, (source,), (target,), params, joins=joins)

    def gather(asm: Assembler, name: str, source: Plain, index: Plain, target: Plain, sizes: tuple[Size, ...]) -> None:
        kernel = emit_gather(str(index.type.dtype), source.type.dtype.bytes)
        asm.step(kernel, "gather", name, (source, index), (target,), {"sizes": sizes})

    def clear_halo(asm: Assembler, buffer: Buffer) -> Step:
        raise AssertionError("values on the GPU have no halo")

    return Conversions(pack, unpack, relayout, index_copy, gather, clear_halo)


# ---- launches ------------------------------------------------------------------------------------------------------


def _pair(step: Step) -> tuple[object, object]:
    return step.reads[0], step.writes[0]


def _vector(bound: LaunchPlan, planes: Planes) -> int:
    return 16 // bound.program.buffers[planes.planes[0][0]].element


def pack_launches(step: Step, bound: LaunchPlan) -> Sequence[Launch]:
    """Launches of `emit_pack`."""
    x, target = _pair(step)
    assert isinstance(x, Plain) and isinstance(target, Planes)
    y = bound.view(target)
    groups = -(-y.channels // _vector(bound, target))
    arguments: list[Argument] = [bound.at(x), y.pointer, y.pitch, y.pixels, groups, y.channels, y.area]
    return bound.items(step, y.pixels * groups, arguments)


def unpack_launches(step: Step, bound: LaunchPlan) -> Sequence[Launch]:
    """Launches of `emit_unpack`."""
    source, y = _pair(step)
    assert isinstance(source, Planes) and isinstance(y, Plain)
    x = bound.view(source, 0)
    total = x.pixels * x.channels
    lanes = bound.lanes(source.places[:, 1])
    return bound.items(step, total, [x.pointer, x.pitch, bound.at(y), lanes, total, x.channels, x.area])


def relayout_launches(step: Step, bound: LaunchPlan) -> Sequence[Launch]:
    """Launches of `emit_relayout`."""
    source, target = _pair(step)
    assert isinstance(source, Planes) and isinstance(target, Planes)
    x, y = bound.view(source, 0), bound.view(target)
    vector = _vector(bound, target)
    to = target.places[:, 1] - target.places[0, 1]
    groups = -(-(int(to.max()) + 1) // vector)
    lanes = np.full(groups * vector, -1, np.int64)
    lanes[to] = source.places[:, 1]
    arguments: list[Argument] = [x.pointer, x.pitch, y.pointer, y.pitch, bound.lanes(lanes), y.pixels, groups]
    return bound.items(step, y.pixels * groups, arguments)


def index_copy_launches(step: Step, bound: LaunchPlan) -> Sequence[Launch]:
    """Launches of `emit_index_copy`."""
    x, y = _pair(step)
    assert isinstance(x, Plain) and isinstance(y, Plain)
    make_tables, to, element = step.params["tables"], bound.at(y), x.type.dtype.bytes
    if make_tables is None:
        outer, start, every = (bound.size(s) for s in step.params["part"] or (1, 0, 0))
        length = elements(bound.shape(x)) // max(outer, 1)
        none = np.zeros(1, np.int64)
        sizes = [1] * (RANK - 2) + [outer, length]
        tables = [none] * (RANK - 2) + [np.arange(outer) * length, np.arange(length)]
        to, y_step = to.moved(start * element), every
    else:
        sizes, tables, _ = merge_tables(make_tables(bound), element)
        tables = [np.where(t >= 0, t // element, -1) for t in tables]
        y_step = sizes[-1]
    total = elements(sizes)
    arguments: list[Argument] = [bound.at(x), to, bound.packed(step.params["fill"]), total, y_step, *sizes[1:]]
    return bound.items(step, total, [*arguments, *(bound.lanes(t) for t in tables)])


def gather_launches(step: Step, bound: LaunchPlan) -> Sequence[Launch]:
    """Launches of `emit_gather`."""
    (x, index), y = step.reads, step.writes[0]
    assert isinstance(x, Plain) and isinstance(index, Plain) and isinstance(y, Plain)
    outer, axis, inner, count = (bound.size(s) for s in step.params["sizes"])
    total = outer * count * inner
    return bound.items(step, total, [bound.at(x), bound.at(index), bound.at(y), total, axis, inner, count])
