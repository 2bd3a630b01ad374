"""Questions about order and reachability, answered by networkx; nothing else in convc imports it."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from convc.errors import ModelError

if TYPE_CHECKING:
    from convc.ir.graph import Graph, Node


def ordered(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """The nodes in topological order, keeping the given order where it is free.

    Raises ModelError for duplicate names, unknown inputs, and cycles (naming the nodes of one).
    """
    position: dict[str, int] = {}
    for index, node in enumerate(nodes):
        if node.name in position:
            raise ModelError(f"two nodes are named %{node.name}", hint="give each node its own name")
        position[node.name] = index
    waiting: list[int] = []
    users: list[list[int]] = [[] for _ in nodes]
    sorted_already = True
    for index, node in enumerate(nodes):
        operands = set(node.operands)
        waiting.append(len(operands))
        for name in operands:
            if name not in position:
                raise ModelError(f"{node} reads %{name}, which is no node", hint="add it, or mend the input's name")
            sorted_already &= position[name] < index
            users[position[name]].append(index)
    if sorted_already:
        return tuple(nodes)
    ready = [i for i, count in enumerate(waiting) if count == 0]
    heapq.heapify(ready)
    result: list[Node] = []
    while ready:
        index = heapq.heappop(ready)
        result.append(nodes[index])
        for user in users[index]:
            waiting[user] -= 1
            if waiting[user] == 0:
                heapq.heappush(ready, user)
    if len(result) < len(nodes):
        cycle = " -> ".join(f"%{name}" for name in _cycle(nodes))
        raise ModelError(f"the graph has a cycle: {cycle}", hint="a network must be acyclic; unroll loops")
    return tuple(result)


def _networkx() -> Any:
    import networkx

    return networkx


def _cycle(nodes: Sequence[Node]) -> list[str]:
    digraph = _networkx().DiGraph((name, node.name) for node in nodes for name in node.operands)
    edges = _networkx().find_cycle(digraph)
    return [edges[0][0], *(end for _, end in edges)]


def digraph(graph: Graph) -> Any:
    """The graph as a networkx DiGraph from producers to users."""
    result = _networkx().DiGraph()
    result.add_nodes_from(node.name for node in graph.nodes)
    result.add_edges_from((name, node.name) for node in graph.nodes for name in node.operands)
    return result


def ancestors(graph: Graph, names: Iterable[str]) -> set[str]:
    """All nodes that the given ones depend on, themselves included."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(graph[name].operands)
    return found


def reaches(graph: Graph, start: str, end: str) -> bool:
    """Whether `end` depends on `start`."""
    return bool(_networkx().has_path(digraph(graph), start, end))


def dominators(graph: Graph) -> dict[str, str]:
    """Immediate dominator of each node that the inputs reach, from a virtual root named ''."""
    whole = digraph(graph)
    whole.add_edges_from(("", node.name) for node in graph.nodes if not node.operands)
    return dict(_networkx().immediate_dominators(whole, ""))


def groups(graph: Graph, joins: Iterable[tuple[str, str]]) -> list[set[str]]:
    """Fusion groups: nodes connected by the given pairs, as components in graph order."""
    joined = _networkx().Graph()
    joined.add_nodes_from(node.name for node in graph.operators)
    joined.add_edges_from(joins)
    place = {node.name: i for i, node in enumerate(graph.nodes)}
    return sorted(map(set, _networkx().connected_components(joined)), key=lambda g: min(place[n] for n in g))
