"""The ONNX importer: every operator and opset form, against ONNX Runtime; symbolic shapes; names."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_support import assert_close, check, floats, model, node, runtime

from convc.dims import Dim
from convc.errors import InputError, ModelError
from convc.frontends.onnx import load_onnx
from convc.frontends.onnx.known import at_least, least
from convc.interp import run_graph
from convc.types import Array

IMAGE = floats(2, 6, 9, 8)


def int64(*values: int) -> Array:
    return np.array(values, np.int64)


UNARY: list[tuple[str, int, dict[str, Any]]] = [
    ("Relu", 7, {}), ("LeakyRelu", 7, {"alpha": 0.2}), ("LeakyRelu", 16, {}), ("Sigmoid", 13, {}),
    ("HardSigmoid", 7, {"alpha": 0.3, "beta": 0.4}), ("HardSigmoid", 7, {}), ("HardSwish", 14, {}), ("Tanh", 7, {}),
    ("Elu", 7, {"alpha": 0.7}), ("Selu", 7, {}), ("Selu", 7, {"alpha": 1.1, "gamma": 0.9}),
    ("Celu", 12, {"alpha": 2.0}),
    ("Softplus", 7, {}), ("Softsign", 7, {}), ("Mish", 18, {}), ("Erf", 9, {}), ("Gelu", 20, {}),
    ("Gelu", 20, {"approximate": "tanh"}), ("Exp", 7, {}), ("Log", 7, {}), ("Sqrt", 7, {}), ("Reciprocal", 7, {}),
    ("Neg", 7, {}), ("Abs", 7, {}), ("Floor", 7, {}), ("Ceil", 7, {}), ("Round", 11, {}), ("Sign", 9, {}),
    ("Sin", 7, {}), ("Cos", 7, {}), ("Tan", 7, {}), ("Sinh", 9, {}), ("Cosh", 9, {}), ("Identity", 7, {}),
    ("Dropout", 7, {"ratio": 0.3}), ("Dropout", 10, {}), ("Dropout", 13, {}), ("ThresholdedRelu", 10, {"alpha": 0.4}),
    ("Clip", 7, {"min": -0.5, "max": 0.25}), ("Clip", 6 + 1, {"max": 0.25}), ("Clip", 11, {}), ("IsNaN", 13, {}),
    ("Softmax", 7, {}), ("Softmax", 12, {"axis": 2}), ("Softmax", 11, {"axis": -1}), ("Softmax", 13, {}),
    ("Softmax", 13, {"axis": 1}), ("LogSoftmax", 7, {}), ("LogSoftmax", 13, {"axis": 2}), ("Hardmax", 7, {}),
    ("Hardmax", 13, {}), ("LRN", 13, {"size": 3, "alpha": 0.1, "beta": 0.6, "bias": 2.0}), ("LRN", 7, {"size": 5}),
    ("MeanVarianceNormalization", 13, {}), ("MeanVarianceNormalization", 9, {"axes": [2, 3]}),
    ("LpNormalization", 7, {"axis": 1}), ("LpNormalization", 7, {"axis": 1, "p": 1}),
    ("GlobalAveragePool", 7, {}), ("GlobalMaxPool", 7, {}), ("Flatten", 7, {}), ("Flatten", 13, {"axis": -1}),
    ("Flatten", 9, {"axis": 0}), ("Flatten", 9, {"axis": 4}), ("Transpose", 7, {}),
    ("Transpose", 13, {"perm": [0, 2, 3, 1]}),
    ("ArgMax", 7, {"axis": 1}), ("ArgMax", 13, {"axis": -1, "keepdims": 0, "select_last_index": 1}),
    ("ArgMin", 13, {"axis": 2, "keepdims": 0}), ("Size", 13, {}), ("Shape", 13, {}),
    ("Shape", 15, {"start": 1, "end": -1}),
    ("DepthToSpace", 7, {"blocksize": 1}), ("Cast", 9, {"to": TensorProto.INT32}),
    ("Cast", 13, {"to": TensorProto.DOUBLE}),
    ("Pad", 7, {"pads": [0, 0, 1, 2, 0, 1, 3, 0], "value": 1.5}),
    ("Pad", 10, {"pads": [0, 0, 1, 2, 0, 0, 3, 0], "mode": "reflect"}),
    ("Pad", 7, {"pads": [0, 0, -1, 2, 0, 0, 3, -2], "mode": "edge"}), ("Squeeze", 11, {}),
    ("Unsqueeze", 11, {"axes": [0, 5]}),
    ("Split", 11, {}), ("Slice", 9, {"starts": [1, -3], "ends": [1000, -1], "axes": [1, 2]}),
    ("Slice", 9, {"starts": [1], "ends": [2]}),
    ("Upsample", 7, {"scales": [1.0, 1.0, 2.0, 3.0]}),
    ("Upsample", 8, {"scales": [1.0, 1.0, 2.0, 2.0], "mode": "linear"}),
    ("ReduceMean", 7, {"axes": [2, 3]}), ("ReduceMean", 13, {"axes": [-1], "keepdims": 0}),
    ("ReduceSum", 11, {"axes": [1]}),
    ("ReduceSum", 7, {}), ("ReduceMax", 13, {"axes": [2, 3], "keepdims": 0}), ("ReduceMin", 11, {"axes": [0]}),
    ("ReduceProd", 13, {"axes": [3]}), ("ReduceL1", 13, {"axes": [3]}), ("ReduceL2", 13, {"axes": [1, 3]}),
    ("ReduceSumSquare", 13, {"axes": [1]}), ("ReduceLogSumExp", 13, {"axes": [1], "keepdims": 0}),
    ("MaxPool", 7, {"kernel_shape": [3, 2]}),
    ("MaxPool", 12, {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 0, 1, 1], "dilations": [2, 1]}),
    ("MaxPool", 12, {"kernel_shape": [3, 3], "strides": [2, 3], "ceil_mode": 1}),
    ("MaxPool", 8, {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    ("MaxPool", 8, {"kernel_shape": [4, 4], "strides": [3, 2], "auto_pad": "SAME_LOWER"}),
    ("MaxPool", 11, {"kernel_shape": [2, 2], "auto_pad": "VALID"}),
    ("AveragePool", 7, {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    ("AveragePool", 11, {"kernel_shape": [3, 3], "pads": [1, 1, 0, 1], "count_include_pad": 1}),
    ("AveragePool", 10, {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    ("AveragePool", 19, {"kernel_shape": [2, 3], "dilations": [2, 1]}),
    ("AveragePool", 7, {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    ("SpaceToDepth", 13, {"blocksize": 1}),
]  # fmt: skip


def _ids(rows: list[tuple[str, int, dict[str, Any]]]) -> list[str]:
    return [f"{op}-{opset}-{'-'.join(attrs)}" for op, opset, attrs in rows]


@pytest.mark.parametrize(("op", "opset", "attrs"), UNARY, ids=_ids(UNARY))
def test_operators_of_one_input(op: str, opset: int, attrs: dict[str, Any]) -> None:
    positive = op in {"Log", "Sqrt", "Reciprocal"}
    x = np.abs(IMAGE) + 0.1 if positive else IMAGE
    outputs = "y z" if op == "Split" else "y"
    check(model([node(op, "x", outputs, **attrs)], {"x": x}, opset=opset, outputs=outputs), {"x": x})


BINARY = ["Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "Mean", "Equal", "Less", "LessOrEqual", "Greater",
          "GreaterOrEqual"]  # fmt: skip


@pytest.mark.parametrize("op", BINARY)
@pytest.mark.parametrize("opset", [8, 13, 17])
def test_operators_of_two_inputs_broadcast(op: str, opset: int) -> None:
    if op in {"LessOrEqual", "GreaterOrEqual"} and opset < 12:
        pytest.skip("came with opset 12")
    if op == "Equal" and opset < 11:
        pytest.skip("on floats since opset 11")
    a, b = np.abs(floats(2, 1, 4, 5)), floats(3, 1, 5, seed=1)
    check(model([node(op, "a b")], {"a": a, "b": b}, opset=opset), {"a": a, "b": b})


@pytest.mark.parametrize("op", ["Add", "Div", "Mod", "Mul"])
def test_integers(op: str) -> None:
    a, b = np.array([7, -7, 7, -7], np.int32), np.array([3, 3, -3, -3], np.int32)
    check(model([node(op, "a b")], {"a": a, "b": b}, opset=13), {"a": a, "b": b})


def test_fmod_and_logic_and_where() -> None:
    a, b = floats(3, 4), floats(3, 4, seed=1)
    nodes = [
        node("Mod", "a b", "m", fmod=1), node("Greater", "m a", "p"), node("Less", "a b", "q"), node("Or", "p q", "o"),
        node("And", "p q", "n"), node("Xor", "o n", "r"), node("Not", "r", "s"), node("Where", "s a m", "y"),
    ]  # fmt: skip
    check(model(nodes, {"a": a, "b": b}), {"a": a, "b": b})


def test_max_of_three_and_sum_of_one() -> None:
    inputs = {name: floats(3, seed=i) for i, name in enumerate("abc")}
    nodes = [node("Max", "a b c", "m"), node("Min", "a b c", "k"), node("Sum", "m", "s"), node("Mean", "s k a", "y")]
    check(model(nodes, inputs), inputs)


@pytest.mark.parametrize("bounds", ["x low high", "x low", "x _ high"])
@pytest.mark.parametrize("constant", [True, False])
def test_clip_takes_bounds_as_inputs(bounds: str, constant: bool) -> None:
    values = {"low": np.float32(-0.5), "high": np.float32(0.5)}
    used = {k: v for k, v in values.items() if k in bounds}
    inputs = {"x": IMAGE} if constant else {"x": IMAGE, **{k: np.asarray(v) for k, v in used.items()}}
    graph = check(model([node("Clip", bounds)], inputs, used if constant else {}, opset=13), inputs)
    assert ("clip" in {n.op for n in graph.operators}) == constant


def test_prelu_and_cast_like() -> None:
    check(model([node("PRelu", "x s")], {"x": IMAGE}, {"s": floats(6, 1, 1)}, opset=9), {"x": IMAGE})
    check(model([node("CastLike", "x s")], {"x": IMAGE}, {"s": np.zeros(1, np.int8)}, opset=15), {"x": IMAGE})


def test_swish_is_silu() -> None:
    proto = model([node("Swish", "x"), node("Swish", "y", "z", alpha=2.0)], {"x": IMAGE}, opset=24, outputs="y z")
    found = run_graph(load_onnx(proto), {"x": IMAGE})
    np.testing.assert_allclose(found["y"], IMAGE / (1 + np.exp(-IMAGE)), rtol=1e-5)
    np.testing.assert_allclose(found["z"], found["y"] / (1 + np.exp(-2 * found["y"])), rtol=1e-5, atol=1e-6)


CONVOLUTIONS: list[dict[str, Any]] = [
    {}, {"pads": [1, 2, 0, 1]}, {"strides": [2, 1]}, {"dilations": [2, 1], "pads": [1, 1, 1, 1]}, {"group": 2},
    {"group": 6}, {"auto_pad": "SAME_UPPER", "strides": [2, 3]}, {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
    {"auto_pad": "VALID"}, {"auto_pad": "NOTSET", "kernel_shape": [3, 2]},
]  # fmt: skip


@pytest.mark.parametrize("attrs", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("opset", [7, 11])
def test_conv(attrs: dict[str, Any], opset: int) -> None:
    w = floats(12, 6 // attrs.get("group", 1), 3, 2, seed=1)
    graph = check(
        model([node("Conv", "x w b", **attrs)], {"x": IMAGE}, {"w": w, "b": floats(12)}, opset=opset), {"x": IMAGE}
    )
    assert [n.op for n in graph.operators] == ["conv2d"]


@pytest.mark.parametrize(
    "attrs", [{}, {"pads": [1, 2], "strides": [2]}, {"group": 2}, {"auto_pad": "SAME_UPPER"}], ids=str
)
def test_one_dimensional_conv_and_pools(attrs: dict[str, Any]) -> None:
    x, w = floats(2, 4, 11), floats(6, 4 // attrs.get("group", 1), 3)
    check(model([node("Conv", "x w", **attrs)], {"x": x}, {"w": w}, opset=11), {"x": x})
    attrs = {k: v for k, v in attrs.items() if k != "group"}
    for op in ("MaxPool", "AveragePool"):
        attrs["pads" if "pads" in attrs else "kernel_shape"] = [1, 1] if "pads" in attrs else [3]
        check(model([node(op, "x", **{"kernel_shape": [3], **attrs})], {"x": x}, opset=11), {"x": x})
    check(model([node("GlobalAveragePool", "x")], {"x": x}, opset=11), {"x": x})


@pytest.mark.parametrize(("auto_pad", "pads"), [("SAME_UPPER", [2, 0, 2, 1]), ("SAME_LOWER", [2, 1, 2, 0])])
def test_auto_pad_knows_dilation_and_symbolic_sizes(auto_pad: str, pads: list[int]) -> None:
    w = floats(4, 6, 3, 2)
    same = model(
        [node("Conv", "x w", auto_pad=auto_pad, dilations=[2, 1])], {"x": ["N", 6, "H", "W"]}, {"w": w}, opset=11
    )
    explicit = model([node("Conv", "x w", pads=pads, dilations=[2, 1])], {"x": IMAGE}, {"w": w}, opset=11)
    check(explicit, {"x": IMAGE}, load_onnx(same))
    strided = model(
        [node("Conv", "x w", auto_pad=auto_pad, strides=[2, 1])], {"x": ["N", 6, "H", 8]}, {"w": w}, opset=11
    )
    with pytest.raises(
        ModelError, match=r"Conv n_y: auto_pad=SAME_\w+ with stride 2 pads symbolic size H.*input_shapes"
    ):
        load_onnx(strided)


TRANSPOSED: list[dict[str, Any]] = [
    {}, {"strides": [2, 3], "pads": [1, 0, 0, 1]}, {"strides": [2, 2], "output_padding": [1, 0]}, {"group": 2},
    {"dilations": [2, 1]}, {"strides": [2, 2], "auto_pad": "SAME_UPPER"}, {"strides": [2, 2], "auto_pad": "SAME_LOWER"},
    {"strides": [2, 2], "output_shape": [17, 17]}, {"strides": [3, 3], "output_shape": [28, 25]}, {"auto_pad": "VALID"},
]  # fmt: skip


@pytest.mark.parametrize("attrs", TRANSPOSED, ids=str)
def test_conv_transpose(attrs: dict[str, Any]) -> None:
    w = floats(6, 4, 3, 3, seed=1)
    b = floats(4 * attrs.get("group", 1))
    check(model([node("ConvTranspose", "x w b", **attrs)], {"x": IMAGE}, {"w": w, "b": b}, opset=11), {"x": IMAGE})


def test_one_dimensional_conv_transpose() -> None:
    x, w = floats(2, 4, 7), floats(4, 3, 4)
    attrs: dict[str, Any] = {"strides": [2], "output_padding": [1], "pads": [1, 1]}
    check(model([node("ConvTranspose", "x w", **attrs)], {"x": x}, {"w": w}, opset=11), {"x": x})


@pytest.mark.parametrize("opset", [7, 9, 14, 15])
def test_batch_normalization(opset: int) -> None:
    stats = {"g": floats(6), "b": floats(6, seed=1), "m": floats(6, seed=2), "v": np.abs(floats(6, seed=3))}
    attrs = {"spatial": 1} if opset < 9 else {"epsilon": 1e-3}
    check(model([node("BatchNormalization", "x g b m v", **attrs)], {"x": IMAGE}, stats, opset=opset), {"x": IMAGE})


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("attrs", [{}, {"exclusive": 1}, {"reverse": 1}, {"exclusive": 1, "reverse": 1}], ids=str)
def test_cumsum_keeps_what_is_not_finite_where_it_belongs(axis: int, attrs: dict[str, Any]) -> None:
    x = floats(3, 5, 4)
    x[1, 2, 1], x[2, 0, 3] = np.inf, np.nan
    check(model([node("CumSum", "x a", **attrs)], {"x": x}, {"a": np.array(axis)}, opset=14), {"x": x})
    check(model([node("CumSum", "x a", **attrs)], {"x": floats(7)}, {"a": np.array(0)}, opset=14), {"x": floats(7)})


def test_weights_that_batch_normalization_standardises() -> None:
    """As networks without norms of their own are exported: in training mode, on the weights alone."""
    nodes = [
        node("BatchNormalization", "w g b m v", "s r t", training_mode=1, epsilon=1e-4, momentum=1.0),
        node("Reshape", "s shape", "k"), node("Conv", "x k"),
    ]  # fmt: skip
    weights = {"w": floats(1, 4, 54, seed=1), "g": floats(4, seed=2), "b": floats(4, seed=3)}
    stats = {"m": np.zeros(4, np.float32), "v": np.ones(4, np.float32), "shape": int64(4, 6, 3, 3)}
    check(model(nodes, {"x": IMAGE}, weights | stats), {"x": IMAGE})


def test_layer_instance_and_group_normalization() -> None:
    affine = {"g": floats(6), "b": floats(6, seed=1)}
    check(model([node("InstanceNormalization", "x g b", epsilon=1e-3)], {"x": IMAGE}, affine), {"x": IMAGE})
    layer = {"g": floats(9, 8), "b": floats(9, 8, seed=1)}
    check(model([node("LayerNormalization", "x g b", axis=2)], {"x": IMAGE}, layer, opset=17), {"x": IMAGE})
    nodes = [node("LayerNormalization", "x g", "y mean deviation", axis=-2, epsilon=1e-3)]
    check(model(nodes, {"x": IMAGE}, {"g": layer["g"]}, opset=17, outputs="y mean deviation"), {"x": IMAGE})
    group = {"g": floats(6), "b": floats(6, seed=1)}
    check(model([node("GroupNormalization", "x g b", num_groups=3)], {"x": IMAGE}, group, opset=21), {"x": IMAGE})


def test_group_normalization_18_has_a_scale_for_each_group() -> None:
    scale, bias = floats(3), floats(3, seed=1)
    nodes = [node("GroupNormalization", "x g b", num_groups=3, epsilon=1e-4)]
    proto = model(nodes, {"x": IMAGE}, {"g": scale, "b": bias}, opset=18)
    parts = IMAGE.reshape(2, 3, -1)
    unit = (parts - parts.mean(2, keepdims=True)) / np.sqrt(parts.var(2, keepdims=True) + 1e-4)
    expected = (unit * scale[:, None] + bias[:, None]).reshape(IMAGE.shape)
    np.testing.assert_allclose(run_graph(load_onnx(proto), {"x": IMAGE})["y"], expected, rtol=1e-4, atol=1e-5)


GEMMS = [{}, {"transA": 1}, {"transB": 1}, {"alpha": 0.5, "beta": 2.0}, {"transA": 1, "transB": 1, "alpha": 2.0}]


@pytest.mark.parametrize("attrs", GEMMS, ids=str)
@pytest.mark.parametrize("bias", [(), (5,), (1, 5), (1,), (4, 1), (4, 5), None], ids=str)
@pytest.mark.parametrize("constant", [True, False])
def test_gemm(attrs: dict[str, Any], bias: tuple[int, ...] | None, constant: bool) -> None:
    a = floats(*((3, 4) if attrs.get("transA") else (4, 3)))
    b = floats(*((5, 3) if attrs.get("transB") else (3, 5)), seed=1)
    c = {} if bias is None else {"c": np.asarray(floats(*bias, seed=2))}
    inputs = {"a": a} if constant else {"a": a, "b": b, **c}
    proto = model(
        [node("Gemm", f"a b {'c' if c else ''}", **attrs)], inputs, {"b": b, **c} if constant else {}, opset=13
    )
    graph = check(proto, inputs)
    assert ("linear" in {n.op for n in graph.operators}) == constant


@pytest.mark.parametrize(
    "shapes", [((4, 3), (3, 5)), ((2, 4, 3), (3, 5)), ((2, 4, 3), (2, 3, 5)), ((3,), (3,)), ((2, 3), (3,))]
)
def test_matmul(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    a, b = floats(*shapes[0]), floats(*shapes[1], seed=1)
    check(model([node("MatMul", "a b")], {"a": a, "b": b}), {"a": a, "b": b})
    check(model([node("MatMul", "a b")], {"a": a}, {"b": b}), {"a": a})


MODE = "coordinate_transformation_mode"
SHAPED: list[tuple[str, int, str, dict[str, Array], dict[str, Any]]] = [
    ("Reshape", 7, "x s", {"s": int64(0, 3, -1)}, {}),
    ("Reshape", 14, "x s", {"s": int64(2, -1)}, {"allowzero": 1}),
    ("Squeeze", 13, "x a", {"a": int64(-1)}, {}),
    ("Squeeze", 13, "x", {}, {}),
    ("Unsqueeze", 13, "x a", {"a": int64(1, -1)}, {}),
    ("Expand", 8, "x s", {"s": int64(3, 1, 1, 1, 8)}, {}),
    ("Tile", 7, "x r", {"r": int64(1, 2, 3, 2)}, {}),
    ("Pad", 11, "x p", {"p": int64(0, 1, 2, 0, 0, 1, 0, 0)}, {}),
    ("Pad", 13, "x p v", {"p": int64(0, 1, 2, 0, 0, 1, 0, 0), "v": np.float32(3)}, {}),
    ("Pad", 18, "x p _ a", {"p": int64(1, 2), "a": int64(-2)}, {"mode": "reflect"}),
    ("Pad", 19, "x p _ a", {"p": int64(1, 2), "a": int64(2)}, {"mode": "wrap"}),
    ("Slice", 10, "x b e", {"b": int64(0, 1), "e": int64(2, 5)}, {}),
    ("Slice", 13, "x b e a t", {"b": int64(-1, 0), "e": int64(-100, 5), "a": int64(2, 1), "t": int64(-2, 2)}, {}),
    ("Slice", 13, "x b e a t", {"b": int64(5), "e": int64(1), "a": int64(1), "t": int64(-1)}, {}),
    ("Gather", 11, "x i", {"i": int64(2, -1)}, {"axis": 1}),
    ("Gather", 13, "x i", {"i": np.array(1, np.int64)}, {"axis": 2}),
    ("Split", 13, "x p", {"p": int64(1, 5)}, {"axis": 1}),
    ("Split", 18, "x", {}, {"axis": 2, "num_outputs": 2}),
    ("ReduceMean", 18, "x a", {"a": int64(2, 3)}, {}),
    ("ReduceSum", 13, "x a", {"a": int64(-1)}, {"keepdims": 0}),
    ("ReduceSum", 13, "x", {}, {"noop_with_empty_axes": 1}),
    ("ReduceMax", 18, "x", {}, {}),
    ("ReduceL2", 18, "x a", {"a": int64(1)}, {}),
    ("Upsample", 9, "x s", {"s": np.array([1, 1, 2, 2], np.float32)}, {}),
    ("Resize", 10, "x s", {"s": np.array([1, 1, 2, 3], np.float32)}, {"mode": "linear"}),
    ("Resize", 10, "x s", {"s": np.array([1, 1, 0.5, 0.5], np.float32)}, {}),
    ("Resize", 11, "x r s", {"r": np.zeros(0, np.float32), "s": np.array([1, 1, 2, 2], np.float32)}, {}),
    ("Resize", 13, "x _ s", {"s": np.array([1, 1, 1.5, 0.6], np.float32)},
     {"mode": "linear", MODE: "pytorch_half_pixel"}),
    ("Resize", 13, "x _ _ z", {"z": int64(2, 6, 18, 16)}, {"mode": "linear", MODE: "align_corners"}),
    ("Resize", 13, "x _ _ z", {"z": int64(2, 6, 13, 7)}, {"mode": "cubic", "cubic_coeff_a": -0.5}),
    ("Resize", 13, "x _ _ z", {"z": int64(2, 6, 5, 20)}, {"nearest_mode": "floor", MODE: "asymmetric"}),
    ("Resize", 18, "x _ _ z", {"z": int64(5, 4)}, {"axes": [2, 3], "antialias": 1, "mode": "linear"}),
    ("Resize", 18, "x _ _ z", {"z": int64(14, 14)},
     {"axes": [2, 3], "keep_aspect_ratio_policy": "not_larger", "mode": "linear"}),
    ("Resize", 19, "x _ s", {"s": np.array([1, 1, 1.7, 2], np.float32)},
     {MODE: "half_pixel_symmetric", "mode": "linear"}),
    ("DepthToSpace", 13, "d", {}, {"blocksize": 2, "mode": "CRD"}),
    ("DepthToSpace", 11, "d", {}, {"blocksize": 2}),
    ("SpaceToDepth", 13, "e", {}, {"blocksize": 2}),
]  # fmt: skip


@pytest.mark.parametrize("row", SHAPED, ids=lambda r: f"{r[0]}-{r[1]}-{r[2]}-{'-'.join(r[4])}")
def test_operators_with_constant_operands(row: tuple[str, int, str, dict[str, Array], dict[str, Any]]) -> None:
    op, opset, names, weights, attrs = row
    name = names.split()[0]
    x = {"x": IMAGE, "d": floats(2, 8, 3, 4), "e": floats(2, 3, 4, 6)}[name]
    x = floats(2, 1, 9, 1) if op == "Squeeze" else x
    outputs = "y z" if op == "Split" else "y"
    proto = model([node(op, names, outputs, **attrs)], {name: x}, weights, opset=opset, outputs=outputs)
    check(proto, {name: x})


def test_space_to_depth_28_in_crd_order() -> None:
    x = floats(2, 3, 4, 6)
    proto = model([node("SpaceToDepth", "x", blocksize=2, mode="CRD")], {"x": x}, opset=28)
    expected = x.reshape(2, 3, 2, 2, 3, 2).transpose(0, 1, 3, 5, 2, 4).reshape(2, 12, 2, 3)
    assert_close([run_graph(load_onnx(proto), {"x": x})["y"]], [expected])


CONSTANTS = [
    {"value": numpy_helper.from_array(floats(3))}, {"value_float": 1.5}, {"value_floats": [1.0, 2.0]}, {"value_int": 3},
    {"value_ints": [3, 4]},
]  # fmt: skip


@pytest.mark.parametrize("attrs", CONSTANTS, ids=lambda a: next(iter(a)))
def test_constant_in_all_forms(attrs: dict[str, Any]) -> None:
    check(model([node("Constant", "", **attrs)], {}, opset=13), {})


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16, np.int8, np.int16, np.int32, np.int64, np.uint8,
                                  np.uint16, np.uint32, np.uint64, np.bool_])  # fmt: skip
@pytest.mark.parametrize("raw", [True, False])
def test_weights_of_all_types(kind: Any, raw: bool) -> None:
    values = np.array([[0, 1, 2], [3, 4, 100]]).astype(kind)
    tensor = helper.make_tensor(
        "y",
        helper.np_dtype_to_tensor_dtype(values.dtype),
        values.shape,
        values.tobytes() if raw else values.ravel(),
        raw,
    )
    graph = helper.make_graph([], "net", [], [onnx.ValueInfoProto(name="y")], [tensor])
    found = run_graph(load_onnx(helper.make_model(graph)), {})["y"]
    assert found.dtype == values.dtype and np.array_equal(found, values)


def test_nan_weights_are_kept() -> None:
    w = np.array([np.nan, np.inf, -np.inf], np.float32)
    assert np.array_equal(load_onnx(model([node("Add", "x w")], {"x": [3]}, {"w": w}))["w"].array, w, equal_nan=True)


# Symbolic shapes

FLATTEN = [
    node("GlobalAveragePool", "x", "p"), node("Shape", "p", "s"), node("Gather", "s zero", "n"),
    node("Unsqueeze", "n axes", "n1"),
    node("Concat", "n1 minus", "target", axis=0), node("Reshape", "p target"),
]  # fmt: skip
INDEX = {"zero": np.array(0, np.int64), "axes": int64(0), "minus": int64(-1)}


def test_shape_arithmetic_folds_away_with_a_symbolic_batch() -> None:
    proto = model(FLATTEN, {"x": ["batch", 6, 9, 8]}, INDEX, opset=13)
    graph = check(proto, {"x": IMAGE})
    assert [n.op for n in graph.nodes] == ["input", "global_avg_pool", "reshape"]
    assert str(graph["y"].type) == "f32[batch, 6]"
    assert graph.nominal == {"batch": 1}
    check(proto, {"x": IMAGE[:1]}, graph)


def _upsample_like() -> list[onnx.NodeProto]:
    """What exporters make of interpolate(x, size=skip.shape[2:]) and of a concat with the skip connection."""
    return [
        node("MaxPool", "x", "small", kernel_shape=[2, 2], strides=[2, 2]),
        node("Shape", "x", "s"), node("Slice", "s two four zero", "plane"), node("Cast", "plane", "planef", to=1),
        node("Shape", "small", "t"), node("Slice", "t two four zero", "smallplane"),
        node("Cast", "smallplane", "sf", to=1),
        node("Div", "planef sf", "ratio"), node("Mul", "sf ratio", "back"), node("Floor", "back", "floored"),
        node("Cast", "floored", "sizes", to=7), node("Slice", "t zero two zero", "head"),
        node("Concat", "head sizes", "target", axis=0),
        node("Resize", "small _ _ target", "up", mode="nearest", nearest_mode="floor", **{MODE: "asymmetric"}),
        node("Concat", "x up", axis=1),
    ]  # fmt: skip


def test_resize_to_another_tensors_size() -> None:
    weights = {"zero": int64(0), "two": int64(2), "four": int64(4)}
    fixed = model(_upsample_like(), {"x": ["N", 3, 8, 12]}, weights, opset=13)
    check(fixed, {"x": floats(2, 3, 8, 12)})
    open_plane = model(_upsample_like(), {"x": ["N", 3, "H", "W"]}, weights, opset=13)
    with pytest.raises(ModelError, match=r"Div n_ratio: value planef = \[H, W\] depends on sizes.*input_shapes"):
        load_onnx(open_plane)
    check(open_plane, {"x": floats(2, 3, 8, 12)}, input_shapes={"x": (None, None, 8, 12)})


def test_resize_to_symbolic_sizes() -> None:
    """A whole multiple has a fixed scale; the size of a pooled plane's origin has not."""
    double = [node("Shape", "x", "s"), node("Mul", "s by", "target"), node("Resize", "x _ _ target", mode="linear")]
    graph = check(model(double, {"x": ["N", 6, "H", "W"]}, {"by": int64(1, 1, 2, 2)}, opset=13), {"x": IMAGE})
    assert graph["y"].attrs["scales"] == (1.0, 1.0, 2.0, 2.0)
    nodes = [
        node("MaxPool", "x", "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("Shape", "x", "s"),
        node("Resize", "p _ _ s"),
    ]
    with pytest.raises(ModelError, match=r"Resize n_y: the scale from size .* to H is not fixed.*input_shapes"):
        load_onnx(model(nodes, {"x": ["N", 6, "H", "W"]}, opset=13))


def test_scaling_symbolic_sizes_by_floats() -> None:
    nodes = [
        node("Shape", "x", "s"), node("Gather", "s two", "h"), node("Cast", "h", "hf", to=1),
        node("Mul", "hf half", "m"),
        node("Ceil", "m", "c"), node("Cast", "c", "ci", to=7), node("Unsqueeze", "ci axes", "hs"),
        node("Concat", "hs one", "target", axis=0), node("Expand", "v target", "e"), node("ReduceSum", "e _", "y"),
    ]  # fmt: skip
    weights = {
        "two": np.array(2, np.int64),
        "half": np.float32(0.5),
        "axes": int64(0),
        "one": int64(1),
        "v": np.float32(1),
    }
    proto = model(nodes, {"x": [1, 3, "H", 4]}, weights, opset=13)
    graph = load_onnx(proto)
    assert str(graph["e"].type) == "f32[(H + 1)//2, 1]"
    for height in (6, 7):
        x = floats(1, 3, height, 4)
        assert_close([run_graph(graph, {"x": x})["y"]], runtime(proto, {"x": x}))


def test_where_equal_expand_as_exporters_write_it() -> None:
    nodes = [
        node("Shape", "x", "s"), node("ConstantOfShape", "two", "ones", value=numpy_helper.from_array(int64(1))),
        node("Mul", "ones minus", "m"), node("Concat", "m1 m1", "want", axis=0), node("Equal", "want m", "eq"),
        node("Gather", "s pair", "part"), node("Where", "eq part want", "target"), node("Expand", "v target", "y"),
    ]  # fmt: skip
    weights = {"two": int64(2), "minus": int64(-1), "m1": int64(-1), "pair": int64(0, 2), "v": floats(1, 1)}
    proto = model(nodes, {"x": ["N", 3, "H", 4]}, weights, opset=13)
    graph = check(proto, {"x": floats(2, 3, 5, 4)})
    assert str(graph["y"].type) == "f32[N, H]"


def test_channel_shuffle_with_everything_computed() -> None:
    nodes = [
        node("Shape", "x", "s"), node("Split", "s", "n c h w", axis=0), node("Div", "c g", "cg"),
        node("Concat", "n g cg h w", "t1", axis=0), node("Reshape", "x t1", "r"),
        node("Transpose", "r", "p", perm=[0, 2, 1, 3, 4]),
        node("Concat", "n minus h w", "t2", axis=0), node("Reshape", "p t2"),
    ]  # fmt: skip
    graph = check(model(nodes, {"x": ["N", 6, "H", "W"]}, {"g": int64(3), "minus": int64(-1)}, opset=13), {"x": IMAGE})
    assert [n.op for n in graph.operators] == ["reshape", "transpose", "reshape"]


def test_slices_of_symbolic_axes() -> None:
    nodes = [node("Slice", "x a b c d", "p"), node("Slice", "x z y1 c d", "q"), node("Concat", "p q", "y", axis=1)]
    ends = {"a": int64(1), "b": int64(2**63 - 1), "c": int64(2), "d": int64(1), "z": int64(0), "y1": int64(-1)}
    graph = check(model(nodes, {"x": ["N", 6, "H", 8]}, ends, opset=13), {"x": IMAGE})
    assert str(graph["y"].type) == "f32[N, 12, H - 1, 8]"


def test_range_and_integer_folding() -> None:
    nodes = [
        node("Shape", "x", "s"), node("Gather", "s one", "c"), node("Range", "zero c step", "r"),
        node("Gather", "x r", axis=1),
    ]  # fmt: skip
    weights = {"one": np.array(1, np.int64), "zero": np.array(0, np.int64), "step": np.array(2, np.int64)}
    graph = check(model(nodes, {"x": ["N", 6, 9, 8]}, weights, opset=13), {"x": IMAGE})
    assert graph["r"].array.tolist() == [0, 2, 4]


def test_constant_of_shape_with_a_symbolic_batch_expands() -> None:
    nodes = [node("Shape", "x", "s"), node("ConstantOfShape", "s", "k"), node("Add", "x k")]
    graph = check(model(nodes, {"x": ["N", 6, 9, 8]}, opset=13), {"x": IMAGE})
    assert graph["k"].op == "expand"


def test_a_symbolic_shape_as_an_output_is_refused() -> None:
    proto = model([node("Shape", "x")], {"x": ["N", 3]})
    with pytest.raises(ModelError, match=r"output y: value y = \[N, 3\] depends on sizes.*input_shapes"):
        load_onnx(proto)
    assert run_graph(load_onnx(proto, input_shapes={"x": (4, None)}), {"x": floats(4, 3)})["y"].tolist() == [4, 3]


def test_bounds_of_sizes() -> None:
    h = Dim.symbol("H")
    assert least((h - 1) // 2 + 1) == 1 and least(h * 3 - 2) == 1 and least(2 - h) is None
    assert at_least(h, 1) is True and at_least(h, h + 1) is False and at_least(h, 2) is None


# Inputs


def test_size_names_become_symbols() -> None:
    proto = model(
        [node("Relu", "x")], {"x": ["batch size", 3, "2*H", None], "other": ["batch size"]}, dtype=TensorProto.FLOAT
    )
    graph = load_onnx(proto)
    assert str(graph["x"].type) == "f32[batch_size, 3, _2_H, x_3]"
    assert str(graph["other"].type) == "f32[batch_size]"
    assert graph.nominal == {"batch_size": 1, "_2_H": 224, "x_3": 224}


def test_clashing_size_names_stay_apart() -> None:
    graph = load_onnx(model([node("Relu", "x")], {"x": ["a b", "a_b", "a-b"]}))
    assert len({str(s) for s in graph["x"].type.shape}) == 3


def test_input_shapes_override() -> None:
    proto = model([node("Relu", "x"), node("Relu", "u", "v")], {"x": ["N", 3, "H"], "u": ["N", 2]}, outputs="y v")
    graph = load_onnx(proto, input_shapes={"x": (4, None, "W")})
    assert str(graph["x"].type) == "f32[4, 3, W]" and str(graph["u"].type) == "f32[4, 2]"
    misfits: list[tuple[dict[str, tuple[int, ...]], str]] = [
        ({"z": (1,)}, "input_shapes names z, which is no input. Hint: inputs are x, u"),
        ({"x": (1, 2)}, "expected 3 sizes"),
        ({"x": (0, 3, 4)}, "axis 0 of x as 0"),
        ({"x": (1, 3, 4), "u": (2, 2)}, "gives N as both 1 and 2"),
    ]
    for shapes, text in misfits:
        with pytest.raises(InputError, match=text.replace("(", r"\(")):
            load_onnx(proto, input_shapes=shapes)


def test_a_baked_batch_gives_way_to_an_overridden_one() -> None:
    proto = model([node("Reshape", "x s")], {"x": [1, 6, 9, 8]}, {"s": int64(1, 6, 72)}, opset=13)
    graph = load_onnx(proto, input_shapes={"x": ("N", None, None, None)})
    assert str(graph["y"].type) == "f32[N, 6, 72]"
    assert run_graph(graph, {"x": IMAGE})["y"].shape == (2, 6, 72)
    kept = model([node("Reshape", "x s")], {"x": [2, 6, 9, 8]}, {"s": int64(1, 2 * 6, 72)}, opset=13)
    assert str(load_onnx(kept, input_shapes={"x": (2, 6, 9, 8)})["y"].type) == "f32[1, 12, 72]"


def test_inputs_without_a_shape_need_input_shapes() -> None:
    proto = model([node("Relu", "x")], {"x": [1]})
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(ModelError, match="input x has no shape"):
        load_onnx(proto)
    assert str(load_onnx(proto, input_shapes={"x": (2, "K")})["y"].type) == "f32[2, K]"


# Names and structure


def test_names_are_kept_and_helpers_are_unique() -> None:
    nodes = [node("Gemm", "x w b", "mid.1", alpha=2.0), node("Relu", "mid.1", "y/out")]
    proto = model(nodes, {"x": [4, 3]}, {"w": floats(3, 5), "b": floats(5)}, outputs="y/out")
    graph = load_onnx(proto)
    assert [n.name for n in graph.nodes] == ["x", "w", "b", "mid.1.1", "mid.1.2", "mid.1.3", "mid.1", "y/out"]
    assert graph["mid.1"].source == ("n_mid.1",) and graph["mid.1"].op == "linear"
    assert [o.name for o in graph.outputs] == ["y/out"]


def test_nodes_out_of_order_dead_nodes_and_weights_among_inputs() -> None:
    nodes = [node("Add", "a w"), node("Relu", "x", "a"), node("Resize", "x", "dead")]
    proto = model(nodes, {"x": [3], "w": [3]}, {"w": floats(3), "unused": floats(3)}, opset=13)
    graph = load_onnx(proto)
    assert [n.name for n in graph.inputs] == ["x"]
    assert {n.name for n in graph.nodes} == {"x", "w", "a", "y"}


def test_outputs_that_are_inputs_weights_or_repeat_a_value() -> None:
    nodes = [node("Identity", "w", "v"), node("Identity", "x", "y")]
    proto = model(nodes, {"x": floats(3)}, {"w": floats(3, seed=1)}, outputs="y v w x")
    graph = load_onnx(proto)
    assert [o.name for o in graph.outputs] == ["y", "v", "w", "x"]
    assert_close(
        list(run_graph(graph, {"x": floats(3)}).values()), [floats(3), floats(3, seed=1), floats(3, seed=1), floats(3)]
    )
    assert len(graph.constants) == 1


def test_local_functions_are_inlined() -> None:
    inner = helper.make_function(
        "here", "Twice", ["a"], ["b"], [node("Add", "a a", "b")], [helper.make_opsetid("", 17)]
    )
    body = [helper.make_node("Twice", ["p"], ["q"], domain="here"), node("Relu", "q", "r")]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("here", 1)]
    outer = helper.make_function("here", "Both", ["p"], ["r"], body, opsets)
    proto = model([helper.make_node("Both", ["x"], ["y"], domain="here")], {"x": IMAGE}, functions=[outer, inner])
    graph = check(proto, {"x": IMAGE})
    assert [n.op for n in graph.operators] == ["add", "relu"]


def test_if_with_a_known_condition_takes_its_branch() -> None:
    then = helper.make_graph([node("Relu", "x", "t")], "then", [], [onnx.ValueInfoProto(name="t")])
    other = helper.make_graph([node("Neg", "x", "e")], "else", [], [onnx.ValueInfoProto(name="e")])
    nodes = [
        node("Shape", "x", "s"), node("Gather", "s zero", "n"), node("Equal", "n two", "c"),
        node("If", "c", "z", then_branch=then, else_branch=other), node("Abs", "z"),
    ]  # fmt: skip
    for count, op in [(2, "relu"), (3, "neg")]:
        x = floats(count, 3)
        weights = {"zero": np.array(0, np.int64), "two": np.array(2, np.int64)}
        graph = check(model(nodes, {"x": x}, weights, opset=13), {"x": x})
        assert [n.op for n in graph.operators] == [op, "abs"]
