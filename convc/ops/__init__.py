"""The operator table: everything about one operator in one place, a family a file."""

from __future__ import annotations

from convc.ops import binary, blocks, conv, linear, norm, pool, reduce, resize, shape, source, unary
from convc.ops.base import REQUIRED, Arrays, Attr, Attrs, Operator, Types
from convc.ops.unary import activation_attrs, activation_of, apply_activation, check_activation

_FAMILIES = (source, conv, linear, norm, pool, reduce, unary, binary, shape, blocks, resize)

OPS: dict[str, Operator] = {operator.name: operator for family in _FAMILIES for operator in family.OPERATORS}
"""Every operator, by name."""

__all__ = [
    "OPS", "REQUIRED", "Arrays", "Attr", "Attrs", "Operator", "Types", "activation_attrs", "activation_of",
    "apply_activation", "check_activation",
]  # fmt: skip
