"""Convolution and transposed convolution: bias, residual and activation as an epilogue, a prologue ahead of conv2d."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convc.errors import ModelError
from convc.ops.base import Arrays, Attr, Attrs, Operator, Types, expect_rank, expect_shape, given, optional, static_size
from convc.ops.check import (
    expect_counts,
    expect_divides,
    expect_float,
    expect_nonzero,
    expect_same_dtype,
    present,
    wide,
)  # fmt: skip
from convc.ops.unary import apply_activation, check_activation
from convc.ops.window import DILATION, WINDOW_ATTRS, check_window, output_plane, taps
from convc.types import Array, Size, TensorType, product, transposed_size

SLOTS = ("x", "w", "b?", "residual?")
CONV2D_SLOTS = (*SLOTS, "scale?", "shift?")
ACTIVATION = Attr("activation", "activation", None, "unary operator applied last")
PROLOGUE = Attr("prologue", "activation", None, "unary operator applied to x scale + shift, ahead of the padding")
GROUPS = Attr("groups", "int", 1, "channels are split into that many independent convolutions")


def check_epilogue(out: TensorType, channels: Size, types: Types, attrs: Attrs) -> None:
    """Raise ModelError unless bias, residual and activation fit an operator with slots x, w, b?, residual?."""
    expect_shape(optional(types, 2), (channels,), "b")
    residual: TensorType | None = optional(types, 3)
    if residual is not None and residual.shape != out.shape:
        raise ModelError(f"residual is {residual}, expected {out}", hint="broadcast it with expand, or use add")
    check_activation(attrs["activation"])


def has_prologue(inputs: Sequence[object], attrs: Attrs) -> bool:
    """Whether a conv2d with these inputs and attributes maps x ahead of its padding."""
    return attrs["prologue"] is not None or any(optional(inputs, index) is not None for index in (4, 5))


def _check(types: Types, attrs: Attrs) -> tuple[TensorType, TensorType, int]:
    """Checks that both convolutions share; gives x, w, and the number of input channels."""
    x, w = given(types, 0), given(types, 1)
    expect_rank(x, 4, "x")
    expect_rank(w, 4, "w")
    expect_float(x, "x")
    expect_same_dtype(types, CONV2D_SLOTS)
    check_window(attrs)
    expect_nonzero(x, (1, 2, 3), "x")
    expect_nonzero(w, range(4), "w")
    for axis in range(4):
        static_size(w.shape[axis], f"axis {axis} of w")
    channels = static_size(x.shape[1], "in_channels")
    expect_divides(attrs["groups"], channels, "groups", "in_channels")
    return x, w, channels


def _plane(x: TensorType) -> tuple[Size, Size]:
    return x.shape[2], x.shape[3]


def _infer_conv2d(types: Types, attrs: Attrs) -> TensorType:
    x, w, channels = _check(types, attrs)
    groups = attrs["groups"]
    if w.shape[1] != channels // groups:
        raise ModelError(
            f"w is {w}, expected {channels // groups} at axis 1 (in_channels={channels} over groups={groups})",
            hint="weights are [K, C/groups, R, S]",
        )
    expect_divides(groups, w.shape[0], "groups", "out_channels")
    kernel = static_size(w.shape[2], "R"), static_size(w.shape[3], "S")
    out = TensorType(x.dtype, (x.shape[0], w.shape[0], *output_plane(_plane(x), kernel, attrs)))
    check_epilogue(out, w.shape[0], types, attrs)
    for index, slot in ((4, "scale"), (5, "shift")):
        expect_shape(optional(types, index), (channels,), slot)
    check_activation(attrs["prologue"])
    return out


def _prologue(x: Array, arrays: Arrays, attrs: Attrs) -> Array:
    scale, shift = optional(arrays, 4), optional(arrays, 5)
    if scale is not None:
        x = x * scale[:, None, None]
    if shift is not None:
        x = x + shift[:, None, None]
    return apply_activation(attrs["prologue"], x)


def _evaluate_conv2d(arrays: Arrays, attrs: Attrs) -> Array:
    """Sum over taps of w[:, :, r, s] @ x shifted: BLAS does the work, without an im2col buffer."""
    x, w = _prologue(present(arrays, 0), arrays, attrs), present(arrays, 1)
    groups = attrs["groups"]
    n, k, per_group, kernel = x.shape[0], w.shape[0], w.shape[1], (w.shape[2], w.shape[3])
    height, width = (static_size(d, "output") for d in output_plane((x.shape[2], x.shape[3]), kernel, attrs))
    weights = np.ascontiguousarray(w.transpose(2, 3, 0, 1)).reshape(*kernel, groups, k // groups, per_group)
    total = np.zeros((n, groups, k // groups, height * width), x.dtype)
    part = np.empty_like(total)
    for r, s, tap in taps(x, kernel, attrs, (height, width), 0.0):
        columns = tap.reshape(n, groups, per_group, height * width)
        if per_group == 1:
            np.multiply(weights[r, s], columns, out=part)
        else:
            np.matmul(weights[r, s], columns, out=part)
        total += part
    return _epilogue(total.reshape(n, k, height, width), arrays, attrs)


def _epilogue(y: Array, arrays: Arrays, attrs: Attrs) -> Array:
    bias, residual = optional(arrays, 2), optional(arrays, 3)
    if bias is not None:
        y = y + bias[:, None, None]
    if residual is not None:
        y = y + residual
    return apply_activation(attrs["activation"], y)


def _macs_conv2d(types: Types, out: TensorType, attrs: Attrs) -> Size:
    return out.elements * product(given(types, 1).shape[1:])


def _infer_transposed(types: Types, attrs: Attrs) -> TensorType:
    x, w, channels = _check(types, attrs)
    if w.shape[0] != channels:
        raise ModelError(f"w is {w}, expected in_channels={channels} at axis 0", hint="weights are [C, K/groups, R, S]")
    expect_counts(attrs, "output_padding", 2, 0)
    plane: list[Size] = []
    for i in range(2):
        extra, stride, dilation = attrs["output_padding"][i], attrs["stride"][i], attrs["dilation"][i]
        if extra >= max(stride, dilation):
            raise ModelError(
                f"output_padding={attrs['output_padding']} must be below stride or dilation", hint="enlarge the stride"
            )
        kernel = static_size(w.shape[2 + i], "kernel")
        before, after = attrs["padding"][i], attrs["padding"][i + 2]
        size = transposed_size(x.shape[2 + i], kernel, stride, before, after, dilation, extra)
        if isinstance(size, int) and size < 1:
            raise ModelError(f"padding={attrs['padding']} leaves nothing of the output", hint="use less padding")
        plane.append(size)
    out_channels = attrs["groups"] * w.shape[1]
    out = TensorType(x.dtype, (x.shape[0], out_channels, *plane))
    check_epilogue(out, out_channels, types, attrs)
    return out


def _evaluate_transposed(arrays: Arrays, attrs: Attrs) -> Array:
    """Scatter: each tap adds w[:, :, r, s]^T @ x at its place of the padded output, which is then cropped."""
    x, w = present(arrays, 0), present(arrays, 1)
    n, c, height, width = x.shape
    groups, kernel, per_group = attrs["groups"], (w.shape[2], w.shape[3]), w.shape[1]
    (sh, sw), (dh, dw), extra = attrs["stride"], attrs["dilation"], attrs["output_padding"]
    top, left, bottom, right = attrs["padding"]
    weights = np.ascontiguousarray(w.reshape(groups, c // groups, per_group, *kernel).transpose(3, 4, 0, 2, 1))
    columns = x.reshape(n, groups, c // groups, height * width)
    rows_span, columns_span = (height - 1) * sh + 1, (width - 1) * sw + 1
    full_height = rows_span + dh * (kernel[0] - 1) + extra[0]
    full_width = columns_span + dw * (kernel[1] - 1) + extra[1]
    full = np.zeros((n, groups * per_group, full_height, full_width), x.dtype)
    for r in range(kernel[0]):
        for s in range(kernel[1]):
            part = np.matmul(weights[r, s], columns).reshape(n, groups * per_group, height, width)
            full[:, :, r * dh : r * dh + rows_span : sh, s * dw : s * dw + columns_span : sw] += part
    return _epilogue(full[:, :, top : full_height - bottom, left : full_width - right], arrays, attrs)


def _macs_transposed(types: Types, out: TensorType, attrs: Attrs) -> Size:
    return given(types, 0).elements * product(given(types, 1).shape[1:])


CONV2D = Operator(
    "conv2d", CONV2D_SLOTS, _infer_conv2d, wide(_evaluate_conv2d),
    attrs=(*WINDOW_ATTRS, DILATION, GROUPS, ACTIVATION, PROLOGUE),
    doc="activation(conv(prologue(x scale + shift), w) + b + residual), padded after the prologue. x [N, C, H, W], "
    "w [K, C/groups, R, S], b [K], residual like y, scale and shift [C].",
    macs=_macs_conv2d, weights=frozenset({"w", "b", "scale", "shift"}),
)  # fmt: skip

CONV_TRANSPOSE2D = Operator(
    "conv_transpose2d", SLOTS, _infer_transposed, wide(_evaluate_transposed),
    attrs=(*WINDOW_ATTRS, DILATION, GROUPS,
           Attr("output_padding", "ints", (0, 0), "rows and columns added below and on the right"), ACTIVATION),
    doc="activation(conv^T(x, w) + b + residual), the gradient of conv2d by x. w [C, K/groups, R, S].",
    macs=_macs_transposed, weights=frozenset({"w", "b"}),
)  # fmt: skip

OPERATORS = (CONV2D, CONV_TRANSPOSE2D)
