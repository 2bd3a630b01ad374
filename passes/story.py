"""The story of one node through all passes: where it came from, what touched it, what refused, what became of it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from convc.errors import InputError
from convc.passes.base import PassRecord, Rewrite
from convc.passes.stages import Outline, Stages

SOURCES = frozenset({"input", "constant"})
Run = tuple[str, str, Sequence[str]]
"""A step of a program: its kernel, its node, the values that it writes."""


@dataclass(frozen=True, slots=True)
class Event:
    """A rewrite that touched the node, or what was made of it, or a refusal that names it. `index` is the pass's."""

    index: int
    name: str
    kind: str
    rule: str
    node: str
    text: str

    def __str__(self) -> str:
        said = f"{'not ' * (self.kind == 'refusal')}{self.rule} at %{self.node}"
        return f"{self.index:3d} {self.name}: {said}" + (f": {self.text}" if self.text else "")


@dataclass(frozen=True, slots=True)
class Story:
    """What happened to `node`: what it was, what touched it, what is left of it, the kernels that run that."""

    node: str
    began: tuple[str, ...]
    events: tuple[Event, ...]
    ended: tuple[str, ...]
    kernels: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"%{self.node}", *(f"  was {text}" for text in self.began)]
        lines += [f"  {event}" for event in self.events] or ["  no pass touched it"]
        lines += [f"  is now {text}" for text in self.ended] or ["  nothing of it is left"]
        return "\n".join([*lines, *(f"  runs as {kernel}" for kernel in self.kernels)])


def tell_story(node: str, stages: Stages, records: Sequence[PassRecord], steps: Iterable[Run] = ()) -> Story:
    """The story of a node of any stage, or of one of the description from which nodes came.

    Raises InputError that lists similar names, where no stage has the node.
    """
    node = node.removeprefix("%")
    graphs = [{o.name: o for o in stages.nodes(at)} for at in stages.at]
    tracked, began = _beginning(node, graphs, records)
    events: list[Event] = []
    told: set[tuple[str, str, str]] = set()
    for place, record in enumerate(records):
        known = {**graphs[place], **graphs[place + 1]}
        for rewrite in record.rewrites:
            touched = [name for name in tracked if _touches(rewrite, name)]
            if not touched:
                continue
            events.append(Event(record.index, record.name, "rewrite", rewrite.rule, rewrite.node, rewrite.note))
            for name in touched:
                if name in rewrite.removed:
                    tracked.update(dict.fromkeys(_heirs(rewrite, known, known.get(name))))
        for refusal in record.refusals:
            names = [name for name in tracked if refusal.node == name or _mentions(refusal.reason, name)]
            key = (refusal.rule, refusal.node, refusal.reason)
            if names and key not in told:
                told.add(key)
                events.append(Event(record.index, record.name, "refusal", *key))
    last = graphs[-1]
    ended = [last[name] for name in tracked if name in last]
    return Story(node, began, tuple(events), tuple(map(_words, ended)), _kernels({o.name for o in ended}, steps))


def _beginning(
    node: str, graphs: Sequence[Mapping[str, Outline]], records: Sequence[PassRecord]
) -> tuple[dict[str, None], tuple[str, ...]]:
    """The names to follow, and what they were when they first appeared."""
    for place, graph in enumerate(graphs):
        if node in graph:
            made = f", made by pass {records[place - 1].index}, {records[place - 1].name}" if place else ""
            return {node: None}, (_words(graph[node]) + made,)
    for graph in graphs:
        found = [o for o in graph.values() if node in o.source]
        if found:
            return {o.name: None for o in found}, tuple(map(_words, found))
    for record in records:
        for rewrite in record.rewrites:
            if node in rewrite.added:
                return {node: None}, (f"made and used up by pass {record.index}, {record.name}",)
    names = {name for graph in graphs for name in graph}
    near = difflib.get_close_matches(node, sorted(names), 3, 0.3)
    hint = f"similar ones are {', '.join('%' + name for name in near)}" if near else "see convc inspect model"
    raise InputError(f"no stage of the passes has a node %{node}", hint=hint)


def _touches(rewrite: Rewrite, name: str) -> bool:
    return name in (rewrite.node, *rewrite.removed, *rewrite.added) or _mentions(rewrite.note, name)


def _mentions(text: str, name: str) -> bool:
    return f"%{name}" in text and re.search(rf"%{re.escape(name)}(?![\w/:-]|\.\w)", text) is not None


def _heirs(rewrite: Rewrite, known: Mapping[str, Outline], gone: Outline | None) -> list[str]:
    """What took the place of a node that a rewrite removed: operators that it made, or the value that it names."""
    weight = gone is not None and gone.op == "constant"
    made = [n for n in rewrite.added if n not in known or (known[n].op in SOURCES) == weight]
    return made or [n for n in known if _mentions(rewrite.note, n) and n not in rewrite.removed]


def _words(outline: Outline) -> str:
    source = f", from {', '.join(outline.source)}" if outline.source not in {(), (outline.name,)} else ""
    return f"{outline}: {outline.type}{source}"


def _kernels(names: set[str], steps: Iterable[Run]) -> tuple[str, ...]:
    found = [kernel for kernel, node, writes in steps if node in names or names & set(writes)]
    return tuple(dict.fromkeys(found))
