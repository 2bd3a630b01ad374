"""Runs passes in order, verifies the graph after each, keeps a record of each, and dumps what each did."""

from __future__ import annotations

import difflib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from convc.errors import Error, InputError, ModelError
from convc.ir.graph import Graph
from convc.ir.verify import verify as verify_graph
from convc.limits import Limits
from convc.passes.base import Pass, PassRecord, PassResult, operator_counts
from convc.passes.context import Context, CostModel, MacCost

Passes = str | Sequence[str | Pass]


class Instrument(Protocol):
    """Hooks around each pass. `should_run` may leave a pass out; `index` counts passes from 1."""

    def should_run(self, index: int, one: Pass, graph: Graph) -> bool: ...
    def before(self, index: int, one: Pass, graph: Graph) -> None: ...
    def after(self, index: int, one: Pass, before: Graph, after: Graph, record: PassRecord) -> None: ...


class Hooks:
    """An instrument that does nothing: a base for those that need one hook only."""

    def should_run(self, index: int, one: Pass, graph: Graph) -> bool:
        return True

    def before(self, index: int, one: Pass, graph: Graph) -> None:
        """Called before the pass runs."""

    def after(self, index: int, one: Pass, before: Graph, after: Graph, record: PassRecord) -> None:
        """Called after the pass ran and its graph was verified."""


@dataclass(frozen=True)
class Dump(Hooks):
    """Writes numbered files: `00-input.convc.txt`, and for each pass its graphs before and after, diff, and record."""

    folder: Path

    def start(self, graph: Graph) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write("00-input.convc.txt", str(graph))

    def after(self, index: int, one: Pass, before: Graph, after: Graph, record: PassRecord) -> None:
        stem = f"{index:02d}-{one.name}"
        old, new = str(before), str(after)
        self._write(f"{stem}.before.txt", old)
        self._write(f"{stem}.after.txt", new)
        self._write(f"{stem}.json", json.dumps(record.to_json(), indent=1))
        if old != new:
            lines = difflib.unified_diff(
                old.splitlines(), new.splitlines(), f"{stem}.before.txt", f"{stem}.after.txt", lineterm="", n=2
            )
            self._write(f"{stem}.diff", "\n".join(lines))

    def _write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text.rstrip("\n") + "\n", encoding="utf-8")


def resolve(passes: Passes) -> tuple[Pass, ...]:
    """The passes of a pipeline, or those named. Raises InputError that lists the names there are."""
    from convc.passes import PASSES, PIPELINES

    if isinstance(passes, str):
        if passes not in PIPELINES:
            hint = f"use {', '.join(PIPELINES)}, or a sequence of passes"
            raise InputError(f"passes={passes!r} is no pipeline", hint=hint)
        passes = PIPELINES[passes]
    found: list[Pass] = []
    for one in passes:
        if isinstance(one, str):
            if one not in PASSES:
                raise InputError(f"there is no pass {one!r}", hint=f"the passes are {', '.join(sorted(PASSES))}")
            one = PASSES[one]
        elif not isinstance(one, Pass):
            raise InputError(f"{one!r} is neither a pass nor the name of one", hint="see convc.passes.base.Pass")
        found.append(one)
    return tuple(found)


def run_passes(
    graph: Graph,
    passes: Passes = "default",
    *,
    dump_dir: str | os.PathLike[str] | None = None,
    instruments: Sequence[Instrument] = (),
    stop_after: str | int | None = None,
    verify: bool = True,
    limits: Limits | None = None,
    cost: CostModel | None = None,
    force: bool = False,
) -> tuple[Graph, tuple[PassRecord, ...]]:
    """The graph after a pipeline, and a record for each pass that ran.

    `passes` is the name of a pipeline or a sequence of names and passes. `stop_after` ends after the pass of that
    name (its first run) or of that number, counted from 1. With `dump_dir`, each pass leaves numbered files there.
    `cost` predicts times on the target; `force` rewrites also where it sees no gain. With `verify`, a pass that
    breaks the graph is named in the ModelError.
    """
    chosen = resolve(passes)
    if isinstance(stop_after, str) and stop_after not in {one.name for one in chosen}:
        names = ", ".join(dict.fromkeys(one.name for one in chosen))
        raise InputError(f"stop_after={stop_after!r} is no pass of this pipeline", hint=f"its passes are {names}")
    limits = limits or Limits()
    context = Context(limits, cost or MacCost(), force)
    hooks: list[Instrument] = list(instruments)
    if dump_dir is not None:
        dump = Dump(Path(dump_dir))
        dump.start(graph)
        hooks.append(dump)
    if verify:
        verify_graph(graph, limits)
    records: list[PassRecord] = []
    facts = _Facts(graph)
    for index, one in enumerate(chosen, 1):
        if not all([hook.should_run(index, one, graph) for hook in hooks]):
            continue
        for hook in hooks:
            hook.before(index, one, graph)
        start = time.perf_counter()
        result = one.run(graph, context)
        seconds = time.perf_counter() - start
        if verify and result.graph is not graph:
            _verify_after(one, result, graph, limits)
        new_facts = facts if result.graph is graph else _Facts(result.graph)
        record = PassRecord(
            one.name, one.numerics, seconds, result.rewrites, result.refusals,
            facts.ops, new_facts.ops, facts.macs, new_facts.macs, dict(one.options), index,
        )  # fmt: skip
        records.append(record)
        for hook in hooks:
            hook.after(index, one, graph, result.graph, record)
        graph, facts = result.graph, new_facts
        if stop_after in {one.name, index}:
            break
    return graph, tuple(records)


class _Facts:
    def __init__(self, graph: Graph) -> None:
        self.ops = operator_counts(graph)
        self.macs = graph.macs()


def _verify_after(one: Pass, result: PassResult, before: Graph, limits: Limits) -> None:
    try:
        verify_graph(result.graph, limits, known=before)
        if result.graph.inputs != before.inputs:
            raise ModelError("the inputs are not those of before", hint="a pass keeps inputs, used or not")
        if [o.name for o in result.graph.outputs] != [o.name for o in before.outputs]:
            raise ModelError("the outputs are not named as before", hint="a pass keeps output names and their order")
        for old, new in zip(before.outputs, result.graph.outputs, strict=True):
            if before[old.node].type != result.graph[new.node].type:
                raise ModelError(f"output {old.name} changed its type", hint="a pass keeps output types")
    except Error as error:
        raise type(error)(f"pass {one.name} broke the graph: {error.message}", hint=error.hint) from error
