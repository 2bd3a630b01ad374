"""Matrix products."""

from __future__ import annotations

import numpy as np

from convc.errors import ModelError
from convc.ops.base import Arrays, Attrs, Operator, Types, expect_rank, given, optional, static_size
from convc.ops.check import expect_float, expect_nonzero, expect_numeric, expect_same_dtype, present, wide
from convc.ops.conv import ACTIVATION, SLOTS, check_epilogue
from convc.ops.unary import apply_activation
from convc.types import Array, Size, TensorType, broadcast_shapes


def _infer_linear(types: Types, attrs: Attrs) -> TensorType:
    x, w = given(types, 0), given(types, 1)
    expect_rank(w, 2, "w")
    expect_float(x, "x")
    expect_same_dtype(types, SLOTS)
    static_size(w.shape[0], "rows of w")
    expect_nonzero(w, (0, 1), "w")
    if not x.rank or x.shape[-1] != w.shape[1]:
        fixed = not x.rank or isinstance(x.shape[-1], int)
        hint = "w is [O, I]; flatten x first" if fixed else "w is [O, I]; fix the sizes of x with input_shapes="
        raise ModelError(f"x is {x}, expected {w.shape[1]} at its last axis", hint=hint)
    out = TensorType(x.dtype, (*x.shape[:-1], w.shape[0]))
    check_epilogue(out, w.shape[0], types, attrs)
    return out


def _evaluate_linear(arrays: Arrays, attrs: Attrs) -> Array:
    x, w = present(arrays, 0), present(arrays, 1)
    bias, residual = optional(arrays, 2), optional(arrays, 3)
    y = np.asarray(np.matmul(x, w.T))
    if bias is not None:
        y = y + bias
    if residual is not None:
        y = y + residual
    return apply_activation(attrs["activation"], y)


def _macs_linear(types: Types, out: TensorType, attrs: Attrs) -> Size:
    return out.elements * given(types, 1).shape[1]


def _infer_matmul(types: Types, attrs: Attrs) -> TensorType:
    a, b = given(types, 0), given(types, 1)
    expect_numeric(a, "a")
    expect_same_dtype(types, ("a", "b"))
    if not a.rank or not b.rank:
        raise ModelError("matmul of a scalar", hint="use mul")
    inner = b.shape[-2] if b.rank > 1 else b.shape[0]
    if a.shape[-1] != inner:
        raise ModelError(
            f"a is {a} and b is {b}, whose inner sizes {a.shape[-1]} and {inner} differ", hint="transpose one of them"
        )
    batch = broadcast_shapes(a.shape[:-2], b.shape[:-2])
    return TensorType(a.dtype, batch + a.shape[-2:-1] + (b.shape[-1:] if b.rank > 1 else ()))


def _evaluate_matmul(arrays: Arrays, attrs: Attrs) -> Array:
    return np.asarray(np.matmul(present(arrays, 0), present(arrays, 1)))


def _macs_matmul(types: Types, out: TensorType, attrs: Attrs) -> Size:
    return out.elements * given(types, 0).shape[-1]


LINEAR = Operator(
    "linear", SLOTS, _infer_linear, wide(_evaluate_linear), (ACTIVATION,),
    "activation(x w^T + b + residual). x [..., I], w [O, I], b [O], residual like the output.",
    _macs_linear, weights=frozenset({"w", "b"}),
)  # fmt: skip

MATMUL = Operator(
    "matmul", ("a", "b"), _infer_matmul, wide(_evaluate_matmul), (),
    "numpy.matmul: products of the last two axes, leading axes broadcast.", _macs_matmul,
)  # fmt: skip

OPERATORS = (LINEAR, MATMUL)
