"""How each operator of the IR is written in ONNX."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from convc.dims import Dim, Size
from convc.errors import ModelError
from convc.frontends.onnx.tensors import ONNX_TYPES
from convc.ir.graph import Node
from convc.ops import activation_attrs
from convc.types import Activation, DType, Shape

if TYPE_CHECKING:
    from convc.frontends.onnx.export import Writer

Exporter = Callable[["Writer", Node], None]
_INT64_MIN = -(1 << 63)


def _inputs(w: Writer, node: Node) -> list[str]:
    return [w.names[name] if name is not None else "" for name in node.inputs]


def _out(w: Writer, node: Node) -> str:
    return w.names[node.name]


def _shape(w: Writer, node: Node, index: int = 0) -> Shape:
    name = node.inputs[index]
    assert name is not None
    return w.graph[name].type.shape


def _same(op: str, since: int = 0, **renamed: str) -> Exporter:
    """The same inputs; attributes as named, ONNX name to ours."""

    def write(w: Writer, node: Node) -> None:
        attrs = {theirs: _plain(node.attrs[ours]) for theirs, ours in renamed.items()}
        w.emit(op, _inputs(w, node), _out(w, node), since=since, **attrs)

    return write


def _plain(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    return list(value) if isinstance(value, tuple) else value


# One input, elementwise; also used for epilogues

_UNARY: dict[str, tuple[str, int]] = {
    "relu": ("Relu", 0), "leaky_relu": ("LeakyRelu", 0), "sigmoid": ("Sigmoid", 0), "hard_sigmoid": ("HardSigmoid", 0),
    "hard_swish": ("HardSwish", 0), "tanh": ("Tanh", 0), "elu": ("Elu", 0), "selu": ("Selu", 0), "celu": ("Celu", 0),
    "softplus": ("Softplus", 0), "softsign": ("Softsign", 0), "mish": ("Mish", 0), "gelu": ("Gelu", 20),
    "erf": ("Erf", 0), "exp": ("Exp", 0), "log": ("Log", 0), "sqrt": ("Sqrt", 0), "reciprocal": ("Reciprocal", 0),
    "neg": ("Neg", 0), "abs": ("Abs", 0), "floor": ("Floor", 0), "ceil": ("Ceil", 0), "round": ("Round", 0),
    "sign": ("Sign", 0), "sin": ("Sin", 0), "cos": ("Cos", 0), "logical_not": ("Not", 0),
}  # fmt: skip


def _write_unary(w: Writer, op: str, x: str, attrs: Mapping[str, Any], dtype: DType, out: str) -> None:
    if op == "silu":
        w.emit("Mul", [x, w.emit("Sigmoid", [x])], out)
    elif op == "clip":
        bounds = [attrs[key] for key in ("min", "max")]
        w.emit("Clip", [x, *("" if math.isinf(b) else w.constant(np.array(b, dtype.numpy)) for b in bounds)], out)
    else:
        name, since = _UNARY[op]
        since = 28 if op == "celu" and dtype is not DType.F32 else since
        w.emit(name, [x], out, since=since, **{key: _plain(value) for key, value in attrs.items()})


def _unary(w: Writer, node: Node) -> None:
    _write_unary(w, node.op, _inputs(w, node)[0], node.attrs, node.type.dtype, _out(w, node))


def _epilogue(w: Writer, node: Node, build: Callable[[str | None], str]) -> None:
    """The operator, then + residual, then the activation, the last one under the node's name."""
    activation: Activation | None = node.attrs["activation"]
    residual = node.input("residual")
    y = build(_out(w, node) if residual is None and activation is None else None)
    if residual is not None:
        y = w.emit("Add", [y, w.names[residual]], _out(w, node) if activation is None else None)
    if activation is not None:
        _write_unary(w, activation.name, y, activation_attrs(activation), node.type.dtype, _out(w, node))


def _slots(w: Writer, node: Node) -> list[str]:
    """x, w, and b where there is one."""
    return [w.names[name] for slot in ("x", "w", "b") if (name := node.input(slot)) is not None]


def _window(node: Node) -> dict[str, Any]:
    a = node.attrs
    return {"strides": list(a["stride"]), "pads": list(a["padding"]), "dilations": list(a["dilation"])}


