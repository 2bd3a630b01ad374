"""The networks that the onnx package carries, compiled: stored outputs, and seeded weights, which hide no error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

import convc
from convc.frontends.onnx import load_onnx
from convc.interp import run_graph
from convc.ir.graph import Graph, Node, constant
from convc.types import Array

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
NAMES = sorted(path.stem for path in LIGHT.glob("light_*.onnx"))
TOLERANCE = 1e-4


def seeded(graph: Graph) -> Graph:
    """The same network with random weights that keep activations in range; variances are positive."""
    random = np.random.default_rng(7)
    variances = {node.inputs[4] for node in graph.operators if node.op == "batch_norm"}

    def drawn(node: Node) -> Node:
        if node.op != "constant" or node.array.dtype != np.float32 or node.array.size < 2:
            return node
        shape = node.array.shape
        scale = np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.1
        values = random.standard_normal(shape) * scale
        if len(shape) == 1:
            values = 0.5 + (np.abs(values) if node.name in variances else values)
        return constant(node.name, values.astype(np.float32))

    return Graph.build(graph.name, [drawn(node) for node in graph.nodes], graph.outputs, graph.nominal)


def error(found: Array, expected: Array) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize(
    "name", [name if name == "light_squeezenet" else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_stored_outputs_and_seeded_weights(name: str) -> None:
    graph = load_onnx(LIGHT / f"{name}.onnx")
    (source,) = graph.inputs
    shape = source.type.concrete({})
    ramp = (np.arange(np.prod(shape)).reshape(shape) / np.prod(shape)).astype(np.float32)
    stored = TensorProto.FromString((LIGHT / f"{name}_output_0.pb").read_bytes())
    assert error(convc.compile(graph, threads=1)(ramp), numpy_helper.to_array(stored)) < TOLERANCE
    drawn = seeded(graph)
    x = np.random.default_rng(8).standard_normal(shape).astype(np.float32)
    (expected,) = run_graph(drawn, {source.name: x}, dtype="float64").values()
    for passes in ("default", "none"):
        assert error(convc.compile(drawn, passes=passes, threads=1)(x), expected) < TOLERANCE


def test_there_are_nine() -> None:
    assert len(NAMES) == 9
