"""Elementwise kernels: on planes 16 bytes a thread, on plain float32 tensors, and on other element types."""

from __future__ import annotations

from collections.abc import Sequence

from convc.backends.axes import broadcast_strides, merge_axes
from convc.backends.calls import Call, Operand, named, reference
from convc.backends.cuda import formulas
from convc.backends.cuda.plan import Argument, Launch, LaunchPlan, Pointer, elements
from convc.backends.cuda.vectors import constant_lanes, keep_channels, load, store
from convc.backends.cuda.writer import MEMORY, VECTOR, Writer
from convc.backends.program import Plain, Planes, Step
from convc.errors import TargetError

RANK = 6
"""Axes that a map of plain tensors loops over."""


# ---- emitters ------------------------------------------------------------------------------------------------------


def emit_planes(storage: str, calls: Sequence[Call], ways: str) -> tuple[str, str]:
    """The last of the calls on x0, x1, ... in planes.

    `ways` has a letter an operand: v like the result, b broadcast along some axes, s one lane for all (broadcast, too),
    c a constant a channel, k a constant a pixel and channel.
    """
    width = VECTOR[storage]
    arguments = [
        f"y: {storage}*",
        "y_pitch: i32",
        "pixels: i32",
        "groups: i32",
        "channels: i32",
        "area: i32",
        "row: i32",
    ]
    for i, way in enumerate(ways):
        strides = {"v": ("pitch",), "c": (), "k": ("row", "pixel")}.get(way, ("image", "row", "pixel"))
        kind = "f32" if way in "ck" else storage
        arguments += [f"x{i}: {kind}*", *(f"{name}{i}: i32" for name in strides)]
    out = Writer(
        f"{storage}_map_{named(calls, ways)}__cuda",
        [*arguments, *_parameters(calls)],
        "groups of 16 bytes a pixel; pitches and strides in elements",
    )
    out.item("item", "pixels * groups")
    out.split("item", "groups", "pixel", "group")
    out(f"c = group * {width}")
    if set(ways) & set("bsk"):
        out.split("pixel", "area", "n", "at")
        out.split("at", "row", "h", "w")
    for i, way in enumerate(ways):
        if way == "v":
            load(out, storage, f"x{i}", f"pixel * pitch{i} + c", f"v{i}")
        elif way == "c":
            constant_lanes(out, width, f"x{i}", "c", f"v{i}")
        elif way == "k":
            constant_lanes(out, width, f"x{i}", f"h * row{i} + w * pixel{i} + c", f"v{i}")
        else:
            where = f"n * image{i} + h * row{i} + w * pixel{i}"
            if way == "b":
                load(out, storage, f"x{i}", f"{where} + c", f"v{i}")
            else:
                out(f"one{i} = load_{MEMORY[storage]}(ok, x{i}, {where})")
                out(*(f"v{i}_{j} = one{i}" for j in range(width)))
    for j in range(width):
        _write_calls(out, calls, f"_{j}", f"r{j}")
    keep_channels(out, width, "c", "channels")
    store(out, storage, "y", "pixel * y_pitch + c")
    return out.finish()


def _parameters(calls: Sequence[Call]) -> list[str]:
    return formulas.parameters(sum(call.params for call in calls))


def _write_calls(out: Writer, calls: Sequence[Call], end: str, result: str) -> None:
    """The calls on names that end in `end`; `result` is what the last one gives."""
    first = 0
    for index, call in enumerate(calls):
        name = f"r{index}{end}" if index < len(calls) - 1 else result
        operands = (f"{reference(arg)}{end}" for arg in call.args)
        out(f"{name} = {formulas.apply(call.function, *operands, first=first)}")
        first += call.params


def emit_plain(calls: Sequence[Call], ways: str) -> tuple[str, str]:
    """The last of the calls on x0, x1, ..., plain float32 tensors of up to 6 axes."""
    operands = len(ways)
    arguments = ["y: f32*", "total: i32", *(f"d{axis}: i32" for axis in range(1, RANK))]
    for i in range(operands):
        arguments += [f"x{i}: f32*", *(f"s{i}_{axis}: i32" for axis in range(RANK))]
    out = Writer(
        f"f32_map_plain_{named(calls, ways)}__cuda", [*arguments, *_parameters(calls)],
        "d: sizes; s: strides in elements by operand and axis",
    )  # fmt: skip
    out.item("item", "total")
    _strided(out, operands)
    out(*(f"v{i} = load_f32(ok, x{i}, at{i})" for i in range(operands)))
    _write_calls(out, calls, "", "result")
    out("store_f32(ok, y, item, result)")
    return out.finish()


