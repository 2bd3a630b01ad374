"""Moves between channels and space."""

from __future__ import annotations

import numpy as np

from convc.ops.base import Arrays, Attr, Attrs, Operator, Types, expect_rank, given
from convc.ops.check import expect_counts, expect_divides, present
from convc.ops.shape import MOVES
from convc.types import Array, TensorType

BLOCK = Attr("block", "int", doc="side of the square that becomes channels")


def _block(attrs: Attrs) -> int:
    expect_counts({"block": (attrs["block"],)}, "block", 1, 1)
    block: int = attrs["block"]
    return block


def _infer_depth_to_space(types: Types, attrs: Attrs) -> TensorType:
    x, block = given(types, 0), _block(attrs)
    expect_rank(x, 4, "x")
    n, c, h, w = x.shape
    expect_divides(block * block, c, "block*block", "channels")
    return TensorType(x.dtype, (n, c // (block * block), h * block, w * block))


def _evaluate_depth_to_space(arrays: Arrays, attrs: Attrs) -> Array:
    x, block = present(arrays, 0), attrs["block"]
    n, c, h, w = x.shape
    channels = c // (block * block)
    if attrs["mode"] == "DCR":
        split = x.reshape(n, block, block, channels, h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        split = x.reshape(n, channels, block, block, h, w).transpose(0, 1, 4, 2, 5, 3)
    return np.reshape(split, (n, channels, h * block, w * block))


def _infer_space_to_depth(types: Types, attrs: Attrs) -> TensorType:
    x, block = given(types, 0), _block(attrs)
    expect_rank(x, 4, "x")
    n, c, h, w = x.shape
    expect_divides(block, h, "block", "height")
    expect_divides(block, w, "block", "width")
    return TensorType(x.dtype, (n, c * block * block, h // block, w // block))


def _evaluate_space_to_depth(arrays: Arrays, attrs: Attrs) -> Array:
    x, block = present(arrays, 0), attrs["block"]
    n, c, h, w = x.shape
    split = x.reshape(n, c, h // block, block, w // block, block).transpose(0, 3, 5, 1, 2, 4)
    return np.reshape(split, (n, c * block * block, h // block, w // block))


def _infer_channel_shuffle(types: Types, attrs: Attrs) -> TensorType:
    x = given(types, 0)
    expect_rank(x, 4, "x")
    expect_divides(attrs["groups"], x.shape[1], "groups", "channels")
    return x


def _evaluate_channel_shuffle(arrays: Arrays, attrs: Attrs) -> Array:
    x, groups = present(arrays, 0), attrs["groups"]
    n, c, h, w = x.shape
    return np.reshape(x.reshape(n, groups, c // groups, h, w).swapaxes(1, 2), x.shape)


OPERATORS: tuple[Operator, ...] = (
    Operator("depth_to_space", ("x",), _infer_depth_to_space, _evaluate_depth_to_space,
             (BLOCK, Attr("mode", "str", "DCR", "depth-column-row or column-row-depth", ("DCR", "CRD"))),
             "[N, C, H, W] -> [N, C/b^2, H b, W b].", traits=MOVES),
    Operator("space_to_depth", ("x",), _infer_space_to_depth, _evaluate_space_to_depth, (BLOCK,),
             "[N, C, H, W] -> [N, C b^2, H/b, W/b].", traits=MOVES),
    Operator("channel_shuffle", ("x",), _infer_channel_shuffle, _evaluate_channel_shuffle,
             (Attr("groups", "int", doc="number of groups of channels"),),
             "Channel g C/G + i goes to i G + g.", traits=MOVES),
)  # fmt: skip
