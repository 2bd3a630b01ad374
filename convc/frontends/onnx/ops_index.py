"""Importers of operators that pick elements by index, and of those that put elements in their places."""

from __future__ import annotations

import math

import numpy as np

from convc.errors import ModelError
from convc.frontends.onnx.context import Call, Importer
from convc.frontends.places import Columns, Ints, flat_places
from convc.ir.graph import Node
from convc.ops.base import normal_axis, static_size


def _gather(call: Call) -> Node:
    x = call.node(0)
    return call.emit("gather", x, call.node(1), axis=normal_axis(call.integer("axis", 0), x.type.rank))


def _gather_nd(call: Call) -> Node:
    """Constant places in the first axes, which become one."""
    x = call.node(0)
    places, count = _places(call, x, call.integer("batch_dims", 0))
    return call.emit("gather", _joined(call, x, count), call.constant(places), axis=0)


def _scatter_nd(call: Call) -> Node:
    """Updates behind the data, and of both what is wanted at each constant place; of several for one place the last."""
    x, updates = call.node(0), call.node(2)
    reduction = call.text("reduction", "none")
    if reduction != "none":
        raise ModelError(f"attribute reduction={reduction} is not supported", hint="use none")
    places, count = _places(call, x, 0)
    rest = x.type.shape[count:]
    size = static_size(_joined_size(x, count), "the axes that are written to")
    chosen = np.arange(size, dtype=np.int64)
    chosen[places.reshape(-1)] = size + np.arange(places.size)
    behind = call.emit("reshape", updates, shape=(places.size, *rest))
    both = call.emit("concat", _joined(call, x, count), behind, axis=0)
    return call.emit("reshape", call.emit("gather", both, call.constant(chosen), axis=0), shape=x.type.shape)


def _places(call: Call, x: Node, batch: int) -> tuple[Ints, int]:
    """Places along the first axes as one, from indices [..., k] into k axes behind `batch` ones; how many axes."""
    indices = call.array(1, "indices").astype(np.int64)
    if not indices.ndim or batch + indices.shape[-1] > x.type.rank or batch >= indices.ndim:
        raise ModelError(f"indices of shape {list(indices.shape)} do not fit {x.type}", hint="check the exporter")
    count = batch + indices.shape[-1]
    sizes = [static_size(size, "an axis that is indexed") for size in x.type.shape[:count]]
    leading = np.indices(indices.shape[:-1])[:batch]
    places = [*leading, *np.moveaxis(indices, -1, 0)]
    return flat_places(places, sizes), count


def _joined_size(x: Node, count: int) -> int:
    return math.prod(static_size(size, "an axis that is indexed") for size in x.type.shape[:count])


def _joined(call: Call, x: Node, count: int) -> Node:
    """The first axes as one."""
    if count == 1:
        return x
    return call.emit("reshape", x, shape=(_joined_size(x, count), *x.type.shape[count:]))


def _col2im(call: Call) -> Node:
    """Columns added where their windows meet: a transposed convolution whose kernels hold one tap each."""
    x = call.node(0)
    image, kernel = call.ints(1, "image_shape"), call.ints(2, "block_shape")
    if len(image) != 2 or len(kernel) != 2 or x.type.rank != 3:
        raise ModelError(f"{x.type} to an image of {len(image)} axes is not supported", hint="use images of two axes")
    dilation, stride = (call.ints_attr(name, (1, 1)) or () for name in ("dilations", "strides"))
    padding = call.ints_attr("pads", (0, 0, 0, 0)) or ()
    channels = static_size(x.type.shape[1], "the channels of columns")
    back = Columns.of(channels, x.type.dtype, image, kernel, stride, padding, dilation)
    return call.emit(
        "conv_transpose2d", call.emit("reshape", x, shape=(*x.type.shape[:2], *back.rows)), call.constant(back.kernels),
        stride=stride, padding=padding, dilation=dilation, groups=channels // math.prod(kernel),
        output_padding=back.output_padding,
    )  # fmt: skip


INDEXING: dict[str, Importer] = {"Gather": _gather, "GatherND": _gather_nd, "ScatterND": _scatter_nd, "Col2Im": _col2im}
"""By ONNX operator."""