def _conv2d(w: Writer, node: Node) -> None:
    attrs = {"group": node.attrs["groups"], **_window(node)}
    slots = [_prologue(w, node), *_slots(w, node)[1:]]
    _epilogue(w, node, lambda out: w.emit("Conv", slots, out, **attrs))


def _prologue(w: Writer, node: Node) -> str:
    """prologue(x scale + shift) of a conv2d, as nodes ahead of it."""
    x = _inputs(w, node)[0]
    for slot, op in (("scale", "Mul"), ("shift", "Add")):
        name = node.input(slot)
        if name is not None:
            column = w.emit("Reshape", [w.names[name], w.ints([-1, 1, 1])])
            x = w.emit(op, [x, column])
    prologue: Activation | None = node.attrs["prologue"]
    if prologue is not None:
        y = w.fresh(w.base)
        _write_unary(w, prologue.name, x, activation_attrs(prologue), node.type.dtype, y)
        x = y
    return x


def _conv_transpose2d(w: Writer, node: Node) -> None:
    attrs = {"group": node.attrs["groups"], "output_padding": list(node.attrs["output_padding"]), **_window(node)}
    _epilogue(w, node, lambda out: w.emit("ConvTranspose", _slots(w, node), out, **attrs))


def _linear(w: Writer, node: Node) -> None:
    def build(out: str | None) -> str:
        slots = _slots(w, node)
        if len(_shape(w, node)) == 2:
            return w.emit("Gemm", slots, out, transB=1)
        product = [slots[0], w.emit("Transpose", [slots[1]], perm=[1, 0])]
        if len(slots) == 2:
            return w.emit("MatMul", product, out)
        return w.emit("Add", [w.emit("MatMul", product), slots[2]], out)

    _epilogue(w, node, build)


def _layer_norm(w: Writer, node: Node) -> None:
    """ONNX wants gamma of the normalised axes' shape; others are applied afterwards."""
    shape = _shape(w, node)
    axis = node.attrs["axis"] % len(shape)
    slots: dict[str, str] = {}
    for slot in ("gamma", "beta"):
        name = node.input(slot)
        if name is not None:
            slots[slot] = name
    inner = {slot: w.graph[name].type.shape == shape[axis:] for slot, name in slots.items()}
    after = [slot for slot in slots if not inner[slot]]
    if "gamma" in after and "beta" in slots and "beta" not in after:
        after.append("beta")
    if "gamma" in slots and "gamma" not in after:
        scale = w.names[slots["gamma"]]
    else:
        one = w.constant(np.ones((), node.type.dtype.numpy))
        scale = w.emit("Expand", [one, w.sizes(shape[axis:])])
    inputs = [_inputs(w, node)[0], scale]
    if "beta" in slots and "beta" not in after:
        inputs.append(w.names[slots["beta"]])
    y = w.emit("LayerNormalization", inputs, None if after else _out(w, node), axis=axis, epsilon=node.attrs["epsilon"])
    for index, slot in enumerate(after):
        last = index == len(after) - 1
        y = w.emit("Mul" if slot == "gamma" else "Add", [y, w.names[slots[slot]]], _out(w, node) if last else None)


def _pool(op: str) -> Exporter:
    def write(w: Writer, node: Node) -> None:
        attrs = {"kernel_shape": list(node.attrs["kernel"]), "ceil_mode": int(node.attrs["ceil_mode"]), **_window(node)}
        since = 0
        if op == "AveragePool":
            attrs["count_include_pad"] = int(node.attrs["count_include_pad"])
            since = 19 if max(node.attrs["dilation"]) > 1 or node.attrs["ceil_mode"] else 0
            if not since:
                del attrs["dilations"]
        w.emit(op, _inputs(w, node), _out(w, node), since=since, **attrs)

    return write


def _reduce(op: str) -> Exporter:
    def write(w: Writer, node: Node) -> None:
        x, axes = _inputs(w, node)[0], node.attrs["axes"]
        if not axes:
            w.emit("Abs" if op == "ReduceL2" else "Identity", [x], _out(w, node))
            return
        w.emit(op, [x, w.ints(axes)], _out(w, node), keepdims=int(node.attrs["keepdims"]))

    return write


