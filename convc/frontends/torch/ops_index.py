"""Importers of operators that pick elements by index, and of those that put elements into another tensor's place."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from convc.errors import ModelError
from convc.frontends.places import Columns, Ints, flat_places
from convc.frontends.torch.context import Call, Const, Importer
from convc.frontends.torch.ops_shape import cut, slice_bounds
from convc.ir.graph import Node
from convc.ops.base import static_size
from convc.types import DType, broadcast_shapes

_ONE_AXIS = "index one axis by integers, or several that lie side by side by constants"


def _take(call: Call, x: Node, index: Ints, axis: int) -> Node:
    return call.emit("gather", x, call.constant(index, "index"), axis=axis)


def _index_select(call: Call) -> Node:
    x = call.x
    return call.emit("gather", x, call.node("index"), axis=call.axis("dim", x.type.rank))


def _index(call: Call) -> Node:
    """Integers along one axis, or constant ones along several axes side by side."""
    x, indices = call.x, call.get("indices")
    axes = [i for i, value in enumerate(indices) if value is not None]
    masks = any(indices[i].type.dtype is DType.BOOL for i in axes)
    if len(axes) == 1 and not masks:
        return call.emit("gather", x, call.materialise(indices[axes[0]]), axis=axes[0])
    known = [indices[i].tensor for i in axes if isinstance(indices[i], Const)]
    if masks or len(known) != len(axes) or axes != list(range(axes[0], axes[-1] + 1)):
        raise ModelError("indexing by a mask, or by several computed tensors, is not supported", hint=_ONE_AXIS)
    sizes = [static_size(x.type.shape[axis], "an axis that is indexed") for axis in axes]
    flat = flat_places(np.broadcast_arrays(*(tensor.cpu().numpy() for tensor in known)), sizes)
    shape = x.type.shape
    merged = call.reshape(x, (*shape[: axes[0]], math.prod(sizes), *shape[axes[-1] + 1 :]))
    return _take(call, merged, flat, axes[0])


def _embedding(call: Call) -> Node:
    return call.emit("gather", call.x, call.node("indices"), axis=0)


def _starts(size: int, window: int, step: int) -> Ints:
    return np.arange(0, max(size - window, -step) + 1, step, dtype=np.int64)


def _unfold(call: Call) -> Node:
    """Windows of `size` elements along an axis, every `step`: they become the last axis."""
    x = call.x
    axis, window, step = call.axis("dimension", x.type.rank), call.integer("size"), call.integer("step")
    starts = _starts(static_size(x.type.shape[axis], "the axis that is unfolded"), window, step)
    y = _take(call, x, starts[:, None] + np.arange(window), axis)
    rest = [i for i in range(y.type.rank) if i != axis + 1]
    return call.transpose(y, [*rest, axis + 1])


def _im2col(call: Call) -> Node:
    """The windows of a convolution as columns: [N, C, H, W] to [N, C kh kw, windows], also without N."""
    x = call.x
    kernel, dilation = call.ints("kernel_size", 2), call.ints("dilation", 2)
    padding, stride = call.ints("padding", 2), call.ints("stride", 2)
    shape = x.type.shape
    y = call.reshape(x, (1, *shape)) if len(shape) == 3 else x
    if any(padding):
        y = call.emit("pad", y, before=(0, 0, *padding), after=(0, 0, *padding), mode="constant", value=0.0)
    for axis, taps, apart, step in ((3, kernel[1], dilation[1], stride[1]), (2, kernel[0], dilation[0], stride[0])):
        size = static_size(y.type.shape[axis], "an axis that is unfolded")
        y = _take(call, y, np.arange(taps)[:, None] * apart + _starts(size, (taps - 1) * apart + 1, step), axis)
    n, c, kh, rows, kw, columns = y.type.shape  # [N, C, kh, rows, kw, columns]
    y = call.reshape(call.transpose(y, (0, 1, 2, 4, 3, 5)), (n, c * kh * kw, rows * columns))
    return call.reshape(y, y.type.shape[1:]) if len(shape) == 3 else y


def _col2im(call: Call) -> Node:
    """Columns put back where `_im2col` takes them, sums where they meet: a transposed convolution whose kernels hold
    one tap each, [N, C kh kw, windows] to [N, C, H, W], also without N.
    """
    x = call.x
    kernel, dilation = call.ints("kernel_size", 2), call.ints("dilation", 2)
    padding, stride = call.ints("padding", 2), call.ints("stride", 2)
    size = call.ints("output_size", 2)
    padding = (*padding, *padding)
    shape = x.type.shape if x.type.rank == 3 else (1, *x.type.shape)
    channels = static_size(shape[1], "the channels of columns")
    back = Columns.of(channels, x.type.dtype, size, kernel, stride, padding, dilation)
    y = call.emit(
        "conv_transpose2d", call.reshape(x, (*shape[:2], *back.rows)), call.constant(back.kernels, "taps"),
        stride=stride, padding=padding, dilation=dilation, groups=channels // math.prod(kernel),
        output_padding=back.output_padding,
    )  # fmt: skip
    return call.reshape(y, y.type.shape[1:]) if x.type.rank == 2 else y


def _copy(call: Call) -> Node:
    """What is written into a tensor whole, in its shape and element type."""
    target, source = call.first.type, call.cast(call.node("src"), call.dtype)
    if source.type.shape == target.shape:
        return source
    return call.emit("expand", source, shape=broadcast_shapes(source.type.shape, target.shape))


def _slice_scatter(call: Call) -> Node:
    """A tensor with a slice of it replaced: what lies before, the new part, what lies behind."""
    x = call.x
    axis, (start, stop) = call.axis("dim", x.type.rank), slice_bounds(call, x)
    if call.integer("step") != 1:
        raise ModelError("writing to every other element is not supported", hint="write to a slice without a step")
    part = call.cast(call.node("src"), x.type.dtype)
    shape = (*x.type.shape[:axis], stop - start, *x.type.shape[axis + 1 :])
    part = part if part.type.shape == shape else call.emit("expand", part, shape=shape)
    return _between(call, x, axis, start, stop, part)


def _select_scatter(call: Call) -> Node:
    """A tensor with one place along an axis replaced."""
    x = call.x
    axis, index = call.axis("dim", x.type.rank), call.integer("index")
    place = index + static_size(x.type.shape[axis], "the axis") if index < 0 else index
    shape = (*x.type.shape[:axis], 1, *x.type.shape[axis + 1 :])
    part = call.reshape(call.cast(call.node("src"), x.type.dtype), shape)
    return _between(call, x, axis, place, place + 1, part)


def _between(call: Call, x: Node, axis: int, start: int, stop: Any, part: Node) -> Node:
    size = x.type.shape[axis]
    parts = [cut(call, x, axis, 0, start)] if start > 0 else []
    parts.append(part)
    parts += [cut(call, x, axis, stop, size)] if stop != size else []
    return call.emit("concat", *parts, axis=axis) if len(parts) > 1 else part


INDEXING: dict[str, Importer] = {
    "index_select": _index_select,
    "index": _index,
    "embedding": _embedding,
    "unfold": _unfold,
    "unfold_copy": _unfold,
    "im2col": _im2col,
    "col2im": _col2im,
    "copy": _copy,
    "slice_scatter": _slice_scatter,
    "select_scatter": _select_scatter,
}
"""By ATen operator."""
