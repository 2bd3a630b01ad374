"""Shape rules with symbolic sizes, the errors they raise, and the counts of multiply-adds and weights."""

from __future__ import annotations

from typing import Any

import pytest

from convc.dims import Dim, parse_size
from convc.errors import ModelError
from convc.ir.graph import graph_input, make_node
from convc.ops import OPS
from convc.types import Activation, DType, TensorType

Attrs = dict[str, Any]

N, H, W = (Dim.symbol(s) for s in "NHW")
IMAGE = (N, 8, H, W)
RULES = [
    ("conv2d", [IMAGE, (16, 4, 3, 3)], {"stride": (2, 2), "padding": (1, 1, 1, 1), "groups": 2},
     "[N, 16, (H - 1)//2 + 1, (W - 1)//2 + 1]"),
    ("conv2d", [IMAGE, (16, 8, 3, 3)], {"padding": (1, 1, 1, 1)}, "[N, 16, H, W]"),
    ("conv_transpose2d", [IMAGE, (8, 5, 2, 2)], {"stride": (2, 2)}, "[N, 5, 2*H, 2*W]"),
    ("linear", [(N, 8), (3, 8), (3,)], {}, "[N, 3]"),
    ("matmul", [(N, H, 8), (8, W)], {}, "[N, H, W]"),
    ("max_pool2d", [IMAGE], {"kernel": (2, 2), "stride": (2, 2)}, "[N, 8, (H - 2)//2 + 1, (W - 2)//2 + 1]"),
    ("max_pool2d", [IMAGE], {"kernel": (2, 2), "stride": (2, 2), "ceil_mode": True},
     "[N, 8, (H + 1)//2, (W + 1)//2]"),
    ("avg_pool2d", [IMAGE], {"kernel": (1, 1), "stride": (2, 2), "ceil_mode": True},
     "[N, 8, (H + 1)//2, (W + 1)//2]"),
    ("global_avg_pool", [IMAGE], {}, "[N, 8, 1, 1]"),
    ("reduce_mean", [IMAGE], {"axes": (2, 3), "keepdims": False}, "[N, 8]"),
    ("add", [IMAGE, (8, 1, 1)], {}, "[N, 8, H, W]"),
    ("concat", [IMAGE, (N, 4, H, W)], {"axis": 1}, "[N, 12, H, W]"),
    ("concat", [IMAGE, IMAGE], {"axis": 2}, "[N, 8, 2*H, W]"),
    ("slice", [IMAGE], {"axis": 2, "start": 1, "stop": H}, "[N, 8, H - 1, W]"),
    ("slice", [IMAGE], {"axis": 2, "start": 0, "stop": H, "step": 2}, "[N, 8, (H + 1)//2, W]"),
    ("reshape", [IMAGE], {"shape": (N, 8 * H * W)}, "[N, 8*H*W]"),
    ("reshape", [IMAGE], {"shape": (N, 2, 4, H, W)}, "[N, 2, 4, H, W]"),
    ("expand", [(8, 1, 1)], {"shape": IMAGE}, "[N, 8, H, W]"),
    ("pad", [IMAGE], {"before": (0, 0, 1, 1), "after": (0, 0, 2, -1), "mode": "reflect"}, "[N, 8, H + 3, W]"),
    ("resize", [IMAGE], {"size": (N, 8, 2 * H, 2 * W), "scales": (1.0, 1.0, 2.0, 2.0)}, "[N, 8, 2*H, 2*W]"),
    ("depth_to_space", [IMAGE], {"block": 2}, "[N, 2, 2*H, 2*W]"),
    ("space_to_depth", [IMAGE], {"block": 2}, "[N, 32, H//2, W//2]"),
    ("channel_shuffle", [IMAGE], {"groups": 4}, "[N, 8, H, W]"),
]  # fmt: skip


def typed(op: str, shapes: list[Any], attrs: Attrs) -> TensorType:
    """The type that a node gets; a shape may be a TensorType already, or None."""
    types = [s if s is None or isinstance(s, TensorType) else TensorType(DType.F32, s) for s in shapes]
    nodes = [None if t is None else graph_input(f"i{n}", t.dtype, t.shape) for n, t in enumerate(types)]
    return make_node(op, "y", nodes, attrs).type


