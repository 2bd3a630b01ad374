"""What every target does to a graph before it selects kernels."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from convc.backends.computed import computed_weights
from convc.dims import Size, concrete
from convc.ir.graph import Graph, Node, constant, make_node
from convc.ops.base import optional
from convc.types import product

LAST, FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
"""Transpositions to [N, H, W, C], and back."""


def prepare(graph: Graph, convolve_from: int | None = None) -> Graph:
    """The graph as kernels take it. `convolve_from`: as in `flatten_linears`."""
    return flatten_linears(multiply_single_pixels(computed_weights(graph)), convolve_from)


def multiply_single_pixels(graph: Graph) -> Graph:
    """A transposed convolution of maps of one pixel, without padding, is a product with its kernels: a linear.

    y[n, k, r, s] = sum over c of x[n, c] w[c, k, r, s]. As a convolution it would multiply mostly zeros.
    """
    found = {node.name for node in graph.nodes if _multiplies_pixels(graph, node)}
    if not found:
        return graph
    made: dict[str, Node] = {}

    def fresh(name: str) -> str:
        return fresh(f"{name}_") if name in made or name in graph else name

    def keep(node: Node) -> Node:
        made[node.name] = node
        return node

    for node in graph.nodes:
        if node.name not in found:
            made[node.name] = node
            continue
        x, w, b, residual = (*(made[name] if name else None for name in node.inputs), None, None)[:4]
        assert x is not None and w is not None
        batch, channels = x.type.shape[:2]
        count = product(node.type.shape[1:])
        kernels = w.array.reshape(concrete(channels, {}), -1).T
        operands: list[Node | None] = [
            keep(make_node("reshape", fresh(f"{node.name}.x"), [x], {"shape": (batch, channels)})),
            keep(constant(fresh(f"{node.name}.w"), kernels, source=w.source)),
        ]
        if b is not None:
            bias = np.repeat(b.array, concrete(product(node.type.shape[2:]), {}))
            operands.append(keep(constant(fresh(f"{node.name}.b"), bias, source=b.source)))
        if residual is not None:
            operands += [None] * (3 - len(operands))
            operands.append(keep(make_node("reshape", fresh(f"{node.name}.r"), [residual], {"shape": (batch, count)})))
        attrs = {"activation": node.attrs["activation"]}
        done = keep(make_node("linear", fresh(f"{node.name}.rows"), operands, attrs, source=node.source))
        keep(make_node("reshape", node.name, [done], {"shape": node.type.shape}, source=node.source))
    return Graph.build(graph.name, _alive(made, graph), graph.outputs, graph.nominal)


def _multiplies_pixels(graph: Graph, node: Node) -> bool:
    if node.op != "conv_transpose2d":
        return False
    x, w = (graph[str(name)] for name in node.inputs[:2])
    attrs, known = node.attrs, w.op == "constant" and w.value.present
    whole = x.type.shape[2:] == (1, 1) and node.type.shape[2:] == w.type.shape[2:] and not any(attrs["padding"])
    return known and whole and attrs["groups"] == 1 and attrs["dilation"] == (1, 1) and _known_bias(graph, node)


def _known_bias(graph: Graph, node: Node) -> bool:
    name = node.input("b")
    return name is None or (graph[name].op == "constant" and graph[name].value.present)


def flatten_linears(graph: Graph, convolve_from: int | None = None) -> Graph:
    """A linear on [..., I] becomes one on [rows, I] between reshapes.

    With `convolve_from` nominal rows or more it becomes a 1x1 convolution, whose kernels reuse the weights that a
    linear's read once: on [N, I, H, W] between transpositions where its input was turned to have channels last, else on
    [rows, I, 1, 1] between reshapes. Convolutions that follow each other have nothing in between.
    """
    many = {node.name for node in graph.nodes if node.op == "linear" and _has_rows(graph, node, convolve_from)}
    if not many and all(node.op != "linear" or node.type.rank == 2 for node in graph.nodes):
        return graph
    made: dict[str, Node] = {}
    turned = _turned(graph, many)
    before: dict[str, Node] = {}  # by value, what it is a reshape or a transposition of

    def fresh(name: str) -> str:
        return fresh(f"{name}_") if name in made or name in graph else name

    def keep(node: Node) -> Node:
        made[node.name] = node
        return node

    def entering(node: Node, slot: str, value: Node) -> Node:
        """A value as the multiplication takes it: with channels first, or in rows."""
        shape, last = value.type.shape[:-1], value.type.shape[-1]
        first: tuple[Size, ...] = (product(shape), last)
        op = "reshape"
        if node.name in turned:
            op, first = "transpose", (shape[0], last, *shape[1:])
        elif node.name in many:
            first = (*first, 1, 1)
        if value.name in before and before[value.name].type.shape == first:
            return before[value.name]
        attrs: dict[str, Any] = {"perm": FIRST} if op == "transpose" else {"shape": first}
        return keep(make_node(op, fresh(f"{node.name}.{slot}"), [value], attrs))

    for node in graph.nodes:
        if node.op == "transpose" and node.name in turned:
            before[node.name] = made[str(node.inputs[0])]
        if node.op != "linear" or (node.type.rank == 2 and node.name not in many):
            made[node.name] = node
            continue
        operands = [made[name] if name is not None else None for name in node.inputs]
        for index, slot in ((0, "x"), (3, "residual")):
            if (value := optional(operands, index)) is not None:
                operands[index] = entering(node, slot, value)
        if node.name in many:
            w = graph[str(node.input("w"))]
            operands[1] = keep(constant(fresh(f"{node.name}.w"), w.array[:, :, None, None], source=w.source))
        op = "conv2d" if node.name in many else "linear"
        done = keep(make_node(op, fresh(f"{node.name}.rows"), operands, node.attrs))
        if node.name in turned:
            keep(make_node("transpose", node.name, [done], {"perm": LAST}))
        else:
            keep(make_node("reshape", node.name, [done], {"shape": node.type.shape}))
        before[node.name] = done
    return Graph.build(graph.name, _alive(made, graph), graph.outputs, graph.nominal)


def _turned(graph: Graph, many: Collection[str]) -> set[str]:
    """Values [N, H, W, C] that a transposition made, and layer norms and linears with many rows that follow it."""
    found: set[str] = set()
    for node in graph.nodes:
        first = node.inputs[0] if node.inputs else None
        made = node.op == "transpose" and tuple(node.attrs["perm"]) == LAST
        follows = first in found and (node.op == "layer_norm" or node.name in many)
        if node.type.rank == 4 and (made or follows):
            found.add(node.name)
    return found


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
