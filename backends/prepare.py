"""What every target does to a graph before it selects kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from convc.ir.graph import Graph, Node, make_node
from convc.ops import OPS
from convc.ops.base import optional
from convc.types import product


def flatten_linears(graph: Graph) -> Graph:
    """A linear on [..., I] becomes one on [rows, I] between reshapes."""
    if all(node.op != "linear" or node.type.rank == 2 for node in graph.nodes):
        return graph
    made: dict[str, Node] = {}

    def add(op: str, name: str, operands: Sequence[Node | None], attrs: Mapping[str, Any]) -> Node:
        while name != node.name and name in graph:
            name += "_"
        made[name] = make_node(op, name, operands, attrs)
        return made[name]

    for node in graph.nodes:
        if node.op != "linear" or node.type.rank == 2:
            made[node.name] = node
            continue
        operands = [made[name] if name is not None else None for name in node.inputs]
        for index in (0, 3):
            if (value := optional(operands, index)) is not None:
                shape = (product(value.type.shape[:-1]), value.type.shape[-1])
                name = f"{node.name}.{OPS['linear'].slot(index)}"
                operands[index] = add("reshape", name, [value], {"shape": shape})
        rows = add("linear", f"{node.name}.rows", operands, node.attrs)
        add("reshape", node.name, [rows], {"shape": node.type.shape})
    return Graph.build(graph.name, made.values(), graph.outputs, graph.nominal)
