"""What a patch does to a network's outputs, measured: only what depends on it is evaluated again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from convc.dims import concrete
from convc.interp import evaluate_node
from convc.ir.graph import Graph, Node
from convc.ir.patch import Draft
from convc.passes.calibration import Calibration
from convc.passes.chain import Candidate
from convc.types import Array


@dataclass(frozen=True)
class State:
    """A graph without symbolic sizes, and the value of each of its nodes."""

    graph: Graph
    values: Mapping[str, Array]


@dataclass(frozen=True)
class Measured:
    """A state after a patch, and its relative output error; that of each example, if outputs have an axis of them."""

    state: State
    error: float
    by_example: Array | None


class Trial:
    """Measures patches against the outputs of the graph they started from.

    The error is max |y - y'| / max |y| over all elements of an output, and the largest of all outputs' errors.
    `work` counts multiply-adds evaluated so far.
    """

    def __init__(self, graph: Graph, calibration: Calibration) -> None:
        bound = graph.bind(**calibration.sizes)
        self.work = 0
        self.start = self._evaluated(bound, State(bound, {}), calibration.inputs)
        self._expected = [self.start.values[output.node].astype(np.float64) for output in bound.outputs]

    @property
    def finite(self) -> bool:
        """Whether the graph's outputs are finite, and not all zero."""
        return all(np.isfinite(y).all() and np.any(y) for y in self._expected)

    def measure(self, state: State, candidate: Candidate) -> Measured:
        """The state with the candidate's patch, and its error."""
        draft = Draft(state.graph)
        draft.apply(candidate.patch(draft))
        after = self._evaluated(draft.freeze(), state, {})
        differences = [
            np.abs(after.values[output.node] - y) / float(np.abs(y).max())
            for y, output in zip(self._expected, after.graph.outputs, strict=True)
        ]
        worst = max(float(d.max()) for d in differences)
        counts = {d.shape[0] if d.ndim else 0 for d in differences}
        by_example = None
        if len(counts) == 1 and counts != {0}:
            by_example = np.max([d.reshape(len(d), -1).max(1) for d in differences], 0)
        return Measured(after, worst if np.isfinite(worst) else float("inf"), by_example)

    def cost(self, name: str) -> int:
        """Multiply-adds that a patch of the node leads to."""
        graph = self.start.graph
        dirty = {name}
        total = 0
        for node in graph.nodes:
            if node.name in dirty or not dirty.isdisjoint(node.operands):
                dirty.add(node.name)
                total += concrete(graph.node_macs(node), {}) if node.op not in {"input", "constant"} else 0
        return total

    def _evaluated(self, graph: Graph, known: State, inputs: Mapping[str, Array]) -> State:
        """Values of a graph, those of nodes that it shares with `known` taken from there."""
        values: dict[str, Array] = {}
        dirty: set[str] = set()
        for node in graph.nodes:
            if node.name in known.values and known.graph[node.name] is node and dirty.isdisjoint(node.operands):
                values[node.name] = known.values[node.name]
                continue
            dirty.add(node.name)
            values[node.name] = inputs[node.name] if node.op == "input" else self._value(graph, node, values)
        return State(graph, values)

    def _value(self, graph: Graph, node: Node, values: Mapping[str, Array]) -> Array:
        if node.op != "constant":
            self.work += concrete(graph.node_macs(node), {})
        value = evaluate_node(node, [None if name is None else values[name] for name in node.inputs])
        return np.asarray(value, node.type.dtype.numpy, order="C")
