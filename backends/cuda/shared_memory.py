"""Shared memory of some blocks in lock step: data, what was written, copies in flight, races, bank conflicts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convc.errors import Error
from convc.types import Array

NEVER, WRITTEN, IN_FLIGHT = 0, 1, 2
MANY = -2
"""Reader of a word that several threads have read since the last barrier."""


class LockstepError(Error):
    """A kernel did what a GPU would not tell."""


def lanes_text(bad: Array, value: Array) -> str:
    """The first lanes of those that are wrong, and their value."""
    first = np.flatnonzero(bad)[:3]
    return ", ".join(f"lane {lane}: {value[lane]}" for lane in first) + (" ..." if bad.sum() > 3 else "")


class SharedMemory:
    """One array of words a block. A read sees a word only after its writer and a barrier, or in the writer itself."""

    def __init__(self, blocks: int, threads: int, size: int, races: bool, conflicts: dict[str, int]) -> None:
        self.words = -(-size // 4)
        self.lanes = np.arange(blocks * threads, dtype=np.int32)
        self.base = (self.lanes // threads).astype(np.int64) * self.words
        self.threads, self.size, self.races, self.conflicts = threads, size, races, conflicts
        total = blocks * self.words
        self.data = np.full(total, 0x7FC00000, np.uint32)
        self.state = np.zeros(total, np.int8)
        self.epoch = 0
        if races:
            self.writer, self.written = np.full(total, -1, np.int32), np.full(total, -1, np.int32)
            self.reader, self.read = np.full(total, -1, np.int32), np.full(total, -1, np.int32)
        self.current: list[tuple[Array, Sequence[Array]]] = []
        self.groups: list[list[tuple[Array, Sequence[Array]]]] = []

    def _at(self, what: str, s: Array, count: int) -> Array:
        """Index of the first word of each lane."""
        outside = (s < 0) | (s + 4 * count > self.size)
        if outside.any():
            raise LockstepError(f"{what}: out of bounds of {self.size} shared bytes, at {lanes_text(outside, s)}")
        crooked = s % (4 * count) != 0
        if crooked.any():
            raise LockstepError(f"{what}: shared address misaligned, at {lanes_text(crooked, s)}")
        self._count_conflicts(what, s[: self.threads].astype(np.int64), count)
        first: Array = self.base + s // 4
        return first

    def _count_conflicts(self, what: str, s: Array, count: int) -> None:
        """Most distinct words that one bank serves in one phase: a warp, half of one for 8 bytes, a quarter for 16."""
        words = ((s // 4)[:, None] + np.arange(count)).reshape(-1, 32)
        words.sort(axis=1)
        fresh = np.ones(words.shape, bool)
        fresh[:, 1:] = words[:, 1:] != words[:, :-1]
        phase = np.broadcast_to(np.arange(len(words))[:, None] * 32, words.shape)
        most = int(np.bincount((phase + words % 32)[fresh]).max())
        self.conflicts[what] = max(self.conflicts.get(what, 1), most)

    def _check_write(self, what: str, at: Array) -> None:
        if (self.state[at] == IN_FLIGHT).any():
            raise LockstepError(f"{what}: a copy to this word is still in flight")
        if not self.races:
            return
        other = (self.written[at] == self.epoch) & (self.writer[at] != self.lanes)
        if other.any():
            raise LockstepError(f"{what}: two threads write a word without a barrier, at {lanes_text(other, at)}")
        other = (self.read[at] == self.epoch) & (self.reader[at] != self.lanes)
        if other.any():
            raise LockstepError(f"{what}: another thread may still read this word: barrier missing, at "
                                f"{lanes_text(other, at)}")  # fmt: skip

    def _mark_write(self, at: Array) -> None:
        self.state[at] = WRITTEN
        if self.races:
            self.writer[at], self.written[at] = self.lanes, self.epoch
            if (self.writer[at] != self.lanes).any():
                raise LockstepError("two threads write one word at once")

    def store(self, what: str, s: Array, parts: Sequence[Array]) -> None:
        """Store words."""
        first = self._at(what, s, len(parts))
        for k, part in enumerate(parts):
            self._check_write(what, first + k)
            self._mark_write(first + k)
            self.data[first + k] = part

    def load(self, what: str, s: Array, count: int) -> list[Array]:
        """Load words."""
        first = self._at(what, s, count)
        return [self._read(what, first + k) for k in range(count)]

    def _read(self, what: str, at: Array) -> Array:
        state = self.state[at]
        if (state == IN_FLIGHT).any():
            raise LockstepError(f"{what}: the copy was not waited for, at {lanes_text(state == IN_FLIGHT, at)}")
        if (state == NEVER).any():
            raise LockstepError(f"{what}: this word was never written, at {lanes_text(state == NEVER, at)}")
        if self.races:
            other = (self.written[at] == self.epoch) & (self.writer[at] != self.lanes)
            if other.any():
                raise LockstepError(f"{what}: written by another thread: barrier missing, at {lanes_text(other, at)}")
            shared = (self.read[at] == self.epoch) & (self.reader[at] != self.lanes)
            self.reader[at] = self.lanes
            self.reader[at[shared | (self.reader[at] != self.lanes)]] = MANY
            self.read[at] = self.epoch
        found: Array = self.data[at]
        return found

    def copy(self, what: str, s: Array, parts: Sequence[Array]) -> None:
        """Begin an asynchronous copy; it lands when its group is waited for."""
        first = self._at(what, s, len(parts))
        for k in range(len(parts)):
            self._check_write(what, first + k)
            self.state[first + k] = IN_FLIGHT
        self.current.append((first, parts))

    def commit(self) -> None:
        """End a group of copies."""
        self.groups.append(self.current)
        self.current = []

    def wait(self, groups: int) -> None:
        """Let the oldest groups land until at most `groups` are in flight."""
        while len(self.groups) > groups:
            for first, parts in self.groups.pop(0):
                for k, part in enumerate(parts):
                    self._mark_write(first + k)
                    self.data[first + k] = part

    def barrier(self) -> None:
        """All threads have arrived."""
        self.epoch += 1
