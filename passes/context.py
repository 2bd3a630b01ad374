"""What a pass may ask of its surroundings: limits, the target's predicted times, and whether to rewrite regardless."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from convc.dims import concrete
from convc.ir.graph import Graph, Node
from convc.ir.patch import Draft
from convc.limits import Limits
from convc.ops import OPS
from convc.types import TensorType


class CostModel(Protocol):
    """Predicts how long a node takes on a target, with the kernels that the target has."""

    def seconds(self, node: Node, inputs: Sequence[TensorType | None]) -> float:
        """Seconds of one execution. All types are concrete."""
        ...


@dataclass(frozen=True)
class MacCost:
    """A cost model without a target: a multiply-add is 10 ps, a float moved 0.1 ns, an operator 1 us."""

    def seconds(self, node: Node, inputs: Sequence[TensorType | None]) -> float:
        macs = concrete(OPS[node.op].macs(inputs, node.type, node.attrs), {})
        moved = sum(concrete(t.elements, {}) for t in (*inputs, node.type) if t is not None)
        return 1e-11 * macs + 1e-10 * moved + 1e-6


@dataclass(frozen=True)
class Context:
    """Limits of the model, the target's cost model, and `force`: rewrite also where nothing is gained."""

    limits: Limits = field(default_factory=Limits)
    cost: CostModel = field(default_factory=MacCost)
    force: bool = False

    def seconds(self, graph: Graph | Draft, nodes: Sequence[Node], nominal: Mapping[str, int]) -> float:
        """Predicted time of nodes that are in `graph`, or that are new and read each other or nodes of it."""
        new = {node.name: node for node in nodes}
        total = 0.0
        for node in nodes:
            if node.op in {"input", "constant"}:
                continue
            found = [None if i is None else new[i] if i in new else graph[i] for i in node.inputs]
            operands = [None if n is None else n.type.bind(nominal) for n in found]
            total += self.cost.seconds(_bound(node, nominal), operands)
        return total


def _bound(node: Node, nominal: Mapping[str, int]) -> Node:
    return Node(node.name, node.op, node.inputs, node.attrs, node.type.bind(nominal), node.source)
