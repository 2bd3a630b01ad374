"""Importers of normalisations."""

from __future__ import annotations

import numpy as np

from convc.errors import ModelError
from convc.frontends.torch.context import Call, Importer
from convc.ir.graph import Node
from convc.ops.base import static_size
from convc.types import product


def _vector(call: Call, name: str, x: Node, value: float) -> Node:
    """A parameter with a value a channel; where it is left out, that value."""
    given = call.optional(name)
    if given is not None:
        return given
    channels = static_size(x.type.shape[1], "channels")
    return call.constant(np.full(channels, value, x.type.dtype.numpy), name)


def _affine(call: Call, x: Node) -> tuple[Node, Node]:
    return _vector(call, "weight", x, 1.0), _vector(call, "bias", x, 0.0)


def _batch_norm(call: Call) -> Node:
    if call.get("running_mean") is None:
        return _batch_norm_of_batch(call)
    x = call.x
    if call.flag("training"):
        raise ModelError("batch_norm takes the statistics of the batch", hint="call .eval() on the module")
    gamma, beta = _affine(call, x)
    mean, var = call.node("running_mean"), call.node("running_var")
    return call.emit("batch_norm", x, gamma, beta, mean, var, epsilon=call.real("eps"))


def _batch_norm_of_batch(call: Call) -> Node:
    """Of a module that keeps no statistics: those of what it is given, over all axes but the channels."""
    x = call.x
    axes = tuple(axis for axis in range(x.type.rank) if axis != 1)
    centred = call.emit("sub", x, call.emit("reduce_mean", x, axes=axes))
    variance = call.emit("reduce_mean", call.emit("mul", centred, centred), axes=axes)
    epsilon = call.scalar(call.real("eps"), x.type.dtype)
    y = call.emit("div", centred, call.emit("sqrt", call.emit("add", variance, epsilon)))
    for op, parameter in (("mul", call.optional("weight")), ("add", call.optional("bias"))):
        if parameter is not None:
            y = call.emit(op, y, call.reshape(parameter, (*parameter.type.shape, *[1] * (x.type.rank - 2))))
    return y


def _instance_norm(call: Call) -> Node:
    if not call.flag("use_input_stats"):
        return _batch_norm(call)
    x = call.x
    return call.emit("instance_norm", x, *_affine(call, x), epsilon=call.real("eps"))


def _group_norm(groups: str) -> Importer:
    def convert(call: Call) -> Node:
        x = call.x
        return call.emit("group_norm", x, *_affine(call, x), groups=call.integer(groups), epsilon=call.real("eps"))

    return convert


def _layer_norm(call: Call) -> Node:
    x, shape = call.x, call.sizes("normalized_shape")
    inputs = [call.optional("weight"), call.optional("bias")]
    if inputs[0] is None and inputs[1] is not None:
        inputs[0] = call.constant(np.ones(inputs[1].type.concrete({}), x.type.dtype.numpy), "weight")
    return call.emit("layer_norm", x, *inputs, axis=x.type.rank - len(shape), epsilon=call.real("eps"))


def _rms_norm(call: Call) -> Node:
    x = call.x
    axes = tuple(range(x.type.rank - len(call.sizes("normalized_shape")), x.type.rank))
    epsilon = call.real("eps", float(np.finfo(x.type.dtype.numpy).eps))
    square = call.emit("reduce_mean", call.emit("mul", x, x), axes=axes)
    root = call.emit("sqrt", call.emit("add", square, call.scalar(epsilon, x.type.dtype)))
    y = call.emit("div", x, root)
    weight = call.optional("weight")
    return y if weight is None else call.emit("mul", y, weight)


def _only_normalised(importer: Importer) -> Importer:
    """Of the result and its statistics, the result."""

    def convert(call: Call) -> list[Node | None]:
        y = importer(call)
        assert isinstance(y, Node)
        return [y, None, None, None]

    return convert


def _variance(*, root: bool, mean: bool) -> Importer:
    """Variance with `correction` taken off the number of elements; its root; the mean beside it."""

    def convert(call: Call) -> Node | list[Node]:
        x = call.x
        axes, keep = call.axes("dim", x.type.rank), call.flag("keepdim")
        correction = 1.0 if call.get("correction") is None and call.get("unbiased") is not False else 0.0
        correction = call.real("correction", correction)
        centre = call.emit("reduce_mean", x, axes=axes)
        centred = call.emit("sub", x, centre)
        square = call.emit("mul", centred, centred)
        y = call.emit("reduce_mean", square, axes=axes, keepdims=keep)
        if correction:
            count = static_size(product([x.type.shape[a] for a in axes]), "the number of elements")
            y = call.emit("mul", y, call.scalar(count / (count - correction), x.type.dtype))
        y = call.emit("sqrt", y) if root else y
        return [y, call.emit("reduce_mean", x, axes=axes, keepdims=keep)] if mean else y

    return convert


NORMALISATIONS: dict[str, Importer] = {
    "batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": _only_normalised(_batch_norm),
    "_native_batch_norm_legit": _only_normalised(_batch_norm),
    "native_batch_norm": _only_normalised(_batch_norm),
    "instance_norm": _instance_norm,
    "group_norm": _group_norm("num_groups"),
    "native_group_norm": _only_normalised(_group_norm("group")),
    "layer_norm": _layer_norm,
    "native_layer_norm": _only_normalised(_layer_norm),
    "rms_norm": _rms_norm,
    "var": _variance(root=False, mean=False),
    "std": _variance(root=True, mean=False),
    "var_mean": _variance(root=False, mean=True),
    "std_mean": _variance(root=True, mean=True),
}
"""By ATen operator."""
