"""Checks that shape rules share, and the widening of f16 arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import wraps

import numpy as np

from convc.errors import ModelError
from convc.ops.base import Arrays, Attrs, Types
from convc.types import Array, DType, Size, TensorType


def expect_float(type: TensorType, what: str) -> None:
    """Raise ModelError unless `type` is floating."""
    if not type.dtype.is_float:
        raise ModelError(f"{what} is {type}, expected f16, f32 or f64", hint="insert a cast")


def expect_numeric(type: TensorType, what: str) -> None:
    """Raise ModelError where `type` is bool."""
    if type.dtype is DType.BOOL:
        raise ModelError(f"{what} is {type}, expected a number type", hint="insert a cast")


def expect_bool(type: TensorType, what: str) -> None:
    """Raise ModelError unless `type` is bool."""
    if type.dtype is not DType.BOOL:
        raise ModelError(f"{what} is {type}, expected bool", hint="compare, or insert a cast to bool")


def expect_same_dtype(types: Types, slots: Sequence[str]) -> None:
    """Raise ModelError unless all types that are there have the dtype of the first."""
    first = next(t for t in types if t is not None)
    for index, type in enumerate(types):
        if type is not None and type.dtype is not first.dtype:
            slot = slots[min(index, len(slots) - 1)].rstrip("?*")
            raise ModelError(f"{slot} is {type}, expected dtype {first.dtype}", hint="insert a cast")


def expect_counts(attrs: Attrs, name: str, count: int, least: int) -> None:
    """Raise ModelError unless the attribute has `count` values, each at least `least`."""
    values = attrs[name]
    if len(values) != count or min(values, default=least) < least:
        raise ModelError(f"{name}={values} is not {count} integers >= {least}", hint=f"give {count} such values")


def expect_nonzero(type: TensorType, axes: Iterable[int], what: str) -> None:
    """Raise ModelError where one of the axes has size 0."""
    if any(type.shape[axis] == 0 for axis in axes):
        raise ModelError(f"{what} is {type}, which has a size of 0", hint="only the batch may be empty")


def expect_divides(divisor: int, size: Size, divisor_name: str, size_name: str) -> None:
    """Raise ModelError where `size` is known and not a multiple of `divisor`."""
    if divisor < 1 or (isinstance(size, int) and size % divisor):
        divisors = [str(d) for d in range(1, min(size, 4096) + 1) if size % d == 0] if isinstance(size, int) else ["1"]
        text = ", ".join(divisors[:3]) + (", ..." if len(divisors) > 3 else "")
        hint = f"use {text} or change the producer"
        raise ModelError(f"{divisor_name}={divisor} must divide {size_name}={size}", hint=hint)


def wide(evaluate: Callable[[Arrays, Attrs], Array]) -> Callable[[Arrays, Attrs], Array]:
    """Let `evaluate` compute f16 inputs in float32 and round its result once."""

    @wraps(evaluate)
    def widened(arrays: Arrays, attrs: Attrs) -> Array:
        if not any(a is not None and a.dtype == np.float16 for a in arrays):
            return evaluate(arrays, attrs)
        widths = [a.astype(np.float32) if a is not None and a.dtype == np.float16 else a for a in arrays]
        result = evaluate(widths, attrs)
        return result.astype(np.float16) if result.dtype == np.float32 else result

    return widened


def present(arrays: Arrays, index: int) -> Array:
    """The array in a required slot."""
    array = arrays[index]
    assert array is not None
    return array
