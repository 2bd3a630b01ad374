"""Importers of normalisations, softmax and reductions."""

from __future__ import annotations

import numpy as np

from convc.dims import Dim
from convc.errors import ModelError
from convc.frontends.onnx.context import Call, Importer
from convc.frontends.scales import FIX_SIZES
from convc.ir.graph import Node
from convc.ops.base import normal_axis
from convc.types import DType, product

_EVAL = "export in inference mode, as with model.eval()"


def _batch_norm(call: Call) -> list[Node | None]:
    """In training mode of a constant alone, such as weights that are standardised: its own mean and variance."""
    training = call.flag("training_mode")
    if training and not call.builder.is_constant(call.node(0)):
        raise ModelError("attribute training_mode=1: statistics of the batch are not supported", hint=_EVAL)
    if not call.integer("spatial", 1):
        raise ModelError(
            "attribute spatial=0: a value for each activation is not supported", hint="export with spatial=1"
        )
    if not training and any(call.used(i) for i in range(1, 5)):
        raise ModelError("running statistics are outputs, as in training", hint=_EVAL)
    inputs = [call.node(i) for i in range(5)]
    dtype = inputs[0].type.dtype
    inputs = [n if n.type.dtype is dtype else call.emit("cast", n, to=dtype) for n in inputs]
    if training:
        x = inputs[0]
        axes = tuple(axis for axis in range(x.type.rank) if axis != 1)
        mean = call.emit("reduce_mean", x, axes=axes)
        squares = call.emit("mul", *[call.emit("sub", x, mean)] * 2)
        channels = (x.type.shape[1],)
        inputs[3] = call.emit("reshape", mean, shape=channels)
        inputs[4] = call.emit("reshape", call.emit("reduce_mean", squares, axes=axes), shape=channels)
    y = call.emit("batch_norm", *inputs, epsilon=call.real("epsilon", 1e-5))
    return [y, *(None for _ in call.proto.output[1:])]  # running statistics are for training


def _layer_norm(call: Call) -> list[Node | None]:
    """Mean and inverse deviation, the second and third outputs, are computed where they are used."""
    x = call.node(0)
    axis = normal_axis(call.integer("axis", -1), x.type.rank)
    epsilon = call.real("epsilon", 1e-5)
    y = call.emit("layer_norm", x, call.node(1), call.optional(2), axis=axis, epsilon=epsilon)
    mean = deviation = None
    axes = tuple(range(axis, x.type.rank))
    if call.used(1) or call.used(2):
        mean = call.emit("reduce_mean", x, axes=axes)
    if call.used(2):
        centred = call.emit("sub", x, mean)
        variance = call.emit("reduce_mean", call.emit("mul", centred, centred), axes=axes)
        shifted = call.emit("add", variance, call.scalar_like(x, epsilon))
        deviation = call.emit("reciprocal", call.emit("sqrt", shifted))
    return [y, mean, deviation]


def _rms_norm(call: Call) -> Node:
    x, scale = call.node(0), call.node(1)
    axes = tuple(range(normal_axis(call.integer("axis", -1), x.type.rank), x.type.rank))
    square = call.emit("reduce_mean", call.emit("mul", x, x), axes=axes)
    root = call.emit("sqrt", call.emit("add", square, call.scalar_like(x, call.real("epsilon", 1e-5))))
    return call.emit("mul", call.emit("div", x, root), scale)


def _instance_norm(call: Call) -> Node:
    return call.emit("instance_norm", call.node(0), call.node(1), call.node(2), epsilon=call.real("epsilon", 1e-5))


def _group_norm(call: Call) -> Node:
    """Scale and bias have a value a group in opset 18, a value a channel since opset 21."""
    x, gamma, beta = call.node(0), call.node(1), call.node(2)
    groups = call.integer("num_groups")
    channels = x.type.shape[1]
    if isinstance(channels, Dim):
        raise ModelError(f"channels of {x.type} are symbolic", hint=FIX_SIZES)
    if call.opset < 21 and groups > 0 and channels % groups == 0:
        gamma, beta = (_each_channel(call, v, groups, channels) for v in (gamma, beta))
    return call.emit("group_norm", x, gamma, beta, groups=groups, epsilon=call.real("epsilon", 1e-5))


