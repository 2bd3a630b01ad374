"""Where a node of the optimised graph comes from: the rewrites that made or changed it, and what it absorbed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convc.passes.base import PassRecord, Rewrite


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
        self._made: dict[str, list[tuple[Change, Rewrite]]] = {}
        for record in records:
            for number, rewrite in enumerate(record.rewrites):
                change = Change(record.index, record.name, number, rewrite.rule, rewrite.node, rewrite.note)
                for name in rewrite.added:
                    self._made.setdefault(name, []).append((change, rewrite))

    def of(self, node: str) -> tuple[Change, ...]:
        """The rewrites that `node` went through, in order, those of the operators that it absorbed included."""
        found: dict[tuple[int, int], Change] = {}
        waiting, seen = [node], {node}
        while waiting:
            for change, rewrite in self._made.get(waiting.pop(), ()):
                found[change.index, change.rewrite] = change
                gone = [name for name in rewrite.removed if name not in seen]
                seen.update(gone)
                waiting.extend(gone)
        return tuple(found[key] for key in sorted(found))


__all__ = ["Change", "History"]
