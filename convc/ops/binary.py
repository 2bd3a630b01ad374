"""Elementwise operators of two or three inputs, with NumPy broadcasting."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from convc.errors import ModelError
from convc.ops.base import Arrays, Attr, Attrs, Operator, Types, given
from convc.ops.check import expect_bool, expect_float, expect_numeric, expect_same_dtype, present
from convc.types import Array, DType, TensorType, broadcast_shapes

Formula = Callable[[Array, Array], Array]
_ELEMENTWISE = frozenset({"elementwise"})


def _infer_arithmetic(types: Types, attrs: Attrs) -> TensorType:
    a, b = given(types, 0), given(types, 1)
    expect_numeric(a, "a")
    expect_same_dtype(types, ("a", "b"))
    return TensorType(a.dtype, broadcast_shapes(a.shape, b.shape))


def _infer_pow(types: Types, attrs: Attrs) -> TensorType:
    a, b = given(types, 0), given(types, 1)
    expect_numeric(a, "a")
    expect_numeric(b, "b")
    return TensorType(a.dtype, broadcast_shapes(a.shape, b.shape))


def _infer_comparison(types: Types, attrs: Attrs) -> TensorType:
    a, b = given(types, 0), given(types, 1)
    expect_same_dtype(types, ("a", "b"))
    return TensorType(DType.BOOL, broadcast_shapes(a.shape, b.shape))


def _infer_logical(types: Types, attrs: Attrs) -> TensorType:
    expect_bool(given(types, 0), "a")
    expect_bool(given(types, 1), "b")
    return TensorType(DType.BOOL, broadcast_shapes(given(types, 0).shape, given(types, 1).shape))


def _div(a: Array, b: Array) -> Array:
    """Quotient; integers truncate toward zero, and x / 0 is 0."""
    quotient: Array
    if not np.issubdtype(a.dtype, np.integer):
        quotient = np.divide(a, b)
        return quotient
    quotient = np.floor_divide(a, b)
    return np.where((np.remainder(a, b) != 0) & ((a < 0) != (b < 0)), quotient + 1, quotient).astype(a.dtype)


def _pow(a: Array, b: Array) -> Array:
    if np.issubdtype(a.dtype, np.integer) and (not np.issubdtype(b.dtype, np.integer) or np.any(b < 0)):
        return np.asarray(np.power(a.astype(np.float64), b)).astype(a.dtype)
    return np.asarray(np.power(a, b)).astype(a.dtype, copy=False)


def _binary(
    name: str, formula: Formula, doc: str, infer: Callable[[Types, Attrs], TensorType] = _infer_arithmetic
) -> Operator:
    def evaluate(arrays: Arrays, attrs: Attrs) -> Array:
        return np.asarray(formula(present(arrays, 0), present(arrays, 1)))

    return Operator(name, ("a", "b"), infer, evaluate, (), doc, traits=_ELEMENTWISE)


def _evaluate_mod(arrays: Arrays, attrs: Attrs) -> Array:
    remainder = np.fmod if attrs["fmod"] else np.mod
    return np.asarray(remainder(present(arrays, 0), present(arrays, 1)))


def _infer_where(types: Types, attrs: Attrs) -> TensorType:
    condition, a, b = given(types, 0), given(types, 1), given(types, 2)
    expect_bool(condition, "condition")
    expect_same_dtype((a, b), ("a", "b"))
    return TensorType(a.dtype, broadcast_shapes(condition.shape, a.shape, b.shape))


def _evaluate_where(arrays: Arrays, attrs: Attrs) -> Array:
    return np.where(present(arrays, 0), present(arrays, 1), present(arrays, 2))


def _infer_prelu(types: Types, attrs: Attrs) -> TensorType:
    x, slope = given(types, 0), given(types, 1)
    expect_float(x, "x")
    expect_same_dtype(types, ("x", "slope"))
    if broadcast_shapes(x.shape, slope.shape) != x.shape:
        raise ModelError(f"slope is {slope}, expected to broadcast to {x}", hint="give [C, 1, 1] for a value a channel")
    return x


def _evaluate_prelu(arrays: Arrays, attrs: Attrs) -> Array:
    x, slope = present(arrays, 0), present(arrays, 1)
    return np.where(x >= 0, x, np.asarray(slope * x))


OPERATORS: tuple[Operator, ...] = (
    _binary("add", np.add, "a + b."),
    _binary("sub", np.subtract, "a - b."),
    _binary("mul", np.multiply, "a b."),
    _binary("div", _div, "a / b; integers truncate toward zero."),
    _binary("pow", _pow, "a to the power b, in the element type of a.", _infer_pow),
    _binary("max", np.maximum, "The larger; NaN where either is NaN."),
    _binary("min", np.minimum, "The smaller; NaN where either is NaN."),
    Operator("mod", ("a", "b"), _infer_arithmetic, _evaluate_mod,
             (Attr("fmod", "bool", False, "sign of the dividend, as C's fmod, instead of the divisor's"),),
             "Remainder with the sign of the divisor.", traits=_ELEMENTWISE),
    _binary("equal", np.equal, "a == b.", _infer_comparison),
    _binary("less", np.less, "a < b.", _infer_comparison),
    _binary("less_or_equal", np.less_equal, "a <= b.", _infer_comparison),
    _binary("greater", np.greater, "a > b.", _infer_comparison),
    _binary("greater_or_equal", np.greater_equal, "a >= b.", _infer_comparison),
    _binary("logical_and", np.logical_and, "a and b.", _infer_logical),
    _binary("logical_or", np.logical_or, "a or b.", _infer_logical),
    Operator("where", ("condition", "a", "b"), _infer_where, _evaluate_where, (), "a where condition holds, else b.",
             traits=_ELEMENTWISE),
    Operator("prelu", ("x", "slope"), _infer_prelu, _evaluate_prelu, (), "x where x >= 0, else slope x.",
             traits=_ELEMENTWISE, weights=frozenset({"slope"})),
)  # fmt: skip
