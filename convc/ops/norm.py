"""Normalisations. Source of the formulas: the ONNX operator specification."""

from __future__ import annotations

import numpy as np

from convc.errors import ModelError
from convc.ops.base import Arrays, Attr, Attrs, Operator, Types, expect_shape, given, normal_axis, optional
from convc.ops.check import (
    expect_divides,
    expect_float,
    expect_nonzero,
    expect_same_dtype,
    present,
    wide,
)  # fmt: skip
from convc.types import Array, TensorType, broadcast_shapes

EPSILON = Attr("epsilon", "float", 1e-5, "added to the variance")


def _channels(types: Types, slots: tuple[str, ...], least_rank: int) -> TensorType:
    """Check x and its vectors of one value a channel; gives the type of x."""
    x = given(types, 0)
    expect_float(x, "x")
    if x.rank < least_rank:
        raise ModelError(f"x is {x}, expected rank >= {least_rank}", hint="the channel axis is axis 1")
    expect_same_dtype(types, slots)
    expect_nonzero(x, range(1, x.rank), "x")
    for index, slot in enumerate(slots[1:], 1):
        expect_shape(given(types, index), (x.shape[1],), slot)
    return x


def _lift(vector: Array, rank: int) -> Array:
    return vector.reshape(-1, *(1,) * (rank - 2))


def _normalised(x: Array, axes: tuple[int, ...], epsilon: float) -> Array:
    centred = x - x.mean(axes, keepdims=True)
    scaled: Array = centred / np.sqrt((centred * centred).mean(axes, keepdims=True) + epsilon)
    return scaled


_BATCH_SLOTS = ("x", "gamma", "beta", "mean", "var")


def _infer_batch_norm(types: Types, attrs: Attrs) -> TensorType:
    return _channels(types, _BATCH_SLOTS, 2)


def _evaluate_batch_norm(arrays: Arrays, attrs: Attrs) -> Array:
    x = present(arrays, 0)
    gamma, beta, mean, var = (_lift(present(arrays, i), x.ndim) for i in range(1, 5))
    y: Array = (x - mean) * (gamma / np.sqrt(var + attrs["epsilon"])) + beta
    return y


def _infer_layer_norm(types: Types, attrs: Attrs) -> TensorType:
    x = given(types, 0)
    expect_float(x, "x")
    expect_same_dtype(types, ("x", "gamma", "beta"))
    axis = normal_axis(attrs["axis"], x.rank)
    expect_nonzero(x, range(axis, x.rank), "x")
    for index, slot in ((1, "gamma"), (2, "beta")):
        vector: TensorType | None = optional(types, index)
        if vector is not None and broadcast_shapes(x.shape, vector.shape) != x.shape:
            raise ModelError(f"{slot} is {vector}, expected to broadcast to {x}", hint="give its last axes' shape")
    return x


def _evaluate_layer_norm(arrays: Arrays, attrs: Attrs) -> Array:
    x = present(arrays, 0)
    y = _normalised(x, tuple(range(attrs["axis"] % x.ndim, x.ndim)), attrs["epsilon"])
    gamma, beta = optional(arrays, 1), optional(arrays, 2)
    y = y if gamma is None else y * gamma
    return y if beta is None else y + beta


def _infer_instance_norm(types: Types, attrs: Attrs) -> TensorType:
    return _channels(types, ("x", "gamma", "beta"), 3)


def _evaluate_instance_norm(arrays: Arrays, attrs: Attrs) -> Array:
    x, gamma, beta = (present(arrays, i) for i in range(3))
    y = _normalised(x, tuple(range(2, x.ndim)), attrs["epsilon"])
    return y * _lift(gamma, x.ndim) + _lift(beta, x.ndim)


def _infer_group_norm(types: Types, attrs: Attrs) -> TensorType:
    x = _channels(types, ("x", "gamma", "beta"), 2)
    expect_divides(attrs["groups"], x.shape[1], "groups", "channels")
    return x


def _evaluate_group_norm(arrays: Arrays, attrs: Attrs) -> Array:
    x, gamma, beta = (present(arrays, i) for i in range(3))
    groups = attrs["groups"]
    split = x.reshape(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])
    y = _normalised(split, tuple(range(2, split.ndim)), attrs["epsilon"]).reshape(x.shape)
    return y * _lift(gamma, x.ndim) + _lift(beta, x.ndim)


def _infer_lrn(types: Types, attrs: Attrs) -> TensorType:
    x = _channels(types, ("x",), 2)
    if attrs["size"] < 1:
        raise ModelError(f"size={attrs['size']} is not positive", hint="give the number of channels in the window")
    return x


def _evaluate_lrn(arrays: Arrays, attrs: Attrs) -> Array:
    x, size = present(arrays, 0), attrs["size"]
    below, channels = (size - 1) // 2, x.shape[1]
    edges = [(0, 0)] * x.ndim
    edges[1] = (below, size - 1 - below)
    squares = np.pad(x * x, edges)
    total = np.zeros_like(x)
    for offset in range(size):
        total += squares[:, offset : offset + channels]
    y: Array = x / np.power(attrs["bias"] + attrs["alpha"] / size * total, attrs["beta"])
    return y


_AFFINE = frozenset({"gamma", "beta"})

OPERATORS: tuple[Operator, ...] = (
    Operator("batch_norm", _BATCH_SLOTS, _infer_batch_norm, wide(_evaluate_batch_norm), (EPSILON,),
             "gamma (x - mean) / sqrt(var + epsilon) + beta, one value a channel (axis 1).", weights=_AFFINE),
    Operator("layer_norm", ("x", "gamma?", "beta?"), _infer_layer_norm, wide(_evaluate_layer_norm),
             (Attr("axis", "int", -1, "first of the normalised axes"), EPSILON),
             "gamma (x - mean) / sqrt(var + epsilon) + beta over the axes from `axis` on.", weights=_AFFINE),
    Operator("instance_norm", ("x", "gamma", "beta"), _infer_instance_norm, wide(_evaluate_instance_norm), (EPSILON,),
             "Normalises each plane. gamma, beta [C].", weights=_AFFINE),
    Operator("group_norm", ("x", "gamma", "beta"), _infer_group_norm, wide(_evaluate_group_norm),
             (Attr("groups", "int", doc="number of groups of channels"), EPSILON),
             "Normalises each group of channels. gamma, beta [C].", weights=_AFFINE),
    Operator("lrn", ("x",), _infer_lrn, wide(_evaluate_lrn),
             (Attr("size", "int", doc="channels in the window"), Attr("alpha", "float", 1e-4),
              Attr("beta", "float", 0.75), Attr("bias", "float", 1.0)),
             "x / (bias + alpha/size sum of squares over neighbouring channels) ** beta."),
)  # fmt: skip
