"""Inputs and constants."""

from __future__ import annotations

from convc.errors import InputError, ModelError
from convc.ops.base import Arrays, Attr, Attrs, Operator, Types
from convc.types import Array, Tensor, TensorType


def _infer_input(types: Types, attrs: Attrs) -> TensorType:
    type = TensorType(attrs["dtype"], attrs["shape"])
    if any(isinstance(size, int) and size < 0 for size in type.shape):
        raise ModelError(f"shape of {type} has a negative size", hint="name the size, as in [N, 3, 224, 224]")
    return type


def _evaluate_input(arrays: Arrays, attrs: Attrs) -> Array:
    raise InputError("an input has no value of its own", hint="pass it to convc.interp.run_graph")


def _infer_constant(types: Types, attrs: Attrs) -> TensorType:
    tensor: Tensor = attrs["value"]
    return tensor.type


def _evaluate_constant(arrays: Arrays, attrs: Attrs) -> Array:
    tensor: Tensor = attrs["value"]
    return tensor.array


INPUT = Operator(
    "input", (), _infer_input, _evaluate_input,
    attrs=(Attr("dtype", "dtype", doc="element type"), Attr("shape", "sizes", doc="sizes, symbolic where they vary")),
    doc="A value that the caller gives.",
)  # fmt: skip

CONSTANT = Operator(
    "constant", (), _infer_constant, _evaluate_constant,
    attrs=(Attr("value", "tensor", doc="the elements"),),
    doc="A value that belongs to the model.",
)  # fmt: skip

OPERATORS = (INPUT, CONSTANT)
