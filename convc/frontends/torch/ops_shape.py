"""Importers of operators that rearrange elements, and of those that make tensors of one value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from convc.dims import Dim, Size, concrete
from convc.errors import ModelError
from convc.frontends.onnx.known import at_least
from convc.frontends.scales import FIX_SIZES
from convc.frontends.torch.context import Call, Const, Importer
from convc.ir.graph import Node
from convc.ops.base import normal_axis, static_size
from convc.types import TensorType, broadcast_shapes, product

_FAR = (1 << 31) - 1
"""Slices end at this, or beyond, to mean the end of an axis."""


def _view(name: str) -> Importer:
    def convert(call: Call) -> Node:
        x = call.x
        return call.reshape(x, _completed(x.type.elements, call.sizes(name)))

    return convert


def _completed(total: Size, target: Sequence[Size]) -> tuple[Size, ...]:
    """`target` with -1 worked out."""
    rest = product([s for s in target if s != -1])
    return tuple(total // rest if s == -1 else s for s in target)


def _flatten(call: Call) -> Node:
    x = call.x
    start, end = call.axis("start_dim", x.type.rank), call.axis("end_dim", x.type.rank)
    shape = x.type.shape
    return call.reshape(x, (*shape[:start], product(shape[start : end + 1]), *shape[end + 1 :]))


def _unflatten(call: Call) -> Node:
    x = call.x
    axis, shape = call.axis("dim", x.type.rank), x.type.shape
    return call.reshape(x, (*shape[:axis], *_completed(shape[axis], call.sizes("sizes")), *shape[axis + 1 :]))


def _squeeze(call: Call) -> Node:
    """Axes of size 1 go, of those named where some are; a symbolic size stays."""
    x = call.x
    named = call.get("dim")
    axes = () if isinstance(named, list) and not named else call.axes("dim", x.type.rank)
    return call.reshape(x, (s for i, s in enumerate(x.type.shape) if i not in axes or s != 1))


def _unsqueeze(call: Call) -> Node:
    x = call.x
    axis = normal_axis(call.integer("dim"), x.type.rank + 1)
    return call.reshape(x, (*x.type.shape[:axis], 1, *x.type.shape[axis:]))


def _permute(call: Call) -> Node:
    x = call.x
    return call.transpose(x, [normal_axis(a, x.type.rank) for a in call.ints("dims", x.type.rank)])


def _exchange(first: str = "", second: str = "") -> Importer:
    """Two axes change places: the named arguments, or the last two."""

    def convert(call: Call) -> Node:
        x = call.x
        rank = x.type.rank
        a, b = (call.axis(first, rank), call.axis(second, rank)) if first else (max(rank - 2, 0), max(rank - 1, 0))
        perm = list(range(rank))
        if rank:
            perm[a], perm[b] = perm[b], perm[a]
        return call.transpose(x, perm)

    return convert


def _tensors(call: Call) -> list[Node]:
    nodes = [call.operand(value, call.dtype) for value in call.first]
    return [n for n in nodes if n.type.shape != (0,)] or nodes[:1]


def _cat(call: Call) -> Node:
    nodes = _tensors(call)
    return call.emit("concat", *nodes, axis=call.axis("dim", nodes[0].type.rank))


def _stack(call: Call) -> Node:
    nodes = _tensors(call)
    axis = normal_axis(call.integer("dim"), nodes[0].type.rank + 1)
    lifted = [call.reshape(n, (*n.type.shape[:axis], 1, *n.type.shape[axis:])) for n in nodes]
    return call.emit("concat", *lifted, axis=axis)


def cut(call: Call, x: Node, axis: int, start: int, stop: Size, step: int = 1) -> Node:
    """A slice of `x` along an axis; `x` itself where that is all of it."""
    if (start, stop, step) == (0, x.type.shape[axis], 1):
        return x
    return call.emit("slice", x, axis=axis, start=start, stop=stop, step=step)


def _parts(call: Call, sizes: Sequence[int]) -> list[Node]:
    x, parts, start = call.x, [], 0
    axis = call.axis("dim", x.type.rank)
    for size in sizes:
        parts.append(cut(call, x, axis, start, start + size))
        start += size
    return parts


def _split(call: Call) -> list[Node]:
    """Parts of one size, the last perhaps shorter; or parts of the sizes given."""
    x = call.x
    total = static_size(x.type.shape[call.axis("dim", x.type.rank)], "the axis that is split")
    given = next(call.get(n) for n in ("split_size", "split_sizes") if call.get(n) is not None)
    if isinstance(given, (list, tuple)):
        return _parts(call, [static_size(s, "a part") for s in given])
    each = max(1, static_size(given, "split_size"))
    return _parts(call, [min(each, total - i) for i in range(0, total, each)])


def _chunk(call: Call) -> list[Node]:
    x = call.x
    total = static_size(x.type.shape[call.axis("dim", x.type.rank)], "the axis that is split")
    each = max(1, -(-total // call.integer("chunks")))
    return _parts(call, [min(each, total - i) for i in range(0, total, each)])


def _unbind(call: Call) -> list[Node]:
    x = call.x
    axis = call.axis("dim", x.type.rank)
    count = static_size(x.type.shape[axis], "the axis that is taken apart")
    shape = [s for i, s in enumerate(x.type.shape) if i != axis]
    return [call.reshape(cut(call, x, axis, i, i + 1), shape) for i in range(count)]


def _select(call: Call) -> Node:
    x = call.x
    axis, index = call.axis("dim", x.type.rank), call.size("index")
    place = x.type.shape[axis] + index if isinstance(index, int) and index < 0 else index
    place = static_size(place, f"index {index} of axis {axis} of {x.type}")
    return call.reshape(cut(call, x, axis, place, place + 1), (s for i, s in enumerate(x.type.shape) if i != axis))


def slice_bounds(call: Call, x: Node) -> tuple[int, Size]:
    """Start and stop of a slice, with the arguments `dim`, `start` and `end`.

    Where sizes are symbolic they are taken to be at least what is cut.
    """
    axis = call.axis("dim", x.type.rank)
    size = x.type.shape[axis]
    start, end = call.get("start") or 0, call.get("end")
    start = size + start if isinstance(start, int) and start < 0 else start
    if isinstance(size, int) and isinstance(start, int):
        start = min(max(start, 0), size)
    start = static_size(start, f"the start of a slice of axis {axis} of {x.type}")
    if end is None or (isinstance(end, int) and end >= _FAR):
        end = size
    end = size + end if isinstance(end, int) and end < 0 else end
    stop = _smaller(call, end, size)
    return start, max(stop, start) if isinstance(stop, int) else stop


def _slice(call: Call) -> Node:
    x = call.x
    start, stop = slice_bounds(call, x)
    return cut(call, x, call.axis("dim", x.type.rank), start, stop, call.integer("step"))


def _smaller(call: Call, end: Size, size: Size) -> Size:
    fits = at_least(size, end)
    if fits is not None:
        return end if fits else size
    nominal = call.builder.nominal
    if concrete(size, nominal) < concrete(end, nominal) or concrete(end, nominal) < 0:
        raise ModelError(f"a slice ends at {end}, which may be beyond size {size}", hint=FIX_SIZES)
    return end


def _narrow(call: Call) -> Node:
    x = call.x
    axis, start, length = call.axis("dim", x.type.rank), call.integer("start"), call.size("length")
    start = start + static_size(x.type.shape[axis], "the axis") if start < 0 else start
    return cut(call, x, axis, start, start + length)


def _flip(call: Call) -> Node:
    x = call.x
    for axis in call.axes("dims", x.type.rank) if call.get("dims") else ():
        size = static_size(x.type.shape[axis], "the axis that is flipped")
        x = call.emit("slice", x, axis=axis, start=size - 1, stop=-1, step=-1)
    return x


def _roll(call: Call) -> Node:
    """The last `shift` elements come first, axis by axis."""
    x = call.x
    axes = call.get("dims")
    if not axes:
        raise ModelError("roll over all elements is not supported", hint="name the axes")
    for axis, shift in zip(call.axes("dims", x.type.rank), call.ints("shifts", len(axes)), strict=True):
        size = static_size(x.type.shape[axis], "the axis that is rolled")
        at = -shift % size
        if at:
            x = call.emit("concat", cut(call, x, axis, at, size), cut(call, x, axis, 0, at), axis=axis)
    return x


def _expand(call: Call) -> Node:
    """-1 keeps a size."""
    x = call.x
    old = x.type.shape
    target = call.sizes("size")
    before = len(target) - len(old)
    shape = tuple(old[i - before] if s == -1 else s for i, s in enumerate(target))
    return x if shape == old else call.emit("expand", x, shape=broadcast_shapes(old, shape))


def _expand_as(call: Call) -> Node:
    shape = call.node("other").type.shape
    return call.x if shape == call.x.type.shape else call.emit("expand", call.x, shape=shape)


def _repeat(name: str) -> Importer:
    """Each axis gets one of size 1 before it, which expands, and both become one."""

    def convert(call: Call) -> Node:
        x, repeats = call.x, call.sizes(name)
        rank = max(len(repeats), x.type.rank)
        repeats = (*(1,) * (rank - len(repeats)), *repeats)
        old = (*(1,) * (rank - x.type.rank), *x.type.shape)
        apart = call.reshape(x, (v for s in old for v in (1, s)))
        wide = call.emit("expand", apart, shape=tuple(v for s, r in zip(old, repeats, strict=True) for v in (r, s)))
        return call.reshape(wide, (s * r for s, r in zip(old, repeats, strict=True)))

    return convert


def _pad(mode: str = "") -> Importer:
    """Widths come from the last axis to the first, before and after."""

    def convert(call: Call) -> Node:
        x = call.x
        widths = [static_size(s, "padding") for s in call.sizes("pad" if call.get("pad") is not None else "padding")]
        before, after = [0] * x.type.rank, [0] * x.type.rank
        for i in range(len(widths) // 2):
            before[-1 - i], after[-1 - i] = widths[2 * i], widths[2 * i + 1]
        if not any(widths):
            return x
        kind = mode or {"replicate": "edge", "circular": "wrap"}.get(call.get("mode"), call.get("mode"))
        value = call.real("value", 0.0) if kind == "constant" else 0.0
        return call.emit("pad", x, before=tuple(before), after=tuple(after), mode=kind, value=value)

    return convert


def _filled(shape: str, value: float | None) -> Importer:
    """One value in the shape of an argument: a tensor's own, or one that is given."""

    def convert(call: Call) -> Node:
        given = call.get(shape)
        sizes = given.type.shape if isinstance(given, (Node, Const)) else call.sizes(shape)
        number = call.real("fill_value") if value is None else value
        kind = call.dtype
        if any(isinstance(s, Dim) for s in sizes):
            return call.emit("expand", call.scalar(number, kind), shape=sizes)
        lengths = [s for s in sizes if isinstance(s, int)]
        call.builder.limits.check_tensor(call.name, TensorType(kind, sizes), {})
        return call.constant(np.full(lengths, number, kind.numpy))

    return convert


