"""Operators that move elements: views and channel picks where the layout allows, index copies elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from convc.backends.assemble import Assembler, Tables
from convc.backends.axes import axis_taps, element_strides
from convc.backends.binding import Binding
from convc.backends.program import Flattened, Ints, Plain
from convc.dims import concrete
from convc.errors import TargetError
from convc.ir.graph import Node
from convc.types import DType, product


def lower_view(asm: Assembler, node: Node) -> None:
    """Identity and dropout: another name for every layout."""
    for layout in tuple(asm.layouts(node.operands[0])) or (asm.plain(node.operands[0]),):
        asm.define(replace(layout, name=node.name))


def lower_reshape(asm: Assembler, node: Node) -> None:
    """A view: of plain tensors always; of planes between [N, C, 1, 1] and [N, C]; flattened where linears read it."""
    name = node.operands[0]
    old, new = asm.graph[name].type, node.type
    if asm.has_planes(name):
        pixel = (1, 1)
        same = {old.rank, new.rank} == {2, 4} and old.shape[:2] == new.shape[:2]
        if same and (old.shape[2:] or pixel) == pixel and (new.shape[2:] or pixel) == pixel:
            asm.define(replace(asm.planes(name), name=node.name))
            return
        users = asm.graph.users(node.name)
        fixed = old.rank == 4 and new.rank == 2 and old.shape[0] == new.shape[0]
        if (
            fixed
            and all(isinstance(s, int) for s in old.shape[2:])
            and users
            and all(u.op == "linear" and u.inputs[0] == node.name for u in users)
            and not asm.graph.is_output(node.name)
        ):
            asm.define(Flattened(node.name, asm.planes(name), new))
            return
    asm.define(Plain(node.name, asm.plain(name).buffer, new))


def _pick(asm: Assembler, node: Node, channels: Ints) -> bool:
    """Define the node as some channels of its input, each once, where that lies in planes."""
    name = node.operands[0]
    if not asm.has_planes(name) or node.type.rank not in {2, 4} or len(np.unique(channels)) < len(channels):
        return False
    asm.define(asm.planes(name).pick(node.name, channels))
    return True


def _axis_tables(asm: Assembler, node: Node, indices: dict[int, object]) -> Tables:
    """Tables of a copy that keeps the axes, with a function (size of the axis) -> indices for some of them."""
    source = asm.graph[node.operands[0]].type

    def tables(bound: Binding) -> Sequence[Ints]:
        shape = source.concrete(bound.sizes)
        steps = element_strides(shape, source.dtype.bytes)
        found = []
        for axis, (size, step) in enumerate(zip(shape, steps, strict=True)):
            make = indices.get(axis)
            index = np.arange(size) if make is None else make(bound, size)  # type: ignore[operator]
            found.append(np.where(index >= 0, index * step, -1).astype(np.int64))
        return found

    return tables


def _copy(asm: Assembler, node: Node, tables: Tables, fill: object = None) -> None:
    x = asm.plain(node.operands[0])
    y = asm.new_plain(node.name, node.type)
    value = None if fill is None else np.full(8, fill, node.type.dtype.numpy)
    asm.index_copy(node.name, x, y, tables, fill=value)
    asm.define(y)


def lower_slice(asm: Assembler, node: Node) -> None:
    """Channels of planes are picked; anything else is copied."""
    axis = node.attrs["axis"] % node.type.rank
    start, step = node.attrs["start"], node.attrs["step"]
    count = node.type.shape[axis]
    picked = axis == 1 and isinstance(count, int) and _pick(asm, node, start + step * np.arange(count))
    if picked:
        return
    _copy(asm, node, _axis_tables(asm, node, {axis: lambda bound, size: sliced(node, bound)}))


def sliced(node: Node, bound: Binding) -> Ints:
    """Indices of a slice along its axis."""
    count = bound.size(node.type.shape[node.attrs["axis"] % node.type.rank])
    found: Ints = bound.size(node.attrs["start"]) + node.attrs["step"] * np.arange(count)
    return found


def lower_gather(asm: Assembler, node: Node) -> None:
    """Constant indices are a pick or a copy by index; computed ones are clamped to the axis and looked up."""
    source, indices = (asm.graph[name] for name in node.operands)
    axis = node.attrs["axis"] % source.type.rank
    if indices.op == "constant" and indices.type.rank <= 1:
        index = indices.array.astype(np.int64).reshape(-1)
        size = source.type.shape[axis]
        if isinstance(size, int):
            index = np.where(index < 0, index + size, index)
            if index.size and not (index.min() >= 0 and index.max() < size):
                raise TargetError(f"{node}: indices reach beyond axis {axis} of {source.type}", hint="mend the indices")
            if axis == 1 and indices.type.rank == 1 and _pick(asm, node, index):
                return
        take = lambda bound, size: np.where(index < 0, index + size, index)  # noqa: E731
        _copy(asm, node, _axis_tables(asm, node, {axis: take}))
        return
    x, i = asm.plain(node.operands[0]), asm.plain(node.operands[1])
    y = asm.new_plain(node.name, node.type)
    shape = source.type.shape
    sizes = (product(shape[:axis]), shape[axis], product(shape[axis + 1 :]), indices.type.elements)
    asm.gather(node.name, x, i, y, sizes)
    asm.define(y)


def lower_shuffle(asm: Assembler, node: Node) -> None:
    """channel_shuffle: output channel j * groups + g is input channel g * (C / groups) + j."""
    channels, groups = concrete(node.type.shape[1], {}), node.attrs["groups"]
    order = np.arange(channels).reshape(groups, -1).T.reshape(-1)
    if not _pick(asm, node, order):
        _copy(asm, node, _axis_tables(asm, node, {1: lambda bound, size: order}))


def lower_concat(asm: Assembler, node: Node) -> None:
    """Along channels a list of planes; elsewhere copies into one buffer."""
    axis = node.attrs["axis"] % node.type.rank
    names = node.operands
    channels = axis == 1 and node.type.rank in {2, 4} and node.type.dtype is DType.F32
    if (
        channels
        and any(asm.has_planes(n) for n in names)
        and all(isinstance(asm.graph[n].type.shape[1], int) for n in names)
    ):
        asm.define(asm.join(node.name, [asm.planes(n) for n in names]))
        return
    parts = [asm.plain(n) for n in names]
    y = asm.new_plain(node.name, node.type)
    outer, inner = product(node.type.shape[:axis]), product(node.type.shape[axis + 1 :])
    every = node.type.shape[axis] * inner
    start = every - every
    for index, part in enumerate(parts):
        joins = index < len(parts) - 1
        asm.index_copy(node.name, part, y, part=(outer, start, every), joins=joins)
        start = start + part.type.shape[axis] * inner
    asm.define(y)


def lower_transpose(asm: Assembler, node: Node) -> None:
    """Transpose."""
    source, perm = asm.graph[node.operands[0]].type, node.attrs["perm"]

    def tables(bound: Binding) -> Sequence[Ints]:
        shape = source.concrete(bound.sizes)
        steps = element_strides(shape, source.dtype.bytes)
        return [np.arange(shape[axis]) * steps[axis] for axis in perm]

    _copy(asm, node, tables)


def lower_expand(asm: Assembler, node: Node) -> None:
    """Expand."""
    source, result = asm.graph[node.operands[0]].type, node.type

    def tables(bound: Binding) -> Sequence[Ints]:
        target = result.concrete(bound.sizes)
        shape = (*[1] * (len(target) - source.rank), *source.concrete(bound.sizes))
        steps = element_strides(shape, source.dtype.bytes)
        return [
            np.arange(new) * (step if old == new else 0) for old, new, step in zip(shape, target, steps, strict=True)
        ]

    _copy(asm, node, tables)


def lower_pad(asm: Assembler, node: Node) -> None:
    """pad: by index."""
    changed = [a for a in range(node.type.rank) if node.attrs["before"][a] or node.attrs["after"][a]]
    axes: dict[int, object] = {axis: lambda bound, size, axis=axis: padded(node, axis, size) for axis in changed}
    _copy(asm, node, _axis_tables(asm, node, axes), fill=node.attrs["value"])


def padded(node: Node, axis: int, size: int) -> Ints:
    """Indices of a pad along an axis by NumPy's own rule, -1 where the fill value goes; negative padding crops."""
    before, after, mode = node.attrs["before"][axis], node.attrs["after"][axis], node.attrs["mode"]
    kept = np.arange(max(-before, 0), size - max(-after, 0))
    width = (max(before, 0), max(after, 0))
    if mode == "constant":
        return np.pad(kept, width, constant_values=-1)
    return np.pad(kept, width, mode=mode)


