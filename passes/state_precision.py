"""The precision that a target computes in, and what it costs: max |y - y'| / max |y| over the outputs.

y is the network in float64; y' in float32, with weights and activations rounded to the precision's storage after every
operator, as the target's kernels round when they store; sums stay float32. Both on one seeded normal input at nominal
sizes: an estimate made without the target, which adds its own order of sums.

Numerics: approximate, as asked for; changes nothing of the graph. Rejects: networks of more than 2e10 multiply-adds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from convc.interp import evaluate_node, run_graph
from convc.ir.graph import Graph
from convc.passes.base import Numerics, PassResult, Reject, Rewrite
from convc.passes.context import Context
from convc.types import Array

MOST_MACS = 2e10
FRACTION_BITS = {"float32": 23, "tf32": 10, "float16": 10, "bfloat16": 7}
SEED = 0


@dataclass(frozen=True)
class StatePrecision:
    """States the error of a precision."""

    precision: str
    name: str = "state_precision"
    numerics: Numerics = Numerics.APPROXIMATE
    doc: str = "states the error of the precision that was asked for"
    options: Mapping[str, Any] = field(default_factory=dict)

    def run(self, graph: Graph, context: Context) -> PassResult:
        what = f"precision {self.precision}"
        if not graph.outputs:
            return PassResult(graph)
        node = graph.outputs[0].node
        if graph.macs() > MOST_MACS:
            reason = f"{what}: {graph.macs():.1e} multiply-adds are too many to estimate the error here"
            return PassResult(graph, (), (Reject(node, reason, "state"),))
        error = estimated_error(graph, self.precision)
        note = f"{what}: estimated error {error:.1e} of the largest output, against float64"
        unit = 2.0 ** -(FRACTION_BITS[self.precision] + 1)
        return PassResult(graph, (Rewrite("state", node, (), (), note, {"output_error": error, "unit": unit}),))


def rounding(precision: str) -> Callable[[Array], Array]:
    """A function that rounds float32 to the storage of a precision; other element types pass."""

    def apply(array: Array) -> Array:
        if array.dtype != np.float32 or precision == "float32":
            return array
        if precision == "float16":
            return array.astype(np.float16).astype(np.float32)
        drop = 23 - FRACTION_BITS[precision]
        bits = np.ascontiguousarray(array).view(np.uint32)
        odd = (bits >> np.uint32(drop)) & np.uint32(1)
        rounded = (bits + np.uint32((1 << (drop - 1)) - 1) + odd) & np.uint32(-(1 << drop) & 0xFFFFFFFF)
        kept: Array = np.where(np.isfinite(array), rounded, bits).view(np.float32)
        return kept

    return apply


def estimated_error(graph: Graph, precision: str) -> float:
    """The largest difference to float64 over the outputs, of the largest magnitude of each."""
    bound = graph.bind(**graph.nominal) if graph.nominal else graph
    random = np.random.default_rng(SEED)
    inputs: dict[str, Array] = {}
    for node in bound.inputs:
        shape = node.type.concrete({})
        if node.type.dtype.is_float:
            inputs[node.name] = random.normal(size=shape).astype(np.float32)
        else:
            inputs[node.name] = random.integers(0, 2, shape).astype(node.type.dtype.numpy)
    wide = {k: v.astype(np.float64) if v.dtype == np.float32 else v for k, v in inputs.items()}
    exact = run_graph(bound, wide, dtype="float64")
    found = _run_rounded(bound, inputs, rounding(precision))
    worst = 0.0
    for name, want in exact.items():
        if not np.issubdtype(want.dtype, np.floating):
            continue
        scale = float(np.max(np.abs(want[np.isfinite(want)]), initial=0.0))
        with np.errstate(all="ignore"):
            difference = np.abs(found[name].astype(np.float64) - want)
        worst = max(worst, float(np.max(difference[np.isfinite(difference)], initial=0.0)) / max(scale, 1e-30))
    return worst


def _run_rounded(graph: Graph, inputs: Mapping[str, Array], to: Callable[[Array], Array]) -> dict[str, Array]:
    users = Counter(i for node in graph.nodes for i in node.inputs if i is not None)
    kept = {output.node for output in graph.outputs}
    values: dict[str, Array] = {}
    for node in graph.nodes:
        if node.op == "input":
            value = inputs[node.name]
        else:
            value = evaluate_node(node, [None if i is None else values[i] for i in node.inputs])
            for name in set(node.operands):
                users[name] -= node.operands.count(name)
                if users[name] == 0 and name not in kept:
                    del values[name]
        values[node.name] = to(value)
    return {output.name: values[output.node] for output in graph.outputs}
