"""The interpreter: names in and out, sizes, widths, and the errors of a wrong call."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convc.dims import Dim
from convc.errors import InputError
from convc.interp import bind_sizes, evaluate_node, run_graph, run_nodes
from convc.ir.graph import Graph, Output, constant, graph_input, make_node
from convc.types import Activation, Array, DType

N, H, W = (Dim.symbol(s) for s in "NHW")
F32 = DType.F32


def normal(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def small_network() -> Graph:
    x = graph_input("x", F32, (N, 3, H, W))
    w, fc = constant("w", normal(8, 3, 3, 3)), constant("fc", normal(5, 8))
    conv = make_node("conv2d", "conv", [x, w], {"padding": (1, 1, 1, 1), "activation": Activation("relu")})
    pool = make_node("max_pool2d", "pool", [conv], {"kernel": (2, 2), "stride": (2, 2)})
    mean = make_node("global_avg_pool", "mean", [pool])
    flat = make_node("reshape", "flat", [mean], {"shape": (N, 8)})
    logits = make_node("linear", "logits", [flat, fc])
    return Graph.build("small", [x, w, fc, conv, pool, mean, flat, logits], [Output("y", "logits"), "pool"])


def test_outputs_by_public_name() -> None:
    x = normal(2, 3, 6, 4)
    outputs = run_graph(small_network(), {"x": x})
    assert {name: value.shape for name, value in outputs.items()} == {"y": (2, 5), "pool": (2, 8, 3, 2)}
    assert all(value.dtype == np.float32 for value in outputs.values())
    nodes = run_nodes(small_network(), {"x": x})
    assert list(nodes) == [node.name for node in small_network().nodes]
    np.testing.assert_array_equal(nodes["logits"], outputs["y"])


def test_float64_is_carried_throughout() -> None:
    x = normal(1, 3, 4, 4)
    narrow, exact = run_graph(small_network(), {"x": x}), run_graph(small_network(), {"x": x}, dtype="float64")
    assert exact["y"].dtype == np.float64
    np.testing.assert_allclose(narrow["y"], exact["y"], rtol=1e-4, atol=1e-6)
    again = run_graph(small_network(), {"x": x.astype(np.float64)}, dtype="float64")
    np.testing.assert_array_equal(again["y"], exact["y"])


def test_casts_between_floats_do_nothing_when_wide() -> None:
    x = graph_input("x", F32, (2,))
    half = make_node("cast", "half", [x], {"to": DType.F16})
    count = make_node("cast", "count", [half], {"to": DType.I32})
    back = make_node("cast", "back", [count], {"to": DType.F16})
    graph = Graph.build("casts", [x, half, count, back], ["half", "count", "back"])
    value = np.array([1 / 3, 2049.0], np.float32)
    plain = run_graph(graph, {"x": value})
    assert [plain[k].dtype.name for k in ("half", "count", "back")] == ["float16", "int32", "float16"]
    np.testing.assert_array_equal(plain["count"], [0, 2048])
    wide = run_graph(graph, {"x": value}, dtype="float64")
    assert [wide[k].dtype.name for k in ("half", "count", "back")] == ["float64", "int32", "float64"]
    np.testing.assert_array_equal(wide["half"], value.astype(np.float64))
    np.testing.assert_array_equal(wide["back"], [0.0, 2049.0])


def test_outputs_are_new_and_inputs_stay() -> None:
    x = graph_input("x", F32, (2, 2))
    graph = Graph.build("same", [x, make_node("identity", "y", [x])], ["y", "x"])
    value = normal(2, 2)
    value.flags.writeable = False
    outputs = run_graph(graph, {"x": value})
    outputs["y"][:] = 0
    outputs["x"][:] = 0
    assert value.any()


def test_batch_of_none() -> None:
    outputs = run_graph(small_network(), {"x": np.zeros((0, 3, 4, 4), np.float32)})
    assert outputs["y"].shape == (0, 5)


@given(st.integers(1, 3), st.integers(2, 9), st.integers(2, 9))
@settings(max_examples=15, deadline=None)
def test_symbolic_sizes_follow_the_inputs(n: int, h: int, w: int) -> None:
    x = normal(n, 3, h, w)
    graph = small_network()
    outputs = run_graph(graph, {"x": x})
    fixed = run_graph(graph.bind(N=n, H=h, W=w), {"x": x})
    for name, value in outputs.items():
        np.testing.assert_array_equal(value, fixed[name])


def test_division_by_zero_is_silent(recwarn: pytest.WarningsRecorder) -> None:
    node = make_node("reciprocal", "y", [constant("x", np.zeros(1, np.float32))])
    assert np.isinf(evaluate_node(node, [np.zeros(1, np.float32)]))[0]
    assert not recwarn.list


def test_bytes_of_the_other_order() -> None:
    x = normal(1, 3, 4, 4)
    outputs = run_graph(small_network(), {"x": x.astype(">f4")})
    np.testing.assert_array_equal(outputs["y"], run_graph(small_network(), {"x": x})["y"])


@pytest.mark.parametrize(
    ("inputs", "found", "hint"),
    [
        ({}, "input x: f32[N, 3, H, W] is missing", "the inputs are x: f32[N, 3, H, W]"),
        ({"x": normal(1, 3, 4, 4), "z": normal(1)}, "small has no input z", "its inputs are x: f32[N, 3, H, W]"),
        ({"x": normal(1, 3, 4)}, "input x has shape [1, 3, 4], expected f32[N, 3, H, W]", "give 4 axes"),
        ({"x": normal(1, 4, 4, 4)}, "input x has shape [1, 4, 4, 4], expected f32[N, 3, H, W]", "resize the input"),
        ({"x": np.zeros((1, 3, 4, 4))}, "input x has dtype f64, expected f32", "convert with .astype('float32')"),
        ({"x": np.zeros((1, 3, 4, 4), complex)}, "input x has dtype complex128", "convert with .astype('float32')"),
        ({"x": normal(1, 3, 1, 4)}, "small does not take sizes H=1, N=1, W=4: max_pool2d %pool: window of 2", "larger"),
    ],
)
def test_wrong_call(inputs: dict[str, Any], found: str, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        run_graph(small_network(), inputs)
    assert found in caught.value.message
    assert hint in caught.value.hint


def test_sizes_must_agree_between_inputs() -> None:
    a, b = graph_input("a", F32, (N, 2)), graph_input("b", F32, (N, 2 * N))
    assert bind_sizes([a, b], {"a": (3, 2), "b": (3, 6)}) == {"N": 3}
    with pytest.raises(InputError, match=r"input b has shape \[4, 8\].*Hint: N is 3 in axis 0 of input a"):
        bind_sizes([a, b], {"a": (3, 2), "b": (4, 8)})
    with pytest.raises(InputError, match=r"input b has shape \[3, 7\], expected f32\[N, 2\*N\]"):
        bind_sizes([a, b], {"a": (3, 2), "b": (3, 7)})


def test_sizes_that_no_input_shows() -> None:
    x = graph_input("x", F32, (2 * N,))
    y = make_node("expand", "y", [x], {"shape": (H, 2 * N)})
    graph = Graph.build("hidden", [x, y], ["y"])
    with pytest.raises(InputError, match=r"do not determine the sizes H, N\. Hint: give sizes="):
        run_graph(graph, {"x": normal(4)})
    assert run_graph(graph, {"x": normal(4)}, sizes={"N": 2, "H": 3})["y"].shape == (3, 4)
    with pytest.raises(InputError, match=r"input x has shape \[4\], expected f32\[6\]\. Hint: sizes are H=3, N=3"):
        run_graph(graph, {"x": normal(4)}, sizes={"N": 3, "H": 3})
