"""Pooling over windows and over whole planes."""

from __future__ import annotations

import numpy as np

from convc.errors import ModelError
from convc.ops.base import Arrays, Attr, Attrs, Operator, Types, expect_rank, given, static_size
from convc.ops.check import expect_counts, expect_float, expect_nonzero, expect_numeric, present, wide
from convc.ops.window import DILATION, WINDOW_ATTRS, check_window, output_plane, taps
from convc.types import Array, TensorType

_ATTRS = (
    Attr("kernel", "ints", doc="height, width"),
    *WINDOW_ATTRS,
    DILATION,
    Attr("ceil_mode", "bool", False, "round the output size up"),
)


def _infer_pool(types: Types, attrs: Attrs) -> TensorType:
    x = given(types, 0)
    expect_rank(x, 4, "x")
    expect_numeric(x, "x")
    expect_counts(attrs, "kernel", 2, 1)
    check_window(attrs)
    expect_nonzero(x, (1, 2, 3), "x")
    for i in range(4):
        extent = attrs["dilation"][i % 2] * (attrs["kernel"][i % 2] - 1) + 1
        if attrs["padding"][i] >= extent:
            raise ModelError(
                f"padding={attrs['padding']} must be below the window's extent {extent}",
                hint="a window of padding alone has no value; pad less, or use a pad node",
            )
    plane = output_plane((x.shape[2], x.shape[3]), attrs["kernel"], attrs, attrs["ceil_mode"])
    return TensorType(x.dtype, (*x.shape[:2], *plane))


def _infer_avg_pool(types: Types, attrs: Attrs) -> TensorType:
    expect_float(given(types, 0), "x")
    return _infer_pool(types, attrs)


def _out_plane(x: Array, attrs: Attrs) -> tuple[int, int]:
    sizes = output_plane((x.shape[2], x.shape[3]), attrs["kernel"], attrs, attrs["ceil_mode"])
    return static_size(sizes[0], "height"), static_size(sizes[1], "width")


def _evaluate_max_pool(arrays: Arrays, attrs: Attrs) -> Array:
    x = present(arrays, 0)
    out = _out_plane(x, attrs)
    least = -np.inf if np.issubdtype(x.dtype, np.floating) else np.iinfo(x.dtype).min
    y = np.full((*x.shape[:2], *out), least, x.dtype)
    for _, _, tap in taps(x, attrs["kernel"], attrs, out, least):
        np.maximum(y, tap, out=y)
    return y


def _count(size: int, out: int, axis: int, attrs: Attrs) -> Array:
    """How many elements of each window count along one axis; those beyond the padding (ceil_mode) never do."""
    before, after = attrs["padding"][axis], attrs["padding"][axis + 2]
    positions = (
        np.arange(out)[:, None] * attrs["stride"][axis] - before
        + np.arange(attrs["kernel"][axis]) * attrs["dilation"][axis]
    )  # fmt: skip
    if not attrs["count_include_pad"]:
        before = after = 0
    counts: Array = ((positions >= -before) & (positions < size + after)).sum(1)
    return counts


def _evaluate_avg_pool(arrays: Arrays, attrs: Attrs) -> Array:
    x = present(arrays, 0)
    out = _out_plane(x, attrs)
    total = np.zeros((*x.shape[:2], *out), x.dtype)
    for _, _, tap in taps(x, attrs["kernel"], attrs, out, 0.0):
        total += tap
    counts = _count(x.shape[2], out[0], 0, attrs)[:, None] * _count(x.shape[3], out[1], 1, attrs)
    mean: Array = total / counts.astype(x.dtype)
    return mean


def _infer_global(types: Types, attrs: Attrs) -> TensorType:
    x = given(types, 0)
    expect_rank(x, 4, "x")
    expect_nonzero(x, (1, 2, 3), "x")
    return TensorType(x.dtype, (*x.shape[:2], 1, 1))


def _infer_global_avg(types: Types, attrs: Attrs) -> TensorType:
    expect_float(given(types, 0), "x")
    return _infer_global(types, attrs)


def _evaluate_global_avg(arrays: Arrays, attrs: Attrs) -> Array:
    return np.asarray(present(arrays, 0).mean((2, 3), keepdims=True))


def _evaluate_global_max(arrays: Arrays, attrs: Attrs) -> Array:
    return np.asarray(present(arrays, 0).max((2, 3), keepdims=True))


OPERATORS: tuple[Operator, ...] = (
    Operator("max_pool2d", ("x",), _infer_pool, _evaluate_max_pool, _ATTRS,
             "Largest element of each window; padding never wins, NaN does."),
    Operator("avg_pool2d", ("x",), _infer_avg_pool, wide(_evaluate_avg_pool),
             (*_ATTRS, Attr("count_include_pad", "bool", False, "divide by the window with its padding")),
             "Mean of each window."),
    Operator("global_avg_pool", ("x",), _infer_global_avg, wide(_evaluate_global_avg), (),
             "Mean of each plane: [N, C, H, W] -> [N, C, 1, 1]."),
    Operator("global_max_pool", ("x",), _infer_global, _evaluate_global_max, (),
             "Largest element of each plane: [N, C, H, W] -> [N, C, 1, 1]."),
)  # fmt: skip
