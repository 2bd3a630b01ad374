"""Elementwise operators of one input, and `Activation`, which names one of them in an epilogue."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from convc.errors import ModelError
from convc.ops.base import Arrays, Attr, Attrs, Operator, Types, given
from convc.ops.check import expect_bool, expect_float, expect_numeric, present, wide
from convc.ops.erf import erf
from convc.types import Activation, Array, TensorType

Formula = Callable[[Array, Attrs], Array]


def _clip(x: Array, a: Attrs) -> Array:
    low, high = a["min"], a["max"]
    if np.issubdtype(x.dtype, np.integer):
        bounds = np.iinfo(x.dtype)
        low = max(bounds.min, math.ceil(low)) if low > -math.inf else bounds.min
        high = min(bounds.max, math.floor(high)) if high < math.inf else bounds.max
        low, high = min(low, bounds.max), max(high, bounds.min)
    clipped: Array = np.minimum(np.maximum(x, x.dtype.type(low)), x.dtype.type(high))
    return clipped


def _sigmoid(x: Array) -> Array:
    """Exact to rounding on both sides: the exponent is never positive, so nothing overflows."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


def _elu(x: Array, alpha: float) -> Array:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _softplus(x: Array) -> Array:
    """log(1 + exp(x)), and NaN stays NaN."""
    result: Array = np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))
    return result


def _gelu(x: Array, a: Attrs) -> Array:
    if a["approximate"] == "tanh":
        result: Array = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
        return result
    return np.asarray(0.5 * x * (1 + erf(x * math.sqrt(0.5))))


def _hard_sigmoid(x: Array, alpha: float, beta: float) -> Array:
    return np.asarray(np.clip(alpha * x + beta, 0, 1))


def _infer_float(types: Types, attrs: Attrs) -> TensorType:
    expect_float(given(types, 0), "x")
    return given(types, 0)


def _infer_numeric(types: Types, attrs: Attrs) -> TensorType:
    expect_numeric(given(types, 0), "x")
    return given(types, 0)


def _infer_bool(types: Types, attrs: Attrs) -> TensorType:
    expect_bool(given(types, 0), "x")
    return given(types, 0)


def _infer_cast(types: Types, attrs: Attrs) -> TensorType:
    return TensorType(attrs["to"], given(types, 0).shape)


def _evaluate_cast(arrays: Arrays, attrs: Attrs) -> Array:
    return present(arrays, 0).astype(attrs["to"].numpy)


def _unary(
    name: str, formula: Formula, *attrs: Attr, doc: str, infer: Callable[[Types, Attrs], TensorType] = _infer_float
) -> Operator:
    def evaluate(arrays: Arrays, given_attrs: Attrs) -> Array:
        x = present(arrays, 0)
        return np.asarray(formula(x, given_attrs)).astype(x.dtype, copy=False)

    return Operator(name, ("x",), infer, wide(evaluate), attrs, doc, traits=frozenset({"elementwise"}))


def _real(name: str, default: float, doc: str = "") -> Attr:
    return Attr(name, "float", default, doc)


