"""Axes of contiguous tensors as strides, tables of offsets and taps, for any target."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convc.backends.program import Ints
from convc.errors import TargetError
from convc.ops.resize import interpolation_taps, nearest_indices
from convc.types import Array

RANK = 6
"""Axes that an index copy loops over; adjacent axes that lie together are merged first."""
MERGED = 1 << 16
"""Largest table that merging may make."""


def element_strides(shape: Sequence[int], element: int) -> list[int]:
    """Byte strides of a contiguous tensor."""
    steps = [element]
    for size in reversed(shape[1:]):
        steps.insert(0, steps[0] * size)
    return steps


def broadcast_strides(shape: Sequence[int], target: Sequence[int], element: int) -> list[int]:
    """Byte strides of a contiguous tensor broadcast to `target`: 0 where it is repeated."""
    padded = [1] * (len(target) - len(shape)) + list(shape)
    strides, step = [0] * len(padded), element
    for axis in reversed(range(len(padded))):
        strides[axis] = step if padded[axis] > 1 else 0
        step *= padded[axis]
    return strides


def merge_axes(shape: Sequence[int], strides: Sequence[Sequence[int]]) -> tuple[list[int], list[list[int]]]:
    """Merge adjacent axes that every operand walks as one; drop axes of size 1."""
    sizes: list[int] = []
    merged: list[list[int]] = [[] for _ in strides]
    for axis, size in enumerate(shape):
        if size == 1:
            continue
        if sizes and all(m[-1] == s[axis] * size for m, s in zip(merged, strides, strict=True)):
            sizes[-1] *= size
            for m, s in zip(merged, strides, strict=True):
                m[-1] = s[axis]
            continue
        sizes.append(size)
        for m, s in zip(merged, strides, strict=True):
            m.append(s[axis])
    return sizes, merged


def merge_tables(tables: Sequence[Ints], element: int) -> tuple[list[int], list[Ints], bool]:
    """Merge adjacent axes where that makes a contiguous run or one of them has size 1; pad to RANK axes.

    The last value says whether the innermost run is contiguous.
    """
    merged: list[Ints] = []
    for table in tables:
        if merged and (merged[-1] >= 0).all() and (table >= 0).all() and len(table) * len(merged[-1]) <= MERGED:
            joined = (merged[-1][:, None] + table[None]).reshape(-1)
            if len(table) == 1 or len(merged[-1]) == 1 or (np.diff(joined) == element).all():
                merged[-1] = joined
                continue
        merged.append(table)
    if len(merged) > RANK:
        raise TargetError(f"a copy over {len(merged)} separate axes", hint=f"at most {RANK} are supported")
    while len(merged) < RANK:
        merged.insert(0, np.zeros(1, np.int64))
    last = merged[-1]
    run = bool(len(last) > 0 and (last >= 0).all() and (np.diff(last) == element).all())
    return [len(t) for t in merged], merged, run


def axis_taps(old: int, new: int, axis: int, attrs: dict[str, object]) -> tuple[Array, Array]:
    """Indices and weights [new, taps] along an axis."""
    a = dict(attrs)
    scale = a["scales"][axis]  # type: ignore[index]
    if old == new and scale == 1.0:
        return np.arange(new)[:, None], np.ones((new, 1))
    if a["mode"] == "nearest":
        indices = nearest_indices(old, new, scale, str(a["coordinates"]), str(a["nearest"]))
        return indices[:, None], np.ones((new, 1))
    return interpolation_taps(
        old, new, scale, str(a["mode"]), str(a["coordinates"]), float(a["cubic_a"]),  # type: ignore[arg-type]
        bool(a["exclude_outside"]), bool(a["antialias"]),
    )  # fmt: skip
