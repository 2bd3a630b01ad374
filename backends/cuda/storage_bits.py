"""float32 to and from the bits of storage types, in NumPy."""

from __future__ import annotations

import numpy as np

from convc.types import Array


def to_bits(kind: str, value: Array) -> Array:
    """Raw bits of float32 values (or integers) in a storage type."""
    if kind in ("i32", "b16"):
        return value.astype(np.uint16) if kind == "b16" else value.view(np.uint32)
    if kind == "f32":
        return value.view(np.uint32)
    if kind == "f16":
        return value.astype(np.float16).view(np.uint16)
    bits = value.view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)
    return np.where(np.isnan(value), 0x7FFF, rounded).astype(np.uint16)


def from_bits(kind: str, bits: Array) -> Array:
    """Values of raw bits."""
    if kind in ("i32", "b16"):
        return bits.astype(np.uint32).view(np.int32)
    if kind == "f32":
        return bits.view(np.float32)
    if kind == "f16":
        return bits.view(np.float16).astype(np.float32)
    high: Array = bits.astype(np.uint32) << np.uint32(16)
    return high.view(np.float32)
