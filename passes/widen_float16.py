"""float16 carried in float32: for targets that compute in float32.

    x: f16 -> cast(x): f32, every operator and constant in f32, outputs cast back to f16

Numerics: reassociates; at least as precise as rounding after every operator. Rejects: nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from convc.ir.graph import Graph, Node, Output, constant, make_node
from convc.passes.base import Numerics, PassResult, Rewrite
from convc.passes.context import Context
from convc.types import DType


@dataclass(frozen=True)
class WidenFloat16:
    """Carries float16 in float32 between inputs and outputs."""

    name: str = "widen_float16"
    numerics: Numerics = Numerics.REASSOCIATES
    doc: str = "carries float16 in float32, with casts at inputs and outputs"
    options: Mapping[str, Any] = field(default_factory=dict)

    def run(self, graph: Graph, context: Context) -> PassResult:
        halves = [node for node in graph.nodes if node.type.dtype is DType.F16]
        if not halves:
            return PassResult(graph)
        rewrites = tuple(Rewrite("widen", n.name, (), (n.name,), f"{n.type} carried in f32") for n in halves)
        return PassResult(_widened(graph), rewrites)


def _widened(graph: Graph) -> Graph:
    made: dict[str, Node] = {}
    nodes: list[Node] = []
    taken = {node.name for node in graph.nodes}

    def cast(node: Node, base: str, to: DType) -> Node:
        name = f"{base}.{to}"
        while name in taken:
            name += "_"
        taken.add(name)
        nodes.append(make_node("cast", name, [node], {"to": to}, source=node.source))
        return nodes[-1]

    for node in graph.nodes:
        half = node.type.dtype is DType.F16
        if node.op == "input":
            nodes.append(node)
            made[node.name] = cast(node, node.name, DType.F32) if half else node
            continue
        if node.op == "constant":
            new = constant(node.name, node.array.astype(np.float32), source=node.source) if half else node
        else:
            attrs = dict(node.attrs)
            if node.op == "cast" and half:
                attrs["to"] = DType.F32
            inputs = [made[i] if i is not None else None for i in node.inputs]
            new = make_node(node.op, node.name, inputs, attrs, source=node.source)
        nodes.append(new)
        made[node.name] = new
    outputs = []
    for output in graph.outputs:
        half = graph[output.node].type.dtype is DType.F16
        node = cast(made[output.node], output.node, DType.F16) if half else made[output.node]
        outputs.append(Output(output.name, node.name))
    return Graph.build(graph.name, nodes, outputs, graph.nominal)


WIDEN_FLOAT16 = WidenFloat16()
