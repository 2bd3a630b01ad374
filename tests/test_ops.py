"""Values of every operator against ONNX Runtime (or ONNX's reference where it has none, or a formula)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

from convc.errors import InputError
from convc.interp import evaluate_node
from convc.ir.graph import constant, make_node
from convc.ops import OPS, activation_attrs, activation_of, apply_activation
from convc.types import Activation, Array, DType, TensorType

Attrs = dict[str, Any]


def evaluate(op: str, arrays: list[Array | None], **attrs: Any) -> Array:
    """The operator's value, checked against the type that its shape rule gives."""
    inputs = [None if a is None else constant(f"i{n}", a) for n, a in enumerate(arrays)]
    node = make_node(op, "y", inputs, attrs)
    value = evaluate_node(node, arrays)
    assert TensorType(DType.of(value), value.shape) == node.type
    return value


def onnx_value(op: str, arrays: list[Array | None], attrs: Attrs, opset: int = 21, reference: bool = False) -> Array:
    names = ["" if a is None else f"i{n}" for n, a in enumerate(arrays)]
    kept = [(n, a) for n, a in zip(names, arrays, strict=True) if a is not None]
    values = [
        onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in kept
    ]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(op, names, ["y"], **attrs)], "g", values,
        [onnx.helper.make_empty_tensor_value_info("y")],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=10)
    if reference:
        return ReferenceEvaluator(model).run(None, dict(kept))[0]
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(kept))[0]


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed + sum(shape)).standard_normal(shape).astype(np.float32)


def uniform(*shape: int, low: float = 0.2) -> Array:
    return np.random.default_rng(sum(shape)).uniform(low, 2.0, shape).astype(np.float32)


def scalar(value: float) -> Array:
    return np.array(value, np.float32)


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


@dataclass
class Case:
    """An operator, the arrays in its slots and its attributes; the ONNX node that must give the same, or a formula."""

    op: str
    arrays: list[Array | None]
    attrs: Attrs = field(default_factory=dict)
    onnx: str = ""
    onnx_attrs: Attrs = field(default_factory=dict)
    tail: list[Array | None] = field(default_factory=list)
    formula: Callable[..., Array] | None = None
    tolerance: float = 2e-6


X = normal(2, 4, 5, 6)
FLAGS = normal(3, 4) > 0
COUNTS = np.array([[7, -7, 8, -9], [1, 0, -3, 5]], np.int32)
DIVISORS = np.array([[2, 2, -3, -4], [3, 5, 2, -2]], np.int32)
SPECIAL = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, 1e-30, 30.0, -30.0, 100.0, -100.0, 0.5, 1.5, 2.5], np.float32)

UNARY: list[tuple[str, str, Attrs]] = [
    ("relu", "Relu", {}), ("leaky_relu", "LeakyRelu", {"alpha": 0.2}), ("sigmoid", "Sigmoid", {}),
    ("hard_sigmoid", "HardSigmoid", {"alpha": 0.3, "beta": 0.4}), ("hard_swish", "HardSwish", {}),
    ("tanh", "Tanh", {}), ("elu", "Elu", {"alpha": 0.7}), ("selu", "Selu", {}), ("celu", "Celu", {"alpha": 0.6}),
    ("softplus", "Softplus", {}), ("softsign", "Softsign", {}), ("mish", "Mish", {}), ("gelu", "Gelu", {}),
    ("gelu", "Gelu", {"approximate": "tanh"}), ("erf", "Erf", {}), ("exp", "Exp", {}), ("neg", "Neg", {}),
    ("abs", "Abs", {}), ("floor", "Floor", {}), ("ceil", "Ceil", {}), ("round", "Round", {}), ("sign", "Sign", {}),
    ("sin", "Sin", {}), ("cos", "Cos", {}), ("reciprocal", "Reciprocal", {}), ("log", "Log", {}), ("sqrt", "Sqrt", {}),
]  # fmt: skip
BINARY = [
    ("add", "Add"), ("sub", "Sub"), ("mul", "Mul"), ("div", "Div"), ("max", "Max"), ("min", "Min"),
    ("equal", "Equal"), ("less", "Less"), ("less_or_equal", "LessOrEqual"), ("greater", "Greater"),
    ("greater_or_equal", "GreaterOrEqual"),
]  # fmt: skip
REDUCTIONS = [
    ("reduce_mean", "ReduceMean"), ("reduce_sum", "ReduceSum"), ("reduce_max", "ReduceMax"),
    ("reduce_min", "ReduceMin"), ("reduce_prod", "ReduceProd"), ("reduce_l2", "ReduceL2"),
]  # fmt: skip


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x.astype(np.float64)))


