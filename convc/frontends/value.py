"""The handle of a node while a network is being built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from convc.ir.graph import Node
from convc.types import Array, Shape, TensorType

if TYPE_CHECKING:
    from convc.frontends.builder import Builder


class Value:
    """What a node computes, while the network is being built. Adds, subtracts, multiplies and divides as NumPy does."""

    __slots__ = ("builder", "node")
    __array_ufunc__ = None

    def __init__(self, builder: Builder, node: Node) -> None:
        self.builder = builder
        self.node = node

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def type(self) -> TensorType:
        return self.node.type

    @property
    def shape(self) -> Shape:
        return self.node.type.shape

    def __add__(self, other: Operand) -> Value:
        return self.builder.op("add", [self, other])

    def __radd__(self, other: Operand) -> Value:
        return self.builder.op("add", [other, self])

    def __sub__(self, other: Operand) -> Value:
        return self.builder.op("sub", [self, other])

    def __rsub__(self, other: Operand) -> Value:
        return self.builder.op("sub", [other, self])

    def __mul__(self, other: Operand) -> Value:
        return self.builder.op("mul", [self, other])

    def __rmul__(self, other: Operand) -> Value:
        return self.builder.op("mul", [other, self])

    def __truediv__(self, other: Operand) -> Value:
        return self.builder.op("div", [self, other])

    def __rtruediv__(self, other: Operand) -> Value:
        return self.builder.op("div", [other, self])

    def __neg__(self) -> Value:
        return self.builder.op("neg", [self])

    def __repr__(self) -> str:
        return f"%{self.name}: {self.type}"


Operand = Value | Array | float | Sequence[Any] | None
"""What an operator's input may be given as; all but values and None become constants."""