def _fillers() -> dict[str, Importer]:
    values: dict[str, float | None] = {"zeros": 0.0, "ones": 1.0, "full": None, "empty": 0.0}
    found: dict[str, Importer] = {}
    for name, value in values.items():
        found |= {name: _filled("size", value), f"new_{name}": _filled("size", value)}
        found[f"{name}_like"] = _filled("self", value)
    return found


def _same(call: Call) -> Any:
    return call.first


REARRANGEMENTS: dict[str, Importer] = {
    "view": _view("size"),
    "_unsafe_view": _view("size"),
    "reshape": _view("shape"),
    "_reshape_alias": _view("size"),
    "view_as": lambda call: call.reshape(call.x, call.node("other").type.shape),
    "reshape_as": lambda call: call.reshape(call.x, call.node("other").type.shape),
    "flatten": _flatten,
    "unflatten": _unflatten,
    "squeeze": _squeeze,
    "unsqueeze": _unsqueeze,
    "permute": _permute,
    "transpose": _exchange("dim0", "dim1"),
    "swapaxes": _exchange("axis0", "axis1"),
    "t": _exchange(),
    "mT": _exchange(),
    "cat": _cat,
    "concat": _cat,
    "concatenate": _cat,
    "stack": _stack,
    "split": _split,
    "split_with_sizes": _split,
    "chunk": _chunk,
    "unbind": _unbind,
    "select": _select,
    "slice": _slice,
    "narrow": _narrow,
    "flip": _flip,
    "roll": _roll,
    "expand": _expand,
    "expand_as": _expand_as,
    "repeat": _repeat("repeats"),
    "tile": _repeat("dims"),
    "pad": _pad(),
    "constant_pad_nd": _pad("constant"),
    **{f"reflection_pad{n}d": _pad("reflect") for n in (1, 2, 3)},
    **{f"replication_pad{n}d": _pad("edge") for n in (1, 2, 3)},
    "_pad_circular": _pad("wrap"),
    **_fillers(),
}
"""By ATen operator."""