def even_lrn(x: Array) -> Array:
    """A window of two channels: this one and the next."""
    return x / (1 + 0.05 * (x**2 + np.pad(x[:, 1:] ** 2, ((0, 0), (0, 1), (0, 0), (0, 0))))) ** 0.75


def layer_norm(x: Array, gamma: None, beta: Array) -> Array:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) + beta


def shuffle(x: Array) -> Array:
    return np.stack([x[:, (i % 2) * 2 + i // 2] for i in range(4)], 1)


CASES = [
    *(Case(op, [normal(3, 4) * 2], attrs, name, attrs) for op, name, attrs in UNARY if op not in {"log", "sqrt"}),
    Case("log", [uniform(3, 4)], onnx="Log"),
    Case("sqrt", [uniform(3, 4)], onnx="Sqrt"),
    Case("silu", [X * 3], formula=silu),
    Case("clip", [X], {"min": -0.5, "max": 0.25}, "Clip",
         tail=[scalar(-0.5), scalar(0.25)]),
    Case("clip", [COUNTS], {"min": -3.0}, formula=lambda x: np.maximum(x, -3)),
    Case("logical_not", [FLAGS], onnx="Not"),
    Case("cast", [X * 5], {"to": DType.I32}, "Cast", {"to": 6}),
    Case("cast", [FLAGS], {"to": DType.F16}, "Cast", {"to": 10}),
    *(Case(op, [normal(3, 4), normal(2, 1, 4)], onnx=name) for op, name in BINARY),
    *(Case(op, [COUNTS, DIVISORS], onnx=name) for op, name in BINARY),
    Case("pow", [uniform(3, 4), normal(4)], onnx="Pow"),
    Case("pow", [COUNTS, np.array([2, 3, 0, 1], np.int32)], onnx="Pow"),
    Case("pow", [np.array([2, 1], np.int32), np.array([-1, -1], np.int32)], formula=lambda a, b: np.array([0, 1])),
    Case("mod", [COUNTS, DIVISORS], onnx="Mod"),
    Case("mod", [X, normal(6)], {"fmod": True}, "Mod", {"fmod": 1}),
    Case("logical_and", [FLAGS, FLAGS[::-1]], onnx="And"),
    Case("logical_or", [FLAGS, FLAGS[::-1]], onnx="Or"),
    Case("where", [FLAGS, normal(3, 4), normal(4)], onnx="Where"),
    Case("prelu", [X, normal(4, 1, 1)], onnx="PRelu"),
    Case("linear", [normal(2, 3, 5), normal(4, 5)], formula=lambda x, w: np.einsum("nci,oi->nco", x, w)),
    Case("linear", [normal(3, 5), normal(4, 5), normal(4)], {}, "Gemm", {"transB": 1}),
    Case("linear", [normal(3, 5), normal(4, 5), None, normal(3, 4)], {"activation": Activation("relu")},
         formula=lambda x, w, b, r: np.maximum(x @ w.T + r, 0)),
    Case("matmul", [normal(2, 1, 3, 4), normal(5, 4, 2)], onnx="MatMul"),
    Case("matmul", [normal(4), normal(5, 4, 2)], onnx="MatMul"),
    Case("matmul", [normal(5, 2, 4), normal(4)], onnx="MatMul"),
    Case("batch_norm", [X, *(normal(4, seed=i) for i in range(3)), uniform(4)], {"epsilon": 1e-3},
         "BatchNormalization", {"epsilon": 1e-3}),
    Case("batch_norm", [normal(3, 4), *(normal(4, seed=i) for i in range(3)), uniform(4)], onnx="BatchNormalization"),
    Case("layer_norm", [X, normal(5, 6), normal(5, 6, seed=1)], {"axis": 2}, "LayerNormalization", {"axis": 2}),
    Case("layer_norm", [X, None, normal(6)], formula=layer_norm),
    Case("instance_norm", [X, normal(4), normal(4, seed=1)], onnx="InstanceNormalization"),
    Case("group_norm", [X, normal(4), normal(4, seed=1)], {"groups": 2}, "GroupNormalization", {"num_groups": 2}),
    Case("lrn", [X], {"size": 3, "alpha": 0.1, "beta": 0.6, "bias": 1.5}, "LRN",
         {"size": 3, "alpha": 0.1, "beta": 0.6, "bias": 1.5}),
    Case("lrn", [X], {"size": 2, "alpha": 0.1}, formula=even_lrn),
    Case("global_avg_pool", [X], onnx="GlobalAveragePool"),
    Case("global_max_pool", [X], onnx="GlobalMaxPool"),
    *(Case(op, [X], {"axes": (1, -1), "keepdims": keep}, name, {"keepdims": int(keep)}, [ints(1, -1)])
      for op, name in REDUCTIONS for keep in (True, False)),
    Case("reduce_sum", [X], {"axes": ()}, formula=lambda x: x),
    Case("argmax", [np.round(X)], {"axis": 1}, "ArgMax", {"axis": 1}),
    Case("argmax", [np.round(X)], {"axis": -1, "keepdims": False, "last": True}, "ArgMax",
         {"axis": -1, "keepdims": 0, "select_last_index": 1}),
    Case("softmax", [X * 40], {"axis": 1}, "Softmax", {"axis": 1}),
    Case("log_softmax", [X * 40], {}, "LogSoftmax", {"axis": -1}, tolerance=1e-4),
    Case("identity", [X], onnx="Identity"),
    Case("dropout", [X], {"ratio": 0.3}, "Dropout"),
    Case("reshape", [X], {"shape": (2, 20, 6)}, "Reshape", tail=[ints(2, 20, 6)]),
    Case("transpose", [X], {"perm": (0, 2, 3, 1)}, "Transpose", {"perm": (0, 2, 3, 1)}),
    Case("expand", [normal(4, 1)], {"shape": (2, 4, 3)}, "Expand", tail=[ints(2, 4, 3)]),
    Case("concat", [X, X[:, :1], X[:, :2]], {"axis": 1}, "Concat", {"axis": 1}),
    *(Case("slice", [X], {"axis": 3, "start": a, "stop": b, "step": c},
           formula=lambda x, s=(a, b, c): x[..., slice(*s)])
      for a, b, c in ((1, 5, 1), (0, 6, 2), (1, 6, 3), (3, 3, 1), (5, 1, -2))),
    Case("slice", [X], {"axis": 3, "start": 5, "stop": -1, "step": -1}, formula=lambda x: x[..., ::-1]),
    Case("gather", [X, np.array([[0, -1], [2, 1]])], {"axis": 2}, "Gather", {"axis": 2}),
    Case("pad", [X], {"before": (0, 0, 1, -1), "after": (0, 1, -2, 2), "value": 1.5}, "Pad",
         tail=[ints(0, 0, 1, -1, 0, 1, -2, 2), scalar(1.5)]),
    *(Case("pad", [X], {"before": (0, 0, 1, 2), "after": (0, 0, 3, 0), "mode": mode}, "Pad", {"mode": mode},
           [ints(0, 0, 1, 2, 0, 0, 3, 0)]) for mode in ("reflect", "edge", "wrap")),
    *(Case("depth_to_space", [normal(2, 12, 3, 2)], {"block": 2, "mode": mode}, "DepthToSpace",
           {"blocksize": 2, "mode": mode}) for mode in ("DCR", "CRD")),
    Case("space_to_depth", [normal(2, 3, 4, 6)], {"block": 2}, "SpaceToDepth", {"blocksize": 2}),
    Case("channel_shuffle", [X], {"groups": 2}, formula=shuffle),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.op)
def test_value(case: Case) -> None:
    value = evaluate(case.op, case.arrays, **case.attrs)
    if case.formula is not None:
        expected = case.formula(*case.arrays)
    else:
        expected = onnx_value(case.onnx, case.arrays + case.tail, case.onnx_attrs)
        assert value.dtype == expected.dtype
    np.testing.assert_allclose(value, expected, rtol=case.tolerance, atol=case.tolerance)


def test_every_operator_has_a_case() -> None:
    elsewhere = {"input", "constant", "conv2d", "conv_transpose2d", "max_pool2d", "avg_pool2d", "resize"}
    assert {case.op for case in CASES} | elsewhere == set(OPS)


@pytest.mark.parametrize("op", [op for op, _, attrs in UNARY if not attrs] + ["clip", "silu"])
def test_special_values(op: str) -> None:
    """NaN stays NaN, a value computed in float32 is near the one in float64, and f16 is rounded once."""
    value = evaluate(op, [SPECIAL])
    assert np.isnan(value[0])
    assert value.dtype == np.float32
    exact = evaluate(op, [SPECIAL.astype(np.float64)])
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(value, exact.astype(np.float32), rtol=1e-5, atol=1e-38)
    half = SPECIAL[-4:].astype(np.float16)
    with np.errstate(over="ignore"):
        rounded = evaluate(op, [half.astype(np.float32)]).astype(np.float16)
    np.testing.assert_array_equal(evaluate(op, [half]), rounded)


def test_erf_is_accurate() -> None:
    x = np.concatenate([np.linspace(-7, 7, 20001), [0.46875, 4.0, 1e-300, -0.0, np.inf, -np.inf]])
    expected = np.array([math.erf(v) for v in x])
    np.testing.assert_allclose(evaluate("erf", [x]), expected, rtol=1e-15, atol=0)


# --- convolutions and pools --------------------------------------------------------------------------------------

WINDOWS = [
    {"stride": s, "padding": p, "dilation": d}
    for s, p, d in itertools.product([(1, 1), (2, 3)], [(0, 0, 0, 0), (1, 2, 0, 1)], [(1, 1), (2, 1)])
]


def naive_conv2d(x: Array, w: Array, stride: Any, padding: Any, dilation: Any, groups: int) -> Array:
    """The defining sum, an output element at a time."""
    (n, _, h, width), (k, per_group, r, s) = x.shape, w.shape
    top, left, bottom, right = padding
    rows = (h + top + bottom - dilation[0] * (r - 1) - 1) // stride[0] + 1
    columns = (width + left + right - dilation[1] * (s - 1) - 1) // stride[1] + 1
    y = np.zeros((n, k, rows, columns))
    for b, o, i, j in np.ndindex(y.shape):
        first = o // (k // groups) * per_group
        for q, u, v in np.ndindex(per_group, r, s):
            row, column = i * stride[0] - top + u * dilation[0], j * stride[1] - left + v * dilation[1]
            if 0 <= row < h and 0 <= column < width:
                y[b, o, i, j] += float(x[b, first + q, row, column]) * float(w[o, q, u, v])
    return y


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_conv2d_is_the_defining_sum(window: Attrs, groups: int) -> None:
    x, w = normal(2, 4, 6, 7).astype(np.float64), normal(8, 4 // groups, 3, 2).astype(np.float64)
    value = evaluate("conv2d", [x, w], groups=groups, **window)
    np.testing.assert_allclose(value, naive_conv2d(x, w, groups=groups, **window), rtol=1e-12, atol=1e-12)


def test_conv2d_epilogue() -> None:
    x, w, b = normal(2, 4, 5, 5), normal(6, 4, 1, 1), normal(6)
    r = normal(2, 6, 5, 5)
    plain = evaluate("conv2d", [x, w, b])
    np.testing.assert_allclose(plain, onnx_value("Conv", [x, w, b], {}), rtol=1e-5, atol=1e-5)
    fused = evaluate("conv2d", [x, w, b, r], activation=Activation("clip", (-1.0, 1.0)))
    np.testing.assert_array_equal(fused, np.clip(plain + r, -1, 1))
    half = evaluate("conv2d", [a.astype(np.float16) for a in (x, w, b)])
    np.testing.assert_allclose(half.astype(np.float32), plain, rtol=5e-3, atol=5e-3)
    assert evaluate("conv2d", [x[:0], w, b]).shape == (0, 6, 5, 5)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_conv_transpose2d_is_onnx(window: Attrs, groups: int) -> None:
    x, w, b = normal(2, 4, 4, 5), normal(4, 3, 3, 2), normal(3 * groups)
    extra = (1, 2) if window["stride"][0] > 1 else (0, 0)
    value = evaluate("conv_transpose2d", [x, w, b], groups=groups, output_padding=extra, **window)
    attrs = {"strides": window["stride"], "pads": window["padding"], "dilations": window["dilation"],
             "group": groups, "output_padding": extra}  # fmt: skip
    np.testing.assert_allclose(value, onnx_value("ConvTranspose", [x, w, b], attrs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stride", [(1, 1), (2, 1), (3, 2)])
@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (1, 1, 1, 1), (0, 1, 1, 0)])
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_pools_are_onnx(stride: Any, padding: Any, ceil_mode: bool) -> None:
    x = normal(2, 3, 7, 6)
    attrs = {"kernel": (3, 2), "stride": stride, "padding": padding, "ceil_mode": ceil_mode}
    theirs = {"kernel_shape": (3, 2), "strides": stride, "pads": padding, "ceil_mode": int(ceil_mode)}
    dilated = evaluate("max_pool2d", [x], dilation=(2, 1), **attrs)
    np.testing.assert_array_equal(dilated, onnx_value("MaxPool", [x], {**theirs, "dilations": (2, 1)}, 22))
    for include in (False, True):
        value = evaluate("avg_pool2d", [x], count_include_pad=include, **attrs)
        expected = onnx_value("AveragePool", [x], {**theirs, "count_include_pad": int(include)}, 22)
        np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-6)


def test_max_pool_of_integers_and_nan() -> None:
    x = np.arange(-16, 0, dtype=np.int8).reshape(1, 1, 4, 4)
    value = evaluate("max_pool2d", [x], kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1))
    np.testing.assert_array_equal(value[0, 0], [[-11, -9], [-3, -1]])
    y = np.array([[np.nan, 1.0, 2.0, -np.inf]], np.float32).reshape(1, 1, 1, 4)
    np.testing.assert_array_equal(evaluate("max_pool2d", [y], kernel=(1, 2))[0, 0, 0], [np.nan, 2.0, 2.0])


# --- resize ------------------------------------------------------------------------------------------------------

COORDINATES = ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric"]
INTERPOLATIONS = [{"mode": "linear"}, {"mode": "cubic"}, {"mode": "cubic", "cubic_a": -0.5, "exclude_outside": True}]
SIZES = [(2.0, 2.0), (0.65, 1.7), (1.3, 0.5)]


def resize_both(x: Array, scales: tuple[float, ...], reference: bool = False, **attrs: Any) -> tuple[Array, Array]:
    scales = tuple(float(np.float32(s)) for s in scales)
    size = tuple(math.floor(n * s) for n, s in zip(x.shape[2:], scales, strict=True))
    given = {"size": (*x.shape[:2], *size), "scales": (1.0, 1.0, *scales), **attrs}
    names = {"coordinates": "coordinate_transformation_mode", "nearest": "nearest_mode", "cubic_a": "cubic_coeff_a"}
    theirs = {names.get(k, k): int(v) if isinstance(v, bool) else v for k, v in attrs.items()}
    tail = np.array([1, 1, *scales], np.float32)
    return evaluate("resize", [x], **given), onnx_value("Resize", [x, None, tail], theirs, 19, reference)


@pytest.mark.parametrize("scales", SIZES)
@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("nearest", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
def test_resize_nearest(scales: tuple[float, float], coordinates: str, nearest: str) -> None:
    value, expected = resize_both(normal(1, 2, 5, 6), scales, coordinates=coordinates, nearest=nearest)
    np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize("scales", SIZES)
@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("attrs", INTERPOLATIONS, ids=str)
def test_resize_interpolates(scales: tuple[float, float], coordinates: str, attrs: Attrs) -> None:
    value, expected = resize_both(normal(1, 2, 5, 6), scales, coordinates=coordinates, **attrs)
    np.testing.assert_allclose(value, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("scales", SIZES)
@pytest.mark.parametrize("exclude_outside", [False, True])
def test_resize_antialias_is_the_onnx_reference(mode: str, scales: tuple[float, float], exclude_outside: bool) -> None:
    value, expected = resize_both(
        normal(1, 2, 5, 6), scales, True, mode=mode, antialias=True, exclude_outside=exclude_outside
    )
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)


def test_resize_for_old_nearest() -> None:
    x = normal(1, 1, 4, 4)
    value = evaluate("resize", [x], size=(1, 1, 2, 2), scales=(1.0, 1.0, 0.5, 0.5), coordinates="tf_half_pixel_for_nn",
                     nearest="floor")  # fmt: skip
    np.testing.assert_array_equal(value, x[:, :, 1::2, 1::2])


def test_gather_out_of_range() -> None:
    with pytest.raises(InputError, match=r"gather %y: .*indices 0 to 3 leave axis 0 of size 3.*use -3 to 2"):
        evaluate("gather", [normal(3), ints(0, 3)])


@pytest.mark.parametrize(
    ("op", "attrs", "text"),
    [("relu", {}, "relu"), ("clip", {"min": 0.0, "max": 6.0}, "clip(0.0, 6.0)"), ("gelu", {}, "gelu"),
     ("leaky_relu", {}, "leaky_relu(0.01)"), ("gelu", {"approximate": "tanh"}, "gelu(1.0)")],
)  # fmt: skip
def test_activation_is_the_unary_operator(op: str, attrs: Attrs, text: str) -> None:
    activation = activation_of(op, attrs)
    assert str(activation) == text
    assert activation_attrs(activation) == OPS[op].complete(attrs)
    np.testing.assert_array_equal(apply_activation(activation, X), evaluate(op, [X], **attrs))
