"""Weights of grouped convolutions with fewer, larger groups: the same convolution with zeros between former groups."""

from __future__ import annotations

import numpy as np

from convc.ir.graph import Node
from convc.ir.patch import Draft
from convc.passes.pattern import array, operand
from convc.types import Array


def regrouped(w: Array, groups: int, fewer: int) -> Array:
    """W [K, C/groups, R, S] as [K, C/fewer, R, S]; `fewer` divides `groups`."""
    joined, width, per_group = groups // fewer, w.shape[1], w.shape[0] // groups
    wide = np.zeros((w.shape[0], width * joined, *w.shape[2:]), w.dtype)
    for group in range(groups):
        rows, start = slice(group * per_group, (group + 1) * per_group), group % joined * width
        wide[rows, start : start + width] = w[rows]
    return wide


def bias_of(draft: Draft, conv: Node, channels: int) -> Array:
    """The bias in float64, zeros where there is none."""
    if operand(draft, conv, "b") is None:
        return np.zeros(channels)
    return array(draft, conv, "b").astype(np.float64)