ACTIVATIONS: tuple[Operator, ...] = (
    _unary("relu", lambda x, a: np.maximum(x, x.dtype.type(0)), doc="max(x, 0).", infer=_infer_numeric),
    _unary("leaky_relu", lambda x, a: np.where(x >= 0, x, a["alpha"] * x), _real("alpha", 0.01),
           doc="x where x >= 0, else alpha x."),
    _unary("clip", _clip, _real("min", -math.inf), _real("max", math.inf), doc="min(max(x, min), max).",
           infer=_infer_numeric),
    _unary("sigmoid", lambda x, a: _sigmoid(x), doc="1 / (1 + exp(-x))."),
    _unary("hard_sigmoid", lambda x, a: _hard_sigmoid(x, a["alpha"], a["beta"]), _real("alpha", 0.2),
           _real("beta", 0.5), doc="min(max(alpha x + beta, 0), 1)."),
    _unary("hard_swish", lambda x, a: x * _hard_sigmoid(x, 1 / 6, 0.5), doc="x min(max(x/6 + 1/2, 0), 1)."),
    _unary("silu", lambda x, a: x * _sigmoid(x), doc="x sigmoid(x), also called swish."),
    _unary("tanh", lambda x, a: np.tanh(x), doc="Hyperbolic tangent."),
    _unary("elu", lambda x, a: _elu(x, a["alpha"]), _real("alpha", 1.0), doc="x where x > 0, else alpha (exp(x) - 1)."),
    _unary("selu", lambda x, a: a["gamma"] * _elu(x, a["alpha"]), _real("alpha", 1.67326319217681884765625),
           _real("gamma", 1.05070102214813232421875), doc="gamma elu(x, alpha)."),
    _unary("celu", lambda x, a: np.where(x > 0, x, a["alpha"] * np.expm1(np.minimum(x, 0) / a["alpha"])),
           _real("alpha", 1.0), doc="x where x > 0, else alpha (exp(x/alpha) - 1)."),
    _unary("softplus", lambda x, a: _softplus(x), doc="log(1 + exp(x))."),
    _unary("softsign", lambda x, a: x / (1 + np.abs(x)), doc="x / (1 + |x|)."),
    _unary("mish", lambda x, a: x * np.tanh(_softplus(x)), doc="x tanh(softplus(x))."),
    _unary("gelu", _gelu, Attr("approximate", "str", "none", "which formula", ("none", "tanh")),
           doc="x (1 + erf(x / sqrt 2)) / 2, or its tanh approximation."),
    _unary("erf", lambda x, a: erf(x), doc="Error function."),
    _unary("exp", lambda x, a: np.exp(x), doc="Exponential."),
    _unary("log", lambda x, a: np.log(x), doc="Natural logarithm."),
    _unary("sqrt", lambda x, a: np.sqrt(x), doc="Square root."),
    _unary("reciprocal", lambda x, a: 1 / x, doc="1 / x."),
    _unary("neg", lambda x, a: np.negative(x), doc="-x.", infer=_infer_numeric),
    _unary("abs", lambda x, a: np.abs(x), doc="|x|.", infer=_infer_numeric),
    _unary("floor", lambda x, a: np.floor(x), doc="Largest integer not above x."),
    _unary("ceil", lambda x, a: np.ceil(x), doc="Smallest integer not below x."),
    _unary("round", lambda x, a: np.rint(x), doc="Nearest integer, halves to even."),
    _unary("sign", lambda x, a: np.sign(x), doc="-1, 0 or 1.", infer=_infer_numeric),
    _unary("sin", lambda x, a: np.sin(x), doc="Sine."),
    _unary("cos", lambda x, a: np.cos(x), doc="Cosine."),
)  # fmt: skip

OPERATORS: tuple[Operator, ...] = (
    *ACTIVATIONS,
    _unary("logical_not", lambda x, a: np.logical_not(x), doc="Not x.", infer=_infer_bool),
    Operator("cast", ("x",), _infer_cast, _evaluate_cast, (Attr("to", "dtype", doc="element type of the output"),),
             "x in another element type; floats to integers truncate.", traits=frozenset({"elementwise"})),
)  # fmt: skip

_BY_NAME = {operator.name: operator for operator in ACTIVATIONS}


def activation_of(op: str, attrs: Attrs) -> Activation:
    """The Activation that a unary operator with these attributes is. Raises ModelError for other operators.

    Float attributes become params in order. A str attribute, which comes last, is left out at its default and is
    else the index of its choice: gelu by tanh is `gelu(1.0)`.
    """
    operator = _activation_operator(op)
    params: list[float] = []
    for attr in operator.attrs:
        value = attrs.get(attr.name, attr.default)
        if attr.kind == "float":
            params.append(float(value))
        elif value != attr.default:
            params.append(float(attr.choices.index(value)))
    return Activation(op, tuple(params))


def activation_attrs(activation: Activation) -> dict[str, object]:
    """Attributes of the unary operator that `activation` names. Raises ModelError where it names none, or misfits."""
    operator = _activation_operator(activation.name)
    names = ", ".join(a.name for a in operator.attrs) or "none"
    params = list(activation.params)
    result: dict[str, object] = {}
    for attr in operator.attrs:
        if attr.kind == "str":
            index = params.pop(0) if params else 0.0
            if index not in range(len(attr.choices)):
                raise ModelError(f"activation {activation}: no {attr.name} {index}", hint=f"choices: {attr.choices}")
            result[attr.name] = attr.choices[int(index)]
        elif not params:
            raise ModelError(f"activation {activation} lacks {attr.name}", hint=f"its parameters in order: {names}")
        else:
            result[attr.name] = float(params.pop(0))
    if params:
        raise ModelError(f"activation {activation} has too many parameters", hint=f"its parameters in order: {names}")
    return result


def check_activation(activation: Activation | None) -> None:
    """Raise ModelError unless `activation` is None or names a unary operator with parameters that fit it."""
    if activation is not None:
        activation_attrs(activation)


def apply_activation(activation: Activation | None, array: Array) -> Array:
    """`activation` of each element, in the dtype of `array`; None changes nothing."""
    if activation is None:
        return array
    return _BY_NAME[activation.name].evaluate([array], activation_attrs(activation))


def _activation_operator(name: str) -> Operator:
    operator = _BY_NAME.get(name)
    if operator is None:
        raise ModelError(f"{name} is no activation", hint=f"use one of {', '.join(_BY_NAME)}")
    return operator
