"""Importers of elementwise operators."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from convc.errors import ModelError
from convc.frontends.onnx.context import Call, Importer, shortest
from convc.frontends.onnx.tensors import dtype_of
from convc.ir.graph import Node


def unary(op: str, **defaults: float) -> Importer:
    """An operator of one input whose attributes are floats of the same names."""

    def convert(call: Call) -> Node:
        return call.emit(op, call.node(0), **{name: call.real(name, value) for name, value in defaults.items()})

    return convert


def binary(op: str) -> Importer:
    """An operator of two inputs that broadcast."""

    def convert(call: Call) -> Node:
        return call.emit(op, call.node(0), call.node(1))

    return convert


def chain(op: str) -> Importer:
    """An operator of any number of inputs, from left to right."""

    def convert(call: Call) -> Node:
        total, *rest = call.nodes()
        for node in rest:
            total = call.emit(op, total, node)
        return total

    return convert


def _mean(call: Call) -> Node:
    total, *rest = call.nodes()
    for node in rest:
        total = call.emit("add", total, node)
    return call.emit("div", total, call.scalar_like(total, call.count)) if rest else total


def _clip(call: Call) -> Node:
    """Bounds are attributes before opset 11; where they are computed at run time, max and min serve."""
    x = call.node(0)
    if call.opset < 11:
        low = call.real("min", -math.inf)
        high = call.real("max", math.inf)
        return call.emit("clip", x, min=low, max=high)
    constant = all(not call.has(i) or call.known(i) is not None for i in (1, 2))
    if constant and x.type.dtype.is_float:
        low = call.scalar(1, "min") if call.has(1) else -math.inf
        high = call.scalar(2, "max") if call.has(2) else math.inf
        return call.emit("clip", x, min=low, max=high)
    if call.has(1):
        x = call.emit("max", x, call.node(1))
    return call.emit("min", x, call.node(2)) if call.has(2) else x


def _gelu(call: Call) -> Node:
    return call.emit("gelu", call.node(0), approximate=call.text("approximate", "none"))


def _swish(call: Call) -> Node:
    x, alpha = call.node(0), call.real("alpha", 1.0)
    if alpha == 1.0:
        return call.emit("silu", x)
    return call.emit("mul", x, call.emit("sigmoid", call.emit("mul", x, call.scalar_like(x, alpha))))


def _thresholded_relu(call: Call) -> Node:
    x = call.node(0)
    above = call.emit("greater", x, call.scalar_like(x, call.real("alpha", 1.0)))
    return call.emit("where", above, x, call.scalar_like(x, 0.0))


def _mod(call: Call) -> Node:
    return call.emit("mod", call.node(0), call.node(1), fmod=call.flag("fmod"))


def _xor(call: Call) -> Node:
    return call.emit("logical_not", call.emit("equal", call.node(0), call.node(1)))


def _is_nan(call: Call) -> Node:
    x = call.node(0)
    return call.emit("logical_not", call.emit("equal", x, x))


def _cast(call: Call) -> Node:
    return call.emit("cast", call.node(0), to=dtype_of(call.integer("to"), "the result"))


def _cast_like(call: Call) -> Node:
    return call.emit("cast", call.node(0), to=call.type(1).dtype)


def _dropout(call: Call) -> Node:
    """Inference only: identity. Opset 12 takes ratio and training mode as inputs."""
    if call.opset < 12:
        return call.emit("dropout", call.node(0), ratio=call.real("ratio", 0.5))
    if call.has(2):
        training = call.known(2)
        if training is None or bool(np.any(training.array)):
            raise ModelError("training_mode is not false", hint="export in inference mode, as with model.eval()")
    ratio = call.scalar(1, "ratio") if call.has(1) and call.known(1) is not None else 0.5
    return call.emit("dropout", call.node(0), ratio=shortest(ratio))


def _composed(build: Callable[[Call, Node], Node]) -> Importer:
    def convert(call: Call) -> Node:
        return build(call, call.node(0))

    return convert


def _half_of_exps(sign: str) -> Importer:
    """(exp(x) + or - exp(-x)) / 2."""

    def build(call: Call, x: Node) -> Node:
        total = call.emit(sign, call.emit("exp", x), call.emit("exp", call.emit("neg", x)))
        return call.emit("mul", total, call.scalar_like(x, 0.5))

    return _composed(build)


ELEMENTWISE: dict[str, Importer] = {
    "Relu": unary("relu"),
    "LeakyRelu": unary("leaky_relu", alpha=0.01),
    "Sigmoid": unary("sigmoid"),
    "HardSigmoid": unary("hard_sigmoid", alpha=0.2, beta=0.5),
    "HardSwish": unary("hard_swish"),
    "Tanh": unary("tanh"),
    "Elu": unary("elu", alpha=1.0),
    "Selu": unary("selu", alpha=1.67326319217681884765625, gamma=1.05070102214813232421875),
    "Celu": unary("celu", alpha=1.0),
    "Softplus": unary("softplus"),
    "Softsign": unary("softsign"),
    "Mish": unary("mish"),
    "Erf": unary("erf"),
    "Exp": unary("exp"),
    "Log": unary("log"),
    "Sqrt": unary("sqrt"),
    "Reciprocal": unary("reciprocal"),
    "Neg": unary("neg"),
    "Abs": unary("abs"),
    "Floor": unary("floor"),
    "Ceil": unary("ceil"),
    "Round": unary("round"),
    "Sign": unary("sign"),
    "Sin": unary("sin"),
    "Cos": unary("cos"),
    "Tan": _composed(lambda call, x: call.emit("div", call.emit("sin", x), call.emit("cos", x))),
    "Sinh": _half_of_exps("sub"),
    "Cosh": _half_of_exps("add"),
    "Not": unary("logical_not"),
    "Identity": unary("identity"),
    "Dropout": _dropout,
    "Gelu": _gelu,
    "Swish": _swish,
    "ThresholdedRelu": _thresholded_relu,
    "Clip": _clip,
    "PRelu": binary("prelu"),
    "Add": binary("add"),
    "Sub": binary("sub"),
    "Mul": binary("mul"),
    "Div": binary("div"),
    "Pow": binary("pow"),
    "Mod": _mod,
    "Sum": chain("add"),
    "Mean": _mean,
    "Max": chain("max"),
    "Min": chain("min"),
    "And": binary("logical_and"),
    "Or": binary("logical_or"),
    "Xor": _xor,
    "Equal": binary("equal"),
    "Less": binary("less"),
    "LessOrEqual": binary("less_or_equal"),
    "Greater": binary("greater"),
    "GreaterOrEqual": binary("greater_or_equal"),
    "IsNaN": _is_nan,
    "Where": lambda call: call.emit("where", call.node(0), call.node(1), call.node(2)),
    "Cast": _cast,
    "CastLike": _cast_like,
}
"""By ONNX operator."""
