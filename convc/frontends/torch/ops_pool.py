"""Importers of pooling."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from convc.dims import Dim, Size
from convc.errors import ModelError
from convc.frontends.scales import FIX_SIZES
from convc.frontends.torch.context import Call, Importer
from convc.frontends.torch.planes import batched, both, lifted, lowered, on_planes, or_alone
from convc.ir.graph import Node
from convc.ops.base import static_size

Windows = Sequence[tuple[int, int]]


def _window(call: Call, count: int) -> dict[str, Any]:
    kernel = call.ints("kernel_size", count)
    padding = both(call.ints("padding", count, (0,)), 0)
    return {
        "kernel": both(kernel, 1), "stride": both(call.ints("stride", count, kernel), 1),
        "padding": (*padding, *padding), "ceil_mode": call.flag("ceil_mode"),
    }  # fmt: skip


def _max_pool(count: int) -> Importer:
    def convert(call: Call, x: Node) -> Node:
        dilation = both(call.ints("dilation", count, (1,)), 1)
        return call.emit("max_pool2d", x, dilation=dilation, **_window(call, count))

    return on_planes(count, convert)


def _avg_pool(count: int) -> Importer:
    def convert(call: Call, x: Node) -> Node:
        window = _window(call, count)
        divisor = call.get("divisor_override")
        if divisor is None:
            return call.emit("avg_pool2d", x, count_include_pad=call.flag("count_include_pad"), **window)
        if window["ceil_mode"]:
            raise ModelError("divisor_override with ceil_mode is not supported", hint="leave out one of them")
        mean = call.emit("avg_pool2d", x, count_include_pad=True, **window)
        elements = window["kernel"][0] * window["kernel"][1]
        return call.emit("mul", mean, call.scalar(elements / call.integer("divisor_override"), x.type.dtype))

    return on_planes(count, convert)


def _avg_pool3d(call: Call) -> Node:
    """A window over the first of three axes, as in local_response_norm; the others become one axis."""
    x = call.x
    kernel, padding = call.ints("kernel_size", 3), call.ints("padding", 3, (0,))
    stride = call.ints("stride", 3, kernel)
    if x.type.rank != 5 or (kernel[1:], padding[1:], stride[1:]) != ((1, 1), (0, 0), (1, 1)):
        raise ModelError(f"kernel_size={list(kernel)} of a volume is not supported", hint="pool over planes")
    n, c, depth, height, width = x.type.shape
    y = call.emit(
        "avg_pool2d", call.reshape(x, (n, c, depth, height * width)), kernel=(kernel[0], 1), stride=(stride[0], 1),
        padding=(padding[0], 0, padding[0], 0), ceil_mode=call.flag("ceil_mode"),
        count_include_pad=call.flag("count_include_pad"),
    )  # fmt: skip
    return call.reshape(y, (n, c, y.type.shape[2], height, width))


def _adaptive(op: str, whole: str, count: int) -> Importer:
    """Windows from floor(i * size / out) to ceil((i + 1) * size / out): a pooling where all have one size and one
    stride, else axis by axis.
    """

    def convert(call: Call) -> list[Node | None]:
        x = batched(call, count)
        given = call.get("output_size")
        wanted = list(given) if isinstance(given, (list, tuple)) else [given]
        wanted = wanted * count if len(wanted) == 1 else wanted
        plane = lifted(call, x)
        sizes = plane.type.shape[2:]
        out = [s if o is None else o for s, o in zip(sizes, both(wanted, 1), strict=True)]
        if out == list(sizes):
            return [x, None]
        if out == [1, 1]:
            return [lowered(call, call.emit(whole, plane), x.type.rank), None]
        windows = [_windows(s, static_size(o, "output_size")) for s, o in zip(sizes, out, strict=True)]
        even = [_even(w) for w in windows]
        if None not in even:
            kernel, stride = zip(*[one for one in even if one is not None], strict=True)
            return [lowered(call, call.emit(op, plane, kernel=kernel, stride=stride), x.type.rank), None]
        for axis, (every, one) in enumerate(zip(windows, even, strict=True)):
            if one is None:
                plane = _uneven(call, op, plane, axis + 2, every)
            elif one != (1, 1):
                kernel, stride = ((one[i], 1) if axis == 0 else (1, one[i]) for i in (0, 1))
                plane = call.emit(op, plane, kernel=kernel, stride=stride)
        return [lowered(call, plane, x.type.rank), None]

    return convert


def _windows(size: Size, out: int) -> Windows:
    """The windows, from and to, that give `out` elements of an axis of `size`."""
    if size == out:
        return [(i, i + 1) for i in range(out)]
    if isinstance(size, Dim):
        raise ModelError(f"adaptive pooling of symbolic size {size} to {out}", hint="pool to 1, or " + FIX_SIZES)
    return [(i * size // out, -(-(i + 1) * size // out)) for i in range(out)]


def _even(windows: Windows) -> tuple[int, int] | None:
    """Kernel and stride of windows of one size and one stride."""
    lengths = {stop - start for start, stop in windows}
    strides = {b[0] - a[0] for a, b in pairwise(windows)}
    if len(lengths) > 1 or len(strides) > 1 or 0 in strides:
        return None
    return lengths.pop(), strides.pop() if strides else 1


def _uneven(call: Call, op: str, x: Node, axis: int, windows: Windows) -> Node:
    """Windows of several sizes along an axis: of each size a pooling of stride 1, and of them all those that count."""
    pooled: list[Node] = []
    places: dict[tuple[int, int], int] = {}
    for length in sorted({stop - start for start, stop in windows}):
        kernel = (length, 1) if axis == 2 else (1, length)
        before = sum(static_size(one.type.shape[axis], "the axis that is pooled") for one in pooled)
        places |= {(a, b): before + a for a, b in windows if b - a == length}
        pooled.append(call.emit(op, x, kernel=kernel, stride=(1, 1)) if length > 1 else x)
    every = call.emit("concat", *pooled, axis=axis) if len(pooled) > 1 else pooled[0]
    index = np.array([places[window] for window in windows], np.int64)
    return call.emit("gather", every, call.constant(index, "starts"), axis=axis)


def _first(importer: Importer) -> Importer:
    """Of the values and their indices, the values."""

    def convert(call: Call) -> list[Node | None]:
        y = importer(call)
        assert isinstance(y, Node)
        return [y, None]

    return convert


def _only(importer: Importer) -> Importer:
    def convert(call: Call) -> Any:
        values = importer(call)
        return values[0] if isinstance(values, list) else values

    return convert


_ADAPTIVE_AVG = [_only(_adaptive("avg_pool2d", "global_avg_pool", count)) for count in (1, 2)]
_ADAPTIVE_MAX = [_adaptive("max_pool2d", "global_max_pool", count) for count in (1, 2)]

POOLS: dict[str, Importer] = {
    name: or_alone(count, importer)
    for count, importers in (
        (1, {
            "max_pool1d": _max_pool(1), "max_pool1d_with_indices": _first(_max_pool(1)), "avg_pool1d": _avg_pool(1),
            "adaptive_avg_pool1d": _ADAPTIVE_AVG[0], "adaptive_max_pool1d": _ADAPTIVE_MAX[0],
        }),
        (2, {
            "max_pool2d": _max_pool(2), "max_pool2d_with_indices": _first(_max_pool(2)), "avg_pool2d": _avg_pool(2),
            "adaptive_avg_pool2d": _ADAPTIVE_AVG[1], "_adaptive_avg_pool2d": _ADAPTIVE_AVG[1],
            "adaptive_max_pool2d": _ADAPTIVE_MAX[1],
        }),
        (3, {"avg_pool3d": _avg_pool3d}),
    )
    for name, importer in importers.items()
}  # fmt: skip
"""By ATen operator."""
