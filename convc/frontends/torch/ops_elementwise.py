"""Importers of elementwise operators."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from convc.errors import ModelError
from convc.frontends.torch.context import Call, Const, Importer
from convc.ir.graph import Node
from convc.types import DType

Formula = Callable[[Call, Node], Node]


def unary(op: str, **attrs: str) -> Importer:
    """An operator of one input; `attrs` names the arguments that its attributes come from."""

    def convert(call: Call) -> Node:
        return call.emit(op, _floating(call), **{attr: call.real(name) for attr, name in attrs.items()})

    return convert


def composed(formula: Formula) -> Importer:
    """What a formula makes of the first argument."""
    return lambda call: formula(call, _floating(call))


def _floating(call: Call) -> Node:
    """The first argument in the element type of the result: torch makes floats of integers where it must."""
    x = call.x
    return call.cast(x, call.dtype) if call.dtype.is_float and not x.type.dtype.is_float else x


def binary(op: str, *, swapped: bool = False) -> Importer:
    """Arithmetic on two inputs that broadcast, in the element type of the result; `alpha` scales what comes last."""

    def convert(call: Call) -> Node:
        a, b = _pair(call, call.dtype)
        a, b = (b, a) if swapped else (a, b)
        if call.get("alpha") not in {None, 1}:
            b = call.emit("mul", b, call.operand(call.get("alpha"), call.dtype))
        return call.emit(op, a, b)

    return convert


def _pair(call: Call, dtype: DType) -> tuple[Node, Node]:
    values = list(call.arguments.values())
    return call.operand(values[0], dtype), call.operand(values[1], dtype)


def comparison(op: str, *, negated: bool = False) -> Importer:
    """A comparison, in the wider element type; a number takes that of the tensor it is compared with."""

    def convert(call: Call) -> Node:
        y = call.emit(op, *_pair(call, _common(call)))
        return call.emit("logical_not", y) if negated else y

    return convert


def _common(call: Call) -> DType:
    values = list(call.arguments.values())[:2]
    types = [v.type.dtype for v in values if isinstance(v, (Node, Const))]
    if any(isinstance(v, float) for v in values) and not any(t.is_float for t in types):
        return DType.F32
    return max(types, key=lambda t: (t.is_float, t is not DType.BOOL, t.bytes))


def logical(op: str) -> Importer:
    """A connective of truth values; what is none is compared with 0."""

    def convert(call: Call) -> Node:
        return _connected(call, op)

    return convert


def _connected(call: Call, op: str) -> Node:
    return call.emit(op, *(_truth(call, call.materialise(v)) for v in list(call.arguments.values())[:2]))


def _truth(call: Call, x: Node) -> Node:
    if x.type.dtype is DType.BOOL:
        return x
    return call.emit("logical_not", call.emit("equal", x, call.scalar(0, x.type.dtype)))


def _bitwise(op: str) -> Importer:
    def convert(call: Call) -> Node:
        if call.dtype is not DType.BOOL:
            raise ModelError(f"bitwise operators on {call.dtype} are not supported", hint="use truth values")
        return _connected(call, op)

    return convert


def _div(call: Call) -> Node:
    a, b = _pair(call, call.dtype)
    mode = call.get("rounding_mode")
    y = call.emit("div", a, b)
    if mode is None or (mode == "trunc" and not call.dtype.is_float):
        return y
    if mode != "floor" or not call.dtype.is_float:
        raise ModelError(f"rounding_mode={mode} on {call.dtype} is not supported", hint="use floor on floats")
    return call.emit("floor", y)


def _mod(*, fmod: bool) -> Importer:
    return lambda call: call.emit("mod", *_pair(call, call.dtype), fmod=fmod)


def _pow(call: Call) -> Node:
    exponent = list(call.arguments.values())[1]
    if isinstance(exponent, (int, float)):
        x = _floating(call)
        simple = {2: lambda: call.emit("mul", x, x), 0.5: lambda: call.emit("sqrt", x), 1: lambda: x}
        if exponent in simple:
            return simple[exponent]()
    return call.emit("pow", *_pair(call, call.dtype))


def _clip(low: str, high: str) -> Importer:
    """Bounds are numbers; where they are tensors, max and min serve."""

    def convert(call: Call) -> Node:
        x = call.cast(call.x, call.dtype)
        bounds = [call.get(low) if low else None, call.get(high) if high else None]
        if not any(isinstance(b, (Node, Const)) for b in bounds) and x.type.dtype.is_float:
            least, most = (call.real(name, default) if name else default for name, default in
                           ((low, -math.inf), (high, math.inf)))  # fmt: skip
            return call.emit("clip", x, min=least, max=most)
        for op, bound in zip(("max", "min"), bounds, strict=True):
            if bound is not None:
                x = call.emit(op, x, call.operand(bound, call.dtype))
        return x

    return convert


def _number(call: Call, x: Node, value: float) -> Node:
    return call.scalar(value, x.type.dtype)


def _gelu(call: Call) -> Node:
    return call.emit("gelu", call.x, approximate=call.get("approximate") or "none")


def _elu(call: Call) -> Node:
    """The product scale * (x where x > 0, else alpha (exp(input_scale x) - 1))."""
    alpha, scale, inner = call.real("alpha", 1.0), call.real("scale", 1.0), call.real("input_scale", 1.0)
    if inner != 1.0:
        raise ModelError(f"input_scale={inner} is not supported", hint="use elu, selu or celu")
    if scale != 1.0:
        return call.emit("selu", call.x, alpha=alpha, gamma=scale)
    return call.emit("elu", call.x, alpha=alpha)


def _softplus(call: Call) -> Node:
    """log(1 + exp(beta x)) / beta; x where beta x is beyond `threshold`, from 20 on the same to rounding."""
    x, beta, threshold = call.x, call.real("beta", 1.0), call.real("threshold", 20.0)
    scaled = call.emit("mul", x, _number(call, x, beta)) if beta != 1.0 else x
    y = call.emit("softplus", scaled)
    y = call.emit("div", y, _number(call, x, beta)) if beta != 1.0 else y
    if threshold >= 20.0:
        return y
    return call.emit("where", call.emit("greater", scaled, _number(call, x, threshold)), x, y)


def _round(call: Call) -> Node:
    """To so many decimals, which may be negative, half to even."""
    x, decimals = call.x, call.integer("decimals")
    if not decimals:
        return call.emit("round", x)
    scale = _number(call, x, 10.0 ** abs(decimals))
    there, back = ("mul", "div") if decimals > 0 else ("div", "mul")
    return call.emit(back, call.emit("round", call.emit(there, x, scale)), scale)


def _prelu(call: Call) -> Node:
    """One slope, or one a channel, which is axis 1."""
    x, slope = call.x, call.node("weight")
    if slope.type.rank == 1 and slope.type.shape != (1,):
        slope = call.reshape(slope, (slope.type.shape[0], *(1,) * (x.type.rank - 2)))
    return call.emit("prelu", x, slope)


def _rrelu(call: Call) -> Node:
    _expect_inference(call, "training")
    return call.emit("leaky_relu", call.x, alpha=(call.real("lower", 1 / 8) + call.real("upper", 1 / 3)) / 2)


def _dropout(call: Call) -> Any:
    _expect_inference(call, "train")
    return call.first


def _expect_inference(call: Call, argument: str) -> None:
    if call.flag(argument):
        raise ModelError(f"{argument}=True", hint="pass training=self.training, or use the module from torch.nn")


def _logsigmoid(call: Call, x: Node) -> Node:
    return call.emit("neg", call.emit("softplus", call.emit("neg", x)))


def _hardshrink(call: Call, x: Node) -> Node:
    inside = call.emit("less_or_equal", call.emit("abs", x), _number(call, x, call.real("lambd")))
    return call.emit("where", inside, _number(call, x, 0.0), x)


def _softshrink(call: Call, x: Node) -> Node:
    """The rest x - clip(x, -lambda, lambda)."""
    lambd = call.real("lambd")
    return call.emit("sub", x, call.emit("clip", x, min=-lambd, max=lambd))


def _threshold(call: Call, x: Node) -> Node:
    above = call.emit("greater", x, _number(call, x, call.real("threshold")))
    return call.emit("where", above, x, _number(call, x, call.real("value")))


def _where(call: Call) -> Node:
    values = list(call.arguments.values())
    condition = call.materialise(values[0], "condition")
    return call.emit("where", condition, call.operand(values[1], call.dtype), call.operand(values[2], call.dtype))


def _masked_fill(call: Call) -> Node:
    return call.emit("where", call.node("mask"), call.operand(call.get("value"), call.dtype), call.x)


def _to(call: Call) -> Any:
    """Another element type; devices and layouts say nothing here."""
    return call.first if call.x.type.dtype is call.dtype else call.cast(call.x, call.dtype)


def _is_nan(call: Call, x: Node) -> Node:
    return call.emit("logical_not", call.emit("equal", x, x))


ELEMENTWISE: dict[str, Importer] = {
    **{op: unary(op) for op in (
        "relu", "sigmoid", "silu", "tanh", "mish", "erf", "exp", "log", "sqrt", "reciprocal", "neg", "abs", "floor",
        "ceil", "sign", "sin", "cos",
    )},
    "round": unary("round"), "round.decimals": _round,
    "relu6": composed(lambda call, x: call.emit("clip", x, min=0.0, max=6.0)),
    "hardtanh": unary("clip", min="min_val", max="max_val"),
    "leaky_relu": unary("leaky_relu", alpha="negative_slope"),
    "hardsigmoid": composed(lambda call, x: call.emit("hard_sigmoid", x, alpha=1 / 6, beta=0.5)),
    "hardswish": unary("hard_swish"),
    "elu": _elu,
    "selu": unary("selu"),
    "celu": unary("celu", alpha="alpha"),
    "softplus": _softplus,
    "softsign": unary("softsign"),
    "gelu": _gelu,
    "prelu": _prelu,
    "_prelu_kernel": _prelu,
    "rrelu": _rrelu,
    "log_sigmoid": composed(_logsigmoid),
    "log_sigmoid_forward": lambda call: [_logsigmoid(call, call.x), None],
    "hardshrink": composed(_hardshrink),
    "softshrink": composed(_softshrink),
    "tanhshrink": composed(lambda call, x: call.emit("sub", x, call.emit("tanh", x))),
    "threshold": composed(_threshold),
    "square": composed(lambda call, x: call.emit("mul", x, x)),
    "rsqrt": composed(lambda call, x: call.emit("reciprocal", call.emit("sqrt", x))),
    "log1p": composed(lambda call, x: call.emit("log", call.emit("add", x, _number(call, x, 1.0)))),
    "expm1": composed(lambda call, x: call.emit("sub", call.emit("exp", x), _number(call, x, 1.0))),
    "isnan": composed(_is_nan),
    "dropout": _dropout,
    "feature_dropout": _dropout,
    "alpha_dropout": _dropout,
    "feature_alpha_dropout": _dropout,
    "native_dropout": lambda call: [_dropout(call), None],
    "clamp": _clip("min", "max"),
    "clip": _clip("min", "max"),
    "clamp_min": _clip("min", ""),
    "clamp_max": _clip("", "max"),
    "add": binary("add"),
    "sub": binary("sub"),
    "rsub": binary("sub", swapped=True),
    "mul": binary("mul"),
    "multiply": binary("mul"),
    "div": _div,
    "true_divide": _div,
    "pow": _pow,
    "maximum": binary("max"),
    "minimum": binary("min"),
    "max.other": binary("max"),
    "min.other": binary("min"),
    "fmod": _mod(fmod=True),
    "remainder": _mod(fmod=False),
    "eq": comparison("equal"),
    "ne": comparison("equal", negated=True),
    "lt": comparison("less"),
    "le": comparison("less_or_equal"),
    "gt": comparison("greater"),
    "ge": comparison("greater_or_equal"),
    "logical_and": logical("logical_and"),
    "logical_or": logical("logical_or"),
    "logical_not": lambda call: call.emit("logical_not", _truth(call, call.x)),
    "bitwise_and": _bitwise("logical_and"),
    "bitwise_or": _bitwise("logical_or"),
    "__and__": _bitwise("logical_and"),
    "__or__": _bitwise("logical_or"),
    "bitwise_not": lambda call: call.emit("logical_not", call.x),
    "where": _where,
    "masked_fill": _masked_fill,
    "to": _to,
    "_to_copy": _to,
    "type_as": _to,
}  # fmt: skip
"""By ATen operator."""
