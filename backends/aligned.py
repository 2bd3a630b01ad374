"""Arrays that start on a cache line, on huge pages where they are large and the system has them."""

from __future__ import annotations

import mmap
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from convc.types import Array

LINE = 64
HUGE = 2 << 20
PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}


def aligned_bytes(count: int, *, zero: bool = False) -> npt.NDArray[np.uint8]:
    """`count` bytes, uninitialised or zero, starting on a cache line; large ones on a huge page, which are zero.

    What must be `zero` is what kernels write, few pieces a model: there, a huge page pays from a quarter of it on.
    Python maps memory that child processes share unless told otherwise: on most systems such has no huge pages, and a
    process that was forked would write into its parent's arena.
    """
    if count >= (HUGE // 4 if zero else 2 * HUGE):
        area = mmap.mmap(-1, count + HUGE, **PRIVATE)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with suppress(OSError):  # a kernel without huge pages gives the same memory in small ones
                area.madvise(mmap.MADV_HUGEPAGE)
        whole = np.frombuffer(area, np.uint8)
        start = -whole.ctypes.data % HUGE
    else:
        whole = (np.zeros if zero else np.empty)(count + LINE, np.uint8)
        start = -whole.ctypes.data % LINE
    return whole[start : start + count]


def aligned_empty(count: int, dtype: Any) -> Array:
    """`count` uninitialised elements on a cache line."""
    kind = np.dtype(dtype)
    return aligned_bytes(count * kind.itemsize).view(kind)


def aligned(array: Array) -> Array:
    """The array itself where it starts on a cache line and is contiguous, else an aligned copy."""
    if array.ctypes.data % LINE == 0 and array.flags.c_contiguous:
        return array
    copy = aligned_empty(array.size, array.dtype).reshape(array.shape)
    copy[...] = array
    return copy
