"""float16 graphs carried in float32: what becomes of casts, constants and outputs, and how precise the CPU is."""

from __future__ import annotations

import numpy as np

import convc
from convc.interp import run_graph
from convc.passes import PASSES
from convc.passes.context import Context
from convc.types import DType

TEXT = """
graph "half" (N=1) {
  %x = input : f16[N, 5, 9, 9]
  %w = constant normal(seed=1, std=0.2) : f16[7, 5, 3, 3]
  %y = conv2d(%x, %w) {padding=[1, 1, 1, 1]} : f16[N, 7, 9, 9]
  %wide = cast(%y) {to=f32} : f32[N, 7, 9, 9]
  %narrow = cast(%wide) {to=f16} : f16[N, 7, 9, 9]
  %z = relu(%narrow) : f16[N, 7, 9, 9]
  return %z, %wide
}
"""


def test_only_inputs_and_outputs_stay_half() -> None:
    graph = convc.parse(TEXT)
    result = PASSES["widen_float16"].run(graph, Context())
    halves = {node.name for node in result.graph.nodes if node.type.dtype is DType.F16}
    assert halves == {"x", "z.f16"}
    assert [result.graph[o.node].type for o in result.graph.outputs] == [graph[o.node].type for o in graph.outputs]
    assert {r.node for r in result.rewrites} == {"x", "w", "y", "narrow", "z"}


def test_a_float32_graph_is_left_alone() -> None:
    graph = convc.parse(TEXT.replace("f16", "f32"))
    assert PASSES["widen_float16"].run(graph, Context()).graph is graph


def test_the_cpu_rounds_once() -> None:
    graph = convc.parse(TEXT)
    x = np.random.default_rng(0).standard_normal((2, 5, 9, 9)).astype(np.float16)
    wide = run_graph(graph, {"x": x}, dtype="float64")
    for passes in ("default", "none"):
        found = convc.compile(graph, passes=passes, threads=1).run({"x": x})
        assert found["z"].dtype == np.float16 and found["wide"].dtype == np.float32
        np.testing.assert_allclose(found["wide"], wide["wide"], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(found["z"], np.maximum(found["wide"], 0).astype(np.float16))
