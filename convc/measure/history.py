"""Where a node comes from and what becomes of it: the rewrites that made, changed or absorbed it."""

from __future__ import annotations

import heapq
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convc.passes.base import PassRecord, Rewrite


Place = tuple[int, int]
"""A rewrite: the position of its record, counted from 0 also where passes were left out, and its own within it."""


@dataclass(frozen=True, slots=True)
class Change:
    """One rewrite of a pass, which is number `index` of the pipeline; `rewrite` counts its rewrites from 0."""

    index: int
    name: str
    rewrite: int
    rule: str
    node: str
    note: str

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.index} {self.name}: {self.rule}" + (f", {self.note}" if self.note else "")


class History:
    """The rewrites of a compilation, by the nodes that they made, changed or removed."""

    def __init__(self, records: Sequence[PassRecord]) -> None:
        self._rewrites: dict[Place, tuple[PassRecord, Rewrite]] = {}
        self._made: dict[str, list[Place]] = {}
        self._gone: dict[str, list[Place]] = {}
        for position, record in enumerate(records):
            for number, rewrite in enumerate(record.rewrites):
                place = (position, number)
                self._rewrites[place] = record, rewrite
                for names, by_name in ((rewrite.added, self._made), (rewrite.removed, self._gone)):
                    for name in names:
                        by_name.setdefault(name, []).append(place)

    def of(self, node: str) -> tuple[Change, ...]:
        """The rewrites that `node` of the last graph went through, in order, with those of what it absorbed."""
        return tuple(self._change(place) for place in self.before(node))

    def before(self, node: str, end: int | None = None) -> tuple[Place, ...]:
        """The rewrites that led to `node` as it is after the first `end` records, with those of what it absorbed."""
        found: set[Place] = set()
        seen: set[str] = set()
        waiting: list[tuple[int, int, str]] = []

        def want(name: str, limit: Place) -> None:
            if name not in seen:
                seen.add(name)
                for place in self._made.get(name, ()):
                    if place < limit:
                        heapq.heappush(waiting, (-place[0], -place[1], name))

        want(node, (sys.maxsize if end is None else end, -1))
        while waiting:
            position, number, _ = heapq.heappop(waiting)
            place = (-position, -number)
            if place not in found:
                found.add(place)
                for name in self._rewrites[place][1].removed:
                    want(name, place)
        return tuple(sorted(found))

    def after(self, node: str, start: int = 0) -> tuple[tuple[Place, ...], tuple[str, ...]]:
        """What becomes of `node` from record `start` on: the rewrites, and the names that stand for it in the end."""
        names = {node: None}
        found: set[Place] = set()
        waiting: list[Place] = []

        def follow(name: str, least: Place) -> None:
            for place in (*self._made.get(name, ()), *self._gone.get(name, ())):
                if place > least:
                    heapq.heappush(waiting, place)

        follow(node, (start, -1))
        while waiting:
            place = heapq.heappop(waiting)
            rewrite = self._rewrites[place][1]
            gone = [name for name in rewrite.removed if name in names]
            if place in found or not (gone or any(name in names for name in rewrite.added)):
                continue
            found.add(place)
            for name in gone:
                del names[name]
            for name in rewrite.added if gone else ():
                if name not in names:
                    names[name] = None
                    follow(name, place)
        return tuple(sorted(found)), tuple(names)

    def _change(self, place: Place) -> Change:
        record, rewrite = self._rewrites[place]
        return Change(record.index, record.name, place[1], rewrite.rule, rewrite.node, rewrite.note)


__all__ = ["Change", "History", "Place"]
