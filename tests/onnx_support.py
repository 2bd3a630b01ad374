"""Small ONNX models, and both ONNX Runtime and the interpreter run on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from convc.frontends.onnx import load_onnx
from convc.interp import run_graph
from convc.ir.graph import Graph
from convc.ir.verify import verify
from convc.types import Array

onnxruntime.set_default_logger_severity(4)

Shape = Sequence[int | str | None]


def node(op: str, inputs: str, outputs: str = "y", **attrs: Any) -> onnx.NodeProto:
    """A node named after its first output, `n_y`; inputs and outputs are separated by spaces, `_` leaves one out."""
    read = ["" if name == "_" else name for name in inputs.split()]
    return helper.make_node(op, read, outputs.split(), name=f"n_{outputs.split()[0]}", **attrs)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Shape | Array],
    weights: Mapping[str, Any] | None = None,
    *,
    opset: int = 17,
    outputs: str = "y",
    dtype: int = TensorProto.FLOAT,
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    """A model; an input is a shape (of `dtype`), or an array of that type and shape."""
    infos = []
    for name, shape in inputs.items():
        kind = dtype
        if isinstance(shape, np.ndarray):
            kind, shape = helper.np_dtype_to_tensor_dtype(shape.dtype), shape.shape
        infos.append(helper.make_tensor_value_info(name, kind, shape))
    graph = helper.make_graph(
        list(nodes), "net", infos,
        [onnx.ValueInfoProto(name=name) for name in outputs.split()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (weights or {}).items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(f.domain, 1) for f in functions)]
    return helper.make_model(
        graph, opset_imports=opsets, ir_version=max(helper.find_min_ir_version_for(opsets[:1]), 8), functions=functions
    )


def floats(*shape: int, seed: int = 0) -> Array:
    """Normal numbers."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def runtime(proto: onnx.ModelProto, inputs: Mapping[str, Array]) -> list[Array]:
    """Outputs of ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    data = proto.SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return [np.asarray(y) for y in session.run(None, dict(inputs))]


def assert_close(found: Sequence[Array], expected: Sequence[Array], rtol: float = 1e-4, atol: float = 1e-5) -> None:
    """Types and shapes equal, elements close."""
    assert len(found) == len(expected)
    for got, want in zip(found, expected, strict=True):
        assert got.dtype == want.dtype and got.shape == want.shape, (got.dtype, got.shape, want.dtype, want.shape)
        np.testing.assert_allclose(got, want, rtol=rtol, atol=atol)


def check(proto: onnx.ModelProto, inputs: Mapping[str, Array], graph: Graph | None = None, **options: Any) -> Graph:
    """Import, verify, run, and compare with ONNX Runtime; the graph."""
    graph = graph or load_onnx(proto, **options)
    verify(graph)
    assert_close(list(run_graph(graph, inputs).values()), runtime(proto, inputs))
    return graph
