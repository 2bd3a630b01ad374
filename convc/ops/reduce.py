"""Reductions, argmax, softmax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from convc.errors import ModelError
from convc.ops.base import Arrays, Attr, Attrs, Operator, Types, given, normal_axis
from convc.ops.check import expect_float, expect_nonzero, expect_numeric, present, wide
from convc.types import Array, DType, TensorType

_AXES = Attr("axes", "ints", doc="axes to reduce; none reduces nothing")
_KEEPDIMS = Attr("keepdims", "bool", True, "keep reduced axes with size 1")


def _infer_reduce(types: Types, attrs: Attrs) -> TensorType:
    x = given(types, 0)
    expect_numeric(x, "x")
    axes = {normal_axis(axis, x.rank) for axis in attrs["axes"]}
    if len(axes) != len(attrs["axes"]):
        raise ModelError(f"axes={attrs['axes']} names an axis twice", hint="name each axis once")
    shape = [1 if i in axes else size for i, size in enumerate(x.shape) if attrs["keepdims"] or i not in axes]
    return TensorType(x.dtype, tuple(shape))


def _infer_extremum(types: Types, attrs: Attrs) -> TensorType:
    type = _infer_reduce(types, attrs)
    expect_nonzero(given(types, 0), attrs["axes"], "x")
    return type


def _infer_float(types: Types, attrs: Attrs) -> TensorType:
    expect_float(given(types, 0), "x")
    return _infer_extremum(types, attrs)


def _l2(x: Array, **options: Any) -> Array:
    return np.asarray(np.sqrt(np.sum(x * x, **options)))


def _reduction(
    name: str, function: Callable[..., Array], doc: str, infer: Callable[[Types, Attrs], TensorType]
) -> Operator:
    def evaluate(arrays: Arrays, attrs: Attrs) -> Array:
        x = present(arrays, 0)
        return np.asarray(function(x, axis=attrs["axes"], keepdims=attrs["keepdims"])).astype(x.dtype, copy=False)

    return Operator(name, ("x",), infer, wide(evaluate), (_AXES, _KEEPDIMS), doc)


def _infer_argmax(types: Types, attrs: Attrs) -> TensorType:
    x = given(types, 0)
    axis = normal_axis(attrs["axis"], x.rank)
    expect_nonzero(x, (axis,), "x")
    kept = (1,) if attrs["keepdims"] else ()
    return TensorType(DType.I64, (*x.shape[:axis], *kept, *x.shape[axis + 1 :]))


def _evaluate_argmax(arrays: Arrays, attrs: Attrs) -> Array:
    x, axis, keepdims = present(arrays, 0), attrs["axis"], attrs["keepdims"]
    if attrs["last"]:
        return np.asarray(x.shape[axis] - 1 - np.argmax(np.flip(x, axis), axis=axis, keepdims=keepdims))
    return np.asarray(np.argmax(x, axis=axis, keepdims=keepdims))


def _infer_softmax(types: Types, attrs: Attrs) -> TensorType:
    x = given(types, 0)
    expect_float(x, "x")
    expect_nonzero(x, (normal_axis(attrs["axis"], x.rank),), "x")
    return x


def _evaluate_softmax(arrays: Arrays, attrs: Attrs) -> Array:
    x = present(arrays, 0)
    e = np.exp(x - x.max(attrs["axis"], keepdims=True))
    result: Array = e / e.sum(attrs["axis"], keepdims=True)
    return result


def _evaluate_log_softmax(arrays: Arrays, attrs: Attrs) -> Array:
    x = present(arrays, 0)
    shifted = x - x.max(attrs["axis"], keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(attrs["axis"], keepdims=True))
    return result


_SOFTMAX_AXIS = Attr("axis", "int", -1, "axis along which the results sum to 1")

OPERATORS: tuple[Operator, ...] = (
    _reduction("reduce_mean", np.mean, "Mean over axes.", _infer_float),
    _reduction("reduce_sum", np.sum, "Sum over axes.", _infer_reduce),
    _reduction("reduce_max", np.max, "Largest over axes; NaN where there is one.", _infer_extremum),
    _reduction("reduce_min", np.min, "Smallest over axes; NaN where there is one.", _infer_extremum),
    _reduction("reduce_prod", np.prod, "Product over axes.", _infer_reduce),
    _reduction("reduce_l2", _l2, "Root of the sum of squares over axes.", _infer_float),
    Operator("argmax", ("x",), _infer_argmax, _evaluate_argmax,
             (Attr("axis", "int", 0), _KEEPDIMS, Attr("last", "bool", False, "the last of equal ones, else the first")),
             "Index of the largest element along an axis, as i64."),
    Operator("softmax", ("x",), _infer_softmax, wide(_evaluate_softmax), (_SOFTMAX_AXIS,),
             "exp(x) / sum exp(x) along an axis."),
    Operator("log_softmax", ("x",), _infer_softmax, wide(_evaluate_log_softmax), (_SOFTMAX_AXIS,),
             "log(softmax(x)) along an axis."),
)  # fmt: skip
