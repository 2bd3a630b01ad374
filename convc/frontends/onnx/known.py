"""Values that are known at import: integer and small float tensors whose elements may be symbolic sizes.

A symbolic element is a Dim, or a Ratio where a float tensor scales sizes (H * 0.5). Elements are computed exactly;
where a result cannot be expressed, `UnknownError` is raised and the caller leaves the computation to run time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from convc.dims import Dim, FloorDiv, Size
from convc.errors import ModelError
from convc.types import Array, DType

MOST_ELEMENTS = 1 << 16
"""Larger integer tensors are data, not shapes: they are left to run time."""
MOST_FLOATS = 16
MOST_ATOMS = 1024
"""Symbols in one size; products of sums grow without end otherwise."""
MOST_DIVISIONS = 32
"""Divisions inside each other in one size, such as of layers that halve it."""


class UnknownError(Exception):
    """The value cannot be told at import."""


@dataclass(frozen=True)
class Ratio:
    """numerator / denominator, not rounded."""

    numerator: Size
    denominator: int


@dataclass(frozen=True)
class Known:
    """A tensor's elements: a native array, or an object array of ints, Fractions, Dims and Ratios."""

    dtype: DType
    array: Array

    @staticmethod
    def of(array: Array) -> Known:
        return Known(DType.of(array), array)

    @staticmethod
    def make(dtype: DType, elements: Any) -> Known:
        """From anything that NumPy takes as an object array; native where no element is symbolic."""
        array = np.empty(np.shape(elements), object)
        array[...] = elements
        symbolic = [e.numerator if isinstance(e, Ratio) else e for e in array.flat if isinstance(e, (Dim, Ratio))]
        if symbolic:
            for size in symbolic:
                check_size(size)
            return Known(dtype, array)
        if not dtype.is_float and dtype is not DType.BOOL:
            bounds = np.iinfo(dtype.numpy)
            for element in array.flat:
                if not bounds.min <= element <= bounds.max:
                    raise ModelError(
                        f"value {element} overflows {dtype}", hint="check the sizes that the model computes"
                    )
        native = np.empty(array.shape, dtype.numpy)
        native[...] = array
        return Known(dtype, native)

    @property
    def symbolic(self) -> bool:
        return self.array.dtype == object

    @property
    def small(self) -> bool:
        """Whether operators on it are worth evaluating at import."""
        return self.symbolic or self.array.size <= (MOST_FLOATS if self.dtype.is_float else MOST_ELEMENTS)

    @property
    def objects(self) -> Array:
        """The elements as Python numbers and symbols."""
        if self.symbolic:
            return self.array
        result = np.empty(self.array.shape, object)
        result[...] = self.array.tolist() if self.array.ndim else self.array.item()
        return result

    def sizes(self) -> tuple[Size, ...]:
        """The elements of an integer tensor, in order."""
        return tuple(self.objects.flat)

    def __str__(self) -> str:
        return f"[{', '.join(str(e) for e in self.objects.flat)}]"


def check_size(size: Size) -> None:
    """Raise ModelError for a size that is too complicated to work with."""
    count = 0
    waiting = [(size, 0)]
    while waiting:
        current, depth = waiting.pop()
        if isinstance(current, Dim):
            count += sum(max(len(monomial), 1) for monomial, _ in current.terms)
            quotients = (atom for monomial, _ in current.terms for atom in monomial if isinstance(atom, FloorDiv))
            waiting.extend((part, depth + 1) for q in quotients for part in (q.numerator, q.denominator))
        if count > MOST_ATOMS or depth > MOST_DIVISIONS:
            raise ModelError(
                f"a size has more than {MOST_ATOMS} symbols, or {MOST_DIVISIONS} divisions inside each other",
                hint="fix the sizes with input_shapes=",
            )


def least(size: Size) -> int | None:
    """A lower bound of a size, all symbols being 1 or more; None where there is no simple one."""
    if isinstance(size, int):
        return size
    total = 0
    for monomial, factor in size.terms:
        if monomial and factor < 0:
            return None
        product = factor
        for atom in monomial:
            bound = _least_quotient(atom) if isinstance(atom, FloorDiv) else 1
            if bound is None or bound < 0:
                return None
            product *= bound
        total += product
    return total


def _least_quotient(quotient: FloorDiv) -> int | None:
    bound = least(quotient.numerator)
    if bound is None:
        return None
    return bound // quotient.denominator if isinstance(quotient.denominator, int) else min(bound, 0)


def at_least(a: Size, b: Size) -> bool | None:
    """Whether a >= b for all sizes, for none (False), or depending on them (None)."""
    above, below = least(a - b), least(b - a)
    if above is not None and above >= 0:
        return True
    return False if below is not None and below > 0 else None


def _ratio(value: Any) -> tuple[Size, int]:
    if isinstance(value, Ratio):
        return value.numerator, value.denominator
    if isinstance(value, (int, Dim)):
        return value, 1
    fraction = Fraction(value) if np.isfinite(value) else Fraction(1, MOST_ELEMENTS + 1)
    if fraction.denominator > MOST_ELEMENTS:
        raise UnknownError
    return fraction.numerator, fraction.denominator


def _reduced(numerator: Size, denominator: int) -> Any:
    if denominator < 0:
        numerator, denominator = -numerator, -denominator
    if isinstance(numerator, int):
        fraction = Fraction(numerator, denominator)
        return int(fraction) if fraction.denominator == 1 else fraction
    whole = numerator // denominator
    return whole if whole * denominator == numerator else Ratio(numerator, denominator)


