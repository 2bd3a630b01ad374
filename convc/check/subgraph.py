"""Parts of a graph that run by themselves: what is read from outside becomes an input."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from convc.ir.graph import Graph, Node, Output, graph_input
from convc.types import Array


def extract(graph: Graph, outputs: Iterable[str], cut: Collection[str] = ()) -> Graph:
    """The nodes that `outputs` depend on, with those in `cut` as inputs. Sizes of `graph` are numbers.

    Names are kept; outputs are named after their nodes.
    """
    wanted = list(outputs)
    found: set[str] = set()
    waiting = list(wanted)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            if name not in cut:
                waiting.extend(graph[name].operands)
    nodes = [_as_input(node) if node.name in cut else node for node in graph.nodes if node.name in found]
    return Graph.build(graph.name, nodes, [Output(name, name) for name in wanted])


def _as_input(node: Node) -> Node:
    return graph_input(node.name, node.type.dtype, node.type.shape)


def frontier(graph: Graph, operators: Sequence[Node], count: int) -> list[str]:
    """Values of the first `count` operators that are outputs, or that later operators read."""
    first = {node.name for node in operators[:count]}
    outputs = {output.node for output in graph.outputs}
    return [
        node.name
        for node in operators[:count]
        if node.name in outputs or any(user.name not in first for user in graph.users(node.name))
    ]


def given(part: Graph, values: Mapping[str, Array]) -> dict[str, Array]:
    """Inputs of a part from the values of all nodes, in the dtypes that they have."""
    return {node.name: np.asarray(values[node.name]).astype(node.type.dtype.numpy) for node in part.inputs}


__all__ = ["extract", "frontier", "given"]