@pytest.mark.parametrize(("op", "shapes", "attrs", "expected"), RULES)
def test_symbolic_shape(op: str, shapes: list[Any], attrs: Attrs, expected: str) -> None:
    """The rule gives the expected polynomial, and it agrees with the rule at actual sizes."""
    found = typed(op, shapes, attrs)
    assert found.shape == tuple(parse_size(part) for part in expected[1:-1].split(","))
    sizes = {"N": 2, "H": 12, "W": 10}
    actual = [TensorType(DType.F32, shape).bind(sizes) for shape in shapes]
    bound = {k: _bind(v, sizes) for k, v in attrs.items()}
    assert typed(op, actual, bound) == found.bind(sizes)


def _bind(value: Any, sizes: dict[str, int]) -> Any:
    if isinstance(value, tuple):
        return tuple(_bind(v, sizes) for v in value)
    return value.bind(sizes) if isinstance(value, Dim) else value


HALF = TensorType(DType.F16, (1, 8, 4, 4))
I32 = TensorType(DType.I32, (1, 8, 4, 4))
BOOL = TensorType(DType.BOOL, (2, 2))
A = (1, 8, 4, 4)
ERRORS: list[tuple[str, list[Any], Attrs, str, str]] = [
    ("conv2d", [(1, 64, 56, 56), (64, 32, 3, 3)], {"groups": 3},
     "groups=3 must divide in_channels=64", "use 1, 2, 4, ..."),
    ("conv2d", [A, (6, 2, 1, 1)], {"groups": 4}, "groups=4 must divide out_channels=6", "use 1, 2, 3, ..."),
    ("conv2d", [A, (6, 8, 1, 1)], {"groups": 0}, "groups=0 must divide", "use 1, 2, 4, ..."),
    ("conv2d", [A, (6, 4, 1, 1)], {}, "expected 8 at axis 1", "weights are [K, C/groups, R, S]"),
    ("conv2d", [A, (6, 8, 1)], {}, "w is f32[6, 8, 1], expected rank 4", "reshape it"),
    ("conv2d", [A, (6, 8, 5, 1)], {}, "window of 5 does not fit in 4", "use a larger input"),
    ("conv2d", [A, (6, 8, 1, 1), (5,)], {}, "b is f32[5], expected shape [6]", "check the weights"),
    ("conv2d", [A, (6, 8, 1, 1), None, (1, 6, 1, 1)], {},
     "residual is f32[1, 6, 1, 1], expected f32[1, 6, 4, 4]", "expand"),
    ("conv2d", [A, (6, 8, 1, 1)], {"stride": (0, 1)}, "stride=(0, 1) is not 2 integers >= 1", "give 2 such values"),
    ("conv2d", [A, (6, 8, 1, 1)], {"dilation": (1,)}, "dilation=(1,) is not 2", "give 2 such values"),
    ("conv2d", [A, (6, 8, 1, 1)], {"padding": (0, -1, 0, 0)}, "padding=(0, -1, 0, 0)", "crop with a pad node"),
    ("conv2d", [I32, (6, 8, 1, 1)], {}, "x is i32", "insert a cast"),
    ("conv2d", [HALF, (6, 8, 1, 1)], {}, "w is f32[6, 8, 1, 1], expected dtype f16", "insert a cast"),
    ("conv2d", [(1, 8, 0, 4), (6, 8, 1, 1)], {}, "size of 0", "only the batch may be empty"),
    ("conv2d", [(1, N, 4, 4), (6, 8, 1, 1)], {}, "in_channels is symbolic (N)", "input_shapes="),
    ("conv2d", [A, (6, 8, 1, 1)], {"activation": Activation("swoosh")}, "swoosh is no activation", "use one of relu"),
    ("conv2d", [A, (6, 8, 1, 1)], {"activation": Activation("clip", (0.0,))},
     "clip(0.0) lacks max", "in order: min, max"),
    ("conv2d", [A, (6, 8, 1, 1)], {"activation": Activation("relu", (0.0,))}, "too many parameters", "in order: none"),
    ("conv2d", [A, (6, 8, 1, 1)], {"activation": Activation("gelu", (7.0,))}, "no approximate 7", "choices"),
    ("conv2d", [A, (6, 8, 1, 1)], {"strides": (1, 1)}, "no attribute strides", "it has: stride"),
    ("conv2d", [A], {}, "got 1 inputs, expects 2 to 6", "x, w, b?, residual?, scale?, shift?"),
    ("conv2d", [None, (6, 8, 1, 1)], {}, "input x is missing", "only slots with ?"),
    ("conv_transpose2d", [A, (4, 8, 1, 1)], {}, "expected in_channels=8 at axis 0", "[C, K/groups, R, S]"),
    ("conv_transpose2d", [A, (8, 8, 1, 1)], {"output_padding": (1, 0)},
     "output_padding=(1, 0) must be below", "stride"),
    ("conv_transpose2d", [A, (8, 8, 1, 1)], {"padding": (2, 0, 2, 0)}, "leaves nothing", "use less padding"),
    ("linear", [A, (3, 5)], {}, "expected 5 at its last axis", "flatten x first"),
    ("matmul", [(2, 3), (4, 5)], {}, "inner sizes 3 and 4 differ", "transpose one"),
    ("matmul", [(), (4, 5)], {}, "matmul of a scalar", "use mul"),
    ("batch_norm", [A, (8,), (8,), (7,), (8,)], {}, "mean is f32[7], expected shape [8]", "check the weights"),
    ("batch_norm", [(8,), (8,), (8,), (8,), (8,)], {}, "expected rank >= 2", "channel axis is axis 1"),
    ("layer_norm", [A, (5,)], {}, "do not broadcast", "equal or 1"),
    ("layer_norm", [(4,), (2, 4)], {}, "gamma is f32[2, 4]", "last axes' shape"),
    ("group_norm", [A, (8,), (8,)], {"groups": 3}, "groups=3 must divide channels=8", "use 1, 2, 4, ..."),
    ("group_norm", [A, (8,), (8,)], {}, "needs attribute groups", "number of groups"),
    ("lrn", [A], {"size": 0}, "size=0 is not positive", "number of channels"),
    ("max_pool2d", [A], {"kernel": (2, 2), "padding": (0, 2, 0, 0)},
     "padding=(0, 2, 0, 0) must be below", "use a pad node"),
    ("max_pool2d", [A], {"kernel": (2,)}, "kernel=(2,) is not 2", "give 2 such values"),
    ("avg_pool2d", [I32], {"kernel": (2, 2)}, "x is i32", "insert a cast"),
    ("global_avg_pool", [(2, 3)], {}, "expected rank 4", "reshape it"),
    ("reduce_mean", [A], {"axes": (4,)}, "axis=4 is out of range for rank 4", "use -4 to 3"),
    ("reduce_sum", [A], {"axes": (1, -3)}, "names an axis twice", "each axis once"),
    ("reduce_max", [(2, 0)], {"axes": (1,)}, "size of 0", "only the batch"),
    ("argmax", [(0,)], {}, "size of 0", "only the batch"),
    ("softmax", [()], {}, "axis=-1 is out of range for rank 0", "use"),
    ("relu", [BOOL], {}, "x is bool[2, 2], expected a number type", "insert a cast"),
    ("logical_not", [A], {}, "expected bool", "compare"),
    ("clip", [A], {"min": "0"}, "min='0' is not of kind float", ""),
    ("gelu", [A], {"approximate": "fast"}, "approximate='fast'", "use one of none, tanh"),
    ("add", [A, (3,)], {}, "do not broadcast at axis 3", "sizes must be equal or 1"),
    ("add", [A, (H,)], {}, "do not broadcast at axis 3", "sizes must be equal or 1"),
    ("add", [A, HALF], {}, "b is f16[1, 8, 4, 4], expected dtype f32", "insert a cast"),
    ("where", [A, A, A], {}, "condition is f32", "compare"),
    ("prelu", [(4,), (3, 4)], {}, "expected to broadcast to f32[4]", "[C, 1, 1]"),
    ("concat", [], {"axis": 0}, "concat of nothing", "one input or more"),
    ("concat", [A, (1, 8, 4, 5)], {"axis": 1}, "input 1 is f32[1, 8, 4, 5], expected f32[1, 8, 4, 4]", "crop, pad"),
    ("slice", [A], {"axis": 3, "start": 0, "stop": 5}, "stop=5", "must lie in 0 to 4"),
    ("slice", [A], {"axis": 3, "start": -1, "stop": 4}, "start=-1", "must lie in 0 to 4"),
    ("slice", [A], {"axis": 3, "start": 4, "stop": -1, "step": -1}, "start=4", "must lie in -1 to 3"),
    ("slice", [A], {"axis": 3, "start": 0, "stop": 4, "step": 0}, "step=0", "positive or negative"),
    ("gather", [A, (2,)], {}, "indices are f32[2], expected integers", "insert a cast"),
    ("reshape", [A], {"shape": (8, 15)},
     "[8, 15] has 120 elements, x is f32[1, 8, 4, 4] with 128", "multiply to the same"),
    ("reshape", [(N, 8)], {"shape": (1, 8)}, "with 8*N", "must become the symbol"),
    ("reshape", [A], {"shape": (1, -1)}, "negative size", "work out -1"),
    ("transpose", [A], {"perm": (0, 1, 1, 2)}, "perm=(0, 1, 1, 2) does not order", "each of 0 to 3 once"),
    ("expand", [A], {"shape": (8, 4, 4)}, "does not broadcast to [8, 4, 4]", "the broadcast result"),
    ("pad", [A], {"before": (1,), "after": (1,)}, "do not fit", "give 4 values each"),
    ("pad", [A], {"before": (0, 0, 0, -3), "after": (0, 0, 0, -2)}, "cropped by more", "crop less"),
    ("pad", [A], {"before": (0, 0, 0, 4), "after": (0,) * 4, "mode": "reflect"}, "reaches too far", "at most 3"),
    ("pad", [A], {"before": (0, 0, 0, 5), "after": (0,) * 4, "mode": "wrap"}, "reaches too far", "at most 4"),
    ("resize", [A], {"size": (8, 8), "scales": (2.0, 2.0)}, "do not fit f32[1, 8, 4, 4]", "give 4 values each"),
    ("resize", [A], {"size": (1, 8, 8, 8), "scales": (1.0, 1.0, 2.0, 0.0)}, "axis 3", "must be positive"),
    ("resize", [A], {"size": (1, 8, 8, 8), "scales": (1.0, 1.0, 2.0, 4.0)}, "takes 4 to 16.0, not 8", "mend either"),
    ("resize", [I32], {"size": A, "scales": (1.0,) * 4, "mode": "linear"}, "x is i32", "insert a cast"),
    ("depth_to_space", [A], {"block": 3}, "block*block=9 must divide channels=8", "use 1, 2, 4, ..."),
    ("depth_to_space", [A], {"block": 0}, "block=(0,)", "give 1"),
    ("space_to_depth", [A], {"block": 3}, "block=3 must divide height=4", "use 1, 2, 4 or"),
    ("channel_shuffle", [A], {"groups": 3}, "groups=3 must divide channels=8", "use 1, 2, 4, ..."),
    ("input", [], {"dtype": DType.F32, "shape": (-1, 3)}, "negative size", "name the size"),
    ("input", [], {"dtype": "f32", "shape": (1, 3)}, "dtype='f32' is not of kind dtype", "element type"),
]  # fmt: skip