def _size(value: Any) -> Size:
    if isinstance(value, Fraction) and value.denominator == 1:
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, (int, Dim)):
        raise UnknownError
    return value


def _add(a: Any, b: Any) -> Any:
    (p, q), (r, s) = _ratio(a), _ratio(b)
    return _reduced(p * s + r * q, q * s)


def _sub(a: Any, b: Any) -> Any:
    (p, q), (r, s) = _ratio(a), _ratio(b)
    return _reduced(p * s - r * q, q * s)


def _mul(a: Any, b: Any) -> Any:
    (p, q), (r, s) = _ratio(a), _ratio(b)
    return _reduced(p * r, q * s)


def _true_div(a: Any, b: Any) -> Any:
    (p, q), (r, s) = _ratio(a), _ratio(b)
    numerator, denominator = p * s, r * q
    if isinstance(denominator, int):
        if denominator == 0:
            raise UnknownError
        return _reduced(numerator, denominator)
    whole = numerator // denominator
    if whole * denominator != numerator:
        raise UnknownError
    return whole


def _whole_div(a: Any, b: Any) -> Any:
    """Division of sizes; they are not negative, so floor and truncation agree."""
    above, below = least(a), least(b)
    if below is None or below < 1 or (above is not None and above < 0):
        raise UnknownError
    return a // b


def _mod(a: Any, b: Any) -> Any:
    return a - _whole_div(a, b) * b


def _equal(a: Any, b: Any) -> bool:
    a, b = _size(a), _size(b)
    if a == b:
        return True
    for low, high in ((a, b), (b, a)):
        gap = least(high - low)
        if gap is not None and gap > 0:
            return False
    raise UnknownError


def _compare(a: Any, b: Any) -> bool:
    found = at_least(_size(a), _size(b))
    if found is None:
        raise UnknownError
    return found


def floor(value: Any) -> Size:
    """The largest whole size that is not above `value`."""
    numerator, denominator = _ratio(value)
    return numerator // denominator


def ceil(value: Any) -> Size:
    """The smallest whole size that is not below `value`."""
    numerator, denominator = _ratio(value)
    return (numerator + (denominator - 1)) // denominator


def _truncated_div(a: Array, b: Array) -> Array:
    if a.dtype.kind == "f":
        return np.asarray(a / b)
    if not np.all(b):
        raise ModelError("division by zero", hint="check the sizes that the model computes")
    quotient = np.floor_divide(a, b)
    return np.asarray(quotient + ((quotient < 0) & (quotient * b != a)), a.dtype)


Scalars = Callable[..., Any]
ELEMENTWISE: dict[str, tuple[Scalars, Scalars | None]] = {
    "Add": (np.add, _add),
    "Sub": (np.subtract, _sub),
    "Mul": (np.multiply, _mul),
    "Div": (_truncated_div, None),
    "Mod": (np.mod, _mod),
    "Neg": (np.negative, lambda a: _mul(a, -1)),
    "Floor": (np.floor, floor),
    "Ceil": (np.ceil, ceil),
    "Max": (np.maximum, lambda a, b: a if _compare(a, b) else b),
    "Min": (np.minimum, lambda a, b: b if _compare(a, b) else a),
    "Equal": (np.equal, _equal),
    "GreaterOrEqual": (np.greater_equal, _compare),
    "LessOrEqual": (np.less_equal, lambda a, b: _compare(b, a)),
    "Less": (np.less, lambda a, b: not _compare(a, b)),
    "Greater": (np.greater, lambda a, b: not _compare(b, a)),
    "And": (np.logical_and, None),
    "Or": (np.logical_or, None),
    "Not": (np.logical_not, None),
    "Where": (np.where, lambda c, a, b: a if c else b),
    "Sqrt": (np.sqrt, None),
    "Pow": (np.power, None),
}
"""ONNX operator to its meaning on native arrays, and on single elements that may be symbolic (None: never)."""
_BOOLEAN = {"Equal", "GreaterOrEqual", "LessOrEqual", "Less", "Greater", "And", "Or", "Not"}


def elementwise(op: str, operands: list[Known]) -> Known:
    """The operator on broadcast operands. Raises UnknownError."""
    native, scalar = ELEMENTWISE[op]
    result = DType.BOOL if op in _BOOLEAN else operands[-1].dtype if op == "Where" else operands[0].dtype
    if op == "Div" and any(o.symbolic for o in operands):
        scalar = _true_div if operands[0].dtype.is_float else _whole_div
    if not any(o.symbolic for o in operands):
        with np.errstate(all="ignore"):
            return Known(result, np.asarray(native(*(o.array for o in operands))).astype(result.numpy, copy=False))
    if scalar is None:
        raise UnknownError
    try:
        return Known.make(result, np.frompyfunc(scalar, len(operands), 1)(*(o.objects for o in operands)))
    except ValueError as error:
        raise ModelError(f"shapes of operands do not broadcast: {error}", hint="check the model") from None


def cast(value: Known, dtype: DType) -> Known:
    """The elements in another type. Floats become integers by truncation; sizes are not negative, so floor serves."""
    if not value.symbolic:
        with np.errstate(all="ignore"):
            return Known(dtype, value.array.astype(dtype.numpy))
    if dtype is DType.BOOL:
        return elementwise("Not", [elementwise("Equal", [value, Known.make(value.dtype, 0)])])
    convert = (lambda a: a) if dtype.is_float or not value.dtype.is_float else floor
    return Known.make(dtype, np.frompyfunc(convert, 1, 1)(value.array))