def emit_scalar(op: str, inputs: Sequence[str], output: str) -> tuple[str, str]:
    """Y = op(x0, x1, ...) element by element, for any element types; `compute_` primitives say what each does."""
    arguments = [f"y: {output}*", "total: i32", *(f"d{axis}: i32" for axis in range(1, RANK))]
    for i, kind in enumerate(inputs):
        arguments += [f"x{i}: {kind}*", *(f"s{i}_{axis}: i32" for axis in range(RANK))]
    out = Writer(f"{output}_scalar_{op}_{'_'.join(inputs)}__cuda", arguments, "d: sizes; s: strides in elements")
    out.item("item", "total")
    _strided(out, len(inputs))
    out(*(f"v{i} = read_{kind}(ok, x{i}, at{i})" for i, kind in enumerate(inputs)))
    out(f"write_{output}(ok, y, item, scalar_{op}({', '.join(f'v{i}' for i in range(len(inputs)))}))")
    return out.finish()


def _strided(out: Writer, count: int) -> None:
    """Indices at0, at1, ... of operands at the flat index `item`."""
    out("rest = item", *(f"at{i} = i32(0)" for i in range(count)))
    for axis in reversed(range(1, RANK)):
        out.split("rest", f"d{axis}", "rest_", "o")
        out("rest = rest_", *(f"at{i} = at{i} + o * s{i}_{axis}" for i in range(count)))
    out(*(f"at{i} = at{i} + rest * s{i}_0" for i in range(count)))


# ---- launches ------------------------------------------------------------------------------------------------------


def planes_launches(step: Step, bound: LaunchPlan) -> Sequence[Launch]:
    """Launches of `emit_planes`."""
    target = step.writes[0]
    assert isinstance(target, Planes)
    y = bound.view(target)
    buffer = bound.program.buffers[target.planes[0][0]]
    groups = -(-y.channels // (16 // buffer.element))
    arguments: list[Argument] = [y.pointer, y.pitch, y.pixels, groups, y.channels, y.area, y.width]
    for operand, way in zip(step.params["operands"], step.params["ways"], strict=True):
        if isinstance(operand, Operand):
            height, width, lanes = operand.shape
            arguments.append(bound.packed(operand.packed))
            if way == "k":
                arguments += [width * lanes if height > 1 else 0, lanes if width > 1 else 0]
            continue
        source = step.reads[operand]
        assert isinstance(source, Planes)
        x = bound.view(source)
        if way == "v":
            arguments += [x.pointer, x.pitch]
        else:
            image = x.area * x.pitch if x.images > 1 else 0
            row = x.width * x.pitch if x.height > 1 else 0
            arguments += [x.pointer, image, row, x.pitch if x.width > 1 else 0]
    return bound.items(step, y.pixels * groups, [*arguments, *step.params["floats"]])


def plain_launches(step: Step, bound: LaunchPlan) -> Sequence[Launch]:
    """Launches of `emit_plain` and `emit_scalar`."""
    y = step.writes[0]
    assert isinstance(y, Plain)
    shape = bound.shape(y)
    bases: list[Pointer] = []
    strides: list[list[int]] = []
    for operand in step.params["operands"]:
        if isinstance(operand, Operand):
            bases.append(bound.packed(operand.packed))
            strides.append(broadcast_strides(operand.shape, shape, 1))
            continue
        source = step.reads[operand]
        assert isinstance(source, Plain)
        bases.append(bound.at(source))
        strides.append(broadcast_strides(bound.shape(source), shape, 1))
    sizes, merged = merge_axes(shape, strides)
    if len(sizes) > RANK:
        raise TargetError(f"%{step.node}: broadcasting over {len(sizes)} separate axes", hint=f"at most {RANK}")
    pad = RANK - len(sizes)
    sizes = [1] * pad + sizes
    arguments: list[Argument] = [bound.at(y), elements(shape), *sizes[1:]]
    for base, one in zip(bases, merged, strict=True):
        arguments += [base, *[0] * pad, *one]
    return bound.items(step, elements(shape), [*arguments, *step.params["floats"]])
