"""What an operator is: slots, attributes, shape rule, NumPy meaning, cost. One frozen value each, in one table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from convc.dims import Size
from convc.errors import ModelError
from convc.types import Activation, Array, DType, Shape, Tensor, TensorType, product

Attrs = Mapping[str, Any]
Types = Sequence[TensorType | None]
Arrays = Sequence[Array | None]


class _Required:
    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED: Final = _Required()


@dataclass(frozen=True, slots=True)
class Attr:
    """An attribute: its kind (a key of KINDS), default, and meaning. `choices` restricts a str."""

    name: str
    kind: str
    default: Any = REQUIRED
    doc: str = ""
    choices: tuple[str, ...] = ()


def _is_size(value: object) -> bool:
    from convc.dims import Dim

    return isinstance(value, (int, Dim)) and not isinstance(value, bool)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


KINDS: dict[str, Callable[[object], bool]] = {
    "int": _is_int,
    "ints": lambda v: isinstance(v, tuple) and all(map(_is_int, v)),
    "size": _is_size,
    "sizes": lambda v: isinstance(v, tuple) and all(map(_is_size, v)),
    "float": lambda v: isinstance(v, float),
    "floats": lambda v: isinstance(v, tuple) and all(isinstance(x, float) for x in v),
    "str": lambda v: isinstance(v, str),
    "bool": lambda v: isinstance(v, bool),
    "dtype": lambda v: isinstance(v, DType),
    "activation": lambda v: v is None or isinstance(v, Activation),
    "tensor": lambda v: isinstance(v, Tensor),
}


def no_macs(types: Types, out: TensorType, attrs: Attrs) -> Size:
    """Operators that do no multiply-adds of weights."""
    return 0


def output_elements(types: Types, out: TensorType, attrs: Attrs) -> Size:
    """One arithmetic operation an output element."""
    return out.elements


@dataclass(frozen=True)
class Operator:
    """One operator of the IR.

    `slots` names the inputs in order; a trailing ? marks an optional one, a trailing * the last, repeated one.
    `infer` maps input types and attributes to the output type and raises ModelError (without the node's name, which
    the caller adds). `evaluate` is the meaning in NumPy, in the dtype of its inputs. `macs` counts multiply-adds with
    weights, as published tables do. `traits` are facts that passes and backends may rely on:
    `elementwise` (each output element depends on one element of each input, after broadcasting), `view` (the output
    has the input's elements in the same order), `moves` (copies elements without arithmetic).
    """

    name: str
    slots: tuple[str, ...]
    infer: Callable[[Types, Attrs], TensorType]
    evaluate: Callable[[Arrays, Attrs], Array]
    attrs: tuple[Attr, ...] = ()
    doc: str = ""
    macs: Callable[[Types, TensorType, Attrs], Size] = no_macs
    traits: frozenset[str] = frozenset()
    weights: frozenset[str] = frozenset()
    """Slots whose constants count as learnable parameters."""
    by_name: Mapping[str, Attr] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {a.name: a for a in self.attrs})

    @property
    def variadic(self) -> bool:
        return bool(self.slots) and self.slots[-1].endswith("*")

    def slot(self, index: int) -> str:
        """Name of the slot that input `index` fills."""
        return self.slots[min(index, len(self.slots) - 1)].rstrip("?*")

    def slot_index(self, name: str) -> int:
        """Position of a slot by its bare name."""
        return [s.rstrip("?*") for s in self.slots].index(name)

    def complete(self, given: Attrs) -> dict[str, Any]:
        """Attributes with defaults filled in, checked by kind. Raises ModelError."""
        unknown = sorted(set(given) - set(self.by_name))
        if unknown:
            raise ModelError(
                f"{self.name} has no attribute {', '.join(unknown)}",
                hint=f"it has: {', '.join(self.by_name) or 'none'}",
            )
        result: dict[str, Any] = {}
        for attr in self.attrs:
            value = given.get(attr.name, attr.default)
            if value is REQUIRED:
                raise ModelError(f"{self.name} needs attribute {attr.name}", hint=attr.doc or f"kind {attr.kind}")
            if isinstance(value, list):
                value = tuple(value)
            if attr.kind == "float" and _is_int(value):
                value = float(value)
            if attr.kind == "float" and value != value:
                value = math.nan  # always this object, so that equal attributes compare equal
            if not KINDS[attr.kind](value):
                raise ModelError(f"{self.name}: {attr.name}={value!r} is not of kind {attr.kind}", hint=attr.doc)
            if attr.choices and value not in attr.choices:
                raise ModelError(f"{self.name}: {attr.name}={value!r}", hint=f"use one of {', '.join(attr.choices)}")
            result[attr.name] = value
        return result

    def check_arity(self, count: int) -> None:
        """Raise ModelError where `count` inputs cannot fill the slots."""
        needed = sum(not s.endswith(("?", "*")) for s in self.slots)
        if count < needed or (count > len(self.slots) and not self.variadic):
            raise ModelError(
                f"{self.name} got {count} inputs, "
                f"expects {needed} to {'any number' if self.variadic else len(self.slots)}",
                hint=f"its inputs are {', '.join(self.slots) or 'none'}",
            )


def given(types: Types, index: int) -> TensorType:
    """The type in a required slot. Raises ModelError where it was left out."""
    found = types[index] if index < len(types) else None
    if found is None:
        raise ModelError(f"input {index} is missing", hint="this slot is not optional")
    return found


def optional(items: Sequence[Any], index: int) -> Any:
    """The entry in an optional slot, or None."""
    return items[index] if index < len(items) else None


def expect_rank(type: TensorType, rank: int, what: str) -> None:
    """Raise ModelError unless `type` has the given rank."""
    if type.rank != rank:
        raise ModelError(f"{what} is {type}, expected rank {rank}", hint="reshape it, or check the exporter")


def expect_shape(type: TensorType | None, shape: Shape, what: str) -> None:
    """Raise ModelError unless `type` is None or has exactly `shape`."""
    if type is not None and type.shape != shape:
        raise ModelError(f"{what} is {type}, expected shape [{', '.join(map(str, shape))}]", hint="check the weights")


def normal_axis(axis: int, rank: int) -> int:
    """`axis` counted from 0. Raises ModelError where it is out of range."""
    if not -rank <= axis < rank:
        raise ModelError(f"axis={axis} is out of range for rank {rank}", hint=f"use {-rank} to {rank - 1}")
    return axis % rank


def static_size(size: Size, what: str) -> int:
    """`size` as an int. Raises ModelError where it is symbolic."""
    if not isinstance(size, int):
        raise ModelError(f"{what} is symbolic ({size})", hint="fix it with input_shapes=")
    return size


__all__ = [
    "REQUIRED", "Activation", "Arrays", "Attr", "Attrs", "Operator", "Types", "expect_rank", "expect_shape", "given",
    "no_macs", "normal_axis", "optional", "output_elements", "product", "static_size",
]  # fmt: skip
