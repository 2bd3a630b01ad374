"""Importers of operators that rearrange elements, and of those that make constants."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from convc.dims import Dim, Size, concrete
from convc.errors import ModelError
from convc.frontends.onnx import evaluate
from convc.frontends.onnx.context import Call, Importer, listed
from convc.frontends.onnx.known import Known, at_least
from convc.frontends.scales import FIX_SIZES
from convc.ir.graph import Node
from convc.ops.base import normal_axis
from convc.types import DType, Shape, broadcast_shapes, product

_FAR = (1 << 31) - 1
"""Slices end at this, or beyond, to mean the end of an axis."""


def _reshape(call: Call) -> Node:
    x, target = call.node(0), call.sizes(1, "shape")
    if not call.flag("allowzero"):
        if any(s == 0 and i >= x.type.rank for i, s in enumerate(target)):
            raise ModelError(f"shape {listed(target)} copies an axis that {x.type} lacks", hint="0 copies a size")
        target = tuple(x.type.shape[i] if s == 0 else s for i, s in enumerate(target))
    shape = _completed(x.type.elements, target)
    batch = x.type.shape[0] if x.type.rank else 1
    may_rebatch = call.builder.reshaped or isinstance(batch, Dim)
    if shape is None and may_rebatch and target and isinstance(target[0], int) and target[0] > 0:
        shape = _completed(x.type.elements, (batch, *target[1:]))
    if shape is None:
        raise ModelError(
            f"%{x.name}: {x.type} with {x.type.elements} elements does not become {listed(target)}",
            hint="a size is baked into the model; " + FIX_SIZES,
        )
    return call.emit("reshape", x, shape=shape)


def _completed(total: Size, target: Sequence[Size]) -> Shape | None:
    """`target` with -1 worked out; None where the elements are not as many."""
    if any(isinstance(s, int) and s < -1 for s in target) or sum(s == -1 for s in target) > 1:
        raise ModelError(f"shape {listed(target)} is not valid", hint="use sizes, 0 to copy, and one -1 at most")
    rest = product([s for s in target if s != -1])
    if -1 not in target:
        return tuple(target) if rest == total else None
    if rest == 0:
        return None
    missing = total // rest
    if missing * rest != total:
        return None
    return tuple(missing if s == -1 else s for s in target)


def _flatten(call: Call) -> Node:
    x = call.node(0)
    rank, axis = x.type.rank, call.integer("axis", 1)
    if not -rank <= axis <= rank:
        raise ModelError(f"attribute axis={axis} is out of range for {x.type}", hint=f"use {-rank} to {rank}")
    axis = axis + rank if axis < 0 else axis
    return call.emit("reshape", x, shape=(product(x.type.shape[:axis]), product(x.type.shape[axis:])))


def _squeeze(call: Call) -> Node:
    """Without axes, all axes of size 1 go; a symbolic size stays."""
    x = call.node(0)
    axes = call.axes(1, x.type.rank)
    if axes is None:
        axes = tuple(i for i, s in enumerate(x.type.shape) if s == 1)
    for axis in axes:
        if x.type.shape[axis] != 1:
            raise ModelError(f"axis {axis} of %{x.name}: {x.type} is not 1", hint=FIX_SIZES)
    return call.emit("reshape", x, shape=tuple(s for i, s in enumerate(x.type.shape) if i not in axes))


def _unsqueeze(call: Call) -> Node:
    x = call.node(0)
    return call.emit("reshape", x, shape=tuple(evaluate.unsqueezed(call, x.type.shape)))


def _transpose(call: Call) -> Node:
    x = call.node(0)
    return call.emit("transpose", x, perm=call.ints_attr("perm", range(x.type.rank)[::-1]))


def _concat(call: Call) -> Node:
    nodes = call.nodes()
    return call.emit("concat", *nodes, axis=normal_axis(call.integer("axis"), nodes[0].type.rank))


def _split(call: Call) -> list[Node | Known | None]:
    """A slice an output."""
    x = call.node(0)
    axis = normal_axis(call.integer("axis", 0), x.type.rank)
    parts: list[Node | Known | None] = []
    start = 0
    for size in evaluate.split_sizes(call, x.type.shape[axis]):
        parts.append(call.emit("slice", x, axis=axis, start=start, stop=start + size))
        start += size
    return parts


def _slice(call: Call) -> Node:
    x = call.node(0)
    for axis, start, end, step in evaluate.slices(call, x.type.rank):
        size = x.type.shape[axis]
        bounds = _backward(size, start, end) if step < 0 else _forward(call, size, start, end)
        if (*bounds, step) != (0, size, 1):
            x = call.emit("slice", x, axis=axis, start=bounds[0], stop=bounds[1], step=step)
    return x if x.name in call.made else call.emit("identity", x)


def _backward(size: Size, start: Size, end: Size) -> tuple[int, int]:
    if isinstance(size, Dim) or isinstance(start, Dim) or isinstance(end, Dim):
        raise ModelError(f"a slice from {start} to {end} runs backwards over size {size}", hint=FIX_SIZES)
    start = start + size if start < 0 else start
    end = end + size if end < 0 else end
    first, last = min(max(start, -1), size - 1), min(max(end, -1), size - 1)
    return (first, last) if first > last else (0, 0)


def _forward(call: Call, size: Size, start: Size, end: Size) -> tuple[int, Size]:
    """Start and stop within the axis. Where sizes are symbolic they are taken to be at least what is cut."""
    if isinstance(start, int) and start < 0:
        start = size + start
    if isinstance(size, int) and isinstance(start, int):
        start = min(max(start, 0), size)
    if isinstance(start, Dim):
        raise ModelError(f"a slice starts at {start} of size {size}", hint=FIX_SIZES)
    if isinstance(end, int):
        end = size if end >= _FAR else size + end if end < 0 else end
    stop = _smaller(call, end, size)
    if isinstance(stop, int):
        stop = max(stop, start)
    return start, stop


def _smaller(call: Call, end: Size, size: Size) -> Size:
    fits = at_least(size, end)
    if fits is not None:
        return end if fits else size
    nominal = call.builder.nominal
    if concrete(size, nominal) < concrete(end, nominal) or concrete(end, nominal) < 0:
        raise ModelError(f"a slice ends at {end}, which may be beyond size {size}", hint=FIX_SIZES)
    return end


def _expand(call: Call) -> Node:
    x = call.node(0)
    return call.emit("expand", x, shape=broadcast_shapes(x.type.shape, call.sizes(1, "shape")))


def _tile(call: Call) -> Node:
    """Each axis gets one of size 1 before it, which expands, and both become one."""
    x, repeats = call.node(0), call.sizes(1, "repeats")
    if len(repeats) != x.type.rank:
        raise ModelError(f"repeats={listed(repeats)} do not fit {x.type}", hint="give one for each axis")
    apart = tuple(v for s in x.type.shape for v in (1, s))
    wide = tuple(v for s, r in zip(x.type.shape, repeats, strict=True) for v in (r, s))
    shape = tuple(s * r for s, r in zip(x.type.shape, repeats, strict=True))
    return call.emit("reshape", call.emit("expand", call.emit("reshape", x, shape=apart), shape=wide), shape=shape)


def _pad(call: Call) -> Node:
    """Pads and value are attributes before opset 11; axes came with opset 18."""
    x, mode = call.node(0), call.text("mode", "constant")
    if mode not in {"constant", "reflect", "edge", "wrap"}:
        raise ModelError(f"attribute mode={mode} is not supported", hint="use constant, reflect, edge or wrap")
    if call.opset < 11:
        pads, value = call.ints_attr("pads") or (), call.real("value", 0.0)
        axes = tuple(range(x.type.rank))
    else:
        pads = call.ints(1, "pads")
        value = call.scalar(2, "constant_value") if call.has(2) else 0.0
        axes = call.axes(3, x.type.rank) or tuple(range(x.type.rank))
    if len(pads) != 2 * len(axes):
        raise ModelError(f"pads={listed(pads)} do not fit {len(axes)} axes", hint="give all befores, then all afters")
    before, after = [0] * x.type.rank, [0] * x.type.rank
    for i, axis in enumerate(axes):
        before[axis], after[axis] = pads[i], pads[i + len(axes)]
    return call.emit("pad", x, before=tuple(before), after=tuple(after), mode=mode, value=value)


def _constant_of_shape(call: Call) -> Node | Known:
    """One value in a known shape; symbolic shapes expand it."""
    value, shape = evaluate.fill_value(call), call.sizes(0, "shape")
    if any(isinstance(s, int) and s < 0 for s in shape):
        raise ModelError(f"shape {listed(shape)} has a negative size", hint="check the exporter")
    sizes = [s for s in shape if isinstance(s, int)]
    if len(sizes) < len(shape):
        return call.emit("expand", call.constant(value.reshape(())), shape=shape)
    call.builder.charge(f"the constant {call.output} of shape {listed(shape)}", math.prod(sizes), DType.of(value))
    return Known.of(np.full(sizes, value.reshape(())))


def _range(call: Call) -> Known:
    operands = []
    for index, what in enumerate(("start", "limit", "delta")):
        known = call.known(index)
        if known is None or known.symbolic:
            raise ModelError(f"{what} ({call.proto.input[index]}) is not fixed", hint=FIX_SIZES)
        operands.append(known)
    count = evaluate.range_count(operands)
    call.builder.charge(f"the range {call.output}", count, operands[0].dtype)
    return Known.of(evaluate.range_array(operands, count))


def _constant(call: Call) -> Known:
    return Known.of(evaluate.constant_array(call))


REARRANGEMENTS: dict[str, Importer] = {
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Expand": _expand,
    "Tile": _tile,
    "Pad": _pad,
    "Shape": evaluate.shape_of,
    "Size": evaluate.size_of,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
}
"""By ONNX operator."""