def _mod(w: Writer, node: Node) -> None:
    """ONNX knows floor remainders of floats only since opset 28: a - floor(a / b) b."""
    a, b = _inputs(w, node)
    if node.attrs["fmod"] or not node.type.dtype.is_float:
        w.emit("Mod", [a, b], _out(w, node), fmod=int(node.attrs["fmod"]))
        return
    whole = w.emit("Floor", [w.emit("Div", [a, b])])
    w.emit("Sub", [a, w.emit("Mul", [whole, b])], _out(w, node))


def _cast(w: Writer, node: Node) -> None:
    w.emit("Cast", _inputs(w, node), _out(w, node), to=ONNX_TYPES[node.attrs["to"]])


def _dropout(w: Writer, node: Node) -> None:
    ratio = w.constant(np.array(node.attrs["ratio"], np.float32))
    w.emit("Dropout", [*_inputs(w, node), ratio], _out(w, node))


# Shapes


def _write_reshape(w: Writer, x: str, old: Shape, new: Shape, out: str | None) -> str:
    """A constant target where 0 (a size of x at the same axis) and one -1 can stand for the symbols."""
    target: list[int] = []
    for axis, size in enumerate(new):
        if not isinstance(size, Dim):
            target.append(size)
        else:
            target.append(0 if axis < len(old) and old[axis] == size else -1)
    if target.count(-1) > 1 or any(t == 0 and s == 0 for t, s in zip(target, new, strict=True)):
        return w.emit("Reshape", [x, w.sizes(new)], out, allowzero=int(0 in new))
    return w.emit("Reshape", [x, w.ints(target)], out)


def _reshape(w: Writer, node: Node) -> None:
    _write_reshape(w, _inputs(w, node)[0], _shape(w, node), node.type.shape, _out(w, node))