@pytest.mark.parametrize(("op", "shapes", "attrs", "found", "hint"), ERRORS)
def test_error_names_node_and_way_out(op: str, shapes: list[Any], attrs: Attrs, found: str, hint: str) -> None:
    with pytest.raises(ModelError) as caught:
        typed(op, shapes, attrs)
    assert str(caught.value).startswith(f"{op} %y: ")
    assert found in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("op", "shapes", "attrs", "macs"),
    [
        ("conv2d", [(1, 3, 224, 224), (64, 3, 7, 7)], {"stride": (2, 2), "padding": (3,) * 4}, 118_013_952),
        ("conv2d", [(2, 8, 4, 4), (8, 1, 3, 3)], {"groups": 8, "padding": (1,) * 4}, 2 * 8 * 16 * 9),
        ("conv_transpose2d", [(1, 8, 4, 4), (8, 3, 2, 2)], {"stride": (2, 2)}, 8 * 16 * 3 * 4),
        ("linear", [(2, 2048), (1000, 2048)], {}, 2 * 2048 * 1000),
        ("matmul", [(2, 3, 4), (4, 5)], {}, 2 * 3 * 4 * 5),
        ("relu", [(2, 3)], {}, 0),
    ],
)
def test_macs(op: str, shapes: list[Any], attrs: Attrs, macs: int) -> None:
    out = typed(op, shapes, attrs)
    operator = OPS[op]
    assert operator.macs([TensorType(DType.F32, s) for s in shapes], out, operator.complete(attrs)) == macs


def test_weights_are_learnable_parameters() -> None:
    learnt = {name: set(operator.weights) for name, operator in OPS.items() if operator.weights}
    affine, dense = {"gamma", "beta"}, {"w", "b"}
    assert learnt == {
        "conv2d": dense | {"scale", "shift"}, "conv_transpose2d": dense, "linear": dense, "prelu": {"slope"},
        "batch_norm": affine, "layer_norm": affine, "instance_norm": affine, "group_norm": affine,
    }  # fmt: skip
