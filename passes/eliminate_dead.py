"""Nodes that no output depends on go; inputs stay, for callers pass them. Numerics: exact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from convc.ir.dag import ancestors
from convc.ir.graph import Graph
from convc.passes.base import Numerics, PassResult, Rewrite
from convc.passes.context import Context


@dataclass(frozen=True)
class EliminateDead:
    """Drops what no output depends on."""

    name: str = "eliminate_dead"
    numerics: Numerics = Numerics.EXACT
    doc: str = "drops operators and constants that no output depends on"
    options: Mapping[str, Any] = field(default_factory=dict)

    def run(self, graph: Graph, context: Context) -> PassResult:
        alive = ancestors(graph, (output.node for output in graph.outputs))
        dead = [node for node in graph.nodes if node.name not in alive and node.op != "input"]
        if not dead:
            return PassResult(graph)
        gone = {node.name for node in dead}
        kept = [node for node in graph.nodes if node.name not in gone]
        rewrites = (
            Rewrite("drop_dead", node.name, (node.name,), (), f"no output depends on it: {node.op}") for node in dead
        )
        return PassResult(Graph.build(graph.name, kept, graph.outputs, graph.nominal), tuple(rewrites))


ELIMINATE_DEAD = EliminateDead()