def _channel_shuffle(w: Writer, node: Node) -> None:
    old = _shape(w, node)
    n, channels, height, width = old
    groups = node.attrs["groups"]
    split: Shape = (n, groups, channels // groups, height, width)
    swapped: Shape = (n, channels // groups, groups, height, width)
    y = _write_reshape(w, _inputs(w, node)[0], old, split, None)
    y = w.emit("Transpose", [y], perm=[0, 2, 1, 3, 4])
    _write_reshape(w, y, swapped, node.type.shape, _out(w, node))


def _expand(w: Writer, node: Node) -> None:
    w.emit("Expand", [*_inputs(w, node), w.sizes(node.type.shape)], _out(w, node))


def _slice(w: Writer, node: Node) -> None:
    a = node.attrs
    backwards = a["step"] < 0 and a["stop"] == -1
    stop = w.ints([_INT64_MIN]) if backwards else w.sizes([a["stop"]])
    parts = [w.ints([a["start"]]), stop, w.ints([a["axis"]]), w.ints([a["step"]])]
    w.emit("Slice", [*_inputs(w, node), *parts], _out(w, node))


def _pad(w: Writer, node: Node) -> None:
    a = node.attrs
    inputs = [*_inputs(w, node), w.ints([*a["before"], *a["after"]])]
    if a["mode"] == "constant" and a["value"] != 0:
        inputs.append(w.constant(np.array(a["value"], node.type.dtype.numpy)))
    w.emit("Pad", inputs, _out(w, node), since=19 if a["mode"] == "wrap" else 0, mode=a["mode"])


def _resize(w: Writer, node: Node) -> None:
    """By scales where they give the size, as coordinates use them; else by sizes, where those give the scales."""
    a, old = node.attrs, _shape(w, node)
    coordinates, nearest = a["coordinates"], a["nearest"]
    if coordinates == "tf_half_pixel_for_nn":  # gone since opset 13; half a pixel more is another rounding
        known = {"floor": "round_prefer_ceil", "round_prefer_floor": "ceil"}
        if a["mode"] != "nearest" or nearest not in known:
            raise ModelError(f"coordinates={coordinates} with nearest={nearest} are not in ONNX", hint="use half_pixel")
        coordinates, nearest = "half_pixel", known[nearest]
    axes = list(zip(old, a["size"], a["scales"], strict=True))
    if all(_scale_gives(*axis) for axis in axes):
        inputs = ["", w.constant(np.array(a["scales"], np.float32))]
    elif coordinates == "align_corners" or all(_size_gives(*axis) for axis in axes):
        inputs = ["", "", w.sizes(a["size"])]
    else:
        raise ModelError(f"size={a['size']} and scales={a['scales']} do not agree", hint="ONNX takes one of them")
    since = 19 if coordinates == "half_pixel_symmetric" else 0
    attrs = {
        "mode": a["mode"], "coordinate_transformation_mode": coordinates, "nearest_mode": nearest,
        "cubic_coeff_a": a["cubic_a"], "exclude_outside": int(a["exclude_outside"]), "antialias": int(a["antialias"]),
    }  # fmt: skip
    w.emit("Resize", [*_inputs(w, node), *inputs], _out(w, node), since=since, **attrs)


def _scale_gives(old: Size, new: Size, scale: float) -> bool:
    if isinstance(old, int) and isinstance(new, int):
        return int(np.floor(np.float32(old) * np.float32(scale))) == new
    return True


def _size_gives(old: Size, new: Size, scale: float) -> bool:
    return isinstance(old, int) and isinstance(new, int) and abs(new / old - scale) < 1e-6 * scale


EXPORTERS: dict[str, Exporter] = {
    **dict.fromkeys([*_UNARY, "silu", "clip"], _unary),
    "cast": _cast,
    "conv2d": _conv2d,
    "conv_transpose2d": _conv_transpose2d,
    "linear": _linear,
    "matmul": _same("MatMul"),
    "batch_norm": _same("BatchNormalization", epsilon="epsilon"),
    "layer_norm": _layer_norm,
    "instance_norm": _same("InstanceNormalization", epsilon="epsilon"),
    "group_norm": _same("GroupNormalization", 21, num_groups="groups", epsilon="epsilon"),
    "lrn": _same("LRN", size="size", alpha="alpha", beta="beta", bias="bias"),
    "max_pool2d": _pool("MaxPool"),
    "avg_pool2d": _pool("AveragePool"),
    "global_avg_pool": _same("GlobalAveragePool"),
    "global_max_pool": _same("GlobalMaxPool"),
    "reduce_mean": _reduce("ReduceMean"),
    "reduce_sum": _reduce("ReduceSum"),
    "reduce_max": _reduce("ReduceMax"),
    "reduce_min": _reduce("ReduceMin"),
    "reduce_prod": _reduce("ReduceProd"),
    "reduce_l2": _reduce("ReduceL2"),
    "argmax": _same("ArgMax", axis="axis", keepdims="keepdims", select_last_index="last"),
    "softmax": _same("Softmax", axis="axis"),
    "log_softmax": _same("LogSoftmax", axis="axis"),
    "prelu": _same("PRelu"),
    "add": _same("Add"),
    "sub": _same("Sub"),
    "mul": _same("Mul"),
    "div": _same("Div"),
    "pow": _same("Pow"),
    "max": _same("Max"),
    "min": _same("Min"),
    "mod": _mod,
    "equal": _same("Equal"),
    "less": _same("Less"),
    "less_or_equal": _same("LessOrEqual"),
    "greater": _same("Greater"),
    "greater_or_equal": _same("GreaterOrEqual"),
    "logical_and": _same("And"),
    "logical_or": _same("Or"),
    "where": _same("Where"),
    "concat": _same("Concat", axis="axis"),
    "slice": _slice,
    "gather": _same("Gather", axis="axis"),
    "reshape": _reshape,
    "transpose": _same("Transpose", perm="perm"),
    "expand": _expand,
    "pad": _pad,
    "resize": _resize,
    "depth_to_space": _same("DepthToSpace", blocksize="block", mode="mode"),
    "space_to_depth": _same("SpaceToDepth", blocksize="block"),
    "channel_shuffle": _channel_shuffle,
    "identity": _same("Identity"),
    "dropout": _dropout,
}
"""By operator of the IR; input and constant have no node."""