def lower_depth(asm: Assembler, node: Node) -> None:
    """depth_to_space and space_to_depth as a transposition of six axes."""
    block = node.attrs["block"]
    source = asm.graph[node.operands[0]].type
    deep = node.op == "depth_to_space"
    first = deep and node.attrs["mode"] == "DCR"

    def tables(bound: Binding) -> Sequence[Ints]:
        images, channels, height, width = source.concrete(bound.sizes)
        steps = element_strides((images, channels, height, width), source.dtype.bytes)
        blocks = np.arange(block)
        if deep:
            out = channels // (block * block)
            outer, inner = (1, out) if first else (block * block, 1)
            return [
                np.arange(images) * steps[0], np.arange(out) * outer * steps[1], np.arange(height) * steps[2],
                blocks * block * inner * steps[1], np.arange(width) * steps[3], blocks * inner * steps[1],
            ]  # fmt: skip
        return [
            np.arange(images) * steps[0], blocks * steps[2], blocks * steps[3], np.arange(channels) * steps[1],
            np.arange(height // block) * block * steps[2], np.arange(width // block) * block * steps[3],
        ]  # fmt: skip

    _copy(asm, node, tables)


def lower_nearest(asm: Assembler, node: Node) -> None:
    """Resize in mode nearest over any axes, by index."""
    source = asm.graph[node.operands[0]].type

    def along(axis: int) -> object:
        size = node.type.shape[axis]
        return lambda bound, old: axis_taps(old, bound.size(size), axis, dict(node.attrs))[0][:, 0]

    _copy(asm, node, _axis_tables(asm, node, {axis: along(axis) for axis in range(source.rank)}))


Lower = Callable[[Assembler, Node], None]

LOWER: dict[str, Lower] = {
    "identity": lower_view, "dropout": lower_view, "reshape": lower_reshape, "slice": lower_slice,
    "gather": lower_gather, "channel_shuffle": lower_shuffle, "concat": lower_concat, "transpose": lower_transpose,
    "expand": lower_expand, "pad": lower_pad, "depth_to_space": lower_depth, "space_to_depth": lower_depth,
}  # fmt: skip
"""Operators that only move elements, the same for every target."""
