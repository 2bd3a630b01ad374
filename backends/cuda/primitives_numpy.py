"""The vocabulary of emitted kernels, bound to NumPy: what each primitive means, for all threads of some blocks at once.

A value is an array with an entry a thread (or one entry, where all threads agree). What a GPU would do silently is an
error here: out of bounds, misaligned, memory read before it was written or before its copy was waited for, two threads
at one word without a barrier between them, an element stored twice, float64, a branch on what differs by thread.
Bank conflicts are counted. `vocabulary` says what each name means.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from convc.backends.cuda import primitives_extra, warp_tiles
from convc.backends.cuda.primitives_math import COMPOSITES, define
from convc.backends.cuda.shared_memory import LockstepError, SharedMemory, lanes_text
from convc.backends.cuda.storage_bits import from_bits, to_bits
from convc.backends.cuda.vocabulary import COPIES, ELEMENT_BYTES, WIDTHS, suffix
from convc.types import Array

Value = Any


class Memory:
    """A buffer in global memory: its bytes, and which of its half-words this launch has stored."""

    def __init__(self, name: str, array: Array) -> None:
        flat = array.reshape(-1)
        if not np.shares_memory(flat, array) and array.size:
            raise LockstepError(f"{name} is not contiguous", hint="pass a contiguous view")
        self.name = name
        raw = flat.view(np.uint8)
        self.raw, self.bytes = raw, raw.size
        self.views: dict[int, Array] = {
            4: raw[: raw.size // 4 * 4].view(np.uint32),
            2: raw[: raw.size // 2 * 2].view(np.uint16),
        }
        self.stored: Array | None = None

    def check(self, what: str, live: Array, index: Array, size: int, count: int) -> None:
        """Every live lane lies within the buffer, aligned to its width."""
        offset = index.astype(np.int64) * size
        outside = live & ((offset < 0) | (offset + size * count > self.bytes))
        if outside.any():
            raise LockstepError(
                f"{what}: out of bounds of {self.name} ({self.bytes // size} elements), at {lanes_text(outside, index)}"
            )
        crooked = live & (offset % (size * count) != 0)
        if crooked.any():
            raise LockstepError(f"{what}: {self.name} misaligned, at {lanes_text(crooked, index)}")

    def load(self, what: str, live: Array, index: Array, size: int, count: int) -> list[Array]:
        """`count` elements of each live lane as raw bits; zero elsewhere."""
        self.check(what, live, index, size, count)
        at = np.where(live, index, 0).astype(np.int64)
        if self.stored is not None:
            again = live & self.stored[at * (size // 2)]
            if again.any():
                raise LockstepError(f"{what}: {self.name} was stored by this launch, at {lanes_text(again, index)}")
        view = self.views[size]
        if not live.any():
            return [np.zeros(len(live), view.dtype)] * count
        return [np.where(live, view[at + k], view.dtype.type(0)) for k in range(count)]

    def store(self, what: str, live: Array, index: Array, size: int, parts: Sequence[Array]) -> None:
        """Store raw bits of the live lanes."""
        self.check(what, live, index, size, len(parts))
        at = index[live].astype(np.int64)
        if self.stored is None:
            self.stored = np.zeros(self.bytes // 2, bool)
        units = (at * (size // 2))[:, None] + np.arange(size // 2 * len(parts))
        if len(np.unique(at)) != len(at) or self.stored[units].any():
            raise LockstepError(f"{what}: an element of {self.name} is stored twice")
        self.stored[units] = True
        for k, part in enumerate(parts):
            self.views[size][at + k] = part[live]

    def unwritten(self) -> int:
        """How many half-words the launch did not store."""
        return self.bytes // 2 if self.stored is None else int(np.count_nonzero(~self.stored))


def round_tf32(x: Array) -> Array:
    """To 10 bits of fraction, halves away from zero."""
    bits = x.view(np.uint32)
    return np.where(np.isfinite(x), (bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000), bits).view(np.float32)


class Lanes:
    """The threads of `blocks` (x, y each; z the same), and the vocabulary over them."""

    def __init__(
        self,
        threads: int,
        blocks: tuple[Array, Array, int],
        shared_bytes: int,
        *,
        races: bool,
        conflicts: dict[str, int],
    ) -> None:
        x, y, z = blocks
        self.count = len(x) * threads
        self.threads = threads
        self.indices = {
            "thread": np.tile(np.arange(threads, dtype=np.int32), len(x)),
            "block_x": np.repeat(x.astype(np.int32), threads),
            "block_y": np.repeat(y.astype(np.int32), threads),
            "block_z": np.full(1, z, np.int32),
            "shared": np.zeros(1, np.int32),
        }
        self.memory = SharedMemory(len(x), threads, shared_bytes, races, conflicts)
        self.vocabulary = self._vocabulary()

    def _all(self, value: Value, kind: Any, what: str) -> Array:
        """The value of every lane, held to its type."""
        array = np.asarray(value)
        if array.dtype != kind:
            if array.ndim == 0 and array.dtype.kind in ("i", "f"):
                array = array.astype(kind)
            else:
                raise LockstepError(f"{what}: {array.dtype} where {np.dtype(kind)} belongs")
        return np.broadcast_to(array.reshape(-1), (self.count,))

    def _parts(self, value: Value, kind: str, count: int, what: str) -> list[Array]:
        values = (value,) if count == 1 else value
        if len(values) != count:
            raise LockstepError(f"{what}: {len(values)} values where {count} belong")
        wanted = np.int32 if kind in ("i32", "b16") else np.float32
        return [self._all(v, wanted, what) for v in values]

    def _load(self, kind: str, count: int) -> Callable[..., Value]:
        name, size = f"load_{suffix(kind, count)}", ELEMENT_BYTES[kind]

        def load(p: Value, x: Memory, i: Value) -> Value:
            live, index = self._all(p, bool, name), self._all(i, np.int32, name)
            parts = [from_bits(kind, bits) for bits in x.load(name, live, index, size, count)]
            return parts[0] if count == 1 else tuple(parts)

        return load

    def _store(self, kind: str, count: int) -> Callable[..., None]:
        name, size = f"store_{suffix(kind, count)}", ELEMENT_BYTES[kind]

        def store(p: Value, x: Memory, i: Value, value: Value) -> None:
            live, index = self._all(p, bool, name), self._all(i, np.int32, name)
            parts = [to_bits(kind, np.ascontiguousarray(v)) for v in self._parts(value, kind, count, name)]
            x.store(name, live, index, size, parts)

        return store

    def _copy(self, kind: str, count: int) -> Callable[..., None]:
        name, size = f"copy_{suffix(kind, count)}", COPIES[kind][0]

        def copy(p: Value, s: Value, x: Memory, i: Value) -> None:
            live, index = self._all(p, bool, name), self._all(i, np.int32, name)
            parts = x.load(name, live, index, size, count)
            if size == 2:
                parts = [parts[k] | (parts[k + 1].astype(np.uint32) << np.uint32(16)) for k in range(0, count, 2)]
            self.memory.copy(name, self._all(s, np.int32, name), parts)

        return copy

    def _load_shared(self, kind: str, count: int) -> Callable[..., Value]:
        name = f"load_shared_{suffix(kind, count)}"

        def load(s: Value) -> Value:
            words = self.memory.load(name, self._all(s, np.int32, name), count)
            parts = [from_bits(kind, word) for word in words]
            return parts[0] if count == 1 else tuple(parts)

        return load

    def _store_shared(self, kind: str, count: int) -> Callable[..., None]:
        name = f"store_shared_{suffix(kind, count)}"

        def store(s: Value, value: Value) -> None:
            parts = [np.ascontiguousarray(v).view(np.uint32) for v in self._parts(value, kind, count, name)]
            self.memory.store(name, self._all(s, np.int32, name), parts)

        return store

    def _shuffle(self, value: Value, mask: int) -> Value:
        array = np.broadcast_to(value, (self.count,)).reshape(-1, 32)
        return np.ascontiguousarray(array[:, np.arange(32) ^ mask]).reshape(-1)

    def _vocabulary(self) -> dict[str, Any]:
        found: dict[str, Any] = {name: (lambda value=value: value) for name, value in self.indices.items()}
        found |= PLAIN
        for kind, counts in WIDTHS.items():
            for count in counts:
                found[f"load_{suffix(kind, count)}"] = self._load(kind, count)
                found[f"store_{suffix(kind, count)}"] = self._store(kind, count)
        for kind, (_, counts) in COPIES.items():
            for count in counts:
                found[f"copy_{suffix(kind, count)}"] = self._copy(kind, count)
        for kind in ("f32", "i32"):
            for count in (1, 2, 4):
                found[f"load_shared_{suffix(kind, count)}"] = self._load_shared(kind, count)
                found[f"store_shared_{suffix(kind, count)}"] = self._store_shared(kind, count)
        found |= warp_tiles.vocabulary(self.count, self.memory)
        memory = self.memory
        found |= {"commit": memory.commit, "wait": memory.wait, "barrier": memory.barrier}
        found |= {"shuffle_xor": self._shuffle}
        found |= primitives_extra.vocabulary(self)
        return found


def _unsigned(x: Value) -> Array:
    return np.atleast_1d(np.asarray(x)).astype(np.int64) & 0xFFFFFFFF


def _i32(x: Value) -> Array:
    return (np.atleast_1d(_unsigned(x)).astype(np.uint32)).view(np.int32)


def _f32(x: Value) -> Array:
    return np.atleast_1d(np.asarray(x, np.float32))


def _kept(function: Callable[..., Any]) -> Callable[..., Array]:
    """A NumPy function whose literals and results are float32."""

    def apply(*args: Value) -> Array:
        return np.asarray(function(*(_f32(a) if isinstance(a, (int, float)) else a for a in args)), np.float32)

    return apply


def _select(p: Value, a: Value, b: Value) -> Array:
    kind = next((np.asarray(v).dtype for v in (a, b) if isinstance(v, np.ndarray)), None)
    if kind is None:
        kind = np.dtype(np.float32 if isinstance(a, float) else np.int32)
    return np.where(p, np.asarray(a, kind), np.asarray(b, kind))


def _fma(a: Value, b: Value, c: Value) -> Array:
    return np.asarray(np.asarray(a, np.float32).astype(np.float64) * _f32(b) + _f32(c)).astype(np.float32)


def _not_negative(name: str, function: Callable[[Array, Array], Array]) -> Callable[[Value, Value], Array]:
    def apply(a: Value, b: Value) -> Array:
        if (np.asarray(a) < 0).any() or (np.asarray(b) <= 0).any():
            raise LockstepError(f"{name}: an operand is negative, or the divisor 0")
        return _i32(function(np.asarray(a), np.asarray(b)))

    return apply


def _fastdiv(n: Value, factor: Value, shift: Value) -> Array:
    if (np.asarray(n) < 0).any():
        raise LockstepError("fastdiv: a negative dividend")
    high = (_unsigned(n).astype(np.uint64) * _unsigned(factor).astype(np.uint64)) >> np.uint64(31)
    return _i32((high & np.uint64(0xFFFFFFFF)) >> _unsigned(shift).astype(np.uint64))


PLAIN: dict[str, Callable[..., Any]] = {
    "i32": _i32,
    "f32": _f32,
    "select": _select,
    "inside": lambda x, n: _unsigned(x) < _unsigned(n),
    "udiv": _not_negative("udiv", lambda a, b: a // b),
    "urem": _not_negative("urem", lambda a, b: a % b),
    "fastdiv": _fastdiv,
    "negate": lambda p: ~np.asarray(p),
    "float_bits": lambda x: np.ascontiguousarray(x).view(np.int32),
    "bits_float": lambda x: np.ascontiguousarray(_i32(x)).view(np.float32),
    "to_f32": lambda x: np.asarray(x).astype(np.float32),
    "to_i32": lambda x: (
        np.nan_to_num(np.trunc(x), nan=0.0).clip(-(2.0**31), 2.0**31 - 1).astype(np.int64).astype(np.int32)
    ),
    "fma": _fma,
    "maximum": _kept(np.maximum),
    "minimum": _kept(np.minimum),
    "absolute": _kept(np.abs),
    "floor": _kept(np.floor),
    "ceil": _kept(np.ceil),
    "rint": _kept(np.rint),
    "sqrt": _kept(np.sqrt),
    "rsqrt": _kept(lambda x: 1.0 / np.sqrt(x.astype(np.float64))),
    "exp2": _kept(lambda x: np.exp2(x.astype(np.float64))),
    "log2": _kept(lambda x: np.log2(x.astype(np.float64))),
    "round_tf32": lambda x: round_tf32(np.ascontiguousarray(x)),
}
for _name in COMPOSITES:
    PLAIN[_name] = define(_name, PLAIN)
