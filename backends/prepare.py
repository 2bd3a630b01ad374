"""What every target does to a graph before it selects kernels."""

from __future__ import annotations

from collections.abc import Mapping

from convc.dims import concrete
from convc.ir.graph import Graph, Node, constant, make_node
from convc.ops.base import optional
from convc.types import product


def flatten_linears(graph: Graph, convolve_from: int | None = None) -> Graph:
    """A linear on [..., I] becomes one on [rows, I] between reshapes.

    With `convolve_from` nominal rows or more it becomes a 1x1 convolution on [rows, I, 1, 1], whose kernels reuse the
    weights that a linear's read once; such convolutions that follow each other have no reshapes between.
    """
    many = {node.name for node in graph.nodes if node.op == "linear" and _has_rows(graph, node, convolve_from)}
    if not many and all(node.op != "linear" or node.type.rank == 2 for node in graph.nodes):
        return graph
    made: dict[str, Node] = {}
    by_rows: dict[str, Node] = {}  # the convolution whose rows are a value

    def fresh(name: str) -> str:
        return fresh(f"{name}_") if name in made or name in graph else name

    def keep(node: Node) -> Node:
        made[node.name] = node
        return node

    def in_rows(node: Node, slot: str, value: Node, rest: tuple[int, ...]) -> Node:
        if rest and value.name in by_rows:
            return by_rows[value.name]
        shape = (product(value.type.shape[:-1]), value.type.shape[-1], *rest)
        return keep(make_node("reshape", fresh(f"{node.name}.{slot}"), [value], {"shape": shape}))

    for node in graph.nodes:
        if node.op != "linear" or (node.type.rank == 2 and node.name not in many):
            made[node.name] = node
            continue
        rest = (1, 1) if node.name in many else ()
        operands = [made[name] if name is not None else None for name in node.inputs]
        for index, slot in ((0, "x"), (3, "residual")):
            if (value := optional(operands, index)) is not None:
                operands[index] = in_rows(node, slot, value, rest)
        if rest:
            w = graph[str(node.input("w"))]
            operands[1] = keep(constant(fresh(f"{node.name}.w"), w.array[:, :, None, None], source=w.source))
        rows = keep(make_node("conv2d" if rest else "linear", fresh(f"{node.name}.rows"), operands, node.attrs))
        keep(make_node("reshape", node.name, [rows], {"shape": node.type.shape}))
        if rest:
            by_rows[node.name] = rows
    return Graph.build(graph.name, _alive(made, graph), graph.outputs, graph.nominal)


def _alive(nodes: Mapping[str, Node], graph: Graph) -> list[Node]:
    """The nodes that outputs need, and the graph's inputs."""
    needed = {node.name for node in graph.inputs}
    waiting = [output.node for output in graph.outputs]
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            waiting += nodes[name].operands
    return [node for name, node in nodes.items() if name in needed]


def _has_rows(graph: Graph, node: Node, least: int | None) -> bool:
    """Whether a linear with known weights has so many rows at nominal sizes."""
    w = graph[str(node.input("w"))]
    known = w.op == "constant" and w.value.present
    return known and least is not None and concrete(product(node.type.shape[:-1]), graph.nominal) >= least
