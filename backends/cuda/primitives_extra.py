"""The vocabulary for element types other than the kernels' own, bound to NumPy: moves of bits, and scalars of any type.

move_b8(p, y, i, x, j), b16, b32, b64: y[i] = x[j]. read_<kind>(p, x, i) and write_<kind>(p, y, i, v) for every element
type; scalar_<operator>(...) of what was read (`scalar_functions`); index_<kind>(p, x, i): an integer as i32;
write_index(p, y, i, v): an i32 as int64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from convc.backends.cuda import scalar_functions
from convc.types import Array

if TYPE_CHECKING:
    from convc.backends.cuda.primitives_numpy import Lanes, Memory

Value = Any
KINDS: dict[str, np.dtype[Any]] = {
    "f16": np.dtype(np.float16), "f32": np.dtype(np.float32), "f64": np.dtype(np.float64), "bool": np.dtype(np.uint8),
    **{f"{sign}{bits}": np.dtype(f"{sign}{bits // 8}") for sign in "iu" for bits in (8, 16, 32, 64)},
}  # fmt: skip
"""Element types, and NumPy's type of what lies in memory."""
INTEGERS = ("i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64")


def _load(x: Memory, what: str, live: Array, index: Array, size: int) -> Array:
    """Raw bits of one element a lane, as unsigned integers; zero where a lane is not live."""
    if size in (2, 4):
        bits: Array = x.load(what, live, index, size, 1)[0]
        return bits
    if size == 8:
        low, high = x.load(what, live, index * np.int32(2), 4, 2)
        return np.asarray(low.astype(np.uint64) | (high.astype(np.uint64) << np.uint64(32)))
    x.check(what, live, index, 1, 1)
    if not live.any():
        return np.zeros(len(live), np.uint8)
    found: Array = np.where(live, x.raw[np.where(live, index, 0)], np.uint8(0))
    return found


def _store(x: Memory, what: str, live: Array, index: Array, size: int, bits: Array) -> None:
    if size in (2, 4):
        x.store(what, live, index, size, [bits])
    elif size == 8:
        parts = [(bits & np.uint64(0xFFFFFFFF)).astype(np.uint32), (bits >> np.uint64(32)).astype(np.uint32)]
        x.store(what, live, index * np.int32(2), 4, parts)
    else:
        x.check(what, live, index, 1, 1)
        x.raw[index[live]] = bits[live]


def vocabulary(lanes: Lanes) -> dict[str, Any]:
    """The names over the threads of `lanes`."""

    def spread(value: Value, kind: Any) -> Array:
        return np.broadcast_to(np.asarray(value, kind).reshape(-1), (lanes.count,))

    def move(size: int) -> Callable[..., None]:
        name = f"move_b{size * 8}"

        def apply(p: Value, y: Memory, i: Value, x: Memory, j: Value) -> None:
            live = spread(p, bool)
            _store(y, name, live, spread(i, np.int32), size, _load(x, name, live, spread(j, np.int32), size))

        return apply

    def read(kind: str) -> Callable[..., Array]:
        dtype = KINDS[kind]

        def apply(p: Value, x: Memory, i: Value) -> Array:
            bits = _load(x, f"read_{kind}", spread(p, bool), spread(i, np.int32), dtype.itemsize)
            found: Array = bits.view(dtype)
            return found

        return apply

    def write(kind: str) -> Callable[..., None]:
        dtype = KINDS[kind]

        def apply(p: Value, y: Memory, i: Value, value: Value) -> None:
            made = np.ascontiguousarray(np.broadcast_to(np.asarray(value), (lanes.count,)).astype(dtype))
            bits = made.view(f"u{dtype.itemsize}")
            _store(y, f"write_{kind}", spread(p, bool), spread(i, np.int32), dtype.itemsize, bits)

        return apply

    found: dict[str, Any] = {f"move_b{size * 8}": move(size) for size in (1, 2, 4, 8)}
    for kind in KINDS:
        found[f"read_{kind}"], found[f"write_{kind}"] = read(kind), write(kind)
    for kind in INTEGERS:
        found[f"index_{kind}"] = lambda p, x, i, one=found[f"read_{kind}"]: one(p, x, i).astype(np.int32)
    found["write_index"] = found["write_i64"]
    return found | FUNCTIONS


def _quotient(x: Value, y: Value) -> Array:
    return np.where(y == 0, 0, np.floor_divide(x, np.where(y == 0, 1, y))).astype(np.result_type(x, y))


def _rest(x: Value, y: Value) -> Array:
    if np.asarray(x).dtype.kind == "f":
        return np.asarray(np.remainder(x, y))
    found: Array = np.where(y == 0, 0, np.remainder(x, np.where(y == 0, 1, y))).astype(np.result_type(x, y))
    return found


_BASE: dict[str, Any] = {
    "choose": lambda p, x, y: np.where(p, x, y),
    "quotient": _quotient,
    "rest": _rest,
    "whole": lambda x: np.nan_to_num(np.trunc(x), nan=-(2.0**63), posinf=2.0**63 - 1024, neginf=-(2.0**63)).astype(
        np.int64
    ),
}
FUNCTIONS = {name: scalar_functions.define(name, _BASE) for name in scalar_functions.NAMES}