def _each_channel(call: Call, vector: Node, groups: int, channels: int) -> Node:
    column = call.emit("reshape", vector, shape=(groups, 1))
    return call.emit("reshape", call.emit("expand", column, shape=(groups, channels // groups)), shape=(channels,))


def _lrn(call: Call) -> Node:
    return call.emit(
        "lrn", call.node(0), size=call.integer("size"), alpha=call.real("alpha", 1e-4), beta=call.real("beta", 0.75),
        bias=call.real("bias", 1.0),
    )  # fmt: skip


def _mean_variance_norm(call: Call) -> Node:
    """(x - mean) / (sqrt(mean(x**2) - mean**2) + 1e-9); the variance is computed from centred elements."""
    x = call.node(0)
    axes = tuple(normal_axis(a, x.type.rank) for a in call.ints_attr("axes", (0, 2, 3)) or ())
    centred = call.emit("sub", x, call.emit("reduce_mean", x, axes=axes))
    variance = call.emit("reduce_mean", call.emit("mul", centred, centred), axes=axes)
    return call.emit("div", centred, call.emit("add", call.emit("sqrt", variance), call.scalar_like(x, 1e-9)))


def _lp_norm(call: Call) -> Node:
    """Lengths along an axis become 1: x / |x|, 0 where |x| is 0."""
    x, power = call.node(0), call.integer("p", 2)
    axes = (normal_axis(call.integer("axis", -1), x.type.rank),)
    if power not in {1, 2}:
        raise ModelError(f"attribute p={power} is not supported", hint="use 1 or 2")
    size = (
        call.emit("reduce_l2", x, axes=axes) if power == 2 else call.emit("reduce_sum", call.emit("abs", x), axes=axes)
    )
    zero = call.scalar_like(x, 0.0)
    return call.emit("where", call.emit("equal", size, zero), zero, call.emit("div", x, size))


def _softmax(op: str) -> Importer:
    """Before opset 13 the axes from `axis` on (default 1) are one; since then it is one axis (default the last)."""

    def convert(call: Call) -> Node:
        x = call.node(0)
        axis = normal_axis(call.integer("axis", 1 if call.opset < 13 else -1), x.type.rank)
        shape = x.type.shape
        wide = [i for i in range(axis, len(shape)) if shape[i] != 1]
        if call.opset >= 13 or len(wide) <= 1:
            return call.emit(op, x, axis=wide[0] if call.opset < 13 and wide else axis)
        flat = call.emit("reshape", x, shape=(product(shape[:axis]), product(shape[axis:])))
        return call.emit("reshape", call.emit(op, flat, axis=1), shape=shape)

    return convert


def _hardmax(call: Call) -> Node:
    """One at the first largest element, else zero; flattened before opset 13 as softmax is."""
    x = call.node(0)
    axis = normal_axis(call.integer("axis", 1 if call.opset < 13 else -1), x.type.rank)
    shape = x.type.shape
    flat = x
    if call.opset < 13:
        flat = call.emit("reshape", x, shape=(product(shape[:axis]), product(shape[axis:])))
        axis = 1
    size = flat.type.shape[axis]
    if isinstance(size, Dim):
        raise ModelError(f"axis {axis} of {flat.type} is symbolic", hint=FIX_SIZES)
    call.builder.charge("indices", size, DType.I64)
    places = np.arange(size).reshape(-1, *(1,) * (flat.type.rank - 1 - axis))
    best = call.emit("argmax", flat, axis=axis)
    y = call.emit("cast", call.emit("equal", best, call.constant(places)), to=x.type.dtype)
    return call.emit("reshape", y, shape=shape)


def _reduction(op: str, before: str = "", after: str = "") -> Importer:
    """A reduction; `before` and `after` are operators applied to its input and output. Without axes, over all."""

    def convert(call: Call) -> Node:
        x = call.node(0)
        axes = call.axes(1, x.type.rank)
        keepdims = call.flag("keepdims", True)
        nothing = not axes and call.flag("noop_with_empty_axes")
        if not axes:
            axes = () if nothing else tuple(range(x.type.rank))
        if before:
            x = call.emit("mul", x, x) if before == "square" else call.emit(before, x)
        boolean = x.type.dtype is DType.BOOL
        if boolean:
            x = call.emit("cast", x, to=DType.U8)
        if nothing and op == "reduce_l2":
            x = call.emit("abs", x)
        elif not nothing:
            x = call.emit(op, x, axes=axes, keepdims=keepdims)
        if boolean:
            x = call.emit("cast", x, to=DType.BOOL)
        return call.emit(after, x) if after else x

    return convert


def _log_sum_exp(call: Call) -> Node:
    """log(sum(exp(x - m))) + m with m the largest element, so that nothing overflows."""
    x = call.node(0)
    axes = call.axes(1, x.type.rank)
    if not axes and call.flag("noop_with_empty_axes"):
        return x
    axes = axes or tuple(range(x.type.rank))
    largest = call.emit("reduce_max", x, axes=axes)
    total = call.emit("reduce_sum", call.emit("exp", call.emit("sub", x, largest)), axes=axes)
    y = call.emit("add", call.emit("log", total), largest)
    if call.flag("keepdims", True):
        return y
    return call.emit("reshape", y, shape=tuple(s for i, s in enumerate(y.type.shape) if i not in axes))


def _arg(call: Call, x: Node) -> Node:
    axis = normal_axis(call.integer("axis", 0), x.type.rank)
    return call.emit(
        "argmax", x, axis=axis, keepdims=call.flag("keepdims", True), last=call.flag("select_last_index")
    )  # fmt: skip


def _argmin(call: Call) -> Node:
    x = call.node(0)
    if not x.type.dtype.is_float:
        raise ModelError(f"ArgMin of {x.type} is not supported", hint="cast to a float type")
    return _arg(call, call.emit("neg", x))


NORMALISATIONS: dict[str, Importer] = {
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _rms_norm,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
    "LRN": _lrn,
    "MeanVarianceNormalization": _mean_variance_norm,
    "LpNormalization": _lp_norm,
    "Softmax": _softmax("softmax"),
    "LogSoftmax": _softmax("log_softmax"),
    "Hardmax": _hardmax,
    "ReduceMean": _reduction("reduce_mean"),
    "ReduceSum": _reduction("reduce_sum"),
    "ReduceMax": _reduction("reduce_max"),
    "ReduceMin": _reduction("reduce_min"),
    "ReduceProd": _reduction("reduce_prod"),
    "ReduceL1": _reduction("reduce_sum", before="abs"),
    "ReduceL2": _reduction("reduce_l2"),
    "ReduceSumSquare": _reduction("reduce_sum", before="square"),
    "ReduceLogSum": _reduction("reduce_sum", after="log"),
    "ReduceLogSumExp": _log_sum_exp,
    "ArgMax": lambda call: _arg(call, call.node(0)),
    "ArgMin": _argmin,
}
"""By ONNX operator."""
